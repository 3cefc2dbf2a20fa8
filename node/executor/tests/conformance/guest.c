// One program for all runtimes: it behaves as its first argument says.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int echo(void) {
    char buffer[4096];
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, stdin)) > 0) {
        if (fwrite(buffer, 1, got, stdout) != got) return 9;
    }
    return 0;
}

static int allocate(void) {
    for (;;) {
        size_t bytes = 1 << 20;
        volatile char *piece = malloc(bytes);
        if (!piece) return 9;
        for (size_t at = 0; at < bytes; at += 512) piece[at] = 1;
    }
}

static int flood(FILE *where) {
    static char line[1024];
    memset(line, 'x', sizeof line);
    for (;;) {
        if (fwrite(line, 1, sizeof line, where) != sizeof line) return 9;
    }
}

// Some logs, then success: more than are kept.
static int chatter(void) {
    for (int i = 0; i < 10000; i++) fprintf(stderr, "line %d\n", i);
    fputs("done", stdout);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "echo")) return echo();
    if (!strcmp(what, "args")) {
        for (int i = 2; i < argc; i++) printf("%s\n", argv[i]);
        printf("%s\n", getenv("GREETING") ? getenv("GREETING") : "none");
        return 0;
    }
    if (!strcmp(what, "exit")) {
        fputs("giving up\n", stderr);
        return atoi(argv[2]);
    }
    if (!strcmp(what, "crash")) {
        fputs("before\n", stderr);
        fflush(stderr);
        __builtin_trap();
    }
    if (!strcmp(what, "loop")) {
        for (volatile unsigned long i = 0;; i++) {}
    }
    // Begins to run, tells so, and does not end.
    if (!strcmp(what, "hang")) {
        fputs("running\n", stderr);
        fflush(stderr);
        for (volatile unsigned long i = 0;; i++) {}
    }
    if (!strcmp(what, "allocate")) return allocate();
    if (!strcmp(what, "flood")) return flood(stdout);
    if (!strcmp(what, "shout")) return flood(stderr);
    if (!strcmp(what, "chatter")) return chatter();
    fprintf(stderr, "what is %s?\n", what);
    return 64;
}
