/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Runs a fuzz target over every file of a directory, so that each corpus is part of every test run:
 * each file as it is, cut at every length, and with every bit flipped once.
 */
#include "base/io.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX (1u << 20)
#define MUTATE_MAX 4096u /* larger inputs run as they are */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* On memory of exactly its size, so that a sanitizer sees a read past the end. */
static void run_copy(const char *data, size_t n)
{
    uint8_t *p = malloc(n ? n : 1);

    if (!p)
        abort();
    memcpy(p, data, n);
    LLVMFuzzerTestOneInput(p, n);
    free(p);
}

static void run_input(char *data, size_t n)
{
    run_copy(data, n);
    if (n > MUTATE_MAX)
        return;
    for (size_t i = 0; i < n; i++)
        run_copy(data, i);
    for (size_t bit = 0; bit < n * 8; bit++) {
        data[bit / 8] = (char)(data[bit / 8] ^ 1 << bit % 8);
        LLVMFuzzerTestOneInput((uint8_t *)data, n);
        data[bit / 8] = (char)(data[bit / 8] ^ 1 << bit % 8);
    }
}

int main(int argc, char **argv)
{
    unsigned ran = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS-DIR\n", argv[0]);
        return 2;
    }
    DIR *d = opendir(argv[1]);
    if (!d) {
        fprintf(stderr, "%s: %s: cannot open\n", argv[0], argv[1]);
        return 2;
    }
    for (struct dirent *e; (e = readdir(d));) {
        char *data;
        size_t n;
        if (e->d_name[0] == '.' || io_read_file_at(dirfd(d), e->d_name, INPUT_MAX, &data, &n))
            continue;
        run_input(data, n);
        free(data);
        ran++;
    }
    closedir(d);
    printf("%u inputs\n", ran);
    return ran ? 0 : 1;
}
