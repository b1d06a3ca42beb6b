/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "index_fixture.h"

/* The log as text: "n3 c1 a1" in order, from a reader begun for it. */
static const char *log_text(struct fix *f)
{
    static char text[4096];
    struct index_reader *r;
    struct record rec;
    uint64_t at = 0, source;
    size_t len = 0;
    int e;

    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    text[0] = 0;
    while ((e = index_reader_log(r, at + 1, &at, &rec, &source)) == 0)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%c%llu", len ? " " : "",
                                " nca"[rec.kind], (unsigned long long)record_id(&rec).n);
    assert_int_equal(e, -ENOENT);
    index_reader_end(r);
    index_reader_free(r);
    return text;
}

/* Visits leave their nids as text. */
struct seen {
    char text[512];
    size_t len;
};

static void see(struct seen *s, uint64_t n)
{
    s->len += (size_t)snprintf(s->text + s->len, sizeof s->text - s->len, "%s%llu",
                               s->len ? " " : "", (unsigned long long)n);
}

static int see_name(void *arg, const struct name_rec *n)
{
    see(arg, n->nid.n);
    return 0;
}

static int see_place(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct seen *s = arg;
    s->len += (size_t)snprintf(s->text + s->len, sizeof s->text - s->len, "%s%.*s=%llu",
                               s->len ? " " : "", len, name, (unsigned long long)nid.n);
    return 0;
}

static void check_at(struct fix *f, struct id128 parent, const char *name, const char *want)
{
    struct seen s = {.len = 0};
    ok(f->r.names_at(f->r.ctx, parent, (const uint8_t *)name, (uint8_t)strlen(name), see_name, &s));
    assert_string_equal(s.text, want);
}

static void check_in(struct fix *f, struct id128 parent, const char *want)
{
    struct seen s = {.len = 0};
    ok(f->r.names_in(f->r.ctx, parent, see_name, &s));
    assert_string_equal(s.text, want);
}

static void check_of(struct fix *f, uint64_t rid, const char *want)
{
    struct seen s = {.len = 0};
    ok(f->r.names_of(f->r.ctx, id(rid), see_name, &s));
    assert_string_equal(s.text, want);
}

static void check_places(struct fix *f, struct id128 parent, const char *want)
{
    struct seen s = {.len = 0};
    ok(index_places_in(f->ix, parent, see_place, &s));
    assert_string_equal(s.text, want);
}

static void place(struct fix *f, uint64_t nid, const char *name)
{
    struct place p = {.kind = name ? PLACE_AT : PLACE_NONE, .parent = RID_ROOT};
    if (name) {
        p.name_len = (uint8_t)strlen(name);
        memcpy(p.name, name, p.name_len);
    }
    ok(f->r.set_place(f->r.ctx, id(nid), &p));
}

/* ---- records and meta ---- */

