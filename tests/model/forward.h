// Logits of a short prompt straight from a model, for tests of this room.
#ifndef TESTS_MODEL_FORWARD_H
#define TESTS_MODEL_FORWARD_H

#include <string.h>

#include "base/alloc.h"
#include "model/model.h"

enum { FORWARD_TOK = 24, FORWARD_MAX = MK_KV_BLOCK };

// Logits [n, n_vocab] of at most FORWARD_MAX ids (mk_free).  m is loaded.
static inline float *forward_logits_of(const mk_model *m, mk_pool *pool, const int32_t *ids,
                                       int64_t n) {
    const mk_kernels *k = NULL;
    if (mk_kernels_find("auto", &k, NULL) != MK_OK) {
        return NULL;
    }
    int32_t pos[FORWARD_MAX], block = 0;
    const int32_t *table[FORWARD_MAX];
    for (int32_t t = 0; t < n; t++) {
        pos[t] = t;
        table[t] = &block;
    }
    size_t bytes = mk_model_kv_bytes_per_block(m, MK_KV_F32), at = 0;
    uint8_t *cache = mk_big_alloc(bytes);
    mk_kv_layer *kv = mk_alloc((size_t)m->hp.n_layer * sizeof *kv);
    for (int l = 0; l < m->hp.n_layer; l++) {
        mk_attn a = mk_model_attn(m, l, MK_KV_F32);
        kv[l] = (mk_kv_layer){cache + at, bytes};
        at += mk_attn_block_bytes(&a);
    }
    mk_batch b = {.ids = ids,
                  .rows = {n, pos, table},
                  .kv = kv,
                  .kv_type = MK_KV_F32,
                  .out_rows = pos,
                  .n_out = n};
    mk_ops *ops = mk_ops_create(k, pool);
    mk_ops_begin(ops, true);
    (void)mk_model_forward(m, ops, &b);
    mk_ops_end(ops);
    size_t row = (size_t)m->hp.n_vocab * sizeof(float);
    float *out = mk_alloc((size_t)n * row);
    if (mk_ops_reserve(ops, mk_ops_high_water(ops), NULL) == MK_OK) {
        mk_ops_begin(ops, false);
        mk_mat y = mk_model_forward(m, ops, &b);
        for (int64_t t = 0; t < n; t++) {
            memcpy((uint8_t *)out + (size_t)t * row, y.p + t * y.stride, row);
        }
        mk_ops_end(ops);
    }
    mk_ops_destroy(ops);
    mk_free(kv);
    mk_big_free(cache, bytes);
    return out;
}

// The same of ids 5, 12, 19, ...: [FORWARD_TOK, n_vocab].
static inline float *forward_logits(const mk_model *m, mk_pool *pool) {
    int32_t ids[FORWARD_TOK];
    for (int32_t t = 0; t < FORWARD_TOK; t++) {
        ids[t] = (5 + 7 * t) % (int32_t)m->hp.n_vocab;
    }
    return forward_logits_of(m, pool, ids, FORWARD_TOK);
}

#endif
