/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "link/codec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_ROOM (FRAME_HEADER + FRAME_MAX)
#define SLACK (64u * 1024) /* so that a reader gets ahead of the frame being handled */
#define PING_FRAME (FRAME_HEADER + 8u)
#define STALL_US                                                                                 \
    (300u * 1000)              /* not scheduled for this long: our clock, not the peer's silence \
                                */
#define GOOD_US (1000u * 1000) /* a session that lasted resets the dialler's backoff */
#define RTT_EVERY_US (1000u * 1000)
#define FLUSH_US (1000u * 1000)  /* for the worker's last frames after it closed */
#define OUT_FULL (256u * 1024)   /* ready to go: more would only make the next ping wait */
#define WRITE_TURN (256u * 1024) /* bulk going out must not keep us from reading for long */

/* Bytes [head, tail) of a fixed piece of memory. */
struct area {
    uint8_t *p;
    size_t head, tail, size;
};

/*
 * peer --read--> in --unpack--> forward (in `in` or `room`) --> worker
 * worker --read--> raw --pack--> out --write--> peer
 */
struct session {
    struct peer *peer;
    struct transport *t;
    struct codec codec;
    bool dialled, up;
    int stop;   /* eventfd */
    int worker; /* our end of the stream, from `up` on */
    struct area in, raw, out;
    uint8_t *room;          /* a decompressed frame */
    const uint8_t *forward; /* validated bytes on their way to the worker */
    size_t forward_len;
    bool worker_closed;
    uint64_t worker_closed_us;
    uint64_t started_us, heard_us, ping_us, turn_us; /* when: start, last byte, ping, loop turn */
    uint64_t rtt_us, rtt_told_us;                    /* least since the last report; 0: none */
    char text[LINK_TEXT_MAX];                        /* why it ended, when there is more to say */
};

static int area_init(struct area *a, size_t size)
{
    a->p = malloc(size);
    a->size = size;
    a->head = a->tail = 0;
    return a->p ? 0 : -ENOMEM;
}

static size_t area_len(const struct area *a)
{
    return a->tail - a->head;
}

static size_t area_room(const struct area *a)
{
    return a->size - a->tail;
}

static void area_compact(struct area *a)
{
    if (a->head == 0)
        return;
    if (a->tail > a->head)
        memmove(a->p, a->p + a->head, a->tail - a->head);
    a->tail -= a->head;
    a->head = 0;
}

static int session_init(struct session *s, struct peer *p, struct transport *t, bool dialled)
{
    memset(s, 0, sizeof *s);
    s->peer = p;
    s->t = t;
    s->dialled = dialled;
    s->worker = -1;
    s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->room = malloc(FRAME_ROOM);
    int r = codec_init(&s->codec);
    r = r ? r : area_init(&s->in, FRAME_ROOM + SLACK);
    r = r ? r : area_init(&s->raw, FRAME_ROOM + SLACK);
    r = r ? r : area_init(&s->out, 2 * FRAME_ROOM);
    if (r == 0 && !s->room)
        r = -ENOMEM;
    if (r == 0 && s->stop < 0)
        r = -EMFILE;
    s->started_us = s->heard_us = s->turn_us = s->rtt_told_us = clock_mono(&clock_system);
    return r;
}

static void session_fini(struct session *s)
{
    if (s->stop >= 0)
        close(s->stop);
    if (s->worker >= 0)
        close(s->worker);
    free(s->room);
    free(s->in.p);
    free(s->raw.p);
    free(s->out.p);
    codec_fini(&s->codec);
}

void session_stop(struct session *s)
{
    (void)!eventfd_write(s->stop, 1);
}

static int fail(struct session *s, int code, const char *text)
{
    if (!s->text[0])
        snprintf(s->text, sizeof s->text, "%s", text);
    return code;
}

/* Everything there is to send to the peer goes through here: whole frames only. `out` may not move
 * while half a packet of it is in the SSH library. */
static bool out_room(struct session *s, size_t n)
{
    if (area_room(&s->out) >= n)
        return true;
    /* Moving little after much has gone keeps the cost of it below that of sending. */
    if (s->t->stuck == OP_WRITE || s->out.head < s->out.size / 2)
        return false;
    area_compact(&s->out);
    return area_room(&s->out) >= n;
}

static void send_ping(struct session *s, uint8_t type, const void *payload)
{
    if (!out_room(s, PING_FRAME))
        return; /* so much is on its way that the peer hears us anyway */
    frame_header_put(s->out.p + s->out.tail, type, 0, 8, payload, 8);
    memcpy(s->out.p + s->out.tail + FRAME_HEADER, payload, 8);
    s->out.tail += PING_FRAME;
}

