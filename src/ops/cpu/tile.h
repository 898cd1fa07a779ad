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

// One run of K of R row tiles, for all tokens: T at a time.
typedef struct {
    const uint8_t *w;  // first of R tiles, tile_bytes apart
    size_t tile_bytes;
    const uint8_t *x;                // block of activations, at the first token
    size_t block_bytes;              // from one block of 8 tokens to the next
    int64_t tb, n_in;                // tokens of a block, columns of this run
    bool first, last;                // run of K: sums begin at 0; they go to y, with the bias
    float *sums;                     // else f32[n_tok][16] of the (single) tile, 64-byte aligned
    float *y;                        // first output of the first token
    int64_t y_stride, n_tok, n_out;  // what is stored; n_out may be less than 16 R
    const float *bias;               // or NULL
    const int8_t *table;
    // what to ask memory for meanwhile, and how much of it per 64 columns
    const uint8_t *fetch;
    size_t fetch_bytes;
} tile_pass;

typedef void (*tile_fn)(const tile_pass *p);

// One type's passes: [0..3] for 1, 2, 4, 8 tokens and r[i] row tiles; single[i] for one row tile.
typedef struct {
    tile_fn many[4], single[4];
    int r[4];
    mk_x_form form;
    size_t column_bytes;  // of one token, per column of a record
    bool splits;          // a block of 5 or 6 tokens: 4, then the rest, instead of 8 with padding
} tile_ops;

#define FEW_TOKENS   32    // at most: the walk in whole tiles
#define CHUNK_TOKENS 128   // walked per pass over the weights
#define BLOCK_COLS   1024  // whole multiples of 256: every layout repeats after them
#define FETCH_FROM   4     // tokens: with fewer the hardware's own prefetching is better
#define AHEAD_BYTES  8192  // what is asked for in passes that see the weights once
#define GROUP_TILES  8     // whose sums wait in a buffer of 64 KB

MK_INLINE int t_index(int64_t t) {
    return t >= 8 ? 3 : t >= 4 ? 2 : t >= 2 ? 1 : 0;
}

// The records of token t; token_bytes from one token's to the next in a block.
MK_INLINE const uint8_t *x_at(const tile_pass *p, int64_t t, const size_t token_bytes) {
    return p->x + (size_t)(t / MK_X_BLOCK) * p->block_bytes +
           (size_t)(t % MK_X_BLOCK) * token_bytes;
}

// Asking for weights behind the arithmetic, into the second-level cache: the first level has too
// few places for lines on their way, and what it lacks then the arithmetic waits for.  For the same
// reason the lines are spread evenly: one asked for wherever one is used.
typedef struct {
    const uint8_t *at, *until;  // asked for up to here, and where that should be
    const uint8_t *line;        // the next
    bool due;
} tile_fetch;

MK_INLINE void ask_line(const uint8_t *line) {
    __builtin_prefetch(line, 0, 2);
}

MK_INLINE tile_fetch fetch_from(const tile_pass *p) {
    return (tile_fetch){p->fetch, p->fetch, NULL, false};
}

// 64 columns begin, whose weights are at w.  If nothing is due, those are asked for once more,
// which costs next to nothing and needs no branch in between.
MK_INLINE void fetch_begin(const tile_pass *p, tile_fetch *f, const uint8_t *w) {
    f->until += p->fetch_bytes;
    f->due = f->at < f->until;
    f->line = f->due ? f->at : w;
}

MK_INLINE void fetch_lines(tile_fetch *f, const int n) {
    MK_UNROLL for (int i = 0; i < n; i++, f->line += 64) {
        ask_line(f->line);
    }
}

MK_INLINE void fetch_end(tile_fetch *f) {
    f->at = f->due ? f->line : f->at;
}

