/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "wire/frame.h"

#include <endian.h>
#include <string.h>
#include <xxhash.h>

static const uint8_t magic[4] = {'F', 'R', 'M', '1'};

enum { AT_TYPE = 4, AT_FLAGS = 5, AT_ZERO = 6, AT_LEN = 8, AT_RAW = 12, AT_GUARD = 16 };

static void put_u32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

/* The header is part of what is guarded: a flipped type or length must not pass either. */
static uint64_t guard_of(const uint8_t header[FRAME_HEADER], const void *payload, uint32_t len)
{
    return XXH3_64bits_withSeed(len ? payload : "", len, XXH3_64bits(header, AT_GUARD));
}

void frame_header_put(uint8_t out[FRAME_HEADER], uint8_t type, uint8_t flags, uint32_t raw_len,
                      const void *payload, uint32_t len)
{
    memcpy(out, magic, sizeof magic);
    out[AT_TYPE] = type;
    out[AT_FLAGS] = flags;
    out[AT_ZERO] = out[AT_ZERO + 1] = 0;
    put_u32(out + AT_LEN, len);
    put_u32(out + AT_RAW, raw_len);
    uint64_t guard = htole64(guard_of(out, payload, len));
    memcpy(out + AT_GUARD, &guard, sizeof guard);
}

int frame_header_get(const uint8_t in[FRAME_HEADER], struct frame_header *out)
{
    struct frame_header h = {.type = in[AT_TYPE],
                             .flags = in[AT_FLAGS],
                             .len = get_u32(in + AT_LEN),
                             .raw_len = get_u32(in + AT_RAW),
                             .guard = get_u64(in + AT_GUARD)};

    if (memcmp(in, magic, sizeof magic) != 0 || in[AT_ZERO] || in[AT_ZERO + 1])
        return FARM_EPROTO;
    if (h.type < FRAME_HELLO || h.type > FRAME_SUM || (h.flags & ~FRAME_ZSTD))
        return FARM_EPROTO;
    if (h.len > FRAME_MAX || h.raw_len > FRAME_MAX)
        return FARM_EPROTO;
    /* Compressed is always shorter: else it is sent as it is. */
    if (h.flags & FRAME_ZSTD ? h.len == 0 || h.len >= h.raw_len : h.len != h.raw_len)
        return FARM_EPROTO;
    *out = h;
    return 0;
}

int frame_check(const uint8_t in[FRAME_HEADER], const void *payload, uint32_t len)
{
    return get_u64(in + AT_GUARD) == guard_of(in, payload, len) ? 0 : FARM_ECORRUPT;
}
