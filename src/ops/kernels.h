// Private to ops/: what one instruction set offers, and the jobs its kernels are given.
//
// A kernel does its part of a job on one thread and allocates nothing.  Every job may be cut
// anywhere along output row tiles, tokens or columns without changing a bit.
#ifndef MK_OPS_KERNELS_H
#define MK_OPS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/ops.h"
#include "ops/optim.h"

// --- prepared activations ------------------------------------------------------------------------
// Linear kernels read activations in blocks of up to 8 tokens, interleaved so that one pointer
// serves a block: record r of token t in a block of `tb` lies at (r * tb + t).  tb is 8, in the
// last block 1, 2, 4 or 8 (padded with zeros).
#define MK_X_BLOCK 8
#define MK_X_CHUNK 32  // columns of one unit of preparation

typedef enum {
    MK_X_F32,   // record = one float
    MK_X_BF16,  // record = one float rounded to bf16, or a pair of bf16 (avx512bf16 only)
    MK_X_I8,    // record = mk_x_i8, 32 columns
    MK_X_N
} mk_x_form;

// 32 activations as int8, and their sums: halves of 16 come first, then the whole.  Two records of
// 64 columns share one d.
typedef struct {
    int8_t q[32];
    float d;                   // x ~ d * q
    float sum[3];              // of q
    int32_t minus_128_sum[3];  // -128 * sum
    int32_t unused;
} mk_x_i8;

static inline int64_t mk_x_tb(int64_t n_tok_left) {
    return n_tok_left >= 5 ? 8 : n_tok_left >= 3 ? 4 : n_tok_left;
}
// Bytes of one token's records (a multiple of 64).
static inline size_t mk_x_row_bytes(mk_x_form form, int64_t n_in) {
    size_t chunks = (size_t)((n_in + MK_X_CHUNK - 1) / MK_X_CHUNK);
    return chunks * (form == MK_X_I8 ? sizeof(mk_x_i8) : MK_X_CHUNK * sizeof(float));
}
// Bytes of n_tok prepared tokens.
static inline size_t mk_x_bytes(mk_x_form form, int64_t n_tok, int64_t n_in) {
    int64_t full = n_tok / MK_X_BLOCK * MK_X_BLOCK;
    return (size_t)(full + mk_x_tb(n_tok - full)) * mk_x_row_bytes(form, n_in);
}

typedef struct {
    const float *x;  // row t at x + row(t) * stride
    int64_t stride;
    const int32_t *row;  // row(t) = row[t] / row_div, or t when NULL
    int32_t row_div;
    int64_t n_tok, n_in;
    uint8_t *dst;  // mk_x_bytes
    // On the way: silu(x) * up, up with x's rows and stride up_stride; (x * r[t]) * norm.  NULL:
    // no.
    const float *up;
    int64_t up_stride;
    const float *norm, *r;
} mk_prep_job;

// --- linear --------------------------------------------------------------------------------------
typedef struct {
    const mk_weight *w;
    const uint8_t *data;  // one matrix
    const uint8_t *x;     // prepared
    int64_t n_tok;
    float *y;
    int64_t y_stride;
    const float *bias;  // or NULL
} mk_linear_job;

// An adapter on rows of one matrix: u = scale (A x), y += B u.
typedef struct {
    const float *a, *b;  // MK_PACK_F32 [rank, n_in], [n_out, rank]
    int64_t rank, n_in, n_out;
    float scale;
    const float *x;  // row t at x + row(t) * x_stride, as in mk_prep_job
    const int32_t *row;
    int32_t row_div;
    float *u, *y;  // u: rows of whole tiles
    int64_t x_stride, u_stride, y_stride;
} mk_low_rank_job;

