/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The receiving loop: frames in, batches out. */
#include "ship/receiver_i.h"

#include "base/digest.h"
#include "wire/frame.h"

#include <errno.h>
#include <stdlib.h>

/* ---- what the core has not applied yet ---- */

static uint32_t handed_bit(struct id128 rid)
{
    return (uint32_t)(digest_guard(&rid, sizeof rid) % HANDED_BITS);
}

static bool is_handed(const struct receiver *r, struct id128 rid)
{
    uint32_t bit = handed_bit(rid);
    return r->handed[bit / 8] >> (bit % 8) & 1;
}

static void set_handed(struct receiver *r, struct id128 rid)
{
    uint32_t bit = handed_bit(rid);
    r->handed[bit / 8] |= (uint8_t)(1u << (bit % 8));
    r->nhanded++;
}

int receiver_drain(struct receiver *r)
{
    int e = r->env->drain(r->env->session);

    if (!e) {
        memset(r->handed, 0, sizeof r->handed);
        r->nhanded = 0;
    }
    return e;
}

/* ---- transfers ---- */

static void transfer_drop(struct receiver *r, struct transfer *t)
{
    assembly_drop(r, &t->a);
    t->id = 0;
}

static struct transfer *transfer_find(struct receiver *r, uint64_t id)
{
    for (size_t i = 0; i < RECEIVER_TRANSFERS; i++)
        if (r->transfers[i].id == id)
            return &r->transfers[i];
    return NULL;
}

/* A record settles what was being sent for its inode: other transfers were given up. */
static void transfers_settle(struct receiver *r, struct id128 rid, uint64_t but)
{
    for (size_t i = 0; i < RECEIVER_TRANSFERS; i++) {
        struct transfer *t = &r->transfers[i];
        if (t->id && t->id != but && id_eq(t->a.rid, rid))
            transfer_drop(r, t);
    }
}

static int on_data(struct receiver *r, const void *payload, uint32_t len)
{
    struct msg_data m;

    int e = msg_data_get(payload, len, &m);
    if (e)
        return e;
    if (m.transfer == 0)
        return FARM_EPROTO;
    struct transfer *t = transfer_find(r, m.transfer);
    if (!t) {
        t = transfer_find(r, 0);
        if (!t)
            return FARM_EPROTO;
        e = assembly_begin(r, m.rid, m.size, m.base, &t->a);
        if (e)
            return e;
        t->id = m.transfer;
        t->base = m.base;
    }
    if (!id_eq(t->a.rid, m.rid) || t->a.size != m.size || !stamp_eq(t->base, m.base))
        return FARM_EPROTO;
    return assembly_write(r, &t->a, m.off, m.bytes, m.len);
}

/* ---- items ---- */

/* Does the index say that we hold just this content? */
static int looks_same(struct receiver *r, const struct content_rec *c, bool *same)
{
    struct index_node node;
    struct record ours;

    int e = index_reader_begin(r->reader);
    if (e)
        return e;
    *same = false;
    e = index_reader_record(r->reader, REC_CONTENT, c->rid, &ours);
    if (!e)
        e = index_reader_node(r->reader, c->rid, &node);
    if (!e)
        *same = ours.content.type == NODE_REG && ours.content.size == c->size &&
                memcmp(ours.content.digest, c->digest, DIGEST_LEN) == 0 &&
                !(node.flags & (NODE_NODATA | NODE_DAMAGED));
    index_reader_end(r->reader);
    return e == -ENOENT ? 0 : e;
}

/* What it says counts when nothing handed over for this inode is still to be applied. */
static int is_same(struct receiver *r, const struct content_rec *c, bool *same)
{
    int e = looks_same(r, c, same);

    if (e || !*same || !is_handed(r, c->rid))
        return e;
    e = receiver_drain(r);
    return e ? e : looks_same(r, c, same);
}

static int take_ranges(struct receiver *r, const struct msg_item *in, struct batch_item *it)
{
    const struct content_rec *c = &it->rec.content;
    struct assembly a;
    const uint8_t *p;
    struct cur cur;
    uint32_t len;
    uint64_t off;
    int more;

    int e = assembly_begin(r, c->rid, c->size, in->base, &a);
    if (e)
        return e;
    cur_init(&cur, in->ranges, in->ranges_len);
    while (!e && (more = msg_range_next(&cur, &off, &p, &len)))
        e = more < 0 ? more : assembly_write(r, &a, off, p, len);
    if (!e)
        return assembly_end(r, &a, it);
    assembly_drop(r, &a);
    return e;
}

static int take_whole(struct receiver *r, const struct msg_item *in, struct batch_item *it)
{
    const struct content_rec *c = &it->rec.content;
    struct assembly a;

    if (in->whole_len <= DIGEST_BLOCK)
        return assemble_small(r, in->whole, in->whole_len, it);
    int e = assembly_begin(r, c->rid, c->size, (struct stamp){0, 0}, &a);
    if (e)
        return e;
    e = assembly_write(r, &a, 0, in->whole, in->whole_len);
    if (!e)
        return assembly_end(r, &a, it);
    assembly_drop(r, &a);
    return e;
}

