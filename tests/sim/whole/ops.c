/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Applications: few names, few directories, all kinds of operations, through the mount; and what an
 * administrator does to the folder while it is not mounted.
 */
#include "whole.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOT_INO 3ull
#define APPS 2u
#define SMALL_MAX 3000u
#define BIG_MAX (420u * 1024u)

/* A caller may get these; anything else is the worker's fault. */
static void expect(const char *what, int e)
{
    switch (e < 0 ? -e : 0) {
    case 0:
    case ENOENT:
    case EEXIST:
    case ENOTDIR:
    case EISDIR:
    case ENOTEMPTY:
    case ESTALE:
    case EINVAL:
    case ELOOP:
    case EPERM: return;
    case ENOSPC:
        if (w.faults & FAULT_FULL)
            return;
        break;
    default: break;
    }
    fail("m%u: a caller's %s fails: %s", here()->i, what, strerror(-e));
}

static const char *any_name(void)
{
    static const char *const names[] = {"a", "b",     "c",
                                        "d", "e.txt", "a-name-that-is-somewhat-longer"};
    return names[below(one_in(3) ? 6 : 4)];
}

/* A directory: walks down from the root for a while. */
static uint64_t any_dir(void)
{
    uint64_t at = ROOT_INO, next, size;
    mode_t mode;

    for (unsigned depth = below(4); depth > 0; depth--)
        if (k_lookup(at, any_name(), &next) == 0 && k_size(next, &size, &mode) == 0 &&
            S_ISDIR(mode))
            at = next;
    return at;
}

static size_t any_bytes(uint8_t *p, size_t max)
{
    size_t n = 1 + below(max);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(rnd() >> 56);
    return n;
}

static int write_all(uint64_t ino, const uint8_t *p, size_t n, uint64_t off)
{
    int e = 0;

    while (n > 0 && e >= 0) {
        size_t part = n > 65536 ? 65536 : n;
        if (part > 1 && one_in(4))
            part = 1 + below(part);
        e = k_write(ino, p, part, off);
        if (e <= 0)
            break;
        p += e;
        off += (uint64_t)e;
        n -= (size_t)e;
    }
    return e < 0 ? e : 0;
}

/* It was closed without an error: what it holds now is promised to be published, until it is
 * written to, or the machine loses power. */
static void close_written(uint64_t ino, int e)
{
    struct machine *m = here();
    struct inode *i = inode_of_lid(m, ino);
    unsigned open = 0;

    for (size_t k = 0; k < m->k.nopen; k++)
        open += m->k.open_lids[k] == ino;
    if (e == 0 && i && open == 1 && i->nlink && !i->installed && S_ISREG(i->mode)) {
        inode_digest(i, i->digest);
        i->promised = true;
    }
    k_close(ino, true);
}

static bool regular(uint64_t ino, uint64_t *size)
{
    mode_t mode;

    return k_size(ino, size, &mode) == 0 && S_ISREG(mode);
}

static void op_create(uint8_t *p)
{
    uint64_t dir = any_dir(), ino;
    const char *name = any_name();
    int e = k_create(dir, name, 0600 + below(2) * 044, &ino);

    expect("create", e);
    if (e)
        return;
    note("m%u: create %s in %llu is %llu", here()->i, name, (unsigned long long)dir,
         (unsigned long long)ino);
    k_open(ino);
    if (!one_in(8)) {
        bool big = one_in(w.big_one_in);
        e = write_all(ino, p, any_bytes(p, big ? BIG_MAX : one_in(4) ? SMALL_MAX : 40), 0);
        expect("write", e);
    }
    if (one_in(4))
        fiber_sleep(below(one_in(3) ? 3 * SEC : 50000));
    if (one_in(6))
        expect("fsync", k_fsync(ino));
    close_written(ino, e);
}

static void op_edit(uint8_t *p)
{
    uint64_t ino, size;
    int e;

    if (k_lookup(any_dir(), any_name(), &ino))
        return;
    k_open(ino);
    if (!regular(ino, &size)) {
        k_close(ino, false);
        return;
    }
    note("m%u: edit %llu", here()->i, (unsigned long long)ino);
    switch (below(5)) {
    case 0: /* open(O_TRUNC) */
        e = k_truncate(ino, 0, true);
        if (!e)
            e = write_all(ino, p, any_bytes(p, 400), 0);
        break;
    case 1: /* append */ e = write_all(ino, p, any_bytes(p, 200), size); break;
    case 2: e = k_truncate(ino, size ? below(size * 2) : 10, true); break;
    default:
        e = write_all(ino, p, any_bytes(p, 100), size ? below(size) : 0);
        for (unsigned k = below(4); !e && k > 0; k--)
            e = write_all(ino, p, any_bytes(p, 100), size ? below(size) : 0);
        break;
    }
    expect("write", e);
    if (one_in(6))
        fiber_sleep(below(SEC));
    close_written(ino, e);
}

