/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A peer's batch of each kind, on a real directory: the tree and the index are then as they should
 * be. Each is played four ways: undisturbed; with all its effects run once more; by a worker that
 * has just started and remembers nothing; and with the worker dying after each of its effects,
 * until a new worker has finished them.
 */
#include "harness.h"

struct play {
    void (*before)(void);
    void (*change)(void); /* one batch */
    const char *tree;     /* afterwards */
    void (*check)(void);  /* more than that */
    bool deaf;            /* the peer does not know what was done here before */
};

static void base(void)
{
    peer_make("d", NODE_DIR, NULL);
    peer_make("d/f", NODE_REG, "one");
    peer_make("d/g", NODE_REG, "two");
    peer_make("e", NODE_DIR, NULL);
}

static void restart(void)
{
    down();
    up(true);
}

static void act(const struct play *p, bool cold, int die_after)
{
    p->before();
    if (!p->deaf) {
        assert_int_equal(deliver(), 0);
        hear();
    }
    if (cold)
        restart();
    t.die_after = die_after;
    p->change();
    assert_int_equal(deliver(), 0);
    t.die_after = -1;
}

static void judge(const struct play *p)
{
    check_is(p->tree);
    if (p->check)
        p->check();
    assert_int_equal(count_in("in"), 0);
}

static void again(void **state)
{
    teardown(state);
    assert_int_equal(setup(state), 0);
}

static void play(void **state, const struct play *p)
{
    act(p, false, -1);
    size_t steps = t.planned;

    judge(p);
    assert_int_equal(apply_pending_load(&t.n), 0); /* run twice is run once */
    apply_pending_run(&t.n);
    judge(p);
    again(state);
    act(p, true, -1);
    judge(p);
    for (size_t k = 0; k < steps; k++) {
        again(state);
        act(p, false, (int)k);
        restart();
        judge(p);
    }
    printf("    %zu effects\n", steps);
}

#define PLAY_AS(test, is_deaf, ...)                          \
    static void test(void **state)                           \
    {                                                        \
        static const struct play p = {__VA_ARGS__, is_deaf}; \
                                                             \
        play(state, &p);                                     \
    }
#define PLAY(test, ...) PLAY_AS(test, false, __VA_ARGS__)
#define PLAY_DEAF(test, ...) PLAY_AS(test, true, __VA_ARGS__)

