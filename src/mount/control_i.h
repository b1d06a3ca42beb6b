/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Inside of the control files: control.c is the session and its threads, control_ops.c what it
 * answers. `lock` is held across no system call, reply or provider call. */
#ifndef MOUNT_CONTROL_I_H
#define MOUNT_CONTROL_I_H

#include "mount/control.h"
#include "mount/control_paths.h"

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#define CONTROL_OPENS_MAX 1024u

struct open_file {
    uint64_t fh;
    enum control_type type;
    uint64_t pos;                 /* STREAM: up to where it was read; serve thread only */
    int fd;                       /* DATA; else -1 */
    struct buf data;              /* the snapshot; WAIT: the answer, under the lock */
    bool answered;                /* WAIT, under the lock */
    int err;                      /* WAIT: the answer was this error, under the lock */
    struct control_request *wait; /* WAIT: not answered yet, under the lock */
    struct fuse_pollhandle *ph;   /* a poller to wake, under the lock */
    bool notify;                  /* it is to be woken now, under the lock */
    char *path;
};

/* Held by the provider until it answers. All under the lock; `c` never changes. */
struct control_request {
    struct control *c;
    struct control_request *next, **link; /* in c->requests; link NULL: taken out, c is stopping */
    uint64_t fh;                          /* 0: released */
    fuse_req_t req;                       /* the read that waits, NULL: only polled */
    size_t size;                          /* of that read */
    bool gone;
};

struct control {
    const struct control_provider *p;
    struct mount_shared *shared;
    struct fuse_session *se;
    gid_t gid;
    int fd; /* of the session, which closes it */
    int stop_fd;
    pthread_t serve, notify;
    uint64_t next_fh;           /* serve thread */
    struct control_paths paths; /* serve thread */
    size_t snapshot_bytes;      /* serve thread */
    _Atomic int64_t grown_s;    /* when a stream last grew: the time of every stream */
    _Atomic int64_t grown_ns;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;
    struct map_u64 opens; /* fh -> struct open_file; changed by the serve thread only */
    struct control_request *requests;
    bool notify_pending, stopping;
    size_t refs;      /* control_start's own, and one per request */
    size_t answering; /* threads that are replying; the session outlives them */
};

extern const struct fuse_lowlevel_ops control_ops;

/* Nobody else has it any more. */
void control_free_open(struct open_file *o);
/* Under the lock; does nothing when it was taken out already. */
void control_remove_request(struct control_request *rq);
/* Gives up a reference; the last one frees. */
void control_unref(struct control *c);

#endif
