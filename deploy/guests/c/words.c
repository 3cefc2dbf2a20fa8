/* A program: counts the words of its input and prints them as JSON, the most frequent first. Needs no grant. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Words beyond this many different ones are not counted. */
#define WORDS_MAX 4096
/* Longer words are cut. */
#define WORD_BYTES_MAX 40

struct count {
    char word[WORD_BYTES_MAX + 1];
    unsigned times;
};

static struct count counts[WORDS_MAX];
static size_t known;

static void add(const char *word) {
    for (size_t i = 0; i < known; i++) {
        if (strcmp(counts[i].word, word) == 0) {
            counts[i].times++;
            return;
        }
    }
    if (known < WORDS_MAX) {
        strcpy(counts[known].word, word);
        counts[known++].times = 1;
    }
}

/* By how often, then by name, so that the output depends on nothing but the input. */
static int compare(const void *left, const void *right) {
    const struct count *a = left, *b = right;
    if (a->times != b->times)
        return a->times < b->times ? 1 : -1;
    return strcmp(a->word, b->word);
}

int main(void) {
    char word[WORD_BYTES_MAX + 1];
    size_t length = 0;
    for (int c = getchar();; c = getchar()) {
        if (c != EOF && isalpha(c)) {
            if (length < WORD_BYTES_MAX)
                word[length++] = (char)tolower(c);
            continue;
        }
        if (length > 0) {
            word[length] = '\0';
            add(word);
            length = 0;
        }
        if (c == EOF)
            break;
    }
    qsort(counts, known, sizeof counts[0], compare);
    printf("{");
    for (size_t i = 0; i < known; i++)
        printf("%s\"%s\":%u", i ? "," : "", counts[i].word, counts[i].times);
    printf("}\n");
    return ferror(stdin) || fflush(stdout) ? 1 : 0;
}
