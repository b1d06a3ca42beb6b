/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sealing: a file's unsealed writes become a content version, with its digest and journal entry. */
#include "node/node.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "base/log.h"
#include "store/attrs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SEAL_OLD_US (30ull * 1000 * 1000) /* written to without a pause: sealed at this age */

struct sealing {
    struct range r[DIRTY_RANGES];
    uint32_t n;
    bool whole;
    uint64_t gen;
    struct stat st;
    uint8_t *leaves; /* of the new content, when larger than one block */
    uint64_t nleaves;
    uint8_t digest[DIGEST_LEN];
};

/* What one seal took; given back when the transaction is dropped, or the change would be lost. */
struct seal_undo {
    struct seal_undo *next;
    uint64_t lid;
    void *held_since; /* NULL: it was announced */
    uint32_t n;
    bool whole;
    struct range r[];
};

static int undo_keep(struct node *n, const struct sealing *s, uint64_t lid)
{
    struct seal_undo *u = malloc(sizeof *u + s->n * sizeof u->r[0]);
    if (!u)
        return -ENOMEM;
    *u = (struct seal_undo){.next = n->sealed, .lid = lid, .n = s->n, .whole = s->whole};
    u->held_since = map_u64_get(&n->held, lid);
    memcpy(u->r, s->r, s->n * sizeof u->r[0]);
    n->sealed = u;
    return 0;
}

void seal_done(struct node *n)
{
    while (n->sealed) {
        struct seal_undo *u = n->sealed;
        n->sealed = u->next;
        free(u);
    }
}

void seal_undo(struct node *n)
{
    for (struct seal_undo *u = n->sealed; u; u = u->next) {
        if (u->n || u->whole)
            dirty_back(n->dirty, u->lid, u->r, u->n, u->whole);
        int rc = map_u64_set(&n->to_seal, u->lid, n, NULL);
        if (!rc && u->held_since)
            rc = map_u64_set(&n->held, u->lid, u->held_since, NULL);
        farm_assert(rc == 0); /* a change that is forgotten here is lost to the others */
    }
    seal_done(n);
}

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int digest_one(struct sealing *s, int fd)
{
    uint8_t *block = malloc(DIGEST_BLOCK);
    size_t got;

    if (!block)
        return -ENOMEM;
    size_t size = (size_t)s->st.st_size;
    memset(block, 0, size);
    int rc = io_pread(fd, block, size, 0, &got);
    if (!rc)
        digest_small(block, size, s->digest);
    free(block);
    return rc;
}

/* Old leaves stay valid where nothing was written; only touched blocks are read. */
static int digest_large(struct node *n, struct sealing *s, int fd, struct id128 rid)
{
    const uint8_t *old = NULL;
    uint64_t nold = 0, size = (uint64_t)s->st.st_size;

    s->nleaves = digest_leaves(size);
    s->leaves = malloc(s->nleaves * DIGEST_LEN);
    if (!s->leaves)
        return -ENOMEM;
    if (!s->whole && index_get_leaves(n->index, rid, &old, &nold) != 0)
        nold = 0;
    if (s->whole || nold == 0)
        return digest_file_leaves(fd, size, 0, s->nleaves, s->leaves);
    uint64_t keep = nold < s->nleaves ? nold : s->nleaves;
    memcpy(s->leaves, old, keep * DIGEST_LEN);
    int rc = 0;
    if (keep < s->nleaves)
        rc = digest_file_leaves(fd, size, keep, s->nleaves, s->leaves + keep * DIGEST_LEN);
    for (uint32_t i = 0; i < s->n && !rc; i++) {
        uint64_t first = s->r[i].off / DIGEST_BLOCK, end = s->r[i].off + s->r[i].len;
        uint64_t last = end / DIGEST_BLOCK + (end % DIGEST_BLOCK != 0);
        if (last > keep)
            last = keep;
        if (first < last)
            rc = digest_file_leaves(fd, size, first, last, s->leaves + first * DIGEST_LEN);
    }
    /* The block in which the old or the new end lies changes with the size. */
    if (!rc && keep > 0)
        rc = digest_file_leaves(fd, size, keep - 1, keep, s->leaves + (keep - 1) * DIGEST_LEN);
    return rc;
}

