/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Adopting: files of the folder that the index does not know, and peers do.
 *
 * Where an index was lost, all of them; after a stop of the machine, what was made since the last
 * mark. Recorded as new they would stand beside the peers' records of the same files, as conflicts.
 * So nothing unknown is recorded before the peers that can be reached were heard: where a record of
 * theirs belongs to a place at which an equal file stands, that file is taken as the record's, and
 * nothing is done to it. What is left over then is new here.
 *
 * An index that was lost is rebuilt before the folder is served (SCAN_REBUILD); after a stop of the
 * machine the folder is served at once.
 */
#include "node/node.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PEERS_WAIT_US 10000000u /* for those that are not connected */

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

bool rebuild_heard(const struct node *n)
{
    bool waited = node_mono(n) - n->started_us >= PEERS_WAIT_US;

    for (size_t i = 0; i < n->npeers; i++) {
        const struct peer *p = &n->peers[i];
        if (!p->synced && (p->session || !waited))
            return false;
    }
    return true;
}

/* ---- equal? ---- */

static int file_equal(int dirfd, const char *name, const struct stat *st,
                      const struct content_rec *c, bool *out)
{
    uint64_t size = (uint64_t)st->st_size;
    uint8_t root[DIGEST_LEN];

    *out = false;
    if (size != c->size)
        return 0;
    CLEANUP_FD int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    uint64_t n = digest_leaves(size);
    CLEANUP_FREE uint8_t *leaves = malloc(n ? n * DIGEST_LEN : 1);
    CLEANUP_FREE uint8_t *small = malloc(size <= DIGEST_BLOCK ? size + 1 : 1);
    if (!leaves || !small)
        return -ENOMEM;
    int rc = 0;
    if (size <= DIGEST_BLOCK) {
        size_t got = 0;
        rc = io_pread(fd, small, size, 0, &got);
        digest_small(small, got, root);
    } else {
        rc = digest_file_leaves(fd, size, 0, n, leaves);
        digest_root(size, leaves, n, root);
    }
    *out = !rc && memcmp(root, c->digest, DIGEST_LEN) == 0;
    return rc;
}

/* What stands at a name of an open directory, against a content record. */
static int equal_at(int dirfd, const char *name, const struct stat *st, const struct content_rec *c,
                    bool *out)
{
    char target[TARGET_LEN_MAX + 1];

    *out = false;
    switch (c->type) {
    case NODE_DIR: *out = S_ISDIR(st->st_mode); return 0;
    case NODE_FIFO: *out = S_ISFIFO(st->st_mode); return 0;
    case NODE_REG: return S_ISREG(st->st_mode) ? file_equal(dirfd, name, st, c, out) : 0;
    case NODE_LNK: break;
    default: return 0;
    }
    ssize_t len = S_ISLNK(st->st_mode) ? readlinkat(dirfd, name, target, sizeof target) : -1;
    *out = len == (ssize_t)c->target_len && memcmp(target, c->target, (size_t)len) == 0;
    return 0;
}

/* ---- adopting ---- */

/* Data that came before its name, and was put aside for it. */
static int drop_shelved(struct plan *p, struct id128 rid, const struct handle *taken)
{
    struct effect e = {.op = EFFECT_REMOVE, .rid = rid, .from = {.kind = LOC_HIDDEN}};
    struct index_node was;
    char name[40];

    int rc = index_get_node(p->node->index, rid, &was);
    if (rc || handle_eq(&was.handle, taken))
        return rc == -ENOENT ? 0 : rc;
    staging_id_name(rid, name);
    e.from.len = (uint8_t)strlen(name);
    memcpy(e.from.name, name, e.from.len);
    e.handle = was.handle;
    e.lid = was.lid;
    return effects_add(&p->node->effects, &e);
}

