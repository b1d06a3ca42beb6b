/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>

#define TRIES_MAX 100

/* struct file_handle with room for the longest handle the kernel makes. */
union kernel_handle {
    struct file_handle fh;
    uint8_t room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static int handle_get(int dirfd, const char *name, int flags, struct handle *out)
{
    union kernel_handle k;
    int mount_id;

    memset(&k, 0, sizeof k);
    k.fh.handle_bytes = MAX_HANDLE_SZ;
    if (name_to_handle_at(dirfd, name, &k.fh, &mount_id, flags) < 0)
        return -errno;
    if (k.fh.handle_bytes > HANDLE_BYTES_MAX)
        return -EOVERFLOW;
    memset(out, 0, sizeof *out);
    out->len = (uint8_t)k.fh.handle_bytes;
    out->type = k.fh.handle_type;
    memcpy(out->bytes, k.fh.f_handle, out->len);
    return 0;
}

int handle_of_fd(int fd, struct handle *out)
{
    return handle_get(fd, "", AT_EMPTY_PATH, out);
}

int handle_of_name(int dirfd, const char *name, struct handle *out)
{
    return handle_get(dirfd, name, 0, out);
}

int handle_open(int mountfd, const struct handle *h, int flags, int *fd)
{
    union kernel_handle k;

    if (h->len > HANDLE_BYTES_MAX)
        return -EINVAL;
    memset(&k, 0, sizeof k);
    k.fh.handle_bytes = h->len;
    k.fh.handle_type = h->type;
    memcpy(k.fh.f_handle, h->bytes, h->len);
    /* Linux says ENOMEM of a directory that is being removed just now, and ESTALE a moment later.
     */
    int r, tries = 0;
    do
        r = open_by_handle_at(mountfd, &k.fh, flags | O_CLOEXEC);
    while (r < 0 && errno == ENOMEM && ++tries < TRIES_MAX && sched_yield() == 0);
    if (r < 0)
        return -errno;
    *fd = r;
    return 0;
}

int handle_eq(const struct handle *a, const struct handle *b)
{
    return a->len == b->len && a->type == b->type && memcmp(a->bytes, b->bytes, a->len) == 0;
}
