/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmfs-conflicts(7), sentence by sentence. Two nodes, `a` and `b`, do what stands there without
 * knowing of each other (or knowing, after `meet`), and meet. What is done later in a test is
 * later by the clock. Trees are compared as text: directories end in a slash, files are followed by
 * what they hold.
 */
#include "core/replica.h"

#include "memrecords.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define START 1700000000000000ull
#define RECORDS_MAX 256

struct node {
    struct memrecords m;
    struct replica p;
    char kept[32]; /* contents it has put aside, in order */
    size_t nkept;
    bool skewed;
};

struct fixture {
    struct node a, b;
};

static const struct id128 root = RID_ROOT;
static uint64_t now;

static void node_init(struct node *n, uint64_t id)
{
    memset(n, 0, sizeof(*n));
    memrecords_init(&n->m);
    n->p = (struct replica){.r = &n->m.r, .node = id, .next_seq = 1, .next_id = 2};
}

static int setup(void **state)
{
    static struct fixture f;

    now = START;
    node_init(&f.a, 1);
    node_init(&f.b, 2);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memrecords_fini(&f->a.m);
    memrecords_fini(&f->b.m);
    return 0;
}

/* ---- what a node does ---- */

static uint64_t later(void)
{
    return now += 1000000;
}

static void settle(struct node *n)
{
    size_t count;

    free(memrecords_update(&n->m, &count));
}

static const uint8_t *bytes(const char *s)
{
    return (const uint8_t *)s;
}

static struct content_rec holding(struct id128 rid, char what)
{
    struct content_rec c = {.rid = rid, .type = NODE_REG, .size = 1};

    c.digest[0] = (uint8_t)what;
    return c;
}

static struct id128 link_new(struct node *n, struct content_rec *c, struct id128 dir,
                             const char *name, uint64_t at)
{
    struct id128 nid;

    assert_int_equal(replica_content(&n->p, later(), at, c), 0);
    assert_int_equal(
        replica_link(&n->p, now, at, c->rid, dir, bytes(name), (uint8_t)strlen(name), &nid), 0);
    settle(n);
    return c->rid;
}

static struct id128 makes_file(struct node *n, struct id128 dir, const char *name, char what)
{
    struct content_rec c = holding(replica_new_id(&n->p), what);
    return link_new(n, &c, dir, name, 0);
}

static struct id128 makes_dir(struct node *n, struct id128 parent, const char *name)
{
    struct content_rec c = {.rid = replica_new_id(&n->p), .type = NODE_DIR};
    return link_new(n, &c, parent, name, 0);
}

static void edits(struct node *n, struct id128 rid, char what)
{
    struct content_rec c = holding(rid, what);

    assert_int_equal(replica_content(&n->p, later(), 0, &c), 0);
    settle(n);
}

static void sets_mode(struct node *n, struct id128 rid, uint32_t mode)
{
    struct attr_rec a = {.rid = rid, .mode = mode};

    assert_int_equal(replica_attr(&n->p, later(), 0, &a), 0);
    settle(n);
}

static void deletes(struct node *n, struct id128 dir, const char *name)
{
    assert_int_equal(replica_unlink(&n->p, later(), dir, bytes(name), (uint8_t)strlen(name)), 0);
    settle(n);
}

static void moves(struct node *n, struct id128 from, const char *old, struct id128 to,
                  const char *name)
{
    assert_int_equal(replica_rename(&n->p, later(), from, bytes(old), (uint8_t)strlen(old), to,
                                    bytes(name), (uint8_t)strlen(name), false),
                     0);
    settle(n);
}

/* ---- two nodes meet ---- */

static size_t all_of(struct node *n, struct record *out)
{
    size_t count = 0;

    for (uint64_t pos = 1; pos <= n->m.nlog; pos++) {
        assert_true(count < RECORDS_MAX);
        count += memrecords_at(&n->m, pos, &out[count]);
    }
    return count;
}

