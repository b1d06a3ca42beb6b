/* SPDX-License-Identifier: GPL-3.0-or-later */
/* An index in a directory of its own, and things to put into it: shared by the tests of the index.
 */
#ifndef TEST_INDEX_FIXTURE_H
#define TEST_INDEX_FIXTURE_H

#include "store/index.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#define MAP_SIZE (1ull << 30)
#define US 7ull /* ourselves */

struct fix {
    char dir[32];
    struct index *ix;
    struct records r;
};

static inline void ok(int e)
{
    assert_int_equal(e, 0);
}

static inline void fix_open(struct fix *f, bool want_fresh)
{
    bool fresh = !want_fresh;
    ok(index_open(f->dir, MAP_SIZE, &f->ix, &fresh));
    assert_int_equal(fresh, want_fresh);
    index_records(f->ix, &f->r);
}

static inline int setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    strcpy(f->dir, "/tmp/farm-index-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    fix_open(f, true);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fix *f = *state;
    char cmd[64];

    index_close(f->ix);
    snprintf(cmd, sizeof cmd, "rm -rf %s", f->dir);
    int r = system(cmd);
    free(f);
    return r;
}

static inline struct id128 id(uint64_t n)
{
    return (struct id128){US, n};
}

static inline struct stamp st(uint64_t seq)
{
    return (struct stamp){US, seq};
}

static inline struct name_rec a_name(uint64_t nid, uint64_t rid, struct id128 parent,
                                     const char *name)
{
    struct name_rec n = {.h = {{US, nid + 1}, nid}, .nid = id(nid), .inode = id(rid)};
    n.parent = parent;
    n.alive = true;
    n.name_len = (uint8_t)strlen(name);
    memcpy(n.name, name, n.name_len);
    return n;
}

static inline struct content_rec a_file(uint64_t rid, uint64_t size)
{
    struct content_rec c = {.h = {{US, rid + 1}, 5}, .rid = id(rid), .type = NODE_REG};
    c.size = size;
    return c;
}

static inline struct attr_rec an_attr(uint64_t rid, uint32_t mode)
{
    struct attr_rec a = {.h = {{US, rid + 1}, 5}, .rid = id(rid), .mode = mode};
    return a;
}

static inline struct index_node a_node(uint64_t rid, uint64_t lid, uint8_t handle)
{
    struct index_node n = {.rid = id(rid), .lid = lid, .type = NODE_REG};
    n.handle = (struct handle){.len = 8, .type = 1, .bytes = {handle, 2, 3}};
    return n;
}

static inline void put_meta(struct fix *f, uint64_t clean)
{
    struct index_meta m = {.folder_id = 1, .node = US, .next_seq = 10, .clean = (uint8_t)clean};
    m.log_head = index_log_head(f->ix);
    m.know.n = 1;
    m.know.e[0] = st(9);
    ok(index_put_meta(f->ix, &m));
}

static inline void put_many(struct fix *f, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++) {
        char name[32];
        snprintf(name, sizeof name, "file%llu", (unsigned long long)i);
        struct name_rec n = a_name(i, i, RID_ROOT, name);
        struct content_rec c = a_file(i, i);
        ok(f->r.put_name(f->r.ctx, &n, US));
        ok(f->r.put_content(f->r.ctx, &c, US));
    }
}

#endif
