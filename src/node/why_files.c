/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * .farm/why/PATH: who made a path what it is, by which rule, and which nodes have it. One JSON
 * object; the text for people is made of it. A directory answers under the name .why in it.
 */
#include "node/kept_files.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SELF ".why"
#define KEPT_LOOKED_AT 100000u /* rows */

/* ---- where the path leads ---- */

struct at {
    struct records r;
    struct id128 parent; /* of the last component; the root's is itself */
    const char *name;
    uint8_t len;
    bool there;
    bool root;
    struct id128 nid, inode;
    uint8_t type;
};

static int step(struct at *a, const char *name, size_t len)
{
    struct name_rec rec;
    struct content_rec c;

    if (len == 0 || len > NAME_LEN_MAX)
        return -ENOENT;
    a->name = name;
    a->len = (uint8_t)len;
    int rc = a->r.who_is_at(a->r.ctx, a->parent, (const uint8_t *)name, a->len, &a->nid);
    a->there = rc == 0;
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = a->r.get_name(a->r.ctx, a->nid, &rec);
    if (!rc)
        rc = a->r.get_content(a->r.ctx, rec.inode, &c);
    if (rc)
        return rc;
    a->inode = rec.inode;
    a->type = c.type;
    return 0;
}

/* -ENOENT: not even its directory is there. In the end a->there says whether it is. */
static int walk(struct node *n, const char *path, struct at *a)
{
    *a = (struct at){.parent = RID_ROOT,
                     .inode = RID_ROOT,
                     .type = NODE_DIR,
                     .there = true,
                     .root = path[0] == 0};
    index_reader_records(n->files_reader, &a->r);
    while (path[0]) {
        size_t len = strcspn(path, "/");
        if (!a->there || a->type != NODE_DIR)
            return -ENOENT;
        a->parent = a->inode;
        int rc = step(a, path, len);
        if (rc)
            return rc;
        path += len + (path[len] == '/');
    }
    return 0;
}

/* The path asked about: that of a directory ends in its .why. False: it is no such name. */
static bool asked_path(const char *path, char out[PATH_MAX], bool *dir)
{
    size_t len = strlen(path), self = strlen(SELF);

    if (len >= PATH_MAX)
        return false;
    memcpy(out, path, len + 1);
    *dir = strcmp(path, SELF) == 0 || (len > self && strcmp(path + len - self - 1, "/" SELF) == 0);
    if (*dir)
        out[len > self ? len - self - 1 : 0] = 0;
    return true;
}

static int names_any(void *arg, const struct name_rec *name)
{
    (void)name;
    *(bool *)arg = true;
    return 1;
}

int why_stat(struct node *n, const char *path, struct control_stat *out)
{
    char asked[PATH_MAX];
    struct at a;
    bool dir, known = false;

    if (!asked_path(path, asked, &dir))
        return -ENAMETOOLONG;
    int rc = index_reader_begin(n->files_reader);
    if (rc)
        return rc;
    rc = walk(n, asked, &a);
    if (rc == 0 && dir && (!a.there || a.type != NODE_DIR))
        rc = -ENOENT;
    if (rc == 0 && !a.there) /* was there something once? */
        rc = a.r.names_at(a.r.ctx, a.parent, (const uint8_t *)a.name, a.len, names_any, &known);
    index_reader_end(n->files_reader);
    if (rc < 0 || (!a.there && !known))
        return rc < 0 ? rc : -ENOENT;
    *out = (struct control_stat){.type = a.there && a.type == NODE_DIR && !dir ? CONTROL_DIR
                                                                               : CONTROL_FILE,
                                 .access = CONTROL_READ};
    return 0;
}

/* ---- what is said of it ---- */

struct telling {
    struct node *n;
    struct at *a;
    json_t *o;
    struct id128 latest; /* of dead names at the place */
    struct rec_head latest_head;
    bool any;
    json_t *rivals;
};

static int visit_dead(void *arg, const struct name_rec *name)
{
    struct telling *t = arg;
    if (!t->any || head_wins(&name->h, &t->latest_head)) {
        t->latest = name->nid;
        t->latest_head = name->h;
    }
    t->any = true;
    return 0;
}

static int visit_rival(void *arg, struct id128 nid)
{
    struct telling *t = arg;
    struct name_rec name;
    struct content_rec c;
    char id[20];

    if (t->a->r.get_name(t->a->r.ctx, nid, &name) < 0 || id_eq(name.inode, t->a->inode))
        return 0;
    json_t *o = json_object();
    kept_put_head(t->n, o, &name.h);
    bool dir = t->a->r.get_content(t->a->r.ctx, name.inode, &c) == 0 && c.type == NODE_DIR;
    snprintf(id, sizeof id, "%016" PRIx64, index_kept_hidden_key(nid));
    json_object_set_new(o, "id", dir ? json_null() : json_string(id));
    json_object_set_new(o, "type", json_string(dir ? "directory" : "file"));
    json_array_append_new(t->rivals, o);
    return 0;
}

