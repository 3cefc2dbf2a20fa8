/*
 * What the verbs of the index guest share. See main.c for the whole picture.
 *
 * Everything is single-threaded and lives for one run: memory is never freed, because the sandbox is dropped
 * with the task. The largest input (16 MiB) takes about 40 MiB: itself, the arrays to search it, and the result.
 */
#ifndef TARN_INDEX_GUEST_H
#define TARN_INDEX_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Limits. The first three are tarn's own and only restated here, so that the message is ours. ---------------- */

/* A task's payload: the longest document, and the longest list of queries. */
#define PAYLOAD_BYTES_MAX ((size_t)1 << 20)
/* A task's result. A guest that would exceed it prints nothing and fails. */
#define RESULT_BYTES_MAX ((size_t)1 << 20)
/* The payload and 256 dependencies. */
#define PIECES_MAX 257
/* A term is 2 to 40 bytes: one letter tells nothing about a text, and what is longer is rarely a word. */
#define TERM_BYTES_MIN 2
#define TERM_BYTES_MAX 40
/* Documents are numbered from 0, so their number fits four digits, which the planner's size proofs rely on. */
#define DOCUMENTS_MAX 4096
#define SHARDS_MAX 8
#define TOP_TERMS_MAX 64
#define QUERIES_MAX 16
#define QUERY_TERMS_MAX 16
#define ANSWERS_MAX 100

/* ---- Ending (io.c) ------------------------------------------------------------------------------------------------ */

enum exit_code {
    EXIT_USAGE = 2,  /* unknown verb, or an argument that is not what the verb takes */
    EXIT_INPUT = 3,  /* stdin is not what the verb reads */
    EXIT_LIMIT = 4,  /* well formed, but over one of the limits above */
    EXIT_SYSTEM = 5, /* no memory, or stdin or stdout failed */
};

/* Says why on stderr and ends the run. Nothing has been written to stdout by then: see put(). */
_Noreturn void fail(enum exit_code code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- Bytes in and out (io.c) -------------------------------------------------------------------------------------- */

struct slice {
    const char *at;
    size_t length;
};

/* Stdin as the pieces of a task with dependencies: the payload first, then one result for each dependency. */
struct pieces {
    struct slice piece[PIECES_MAX];
    size_t count;
};

/* Zeroed memory for `count` items, or the end of the run. */
void *allocate(size_t count, size_t size);

/* All of stdin, for a task without dependencies: its payload as it is. */
struct slice read_payload(void);

/* All of stdin, for a task with dependencies: pieces of the form "<length in decimal>\n<bytes>". At least one. */
void read_pieces(struct pieces *pieces);

/* Output is collected and written by flush_output() at the end, so that a run that fails has no result at all. */
void put(const char *at, size_t length);
void put_number(uint32_t number);
void flush_output(void);

/* ---- Terms, lines and numbers (text.c) ---------------------------------------------------------------------------- */

/*
 * Takes the next term from the front of `text` and puts it, in lower case, into `term`; false when there is none.
 *
 * A word is a longest possible run of ASCII letters and digits; every other byte, those from 0x80 up included,
 * separates words. A word is a term if it begins with a letter and is TERM_BYTES_MIN to TERM_BYTES_MAX bytes long,
 * with A-Z folded to a-z; any other word is dropped whole.
 */
bool next_term(struct slice *text, char bytes[TERM_BYTES_MAX], struct slice *term);

/* Negative, zero or positive: by bytes, and a prefix before what it is a prefix of. */
int compare(struct slice left, struct slice right);

/* FNV-1a, 32 bits. A term belongs to the shard `hash(term) % shards`. */
uint32_t hash(struct slice term);

/* A decimal number without sign or leading zeros, of at most `max`. */
bool parse_number(struct slice text, uint32_t max, uint32_t *number);

/* The number in argv[index], which must be min to max; `name` is for the message. */
uint32_t argument(char **argv, int index, const char *name, uint32_t min, uint32_t max);

/* Reads one piece line by line; `piece` and `line` (from 1) are for messages. */
struct lines {
    const char *at, *end;
    size_t piece;
    uint32_t line;
    struct slice term;   /* the line that was read last: its term ... */
    uint32_t number;     /* ... and its number */
    struct slice before; /* the term of the line before */
};

struct lines lines_of(const struct pieces *pieces, size_t index);

/* The next line without its newline; false at the end of the piece. A last line without newline is malformed. */
bool next_line(struct lines *lines, struct slice *line);

/* Splits "term number" into lines->term and lines->number; anything else ends the run. */
void split_line(struct lines *lines, struct slice line);

/* The next line as "term number", number at least 1, terms strictly ascending; false at the end of the piece. */
bool next_entry(struct lines *lines);

_Noreturn void malformed(const struct lines *lines, const char *why);

/* ---- Verbs: one file each ----------------------------------------------------------------------------------------- */

void verb_map(void);
void verb_count(uint32_t shard, uint32_t shards);
void verb_merge(void);
void verb_score(uint32_t documents, uint32_t first, uint32_t group, uint32_t top);
void verb_query(uint32_t top);

#endif
