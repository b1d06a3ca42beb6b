/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A story of two nodes in which every kind of operation, merge and view happens, told again and
 * again: at each of its steps every call of the records and every allocation fails once. The step
 * must give that error, unchanged, and free what it took.
 */
#include "core/collect.h"
#include "memrecords.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define NOW 1700000000000000ull

/* ---- what fails: the call number `at`, counted while armed ---- */

static struct {
    bool armed, allocations;
    unsigned count, at;
} fault;

static bool fails(bool allocation)
{
    return fault.armed && fault.allocations == allocation && ++fault.count == fault.at;
}

/* The linker sends the core's allocations here (--wrap). */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
    return fails(true) ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each)
{
    return fails(true) ? NULL : __real_calloc(n, each);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails(true) ? NULL : __real_realloc(p, n);
}

/* Each call of the records goes through one of these: it fails, or is passed on disarmed; what is
 * visited is armed again. */
struct visitor {
    name_visit name;
    id_visit id;
    void *arg;
    bool armed;
};

static int visit_name(void *arg, const struct name_rec *n)
{
    struct visitor *v = arg;

    fault.armed = v->armed;
    int rc = v->name(v->arg, n);

    fault.armed = false;
    return rc;
}

static int visit_id(void *arg, struct id128 nid)
{
    struct visitor *v = arg;

    fault.armed = v->armed;
    int rc = v->id(v->arg, nid);

    fault.armed = false;
    return rc;
}

#define PASS(call)                  \
    do {                            \
        struct memrecords *m = ctx; \
        bool armed = fault.armed;   \
        int rc;                     \
                                    \
        if (fails(false))           \
            return -EIO;            \
        fault.armed = false;        \
        rc = m->r.call;             \
        fault.armed = armed;        \
        return rc;                  \
    } while (0)

static int get_name(void *ctx, struct id128 nid, struct name_rec *out)
{
    PASS(get_name(m, nid, out));
}
static int get_content(void *ctx, struct id128 rid, struct content_rec *out)
{
    PASS(get_content(m, rid, out));
}
static int get_attr(void *ctx, struct id128 rid, struct attr_rec *out)
{
    PASS(get_attr(m, rid, out));
}
static int put_name(void *ctx, const struct name_rec *n, uint64_t source)
{
    PASS(put_name(m, n, source));
}
static int put_content(void *ctx, const struct content_rec *c, uint64_t source)
{
    PASS(put_content(m, c, source));
}
static int put_attr(void *ctx, const struct attr_rec *a, uint64_t source)
{
    PASS(put_attr(m, a, source));
}
static int names_of(void *ctx, struct id128 rid, name_visit f, void *arg)
{
    struct visitor v = {.name = f, .arg = arg, .armed = fault.armed};

    PASS(names_of(m, rid, visit_name, &v));
}
static int names_in(void *ctx, struct id128 parent, name_visit f, void *arg)
{
    struct visitor v = {.name = f, .arg = arg, .armed = fault.armed};

    PASS(names_in(m, parent, visit_name, &v));
}
static int get_place(void *ctx, struct id128 nid, struct place *out)
{
    PASS(get_place(m, nid, out));
}
static int set_place(void *ctx, struct id128 nid, const struct place *p)
{
    PASS(set_place(m, nid, p));
}
static int who_is_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                     struct id128 *nid)
{
    PASS(who_is_at(m, parent, name, len, nid));
}
static int hidden_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len, id_visit f,
                     void *arg)
{
    struct visitor v = {.id = f, .arg = arg, .armed = fault.armed};

    PASS(hidden_at(m, parent, name, len, visit_id, &v));
}
static int forget_name(void *ctx, struct id128 nid)
{
    PASS(forget_name(m, nid));
}
static int forget_inode(void *ctx, struct id128 rid)
{
    PASS(forget_inode(m, rid));
}
static int cuts(void *ctx, id_visit f, void *arg)
{
    struct visitor v = {.id = f, .arg = arg, .armed = fault.armed};

    PASS(cuts(m, visit_id, &v));
}

/* ---- the story ---- */

enum verb {
    MKDIR,
    CREATE,
    LINK,
    RM,
    MV,
    XCHG,
    EDIT,
    CHMOD,
    TOUCH,
    ANNOUNCE,
    PLACE,
    CANON,
    SYNC,
    COLLECT,
    RENEW,
    TAKE
};
struct step {
    enum verb verb;
    uint8_t node;
    const char *path, *to; /* directories and names are one letter each */
};

