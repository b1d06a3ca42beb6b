/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Rejoining: this node lacks tombstones that a peer has collected, since it was away past the
 * retention, or an old copy of its state was put back, or its state was lost. What it has and the
 * peer has not may have been deleted long ago, or be new here: nobody can tell. So the peer's
 * records are taken as they are, and what it has nothing of goes from the tree; changes of ours
 * that it never had are kept among the conflicts.
 *
 *   begin: a new node id and log epoch; every record in the log so far is unconfirmed
 *     -> the peer's whole log: each record is put (behind rejoin_pos), ours or not
 *     -> its end (KNOW): what still lies before rejoin_pos is unconfirmed and goes
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the beginning ---- */

static bool is_fresh(const struct node *n)
{
    const struct vvec *k = &n->replica.know;
    return k->n == 0 || (k->n == 1 && k->e[0].node == n->replica.node);
}

struct rows {
    struct index_peer *v;
    size_t n;
};

static int visit_row(void *arg, const struct index_peer *p)
{
    struct rows *r = arg;

    struct index_peer *v = realloc(r->v, (r->n + 1) * sizeof *v);
    if (!v)
        return -ENOMEM;
    r->v = v;
    v[r->n++] = *p;
    return 0;
}

/* What was applied of their logs was applied to another state. */
static int forget_positions(struct node *n)
{
    struct rows r = {NULL, 0};

    int rc = index_peers(n->index, visit_row, &r);
    for (size_t i = 0; i < r.n && !rc; i++) {
        r.v[i].epoch = r.v[i].applied = 0;
        rc = index_put_peer(n->index, &r.v[i]);
    }
    free(r.v);
    return rc;
}

static int begin(struct node *n, const struct msg_hello *theirs, const char *why)
{
    struct vvec held = n->replica.know;

    int rc = txn_begin(n);
    if (rc)
        return rc;
    n->meta.rejoin_pos = index_log_head(n->index);
    n->meta.rejoin_node = theirs->node;
    identity_become(n);
    n->replica.know.n = 0;
    rc = forget_positions(n);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    rc = txn_commit(n);
    if (rc)
        return rc;
    n->rejoin_held = held;
    atomic_store(&n->rejoining, true);
    events_raise(n->events, "rejoin", "rejoining from %s under a new node id %016llx: %s",
                 theirs->name, (unsigned long long)n->replica.node, why);
    session_stop_all(n);
    return FARM_ECLOSED;
}

static bool is_connected(const struct node *n, uint64_t id)
{
    for (size_t i = 0; i < n->npeers; i++)
        if (n->peers[i].session && n->peers[i].node == id)
            return true;
    return false;
}

int rejoin_hello(struct node *n, const struct msg_hello *mine, const struct msg_hello *theirs)
{
    bool lost = is_fresh(n) && theirs->former && theirs->former != mine->node;
    bool late = !vvec_includes(&n->replica.know, &theirs->gone);

    if (n->meta.rejoin_pos) {
        if (theirs->node == n->meta.rejoin_node)
            return 0;
        return is_connected(n, n->meta.rejoin_node)
                   ? FARM_ECLOSED
                   : begin(n, theirs, "the node it began with is away");
    }
    if (!lost && !late)
        return 0;
    /* Both lack something of the other's: one of them yields. */
    if (!lost && !vvec_includes(&theirs->know, &mine->gone) && strcmp(mine->name, theirs->name) < 0)
        return 0;
    if (n->scan)
        return FARM_ECLOSED; /* what is here has to be known first */
    return begin(n, theirs,
                 lost ? "its state was lost"
                      : "it was away while what others deleted was forgotten");
}

/* ---- the end ---- */

struct stray {
    enum rec_kind kind;
    struct id128 id, inode;
};

struct finish {
    struct node *n;
    const struct vvec *know; /* the peer's */
    const struct vvec *gone;
    struct stray *v; /* unconfirmed */
    size_t count, size;
    uint64_t removed, kept;
};

