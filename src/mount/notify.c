/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"
#include "mount/mount_i.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>

/* No bound: see mount_behind. */
#define NOTICES_CAP SIZE_MAX
#define NOTICES_MANY 65536u

enum notice_kind { NOTICE_ENTRY, NOTICE_ATTR, NOTICE_DATA, NOTICE_RELEASE, NOTICE_CALL };

struct notice {
    struct qnode q; /* first */
    enum notice_kind kind;
    uint64_t lid;
    bool dir;
    void (*call)(void *);
    void *arg;
    uint8_t name_len;
    char name[256];
};

static int expire_entry(struct mount *m, const struct notice *n)
{
#ifdef FARM_FUSE_EXPIRE_FLAGS
    return fuse_lowlevel_notify_expire_entry(m->se, ino_of(n->lid), n->name, n->name_len,
                                             FUSE_LL_EXPIRE_ONLY);
#else
    return fuse_lowlevel_notify_expire_entry(m->se, ino_of(n->lid), n->name, n->name_len);
#endif
}

/* A directory may have a mount below, which an invalidation would detach: it is only expired. For
 * anything else that would leave a gap: a revalidation whose answer is on its way while we expire
 * the entry makes it valid again. */
static int expire(struct mount *m, const struct notice *n)
{
    if (!n->dir)
        return fuse_lowlevel_notify_inval_entry(m->se, ino_of(n->lid), n->name, n->name_len);
    int r = expire_entry(m, n);
    if (r == -ENOSYS) /* Linux before 6.2 */
        r = fuse_lowlevel_notify_inval_entry(m->se, ino_of(n->lid), n->name, n->name_len);
    return r;
}

static void carry_out(struct mount *m, struct notice *n)
{
    int r = 0;
    switch (n->kind) {
    case NOTICE_ENTRY: r = expire(m, n); break;
    case NOTICE_ATTR: r = fuse_lowlevel_notify_inval_inode(m->se, ino_of(n->lid), -1, 0); break;
    case NOTICE_DATA: r = fuse_lowlevel_notify_inval_inode(m->se, ino_of(n->lid), 0, 0); break;
    case NOTICE_RELEASE:
        r = fuse_lowlevel_notify_inval_inode(m->se, ino_of(n->lid), 0, 0);
        if (r == -ENOENT)
            departed_forget(m, n->lid);
        break;
    case NOTICE_CALL: n->call(n->arg); break;
    }
    /* ENOENT: the kernel has nothing cached. */
    if (r < 0 && r != -ENOENT && !atomic_load(&m->ended))
        log_warn_code(r, "cannot invalidate what the kernel has cached of inode %llu",
                      (unsigned long long)n->lid);
}

static void *notify_main(void *arg)
{
    struct mount *m = arg;
    struct qnode *q;
    prctl(PR_SET_NAME, "notify");
    while ((q = queue_pop(&m->notices)) != NULL) {
        struct notice *n = (struct notice *)(void *)q;
        carry_out(m, n);
        free(n);
    }
    return NULL;
}

int notify_start(struct mount *m)
{
    int r = queue_init(&m->notices, NOTICES_CAP);
    if (r < 0)
        return r;
    r = -pthread_create(&m->notify_id, NULL, notify_main, m);
    if (r < 0)
        queue_fini(&m->notices);
    return r;
}

void notify_stop(struct mount *m)
{
    queue_close(&m->notices);
    pthread_join(m->notify_id, NULL);
    queue_fini(&m->notices);
}

/* A lost invalidation would show old content for a year: without memory for it there is no going
 * on. */
static struct notice *notice_new(enum notice_kind kind, uint64_t lid)
{
    struct notice *n = calloc(1, sizeof(*n));
    farm_assert(n != NULL);
    n->kind = kind;
    n->lid = lid;
    return n;
}

static void push(struct mount *m, struct notice *n)
{
    if (queue_push(&m->notices, &n->q) < 0) {
        /* Closed: the mount is being stopped. Whoever waits for a call still gets it. */
        if (n->kind == NOTICE_CALL)
            n->call(n->arg);
        free(n);
    }
}

bool mount_behind(struct mount *m)
{
    pthread_mutex_lock(&m->notices.lock);
    bool many = m->notices.n > NOTICES_MANY;
    pthread_mutex_unlock(&m->notices.lock);
    return many;
}

void mount_forget_entry(struct mount *m, uint64_t parent, const uint8_t *name, uint8_t len,
                        bool dir)
{
    struct notice *n = notice_new(NOTICE_ENTRY, parent);
    n->dir = dir;
    n->name_len = len;
    memcpy(n->name, name, len);
    push(m, n);
}

void mount_forget_attr(struct mount *m, uint64_t lid)
{
    push(m, notice_new(NOTICE_ATTR, lid));
}

void mount_forget_data(struct mount *m, uint64_t lid)
{
    push(m, notice_new(NOTICE_DATA, lid));
}

int mount_depart(struct mount *m, uint64_t lid, bool replaced)
{
    return departed_file_add(&m->departed, lid, replaced);
}

void mount_release_orphan(struct mount *m, uint64_t lid)
{
    push(m, notice_new(NOTICE_RELEASE, lid));
}

void mount_after_notify(struct mount *m, void (*f)(void *), void *arg)
{
    struct notice *n = notice_new(NOTICE_CALL, 0);
    n->call = f;
    n->arg = arg;
    push(m, n);
}

void notify_attr_soon(struct mount *m, uint64_t lid)
{
    struct notice *n = notice_new(NOTICE_ATTR, lid);
    if (queue_try_push(&m->notices, &n->q) < 0)
        free(n);
}