static void records_come_back_as_they_were_put(void **state)
{
    struct fix *f = *state;
    static const uint8_t xattrs[] = {6, 'u', 's', 'e', 'r', '.', 'a', 2, 0, 0, 0, 'x', 'y'};
    struct name_rec n = a_name(3, 4, id(2), "caf\xc3\xa9"), n2;
    struct content_rec c = a_file(4, 123), c2, l = {.rid = id(5), .type = NODE_LNK};
    struct attr_rec a = an_attr(4, 04755), a2;

    n.alive = false;
    n.prev_len = 3;
    memcpy(n.prev_name, "old", 3);
    n.prev_parent = RID_ROOT;
    n.prev_parent.node = 3;
    n.seen.n = 2;
    n.seen.e[0] = (struct stamp){1, 5};
    n.seen.e[1] = (struct stamp){2, 6};
    c.vv = n.seen;
    c.base = st(77);
    c.mtime_ns = -5;
    memset(c.digest, 0xab, sizeof c.digest);
    l.target = (const uint8_t *)"../there";
    l.target_len = 8;
    a.xattrs = xattrs;
    a.xattrs_len = sizeof xattrs;
    memcpy(a.owner, "root", a.owner_len = 4);
    ok(index_begin(f->ix));
    ok(f->r.put_name(f->r.ctx, &n, US));
    ok(f->r.put_content(f->r.ctx, &c, 9));
    ok(f->r.put_content(f->r.ctx, &l, 9));
    ok(f->r.put_attr(f->r.ctx, &a, 9));
    ok(f->r.get_name(f->r.ctx, id(3), &n2));
    assert_true(!n2.alive && id_eq(n2.inode, id(4)) && id_eq(n2.parent, id(2)));
    assert_memory_equal(n2.name, n.name, n.name_len);
    assert_true(n2.prev_len == 3 && memcmp(n2.prev_name, "old", 3) == 0);
    assert_true(n2.seen.n == 2 && stamp_eq(n2.seen.e[1], n.seen.e[1]));
    ok(f->r.get_content(f->r.ctx, id(4), &c2));
    assert_true(c2.size == 123 && c2.mtime_ns == -5 && stamp_eq(c2.base, st(77)));
    assert_memory_equal(c2.digest, c.digest, 32);
    ok(f->r.get_content(f->r.ctx, id(5), &c2));
    assert_true(c2.target_len == 8 && memcmp(c2.target, "../there", 8) == 0);
    ok(f->r.get_attr(f->r.ctx, id(4), &a2));
    assert_true(a2.mode == 04755 && a2.owner_len == 4 && a2.xattrs_len == sizeof xattrs);
    assert_memory_equal(a2.xattrs, xattrs, sizeof xattrs);
    /* Put back what was got: its pointers lie in the index itself. */
    ok(f->r.put_attr(f->r.ctx, &a2, US));
    ok(f->r.get_attr(f->r.ctx, id(4), &a2));
    assert_memory_equal(a2.xattrs, xattrs, sizeof xattrs);
    assert_int_equal(f->r.get_name(f->r.ctx, id(99), &n2), -ENOENT);
    assert_int_equal(f->r.get_content(f->r.ctx, id(99), &c2), -ENOENT);
    assert_int_equal(f->r.get_attr(f->r.ctx, id(99), &a2), -ENOENT);
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "n3 c4 c5 a4");
}

static void tombstones_are_found_in_the_order_of_the_log(void **state)
{
    struct fix *f = *state;
    struct name_rec a = a_name(3, 30, RID_ROOT, "a"), b = a_name(4, 40, RID_ROOT, "b");
    struct id128 inode;
    uint64_t pos;

    ok(index_begin(f->ix));
    assert_int_equal(index_next_tombstone(f->ix, 0, &pos, &inode), -ENOENT);
    ok(f->r.put_name(f->r.ctx, &a, US));
    assert_int_equal(index_next_tombstone(f->ix, 0, &pos, &inode), -ENOENT);
    b.alive = a.alive = false;
    ok(f->r.put_name(f->r.ctx, &b, US));
    ok(f->r.put_name(f->r.ctx, &a, US));
    ok(index_next_tombstone(f->ix, 0, &pos, &inode));
    assert_true(id_eq(inode, id(40)));
    ok(index_next_tombstone(f->ix, pos + 1, &pos, &inode));
    assert_true(id_eq(inode, id(30)));
    assert_int_equal(index_next_tombstone(f->ix, pos + 1, &pos, &inode), -ENOENT);
    ok(f->r.put_name(f->r.ctx, &b, US)); /* renewed: it moves to the end */
    ok(index_next_tombstone(f->ix, 0, &pos, &inode));
    assert_true(id_eq(inode, id(30)));
    a.alive = true;
    ok(f->r.put_name(f->r.ctx, &a, US));
    ok(f->r.forget_name(f->r.ctx, id(4)));
    assert_int_equal(index_next_tombstone(f->ix, 0, &pos, &inode), -ENOENT);
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "n3");
}

