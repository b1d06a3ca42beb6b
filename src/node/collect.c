/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Tombstones that every member is known to have seen are collected (core/collect.h). Members are
 * the configured peers, their peers as they say, and so on; each says once a second what it holds
 * on disk. One that was not heard of since the start is waited for, up to the folder's retention:
 * then it has to rejoin (rejoin.c).
 */
#include "node/node.h"

#include "base/log.h"
#include "core/collect.h"

#include <errno.h>
#include <string.h>

#define TOMBSTONES_PER_ROUND 4096u

struct members {
    const char *name[GOSSIP_MAX];
    size_t n;
};

static bool add_member(struct members *m, const struct node *n, const char *name)
{
    if (strcmp(name, n->config->node) == 0)
        return true;
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->name[i], name) == 0)
            return true;
    if (m->n == GOSSIP_MAX)
        return false;
    m->name[m->n++] = name;
    return true;
}

static const struct gossip *heard_of(const struct node *n, const char *name)
{
    for (size_t i = 0; i < n->ngossip; i++)
        if (strcmp(n->gossip[i].name, name) == 0 && n->gossip[i].knows)
            return &n->gossip[i];
    return NULL;
}

/* What every member holds, and we hold all that they do; false: it is not known. */
static bool find_stable(const struct node *n, struct vvec *stable)
{
    struct members m = {.n = 0};

    *stable = n->synced_know;
    for (size_t i = 0; i < n->npeers; i++)
        if (!add_member(&m, n, n->peers[i].config->name))
            return false;
    for (size_t i = 0; i < m.n; i++) { /* grows meanwhile */
        const struct gossip *g = heard_of(n, m.name[i]);
        if (!g || !vvec_includes(&n->synced_know, &g->know))
            return false;
        collect_meet(stable, &g->know);
        for (size_t k = 0; k < g->nmembers; k++)
            if (!add_member(&m, n, g->members[k]))
                return false;
    }
    return true;
}

/* In a transaction. */
static int collect_some(struct node *n, const struct vvec *stable, uint64_t *count)
{
    uint64_t pos = n->collect_from, now = node_wall(n);
    uint64_t keep = n->config->retention_s * 1000000;
    uint64_t before = keep && now > keep ? hlc_from_us(now - keep) : 0;
    struct id128 inode;
    bool done;

    for (unsigned i = 0; i < TOMBSTONES_PER_ROUND; i++) {
        int rc = index_next_tombstone(n->index, pos, &pos, &inode);
        if (rc == -ENOENT) {
            n->collect_from = 0; /* from the oldest again */
            return 0;
        }
        if (!rc)
            rc = collect_inode(&n->replica, inode, stable, before, &done);
        if (rc)
            return rc;
        *count += done;
        n->collect_from = ++pos;
    }
    return 0;
}

void collect_round(struct node *n)
{
    struct vvec stable;
    uint64_t count = 0;

    if (n->scan || n->meta.rejoin_pos)
        return;
    if (!find_stable(n, &stable))
        stable.n = 0;           /* what is older than the retention goes all the same */
    if (n->collect_from == 0) { /* a new pass finds nothing where nothing more was seen */
        if (vvec_includes(&n->collect_stable, &stable) &&
            (n->config->retention_s == 0 ||
             node_mono(n) - n->collect_us < n->config->retention_s * 1000000 / 30))
            return;
        n->collect_stable = stable;
        n->collect_us = node_mono(n);
    }
    if (txn_begin(n) < 0)
        return;
    int rc = collect_some(n, &stable, &count);
    if (rc || count == 0)
        txn_abort(n);
    else
        rc = txn_commit(n);
    if (rc)
        log_warn_code(rc, "tombstones cannot be collected");
    else
        n->collected += count;
}
