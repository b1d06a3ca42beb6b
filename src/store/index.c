/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The environment and its transactions, what every table shares, and the small tables. */
#include "store/index_i.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "wire/record.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define READERS_MAX 512u
#define CHECKED_AT_ONCE (64 << 20)

const char *const table_names[T_COUNT] = {
    [T_META] = "meta",         [T_NAMES] = "names",       [T_CONTENTS] = "contents",
    [T_ATTRS] = "attrs",       [T_NAMES_AT] = "names_at", [T_NAMES_OF] = "names_of",
    [T_NAMES_IN] = "names_in", [T_LOG] = "log",           [T_GRAVES] = "graves",
    [T_PLACE] = "place",       [T_SLOT] = "slot",         [T_HIDDEN] = "hidden",
    [T_CUTS] = "cuts",         [T_NODES] = "nodes",       [T_LIDS] = "lids",
    [T_HANDLES] = "handles",   [T_LEAVES] = "leaves",     [T_JOURNAL] = "journal",
    [T_PEERS] = "peers",       [T_KEPT] = "kept",         [T_TODO] = "todo",
    [T_PENDING] = "pending",   [T_BEHIND] = "behind",
};

int index_code(int rc)
{
    switch (rc) {
    case MDB_SUCCESS: return 0;
    case MDB_NOTFOUND: return -ENOENT;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL: return -ENOSPC;
    case MDB_VERSION_MISMATCH: return FARM_EVERSION;
    case MDB_READERS_FULL: return -EMFILE;
    /* A failed write of the meta page: the environment must be opened again, but what is in it is
     * sound. */
    case MDB_PANIC:
    case MDB_BAD_TXN: return -EIO;
    default: return rc > 0 ? -rc : FARM_ECORRUPT;
    }
}

/* ---- keys and rows ---- */

void key_raw(struct key *k, const void *p, size_t n)
{
    farm_assert(n <= KEY_MAX - k->n);
    memcpy(k->b + k->n, p, n);
    k->n += n;
}

void key_u64(struct key *k, uint64_t v)
{
    uint64_t be = htobe64(v);
    key_raw(k, &be, sizeof be);
}

void key_id(struct key *k, struct id128 id)
{
    key_u64(k, id.node);
    key_u64(k, id.n);
}

uint64_t key_get_u64(const uint8_t *p)
{
    uint64_t be;
    memcpy(&be, p, sizeof be);
    return be64toh(be);
}

struct id128 key_get_id(const uint8_t *p)
{
    return (struct id128){key_get_u64(p), key_get_u64(p + 8)};
}

void put_id(struct buf *b, struct id128 id)
{
    buf_put_u64(b, id.node);
    buf_put_u64(b, id.n);
}

void put_stamp(struct buf *b, struct stamp s)
{
    buf_put_u64(b, s.node);
    buf_put_u64(b, s.seq);
}

struct id128 get_id(struct cur *c)
{
    struct id128 id;
    id.node = cur_u64(c);
    id.n = cur_u64(c);
    return id;
}

struct stamp get_stamp(struct cur *c)
{
    struct stamp s;
    s.node = cur_u64(c);
    s.seq = cur_u64(c);
    return s;
}

static uint32_t row_check(enum table t, const void *key, size_t key_len, const uint8_t *row,
                          size_t n)
{
    XXH64_hash_t seed = XXH3_64bits_withSeed(key, key_len, (XXH64_hash_t)t + 1);
    return (uint32_t)XXH3_64bits_withSeed(row + ROW_HEAD, n - ROW_HEAD, seed);
}

void row_payload(const MDB_val *v, struct cur *out)
{
    cur_init(out, (const uint8_t *)v->mv_data + ROW_HEAD, v->mv_size - ROW_HEAD);
}

int row_open(enum table t, const MDB_val *k, const MDB_val *v, struct cur *out)
{
    uint32_t check;

    if (v->mv_size < ROW_HEAD || *(const uint8_t *)v->mv_data != ROW_VERSION)
        return FARM_ECORRUPT;
    memcpy(&check, (const uint8_t *)v->mv_data + 1, sizeof check);
    if (le32toh(check) != row_check(t, k->mv_data, k->mv_size, v->mv_data, v->mv_size))
        return FARM_ECORRUPT;
    row_payload(v, out);
    return 0;
}

