/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "memrecords.h"

#include "base/log.h"
#include "core/view.h"

#include <errno.h>
#include <stdlib.h>

static void *must(void *p)
{
    farm_assert(p != NULL);
    return p;
}

static struct mem_name *find_name(const struct memrecords *m, struct id128 nid, size_t *where)
{
    size_t lo = 0, hi = m->nnames;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (id_cmp(m->names[mid]->rec.nid, nid) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (where)
        *where = lo;
    return lo < m->nnames && id_eq(m->names[lo]->rec.nid, nid) ? m->names[lo] : NULL;
}

static struct mem_content *find_content(const struct memrecords *m, struct id128 rid)
{
    for (size_t i = 0; i < m->ncontents; i++) {
        if (id_eq(m->contents[i]->rec.rid, rid))
            return m->contents[i];
    }
    return NULL;
}

static struct mem_attr *find_attr(const struct memrecords *m, struct id128 rid)
{
    for (size_t i = 0; i < m->nattrs; i++) {
        if (id_eq(m->attrs[i]->rec.rid, rid))
            return m->attrs[i];
    }
    return NULL;
}

static int get_name(void *ctx, struct id128 nid, struct name_rec *out)
{
    struct memrecords *m = ctx;
    struct mem_name *n = find_name(m, nid, NULL);

    m->lookups++;
    if (n)
        *out = n->rec;
    return n ? 0 : -ENOENT;
}

static int get_content(void *ctx, struct id128 rid, struct content_rec *out)
{
    struct memrecords *m = ctx;
    struct mem_content *c = find_content(m, rid);

    m->lookups++;
    if (c)
        *out = c->rec;
    return c ? 0 : -ENOENT;
}

static int get_attr(void *ctx, struct id128 rid, struct attr_rec *out)
{
    struct memrecords *m = ctx;
    struct mem_attr *a = find_attr(m, rid);

    m->lookups++;
    if (a)
        *out = a->rec;
    return a ? 0 : -ENOENT;
}

static uint64_t log_put(struct memrecords *m, enum rec_kind kind, struct id128 id, uint64_t source)
{
    if ((m->nlog & (m->nlog - 1)) == 0)
        m->log = must(realloc(m->log, (m->nlog ? m->nlog * 2 : 1) * sizeof(*m->log)));
    m->log[m->nlog++] = (struct mem_log){kind, id, source};
    return m->nlog;
}

/* An array of pointers with one more, new and zeroed, element at index i. */
static void *insert(void *array, size_t *n, size_t i, void *item)
{
    void **p = must(realloc(array, (*n + 1) * sizeof(void *)));

    memmove(p + i + 1, p + i, (*n - i) * sizeof(void *));
    p[i] = item;
    ++*n;
    return p;
}

static int put_name(void *ctx, const struct name_rec *rec, uint64_t source)
{
    struct memrecords *m = ctx;
    size_t i;
    struct mem_name *n = find_name(m, rec->nid, &i);

    if (!n) {
        n = must(calloc(1, sizeof(*n)));
        m->names = insert(m->names, &m->nnames, i, n);
    }
    n->rec = *rec;
    n->pos = log_put(m, REC_NAME, rec->nid, source);
    return 0;
}

static const uint8_t *copy_bytes(const uint8_t *p, size_t n)
{
    return n ? memcpy(must(malloc(n)), p, n) : NULL;
}

static int put_content(void *ctx, const struct content_rec *rec, uint64_t source)
{
    struct memrecords *m = ctx;
    struct mem_content *c = find_content(m, rec->rid);
    const uint8_t *target = copy_bytes(rec->target, rec->target_len);

    if (!c) {
        c = must(calloc(1, sizeof(*c)));
        m->contents = insert(m->contents, &m->ncontents, m->ncontents, c);
    }
    free((void *)(uintptr_t)c->rec.target);
    c->rec = *rec;
    c->rec.target = target;
    c->pos = log_put(m, REC_CONTENT, rec->rid, source);
    return 0;
}

static int put_attr(void *ctx, const struct attr_rec *rec, uint64_t source)
{
    struct memrecords *m = ctx;
    struct mem_attr *a = find_attr(m, rec->rid);
    const uint8_t *xattrs = copy_bytes(rec->xattrs, rec->xattrs_len);

    if (!a) {
        a = must(calloc(1, sizeof(*a)));
        m->attrs = insert(m->attrs, &m->nattrs, m->nattrs, a);
    }
    free((void *)(uintptr_t)a->rec.xattrs);
    a->rec = *rec;
    a->rec.xattrs = xattrs;
    a->pos = log_put(m, REC_ATTR, rec->rid, source);
    return 0;
}

static bool same_name(const uint8_t *a, uint8_t alen, const uint8_t *b, uint8_t blen)
{
    return alen == blen && memcmp(a, b, alen) == 0;
}

static int visit(struct memrecords *m, const struct mem_name *n, name_visit f, void *arg)
{
    m->lookups++;
    return f(arg, &n->rec);
}

static int names_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len, name_visit f,
                    void *arg)
{
    struct memrecords *m = ctx;
    int rc = 0;

    m->lookups++;
    for (size_t i = 0; i < m->nnames && rc == 0; i++) {
        const struct name_rec *n = &m->names[i]->rec;

        if (id_eq(n->parent, parent) && same_name(n->name, n->name_len, name, len))
            rc = visit(m, m->names[i], f, arg);
    }
    return rc;
}

