/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/staging.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define WHY_BYTES 256
#define NAME_INSIDE ".farmfs"
#define NAME_SIBLING ".farmfs."
#define NAME_BYTES 32
#define PROBE_XATTR "user.farmfs.probe"

static const struct staging closed = {-1, -1, -1, -1, -1, -1, -1};

static int refuse(char *why, int code, const char *dir, const char *lacks)
{
    snprintf(why, WHY_BYTES, "the file system of %.128s %s", dir, lacks);
    return code;
}

/* Are these two on one mount, so that rename works between them? st_dev alone does not tell (bind
 * mounts), a trial would leave its mark on the folder's times. Renaming to "." always fails, but
 * the kernel looks at the mounts first. */
static int same_mount(int a, int b)
{
    struct stat sa, sb;
    if (fstat(a, &sa) < 0 || fstat(b, &sb) < 0)
        return -errno;
    if (sa.st_dev != sb.st_dev)
        return -EXDEV;
    if (renameat(a, "in", b, ".") < 0 && errno == EXDEV)
        return -EXDEV;
    return 0;
}

/* Opens a directory of our own, made when absent. */
static int dir_open(int at, const char *name, int *fd, bool *made)
{
    *made = mkdirat(at, name, 0700) == 0;
    if (!*made && errno != EEXIST)
        return -errno;
    CLEANUP_FD int d = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (d < 0 || fstat(d, &st) < 0)
        return -errno;
    if (st.st_uid != geteuid())
        return -EPERM;
    if ((st.st_mode & 07777) != 0700 && fchmod(d, 0700) < 0)
        return -errno;
    *fd = take_fd(&d);
    return 0;
}

/* The area at `name` in `at`, if it is on the folder's mount. */
static int area_open(int at, const char *name, int rootfd, int *fd)
{
    bool made = false, made_in = false;
    CLEANUP_FD int d = -1;
    CLEANUP_FD int in = -1;
    int r = dir_open(at, name, &d, &made);
    if (r < 0)
        return r;
    r = dir_open(d, "in", &in, &made_in);
    if (r == 0)
        r = same_mount(d, rootfd);
    if (r == 0) {
        *fd = take_fd(&d);
        return 0;
    }
    if (made_in)
        unlinkat(d, "in", AT_REMOVEDIR);
    if (made)
        unlinkat(at, name, AT_REMOVEDIR);
    return r;
}

/* Directory and last component of an absolute path, without asking the file system: the folder may
 * be covered by our own mount, which nobody answers for yet. */
static int path_split(const char *path, char parent[PATH_MAX], char base[NAME_MAX + 1])
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    size_t slash = len;
    while (slash > 0 && path[slash - 1] != '/')
        slash--;
    if (slash == 0 || slash == len)
        return -EINVAL;
    if (slash >= PATH_MAX || len - slash > NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(parent, path, slash);
    parent[slash] = 0;
    memcpy(base, path + slash, len - slash);
    base[len - slash] = 0;
    return 0;
}

static int parent_open(const char *path, char base[NAME_MAX + 1], int *fd)
{
    char parent[PATH_MAX];
    int r = path_split(path, parent, base);
    if (r < 0)
        return r;
    *fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd < 0 ? -errno : 0;
}

static int sibling_open(const char *dir, int rootfd, int *fd)
{
    char base[NAME_MAX + 1], name[sizeof(NAME_SIBLING) + NAME_MAX];
    CLEANUP_FD int parent = -1;
    int r = parent_open(dir, base, &parent);
    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "%s%s", NAME_SIBLING, base);
    return area_open(parent, name, rootfd, fd);
}

