/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/kept.h"
#include "ctl/format.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- JSON ---- */

static void put_utf8(char **to, unsigned c)
{
    char *p = *to;
    if (c < 0x80) {
        *p++ = (char)c;
    } else if (c < 0x800) {
        *p++ = (char)(0xc0 | c >> 6);
        *p++ = (char)(0x80 | (c & 0x3f));
    } else {
        *p++ = (char)(0xe0 | c >> 12);
        *p++ = (char)(0x80 | (c >> 6 & 0x3f));
        *p++ = (char)(0x80 | (c & 0x3f));
    }
    *to = p;
}

char *kept_unquote(const char *value, size_t n)
{
    static const char from[] = "bfnrt", into[] = "\b\f\n\r\t";
    if (n < 2 || value[0] != '"' || value[n - 1] != '"')
        return NULL;
    char *text = malloc(n), *to = text;
    if (text == NULL)
        return NULL;
    for (const char *s = value + 1, *end = value + n - 1; s < end; s++) {
        if (*s != '\\') {
            *to++ = *s;
            continue;
        }
        const char *at = strchr(from, *++s);
        if (*s == 'u' && end - s >= 5) {
            char hex[5] = {s[1], s[2], s[3], s[4], '\0'};
            put_utf8(&to, (unsigned)strtoul(hex, NULL, 16));
            s += 4;
        } else {
            *to++ = at != NULL && *at != '\0' ? into[at - from] : *s;
        }
    }
    *to = '\0';
    return text;
}

static char *member_text(const char *object, const char *name)
{
    const char *value;
    size_t n;
    return json_member(object, name, &value, &n) ? kept_unquote(value, n) : NULL;
}

static void copy_text(const char *object, const char *name, char *out, size_t size)
{
    char *text = member_text(object, name);
    snprintf(out, size, "%s", text != NULL ? text : "");
    free(text);
}

static uint64_t member_number(const char *object, const char *name)
{
    const char *value;
    size_t n;
    return json_member(object, name, &value, &n) ? strtoull(value, NULL, 10) : 0;
}

/* A path that is no UTF-8 is there in hexadecimal, too. */
static char *exact_path(const char *object)
{
    char *hex = member_text(object, "path_hex");
    if (hex == NULL)
        return member_text(object, "path");
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char byte[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        hex[i] = (char)strtoul(byte, NULL, 16);
    }
    hex[n] = '\0';
    return hex;
}

static char *node_of(const char *object)
{
    char *name = member_text(object, "node");
    return name != NULL ? name : strdup("unknown");
}

bool kept_parse_time(const char *text, struct timespec *out)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest == NULL)
        return false;
    out->tv_sec = timegm(&tm);
    out->tv_nsec = 0;
    if (*rest == '.') {
        long unit = 100000000;
        for (rest++; *rest >= '0' && *rest <= '9'; rest++, unit /= 10)
            out->tv_nsec += (*rest - '0') * unit;
    }
    return strcmp(rest, "Z") == 0;
}

static int parse(const char *text, struct kept *k)
{
    char mtime[40], mode[16];
    const char *value;
    size_t n;
    copy_text(text, "kind", k->kind, sizeof(k->kind));
    copy_text(text, "type", k->type, sizeof(k->type));
    copy_text(text, "when", k->when, sizeof(k->when));
    copy_text(text, "written", k->written, sizeof(k->written));
    copy_text(text, "mtime", mtime, sizeof(mtime));
    copy_text(text, "mode", mode, sizeof(mode));
    k->size = member_number(text, "size");
    k->uid = (uid_t)member_number(text, "uid");
    k->gid = (gid_t)member_number(text, "gid");
    k->mode = (mode_t)strtoul(mode, NULL, 8);
    k->data = json_member(text, "data", &value, &n) && value[0] == 't';
    k->path = exact_path(text);
    k->why = member_text(text, "why");
    k->node = node_of(text);
    k->winner = json_member(text, "winner", &value, &n) ? node_of(value) : strdup("unknown");
    if (k->path == NULL || k->why == NULL || k->node == NULL || k->winner == NULL ||
        !kept_parse_time(mtime, &k->mtime))
        return -EBADMSG;
    return 0;
}

int kept_load(const struct farm *f, const char *dir, const char *id, struct kept *k)
{
    char file[64], *text;
    snprintf(file, sizeof(file), "%s/%s.json", dir, id);
    int err = farm_read(f, file, &text, NULL);
    if (err < 0)
        return err;
    *k = (struct kept){.dir = dir};
    snprintf(k->id, sizeof(k->id), "%s", id);
    err = parse(text, k);
    free(text);
    if (err < 0)
        kept_free(k);
    return err;
}

void kept_free(struct kept *k)
{
    free(k->path);
    free(k->why);
    free(k->node);
    free(k->winner);
}

/* ---- directories ---- */

bool kept_id_valid(const char *id)
{
    return strlen(id) == KEPT_ID_LEN && strspn(id, "0123456789abcdef") == KEPT_ID_LEN;
}

int kept_each(const struct farm *f, const char *dir, int (*visit)(void *arg, const char *id),
              void *arg)
{
    int fd, err = farm_stream(f, dir, &fd);
    if (err < 0)
        return err;
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        err = -errno;
        close(fd);
        return err;
    }
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (e == NULL) {
            err = -errno;
            break;
        }
        if (kept_id_valid(e->d_name) && (err = visit(arg, e->d_name)) != 0)
            break;
    }
    closedir(d);
    return err;
}

/* ---- paths ---- */

/* Takes "." and ".." and doubled slashes out of an absolute path, in place. */
static void tidy(char *path)
{
    char *to = path;
    for (const char *s = path; *s != '\0';) {
        size_t len = strcspn(s, "/");
        if (len == 2 && s[0] == '.' && s[1] == '.') {
            while (to > path && *--to != '/') {
            }
        } else if (len > 0 && !(len == 1 && s[0] == '.')) {
            *to++ = '/';
            memmove(to, s, len);
            to += len;
        }
        s += len + (s[len] == '/');
    }
    *to = '\0';
}

/* Below the folder, as written? */
static const char *below(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    if (strncmp(path, folder, n) != 0 || (path[n] != '/' && path[n] != '\0'))
        return NULL;
    return path + n + (path[n] == '/');
}

/* Relative ones are meant from the current directory when that is in the folder, else from the
 * folder. */
char *kept_folder_path(const struct farm *f, const char *path)
{
    const char *folder = farm_folder(f);
    char cwd[PATH_MAX], *full, *out = NULL;
    const char *base = getcwd(cwd, sizeof(cwd)) != NULL && below(cwd, folder) ? cwd : folder;
    if (asprintf(&full, "%s/%s", path[0] == '/' ? "" : base, path) < 0)
        return NULL;
    tidy(full);
    const char *rest = below(full, folder);
    if (rest == NULL)
        fprintf(stderr, "farmctl: %s is not in the folder %s: give a path in it\n", path, folder);
    else
        out = strdup(rest);
    free(full);
    return out;
}
