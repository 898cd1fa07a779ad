// AVX-512 F, BW, DQ, VL, VNNI: one register holds the 16 lanes.  Included by simd.h only.
#include <immintrin.h>

// Without optimisation some intrinsics are macros, whose conversions count as ours.
#pragma GCC diagnostic ignored "-Wsign-conversion"

// What fits 32 registers.
#define MK_INT_T  8  // tokens at once
#define MK_FLT_T  8
#define MK_ATTN_Q 8  // queries that share the keys of an attention block
#define MK_PV_C   4  // vectors of 16 columns at once in the sum over values
#define MK_BACK_R 2  // vectors and columns at once in gradients of linear layers
#define MK_BACK_N 12

typedef __m512 v16f;
typedef __m512i v16i;
typedef __m512i v16w;
typedef __m512i wt_lut;

MK_INLINE __mmask16 lanes_below(int64_t n) {
    uint32_t bits = n >= 16 ? 0xFFFFu : (1u << n) - 1u;
    return (__mmask16)bits;
}
MK_INLINE v16f vf_zero(void) {
    return _mm512_setzero_ps();
}
MK_INLINE v16f vf_set1(float x) {
    return _mm512_set1_ps(x);
}
MK_INLINE v16f vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
MK_INLINE void vf_store(float *p, v16f v) {
    _mm512_storeu_ps(p, v);
}
MK_INLINE v16f vf_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(lanes_below(n), p);
}
MK_INLINE void vf_store_n(float *p, v16f v, int64_t n) {
    _mm512_mask_storeu_ps(p, lanes_below(n), v);
}
MK_INLINE v16f vf_add(v16f a, v16f b) {
    return _mm512_add_ps(a, b);
}
MK_INLINE v16f vf_sub(v16f a, v16f b) {
    return _mm512_sub_ps(a, b);
}
MK_INLINE v16f vf_mul(v16f a, v16f b) {
    return _mm512_mul_ps(a, b);
}
MK_INLINE v16f vf_div(v16f a, v16f b) {
    return _mm512_div_ps(a, b);
}
MK_INLINE v16f vf_sqrt(v16f a) {
    return _mm512_sqrt_ps(a);
}
MK_INLINE v16f vf_fma(v16f a, v16f b, v16f c) {
    return _mm512_fmadd_ps(a, b, c);
}
// a > b ? a : b, so that a NaN in a is ignored.
MK_INLINE v16f vf_max(v16f a, v16f b) {
    return _mm512_max_ps(a, b);
}
MK_INLINE v16f vf_abs(v16f a) {
    return _mm512_abs_ps(a);
}
MK_INLINE v16f vf_neg(v16f a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
MK_INLINE v16f vf_select_gt(v16f a, v16f b, v16f yes, v16f no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}
MK_INLINE v16f vf_select_nan(v16f a, v16f yes, v16f no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), no, yes);
}
// lane < n ? a : b
MK_INLINE v16f vf_select_below(int64_t n, v16f a, v16f b) {
    return _mm512_mask_blend_ps(lanes_below(n < 0 ? 0 : n), b, a);
}
// bits(p) + (bits(t) << 23)
MK_INLINE v16f vf_scale_exponent(v16f p, v16f t) {
    __m512i e = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), e));
}
MK_INLINE float vf_reduce_add(v16f v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
MK_INLINE float vf_reduce_max(v16f v) {
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

// r[i] lane j <-> r[j] lane i, in two rounds within 128 bits and two across them.
#define MK_HAS_TRANSPOSE
MK_INLINE void vf_transpose(v16f r[16]) {
    __m512 a[16];
    MK_UNROLL for (int i = 0; i < 16; i += 4) {
        __m512d x = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
        __m512d y = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
        __m512d z = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
        __m512d w = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(z, w));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(z, w));
    }
    MK_UNROLL for (int i = 0; i < 4;
                   i++) {  // a[4 k + i] holds columns i, i+4, i+8, i+12 of rows 4k..4k+3
        __m512 x = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
               y = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
        __m512 z = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD),
               w = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xDD);
        r[i] = _mm512_shuffle_f32x4(x, y, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(x, y, 0xDD);
        r[i + 4] = _mm512_shuffle_f32x4(z, w, 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(z, w, 0xDD);
    }
}

// --- small floats --------------------------------------------------------------------------------
MK_INLINE v16f vf_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
MK_INLINE v16f vf_load_f16_n(const uint16_t *p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(n), p));
}
MK_INLINE void vf_store_f16(uint16_t *p, v16f v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
// e4m3 * 2^-8: the bits moved into a binary16, whose conversion ignores denormals-are-zero.
MK_INLINE v16f vf_load_e4m3(const uint8_t *p) {
    __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    w = _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16((short)0xBF80));
    return _mm512_cvtph_ps(w);
}
// 16 pairs of bf16: the even (low) and the odd (high) elements.
MK_INLINE void vf_load_bf16_pairs(const uint16_t *p, v16f *even, v16f *odd) {
    __m512i w = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xFFFF0000u)));
}
// Rounds to bf16 (nearest even; NaN stays NaN) and widens again.
MK_INLINE v16f vf_round_bf16(v16f v) {
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_ps(_mm512_and_si512(r, _mm512_set1_epi32((int)0xFFFF0000u)));
}

