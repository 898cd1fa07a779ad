// AVX2, FMA, F16C: two registers hold the 16 lanes.  Included by simd.h only.
#include <immintrin.h>

// Without optimisation some intrinsics are macros, whose conversions count as ours.
#pragma GCC diagnostic ignored "-Wsign-conversion"

#define MK_INT_T  4  // integer sums of a group in registers, the float sums beside them do not fit
#define MK_FLT_T  4
#define MK_ATTN_Q 2
#define MK_PV_C   2
#define MK_BACK_R 1  // vectors and columns at once in gradients of linear layers
#define MK_BACK_N 6

typedef struct {
    __m256 a, b;
} v16f;
typedef struct {
    __m256i a, b;
} v16i;
typedef struct {
    __m256i a, b, abs_a, abs_b;
} v16w;
typedef v16i wt_lut;

MK_INLINE __m256i lanes_below8(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 0   ? 0
                                                      : n > 8 ? 8
                                                              : n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MK_INLINE v16f vf_zero(void) {
    return (v16f){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
MK_INLINE v16f vf_set1(float x) {
    return (v16f){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
MK_INLINE v16f vf_load(const float *p) {
    return (v16f){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
MK_INLINE void vf_store(float *p, v16f v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
MK_INLINE v16f vf_load_n(const float *p, int64_t n) {
    return (v16f){_mm256_maskload_ps(p, lanes_below8(n)),
                  n > 8 ? _mm256_maskload_ps(p + 8, lanes_below8(n - 8)) : _mm256_setzero_ps()};
}
MK_INLINE void vf_store_n(float *p, v16f v, int64_t n) {
    _mm256_maskstore_ps(p, lanes_below8(n), v.a);
    if (n > 8) {
        _mm256_maskstore_ps(p + 8, lanes_below8(n - 8), v.b);
    }
}
MK_INLINE v16f vf_add(v16f x, v16f y) {
    return (v16f){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
MK_INLINE v16f vf_sub(v16f x, v16f y) {
    return (v16f){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
MK_INLINE v16f vf_mul(v16f x, v16f y) {
    return (v16f){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
MK_INLINE v16f vf_div(v16f x, v16f y) {
    return (v16f){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
MK_INLINE v16f vf_sqrt(v16f x) {
    return (v16f){_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)};
}
MK_INLINE v16f vf_fma(v16f x, v16f y, v16f z) {
    return (v16f){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
// x > y ? x : y, so that a NaN in x is ignored.
MK_INLINE v16f vf_max(v16f x, v16f y) {
    return (v16f){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
MK_INLINE v16f vf_abs(v16f x) {
    const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    return (v16f){_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
MK_INLINE v16f vf_neg(v16f x) {
    const __m256 m = _mm256_set1_ps(-0.0f);
    return (v16f){_mm256_xor_ps(x.a, m), _mm256_xor_ps(x.b, m)};
}
MK_INLINE v16f vf_select_gt(v16f x, v16f y, v16f yes, v16f no) {
    return (v16f){_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
                  _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}
MK_INLINE v16f vf_select_nan(v16f x, v16f yes, v16f no) {
    return (v16f){_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
                  _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))};
}
// lane < n ? x : y
MK_INLINE v16f vf_select_below(int64_t n, v16f x, v16f y) {
    return (v16f){_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(lanes_below8(n))),
                  _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(lanes_below8(n - 8)))};
}
MK_INLINE __m256 scale_exponent8(__m256 p, __m256 t) {
    __m256i e = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), e));
}
// bits(p) + (bits(t) << 23)
MK_INLINE v16f vf_scale_exponent(v16f p, v16f t) {
    return (v16f){scale_exponent8(p.a, t.a), scale_exponent8(p.b, t.b)};
}
MK_INLINE float vf_reduce_add(v16f v) {
    __m256 a = _mm256_add_ps(v.a, v.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
MK_INLINE float vf_reduce_max(v16f v) {
    __m256 a = _mm256_max_ps(v.a, v.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

// --- small floats --------------------------------------------------------------------------------
MK_INLINE v16f vf_load_f16(const uint16_t *p) {
    return (v16f){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
MK_INLINE v16f vf_load_f16_n(const uint16_t *p, int64_t n) {
    uint16_t tmp[16] = {0};
    memcpy(tmp, p, (size_t)(n > 16 ? 16 : n) * sizeof *tmp);
    return vf_load_f16(tmp);
}
MK_INLINE void vf_store_f16(uint16_t *p, v16f v) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
// e4m3 * 2^-8: the bits moved into a binary16, whose conversion ignores denormals-are-zero.
MK_INLINE v16f vf_load_e4m3(const uint8_t *p) {
    __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    w = _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16((short)0xBF80));
    return (v16f){_mm256_cvtph_ps(_mm256_castsi256_si128(w)),
                  _mm256_cvtph_ps(_mm256_extracti128_si256(w, 1))};
}
// 16 pairs of bf16: the even (low) and the odd (high) elements.
MK_INLINE void vf_load_bf16_pairs(const uint16_t *p, v16f *even, v16f *odd) {
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000u);
    __m256i a = _mm256_loadu_si256((const __m256i *)p);
    __m256i b = _mm256_loadu_si256((const __m256i *)(p + 16));
    *even = (v16f){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                   _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
    *odd = (v16f){_mm256_castsi256_ps(_mm256_and_si256(a, high)),
                  _mm256_castsi256_ps(_mm256_and_si256(b, high))};
}
MK_INLINE __m256 round_bf16_8(__m256 v) {
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(nan));
    return _mm256_castsi256_ps(_mm256_and_si256(r, _mm256_set1_epi32((int)0xFFFF0000u)));
}
// Rounds to bf16 (nearest even; NaN stays NaN) and widens again.
MK_INLINE v16f vf_round_bf16(v16f v) {
    return (v16f){round_bf16_8(v.a), round_bf16_8(v.b)};
}

// Rounds to bf16 and puts in pairs, the inverse of vf_load_bf16_pairs.
MK_INLINE void vf_store_bf16_pairs(uint16_t *p, v16f even, v16f odd) {
    MK_UNROLL for (int i = 0; i < 2; i++) {
        __m256 e = round_bf16_8(i == 0 ? even.a : even.b);
        __m256i o = _mm256_castps_si256(round_bf16_8(i == 0 ? odd.a : odd.b));
        __m256i w = _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(e), 16), o);
        _mm256_storeu_si256((__m256i *)(p + 16 * i), w);
    }
}

// --- integers ------------------------------------------------------------------------------------
MK_INLINE v16f vf_from_int(v16i v) {
    return (v16f){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}
MK_INLINE v16f vf_load_i8(const uint8_t *p) {
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    return (v16f){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
                  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))};
}
MK_INLINE v16i vi_round(v16f v) {  // nearest even; |v| < 2^22
    return (v16i){_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)};
}
MK_INLINE v16i vi_add(v16i x, v16i y) {
    return (v16i){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
MK_INLINE int32_t vi_reduce_add(v16i v) {
    __m256i a = _mm256_add_epi32(v.a, v.b);
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4E));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0xB1));
    return _mm_cvtsi128_si32(b);
}
MK_INLINE void vi_store_i8(int8_t *p, v16i v) {
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xD8);
    __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)p, b);
}

// maddubs saturates at 16 bits.  Signed weights go in as |w| (at most 128) times x with the sign of
// w: 2*128*127 fits, and is widened to 32 bits in every step.  Codes of 4, 5, 6 bits stay unsigned:
// 8, 4, 2 steps of 2*15*127, 2*31*127, 2*63*127 fit 16 bits, so a run is summed there and widened
// once at its end.
#define DOT_RUN(code) ((code) == WT_U5 ? 4 : (code) == WT_U6 ? 2 : 8)
MK_INLINE bool dot_narrow(wt_code code) {
    return code == WT_U4 || code == WT_U5 || code == WT_U6;
}
MK_INLINE v16i dot_init(wt_code code, const int log2_offset, int32_t minus_128_sum) {
    __m256i s = dot_narrow(code) && log2_offset >= 0
                    ? _mm256_srai_epi32(_mm256_set1_epi32(minus_128_sum), 7 - log2_offset)
                    : _mm256_setzero_si256();
    return (v16i){s, s};
}
MK_INLINE v16i dot_begin(wt_code code, v16i sum) {
    return dot_narrow(code) ? (v16i){_mm256_setzero_si256(), _mm256_setzero_si256()} : sum;
}
MK_INLINE v16i dot_end(wt_code code, v16i sum, v16i part) {
    if (!dot_narrow(code)) {
        return part;
    }
    const __m256i one = _mm256_set1_epi16(1);
    return (v16i){_mm256_add_epi32(sum.a, _mm256_madd_epi16(part.a, one)),
                  _mm256_add_epi32(sum.b, _mm256_madd_epi16(part.b, one))};
}
MK_INLINE v16w wt_signed(__m256i a, __m256i b) {
    return (v16w){a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)};
}
MK_INLINE v16w wt_load_i8(const uint8_t *p) {
    const __m256i offset = _mm256_set1_epi8((char)0x80);
    return wt_signed(_mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), offset),
                     _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(p + 32)), offset));
}
// 16 rows x 8 columns of 4-bit codes.
MK_INLINE void wt_load_low(wt_code code, const int up, const uint8_t *p, wt_lut table, v16w *lo,
                           v16w *hi) {
    (void)up;
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i a = _mm256_loadu_si256((const __m256i *)p);
    __m256i b = _mm256_loadu_si256((const __m256i *)(p + 32));
    __m256i la = _mm256_and_si256(a, nibble), lb = _mm256_and_si256(b, nibble);
    __m256i ha = _mm256_and_si256(_mm256_srli_epi16(a, 4), nibble);
    __m256i hb = _mm256_and_si256(_mm256_srli_epi16(b, 4), nibble);
    if (code == WT_I4T) {
        *lo = wt_signed(_mm256_shuffle_epi8(table.a, la), _mm256_shuffle_epi8(table.a, lb));
        *hi = wt_signed(_mm256_shuffle_epi8(table.a, ha), _mm256_shuffle_epi8(table.a, hb));
    } else {
        *lo = (v16w){la, lb, la, lb};
        *hi = (v16w){ha, hb, ha, hb};
    }
}
MK_INLINE __m256i wt_add_high8(wt_code code, __m256i w, const uint8_t *plane, const int s) {
    const int left = code == WT_U5 ? 4 - s : 4 - 2 * s;
    __m256i h = _mm256_loadu_si256((const __m256i *)plane);
    h = left >= 0 ? _mm256_slli_epi16(h, left) : _mm256_srli_epi16(h, -left);
    return _mm256_or_si256(w, _mm256_and_si256(h, _mm256_set1_epi8(code == WT_U5 ? 0x10 : 0x30)));
}
// Adds the upper bits of a plane of 64 bytes: those of step s lie at bit s (U5) or 2 s (U6).
MK_INLINE v16w wt_add_high(wt_code code, const int up, v16w w, const uint8_t *plane, const int s) {
    (void)up;
    __m256i a = wt_add_high8(code, w.a, plane, s), b = wt_add_high8(code, w.b, plane + 32, s);
    return (v16w){a, b, a, b};
}
MK_INLINE wt_lut wt_table(const int8_t table[16]) {
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (v16i){t, t};
}
MK_INLINE __m256i dot_step8(wt_code code, __m256i part, __m256i w, __m256i abs_w, __m256i x) {
    if (dot_narrow(code)) {
        part = _mm256_add_epi16(part, _mm256_maddubs_epi16(w, x));
    } else {
        __m256i p = _mm256_maddubs_epi16(abs_w, _mm256_sign_epi8(x, w));
        part = _mm256_add_epi32(part, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
    }
    // Not a step more than this sum: gcc makes a tree of the additions of a group, for which all
    // products wait in memory.
    __asm__("" : "+x"(part));
    return part;
}
MK_INLINE v16i dot_step(wt_code code, v16i part, v16w w, const int8_t *x) {
    int32_t x4;
    memcpy(&x4, x, 4);
    __m256i v = _mm256_set1_epi32(x4);
    return (v16i){dot_step8(code, part.a, w.a, w.abs_a, v),
                  dot_step8(code, part.b, w.b, w.abs_b, v)};
}
