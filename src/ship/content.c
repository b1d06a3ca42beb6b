/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * File data into frames. Data was sealed when its record was made, and may have been written to
 * since: each piece is read first and then asked about (dirty_overlaps); a write that had not begun
 * by then is not in it. What slips through between two seals does not have the digest, and is asked
 * for again by the peer.
 */
#include "ship/reopen.h"
#include "ship/sender_i.h"

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "base/log.h"
#include "wire/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

/* Every failure of the file, not of the stream, is FARM_ECHANGED: the record goes without data. */
static int file_error(const struct plan_item *it, int e)
{
    if (e && e != -ESTALE && e != -ENOENT && e != FARM_ECHANGED)
        log_warn_code(e, "content of inode %llu cannot be read", (unsigned long long)it->lid);
    return e ? FARM_ECHANGED : 0;
}

static int read_piece(struct sender *s, const struct plan_item *it, int fd, uint64_t off, void *p,
                      uint32_t len)
{
    size_t got = 0;

    int e = io_pread(fd, p, len, off, &got);
    if (e)
        return file_error(it, e);
    return got != len || dirty_overlaps(s->env.dirty, it->lid, off, len) ? FARM_ECHANGED : 0;
}

/* ---- in the record's frame ---- */

static int put_small(struct sender *s, const struct plan_item *it)
{
    const struct content_rec *c = &it->rec.content;
    uint32_t len = (uint32_t)c->size;
    uint8_t digest[DIGEST_LEN];
    struct node_fd *shared;
    int e = 0, fd;

    if (len) {
        e = nodes_get_fd(s->env.nodes, it->lid, NODES_READ, &shared, &fd);
        if (e)
            return file_error(it, e);
        e = read_piece(s, it, fd, 0, s->chunk, len);
        nodes_put_fd(s->env.nodes, shared);
    }
    if (e)
        return e;
    digest_small(s->chunk, len, digest);
    if (memcmp(digest, c->digest, DIGEST_LEN) != 0)
        return FARM_ECHANGED;
    msg_item_put(&s->frame, &it->rec, DATA_WHOLE, s->chunk, len, 0);
    return 0;
}

static int put_pieces(struct sender *s, const struct plan_item *it, int fd, uint32_t *n)
{
    int e = 0;

    for (uint32_t i = 0; i < it->nranges; i++) {
        uint64_t off = it->ranges[i].off, end = off + it->ranges[i].len;
        while (!e && off < end) {
            uint32_t len = end - off < CHUNK ? (uint32_t)(end - off) : CHUNK;
            e = read_piece(s, it, fd, off, s->chunk, len);
            if (!e)
                msg_item_range_put(&s->frame, off, s->chunk, len);
            off += len;
            ++*n;
        }
    }
    return e;
}

static int put_ranges(struct sender *s, const struct plan_item *it)
{
    struct node_fd *shared;
    uint32_t n = 0;
    int fd;

    int e = nodes_get_fd(s->env.nodes, it->lid, NODES_READ, &shared, &fd);
    if (e)
        return file_error(it, e);
    size_t mark = msg_item_ranges_begin(&s->frame, &it->rec, it->base);
    e = put_pieces(s, it, fd, &n);
    nodes_put_fd(s->env.nodes, shared);
    if (e)
        s->frame.len = mark;
    else
        msg_item_ranges_end(&s->frame, mark, n);
    return e;
}

/* ---- transfers ---- */

static int send_data(struct sender *s, const struct plan_item *it, struct stamp base, uint64_t off,
                     uint32_t len)
{
    struct msg_data m = {.transfer = s->transfer,
                         .base = base,
                         .rid = it->rec.content.rid,
                         .size = it->rec.content.size,
                         .off = off,
                         .len = len,
                         .bytes = s->chunk};

    buf_reset(&s->data);
    msg_data_put(&s->data, &m);
    return s->data.err ? s->data.err : sender_send(s, FRAME_DATA, &s->data);
}

static int send_range(struct sender *s, const struct plan_item *it, int fd, struct stamp base,
                      uint64_t off, uint64_t end)
{
    int e = 0;

    while (!e && off < end) {
        /* Chunks end on multiples: the receiver hashes whole blocks as they come. */
        uint64_t next = (off / CHUNK + 1) * CHUNK;
        uint32_t len = (uint32_t)((next < end ? next : end) - off);
        e = read_piece(s, it, fd, off, s->chunk, len);
        if (!e)
            e = send_data(s, it, base, off, len);
        off += len;
    }
    return e;
}

