// What the linear kernels share: one pass over K for R row tiles and T tokens, and the walk over
// tiles and blocks.
//
// The order of every sum is fixed by K alone, so R, T, the block sizes and the cut of the work
// change no bit.
#ifndef MK_OPS_CPU_TILE_H
#define MK_OPS_CPU_TILE_H

#include "ops/cpu/cpu.h"

typedef struct {
    const uint8_t *w;  // first of R tiles, tile_bytes apart
    size_t tile_bytes;
    const uint8_t *x;  // block of activations, at the first of T tokens
    int64_t tb, n_in;
    float *y;                        // first output of the first token
    int64_t y_stride, n_tok, n_out;  // n_tok <= T and n_out <= 16 R are stored
    const float *bias;
    const int8_t *table;
} tile_pass;

typedef void (*tile_fn)(const tile_pass *p);

// One type's passes: [0..3] for 1, 2, 4, 8 tokens and r[i] row tiles; single[i] for one row tile.
typedef struct {
    tile_fn many[4], single[4];
    int r[4];
    mk_x_form form;
    size_t token_bytes;  // from one token's record to the next in a block
} tile_ops;

#define TILE_TOKENS 64  // tokens walked per pass over the weights: their records stay in L2

MK_INLINE int t_index(int64_t t) {
    return t >= 8 ? 3 : t >= 4 ? 2 : t >= 2 ? 1 : 0;
}

// acc[T] of one row tile goes to y, with the bias.
MK_INLINE void store_tile(const tile_pass *p, int64_t r, const v16f *acc, const int T) {
    int64_t left = p->n_out - 16 * r;
    if (left <= 0) {
        return;
    }
    v16f b = p->bias != NULL ? vf_load_n(p->bias + 16 * r, left < 16 ? left : 16) : vf_zero();
    MK_UNROLL for (int t = 0; t < T; t++) {
        if (t < p->n_tok) {
            v16f v = p->bias != NULL ? vf_add(acc[t], b) : acc[t];
            float *y = p->y + t * p->y_stride + 16 * r;
            if (left >= 16) {
                vf_store(y, v);
            } else {
                vf_store_n(y, v, left);
            }
        }
    }
}

// All tokens of one block for the row tiles [lo, hi).
static inline void walk_block(const tile_ops *ops, const mk_linear_job *job, tile_pass *p,
                              int64_t lo, int64_t hi, int64_t first, int max_t) {
    int64_t left = job->n_tok - first, n_tok = left < MK_X_BLOCK ? left : MK_X_BLOCK;
    const uint8_t *block = job->x + (size_t)first * mk_x_row_bytes(ops->form, job->w->n_in);
    p->tb = mk_x_tb(left);
    int64_t step = p->tb < max_t ? p->tb : max_t;
    int ti = t_index(step);
    for (int64_t t = 0; t < n_tok; t += step) {
        p->x = block + (size_t)t * ops->token_bytes;
        p->n_tok = n_tok - t;
        for (int64_t tile = lo; tile < hi;) {
            bool many = tile + ops->r[ti] <= hi;
            p->w = job->data + (size_t)tile * p->tile_bytes;
            p->y = job->y + (first + t) * job->y_stride + 16 * tile;
            p->n_out = job->w->n_out - 16 * tile;
            p->bias = job->bias != NULL ? job->bias + 16 * tile : NULL;
            (many ? ops->many : ops->single)[ti](p);
            tile += many ? ops->r[ti] : 1;
        }
    }
}

// Tokens [begin, n_tok), begin being a whole number of blocks, for the row tiles [lo, hi).
static inline void walk_tiles(const tile_ops *ops, const mk_linear_job *job, int64_t lo, int64_t hi,
                              int64_t begin, int max_t) {
    tile_pass p = {.tile_bytes = mk_weight_tile_bytes(job->w),
                   .n_in = job->w->n_in,
                   .y_stride = job->y_stride,
                   .table = job->w->table};
    int64_t rest = job->n_tok - begin, tb = rest >= MK_X_BLOCK ? MK_X_BLOCK : mk_x_tb(rest);
    int64_t group = ops->r[t_index(tb < max_t ? tb : max_t)];
    for (int64_t t0 = begin; t0 < job->n_tok; t0 += TILE_TOKENS) {
        int64_t t1 = t0 + TILE_TOKENS < job->n_tok ? t0 + TILE_TOKENS : job->n_tok;
        for (int64_t tile = lo; tile < hi; tile += group) {
            for (int64_t t = t0; t < t1; t += MK_X_BLOCK) {
                walk_block(ops, job, &p, tile, tile + group < hi ? tile + group : hi, t, max_t);
            }
        }
    }
}

// The functions of one type: `pass` is the template, called with R, T, p and what follows.
#define TILE_FN(name, r, t, pass, ...)                                                             \
    static void name##_##r##x##t(const tile_pass *p) {                                             \
        pass(r, t, p, ##__VA_ARGS__);                                                              \
    }

// A float type: its passes as far as the registers go.  One token takes several row tiles at once,
// because a single chain of dependent FMAs cannot keep up with memory.
#if MK_FLT_T == 8
#define FLOAT_TYPE(name, x_form, pass, ...)                                                        \
    TILE_FN(name, 1, 1, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 2, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 4, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 8, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 4, 1, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 4, 2, pass, ##__VA_ARGS__)                                                       \
    static const tile_ops name##_ops = {                                                           \
        .many = {name##_4x1, name##_4x2, name##_1x4, name##_1x8},                                  \
        .single = {name##_1x1, name##_1x2, name##_1x4, name##_1x8},                                \
        .r = {4, 4, 1, 1},                                                                         \
        .form = (x_form),                                                                          \
        .token_bytes = sizeof(float)};
#elif MK_FLT_T == 4
#define FLOAT_TYPE(name, x_form, pass, ...)                                                        \
    TILE_FN(name, 1, 1, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 2, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 4, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 4, 1, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 2, 2, pass, ##__VA_ARGS__)                                                       \
    static const tile_ops name##_ops = {.many = {name##_4x1, name##_2x2, name##_1x4},              \
                                        .single = {name##_1x1, name##_1x2, name##_1x4},            \
                                        .r = {4, 2, 1, 1},                                         \
                                        .form = (x_form),                                          \
                                        .token_bytes = sizeof(float)};
#else
#define FLOAT_TYPE(name, x_form, pass, ...)                                                        \
    TILE_FN(name, 1, 1, pass, ##__VA_ARGS__)                                                       \
    static const tile_ops name##_ops = {.many = {name##_1x1},                                      \
                                        .single = {name##_1x1},                                    \
                                        .r = {1, 1, 1, 1},                                         \
                                        .form = (x_form),                                          \
                                        .token_bytes = sizeof(float)};
#endif

#endif
