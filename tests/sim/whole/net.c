/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What the link processes and the network do: a stream between two workers whenever both serve and
 * the way between them is open; cut, delayed, broken at any byte, made twice. A frame that a worker
 * writes is checked as the link process would.
 */
#include "whole.h"

#include "link/link.h"
#include "wire/frame.h"
#include "wire/msg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEAD_AFTER (1 * SEC) /* without an answer: what the links' keepalive finds out */

struct conn {
    unsigned a, b;
    struct stream *to_b, *to_a;
    bool dead;
    unsigned ends; /* descriptors of it that are open */
};

static bool cut[MACHINES_MAX][MACHINES_MAX];           /* no bytes this way */
static struct conn *conns[MACHINES_MAX][MACHINES_MAX]; /* the latest of each pair a < b */

static void dial(void *arg, uint64_t pair);

void net_init(void)
{
    for (unsigned a = 0; a < w.n; a++)
        for (unsigned b = a + 1; b < w.n; b++)
            if (w.links[a][b])
                world_at(below(20000), dial, NULL, a * MACHINES_MAX + b);
}

/* ---- bytes ---- */

static void arrive(void *arg, uint64_t n)
{
    struct stream *s = arg;

    if (cut[s->from][s->to]) { /* sent again until it gets through, or the stream is given up */
        world_at(w.now + 20000, arrive, s, n);
        return;
    }
    s->ready += n;
    if (s->ready > s->n)
        s->ready = s->n;
    if (s->reader)
        desc_signal(s->reader);
}

/* The end comes after all bytes, and does not pass a cut either. */
static bool end_arrived(const struct stream *s)
{
    return s->gone || s->conn->dead || (s->ended && s->n == 0 && !cut[s->from][s->to]);
}

bool stream_readable(const struct desc *d)
{
    return d->stream->ready > 0 || end_arrived(d->stream);
}

bool stream_ended(const struct desc *d)
{
    return d->stream->ended || d->stream->gone;
}

ssize_t stream_read(struct desc *d, void *p, size_t n)
{
    struct stream *s = d->stream;

    while (!stream_readable(d))
        fiber_wait(d, 0);
    if (s->gone || !s->ready)
        return 0;
    if (n > s->ready)
        n = s->ready;
    if (one_in(8) && n > 1)
        n = 1 + below(n);
    memcpy(p, s->bytes, n);
    memmove(s->bytes, s->bytes + n, s->n - n);
    s->n -= n;
    s->ready -= n;
    fiber_wake(&s->room);
    return (ssize_t)n;
}

static void conn_break(struct conn *c);

static void break_later(void *arg, uint64_t n)
{
    (void)n;
    conn_break(arg);
}

ssize_t stream_write(struct desc *d, const void *p, size_t n)
{
    struct stream *s = d->back;

    while (!s->ended && !s->gone && s->n >= w.stream_room)
        fiber_wait(&s->room, 0);
    if (s->ended || s->gone)
        return fail_errno(EPIPE);
    if (n > w.stream_room - s->n)
        n = w.stream_room - s->n;
    if (s->break_in && n >= s->break_in) { /* the rest never gets there */
        n = s->break_in;
        s->ended = true;
        w.breaks++;
        world_at(w.now + 1 + below(DEAD_AFTER), break_later, s->conn, 0);
    } else if (s->break_in) {
        s->break_in -= n;
    }
    if (s->n + n > s->size) {
        s->size = (s->n + n) * 2;
        s->bytes = realloc(s->bytes, s->size);
        if (!s->bytes)
            abort();
    }
    memcpy(s->bytes + s->n, p, n);
    s->n += n;
    uint64_t at = w.now + w.delay_us + (w.jitter_us ? below(w.jitter_us) : 0);
    s->last_at = at > s->last_at ? at : s->last_at;
    world_at(s->last_at, arrive, s, n);
    return (ssize_t)n;
}

/* ---- ends ---- */

void stream_shutdown(struct desc *d)
{
    d->stream->gone = true;
    d->back->ended = true;
    fiber_wake(&d->stream->room);
    desc_signal(d);
}

void stream_close(struct desc *d)
{
    stream_shutdown(d);
    d->stream->reader = NULL;
    if (d->back->reader)
        desc_signal(d->back->reader);
}

static void conn_break(struct conn *c)
{
    c->dead = true;
    struct stream *both[] = {c->to_a, c->to_b};
    for (size_t i = 0; i < 2; i++) {
        both[i]->ended = true;
        fiber_wake(&both[i]->room);
        if (both[i]->reader)
            desc_signal(both[i]->reader);
    }
}

/* ---- streams ---- */

static struct stream *stream_new(struct conn *c, unsigned from, unsigned to)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->conn = c;
    s->from = from;
    s->to = to;
    return s;
}

