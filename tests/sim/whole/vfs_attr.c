/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attributes of files on the machine's disk; mappings, which go with their process. */
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int __real_chmod(const char *path, mode_t mode);
int __wrap_chmod(const char *path, mode_t mode);
int __wrap_chmod(const char *path, mode_t mode)
{
    struct inode *i;

    if (vfs_path(AT_FDCWD, path, &i))
        return -1;
    i->mode = (i->mode & S_IFMT) | (mode & 07777);
    inode_touch(i, false);
    return 0;
}

int __real_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode)
{
    struct inode *i = inode_of_fd(fd);

    point();
    if (!i)
        return __real_fchmod(fd, mode);
    i->mode = (i->mode & S_IFMT) | (mode & 07777);
    inode_touch(i, false);
    return 0;
}

int __wrap_fchownat(int d, const char *n, uid_t uid, gid_t gid, int flags);
int __wrap_fchownat(int d, const char *n, uid_t uid, gid_t gid, int flags)
{
    struct inode *i;

    (void)flags;
    if (vfs_path(d, n, &i))
        return -1;
    if (uid != (uid_t)-1)
        i->uid = uid;
    if (gid != (gid_t)-1)
        i->gid = gid;
    inode_touch(i, false);
    return 0;
}

int __wrap_utimensat(int d, const char *n, const struct timespec t[2], int flags);
int __wrap_utimensat(int d, const char *n, const struct timespec t[2], int flags)
{
    struct inode *i;

    (void)flags;
    if (vfs_path(d, n, &i))
        return -1;
    inode_touch(i, t[1].tv_nsec == UTIME_NOW);
    if (t[1].tv_nsec != UTIME_OMIT && t[1].tv_nsec != UTIME_NOW)
        i->mtime = t[1].tv_sec * 1000000000ll + t[1].tv_nsec;
    return 0;
}

static struct xattr_v *xattr_of(struct inode *i, const char *name)
{
    for (size_t k = 0; k < 4; k++)
        if (strcmp(i->x[k].name, name) == 0)
            return &i->x[k];
    return NULL;
}

static int xattr_set(struct inode *i, const char *name, const void *v, size_t n)
{
    struct xattr_v *x = xattr_of(i, name);

    if (!x)
        x = xattr_of(i, "");
    if (!x || n > sizeof x->value)
        return fail_errno(ENOSPC);
    snprintf(x->name, sizeof x->name, "%s", name);
    memcpy(x->value, v, n);
    x->n = n;
    inode_touch(i, false);
    return 0;
}

int __wrap_setxattr(const char *path, const char *name, const void *v, size_t n, int flags);
int __wrap_setxattr(const char *path, const char *name, const void *v, size_t n, int flags)
{
    struct inode *i;

    (void)flags;
    return vfs_path(AT_FDCWD, path, &i) ? -1 : xattr_set(i, name, v, n);
}

int __wrap_fsetxattr(int fd, const char *name, const void *v, size_t n, int flags);
int __wrap_fsetxattr(int fd, const char *name, const void *v, size_t n, int flags)
{
    struct inode *i = inode_of_fd(fd);

    (void)flags;
    point();
    return i ? xattr_set(i, name, v, n) : fail_errno(EBADF);
}

int __wrap_removexattr(const char *path, const char *name);
int __wrap_removexattr(const char *path, const char *name)
{
    struct inode *i;
    struct xattr_v *x;

    if (vfs_path(AT_FDCWD, path, &i))
        return -1;
    x = xattr_of(i, name);
    if (!x)
        return fail_errno(ENODATA);
    memset(x, 0, sizeof *x);
    inode_touch(i, false);
    return 0;
}

ssize_t __wrap_getxattr(const char *path, const char *name, void *v, size_t n);
ssize_t __wrap_getxattr(const char *path, const char *name, void *v, size_t n)
{
    const struct xattr_v *x;
    struct inode *i;

    if (vfs_path(AT_FDCWD, path, &i))
        return -1;
    x = xattr_of(i, name);
    if (!x)
        return fail_errno(ENODATA);
    if (n && n < x->n)
        return fail_errno(ERANGE);
    if (n)
        memcpy(v, x->value, x->n);
    return (ssize_t)x->n;
}

ssize_t __wrap_listxattr(const char *path, char *out, size_t n);
ssize_t __wrap_listxattr(const char *path, char *out, size_t n)
{
    struct inode *i;
    size_t used = 0;

    if (vfs_path(AT_FDCWD, path, &i))
        return -1;
    for (size_t k = 0; k < 4; k++) {
        size_t len = strlen(i->x[k].name) + 1;
        if (len == 1)
            continue;
        if (n && used + len > n)
            return fail_errno(ERANGE);
        if (n)
            memcpy(out + used, i->x[k].name, len);
        used += len;
    }
    return (ssize_t)used;
}

/* ---- mappings of the intent log ---- */

void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    void *p = __real_mmap(at, n, prot, flags, fd, off);

    for (size_t k = 0; self && p != MAP_FAILED && k < 8; k++) {
        if (self->proc->maps[k])
            continue;
        self->proc->maps[k] = p;
        self->proc->map_len[k] = n;
        break;
    }
    return p;
}

int __real_munmap(void *p, size_t n);
int __wrap_munmap(void *p, size_t n);
int __wrap_munmap(void *p, size_t n)
{
    for (size_t k = 0; self && k < 8; k++)
        if (self->proc->maps[k] == p)
            self->proc->maps[k] = NULL;
    return __real_munmap(p, n);
}
