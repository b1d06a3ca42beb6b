/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "flat.h"

#include "base/log.h"
#include "core/view.h"

#include <errno.h>
#include <stdlib.h>

#define ARENA_RECORDS 65536u

static struct flat_rec arena[ARENA_RECORDS];
static size_t arena_used;

size_t flat_arena(void)
{
    return arena_used;
}

void flat_arena_reset(size_t used)
{
    arena_used = used;
}

uint64_t flat_mix(uint64_t h, uint64_t v)
{
    h = (h + 0x632be59bd9b4e019ull) * 0x9e3779b97f4a7c15ull + v;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
    return h ^ (h >> 31);
}

static uint64_t mix_id(uint64_t h, struct id128 id)
{
    return flat_mix(flat_mix(h, id.node), id.n);
}

static uint64_t mix_vvec(uint64_t h, const struct vvec *v)
{
    h = flat_mix(h, v->n);
    for (unsigned i = 0; i < v->n; i++)
        h = flat_mix(flat_mix(h, v->e[i].node), v->e[i].seq);
    return h;
}

static uint64_t hash_record(const struct record *r)
{
    const struct rec_head *head = record_head(r);
    uint64_t h =
        flat_mix(flat_mix(flat_mix(r->kind, head->hlc), head->stamp.node), head->stamp.seq);
    uint64_t digest;

    h = mix_id(h, record_id(r));
    switch (r->kind) {
    case REC_NAME:
        h = mix_id(mix_id(h, r->name.inode), r->name.parent);
        h = flat_mix(h, r->name.name[0] | (uint64_t)r->name.alive << 8 |
                            (uint64_t)r->name.prev_len << 16 |
                            (uint64_t)(r->name.prev_len ? r->name.prev_name[0] : 0) << 24);
        h = mix_id(h, r->name.prev_parent);
        return mix_vvec(h, &r->name.seen);
    case REC_CONTENT:
        memcpy(&digest, r->content.digest, sizeof(digest));
        h = flat_mix(flat_mix(h, digest), r->content.type);
        h = flat_mix(flat_mix(h, r->content.base.node), r->content.base.seq);
        return mix_vvec(h, &r->content.vv);
    case REC_ATTR: break;
    }
    return flat_mix(h, r->attr.mode);
}

static uint64_t hash_place(struct id128 nid, const struct flat_place *p)
{
    uint64_t h = mix_id(p->kind, nid);

    if (p->kind == PLACE_NONE)
        return 0;
    return mix_id(flat_mix(h, p->name | (uint64_t)p->cut << 8), p->parent);
}

/* Index of the first name whose id is >= nid. */
static unsigned lower(const struct flat *f, struct id128 nid)
{
    unsigned i = 0;

    while (i < f->nnames && id_cmp(f->names[i]->rec.name.nid, nid) < 0)
        i++;
    return i;
}

static bool has_name(const struct flat *f, unsigned i, struct id128 nid)
{
    return i < f->nnames && id_eq(f->names[i]->rec.name.nid, nid);
}

/* Index in contents or attrs, or n. */
static unsigned find_inode(const struct flat_rec *const *list, unsigned n, struct id128 rid)
{
    unsigned i = 0;

    while (i < n && !id_eq(record_id(&list[i]->rec), rid))
        i++;
    return i;
}

static int get_name(void *ctx, struct id128 nid, struct name_rec *out)
{
    const struct flat *f = ctx;
    unsigned i = lower(f, nid);

    if (!has_name(f, i, nid))
        return -ENOENT;
    *out = f->names[i]->rec.name;
    return 0;
}

static int get_content(void *ctx, struct id128 rid, struct content_rec *out)
{
    const struct flat *f = ctx;
    unsigned i = find_inode(f->contents, f->ncontents, rid);

    if (i == f->ncontents)
        return -ENOENT;
    *out = f->contents[i]->rec.content;
    return 0;
}

static int get_attr(void *ctx, struct id128 rid, struct attr_rec *out)
{
    const struct flat *f = ctx;
    unsigned i = find_inode(f->attrs, f->nattrs, rid);

    if (i == f->nattrs)
        return -ENOENT;
    *out = f->attrs[i]->rec.attr;
    return 0;
}

/* A new version from the arena, hashed, at the tail of the log, in `slot`. */
static void put(struct flat *f, const struct flat_rec **slot, const struct flat_rec *v)
{
    farm_assert(f->nlog < FLAT_LOG);
    if (*slot)
        f->set -= (*slot)->hash;
    *slot = v;
    f->set += v->hash;
    f->log[f->nlog++] = v;
}

static struct flat_rec *new_version(void)
{
    farm_assert(arena_used < ARENA_RECORDS);
    return &arena[arena_used++];
}

