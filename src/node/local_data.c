/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Intents about content: written to, closed, let go of by the kernel. */
#include "node/node.h"

#include <errno.h>
#include <string.h>

/* Unsealed writes to a file that a peer's version replaced meanwhile: kept, not lost. */
static int keep_late(struct node *n, uint64_t lid)
{
    char from[40], path[4096] = "";
    struct handle h;
    struct id128 rid;
    uint8_t type;
    bool orphan;

    if (index_reader_begin(n->reader) == 0) {
        struct records r;
        index_reader_records(n->reader, &r);
        if (index_reader_by_lid(n->reader, lid, &h, &type, &rid, &orphan) < 0 ||
            path_of(&r, rid, path, sizeof path) < 0)
            path[0] = 0;
        index_reader_end(n->reader);
    }
    staging_orphan_name(lid, from);
    int rc = keep_now(n, n->staging->orphans, from, path, KEPT_LATE, true);
    if (rc && rc != -ENOENT)
        return rc;
    dirty_drop(n->dirty, lid);
    return 0;
}

/* Sealed at the end of the transaction; unless, with `gen`, somebody has begun to write again. */
static int seal_soon(struct node *n, uint64_t lid, uint64_t gen)
{
    void *v = gen ? (void *)(uintptr_t)gen : n;
    return map_u64_get(&n->to_seal, lid) == n ? 0 : map_u64_set(&n->to_seal, lid, v, NULL);
}

int local_dirty(struct node *n, const struct intent *in)
{
    struct index_node row;

    int rc = index_get_node_by_lid(n->index, in->lid, &row);
    if (rc == -ENOENT && !n->serving && map_u64_get(&n->replaced, in->lid))
        return keep_late(n, in->lid);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    /* Of a former worker: what it had in memory, the ranges and the close, went with it. */
    if (!n->serving)
        rc = dirty_all(n->dirty, in->lid);
    /* Under a live mount it may be open still: sealed when it is closed or idle. */
    if (!rc && !n->serving && !n->args->restarted && !(row.flags & NODE_HELD))
        rc = seal_soon(n, in->lid, 0);
    return rc ? rc : index_set_todo(n->index, row.rid, TODO_DIRTY, true);
}

int local_close(struct node *n, const struct intent *in)
{
    uint64_t lid = in->lid, gen = n->serving && in->off ? in->off - 1 : 0;

    if (map_u64_get(&n->held, lid) || (dirty_is(n->dirty, lid) && !map_u64_get(&n->replaced, lid)))
        return seal_soon(n, lid, gen);
    return dirty_is(n->dirty, lid) ? keep_late(n, lid) : 0;
}

int local_forget(struct node *n, uint64_t lid)
{
    bool replaced = map_u64_del(&n->replaced, lid) != NULL;
    /* Written and closed just when it was being replaced: the close found it still in its place. */
    if (replaced && dirty_is(n->dirty, lid)) {
        int late = keep_late(n, lid);
        if (late)
            return late;
    }
    dirty_drop(n->dirty, lid);
    nodes_remove(n->nodes, lid);
    int rc = index_del_orphan(n->index, lid);
    if (rc && rc != -ENOENT)
        return rc;
    if (!keep_history(n) && !replaced && n->serving)
        return 0; /* the mount has deleted it */
    struct effect e = {.op = EFFECT_REMOVE, .from.kind = LOC_ORPHAN};
    char orphan[40];
    staging_orphan_name(lid, orphan);
    e.from.len = (uint8_t)strlen(orphan);
    memcpy(e.from.name, orphan, e.from.len);
    return effects_add(&n->effects, &e);
}
