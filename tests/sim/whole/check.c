/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What must hold: while it runs (installed files are whole, deletions have a cause) and in the end.
 */
#include "whole.h"

#include "core/replica.h"
#include "memrecords.h"
#include "oracle.h"
#include "wire/record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what was published ---- */

static uint8_t (*digests)[32];
static size_t ndigests, digests_size;

bool is_published(const uint8_t digest[32])
{
    for (size_t i = ndigests; i-- > 0;)
        if (memcmp(digests[i], digest, 32) == 0)
            return true;
    return false;
}

void published(const uint8_t digest[32])
{
    if (is_published(digest))
        return;
    if (ndigests == digests_size) {
        digests_size = digests_size ? digests_size * 2 : 256;
        digests = realloc(digests, digests_size * 32);
        if (!digests)
            abort();
    }
    memcpy(digests[ndigests++], digest, 32);
}

struct version {
    struct id128 rid;
    struct stamp stamp;
    struct vvec vv;
    uint8_t digest[32];
};
static struct version *versions; /* every sealed one */
static size_t nversions, versions_size;

int __real_replica_content(struct replica *p, uint64_t wall, uint64_t at, struct content_rec *c);
int __wrap_replica_content(struct replica *p, uint64_t wall, uint64_t at, struct content_rec *c);
int __wrap_replica_content(struct replica *p, uint64_t wall, uint64_t at, struct content_rec *c)
{
    int e = __real_replica_content(p, wall, at, c);

    if (e || c->type != NODE_REG)
        return e;
    published(c->digest);
    if (nversions == versions_size) {
        versions_size = versions_size ? versions_size * 2 : 256;
        versions = realloc(versions, versions_size * sizeof *versions);
        if (!versions)
            abort();
    }
    struct version *v = &versions[nversions++];
    *v = (struct version){.rid = c->rid, .stamp = c->h.stamp, .vv = c->vv};
    memcpy(v->digest, c->digest, 32);
    return 0;
}

void check_installed(struct inode *i, struct inode *from, struct inode *to)
{
    const struct machine *m = i->machine;

    if (!S_ISREG(i->mode) || !inode_below(to, m->tree) || from != dir_find(m->area, "in"))
        return;
    inode_digest(i, i->digest);
    if (!is_published(i->digest))
        fail("m%u: a file becomes visible that nobody published", m->i);
    i->installed = true;
}

static void whole_below(struct machine *m, const struct inode *dir)
{
    uint8_t digest[32];

    for (size_t k = 0; k < dir->nnames; k++) {
        const struct inode *i = dir->names[k].inode;
        if (S_ISDIR(i->mode)) {
            whole_below(m, i);
        } else if (i->installed) {
            inode_digest(i, digest);
            if (!is_published(digest))
                fail("m%u: serves %s, which came from a peer, in part", m->i, dir->names[k].name);
        }
    }
}

void check_whole(struct machine *m)
{
    whole_below(m, m->tree);
}

/* ---- deletions ---- */

struct deletion {
    struct id128 rid;
    struct vvec seen; /* the versions that went with it */
};
static struct deletion *deletions;
static size_t ndeletions, deletions_size;

/* What stands at a place is about to be deleted by who sees it. */
static void deletion_add(const struct replica *p, struct id128 parent, const uint8_t *name,
                         uint8_t len)
{
    struct content_rec c;
    struct name_rec rec;
    struct id128 nid;

    if (p->r->who_is_at(p->r->ctx, parent, name, len, &nid) ||
        p->r->get_name(p->r->ctx, nid, &rec) || p->r->get_content(p->r->ctx, rec.inode, &c))
        return;
    if (ndeletions == deletions_size) {
        deletions_size = deletions_size ? deletions_size * 2 : 64;
        deletions = realloc(deletions, deletions_size * sizeof *deletions);
        if (!deletions)
            abort();
    }
    deletions[ndeletions++] = (struct deletion){rec.inode, c.vv};
}

static bool was_deleted(const struct version *v)
{
    for (size_t i = 0; i < ndeletions; i++)
        if (id_eq(deletions[i].rid, v->rid) && vvec_covers(&deletions[i].seen, v->stamp))
            return true;
    return false;
}

