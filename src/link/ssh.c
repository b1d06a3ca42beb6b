/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/ssh.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECT_US (3u * 1000 * 1000)
#define LOGIN_US (5u * 1000 * 1000)
#define USER_TIMEOUT_MS 1500u     /* unacknowledged for so long: the path is dead */
#define UNSENT_MAX (256 * 1024)   /* queued in the kernel: enough for the wire, short for a ping */
#define WINDOW (4u * 1024 * 1024) /* RFC 4254 5.2; 40 ms at 100 MB/s */
#define PACKET 32768u             /* what sshd accepts in one */
#define HOST_MAX 300

struct dial {
    const struct peer *peer;
    const struct config_peer *to;
    struct transport *t;
    int fd;
    uint64_t deadline_us;
    char *text;
};

static int say(const struct dial *d, int code, const char *step)
{
    snprintf(d->text, LINK_TEXT_MAX, "%s:%u: %s: %s", d->to->address, d->to->port, step,
             code == -ETIMEDOUT ? "no answer in time" : err_text(code));
    return code;
}

/* The library's own words when it has some. */
static int say_ssh(const struct dial *d, int code, const char *step)
{
    char *words = NULL;

    libssh2_session_last_error(d->t->ssh, &words, NULL, 0);
    snprintf(d->text, LINK_TEXT_MAX, "%s:%u: %s: %.160s", d->to->address, d->to->port, step,
             words && words[0] ? words : err_text(code));
    return code;
}

static int poll_until(int fd, short events, uint64_t deadline_us)
{
    for (;;) {
        uint64_t now = clock_mono(&clock_system);
        if (now >= deadline_us)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = fd, .events = events};
        int r = poll(&p, 1, (int)((deadline_us - now) / 1000) + 1);
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return -errno;
    }
}

static int connect_one(const struct addrinfo *ai, uint64_t deadline_us, int *out)
{
    CLEANUP_FD int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err = 0;
    socklen_t len = sizeof err;

    if (fd < 0)
        return -errno;
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
        if (errno != EINPROGRESS)
            return -errno;
        int r = poll_until(fd, POLLOUT, deadline_us);
        if (r)
            return r;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
            return -errno;
        if (err)
            return -err;
    }
    *out = take_fd(&fd);
    return 0;
}

