/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIPE_BUFFER (256 * 1024)

void transport_init(struct transport *t)
{
    memset(t, 0, sizeof *t);
    t->rfd = t->wfd = -1;
}

void transport_fds(struct transport *t, int rfd, int wfd)
{
    static const int size = PIPE_BUFFER;

    transport_init(t);
    t->rfd = rfd;
    t->wfd = wfd;
    (void)fcntl(rfd, F_SETFL, fcntl(rfd, F_GETFL) | O_NONBLOCK);
    (void)fcntl(wfd, F_SETFL, fcntl(wfd, F_GETFL) | O_NONBLOCK);
    /* sshd gives its commands pipes or a socket pair: more room means fewer wake-ups. Best effort.
     */
    (void)setsockopt(wfd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    (void)fcntl(wfd, F_SETPIPE_SZ, size);
    (void)fcntl(rfd, F_SETPIPE_SZ, size);
}

static ssize_t fd_result(ssize_t r)
{
    if (r > 0)
        return r;
    if (r == 0)
        return FARM_ECLOSED;
    return errno == EINTR || errno == EAGAIN ? -EAGAIN : -errno;
}

static ssize_t ssh_result(struct transport *t, enum transport_op op, size_t n, ssize_t r)
{
    int out = libssh2_session_block_directions(t->ssh) & LIBSSH2_SESSION_BLOCK_OUTBOUND;

    t->stuck = OP_NONE;
    if (r == LIBSSH2_ERROR_EAGAIN || (r == 0 && op == OP_WRITE)) {
        if (out) {
            t->stuck = op;
            t->stuck_len = n;
        }
        return -EAGAIN;
    }
    if (r == LIBSSH2_ERROR_SOCKET_DISCONNECT || r == LIBSSH2_ERROR_SOCKET_RECV ||
        r == LIBSSH2_ERROR_SOCKET_SEND || r == LIBSSH2_ERROR_CHANNEL_CLOSED || r == 0)
        return FARM_ECLOSED;
    return r < 0 ? FARM_EPROTO : r;
}

ssize_t transport_read(struct transport *t, void *p, size_t n)
{
    if (!t->ssh)
        return fd_result(read(t->rfd, p, n));
    if (t->stuck == OP_WRITE)
        return -EAGAIN;
    return ssh_result(t, OP_READ, n, libssh2_channel_read(t->channel, p, n));
}

ssize_t transport_write(struct transport *t, const void *p, size_t n)
{
    if (!t->ssh)
        return fd_result(write(t->wfd, p, n));
    if (t->stuck == OP_READ)
        return -EAGAIN;
    if (t->stuck == OP_WRITE)
        n = t->stuck_len;
    return ssh_result(t, OP_WRITE, n, libssh2_channel_write(t->channel, p, n));
}

bool transport_read_blocked(const struct transport *t)
{
    return t->stuck == OP_WRITE;
}

void transport_poll(const struct transport *t, bool want_read, bool want_write,
                    struct pollfd fds[2])
{
    fds[0] = (struct pollfd){.fd = -1};
    fds[1] = (struct pollfd){.fd = -1};
    if (!t->ssh) {
        if (want_read)
            fds[0] = (struct pollfd){.fd = t->rfd, .events = POLLIN};
        if (want_write)
            fds[1] = (struct pollfd){.fd = t->wfd, .events = POLLOUT};
        return;
    }
    /* A write that is not stuck waits for the peer's window, which comes in by reading. */
    short events = 0;
    if (t->stuck != OP_NONE)
        events |= POLLOUT;
    if (t->stuck != OP_WRITE && (want_read || want_write))
        events |= POLLIN;
    if (events)
        fds[0] = (struct pollfd){.fd = t->rfd, .events = events};
}

/* One line of printable text of what a stranger wrote. */
static void clean_line(char *text)
{
    text[strcspn(text, "\r\n")] = 0;
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

void transport_stderr(struct transport *t, char *text, size_t size)
{
    text[0] = 0;
    if (!t->ssh || t->stuck != OP_NONE)
        return;
    ssize_t n = libssh2_channel_read_stderr(t->channel, text, size - 1);
    text[n > 0 ? n : 0] = 0;
    clean_line(text);
}

void transport_close(struct transport *t)
{
    if (t->ssh) {
        /* The library's teardown would wait for the peer; a socket that is shut never makes it. */
        (void)shutdown(t->rfd, SHUT_RDWR);
        for (int i = 0; i < 8 && libssh2_session_free(t->ssh) == LIBSSH2_ERROR_EAGAIN; i++)
            ;
    }
    if (t->rfd >= 0)
        close(t->rfd);
    if (t->wfd >= 0 && t->wfd != t->rfd)
        close(t->wfd);
    transport_init(t);
}
