/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The node's state, what is shown of it, and what the link process says of the peers. */
#include "node/node.h"

#include "base/io.h"
#include "base/log.h"
#include "link/link.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAG_MAX_US (5ull * 1000 * 1000)
/* After the start: how long peers that are not connected are waited for. */
#define START_WAIT_US (5ull * 1000 * 1000)
#define ALONE_US (3ull * 1000 * 1000)
#define BACKLOG_LIMIT 20000u
#define BACKLOG_SMALL 1000u
#define RECOUNT_US (2ull * 1000 * 1000)

static const char *const state_names[] = {
    [STATE_STARTING] = "starting", [STATE_RECOVERING] = "recovering",
    [STATE_SYNCING] = "syncing",   [STATE_READY] = "ready",
    [STATE_LAGGING] = "lagging",   [STATE_ISOLATED] = "isolated",
    [STATE_DRAINING] = "draining", [STATE_MAINTENANCE] = "maintenance",
    [STATE_FAILED] = "failed",
};

const char *node_state_name(enum node_state s)
{
    return state_names[s];
}

void node_set_state(struct node *n, enum node_state s, const char *why)
{
    snprintf(n->state_reason, sizeof n->state_reason, "%s", why);
    if (n->state == s)
        return;
    events_note(n->events, "state", "%s -> %s%s%s", node_state_name(n->state), node_state_name(s),
                why[0] ? ": " : "", why);
    n->state = s;
    n->gossip_due = true;
}

void node_health(const struct node *n, char *out, size_t size)
{
    switch (n->state) {
    case STATE_READY:
    case STATE_LAGGING: /* others lack what was written here; here is all */
    case STATE_ISOLATED: /* serves what it has */ snprintf(out, size, "up ready 100%%"); break;
    case STATE_SYNCING:
    case STATE_DRAINING: snprintf(out, size, "drain"); break;
    case STATE_MAINTENANCE: snprintf(out, size, "maint"); break;
    default:
        snprintf(out, size, "down#%s%s%s", node_state_name(n->state),
                 n->state_reason[0] ? ": " : "", n->state_reason);
        break;
    }
}

/* Kept in a file of its own: whoever took the node out of service brings it back, nobody else. */
#define DRAIN_FILE "drain"

static void update_state(struct node *n);

static void drain(struct node *n, bool on)
{
    int rc = 0;

    if (on)
        rc = io_write_file_at(n->args->state_fd, DRAIN_FILE, "", 0, 0600);
    else if (unlinkat(n->args->state_fd, DRAIN_FILE, 0) < 0 && errno != ENOENT)
        rc = -errno;
    if (rc)
        events_note(n->events, "state", "%s is forgotten if the worker is restarted: %s",
                    on ? "drain" : "ready", err_text(rc));
    n->draining = on;
    update_state(n);
}

void status_open(struct node *n)
{
    n->draining = faccessat(n->args->state_fd, DRAIN_FILE, F_OK, 0) == 0;
}

void command_run(struct node *n, char *command)
{
    char *arg = strchr(command, ' ');
    *arg++ = 0;
    arg[strcspn(arg, "\n")] = 0;
    if (strcmp(command, "drop") == 0)
        keep_drop(n, arg);
    else if (strcmp(command, "drain") == 0)
        drain(n, true);
    else if (strcmp(command, "ready") == 0)
        drain(n, false);
    else if (strcmp(command, "confirm") == 0)
        brake_confirm(n);
    else if (strcmp(command, "reject") == 0)
        brake_reject(n);
    else if (strcmp(command, "scrub") == 0)
        scrub_now(n);
    free(command);
}

/* ---- the link process ---- */

static struct peer *peer_named(struct node *n, const char *name)
{
    for (size_t i = 0; i < n->npeers; i++)
        if (strcmp(n->peers[i].config->name, name) == 0)
            return &n->peers[i];
    return NULL;
}

static void session_up(struct node *n, struct peer *p, int fd)
{
    p->link_text[0] = 0;
    p->head = 0;
    int rc = session_start(n, p->config->name, fd);
    if (rc)
        log_error_code(rc, "a session with %s", p->config->name);
}

/* While a session lives, what the link says of another attempt is only noted. A session that ended
 * by itself (on_down) may know better why than the link, to which it was just closed. */
