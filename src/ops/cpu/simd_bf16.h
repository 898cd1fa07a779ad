// Rounding to bf16 with the avx512bf16 set's instruction, for the functions that may use it.
//
// It takes subnormal floats for zero, where the definition (vf_round_bf16) rounds them: one that
// rounds up is the smallest normal number.  So vectors that hold any go the definition's way.
#ifndef MK_OPS_CPU_SIMD_BF16_H
#define MK_OPS_CPU_SIMD_BF16_H

#include "ops/cpu/cpu.h"

#if defined(MK_ISA_AVX512)
// Around the functions that use the instructions of the set, and no others; select.c hands them out
// where the processor has it.
#if defined(__clang__)
#define MK_BF16_BEGIN                                                                              \
    _Pragma("clang attribute push(__attribute__((target(\"avx512bf16\"))), apply_to = function)")
#define MK_BF16_END _Pragma("clang attribute pop")
#else
#define MK_BF16_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"avx512bf16\")")
#define MK_BF16_END   _Pragma("GCC pop_options")
#endif

MK_BF16_BEGIN

#define FP_CLASS_SUBNORMAL 0x20

MK_INLINE __m512i rounded_slowly(v16f first, v16f second) {
    __m512i lo = _mm512_srli_epi32(_mm512_castps_si512(vf_round_bf16(first)), 16);
    __m512i hi = _mm512_srli_epi32(_mm512_castps_si512(vf_round_bf16(second)), 16);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(lo)),
                              _mm512_cvtepi32_epi16(hi), 1);
}

// 32 numbers, rounded, in their order: pairs of neighbours are words.
MK_INLINE __m512i bf16_words(v16f first, v16f second) {
    __mmask16 small = _kor_mask16(_mm512_fpclass_ps_mask(first, FP_CLASS_SUBNORMAL),
                                  _mm512_fpclass_ps_mask(second, FP_CLASS_SUBNORMAL));
    if (MK_UNLIKELY(small != 0)) {
        return rounded_slowly(first, second);
    }
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

// Words of one lane of each.
MK_INLINE __m512i bf16_interleaved(v16f even, v16f odd) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, bf16_words(even, odd));
}

MK_BF16_END
#endif

#endif
