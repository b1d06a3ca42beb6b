/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A machine's disk: inodes, directories, and what of them a power cut leaves.
 *
 * As ext4 and xfs do it: changes of names are durable in their order (a journal), all of them with
 * any fsync; the data of a file is durable with its own fsync, or by chance. After a cut the names
 * are as they were at some moment since the last fsync, and a file's unsynced data is there or is
 * what was synced before, while its times and attributes are the new ones.
 */
#include "whole.h"

#include "base/digest.h"

#include <stdlib.h>
#include <string.h>

struct undo_name {
    struct inode *dir;
    char name[256];
    struct inode *was;
};

struct undo {
    struct undo *older;
    uint64_t at;
    bool done; /* the change is whole */
    unsigned n;
    struct undo_name v[4];
};

static void must(const void *p)
{
    if (!p)
        abort();
}

struct inode *inode_new(struct machine *m, mode_t mode)
{
    struct inode *i = calloc(1, sizeof *i);

    must(i);
    i->machine = m;
    i->ino = m->ninodes + 100;
    i->mode = mode;
    i->unsynced = S_ISREG(mode);
    if (m->ninodes == m->inodes_size) {
        m->inodes_size = m->inodes_size ? m->inodes_size * 2 : 64;
        m->inodes = realloc(m->inodes, m->inodes_size * sizeof(struct inode *));
        must(m->inodes);
    }
    m->inodes[m->ninodes++] = i;
    inode_touch(i, true);
    return i;
}

struct inode *disk_by_ino(struct machine *m, uint64_t ino)
{
    return ino >= 100 && ino - 100 < m->ninodes ? m->inodes[ino - 100] : NULL;
}

static int64_t stamp_now(const struct machine *m)
{
    int64_t ns = (int64_t)(WALL_START + w.now + (uint64_t)m->skew_us) * 1000;

    return ns - ns % (int64_t)w.grain_ns;
}

void inode_touch(struct inode *i, bool data)
{
    i->ctime = stamp_now(i->machine);
    if (data)
        i->mtime = i->ctime;
}

struct inode *dir_find(const struct inode *dir, const char *name)
{
    for (size_t k = 0; k < dir->nnames; k++)
        if (strcmp(dir->names[k].name, name) == 0)
            return dir->names[k].inode;
    return NULL;
}

static void unlinked(struct inode *i)
{
    i->nlink--;
}

static void dir_set(struct inode *dir, const char *name, struct inode *to)
{
    size_t k = 0;

    while (k < dir->nnames && strcmp(dir->names[k].name, name) != 0)
        k++;
    if (k < dir->nnames) {
        unlinked(dir->names[k].inode);
        if (!to)
            memmove(&dir->names[k], &dir->names[k + 1], (--dir->nnames - k) * sizeof dir->names[0]);
        else
            dir->names[k].inode = to;
    } else if (to) {
        if (dir->nnames == dir->names_size) {
            dir->names_size = dir->names_size ? dir->names_size * 2 : 8;
            dir->names = realloc(dir->names, dir->names_size * sizeof dir->names[0]);
            must(dir->names);
        }
        strcpy(dir->names[dir->nnames].name, name);
        dir->names[dir->nnames++].inode = to;
    }
    if (to) {
        to->nlink++;
        if (S_ISDIR(to->mode))
            to->parent = dir;
    }
}

void disk_change(struct machine *m, struct inode *dir, const char *name, struct inode *to)
{
    struct undo *u = m->undo;

    if (!u || u->done) {
        u = calloc(1, sizeof *u);
        must(u);
        u->older = m->undo;
        u->at = w.now;
        m->undo = u;
    }
    struct undo_name *n = &u->v[u->n++];
    n->dir = dir;
    strcpy(n->name, name);
    n->was = dir_find(dir, name);
    dir_set(dir, name, to);
    inode_touch(dir, true);
}

void disk_change_done(struct machine *m)
{
    if (m->undo)
        m->undo->done = true;
}

void inode_resize(struct inode *i, size_t size)
{
    if (size > i->room) {
        i->room = size < 4096 ? 4096 : size + size / 2;
        i->data = realloc(i->data, i->room);
        must(i->data);
    }
    if (size > i->size)
        memset(i->data + i->size, 0, size - i->size);
    i->size = size;
}

void inode_before_write(struct inode *i)
{
    i->installed = false;
    i->promised = false;
    if (i->unsynced)
        return;
    i->unsynced = true;
    i->synced_size = i->size;
    i->synced = malloc(i->size ? i->size : 1);
    must(i->synced);
    if (i->size)
        memcpy(i->synced, i->data, i->size);
}

