/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What was done through the mount, turned from intents into records. */
#include "node/node.h"

#include "base/digest.h"
#include "base/log.h"
#include "store/attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint8_t type_of_mode(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return NODE_REG;
    case S_IFDIR: return NODE_DIR;
    case S_IFLNK: return NODE_LNK;
    case S_IFIFO: return NODE_FIFO;
    case S_IFCHR: return NODE_CHR;
    case S_IFBLK: return NODE_BLK;
    default: return NODE_SOCK;
    }
}

static int touch(struct node *n, uint64_t lid)
{
    return map_u64_set(&n->to_touch, lid, n, NULL);
}

static int dir_of(struct node *n, uint64_t lid, struct id128 *rid)
{
    struct index_node row;

    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (!rc)
        *rid = row.rid;
    return rc;
}

/* ---- creation ---- */

/* The content record of what is no regular file. */
static int special_content(struct node *n, int fd, const struct stat *st, struct id128 rid,
                           uint64_t at)
{
    char target[TARGET_LEN_MAX + 1];
    struct content_rec c = {
        .rid = rid, .type = type_of_mode(st->st_mode), .mtime_ns = ns_of(st->st_mtim)};

    if (c.type == NODE_LNK) {
        ssize_t len = readlinkat(fd, "", target, sizeof target);
        if (len < 0 || (size_t)len >= sizeof target)
            return len < 0 ? -errno : -ENAMETOOLONG;
        c.target = (const uint8_t *)target;
        c.target_len = (uint16_t)len;
    }
    if (c.type == NODE_CHR || c.type == NODE_BLK) {
        c.rdev_major = major(st->st_rdev);
        c.rdev_minor = minor(st->st_rdev);
    }
    return replica_content(&n->replica, node_wall(n), at, &c);
}

static int put_attr(struct node *n, int fd, const struct stat *st, struct id128 rid, bool times,
                    uint64_t at)
{
    struct attr_rec a, old;
    struct buf x;

    memset(&a, 0, sizeof a);
    a.rid = rid;
    buf_init(&x, XATTRS_LEN_MAX + 4096);
    int rc = attrs_read(fd, st, &x, &a);
    if (rc) {
        buf_fini(&x);
        return rc;
    }
    int have = n->records.get_attr(n->records.ctx, rid, &old);
    if (have == 0) {
        a.mtime_ns = old.mtime_ns;
        a.mtime_hlc = old.mtime_hlc;
        struct content_rec c;
        if (times && n->records.get_content(n->records.ctx, rid, &c) == 0 &&
            record_mtime(&c, &old) == ns_of(st->st_mtim))
            times = false; /* it is what the records say already */
    }
    if (have == 0 && !times && attrs_same(&a, &old)) {
        buf_fini(&x);
        return 0;
    }
    if (times) {
        a.mtime_ns = ns_of(st->st_mtim);
        a.mtime_hlc = ATTR_MTIME_SET;
    }
    rc = have && have != -ENOENT ? have : replica_attr(&n->replica, node_wall(n), at, &a);
    buf_fini(&x);
    return rc;
}

static int row_new(struct node *n, struct id128 rid, uint64_t lid, uint8_t type, uint8_t flags,
                   const struct handle *h, const struct stat *st)
{
    struct index_node row = {.rid = rid, .lid = lid, .type = type, .flags = flags, .handle = *h};

    if (st) {
        row.size = (uint64_t)st->st_size;
        row.mtime_ns = ns_of(st->st_mtim);
        row.ctime_ns = ns_of(st->st_ctim);
    }
    int rc = index_put_node(n->index, &row, false);
    return rc ? rc : map_u64_set(&n->settle, lid, n, NULL);
}

/* A former worker told the kernel of it; this one has to learn it before it can be opened. */
static int learn(struct node *n, const struct intent *in, uint8_t type)
{
    struct node_ref ref;

    int rc = nodes_get(n->nodes, in->lid, &ref);
    return rc == -ENOENT ? nodes_add(n->nodes, in->lid, type, &in->handle, &ref) : rc;
}

