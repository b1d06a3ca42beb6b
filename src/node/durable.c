/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What is durable when, seen from the node: every few seconds one thread makes the folder durable
 * (syncfs), then the index as it was before that, then says so in the mark (see index.h). Another
 * looks at the whole index, soon after a stop that was not in order and once a day, at the lowest
 * priority. Neither holds up the core thread.
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

/* As often as a journalling file system commits; less often where a sync takes long, sooner when
 * the index grows because the pages of the marked state cannot be used again. */
#define MARK_EVERY_US 5000000u
#define MARK_SHARE 8u
#define MARK_GROWN (64ull << 20)
#define LOOK_SOON_S 20
#define LOOK_EVERY_S (24 * 3600)
#define LOOK_REST_US 2000u /* after every 64 pages */

struct durable {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t change;
    bool due, busy, stop;
    bool done;  /* since the core thread last looked */
    int result; /* of the last one */
    uint64_t ended_us, took_us;

    struct vvec know; /* the core thread's: of the state that is being marked */
    pthread_t marker, looker;
    bool marking, looking; /* the threads run */
    atomic_bool enough;    /* stops the looker in the middle */
    atomic_bool damaged;
    struct index_verified verified; /* written before `damaged` */
};

/* All that the index says of the folder, before the index. */
static int sync_folder(struct node *n)
{
    if (syncfs(n->args->rootfd) < 0)
        return -errno;
    return syncfs(n->staging->dirfd) < 0 ? -errno : 0;
}

static void *marker(void *arg)
{
    struct node *n = arg;
    struct durable *d = n->durable;

    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (!d->due && !d->stop)
            pthread_cond_wait(&d->change, &d->lock);
        if (!d->due)
            break;
        pthread_mutex_unlock(&d->lock);
        uint64_t start = node_mono(n);
        int rc = sync_folder(n);
        if (rc)
            index_mark_drop(n->index);
        else
            rc = index_mark_finish(n->index);
        uint64_t end = node_mono(n);
        pthread_mutex_lock(&d->lock);
        d->due = d->busy = false;
        d->done = true;
        d->result = rc;
        d->ended_us = end;
        d->took_us = end - start;
        pthread_cond_broadcast(&d->change);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* ---- the whole index ---- */

static bool pause_s(struct durable *d, time_t seconds)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&d->lock);
    while (!d->stop && pthread_cond_timedwait(&d->change, &d->lock, &until) != ETIMEDOUT)
        ;
    bool stop = d->stop;
    pthread_mutex_unlock(&d->lock);
    return !stop;
}

static void *looker(void *arg)
{
    struct node *n = arg;
    struct durable *d = n->durable;
    struct sched_param idle = {0};

    if (pthread_setschedparam(pthread_self(), SCHED_IDLE, &idle))
        log_debug("the index is looked at with the usual priority");
    for (time_t after = n->unclean ? LOOK_SOON_S : LOOK_EVERY_S; pause_s(d, after);
         after = LOOK_EVERY_S) {
        uint64_t start = node_mono(n);
        int rc = index_verify(n->index, NULL, &d->enough, LOOK_REST_US, &d->verified);
        if (rc == FARM_ECORRUPT) {
            atomic_store(&d->damaged, true);
            return NULL;
        }
        if (rc)
            log_debug("the index was not looked at to the end: %s", err_text(rc));
        else
            log_info("the index is in order: %llu pages, %llu rows, %.1f s",
                     (unsigned long long)d->verified.pages, (unsigned long long)d->verified.rows,
                     (double)(node_mono(n) - start) / 1e6);
    }
    return NULL;
}

/* ---- the core thread ---- */

int durable_start(struct node *n)
{
    struct durable *d = calloc(1, sizeof *d);

    if (!d)
        return -ENOMEM;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->change, NULL);
    d->ended_us = node_mono(n);
    n->durable = d;
    int rc = -pthread_create(&d->marker, NULL, marker, n);
    d->marking = rc == 0;
    if (!rc)
        rc = -pthread_create(&d->looker, NULL, looker, n);
    d->looking = d->marking && rc == 0;
    if (rc)
        durable_stop(n);
    return rc;
}

static bool is_due(struct node *n, struct durable *d)
{
    uint64_t since = node_mono(n) - d->ended_us;

    return (since >= MARK_EVERY_US && since >= d->took_us * MARK_SHARE) ||
           (since >= d->took_us && index_unmarked(n->index) > MARK_GROWN);
}

void durable_tick(struct node *n)
{
    struct durable *d = n->durable;

    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    bool due = !d->busy && is_due(n, d), done = d->done;
    int rc = d->result;
    d->done = false;
    pthread_mutex_unlock(&d->lock);
    if (rc)
        events_raise(n->events, "sync",
                     "the state cannot be synced to disk: %s; after a power cut what changed since "
                     "would be found by comparing",
                     err_text(rc));
    else
        events_clear(n->events, "sync", "the state is synced to disk again");
    if (done && !rc)
        n->synced_know = d->know;
    if (!due || n->in_txn || n->effects.n > 0)
        return;
    rc = index_mark_begin(n->index);
    d->know = n->meta.know;
    if (rc == -EALREADY)
        n->synced_know = d->know;
    pthread_mutex_lock(&d->lock);
    if (rc) {
        d->ended_us = node_mono(n);
        d->result = rc == -EALREADY ? 0 : rc;
    } else {
        d->due = d->busy = true;
        pthread_cond_broadcast(&d->change);
    }
    pthread_mutex_unlock(&d->lock);
}

const char *durable_damage(const struct node *n)
{
    return n->durable && atomic_load(&n->durable->damaged) ? n->durable->verified.what : NULL;
}

void durable_stop(struct node *n)
{
    struct durable *d = n->durable;

    if (!d)
        return;
    atomic_store(&d->enough, true);
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->lock);
    if (d->marking)
        pthread_join(d->marker, NULL);
    if (d->looking)
        pthread_join(d->looker, NULL);
    pthread_cond_destroy(&d->change);
    pthread_mutex_destroy(&d->lock);
    free(d);
    n->durable = NULL;
}

int durable_clean(struct node *n)
{
    int rc = sync_folder(n);
    return rc ? rc : index_mark_clean(n->index);
}