static void keeps(struct node *n, const struct content_rec *c)
{
    assert_true(n->nkept + 1 < sizeof(n->kept));
    n->kept[n->nkept++] = (char)c->digest[0];
}

static void hears(struct node *n, const struct record *r, uint64_t from)
{
    struct content_rec before;
    enum merge_result result;
    bool skewed;

    if (r->kind == REC_CONTENT)
        (void)!n->m.r.get_content(&n->m, r->content.rid, &before);
    assert_int_equal(replica_merge(&n->p, now, r, from, &result, &skewed), 0);
    n->skewed |= skewed;
    if (r->kind == REC_CONTENT && result == MERGE_CONFLICT)
        keeps(n, &before);
    if (r->kind == REC_CONTENT && result == MERGE_LOST)
        keeps(n, &r->content);
}

/* Both send what they had before they heard of each other, as over two streams at once. */
static void meet(struct fixture *f)
{
    static struct record from_a[RECORDS_MAX], from_b[RECORDS_MAX];

    size_t na = all_of(&f->a, from_a), nb = all_of(&f->b, from_b);
    for (size_t i = 0; i < na; i++)
        hears(&f->b, &from_a[i], 1);
    for (size_t i = 0; i < nb; i++)
        hears(&f->a, &from_b[i], 2);
    settle(&f->a);
    settle(&f->b);
}

/* ---- what can be seen ---- */

static int by_name(const void *x, const void *y)
{
    const struct place *a = &(*(struct mem_name *const *)x)->place;
    const struct place *b = &(*(struct mem_name *const *)y)->place;
    size_t n = a->name_len < b->name_len ? a->name_len : b->name_len;
    int d = memcmp(a->name, b->name, n);

    return d ? d : (int)a->name_len - (int)b->name_len;
}

static void print_dir(const struct node *n, struct id128 dir, const char *above, FILE *out)
{
    struct mem_name *in[RECORDS_MAX];
    size_t count = 0;

    for (size_t i = 0; i < n->m.nnames; i++)
        if (n->m.names[i]->place.kind == PLACE_AT && id_eq(n->m.names[i]->place.parent, dir))
            in[count++] = n->m.names[i];
    qsort(in, count, sizeof(*in), by_name);
    for (size_t i = 0; i < count; i++) {
        struct content_rec c;
        char path[600];

        assert_int_equal(n->m.r.get_content((void *)(uintptr_t)&n->m, in[i]->rec.inode, &c), 0);
        snprintf(path, sizeof(path), "%s%.*s", above, (int)in[i]->place.name_len,
                 (const char *)in[i]->place.name);
        if (c.type == NODE_DIR) {
            strcat(path, "/");
            fprintf(out, "%s ", path);
            print_dir(n, in[i]->rec.inode, path, out);
        } else {
            fprintf(out, "%s=%c ", path, c.digest[0]);
        }
    }
}

static void assert_tree(const struct node *n, const char *want)
{
    char text[4096] = "";
    FILE *out = fmemopen(text, sizeof(text) - 1, "w");

    assert_non_null(out);
    print_dir(n, root, "", out);
    fclose(out);
    if (text[0])
        text[strlen(text) - 1] = '\0';
    assert_string_equal(text, want);
}

static void assert_both(const struct fixture *f, const char *want)
{
    assert_tree(&f->a, want);
    assert_tree(&f->b, want);
}

static uint32_t mode_of(const struct node *n, struct id128 rid)
{
    struct attr_rec a;

    assert_int_equal(n->m.r.get_attr((void *)(uintptr_t)&n->m, rid, &a), 0);
    return a.mode;
}

/* ---- DESCRIPTION ---- */

static void of_equal_clocks_the_greater_node_id_counts_as_later(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    meet(f);
    uint64_t same = later();
    struct content_rec of_b = holding(x, 'b'), of_a = holding(x, 'a');
    assert_int_equal(replica_content(&f->b.p, same, 0, &of_b), 0);
    assert_int_equal(replica_content(&f->a.p, same, 0, &of_a), 0);
    assert_int_equal(of_a.h.hlc, of_b.h.hlc);
    meet(f);
    assert_both(f, "x=b");
}