/* Something that nobody told us of was at the place before: it is not there any more. */
static int vacate(struct node *n, struct id128 parent, const struct intent *in)
{
    struct id128 nid;

    int rc = n->records.who_is_at(n->records.ctx, parent, in->name1, in->name1_len, &nid);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    return check_drop(n, parent, in->name1, in->name1_len);
}

/* Not announced before it was sealed: nobody else shall see half of it. */
static int hold_back(struct node *n, struct id128 rid, uint64_t lid)
{
    struct content_rec c = {.rid = rid, .type = NODE_REG};

    digest_small("", 0, c.digest);
    /* the value: since when (monotonic us, never 0) */
    int rc = map_u64_set(&n->held, lid, (void *)(uintptr_t)(node_mono(n) | 1), NULL);
    if (!rc)
        rc = index_set_todo(n->index, rid, TODO_HELD, true);
    return rc ? rc : replica_content(&n->replica, node_wall(n), 0, &c);
}

/* A directory that has been removed since: names may have passed through it, so it is recorded all
 * the same; its removal follows in the log. */
static int create_gone(struct node *n, const struct intent *in, struct id128 rid)
{
    struct content_rec c = {
        .rid = rid, .type = NODE_DIR, .mtime_ns = (int64_t)(in->wall_us * 1000)};

    int rc = row_new(n, rid, in->lid, NODE_DIR, 0, &in->handle, NULL);
    return rc ? rc : replica_content(&n->replica, node_wall(n), 0, &c);
}

static int create_special(struct node *n, const struct intent *in, struct id128 rid, uint8_t type)
{
    struct node_fd *ref;
    struct stat st;
    int fd;

    int rc = nodes_get_fd(n->nodes, in->lid, NODES_PATH, &ref, &fd);
    if ((rc == -ESTALE || rc == -ENOENT) && type == NODE_DIR)
        return create_gone(n, in, rid);
    if (rc)
        return rc;
    rc = fstat(fd, &st) < 0 ? -errno : row_new(n, rid, in->lid, type, 0, &in->handle, &st);
    if (!rc)
        rc = special_content(n, fd, &st, rid, 0);
    if (!rc)
        rc = put_attr(n, fd, &st, rid, false, 0);
    nodes_put_fd(n->nodes, ref);
    return rc;
}

static int on_create(struct node *n, const struct intent *in)
{
    struct index_node row;
    struct id128 parent, nid;

    if (index_get_node_by_lid(n->index, in->lid, &row) == 0)
        return 0; /* consumed before */
    int rc = dir_of(n, in->parent, &parent);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = touch(n, in->parent);
    if (!rc)
        rc = vacate(n, parent, in);
    if (rc)
        return rc;
    uint8_t type = type_of_mode(in->mode);
    rc = learn(n, in, type);
    if (rc)
        return rc;
    struct id128 rid = replica_new_id(&n->replica);
    if (type == NODE_REG) {
        rc = row_new(n, rid, in->lid, type, NODE_HELD, &in->handle, NULL);
        if (!rc)
            rc = hold_back(n, rid, in->lid);
        return rc ? rc
                  : replica_link(&n->replica, node_wall(n), 0, rid, parent, in->name1,
                                 in->name1_len, &nid);
    }
    rc = create_special(n, in, rid, type);
    if (rc == -ESTALE || rc == -ENOENT)
        return 0; /* gone again already */
    return rc ? rc
              : replica_link(&n->replica, node_wall(n), 0, rid, parent, in->name1, in->name1_len,
                             &nid);
}

