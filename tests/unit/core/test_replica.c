/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/collect.h"

#include "memrecords.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define NOW 1700000000000000ull

static const struct id128 root = RID_ROOT;

struct fixture {
    struct memrecords m;
    struct replica p;
};

static int setup(void **state)
{
    static struct fixture f;

    memrecords_init(&f.m);
    f.p = (struct replica){.r = &f.m.r, .node = 5, .next_seq = 1, .next_id = 2};
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memrecords_fini(&f->m);
    return 0;
}

static const uint8_t *bytes(const char *s)
{
    return (const uint8_t *)s;
}

static size_t update(struct fixture *f)
{
    size_t n;

    free(memrecords_update(&f->m, &n));
    return n;
}

static struct id128 make(struct fixture *f, enum node_type type, struct id128 parent,
                         const char *name, struct id128 *nid)
{
    struct content_rec c = {.rid = replica_new_id(&f->p), .type = (uint8_t)type};

    assert_int_equal(replica_content(&f->p, NOW, 0, &c), 0);
    assert_int_equal(
        replica_link(&f->p, NOW, 0, c.rid, parent, bytes(name), (uint8_t)strlen(name), nid), 0);
    assert_int_equal(update(f), 0);
    return c.rid;
}

static int unlink_name(struct fixture *f, struct id128 parent, const char *name)
{
    return replica_unlink(&f->p, NOW, parent, bytes(name), (uint8_t)strlen(name));
}

static int rename_name(struct fixture *f, struct id128 from, const char *old, struct id128 to,
                       const char *name, bool exchange)
{
    return replica_rename(&f->p, NOW, from, bytes(old), (uint8_t)strlen(old), to, bytes(name),
                          (uint8_t)strlen(name), exchange);
}

static struct name_rec get(struct fixture *f, struct id128 nid)
{
    struct name_rec n;

    assert_int_equal(f->m.r.get_name(&f->m, nid, &n), 0);
    return n;
}

static enum place_kind kind_of(struct fixture *f, struct id128 nid)
{
    struct place p;

    assert_int_equal(f->m.r.get_place(&f->m, nid, &p), 0);
    return p.kind;
}

static enum merge_result merge(struct fixture *f, const struct record *r)
{
    enum merge_result result;
    bool skewed;

    assert_int_equal(replica_merge(&f->p, NOW, r, 6, &result, &skewed), 0);
    assert_false(skewed);
    return result;
}

/* A peer's record (node 6) with the next clock. */
static struct rec_head foreign(struct fixture *f, uint64_t seq)
{
    return (struct rec_head){{6, seq}, f->p.clock.last + 1};
}

/* A peer's file at (root, name), put and placed. */
static struct id128 foreign_file(struct fixture *f, uint64_t k, const char *name)
{
    struct record c = {.kind = REC_CONTENT,
                       .content = {.h = foreign(f, 10 * k),
                                   .rid = {6, 10 * k},
                                   .type = NODE_REG,
                                   .vv = {.n = 1, .e = {{6, 10 * k}}}}};
    struct record n = {.kind = REC_NAME,
                       .name = {.h = foreign(f, 10 * k + 1),
                                .nid = {6, 10 * k + 1},
                                .inode = c.content.rid,
                                .parent = RID_ROOT,
                                .name_len = (uint8_t)strlen(name),
                                .alive = true}};

    memcpy(n.name.name, name, n.name.name_len);
    assert_int_equal(merge(f, &c), MERGE_NEW);
    assert_int_equal(merge(f, &n), MERGE_NEW);
    update(f);
    return n.name.nid;
}

static void test_link_stamps_and_places(void **state)
{
    struct fixture *f = *state;
    struct id128 nid, other;
    struct id128 rid = make(f, NODE_REG, root, "f", &nid);
    struct name_rec n = get(f, nid);

    assert_true(n.alive && id_eq(n.inode, rid));
    assert_int_equal(n.h.stamp.node, 5);
    assert_true(vvec_covers(&f->p.know, n.h.stamp));
    assert_int_equal(kind_of(f, nid), PLACE_AT);
    assert_int_equal(replica_link(&f->p, NOW, 0, rid, root, bytes("f"), 1, &other), -EEXIST);
    assert_int_equal(replica_link(&f->p, NOW, 0, rid, (struct id128){7, 7}, bytes("g"), 1, &other),
                     -ENOENT);
    assert_int_equal(replica_link(&f->p, NOW, 0, rid, rid, bytes("g"), 1, &other), -ENOENT);
}

