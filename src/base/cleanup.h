/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Scope-bound cleanup: `CLEANUP_FD int fd = -1;`, `CLEANUP_FREE char *p = NULL;`.
 * Ownership leaves the scope by take_fd()/take_ptr().
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_fd_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_free_(void *p)
{
    free(*(void **)p);
}

#define CLEANUP_FD __attribute__((cleanup(cleanup_fd_)))
#define CLEANUP_FREE __attribute__((cleanup(cleanup_free_)))

/* Give up a descriptor held by a CLEANUP_FD variable. */
static inline int take_fd(int *fd)
{
    int r = *fd;
    *fd = -1;
    return r;
}

/* Give up memory held by a CLEANUP_FREE variable. */
#define take_ptr(p)                \
    __extension__({                \
        __typeof__(p) take_ = (p); \
        (p) = NULL;                \
        take_;                     \
    })

#endif
