// Private to ops/: how a block of an int8 cache is laid out.  What is in it: docs/numerics.md.
#ifndef MK_OPS_KV_Q8_H
#define MK_OPS_KV_Q8_H

#include "ops/ops.h"

// A block of an int8 cache (MK_KV_Q8).  Columns of keys come in groups of 32, values in groups of
// 128; both padded.  Per kv head, one behind the other:
//     keys    codes + 128 [64/16][k_cols/4][16 keys][4], scales f32 [64/16][n_k_scale][16]
//     values  codes [v_cols/16][64/4][16 columns][4 keys], scales f32 [64/16][n_v_scale][16]
// Latent: only the keys part.  Its columns are the values padded to groups of 32, then the rest;
// the first n_v_scale scales belong to the values, the rest has one a group.
typedef struct {
    int64_t n_group;    // groups of 32 key columns; k_cols = 32 * n_group
    int64_t n_wide;     // the first of them, which share a scale four by four (latent values)
    int64_t n_k_scale;  // scales of a key
    int64_t v_cols;     // d_v padded to 16
    int64_t n_v_scale;  // scales of a value
    size_t k_scales, v_codes, v_scales, head_bytes;  // offsets in a head's part; its size
} mk_q8_shape;

#define MK_Q8_VALUES 128  // columns of a value that share a scale

static inline mk_q8_shape mk_q8_shape_of(const mk_attn *a) {
    mk_q8_shape s = {.v_cols = (a->d_v + 15) / 16 * 16,
                     .n_v_scale = (a->d_v + MK_Q8_VALUES - 1) / MK_Q8_VALUES};
    if (a->latent) {
        int64_t rest = (a->d_k - a->d_v + 31) / 32;
        s.n_wide = (a->d_v + 31) / 32;
        s.n_group = s.n_wide + rest;
        s.n_k_scale = s.n_v_scale + rest;
    } else {
        s.n_group = s.n_k_scale = (a->d_k + 31) / 32;
    }
    s.k_scales = (size_t)s.n_group * 32 * MK_KV_BLOCK;
    s.v_codes = s.k_scales + (size_t)s.n_k_scale * 4 * MK_KV_BLOCK;
    s.v_scales = s.v_codes + (a->latent ? 0 : (size_t)s.v_cols * MK_KV_BLOCK);
    s.head_bytes = s.v_scales + (a->latent ? 0 : (size_t)s.n_v_scale * 4 * MK_KV_BLOCK);
    return s;
}

// Column of the group's first element in the caller's key, and how many of its 32 are real.
static inline int64_t mk_q8_group_at(const mk_attn *a, const mk_q8_shape *s, int64_t g,
                                     int64_t *n) {
    int64_t first = g < s->n_wide ? 32 * g : (a->latent ? a->d_v : 0) + 32 * (g - s->n_wide);
    int64_t end = g < s->n_wide ? a->d_v : a->d_k;
    *n = end - first < 32 ? end - first : 32;
    return first;
}
// Which of a key's scales the group uses.
static inline int64_t mk_q8_scale_of(const mk_q8_shape *s, int64_t g) {
    return g < s->n_wide ? g / (MK_Q8_VALUES / 32) : g - s->n_wide + (s->n_wide ? s->n_v_scale : 0);
}

#endif