static void test_exact_clock_of_a_first_scan(void **state)
{
    struct fixture *f = *state;
    struct content_rec c = {.rid = replica_new_id(&f->p), .type = NODE_REG};
    uint64_t old = hlc_from_us(NOW - 1000000);

    assert_int_equal(replica_content(&f->p, NOW, old, &c), 0);
    assert_true(c.h.hlc == old);
    assert_int_equal(replica_content(&f->p, NOW, old, &c), 0);
    assert_true(c.h.hlc == old + 1);
    assert_int_equal(replica_content(&f->p, NOW, hlc_from_us(NOW * 2), &c), 0);
    assert_true(c.h.hlc == hlc_from_us(NOW));
}

static void test_content_follows_its_base(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct content_rec c = {.rid = make(f, NODE_REG, root, "f", &nid), .type = NODE_REG}, was;

    assert_int_equal(f->m.r.get_content(&f->m, c.rid, &was), 0);
    assert_int_equal(replica_content(&f->p, NOW, 0, &c), 0);
    assert_true(stamp_eq(c.base, was.h.stamp));
    assert_true(vvec_covers(&c.vv, c.h.stamp) && vvec_includes(&c.vv, &was.vv));
    assert_true(head_wins(&c.h, &was.h));
    c.type = NODE_LNK;
    assert_int_equal(replica_content(&f->p, NOW, 0, &c), -EINVAL);
}

static void test_attr_time_is_later_than_the_content(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct attr_rec a = {
        .rid = make(f, NODE_REG, root, "f", &nid), .mtime_ns = 77, .mtime_hlc = ATTR_MTIME_SET};
    struct content_rec c;

    assert_int_equal(replica_attr(&f->p, NOW, 0, &a), 0);
    assert_int_equal(f->m.r.get_content(&f->m, a.rid, &c), 0);
    assert_true(a.mtime_hlc == a.h.hlc);
    assert_int_equal(record_mtime(&c, &a), 77);
}

static void test_unlink_buries_hidden_rivals(void **state)
{
    struct fixture *f = *state;
    struct id128 nid, rival;

    make(f, NODE_REG, root, "f", &nid);
    rival = foreign_file(f, 1, "f");
    assert_int_equal(kind_of(f, nid), PLACE_HIDDEN);
    assert_int_equal(unlink_name(f, root, "f"), 0);
    assert_int_equal(kind_of(f, rival), PLACE_NONE);
    assert_int_equal(update(f), 1);
    assert_int_equal(kind_of(f, nid), PLACE_NONE);
    assert_false(get(f, nid).alive || get(f, rival).alive);
    assert_int_equal(unlink_name(f, root, "f"), -ENOENT);
}

static void test_last_name_renews_older_tombstones(void **state)
{
    struct fixture *f = *state;
    struct id128 a, b;
    struct content_rec c = {.rid = make(f, NODE_REG, root, "a", &a), .type = NODE_REG};

    assert_int_equal(replica_link(&f->p, NOW, 0, c.rid, root, bytes("b"), 1, &b), 0);
    assert_int_equal(unlink_name(f, root, "a"), 0);
    assert_int_equal(update(f), 0);
    assert_int_equal(replica_content(&f->p, NOW, 0, &c), 0);
    assert_int_equal(update(f), 0);
    assert_int_equal(unlink_name(f, root, "b"), 0);
    assert_int_equal(update(f), 0);
    struct name_rec dead = get(f, a);

    assert_true(vvec_includes(&dead.seen, &c.vv));
}

