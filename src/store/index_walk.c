/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A reader's walks over all inodes and their names: what the scrub looks at. */
#include "store/index_i.h"

#include <errno.h>

int index_reader_inodes(struct index_reader *r, struct id128 from, inode_visit f, void *arg)
{
    struct key key = key_of_id(from);
    MDB_val k = {key.n, key.b}, v;
    MDB_cursor *c;
    int e = 0;

    int rc = mdb_cursor_open(reader_txn(r), reader_index(r)->dbi[T_CONTENTS], &c);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    while (!rc && !e) {
        e = k.mv_size == 16 ? f(arg, key_get_id(k.mv_data)) : FARM_ECORRUPT;
        if (!e)
            rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
    }
    mdb_cursor_close(c);
    if (e)
        return e;
    return rc == MDB_NOTFOUND ? 0 : index_code(rc);
}

struct walk_names {
    struct index_reader *r;
    name_place_visit f;
    void *arg;
};

static int on_name(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct walk_names *w = arg;
    const struct index *ix = reader_index(w->r);
    struct row_local local;
    struct record rec;
    struct place place;

    (void)v;
    if (k->mv_size != 32)
        return FARM_ECORRUPT;
    struct id128 nid = key_get_id((const uint8_t *)k->mv_data + 16);
    int e = record_row(ix, reader_txn(w->r), REC_NAME, nid, &rec, &local);
    if (e)
        return e == -ENOENT ? FARM_ECORRUPT : e;
    e = place_row(ix, reader_txn(w->r), nid, &place);
    if (e == -ENOENT) {
        memset(&place, 0, sizeof place);
        e = 0;
    }
    return e ? e : w->f(w->arg, &rec.name, &place);
}

int index_reader_names(struct index_reader *r, struct id128 rid, name_place_visit f, void *arg)
{
    struct walk_names w = {r, f, arg};
    struct key k = key_of_id(rid);
    return row_scan(reader_index(r), reader_txn(r), T_NAMES_OF, &k, on_name, &w);
}
