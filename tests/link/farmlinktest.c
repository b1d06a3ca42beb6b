/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Real link processes through a real sshd on 127.0.0.1: sessions, refusals, garbage, rates, deaths.
 * Needs root and an account `farmfs`. usage: farmlinktest RELAY-BINARY
 */
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "link/link.h"
#include "wire/msg.h"

#include "wire/frame.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SKIPPED 77
#define USER "farmfs"
#define UP_MS 15000
#define CHUNK (256u * 1024)
#define BULK (256u * 1024 * 1024)

struct node {
    struct config config;
    struct config_peer peers[2];
    char run_dir[128], key[128], known[128];
    int control; /* ours: the worker's end */
    pid_t pid;
};

static char dir[64];
static struct passwd *user;
static pid_t sshd[2];
static uint16_t port[2];
static int slow; /* built with a sanitizer: figures are not judged */

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *fmt, ...)
{
    char command[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    return system(command);
}

static uint64_t now_us(void)
{
    return clock_mono(&clock_system);
}

static void write_file(const char *name, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void write_file(const char *name, const char *fmt, ...)
{
    char path[256];
    va_list ap;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    va_start(ap, fmt);
    vfprintf(f, fmt, ap);
    va_end(ap);
    fclose(f);
}

static char *read_line_of(const char *name)
{
    char path[256], *data;
    size_t n;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(io_read_file_at(AT_FDCWD, path, 65536, &data, &n), 0);
    data[strcspn(data, "\n")] = 0;
    return data;
}

static uint16_t free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static int can_connect(uint16_t to)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(to), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;

    close(fd);
    return ok;
}

/* Number i serves the run directory run<i>; sshd 1 that of gamma, run2. */
static void start_sshd(int i, const char *option)
{
    char name[32], config[128];
    char *key = read_line_of("id.pub");

    port[i] = free_port();
    snprintf(name, sizeof name, "authorized%d", i);
    write_file(name, "restrict,command=\"%s/farmfs-relay --peer alpha --run-dir %s/run%d\" %s\n",
               dir, dir, i ? 2 : 0, key);
    free(key);
    snprintf(name, sizeof name, "sshd%d.conf", i);
    write_file(name,
               "Port %u\nListenAddress 127.0.0.1\nHostKey %s/host\nHostKey %s/host_ecdsa\n"
               "AuthorizedKeysFile %s/authorized%d\nStrictModes no\nUsePAM no\nPidFile none\n"
               "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n",
               port[i], dir, dir, dir, i);
    snprintf(config, sizeof config, "%s/%s", dir, name);
    sshd[i] = fork();
    if (sshd[i] == 0) {
        execl("/usr/sbin/sshd", "/usr/sbin/sshd", "-D", "-q", "-f", config, "-o", option,
              (char *)NULL);
        _exit(127);
    }
    for (int n = 0; n < 100 && !can_connect(port[i]); n++)
        usleep(50000);
}

static int listen_unix(const char *run_dir)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(a.sun_path, sizeof a.sun_path, "%.80s/www.sock", run_dir);
    unlink(a.sun_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(chown(a.sun_path, user->pw_uid, user->pw_gid), 0);
    assert_int_equal(chmod(a.sun_path, 0600), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

/* A node called `name` whose relays' directory is run<i>; peers are added by the caller. */
static void node_init(struct node *n, const char *name, int i)
{
    memset(n, 0, sizeof *n);
    snprintf(n->config.node, sizeof n->config.node, "%s", name);
    snprintf(n->config.folder, sizeof n->config.folder, "www");
    snprintf(n->run_dir, sizeof n->run_dir, "%s/run%d", dir, i);
    snprintf(n->key, sizeof n->key, "%s/id", dir);
    snprintf(n->known, sizeof n->known, "%s/known", dir);
    n->config.run_dir = n->run_dir;
    n->config.ssh_key = n->key;
    n->config.known_hosts = n->known;
    n->config.ssh_user = (char *)(uintptr_t)USER;
    n->config.peers = n->peers;
}

static void node_peer(struct node *n, const char *name, uint16_t to, enum config_connect connect)
{
    struct config_peer *p = &n->peers[n->config.npeers++];

    snprintf(p->name, sizeof p->name, "%s", name);
    p->address = (char *)(uintptr_t) "127.0.0.1";
    p->port = to;
    p->connect = connect;
}

static void node_start(struct node *n)
{
    int pair[2], listener = listen_unix(n->run_dir);

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    n->pid = fork();
    assert_true(n->pid >= 0);
    if (n->pid == 0) {
        char name[80];
        snprintf(name, sizeof name, "%s link", n->config.node);
        log_init(name, getenv("LINK_DEBUG") ? LOG_INFO_ : LOG_ERROR_);
        struct link_args a = {&n->config, pair[1], listener};
        _exit(link_main(&a) ? 1 : 0);
    }
    close(pair[1]);
    close(listener);
    n->control = pair[0];
}

/* The link must end by itself when the worker goes. */
static void node_stop(struct node *n)
{
    int status = -1;

    if (n->pid <= 0)
        return;
    kill(n->pid, SIGCONT);
    close(n->control);
    uint64_t end = now_us() + 5000000;
    pid_t got;
    while ((got = waitpid(n->pid, &status, WNOHANG)) == 0 && now_us() < end)
        usleep(1000);
    assert_int_equal(got, n->pid);
    n->pid = 0;
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
}

/* Next message of that type; others are passed over. */
static int wait_msg(struct node *n, uint32_t type, int ms, struct link_msg *m, int *fd)
{
    uint64_t end = now_us() + (uint64_t)ms * 1000;

    while (now_us() < end) {
        struct pollfd p = {.fd = n->control, .events = POLLIN};
        if (poll(&p, 1, (int)((end - now_us()) / 1000) + 1) <= 0)
            continue;
        int r = link_recv(n->control, m, fd);
        if (r)
            return r;
        if (m->type == type)
            return 0;
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
    }
    return -ETIMEDOUT;
}

static int wait_up(struct node *n, const char *peer)
{
    struct link_msg m;
    int fd = -1;

    assert_int_equal(wait_msg(n, LINK_SESSION_UP, UP_MS, &m, &fd), 0);
    assert_string_equal(m.peer, peer);
    assert_true(fd >= 0);
    return fd;
}

static void wait_down(struct node *n, int ms, struct link_msg *m)
{
    int fd = -1;

    assert_int_equal(wait_msg(n, LINK_PEER_DOWN, ms, m, &fd), 0);
}

/* alpha dials beta through sshd 0. */
static void pair_start(struct node *a, struct node *b, int *sa, int *sb)
{
    node_init(a, "alpha", 1);
    node_peer(a, "beta", port[0], CONNECT_AUTO);
    node_init(b, "beta", 0);
    node_peer(b, "alpha", 1, CONNECT_AUTO);
    node_start(b);
    node_start(a);
    *sa = wait_up(a, "beta");
    *sb = wait_up(b, "alpha");
}

static void pair_stop(struct node *a, struct node *b, int sa, int sb)
{
    close(sa);
    close(sb);
    node_stop(a);
    node_stop(b);
}

/* A DATA frame as a worker writes it. */
static size_t data_frame(uint8_t *out, const uint8_t *bytes, uint32_t len)
{
    struct buf b;
    struct msg_data m = {
        .transfer = 1, .rid = {1, 2}, .size = 1u << 30, .len = len, .bytes = bytes};

    buf_init(&b, FRAME_MAX);
    msg_data_put(&b, &m);
    assert_int_equal(b.err, 0);
    frame_header_put(out, FRAME_DATA, 0, (uint32_t)b.len, b.data, (uint32_t)b.len);
    memset(out + 16, 0, 8); /* the guard may be missing on this hop */
    memcpy(out + FRAME_HEADER, b.data, b.len);
    size_t n = FRAME_HEADER + b.len;
    buf_fini(&b);
    return n;
}

static size_t ack_frame(uint8_t out[128], uint64_t pos)
{
    struct buf b;
    struct msg_ack m = {.pos = pos};

    buf_init(&b, 100);
    msg_ack_put(&b, &m);
    frame_header_put(out, FRAME_ACK, 0, (uint32_t)b.len, b.data, (uint32_t)b.len);
    memcpy(out + FRAME_HEADER, b.data, b.len);
    size_t n = FRAME_HEADER + b.len;
    buf_fini(&b);
    return n;
}

static void expect_bytes(int fd, const uint8_t *want, size_t n)
{
    uint8_t *got = malloc(n);

    assert_non_null(got);
    assert_int_equal(io_read_full(fd, got, n), 0);
    assert_memory_equal(got, want, 16);
    assert_memory_equal(got + FRAME_HEADER, want + FRAME_HEADER, n - FRAME_HEADER);
    free(got);
}

/* Text is of 16 letters: it shrinks to half, and takes its time. */
static void fill(uint8_t *p, size_t n, int random)
{
    io_random(p, n);
    for (size_t i = 0; i < n && !random; i++)
        p[i] = (uint8_t)('a' + p[i] % 16);
}

static void round_trips(void **state)
{
    static const uint32_t sizes[] = {0, 1, 455, 470, 5000, 20000, CHUNK, FRAME_MAX - 100};
    struct node a, b;
    int sa, sb;
    uint8_t *bytes = malloc(FRAME_MAX), *frame = malloc(FRAME_MAX + FRAME_HEADER);

    (void)state;
    pair_start(&a, &b, &sa, &sb);
    for (int random = 0; random < 2; random++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            fill(bytes, sizes[i], random);
            size_t n = data_frame(frame, bytes, sizes[i]);
            for (int way = 0; way < 2; way++) {
                pid_t writer = fork(); /* larger than the sockets hold */
                if (writer == 0)
                    _exit(io_write_full(way ? sb : sa, frame, n) != 0);
                expect_bytes(way ? sa : sb, frame, n);
                assert_int_equal(waitpid(writer, NULL, 0), writer);
            }
        }
    pair_stop(&a, &b, sa, sb);
    free(bytes);
    free(frame);
}

/* One way, n bytes of payload in chunks; returns MB/s. Reads in this process, writes in another. */
static double transfer(int from, int to, const uint8_t *frame, size_t len, uint64_t total)
{
    static uint8_t sink[CHUNK];
    uint64_t count = total / CHUNK, left = count * len, start = now_us();
    pid_t writer = fork();

    if (writer == 0) {
        for (uint64_t i = 0; i < count; i++)
            if (io_write_full(from, frame, len))
                _exit(1);
        _exit(0);
    }
    while (left) {
        ssize_t n = read(to, sink, sizeof sink);
        assert_true(n > 0);
        left -= (uint64_t)n;
    }
    assert_int_equal(waitpid(writer, NULL, 0), writer);
    return (double)total / (double)(now_us() - start);
}

static void rates(void **state)
{
    struct node a, b;
    int sa, sb;
    uint64_t total = slow ? BULK / 16 : BULK;
    uint8_t *bytes = malloc(CHUNK), *frame = malloc(CHUNK + 4096);

    (void)state;
    pair_start(&a, &b, &sa, &sb);
    for (int random = 1; random >= 0; random--) {
        fill(bytes, CHUNK, random);
        size_t n = data_frame(frame, bytes, CHUNK);
        double out = transfer(sa, sb, frame, n, total), in = transfer(sb, sa, frame, n, total);
        printf("    %s data: dialler to acceptor %.0f MB/s, back %.0f MB/s\n",
               random ? "random" : "text", out, in);
    }
    pair_stop(&a, &b, sa, sb);
    free(bytes);
    free(frame);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* There and back, both ends in this process. p50 in us. */
static uint64_t latency(int sa, int sb, unsigned n, uint64_t *p99)
{
    static uint64_t us[4000];
    uint8_t frame[128], got[128];

    for (unsigned i = 0; i < n; i++) {
        size_t len = ack_frame(frame, i);
        uint64_t start = now_us();
        assert_int_equal(io_write_full(sa, frame, len), 0);
        assert_int_equal(io_read_full(sb, got, len), 0);
        assert_int_equal(io_write_full(sb, got, len), 0);
        assert_int_equal(io_read_full(sa, got, len), 0);
        us[i] = now_us() - start;
        assert_memory_equal(got + FRAME_HEADER, frame + FRAME_HEADER, len - FRAME_HEADER);
    }
    qsort(us, n, sizeof *us, by_value);
    *p99 = us[n * 99 / 100];
    return us[n / 2];
}

static void latencies(void **state)
{
    struct node a, b;
    int sa, sb, fd = -1;
    struct link_msg m;
    uint64_t p99;

    (void)state;
    pair_start(&a, &b, &sa, &sb);
    uint64_t p50 = latency(sa, sb, slow ? 300 : 4000, &p99);
    assert_int_equal(wait_msg(&a, LINK_PEER_RTT, 3000, &m, &fd), 0);
    printf("    worker to worker and back: p50 %llu us, p99 %llu us; link reports %u us\n",
           (unsigned long long)p50, (unsigned long long)p99, m.rtt_us);
    assert_string_equal(m.peer, "beta");
    assert_true(m.rtt_us > 0 && m.rtt_us < 1000000);
    pair_stop(&a, &b, sa, sb);
}

/* Dials with the given known hosts and key; what the worker is told. */
static void expect_refused(const char *known, const char *key, int code, const char *words)
{
    struct node a;
    struct link_msg m;

    node_init(&a, "alpha", 1);
    node_peer(&a, "beta", port[0], CONNECT_AUTO);
    snprintf(a.known, sizeof a.known, "%s/%s", dir, known);
    snprintf(a.key, sizeof a.key, "%s/%s", dir, key);
    node_start(&a);
    wait_down(&a, UP_MS, &m);
    assert_int_equal(m.code, code);
    if (!strstr(m.text, words))
        fail_msg("'%s' is not in '%s'", words, m.text);
    node_stop(&a);
}

static void refusals(void **state)
{
    (void)state;
    assert_int_equal(run("ssh-keygen -lf %s/host | cut -d' ' -f2 > %s/print", dir, dir), 0);
    char *print = read_line_of("print"), words[128];
    snprintf(words, sizeof words, "host key unknown: %s", print);
    write_file("nobody", "# empty\n");
    expect_refused("nobody", "id", FARM_EHOSTKEY, words);
    expect_refused("missing", "id", FARM_EHOSTKEY, words);

    char *other = read_line_of("other.pub");
    write_file("wrong", "[127.0.0.1]:%u %s\n", port[0], other);
    snprintf(words, sizeof words, "host key changed: %s", print);
    expect_refused("wrong", "id", FARM_EHOSTKEY, words);
    free(other);
    free(print);
    expect_refused("known", "other", FARM_EAUTH, "refuses our key");
    /* The relay is started, but the folder is not served there. */
    expect_refused("known", "id", FARM_ECLOSED, "folder www is not running here");
}

/* Keys of several types are pinned in several ways: each alone must do. */
static void pinned_keys(void **state)
{
    static const char *const keys[] = {"host.pub", "host_ecdsa.pub"};

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int hashed = 0; hashed < 2; hashed++) {
            struct node a, b;
            char *key = read_line_of(keys[i]);
            write_file("one", "other.example,[127.0.0.1]:%u %s\n", port[0], key);
            free(key);
            if (hashed)
                assert_int_equal(run("ssh-keygen -q -H -f %s/one >/dev/null 2>&1", dir), 0);
            assert_int_equal(run("chmod 0600 %s/one", dir), 0);
            node_init(&b, "beta", 0);
            node_peer(&b, "alpha", 1, CONNECT_AUTO);
            node_start(&b);
            node_init(&a, "alpha", 1);
            node_peer(&a, "beta", port[0], CONNECT_AUTO);
            snprintf(a.known, sizeof a.known, "%s/one", dir);
            node_start(&a);
            int sa = wait_up(&a, "beta");
            pair_stop(&a, &b, sa, -1);
        }
}

/* Nobody there, and packets that vanish: told within the time promised. */
static void unreachable(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    struct node a;
    struct link_msg m;
    int fill_queue[3];

    (void)state;
    node_init(&a, "alpha", 1);
    node_peer(&a, "beta", free_port(), CONNECT_AUTO);
    node_start(&a);
    wait_down(&a, 2000, &m);
    assert_int_equal(m.code, -ECONNREFUSED);
    node_stop(&a);

    /* A listener whose queue is full drops SYNs. */
    int hole = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(hole, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(hole, 0), 0);
    assert_int_equal(getsockname(hole, (struct sockaddr *)&at, &len), 0);
    for (int i = 0; i < 3; i++) {
        fill_queue[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fill_queue[i], (struct sockaddr *)&at, sizeof at);
    }
    node_init(&a, "alpha", 1);
    node_peer(&a, "beta", ntohs(at.sin_port), CONNECT_AUTO);
    uint64_t start = now_us();
    node_start(&a);
    wait_down(&a, 6000, &m);
    assert_int_equal(m.code, -ETIMEDOUT);
    assert_true(now_us() - start < 4000000);
    node_stop(&a);
    for (int i = 0; i < 3; i++)
        close(fill_queue[i]);
    close(hole);
}

/* What a relay does, by hand: returns the far end of its standard input and output. */
static int fake_relay(const struct node *n, const char *line, int *sock)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int pair[2];

    snprintf(to.sun_path, sizeof to.sun_path, "%.80s/www.sock", n->run_dir);
    *sock = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(seteuid(user->pw_uid), 0);
    int r = connect(*sock, (struct sockaddr *)&to, sizeof to);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(io_send_fd(*sock, "i", 1, pair[1]), 0);
    assert_int_equal(io_send_fd(*sock, "o", 1, pair[1]), 0);
    assert_int_equal(io_write_full(*sock, line, strlen(line)), 0);
    close(pair[1]);
    return pair[0];
}

static void expect_closed(int fd)
{
    char c[512];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n;

    do {
        assert_int_equal(poll(&p, 1, 3000), 1);
        n = read(fd, c, sizeof c);
    } while (n > 0);
}

static void garbage(void **state)
{
    static const char *const noise[] = {"GET / HTTP/1.0\r\n\r\n0123456789",
                                        "FRM1\x05\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff________"};
    struct node b;
    struct link_msg m;
    uint8_t frame[4096], text[1000];
    int sock, fd = -1;

    (void)state;
    node_init(&b, "beta", 0);
    node_peer(&b, "alpha", 1, CONNECT_AUTO);
    node_start(&b);
    for (int i = 0; i < 6; i++) {
        int end = fake_relay(&b, "alpha www\n", &sock);
        if (i < 2) {
            assert_int_equal(io_write_full(end, noise[i], 24), 0);
        } else {
            size_t n = ack_frame(frame, 7);
            if (i == 2)
                frame[FRAME_HEADER] ^= 1; /* damaged */
            if (i == 3) {                 /* whole, but not a message */
                n = FRAME_HEADER + 3;
                frame_header_put(frame, FRAME_ACK, 0, 3, frame + FRAME_HEADER, 3);
            }
            if (i >= 4) { /* not zstd; then a size that is not what comes out */
                static const uint8_t zeros[] = {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x05, 0x29,
                                                0,    0,    'a',  'a',  'a',  'a',  'a'};
                n = FRAME_HEADER + sizeof zeros;
                memset(text, 'x', sizeof text);
                memcpy(frame + FRAME_HEADER, i == 4 ? text : zeros, sizeof zeros);
                frame_header_put(frame, FRAME_ACK, FRAME_ZSTD, FRAME_MAX, frame + FRAME_HEADER,
                                 sizeof zeros);
            }
            assert_int_equal(io_write_full(end, frame, n), 0);
        }
        assert_int_equal(wait_msg(&b, LINK_PEER_ERROR, 3000, &m, &fd), 0);
        assert_true(m.code == FARM_EPROTO || m.code == FARM_ECORRUPT);
        assert_string_equal(m.peer, "alpha");
        expect_closed(end);
        expect_closed(sock);
        close(end);
        close(sock);
    }
    /* Strangers get a reason, and no session. */
    static const char *const lines[] = {"gamma www\n", "alpha other\n", "alpha www extra\n"};
    for (int i = 0; i < 3; i++) {
        char why[256] = "";
        int end = fake_relay(&b, lines[i], &sock);
        assert_true(read(sock, why, sizeof why - 1) > 0);
        assert_true(strlen(why) > 10);
        expect_closed(end);
        close(end);
        close(sock);
    }
    node_stop(&b);
}

/* The end is seen at once when a process dies, within about a second when it only falls silent. */
static void deaths(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct node a, b;
        int sa, sb;
        pair_start(&a, &b, &sa, &sb);
        struct node *victim = i & 1 ? &a : &b, *left = i & 1 ? &b : &a;
        usleep(300000);
        uint64_t start = now_us();
        kill(victim->pid, i & 2 ? SIGSTOP : SIGKILL);
        expect_closed(i & 1 ? sb : sa);
        uint64_t took = now_us() - start;
        printf("    %s %s: noticed after %llu ms\n", i & 1 ? "dialler" : "acceptor",
               i & 2 ? "stopped" : "killed", (unsigned long long)took / 1000);
        assert_true(took < (slow ? 5000000u : 3000000u));
        struct link_msg m;
        wait_down(left, 2000, &m);
        pair_stop(&a, &b, sa, sb);
    }
}

/* Writes frames for three seconds to a stream whose far end nobody reads, while frames go to and
 * fro on another pair of streams (when there is one). Then everything must arrive: slow is not
 * dead. */
static void hold_back(int from, int to, int other_a, int other_b)
{
    uint8_t *bytes = malloc(CHUNK), *frame = malloc(CHUNK + 4096);
    uint64_t sent = 0, received = 0, p99 = 0;
    size_t at = 0;

    fill(bytes, CHUNK, 1);
    size_t n = data_frame(frame, bytes, CHUNK);
    for (uint64_t end = now_us() + 3000000; now_us() < end;) {
        ssize_t r = send(from, frame + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r > 0) {
            at = (at + (size_t)r) % n;
            sent += (uint64_t)r;
            continue;
        }
        assert_int_equal(errno, EAGAIN);
        if (other_a >= 0) {
            /* Behind the other's bytes it would wait for seconds; a busy machine makes it wait too,
             * but not as long. */
            assert_true(latency(other_a, other_b, 20, &p99) < 250000);
        }
        usleep(100000);
    }
    printf("    held back %.1f MB; the other session: p99 %llu us\n", (double)sent / 1e6,
           (unsigned long long)p99);
    assert_true(sent < 64u * 1024 * 1024);
    while (received < sent) {
        struct pollfd p = {.fd = to, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 5000), 1);
        ssize_t r = read(to, bytes, CHUNK);
        assert_true(r > 0);
        received += (uint64_t)r;
        if (sent - received < 2 * CHUNK && at != 0) { /* complete the last frame */
            assert_int_equal(io_write_full(from, frame + at, n - at), 0);
            sent += n - at;
            at = 0;
        }
    }
    free(bytes);
    free(frame);
}

