// Operators: one contract per operator, one thin dispatch layer.
//
// A model's forward pass is a page of calls of this header.  Every call checks shapes, then runs
// the kernel chosen at start-up on the pool; it can dump a named tap, time itself, and record
// itself on a tape for training (tape.h).
//
// Nouns
//   mk_mat     float32 activations [n_row, n_col], row-major with a stride; memory from the step scratch
//   mk_weight  a linear layer's weights, packed for the kernels (16 output rows interleaved); may stack n_mat matrices
//   mk_ops     kernels + pool + scratch; one per session, one thread at a time
//   mk_rows    the ragged batch: for every row its sequence's block table and its position
//
// Numbers (docs/numerics.md): SIMD lanes are output rows or keys, no float is summed across lanes
// except by the fixed tree over 16 virtual lanes; sums run in ascending order; so no result depends
// on n_row, threads or instruction set.
#ifndef MK_OPS_OPS_H
#define MK_OPS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "base/status.h"
#include "format/dtype.h"

// --- instruction sets ----------------------------------------------------------------------------
typedef struct mk_kernels mk_kernels;
// name: "auto" (best this CPU has), "scalar", "avx2", "avx512" (F BW DQ VL VNNI), "neon" (with dot
// product).  Errors: MK_EUSAGE for an unknown name (lists the known ones) or one this CPU or build
// lacks.
mk_status mk_kernels_find(const char *name, const mk_kernels **out, mk_err *err) MK_WARN_UNUSED;
const char *mk_kernels_name(const mk_kernels *k);
// The i-th set that this build has and this CPU can run, NULL past the end.
const mk_kernels *mk_kernels_at(int i);

// --- activations ---------------------------------------------------------------------------------
typedef struct {
    float *p;
    // stride in floats, >= n_col; rows are 64-byte aligned when made by mk_op_new
    int64_t n_row, n_col, stride;
} mk_mat;

// Rows [first, first + n), and columns [first, first + n) of every row, without a copy.
static inline mk_mat mk_mat_rows(mk_mat m, int64_t first, int64_t n) {
    return (mk_mat){m.p + first * m.stride, n, m.n_col, m.stride};
}
static inline mk_mat mk_mat_cols(mk_mat m, int64_t first, int64_t n) {
    return (mk_mat){m.p + first, m.n_row, n, m.stride};
}

// --- packed weights ------------------------------------------------------------------------------
// Version of the layouts below: raised with every change of packed bytes, so that packed files made
// before are not used (docs/pack-cache.md; tests/model/test_pack_cache.c knows the bytes of each
// version).
#define MK_PACK_LAYOUT 3

typedef enum {
    MK_PACK_F32,   // [n_out/16][n_in][16] f32
    MK_PACK_F16,   // same with f16, widened exactly; activations float32
    MK_PACK_BF16,  // [n_out/16][n_in/2][16][2] bf16; activations rounded to bf16
    // [n_out/16][n_in][16] e4m3 with a float32 scale per row and 128 columns; activations float32
    MK_PACK_F8,
    // int8 with a float32 scale (and shift) per row and group; activations int8 per group of 64
    MK_PACK_I8,
    // the same with 4-bit codes: code - offset, or a 16-entry int8 table (IQ4_NL, MXFP4)
    MK_PACK_I4,
    MK_PACK_I5,  // 5-bit codes, code - offset: a plane of the fifth bits, then the low four
    MK_PACK_I6   // 6-bit codes, code - offset: a plane of the upper two bits, then the low four
} mk_pack_kind;
#define MK_PACK_N (MK_PACK_I6 + 1)

// Integer kinds: how the scales (and shifts) of 16 rows are stored; the float32 product a kernel
// uses is the same.
typedef enum {
    MK_SCALE_F32,   // f32[16] per group
    MK_SCALE_F16,   // f16[16] per group
    MK_SCALE_SUPER  // f16[16] per 256 columns times int8[16] per group
} mk_scale_kind;

typedef struct {
    mk_pack_kind kind;
    mk_scale_kind scales;
    int32_t group;   // integer kinds: 16 or 32
    bool has_shift;  // integer kinds
    int32_t offset;  // I4, I5, I6: value = code - offset
    bool has_table;  // I4: value = table[code] instead
    int8_t table[16];
    int64_t n_mat, n_out, n_in;
    size_t mat_bytes;  // packed bytes of one matrix
    uint8_t *data;     // n_mat * mat_bytes; 64-byte aligned
    bool borrowed;     // data belong to someone else (a packed file, a block of many weights):
                       // mk_weight_free lets go of them
    mk_dtype dtype;    // type it was packed from
    // BF16 in training: what data are rounded from, in the layout of MK_PACK_F32 (mk_weight_round);
    // someone else's.  Else NULL.
    float *master;
    const struct mk_adapter *adapter;  // what is added to it, or NULL; not owned
} mk_weight;

