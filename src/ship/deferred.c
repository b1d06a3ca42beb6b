/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ship/deferred.h"

#include "ship/sender.h"

#include <errno.h>
#include <stdlib.h>

void deferred_init(struct deferred *d)
{
    *d = (struct deferred){NULL, 0, 0};
}

void deferred_fini(struct deferred *d)
{
    free(d->e);
    deferred_init(d);
}

int deferred_add(struct deferred *d, struct deferred_entry e)
{
    if (d->n == SENDER_DEFERRED)
        return FARM_EFULL;
    if (d->n == d->size) {
        size_t size = d->size ? d->size * 2 : 64;
        struct deferred_entry *more = realloc(d->e, size * sizeof *more);
        if (!more)
            return -ENOMEM;
        d->e = more;
        d->size = size;
    }
    d->e[d->n++] = e;
    return 0;
}

void deferred_done(struct deferred *d, uint64_t pos)
{
    size_t from = 0, to = d->n;

    while (from < to) {
        size_t mid = (from + to) / 2;
        if (d->e[mid].pos < pos)
            from = mid + 1;
        else
            to = mid;
    }
    if (from < d->n && d->e[from].pos == pos)
        d->e[from].source = 0;
}

void deferred_tidy(struct deferred *d, const struct vvec *know)
{
    size_t n = 0;

    for (size_t i = 0; i < d->n; i++)
        if (d->e[i].source && !vvec_covers(know, d->e[i].stamp))
            d->e[n++] = d->e[i];
    d->n = n;
}