static void test_rename_over(void **state)
{
    struct fixture *f = *state;
    struct id128 a, b;

    make(f, NODE_REG, root, "a", &a);
    make(f, NODE_REG, root, "b", &b);
    size_t before = f->m.nlog;

    assert_int_equal(rename_name(f, root, "a", root, "b", false), 0);
    assert_true(id_eq(f->m.log[before].id, a)); /* the move before the tombstone */
    assert_int_equal(update(f), 0);
    assert_int_equal(kind_of(f, a), PLACE_AT);
    assert_false(get(f, b).alive);
    assert_memory_equal(get(f, a).prev_name, "a", 1);
    assert_int_equal(rename_name(f, root, "a", root, "c", false), -ENOENT);
}

static void test_rename_takes_hidden_rivals_along(void **state)
{
    struct fixture *f = *state;
    struct id128 nid, rival;
    struct place p;

    make(f, NODE_REG, root, "f", &nid);
    rival = foreign_file(f, 1, "f");
    assert_int_equal(rename_name(f, root, "f", root, "g", false), 0);
    assert_int_equal(update(f), 0);
    assert_int_equal(f->m.r.get_place(&f->m, nid, &p), 0);
    assert_int_equal(p.kind, PLACE_HIDDEN);
    assert_memory_equal(p.name, "g", 1);
    assert_int_equal(kind_of(f, rival), PLACE_AT);
}

static void test_rename_takes_merged_directories_whole(void **state)
{
    struct fixture *f = *state;
    struct id128 a, b, child;
    struct id128 first = make(f, NODE_DIR, root, "d", &a);
    struct id128 second = make(f, NODE_DIR, root, "e", &b);
    struct record n = {.kind = REC_NAME};

    make(f, NODE_REG, second, "f", &child);
    n.name = get(f, b);
    n.name.h = foreign(f, 1);
    n.name.name[0] = 'd';
    assert_int_equal(merge(f, &n), MERGE_NEW);
    update(f);
    assert_int_equal(kind_of(f, b), PLACE_HIDDEN);
    assert_int_equal(rename_name(f, root, "d", root, "g", false), 0);
    assert_int_equal(update(f), 0);
    struct place p;

    assert_int_equal(f->m.r.get_place(&f->m, child, &p), 0);
    assert_true(p.kind == PLACE_AT && id_eq(p.parent, first));
    assert_memory_equal(get(f, b).name, "g", 1);
}

static void test_exchange(void **state)
{
    struct fixture *f = *state;
    struct id128 a, b, at;

    make(f, NODE_REG, root, "a", &a);
    make(f, NODE_DIR, root, "b", &b);
    assert_int_equal(rename_name(f, root, "a", root, "c", true), -ENOENT);
    assert_int_equal(rename_name(f, root, "a", root, "b", true), 0);
    assert_int_equal(update(f), 0);
    assert_int_equal(f->m.r.who_is_at(&f->m, root, bytes("a"), 1, &at), 0);
    assert_true(id_eq(at, b));
    assert_int_equal(f->m.r.who_is_at(&f->m, root, bytes("b"), 1, &at), 0);
    assert_true(id_eq(at, a));
}

static void test_rename_of_two_names_of_one_inode(void **state)
{
    struct fixture *f = *state;
    struct id128 a, b;
    struct id128 rid = make(f, NODE_REG, root, "a", &a);

    assert_int_equal(replica_link(&f->p, NOW, 0, rid, root, bytes("b"), 1, &b), 0);
    update(f);
    assert_int_equal(rename_name(f, root, "a", root, "b", false), 0);
    assert_true(get(f, a).alive && get(f, b).alive);
}

