// The kernels of one instruction set, for the table at the end (cpu/table.c).
#ifndef MK_OPS_CPU_CPU_H
#define MK_OPS_CPU_CPU_H

#include "ops/cpu/simd.h"
#include "ops/kernels.h"

void MK_FN(prep_f32)(const mk_prep_job *job, int64_t lo, int64_t hi);
void MK_FN(prep_bf16)(const mk_prep_job *job, int64_t lo, int64_t hi);
void MK_FN(prep_i8)(const mk_prep_job *job, int64_t lo, int64_t hi);
void MK_FN(linear_f32)(const mk_linear_job *job, int64_t lo, int64_t hi);
void MK_FN(linear_f16)(const mk_linear_job *job, int64_t lo, int64_t hi);
void MK_FN(linear_bf16)(const mk_linear_job *job, int64_t lo, int64_t hi);
void MK_FN(linear_f8)(const mk_linear_job *job, int64_t lo, int64_t hi);
void MK_FN(linear_int)(const mk_linear_job *job, int64_t lo, int64_t hi);
void MK_FN(rmsnorm)(float *y, const float *x, const float *w, int64_t n, float eps);
float MK_FN(rms)(const float *x, int64_t n, float eps);
void MK_FN(swiglu)(float *y, const float *g, const float *u, int64_t n);
void MK_FN(axpy)(float *y, float a, const float *x, int64_t n, bool first);
void MK_FN(kv_store)(const mk_attn *a, uint8_t *block, int64_t slot, const float *k,
                     const float *v);
size_t MK_FN(attention_scratch)(const mk_attn *a);
void MK_FN(attention)(const mk_attn_job *job);
void MK_FN(back_attention_keys)(const mk_back_attn_job *job, int64_t lo, int64_t hi);
void MK_FN(back_attention_rows)(const mk_back_attn_job *job, int64_t lo, int64_t hi);
void MK_FN(back_attention_cols)(const mk_back_attn_job *job, int64_t lo, int64_t hi);
void MK_FN(back_attention_add)(const mk_back_attn_job *job, int64_t lo, int64_t hi);
void MK_FN(route)(const mk_route *r, const float *logits, float *scratch, int32_t *sel, float *w);
float MK_FN(back_rmsnorm)(float *dx, const float *dy, const float *x, const float *w, int64_t n,
                          float eps);
void MK_FN(back_norm_w)(const mk_norm_grad_job *job, int64_t lo, int64_t hi);
void MK_FN(back_swiglu)(float *dg, float *du, const float *dy, const float *g, const float *u,
                        int64_t n);
void MK_FN(back_route)(const mk_route *r, float *dlogits, const float *dw, const float *logits,
                       const int32_t *sel, float *scratch);
void MK_FN(softmax)(mk_softmax *s, const float *z, int64_t n);
void MK_FN(softmax_dot)(mk_softmax *s, const float *z, int64_t n);
void MK_FN(softmax_axpy)(float *y, float a, const mk_softmax *s, const float *z, int64_t n);
float MK_FN(row_max)(const float *z, int64_t n);
void MK_FN(row_exp)(float *e, const float *z, int64_t n, float max, float t);
void MK_FN(back_linear_w)(const mk_back_job *job, const mk_back_block *b);
void MK_FN(back_linear_x)(const mk_back_job *job, const mk_back_block *b);
void MK_FN(back_bf16_w)(const mk_back_job *job, const mk_back_block *b);
void MK_FN(back_bf16_x)(const mk_back_job *job, const mk_back_block *b);
void MK_FN(back_bias)(float *g, mk_mat dy, int64_t lo, int64_t hi);
void MK_FN(low_rank)(const mk_low_rank_job *job, int64_t lo, int64_t hi);
void MK_FN(low_rank_add)(const mk_adapter *ad, const float *b, const float *a, int64_t col,
                         int64_t n, float *out);
void MK_FN(unpack)(const mk_weight *w, const uint8_t *tile, int64_t col, int64_t n, float *out);

void MK_FN(round_tiles)(uint8_t *to, const float *from, int64_t n_in, int64_t n_tile);
float MK_FN(sum_squares)(const float *x, int64_t n);
void MK_FN(adamw)(const mk_adamw *a, const mk_adamw_tensor *t, int64_t lo, int64_t hi);

#if defined(MK_ISA_AVX512)
// With vdpbf16ps (linear_bf16.c): the same bits, for processors that have AVX512_BF16.
void mk_k_prep_bf16_avx512bf16(const mk_prep_job *job, int64_t lo, int64_t hi);
void mk_k_back_bf16_w_avx512bf16(const mk_back_job *job, const mk_back_block *b);
void mk_k_back_bf16_x_avx512bf16(const mk_back_job *job, const mk_back_block *b);
void mk_k_linear_bf16_avx512bf16(const mk_linear_job *job, int64_t lo, int64_t hi);
#endif

#endif