/* The backing inode of what the records have at a place. */
static struct inode *inode_at(struct machine *m, const struct replica *p, struct id128 parent,
                              const uint8_t *name, uint8_t len)
{
    struct index_node row;
    struct name_rec rec;
    struct id128 nid;
    uint64_t ino;

    if (p->r->who_is_at(p->r->ctx, parent, name, len, &nid) ||
        p->r->get_name(p->r->ctx, nid, &rec) || index_get_node(m->index, rec.inode, &row))
        return NULL;
    memcpy(&ino, row.handle.bytes, 8);
    return disk_by_ino(m, ino);
}

/* Here, or elsewhere before: an index that was set back finds it gone once more. */
static bool deleted_before(const struct replica *p, struct id128 parent, const uint8_t *name,
                           uint8_t len)
{
    struct name_rec rec;
    struct id128 nid;

    if (p->r->who_is_at(p->r->ctx, parent, name, len, &nid) || p->r->get_name(p->r->ctx, nid, &rec))
        return false;
    for (size_t i = 0; i < ndeletions; i++)
        if (id_eq(deletions[i].rid, rec.inode))
            return true;
    return false;
}

static void must_be_removed(const struct replica *p, struct id128 parent, const uint8_t *name,
                            uint8_t len)
{
    struct machine *m = here();
    const struct inode *i = m ? inode_at(m, p, parent, name, len) : NULL;

    if (i && !i->removed && !deleted_before(p, parent, name, len))
        fail("m%u: deletes %.*s, which nobody deleted", m->i, (int)len, (const char *)name);
}

int __real_replica_unlink(struct replica *p, uint64_t wall, struct id128 parent,
                          const uint8_t *name, uint8_t len);
int __wrap_replica_unlink(struct replica *p, uint64_t wall, struct id128 parent,
                          const uint8_t *name, uint8_t len);
int __wrap_replica_unlink(struct replica *p, uint64_t wall, struct id128 parent,
                          const uint8_t *name, uint8_t len)
{
    must_be_removed(p, parent, name, len);
    deletion_add(p, parent, name, len);
    return __real_replica_unlink(p, wall, parent, name, len);
}

int __real_replica_rename(struct replica *p, uint64_t wall, struct id128 from, const uint8_t *name,
                          uint8_t len, struct id128 to, const uint8_t *name2, uint8_t len2,
                          bool exchange);
int __wrap_replica_rename(struct replica *p, uint64_t wall, struct id128 from, const uint8_t *name,
                          uint8_t len, struct id128 to, const uint8_t *name2, uint8_t len2,
                          bool exchange);
int __wrap_replica_rename(struct replica *p, uint64_t wall, struct id128 from, const uint8_t *name,
                          uint8_t len, struct id128 to, const uint8_t *name2, uint8_t len2,
                          bool exchange)
{
    if (!exchange && !(id_eq(from, to) && len == len2 && memcmp(name, name2, len) == 0)) {
        struct machine *m = here();
        const struct inode *a = m ? inode_at(m, p, from, name, len) : NULL;
        if (!a || a != inode_at(m, p, to, name2, len2))
            must_be_removed(p, to, name2, len2);
        deletion_add(p, to, name2, len2);
    }
    return __real_replica_rename(p, wall, from, name, len, to, name2, len2, exchange);
}

/* ---- what a node holds ---- */

struct item {
    uint8_t kind;
    struct id128 id;
    size_t n;
    uint8_t *bytes;
};

struct holding {
    struct item *v;
    size_t n, size;
    struct index_meta meta;
};

static int by_id(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return x->kind != y->kind ? x->kind - y->kind : id_cmp(x->id, y->id);
}

static void hold(struct holding *h, const struct record *r)
{
    struct buf b;

    if (h->n == h->size) {
        h->size = h->size ? h->size * 2 : 64;
        h->v = realloc(h->v, h->size * sizeof *h->v);
        if (!h->v)
            abort();
    }
    buf_init(&b, 1u << 20);
    record_encode(&b, r);
    h->v[h->n++] = (struct item){(uint8_t)r->kind, record_id(r), b.len, b.data};
}

static void holding_free(struct holding *h)
{
    for (size_t i = 0; i < h->n; i++)
        free(h->v[i].bytes);
    free(h->v);
    memset(h, 0, sizeof *h);
}

