/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The mark: which state of the index is whole on the disk. See index.h for the order of things.
 *
 * LMDB never writes over a page of the last two states, and not over one that a reader may still
 * look at. A read transaction that is kept open on the marked state therefore keeps that state
 * untouched in the file, whatever is committed afterwards. Its meta page is overwritten two commits
 * later, so a copy is kept in the mark, and put back after a machine stop.
 */
#include "store/index_i.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MARK_MAGIC 0x316b72614d6e6546ull
#define MARK_FORMAT 1u
/* LMDB 0.9: struct MDB_meta behind a page header of 16 bytes. */
#define META_PGNO 0u
#define META_FLAGS 10u
#define META_MAGIC 16u
#define META_VERSION 20u
#define META_PSIZE 40u
#define META_TXN 144u
#define LMDB_MAGIC 0xbeefc0deu
#define LMDB_VERSION 1u
#define LMDB_P_META 8u
/* LMDB 0.9: a reader's slot in the lock file; the slots are at its end. */
#define READER_SLOT 64u
#define REWRITE_CHUNK (1u << 20)

static uint64_t slot_check(const struct mark_slot *s)
{
    return XXH3_64bits(s, offsetof(struct mark_slot, check));
}

static uint64_t meta_u64(const uint8_t *meta, size_t off)
{
    uint64_t v;
    memcpy(&v, meta + off, sizeof v);
    return v;
}

static uint32_t meta_u32(const uint8_t *meta, size_t off)
{
    uint32_t v;
    memcpy(&v, meta + off, sizeof v);
    return v;
}

/* ---- the file ---- */

static bool slot_read(int fd, unsigned i, struct mark_slot *out)
{
    size_t got = 0;

    return io_pread(fd, out, sizeof *out, (uint64_t)i * MARK_SLOT, &got) == 0 &&
           got == sizeof *out && out->magic == MARK_MAGIC && out->format == MARK_FORMAT &&
           out->check == slot_check(out);
}

static int slot_write(struct mark *m, struct mark_slot *s)
{
    uint8_t page[MARK_SLOT] = {0};

    s->magic = MARK_MAGIC;
    s->format = MARK_FORMAT;
    s->count = m->last.count + 1;
    s->check = slot_check(s);
    memcpy(page, s, sizeof *s);
    int e = io_pwrite(m->fd, page, sizeof page, s->count % 2 * MARK_SLOT);
    return !e && fdatasync(m->fd) < 0 ? -errno : e;
}