// The values as float32 in the layout of MK_PACK_F32, NULL if there are none.
static inline float *mk_weight_values(const mk_weight *w) {
    return w->kind == MK_PACK_F32 ? (float *)(void *)w->data : w->master;
}
// Makes data follow master, rounded to nearest even.
void mk_weight_round(const mk_weight *w, mk_pool *pool);

// Where the rows of a weight come from.  Row r of matrix m starts at data + m * mat_stride + map(r)
// * row_bytes, where map(r) = row_map ? row_map[r] : r.  All n_out rows of all matrices must lie
// inside the tensor (checked by the loader).
typedef struct {
    mk_dtype dtype;
    const uint8_t *data;
    int64_t n_mat, n_out, n_in;
    size_t row_bytes, mat_stride;
    const int32_t *row_map;  // n_out entries, or NULL
    // F8_E4M3: scale of tile (r/128, k/128) at [map(r)/128 * tile_cols + k/128]; else NULL
    const float *tile_scale;
    int64_t tile_cols;
} mk_weight_src;

// Packed bytes the source will need (0 if the dtype cannot be packed).
size_t mk_weight_packed_bytes(const mk_weight_src *src);
// Packs, in parallel over row tiles.  F32, F16, BF16, F8_E4M3 and every quantised type.  Rows
// beyond n_out in the last tile of 16 are zero.  Quantised: n_in is a multiple of the type's block.
// Errors: MK_ENOMEM, MK_EUNSUPPORTED.
mk_status mk_weight_pack(const mk_weight_src *src, mk_pool *pool, mk_weight *out,
                         mk_err *err) MK_WARN_UNUSED;
// As above for matrix `m` only, into an already allocated weight (experts that come one tensor
// each).
mk_status mk_weight_pack_one(const mk_weight_src *src, int64_t m, mk_pool *pool, mk_weight *w,
                             mk_err *err) MK_WARN_UNUSED;
// Everything but the data (NULL): enough for dry steps and memory plans.  Errors: MK_EUNSUPPORTED.
mk_status mk_weight_layout(const mk_weight_src *src, mk_weight *out, mk_err *err) MK_WARN_UNUSED;
// Allocates a weight of the layout of src without filling it.
mk_status mk_weight_alloc(const mk_weight_src *src, mk_weight *out, mk_err *err) MK_WARN_UNUSED;
// As mk_weight_pack for a weight that was laid out for this source: into the memory it has, or its
// own if data is NULL.  A weight that was laid out as float32 takes a source of any float or
// quantised type and holds the values it stands for; so does mk_weight_pack_one.
mk_status mk_weight_fill(const mk_weight_src *src, mk_pool *pool, mk_weight *w,
                         mk_err *err) MK_WARN_UNUSED;
void mk_weight_free(mk_weight *w);

// One matrix between rows f32 [n_out, n_in] and the layout of MK_PACK_F32, [n_out/16][n_in][16],
// rows beyond n_out zero; in parallel over tiles.  unpack_add: rows += packed.
typedef struct {
    int64_t n_out, n_in;
} mk_f32_shape;
void mk_f32_pack(float *packed, const float *rows, mk_f32_shape s, mk_pool *pool);
void mk_f32_unpack(float *rows, const float *packed, mk_f32_shape s, mk_pool *pool);
void mk_f32_unpack_add(float *rows, const float *packed, mk_f32_shape s, mk_pool *pool);

// --- adapters ------------------------------------------------------------------------------------
// A change of low rank (LoRA; Hu et al. 2021) that stays beside its weight: W' = W + scale B A.
// The operators compute W x as they do without it, and then add B (scale (A x)), in float32 and
// from the float32 x whatever the weight's type; so B = 0 changes nothing.
//
// With magnitudes (DoRA; Liu et al. 2024) row o of W' is given the length magnitude[o]: it is
// multiplied by magnitude[o] / norm[o], norm being its own length, a constant on the way back.
typedef struct mk_adapter {
    // [rank, n_in] and [n_out, rank], MK_PACK_F32; n_mat as the weight's, or, for the heads of
    // mk_op_linear_heads, 1: all heads share it
    mk_weight a, b;
    float scale;
    float *magnitude;  // f32 [n_mat][n_out]; NULL: none
    float *norm;       // the same, by mk_adapter_norms
    // The weight is stored transposed (keys of MLA): magnitudes [n_mat][n_in] are of its columns.
    bool of_columns;
} mk_adapter;

