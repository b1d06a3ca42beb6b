/* SPDX-License-Identifier: GPL-3.0-or-later */
/* After everything was healed and all trees were found equal: was the ledger kept? */
#include "chaos.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One operation in shared/. */
struct op {
    int64_t from, to;
    struct vid id, on;
    char word[12]; /* "content", or the word of a name operation */
    char a[32], b[32];
    int err; /* 0; -1: it never ended */
};

struct torn {
    int64_t from, to;
    char path[64];
};

struct judge {
    const char *dir, *lab;
    unsigned nodes;
    struct op *ops;
    size_t nops, ops_size;
    struct torn *torn;
    size_t ntorn, torn_size;
    struct vid *there; /* in a shared file, or in a kept loser */
    size_t nthere, there_size;
    unsigned char *buf;
    unsigned long failures, files, losers, promised, built_on, present, weak, excused;
};

static void fail_line(struct judge *j, const char *fmt, const char *a, struct vid v)
{
    j->failures++;
    if (j->failures <= 40) {
        printf("failed: ");
        printf(fmt, a, v.writer, v.counter);
        putchar('\n');
    }
}

static void *grown(void *v, size_t n, size_t *size, size_t each)
{
    if (n < *size) {
        return v;
    }
    *size = *size ? *size * 2 : 256;
    v = realloc(v, *size * each);
    if (v == NULL) {
        perror("farmchaos");
        exit(2);
    }
    return v;
}

/* ---- what was written down ---- */

static void add_op(struct judge *j, const struct op *o)
{
    /* The line of the end replaces that of the beginning. */
    for (size_t i = j->nops; i > 0 && j->nops - i < 4; i--) {
        struct op *was = &j->ops[i - 1];
        if (was->err == -1 && was->from == o->from && strcmp(was->a, o->a) == 0 &&
            strcmp(was->word, o->word) == 0) {
            *was = *o;
            return;
        }
    }
    j->ops = grown(j->ops, j->nops, &j->ops_size, sizeof *j->ops);
    j->ops[j->nops++] = *o;
}

static void read_ledger(struct judge *j, unsigned writer)
{
    char path[512], line[400];

    snprintf(path, sizeof path, "%s/ledger.%u", j->dir, writer);
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        fail_line(j, "%s is missing (%u:%u)", path, (struct vid){writer, 0});
        return;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        struct op o = {.word = "content"};
        struct torn t;
        long long from, to;

        if (sscanf(line, "C %lld %lld %31s %u:%u %u:%u %d", &from, &to, o.a, &o.id.writer,
                   &o.id.counter, &o.on.writer, &o.on.counter, &o.err) == 8 ||
            sscanf(line, "N %lld %lld %11s %31s %31s %u:%u %d", &from, &to, o.word, o.a, o.b,
                   &o.id.writer, &o.id.counter, &o.err) == 8) {
            o.from = from;
            o.to = to;
            add_op(j, &o);
        } else if (sscanf(line, "T %lld %lld %63s", &from, &to, t.path) == 3) {
            t.from = from;
            t.to = to;
            j->torn = grown(j->torn, j->ntorn, &j->torn_size, sizeof *j->torn);
            j->torn[j->ntorn++] = t;
        }
    }
    fclose(f);
}

static void note_there(struct judge *j, const struct chain *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        j->there = grown(j->there, j->nthere, &j->there_size, sizeof *j->there);
        j->there[j->nthere++] = c->seg[i].id;
    }
}

static bool is_there(const struct judge *j, struct vid v)
{
    for (size_t i = 0; i < j->nthere; i++) {
        if (vid_same(j->there[i], v)) {
            return true;
        }
    }
    return false;
}

/* Was a write to this path of shared/ broken off before that time? Names move, so there it is
 * enough that one was. */
static bool shared_torn(const struct judge *j, const char *name, int64_t before)
{
    for (size_t i = 0; i < j->nops; i++) {
        const struct op *o = &j->ops[i];

        if (o->err != 0 && o->from <= before && o->id.writer != 0 &&
            (strcmp(o->word, "content") != 0 ? name[0] != 'c' : strcmp(o->a, name) == 0)) {
            return true;
        }
    }
    return false;
}

