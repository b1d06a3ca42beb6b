/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The file system calls of the worker, on the machine's disk. */
#include "whole.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

extern _Thread_local struct mount_thread *mount_self;

#define FILE_MAX_BYTES (8u << 20)
#define PROC "/proc/self/fd/"

/* ---- names ---- */

/* Is this path on a simulated disk, and where does it begin? */
static bool on_disk(int dirfd, const char *path, struct inode **at, const char **rest)
{
    if (strncmp(path, "/sim", 4) == 0 && path[4] >= '0' && path[4] <= '9') {
        *at = machines[path[4] - '0'].root;
        *rest = path + 5;
        return true;
    }
    struct desc *d = path[0] == '/' ? NULL : desc_of(dirfd);
    if (!d || d->kind != D_FILE)
        return false;
    *at = d->inode;
    *rest = path;
    return true;
}

static bool proc_path(const char *path, struct inode **i)
{
    struct desc *d =
        strncmp(path, PROC, sizeof PROC - 1) == 0 ? desc_of(atoi(path + sizeof PROC - 1)) : NULL;

    if (!d || d->kind != D_FILE)
        return false;
    *i = d->inode;
    return true;
}

/* The directory of the last component, which goes to name ("" or "." for the place itself). */
static int walk(struct inode *at, const char *path, struct inode **dir, char name[256])
{
    for (;;) {
        while (*path == '/')
            path++;
        size_t len = strcspn(path, "/");
        if (len > 255)
            return fail_errno(ENAMETOOLONG);
        memcpy(name, path, len);
        name[len] = 0;
        path += len;
        while (*path == '/')
            path++;
        if (!S_ISDIR(at->mode))
            return fail_errno(ENOTDIR);
        if (!*path) {
            *dir = at;
            return 0;
        }
        if (strcmp(name, ".") == 0)
            continue;
        struct inode *next = strcmp(name, "..") == 0 ? at->parent : dir_find(at, name);
        if (!next)
            return fail_errno(ENOENT);
        at = next;
    }
}

static int resolve(struct inode *at, const char *path, struct inode **out)
{
    struct inode *dir;
    char name[256];

    if (!*path) {
        *out = at;
        return 0;
    }
    if (walk(at, path, &dir, name))
        return -1;
    *out = !name[0] || strcmp(name, ".") == 0 ? dir
           : strcmp(name, "..") == 0          ? (dir->parent ? dir->parent : dir)
                                              : dir_find(dir, name);
    return *out ? 0 : fail_errno(ENOENT);
}

static bool gone(const struct inode *dir)
{
    return dir->nlink == 0;
}

static bool no_room(const struct machine *m)
{
    return m->full && !one_in(4);
}

/* ---- opening ---- */

int __real_open(const char *path, int flags, ...);
int __real_openat(int dirfd, const char *path, int flags, ...);

static int open_inode(struct inode *i, int flags)
{
    struct desc *d;

    if (!(flags & O_PATH)) {
        if (flags & O_DIRECTORY && !S_ISDIR(i->mode))
            return fail_errno(ENOTDIR);
        if (S_ISLNK(i->mode))
            return fail_errno(ELOOP);
        if (S_ISDIR(i->mode) && (flags & O_ACCMODE) != O_RDONLY)
            return fail_errno(EISDIR);
    }
    int fd = desc_new(D_FILE, i->machine, self ? self->proc : NULL, &d);
    if (fd < 0)
        return -1;
    d->inode = i;
    d->flags = flags;
    i->opens++;
    if (flags & O_TRUNC && S_ISREG(i->mode)) {
        inode_before_write(i);
        inode_resize(i, 0);
        inode_touch(i, true);
    }
    return fd;
}

