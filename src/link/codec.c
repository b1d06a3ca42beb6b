/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/codec.h"

#include "wire/msg.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

#define PACK_MIN 512u      /* below this a header and a call cost more than is saved */
#define PACK_LEVEL 1       /* the wire is a LAN: the CPU is what is short */
#define SAMPLE_LEN 4096u   /* from the middle: archives and images begin with readable headers */
#define SAMPLE_FROM 16384u /* only payloads that are much larger are worth the sample */
#define SAMPLE_WORSE 3900u /* a sample that compresses to more than this is not worth it */

int codec_init(struct codec *c)
{
    c->c = ZSTD_createCCtx();
    c->d = ZSTD_createDCtx();
    if (c->c && c->d)
        return 0;
    codec_fini(c);
    return -ENOMEM;
}

void codec_fini(struct codec *c)
{
    ZSTD_freeCCtx(c->c);
    ZSTD_freeDCtx(c->d);
    c->c = NULL;
    c->d = NULL;
}

static bool worth_it(struct codec *c, const uint8_t *payload, uint32_t len)
{
    uint8_t out[SAMPLE_WORSE];

    if (len <= PACK_MIN)
        return false;
    if (len < SAMPLE_FROM)
        return true;
    size_t n = ZSTD_compressCCtx(c->c, out, sizeof out, payload + len / 2, SAMPLE_LEN, PACK_LEVEL);
    return !ZSTD_isError(n);
}

size_t codec_pack(struct codec *c, uint8_t type, const uint8_t *payload, uint32_t len, uint8_t *out)
{
    if (worth_it(c, payload, len)) {
        size_t n = ZSTD_compressCCtx(c->c, out + FRAME_HEADER, len - 1, payload, len, PACK_LEVEL);
        if (!ZSTD_isError(n)) {
            frame_header_put(out, type, FRAME_ZSTD, len, out + FRAME_HEADER, (uint32_t)n);
            return FRAME_HEADER + n;
        }
    }
    frame_header_put(out, type, 0, len, payload, len);
    if (len)
        memcpy(out + FRAME_HEADER, payload, len);
    return FRAME_HEADER + (size_t)len;
}

int codec_unpack(struct codec *c, const struct frame_header *h, const uint8_t *in, uint8_t *room,
                 const uint8_t **frame, size_t *len)
{
    const uint8_t *whole = in;
    int r = frame_check(in, in + FRAME_HEADER, h->len);

    if (r)
        return r;
    if (h->flags & FRAME_ZSTD) {
        size_t n =
            ZSTD_decompressDCtx(c->d, room + FRAME_HEADER, h->raw_len, in + FRAME_HEADER, h->len);
        if (ZSTD_isError(n) || n != h->raw_len)
            return FARM_ECORRUPT;
        frame_header_put(room, h->type, 0, h->raw_len, room + FRAME_HEADER, h->raw_len);
        whole = room;
    }
    r = msg_validate(h->type, whole + FRAME_HEADER, h->raw_len);
    if (r)
        return r;
    *frame = whole;
    *len = FRAME_HEADER + (size_t)h->raw_len;
    return 0;
}
