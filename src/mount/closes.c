/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Closes of files that were open for writing, told by fanotify on the mount itself. Reading an
 * event opens the file (once the kernel knows that we have no open, without asking us), so the
 * thread is one of its own; what it asks of the file is answered from the kernel's memory.
 */
#include "base/log.h"
#include "mount/mount_i.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/prctl.h>
#include <unistd.h>

#define EVENTS_MAX 256u
#define LIDS_MAX 1024u

static void closed(struct mount *m, uint64_t lid)
{
    if (lid < LID_FIRST || departed_deaf(&m->departed, lid))
        return;
    uint64_t gen = dirty_gen(m->env.dirty, lid);
    int r = capture_add(m, INTENT_CLOSE, 0, lid, gen > 0 ? gen + 1 : 0, 0);
    if (r < 0 && r != FARM_ECLOSED)
        log_warn_code(r, "cannot log that inode %llu was closed", (unsigned long long)lid);
}

static void closed_fd(struct mount *m, int fd)
{
    struct statx x;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_TYPE, &x) < 0)
        log_warn_code(-errno, "cannot tell which file was closed");
    else if (S_ISREG(x.stx_mode))
        closed(m, x.stx_ino);
}

/* Events were lost: all that has been written may have been closed. */
static void closed_all(struct mount *m)
{
    uint64_t lids[LIDS_MAX];
    size_t n = dirty_list(m->env.dirty, 0, 0, 0, lids, LIDS_MAX);
    for (size_t i = 0; i < n; i++)
        closed(m, lids[i]);
}

static void take_events(struct mount *m, struct fanotify_event_metadata *e, size_t n)
{
    for (; FAN_EVENT_OK(e, n); e = FAN_EVENT_NEXT(e, n)) {
        if (e->mask & FAN_Q_OVERFLOW)
            closed_all(m);
        if (e->fd >= 0) {
            closed_fd(m, e->fd);
            close(e->fd);
        }
    }
}

static void *closes_main(void *arg)
{
    struct mount *m = arg;
    struct fanotify_event_metadata events[EVENTS_MAX];
    struct pollfd p[2] = {{.fd = m->env.fanotify_fd, .events = POLLIN},
                          {.fd = m->stop_fd, .events = POLLIN}};
    prctl(PR_SET_NAME, "closes");
    while (!atomic_load(&m->stopping)) {
        if (poll(p, 2, -1) < 0 || !(p[0].revents & POLLIN))
            continue;
        ssize_t n = read(p[0].fd, events, sizeof(events));
        if (n > 0)
            take_events(m, events, (size_t)n);
        else if (n < 0 && errno != EAGAIN && errno != EINTR && !atomic_load(&m->ended))
            log_warn_code(-errno, "fanotify");
    }
    return NULL;
}

int closes_start(struct mount *m)
{
    return -pthread_create(&m->closes_id, NULL, closes_main, m);
}

void closes_stop(struct mount *m)
{
    pthread_join(m->closes_id, NULL);
}
