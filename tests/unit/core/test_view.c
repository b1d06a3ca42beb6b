/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One test for each rule sentence of core/view.h, on records put by hand. Names are C strings, ids
 * and clocks small numbers: a nid {9, k} names what the tests call k. */
#include "core/view.h"

#include "memrecords.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct id128 root = RID_ROOT;

static struct id128 nid(uint64_t k)
{
    return (struct id128){9, k};
}

static struct id128 rid(uint64_t k)
{
    return (struct id128){8, k};
}

static int setup(void **state)
{
    static struct memrecords m;

    memrecords_init(&m);
    *state = &m;
    return 0;
}

static int teardown(void **state)
{
    memrecords_fini(*state);
    return 0;
}

static void content(struct memrecords *m, uint64_t inode, enum node_type type, uint64_t seq)
{
    struct content_rec c = {.h = {{1, seq}, seq},
                            .rid = rid(inode),
                            .type = (uint8_t)type,
                            .vv = {.n = 1, .e = {{1, seq}}}};

    assert_int_equal(m->r.put_content(m, &c, 1), 0);
}

/* Name k of inode k, unless said otherwise by `inode`. */
static struct name_rec name_of(uint64_t k, uint64_t inode, struct id128 parent, const char *name,
                               uint64_t hlc)
{
    struct name_rec n = {.h = {{1, 100 + k}, hlc},
                         .nid = nid(k),
                         .inode = rid(inode),
                         .parent = parent,
                         .name_len = (uint8_t)strlen(name),
                         .alive = true};

    memcpy(n.name, name, n.name_len);
    return n;
}

static void put(struct memrecords *m, const struct name_rec *n)
{
    assert_int_equal(m->r.put_name(m, n, 1), 0);
}

static void add(struct memrecords *m, uint64_t k, enum node_type type, struct id128 parent,
                const char *name, uint64_t hlc)
{
    struct name_rec n = name_of(k, k, parent, name, hlc);

    content(m, k, type, 1);
    put(m, &n);
}

static void move(struct memrecords *m, uint64_t k, struct id128 parent, const char *name,
                 uint64_t hlc)
{
    struct name_rec n;

    assert_int_equal(m->r.get_name(m, nid(k), &n), 0);
    n.prev_parent = n.parent;
    n.prev_len = n.name_len;
    memcpy(n.prev_name, n.name, n.name_len);
    n.parent = parent;
    n.name_len = (uint8_t)strlen(name);
    memcpy(n.name, name, n.name_len);
    n.h.hlc = hlc;
    put(m, &n);
}

/* Delete name k, having seen the content up to `seen` (0: nothing). */
static void kill_name(struct memrecords *m, uint64_t k, uint64_t seen, uint64_t hlc)
{
    struct name_rec n;

    assert_int_equal(m->r.get_name(m, nid(k), &n), 0);
    n.alive = false;
    n.seen = (struct vvec){.n = seen > 0, .e = {{1, seen}}};
    n.h.hlc = hlc;
    put(m, &n);
}

static size_t update(struct memrecords *m)
{
    size_t n;

    free(memrecords_update(m, &n));
    return n;
}

static struct place place(struct memrecords *m, uint64_t k)
{
    struct place p;

    assert_int_equal(m->r.get_place(m, nid(k), &p), 0);
    return p;
}

static void assert_at(struct memrecords *m, uint64_t k, struct id128 parent, const char *name)
{
    struct place p = place(m, k);

    assert_int_equal(p.kind, PLACE_AT);
    assert_true(id_eq(p.parent, parent));
    assert_int_equal(p.name_len, strlen(name));
    assert_memory_equal(p.name, name, p.name_len);
}

static void assert_kind(struct memrecords *m, uint64_t k, enum place_kind kind)
{
    assert_int_equal(place(m, k).kind, kind);
}

static void test_living_name_is_at_its_register(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, root, "d", 1);
    add(m, 2, NODE_REG, rid(1), "f", 2);
    assert_int_equal(update(m), 2);
    assert_at(m, 1, root, "d");
    assert_at(m, 2, rid(1), "f");
    assert_int_equal(update(m), 0);
}