// Fills norm: the lengths of the rows (columns) of all matrices of W + scale B A, W being of any
// packed kind.  A length of 0 counts as 1.  Squares are summed in float64, so that the bits do not
// depend on the kernels or the pool.
void mk_adapter_norms(const mk_kernels *k, mk_pool *pool, const mk_weight *w, mk_adapter *ad);
// Changes the values of w (mk_weight_values) to W'; norm is up to date.  What is rounded from a
// master does not follow (mk_weight_round).
void mk_adapter_merge(const mk_kernels *k, mk_pool *pool, mk_weight *w, const mk_adapter *ad);

// --- context -------------------------------------------------------------------------------------
typedef struct mk_ops mk_ops;

// Called with every tapped intermediate (row-major copy of nothing: m is live, read it now).
typedef void (*mk_tap_fn)(void *arg, const char *name, int layer, mk_mat m);

mk_ops *mk_ops_create(const mk_kernels *k, mk_pool *pool);
void mk_ops_destroy(mk_ops *ops);
void mk_ops_set_tap(mk_ops *ops, mk_tap_fn fn, void *arg);
const mk_kernels *mk_ops_kernels(const mk_ops *ops);
mk_pool *mk_ops_pool(const mk_ops *ops);

// A step = one forward call.  begin resets the scratch and enters flush-to-zero; end leaves it.
// dry: operators only check shapes and count scratch, nothing is computed or read; the high-water
// mark sizes the scratch (mk_ops_reserve), so that later steps of at most that many rows allocate
// nothing.
void mk_ops_begin(mk_ops *ops, bool dry);
void mk_ops_end(mk_ops *ops);
// bytes, of the last step
size_t mk_ops_high_water(const mk_ops *ops);
mk_status mk_ops_reserve(mk_ops *ops, size_t n_bytes, mk_err *err) MK_WARN_UNUSED;  // MK_ENOMEM

// Scratch matrix [n_row, n_col], undefined contents, lives until the step ends or mk_op_release
// goes back before it.  Scratch that was reserved too small is a bug of the caller (assertion).
mk_mat mk_op_new(mk_ops *ops, int64_t n_row, int64_t n_col);
int32_t *mk_op_new_i32(mk_ops *ops, int64_t n);
size_t mk_op_mark(const mk_ops *ops);
void mk_op_release(mk_ops *ops, size_t mark);
// The same at the end of a layer: here a tape may forget what is inside (tape.h).
void mk_op_segment(mk_ops *ops, size_t mark);

// Names an intermediate for debugging; free when no tap is set.  layer -1 = outside the layers.
void mk_op_tap(mk_ops *ops, const char *name, int layer, mk_mat m);

// What an operation is done with: this decides the peak that bounds it.
typedef enum { MK_ARITH_F32, MK_ARITH_BF16, MK_ARITH_INT8, MK_ARITH_N } mk_arith;

// Time and work per operator, for `minke bench --profile`: names are the functions below without
// mk_op_.  Work is counted from the shapes, not measured: a multiply-add is two operations, a
// function such as exp one; bytes are what must be read (packed weights that are used, cached keys
// and values once per sequence, activations), each once per call.  Doubles: exact up to 2^53, and a
// sum that grows beyond loses nothing that shows.
typedef struct {
    const char *name;
    uint64_t n_call, ns;
    double n_op[MK_ARITH_N], n_bytes;
} mk_op_time;
// on: from now on times and counts are kept, beginning at zero.
void mk_ops_profile(mk_ops *ops, bool on);
int mk_ops_times(const mk_ops *ops, mk_op_time *out, int max);

// The linear kernel of one type of weights alone, for `minke bench`: one row tile and some tokens
// for each thread, everything in its nearest cache.  What it reaches is what the definition of the
// numbers leaves of a peak, at this moment on this processor.
typedef struct mk_tile_probe mk_tile_probe;
// The pool's threads are those that will run it.  Errors: MK_ENOMEM, MK_EUNSUPPORTED.
mk_status mk_tile_probe_create(const mk_kernels *k, mk_dtype dtype, mk_pool *pool,
                               mk_tile_probe **out, mk_err *err) MK_WARN_UNUSED;
