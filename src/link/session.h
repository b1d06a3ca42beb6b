/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * One session: moves frames between a transport and the worker until either ends.
 *
 * A session is one thread that never blocks but in poll. It holds one frame of each direction, so
 * memory is bounded and a reader that does not read stops its own direction only.
 */
#ifndef LINK_SESSION_H
#define LINK_SESSION_H

#include "link/peer.h"
#include "link/transport.h"

#define SESSION_PING_US (250u * 1000)
#define SESSION_DEAD_US (1000u * 1000)
#define SESSION_FIRST_US (5u * 1000 * 1000) /* for sshd to log in and start the relay */

/* Runs the session to its end, tells the worker, closes the transport. True when it was a good one:
 * the peer answered, and it lasted. */
bool session_run(struct peer *p, struct transport *t, bool dialled);
/* From any thread that holds the peer's lock while the session is current. */
void session_stop(struct session *s);

#endif