static int forward(struct session *s, bool *moved)
{
    while (s->forward_len) {
        ssize_t r = send(s->worker, s->forward, s->forward_len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && errno == EAGAIN)
            return 0;
        if (r < 0) { /* the worker closed: what the peer still says has no reader */
            s->forward_len = 0;
            return 0;
        }
        s->forward += r;
        s->forward_len -= (size_t)r;
        *moved = true;
    }
    return 0;
}

static void got_pong(struct session *s, const uint8_t *payload)
{
    uint64_t sent, now = clock_mono(&clock_system);

    /* Our own bytes, echoed; a lie makes a strange figure, no more. The first ping does not count:
     * it had to wait for the relay to start. */
    memcpy(&sent, payload, sizeof sent);
    uint64_t rtt = now - sent;
    if (rtt == 0 || rtt > SESSION_DEAD_US || sent - s->started_us < SESSION_PING_US / 2)
        return;
    if (s->rtt_us == 0 || rtt < s->rtt_us)
        s->rtt_us = rtt;
    if (now - s->rtt_told_us >= RTT_EVERY_US || s->rtt_told_us == s->started_us) {
        s->rtt_told_us = now;
        peer_rtt(s->peer, (uint32_t)s->rtt_us);
        s->rtt_us = 0;
    }
}

/* One whole frame at in.head. 1: done; 0: the worker must read first. */
static int take_frame(struct session *s, const struct frame_header *h)
{
    const uint8_t *at = s->in.p + s->in.head, *frame;
    size_t whole = FRAME_HEADER + (size_t)h->len, len;
    bool moved = false;

    /* Frames that lie side by side go to the worker in one call; any other waits for its turn. */
    bool joins = s->forward_len == 0 || s->forward + s->forward_len == at;
    if ((h->flags & FRAME_ZSTD || !joins) && s->forward_len) {
        int r = forward(s, &moved);
        if (r || s->forward_len)
            return r;
    }
    int r = codec_unpack(&s->codec, h, at, s->room, &frame, &len);
    if (r)
        return fail(s, r, r == FARM_ECORRUPT ? "a damaged frame from the peer" : "a wrong frame");
    if (!s->up) {
        r = peer_up(s->peer, s, s->dialled, &s->worker);
        if (r)
            return r;
        s->up = true;
    }
    s->in.head += whole;
    if (h->type == FRAME_PING) {
        send_ping(s, FRAME_PONG, frame + FRAME_HEADER);
    } else if (h->type == FRAME_PONG) {
        got_pong(s, frame + FRAME_HEADER);
    } else if (!s->worker_closed) {
        if (s->forward_len == 0)
            s->forward = frame;
        s->forward_len += len;
    }
    return 1;
}

static int take_frames(struct session *s, bool *moved)
{
    struct frame_header h;

    while (area_len(&s->in) >= FRAME_HEADER) {
        int r = frame_header_get(s->in.p + s->in.head, &h);
        if (r)
            return fail(s, r, "not a frame from the peer");
        if (area_len(&s->in) < FRAME_HEADER + (size_t)h.len)
            break;
        r = take_frame(s, &h);
        if (r <= 0)
            return r;
        *moved = true;
    }
    return forward(s, moved);
}

static int read_peer(struct session *s, uint64_t now, bool *moved)
{
    if (s->forward_len == 0 && (s->in.head == s->in.tail || area_room(&s->in) < SLACK))
        area_compact(&s->in);
    size_t room = area_room(&s->in);
    if (room == 0 || transport_read_blocked(s->t)) {
        s->heard_us = now; /* we do not listen, so silence says nothing; TCP_USER_TIMEOUT watches */
        return 0;
    }
    ssize_t n = transport_read(s->t, s->in.p + s->in.tail, room);
    if (n == -EAGAIN)
        return 0;
    if (n == FARM_ECLOSED) {
        transport_stderr(s->t, s->text, sizeof s->text);
        return fail(s, FARM_ECLOSED, "closed by the peer");
    }
    if (n < 0)
        return fail(s, (int)n, "");
    s->in.tail += (size_t)n;
    s->heard_us = now;
    *moved = true;
    return 0;
}

static int read_worker(struct session *s, uint64_t now, bool *moved)
{
    if (!s->up || s->worker_closed)
        return 0;
    if (s->raw.head == s->raw.tail || area_room(&s->raw) < SLACK)
        area_compact(&s->raw);
    if (area_room(&s->raw) == 0)
        return 0;
    ssize_t n = recv(s->worker, s->raw.p + s->raw.tail, area_room(&s->raw), MSG_DONTWAIT);
    if (n > 0) {
        s->raw.tail += (size_t)n;
        *moved = true;
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        s->worker_closed = true;
        s->worker_closed_us = now;
    }
    return 0;
}

