/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The index looked at from outside: every page by its number, LMDB's own code is not asked. What it
 * takes for granted is checked here, as if a stranger had written the file. The format is that of
 * LMDB 0.9 (data version 1) on a little-endian machine with 64 bits:
 *
 *   page    u64 number | u16 | u16 flags | u16 lower, u16 upper (or u32 pages of an overflow) | u16
 *           offset of each node
 *   node    u16 low, u16 high, u16 flags, u16 key length | key | value
 *           branch: child = low | high << 16 | flags << 32; leaf: value length = low | high << 16
 *   tree    u32 | u16 flags | u16 depth | u64 branches, leaves, overflow pages, entries, root
 */
#include "store/index_i.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE_HEAD 16u
#define NODE_HEAD 8u
#define PAGE_BRANCH 1u
#define PAGE_LEAF 2u
#define PAGE_OVERFLOW 4u
#define PAGE_KIND 0x7fu
#define NODE_BIG 1u
#define NODE_TREE 2u
#define TREE_BYTES 48u
#define DEPTH_MAX 32u
#define NO_PAGE UINT64_MAX
#define META_TREES 40u /* in the meta page: free, main */
#define META_LAST 136u
#define META_TXN 144u
#define VALUE_MAX (1u << 30)
#define REST_PAGES 64u

struct tree {
    uint16_t flags, depth;
    uint64_t branches, leaves, overflows, entries, root;
};

struct walk {
    int fd;
    uint32_t psize;
    uint64_t last; /* page */
    uint64_t *used;
    const atomic_bool *stop;
    unsigned rest_us;
    struct index_verified *out;
};

enum what { TREE_FREE, TREE_MAIN, TREE_TABLE };

/* One tree under way. */
struct looking {
    struct walk *w;
    enum what what;
    enum table table;
    struct tree count;          /* what was met */
    struct tree trees[T_COUNT]; /* TREE_MAIN: what it holds */
    bool have[T_COUNT];
};