/* What is read under one open is one version, if nobody here writes meanwhile. */
static void op_read(uint8_t *p)
{
    uint64_t ino, size, at = 0;
    int e;

    if (k_lookup(any_dir(), any_name(), &ino))
        return;
    k_open(ino);
    if (regular(ino, &size)) {
        do
            e = k_read(ino, p, 4096 + below(100000), at);
        while (e > 0 && (at += (uint64_t)e) < size);
        expect("read", e);
    }
    k_close(ino, false);
}

static void op_attr(void)
{
    uint64_t ino, size;
    mode_t mode;
    int e;

    if (k_lookup(any_dir(), any_name(), &ino) || k_size(ino, &size, &mode))
        return;
    switch (S_ISLNK(mode) ? 1 : below(3)) { /* of a symlink only the time can be set */
    case 0: e = k_chmod(ino, 0600 + below(64)); break;
    case 1: e = k_utime(ino, (int64_t)(1000000000 + below(100000)) * 1000000000); break;
    default: e = k_setxattr(ino, one_in(2) ? "user.a" : "user.b", any_name()); break;
    }
    expect("setattr", e);
}

static void op_rename(void)
{
    uint64_t a = any_dir(), b = one_in(2) ? a : any_dir();
    const char *x = any_name(), *y = any_name();
    unsigned flags = one_in(5) ? RENAME_EXCHANGE : one_in(5) ? RENAME_NOREPLACE : 0;
    int e = k_rename(a, x, b, y, flags);

    expect("rename", e);
    if (!e)
        note("m%u: rename %s in %llu to %s in %llu (%u)", here()->i, x, (unsigned long long)a, y,
             (unsigned long long)b, flags);
}

static void op_link(void)
{
    uint64_t ino, size;

    if (k_lookup(any_dir(), any_name(), &ino) == 0 && regular(ino, &size))
        expect("link", k_link(ino, any_dir(), any_name()));
}

static void op_remove(bool rmdir)
{
    uint64_t dir = any_dir();
    const char *name = any_name();
    int e = k_remove(dir, name, rmdir);

    expect("remove", e);
    if (!e)
        note("m%u: remove %s in %llu", here()->i, name, (unsigned long long)dir);
}

static void one_op(uint8_t *p)
{
    switch (below(20)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: op_create(p); break;
    case 5:
    case 6:
    case 7:
    case 8: op_edit(p); break;
    case 9:
    case 10: expect("mkdir", k_mkdir(any_dir(), any_name())); break;
    case 11:
    case 12: op_remove(false); break;
    case 13: op_remove(true); break;
    case 14:
    case 15:
    case 16: op_rename(); break;
    case 17: op_link(); break;
    case 18:
        if (one_in(3))
            expect("symlink", k_symlink(any_dir(), any_name(), any_name()));
        else
            op_read(p);
        break;
    default: op_attr(); break;
    }
}

static void *app_run(void *arg)
{
    struct machine *m = arg;
    uint8_t *p = malloc(BIG_MAX + 1);

    if (!p)
        abort();
    for (;;) {
        fiber_sleep(1 + below(one_in(4) ? 20 * w.pause_us : w.pause_us));
        if (w.steps == 0 || w.healing || m->worker_state == WORKER_STOPPING || m->boots == 0)
            continue;
        w.steps--;
        w.ops++;
        m->apps_busy++;
        one_op(p);
        m->apps_busy--;
    }
}

void apps_start(struct machine *m)
{
    m->apps = proc_new(m, "applications");
    for (unsigned i = 0; i < APPS; i++)
        fiber_new(m->apps, app_run, m);
}

/* ---- behind the mount's back ---- */

static struct inode *any_dir_of(struct machine *m)
{
    struct inode *at = m->tree;

    for (unsigned depth = below(3); depth > 0; depth--) {
        struct inode *next = dir_find(at, any_name());
        if (next && S_ISDIR(next->mode))
            at = next;
    }
    return at;
}

static void edit_one(struct machine *m)
{
    struct inode *dir = any_dir_of(m), *i;
    const char *name = any_name();
    uint8_t bytes[64];

    i = dir_find(dir, name);
    switch (below(4)) {
    case 0: /* a new file, perhaps in place of another */
    case 1:
        if (i && S_ISDIR(i->mode))
            return;
        if (i)
            i->removed = true;
        i = inode_new(m, S_IFREG | 0644);
        inode_resize(i, any_bytes(bytes, sizeof bytes));
        memcpy(i->data, bytes, i->size);
        disk_change(m, dir, name, i);
        break;
    case 2: /* removed */
        if (!i || (S_ISDIR(i->mode) && i->nnames))
            return;
        i->removed = true;
        disk_change(m, dir, name, NULL);
        break;
    default: /* moved */
    {
        struct inode *to = any_dir_of(m);
        const char *name2 = any_name();
        if (!i || dir_find(to, name2) || inode_below(to, i))
            return;
        disk_change(m, dir, name, NULL);
        disk_change(m, to, name2, i);
        break;
    }
    }
    disk_change_done(m);
    note("m%u: changed while unmounted: %s", m->i, name);
}

void edit_unmounted(struct machine *m)
{
    for (unsigned k = below(4); k > 0; k--)
        edit_one(m);
    for (size_t k = 0; k < m->ninodes; k++)
        inode_sync(m->inodes[k]);
}
