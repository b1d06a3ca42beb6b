/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Spoils the records of a file in the root of a folder, as a bug or a lost update might: its node
 * must be stopped.
 *   farmindex STATE older NAME   the attributes become those of the version before, mode 0700
 *   farmindex STATE lose NAME    content and attributes are gone
 */
#include "store/index.h"

#include <stdio.h>
#include <string.h>

static int find(struct records *r, const char *name, struct id128 *rid)
{
    struct name_rec rec;
    struct id128 nid;

    int rc = r->who_is_at(r->ctx, RID_ROOT, (const uint8_t *)name, (uint8_t)strlen(name), &nid);
    if (!rc)
        rc = r->get_name(r->ctx, nid, &rec);
    if (!rc)
        *rid = rec.inode;
    return rc;
}

static int older(struct records *r, struct id128 rid, uint64_t self)
{
    struct attr_rec a;

    int rc = r->get_attr(r->ctx, rid, &a);
    if (rc)
        return rc;
    a.h.stamp.seq--;
    a.h.hlc--;
    a.mode = 0700;
    a.xattrs_len = 0; /* they would be in the way of the put */
    return r->put_attr(r->ctx, &a, self);
}

static int spoil(struct index *ix, const char *what, const char *name)
{
    struct index_meta m;
    struct records r;
    struct id128 rid;

    int rc = index_get_meta(ix, &m);
    if (rc)
        return rc;
    index_set_log_head(ix, m.log_head);
    index_records(ix, &r);
    rc = find(&r, name, &rid);
    if (!rc)
        rc = strcmp(what, "lose") == 0 ? index_forget_inode(ix, rid) : older(&r, rid, m.node);
    m.log_head = index_log_head(ix);
    return rc ? rc : index_put_meta(ix, &m);
}

int main(int argc, char **argv)
{
    struct index *ix;
    bool fresh;

    if (argc != 4 || (strcmp(argv[2], "older") != 0 && strcmp(argv[2], "lose") != 0)) {
        fputs("usage: farmindex STATE older|lose NAME\n", stderr);
        return 2;
    }
    int rc = index_open(argv[1], (size_t)256 << 30, &ix, &fresh);
    if (!rc) {
        rc = index_begin(ix);
        if (!rc)
            rc = spoil(ix, argv[2], argv[3]);
        if (!rc)
            rc = index_commit(ix);
        else
            index_abort(ix);
        if (!rc)
            rc = index_mark_clean(ix);
        index_close(ix);
    }
    if (rc)
        fprintf(stderr, "farmindex: %s: %s\n", argv[3], err_text(rc));
    return rc ? 1 : 0;
}