struct bytes {
    const uint8_t *p;
    size_t n;
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

__attribute__((format(printf, 2, 3))) static int damaged(struct walk *w, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(w->out->what, sizeof w->out->what, fmt, ap);
    va_end(ap);
    return FARM_ECORRUPT;
}

static void get_tree(const uint8_t *p, struct tree *t)
{
    t->flags = get16(p + 4);
    t->depth = get16(p + 6);
    t->branches = get64(p + 8);
    t->leaves = get64(p + 16);
    t->overflows = get64(p + 24);
    t->entries = get64(p + 32);
    t->root = get64(p + 40);
}

/* ---- pages ---- */

static int rest(struct walk *w)
{
    if (w->stop && atomic_load_explicit(w->stop, memory_order_relaxed))
        return -ECANCELED;
    if (w->rest_us && w->out->pages % REST_PAGES == 0) {
        struct timespec t = {.tv_nsec = (long)w->rest_us * 1000};
        nanosleep(&t, NULL);
    }
    return 0;
}

static int claim(struct walk *w, uint64_t first, uint64_t n, const char *by)
{
    if (first < 2 || first > w->last || n > w->last - first + 1)
        return damaged(w, "page %" PRIu64 " is outside of the file (%s)", first, by);
    for (uint64_t i = first; i < first + n; i++) {
        if (w->used[i / 64] >> (i % 64) & 1)
            return damaged(w, "page %" PRIu64 " is used twice (%s)", i, by);
        w->used[i / 64] |= 1ull << (i % 64);
    }
    w->out->pages += n;
    return 0;
}

static int read_at(struct walk *w, uint8_t *p, size_t n, uint64_t off)
{
    size_t got = 0;

    int e = io_pread(w->fd, p, n, off, &got);
    if (!e && got < n)
        e = damaged(w, "the file ends before byte %" PRIu64, off + n);
    return e;
}

static int read_page(struct walk *w, uint64_t pgno, uint32_t flags, uint8_t *p)
{
    int e = claim(w, pgno, 1, flags == PAGE_BRANCH ? "branch" : "leaf");
    if (!e)
        e = rest(w);
    if (!e)
        e = read_at(w, p, w->psize, pgno * w->psize);
    if (e)
        return e;
    if (get64(p) != pgno)
        return damaged(w, "page %" PRIu64 " says that it is page %" PRIu64, pgno, get64(p));
    if ((get16(p + 10) & PAGE_KIND) != flags)
        return damaged(w, "page %" PRIu64 " is of kind %#x", pgno, get16(p + 10));
    uint32_t lower = get16(p + 12), upper = get16(p + 14);
    if (lower < PAGE_HEAD || lower % 2 || upper < lower || upper > w->psize)
        return damaged(w, "page %" PRIu64 ": its free room is %u to %u", pgno, lower, upper);
    return 0;
}

static unsigned page_nodes(const uint8_t *p)
{
    return (get16(p + 12) - PAGE_HEAD) / 2;
}

/* A value on pages of its own, in fresh memory. */
static int read_big(struct looking *l, uint64_t first, size_t len, uint8_t **out)
{
    struct walk *w = l->w;
    uint64_t n = (PAGE_HEAD - 1 + len) / w->psize + 1;
    uint8_t head[PAGE_HEAD];

    int e = claim(w, first, n, "overflow");
    if (!e)
        e = read_at(w, head, sizeof head, first * w->psize);
    if (e)
        return e;
    if (get64(head) != first || (get16(head + 10) & PAGE_KIND) != PAGE_OVERFLOW ||
        get32(head + 12) != n)
        return damaged(w, "page %" PRIu64 " does not begin a value of %zu bytes", first, len);
    l->count.overflows += n;
    uint8_t *v = malloc(len ? len : 1);
    if (!v)
        return -ENOMEM;
    e = read_at(w, v, len, first * w->psize + PAGE_HEAD);
    if (e)
        free(v);
    else
        *out = v;
    return e;
}

/* ---- rows ---- */

static int free_list(struct walk *w, struct bytes v)
{
    uint64_t before = NO_PAGE;

    if (v.n < 8 || v.n % 8 || get64(v.p) > v.n / 8 - 1)
        return damaged(w, "a list of free pages has %zu bytes", v.n);
    for (uint64_t i = 1; i <= get64(v.p); i++) {
        uint64_t pgno = get64(v.p + 8 * i);
        if (pgno >= before)
            return damaged(w, "a list of free pages is not in order at page %" PRIu64, pgno);
        int e = claim(w, pgno, 1, "free");
        if (e)
            return e;
        before = pgno;
    }
    return 0;
}

static int main_row(struct looking *l, struct bytes k, struct bytes v, uint16_t flags)
{
    for (int t = 0; t < T_COUNT; t++) {
        if (strlen(table_names[t]) != k.n || memcmp(table_names[t], k.p, k.n) != 0)
            continue;
        if (flags != NODE_TREE || v.n != TREE_BYTES)
            break;
        get_tree(v.p, &l->trees[t]);
        l->have[t] = true;
        return 0;
    }
    return damaged(l->w, "an unknown table");
}

static int visit(struct looking *l, struct bytes k, struct bytes v, uint16_t flags)
{
    struct cur c;

    if (l->what == TREE_FREE)
        return free_list(l->w, v);
    if (l->what == TREE_MAIN)
        return main_row(l, k, v, flags);
    l->w->out->rows++;
    MDB_val key = {k.n, (void *)(uintptr_t)k.p}, val = {v.n, (void *)(uintptr_t)v.p};
    if (row_open(l->table, &key, &val, &c))
        return damaged(l->w, "a row of %s does not have its checksum", table_names[l->table]);
    return 0;
}

static int leaf_node(struct looking *l, const uint8_t *node, size_t room, struct bytes k)
{
    size_t len = (size_t)get16(node) | (size_t)get16(node + 2) << 16;
    uint16_t flags = get16(node + 4);
    const uint8_t *at = node + NODE_HEAD + k.n;
    CLEANUP_FREE uint8_t *big = NULL;
    size_t left = room - NODE_HEAD - k.n;

    l->count.entries++;
    if (flags & (uint16_t) ~(NODE_BIG | NODE_TREE) || len > VALUE_MAX)
        return damaged(l->w, "a node of kind %#x", flags);
    if ((flags & NODE_BIG) ? left < 8 : left < len)
        return damaged(l->w, "a value of %zu bytes goes past its page", len);
    struct bytes v = {at, len};
    if (flags & NODE_BIG) {
        int e = read_big(l, get64(at), len, &big);
        if (e)
            return e;
        v.p = big;
    }
    return visit(l, k, v, flags);
}

/* ---- trees ---- */

static int key_order(const struct looking *l, struct bytes a, struct bytes b)
{
    if (l->what == TREE_FREE && a.n == 8 && b.n == 8) {
        uint64_t x = get64(a.p), y = get64(b.p);
        return x < y ? -1 : x > y;
    }
    int r = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return r ? r : a.n < b.n ? -1 : a.n > b.n;
}

static int get_node(struct looking *l, const uint8_t *page, unsigned i, struct bytes *node,
                    struct bytes *key)
{
    struct walk *w = l->w;
    uint32_t off = get16(page + PAGE_HEAD + 2 * i);

