/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Open descriptors of backing inodes, shared by all threads, by (lid, mode). */
#include "base/log.h"
#include "store/nodes_i.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define FD_KEY_BITS 2u

struct node_fd {
    struct clocked c; /* pins: users */
    uint64_t key;     /* lid and mode */
    int fd;
    bool dead; /* out of the table: closed by the last user */
};

static struct shard *fd_shard(struct nodes *n, uint64_t lid)
{
    return &n->fds[lid % NODES_SHARDS];
}

static uint64_t fd_key(uint64_t lid, unsigned mode)
{
    return lid << FD_KEY_BITS | mode;
}

/* Under the lock. Whoever opened for more can serve those who want less. */
static struct node_fd *fd_use(struct shard *s, uint64_t lid, unsigned mode)
{
    for (unsigned m = mode; m <= NODES_WRITE; m++) {
        struct node_fd *f = map_u64_get(&s->by_u64, fd_key(lid, m));
        if (f != NULL) {
            f->c.pins++;
            f->c.used = true;
            return f;
        }
    }
    return NULL;
}

static void fd_close(struct node_fd *f)
{
    if (f == NULL)
        return;
    close(f->fd);
    free(f);
}

/* Under the lock. Returns it when nobody uses it: to be closed when the lock has been dropped. */
static struct node_fd *fd_retire(struct shard *s, struct node_fd *f)
{
    map_u64_del(&s->by_u64, f->key);
    clock_del(s, &f->c);
    f->dead = true;
    return f->c.pins == 0 ? f : NULL;
}

static int fd_open(struct nodes *n, uint64_t lid, enum nodes_mode mode, int *fd)
{
    struct node_ref ref;
    int r = nodes_get(n, lid, &ref);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    int flags = O_NOFOLLOW | O_CLOEXEC;
    if (mode == NODES_PATH)
        flags |= O_PATH;
    else if (ref.type == NODE_DIR && mode == NODES_READ)
        flags |= O_RDONLY | O_DIRECTORY;
    else if (ref.type == NODE_DIR)
        return -EISDIR;
    else if (ref.type != NODE_REG) /* opening a device or FIFO would do something to it */
        return ref.type == NODE_LNK ? -ELOOP : -EINVAL;
    else
        flags |= mode == NODES_READ ? O_RDONLY : O_RDWR;
    return handle_open(n->rootfd, &ref.handle, flags, fd);
}

/* Under the lock. `made` goes into the table, and what has to go for it into `victims`. */
static void fd_insert(struct shard *s, struct node_fd *made, struct node_fd *victims[2])
{
    for (unsigned i = 0; i < 2; i++) {
        struct node_fd *victim = (struct node_fd *)(void *)clock_victim(s);
        victims[i] = victim != NULL ? fd_retire(s, victim) : NULL;
    }
    if (map_u64_set(&s->by_u64, made->key, made, NULL) < 0)
        made->dead = true; /* serves this one user */
    else
        clock_add(s, &made->c);
}

/* Nobody had it open. `changes`: the shard's before. */
static int fd_make(struct nodes *n, uint64_t lid, enum nodes_mode mode, uint64_t changes,
                   struct node_fd **out)
{
    struct shard *s = fd_shard(n, lid);
    struct node_fd *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    int r = fd_open(n, lid, mode, &made->fd);
    if (r < 0) {
        free(made);
        return r;
    }
    made->key = fd_key(lid, mode);
    made->c.pins = 1;
    struct node_fd *unused = NULL, *victims[2] = {NULL, NULL};
    pthread_mutex_lock(&s->lock);
    struct node_fd *other = fd_use(s, lid, mode);
    if (other != NULL)
        unused = made;
    else if (s->changes != changes)
        made->dead = true; /* closing was asked for meanwhile */
    else
        fd_insert(s, made, victims);
    pthread_mutex_unlock(&s->lock);
    *out = other != NULL ? other : made;
    fd_close(unused);
    fd_close(victims[0]);
    fd_close(victims[1]);
    return 0;
}

int nodes_get_fd(struct nodes *n, uint64_t lid, enum nodes_mode mode, struct node_fd **out, int *fd)
{
    struct shard *s = fd_shard(n, lid);
    pthread_mutex_lock(&s->lock);
    uint64_t changes = s->changes;
    struct node_fd *f = fd_use(s, lid, mode);
    pthread_mutex_unlock(&s->lock);
    int r = f != NULL ? 0 : fd_make(n, lid, mode, changes, &f);
    if (r < 0)
        return r;
    *out = f;
    *fd = f->fd;
    return 0;
}

void nodes_put_fd(struct nodes *n, struct node_fd *f)
{
    struct shard *s = fd_shard(n, f->key >> FD_KEY_BITS);
    pthread_mutex_lock(&s->lock);
    farm_assert(f->c.pins > 0);
    bool last = --f->c.pins == 0 && f->dead;
    pthread_mutex_unlock(&s->lock);
    if (last)
        fd_close(f);
}

void nodes_close_fds(struct nodes *n, uint64_t lid)
{
    struct node_fd *closing[NODES_WRITE + 1] = {NULL};
    struct shard *s = fd_shard(n, lid);
    pthread_mutex_lock(&s->lock);
    s->changes++;
    for (unsigned m = NODES_PATH; m <= NODES_WRITE; m++) {
        struct node_fd *f = map_u64_get(&s->by_u64, fd_key(lid, m));
        closing[m] = f != NULL ? fd_retire(s, f) : NULL;
    }
    pthread_mutex_unlock(&s->lock);
    for (unsigned m = NODES_PATH; m <= NODES_WRITE; m++)
        fd_close(closing[m]);
}

void nodes_fd_fini(struct shard *s)
{
    while (s->hand != NULL) {
        struct node_fd *f = (struct node_fd *)(void *)s->hand;
        clock_del(s, &f->c);
        fd_close(f);
    }
}