/* 1: the folder itself; 2: a directory in it; 0: neither. */
static int depth_in(int dirfd, int rootfd)
{
    struct stat root, st, up;
    CLEANUP_FD int at = openat(dirfd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (at < 0 || fstat(rootfd, &root) < 0 || fstat(at, &st) < 0)
        return -errno;
    for (int depth = 1;; depth = 2) {
        if (st.st_dev == root.st_dev && st.st_ino == root.st_ino)
            return depth;
        int next = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (next < 0)
            return -errno;
        close(at);
        at = next;
        if (fstat(at, &up) < 0)
            return -errno;
        if (up.st_dev == st.st_dev && up.st_ino == st.st_ino)
            return 0;
        st = up;
    }
}

static int configured_open(const char *dir, int rootfd, const char *configured, int *fd,
                           bool *inside, char *why)
{
    char base[NAME_MAX + 1];
    CLEANUP_FD int parent = -1;
    int r = parent_open(configured, base, &parent);
    int depth = r < 0 ? r : depth_in(parent, rootfd);
    if (depth == 2 || (depth == 1 && strcmp(base, NAME_INSIDE) != 0)) {
        snprintf(why, WHY_BYTES, "the staging directory %.128s is inside the folder", configured);
        return -EINVAL;
    }
    r = depth < 0 ? depth : area_open(parent, base, rootfd, fd);
    if (r == -EXDEV)
        snprintf(why, WHY_BYTES,
                 "the staging directory %.100s is not on the file system (and mount) of %.80s",
                 configured, dir);
    else if (r < 0)
        snprintf(why, WHY_BYTES, "cannot use the staging directory %.128s: %.80s", configured,
                 err_text(r));
    else
        *inside = depth == 1;
    return r;
}

static int choose(const char *dir, int rootfd, const char *configured, int *fd, bool *inside,
                  char *why)
{
    if (configured != NULL)
        return configured_open(dir, rootfd, configured, fd, inside, why);
    /* once inside, always inside: what is kept there would come to light otherwise */
    bool had = faccessat(rootfd, NAME_INSIDE "/in", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (!had && sibling_open(dir, rootfd, fd) == 0) {
        *inside = false;
        return 0;
    }
    int r = area_open(rootfd, NAME_INSIDE, rootfd, fd);
    if (r < 0)
        snprintf(why, WHY_BYTES, "cannot make a staging directory beside or in %.128s: %.80s", dir,
                 err_text(r));
    else
        *inside = true;
    return r;
}

static int check_handles(const char *dir, int rootfd, char *why)
{
    struct handle h;
    CLEANUP_FD int fd = -1;
    int r = handle_of_fd(rootfd, &h);
    if (r == -EOPNOTSUPP)
        return refuse(why, r, dir, "has no file handles (overlayfs?)");
    if (r == -EOVERFLOW)
        return refuse(why, r, dir, "has file handles longer than 32 bytes");
    if (r == 0)
        r = handle_open(rootfd, &h, O_RDONLY | O_DIRECTORY, &fd);
    if (r == -EPERM)
        return refuse(why, r, dir, "may not be opened by handle (needs root)");
    return r < 0 ? refuse(why, r, dir, "cannot open files by handle (overlayfs?)") : 0;
}

static int check_exchange(struct staging *s, const char *a, const char *dir, char *why)
{
    char b[NAME_BYTES];
    CLEANUP_FD int fd = -1;
    int r = staging_create(s, b, &fd);
    if (r < 0)
        return refuse(why, r, dir, "takes no new file in the staging directory");
    if (renameat2(s->in, a, s->in, b, RENAME_EXCHANGE) < 0)
        r = refuse(why, -EOPNOTSUPP, dir, "has no rename with RENAME_EXCHANGE");
    staging_discard(s, b);
    return r;
}

static int check(struct staging *s, const char *dir, int rootfd, char *why)
{
    int r = check_handles(dir, rootfd, why);
    if (r < 0)
        return r;
    char name[NAME_BYTES];
    CLEANUP_FD int fd = -1;
    r = staging_create(s, name, &fd);
    if (r < 0)
        return refuse(why, r, dir, "takes no new file in the staging directory");
    if (fsetxattr(fd, PROBE_XATTR, "1", 1, 0) < 0)
        r = errno == EOPNOTSUPP ? refuse(why, -EOPNOTSUPP, dir, "has no user extended attributes")
                                : refuse(why, -errno, dir, "refuses user extended attributes");
    if (r == 0)
        r = check_exchange(s, name, dir, why);
    staging_discard(s, name);
    return r;
}

int staging_open(const char *dir, int rootfd, const char *configured, struct staging *out,
                 bool *inside, char *why)
{
    static const char *const names[] = {"in", "orphans", "hidden", "conflicts", "history", "old"};
    struct staging s = closed;
    int *const fds[] = {&s.in, &s.orphans, &s.hidden, &s.conflicts, &s.history, &s.old};
    bool is_inside = false, made;
    int r = choose(dir, rootfd, configured, &s.dirfd, &is_inside, why);
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]) && r == 0; i++)
        r = dir_open(s.dirfd, names[i], fds[i], &made);
    if (r < 0)
        snprintf(why, WHY_BYTES, "cannot make the staging directories of %.128s: %.80s", dir,
                 err_text(r));
    else
        r = check(&s, dir, rootfd, why);
    if (r < 0) {
        staging_close(&s);
        return r;
    }
    *out = s;
    *inside = is_inside;
    return 0;
}

void staging_close(struct staging *s)
{
    const int fds[] = {s->dirfd, s->in, s->orphans, s->hidden, s->conflicts, s->history, s->old};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    *s = closed;
}

/* The names in a directory, from its beginning, without disturbing the descriptor's offset. */
static int names_open(int dirfd, DIR **out)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        int r = -errno;
        close(fd);
        return r;
    }
    *out = d;
    return 0;
}

