/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/types.h"

/* Index of the first entry whose node is >= node. */
static uint16_t lower(const struct vvec *v, uint64_t node)
{
    uint16_t i = 0;

    while (i < v->n && v->e[i].node < node)
        i++;
    return i;
}

uint64_t vvec_get(const struct vvec *v, uint64_t node)
{
    uint16_t i = lower(v, node);

    return i < v->n && v->e[i].node == node ? v->e[i].seq : 0;
}

int vvec_raise(struct vvec *v, uint64_t node, uint64_t seq)
{
    uint16_t i = lower(v, node);

    if (i < v->n && v->e[i].node == node) {
        if (v->e[i].seq < seq)
            v->e[i].seq = seq;
        return 0;
    }
    if (seq == 0)
        return 0;
    if (v->n >= VVEC_MAX)
        return FARM_EFULL;
    memmove(&v->e[i + 1], &v->e[i], (size_t)(v->n - i) * sizeof(v->e[0]));
    v->e[i] = (struct stamp){node, seq};
    v->n++;
    return 0;
}

void vvec_lower(struct vvec *v, struct stamp s)
{
    uint16_t i = lower(v, s.node);

    if (i >= v->n || v->e[i].node != s.node || v->e[i].seq < s.seq)
        return;
    v->e[i].seq = s.seq - 1;
    if (v->e[i].seq == 0)
        memmove(&v->e[i], &v->e[i + 1], (size_t)(--v->n - i) * sizeof(v->e[0]));
}

int vvec_join(struct vvec *a, const struct vvec *b)
{
    struct vvec joined = *a;
    int rc;

    for (uint16_t i = 0; i < b->n; i++) {
        rc = vvec_raise(&joined, b->e[i].node, b->e[i].seq);
        if (rc < 0)
            return rc;
    }
    *a = joined;
    return 0;
}

bool vvec_covers(const struct vvec *a, struct stamp s)
{
    return s.node == 0 || vvec_get(a, s.node) >= s.seq;
}

bool vvec_includes(const struct vvec *a, const struct vvec *b)
{
    uint16_t j = 0;

    for (uint16_t i = 0; i < b->n; i++) {
        if (b->e[i].seq == 0)
            continue;
        while (j < a->n && a->e[j].node < b->e[i].node)
            j++;
        if (j == a->n || a->e[j].node != b->e[i].node || a->e[j].seq < b->e[i].seq)
            return false;
    }
    return true;
}

static bool beyond_bound(uint64_t wall_us, uint64_t hlc)
{
    return hlc_to_us(hlc) > wall_us + HLC_SKEW_MAX_US;
}

uint64_t hlc_tick(struct hlc *h, uint64_t wall_us, uint64_t after)
{
    uint64_t wall = hlc_from_us(wall_us);
    uint64_t next = wall > h->last ? wall : h->last + 1;

    if (after >= next) {
        next = after + 1;
        if (beyond_bound(wall_us, next)) {
            h->last = wall > h->last ? wall : h->last + 1;
            return next;
        }
    }
    h->last = next;
    return next;
}

bool hlc_observe(struct hlc *h, uint64_t wall_us, uint64_t seen)
{
    if (beyond_bound(wall_us, seen))
        return false;
    if (seen > h->last)
        h->last = seen;
    return true;
}