static int open_at(struct inode *at, const char *path, int flags, mode_t mode)
{
    struct inode *dir, *i;
    char name[256];

    if (walk(at, path, &dir, name))
        return -1;
    if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return resolve(at, path, &i) ? -1 : open_inode(i, flags);
    i = dir_find(dir, name);
    if (i && flags & O_CREAT && flags & O_EXCL)
        return fail_errno(EEXIST);
    if (!i && !(flags & O_CREAT))
        return fail_errno(ENOENT);
    if (!i) {
        if (gone(dir))
            return fail_errno(ENOENT);
        if (no_room(dir->machine))
            return fail_errno(ENOSPC);
        i = inode_new(dir->machine, S_IFREG | (mode & 07777));
        disk_change(dir->machine, dir, name, i);
        disk_change_done(dir->machine);
    }
    return open_inode(i, flags);
}

int __wrap_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...)
{
    struct inode *at;
    const char *rest;
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    char boot[128];
    point();
    if (here() && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) {
        snprintf(boot, sizeof boot, "%s/boot_id", here()->state);
        path = boot;
    }
    if (proc_path(path, &at))
        return open_inode(at, flags);
    if (on_disk(dirfd, path, &at, &rest))
        return open_at(at, rest, flags, mode);
    int fd = __real_openat(dirfd, path, flags, mode);
    real_fd_opened(fd);
    return fd;
}

int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return __wrap_openat(AT_FDCWD, path, flags, mode);
}

struct inode *inode_of_fd(int fd)
{
    struct desc *d = desc_of(fd);
    return d && d->kind == D_FILE ? d->inode : NULL;
}

/* ---- handles ---- */

int __real_name_to_handle_at(int d, const char *n, struct file_handle *h, int *m, int f);
int __wrap_name_to_handle_at(int d, const char *n, struct file_handle *h, int *m, int f);
int __wrap_name_to_handle_at(int d, const char *n, struct file_handle *h, int *m, int f)
{
    struct inode *at, *i;
    const char *rest;

    (void)f;
    point();
    if (!on_disk(d, n, &at, &rest))
        return fail_errno(EBADF);
    if (resolve(at, rest, &i))
        return -1;
    *m = 1;
    h->handle_bytes = 8;
    h->handle_type = 1;
    memcpy(h->f_handle, &i->ino, 8);
    return 0;
}

int __wrap_open_by_handle_at(int fd, struct file_handle *h, int flags);
int __wrap_open_by_handle_at(int fd, struct file_handle *h, int flags)
{
    struct inode *root = inode_of_fd(fd), *i;
    uint64_t ino;

    point();
    if (!root || h->handle_bytes != 8)
        return fail_errno(ESTALE);
    memcpy(&ino, h->f_handle, 8);
    i = disk_by_ino(root->machine, ino);
    if (!i || (i->nlink == 0 && i->opens == 0))
        return fail_errno(ESTALE);
    return open_inode(i, flags);
}

/* ---- looking ---- */

static int stat_inode(const struct inode *i, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_dev = i->machine->i + 1;
    st->st_ino = i->ino;
    st->st_mode = i->mode;
    st->st_uid = i->uid;
    st->st_gid = i->gid;
    st->st_nlink = i->nlink;
    st->st_size = (off_t)i->size;
    st->st_blocks = (blkcnt_t)((i->size + 511) / 512);
    st->st_mtim = (struct timespec){i->mtime / 1000000000, i->mtime % 1000000000};
    st->st_ctim = (struct timespec){i->ctime / 1000000000, i->ctime % 1000000000};
    st->st_atim = st->st_mtim;
    return 0;
}

int __real_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st)
{
    struct inode *i = inode_of_fd(fd);

    point();
    return i ? stat_inode(i, st) : __real_fstat(fd, st);
}

int __real_fstatat(int d, const char *n, struct stat *st, int flags);
int __wrap_fstatat(int d, const char *n, struct stat *st, int flags);
int __wrap_fstatat(int d, const char *n, struct stat *st, int flags)
{
    struct inode *at, *i;
    const char *rest;

    point();
    if (!on_disk(d, n, &at, &rest))
        return __real_fstatat(d, n, st, flags);
    return resolve(at, rest, &i) ? -1 : stat_inode(i, st);
}

