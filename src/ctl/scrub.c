/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"
#include "ctl/format.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS (100l * 1000 * 1000)

/* The file .farm/scrub (farmfs-control(7)), as far as it is needed here. */
struct scrub {
    char state[16];
    uint64_t asked, answered, inodes, all_inodes, bytes, all_bytes;
    uint64_t found, repaired, open, taken, differing, healed;
};

static void take_line(struct scrub *s, const char *line)
{
    const struct {
        const char *key;
        uint64_t *a, *b;
    } keys[] = {
        {"asked ", &s->asked, NULL},
        {"answered ", &s->answered, NULL},
        {"inodes ", &s->inodes, &s->all_inodes},
        {"bytes ", &s->bytes, &s->all_bytes},
        {"found ", &s->found, NULL},
        {"repaired ", &s->repaired, NULL},
        {"open ", &s->open, NULL},
        {"taken-up ", &s->taken, NULL},
        {"differing ", &s->differing, NULL},
        {"healed ", &s->healed, NULL},
    };
    if (strncmp(line, "state ", 6) == 0) {
        snprintf(s->state, sizeof(s->state), "%.*s", (int)strcspn(line + 6, "\n"), line + 6);
        return;
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        size_t n = strlen(keys[i].key);
        char *end;
        if (strncmp(line, keys[i].key, n) != 0)
            continue;
        *keys[i].a = strtoull(line + n, &end, 10);
        if (keys[i].b != NULL)
            *keys[i].b = strtoull(end, NULL, 10);
    }
}

static int look(const struct farm *f, struct scrub *s)
{
    char *text;
    int err = farm_read(f, "scrub", &text, NULL);
    if (err < 0)
        return err;
    memset(s, 0, sizeof(*s));
    for (const char *line = text; line != NULL && *line != '\0';) {
        take_line(s, line);
        line = strchr(line, '\n');
        line += line != NULL;
    }
    free(text);
    return 0;
}

static void progress(const struct scrub *s)
{
    char number[24], done[FORMAT_TEXT_MAX], all[FORMAT_TEXT_MAX];
    snprintf(number, sizeof(number), "%" PRIu64, s->bytes);
    format_bytes(number, done);
    snprintf(number, sizeof(number), "%" PRIu64, s->all_bytes);
    format_bytes(number, all);
    fprintf(stderr, "\r\033[K%s: %" PRIu64 " of %" PRIu64 " inodes, %s of %s, %" PRIu64 " found ",
            s->state, s->inodes, s->all_inodes, done, all, s->found);
    fflush(stderr);
}

/* Until a whole round has followed what was asked for: -ETIMEDOUT. */
static int wait_round(const struct farm *f, const struct options *o, uint64_t asked,
                      struct scrub *s)
{
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    bool shown = isatty(STDERR_FILENO) && !o->json;
    int64_t left = o->timeout_ms;
    int err;
    while ((err = look(f, s)) == 0 && s->answered < asked) {
        if (o->timeout_ms >= 0 && (left -= LOOK_NS / 1000000) < 0) {
            err = -ETIMEDOUT;
            break;
        }
        if (shown)
            progress(s);
        (void)watchdog_set(ANSWER_MS);
        nanosleep(&pause, NULL);
    }
    if (shown)
        fputs("\r\033[K", stderr);
    return err;
}

static void print_result(const struct options *o, const struct scrub *s)
{
    if (o->json) {
        printf("{\"ok\": %s, \"inodes\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"found\": %" PRIu64
               ", \"repaired\": %" PRIu64 ", \"open\": %" PRIu64 ", \"taken_up\": %" PRIu64
               ", \"differing\": %" PRIu64 ", \"healed\": %" PRIu64 "}\n",
               s->open == 0 ? "true" : "false", s->inodes, s->bytes, s->found, s->repaired, s->open,
               s->taken, s->differing, s->healed);
        return;
    }
    printf("%" PRIu64 " inodes and %" PRIu64 " bytes were compared\n", s->inodes, s->bytes);
    printf("so far: %" PRIu64 " damaged or missing, %" PRIu64 " repaired, %" PRIu64
           " not yet; %" PRIu64 " changed behind the mount; %" PRIu64
           " differences of records, %" PRIu64 " healed\n",
           s->found, s->repaired, s->open, s->taken, s->differing, s->healed);
}

int ctl_scrub(const struct farm *f, const struct options *o)
{
    struct scrub s;
    int err = look(f, &s);
    if (err < 0)
        return ctl_failed(f, "scrub", err);
    if (strcmp(s.state, "off") == 0) {
        fputs("farmctl: scrub: it is off in this folder's configuration (scrub = off)\n", stderr);
        return EXIT_FAILED;
    }
    uint64_t asked = s.asked + 1;
    err = farm_write(f, "scrub", "now\n", 4);
    if (err < 0)
        return ctl_failed(f, "scrub", err);
    if (!o->wait)
        return EXIT_OK;
    err = wait_round(f, o, asked, &s);
    if (err == -ETIMEDOUT) {
        fputs("farmctl: scrub: the round is not over in time\n", stderr);
        return EXIT_LATE;
    }
    if (err < 0)
        return ctl_failed(f, "scrub", err);
    print_result(o, &s);
    return s.open == 0 ? EXIT_OK : EXIT_FAILED;
}
