/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * faultctl FILE WORD ...: writes and shows the page of faultshim.so (faultpage.h).
 *   init                    a new page: no faults
 *   arm PID KIND K  KIND: count, kill, after, EIO, ENOSPC; call K of the process
 *   off                     nobody is counted any more
 *   show                    prints "COUNT HIT CALL THREAD PATH"
 *   clock MICROSECONDS      the time of day is that much later (or earlier)
 */
#include "faultpage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int trouble(const char *what)
{
    fprintf(stderr, "faultctl: %s: %s\n", what, strerror(errno));
    return 2;
}

static int arm(struct fault_page *p, char **a)
{
    static const struct {
        const char *name;
        uint32_t kind, error;
    } kinds[] = {{"count", FAULT_COUNT, 0},
                 {"kill", FAULT_KILL, 0},
                 {"after", FAULT_AFTER, 0},
                 {"EIO", FAULT_ERROR, EIO},
                 {"ENOSPC", FAULT_ERROR, ENOSPC}};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, a[1]) == 0) {
            p->pid = 0;
            p->kind = kinds[i].kind;
            p->error = kinds[i].error;
            p->at = (uint32_t)strtoul(a[2], NULL, 10);
            p->count = 0;
            p->hit = 0;
            p->call[0] = p->thread[0] = p->path[0] = 0;
            p->pid = (uint32_t)strtoul(a[0], NULL, 10);
            return 0;
        }
    }
    errno = EINVAL;
    return trouble(a[1]);
}

int main(int argc, char **argv)
{
    const char *word = argc > 2 ? argv[2] : "";
    int making = strcmp(word, "init") == 0;

    if (argc < 3) {
        fprintf(stderr, "usage: faultctl FILE init|arm|off|show|clock ... (see faultctl.c)\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CLOEXEC | (making ? O_CREAT | O_TRUNC : 0), 0644);
    if (fd < 0 || (making && ftruncate(fd, sizeof(struct fault_page)) < 0)) {
        return trouble(argv[1]);
    }
    struct fault_page *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        return trouble(argv[1]);
    }
    if (strcmp(word, "arm") == 0 && argc == 6) {
        return arm(p, argv + 3);
    }
    if (strcmp(word, "off") == 0) {
        p->pid = 0;
    } else if (strcmp(word, "clock") == 0 && argc == 4) {
        p->clock_us = strtoll(argv[3], NULL, 10);
    } else if (strcmp(word, "show") == 0) {
        printf("%u %u %s %s %s\n", p->count, p->hit, p->call[0] ? p->call : "-",
               p->thread[0] ? p->thread : "-", p->path[0] ? p->path : "-");
    } else if (!making) {
        errno = EINVAL;
        return trouble(word);
    }
    return 0;
}
