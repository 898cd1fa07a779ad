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
void MK_FN(route)(const mk_route *r, const float *logits, float *scratch, int32_t *sel, float *w);

float MK_FN(sum_squares)(const float *x, int64_t n);
void MK_FN(adamw)(const mk_adamw *a, const mk_adamw_tensor *t, int64_t lo, int64_t hi);

#if defined(MK_ISA_AVX512)
// With vdpbf16ps (linear_bf16.c): the same bits, for processors that have AVX512_BF16.
void mk_k_prep_bf16_avx512bf16(const mk_prep_job *job, int64_t lo, int64_t hi);
void mk_k_linear_bf16_avx512bf16(const mk_linear_job *job, int64_t lo, int64_t hi);
#endif

#endif