static const struct step story[] = {
    {MKDIR, 0, "a", 0},
    {MKDIR, 0, "b", 0},
    {MKDIR, 0, "a/c", 0},
    {CREATE, 0, "f", 0},
    {LINK, 0, "f", "g"},
    {CHMOD, 0, "f", 0},
    {TOUCH, 0, "f", 0},
    {ANNOUNCE, 0, "f", 0},
    {PLACE, 0, "f", 0},
    {CANON, 0, "a/c", 0},
    {SYNC, 0, 0, 0},
    /* a content conflict */
    {EDIT, 0, "f", 0},
    {EDIT, 1, "g", 0},
    {CHMOD, 1, "g", 0},
    {SYNC, 0, 0, 0},
    /* three files of one name; the name moves with what it hides, swaps, goes */
    {CREATE, 0, "n", 0},
    {CREATE, 1, "n", 0},
    {SYNC, 0, 0, 0},
    {CREATE, 0, "a/n", 0},
    {MV, 0, "n", "a/o"},
    {CREATE, 1, "a/o", 0},
    {SYNC, 0, 0, 0},
    {XCHG, 0, "a/o", "f"},
    {SYNC, 0, 0, 0},
    {MV, 1, "a/n", "a/o"},
    {SYNC, 0, 0, 0},
    {RM, 1, "f", 0},
    {SYNC, 0, 0, 0},
    /* a cycle, made permanent by the next move */
    {MV, 0, "a", "b/a"},
    {MV, 1, "b", "a/b"},
    {SYNC, 0, 0, 0},
    {PLACE, 0, "b", 0},
    {CANON, 1, "b", 0},
    {MV, 0, "b", "d"},
    {SYNC, 0, 0, 0},
    /* directories that children bring back, one within the other, until the last child goes */
    {MKDIR, 0, "p", 0},
    {MKDIR, 0, "p/q", 0},
    {MKDIR, 0, "p/q/r", 0},
    {SYNC, 0, 0, 0},
    {CREATE, 1, "p/q/r/x", 0},
    {RM, 0, "p/q/r", 0},
    {RM, 0, "p/q", 0},
    {RM, 0, "p", 0},
    {SYNC, 0, 0, 0},
    {MV, 1, "p/q/r/x", "p/q/y"},
    {SYNC, 0, 0, 0},
    {RM, 0, "p/q/y", 0},
    {SYNC, 0, 0, 0},
    /* a file that an edit brings back, with two names, edited again, then deleted for good */
    {CREATE, 0, "h", 0},
    {LINK, 0, "h", "i"},
    {LINK, 0, "h", "j"},
    {SYNC, 0, 0, 0},
    {EDIT, 1, "h", 0},
    {RM, 0, "h", 0},
    {RM, 0, "i", 0},
    {RM, 0, "j", 0},
    {SYNC, 0, 0, 0},
    {EDIT, 1, "j", 0},
    {LINK, 1, "j", "k"},
    {RM, 1, "j", 0},
    {EDIT, 1, "k", 0},
    {RM, 1, "k", 0},
    {SYNC, 0, 0, 0},
    /* merged directories, with rivals inside; moved whole, the move of one of them wins */
    {MKDIR, 0, "z", 0},
    {CREATE, 0, "z/s", 0},
    {MKDIR, 1, "z", 0},
    {CREATE, 1, "z/s", 0},
    {MKDIR, 1, "z/t", 0},
    {SYNC, 0, 0, 0},
    {CANON, 1, "z", 0},
    {MV, 1, "z", "d/z"},
    {RM, 0, "z/s", 0},
    {SYNC, 0, 0, 0},
    {RM, 1, "d/z/t", 0},
    {RM, 1, "d/z", 0},
    {SYNC, 0, 0, 0},
    {COLLECT, 0, 0, 0},
    /* where one has collected what the other still shows: work there makes it anew */
    {MKDIR, 0, "v", 0},
    {MKDIR, 0, "v/w", 0},
    {CREATE, 0, "v/w/e", 0},
    {SYNC, 0, 0, 0},
    {CREATE, 1, "v/w/k", 0},
    {RM, 0, "v/w/e", 0},
    {RM, 0, "v/w", 0},
    {RM, 0, "v", 0},
    {SYNC, 0, 0, 0},
    {CHMOD, 1, "v/w", 0},
    {EDIT, 0, "v/w/k", 0},
    {SYNC, 0, 0, 0},
    /* a state that was put back goes on under a new id; another member rejoins */
    {RENEW, 0, 0, 0},
    {TAKE, 1, 0, 0},
};
#define STEPS (sizeof(story) / sizeof(story[0]))

struct teller {
    struct memrecords m;
    struct records r;
    struct replica p;
};

static struct teller teller[2];
static uint64_t now;

