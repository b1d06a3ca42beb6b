/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The worker process: owns the mount, the model and the disk of one folder. */
#ifndef NODE_WORKER_H
#define NODE_WORKER_H

#include "base/config.h"
#include "mount/mount.h"

/* What the supervisor hands to each worker it forks; the worker runs in the child and never returns
 * to the supervisor's code but with its exit code. */
struct worker_args {
    const struct config *config;
    int rootfd;          /* backing directory, O_RDONLY|O_DIRECTORY, opened before the mount */
    int state_fd;        /* state directory, locked by the supervisor */
    int fuse_fd;         /* main mount, mounted over config->dir */
    int control_fuse_fd; /* opened; mounted by the supervisor when it gets WORKER_SERVING */
    int fanotify_fd;     /* group; the supervisor adds the mark when it gets WORKER_SERVING */
    int super_fd;        /* SOCK_SEQPACKET to the supervisor: struct super_msg, both ways */
    struct mount_shared *shared;
    struct staging *staging; /* opened by the supervisor before the mount */
    const char *hide;        /* see mount_env */
    bool restarted;          /* a former worker of this mount died */
    bool crashed;            /* and not by being killed: the index is looked at first */
};

enum super_type {
    WORKER_SERVING = 1, /* worker -> supervisor: requests on the main mount are being served */
    SUPER_CONTROL = 2,  /* supervisor -> worker: .farm is mounted */
    SUPER_LINK = 3, /* supervisor -> worker: a (new) link process; its control socket comes along */
    SUPER_STOP = 4, /* supervisor -> worker: seal, sync, mark clean, exit 0 */
    WORKER_FAILED = 5,    /* worker -> supervisor: do not restart me; text says why */
    WORKER_LISTENING = 6, /* worker -> supervisor: a link process is wanted before it serves */
};

struct super_msg {
    uint32_t type;
    char text[252];
};

/* Exit codes of the worker: 0 stopped as asked or unmounted; 3 do not restart; those below.
 * Anything else, or a signal: the supervisor starts another one. */
enum {
    WORKER_EXIT_DAMAGED = 4, /* the index is damaged: the next worker is to look at it first */
    WORKER_EXIT_ANEW = 5,    /* the index was made anew: unmount, and start from the beginning */
};
int worker_main(const struct worker_args *a);

#endif
