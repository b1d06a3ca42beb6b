/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The peers of one link process, and what the worker is told of them. A peer's lock orders what the
 * worker hears: never "down" of an old session after "up" of the one that replaced it.
 */
#ifndef LINK_PEER_H
#define LINK_PEER_H

#include "link/link.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct session;

struct link {
    const struct config *config;
    int control_fd;
    int listen_fd;
    uid_t uid; /* ours; relays must have it too */
    char *key; /* private key, as in its file */
    size_t key_len;
    char *known_hosts;
    struct peer *peers; /* config->npeers, same order */
};

struct peer {
    struct link *link;
    const struct config_peer *config;
    int wake; /* eventfd: dial at once */
    pthread_mutex_t lock;
    struct session *current; /* under lock: the session the worker has */
    int told_code;           /* under lock: the last PEER_DOWN */
    char told[LINK_TEXT_MAX];
};

FARM_MUSTUSE int peers_init(struct link *l);
struct peer *peer_find(const struct link *l, const char *name);
/* The session has been answered by the peer: give its stream to the worker and stop the session it
 * replaces. *fd: our end of the stream. */
FARM_MUSTUSE int peer_up(struct peer *p, struct session *s, bool dialled, int *fd);
/* The session is over (it need not have been up); text may be "". After this nobody but its own
 * thread knows it. */
void peer_down(struct peer *p, struct session *s, int code, const char *text);
void peer_rtt(struct peer *p, uint32_t rtt_us);
/* Ask the peer's session, if any, to end. */
void peer_drop(struct peer *p);
void peer_retry(struct peer *p);

#endif