/* Whoever meets damage passes the error on; the core thread asks for it. */
static int suspect(const struct index *ix, int e)
{
    if (e == FARM_ECORRUPT)
        atomic_store(ix->suspect, true);
    return e;
}

bool index_suspect(struct index *ix)
{
    return atomic_exchange(ix->suspect, false);
}

void row_seal(enum table t, const struct key *k, uint8_t *row, size_t n)
{
    uint32_t check = htole32(row_check(t, k->b, k->n, row, n));

    row[0] = ROW_VERSION;
    memcpy(row + 1, &check, sizeof check);
}

int row_get(const struct index *ix, MDB_txn *txn, enum table t, const struct key *k,
            struct cur *out)
{
    MDB_val key = {k->n, (void *)(uintptr_t)k->b}, v;

    farm_assert(txn);
    int rc = mdb_get(txn, ix->dbi[t], &key, &v);
    int e = rc ? index_code(rc) : row_open(t, &key, &v, out);
    return suspect(ix, e);
}

struct buf *row_begin(struct index *ix)
{
    buf_reset(&ix->row);
    buf_put(&ix->row, (const uint8_t[ROW_HEAD]){0}, ROW_HEAD);
    return &ix->row;
}

static int wrote(struct index *ix, int rc)
{
    int e = index_code(rc);
    if (e && e != -ENOENT && !ix->failed)
        ix->failed = e;
    return e;
}

int row_put_flags(struct index *ix, enum table t, const struct key *k, MDB_val *v, unsigned flags)
{
    MDB_val key = {k->n, (void *)(uintptr_t)k->b};

    farm_assert(ix->txn);
    if (!(flags & MDB_RESERVE))
        row_seal(t, k, v->mv_data, v->mv_size);
    return wrote(ix, mdb_put(ix->txn, ix->dbi[t], &key, v, flags));
}

int row_put(struct index *ix, enum table t, const struct key *k)
{
    if (ix->row.err) {
        ix->failed = ix->row.err;
        return ix->row.err;
    }
    MDB_val v = {ix->row.len, ix->row.data};
    return row_put_flags(ix, t, k, &v, 0);
}

int row_put_empty(struct index *ix, enum table t, const struct key *k)
{
    uint8_t head[ROW_HEAD];
    MDB_val v = {sizeof head, head};
    return row_put_flags(ix, t, k, &v, 0);
}

int row_del(struct index *ix, enum table t, const struct key *k)
{
    MDB_val key = {k->n, (void *)(uintptr_t)k->b};

    farm_assert(ix->txn);
    return wrote(ix, mdb_del(ix->txn, ix->dbi[t], &key, NULL));
}

int row_drop(struct index *ix, enum table t, const struct key *k)
{
    int e = row_del(ix, t, k);
    return e == -ENOENT ? 0 : e;
}

static int scan(const struct index *ix, MDB_txn *txn, enum table t, const struct key *from,
                size_t prefix, row_visit f, void *arg)
{
    MDB_val k = {from->n, (void *)(uintptr_t)from->b}, v;
    MDB_cursor *c;

    farm_assert(txn);
    int rc = mdb_cursor_open(txn, ix->dbi[t], &c);
    if (rc)
        return index_code(rc);
    /* LMDB takes no empty keys: without a prefix start at the first row. */
    rc = mdb_cursor_get(c, &k, &v, from->n ? MDB_SET_RANGE : MDB_FIRST);
    int e = 0;
    while (!rc && k.mv_size >= prefix && memcmp(k.mv_data, from->b, prefix) == 0) {
        struct cur row;
        e = suspect(ix, row_open(t, &k, &v, &row));
        if (!e)
            e = f(arg, &k, &v);
        if (e)
            break;
        rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
    }
    mdb_cursor_close(c);
    if (e)
        return e;
    return rc == MDB_NOTFOUND ? 0 : index_code(rc);
}

int row_scan(const struct index *ix, MDB_txn *txn, enum table t, const struct key *prefix,
             row_visit f, void *arg)
{
    return scan(ix, txn, t, prefix, prefix->n, f, arg);
}

int row_scan_from(const struct index *ix, MDB_txn *txn, enum table t, const struct key *from,
                  row_visit f, void *arg)
{
    return scan(ix, txn, t, from, 0, f, arg);
}

/* ---- opening ---- */

/* A data file shorter than its meta page says lost its tail (or that was never written, being
 * free): make it long enough, so that damage shows as a page of zeros and not as SIGBUS. */
