/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attributes, extended attributes, link targets, statfs. */
#include "mount/mount_i.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/limits.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

static int attr_of(struct mount *m, fuse_ino_t ino, struct stat *st)
{
    struct fuse_entry_param e;
    struct found f;
    if (ino == LID_CONTROL) {
        entry_control(m, &e);
        *st = e.attr;
        return 0;
    }
    int r = found_lid(m, ino == INO_TOP ? LID_ROOT : lid_of(ino), &f);
    if (r < 0)
        return r;
    *st = f.st;
    if (ino == INO_TOP)
        st->st_ino = INO_TOP;
    return 0;
}

static void reply_attr(fuse_req_t req, int r, fuse_ino_t ino)
{
    struct stat st;
    if (r == 0)
        r = attr_of(mount_of(req), ino, &st);
    if (r < 0)
        reply_code(req, r);
    else
        fuse_reply_attr(req, &st, CACHE_FOR);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    reply_attr(req, 0, ino);
}

static int chmod_fd(int fd, mode_t mode)
{
    char path[PROC_FD_LEN];
    proc_fd(fd, path);
    return chmod(path, mode) < 0 ? -errno : 0;
}

/* chown drops set-id bits by itself; this is for one that changes nothing, and for root's groups.
 */
static int drop_setid(fuse_req_t req, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    mode_t drop = data_setid(req, &st);
    return drop != 0 ? chmod_fd(fd, st.st_mode & 07777 & ~drop) : 0;
}

