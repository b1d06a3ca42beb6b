/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/accept.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "link/dial.h"
#include "link/session.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define HELLO_S 2
#define HELLO_MAX (2 * CONFIG_NAME_MAX + 3)

/* Relays being served; one per peer is normal, two while one replaces the other. */
static atomic_uint serving;

struct relay {
    struct link *link;
    int sock;
};

static int take_stdio(int sock, char mark, int *fd)
{
    char got = 0;
    size_t n;
    int r = io_recv_fd(sock, &got, 1, &n, fd);

    if (r)
        return r;
    return got == mark && *fd >= 0 ? 0 : FARM_EPROTO;
}

/* "PEER FOLDER\n": both without blanks. */
static int read_line(int sock, char line[HELLO_MAX + 1])
{
    for (size_t n = 0; n < HELLO_MAX; n++) {
        int r = io_read_full(sock, line + n, 1);
        if (r)
            return r;
        if (line[n] == '\n') {
            line[n] = 0;
            return 0;
        }
    }
    return FARM_EPROTO;
}

static int refuse(int sock, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int refuse(int sock, const char *fmt, ...)
{
    char text[LINK_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_warn("relay refused: %s", text);
    (void)!send(sock, text, strlen(text), MSG_NOSIGNAL);
    return -EACCES;
}

/* Who is it, and may it? Both sides of a pair set to dial would replace each other's sessions for
 * ever: then the lesser name dials. */
static int find_peer(const struct link *l, int sock, char *line, struct peer **out)
{
    char *folder = strchr(line, ' ');

    if (!folder)
        return FARM_EPROTO;
    *folder++ = 0;
    if (strcmp(folder, l->config->folder) != 0)
        return refuse(sock, "folder %s is not served here", folder);
    struct peer *p = peer_find(l, line);
    if (!p)
        return refuse(sock, "%s is not a peer of %s in %s", line, l->config->node, folder);
    if (config_dials(l->config, p->config) && strcmp(l->config->node, line) < 0)
        return refuse(sock, "%s dials %s itself", l->config->node, line);
    *out = p;
    return 0;
}

static int take_hello(const struct relay *r, struct peer **p, int *in, int *out)
{
    static const struct timeval limit = {.tv_sec = HELLO_S};
    struct ucred who;
    socklen_t len = sizeof who;
    char line[HELLO_MAX + 1];

    if (getsockopt(r->sock, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
        return -errno;
    if (who.uid != r->link->uid)
        return refuse(r->sock, "a relay of user %u, not of %s", who.uid, r->link->config->ssh_user);
    (void)setsockopt(r->sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    int e = take_stdio(r->sock, 'i', in);
    e = e ? e : take_stdio(r->sock, 'o', out);
    e = e ? e : read_line(r->sock, line);
    return e ? e : find_peer(r->link, r->sock, line, p);
}

static void serve(const struct relay *r)
{
    CLEANUP_FD int in = -1;
    CLEANUP_FD int out = -1;
    struct peer *p = NULL;
    struct transport t;
    int e = take_hello(r, &p, &in, &out);

    if (e) {
        if (e != -EACCES)
            log_warn_code(e, "a relay that does not introduce itself");
        return;
    }
    transport_fds(&t, take_fd(&in), take_fd(&out));
    (void)session_run(p, &t, false);
}

static void *relay_thread(void *arg)
{
    struct relay *r = arg;

    serve(r);
    close(r->sock);
    free(r);
    atomic_fetch_sub(&serving, 1);
    return NULL;
}

void accept_relay(struct link *l)
{
    CLEANUP_FD int sock = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0) {
        (void)poll(NULL, 0, 10); /* out of descriptors, likely: the caller's poll would spin */
        return;
    }
    if (atomic_fetch_add(&serving, 1) >= 2 * l->config->npeers + 8) {
        atomic_fetch_sub(&serving, 1);
        (void)refuse(sock, "too many relays");
        return;
    }
    struct relay *r = malloc(sizeof *r);
    if (r)
        *r = (struct relay){.link = l, .sock = sock};
    if (!r || thread_start(relay_thread, r)) {
        log_error("no memory for a relay");
        free(r);
        atomic_fetch_sub(&serving, 1);
        return;
    }
    (void)take_fd(&sock);
}
