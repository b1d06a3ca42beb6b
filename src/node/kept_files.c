/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * .farm/conflicts and .farm/history: what is kept, straight from the kept files, in pages. On the
 * control thread, with a reader of its own.
 */
#include "node/kept_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- what describes it ---- */

void kept_time_text(int64_t ns, char out[40])
{
    time_t s = (time_t)(ns / 1000000000);
    struct tm tm;
    char day[32];

    if (ns % 1000000000 < 0)
        s--;
    gmtime_r(&s, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 40, "%.20s.%09uZ", day, (unsigned)(ns - (int64_t)s * 1000000000) % 1000000000u);
}

static json_t *time_json(int64_t ns)
{
    char text[40];
    kept_time_text(ns, text);
    return json_string(text);
}

/* Length of the UTF-8 sequence at p, 0: it is none. */
static size_t utf8_len(const uint8_t *p, size_t n)
{
    size_t len = p[0] < 0x80       ? 1
                 : p[0] >> 5 == 6  ? 2
                 : p[0] >> 4 == 14 ? 3
                 : p[0] >> 3 == 30 ? 4
                                   : 0;
    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if (p[i] >> 6 != 2)
            return 0;
    json_t *check = json_stringn((const char *)p, len); /* overlong forms, surrogates */
    json_decref(check);
    return check ? len : 0;
}

json_t *kept_text_json(const uint8_t *p, size_t n)
{
    json_t *whole = json_stringn((const char *)p, n);
    if (whole)
        return whole;
    char *copy = malloc(n ? n : 1);
    if (!copy)
        return NULL;
    for (size_t i = 0; i < n;) {
        size_t len = utf8_len(p + i, n - i);
        if (len)
            memcpy(copy + i, p + i, len);
        else
            copy[i] = '?';
        i += len ? len : 1;
    }
    whole = json_stringn(copy, n);
    free(copy);
    return whole;
}

void kept_put_path(json_t *o, const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";

    json_object_set_new(o, "path", kept_text_json(p, n));
    json_t *exact = json_stringn((const char *)p, n);
    json_decref(exact);
    char *hex = exact ? NULL : malloc(2 * n + 1);
    if (!hex)
        return;
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[p[i] >> 4];
        hex[2 * i + 1] = digits[p[i] & 15];
    }
    json_object_set_new(o, "path_hex", json_stringn(hex, 2 * n));
    free(hex);
}

struct wanted_name {
    uint64_t node;
    char *out;
};

static int visit_peer(void *arg, const struct index_peer *p)
{
    struct wanted_name *w = arg;
    if (p->node != w->node || !p->name[0])
        return 0;
    snprintf(w->out, 64, "%s", p->name);
    return 1;
}

void kept_node_name(struct node *n, uint64_t node, char out[64])
{
    struct index_meta m;
    struct wanted_name w = {node, out};

    snprintf(out, 64, "%016" PRIx64, node);
    if (index_reader_meta(n->files_reader, &m) == 0 && m.node == node)
        snprintf(out, 64, "%s", n->config->node);
    else if (index_reader_peers(n->files_reader, visit_peer, &w) < 0)
        return;
}

void kept_put_head(struct node *n, json_t *o, const struct rec_head *h)
{
    char name[64], version[96];

    if (h->stamp.node == 0) {
        json_object_set_new(o, "node", json_null());
        return;
    }
    kept_node_name(n, h->stamp.node, name);
    snprintf(version, sizeof version, "%s:%" PRIu64, name, h->stamp.seq);
    json_object_set_new(o, "node", json_string(name));
    json_object_set_new(o, "version", json_string(version));
    json_object_set_new(o, "written", time_json((int64_t)(h->hlc >> HLC_COUNTER_BITS) * 1000));
}

/* A hidden name lost to whoever is in its place now. */
static void winner_of(struct node *n, const struct index_kept *k, struct rec_head *out)
{
    struct records r;
    struct name_rec name;
    struct place pl;
    struct id128 nid;

    *out = k->winner;
    if (k->class != KEPT_HIDDEN)
        return;
    index_reader_records(n->files_reader, &r);
    if (r.get_place(r.ctx, k->nid, &pl) == 0 && pl.kind == PLACE_HIDDEN &&
        r.who_is_at(r.ctx, pl.parent, pl.name, pl.name_len, &nid) == 0 &&
        r.get_name(r.ctx, nid, &name) == 0)
        *out = name.h;
}

static const char *type_text(uint8_t type)
{
    switch (type) {
    case NODE_REG: return "file";
    case NODE_DIR: return "directory";
    case NODE_LNK: return "symlink";
    case NODE_FIFO: return "fifo";
    default: return "other";
    }
}

static json_t *row_json(struct node *n, const struct index_kept *k, bool data)
{
    static const char *const kinds[] = {
        [KEPT_CONFLICT] = "conflict", [KEPT_HIDDEN] = "hidden", [KEPT_HISTORY] = "history"};
    struct rec_head winner;
    char id[20], mode[8];
    json_t *o = json_object(), *w = json_object();

    snprintf(id, sizeof id, "%016" PRIx64, k->key);
    snprintf(mode, sizeof mode, "%04o", k->mode);
    json_object_set_new(o, "id", json_string(id));
    json_object_set_new(o, "kind", json_string(kinds[k->class]));
    kept_put_path(o, k->path, k->path_len);
    json_object_set_new(o, "when", time_json((int64_t)k->when_us * 1000));
    json_object_set_new(o, "why", json_string(kept_why_text(k->why)));
    kept_put_head(n, o, &k->version);
    winner_of(n, k, &winner);
    kept_put_head(n, w, &winner);
    json_object_set_new(o, "winner", w);
    json_object_set_new(o, "type", json_string(type_text(k->type)));
    json_object_set_new(o, "size", json_integer((json_int_t)k->size));
    json_object_set_new(o, "mtime", time_json(k->mtime_ns));
    json_object_set_new(o, "uid", json_integer(k->uid));
    json_object_set_new(o, "gid", json_integer(k->gid));
    json_object_set_new(o, "mode", json_string(mode));
    json_object_set_new(o, "data", json_boolean(data));
    return o;
}

