/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Content from the wire into staged files, verified. */
#include "ship/receiver_i.h"
#include "ship/reopen.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define ROOM_WAIT_MS 250

/* Sets *e as it is to be passed on. True: there was no room for it, some time has gone by, do it
 * again. The stream stands still meanwhile, which holds the peer back. */
static bool no_room(struct receiver *r, int *e)
{
    struct pollfd p = {.fd = r->fd, .events = POLLRDHUP};

    if (*e != -ENOSPC && *e != -EDQUOT) {
        if (r->starved && !*e) {
            r->starved = false;
            log_info("there is room again: receiving goes on");
        }
        return false;
    }
    if (!r->starved)
        log_warn_code(*e, "no room for what a peer sends: waiting");
    r->starved = true;
    if (poll(&p, 1, ROOM_WAIT_MS) > 0) {
        *e = FARM_ECLOSED;
        return false;
    }
    return true;
}

static int set_size(int fd, uint64_t size)
{
    return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

/* ---- bases ---- */

struct base {
    uint64_t lid;
    uint64_t size;
    uint8_t *leaves; /* NULL: of one block */
    uint64_t nleaves;
};

static int copy_leaves(struct receiver *r, struct id128 rid, struct base *b)
{
    const uint8_t *leaves;
    uint64_t n;

    int e = index_reader_leaves(r->reader, rid, &leaves, &n);
    if (e == -ENOENT || (!e && n != digest_leaves(b->size)))
        return 0;
    if (e)
        return e;
    b->leaves = malloc(n * DIGEST_LEN);
    if (!b->leaves)
        return -ENOMEM;
    memcpy(b->leaves, leaves, n * DIGEST_LEN);
    b->nleaves = n;
    return 0;
}

/*
 * -EAGAIN: another version is recorded, or not its data; FARM_EBASE: the file is not at hand.
 * settled: what was handed over has been applied. Then a file whose record ran ahead of its data is
 * tried too: it is what the peer sent last with data, and the digest of the result decides.
 */
static int read_base(struct receiver *r, struct id128 rid, struct stamp version, bool settled,
                     struct base *b)
{
    struct index_node node;
    struct record rec;

    int e = index_reader_record(r->reader, REC_CONTENT, rid, &rec);
    if (!e)
        e = index_reader_node(r->reader, rid, &node);
    if (e)
        return e == -ENOENT ? -EAGAIN : e;
    bool ahead = node.flags & NODE_NODATA;
    if ((ahead && !settled) || (!ahead && !stamp_eq(rec.content.h.stamp, version)))
        return -EAGAIN;
    if (node.type != NODE_REG || (node.flags & (NODE_DIRTY | NODE_DAMAGED)) ||
        dirty_is(r->env->dirty, node.lid))
        return FARM_EBASE;
    *b = (struct base){.lid = node.lid, .size = node.size};
    return copy_leaves(r, rid, b);
}

/* The version may be in a batch that is not applied yet: then wait for that, once. */
static int find_base(struct receiver *r, struct id128 rid, struct stamp version, struct base *b)
{
    for (bool settled = false;; settled = true) {
        int e = index_reader_begin(r->reader);
        if (e)
            return e;
        e = read_base(r, rid, version, settled, b);
        index_reader_end(r->reader);
        if (e != -EAGAIN)
            return e;
        if (settled)
            return FARM_EBASE;
        e = receiver_drain(r);
        if (e)
            return e;
    }
}

static int clone_base(struct receiver *r, const struct base *b, struct assembly *a)
{
    CLEANUP_FD int from = -1;
    int e = reopen_read(r->env->nodes, b->lid, &from);

    if (e)
        return FARM_EBASE;
    uint64_t size = b->size < a->size ? b->size : a->size;
    do
        e = staging_clone(r->env->staging, from, size, a->name, &a->fd);
    while (no_room(r, &e));
    if (e) {
        a->name[0] = 0;
        a->fd = -1;
        return e;
    }
    return dirty_overlaps(r->env->dirty, b->lid, 0, UINT64_MAX) ? FARM_EBASE : 0;
}

/* Leaves of whole blocks that both versions have; the last one too when the size is the same. */
static void reuse_leaves(struct assembly *a, const struct base *b)
{
    uint64_t both = a->size < b->size ? a->size : b->size;
    uint64_t n = a->size == b->size ? b->nleaves : both / DIGEST_BLOCK;

    if (!b->leaves || n == 0)
        return;
    memcpy(a->leaves, b->leaves, n * DIGEST_LEN);
    memset(a->stale, 0, n);
}

/* ---- life ---- */

void assembly_drop(struct receiver *r, struct assembly *a)
{
    if (a->fd >= 0)
        close(a->fd);
    if (a->name[0])
        staging_discard(r->env->staging, a->name);
    free(a->leaves);
    free(a->stale);
    r->leaf_bytes -= a->nleaves * (DIGEST_LEN + 1);
    a->fd = -1;
    a->name[0] = 0;
    a->leaves = a->stale = NULL;
    a->nleaves = 0;
}

static int alloc_leaves(struct receiver *r, struct assembly *a)
{
    uint64_t n = digest_leaves(a->size);

    if (a->size > RECEIVER_SIZE_MAX)
        return -EFBIG;
    if (r->leaf_bytes + n * (DIGEST_LEN + 1) > RECEIVER_LEAF_BYTES)
        return FARM_EPROTO;
    a->leaves = malloc(n ? n * DIGEST_LEN : 1);
    a->stale = malloc(n ? n : 1);
    if (!a->leaves || !a->stale) {
        free(a->leaves);
        free(a->stale);
        a->leaves = a->stale = NULL;
        return -ENOMEM;
    }
    memset(a->stale, 1, n);
    a->nleaves = n;
    r->leaf_bytes += n * (DIGEST_LEN + 1);
    return 0;
}

static int begin_on_base(struct receiver *r, struct stamp base, struct assembly *a)
{
    struct base b;

    int e = find_base(r, a->rid, base, &b);
    if (e)
        return e;
    e = clone_base(r, &b, a);
    if (!e)
        reuse_leaves(a, &b);
    free(b.leaves);
    return e;
}

static int begin_empty(struct receiver *r, struct assembly *a)
{
    int e;

    do
        e = staging_create(r->env->staging, a->name, &a->fd);
    while (no_room(r, &e));
    if (e) {
        a->name[0] = 0;
        a->fd = -1;
    }
    return e;
}

/* What is wrong with this one file does not end the session. */
static int as_state(struct assembly *a, int e)
{
    if (e == FARM_EBASE) {
        a->state = ITEM_MISSING;
        return 0;
    }
    if (e == -EFBIG || e == -EINVAL) {
        log_warn_code(e, "a peer's file of %llu bytes cannot be held here",
                      (unsigned long long)a->size);
        a->state = ITEM_NONE;
        return 0;
    }
    return e;
}

int assembly_begin(struct receiver *r, struct id128 rid, uint64_t size, struct stamp base,
                   struct assembly *a)
{
    *a = (struct assembly){.rid = rid, .size = size, .state = ITEM_STAGED, .fd = -1};
    int e = alloc_leaves(r, a);

    if (!e)
        e = base.node ? begin_on_base(r, base, a) : begin_empty(r, a);
    if (!e)
        do
            e = set_size(a->fd, size);
        while (no_room(r, &e));
    if (e)
        assembly_drop(r, a);
    return as_state(a, e);
}

/* Hash what is stale of the leaves before `upto`; nothing of them changes any more. */
static int hash_upto(struct assembly *a, uint64_t upto)
{
    while (a->hashed < upto) {
        uint64_t i = a->hashed, j;
        bool stale = a->stale[i];
        for (j = i + 1; j < upto && a->stale[j] == stale; j++)
            ;
        int e = stale ? digest_file_leaves(a->fd, a->size, i, j, a->leaves + i * DIGEST_LEN) : 0;
        if (e)
            return e;
        a->hashed = j;
    }
    return 0;
}

int assembly_write(struct receiver *r, struct assembly *a, uint64_t off, const uint8_t *p,
                   uint32_t len)
{
    int e;

    if (off < a->next || off > a->size || len > a->size - off)
        return FARM_EPROTO;
    a->next = off + len;
    if (a->state != ITEM_STAGED || len == 0)
        return 0;
    do
        e = io_pwrite(a->fd, p, len, off);
    while (no_room(r, &e));
    if (e)
        return e;
    uint64_t first = off / DIGEST_BLOCK, last = (a->next - 1) / DIGEST_BLOCK;
    memset(a->stale + first, 1, last - first + 1);
    return hash_upto(a, a->next / DIGEST_BLOCK);
}

static int check(struct assembly *a, const struct content_rec *c)
{
    uint8_t root[DIGEST_LEN];

    if (a->size != c->size || !id_eq(a->rid, c->rid))
        return FARM_EPROTO;
    int e = hash_upto(a, a->nleaves);
    if (e)
        return e;
    digest_root(a->size, a->leaves, a->nleaves, root);
    return memcmp(root, c->digest, DIGEST_LEN) == 0 ? 0 : FARM_EDIGEST;
}

int assembly_end(struct receiver *r, struct assembly *a, struct batch_item *it)
{
    int e = 0;

    it->data = a->state;
    if (a->state == ITEM_STAGED)
        e = check(a, &it->rec.content);
    if (!e && a->state == ITEM_STAGED)
        e = handle_of_fd(a->fd, &it->handle);
    if (e == FARM_EDIGEST) {
        log_warn("content of inode %016llx:%llu from a peer does not have its digest",
                 (unsigned long long)a->rid.node, (unsigned long long)a->rid.n);
        it->data = ITEM_MISSING;
        e = 0;
    }
    if (!e && it->data == ITEM_STAGED) {
        memcpy(it->staged, a->name, sizeof it->staged);
        a->name[0] = 0;
        if (a->nleaves > 1) {
            it->nleaves = a->nleaves;
            it->leaves = take_ptr(a->leaves);
        }
    }
    assembly_drop(r, a);
    return e;
}

/* ---- small files ---- */

static int write_small(struct receiver *r, int fd, const uint8_t *p, uint32_t len)
{
    int e;

    do
        e = len ? io_pwrite(fd, p, len, 0) : 0;
    while (no_room(r, &e));
    return e;
}

int assemble_small(struct receiver *r, const uint8_t *p, uint32_t len, struct batch_item *it)
{
    uint8_t digest[DIGEST_LEN];
    CLEANUP_FD int fd = -1;
    int e;

    digest_small(p, len, digest);
    if (memcmp(digest, it->rec.content.digest, DIGEST_LEN) != 0) {
        it->data = ITEM_MISSING;
        return 0;
    }
    do
        e = staging_create(r->env->staging, it->staged, &fd);
    while (no_room(r, &e));
    if (e) {
        it->staged[0] = 0;
        fd = -1;
        return e;
    }
    it->data = ITEM_STAGED;
    e = write_small(r, fd, p, len);
    return e ? e : handle_of_fd(fd, &it->handle);
}
