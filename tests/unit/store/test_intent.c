/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/intent.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <poll.h>

#define RING (64u * 1024u)
#define CONN 77u
#define THREADS 4u

#if defined(__SANITIZE_THREAD__)
#define KILLS 30 /* a child that is forked under it is slow */
#else
#define KILLS 120
#endif

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/farm-intent-XXXXXX");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char cmd[80];
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    return system(cmd);
}

static void ok(int e)
{
    assert_int_equal(e, 0);
}

static struct intent_log *reopen(uint64_t consumed, intent_judge f, void *arg)
{
    struct intent_log *l = NULL;
    ok(intent_open(dir, RING, false, &l));
    ok(intent_recover(l, consumed, f, arg));
    return l;
}

/* Every field and both names follow from n. */
static struct intent made(uint64_t n)
{
    struct intent in = {.op = INTENT_RENAME,
                        .flags = (uint16_t)(n % 7),
                        .unique = n,
                        .conn = CONN,
                        .wall_us = n * 3,
                        .parent = n * 5,
                        .parent2 = n * 7,
                        .lid = n * 11,
                        .lid2 = n * 13,
                        .off = n * 17,
                        .len = n * 19,
                        .mode = (uint32_t)n,
                        .handle = {.len = 8, .type = 1},
                        .name1_len = (uint8_t)(1 + n % 255),
                        .name2_len = (uint8_t)(n % 91)};
    memset(in.handle.bytes, (int)(n % 251), in.handle.len);
    memset(in.name1, 'a' + (int)(n % 26), in.name1_len);
    memset(in.name2, 'A' + (int)(n % 26), in.name2_len);
    return in;
}

static bool same(const struct intent *a, const struct intent *b)
{
    return a->op == b->op && a->flags == b->flags && a->result == b->result &&
           a->unique == b->unique && a->conn == b->conn && a->wall_us == b->wall_us &&
           a->parent == b->parent && a->parent2 == b->parent2 && a->lid == b->lid &&
           a->lid2 == b->lid2 && a->off == b->off && a->len == b->len && a->mode == b->mode &&
           handle_eq(&a->handle, &b->handle) && a->name1_len == b->name1_len &&
           a->name2_len == b->name2_len && memcmp(a->name1, b->name1, a->name1_len) == 0 &&
           memcmp(a->name2, b->name2, a->name2_len) == 0;
}

static bool readable(const struct intent_log *l)
{
    struct pollfd p = {.fd = intent_eventfd(l), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void never(void *arg, struct intent *in)
{
    (void)arg;
    (void)in;
    fail_msg("nothing was open");
}

static void order_completion_and_find(void **state)
{
    (void)state;
    struct intent_log *l = reopen(0, never, NULL);
    struct intent a = made(1), b = made(2), c = made(3), out;
    uint64_t ra, rb, seq;
    assert_int_equal(intent_head(l), 1);
    assert_int_equal(intent_next(l, &out, &seq), -EAGAIN);
    assert_false(readable(l));
    ok(intent_begin(l, &a, &ra));
    ok(intent_begin(l, &b, &rb));
    ok(intent_add(l, &c));
    assert_int_equal(intent_head(l), 4);
    assert_true(readable(l));
    assert_int_equal(intent_next(l, &out, &seq), -EAGAIN); /* the oldest is open */
    assert_false(readable(l));
    assert_int_equal(intent_find(l, CONN, 1, &out), -ENOENT);
    b.result = -EEXIST;
    intent_complete(l, rb, &b);
    a.lid = 4711;
    a.handle.bytes[0] ^= 1;
    intent_complete(l, ra, &a);
    assert_true(readable(l));
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 1);
    assert_true(same(&out, &a));
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 3); /* 2 is void */
    assert_true(same(&out, &c));
    assert_int_equal(intent_next(l, &out, &seq), -EAGAIN);
    assert_int_equal(intent_tail(l), 4);
    intent_consumed(l, 3);
    ok(intent_find(l, CONN, 1, &out));
    assert_true(same(&out, &a));
    ok(intent_find(l, CONN, 2, &out));
    assert_int_equal(out.result, -EEXIST);
    assert_int_equal(intent_find(l, CONN + 1, 1, &out), -ENOENT);
    intent_stop(l);
    assert_true(readable(l));
    assert_int_equal(intent_add(l, &c), FARM_ECLOSED);
    intent_close(l);
}

