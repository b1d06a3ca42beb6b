/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Operations on names: each is claimed, logged, carried out, logged as done, answered. */
#include "mount/mount_i.h"

#include "core/record.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <unistd.h>

static void reply_found(fuse_req_t req, int r, const struct found *f)
{
    struct fuse_entry_param e;
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    entry_fill(f, &e);
    fuse_reply_entry(req, &e);
}

static void reply_absent(fuse_req_t req)
{
    struct fuse_entry_param e = {.entry_timeout = CACHE_FOR};
    fuse_reply_entry(req, &e);
}

static void lookup_top(fuse_req_t req, const char *name)
{
    struct found f;
    if (strcmp(name, MOUNT_TOP_NAME) != 0) {
        reply_code(req, -ENOENT);
        return;
    }
    reply_found(req, found_lid(mount_of(req), LID_ROOT, &f), &f);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent_ino, const char *name)
{
    struct mount *m = mount_of(req);
    uint64_t parent = lid_of(parent_ino);
    struct found f;
    struct node_fd *dir;
    int dirfd;
    if (parent_ino == INO_TOP) {
        lookup_top(req, name);
        return;
    }
    if (parent == LID_CONTROL) {
        reply_code(req, -ENOENT);
        return;
    }
    if (!capture_visible(m, parent, name)) {
        struct fuse_entry_param e;
        if (strcmp(name, CONTROL_NAME) != 0) {
            reply_absent(req);
            return;
        }
        entry_control(m, &e);
        fuse_reply_entry(req, &e);
        return;
    }
    size_t len = strlen(name);
    int r = len > 255 ? -ENAMETOOLONG : dir_get(m, parent, &dir, &dirfd);
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    /* The answer goes out under the claim: what a peer changes here is invalidated after it. */
    uint64_t key = claims_key(parent, name, (uint8_t)len);
    claims_take(m->env.claims, key, 0);
    r = found_name(m, parent, dirfd, name, &f);
    if (r == -ENOENT)
        reply_absent(req);
    else
        reply_found(req, r, &f);
    claims_drop(m->env.claims, key, 0);
    nodes_put_fd(m->env.nodes, dir);
}

/* What is to be made. */
struct making {
    mode_t mode; /* with the type */
    dev_t rdev;
    const char *target; /* symlink */
    bool open;          /* by open(O_CREAT), not by mknod */
};

static int make_call(const struct making *k, int dirfd, const char *name)
{
    int r;
    if (k->open) {
        int fd = openat(dirfd, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDONLY | O_CLOEXEC,
                        k->mode & 07777);
        r = fd;
        if (fd >= 0)
            close(fd);
    } else if (k->target != NULL) {
        r = symlinkat(k->target, dirfd, name);
    } else if (S_ISDIR(k->mode)) {
        r = mkdirat(dirfd, name, k->mode & 07777);
    } else {
        r = mknodat(dirfd, name, k->mode, k->rdev);
    }
    return r < 0 ? -errno : 0;
}

