/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ship/reopen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

int reopen_read(struct nodes *n, uint64_t lid, int *fd)
{
    struct node_fd *shared;
    char path[40];
    int e = 0, from;

    int r = nodes_get_fd(n, lid, NODES_READ, &shared, &from);
    if (r)
        return r;
    snprintf(path, sizeof path, "/proc/self/fd/%d", from);
    int own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        e = -errno;
    nodes_put_fd(n, shared);
    if (!e)
        *fd = own;
    return e;
}