static int names_of(void *ctx, struct id128 rid, name_visit f, void *arg)
{
    struct memrecords *m = ctx;
    int rc = 0;

    m->lookups++;
    for (size_t i = 0; i < m->nnames && rc == 0; i++) {
        if (id_eq(m->names[i]->rec.inode, rid))
            rc = visit(m, m->names[i], f, arg);
    }
    return rc;
}

static int names_in(void *ctx, struct id128 parent, name_visit f, void *arg)
{
    struct memrecords *m = ctx;
    int rc = 0;

    m->lookups++;
    for (size_t i = 0; i < m->nnames && rc == 0; i++) {
        if (id_eq(m->names[i]->rec.parent, parent))
            rc = visit(m, m->names[i], f, arg);
    }
    return rc;
}

static int get_place(void *ctx, struct id128 nid, struct place *out)
{
    struct memrecords *m = ctx;
    struct mem_name *n = find_name(m, nid, NULL);

    m->lookups++;
    *out = n ? n->place : (struct place){.kind = PLACE_NONE};
    return 0;
}

static bool is_at(const struct place *p, enum place_kind kind, struct id128 parent,
                  const uint8_t *name, uint8_t len)
{
    return p->kind == kind && id_eq(p->parent, parent) &&
           same_name(p->name, p->name_len, name, len);
}

static int who_is_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                     struct id128 *nid)
{
    struct memrecords *m = ctx;

    m->lookups++;
    for (size_t i = 0; i < m->nnames; i++) {
        if (is_at(&m->names[i]->place, PLACE_AT, parent, name, len)) {
            *nid = m->names[i]->rec.nid;
            return 0;
        }
    }
    return -ENOENT;
}

static int set_place(void *ctx, struct id128 nid, const struct place *p)
{
    struct memrecords *m = ctx;
    struct mem_name *n = find_name(m, nid, NULL);
    struct id128 other;

    farm_assert(n != NULL);
    if (p->kind == PLACE_AT && who_is_at(m, p->parent, p->name, p->name_len, &other) == 0)
        farm_assert(id_eq(other, nid));
    n->place = *p;
    return 0;
}

static int hidden_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len, id_visit f,
                     void *arg)
{
    struct memrecords *m = ctx;
    int rc = 0;

    m->lookups++;
    for (size_t i = 0; i < m->nnames && rc == 0; i++) {
        if (is_at(&m->names[i]->place, PLACE_HIDDEN, parent, name, len)) {
            m->lookups++;
            rc = f(arg, m->names[i]->rec.nid);
        }
    }
    return rc;
}

static int cuts(void *ctx, id_visit f, void *arg)
{
    struct memrecords *m = ctx;
    int rc = 0;

    m->lookups++;
    for (size_t i = 0; i < m->nnames && rc == 0; i++) {
        if (m->names[i]->place.kind != PLACE_NONE && m->names[i]->place.cut)
            rc = f(arg, m->names[i]->rec.nid);
    }
    return rc;
}

static void take_out(void *array, size_t *n, size_t i)
{
    void **p = array;

    memmove(p + i, p + i + 1, (--*n - i) * sizeof(void *));
}

static int forget_name(void *ctx, struct id128 nid)
{
    struct memrecords *m = ctx;
    size_t i;
    struct mem_name *n = find_name(m, nid, &i);

    if (!n)
        return -ENOENT;
    take_out(m->names, &m->nnames, i);
    free(n);
    return 0;
}