static void begin(void)
{
    now = NOW;
    for (unsigned i = 0; i < 2; i++) {
        struct teller *t = &teller[i];

        memrecords_init(&t->m);
        t->r = (struct records){
            .ctx = &t->m,
            .get_name = get_name,
            .get_content = get_content,
            .get_attr = get_attr,
            .put_name = put_name,
            .put_content = put_content,
            .put_attr = put_attr,
            .names_of = names_of,
            .names_in = names_in,
            .get_place = get_place,
            .set_place = set_place,
            .who_is_at = who_is_at,
            .hidden_at = hidden_at,
            .cuts = cuts,
            .forget_name = forget_name,
            .forget_inode = forget_inode,
        };
        t->p = (struct replica){.r = &t->r, .node = 5 + i, .next_seq = 1, .next_id = 2};
    }
}

static void end(void)
{
    for (unsigned i = 0; i < 2; i++)
        memrecords_fini(&teller[i].m);
}

static const uint8_t *last(const char *path)
{
    return (const uint8_t *)path + strlen(path) - 1;
}

static struct name_rec name_at(struct teller *t, struct id128 parent, const char *name)
{
    struct id128 nid;
    struct name_rec n;

    if (t->m.r.who_is_at(&t->m, parent, (const uint8_t *)name, 1, &nid) < 0)
        fail_msg("nothing at %s", name);
    assert_int_equal(t->m.r.get_name(&t->m, nid, &n), 0);
    return n;
}

static struct id128 parent_of(struct teller *t, const char *path)
{
    struct id128 dir = RID_ROOT;

    for (; path[1]; path += 2)
        dir = name_at(t, dir, path).inode;
    return dir;
}

/* What the records put since the last time change, as the worker asks for it. */
static int look(struct teller *t)
{
    struct view_change *changes = NULL;
    size_t n, nseeds, seeded = t->m.seeded;
    bool armed = fault.armed;

    fault.armed = false;
    struct id128 *seeds = memrecords_seeds(&t->m, &nseeds);

    fault.armed = armed;
    int rc = view_changes(&t->r, seeds, nseeds, &changes, &n);

    fault.armed = false;
    free(seeds);
    for (size_t i = 0; i < n && rc == 0; i++)
        assert_int_equal(
            t->m.r.set_place(&t->m, changes[i].nid, &(struct place){.kind = PLACE_NONE}), 0);
    for (size_t i = 0; i < n && rc == 0; i++)
        assert_int_equal(t->m.r.set_place(&t->m, changes[i].nid, &changes[i].to), 0);
    if (rc == 0)
        free(changes);
    else
        t->m.seeded = seeded;
    fault.armed = armed;
    return rc;
}

static int write_content(struct teller *t, struct id128 rid, enum node_type type)
{
    struct content_rec c = {.rid = rid, .type = (uint8_t)type, .size = now};

    return replica_content(&t->p, now, 0, &c);
}

static int set_mode(struct teller *t, struct id128 rid, uint64_t mtime_hlc)
{
    struct attr_rec a = {.rid = rid, .mode = 0644, .mtime_hlc = mtime_hlc};

    return replica_attr(&t->p, now, 0, &a);
}

static int make(struct teller *t, const struct step *s, struct id128 parent)
{
    struct id128 rid = replica_new_id(&t->p), nid;
    int rc = write_content(t, rid, s->verb == MKDIR ? NODE_DIR : NODE_REG);

    if (rc == 0)
        rc = set_mode(t, rid, 0);
    return rc < 0 ? rc : replica_link(&t->p, now, 0, rid, parent, last(s->path), 1, &nid);
}

