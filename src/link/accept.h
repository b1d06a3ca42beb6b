/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Relays: each connects to the link's Unix socket and sends
 *   "i" with its standard input, "o" with its standard output (SCM_RIGHTS), "PEER FOLDER\n"
 * then waits. The link closing the connection ends the relay; a line sent before that is an error
 * for the relay to print.
 */
#ifndef LINK_ACCEPT_H
#define LINK_ACCEPT_H

#include "link/peer.h"

/* Takes one waiting connection and serves it on a thread of its own. */
void accept_relay(struct link *l);

#endif
