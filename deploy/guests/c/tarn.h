/*
 * tarn:guest for C: what client/proto/wit offers, by the canonical ABI of the component model, in one header.
 *
 * A task includes this, implements tarn_task(), and is built as a reactor and made a component: see deploy/guests/build.
 * Memory that comes from the host is allocated with malloc() and never freed: the sandbox is dropped with the task.
 */
#ifndef TARN_H
#define TARN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TARN_IMPORT(interface, name) \
    __attribute__((import_module("tarn:guest/" interface "@0.1.0"), import_name(name)))

/* ---- Bytes ---------------------------------------------------------------------------------------------------- */

struct tarn_bytes {
    const uint8_t *at;
    size_t length;
};

static inline struct tarn_bytes tarn_text(const char *text) {
    return (struct tarn_bytes){(const uint8_t *)text, strlen(text)};
}

/* ---- What a task implements ------------------------------------------------------------------------------------- */

enum tarn_outcome { TARN_DONE, TARN_AGAIN, TARN_NEVER };

/* Turns the input into the output. For TARN_AGAIN and TARN_NEVER the output is a sentence that says what went wrong. */
enum tarn_outcome tarn_task(struct tarn_bytes input, struct tarn_bytes *output);

/* ---- log, progress ---------------------------------------------------------------------------------------------- */

enum tarn_level { TARN_TRACE, TARN_DEBUG, TARN_INFO, TARN_WARN, TARN_ERROR };

TARN_IMPORT("log", "write")
void tarn_log_import(int32_t level, const uint8_t *message, size_t length);

static inline void tarn_log(enum tarn_level level, const char *message) {
    tarn_log_import((int32_t)level, (const uint8_t *)message, strlen(message));
}

TARN_IMPORT("progress", "report")
void tarn_progress_import(double fraction, const uint8_t *message, size_t length);

static inline void tarn_progress(double fraction, const char *message) {
    tarn_progress_import(fraction, (const uint8_t *)message, strlen(message));
}

/* ---- context ---------------------------------------------------------------------------------------------------- */

enum tarn_context_error { TARN_CONTEXT_CONFLICT, TARN_CONTEXT_REFUSED, TARN_CONTEXT_UNAVAILABLE };

/* What an operation on the context gave; the fields that it does not name are zero. */
struct tarn_context {
    bool failed;
    enum tarn_context_error error; /* if it failed */
    struct tarn_bytes why;         /* if it was refused or unavailable */
    bool found;                    /* get */
    struct tarn_bytes value;       /* get */
    uint64_t version;              /* get, set; in a conflict the version that the key has */
};

TARN_IMPORT("context", "get")
void tarn_context_get_import(const uint8_t *key, size_t key_length, uint8_t *result);
TARN_IMPORT("context", "set")
void tarn_context_set_import(const uint8_t *key, size_t key_length, const uint8_t *value, size_t value_length,
                             int32_t has_expected, int64_t expected, uint8_t *result);
TARN_IMPORT("context", "delete")
void tarn_context_delete_import(const uint8_t *key, size_t key_length, int32_t has_expected, int64_t expected,
                                uint8_t *result);
TARN_IMPORT("context", "list-keys")
void tarn_context_list_import(const uint8_t *prefix, size_t prefix_length, int32_t has_after, const uint8_t *after,
                              size_t after_length, int32_t limit, uint8_t *result);

static inline uint32_t tarn_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t tarn_u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline struct tarn_bytes tarn_list(const uint8_t *at) {
    return (struct tarn_bytes){(const uint8_t *)(uintptr_t)tarn_u32(at), tarn_u32(at + 4)};
}

/* Every result of the context starts with whether it failed, and has what it failed with 8 bytes later. */
static inline struct tarn_context tarn_context_failed(const uint8_t *result) {
    struct tarn_context it = {.failed = result[0] != 0};
    if (it.failed) {
        it.error = (enum tarn_context_error)result[8];
        if (it.error == TARN_CONTEXT_CONFLICT)
            it.version = tarn_u64(result + 16);
        else
            it.why = tarn_list(result + 16);
    }
    return it;
}

static inline struct tarn_context tarn_context_get(struct tarn_bytes key) {
    _Alignas(8) uint8_t result[32];
    tarn_context_get_import(key.at, key.length, result);
    struct tarn_context it = tarn_context_failed(result);
    if (!it.failed && result[8]) {
        it.found = true;
        it.value = tarn_list(result + 16);
        it.version = tarn_u64(result + 24);
    }
    return it;
}

/* `expected` may be null: then whatever version the key has. */
static inline struct tarn_context tarn_context_set(struct tarn_bytes key, struct tarn_bytes value,
                                                   const uint64_t *expected) {
    _Alignas(8) uint8_t result[24];
    tarn_context_set_import(key.at, key.length, value.at, value.length, expected != NULL,
                            expected ? (int64_t)*expected : 0, result);
    struct tarn_context it = tarn_context_failed(result);
    if (!it.failed)
        it.version = tarn_u64(result + 8);
    return it;
}

