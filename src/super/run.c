/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "super/super.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "link/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define STOP_MS 10000u
#define DEATHS_MAX 10u /* within DEATHS_MS: then every further one waits a second */
#define DEATHS_MS 10000u
#define BACKOFF_MS 1000u

static uint64_t now_ms(void)
{
    return clock_mono(&clock_system) / 1000;
}

/* ---- children ---- */

void super_title(struct super *s, const char *what)
{
    char name[16];
    snprintf(name, sizeof(name), "farmfs-%s", what);
    prctl(PR_SET_NAME, name);
    memset(s->title, 0, s->title_size);
    snprintf(s->title, s->title_size, "farmfs: %s %s", what, s->config->folder);
}

/* In the child: as if it had been started on its own. */
static void become_child(struct super *s, pid_t parent, const char *what)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    super_title(s, what);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    close(s->signal_fd);
    close(s->lock_fd);
    if (s->ready_fd >= 0)
        close(s->ready_fd);
}

static void write_pid(struct super *s, const char *file, pid_t pid)
{
    char text[16];
    int n = snprintf(text, sizeof(text), "%d\n", (int)pid);
    int r = io_write_file_at(s->args.state_fd, file, text, (size_t)n, 0644);
    if (r < 0)
        log_warn_code(r, "%s/%s", s->config->state, file);
}

static void tell_worker(struct super *s, enum super_type type, int fd)
{
    struct super_msg m = {.type = type};
    if (s->super_fd >= 0) {
        int r = io_send_fd(s->super_fd, &m, sizeof(m), fd);
        if (r < 0)
            log_warn_code(r, "cannot reach the worker");
    }
}

/* It could not even be started. */
static void later(struct child *c)
{
    log_error_code(-errno, "cannot start the %s", c->name);
    c->pid = 0;
    c->start_at = now_ms() + BACKOFF_MS;
}

static void start_worker(struct super *s)
{
    int pair[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        later(&s->worker);
        return;
    }
    s->worker.start_at = 0;
    s->worker.pid = fork();
    if (s->worker.pid == 0) {
        become_child(s, parent, "worker");
        close(s->listen_fd);
        close(s->mount_fd);
        s->args.super_fd = pair[1];
        close(pair[0]);
        _exit(worker_main(&s->args));
    }
    close(pair[1]);
    s->super_fd = pair[0];
    s->args.restarted = true;
    if (s->worker.pid > 0)
        write_pid(s, "worker.pid", s->worker.pid);
    else
        later(&s->worker);
}

static void start_link(struct super *s)
{
    int pair[2];
    pid_t parent = getpid();
    s->link.start_at = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        later(&s->link);
        return;
    }
    s->link.pid = fork();
    if (s->link.pid == 0) {
        become_child(s, parent, "link");
        struct link_args a = {s->config, pair[1], s->listen_fd};
        _exit(link_main(&a) < 0 ? 1 : 0);
    }
    if (s->link.pid > 0) {
        tell_worker(s, SUPER_LINK, pair[0]);
        write_pid(s, "link.pid", s->link.pid);
    } else {
        later(&s->link);
    }
    close(pair[0]);
    close(pair[1]);
}