static void meta_peers_kept_and_leaves_come_back(void **state)
{
    struct fix *f = *state;
    static const uint8_t leaves[3 * 32] = {1, 2, 3};
    struct index_meta m;
    struct index_peer p = {.node = 5, .name = "web2", .epoch = 8, .applied = 44, .seen_us = 9}, p2;
    const uint8_t *got;
    uint64_t n;

    ok(index_begin(f->ix));
    assert_int_equal(index_get_meta(f->ix, &m), -ENOENT);
    put_meta(f, 1);
    ok(index_get_meta(f->ix, &m));
    assert_true(m.folder_id == 1 && m.node == US && m.clean == 1 && m.know.n == 1);
    m.folder_id = 2;
    assert_int_equal(index_put_meta(f->ix, &m), FARM_EFOLDER);
    p.know.n = 1;
    p.know.e[0] = st(3);
    ok(index_put_peer(f->ix, &p));
    ok(index_get_peer(f->ix, 5, &p2));
    assert_true(p2.applied == 44 && p2.epoch == 8 && p2.seen_us == 9 && p2.know.n == 1);
    assert_string_equal(p2.name, "web2");
    assert_int_equal(index_get_peer(f->ix, 6, &p2), -ENOENT);
    ok(index_put_leaves(f->ix, id(4), leaves, 3));
    ok(index_get_leaves(f->ix, id(4), &got, &n));
    assert_int_equal(n, 3);
    assert_memory_equal(got, leaves, sizeof leaves);
    ok(index_put_leaves(f->ix, id(4), NULL, 0));
    assert_int_equal(index_get_leaves(f->ix, id(4), &got, &n), -ENOENT);
    ok(index_commit(f->ix));
}

static int count_peer(void *arg, const struct index_peer *p)
{
    see(arg, p->node);
    return 0;
}

static void peers_are_listed_in_order(void **state)
{
    struct fix *f = *state;
    struct seen s = {.len = 0};

    ok(index_begin(f->ix));
    for (uint64_t i = 300; i > 0; i -= 100) {
        struct index_peer p = {.node = i};
        ok(index_put_peer(f->ix, &p));
    }
    ok(index_peers(f->ix, count_peer, &s));
    assert_string_equal(s.text, "100 200 300");
    ok(index_commit(f->ix));
}

/* ---- log and orders ---- */

static void a_put_moves_its_entry_to_the_tail(void **state)
{
    struct fix *f = *state;
    struct name_rec n = a_name(1, 1, RID_ROOT, "a");
    struct content_rec c = a_file(1, 10);
    struct attr_rec a = an_attr(1, 0644);

    ok(index_begin(f->ix));
    ok(f->r.put_name(f->r.ctx, &n, US));
    ok(f->r.put_content(f->r.ctx, &c, US));
    ok(f->r.put_attr(f->r.ctx, &a, US));
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "n1 c1 a1");
    ok(index_begin(f->ix));
    ok(f->r.put_name(f->r.ctx, &n, US));
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "c1 a1 n1");
    assert_int_equal(index_log_head(f->ix), 5);
    ok(index_begin(f->ix));
    ok(f->r.put_content(f->r.ctx, &c, US));
    index_abort(f->ix);
    assert_int_equal(index_log_head(f->ix), 5);
    assert_string_equal(log_text(f), "c1 a1 n1");
    /* The head is found again without a meta row. */
    index_close(f->ix);
    fix_open(f, true);
    assert_int_equal(index_log_head(f->ix), 5);
}

static void a_head_not_behind_the_log_is_refused(void **state)
{
    struct fix *f = *state;
    struct content_rec c = a_file(1, 10), d = a_file(2, 10);

    ok(index_begin(f->ix));
    ok(f->r.put_content(f->r.ctx, &c, US));
    index_set_log_head(f->ix, 1);
    assert_true(f->r.put_content(f->r.ctx, &d, US) < 0);
    /* A transaction in which a write failed half-way cannot be committed. */
    assert_true(index_commit(f->ix) < 0);
    assert_string_equal(log_text(f), "");
}

