/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What is in .farm (farmfs-control(7)). On the control thread: of the node it sees what status_lock
 * guards, the configuration, the events and the inbox.
 */
#include "node/kept_files.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define READ_FILE                                    \
    {                                                \
        .type = CONTROL_FILE, .access = CONTROL_READ \
    }
#define WRITE_FILE                                    \
    {                                                 \
        .type = CONTROL_FILE, .access = CONTROL_WRITE \
    }
#define DIRECTORY                                   \
    {                                               \
        .type = CONTROL_DIR, .access = CONTROL_READ \
    }

struct file {
    const char *name;
    struct control_stat st;
};

static const struct file root_files[] = {
    {"node", READ_FILE},
    {"state", READ_FILE},
    {"health", READ_FILE},
    {"status", READ_FILE},
    {"status.json", READ_FILE},
    {"events", {.type = CONTROL_STREAM, .access = CONTROL_READ}},
    {"barrier", {.type = CONTROL_WAIT, .access = CONTROL_READ}},
    {"drain", WRITE_FILE},
    {"ready", WRITE_FILE},
    {"confirm", WRITE_FILE},
    {"reject", WRITE_FILE},
    {"scrub", {.type = CONTROL_FILE, .access = CONTROL_READ | CONTROL_WRITE}},
    {"drop", WRITE_FILE},
    {"peers", DIRECTORY},
    {"nodes", DIRECTORY},
    {"conflicts", {.type = CONTROL_PAGES, .access = CONTROL_READ}},
    {"history", {.type = CONTROL_PAGES, .access = CONTROL_READ}},
    {"why", DIRECTORY},
    {"why.json", DIRECTORY},
    {NULL, {0}},
};

static const struct file peer_files[] = {
    {"state", READ_FILE}, {"error", READ_FILE}, {"address", READ_FILE}, {"backlog", READ_FILE},
    {"lag", READ_FILE},   {"rtt", READ_FILE},   {"sent", READ_FILE},    {NULL, {0}},
};

/* Members of what nodes say, but for the last three. */
static const struct file node_files[] = {
    {"state", READ_FILE},
    {"health", READ_FILE},
    {"weight", READ_FILE},
    {"lag", READ_FILE},
    {"position", READ_FILE},
    {"version", READ_FILE},
    {"conflicts", READ_FILE},
    {"address", READ_FILE},
    {"heard", READ_FILE},
    {"json", READ_FILE},
    {NULL, {0}},
};

static const struct file *file_named(const struct file *files, const char *name)
{
    for (; files->name; files++)
        if (strcmp(files->name, name) == 0)
            return files;
    return NULL;
}

/* ---- paths ---- */

enum where { AT_ROOT, AT_PEER, AT_NODE, AT_KEPT, AT_WHY, AT_WHY_JSON };

struct target {
    enum where where;
    size_t peer;      /* AT_PEER: which */
    char name[64];    /* AT_PEER, AT_NODE */
    const char *file; /* within it; "": the directory itself; AT_KEPT: the whole path */
};

static bool node_copy(struct node *n, const char *name, struct gossip *out)
{
    bool found = false;

    pthread_mutex_lock(&n->status_lock);
    for (size_t i = 0; i < n->nshown && !found; i++) {
        found = strcmp(n->shown[i].name, name) == 0;
        if (found && out)
            *out = n->shown[i];
    }
    pthread_mutex_unlock(&n->status_lock);
    return found;
}

static int peer_index(const struct node *n, const char *name, size_t *out)
{
    for (size_t i = 0; i < n->npeers; i++) {
        if (strcmp(n->config->peers[i].name, name) == 0) {
            *out = i;
            return 0;
        }
    }
    return -ENOENT;
}

/* What is told by other files of this room. */
static bool other_target(const char *path, struct target *p)
{
    static const struct {
        const char *dir;
        enum where where;
    } dirs[] = {{"conflicts/", AT_KEPT},
                {"history/", AT_KEPT},
                {"why/", AT_WHY},
                {"why.json/", AT_WHY_JSON}};

    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        size_t len = strlen(dirs[i].dir);
        if (strncmp(path, dirs[i].dir, len) != 0)
            continue;
        p->where = dirs[i].where;
        p->file = p->where == AT_KEPT ? path : path + len;
        return true;
    }
    return false;
}

static int target_of(struct node *n, const char *path, struct target *p)
{
    bool peer = strncmp(path, "peers/", 6) == 0;

    *p = (struct target){.where = AT_ROOT, .file = path};
    if (other_target(path, p))
        return 0;
    if (!peer && strncmp(path, "nodes/", 6) != 0)
        return 0;
    const char *name = path + 6;
    size_t len = strcspn(name, "/");
    if (len == 0 || len >= sizeof p->name)
        return -ENOENT;
    memcpy(p->name, name, len);
    p->file = name[len] ? name + len + 1 : "";
    p->where = peer ? AT_PEER : AT_NODE;
    if (peer)
        return peer_index(n, p->name, &p->peer);
    return node_copy(n, p->name, NULL) ? 0 : -ENOENT;
}

