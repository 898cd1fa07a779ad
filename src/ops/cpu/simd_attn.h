// Integer steps that only attention needs, per instruction set; exact in every one.  Included
// behind simd.h.
#ifndef MK_OPS_CPU_SIMD_ATTN_H
#define MK_OPS_CPU_SIMD_ATTN_H

#include "ops/cpu/simd.h"

// dot_values: lane i of acc += sum over 4 keys of v[4 i + k] * p[k], with signed v and p in 0..127.
// p is the unsigned operand, so x86 needs no offset; 2 * 128 * 127 fits the 16 bits of maddubs.
// flip_quads: 4 x 4 bytes transposed, +128 codes made signed: dst[4 d + j] = src[4 j + d] ^ 0x80.
#if defined(MK_ISA_AVX512)
typedef __m512i v16v;
MK_INLINE v16v load_values(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
MK_INLINE v16i vi_zero(void) {
    return _mm512_setzero_si512();
}
MK_INLINE v16i dot_values(v16i acc, v16v v, const int8_t *p) {
    int32_t p4;
    memcpy(&p4, p, 4);
    return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(p4), v);
}
#elif defined(MK_ISA_AVX2)
typedef v16i v16v;
MK_INLINE v16v load_values(const uint8_t *p) {
    return (v16v){_mm256_loadu_si256((const __m256i *)p),
                  _mm256_loadu_si256((const __m256i *)(p + 32))};
}
MK_INLINE v16i vi_zero(void) {
    return (v16i){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
MK_INLINE v16i dot_values(v16i acc, v16v v, const int8_t *p) {
    const __m256i one = _mm256_set1_epi16(1);
    int32_t p4;
    memcpy(&p4, p, 4);
    __m256i x = _mm256_set1_epi32(p4);
    v16i s = {_mm256_madd_epi16(_mm256_maddubs_epi16(x, v.a), one),
              _mm256_madd_epi16(_mm256_maddubs_epi16(x, v.b), one)};
    return vi_add(acc, s);
}
#elif defined(MK_ISA_NEON)
typedef v16w v16v;
MK_INLINE v16v load_values(const uint8_t *p) {
    v16v r;
    QUADS(i) {
        r.v[i] = vld1q_s8((const int8_t *)p + 16 * i);
    }
    return r;
}
MK_INLINE v16i vi_zero(void) {
    v16i r;
    QUADS(i) {
        r.v[i] = vdupq_n_s32(0);
    }
    return r;
}
MK_INLINE v16i dot_values(v16i acc, v16v v, const int8_t *p) {
    return dot_step(WT_I8, acc, v, p);
}
#else
typedef v16w v16v;
MK_INLINE v16v load_values(const uint8_t *p) {
    v16v r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
MK_INLINE v16i vi_zero(void) {
    v16i r = {{0}};
    return r;
}
MK_INLINE v16i dot_values(v16i acc, v16v v, const int8_t *p) {
    return dot_step(WT_I8, acc, v, p);
}
#endif

#if defined(MK_ISA_AVX512) || defined(MK_ISA_AVX2)
MK_INLINE void flip_quads(uint8_t *dst, const uint8_t *src) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i v = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)src), order);
    _mm_storeu_si128((__m128i *)dst, _mm_xor_si128(v, _mm_set1_epi8((char)0x80)));
}
#else
MK_INLINE void flip_quads(uint8_t *dst, const uint8_t *src) {
    for (int j = 0; j < 4; j++) {
        for (int d = 0; d < 4; d++) {
            dst[4 * d + j] = src[4 * j + d] ^ 0x80;
        }
    }
}
#endif

// 2^x for x <= 0, as attention over int8 uses it (docs/numerics.md): relative error 3e-6, exactly 1
// at 0, never below 2^-126, NaN stays NaN.
MK_INLINE v16f vf_exp2(v16f x) {
    // 1.5 * 2^23 + 127: the low bits of t are n + 127, the exponent field of 2^n
    const v16f magic = vf_set1(0x1.8p23f + 127.0f);
    x = vf_max(vf_set1(-126.0f), x);
    v16f t = vf_add(x, magic);
    v16f r = vf_sub(x, vf_sub(t, magic));
    v16f p = vf_fma(r, vf_set1(0x1.3a02ccp-7f), vf_set1(0x1.c9fc46p-5f));
    p = vf_fma(p, r, vf_set1(0x1.ec0378p-3f));
    p = vf_fma(p, r, vf_set1(0x1.62e12cp-1f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_mul(p, vf_scale_exponent(vf_zero(), t));
}

#endif
