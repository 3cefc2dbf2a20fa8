/* map: the terms of one document and how often each occurs. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct slice term; /* term.at is NULL in an empty place of the table */
    uint32_t count;
};

/* A hash table with linear probing. Its capacity is a power of two and it is never more than half full. */
struct table {
    struct entry *entries;
    size_t capacity, used;
};

/* The place of `term`: its entry, or the empty place where it belongs. */
static struct entry *find(struct table *table, struct slice term)
{
    size_t mask = table->capacity - 1;
    size_t place = hash(term) & mask;
    while (table->entries[place].term.at != NULL && compare(table->entries[place].term, term) != 0)
        place = (place + 1) & mask;
    return &table->entries[place];
}

static void grow(struct table *table)
{
    struct table larger = {.capacity = table->capacity == 0 ? 1024 : table->capacity * 2, .used = table->used};
    larger.entries = allocate(larger.capacity, sizeof *larger.entries);
    for (size_t index = 0; index < table->capacity; index++) {
        if (table->entries[index].term.at != NULL)
            *find(&larger, table->entries[index].term) = table->entries[index];
    }
    free(table->entries);
    *table = larger;
}

static int by_term(const void *left, const void *right)
{
    return compare(((const struct entry *)left)->term, ((const struct entry *)right)->term);
}

void verb_map(void)
{
    struct slice text = read_payload();
    size_t text_length = text.length;
    /* Distinct terms are copied here. They come from disjoint parts of the text, so that it holds them all. */
    char *kept = allocate(text.length, 1);
    size_t kept_length = 0;
    struct table table = {0};
    uint32_t tokens = 0;

    char bytes[TERM_BYTES_MAX];
    struct slice term;
    while (next_term(&text, bytes, &term)) {
        if (table.used * 2 >= table.capacity)
            grow(&table);
        struct entry *entry = find(&table, term);
        if (entry->term.at == NULL) {
            memcpy(kept + kept_length, term.at, term.length);
            entry->term = (struct slice){kept + kept_length, term.length};
            kept_length += term.length;
            table.used++;
        }
        entry->count++;
        tokens++;
    }

    size_t used = 0;
    for (size_t index = 0; index < table.capacity; index++) {
        if (table.entries[index].term.at != NULL)
            table.entries[used++] = table.entries[index];
    }
    if (used > 0)
        qsort(table.entries, used, sizeof *table.entries, by_term);
    for (size_t index = 0; index < used; index++) {
        put(table.entries[index].term.at, table.entries[index].term.length);
        put(" ", 1);
        put_number(table.entries[index].count);
        put("\n", 1);
    }
    fprintf(stderr, "map: %zu bytes, %u terms, %zu different\n", text_length, (unsigned)tokens, used);
}
