/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Inside of the mount: what its files share.
 *
 * Node ids of the kernel are lids, with one exception. The inode that FUSE makes for node 1 exists
 * before FUSE_INIT is answered and therefore never caches its ACL (every path walk of another user
 * would ask us). So node 1 is an unseen directory whose one entry, MOUNT_TOP_NAME, is the folder's
 * root under the id INO_ROOT; the supervisor mounts that entry.
 */
#ifndef MOUNT_MOUNT_I_H
#define MOUNT_MOUNT_I_H

#include "base/log.h"
#include "base/map.h"
#include "base/queue.h"
#include "mount/mount.h"

#include <fuse3/fuse_lowlevel.h>
#include <stdatomic.h>
#include <string.h>

#define INO_TOP ((uint64_t)FUSE_ROOT_ID)
#define INO_ROOT 3ull
#define CONTROL_NAME ".farm"
#define CACHE_FOR (365.0 * 86400.0) /* seconds the kernel may keep what we said */
#define MOUNT_THREADS_MAX 8u
#define MOUNT_IO_MAX (1024u * 1024u) /* greatest read, write, listing, xattr */
#define PROC_FD_LEN 32

static inline uint64_t lid_of(fuse_ino_t ino)
{
    return ino == INO_ROOT ? LID_ROOT : ino == INO_TOP ? 0 : ino;
}

static inline fuse_ino_t ino_of(uint64_t lid)
{
    return lid == LID_ROOT ? INO_ROOT : lid;
}

/*
 * Inodes without a name that the kernel may still refer to: files moved to the orphans directory,
 * and removed directories, of which only the last attributes are left.
 */
struct departed {
    pthread_mutex_t lock; /* guards map */
    struct map_u64 map;   /* lid -> struct stat * of a directory, or the mark of a file */
    atomic_size_t n;
};

struct mount_thread {
    struct mount *m;
    pthread_t id;
    /* of the request being processed, as libfuse does not tell: */
    uint64_t unique; /* without the resend bit */
    bool resent;     /* a former worker may have carried it out already */
    bool kill_priv;  /* set-id bits are to be dropped */
    /* what the thread's credentials are just now */
    uid_t fsuid;
    gid_t fsgid;
    mode_t mask;
    uint8_t *io; /* MOUNT_IO_MAX */
};

struct mount {
    struct mount_env env;
    struct fuse_session *se;
    bool initialising; /* FUSE_INIT is being answered: before there are threads */
    atomic_bool stopping, ended;
    int ended_fd, stop_fd; /* eventfds */
    gid_t farm_gid;        /* the group `farm`, or root's */
    unsigned nthreads;
    struct mount_thread threads[MOUNT_THREADS_MAX];
    pthread_t closes_id, notify_id;
    struct queue notices;
    struct departed departed;
    pthread_mutex_t ack_lock; /* guards acks */
    pthread_cond_t ack_idle;
    unsigned acks; /* fsyncs that wait for other nodes, each on a thread of its own */
};

/* The FUSE thread we are on. */
extern _Thread_local struct mount_thread *mount_self;

static inline void reply_code(fuse_req_t req, int code)
{
    if (code <= FARM_ECORRUPT) /* no errno says it: the caller gets EIO, the log gets the reason */
        log_warn_code(code, "an operation of a caller failed");
    fuse_reply_err(req, code < 0 ? err_to_errno(code) : 0);
}

static inline struct mount *mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

/* creds.c: what a new file takes from who made it. */
FARM_MUSTUSE int creds_start(struct mount_thread *t);
FARM_MUSTUSE int creds_become(struct mount_thread *t, const struct fuse_ctx *who);

