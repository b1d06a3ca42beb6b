/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Gossip: every node says once a second how it is; who hears it passes it on to those who are not
 * connected to the speaker. What is heard is not trusted: it is parsed, bounded, and shown.
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOSSIP_EVERY_US 1000000u
#define GOSSIP_FRESH_US (3 * GOSSIP_EVERY_US)

/* ---- ourselves ---- */

static json_t *own_links(const struct node *n)
{
    json_t *links = json_array();
    char id[17];

    for (size_t i = 0; i < n->npeers; i++) {
        if (!n->peers[i].session)
            continue;
        snprintf(id, sizeof id, "%016llx", (unsigned long long)n->peers[i].node);
        json_array_append_new(links, json_string(id));
    }
    return links;
}

static json_t *own_applied(const struct node *n)
{
    json_t *applied = json_object();

    for (size_t i = 0; i < n->npeers; i++)
        if (n->peers[i].session)
            json_object_set_new(applied, n->peers[i].config->name,
                                json_integer((json_int_t)session_applied_pos(n->peers[i].session)));
    return applied;
}

static json_t *own_know(const struct node *n)
{
    json_t *know = json_object();
    char id[17];

    for (uint16_t i = 0; i < n->synced_know.n; i++) {
        snprintf(id, sizeof id, "%016llx", (unsigned long long)n->synced_know.e[i].node);
        json_object_set_new(know, id, json_integer((json_int_t)n->synced_know.e[i].seq));
    }
    return know;
}

static json_t *own_members(const struct node *n)
{
    json_t *members = json_array();

    for (size_t i = 0; i < n->npeers; i++)
        json_array_append_new(members, json_string(n->peers[i].config->name));
    return members;
}

static uint64_t worst_lag(const struct node *n)
{
    uint64_t worst = 0;

    for (size_t i = 0; i < n->npeers; i++) {
        uint64_t lag = n->peers[i].session ? peer_lag_ms(n, &n->peers[i]) : 0;
        if (lag > worst)
            worst = lag;
    }
    return worst;
}

static json_t *own_state(const struct node *n)
{
    char health[200];
    json_t *o = json_object();

    node_health(n, health, sizeof health);
    json_object_set_new(o, "state", json_string(node_state_name(n->state)));
    json_object_set_new(o, "health", json_string(health));
    json_object_set_new(o, "weight", json_integer(strncmp(health, "up", 2) == 0 ? 100 : 0));
    json_object_set_new(o, "lag_ms", json_integer((json_int_t)worst_lag(n)));
    json_object_set_new(o, "position", json_integer((json_int_t)n->meta.log_head));
    json_object_set_new(o, "conflicts", json_integer((json_int_t)keep_conflicts(n)));
    json_object_set_new(o, "version", json_string(FARM_VERSION));
    json_object_set_new(o, "links", own_links(n));
    json_object_set_new(o, "applied", own_applied(n));
    json_object_set_new(o, "know", own_know(n));
    json_object_set_new(o, "members", own_members(n));
    return o;
}

void gossip_own(struct node *n, struct gossip *out)
{
    json_t *o = own_state(n);

    size_t len = json_dumpb(o, out->json, STATE_MAX, JSON_COMPACT);
    static const char *const spare[] = {"applied", "know"}; /* the least needed first */
    for (size_t i = 0; len > STATE_MAX && i < 2; i++) {     /* many peers with long names */
        json_object_del(o, spare[i]);
        len = json_dumpb(o, out->json, STATE_MAX, JSON_COMPACT);
    }
    out->json[len <= STATE_MAX ? len : 0] = 0;
    json_decref(o);
    snprintf(out->name, sizeof out->name, "%s", n->config->node);
    out->node = n->replica.node;
    out->counter = n->gossip_counter;
    out->heard_us = node_mono(n);
}

/* ---- telling ---- */

static void tell(struct session *s, const struct gossip *g)
{
    struct msg_state m = {.node = g->node,
                          .counter = g->counter,
                          .json = (const uint8_t *)g->json,
                          .json_len = (uint32_t)strlen(g->json)};
    struct buf b;

    snprintf(m.name, sizeof m.name, "%s", g->name);
    buf_init(&b, 2 * STATE_MAX);
    msg_state_put(&b, &m);
    int rc = b.err ? b.err : sender_state(session_sender(s), g->node, b.data, b.len);
    if (rc && rc != FARM_EFULL) /* full: many nodes; it is told again in a second */
        log_warn_code(rc, "telling %s about %s", session_name(s), g->name);
    buf_fini(&b);
}

static bool linked(const struct peer *p, uint64_t node)
{
    for (size_t i = 0; i < p->nlinks; i++)
        if (p->links[i] == node)
            return true;
    return p->node == node;
}

