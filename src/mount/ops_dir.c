/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Listings. Stateless: every request opens the directory anew and goes on at the backing offset. */
#include "mount/mount_i.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INO_UNKNOWN 0xffffffffu /* as libfuse's own */
#define GETDENTS_MAX (32u * 1024u)

struct getdents {
    uint64_t ino;
    int64_t off;
    uint16_t len;
    uint8_t type;
    char name[];
};

/* One listing: entries go into the thread's buffer behind the room for getdents64. */
struct listing {
    fuse_req_t req;
    struct mount *m;
    uint64_t lid;
    int fd;
    bool plus;
    char *out;
    size_t used, size;
};

/* The number that stat() would show; no lid is made for a name that is only listed. */
static uint64_t listed_ino(const struct listing *l, const char *name)
{
    struct handle h;
    struct node_ref ref;
    if (strcmp(name, ".") == 0)
        return ino_of(l->lid);
    if (strcmp(name, "..") == 0 && l->lid == LID_ROOT)
        return INO_TOP;
    if (handle_of_name(l->fd, name, &h) < 0 || nodes_find(l->m->env.nodes, &h, &ref) < 0)
        return INO_UNKNOWN;
    return ino_of(ref.lid);
}

static size_t add_plain(struct listing *l, const struct getdents *d)
{
    struct stat st = {.st_ino = listed_ino(l, d->name), .st_mode = (mode_t)d->type << 12};
    return fuse_add_direntry(l->req, l->out + l->used, l->size - l->used, d->name, &st, d->off);
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* With a lookup of the entry, which counts only when it fits: so see first whether it does. */
static size_t add_plus(struct listing *l, const struct getdents *d)
{
    struct fuse_entry_param e = {0};
    struct found f;
    size_t need = fuse_add_direntry_plus(l->req, NULL, 0, d->name, &e, d->off);
    if (need > l->size - l->used)
        return need;
    e.attr.st_mode = (mode_t)d->type << 12;
    if (!is_dots(d->name)) {
        uint64_t key = claims_key(l->lid, d->name, (uint8_t)strlen(d->name));
        claims_take(l->m->env.claims, key, 0);
        int r = found_name(l->m, l->lid, l->fd, d->name, &f);
        claims_drop(l->m->env.claims, key, 0);
        if (r == -ENOENT)
            return 0; /* gone since it was read */
        if (r == 0)
            entry_fill(&f, &e);
    }
    if (e.ino == 0)
        e.attr.st_ino = listed_ino(l, d->name);
    return fuse_add_direntry_plus(l->req, l->out + l->used, l->size - l->used, d->name, &e, d->off);
}

/* A block of entries; false when the answer is full. */
static bool add_block(struct listing *l, const uint8_t *block, size_t n)
{
    for (size_t at = 0; at < n;) {
        const struct getdents *d = (const void *)(block + at);
        at += d->len;
        if (!capture_visible(l->m, l->lid, d->name))
            continue;
        size_t len = l->plus ? add_plus(l, d) : add_plain(l, d);
        if (len > l->size - l->used)
            return false;
        l->used += len;
    }
    return true;
}

static int list(struct listing *l, off_t off)
{
    uint8_t *block = mount_self->io;
    if (off != 0 && lseek(l->fd, off, SEEK_SET) < 0)
        return -errno;
    for (;;) {
        long n = syscall(SYS_getdents64, l->fd, block, GETDENTS_MAX);
        if (n < 0)
            return errno == ENOENT ? 0 : -errno; /* a removed directory is empty */
        if (n == 0 || !add_block(l, block, (size_t)n))
            return 0;
    }
}

static int list_lid(struct listing *l, off_t off)
{
    struct node_fd *ref;
    int dirfd;
    if (l->lid == LID_CONTROL)
        return 0;
    int r = dir_get(l->m, l->lid, &ref, &dirfd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    l->fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = l->fd < 0 ? (errno == ENOENT || errno == ESTALE ? 0 : -errno) : 0;
    nodes_put_fd(l->m->env.nodes, ref);
    if (l->fd < 0)
        return r;
    r = list(l, off);
    close(l->fd);
    return r;
}

static void answer(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
    struct listing l = {.req = req, .m = mount_of(req), .lid = lid_of(ino), .plus = plus};
    l.out = (char *)mount_self->io + GETDENTS_MAX;
    l.size = size > MOUNT_IO_MAX - GETDENTS_MAX ? MOUNT_IO_MAX - GETDENTS_MAX : size;
    int r = list_lid(&l, off);
    if (r < 0)
        reply_code(req, r);
    else
        fuse_reply_buf(req, l.out, l.used);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    (void)fi;
    answer(req, ino, size, off, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                           struct fuse_file_info *fi)
{
    (void)fi;
    answer(req, ino, size, off, true);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    struct node_fd *ref;
    int dirfd;
    (void)fi;
    int r = dir_get(m, lid_of(ino), &ref, &dirfd);
    if (r < 0) { /* nothing is to be synced of a removed one */
        reply_code(req, r == -ENOENT ? 0 : r);
        return;
    }
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (data_only != 0 ? fdatasync(fd) : fsync(fd)) < 0)
        r = -errno;
    if (fd >= 0)
        close(fd);
    nodes_put_fd(m->env.nodes, ref);
    reply_code(req, r);
}

void ops_dir_set(struct fuse_lowlevel_ops *o)
{
    o->readdir = op_readdir;
    o->readdirplus = op_readdirplus;
    o->fsyncdir = op_fsyncdir;
}
