/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmhello PROTOCOL|ours FOLDER-ID NODE FOLDER [TYPE]
 *
 * PROTOCOL: a number, or "ours".
 *
 * The first frame of a peer, HELLO, to standard output, with what the tests want to be wrong in it;
 * with TYPE, a frame of that type holding the HELLO's bytes follows. Then waits until standard
 * input ends, as a peer that stays connected.
 */
#include "base/buf.h"
#include "wire/frame.h"
#include "wire/msg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int send_frame(uint8_t type, const struct buf *payload)
{
    uint8_t header[FRAME_HEADER];

    frame_header_put(header, type, 0, (uint32_t)payload->len, payload->data,
                     (uint32_t)payload->len);
    return write(1, header, sizeof(header)) == (ssize_t)sizeof(header) &&
                   write(1, payload->data, payload->len) == (ssize_t)payload->len
               ? 0
               : -1;
}

int main(int argc, char **argv)
{
    struct msg_hello hello = {.node = 0x7357, .epoch = 1};
    struct buf payload;
    char drain[4096];

    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: farmhello PROTOCOL FOLDER-ID NODE FOLDER [TYPE]\n");
        return 2;
    }
    hello.protocol =
        strcmp(argv[1], "ours") == 0 ? PROTOCOL_VERSION : (uint32_t)strtoul(argv[1], NULL, 10);
    hello.folder_id = strtoull(argv[2], NULL, 16);
    snprintf(hello.name, sizeof(hello.name), "%s", argv[3]);
    snprintf(hello.folder, sizeof(hello.folder), "%s", argv[4]);
    buf_init(&payload, FRAME_MAX);
    msg_hello_put(&payload, &hello);
    if (payload.err != 0 || send_frame(FRAME_HELLO, &payload) < 0) {
        return 1;
    }
    if (argc == 6 && send_frame((uint8_t)strtoul(argv[5], NULL, 10), &payload) < 0) {
        return 1;
    }
    while (read(0, drain, sizeof(drain)) > 0) {
    }
    buf_fini(&payload);
    return 0;
}
