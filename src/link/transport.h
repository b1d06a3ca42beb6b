/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The byte stream to the peer's link: an SSH channel, or the two descriptors of a relay. */
#ifndef LINK_TRANSPORT_H
#define LINK_TRANSPORT_H

#include "base/err.h"

#include <libssh2.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

enum transport_op { OP_NONE, OP_READ, OP_WRITE };

struct transport {
    LIBSSH2_SESSION *ssh; /* NULL: a relay's descriptors */
    LIBSSH2_CHANNEL *channel;
    int rfd, wfd; /* the same socket for SSH; owned */
    /* SSH: the operation that left half a packet in the library. It must be repeated, with the same
     * arguments, before any other (libssh2 fails others with BAD_USE). */
    enum transport_op stuck;
    size_t stuck_len;
};

void transport_init(struct transport *t);
/* Takes two descriptors and makes them non-blocking. */
void transport_fds(struct transport *t, int rfd, int wfd);
/* Up to n bytes: count > 0, -EAGAIN, FARM_ECLOSED at the end of the stream, other errors. */
FARM_MUSTUSE ssize_t transport_read(struct transport *t, void *p, size_t n);
/* Count > 0, -EAGAIN, errors. After -EAGAIN the bytes must stay where they are, and the next write
 * must start with the same ones. */
FARM_MUSTUSE ssize_t transport_write(struct transport *t, const void *p, size_t n);
/* Is reading impossible until a half-written packet is out? */
bool transport_read_blocked(const struct transport *t);
/* Fills two entries for poll; an entry of no interest gets fd -1. */
void transport_poll(const struct transport *t, bool want_read, bool want_write,
                    struct pollfd fds[2]);
/* What the other side said on its error stream: its first line, or "". */
void transport_stderr(struct transport *t, char *text, size_t size);
void transport_close(struct transport *t);

#endif