static int tcp_connect(struct dial *d)
{
    static const int on = 1, unsent = UNSENT_MAX;
    static const unsigned timeout = USER_TIMEOUT_MS;
    struct addrinfo want = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    char port[8];

    snprintf(port, sizeof port, "%u", d->to->port);
    int r = getaddrinfo(d->to->address, port, &want, &list);
    if (r) {
        snprintf(d->text, LINK_TEXT_MAX, "%s: %s", d->to->address, gai_strerror(r));
        return -EHOSTUNREACH;
    }
    d->deadline_us = clock_mono(&clock_system) + CONNECT_US;
    r = -EHOSTUNREACH;
    for (struct addrinfo *ai = list; ai && r && r != -ETIMEDOUT; ai = ai->ai_next)
        r = connect_one(ai, d->deadline_us, &d->fd);
    freeaddrinfo(list);
    if (r)
        return say(d, r, "connect");
    (void)setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(d->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    (void)setsockopt(d->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    return 0;
}

/* After LIBSSH2_ERROR_EAGAIN: until the socket is ready for what the library wants of it. */
static int wait_ssh(const struct dial *d)
{
    int dir = libssh2_session_block_directions(d->t->ssh);
    short events = (short)((dir & LIBSSH2_SESSION_BLOCK_OUTBOUND ? POLLOUT : 0) |
                           (dir & LIBSSH2_SESSION_BLOCK_OUTBOUND ? 0 : POLLIN));

    return poll_until(d->fd, events, d->deadline_us);
}

/* Runs a library call until it is done: *r its result, *e 0 or why waiting ended. */
#define SSH_RUN(d, r, e, call)                                                     \
    do {                                                                           \
        (e) = 0;                                                                   \
        while (((r) = (call)) == LIBSSH2_ERROR_EAGAIN && ((e) = wait_ssh(d)) == 0) \
            ;                                                                      \
    } while (0)

#define KNOWN_LINE_MAX 4096u

static const struct {
    int mask;           /* in known hosts */
    const char *method; /* the host key algorithm to ask for */
} key_types[] = {
    {LIBSSH2_KNOWNHOST_KEY_ED25519, "ssh-ed25519"},
    {LIBSSH2_KNOWNHOST_KEY_ECDSA_256, "ecdsa-sha2-nistp256"},
    {LIBSSH2_KNOWNHOST_KEY_ECDSA_384, "ecdsa-sha2-nistp384"},
    {LIBSSH2_KNOWNHOST_KEY_ECDSA_521, "ecdsa-sha2-nistp521"},
    {LIBSSH2_KNOWNHOST_KEY_SSHRSA, "rsa-sha2-512"},
    {LIBSSH2_KNOWNHOST_KEY_SSHRSA, "rsa-sha2-256"},
    {LIBSSH2_KNOWNHOST_KEY_SSHRSA, "ssh-rsa"},
};
#define KEY_TYPES (sizeof key_types / sizeof *key_types)

/* libssh2 1.10 drops the last byte of a key that ends the line without a comment or a newline. */
static void load_known(const struct dial *d, LIBSSH2_KNOWNHOSTS *known)
{
    char text[KNOWN_LINE_MAX];
    unsigned line = 0;

    for (const char *p = d->peer->link->known_hosts; *p;) {
        size_t n = strcspn(p, "\n");
        line++;
        int len = snprintf(text, sizeof text, "%.*s\n", (int)n, p);
        if (n && p[0] != '#' && strspn(p, " \t\r") < n &&
            ((size_t)len >= sizeof text ||
             libssh2_knownhost_readline(known, text, (size_t)len, LIBSSH2_KNOWNHOST_FILE_OPENSSH)))
            log_warn("%s:%u: line not understood, ignored", d->peer->link->config->known_hosts,
                     line);
        p += n + (p[n] == '\n');
    }
}

/* libssh2 1.10 copies over itself when it drops an algorithm it does not know: name none such. */
static bool supported(const char *const *algs, int n, const char *method)
{
    for (int i = 0; i < n; i++)
        if (strcmp(algs[i], method) == 0)
            return true;
    return false;
}

/* A server with several host keys shows the one we ask for first: ask for one we know, or a pinned
 * host would look changed. Hashed entries have no name to compare and count for every host. */
static void prefer_known(const struct dial *d, LIBSSH2_KNOWNHOSTS *known)
{
    struct libssh2_knownhost *e = NULL, *prev = NULL;
    char bracketed[HOST_MAX], methods[256] = "";
    bool have[KEY_TYPES] = {false};
    const char **algs = NULL;

    snprintf(bracketed, sizeof bracketed, "[%s]:%u", d->to->address, d->to->port);
    while (libssh2_knownhost_get(known, &e, prev) == 0) {
        prev = e;
        if (e->name && strcmp(e->name, d->to->address) != 0 && strcmp(e->name, bracketed) != 0)
            continue;
        for (size_t i = 0; i < KEY_TYPES; i++)
            have[i] |= (e->typemask & LIBSSH2_KNOWNHOST_KEY_MASK) == key_types[i].mask;
    }
    int n = libssh2_session_supported_algs(d->t->ssh, LIBSSH2_METHOD_HOSTKEY, &algs);
    if (n <= 0)
        return;
    for (int pass = 1; pass >= 0; pass--)
        for (size_t i = 0; i < KEY_TYPES; i++)
            if (have[i] == pass && supported(algs, n, key_types[i].method))
                snprintf(methods + strlen(methods), sizeof methods - strlen(methods), "%s%s",
                         methods[0] ? "," : "", key_types[i].method);
    libssh2_free(d->t->ssh, algs);
    (void)libssh2_session_method_pref(d->t->ssh, LIBSSH2_METHOD_HOSTKEY, methods);
}

/* As ssh-keygen -l prints it: base64 without padding. */
static void fingerprint(LIBSSH2_SESSION *ssh, char out[64])
{
    const char *hash = libssh2_hostkey_hash(ssh, LIBSSH2_HOSTKEY_HASH_SHA256);

    snprintf(out, 64, "unknown");
    if (hash) {
        EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)hash, 32);
        out[strcspn(out, "=")] = 0;
    }
}

