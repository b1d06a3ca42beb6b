/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/format.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const escapes[] = {
    [COLOUR_NONE] = "",        [COLOUR_GOOD] = "\033[32m", [COLOUR_WARN] = "\033[33m",
    [COLOUR_BAD] = "\033[31m", [COLOUR_DIM] = "\033[2m",   [COLOUR_BOLD] = "\033[1m",
};

void format_coloured(FILE *out, bool on, enum colour c, const char *s, size_t n)
{
    bool paint = on && c != COLOUR_NONE;
    if (paint)
        fputs(escapes[c], out);
    fwrite(s, 1, n, out);
    if (paint)
        fputs("\033[0m", out);
}

static const struct {
    const char *word;
    enum colour colour;
} state_colours[] = {
    {"ready", COLOUR_GOOD},      {"connected", COLOUR_GOOD},  {"starting", COLOUR_WARN},
    {"recovering", COLOUR_WARN}, {"syncing", COLOUR_WARN},    {"lagging", COLOUR_WARN},
    {"draining", COLOUR_WARN},   {"connecting", COLOUR_WARN}, {"maintenance", COLOUR_WARN},
    {"isolated", COLOUR_BAD},    {"failed", COLOUR_BAD},      {"disconnected", COLOUR_BAD},
    {"refused", COLOUR_BAD},     {"down", COLOUR_BAD},
};

enum colour format_state_colour(const char *word, size_t n)
{
    for (size_t i = 0; i < sizeof(state_colours) / sizeof(state_colours[0]); i++)
        if (strlen(state_colours[i].word) == n && memcmp(state_colours[i].word, word, n) == 0)
            return state_colours[i].colour;
    return COLOUR_NONE;
}

static bool in_word(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.' || c == '/';
}

void format_text(FILE *out, bool on, const char *text)
{
    while (*text != '\0') {
        size_t n = 0;
        while (in_word(text[n]))
            n++;
        if (n > 0)
            format_coloured(out, on, format_state_colour(text, n), text, n);
        else
            putc(text[n++], out);
        text += n;
    }
}

/* A decimal number, with blanks around it; *end is where it ended. */
static bool number(const char *text, const char **end, uint64_t *out)
{
    while (*text == ' ')
        text++;
    if (!isdigit((unsigned char)*text))
        return false;
    char *after;
    errno = 0;
    unsigned long long v = strtoull(text, &after, 10);
    if (errno != 0)
        return false;
    *end = after;
    *out = v;
    return true;
}

static bool only_number(const char *text, uint64_t *out)
{
    const char *end;
    return number(text, &end, out) && *end == '\0';
}

static void keep(const char *text, char out[FORMAT_TEXT_MAX])
{
    snprintf(out, FORMAT_TEXT_MAX, "%s", text[0] != '\0' ? text : "-");
}

/* In the largest unit that leaves at least 1; units are `step` apart. */
static void scaled(uint64_t v, double step, const char *const *units, size_t n,
                   char out[FORMAT_TEXT_MAX])
{
    double x = (double)v;
    size_t unit = 0;
    for (; unit + 1 < n && x >= step; unit++)
        x /= step;
    if (unit == 0)
        snprintf(out, FORMAT_TEXT_MAX, "%llu %s", (unsigned long long)v, units[0]);
    else
        snprintf(out, FORMAT_TEXT_MAX, "%.1f %s", x, units[unit]);
}

