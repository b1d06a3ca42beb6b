/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What is done through the mount becomes records, in order; what a dead worker left is found; what
 * changed while nobody looked is found. After each, the peer has the same names.
 */
#include "harness.h"

/* The peer shows as many names as the tree has, and these. */
static void peer_shows(const char *tree)
{
    char copy[512];
    size_t n = 0, at = 0;

    hear();
    check_is(tree);
    snprintf(copy, sizeof copy, "%s", tree);
    for (char *save, *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save), n++) {
        p[strcspn(p, "=@")] = 0;
        if (p[strlen(p) - 1] == '/')
            p[strlen(p) - 1] = 0;
        (void)peer_name(p);
    }
    for (size_t i = 0; i < t.records.nnames; i++)
        at += t.records.names[i]->place.kind == PLACE_AT;
    assert_int_equal(at, n);
}

static void recorded(const char *tree)
{
    assert_int_equal(apply_local(&t.n), 0);
    peer_shows(tree);
}

static uint64_t head(void)
{
    return t.n.meta.log_head;
}

static void in_order(void **state)
{
    (void)state;
    local_make("d", S_IFDIR | 0755, false);
    local_file("d/a", "A");
    local_file("d/b", "B");
    local_rename("d/a", "c", 0);
    local_rename("d/b", "d/a", 0);
    local_link("c", "d/b");
    local_remove("c");
    local_make("e", S_IFDIR | 0755, false);
    local_rename("d", "e/d", 0);
    recorded("e/ e/d/ e/d/a=B e/d/b=A");
    local_rename("e/d/a", "e/d/b", RENAME_EXCHANGE);
    recorded("e/ e/d/ e/d/a=A e/d/b=B");
    local_rename("e/d/a", "e/d/b", 0);
    recorded("e/ e/d/ e/d/b=A");
    local_remove("e/d/b");
    local_remove("e/d");
    recorded("e/");
}

/* A new file is announced when it is closed, not before; nobody hears of one that went before. */
static void held_back(void **state)
{
    (void)state;
    uint64_t before = head();

    local_make("h", S_IFREG | 0644, false);
    local_write("h", "part", false);
    assert_int_equal(apply_local(&t.n), 0);
    check_is("h=part");
    hear();
    for (size_t i = 0; i < t.records.nnames; i++)
        assert_int_not_equal(t.records.names[i]->rec.name[0], 'h');
    local_remove("h");
    assert_int_equal(apply_local(&t.n), 0);
    check_is("");
    hear();
    assert_int_equal(t.records.nnames, 0);
    local_make("i", S_IFREG | 0644, false);
    local_write("i", "whole", true);
    recorded("i=whole");
    assert_true(head() > before);
    /* renamed before it is closed: known under its name from then on */
    local_make("j", S_IFREG | 0644, false);
    local_write("j", "tmp", false);
    local_rename("j", "k", 0);
    local_write("k", "done", true);
    recorded("i=whole k=done");
}

static void one_of_two_names(void **state)
{
    struct index_node row;
    struct handle h;

    (void)state;
    local_file("a", "A");
    local_link("a", "b");
    recorded("a=A b=A");
    assert_int_equal(handle_of_name(AT_FDCWD, full("a"), &h), 0);
    local_remove("a");
    recorded("b=A");
    local_remove("b");
    recorded("");
    assert_int_equal(index_begin(t.n.index), 0);
    assert_int_equal(index_get_node_by_handle(t.n.index, &h, &row), -ENOENT);
    index_abort(t.n.index);
}

/* A version more for a change, none for the same again. */
static void sealed_once(void **state)
{
    (void)state;
    local_file("f", "one");
    recorded("f=one");
    uint64_t before = head();

    local_write("f", "two", true);
    recorded("f=two");
    assert_true(head() > before);
    before = head();
    intent_of(INTENT_CLOSE, lid_of_path("f"));
    recorded("f=two");
    assert_int_equal(head(), before);
}

/* A transaction that comes to nothing leaves no trace, and is made again whole. */
static void dropped(void **state)
{
    unsigned count;

    (void)state;
    local_file("f", "one");
    recorded("f=one");
    uint64_t before = head(), seq = t.n.replica.next_seq;

    local_write("f", "two", true);
    local_file("g", "new");
    local_make("d", S_IFDIR | 0755, false);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(txn_begin(&t.n), 0);
        assert_int_equal(local_consume(&t.n, 100, &count), 0);
        assert_true(count > 0);
        assert_int_equal(local_finish(&t.n), 0);
        txn_abort(&t.n);
        assert_int_equal(t.n.replica.next_seq, seq);
        assert_int_equal(t.n.nseeds, 0);
    }
    assert_true(dirty_is(t.n.dirty, lid_of_path("f")));
    recorded("d/ f=two g=new");
    assert_true(head() > before);
    assert_false(dirty_is(t.n.dirty, lid_of_path("f")));
}