static void a_change_made_in_knowledge_of_another_is_always_later_than_it(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    now += 60 * 1000000; /* a's clock is a minute ahead of b's */
    edits(&f->a, x, 'a');
    meet(f);
    now -= 50 * 1000000;
    edits(&f->b, x, 'b');
    meet(f);
    assert_both(f, "x=b");
    assert_int_equal(f->a.nkept + f->b.nkept, 0);
}

static void
the_clock_of_a_peer_more_than_five_minutes_ahead_is_reported_and_does_not_move_ours(void **state)
{
    struct fixture *f = *state;

    now += 301 * 1000000ull;
    makes_file(&f->a, root, "from-the-future", 'f');
    now = START;
    meet(f);
    assert_true(f->b.skewed);
    assert_both(f, "from-the-future=f");
    makes_file(&f->b, root, "now", 'n');
    assert_true(f->b.p.clock.last >> HLC_COUNTER_BITS <= now);
}

/* ---- What is decided apart ---- */

static void a_change_of_mode_on_one_node_and_an_edit_on_another_both_survive(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    sets_mode(&f->a, x, 0644);
    meet(f);
    sets_mode(&f->a, x, 0600);
    edits(&f->b, x, 'b');
    meet(f);
    assert_both(f, "x=b");
    assert_int_equal(mode_of(&f->a, x), 0600);
    assert_int_equal(mode_of(&f->b, x), 0600);
}

static void and_so_do_a_rename_here_and_an_edit_there(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    meet(f);
    edits(&f->b, x, 'b');
    moves(&f->a, root, "x", root, "y");
    meet(f);
    assert_both(f, "y=b");
}

static void for_each_of_the_three_the_later_change_wins(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    meet(f);
    edits(&f->a, x, 'a');
    moves(&f->b, root, "x", root, "of-b");
    sets_mode(&f->a, x, 0600);
    edits(&f->b, x, 'b');
    moves(&f->a, root, "x", root, "of-a");
    sets_mode(&f->b, x, 0640);
    meet(f);
    assert_both(f, "of-a=b");
    assert_int_equal(mode_of(&f->a, x), 0640);
    assert_int_equal(mode_of(&f->b, x), 0640);
}

/* ---- Content ---- */

static void
the_later_version_is_the_files_content_the_other_is_kept_by_every_node_that_has_it(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    meet(f);
    edits(&f->a, x, 'a');
    edits(&f->b, x, 'b');
    meet(f);
    assert_both(f, "x=b");
    assert_string_equal(f->a.kept, "a");
    assert_string_equal(f->b.kept, "a");
}

static void equal_contents_are_no_conflict(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    meet(f);
    edits(&f->a, x, 'e');
    edits(&f->b, x, 'e');
    meet(f);
    assert_both(f, "x=e");
    assert_int_equal(f->a.nkept + f->b.nkept, 0);
}

/* ---- Deleting ---- */

static void an_edit_beats_a_deletion_the_file_comes_back_under_the_last_name_it_had(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    meet(f);
    edits(&f->b, x, 'b');
    moves(&f->a, root, "x", root, "y");
    deletes(&f->a, root, "y"); /* later than the edit, but without knowing it */
    meet(f);
    assert_both(f, "y=b");
}

static void a_deletion_by_someone_who_had_seen_the_edit_stands(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_file(&f->a, root, "x", '0');

    edits(&f->a, x, 'a');
    meet(f);
    deletes(&f->b, root, "x");
    meet(f);
    assert_both(f, "");
}

