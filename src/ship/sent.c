/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ship/sent.h"

#include "base/digest.h"

#include <errno.h>
#include <stdlib.h>

#define WAYS 4u

struct slot {
    struct id128 rid; /* none: free */
    struct stamp version;
    uint64_t used;
};

struct sent {
    uint64_t now;
    struct slot slots[SENT_MAX];
};

int sent_new(struct sent **out)
{
    struct sent *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    *out = s;
    return 0;
}

void sent_free(struct sent *s)
{
    free(s);
}

static struct slot *set_of(struct sent *s, struct id128 rid)
{
    return &s->slots[digest_guard(&rid, sizeof rid) % (SENT_MAX / WAYS) * WAYS];
}

void sent_put(struct sent *s, struct id128 rid, struct stamp version)
{
    struct slot *set = set_of(s, rid), *to = set;

    for (unsigned i = 0; i < WAYS; i++) {
        if (id_eq(set[i].rid, rid)) {
            to = &set[i];
            break;
        }
        if (set[i].used < to->used)
            to = &set[i];
    }
    *to = (struct slot){rid, version, ++s->now};
}

bool sent_get(struct sent *s, struct id128 rid, struct stamp *version)
{
    struct slot *set = set_of(s, rid);

    for (unsigned i = 0; i < WAYS; i++) {
        if (!id_eq(set[i].rid, rid))
            continue;
        set[i].used = ++s->now;
        *version = set[i].version;
        return true;
    }
    return false;
}
