/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A directory against the model of it. */
#include "chaos.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHOWN_MAX 40 /* then it is enough to know that there is more */

static unsigned differ(bool quiet, const char *who, const char *path, const char *how)
{
    static unsigned shown;

    if (!quiet && shown++ < SHOWN_MAX) {
        fprintf(stderr, "%s: %s: %s\n", who, path, how);
    }
    return 1;
}

unsigned model_file(int dirfd, const struct model *m, int slot, bool quiet, const char *who,
                    unsigned char *buf)
{
    const struct inode *in = &m->inodes[m->inode_of[slot]];
    unsigned links = 0;
    struct chain c;
    struct stat st;
    char name[64];
    int fd;

    own_file_name(m, slot, name);
    fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return differ(quiet, who, name, strerror(errno));
    }
    long size = file_read(fd, buf);
    close(fd);
    if (size < 0) {
        return differ(quiet, who, name, strerror((int)-size));
    }
    for (int i = 0; i < FILES; i++) {
        links += m->inode_of[i] == m->inode_of[slot];
    }
    chain_parse(buf, (size_t)size, &c);
    if (!in->torn && !chain_same(&c, &in->chain)) {
        char text[200];
        struct vid is = chain_last(&c), want = chain_last(&in->chain);

        snprintf(text, sizeof text, "is %s %u:%u of %ld bytes instead of %u:%u of %zu",
                 c.whole ? "" : "broken after", is.writer, is.counter, size, want.writer,
                 want.counter, in->chain.size);
        return differ(quiet, who, name, text);
    }
    if ((st.st_mode & 07777) != in->mode) {
        return differ(quiet, who, name, "has another mode");
    }
    return st.st_nlink == links ? 0 : differ(quiet, who, name, "has another number of links");
}

/* Are the names in this directory those of the model? dir -1: the area's root. */
static unsigned compare_names(int dirfd, const struct model *m, int dir, bool quiet,
                              const char *who)
{
    unsigned found = 0, expected = 0, bad_names = 0;
    char name[64] = ".";
    struct dirent *de;

    if (dir >= 0) {
        snprintf(name, sizeof name, "%c%d", m->moved[dir] ? 'D' : 'd', dir);
    }
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) {
        return differ(quiet, who, name, strerror(errno));
    }
    while ((de = readdir(d)) != NULL) {
        int n = -1;
        char kind = 0;

        if (de->d_name[0] == '.') {
            continue;
        }
        bool is = sscanf(de->d_name, "%c%d", &kind, &n) == 2 && n >= 0;
        if (dir >= 0) {
            is = is && kind == 'f' && n < FILES && n % DIRS == dir && m->inode_of[n] >= 0;
        } else if (kind == 'e') {
            is = is && n < EMPTY_DIRS && m->empty[n];
        } else {
            is = is && n < DIRS && kind == (m->moved[n] ? 'D' : 'd');
        }
        found++;
        bad_names += is ? 0 : differ(quiet, who, de->d_name, "should not be there");
    }
    closedir(d);
    for (int i = 0; dir >= 0 && i < FILES; i++) {
        expected += i % DIRS == dir && m->inode_of[i] >= 0;
    }
    if (dir < 0) {
        expected = DIRS;
        for (int i = 0; i < EMPTY_DIRS; i++) {
            expected += m->empty[i];
        }
    }
    if (found != expected && bad_names == 0) {
        bad_names += differ(quiet, who, name, "lacks names");
    }
    return bad_names;
}

unsigned model_compare(int dirfd, const struct model *m, bool quiet, const char *who,
                       unsigned char *buf)
{
    unsigned n = compare_names(dirfd, m, -1, quiet, who);

    for (int i = 0; i < DIRS && (n == 0 || !quiet); i++) {
        n += compare_names(dirfd, m, i, quiet, who);
    }
    for (int i = 0; i < FILES && (n == 0 || !quiet); i++) {
        if (m->inode_of[i] >= 0) {
            n += model_file(dirfd, m, i, quiet, who, buf);
        }
    }
    return n;
}
