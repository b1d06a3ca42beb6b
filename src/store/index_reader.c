/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What other threads see: committed state, each through a read transaction of its own that is reset
 * and renewed, never made anew. */
#include "store/index_i.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct index_reader {
    struct index *ix;
    MDB_txn *txn;
    MDB_cursor *log; /* stays near where a sender reads */
    bool open;
    struct index as_index; /* the index as of this reading: for index_reader_records */
};

int index_reader_new(struct index *ix, struct index_reader **out)
{
    struct index_reader *r = calloc(1, sizeof *r);

    if (!r)
        return -ENOMEM;
    r->ix = ix;
    int rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &r->txn);
    if (rc) {
        free(r);
        return index_code(rc);
    }
    rc = mdb_cursor_open(r->txn, ix->dbi[T_LOG], &r->log);
    if (rc) {
        mdb_txn_abort(r->txn);
        free(r);
        return index_code(rc);
    }
    mdb_txn_reset(r->txn);
    *out = r;
    return 0;
}

void index_reader_free(struct index_reader *r)
{
    if (!r)
        return;
    mdb_cursor_close(r->log);
    mdb_txn_abort(r->txn);
    free(r);
}

int index_reader_begin(struct index_reader *r)
{
    farm_assert(!r->open);
    int rc = mdb_txn_renew(r->txn);
    index_panicked(r->ix, rc);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_renew(r->txn, r->log);
    if (rc) {
        mdb_txn_reset(r->txn);
        return index_code(rc);
    }
    r->open = true;
    return 0;
}

void index_reader_end(struct index_reader *r)
{
    farm_assert(r->open);
    mdb_txn_reset(r->txn);
    r->open = false;
}

int index_reader_meta(struct index_reader *r, struct index_meta *m)
{
    return meta_row(r->ix, r->txn, m);
}

int index_reader_by_lid(struct index_reader *r, uint64_t lid, struct handle *h, uint8_t *type,
                        struct id128 *rid, bool *orphan)
{
    struct lid_row l;

    int e = lid_row(r->ix, r->txn, lid, &l);
    if (e)
        return e;
    *h = l.handle;
    *type = l.type;
    *rid = l.rid;
    *orphan = l.orphan;
    return 0;
}

int index_reader_by_handle(struct index_reader *r, const struct handle *h, uint64_t *lid,
                           uint8_t *type)
{
    struct handle_row row;

    int e = handle_row(r->ix, r->txn, h, &row);
    if (e)
        return e;
    *lid = row.lid;
    *type = row.type;
    return 0;
}

int index_reader_node(struct index_reader *r, struct id128 rid, struct index_node *n)
{
    return node_row(r->ix, r->txn, rid, n);
}

int index_reader_record(struct index_reader *r, enum rec_kind kind, struct id128 id,
                        struct record *out)
{
    struct row_local local;
    return record_row(r->ix, r->txn, kind, id, out, &local);
}

int index_reader_leaves(struct index_reader *r, struct id128 rid, const uint8_t **leaves,
                        uint64_t *n)
{
    return leaves_row(r->ix, r->txn, rid, leaves, n);
}

void index_reader_records(struct index_reader *r, struct records *out)
{
    farm_assert(r->open);
    r->as_index = (struct index){.env = r->ix->env, .txn = r->txn};
    memcpy(r->as_index.dbi, r->ix->dbi, sizeof r->as_index.dbi);
    index_records(&r->as_index, out);
}

int index_reader_pos(struct index_reader *r, enum rec_kind kind, struct id128 id, uint64_t *pos)
{
    struct row_local local;
    struct record rec;

    int e = record_row(r->ix, r->txn, kind, id, &rec, &local);
    if (!e)
        *pos = local.pos;
    return e;
}

int index_reader_peers(struct index_reader *r, peer_visit f, void *arg)
{
    struct index as = {.env = r->ix->env, .txn = r->txn};

    memcpy(as.dbi, r->ix->dbi, sizeof as.dbi);
    return index_peers(&as, f, arg);
}

int index_reader_next_kept(struct index_reader *r, uint8_t class, uint64_t key,
                           struct index_kept *out)
{
    return kept_next(r->ix, r->txn, class, key, out);
}

/* The entry at or after pos, or after the one the cursor is at. -ENOENT at the end. */
static int log_step(struct index_reader *r, MDB_cursor_op op, uint64_t pos, uint64_t *at,
                    struct log_entry *entry)
{
    struct key key = key_of_u64(pos);
    MDB_val k = {key.n, key.b}, v;

    int rc = mdb_cursor_get(r->log, &k, &v, op);
    if (rc)
        return index_code(rc);
    struct cur c;
    int e = k.mv_size == 8 ? row_open(T_LOG, &k, &v, &c) : FARM_ECORRUPT;
    if (!e)
        e = log_entry_decode(&v, entry);
    if (!e)
        *at = key_get_u64(k.mv_data);
    return e;
}

int index_reader_log(struct index_reader *r, uint64_t pos, uint64_t *at, struct record *rec,
                     uint64_t *source)
{
    struct log_entry entry;
    struct row_local local;
    uint64_t found;

    int e = log_step(r, MDB_SET_RANGE, pos, &found, &entry);
    if (e)
        return e;
    e = record_row(r->ix, r->txn, entry.kind, entry.id, rec, &local);
    /* Every entry has its record, and the record knows its entry. */
    if (e == -ENOENT || (!e && local.pos != found))
        e = FARM_ECORRUPT;
    if (e)
        return e;
    *at = found;
    *source = entry.source;
    return 0;
}

int index_reader_journal(struct index_reader *r, struct id128 rid, struct stamp from,
                         struct stamp to, struct range *out, uint32_t max, uint32_t *n)
{
    return journal_union(r->ix, r->txn, rid, from, to, out, max, n);
}

int index_reader_backlog(struct index_reader *r, uint64_t pos, uint64_t limit, uint64_t *entries,
                         uint64_t *bytes)
{
    struct log_entry entry;
    uint64_t at, n = 0, sum = 0;
    int e = 0;

    while (n < limit) {
        e = log_step(r, n ? MDB_NEXT : MDB_SET_RANGE, pos, &at, &entry);
        if (e)
            break;
        n++;
        sum += entry.bytes;
    }
    if (e && e != -ENOENT)
        return e;
    *entries = n;
    *bytes = sum;
    return 0;
}

MDB_txn *reader_txn(const struct index_reader *r)
{
    farm_assert(r->open);
    return r->txn;
}

const struct index *reader_index(const struct index_reader *r)
{
    return r->ix;
}