static void decide(void *arg, struct intent *in)
{
    struct intent expected = made(in->unique);
    assert_true(same(in, &expected));
    in->lid2 = 99;
    in->result = in->unique == 3 ? -ENOENT : 0;
    ++*(int *)arg;
}

static void recovery_judges_what_is_open(void **state)
{
    (void)state;
    struct intent_log *l = reopen(0, never, NULL);
    struct intent out;
    uint64_t ref[6], seq;
    for (uint64_t n = 1; n <= 5; n++) {
        struct intent in = made(n);
        ok(intent_begin(l, &in, &ref[n]));
        if (n % 2 == 0)
            intent_complete(l, ref[n], &in);
    }
    intent_close(l);
    int judged = 0;
    l = reopen(1, decide, &judged);
    assert_int_equal(judged, 3); /* 1 3 5 */
    assert_true(readable(l));
    assert_int_equal(intent_head(l), 6);
    const uint64_t expected[] = {1, 2, 4, 5};
    for (unsigned i = 0; i < 4; i++) {
        ok(intent_next(l, &out, &seq));
        assert_int_equal(seq, expected[i]);
        assert_int_equal(out.lid2, seq % 2 ? 99 : seq * 13);
    }
    intent_close(l);
    l = reopen(3, never, NULL); /* consumption goes on where the index says */
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 4);
    intent_close(l);
    ok(intent_open(dir, RING, false, &l));
    assert_int_equal(intent_recover(l, 7, never, NULL), FARM_ECORRUPT); /* not this log's index */
    intent_close(l);
    ok(intent_open(dir, RING, true, &l));
    ok(intent_recover(l, 7, never, NULL)); /* a new one goes on with the numbers */
    assert_int_equal(intent_head(l), 7);
    intent_close(l);
}

static void wraps_and_keeps_a_quarter(void **state)
{
    (void)state;
    struct intent_log *l = reopen(0, never, NULL);
    struct intent out;
    uint64_t seq, bytes = 0;
    for (uint64_t n = 1; n <= 2000; n++) {
        struct intent in = made(n);
        ok(intent_add(l, &in));
        ok(intent_next(l, &out, &seq));
        assert_int_equal(seq, n);
        assert_true(same(&out, &in));
        intent_consumed(l, seq);
    }
    for (uint64_t n = 2000; bytes < RING / 4; n--) {
        struct intent in = made(n);
        ok(intent_find(l, CONN, n, &out));
        assert_true(same(&out, &in));
        bytes += 288u + in.name1_len + in.name2_len;
    }
    assert_int_equal(intent_find(l, CONN, 1500, &out), -ENOENT);
    intent_close(l);
    l = reopen(2001, never, NULL);
    assert_int_equal(intent_head(l), 2001);
    assert_int_equal(intent_next(l, &out, &seq), -EAGAIN);
    ok(intent_find(l, CONN, 1990, &out));
    intent_close(l);
    /* the index lags behind what it was told: what is there is handed out again */
    l = reopen(1900, never, NULL);
    ok(intent_next(l, &out, &seq));
    assert_true(seq >= 1900);
    intent_close(l);
}

static void voids_need_no_consumer(void **state)
{
    (void)state;
    struct intent_log *l = reopen(0, never, NULL);
    struct intent out;
    uint64_t seq;
    for (uint64_t n = 1; n <= 2000; n++) {
        struct intent in = made(n);
        in.result = -EACCES;
        ok(intent_add(l, &in));
        assert_int_equal(intent_next(l, &out, &seq), -EAGAIN);
    }
    assert_int_equal(intent_tail(l), 2001);
    intent_close(l);
    l = reopen(1, never, NULL); /* the index never heard of them */
    assert_int_equal(intent_next(l, &out, &seq), -EAGAIN);
    intent_close(l);
}