/* NULL at the end, or with *err set. */
static const char *names_next(DIR *d, int *err)
{
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (e == NULL) {
            *err = -errno;
            return NULL;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            return e->d_name;
    }
}

/* Empty the directory `name` of `top`: files go, directories in it move up into `top`. */
static int flatten(int top, const char *name)
{
    DIR *d = NULL;
    CLEANUP_FD int fd = openat(top, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = names_open(fd, &d);
    if (r < 0)
        return r;
    const char *e;
    while ((e = names_next(d, &r)) != NULL && r == 0) {
        if (unlinkat(fd, e, 0) == 0)
            continue;
        uint64_t n;
        char up[NAME_BYTES];
        io_random(&n, sizeof(n));
        snprintf(up, sizeof(up), "d%016" PRIx64, n);
        if (errno != EISDIR || renameat(fd, e, top, up) < 0)
            r = -errno;
    }
    closedir(d);
    return r;
}

/* Remove all below a directory: no recursion, whatever the depth. */
static int clear(int top)
{
    for (bool again = true; again;) {
        DIR *d = NULL;
        int r = names_open(top, &d);
        if (r < 0)
            return r;
        const char *e;
        again = false;
        while ((e = names_next(d, &r)) != NULL && r == 0) {
            if (unlinkat(top, e, 0) == 0)
                continue;
            if (errno != EISDIR)
                r = -errno;
            else
                r = flatten(top, e);
            if (r == 0 && unlinkat(top, e, AT_REMOVEDIR) < 0)
                r = -errno;
            again = true; /* there may be more than this reading of the directory shows */
        }
        closedir(d);
        if (r < 0)
            return r;
    }
    return 0;
}

int staging_clean(struct staging *s, bool orphans_too)
{
    int r = clear(s->in);
    if (r == 0)
        r = clear(s->old);
    if (r == 0 && orphans_too)
        r = clear(s->orphans);
    return r;
}

int staging_create(struct staging *s, char *name, int *fd)
{
    for (;;) {
        uint64_t n;
        char made[NAME_BYTES];
        io_random(&n, sizeof(n));
        snprintf(made, sizeof(made), "%016" PRIx64, n);
        int f = openat(s->in, made, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (f < 0 && errno == EEXIST)
            continue;
        if (f < 0)
            return -errno;
        memcpy(name, made, sizeof(made));
        *fd = f;
        return 0;
    }
}

static int fill(int from, int to, uint64_t size)
{
    bool shared = ioctl(to, FICLONE, from) == 0;
    if (ftruncate(to, (off_t)size) < 0)
        return -errno;
    return shared ? 0 : io_copy_range(from, to, 0, size);
}

int staging_clone(struct staging *s, int from, uint64_t size, char *name, int *fd)
{
    char made[NAME_BYTES];
    CLEANUP_FD int to = -1;
    int r = staging_create(s, made, &to);
    if (r < 0)
        return r;
    r = fill(from, to, size);
    if (r < 0) {
        staging_discard(s, made);
        return r;
    }
    memcpy(name, made, sizeof(made));
    *fd = take_fd(&to);
    return 0;
}

void staging_discard(struct staging *s, const char *name)
{
    unlinkat(s->in, name, 0); /* what stays is removed at the next start */
}

void staging_orphan_name(uint64_t lid, char *out)
{
    snprintf(out, 40, "%" PRIu64, lid);
}

void staging_id_name(struct id128 id, char *out)
{
    snprintf(out, 40, "%016" PRIx64 "-%016" PRIx64, id.node, id.n);
}

bool staging_id_parse(const char *name, struct id128 *out)
{
    char *end, again[40];
    struct id128 id;

    id.node = strtoull(name, &end, 16);
    if (*end != '-')
        return false;
    id.n = strtoull(end + 1, &end, 16);
    staging_id_name(id, again);
    if (strcmp(name, again) != 0)
        return false;
    *out = id;
    return true;
}

int staging_each(int dirfd, staging_visit f, void *arg)
{
    DIR *d = NULL;
    int r = names_open(dirfd, &d);
    if (r < 0)
        return r;
    const char *e;
    while ((e = names_next(d, &r)) != NULL && r == 0)
        r = f(arg, e);
    closedir(d);
    return r;
}

struct each_orphan {
    orphan_visit f;
    void *arg;
};

static int on_orphan(void *arg, const char *name)
{
    const struct each_orphan *o = arg;
    char *end, again[40];
    uint64_t lid = strtoull(name, &end, 10);
    staging_orphan_name(lid, again);
    return strcmp(name, again) == 0 ? o->f(o->arg, lid) : 0;
}

int staging_each_orphan(struct staging *s, orphan_visit f, void *arg)
{
    struct each_orphan o = {f, arg};
    return staging_each(s->orphans, on_orphan, &o);
}