/* Both get all of the other's log, one record at a time, and look at once. */
static int carry(void)
{
    for (unsigned to = 0; to < 2; to++) {
        struct teller *a = &teller[!to], *b = &teller[to];
        struct record rec;
        enum merge_result result;
        bool skewed;
        int rc = 0;

        for (uint64_t pos = 1; pos <= a->m.nlog && rc == 0; pos++) {
            if (!memrecords_at(&a->m, pos, &rec) ||
                vvec_covers(&b->p.know, record_head(&rec)->stamp))
                continue;
            rc = replica_merge(&b->p, now, &rec, a->p.node, &result, &skewed);
        }
        if (rc == 0)
            rc = look(b);
        if (rc == 0)
            rc = replica_learn(&b->p, &a->p.know);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Whatever may be, as both have seen all. */
static int collect_all(struct teller *t)
{
    struct vvec stable = t->p.know;
    bool done;
    int rc = 0;

    for (size_t i = t->m.ncontents; i-- > 0 && rc == 0;)
        rc = collect_inode(&t->p, t->m.contents[i]->rec.rid, &stable, 0, &done);
    return rc;
}

/* All that it wrote is stamped anew, contents before names. */
static int renew_all(struct teller *t)
{
    const uint64_t old = t->p.node, end = t->m.nlog;
    struct record rec;
    int rc = 0;

    t->p.node = 500;
    for (int names = 0; names < 2; names++) {
        for (uint64_t pos = 1; pos <= end && rc == 0; pos++) {
            if (memrecords_at(&t->m, pos, &rec) && (rec.kind == REC_NAME) == names)
                rc = replica_renew(&t->p, old, 1, &rec);
        }
    }
    return rc;
}

static int take_all(struct teller *t)
{
    struct teller *from = &teller[t == &teller[0]];
    enum merge_result result;
    struct record rec;
    int rc = 0;

    for (uint64_t pos = 1; pos <= from->m.nlog && rc == 0; pos++) {
        if (memrecords_at(&from->m, pos, &rec) && record_head(&rec)->stamp.node != t->p.node)
            rc = replica_take(&t->p, &rec, from->p.node, &result);
    }
    return rc;
}

static int tell(const struct step *s, bool armed)
{
    struct teller *t = &teller[s->node];
    struct id128 parent = {0}, to_parent = {0}, id;
    struct name_rec n = {0};
    struct place place;
    int rc = 0;

    now += 1000;
    if (s->path)
        parent = parent_of(t, s->path);
    if (s->to)
        to_parent = parent_of(t, s->to);
    if (s->verb >= LINK && s->verb <= CANON)
        n = name_at(t, parent, (const char *)last(s->path));
    fault.count = 0;
    fault.armed = armed;
    switch (s->verb) {
    case MKDIR:
    case CREATE: rc = make(t, s, parent); break;
    case LINK: rc = replica_link(&t->p, now, 0, n.inode, to_parent, last(s->to), 1, &id); break;
    case RM: rc = replica_unlink(&t->p, now, parent, last(s->path), 1); break;
    case MV:
    case XCHG:
        rc = replica_rename(&t->p, now, parent, last(s->path), 1, to_parent, last(s->to), 1,
                            s->verb == XCHG);
        break;
    case EDIT: rc = write_content(t, n.inode, NODE_REG); break;
    case CHMOD: rc = set_mode(t, n.inode, 0); break;
    case TOUCH: rc = set_mode(t, n.inode, ATTR_MTIME_SET); break;
    case ANNOUNCE: rc = replica_restamp(&t->p, now, &n); break;
    case PLACE:
        rc = view_place(&t->r, n.nid, &place);
        assert_true(rc < 0 || place.kind == PLACE_AT);
        break;
    case CANON:
        rc = view_canon(&t->r, n.inode, &id);
        assert_true(rc < 0 || id_eq(id, n.inode));
        break;
    case SYNC: rc = carry(); break;
    case COLLECT: rc = collect_all(t); break;
    case RENEW: rc = renew_all(t); break;
    case TAKE: rc = take_all(t); break;
    }
    if (rc == 0 && s->verb < SYNC)
        rc = look(t);
    fault.armed = false;
    return rc;
}

/* Tell all up to step `upto`, with the fault at that one. */
static int retell(size_t upto)
{
    int rc = 0;

    begin();
    for (size_t i = 0; i <= upto; i++) {
        rc = tell(&story[i], i == upto);
        if (i < upto && rc < 0)
            fail_msg("step %zu: %d", i, rc);
    }
    return rc;
}

static void fail_all(bool allocations, int code)
{
    unsigned long faults = 0;

    fault.allocations = allocations;
    for (size_t i = 0; i < STEPS; i++) {
        for (fault.at = 1;; fault.at++) {
            int rc = retell(i);

            end();
            if (fault.count < fault.at) {
                assert_int_equal(rc, 0);
                break;
            }
            if (rc != code)
                fail_msg("step %zu, call %u: %d instead of %d", i, fault.at, rc, code);
            faults++;
        }
    }
    printf("    %lu calls failed, one at a time\n", faults);
}

static void records_fail(void **state)
{
    (void)state;
    fail_all(false, -EIO);
}

static void memory_fails(void **state)
{
    (void)state;
    fail_all(true, -ENOMEM);
}

/* And where the story ends when nothing fails. */
static void story_ends(void **state)
{
    static const char *const there[] = {"d", "d/a", "d/a/c", "g", "p/q"};

    (void)state;
    fault.at = 0;
    assert_int_equal(retell(STEPS - 1), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct teller *t = &teller[i];

        for (size_t k = 0; k < sizeof(there) / sizeof(there[0]); k++)
            (void)name_at(t, parent_of(t, there[k]), (const char *)last(there[k]));
    }
    for (size_t i = 0; i < teller[0].m.nnames; i++) { /* node 1 has not collected */
        struct place other;

        assert_int_equal(
            teller[1].m.r.get_place(&teller[1].m, teller[0].m.names[i]->rec.nid, &other), 0);
        assert_memory_equal(&teller[0].m.names[i]->place, &other, sizeof(other));
    }
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(story_ends),
        cmocka_unit_test(records_fail),
        cmocka_unit_test(memory_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
