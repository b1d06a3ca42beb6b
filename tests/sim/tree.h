/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The backing tree of a simulated node: what a file system holds, with a file system's rules. Local
 * operations change it first and tell the core; the view's changes are carried out on it.
 * Names are one letter.
 */
#ifndef TREE_H
#define TREE_H

#include "core/view.h"

struct entry {
    struct id128 nid, inode, parent;
    uint8_t name;
    bool dir;
};

struct tree {
    struct entry *e; /* in no order */
    size_t n, cap;
};

void tree_fini(struct tree *t);
struct entry *tree_at(const struct tree *t, struct id128 parent, uint8_t name);
bool tree_empty(const struct tree *t, struct id128 dir);
/* Is dir `top` itself or somewhere below it? */
bool tree_below(const struct tree *t, struct id128 dir, struct id128 top);
void tree_add(struct tree *t, struct entry e);
void tree_remove(struct tree *t, struct entry *e);
/* Carry out what the view says. NULL, or what a file system would not have allowed. */
const char *tree_apply(struct tree *t, const struct records *r, const struct view_change *c,
                       size_t n);
/* NULL, or what is wrong: two entries of a name, a directory twice, an entry without its directory,
 * a cycle. */
const char *tree_check(const struct tree *t);
/* The same entries? */
bool tree_equal(const struct tree *a, const struct tree *b);

#endif
