/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The control files: a FUSE session of its own at `.farm` in the root of the mount, ordinary open
 * mode, direct I/O, poll. What is in it is given by a provider; this module turns paths into
 * nodes and requests into calls.
 *
 * Paths are relative to .farm: "" is its root, "status", "peers/web2/state". One thread serves;
 * provider calls come on it and must not block (what takes time is answered later through a
 * request). All files are owned by root and the group `farm` (root when there is no such group):
 * directories 0750, readable files 0440, writable 0660 / 0220.
 */
#ifndef MOUNT_CONTROL_H
#define MOUNT_CONTROL_H

#include "base/buf.h"
#include "mount/mount.h"

#include <stdbool.h>

struct control;
struct control_request;

enum control_type {
    CONTROL_DIR = 1,
    CONTROL_FILE = 2,   /* content is made when it is opened, and stays so for that open */
    CONTROL_STREAM = 3, /* grows: read at an offset, poll waits for more (events) */
    CONTROL_WAIT = 4,   /* reading it, or polling it, is answered later (barrier) */
    CONTROL_DATA = 5,   /* a file of the disk, of any size */
    CONTROL_PAGES = 6,  /* a directory too long to be listed at once */
};
enum { CONTROL_READ = 1, CONTROL_WRITE = 2 };

struct control_stat {
    enum control_type type;
    unsigned access;  /* CONTROL_READ | CONTROL_WRITE */
    uint64_t size;    /* DATA; STREAM: up to which offset it can be read now (tail looks at it) */
    int64_t mtime_ns; /* DATA */
};

/* One entry of a page; the page after it begins at `next`. False: that was the last there is room
 * for, and it is to be given again. */
typedef bool (*control_page)(void *arg, const char *name, const struct control_stat *st,
                             uint64_t next);
typedef void (*control_list)(void *arg, const char *name, const struct control_stat *st);

struct control_provider {
    void *ctx;
    int (*stat)(void *ctx, const char *path, struct control_stat *st); /* -ENOENT */
    int (*list)(void *ctx, const char *path, control_list f, void *arg);
    /* PAGES: the entries from `from` (0 or a `next`, less than 2^63) on, until f has no room. */
    int (*page)(void *ctx, const char *path, uint64_t from, control_page f, void *arg);
    /* DATA: a descriptor to read from, which the session closes. */
    int (*open)(void *ctx, const char *path, int *fd);
    /* FILE: append the whole content to `out`. */
    int (*read)(void *ctx, const char *path, struct buf *out);
    /* STREAM: append up to n bytes from off; 0 bytes: nothing yet, the reader sees end of file. */
    int (*stream)(void *ctx, const char *path, uint64_t off, size_t n, struct buf *out);
    /* WRITE: one write is one command (at most 64 KiB). */
    int (*write)(void *ctx, const char *path, const void *data, size_t n);
    /* WAIT: takes the request; answer it with control_answer from any thread. */
    void (*wait)(void *ctx, const char *path, struct control_request *rq);
};

/* fuse_fd: already mounted at .farm. Like mount_start for restarts (shared->control_init). */
FARM_MUSTUSE int control_start(int fuse_fd, struct mount_shared *shared,
                               const struct control_provider *p, struct control **out);
void control_stop(struct control *c);
/* Answer a WAIT request: the data of its file (err 0) or an error; frees the request. */
void control_answer(struct control_request *rq, int err, const void *data, size_t n);
/* The reader gave up (interrupted): asked by the provider now and then, or on the next event. */
bool control_gone(const struct control_request *rq);
/* A stream has grown: wakes pollers. Any thread. */
void control_grown(struct control *c, const char *path);

#endif