static int fill_up(MDB_env *env)
{
    MDB_envinfo info;
    MDB_stat st;
    struct stat file;
    int fd;

    int rc = mdb_env_get_fd(env, &fd);
    if (!rc)
        rc = mdb_env_info(env, &info);
    if (!rc)
        rc = mdb_env_stat(env, &st);
    if (rc)
        return index_code(rc);
    if (fstat(fd, &file) < 0)
        return -errno;
    off_t need = (off_t)(info.me_last_pgno + 1) * (off_t)st.ms_psize;
    if (file.st_size < need && ftruncate(fd, need) < 0)
        return -errno;
    return 0;
}

/* Read without row_get: the row of another format has another head. */
static int check_format(struct index *ix)
{
    struct key k = {.n = 0};
    MDB_val v;
    struct cur c;

    key_raw(&k, "format", 6);
    MDB_val key = {k.n, k.b};
    int rc = mdb_get(ix->txn, ix->dbi[T_META], &key, &v);
    if (rc == MDB_NOTFOUND) {
        buf_put_u32(row_begin(ix), INDEX_FORMAT);
        return row_put(ix, T_META, &k);
    }
    if (rc)
        return index_code(rc);
    if (v.mv_size == 0)
        return FARM_ECORRUPT;
    uint8_t version = *(const uint8_t *)v.mv_data;
    if (version > ROW_VERSION)
        return FARM_EVERSION;
    if (version < ROW_VERSION && version > 0)
        log_warn("the index was made by an older release");
    int e = row_open(T_META, &key, &v, &c);
    uint32_t format = e ? 0 : cur_u32(&c);
    if (!e)
        e = cur_done(&c);
    if (!e && format != INDEX_FORMAT)
        e = format > INDEX_FORMAT ? FARM_EVERSION : FARM_ECORRUPT;
    return e;
}

/* The log goes on behind its last entry, whatever the caller wrote into its meta row. */
static int find_log_head(struct index *ix)
{
    MDB_cursor *c;
    MDB_val k, v;

    int rc = mdb_cursor_open(ix->txn, ix->dbi[T_LOG], &c);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(c, &k, &v, MDB_LAST);
    uint64_t last = !rc && k.mv_size == 8 ? key_get_u64(k.mv_data) : 0;
    mdb_cursor_close(c);
    if (rc && rc != MDB_NOTFOUND)
        return index_code(rc);
    if (!rc && k.mv_size != 8)
        return FARM_ECORRUPT;
    if (last >= ix->log_head)
        ix->log_head = last + 1;
    return 0;
}

static int open_tables(struct index *ix, bool *fresh)
{
    struct index_meta m;

    int e = index_begin(ix);
    if (e)
        return e;
    for (int t = 0; t < T_COUNT && !e; t++)
        e = index_code(mdb_dbi_open(ix->txn, table_names[t], MDB_CREATE, &ix->dbi[t]));
    if (!e)
        e = check_format(ix);
    if (!e) {
        e = index_get_meta(ix, &m);
        *fresh = e == -ENOENT;
        ix->log_head = e == 0 && m.log_head ? m.log_head : 1;
        if (e == -ENOENT)
            e = 0;
    }
    if (!e)
        e = find_log_head(ix);
    if (e) {
        index_abort(ix);
        return e;
    }
    ix->log_head_before = ix->log_head;
    return index_commit(ix);
}

static int open_env(struct index *ix, const char *dir, size_t map_size)
{
    char path[4096];
    int dead;

    if ((size_t)snprintf(path, sizeof path, "%s/" INDEX_FILE, dir) >= sizeof path)
        return -ENAMETOOLONG;
    int rc = mdb_env_create(&ix->env);
    if (!rc)
        rc = mdb_env_set_maxdbs(ix->env, T_COUNT);
    if (!rc)
        rc = mdb_env_set_maxreaders(ix->env, READERS_MAX);
    if (!rc)
        rc = mdb_env_set_mapsize(ix->env, map_size);
    if (!rc)
        rc = mdb_env_open(ix->env, path, MDB_NOSUBDIR | MDB_NOSYNC | MDB_NOTLS | MDB_NORDAHEAD,
                          0600);
    if (!rc)
        rc = mdb_reader_check(ix->env, &dead);
    return rc ? index_code(rc) : fill_up(ix->env);
}