/* ---- files ---- */

static bool parse_file(struct judge *j, int dirfd, const char *name, struct chain *c)
{
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    long size = fd < 0 ? -errno : file_read(fd, j->buf);

    if (fd >= 0) {
        close(fd);
    }
    if (size < 0) {
        return false;
    }
    chain_parse(j->buf, (size_t)size, c);
    return true;
}

static void walk_shared(struct judge *j, const char *sub)
{
    char path[600], name[600];
    struct chain c;
    int fd = mount_dir(j->lab, 1, sub);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *de;

    if (d == NULL) {
        fail_line(j, "%s cannot be read (%u:%u)", sub, (struct vid){0, 0});
        return;
    }
    while ((de = readdir(d)) != NULL) {
        if (de->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", sub, de->d_name);
        if (de->d_type == DT_DIR) {
            walk_shared(j, path);
            continue;
        }
        j->files++;
        snprintf(name, sizeof name, "%s", path + sizeof "shared/" - 1);
        if (!parse_file(j, fd, de->d_name, &c)) {
            fail_line(j, "%s cannot be read (%u:%u)", path, (struct vid){0, 0});
        } else if (c.whole) {
            note_there(j, &c);
        } else if (shared_torn(j, name, INT64_MAX)) {
            note_there(j, &c);
            j->excused++;
        } else {
            fail_line(j, "%s is half a file after %u:%u", path, chain_last(&c));
        }
    }
    closedir(d);
}

/* What lost a conflict, wherever it is kept. A writer's own area has no conflicts. */
static void walk_losers(struct judge *j, const char *dir)
{
    char path[1024];
    struct chain c;
    struct dirent *de;
    DIR *d = opendir(dir);

    if (d == NULL) {
        return;
    }
    while ((de = readdir(d)) != NULL) {
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) {
            continue;
        }
        if (de->d_type == DT_DIR) {
            snprintf(path, sizeof path, "%s/%s", dir, de->d_name);
            walk_losers(j, path);
        } else if (de->d_type == DT_REG && parse_file(j, dirfd(d), de->d_name, &c) && c.n > 0) {
            j->losers++;
            note_there(j, &c);
            if (c.seg[0].area == AREA_OWN) {
                snprintf(path, sizeof path, "%s/%s", dir, de->d_name);
                fail_line(j, "%s: a conflict where only one writes: %u:%u", path, chain_last(&c));
            }
        }
    }
    closedir(d);
}

static void check_own(struct judge *j, unsigned writer)
{
    char path[512], sub[32], who[64];
    struct model m;

    snprintf(path, sizeof path, "%s/model.%u", j->dir, writer);
    FILE *f = fopen(path, "r");
    bool good = f != NULL && fread(&m, sizeof m, 1, f) == 1;
    if (f != NULL) {
        fclose(f);
    }
    snprintf(sub, sizeof sub, "own/%u", writer);
    for (unsigned n = 1; n <= j->nodes && good; n++) {
        int fd = mount_dir(j->lab, n, sub);

        snprintf(who, sizeof who, "web%u, of writer %u", n, writer);
        unsigned bad = fd < 0 ? 1 : model_compare(fd, &m, false, who, j->buf);
        if (fd >= 0) {
            close(fd);
        }
        if (bad > 0) {
            fail_line(j, "%s: not what writer %u left (%u)", sub, (struct vid){writer, bad});
        }
    }
    if (!good) {
        fail_line(j, "%s cannot be read (%u:%u)", path, (struct vid){writer, 0});
    }
    for (int i = 0; i < FILES && good; i++) {
        j->files += m.inode_of[i] >= 0;
    }
}

/* ---- promises ---- */

static bool built_upon(const struct judge *j, const struct op *v)
{
    for (size_t i = 0; i < j->nops; i++) {
        if (j->ops[i].id.writer != 0 && vid_same(j->ops[i].on, v->id)) {
            return true;
        }
    }
    return false;
}