static void something_new_in_a_directory_beats_the_deletion_of_the_directory(void **state)
{
    struct fixture *f = *state;
    struct id128 d = makes_dir(&f->a, root, "d");

    makes_file(&f->a, d, "old", 'o');
    meet(f);
    makes_file(&f->b, d, "new", 'n');
    deletes(&f->a, d, "old");
    deletes(&f->a, root, "d");
    meet(f);
    assert_both(f, "d/ d/new=n");
}

static void nothing_comes_to_light_by_a_deletion(void **state)
{
    struct fixture *f = *state;

    makes_file(&f->a, root, "x", 'a');
    makes_file(&f->b, root, "x", 'b');
    meet(f);
    assert_both(f, "x=b");
    deletes(&f->a, root, "x");
    assert_tree(&f->a, "");
    meet(f);
    assert_both(f, "");
}

/* ---- Two things of one name ---- */

static void two_directories_that_get_the_same_name_become_one_with_all_that_is_in_both(void **state)
{
    struct fixture *f = *state;

    makes_file(&f->a, makes_dir(&f->a, root, "d"), "of-a", 'a');
    makes_file(&f->b, makes_dir(&f->b, root, "d"), "of-b", 'b');
    meet(f);
    assert_both(f, "d/ d/of-a=a d/of-b=b");
}

static void a_directory_and_a_file_the_directory_has_the_name(void **state)
{
    struct fixture *f = *state;

    makes_dir(&f->a, root, "x");
    makes_file(&f->b, root, "x", 'b'); /* though it is later */
    meet(f);
    assert_both(f, "x/");
}

static void two_files_the_later_name_has_it(void **state)
{
    struct fixture *f = *state;

    makes_file(&f->b, root, "x", 'b');
    makes_file(&f->a, root, "x", 'a');
    meet(f);
    assert_both(f, "x=a");
}

static struct content_rec content_of(const struct node *n, struct id128 rid)
{
    struct content_rec c;

    assert_int_equal(n->m.r.get_content((void *)(uintptr_t)&n->m, rid, &c), 0);
    return c;
}

static enum place_kind place_of(const struct node *n, struct id128 rid, char *name)
{
    for (size_t i = 0; i < n->m.nnames; i++) {
        const struct mem_name *x = n->m.names[i];
        if (!id_eq(x->rec.inode, rid))
            continue;
        snprintf(name, 256, "%.*s", (int)x->place.name_len, (const char *)x->place.name);
        return x->place.kind;
    }
    return PLACE_NONE;
}

static void the_file_that_does_not_get_the_name_is_hidden_but_its_content_is_kept(void **state)
{
    struct fixture *f = *state;
    char name[256];
    struct id128 lost = makes_file(&f->a, root, "x", 'a');

    makes_file(&f->b, root, "x", 'b');
    meet(f);
    assert_int_equal(place_of(&f->a, lost, name), PLACE_HIDDEN);
    assert_int_equal(place_of(&f->b, lost, name), PLACE_HIDDEN);
    assert_int_equal(content_of(&f->b, lost).digest[0], 'a');
}

static void it_goes_where_the_name_goes_renamed_along_with_it_and_deleted_with_it(void **state)
{
    struct fixture *f = *state;
    char name[256];
    struct id128 lost = makes_file(&f->a, root, "x", 'a');

    makes_file(&f->b, root, "x", 'b');
    meet(f);
    moves(&f->b, root, "x", root, "y");
    meet(f);
    assert_both(f, "y=b");
    assert_int_equal(place_of(&f->a, lost, name), PLACE_HIDDEN);
    assert_string_equal(name, "y");
    deletes(&f->a, root, "y");
    meet(f);
    assert_both(f, "");
    assert_int_equal(place_of(&f->b, lost, name), PLACE_NONE);
}

/* ---- Moves ---- */