int __real_faccessat(int d, const char *n, int mode, int flags);
int __wrap_faccessat(int d, const char *n, int mode, int flags);
int __wrap_faccessat(int d, const char *n, int mode, int flags)
{
    struct inode *at, *i;
    const char *rest;

    point();
    if (!on_disk(d, n, &at, &rest))
        return __real_faccessat(d, n, mode, flags);
    return resolve(at, rest, &i);
}

/* Of a descriptor that the kernel's model made for a file that was closed. */
int __wrap_statx(int fd, const char *n, int flags, unsigned mask, struct statx *x);
int __wrap_statx(int fd, const char *n, int flags, unsigned mask, struct statx *x)
{
    struct desc *d = desc_of(fd);

    (void)n;
    (void)flags;
    (void)mask;
    point();
    if (!d || d->kind != D_CLOSED)
        return fail_errno(EBADF);
    memset(x, 0, sizeof *x);
    x->stx_ino = d->lid;
    x->stx_mode = S_IFREG;
    return 0;
}

ssize_t __real_readlinkat(int d, const char *n, char *out, size_t size);
ssize_t __wrap_readlinkat(int d, const char *n, char *out, size_t size);
ssize_t __wrap_readlinkat(int d, const char *n, char *out, size_t size)
{
    struct inode *at, *i;
    const char *rest;

    point();
    if (!on_disk(d, n, &at, &rest))
        return __real_readlinkat(d, n, out, size);
    if (resolve(at, rest, &i))
        return -1;
    if (!S_ISLNK(i->mode))
        return fail_errno(EINVAL);
    size = size < i->size ? size : i->size;
    memcpy(out, i->data, size);
    return (ssize_t)size;
}

int __real_fstatvfs(int fd, struct statvfs *s);
int __wrap_fstatvfs(int fd, struct statvfs *s);
int __wrap_fstatvfs(int fd, struct statvfs *s)
{
    const struct inode *i = inode_of_fd(fd);

    if (!i)
        return __real_fstatvfs(fd, s);
    memset(s, 0, sizeof *s);
    s->f_bsize = s->f_frsize = 4096;
    s->f_blocks = 1u << 20;
    s->f_bfree = s->f_bavail = i->machine->full ? 0 : 1u << 19;
    s->f_files = 1u << 20;
    s->f_ffree = 1u << 19;
    s->f_namemax = 255;
    return 0;
}

/* ---- directories ---- */

struct sim_dir {
    uint64_t magic;
    int fd;
    size_t at, n;
    char (*names)[256];
    struct dirent de;
};
#define DIR_MAGIC 0x73696d5f64697221ull

DIR *__real_fdopendir(int fd);
DIR *__wrap_fdopendir(int fd);
DIR *__wrap_fdopendir(int fd)
{
    const struct inode *i = inode_of_fd(fd);

    if (!i)
        return __real_fdopendir(fd);
    struct sim_dir *d = calloc(1, sizeof *d);
    if (!d)
        abort();
    d->magic = DIR_MAGIC;
    d->fd = fd;
    d->n = i->nnames;
    d->names = calloc(d->n ? d->n : 1, 256);
    if (!d->names)
        abort();
    for (size_t k = 0; k < d->n; k++)
        strcpy(d->names[k], i->names[k].name);
    return (DIR *)(void *)d;
}

static struct sim_dir *sim_dir(DIR *dir)
{
    struct sim_dir *d = (void *)dir;
    return d->magic == DIR_MAGIC ? d : NULL;
}

struct dirent *__real_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir)
{
    struct sim_dir *d = sim_dir(dir);

    point();
    if (!d)
        return __real_readdir(dir);
    if (d->at == d->n)
        return NULL;
    strcpy(d->de.d_name, d->names[d->at++]);
    d->de.d_type = DT_UNKNOWN;
    return &d->de;
}

