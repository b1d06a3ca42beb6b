/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Lists of what is kept, and why a path is what it is. */
#include "ctl/format.h"
#include "ctl/kept.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DROP_MS 60000

/* ---- lists ---- */

struct listing {
    const struct farm *f;
    const struct options *o;
    const char *dir, *under;
    size_t count;
};

static int print_json(struct listing *l, const char *id)
{
    char file[64], *text;
    snprintf(file, sizeof(file), "%s/%s.json", l->dir, id);
    int err = farm_read(l->f, file, &text, NULL);
    if (err < 0)
        return err == -ENOENT ? 0 : err;
    size_t n = strlen(text);
    printf("%s%.*s", l->count++ > 0 ? ",\n" : "", (int)(n > 0 ? n - 1 : 0), text);
    free(text);
    return 0;
}

static void print_line(struct listing *l, const struct kept *k)
{
    char number[32], size[FORMAT_TEXT_MAX];
    if (l->count++ == 0)
        format_coloured(stdout, l->o->colour, COLOUR_BOLD,
                        "ID                KEPT                  WRITTEN BY  SIZE        PATH\n",
                        69);
    snprintf(number, sizeof(number), "%llu", (unsigned long long)k->size);
    format_bytes(number, size);
    printf("%s  %.10s %.8sZ  %-10s  %-10s  %s%s (%s; %s is shown)\n", k->id, k->when, k->when + 11,
           k->node, strcmp(k->type, "file") == 0 ? size : k->type,
           k->path[0] != '\0' ? k->path : "(path unknown)",
           k->data || strcmp(k->type, "directory") == 0 ? "" : " [content not here]", k->why,
           k->winner);
}

static int visit(void *arg, const char *id)
{
    struct listing *l = arg;
    struct kept k;
    (void)watchdog_set(ANSWER_MS);
    size_t n = strlen(l->under);
    if (l->o->json && n == 0)
        return print_json(l, id);
    int err = kept_load(l->f, l->dir, id, &k);
    if (err < 0)
        return err == -ENOENT ? 0 : err; /* it was dropped meanwhile */
    bool wanted =
        n == 0 || (strncmp(k.path, l->under, n) == 0 && (k.path[n] == '/' || k.path[n] == '\0'));
    if (wanted && l->o->json)
        err = print_json(l, id);
    else if (wanted)
        print_line(l, &k);
    kept_free(&k);
    return err;
}

static int list(const struct farm *f, const struct options *o, const char *dir, const char *none)
{
    struct listing l = {.f = f, .o = o, .dir = dir};
    char *under = o->nargs > 0 ? kept_folder_path(f, o->args[0]) : strdup("");
    if (under == NULL)
        return EXIT_FAILED;
    l.under = under;
    if (o->json)
        putchar('[');
    int err = kept_each(f, dir, visit, &l);
    if (o->json)
        puts("]");
    else if (err == 0 && l.count == 0)
        puts(none);
    free(under);
    return err < 0 ? ctl_failed(f, dir, err) : EXIT_OK;
}

int ctl_history(const struct farm *f, const struct options *o)
{
    return list(f, o, "history",
                "nothing is in the history (it is off unless the configuration has history = 7d "
                "or the like)");
}

/* ---- discarding ---- */

/* The daemon drops it within a moment. */
static int wait_dropped(const struct farm *f, const char *dir, const char *id)
{
    char file[64];
    snprintf(file, sizeof(file), "%s/%s.json", dir, id);
    for (int i = 0; i < DROP_MS / 20; i++) {
        int fd, err = farm_stream(f, file, &fd);
        if (err == -ENOENT)
            return EXIT_OK;
        if (err < 0)
            return ctl_failed(f, file, err);
        close(fd);
        (void)watchdog_set(ANSWER_MS); /* it answers: it is at work */
        usleep(20000);
    }
    fprintf(stderr, "farmctl: conflict %s is still there: see farmctl events\n", id);
    return EXIT_FAILED;
}

static int drop_one(const struct farm *f, const char *id)
{
    struct kept k;
    if (!kept_id_valid(id)) {
        fprintf(stderr, "farmctl: --drop %s: expected an id of 16 hex digits, or --all\n", id);
        return EXIT_USAGE;
    }
    const char *dir = "conflicts";
    int err = kept_load(f, dir, id, &k);
    if (err == -ENOENT)
        err = kept_load(f, dir = "history", id, &k);
    if (err == -ENOENT) {
        fprintf(stderr, "farmctl: nothing is kept under %s, see farmctl conflicts\n", id);
        return EXIT_FAILED;
    }
    if (err < 0)
        return ctl_failed(f, dir, err);
    bool hidden = strcmp(k.kind, "hidden") == 0;
    if (hidden)
        fprintf(stderr,
                "farmctl: %s is hidden under %s and part of the folder: it goes when that name is "
                "deleted\n",
                id, k.path);
    kept_free(&k);
    if (hidden)
        return EXIT_FAILED;
    err = farm_write(f, "drop", id, strlen(id));
    return err < 0 ? ctl_failed(f, "drop", err) : wait_dropped(f, dir, id);
}

struct last {
    char id[KEPT_ID_LEN + 1];
    size_t count, hidden;
};

static int find_last(void *arg, const char *id)
{
    struct last *l = arg;
    if (id[0] >= '2') { /* hidden names come last, and begin so */
        l->hidden++;
        return 0;
    }
    memcpy(l->id, id, sizeof(l->id));
    l->count++;
    return 0;
}

static int drop_all(const struct farm *f)
{
    struct last l = {.count = 0};
    int err = kept_each(f, "conflicts", find_last, &l);
    if (err == 0 && l.count > 0)
        err = farm_write(f, "drop", "all", 3);
    if (err < 0)
        return ctl_failed(f, "drop", err);
    int code = l.count > 0 ? wait_dropped(f, "conflicts", l.id) : EXIT_OK;
    if (code != EXIT_OK)
        return code;
    printf("%zu dropped\n", l.count);
    if (l.hidden > 0)
        printf("%zu hidden under other files stay: they are part of the folder\n", l.hidden);
    return EXIT_OK;
}

int ctl_conflicts(const struct farm *f, const struct options *o)
{
    if (o->all)
        return drop_all(f);
    if (o->drop != NULL)
        return drop_one(f, o->drop);
    return list(f, o, "conflicts", "no conflicts");
}

/* ---- why ---- */

int ctl_why(const struct farm *f, const struct options *o)
{
    char *path = kept_folder_path(f, o->args[0]), *file = NULL, *text;
    if (path == NULL)
        return EXIT_FAILED;
    const char *dir = o->json ? "why.json" : "why";
    int err = asprintf(&file, "%s/%s", dir, path) < 0 ? -ENOMEM : 0;
    if (err == 0 && path[0] != '\0')
        err = farm_read(f, file, &text, NULL);
    if (err == -EISDIR || path[0] == '\0') {
        free(file);
        err =
            asprintf(&file, "%s/%s%s.why", dir, path, path[0] != '\0' ? "/" : "") < 0 ? -ENOMEM : 0;
        if (err == 0)
            err = farm_read(f, file, &text, NULL);
    }
    free(file);
    if (err == -ENOENT)
        fprintf(stderr,
                "farmctl: why: /%s is not in the folder %s and nothing is known of it (what was "
                "deleted is forgotten when all nodes know; see farmctl history)\n",
                path, farm_folder(f));
    free(path);
    if (err < 0)
        return err == -ENOENT ? EXIT_FAILED : ctl_failed(f, dir, err);
    fputs(text, stdout);
    free(text);
    return EXIT_OK;
}