/* What is in the node's log from a position on; 0: nothing but the meta row. */
static bool holding_of(const struct machine *m, struct holding *h, uint64_t pos)
{
    struct index_reader *r;
    struct record rec;
    uint64_t at, source;

    memset(h, 0, sizeof *h);
    if (!m->index || index_reader_new(m->index, &r))
        return false;
    if (index_reader_begin(r) == 0) {
        if (index_reader_meta(r, &h->meta))
            fail("m%u: the index has no meta row", m->i);
        while (pos && index_reader_log(r, pos, &at, &rec, &source) == 0) {
            hold(h, &rec);
            pos = at + 1;
        }
        index_reader_end(r);
    }
    index_reader_free(r);
    if (h->n)
        qsort(h->v, h->n, sizeof *h->v, by_id);
    return true;
}

bool all_quiet(uint64_t *sum)
{
    struct holding h;

    *sum = w.frames;
    for (unsigned i = 0; i < w.n; i++) {
        const struct machine *m = &machines[i];
        if (m->worker_state != WORKER_UP || m->apps_busy || !holding_of(m, &h, 0))
            return false;
        *sum = *sum * 31 + h.meta.log_head;
    }
    return true;
}

/* ---- in the end ---- */

static void print_item(const struct item *x)
{
    struct record r;
    struct cur c;

    cur_init(&c, x->bytes, x->n);
    if (record_decode(&c, &r))
        return;
    const struct rec_head *h = record_head(&r);
    printf("    kind %u id %llx.%llu stamp %llx.%llu hlc %llx", x->kind,
           (unsigned long long)x->id.node, (unsigned long long)x->id.n,
           (unsigned long long)h->stamp.node, (unsigned long long)h->stamp.seq,
           (unsigned long long)h->hlc);
    if (r.kind == REC_NAME)
        printf(" inode %llx.%llu in %llx.%llu %.*s %s", (unsigned long long)r.name.inode.node,
               (unsigned long long)r.name.inode.n, (unsigned long long)r.name.parent.node,
               (unsigned long long)r.name.parent.n, (int)r.name.name_len, (const char *)r.name.name,
               r.name.alive ? "alive" : "dead");
    if (r.kind == REC_CONTENT)
        printf(" type %u size %llu mtime %lld", r.content.type, (unsigned long long)r.content.size,
               (long long)r.content.mtime_ns);
    if (r.kind == REC_ATTR)
        printf(" mode %o owner %u.%u mtime %lld (%llx) xattrs %u", r.attr.mode, r.attr.uid,
               r.attr.gid, (long long)r.attr.mtime_ns, (unsigned long long)r.attr.mtime_hlc,
               r.attr.xattrs_len);
    printf("\n");
}

static void load(struct memrecords *m, const struct holding *h)
{
    struct record r;
    struct cur c;

    memrecords_init(m);
    for (size_t i = 0; i < h->n; i++) {
        cur_init(&c, h->v[i].bytes, h->v[i].n);
        if (record_decode(&c, &r)) {
            fail("a record in an index cannot be read");
            continue;
        }
        if (r.kind == REC_NAME)
            (void)m->r.put_name(m, &r.name, 0);
        else if (r.kind == REC_CONTENT)
            (void)m->r.put_content(m, &r.content, 0);
        else
            (void)m->r.put_attr(m, &r.attr, 0);
    }
}

/* Dead and not shown: one node may have collected it already, and another not yet. */
static bool may_be_collected(const struct holding *h, const struct item *x)
{
    struct memrecords m;
    struct record r;
    struct cur c;
    bool dead = true;

    cur_init(&c, x->bytes, x->n);
    if (record_decode(&c, &r))
        return false;
    struct id128 rid = r.kind == REC_NAME ? r.name.inode : x->id;
    load(&m, h);
    struct place *places = oracle_places(&m);
    for (size_t i = 0; i < m.nnames; i++)
        if (id_eq(m.names[i]->rec.inode, rid) &&
            (m.names[i]->rec.alive || places[i].kind != PLACE_NONE))
            dead = false;
    free(places);
    memrecords_fini(&m);
    return dead;
}

static void compare_records(const struct holding *a, const struct holding *b, unsigned ai,
                            unsigned bi)
{
    size_t i = 0, k = 0;

    while (i < a->n || k < b->n) {
        int o = i == a->n ? 1 : k == b->n ? -1 : by_id(&a->v[i], &b->v[k]);
        bool same = o == 0 && a->v[i].n == b->v[k].n &&
                    memcmp(a->v[i].bytes, b->v[k].bytes, a->v[i].n) == 0;
        if (o != 0 && may_be_collected(o < 0 ? a : b, o < 0 ? &a->v[i] : &b->v[k]))
            same = true;
        if (!same) {
            fail("m%u and m%u hold different records", ai, bi);
            if (w.trace && o <= 0) {
                printf("  only m%u:\n", ai);
                print_item(&a->v[i]);
            }
            if (w.trace && o >= 0) {
                printf("  only m%u:\n", bi);
                print_item(&b->v[k]);
            }
        }
        i += o <= 0;
        k += o >= 0;
    }
}