static void rewinding(void **state)
{
    (void)state;
    struct intent out;
    uint64_t seq, ref;
    struct intent_log *l = NULL;
    ok(intent_open(dir, RING, true, &l));
    ok(intent_recover(l, 500, never, NULL)); /* a new log behind an old index */
    intent_rewind(l);
    for (uint64_t n = 500; n < 506; n++) {
        struct intent in = made(n);
        in.result = n == 501 ? -EIO : 0;
        ok(intent_add(l, &in));
    }
    struct intent open = made(506);
    ok(intent_begin(l, &open, &ref));
    for (int again = 0; again < 2; again++) { /* nothing was consumed: all comes twice */
        const uint64_t expected[] = {500, 502, 503, 504, 505};
        for (unsigned i = 0; i < 5; i++) {
            ok(intent_next(l, &out, &seq));
            assert_int_equal(seq, expected[i]);
            assert_int_equal(out.unique, seq);
        }
        assert_int_equal(intent_next(l, &out, &seq), -EAGAIN);
        intent_rewind(l);
        assert_int_equal(intent_tail(l), 500);
    }
    ok(intent_next(l, &out, &seq));
    intent_consumed(l, 500);
    intent_rewind(l);
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 502);
    ok(intent_next(l, &out, &seq));
    intent_consumed(l, 502); /* and not the one after it, which was handed out too */
    intent_rewind(l);
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 503);
    intent_rewind(l);
    intent_complete(l, ref, &open);
    intent_close(l);
    /* the index lags behind what the file says was consumed */
    l = reopen(500, never, NULL);
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 500);
    intent_rewind(l);
    ok(intent_next(l, &out, &seq));
    assert_int_equal(seq, 500);
    intent_close(l);
    /* a wrapped ring: rewinding at any time, every seventh time in fact */
    ok(intent_open(dir, RING, true, &l));
    ok(intent_recover(l, 0, never, NULL));
    for (uint64_t n = 1; n <= 1000; n++) {
        struct intent in = made(n);
        ok(intent_add(l, &in));
        ok(intent_next(l, &out, &seq));
        if (n % 7 == 0) {
            intent_rewind(l);
            ok(intent_next(l, &out, &seq));
        }
        assert_int_equal(seq, n);
        assert_true(same(&out, &in));
        intent_consumed(l, seq);
    }
    intent_close(l);
}

/* ---- threads ---- */

struct shared {
    struct intent_log *l;
    _Atomic uint64_t unique;
    _Atomic bool end;
    uint64_t each;
};

static void *produce(void *arg)
{
    struct shared *s = arg;
    for (uint64_t i = 0; i < s->each; i++) {
        uint64_t ref, n = atomic_fetch_add(&s->unique, 1) + 1;
        struct intent in = made(n);
        if (n % 3 == 0) {
            if (intent_add(s->l, &in) < 0)
                break;
            continue;
        }
        if (intent_begin(s->l, &in, &ref) < 0)
            break;
        in.lid2 = n;
        in.result = n % 5 == 0 ? -EIO : 0;
        intent_complete(s->l, ref, &in);
    }
    return NULL;
}

static void *look(void *arg)
{
    struct shared *s = arg;
    struct intent out;
    while (!atomic_load(&s->end)) {
        uint64_t n = atomic_load(&s->unique);
        if (intent_find(s->l, CONN, n > 20 ? n - 20 : 1, &out) == 0 &&
            out.wall_us != out.unique * 3)
            return s;
        usleep(1000);
    }
    return NULL;
}

