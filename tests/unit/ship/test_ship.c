/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Two and three nodes, connected by socketpairs: what one changes, the others come to hold. */
#include "harness.h"

#include <sched.h>

#define MIB (1024u * 1024u)
#define BIG (64u * MIB)

static const struct id128 F = {77, 1000};

static struct node A, B, C;

static int setup(void **state)
{
    (void)state;
    node_open(&A, 0xa);
    node_open(&B, 0xb);
    node_open(&C, 0xc);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    node_close(&A);
    node_close(&B);
    node_close(&C);
    return 0;
}

static void seal_all(struct node *n, struct id128 rid)
{
    seal(n, rid, 0, UINT64_MAX);
}

/* A file of random bytes, sealed. */
static void make(struct node *n, struct id128 rid, size_t size)
{
    scribble(n, rid, 0, size);
    resize(n, rid, size);
    seal_all(n, rid);
}

/* Payload bytes that A's first session sends until B has what A has. */
static uint64_t bytes_until_same(struct id128 rid, uint64_t before)
{
    wait_same(&A, &B, rid);
    wait_acked(&A.sessions[0]);
    return stats_of(&A.sessions[0]).bytes - before;
}

static void small_files_follow_each_change(void **state)
{
    (void)state;
    connect_nodes(&A, &B);
    static const size_t sizes[] = {0, 1, 8192, DIGEST_BLOCK - 1, DIGEST_BLOCK, DIGEST_BLOCK + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        make(&A, (struct id128){1, i + 2}, sizes[i]);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        wait_same(&A, &B, (struct id128){1, i + 2});
    for (unsigned v = 0; v < 50; v++) {
        scribble(&A, F, v, 100);
        seal_all(&A, F);
        wait_same(&A, &B, F);
    }
    /* and the other way, of a file that came from there */
    scribble(&B, F, 10, 20);
    seal_all(&B, F);
    wait_same(&B, &A, F);
    wait_acked(&A.sessions[0]);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 0);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_NONE]), 0);
    disconnect(&A.sessions[0], NULL);
}

static void ten_thousand_small_files(void **state)
{
    (void)state;
    struct records r;
    uint32_t n = 10000;

    for (uint32_t i = 0; i < n; i++)
        scribble(&A, (struct id128){1, i + 2}, 0, 200 + i % 4000);
    ok(index_begin(A.index));
    index_records(A.index, &r);
    for (uint32_t i = 0; i < n; i++) {
        put_name(&A, &r, (struct id128){1, i + 2});
        seal_in(&A, &r, (struct id128){1, i + 2}, NULL, 0);
    }
    ok(vvec_raise(&A.know, A.id, A.seq));
    ok(commit(&A));
    connect_nodes(&A, &B);
    wait_acked(&A.sessions[0]);
    for (uint32_t i = 0; i < n; i += 97)
        assert_true(same_file(&A, &B, (struct id128){1, i + 2}));
    assert_int_equal(locked_u64(&B, &B.got[ITEM_STAGED]), n);
    assert_int_equal(locked_u64(&B, &B.names), n);
    assert_int_equal(stats_of(&A.sessions[0]).records, 2 * n);
    disconnect(&A.sessions[0], NULL);
}

static void large_file_whole_then_as_deltas(void **state)
{
    (void)state;
    connect_nodes(&A, &B);
    make(&A, F, BIG);
    assert_true(bytes_until_same(F, 0) >= BIG);

    uint64_t before = stats_of(&A.sessions[0]).bytes;
    scribble(&A, F, 33 * MIB + 5, 4096);
    seal(&A, F, 33 * MIB + 5, 4096);
    assert_true(bytes_until_same(F, before) < 6000);

    before = stats_of(&A.sessions[0]).bytes; /* a transfer on top of a base */
    scribble(&A, F, 3 * MIB + 5, 3 * MIB);
    seal(&A, F, 3 * MIB + 5, 3 * MIB);
    uint64_t sent = bytes_until_same(F, before);
    assert_true(sent > 3 * MIB && sent < 4 * MIB);

    before = stats_of(&A.sessions[0]).bytes; /* shorter, not at a block's end */
    resize(&A, F, BIG - 70001);
    seal(&A, F, BIG - 70001, 70001);
    assert_true(bytes_until_same(F, before) < 2000);

    before = stats_of(&A.sessions[0]).bytes; /* longer, by data and by a hole */
    resize(&A, F, BIG + 10);
    scribble(&A, F, BIG + 10, 50000);
    seal(&A, F, BIG - 70001, 70001 + 10 + 50000);
    assert_true(bytes_until_same(F, before) < 130000);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 0);

    /* B's change goes back as a delta on the version that A made */
    before = stats_of(&B.sessions[0]).bytes;
    scribble(&B, F, 12345, 100);
    seal(&B, F, 12345, 100);
    wait_same(&B, &A, F);
    assert_true(stats_of(&B.sessions[0]).bytes - before < 4000);
    assert_int_equal(locked_u64(&A, &A.got[ITEM_MISSING]), 0);

    /* and only the time changed: the ranges are empty */
    seal(&A, F, 0, 0);
    wait_same(&A, &B, F);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_SAME]), 1);
    disconnect(&A.sessions[0], NULL);
}

