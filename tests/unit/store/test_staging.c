/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/staging.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SKIP_CODE 77

static char top[64], folder[80];
static int rootfd = -1;
static bool can_mount;

static void ok(int e)
{
    assert_int_equal(e, 0);
}

static int setup(void **state)
{
    (void)state;
    strcpy(top, "/tmp/farm-staging-XXXXXX");
    if (mkdtemp(top) == NULL)
        return -1;
    snprintf(folder, sizeof(folder), "%s/www", top);
    if (mkdir(folder, 0755) < 0)
        return -1;
    rootfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return rootfd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[80];
    close(rootfd);
    umount2(folder, MNT_DETACH);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", top);
    return system(cmd);
}

static bool exists(const char *name)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", top, name);
    return access(path, F_OK) == 0;
}

static void beside_the_folder(void **state)
{
    (void)state;
    struct staging s;
    struct stat st, before, after;
    bool inside = true;
    char why[256] = "", slashed[96];
    ok(fstat(rootfd, &before));
    snprintf(slashed, sizeof(slashed), "%s//", folder);
    ok(staging_open(slashed, rootfd, NULL, &s, &inside, why));
    assert_false(inside);
    assert_true(exists(".farmfs.www/conflicts"));
    ok(fstat(s.dirfd, &st));
    assert_int_equal(st.st_mode & 07777, 0700);
    ok(fstat(rootfd, &after)); /* looking changes nothing */
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    staging_close(&s);
    ok(staging_open(folder, rootfd, NULL, &s, &inside, why)); /* again */
    staging_close(&s);
}

static void configured(void **state)
{
    (void)state;
    struct staging s;
    bool inside = true;
    char why[256] = "", path[120];
    snprintf(path, sizeof(path), "%s/area", top);
    ok(staging_open(folder, rootfd, path, &s, &inside, why));
    assert_false(inside);
    assert_true(exists("area/in") && !exists(".farmfs.www"));
    staging_close(&s);
    snprintf(path, sizeof(path), "%s/sub", folder);
    assert_int_equal(staging_open(folder, rootfd, path, &s, &inside, why), -EINVAL);
    assert_non_null(strstr(why, "inside the folder"));
    snprintf(path, sizeof(path), "%s/.farmfs", folder);
    ok(staging_open(folder, rootfd, path, &s, &inside, why));
    assert_true(inside);
    staging_close(&s);
    assert_int_equal(staging_open(folder, rootfd, "/dev/shm/farm-staging-test", &s, &inside, why),
                     -EXDEV);
    assert_non_null(strstr(why, "is not on the file system"));
    assert_int_equal(access("/dev/shm/farm-staging-test", F_OK), -1); /* nothing left behind */
    snprintf(path, sizeof(path), "%s/no/such", top);
    assert_int_equal(staging_open(folder, rootfd, path, &s, &inside, why), -ENOENT);
}

/* Remount the folder and open it anew. */
static void mount_folder(const char *src, const char *type, unsigned long flags, const char *data)
{
    close(rootfd);
    ok(mount(src, folder, type, flags, data));
    rootfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(rootfd >= 0);
}

static void another_mount_means_inside(void **state)
{
    (void)state;
    struct staging s;
    bool inside = false;
    char why[256] = "";
    if (!can_mount)
        skip();
    mount_folder(folder, NULL, MS_BIND, NULL); /* the same file system: only rename tells */
    ok(staging_open(folder, rootfd, NULL, &s, &inside, why));
    assert_true(inside);
    assert_false(exists(".farmfs.www")); /* the attempt was taken back */
    staging_close(&s);
    ok(umount2(folder, MNT_DETACH));
    close(rootfd);
    rootfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    inside = false;
    ok(staging_open(folder, rootfd, NULL, &s, &inside, why)); /* once inside, always inside */
    assert_true(inside);
    staging_close(&s);
}

static void says_what_is_lacking(void **state)
{
    (void)state;
    struct staging s;
    bool inside;
    char why[256] = "", data[320];
    if (!can_mount)
        skip();
    snprintf(data, sizeof(data), "%s/up", top);
    ok(mkdir(data, 0755));
    snprintf(data, sizeof(data), "%s/work", top);
    ok(mkdir(data, 0755));
    snprintf(data, sizeof(data), "lowerdir=%s,upperdir=%s/up,workdir=%s/work", folder, top, top);
    close(rootfd);
    rootfd = -1;
    if (mount("overlay", folder, "overlay", 0, data) < 0)
        skip();
    rootfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(staging_open(folder, rootfd, NULL, &s, &inside, why) < 0);
    assert_non_null(strstr(why, "the file system of /tmp/farm-staging-"));
    assert_non_null(strstr(why, "handle"));
}