static void many_producers_one_consumer(void **state)
{
    (void)state;
    struct shared s = {.l = reopen(0, never, NULL), .each = 3000};
    pthread_t t[THREADS], finder;
    for (unsigned i = 0; i < THREADS; i++)
        ok(pthread_create(&t[i], NULL, produce, &s));
    ok(pthread_create(&finder, NULL, look, &s));
    uint64_t voids = 0, want = THREADS * s.each, seq = 0, got = 0;
    for (uint64_t n = 1; n <= want; n++)
        voids += n % 3 != 0 && n % 5 == 0;
    while (got < want - voids) {
        struct intent out;
        int r = intent_next(s.l, &out, &seq);
        if (r == -EAGAIN) { /* a lost wake-up would hang here */
            struct pollfd p = {.fd = intent_eventfd(s.l), .events = POLLIN};
            assert_int_equal(poll(&p, 1, 20000), 1);
            continue;
        }
        ok(r);
        struct intent in = made(out.unique);
        in.lid2 = out.unique % 3 == 0 ? in.lid2 : out.unique;
        assert_true(same(&out, &in));
        got++;
        if (got % 16 == 0)
            intent_consumed(s.l, seq);
    }
    intent_consumed(s.l, seq);
    atomic_store(&s.end, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    void *bad;
    pthread_join(finder, &bad);
    assert_null(bad);
    assert_int_equal(intent_head(s.l), want + 1);
    intent_close(s.l);
}

static void *stopper(void *arg)
{
    usleep(50000);
    intent_stop(arg);
    return NULL;
}

static void full_waits_and_stop_ends_it(void **state)
{
    (void)state;
    struct intent_log *l = reopen(0, never, NULL);
    struct intent in = made(254);
    int r, n = 0;
    pthread_t t;
    ok(pthread_create(&t, NULL, stopper, l));
    while ((r = intent_add(l, &in)) == 0)
        n++;
    assert_int_equal(r, FARM_ECLOSED);
    assert_in_range(n, RING / 4 * 3 / 704 - 2, RING / 4 * 3 / 576);
    pthread_join(t, NULL);
    intent_close(l);
}

/* ---- killed at any instruction ---- */

/* What the producers had got back before they died; in memory shared with the test. */
struct seen {
    _Atomic uint64_t begun[1u << 16];     /* by unique: intent_begin returned */
    _Atomic uint64_t completed[1u << 16]; /* intent_complete or intent_add returned */
    _Atomic uint64_t unique;
    _Atomic uint64_t consumed; /* as the index would have it: all before are in it */
};

struct killed {
    struct intent_log *l;
    struct seen *seen;
};

static void *produce_for_ever(void *arg)
{
    struct killed *k = arg;
    for (;;) {
        uint64_t ref, n = atomic_fetch_add(&k->seen->unique, 1) + 1;
        struct intent in = made(n);
        if (n % 3 == 0) {
            if (intent_add(k->l, &in) < 0)
                _exit(3);
            atomic_store(&k->seen->completed[n % (1u << 16)], n);
            continue;
        }
        if (intent_begin(k->l, &in, &ref) < 0)
            _exit(3);
        atomic_store(&k->seen->begun[n % (1u << 16)], n);
        in.lid2 = n;
        intent_complete(k->l, ref, &in);
        atomic_store(&k->seen->completed[n % (1u << 16)], n);
    }
}

static void die(void *arg, struct intent *in)
{
    (void)arg;
    struct intent expected = made(in->unique);
    if (!same(in, &expected))
        _exit(5);
    in->lid2 = in->unique;
}

static void child(struct seen *seen)
{
    struct killed k = {.seen = seen};
    pthread_t t;
    if (intent_open(dir, RING, false, &k.l) < 0 ||
        intent_recover(k.l, atomic_load(&seen->consumed), die, NULL) < 0)
        _exit(4);
    for (unsigned i = 0; i < 3; i++)
        if (pthread_create(&t, NULL, produce_for_ever, &k) != 0)
            _exit(3);
    for (;;) {
        struct intent out;
        uint64_t seq;
        int r = intent_next(k.l, &out, &seq);
        if (r == -EAGAIN) {
            struct pollfd p = {.fd = intent_eventfd(k.l), .events = POLLIN};
            poll(&p, 1, 1000);
            continue;
        }
        if (r < 0)
            _exit(6);
        if (seq % 8 == 0) {
            atomic_store(&seen->consumed, seq + 1);
            intent_consumed(k.l, seq);
        }
    }
}

static void judge_killed(void *arg, struct intent *in)
{
    struct seen *seen = arg;
    struct intent expected = made(in->unique);
    assert_true(same(in, &expected));
    assert_true(atomic_load(&seen->completed[in->unique % (1u << 16)]) != in->unique);
    in->lid2 = in->unique;
}

/* Everything from `consumed` on comes out whole and in order, all that was begun among it. */
static void check_killed(struct seen *seen)
{
    static bool out_of[1u << 16];
    struct intent_log *l = reopen(atomic_load(&seen->consumed), judge_killed, seen);
    uint64_t seq, at = atomic_load(&seen->consumed);
    struct intent out;
    at = at == 0 ? 1 : at;
    memset(out_of, 0, sizeof(out_of));
    for (int r; (r = intent_next(l, &out, &seq)) != -EAGAIN; at++) {
        ok(r);
        assert_int_equal(seq, at);
        struct intent in = made(out.unique);
        in.lid2 = out.unique % 3 == 0 ? in.lid2 : out.unique;
        assert_true(same(&out, &in));
        out_of[out.unique % (1u << 16)] = true;
    }
    assert_int_equal(at, intent_head(l));
    /* of the last ones none is missing: neither consumed (found below) nor in what came out */
    uint64_t last = atomic_load(&seen->unique);
    for (uint64_t n = last > 40 ? last - 40 : 1; n <= last; n++) {
        bool begun = atomic_load(&seen->begun[n % (1u << 16)]) == n ||
                     atomic_load(&seen->completed[n % (1u << 16)]) == n;
        if (begun && !out_of[n % (1u << 16)])
            ok(intent_find(l, CONN, n, &out));
    }
    atomic_store(&seen->consumed, at);
    intent_close(l);
}

static void survives_kills(void **state)
{
    (void)state;
    struct seen *seen =
        mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(seen != MAP_FAILED);
    srand(1);
    for (int i = 0; i < KILLS; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            child(seen);
        usleep((useconds_t)(2000 + rand() % 12000));
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        check_killed(seen);
    }
    assert_true(atomic_load(&seen->unique) > 1000);
    munmap(seen, sizeof(*seen));
}

/* ---- damage ---- */

#define ENTRIES 60u

static void fill(uint64_t *open_seq)
{
    struct intent_log *l = NULL;
    ok(intent_open(dir, RING, true, &l));
    ok(intent_recover(l, 0, never, NULL));
    uint64_t seq;
    for (uint64_t n = 1; n <= 400; n++) { /* so that it has wrapped */
        struct intent in = made(n), out;
        ok(intent_add(l, &in));
        ok(intent_next(l, &out, &seq));
        intent_consumed(l, seq);
    }
    for (uint64_t n = 401; n < 401 + ENTRIES; n++) {
        uint64_t ref;
        struct intent in = made(n);
        ok(intent_begin(l, &in, &ref));
        if (n != 401 + ENTRIES / 2)
            intent_complete(l, ref, &in);
    }
    *open_seq = 401 + ENTRIES / 2;
    intent_close(l);
}

static void accept_open(void *arg, struct intent *in)
{
    struct intent expected = made(in->unique);
    assert_true(same(in, &expected));
    ++*(int *)arg;
}

/* Reads all; true when something was noticed. What is handed out must be what was put in. */
static bool damage_noticed(bool *lost)
{
    struct intent_log *l = NULL;
    int judged = 0;
    int r = intent_open(dir, RING, false, &l);
    *lost = false;
    if (r < 0)
        return true;
    r = intent_recover(l, 401, accept_open, &judged);
    uint64_t seq = 0, at = 401;
    struct intent out;
    while (r == 0 && (r = intent_next(l, &out, &seq)) == 0) {
        struct intent in = made(seq);
        assert_int_equal(seq, at++);
        assert_true(same(&out, &in));
    }
    *lost = at < 401 + ENTRIES;
    for (uint64_t n = 350; n <= 400; n++) {
        struct intent in = made(n);
        int f = intent_find(l, CONN, n, &out);
        if (f == 0)
            assert_true(same(&out, &in));
        else
            *lost = true;
    }
    intent_close(l);
    return r != -EAGAIN;
}

static void flipped_bits_are_noticed(void **state)
{
    (void)state;
    uint64_t open_seq;
    unsigned harmless = 0, noticed = 0;
    char path[80];
    snprintf(path, sizeof(path), "%s/intents", dir);
    fill(&open_seq);
    static uint8_t image[4096 + RING];
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, image, sizeof(image), 0), sizeof(image));
    srand(7);
    for (int i = 0; i < 6000; i++) {
        /* every bit of the head, then any */
        uint32_t bit = i < 88 * 8 ? (uint32_t)i : (uint32_t)rand() % (uint32_t)(sizeof(image) * 8);
        uint8_t b = image[bit / 8] ^ (uint8_t)(1u << bit % 8);
        assert_int_equal(pwrite(fd, &b, 1, bit / 8), 1);
        bool lost, saw = damage_noticed(&lost);
        assert_true(saw || !lost);
        noticed += saw;
        harmless += !saw;
        assert_int_equal(pwrite(fd, image, sizeof(image), 0), sizeof(image));
    }
    assert_true(noticed >
                harmless / 4); /* harmless: unused room, pads' insides, an open one's half */
    uint32_t format = 2;       /* not our format, but a valid head otherwise would say so first */
    assert_int_equal(pwrite(fd, &format, 4, 8), 4);
    struct intent_log *l = NULL;
    assert_int_equal(intent_open(dir, RING, false, &l), FARM_EVERSION);
    assert_int_equal(ftruncate(fd, 8192), 0);
    assert_int_equal(pwrite(fd, image, 128, 0), 128);
    assert_int_equal(intent_open(dir, RING, false, &l), FARM_ECORRUPT);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(order_completion_and_find, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(recovery_judges_what_is_open, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(wraps_and_keeps_a_quarter, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(voids_need_no_consumer, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(rewinding, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(many_producers_one_consumer, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(full_waits_and_stop_ends_it, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(survives_kills, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(flipped_bits_are_noticed, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