static void peer_failed(struct node *n, struct peer *p, const struct link_msg *m)
{
    char name[80];

    snprintf(name, sizeof name, "link-%s", p->config->name);
    if (p->session && m->type == LINK_PEER_ERROR) {
        events_note(n->events, name, "%s: %s", p->config->name, m->text);
        return;
    }
    snprintf(p->link_text, sizeof p->link_text, "%s", m->text);
    if (p->session)
        return; /* its end follows on its stream */
    if (m->code != FARM_ECLOSED || !p->code) {
        p->code = m->code;
        snprintf(p->reason, sizeof p->reason, "%s", m->text);
    }
    events_raise(n->events, name, "no connection to %s: %s", p->config->name, m->text);
}

static void link_said(struct node *n, const struct link_msg *m, int fd)
{
    struct peer *p = peer_named(n, m->peer);

    if (!p) {
        if (fd >= 0)
            close(fd);
        return;
    }
    switch (m->type) {
    case LINK_SESSION_UP: session_up(n, p, fd); break;
    case LINK_PEER_DOWN:
    case LINK_PEER_ERROR: peer_failed(n, p, m); break;
    case LINK_PEER_RTT: p->rtt_us = m->rtt_us; break;
    default: break;
    }
}

void link_message(struct node *n)
{
    struct pollfd in = {.fd = n->link_fd, .events = POLLIN};
    struct link_msg m;
    int fd, rc = 0;

    while (n->link_fd >= 0 && !rc && poll(&in, 1, 0) > 0) {
        fd = -1;
        rc = link_recv(n->link_fd, &m, &fd);
        if (rc == -EAGAIN)
            return;
        if (!rc) {
            events_clear(n->events, "link", "the link process is back");
            link_said(n, &m, fd);
        }
    }
    if (!rc)
        return;
    events_raise(n->events, "link", "the link process ended: %s", err_text(rc));
    close(n->link_fd); /* the supervisor starts another */
    n->link_fd = -1;
}

/* ---- peers ---- */

uint64_t peer_lag_ms(const struct node *n, const struct peer *p)
{
    return p->mark_us ? (node_mono(n) - p->mark_us) / 1000 : 0;
}

/* The lag is the age of a position that is not acknowledged: one that was the head when the one
 * before was reached, so that it is never more than the truth, and less by a round trip at most. */
static void measure_lag(struct node *n, struct peer *p)
{
    uint64_t head = n->meta.log_head;

    if (p->acked_pos >= head) {
        p->mark_us = 0;
    } else if (!p->mark_us || p->acked_pos >= p->mark_pos) {
        p->mark_pos = head;
        p->mark_us = node_mono(n);
    }
}

/* The same the other way round: since when do we lack something of the peer's log? */
static void measure_behind(struct node *n, struct peer *p)
{
    uint64_t applied = session_applied_pos(p->session);

    if (p->behind_us && applied >= p->behind_pos)
        p->behind_us = 0;
    if (!p->behind_us && applied < p->head) {
        p->behind_pos = p->head;
        p->behind_us = node_mono(n);
    }
}

static void tell_lag(struct node *n, const struct peer *p)
{
    char name[80];

    snprintf(name, sizeof name, "lag-%s", p->config->name);
    if (!p->mark_us)
        events_clear(n->events, name, "%s has everything again", p->config->name);
    else if (p->session && node_mono(n) - p->mark_us > LAG_MAX_US)
        events_raise(n->events, name, "%s lacks changes that are older than %llu s",
                     p->config->name, LAG_MAX_US / 1000000);
}

/* Counting a long backlog takes a while: it is done now and then. */
static void count_backlog(struct node *n, struct peer *p)
{
    uint64_t now = node_mono(n), entries, bytes;

    if (!p->mark_us) {
        p->backlog_entries = p->backlog_bytes = p->backlog_us = 0;
        return;
    }
    if (p->backlog_entries > BACKLOG_SMALL && now - p->backlog_us < RECOUNT_US)
        return;
    if (index_reader_begin(n->reader) < 0)
        return;
    if (index_reader_backlog(n->reader, p->acked_pos, BACKLOG_LIMIT, &entries, &bytes) == 0) {
        p->backlog_entries = entries;
        p->backlog_bytes = bytes;
        p->backlog_us = now;
    }
    index_reader_end(n->reader);
}

