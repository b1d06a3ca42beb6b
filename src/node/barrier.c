/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Barriers: answered when every reachable peer has what was written here before: those that are
 * connected, and those that were until a moment ago (a daemon that is being restarted, here or
 * there, loses its connections for less than a second). A barrier goes
 * through: closes told by fanotify -> intents consumed -> what is unsealed is sealed -> a position
 * in the log -> acknowledged by all.
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLOSES_MAX_US 50000u
#define CLOSES_QUIET_US 3000u /* for the thread that has read the last of them to log them */
#define DIRTY_MAX 16384u
#define AWAY_WAIT_US 2000000u /* as long as a lost connection may take to come back */

/* A close may be known to the kernel and not to us: a new file would then count as open. */
static void wait_closes(struct node *n)
{
    uint64_t start = node_mono(n), quiet = start, now = start;
    struct pollfd p = {.fd = n->args->fanotify_fd, .events = POLLIN};

    while (now - start < CLOSES_MAX_US && now - quiet < CLOSES_QUIET_US) {
        bool more = poll(&p, 1, 0) > 0;
        usleep(500);
        now = node_mono(n);
        if (more)
            quiet = now;
    }
}

static void barrier_free(struct barrier *b, int err, const char *text, size_t len)
{
    control_answer(b->rq, err, text, len);
    free(b->lids);
    free(b);
}

void barrier_add(struct node *n, struct control_request *rq)
{
    struct barrier *b = calloc(1, sizeof *b);
    if (!b) {
        control_answer(rq, -ENOMEM, NULL, 0);
        return;
    }
    wait_closes(n);
    b->rq = rq;
    b->intents = intent_head(n->intents);
    b->next = n->barriers;
    n->barriers = b;
}

/* Everything that was written to and not announced, but new files that are still open: those are
 * nobody's business before they are closed. */
static int seal_dirty(struct node *n)
{
    uint64_t *lids = malloc(DIRTY_MAX * sizeof *lids);
    int rc = 0;

    if (!lids)
        return -ENOMEM;
    size_t count = dirty_list(n->dirty, node_mono(n), 0, 0, lids, DIRTY_MAX);
    for (size_t i = 0; i < count && !rc; i++)
        if (!map_u64_get(&n->held, lids[i]))
            rc = map_u64_set(&n->to_seal, lids[i], n, NULL);
    free(lids);
    return rc;
}

static int begin_seals(struct node *n, struct barrier *b)
{
    size_t it = 0;
    uint64_t lid;

    int rc = seal_dirty(n);
    if (rc)
        return rc;
    uint64_t *lids = malloc((n->to_seal.n + 1) * sizeof *lids);
    if (!lids)
        return -ENOMEM;
    b->nlids = 0;
    while (map_u64_next(&n->to_seal, &it, &lid))
        lids[b->nlids++] = lid;
    b->lids = lids;
    if (b->nlids)
        n->retry_seal_us = node_mono(n); /* at once */
    return 0;
}

static bool seals_done(const struct node *n, const struct barrier *b)
{
    for (size_t i = 0; i < b->nlids; i++)
        if (map_u64_get(&n->to_seal, b->lids[i]))
            return false;
    return n->nseeds == 0;
}

/* Positions are those of the next entry: who acknowledged the head has all before it. */
static bool acked_by_all(const struct node *n, uint64_t pos)
{
    uint64_t now = node_mono(n);

    for (size_t i = 0; i < n->npeers; i++) {
        const struct peer *p = &n->peers[i];
        if (p->session ? p->acked_pos < pos : now - p->away_us < AWAY_WAIT_US)
            return false;
    }
    return true;
}

static bool reached(struct node *n, struct barrier *b)
{
    if (!b->lids) {
        if (intent_tail(n->intents) < b->intents)
            return false;
        int rc = begin_seals(n, b);
        if (rc) {
            log_warn_code(rc, "a barrier waits");
            return false;
        }
    }
    if (!b->settled) {
        if (!seals_done(n, b))
            return false;
        b->pos = n->meta.log_head;
        b->settled = true;
    }
    return acked_by_all(n, b->pos);
}

void barrier_check(struct node *n)
{
    struct barrier **at = &n->barriers, *b;
    char text[40];

    while ((b = *at)) {
        bool gone = control_gone(b->rq);
        if (!gone && !reached(n, b)) {
            at = &b->next;
            continue;
        }
        *at = b->next;
        int len = snprintf(text, sizeof text, "ok %llu\n", (unsigned long long)b->pos);
        barrier_free(b, gone ? -EINTR : 0, text, gone ? 0 : (size_t)len);
    }
}

void barrier_drop_all(struct node *n)
{
    struct barrier *b;

    while ((b = n->barriers)) {
        n->barriers = b->next;
        barrier_free(b, -EINTR, NULL, 0);
    }
}