    if (off < get16(page + 14) || off + NODE_HEAD > w->psize)
        return damaged(w, "page %" PRIu64 ": a node is at %u", get64(page), off);
    *node = (struct bytes){page + off, w->psize - off};
    *key = (struct bytes){page + off + NODE_HEAD, get16(page + off + 6)};
    if (key->n > node->n - NODE_HEAD)
        return damaged(w, "page %" PRIu64 ": a key goes past its page", get64(page));
    return 0;
}

/* One page and all below it. Keys lie in [from, to); an empty bound is none. The first key of a
 * branch is not looked at by LMDB, and empty. */
static int look_page(struct looking *l, uint64_t pgno, unsigned depth, struct bytes from,
                     struct bytes to)
{
    struct walk *w = l->w;
    bool leaf = depth == 1;
    struct bytes node, key, before = from;

    CLEANUP_FREE uint8_t *page = malloc(w->psize);
    if (!page)
        return -ENOMEM;
    int e = read_page(w, pgno, leaf ? PAGE_LEAF : PAGE_BRANCH, page);
    unsigned n = e ? 0 : page_nodes(page);
    *(leaf ? &l->count.leaves : &l->count.branches) += 1;
    if (!e && n < (leaf ? 1u : 2u))
        e = damaged(w, "page %" PRIu64 " is empty", pgno);
    for (unsigned i = 0; i < n && !e; i++) {
        e = get_node(l, page, i, &node, &key);
        if (e)
            break;
        bool keyed = leaf || i > 0;
        if (keyed && before.n) {
            int order = key_order(l, before, key);
            if (order > 0 || (order == 0 && i > 0 && (leaf || i > 1)))
                e = damaged(w, "page %" PRIu64 ": keys are not in order", pgno);
        }
        if (!e && keyed && to.n && key_order(l, key, to) >= 0)
            e = damaged(w, "page %" PRIu64 ": a key belongs elsewhere", pgno);
        if (keyed)
            before = key;
        if (!e && leaf) {
            e = leaf_node(l, node.p, node.n, key);
        } else if (!e) {
            struct bytes child, next = to;
            struct bytes low = i > 0 ? key : from;
            uint64_t at = (uint64_t)get16(node.p) | (uint64_t)get16(node.p + 2) << 16 |
                          (uint64_t)get16(node.p + 4) << 32;
            if (i + 1 < n)
                e = get_node(l, page, i + 1, &child, &next);
            if (!e)
                e = look_page(l, at, depth - 1, low, next);
        }
    }
    return e;
}

static int look_tree(struct looking *l, const struct tree *t, const char *name)
{
    static const struct bytes none = {NULL, 0};
    struct walk *w = l->w;
    int e = 0;

    memset(&l->count, 0, sizeof l->count);
    if ((t->root == NO_PAGE) != (t->depth == 0) || t->depth > DEPTH_MAX)
        return damaged(w, "%s: depth %u", name, t->depth);
    if (t->depth)
        e = look_page(l, t->root, t->depth, none, none);
    if (e)
        return e;
    const struct tree *c = &l->count;
    if (c->branches != t->branches || c->leaves != t->leaves || c->overflows != t->overflows ||
        c->entries != t->entries)
        return damaged(w, "%s has %" PRIu64 " entries instead of %" PRIu64, name, c->entries,
                       t->entries);
    return 0;
}

static int look_all(struct walk *w, const uint8_t *meta)
{
    struct tree t;

    struct looking *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->w = w;
    l->what = TREE_FREE;
    get_tree(meta + META_TREES, &t);
    int e = look_tree(l, &t, "the list of free pages");
    l->what = TREE_MAIN;
    get_tree(meta + META_TREES + TREE_BYTES, &t);
    if (!e)
        e = look_tree(l, &t, "the list of tables");
    l->what = TREE_TABLE;
    for (int i = 0; i < T_COUNT && !e; i++) {
        l->table = (enum table)i;
        e = l->have[i] ? look_tree(l, &l->trees[i], table_names[i])
                       : damaged(w, "there is no table %s", table_names[i]);
    }
    free(l);
    return e;
}

int verify_file(int fd, const uint8_t meta[META_BYTES], const atomic_bool *stop, unsigned rest_us,
                struct index_verified *out)
{
    struct walk w = {.fd = fd,
                     .psize = get32(meta + META_TREES),
                     .last = get64(meta + META_LAST),
                     .stop = stop,
                     .rest_us = rest_us,
                     .out = out};

