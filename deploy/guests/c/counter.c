/*
 * A task: adds the number in its input to the one that its context keeps under the key "sum", and returns the new sum.
 * Needs the grants `context` (for writing), `log` and `progress`.
 */
#define TARN_MAIN
#include "tarn.h"

#include <errno.h>
#include <stdio.h>

/* How often somebody else may come first. */
#define TRIES 10

static char text[64];

static struct tarn_bytes say(const char *what) {
    tarn_log(TARN_WARN, what);
    return tarn_text(what);
}

/* A decimal number that takes all of the bytes. */
static bool parse(struct tarn_bytes bytes, long long *number) {
    if (bytes.length == 0 || bytes.length >= sizeof text)
        return false;
    memcpy(text, bytes.at, bytes.length);
    text[bytes.length] = '\0';
    char *end = NULL;
    errno = 0;
    *number = strtoll(text, &end, 10);
    return errno == 0 && *end == '\0';
}

enum tarn_outcome tarn_task(struct tarn_bytes input, struct tarn_bytes *output) {
    long long more = 0;
    if (!parse(input, &more)) {
        *output = say("the input is no decimal number");
        return TARN_NEVER;
    }
    struct tarn_bytes key = tarn_text("sum");
    for (int attempt = 0; attempt < TRIES; attempt++) {
        tarn_progress((double)attempt / TRIES, "adding");
        struct tarn_context now = tarn_context_get(key);
        long long sum = 0;
        if (now.failed || (now.found && !parse(now.value, &sum)) || __builtin_add_overflow(sum, more, &sum)) {
            *output = say("the sum cannot be read, or is too large");
            return now.failed ? TARN_AGAIN : TARN_NEVER;
        }
        snprintf(text, sizeof text, "%lld", sum);
        struct tarn_context set = tarn_context_set(key, tarn_text(text), &now.version);
        if (!set.failed) {
            tarn_log(TARN_INFO, "added");
            *output = tarn_text(text);
            return TARN_DONE;
        }
        if (set.error != TARN_CONTEXT_CONFLICT)
            break;
    }
    *output = say("the sum could not be written");
    return TARN_AGAIN;
}