static void make_new(void)
{
    peer_make("new", NODE_REG, "fresh");
    peer_make("e/sub", NODE_DIR, NULL);
    peer_make("e/sub/x", NODE_REG, "deep");
    peer_make("e/l", NODE_LNK, "../d/f");
    peer_make("e/p", NODE_FIFO, NULL);
    peer_chmod("new", 0600);
}
static void check_new(void)
{
    struct stat st;

    assert_int_equal(stat(full("new"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(lstat(full("e/p"), &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
}
PLAY(new_files, base, make_new,
     "d/ d/f=one d/g=two e/ e/l@../d/f e/p= e/sub/ e/sub/x=deep new=fresh", check_new)

static void replace(void)
{
    peer_write("d/f", "three");
    peer_chmod("d/g", 0640);
}
PLAY(replaced, base, replace, "d/ d/f=three d/g=two e/", NULL)

static void take_away(void)
{
    peer_remove("d/f");
    peer_remove("d/g");
    peer_remove("d");
}
PLAY(removed, base, take_away, "e/", NULL)

static void move_dir(void)
{
    peer_rename("d", "e/moved", false);
    peer_write("e/moved/f", "moved");
}
PLAY(directory_renamed, base, move_dir, "e/ e/moved/ e/moved/f=moved e/moved/g=two", NULL)

static void rename_over(void)
{
    peer_rename("d/f", "d/g", false);
}
PLAY(renamed_over, base, rename_over, "d/ d/g=one e/", NULL)

static void hard_link(void)
{
    peer_link("d/f", "e/second");
    peer_link("d/f", "third");
    peer_remove("d/f");
    peer_write("third", "all");
}
static void check_link(void)
{
    assert_true(same_inode("third", "e/second"));
}
PLAY(hard_links, base, hard_link, "d/ d/g=two e/ e/second=all third=all", check_link)

static void linked(void)
{
    base();
    peer_link("d/f", "e/second");
}
static void unlink_second(void)
{
    peer_remove("e/second");
}
PLAY(one_of_two_names_removed, linked, unlink_second, "d/ d/f=one d/g=two e/", NULL)

static void exchange(void)
{
    peer_rename("d/f", "d/g", true);
    peer_rename("d", "e", true);
}
PLAY(exchanged, base, exchange, "d/ e/ e/f=two e/g=one", NULL)

static void dir_to_file(void)
{
    peer_remove("e");
    peer_make("e", NODE_REG, "a file");
    peer_remove("d/f");
    peer_make("d/f", NODE_DIR, NULL);
    peer_make("d/f/in", NODE_REG, "inside");
}
PLAY(directory_becomes_file, base, dir_to_file, "d/ d/f/ d/f/in=inside d/g=two e=a file", NULL)

/* The same name on both: the later one has it, the other is hidden. */
static void named_here(void)
{
    base();
    assert_int_equal(deliver(), 0);
    local_file("same", "ours");
    assert_int_equal(apply_local(&t.n), 0);
}
static void name_there(void)
{
    /* without having heard of ours */
    memrecords_fini(&t.records);
    memrecords_init(&t.records);
    t.sent = 0;
    t.peer.next_seq += 100;
    peer_make("same", NODE_REG, "theirs");
}
static void check_hidden(void)
{
    assert_int_equal(count_in("hidden"), 1);
}
PLAY(name_conflict, named_here, name_there, "d/ d/f=one d/g=two e/ same=theirs", check_hidden)

/* Moved into each other: the later move, the peer's, is undone. */
static void cycle_here(void)
{
    base();
    assert_int_equal(deliver(), 0);
    hear();
    local_rename("d", "e/d", 0);
    assert_int_equal(apply_local(&t.n), 0);
    usleep(2000);
}
static void cycle_there(void)
{
    peer_rename("e", "d/e", false);
}
PLAY_DEAF(cycle, cycle_here, cycle_there, "e/ e/d/ e/d/f=one e/d/g=two", NULL)

/* Content of both at once: the later is shown, the other is kept. */
static void edit_here(void)
{
    base();
    assert_int_equal(deliver(), 0);
    hear();
    local_write("d/f", "ours", true);
    assert_int_equal(apply_local(&t.n), 0);
    usleep(2000);
}
static void edit_there(void)
{
    peer_write("d/f", "theirs");
}
static void check_kept(void)
{
    assert_int_equal(count_in("conflicts"), 1);
    assert_int_equal(t.n.keep.total[KEPT_CONFLICT].count, 1);
}
PLAY_DEAF(content_conflict, edit_here, edit_there, "d/ d/f=theirs d/g=two e/", check_kept)

/* A stranger stands where a peer's file belongs: nobody told of it. It is kept. */
static void stranger(void)
{
    base();
    assert_int_equal(deliver(), 0);
    assert_int_equal(mknod(full("new"), S_IFREG | 0644, 0), 0);
}
static void make_there(void)
{
    peer_make("new", NODE_REG, "fresh");
}
static void check_found(void)
{
    assert_int_equal(count_in("conflicts"), 1);
}
PLAY(stranger_in_the_way, stranger, make_there, "d/ d/f=one d/g=two e/ new=fresh", check_found)

/* Half written when the peer's version comes: nobody is shown the half, and what was written is
 * kept when it is closed. */
static void unsealed_writes_are_kept(void **state)
{
    (void)state;
    base();
    assert_int_equal(deliver(), 0);
    hear();
    local_write("d/f", "half", false);
    uint64_t lid = lid_of_path("d/f");
    usleep(2000);
    edit_there();
    assert_int_equal(deliver(), 0);
    check_is("d/ d/f=theirs d/g=two e/");
    assert_int_equal(count_in("conflicts"), 0);
    intent_of(INTENT_CLOSE, lid);
    assert_int_equal(apply_local(&t.n), 0);
    check_is("d/ d/f=theirs d/g=two e/");
    assert_int_equal(count_in("conflicts"), 1);
}

/* The batch waits for a name that is being changed through the mount, and is then done whole. */
static void claimed(void **state)
{
    (void)state;
    base();
    assert_int_equal(deliver(), 0);
    uint64_t key = claims_key(LID_ROOT, "w", 1);

    assert_true(claims_try(t.n.claims, key, 0));
    claims_drop(t.n.claims, key, 0);
    peer_make("w", NODE_REG, "waited for");
    assert_int_equal(deliver(), 0);
    check_is("d/ d/f=one d/g=two e/ w=waited for");
    /* and the claim was given back */
    assert_true(claims_try(t.n.claims, key, 0));
    claims_drop(t.n.claims, key, 0);
}

/* Records whose data has not come: wanted until it does, over a restart too. */
static void wanted(void **state)
{
    struct batch b = {.pos = 9, .n = 1};
    struct batch_item it = {.data = ITEM_MISSING};

    (void)state;
    base();
    assert_int_equal(deliver(), 0);
    peer_write("d/f", "later");
    assert_true(memrecords_at(&t.records, t.records.nlog, &it.rec));
    assert_int_equal(it.rec.kind, REC_CONTENT);
    b.items = &it;
    assert_int_equal(apply_batch(&t.n, NULL, &b), 0);
    assert_int_equal(t.n.nwants, 1);
    assert_true(id_eq(t.n.wants[0].rid, it.rec.content.rid));
    restart();
    assert_int_equal(t.n.nwants, 1);
    assert_true(stamp_eq(t.n.wants[0].stamp, it.rec.content.h.stamp));
    stage(&it);
    b.resent = true;
    assert_int_equal(apply_batch(&t.n, NULL, &b), 0);
    assert_int_equal(t.n.nwants, 0);
    check_is("d/ d/f=later d/g=two e/");
    restart();
    assert_int_equal(t.n.nwants, 0);
}

/* Where a peer's log was applied to is remembered with what came of it, and a copy sent again
 * moves nothing. */
static void position(void **state)
{
    struct index_peer p;

    (void)state;
    base();
    assert_int_equal(deliver(), 0);
    assert_int_equal(index_begin(t.n.index), 0);
    assert_int_equal(index_get_peer(t.n.index, PEER_ID, &p), 0);
    index_abort(t.n.index);
    assert_int_equal(p.applied, t.sent);
    uint64_t head = t.n.meta.log_head, seq = t.n.meta.next_seq;

    t.sent = 0;
    assert_int_equal(deliver(), 0);
    assert_int_equal(t.planned, 0);
    assert_int_equal(t.n.meta.log_head, head);
    assert_int_equal(t.n.meta.next_seq, seq); /* applying makes no new version */
    check_is("d/ d/f=one d/g=two e/");
}

#define NODE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NODE_TEST(new_files),
        NODE_TEST(replaced),
        NODE_TEST(removed),
        NODE_TEST(directory_renamed),
        NODE_TEST(renamed_over),
        NODE_TEST(hard_links),
        NODE_TEST(one_of_two_names_removed),
        NODE_TEST(exchanged),
        NODE_TEST(directory_becomes_file),
        NODE_TEST(name_conflict),
        NODE_TEST(cycle),
        NODE_TEST(content_conflict),
        NODE_TEST(stranger_in_the_way),
        NODE_TEST(unsealed_writes_are_kept),
        NODE_TEST(claimed),
        NODE_TEST(wanted),
        NODE_TEST(position),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
