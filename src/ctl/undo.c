/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Putting a part of the folder back to what it was at a time, from the history. */
#include "ctl/kept.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct undo {
    const struct farm *f;
    const struct options *o;
    const char *under; /* "" is the whole folder */
    struct timespec to;
    void *paths; /* a tree of struct undo_path: the first of each path since then */
    size_t count, done, failed;
    int err;
};

struct undo_path {
    char *path, id[KEPT_ID_LEN + 1];
};

static struct undo *current; /* twalk passes nothing along */

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct undo_path *)a)->path, ((const struct undo_path *)b)->path);
}

static bool is_under(const char *path, const char *under)
{
    size_t n = strlen(under);
    return n == 0 || (strncmp(path, under, n) == 0 && (path[n] == '/' || path[n] == '\0'));
}

static bool before(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

/* What was kept since then and was there then; of a path the earliest of it. */
static bool counts(const struct undo *u, const struct kept *k)
{
    struct timespec when, written;
    if (k->path[0] == '\0' || !is_under(k->path, u->under))
        return false;
    if (!kept_parse_time(k->when, &when) || before(&when, &u->to))
        return false;
    return !kept_parse_time(k->written, &written) || !before(&u->to, &written);
}

static int visit(void *arg, const char *id)
{
    struct undo *u = arg;
    struct kept k;
    /* An id is a time, in microseconds: most of the history need not be looked at. */
    uint64_t at = strtoull(id, NULL, 16);
    if (at / 1000000 + 1 < (uint64_t)u->to.tv_sec)
        return 0;
    (void)watchdog_set(ANSWER_MS);
    int err = kept_load(u->f, "history", id, &k);
    if (err < 0)
        return err == -ENOENT ? 0 : err; /* it was dropped meanwhile */
    struct undo_path *p = counts(u, &k) ? malloc(sizeof(*p)) : NULL;
    if (p != NULL) {
        p->path = k.path;
        k.path = NULL;
        memcpy(p->id, id, sizeof(p->id));
        struct undo_path **in = tsearch(p, &u->paths, by_path);
        if (in == NULL)
            err = -ENOMEM;
        if (in == NULL || *in != p) { /* an earlier one has it */
            free(p->path);
            free(p);
        } else {
            u->count++;
        }
    }
    kept_free(&k);
    return err;
}

static void progress(const struct undo *u)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%zu of %zu", u->done + u->failed, u->count);
}

static void say(const struct kept *k, const char *what)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    printf("%s %s (%s by %s at %.19sZ)\n", what, k->path, k->why, k->winner, k->when);
}

static int put(const struct undo *u, const struct kept *k)
{
    char *path;
    struct stat st;
    if (asprintf(&path, "%s/%s", farm_folder(u->f), k->path) < 0)
        return -ENOMEM;
    bool there = lstat(path, &st) == 0, dir = strcmp(k->type, "directory") == 0;
    int err = there && S_ISDIR(st.st_mode) ? (dir ? 0 : -EISDIR)
              : there && dir               ? -ENOTDIR
                                           : kept_put(u->f, k, path, !dir);
    free(path);
    return err;
}

static void undo_one(struct undo *u, const struct undo_path *p)
{
    struct kept k;
    int err = kept_load(u->f, "history", p->id, &k);
    if (err == 0 && u->o->dry_run) {
        say(&k, "would restore");
        u->done++;
        kept_free(&k);
        return;
    }
    if (err == 0) {
        err = put(u, &k);
        if (err == 0)
            say(&k, "restored");
        kept_free(&k);
    }
    if (err < 0) {
        fprintf(stderr, "farmctl: undo: %s: %s\n", p->path, strerror(-err));
        u->failed++;
    } else {
        u->done++;
    }
    progress(u);
}

static void walk(const void *node, VISIT which, int depth)
{
    (void)depth;
    if (which == postorder || which == leaf) /* in the order of paths: directories first */
        undo_one(current, *(struct undo_path *const *)node);
}

static void free_path(void *p)
{
    struct undo_path *u = p;
    free(u->path);
    free(u);
}

/* 2026-11-22T10:00:00Z; 2026-11-22 10:00[:00] in local time; @SECONDS; 30m, 2h, 3d ago. */
static bool parse_when(const char *text, struct timespec *out)
{
    static const char *const forms[] = {"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S",
                                        "%Y-%m-%dT%H:%M", "%Y-%m-%d"};
    static const char units[] = "smhd";
    static const long seconds[] = {1, 60, 3600, 86400};
    char *end;
    if (kept_parse_time(text, out))
        return true;
    *out = (struct timespec){0};
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        struct tm tm = {.tm_isdst = -1};
        const char *rest = strptime(text, forms[i], &tm);
        if (rest != NULL && *rest == '\0') {
            out->tv_sec = mktime(&tm);
            return true;
        }
    }
    bool epoch = text[0] == '@';
    long n = strtol(text + epoch, &end, 10);
    const char *unit = *end != '\0' && end[1] == '\0' ? strchr(units, *end) : NULL;
    if (end == text + epoch || n < 0 || (epoch ? *end != '\0' : unit == NULL))
        return false;
    out->tv_sec = epoch ? n : time(NULL) - n * seconds[unit - units];
    return true;
}

int ctl_undo(const struct farm *f, const struct options *o)
{
    struct undo u = {.f = f, .o = o};
    if (o->to == NULL || !parse_when(o->to, &u.to)) {
        fprintf(stderr,
                "farmctl: undo: expected --to TIME, such as 2h, \"2026-11-22 10:00\" or "
                "2026-11-22T10:00:00Z%s%s\n",
                o->to != NULL ? ", not " : "", o->to != NULL ? o->to : "");
        return EXIT_USAGE;
    }
    char *under = o->nargs > 0 ? kept_folder_path(f, o->args[0]) : strdup("");
    if (under == NULL)
        return EXIT_FAILED;
    u.under = under;
    int err = kept_each(f, "history", visit, &u);
    if (err < 0) {
        free(under);
        tdestroy(u.paths, free_path);
        return ctl_failed(f, "history", err);
    }
    current = &u;
    twalk(u.paths, walk);
    tdestroy(u.paths, free_path);
    if (isatty(STDERR_FILENO) && !o->dry_run)
        fputs("\r\033[K", stderr);
    printf("%zu %s%s", u.done, o->dry_run ? "would be restored" : "restored",
           u.failed == 0 ? "\n" : "");
    if (u.failed > 0)
        printf(", %zu failed\n", u.failed);
    free(under);
    return u.failed == 0 ? EXIT_OK : EXIT_FAILED;
}
