/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "wire/msg.h"

#include "base/config.h"
#include "base/log.h"
#include "wire/frame.h"
#include "wire/record.h"

#include <endian.h>
#include <string.h>

#define PING_LEN 8u

static struct id128 get_id(struct cur *c)
{
    struct id128 id;
    id.node = cur_u64(c);
    id.n = cur_u64(c);
    return id;
}

static struct stamp get_stamp(struct cur *c)
{
    struct stamp s;
    s.node = cur_u64(c);
    s.seq = cur_u64(c);
    return s;
}

static void put_stamp(struct buf *b, struct stamp s)
{
    buf_put_u64(b, s.node);
    buf_put_u64(b, s.seq);
}

static void fail_unless(struct cur *c, bool ok)
{
    if (!ok)
        c->err = FARM_ECORRUPT;
}

/* Names of nodes and folders: u8 length, then what config accepts. */
static void put_label(struct buf *b, const char name[CONFIG_NAME_MAX + 1])
{
    size_t n = strnlen(name, CONFIG_NAME_MAX);
    buf_put_u8(b, (uint8_t)n);
    buf_put(b, name, n);
}

static bool label_char(uint8_t ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_';
}

static void get_label(struct cur *c, char out[CONFIG_NAME_MAX + 1])
{
    uint8_t n = cur_u8(c);
    const uint8_t *p = cur_raw(c, n);

    out[0] = 0;
    fail_unless(c, p && n >= 1 && n <= CONFIG_NAME_MAX);
    if (c->err)
        return;
    for (uint8_t i = 0; i < n; i++)
        fail_unless(c, label_char(p[i]));
    memcpy(out, p, n);
    out[n] = 0;
}

void msg_hello_put(struct buf *b, const struct msg_hello *m)
{
    buf_put_u32(b, m->protocol);
    buf_put_u64(b, m->folder_id);
    buf_put_u64(b, m->node);
    buf_put_u64(b, m->epoch);
    buf_put_u64(b, m->wall_us);
    put_label(b, m->name);
    put_label(b, m->folder);
    buf_put_u64(b, m->run);
    buf_put_u64(b, m->former);
    vvec_encode(b, &m->know);
    vvec_encode(b, &m->gone);
}

int msg_hello_get(const void *p, size_t n, struct msg_hello *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->protocol = cur_u32(&c);
    if (!c.err && m->protocol != PROTOCOL_VERSION) { /* of another form, to be refused by name */
        uint32_t protocol = m->protocol;
        memset(m, 0, sizeof *m);
        m->protocol = protocol;
        return 0;
    }
    m->folder_id = cur_u64(&c);
    m->node = cur_u64(&c);
    m->epoch = cur_u64(&c);
    m->wall_us = cur_u64(&c);
    get_label(&c, m->name);
    get_label(&c, m->folder);
    m->run = cur_u64(&c);
    m->former = cur_u64(&c);
    int r = vvec_decode(&c, &m->know);
    if (!r)
        r = vvec_decode(&c, &m->gone);
    return r ? r : cur_done(&c);
}

void msg_welcome_put(struct buf *b, const struct msg_welcome *m)
{
    buf_put_u64(b, m->epoch);
    buf_put_u64(b, m->pos);
    vvec_encode(b, &m->know);
    buf_put_u64(b, m->seen);
    buf_put_u64(b, m->run);
    buf_put_u64(b, m->run_seen);
    vvec_encode(b, &m->held);
}

int msg_welcome_get(const void *p, size_t n, struct msg_welcome *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->epoch = cur_u64(&c);
    m->pos = cur_u64(&c);
    int r = vvec_decode(&c, &m->know);
    m->seen = cur_u64(&c);
    m->run = cur_u64(&c);
    m->run_seen = cur_u64(&c);
    if (!r)
        r = vvec_decode(&c, &m->held);
    return r ? r : cur_done(&c);
}