void mk_tile_probe_destroy(mk_tile_probe *p);  // NULL is fine
mk_arith mk_tile_probe_arith(const mk_tile_probe *p);
double mk_tile_probe_ops(const mk_tile_probe *p);  // operations of one turn
// n turns as the ith thread.  Threads: each with an ith of its own.
void mk_tile_probe_run(const mk_tile_probe *p, int ith, int64_t n);

// --- operators -----------------------------------------------------------------------------------
// y[t,:] = table[ids[t],:].  table: n_vocab rows of `row_bytes` bytes of any float dtype; y
// f32 [n_tok, d].
void mk_op_embed(mk_ops *ops, mk_mat y, const uint8_t *table, mk_dtype dtype, size_t row_bytes,
                 const int32_t *ids);

// y[t,i] = x[t,i] * r * w[i], r = 1/sqrt(mean(x[t,:]^2) + eps).  w f32 [d].  y may alias x.  Sum of
// squares: lane i%16, ascending, FMA; fixed tree; division and sqrt are IEEE.  Source: Zhang &
// Sennrich 2019.
void mk_op_rmsnorm(mk_ops *ops, mk_mat y, mk_mat x, const float *w, float eps);

// y[t,o] = sum_i W[o,i] x[t,i] (+ bias[o]), i ascending.  y must not alias x.  One entry of a list
// that shares x.
typedef struct {
    const mk_weight *w;  // n_mat = 1
    const float *bias;   // f32 [n_out] or NULL
    mk_mat y;            // [n_tok, n_out]
} mk_linear;
void mk_op_linear(mk_ops *ops, mk_mat y, mk_mat x, const mk_weight *w, const float *bias);
void mk_op_linears(mk_ops *ops, mk_mat x, const mk_linear *list, int n);  // n <= 8

// The same of rmsnorm(x) and of silu(g) * u, without writing them to memory in between: the bits
// are those of mk_op_rmsnorm, mk_op_swiglu and mk_op_linear one after the other.
typedef struct {
    mk_mat x;
    const float *norm;  // f32 [n_col], or NULL: x as it is
    float eps;
} mk_normed;
void mk_op_normed_linears(mk_ops *ops, mk_normed in, const mk_linear *list, int n);
void mk_op_swiglu_linear(mk_ops *ops, mk_mat y, mk_mat g, mk_mat u, const mk_weight *w);

// Per head h: y[t, h*n_out + o] = sum_i W[h][o,i] x[t, h*stride_in + i].  w->n_mat heads; x has
// x_head_stride columns per head (>= n_in; the first n_in are used), y n_mat * y_head_stride
// columns.  (MLA's absorbed projections.)
void mk_op_linear_heads(mk_ops *ops, mk_mat y, int64_t y_head_stride, mk_mat x,
                        int64_t x_head_stride, const mk_weight *w);

// x[t,i] += y[t,i]
void mk_op_add(mk_ops *ops, mk_mat x, mk_mat y);

// y[t,i] = silu(g[t,i]) * u[t,i], silu(a) = a / (1 + exp(-a)).  y may alias g or u.  Source:
// Shazeer 2020.
void mk_op_swiglu(mk_ops *ops, mk_mat y, mk_mat g, mk_mat u);

// Copies columns: y[t,i] = x[t,i] (same shape), for gathering parts of heads.
void mk_op_copy(mk_ops *ops, mk_mat y, mk_mat x);

// Rotary embedding.  cs holds, per row, cos then sin of every pair: [n_tok, 2 * n_pair].  angle =
// (float)pos * inv_freq[i] in float32; cos and sin by mk_sincos, times `factor`, rounded to
// float32.
void mk_op_rope_angles(mk_ops *ops, mk_mat cs, const int32_t *pos, const float *inv_freq,
                       int64_t n_pair, double factor);
// pairs (i, i+n_pair) or (2i, 2i+1)
typedef enum { MK_ROPE_HALF, MK_ROPE_INTERLEAVED } mk_rope_style;
// In place on n_head heads of `head_stride` columns each; rotates columns [first, first + 2 n_pair)
// of every head.
typedef struct {
    int64_t n_head, head_stride, first, n_pair;
    mk_rope_style style;
} mk_rope;
void mk_op_rope(mk_ops *ops, mk_mat x, const mk_rope *r, mk_mat cs);

// --- attention over the block cache --------------------------------------------------------------
#define MK_KV_BLOCK 64  // tokens per block, counted from position 0

