// What the linear kernels share: one pass over a run of K for R row tiles and T tokens, and the
// walk over tokens, tiles and runs of K.
//
// Few tokens: a tile's whole K at once, because memory is read fastest in one long stream.  Many
// tokens: BLOCK_COLS columns at a time of GROUP_TILES tiles, so that weights and activations of a
// block stay in the nearest caches; the accumulators wait in a buffer between blocks, and storing
// and loading a float changes no bit.  The order of every sum is fixed by K alone, so R, T, the
// block sizes and the cut of the work change none either.
#ifndef MK_OPS_CPU_TILE_H
#define MK_OPS_CPU_TILE_H

#include "ops/cpu/cpu.h"

typedef struct {
    const uint8_t *w;  // first of R tiles, tile_bytes apart
    size_t tile_bytes;
    const uint8_t *x;                // block of activations, at the first of T tokens
    int64_t tb, n_in;                // columns of this block
    bool first, last;                // block of K: sums begin at 0; they go to y, with the bias
    float *sums;                     // else f32[T][16] of the (single) tile, 64-byte aligned
    float *y;                        // first output of the first token
    int64_t y_stride, n_tok, n_out;  // n_tok <= T and n_out <= 16 R are stored
    const float *bias;
    const int8_t *table;
    // what to ask memory for meanwhile, in passes for 8 tokens: so many lines per 64 columns
    const uint8_t *fetch, *fetch_end;
    int64_t fetch_lines;
} tile_pass;

typedef void (*tile_fn)(const tile_pass *p);

// One type's passes: [0..3] for 1, 2, 4, 8 tokens and r[i] row tiles; single[i] for one row tile.
typedef struct {
    tile_fn many[4], single[4];
    int r[4];
    mk_x_form form;
    size_t token_bytes;   // from one token's record to the next in a block
    size_t column_bytes;  // of one token, per column of a record
    bool spreads_fetch;   // the passes look at fetch
} tile_ops;

#define FEW_TOKENS   32          // at most: the walk in whole tiles
#define CHUNK_TOKENS 128         // walked per pass over the weights
#define BLOCK_COLS   1024        // whole multiples of 256: every layout repeats after them
#define GROUP_TILES  8           // whose sums wait in a buffer of 64 KB
#define NEAR_BYTES   (20 << 10)  // of weights that stay in the first-level cache
#define BURST_LINES  16          // fetched at once before a pass; more is spread over the pass

MK_INLINE int t_index(int64_t t) {
    return t >= 8 ? 3 : t >= 4 ? 2 : t >= 2 ? 1 : 0;
}

// The accumulators of a row tile, for T tokens.
MK_INLINE void load_acc(const tile_pass *p, v16f *acc, const int T) {
    MK_UNROLL for (int t = 0; t < T; t++) {
        acc[t] = p->first ? vf_zero() : vf_load(p->sums + 16 * t);
    }
}

// acc[T] of row tile r wait in sums, or go to y with the bias.
MK_INLINE void store_tile(const tile_pass *p, int64_t r, const v16f *acc, const int T) {
    if (!p->last) {
        MK_UNROLL for (int t = 0; t < T; t++) {
            vf_store(p->sums + 16 * t, acc[t]);
        }
        return;
    }
    int64_t left = p->n_out - 16 * r;
    if (left >= 16 && p->n_tok >= T && p->bias == NULL) {  // nearly always
        MK_UNROLL for (int t = 0; t < T; t++) {
            vf_store(p->y + t * p->y_stride + 16 * r, acc[t]);
        }
        return;
    }
    left = left < 16 ? left : 16;
    v16f bias = p->bias != NULL && left > 0 ? vf_load_n(p->bias + 16 * r, left) : vf_zero();
    MK_UNROLL for (int t = 0; t < T; t++) {  // unrolled, so that acc stays in registers
        if (t < p->n_tok && left > 0) {
            v16f v = p->bias != NULL ? vf_add(acc[t], bias) : acc[t];
            vf_store_n(p->y + t * p->y_stride + 16 * r, v, left);
        }
    }
}

// --- the walk ------------------------------------------------------------------------------------
typedef struct {
    const tile_ops *ops;
    const mk_linear_job *job;
    int max_t;
    int64_t t0, t1;        // the tokens
    int64_t k0;            // where the block of K begins
    size_t w_at, w_bytes;  // the block in a tile
    tile_pass p;
} tile_walk;

// Goes to the block of activations whose first token is `first`; returns how many tokens it has.
static inline int64_t at_tokens(tile_walk *w, int64_t first, const uint8_t **block) {
    const mk_linear_job *job = w->job;
    int64_t left = job->n_tok - first;
    w->p.tb = mk_x_tb(left);
    *block = job->x + (size_t)first * mk_x_row_bytes(w->ops->form, job->w->n_in) +
             (size_t)(w->k0 * w->p.tb) * w->ops->column_bytes;
    return left < MK_X_BLOCK ? left : MK_X_BLOCK;
}