/* LMDB does not tell where its map is, but the kernel does. */
static void find_map(struct index *ix)
{
    char line[8192];
    struct stat st;
    int fd;

    FILE *f = fopen("/proc/self/maps", "re");
    bool known = mdb_env_get_fd(ix->env, &fd) == 0 && fstat(fd, &st) == 0;
    /* not by device: some file systems show another one here than stat does */
    while (f && known && !ix->map && fgets(line, sizeof line, f)) {
        unsigned long from;
        unsigned long long inode;
        if (sscanf(line, "%lx-%*x %*s %*x %*s %llu", &from, &inode) == 2 && inode == st.st_ino &&
            strstr(line, "/" INDEX_FILE))
            ix->map = (void *)from; /* NOLINT(performance-no-int-to-ptr): it was written as one */
    }
    if (f)
        fclose(f);
    if (!ix->map)
        log_warn(
            "where the index is mapped is not known: its pages count as this process's memory");
}

void index_trim(struct index *ix, size_t max)
{
    char text[128];
    unsigned long shared;
    MDB_envinfo info;
    MDB_stat st;

    FILE *f = ix->map ? fopen("/proc/self/statm", "re") : NULL;
    if (!f)
        return;
    bool read = fgets(text, sizeof text, f) && sscanf(text, "%*u %*u %lu", &shared) == 1;
    fclose(f);
    if (!read || shared * (size_t)sysconf(_SC_PAGESIZE) <= max || mdb_env_info(ix->env, &info) ||
        mdb_env_stat(ix->env, &st))
        return;
    if (madvise(ix->map, (info.me_last_pgno + 1) * st.ms_psize, MADV_DONTNEED) < 0)
        log_debug("madvise: %s", strerror(errno));
}

/* A file that no mark tells about is believed only when all of it is in order. */
static int check_unmarked(int fd)
{
    struct index_verified v;
    uint8_t meta[META_BYTES];
    uint32_t psize;
    uint64_t txn;

    int e = meta_read(fd, meta, &psize, &txn);
    if (!e)
        e = verify_file(fd, meta, NULL, 0, &v);
    return e;
}

/* A small index is checked whole when it was closed; a large one by whoever opens it
 * (index_verify), since others wait. */
static int check_small(int fd, const uint8_t meta[META_BYTES])
{
    struct index_verified v;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    return st.st_size > CHECKED_AT_ONCE ? 0 : verify_file(fd, meta, NULL, 0, &v);
}

static bool is_marked(const struct mark *m, int fd)
{
    uint8_t meta[META_BYTES];
    uint32_t psize;
    uint64_t txn;

    return meta_read(fd, meta, &psize, &txn) == 0 && txn == m->last.txn && psize == m->last.psize &&
           memcmp(meta, m->last.meta, META_BYTES) == 0;
}