static bool touches(const struct op *o, const char *path)
{
    const char *slash = strchr(path, '/');
    size_t dir = slash != NULL ? (size_t)(slash - path) : 0;

    return strcmp(o->a, path) == 0 || strcmp(o->b, path) == 0 ||
           (dir > 0 && ((strncmp(o->a, path, dir) == 0 && o->a[dir] == 0) ||
                        (strncmp(o->b, path, dir) == 0 && o->b[dir] == 0)));
}

/* Did anything happen to this name, or its directory, after it was written or meanwhile? */
static bool name_followed(const struct judge *j, const struct op *v)
{
    for (size_t i = 0; i < j->nops; i++) {
        const struct op *o = &j->ops[i];

        if (o != v && strcmp(o->word, "content") != 0 && touches(o, v->a) &&
            (o->err == -1 || o->to >= v->from)) {
            return true;
        }
    }
    return false;
}

static void check_promises(struct judge *j)
{
    for (size_t i = 0; i < j->nops; i++) {
        const struct op *v = &j->ops[i];

        if (v->id.writer == 0 || v->err != 0) {
            continue;
        }
        j->promised++;
        if (is_there(j, v->id)) {
            j->present++;
        } else if (strcmp(v->word, "content") == 0) {
            if (built_upon(j, v)) {
                j->built_on++;
            } else {
                fail_line(j, "shared/%s: %u:%u was acknowledged and is lost", v->a, v->id);
            }
        } else if (name_followed(j, v)) {
            j->weak++;
        } else {
            fail_line(j, "shared/%s: %u:%u was acknowledged and is gone", v->a, v->id);
        }
    }
}

static bool own_torn(const struct judge *j, const char *path, int64_t at)
{
    for (size_t i = 0; i < j->ntorn; i++) {
        if (strcmp(j->torn[i].path, path) == 0 && at >= j->torn[i].from - 60000000 &&
            at <= j->torn[i].to + 120000000) {
            return true;
        }
    }
    return false;
}

static void check_seen(struct judge *j, unsigned node)
{
    char path[512], seen[200], line[400];
    unsigned n;
    long size;
    long long at;

    snprintf(path, sizeof path, "%s/seen.%u", j->dir, node);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%lld %199s %ld %u", &at, seen, &size, &n) != 4) {
            continue;
        }
        if (strncmp(seen, "shared/", 7) == 0 ? shared_torn(j, seen + 7, at)
                                             : own_torn(j, seen, at)) {
            j->excused++;
        } else {
            char text[300];

            snprintf(text, sizeof text, "at %lld web%u showed half a file: %s of %ld bytes", at,
                     node, seen, size);
            fail_line(j, "%s (%u:%u)", text, (struct vid){0, n});
        }
    }
    if (f != NULL) {
        fclose(f);
    }
}

int chaos_judge(const char *dir, const char *lab, unsigned nodes, char **losers, int nlosers)
{
    struct judge j = {.dir = dir, .lab = lab, .nodes = nodes, .buf = malloc(FILE_MAX + 1)};

    if (j.buf == NULL) {
        return 2;
    }
    for (unsigned w = WRITERS_PER_NODE; w < (nodes + 1) * WRITERS_PER_NODE; w++) {
        read_ledger(&j, w);
        check_own(&j, w);
    }
    walk_shared(&j, "shared");
    size_t shown = j.nthere;
    for (int i = 0; i < nlosers; i++) {
        walk_losers(&j, losers[i]);
    }
    check_promises(&j);
    for (unsigned n = 1; n <= nodes; n++) {
        check_seen(&j, n);
    }
    printf("judge: files %lu shared-versions %lu: there-or-kept %lu built-upon %lu name-taken %lu; "
           "segments in the tree %zu; losers kept %lu; half files of broken calls %lu; failures "
           "%lu\n",
           j.files, j.promised, j.present, j.built_on, j.weak, shown, j.losers, j.excused,
           j.failures);
    return j.failures == 0 ? 0 : 1;
}