static const struct file *files_at(const struct target *p)
{
    return p->where == AT_ROOT ? root_files : p->where == AT_PEER ? peer_files : node_files;
}

static int files_stat(void *ctx, const char *path, struct control_stat *st)
{
    struct node *n = ctx;
    struct target p;

    int rc = target_of(n, path, &p);
    if (rc)
        return rc;
    if (p.where == AT_KEPT)
        return kept_stat(n, p.file, st);
    if (p.where == AT_WHY || p.where == AT_WHY_JSON)
        return why_stat(n, p.file, st);
    if (!p.file[0]) {
        *st = (struct control_stat)DIRECTORY;
        return 0;
    }
    const struct file *f = file_named(files_at(&p), p.file);
    if (!f)
        return -ENOENT;
    *st = f->st;
    if (st->type == CONTROL_STREAM)
        st->size = events_size(n->events);
    return 0;
}

static void list_nodes(struct node *n, control_list f, void *arg)
{
    static const struct control_stat dir = DIRECTORY;
    char names[GOSSIP_MAX + 1][64];

    pthread_mutex_lock(&n->status_lock);
    size_t count = n->nshown;
    for (size_t i = 0; i < count; i++)
        memcpy(names[i], n->shown[i].name, sizeof names[i]);
    pthread_mutex_unlock(&n->status_lock);
    for (size_t i = 0; i < count; i++)
        f(arg, names[i], &dir);
}

static int files_list(void *ctx, const char *path, control_list f, void *arg)
{
    static const struct control_stat dir = DIRECTORY;
    struct node *n = ctx;
    struct target p;

    int rc = target_of(n, path, &p);
    if (rc)
        return rc;
    if (p.where == AT_ROOT && strcmp(path, "peers") == 0) {
        for (size_t i = 0; i < n->npeers; i++)
            f(arg, n->config->peers[i].name, &dir);
    } else if (p.where == AT_ROOT && strcmp(path, "nodes") == 0) {
        list_nodes(n, f, arg);
    } else if (p.where == AT_WHY || p.where == AT_WHY_JSON || strcmp(path, "why") == 0 ||
               strcmp(path, "why.json") == 0) {
        return 0; /* they have what the folder has: it need not be said twice */
    } else if (p.file[0]) {
        return -ENOTDIR;
    } else {
        for (const struct file *i = files_at(&p); i->name; i++)
            f(arg, i->name, &i->st);
    }
    return 0;
}

/* ---- reading ---- */

static int read_root(struct node *n, const char *file, struct buf *out)
{
    const char *text = NULL;

    pthread_mutex_lock(&n->status_lock);
    if (strcmp(file, "scrub") == 0) {
        scrub_text(n, out);
        pthread_mutex_unlock(&n->status_lock);
        return 0;
    }
    if (strcmp(file, "node") == 0)
        text = n->config->node;
    else if (!n->peers_shown)
        text = NULL; /* the core thread has not come round yet */
    else if (strcmp(file, "state") == 0)
        text = n->shown_state;
    else if (strcmp(file, "health") == 0)
        text = n->shown_health;
    else if (strcmp(file, "status") == 0)
        text = n->status_text;
    else if (strcmp(file, "status.json") == 0)
        text = n->status_json;
    size_t len = text ? strlen(text) : 0;
    buf_put(out, text ? text : "", len);
    if (text && (len == 0 || text[len - 1] != '\n'))
        buf_put_u8(out, '\n');
    pthread_mutex_unlock(&n->status_lock);
    return text ? 0 : -EAGAIN;
}

static void put_peer_file(const struct peer_shown *s, const char *file, struct buf *out)
{
    if (strcmp(file, "state") == 0)
        buf_printf(out, "%s\n", s->state);
    else if (strcmp(file, "error") == 0)
        buf_printf(out, "%s%s", s->error, s->error[0] ? "\n" : "");
    else if (strcmp(file, "sent") == 0)
        buf_printf(out, "%" PRIu64 "\n", s->sent_bytes);
    else if (strcmp(file, "rtt") == 0 && s->rtt_us)
        buf_printf(out, "%" PRIu64 "\n", s->rtt_us);
    else if (strcmp(file, "lag") == 0 && s->met)
        buf_printf(out, "%" PRIu64 "\n", s->lag_ms);
    else if (strcmp(file, "backlog") == 0 && s->met)
        buf_printf(out, "%" PRIu64 " %" PRIu64 "\n", s->backlog_entries, s->backlog_bytes);
    else
        buf_printf(out, "unknown\n"); /* it has not been connected since the start */
}

