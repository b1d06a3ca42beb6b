/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The sender's life, its loop, and what others tell it. */
#include "ship/sender.h"

#include "ship/receiver.h"
#include "ship/sender_i.h"

#include "wire/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

/* A position that moved without a frame to carry it is told after this long without one. */
#define TELL_NS (20 * 1000 * 1000)

/* ---- life ---- */

static int init_sync(struct sender *s)
{
    pthread_condattr_t a;

    int e = pthread_condattr_init(&a);
    if (e)
        return -e;
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    e = pthread_cond_init(&s->wake, &a);
    pthread_condattr_destroy(&a);
    if (e)
        return -e;
    e = pthread_mutex_init(&s->lock, NULL);
    if (e)
        pthread_cond_destroy(&s->wake);
    return -e;
}

static int init_memory(struct sender *s)
{
    s->plan = calloc(PLAN_MAX, sizeof *s->plan);
    s->chunk = malloc(CHUNK);
    if (!s->plan || !s->chunk)
        return -ENOMEM;
    int e = sent_new(&s->sent);
    return e ? e : index_reader_new(s->env.index, &s->reader);
}

int sender_new(const struct sender_env *env, int fd, uint64_t peer, uint64_t from,
               const struct vvec *know, struct sender **out)
{
    struct sender *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->env = *env;
    s->fd = fd;
    s->peer = peer;
    s->know = s->known = *know;
    s->cursor = s->done = s->told = from;
    s->stats.sent_pos = s->stats.acked_pos = from;
    s->open = true; /* a peer that has everything is told so */
    buf_init(&s->frame, FRAME_MAX);
    buf_init(&s->data, FRAME_MAX);
    deferred_init(&s->deferred);
    int e = init_sync(s);
    if (e) {
        free(s);
        return e;
    }
    e = init_memory(s);
    if (e) {
        sender_free(s);
        return e;
    }
    msg_records_begin(&s->frame);
    *out = s;
    return 0;
}

void sender_held(struct sender *s, const struct vvec *held)
{
    s->held = *held;
}

void sender_free(struct sender *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < STATES_MAX; i++)
        free(s->states[i].payload);
    index_reader_free(s->reader);
    sent_free(s->sent);
    deferred_fini(&s->deferred);
    buf_fini(&s->frame);
    buf_fini(&s->data);
    free(s->plan);
    free(s->chunk);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s);
}

void sender_stop(struct sender *s)
{
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    shutdown(s->fd, SHUT_WR);
}

/* ---- from other threads ---- */