static void held_records_are_not_in_the_log(void **state)
{
    struct fix *f = *state;
    struct name_rec n = a_name(1, 1, RID_ROOT, "a"), link = a_name(2, 1, RID_ROOT, "b");
    struct name_rec old = a_name(3, 3, RID_ROOT, "c");
    struct index_node node = a_node(1, 16, 1), other = a_node(3, 17, 2);
    struct content_rec c = a_file(1, 0), old_c = a_file(3, 0), got_c;
    struct attr_rec a = an_attr(1, 0600), old_a = an_attr(3, 0644), got_a;
    struct place p;

    ok(index_begin(f->ix));
    node.flags = NODE_HELD;
    ok(index_put_node(f->ix, &node, false));
    ok(f->r.put_name(f->r.ctx, &n, US));
    ok(f->r.put_name(f->r.ctx, &link, US));
    ok(f->r.put_content(f->r.ctx, &c, US));
    ok(f->r.put_attr(f->r.ctx, &a, US));
    place(f, 1, "a");
    check_in(f, RID_ROOT, "1 2");
    ok(f->r.get_content(f->r.ctx, id(1), &got_c));
    ok(f->r.get_attr(f->r.ctx, id(1), &got_a));
    assert_int_equal(index_log_head(f->ix), 1);
    /* Announced before its inode was held: stays in the log, and moves to its tail. */
    ok(f->r.put_attr(f->r.ctx, &old_a, US));
    ok(f->r.put_content(f->r.ctx, &old_c, US));
    ok(f->r.put_name(f->r.ctx, &old, US));
    other.flags = NODE_HELD;
    ok(index_put_node(f->ix, &other, false));
    ok(f->r.put_name(f->r.ctx, &old, US));
    ok(f->r.put_content(f->r.ctx, &old_c, US));
    ok(f->r.put_attr(f->r.ctx, &old_a, US));
    /* Again while it is held: still nothing. */
    ok(f->r.put_content(f->r.ctx, &c, US));
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "n3 c3 a3");

    ok(index_begin(f->ix));
    node.flags = 0;
    ok(index_put_node(f->ix, &node, false));
    ok(f->r.put_content(f->r.ctx, &c, US));
    ok(f->r.put_attr(f->r.ctx, &a, US));
    ok(f->r.put_name(f->r.ctx, &n, US));
    ok(index_forget_name(f->ix, id(2)));
    assert_int_equal(index_forget_name(f->ix, id(2)), -ENOENT);
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "n3 c3 a3 c1 a1 n1");

    ok(index_begin(f->ix));
    ok(index_forget_name(f->ix, id(1)));
    ok(index_forget_inode(f->ix, id(1)));
    check_in(f, RID_ROOT, "3");
    check_of(f, 1, "");
    check_at(f, RID_ROOT, "a", "");
    check_places(f, RID_ROOT, "");
    ok(f->r.get_place(f->r.ctx, id(1), &p));
    assert_int_equal(p.kind, PLACE_NONE);
    assert_int_equal(f->r.get_content(f->r.ctx, id(1), &c), -ENOENT);
    assert_int_equal(f->r.get_attr(f->r.ctx, id(1), &a), -ENOENT);
    ok(index_commit(f->ix));
    assert_string_equal(log_text(f), "n3 c3 a3");
}

static void orders_follow_a_rename(void **state)
{
    struct fix *f = *state;
    struct name_rec a = a_name(1, 10, RID_ROOT, "a"), ab = a_name(2, 11, RID_ROOT, "ab");
    struct name_rec rival = a_name(300, 12, RID_ROOT, "a"), link = a_name(4, 10, id(9), "a");

    rival.alive = false;
    ok(index_begin(f->ix));
    ok(f->r.put_name(f->r.ctx, &rival, US));
    ok(f->r.put_name(f->r.ctx, &link, US));
    ok(f->r.put_name(f->r.ctx, &ab, US));
    ok(f->r.put_name(f->r.ctx, &a, US));
    check_at(f, RID_ROOT, "a", "1 300");
    check_at(f, RID_ROOT, "ab", "2");
    check_at(f, id(9), "a", "4");
    check_of(f, 10, "1 4");
    check_in(f, RID_ROOT, "1 2 300");
    a.parent = id(9);
    ok(f->r.put_name(f->r.ctx, &a, US));
    check_at(f, RID_ROOT, "a", "300");
    check_at(f, id(9), "a", "1 4");
    check_of(f, 10, "1 4");
    check_in(f, RID_ROOT, "2 300");
    check_in(f, id(9), "1 4");
    memset(a.name, 'x', a.name_len = 255);
    ok(f->r.put_name(f->r.ctx, &a, US));
    check_at(f, id(9), "a", "4");
    ok(index_commit(f->ix));
}

