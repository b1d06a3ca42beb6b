/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The supervisor: holds what must outlive a worker (both /dev/fuse, the fanotify group, the lock) and
 * starts workers and links anew when they die. It never touches the mount itself, since only its own
 * worker could answer: attaching and unmounting are done by short-lived children.
 *
 *   STARTING --worker serves--> ATTACHING --mounted--> RUNNING --signal, unmounted--> STOPPING
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "link/link.h"
#include "node/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <mntent.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define STOP_MS 10000u
#define DEATHS_MAX 10u /* within DEATHS_MS: then every further one waits a second */
#define DEATHS_MS 10000u
#define BACKOFF_MS 1000u

enum phase { STARTING, ATTACHING, RUNNING, STOPPING };

/* A child that is to live on. */
struct child {
    const char *name;
    pid_t pid;          /* 0: none */
    uint64_t start_at;  /* ms; 0: not wanted just now */
    uint64_t deaths_ms; /* since when deaths are counted */
    unsigned deaths;
};

struct super {
    const struct config *config;
    struct worker_args args; /* descriptors of the worker */
    struct staging staging;
    int lock_fd, signal_fd, listen_fd, mount_fd, ready_fd;
    int super_fd; /* our end, -1: no worker */
    enum phase phase;
    bool serving, unmounted, failed;
    struct child worker, link;
    pid_t helper; /* attaches or unmounts; 0: none */
    uint64_t stop_at;
    char control[4096]; /* DIR/.farm */
    char *title;
    size_t title_size;
};

static uint64_t now_ms(void)
{
    return clock_mono(&clock_system) / 1000;
}

__attribute__((format(printf, 1, 2))) static int complain(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("farmfs: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return -EINVAL;
}

/* ---- before the mount ---- */

static int make_dirs(const char *path, mode_t mode)
{
    char part[4096];
    if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part))
        return -ENAMETOOLONG;
    for (char *s = part + 1; (s = strchr(s, '/')) != NULL; *s++ = '/') {
        *s = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -errno;
    }
    return mkdir(part, mode) < 0 && errno != EEXIST ? -errno : 0;
}

static int open_state(struct super *s)
{
    const char *dir = s->config->state;
    CLEANUP_FREE char *text = NULL;
    size_t len;
    int r = make_dirs(dir, 0700);
    if (r == 0 && (s->args.state_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        r = -errno;
    if (r < 0)
        return complain("state directory %s: %s", dir, err_text(r));
    s->lock_fd = openat(s->args.state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return complain("%s/lock: %s", dir, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        if (io_read_file_at(s->args.state_fd, "pid", 32, &text, &len) < 0)
            text = NULL;
        return complain("another farmfs (pid %ld) serves this folder",
                        text != NULL ? strtol(text, NULL, 10) : 0L);
    }
    char id[32];
    int n = snprintf(id, sizeof(id), "%016" PRIx64 "\n", s->config->folder_id);
    r = io_read_file_at(s->args.state_fd, "folder", 64, &text, &len);
    if (r == -ENOENT)
        r = io_write_file_at(s->args.state_fd, "folder", id, (size_t)n, 0600);
    else if (r == 0 && strcmp(text, id) != 0)
        return complain("state directory %s belongs to another folder, id %.16s (expected %.16s)",
                        dir, text, id);
    return r < 0 ? complain("%s/folder: %s", dir, err_text(r)) : 0;
}

/* Is farmfs the topmost mount there? */
static bool mounted(const char *dir)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent e, *got;
    char text[8192];
    bool is = false;
    while (f != NULL && (got = getmntent_r(f, &e, text, sizeof(text))) != NULL)
        if (strcmp(got->mnt_dir, dir) == 0)
            is = strcmp(got->mnt_type, "fuse.farmfs") == 0;
    if (f != NULL)
        endmntent(f);
    return is;
}

static int open_folder(struct super *s)
{
    const char *dir = s->config->dir;
    for (;;) {
        s->args.rootfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s->args.rootfd >= 0 && mounted(dir))
            return complain("%s: already mounted by another farmfs", dir);
        if (s->args.rootfd >= 0)
            return 0;
        if (errno != ENOTCONN || umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
            break;
        log_warn("%s: removed a mount whose farmfs has died", dir);
    }
    if (errno == ENOENT)
        return complain("%s: the folder does not exist", dir);
    return complain("%s: %s", dir, errno == ENOTDIR ? "is not a directory" : strerror(errno));
}

static int open_relay_socket(struct super *s)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct passwd *pw = getpwnam(s->config->ssh_user);
    int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s.sock", s->config->run_dir,
                     s->config->folder);
    if (n < 0 || (size_t)n >= sizeof(a.sun_path))
        return complain("%s/%s.sock: the path of the relay socket is too long", s->config->run_dir,
                        s->config->folder);
    if (pw == NULL)
        return complain("%s: there is no user %s", s->config->file, s->config->ssh_user);
    int r = make_dirs(s->config->run_dir, 0755);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(a.sun_path);
    if (r < 0 || s->listen_fd < 0 || bind(s->listen_fd, (void *)&a, sizeof(a)) < 0 ||
        chown(a.sun_path, pw->pw_uid, pw->pw_gid) < 0 || chmod(a.sun_path, 0600) < 0 ||
        listen(s->listen_fd, 64) < 0)
        return complain("relay socket %s: %s", a.sun_path, r < 0 ? err_text(r) : strerror(errno));
    return 0;
}

