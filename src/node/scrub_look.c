/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One inode: what the index says of it, against what is in the backing tree. Reads only. */
#include "node/scrub_i.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/log.h"
#include "ship/reopen.h"
#include "store/attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_LEAVES 8u
#define PLACES_MAX 64u

/* ---- what the index says of an inode ---- */

struct looked_place {
    uint64_t dir; /* lid */
    char name[NAME_LEN_MAX + 1];
};

struct facts {
    struct scrub *s;
    struct index_node row;
    struct stamp stamp;
    uint64_t size;
    int64_t shown_ns; /* the time the records say */
    uint8_t digest[DIGEST_LEN];
    bool has_attr;
    struct attr_rec attr; /* its xattrs in `owned` */
    void *owned;
    size_t nplaces;
    struct looked_place places[PLACES_MAX];
};

static int visit_place(void *arg, const struct name_rec *name, const struct place *p)
{
    struct facts *f = arg;
    struct index_node dir;

    (void)name;
    if (p->kind != PLACE_AT || f->nplaces == PLACES_MAX)
        return 0;
    int rc = index_reader_node(f->s->reader, p->parent, &dir);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    struct looked_place *to = &f->places[f->nplaces++];
    to->dir = dir.lid;
    memcpy(to->name, p->name, p->name_len);
    to->name[p->name_len] = 0;
    return 0;
}

static int read_attr(struct facts *f, const struct content_rec *c)
{
    struct record rec;

    f->shown_ns = c->mtime_ns;
    int rc = index_reader_record(f->s->reader, REC_ATTR, f->row.rid, &rec);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    f->has_attr = true;
    f->attr = rec.attr;
    f->shown_ns = record_mtime(c, &rec.attr);
    f->attr.xattrs = NULL;
    if (!rec.attr.xattrs_len)
        return 0;
    f->owned = malloc(rec.attr.xattrs_len);
    if (!f->owned)
        return -ENOMEM;
    memcpy(f->owned, rec.attr.xattrs, rec.attr.xattrs_len);
    f->attr.xattrs = f->owned;
    return 0;
}

/* -ENOENT: there is nothing to look at. */
static int read_facts(struct facts *f, struct id128 rid)
{
    struct record rec;

    int rc = index_reader_node(f->s->reader, rid, &f->row);
    if (rc)
        return rc;
    if (f->row.flags & (NODE_HELD | NODE_DIRTY | NODE_NODATA | NODE_DAMAGED))
        return -ENOENT;
    rc = index_reader_record(f->s->reader, REC_CONTENT, rid, &rec);
    if (rc)
        return rc;
    f->stamp = rec.content.h.stamp;
    f->size = rec.content.size;
    memcpy(f->digest, rec.content.digest, DIGEST_LEN);
    rc = read_attr(f, &rec.content);
    if (!rc)
        rc = index_reader_names(f->s->reader, rid, visit_place, f);
    return rc ? rc : f->nplaces || id_eq(rid, RID_ROOT) ? 0 : -ENOENT;
}

/* ---- looking ---- */

static bool is_gone(int rc)
{
    return rc == -ESTALE || rc == -ENOENT;
}

static int look_places(struct facts *f, enum scrub_kind *kind)
{
    struct nodes *nodes = f->s->n->nodes;

    for (size_t i = 0; i < f->nplaces; i++) {
        struct node_fd *ref;
        struct handle h;
        int fd;
        int rc = nodes_get_fd(nodes, f->places[i].dir, NODES_PATH, &ref, &fd);
        if (!rc) {
            rc = handle_of_name(fd, f->places[i].name, &h);
            nodes_put_fd(nodes, ref);
        }
        if (is_gone(rc) || (!rc && !handle_eq(&h, &f->row.handle))) {
            *kind = SCRUB_MISSING;
            return 0;
        }
        if (rc)
            return rc;
    }
    return 0;
}

static int look_attrs(struct facts *f, int fd, const struct stat *st, enum scrub_kind *kind)
{
    struct attr_rec a;
    struct buf x;

    if (!f->has_attr)
        return 0;
    memset(&a, 0, sizeof a);
    buf_init(&x, XATTRS_LEN_MAX + 4096);
    int rc = attrs_read(fd, st, &x, &a);
    if (!rc && !attrs_same(&a, &f->attr))
        *kind = SCRUB_ATTRS;
    buf_fini(&x);
    return rc;
}

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* From the disk, not from what the page cache remembers of it; and what is read here shall not push
 * out of it what others use. */
static void forget_pages(int fd, uint64_t off, uint64_t len)
{
    int rc = posix_fadvise(fd, (off_t)off, (off_t)len, POSIX_FADV_DONTNEED);
    if (rc)
        log_debug("posix_fadvise: %s", strerror(rc));
}