static int put_name(void *ctx, const struct name_rec *n, uint64_t source)
{
    struct flat *f = ctx;
    struct flat_rec *v = new_version();
    unsigned i = lower(f, n->nid);

    (void)source;
    v->rec.kind = REC_NAME;
    v->rec.name = *n;
    v->hash = hash_record(&v->rec);
    if (!has_name(f, i, n->nid)) {
        farm_assert(f->nnames < FLAT_NAMES);
        memmove(&f->names[i + 1], &f->names[i], (f->nnames - i) * sizeof(f->names[0]));
        memmove(&f->places[i + 1], &f->places[i], (f->nnames - i) * sizeof(f->places[0]));
        f->names[i] = NULL;
        f->places[i] = (struct flat_place){.kind = PLACE_NONE};
        f->nnames++;
    }
    put(f, &f->names[i], v);
    return 0;
}

static int put_inode(struct flat *f, const struct flat_rec **list, unsigned *n, struct flat_rec *v)
{
    unsigned i = find_inode(list, *n, record_id(&v->rec));

    v->hash = hash_record(&v->rec);
    if (i == *n) {
        farm_assert(*n < FLAT_INODES);
        list[(*n)++] = NULL;
    }
    put(f, &list[i], v);
    return 0;
}

static int put_content(void *ctx, const struct content_rec *c, uint64_t source)
{
    struct flat *f = ctx;
    struct flat_rec *v = new_version();

    (void)source;
    v->rec.kind = REC_CONTENT;
    v->rec.content = *c;
    return put_inode(f, f->contents, &f->ncontents, v);
}

static int put_attr(void *ctx, const struct attr_rec *a, uint64_t source)
{
    struct flat *f = ctx;
    struct flat_rec *v = new_version();

    (void)source;
    v->rec.kind = REC_ATTR;
    v->rec.attr = *a;
    return put_inode(f, f->attrs, &f->nattrs, v);
}

static int names_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                    name_visit visit, void *arg)
{
    const struct flat *f = ctx;
    int rc = 0;

    farm_assert(len == 1);
    for (unsigned i = 0; i < f->nnames && rc == 0; i++) {
        const struct name_rec *n = &f->names[i]->rec.name;

        if (id_eq(n->parent, parent) && n->name[0] == name[0])
            rc = visit(arg, n);
    }
    return rc;
}

static int names_of(void *ctx, struct id128 rid, name_visit visit, void *arg)
{
    const struct flat *f = ctx;
    int rc = 0;

    for (unsigned i = 0; i < f->nnames && rc == 0; i++) {
        if (id_eq(f->names[i]->rec.name.inode, rid))
            rc = visit(arg, &f->names[i]->rec.name);
    }
    return rc;
}

static int names_in(void *ctx, struct id128 parent, name_visit visit, void *arg)
{
    const struct flat *f = ctx;
    int rc = 0;

    for (unsigned i = 0; i < f->nnames && rc == 0; i++) {
        if (id_eq(f->names[i]->rec.name.parent, parent))
            rc = visit(arg, &f->names[i]->rec.name);
    }
    return rc;
}

static int get_place(void *ctx, struct id128 nid, struct place *out)
{
    const struct flat *f = ctx;
    unsigned i = lower(f, nid);

    *out = (struct place){.kind = PLACE_NONE};
    if (!has_name(f, i, nid) || f->places[i].kind == PLACE_NONE)
        return 0;
    out->kind = f->places[i].kind;
    out->cut = f->places[i].cut;
    out->parent = f->places[i].parent;
    out->name_len = 1;
    out->name[0] = f->places[i].name;
    return 0;
}

static bool is_at(const struct flat_place *p, enum place_kind kind, struct id128 parent,
                  uint8_t name)
{
    return p->kind == kind && p->name == name && id_eq(p->parent, parent);
}

static int who_is_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                     struct id128 *nid)
{
    const struct flat *f = ctx;

    farm_assert(len == 1);
    for (unsigned i = 0; i < f->nnames; i++) {
        if (is_at(&f->places[i], PLACE_AT, parent, name[0])) {
            *nid = f->names[i]->rec.name.nid;
            return 0;
        }
    }
    return -ENOENT;
}

static int set_place(void *ctx, struct id128 nid, const struct place *p)
{
    struct flat *f = ctx;
    unsigned i = lower(f, nid);
    struct id128 other;

    farm_assert(has_name(f, i, nid));
    if (p->kind == PLACE_AT && who_is_at(f, p->parent, p->name, p->name_len, &other) == 0)
        farm_assert(id_eq(other, nid));
    f->where -= hash_place(nid, &f->places[i]);
    f->places[i] = (struct flat_place){.kind = (uint8_t)p->kind};
    if (p->kind != PLACE_NONE)
        f->places[i] = (struct flat_place){
            .parent = p->parent, .kind = (uint8_t)p->kind, .name = p->name[0], .cut = p->cut};
    f->where += hash_place(nid, &f->places[i]);
    return 0;
}

