/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "oracle.h"

#include "base/log.h"

#include <stdlib.h>

#define PATH_MAX_BYTES 4096u

struct fact {
    const struct name_rec *n;
    const struct content_rec *content; /* NULL: not there */
    bool dir, wanted, cycle, cut, rooted;
    struct id128 parent; /* effective */
    const uint8_t *name;
    uint8_t len;
    char *path; /* of a directory; NULL: not in the tree */
};

struct oracle {
    const struct name_rec *const *names;
    const struct content_rec *const *contents;
    struct fact *f;
    size_t n, ncontents;
};

static const struct content_rec *content_of(const struct oracle *o, struct id128 rid)
{
    for (size_t i = 0; i < o->ncontents; i++) {
        if (id_eq(o->contents[i]->rid, rid))
            return o->contents[i];
    }
    return NULL;
}

static bool parent_exists(const struct oracle *o, const struct name_rec *n)
{
    const struct content_rec *c = content_of(o, n->parent);

    return id_eq(n->parent, RID_ROOT) || (c && c->type == NODE_DIR);
}

/* Rule 1 but for 1b. */
static bool wanted_by_itself(const struct oracle *o, const struct fact *f)
{
    if (f->n->alive)
        return true;
    if (f->dir || vvec_includes(&f->n->seen, &f->content->vv))
        return false;
    for (size_t i = 0; i < o->n; i++) {
        const struct name_rec *b = o->f[i].n;

        if (b == f->n || !id_eq(b->inode, f->n->inode))
            continue;
        if (b->alive)
            return false;
        if (!vvec_includes(&b->seen, &f->content->vv) && head_wins(&b->h, &f->n->h))
            return false;
    }
    return true;
}

static bool is_first_name(const struct oracle *o, const struct fact *f)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct name_rec *b = o->f[i].n;

        if (b == f->n || !id_eq(b->inode, f->n->inode))
            continue;
        if (b->alive != f->n->alive ? b->alive : head_wins(&b->h, &f->n->h))
            return false;
    }
    return true;
}

static void find_wanted(struct oracle *o)
{
    bool more = true;

    for (size_t i = 0; i < o->n; i++) {
        struct fact *f = &o->f[i];

        f->n = o->names[i];
        f->content = content_of(o, f->n->inode);
        f->dir = f->content && f->content->type == NODE_DIR;
    }
    for (size_t i = 0; i < o->n; i++) {
        struct fact *f = &o->f[i];

        f->wanted = f->content && parent_exists(o, f->n) && (!f->dir || is_first_name(o, f)) &&
                    wanted_by_itself(o, f);
    }
    while (more) {
        more = false;
        for (size_t i = 0; i < o->n; i++) {
            struct fact *f = &o->f[i];

            if (f->wanted || !f->dir || !parent_exists(o, f->n) || !is_first_name(o, f))
                continue;
            for (size_t j = 0; j < o->n && !f->wanted; j++)
                f->wanted = o->f[j].wanted && id_eq(o->f[j].n->parent, f->n->inode);
            more = more || f->wanted;
        }
    }
}

/* The wanted name of a directory. */
static struct fact *dir_fact(const struct oracle *o, struct id128 rid)
{
    for (size_t i = 0; i < o->n; i++) {
        if (o->f[i].dir && o->f[i].wanted && id_eq(o->f[i].n->inode, rid))
            return &o->f[i];
    }
    return NULL;
}

static void find_cycles(struct oracle *o)
{
    for (size_t i = 0; i < o->n; i++) {
        struct fact *f = &o->f[i], *up = f;
        bool latest = true;

        if (!f->dir || !f->wanted)
            continue;
        for (size_t steps = 0; steps <= o->n && up && !f->cycle && !f->rooted; steps++) {
            f->rooted = id_eq(up->n->parent, RID_ROOT);
            up = dir_fact(o, up->n->parent);
            if (up == f)
                f->cycle = true;
            else if (up && head_wins(&up->n->h, &f->n->h))
                latest = false;
        }
        f->cut = f->cycle && latest;
    }
}