static void holes_do_not_travel(void **state)
{
    struct stat st;

    (void)state;
    connect_nodes(&A, &B);
    scribble(&A, F, 100 * MIB, 5000);
    resize(&A, F, 1024ull * MIB);
    seal_all(&A, F);
    assert_true(bytes_until_same(F, 0) < 20000);
    int fd = node_open_file(&B, F, O_RDONLY);
    ok(fstat(fd, &st));
    assert_true(st.st_blocks < 2048);
    close(fd);

    /* nothing but a hole; then one more hole at its end, which the journal knows as a range */
    struct id128 hole = {1, 2};
    resize(&A, hole, 10 * MIB);
    seal_all(&A, hole);
    wait_same(&A, &B, hole);
    uint64_t before = stats_of(&A.sessions[0]).bytes;
    resize(&A, hole, 500 * MIB);
    seal(&A, hole, 10 * MIB, 490 * MIB);
    assert_true(bytes_until_same(hole, before) < 2000);

    /* data that becomes a hole must not stay as it was */
    before = stats_of(&A.sessions[0]).bytes;
    fd = node_open_file(&A, F, O_RDWR);
    ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100 * MIB, 4096));
    close(fd);
    seal(&A, F, 100 * MIB, 4096);
    wait_same(&A, &B, F);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 0);
    disconnect(&A.sessions[0], NULL);
}

static void base_that_is_not_there_is_asked_for_whole(void **state)
{
    bool first;
    struct content_rec c;
    uint64_t lid = 0;

    (void)state;
    connect_nodes(&A, &B);
    make(&A, F, 2 * MIB);
    wait_same(&A, &B, F);
    /* someone writes to B's file: a delta does not fit what is there */
    assert_true(get_content(&B, F, &c, &lid));
    ok(dirty_begin(B.dirty, lid, &first));
    dirty_end(B.dirty, lid, 0, 10);
    scribble(&A, F, MIB, 10);
    seal(&A, F, MIB, 10);
    wait_same(&A, &B, F);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 1);
    assert_int_equal(locked_u64(&B, &B.resent), 1);
    /* the next one is a delta again */
    scribble(&A, F, 10, 10);
    seal(&A, F, 10, 10);
    wait_same(&A, &B, F);
    assert_int_equal(locked_u64(&B, &B.resent), 1);
    disconnect(&A.sessions[0], NULL);
}

/* One byte changed on the way, in a frame of this type: seen, and repaired from the source. */
static void flip(uint8_t type, size_t size, uint32_t at)
{
    struct middle m = {.type = type, .flips = 1, .at = at};

    connect_at(&A, &B, 0, 0, &m);
    sleep_ms(50); /* the empty RECORDS at the beginning are not what is to be changed */
    make(&A, F, size);
    wait_same(&A, &B, F);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 1);
    assert_int_equal(locked_u64(&B, &B.resent), 1);
    assert_int_equal(m.flips, 0);
    disconnect(&A.sessions[0], &m);
}

static void changed_small_file_is_not_installed(void **state)
{
    (void)state;
    flip(FRAME_RECORDS, 5000, 100);
}

static void changed_large_file_is_not_installed(void **state)
{
    (void)state;
    flip(FRAME_DATA, 3 * MIB, 100);
}

static void changed_delta_is_not_installed(void **state)
{
    struct middle m = {.type = FRAME_RECORDS, .flips = 0, .at = 10};

    (void)state;
    connect_at(&A, &B, 0, 0, &m);
    make(&A, F, 3 * MIB);
    wait_same(&A, &B, F);
    wait_acked(&A.sessions[0]);
    disconnect(&A.sessions[0], &m);

    m.flips = 1;
    scribble(&A, F, MIB, 100);
    seal(&A, F, MIB, 100);
    connect_at(&A, &B, 0, 0, &m);
    wait_same(&A, &B, F);
    disconnect(&A.sessions[0], &m);
}