static void test_dead_name_is_nowhere(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_REG, root, "f", 1);
    update(m);
    kill_name(m, 1, 1, 2);
    assert_int_equal(update(m), 1);
    assert_kind(m, 1, PLACE_NONE);
}

static void test_1_name_without_content_waits(void **state)
{
    struct memrecords *m = *state;
    struct name_rec n = name_of(1, 1, root, "f", 1);

    put(m, &n);
    assert_int_equal(update(m), 0);
    content(m, 1, NODE_REG, 1);
    assert_int_equal(update(m), 1);
    assert_at(m, 1, root, "f");
}

static void test_1_name_without_directory_waits(void **state)
{
    struct memrecords *m = *state;
    struct name_rec dir = name_of(1, 1, root, "d", 1);

    add(m, 2, NODE_REG, rid(1), "f", 2);
    assert_int_equal(update(m), 0);
    put(m, &dir);
    assert_int_equal(update(m), 0);
    content(m, 1, NODE_DIR, 1);
    assert_int_equal(update(m), 2);
    assert_at(m, 2, rid(1), "f");
}

static void test_1_one_name_of_a_directory_counts(void **state)
{
    struct memrecords *m = *state;
    struct name_rec second = name_of(2, 1, root, "b", 2), third = name_of(3, 1, root, "c", 3);

    add(m, 1, NODE_DIR, root, "a", 1);
    put(m, &second);
    third.alive = false;
    put(m, &third);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
    assert_at(m, 2, root, "b");
    assert_kind(m, 3, PLACE_NONE);
}

static void test_1a_edit_beats_delete(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_REG, root, "f", 1);
    update(m);
    kill_name(m, 1, 1, 2);
    update(m);
    content(m, 1, NODE_REG, 3); /* seen by nobody who deleted */
    assert_int_equal(update(m), 1);
    assert_at(m, 1, root, "f");
    kill_name(m, 1, 3, 4);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
}

static void test_1a_not_with_another_living_name(void **state)
{
    struct memrecords *m = *state;
    struct name_rec link = name_of(2, 1, root, "g", 1);

    add(m, 1, NODE_REG, root, "f", 1);
    put(m, &link);
    kill_name(m, 1, 1, 2);
    content(m, 1, NODE_REG, 3);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
    assert_at(m, 2, root, "g");
    /* The other one goes too, unseen as well: the later of them comes back. */
    kill_name(m, 2, 1, 3);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
    assert_at(m, 2, root, "g");
    /* The edit was seen by the deleter of the second: the first is what remains. */
    kill_name(m, 2, 3, 4);
    update(m);
    assert_at(m, 1, root, "f");
    assert_kind(m, 2, PLACE_NONE);
}

static void test_1b_child_revives_its_parents(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, root, "d", 1);
    add(m, 2, NODE_DIR, rid(1), "e", 1);
    update(m);
    kill_name(m, 2, 0, 2);
    kill_name(m, 1, 0, 3);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
    add(m, 3, NODE_REG, rid(2), "f", 1);
    assert_int_equal(update(m), 3);
    assert_at(m, 1, root, "d");
    assert_at(m, 2, rid(1), "e");
    assert_at(m, 3, rid(2), "f");
    kill_name(m, 3, 1, 4);
    assert_int_equal(update(m), 3);
    assert_kind(m, 1, PLACE_NONE);
}

static void test_1b_parent_is_released_when_the_child_moves(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, root, "d", 1);
    add(m, 2, NODE_REG, rid(1), "f", 1);
    kill_name(m, 1, 0, 2);
    update(m);
    assert_at(m, 1, root, "d");
    move(m, 2, root, "f", 3);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
    assert_at(m, 2, root, "f");
}

static void test_1b_dead_ring_is_not_wanted(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, root, "d", 1);
    add(m, 2, NODE_DIR, rid(1), "e", 1);
    move(m, 1, rid(2), "d", 2);
    kill_name(m, 1, 0, 3);
    kill_name(m, 2, 0, 4);
    update(m);
    assert_kind(m, 1, PLACE_NONE);
    assert_kind(m, 2, PLACE_NONE);
}