int __real_closedir(DIR *dir);
int __wrap_closedir(DIR *dir);
int __wrap_closedir(DIR *dir)
{
    struct sim_dir *d = sim_dir(dir);

    if (!d)
        return __real_closedir(dir);
    desc_close(d->fd);
    free(d->names);
    free(d);
    return 0;
}

/* ---- making and moving ---- */

static int make(int dirfd, const char *path, mode_t mode, const char *target)
{
    struct inode *at, *dir, *i;
    const char *rest;
    char name[256];

    point();
    if (!on_disk(dirfd, path, &at, &rest))
        return fail_errno(EBADF);
    if (walk(at, rest, &dir, name))
        return -1;
    if (dir_find(dir, name))
        return fail_errno(EEXIST);
    if (gone(dir))
        return fail_errno(ENOENT);
    if (no_room(dir->machine))
        return fail_errno(ENOSPC);
    i = inode_new(dir->machine, mode);
    if (target) {
        inode_resize(i, strlen(target));
        memcpy(i->data, target, i->size);
    }
    disk_change(dir->machine, dir, name, i);
    disk_change_done(dir->machine);
    return 0;
}

int __real_mkdirat(int d, const char *n, mode_t mode);
int __wrap_mkdirat(int d, const char *n, mode_t mode);
int __wrap_mkdirat(int d, const char *n, mode_t mode)
{
    struct inode *at;
    const char *rest;

    return on_disk(d, n, &at, &rest) ? make(d, n, S_IFDIR | (mode & 07777), NULL)
                                     : __real_mkdirat(d, n, mode);
}

int __wrap_mknodat(int d, const char *n, mode_t mode, dev_t dev);
int __wrap_mknodat(int d, const char *n, mode_t mode, dev_t dev)
{
    (void)dev;
    return make(d, n, mode & S_IFMT ? mode : mode | S_IFREG, NULL);
}

int __wrap_symlinkat(const char *target, int d, const char *n);
int __wrap_symlinkat(const char *target, int d, const char *n)
{
    return make(d, n, S_IFLNK | 0777, target);
}

int __wrap_linkat(int d1, const char *n1, int d2, const char *n2, int flags);
int __wrap_linkat(int d1, const char *n1, int d2, const char *n2, int flags)
{
    struct inode *at, *i, *dir;
    const char *rest;
    char name[256];

    (void)flags;
    point();
    if (!on_disk(d1, n1, &at, &rest))
        return fail_errno(EBADF);
    if (resolve(at, rest, &i))
        return -1;
    if (!on_disk(d2, n2, &at, &rest))
        return fail_errno(EBADF);
    if (walk(at, rest, &dir, name))
        return -1;
    if (S_ISDIR(i->mode))
        return fail_errno(EPERM);
    if (i->nlink == 0 || gone(dir))
        return fail_errno(ENOENT);
    if (dir_find(dir, name))
        return fail_errno(EEXIST);
    if (no_room(dir->machine))
        return fail_errno(ENOSPC);
    check_installed(i, dir, dir);
    disk_change(dir->machine, dir, name, i);
    disk_change_done(dir->machine);
    inode_touch(i, false);
    return 0;
}

int __real_unlinkat(int d, const char *n, int flags);
int __wrap_unlinkat(int d, const char *n, int flags);
int __wrap_unlinkat(int d, const char *n, int flags)
{
    struct inode *at, *dir, *i;
    const char *rest;
    char name[256];

    point();
    if (!on_disk(d, n, &at, &rest))
        return __real_unlinkat(d, n, flags);
    if (walk(at, rest, &dir, name))
        return -1;
    i = dir_find(dir, name);
    if (!i)
        return fail_errno(ENOENT);
    if (S_ISDIR(i->mode) != !!(flags & AT_REMOVEDIR))
        return fail_errno(S_ISDIR(i->mode) ? EISDIR : ENOTDIR);
    if (S_ISDIR(i->mode) && i->nnames)
        return fail_errno(ENOTEMPTY);
    if (mount_self) /* for an application */
        i->removed = true;
    disk_change(dir->machine, dir, name, NULL);
    disk_change_done(dir->machine);
    inode_touch(i, false);
    return 0;
}

