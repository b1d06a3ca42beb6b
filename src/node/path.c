/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Where an inode is in the tree, as a path. */
#include "node/node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct named {
    const struct records *r;
    struct id128 parent;
    bool found;
    uint8_t len;
    uint8_t name[NAME_LEN_MAX];
};

static int visit_named(void *arg, const struct name_rec *name)
{
    struct named *x = arg;
    struct place pl;

    int rc = x->r->get_place(x->r->ctx, name->nid, &pl);
    if (rc || pl.kind != PLACE_AT)
        return rc == -ENOENT ? 0 : rc;
    x->found = true;
    x->parent = pl.parent;
    x->len = pl.name_len;
    memcpy(x->name, pl.name, pl.name_len);
    return 1;
}

int path_place(const struct records *r, struct id128 rid, struct place *out)
{
    struct named x = {.r = r};

    int rc = r->names_of(r->ctx, rid, visit_named, &x);
    if (rc < 0 || !x.found)
        return rc < 0 ? rc : -ENOENT;
    *out = (struct place){.kind = PLACE_AT, .parent = x.parent, .name_len = x.len};
    memcpy(out->name, x.name, x.len);
    return 0;
}

/* Written from its end to its beginning, then moved to the front. */
int path_of(const struct records *r, struct id128 rid, char *out, size_t size)
{
    size_t at = size;

    if (size == 0)
        return -ENAMETOOLONG;
    out[--at] = 0;
    while (!id_eq(rid, RID_ROOT)) {
        struct place x;
        int rc = path_place(r, rid, &x);
        if (rc)
            return rc;
        size_t need = x.name_len + (out[at] ? 1u : 0u);
        if (need > at)
            return -ENAMETOOLONG;
        if (out[at])
            out[--at] = '/';
        at -= x.name_len;
        memcpy(out + at, x.name, x.name_len);
        rid = x.parent;
    }
    memmove(out, out + at, size - at);
    return 0;
}

void node_path(struct node *n, struct id128 rid, char *out, size_t size)
{
    if (!n->in_txn || path_of(&n->records, rid, out, size) < 0)
        snprintf(out, size, "(inode %llx.%llu)", (unsigned long long)rid.node,
                 (unsigned long long)rid.n);
}