int kept_dump(json_t *o, size_t flags, struct buf *out)
{
    char *text = json_dumps(o, JSON_PRESERVE_ORDER | flags);

    json_decref(o);
    if (!text)
        return -ENOMEM;
    buf_printf(out, "%s\n", text);
    free(text);
    return out->err;
}

/* ---- paths ---- */

/* A file of conflicts/ or history/. */
struct kept_path {
    struct index_kept row;
    bool json;
};

static bool parse_id(const char *name, uint64_t *key, bool *json)
{
    char id[17];

    if (strlen(name) < 16)
        return false;
    memcpy(id, name, 16);
    id[16] = 0;
    if (strspn(id, "0123456789abcdef") != 16)
        return false;
    *key = strtoull(id, NULL, 16);
    *json = strcmp(name + 16, ".json") == 0;
    return *json || name[16] == 0;
}

/* With the reader begun. */
static int find(struct node *n, const char *path, struct kept_path *p)
{
    bool history = strncmp(path, "history/", 8) == 0;
    uint64_t key;

    if (!parse_id(path + (history ? 8 : 10), &key, &p->json))
        return -ENOENT;
    uint8_t class = history ? KEPT_HISTORY : key & KEPT_HIDDEN_BIT ? KEPT_HIDDEN : KEPT_CONFLICT;
    int rc = index_reader_next_kept(n->files_reader, class, key, &p->row);
    return rc == 0 && p->row.key != key ? -ENOENT : rc;
}

static int begin(struct node *n, const char *path, struct kept_path *p)
{
    int rc = index_reader_begin(n->files_reader);
    if (rc)
        return rc;
    rc = find(n, path, p);
    if (rc)
        index_reader_end(n->files_reader);
    return rc;
}

static int file_stat(struct node *n, const struct index_kept *k, struct stat *st)
{
    char name[40];

    kept_file_name(k, name);
    return fstatat(kept_dir(n->staging, k->class), name, st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int kept_stat(struct node *n, const char *path, struct control_stat *out)
{
    struct kept_path p;
    struct stat st;

    int rc = begin(n, path, &p);
    if (rc)
        return rc;
    index_reader_end(n->files_reader);
    *out = (struct control_stat){.type = CONTROL_FILE, .access = CONTROL_READ};
    if (!p.json && p.row.type == NODE_REG) {
        out->type = CONTROL_DATA;
        if (file_stat(n, &p.row, &st) == 0)
            out->size = (uint64_t)st.st_size;
        out->mtime_ns = p.row.mtime_ns;
    }
    return 0;
}

int kept_read(struct node *n, const char *path, struct buf *out)
{
    struct kept_path p;
    struct stat st;
    char name[40], target[TARGET_LEN_MAX + 1];

    int rc = begin(n, path, &p);
    if (rc)
        return rc;
    json_t *o = p.json ? row_json(n, &p.row, file_stat(n, &p.row, &st) == 0) : NULL;
    index_reader_end(n->files_reader);
    if (o)
        return kept_dump(o, JSON_INDENT(2), out);
    if (p.row.type != NODE_LNK)
        return 0; /* a directory, a FIFO: nothing in it to be read */
    kept_file_name(&p.row, name);
    ssize_t len = readlinkat(kept_dir(n->staging, p.row.class), name, target, sizeof target);
    if (len < 0)
        return -errno;
    buf_put(out, target, (size_t)len);
    return out->err;
}

int kept_open(struct node *n, const char *path, int *fd)
{
    struct kept_path p;
    char name[40];

    int rc = begin(n, path, &p);
    if (rc)
        return rc;
    index_reader_end(n->files_reader);
    kept_file_name(&p.row, name);
    int f = openat(kept_dir(n->staging, p.row.class), name,
                   O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (f < 0)
        return -errno;
    *fd = f;
    return 0;
}

/* A page begins at a key, or between its data and its description: 2 * key + 0 or 1. */
int kept_page(struct node *n, const char *path, uint64_t from, control_page f, void *arg)
{
    static const struct control_stat file = {.type = CONTROL_FILE, .access = CONTROL_READ};
    struct index_kept k;
    char name[24];
    uint8_t class = strcmp(path, "history") == 0  ? KEPT_HISTORY
                    : from >= 2 * KEPT_HIDDEN_BIT ? KEPT_HIDDEN
                                                  : KEPT_CONFLICT;
    int rc = index_reader_begin(n->files_reader);
    if (rc)
        return rc;
    for (bool room = true; room;) {
        rc = index_reader_next_kept(n->files_reader, class, from / 2, &k);
        if (rc == -ENOENT && class == KEPT_CONFLICT) {
            class = KEPT_HIDDEN;
            from = 2 * KEPT_HIDDEN_BIT;
            continue;
        }
        if (rc)
            break;
        if (k.key != from / 2)
            from = 2 * k.key;
        snprintf(name, sizeof name, "%016" PRIx64 "%s", k.key, from & 1 ? ".json" : "");
        room = f(arg, name, &file, from + 1);
        from++;
    }
    index_reader_end(n->files_reader);
    return rc == -ENOENT ? 0 : rc;
}
