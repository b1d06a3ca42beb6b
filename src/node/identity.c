/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Which incarnation this node is. Its id stands for one history of stamps: state that was copied,
 * or put back from a copy, goes on under a new id, or two histories would be taken for one.
 *  - The state belongs to another node's name: it was copied with the machine.
 *  - A peer has met greater stamps of ours than we have given: an old copy was put back.
 *  - The same, although we have gone past that number since: each start of the node is a run with
 * an id of its own, and where it began. A peer says in which run it met our greatest stamp; that
 *    run is not ours, or ended before that number.
 * What was stamped since the copy was put back is stamped anew; the log, too, is another one.
 */
#include "node/node.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void begin_run(struct node *n)
{
    struct index_meta *m = &n->meta;

    /* One in which nothing was stamped stays too: a peer may have met older stamps in it. */
    if (m->nruns == RUNS_MAX) {
        memmove(&m->runs[0], &m->runs[1], (RUNS_MAX - 1) * sizeof m->runs[0]);
        m->nruns--;
    }
    struct index_run *r = &m->runs[m->nruns++];
    *r = (struct index_run){.seq = n->replica.next_seq, .pos = index_log_head(n->index)};
    io_random(&r->id, sizeof r->id);
}

void identity_become(struct node *n)
{
    io_random(&n->replica.node, sizeof n->replica.node);
    n->replica.node |= 1;
    n->replica.next_seq = 1;
    n->replica.next_id = 2;
    io_random(&n->meta.epoch, sizeof n->meta.epoch);
    n->meta.nruns = 0;
    begin_run(n);
}

/* The folder may be a copy: its root is found by its descriptor, whatever its handle was. */
static int renew_root(struct node *n)
{
    struct index_node row;
    struct handle h;

    int rc = index_get_node(n->index, RID_ROOT, &row);
    if (!rc)
        rc = handle_of_fd(n->args->rootfd, &h);
    if (rc || handle_eq(&h, &row.handle))
        return rc;
    row.handle = h;
    return index_put_node(n->index, &row, false);
}

static int visit_former(void *arg, const struct index_peer *p)
{
    struct node *n = arg;

    for (size_t i = 0; i < n->npeers; i++) {
        struct peer *known = &n->peers[i];
        if (strcmp(known->config->name, p->name) == 0 && p->seen_us >= known->former_us) {
            known->former = p->node;
            known->former_us = p->seen_us;
        }
    }
    return 0;
}

int identity_start(struct node *n)
{
    const char *name = n->config->node;

    if (n->meta.name[0] && strcmp(n->meta.name, name) != 0) {
        char was[sizeof n->meta.name];
        memcpy(was, n->meta.name, sizeof was);
        identity_become(n);
        events_note(n->events, "identity",
                    "the state is that of %s: it was copied, and goes on here as %s under a new "
                    "node id %016llx",
                    was, name, (unsigned long long)n->replica.node);
    } else {
        begin_run(n);
    }
    atomic_init(&n->rejoining, n->meta.rejoin_pos != 0);
    snprintf(n->meta.name, sizeof n->meta.name, "%s", name);
    int rc = renew_root(n);
    return rc ? rc : index_peers(n->index, visit_former, n);
}

uint64_t identity_run(const struct node *n)
{
    return n->meta.nruns ? n->meta.runs[n->meta.nruns - 1].id : 0;
}

bool identity_forked(const struct node *n, const struct msg_welcome *w, struct index_run *from)
{
    const struct index_meta *m = &n->meta;
    struct index_run at = {.seq = n->replica.next_seq, .pos = n->meta.log_head};
    bool forked = w->seen >= at.seq;
    uint32_t i = 0;

    while (i < m->nruns && m->runs[i].id != w->run)
        i++;
    if (w->run && i == m->nruns && m->nruns && w->run_seen >= m->runs[0].seq) {
        at = m->runs[m->nruns - 1]; /* a run of another life, after the copy was made */
        forked = true;
    } else if (w->run && i + 1 < m->nruns && w->run_seen >= m->runs[i + 1].seq) {
        at = m->runs[i + 1];
        forked = true;
    }
    if (forked)
        *from = at;
    return forked;
}

/* In a transaction: what was stamped from there on, anew. Contents first, so that a tombstone's
 * view of them can be told by number. */
static int restamp(struct node *n, uint64_t old, const struct index_run *from)
{
    uint64_t end = index_log_head(n->index);
    int rc = 0;

    for (int names = 0; names < 2 && !rc; names++) {
        for (uint64_t pos = from->pos; !rc; pos++) {
            struct record rec;
            rc = index_next_record(n->index, pos, &pos, &rec);
            if (rc || pos >= end)
                break;
            if ((rec.kind == REC_NAME) == (names == 1))
                rc = replica_renew(&n->replica, old, from->seq, &rec);
        }
        if (rc == -ENOENT)
            rc = 0;
    }
    return rc;
}

int identity_renew(struct node *n, const struct index_run *from, const char *peer)
{
    uint64_t old = n->replica.node;

    int rc = txn_begin(n);
    if (rc)
        return rc;
    identity_become(n);
    vvec_lower(&n->replica.know, (struct stamp){old, from->seq});
    vvec_lower(&n->replica.seen, (struct stamp){old, from->seq});
    rc = restamp(n, old, from);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    n->nseeds = 0; /* new stamps, and nothing else */
    rc = txn_commit(n);
    if (rc)
        return rc;
    events_note(
        n->events, "identity",
        "%s knows more of this node than it does itself (a snapshot was put back?): it goes "
        "on under a new node id %016llx",
        peer, (unsigned long long)n->replica.node);
    session_stop_all(n);
    return 0;
}