static void write_in_flight_sends_no_data(void **state)
{
    struct content_rec c;
    uint64_t lid = 0;
    bool first;

    (void)state;
    make(&A, F, 3 * MIB);
    struct id128 small = {1, 2};
    make(&A, small, 100);
    assert_true(get_content(&A, F, &c, &lid));
    ok(dirty_begin(A.dirty, lid, &first));
    assert_true(dirty_overlaps(A.dirty, lid, 0, 1));
    dirty_end(A.dirty, lid, 2 * MIB, 10);
    assert_true(dirty_overlaps(A.dirty, lid, 2 * MIB + 9, 1));
    assert_false(dirty_overlaps(A.dirty, lid, 2 * MIB + 10, UINT64_MAX));
    assert_false(dirty_overlaps(A.dirty, lid, 0, 2 * MIB));
    /* changed behind our back: not what the record says */
    scribble(&A, small, 50, 1);
    connect_nodes(&A, &B);
    wait_acked(&A.sessions[0]);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_NONE]), 2);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 0);
    /* a WANT gets the record without data rather than the wrong bytes */
    struct msg_want want = {small, {A.id, 1}};
    ok(sender_ask(B.sessions[0].sender, &want));
    for (int i = 0; i < WAIT_MS && !locked_u64(&B, &B.resent); i++)
        sleep_ms(1);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_NONE]), 3);
    /* the seal that follows */
    dirty_drop(A.dirty, lid);
    seal(&A, F, 2 * MIB, 10);
    wait_same(&A, &B, F);
    disconnect(&A.sessions[0], NULL);
}

/* Written to again before it was read: the next delta still goes on top of what the peer has. */
static void delta_over_a_version_without_data(void **state)
{
    struct content_rec c;
    uint64_t lid = 0;
    bool first;

    (void)state;
    connect_nodes(&A, &B);
    make(&A, F, 3 * MIB);
    wait_same(&A, &B, F);
    assert_true(get_content(&A, F, &c, &lid));
    ok(dirty_begin(A.dirty, lid, &first));
    scribble(&A, F, 2 * MIB, 10);
    seal(&A, F, 2 * MIB, 10);
    for (int i = 0; i < WAIT_MS && !locked_u64(&B, &B.got[ITEM_NONE]); i++)
        sleep_ms(1);
    dirty_end(A.dirty, lid, 0, 0);
    resize(&A, F, 3 * MIB + 1);
    seal(&A, F, 3 * MIB, 1);
    wait_same(&A, &B, F);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_NONE]), 1);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 0);
    assert_true(stats_of(&A.sessions[0]).bytes < 3 * MIB + 10000);
    disconnect(&A.sessions[0], NULL);
}

static void position_resumes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 10; i++)
        make(&A, (struct id128){1, i + 2}, 3000);
    connect_nodes(&A, &B);
    wait_acked(&A.sessions[0]);
    uint64_t applied = locked_u64(&B, &B.sessions[0].applied);
    assert_int_equal(applied, head_of(&A));
    assert_int_equal(stats_of(&A.sessions[0]).sent_pos, applied);
    disconnect(&A.sessions[0], NULL);

    make(&A, F, 3000);
    connect_at(&A, &B, applied, 0, NULL);
    wait_same(&A, &B, F);
    wait_acked(&A.sessions[0]);
    assert_int_equal(stats_of(&A.sessions[0]).records, 1);
    disconnect(&A.sessions[0], NULL);
}

/* What came from the peer is not sent back, but the position moves on, and is told. */
static void no_echo(void **state)
{
    (void)state;
    connect_nodes(&A, &B);
    make(&A, F, 3000);
    wait_same(&A, &B, F);
    wait_acked(&B.sessions[0]);
    assert_int_equal(stats_of(&B.sessions[0]).records, 0);
    assert_int_equal(locked_u64(&A, &A.sessions[0].applied), head_of(&B));
    disconnect(&A.sessions[0], NULL);
}

/* Does its knowledge cover the version of this file that it holds, or that B does? */
static bool knows(struct node *n, struct id128 rid)
{
    struct content_rec c;
    uint64_t lid;

    assert_true(get_content(&B, rid, &c, &lid));
    pthread_mutex_lock(&n->lock);
    bool covered = vvec_covers(&n->know, c.h.stamp);
    pthread_mutex_unlock(&n->lock);
    return covered;
}