void msg_refuse_put(struct buf *b, const struct msg_refuse *m)
{
    size_t n = strnlen(m->text, sizeof m->text - 1);

    buf_put_u32(b, (uint32_t)m->code);
    buf_put_u16(b, (uint16_t)n);
    for (size_t i = 0; i < n; i++) {
        uint8_t ch = (uint8_t)m->text[i];
        buf_put_u8(b, ch < 0x20 || ch == 0x7f ? '?' : ch);
    }
}

int msg_refuse_get(const void *p, size_t n, struct msg_refuse *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->code = (int32_t)cur_u32(&c);
    uint16_t len = cur_u16(&c);
    const uint8_t *text = cur_raw(&c, len);
    m->text[0] = 0;
    fail_unless(&c, text && len < sizeof m->text);
    if (!c.err) {
        for (uint16_t i = 0; i < len; i++)
            fail_unless(&c, text[i] >= 0x20 && text[i] != 0x7f);
        memcpy(m->text, text, len);
        m->text[len] = 0;
    }
    return cur_done(&c);
}

/* RECORDS: pos, flags and count are known at the end only; their place is kept at the front. */
enum { RECORDS_HEAD = 13, RECORDS_AT_FLAGS = 8, RECORDS_AT_COUNT = 9 };

void msg_records_begin(struct buf *b)
{
    static const uint8_t zeros[RECORDS_HEAD];

    farm_assert(b->len == 0);
    buf_put(b, zeros, sizeof zeros);
}

static void item_end(struct buf *b, size_t mark)
{
    if (!b->err)
        buf_set_u32(b, mark, (uint32_t)(b->len - mark - 4));
}

void msg_item_put(struct buf *b, const struct record *rec, enum data_kind kind, const void *whole,
                  uint32_t whole_len, uint64_t transfer)
{
    size_t mark = b->len;

    farm_assert(kind != DATA_RANGES);
    buf_put_u32(b, 0);
    record_encode(b, rec);
    buf_put_u8(b, (uint8_t)kind);
    if (kind == DATA_WHOLE)
        buf_put_bytes(b, whole, whole_len);
    if (kind == DATA_STAGED)
        buf_put_u64(b, transfer);
    item_end(b, mark);
}

/* Until the end is known, the place of the item's length remembers where the ranges' count goes. */
size_t msg_item_ranges_begin(struct buf *b, const struct record *rec, struct stamp base)
{
    size_t mark = b->len;

    buf_put_u32(b, 0);
    record_encode(b, rec);
    buf_put_u8(b, DATA_RANGES);
    put_stamp(b, base);
    if (!b->err)
        buf_set_u32(b, mark, (uint32_t)(b->len - mark));
    buf_put_u32(b, 0);
    return mark;
}

void msg_item_range_put(struct buf *b, uint64_t off, const void *p, uint32_t len)
{
    buf_put_u64(b, off);
    buf_put_bytes(b, p, len);
}

void msg_item_ranges_end(struct buf *b, size_t mark, uint32_t n)
{
    uint32_t at;

    if (b->err)
        return;
    memcpy(&at, b->data + mark, sizeof at);
    buf_set_u32(b, mark + le32toh(at), n);
    item_end(b, mark);
}

void msg_records_end(struct buf *b, uint64_t pos, uint8_t flags, uint32_t count)
{
    if (b->err)
        return;
    pos = htole64(pos);
    memcpy(b->data, &pos, sizeof pos);
    b->data[RECORDS_AT_FLAGS] = flags;
    buf_set_u32(b, RECORDS_AT_COUNT, count);
}

int msg_records_get(const void *p, size_t n, struct msg_records *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->pos = cur_u64(&c);
    m->flags = cur_u8(&c);
    m->count = cur_u32(&c);
    m->items = c;
    /* The items' lengths must make up exactly the count, before anything is done with the first. */
    uint32_t found = 0, len;
    while (!c.err && cur_left(&c) && found < m->count) {
        (void)cur_bytes(&c, FRAME_MAX, &len);
        found++;
    }
    fail_unless(&c, found == m->count &&
                        !(m->flags & ~(RECORDS_BOUNDARY | RECORDS_RESENT | RECORDS_REPAIR)) &&
                        (!(m->flags & RECORDS_REPAIR) || (m->flags & RECORDS_RESENT)));
    return cur_done(&c);
}

