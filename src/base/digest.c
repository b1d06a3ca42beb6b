/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/digest.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* Fetched once: looking the algorithm up costs more than hashing a short block. */
static pthread_once_t sha_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256;

static void sha_fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    farm_assert(sha256 != NULL);
}

/* SHA256(head || body). libcrypto fails here only for want of memory, and there is no digest that
 * could stand for "unknown", so that is fatal. */
static void sha_two(const void *head, size_t head_len, const void *body, size_t body_len,
                    uint8_t out[DIGEST_LEN])
{
    pthread_once(&sha_once, sha_fetch);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    farm_assert(ctx != NULL);
    int ok = EVP_DigestInit_ex(ctx, sha256, NULL) && EVP_DigestUpdate(ctx, head, head_len) &&
             EVP_DigestUpdate(ctx, body, body_len) && EVP_DigestFinal_ex(ctx, out, NULL);
    farm_assert(ok);
    EVP_MD_CTX_free(ctx);
}

void digest_leaf(const void *block, size_t len, uint8_t out[DIGEST_LEN])
{
    static const uint8_t tag = 0x00;
    sha_two(&tag, 1, block, len, out);
}

void digest_root(uint64_t size, const uint8_t *leaves, uint64_t n, uint8_t out[DIGEST_LEN])
{
    farm_assert(n == digest_leaves(size));
    uint8_t head[9] = {0x01};
    for (unsigned i = 0; i < 8; i++)
        head[1 + i] = (uint8_t)(size >> (8 * i));
    sha_two(head, sizeof(head), leaves, (size_t)n * DIGEST_LEN, out);
}

void digest_small(const void *data, size_t len, uint8_t out[DIGEST_LEN])
{
    farm_assert(len <= DIGEST_BLOCK);
    uint8_t leaf[DIGEST_LEN];
    if (len > 0)
        digest_leaf(data, len, leaf);
    digest_root(len, leaf, len > 0 ? 1 : 0, out);
}

/* Is [off, end) a hole, or beyond the end of the file? "No" when the file system cannot tell. */
static bool is_hole(int fd, uint64_t off, uint64_t end)
{
    off_t data = lseek(fd, (off_t)off, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= end;
}

int digest_file_leaves(int fd, uint64_t size, uint64_t first, uint64_t last, uint8_t *leaves)
{
    farm_assert(first <= last && last <= digest_leaves(size));
    CLEANUP_FREE uint8_t *block = malloc(DIGEST_BLOCK);
    if (block == NULL)
        return -ENOMEM;
    uint8_t zero_leaf[DIGEST_LEN]; /* of a whole block of zeros: sparse files have many */
    bool have_zero = false;
    for (uint64_t i = first; i < last; i++, leaves += DIGEST_LEN) {
        uint64_t off = i * DIGEST_BLOCK;
        size_t want = size - off < DIGEST_BLOCK ? (size_t)(size - off) : DIGEST_BLOCK;
        size_t got = 0;
        bool hole = is_hole(fd, off, off + want);
        if (hole && have_zero && want == DIGEST_BLOCK) {
            memcpy(leaves, zero_leaf, DIGEST_LEN);
            continue;
        }
        int r = hole ? 0 : io_pread(fd, block, want, off, &got);
        if (r < 0)
            return r;
        memset(block + got, 0, want - got);
        digest_leaf(block, want, leaves);
        if (hole && want == DIGEST_BLOCK) {
            memcpy(zero_leaf, leaves, DIGEST_LEN);
            have_zero = true;
        }
    }
    return 0;
}

uint64_t digest_guard(const void *data, size_t len)
{
    return XXH3_64bits(data, len);
}