static int add_stray(struct finish *f, const struct record *rec)
{
    if (f->count == f->size) {
        size_t size = f->size ? f->size * 2 : 256;
        struct stray *v = realloc(f->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        f->v = v;
        f->size = size;
    }
    f->v[f->count++] = (struct stray){rec->kind, record_id(rec),
                                      rec->kind == REC_NAME ? rec->name.inode : record_id(rec)};
    return 0;
}

static int find_strays(struct finish *f)
{
    struct node *n = f->n;
    struct record rec;

    f->count = 0;
    for (uint64_t pos = 0;; pos++) {
        int rc = index_next_record(n->index, pos, &pos, &rec);
        if (rc == -ENOENT || (!rc && pos >= n->meta.rejoin_pos))
            return 0;
        bool root = rec.kind != REC_NAME && id_eq(record_id(&rec), RID_ROOT);
        if (!rc && !root)
            rc = add_stray(f, &rec);
        if (rc)
            return rc;
    }
}

struct twin {
    struct node *n;
    const struct content_rec *c;
    bool found;
};

static int visit_twin(void *arg, struct id128 nid)
{
    struct twin *t = arg;
    struct content_rec other;
    struct name_rec name;

    int rc = t->n->records.get_name(t->n->records.ctx, nid, &name);
    if (!rc && !id_eq(name.inode, t->c->rid))
        rc = t->n->records.get_content(t->n->records.ctx, name.inode, &other);
    else
        return rc;
    if (!rc && other.type == NODE_REG && other.size == t->c->size &&
        memcmp(other.digest, t->c->digest, sizeof other.digest) == 0)
        t->found = true;
    return rc == -ENOENT ? 0 : rc;
}

/* Has another file of this place the same content? */
static int find_twin(struct node *n, const struct place *at, const struct content_rec *c,
                     bool *found)
{
    const struct records *r = &n->records;
    struct twin t = {.n = n, .c = c};
    struct id128 nid;

    int rc = r->who_is_at(r->ctx, at->parent, at->name, at->name_len, &nid);
    if (!rc)
        rc = visit_twin(&t, nid);
    if (!rc || rc == -ENOENT)
        rc = r->hidden_at(r->ctx, at->parent, at->name, at->name_len, visit_twin, &t);
    *found = t.found;
    return rc;
}

/* A name that the peer has nothing of dies; a change of ours that it never had is kept. */
static int bury_stray(struct finish *f, struct plan *p, struct id128 nid)
{
    struct node *n = f->n;
    const struct records *r = &n->records;
    struct content_rec c;
    struct name_rec name;
    struct place at;
    bool twin = false;

    int rc = r->get_place(r->ctx, nid, &at);
    if (rc || at.kind == PLACE_NONE)
        return rc == -ENOENT ? 0 : rc;
    rc = r->get_name(r->ctx, nid, &name);
    if (!rc)
        rc = r->get_content(r->ctx, name.inode, &c);
    if (rc)
        return rc;
    if (c.type == NODE_REG && !vvec_covers(f->know, c.h.stamp)) {
        rc = find_twin(n, &at, &c, &twin);
        if (!rc && !twin)
            rc = plan_keep_place(p, nid, &at, &c, KEPT_REJOINED);
        f->kept += !rc && !twin;
    }
    f->removed++;
    name.alive = false;
    if (!rc && c.type != NODE_DIR)
        rc = vvec_join(&name.seen, &c.vv);
    return rc ? rc : r->put_name(r->ctx, &name, n->replica.node);
}

static int finish_before(void *arg, struct plan *p)
{
    struct finish *f = arg;

    f->removed = f->kept = 0;
    int rc = find_strays(f);
    for (size_t i = 0; i < f->count && !rc; i++)
        if (f->v[i].kind == REC_NAME)
            rc = bury_stray(f, p, f->v[i].id);
    return rc;
}

static int visit_any(void *arg, const struct name_rec *name)
{
    (void)name;
    *(bool *)arg = true;
    return 1;
}

/* Still there: a directory that something made here meanwhile is in. It is ours from now on. */
static int own_name(struct node *n, struct id128 nid)
{
    struct name_rec name;

    int rc = n->records.get_name(n->records.ctx, nid, &name);
    name.alive = true;
    name.seen.n = 0;
    return rc ? rc : replica_restamp(&n->replica, node_wall(n), &name);
}

static int own_inode(struct node *n, const struct stray *s)
{
    struct record rec = {.kind = s->kind};

    int rc = s->kind == REC_CONTENT ? n->records.get_content(n->records.ctx, s->id, &rec.content)
                                    : n->records.get_attr(n->records.ctx, s->id, &rec.attr);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    return replica_renew(&n->replica, record_head(&rec)->stamp.node, record_head(&rec)->stamp.seq,
                         &rec);
}

static int settle_stray(struct node *n, const struct stray *s)
{
    const struct records *r = &n->records;
    struct place at;
    bool named = false;

    if (s->kind == REC_NAME) {
        int rc = r->get_place(r->ctx, s->id, &at);
        if (rc && rc != -ENOENT)
            return rc;
        return rc || at.kind == PLACE_NONE ? index_forget_name(n->index, s->id)
                                           : own_name(n, s->id);
    }
    int rc = r->names_of(r->ctx, s->inode, visit_any, &named);
    if (rc < 0)
        return rc;
    return named ? own_inode(n, s) : index_forget_inode(n->index, s->inode);
}

static int finish_after(void *arg)
{
    struct finish *f = arg;
    struct node *n = f->n;
    int rc = 0;

    for (int names = 1; names >= 0; names--)
        for (size_t i = 0; i < f->count && !rc; i++)
            if ((f->v[i].kind == REC_NAME) == (names == 1))
                rc = settle_stray(n, &f->v[i]);
    if (!rc)
        rc = replica_learn(&n->replica, f->know);
    if (!rc)
        rc = vvec_join(&n->replica.gone, f->gone);
    n->nseeds = 0; /* the view has been asked */
    n->meta.rejoin_pos = n->meta.rejoin_node = 0;
    return rc;
}

int rejoin_finish(struct node *n, const struct msg_hello *theirs, const struct vvec *know)
{
    struct finish f = {.n = n, .know = know, .gone = &theirs->gone};
    struct work w = {&f, finish_before, finish_after};

    if (theirs->node != n->meta.rejoin_node)
        return 0;
    int rc = apply_work(n, &w);
    free(f.v);
    if (rc)
        return rc;
    n->rejoin_held.n = 0;
    atomic_store(&n->rejoining, false);
    events_clear(n->events, "rejoin",
                 "rejoined from %s: %llu names that it had nothing of were removed, %llu changes "
                 "that it never had are kept as conflicts",
                 theirs->name, (unsigned long long)f.removed, (unsigned long long)f.kept);
    return 0;
}