/* In a child: what may wait for the worker. */
static int attach(struct super *s)
{
    char data[128];
    CLEANUP_FD int tree =
        open_tree(s->mount_fd, MOUNT_TOP_NAME, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0 || move_mount(tree, "", AT_FDCWD, s->config->dir, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return super_complain("cannot mount over %s: %s", s->config->dir, strerror(errno));
    if (fanotify_mark(s->args.fanotify_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE,
                      AT_FDCWD, s->config->dir) < 0)
        return super_complain("fanotify on %s: %s", s->config->dir, strerror(errno));
    snprintf(data, sizeof(data),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,"
             "default_permissions",
             s->args.control_fuse_fd);
    if (mount("farmfs", s->control, "fuse.farmfs-control", MS_NOSUID | MS_NODEV | MS_NOEXEC, data) <
        0)
        return super_complain("cannot mount %s: %s", s->control, strerror(errno));
    return 0;
}

/* `.farm` is kept in hand meanwhile, so that it can be put back when the folder is in use. */
int super_unmount(const char *dir, int flags)
{
    char control[4096];
    if (snprintf(control, sizeof(control), "%s/.farm", dir) >= (int)sizeof(control))
        return -ENAMETOOLONG;
    CLEANUP_FD int kept = open_tree(AT_FDCWD, control, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    umount2(control, MNT_DETACH | UMOUNT_NOFOLLOW);
    if (umount2(dir, flags | UMOUNT_NOFOLLOW) == 0)
        return 0;
    int r = -errno;
    if (kept >= 0 && move_mount(kept, "", AT_FDCWD, control, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        log_warn_code(-errno, "%s is gone", control);
    return r;
}

static int detach(struct super *s)
{
    const char *dir = s->config->dir;
    if (!super_mounted(dir))
        return 0;
    int r = super_unmount(dir, 0);
    if (r == -EBUSY) {
        log_warn("%s is still in use: detached, open files there end with an error", dir);
        r = super_unmount(dir, MNT_DETACH);
    }
    return r;
}

static void start_helper(struct super *s, const char *what, int (*f)(struct super *))
{
    pid_t parent = getpid();
    s->helper = fork();
    if (s->helper == 0) {
        become_child(s, parent, what);
        _exit(f(s) < 0 ? 1 : 0);
    }
    if (s->helper < 0) {
        log_error_code(-errno, "fork");
        s->helper = 0;
    }
}

/* ---- what happens ---- */

static void stop(struct super *s, bool failed)
{
    s->failed = s->failed || failed;
    if (s->phase == STOPPING)
        return;
    if (s->helper > 0)
        kill(s->helper, SIGKILL); /* still attaching: its end starts the unmount */
    s->phase = STOPPING;
    s->stop_at = now_ms() + STOP_MS;
    s->link.start_at = 0;
    s->worker.start_at = 0;
    if (s->helper == 0)
        start_helper(s, "umount", detach);
}

static void serving(struct super *s)
{
    s->serving = true;
    if (s->phase == STARTING) {
        s->phase = ATTACHING;
        start_helper(s, "mount", attach);
    } else if (s->phase == RUNNING) {
        tell_worker(s, SUPER_CONTROL, -1);
        if (s->link.pid == 0)
            start_link(s);
    }
}

static void attached(struct super *s)
{
    s->phase = RUNNING;
    close(s->mount_fd);
    s->mount_fd = -1;
    if (s->serving) {
        tell_worker(s, SUPER_CONTROL, -1);
        if (s->link.pid == 0)
            start_link(s);
    }
    log_info("%s is mounted", s->config->dir);
    if (s->ready_fd >= 0) {
        if (write(s->ready_fd, "", 1) < 0)
            log_warn_code(-errno, "nobody waits for the mount");
        close(s->ready_fd);
        s->ready_fd = -1;
    }
}

static void on_message(struct super *s)
{
    struct super_msg m;
    size_t n;
    int fd = -1;
    int r = io_recv_fd(s->super_fd, &m, sizeof(m), &n, &fd);
    if (fd >= 0)
        close(fd);
    if (r < 0 || n != sizeof(m)) {
        close(s->super_fd); /* its death is told by SIGCHLD */
        s->super_fd = -1;
        s->serving = false;
    } else if (m.type == WORKER_SERVING) {
        serving(s);
    } else if (m.type == WORKER_LISTENING) {
        if (s->phase != STOPPING && s->link.pid == 0)
            start_link(s);
    } else if (m.type == WORKER_FAILED) {
        m.text[sizeof(m.text) - 1] = '\0';
        super_complain("%s", m.text);
        s->failed = true;
    }
}

/* When to start it again. */
static void died(struct child *c, int status)
{
    uint64_t now = now_ms();
    int pid = c->pid;
    if (now - c->deaths_ms > DEATHS_MS) {
        c->deaths_ms = now;
        c->deaths = 0;
    }
    c->deaths++;
    c->pid = 0;
    c->start_at = c->deaths > DEATHS_MAX ? now + BACKOFF_MS : now;
    if (WIFSIGNALED(status))
        log_warn("the %s (pid %d) was killed by signal %d", c->name, pid, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_warn("the %s (pid %d) ended with code %d", c->name, pid, WEXITSTATUS(status));
}

static void worker_died(struct super *s, int status)
{
    s->serving = false;
    if (s->super_fd >= 0) {
        while (s->super_fd >= 0) /* what it said last */
            on_message(s);
    }
    died(&s->worker, status);
    s->args.crashed = WIFSIGNALED(status)
                          ? WTERMSIG(status) != SIGKILL && WTERMSIG(status) != SIGTERM
                          : WEXITSTATUS(status) == WORKER_EXIT_DAMAGED;
    if (s->phase == STOPPING) {
        s->worker.start_at = 0;
    } else if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) {
        stop(s, WEXITSTATUS(status) == 3);
        s->worker.start_at = 0;
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_EXIT_ANEW) {
        s->again = true;
        stop(s, false);
    } else if (s->phase == STARTING && s->worker.deaths > DEATHS_MAX) {
        super_complain("the worker dies at every start");
        stop(s, true);
    }
}

static void helper_died(struct super *s, int status)
{
    bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    s->helper = 0;
    if (s->phase == ATTACHING && good) {
        attached(s);
    } else if (s->phase == ATTACHING) {
        stop(s, true);
    } else if (WIFSIGNALED(status)) { /* it was attaching when we were to stop */
        start_helper(s, "umount", detach);
    } else {
        s->unmounted = true;
        tell_worker(s, SUPER_STOP, -1);
    }
}

static void on_signal(struct super *s)
{
    struct signalfd_siginfo si;
    int status;
    pid_t pid;
    if (read(s->signal_fd, &si, sizeof(si)) != sizeof(si))
        return;
    if (si.ssi_signo != SIGCHLD) {
        s->again = false;
        stop(s, false);
        return;
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->worker.pid)
            worker_died(s, status);
        else if (pid == s->link.pid)
            died(&s->link, status);
        else if (pid == s->helper)
            helper_died(s, status);
        if (s->phase == STOPPING || !s->serving)
            s->link.start_at = 0; /* serving() starts it */
    }
}

static int next_timeout(const struct super *s)
{
    uint64_t at = s->phase == STOPPING ? s->stop_at : UINT64_MAX, now = now_ms();
    if (s->worker.start_at != 0 && s->worker.start_at < at)
        at = s->worker.start_at;
    if (s->link.start_at != 0 && s->link.start_at < at)
        at = s->link.start_at;
    return at == UINT64_MAX ? -1 : at <= now ? 0 : (int)(at - now);
}

static bool finished(struct super *s)
{
    if (s->phase != STOPPING)
        return false;
    if (now_ms() < s->stop_at)
        return s->unmounted && s->worker.pid == 0;
    if (s->worker.pid > 0)
        log_warn("the worker does not stop: killed");
    umount2(s->config->dir, MNT_DETACH | UMOUNT_NOFOLLOW);
    return true;
}

static void supervise(struct super *s)
{
    s->worker.start_at = now_ms();
    while (!finished(s)) {
        struct pollfd p[2] = {{.fd = s->signal_fd, .events = POLLIN},
                              {.fd = s->super_fd, .events = POLLIN}};
        if (poll(p, 2, next_timeout(s)) < 0 && errno != EINTR)
            break;
        if (p[1].revents != 0)
            on_message(s);
        if (p[0].revents != 0)
            on_signal(s);
        uint64_t now = now_ms();
        if (s->worker.start_at != 0 && s->worker.start_at <= now)
            start_worker(s);
        if (s->link.start_at != 0 && s->link.start_at <= now)
            start_link(s);
    }
}

static void end_child(pid_t pid, int sig)
{
    if (pid > 0 && kill(pid, sig) == 0)
        waitpid(pid, NULL, 0);
}

static void clean_up(struct super *s)
{
    char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 64];
    end_child(s->worker.pid, SIGKILL);
    end_child(s->helper, SIGKILL);
    end_child(s->link.pid, SIGKILL);
    unlinkat(s->args.state_fd, "worker.pid", 0);
    unlinkat(s->args.state_fd, "link.pid", 0);
    unlinkat(s->args.state_fd, "pid", 0);
    snprintf(path, sizeof(path), "%s/%s.sock", s->config->run_dir, s->config->folder);
    unlink(path);
}

void super_run(struct super *s)
{
    write_pid(s, "pid", getpid());
    supervise(s);
    clean_up(s);
}