static int set_times(int fd, const struct stat *a, int set)
{
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    if (set & FUSE_SET_ATTR_ATIME_NOW)
        t[0].tv_nsec = UTIME_NOW;
    else if (set & FUSE_SET_ATTR_ATIME)
        t[0] = a->st_atim;
    if (set & FUSE_SET_ATTR_MTIME_NOW)
        t[1].tv_nsec = UTIME_NOW;
    else if (set & FUSE_SET_ATTR_MTIME)
        t[1] = a->st_mtim;
    return utimensat(fd, "", t, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

#define SET_OWNER (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)
#define SET_MTIME (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)
#define SET_TIMES (SET_MTIME | FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW)

static int attr_apply(fuse_req_t req, int fd, const struct stat *a, int set)
{
    int r = 0;
    if (set & SET_OWNER) {
        uid_t uid = set & FUSE_SET_ATTR_UID ? a->st_uid : (uid_t)-1;
        gid_t gid = set & FUSE_SET_ATTR_GID ? a->st_gid : (gid_t)-1;
        if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
            r = -errno;
    }
    if (r == 0 && mount_self->kill_priv && !(set & FUSE_SET_ATTR_SIZE))
        r = drop_setid(req, fd);
    if (r == 0 && set & FUSE_SET_ATTR_MODE)
        r = chmod_fd(fd, a->st_mode & 07777);
    if (r == 0 && set & SET_TIMES)
        r = set_times(fd, a, set);
    return r;
}

/* Any change of an inode's attributes, logged before and after (not for orphans). */
typedef int (*attr_change)(int fd, const void *arg);

static int attr_logged(struct mount *m, uint64_t lid, uint16_t flags, attr_change f,
                       const void *arg)
{
    struct node_fd *ref;
    struct change c;
    int fd;
    change_open(&c, m, INTENT_ATTR);
    c.in.lid = lid;
    c.in.flags = flags;
    if (change_answered(&c))
        return c.in.result;
    int r = nodes_get_fd(m->env.nodes, lid, NODES_PATH, &ref, &fd);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    if (!departed_has(&m->departed, lid))
        r = change_begin(&c);
    if (r == 0)
        r = f(fd, arg);
    nodes_put_fd(m->env.nodes, ref);
    return change_end(&c, r);
}

struct attr_args {
    fuse_req_t req;
    const struct stat *a;
    int set;
};

static int attr_call(int fd, const void *arg)
{
    const struct attr_args *x = arg;
    return attr_apply(x->req, fd, x->a, x->set);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *a, int set,
                       struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    uint64_t lid = lid_of(ino);
    bool resize = set & FUSE_SET_ATTR_SIZE;
    int r = 0;
    if (ino == LID_CONTROL || ino == INO_TOP) {
        reply_code(req, -EPERM);
        return;
    }
    /* truncate(2) has no close that would seal it. open(O_TRUNC) looks the same, but its close will
     * come; a truncate to nothing is left to the seal timer. */
    if (resize)
        r = data_resize(req, lid, a->st_size, fi == NULL && a->st_size != 0);
    if (r == 0 && (set & (SET_OWNER | SET_TIMES | FUSE_SET_ATTR_MODE) ||
                   (mount_self->kill_priv && !resize))) {
        struct attr_args x = {req, a, set};
        r = attr_logged(m, lid, set & SET_MTIME ? INTENT_F_EXPLICIT : 0, attr_call, &x);
    }
    reply_attr(req, r, ino);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct mount *m = mount_of(req);
    struct node_fd *ref;
    char target[PATH_MAX + 1];
    int fd;
    int r = nodes_get_fd(m->env.nodes, lid_of(ino), NODES_PATH, &ref, &fd);
    if (r < 0) {
        reply_code(req, r == -ENOENT ? -ESTALE : r);
        return;
    }
    ssize_t n = readlinkat(fd, "", target, sizeof(target) - 1);
    r = n < 0 ? -errno : 0;
    nodes_put_fd(m->env.nodes, ref);
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    target[n] = '\0';
    fuse_reply_readlink(req, target);
}

struct xattr_args {
    const char *name, *value;
    size_t size;
    int flags;
    fuse_req_t req; /* NULL: the caller's groups do not matter */
};

/* The kernel takes the set-gid bit away when an ACL is set by one who is not in the file's group;
 * of us it does not, since we may do anything. */
static int drop_setgid(const struct xattr_args *x, int fd, const char *path)
{
    struct stat st;
    if (x->req == NULL)
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!(st.st_mode & S_ISGID) || data_in_group(x->req, st.st_gid))
        return 0;
    return chmod(path, st.st_mode & 07777 & ~(mode_t)S_ISGID) < 0 ? -errno : 0;
}

static int xattr_set_call(int fd, const void *arg)
{
    const struct xattr_args *x = arg;
    char path[PROC_FD_LEN];
    proc_fd(fd, path);
    if (setxattr(path, x->name, x->value, x->size, x->flags) < 0)
        return -errno;
    return drop_setgid(x, fd, path);
}

static int xattr_remove_call(int fd, const void *arg)
{
    const struct xattr_args *x = arg;
    char path[PROC_FD_LEN];
    proc_fd(fd, path);
    return removexattr(path, x->name) < 0 ? -errno : 0;
}

static bool no_xattrs(fuse_ino_t ino)
{
    return ino == LID_CONTROL || ino == INO_TOP;
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    bool acl = strcmp(name, "system.posix_acl_access") == 0 && fuse_req_ctx(req)->uid != 0;
    struct xattr_args x = {name, value, size, flags, acl ? req : NULL};
    reply_code(req, no_xattrs(ino)
                        ? -EPERM
                        : attr_logged(mount_of(req), lid_of(ino), 0, xattr_set_call, &x));
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct xattr_args x = {.name = name};
    reply_code(req, no_xattrs(ino)
                        ? -EPERM
                        : attr_logged(mount_of(req), lid_of(ino), 0, xattr_remove_call, &x));
}

/* Names of trusted.* are for the administrator only. Returns the length that is left. */
static size_t hide_trusted(char *list, size_t n)
{
    size_t to = 0;
    for (size_t at = 0; at < n;) {
        size_t len = strlen(list + at) + 1;
        if (strncmp(list + at, "trusted.", 8) != 0) {
            memmove(list + to, list + at, len);
            to += len;
        }
        at += len;
    }
    return to;
}

/* name NULL: the list of names. The whole value into the thread's buffer. */
static ssize_t xattr_read(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct mount *m = mount_of(req);
    struct node_fd *ref;
    char path[PROC_FD_LEN];
    char *out = (char *)mount_self->io;
    int fd;
    if (no_xattrs(ino))
        return name == NULL ? 0 : -ENODATA;
    int r = nodes_get_fd(m->env.nodes, lid_of(ino), NODES_PATH, &ref, &fd);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    proc_fd(fd, path);
    ssize_t n = name != NULL ? getxattr(path, name, out, XATTR_SIZE_MAX)
                             : listxattr(path, out, XATTR_LIST_MAX);
    if (n < 0)
        n = -errno;
    nodes_put_fd(m->env.nodes, ref);
    if (n > 0 && name == NULL && fuse_req_ctx(req)->uid != 0)
        n = (ssize_t)hide_trusted(out, (size_t)n);
    return n;
}

static void reply_xattr(fuse_req_t req, ssize_t n, size_t size)
{
    if (n < 0)
        reply_code(req, (int)n);
    else if (size == 0)
        fuse_reply_xattr(req, (size_t)n);
    else if ((size_t)n > size)
        reply_code(req, -ERANGE);
    else
        fuse_reply_buf(req, (const char *)mount_self->io, (size_t)n);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    reply_xattr(req, xattr_read(req, ino, name), size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    reply_xattr(req, xattr_read(req, ino, NULL), size);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs s;
    (void)ino;
    if (fstatvfs(mount_of(req)->env.rootfd, &s) < 0)
        reply_code(req, -errno);
    else
        fuse_reply_statfs(req, &s);
}

static void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg,
                     struct fuse_file_info *fi, unsigned flags, const void *in, size_t in_size,
                     size_t out_size)
{
    (void)ino;
    (void)cmd;
    (void)arg;
    (void)fi;
    (void)flags;
    (void)in;
    (void)in_size;
    (void)out_size;
    reply_code(req, -ENOTTY);
}

void ops_attr_set(struct fuse_lowlevel_ops *o)
{
    o->getattr = op_getattr;
    o->setattr = op_setattr;
    o->readlink = op_readlink;
    o->setxattr = op_setxattr;
    o->getxattr = op_getxattr;
    o->listxattr = op_listxattr;
    o->removexattr = op_removexattr;
    o->statfs = op_statfs;
    o->ioctl = op_ioctl;
}