// --- the rest ------------------------------------------------------------------------------------
// One kv head, a run of rows of one sequence, and a range of the heads that share the kv head.
typedef struct {
    const mk_attn *a;
    mk_kv_layer kv;
    const mk_rows *rows;
    mk_mat q, y;
    int64_t row_lo, row_hi, kv_head, head_lo, head_hi;
    const uint8_t *next;  // keys of the job that comes next, to be asked for early, or NULL
    uint8_t *scratch;     // attention_scratch bytes, 64-byte aligned
} mk_attn_job;

// Gradients of a linear layer (docs/numerics.md; cpu/back_linear.c).  of weights: g += dy^T x;
// otherwise dx += dy W.
typedef struct {
    mk_mat dy;
    mk_mat x;  // of weights
    float *g;  // MK_PACK_F32 layout
    mk_mat dx;
    const mk_weight *w;
    const uint8_t *data;  // one matrix of w
} mk_back_job;

// A block of the result: tiles [tile_lo, tile_hi) of 16 output rows (of weights) or 16 columns of
// dx, at most MK_BACK_TILES, and [col_lo, col_hi) of columns of x, or of rows of dx, of these at
// most MK_BACK_WIDTH if the sum has more than MK_BACK_DEPTH terms.
typedef struct {
    int64_t tile_lo, tile_hi, col_lo, col_hi;
    float *scratch;  // mk_back_floats of the block, 64-byte aligned
} mk_back_block;

#define MK_BACK_TILES 24
#define MK_BACK_WIDTH 384
#define MK_BACK_COLS  96   // of a group whose x (or dy) is copied at once
#define MK_BACK_DEPTH 256  // of the sum that is walked at once: a multiple of 16

// Floats of scratch for a block of so many tiles and columns; grows with both.
static inline size_t mk_back_floats(int64_t n_tile, int64_t n_col) {
    size_t a = (size_t)n_tile * (16 * MK_BACK_DEPTH + 16), b = MK_BACK_DEPTH * (MK_BACK_COLS + 16);
    size_t cols = n_col < MK_BACK_COLS ? MK_BACK_COLS : (size_t)n_col;
    return a + b + 16 * (size_t)n_tile * cols;
}

#define MK_ATTN_QUERIES 128  // most queries of a job: (row_hi - row_lo) * (head_hi - head_lo)

// gw[i] += sum_t dy[t,i] x[t,i] r[t]
typedef struct {
    mk_mat dy, x;
    const float *r;  // [n_row] 1 / rms of the row
    float *gw;
} mk_norm_grad_job;

// softmax(z * inv_t) of one row in three numbers: p_i = exp(z_i * inv_t - max) / sum.
typedef struct {
    float inv_t, max, sum;
    float dot;  // sum of exp(v - max) * (v - max), for the entropy
} mk_softmax;
// Backward of attention: one sequence and one kv head, in four phases.  Keys and queries are
// counted in groups of 16 from position 0.  A phase may be cut anywhere between its units; the next
// begins when all units of the one before are done.  KEYS comes first, then ROWS and COLS for piece
// after piece (heads ascending, then queries), last ADD.
typedef enum {
    MK_BACK_ATTN_KEYS,  // a group of keys: lays out k and v, clears dk_sum and dv_sum
    MK_BACK_ATTN_ROWS,  // a group of queries of a piece (row_cap / 16 of each): p, ds, dq
    MK_BACK_ATTN_COLS,  // a group of keys: the pieces' part of dk_sum and dv_sum
    MK_BACK_ATTN_ADD,   // a group of keys: the sums to dk and dv
    MK_BACK_ATTN_N
} mk_back_attn_phase;

// Queries [first, first + n) of one head; first is a multiple of 16, n <= row_cap.
typedef struct {
    int64_t head, first, n;
    float *q_lanes, *dy_lanes;  // [row_cap/16][d][16]
    float *q_rows, *dy_rows;    // [row_cap][d rounded up to 16]
    float *p, *ds;              // [keys/16][row_cap][16]
} mk_back_attn_piece;