static const char *name_rule(const struct name_rec *name, const struct place *pl, bool dir,
                             bool rivals)
{
    if (!name->alive && dir)
        return "it was deleted, but something in it is newer than the deletion or unknown to it";
    if (!name->alive)
        return "it was deleted and edited at the same time: the edit brought it back";
    if (pl->cut)
        return "two directories were moved into each other: the later move was undone";
    if (rivals && dir)
        return "several nodes made this directory: it is one, with what is in all of them; a "
               "directory has the name before a file";
    if (rivals)
        return "several files got this name at the same time: the later has it";
    return "the latest change of this name";
}

/* Who has all of the log up to a position. */
static json_t *who_has(struct node *n, uint64_t pos)
{
    json_t *list = json_array();

    pthread_mutex_lock(&n->status_lock);
    for (size_t i = 0; i < n->npeers && n->peers_shown; i++) {
        const struct peer_shown *s = &n->peers_shown[i];
        json_t *o = json_object();
        json_object_set_new(o, "name", json_string(n->config->peers[i].name));
        json_object_set_new(o, "has",
                            !s->met ? json_null() : json_boolean(pos && s->acked_pos >= pos));
        json_array_append_new(list, o);
    }
    pthread_mutex_unlock(&n->status_lock);
    return list;
}

static void put_nodes(struct telling *t)
{
    struct at *a = t->a;
    uint64_t pos = 0, latest = 0;

    if (!a->root && index_reader_pos(t->n->files_reader, REC_NAME, a->nid, &pos) == 0)
        latest = pos;
    if (a->there && index_reader_pos(t->n->files_reader, REC_CONTENT, a->inode, &pos) == 0 &&
        pos > latest)
        latest = pos;
    if (a->there && index_reader_pos(t->n->files_reader, REC_ATTR, a->inode, &pos) == 0 &&
        pos > latest)
        latest = pos;
    json_object_set_new(t->o, "announced", json_boolean(latest > 0));
    json_object_set_new(t->o, "nodes", who_has(t->n, latest));
}

static void put_content(struct telling *t)
{
    struct content_rec c;
    char base[64], text[96], hex[65];

    if (t->a->r.get_content(t->a->r.ctx, t->a->inode, &c) < 0)
        return;
    json_t *o = json_object(), *vv = json_object();
    kept_put_head(t->n, o, &c.h);
    json_object_set_new(o, "size", json_integer((json_int_t)c.size));
    if (c.base.node) {
        kept_node_name(t->n, c.base.node, base);
        snprintf(text, sizeof text, "%s:%" PRIu64, base, c.base.seq);
        json_object_set_new(o, "base", json_string(text));
    }
    if (c.type == NODE_REG) {
        for (size_t i = 0; i < 32; i++)
            snprintf(hex + 2 * i, 3, "%02x", c.digest[i]);
        json_object_set_new(o, "digest", json_string(hex));
    }
    for (uint16_t i = 0; i < c.vv.n; i++) {
        kept_node_name(t->n, c.vv.e[i].node, base);
        json_object_set_new(vv, base, json_integer((json_int_t)c.vv.e[i].seq));
    }
    json_object_set_new(o, "edits", vv);
    json_object_set_new(t->o, "content", o);
}

static void put_attr(struct telling *t)
{
    struct attr_rec at;
    char mode[8];

    if (t->a->r.get_attr(t->a->r.ctx, t->a->inode, &at) < 0)
        return;
    json_t *o = json_object();
    kept_put_head(t->n, o, &at.h);
    snprintf(mode, sizeof mode, "%04o", at.mode);
    json_object_set_new(o, "mode", json_string(mode));
    json_object_set_new(o, "uid", json_integer(at.uid));
    json_object_set_new(o, "gid", json_integer(at.gid));
    json_object_set_new(t->o, "attributes", o);
}

static void put_name(struct telling *t)
{
    struct name_rec name;
    struct place pl;

    if (t->a->root || t->a->r.get_name(t->a->r.ctx, t->a->nid, &name) < 0 ||
        t->a->r.get_place(t->a->r.ctx, t->a->nid, &pl) < 0)
        return;
    (void)!t->a->r.hidden_at(t->a->r.ctx, t->a->parent, (const uint8_t *)t->a->name, t->a->len,
                             visit_rival, t);
    json_t *o = json_object();
    kept_put_head(t->n, o, &name.h);
    bool rivals = json_array_size(t->rivals) > 0;
    json_object_set_new(o, "rule",
                        json_string(name_rule(&name, &pl, t->a->type == NODE_DIR, rivals)));
    json_object_set_new(t->o, "name", o);
}

