/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Frames: what travels between two link processes, and (without compression) between a link
 * process and its worker.
 *
 *    0        4      5       6      8        12         16            24
 *    +--------+------+-------+------+--------+----------+-------------+---------- - -
 *    | "FRM1" | type | flags | zero | len    | raw_len  | guard       | payload
 *    +--------+------+-------+------+--------+----------+-------------+---------- - -
 *
 * len: payload bytes that follow; raw_len: after decompression (equal to len unless FRAME_ZSTD);
 * guard: XXH3-64 of the payload as sent, seeded with the first 16 header bytes' XXH3-64.
 * Neither length exceeds FRAME_MAX.
 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER 24u
#define FRAME_MAX (2u * 1024u * 1024u)
#define PROTOCOL_VERSION 3u

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME = 2,
    FRAME_REFUSE = 3,
    FRAME_RECORDS = 4,
    FRAME_DATA = 5,
    FRAME_ACK = 6,
    FRAME_WANT = 7,
    FRAME_STATE = 8,
    FRAME_PING = 9,  /* between links only: 8 bytes */
    FRAME_PONG = 10, /* between links only: the ping's 8 bytes */
    FRAME_KNOW = 11, /* at the end of the log: what is known there */
    FRAME_SUM = 12,  /* of a range of the records, to be compared */
};

enum { FRAME_ZSTD = 1 };

struct frame_header {
    uint8_t type;
    uint8_t flags;
    uint32_t len;
    uint32_t raw_len;
    uint64_t guard;
};

/* Writes the 24 bytes, guard computed over the payload. */
void frame_header_put(uint8_t out[FRAME_HEADER], uint8_t type, uint8_t flags, uint32_t raw_len,
                      const void *payload, uint32_t len);
/* Checks magic, type, flags, zero bytes, bounds. FARM_EPROTO. */
FARM_MUSTUSE int frame_header_get(const uint8_t in[FRAME_HEADER], struct frame_header *out);
/* Checks the guard of a payload that arrived whole. FARM_ECORRUPT. */
FARM_MUSTUSE int frame_check(const uint8_t in[FRAME_HEADER], const void *payload, uint32_t len);

#endif
