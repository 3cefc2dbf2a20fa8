/* query: the documents that answer each query best. */
#include "guest.h"

#include <stdio.h>
#include <string.h>

struct answer {
    uint32_t document;
    uint32_t score;
};

struct query {
    char bytes[QUERY_TERMS_MAX][TERM_BYTES_MAX];
    struct slice terms[QUERY_TERMS_MAX]; /* different ones, in the order of the query */
    size_t term_count;
    uint32_t score;                     /* of the document that is being read: the sum of its terms' weights */
    struct answer answers[ANSWERS_MAX]; /* best first; among equals, the lower document number */
    size_t answer_count;
};

static struct query queries[QUERIES_MAX];
static size_t query_count;

static bool has_term(const struct query *query, struct slice term)
{
    for (size_t index = 0; index < query->term_count; index++) {
        if (compare(query->terms[index], term) == 0)
            return true;
    }
    return false;
}

static void add_query(struct slice text)
{
    if (query_count == QUERIES_MAX)
        fail(EXIT_LIMIT, "more than %d queries", QUERIES_MAX);
    struct query *query = &queries[query_count++];
    char bytes[TERM_BYTES_MAX];
    struct slice term;
    while (next_term(&text, bytes, &term)) {
        if (has_term(query, term))
            continue;
        if (query->term_count == QUERY_TERMS_MAX)
            fail(EXIT_LIMIT, "query %zu has more than %d different terms", query_count, QUERY_TERMS_MAX);
        char *kept = query->bytes[query->term_count];
        memcpy(kept, term.at, term.length);
        query->terms[query->term_count++] = (struct slice){kept, term.length};
    }
    if (query->term_count == 0)
        fail(EXIT_INPUT, "query %zu has no term", query_count);
}

static void read_queries(const struct pieces *pieces)
{
    struct lines lines = lines_of(pieces, 0);
    struct slice line;
    while (next_line(&lines, &line))
        add_query(line);
    if (query_count == 0)
        fail(EXIT_INPUT, "the payload has no query");
}

static void insert(struct query *query, size_t top, struct answer answer)
{
    struct answer *list = query->answers;
    size_t length = query->answer_count;
    if (length == top && list[length - 1].score >= answer.score)
        return;
    size_t place = length < top ? length : top - 1; /* a full list loses its last */
    for (; place > 0 && list[place - 1].score < answer.score; place--)
        list[place] = list[place - 1];
    list[place] = answer;
    if (length < top)
        query->answer_count++;
}

/* The document is complete: whoever found a term in it has an answer more. */
static void end_document(uint32_t document, size_t top)
{
    for (size_t index = 0; index < query_count; index++) {
        if (queries[index].score > 0)
            insert(&queries[index], top, (struct answer){document, queries[index].score});
        queries[index].score = 0;
    }
}

static void add_weight(const struct lines *lines)
{
    for (size_t index = 0; index < query_count; index++) {
        if (!has_term(&queries[index], lines->term))
            continue;
        if (lines->number > UINT32_MAX - queries[index].score)
            malformed(lines, "the score of the document is over 32 bits");
        queries[index].score += lines->number;
    }
}

void verb_query(uint32_t top)
{
    static struct pieces pieces;
    read_pieces(&pieces);
    if (pieces.count < 2)
        fail(EXIT_INPUT, "query needs at least one dependency");
    read_queries(&pieces);

    uint32_t seen = 0; /* documents so far, which is also the next document's number */
    for (size_t index = 1; index < pieces.count; index++) {
        struct lines lines = lines_of(&pieces, index);
        struct slice line;
        bool within = false;
        while (next_line(&lines, &line)) {
            if (line.length > 0 && line.at[0] == '#') {
                uint32_t number;
                if (line.length < 3 || line.at[1] != ' ' ||
                    !parse_number((struct slice){line.at + 2, line.length - 2}, DOCUMENTS_MAX - 1, &number))
                    malformed(&lines, "not a document number");
                if (number != seen)
                    malformed(&lines, "documents are not in order");
                if (within)
                    end_document(seen - 1, top);
                within = true;
                seen++;
            } else {
                if (!within)
                    malformed(&lines, "a term before any document");
                split_line(&lines, line);
                add_weight(&lines);
            }
        }
        if (within)
            end_document(seen - 1, top);
    }

    for (size_t index = 0; index < query_count; index++) {
        struct query *query = &queries[index];
        put("?", 1);
        for (size_t term = 0; term < query->term_count; term++) {
            put(" ", 1);
            put(query->terms[term].at, query->terms[term].length);
        }
        put("\n", 1);
        for (size_t place = 0; place < query->answer_count; place++) {
            put_number(query->answers[place].document);
            put(" ", 1);
            put_number(query->answers[place].score);
            put("\n", 1);
        }
    }
    fprintf(stderr, "query: %zu queries, %u documents\n", query_count, (unsigned)seen);
}