static void count_sent(struct peer *p)
{
    struct sender_stats st;

    sender_stats(session_sender(p->session), &st);
    p->sent_bytes += st.bytes >= p->sent_seen ? st.bytes - p->sent_seen : st.bytes;
    p->sent_seen = st.bytes;
}

static void update_peer(struct node *n, struct peer *p)
{
    if (p->session) {
        p->met = true;
        count_sent(p);
        if (p->head && session_applied_pos(p->session) >= p->head)
            p->synced = true;
        measure_behind(n, p);
    } else {
        p->behind_us = 0; /* what it has is not known */
    }
    if (!p->met)
        return;
    measure_lag(n, p);
    count_backlog(n, p);
    tell_lag(n, p);
}

static const char *peer_state(const struct peer *p)
{
    if (p->session)
        return "connected";
    if (p->starting || !p->code)
        return "connecting";
    switch (p->code) {
    case FARM_EFOLDER:
    case FARM_EIDENT:
    case FARM_EVERSION:
    case FARM_EHOSTKEY:
    case FARM_EAUTH: return "refused";
    default: return "disconnected";
    }
}

/* An end without a reason on the stream is explained by what the link knows. */
static const char *peer_error(const struct peer *p)
{
    if (p->session)
        return "";
    return p->link_text[0] && (p->code == FARM_ECLOSED || !p->reason[0]) ? p->link_text : p->reason;
}

/* ---- the state ---- */

struct judged {
    enum node_state state;
    char why[160];
};

__attribute__((format(printf, 2, 3))) static struct judged judged(enum node_state s,
                                                                  const char *fmt, ...)
{
    struct judged j = {.state = s};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(j.why, sizeof j.why, fmt, ap);
    va_end(ap);
    return j;
}

/* Before the node was once level with its peers. Those that do not come are not waited for: then
 * it serves what it has. */
static struct judged judge_start(struct node *n, size_t connected, const struct peer *behind)
{
    bool waited = node_mono(n) - n->judged_us >= START_WAIT_US;

    if (behind)
        return judged(STATE_SYNCING, "catching up with %s", behind->config->name);
    if (connected < n->npeers && !waited)
        return judged(STATE_SYNCING, "waiting for peers: %zu of %zu connected", connected,
                      n->npeers);
    if (connected) {
        n->synced = true;
        return judged(STATE_READY, "%s", "");
    }
    if (node_mono(n) - n->alone_us >= START_WAIT_US + ALONE_US)
        return judged(STATE_ISOLATED,
                      "no peer has been reached since the start; serving what is here");
    return judged(STATE_READY, "no peer has been reached since the start");
}

static struct judged judge(struct node *n)
{
    const struct peer *behind = NULL, *lags = NULL;
    size_t connected = 0;
    uint64_t now = node_mono(n);

    for (size_t i = 0; i < n->npeers; i++) {
        const struct peer *p = &n->peers[i];
        if (!p->session)
            continue;
        connected++;
        if (!p->synced)
            behind = p;
        if (p->behind_us && now - p->behind_us > LAG_MAX_US)
            lags = p;
    }
    if (n->npeers == 0)
        return judged(STATE_READY, "no peers are configured");
    if (n->meta.rejoin_pos)
        return judged(STATE_SYNCING, "rejoining: %llu records of the farm have come",
                      (unsigned long long)(n->meta.log_head - n->meta.rejoin_pos));
    if (connected)
        n->alone_us = 0;
    else if (!n->alone_us)
        n->alone_us = now;
    if (!n->synced)
        return judge_start(n, connected, behind);
    if (n->alone_us && now - n->alone_us >= ALONE_US)
        return judged(STATE_ISOLATED, "no peer is connected; serving what is here");
    if (lags)
        return judged(STATE_LAGGING, "changes made on %s have not arrived here yet",
                      lags->config->name);
    return judged(STATE_READY, "%s", "");
}