static void put(int at, const char *name)
{
    int fd = openat(at, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void cleaning(void **state)
{
    (void)state;
    struct staging s;
    bool inside;
    char why[256], name[64];
    ok(staging_open(folder, rootfd, NULL, &s, &inside, why));
    /* far deeper than any stack or PATH_MAX would have it, and broad */
    int at = dup(s.old);
    for (int depth = 0; depth < 3000; depth++) {
        ok(mkdirat(at, "a-rather-long-name-of-a-directory", 0700));
        put(at, "file");
        int next = openat(at, "a-rather-long-name-of-a-directory", O_RDONLY | O_DIRECTORY);
        assert_true(next >= 0);
        close(at);
        at = next;
    }
    close(at);
    for (int i = 0; i < 500; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(s.in, name);
    }
    ok(symlinkat("/", s.in, "link"));
    put(s.hidden, "kept");
    put(s.orphans, "17");
    ok(staging_clean(&s, false));
    assert_int_equal(unlinkat(s.dirfd, "old", AT_REMOVEDIR), 0);
    assert_int_equal(unlinkat(s.dirfd, "in", AT_REMOVEDIR), 0);
    ok(faccessat(s.hidden, "kept", F_OK, 0));
    ok(faccessat(s.orphans, "17", F_OK, 0));
    staging_close(&s);
    ok(staging_open(folder, rootfd, NULL, &s, &inside, why));
    ok(staging_clean(&s, true));
    assert_int_equal(faccessat(s.orphans, "17", F_OK, 0), -1);
    staging_close(&s);
}

static int add_lid(void *arg, uint64_t lid)
{
    *(uint64_t *)arg += lid;
    return lid == 13 ? -ECANCELED : 0;
}

static void files_and_names(void **state)
{
    (void)state;
    struct staging s;
    bool inside;
    char why[256], name[40], other[40];
    int fd, copy;
    ok(staging_open(folder, rootfd, NULL, &s, &inside, why));
    ok(staging_create(&s, name, &fd));
    assert_int_equal(pwrite(fd, "head", 4, 0), 4);
    assert_int_equal(pwrite(fd, "tail", 4, 8 << 20), 4);
    ok(staging_clone(&s, fd, (8 << 20) + 2, other, &copy));
    assert_string_not_equal(name, other);
    struct stat st;
    ok(fstat(copy, &st));
    assert_int_equal(st.st_size, (8 << 20) + 2);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_true(st.st_blocks * 512 < 1 << 20); /* the hole is still one */
    char text[5] = "";
    assert_int_equal(pread(copy, text, 4, 0), 4);
    assert_string_equal(text, "head");
    assert_int_equal(pread(copy, text, 4, 8 << 20), 2);
    close(copy);
    ok(staging_clone(&s, fd, 9 << 20, other, &copy)); /* longer than what there is */
    ok(fstat(copy, &st));
    assert_int_equal(st.st_size, 9 << 20);
    close(copy);
    close(fd);
    staging_discard(&s, name);
    assert_int_equal(faccessat(s.in, name, F_OK, 0), -1);

    staging_orphan_name(UINT64_MAX, name);
    assert_string_equal(name, "18446744073709551615");
    staging_id_name((struct id128){0xab, UINT64_MAX}, name);
    assert_string_equal(name, "00000000000000ab-ffffffffffffffff");
    put(s.orphans, "18446744073709551615");
    put(s.orphans, "12");
    put(s.orphans, "007");
    put(s.orphans, "x");
    uint64_t sum = 0;
    ok(staging_each_orphan(&s, add_lid, &sum));
    assert_int_equal(sum, 11); /* modulo 2^64 */
    put(s.orphans, "13");
    assert_int_equal(staging_each_orphan(&s, add_lid, &sum), -ECANCELED);
    staging_close(&s);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "needs root: open_by_handle_at\n");
        return SKIP_CODE;
    }
    can_mount = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(beside_the_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(configured, setup, teardown),
        cmocka_unit_test_setup_teardown(another_mount_means_inside, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_is_lacking, setup, teardown),
        cmocka_unit_test_setup_teardown(cleaning, setup, teardown),
        cmocka_unit_test_setup_teardown(files_and_names, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
