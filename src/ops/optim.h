// Operators of an optimiser: flat arrays of parameters, one pass over memory each.
//
// Nouns
//   mk_flat          some floats, in whatever layout
//   mk_adamw_tensor  parameters, their gradients and their two moments, all in one order
//   mk_muon_tensor   a stack of matrices with its momentum, in the layout of packed weights
//   mk_code8         the 8-bit code of moments: what its 256 codes mean, and how a value finds its code
//
// Everything is elementwise or per block of 256, except the sums of squares, which have a fixed
// order: no result depends on threads or instruction set.  Called between mk_ops_begin and
// mk_ops_end, as all operators.
#ifndef MK_OPS_OPTIM_H
#define MK_OPS_OPTIM_H

#include "ops/ops.h"

#define MK_OPTIM_CHUNK 16384  // floats that are summed, and given out to threads, at once
#define MK_CODE8_BLOCK 256    // moments that share a scale

typedef struct {
    const float *x;
    int64_t n;
} mk_flat;

// sum[i] = sum of the squares of list[i], in float64 over chunks of MK_OPTIM_CHUNK floats,
// ascending; in a chunk float32: lane i%16, ascending, FMA; fixed tree.  Not finite if an element
// is not, or where squares leave the range of float32 (|x| > 1.8e19).
void mk_op_sum_squares(mk_ops *ops, double *sum, const mk_flat *list, int64_t n);

// --- the 8-bit code ------------------------------------------------------------------------------
// Dynamic tree quantisation (Dettmers et al. 2022, arXiv 2110.02861, §1.3 and §2.2): after the sign
// (signed codes only) e zero bits say that the value is of the magnitude 10^-e, a one ends them,
// and the bits that are left cut [0.1, 1] into equal parts, whose middles are the values.  Without
// a sign one bit more is left, which goes to the parts.  So with e = 0..6:
//     signed    2^(6-e) parts: 127 positive values, the same negative, 0 and 1
//     unsigned  2^(7-e) parts: 254 values, 0 and 1
// In rising order they get the codes 0..255; 0 is code 127 (signed) or 0.  The tables are computed
// from this description, in float64 by + * /, then rounded.
//
// A value finds its code through the upper bits of its float (exponent and MK_CODE8_BITS of the
// mantissa): a cell holds at most one border between two values.
#define MK_CODE8_BITS  7
#define MK_CODE8_CELLS (24 * (1 << MK_CODE8_BITS) + 1)  // from 2^-24 to 1
typedef struct {
    float value[256];
    float border[256];             // behind the i-th value >= 0: halfway to the next
    uint8_t cell[MK_CODE8_CELLS];  // index of the value >= 0 that the least of the cell rounds to
    int32_t zero;                  // code of 0
} mk_code8;
void mk_code8_init(mk_code8 *c, bool with_sign);

// --- AdamW ---------------------------------------------------------------------------------------
typedef struct {
    float *p, *g;
    int64_t n;
    float *m, *v;  // float32 moments, or NULL and:
    uint8_t *m8, *v8;
    float *m_max, *v_max;  // of each block of MK_CODE8_BLOCK: what the codes are multiplied by
    float keep;            // 1 - lr * weight decay
    float step;            // lr / (1 - beta1^t)
} mk_adamw_tensor;

typedef struct {
    float g_scale;  // gradients are multiplied by it first: clipping, mean over tokens
    float beta1, beta2, not_beta1, not_beta2;  // not_x = 1 - x, rounded once
    float v_scale;                             // 1 / sqrt(1 - beta2^t)
    float eps;
    bool zero_g;                      // leaves zeros in g
    const mk_code8 *m_code, *v_code;  // for tensors with 8-bit moments
} mk_adamw;

//     g' = g * g_scale
//     m  = fma(beta1, m, not_beta1 * g')
//     v  = fma(beta2, v, (not_beta2 * g') * g')
//     p  = fma(-step, m / fma(sqrt(v), v_scale, eps), p * keep)
// 8-bit moments are decoded (value * max of the block), updated as above, used, and coded again
// with max = max |m| (or v) of the block: nearest value of the code to x * (1 / max), the lower at
// a tie; but v > 0 never becomes 0, because m would then be divided by eps alone.  Source:
// Loshchilov & Hutter 2019 (decay times lr, as PyTorch does it; eps outside the root).
void mk_op_adamw(mk_ops *ops, const mk_adamw *a, const mk_adamw_tensor *list, int64_t n);

// --- Muon ----------------------------------------------------------------------------------------
// n_mat matrices [n_out, n_in], each [n_out/16][n_in][16] with rows beyond n_out zero.
typedef struct {
    float *p, *g, *momentum;
    int64_t n_mat, n_out, n_in;
    float g_scale;
    float beta, not_beta;  // of the momentum; not_beta = 1 - beta, rounded once
    float keep;            // 1 - lr * weight decay
    float step;            // what the orthogonal update is multiplied by
    bool zero_g;
} mk_muon_tensor;

//     g'       = g * g_scale
//     momentum = beta * momentum + not_beta * g'
//     u        = beta * momentum + not_beta * g'             (Nesterov)
//     X        = u / max(|u|, 1e-7), |u| the root of the sum of squares; transposed if n_out > n_in
//     5 times:   A = X X^T;  B = b A + c A A;  X = a X + B X;  a, b, c = 3.4445, -4.7750, 2.0315
//     p        = p * keep - step * X
// Products are mk_op_linear's, everything else is rounded after each operation.  Source: Jordan et
// al. 2024 (Muon, kellerjordan.github.io).
void mk_op_muon(mk_ops *ops, const mk_muon_tensor *t);

#endif