    memset(out, 0, sizeof *out);
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0)
        return -errno;
    if (w.psize < 512 || w.last == 0 || w.last > (uint64_t)size / w.psize + (1u << 20))
        return damaged(&w, "the file is shorter than it says");
    CLEANUP_FREE uint64_t *used = calloc(w.last / 64 + 1, sizeof *used);
    if (!used)
        return -ENOMEM;
    w.used = used;
    int e = look_all(&w, meta);
    if (!e)
        out->lost_pages = w.last - 1 - out->pages;
    return e;
}

/* ---- of an open index ---- */

/* A snapshot that stays while it is looked at: the meta page of the transaction just begun, unless
 * two commits came in between. */
static int snapshot(struct index *ix, MDB_txn *txn, uint8_t meta[META_BYTES])
{
    MDB_stat st;
    size_t got = 0;

    if (mdb_env_stat(ix->env, &st))
        return -EIO;

    for (unsigned tries = 0; tries < 1000; tries++) {
        int rc = mdb_txn_renew(txn);
        if (rc)
            return index_code(rc);
        uint64_t id = mdb_txn_id(txn);
        int e = io_pread(ix->mark.index_fd, meta, META_BYTES, id % 2 * st.ms_psize, &got);
        if (e)
            return e;
        if (got == META_BYTES && get64(meta + META_TXN) == id)
            return 0;
        mdb_txn_reset(txn);
    }
    return -EAGAIN;
}

static int verify_open(struct index *ix, const atomic_bool *stop, unsigned rest_us,
                       struct index_verified *out)
{
    uint8_t meta[META_BYTES];
    MDB_txn *txn;

    int rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return index_code(rc);
    mdb_txn_reset(txn);
    int e = snapshot(ix, txn, meta);
    if (!e)
        e = verify_file(ix->mark.index_fd, meta, stop, rest_us, out);
    mdb_txn_abort(txn);
    return e;
}

int index_verify(struct index *ix, const char *dir, const atomic_bool *stop, unsigned rest_us,
                 struct index_verified *out)
{
    uint8_t meta[META_BYTES];
    uint32_t psize;
    uint64_t txn;

    memset(out, 0, sizeof *out);
    if (ix)
        return verify_open(ix, stop, rest_us, out);
    CLEANUP_FD int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return -errno;
    CLEANUP_FD int fd = openat(dirfd, INDEX_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    int e = meta_read(fd, meta, &psize, &txn);
    if (e) {
        snprintf(out->what, sizeof out->what, "it has no valid first page");
        return e;
    }
    return verify_file(fd, meta, stop, rest_us, out);
}
