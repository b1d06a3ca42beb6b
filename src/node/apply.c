/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Peers' records: merged, planned, claimed, committed, run. See node.h for the order and why. */
#include "node/node.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/log.h"
#include "store/attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOCAL_MAX 4096u /* intents in one transaction */

/* ---- data that is still to come ---- */

static int set_flags(struct node *n, struct id128 rid, uint8_t set, uint8_t clear)
{
    struct index_node row;

    int rc = index_get_node(n->index, rid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    uint8_t flags = (uint8_t)((row.flags & ~clear) | set);
    if (flags == row.flags)
        return 0;
    row.flags = flags;
    return index_put_node(n->index, &row, false);
}

static int want_add(struct node *n, struct id128 rid, struct stamp stamp)
{
    for (size_t i = 0; i < n->nwants; i++) {
        if (id_eq(n->wants[i].rid, rid)) {
            n->wants[i].stamp = stamp;
            n->wants[i].done = false;
            return index_set_todo(n->index, rid, TODO_DATA, true);
        }
    }
    struct want *v = realloc(n->wants, (n->nwants + 1) * sizeof *v);
    if (!v)
        return -ENOMEM;
    n->wants = v;
    v[n->nwants++] = (struct want){.rid = rid, .stamp = stamp, .fresh = true};
    return index_set_todo(n->index, rid, TODO_DATA, true);
}

int apply_want(struct node *n, struct id128 rid, struct stamp stamp, const struct content_rec *held)
{
    struct index_node row;

    int rc = index_get_node(n->index, rid, &row);
    if (rc && rc != -ENOENT)
        return rc;
    bool first = rc == 0 && !(row.flags & NODE_NODATA);
    rc = first && held ? index_put_behind(n->index, held) : 0;
    if (!rc)
        rc = set_flags(n, rid, NODE_NODATA, 0);
    return rc ? rc : want_add(n, rid, stamp);
}

int apply_held(struct node *n, struct id128 rid, struct content_rec *out)
{
    struct index_node row;

    int rc = index_get_node(n->index, rid, &row);
    if (rc)
        return rc;
    if (row.flags & NODE_NODATA)
        return index_get_behind(n->index, rid, out);
    return n->records.get_content(n->records.ctx, rid, out);
}

int apply_want_damaged(struct node *n, struct id128 rid, struct stamp stamp)
{
    int rc = set_flags(n, rid, NODE_DAMAGED, 0);
    return rc ? rc : want_add(n, rid, stamp);
}

int apply_want_no_more(struct node *n, struct id128 rid)
{
    for (size_t i = 0; i < n->nwants; i++) {
        if (!id_eq(n->wants[i].rid, rid) || n->wants[i].done)
            continue;
        n->wants[i].done = true;
        int rc = set_flags(n, rid, 0, NODE_NODATA | NODE_DAMAGED);
        return rc ? rc : index_set_todo(n->index, rid, TODO_DATA, false);
    }
    return 0;
}

void apply_wants_end(struct node *n, bool committed)
{
    for (size_t i = n->nwants; i-- > 0;) {
        struct want *w = &n->wants[i];
        if (committed ? w->done : w->fresh)
            *w = n->wants[--n->nwants];
        else
            w->done = w->fresh = false;
    }
}

bool apply_is_wanted(const struct node *n, struct id128 rid)
{
    for (size_t i = 0; i < n->nwants; i++)
        if (id_eq(n->wants[i].rid, rid))
            return !n->wants[i].done;
    return false;
}

static int visit_alive(void *arg, const struct name_rec *name)
{
    *(bool *)arg = true;
    return name->alive;
}

/* What has no name any more is not waited for; one that has none yet is: its name follows. In a
 * transaction. */
int apply_forget_wants(struct node *n)
{
    for (size_t i = n->nwants; i-- > 0;) {
        struct id128 rid = n->wants[i].rid;
        bool named = false;
        int rc = n->records.names_of(n->records.ctx, rid, visit_alive, &named);
        if (rc == 0 && named)
            rc = apply_want_no_more(n, rid);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Nobody may have it just now (it is being written over and over): not asked more often than this.
 */
#define ASK_AGAIN_US 1000000u

void apply_ask(struct node *n, struct session *s)
{
    uint64_t now = node_mono(n);

    for (size_t k = 0; k < n->nwants; k++) { /* each has its turn to be the first */
        struct want *w = &n->wants[(n->want_turn + k) % n->nwants];
        if (!s && w->asked_us && now - w->asked_us < ASK_AGAIN_US)
            continue;
        for (size_t p = 0; p < n->npeers; p++) {
            struct session *to = n->peers[p].session;
            if (!to || (s && to != s) || !session_sender(to))
                continue;
            if (session_want(to, w->rid, w->stamp) < 0) {
                n->want_turn += k; /* its queue is full: the rest is asked by the timer */
                return;
            }
            w->asked_us = now;
        }
    }
}

/* ---- merging one batch ---- */

struct applying {
    struct node *n;
    struct session *session;
    struct batch *batch;
    struct plan plan;
    struct map_u64 watch; /* claim keys of the names the effects touch */
    uint64_t *lids;       /* pinned for this try */
    size_t nlids;
};

static int visit_seed(void *arg, const struct name_rec *name)
{
    node_seed(arg, name->nid);
    return 0;
}

/* The staged file gets its attributes before anyone can see it, a lid and a row. */
static int stage_ready(struct applying *a, struct batch_item *it, const struct content_rec *c,
                       struct staged **out)
{
    struct node *n = a->n;
    struct attr_rec attr;
    struct node_ref ref;

    CLEANUP_FD int fd = openat(n->staging->in, it->staged, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = n->records.get_attr(n->records.ctx, c->rid, &attr);
    if (rc == 0) {
        int64_t mtime = record_mtime(c, &attr);
        rc = attrs_apply(fd, &attr, &mtime);
    } else if (rc == -ENOENT) {
        rc = attrs_set_mtime(fd, c->mtime_ns);
    }
    struct staged *v = rc ? NULL : realloc(a->plan.staged, (a->plan.nstaged + 1) * sizeof *v);
    if (!v)
        return rc ? rc : -ENOMEM;
    a->plan.staged = v;
    struct staged *s = &v[a->plan.nstaged];
    memset(s, 0, sizeof *s);
    s->rid = c->rid;
    s->type = NODE_REG;
    memcpy(s->name, it->staged, sizeof s->name);
    s->handle = it->handle;
    rc = nodes_new_lid(n->nodes, &s->lid);
    if (!rc)
        rc = nodes_add(n->nodes, s->lid, NODE_REG, &s->handle, &ref);
    if (rc)
        return rc;
    uint64_t *lids = realloc(a->lids, (a->nlids + 1) * sizeof *lids);
    if (!lids)
        return -ENOMEM;
    a->lids = lids;
    lids[a->nlids++] = s->lid;
    a->plan.nstaged++;
    *out = s;
    return map_u64_set(&n->settle, s->lid, n, NULL);
}

/* Is an edit lost when c takes held's place? One that c has not seen: concurrent, or, when this
 * node rejoins, of its own. */
static bool overrides(const struct content_rec *c, const struct content_rec *held)
{
    return !vvec_includes(&c->vv, &held->vv) &&
           (c->size != held->size || memcmp(c->digest, held->digest, DIGEST_LEN) != 0);
}

/* held: what the file holds, NULL for none. It may be older than the record was. */
static int content_install(struct applying *a, struct batch_item *it,
                           const struct content_rec *held)
{
    struct node *n = a->n;
    struct content_rec c;
    struct index_node old;
    struct staged *s = NULL;
    struct stat st;

    int rc = n->records.get_content(n->records.ctx, it->rec.content.rid, &c);
    if (rc)
        return rc;
    rc = stage_ready(a, it, &c, &s);
    if (rc)
        return rc;
    int have = index_get_node(n->index, c.rid, &old);
    if (have && have != -ENOENT)
        return have;
    struct index_node row = {.rid = c.rid,
                             .lid = s->lid,
                             .type = NODE_REG,
                             .handle = s->handle,
                             .size = c.size,
                             .mtime_ns = c.mtime_ns};
    if (fstatat(n->staging->in, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        row.mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
        row.ctime_ns = st.st_ctim.tv_sec * 1000000000ll + st.st_ctim.tv_nsec;
    }
    if (have == 0) {
        bool conflict = held && overrides(&c, held);
        enum kept_why why = old.flags & NODE_DAMAGED ? KEPT_DAMAGED
                            : conflict               ? KEPT_EDITED
                                                     : KEPT_REPLACED;
        rc = plan_content(&a->plan, s, &old, why, held);
        if (!rc)
            rc = map_u64_set(&n->leaving, old.lid, &n->replaced, NULL);
    }
    if (!rc)
        rc = index_put_node(n->index, &row, true);
    if (!rc)
        rc = index_put_leaves(n->index, c.rid, it->leaves, it->nleaves);
    if (!rc)
        rc = apply_want_no_more(n, c.rid);
    if (!rc)
        rc = n->records.names_of(n->records.ctx, c.rid, visit_seed, n);
    return rc;
}

/* Does the file hold these bytes? Not when they are known to be damaged. */
static bool holds(const struct node *n, const struct content_rec *held, const struct content_rec *c)
{
    struct index_node row;

    return held && held->size == c->size && memcmp(held->digest, c->digest, DIGEST_LEN) == 0 &&
           index_get_node(n->index, c->rid, &row) == 0 && !(row.flags & NODE_DAMAGED);
}

/* Times only: the row's idea of the file is kept in step by the effect. */
static int content_same(struct applying *a, struct id128 rid)
{
    int rc = apply_want_no_more(a->n, rid);
    return rc ? rc : plan_attr(&a->plan, rid);
}

/* The data of a version whose record came before it; or it turns out that we have had it. */
static int item_late(struct applying *a, struct batch_item *it, const struct content_rec *record,
                     const struct content_rec *held)
{
    const struct content_rec *c = &it->rec.content;

    if (!record || !stamp_eq(record->h.stamp, c->h.stamp) || !apply_is_wanted(a->n, c->rid))
        return 0;
    if (holds(a->n, held, c))
        return content_same(a, c->rid);
    return it->data == ITEM_STAGED ? content_install(a, it, held) : 0;
}

/* record, held: what the record said and what the file holds (NULL for none). What the receiver
 * thought to be the same may have changed since. */
static int item_content(struct applying *a, struct batch_item *it, enum merge_result result,
                        const struct content_rec *record, const struct content_rec *held)
{
    struct node *n = a->n;
    const struct content_rec *c = &it->rec.content;

    if (result == MERGE_OLD)
        return item_late(a, it, record, held);
    if (result == MERGE_LOST)
        return it->data == ITEM_STAGED ? plan_keep(&a->plan, it->staged, c, KEPT_EDITED) : 0;
    int rc = n->records.names_of(n->records.ctx, c->rid, visit_seed, n);
    if (rc)
        return rc;
    if (c->type == NODE_DIR)
        return plan_attr(&a->plan, c->rid);
    if (c->type != NODE_REG)
        return 0;
    if (it->data == ITEM_STAGED)
        return content_install(a, it, held);
    if (holds(n, held, c))
        return content_same(a, c->rid);
    return apply_want(n, c->rid, c->h.stamp, held);
}

static int merge_one(struct applying *a, struct batch_item *it, enum merge_result *result)
{
    struct node *n = a->n;
    bool skewed = false;

    if (n->meta.rejoin_pos && !a->batch->resent)
        return replica_take(&n->replica, &it->rec, session_node(a->session), result);
    struct vvec know = n->replica.know;
    if (a->batch->repair) /* what is known and not here was lost, not collected: a peer has it */
        n->replica.know.n = 0;
    int rc = replica_merge(&n->replica, node_wall(n), &it->rec, session_node(a->session), result,
                           &skewed);
    if (a->batch->repair)
        n->replica.know = know;
    if (skewed)
        events_raise(n->events, "clock",
                     "records from %s are stamped more than %llu s in the future: check the clocks",
                     session_name(a->session), HLC_SKEW_MAX_US / 1000000);
    return rc;
}

static int merge_other(struct applying *a, struct batch_item *it)
{
    enum merge_result result;

    int rc = merge_one(a, it, &result);
    if (rc || result == MERGE_OLD)
        return rc;
    return it->rec.kind == REC_NAME ? 0 : plan_attr(&a->plan, it->rec.attr.rid);
}

/* What lives in the index's memory until the next put is not looked at later. */
static int content_before(int rc, struct content_rec *c, const struct content_rec **out)
{
    c->target = NULL;
    c->target_len = 0;
    *out = rc ? NULL : c;
    return rc == -ENOENT ? 0 : rc;
}

static int merge_content(struct applying *a, struct batch_item *it)
{
    struct node *n = a->n;
    struct id128 rid = it->rec.content.rid;
    struct content_rec was = {0}, had = {0};
    const struct content_rec *record, *held;
    enum merge_result result;

    int rc = content_before(n->records.get_content(n->records.ctx, rid, &was), &was, &record);
    if (!rc)
        rc = content_before(apply_held(n, rid, &had), &had, &held);
    if (!rc)
        rc = merge_one(a, it, &result);
    return rc ? rc : item_content(a, it, result, record, held);
}

/* Contents after the names and attributes of their batch, so that a file is made right at once. */
static int merge_all(struct applying *a)
{
    int rc = 0;

    for (size_t i = 0; i < a->batch->n && !rc; i++)
        if (a->batch->items[i].rec.kind != REC_CONTENT)
            rc = merge_other(a, &a->batch->items[i]);
    for (size_t i = 0; i < a->batch->n && !rc; i++)
        if (a->batch->items[i].rec.kind == REC_CONTENT)
            rc = merge_content(a, &a->batch->items[i]);
    return rc;
}

static int plan_view(struct plan *p)
{
    struct node *n = p->node;
    struct view_change *changes = NULL;
    size_t count = 0;

    if (n->nseeds == 0)
        return 0;
    int rc = view_changes(&n->records, n->seeds, n->nseeds, &changes, &count);
    n->nseeds = 0;
    return rc ? rc : plan_changes(p, changes, count);
}

/* ---- claims ---- */

static int claim_one(struct applying *a, uint64_t key)
{
    if (!key || map_u64_get(&a->watch, key))
        return 0;
    if (!claims_try(a->n->claims, key, 0))
        return -EAGAIN;
    int rc = map_u64_set(&a->watch, key, a, NULL);
    if (rc)
        claims_drop(a->n->claims, key, 0);
    return rc;
}

/* A directory that gets something is not to be removed meanwhile: an rmdir claims its name. */
static int claim_home(struct applying *a, uint64_t lid)
{
    struct node *n = a->n;
    struct index_node dir, parent;
    struct place at;

    int rc = index_get_node_by_lid(n->index, lid, &dir);
    if (rc || id_eq(dir.rid, RID_ROOT))
        return rc == -ENOENT ? 0 : rc;
    rc = path_place(&n->records, dir.rid, &at);
    if (!rc)
        rc = index_get_node(n->index, at.parent, &parent);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    return claim_one(a, claims_key(parent.lid, at.name, at.name_len));
}

static int claim_all(struct applying *a)
{
    uint64_t home = 0; /* effects in one directory mostly follow each other */
    int rc = 0;

    for (size_t i = 0; i < a->n->effects.n && !rc; i++) {
        const struct effect *e = &a->n->effects.v[i];
        rc = claim_one(a, loc_key(&e->from));
        if (!rc)
            rc = claim_one(a, loc_key(&e->to));
        if (!rc && e->to.kind == LOC_DIR && e->to.lid != home) {
            home = e->to.lid;
            rc = claim_home(a, home);
        }
    }
    return rc;
}

static void unclaim_all(struct applying *a)
{
    size_t it = 0;
    uint64_t key;

    while (map_u64_next(&a->watch, &it, &key)) {
        claims_drop(a->n->claims, key, 0);
        map_u64_del(&a->watch, key);
    }
}

/* Everything done through the mount before now is in the records. An intent still open belongs to a
 * system call under way: its turn comes in microseconds. */
int apply_settle(struct node *n)
{
    uint64_t upto = intent_head(n->intents);
    unsigned count;

    for (unsigned tries = 0; intent_tail(n->intents) < upto && tries < 5000; tries++) {
        int rc = local_consume(n, 8192, &count);
        if (rc)
            return rc;
        if (count == 0)
            usleep(20);
    }
    return 0;
}

int apply_drain(struct node *n)
{
    int rc = apply_settle(n);
    return rc ? rc : local_finish(n);
}

/* ---- trying ---- */

static int remember_peer(struct applying *a)
{
    struct index_peer p;
    struct node *n = a->n;

    if (a->batch->resent)
        return 0;
    int rc = index_get_peer(n->index, session_node(a->session), &p);
    if (rc)
        return rc;
    if (a->batch->pos > p.applied)
        p.applied = a->batch->pos;
    for (size_t i = 0; i < a->batch->n; i++) {
        struct stamp stamp = record_head(&a->batch->items[i].rec)->stamp;
        if (stamp.node != p.node || stamp.seq <= p.run_seen)
            continue;
        p.run = session_peer_run(a->session);
        p.run_seen = stamp.seq;
    }
    p.seen_us = node_wall(n);
    return index_put_peer(n->index, &p);
}

static int try_batch(struct applying *a)
{
    struct node *n = a->n;

    int rc = txn_begin(n);
    if (rc)
        return rc;
    rc = apply_drain(n);
    if (!rc)
        rc = scan_batch(n, a->batch);
    if (!rc) /* what was found changed becomes a version before another is merged with it */
        rc = local_finish(n);
    if (!rc) /* what is being written now is sealed by its close, or kept if it is replaced */
        rc = merge_all(a);
    if (!rc)
        rc = plan_view(&a->plan);
    if (!rc)
        rc = plan_finish(&a->plan);
    if (!rc)
        rc = claim_all(a);
    if (!rc) {
        n->watch = &a->watch;
        rc = apply_drain(n);
        n->watch = NULL;
    }
    if (!rc)
        rc = remember_peer(a);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    return txn_commit(n);
}

static void applying_init(struct applying *a, struct node *n, struct session *s, struct batch *b)
{
    memset(a, 0, sizeof *a);
    a->n = n;
    a->session = s;
    a->batch = b;
    a->plan.node = n;
    map_u64_init(&a->plan.touched);
    map_u64_init(&a->watch);
}

static void applying_fini(struct applying *a, bool done)
{
    unclaim_all(a);
    map_u64_fini(&a->watch);
    if (!done) {
        for (size_t i = 0; i < a->nlids; i++) {
            map_u64_del(&a->n->settle, a->lids[i]);
            nodes_remove(a->n->nodes, a->lids[i]);
        }
    }
    free(a->lids);
    plan_fini(&a->plan);
}

/* The staged files are in the tree (or kept): the batch must not discard them. */
static void consumed_staged(struct batch *b, const struct effects *e)
{
    for (size_t k = 0; k < e->n; k++) {
        const struct effect *x = &e->v[k];
        if (x->from.kind != LOC_IN)
            continue;
        for (size_t i = 0; i < b->n; i++)
            if (b->items[i].staged[0] && strlen(b->items[i].staged) == x->from.len &&
                memcmp(b->items[i].staged, x->from.name, x->from.len) == 0)
                b->items[i].staged[0] = 0;
    }
}

int apply_batch(struct node *n, struct session *s, struct batch *b)
{
    struct applying a;

    for (unsigned tries = 0;; tries++) {
        applying_init(&a, n, s, b);
        int rc = try_batch(&a);
        if (rc == 0) {
            consumed_staged(b, &n->effects);
            effects_run(n, false);
        }
        applying_fini(&a, rc == 0);
        if (rc == 0) {
            apply_ask(n, NULL);
            session_applied(s, b->pos, b->resent);
            return 0;
        }
        if (rc != -EAGAIN)
            return rc;
        /* Whoever holds the name may be waiting for room in the intent log: make some. */
        if (tries % 8 == 7 && (rc = apply_local(n)))
            return rc;
        usleep(tries < 50 ? 50 : 2000);
    }
}

/* Intents, and a slice of the walk; *idle: there was nothing to be kept. */
static int own_changes(struct node *n, bool walk, bool *idle)
{
    unsigned count;

    int rc = local_consume(n, LOCAL_MAX, &count);
    uint64_t tail = intent_tail(n->intents);
    if (!rc && walk)
        rc = scan_slice(n);
    *idle = walk && count == 0 && scan_idle(n) && tail == intent_tail(n->intents);
    return rc ? rc : local_finish(n);
}

static int try_work(struct applying *a, const struct work *w)
{
    struct node *n = a->n;

    int rc = txn_begin(n);
    if (rc)
        return rc;
    rc = apply_drain(n);
    if (!rc)
        rc = w->before(w->arg, &a->plan);
    if (!rc)
        rc = plan_view(&a->plan);
    if (!rc)
        rc = w->after(w->arg);
    if (!rc)
        rc = plan_finish(&a->plan);
    if (!rc)
        rc = claim_all(a);
    if (!rc) {
        n->watch = &a->watch;
        rc = apply_drain(n);
        n->watch = NULL;
    }
    if (rc) {
        txn_abort(n);
        return rc;
    }
    rc = txn_commit(n);
    if (rc == 0)
        effects_run(n, false);
    return rc;
}

int apply_work(struct node *n, const struct work *w)
{
    struct applying a;

    for (unsigned tries = 0;; tries++) {
        applying_init(&a, n, NULL, NULL);
        int rc = try_work(&a, w);
        applying_fini(&a, rc == 0);
        if (rc != -EAGAIN)
            return rc;
        usleep(tries < 50 ? 50 : 2000);
    }
}

static int try_own(struct applying *a, bool walk, int (*f)(struct plan *p, void *arg), void *arg)
{
    struct node *n = a->n;
    bool idle = false;

    int rc = txn_begin(n);
    if (!rc)
        rc = own_changes(n, walk, &idle);
    if (!rc && idle && n->nseeds == 0) {
        txn_abort(n);
        return 0;
    }
    if (!rc && f)
        rc = f(&a->plan, arg);
    if (!rc)
        rc = plan_view(&a->plan);
    if (!rc)
        rc = plan_finish(&a->plan);
    if (!rc && n->effects.n)
        rc = claim_all(a);
    if (!rc && n->effects.n) {
        n->watch = &a->watch;
        rc = apply_drain(n);
        n->watch = NULL;
    }
    if (rc)
        txn_abort(n);
    else
        rc = txn_commit(n);
    if (rc == 0)
        effects_run(n, false);
    return rc;
}

static int apply_own(struct node *n, bool walk, int (*f)(struct plan *p, void *arg), void *arg)
{
    struct applying a;

    for (unsigned tries = 0;; tries++) {
        applying_init(&a, n, NULL, NULL);
        int rc = try_own(&a, walk, f, arg);
        applying_fini(&a, rc == 0);
        if (walk && rc == 0)
            scan_kept(n);
        else if (walk)
            scan_dropped(n);
        if (rc != -EAGAIN)
            return rc;
        usleep(tries < 50 ? 50 : 2000);
    }
}

int apply_local(struct node *n)
{
    return apply_own(n, false, NULL, NULL);
}

int apply_with(struct node *n, int (*f)(struct plan *p, void *arg), void *arg)
{
    return apply_own(n, false, f, arg);
}

int apply_walk(struct node *n)
{
    return apply_own(n, true, NULL, NULL);
}

static int visit_pending(void *arg, const void *data, size_t len)
{
    struct node *n = arg;
    struct effect e;
    struct cur c;

    cur_init(&c, data, len);
    int rc = effect_decode(&c, &e);
    if (!rc && e.done)
        telling_add(n, &e);
    return rc || e.done ? rc : effects_add(&n->effects, &e);
}

int apply_pending_load(struct node *n)
{
    int rc = txn_begin(n);
    if (rc)
        return rc;
    rc = index_each_pending(n->index, visit_pending, n);
    size_t count = n->effects.n;
    txn_abort(n);
    n->effects.n = count; /* they are committed already */
    return rc;
}

void apply_pending_run(struct node *n)
{
    if (n->effects.n)
        log_info("finishing %zu steps that were under way", n->effects.n);
    effects_run(n, true);
}
