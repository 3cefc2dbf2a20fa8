/* Does what its input says, one word and what follows it, and answers with what came of it. Built by the tests. */
#define TARN_MAIN
#include "tarn.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char answer[1 << 16];

static struct tarn_bytes rest_of(struct tarn_bytes input, const char *word) {
    size_t length = strlen(word);
    return (struct tarn_bytes){input.at + length, input.length - length};
}

static bool is(struct tarn_bytes input, const char *word) {
    return input.length >= strlen(word) && memcmp(input.at, word, strlen(word)) == 0;
}

/* Splits at the first space. */
static struct tarn_bytes cut(struct tarn_bytes *from) {
    const uint8_t *space = memchr(from->at, ' ', from->length);
    struct tarn_bytes first = {from->at, space ? (size_t)(space - from->at) : from->length};
    size_t taken = space ? first.length + 1 : first.length;
    from->at += taken;
    from->length -= taken;
    return first;
}

static void say_context(struct tarn_context it) {
    static const char *const errors[] = {"conflict", "refused", "unavailable"};
    if (it.failed)
        snprintf(answer, sizeof answer, "%s %llu %.*s", errors[it.error], (unsigned long long)it.version,
                 (int)it.why.length, (const char *)it.why.at);
    else
        snprintf(answer, sizeof answer, "version %llu %.*s", (unsigned long long)it.version, (int)it.value.length,
                 (const char *)it.value.at);
}

static void say_called(struct tarn_called it) {
    if (it.failed)
        snprintf(answer, sizeof answer, "failed %.*s %d", (int)it.reason.length, (const char *)it.reason.at,
                 it.retryable);
    else
        snprintf(answer, sizeof answer, "returned %.*s", (int)it.output.length, (const char *)it.output.at);
}

static void say_response(struct tarn_response it) {
    static const char *const errors[] = {"invalid", "forbidden-address", "unreachable", "too-large", "timed-out"};
    if (it.failed) {
        snprintf(answer, sizeof answer, "%s %.*s", errors[it.error], (int)it.why.length, (const char *)it.why.at);
        return;
    }
    int at = snprintf(answer, sizeof answer, "%u\n", it.status);
    for (size_t i = 0; i < it.header_count; i++)
        at += snprintf(answer + at, sizeof answer - (size_t)at, "%.*s: %.*s\n", (int)it.headers[i].name.length,
                       (const char *)it.headers[i].name.at, (int)it.headers[i].value.length,
                       (const char *)it.headers[i].value.at);
    snprintf(answer + at, sizeof answer - (size_t)at, "%.*s", (int)it.body.length, (const char *)it.body.at);
}

/* Writes pages until there is an error; says how many. */
static void fill(void) {
    static uint8_t page[4096];
    int file = open("/scratch/file", O_CREAT | O_WRONLY, 0600);
    int pages = 0;
    while (file >= 0 && write(file, page, sizeof page) == (ssize_t)sizeof page)
        pages++;
    snprintf(answer, sizeof answer, "%d", file < 0 ? -1 : pages);
}

enum tarn_outcome tarn_task(struct tarn_bytes input, struct tarn_bytes *output) {
    enum tarn_outcome outcome = TARN_DONE;
    if (is(input, "log ")) {
        tarn_log_import(TARN_WARN, rest_of(input, "log ").at, rest_of(input, "log ").length);
    } else if (is(input, "progress ")) {
        tarn_progress(strtod((const char *)rest_of(input, "progress ").at, NULL), "half\nway");
    } else if (is(input, "get ")) {
        say_context(tarn_context_get(rest_of(input, "get ")));
    } else if (is(input, "set ")) {
        struct tarn_bytes value = rest_of(input, "set ");
        struct tarn_bytes key = cut(&value);
        say_context(tarn_context_set(key, value, NULL));
    } else if (is(input, "create ")) {
        uint64_t none = 0;
        say_context(tarn_context_set(rest_of(input, "create "), tarn_text("new"), &none));
    } else if (is(input, "delete ")) {
        say_context(tarn_context_delete(rest_of(input, "delete "), NULL));
    } else if (is(input, "list ")) {
        const struct tarn_bytes *keys = NULL;
        size_t count = 0;
        struct tarn_context it = tarn_context_list(rest_of(input, "list "), 10, &keys, &count);
        say_context(it);
        int at = 0;
        for (size_t i = 0; i < count; i++)
            at += snprintf(answer + at, sizeof answer - (size_t)at, "%.*s,", (int)keys[i].length,
                           (const char *)keys[i].at);
    } else if (is(input, "call ")) {
        struct tarn_bytes rest = rest_of(input, "call ");
        struct tarn_bytes artifact = cut(&rest);
        struct tarn_bytes args[] = {tarn_text("called")};
        say_called(tarn_call(artifact, args, 1, rest));
    } else if (is(input, "http ")) {
        struct tarn_bytes rest = rest_of(input, "http ");
        struct tarn_bytes method = cut(&rest);
        struct tarn_header header = {tarn_text("x-guest"), tarn_text("yes")};
        say_response(tarn_http(method, rest, &header, 1, tarn_text("the body"), 500));
    } else if (is(input, "header ")) {
        struct tarn_bytes rest = rest_of(input, "header ");
        struct tarn_bytes name = cut(&rest);
        struct tarn_header header = {name, tarn_text("mine")};
        say_response(tarn_http(tarn_text("GET"), rest, &header, 1, tarn_text(""), 500));
    } else if (is(input, "clock")) {
        struct timespec now;
        snprintf(answer, sizeof answer, "%d", clock_gettime(CLOCK_REALTIME, &now) == 0 && now.tv_sec > 1000000000);
    } else if (is(input, "random")) {
        uint8_t bytes[16];
        snprintf(answer, sizeof answer, "%d", getentropy(bytes, sizeof bytes));
    } else if (is(input, "environment")) {
        snprintf(answer, sizeof answer, "%s", getenv("GIVEN") ? getenv("GIVEN") : "nothing");
    } else if (is(input, "fill")) {
        fill();
    } else if (is(input, "socket")) {
        snprintf(answer, sizeof answer, "%d", (int)send(3, "x", 1, 0));
    } else if (is(input, "print ")) {
        printf("%.*s", (int)rest_of(input, "print ").length, (const char *)rest_of(input, "print ").at);
        fflush(stdout);
    } else if (is(input, "again ") || is(input, "never ")) {
        *output = rest_of(input, "again ");
        return is(input, "again ") ? TARN_AGAIN : TARN_NEVER;
    } else if (is(input, "spin")) {
        for (volatile unsigned i = 0;; i++) {
        }
    } else if (is(input, "grow")) {
        for (volatile uint8_t *more = malloc(1 << 20); more; more = malloc(1 << 20))
            *more = 1;
    } else if (is(input, "exit")) {
        exit(7);
    } else if (is(input, "lie")) {
        /* An output that is not in memory. */
        *output = (struct tarn_bytes){(const uint8_t *)0xfffffff0, 0x7fffffff};
        return TARN_DONE;
    } else if (is(input, "wild")) {
        tarn_log_import(99, (const uint8_t *)0xfffffff0, 0x7fffffff);
    } else if (is(input, "garbage")) {
        tarn_log_import(TARN_INFO, (const uint8_t *)"\xff\xfe", 2);
    } else if (is(input, "huge")) {
        tarn_log_import(TARN_INFO, malloc(40 << 20), 40 << 20);
    } else {
        snprintf(answer, sizeof answer, "%.*s", (int)input.length, (const char *)input.at);
    }
    *output = tarn_text(answer);
    return outcome;
}
