/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A bounded byte buffer, and a cursor that reads bytes which may be hostile.
 *
 * struct buf grows up to its cap; a put beyond it (or out of memory) sets `err` and every later put
 * is a no-op, so that an encoder checks once, at its end. Integers are little-endian.
 * struct cur never reads past its end; the first failed get sets `err` (FARM_ECORRUPT) and every
 * later get returns zero / empty, so that a decoder checks once, at its end.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data;
    size_t len;
    size_t size; /* allocated */
    size_t cap;  /* never grows past this */
    int err;     /* 0, -ENOMEM or FARM_EFULL; sticky */
};

void buf_init(struct buf *b, size_t cap);
void buf_fini(struct buf *b);
/* Empty again, error cleared, memory kept. */
void buf_reset(struct buf *b);
/* Make room for n more bytes; returns where they go (len is not moved) or NULL with err set. */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v);
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
/* u32 length, then the bytes. */
void buf_put_bytes(struct buf *b, const void *p, uint32_t n);
/* printf to the end of the buffer (no terminator counted). */
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Overwrite a u32 put earlier at offset `at`. */
void buf_set_u32(struct buf *b, size_t at, uint32_t v);

struct cur {
    const uint8_t *p;
    const uint8_t *end;
    int err; /* 0 or FARM_ECORRUPT; sticky */
};

void cur_init(struct cur *c, const void *p, size_t n);
size_t cur_left(const struct cur *c);
uint8_t cur_u8(struct cur *c);
uint16_t cur_u16(struct cur *c);
uint32_t cur_u32(struct cur *c);
uint64_t cur_u64(struct cur *c);
/* n raw bytes, pointing into the input; NULL and err when there are fewer. */
const uint8_t *cur_raw(struct cur *c, size_t n);
/* u32 length then bytes, at most max of them; points into the input. */
const uint8_t *cur_bytes(struct cur *c, uint32_t max, uint32_t *len);
/* 0 when nothing failed and nothing is left over, else FARM_ECORRUPT. */
FARM_MUSTUSE int cur_done(const struct cur *c);

#endif
