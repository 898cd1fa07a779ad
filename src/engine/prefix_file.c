// Bytes of the files of the prefix cache (prefix_file.h).
//
//   header   128 bytes; the last 16 are the hash of the header before them, model key and keys
//   model    key of the model, zeros up to a multiple of 16
//   keys     16 bytes a block
//   ids      4 bytes a token, from position 0 to the end of the run
//   data     the blocks, as they lie in the cache
//   hash     16 bytes, of everything before it
#include "engine/prefix_file.h"

#include <string.h>

#include "base/alloc.h"
#include "ops/ops.h"

#define VERSION 1

static const uint8_t magic[8] = {'m', 'i', 'n', 'k', 'e', 'k', 'v', '\n'};

typedef struct {
    uint8_t magic[8];
    uint32_t version, numerics;
    uint32_t kv_type, block_tokens;
    uint64_t tenant, block_bytes;
    uint64_t first, n;
    uint64_t model_bytes, file_bytes;
    uint64_t zero[5];
    mk_u128 hash;
} header;

enum { BLOCK_IDS = MK_KV_BLOCK * 4, HASHED = sizeof(header) - sizeof(mk_u128) };

_Static_assert(sizeof(header) == 128, "the header is 128 bytes without holes");
_Static_assert(sizeof(header) + MK_PREFIX_MODEL_MAX + 16 + MK_PREFIX_RUN_MAX * sizeof(mk_u128) <=
                   MK_PREFIX_HEAD_MAX,
               "what is read of every file at the start holds its head");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are stored as they lie");

// --- keys ----------------------------------------------------------------------------------------

static mk_u128 cut(const mk_prefix_kind *k, mk_u128 key) {
    if (k->key_bits > 0) {
        MK_ASSERT(k->key_bits < 64);
        key = (mk_u128){key.lo & (((uint64_t)1 << k->key_bits) - 1), 0};
    }
    return key;
}

uint64_t mk_prefix_tag(const mk_prefix_kind *k) {
    const uint64_t facts[] = {VERSION,    MK_NUMERICS,    MK_KV_BLOCK,
                              k->kv_type, k->block_bytes, (uint64_t)k->key_bits};
    uint64_t h = mk_hash64(k->model_key, strlen(k->model_key), 0);
    return mk_hash64(facts, sizeof facts, h);
}

mk_u128 mk_prefix_root(const mk_prefix_kind *k, uint64_t tenant) {
    return cut(k, mk_hash128(&tenant, sizeof tenant, mk_prefix_tag(k)));
}

mk_u128 mk_prefix_next(const mk_prefix_kind *k, mk_u128 before, const int32_t *ids) {
    uint8_t both[sizeof before + BLOCK_IDS];
    memcpy(both, &before, sizeof before);
    memcpy(both + sizeof before, ids, BLOCK_IDS);
    return cut(k, mk_hash128(both, sizeof both, 0));
}

// --- where things lie ----------------------------------------------------------------------------

typedef struct {
    size_t keys, ids, data, hash, end;
} layout;

// False if it is too large to address, or empty.
static bool lay_out(uint64_t model_bytes, uint64_t block_bytes, uint64_t first, uint64_t n,
                    layout *l) {
    size_t ids = 0, data = 0;
    if (model_bytes > MK_PREFIX_MODEL_MAX || n == 0 || n > MK_PREFIX_RUN_MAX || first > INT32_MAX ||
        !mk_mul_size((size_t)(first + n), BLOCK_IDS, &ids) ||
        !mk_mul_size((size_t)n, (size_t)block_bytes, &data)) {
        return false;
    }
    l->keys = sizeof(header) + (model_bytes + 15) / 16 * 16;
    l->ids = l->keys + n * sizeof(mk_u128);
    return mk_add_size(l->ids, ids, &l->data) && mk_add_size(l->data, data, &l->hash) &&
           mk_add_size(l->hash, sizeof(mk_u128), &l->end);
}

size_t mk_prefix_file_bytes(const mk_prefix_kind *k, int64_t first, int64_t n) {
    layout l;
    return first >= 0 && n > 0 &&
                   lay_out(strlen(k->model_key), k->block_bytes, (uint64_t)first, (uint64_t)n, &l)
               ? l.end
               : 0;
}

static mk_u128 head_hash(const header *h, const uint8_t *file, size_t ids_at) {
    mk_u128 first = mk_hash128(h, HASHED, 0);
    return mk_hash128(file + sizeof *h, ids_at - sizeof *h, first.lo ^ first.hi);
}

// --- writing -------------------------------------------------------------------------------------

