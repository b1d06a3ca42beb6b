/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/buf.h"

#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 64

/* Byte by byte so that the format does not depend on the machine; compilers make one store of it.
 */
static void store_le(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t load_le(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void buf_init(struct buf *b, size_t cap)
{
    *b = (struct buf){.cap = cap};
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.cap = b->cap};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->err = 0;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    if (b->err != 0)
        return NULL;
    if (n > b->cap - b->len) {
        b->err = FARM_EFULL;
        return NULL;
    }
    if (b->data == NULL || n > b->size - b->len) {
        size_t want = b->len + n;
        size_t size = b->size > b->cap / 2 ? b->cap : b->size * 2;
        if (size < FIRST_SIZE)
            size = FIRST_SIZE < b->cap ? FIRST_SIZE : b->cap;
        if (size < want)
            size = want;
        uint8_t *data = realloc(b->data, size > 0 ? size : 1);
        if (data == NULL) {
            b->err = -ENOMEM;
            return NULL;
        }
        b->data = data;
        b->size = size;
    }
    return b->data + b->len;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
    uint8_t *to = buf_reserve(b, n);
    if (to == NULL || n == 0)
        return;
    memcpy(to, p, n);
    b->len += n;
}

static void put_le(struct buf *b, uint64_t v, unsigned n)
{
    uint8_t *to = buf_reserve(b, n);
    if (to == NULL)
        return;
    store_le(to, v, n);
    b->len += n;
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    put_le(b, v, 1);
}

void buf_put_u16(struct buf *b, uint16_t v)
{
    put_le(b, v, 2);
}

void buf_put_u32(struct buf *b, uint32_t v)
{
    put_le(b, v, 4);
}

void buf_put_u64(struct buf *b, uint64_t v)
{
    put_le(b, v, 8);
}

void buf_put_bytes(struct buf *b, const void *p, uint32_t n)
{
    buf_put_u32(b, n);
    buf_put(b, p, n);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    char small[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(small)) {
        buf_put(b, small, (size_t)n);
        return;
    }
    char *big = NULL;
    va_start(ap, fmt);
    n = vasprintf(&big, fmt, ap);
    va_end(ap);
    if (n < 0) {
        if (b->err == 0)
            b->err = -ENOMEM;
        return;
    }
    buf_put(b, big, (size_t)n);
    free(big);
}

void buf_set_u32(struct buf *b, size_t at, uint32_t v)
{
    if (b->err != 0)
        return; /* the place may never have been written */
    farm_assert(b->len >= 4 && at <= b->len - 4);
    store_le(b->data + at, v, 4);
}

void cur_init(struct cur *c, const void *p, size_t n)
{
    c->p = n > 0 ? p : (const uint8_t *)"";
    c->end = c->p + n;
    c->err = 0;
}

size_t cur_left(const struct cur *c)
{
    return (size_t)(c->end - c->p);
}

const uint8_t *cur_raw(struct cur *c, size_t n)
{
    if (c->err != 0 || n > cur_left(c)) {
        c->err = FARM_ECORRUPT;
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    return p;
}

static uint64_t get_le(struct cur *c, unsigned n)
{
    const uint8_t *p = cur_raw(c, n);
    return p != NULL ? load_le(p, n) : 0;
}

uint8_t cur_u8(struct cur *c)
{
    return (uint8_t)get_le(c, 1);
}

uint16_t cur_u16(struct cur *c)
{
    return (uint16_t)get_le(c, 2);
}

uint32_t cur_u32(struct cur *c)
{
    return (uint32_t)get_le(c, 4);
}

uint64_t cur_u64(struct cur *c)
{
    return get_le(c, 8);
}

const uint8_t *cur_bytes(struct cur *c, uint32_t max, uint32_t *len)
{
    uint32_t n = cur_u32(c);
    if (n > max)
        c->err = FARM_ECORRUPT;
    const uint8_t *p = cur_raw(c, n);
    *len = p != NULL ? n : 0;
    return p;
}

int cur_done(const struct cur *c)
{
    return c->err == 0 && c->p == c->end ? 0 : FARM_ECORRUPT;
}