static void data_synced(struct inode *i)
{
    i->unsynced = false;
    free(i->synced);
    i->synced = NULL;
    i->synced_size = 0;
}

void inode_sync(struct inode *i)
{
    struct machine *m = i->machine;

    data_synced(i);
    while (m->undo) {
        struct undo *u = m->undo;
        m->undo = u->older;
        free(u);
    }
}

static void data_lost(struct inode *i)
{
    inode_resize(i, i->synced_size);
    if (i->synced_size)
        memcpy(i->data, i->synced, i->synced_size);
    data_synced(i);
}

static void data_cut(struct inode *i)
{
    i->opens = 0;
    i->promised = false;
    if (!i->unsynced)
        return;
    if (one_in(2) || !S_ISREG(i->mode)) {
        data_synced(i); /* it had been written back */
        return;
    }
    data_lost(i);
}

void disk_power_cut(struct machine *m)
{
    size_t changes = 0;

    for (const struct undo *u = m->undo; u; u = u->older)
        changes++;
    size_t lost = changes ? below(changes + 1) : 0;
    if (one_in(2))
        lost = lost < 3 ? lost : 3;
    note("m%u: power cut: %zu of %zu changes of names are lost", m->i, lost, changes);
    for (; m->undo; lost -= lost > 0) {
        struct undo *u = m->undo;
        for (unsigned k = u->n; lost > 0 && k-- > 0;)
            dir_set(u->v[k].dir, u->v[k].name, u->v[k].was);
        m->undo = u->older;
        free(u);
    }
    for (size_t i = 0; i < m->ninodes; i++)
        data_cut(m->inodes[i]);
}

void inode_digest(const struct inode *i, uint8_t out[32])
{
    uint64_t n = digest_leaves(i->size);
    uint8_t *leaves;

    if (i->size <= DIGEST_BLOCK) {
        digest_small(i->size ? i->data : (const uint8_t *)"", i->size, out);
        return;
    }
    leaves = malloc(n * DIGEST_LEN);
    must(leaves);
    for (uint64_t k = 0; k < n; k++) {
        size_t off = k * DIGEST_BLOCK, len = i->size - off;
        digest_leaf(i->data + off, len < DIGEST_BLOCK ? len : DIGEST_BLOCK,
                    leaves + k * DIGEST_LEN);
    }
    digest_root(i->size, leaves, n, out);
    free(leaves);
}

bool inode_below(const struct inode *i, const struct inode *top)
{
    for (; i; i = i->parent)
        if (i == top)
            return true;
    return false;
}

void disk_init(struct machine *m)
{
    m->root = inode_new(m, S_IFDIR | 0755);
    m->root->nlink = 1;
    disk_change(m, m->root, "tree", inode_new(m, S_IFDIR | 0755));
    disk_change_done(m);
    m->tree = dir_find(m->root, "tree");
    inode_sync(m->root);
}

/* ---- snapshots of a machine ---- */

struct snapshot {
    size_t n;
    struct inode *copies; /* of inodes[0..n) */
};

static void copy_inode(struct inode *to, const struct inode *from)
{
    *to = *from;
    to->synced = NULL;
    to->unsynced = false;
    to->data = malloc(from->size ? from->size : 1);
    to->names = malloc((from->nnames ? from->nnames : 1) * sizeof to->names[0]);
    must(to->data);
    must(to->names);
    if (from->size)
        memcpy(to->data, from->data, from->size);
    if (from->nnames)
        memcpy(to->names, from->names, from->nnames * sizeof to->names[0]);
    to->room = from->size;
    to->names_size = from->nnames ? from->nnames : 1;
}

void disk_snapshot(struct machine *m)
{
    struct snapshot *s = calloc(1, sizeof *s);

    must(s);
    s->n = m->ninodes;
    s->copies = calloc(s->n, sizeof *s->copies);
    must(s->copies);
    for (size_t i = 0; i < s->n; i++)
        copy_inode(&s->copies[i], m->inodes[i]);
    m->snapshot = s; /* an older one is the run's to forget */
}

/* Inodes made since have no names any more; their numbers are not used again. */
void disk_restore(struct machine *m)
{
    const struct snapshot *s = m->snapshot;

    while (m->undo) {
        struct undo *u = m->undo;
        m->undo = u->older;
        free(u);
    }
    for (size_t i = 0; i < m->ninodes; i++) {
        struct inode *x = m->inodes[i];
        if (i < s->n) {
            copy_inode(x, &s->copies[i]);
            x->promised = false;
        } else {
            x->nlink = x->opens = 0;
            x->nnames = 0;
            x->parent = NULL;
        }
    }
}