static int read_peer(struct node *n, const struct target *p, struct buf *out)
{
    struct peer_shown s;

    if (strcmp(p->file, "address") == 0) {
        buf_printf(out, "%s\n", n->config->peers[p->peer].address);
        return 0;
    }
    pthread_mutex_lock(&n->status_lock);
    bool shown = n->peers_shown != NULL;
    if (shown)
        s = n->peers_shown[p->peer];
    pthread_mutex_unlock(&n->status_lock);
    if (!shown)
        return -EAGAIN;
    put_peer_file(&s, p->file, out);
    return 0;
}

/* What another node said: one line, whatever it is. */
static void put_line(struct buf *out, const char *text)
{
    for (const char *c = text; *c; c++)
        buf_put_u8(out, (unsigned char)*c < ' ' || *c == 0x7f ? '?' : (uint8_t)*c);
    buf_put_u8(out, '\n');
}

static void put_member(const struct gossip *g, const char *file, struct buf *out)
{
    json_error_t e;
    json_t *o = json_loads(g->json, 0, &e);
    const json_t *v = json_object_get(o, strcmp(file, "lag") == 0 ? "lag_ms" : file);

    if (json_is_string(v))
        put_line(out, json_string_value(v));
    else if (json_is_integer(v))
        buf_printf(out, "%" JSON_INTEGER_FORMAT "\n", json_integer_value(v));
    json_decref(o);
}

static int read_node(struct node *n, const struct target *p, struct buf *out)
{
    struct gossip g;
    size_t peer;

    if (!node_copy(n, p->name, &g))
        return -ENOENT;
    if (strcmp(p->file, "json") == 0)
        put_line(out, g.json);
    else if (strcmp(p->file, "heard") == 0) /* ms ago */
        buf_printf(out, "%" PRIu64 "\n", (node_mono(n) - g.heard_us) / 1000);
    else if (strcmp(p->file, "address") != 0)
        put_member(&g, p->file, out);
    else if (peer_index(n, p->name, &peer) == 0)
        buf_printf(out, "%s\n", n->config->peers[peer].address);
    return 0;
}

static int files_read(void *ctx, const char *path, struct buf *out)
{
    struct node *n = ctx;
    struct target p;

    int rc = target_of(n, path, &p);
    if (rc)
        return rc;
    if (p.where == AT_KEPT)
        return kept_read(n, p.file, out);
    if (p.where == AT_WHY || p.where == AT_WHY_JSON)
        return why_read(n, p.file, p.where == AT_WHY_JSON, out);
    const struct file *f = file_named(files_at(&p), p.file);
    if (!f)
        return -ENOENT;
    if (!(f->st.access & CONTROL_READ))
        return 0; /* opened for reading and writing by root */
    if (p.where == AT_ROOT)
        return read_root(n, p.file, out);
    return p.where == AT_PEER ? read_peer(n, &p, out) : read_node(n, &p, out);
}

static int files_stream(void *ctx, const char *path, uint64_t off, size_t len, struct buf *out)
{
    struct node *n = ctx;
    return strcmp(path, "events") == 0 ? events_read(n->events, off, len, out) : -ENOENT;
}

/* ---- for the core thread ---- */

static int post(struct node *n, enum inmsg_type type, void *p)
{
    struct inmsg *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->type = type;
    m->p = p;
    int rc = queue_push(&n->inbox, &m->q);
    if (rc)
        free(m);
    return rc;
}

static int files_write(void *ctx, const char *path, const void *data, size_t len)
{
    const struct file *f = file_named(root_files, path);

    if (!f || !(f->st.access & CONTROL_WRITE))
        return -EACCES;
    /* The file's name, and what was written to it. */
    char *command = malloc(strlen(path) + len + 2);
    if (command)
        sprintf(command, "%s %.*s", path, (int)len, (const char *)data);
    int rc = command ? post(ctx, IN_COMMAND, command) : -ENOMEM;
    if (rc)
        free(command);
    return rc;
}

static int files_page(void *ctx, const char *path, uint64_t from, control_page f, void *arg)
{
    return kept_page(ctx, path, from, f, arg);
}

static int files_open(void *ctx, const char *path, int *fd)
{
    return kept_open(ctx, path, fd);
}

static void files_wait(void *ctx, const char *path, struct control_request *rq)
{
    (void)path; /* there is only one */
    int rc = post(ctx, IN_BARRIER, rq);
    if (rc)
        control_answer(rq, rc, NULL, 0);
}

const struct control_provider control_files = {
    .stat = files_stat,
    .list = files_list,
    .page = files_page,
    .open = files_open,
    .read = files_read,
    .stream = files_stream,
    .write = files_write,
    .wait = files_wait,
};