/* A - B - C, and C says that it is connected to A. */
static void deferred_until_the_link_is_gone(void **state)
{
    struct content_rec c;
    uint64_t lid = 0;

    (void)state;
    connect_nodes(&B, &C);
    sender_peer_links(B.sessions[0].sender, &A.id, 1);
    connect_nodes(&A, &B);
    make(&A, F, 3 * MIB);
    wait_same(&A, &B, F);
    struct id128 own = {2, 2};
    make(&B, own, 100);
    wait_same(&B, &C, own);
    for (int i = 0; i < WAIT_MS && !knows(&C, own); i++)
        sleep_ms(1);
    sleep_ms(100);
    assert_false(get_content(&C, F, &c, &lid));
    assert_int_equal(stats_of(&B.sessions[0]).deferred, 1);
    assert_int_equal(locked_u64(&C, &C.sessions[0].applied), 1);
    assert_true(knows(&C, own));
    assert_false(knows(&C, F)); /* that is A's to send */

    sender_peer_links(B.sessions[0].sender, NULL, 0);
    wait_same(&A, &C, F);
    wait_acked(&B.sessions[0]);
    for (int i = 0; i < WAIT_MS && !(knows(&C, F) && knows(&C, own)); i++)
        sleep_ms(1);
    assert_true(knows(&C, F) && knows(&C, own));
    assert_int_equal(stats_of(&B.sessions[0]).deferred, 0);
    disconnect(&A.sessions[0], NULL);
    disconnect(&C.sessions[0], NULL);
}

/* In a triangle each record travels once: B hears from C that it has it. */
static void deferred_until_acknowledged(void **state)
{
    (void)state;
    connect_nodes(&A, &B);
    connect_nodes(&B, &C);
    connect_nodes(&A, &C);
    sender_peer_links(A.sessions[0].sender, &C.id, 1);
    sender_peer_links(A.sessions[1].sender, &B.id, 1);
    sender_peer_links(B.sessions[0].sender, &C.id, 1);
    sender_peer_links(B.sessions[1].sender, &A.id, 1);
    sender_peer_links(C.sessions[0].sender, &A.id, 1);
    sender_peer_links(C.sessions[1].sender, &B.id, 1);
    for (unsigned i = 0; i < 20; i++) {
        make(&A, (struct id128){1, i + 2}, 200000);
        make(&B, (struct id128){2, i + 2}, 2000);
    }
    for (unsigned i = 0; i < 20; i++) {
        wait_same(&A, &B, (struct id128){1, i + 2});
        wait_same(&A, &C, (struct id128){1, i + 2});
        wait_same(&B, &A, (struct id128){2, i + 2});
        wait_same(&B, &C, (struct id128){2, i + 2});
    }
    wait_acked(&B.sessions[1]);
    assert_int_equal(stats_of(&B.sessions[1]).records, 20);
    assert_int_equal(stats_of(&B.sessions[1]).deferred, 0);
    disconnect(&A.sessions[0], NULL);
    disconnect(&A.sessions[1], NULL);
    disconnect(&B.sessions[1], NULL);
}

static size_t resident(void)
{
    size_t total, pages;
    FILE *f = fopen("/proc/self/statm", "re");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%zu %zu", &total, &pages), 2);
    fclose(f);
    return pages * 4096;
}

static void *run_only(void *arg)
{
    return sender_run(arg) == 0 ? NULL : arg;
}

static void peer_that_does_not_read_costs_no_memory(void **state)
{
    struct sender_env env = {A.index, A.nodes, A.dirty, A.id};
    static const struct vvec nothing;
    struct sender *s;
    pthread_t t;
    void *failed;
    int p[2];

    (void)state;
    for (unsigned i = 0; i < 300; i++)
        make(&A, (struct id128){1, i + 2}, 100000);
    make(&A, F, BIG);
    ok(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    ok(sender_new(&env, p[0], B.id, 0, &nothing, &s));
    ok(pthread_create(&t, NULL, run_only, s));
    sleep_ms(300);
    size_t before = resident();
    uint64_t seq = 1000;
    for (unsigned i = 0; i < 20000; i++) {
        struct vvec know = {.n = 1, .e = {{B.id, ++seq}}};
        sender_wake(s);
        sender_ack(s, i, &know);
        ok(sender_state(s, i % 10 + 1, "state", 5));
    }
    assert_true(resident() < before + 8 * MIB);
    for (unsigned i = 0; i < 1024; i++)
        ok(sender_want(s, F, (struct stamp){1, 1}));
    assert_int_equal(sender_want(s, F, (struct stamp){1, 1}), FARM_EFULL);
    sender_stop(s); /* ends it although it waits for the peer */
    pthread_join(t, &failed);
    assert_null(failed);
    sender_free(s);
    close(p[0]);
    close(p[1]);
}

/* B's file system is full: the stream stands still, and goes on when there is room. */
static void full_file_system_is_waited_for(void **state)
{
    char ballast[160];

    (void)state;
    node_close(&B);
    node_open_on(&B, 0xb, 8 * MIB);
    snprintf(ballast, sizeof ballast, "%s/fs/ballast", B.dir);
    int fd = open(ballast, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ok(posix_fallocate(fd, 0, 6 * MIB));
    close(fd);
    make(&A, F, 4 * MIB);
    make(&A, (struct id128){1, 2}, 4000);
    connect_nodes(&A, &B);
    sleep_ms(600);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_STAGED]), 0);
    assert_true(B.sessions[0].up);
    ok(unlink(ballast));
    wait_same(&A, &B, F);
    wait_same(&A, &B, (struct id128){1, 2});
    assert_int_equal(locked_u64(&B, &B.got[ITEM_MISSING]), 0);
    disconnect(&A.sessions[0], NULL);
}