static int take_staged(struct receiver *r, const struct msg_item *in, struct batch_item *it)
{
    struct transfer *t = in->transfer ? transfer_find(r, in->transfer) : NULL;

    if (!t)
        return FARM_EPROTO;
    int e = assembly_end(r, &t->a, it);
    t->id = 0;
    return e;
}

static int take_file(struct receiver *r, const struct msg_item *in, struct batch_item *it)
{
    struct id128 rid = it->rec.content.rid;
    bool same;

    int e = is_same(r, &it->rec.content, &same);
    if (e)
        return e;
    transfers_settle(r, rid, !same && in->data == DATA_STAGED ? in->transfer : 0);
    set_handed(r, rid);
    if (same) {
        it->data = ITEM_SAME;
        return 0;
    }
    switch (in->data) {
    case DATA_NONE: break;
    case DATA_WHOLE: return take_whole(r, in, it);
    case DATA_RANGES: return take_ranges(r, in, it);
    case DATA_STAGED: return take_staged(r, in, it);
    }
    return 0;
}

/* ---- batches ---- */

static int grow(struct batch *b, size_t *size)
{
    if (b->n == RECEIVER_ITEMS)
        return FARM_EPROTO;
    if (b->n < *size)
        return 0;
    size_t more = *size ? *size * 2 : 8;
    struct batch_item *items = realloc(b->items, more * sizeof *items);
    if (!items)
        return -ENOMEM;
    b->items = items;
    *size = more;
    return 0;
}

static int add_item(struct receiver *r, const struct msg_item *in, struct batch *b)
{
    struct batch_item *it = &b->items[b->n++];

    it->rec = in->rec;
    it->data = ITEM_NONE;
    it->staged[0] = 0;
    it->leaves = NULL;
    it->nleaves = 0;
    it->handle = (struct handle){.len = 0};
    if (in->rec.kind != REC_CONTENT || in->rec.content.type != NODE_REG)
        return 0;
    return take_file(r, in, it);
}

static int fill(struct receiver *r, struct msg_records *m, struct batch *b)
{
    struct msg_item in;
    size_t size = 0;
    int more, e = 0;

    while (!e && (more = msg_item_next(m, &in))) {
        e = more < 0 ? more : grow(b, &size);
        if (!e)
            e = add_item(r, &in, b);
    }
    return e;
}

/* Takes the payload in every case. */
static int on_records(struct receiver *r, void *payload, uint32_t len)
{
    struct batch *b = calloc(1, sizeof *b);
    struct msg_records m;

    if (!b) {
        free(payload);
        return -ENOMEM;
    }
    b->payload = payload;
    b->session = r->env->session;
    int e = msg_records_get(payload, len, &m);
    if (!e && r->nhanded > HANDED_MAX)
        e = receiver_drain(r);
    if (!e) {
        b->pos = m.pos;
        b->boundary = m.flags & RECORDS_BOUNDARY;
        b->resent = m.flags & RECORDS_RESENT;
        b->repair = m.flags & RECORDS_REPAIR;
        e = fill(r, &m, b);
    }
    if (!e)
        e = r->env->on_batch(r->env->session, b);
    if (e)
        batch_free(b, r->env->staging);
    return e;
}

/* ---- the loop ---- */

static int on_small(struct receiver *r, uint8_t type, const void *payload, uint32_t len)
{
    const struct receiver_env *env = r->env;
    union {
        struct msg_ack ack;
        struct msg_want want;
        struct msg_state state;
        struct msg_sum sum;
    } m;
    int e;

    switch (type) {
    case FRAME_DATA: return on_data(r, payload, len);
    case FRAME_ACK:
        e = msg_ack_get(payload, len, &m.ack);
        return e ? e : env->on_ack(env->session, &m.ack);
    case FRAME_KNOW:
        e = msg_ack_get(payload, len, &m.ack);
        return e ? e : env->on_know(env->session, &m.ack);
    case FRAME_SUM:
        e = msg_sum_get(payload, len, &m.sum);
        return e ? e : env->on_sum(env->session, &m.sum);
    case FRAME_WANT:
        e = msg_want_get(payload, len, &m.want);
        return e ? e : env->on_want(env->session, &m.want);
    case FRAME_STATE:
        e = msg_state_get(payload, len, &m.state);
        return e ? e : env->on_state(env->session, &m.state);
    default: return FARM_EPROTO;
    }
}

static int serve(struct receiver *r)
{
    for (;;) {
        void *payload;
        uint32_t len;
        uint8_t type;
        int e = receiver_read_frame(r->fd, &type, &payload, &len);
        if (e || !type)
            return e;
        if (type == FRAME_RECORDS) {
            e = on_records(r, payload, len);
        } else {
            e = on_small(r, type, payload, len);
            free(payload);
        }
        if (e)
            return e;
    }
}

int receiver_run(int fd, const struct receiver_env *env)
{
    struct receiver *r = calloc(1, sizeof *r);

    if (!r)
        return -ENOMEM;
    r->env = env;
    r->fd = fd;
    int e = index_reader_new(env->index, &r->reader);
    if (!e) {
        e = serve(r);
        for (size_t i = 0; i < RECEIVER_TRANSFERS; i++)
            if (r->transfers[i].id)
                transfer_drop(r, &r->transfers[i]);
        index_reader_free(r->reader);
    }
    free(r);
    return e;
}