static void ranges_decode(struct cur *c, struct msg_item *item)
{
    struct cur r;
    uint64_t end = 0, off;
    const uint8_t *p;
    uint32_t len, found = 0;
    int more;

    item->base = get_stamp(c);
    item->nranges = cur_u32(c);
    if (c->err)
        return;
    item->ranges_len = (uint32_t)cur_left(c);
    item->ranges = cur_raw(c, item->ranges_len);
    cur_init(&r, item->ranges, item->ranges_len);
    while ((more = msg_range_next(&r, &off, &p, &len)) == 1) {
        fail_unless(c, len && off >= end && off <= SIZE_MAX_FILE &&
                           off + len <= item->rec.content.size);
        end = off + len;
        found++;
    }
    fail_unless(c, more == 0 && found == item->nranges);
}

static void item_decode(struct cur *c, struct msg_item *item)
{
    if (record_decode(c, &item->rec))
        return;
    uint8_t kind = cur_u8(c);
    item->data = kind <= DATA_STAGED ? (enum data_kind)kind : DATA_NONE;
    bool file = item->rec.kind == REC_CONTENT && item->rec.content.type == NODE_REG;
    fail_unless(c, kind <= DATA_STAGED && (kind == DATA_NONE || file));
    switch (item->data) {
    case DATA_NONE: break;
    case DATA_WHOLE:
        item->whole = cur_bytes(c, FRAME_MAX, &item->whole_len);
        fail_unless(c, item->whole_len == item->rec.content.size);
        break;
    case DATA_RANGES: ranges_decode(c, item); break;
    case DATA_STAGED: item->transfer = cur_u64(c); break;
    }
}

int msg_item_next(struct msg_records *m, struct msg_item *item)
{
    struct cur c;
    uint32_t len;

    if (!m->items.err && cur_left(&m->items) == 0)
        return 0;
    const uint8_t *p = cur_bytes(&m->items, FRAME_MAX, &len);
    if (m->items.err)
        return FARM_ECORRUPT;
    item->whole = item->ranges = NULL;
    item->whole_len = item->ranges_len = item->nranges = 0;
    item->base = (struct stamp){0, 0};
    item->transfer = 0;
    cur_init(&c, p, len);
    item_decode(&c, item);
    return cur_done(&c) ? FARM_ECORRUPT : 1;
}

int msg_range_next(struct cur *c, uint64_t *off, const uint8_t **p, uint32_t *len)
{
    if (!c->err && cur_left(c) == 0)
        return 0;
    uint64_t at = cur_u64(c);
    uint32_t n;
    const uint8_t *bytes = cur_bytes(c, FRAME_MAX, &n);
    if (c->err)
        return FARM_ECORRUPT;
    *off = at;
    *p = bytes;
    *len = n;
    return 1;
}

void msg_data_put(struct buf *b, const struct msg_data *m)
{
    buf_put_u64(b, m->transfer);
    put_stamp(b, m->base);
    buf_put_u64(b, m->rid.node);
    buf_put_u64(b, m->rid.n);
    buf_put_u64(b, m->size);
    buf_put_u64(b, m->off);
    buf_put_bytes(b, m->bytes, m->len);
}

int msg_data_get(const void *p, size_t n, struct msg_data *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->transfer = cur_u64(&c);
    m->base = get_stamp(&c);
    m->rid = get_id(&c);
    m->size = cur_u64(&c);
    m->off = cur_u64(&c);
    m->bytes = cur_bytes(&c, FRAME_MAX, &m->len);
    fail_unless(&c, !id_none(m->rid) && m->size <= SIZE_MAX_FILE && m->off <= m->size &&
                        m->len <= m->size - m->off);
    return cur_done(&c);
}

void msg_ack_put(struct buf *b, const struct msg_ack *m)
{
    buf_put_u64(b, m->pos);
    vvec_encode(b, &m->know);
}

