/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What travels between links: compressed only when that pays, and checked before it is believed. */
#include "link/codec.h"

#include "base/io.h"
#include "wire/msg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include <cmocka.h>

static struct codec codec;
static uint8_t room[FRAME_HEADER + FRAME_MAX];
static uint8_t packed[FRAME_HEADER + FRAME_MAX];
static uint8_t bytes[FRAME_MAX];

static int setup(void **state)
{
    (void)state;
    return codec_init(&codec);
}

static int teardown(void **state)
{
    (void)state;
    codec_fini(&codec);
    return 0;
}

static struct buf data_of(uint32_t len)
{
    struct msg_data m = {.transfer = 1, .rid = {1, 2}, .size = len, .len = len, .bytes = bytes};
    struct buf b;

    buf_init(&b, FRAME_MAX);
    msg_data_put(&b, &m);
    assert_int_equal(b.err, 0);
    return b;
}

static int unpack(const uint8_t **frame, size_t *len)
{
    struct frame_header h;
    int r = frame_header_get(packed, &h);

    return r ? r : codec_unpack(&codec, &h, packed, room, frame, len);
}

static void round_trips(void **state)
{
    static const uint32_t sizes[] = {0, 1, 400, 500, 16000, 16384, 100000, FRAME_MAX - 200};

    (void)state;
    for (int random = 0; random < 2; random++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const uint8_t *frame;
            size_t len;
            memset(bytes, 'x', sizeof bytes);
            if (random)
                io_random(bytes, sizes[i]);
            struct buf b = data_of(sizes[i]);
            size_t n = codec_pack(&codec, FRAME_DATA, b.data, (uint32_t)b.len, packed);
            if (random || b.len <= 512)
                assert_true(n == FRAME_HEADER + b.len || (random && sizes[i] < 16384));
            else
                assert_true(n < FRAME_HEADER + b.len / 4);
            assert_int_equal(unpack(&frame, &len), 0);
            assert_int_equal(len, FRAME_HEADER + b.len);
            assert_memory_equal(frame + FRAME_HEADER, b.data, b.len);
            struct frame_header h;
            assert_int_equal(frame_header_get(frame, &h), 0);
            assert_int_equal(h.flags, 0);
            assert_int_equal(frame_check(frame, frame + FRAME_HEADER, h.len), 0);
            buf_fini(&b);
        }
}

/* A stream that opens to more, or to less, than it says; and one that is none. */
static void wrong_sizes(void **state)
{
    const uint8_t *frame;
    size_t len;

    (void)state;
    memset(bytes, 0, sizeof bytes);
    struct buf b = data_of(100000);
    size_t n = ZSTD_compress(packed + FRAME_HEADER, FRAME_MAX, b.data, b.len, 1);
    assert_false(ZSTD_isError(n));
    for (int d = -1; d <= 1; d++) {
        frame_header_put(packed, FRAME_DATA, FRAME_ZSTD, (uint32_t)((int)b.len + d),
                         packed + FRAME_HEADER, (uint32_t)n);
        assert_int_equal(unpack(&frame, &len), d ? FARM_ECORRUPT : 0);
    }
    buf_fini(&b);
    io_random(packed + FRAME_HEADER, 100);
    frame_header_put(packed, FRAME_DATA, FRAME_ZSTD, 1000, packed + FRAME_HEADER, 100);
    assert_int_equal(unpack(&frame, &len), FARM_ECORRUPT);
}

static void damage(void **state)
{
    const uint8_t *frame;
    size_t len;

    (void)state;
    memset(bytes, 'y', sizeof bytes);
    struct buf b = data_of(3000);
    size_t n = codec_pack(&codec, FRAME_DATA, b.data, (uint32_t)b.len, packed);
    for (size_t bit = 0; bit < n * 8; bit++) {
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        struct frame_header h;
        /* A header that asks for more than there is would be waited for: not this room's matter. */
        if (frame_header_get(packed, &h) == 0 && FRAME_HEADER + (size_t)h.len <= n)
            assert_int_equal(codec_unpack(&codec, &h, packed, room, &frame, &len), FARM_ECORRUPT);
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* Whole and well guarded, but no message. */
    frame_header_put(packed, FRAME_WANT, 0, 3, "abc", 3);
    memcpy(packed + FRAME_HEADER, "abc", 3);
    assert_int_equal(unpack(&frame, &len), FARM_ECORRUPT);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(wrong_sizes),
        cmocka_unit_test(damage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