static int make_identify(struct change *c, int dirfd, const char *name, struct found *f)
{
    struct mount *m = c->m;
    if (fstatat(dirfd, name, &f->st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    int r = handle_of_name(dirfd, name, &c->in.handle);
    if (r < 0)
        return r;
    c->in.mode = f->st.st_mode;
    r = nodes_add(m->env.nodes, c->in.lid, entry_type(f->st.st_mode), &c->in.handle, &f->ref);
    c->in.lid = f->ref.lid;
    f->st.st_ino = ino_of(f->ref.lid);
    return r;
}

static int make_claimed(struct change *c, const struct fuse_ctx *who, const char *name,
                        const struct making *k, struct found *f)
{
    struct mount *m = c->m;
    struct node_fd *dir;
    int dirfd;
    if (change_answered(c))
        return c->in.result < 0 ? c->in.result : found_lid(m, c->in.lid, f);
    int r = dir_get(m, c->in.parent, &dir, &dirfd);
    if (r < 0)
        return r;
    c->in.mode = k->mode;
    r = nodes_new_lid(m->env.nodes, &c->in.lid);
    if (r == 0)
        r = change_begin(c);
    if (r == 0)
        r = creds_become(mount_self, who);
    if (r == 0)
        r = make_call(k, dirfd, name);
    if (r == 0) {
        r = make_identify(c, dirfd, name, f);
        if (r < 0)
            unlinkat(dirfd, name, S_ISDIR(k->mode) ? AT_REMOVEDIR : 0);
    }
    nodes_put_fd(m->env.nodes, dir);
    return r;
}

static int make(fuse_req_t req, fuse_ino_t parent, const char *name, const struct making *k,
                struct found *f)
{
    struct change c;
    int r = change_claim(&c, mount_of(req), INTENT_CREATE, lid_of(parent), name, 0, NULL);
    if (r < 0)
        return r;
    return change_end(&c, make_claimed(&c, fuse_req_ctx(req), name, k, f));
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct making k = {.mode = (mode & 07777) | S_IFREG, .open = true};
    struct found f;
    struct fuse_entry_param e;
    int r = make(req, parent, name, &k, &f);
    /* The kernel believed that there was none, so it has checked no permission to open one that is
     * there. ESTALE makes it look again and then open it by the rules. */
    if (r == -EEXIST && !(fi->flags & O_EXCL))
        r = -ESTALE;
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    entry_fill(&f, &e);
    fi->fh = 0;
    fi->keep_cache = 1;
    fuse_reply_create(req, &e, fi);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct making k = {.mode = mode, .rdev = rdev};
    struct found f;
    reply_found(req, make(req, parent, name, &k, &f), &f);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct making k = {.mode = (mode & 07777) | S_IFDIR};
    struct found f;
    reply_found(req, make(req, parent, name, &k, &f), &f);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct making k = {.mode = S_IFLNK | 0777, .target = target};
    struct found f;
    reply_found(req, make(req, parent, name, &k, &f), &f);
}

static int link_claimed(struct change *c, const char *name)
{
    struct mount *m = c->m;
    struct node_fd *dir, *file;
    int dirfd, fd;
    if (change_answered(c))
        return c->in.result;
    if (departed_has(&m->departed, c->in.lid))
        return -ENOENT;
    int r = dir_get(m, c->in.parent, &dir, &dirfd);
    if (r < 0)
        return r;
    r = nodes_get_fd(m->env.nodes, c->in.lid, NODES_PATH, &file, &fd);
    if (r == 0) {
        r = handle_of_fd(fd, &c->in.handle);
        if (r == 0)
            r = change_begin(c);
        if (r == 0 && linkat(fd, "", dirfd, name, AT_EMPTY_PATH) < 0)
            r = -errno;
        nodes_put_fd(m->env.nodes, file);
    }
    nodes_put_fd(m->env.nodes, dir);
    return r;
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct mount *m = mount_of(req);
    struct change c;
    struct found f;
    int r = change_claim(&c, m, INTENT_LINK, lid_of(parent), name, 0, NULL);
    if (r == 0) {
        c.in.lid = lid_of(ino);
        r = change_end(&c, link_claimed(&c, name));
    }
    if (r == 0)
        r = found_lid(m, lid_of(ino), &f);
    reply_found(req, r, &f);
}

/* Take the last name of a file away, but keep the file for those who have it open. */
static int unlink_last(struct change *c, int dirfd, const char *name)
{
    struct mount *m = c->m;
    char orphan[40];
    staging_orphan_name(c->in.lid, orphan);
    int r = departed_file_add(&m->departed, c->in.lid, false);
    if (r < 0)
        return r;
    if (renameat(dirfd, name, m->env.staging->orphans, orphan) < 0) {
        r = -errno;
        departed_undo(&m->departed, c->in.lid);
        return r;
    }
    nodes_set_orphan(m->env.nodes, c->in.lid);
    return 0;
}

static int unlink_claimed(struct change *c, const char *name)
{
    struct mount *m = c->m;
    struct node_fd *dir;
    struct found f;
    int dirfd;
    if (change_answered(c))
        return c->in.result;
    int r = dir_get(m, c->in.parent, &dir, &dirfd);
    if (r < 0)
        return r;
    bool rmdir = c->in.op == INTENT_RMDIR;
    r = found_name(m, c->in.parent, dirfd, name, &f);
    if (r == 0 && S_ISDIR(f.st.st_mode) != rmdir)
        r = rmdir ? -ENOTDIR : -EISDIR;
    if (r == 0) {
        c->in.lid = f.ref.lid;
        c->in.handle = f.ref.handle;
        c->in.flags = !rmdir && f.st.st_nlink == 1 ? INTENT_F_ORPHAN : 0;
        r = change_begin(c);
    }
    if (r == 0 && c->in.flags & INTENT_F_ORPHAN)
        r = unlink_last(c, dirfd, name);
    else if (r == 0 && unlinkat(dirfd, name, rmdir ? AT_REMOVEDIR : 0) < 0)
        r = -errno;
    if (r == 0 && rmdir) {
        departed_dir_add(&m->departed, f.ref.lid, &f.st);
        nodes_close_fds(m->env.nodes, f.ref.lid);
    }
    nodes_put_fd(m->env.nodes, dir);
    return r;
}

static void remove_name(fuse_req_t req, enum intent_op op, fuse_ino_t parent, const char *name)
{
    struct change c;
    int r = change_claim(&c, mount_of(req), op, lid_of(parent), name, 0, NULL);
    if (r == 0)
        r = change_end(&c, unlink_claimed(&c, name));
    reply_code(req, r);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, INTENT_UNLINK, parent, name);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, INTENT_RMDIR, parent, name);
}

/* Both directories of a rename. */
struct rename_dirs {
    struct node_fd *ref1, *ref2;
    int fd1, fd2;
};

/* The target's last name is about to be replaced: give the file another one first, so that the
 * rename itself stays one atomic step for readers. */