static int rename_check(struct inode *from, struct inode *dir1, struct inode *dir2,
                        struct inode *to, unsigned flags)
{
    if (!from)
        return fail_errno(ENOENT);
    if (gone(dir2))
        return fail_errno(ENOENT);
    if (flags & RENAME_NOREPLACE && to)
        return fail_errno(EEXIST);
    if (flags & RENAME_EXCHANGE && !to)
        return fail_errno(ENOENT);
    if (S_ISDIR(from->mode) && inode_below(dir2, from))
        return fail_errno(EINVAL);
    if (to && S_ISDIR(to->mode) && inode_below(dir1, to))
        return fail_errno(flags & RENAME_EXCHANGE ? EINVAL : ENOTEMPTY);
    if (!to || flags & RENAME_EXCHANGE)
        return 0;
    if (S_ISDIR(from->mode) != S_ISDIR(to->mode))
        return fail_errno(S_ISDIR(to->mode) ? EISDIR : ENOTDIR);
    return S_ISDIR(to->mode) && to->nnames ? fail_errno(ENOTEMPTY) : 0;
}

int __real_renameat(int d1, const char *n1, int d2, const char *n2);
int __wrap_renameat2(int d1, const char *n1, int d2, const char *n2, unsigned flags);
int __wrap_renameat2(int d1, const char *n1, int d2, const char *n2, unsigned flags)
{
    struct inode *at, *dir1, *dir2;
    const char *rest;
    char name1[256], name2[256];

    point();
    if (!on_disk(d1, n1, &at, &rest))
        return __real_renameat(d1, n1, d2, n2);
    if (walk(at, rest, &dir1, name1))
        return -1;
    if (!on_disk(d2, n2, &at, &rest))
        return fail_errno(EXDEV);
    if (walk(at, rest, &dir2, name2))
        return -1;
    struct inode *from = dir_find(dir1, name1), *to = dir_find(dir2, name2);
    if (strcmp(name2, ".") == 0)
        return fail_errno(EBUSY);
    if (rename_check(from, dir1, dir2, to, flags))
        return -1;
    if (from == to)
        return 0;
    check_installed(from, dir1, dir2);
    struct machine *m = dir1->machine;
    if (mount_self && to && !(flags & RENAME_EXCHANGE))
        to->removed = true;
    if (mount_self && !inode_below(dir2, m->tree))
        from->removed = true;
    disk_change(m, dir1, name1, flags & RENAME_EXCHANGE ? to : NULL);
    disk_change(m, dir2, name2, from);
    disk_change_done(m);
    inode_touch(from, false);
    if (to)
        inode_touch(to, false);
    return 0;
}

int __wrap_renameat(int d1, const char *n1, int d2, const char *n2);
int __wrap_renameat(int d1, const char *n1, int d2, const char *n2)
{
    return __wrap_renameat2(d1, n1, d2, n2, 0);
}

/* ---- data ---- */

ssize_t __real_pread(int fd, void *p, size_t n, off_t off);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t off);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t off)
{
    const struct inode *i = inode_of_fd(fd);

    point();
    if (!i)
        return __real_pread(fd, p, n, off);
    if ((size_t)off >= i->size)
        return 0;
    if (n > i->size - (size_t)off)
        n = i->size - (size_t)off;
    if (n > 1 && one_in(16))
        n = 1 + below(n);
    memcpy(p, i->data + off, n);
    return (ssize_t)n;
}

ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t off);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t off);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t off)
{
    struct inode *i = inode_of_fd(fd);

    point();
    if (!i)
        return __real_pwrite(fd, p, n, off);
    if (no_room(i->machine))
        return fail_errno(ENOSPC);
    if ((size_t)off + n > FILE_MAX_BYTES)
        return fail_errno(EFBIG);
    if (n > 1 && one_in(32))
        n = 1 + below(n);
    inode_before_write(i);
    if ((size_t)off + n > i->size)
        inode_resize(i, (size_t)off + n);
    memcpy(i->data + off, p, n);
    inode_touch(i, true);
    return (ssize_t)n;
}

