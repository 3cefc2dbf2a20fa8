/*
 * A task that counts itself in its context, once, however often it is tried.
 *
 * Its input is a word. The key "tally" holds the words that were counted, each with a space behind it. Who finds its word there was counted
 * by an earlier attempt. A word that ends in "!" fails after it was counted, as if the node had lost the result.
 */
#define TARN_MAIN
#include "tarn.h"

static uint8_t words[4096];

static bool counted(struct tarn_bytes list, struct tarn_bytes word) {
    for (size_t at = 0; at + word.length < list.length; at++)
        if ((at == 0 || list.at[at - 1] == ' ') && list.at[at + word.length] == ' ' &&
            memcmp(list.at + at, word.at, word.length) == 0)
            return true;
    return false;
}

enum tarn_outcome tarn_task(struct tarn_bytes word, struct tarn_bytes *output) {
    struct tarn_bytes key = tarn_text("tally");
    for (;;) {
        struct tarn_context now = tarn_context_get(key);
        if (now.failed) {
            *output = now.why;
            return TARN_AGAIN;
        }
        if (counted(now.value, word)) {
            *output = tarn_text("was counted before");
            return TARN_DONE;
        }
        if (now.value.length + word.length + 1 > sizeof words) {
            *output = tarn_text("there are too many words");
            return TARN_NEVER;
        }
        memcpy(words, now.value.at, now.value.length);
        memcpy(words + now.value.length, word.at, word.length);
        words[now.value.length + word.length] = ' ';
        struct tarn_bytes more = {words, now.value.length + word.length + 1};
        struct tarn_context set = tarn_context_set(key, more, &now.version);
        if (!set.failed)
            break;
        if (set.error != TARN_CONTEXT_CONFLICT) {
            *output = set.why;
            return TARN_AGAIN;
        }
    }
    if (word.at[word.length - 1] == '!') {
        *output = tarn_text("counted, and lost the result");
        return TARN_AGAIN;
    }
    *output = tarn_text("counted");
    return TARN_DONE;
}
