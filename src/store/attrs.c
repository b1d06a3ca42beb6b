/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Descriptors may be O_PATH, for which most f* calls fail: what exists only there or by path goes
 * by /proc/self/fd/N, which leads to the inode itself (never through a symlink). */
#include "store/attrs.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/limits.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define VALUE_MAX 65536u
#define NS_PER_S 1000000000
#define OWNER_SLOTS 256u
#define OWNER_KEEP_US (60ull * 1000 * 1000)
#define OWNER_BUF 16384u
#define PROC_PATH_BYTES 32

struct fd_path {
    char p[PROC_PATH_BYTES];
};

static struct fd_path path_of(int fd)
{
    struct fd_path path;
    snprintf(path.p, sizeof(path.p), "/proc/self/fd/%d", fd);
    return path;
}

/* ---- owners: the passwd and group data bases, asked at most once a minute for the same ---- */

enum owner_kind { OWNER_USER, OWNER_GROUP };

struct owner {
    uint64_t until_us; /* monotonic; 0: empty */
    uint32_t id;
    bool found;
    uint8_t kind, len; /* len 0: no name of a size we keep */
    uint8_t name[OWNER_LEN_MAX];
};

static pthread_mutex_t owners_lock = PTHREAD_MUTEX_INITIALIZER; /* guards both tables */
static struct owner owners_by_id[OWNER_SLOTS];
static struct owner owners_by_name[OWNER_SLOTS];

static bool owner_fresh(const struct owner *o, enum owner_kind kind)
{
    return o->kind == kind && o->until_us > clock_mono(&clock_system);
}

static void owner_keep(struct owner *slot, struct owner *o)
{
    o->until_us = clock_mono(&clock_system) + OWNER_KEEP_US;
    pthread_mutex_lock(&owners_lock);
    *slot = *o;
    pthread_mutex_unlock(&owners_lock);
}

static void owner_ask_id(struct owner *o)
{
    CLEANUP_FREE char *buf = malloc(OWNER_BUF);
    const char *name = NULL;
    struct passwd pw, *pwp = NULL;
    struct group gr, *grp = NULL;
    if (buf == NULL)
        return;
    if (o->kind == OWNER_USER && getpwuid_r(o->id, &pw, buf, OWNER_BUF, &pwp) == 0 && pwp != NULL)
        name = pw.pw_name;
    if (o->kind == OWNER_GROUP && getgrgid_r(o->id, &gr, buf, OWNER_BUF, &grp) == 0 && grp != NULL)
        name = gr.gr_name;
    size_t len = name != NULL ? strlen(name) : 0;
    o->found = len > 0 && len <= OWNER_LEN_MAX;
    o->len = o->found ? (uint8_t)len : 0;
    if (o->found)
        memcpy(o->name, name, len);
}

static void owner_ask_name(struct owner *o)
{
    CLEANUP_FREE char *buf = malloc(OWNER_BUF);
    char name[OWNER_LEN_MAX + 1];
    struct passwd pw, *pwp = NULL;
    struct group gr, *grp = NULL;
    if (buf == NULL)
        return;
    memcpy(name, o->name, o->len);
    name[o->len] = 0;
    if (o->kind == OWNER_USER && getpwnam_r(name, &pw, buf, OWNER_BUF, &pwp) == 0 && pwp != NULL) {
        o->id = pw.pw_uid;
        o->found = true;
    }
    if (o->kind == OWNER_GROUP && getgrnam_r(name, &gr, buf, OWNER_BUF, &grp) == 0 && grp != NULL) {
        o->id = gr.gr_gid;
        o->found = true;
    }
}

/* Name of an owner; its length, 0 when this node knows none. */
static uint8_t owner_name(enum owner_kind kind, uint32_t id, uint8_t name[OWNER_LEN_MAX])
{
    struct owner *slot = &owners_by_id[(id * 2 + kind) % OWNER_SLOTS];
    pthread_mutex_lock(&owners_lock);
    struct owner o = *slot;
    pthread_mutex_unlock(&owners_lock);
    if (!owner_fresh(&o, kind) || o.id != id) {
        o = (struct owner){.kind = (uint8_t)kind, .id = id};
        owner_ask_id(&o);
        owner_keep(slot, &o);
    }
    memcpy(name, o.name, o.len);
    return o.len;
}

/* The number that belongs to a name here, else `id`. */
static uint32_t owner_id(enum owner_kind kind, const uint8_t *name, uint8_t len, uint32_t id)
{
    if (len == 0 || len > OWNER_LEN_MAX)
        return id;
    uint32_t hash = kind;
    for (unsigned i = 0; i < len; i++)
        hash = hash * 31 + name[i];
    struct owner *slot = &owners_by_name[hash % OWNER_SLOTS];
    pthread_mutex_lock(&owners_lock);
    struct owner o = *slot;
    pthread_mutex_unlock(&owners_lock);
    if (!owner_fresh(&o, kind) || o.len != len || memcmp(o.name, name, len) != 0) {
        o = (struct owner){.kind = (uint8_t)kind, .len = len};
        memcpy(o.name, name, len);
        owner_ask_name(&o);
        owner_keep(slot, &o);
    }
    return o.found ? o.id : id;
}

