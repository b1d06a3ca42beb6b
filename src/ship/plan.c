/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which log entries go to the peer. Everything is copied out, so that no read transaction is open
 * while files are read or the stream is waited for. */
#include "ship/sender_i.h"

#include "base/digest.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

void plan_clear(struct sender *s)
{
    for (size_t i = 0; i < s->nplan; i++)
        free(s->plan[i].owned);
    s->nplan = 0;
}

/* A copy that belongs to the item, in place of what points into the index. */
static int own_bytes(struct plan_item *it, const uint8_t **p, size_t len)
{
    if (len == 0)
        return 0;
    it->owned = malloc(len);
    if (!it->owned)
        return -ENOMEM;
    memcpy(it->owned, *p, len);
    *p = it->owned;
    return 0;
}

/*
 * The version that the peer most likely holds:
 *  - the record's base, if that is what we gave it last, or a version made elsewhere that it knows;
 *  - what we gave it last in this session (versions between may never have been sent);
 *  - the record's base, if its knowledge covers that (a former session sent it).
 * A wrong guess costs a WANT.
 */
static bool choose_base(struct sender *s, const struct content_rec *c, struct stamp *base)
{
    struct stamp last;
    bool made = c->base.node != 0;
    bool knows = made && vvec_covers(&s->known, c->base);
    bool have_last = sent_get(s->sent, c->rid, &last);

    if (knows && c->base.node != s->env.self) {
        *base = c->base;
        return true;
    }
    if (have_last) {
        *base = last;
        return true;
    }
    *base = c->base;
    return knows;
}

static int own_ranges(struct plan_item *it, const struct range *r, uint32_t n)
{
    uint64_t size = it->rec.content.size;

    it->ranges = it->owned = calloc(n ? n : 1, sizeof *r);
    if (!it->owned)
        return -ENOMEM;
    it->nranges = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (r[i].off >= size)
            continue;
        uint64_t left = size - r[i].off;
        it->ranges[it->nranges++] = (struct range){r[i].off, r[i].len < left ? r[i].len : left};
    }
    it->delta = true;
    return 0;
}

static int plan_file(struct sender *s, struct plan_item *it)
{
    const struct content_rec *c = &it->rec.content;
    struct range ranges[JOURNAL_RANGES];
    struct index_node node;
    uint32_t n;

    if (!it->again && vvec_covers(&s->held, c->h.stamp))
        return 0;
    int e = index_reader_node(s->reader, c->rid, &node);
    if (e)
        return e == -ENOENT ? 0 : e;
    if (node.type != NODE_REG || (node.flags & (NODE_HELD | NODE_NODATA)))
        return 0;
    it->lid = node.lid;
    /* Of a damaged file only what was written since can be sent. */
    it->data = !(node.flags & NODE_DAMAGED) || c->size <= DIGEST_BLOCK;
    if (it->again || c->size <= DIGEST_BLOCK || !choose_base(s, c, &it->base))
        return 0;
    e = index_reader_journal(s->reader, c->rid, it->base, c->h.stamp, ranges, JOURNAL_RANGES, &n);
    if (e == -ENOENT || e == FARM_ECORRUPT)
        return 0; /* the whole file then */
    it->data = true;
    return e ? e : own_ranges(it, ranges, n);
}

static int plan_add(struct sender *s, uint64_t pos, const struct record *rec, bool deferred,
                    bool again)
{
    struct plan_item *it = &s->plan[s->nplan];
    int e = 0;

    farm_assert(s->nplan < PLAN_MAX);
    it->rec = *rec;
    it->pos = pos;
    it->deferred = deferred;
    it->again = again;
    it->data = it->delta = false;
    it->owned = NULL;
    if (rec->kind == REC_ATTR)
        e = own_bytes(it, &it->rec.attr.xattrs, rec->attr.xattrs_len);
    else if (rec->kind == REC_CONTENT && rec->content.type == NODE_LNK)
        e = own_bytes(it, &it->rec.content.target, rec->content.target_len);
    else if (rec->kind == REC_CONTENT && rec->content.type == NODE_REG)
        e = plan_file(s, it);
    if (e)
        free(it->owned);
    else
        s->nplan++;
    return e;
}

static bool is_linked(const struct sender *s, uint64_t node)
{
    for (size_t i = 0; i < s->nlinked; i++)
        if (s->linked[i] == node)
            return true;
    return false;
}

/* The peer has this version, or gets it from elsewhere: a base for what comes next. */
static void note_held(struct sender *s, const struct record *rec)
{
    if (rec->kind == REC_CONTENT && rec->content.type == NODE_REG &&
        rec->content.size > DIGEST_BLOCK)
        sent_put(s->sent, rec->content.rid, rec->content.h.stamp);
}

static bool is_left_out(struct sender *s, uint64_t pos, const struct record *rec, uint64_t source)
{
    struct stamp stamp = record_head(rec)->stamp;

    if (source == s->peer || vvec_covers(&s->known, stamp)) {
        note_held(s, rec);
        return true;
    }
    if (source == s->env.self || !is_linked(s, source))
        return false;
    if (deferred_add(&s->deferred, (struct deferred_entry){pos, source, stamp}))
        return false;
    note_held(s, rec);
    return true;
}

