// What the attention kernels of one instruction set share: the queries of a job and which keys they
// see.  Included by cpu/attention*.c only.
#ifndef MK_OPS_CPU_ATTENTION_H
#define MK_OPS_CPU_ATTENTION_H

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd_attn.h"
#include "ops/kv_q8.h"

#define KEY_GROUPS (MK_KV_BLOCK / 16)
#define WALK       16  // queries that go through a block together

MK_INLINE size_t pad64(size_t n_bytes) {
    return (n_bytes + 63) / 64 * 64;
}
MK_INLINE int64_t pad16(int64_t n) {
    return (n + 15) / 16 * 16;
}

// The next n_bytes of a job's scratch, 64-byte aligned.
MK_INLINE void *take(uint8_t **p, size_t n_bytes) {
    void *r = *p;
    *p += pad64(n_bytes);
    return r;
}

// Queries of a job are numbered row by row, heads fastest.
typedef struct {
    const mk_attn_job *job;
    int64_t n, n_head;
    int32_t pos[MK_ATTN_QUERIES];
} job_queries;

static inline void queries_of(job_queries *s, const mk_attn_job *job) {
    s->job = job;
    s->n_head = job->head_hi - job->head_lo;
    s->n = 0;
    for (int64_t row = job->row_lo; row < job->row_hi; row++) {
        for (int64_t h = 0; h < s->n_head; h++) {
            s->pos[s->n++] = job->rows->pos[row];
        }
    }
}

// Keys of block b that query i sees: 0..64.
MK_INLINE int64_t n_visible(const job_queries *s, int64_t i, int64_t b) {
    int64_t n = s->pos[i] + 1 - b * (int64_t)MK_KV_BLOCK;
    return n < 0 ? 0 : n > MK_KV_BLOCK ? MK_KV_BLOCK : n;
}

// Asks for n_bytes of what will be read soon and lies where the hardware does not expect it.
MK_INLINE void prefetch_bytes(const void *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) {
        __builtin_prefetch((const uint8_t *)p + i);
    }
}

MK_INLINE const float *query_at(const job_queries *s, int64_t i) {
    const mk_attn_job *job = s->job;
    return job->q.p + (job->row_lo + i / s->n_head) * job->q.stride +
           (job->head_lo + i % s->n_head) * job->a->d_k;
}

MK_INLINE float *output_at(const job_queries *s, int64_t i) {
    const mk_attn_job *job = s->job;
    return job->y.p + (job->row_lo + i / s->n_head) * job->y.stride +
           (job->head_lo + i % s->n_head) * job->a->d_v;
}

#define QUERIES_AHEAD 8

// Query i, asking for one that comes later: the heads of a job are a small part of each row.
MK_INLINE const float *next_query(const job_queries *s, int64_t i) {
    if (i + QUERIES_AHEAD < s->n) {
        prefetch_bytes(query_at(s, i + QUERIES_AHEAD), (size_t)s->job->a->d_k * sizeof(float));
    }
    return query_at(s, i);
}

// Where the result of query i goes, asking for the place of a later one.
MK_INLINE float *next_output(const job_queries *s, int64_t i) {
    if (i + QUERIES_AHEAD < s->n) {
        prefetch_bytes(output_at(s, i + QUERIES_AHEAD), (size_t)s->job->a->d_v * sizeof(float));
    }
    return output_at(s, i);
}

// Vector g of one query's 64, of which n are visible, and `other` behind them.
MK_INLINE v16f seen_or(const bool full, int64_t n, int64_t g, v16f x, v16f other) {
    return full || n == MK_KV_BLOCK ? x : vf_select_below(n - 16 * g, x, other);
}

// The largest visible score of each of n queries, s [n][64]; the rest -inf.
MK_INLINE v16f largest_scores(const bool full, const float *s, int64_t n, const int64_t *seen) {
    const v16f low = vf_set1(-INFINITY);
    v16f top[WALK];
    for (int64_t k = 0; k < n; k++) {
        const float *x = s + k * MK_KV_BLOCK;
        top[k] = low;
        MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
            if (full || 16 * g < seen[k]) {
                top[k] = vf_max(seen_or(full, seen[k], g, vf_load(x + 16 * g), low), top[k]);
            }
        }
    }
    for (int64_t k = n; k < WALK; k++) {
        top[k] = low;
    }
    return reduce_max16(top);
}

// --- int8, as activations are quantised (cpu/prep.c) ---------------------------------------------
// max |x| of the first n of 32; NaN ignored.
static inline float group_amax(const float *x, int64_t n) {
    v16f v[2];
    vf_load32(x, n, v);
    return vf_reduce_max(vf_max(vf_abs(v[0]), vf_max(vf_abs(v[1]), vf_zero())));
}
// Codes x * (127 / amax) to the nearest even, the rest of 32 zero, and their sum; returns their
// scale amax / 127.
static inline float quantise_group(const float *x, int64_t n, float amax, int8_t *q, int32_t *sum) {
    bool zero = amax < 0x1p-100f;
    const v16f inv = vf_set1(zero ? 0.0f : 127.0f / amax);
    v16f v[2];
    v16i codes[2];
    vf_load32(x, n, v);
    for (int i = 0; i < 2; i++) {
        codes[i] = vi_codes(v[i], inv);
        vi_store_i8(q + 16 * i, codes[i]);
    }
    *sum = vi_reduce_add(vi_add(codes[0], codes[1]));
    return zero ? 0.0f : amax / 127.0f;
}

size_t MK_FN(attention_q8_scratch)(const mk_attn *a);
void MK_FN(attention_q8)(const mk_attn_job *job);

#endif