static int forget_inode(void *ctx, struct id128 rid)
{
    struct memrecords *m = ctx;

    for (size_t i = 0; i < m->ncontents; i++) {
        struct mem_content *c = m->contents[i];

        if (!id_eq(c->rec.rid, rid))
            continue;
        take_out(m->contents, &m->ncontents, i);
        free((void *)(uintptr_t)c->rec.target);
        free(c);
    }
    for (size_t i = 0; i < m->nattrs; i++) {
        struct mem_attr *a = m->attrs[i];

        if (!id_eq(a->rec.rid, rid))
            continue;
        take_out(m->attrs, &m->nattrs, i);
        free((void *)(uintptr_t)a->rec.xattrs);
        free(a);
    }
    return 0;
}

void memrecords_init(struct memrecords *m)
{
    *m = (struct memrecords){
        .r =
            {
                .ctx = m,
                .get_name = get_name,
                .get_content = get_content,
                .get_attr = get_attr,
                .put_name = put_name,
                .put_content = put_content,
                .put_attr = put_attr,
                .names_at = names_at,
                .names_of = names_of,
                .names_in = names_in,
                .get_place = get_place,
                .set_place = set_place,
                .who_is_at = who_is_at,
                .hidden_at = hidden_at,
                .cuts = cuts,
                .forget_name = forget_name,
                .forget_inode = forget_inode,
            },
    };
}

void memrecords_fini(struct memrecords *m)
{
    for (size_t i = 0; i < m->nnames; i++)
        free(m->names[i]);
    for (size_t i = 0; i < m->ncontents; i++) {
        free((void *)(uintptr_t)m->contents[i]->rec.target);
        free(m->contents[i]);
    }
    for (size_t i = 0; i < m->nattrs; i++) {
        free((void *)(uintptr_t)m->attrs[i]->rec.xattrs);
        free(m->attrs[i]);
    }
    free(m->names);
    free(m->contents);
    free(m->attrs);
    free(m->log);
}

bool memrecords_at(const struct memrecords *m, uint64_t pos, struct record *out)
{
    const struct mem_log *l = &m->log[pos - 1];
    const struct mem_name *n;
    const struct mem_content *c;
    const struct mem_attr *a;

    out->kind = l->kind;
    switch (l->kind) {
    case REC_NAME:
        n = find_name(m, l->id, NULL);
        if (!n)
            return false;
        out->name = n->rec;
        return n->pos == pos;
    case REC_CONTENT:
        c = find_content(m, l->id);
        if (!c)
            return false;
        out->content = c->rec;
        return c->pos == pos;
    case REC_ATTR: break;
    }
    a = find_attr(m, l->id);
    if (!a)
        return false;
    out->attr = a->rec;
    return a->pos == pos;
}

struct seeds {
    struct id128 *ids;
    size_t n;
};

static int add_seed(void *arg, const struct name_rec *n)
{
    struct seeds *s = arg;

    s->ids = must(realloc(s->ids, (s->n + 1) * sizeof(*s->ids)));
    s->ids[s->n++] = n->nid;
    return 0;
}

struct id128 *memrecords_seeds(struct memrecords *m, size_t *n)
{
    struct seeds s = {0};

    for (; m->seeded < m->nlog; m->seeded++) {
        const struct mem_log *l = &m->log[m->seeded];

        const struct mem_name *name = l->kind == REC_NAME ? find_name(m, l->id, NULL) : NULL;

        if (name)
            add_seed(&s, &name->rec);
        else if (l->kind == REC_CONTENT)
            names_of(m, l->id, add_seed, &s);
    }
    *n = s.n;
    return s.ids;
}

struct view_change *memrecords_update(struct memrecords *m, size_t *n)
{
    size_t nseeds;
    struct id128 *seeds = memrecords_seeds(m, &nseeds);
    struct view_change *changes = NULL;
    const struct place nowhere = {.kind = PLACE_NONE};

    farm_assert(view_changes(&m->r, seeds, nseeds, &changes, n) == 0);
    free(seeds);
    for (size_t i = 0; i < *n; i++)
        set_place(m, changes[i].nid, &nowhere);
    for (size_t i = 0; i < *n; i++)
        set_place(m, changes[i].nid, &changes[i].to);
    return changes;
}