typedef struct {
    const mk_attn *a;
    mk_mat q, k, v, dy, dq, dk, dv;  // the rows of the sequence; p NULL: gradient not wanted
    int64_t n, kv_head;              // n: rows
    float *k_lanes, *v_lanes;        // [n/16][d][16]; latent: v_lanes is k_lanes
    float *k_rows;                   // [n rounded up to 16][d_k rounded up to 16]
    float *dk_sum, *dv_sum;          // the same, of d_k and d_v
    const mk_back_attn_piece *piece;
    int64_t n_piece, row_cap;
} mk_back_attn_job;

struct mk_kernels {
    const char *name;
    // Units [lo, hi) of (block, chunk of 32 columns), chunks fastest.
    void (*prep[MK_X_N])(const mk_prep_job *job, int64_t lo, int64_t hi);
    // Row tiles [lo, hi) of 16 outputs, all tokens; indexed by mk_pack_kind.
    void (*linear[MK_PACK_N])(const mk_linear_job *job, int64_t lo, int64_t hi);
    void (*rmsnorm)(float *y, const float *x, const float *w, int64_t n, float eps);
    float (*rms)(const float *x, int64_t n, float eps);  // 1 / sqrt(mean(x^2) + eps)
    void (*swiglu)(float *y, const float *g, const float *u, int64_t n);
    void (*axpy)(float *y, float a, const float *x, int64_t n,
                 bool first);  // y = fma(a, x, first ? 0 : y)
    void (*kv_store)(const mk_attn *a, uint8_t *block, int64_t slot, const float *k,
                     const float *v);
    size_t (*attention_scratch)(const mk_attn *a);
    void (*attention)(const mk_attn_job *job);
    void (*back_linear_w)(const mk_back_job *job, const mk_back_block *b);
    void (*back_linear_x)(const mk_back_job *job, const mk_back_block *b);
    // The same with bf16 factors: w is MK_PACK_BF16 (cpu/back_bf16.c).
    void (*back_bf16_w)(const mk_back_job *job, const mk_back_block *b);
    void (*back_bf16_x)(const mk_back_job *job, const mk_back_block *b);
    // g[i] += sum over rows of dy[t,i], t ascending, columns [lo, hi)
    void (*back_bias)(float *g, mk_mat dy, int64_t lo, int64_t hi);
    // Columns [col, col + n) of the tile of 16 rows at `tile` as float32 [n][16], the values of
    // mk_dtype_to_f32; col a multiple of 32.
    void (*unpack)(const mk_weight *w, const uint8_t *tile, int64_t col, int64_t n, float *out);
    // MK_PACK_BF16 tiles of MK_PACK_F32 tiles, rounded to nearest even.
    void (*round_tiles)(uint8_t *to, const float *from, int64_t n_in, int64_t n_tile);
    void (*low_rank)(const mk_low_rank_job *job, int64_t lo, int64_t hi);  // rows [lo, hi)
    // Columns [col, col + n) of the tile at out [n][16]: += scale * (b a), b the tile [rank][16] of
    // ad->b, a the matrix of ad->a.
    void (*low_rank_add)(const mk_adapter *ad, const float *b, const float *a, int64_t col,
                         int64_t n, float *out);
    // Units [lo, hi) of a phase.
    void (*back_attention[MK_BACK_ATTN_N])(const mk_back_attn_job *job, int64_t lo, int64_t hi);
    // scratch: n_expert floats rounded up to 16, twice, and n_group more
    void (*route)(const mk_route *r, const float *logits, float *scratch, int32_t *sel, float *w);

    // Backward: everything is added to what is there.
    // Returns rms(x).
    float (*back_rmsnorm)(float *dx, const float *dy, const float *x, const float *w, int64_t n,
                          float eps);
    void (*back_norm_w)(const mk_norm_grad_job *job, int64_t lo, int64_t hi);  // columns [lo, hi)
    // dg or du may be NULL
    void (*back_swiglu)(float *dg, float *du, const float *dy, const float *g, const float *u,
                        int64_t n);
    // scratch: n_expert floats rounded up to 16, twice
    void (*back_route)(const mk_route *r, float *dlogits, const float *dw, const float *logits,
                       const int32_t *sel, float *scratch);

