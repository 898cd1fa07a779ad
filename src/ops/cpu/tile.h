// What the linear kernels share: one pass over a stretch of K for R row tiles and T tokens, and the
// walk over stretches, tiles and blocks.
//
// With many tokens the activations of a stretch stay in the second-level cache (STRETCH_BYTES)
// while all row tiles pass over them, and the accumulators wait in y between stretches: storing and
// loading a float changes no bit.  The order of every sum is fixed by K alone, so R, T, the block
// sizes and the cut of the work change none either.
#ifndef MK_OPS_CPU_TILE_H
#define MK_OPS_CPU_TILE_H

#include "ops/cpu/cpu.h"

typedef struct {
    const uint8_t *w;  // first of R tiles, tile_bytes apart
    size_t tile_bytes;
    const uint8_t *x;                // block of activations, at the first of T tokens
    int64_t tb, n_in;                // columns of this stretch
    bool first, last;                // stretch: sums begin at 0, or in y; the bias is added
    float *y;                        // first output of the first token
    int64_t y_stride, n_tok, n_out;  // n_tok <= T and n_out <= 16 R are stored
    const float *bias;
    const int8_t *table;
    // what to ask memory for meanwhile: lines per 32 columns
    const uint8_t *fetch;
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
} tile_ops;

#define CHUNK_TOKENS  128          // tokens walked per pass over the weights
#define STRETCH_BYTES (512 << 10)  // of prepared activations in use at a time
#define BURST_LINES   16           // fetched at once before a pass; more is spread over the pass

MK_INLINE int t_index(int64_t t) {
    return t >= 8 ? 3 : t >= 4 ? 2 : t >= 2 ? 1 : 0;
}

// The accumulators of row tile r, for T tokens.
MK_INLINE void load_acc(const tile_pass *p, int64_t r, v16f *acc, const int T) {
    int64_t left = p->n_out - 16 * r;
    MK_UNROLL for (int t = 0; t < T; t++) {
        acc[t] = vf_zero();
        if (!p->first && t < p->n_tok && left > 0) {
            const float *y = p->y + t * p->y_stride + 16 * r;
            acc[t] = left >= 16 ? vf_load(y) : vf_load_n(y, left);
        }
    }
}

// acc[T] of one row tile goes to y, after the last stretch with the bias.
MK_INLINE void store_tile(const tile_pass *p, int64_t r, const v16f *acc, const int T) {
    int64_t left = p->n_out - 16 * r;
    if (left <= 0) {
        return;
    }
    bool add = p->bias != NULL && p->last;
    v16f b = add ? vf_load_n(p->bias + 16 * r, left < 16 ? left : 16) : vf_zero();
    MK_UNROLL for (int t = 0; t < T; t++) {
        if (t < p->n_tok) {
            v16f v = add ? vf_add(acc[t], b) : acc[t];
            float *y = p->y + t * p->y_stride + 16 * r;
            if (left >= 16) {
                vf_store(y, v);
            } else {
                vf_store_n(y, v, left);
            }
        }
    }
}

// --- the walk ------------------------------------------------------------------------------------
typedef struct {
    const tile_ops *ops;
    const mk_linear_job *job;
    int max_t;
    int64_t k0, cols;             // the stretch
    int64_t t0, t1;               // the tokens
    size_t w_at, w_bytes;         // of the stretch in a tile
    int64_t fetched, fetch_each;  // lines of the next tile's stretch, per pass
    tile_pass p;
} tile_walk;

// Asks for this pass' share of the weights that come next: a few lines at once, many spread over
// the pass (with 8 tokens the arithmetic of a line takes so long that the hardware's own
// prefetching falls asleep; with fewer tokens ours only gets in its way).
static inline void plan_fetch(tile_walk *w, const uint8_t *next, int64_t step) {
    tile_pass *p = &w->p;
    p->fetch_lines = 0;
    if (step < MK_X_BLOCK) {
        return;
    }
    p->fetch = next + 64 * w->fetched;
    w->fetched += w->fetch_each;
    if (w->fetch_each > BURST_LINES) {
        p->fetch_lines = (w->fetch_each * 32 + w->cols - 1) / w->cols;
        return;
    }
    for (int64_t i = 0; i < w->fetch_each; i++) {
        __builtin_prefetch(p->fetch + 64 * i);
    }
}

