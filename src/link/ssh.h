/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Dialling: TCP, host key, login, the relay's command. libssh2 sessions are each one thread's. */
#ifndef LINK_SSH_H
#define LINK_SSH_H

#include "link/peer.h"
#include "link/transport.h"

/* Connects to the peer and starts `farmfs-relay FOLDER` there. On failure *text says why in one
 * line: FARM_EHOSTKEY (with the SHA256 fingerprint), FARM_EAUTH, -ETIMEDOUT, -ECONNREFUSED, ... */
FARM_MUSTUSE int ssh_dial(const struct peer *p, struct transport *t, char text[LINK_TEXT_MAX]);

#endif
