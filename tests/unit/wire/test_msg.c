/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Payloads of frames: round trips, truncation at every byte, flipped bits, hostile lengths. */
#include "wire/msg.h"

#include "wire/frame.h"
#include "wire/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CAP (4u << 20)

static struct record file_record(uint64_t size)
{
    struct record r = {.kind = REC_CONTENT};

    r.content =
        (struct content_rec){.h = {{7, 10}, 99}, .rid = {7, 2}, .type = NODE_REG, .size = size};
    return r;
}

/* Accepted whole; never cut short; never crashes when bits flip. */
static void check(uint8_t type, const struct buf *b)
{
    assert_int_equal(b->err, 0);
    assert_int_equal(msg_validate(type, b->data, b->len), 0);
    for (size_t n = 0; n <= b->len + 1; n++) {
        if (n == b->len)
            continue;
        uint8_t *p = calloc(1, n ? n : 1);
        assert_non_null(p);
        memcpy(p, b->data, n < b->len ? n : b->len);
        assert_int_equal(msg_validate(type, p, n), FARM_ECORRUPT);
        free(p);
    }
    for (size_t bit = 0; bit < b->len * 8; bit++) {
        b->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        (void)!msg_validate(type, b->data, b->len);
        b->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void hello(void **state)
{
    struct msg_hello out, m = {.protocol = PROTOCOL_VERSION,
                               .folder_id = 0x0123456789abcdef,
                               .node = 5,
                               .epoch = 6,
                               .wall_us = 7,
                               .name = "web1",
                               .folder = "www_2",
                               .run = 8,
                               .former = 9,
                               .know = {.n = 1, .e = {{4, 5}}},
                               .gone = {.n = 1, .e = {{6, 7}}}};
    struct buf b;

    (void)state;
    buf_init(&b, CAP);
    msg_hello_put(&b, &m);
    check(FRAME_HELLO, &b);
    assert_int_equal(msg_hello_get(b.data, b.len, &out), 0);
    assert_string_equal(out.name, "web1");
    assert_string_equal(out.folder, "www_2");
    assert_true(out.folder_id == m.folder_id && out.node == 5 && out.epoch == 6 &&
                out.wall_us == 7 && out.protocol == PROTOCOL_VERSION);
    assert_true(out.run == 8 && out.former == 9 && vvec_get(&out.know, 4) == 5 &&
                vvec_get(&out.gone, 6) == 7);
    assert_int_equal(msg_hello_get("\377\0\0\0?", 5, &out), 0); /* of a version to come */
    assert_true(out.protocol == 255 && out.node == 0 && out.name[0] == 0);
    strcpy(m.name, "We\nb");
    buf_reset(&b);
    msg_hello_put(&b, &m);
    assert_int_equal(msg_hello_get(b.data, b.len, &out), FARM_ECORRUPT);
    strcpy(m.name, "");
    buf_reset(&b);
    msg_hello_put(&b, &m);
    assert_int_equal(msg_hello_get(b.data, b.len, &out), FARM_ECORRUPT);
    buf_fini(&b);
}

static void welcome_ack_want(void **state)
{
    struct msg_welcome wo, w = {.epoch = 3,
                                .pos = 4,
                                .know = {.n = 1, .e = {{9, 2}}},
                                .seen = 5,
                                .run = 6,
                                .run_seen = 7,
                                .held = {.n = 1, .e = {{8, 1}}}};
    struct msg_ack ao, a = {.pos = 12, .know = {.n = 2, .e = {{1, 2}, {3, 4}}}};
    struct msg_want no, n = {.rid = {1, 2}, .stamp = {3, 4}};
    struct buf b;

    (void)state;
    buf_init(&b, CAP);
    msg_welcome_put(&b, &w);
    check(FRAME_WELCOME, &b);
    assert_int_equal(msg_welcome_get(b.data, b.len, &wo), 0);
    assert_true(wo.epoch == 3 && wo.pos == 4 && vvec_get(&wo.know, 9) == 2);
    assert_true(wo.seen == 5 && wo.run == 6 && wo.run_seen == 7 && vvec_get(&wo.held, 8) == 1);
    buf_reset(&b);
    msg_ack_put(&b, &a);
    check(FRAME_ACK, &b);
    assert_int_equal(msg_ack_get(b.data, b.len, &ao), 0);
    assert_true(ao.pos == 12 && vvec_get(&ao.know, 3) == 4);
    check(FRAME_KNOW, &b);
    buf_reset(&b);
    struct msg_sum so, s = {.token = 7,
                            .step = SUM_SEND,
                            .first = {1, 2},
                            .last = {1, 3},
                            .inodes = 5,
                            .digest = {6},
                            .know = {.n = 1, .e = {{9, 2}}}};
    msg_sum_put(&b, &s);
    check(FRAME_SUM, &b);
    assert_int_equal(msg_sum_get(b.data, b.len, &so), 0);
    assert_true(so.token == 7 && so.step == SUM_SEND && id_eq(so.first, s.first) &&
                id_eq(so.last, s.last) && so.inodes == 5 && so.digest[0] == 6 &&
                vvec_get(&so.know, 9) == 2);
    buf_reset(&b);
    s.last = (struct id128){1, 1}; /* before the first */
    msg_sum_put(&b, &s);
    assert_int_equal(msg_validate(FRAME_SUM, b.data, b.len), FARM_ECORRUPT);
    buf_reset(&b);
    s.last = s.first;
    s.step = (enum sum_step)6;
    msg_sum_put(&b, &s);
    assert_int_equal(msg_validate(FRAME_SUM, b.data, b.len), FARM_ECORRUPT);
    buf_reset(&b);
    msg_want_put(&b, &n);
    check(FRAME_WANT, &b);
    assert_int_equal(msg_want_get(b.data, b.len, &no), 0);
    assert_true(id_eq(no.rid, n.rid) && stamp_eq(no.stamp, n.stamp));
    buf_fini(&b);
}

static void refuse_state_ping(void **state)
{
    struct msg_refuse ro, r = {.code = FARM_EFOLDER, .text = "folder\nid"};
    struct msg_state so, s = {.node = 1, .counter = 2, .name = "web2"};
    struct buf b;

    (void)state;
    buf_init(&b, CAP);
    msg_refuse_put(&b, &r);
    check(FRAME_REFUSE, &b);
    assert_int_equal(msg_refuse_get(b.data, b.len, &ro), 0);
    assert_int_equal(ro.code, FARM_EFOLDER);
    assert_string_equal(ro.text, "folder?id");

    s.json = (const uint8_t *)"{\"state\":\"ready\"}";
    s.json_len = 17;
    buf_reset(&b);
    msg_state_put(&b, &s);
    check(FRAME_STATE, &b);
    assert_int_equal(msg_state_get(b.data, b.len, &so), 0);
    assert_int_equal(so.json_len, 17);
    static uint8_t big[STATE_MAX + 1];
    memset(big, ' ', sizeof big);
    s.json = big;
    s.json_len = sizeof big;
    buf_reset(&b);
    msg_state_put(&b, &s);
    assert_int_equal(msg_state_get(b.data, b.len, &so), FARM_ECORRUPT);
    buf_fini(&b);

    assert_int_equal(msg_validate(FRAME_PING, "12345678", 8), 0);
    assert_int_equal(msg_validate(FRAME_PONG, "1234567", 7), FARM_ECORRUPT);
    assert_int_equal(msg_validate(0, "", 0), FARM_EPROTO);
    assert_int_equal(msg_validate(FRAME_SUM + 1, "", 0), FARM_EPROTO);
}

static void data(void **state)
{
    struct msg_data out, m = {.transfer = 1,
                              .base = {2, 3},
                              .rid = {4, 5},
                              .size = 100,
                              .off = 90,
                              .len = 10,
                              .bytes = (const uint8_t *)"0123456789"};
    struct buf b;

    (void)state;
    buf_init(&b, CAP);
    msg_data_put(&b, &m);
    check(FRAME_DATA, &b);
    assert_int_equal(msg_data_get(b.data, b.len, &out), 0);
    assert_true(out.off == 90 && out.len == 10 && out.size == 100 && id_eq(out.rid, m.rid));
    assert_memory_equal(out.bytes, m.bytes, 10);
    static const uint64_t offs[] = {91, 101, UINT64_MAX, UINT64_MAX - 5};
    for (size_t i = 0; i < 4; i++) {
        m.off = offs[i];
        buf_reset(&b);
        msg_data_put(&b, &m);
        assert_int_equal(msg_data_get(b.data, b.len, &out), FARM_ECORRUPT);
    }
    buf_fini(&b);
}

static void records(void **state)
{
    struct record whole = file_record(5), ranges = file_record(100), staged = file_record(1 << 30);
    struct record attr = {.kind = REC_ATTR, .attr = {.h = {{1, 1}, 1}, .rid = {7, 2}}};
    struct msg_records m;
    struct msg_item it;
    struct buf b;

    (void)state;
    buf_init(&b, CAP);
    msg_records_begin(&b);
    msg_item_put(&b, &whole, DATA_WHOLE, "hello", 5, 0);
    size_t mark = msg_item_ranges_begin(&b, &ranges, (struct stamp){7, 9});
    msg_item_range_put(&b, 0, "ab", 2);
    msg_item_range_put(&b, 97, "xyz", 3);
    msg_item_ranges_end(&b, mark, 2);
    msg_item_put(&b, &staged, DATA_STAGED, NULL, 0, 42);
    msg_item_put(&b, &attr, DATA_NONE, NULL, 0, 0);
    msg_records_end(&b, 1234, RECORDS_BOUNDARY, 4);
    check(FRAME_RECORDS, &b);

    assert_int_equal(msg_records_get(b.data, b.len, &m), 0);
    assert_true(m.pos == 1234 && m.flags == RECORDS_BOUNDARY && m.count == 4);
    assert_int_equal(msg_item_next(&m, &it), 1);
    assert_int_equal(it.data, DATA_WHOLE);
    assert_memory_equal(it.whole, "hello", 5);
    assert_int_equal(msg_item_next(&m, &it), 1);
    assert_int_equal(it.data, DATA_RANGES);
    assert_int_equal(it.nranges, 2);
    assert_true(stamp_eq(it.base, (struct stamp){7, 9}));

    struct cur c;
    uint64_t off;
    const uint8_t *p;
    uint32_t len;
    cur_init(&c, it.ranges, it.ranges_len);
    assert_int_equal(msg_range_next(&c, &off, &p, &len), 1);
    assert_true(off == 0 && len == 2 && memcmp(p, "ab", 2) == 0);
    assert_int_equal(msg_range_next(&c, &off, &p, &len), 1);
    assert_true(off == 97 && len == 3 && memcmp(p, "xyz", 3) == 0);
    assert_int_equal(msg_range_next(&c, &off, &p, &len), 0);

    assert_int_equal(msg_item_next(&m, &it), 1);
    assert_true(it.data == DATA_STAGED && it.transfer == 42);
    assert_int_equal(msg_item_next(&m, &it), 1);
    assert_true(it.data == DATA_NONE && it.rec.kind == REC_ATTR);
    assert_int_equal(msg_item_next(&m, &it), 0);
    buf_fini(&b);
}

static void hostile_records(void **state)
{
    static const struct {
        uint64_t off[2];
        uint32_t n;
        int want;
    } cases[] = {{{0, 4}, 2, 0},
                 {{0, 3}, 2, FARM_ECORRUPT},          /* overlap */
                 {{4, 0}, 2, FARM_ECORRUPT},          /* order */
                 {{0, 97}, 2, FARM_ECORRUPT},         /* past the size */
                 {{0, UINT64_MAX}, 2, FARM_ECORRUPT}, /* wraps */
                 {{0, 4}, 1, FARM_ECORRUPT},
                 {{0, 4}, UINT32_MAX, FARM_ECORRUPT}};
    struct record rec = file_record(100), attr = {.kind = REC_ATTR};
    struct buf b;

    (void)state;
    buf_init(&b, CAP);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_reset(&b);
        msg_records_begin(&b);
        size_t mark = msg_item_ranges_begin(&b, &rec, (struct stamp){7, 9});
        msg_item_range_put(&b, cases[i].off[0], "abcd", 4);
        msg_item_range_put(&b, cases[i].off[1], "abcd", 4);
        msg_item_ranges_end(&b, mark, cases[i].n);
        msg_records_end(&b, 1, 0, 1);
        assert_int_equal(msg_validate(FRAME_RECORDS, b.data, b.len), cases[i].want);
    }
    static const uint32_t counts[] = {0, 2, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        buf_reset(&b);
        msg_records_begin(&b);
        msg_item_put(&b, &rec, DATA_NONE, NULL, 0, 0);
        msg_records_end(&b, 1, 0, counts[i]);
        assert_int_equal(msg_validate(FRAME_RECORDS, b.data, b.len), FARM_ECORRUPT);
    }
    buf_reset(&b);
    msg_records_begin(&b);
    msg_item_put(&b, &rec, DATA_WHOLE, "hello", 5, 0); /* not the record's size */
    msg_records_end(&b, 1, 0, 1);
    assert_int_equal(msg_validate(FRAME_RECORDS, b.data, b.len), FARM_ECORRUPT);
    buf_reset(&b);
    attr.attr.rid = (struct id128){7, 2};
    msg_records_begin(&b);
    msg_item_put(&b, &attr, DATA_STAGED, NULL, 0, 1); /* attributes have no data */
    msg_records_end(&b, 1, 0, 1);
    assert_int_equal(msg_validate(FRAME_RECORDS, b.data, b.len), FARM_ECORRUPT);
    buf_reset(&b);
    msg_records_begin(&b);
    msg_records_end(&b, 1, 0x80, 0);
    assert_int_equal(msg_validate(FRAME_RECORDS, b.data, b.len), FARM_ECORRUPT);
    buf_fini(&b);
}

/* An encoder that runs out of room says so once, at its end. */
static void full_buffer(void **state)
{
    struct record rec = file_record(100);
    struct buf b;

    (void)state;
    for (size_t cap = 0; cap < 200; cap++) {
        buf_init(&b, cap);
        msg_records_begin(&b);
        size_t mark = msg_item_ranges_begin(&b, &rec, (struct stamp){7, 9});
        msg_item_range_put(&b, 0, "abcd", 4);
        msg_item_ranges_end(&b, mark, 1);
        msg_records_end(&b, 1, 0, 1);
        assert_true(b.err == FARM_EFULL || msg_validate(FRAME_RECORDS, b.data, b.len) == 0);
        buf_fini(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello),
        cmocka_unit_test(welcome_ack_want),
        cmocka_unit_test(refuse_state_ping),
        cmocka_unit_test(data),
        cmocka_unit_test(records),
        cmocka_unit_test(hostile_records),
        cmocka_unit_test(full_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
