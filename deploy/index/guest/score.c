/* score: the terms of each document of a group, by weight. */
#include "guest.h"

#include <stdio.h>

/* 1 in fixed point: 16 bits after the point. */
#define ONE ((uint32_t)1 << 16)

/*
 * The logarithm to base 2 of x >= 1, in fixed point, defined by this algorithm (deploy/index/src/weight.rs is the
 * definition in words). The mantissa m is x scaled to [1, 2) with 31 bits after the point; squaring it doubles its
 * logarithm, and each time that it reaches 2 the next bit of the logarithm is 1. What the square has beyond 31 bits
 * is cut off.
 */
static uint32_t log2_fixed(uint32_t x)
{
    uint32_t whole = 31 - (uint32_t)__builtin_clz(x);
    uint64_t m = (uint64_t)x << (31 - whole);
    uint32_t fraction = 0;
    for (int bit = 0; bit < 16; bit++) {
        m = (m * m) >> 31;
        fraction <<= 1;
        if (m >= (uint64_t)1 << 32) {
            m >>= 1;
            fraction |= 1;
        }
    }
    return whole * ONE + fraction;
}

/* (1 + log2 count) * log2(documents / frequency), in fixed point and rounded down. */
static uint32_t weigh(uint32_t count, uint32_t frequency, uint32_t documents)
{
    uint64_t within = (uint64_t)ONE + log2_fixed(count);
    uint64_t across = log2_fixed(documents) - log2_fixed(frequency);
    return (uint32_t)((within * across) >> 16); /* at most 33 * 12 in fixed point, which 32 bits hold */
}

/* The document frequencies of one shard, as an array to search in. */
struct shard {
    struct slice *terms;
    uint32_t *frequencies;
    size_t count;
};

static struct shard read_shard(const struct pieces *pieces, size_t index, uint32_t shard, uint32_t shards,
                               uint32_t documents)
{
    struct shard read = {0};
    size_t most = 0; /* as many entries as there are newlines */
    for (size_t at = 0; at < pieces->piece[index].length; at++)
        most += pieces->piece[index].at[at] == '\n';
    read.terms = allocate(most, sizeof *read.terms);
    read.frequencies = allocate(most, sizeof *read.frequencies);
    struct lines lines = lines_of(pieces, index);
    while (next_entry(&lines)) {
        if (hash(lines.term) % shards != shard)
            malformed(&lines, "the term belongs to another shard");
        if (lines.number > documents)
            malformed(&lines, "more documents than there are");
        read.terms[read.count] = lines.term;
        read.frequencies[read.count++] = lines.number;
    }
    return read;
}

/* The term's document frequency, or 0 if the shard does not have it. */
static uint32_t frequency(const struct shard *shard, struct slice term)
{
    size_t low = 0, high = shard->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(shard->terms[middle], term);
        if (order == 0)
            return shard->frequencies[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

struct weighted {
    struct slice term;
    uint32_t weight;
};

/* Inserts into a list of at most `top`, heaviest first; among equals, the term that was inserted first. */
static size_t insert(struct weighted *list, size_t length, size_t top, struct weighted item)
{
    if (length == top && list[length - 1].weight >= item.weight)
        return length;
    size_t place = length < top ? length : top - 1; /* a full list loses its last */
    for (; place > 0 && list[place - 1].weight < item.weight; place--)
        list[place] = list[place - 1];
    list[place] = item;
    return length < top ? length + 1 : top;
}

void verb_score(uint32_t documents, uint32_t first, uint32_t group, uint32_t top)
{
    static struct pieces pieces;
    read_pieces(&pieces);
    if (pieces.piece[0].length != 0)
        fail(EXIT_INPUT, "score takes no payload");
    if (pieces.count < 1 + (size_t)group + 1 || pieces.count > 1 + (size_t)group + SHARDS_MAX)
        fail(EXIT_INPUT, "score needs %u documents and 1 to %d shards, but has %zu dependencies", (unsigned)group,
             SHARDS_MAX, pieces.count - 1);

    uint32_t shards = (uint32_t)(pieces.count - 1 - group);
    struct shard frequencies[SHARDS_MAX];
    for (uint32_t shard = 0; shard < shards; shard++)
        frequencies[shard] = read_shard(&pieces, 1 + group + shard, shard, shards, documents);

    for (uint32_t document = 0; document < group; document++) {
        struct weighted list[TOP_TERMS_MAX];
        size_t length = 0;
        struct lines lines = lines_of(&pieces, 1 + document);
        while (next_entry(&lines)) { /* in ascending order of terms: equals come out in that order */
            uint32_t known = frequency(&frequencies[hash(lines.term) % shards], lines.term);
            if (known == 0)
                malformed(&lines, "the term is in a document but in no shard");
            struct weighted item = {lines.term, weigh(lines.number, known, documents)};
            length = insert(list, length, top, item);
        }
        put("# ", 2);
        put_number(first + document);
        put("\n", 1);
        for (size_t index = 0; index < length; index++) {
            put(list[index].term.at, list[index].term.length);
            put(" ", 1);
            put_number(list[index].weight);
            put("\n", 1);
        }
    }
    fprintf(stderr, "score: %u documents, %u shards\n", (unsigned)group, (unsigned)shards);
}