static void find_effective(struct oracle *o)
{
    for (size_t i = 0; i < o->n; i++) {
        struct fact *f = &o->f[i];
        const struct fact *prev = dir_fact(o, f->n->prev_parent);

        f->parent = f->n->parent;
        f->name = f->n->name;
        f->len = f->n->name_len;
        if (!f->cut)
            continue;
        f->parent = RID_ROOT;
        if (f->n->prev_len > 0 && (id_eq(f->n->prev_parent, RID_ROOT) || (prev && prev->rooted))) {
            f->parent = f->n->prev_parent;
            f->name = f->n->prev_name;
            f->len = f->n->prev_len;
        }
    }
}

static void find_path(struct oracle *o, struct fact *f)
{
    char path[PATH_MAX_BYTES];
    size_t at = sizeof(path);
    const struct fact *d = f;

    for (;;) {
        farm_assert(at > d->len + 1u);
        at -= d->len;
        memcpy(path + at, d->name, d->len);
        path[--at] = '/';
        if (id_eq(d->parent, RID_ROOT))
            break;
        d = dir_fact(o, d->parent);
        if (!d)
            return;
    }
    f->path = strndup(path + at, sizeof(path) - at);
    farm_assert(f->path != NULL);
}

/* The smallest of the directories of dir's path; false when it is not in the tree. */
static bool canon(const struct oracle *o, struct id128 dir, struct id128 *out)
{
    if (id_eq(dir, RID_ROOT)) {
        *out = dir;
        return true;
    }
    const struct fact *f = dir_fact(o, dir);

    if (!f || !f->path)
        return false;
    *out = dir;
    for (size_t i = 0; i < o->n; i++) {
        const struct fact *b = &o->f[i];

        if (b->path && strcmp(b->path, f->path) == 0 && id_cmp(b->n->inode, *out) < 0)
            *out = b->n->inode;
    }
    return true;
}

static void find_places(const struct oracle *o, struct place *out)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct fact *f = &o->f[i];

        out[i] = (struct place){.kind = PLACE_NONE};
        if (!f->wanted || !canon(o, f->parent, &out[i].parent))
            continue;
        out[i].kind = PLACE_AT;
        out[i].cut = f->cut || (f->cycle && !f->n->alive);
        out[i].name_len = f->len;
        memcpy(out[i].name, f->name, f->len);
    }
    for (size_t i = 0; i < o->n; i++) {
        for (size_t j = 0; j < o->n; j++) {
            const struct fact *a = &o->f[i], *b = &o->f[j];

            if (i == j || out[i].kind == PLACE_NONE || out[j].kind == PLACE_NONE ||
                !id_eq(out[i].parent, out[j].parent) || a->len != b->len ||
                memcmp(a->name, b->name, a->len) != 0)
                continue;
            if (a->dir != b->dir ? b->dir
                : a->dir         ? id_cmp(b->n->inode, a->n->inode) < 0
                                 : head_wins(&b->n->h, &a->n->h))
                out[i].kind = PLACE_HIDDEN;
        }
    }
}

void oracle_places_of(const struct name_rec *const *names, size_t n,
                      const struct content_rec *const *contents, size_t ncontents,
                      struct place *out)
{
    struct oracle o = {.names = names, .contents = contents, .n = n, .ncontents = ncontents};

    o.f = calloc(n + 1, sizeof(*o.f));
    farm_assert(o.f != NULL);
    find_wanted(&o);
    find_cycles(&o);
    find_effective(&o);
    for (size_t i = 0; i < n; i++) {
        if (o.f[i].dir && o.f[i].wanted)
            find_path(&o, &o.f[i]);
    }
    find_places(&o, out);
    for (size_t i = 0; i < n; i++)
        free(o.f[i].path);
    free(o.f);
}

struct place *oracle_places(const struct memrecords *m)
{
    struct place *out = calloc(m->nnames + 1, sizeof(*out));
    const struct name_rec **names = calloc(m->nnames + 1, sizeof(*names));
    const struct content_rec **contents = calloc(m->ncontents + 1, sizeof(*contents));

    farm_assert(out != NULL && names != NULL && contents != NULL);
    for (size_t i = 0; i < m->nnames; i++)
        names[i] = &m->names[i]->rec;
    for (size_t i = 0; i < m->ncontents; i++)
        contents[i] = &m->contents[i]->rec;
    oracle_places_of(names, m->nnames, contents, m->ncontents, out);
    free(names);
    free(contents);
    return out;
}