/* alpha has two peers; one stops reading. */
static void slow_peer(void **state)
{
    struct node a, b, c;
    struct link_msg m;
    int fd[2] = {-1, -1};

    (void)state;
    node_init(&b, "beta", 0);
    node_peer(&b, "alpha", 1, CONNECT_AUTO);
    node_start(&b);
    node_init(&c, "gamma", 2);
    node_peer(&c, "alpha", 1, CONNECT_AUTO);
    node_start(&c);
    node_init(&a, "alpha", 1);
    node_peer(&a, "beta", port[0], CONNECT_AUTO);
    node_peer(&a, "gamma", port[1], CONNECT_AUTO);
    node_start(&a);
    for (int i = 0; i < 2; i++) {
        int got = -1;
        assert_int_equal(wait_msg(&a, LINK_SESSION_UP, UP_MS, &m, &got), 0);
        fd[strcmp(m.peer, "gamma") == 0] = got;
    }
    int sb = wait_up(&b, "alpha"), sc = wait_up(&c, "alpha");
    hold_back(fd[0], sb, fd[1], sc);
    close(fd[0]);
    close(fd[1]);
    close(sb);
    close(sc);
    node_stop(&a);
    node_stop(&b);
    node_stop(&c);
}

/* The dialling side is the slow one. */
static void slow_dialler(void **state)
{
    struct node a, b;
    int sa, sb;

    (void)state;
    pair_start(&a, &b, &sa, &sb);
    hold_back(sb, sa, -1, -1);
    pair_stop(&a, &b, sa, sb);
}