static int adopt_row(struct plan *p, const struct view_change *c, const struct handle *h,
                     const struct stat *st, uint8_t type)
{
    struct node *n = p->node;
    struct index_node row = {.rid = c->inode,
                             .type = type,
                             .handle = *h,
                             .size = (uint64_t)st->st_size,
                             .mtime_ns = ns_of(st->st_mtim),
                             .ctime_ns = ns_of(st->st_ctim)};
    struct node_ref ref;

    int rc = nodes_new_lid(n->nodes, &row.lid);
    if (!rc)
        rc = nodes_add(n->nodes, row.lid, type, h, &ref);
    if (rc)
        return rc;
    row.lid = ref.lid;
    rc = drop_shelved(p, c->inode, h);
    if (!rc)
        rc = map_u64_set(&n->settle, row.lid, n, NULL);
    if (!rc)
        rc = index_put_node(n->index, &row, false);
    if (!rc)
        rc = apply_want_no_more(n, c->inode);
    return rc ? rc : plan_attr(p, c->inode);
}

/* Its own file by another name, or one nobody knows that is equal. */
static int look(struct plan *p, const struct view_change *c, int dirfd, const char *name, bool *out)
{
    struct node *n = p->node;
    struct content_rec content;
    struct index_node known;
    struct handle h;
    struct stat st;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    int rc = handle_of_name(dirfd, name, &h);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = index_get_node_by_handle(n->index, &h, &known);
    if (rc == 0)
        *out = id_eq(known.rid, c->inode);
    if (rc != -ENOENT)
        return rc;
    rc = n->records.get_content(n->records.ctx, c->inode, &content);
    if (!rc)
        rc = equal_at(dirfd, name, &st, &content, out);
    return rc || !*out ? rc : adopt_row(p, c, &h, &st, content.type);
}

int rebuild_adopt(struct plan *p, const struct view_change *c, bool *adopted)
{
    struct node *n = p->node;
    char name[NAME_LEN_MAX + 1];
    struct index_node dir;
    struct node_fd *ref;
    struct id128 nid;
    int fd;

    *adopted = false;
    if (!n->adopting)
        return 0;
    int rc = n->records.who_is_at(n->records.ctx, c->to.parent, c->to.name, c->to.name_len, &nid);
    if (rc != -ENOENT)
        return rc;
    rc = index_get_node(n->index, c->to.parent, &dir);
    if (!rc)
        rc = nodes_get_fd(n->nodes, dir.lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc == -ENOENT || rc == -ESTALE ? 0 : rc;
    memcpy(name, c->to.name, c->to.name_len);
    name[c->to.name_len] = 0;
    rc = look(p, c, fd, name, adopted);
    nodes_put_fd(n->nodes, ref);
    return rc;
}

/* ---- what was deleted meanwhile ---- */

struct buried {
    struct node *n;
    int dirfd;
    const char *name;
    const struct stat *st;
    bool found;
};

static int visit_dead(void *arg, const struct name_rec *name)
{
    struct buried *b = arg;
    struct content_rec c;

    if (name->alive || b->n->records.get_content(b->n->records.ctx, name->inode, &c) ||
        c.type == NODE_DIR)
        return 0;
    int rc = equal_at(b->dirfd, b->name, b->st, &c, &b->found);
    return rc ? rc : b->found;
}

int rebuild_buried(struct node *n, const struct check_dir *d, const char *name,
                   const struct stat *st, bool *gone)
{
    struct buried b = {n, d->fd, name, st, false};

    *gone = false;
    if (!n->adopted)
        return 0;
    int rc = n->records.names_at(n->records.ctx, d->rid, (const uint8_t *)name,
                                 (uint8_t)strlen(name), visit_dead, &b);
    if (rc < 0 || !b.found)
        return rc < 0 ? rc : 0;
    rc = keep_now(n, d->fd, name, name, KEPT_FOUND, false);
    *gone = rc == 0;
    return rc;
}

/* ---- when it is over ---- */

int rebuild_end(struct node *n)
{
    n->adopting = false;
    n->adopted = true;
    if (n->scan)
        return 0;
    int rc = scan_new(n);
    if (!rc)
        rc = txn_begin(n);
    if (rc)
        return rc;
    rc = scan_due(n);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    return txn_commit(n);
}