void sender_wake(struct sender *s)
{
    pthread_mutex_lock(&s->lock);
    s->woken = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void sender_acked(struct sender *s, uint64_t pos, const struct vvec *know)
{
    pthread_mutex_lock(&s->lock);
    if (pos > s->stats.acked_pos)
        s->stats.acked_pos = pos;
    s->know = *know;
    s->acked = true;
    if (s->stats.deferred) /* some may be covered now */
        pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

int sender_want(struct sender *s, struct id128 rid, struct stamp stamp)
{
    int e = FARM_EFULL;

    pthread_mutex_lock(&s->lock);
    if (s->nwants < WANTS_MAX) {
        s->wants[(s->want_first + s->nwants++) % WANTS_MAX] = (struct msg_want){rid, stamp};
        pthread_cond_signal(&s->wake);
        e = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}

void sender_peer_links(struct sender *s, const uint64_t *nodes, size_t n)
{
    if (n > LINKS_MAX) /* what is beyond is sent from here too */
        n = LINKS_MAX;
    pthread_mutex_lock(&s->lock);
    if (n)
        memcpy(s->links, nodes, n * sizeof *nodes);
    s->nlinks = n;
    s->relinked = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void sender_ack(struct sender *s, uint64_t pos, const struct vvec *know)
{
    pthread_mutex_lock(&s->lock);
    s->ack.pos = pos;
    s->ack.know = *know;
    s->ack_due = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

int sender_ask(struct sender *s, const struct msg_want *w)
{
    int e = FARM_EFULL;

    pthread_mutex_lock(&s->lock);
    if (s->nasks < WANTS_MAX) {
        s->asks[s->nasks++] = *w;
        pthread_cond_signal(&s->wake);
        e = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}

int sender_sum(struct sender *s, const struct msg_sum *m)
{
    int e = FARM_EFULL;

    pthread_mutex_lock(&s->lock);
    if (s->nsums < SUMS_MAX) {
        s->sums[s->nsums++] = *m;
        pthread_cond_signal(&s->wake);
        e = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}

int sender_range(struct sender *s, struct id128 first, struct id128 last)
{
    int e = FARM_EFULL;

    pthread_mutex_lock(&s->lock);
    if (s->nranges < RANGES_MAX) {
        s->ranges[s->nranges++] = (struct inode_range){first, last};
        pthread_cond_signal(&s->wake);
        e = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* The slot of the node, or a free one. */
static struct state_slot *state_slot(struct sender *s, uint64_t node)
{
    struct state_slot *empty = NULL;

    for (size_t i = 0; i < STATES_MAX; i++) {
        if (!s->states[i].payload)
            empty = &s->states[i];
        else if (s->states[i].node == node)
            return &s->states[i];
    }
    return empty;
}

int sender_state(struct sender *s, uint64_t node, const void *payload, size_t n)
{
    if (n == 0 || n > FRAME_MAX)
        return -EINVAL;
    void *copy = malloc(n);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, payload, n);
    pthread_mutex_lock(&s->lock);
    struct state_slot *slot = state_slot(s, node);
    void *old = copy;
    if (slot) {
        old = slot->payload;
        s->nstates += !old;
        *slot = (struct state_slot){node, copy, (uint32_t)n};
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    free(old);
    return slot ? 0 : FARM_EFULL;
}

void sender_stats(struct sender *s, struct sender_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}

/* ---- frames ---- */

static int write_frame(struct sender *s, uint8_t type, const void *payload, uint32_t len)
{
    int e = receiver_write_frame(s->fd, type, payload, len);

    if (!e) {
        pthread_mutex_lock(&s->lock);
        s->stats.bytes += len;
        pthread_mutex_unlock(&s->lock);
    }
    return e;
}

static int send_ask(struct sender *s, const struct msg_want *w)
{
    struct buf b;

    buf_init(&b, FRAME_MAX);
    msg_want_put(&b, w);
    int e = b.err ? b.err : write_frame(s, FRAME_WANT, b.data, (uint32_t)b.len);
    buf_fini(&b);
    return e;
}

static int send_ack(struct sender *s, const struct msg_ack *ack)
{
    struct buf b;

    buf_init(&b, FRAME_MAX);
    msg_ack_put(&b, ack);
    int e = b.err ? b.err : write_frame(s, FRAME_ACK, b.data, (uint32_t)b.len);
    buf_fini(&b);
    return e;
}

static int send_sum(struct sender *s, const struct msg_sum *m)
{
    struct buf b;

    buf_init(&b, FRAME_MAX);
    msg_sum_put(&b, m);
    int e = b.err ? b.err : write_frame(s, FRAME_SUM, b.data, (uint32_t)b.len);
    buf_fini(&b);
    return e;
}

/* One pending STATE, taken out of its slot. */
static bool take_state(struct sender *s, struct state_slot *out)
{
    for (size_t i = 0; i < STATES_MAX && s->nstates; i++) {
        if (!s->states[i].payload)
            continue;
        *out = s->states[i];
        s->states[i].payload = NULL;
        s->nstates--;
        return true;
    }
    return false;
}

int sender_between(struct sender *s)
{
    struct state_slot state;
    struct msg_ack ack;
    struct msg_want want;
    struct msg_sum sum;

    for (;;) {
        bool due = false, have = false, ask = false, compare = false;
        pthread_mutex_lock(&s->lock);
        bool stop = s->stop;
        if (!stop && s->ack_due) {
            ack = s->ack;
            s->ack_due = false;
            due = true;
        } else if (!stop && s->nasks) {
            want = s->asks[--s->nasks];
            ask = true;
        } else if (!stop && s->nsums) {
            sum = s->sums[--s->nsums];
            compare = true;
        } else if (!stop) {
            have = take_state(s, &state);
        }
        pthread_mutex_unlock(&s->lock);
        if (stop)
            return -ECANCELED;
        if (!due && !have && !ask && !compare)
            return 0;
        int e = due       ? send_ack(s, &ack)
                : ask     ? send_ask(s, &want)
                : compare ? send_sum(s, &sum)
                          : write_frame(s, FRAME_STATE, state.payload, state.len);
        if (have)
            free(state.payload);
        if (e)
            return e;
    }
}

int sender_send(struct sender *s, uint8_t type, const struct buf *payload)
{
    int e = sender_between(s);
    return e ? e : write_frame(s, type, payload->data, (uint32_t)payload->len);
}

/* Everything before it may be forgotten by the peer: it never passes a deferred entry. */
static uint64_t position(const struct sender *s)
{
    for (size_t i = 0; i < s->deferred.n; i++) {
        const struct deferred_entry *d = &s->deferred.e[i];
        if (d->source)
            return d->pos < s->done ? d->pos : s->done;
    }
    return s->done;
}

static void update_stats(struct sender *s, uint32_t records)
{
    pthread_mutex_lock(&s->lock);
    s->stats.sent_pos = s->done;
    s->stats.records += records;
    s->stats.deferred = s->deferred.n;
    pthread_mutex_unlock(&s->lock);
}

int sender_flush(struct sender *s, bool boundary)
{
    uint64_t pos = position(s);
    uint8_t flags = (uint8_t)((boundary ? RECORDS_BOUNDARY : 0) | (s->resent ? RECORDS_RESENT : 0) |
                              (s->repair ? RECORDS_REPAIR : 0));

    msg_records_end(&s->frame, pos, flags, s->count);
    int e = s->frame.err ? s->frame.err : sender_send(s, FRAME_RECORDS, &s->frame);
    if (e)
        return e;
    if (!s->resent) {
        s->told = pos;
        s->open = !boundary;
    }
    update_stats(s, s->count);
    buf_reset(&s->frame);
    msg_records_begin(&s->frame);
    s->count = 0;
    return s->frame.err;
}

/* ---- rounds ---- */

static int put_item(struct sender *s, const struct plan_item *it)
{
    int e = content_put(s, it);

    if (e)
        return e;
    if (it->deferred)
        deferred_done(&s->deferred, it->pos);
    else
        s->done = it->pos + 1;
    return s->frame.len > SENDER_BATCH || s->count == FRAME_ITEMS ? sender_flush(s, false) : 0;
}

static bool take_want(struct sender *s, struct msg_want *out)
{
    pthread_mutex_lock(&s->lock);
    bool have = s->nwants > 0;
    if (have) {
        *out = s->wants[s->want_first];
        s->want_first = (s->want_first + 1) % WANTS_MAX;
        s->nwants--;
    }
    pthread_mutex_unlock(&s->lock);
    return have;
}

static int answer_wants(struct sender *s)
{
    struct msg_want w;
    int e = 0;

    while (!e && take_want(s, &w)) {
        if (s->count)
            e = sender_flush(s, false);
        if (!e)
            e = plan_again(s, w.rid);
        if (e || !s->nplan)
            continue;
        s->resent = true;
        e = content_put(s, &s->plan[0]);
        if (!e)
            e = sender_flush(s, false);
        s->resent = false;
        plan_clear(s);
    }
    return e;
}

static bool take_range(struct sender *s, struct inode_range *out)
{
    pthread_mutex_lock(&s->lock);
    bool have = s->nranges > 0;
    if (have)
        *out = s->ranges[--s->nranges];
    pthread_mutex_unlock(&s->lock);
    return have;
}

static int send_range(struct sender *s, struct inode_range *r)
{
    bool more = true;
    int e = s->count ? sender_flush(s, false) : 0;

    s->resent = s->repair = true;
    while (!e && more) {
        e = plan_inodes(s, r, &more);
        for (size_t i = 0; !e && i < s->nplan; i++) {
            e = content_put(s, &s->plan[i]);
            if (!e && s->frame.len > SENDER_BATCH)
                e = sender_flush(s, false);
        }
        plan_clear(s);
        if (!e && s->count)
            e = sender_flush(s, false);
    }
    s->resent = s->repair = false;
    return e;
}

static int send_ranges(struct sender *s)
{
    struct inode_range r;
    int e = 0;

    while (!e && take_range(s, &r))
        e = send_range(s, &r);
    return e;
}

/* What others have said since, into the sender's own copies. */
static void take_inputs(struct sender *s)
{
    pthread_mutex_lock(&s->lock);
    s->woken = false;
    if (s->acked)
        s->known = s->know;
    s->acked = false;
    if (s->relinked) {
        memcpy(s->linked, s->links, s->nlinks * sizeof *s->links);
        s->nlinked = s->nlinks;
        s->release = true;
        s->relinked = false;
    }
    pthread_mutex_unlock(&s->lock);
}

/*
 * The log's end: every record that this node held when it knew end_know has been sent, or is known
 * to the peer: both were read in one transaction, and an entry that was passed before was either
 * sent, or has moved on and was met again. What is left to others is not claimed. (Two nodes that
 * each wait for the other's part would wait for ever: so a version that was superseded by one that
 * is left to others is claimed, although that is still on its way; both we and its author have it.)
 */
static int tell_know(struct sender *s)
{
    struct msg_ack m = {s->told, s->end_know};
    struct buf b;

    if (!s->end)
        return 0;
    for (size_t i = 0; i < s->deferred.n; i++)
        if (s->deferred.e[i].source)
            vvec_lower(&m.know, s->deferred.e[i].stamp);
    if (vvec_includes(&s->told_know, &m.know))
        return 0;
    buf_init(&b, FRAME_MAX);
    msg_ack_put(&b, &m);
    int e = b.err ? b.err : write_frame(s, FRAME_KNOW, b.data, (uint32_t)b.len);
    buf_fini(&b);
    if (!e)
        s->told_know = m.know;
    return e;
}

/* From the cursor to the end of the log. */
static int send_log(struct sender *s)
{
    bool end = false;
    int e = 0;

    while (!e && !end) {
        take_inputs(s);
        e = sender_between(s);
        if (!e)
            e = answer_wants(s);
        if (!e)
            e = send_ranges(s);
        if (!e)
            e = plan_fill(s, &end);
        for (size_t i = 0; !e && i < s->nplan; i++)
            e = put_item(s, &s->plan[i]);
        plan_clear(s);
        if (!e)
            s->done = s->cursor;
    }
    if (!e && (s->count || s->open))
        e = sender_flush(s, true);
    else
        update_stats(s, 0);
    return e ? e : tell_know(s);
}

static bool has_work(const struct sender *s)
{
    return s->stop || s->woken || s->ack_due || s->nstates || s->nwants || s->nasks || s->nsums ||
           s->nranges || s->relinked || (s->acked && s->deferred.n);
}

/* Waits for something to do. *quiet: there was nothing for TELL_NS (only when asked to look). */
static void wait_work(struct sender *s, bool look, bool *quiet)
{
    struct timespec until;
    int e = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TELL_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&s->lock);
    while (!has_work(s) && e != ETIMEDOUT)
        e = look ? pthread_cond_timedwait(&s->wake, &s->lock, &until)
                 : pthread_cond_wait(&s->wake, &s->lock);
    *quiet = !has_work(s);
    pthread_mutex_unlock(&s->lock);
}

int sender_run(struct sender *s)
{
    bool quiet = false;
    int e;

    do {
        e = send_log(s);
        if (!e && quiet && position(s) != s->told)
            e = sender_flush(s, true);
        if (!e)
            wait_work(s, position(s) != s->told, &quiet);
    } while (!e);
    pthread_mutex_lock(&s->lock);
    bool stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    return stop ? 0 : e;
}
