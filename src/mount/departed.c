/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"
#include "mount/mount_i.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Their addresses mark files: without a name, and replaced by a peer's version. */
static struct stat departed_file, departed_replaced;

static bool is_file(const struct stat *value)
{
    return value == &departed_file || value == &departed_replaced;
}

/* An orphan that a former worker left. One whose inode is still a file of the folder is the second
 * name that was made for a rename which then did not take place. */
static int add_orphan(void *arg, uint64_t lid)
{
    struct mount *m = arg;
    struct node_ref ref;
    char name[40];
    int r = nodes_get(m->env.nodes, lid, &ref);
    if (r == 0 && !ref.orphan) {
        staging_orphan_name(lid, name);
        return unlinkat(m->env.staging->orphans, name, 0) < 0 && errno != ENOENT ? -errno : 0;
    }
    if (r < 0 && r != -ENOENT)
        return r;
    return departed_file_add(&m->departed, lid,
                             m->env.replaced != NULL && m->env.replaced(m->env.arg, lid));
}

int departed_init(struct mount *m)
{
    pthread_mutex_init(&m->departed.lock, NULL);
    map_u64_init(&m->departed.map);
    return staging_each_orphan(m->env.staging, add_orphan, m);
}

void departed_fini(struct departed *d)
{
    size_t it = 0;
    uint64_t lid;
    struct stat *st;
    while ((st = map_u64_next(&d->map, &it, &lid)) != NULL)
        if (!is_file(st))
            free(st);
    map_u64_fini(&d->map);
    pthread_mutex_destroy(&d->lock);
}

static int put(struct departed *d, uint64_t lid, struct stat *value)
{
    void *old = NULL;
    pthread_mutex_lock(&d->lock);
    int r = map_u64_set(&d->map, lid, value, &old);
    if (r == 0 && old == NULL)
        atomic_fetch_add(&d->n, 1);
    pthread_mutex_unlock(&d->lock);
    if (r == 0 && !is_file(old))
        free(old);
    return r;
}

int departed_file_add(struct departed *d, uint64_t lid, bool replaced)
{
    return put(d, lid, replaced ? &departed_replaced : &departed_file);
}

void departed_undo(struct departed *d, uint64_t lid)
{
    pthread_mutex_lock(&d->lock);
    if (map_u64_del(&d->map, lid) != NULL)
        atomic_fetch_sub(&d->n, 1);
    pthread_mutex_unlock(&d->lock);
}

void departed_dir_add(struct departed *d, uint64_t lid, const struct stat *st)
{
    struct stat *copy = malloc(sizeof(*copy));
    if (copy == NULL)
        return; /* then a stat of the removed directory fails, no more */
    *copy = *st;
    copy->st_nlink = 0;
    if (put(d, lid, copy) < 0)
        free(copy);
}

bool departed_has(struct departed *d, uint64_t lid)
{
    if (atomic_load(&d->n) == 0)
        return false;
    pthread_mutex_lock(&d->lock);
    bool has = map_u64_get(&d->map, lid) != NULL;
    pthread_mutex_unlock(&d->lock);
    return has;
}

bool departed_deaf(struct departed *d, uint64_t lid)
{
    if (atomic_load(&d->n) == 0)
        return false;
    pthread_mutex_lock(&d->lock);
    const struct stat *have = map_u64_get(&d->map, lid);
    pthread_mutex_unlock(&d->lock);
    return have != NULL && have != &departed_replaced;
}

bool departed_dir(struct departed *d, uint64_t lid, struct stat *st)
{
    if (atomic_load(&d->n) == 0)
        return false;
    pthread_mutex_lock(&d->lock);
    struct stat *have = map_u64_get(&d->map, lid);
    bool is = have != NULL && !is_file(have);
    if (is)
        *st = *have;
    pthread_mutex_unlock(&d->lock);
    return is;
}

void departed_forget(struct mount *m, uint64_t lid)
{
    struct departed *d = &m->departed;
    if (atomic_load(&d->n) == 0)
        return;
    pthread_mutex_lock(&d->lock);
    struct stat *have = map_u64_del(&d->map, lid);
    if (have != NULL)
        atomic_fetch_sub(&d->n, 1);
    pthread_mutex_unlock(&d->lock);
    if (have == NULL)
        return;
    if (!is_file(have)) {
        free(have);
        return;
    }
    char name[40];
    staging_orphan_name(lid, name);
    nodes_close_fds(m->env.nodes, lid);
    /* What was written to it last may still have to be kept by the core, which then deletes it. */
    bool mine = have == &departed_file && !m->env.keep_orphans;
    if (mine && unlinkat(m->env.staging->orphans, name, 0) < 0 && errno != ENOENT)
        log_warn_code(-errno, "cannot delete the unlinked file %s", name);
    int r = capture_add(m, INTENT_FORGET, 0, lid, 0, 0);
    if (r < 0 && r != FARM_ECLOSED)
        log_warn_code(r, "cannot log that inode %llu is gone", (unsigned long long)lid);
}