static inline void at_tile(tile_walk *w, int64_t tile, int64_t token) {
    const mk_linear_job *job = w->job;
    w->p.w = job->data + (size_t)tile * w->p.tile_bytes + w->w_at;
    w->p.y = job->y + token * job->y_stride + 16 * tile;
    w->p.n_out = job->w->n_out - 16 * tile;
    w->p.bias = job->bias != NULL ? job->bias + 16 * tile : NULL;
}

// Asks for one pass' share of the weights that come next: spread over the pass, or (what has no
// place for that) at once.  With 8 tokens the arithmetic of a line takes so long that the
// hardware's own prefetching falls asleep; with fewer tokens ours only gets in its way.
static inline void plan_fetch(tile_walk *w, const uint8_t *next, int64_t n_line, int64_t step) {
    tile_pass *p = &w->p;
    p->fetch_lines = 0;
    if (step < MK_X_BLOCK) {
        return;
    }
    if (w->ops->spreads_fetch) {
        p->fetch = next;
        p->fetch_end = next + 64 * n_line;
        p->fetch_lines = (n_line * 64 + p->n_in - 1) / p->n_in;
        return;
    }
    for (int64_t i = 0; n_line <= BURST_LINES && i < n_line; i++) {
        __builtin_prefetch(next + 64 * i);
    }
}

// --- few tokens
// One block of tokens for the row tiles [lo, hi), meanwhile n_line lines from `next`.
static inline void few_block(tile_walk *w, int64_t lo, int64_t hi, int64_t first,
                             const uint8_t *next, int64_t n_line) {
    const uint8_t *block;
    int64_t n_tok = at_tokens(w, first, &block);
    int64_t step = w->p.tb < w->max_t ? w->p.tb : w->max_t;
    int ti = t_index(step);
    for (int64_t t = 0; t < n_tok; t += step) {
        w->p.x = block + (size_t)t * w->ops->token_bytes;
        w->p.n_tok = n_tok - t;
        for (int64_t tile = lo; tile < hi;) {
            bool many = tile + w->ops->r[ti] <= hi;
            at_tile(w, tile, first + t);
            plan_fetch(w, next, n_line, step);
            (many ? w->ops->many : w->ops->single)[ti](&w->p);
            tile += many ? w->ops->r[ti] : 1;
        }
    }
}

static inline void walk_few(tile_walk *w, int64_t lo, int64_t hi) {
    const mk_linear_job *job = w->job;
    int64_t tb = mk_x_tb(job->n_tok), n_block = (job->n_tok + MK_X_BLOCK - 1) / MK_X_BLOCK;
    int64_t group = w->ops->r[t_index(tb < w->max_t ? tb : w->max_t)];
    int64_t n_line = ((int64_t)w->p.tile_bytes / 64 + n_block - 1) / n_block;
    w->p.n_in = job->w->n_in;
    w->p.first = w->p.last = true;
    for (int64_t tile = lo; tile < hi; tile += group) {
        int64_t end = tile + group < hi ? tile + group : hi;
        const uint8_t *next = job->data + (size_t)end * w->p.tile_bytes;
        for (int64_t b = 0; b < n_block; b++) {
            few_block(w, tile, end, b * MK_X_BLOCK, next + 64 * b * n_line, n_line);
        }
    }
}

// --- many tokens
// A block of K of the row tiles [lo, hi), whose sums begin at `sums`, for all tokens; meanwhile
// memory is asked for the block at `next` in a tile, and the same in those that follow it.
static inline void many_block(tile_walk *w, int64_t lo, int64_t hi, float *sums,
                              const uint8_t *next) {
    tile_pass *p = &w->p;
    int64_t n_block = (w->t1 - w->t0 + MK_X_BLOCK - 1) / MK_X_BLOCK;
    int64_t n_line = ((int64_t)w->w_bytes / 64 + n_block - 1) / n_block;
    for (int64_t b = 0; b < n_block; b++) {
        int64_t first = w->t0 + b * MK_X_BLOCK;
        const uint8_t *block;
        int64_t n_tok = at_tokens(w, first, &block);
        int64_t step = p->tb < w->max_t ? p->tb : w->max_t;
        tile_fn pass = w->ops->single[t_index(step)];
        for (int64_t i = 0; i < hi - lo; i++) {
            plan_fetch(w, next + (size_t)i * p->tile_bytes + 64 * b * n_line, n_line, step);
            at_tile(w, lo + i, first);
            p->sums = sums + (i * CHUNK_TOKENS + b * MK_X_BLOCK) * 16;
            p->x = block;
            for (p->n_tok = n_tok; p->n_tok > 0; p->n_tok -= step) {
                pass(p);
                p->sums += 16 * step;
                p->x += (size_t)step * w->ops->token_bytes;
                p->y += step * p->y_stride;
            }
        }
    }
}