static int keep_target(struct change *c, int dirfd, const char *name)
{
    struct mount *m = c->m;
    char orphan[40];
    staging_orphan_name(c->in.lid2, orphan);
    int r = departed_file_add(&m->departed, c->in.lid2, false);
    if (r < 0)
        return r;
    if (linkat(dirfd, name, m->env.staging->orphans, orphan, 0) < 0 && errno != EEXIST) {
        r = -errno;
        departed_undo(&m->departed, c->in.lid2);
    }
    return r;
}

static void unkeep_target(struct change *c)
{
    char orphan[40];
    staging_orphan_name(c->in.lid2, orphan);
    unlinkat(c->m->env.staging->orphans, orphan, 0);
    departed_undo(&c->m->departed, c->in.lid2);
}

/* Who is moved, who is replaced or exchanged: into the intent. */
static int rename_look(struct change *c, const struct rename_dirs *d, const char *name,
                       const char *name2, unsigned flags, struct found *to)
{
    struct found from;
    int r = found_name(c->m, c->in.parent, d->fd1, name, &from);
    if (r < 0)
        return r;
    c->in.lid = from.ref.lid;
    c->in.handle = from.ref.handle; /* by which a successor can tell whether it was moved */
    r = found_name(c->m, c->in.parent2, d->fd2, name2, to);
    if (r == -ENOENT && !(flags & RENAME_EXCHANGE)) {
        to->ref.lid = 0;
        return 0;
    }
    if (r < 0)
        return r;
    if (flags & RENAME_NOREPLACE)
        return -EEXIST;
    c->in.lid2 = to->ref.lid;
    if (flags & RENAME_EXCHANGE)
        c->in.flags = INTENT_F_EXCHANGE;
    else if (!S_ISDIR(to->st.st_mode) && !S_ISDIR(from.st.st_mode) && to->st.st_nlink == 1)
        c->in.flags = INTENT_F_ORPHAN2;
    return 0;
}

static int rename_call(struct change *c, const struct rename_dirs *d, const char *name,
                       const char *name2, unsigned flags, const struct found *to)
{
    struct mount *m = c->m;
    bool keep = c->in.flags & INTENT_F_ORPHAN2;
    int r = keep ? keep_target(c, d->fd2, name2) : 0;
    if (r < 0)
        return r;
    if (renameat2(d->fd1, name, d->fd2, name2, flags) < 0) {
        r = -errno;
        if (keep)
            unkeep_target(c);
        return r;
    }
    if (keep) {
        nodes_set_orphan(m->env.nodes, c->in.lid2);
    } else if (c->in.lid2 != 0 && !(flags & RENAME_EXCHANGE) && S_ISDIR(to->st.st_mode)) {
        departed_dir_add(&m->departed, c->in.lid2, &to->st);
        nodes_close_fds(m->env.nodes, c->in.lid2);
    }
    return 0;
}

static int rename_claimed(struct change *c, const char *name, const char *name2, unsigned flags)
{
    struct mount *m = c->m;
    struct rename_dirs d;
    struct found to;
    if (change_answered(c))
        return c->in.result;
    int r = dir_get(m, c->in.parent, &d.ref1, &d.fd1);
    if (r < 0)
        return r;
    r = dir_get(m, c->in.parent2, &d.ref2, &d.fd2);
    if (r == 0) {
        r = rename_look(c, &d, name, name2, flags, &to);
        /* Two names of one file: POSIX wants nothing to happen. */
        if (r == 0 && (c->in.lid != c->in.lid2 || flags & RENAME_EXCHANGE)) {
            r = change_begin(c);
            if (r == 0)
                r = rename_call(c, &d, name, name2, flags, &to);
        }
        nodes_put_fd(m->env.nodes, d.ref2);
    }
    nodes_put_fd(m->env.nodes, d.ref1);
    return r;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent2,
                      const char *name2, unsigned flags)
{
    struct change c;
    if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
        reply_code(req, -EINVAL);
        return;
    }
    int r = change_claim(&c, mount_of(req), INTENT_RENAME, lid_of(parent), name, lid_of(parent2),
                         name2);
    if (r == 0)
        r = change_end(&c, rename_claimed(&c, name, name2, flags));
    reply_code(req, r);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    (void)nlookup;
    departed_forget(mount_of(req), lid_of(ino));
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
    for (size_t i = 0; i < count; i++)
        departed_forget(mount_of(req), lid_of(f[i].ino));
    fuse_reply_none(req);
}

void ops_name_set(struct fuse_lowlevel_ops *o)
{
    o->lookup = op_lookup;
    o->create = op_create;
    o->mknod = op_mknod;
    o->mkdir = op_mkdir;
    o->symlink = op_symlink;
    o->link = op_link;
    o->unlink = op_unlink;
    o->rmdir = op_rmdir;
    o->rename = op_rename;
    o->forget = op_forget;
    o->forget_multi = op_forget_multi;
}
