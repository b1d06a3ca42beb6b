/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ship/receiver.h"

#include <stdlib.h>

void batch_free(struct batch *b, struct staging *st)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->n; i++) {
        if (b->items[i].staged[0])
            staging_discard(st, b->items[i].staged);
        free(b->items[i].leaves);
    }
    free(b->items);
    free(b->payload);
    free(b);
}