int mark_open(struct mark *m, int dirfd)
{
    struct mark_slot s;

    *m = (struct mark){.fd = -1, .index_fd = -1};
    m->fd = openat(dirfd, MARK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (m->fd < 0)
        return -errno;
    for (unsigned i = 0; i < 2; i++) {
        if (slot_read(m->fd, i, &s) && (!m->have || s.count > m->last.count)) {
            m->last = s;
            m->have = true;
        }
    }
    return 0;
}

void mark_close(struct mark *m)
{
    if (m->pin)
        mdb_txn_abort(m->pin);
    if (m->next_pin)
        mdb_txn_abort(m->next_pin);
    if (m->fd >= 0)
        close(m->fd);
    m->fd = -1;
    m->pin = m->next_pin = NULL;
}

int mark_forget(struct mark *m)
{
    m->have = false;
    return ftruncate(m->fd, 0) < 0 || fdatasync(m->fd) < 0 ? -errno : 0;
}

/* ---- meta pages ---- */

static bool meta_valid(const uint8_t *meta, size_t got)
{
    uint32_t psize = meta_u32(meta, META_PSIZE);

    return got == META_BYTES && meta_u32(meta, META_MAGIC) == LMDB_MAGIC &&
           meta_u32(meta, META_VERSION) == LMDB_VERSION && (meta[META_FLAGS] & LMDB_P_META) &&
           psize >= 512 && psize <= 65536 && (psize & (psize - 1)) == 0;
}

int meta_read(int fd, uint8_t meta[META_BYTES], uint32_t *psize, uint64_t *txn)
{
    uint32_t size = (uint32_t)sysconf(_SC_PAGESIZE);
    uint8_t one[META_BYTES] = {0};
    bool found = false;
    size_t got = 0;

    for (uint64_t page = 0; page < 2; page++) {
        int e = io_pread(fd, one, sizeof one, page * size, &got);
        if (e)
            return e;
        if (!meta_valid(one, got) || meta_u64(one, META_PGNO) != page)
            continue;
        size = meta_u32(one, META_PSIZE);
        if (found && meta_u64(one, META_TXN) <= *txn)
            continue;
        memcpy(meta, one, META_BYTES);
        *txn = meta_u64(one, META_TXN);
        *psize = size;
        found = true;
    }
    return found ? 0 : FARM_ECORRUPT;
}

/* Both: the marked state at its own place, the same as the one before at the other, so that
 * whichever LMDB takes, it is this state. */
int mark_restore(const struct mark *m, int fd)
{
    const struct mark_slot *s = &m->last;

    for (uint64_t page = 0; page < 2; page++) {
        uint8_t meta[META_BYTES];
        uint64_t txn = page == s->txn % 2 ? s->txn : s->txn - 1;
        memcpy(meta, s->meta, META_BYTES);
        memcpy(meta + META_PGNO, &page, sizeof page);
        memcpy(meta + META_TXN, &txn, sizeof txn);
        int e = io_pwrite(fd, meta, META_BYTES, page * s->psize);
        if (e)
            return e;
    }
    return fdatasync(fd) < 0 ? -errno : 0;
}

/* ---- moving it ---- */

/* A sync that failed says nothing about what was to be written before it: everything is written
 * again, and synced then. */
static int rewrite(struct mark *m)
{
    CLEANUP_FREE uint8_t *chunk = malloc(REWRITE_CHUNK);
    size_t got = REWRITE_CHUNK;
    int e = chunk ? 0 : -ENOMEM;

    for (uint64_t off = 0; !e && got == REWRITE_CHUNK; off += got) {
        e = io_pread(m->index_fd, chunk, REWRITE_CHUNK, off, &got);
        if (!e && got)
            e = io_pwrite(m->index_fd, chunk, got, off);
    }
    if (!e)
        m->failed = false;
    return e;
}

int index_mark_begin(struct index *ix)
{
    struct mark *m = &ix->mark;
    struct mark_slot s = {0};
    uint64_t txn = 0;

    farm_assert(!ix->txn && !m->next_pin);
    if (m->failed) {
        int e = rewrite(m);
        if (e)
            return e;
    }
    int rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &m->next_pin);
    if (rc) {
        m->next_pin = NULL;
        return index_code(rc);
    }
    int e = meta_read(m->index_fd, s.meta, &s.psize, &txn);
    if (!e && txn != mdb_txn_id(m->next_pin))
        e = FARM_ECORRUPT;
    if (!e && m->have && txn == m->last.txn && !(m->last.flags & MARK_CLEAN))
        e = -EALREADY;
    if (e) {
        mdb_txn_abort(m->next_pin);
        m->next_pin = NULL;
        return e;
    }
    s.txn = txn;
    memcpy(s.boot, m->last.boot, BOOT_BYTES);
    m->next = s;
    return 0;
}

/* The older pin protects what is newer as well. */
void index_mark_drop(struct index *ix)
{
    struct mark *m = &ix->mark;

    mdb_txn_abort(m->next_pin);
    m->next_pin = NULL;
}

int index_mark_finish(struct index *ix)
{
    struct mark *m = &ix->mark;

    farm_assert(m->next_pin);
    int e = fdatasync(m->index_fd) < 0 ? -errno : slot_write(m, &m->next);
    if (e) {
        index_mark_drop(ix);
        m->failed = true;
        return e;
    }
    if (m->pin)
        mdb_txn_abort(m->pin);
    m->pin = m->next_pin;
    m->next_pin = NULL;
    m->last = m->next;
    m->have = true;
    return 0;
}

int index_mark_clean(struct index *ix)
{
    struct mark *m = &ix->mark;

    int e = index_mark_begin(ix);
    if (e == -EALREADY)
        e = 0;
    else if (!e)
        e = index_mark_finish(ix);
    if (e)
        return e;
    m->next = m->last;
    m->next.flags |= MARK_CLEAN;
    e = slot_write(m, &m->next);
    if (!e)
        m->last = m->next;
    return e;
}