/* What lies in the directory, before LMDB looks at it: INDEX_FRESH, or what is to be believed. */
static int look(struct index *ix, int dirfd, const uint8_t boot[BOOT_BYTES])
{
    struct mark *m = &ix->mark;

    ix->found = INDEX_FRESH;
    CLEANUP_FD int fd = openat(dirfd, INDEX_FILE, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? mark_forget(m) : -errno;
    if (!m->have) {
        ix->found = INDEX_RESTORED;
        return check_unmarked(fd);
    }
    if (memcmp(m->last.boot, boot, BOOT_BYTES) != 0) {
        ix->found = m->last.flags & MARK_CLEAN ? INDEX_CLEAN : INDEX_RESTORED;
        int e = mark_restore(m, fd);
        return e ? e : check_small(fd, m->last.meta);
    }
    ix->found = m->last.flags & MARK_CLEAN ? INDEX_CLEAN : INDEX_LIVE;
    if (ix->found == INDEX_LIVE)
        return 0;
    if (is_marked(m, fd))
        return check_small(fd, m->last.meta);
    ix->found = INDEX_RESTORED; /* not what was left when it was closed */
    m->have = false;
    return check_unmarked(fd);
}

int index_open_boot(const char *dir, size_t map_size, const uint8_t boot[16], struct index **out,
                    bool *fresh)
{
    bool anew = false;

    CLEANUP_FD int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return -errno;
    struct index *ix = calloc(1, sizeof *ix);
    if (!ix)
        return -ENOMEM;
    buf_init(&ix->row, ROW_MAX);
    ix->suspect = calloc(1, sizeof *ix->suspect);
    int e = mark_open(&ix->mark, dirfd);
    if (!e && !ix->suspect)
        e = -ENOMEM;
    if (!e)
        e = look(ix, dirfd, boot);
    if (!e)
        e = open_env(ix, dir, map_size);
    if (!e && ix->found != INDEX_FRESH)
        e = mark_attach(ix, boot, ix->found == INDEX_LIVE);
    if (!e)
        e = open_tables(ix, &anew);
    if (!e && ix->found == INDEX_FRESH) {
        e = fsync(dirfd) < 0 ? -errno : mark_attach(ix, boot, false);
    }
    if (e) {
        index_close(ix);
        return e;
    }
    if (anew)
        ix->found = INDEX_FRESH;
    find_map(ix);
    *out = ix;
    *fresh = anew;
    return 0;
}

int index_open(const char *dir, size_t map_size, struct index **out, bool *fresh)
{
    uint8_t boot[BOOT_BYTES];

    int e = index_boot_id(boot);
    return e ? e : index_open_boot(dir, map_size, boot, out, fresh);
}

enum index_found index_found(const struct index *ix)
{
    return ix->found;
}

void index_close(struct index *ix)
{
    if (!ix)
        return;
    index_abort(ix);
    mark_close(&ix->mark);
    if (ix->env)
        mdb_env_close(ix->env);
    buf_fini(&ix->row);
    free(ix->suspect);
    free(ix);
}

/* ---- transactions ---- */

void index_on_panic(struct index *ix, void (*f)(void))
{
    ix->panic = f;
}

void index_panicked(const struct index *ix, int rc)
{
    if (rc == MDB_PANIC && ix->panic)
        ix->panic();
}

int index_begin(struct index *ix)
{
    farm_assert(!ix->txn);
    int rc = mdb_txn_begin(ix->env, NULL, 0, &ix->txn);
    if (rc) {
        ix->txn = NULL;
        index_panicked(ix, rc);
        return index_code(rc);
    }
    ix->failed = 0;
    ix->log_head_before = ix->log_head;
    return 0;
}

int index_commit(struct index *ix)
{
    farm_assert(ix->txn);
    if (ix->failed) {
        int e = ix->failed;
        index_abort(ix);
        return e;
    }
    int rc = mdb_txn_commit(ix->txn);
    ix->txn = NULL;
    if (rc)
        ix->log_head = ix->log_head_before;
    return index_code(rc);
}

void index_abort(struct index *ix)
{
    if (!ix->txn)
        return;
    mdb_txn_abort(ix->txn);
    ix->txn = NULL;
    ix->log_head = ix->log_head_before;
}

/* ---- meta ---- */

static struct key meta_key(void)
{
    struct key k = {.n = 0};
    key_raw(&k, "meta", 4);
    return k;
}

int meta_row(const struct index *ix, MDB_txn *txn, struct index_meta *m)
{
    struct key k = meta_key();
    struct index_meta r;
    struct cur c;

    int e = row_get(ix, txn, T_META, &k, &c);
    if (e)
        return e;
    r.folder_id = cur_u64(&c);
    r.node = cur_u64(&c);
    r.epoch = cur_u64(&c);
    r.next_seq = cur_u64(&c);
    r.next_id = cur_u64(&c);
    r.next_lid = cur_u64(&c);
    r.hlc = cur_u64(&c);
    r.log_head = cur_u64(&c);
    r.conn = cur_u64(&c);
    r.intents = cur_u64(&c);
    r.clean = cur_u8(&c);
    r.scanned = cur_u8(&c);
    e = vvec_decode(&c, &r.know);
    if (!e)
        e = vvec_decode(&c, &r.seen);
    if (!e)
        e = vvec_decode(&c, &r.gone);
    uint8_t len = cur_u8(&c);
    const uint8_t *name = cur_raw(&c, len);
    r.nruns = cur_u8(&c);
    for (uint32_t i = 0; i < r.nruns && i < RUNS_MAX; i++) {
        r.runs[i].id = cur_u64(&c);
        r.runs[i].seq = cur_u64(&c);
        r.runs[i].pos = cur_u64(&c);
    }
    r.rejoin_pos = cur_u64(&c);
    r.rejoin_node = cur_u64(&c);
    if (!e)
        e = cur_done(&c);
    if (!e && (len >= sizeof r.name || r.nruns > RUNS_MAX))
        e = FARM_ECORRUPT;
    if (e)
        return e;
    memcpy(r.name, name, len);
    r.name[len] = 0;
    *m = r;
    return 0;
}

int index_get_meta(struct index *ix, struct index_meta *m)
{
    return meta_row(ix, ix->txn, m);
}

int index_put_meta(struct index *ix, const struct index_meta *m)
{
    struct key k = meta_key();
    struct index_meta was;

    int e = index_get_meta(ix, &was);
    if (e && e != -ENOENT)
        return e;
    if (!e && was.folder_id != m->folder_id)
        return FARM_EFOLDER;
    struct buf *b = row_begin(ix);
    buf_put_u64(b, m->folder_id);
    buf_put_u64(b, m->node);
    buf_put_u64(b, m->epoch);
    buf_put_u64(b, m->next_seq);
    buf_put_u64(b, m->next_id);
    buf_put_u64(b, m->next_lid);
    buf_put_u64(b, m->hlc);
    buf_put_u64(b, m->log_head);
    buf_put_u64(b, m->conn);
    buf_put_u64(b, m->intents);
    buf_put_u8(b, m->clean);
    buf_put_u8(b, m->scanned);
    vvec_encode(b, &m->know);
    vvec_encode(b, &m->seen);
    vvec_encode(b, &m->gone);
    uint8_t len = (uint8_t)strnlen(m->name, sizeof m->name - 1);
    buf_put_u8(b, len);
    buf_put(b, m->name, len);
    buf_put_u8(b, (uint8_t)m->nruns);
    for (uint32_t i = 0; i < m->nruns; i++) {
        buf_put_u64(b, m->runs[i].id);
        buf_put_u64(b, m->runs[i].seq);
        buf_put_u64(b, m->runs[i].pos);
    }
    buf_put_u64(b, m->rejoin_pos);
    buf_put_u64(b, m->rejoin_node);
    return row_put(ix, T_META, &k);
}

/* ---- peers ---- */

static int peer_decode(uint64_t node, struct cur *c, struct index_peer *out)
{
    struct index_peer p = {.node = node};

    uint8_t len = cur_u8(c);
    const uint8_t *name = cur_raw(c, len);
    p.epoch = cur_u64(c);
    p.applied = cur_u64(c);
    p.seen_us = cur_u64(c);
    p.run = cur_u64(c);
    p.run_seen = cur_u64(c);
    int e = vvec_decode(c, &p.know);
    if (!e)
        e = cur_done(c);
    if (e)
        return e;
    if (len >= sizeof p.name)
        return FARM_ECORRUPT;
    if (len)
        memcpy(p.name, name, len);
    *out = p;
    return 0;
}

int index_get_peer(struct index *ix, uint64_t node, struct index_peer *p)
{
    struct key k = key_of_u64(node);
    struct cur c;

    int e = row_get(ix, ix->txn, T_PEERS, &k, &c);
    return e ? e : peer_decode(node, &c, p);
}

int index_put_peer(struct index *ix, const struct index_peer *p)
{
    struct key k = key_of_u64(p->node);
    struct buf *b = row_begin(ix);
    uint8_t len = (uint8_t)strnlen(p->name, sizeof p->name - 1);

    buf_put_u8(b, len);
    buf_put(b, p->name, len);
    buf_put_u64(b, p->epoch);
    buf_put_u64(b, p->applied);
    buf_put_u64(b, p->seen_us);
    buf_put_u64(b, p->run);
    buf_put_u64(b, p->run_seen);
    vvec_encode(b, &p->know);
    return row_put(ix, T_PEERS, &k);
}

struct peer_scan {
    peer_visit f;
    void *arg;
};

static int on_peer(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct peer_scan *s = arg;
    struct index_peer p;
    struct cur c;

    row_payload(v, &c);
    int e = k->mv_size == 8 ? 0 : FARM_ECORRUPT;
    if (!e)
        e = peer_decode(key_get_u64(k->mv_data), &c, &p);
    return e ? e : s->f(s->arg, &p);
}

int index_peers(struct index *ix, peer_visit f, void *arg)
{
    struct peer_scan s = {f, arg};
    struct key all = {.n = 0};
    return row_scan(ix, ix->txn, T_PEERS, &all, on_peer, &s);
}
