/*
 * count and merge: many sorted lists become one.
 *
 * Both walk all lists at once, always at the smallest term, so that memory is the input and the result only.
 */
#include "guest.h"

#include <stdio.h>

/* Moves to the list's next entry that belongs to the shard; false at the end of the list. */
static bool advance(struct lines *lines, uint32_t shard, uint32_t shards)
{
    while (next_entry(lines)) {
        if (shards == 1 || hash(lines->term) % shards == shard)
            return true;
    }
    return false;
}

/* Merges the lists of all dependencies. An entry adds its number, or 1 if `each_is_one`. */
static void fold_lists(const char *verb, uint32_t shard, uint32_t shards, bool each_is_one)
{
    static struct pieces pieces;
    static struct lines lists[PIECES_MAX];
    read_pieces(&pieces);
    if (pieces.piece[0].length != 0)
        fail(EXIT_INPUT, "%s takes no payload", verb);
    if (pieces.count < 2)
        fail(EXIT_INPUT, "%s needs at least one dependency", verb);

    size_t live = 0; /* lists[0..live] are those that stand at an entry */
    for (size_t index = 1; index < pieces.count; index++) {
        lists[live] = lines_of(&pieces, index);
        if (advance(&lists[live], shard, shards))
            live++;
    }
    size_t terms = 0;
    while (live > 0) {
        struct slice least = lists[0].term;
        for (size_t index = 1; index < live; index++) {
            if (compare(lists[index].term, least) < 0)
                least = lists[index].term;
        }
        uint64_t sum = 0; /* at most 256 numbers of 32 bits */
        for (size_t index = 0; index < live;) {
            if (compare(lists[index].term, least) != 0) {
                index++;
                continue;
            }
            sum += each_is_one ? 1 : lists[index].number;
            if (advance(&lists[index], shard, shards))
                index++;
            else
                lists[index] = lists[--live]; /* order does not matter: the sum is the same */
        }
        if (sum > UINT32_MAX)
            fail(EXIT_LIMIT, "the count of \"%.*s\" is over %u", (int)least.length, least.at, (unsigned)UINT32_MAX);
        put(least.at, least.length);
        put(" ", 1);
        put_number((uint32_t)sum);
        put("\n", 1);
        terms++;
    }
    fprintf(stderr, "%s: %zu lists, %zu terms\n", verb, pieces.count - 1, terms);
}

void verb_count(uint32_t shard, uint32_t shards)
{
    fold_lists("count", shard, shards, true);
}

void verb_merge(void)
{
    fold_lists("merge", 0, 1, false);
}
