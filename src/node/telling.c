/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What effects changed and the kernel may not have been told of. Telling is done by the mount's
 * notify thread, some time later; a worker that dies in between leaves a kernel that shows the old
 * for a year. Core thread, but for `told`.
 */
#include "node/node.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

struct telling {
    uint64_t seq;
    struct effect e;
};

void telling_add(struct node *n, const struct effect *e)
{
    if (!n->mount && !(n->args && n->args->restarted))
        return; /* a kernel that knows nothing yet */
    if (n->ntelling == n->telling_size) {
        size_t size = n->telling_size ? n->telling_size * 2 : 64;
        struct telling *v = realloc(n->telling, size * sizeof *v);
        farm_assert(v); /* without it the kernel might go on showing what is gone */
        n->telling = v;
        n->telling_size = size;
    }
    n->telling[n->ntelling] = (struct telling){++n->tell_seq, *e};
    n->telling[n->ntelling++].e.done = true;
}

struct told {
    struct node *n;
    uint64_t seq;
};

/* On the notify thread, behind all that was queued before. */
static void told(void *arg)
{
    struct told *t = arg;

    atomic_store(&t->n->told_seq, t->seq);
    free(t);
}

void telling_flush(struct node *n)
{
    struct told *t = n->mount && n->ntelling ? malloc(sizeof *t) : NULL;

    if (!t)
        return; /* no memory: with the next ones */
    *t = (struct told){n, n->tell_seq};
    mount_after_notify(n->mount, told, t);
}

int telling_put(struct node *n, uint64_t ordinal)
{
    uint64_t upto = atomic_load(&n->told_seq);
    size_t gone = 0;
    struct buf b;
    int rc = 0;

    while (gone < n->ntelling && n->telling[gone].seq <= upto)
        gone++;
    n->ntelling -= gone;
    if (gone && n->ntelling)
        memmove(n->telling, n->telling + gone, n->ntelling * sizeof *n->telling);
    buf_init(&b, 4096);
    for (size_t i = 0; i < n->ntelling && !rc; i++) {
        buf_reset(&b);
        effect_encode(&b, &n->telling[i].e);
        rc = b.err ? b.err : index_put_pending(n->index, ordinal + i, b.data, b.len);
    }
    buf_fini(&b);
    return rc;
}

void telling_start(struct node *n)
{
    for (size_t i = 0; i < n->ntelling; i++)
        effect_tell(n, &n->telling[i].e);
    telling_flush(n);
}