static void hand_over(struct conn *c, unsigned me, unsigned peer)
{
    struct link_msg msg = {.type = LINK_SESSION_UP, .dialled = me < peer};
    struct machine *m = &machines[me];
    struct desc *d;

    if (!m->link || m->worker_state != WORKER_UP) {
        conn_break(c);
        return;
    }
    int fd = desc_new(D_STREAM, m, NULL, &d);
    d->stream = me == c->a ? c->to_a : c->to_b;
    d->back = me == c->a ? c->to_b : c->to_a;
    d->stream->reader = d;
    snprintf(msg.peer, sizeof msg.peer, "%s", machines[peer].name);
    packets_put(m->link, &msg, sizeof msg, fd);
}

static void second_end(void *arg, uint64_t n)
{
    struct conn *c = arg;
    (void)n;
    hand_over(c, c->b, c->a);
}

static bool usable(unsigned a, unsigned b)
{
    return !cut[a][b] && !cut[b][a] && machines[a].worker_state == WORKER_UP &&
           machines[b].worker_state == WORKER_UP;
}

static void connect_pair(unsigned a, unsigned b)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->a = a;
    c->b = b;
    c->to_a = stream_new(c, b, a);
    c->to_b = stream_new(c, a, b);
    if (conns[a][b] && !conns[a][b]->dead)
        conn_break(conns[a][b]); /* an older one is at its end */
    conns[a][b] = c;
    w.sessions++;
    if (w.faults & FAULT_BREAK && !w.healing && one_in(3))
        (one_in(2) ? c->to_a : c->to_b)->break_in = 1 + below(one_in(2) ? 4000 : 200000);
    hand_over(c, a, b);
    world_at(w.now + 1 + below(5000), second_end, c, 0);
}

/* Every pair, again and again: is there a stream, does it live? */
static void dial(void *arg, uint64_t pair)
{
    unsigned a = (unsigned)pair / MACHINES_MAX, b = (unsigned)pair % MACHINES_MAX;
    struct conn *c = conns[a][b];

    world_at(w.now + 2000 + below(w.healing ? 50000 : 300000), dial, arg, pair);
    if (c && !c->dead && (c->to_a->gone || c->to_b->gone || c->to_a->ended || c->to_b->ended)) {
        conn_break(c); /* one end closed it; the other hears of it */
        return;
    }
    if (c && !c->dead && (cut[a][b] || cut[b][a]) && one_in(6)) {
        note("net: %u-%u does not answer", a, b);
        conn_break(c);
        return;
    }
    if (usable(a, b) && (!c || c->dead))
        connect_pair(a, b);
}

void net_worker_up(struct machine *m)
{
    struct super_msg s = {.type = SUPER_LINK};

    note("m%u: serves", m->i);
    m->worker_state = WORKER_UP;
    int fd = desc_new(D_PACKETS, m, NULL, &m->link);
    packets_put(m->super, &s, sizeof s, fd);
}

void net_machine_down(struct machine *m)
{
    for (unsigned i = 0; i < w.n; i++) {
        unsigned a = m->i < i ? m->i : i, b = m->i < i ? i : m->i;
        if (a != b && conns[a][b] && !conns[a][b]->dead)
            world_at(w.now + below(50000), break_later, conns[a][b], 0);
    }
}

/* ---- faults ---- */

static void mend(void *arg, uint64_t pair)
{
    (void)arg;
    cut[pair / MACHINES_MAX][pair % MACHINES_MAX] = false;
}

void net_heal(void)
{
    memset(cut, 0, sizeof cut);
}

void net_fault(enum fault f)
{
    unsigned a = below(w.n), b = below(w.n);

    if (a == b)
        return;
    unsigned lo = a < b ? a : b, hi = a < b ? b : a;
    struct conn *c = conns[lo][hi];
    uint64_t until = w.now + 1000 + below(one_in(3) ? 8 * SEC : SEC);
    switch (f) {
    case FAULT_CUT:
        note("net: %u-%u cut", lo, hi);
        cut[b][a] = true;
        world_at(until, mend, NULL, b * MACHINES_MAX + a);
        cut[a][b] = true;
        world_at(until, mend, NULL, a * MACHINES_MAX + b);
        break;
    case FAULT_ONE_WAY:
        note("net: %u to %u cut", a, b);
        cut[a][b] = true;
        world_at(until, mend, NULL, a * MACHINES_MAX + b);
        break;
    case FAULT_BREAK:
        if (c && !c->dead) {
            note("net: %u-%u broken", lo, hi);
            conn_break(c);
        }
        break;
    case FAULT_TWICE:
        if (usable(lo, hi) && w.links[lo][hi]) {
            note("net: %u-%u a second time", lo, hi);
            connect_pair(lo, hi);
        }
        break;
    default: break;
    }
}

/* ---- what a link process would refuse ---- */

int __real_receiver_write_frame(int fd, uint8_t type, const void *payload, uint32_t len);
int __wrap_receiver_write_frame(int fd, uint8_t type, const void *payload, uint32_t len);
int __wrap_receiver_write_frame(int fd, uint8_t type, const void *payload, uint32_t len)
{
    int e = msg_validate(type, payload, len);

    w.frames += type == FRAME_RECORDS || type == FRAME_DATA || type == FRAME_WANT;
    if (e)
        fail("m%u: sends a frame of type %u that its link refuses: %s", here()->i, type,
             err_text(e));
    return __real_receiver_write_frame(fd, type, payload, len);
}
