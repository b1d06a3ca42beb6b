/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The link process: all that is reachable from the network, without privileges. It dials peers by
 * SSH, takes over the streams of relays that the peers' SSH logins start here, and gives the worker
 * one stream socket per live session, carrying whole, validated, uncompressed frames.
 *
 *   worker <== control: SOCK_SEQPACKET, struct link_msg ==> link
 *   worker <== one SOCK_STREAM per session: frames ======> link <== ssh, or a relay's stdio ==>
 * peer
 *
 * Frames on a session's stream have flags 0; their guard is not checked by either side of this hop.
 * PING and PONG never appear on it. The worker ends a session by closing its stream; it sees the
 * end of one as end of file. A slow reader stops the session's own direction and nothing else.
 */
#ifndef LINK_LINK_H
#define LINK_LINK_H

#include "base/config.h"
#include "base/err.h"

#include <stdint.h>

#define LINK_TEXT_MAX 256

enum link_msg_type {
    /* To the worker. */
    LINK_SESSION_UP = 1, /* carries the session's stream (SCM_RIGHTS); an older stream of the same
                            peer is at its end. Sent once the peer's link has answered. */
    LINK_PEER_DOWN = 2,  /* no session, and why: an attempt failed or the session ended. Repeated
                            only when code or text change. */
    LINK_PEER_ERROR = 3, /* the peer sent what a correct one never does; its session was dropped */
    LINK_PEER_RTT = 4,   /* round trip link to link, at most every second */
    /* To the link. */
    LINK_RETRY = 5, /* dial at once, whatever the backoff; peer "": all of them */
    LINK_DROP = 6,  /* end the peer's session (the dialling side dials again after its backoff) */
};

/* One datagram. Both ends are the same build on the same machine. */
struct link_msg {
    uint32_t type;    /* enum link_msg_type */
    int32_t code;     /* PEER_DOWN, PEER_ERROR: why, base/err.h */
    uint32_t dialled; /* SESSION_UP: 1 we dialled, 0 we accepted */
    uint32_t rtt_us;  /* PEER_RTT */
    char peer[CONFIG_NAME_MAX + 1];
    char text[LINK_TEXT_MAX]; /* PEER_DOWN, PEER_ERROR: one line for people */
};

struct link_args {
    const struct config *config;
    int control_fd; /* SOCK_SEQPACKET to the worker; end of file there ends the link */
    int listen_fd;  /* listening Unix stream socket <run-dir>/<folder>.sock, for relays */
};

/*
 * The whole life of the process, called in a child of the supervisor. Started as root it reads the
 * key and the known hosts, then becomes config->ssh_user for good; every descriptor but 0 to 2 and
 * the two given is closed. Does not return while the worker lives. 0, or negative when it could not
 * start (logged).
 */
FARM_MUSTUSE int link_main(const struct link_args *a);

/* Receives one message from the link. *fd: the stream of SESSION_UP, else -1. FARM_ECLOSED when the
 * link is gone; FARM_EPROTO. */
FARM_MUSTUSE int link_recv(int control_fd, struct link_msg *m, int *fd);
/* Sends LINK_RETRY or LINK_DROP. */
FARM_MUSTUSE int link_send(int control_fd, enum link_msg_type type, const char *peer);

#endif