static void two_nodes_move_the_same_thing_to_different_places_the_later_move_wins(void **state)
{
    struct fixture *f = *state;
    struct id128 p = makes_dir(&f->a, root, "p"), q = makes_dir(&f->a, root, "q");

    makes_file(&f->a, root, "x", '0');
    makes_dir(&f->a, root, "d");
    meet(f);
    moves(&f->b, root, "x", q, "x");
    moves(&f->a, root, "d", p, "d");
    moves(&f->a, root, "x", p, "x");
    moves(&f->b, root, "d", q, "d");
    /* x: a moved it later; d: b did */
    meet(f);
    assert_both(f, "p/ p/x=0 q/ q/d/");
}

static void of_two_moves_into_each_other_the_later_is_undone_and_stays_where_it_was(void **state)
{
    struct fixture *f = *state;
    struct id128 x = makes_dir(&f->a, root, "x"), y = makes_dir(&f->a, root, "y");

    meet(f);
    moves(&f->a, root, "x", y, "x");
    moves(&f->b, root, "y", x, "y");
    meet(f);
    assert_both(f, "y/ y/x/");
}

static void if_that_place_is_gone_too_it_appears_in_the_root(void **state)
{
    struct fixture *f = *state;
    struct id128 top = makes_dir(&f->a, root, "top");
    struct id128 x = makes_dir(&f->a, root, "x"), y = makes_dir(&f->a, top, "y");

    meet(f);
    moves(&f->a, root, "x", y, "x");
    moves(&f->b, top, "y", x, "of-b");
    deletes(&f->b, root, "top"); /* where y came from */
    meet(f);
    assert_both(f, "of-b/ of-b/x/");
}

/* ---- First start ---- */

static void an_old_copy_does_not_beat_a_newer_file(void **state)
{
    struct fixture *f = *state;
    struct content_rec old = holding(replica_new_id(&f->a.p), 'o');
    struct content_rec young = holding(replica_new_id(&f->b.p), 'y');

    /* The folder of b, with the newer file, is looked at first. */
    link_new(&f->b, &young, root, "x", hlc_from_us(START - 60 * 1000000ull));
    link_new(&f->a, &old, root, "x", hlc_from_us(START - 3600 * 1000000ull));
    meet(f);
    assert_both(f, "x=y");
}

#define SENTENCE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SENTENCE(of_equal_clocks_the_greater_node_id_counts_as_later),
        SENTENCE(a_change_made_in_knowledge_of_another_is_always_later_than_it),
        SENTENCE(
            the_clock_of_a_peer_more_than_five_minutes_ahead_is_reported_and_does_not_move_ours),
        SENTENCE(a_change_of_mode_on_one_node_and_an_edit_on_another_both_survive),
        SENTENCE(and_so_do_a_rename_here_and_an_edit_there),
        SENTENCE(for_each_of_the_three_the_later_change_wins),
        SENTENCE(
            the_later_version_is_the_files_content_the_other_is_kept_by_every_node_that_has_it),
        SENTENCE(equal_contents_are_no_conflict),
        SENTENCE(an_edit_beats_a_deletion_the_file_comes_back_under_the_last_name_it_had),
        SENTENCE(a_deletion_by_someone_who_had_seen_the_edit_stands),
        SENTENCE(something_new_in_a_directory_beats_the_deletion_of_the_directory),
        SENTENCE(nothing_comes_to_light_by_a_deletion),
        SENTENCE(two_directories_that_get_the_same_name_become_one_with_all_that_is_in_both),
        SENTENCE(a_directory_and_a_file_the_directory_has_the_name),
        SENTENCE(two_files_the_later_name_has_it),
        SENTENCE(the_file_that_does_not_get_the_name_is_hidden_but_its_content_is_kept),
        SENTENCE(it_goes_where_the_name_goes_renamed_along_with_it_and_deleted_with_it),
        SENTENCE(two_nodes_move_the_same_thing_to_different_places_the_later_move_wins),
        SENTENCE(of_two_moves_into_each_other_the_later_is_undone_and_stays_where_it_was),
        SENTENCE(if_that_place_is_gone_too_it_appears_in_the_root),
        SENTENCE(an_old_copy_does_not_beat_a_newer_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
