/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The supervisor: holds what must outlive a worker (both /dev/fuse, the fanotify group, the lock)
 * and starts workers and links anew when they die. It never touches the mount itself, since only
 * its own worker could answer: attaching and unmounting are done by short-lived children. One
 * thread.
 *
 *   STARTING --worker serves--> ATTACHING --mounted--> RUNNING --signal, unmounted--> STOPPING
 */
#ifndef SUPER_SUPER_H
#define SUPER_SUPER_H

#include "node/worker.h"

#include <sys/types.h>

enum phase { STARTING, ATTACHING, RUNNING, STOPPING };

/* A child that is to live on. */
struct child {
    const char *name;
    pid_t pid;          /* 0: none */
    uint64_t start_at;  /* ms; 0: not wanted just now */
    uint64_t deaths_ms; /* since when deaths are counted */
    unsigned deaths;
};

struct super {
    const struct config *config;
    struct worker_args args; /* descriptors of the worker */
    struct staging staging;
    int lock_fd, signal_fd, listen_fd, mount_fd, ready_fd;
    int super_fd; /* our end, -1: no worker */
    enum phase phase;
    bool serving, unmounted, failed;
    bool again; /* once all has ended: start from the beginning */
    struct child worker, link;
    pid_t helper; /* attaches or unmounts; 0: none */
    uint64_t stop_at;
    char control[4096]; /* DIR/.farm */
    char *title;
    size_t title_size;
};

/* One line to the user, `farmfs: ...`; returns -EINVAL. */
int super_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* prepare.c: all that is checked and opened before there is a mount. What fails is complained of.
 */
FARM_MUSTUSE int super_prepare(struct super *s);
/* Is farmfs the topmost mount there? */
bool super_mounted(const char *dir);

/* run.c: until it is unmounted or told to stop by a signal; then everything is ended and cleaned
 * up. */
void super_run(struct super *s);
/* Unmount a folder and its `.farm`, both or neither; flags as of umount2(). */
FARM_MUSTUSE int super_unmount(const char *dir, int flags);
/* What ps shows of this process. */
void super_title(struct super *s, const char *what);

#endif