struct shown {
    struct machine *m;
    struct memrecords *r;
    const struct place *places;
    size_t expected, found;
};

static struct inode *dir_of(const struct shown *s, struct id128 rid, unsigned depth)
{
    if (id_eq(rid, RID_ROOT))
        return s->m->tree;
    for (size_t i = 0; depth < 64 && i < s->r->nnames; i++) {
        const struct name_rec *n = &s->r->names[i]->rec;
        const struct place *p = &s->places[i];
        char name[256];
        if (!id_eq(n->inode, rid) || p->kind != PLACE_AT)
            continue;
        struct inode *up = dir_of(s, p->parent, depth + 1);
        memcpy(name, p->name, p->name_len);
        name[p->name_len] = 0;
        return up ? dir_find(up, name) : NULL;
    }
    return NULL;
}

static void check_file(struct shown *s, const char *name, const struct inode *i,
                       const struct content_rec *c)
{
    static const mode_t types[] = {
        [NODE_REG] = S_IFREG, [NODE_DIR] = S_IFDIR, [NODE_LNK] = S_IFLNK, [NODE_FIFO] = S_IFIFO};
    uint8_t digest[32];
    struct attr_rec a;

    if ((i->mode & S_IFMT) != types[c->type]) {
        fail("m%u: %s has another type than the records say", s->m->i, name);
        return;
    }
    if (c->type == NODE_LNK &&
        (i->size != c->target_len || memcmp(i->data, c->target, i->size) != 0))
        fail("m%u: %s links elsewhere than the records say", s->m->i, name);
    if (c->type == NODE_REG) {
        inode_digest(i, digest);
        if (i->size != c->size || memcmp(digest, c->digest, 32) != 0)
            fail("m%u: %s holds other data than the records say (%zu bytes, not %llu)", s->m->i,
                 name, i->size, (unsigned long long)c->size);
    }
    if (s->r->r.get_attr(s->r, c->rid, &a))
        return;
    if (c->type != NODE_LNK && (i->mode & 07777) != a.mode)
        fail("m%u: %s has mode %o, the records say %o", s->m->i, name, i->mode & 07777, a.mode);
    if (i->mtime != record_mtime(c, &a))
        fail("m%u: %s has mtime %lld, the records say %lld", s->m->i, name, (long long)i->mtime,
             (long long)record_mtime(c, &a));
}

static size_t count_names(const struct inode *dir, unsigned depth)
{
    size_t n = dir->nnames;

    for (size_t k = 0; depth < 100 && k < dir->nnames; k++)
        if (S_ISDIR(dir->names[k].inode->mode))
            n += count_names(dir->names[k].inode, depth + 1);
    return n;
}

static void list_tree(const struct inode *dir, const char *path, unsigned depth)
{
    for (size_t k = 0; depth < 20 && k < dir->nnames; k++) {
        char sub[600];
        snprintf(sub, sizeof sub, "%s/%s", path, dir->names[k].name);
        const struct inode *i = dir->names[k].inode;
        printf("    %s ino %llu mode %o size %zu mtime %lld\n", sub, (unsigned long long)i->ino,
               i->mode, i->size, (long long)i->mtime);
        if (S_ISDIR(i->mode))
            list_tree(i, sub, depth + 1);
    }
}