// The accumulators of a row tile, for the T tokens from t.
MK_INLINE void load_acc(const tile_pass *p, int64_t t, v16f *acc, const int T) {
    MK_UNROLL for (int i = 0; i < T; i++) {
        acc[i] = p->first ? vf_zero() : vf_load(p->sums + 16 * (t + i));
    }
}

// acc[T] of row tile r wait in sums, or go to y with the bias.
MK_INLINE void store_acc(const tile_pass *p, int64_t r, int64_t t, const v16f *acc, const int T) {
    if (!p->last) {
        MK_UNROLL for (int i = 0; i < T; i++) {
            vf_store(p->sums + 16 * (t + i), acc[i]);
        }
        return;
    }
    float *y = p->y + t * p->y_stride + 16 * r;
    int64_t left = p->n_out - 16 * r, n_tok = p->n_tok - t;
    if (left >= 16 && n_tok >= T && p->bias == NULL) {  // nearly always
        MK_UNROLL for (int i = 0; i < T; i++) {
            vf_store(y + i * p->y_stride, acc[i]);
        }
        return;
    }
    left = left < 16 ? left : 16;
    v16f bias = p->bias != NULL && left > 0 ? vf_load_n(p->bias + 16 * r, left) : vf_zero();
    MK_UNROLL for (int i = 0; i < T; i++) {  // unrolled, so that acc stays in registers
        if (i < n_tok && left > 0) {
            v16f v = p->bias != NULL ? vf_add(acc[i], bias) : acc[i];
            vf_store_n(y + i * p->y_stride, v, left);
        }
    }
}

// --- the walk ------------------------------------------------------------------------------------
typedef struct {
    const tile_ops *ops;
    const mk_linear_job *job;
    int max_t;
    int64_t t0, t1;        // the tokens
    int64_t k0;            // where the run of K begins
    size_t w_at, w_bytes;  // the run in a tile
    tile_pass p;
} tile_walk;

// All tokens for R = r[..] row tiles from `tile` on if `many`, else for one; meanwhile memory is
// asked for the run at `next`: with many tokens the arithmetic of a line takes so long that the
// hardware's own prefetching falls asleep.
static inline void tile_tokens(tile_walk *w, int64_t tile, bool many, const uint8_t *next) {
    const mk_linear_job *job = w->job;
    tile_pass *p = &w->p;
    p->w = job->data + (size_t)tile * p->tile_bytes + w->w_at;
    p->n_out = job->w->n_out - 16 * tile;
    p->bias = job->bias != NULL ? job->bias + 16 * tile : NULL;
    for (int64_t t = w->t0; t < w->t1; t += p->n_tok) {
        int64_t left = w->t1 - t, behind = t % MK_X_BLOCK;  // of a split block: its first tokens
        p->tb = mk_x_tb(left + behind);
        p->n_tok = left >= MK_X_BLOCK                       ? left / MK_X_BLOCK * MK_X_BLOCK
                   : w->ops->splits && left > 4 && left < 7 ? 4
                                                            : left;
        p->x = job->x + (size_t)(t / MK_X_BLOCK) * p->block_bytes +
               (size_t)(w->k0 * p->tb + behind * MK_X_CHUNK) * w->ops->column_bytes;
        p->y = job->y + t * job->y_stride + 16 * tile;
        int64_t steps = (p->n_tok + w->max_t - 1) / w->max_t * ((p->n_in + 63) / 64);
        p->fetch = next;
        p->fetch_bytes = t == w->t0 ? (w->w_bytes + (size_t)steps - 1) / (size_t)steps : 0;
        int64_t most = w->ops->splits ? mk_x_tb(p->n_tok) : p->tb;
        int ti = t_index(most < w->max_t ? most : w->max_t);
        (many ? w->ops->many : w->ops->single)[ti](p);
        p->sums += p->sums != NULL ? 16 * p->n_tok : 0;
    }
}