static void update_state(struct node *n)
{
    if (!n->serving || n->state == STATE_FAILED || n->state == STATE_MAINTENANCE)
        return;
    if (!n->judged_us)
        n->judged_us = node_mono(n);
    if (n->args->restarted) /* served before its worker died, and goes on */
        n->synced = true;
    struct judged j = judge(n);
    if (n->brake.held) {
        j = judged(STATE_RECOVERING, "held: %llu of %llu names are gone; farmctl confirm",
                   (unsigned long long)n->brake.lost, (unsigned long long)n->brake.total);
    } else if (scan_recovering(n) || scan_first(n)) {
        j.state = scan_first(n) ? STATE_SYNCING : STATE_RECOVERING;
        scan_progress(n, j.why, sizeof j.why);
    }
    if (n->draining && j.state != STATE_RECOVERING)
        j = judged(STATE_DRAINING, "asked for");
    node_set_state(n, j.state, j.why);
}

/* ---- what is shown ---- */

static void show_peer(const struct node *n, const struct peer *p, struct peer_shown *out)
{
    *out = (struct peer_shown){.met = p->met,
                               .backlog_entries = p->backlog_entries,
                               .backlog_bytes = p->backlog_bytes,
                               .lag_ms = peer_lag_ms(n, p),
                               .rtt_us = p->session ? p->rtt_us : 0,
                               .sent_bytes = p->sent_bytes,
                               .acked_pos = p->acked_pos};
    snprintf(out->state, sizeof out->state, "%s", peer_state(p));
    snprintf(out->error, sizeof out->error, "%s", peer_error(p));
    for (char *c = out->error; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
}

/* Paths, and what peers say, need not be UTF-8. */
static json_t *text_json(const char *text)
{
    json_t *s = json_string(text);
    if (s)
        return s;
    char *plain = strdup(text);
    for (char *c = plain; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    s = json_string(plain ? plain : "");
    free(plain);
    return s;
}

static json_t *number_json(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static json_t *peer_json(const struct peer *p, const struct peer_shown *s)
{
    json_t *o = json_object();

    json_object_set_new(o, "name", json_string(p->config->name));
    json_object_set_new(o, "address", text_json(p->config->address));
    json_object_set_new(o, "state", json_string(s->state));
    json_object_set_new(o, "error", text_json(s->error));
    json_object_set_new(o, "lag_ms", s->met ? number_json(s->lag_ms) : json_null());
    json_object_set_new(o, "backlog_entries",
                        s->met ? number_json(s->backlog_entries) : json_null());
    json_object_set_new(o, "backlog_bytes", s->met ? number_json(s->backlog_bytes) : json_null());
    json_object_set_new(o, "rtt_us", s->rtt_us ? number_json(s->rtt_us) : json_null());
    json_object_set_new(o, "sent_bytes", number_json(s->sent_bytes));
    return o;
}

static json_t *peers_json(const struct node *n, const struct peer_shown *shown)
{
    json_t *peers = json_array();

    for (size_t i = 0; i < n->npeers; i++)
        json_array_append_new(peers, peer_json(&n->peers[i], &shown[i]));
    return peers;
}

static json_t *scan_json(const struct node *n)
{
    json_t *o = json_object();
    uint64_t seen, total, changes;

    scan_counts(n, &seen, &total, &changes);
    json_object_set_new(o, "names", number_json(seen));
    json_object_set_new(o, "total", total ? number_json(total) : json_null());
    json_object_set_new(o, "changed", number_json(changes));
    return o;
}

static char *make_json(struct node *n, const char *health, const struct peer_shown *shown)
{
    json_t *o = json_object();
    char id[17];

    snprintf(id, sizeof id, "%016llx", (unsigned long long)n->replica.node);
    json_object_set_new(o, "node", json_string(n->config->node));
    json_object_set_new(o, "id", json_string(id));
    json_object_set_new(o, "folder", json_string(n->config->folder));
    json_object_set_new(o, "dir", text_json(n->config->dir));
    json_object_set_new(o, "version", json_string(FARM_VERSION));
    json_object_set_new(o, "state", json_string(node_state_name(n->state)));
    json_object_set_new(o, "reason", text_json(n->state_reason));
    json_object_set_new(o, "health", text_json(health));
    json_object_set_new(o, "uptime_s", number_json((node_mono(n) - n->started_us) / 1000000));
    json_object_set_new(o, "position", number_json(n->meta.log_head));
    if (n->scan)
        json_object_set_new(o, "scan", scan_json(n));
    json_object_set_new(o, "unannounced", number_json(n->held.n));
    json_object_set_new(o, "missing", number_json(n->nwants));
    json_object_set_new(o, "conflicts", number_json(keep_conflicts(n)));
    json_object_set_new(o, "conflicts_bytes", number_json(n->keep.total[KEPT_CONFLICT].bytes));
    json_object_set_new(o, "history", number_json(n->keep.total[KEPT_HISTORY].count));
    json_object_set_new(o, "history_bytes", number_json(n->keep.total[KEPT_HISTORY].bytes));
    json_object_set_new(o, "kept_evicted", number_json(n->keep.evicted));
    json_object_set_new(o, "kept_lost", number_json(n->keep.lost));
    json_object_set_new(o, "collected", number_json(n->collected));
    json_object_set_new(o, "scrub", scrub_json(n));
    json_object_set_new(o, "peers", peers_json(n, shown));
    char *text = json_dumps(o, JSON_INDENT(2));
    json_decref(o);
    return text;
}

static void put_peer(struct buf *b, const struct peer *p, const struct peer_shown *s)
{
    buf_printf(b, "  %-12s %s", p->config->name, s->state);
    if (s->met)
        buf_printf(b, ", lag %" PRIu64 " ms, backlog %" PRIu64 " (%" PRIu64 " bytes)", s->lag_ms,
                   s->backlog_entries, s->backlog_bytes);
    if (s->rtt_us)
        buf_printf(b, ", rtt %" PRIu64 " us", s->rtt_us);
    buf_printf(b, "%s%s\n", s->error[0] ? ": " : "", s->error);
}

static char *make_text(struct node *n, const char *health, const struct peer_shown *shown)
{
    struct buf b;
    char scan[160];

    scan_progress(n, scan, sizeof scan);
    buf_init(&b, 1u << 20);
    buf_printf(&b, "node         %s, id %016llx\n", n->config->node,
               (unsigned long long)n->replica.node);
    buf_printf(&b, "folder       %s on %s\n", n->config->folder, n->config->dir);
    buf_printf(&b, "state        %s%s%s\n", node_state_name(n->state),
               n->state_reason[0] ? ": " : "", n->state_reason);
    buf_printf(&b, "health       %s\n", health);
    buf_printf(&b, "position     %" PRIu64 "\n", n->meta.log_head);
    buf_printf(&b, "compared     %s\n", scan);
    buf_printf(&b, "unannounced  %zu\n", n->held.n);
    buf_printf(&b, "missing      %zu\n", n->nwants);
    buf_printf(&b, "conflicts    %" PRIu64 "\n", keep_conflicts(n));
    buf_printf(&b, "collected    %" PRIu64 "\n", n->collected);
    buf_printf(&b, "scrub        ");
    scrub_line(n, &b);
    buf_printf(&b, "version      %s\n", FARM_VERSION);
    buf_printf(&b, "peers\n");
    for (size_t i = 0; i < n->npeers; i++)
        put_peer(&b, &n->peers[i], &shown[i]);
    buf_put_u8(&b, 0);
    char *text = b.err ? NULL : strdup((const char *)b.data);
    buf_fini(&b);
    return text;
}

/* Made without the lock, put in place under it. */
static void show(struct node *n)
{
    struct peer_shown *peers = calloc(n->npeers + 1, sizeof *peers);
    char health[sizeof n->shown_health];

    if (!peers)
        return;
    for (size_t i = 0; i < n->npeers; i++)
        show_peer(n, &n->peers[i], &peers[i]);
    node_health(n, health, sizeof health);
    char *json = make_json(n, health, peers);
    char *text = make_text(n, health, peers);
    pthread_mutex_lock(&n->status_lock);
    char *old_json = n->status_json, *old_text = n->status_text;
    struct peer_shown *old_peers = n->peers_shown;
    n->status_json = json;
    n->status_text = text;
    n->peers_shown = peers;
    snprintf(n->shown_state, sizeof n->shown_state, "%s", node_state_name(n->state));
    memcpy(n->shown_health, health, sizeof health);
    gossip_own(n, &n->shown[0]);
    memcpy(&n->shown[1], n->gossip, n->ngossip * sizeof n->gossip[0]);
    n->nshown = n->ngossip + 1;
    pthread_mutex_unlock(&n->status_lock);
    free(old_json);
    free(old_text);
    free(old_peers);
}

void status_update(struct node *n)
{
    for (size_t i = 0; i < n->npeers; i++)
        update_peer(n, &n->peers[i]);
    update_state(n);
    show(n);
}