// The tokens of one block for the row tiles [lo, hi).
static inline void walk_block(tile_walk *w, int64_t lo, int64_t hi, int64_t first,
                              const uint8_t *next) {
    const mk_linear_job *job = w->job;
    tile_pass *p = &w->p;
    int64_t left = job->n_tok - first, n_tok = left < MK_X_BLOCK ? left : MK_X_BLOCK;
    p->tb = mk_x_tb(left);
    const uint8_t *block = job->x + (size_t)first * mk_x_row_bytes(w->ops->form, job->w->n_in) +
                           (size_t)(w->k0 * p->tb) * w->ops->column_bytes;
    int64_t step = p->tb < w->max_t ? p->tb : w->max_t;
    int ti = t_index(step);
    for (int64_t t = 0; t < n_tok; t += step) {
        p->x = block + (size_t)t * w->ops->token_bytes;
        p->n_tok = n_tok - t;
        for (int64_t tile = lo; tile < hi;) {
            bool many = tile + w->ops->r[ti] <= hi;
            p->w = job->data + (size_t)tile * p->tile_bytes + w->w_at;
            p->y = job->y + (first + t) * job->y_stride + 16 * tile;
            p->n_out = job->w->n_out - 16 * tile;
            p->bias = job->bias != NULL ? job->bias + 16 * tile : NULL;
            plan_fetch(w, next, step);
            (many ? w->ops->many : w->ops->single)[ti](p);
            tile += many ? w->ops->r[ti] : 1;
        }
    }
}

// All row tiles for the tokens and the stretch of w.
static inline void walk_stretch(tile_walk *w, int64_t lo, int64_t hi) {
    const mk_linear_job *job = w->job;
    int64_t n_tok = w->t1 - w->t0, tb = n_tok >= MK_X_BLOCK ? MK_X_BLOCK : mk_x_tb(n_tok);
    int64_t group = w->ops->r[t_index(tb < w->max_t ? tb : w->max_t)];
    int64_t n_block = (n_tok + MK_X_BLOCK - 1) / MK_X_BLOCK;
    w->p.n_in = w->cols;
    w->p.first = w->k0 == 0;
    w->p.last = w->k0 + w->cols == job->w->n_in;
    w->fetch_each = ((int64_t)w->w_bytes / 64 + n_block - 1) / n_block;
    for (int64_t tile = lo; tile < hi; tile += group) {
        int64_t end = tile + group < hi ? tile + group : hi;
        // behind the last tile comes the first one's next stretch
        const uint8_t *next = end < hi
                                  ? job->data + (size_t)end * w->p.tile_bytes + w->w_at
                                  : job->data + (size_t)lo * w->p.tile_bytes + w->w_at + w->w_bytes;
        w->fetched = 0;
        for (int64_t t = w->t0; t < w->t1; t += MK_X_BLOCK) {
            walk_block(w, tile, end, t, next);
        }
    }
}

static inline void walk_tiles(const tile_ops *ops, const mk_linear_job *job, int64_t lo, int64_t hi,
                              int max_t) {
    size_t tile_bytes = mk_weight_tile_bytes(job->w);
    tile_walk w = {
        .ops = ops,
        .job = job,
        .max_t = max_t,
        .p = {.tile_bytes = tile_bytes, .y_stride = job->y_stride, .table = job->w->table}};
    int64_t n_in = job->w->n_in;
    for (w.t0 = 0; w.t0 < job->n_tok; w.t0 = w.t1) {
        w.t1 = w.t0 + CHUNK_TOKENS < job->n_tok ? w.t0 + CHUNK_TOKENS : job->n_tok;
        // whole multiples of 256 columns: every layout repeats after them
        int64_t most = STRETCH_BYTES / ((w.t1 - w.t0) * (int64_t)ops->column_bytes);
        most = most < MK_SUPER ? MK_SUPER : most / MK_SUPER * MK_SUPER;
        for (w.k0 = 0, w.w_at = 0; w.k0 < n_in; w.k0 += w.cols, w.w_at += w.w_bytes) {
            w.cols = n_in - w.k0 < most ? n_in - w.k0 : most;
            w.w_bytes = w.cols < n_in - w.k0 ? (size_t)(w.cols / MK_SUPER) *
                                                   mk_weight_stretch_bytes(job->w, MK_SUPER)
                                             : tile_bytes - w.w_at;
            walk_stretch(&w, lo, hi);
        }
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