uint8_t *mk_prefix_file_lay(const mk_prefix_kind *k, const mk_prefix_run *run, uint8_t *file) {
    layout l;
    header h = {.version = VERSION,
                .numerics = MK_NUMERICS,
                .kv_type = k->kv_type,
                .block_tokens = MK_KV_BLOCK,
                .tenant = run->tenant,
                .block_bytes = k->block_bytes,
                .first = (uint64_t)run->first,
                .n = (uint64_t)run->n,
                .model_bytes = strlen(k->model_key)};
    bool fits = lay_out(h.model_bytes, h.block_bytes, h.first, h.n, &l);
    MK_ASSERT(fits);
    memcpy(h.magic, magic, sizeof magic);
    h.file_bytes = l.end;
    memcpy(file + sizeof h, k->model_key, h.model_bytes);
    memcpy(file + l.keys, run->keys, (size_t)run->n * sizeof *run->keys);
    memcpy(file + l.ids, run->ids, l.data - l.ids);
    h.hash = head_hash(&h, file, l.ids);
    memcpy(file, &h, sizeof h);
    return file + l.data;
}

void mk_prefix_file_seal(uint8_t *file, size_t n_bytes) {
    size_t at = n_bytes - sizeof(mk_u128);
    mk_u128 hash = mk_hash128(file, at, 0);
    memcpy(file + at, &hash, sizeof hash);
}

// --- reading -------------------------------------------------------------------------------------

static mk_status check_kind(const mk_prefix_kind *k, const header *h, const uint8_t *model,
                            mk_err *err) {
    if (h->numerics != MK_NUMERICS || h->kv_type != k->kv_type || h->block_tokens != MK_KV_BLOCK ||
        h->block_bytes != k->block_bytes) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "blocks of %u tokens and %llu bytes, type %u, numerics %u; expected %d, "
                       "%llu, %u and %u",
                       h->block_tokens, (unsigned long long)h->block_bytes, h->kv_type, h->numerics,
                       MK_KV_BLOCK, (unsigned long long)k->block_bytes, k->kv_type,
                       (unsigned)MK_NUMERICS);
    }
    if (h->model_bytes != strlen(k->model_key) ||
        memcmp(model, k->model_key, h->model_bytes) != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "made by another model than %s", k->model_key);
    }
    return MK_OK;
}

static mk_status read_head(const mk_prefix_kind *k, const uint8_t *p, size_t n, size_t n_file,
                           layout *l, mk_prefix_run *run, mk_err *err) {
    header h;
    MK_ASSERT(((uintptr_t)p & 15) == 0);
    if (n < sizeof h || memcmp(p, magic, sizeof magic) != 0) {
        return MK_FAIL(err, MK_ECORRUPT, "%zu bytes, not a file of minke's prefix cache", n_file);
    }
    memcpy(&h, p, sizeof h);
    if (h.version != VERSION) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "version %u of these files, expected %u", h.version,
                       (unsigned)VERSION);
    }
    if (!lay_out(h.model_bytes, h.block_bytes, h.first, h.n, l) || l->end != h.file_bytes ||
        l->end != n_file || l->ids > n) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "the head tells of %llu blocks of %llu bytes behind %llu others and of %llu "
                       "bytes in all, the file has %zu",
                       (unsigned long long)h.n, (unsigned long long)h.block_bytes,
                       (unsigned long long)h.first, (unsigned long long)h.file_bytes, n_file);
    }
    if (!mk_u128_equal(h.hash, head_hash(&h, p, l->ids))) {
        return MK_FAIL(err, MK_ECORRUPT, "the head is damaged: its hash is wrong");
    }
    MK_TRY(check_kind(k, &h, p + sizeof h, err));
    *run = (mk_prefix_run){.tenant = h.tenant,
                           .first = (int64_t)h.first,
                           .n = (int64_t)h.n,
                           .keys = (const mk_u128 *)(const void *)(p + l->keys)};
    return MK_OK;
}

mk_status mk_prefix_file_head(const mk_prefix_kind *k, const uint8_t *p, size_t n, size_t n_file,
                              mk_prefix_run *run, mk_err *err) {
    layout l;
    return read_head(k, p, n, n_file, &l, run, err);
}

// A file whose hashes are right may still lie.
static mk_status check_keys(const mk_prefix_kind *k, const mk_prefix_run *run, mk_err *err) {
    mk_u128 key = mk_prefix_root(k, run->tenant);
    for (int64_t i = 0; i < run->first + run->n; i++) {
        key = mk_prefix_next(k, key, run->ids + i * MK_KV_BLOCK);
        if (i >= run->first && !mk_u128_equal(key, run->keys[i - run->first])) {
            return MK_FAIL(err, MK_ECORRUPT, "the key of block %lld is not that of its ids",
                           (long long)i);
        }
    }
    return MK_OK;
}

mk_status mk_prefix_file_parse(const mk_prefix_kind *k, const uint8_t *p, size_t n,
                               mk_prefix_run *run, mk_err *err) {
    layout l;
    mk_u128 hash;
    MK_TRY(read_head(k, p, n, n, &l, run, err));
    memcpy(&hash, p + l.hash, sizeof hash);
    if (!mk_u128_equal(hash, mk_hash128(p, l.hash, 0))) {
        return MK_FAIL(err, MK_ECORRUPT, "damaged: the checksum is wrong");
    }
    run->ids = (const int32_t *)(const void *)(p + l.ids);
    run->data = p + l.data;
    return check_keys(k, run, err);
}
