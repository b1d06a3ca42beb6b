/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What farmctl makes of the control files' text: no I/O but printing to the given stream. */
#ifndef CTL_FORMAT_H
#define CTL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define FORMAT_TEXT_MAX 64

enum colour { COLOUR_NONE, COLOUR_GOOD, COLOUR_WARN, COLOUR_BAD, COLOUR_DIM, COLOUR_BOLD };

/* `s` in a colour; plain when on is false. */
void format_coloured(FILE *out, bool on, enum colour c, const char *s, size_t n);
/* What a state is painted in: ready is good, failed is bad, ... */
enum colour format_state_colour(const char *word, size_t n);
/* Text with the states that stand in it painted. */
void format_text(FILE *out, bool on, const char *text);

/* The numbers of the control files for people; text that is no such number is kept as it is. */
void format_bytes(const char *text, char out[FORMAT_TEXT_MAX]);   /* 1536 -> 1.5 KiB */
void format_us(const char *text, char out[FORMAT_TEXT_MAX]);      /* 1500 -> 1.5 ms */
void format_ms(const char *text, char out[FORMAT_TEXT_MAX]);      /* 1500 -> 1.5 s */
void format_backlog(const char *text, char out[FORMAT_TEXT_MAX]); /* 3 1536 -> 3 files, 1.5 KiB */

/* A table, columns as wide as their widest cell, two blanks between. */
#define TABLE_COLUMNS_MAX 10
struct table {
    size_t columns, rows;
    char **cells; /* rows * columns; row 0 is the head */
    bool failed;  /* out of memory */
};
void table_init(struct table *t, size_t columns);
void table_fini(struct table *t);
/* One row, copied: `columns` strings. */
void table_add(struct table *t, const char *const *cells);
/* The column `state` is painted, the head is bold. False: out of memory while it was filled. */
bool table_print(const struct table *t, FILE *out, bool colour, size_t state);

/* A line of `events`: TIME KIND NAME TEXT. Points into the line. */
struct event {
    const char *time, *kind, *name, *text;
    size_t time_len, kind_len, name_len, text_len;
};
/* False: the line is not of that form. */
bool event_parse(const char *line, size_t n, struct event *out);
void event_print(FILE *out, bool colour, const char *line, size_t n);
void event_print_json(FILE *out, const char *line, size_t n);
/* Where the last `count` lines of a text begin. */
const char *format_last_lines(const char *text, size_t n, size_t count);

void json_string(FILE *out, const char *s, size_t n);
/* The value of a member of a JSON object, as it stands there. False: there is none. */
bool json_member(const char *object, const char *name, const char **value, size_t *n);

#endif