static int hidden_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                     id_visit visit, void *arg)
{
    const struct flat *f = ctx;
    int rc = 0;

    farm_assert(len == 1);
    for (unsigned i = 0; i < f->nnames && rc == 0; i++) {
        if (is_at(&f->places[i], PLACE_HIDDEN, parent, name[0]))
            rc = visit(arg, f->names[i]->rec.name.nid);
    }
    return rc;
}

static int cuts(void *ctx, id_visit visit, void *arg)
{
    const struct flat *f = ctx;
    int rc = 0;

    for (unsigned i = 0; i < f->nnames && rc == 0; i++) {
        if (f->places[i].kind != PLACE_NONE && f->places[i].cut)
            rc = visit(arg, f->names[i]->rec.name.nid);
    }
    return rc;
}

static int forget_name(void *ctx, struct id128 nid)
{
    struct flat *f = ctx;
    unsigned i = lower(f, nid);
    size_t after = f->nnames - i - 1;

    farm_assert(has_name(f, i, nid));
    f->set -= f->names[i]->hash;
    f->where -= hash_place(nid, &f->places[i]);
    memmove(&f->names[i], &f->names[i + 1], after * sizeof(f->names[0]));
    memmove(&f->places[i], &f->places[i + 1], after * sizeof(f->places[0]));
    f->nnames--;
    return 0;
}

static void take_out(struct flat *f, const struct flat_rec **list, unsigned *n, struct id128 rid)
{
    unsigned i = find_inode(list, *n, rid);

    if (i == *n)
        return;
    f->set -= list[i]->hash;
    memmove(&list[i], &list[i + 1], (*n - i - 1) * sizeof(list[0]));
    --*n;
}

static int forget_inode(void *ctx, struct id128 rid)
{
    struct flat *f = ctx;

    take_out(f, f->contents, &f->ncontents, rid);
    take_out(f, f->attrs, &f->nattrs, rid);
    return 0;
}

void flat_init(struct flat *f)
{
    *f = (struct flat){
        .r =
            {
                .ctx = f,
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

void flat_copy(struct flat *to, const struct flat *from)
{
    memcpy(to, from, offsetof(struct flat, log));
    memcpy(to->log, from->log, from->nlog * sizeof(from->log[0]));
    to->r.ctx = to;
}

const struct flat_rec *flat_held(const struct flat *f, const struct record *rec)
{
    unsigned i;

    switch (rec->kind) {
    case REC_NAME:
        i = lower(f, rec->name.nid);
        return has_name(f, i, rec->name.nid) ? f->names[i] : NULL;
    case REC_CONTENT:
        i = find_inode(f->contents, f->ncontents, rec->content.rid);
        return i < f->ncontents ? f->contents[i] : NULL;
    case REC_ATTR: break;
    }
    i = find_inode(f->attrs, f->nattrs, rec->attr.rid);
    return i < f->nattrs ? f->attrs[i] : NULL;
}

bool flat_live(const struct flat *f, unsigned i)
{
    return flat_held(f, &f->log[i]->rec) == f->log[i];
}

void flat_log_clear(struct flat *f)
{
    f->nlog = f->seeded = 0;
}

struct seeds {
    struct id128 ids[FLAT_LOG];
    size_t n;
};

static int add_seed(void *arg, const struct name_rec *n)
{
    struct seeds *s = arg;

    farm_assert(s->n < FLAT_LOG);
    s->ids[s->n++] = n->nid;
    return 0;
}

struct view_change *flat_update(struct flat *f, size_t *n)
{
    struct seeds s;
    struct view_change *changes = NULL;
    const struct place nowhere = {.kind = PLACE_NONE};

    s.n = 0;
    for (; f->seeded < f->nlog; f->seeded++) {
        const struct record *rec = &f->log[f->seeded]->rec;

        if (rec->kind == REC_NAME && flat_held(f, rec))
            add_seed(&s, &rec->name);
        else if (rec->kind == REC_CONTENT)
            names_of(f, rec->content.rid, add_seed, &s);
    }
    farm_assert(view_changes(&f->r, s.ids, s.n, &changes, n) == 0);
    for (size_t i = 0; i < *n; i++)
        set_place(f, changes[i].nid, &nowhere);
    for (size_t i = 0; i < *n; i++)
        set_place(f, changes[i].nid, &changes[i].to);
    return changes;
}