static void bytes(uint64_t v, char out[FORMAT_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    scaled(v, 1024, units, sizeof(units) / sizeof(units[0]), out);
}

void format_bytes(const char *text, char out[FORMAT_TEXT_MAX])
{
    uint64_t v;
    if (only_number(text, &v))
        bytes(v, out);
    else
        keep(text, out);
}

void format_us(const char *text, char out[FORMAT_TEXT_MAX])
{
    static const char *const units[] = {"us", "ms", "s"};
    uint64_t v;
    if (only_number(text, &v))
        scaled(v, 1000, units, sizeof(units) / sizeof(units[0]), out);
    else
        keep(text, out);
}

void format_ms(const char *text, char out[FORMAT_TEXT_MAX])
{
    static const char *const units[] = {"ms", "s"};
    uint64_t v;
    if (only_number(text, &v))
        scaled(v, 1000, units, sizeof(units) / sizeof(units[0]), out);
    else
        keep(text, out);
}

void format_backlog(const char *text, char out[FORMAT_TEXT_MAX])
{
    uint64_t files, size;
    const char *rest;
    if (!number(text, &rest, &files) || !only_number(rest, &size)) {
        keep(text, out);
        return;
    }
    char amount[FORMAT_TEXT_MAX];
    bytes(size, amount);
    if (files == 0 && size == 0)
        snprintf(out, FORMAT_TEXT_MAX, "none");
    else
        snprintf(out, FORMAT_TEXT_MAX, "%llu %s, %.16s", (unsigned long long)files,
                 files == 1 ? "file" : "files", amount);
}

void table_init(struct table *t, size_t columns)
{
    *t = (struct table){.columns = columns};
}

void table_fini(struct table *t)
{
    for (size_t i = 0; i < t->rows * t->columns; i++)
        free(t->cells[i]);
    free(t->cells);
}

void table_add(struct table *t, const char *const *cells)
{
    size_t n = t->columns;
    char **more = t->failed ? NULL : realloc(t->cells, (t->rows + 1) * n * sizeof(*more));
    if (more == NULL) {
        t->failed = true;
        return;
    }
    t->cells = more;
    char **row = more + t->rows++ * n;
    for (size_t i = 0; i < n; i++) {
        row[i] = strdup(cells[i]);
        if (row[i] == NULL)
            t->failed = true;
    }
}

bool table_print(const struct table *t, FILE *out, bool colour, size_t state)
{
    size_t width[TABLE_COLUMNS_MAX] = {0};
    if (t->failed || t->columns > TABLE_COLUMNS_MAX)
        return false;
    for (size_t i = 0; i < t->rows * t->columns; i++) {
        size_t n = strlen(t->cells[i]);
        if (n > width[i % t->columns])
            width[i % t->columns] = n;
    }
    size_t pad = 0; /* blanks owed: none are left at the end of a line */
    for (size_t i = 0; i < t->rows * t->columns; i++) {
        size_t column = i % t->columns, n = strlen(t->cells[i]);
        enum colour c = i < t->columns    ? COLOUR_BOLD
                        : column == state ? format_state_colour(t->cells[i], n)
                                          : COLOUR_NONE;
        if (n > 0) {
            fprintf(out, "%*s", (int)pad, "");
            format_coloured(out, colour, c, t->cells[i], n);
            pad = 0;
        }
        pad += width[column] - n + 2;
        if (column + 1 == t->columns) {
            putc('\n', out);
            pad = 0;
        }
    }
    return true;
}

/* The next word of a line, up to a blank. */
static bool word(const char **at, const char *end, const char **out, size_t *n)
{
    const char *s = *at;
    while (*at < end && **at != ' ')
        ++*at;
    *out = s;
    *n = (size_t)(*at - s);
    if (*at < end)
        ++*at;
    return *n > 0;
}

bool event_parse(const char *line, size_t n, struct event *out)
{
    struct event e;
    const char *at = line, *end = line + n;
    if (!word(&at, end, &e.time, &e.time_len) || !word(&at, end, &e.kind, &e.kind_len) ||
        !word(&at, end, &e.name, &e.name_len))
        return false;
    e.text = at;
    e.text_len = (size_t)(end - at);
    *out = e;
    return true;
}

static enum colour kind_colour(const struct event *e)
{
    if (e->kind_len == 6 && memcmp(e->kind, "raised", 6) == 0)
        return COLOUR_BAD;
    return e->kind_len == 7 && memcmp(e->kind, "cleared", 7) == 0 ? COLOUR_GOOD : COLOUR_NONE;
}

void event_print(FILE *out, bool colour, const char *line, size_t n)
{
    struct event e;
    if (!event_parse(line, n, &e)) {
        fwrite(line, 1, n, out);
    } else {
        format_coloured(out, colour, COLOUR_DIM, e.time, e.time_len);
        putc(' ', out);
        format_coloured(out, colour, kind_colour(&e), e.kind, e.kind_len);
        fprintf(out, "%*s", e.kind_len < 7 ? (int)(8 - e.kind_len) : 1, "");
        format_coloured(out, colour, COLOUR_BOLD, e.name, e.name_len);
        putc(' ', out);
        fwrite(e.text, 1, e.text_len, out);
    }
    putc('\n', out);
}

void event_print_json(FILE *out, const char *line, size_t n)
{
    struct event e = {
        .time = "", .kind = "note", .kind_len = 4, .name = "", .text = line, .text_len = n};
    (void)event_parse(line, n, &e);
    fputs("{\"time\": ", out);
    json_string(out, e.time, e.time_len);
    fputs(", \"kind\": ", out);
    json_string(out, e.kind, e.kind_len);
    fputs(", \"name\": ", out);
    json_string(out, e.name, e.name_len);
    fputs(", \"text\": ", out);
    json_string(out, e.text, e.text_len);
    fputs("}\n", out);
}

const char *format_last_lines(const char *text, size_t n, size_t count)
{
    const char *s = text + n;
    if (count == 0)
        return s;
    if (s > text && s[-1] == '\n')
        s--; /* the end of the last line begins no other */
    while (s > text) {
        if (s[-1] == '\n' && --count == 0)
            break;
        s--;
    }
    return s;
}

/* Length of the UTF-8 sequence at s, 0 when it is none (overlong, surrogate, cut off). */
static size_t utf8(const unsigned char *s, size_t n)
{
    size_t len = s[0] < 0x80                    ? 1
                 : s[0] >= 0xc2 && s[0] <= 0xdf ? 2
                 : (s[0] & 0xf0) == 0xe0        ? 3
                 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                                : 0;
    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
}

void json_string(FILE *out, const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    putc('"', out);
    for (size_t i = 0; i < n;) {
        size_t len = utf8(p + i, n - i);
        if (len == 0) {
            fputs("\\ufffd", out);
            i++;
        } else if (p[i] == '"' || p[i] == '\\') {
            fprintf(out, "\\%c", p[i++]);
        } else if (p[i] < ' ') {
            fprintf(out, "\\u%04x", p[i++]);
        } else {
            fwrite(p + i, 1, len, out);
            i += len;
        }
    }
    putc('"', out);
}

static const char *skip_blank(const char *s)
{
    return s + strspn(s, " \t\r\n");
}

/* Behind the closing quote of the string at s; NULL when it does not end. */
static const char *skip_string(const char *s)
{
    for (s++; *s != '"'; s++) {
        if (*s == '\\' && s[1] != '\0')
            s++;
        else if (*s == '\0')
            return NULL;
    }
    return s + 1;
}

/* Behind the value at s: brackets are counted, strings skipped, nothing else is looked at. */
static const char *skip_value(const char *s)
{
    int depth = 0;
    while (*s != '\0') {
        if (*s == '"') {
            s = skip_string(s);
            if (s == NULL)
                return NULL;
            continue;
        }
        if (depth == 0 && (*s == ',' || *s == '}' || *s == ']'))
            return s;
        depth += (*s == '{' || *s == '[') - (*s == '}' || *s == ']');
        s++;
    }
    return NULL;
}

bool json_member(const char *object, const char *name, const char **value, size_t *n)
{
    const char *s = skip_blank(object);
    if (*s != '{')
        return false;
    for (s = skip_blank(s + 1); *s == '"'; s = skip_blank(s + 1)) {
        const char *key = s + 1;
        s = skip_string(s);
        if (s == NULL)
            return false;
        size_t len = (size_t)(s - key) - 1;
        s = skip_blank(s);
        if (*s != ':')
            return false;
        const char *begin = skip_blank(s + 1);
        s = skip_value(begin);
        if (s == NULL)
            return false;
        if (len == strlen(name) && memcmp(key, name, len) == 0) {
            while (s > begin && strchr(" \t\r\n", s[-1]) != NULL)
                s--;
            *value = begin;
            *n = (size_t)(s - begin);
            return true;
        }
        if (*s != ',')
            return false;
    }
    return false;
}