static void tell_peer(const struct node *n, struct peer *p, const struct gossip *own)
{
    tell(p->session, own);
    for (size_t i = 0; i < n->ngossip; i++) {
        const struct gossip *g = &n->gossip[i];
        if (own->heard_us - g->heard_us < GOSSIP_FRESH_US && !linked(p, g->node))
            tell(p->session, g);
    }
}

void status_gossip(struct node *n)
{
    struct gossip own;
    uint64_t now = node_mono(n), wall = node_wall(n);

    if (!n->gossip_due && now - n->gossip_us < GOSSIP_EVERY_US)
        return;
    n->gossip_due = false;
    n->gossip_us = now;
    n->gossip_counter = wall > n->gossip_counter ? wall : n->gossip_counter + 1;
    gossip_own(n, &own);
    for (size_t i = 0; i < n->npeers; i++)
        if (n->peers[i].session)
            tell_peer(n, &n->peers[i], &own);
}

/* ---- hearing ---- */

/* As in the configuration: it becomes the name of a control directory. */
static bool name_valid(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len <= CONFIG_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

/* Where what this node says is kept; with the table full, in place of who was silent longest. */
static struct gossip *slot_of(struct node *n, const char *name)
{
    struct gossip *oldest = &n->gossip[0];

    for (size_t i = 0; i < n->ngossip; i++) {
        if (strcmp(n->gossip[i].name, name) == 0)
            return &n->gossip[i];
        if (n->gossip[i].heard_us < oldest->heard_us)
            oldest = &n->gossip[i];
    }
    if (n->ngossip < GOSSIP_MAX)
        oldest = &n->gossip[n->ngossip++];
    memset(oldest, 0, sizeof *oldest);
    return oldest;
}

static struct peer *peer_with(struct node *n, const struct session *s)
{
    for (size_t i = 0; i < n->npeers; i++)
        if (n->peers[i].session == s)
            return &n->peers[i];
    return NULL; /* another session has taken its place */
}

/* A peer about itself: what it is connected to, and how long its log is. */
static void heard_from_peer(struct peer *p, json_t *o)
{
    json_t *links = json_object_get(o, "links"), *head = json_object_get(o, "position"), *v;
    size_t i;

    if (json_is_integer(head) && json_integer_value(head) > 0)
        p->head = (uint64_t)json_integer_value(head);
    p->nlinks = 0;
    json_array_foreach(links, i, v)
    {
        const char *id = json_string_value(v);
        uint64_t node = id ? strtoull(id, NULL, 16) : 0;
        if (node && p->nlinks < VVEC_MAX)
            p->links[p->nlinks++] = node;
    }
    sender_peer_links(session_sender(p->session), p->links, p->nlinks);
}

/* What a node holds for certain, and its members: what is to be collected depends on both, so that
 * a part of it is worth nothing. */
static void heard_know(struct gossip *g, json_t *o)
{
    json_t *know = json_object_get(o, "know"), *members = json_object_get(o, "members"), *v;
    const char *id;
    size_t i;

    g->knows = json_is_object(know) && json_is_array(members);
    if (!g->knows)
        return;
    json_object_foreach(know, id, v)
    {
        json_int_t seq = json_integer_value(v);
        if (seq > 0 && vvec_raise(&g->know, strtoull(id, NULL, 16), (uint64_t)seq) < 0)
            g->knows = false;
    }
    json_array_foreach(members, i, v)
    {
        const char *name = json_string_value(v);
        if (!name || g->nmembers == GOSSIP_MAX || strlen(name) >= sizeof g->members[0])
            g->knows = false;
        else
            memcpy(g->members[g->nmembers++], name, strlen(name) + 1);
    }
}

static void heard(struct node *n, struct session *s, const struct gossip *g, json_t *o)
{
    struct peer *p = peer_with(n, s);
    bool itself = strcmp(g->name, session_name(s)) == 0 && g->node == session_node(s);

    if (strcmp(g->name, n->config->node) == 0) {
        /* Our own words from before a restart, with a clock that was ahead: go past them. */
        if (g->node == n->replica.node && g->counter > n->gossip_counter &&
            g->counter < UINT64_MAX - GOSSIP_MAX)
            n->gossip_counter = g->counter;
        return;
    }
    if (p && itself)
        heard_from_peer(p, o);
    struct gossip *known = slot_of(n, g->name);
    if (g->counter <= known->counter && !itself)
        return;
    *known = *g;
    known->heard_us = node_mono(n);
}

void gossip_heard(struct node *n, struct session *s, struct gossip *g)
{
    json_error_t e;
    json_t *o = name_valid(g->name) ? json_loads(g->json, 0, &e) : NULL;

    if (json_is_object(o)) {
        heard_know(g, o);
        heard(n, s, g, o);
    } else {
        log_debug("%s says something of a node that is not understood", session_name(s));
    }
    json_decref(o);
    free(g);
}