static void test_2_directories_of_one_name_merge(void **state)
{
    struct memrecords *m = *state;
    struct id128 canon;

    add(m, 2, NODE_DIR, root, "d", 1);
    add(m, 12, NODE_REG, rid(2), "b", 1);
    add(m, 13, NODE_DIR, rid(2), "s", 1);
    update(m);
    assert_at(m, 12, rid(2), "b");
    add(m, 1, NODE_DIR, root, "d", 2);
    add(m, 11, NODE_REG, rid(1), "a", 1);
    update(m);
    assert_at(m, 1, root, "d");
    assert_kind(m, 2, PLACE_HIDDEN);
    assert_at(m, 11, rid(1), "a");
    assert_at(m, 12, rid(1), "b");
    assert_at(m, 13, rid(1), "s");
    assert_int_equal(view_canon(&m->r, rid(2), &canon), 0);
    assert_true(id_eq(canon, rid(1)));
    assert_int_equal(view_canon(&m->r, rid(13), &canon), 0);
    assert_true(id_eq(canon, rid(13)));
    assert_int_equal(view_canon(&m->r, root, &canon), 0);
    assert_true(id_eq(canon, root));
    assert_int_equal(view_canon(&m->r, rid(99), &canon), -ENOENT);
    /* They part again. */
    move(m, 1, root, "other", 3);
    update(m);
    assert_at(m, 2, root, "d");
    assert_at(m, 12, rid(2), "b");
    assert_at(m, 11, rid(1), "a");
}

static void test_2_merging_goes_down(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, root, "d", 1);
    add(m, 2, NODE_DIR, root, "e", 1);
    add(m, 4, NODE_DIR, rid(1), "s", 1);
    add(m, 3, NODE_DIR, rid(2), "s", 1);
    add(m, 5, NODE_REG, rid(4), "f", 1);
    add(m, 6, NODE_REG, rid(3), "f", 2);
    update(m);
    move(m, 2, root, "d", 5);
    update(m);
    assert_kind(m, 2, PLACE_HIDDEN);
    assert_at(m, 3, rid(1), "s");
    assert_kind(m, 4, PLACE_HIDDEN);
    assert_at(m, 6, rid(3), "f");
    assert_kind(m, 5, PLACE_HIDDEN);
}

static void test_3_directory_beats_file(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_REG, root, "x", 9);
    update(m);
    add(m, 2, NODE_DIR, root, "x", 1);
    update(m);
    assert_kind(m, 1, PLACE_HIDDEN);
    assert_at(m, 2, root, "x");
}

static void test_3_later_file_has_the_name(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_REG, root, "x", 1);
    update(m);
    add(m, 2, NODE_REG, root, "x", 2);
    update(m);
    assert_kind(m, 1, PLACE_HIDDEN);
    assert_true(id_eq(place(m, 1).parent, root));
    assert_at(m, 2, root, "x");
    kill_name(m, 2, 1, 3);
    update(m);
    assert_at(m, 1, root, "x");
    assert_kind(m, 2, PLACE_NONE);
}

static void test_3_names_of_one_inode_count_once(void **state)
{
    struct memrecords *m = *state;
    struct name_rec again = name_of(2, 1, root, "x", 2);

    add(m, 1, NODE_REG, root, "x", 1);
    put(m, &again);
    update(m);
    assert_kind(m, 1, PLACE_HIDDEN);
    assert_at(m, 2, root, "x");
}

static void two_dirs(struct memrecords *m)
{
    add(m, 1, NODE_DIR, root, "a", 1);
    add(m, 2, NODE_DIR, root, "b", 1);
    update(m);
}

static void test_4_latest_move_of_a_cycle_is_undone(void **state)
{
    struct memrecords *m = *state;

    two_dirs(m);
    move(m, 1, rid(2), "in", 5);
    move(m, 2, rid(1), "in", 6);
    update(m);
    assert_at(m, 1, rid(2), "in");
    assert_at(m, 2, root, "b");
    assert_true(place(m, 2).cut);
    /* The other one leaves: the cycle is gone, the move holds. */
    move(m, 1, root, "c", 7);
    update(m);
    assert_at(m, 1, root, "c");
    assert_at(m, 2, rid(1), "in");
    assert_false(place(m, 2).cut);
}