/* The digest of what is on the disk; -ECANCELED: the round is broken off. */
static int read_digest(struct scrub *s, int fd, uint64_t size, uint8_t out[DIGEST_LEN])
{
    uint64_t n = digest_leaves(size);
    CLEANUP_FREE uint8_t *leaves = malloc(n ? (size_t)n * DIGEST_LEN : 1);

    if (!leaves)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i += CHUNK_LEAVES) {
        uint64_t last = n - i < CHUNK_LEAVES ? n : i + CHUNK_LEAVES;
        uint64_t off = i * DIGEST_BLOCK,
                 end = last * DIGEST_BLOCK < size ? last * DIGEST_BLOCK : size;
        off_t data = lseek(fd, (off_t)off, SEEK_DATA);
        bool hole = data < 0 ? errno == ENXIO : (uint64_t)data >= end;
        forget_pages(fd, off, end - off);
        int rc = digest_file_leaves(fd, size, i, last, leaves + i * DIGEST_LEN);
        forget_pages(fd, off, end - off);
        if (rc)
            return rc;
        pthread_mutex_lock(&s->lock);
        s->round.bytes += s->again ? 0 : end - off;
        pthread_mutex_unlock(&s->lock);
        if (scrub_pay(s, hole ? 0 : end - off))
            return -ECANCELED;
    }
    digest_root(size, leaves, n, out);
    return 0;
}

static bool same_stat(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && ns_of(a->st_mtim) == ns_of(b->st_mtim) &&
           ns_of(a->st_ctim) == ns_of(b->st_ctim);
}

/* A file that nobody wrote has the time that the index or the records say. (Its ctime says nothing:
 * renames and links move it.) */
static int look_data(struct facts *f, int fd, const struct stat *st, enum scrub_kind *kind)
{
    struct scrub *s = f->s;
    uint8_t digest[DIGEST_LEN];
    struct stat now;

    if (ns_of(st->st_mtim) != f->row.mtime_ns && ns_of(st->st_mtim) != f->shown_ns) {
        *kind = SCRUB_WRITTEN;
        return 0;
    }
    bool same = (uint64_t)st->st_size == f->size;
    if (same) {
        int rc = read_digest(s, fd, f->size, digest);
        if (rc && rc != -EIO)
            return rc;
        same = !rc && memcmp(digest, f->digest, DIGEST_LEN) == 0;
    }
    if (same || dirty_is(s->n->dirty, f->row.lid))
        return 0;
    if (fstat(fd, &now) < 0)
        return -errno;
    if (same_stat(st, &now))
        *kind = SCRUB_DAMAGED;
    return 0;
}

static int look_inode(struct facts *f, struct stat *st, enum scrub_kind *kind)
{
    struct nodes *nodes = f->s->n->nodes;
    struct node_fd *ref;
    int fd;

    int rc = nodes_get_fd(nodes, f->row.lid, NODES_PATH, &ref, &fd);
    if (is_gone(rc)) {
        *kind = SCRUB_MISSING;
        return 0;
    }
    if (rc)
        return rc;
    rc = fstat(fd, st) < 0 ? -errno : look_attrs(f, fd, st, kind);
    nodes_put_fd(nodes, ref);
    if (rc || *kind || f->row.type != NODE_REG)
        return rc;
    CLEANUP_FD int own = -1;
    rc = reopen_read(nodes, f->row.lid, &own);
    return rc ? rc : look_data(f, own, st, kind);
}

static int look(struct facts *f, struct id128 rid, struct scrub_find *find)
{
    enum scrub_kind kind = 0;
    struct stat st;

    int rc = index_reader_begin(f->s->reader);
    if (rc)
        return rc;
    rc = read_facts(f, rid);
    index_reader_end(f->s->reader);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (f->row.type == NODE_REG && dirty_is(f->s->n->dirty, f->row.lid))
        return 0;
    memset(&st, 0, sizeof st);
    rc = look_places(f, &kind);
    if (!rc && !kind)
        rc = look_inode(f, &st, &kind);
    if (rc || !kind)
        return rc;
    *find = (struct scrub_find){.kind = kind,
                                .rid = rid,
                                .stamp = f->stamp,
                                .lid = f->row.lid,
                                .size = (uint64_t)st.st_size,
                                .mtime_ns = ns_of(st.st_mtim),
                                .ctime_ns = ns_of(st.st_ctim)};
    return 0;
}

int scrub_inspect(struct scrub *s, struct id128 rid, struct scrub_find *find)
{
    struct facts *f = calloc(1, sizeof *f);

    find->kind = 0;
    if (!f)
        return -ENOMEM;
    f->s = s;
    int rc = look(f, rid, find);
    free(f->owned);
    free(f);
    if (rc && rc != -ECANCELED)
        log_debug("scrub: inode %llx.%llu: %s", (unsigned long long)rid.node,
                  (unsigned long long)rid.n, err_text(rc));
    return rc == -ECANCELED ? rc : 0;
}