static int seal_digest(struct node *n, struct sealing *s, int fd, struct id128 rid)
{
    if ((uint64_t)s->st.st_size <= DIGEST_BLOCK)
        return digest_one(s, fd);
    int rc = digest_large(n, s, fd, rid);
    if (!rc)
        digest_root((uint64_t)s->st.st_size, s->leaves, s->nleaves, s->digest);
    return rc;
}

struct release {
    struct name_rec *names;
    size_t count, size;
};

static int visit_release(void *arg, const struct name_rec *name)
{
    struct release *r = arg;

    if (r->count == r->size) {
        size_t size = r->size ? r->size * 2 : 4;
        struct name_rec *v = realloc(r->names, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        r->names = v;
        r->size = size;
    }
    r->names[r->count++] = *name;
    return 0;
}

/* The names of a file that was held back enter the log now, stamped now. */
static int release_names(struct node *n, struct id128 rid)
{
    struct release r = {NULL, 0, 0};

    int rc = n->records.names_of(n->records.ctx, rid, visit_release, &r);
    for (size_t i = 0; i < r.count && !rc; i++)
        rc = replica_restamp(&n->replica, node_wall(n), &r.names[i]);
    free(r.names);
    return rc;
}

static int put_attrs(struct node *n, int fd, const struct sealing *s, struct id128 rid, uint64_t at)
{
    struct attr_rec a;
    struct buf x;

    memset(&a, 0, sizeof a);
    a.rid = rid;
    buf_init(&x, XATTRS_LEN_MAX + 4096);
    int rc = attrs_read(fd, &s->st, &x, &a);
    if (!rc)
        rc = replica_attr(&n->replica, node_wall(n), at, &a);
    buf_fini(&x);
    return rc;
}

/* A file that was not what its record says: read whole just now, or written whole, it is again. Of
 * a damaged one that was written in part the rest is still to come, from those who get the part. */
static int seal_wanted(struct node *n, const struct sealing *s, const struct index_node *row,
                       struct stamp stamp)
{
    if (!(row->flags & (NODE_NODATA | NODE_DAMAGED)))
        return 0;
    if ((row->flags & NODE_NODATA) || s->whole || s->nleaves == 0)
        return apply_want_no_more(n, row->rid);
    return apply_want_damaged(n, row->rid, stamp);
}

/* The time that the records give the file: it may have been set after the content was sealed. */
static int64_t shown_mtime(struct node *n, const struct content_rec *c)
{
    struct attr_rec a;

    return n->records.get_attr(n->records.ctx, c->rid, &a) == 0 ? record_mtime(c, &a) : c->mtime_ns;
}

static int seal_records(struct node *n, struct sealing *s, int fd, struct index_node *row,
                        uint64_t at)
{
    struct content_rec old, c = {.rid = row->rid,
                                 .type = NODE_REG,
                                 .size = (uint64_t)s->st.st_size,
                                 .mtime_ns = ns_of(s->st.st_mtim)};
    bool held = (row->flags & NODE_HELD) != 0;

    memcpy(c.digest, s->digest, DIGEST_LEN);
    int rc = apply_held(n, row->rid, &old);
    if (rc && rc != -ENOENT)
        return rc;
    bool had = rc == 0, behind = (row->flags & NODE_NODATA) != 0;
    row->flags &= (uint8_t)~NODE_HELD;
    row->size = c.size;
    row->mtime_ns = c.mtime_ns;
    row->ctime_ns = ns_of(s->st.st_ctim);
    rc = index_put_node(n->index, row, false);
    if (!rc)
        rc = index_set_todo(n->index, row->rid, TODO_DIRTY | TODO_HELD, false);
    if (rc)
        return rc;
    bool same = had && old.size == c.size && memcmp(old.digest, c.digest, DIGEST_LEN) == 0;
    if (same && !held && shown_mtime(n, &old) == c.mtime_ns)
        return behind ? 0 : seal_wanted(n, s, row, old.h.stamp);
    if (behind && same)
        return 0; /* a time alone is no reason to win against what is still to come */
    rc = replica_content(&n->replica, node_wall(n), at, &c);
    if (!rc)
        rc = index_put_leaves(n->index, row->rid, s->leaves, s->nleaves);
    if (!rc)
        rc = seal_wanted(n, s, row, c.h.stamp);
    if (!rc && had && !held && !s->whole)
        rc = index_journal_put(n->index, row->rid, c.h.stamp, c.base, s->r, same ? 0 : s->n);
    if (!rc && held)
        rc = put_attrs(n, fd, s, row->rid, at);
    if (!rc && held)
        rc = release_names(n, row->rid);
    map_u64_del(&n->held, row->lid);
    return rc;
}

static int seal_open(struct node *n, struct sealing *s, struct index_node *row, uint64_t at)
{
    struct node_fd *ref;
    int fd;

    int rc = dirty_take(n->dirty, row->lid, s->r, &s->n, &s->whole, &s->gen);
    if (rc == -ENOENT && !(row->flags & NODE_HELD))
        return 0;
    if (rc && rc != -ENOENT)
        return rc;
    /* Other parts of it may have been changed while nobody was looking, and attributes too. */
    bool unverified = scan_unverified(n, row->lid);
    if (unverified && !(row->flags & NODE_HELD)) {
        s->whole = true;
        if (map_u64_get(&n->to_stat, row->lid) == NULL &&
            map_u64_set(&n->to_stat, row->lid, n, NULL) < 0)
            log_debug("attributes are looked at later: no memory");
    }
    rc = nodes_get_fd(n->nodes, row->lid, NODES_READ, &ref, &fd);
    if (rc) {
        dirty_back(n->dirty, row->lid, s->r, s->n, s->whole);
        return rc;
    }
    rc = fstat(fd, &s->st) < 0 ? -errno : seal_digest(n, s, fd, row->rid);
    /* Written to while we read: what was read may be a mixture. Appends do no harm. */
    if (!rc && dirty_overlaps(n->dirty, row->lid, 0, (uint64_t)s->st.st_size))
        rc = -EBUSY;
    if (!rc)
        rc = undo_keep(n, s, row->lid);
    if (rc)
        dirty_back(n->dirty, row->lid, s->r, s->n, s->whole);
    else
        rc = seal_records(n, s, fd, row, at);
    if (!rc && unverified)
        scan_verified(n, row->lid);
    nodes_put_fd(n->nodes, ref);
    return rc;
}

int seal_file(struct node *n, uint64_t lid, uint64_t at)
{
    struct index_node row;

    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (rc)
        return rc;
    if (row.type != NODE_REG)
        return 0;
    struct sealing *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    rc = seal_open(n, s, &row, at);
    free(s->leaves);
    free(s);
    return rc;
}

/*
 * Files kept open. One that the others know is sealed every seal-after. A new one, which they have
 * not seen yet, may be a copy under way: it waits until it is closed, or nothing was written for
 * seal-after, or (a log that never pauses) SEAL_OLD_US have passed.
 */
void seal_timer(struct node *n)
{
    uint64_t lids[256], now = node_mono(n);
    uint64_t after = (uint64_t)n->config->seal_after_ms * 1000;

    size_t count = dirty_list(n->dirty, now, after, after, lids, 256);
    for (size_t i = 0; i < count; i++)
        if (!map_u64_get(&n->held, lids[i]) && map_u64_set(&n->to_seal, lids[i], n, NULL) < 0)
            return;
    count = dirty_list(n->dirty, now, after, SEAL_OLD_US, lids, 256);
    for (size_t i = 0; i < count; i++)
        if (map_u64_set(&n->to_seal, lids[i], n, NULL) < 0)
            return;
    /* Made (by mknod, say) and neither written nor closed. */
    size_t it = 0;
    uint64_t lid, *since;
    while ((since = map_u64_next(&n->held, &it, &lid)))
        if ((uintptr_t)since + after < now && !dirty_is(n->dirty, lid) &&
            map_u64_set(&n->to_seal, lid, n, NULL) < 0)
            return;
}
