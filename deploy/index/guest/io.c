/* Bytes in and out: stdin as payload or pieces, a bounded result, and how a run ends. */
#include "guest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fail(enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit((int)code);
}

void *allocate(size_t count, size_t size)
{
    /* calloc checks the product; a request for nothing still gives a pointer that may be compared. */
    void *memory = calloc(count == 0 ? 1 : count, size);
    if (memory == NULL)
        fail(EXIT_SYSTEM, "no memory for %zu items of %zu bytes", count, size);
    return memory;
}

/* Reads up to `length` bytes and says how many; fewer only at the end of stdin. */
static size_t read_up_to(char *to, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t got = read(STDIN_FILENO, to + done, length - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail(EXIT_SYSTEM, "cannot read stdin: %s", strerror(errno));
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return done;
}

struct slice read_payload(void)
{
    /* One byte more than allowed, to tell "exactly the limit" from "over it". */
    char *bytes = allocate(PAYLOAD_BYTES_MAX + 1, 1);
    size_t length = read_up_to(bytes, PAYLOAD_BYTES_MAX + 1);
    if (length > PAYLOAD_BYTES_MAX)
        fail(EXIT_LIMIT, "the payload is longer than %zu bytes", PAYLOAD_BYTES_MAX);
    return (struct slice){bytes, length};
}

/* Reads "<length>\n"; false if stdin ends before its first byte. */
static bool read_length(size_t piece, uint32_t *length)
{
    char digits[16];
    size_t count = 0;
    for (;;) {
        char byte;
        if (read_up_to(&byte, 1) == 0) {
            if (count == 0)
                return false;
            fail(EXIT_INPUT, "stdin ends within the length of piece %zu", piece);
        }
        if (byte == '\n')
            break;
        if (count == sizeof digits)
            fail(EXIT_INPUT, "the length of piece %zu is not a number", piece);
        digits[count++] = byte;
    }
    if (!parse_number((struct slice){digits, count}, UINT32_MAX, length))
        fail(EXIT_INPUT, "the length of piece %zu is not a number", piece);
    if (*length > RESULT_BYTES_MAX) /* which is also the most a payload may have */
        fail(EXIT_LIMIT, "piece %zu is longer than %zu bytes", piece, RESULT_BYTES_MAX);
    return true;
}

void read_pieces(struct pieces *pieces)
{
    uint32_t length;
    pieces->count = 0;
    while (read_length(pieces->count, &length)) {
        if (pieces->count == PIECES_MAX)
            fail(EXIT_LIMIT, "more than %d pieces", PIECES_MAX);
        char *bytes = allocate(length, 1);
        size_t got = read_up_to(bytes, length);
        if (got != length)
            fail(EXIT_INPUT, "piece %zu has %zu bytes instead of %u", pieces->count, got, (unsigned)length);
        pieces->piece[pieces->count++] = (struct slice){bytes, length};
    }
    if (pieces->count == 0)
        fail(EXIT_INPUT, "stdin is empty: not even a payload");
}

static char *result;
static size_t result_length, result_capacity;

void put(const char *at, size_t length)
{
    if (length > RESULT_BYTES_MAX - result_length)
        fail(EXIT_LIMIT, "the result is longer than %zu bytes", RESULT_BYTES_MAX);
    if (length > result_capacity - result_length) {
        /* Doubling, from 4 KiB; no overflow, as everything is at most 1 MiB here. */
        size_t capacity = result_capacity == 0 ? 4096 : result_capacity;
        while (capacity < result_length + length)
            capacity *= 2;
        char *grown = realloc(result, capacity);
        if (grown == NULL)
            fail(EXIT_SYSTEM, "no memory for a result of %zu bytes", capacity);
        result = grown;
        result_capacity = capacity;
    }
    if (length > 0)
        memcpy(result + result_length, at, length);
    result_length += length;
}

void put_number(uint32_t number)
{
    char digits[10];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    put(digits + first, sizeof digits - first);
}

void flush_output(void)
{
    size_t done = 0;
    while (done < result_length) {
        ssize_t wrote = write(STDOUT_FILENO, result + done, result_length - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            fail(EXIT_SYSTEM, "cannot write the result: %s", strerror(errno));
        done += (size_t)wrote;
    }
}