/* ---- extended attributes ---- */

static bool is_acl(const char *name)
{
    return strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0;
}

bool attrs_xattr_replicated(const char *name)
{
    return strncmp(name, "user.", 5) == 0 || is_acl(name);
}

static int name_order(const void *a, const void *b)
{
    /* bytes, a prefix first: the order the record demands */
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names on the inode, NUL-separated, in fresh memory. *len 0 where it has or can have none. */
static int names_read(const char *path, char **names, size_t *len)
{
    for (size_t room = 1024;; room = XATTR_LIST_MAX) {
        CLEANUP_FREE char *buf = malloc(room);
        if (buf == NULL)
            return -ENOMEM;
        ssize_t n = listxattr(path, buf, room);
        if (n < 0 && errno == ERANGE && room < XATTR_LIST_MAX)
            continue;
        if (n < 0 && errno != EOPNOTSUPP)
            return -errno;
        *len = n < 0 ? 0 : (size_t)n;
        *names = take_ptr(buf);
        return 0;
    }
}

static int value_read(const char *path, const char *name, struct buf *x)
{
    size_t name_len = strlen(name), head = 1 + name_len + 4;
    for (size_t room = 256;; room = VALUE_MAX) {
        uint8_t *p = buf_reserve(x, head + room);
        if (p == NULL && x->err == FARM_EFULL) { /* less room than a value may need at most */
            ssize_t need = getxattr(path, name, NULL, 0);
            if (need < 0)
                return errno == ENODATA ? 0 : -errno;
            x->err = 0;
            room = (size_t)need;
            p = buf_reserve(x, head + room);
        }
        if (p == NULL)
            return x->err == FARM_EFULL ? -E2BIG : x->err;
        ssize_t n = getxattr(path, name, p + head, room);
        if (n < 0 && errno == ERANGE && room < VALUE_MAX)
            continue;
        if (n < 0) /* removed meanwhile */
            return errno == ENODATA ? 0 : -errno;
        uint32_t le = htole32((uint32_t)n);
        p[0] = (uint8_t)name_len;
        memcpy(p + 1, name, name_len);
        memcpy(p + 1 + name_len, &le, sizeof(le));
        x->len += head + (size_t)n;
        return 0;
    }
}

/* Appends the encoded list of those that replicate. -E2BIG when it is longer than a record holds.
 */
static int xattrs_read(const char *path, struct buf *x)
{
    CLEANUP_FREE char *names = NULL;
    size_t len = 0, n = 0;
    int r = names_read(path, &names, &len);
    if (r < 0 || len == 0)
        return r;
    CLEANUP_FREE const char **sorted = calloc(len / 2 + 1, sizeof(*sorted));
    if (sorted == NULL)
        return -ENOMEM;
    for (const char *p = names; p < names + len; p += strlen(p) + 1)
        if (*p != 0 && attrs_xattr_replicated(p))
            sorted[n++] = p;
    qsort(sorted, n, sizeof(*sorted), name_order);
    for (size_t i = 0; i < n && r == 0; i++)
        r = value_read(path, sorted[i], x);
    return r == 0 && x->len > XATTRS_LEN_MAX ? -E2BIG : r;
}

struct xattr {
    char name[256];
    const uint8_t *value;
    uint32_t len;
};

/* The next of an encoded list; false at its end (records are checked when they are decoded). */
static bool xattr_next(struct cur *c, struct xattr *out)
{
    if (cur_left(c) == 0)
        return false;
    uint8_t len = cur_u8(c);
    const uint8_t *name = cur_raw(c, len);
    out->value = cur_bytes(c, VALUE_MAX, &out->len);
    if (c->err != 0)
        return false;
    memcpy(out->name, name, len);
    out->name[len] = 0;
    return true;
}

/* What this file system cannot hold must not stop the rest: said once, and gone without. */
static int xattr_result(int r, const char *name)
{
    if (r == 0 || errno == ENODATA)
        return 0;
    if (errno != EOPNOTSUPP && errno != EPERM)
        return -errno;
    log_warn("a file cannot hold the extended attribute %s here", name);
    return 0;
}

/* Merge of two sorted lists: sets what differs, removes what is not wanted. */
static int xattrs_merge(const char *path, const struct buf *have, const struct attr_rec *a,
                        bool acls)
{
    struct cur ch, cw;
    struct xattr h, w;
    cur_init(&ch, have->data, have->len);
    cur_init(&cw, a->xattrs, a->xattrs_len);
    bool more_h = xattr_next(&ch, &h), more_w = xattr_next(&cw, &w);
    int r = 0;
    while ((more_h || more_w) && r == 0) {
        int order = !more_h ? 1 : !more_w ? -1 : strcmp(h.name, w.name);
        const char *name = order < 0 ? h.name : w.name;
        bool same =
            order == 0 && h.len == w.len && (h.len == 0 || memcmp(h.value, w.value, h.len) == 0);
        if (is_acl(name) == acls && attrs_xattr_replicated(name) && !same)
            r = xattr_result(order < 0 ? removexattr(path, name)
                                       : setxattr(path, name, w.value, w.len, 0),
                             name);
        if (order <= 0)
            more_h = xattr_next(&ch, &h);
        if (order >= 0)
            more_w = xattr_next(&cw, &w);
    }
    if (r == 0 && (ch.err != 0 || cw.err != 0))
        r = FARM_ECORRUPT;
    return r;
}

/* ---- all of it ---- */

int attrs_read(int fd, const struct stat *st, struct buf *x, struct attr_rec *a)
{
    buf_reset(x);
    if (!S_ISLNK(st->st_mode)) { /* a symlink has none that replicate */
        int r = xattrs_read(path_of(fd).p, x);
        if (r < 0)
            return r;
    }
    a->mode = st->st_mode & 07777;
    a->uid = st->st_uid;
    a->gid = st->st_gid;
    a->owner_len = owner_name(OWNER_USER, a->uid, a->owner);
    a->group_len = owner_name(OWNER_GROUP, a->gid, a->group);
    a->xattrs_len = (uint32_t)x->len;
    a->xattrs = x->data;
    return 0;
}

static bool bytes_same(const void *a, uint32_t a_len, const void *b, uint32_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

bool attrs_same(const struct attr_rec *a, const struct attr_rec *b)
{
    return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
           bytes_same(a->owner, a->owner_len, b->owner, b->owner_len) &&
           bytes_same(a->group, a->group_len, b->group, b->group_len) &&
           bytes_same(a->xattrs, a->xattrs_len, b->xattrs, b->xattrs_len);
}

static int apply_owner(int fd, const struct attr_rec *a, struct stat *st)
{
    uid_t uid = owner_id(OWNER_USER, a->owner, a->owner_len, a->uid);
    gid_t gid = owner_id(OWNER_GROUP, a->group, a->group_len, a->gid);
    if (uid == st->st_uid && gid == st->st_gid)
        return 0;
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
        return -errno;
    return fstat(fd, st) < 0 ? -errno : 0; /* set-id bits may be gone */
}

static int apply_mode(int fd, const char *path, const struct attr_rec *a)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((st.st_mode & 07777) == a->mode)
        return 0;
    return chmod(path, a->mode) < 0 ? -errno : 0;
}

static int apply_xattrs(int fd, const char *path, const struct attr_rec *a)
{
    struct buf have;
    buf_init(&have, 2 * XATTRS_LEN_MAX + VALUE_MAX);
    int r = xattrs_read(path, &have);
    if (r == 0)
        r = xattrs_merge(path, &have, a, true);
    /* an ACL brings its own group bits, and removing one leaves its mask there */
    if (r == 0)
        r = apply_mode(fd, path, a);
    if (r == 0)
        r = xattrs_merge(path, &have, a, false);
    buf_fini(&have);
    return r;
}

int attrs_apply(int fd, const struct attr_rec *a, const int64_t *mtime_ns)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    int r = apply_owner(fd, a, &st);
    if (r == 0 && !S_ISLNK(st.st_mode)) {
        struct fd_path path = path_of(fd);
        r = apply_mode(fd, path.p, a);
        if (r == 0)
            r = apply_xattrs(fd, path.p, a);
    }
    if (r == 0 && mtime_ns != NULL)
        r = attrs_set_mtime(fd, *mtime_ns);
    return r;
}

int attrs_set_mtime(int fd, int64_t mtime_ns)
{
    int64_t s = mtime_ns / NS_PER_S, ns = mtime_ns % NS_PER_S;
    if (ns < 0) {
        ns += NS_PER_S;
        s--;
    }
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_mtim.tv_sec == s && st.st_mtim.tv_nsec == ns)
        return 0;
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = s, .tv_nsec = ns}};
    if (utimensat(fd, "", times, AT_EMPTY_PATH) == 0)
        return 0;
    /* before Linux 5.8 */
    if (errno != EINVAL || S_ISLNK(st.st_mode))
        return -errno;
    return utimensat(AT_FDCWD, path_of(fd).p, times, 0) < 0 ? -errno : 0;
}