/* Two directories moved into one another: the cut one is then moved or the other one is. */
static void test_moving_makes_cuts_permanent(void **state)
{
    struct fixture *f = *state;
    struct id128 a, b, c;
    struct id128 ra = make(f, NODE_DIR, root, "a", &a), rb = make(f, NODE_DIR, root, "b", &b);
    struct record n = {.kind = REC_NAME};

    make(f, NODE_DIR, root, "c", &c);
    assert_int_equal(rename_name(f, root, "a", rb, "in", false), 0);
    n.name = get(f, b);
    n.name.prev_parent = n.name.parent;
    n.name.prev_len = n.name.name_len;
    memcpy(n.name.prev_name, n.name.name, n.name.name_len);
    n.name.parent = ra;
    n.name.h = foreign(f, 1);
    assert_int_equal(merge(f, &n), MERGE_NEW);
    update(f);
    assert_int_equal(rename_name(f, root, "c", root, "d", false), 0);
    assert_int_equal(update(f), 0);
    assert_true(id_eq(get(f, b).parent, root));
    struct place p;

    assert_int_equal(f->m.r.get_place(&f->m, b, &p), 0);
    assert_true(p.kind == PLACE_AT && !p.cut);
}

static void test_merge_keeps_the_greater(void **state)
{
    struct fixture *f = *state;
    struct record a = {.kind = REC_ATTR, .attr = {.h = {{6, 2}, 20}, .rid = {6, 1}, .mode = 2}};
    struct record b = {.kind = REC_ATTR, .attr = {.h = {{7, 1}, 10}, .rid = {6, 1}, .mode = 1}};
    struct attr_rec got;

    assert_int_equal(merge(f, &a), MERGE_NEW);
    assert_int_equal(merge(f, &b), MERGE_OLD);
    assert_int_equal(merge(f, &a), MERGE_OLD);
    assert_int_equal(f->m.r.get_attr(&f->m, a.attr.rid, &got), 0);
    assert_int_equal(got.mode, 2);
    assert_int_equal(f->m.nlog, 1); /* what is not put moves nothing in the log */
    /* Nobody's single record says what came before it; the end of a log does. */
    assert_false(vvec_covers(&f->p.know, (struct stamp){6, 2}));
    assert_true(vvec_covers(&f->p.seen, (struct stamp){6, 2}));
    struct vvec theirs = {.n = 2, .e = {{6, 1}, {7, 1}}};
    assert_int_equal(replica_learn(&f->p, &theirs), 0);
    assert_true(vvec_includes(&f->p.know, &theirs));
    assert_false(vvec_covers(&f->p.know, (struct stamp){6, 2}));
}

static void test_what_is_known_and_absent_was_collected(void **state)
{
    struct fixture *f = *state;
    struct record a = {.kind = REC_ATTR, .attr = {.h = {{6, 2}, 20}, .rid = {6, 1}, .mode = 2}};
    struct record c = {.kind = REC_CONTENT,
                       .content = {.h = {{6, 1}, 10}, .rid = {6, 1}, .type = NODE_REG}};
    struct record n = {.kind = REC_NAME,
                       .name = {.h = {{6, 3}, 10},
                                .nid = {6, 2},
                                .inode = {6, 1},
                                .parent = root,
                                .name_len = 1,
                                .name = "n",
                                .alive = true}};
    struct vvec theirs = {.n = 1, .e = {{6, 3}}};

    assert_int_equal(replica_learn(&f->p, &theirs), 0);
    assert_int_equal(merge(f, &a), MERGE_OLD);
    assert_int_equal(merge(f, &c), MERGE_OLD);
    assert_int_equal(merge(f, &n), MERGE_OLD);
    assert_int_equal(f->m.nlog, 0);
    n.name.h.stamp.seq = 4;
    assert_int_equal(merge(f, &n), MERGE_NEW);
}

/* stable: all that this node knows but for `but` */
static bool collect(struct fixture *f, struct id128 rid, struct stamp but, uint64_t before)
{
    struct vvec stable = f->p.know, less = {.n = 1, .e = {but}};
    bool done;

    if (but.node) {
        less.e[0].seq--;
        collect_meet(&stable, &less);
    }
    assert_int_equal(collect_inode(&f->p, rid, &stable, before, &done), 0);
    return done;
}