// Q8: int8 with float32 scales, attended by integer dot products; its layout is mk_q8_shape
// (kv_q8.h)
typedef enum { MK_KV_F32, MK_KV_F16, MK_KV_Q8 } mk_kv_type;

// Geometry of one layer's part of a block (F32 and F16).
//   plain:  K [n_kv_head][64/16][d_k][16] (16 keys interleaved), then V [n_kv_head][64][d_v]
//   latent: one row per token [64][d_k]; the values are its first d_v elements
//           (MLA: d_k = kv_lora + rope, d_v = kv_lora)
typedef struct {
    int64_t n_head, n_kv_head, d_k, d_v;  // latent: n_kv_head = 1
    bool latent;
    mk_kv_type type;
    float scale;  // multiplies q.k
} mk_attn;
size_t mk_attn_block_bytes(const mk_attn *a);  // multiple of 64

// One layer of the cache: block b's part begins at base + b * block_stride.
typedef struct {
    uint8_t *base;
    size_t block_stride;
} mk_kv_layer;

// The batch, as the cache sees it.  Row t is position pos[t] of a sequence whose logical block i is
// table[t][i].  Rows of one sequence come in ascending position; all keys at positions <= pos[t]
// are in the cache when attention runs.
typedef struct {
    int64_t n_tok;
    const int32_t *pos;           // [n_tok]
    const int32_t *const *table;  // [n_tok] block tables
} mk_rows;

// Stores k [n_tok, n_kv_head * d_k] and v [n_tok, n_kv_head * d_v] (v.p NULL when latent) at each
// row's position.
void mk_op_kv_store(mk_ops *ops, const mk_attn *a, mk_kv_layer kv, const mk_rows *rows, mk_mat k,
                    mk_mat v);

// y[t, h*d_v..] = sum_j softmax_j(scale * q[t,h] . k[j, h / (n_head / n_kv_head)]) v[j], j <=
// pos[t].  q [n_tok, n_head * d_k], y [n_tok, n_head * d_v].  Online softmax over blocks of 64 in
// ascending order; exact rules in docs/numerics.md.  Sources: Vaswani et al. 2017; Milakov &
// Gimelshein 2018; DeepSeek-V2 2024 (latent form).
void mk_op_attention(mk_ops *ops, mk_mat y, mk_mat q, const mk_attn *a, mk_kv_layer kv,
                     const mk_rows *rows);

// --- mixture of experts --------------------------------------------------------------------------
typedef enum { MK_SCORE_SOFTMAX = 1, MK_SCORE_SIGMOID = 2 } mk_score;  // GGUF expert_gating_func
typedef enum { MK_GROUP_NONE, MK_GROUP_MAX, MK_GROUP_TOP2 } mk_group_score;
typedef struct {
    int64_t n_expert, n_used;
    mk_score score;
    mk_group_score group;           // how groups are scored (V2: max, V3: sum of the two best)
    int64_t n_group, n_group_used;  // 1/1 when there are no groups
    bool normalise;                 // divide the weights by their sum (+1e-20)
    float scale;                    // then multiply
    const float *bias;              // f32 [n_expert] added for the choice only, or NULL
} mk_route;
// sel int32 [n_tok, n_used], in ascending expert id; w f32 [n_tok, n_used].  Not chosen groups
// count as -inf; ties go to the lower id.  Source: DeepSeek-V3 report eq. 12-16 and its
// inference/model.py.
void mk_op_route(mk_ops *ops, const mk_route *r, mk_mat logits, int32_t *sel, mk_mat w);

// y[t,:] = sum over the chosen experts e in ascending id of w[t,e] * down_e(silu(gate_e x_t) * up_e
// x_t), as FMAs from 0.  gate, up: n_mat = n_expert, [d_ff, d]; down [d, d_ff].  Rows are grouped
// by expert.
typedef struct {
    const mk_weight *gate, *up, *down;
    const int32_t *sel;
    mk_mat w;
    int64_t n_used;
} mk_moe;
void mk_op_moe(mk_ops *ops, mk_mat y, mk_mat x, const mk_moe *m);

// --- one row of logits ---------------------------------------------------------------------------
// For who chooses tokens, on the calling thread, by the fastest instruction set of this processor.

// The largest of z[0..n), NaN left out; -infinity if nothing is left.
float mk_row_max(const float *z, int64_t n);
// e[i] = mk_expf((z[i] - max) / t), bit for bit; t > 0.
void mk_row_exp(float *e, const float *z, int64_t n, float max, float t);

#endif
