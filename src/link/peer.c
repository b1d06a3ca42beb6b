/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/peer.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "link/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define STREAM_BUFFER (1 << 20)

int peers_init(struct link *l)
{
    l->peers = calloc(l->config->npeers + 1, sizeof *l->peers);
    if (!l->peers)
        return -ENOMEM;
    for (size_t i = 0; i < l->config->npeers; i++) {
        struct peer *p = &l->peers[i];
        p->link = l;
        p->config = &l->config->peers[i];
        p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (p->wake < 0)
            return -errno;
        pthread_mutex_init(&p->lock, NULL);
    }
    return 0;
}

struct peer *peer_find(const struct link *l, const char *name)
{
    for (size_t i = 0; i < l->config->npeers; i++)
        if (strcmp(l->peers[i].config->name, name) == 0)
            return &l->peers[i];
    return NULL;
}

static struct link_msg message(const struct peer *p, enum link_msg_type type)
{
    struct link_msg m = {.type = type};

    snprintf(m.peer, sizeof m.peer, "%s", p->config->name);
    return m;
}

/* What only informs must not make a session wait for a busy worker. */
static bool inform(const struct peer *p, const struct link_msg *m)
{
    return send(p->link->control_fd, m, sizeof *m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

int peer_up(struct peer *p, struct session *s, bool dialled, int *fd)
{
    static const int size = STREAM_BUFFER;
    int pair[2];
    struct link_msg m = message(p, LINK_SESSION_UP);

    m.dialled = dialled;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    CLEANUP_FD int ours = pair[0];
    CLEANUP_FD int theirs = pair[1];
    (void)setsockopt(ours, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    (void)setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    pthread_mutex_lock(&p->lock);
    int r = io_send_fd(p->link->control_fd, &m, sizeof m, theirs);
    if (r == 0) {
        if (p->current)
            session_stop(p->current);
        p->current = s;
        p->told_code = 0;
        p->told[0] = 0;
    }
    pthread_mutex_unlock(&p->lock);
    if (r)
        return r;
    log_info("%s: session up (%s)", p->config->name, dialled ? "dialled" : "accepted");
    *fd = take_fd(&ours);
    return 0;
}

static void tell_down(struct peer *p, int code, const char *text)
{
    struct link_msg m = message(p, LINK_PEER_DOWN);

    if (p->told_code == code && strcmp(p->told, text) == 0)
        return;
    p->told_code = code;
    snprintf(p->told, sizeof p->told, "%s", text);
    m.code = code;
    snprintf(m.text, sizeof m.text, "%s", text);
    log_info("%s: %s", p->config->name, text);
    if (!inform(p, &m))
        p->told_code = 0; /* said again next time */
}

void peer_down(struct peer *p, struct session *s, int code, const char *text)
{
    if (!text[0])
        text = err_text(code);
    pthread_mutex_lock(&p->lock);
    if (s && (code == FARM_EPROTO || code == FARM_ECORRUPT || code == FARM_EVERSION)) {
        struct link_msg m = message(p, LINK_PEER_ERROR);
        m.code = code;
        snprintf(m.text, sizeof m.text, "%s", text);
        log_warn("%s: session dropped: %s", p->config->name, text);
        (void)inform(p, &m);
    }
    /* While another session lives the peer is not down, whatever became of this attempt. */
    if (p->current == s || !p->current) {
        p->current = NULL;
        tell_down(p, code, text);
    }
    pthread_mutex_unlock(&p->lock);
}

void peer_rtt(struct peer *p, uint32_t rtt_us)
{
    struct link_msg m = message(p, LINK_PEER_RTT);

    m.rtt_us = rtt_us;
    (void)inform(p, &m);
}

void peer_drop(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    if (p->current)
        session_stop(p->current);
    pthread_mutex_unlock(&p->lock);
}

void peer_retry(struct peer *p)
{
    (void)!eventfd_write(p->wake, 1);
}