static unsigned count_fds(pid_t pid)
{
    char path[64];
    unsigned n = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static unsigned long resident_kb(pid_t pid)
{
    char path[64];
    unsigned long pages = 0;

    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %lu", &pages), 1);
    fclose(f);
    return pages * 4;
}

static void reconnects(void **state)
{
    struct node a, b;
    int sa, sb;
    unsigned rounds = slow ? 20 : 100, fds_a = 0, fds_b = 0;
    unsigned long kb = 0;
    struct link_msg m;

    (void)state;
    pair_start(&a, &b, &sa, &sb);
    for (unsigned i = 0; i < rounds; i++) {
        if (i == 5) {
            fds_a = count_fds(a.pid);
            fds_b = count_fds(b.pid);
            kb = resident_kb(a.pid);
        }
        if (i % 2)
            assert_int_equal(link_send(a.control, LINK_DROP, "beta"), 0);
        else
            close(sb); /* the worker ends it */
        expect_closed(sa);
        wait_down(&a, 3000, &m);
        assert_int_equal(link_send(a.control, LINK_RETRY, ""), 0);
        close(sa);
        if (i % 2)
            close(sb);
        sa = wait_up(&a, "beta");
        sb = wait_up(&b, "alpha");
    }
    usleep(500000);
    printf("    after %u reconnects: %u and %u descriptors (%u and %u before), %lu KiB (%lu)\n",
           rounds, count_fds(a.pid), count_fds(b.pid), fds_a, fds_b, resident_kb(a.pid), kb);
    assert_true(count_fds(a.pid) <= fds_a);
    assert_true(count_fds(b.pid) <= fds_b);
    pair_stop(&a, &b, sa, sb);
}

/* A second session of a peer takes the place of the first. */
static void replaced(void **state)
{
    struct node a, b;
    int sa, sb, sock;
    uint8_t ping[FRAME_HEADER + 8] = {0}, frame[128];

    (void)state;
    pair_start(&a, &b, &sa, &sb);
    int end = fake_relay(&b, "alpha www\n", &sock);
    frame_header_put(ping, FRAME_PING, 0, 8, ping + FRAME_HEADER, 8);
    assert_int_equal(io_write_full(end, ping, sizeof ping), 0);
    int second = wait_up(&b, "alpha");
    expect_closed(sb);
    size_t n = ack_frame(frame, 3);
    assert_int_equal(io_write_full(end, frame, n), 0);
    expect_bytes(second, frame, n);
    close(end);
    close(sock);
    close(second);
    pair_stop(&a, &b, sa, sb);
}

static void pin_hosts(void)
{
    char *key = read_line_of("host.pub");

    write_file("known", "# pinned\n\n[127.0.0.1]:%u %s\n[127.0.0.1]:%u %s\n", port[0], key, port[1],
               key);
    free(key);
}

/* New keys in mid-transfer, as a long session sees them. */
static void rekeying(void **state)
{
    struct node a, b;
    int sa, sb;
    uint8_t *bytes = malloc(CHUNK), *frame = malloc(CHUNK + 4096);
    uint64_t total = slow ? BULK / 16 : BULK / 4;

    (void)state;
    kill(sshd[0], SIGTERM);
    waitpid(sshd[0], NULL, 0);
    start_sshd(0, "RekeyLimit=4M");
    pin_hosts();
    pair_start(&a, &b, &sa, &sb);
    fill(bytes, CHUNK, 1);
    size_t n = data_frame(frame, bytes, CHUNK);
    printf("    new keys every 4 MiB: %.0f MB/s, back %.0f MB/s\n",
           transfer(sa, sb, frame, n, total), transfer(sb, sa, frame, n, total));
    pair_stop(&a, &b, sa, sb);
    free(bytes);
    free(frame);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/farmlinktest.XXXXXX");
    if (!mkdtemp(dir) || chmod(dir, 0755))
        return -1;
    if (run("mkdir -p /run/sshd %s/run0 %s/run1 %s/run2 && cd %s && "
            "for k in host id other; do ssh-keygen -q -t ed25519 -N '' -f $k; done && "
            "ssh-keygen -q -t ecdsa -N '' -f host_ecdsa",
            dir, dir, dir, dir))
        return -1;
    start_sshd(0, "RekeyLimit=default none");
    start_sshd(1, "RekeyLimit=default none");
    pin_hosts();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        if (sshd[i] > 0) {
            kill(sshd[i], SIGTERM);
            waitpid(sshd[i], NULL, 0);
        }
    return run("rm -rf %s", dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips), cmocka_unit_test(latencies),
        cmocka_unit_test(rates),       cmocka_unit_test(refusals),
        cmocka_unit_test(pinned_keys), cmocka_unit_test(unreachable),
        cmocka_unit_test(garbage),     cmocka_unit_test(deaths),
        cmocka_unit_test(slow_peer),   cmocka_unit_test(slow_dialler),
        cmocka_unit_test(replaced),    cmocka_unit_test(reconnects),
        cmocka_unit_test(rekeying),
    };
    user = getpwnam(USER);
    if (argc != 2 || geteuid() != 0 || !user || access("/usr/sbin/sshd", X_OK)) {
        fprintf(stderr, "farmlinktest: needs root, the account %s, sshd and the relay\n", USER);
        return SKIPPED;
    }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    slow = 1;
#endif
    setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGPIPE, SIG_IGN);
    cmocka_set_test_filter(getenv("LINK_ONLY"));
    if (setup(NULL) || run("cp %s %s/farmfs-relay", argv[1], dir)) {
        fprintf(stderr, "farmlinktest: cannot prepare %s\n", dir);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)teardown(NULL);
    return failed != 0;
}