/* The next run of data in [off, size): start = end = size when there is none. */
static void next_data(int fd, uint64_t off, uint64_t size, uint64_t *start, uint64_t *end)
{
    off_t d = lseek(fd, (off_t)off, SEEK_DATA);

    if (d < 0 && errno != ENXIO) { /* a file system that does not tell */
        *start = off;
        *end = size;
        return;
    }
    *start = d < 0 || (uint64_t)d > size ? size : (uint64_t)d;
    off_t h = *start < size ? lseek(fd, d, SEEK_HOLE) : -1;
    *end = h < 0 || (uint64_t)h > size ? size : (uint64_t)h;
}

static uint64_t data_bytes(int fd, uint64_t size)
{
    uint64_t sum = 0, start, end;

    for (uint64_t off = 0; off < size; off = end) {
        next_data(fd, off, size, &start, &end);
        sum += end - start;
    }
    return sum;
}

static int send_whole(struct sender *s, const struct plan_item *it, int fd)
{
    uint64_t size = it->rec.content.size, start, end;
    struct stamp none = {0, 0};

    int e = send_data(s, it, none, 0, 0); /* opens it, also for a file that is one hole */
    for (uint64_t off = 0; !e && off < size; off = end) {
        next_data(fd, off, size, &start, &end);
        if (start > off && dirty_overlaps(s->env.dirty, it->lid, off, start - off))
            return FARM_ECHANGED;
        e = send_range(s, it, fd, none, start, end);
    }
    return e;
}

static uint64_t ranges_bytes(const struct plan_item *it)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < it->nranges; i++)
        sum += it->ranges[i].len;
    return sum;
}

static int send_delta(struct sender *s, const struct plan_item *it, int fd)
{
    int e = 0;

    for (uint32_t i = 0; !e && i < it->nranges; i++)
        e = send_range(s, it, fd, it->base, it->ranges[i].off,
                       it->ranges[i].off + it->ranges[i].len);
    return e;
}

/* Does the file on disk have the digest? In steps, so that an ACK does not wait for all of it. */
static int verify(struct sender *s, const struct plan_item *it, int fd)
{
    const struct content_rec *c = &it->rec.content;
    uint64_t n = digest_leaves(c->size), step = 64;
    CLEANUP_FREE uint8_t *leaves = calloc((size_t)n, DIGEST_LEN);
    uint8_t root[DIGEST_LEN];

    if (!leaves)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i += step) {
        uint64_t last = n - i < step ? n : i + step;
        int e = digest_file_leaves(fd, c->size, i, last, leaves + i * DIGEST_LEN);
        e = e ? file_error(it, e) : sender_between(s);
        if (e)
            return e;
    }
    digest_root(c->size, leaves, n, root);
    return memcmp(root, c->digest, DIGEST_LEN) == 0 ? 0 : FARM_ECHANGED;
}

static int put_transfer(struct sender *s, const struct plan_item *it)
{
    uint64_t size = it->rec.content.size;
    CLEANUP_FD int fd = -1;
    struct stat st;

    int e = reopen_read(s->env.nodes, it->lid, &fd);
    if (e)
        return file_error(it, e);
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < size)
        return FARM_ECHANGED;
    /* What came before does not wait for this file. */
    if (s->count)
        e = sender_flush(s, false);
    if (!e && it->again)
        e = verify(s, it, fd);
    if (e)
        return e;
    s->transfer++;
    /* With a base, holes have to travel as zeros; a sparse file may be shorter whole. */
    if (it->delta && ranges_bytes(it) < data_bytes(fd, size))
        e = send_delta(s, it, fd);
    else
        e = send_whole(s, it, fd);
    if (!e)
        msg_item_put(&s->frame, &it->rec, DATA_STAGED, NULL, 0, s->transfer);
    return e;
}

static int put_data(struct sender *s, const struct plan_item *it)
{
    if (it->rec.content.size <= DIGEST_BLOCK)
        return put_small(s, it);
    if (it->delta && ranges_bytes(it) <= INLINE_RANGES)
        return put_ranges(s, it);
    return put_transfer(s, it);
}

int content_put(struct sender *s, const struct plan_item *it)
{
    const struct content_rec *c = &it->rec.content;
    struct stamp last;

    int e = it->data ? put_data(s, it) : FARM_ECHANGED;
    if (e == FARM_ECHANGED) {
        msg_item_put(&s->frame, &it->rec, DATA_NONE, NULL, 0, 0);
        e = 0;
    } else if (!e && (c->size > DIGEST_BLOCK || sent_get(s->sent, c->rid, &last))) {
        sent_put(s->sent, c->rid, c->h.stamp);
    }
    if (!e)
        e = s->frame.err;
    if (!e)
        s->count++;
    return e;
}