static inline void walk_few(tile_walk *w, int64_t lo, int64_t hi) {
    const mk_linear_job *job = w->job;
    int64_t tb = mk_x_tb(job->n_tok), group = w->ops->r[t_index(tb < w->max_t ? tb : w->max_t)];
    w->t1 = job->n_tok;
    w->w_bytes = w->p.tile_bytes;
    w->p.n_in = job->w->n_in;
    w->p.first = w->p.last = true;
    for (int64_t tile = lo; tile < hi;) {
        int64_t n = tile + group <= hi ? group : 1;
        // weights that are seen again lie near by then: time to ask for the next tile's
        const uint8_t *data = job->data + (size_t)tile * w->p.tile_bytes;
        bool once = tb <= w->max_t && job->n_tok <= MK_X_BLOCK;
        tile_tokens(w, tile, n > 1, data + (once ? AHEAD_BYTES : (size_t)n * w->p.tile_bytes));
        tile += n;
    }
}

// At most GROUP_TILES row tiles [lo, hi); behind them comes `then`.
static inline void walk_group(tile_walk *w, int64_t lo, int64_t hi, int64_t then) {
    _Alignas(64) float sums[GROUP_TILES * CHUNK_TOKENS * 16];
    const mk_linear_job *job = w->job;
    size_t whole = BLOCK_COLS / MK_SUPER * mk_weight_stretch_bytes(job->w, MK_SUPER);
    for (w->k0 = 0, w->w_at = 0; w->k0 < job->w->n_in; w->k0 += w->p.n_in, w->w_at += w->w_bytes) {
        int64_t left = job->w->n_in - w->k0;
        w->p.first = w->k0 == 0;
        w->p.last = left <= BLOCK_COLS;
        w->p.n_in = w->p.last ? left : BLOCK_COLS;
        w->w_bytes = w->p.last ? w->p.tile_bytes - w->w_at : whole;
        for (int64_t tile = lo; tile < hi; tile++) {
            const uint8_t *next =
                tile + 1 < hi ? job->data + (size_t)(tile + 1) * w->p.tile_bytes + w->w_at
                : w->p.last   ? job->data + (size_t)then * w->p.tile_bytes
                              : job->data + (size_t)lo * w->p.tile_bytes + w->w_at + w->w_bytes;
            w->p.sums = sums + (tile - lo) * CHUNK_TOKENS * 16;
            tile_tokens(w, tile, false, next);
        }
    }
}

static inline void walk_many(tile_walk *w, int64_t lo, int64_t hi) {
    int64_t n_tok = w->job->n_tok;
    for (w->t0 = 0; w->t0 < n_tok; w->t0 = w->t1) {
        w->t1 = w->t0 + CHUNK_TOKENS < n_tok ? w->t0 + CHUNK_TOKENS : n_tok;
        for (int64_t g = lo; g < hi; g += GROUP_TILES) {
            int64_t end = g + GROUP_TILES < hi ? g + GROUP_TILES : hi;
            walk_group(w, g, end, end < hi ? end : lo);
        }
    }
}

static inline void walk_tiles(const tile_ops *ops, const mk_linear_job *job, int64_t lo, int64_t hi,
                              int max_t) {
    tile_walk w = {.ops = ops,
                   .job = job,
                   .max_t = max_t,
                   .p = {.tile_bytes = mk_weight_tile_bytes(job->w),
                         .block_bytes = MK_X_BLOCK * mk_x_row_bytes(ops->form, job->w->n_in),
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
                                        .column_bytes = (bytes)};
#else
#define FLOAT_TYPE(name, x_form, bytes, pass, ...)                                                 \
    TILE_FN(name, 1, 1, pass, ##__VA_ARGS__)                                                       \
    static const tile_ops name##_ops = {.many = {name##_1x1},                                      \
                                        .single = {name##_1x1},                                    \
                                        .r = {1, 1, 1, 1},                                         \
                                        .form = (x_form),                                          \
                                        .column_bytes = (bytes)};
#endif

#endif
