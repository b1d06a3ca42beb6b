/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Input: one record. What the decoder accepts must encode to the bytes it came from. */
#include "base/log.h"
#include "wire/record.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cur c;
    struct record r;

    cur_init(&c, data, size);
    if (record_decode(&c, &r))
        return 0;
    size_t used = size - cur_left(&c);
    struct buf b;
    buf_init(&b, 1u << 20);
    record_encode(&b, &r);
    farm_assert(b.err == 0 && b.len == used && memcmp(b.data, data, used) == 0);
    buf_fini(&b);
    return 0;
}