int msg_ack_get(const void *p, size_t n, struct msg_ack *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->pos = cur_u64(&c);
    int r = vvec_decode(&c, &m->know);
    return r ? r : cur_done(&c);
}

void msg_want_put(struct buf *b, const struct msg_want *m)
{
    buf_put_u64(b, m->rid.node);
    buf_put_u64(b, m->rid.n);
    put_stamp(b, m->stamp);
}

int msg_want_get(const void *p, size_t n, struct msg_want *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->rid = get_id(&c);
    m->stamp = get_stamp(&c);
    fail_unless(&c, !id_none(m->rid));
    return cur_done(&c);
}

void msg_state_put(struct buf *b, const struct msg_state *m)
{
    buf_put_u64(b, m->node);
    buf_put_u64(b, m->counter);
    put_label(b, m->name);
    buf_put_bytes(b, m->json, m->json_len);
}

int msg_state_get(const void *p, size_t n, struct msg_state *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->node = cur_u64(&c);
    m->counter = cur_u64(&c);
    get_label(&c, m->name);
    m->json = cur_bytes(&c, STATE_MAX, &m->json_len);
    fail_unless(&c, m->json_len == 0 || (m->json && !memchr(m->json, 0, m->json_len)));
    return cur_done(&c);
}

void msg_sum_put(struct buf *b, const struct msg_sum *m)
{
    buf_put_u64(b, m->token);
    buf_put_u8(b, (uint8_t)m->step);
    buf_put_u64(b, m->first.node);
    buf_put_u64(b, m->first.n);
    buf_put_u64(b, m->last.node);
    buf_put_u64(b, m->last.n);
    buf_put_u64(b, m->inodes);
    buf_put(b, m->digest, sizeof m->digest);
    vvec_encode(b, &m->know);
}

int msg_sum_get(const void *p, size_t n, struct msg_sum *m)
{
    struct cur c;

    cur_init(&c, p, n);
    m->token = cur_u64(&c);
    uint8_t step = cur_u8(&c);
    m->step = (enum sum_step)step;
    m->first = get_id(&c);
    m->last = get_id(&c);
    m->inodes = cur_u64(&c);
    const uint8_t *digest = cur_raw(&c, sizeof m->digest);
    fail_unless(&c,
                digest && step >= SUM_ASK && step <= SUM_SEND && id_cmp(m->first, m->last) <= 0);
    if (digest)
        memcpy(m->digest, digest, sizeof m->digest);
    int r = vvec_decode(&c, &m->know);
    return r ? r : cur_done(&c);
}

static int records_validate(const void *p, size_t n)
{
    struct msg_records m;
    struct msg_item item;
    int r = msg_records_get(p, n, &m);

    if (r)
        return r;
    while ((r = msg_item_next(&m, &item)) == 1)
        ;
    return r;
}

int msg_validate(uint8_t type, const void *p, size_t n)
{
    union {
        struct msg_hello hello;
        struct msg_welcome welcome;
        struct msg_refuse refuse;
        struct msg_data data;
        struct msg_ack ack;
        struct msg_want want;
        struct msg_state state;
        struct msg_sum sum;
    } m;

    switch (type) {
    case FRAME_HELLO: return msg_hello_get(p, n, &m.hello);
    case FRAME_WELCOME: return msg_welcome_get(p, n, &m.welcome);
    case FRAME_REFUSE: return msg_refuse_get(p, n, &m.refuse);
    case FRAME_RECORDS: return records_validate(p, n);
    case FRAME_DATA: return msg_data_get(p, n, &m.data);
    case FRAME_ACK:
    case FRAME_KNOW: return msg_ack_get(p, n, &m.ack);
    case FRAME_WANT: return msg_want_get(p, n, &m.want);
    case FRAME_STATE: return msg_state_get(p, n, &m.state);
    case FRAME_SUM: return msg_sum_get(p, n, &m.sum);
    case FRAME_PING:
    case FRAME_PONG: return n == PING_LEN ? 0 : FARM_ECORRUPT;
    default: return FARM_EPROTO;
    }
}