/* ... but not beyond the session. */
static void full_file_system_does_not_hold_the_session(void **state)
{
    (void)state;
    node_close(&B);
    node_open_on(&B, 0xb, 2 * MIB);
    make(&A, F, 4 * MIB);
    connect_nodes(&A, &B);
    sleep_ms(300);
    disconnect(&A.sessions[0], NULL);
    assert_int_equal(B.got[ITEM_STAGED], 0);
    assert_int_equal(B.sessions[0].rx_result, FARM_ECLOSED);
}

static void states_arrive_and_the_latest_wins(void **state)
{
    struct buf b;

    (void)state;
    connect_nodes(&A, &B);
    wait_acked(&A.sessions[0]);
    buf_init(&b, 1024);
    for (uint64_t i = 1; i <= 100; i++) {
        struct msg_state m = {A.id, i, "web1", (const uint8_t *)"{}", 2};
        buf_reset(&b);
        msg_state_put(&b, &m);
        ok(sender_state(A.sessions[0].sender, A.id, b.data, b.len));
    }
    for (int i = 0; i < WAIT_MS && locked_u64(&B, &B.told) != 100; i++)
        sleep_ms(1);
    assert_int_equal(locked_u64(&B, &B.told), 100);
    buf_fini(&b);
    disconnect(&A.sessions[0], NULL);
}

static void sums_and_the_records_of_a_range_are_sent(void **state)
{
    struct msg_sum m = {.token = 77, .step = SUM_ASK, .last = {9, 9}};

    (void)state;
    connect_nodes(&A, &B);
    for (uint64_t i = 2; i < 302; i++) /* more than fit one look at the index */
        make(&A, (struct id128){1, i}, 10);
    wait_same(&A, &B, (struct id128){1, 301});
    wait_acked(&A.sessions[0]);
    ok(sender_sum(A.sessions[0].sender, &m));
    for (int i = 0; i < WAIT_MS && locked_u64(&B, &B.told) != 77; i++)
        sleep_ms(1);
    assert_int_equal(locked_u64(&B, &B.told), 77);
    uint64_t same = locked_u64(&B, &B.got[ITEM_SAME]);
    uint64_t bytes = stats_of(&A.sessions[0]).bytes;
    uint64_t drained = locked_u64(&B, &B.drained);
    ok(sender_range(A.sessions[0].sender, (struct id128){1, 3}, (struct id128){1, 300}));
    for (int i = 0; i < WAIT_MS && locked_u64(&B, &B.got[ITEM_SAME]) < same + 298; i++)
        sleep_ms(1);
    assert_int_equal(locked_u64(&B, &B.got[ITEM_SAME]), same + 298);
    /* what the index says counts when nothing handed over for the inode is still to be applied */
    assert_true(locked_u64(&B, &B.drained) > drained);
    assert_true(locked_u64(&B, &B.resent) >= 3);
    assert_true(stats_of(&A.sessions[0]).bytes > bytes);
    disconnect(&A.sessions[0], NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(small_files_follow_each_change),
        T(ten_thousand_small_files),
        T(large_file_whole_then_as_deltas),
        T(holes_do_not_travel),
        T(base_that_is_not_there_is_asked_for_whole),
        T(changed_small_file_is_not_installed),
        T(changed_large_file_is_not_installed),
        T(changed_delta_is_not_installed),
        T(write_in_flight_sends_no_data),
        T(delta_over_a_version_without_data),
        T(position_resumes),
        T(no_echo),
        T(deferred_until_the_link_is_gone),
        T(deferred_until_acknowledged),
        T(peer_that_does_not_read_costs_no_memory),
        T(full_file_system_is_waited_for),
        T(full_file_system_does_not_hold_the_session),
        T(states_arrive_and_the_latest_wins),
        T(sums_and_the_records_of_a_range_are_sent),
    };

    /* What is mounted here is nobody else's business. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        fputs("needs root\n", stderr);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
