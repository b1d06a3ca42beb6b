/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmchaos WORD: what tests/chaos is made of besides the script. See chaos.h.
 *
 *   init DIR LAB NODES              the control page, and the directories in web1's mount
 *   write DIR LAB NODES NODE PROCESS SEED ACK
 *   read DIR LAB NODES NODE SEED
 *   set DIR stop|links|down|full N  counts the value up (down, full: of node N)
 *   judge DIR LAB NODES LOSERS...   LOSERS: directories in which losers of conflicts are kept
 *
 * Exit 0; 1 when something was found, which is said; 2 for errors of the set-up.
 */
#include "chaos.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int trouble(const char *what)
{
    fprintf(stderr, "farmchaos: %s: %s\n", what, strerror(errno));
    return 2;
}

static int init(const char *dir, const char *lab, unsigned nodes)
{
    char path[512];

    if (ctl_open(dir, true) == NULL) {
        return trouble(dir);
    }
    snprintf(path, sizeof path, "%s/web1/www/own", lab);
    if (mkdir(path, 0755) < 0) {
        return trouble(path);
    }
    for (unsigned w = WRITERS_PER_NODE; w < (nodes + 1) * WRITERS_PER_NODE; w++) {
        snprintf(path, sizeof path, "%s/web1/www/own/%u", lab, w);
        if (mkdir(path, 0755) < 0) {
            return trouble(path);
        }
    }
    snprintf(path, sizeof path, "%s/web1/www/shared", lab);
    if (mkdir(path, 0755) < 0) {
        return trouble(path);
    }
    int fd = mount_dir(lab, 1, "shared"), r = fd < 0 ? fd : shared_prepare(fd);
    errno = -r;
    return r < 0 ? trouble(path) : 0;
}

static int set(const char *dir, const char *what, unsigned node)
{
    struct ctl *c = ctl_open(dir, false);

    if (c == NULL || node > NODES_MAX) {
        return trouble(dir);
    }
    switch (what[0]) {
    case 's': c->stop++; break;
    case 'l': c->links++; break;
    case 'd': c->down[node]++; break;
    default: c->full[node]++; break;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    unsigned nodes = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 10) : 0;
    struct args a = {.nodes = nodes};

    if (argc > 3) {
        a.dir = argv[2];
        a.lab = argv[3];
    }
    if (strcmp(word, "set") == 0 && argc == 5) {
        return set(argv[2], argv[3], nodes);
    }
    if (nodes < 1 || nodes > NODES_MAX) {
        word = "";
    }
    if (strcmp(word, "init") == 0 && argc == 5) {
        return init(a.dir, a.lab, nodes);
    }
    if (strcmp(word, "write") == 0 && argc == 9) {
        a.node = (unsigned)strtoul(argv[5], NULL, 10);
        a.process = (unsigned)strtoul(argv[6], NULL, 10);
        a.seed = strtoull(argv[7], NULL, 10);
        a.ack = argv[8];
        return chaos_write(&a);
    }
    if (strcmp(word, "read") == 0 && argc == 7) {
        a.node = (unsigned)strtoul(argv[5], NULL, 10);
        a.seed = strtoull(argv[6], NULL, 10);
        return chaos_read(&a);
    }
    if (strcmp(word, "judge") == 0 && argc >= 5) {
        return chaos_judge(a.dir, a.lab, nodes, argv + 5, argc - 5);
    }
    fprintf(stderr, "usage: farmchaos init|write|read|set|judge DIR ... (see farmchaos.c)\n");
    return 2;
}
