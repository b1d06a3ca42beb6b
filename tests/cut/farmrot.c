/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmrot flip FILE BITS SEED: flips random bits.
 * farmrot power STATE SEED: makes a state directory look as after a power cut: another boot of the
 * machine than the mark tells of, and junk in what was not synced (LMDB's own meta pages, the
 * intent log).
 */
#include "store/index_i.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static int die(const char *what)
{
    perror(what);
    return 1;
}

static int flip(const char *path, unsigned long bits, unsigned from, off_t to)
{
    struct stat st;
    uint8_t byte;

    srandom(from);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return die(path);
    if (to == 0 || to > st.st_size)
        to = st.st_size;
    for (unsigned long i = 0; i < bits; i++) {
        off_t at = random() % to;
        if (pread(fd, &byte, 1, at) != 1)
            return die(path);
        byte ^= (uint8_t)(1 << random() % 8);
        if (pwrite(fd, &byte, 1, at) != 1)
            return die(path);
    }
    close(fd);
    return 0;
}

static int other_boot(const char *path)
{
    struct mark_slot s;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return die(path);
    for (unsigned i = 0; i < 2; i++) {
        if (pread(fd, &s, sizeof s, (off_t)i * MARK_SLOT) != sizeof s ||
            s.check != XXH3_64bits(&s, offsetof(struct mark_slot, check)))
            continue;
        memset(s.boot, 0xb0, sizeof s.boot);
        s.check = XXH3_64bits(&s, offsetof(struct mark_slot, check));
        if (pwrite(fd, &s, sizeof s, (off_t)i * MARK_SLOT) != sizeof s)
            return die(path);
    }
    close(fd);
    return 0;
}

int main(int argc, char **argv)
{
    char path[4096];

    if (argc == 5 && strcmp(argv[1], "flip") == 0)
        return flip(argv[2], strtoul(argv[3], NULL, 10), (unsigned)atoi(argv[4]), 0);
    if (argc != 4 || strcmp(argv[1], "power") != 0) {
        fputs("usage: farmrot flip FILE BITS SEED | farmrot power STATE SEED\n", stderr);
        return 2;
    }
    unsigned seed = (unsigned)atoi(argv[3]);
    snprintf(path, sizeof path, "%s/" MARK_FILE, argv[2]);
    if (other_boot(path))
        return 1;
    snprintf(path, sizeof path, "%s/" INDEX_FILE, argv[2]);
    if (flip(path, 2000, seed, 8192))
        return 1;
    snprintf(path, sizeof path, "%s/intents", argv[2]);
    return flip(path, 2000, seed + 1, 0);
}
