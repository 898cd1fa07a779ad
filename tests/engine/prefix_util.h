// What the tests of the prefix cache share: prompts, and answering them with and without it.
#ifndef TESTS_ENGINE_PREFIX_UTIL_H
#define TESTS_ENGINE_PREFIX_UTIL_H

#include "base/mathx.h"
#include "cmocka_all.h"
#include "engine/golden_model.h"
#include "engine/prefix.h"

#define LLAMA GOLDEN_DIR "models/llama"
#define V3    GOLDEN_DIR "models/deepseek_v3"

enum { MAX_PROMPT = 1024 };

// Both tiny models have 320 tokens.
static inline void fill_ids(int32_t *ids, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(mk_rng_u64(seed, (uint64_t)i) % 320);
    }
}

static inline uint64_t hash_logits(const rig *r) {
    return mk_hash64(mk_engine_logits(r->engine, 0), (size_t)r->model->hp.n_vocab * sizeof(float),
                     0);
}

static inline int open_seq(const rig *r) {
    int seq = -1;
    mk_err err = {0};
    assert_int_equal(mk_engine_seq_open(r->engine, &seq, &err), MK_OK);
    return seq;
}

// Reads a prompt into an empty sequence with what the cache has of it; hash of the last logits.
static inline uint64_t read_prompt(const rig *r, mk_prefix *p, int seq, uint64_t tenant,
                                   const int32_t *ids, int64_t n, int64_t *n_cached) {
    mk_err err = {0};
    int64_t cached = p ? mk_prefix_attach(p, seq, tenant, ids, n, NULL) : 0;
    assert_true(cached >= 0 && cached < n && cached % MK_KV_BLOCK == 0);
    assert_int_equal(mk_engine_seq_length(r->engine, seq), cached);
    if (p) {
        mk_prefix_make_room(p, n / MK_KV_BLOCK + 1 - cached / MK_KV_BLOCK);
    }
    if (mk_engine_feed(r->engine, seq, ids + cached, n - cached, MK_LOGITS_LAST, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    if (n_cached) {
        *n_cached = cached;
    }
    uint64_t hash = hash_logits(r);
    if (p) {
        mk_prefix_insert(p, seq, tenant, ids, n);
    }
    return hash;
}

static inline uint64_t answer(const rig *r, mk_prefix *p, uint64_t tenant, const int32_t *ids,
                              int64_t n, int64_t *n_cached) {
    int seq = open_seq(r);
    uint64_t hash = read_prompt(r, p, seq, tenant, ids, n, n_cached);
    mk_engine_seq_close(r->engine, seq);
    return hash;
}

static inline int64_t cached_of(const rig *r, mk_prefix *p, uint64_t tenant, const int32_t *ids,
                                int64_t n) {
    int seq = open_seq(r);
    int64_t cached = mk_prefix_attach(p, seq, tenant, ids, n, NULL);
    mk_engine_seq_close(r->engine, seq);
    return cached;
}

static inline mk_prefix *new_prefix(const rig *r, const char *dir, uint64_t max_disk) {
    mk_prefix *p = NULL;
    mk_err err = {0};
    mk_prefix_opts o = {
        .engine = r->engine, .dir = dir, .max_disk = max_disk, .model_key = "tiny model"};
    if (mk_prefix_create(&o, &p, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return p;
}

static inline mk_prefix_figures figures_of(const mk_prefix *p) {
    mk_prefix_figures f;
    mk_prefix_read(p, &f);
    return f;
}

#endif
