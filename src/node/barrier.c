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
#include <time.h>
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

/* An fsync that waits for other nodes: on its thread's stack. */
struct sync_wait {
    uint64_t lid;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t change;
    bool done;
};

static void sync_answer(struct sync_wait *w)
{
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->change);
    pthread_mutex_unlock(&w->lock); /* from here on it may be gone */
}

static void barrier_free(struct barrier *b, int err, const char *text, size_t len)
{
    if (b->sync)
        sync_answer(b->sync);
    else
        control_answer(b->rq, err, text, len);
    free(b->lids);
    free(b->awaited);
    free(b);
}

/* Connected, or expected back in a moment. */
static bool reachable(const struct node *n, const struct peer *p)
{
    return p->session || node_mono(n) - p->away_us < AWAY_WAIT_US;
}

static struct barrier *barrier_new(struct node *n)
{
    struct barrier *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->awaited = calloc(n->npeers ? n->npeers : 1, sizeof *b->awaited);
    if (!b->awaited) {
        free(b);
        return NULL;
    }
    for (size_t i = 0; i < n->npeers; i++)
        b->awaited[i] = reachable(n, &n->peers[i]);
    b->intents = intent_head(n->intents);
    b->next = n->barriers;
    n->barriers = b;
    return b;
}

void barrier_add(struct node *n, struct control_request *rq)
{
    wait_closes(n);
    struct barrier *b = barrier_new(n);
    if (b)
        b->rq = rq;
    else
        control_answer(rq, -ENOMEM, NULL, 0);
}

void barrier_add_sync(struct node *n, struct sync_wait *w)
{
    struct barrier *b = barrier_new(n);
    if (b)
        b->sync = w;
    else
        sync_answer(w); /* it is on this node's disk: that much is true */
}

int barrier_sync(void *node, uint64_t lid)
{
    struct node *n = node;
    struct sync_wait w = {.lid = lid};
    pthread_condattr_t a;

    struct inmsg *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    pthread_mutex_init(&w.lock, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&w.change, &a);
    pthread_condattr_destroy(&a);
    m->type = IN_SYNC;
    m->p = &w;
    int rc = queue_push(&n->inbox, &m->q);
    if (rc)
        free(m);
    pthread_mutex_lock(&w.lock);
    while (!rc && !w.done) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_sec++;
        pthread_cond_timedwait(&w.change, &w.lock, &t);
        if (!w.done && atomic_load(&n->barriers_ended))
            rc = FARM_ECLOSED;
    }
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.change);
    pthread_mutex_destroy(&w.lock);
    return rc;
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

    /* One that is fsynced is to be on other nodes although it is open. */
    int rc = b->sync ? map_u64_set(&n->to_seal, b->sync->lid, n, NULL) : seal_dirty(n);
    if (rc)
        return rc;
    uint64_t *lids = malloc((n->to_seal.n + 1) * sizeof *lids);
    if (!lids)
        return -ENOMEM;
    b->nlids = 0;
    if (b->sync)
        lids[b->nlids++] = b->sync->lid;
    while (!b->sync && map_u64_next(&n->to_seal, &it, &lid))
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
static bool acknowledged(struct node *n, const struct barrier *b)
{
    size_t have = 0, awaited = 0;

    for (size_t i = 0; i < n->npeers; i++) {
        const struct peer *p = &n->peers[i];
        if (p->session && p->acked_pos >= b->pos)
            have++;
        else if (b->awaited[i] && reachable(n, p))
            awaited++;
    }
    if (!b->sync)
        return awaited == 0;
    if (have)
        events_clear(n->events, "ack", "other nodes acknowledge again what is synced");
    else if (!awaited && n->npeers)
        events_raise(n->events, "ack",
                     "fsync waits for nobody: no peer can be reached, the data is here only");
    return awaited == 0 || (n->config->ack == ACK_ONE && have > 0);
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
    return acknowledged(n, b);
}

/* "ok POSITION", or the names of nodes that were lost while they were waited for. */
static size_t answer(const struct node *n, const struct barrier *b, char *text, size_t size)
{
    int len = 0;

    for (size_t i = 0; i < n->npeers && (size_t)len < size; i++)
        if (b->awaited[i] && !n->peers[i].session)
            len += snprintf(text + len, size - (size_t)len, "%s %s", len ? "" : "missing",
                            n->peers[i].config->name);
    if (!len)
        len = snprintf(text, size, "ok %llu", (unsigned long long)b->pos);
    if ((size_t)len < size - 1)
        text[len++] = '\n';
    return (size_t)len < size ? (size_t)len : size;
}

void barrier_check(struct node *n)
{
    struct barrier **at = &n->barriers, *b;
    char text[4096];

    while ((b = *at)) {
        bool gone = b->rq && control_gone(b->rq);
        if (!gone && !reached(n, b)) {
            at = &b->next;
            continue;
        }
        *at = b->next;
        barrier_free(b, gone ? -EINTR : 0, text, gone ? 0 : answer(n, b, text, sizeof text));
    }
}

void barrier_drop_all(struct node *n)
{
    struct barrier *b;

    atomic_store(&n->barriers_ended, true);
    while ((b = n->barriers)) {
        n->barriers = b->next;
        if (b->sync) { /* its thread sees that it ended, and does not answer its caller */
            free(b->lids);
            free(b->awaited);
            free(b);
        } else {
            barrier_free(b, -EINTR, NULL, 0);
        }
    }
}
