/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SKIP_CODE 77
#define MAP_SIZE (64u << 20)

static char dir[64];
static int rootfd = -1;
static struct index *ix;
static struct nodes *nodes;

static void ok(int e)
{
    assert_int_equal(e, 0);
}

static int setup_sized(size_t cached, size_t fds)
{
    char root[80];
    bool fresh;
    strcpy(dir, "/tmp/farm-nodes-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(root, sizeof(root), "%s/root", dir);
    if (mkdir(root, 0755) < 0)
        return -1;
    rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rootfd < 0 || index_open(dir, MAP_SIZE, &ix, &fresh) < 0)
        return -1;
    return nodes_new(ix, rootfd, cached, fds, &nodes);
}

static int setup(void **state)
{
    (void)state;
    return setup_sized(1024, 64);
}

static int setup_tiny(void **state)
{
    (void)state;
    return setup_sized(16, 16);
}

static int teardown(void **state)
{
    (void)state;
    char cmd[80];
    nodes_free(nodes);
    index_close(ix);
    close(rootfd);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    return system(cmd);
}

static struct handle make_file(const char *name)
{
    struct handle h;
    int fd = openat(rootfd, name, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, name, strlen(name)), strlen(name));
    ok(handle_of_fd(fd, &h));
    close(fd);
    return h;
}

static void index_it(uint64_t lid, const struct handle *h)
{
    struct index_node n = {.rid = {3, lid}, .lid = lid, .type = NODE_REG, .handle = *h, .size = 1};
    ok(index_begin(ix));
    ok(index_put_node(ix, &n, false));
    ok(index_commit(ix));
}

static void pairs_come_and_go(void **state)
{
    (void)state;
    struct handle h = make_file("a"), root;
    struct node_ref r;
    ok(handle_of_fd(rootfd, &root));
    ok(nodes_find(nodes, &root, &r));
    assert_int_equal(r.lid, LID_ROOT);
    assert_int_equal(r.type, NODE_DIR);
    assert_int_equal(nodes_get(nodes, LID_CONTROL, &r), -ENOENT);
    assert_int_equal(nodes_get(nodes, 20, &r), -ENOENT);
    assert_int_equal(nodes_find(nodes, &h, &r), -ENOENT);
    ok(nodes_add(nodes, 20, NODE_REG, &h, &r));
    assert_int_equal(r.lid, 20);
    ok(nodes_add(nodes, 21, NODE_REG, &h, &r)); /* lost the race */
    assert_int_equal(r.lid, 20);
    assert_int_equal(nodes_get(nodes, 21, &r), -ENOENT);
    ok(nodes_add(nodes, 20, NODE_REG, &h, &r)); /* the same again */
    assert_int_equal(r.lid, 20);
    index_it(20, &h);
    nodes_settle(nodes, 20);
    ok(nodes_find(nodes, &h, &r));
    assert_int_equal(r.lid, 20);
    assert_false(r.orphan);

    /* the inode gets another lid */
    nodes_set_orphan(nodes, 20);
    ok(nodes_get(nodes, 20, &r));
    assert_true(r.orphan);
    ok(nodes_add(nodes, 22, NODE_REG, &h, &r));
    assert_int_equal(r.lid, 22);
    ok(nodes_find(nodes, &h, &r));
    assert_int_equal(r.lid, 22);
    ok(nodes_get(nodes, 20, &r)); /* the index still says otherwise */
    assert_true(r.orphan);
    nodes_remove(nodes, 22);
    ok(index_begin(ix));
    ok(index_del_node(ix, (struct id128){3, 20}, false));
    ok(index_commit(ix));
    nodes_remove(nodes, 20);
    assert_int_equal(nodes_get(nodes, 20, &r), -ENOENT);
    assert_int_equal(nodes_find(nodes, &h, &r), -ENOENT);
}

static void known_to_the_index_alone(void **state)
{
    (void)state;
    struct handle h = make_file("a"), o = make_file("o");
    struct node_ref r;
    index_it(20, &h);
    ok(nodes_find(nodes, &h, &r));
    assert_true(r.lid == 20 && r.type == NODE_REG && handle_eq(&r.handle, &h));
    ok(nodes_add(nodes, 23, NODE_REG, &h, &r)); /* cannot be added twice */
    assert_int_equal(r.lid, 20);
    ok(index_begin(ix));
    ok(index_put_orphan(ix, 30, &o));
    ok(index_commit(ix));
    ok(nodes_get(nodes, 30, &r));
    assert_true(r.orphan && r.type == NODE_REG); /* its row does not say what it is */
}