static void test_4_a_later_register_changes_the_cut(void **state)
{
    struct memrecords *m = *state;
    struct name_rec n;

    two_dirs(m);
    move(m, 1, rid(2), "in", 5);
    move(m, 2, rid(1), "in", 6);
    update(m);
    assert_int_equal(m->r.get_name(m, nid(1), &n), 0);
    n.h.hlc = 7; /* the same register, written again */
    put(m, &n);
    update(m);
    assert_at(m, 1, root, "a");
    assert_at(m, 2, rid(1), "in");
}

static void test_4_previous_place_gone_falls_to_the_root(void **state)
{
    struct memrecords *m = *state;

    two_dirs(m);
    add(m, 3, NODE_DIR, root, "p", 1);
    move(m, 2, rid(3), "b", 2);
    update(m);
    move(m, 1, rid(2), "in", 5);
    move(m, 2, rid(1), "under", 6);
    update(m);
    assert_at(m, 2, rid(3), "b");
    kill_name(m, 3, 0, 7);
    update(m);
    assert_kind(m, 3, PLACE_NONE);
    assert_at(m, 2, root, "under");
    /* It comes back with a child. */
    add(m, 4, NODE_REG, rid(3), "f", 8);
    update(m);
    assert_at(m, 3, root, "p");
    assert_at(m, 2, rid(3), "b");
}

static void test_4_without_previous_place(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, rid(2), "a", 1);
    add(m, 2, NODE_DIR, rid(1), "b", 2);
    update(m);
    assert_at(m, 2, root, "b");
    assert_at(m, 1, rid(2), "a");
}

static void test_4_self_parent(void **state)
{
    struct memrecords *m = *state;

    add(m, 1, NODE_DIR, rid(1), "a", 1);
    update(m);
    assert_at(m, 1, root, "a");
}

static void test_5_root_has_no_name(void **state)
{
    struct memrecords *m = *state;
    struct name_rec n = name_of(1, 1, root, "r", 1);
    struct content_rec c = {.h = {{1, 1}, 1}, .rid = RID_ROOT, .type = NODE_DIR};

    n.inode = root;
    put(m, &n);
    assert_int_equal(m->r.put_content(m, &c, 1), 0);
    assert_int_equal(update(m), 0);
}

static void test_order_of_changes(void **state)
{
    struct memrecords *m = *state;
    struct view_change *c;
    size_t n;

    add(m, 5, NODE_REG, rid(3), "f", 1);
    add(m, 3, NODE_DIR, rid(4), "e", 1);
    add(m, 4, NODE_DIR, root, "d", 1);
    c = memrecords_update(m, &n);
    assert_int_equal(n, 3);
    assert_true(id_eq(c[0].nid, nid(4)) && id_eq(c[1].nid, nid(3)) && id_eq(c[2].nid, nid(5)));
    assert_int_equal(c[0].from.kind, PLACE_NONE);
    assert_true(id_eq(c[2].inode, rid(5)));
    free(c);
    kill_name(m, 4, 0, 2);
    kill_name(m, 3, 0, 2);
    kill_name(m, 5, 1, 2);
    c = memrecords_update(m, &n);
    assert_int_equal(n, 3);
    assert_true(id_eq(c[0].nid, nid(5)) && id_eq(c[1].nid, nid(3)) && id_eq(c[2].nid, nid(4)));
    free(c);
}

static void test_no_seeds_no_changes(void **state)
{
    struct memrecords *m = *state;
    struct view_change *c;
    size_t n = 7;
    struct id128 unknown = nid(77);

    assert_int_equal(view_changes(&m->r, NULL, 0, &c, &n), 0);
    assert_null(c);
    assert_int_equal(n, 0);
    assert_int_equal(view_changes(&m->r, &unknown, 1, &c, &n), 0);
    assert_int_equal(n, 0);
}

static void test_view_place_before_it_is_set(void **state)
{
    struct memrecords *m = *state;
    struct place p;

    add(m, 1, NODE_REG, root, "f", 1);
    assert_int_equal(view_place(&m->r, nid(1), &p), 0);
    assert_int_equal(p.kind, PLACE_AT);
    assert_kind(m, 1, PLACE_NONE);
    assert_int_equal(view_place(&m->r, nid(2), &p), -ENOENT);
}