static void test_collect_takes_what_all_have_seen(void **state)
{
    struct fixture *f = *state;
    struct id128 nid, second;
    struct id128 rid = make(f, NODE_REG, root, "f", &nid);
    struct content_rec c;

    assert_int_equal(replica_link(&f->p, NOW, 0, rid, root, bytes("g"), 1, &second), 0);
    assert_int_equal(replica_unlink(&f->p, NOW, root, bytes("f"), 1), 0);
    update(f);
    assert_false(collect(f, rid, (struct stamp){0, 0}, UINT64_MAX)); /* it has a living name */
    assert_int_equal(replica_unlink(&f->p, NOW, root, bytes("g"), 1), 0);
    update(f);
    struct name_rec last = get(f, second);
    assert_false(collect(f, rid, last.h.stamp, 0));
    assert_false(collect(f, rid, last.h.stamp, last.h.hlc)); /* as young as the limit */
    assert_int_equal(f->p.gone.n, 0);
    assert_true(collect(f, rid, (struct stamp){0, 0}, 0));
    assert_true(vvec_covers(&f->p.gone, last.h.stamp));
    assert_int_equal(f->m.r.get_content(&f->m, rid, &c), -ENOENT);
    struct record late = {.kind = REC_NAME, .name = last};
    late.name.alive = true;
    assert_int_equal(merge(f, &late), MERGE_OLD);
    assert_false(collect(f, rid, (struct stamp){0, 0}, 0)); /* nothing is left */
}

/* A copy of the state was put back when the next number was 3; node 9 is the new incarnation. */
static void test_renew_stamps_anew_what_was_made_twice(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct record old = {.kind = REC_CONTENT}, c = old, n = {.kind = REC_NAME};

    old.content = (struct content_rec){.rid = replica_new_id(&f->p), .type = NODE_REG};
    assert_int_equal(replica_content(&f->p, NOW, 0, &old.content), 0); /* 5.1 */
    struct id128 rid = make(f, NODE_REG, root, "f", &nid);             /* 5.2, 5.3 */
    assert_int_equal(unlink_name(f, root, "f"), 0);                    /* 5.4 */
    update(f);
    assert_int_equal(f->m.r.get_content(&f->m, rid, &c.content), 0);
    n.name = get(f, nid);
    f->p.node = 9;
    f->p.next_seq = 1;
    vvec_lower(&f->p.know, (struct stamp){5, 2});
    assert_int_equal(replica_renew(&f->p, 5, 2, &old), 0); /* from before: as it was */
    assert_int_equal(replica_renew(&f->p, 5, 2, &c), 0);
    assert_int_equal(replica_renew(&f->p, 5, 2, &n), 0);
    assert_int_equal(f->m.r.get_content(&f->m, old.content.rid, &old.content), 0);
    assert_true(stamp_eq(old.content.h.stamp, (struct stamp){5, 1}));
    uint64_t hlc = c.content.h.hlc;
    assert_int_equal(f->m.r.get_content(&f->m, rid, &c.content), 0);
    assert_true(c.content.h.stamp.node == 9 && c.content.h.hlc == hlc);
    assert_false(vvec_covers(&c.content.vv, (struct stamp){5, 2}));
    assert_true(vvec_covers(&c.content.vv, c.content.h.stamp));
    n.name = get(f, nid);
    assert_int_equal(n.name.h.stamp.node, 9);
    assert_true(vvec_includes(&n.name.seen, &c.content.vv)); /* it stays deleted */
    update(f);
    assert_int_equal(kind_of(f, nid), PLACE_NONE);
    assert_false(vvec_covers(&f->p.know, (struct stamp){5, 2}));
}

static void test_take_puts_what_a_peer_has(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct id128 rid = make(f, NODE_REG, root, "f", &nid);
    struct record c = {.kind = REC_CONTENT}, n = {.kind = REC_NAME};
    struct content_rec own = {.rid = rid, .type = NODE_REG, .digest = {1}};
    struct name_rec ours = get(f, nid);
    enum merge_result result;
    size_t logged;

    assert_int_equal(f->m.r.get_content(&f->m, rid, &c.content), 0);
    f->p.node = 9;
    f->p.next_seq = 1;
    logged = f->m.nlog;
    assert_int_equal(replica_take(&f->p, &c, 6, &result), 0);
    assert_int_equal(result, MERGE_OLD);
    assert_int_equal(f->m.nlog, logged + 1); /* confirmed: behind what is not */
    assert_int_equal(replica_content(&f->p, NOW, 0, &own), 0);
    assert_int_equal(replica_take(&f->p, &c, 6, &result), 0);
    assert_int_equal(result, MERGE_CONFLICT); /* ours was later, and theirs is put */
    n.name = ours;
    n.name.alive = false;
    n.name.h = (struct rec_head){{6, 1}, 1};
    assert_int_equal(replica_take(&f->p, &n, 6, &result), 0);
    assert_int_equal(result, MERGE_NEW);
    assert_false(get(f, nid).alive);
}