static void what_is_pinned_stays(void **state)
{
    (void)state;
    struct node_ref r;
    char name[16];
    struct handle h[400];
    for (uint64_t i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "f%u", (unsigned)i);
        h[i] = make_file(name);
        ok(nodes_add(nodes, 100 + i, NODE_REG, &h[i], &r));
    }
    for (uint64_t i = 0; i < 400; i++) { /* in no index: the cache is all there is */
        ok(nodes_find(nodes, &h[i], &r));
        assert_int_equal(r.lid, 100 + i);
    }
    for (uint64_t i = 0; i < 400; i++)
        if (i % 2 == 0)
            nodes_settle(nodes, 100 + i); /* (a lie: so that one sees what is evicted) */
    for (uint64_t i = 0; i < 2000; i++) {
        struct handle x = {.len = 8, .type = 9};
        memcpy(x.bytes, &i, sizeof(i));
        ok(nodes_add(nodes, 10000 + i, NODE_REG, &x, &r));
        nodes_settle(nodes, 10000 + i);
    }
    unsigned left = 0;
    for (uint64_t i = 0; i < 400; i++) {
        int e = nodes_get(nodes, 100 + i, &r);
        if (i % 2 != 0) {
            ok(e);
            ok(nodes_find(nodes, &h[i], &r));
        }
        left += i % 2 == 0 && e == 0;
    }
    assert_true(left < 20);
    unsigned cached = 0;
    for (uint64_t i = 0; i < 2000; i++)
        cached += nodes_get(nodes, 10000 + i, &r) == 0;
    assert_true(cached < 40);
    ok(nodes_get(nodes, LID_ROOT, &r));
}

static unsigned open_fds(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void descriptors(void **state)
{
    (void)state;
    struct handle h = make_file("abc"), hd, hl;
    struct node_ref r;
    struct node_fd *a, *b, *c;
    int fa, fb, fc;
    char text[4] = "";
    ok(mkdirat(rootfd, "d", 0755));
    ok(symlinkat("nowhere", rootfd, "l"));
    ok(handle_of_name(rootfd, "d", &hd));
    ok(handle_of_name(rootfd, "l", &hl));
    ok(nodes_add(nodes, 20, NODE_REG, &h, &r));
    ok(nodes_add(nodes, 21, NODE_DIR, &hd, &r));
    ok(nodes_add(nodes, 22, NODE_LNK, &hl, &r));
    ok(nodes_get_fd(nodes, 20, NODES_READ, &a, &fa));
    assert_int_equal(pread(fa, text, 3, 0), 3);
    assert_string_equal(text, "abc");
    assert_int_equal(write(fa, "x", 1), -1);
    ok(nodes_get_fd(nodes, 20, NODES_WRITE, &b, &fb));
    assert_int_equal(pwrite(fb, "x", 1, 0), 1);
    ok(nodes_get_fd(nodes, 20, NODES_PATH, &c, &fc)); /* an open one will do */
    assert_true(fc == fa || fc == fb);
    nodes_close_fds(nodes, 20);
    assert_int_equal(pread(fa, text, 3, 0), 3); /* still ours */
    nodes_put_fd(nodes, c);
    nodes_put_fd(nodes, b);
    nodes_put_fd(nodes, a);
    assert_int_equal(fcntl(fa, F_GETFD), -1);
    assert_int_equal(fcntl(fb, F_GETFD), -1);

    ok(nodes_get_fd(nodes, 21, NODES_READ, &a, &fa));
    assert_int_equal(nodes_get_fd(nodes, 21, NODES_WRITE, &b, &fb), -EISDIR);
    ok(nodes_get_fd(nodes, 22, NODES_PATH, &b, &fb));
    char target[16];
    assert_int_equal(readlinkat(fb, "", target, sizeof(target)), 7);
    assert_int_equal(nodes_get_fd(nodes, 22, NODES_READ, &c, &fc), -ELOOP);
    nodes_put_fd(nodes, a);
    nodes_put_fd(nodes, b);
    assert_int_equal(nodes_get_fd(nodes, 99, NODES_PATH, &c, &fc), -ESTALE);
    ok(nodes_get_fd(nodes, LID_ROOT, NODES_READ, &a, &fa));
    nodes_put_fd(nodes, a);

    nodes_close_fds(nodes, 20);
    ok(unlinkat(rootfd, "abc", 0));
    assert_int_equal(nodes_get_fd(nodes, 20, NODES_READ, &c, &fc), -ESTALE);
}

static void descriptors_are_bounded(void **state)
{
    (void)state;
    struct node_ref r;
    struct node_fd *f;
    char name[16];
    int fd;
    unsigned before = open_fds();
    for (uint64_t i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "f%u", (unsigned)i);
        struct handle h = make_file(name);
        ok(nodes_add(nodes, 100 + i, NODE_REG, &h, &r));
        ok(nodes_get_fd(nodes, 100 + i, NODES_READ, &f, &fd));
        nodes_put_fd(nodes, f);
    }
    assert_true(open_fds() <= before + 32);
}

