/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Frames on the hop between link and worker. */
#include "ship/receiver.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "wire/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

int receiver_read_frame(int fd, uint8_t *type, void **payload, uint32_t *len)
{
    uint8_t head[FRAME_HEADER];
    struct frame_header h;

    int e = io_read_full(fd, head, sizeof head);
    if (e == FARM_ECLOSED) {
        *type = 0;
        *payload = NULL;
        *len = 0;
        return 0;
    }
    if (!e)
        e = frame_header_get(head, &h);
    if (!e && h.flags)
        e = FARM_EPROTO;
    if (e)
        return e;
    CLEANUP_FREE uint8_t *p = malloc(h.len ? h.len : 1);
    if (!p)
        return -ENOMEM;
    e = h.len ? io_read_full(fd, p, h.len) : 0;
    if (!e)
        e = frame_check(head, p, h.len);
    if (e)
        return e == FARM_ECLOSED ? FARM_ECORRUPT : e;
    *type = h.type;
    *payload = take_ptr(p);
    *len = h.len;
    return 0;
}

/* One call for both parts, no SIGPIPE. */
int receiver_write_frame(int fd, uint8_t type, const void *payload, uint32_t len)
{
    uint8_t head[FRAME_HEADER];
    struct iovec iov[2] = {{head, sizeof head}, {(void *)(uintptr_t)payload, len}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = len ? 2 : 1};

    frame_header_put(head, type, 0, len, payload, len);
    while (m.msg_iovlen > 0) {
        ssize_t r = sendmsg(fd, &m, MSG_NOSIGNAL);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return errno == EPIPE || errno == ECONNRESET ? FARM_ECLOSED : -errno;
        size_t done = (size_t)r;
        while (m.msg_iovlen > 0 && done >= m.msg_iov->iov_len) {
            done -= m.msg_iov->iov_len;
            m.msg_iov++;
            m.msg_iovlen--;
        }
        if (m.msg_iovlen > 0) {
            m.msg_iov->iov_base = (uint8_t *)m.msg_iov->iov_base + done;
            m.msg_iov->iov_len -= done;
        }
    }
    return 0;
}