static int open_devices(struct super *s)
{
    struct utsname u;
    unsigned major = 0, minor = 0;
    s->args.fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    s->args.control_fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (s->args.fuse_fd < 0 || s->args.control_fuse_fd < 0)
        return complain("/dev/fuse: %s (expected the kernel module fuse)", strerror(errno));
    s->args.fanotify_fd =
        fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE,
                      O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NONBLOCK);
    if (s->args.fanotify_fd < 0)
        return complain("fanotify: %s", strerror(errno));
    if (uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
        (major < 6 || (major == 6 && minor < 9)))
        log_warn("Linux %u.%u cannot send requests again (expected 6.9 or later): "
                 "those in flight hang when the worker dies",
                 major, minor);
    return 0;
}

/* The super block, attached nowhere yet. Flags are those of the file system below. */
static int open_super_block(struct super *s)
{
    struct statvfs v;
    char fd[16];
    CLEANUP_FD int fs = fsopen("fuse", FSOPEN_CLOEXEC);
    if (fs < 0 || fstatvfs(s->args.rootfd, &v) < 0)
        return complain("the kernel has no FUSE: %s", strerror(errno));
    snprintf(fd, sizeof(fd), "%d", s->args.fuse_fd);
    const char *set[][2] = {{"source", "farmfs"}, {"subtype", "farmfs"}, {"fd", fd},
                            {"rootmode", "40000"}, {"user_id", "0"},      {"group_id", "0"}};
    bool bad = false;
    for (size_t i = 0; i < sizeof(set) / sizeof(set[0]); i++)
        bad = bad || fsconfig(fs, FSCONFIG_SET_STRING, set[i][0], set[i][1], 0) < 0;
    bad = bad || fsconfig(fs, FSCONFIG_SET_FLAG, "allow_other", NULL, 0) < 0 ||
          fsconfig(fs, FSCONFIG_SET_FLAG, "default_permissions", NULL, 0) < 0;
    if (v.f_flag & ST_RDONLY)
        bad = bad || fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0;
    bad = bad || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0;
    unsigned attr = (v.f_flag & ST_NOSUID ? MOUNT_ATTR_NOSUID : 0u) |
                    (v.f_flag & ST_NODEV ? MOUNT_ATTR_NODEV : 0u) |
                    (v.f_flag & ST_NOEXEC ? MOUNT_ATTR_NOEXEC : 0u) |
                    (v.f_flag & ST_RDONLY ? MOUNT_ATTR_RDONLY : 0u);
    s->mount_fd = bad ? -1 : fsmount(fs, FSMOUNT_CLOEXEC, attr);
    return s->mount_fd < 0 ? complain("cannot make the mount: %s", strerror(errno)) : 0;
}