static int see_id(void *arg, struct id128 nid)
{
    see(arg, nid.n);
    return 0;
}

static void check_hidden(struct fix *f, const char *name, const char *want)
{
    struct seen s = {.len = 0};
    ok(f->r.hidden_at(f->r.ctx, RID_ROOT, (const uint8_t *)name, (uint8_t)strlen(name), see_id,
                      &s));
    assert_string_equal(s.text, want);
}

static void check_cuts(struct fix *f, const char *want)
{
    struct seen s = {.len = 0};
    ok(f->r.cuts(f->r.ctx, see_id, &s));
    assert_string_equal(s.text, want);
}

static void hidden_names_and_cuts_are_found(void **state)
{
    struct fix *f = *state;
    struct place p = {.kind = PLACE_HIDDEN, .parent = RID_ROOT, .name_len = 1, .name = "a"}, got;

    ok(index_begin(f->ix));
    check_hidden(f, "a", "");
    check_cuts(f, "");
    ok(f->r.set_place(f->r.ctx, id(5), &p));
    ok(f->r.set_place(f->r.ctx, id(3), &p));
    p.name[1] = 'b';
    p.name_len = 2;
    ok(f->r.set_place(f->r.ctx, id(4), &p));
    check_hidden(f, "a", "3 5");
    check_hidden(f, "ab", "4");
    p.kind = PLACE_AT;
    p.cut = true;
    ok(f->r.set_place(f->r.ctx, id(5), &p));
    ok(f->r.set_place(f->r.ctx, id(9), &p));
    check_hidden(f, "a", "3");
    check_cuts(f, "5 9");
    ok(f->r.get_place(f->r.ctx, id(5), &got));
    assert_true(got.cut && got.kind == PLACE_AT && got.name_len == 2);
    place(f, 5, "ab");
    check_cuts(f, "9");
    place(f, 9, NULL);
    place(f, 3, NULL);
    check_cuts(f, "");
    check_hidden(f, "a", "");
    p.name_len = 0;
    assert_int_equal(f->r.set_place(f->r.ctx, id(5), &p), -EINVAL);
    ok(index_commit(f->ix));
}

static void slots_follow_places(void **state)
{
    struct fix *f = *state;
    struct place hidden = {.kind = PLACE_HIDDEN, .parent = RID_ROOT, .name_len = 1, .name = "a"};
    struct place p;
    struct id128 nid;

    ok(index_begin(f->ix));
    assert_int_equal(f->r.who_is_at(f->r.ctx, RID_ROOT, (const uint8_t *)"a", 1, &nid), -ENOENT);
    place(f, 1, "a");
    place(f, 2, "b");
    check_places(f, RID_ROOT, "a=1 b=2");
    /* Two names swap, one set after the other. */
    place(f, 1, "b");
    place(f, 2, "a");
    check_places(f, RID_ROOT, "a=2 b=1");
    ok(f->r.set_place(f->r.ctx, id(2), &hidden));
    check_places(f, RID_ROOT, "b=1");
    ok(f->r.get_place(f->r.ctx, id(2), &p));
    assert_int_equal(p.kind, PLACE_HIDDEN);
    place(f, 3, "b");
    place(f, 1, NULL);
    check_places(f, RID_ROOT, "b=3");
    ok(f->r.who_is_at(f->r.ctx, RID_ROOT, (const uint8_t *)"b", 1, &nid));
    assert_int_equal(nid.n, 3);
    ok(f->r.get_place(f->r.ctx, id(3), &p));
    assert_true(p.kind == PLACE_AT && p.name_len == 1 && p.name[0] == 'b');
    check_places(f, id(1), "");
    ok(index_commit(f->ix));
}