/* What a plain new file costs does not depend on how many names, tombstones of that name or levels
 * there are. */
static uint64_t cost_of_new_file(struct memrecords *m, uint64_t depth, uint64_t names)
{
    struct id128 seed = nid(900000), parent = root;
    struct view_change *c;
    size_t n;

    for (uint64_t k = 1; k <= depth; k++) {
        add(m, k, NODE_DIR, parent, "d", k);
        parent = rid(k);
    }
    for (uint64_t k = 0; k < names; k++) {
        char name[20];

        snprintf(name, sizeof(name), "n%u", (unsigned)k);
        add(m, 1000 + k, NODE_REG, parent, name, k + 1);
        add(m, 5000 + k, NODE_REG, parent, "new", k + 1);
        kill_name(m, 5000 + k, 1, k + 2);
    }
    update(m);
    add(m, seed.n, NODE_REG, parent, "new", 1);
    m->lookups = 0;
    assert_int_equal(view_changes(&m->r, &seed, 1, &c, &n), 0);
    assert_int_equal(n, 1);
    assert_true(id_eq(c[0].to.parent, parent));
    free(c);
    return m->lookups;
}

static void test_cost_of_a_new_file(void **state)
{
    struct memrecords big;

    memrecords_init(&big);
    uint64_t few = cost_of_new_file(*state, 1, 0);
    uint64_t many = cost_of_new_file(&big, 200, 300);

    memrecords_fini(&big);
    assert_int_equal(few, many);
    assert_true(few < 24);
}

/* A directory that moves costs its depth, not its content. */
static void test_cost_of_a_moved_directory(void **state)
{
    struct memrecords *m = *state;
    struct id128 seed = nid(1);
    struct view_change *c;
    size_t n;

    add(m, 1, NODE_DIR, root, "d", 1);
    for (uint64_t k = 0; k < 300; k++) {
        char name[20];

        snprintf(name, sizeof(name), "n%u", (unsigned)k);
        add(m, 1000 + k, NODE_REG, rid(1), name, k + 1);
    }
    update(m);
    move(m, 1, root, "e", 500);
    m->lookups = 0;
    assert_int_equal(view_changes(&m->r, &seed, 1, &c, &n), 0);
    assert_int_equal(n, 1);
    free(c);
    assert_true(m->lookups < 40);
}

#define VIEW_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VIEW_TEST(test_living_name_is_at_its_register),
        VIEW_TEST(test_dead_name_is_nowhere),
        VIEW_TEST(test_1_name_without_content_waits),
        VIEW_TEST(test_1_name_without_directory_waits),
        VIEW_TEST(test_1_one_name_of_a_directory_counts),
        VIEW_TEST(test_1a_edit_beats_delete),
        VIEW_TEST(test_1a_not_with_another_living_name),
        VIEW_TEST(test_1b_child_revives_its_parents),
        VIEW_TEST(test_1b_parent_is_released_when_the_child_moves),
        VIEW_TEST(test_1b_dead_ring_is_not_wanted),
        VIEW_TEST(test_2_directories_of_one_name_merge),
        VIEW_TEST(test_2_merging_goes_down),
        VIEW_TEST(test_3_directory_beats_file),
        VIEW_TEST(test_3_later_file_has_the_name),
        VIEW_TEST(test_3_names_of_one_inode_count_once),
        VIEW_TEST(test_4_latest_move_of_a_cycle_is_undone),
        VIEW_TEST(test_4_a_later_register_changes_the_cut),
        VIEW_TEST(test_4_previous_place_gone_falls_to_the_root),
        VIEW_TEST(test_4_without_previous_place),
        VIEW_TEST(test_4_self_parent),
        VIEW_TEST(test_5_root_has_no_name),
        VIEW_TEST(test_order_of_changes),
        VIEW_TEST(test_no_seeds_no_changes),
        VIEW_TEST(test_view_place_before_it_is_set),
        VIEW_TEST(test_cost_of_a_new_file),
        VIEW_TEST(test_cost_of_a_moved_directory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