static int prepare(struct super *s)
{
    char why[256];
    bool inside = false;
    int r = open_state(s);
    if (r == 0)
        r = open_folder(s);
    if (r < 0)
        return r;
    r = staging_open(s->config->dir, s->args.rootfd, s->config->staging, &s->staging, &inside, why);
    if (r < 0)
        return complain("%s", why);
    s->args.staging = &s->staging;
    s->args.hide = inside ? ".farmfs" : NULL;
    s->args.shared = mmap(NULL, sizeof(*s->args.shared), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s->args.shared == MAP_FAILED)
        return complain("no memory");
    do
        io_random(&s->args.shared->conn, sizeof(s->args.shared->conn));
    while (s->args.shared->conn == 0);
    snprintf(s->control, sizeof(s->control), "%s/.farm", s->config->dir);
    r = open_devices(s);
    if (r == 0)
        r = open_relay_socket(s);
    return r == 0 ? open_super_block(s) : r;
}

/* ---- children ---- */

static void set_title(struct super *s, const char *what)
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
    set_title(s, what);
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

static void start_worker(struct super *s)
{
    int pair[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        log_error_code(-errno, "cannot start a worker");
        s->worker.start_at = now_ms() + BACKOFF_MS;
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
        s->worker.pid = 0, s->worker.start_at = now_ms() + BACKOFF_MS;
}

static void start_link(struct super *s)
{
    int pair[2];
    pid_t parent = getpid();
    s->link.start_at = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        s->link.start_at = now_ms() + BACKOFF_MS;
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
        s->link.pid = 0, s->link.start_at = now_ms() + BACKOFF_MS;
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
        return complain("cannot mount over %s: %s", s->config->dir, strerror(errno));
    if (fanotify_mark(s->args.fanotify_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE,
                      AT_FDCWD, s->config->dir) < 0)
        return complain("fanotify on %s: %s", s->config->dir, strerror(errno));
    snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,"
             "default_permissions", s->args.control_fuse_fd);
    if (mount("farmfs", s->control, "fuse.farmfs-control", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              data) < 0)
        return complain("cannot mount %s: %s", s->control, strerror(errno));
    return 0;
}

static int detach(struct super *s)
{
    umount2(s->control, MNT_DETACH | UMOUNT_NOFOLLOW);
    if (!mounted(s->config->dir) || umount2(s->config->dir, UMOUNT_NOFOLLOW) == 0)
        return 0;
    if (errno == EBUSY)
        log_warn("%s is still in use: detached, open files there end with an error",
                 s->config->dir);
    return umount2(s->config->dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
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

/* ---- running ---- */

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
    } else if (m.type == WORKER_FAILED) {
        m.text[sizeof(m.text) - 1] = '\0';
        complain("%s", m.text);
        s->failed = true;
    }
}