static void *lid_taker(void *arg)
{
    uint64_t *lid = arg;
    return nodes_new_lid(nodes, lid) == 0 ? lid : NULL;
}

static void lids(void **state)
{
    (void)state;
    uint64_t lid;
    assert_true(nodes_low(nodes));
    nodes_reserve(nodes, 16, 24);
    assert_false(nodes_low(nodes));
    for (uint64_t i = 16; i < 23; i++) {
        ok(nodes_new_lid(nodes, &lid));
        assert_int_equal(lid, i);
    }
    assert_true(nodes_low(nodes));
    nodes_reserve(nodes, 24, 26); /* goes on */
    for (uint64_t i = 23; i < 26; i++) {
        ok(nodes_new_lid(nodes, &lid));
        assert_int_equal(lid, i);
    }
    pthread_t t;
    void *got;
    ok(pthread_create(&t, NULL, lid_taker, &lid));
    usleep(20000);
    nodes_reserve(nodes, 20, 40); /* never one twice */
    pthread_join(t, &got);
    assert_ptr_equal(got, &lid);
    assert_int_equal(lid, 26);
}

/* ---- threads: many lookups of the same few files, some of them replaced ---- */

#define THREADS 6u
#define FILES 24u
#define ROUNDS 4000u

static struct handle handles[FILES];
static _Atomic uint64_t owner[FILES]; /* the lid that a handle was first given; 0 none */
static _Atomic unsigned errors, turn;

static void use_file(unsigned i, unsigned round)
{
    struct node_ref r;
    struct node_fd *f;
    int fd;
    if (nodes_find(nodes, &handles[i], &r) == -ENOENT) {
        uint64_t lid;
        if (nodes_new_lid(nodes, &lid) < 0 ||
            nodes_add(nodes, lid, NODE_REG, &handles[i], &r) < 0) {
            errors++;
            return;
        }
    }
    uint64_t none = 0;
    if (!atomic_compare_exchange_strong(&owner[i], &none, r.lid) && none != r.lid)
        errors++; /* one inode, two lids */
    if (nodes_get_fd(nodes, r.lid, round % 3 ? NODES_READ : NODES_WRITE, &f, &fd) < 0) {
        errors++;
        return;
    }
    char c;
    if (pread(fd, &c, 1, 0) != 1)
        errors++;
    nodes_put_fd(nodes, f);
    if (round % 64 == 0)
        nodes_close_fds(nodes, r.lid);
}

static void *user(void *arg)
{
    unsigned x = atomic_fetch_add(&turn, 1) * 7919u;
    for (unsigned round = 0; round < ROUNDS; round++) {
        x = x * 1103515245u + 12345u;
        use_file((x >> 16) % FILES, round);
    }
    return arg;
}

static void one_inode_one_lid(void **state)
{
    (void)state;
    pthread_t t[THREADS];
    char name[16];
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        handles[i] = make_file(name);
    }
    nodes_reserve(nodes, 16, 1u << 20);
    for (unsigned i = 0; i < THREADS; i++)
        ok(pthread_create(&t[i], NULL, user, NULL));
    bool in_index[FILES] = {false};
    for (unsigned done = 0; done < FILES;) { /* the core: records what it hears of */
        for (unsigned i = 0; i < FILES; i++) {
            uint64_t lid = atomic_load(&owner[i]);
            if (lid == 0 || in_index[i])
                continue;
            index_it(lid, &handles[i]);
            nodes_settle(nodes, lid);
            in_index[i] = true;
            done++;
        }
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(errors, 0);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "needs root: open_by_handle_at\n");
        return SKIP_CODE;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pairs_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(known_to_the_index_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_pinned_stays, setup_tiny, teardown),
        cmocka_unit_test_setup_teardown(descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(descriptors_are_bounded, setup_tiny, teardown),
        cmocka_unit_test_setup_teardown(lids, setup, teardown),
        cmocka_unit_test_setup_teardown(one_inode_one_lid, setup_tiny, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