/* The backing tree is the view of the records, worked out a second time. */
static void check_tree(struct machine *m, const struct holding *h)
{
    struct memrecords r;
    struct content_rec c;
    size_t expected = 0;

    load(&r, h);
    struct place *places = oracle_places(&r);
    struct shown s = {.m = m, .r = &r, .places = places};
    for (size_t i = 0; i < r.nnames; i++) {
        const struct place *p = &places[i];
        char name[256];
        if (p->kind != PLACE_AT)
            continue;
        expected++;
        memcpy(name, p->name, p->name_len);
        name[p->name_len] = 0;
        const struct inode *dir = dir_of(&s, p->parent, 0);
        const struct inode *there = dir ? dir_find(dir, name) : NULL;
        if (!there)
            fail("m%u: %s is missing in the tree", m->i, name);
        else if (r.r.get_content(&r, r.names[i]->rec.inode, &c) == 0)
            check_file(&s, name, there, &c);
    }
    size_t found = count_names(m->tree, 0);
    if (found != expected)
        fail("m%u: the tree has %zu names, the records %zu", m->i, found, expected);
    if (w.why[0] && w.trace) {
        printf("  records of m%u\n", m->i);
        for (size_t i = 0; i < h->n; i++)
            if (h->v[i].kind == REC_NAME)
                print_item(&h->v[i]);
        printf("  tree of m%u\n", m->i);
        list_tree(m->tree, "", 0);
    }
    free(places);
    memrecords_fini(&r);
}

static bool kept_somewhere(const uint8_t digest[32])
{
    uint8_t d[32];

    for (unsigned i = 0; i < w.n; i++) {
        const struct machine *m = &machines[i];
        const struct inode *dirs[] = {dir_find(m->area, "conflicts"), dir_find(m->area, "hidden")};
        for (size_t x = 0; x < 2; x++) {
            for (size_t k = 0; dirs[x] && k < dirs[x]->nnames; k++) {
                inode_digest(dirs[x]->names[k].inode, d);
                if (memcmp(d, digest, 32) == 0)
                    return true;
            }
        }
    }
    return false;
}

/* It, or one that was made of it. */
static bool was_kept(const struct version *v)
{
    for (size_t i = 0; i < nversions; i++)
        if (id_eq(versions[i].rid, v->rid) && vvec_covers(&versions[i].vv, v->stamp) &&
            kept_somewhere(versions[i].digest))
            return true;
    return false;
}

/* Every sealed version is in the past of what is there now, or was kept. */
static void check_versions(const struct holding *h)
{
    struct memrecords r;
    struct content_rec c;

    load(&r, h);
    for (size_t i = 0; i < nversions; i++) {
        const struct version *v = &versions[i];
        /* Never announced (a new file that was removed again): nobody was promised anything. */
        if (r.r.get_content(&r, v->rid, &c))
            continue;
        if (!vvec_covers(&c.vv, v->stamp) && memcmp(c.digest, v->digest, 32) != 0 &&
            !was_deleted(v) && !was_kept(v))
            fail("version %llu of node %llx of inode %llx.%llu is lost",
                 (unsigned long long)v->stamp.seq, (unsigned long long)v->stamp.node,
                 (unsigned long long)v->rid.node, (unsigned long long)v->rid.n);
    }
    memrecords_fini(&r);
}

/* What an application closed and nobody wrote to or removed since was published. */
static void check_promises(struct machine *m)
{
    for (size_t i = 0; i < m->ninodes; i++) {
        const struct inode *x = m->inodes[i];
        if (x->promised && x->nlink && !x->removed && !is_published(x->digest) &&
            !kept_somewhere(x->digest))
            fail("m%u: what was closed in inode %llu was never published", m->i,
                 (unsigned long long)x->ino);
    }
}

void check_end(void)
{
    struct holding h[MACHINES_MAX];

    for (unsigned i = 0; i < w.n; i++) {
        if (!holding_of(&machines[i], &h[i], 1))
            fail("m%u: has no index", i);
        if (i)
            compare_records(&h[0], &h[i], 0, i);
    }
    for (unsigned i = 0; i < w.n; i++) {
        check_tree(&machines[i], &h[i]);
        kernel_check(&machines[i]);
        check_promises(&machines[i]);
    }
    if (!(w.faults & (FAULT_POWER | FAULT_RESTORE | FAULT_WIPE)))
        check_versions(&h[0]);
    for (unsigned i = 0; i < w.n; i++)
        holding_free(&h[i]);
}

void heads_remember(void)
{
    struct holding h;

    for (unsigned i = 0; i < w.n; i++)
        if (holding_of(&machines[i], &h, 0))
            machines[i].head_before = h.meta.log_head;
}

void check_after_restart(void)
{
    struct holding h;

    for (unsigned i = 0; i < w.n; i++) {
        struct machine *m = &machines[i];
        if (!holding_of(m, &h, m->head_before))
            continue;
        for (size_t k = 0; k < h.n; k++) {
            fail("m%u: a clean restart made %zu new records", i, h.n);
            if (w.trace)
                print_item(&h.v[k]);
        }
        holding_free(&h);
    }
}
