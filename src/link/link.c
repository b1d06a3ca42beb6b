/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/link.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "link/accept.h"
#include "link/dial.h"
#include "link/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libssh2.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define KEY_MAX (64u * 1024)
#define KNOWN_MAX (4u * 1024 * 1024)

int link_recv(int control_fd, struct link_msg *m, int *fd)
{
    struct link_msg got;
    size_t n;
    CLEANUP_FD int stream = -1;
    int r = io_recv_fd(control_fd, &got, sizeof got, &n, &stream);

    if (r)
        return r == -ECONNRESET ? FARM_ECLOSED : r; /* it went without reading its last messages */
    if (n != sizeof got || (got.type == LINK_SESSION_UP) != (stream >= 0))
        return FARM_EPROTO;
    got.peer[sizeof got.peer - 1] = 0;
    got.text[sizeof got.text - 1] = 0;
    *m = got;
    *fd = take_fd(&stream);
    return 0;
}

int link_send(int control_fd, enum link_msg_type type, const char *peer)
{
    struct link_msg m = {.type = type};

    snprintf(m.peer, sizeof m.peer, "%s", peer);
    return io_send_fd(control_fd, &m, sizeof m, -1);
}

/* The supervisor's descriptors came along by fork: the kernel's side of the mount is not for a
 * process that talks to strangers. */
static void close_others(int a, int b)
{
    unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);

    if (low > 3)
        (void)close_range(3, low - 1, 0);
    if (high > low + 1)
        (void)close_range(low + 1, high - 1, 0);
    (void)close_range(high + 1, UINT_MAX, 0);
}

static int read_secrets(struct link *l)
{
    size_t n;
    int r = io_read_file_at(AT_FDCWD, l->config->ssh_key, KEY_MAX, &l->key, &l->key_len);

    if (r) {
        log_error_code(r, "%s", l->config->ssh_key);
        return r;
    }
    r = io_read_file_at(AT_FDCWD, l->config->known_hosts, KNOWN_MAX, &l->known_hosts, &n);
    if (r == -ENOENT) { /* nobody is known: every dial will say so, with the fingerprint */
        l->known_hosts = strdup("");
        r = l->known_hosts ? 0 : -ENOMEM;
    }
    if (r)
        log_error_code(r, "%s", l->config->known_hosts);
    return r;
}

/* Become the login user for good. Not being root, we must be that user already. */
static int drop_privileges(struct link *l)
{
    static const struct rlimit none = {0, 0};
    struct passwd *pw = getpwnam(l->config->ssh_user);

    if (!pw || pw->pw_uid == 0) {
        log_error("ssh user %s: %s", l->config->ssh_user, pw ? "must not be root" : "no such user");
        return FARM_ECONFIG;
    }
    l->uid = pw->pw_uid;
    if (geteuid() == 0 &&
        (setgroups(1, &pw->pw_gid) < 0 || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) < 0 ||
         setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) < 0)) {
        log_error_code(-errno, "cannot become user %s", l->config->ssh_user);
        return -EPERM;
    }
    if (geteuid() != pw->pw_uid || getegid() != pw->pw_gid) {
        log_error("started neither as root nor as %s", l->config->ssh_user);
        return -EPERM;
    }
    /* Changing the user cleared the parent-death signal. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        return -errno;
    return 0;
}

static int on_control(struct link *l)
{
    struct link_msg m;
    int fd = -1;
    int r = link_recv(l->control_fd, &m, &fd);

    if (fd >= 0)
        close(fd);
    if (r)
        return r == FARM_EPROTO ? 0 : r;
    for (size_t i = 0; i < l->config->npeers; i++) {
        struct peer *p = &l->peers[i];
        if (m.peer[0] && strcmp(m.peer, p->config->name) != 0)
            continue;
        if (m.type == LINK_RETRY)
            peer_retry(p);
        if (m.type == LINK_DROP && m.peer[0])
            peer_drop(p);
    }
    return 0;
}

static int serve(struct link *l)
{
    struct pollfd fds[2] = {{.fd = l->control_fd, .events = POLLIN},
                            {.fd = l->listen_fd, .events = POLLIN}};

    for (;;) {
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (fds[0].revents) {
            int r = on_control(l);
            if (r)
                return r;
        }
        if (fds[1].revents)
            accept_relay(l);
    }
}

int link_main(const struct link_args *a)
{
    static struct link l; /* threads use it until the process is gone */

    l = (struct link){.config = a->config, .control_fd = a->control_fd, .listen_fd = a->listen_fd};
    close_others(a->control_fd, a->listen_fd);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is the supervisor's to handle */
    (void)signal(SIGHUP, SIG_IGN);
    int r = read_secrets(&l);
    r = r ? r : drop_privileges(&l);
    r = r ? r : peers_init(&l);
    if (r == 0 && libssh2_init(0))
        r = -ENOMEM;
    for (size_t i = 0; r == 0 && i < a->config->npeers; i++)
        if (config_dials(a->config, &a->config->peers[i]))
            r = dial_start(&l.peers[i]);
    if (r) {
        log_error_code(r, "link cannot start");
        return r;
    }
    r = serve(&l);
    log_debug("the worker is gone: link ends");
    _exit(r == FARM_ECLOSED ? 0 : 1); /* not exit: sessions' threads still run */
}