// Rounds to bf16 and puts in pairs, the inverse of vf_load_bf16_pairs.
MK_INLINE void vf_store_bf16_pairs(uint16_t *p, v16f even, v16f odd) {
    __m512i low = _mm512_srli_epi32(_mm512_castps_si512(vf_round_bf16(even)), 16);
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_castps_si512(vf_round_bf16(odd))));
}

// --- integers ------------------------------------------------------------------------------------
MK_INLINE v16f vf_from_int(v16i v) {
    return _mm512_cvtepi32_ps(v);
}
MK_INLINE v16f vf_load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
MK_INLINE v16i vi_round(v16f v) {  // nearest even; |v| < 2^22
    return _mm512_cvtps_epi32(v);
}
MK_INLINE v16i vi_add(v16i a, v16i b) {
    return _mm512_add_epi32(a, b);
}
MK_INLINE int32_t vi_reduce_add(v16i v) {
    return _mm512_reduce_add_epi32(v);
}
// The sums of the lanes of four vectors, which meet in pairs.
#define MK_HAS_REDUCE4
MK_INLINE void vi_reduce_add4(const v16i v[4], int32_t sum[4]) {
    __m512i a =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    a = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i c = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti32x8_epi32(a, 1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    _mm_storeu_si128((__m128i *)sum, s);
}
MK_INLINE void vi_store_i8(int8_t *p, v16i v) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v));
}

// The dot step is unsigned x signed here, so the sum starts at -offset * sum(x).
#define DOT_RUN(code) 8
// Codes with an offset lie so far up in their bytes that it becomes 128: one start for all.
#define WT_UP(code, log2_offset)                                                                   \
    ((code) == WT_I8 || (code) == WT_I4T || (log2_offset) < 0 ? 0 : 7 - (log2_offset))
MK_INLINE v16i dot_init(wt_code code, const int log2_offset, int32_t minus_128_sum) {
    bool offset = code == WT_I8 || code == WT_I4T || log2_offset >= 0;
    return offset ? _mm512_set1_epi32(minus_128_sum) : _mm512_setzero_si512();
}
MK_INLINE v16i dot_begin(wt_code code, v16i sum) {
    (void)code;
    return sum;
}
MK_INLINE v16i dot_end(wt_code code, v16i sum, v16i part) {
    (void)code;
    (void)sum;
    return part;
}
MK_INLINE v16w wt_load_i8(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
// Bits up by n (down if negative); what crosses into the next byte is masked off afterwards.
MK_INLINE __m512i wt_shift(__m512i w, const int n) {
    return n == 0  ? w
           : n > 0 ? _mm512_slli_epi16(w, (unsigned)n)
                   : _mm512_srli_epi16(w, (unsigned)-n);
}
// 16 rows x 8 columns of 4-bit codes; the table holds value + 128.
MK_INLINE void wt_load_low(wt_code code, const int up, const uint8_t *p, wt_lut table, v16w *lo,
                           v16w *hi) {
    const __m512i nibble = _mm512_set1_epi8((char)(15 << up));
    __m512i w = _mm512_loadu_si512(p);
    *lo = _mm512_and_si512(wt_shift(w, up), nibble);
    *hi = _mm512_and_si512(wt_shift(w, up - 4), nibble);
    if (code == WT_I4T) {
        *lo = _mm512_shuffle_epi8(table, *lo);
        *hi = _mm512_shuffle_epi8(table, *hi);
    }
}
// Adds the upper bits of a plane of 64 bytes: those of step s lie at bit s (U5) or 2 s (U6).
MK_INLINE v16w wt_add_high(wt_code code, const int up, v16w w, const uint8_t *plane, const int s) {
    const int left = up + (code == WT_U5 ? 4 - s : 4 - 2 * s);
    const __m512i mask = _mm512_set1_epi8((char)((code == WT_U5 ? 0x10 : 0x30) << up));
    __m512i h = wt_shift(_mm512_loadu_si512(plane), left);
    return _mm512_ternarylogic_epi32(w, h, mask, 0xF8);  // w | (h & mask)
}
MK_INLINE wt_lut wt_table(const int8_t table[16]) {
    __m128i t = _mm_xor_si128(_mm_loadu_si128((const __m128i *)table), _mm_set1_epi8((char)0x80));
    return _mm512_broadcast_i32x4(t);
}
// As text, because gcc 12 has no pattern for the broadcast operand and makes two instructions: 6-9
// % slower, more when a neighbour shares the core.
MK_INLINE v16i dot_step(wt_code code, v16i part, v16w w, const int8_t *x) {
    (void)code;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(part) : "v"(w), "m"(*(const int8_t(*)[4])x));
    return part;
}