    // Sets max and sum (softmax_dot: dot as well) of s, whose inv_t is given.
    void (*softmax)(mk_softmax *s, const float *z, int64_t n);
    void (*softmax_dot)(mk_softmax *s, const float *z, int64_t n);
    void (*softmax_axpy)(float *y, float a, const mk_softmax *s, const float *z,
                         int64_t n);              // y = fma(a, p, y)
    float (*row_max)(const float *z, int64_t n);  // mk_row_max, mk_row_exp
    void (*row_exp)(float *e, const float *z, int64_t n, float max, float t);
    float (*sum_squares)(const float *x, int64_t n);
    // floats [lo, hi) of a tensor, lo a multiple of MK_CODE8_BLOCK
    void (*adamw)(const mk_adamw *a, const mk_adamw_tensor *t, int64_t lo, int64_t hi);
};

// Geometry of packed weights (pack.c).
static inline int64_t mk_weight_tiles(const mk_weight *w) {
    return (w->n_out + 15) / 16;
}
static inline mk_x_form mk_weight_form(const mk_weight *w) {
    return w->kind >= MK_PACK_I8 ? MK_X_I8 : w->kind == MK_PACK_BF16 ? MK_X_BF16 : MK_X_F32;
}
#define MK_F8_GROUP 128
#define MK_SUPER    256  // columns that share an f16 scale (MK_SCALE_SUPER)

// Integer kinds: bytes of the head of n <= MK_SUPER columns of a tile, that is all their scales and
// shifts, padded so that the codes behind it begin on a cache line.
static inline size_t mk_int_head_bytes(mk_scale_kind scales, bool shift, size_t group, size_t n) {
    static const size_t per_group[] = {
        [MK_SCALE_F32] = 64, [MK_SCALE_F16] = 32, [MK_SCALE_SUPER] = 16};
    size_t bytes = n / group * per_group[scales] + (scales == MK_SCALE_SUPER ? 32 : 0);
    return ((shift ? 2 * bytes : bytes) + 63) / 64 * 64;
}
// Bytes of n <= MK_SUPER columns of one tile: head and codes.
static inline size_t mk_int_block_bytes(const mk_weight *w, size_t n) {
    static const size_t per_column[] = {
        [MK_PACK_I8] = 16, [MK_PACK_I4] = 8, [MK_PACK_I5] = 10, [MK_PACK_I6] = 12};
    return mk_int_head_bytes(w->scales, w->has_shift, (size_t)w->group, n) +
           n * per_column[w->kind];
}
// Bytes of n columns of one tile of 16 rows, n being n_in or a multiple of MK_SUPER; overflow-safe
// only for shapes that mk_weight_packed_bytes accepted.
static inline size_t mk_weight_stretch_bytes(const mk_weight *w, size_t n) {
    switch (w->kind) {
    case MK_PACK_F32:
        return n * 64;
    case MK_PACK_F16:
        return n * 32;
    case MK_PACK_BF16:
        return (n + 1) / 2 * 64;
    case MK_PACK_F8:
        return (n + MK_F8_GROUP - 1) / MK_F8_GROUP * 64 + n * 16;
    case MK_PACK_I8:
    case MK_PACK_I4:
    case MK_PACK_I5:
    case MK_PACK_I6:
        break;
    }
    size_t rest = n % MK_SUPER;
    return n / MK_SUPER * mk_int_block_bytes(w, MK_SUPER) +
           (rest > 0 ? mk_int_block_bytes(w, rest) : 0);
}
static inline size_t mk_weight_tile_bytes(const mk_weight *w) {
    return mk_weight_stretch_bytes(w, (size_t)w->n_in);
}

#endif
