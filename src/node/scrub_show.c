/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is shown of the scrub. */
#include "node/scrub_i.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

struct shown {
    const char *state;
    struct round round;
    uint64_t rate, last_started_us, last_ended_us, last_inodes, last_bytes;
    uint64_t asked, answered, counts[COUNT_COUNT], open;
};

static void shown_of(struct node *n, struct shown *x)
{
    struct scrub *s = n->scrub;

    memset(x, 0, sizeof *x);
    x->state = "off";
    if (!s)
        return;
    x->rate = scrub_rate(s);
    pthread_mutex_lock(&s->lock);
    x->round = s->round;
    x->state = !s->round.running && !s->restart ? "idle" : s->allowed ? "running" : "waiting";
    x->last_started_us = s->last.started_us;
    x->last_ended_us = s->last.ended_us;
    x->last_inodes = s->last.inodes;
    x->last_bytes = s->last.bytes;
    x->asked = s->asked;
    x->answered = s->answered;
    memcpy(x->counts, s->counts, sizeof x->counts);
    x->open = s->open;
    pthread_mutex_unlock(&s->lock);
}

void scrub_text(struct node *n, struct buf *b)
{
    struct shown x;

    shown_of(n, &x);
    buf_printf(b, "state %s\n", x.state);
    buf_printf(b, "asked %" PRIu64 "\nanswered %" PRIu64 "\n", x.asked, x.answered);
    buf_printf(b, "inodes %" PRIu64 " %" PRIu64 "\n", x.round.inodes, x.round.all_inodes);
    buf_printf(b, "bytes %" PRIu64 " %" PRIu64 "\n", x.round.bytes, x.round.all_bytes);
    buf_printf(b, "rate %" PRIu64 "\n", x.rate);
    buf_printf(b, "last %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
               x.last_started_us / 1000000, x.last_ended_us / 1000000, x.last_inodes, x.last_bytes);
    buf_printf(b, "differing %" PRIu64 "\nhealed %" PRIu64 "\n", x.counts[COUNT_DIFFERING],
               x.counts[COUNT_HEALED]);
    buf_printf(b,
               "found %" PRIu64 "\nrepaired %" PRIu64 "\nopen %" PRIu64 "\ntaken-up %" PRIu64 "\n",
               x.counts[COUNT_FOUND], x.counts[COUNT_REPAIRED], x.open, x.counts[COUNT_TAKEN]);
}

void scrub_line(struct node *n, struct buf *b)
{
    struct shown x;

    shown_of(n, &x);
    buf_printf(b, "%s", x.state);
    if (x.round.running && x.round.all_inodes)
        buf_printf(b, ", %" PRIu64 " of %" PRIu64 " inodes", x.round.inodes, x.round.all_inodes);
    buf_printf(b, ", %" PRIu64 " found, %" PRIu64 " repaired, %" PRIu64 " open\n",
               x.counts[COUNT_FOUND], x.counts[COUNT_REPAIRED], x.open);
}

static void set_number(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

json_t *scrub_json(struct node *n)
{
    json_t *o = json_object();
    struct shown x;

    shown_of(n, &x);
    json_object_set_new(o, "state", json_string(x.state));
    set_number(o, "inodes", x.round.inodes);
    set_number(o, "inodes_all", x.round.all_inodes);
    set_number(o, "bytes", x.round.bytes);
    set_number(o, "bytes_all", x.round.all_bytes);
    set_number(o, "rate", x.rate);
    set_number(o, "last_started", x.last_started_us / 1000000);
    set_number(o, "last_ended", x.last_ended_us / 1000000);
    set_number(o, "found", x.counts[COUNT_FOUND]);
    set_number(o, "repaired", x.counts[COUNT_REPAIRED]);
    set_number(o, "open", x.open);
    set_number(o, "differing", x.counts[COUNT_DIFFERING]);
    set_number(o, "healed", x.counts[COUNT_HEALED]);
    set_number(o, "taken_up", x.counts[COUNT_TAKEN]);
    return o;
}