static void test_collect_does_not_wait_past_the_retention(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct id128 rid = make(f, NODE_REG, root, "f", &nid);

    assert_int_equal(replica_unlink(&f->p, NOW, root, bytes("f"), 1), 0);
    update(f);
    struct name_rec n = get(f, nid);
    assert_true(collect(f, rid, n.h.stamp, n.h.hlc + 1));
}

static void test_collect_leaves_what_is_shown(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct id128 rid = make(f, NODE_REG, root, "f", &nid);
    struct content_rec c;

    assert_int_equal(f->m.r.get_content(&f->m, rid, &c), 0);
    struct record edit = {.kind = REC_CONTENT, .content = c};
    assert_int_equal(replica_unlink(&f->p, NOW, root, bytes("f"), 1), 0);
    update(f);
    edit.content.h = (struct rec_head){{7, 1}, c.h.hlc + 1};
    assert_int_equal(vvec_raise(&edit.content.vv, 7, 1), 0);
    assert_int_equal(merge(f, &edit), MERGE_NEW); /* an edit beats the concurrent delete */
    update(f);
    assert_int_equal(replica_learn(&f->p, &edit.content.vv), 0);
    assert_int_equal(kind_of(f, nid), PLACE_AT);
    assert_false(collect(f, rid, (struct stamp){0, 0}, UINT64_MAX));
}

static void test_merge_content_conflicts(void **state)
{
    struct fixture *f = *state;
    struct record a = {.kind = REC_CONTENT,
                       .content = {.h = {{6, 1}, 10},
                                   .rid = {6, 1},
                                   .type = NODE_REG,
                                   .digest = {1},
                                   .vv = {.n = 1, .e = {{6, 1}}}}};
    struct record b = a, old = a, next = a;

    b.content.h = (struct rec_head){{7, 1}, 20};
    b.content.vv.e[0] = (struct stamp){7, 1};
    b.content.digest[0] = 2;
    old.content.h = (struct rec_head){{8, 1}, 5};
    old.content.vv.e[0] = (struct stamp){8, 1};
    old.content.digest[0] = 3;
    next.content.h = (struct rec_head){{7, 2}, 30};
    next.content.vv.e[0] = (struct stamp){7, 2};
    assert_int_equal(merge(f, &a), MERGE_NEW);
    assert_int_equal(merge(f, &b), MERGE_CONFLICT);
    assert_int_equal(merge(f, &old), MERGE_LOST);
    assert_int_equal(merge(f, &next), MERGE_NEW);
    assert_int_equal(merge(f, &b), MERGE_OLD);
}

