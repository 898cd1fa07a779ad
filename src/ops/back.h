// Backward of the operators: gradients of inputs and of weights.
//
// Every function adds to the gradients it is given: a value that was used twice gets both parts, a
// weight the parts of all its tokens.  Sums over tokens begin with what is there and run in
// ascending row, as one chain of FMAs, so a step gives the same bits whether its tokens come in one
// batch or in eight, on one thread or three, on any instruction set (docs/numerics.md).
//
// The factors of a linear layer's products are float32, but for weights of MK_PACK_BF16: there they
// are rounded to bf16, two terms of a sum being one step.  Pairs of tokens are counted from the
// first row of a call: a cut of the rows behind an even number changes no bit, another one does.
// (Experts have calls of their own: what is in a batch decides where theirs are cut.)
//
// Gradients of matrices of weights lie in the layout of MK_PACK_F32: [n_out/16][n_in][16], rows
// beyond n_out zero, whatever the type of the weight; so an optimiser walks weight and gradient
// side by side.  NULL for a gradient that nobody wants.
//
// Called between mk_ops_begin and mk_ops_end; scratch comes from the step.
#ifndef MK_OPS_BACK_H
#define MK_OPS_BACK_H

#include "ops/ops.h"

// Floats of the gradient of one matrix of w.
static inline size_t mk_grad_floats(const mk_weight *w) {
    return (size_t)((w->n_out + 15) / 16) * 16 * (size_t)w->n_in;
}

// dx[t,i] += sum_o dy[t,o] W[o,i], o ascending; W is matrix `mat` of w, of any packed kind
// (quantised weights multiplied out: the rounding of activations counts as the identity).
void mk_back_linear_x(mk_ops *ops, mk_mat dx, mk_mat dy, const mk_weight *w, int64_t mat);

// g[o/16][i][o%16] += sum_t dy[t,o] x[t,i], t ascending.  dy [n_tok, n_out], x [n_tok, n_in].
void mk_back_linear_w(mk_ops *ops, float *g, mk_mat dy, mk_mat x);

// Several of the two at once, shared by the threads as one stretch of work.  What they write (dx,
// g) does not overlap.  dx.p or g NULL: not wanted.
typedef struct {
    mk_mat dx, dy, x;
    const mk_weight *w;  // for dx; g: its kind is the form of the product (NULL: float32)
    int64_t mat;
    float *g;
} mk_back_linear;
void mk_back_linears(mk_ops *ops, const mk_back_linear *list, int64_t n);

// g[o] += sum_t dy[t,o], t ascending.
void mk_back_bias(mk_ops *ops, float *g, mk_mat dy);

// y = x * r * w, r = 1/sqrt(mean(x^2) + eps).  dx += ..., gw f32 [d] += sum_t dy * x * r.
// dx or gw may be empty (dx.p NULL); dx overlaps neither dy nor x.
void mk_back_rmsnorm(mk_ops *ops, mk_mat dx, float *gw, mk_mat dy, mk_mat x, const float *w,
                     float eps);

// y = silu(g) * u.  dg or du may be empty (p NULL).
void mk_back_swiglu(mk_ops *ops, mk_mat dg, mk_mat du, mk_mat dy, mk_mat g, mk_mat u);

// In place: dx becomes the gradient before the rotation (the inverse rotation).
void mk_back_rope(mk_ops *ops, mk_mat dx, const mk_rope *r, mk_mat cs);

// g[ids[t],:] += dy[t,:], t ascending.  g f32 [n_vocab, d], row-major.
void mk_back_embed(mk_ops *ops, float *g, mk_mat dy, const int32_t *ids);

// Attention of rows that begin at position 0 and are all in the batch: every key a row sees is a
// row of k [n_tok, n_kv_head * d_k] and v [n_tok, n_kv_head * d_v] (latent: v.p NULL, the values
// are the first d_v columns of k, and dv goes there).  Probabilities are computed again, in
// float32, from q and k.  Sums: dq over keys ascending; dk, dv over heads ascending, then queries
// ascending.  Source: Dao et al. 2022 (FlashAttention), algorithm 4.
void mk_back_attention(mk_ops *ops, mk_mat dq, mk_mat dk, mk_mat dv, mk_mat dy, mk_mat q, mk_mat k,
                       mk_mat v, const mk_attn *a, const mk_rows *rows);

// w [n_tok, n_used] of mk_op_route as a function of logits, the choice being fixed.  dlogits
// [n_tok, n_expert].
void mk_back_route(mk_ops *ops, mk_mat dlogits, mk_mat dw, const mk_route *r, mk_mat logits,
                   const int32_t *sel);

// logp[t] = log softmax(z[t,:] / temperature)[id[t]]: the one function that samplers and trainers
// take log-probabilities from.  lse f32 [n_tok] (may be NULL) receives log sum exp(z /
// temperature).  Lane i%16 ascending, fixed tree; z is multiplied by (1 / temperature) rounded to
// float32.  temperature > 0; ids in [0, n_vocab).  Logits of -inf have probability 0; NaN, +inf or
// nothing but -inf give NaN.
void mk_op_logprob(mk_ops *ops, float *logp, float *lse, mk_mat z, const int32_t *id,
                   float temperature);
// Entropy of softmax(z[t,:] / temperature), for logs.
void mk_op_entropy(mk_ops *ops, float *entropy, mk_mat z, float temperature);
// Gradient of sum_t weight[t] * -logp[t]: dz[t,:] += weight[t] / temperature * (softmax - onehot).
// Rows of weight 0 are left alone.
void mk_back_logprob(mk_ops *ops, mk_mat dz, mk_mat z, const int32_t *id, const float *weight,
                     float temperature);

#endif
