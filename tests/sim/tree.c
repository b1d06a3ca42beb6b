/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tree.h"

#include "base/log.h"

#include <stdlib.h>

void tree_fini(struct tree *t)
{
    free(t->e);
}

struct entry *tree_at(const struct tree *t, struct id128 parent, uint8_t name)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->e[i].name == name && id_eq(t->e[i].parent, parent))
            return &t->e[i];
    }
    return NULL;
}

bool tree_empty(const struct tree *t, struct id128 dir)
{
    for (size_t i = 0; i < t->n; i++) {
        if (id_eq(t->e[i].parent, dir))
            return false;
    }
    return true;
}

static const struct entry *dir_entry(const struct tree *t, struct id128 dir)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->e[i].dir && id_eq(t->e[i].inode, dir))
            return &t->e[i];
    }
    return NULL;
}

bool tree_below(const struct tree *t, struct id128 dir, struct id128 top)
{
    for (size_t steps = 0; steps <= t->n; steps++) {
        const struct entry *e;

        if (id_eq(dir, top))
            return true;
        e = dir_entry(t, dir);
        if (!e)
            return false;
        dir = e->parent;
    }
    return true;
}

void tree_add(struct tree *t, struct entry e)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 16;
        t->e = realloc(t->e, t->cap * sizeof(*t->e));
        farm_assert(t->e != NULL);
    }
    t->e[t->n++] = e;
}

void tree_remove(struct tree *t, struct entry *e)
{
    *e = t->e[--t->n];
}

static bool is_dir(const struct records *r, struct id128 rid)
{
    struct content_rec c;

    return r->get_content(r->ctx, rid, &c) == 0 && c.type == NODE_DIR;
}

const char *tree_apply(struct tree *t, const struct records *r, const struct view_change *c,
                       size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct entry *e;

        if (c[i].from.kind != PLACE_AT)
            continue;
        e = tree_at(t, c[i].from.parent, c[i].from.name[0]);
        if (!e || !id_eq(e->nid, c[i].nid))
            return "a change from where its name is not";
        tree_remove(t, e);
    }
    for (size_t i = 0; i < n; i++) {
        const struct place *to = &c[i].to;

        if (to->kind != PLACE_AT)
            continue;
        if (i > 0 && c[i - 1].to.kind != PLACE_AT)
            return "a name is placed after one that leaves";
        if (!id_eq(to->parent, RID_ROOT) && !dir_entry(t, to->parent))
            return "a name is placed before its directory";
        if (tree_at(t, to->parent, to->name[0]))
            return "a name is placed where another one is";
        tree_add(t, (struct entry){.nid = c[i].nid,
                                   .inode = c[i].inode,
                                   .parent = to->parent,
                                   .name = to->name[0],
                                   .dir = is_dir(r, c[i].inode)});
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            if (c[i].to.kind != PLACE_AT && c[i].from.kind == PLACE_AT &&
                c[j].from.kind == PLACE_AT && id_eq(c[j].from.parent, c[i].inode))
                return "a directory leaves before what is in it";
        }
    }
    return NULL;
}

const char *tree_check(const struct tree *t)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct entry *a = &t->e[i];

        if (!id_eq(a->parent, RID_ROOT) && !dir_entry(t, a->parent))
            return "an entry without its directory";
        if (a->dir && tree_below(t, a->parent, a->inode))
            return "a directory inside itself";
        for (size_t j = i + 1; j < t->n; j++) {
            const struct entry *b = &t->e[j];

            if (a->name == b->name && id_eq(a->parent, b->parent))
                return "two entries of one name";
            if (a->dir && id_eq(a->inode, b->inode))
                return "a directory in two places";
        }
    }
    return NULL;
}

bool tree_equal(const struct tree *a, const struct tree *b)
{
    for (size_t i = 0; i < a->n; i++) {
        const struct entry *x = &a->e[i], *y = tree_at(b, x->parent, x->name);

        if (!y || !id_eq(x->nid, y->nid) || !id_eq(x->inode, y->inode) || x->dir != y->dir)
            return false;
    }
    return a->n == b->n;
}