/* When to start it again. */
static void died(struct child *c, int status)
{
    uint64_t now = now_ms();
    if (now - c->deaths_ms > DEATHS_MS) {
        c->deaths_ms = now;
        c->deaths = 0;
    }
    c->deaths++;
    c->pid = 0;
    c->start_at = c->deaths > DEATHS_MAX ? now + BACKOFF_MS : now;
    if (WIFSIGNALED(status))
        log_warn("the %s (pid gone) was killed by signal %d", c->name, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_warn("the %s ended with code %d", c->name, WEXITSTATUS(status));
}

static void worker_died(struct super *s, int status)
{
    s->serving = false;
    if (s->super_fd >= 0) {
        while (s->super_fd >= 0) /* what it said last */
            on_message(s);
    }
    died(&s->worker, status);
    if (s->phase == STOPPING) {
        s->worker.start_at = 0;
    } else if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) {
        stop(s, WEXITSTATUS(status) == 3);
        s->worker.start_at = 0;
    } else if (s->phase == STARTING && s->worker.deaths > DEATHS_MAX) {
        complain("the worker dies at every start");
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

static void run(struct super *s)
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

/* ---- command line ---- */

static const char help[] =
    "Usage: farmfs [-f] [-c FILE] [DIR]\n"
    "Mount the replicated folder DIR over itself and keep it the same on all nodes of the farm.\n"
    "\n"
    "  -c, --config FILE   its configuration (default: the one in /etc/farmfs with dir = DIR)\n"
    "  -f, --foreground    stay in the foreground\n"
    "  -h, --help          this text\n"
    "  -V, --version       the version\n"
    "\n"
    "Without -f the command returns when DIR is mounted and served. To unmount: umount -R DIR, or\n"
    "SIGTERM to the process named in the state directory's file `pid`.\n"
    "\n"
    "Example: farmfs /srv/www\n";

struct options {
    const char *file, *dir;
    bool foreground;
};

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"config", 1, NULL, 'c'},
                                          {"foreground", 0, NULL, 'f'},
                                          {"help", 0, NULL, 'h'},
                                          {"version", 0, NULL, 'V'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "c:fhV", longs, NULL)) >= 0) {
        switch (c) {
        case 'c': o->file = optarg; break;
        case 'f': o->foreground = true; break;
        case 'h': fputs(help, stdout); return 1;
        case 'V': puts("farmfs " FARM_VERSION); return 1;
        default: return complain("try: farmfs --help");
        }
    }
    o->dir = optind < argc ? argv[optind++] : NULL;
    if (optind < argc)
        return complain("%s: one folder at a time (see farmfs --help)", argv[optind]);
    if (o->dir == NULL && o->file == NULL)
        return complain("no folder given (expected: farmfs DIR, or farmfs -c FILE)");
    return 0;
}

static int load(const struct options *o, struct config **out)
{
    int r = o->file != NULL ? config_load(o->file, out) : config_find("/etc/farmfs", o->dir, out);
    if (r == -ENOENT)
        return complain("no configuration in /etc/farmfs has dir = %s", o->dir);
    if (r < 0 && r != FARM_ECONFIG)
        return complain("%s: %s", o->file != NULL ? o->file : "/etc/farmfs", err_text(r));
    return r;
}

/* The parent waits until the mount stands; only the child returns. */
static int into_background(int *ready_fd)
{
    int p[2];
    char byte;
    if (pipe2(p, O_CLOEXEC) < 0)
        return complain("pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork: %s", strerror(errno));
    if (pid > 0) {
        close(p[1]);
        ssize_t n;
        do
            n = read(p[0], &byte, 1);
        while (n < 0 && errno == EINTR);
        _exit(n == 1 ? 0 : 1);
    }
    close(p[0]);
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        close(null);
    }
    *ready_fd = p[1];
    return 0;
}

static int catch_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct config *config;
    char name[160];
    int r = parse(argc, argv, &o);
    if (r != 0)
        return r > 0 ? 0 : 2;
    if (load(&o, &config) < 0)
        return 2;
    static struct super s = {.lock_fd = -1, .listen_fd = -1, .mount_fd = -1, .ready_fd = -1,
                             .super_fd = -1, .worker = {.name = "worker"}, .link = {.name = "link"}};
    s.config = config;
    s.args.config = config;
    s.title = argv[0];
    s.title_size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
    snprintf(name, sizeof(name), "%s/%s", config->node, config->folder);
    log_init(name, LOG_INFO_);
    umask(022);
    if (geteuid() != 0)
        return complain("must be started by root"), 1;
    if (!o.foreground && into_background(&s.ready_fd) < 0)
        return 1;
    s.signal_fd = catch_signals();
    if (prepare(&s) < 0)
        return 1;
    set_title(&s, "supervisor");
    write_pid(&s, "pid", getpid());
    run(&s);
    clean_up(&s);
    return s.failed ? 1 : 0;
}
