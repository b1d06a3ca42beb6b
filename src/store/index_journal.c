/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The journal: which ranges a content version changed in the one it was made from. */
#include "store/index_i.h"

#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

/* ---- ranges ---- */

static int by_offset(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->off < y->off ? -1 : x->off > y->off;
}

static int by_length(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t range_end(const struct range *r)
{
    return r->len > UINT64_MAX - r->off ? UINT64_MAX : r->off + r->len;
}

/* Sorted and disjoint ranges, their narrowest gaps closed: the width up to which all gaps go, and
 * how many of exactly that width, is found by sorting the widths. Without memory for that, all
 * become one. */
static uint32_t close_gaps(struct range *r, uint32_t n, uint32_t max)
{
    CLEANUP_FREE uint64_t *gaps = calloc(n - 1, sizeof *gaps);
    uint64_t widest = UINT64_MAX;
    uint32_t equal = n, out = 0, excess = n - max;

    if (gaps) {
        for (uint32_t i = 0; i + 1 < n; i++)
            gaps[i] = r[i + 1].off - range_end(&r[i]);
        qsort(gaps, n - 1, sizeof *gaps, by_length);
        widest = gaps[excess - 1];
        equal = 0;
        for (uint32_t i = excess; i > 0 && gaps[i - 1] == widest; i--)
            equal++;
    }
    for (uint32_t i = 1; i < n; i++) {
        uint64_t gap = r[i].off - range_end(&r[out]);
        if (gap < widest || (gap == widest && equal > 0)) {
            equal -= gap == widest;
            r[out].len = range_end(&r[i]) - r[out].off;
        } else {
            r[++out] = r[i];
        }
    }
    return out + 1;
}

uint32_t ranges_tidy(struct range *r, uint32_t n, uint32_t max)
{
    uint32_t out = 0;

    qsort(r, n, sizeof *r, by_offset);
    for (uint32_t i = 0; i < n; i++) {
        if (r[i].len == 0)
            continue;
        if (out > 0 && r[i].off <= range_end(&r[out - 1])) {
            uint64_t end = range_end(&r[i]);
            if (end > range_end(&r[out - 1]))
                r[out - 1].len = end - r[out - 1].off;
        } else {
            r[out++] = r[i];
        }
    }
    return out > max ? close_gaps(r, out, max) : out;
}

/* ---- rows ---- */

struct version {
    uint64_t ordinal;
    struct stamp version, base;
    uint32_t n;
    const uint8_t *ranges;
};

/* All versions of one inode, oldest first. */
struct versions {
    uint32_t n;
    struct version v[JOURNAL_VERSIONS];
};

static int on_version(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct versions *all = arg;
    struct version one;
    struct cur c;

    row_payload(v, &c);
    one.version = get_stamp(&c);
    one.base = get_stamp(&c);
    one.n = cur_u32(&c);
    if (c.err || k->mv_size != 24 || all->n == JOURNAL_VERSIONS || one.n > JOURNAL_RANGES)
        return FARM_ECORRUPT;
    one.ordinal = key_get_u64((const uint8_t *)k->mv_data + 16);
    one.ranges = cur_raw(&c, (size_t)one.n * 16);
    int e = cur_done(&c);
    if (!e)
        all->v[all->n++] = one;
    return e;
}

static int versions_of(const struct index *ix, MDB_txn *txn, struct id128 rid, struct versions *all)
{
    struct key k = key_of_id(rid);

    all->n = 0;
    return row_scan(ix, txn, T_JOURNAL, &k, on_version, all);
}

static struct key version_key(struct id128 rid, uint64_t ordinal)
{
    struct key k = key_of_id(rid);
    key_u64(&k, ordinal);
    return k;
}

/* Make room: the row of the same version, or the oldest when there are as many as there may be. */
static int make_room(struct index *ix, struct id128 rid, struct stamp version, uint64_t *next)
{
    struct versions all;
    uint32_t gone = JOURNAL_VERSIONS;

    int e = versions_of(ix, ix->txn, rid, &all);
    if (e)
        return e;
    for (uint32_t i = 0; i < all.n; i++)
        if (stamp_eq(all.v[i].version, version))
            gone = i;
    if (gone == JOURNAL_VERSIONS && all.n == JOURNAL_VERSIONS)
        gone = 0;
    *next = all.n ? all.v[all.n - 1].ordinal + 1 : 1;
    if (gone == JOURNAL_VERSIONS)
        return 0;
    struct key k = version_key(rid, all.v[gone].ordinal);
    return row_drop(ix, T_JOURNAL, &k);
}

int index_journal_put(struct index *ix, struct id128 rid, struct stamp version, struct stamp base,
                      const struct range *r, uint32_t n)
{
    CLEANUP_FREE struct range *tidy = NULL;
    uint64_t ordinal;

    if (n) {
        tidy = calloc(n, sizeof *tidy);
        if (!tidy)
            return -ENOMEM;
        memcpy(tidy, r, n * sizeof *tidy);
        n = ranges_tidy(tidy, n, JOURNAL_RANGES);
    }
    int e = make_room(ix, rid, version, &ordinal);
    if (e)
        return e;
    struct key k = version_key(rid, ordinal);
    struct buf *b = row_begin(ix);
    put_stamp(b, version);
    put_stamp(b, base);
    buf_put_u32(b, n);
    for (uint32_t i = 0; i < n; i++) {
        buf_put_u64(b, tidy[i].off);
        buf_put_u64(b, tidy[i].len);
    }
    return row_put(ix, T_JOURNAL, &k);
}

int index_journal_drop(struct index *ix, struct id128 rid)
{
    struct versions all;

    int e = versions_of(ix, ix->txn, rid, &all);
    for (uint32_t i = 0; !e && i < all.n; i++) {
        struct key k = version_key(rid, all.v[i].ordinal);
        e = row_drop(ix, T_JOURNAL, &k);
    }
    return e;
}

/* ---- union ---- */

static const struct version *find_version(const struct versions *all, struct stamp s)
{
    for (uint32_t i = all->n; i > 0; i--)
        if (stamp_eq(all->v[i - 1].version, s))
            return &all->v[i - 1];
    return NULL;
}

/* The versions from `to` back to the one made from `from`; a chain longer than what we keep has a
 * circle in it. */
static int find_chain(const struct versions *all, struct stamp from, struct stamp to,
                      const struct version *chain[JOURNAL_VERSIONS], uint32_t *len)
{
    uint32_t n = 0;

    for (struct stamp s = to; !stamp_eq(s, from); s = chain[n - 1]->base) {
        const struct version *v = find_version(all, s);
        if (!v)
            return -ENOENT;
        if (n == JOURNAL_VERSIONS)
            return FARM_ECORRUPT;
        chain[n++] = v;
    }
    *len = n;
    return 0;
}

int journal_union(const struct index *ix, MDB_txn *txn, struct id128 rid, struct stamp from,
                  struct stamp to, struct range *out, uint32_t max, uint32_t *n)
{
    CLEANUP_FREE struct range *all = NULL;
    const struct version *chain[JOURNAL_VERSIONS];
    struct versions versions;
    uint32_t len, total = 0;

    if (max == 0)
        return -EINVAL;
    int e = versions_of(ix, txn, rid, &versions);
    if (!e)
        e = find_chain(&versions, from, to, chain, &len);
    if (e)
        return e;
    for (uint32_t i = 0; i < len; i++)
        total += chain[i]->n;
    all = calloc(total + 1, sizeof *all);
    if (!all)
        return -ENOMEM;
    total = 0;
    for (uint32_t i = 0; i < len; i++) {
        struct cur c;
        cur_init(&c, chain[i]->ranges, (size_t)chain[i]->n * 16);
        for (uint32_t j = 0; j < chain[i]->n; j++, total++) {
            all[total].off = cur_u64(&c);
            all[total].len = cur_u64(&c);
        }
    }
    *n = ranges_tidy(all, total, max);
    memcpy(out, all, *n * sizeof *out);
    return 0;
}