/* departed.c */
FARM_MUSTUSE int departed_init(struct mount *m);
void departed_fini(struct departed *d);
/* replaced: by a peer's version; what is written to it from now on is kept, not shipped. */
FARM_MUSTUSE int departed_file_add(struct departed *d, uint64_t lid, bool replaced);
/* It did not depart after all. */
void departed_undo(struct departed *d, uint64_t lid);
void departed_dir_add(struct departed *d, uint64_t lid, const struct stat *st);
bool departed_has(struct departed *d, uint64_t lid);
/* Departed, and nobody will ever ask for what is written to it. */
bool departed_deaf(struct departed *d, uint64_t lid);
/* The last attributes of a removed directory. */
bool departed_dir(struct departed *d, uint64_t lid, struct stat *st);
/* The kernel let go of it: an orphan's file is deleted. */
void departed_forget(struct mount *m, uint64_t lid);

/* capture.c: one change on its way through claims and intent log. */
struct change {
    struct mount *m;
    uint64_t key1, key2; /* claims held; 0: none */
    uint64_t ref;
    bool begun;
    struct intent in;
};

/* A change without a name (attributes). */
void change_open(struct change *c, struct mount *m, enum intent_op op);
/* A change of one or (parent2, name2) two names, which are claimed: waits. -EPERM for names that
 * are not the folder's own, -ENAMETOOLONG. */
FARM_MUSTUSE int change_claim(struct change *c, struct mount *m, enum intent_op op, uint64_t parent,
                              const char *name, uint64_t parent2, const char *name2);
/* Carried out by a former worker, but not answered? Then c->in is what was logged. */
bool change_answered(struct change *c);
/* To be called when all that is known before is in c->in, before the system call. */
FARM_MUSTUSE int change_begin(struct change *c);
/* Completes the intent if it was begun, drops the claims; returns result. */
int change_end(struct change *c, int result);
/* Log something that needs no before. */
FARM_MUSTUSE int capture_add(struct mount *m, enum intent_op op, uint16_t flags, uint64_t lid,
                             uint64_t off, uint64_t len);
/* Is this a name of the folder itself, not `.farm` or our own directory in its root? */
bool capture_visible(const struct mount *m, uint64_t parent, const char *name);

/* entry.c */
struct found {
    struct stat st; /* as the kernel is to see it */
    struct node_ref ref;
};
/* The inode at a name in an open directory. One that is not known yet gets a lid. Call it with the
 * name claimed, so that attributes and identity belong together. */
FARM_MUSTUSE int found_name(struct mount *m, uint64_t parent, int dirfd, const char *name,
                            struct found *out);
/* By lid. For a removed directory its last attributes. */
FARM_MUSTUSE int found_lid(struct mount *m, uint64_t lid, struct found *out);
void entry_fill(const struct found *f, struct fuse_entry_param *e);
void entry_control(struct mount *m, struct fuse_entry_param *e);
uint8_t entry_type(mode_t mode);
/* Directory of a name operation: -ENOENT when it was removed, -EPERM for `.farm`. */
FARM_MUSTUSE int dir_get(struct mount *m, uint64_t lid, struct node_fd **ref, int *fd);

/* notify.c, closes.c: threads */
FARM_MUSTUSE int notify_start(struct mount *m);
void notify_stop(struct mount *m);
/* From a FUSE thread: never waits; when the queue is full the next stat() finds it out. */
void notify_attr_soon(struct mount *m, uint64_t lid);
FARM_MUSTUSE int closes_start(struct mount *m);
void closes_stop(struct mount *m);

/* ops_*.c: libfuse's operations */
void ops_name_set(struct fuse_lowlevel_ops *o);
void ops_data_set(struct fuse_lowlevel_ops *o);
void ops_attr_set(struct fuse_lowlevel_ops *o);
void ops_dir_set(struct fuse_lowlevel_ops *o);
/* Truncate or extend; seal: no close will come. */
FARM_MUSTUSE int data_resize(fuse_req_t req, uint64_t lid, off_t size, bool seal);
/* Is the caller in this group? Asks /proc: for rare cases only. */
bool data_in_group(fuse_req_t req, gid_t gid);
/* The set-id bits that a change of the file by this caller drops. */
mode_t data_setid(fuse_req_t req, const struct stat *st);
/* "/proc/self/fd/N": names an inode held by an O_PATH descriptor, symlinks too. */
void proc_fd(int fd, char out[PROC_FD_LEN]);

#endif
