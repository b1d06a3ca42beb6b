/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mount/mount_i.h"

#include "core/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

uint8_t entry_type(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR: return NODE_DIR;
    case S_IFLNK: return NODE_LNK;
    case S_IFIFO: return NODE_FIFO;
    case S_IFCHR: return NODE_CHR;
    case S_IFBLK: return NODE_BLK;
    case S_IFSOCK: return NODE_SOCK;
    default: return NODE_REG;
    }
}

void proc_fd(int fd, char out[PROC_FD_LEN])
{
    snprintf(out, PROC_FD_LEN, "/proc/self/fd/%d", fd);
}

/* An inode the index has not heard of: made behind the mount's back, or not scanned yet. */
static int found_new(struct mount *m, uint64_t parent, const char *name, const struct handle *h,
                     struct found *out)
{
    uint64_t lid;
    int r = nodes_new_lid(m->env.nodes, &lid);
    if (r < 0)
        return r;
    r = nodes_add(m->env.nodes, lid, entry_type(out->st.st_mode), h, &out->ref);
    if (r < 0 || out->ref.lid != lid)
        return r;
    struct intent in = {.op = INTENT_FOUND,
                        .conn = m->env.shared->conn,
                        .parent = parent,
                        .lid = lid,
                        .mode = out->st.st_mode,
                        .handle = *h,
                        .name1_len = (uint8_t)strlen(name)};
    memcpy(in.name1, name, in.name1_len);
    return intent_add(m->env.intents, &in);
}

static void show(struct mount *m, struct found *f)
{
    f->st.st_ino = ino_of(f->ref.lid);
    struct node_ref ref;
    if (f->st.st_nlink == 0 || S_ISDIR(f->st.st_mode) || !departed_has(&m->departed, f->ref.lid))
        return;
    /* The links that an orphan has are ours: among the orphans, and in the history. */
    if (nodes_get(m->env.nodes, f->ref.lid, &ref) == 0 && ref.orphan)
        f->st.st_nlink = 0;
    else
        f->st.st_nlink--;
}

int found_name(struct mount *m, uint64_t parent, int dirfd, const char *name, struct found *out)
{
    struct handle h;
    if (fstatat(dirfd, name, &out->st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    int r = handle_of_name(dirfd, name, &h);
    if (r < 0)
        return r;
    r = nodes_find(m->env.nodes, &h, &out->ref);
    if (r == -ENOENT)
        r = found_new(m, parent, name, &h, out);
    if (r == 0)
        show(m, out);
    return r;
}

int found_lid(struct mount *m, uint64_t lid, struct found *out)
{
    struct node_fd *ref;
    int fd;
    memset(&out->ref, 0, sizeof(out->ref));
    out->ref.lid = lid;
    if (departed_dir(&m->departed, lid, &out->st)) {
        show(m, out);
        return 0;
    }
    int r = nodes_get_fd(m->env.nodes, lid, NODES_PATH, &ref, &fd);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    if (fstat(fd, &out->st) < 0)
        r = -errno;
    nodes_put_fd(m->env.nodes, ref);
    if (r == 0)
        show(m, out);
    return r;
}

void entry_fill(const struct found *f, struct fuse_entry_param *e)
{
    memset(e, 0, sizeof(*e));
    e->ino = ino_of(f->ref.lid);
    e->attr = f->st;
    e->attr_timeout = CACHE_FOR;
    e->entry_timeout = CACHE_FOR;
}

void entry_control(struct mount *m, struct fuse_entry_param *e)
{
    memset(e, 0, sizeof(*e));
    if (fstat(m->env.rootfd, &e->attr) < 0)
        memset(&e->attr, 0, sizeof(e->attr));
    e->ino = LID_CONTROL;
    e->attr.st_ino = LID_CONTROL;
    e->attr.st_mode = S_IFDIR | 0750;
    e->attr.st_nlink = 2;
    e->attr.st_uid = 0;
    e->attr.st_gid = m->farm_gid;
    e->attr.st_size = 0;
    e->attr_timeout = CACHE_FOR;
    e->entry_timeout = CACHE_FOR;
}

int dir_get(struct mount *m, uint64_t lid, struct node_fd **ref, int *fd)
{
    if (lid == LID_CONTROL)
        return -EPERM;
    int r = nodes_get_fd(m->env.nodes, lid, NODES_PATH, ref, fd);
    return r == -ESTALE ? -ENOENT : r;
}