/* Losers of the same inode. */
static void put_kept(struct telling *t)
{
    struct index_kept k;
    char id[20];
    uint64_t key = 0;
    json_t *list = json_array();

    for (unsigned i = 0; i < KEPT_LOOKED_AT; i++) {
        if (index_reader_next_kept(t->n->files_reader, KEPT_CONFLICT, key, &k) < 0)
            break;
        key = k.key + 1;
        if (!id_eq(k.rid, t->a->inode))
            continue;
        json_t *o = json_object();
        snprintf(id, sizeof id, "%016" PRIx64, k.key);
        json_object_set_new(o, "id", json_string(id));
        json_object_set_new(o, "why", json_string(kept_why_text(k.why)));
        kept_put_head(t->n, o, &k.version);
        json_array_append_new(list, o);
    }
    json_object_set_new(t->o, "kept", list);
}

/* Nothing is there: who deleted it, or took it away? */
static void put_gone(struct telling *t)
{
    struct name_rec name;

    int rc = t->a->r.names_at(t->a->r.ctx, t->a->parent, (const uint8_t *)t->a->name, t->a->len,
                              visit_dead, t);
    if (rc < 0 || !t->any || t->a->r.get_name(t->a->r.ctx, t->latest, &name) < 0)
        return;
    t->a->nid = t->latest;
    json_t *o = json_object();
    kept_put_head(t->n, o, &name.h);
    json_object_set_new(o, "rule",
                        json_string(name.alive ? "its content has not arrived yet"
                                               : "the latest change of this name deleted it"));
    json_object_set_new(t->o, "name", o);
}

static json_t *tell(struct node *n, const char *path, struct at *a)
{
    struct telling t = {.n = n, .a = a, .o = json_object(), .rivals = json_array()};

    kept_put_path(t.o, (const uint8_t *)path, strlen(path));
    json_object_set_new(t.o, "there", json_boolean(a->there));
    if (a->there) {
        put_name(&t);
        put_content(&t);
        put_attr(&t);
        json_object_set(t.o, "hidden", t.rivals);
        put_kept(&t);
    } else {
        put_gone(&t);
    }
    put_nodes(&t);
    json_decref(t.rivals);
    return t.o;
}

/* ---- for people ---- */

static const char *str(const json_t *o, const char *member)
{
    const char *s = json_string_value(json_object_get(o, member));
    return s ? s : "unknown";
}

static void put_by(struct buf *out, const char *what, const json_t *o)
{
    if (o)
        buf_printf(out, "%-11s by %s, version %s, %s", what, str(o, "node"), str(o, "version"),
                   str(o, "written"));
}

static void put_list(struct buf *out, const char *what, const json_t *list, const char *more)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        put_by(out, what, o);
        if (json_is_string(json_object_get(o, "id")))
            buf_printf(out, "; %s%s%s", more, str(o, "id"), json_object_get(o, "why") ? ": " : "");
        if (json_object_get(o, "why"))
            buf_printf(out, "%s", str(o, "why"));
        buf_printf(out, "\n");
    }
}

static void put_text(struct buf *out, const json_t *o)
{
    const json_t *name = json_object_get(o, "name"), *c = json_object_get(o, "content"),
                 *a = json_object_get(o, "attributes"), *nodes = json_object_get(o, "nodes");

    buf_printf(out, "/%s%s\n", str(o, "path"),
               json_is_true(json_object_get(o, "there")) ? "" : " (is not there)");
    put_by(out, "name", name);
    if (name)
        buf_printf(out, "; %s\n", str(name, "rule"));
    put_by(out, "content", c);
    if (c)
        buf_printf(out, "; %" JSON_INTEGER_FORMAT " bytes; the latest by clock\n",
                   json_integer_value(json_object_get(c, "size")));
    put_by(out, "attributes", a);
    if (a)
        buf_printf(out, "; mode %s, owner %" JSON_INTEGER_FORMAT ":%" JSON_INTEGER_FORMAT "\n",
                   str(a, "mode"), json_integer_value(json_object_get(a, "uid")),
                   json_integer_value(json_object_get(a, "gid")));
    put_list(out, "hidden", json_object_get(o, "hidden"), "conflict ");
    put_list(out, "lost", json_object_get(o, "kept"), "conflict ");
    if (!json_is_true(json_object_get(o, "announced")))
        buf_printf(out, "not sent yet: it is still being written\n");
    for (size_t i = 0; i < json_array_size(nodes); i++) {
        const json_t *p = json_array_get(nodes, i), *has = json_object_get(p, "has");
        buf_printf(out, "%-11s %s %s\n", "node", str(p, "name"),
                   json_is_null(has)   ? "was not met since the start"
                   : json_is_true(has) ? "has all of this"
                                       : "has not all of this");
    }
}

int why_read(struct node *n, const char *path, bool json, struct buf *out)
{
    char asked[PATH_MAX];
    struct at a;
    bool dir;

    if (!asked_path(path, asked, &dir))
        return -ENAMETOOLONG;
    int rc = index_reader_begin(n->files_reader);
    if (rc)
        return rc;
    rc = walk(n, asked, &a);
    json_t *o = rc ? NULL : tell(n, asked, &a);
    index_reader_end(n->files_reader);
    if (rc)
        return rc;
    if (json)
        return kept_dump(o, JSON_INDENT(2), out);
    put_text(out, o);
    json_decref(o);
    return out->err;
}
