/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/farm-test-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) == NULL || chdir(dir) < 0;
}

static int remove_dir(void **state)
{
    (void)state;
    return chdir("/") < 0 || rmdir(dir) < 0;
}

static void errors_have_texts_and_errnos(void **state)
{
    (void)state;
    for (int code = FARM_EFULL; code <= FARM_ECORRUPT; code++) {
        assert_string_not_equal(err_text(code), "unknown error");
        assert_true(err_to_errno(code) > 0 && err_to_errno(code) < 200);
    }
    assert_string_equal(err_text(-ENOSPC), "No space left on device");
    assert_string_equal(err_text(-999), "unknown error");
    assert_string_equal(err_text(5), "unknown error");
    assert_int_equal(err_to_errno(-ENOENT), ENOENT);
    assert_int_equal(err_to_errno(0), 0);
    assert_int_equal(err_to_errno(-5000), EIO);
}

static void read_full_tells_clean_end_from_torn(void **state)
{
    (void)state;
    int p[2];
    char got[4];
    assert_int_equal(pipe(p), 0);
    assert_int_equal(io_write_full(p[1], "abcdef", 6), 0);
    close(p[1]);
    assert_int_equal(io_read_full(p[0], got, 4), 0);
    assert_memory_equal(got, "abcd", 4);
    assert_int_equal(io_read_full(p[0], got, 4), FARM_ECORRUPT);
    assert_int_equal(io_read_full(p[0], got, 4), FARM_ECLOSED);
    close(p[0]);
    assert_int_equal(io_read_full(p[0], got, 4), -EBADF);
}

static void whole_files(void **state)
{
    (void)state;
    char *data = NULL;
    size_t len = 0;
    struct stat st;
    umask(077);
    assert_int_equal(io_write_file_at(AT_FDCWD, "f", "hello", 5, 0644), 0);
    assert_int_equal(io_write_file_at(AT_FDCWD, "f", "bye", 3, 0640), 0);
    assert_int_equal(stat("f", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(io_read_file_at(AT_FDCWD, "f", 3, &data, &len), 0);
    assert_string_equal(data, "bye");
    assert_int_equal(len, 3);
    free(data);
    data = NULL;
    assert_int_equal(io_read_file_at(AT_FDCWD, "f", 2, &data, &len), -EFBIG);
    assert_int_equal(io_read_file_at(AT_FDCWD, "g", 2, &data, &len), -ENOENT);
    assert_null(data);
    assert_int_equal(io_write_file_at(AT_FDCWD, "no/f", "x", 1, 0600), -ENOENT);
    char big[20000];
    memset(big, 'b', sizeof(big));
    assert_int_equal(io_write_file_at(AT_FDCWD, "f", big, sizeof(big), 0600), 0);
    assert_int_equal(io_read_file_at(AT_FDCWD, "f", sizeof(big), &data, &len), 0);
    assert_int_equal(len, sizeof(big));
    assert_memory_equal(data, big, len);
    free(data);
    unlink("f"); /* that the directory can then be removed shows that no temporary name is left */
}

#define MIB (1024u * 1024u)

static void copy_keeps_data_holes_and_the_rest(void **state)
{
    (void)state;
    int a = open("a", O_RDWR | O_CREAT, 0600), b = open("b", O_RDWR | O_CREAT, 0600);
    char *from = calloc(1, 5 * MIB), *to = malloc(5 * MIB);
    assert_int_equal(ftruncate(a, 4 * MIB), 0);
    memset(from + MIB, 'd', 10000);
    assert_int_equal(io_pwrite(a, from + MIB, 10000, MIB), 0);
    memset(to, 'o', 3 * MIB); /* old content where the source has holes */
    assert_int_equal(io_pwrite(b, to, 3 * MIB, 0), 0);

    assert_int_equal(io_copy_range(a, b, 4096, UINT64_MAX), 0);
    size_t got = 0;
    assert_int_equal(io_pread(b, to, 5 * MIB, 0, &got), 0);
    assert_int_equal(got, 4 * MIB); /* up to the hole at the end */
    for (size_t i = 0; i < 4096; i++)
        assert_int_equal(to[i], 'o');
    assert_memory_equal(to + 4096, from + 4096, 4 * MIB - 4096);
    struct stat st;
    assert_int_equal(fstat(b, &st), 0);
    assert_true(st.st_blocks * 512 < 3 * (off_t)MIB);

    assert_int_equal(io_copy_range(a, b, 4 * MIB, 1), 0); /* past the end: nothing */
    assert_int_equal(io_copy_range(a, b, UINT64_MAX, UINT64_MAX), 0);
    free(from);
    free(to);
    close(a);
    close(b);
    unlink("a");
    unlink("b");
}

static size_t open_fds(void)
{
    size_t n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void send_two_fds(int sock)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = "x", .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = CMSG_SPACE(2 * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    int fds[2] = {0, 1};
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(fds));
    memcpy(CMSG_DATA(c), fds, sizeof(fds));
    assert_int_equal(sendmsg(sock, &msg, 0), 1);
}

static void descriptors_travel_and_extra_ones_do_not_leak(void **state)
{
    (void)state;
    int s[2], p[2], fd = -7;
    char text[8];
    size_t got = 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(io_send_fd(s[0], "hi", 2, p[1]), 0);
    assert_int_equal(io_recv_fd(s[1], text, sizeof(text), &got, &fd), 0);
    assert_int_equal(got, 2);
    assert_true(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(io_write_full(fd, "z", 1), 0);
    assert_int_equal(io_read_full(p[0], text, 1), 0);
    assert_int_equal(text[0], 'z');
    close(fd);

    assert_int_equal(io_send_fd(s[0], "n", 1, -1), 0);
    assert_int_equal(io_recv_fd(s[1], text, sizeof(text), &got, &fd), 0);
    assert_int_equal(fd, -1);

    size_t before = open_fds();
    send_two_fds(s[0]);
    assert_int_equal(io_recv_fd(s[1], text, sizeof(text), &got, &fd), FARM_EPROTO);
    assert_int_equal(open_fds(), before);
    close(s[0]);
    assert_int_equal(io_recv_fd(s[1], text, sizeof(text), &got, &fd), FARM_ECLOSED);
    close(s[1]);
    close(p[0]);
    close(p[1]);
}

static void texts_for_people(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {1288490189, "1.2 GiB"},
        {1024 * 1024 - 1, "1.0 MiB"},
        {UINT64_MAX, "16.0 EiB"},
    };
    char out[16];
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        io_human(rows[i].bytes, out);
        assert_string_equal(out, rows[i].text);
    }
    io_hex("\x00\xff\x1a", 3, out);
    assert_string_equal(out, "00ff1a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_have_texts_and_errnos),
        cmocka_unit_test(read_full_tells_clean_end_from_torn),
        cmocka_unit_test(whole_files),
        cmocka_unit_test(copy_keeps_data_holes_and_the_rest),
        cmocka_unit_test(descriptors_travel_and_extra_ones_do_not_leak),
        cmocka_unit_test(texts_for_people),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