int local_found(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len, uint64_t lid,
                const struct handle *h, bool by_mtime, struct id128 *out)
{
    struct index_node row;
    struct id128 nid;
    struct node_fd *ref;
    struct stat st;
    int fd;

    if (index_get_node_by_lid(n->index, lid, &row) == 0) {
        *out = row.rid;
        return 0;
    }
    int rc = nodes_get_fd(n->nodes, lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc;
    rc = fstat(fd, &st) < 0 ? -errno : 0;
    /* What a first scan finds is as old as it looks: it must not beat what others have changed. */
    uint64_t at =
        by_mtime && st.st_mtim.tv_sec > 0 ? hlc_from_us((uint64_t)(ns_of(st.st_mtim) / 1000)) : 0;
    struct id128 rid = replica_new_id(&n->replica);
    uint8_t type = type_of_mode(st.st_mode);
    if (!rc)
        rc = row_new(n, rid, lid, type, 0, h, &st);
    if (!rc && type == NODE_REG) {
        scan_verified(n, lid); /* it is read now */
        rc = dirty_all(n->dirty, lid);
        if (!rc)
            rc = seal_file(n, lid, at);
        if (rc == -EBUSY) { /* being written already */
            rc = row_new(n, rid, lid, type, NODE_HELD, h, &st);
            if (!rc)
                rc = hold_back(n, rid, lid);
        }
    } else if (!rc) {
        rc = special_content(n, fd, &st, rid, at);
    }
    if (!rc)
        rc = put_attr(n, fd, &st, rid, false, at);
    nodes_put_fd(n->nodes, ref);
    if (!rc)
        rc = replica_link(&n->replica, node_wall(n), at, rid, parent, name, len, &nid);
    if (!rc)
        *out = rid;
    return rc;
}

static int on_found(struct node *n, const struct intent *in)
{
    struct id128 parent, rid, nid;
    struct index_node row;

    if (n->adopting) {
        n->passed = true;
        return 0;
    }
    if (index_get_node_by_handle(n->index, &in->handle, &row) == 0)
        return 0; /* it got its record meanwhile */
    int rc = dir_of(n, in->parent, &parent);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = learn(n, in, type_of_mode(in->mode));
    if (rc)
        return rc;
    struct name_rec rec;
    if (S_ISREG(in->mode) &&
        n->records.who_is_at(n->records.ctx, parent, in->name1, in->name1_len, &nid) == 0 &&
        n->records.get_name(n->records.ctx, nid, &rec) == 0 &&
        index_get_node(n->index, rec.inode, &row) == 0 && row.type == NODE_REG &&
        !check_linked(n, &row, nid))
        return check_replaced(n, &row, in->lid, &in->handle);
    rc = vacate(n, parent, in);
    if (!rc)
        rc = touch(n, in->parent);
    if (!rc)
        rc = local_found(n, parent, in->name1, in->name1_len, in->lid, &in->handle, scan_first(n),
                         &rid);
    if (!rc && S_ISDIR(in->mode))
        rc = scan_late(n, in->lid);
    return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
}

/* ---- names ---- */

struct count {
    struct node *n;
    unsigned places;
};

static int visit_count(void *arg, const struct name_rec *name)
{
    struct count *c = arg;
    struct place pl;

    int rc = c->n->records.get_place(c->n->records.ctx, name->nid, &pl);
    if (rc && rc != -ENOENT)
        return rc;
    c->places += rc == 0 && pl.kind != PLACE_NONE;
    return 0;
}

/* An inode lost a name here: without any it leaves the index. */
int local_lost(struct node *n, struct id128 rid, bool orphan)
{
    struct count c = {n, 0};
    struct index_node row;

    int rc = index_get_node(n->index, rid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = n->records.names_of(n->records.ctx, rid, visit_count, &c);
    if (rc || c.places > 0)
        return rc;
    if (!orphan && scan_bare(n, rid))
        return 0; /* another name of it may be met yet */
    dirty_drop(n->dirty, row.lid);
    map_u64_del(&n->held, row.lid);
    map_u64_del(&n->to_seal, row.lid);
    rc = index_set_todo(n->index, rid, TODO_DIRTY | TODO_HELD | TODO_DATA, false);
    if (!rc && (row.flags & NODE_HELD))
        rc = index_forget_inode(n->index, rid);
    if (!rc)
        rc = index_journal_drop(n->index, rid);
    if (!rc)
        rc = index_del_node(n->index, rid, orphan);
    if (!orphan)
        nodes_remove(n->nodes, row.lid);
    return rc == -ENOENT ? 0 : rc;
}

static int occupant(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len,
                    struct id128 *nid, struct id128 *inode, bool *held)
{
    struct name_rec rec;
    struct index_node row;

    int rc = n->records.who_is_at(n->records.ctx, parent, name, len, nid);
    if (!rc)
        rc = n->records.get_name(n->records.ctx, *nid, &rec);
    if (rc)
        return rc;
    *inode = rec.inode;
    *held = index_get_node(n->index, rec.inode, &row) == 0 && (row.flags & NODE_HELD);
    return 0;
}

/* The last name of a file went here: it is among the orphans; a directory is gone. */
static int history(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len,
                   struct id128 rid, struct id128 by, enum kept_why why)
{
    struct index_node row;
    struct name_rec winner;
    struct loc from = {.kind = LOC_ORPHAN};
    char orphan[40];

    if (!keep_history(n))
        return 0;
    int rc = index_get_node(n->index, rid, &row);
    if (!rc)
        rc = n->records.get_name(n->records.ctx, by, &winner);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    staging_orphan_name(row.lid, orphan);
    from.len = (uint8_t)strlen(orphan);
    memcpy(from.name, orphan, from.len);
    struct keeping what = {.why = why,
                           .rid = rid,
                           .winner = &winner.h,
                           .parent = parent,
                           .name = name,
                           .name_len = len};
    return keep_gone(n, &what, &from, &row.handle);
}

static int visit_rival(void *arg, const struct name_rec *name)
{
    node_seed(arg, name->nid);
    return 0;
}

/* A name that nobody else has heard of: gone without a trace, and what it hid comes to light. */
static int forget_held(struct node *n, struct id128 parent, const struct intent *in,
                       struct id128 nid)
{
    int rc = index_forget_name(n->index, nid);
    return rc ? rc
              : n->records.names_at(n->records.ctx, parent, in->name1, in->name1_len, visit_rival,
                                    n);
}

static int on_unlink(struct node *n, const struct intent *in)
{
    struct id128 parent, nid, inode;
    bool held;

    int rc = check_intent(n, in->parent, in->name1, in->name1_len, in->lid);
    if (!rc)
        rc = dir_of(n, in->parent, &parent);
    if (!rc)
        rc = occupant(n, parent, in->name1, in->name1_len, &nid, &inode, &held);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = touch(n, in->parent);
    if (!rc) /* of another link of it */
        rc = map_u64_set(&n->to_refresh, in->lid, n, NULL);
    if (!rc)
        rc = held ? forget_held(n, parent, in, nid)
                  : replica_unlink(&n->replica, node_wall(n), parent, in->name1, in->name1_len);
    if (!rc && !held && (in->op == INTENT_RMDIR || in->flags & INTENT_F_ORPHAN))
        rc = history(n, parent, in->name1, in->name1_len, inode, nid, KEPT_DELETED);
    return rc ? rc : local_lost(n, inode, (in->flags & INTENT_F_ORPHAN) != 0);
}

/* A file whose name is about to mean something else must be known to the others first. */
static int announce(struct node *n, uint64_t lid)
{
    struct index_node row;

    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (rc || !(row.flags & NODE_HELD))
        return rc == -ENOENT ? 0 : rc;
    rc = seal_file(n, lid, 0);
    return rc == -EBUSY || rc == -ESTALE ? 0 : rc;
}

static int on_rename(struct node *n, const struct intent *in)
{
    struct id128 from, to, nid, moved, inode = {0, 0};
    bool held, exchange = (in->flags & INTENT_F_EXCHANGE) != 0;

    int rc = announce(n, in->lid);
    if (!rc && exchange)
        rc = announce(n, in->lid2);
    if (!rc)
        rc = check_intent(n, in->parent, in->name1, in->name1_len, in->lid);
    if (!rc && exchange)
        rc = check_intent(n, in->parent2, in->name2, in->name2_len, in->lid2);
    if (!rc)
        rc = map_u64_set(&n->to_refresh, in->lid, n, NULL);
    if (!rc && exchange)
        rc = map_u64_set(&n->to_refresh, in->lid2, n, NULL);
    if (!rc)
        rc = dir_of(n, in->parent, &from);
    if (!rc)
        rc = dir_of(n, in->parent2, &to);
    if (!rc)
        rc = occupant(n, from, in->name1, in->name1_len, &moved, &inode, &held);
    if (rc) {
        if (rc == -ENOENT)
            log_debug("inode %llu was renamed and is gone", (unsigned long long)in->lid);
        return rc == -ENOENT ? 0 : rc;
    }
    struct id128 replaced = {0, 0};
    rc = occupant(n, to, in->name2, in->name2_len, &nid, &replaced, &held);
    bool unannounced = rc == 0 && held && !exchange;
    if (rc && rc != -ENOENT)
        return rc;
    rc = unannounced ? index_forget_name(n->index, nid) : 0;
    if (!rc)
        rc = touch(n, in->parent);
    if (!rc)
        rc = touch(n, in->parent2);
    if (!rc)
        rc = replica_rename(&n->replica, node_wall(n), from, in->name1, in->name1_len, to,
                            in->name2, in->name2_len, exchange);
    if (!rc && !unannounced && !exchange && in->flags & INTENT_F_ORPHAN2)
        rc = history(n, to, in->name2, in->name2_len, replaced, moved, KEPT_REPLACED);
    if (!rc && !id_none(replaced) && !exchange && !id_eq(replaced, inode))
        rc = local_lost(n, replaced, (in->flags & INTENT_F_ORPHAN2) != 0);
    return rc == -ENOENT ? 0 : rc;
}

static int on_link(struct node *n, const struct intent *in)
{
    struct index_node row;
    struct id128 parent, nid;

    int rc = announce(n, in->lid);
    if (!rc)
        rc = dir_of(n, in->parent, &parent);
    if (!rc)
        rc = index_get_node_by_lid(n->index, in->lid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    struct name_rec rec;
    if (n->records.who_is_at(n->records.ctx, parent, in->name1, in->name1_len, &nid) == 0 &&
        n->records.get_name(n->records.ctx, nid, &rec) == 0 && id_eq(rec.inode, row.rid))
        return 0; /* consumed before */
    rc = vacate(n, parent, in);
    if (!rc)
        rc = touch(n, in->parent);
    if (!rc)
        rc = map_u64_set(&n->to_refresh, in->lid, n, NULL);
    if (!rc)
        rc = replica_link(&n->replica, node_wall(n), 0, row.rid, parent, in->name1, in->name1_len,
                          &nid);
    return rc;
}

static int on_intent(struct node *n, const struct intent *in)
{
    void *was = map_u64_get(&n->to_stat, in->lid);

    switch (in->op) {
    case INTENT_CREATE: return on_create(n, in);
    case INTENT_LINK: return on_link(n, in);
    case INTENT_UNLINK:
    case INTENT_RMDIR: return on_unlink(n, in);
    case INTENT_RENAME: return on_rename(n, in);
    case INTENT_ATTR: /* the value says whether times were set by the caller */
        return map_u64_set(
            &n->to_stat, in->lid,
            (in->flags & INTENT_F_EXPLICIT) || was == &n->to_stat ? (void *)&n->to_stat : (void *)n,
            NULL);
    case INTENT_DIRTY: return local_dirty(n, in);
    case INTENT_CLOSE: return local_close(n, in);
    case INTENT_FOUND: return on_found(n, in);
    case INTENT_FORGET: return local_forget(n, in->lid);
    default: return 0;
    }
}

static bool watched(const struct node *n, const struct intent *in)
{
    if (!n->watch || !in->name1_len)
        return false;
    return map_u64_get(n->watch, claims_key(in->parent, in->name1, in->name1_len)) ||
           (in->name2_len &&
            map_u64_get(n->watch, claims_key(in->parent2, in->name2, in->name2_len)));
}

int local_consume(struct node *n, unsigned max, unsigned *count)
{
    struct intent in;
    uint64_t seq;

    for (*count = 0; *count < max; ++*count) {
        int rc = intent_next(n->intents, &in, &seq);
        if (rc)
            return rc == -EAGAIN ? 0 : rc;
        if (watched(n, &in))
            return -EAGAIN;
        rc = on_intent(n, &in);
        if (rc) {
            log_error_code(rc, "recording an operation (kind %u) on inode %llu", in.op,
                           (unsigned long long)in.lid);
            return rc;
        }
        n->consumed = seq;
    }
    return 0;
}

/* ---- at the end of a transaction ---- */

int local_stat(struct node *n, uint64_t lid, bool times, uint64_t at)
{
    struct index_node row;
    struct node_fd *ref;
    struct stat st;
    int fd;

    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (rc || (row.flags & NODE_HELD))
        return rc == -ENOENT ? 0 : rc;
    rc = nodes_get_fd(n->nodes, lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
    rc = fstat(fd, &st) < 0 ? -errno : put_attr(n, fd, &st, row.rid, times, at);
    nodes_put_fd(n->nodes, ref);
    if (rc)
        return rc;
    row.ctime_ns = ns_of(st.st_ctim);
    if (!dirty_is(n->dirty, lid))
        row.mtime_ns = ns_of(st.st_mtim);
    return index_put_node(n->index, &row, false);
}

int local_touch_dir(struct node *n, uint64_t lid)
{
    struct index_node row;
    struct content_rec c;
    struct attr_rec a;
    struct node_fd *ref;
    struct stat st;
    int fd;

    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (rc || row.type != NODE_DIR)
        return rc == -ENOENT ? 0 : rc;
    rc = nodes_get_fd(n->nodes, lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
    rc = fstat(fd, &st) < 0 ? -errno : 0;
    nodes_put_fd(n->nodes, ref);
    if (!rc)
        rc = n->records.get_content(n->records.ctx, row.rid, &c);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    memset(&a, 0, sizeof a);
    (void)!n->records.get_attr(n->records.ctx, row.rid, &a);
    if (record_mtime(&c, &a) == ns_of(st.st_mtim))
        return 0;
    struct content_rec now = {.rid = row.rid, .type = NODE_DIR, .mtime_ns = ns_of(st.st_mtim)};
    return replica_content(&n->replica, node_wall(n), 0, &now);
}

/* Its names changed, or a peer's change was installed: the change time moved with it. */
static int refresh(struct node *n, uint64_t lid)
{
    struct index_node row;
    struct content_rec c;
    struct attr_rec a;
    struct node_fd *ref;
    struct stat st;
    int fd;

    if (scan_unverified(n, lid) || dirty_is(n->dirty, lid) ||
        index_get_node_by_lid(n->index, lid, &row) || row.type == NODE_DIR ||
        (row.flags & NODE_HELD) || nodes_get_fd(n->nodes, lid, NODES_PATH, &ref, &fd))
        return 0;
    int rc = fstat(fd, &st);
    nodes_put_fd(n->nodes, ref);
    if (rc < 0 || (row.type == NODE_REG && row.size != (uint64_t)st.st_size))
        return 0;
    memset(&a, 0, sizeof a);
    if (row.mtime_ns != ns_of(st.st_mtim) && (n->records.get_content(n->records.ctx, row.rid, &c) ||
                                              (n->records.get_attr(n->records.ctx, row.rid, &a),
                                               record_mtime(&c, &a)) != ns_of(st.st_mtim)))
        return 0; /* somebody else's doing */
    row.mtime_ns = ns_of(st.st_mtim);
    row.ctime_ns = ns_of(st.st_ctim);
    return index_put_node(n->index, &row, false);
}

static int finish_seals(struct node *n)
{
    size_t it = 0;
    uint64_t lid;
    bool again = false;
    void *v;

    while ((v = map_u64_next(&n->to_seal, &it, &lid))) {
        if (v != n && dirty_since(n->dirty, lid, (uintptr_t)v)) {
            map_u64_del(&n->to_seal, lid); /* half written just now; its close is still to come */
            continue;
        }
        int rc = seal_file(n, lid, 0);
        if (rc == -EBUSY) {
            again = true;
            continue;
        }
        map_u64_del(&n->to_seal, lid);
        if (rc && rc != -ESTALE && rc != -ENOENT)
            return rc;
    }
    n->retry_seal_us = again ? node_mono(n) + 5000 : 0;
    return 0;
}

/* The sets are emptied with the commit; what is done twice finds nothing to do. */
int local_finish(struct node *n)
{
    size_t it = 0;
    uint64_t lid;
    void *v;

    int rc = finish_seals(n);
    while (!rc && (v = map_u64_next(&n->to_stat, &it, &lid))) {
        rc = scan_touched(n, lid);
        if (!rc)
            rc = local_stat(n, lid, v == &n->to_stat, 0);
    }
    it = 0;
    while (!rc && map_u64_next(&n->to_refresh, &it, &lid)) {
        rc = refresh(n, lid);
        map_u64_del(&n->to_refresh, lid);
    }
    it = 0;
    while (!rc && map_u64_next(&n->to_touch, &it, &lid)) {
        rc = local_touch_dir(n, lid);
    }
    return rc;
}

/* ---- a dead worker's open intents ---- */

/* What a dead worker made and nobody has recorded yet: a directory among it may be where an open
 * intent belongs. */
void local_learn(void *arg, struct intent *in)
{
    if ((in->op != INTENT_CREATE && in->op != INTENT_FOUND) || !in->lid || !in->handle.len)
        return;
    int rc = learn(arg, in, type_of_mode(in->mode));
    if (rc)
        log_warn_code(rc, "inode %llu of the last worker", (unsigned long long)in->lid);
}

/* What was to be made is there and nobody knows it: it was made, and gets its lid now. */
static void judge_create(struct node *n, struct intent *in, int there, const struct handle *h)
{
    struct node_ref ref;
    struct node_fd *fref;
    struct stat st;
    int fd;

    in->result = -EAGAIN;
    if (there || nodes_find(n->nodes, h, &ref) != -ENOENT)
        return;
    if (!in->lid && nodes_new_lid(n->nodes, &in->lid) < 0)
        return;
    in->handle = *h;
    if (nodes_add(n->nodes, in->lid, NODE_REG, h, &ref) < 0 ||
        nodes_get_fd(n->nodes, in->lid, NODES_PATH, &fref, &fd) < 0)
        return;
    if (fstat(fd, &st) == 0) {
        in->mode = st.st_mode;
        in->result = 0;
    }
    nodes_put_fd(n->nodes, fref);
    nodes_remove(n->nodes, in->lid);
    if (nodes_add(n->nodes, in->lid, type_of_mode(in->mode), h, &ref) < 0)
        in->result = -EAGAIN;
}

/* Did the thing named get (or keep) its place? The system call either ran whole or not at all. */
void local_judge(void *arg, struct intent *in)
{
    struct node *n = arg;
    struct node_fd *ref = NULL;
    struct handle h;
    char name[256];
    int fd;

    bool second = in->op == INTENT_RENAME;
    uint64_t dir = second ? in->parent2 : in->parent;
    memcpy(name, second ? in->name2 : in->name1, second ? in->name2_len : in->name1_len);
    name[second ? in->name2_len : in->name1_len] = 0;
    int there = nodes_get_fd(n->nodes, dir, NODES_PATH, &ref, &fd);
    if (!there) {
        there = handle_of_name(fd, name, &h);
        nodes_put_fd(n->nodes, ref);
    }
    switch (in->op) {
    case INTENT_CREATE: judge_create(n, in, there, &h); break;
    case INTENT_UNLINK:
    case INTENT_RMDIR: in->result = there == -ENOENT ? 0 : -EAGAIN; break;
    /* By the handle in the intent: what was made shortly before is not in the index yet. */
    case INTENT_LINK:
    case INTENT_RENAME: in->result = there == 0 && handle_eq(&in->handle, &h) ? 0 : -EAGAIN; break;
    default: in->result = 0; break; /* what is only looked at again does no harm */
    }
}
