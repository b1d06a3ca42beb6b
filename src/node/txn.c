/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The write transaction, and what of the node's memory goes along with it. */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

int txn_begin(struct node *n)
{
    farm_assert(!n->in_txn);
    int rc = index_begin(n->index);
    if (rc)
        return rc;
    n->in_txn = true;
    n->replica_before = n->replica;
    n->meta_before = n->meta;
    n->keep_before = n->keep;
    n->consumed = n->meta.intents ? n->meta.intents - 1 : 0;
    return 0;
}

static int put_pending(struct node *n)
{
    struct buf b;

    int rc = index_clear_pending(n->index);
    buf_init(&b, 4096);
    for (size_t i = 0; i < n->effects.n && !rc; i++) {
        buf_reset(&b);
        effect_encode(&b, &n->effects.v[i]);
        rc = b.err ? b.err : index_put_pending(n->index, i, b.data, b.len);
    }
    buf_fini(&b);
    return rc ? rc : telling_put(n, n->effects.n);
}

static void settle(struct node *n)
{
    size_t it = 0;
    uint64_t lid;

    while (map_u64_next(&n->settle, &it, &lid)) {
        nodes_settle(n->nodes, lid);
        map_u64_del(&n->settle, lid);
    }
}

static void map_clear(struct map_u64 *m)
{
    size_t it = 0;
    uint64_t key;

    while (map_u64_next(m, &it, &key))
        map_u64_del(m, key);
}

/* From now on the mount treats them as inodes without a name. */
static void leave(struct node *n)
{
    size_t it = 0;
    uint64_t lid;
    void *v;

    while ((v = map_u64_next(&n->leaving, &it, &lid))) {
        nodes_set_orphan(n->nodes, lid);
        if (v != &n->replaced)
            dirty_drop(n->dirty, lid);
        else if (map_u64_set(&n->replaced, lid, n, NULL) < 0)
            log_warn("writes to a file that is being replaced may not be kept: no memory");
        map_u64_del(&n->leaving, lid);
    }
}

/* As if the transaction had not been: intents come again, seals are to be made again. */
static void forget(struct node *n)
{
    intent_rewind(n->intents);
    seal_undo(n);
    apply_wants_end(n, false);
    map_clear(&n->leaving);
    map_clear(&n->settle);
    n->replica = n->replica_before;
    n->meta = n->meta_before;
    keep_aborted(n, &n->keep_before);
    n->effects.n = 0;
    n->nseeds = 0;
}

int txn_commit(struct node *n)
{
    uint64_t reserve_from = 0;

    farm_assert(n->in_txn);
    if (nodes_low(n->nodes)) {
        reserve_from = n->meta.next_lid;
        n->meta.next_lid += LIDS_BLOCK;
    }
    n->meta.next_seq = n->replica.next_seq;
    n->meta.next_id = n->replica.next_id;
    n->meta.hlc = n->replica.clock.last;
    n->meta.know = n->replica.know;
    n->meta.seen = n->replica.seen;
    n->meta.gone = n->replica.gone;
    n->meta.node = n->replica.node;
    n->meta.intents = n->consumed + 1;
    n->meta.log_head = index_log_head(n->index);
    int rc = put_pending(n);
    if (!rc)
        rc = index_put_meta(n->index, &n->meta);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    n->in_txn = false;
    rc = index_commit(n->index);
    if (rc) {
        forget(n);
        return rc;
    }
    seal_done(n);
    keep_committed(n);
    apply_wants_end(n, true);
    map_clear(&n->to_stat);
    map_clear(&n->to_touch);
    leave(n);
    if (reserve_from)
        nodes_reserve(n->nodes, reserve_from, n->meta.next_lid);
    if (n->consumed)
        intent_consumed(n->intents, n->consumed);
    settle(n);
    durable_tick(n);
    if (n->meta.log_head != n->meta_before.log_head ||
        !vvec_includes(&n->meta_before.know, &n->meta.know))
        session_wake_all(n);
    return 0;
}

void txn_abort(struct node *n)
{
    if (!n->in_txn)
        return;
    n->in_txn = false;
    index_abort(n->index);
    forget(n);
}

void node_seed(void *node, struct id128 nid)
{
    struct node *n = node;

    if (n->keep.total[KEPT_HIDDEN].count > 0)
        keep_look(n, nid);
    if (n->nseeds == n->seeds_size) {
        size_t size = n->seeds_size ? n->seeds_size * 2 : 64;
        struct id128 *v = realloc(n->seeds, size * sizeof *v);
        farm_assert(v); /* a name that nobody asks about would stay where it is not */
        n->seeds = v;
        n->seeds_size = size;
    }
    n->seeds[n->nseeds++] = nid;
}
