/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Records as bytes: round trips, truncation at every byte, flipped bits, hostile values. */
#include "wire/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CAP (1u << 20)

static struct record name_record(void)
{
    struct record r = {.kind = REC_NAME};

    r.name = (struct name_rec){.h = {{7, 9}, 123456789},
                               .nid = {7, 3},
                               .inode = {7, 2},
                               .parent = RID_ROOT,
                               .alive = true,
                               .name_len = 9,
                               .prev_len = 3,
                               .prev_parent = {8, 4}};
    memcpy(r.name.name, "index.php", 9);
    memcpy(r.name.prev_name, "old", 3);
    r.name.seen.n = 2;
    r.name.seen.e[0] = (struct stamp){1, 5};
    r.name.seen.e[1] = (struct stamp){7, 8};
    return r;
}

static struct record content_record(uint8_t type)
{
    struct record r = {.kind = REC_CONTENT};

    r.content = (struct content_rec){.h = {{7, 10}, 99},
                                     .rid = {7, 2},
                                     .type = type,
                                     .size = 4096,
                                     .mtime_ns = -1,
                                     .base = {7, 9}};
    r.content.vv.n = 1;
    r.content.vv.e[0] = (struct stamp){7, 10};
    if (type == NODE_REG)
        memset(r.content.digest, 0xa5, sizeof r.content.digest);
    if (type == NODE_LNK) {
        r.content.target = (const uint8_t *)"../a";
        r.content.target_len = 4;
    }
    if (type == NODE_CHR || type == NODE_BLK) {
        r.content.rdev_major = 1;
        r.content.rdev_minor = 3;
    }
    return r;
}

static const uint8_t xattrs[] = "\x06user.a\x01\0\0\0x\x06user.b\0\0\0\0";

static struct record attr_record(void)
{
    struct record r = {.kind = REC_ATTR};

    r.attr = (struct attr_rec){.h = {{9, 1}, 5},
                               .rid = {7, 2},
                               .mode = 06755,
                               .uid = 33,
                               .gid = 33,
                               .owner_len = 8,
                               .group_len = 8,
                               .mtime_ns = 1700000000000000000,
                               .mtime_hlc = 77,
                               .xattrs = xattrs,
                               .xattrs_len = sizeof xattrs - 1};
    memcpy(r.attr.owner, "www-data", 8);
    memcpy(r.attr.group, "www-data", 8);
    return r;
}

/* Decode must take every byte, and encode again to the same bytes. */
static void check_round_trip(const struct record *r)
{
    struct buf b, again;
    struct cur c;
    struct record out;

    buf_init(&b, CAP);
    buf_init(&again, CAP);
    record_encode(&b, r);
    assert_int_equal(b.err, 0);
    cur_init(&c, b.data, b.len);
    assert_int_equal(record_decode(&c, &out), 0);
    assert_int_equal(cur_done(&c), 0);
    assert_int_equal(out.kind, r->kind);
    assert_true(id_eq(record_id(&out), record_id(r)));
    record_encode(&again, &out);
    assert_int_equal(b.len, again.len);
    assert_memory_equal(b.data, again.data, b.len);

    for (size_t n = 0; n < b.len; n++) {
        uint8_t *cut = malloc(n + 1); /* exact, so that a sanitizer sees a read past it */
        assert_non_null(cut);
        uint8_t *exact = realloc(cut, n ? n : 1);
        memcpy(exact, b.data, n);
        cur_init(&c, exact, n);
        assert_int_equal(record_decode(&c, &out), FARM_ECORRUPT);
        free(exact);
    }
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cur_init(&c, b.data, b.len);
        if (record_decode(&c, &out) == 0) { /* whatever is accepted means itself */
            size_t used = b.len - cur_left(&c);
            buf_reset(&again);
            record_encode(&again, &out);
            assert_int_equal(again.len, used);
            assert_memory_equal(again.data, b.data, used);
        }
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    buf_fini(&b);
    buf_fini(&again);
}

static void round_trips(void **state)
{
    struct record r = name_record();

    (void)state;
    check_round_trip(&r);
    r.name.prev_len = 0;
    r.name.alive = false;
    check_round_trip(&r);
    for (uint8_t type = NODE_REG; type <= NODE_SOCK; type++) {
        r = content_record(type);
        check_round_trip(&r);
    }
    r = attr_record();
    check_round_trip(&r);
    r.attr.xattrs_len = 0;
    r.attr.owner_len = r.attr.group_len = 0;
    check_round_trip(&r);
}

