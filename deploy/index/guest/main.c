/*
 * The guest of tarn's demonstration: a TF-IDF index of a folder of documents, built by tasks that depend on each
 * other. One WASI command module, whose first argument is what to do:
 *
 *   verb                               stdin                                  stdout
 *   map                                a document's text                      "term count" lines, by term
 *   count SHARD SHARDS                 (empty), map results                   "term documents" lines of one shard
 *   merge                              (empty), count or merge results        the same, summed
 *   score DOCUMENTS FIRST GROUP TOP    (empty), GROUP map results, shards     for each document: "# number", then
 *                                                                             its TOP terms as "term weight" lines
 *   query TOP                          queries, one a line; score results     for each query: "? term term ...", then
 *                                                                             its TOP documents as "number score"
 *
 * map runs once for each document. Documents are numbered in order and taken in groups; count runs for each group and
 * shard (terms are spread over shards by hash, so that no result grows over tarn's limit), merge sums the groups of a
 * shard in a tree, score weighs the terms of a group's documents, and query ranks all documents.
 *
 * Every number is an integer and every order is total, so that the bytes of each result follow from the documents
 * alone: the reference (deploy/index/src/reference.rs) must come to the same bytes another way.
 *
 * A run either writes its whole result and exits 0, or writes nothing to stdout, one sentence to stderr, and exits
 * with a code of enum exit_code.
 */
#include "guest.h"

#include <string.h>

static void expect_arguments(int argc, int count, const char *usage)
{
    if (argc != 2 + count)
        fail(EXIT_USAGE, "usage: %s", usage);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        fail(EXIT_USAGE, "usage: map | count | merge | score | query, and its arguments");
    const char *verb = argv[1];
    if (strcmp(verb, "map") == 0) {
        expect_arguments(argc, 0, "map");
        verb_map();
    } else if (strcmp(verb, "count") == 0) {
        expect_arguments(argc, 2, "count SHARD SHARDS");
        uint32_t shards = argument(argv, 3, "SHARDS", 1, SHARDS_MAX);
        verb_count(argument(argv, 2, "SHARD", 0, shards - 1), shards);
    } else if (strcmp(verb, "merge") == 0) {
        expect_arguments(argc, 0, "merge");
        verb_merge();
    } else if (strcmp(verb, "score") == 0) {
        expect_arguments(argc, 4, "score DOCUMENTS FIRST GROUP TOP");
        uint32_t documents = argument(argv, 2, "DOCUMENTS", 1, DOCUMENTS_MAX);
        uint32_t first = argument(argv, 3, "FIRST", 0, documents - 1);
        uint32_t group = argument(argv, 4, "GROUP", 1, documents - first);
        verb_score(documents, first, group, argument(argv, 5, "TOP", 1, TOP_TERMS_MAX));
    } else if (strcmp(verb, "query") == 0) {
        expect_arguments(argc, 1, "query TOP");
        verb_query(argument(argv, 2, "TOP", 1, ANSWERS_MAX));
    } else {
        fail(EXIT_USAGE, "unknown verb \"%.40s\": map, count, merge, score or query", verb);
    }
    flush_output();
    return 0;
}