static int check_host(const struct dial *d, LIBSSH2_KNOWNHOSTS *known)
{
    size_t len;
    int type;
    char print[64];
    const char *key = libssh2_session_hostkey(d->t->ssh, &len, &type);

    if (!key)
        return say_ssh(d, FARM_EHOSTKEY, "host key");
    int r =
        libssh2_knownhost_checkp(known, d->to->address, d->to->port, key, len,
                                 LIBSSH2_KNOWNHOST_TYPE_PLAIN | LIBSSH2_KNOWNHOST_KEYENC_RAW, NULL);
    if (r == LIBSSH2_KNOWNHOST_CHECK_MATCH)
        return 0;
    fingerprint(d->t->ssh, print);
    snprintf(d->text, LINK_TEXT_MAX, "%s:%u: host key %s: SHA256:%s (%s)", d->to->address,
             d->to->port, r == LIBSSH2_KNOWNHOST_CHECK_MISMATCH ? "changed" : "unknown", print,
             d->peer->link->config->known_hosts);
    return FARM_EHOSTKEY;
}

static int handshake(struct dial *d)
{
    int r, e;
    LIBSSH2_KNOWNHOSTS *known = libssh2_knownhost_init(d->t->ssh);

    if (!known)
        return -ENOMEM;
    load_known(d, known);
    prefer_known(d, known);
    SSH_RUN(d, r, e, libssh2_session_handshake(d->t->ssh, d->fd));
    if (e)
        r = say(d, e, "ssh handshake");
    else
        r = r ? say_ssh(d, FARM_EPROTO, "ssh handshake") : check_host(d, known);
    libssh2_knownhost_free(known);
    return r;
}

static int login(struct dial *d)
{
    const struct link *l = d->peer->link;
    const char *user = l->config->ssh_user;
    int r, e;

    SSH_RUN(d, r, e,
            libssh2_userauth_publickey_frommemory(d->t->ssh, user, strlen(user), NULL, 0, l->key,
                                                  l->key_len, NULL));
    if (e)
        return say(d, e, "login");
    if (r == LIBSSH2_ERROR_AUTHENTICATION_FAILED || r == LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED) {
        snprintf(d->text, LINK_TEXT_MAX, "%s:%u: the peer refuses our key %s for user %s",
                 d->to->address, d->to->port, l->config->ssh_key, user);
        return FARM_EAUTH;
    }
    return r ? say_ssh(d, FARM_EAUTH, "login") : 0;
}

static int start_relay(struct dial *d)
{
    char command[32 + CONFIG_NAME_MAX];
    int r, e = 0;

    while (!(d->t->channel =
                 libssh2_channel_open_ex(d->t->ssh, "session", 7, WINDOW, PACKET, NULL, 0))) {
        if (libssh2_session_last_errno(d->t->ssh) != LIBSSH2_ERROR_EAGAIN)
            return say_ssh(d, FARM_EPROTO, "open channel");
        e = wait_ssh(d);
        if (e)
            return say(d, e, "open channel");
    }
    int n = snprintf(command, sizeof command, "farmfs-relay %s", d->peer->link->config->folder);
    SSH_RUN(d, r, e,
            libssh2_channel_process_startup(d->t->channel, "exec", 4, command, (unsigned)n));
    if (e)
        return say(d, e, "start relay");
    return r ? say_ssh(d, FARM_EPROTO, "start relay") : 0;
}

int ssh_dial(const struct peer *p, struct transport *t, char text[LINK_TEXT_MAX])
{
    struct dial d = {.peer = p, .to = p->config, .t = t, .fd = -1, .text = text};

    text[0] = 0;
    transport_init(t);
    int r = tcp_connect(&d);
    if (r)
        return r;
    t->rfd = t->wfd = d.fd;
    t->ssh = libssh2_session_init();
    if (!t->ssh) {
        transport_close(t);
        return -ENOMEM;
    }
    libssh2_session_set_blocking(t->ssh, 0);
    d.deadline_us = clock_mono(&clock_system) + LOGIN_US;
    r = handshake(&d);
    r = r ? r : login(&d);
    r = r ? r : start_relay(&d);
    if (r)
        transport_close(t);
    return r;
}