/* ---- nodes ---- */

static void nodes_are_found_by_lid_and_handle(void **state)
{
    struct fix *f = *state;
    struct index_node n = a_node(1, 16, 1), got;

    n.size = 5;
    n.mtime_ns = -6;
    n.ctime_ns = 7;
    n.flags = NODE_DIRTY;
    ok(index_begin(f->ix));
    ok(index_put_node(f->ix, &n, false));
    ok(index_get_node(f->ix, id(1), &got));
    assert_true(got.size == 5 && got.mtime_ns == -6 && got.ctime_ns == 7);
    assert_true(got.flags == NODE_DIRTY && got.lid == 16 && handle_eq(&got.handle, &n.handle));
    ok(index_get_node_by_lid(f->ix, 16, &got));
    assert_true(id_eq(got.rid, id(1)));
    ok(index_get_node_by_handle(f->ix, &n.handle, &got));
    assert_true(id_eq(got.rid, id(1)));

    /* A peer's content is installed as another inode: nothing of the former one is left. */
    struct index_node m = a_node(1, 17, 2);
    ok(index_put_node(f->ix, &m, false));
    assert_int_equal(index_get_node_by_lid(f->ix, 16, &got), -ENOENT);
    assert_int_equal(index_get_node_by_handle(f->ix, &n.handle, &got), -ENOENT);
    ok(index_get_node_by_lid(f->ix, 17, &got));
    ok(index_get_node_by_handle(f->ix, &m.handle, &got));
    assert_int_equal(index_del_orphan(f->ix, 17), -ENOENT);
    ok(index_del_node(f->ix, id(1), false));
    assert_int_equal(index_get_node(f->ix, id(1), &got), -ENOENT);
    assert_int_equal(index_get_node_by_lid(f->ix, 17, &got), -ENOENT);
    assert_int_equal(index_get_node_by_handle(f->ix, &m.handle, &got), -ENOENT);
    assert_int_equal(index_del_node(f->ix, id(1), false), -ENOENT);
    ok(index_commit(f->ix));
}

static void a_kept_lid_is_an_orphan(void **state)
{
    struct fix *f = *state;
    struct index_node n = a_node(1, 16, 1), m = a_node(1, 17, 2), got;
    struct index_reader *r;
    struct handle h;
    struct id128 rid;
    uint8_t type;
    bool orphan;

    ok(index_begin(f->ix));
    ok(index_put_node(f->ix, &n, false));
    ok(index_put_node(f->ix, &m, true));
    assert_int_equal(index_get_node_by_lid(f->ix, 16, &got), -ENOENT);
    ok(index_get_node_by_lid(f->ix, 17, &got));
    ok(index_put_orphan(f->ix, 30, &n.handle));
    ok(index_commit(f->ix));

    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    ok(index_reader_by_lid(r, 16, &h, &type, &rid, &orphan));
    assert_true(orphan && type == NODE_REG && handle_eq(&h, &n.handle));
    ok(index_reader_by_lid(r, 17, &h, &type, &rid, &orphan));
    assert_true(!orphan && handle_eq(&h, &m.handle) && id_eq(rid, id(1)));
    ok(index_reader_by_lid(r, 30, &h, &type, &rid, &orphan));
    assert_true(orphan && type == 0);
    index_reader_end(r);

    ok(index_begin(f->ix));
    ok(index_del_orphan(f->ix, 16));
    ok(index_del_node(f->ix, id(1), true));
    ok(index_commit(f->ix));
    ok(index_reader_begin(r));
    assert_int_equal(index_reader_by_lid(r, 16, &h, &type, &rid, &orphan), -ENOENT);
    ok(index_reader_by_lid(r, 17, &h, &type, &rid, &orphan));
    assert_true(orphan);
    index_reader_end(r);
    index_reader_free(r);
}

