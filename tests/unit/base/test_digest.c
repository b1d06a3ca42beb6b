/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/digest.h"
#include "base/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int temp_file(void)
{
    char name[] = "/tmp/farm-test-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static void assert_hex(const uint8_t *digest, const char *want)
{
    char hex[2 * DIGEST_LEN + 1];
    io_hex(digest, DIGEST_LEN, hex);
    assert_string_equal(hex, want);
}

/* Computed by another implementation of SHA-256 from the formula in the header. */
static void known_answers(void **state)
{
    (void)state;
    uint8_t d[DIGEST_LEN];
    digest_leaf("abc", 3, d);
    assert_hex(d, "609f6e36d2405585188d5cfd761f407c7cc46a7d3f314c88270469dde315fcd1");
    digest_small("abc", 3, d);
    assert_hex(d, "e26987d728b67586aa85d8f6626087b569458b7f0251510b551392585b845153");
    digest_small("", 0, d);
    assert_hex(d, "a536aa3cede6ea3c1f3e0357c3c60e0f216a8c89b853df13b29daa8f85065dfb");
}

static void leaves_at_the_edges(void **state)
{
    (void)state;
    assert_int_equal(digest_leaves(0), 0);
    assert_int_equal(digest_leaves(1), 1);
    assert_int_equal(digest_leaves(DIGEST_BLOCK), 1);
    assert_int_equal(digest_leaves(DIGEST_BLOCK + 1), 2);
}

/* A sparse file, read with its holes, has the digest of the same bytes without holes. */
static void holes_and_missing_ends_are_zeros(void **state)
{
    (void)state;
    uint64_t size = 5 * DIGEST_BLOCK + 77;
    uint8_t *flat = calloc(1, size);
    uint8_t want[6 * DIGEST_LEN], got[6 * DIGEST_LEN], zero[DIGEST_LEN];
    int fd = temp_file();
    memset(flat + DIGEST_BLOCK + 5, 'x', 3000);
    memset(flat + 4 * DIGEST_BLOCK - 10, 'y', 20);
    assert_int_equal(io_pwrite(fd, flat + DIGEST_BLOCK + 5, 3000, DIGEST_BLOCK + 5), 0);
    assert_int_equal(io_pwrite(fd, flat + 4 * DIGEST_BLOCK - 10, 20, 4 * DIGEST_BLOCK - 10), 0);
    for (uint64_t i = 0; i < 6; i++)
        digest_leaf(flat + i * DIGEST_BLOCK, i < 5 ? DIGEST_BLOCK : 77, want + i * DIGEST_LEN);
    assert_int_equal(digest_file_leaves(fd, size, 0, 6, got), 0);
    assert_memory_equal(got, want, sizeof(want));
    assert_int_equal(digest_file_leaves(fd, size, 3, 5, got), 0);
    assert_memory_equal(got, want + 3 * DIGEST_LEN, 2 * DIGEST_LEN);
    digest_leaf(flat, DIGEST_BLOCK, zero); /* block 0 is a hole */
    assert_memory_equal(want, zero, DIGEST_LEN);
    free(flat);
    close(fd);
}

static void errors_of_the_file_are_passed_up(void **state)
{
    (void)state;
    uint8_t leaf[DIGEST_LEN];
    assert_int_equal(digest_file_leaves(-1, 10, 0, 1, leaf), -EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(leaves_at_the_edges),
        cmocka_unit_test(holes_and_missing_ends_are_zeros),
        cmocka_unit_test(errors_of_the_file_are_passed_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