static int decode_of(const struct record *r)
{
    struct buf b;
    struct cur c;
    struct record out;

    buf_init(&b, CAP);
    record_encode(&b, r);
    cur_init(&c, b.data, b.len);
    int e = record_decode(&c, &out);
    buf_fini(&b);
    return e;
}

static void hostile_names(void **state)
{
    static const struct {
        const char *name;
        uint8_t len;
    } bad[] = {{"", 0}, {".", 1}, {"..", 2}, {"a/b", 3}, {"/", 1}, {"a\0b", 3}};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct record r = name_record();
        r.name.name_len = bad[i].len;
        memcpy(r.name.name, bad[i].name, bad[i].len);
        assert_int_equal(decode_of(&r), FARM_ECORRUPT);
        r = name_record();
        r.name.prev_len = bad[i].len;
        memcpy(r.name.prev_name, bad[i].name, bad[i].len);
        assert_int_equal(decode_of(&r), bad[i].len ? FARM_ECORRUPT : 0);
    }
    assert_true(name_valid((const uint8_t *)"...", 3));
    assert_true(name_valid((const uint8_t *)".a", 2));
    struct record r = name_record();
    r.name.inode = RID_ROOT;
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = name_record();
    r.name.nid = (struct id128){0, 0};
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
}

static void hostile_values(void **state)
{
    (void)state;
    struct record r = content_record(NODE_REG);
    r.content.size = SIZE_MAX_FILE + 1;
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = content_record(NODE_LNK);
    r.content.target_len = 0;
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = content_record(NODE_LNK);
    r.content.target = (const uint8_t *)"a\0bc";
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = content_record(0);
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = content_record(8);
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = content_record(NODE_REG);
    r.content.rid = RID_ROOT;
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);

    r = attr_record();
    r.attr.mode = 010000;
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = attr_record();
    r.attr.uid = UINT32_MAX;
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r = attr_record();
    r.attr.owner[2] = '\n';
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
}

static void vectors(void **state)
{
    struct vvec v = {.n = 2, .e = {{5, 1}, {5, 2}}};
    struct record r = content_record(NODE_DIR);

    (void)state;
    r.content.vv = v; /* not ascending */
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);
    r.content.vv.e[0] = (struct stamp){4, 0}; /* a sequence of 0 says nothing */
    assert_int_equal(decode_of(&r), FARM_ECORRUPT);

    struct buf b;
    struct cur c;
    buf_init(&b, CAP);
    buf_put_u16(&b, VVEC_MAX + 1);
    for (uint64_t i = 0; i <= VVEC_MAX; i++) {
        buf_put_u64(&b, i + 1);
        buf_put_u64(&b, 1);
    }
    cur_init(&c, b.data, b.len);
    assert_int_equal(vvec_decode(&c, &v), FARM_ECORRUPT);
    assert_int_equal(v.n, 0);
    buf_fini(&b);
}

static void xattr_lists(void **state)
{
    static const uint8_t twice[] = "\x01"
                                   "a\0\0\0\0\x01"
                                   "a\0\0\0\0";
    static const uint8_t order[] = "\x02"
                                   "ab\0\0\0\0\x01"
                                   "a\0\0\0\0";
    static const uint8_t empty[] = "\x00\0\0\0\0";
    static const uint8_t longer[] = "\x01"
                                    "a\x02\0\0\0x";
    static const uint8_t huge[] = "\x01"
                                  "a\xff\xff\xff\xffx";

    (void)state;
    assert_true(xattrs_valid(xattrs, sizeof xattrs - 1));
    assert_true(xattrs_valid(NULL, 0));
    assert_false(xattrs_valid(twice, sizeof twice - 1));
    assert_false(xattrs_valid(order, sizeof order - 1));
    assert_false(xattrs_valid(empty, sizeof empty - 1));
    assert_false(xattrs_valid(longer, sizeof longer - 1));
    assert_false(xattrs_valid(huge, sizeof huge - 1));
    for (size_t n = 1; n < sizeof xattrs - 1; n++)
        assert_int_equal(xattrs_valid(xattrs, n), n == 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),    cmocka_unit_test(hostile_names),
        cmocka_unit_test(hostile_values), cmocka_unit_test(vectors),
        cmocka_unit_test(xattr_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