// At most GROUP_TILES row tiles [lo, hi); behind them come those from `then`.
static inline void many_group(tile_walk *w, int64_t lo, int64_t hi, int64_t then) {
    _Alignas(64) float sums[GROUP_TILES * CHUNK_TOKENS * 16];
    const mk_linear_job *job = w->job;
    int64_t n_in = job->w->n_in;
    size_t whole = BLOCK_COLS / MK_SUPER * mk_weight_stretch_bytes(job->w, MK_SUPER);
    int64_t near = NEAR_BYTES / (int64_t)whole < 1 ? 1 : NEAR_BYTES / (int64_t)whole;
    for (w->k0 = 0, w->w_at = 0; w->k0 < n_in; w->k0 += w->p.n_in, w->w_at += w->w_bytes) {
        w->p.first = w->k0 == 0;
        w->p.last = n_in - w->k0 <= BLOCK_COLS;
        w->p.n_in = w->p.last ? n_in - w->k0 : BLOCK_COLS;
        w->w_bytes = w->p.last ? w->p.tile_bytes - w->w_at : whole;
        for (int64_t t = lo; t < hi; t += near) {
            int64_t end = t + near < hi ? t + near : hi;
            int64_t next = end < hi ? end : w->p.last ? then : lo;
            size_t at = end < hi ? w->w_at : w->p.last ? 0 : w->w_at + w->w_bytes;
            many_block(w, t, end, sums + (t - lo) * CHUNK_TOKENS * 16,
                       job->data + (size_t)next * w->p.tile_bytes + at);
        }
    }
}

static inline void walk_many(tile_walk *w, int64_t lo, int64_t hi) {
    int64_t n_tok = w->job->n_tok;
    for (w->t0 = 0; w->t0 < n_tok; w->t0 = w->t1) {
        w->t1 = w->t0 + CHUNK_TOKENS < n_tok ? w->t0 + CHUNK_TOKENS : n_tok;
        for (int64_t g = lo; g < hi; g += GROUP_TILES) {
            int64_t end = g + GROUP_TILES < hi ? g + GROUP_TILES : hi;
            many_group(w, g, end, end < hi ? end : lo);
        }
    }
}

static inline void walk_tiles(const tile_ops *ops, const mk_linear_job *job, int64_t lo, int64_t hi,
                              int max_t) {
    tile_walk w = {.ops = ops,
                   .job = job,
                   .max_t = max_t,
                   .p = {.tile_bytes = mk_weight_tile_bytes(job->w),
                         .y_stride = job->y_stride,
                         .table = job->w->table}};
    if (job->n_tok <= FEW_TOKENS) {
        walk_few(&w, lo, hi);
    } else {
        walk_many(&w, lo, hi);
    }
}

// The functions of one type: `pass` is the template, called with R, T, p and what follows.
#define TILE_FN(name, r, t, pass, ...)                                                             \
    static void name##_##r##x##t(const tile_pass *p) {                                             \
        pass(r, t, p, ##__VA_ARGS__);                                                              \
    }

// A float type: its passes as far as the registers go.  One token takes several row tiles at once,
// because a single chain of dependent FMAs cannot keep up with memory.  bytes: of an activation.
#if MK_FLT_T == 8
#define FLOAT_TYPE(name, x_form, bytes, pass, ...)                                                 \
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
        .token_bytes = sizeof(float),                                                              \
        .column_bytes = (bytes)};
#elif MK_FLT_T == 4
#define FLOAT_TYPE(name, x_form, bytes, pass, ...)                                                 \
    TILE_FN(name, 1, 1, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 2, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 1, 4, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 4, 1, pass, ##__VA_ARGS__)                                                       \
    TILE_FN(name, 2, 2, pass, ##__VA_ARGS__)                                                       \
    static const tile_ops name##_ops = {.many = {name##_4x1, name##_2x2, name##_1x4},              \
                                        .single = {name##_1x1, name##_1x2, name##_1x4},            \
                                        .r = {4, 2, 1, 1},                                         \
                                        .form = (x_form),                                          \
                                        .token_bytes = sizeof(float),                              \
                                        .column_bytes = (bytes)};
#else
#define FLOAT_TYPE(name, x_form, bytes, pass, ...)                                                 \
    TILE_FN(name, 1, 1, pass, ##__VA_ARGS__)                                                       \
    static const tile_ops name##_ops = {.many = {name##_1x1},                                      \
                                        .single = {name##_1x1},                                    \
                                        .r = {1, 1, 1, 1},                                         \
                                        .form = (x_form),                                          \
                                        .token_bytes = sizeof(float),                              \
                                        .column_bytes = (bytes)};
#endif

#endif
