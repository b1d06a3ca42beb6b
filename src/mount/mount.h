/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The mount: libfuse low-level operations over the backing tree, capture of changes, closes through
 * fanotify, and invalidation of the kernel's caches. See farmfs-design(7), "The mount".
 *
 * Threads: `threads` FUSE threads answer requests, one reads fanotify, one notifies the kernel.
 * FUSE threads never notify, never touch the network, and wait for nothing but claims, room in the
 * intent log, and (fsync) the acknowledgement asked for.
 */
#ifndef MOUNT_MOUNT_H
#define MOUNT_MOUNT_H

#include "store/claims.h"
#include "store/dirty.h"
#include "store/intent.h"
#include "store/nodes.h"
#include "store/staging.h"

/* Shared memory between the supervisor and its successive workers (MAP_SHARED): what the kernel
 * said in its one FUSE_INIT of each connection, to be replayed to a new session. */
#define CONTROL_POLLERS 1024u
struct mount_shared {
    uint64_t conn;                       /* random, of this mount */
    uint32_t init_len, control_init_len; /* 0: not yet received */
    uint8_t init[512], control_init[512];
    /* Who polls a control file: its open's number and the kernel's of its wake-up; 0: free. */
    struct {
        uint64_t fh, kh;
    } pollers[CONTROL_POLLERS];
};

/* The root of the FUSE connection is not the folder: it is an unseen directory with this one entry,
 * which is the folder's root and is what the supervisor mounts (by open_tree). See mount_i.h. */
#define MOUNT_TOP_NAME "folder"

struct mount_env {
    int rootfd;      /* the backing directory, opened before mounting over it */
    int fuse_fd;     /* /dev/fuse of the main mount; its super block exists */
    int fanotify_fd; /* group with a FAN_MARK_FILESYSTEM mark on the main mount */
    struct mount_shared *shared;
    struct nodes *nodes;
    struct intent_log *intents;
    struct claims *claims;
    struct dirty *dirty;
    struct staging *staging;
    const char
        *hide; /* a name in the root that is not shown (staging inside the folder); or NULL */
    bool keep_orphans; /* files that are unlinked and forgotten are the core's to delete */
    /* Is this orphan of a former worker one that a peer's version replaced (see mount_depart)?
     * Asked by mount_start. NULL: none is. */
    bool (*replaced)(void *arg, uint64_t lid);
    unsigned threads; /* 0: as many as processors, at least 2, at most 8 */
    /* fsync of a lid: returns 0 when the folder's `ack` is fulfilled; may wait. FARM_ECLOSED: the
     * worker ends, the caller is not answered. NULL: local only. */
    int (*acknowledged)(void *arg, uint64_t lid);
    void *arg;
};

struct mount;

/* Starts serving: a first worker answers FUSE_INIT, a later one replays it and has the requests in
 * flight sent again. Returns once requests are being served. */
FARM_MUSTUSE int mount_start(const struct mount_env *env, struct mount **out);
/* Ends the threads (requests not answered stay with the kernel for the next worker), frees. */
void mount_stop(struct mount *m);
/* True when the kernel ended the connection (unmounted). fd: readable (eventfd) when that happens.
 */
bool mount_ended(const struct mount *m);
int mount_ended_fd(const struct mount *m);

/* Invalidation: any thread but FUSE threads; queued and done in order by the notify thread. It
 * never waits for room: the notify thread may itself be waiting for a write that the kernel has to
 * finish first, that write for room in the intent log, and only the core makes some. Instead the
 * core takes no more from peers while mount_behind says that much is queued. dir: the name is or
 * was a directory's; there may be a mount below it, so it is expired, never detached. */
void mount_forget_entry(struct mount *m, uint64_t parent, const uint8_t *name, uint8_t len,
                        bool dir);
bool mount_behind(struct mount *m);
void mount_forget_attr(struct mount *m, uint64_t lid);
void mount_forget_data(struct mount *m, uint64_t lid); /* content, listing and attributes */
/* The core is about to move an inode to orphans/<lid> for a peer's change; afterwards it asks for
 * its release: the orphan is deleted at once if the kernel does not refer to it, else with its
 * FORGET. replaced: for a peer's version of its content; then writes to it and closes of it are
 * captured as before, and with its FORGET it is the core's to delete. */
FARM_MUSTUSE int mount_depart(struct mount *m, uint64_t lid, bool replaced);
void mount_release_orphan(struct mount *m, uint64_t lid);
/* Calls f(arg) on the notify thread when everything queued before has been done. */
void mount_after_notify(struct mount *m, void (*f)(void *), void *arg);

#endif
