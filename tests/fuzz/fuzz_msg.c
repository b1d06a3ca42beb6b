/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Input: one byte frame type, then a payload of that type. */
#include "wire/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size)
        (void)!msg_validate(data[0], data + 1, size - 1);
    return 0;
}