static void test_merge_refuses_the_impossible(void **state)
{
    struct fixture *f = *state;
    struct record good = {.kind = REC_CONTENT,
                          .content = {.h = {{6, 1}, 10}, .rid = {6, 1}, .type = NODE_REG}};
    struct record bad = good;
    enum merge_result result;
    bool skewed;

    assert_int_equal(merge(f, &good), MERGE_NEW);
    bad.content.h = (struct rec_head){{6, 2}, 11};
    bad.content.type = NODE_DIR;
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    assert_int_equal(vvec_get(&f->p.seen, 6), 1);
    bad.content.h = (struct rec_head){{6, 0}, 11};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    bad.content.h = (struct rec_head){{6, 2}, UINT64_MAX};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    bad.content.h = (struct rec_head){{0, 2}, 11};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    bad.content.h = (struct rec_head){{6, 2}, 0};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    bad.content.h = (struct rec_head){{5, 1}, 11};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), -ESTALE);
    bad = good;
    bad.content.h = (struct rec_head){{6, 2}, hlc_from_us(NOW + 2 * HLC_SKEW_MAX_US)};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), 0);
    assert_true(skewed);
    assert_true(f->p.clock.last <= hlc_from_us(NOW));
    /* a name that is suddenly one of something else */
    bad = (struct record){.kind = REC_NAME,
                          .name = {.h = {{6, 3}, 12},
                                   .nid = {6, 9},
                                   .inode = {6, 1},
                                   .parent = root,
                                   .alive = true,
                                   .name_len = 1,
                                   .name = "n"}};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), 0);
    bad.name.h = (struct rec_head){{6, 4}, 13};
    bad.name.inode = (struct id128){6, 2};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    /* a kind that there is not */
    bad.kind = (enum rec_kind)9;
    bad.attr.h = (struct rec_head){{6, 4}, 13};
    assert_int_equal(replica_merge(&f->p, NOW, &bad, 6, &result, &skewed), FARM_EPROTO);
    assert_int_equal(vvec_get(&f->p.seen, 6), 3);
}

/* What we made ourselves comes back from a peer: nothing new, and no alarm. */
static void test_merge_of_our_own(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct record r = {.kind = REC_CONTENT};

    make(f, NODE_REG, root, "a", &nid);
    assert_int_equal(f->m.r.get_content(&f->m, get(f, nid).inode, &r.content), 0);
    assert_int_equal(merge(f, &r), MERGE_OLD);
}

/* With as many nodes as a vector can hold nothing more is written, and nothing half. */
static void test_vectors_are_full(void **state)
{
    struct fixture *f = *state;
    struct id128 nid, other;
    struct id128 rid = make(f, NODE_REG, root, "a", &nid);
    struct content_rec c;
    struct attr_rec a = {.rid = rid};
    struct name_rec n = get(f, nid);
    struct replica stranger = f->p;

    /* the content's history */
    assert_int_equal(f->m.r.get_content(&f->m, rid, &c), 0);
    for (uint64_t i = 1; c.vv.n < VVEC_MAX; i++)
        assert_int_equal(vvec_raise(&c.vv, 1000 + i, 1), 0);
    c.vv.e[0] = (struct stamp){1000, 1};
    assert_int_equal(f->m.r.put_content(&f->m, &c, 6), 0);
    assert_int_equal(replica_content(&f->p, NOW, 0, &c), FARM_EFULL);
    /* what a deleter has seen */
    n.seen = (struct vvec){.n = 1, .e = {{1, 1}}};
    assert_int_equal(f->m.r.put_name(&f->m, &n, 6), 0);
    assert_int_equal(unlink_name(f, root, "a"), FARM_EFULL);
    /* knowledge */
    stranger.node = 999;
    for (uint64_t i = 1; stranger.know.n < VVEC_MAX; i++)
        assert_int_equal(vvec_raise(&stranger.know, 1000 + i, 1), 0);
    c = (struct content_rec){.rid = {999, 2}, .type = NODE_REG};
    assert_int_equal(replica_content(&stranger, NOW, 0, &c), FARM_EFULL);
    assert_int_equal(replica_attr(&stranger, NOW, 0, &a), FARM_EFULL);
    assert_int_equal(replica_restamp(&stranger, NOW, &n), FARM_EFULL);
    assert_int_equal(replica_link(&stranger, NOW, 0, rid, root, bytes("b"), 1, &other), FARM_EFULL);
}

static void test_work_in_a_revived_directory_keeps_it(void **state)
{
    struct fixture *f = *state;
    struct id128 d, file;
    struct id128 dir = make(f, NODE_DIR, root, "d", &d);
    struct record n = {.kind = REC_NAME};

    make(f, NODE_REG, dir, "f", &file);
    n.name = get(f, d);
    n.name.alive = false;
    n.name.h = foreign(f, 1);
    assert_int_equal(merge(f, &n), MERGE_NEW);
    assert_int_equal(update(f), 0);
    assert_int_equal(unlink_name(f, dir, "f"), 0);
    assert_int_equal(update(f), 0);
    assert_true(get(f, d).alive);
    assert_int_equal(unlink_name(f, root, "d"), 0);
    assert_int_equal(update(f), 0);
    assert_int_equal(kind_of(f, d), PLACE_NONE);
}

