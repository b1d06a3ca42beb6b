/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mount/control_paths.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define ROOT 1u
#define NODES_MAX 65536u
#define PATHS_MAX (4u << 20) /* bytes of all paths of the tree, when it is walked */

struct control_node {
    uint64_t lookups; /* by the kernel, not forgotten yet */
    char path[];
};

void control_paths_init(struct control_paths *t, const struct control_provider *p, uint64_t key)
{
    *t = (struct control_paths){.p = p, .key = key};
    map_u64_init(&t->nodes);
}

void control_paths_fini(struct control_paths *t)
{
    uint64_t id;
    struct control_node *n;
    for (size_t it = 0; (n = map_u64_next(&t->nodes, &it, &id)) != NULL;)
        free(n);
    map_u64_fini(&t->nodes);
}

uint64_t control_paths_id(const struct control_paths *t, const char *path)
{
    if (path[0] == '\0')
        return ROOT;
    uint64_t id = XXH3_64bits_withSeed(path, strlen(path), t->key);
    return id <= ROOT ? id + 2 : id;
}

bool control_name_valid(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > NAME_MAX || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (const unsigned char *s = (const unsigned char *)name; *s != '\0'; s++)
        if (*s == '/' || *s < ' ' || *s == 0x7f)
            return false;
    return true;
}

int control_path_join(const char *dir, const char *name, char out[PATH_MAX])
{
    if (!control_name_valid(name))
        return -ENOENT;
    int n = snprintf(out, PATH_MAX, "%s%s%s", dir, dir[0] != '\0' ? "/" : "", name);
    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* A node beyond the bound takes the place of another, which is found again by its path. */
static void evict_node(struct control_paths *t)
{
    uint64_t id;
    struct control_node *n = map_u64_next(&t->nodes, &t->evict, &id);
    if (n == NULL) {
        t->evict = 0;
        n = map_u64_next(&t->nodes, &t->evict, &id);
    }
    if (n != NULL)
        free(map_u64_del(&t->nodes, id));
}

static int node_put(struct control_paths *t, const char *path, struct control_node **out)
{
    uint64_t id = control_paths_id(t, path);
    struct control_node *n = map_u64_get(&t->nodes, id);
    if (n == NULL) {
        if (t->nodes.n >= NODES_MAX)
            evict_node(t);
        size_t len = strlen(path) + 1;
        n = malloc(sizeof(*n) + len);
        if (n == NULL)
            return -ENOMEM;
        n->lookups = 0;
        memcpy(n->path, path, len);
        int err = map_u64_set(&t->nodes, id, n, NULL);
        if (err < 0) {
            free(n);
            return err;
        }
    } else if (strcmp(n->path, path) != 0) {
        return -EIO; /* two paths with one hash: the first keeps it */
    }
    *out = n;
    return 0;
}

struct walk {
    const struct control_paths *t;
    uint64_t id;
    const char *dir;
    struct buf dirs; /* directories to list: a byte, their type, then the path and a NUL */
    char found[PATH_MAX];
    bool done;
};

static void walk_push(struct walk *w, const char *path, enum control_type type)
{
    buf_put_u8(&w->dirs, (uint8_t)type);
    buf_put(&w->dirs, path, strlen(path) + 1);
}

static void walk_entry(void *arg, const char *name, const struct control_stat *st)
{
    struct walk *w = arg;
    char path[PATH_MAX];
    if (w->done || control_path_join(w->dir, name, path) < 0)
        return;
    if (control_paths_id(w->t, path) == w->id) {
        memcpy(w->found, path, strlen(path) + 1);
        w->done = true;
    } else if (st->type == CONTROL_DIR || st->type == CONTROL_PAGES) {
        walk_push(w, path, st->type);
    }
}

static bool walk_paged(void *arg, const char *name, const struct control_stat *st, uint64_t next)
{
    struct walk *w = arg;
    (void)next;
    walk_entry(w, name, st);
    return !w->done;
}

/* An id given out by a former worker: which path has it? */
static int node_find(struct control_paths *t, uint64_t id, struct control_node **out)
{
    struct walk w = {.t = t, .id = id};
    buf_init(&w.dirs, PATHS_MAX);
    walk_push(&w, "", CONTROL_DIR);
    int err = w.dirs.err;
    for (size_t at = 0; err == 0 && !w.done && at < w.dirs.len;) {
        char dir[PATH_MAX]; /* a copy: the buffer moves while entries are added */
        enum control_type type = w.dirs.data[at++];
        size_t len = strlen((const char *)w.dirs.data + at) + 1;
        memcpy(dir, w.dirs.data + at, len);
        at += len;
        w.dir = dir;
        err = type == CONTROL_PAGES ? t->p->page(t->p->ctx, dir, 0, walk_paged, &w)
                                    : t->p->list(t->p->ctx, dir, walk_entry, &w);
        if (err == -ENOENT)
            err = 0; /* it vanished meanwhile */
    }
    buf_fini(&w.dirs);
    if (err < 0)
        return err;
    return w.done ? node_put(t, w.found, out) : -ESTALE;
}

int control_paths_get(struct control_paths *t, uint64_t id, const char **out)
{
    if (id == ROOT) {
        *out = "";
        return 0;
    }
    struct control_node *n = map_u64_get(&t->nodes, id);
    if (n == NULL) {
        int err = node_find(t, id, &n);
        if (err < 0)
            return err;
    }
    *out = n->path;
    return 0;
}

int control_paths_looked_up(struct control_paths *t, const char *path)
{
    struct control_node *n;
    int err = node_put(t, path, &n);
    if (err == 0)
        n->lookups++;
    return err;
}

void control_paths_forget(struct control_paths *t, uint64_t id, uint64_t n)
{
    struct control_node *node = map_u64_get(&t->nodes, id);
    if (node == NULL)
        return;
    node->lookups -= n < node->lookups ? n : node->lookups;
    if (node->lookups == 0)
        free(map_u64_del(&t->nodes, id));
}
