// The table of one instruction set.
#include "ops/cpu/cpu.h"

extern const mk_kernels MK_CAT(mk_kernels, MK_ISA);

#define MK_STR2(x) #x
#define MK_STR(x)  MK_STR2(x)
#define COMMON                                                                                     \
    .rmsnorm = MK_FN(rmsnorm), .rms = MK_FN(rms), .swiglu = MK_FN(swiglu), .axpy = MK_FN(axpy),    \
    .kv_store = MK_FN(kv_store), .attention_scratch = MK_FN(attention_scratch),                    \
    .attention = MK_FN(attention), .route = MK_FN(route), .back_rmsnorm = MK_FN(back_rmsnorm),     \
    .back_norm_w = MK_FN(back_norm_w), .back_swiglu = MK_FN(back_swiglu),                          \
    .back_route = MK_FN(back_route), .softmax = MK_FN(softmax), .softmax_dot = MK_FN(softmax_dot), \
    .softmax_axpy = MK_FN(softmax_axpy), .row_max = MK_FN(row_max), .row_exp = MK_FN(row_exp),     \
    .back_linear_w = MK_FN(back_linear_w), .back_linear_x = MK_FN(back_linear_x),                  \
    .back_bias = MK_FN(back_bias), .unpack = MK_FN(unpack),                                        \
    .back_attention = {MK_FN(back_attention_keys), MK_FN(back_attention_rows),                     \
                       MK_FN(back_attention_cols), MK_FN(back_attention_add)},                     \
    .round_tiles = MK_FN(round_tiles), .sum_squares = MK_FN(sum_squares), .adamw = MK_FN(adamw),   \
    .low_rank = MK_FN(low_rank), .low_rank_add = MK_FN(low_rank_add)
#define LINEAR(bf16)                                                                               \
    {                                                                                              \
        [MK_PACK_F32] = MK_FN(linear_f32), [MK_PACK_F16] = MK_FN(linear_f16),                      \
        [MK_PACK_BF16] = (bf16), [MK_PACK_F8] = MK_FN(linear_f8),                                  \
        [MK_PACK_I8] = MK_FN(linear_int), [MK_PACK_I4] = MK_FN(linear_int),                        \
        [MK_PACK_I5] = MK_FN(linear_int), [MK_PACK_I6] = MK_FN(linear_int)                         \
    }

const mk_kernels MK_CAT(mk_kernels,
                        MK_ISA) = {.name = MK_STR(MK_ISA),
                                   .prep = {MK_FN(prep_f32), MK_FN(prep_bf16), MK_FN(prep_i8)},
                                   .linear = LINEAR(MK_FN(linear_bf16)),
                                   .back_bf16_w = MK_FN(back_bf16_w),
                                   .back_bf16_x = MK_FN(back_bf16_x),
                                   COMMON};

#if defined(MK_ISA_AVX512)
extern const mk_kernels mk_kernels_avx512bf16;
const mk_kernels mk_kernels_avx512bf16 = {
    .name = "avx512bf16",
    .prep = {MK_FN(prep_f32), mk_k_prep_bf16_avx512bf16, MK_FN(prep_i8)},
    .linear = LINEAR(mk_k_linear_bf16_avx512bf16),
    .back_bf16_w = mk_k_back_bf16_w_avx512bf16,
    .back_bf16_x = mk_k_back_bf16_x_avx512bf16,
    COMMON};
#endif
