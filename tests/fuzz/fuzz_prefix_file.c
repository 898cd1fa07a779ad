// Any bytes as a file of the prefix cache: refused, or a run whose every byte can be read.
//
// The first byte says what is made right before the bytes are parsed, so that what lies behind the
// hashes is reached: 1 the size in the head, 2 its hash, 4 the checksum; 8 the keys are computed
// from the ids; 16 the version of the numbers.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/prefix_file.h"
#include "ops/ops.h"

// Offsets in the head; sizes of it and of the hash at its end.
enum {
    AT_NUMERICS = 12,
    AT_TENANT = 24,
    AT_FIRST = 40,
    AT_N = 48,
    AT_MODEL_BYTES = 56,
    AT_FILE_BYTES = 64,
    HEAD = 128,
    HASH = 16
};

static const mk_prefix_kind kind = {.model_key = "fuzz", .kv_type = 2, .block_bytes = 96};
static volatile uint8_t sink;

static uint64_t get(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void touch(const void *p, size_t n) {
    uint8_t x = 0;
    for (size_t i = 0; i < n; i++) {
        x ^= ((const uint8_t *)p)[i];
    }
    sink = x;
}

static void touch_run(const mk_prefix_run *run) {
    size_t n = (size_t)run->n;
    MK_ASSERT(run->n > 0 && run->n <= MK_PREFIX_RUN_MAX && run->first >= 0);
    touch(run->keys, n * sizeof *run->keys);
    touch(run->ids, ((size_t)run->first + n) * MK_KV_BLOCK * sizeof *run->ids);
    touch(run->data, n * kind.block_bytes);
}

// Where keys and ids are, if all of them are inside.
static int places(const uint8_t *file, size_t n, size_t *keys, size_t *ids) {
    uint64_t first = get(file + AT_FIRST), n_block = get(file + AT_N),
             model = get(file + AT_MODEL_BYTES);
    if (model > MK_PREFIX_MODEL_MAX || n_block > MK_PREFIX_RUN_MAX || first > 1000) {
        return 0;
    }
    *keys = HEAD + (model + 15) / 16 * 16;
    *ids = *keys + n_block * sizeof(mk_u128);
    return *ids + (first + n_block) * MK_KV_BLOCK * 4 <= n;
}

static void make_right(uint8_t *file, size_t n, uint8_t what) {
    size_t keys = 0, ids = 0;
    if (n < HEAD + HASH) {
        return;
    }
    if (what & 1) {
        memcpy(file + AT_FILE_BYTES, &n, sizeof n);
    }
    if (what & 16) {
        memcpy(file + AT_NUMERICS, &(uint32_t){MK_NUMERICS}, 4);
    }
    if (places(file, n, &keys, &ids)) {
        mk_u128 key = mk_prefix_root(&kind, get(file + AT_TENANT));
        uint64_t first = get(file + AT_FIRST), n_block = get(file + AT_N);
        for (uint64_t i = 0; what & 8 && i < first + n_block; i++) {
            int32_t block[MK_KV_BLOCK];
            memcpy(block, file + ids + i * sizeof block, sizeof block);
            key = mk_prefix_next(&kind, key, block);
            if (i >= first) {
                memcpy(file + keys + (i - first) * sizeof key, &key, sizeof key);
            }
        }
        if (what & 2) {
            mk_u128 head = mk_hash128(file, HEAD - HASH, 0);
            head = mk_hash128(file + HEAD, ids - HEAD, head.lo ^ head.hi);
            memcpy(file + HEAD - HASH, &head, sizeof head);
        }
    }
    if (what & 4) {
        mk_prefix_file_seal(file, n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 1) {
        return 0;
    }
    int64_t live = mk_alloc_live();
    uint8_t *file = mk_try_alloc(n - 1, 1);  // of just this size, so that a sanitizer sees the end
    mk_prefix_run run;
    mk_err err = {0};
    memcpy(file, data + 1, n - 1);
    make_right(file, n - 1, data[0]);
    if (mk_prefix_file_parse(&kind, file, n - 1, &run, &err) == MK_OK) {
        touch_run(&run);
        // what was read is what would be written
        uint8_t *again = mk_try_alloc(n - 1, 1);
        size_t size = mk_prefix_file_bytes(&kind, run.first, run.n);
        MK_ASSERT(size == n - 1);
        memcpy(mk_prefix_file_lay(&kind, &run, again), run.data, (size_t)run.n * kind.block_bytes);
        mk_prefix_file_seal(again, size);
        mk_free(again);
    } else {
        MK_ASSERT(err.msg[0] != '\0');
    }
    size_t head = n - 1 < MK_PREFIX_HEAD_MAX ? n - 1 : MK_PREFIX_HEAD_MAX;
    if (mk_prefix_file_head(&kind, file, head, n - 1, &run, NULL) == MK_OK) {
        touch(run.keys, (size_t)run.n * sizeof *run.keys);
    }
    mk_free(file);
    MK_ASSERT(mk_alloc_live() == live);
    return 0;
}
