/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Frames as they travel between links: compressed when that pays, guarded, checked on arrival. */
#ifndef LINK_CODEC_H
#define LINK_CODEC_H

#include "wire/frame.h"

#include <stddef.h>

struct codec {
    struct ZSTD_CCtx_s *c;
    struct ZSTD_DCtx_s *d;
};

FARM_MUSTUSE int codec_init(struct codec *c);
void codec_fini(struct codec *c);
/* Writes header and payload to out, which has room for FRAME_HEADER + len bytes; returns the size.
 */
size_t codec_pack(struct codec *c, uint8_t type, const uint8_t *payload, uint32_t len,
                  uint8_t *out);
/*
 * Checks a frame that arrived whole (`h` is its decoded header): guard, decompression within
 * raw_len, and that the payload is a valid message. *frame is the uncompressed frame: `in` itself,
 * or `room` (FRAME_HEADER + FRAME_MAX bytes) when it had to be decompressed. FARM_ECORRUPT,
 * FARM_EPROTO.
 */
FARM_MUSTUSE int codec_unpack(struct codec *c, const struct frame_header *h, const uint8_t *in,
                              uint8_t *room, const uint8_t **frame, size_t *len);

#endif
