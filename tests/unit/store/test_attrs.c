/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/attrs.h"

#include "wire/record.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#define SKIP_CODE 77
#define ACL "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

static char dir[64];
static int at = -1;
static struct buf x1, x2;

static void ok(int e)
{
    assert_int_equal(e, 0);
}

static int setup(void **state)
{
    (void)state;
    umask(0);
    buf_init(&x1, XATTRS_LEN_MAX);
    buf_init(&x2, XATTRS_LEN_MAX);
    strcpy(dir, "/tmp/farm-attrs-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return at < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[80];
    buf_fini(&x1);
    buf_fini(&x2);
    close(at);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    return system(cmd);
}

static int make(const char *name, mode_t mode)
{
    int fd = openat(at, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    close(fd);
    fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static struct attr_rec read_attrs(int fd, struct buf *x)
{
    struct stat st;
    struct attr_rec a = {.mtime_ns = 5};
    ok(fstat(fd, &st));
    ok(attrs_read(fd, &st, x, &a));
    assert_int_equal(a.mtime_ns, 5);
    assert_true(a.xattrs_len == 0 || xattrs_valid(a.xattrs, a.xattrs_len));
    return a;
}

static const char *path_of(int fd)
{
    static char p[40];
    snprintf(p, sizeof(p), "/proc/self/fd/%d", fd);
    return p;
}

static void set_xattr(int fd, const char *name, const char *value)
{
    ok(setxattr(path_of(fd), name, value, strlen(value), 0));
}

/* user::rw-, user:1234:perm, group::r--, mask::mask, other::--- */
static void set_acl(int fd, const char *name, uint16_t perm, uint16_t mask)
{
    struct {
        uint32_t version;
        struct {
            uint16_t tag, perm;
            uint32_t id;
        } e[5];
    } acl = {2, {{1, 6, ~0u}, {2, perm, 1234}, {4, 4, ~0u}, {16, mask, ~0u}, {32, 0, ~0u}}};
    ok(setxattr(path_of(fd), name, &acl, sizeof(acl), 0));
}

/* Makes the second like the first: equal, and untouched the second time. */
static void copies(int from, int to)
{
    struct attr_rec a = read_attrs(from, &x1), b;
    struct stat st, again;
    const int64_t mtime = 1234567890123456789;
    ok(attrs_apply(to, &a, &mtime));
    b = read_attrs(to, &x2);
    assert_true(attrs_same(&a, &b));
    ok(fstat(to, &st));
    assert_int_equal(st.st_mtim.tv_sec, 1234567890);
    assert_int_equal(st.st_mtim.tv_nsec, 123456789);
    usleep(20000);
    ok(attrs_apply(to, &a, &mtime));
    ok(fstat(to, &again));
    assert_memory_equal(&st, &again, sizeof(st)); /* ctime too */
}

static void modes_owners_xattrs(void **state)
{
    (void)state;
    int from = make("from", 0640), to = make("to", 0600);
    ok(fchownat(from, "", 1, 4, AT_EMPTY_PATH));
    ok(chmod(path_of(from), 06755));
    set_xattr(from, "user.zeta", "z");
    set_xattr(from, "user.alpha", "");
    set_xattr(from, "user.alph", "prefix of another");
    set_xattr(from, "trusted.local", "stays here");
    set_xattr(to, "user.gone", "must be removed");
    set_xattr(to, "user.zeta", "other");
    set_xattr(to, "trusted.mine", "must stay");
    struct attr_rec a = read_attrs(from, &x1);
    assert_int_equal(a.mode, 06755);
    assert_true(a.owner_len == 6 && memcmp(a.owner, "daemon", 6) == 0);
    assert_true(a.group_len == 3 && memcmp(a.group, "adm", 3) == 0);
    copies(from, to);
    assert_int_equal(getxattr(path_of(to), "trusted.mine", NULL, 0), 9);
    assert_int_equal(getxattr(path_of(to), "trusted.local", NULL, 0), -1);
    assert_int_equal(getxattr(path_of(to), "user.gone", NULL, 0), -1);
    close(from);
    close(to);
}

static void owners_by_name_then_by_number(void **state)
{
    (void)state;
    int fd = make("f", 0600);
    struct stat st;
    struct attr_rec a = read_attrs(fd, &x1);
    a.uid = 4711; /* what the author's node calls daemon */
    a.owner_len = 6;
    memcpy(a.owner, "daemon", 6);
    a.gid = 4712;
    a.group_len = 9;
    memcpy(a.group, "no-such-g", 9);
    ok(attrs_apply(fd, &a, NULL));
    ok(fstat(fd, &st));
    assert_int_equal(st.st_uid, 1);
    assert_int_equal(st.st_gid, 4712);
    struct attr_rec b = read_attrs(fd, &x2);
    assert_int_equal(b.group_len, 0);
    close(fd);
}

static void acls_and_the_mode(void **state)
{
    (void)state;
    int from = make("from", 0600), to = make("to", 0666), plain = make("plain", 0604);
    set_acl(from, ACL, 6, 6);
    copies(from, to); /* ACL appears */
    set_acl(from, ACL, 4, 4);
    copies(from, to); /* changes */
    ok(chmod(path_of(to), 0777));
    copies(from, to); /* a chmod there changed the mask */
    ok(chmod(path_of(from), 02660));
    copies(from, to);
    copies(plain, to); /* goes away: its mask must not stay behind as group bits */
    assert_int_equal(getxattr(path_of(to), ACL, NULL, 0), -1);

    ok(mkdirat(at, "d1", 02755));
    ok(mkdirat(at, "d2", 0700));
    int d1 = openat(at, "d1", O_PATH), d2 = openat(at, "d2", O_PATH);
    assert_true(d1 >= 0 && d2 >= 0);
    set_acl(d1, ACL, 7, 5);
    set_acl(d1, ACL_DEFAULT, 5, 7);
    set_xattr(d1, "user.of.a.directory", "yes");
    copies(d1, d2);
    close(from);
    close(to);
    close(plain);
    close(d1);
    close(d2);
}

static void symlinks_and_special_files(void **state)
{
    (void)state;
    struct stat st, target;
    int victim = make("victim", 0600);
    ok(symlinkat("victim", at, "l1"));
    ok(symlinkat("victim", at, "l2"));
    ok(mkfifoat(at, "p1", 0620));
    ok(mkfifoat(at, "p2", 0600));
    int l1 = openat(at, "l1", O_PATH | O_NOFOLLOW), l2 = openat(at, "l2", O_PATH | O_NOFOLLOW);
    int p1 = openat(at, "p1", O_PATH), p2 = openat(at, "p2", O_PATH);
    ok(fstat(victim, &target));
    ok(fchownat(l1, "", 77, 78, AT_EMPTY_PATH));
    copies(l1, l2);
    ok(fstat(l2, &st));
    assert_int_equal(st.st_uid, 77);
    struct stat after;
    ok(fstat(victim, &after));
    assert_memory_equal(&target, &after, sizeof(after)); /* nothing went through the link */
    set_acl(p1, ACL, 6, 6);
    copies(p1, p2);
    ok(attrs_set_mtime(p2, -1));
    ok(fstat(p2, &st));
    assert_int_equal(st.st_mtim.tv_sec, -1);
    assert_int_equal(st.st_mtim.tv_nsec, 999999999);
    close(l1);
    close(l2);
    close(p1);
    close(p2);
    close(victim);
}

static void bounds(void **state)
{
    (void)state;
    assert_true(attrs_xattr_replicated("user.x"));
    assert_true(attrs_xattr_replicated(ACL) && attrs_xattr_replicated(ACL_DEFAULT));
    assert_false(attrs_xattr_replicated("security.selinux"));
    assert_false(attrs_xattr_replicated("security.capability"));
    assert_false(attrs_xattr_replicated("system.posix_acl_accessx"));
    int fd = make("f", 0600);
    static char value[1001];
    memset(value, 'v', 1000);
    char name[32];
    int n = 0; /* as many as the file system takes */
    for (; n < 100; n++) {
        snprintf(name, sizeof(name), "user.n%d", n);
        if (setxattr(path_of(fd), name, value, 1000, 0) < 0)
            break;
    }
    assert_true(n > 0);
    struct attr_rec a = read_attrs(fd, &x1);
    assert_true(a.xattrs_len > (uint32_t)n * 1000);
    struct buf small;
    struct stat st;
    buf_init(&small, 500);
    ok(fstat(fd, &st));
    assert_int_equal(attrs_read(fd, &st, &small, &a), -E2BIG);
    buf_fini(&small);
    /* a list that is cut off is not applied as if it were whole */
    a = read_attrs(fd, &x1);
    a.xattrs_len--;
    assert_int_equal(attrs_apply(fd, &a, NULL), FARM_ECORRUPT);
    close(fd);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "needs root: chown\n");
        return SKIP_CODE;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(modes_owners_xattrs, setup, teardown),
        cmocka_unit_test_setup_teardown(owners_by_name_then_by_number, setup, teardown),
        cmocka_unit_test_setup_teardown(acls_and_the_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(symlinks_and_special_files, setup, teardown),
        cmocka_unit_test_setup_teardown(bounds, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