static void what_another_inode_took_over_stays(void **state)
{
    struct fix *f = *state;
    struct index_node a = a_node(1, 16, 1), b = a_node(2, 17, 1), got;

    ok(index_begin(f->ix));
    ok(index_put_node(f->ix, &a, false));
    ok(index_put_node(f->ix, &b, false)); /* the same backing inode, by now of another record */
    ok(index_del_node(f->ix, id(1), false));
    ok(index_get_node_by_handle(f->ix, &b.handle, &got));
    assert_true(id_eq(got.rid, id(2)));
    ok(index_commit(f->ix));
}

/* ---- readers ---- */

static void readers_see_what_was_committed(void **state)
{
    struct fix *f = *state;
    struct content_rec c = a_file(1, 1000), d = a_file(2, 24);
    struct attr_rec a = an_attr(1, 0600);
    struct index_reader *r;
    struct index_meta m;
    struct record rec;
    uint64_t at, source, entries, bytes, lid;
    uint8_t type;
    struct index_node node = a_node(1, 16, 1), got;

    ok(index_reader_new(f->ix, &r));
    ok(index_begin(f->ix));
    ok(f->r.put_content(f->r.ctx, &c, 55));
    ok(f->r.put_content(f->r.ctx, &d, US));
    ok(f->r.put_attr(f->r.ctx, &a, US));
    ok(index_put_node(f->ix, &node, false));
    put_meta(f, 0);
    ok(index_reader_begin(r));
    assert_int_equal(index_reader_record(r, REC_CONTENT, id(1), &rec), -ENOENT);
    assert_int_equal(index_reader_meta(r, &m), -ENOENT);
    ok(index_commit(f->ix));
    assert_int_equal(index_reader_record(r, REC_CONTENT, id(1), &rec), -ENOENT);
    assert_int_equal(index_reader_log(r, 0, &at, &rec, &source), -ENOENT);
    index_reader_end(r);

    ok(index_reader_begin(r));
    ok(index_reader_meta(r, &m));
    assert_int_equal(m.log_head, 4);
    ok(index_reader_record(r, REC_CONTENT, id(1), &rec));
    assert_int_equal(rec.content.size, 1000);
    ok(index_reader_node(r, id(1), &got));
    ok(index_reader_by_handle(r, &node.handle, &lid, &type));
    assert_true(lid == 16 && type == NODE_REG);
    ok(index_reader_log(r, 0, &at, &rec, &source));
    assert_true(at == 1 && source == 55 && rec.kind == REC_CONTENT);
    ok(index_reader_log(r, 3, &at, &rec, &source));
    assert_true(at == 3 && source == US && rec.kind == REC_ATTR);
    assert_int_equal(index_reader_log(r, 4, &at, &rec, &source), -ENOENT);
    ok(index_reader_backlog(r, 1, 100, &entries, &bytes));
    assert_true(entries == 3 && bytes == 1024);
    ok(index_reader_backlog(r, 2, 1, &entries, &bytes));
    assert_true(entries == 1 && bytes == 24);
    ok(index_reader_backlog(r, 4, 100, &entries, &bytes));
    assert_true(entries == 0 && bytes == 0);
    index_reader_end(r);
    index_reader_free(r);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(records_come_back_as_they_were_put, setup, teardown),
        cmocka_unit_test_setup_teardown(tombstones_are_found_in_the_order_of_the_log, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(meta_peers_kept_and_leaves_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(peers_are_listed_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_put_moves_its_entry_to_the_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(a_head_not_behind_the_log_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(held_records_are_not_in_the_log, setup, teardown),
        cmocka_unit_test_setup_teardown(orders_follow_a_rename, setup, teardown),
        cmocka_unit_test_setup_teardown(slots_follow_places, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden_names_and_cuts_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(nodes_are_found_by_lid_and_handle, setup, teardown),
        cmocka_unit_test_setup_teardown(a_kept_lid_is_an_orphan, setup, teardown),
        cmocka_unit_test_setup_teardown(what_another_inode_took_over_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(readers_see_what_was_committed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