uint64_t index_unmarked(struct index *ix)
{
    MDB_envinfo info;

    if (mdb_env_info(ix->env, &info) || !ix->mark.have)
        return 0;
    uint64_t marked = meta_u64(ix->mark.last.meta, META_BYTES - 16);
    return info.me_last_pgno > marked ? (info.me_last_pgno - marked) * ix->mark.last.psize : 0;
}

/* ---- pinning ---- */

struct pinned {
    uint64_t txn;
    int pid;
    bool found;
};

/* A line of mdb_reader_list: pid, thread, transaction. */
static int visit_reader(const char *line, void *arg)
{
    struct pinned *p = arg;
    int pid;
    uint64_t thread, txn;

    if (sscanf(line, "%d %" SCNx64 " %" SCNu64, &pid, &thread, &txn) == 3 && pid == p->pid &&
        txn == p->txn)
        p->found = true;
    return 0;
}

/*
 * The reader that protected the marked state died with the last worker, and LMDB lets nobody begin
 * to read an old state. So a reader of the newest state is begun (nothing is read through it) and
 * its entry in the table of readers is set back to the marked one. Whether LMDB sees it so is asked
 * of LMDB; if not, the caller moves the mark instead, which costs a sync.
 */
static bool pin_back(struct index *ix, MDB_txn *txn, uint64_t to)
{
    struct pinned p = {.txn = to, .pid = (int)getpid()};
    uint64_t now = mdb_txn_id(txn);
    unsigned slots;
    const char *path;
    struct stat st;
    char lock[4096];

    if (mdb_env_get_path(ix->env, &path) || mdb_env_get_maxreaders(ix->env, &slots) ||
        (size_t)snprintf(lock, sizeof lock, "%s-lock", path) >= sizeof lock)
        return false;
    CLEANUP_FD int fd = open(lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size <= (uint64_t)slots * READER_SLOT)
        return false;
    size_t size = (size_t)st.st_size, first = size - (size_t)slots * READER_SLOT;
    uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return false;
    for (unsigned i = 0; i < slots; i++) {
        uint8_t *slot = map + first + (size_t)i * READER_SLOT;
        int pid;
        memcpy(&pid, slot + 8, sizeof pid);
        if (pid == p.pid && meta_u64(slot, 0) == now) {
            memcpy(slot, &to, sizeof to);
            break;
        }
    }
    munmap(map, size);
    mdb_reader_list(ix->env, visit_reader, &p);
    return p.found;
}

/* The same boot: the mark stands, and is on the disk before anything is written behind it. */
static bool attach_live(struct index *ix)
{
    struct mark *m = &ix->mark;
    MDB_txn *txn;

    if (fdatasync(m->fd) < 0 || mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn))
        return false;
    if (mdb_txn_id(txn) == m->last.txn || pin_back(ix, txn, m->last.txn)) {
        m->pin = txn;
        return true;
    }
    mdb_txn_abort(txn);
    return false;
}

int mark_attach(struct index *ix, const uint8_t boot[BOOT_BYTES], bool live)
{
    struct mark *m = &ix->mark;

    if (mdb_env_get_fd(ix->env, &m->index_fd))
        return -EIO;
    if (live && attach_live(ix))
        return 0;
    m->have = false; /* nothing is as it was marked: it is marked anew, whatever it is */
    memcpy(m->last.boot, boot, BOOT_BYTES);
    int e = index_mark_begin(ix);
    return e ? e : index_mark_finish(ix);
}

int index_boot_id(uint8_t out[16])
{
    char text[64] = "";
    unsigned n = 0;

    CLEANUP_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        return -errno;
    memset(out, 0, 16);
    for (const char *p = text; *p && n < 32; p++) {
        const char *digits = "0123456789abcdef", *d = strchr(digits, *p);
        if (!d)
            continue;
        out[n / 2] = (uint8_t)(out[n / 2] << 4 | (d - digits));
        n++;
    }
    return n == 32 ? 0 : FARM_ECORRUPT;
}
