/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is left to do: inodes by flag, and the redo log of effects. */
#include "store/index_i.h"

#include "wire/record.h"

#include <errno.h>

int index_put_behind(struct index *ix, const struct content_rec *c)
{
    struct record r = {.kind = REC_CONTENT, .content = *c};
    struct key k = key_of_id(c->rid);

    record_encode(row_begin(ix), &r);
    return row_put(ix, T_BEHIND, &k);
}

int index_get_behind(struct index *ix, struct id128 rid, struct content_rec *out)
{
    struct key k = key_of_id(rid);
    struct record r;
    struct cur c;

    int e = row_get(ix, ix->txn, T_BEHIND, &k, &c);
    if (!e)
        e = record_decode(&c, &r);
    if (!e)
        e = cur_done(&c);
    if (!e && (r.kind != REC_CONTENT || !id_eq(r.content.rid, rid)))
        e = FARM_ECORRUPT;
    if (!e)
        *out = r.content;
    return e;
}

int index_set_todo(struct index *ix, struct id128 rid, uint8_t flags, bool on)
{
    struct key k = key_of_id(rid);
    struct cur c;
    uint8_t was = 0;

    int e = row_get(ix, ix->txn, T_TODO, &k, &c);
    if (e && e != -ENOENT)
        return e;
    if (!e)
        was = cur_u8(&c);
    uint8_t now = on ? (uint8_t)(was | flags) : (uint8_t)(was & ~flags);
    if (now == was)
        return 0;
    if (was & ~now & TODO_DATA) {
        e = row_drop(ix, T_BEHIND, &k);
        if (e)
            return e;
    }
    if (now == 0)
        return row_drop(ix, T_TODO, &k);
    buf_put_u8(row_begin(ix), now);
    return row_put(ix, T_TODO, &k);
}

struct todo_scan {
    todo_visit f;
    void *arg;
};

static int visit_todo(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct todo_scan *s = arg;
    struct cur c;

    row_payload(v, &c);
    uint8_t flags = cur_u8(&c);
    if (c.err || k->mv_size != 16)
        return FARM_ECORRUPT;
    return s->f(s->arg, key_get_id(k->mv_data), flags);
}

int index_each_todo(struct index *ix, todo_visit f, void *arg)
{
    struct todo_scan s = {f, arg};
    struct key all = {.n = 0};
    return row_scan(ix, ix->txn, T_TODO, &all, visit_todo, &s);
}

int index_put_pending(struct index *ix, uint64_t ordinal, const void *p, size_t n)
{
    struct key k = key_of_u64(ordinal);
    buf_put(row_begin(ix), p, n);
    return row_put(ix, T_PENDING, &k);
}

int index_clear_pending(struct index *ix)
{
    int rc = mdb_drop(ix->txn, ix->dbi[T_PENDING], 0);
    if (rc)
        ix->failed = index_code(rc);
    return index_code(rc);
}

struct pending_scan {
    pending_visit f;
    void *arg;
};

static int visit_pending(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct pending_scan *s = arg;
    struct cur c;

    (void)k;
    row_payload(v, &c);
    return s->f(s->arg, c.p, cur_left(&c));
}

int index_each_pending(struct index *ix, pending_visit f, void *arg)
{
    struct pending_scan s = {f, arg};
    struct key all = {.n = 0};
    return row_scan(ix, ix->txn, T_PENDING, &all, visit_pending, &s);
}