static inline struct tarn_context tarn_context_delete(struct tarn_bytes key, const uint64_t *expected) {
    _Alignas(8) uint8_t result[24];
    tarn_context_delete_import(key.at, key.length, expected != NULL, expected ? (int64_t)*expected : 0, result);
    return tarn_context_failed(result);
}

/* Puts the keys, each a pointer and a length, into `keys`, and their number into `count`. */
static inline struct tarn_context tarn_context_list(struct tarn_bytes prefix, uint32_t limit,
                                                    const struct tarn_bytes **keys, size_t *count) {
    _Alignas(8) uint8_t result[24];
    tarn_context_list_import(prefix.at, prefix.length, 0, NULL, 0, (int32_t)limit, result);
    struct tarn_context it = tarn_context_failed(result);
    if (!it.failed) {
        struct tarn_bytes list = tarn_list(result + 8);
        *keys = (const struct tarn_bytes *)(const void *)list.at;
        *count = list.length;
    }
    return it;
}

/* ---- call ------------------------------------------------------------------------------------------------------- */

struct tarn_called {
    bool failed;
    struct tarn_bytes output;  /* if it did not fail */
    struct tarn_bytes reason;  /* if it failed */
    struct tarn_bytes message; /* if it failed */
    bool retryable;            /* if it failed */
};

TARN_IMPORT("call", "run")
void tarn_call_import(const uint8_t *artifact, size_t artifact_length, const struct tarn_bytes *args, size_t arg_count,
                      const uint8_t *input, size_t input_length, uint8_t *result);

static inline struct tarn_called tarn_call(struct tarn_bytes artifact, const struct tarn_bytes *args, size_t arg_count,
                                           struct tarn_bytes input) {
    _Alignas(8) uint8_t result[24];
    tarn_call_import(artifact.at, artifact.length, args, arg_count, input.at, input.length, result);
    if (result[0] == 0)
        return (struct tarn_called){.output = tarn_list(result + 4)};
    return (struct tarn_called){
        .failed = true,
        .reason = tarn_list(result + 4),
        .message = tarn_list(result + 12),
        .retryable = result[20] != 0,
    };
}

/* ---- http ------------------------------------------------------------------------------------------------------- */

struct tarn_header {
    struct tarn_bytes name;
    struct tarn_bytes value;
};

enum tarn_http_error {
    TARN_HTTP_INVALID,
    TARN_HTTP_FORBIDDEN_ADDRESS,
    TARN_HTTP_UNREACHABLE,
    TARN_HTTP_TOO_LARGE,
    TARN_HTTP_TIMED_OUT
};

struct tarn_response {
    bool failed;
    enum tarn_http_error error; /* if it failed */
    struct tarn_bytes why;      /* if it is invalid, a forbidden address or unreachable */
    uint16_t status;
    const struct tarn_header *headers;
    size_t header_count;
    struct tarn_bytes body;
};

TARN_IMPORT("http", "send")
void tarn_http_import(const uint8_t *method, size_t method_length, const uint8_t *url, size_t url_length,
                      const struct tarn_header *headers, size_t header_count, const uint8_t *body, size_t body_length,
                      int32_t has_timeout, int32_t timeout_ms, uint8_t *result);

static inline struct tarn_response tarn_http(struct tarn_bytes method, struct tarn_bytes url,
                                             const struct tarn_header *headers, size_t header_count,
                                             struct tarn_bytes body, uint32_t timeout_ms) {
    _Alignas(8) uint8_t result[32];
    tarn_http_import(method.at, method.length, url.at, url.length, headers, header_count, body.at, body.length, 1,
                     (int32_t)timeout_ms, result);
    struct tarn_response it = {.failed = result[0] != 0};
    if (it.failed) {
        it.error = (enum tarn_http_error)result[8];
        if (it.error <= TARN_HTTP_UNREACHABLE)
            it.why = tarn_list(result + 16);
        return it;
    }
    struct tarn_bytes headers_list = tarn_list(result + 12);
    it.status = (uint16_t)(result[8] | result[9] << 8);
    it.headers = (const struct tarn_header *)(const void *)headers_list.at;
    it.header_count = headers_list.length;
    it.body = tarn_list(result + 20);
    return it;
}

/* ---- The component's own exports. Included by one file of the program, with TARN_MAIN defined. ------------------- */

#ifdef TARN_MAIN

__attribute__((export_name("cabi_realloc")))
void *tarn_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old_size;
    (void)align;
    return size == 0 ? (void *)align : realloc(old, size);
}

__attribute__((export_name("tarn:guest/task@0.1.0#run")))
const uint32_t *tarn_run(const uint8_t *input, size_t length) {
    static uint32_t result[4];
    struct tarn_bytes output = {NULL, 0};
    enum tarn_outcome outcome = tarn_task((struct tarn_bytes){input, length}, &output);
    uint32_t at = (uint32_t)(uintptr_t)output.at;
    uint32_t size = (uint32_t)output.length;
    if (outcome == TARN_DONE) {
        result[0] = 0;
        result[1] = at;
        result[2] = size;
    } else {
        result[0] = 1;
        result[1] = outcome == TARN_AGAIN ? 0 : 1;
        result[2] = at;
        result[3] = size;
    }
    return result;
}

#endif
#endif