int __real_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size)
{
    struct inode *i = inode_of_fd(fd);

    point();
    if (!i)
        return __real_ftruncate(fd, size);
    if (size > FILE_MAX_BYTES)
        return fail_errno(EFBIG);
    inode_before_write(i);
    inode_resize(i, (size_t)size);
    inode_touch(i, true);
    return 0;
}

int __real_fallocate(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate(int fd, int mode, off_t off, off_t len)
{
    struct inode *i = inode_of_fd(fd);

    point();
    if (!i)
        return __real_fallocate(fd, mode, off, len);
    if (no_room(i->machine))
        return fail_errno(ENOSPC);
    if (off + len > FILE_MAX_BYTES)
        return fail_errno(EFBIG);
    inode_before_write(i);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && (size_t)(off + len) > i->size)
        inode_resize(i, (size_t)(off + len));
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && (size_t)off < i->size)
        memset(i->data + off, 0,
               (size_t)(off + len) < i->size ? (size_t)len : i->size - (size_t)off);
    inode_touch(i, true);
    return 0;
}

off_t __real_lseek(int fd, off_t off, int whence);
off_t __wrap_lseek(int fd, off_t off, int whence);
off_t __wrap_lseek(int fd, off_t off, int whence)
{
    const struct inode *i = inode_of_fd(fd);

    if (!i)
        return __real_lseek(fd, off, whence);
    if (whence == SEEK_DATA || whence == SEEK_HOLE) {
        if ((size_t)off >= i->size)
            return fail_errno(ENXIO);
        return whence == SEEK_DATA ? off : (off_t)i->size;
    }
    return off;
}

ssize_t __wrap_copy_file_range(int from, off_t *in, int to, off_t *out, size_t n, unsigned flags);
ssize_t __wrap_copy_file_range(int from, off_t *in, int to, off_t *out, size_t n, unsigned flags)
{
    const struct inode *a = inode_of_fd(from);
    struct inode *b = inode_of_fd(to);

    (void)flags;
    point();
    if (!a || !b)
        return fail_errno(EXDEV);
    if ((size_t)*in >= a->size)
        return 0;
    if (n > a->size - (size_t)*in)
        n = a->size - (size_t)*in;
    if (no_room(b->machine))
        return fail_errno(ENOSPC);
    inode_before_write(b);
    if ((size_t)*out + n > b->size)
        inode_resize(b, (size_t)*out + n);
    memmove(b->data + *out, a->data + *in, n);
    inode_touch(b, true);
    *in += (off_t)n;
    *out += (off_t)n;
    return (ssize_t)n;
}

int __wrap_ioctl(int fd, unsigned long op, ...);
int __wrap_ioctl(int fd, unsigned long op, ...)
{
    (void)fd;
    (void)op;
    return fail_errno(EOPNOTSUPP); /* no reflinks */
}

int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    struct inode *i = inode_of_fd(fd);

    point();
    if (!i) {
        if (here())
            machine_index_synced(here());
        return 0;
    }
    inode_sync(i);
    return 0;
}

int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    return __wrap_fsync(fd);
}

int __real_syncfs(int fd);
int __wrap_syncfs(int fd);
int __wrap_syncfs(int fd)
{
    struct inode *i = inode_of_fd(fd);

    point();
    if (!i)
        return __real_syncfs(fd);
    for (size_t k = 0; k < i->machine->ninodes; k++)
        inode_sync(i->machine->inodes[k]);
    return 0;
}

/* ---- for the calls on attributes ---- */

int vfs_path(int d, const char *path, struct inode **i)
{
    const char *rest;
    struct inode *at;

    point();
    if (proc_path(path, i))
        return 0;
    if (!on_disk(d, path, &at, &rest))
        return fail_errno(ENOENT);
    return resolve(at, rest, i);
}
