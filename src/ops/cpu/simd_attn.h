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

// store_codes: 64 codes 0..127, of 16 each in a, b, c, d.
// reduce_max16: lane i of the result is the maximum of r[i]; no NaN among them.
#if defined(MK_ISA_AVX512)
MK_INLINE void store_codes(int8_t *p, v16i a, v16i b, v16i c, v16i d) {
    // packing works within 128 bits: dword 4 L + v comes out as the L-th of vector v
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i w = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, w));
}
// One step of a tree: lanes from x in the lower half of every group, from y in the upper.
#define MAX_LANES(x, y, lo, hi) _mm512_max_ps(lo(x, y), hi(x, y))
#define LANES_LOW(x, y)         _mm512_shuffle_f32x4(x, y, 0x88)
#define LANES_HIGH(x, y)        _mm512_shuffle_f32x4(x, y, 0xDD)
#define PAIRS_LOW(x, y)         _mm512_shuffle_ps(x, y, 0x88)
#define PAIRS_HIGH(x, y)        _mm512_shuffle_ps(x, y, 0xDD)
MK_INLINE v16f reduce_max16(const v16f r[16]) {
    __m512 a[8], b[4], c[2];
    MK_UNROLL for (int i = 0; i < 8; i++) {  // i, i + 8: quarters x0 x2 y0 y2
        a[i] = MAX_LANES(r[i], r[i + 8], LANES_LOW, LANES_HIGH);
    }
    MK_UNROLL for (int i = 0; i < 4; i++) {  // quarters: i, i + 8, i + 4, i + 12
        b[i] = MAX_LANES(a[i], a[i + 4], LANES_LOW, LANES_HIGH);
    }
    MK_UNROLL for (int i = 0; i < 2; i++) {
        c[i] = MAX_LANES(b[i], b[i + 2], PAIRS_LOW, PAIRS_HIGH);
    }
    __m512 d = MAX_LANES(c[0], c[1], PAIRS_LOW, PAIRS_HIGH);
    // quarter k holds 0, 2, 1, 3 of its four rows, quarters are rows 0, 8, 4, 12 and on
    const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    return _mm512_permutexvar_ps(order, d);
}
#else
MK_INLINE void store_codes(int8_t *p, v16i a, v16i b, v16i c, v16i d) {
    vi_store_i8(p, a);
    vi_store_i8(p + 16, b);
    vi_store_i8(p + 32, c);
    vi_store_i8(p + 48, d);
}
MK_INLINE v16f reduce_max16(const v16f r[16]) {
    float m[16];
    for (int i = 0; i < 16; i++) {
        m[i] = vf_reduce_max(r[i]);
    }
    return vf_load(m);
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
