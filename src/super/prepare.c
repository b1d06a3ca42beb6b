/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "super/super.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mntent.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/utsname.h>

int super_complain(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("farmfs: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return -EINVAL;
}

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
        return super_complain("state directory %s: %s", dir, err_text(r));
    s->lock_fd = openat(s->args.state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return super_complain("%s/lock: %s", dir, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        if (io_read_file_at(s->args.state_fd, "pid", 32, &text, &len) < 0)
            text = NULL;
        return super_complain("another farmfs (pid %ld) serves this folder",
                              text != NULL ? strtol(text, NULL, 10) : 0L);
    }
    char id[32];
    int n = snprintf(id, sizeof(id), "%016" PRIx64 "\n", s->config->folder_id);
    r = io_read_file_at(s->args.state_fd, "folder", 64, &text, &len);
    if (r == -ENOENT)
        r = io_write_file_at(s->args.state_fd, "folder", id, (size_t)n, 0600);
    else if (r == 0 && strcmp(text, id) != 0)
        return super_complain(
            "state directory %s belongs to another folder, id %.16s (expected %.16s)", dir, text,
            id);
    return r < 0 ? super_complain("%s/folder: %s", dir, err_text(r)) : 0;
}

bool super_mounted(const char *dir)
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
        if (s->args.rootfd >= 0 && super_mounted(dir))
            return super_complain("%s: already mounted by another farmfs", dir);
        if (s->args.rootfd >= 0)
            return 0;
        if (errno != ENOTCONN || umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
            break;
        log_warn("%s: removed a mount whose farmfs has died", dir);
    }
    if (errno == ENOENT)
        return super_complain("%s: the folder does not exist", dir);
    return super_complain("%s: %s", dir, errno == ENOTDIR ? "is not a directory" : strerror(errno));
}

/* The staging area is on the folder's file system and says which folder it belongs to: what stands
 * there once must be there again. */
static int check_mark(struct super *s)
{
    const struct config *c = s->config;
    char id[32];
    int n = snprintf(id, sizeof(id), "%016" PRIx64 "\n", c->folder_id);
    CLEANUP_FREE char *text = NULL;
    size_t len;
    int r = io_read_file_at(s->staging.dirfd, "folder", 64, &text, &len);
    if (r == 0 && strcmp(text, id) != 0)
        return super_complain("%s belongs to another folder, id %.16s (expected %.16s)", c->dir,
                              text, id);
    if (r == -ENOENT && faccessat(s->args.state_fd, "marked", F_OK, 0) == 0)
        return super_complain(
            "%s is not the directory that was served before, its staging area has no mark: is the "
            "right file system mounted there? To go on with it, remove %s/marked",
            c->dir, c->state);
    if (r == -ENOENT)
        r = io_write_file_at(s->staging.dirfd, "folder", id, (size_t)n, 0600);
    if (r == 0)
        r = io_write_file_at(s->args.state_fd, "marked", "", 0, 0600);
    return r < 0 ? super_complain("the mark in the staging area of %s: %s", c->dir, err_text(r))
                 : 0;
}

static int open_relay_socket(struct super *s)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct passwd *pw = getpwnam(s->config->ssh_user);
    int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s.sock", s->config->run_dir,
                     s->config->folder);
    if (n < 0 || (size_t)n >= sizeof(a.sun_path))
        return super_complain("%s/%s.sock: the path of the relay socket is too long",
                              s->config->run_dir, s->config->folder);
    if (pw == NULL)
        return super_complain("%s: there is no user %s", s->config->file, s->config->ssh_user);
    int r = make_dirs(s->config->run_dir, 0755);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(a.sun_path);
    if (r < 0 || s->listen_fd < 0 || bind(s->listen_fd, (void *)&a, sizeof(a)) < 0 ||
        chown(a.sun_path, pw->pw_uid, pw->pw_gid) < 0 || chmod(a.sun_path, 0600) < 0 ||
        listen(s->listen_fd, 64) < 0)
        return super_complain("relay socket %s: %s", a.sun_path,
                              r < 0 ? err_text(r) : strerror(errno));
    return 0;
}

static int open_devices(struct super *s)
{
    struct utsname u;
    unsigned major = 0, minor = 0;
    s->args.fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    s->args.control_fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (s->args.fuse_fd < 0 || s->args.control_fuse_fd < 0)
        return super_complain("/dev/fuse: %s (expected the kernel module fuse)", strerror(errno));
    s->args.fanotify_fd =
        fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE,
                      O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NONBLOCK);
    if (s->args.fanotify_fd < 0)
        return super_complain("fanotify: %s", strerror(errno));
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
        return super_complain("the kernel has no FUSE: %s", strerror(errno));
    snprintf(fd, sizeof(fd), "%d", s->args.fuse_fd);
    const char *set[][2] = {{"source", "farmfs"},  {"subtype", "farmfs"}, {"fd", fd},
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
    return s->mount_fd < 0 ? super_complain("cannot make the mount: %s", strerror(errno)) : 0;
}

int super_prepare(struct super *s)
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
        return super_complain("%s", why);
    r = check_mark(s);
    if (r < 0)
        return r;
    s->args.staging = &s->staging;
    s->args.hide = inside ? ".farmfs" : NULL;
    s->args.shared = mmap(NULL, sizeof(*s->args.shared), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s->args.shared == MAP_FAILED)
        return super_complain("no memory");
    do
        io_random(&s->args.shared->conn, sizeof(s->args.shared->conn));
    while (s->args.shared->conn == 0);
    snprintf(s->control, sizeof(s->control), "%s/.farm", s->config->dir);
    r = open_devices(s);
    if (r == 0)
        r = open_relay_socket(s);
    return r == 0 ? open_super_block(s) : r;
}
