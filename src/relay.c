/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmfs-relay: what sshd starts for a peer (forced command). It hands its standard input and
 * output to the folder's link process over a Unix socket and waits for the end; no byte passes
 * through it. The name of the peer comes from authorized_keys, and so from the key; the folder's
 * name comes from the peer, as its command: `farmfs-relay FOLDER`. See link/accept.h for what is
 * said to the link.
 */
#include "base/config.h"
#include "base/io.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define COMMAND "farmfs-relay "

enum { EXIT_DOWN = 1, EXIT_REFUSED = 2 };

static const char usage[] =
    "usage: farmfs-relay --peer NAME --run-dir DIR\n"
    "Started by sshd as the forced command of a peer's key; see farmfs-relay(8).\n";

static void die(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

static void die(int status, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("farmfs-relay: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(status);
}

/* A name goes into a path and into a line of text: nothing but what configurations accept. */
static int name_ok(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-_");

    return n >= 1 && n <= CONFIG_NAME_MAX && s[n] == 0;
}

static const char *wanted_folder(void)
{
    const char *command = getenv("SSH_ORIGINAL_COMMAND");

    if (!command)
        die(EXIT_REFUSED, "this key is for farmfs peers only");
    if (strncmp(command, COMMAND, strlen(COMMAND)) != 0 || !name_ok(command + strlen(COMMAND)))
        die(EXIT_REFUSED, "unknown command (expected %sFOLDER)", COMMAND);
    return command + strlen(COMMAND);
}

static int connect_link(const char *run_dir, const char *folder)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int n = snprintf(to.sun_path, sizeof to.sun_path, "%s/%s.sock", run_dir, folder);

    if (n < 0 || (size_t)n >= sizeof to.sun_path)
        die(EXIT_REFUSED, "%s: path too long for a socket", run_dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die(EXIT_DOWN, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        if (errno == ENOENT || errno == ECONNREFUSED)
            die(EXIT_DOWN, "folder %s is not running here", folder);
        die(EXIT_DOWN, "%s: %s", to.sun_path, strerror(errno));
    }
    return fd;
}

static void hand_over(int sock, const char *peer, const char *folder)
{
    char line[2 * CONFIG_NAME_MAX + 3];
    int n = snprintf(line, sizeof line, "%s %s\n", peer, folder);
    int r = io_send_fd(sock, "i", 1, STDIN_FILENO);

    r = r ? r : io_send_fd(sock, "o", 1, STDOUT_FILENO);
    r = r ? r : io_write_full(sock, line, (size_t)n);
    /* A link that refuses closes early: its reason is still to be read. */
    if (r && r != -EPIPE && r != -ECONNRESET)
        die(EXIT_DOWN, "cannot reach the folder's link: %s", err_text(r));
}

/* Until the link closes, or sshd does: an end of its pipe shows on standard input without being
 * asked for. */
static int wait_end(int sock)
{
    struct pollfd fds[2] = {{.fd = sock, .events = POLLIN}, {.fd = STDIN_FILENO, .events = 0}};
    char text[512];

    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    if (!fds[0].revents)
        return 0;
    ssize_t n = read(sock, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    die(EXIT_REFUSED, "%s", text);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"peer", required_argument, NULL, 'p'},
                                            {"run-dir", required_argument, NULL, 'r'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'V'},
                                            {0}};
    const char *peer = NULL, *run_dir = NULL;

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'p': peer = optarg; break;
        case 'r': run_dir = optarg; break;
        case 'h': return fputs(usage, stdout) < 0;
        case 'V': return puts("farmfs-relay " FARM_VERSION) < 0;
        default: fputs(usage, stderr); return EXIT_REFUSED;
        }
    }
    if (!peer || !run_dir || optind != argc) {
        fputs(usage, stderr);
        return EXIT_REFUSED;
    }
    if (!name_ok(peer))
        die(EXIT_REFUSED, "--peer %s: not a node's name", peer);
    (void)signal(SIGPIPE, SIG_IGN);
    const char *folder = wanted_folder();
    int sock = connect_link(run_dir, folder);
    hand_over(sock, peer, folder);
    return wait_end(sock);
}