static int pack_frames(struct session *s, bool *moved)
{
    struct frame_header h;

    while (area_len(&s->raw) >= FRAME_HEADER && area_len(&s->out) < OUT_FULL) {
        const uint8_t *at = s->raw.p + s->raw.head;
        int r = frame_header_get(at, &h);
        if (r || h.flags || h.type == FRAME_PING || h.type == FRAME_PONG)
            return fail(s, -EINVAL, "not a frame from the worker");
        size_t whole = FRAME_HEADER + (size_t)h.len;
        if (area_len(&s->raw) < whole || !out_room(s, whole))
            return 0;
        s->out.tail +=
            codec_pack(&s->codec, h.type, at + FRAME_HEADER, h.len, s->out.p + s->out.tail);
        s->raw.head += whole;
        *moved = true;
    }
    return 0;
}

static int write_peer(struct session *s, bool *moved)
{
    for (size_t done = 0; area_len(&s->out) && done < WRITE_TURN;) {
        ssize_t n = transport_write(s->t, s->out.p + s->out.head, area_len(&s->out));
        if (n == -EAGAIN)
            return 0;
        if (n == FARM_ECLOSED || n == -EPIPE || n == -ECONNRESET) {
            transport_stderr(s->t, s->text, sizeof s->text);
            return fail(s, FARM_ECLOSED, "closed by the peer");
        }
        if (n < 0)
            return fail(s, (int)n, "");
        s->out.head += (size_t)n;
        done += (size_t)n;
        *moved = true;
    }
    if (area_len(&s->out) == 0)
        s->out.head = s->out.tail = 0;
    return 0;
}

/* Timers. *wait_ms: until the next one. */
static int tick(struct session *s, uint64_t now, int *wait_ms)
{
    if (now - s->turn_us > SESSION_PING_US + STALL_US)
        s->heard_us = now;
    s->turn_us = now;
    uint64_t limit = s->up ? SESSION_DEAD_US : SESSION_FIRST_US;
    if (now - s->heard_us >= limit)
        return fail(s, -ETIMEDOUT,
                    s->up ? "nothing heard for a second" : "no answer from its link");
    if (s->worker_closed && (area_len(&s->out) == 0 || now - s->worker_closed_us > FLUSH_US))
        return fail(s, FARM_ECLOSED, "closed by our worker");
    if (now - s->ping_us >= SESSION_PING_US) {
        s->ping_us = now;
        send_ping(s, FRAME_PING, &now);
        eventfd_t asked; /* a busy session never comes to wait */
        if (eventfd_read(s->stop, &asked) == 0)
            return fail(s, FARM_ECLOSED, "ended by us");
    }
    uint64_t ping = s->ping_us + SESSION_PING_US, dead = s->heard_us + limit;
    *wait_ms = (int)(((ping < dead ? ping : dead) - now) / 1000) + 1;
    return 0;
}

static int wait_turn(struct session *s, int wait_ms)
{
    struct pollfd fds[4];
    bool want_read = area_room(&s->in) > 0 && !s->worker_closed;
    short worker = 0;

    if (s->up && !s->worker_closed)
        worker = (short)((s->forward_len ? POLLOUT : 0) | (area_room(&s->raw) ? POLLIN : 0));
    transport_poll(s->t, want_read, area_len(&s->out) > 0, fds);
    fds[2] = (struct pollfd){.fd = worker ? s->worker : -1, .events = worker};
    fds[3] = (struct pollfd){.fd = s->stop, .events = POLLIN};
    if (poll(fds, 4, wait_ms) < 0 && errno != EINTR)
        return -errno;
    return fds[3].revents ? fail(s, FARM_ECLOSED, "ended by us") : 0;
}

/* A turn: read, hand on, write, until nothing moves; then timers, then sleep. The library may hold
 * decrypted bytes that no poll announces, so it is asked again after every write. */
static int session_loop(struct session *s)
{
    int wait_ms;

    for (;;) {
        bool moved = false;
        uint64_t now = clock_mono(&clock_system);
        int r = read_peer(s, now, &moved);
        r = r ? r : take_frames(s, &moved);
        r = r ? r : read_worker(s, now, &moved);
        r = r ? r : pack_frames(s, &moved);
        r = r ? r : tick(s, now, &wait_ms);
        r = r ? r : write_peer(s, &moved);
        if (r)
            return r;
        if (!moved)
            r = wait_turn(s, wait_ms);
        if (r)
            return r;
    }
}

bool session_run(struct peer *p, struct transport *t, bool dialled)
{
    struct session s;
    int r = session_init(&s, p, t, dialled);

    if (r == 0)
        r = session_loop(&s);
    bool good = s.up && clock_mono(&clock_system) - s.started_us >= GOOD_US;
    peer_down(p, &s, r, s.text);
    transport_close(t);
    session_fini(&s);
    return good;
}