/* The entry that is (or was) at pos. -ENOENT: its record has moved on. */
static int entry_at(struct sender *s, uint64_t pos, struct record *rec)
{
    uint64_t at, source;

    int e = index_reader_log(s->reader, pos, &at, rec, &source);
    return e ? e : at == pos ? 0 : -ENOENT;
}

/* The first deferred entry holds the told position back: see that it is still in the log. */
static int drop_vanished(struct sender *s)
{
    struct record rec;
    int e = -ENOENT;

    for (size_t i = 0; i < s->deferred.n && e == -ENOENT; i++) {
        e = entry_at(s, s->deferred.e[i].pos, &rec);
        if (e == -ENOENT)
            s->deferred.e[i].source = 0;
    }
    return e == -ENOENT ? 0 : e;
}

/* Deferred entries whose sender lost its connection to the peer: ours to send, before all that
 * follows, since knowledge must not run ahead of them. */
static int plan_deferred(struct sender *s)
{
    struct record rec;
    size_t i;

    for (i = 0; i < s->deferred.n && s->nplan < PLAN_MAX; i++) {
        struct deferred_entry *d = &s->deferred.e[i];
        if (!d->source || is_linked(s, d->source))
            continue;
        int e = entry_at(s, d->pos, &rec);
        if (e == -ENOENT)
            d->source = 0;
        else if (!e)
            e = plan_add(s, d->pos, &rec, true, false);
        if (e && e != -ENOENT)
            return e;
    }
    s->release = i < s->deferred.n;
    return 0;
}

static int plan_log(struct sender *s, bool *end)
{
    struct index_meta meta;
    struct record rec;
    uint64_t at, source;
    int e = 0;

    for (unsigned i = 0; i < SCAN_MAX && s->nplan < PLAN_MAX; i++) {
        e = index_reader_log(s->reader, s->cursor, &at, &rec, &source);
        if (e)
            break;
        if (!is_left_out(s, at, &rec, source))
            e = plan_add(s, at, &rec, false, false);
        if (e)
            break;
        s->cursor = at + 1;
    }
    if (e != -ENOENT)
        return e;
    /* The log may have lost its last entries: its head is where it goes on. */
    e = index_reader_meta(s->reader, &meta);
    if (!e && meta.log_head > s->cursor)
        s->cursor = meta.log_head;
    if (!e) {
        s->end = true;
        s->end_know = meta.know;
    }
    *end = true;
    return e == -ENOENT ? 0 : e;
}

int plan_fill(struct sender *s, bool *end)
{
    int e = index_reader_begin(s->reader);

    if (e)
        return e;
    deferred_tidy(&s->deferred, &s->known);
    e = drop_vanished(s);
    if (!e && s->release)
        e = plan_deferred(s);
    if (!e && !s->release)
        e = plan_log(s, end);
    index_reader_end(s->reader);
    return e;
}

int plan_again(struct sender *s, struct id128 rid)
{
    struct record rec;
    int e = index_reader_begin(s->reader);

    if (e)
        return e;
    e = index_reader_record(s->reader, REC_CONTENT, rid, &rec);
    if (!e)
        e = plan_add(s, 0, &rec, false, true);
    index_reader_end(s->reader);
    return e == -ENOENT ? 0 : e;
}

struct taking {
    struct sender *s;
    struct inode_range *r;
};

static int take_name(void *arg, const struct name_rec *n, const struct place *place)
{
    struct taking *t = arg;
    struct record rec = {.kind = REC_NAME, .name = *n};

    (void)place;
    if (t->s->nplan == PLAN_MAX) {
        log_warn("inode %llx.%llu has too many names to be compared",
                 (unsigned long long)n->inode.node, (unsigned long long)n->inode.n);
        return 1;
    }
    return plan_add(t->s, 0, &rec, false, true);
}

static int take_record(struct sender *s, enum rec_kind kind, struct id128 rid)
{
    struct record rec;

    int e = index_reader_record(s->reader, kind, rid, &rec);
    if (!e)
        e = plan_add(s, 0, &rec, false, true);
    if (!e) /* asked for where it is lacking */
        s->plan[s->nplan - 1].data = false;
    return e == -ENOENT ? 0 : e;
}

static int take_inode(void *arg, struct id128 rid)
{
    struct taking *t = arg;
    struct index_node node;

    if (id_cmp(rid, t->r->last) > 0)
        return 1;
    if (t->s->nplan > PLAN_MAX / 2) {
        t->r->first = rid;
        return 2;
    }
    int e = index_reader_node(t->s->reader, rid, &node);
    if (e == 0 && (node.flags & NODE_HELD))
        return 0;
    e = e == -ENOENT ? 0 : e;
    if (!e)
        e = take_record(t->s, REC_CONTENT, rid);
    if (!e)
        e = take_record(t->s, REC_ATTR, rid);
    if (!e)
        e = index_reader_names(t->s->reader, rid, take_name, t);
    return e > 0 ? 0 : e;
}

int plan_inodes(struct sender *s, struct inode_range *r, bool *more)
{
    struct taking t = {.s = s, .r = r};
    int e = index_reader_begin(s->reader);

    if (e)
        return e;
    e = index_reader_inodes(s->reader, r->first, take_inode, &t);
    index_reader_end(s->reader);
    *more = e == 2;
    return e < 0 ? e : 0;
}