/* While an effect is about to touch a name, an intent for it is not consumed. */
static void watched_name(void **state)
{
    struct map_u64 keys;
    unsigned count;

    (void)state;
    map_u64_init(&keys);
    assert_int_equal(map_u64_set(&keys, claims_key(LID_ROOT, "w", 1), &t, NULL), 0);
    local_file("w", "x");
    assert_int_equal(txn_begin(&t.n), 0);
    t.n.watch = &keys;
    assert_int_equal(local_consume(&t.n, 100, &count), -EAGAIN);
    t.n.watch = NULL;
    txn_abort(&t.n);
    map_u64_fini(&keys);
    recorded("w=x");
}

/* ---- what a dead worker left ---- */

static void restart(void)
{
    down();
    up(true);
    walk();
}

static void completed_and_not_recorded(void **state)
{
    (void)state;
    local_make("d", S_IFDIR | 0755, false);
    local_file("d/f", "one");
    restart();
    peer_shows("d/ d/f=one");
}

static void begun_and_made(void **state)
{
    (void)state;
    (void)local_make("d", S_IFDIR | 0755, true);
    restart();
    peer_shows("d/");
    local_file("d/f", "one");
    recorded("d/ d/f=one");
}

static void begun_and_not_made(void **state)
{
    struct intent in;
    uint64_t mark;

    (void)state;
    local_file("f", "one");
    recorded("f=one");
    in = intent_at(INTENT_UNLINK, "f");
    in.lid = lid_of_path("f");
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    in = intent_at(INTENT_RENAME, "f");
    in.lid = lid_of_path("f");
    in.parent2 = LID_ROOT;
    in.name2[0] = 'g';
    in.name2_len = 1;
    assert_int_equal(handle_of_name(AT_FDCWD, full("f"), &in.handle), 0);
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    uint64_t before = head();

    restart();
    peer_shows("f=one");
    assert_int_equal(head(), before);
}

static void begun_and_done(void **state)
{
    struct intent in;
    uint64_t mark;

    (void)state;
    local_file("f", "one");
    local_file("gone", "x");
    recorded("f=one gone=x");
    in = intent_at(INTENT_RENAME, "f");
    in.lid = lid_of_path("f");
    in.parent2 = LID_ROOT;
    in.name2[0] = 'g';
    in.name2_len = 1;
    assert_int_equal(handle_of_name(AT_FDCWD, full("f"), &in.handle), 0);
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    assert_int_equal(rename(full("f"), full("g")), 0);
    in = intent_at(INTENT_UNLINK, "gone");
    in.lid = lid_of_path("gone");
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    assert_int_equal(unlink(full("gone")), 0);
    restart();
    peer_shows("g=one");
}

/* Written to and not closed: sealed by the next worker, as nobody may close it any more. */
static void written_and_not_closed(void **state)
{
    (void)state;
    local_file("f", "one");
    recorded("f=one");
    local_write("f", "three", false);
    assert_int_equal(apply_local(&t.n), 0);
    local_make("new", S_IFREG | 0644, false);
    local_write("new", "held", false);
    assert_int_equal(apply_local(&t.n), 0);
    down();
    up(false);
    walk();
    peer_shows("f=three new=held");
}

/* ---- while nobody looked ---- */

static void changed_while_unmounted(void **state)
{
    (void)state;
    local_make("d", S_IFDIR | 0755, false);
    local_file("d/stays", "s");
    local_file("d/moved", "m");
    local_file("changed", "old");
    local_file("removed", "r");
    recorded("changed=old d/ d/moved=m d/stays=s removed=r");
    down();
    usleep(10000);
    int fd = open(full("changed"), O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0 && write(fd, "newer", 5) == 5);
    close(fd);
    assert_int_equal(unlink(full("removed")), 0);
    assert_int_equal(rename(full("d/moved"), full("elsewhere")), 0);
    assert_int_equal(mkdir(full("e"), 0755), 0);
    assert_int_equal(symlink("d", full("e/l")), 0);
    up(false);
    walk();
    peer_shows("changed=newer d/ d/stays=s e/ e/l@d elsewhere=m");
    uint64_t before = head();

    down();
    up(false);
    walk();
    assert_int_equal(head(), before); /* looked at again: nothing new */
    peer_shows("changed=newer d/ d/stays=s e/ e/l@d elsewhere=m");
}

#define NODE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NODE_TEST(in_order),
        NODE_TEST(held_back),
        NODE_TEST(one_of_two_names),
        NODE_TEST(sealed_once),
        NODE_TEST(dropped),
        NODE_TEST(watched_name),
        NODE_TEST(completed_and_not_recorded),
        NODE_TEST(begun_and_made),
        NODE_TEST(begun_and_not_made),
        NODE_TEST(begun_and_done),
        NODE_TEST(written_and_not_closed),
        NODE_TEST(changed_while_unmounted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
