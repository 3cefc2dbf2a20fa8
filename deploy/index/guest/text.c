/* Terms, lines and numbers. */
#include "guest.h"

#include <string.h>

static bool is_letter(char byte)
{
    return byte >= 'a' && byte <= 'z';
}

/* An ASCII letter in lower case, or a digit; 0 for every byte that separates words. */
static char fold(char byte)
{
    if (byte >= 'A' && byte <= 'Z')
        return (char)(byte - 'A' + 'a');
    if (is_letter(byte) || (byte >= '0' && byte <= '9'))
        return byte;
    return 0;
}

bool next_term(struct slice *text, char bytes[TERM_BYTES_MAX], struct slice *term)
{
    const char *at = text->at, *end = text->at + text->length;
    while (at < end) {
        size_t length = 0; /* of the word, which may be longer than what is kept of it */
        char folded;
        for (; at < end && (folded = fold(*at)) != 0; at++) {
            if (length < TERM_BYTES_MAX)
                bytes[length] = folded;
            length++;
        }
        if (length >= TERM_BYTES_MIN && length <= TERM_BYTES_MAX && is_letter(bytes[0])) {
            *term = (struct slice){bytes, length};
            *text = (struct slice){at, (size_t)(end - at)};
            return true;
        }
        if (at < end)
            at++; /* the separator after the word */
    }
    *text = (struct slice){end, 0};
    return false;
}

int compare(struct slice left, struct slice right)
{
    size_t shorter = left.length < right.length ? left.length : right.length;
    int order = memcmp(left.at, right.at, shorter);
    if (order != 0)
        return order;
    return (left.length > right.length) - (left.length < right.length);
}

uint32_t hash(struct slice term)
{
    uint32_t value = 2166136261u;
    for (size_t index = 0; index < term.length; index++)
        value = (value ^ (unsigned char)term.at[index]) * 16777619u;
    return value;
}

bool parse_number(struct slice text, uint32_t max, uint32_t *number)
{
    if (text.length == 0 || text.length > 10 || (text.length > 1 && text.at[0] == '0'))
        return false;
    uint64_t value = 0; /* ten digits fit easily */
    for (size_t index = 0; index < text.length; index++) {
        if (text.at[index] < '0' || text.at[index] > '9')
            return false;
        value = value * 10 + (uint64_t)(text.at[index] - '0');
    }
    if (value > max)
        return false;
    *number = (uint32_t)value;
    return true;
}

uint32_t argument(char **argv, int index, const char *name, uint32_t min, uint32_t max)
{
    uint32_t number;
    struct slice text = {argv[index], strlen(argv[index])};
    if (!parse_number(text, max, &number) || number < min)
        fail(EXIT_USAGE, "%s must be a number from %u to %u", name, (unsigned)min, (unsigned)max);
    return number;
}

struct lines lines_of(const struct pieces *pieces, size_t index)
{
    struct slice piece = pieces->piece[index];
    return (struct lines){.at = piece.at, .end = piece.at + piece.length, .piece = index};
}

void malformed(const struct lines *lines, const char *why)
{
    fail(EXIT_INPUT, "piece %zu, line %u: %s", lines->piece, (unsigned)lines->line, why);
}

bool next_line(struct lines *lines, struct slice *line)
{
    if (lines->at == lines->end)
        return false;
    lines->line++;
    const char *newline = memchr(lines->at, '\n', (size_t)(lines->end - lines->at));
    if (newline == NULL)
        malformed(lines, "no newline at its end");
    *line = (struct slice){lines->at, (size_t)(newline - lines->at)};
    lines->at = newline + 1;
    return true;
}

/* Whether these bytes are exactly one term, as next_term would give it. */
static bool is_term(struct slice text)
{
    if (text.length < TERM_BYTES_MIN || text.length > TERM_BYTES_MAX || !is_letter(text.at[0]))
        return false;
    for (size_t index = 0; index < text.length; index++) {
        if (fold(text.at[index]) != text.at[index] || text.at[index] == 0)
            return false;
    }
    return true;
}

void split_line(struct lines *lines, struct slice line)
{
    const char *space = memchr(line.at, ' ', line.length);
    if (space == NULL)
        malformed(lines, "not a term, a space and a number");
    struct slice term = {line.at, (size_t)(space - line.at)};
    struct slice number = {space + 1, line.length - term.length - 1};
    if (!is_term(term))
        malformed(lines, "does not begin with a term");
    if (!parse_number(number, UINT32_MAX, &lines->number))
        malformed(lines, "does not end with a number");
    lines->before = lines->term;
    lines->term = term;
}

bool next_entry(struct lines *lines)
{
    struct slice line;
    if (!next_line(lines, &line))
        return false;
    split_line(lines, line);
    if (lines->number == 0)
        malformed(lines, "a count of zero");
    if (lines->before.at != NULL && compare(lines->before, lines->term) >= 0)
        malformed(lines, "terms are not in ascending order");
    return true;
}