static struct content_rec behind; /* what get_behind answers for its inode */

static int get_behind(void *ctx, struct id128 rid, struct content_rec *out)
{
    (void)ctx;
    if (!id_eq(rid, behind.rid))
        return -ENOENT;
    *out = behind;
    return 0;
}

/* The record of a peer's version is here, its data is not: what is done here is done to the file as
 * it was, so that the peer's version is a conflict of an edit and survives a deletion. */
static void test_work_on_a_file_that_is_behind(void **state)
{
    struct fixture *f = *state;
    struct id128 nid;
    struct record peers = {.kind = REC_CONTENT};
    struct content_rec own = {.type = NODE_REG, .digest = {9}};

    f->m.r.get_behind = get_behind;
    own.rid = make(f, NODE_REG, root, "a", &nid);
    assert_int_equal(f->m.r.get_content(&f->m, own.rid, &behind), 0);
    peers.content = behind;
    peers.content.h = foreign(f, 1);
    peers.content.digest[0] = 1;
    assert_int_equal(vvec_raise(&peers.content.vv, 6, 1), 0);
    assert_int_equal(merge(f, &peers), MERGE_NEW);

    assert_int_equal(replica_content(&f->p, NOW, 0, &own), 0);
    assert_true(stamp_eq(own.base, behind.h.stamp));
    assert_false(vvec_includes(&own.vv, &peers.content.vv));
    assert_true(vvec_includes(&own.vv, &behind.vv));
    assert_true(head_wins(&own.h, &peers.content.h));
    assert_true(content_conflicts(&own, &peers.content));

    behind = own;
    peers.content.h = foreign(f, 2);
    peers.content.digest[0] = 2;
    assert_int_equal(vvec_raise(&peers.content.vv, 6, 2), 0);
    assert_int_equal(merge(f, &peers), MERGE_CONFLICT);
    assert_int_equal(unlink_name(f, root, "a"), 0);
    assert_int_equal(update(f), 1);
    assert_int_equal(kind_of(f, nid), PLACE_AT);
    behind = (struct content_rec){.type = NODE_REG};
}

#define REPLICA_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        REPLICA_TEST(test_link_stamps_and_places),
        REPLICA_TEST(test_exact_clock_of_a_first_scan),
        REPLICA_TEST(test_content_follows_its_base),
        REPLICA_TEST(test_attr_time_is_later_than_the_content),
        REPLICA_TEST(test_unlink_buries_hidden_rivals),
        REPLICA_TEST(test_last_name_renews_older_tombstones),
        REPLICA_TEST(test_rename_over),
        REPLICA_TEST(test_rename_takes_hidden_rivals_along),
        REPLICA_TEST(test_rename_takes_merged_directories_whole),
        REPLICA_TEST(test_exchange),
        REPLICA_TEST(test_rename_of_two_names_of_one_inode),
        REPLICA_TEST(test_moving_makes_cuts_permanent),
        REPLICA_TEST(test_merge_keeps_the_greater),
        REPLICA_TEST(test_merge_content_conflicts),
        REPLICA_TEST(test_merge_refuses_the_impossible),
        REPLICA_TEST(test_what_is_known_and_absent_was_collected),
        REPLICA_TEST(test_collect_takes_what_all_have_seen),
        REPLICA_TEST(test_renew_stamps_anew_what_was_made_twice),
        REPLICA_TEST(test_take_puts_what_a_peer_has),
        REPLICA_TEST(test_collect_does_not_wait_past_the_retention),
        REPLICA_TEST(test_collect_leaves_what_is_shown),
        REPLICA_TEST(test_merge_of_our_own),
        REPLICA_TEST(test_vectors_are_full),
        REPLICA_TEST(test_work_in_a_revived_directory_keeps_it),
        REPLICA_TEST(test_work_on_a_file_that_is_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
