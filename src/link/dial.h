/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef LINK_DIAL_H
#define LINK_DIAL_H

#include "link/peer.h"

/* Starts the thread that keeps a session to this peer, for ever. */
FARM_MUSTUSE int dial_start(struct peer *p);
/* A detached thread. */
FARM_MUSTUSE int thread_start(void *(*run)(void *), void *arg);

#endif
