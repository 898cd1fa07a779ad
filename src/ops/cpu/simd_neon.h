// NEON of ARMv8.2 with the dot product: four registers hold the 16 lanes.  Included by simd.h only.
#include <arm_neon.h>

#define MK_INT_T  2
#define MK_FLT_T  4
#define MK_ATTN_Q 2
#define MK_PV_C   2
#define MK_BACK_R 1  // vectors and columns at once in gradients of linear layers
#define MK_BACK_N 4

typedef struct {
    float32x4_t v[4];
} v16f;
typedef struct {
    int32x4_t v[4];
} v16i;
typedef struct {
    int8x16_t v[4];
} v16w;
typedef int8x16_t wt_lut;

#define QUADS(i) MK_UNROLL for (int i = 0; i < 4; i++)

MK_INLINE v16f vf_set1(float x) {
    v16f r;
    QUADS(i) {
        r.v[i] = vdupq_n_f32(x);
    }
    return r;
}
MK_INLINE v16f vf_zero(void) {
    return vf_set1(0.0f);
}
MK_INLINE v16f vf_load(const float *p) {
    v16f r;
    QUADS(i) {
        r.v[i] = vld1q_f32(p + 4 * i);
    }
    return r;
}
MK_INLINE void vf_store(float *p, v16f v) {
    QUADS(i) {
        vst1q_f32(p + 4 * i, v.v[i]);
    }
}
MK_INLINE v16f vf_load_n(const float *p, int64_t n) {
    float tmp[16] = {0};
    memcpy(tmp, p, (size_t)(n > 16 ? 16 : n) * sizeof *p);
    return vf_load(tmp);
}
MK_INLINE void vf_store_n(float *p, v16f v, int64_t n) {
    float tmp[16];
    vf_store(tmp, v);
    memcpy(p, tmp, (size_t)(n > 16 ? 16 : n) * sizeof *p);
}
MK_INLINE v16f vf_add(v16f a, v16f b) {
    QUADS(i) {
        a.v[i] = vaddq_f32(a.v[i], b.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_sub(v16f a, v16f b) {
    QUADS(i) {
        a.v[i] = vsubq_f32(a.v[i], b.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_mul(v16f a, v16f b) {
    QUADS(i) {
        a.v[i] = vmulq_f32(a.v[i], b.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_div(v16f a, v16f b) {
    QUADS(i) {
        a.v[i] = vdivq_f32(a.v[i], b.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_sqrt(v16f a) {
    QUADS(i) {
        a.v[i] = vsqrtq_f32(a.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_fma(v16f a, v16f b, v16f c) {
    QUADS(i) {
        c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    }
    return c;
}
// a > b ? a : b, so that a NaN in a is ignored (vmaxq would return it).
MK_INLINE v16f vf_max(v16f a, v16f b) {
    QUADS(i) {
        a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_abs(v16f a) {
    QUADS(i) {
        a.v[i] = vabsq_f32(a.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_neg(v16f a) {
    QUADS(i) {
        a.v[i] = vnegq_f32(a.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_select_gt(v16f a, v16f b, v16f yes, v16f no) {
    QUADS(i) {
        no.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), yes.v[i], no.v[i]);
    }
    return no;
}
MK_INLINE v16f vf_select_nan(v16f a, v16f yes, v16f no) {
    QUADS(i) {
        no.v[i] = vbslq_f32(vceqq_f32(a.v[i], a.v[i]), no.v[i], yes.v[i]);
    }
    return no;
}
// lane < n ? a : b
MK_INLINE v16f vf_select_below(int64_t n, v16f a, v16f b) {
    const int32_t lane[4] = {0, 1, 2, 3};
    int32_t top = (int32_t)(n < 0 ? 0 : n > 16 ? 16 : n);
    QUADS(i) {
        uint32x4_t below = vcgtq_s32(vdupq_n_s32(top - 4 * i), vld1q_s32(lane));
        b.v[i] = vbslq_f32(below, a.v[i], b.v[i]);
    }
    return b;
}
// bits(p) + (bits(t) << 23)
MK_INLINE v16f vf_scale_exponent(v16f p, v16f t) {
    QUADS(i) {
        uint32x4_t e = vshlq_n_u32(vreinterpretq_u32_f32(t.v[i]), 23);
        p.v[i] = vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p.v[i]), e));
    }
    return p;
}
MK_INLINE float vf_reduce_add(v16f v) {
    float32x4_t q = vaddq_f32(vaddq_f32(v.v[0], v.v[2]), vaddq_f32(v.v[1], v.v[3]));
    float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
MK_INLINE float vf_reduce_max(v16f v) {
    float m[16];
    vf_store(m, v);
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            m[i] = m[i] > m[i + half] ? m[i] : m[i + half];
        }
    }
    return m[0];
}

// --- small floats --------------------------------------------------------------------------------
// The conversion between half and single is not touched by FPCR.FZ on the half side.
MK_INLINE v16f vf_load_f16(const uint16_t *p) {
    v16f r;
    QUADS(i) {
        r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    }
    return r;
}
MK_INLINE v16f vf_load_f16_n(const uint16_t *p, int64_t n) {
    uint16_t tmp[16] = {0};
    memcpy(tmp, p, (size_t)(n > 16 ? 16 : n) * sizeof *tmp);
    return vf_load_f16(tmp);
}
MK_INLINE void vf_store_f16(uint16_t *p, v16f v) {
    QUADS(i) {
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(v.v[i])));
    }
}
// e4m3 * 2^-8: the bits moved into a binary16.
MK_INLINE v16f vf_load_e4m3(const uint8_t *p) {
    uint8x16_t b = vld1q_u8(p);
    int16x8_t w[2] = {vmovl_s8(vreinterpret_s8_u8(vget_low_u8(b))),
                      vmovl_s8(vreinterpret_s8_u8(vget_high_u8(b)))};
    uint16_t tmp[16];
    for (int i = 0; i < 2; i++) {
        uint16x8_t u = vshlq_n_u16(vreinterpretq_u16_s16(w[i]), 7);
        vst1q_u16(tmp + 8 * i, vandq_u16(u, vdupq_n_u16(0xBF80)));
    }
    return vf_load_f16(tmp);
}
// 16 pairs of bf16: the even (low) and the odd (high) elements.
MK_INLINE void vf_load_bf16_pairs(const uint16_t *p, v16f *even, v16f *odd) {
    QUADS(i) {
        uint32x4_t w = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
        even->v[i] = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
        odd->v[i] = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xFFFF0000u)));
    }
}
// Rounds to bf16 (nearest even; NaN stays NaN) and widens again.
MK_INLINE v16f vf_round_bf16(v16f v) {
    QUADS(i) {
        uint32x4_t u = vreinterpretq_u32_f32(v.v[i]);
        uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
        uint32x4_t r = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7FFF)), odd);
        uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
        r = vbslq_u32(vceqq_f32(v.v[i], v.v[i]), r, quiet);
        v.v[i] = vreinterpretq_f32_u32(vandq_u32(r, vdupq_n_u32(0xFFFF0000u)));
    }
    return v;
}

// Rounds to bf16 and puts in pairs, the inverse of vf_load_bf16_pairs.
MK_INLINE void vf_store_bf16_pairs(uint16_t *p, v16f even, v16f odd) {
    even = vf_round_bf16(even);
    odd = vf_round_bf16(odd);
    QUADS(i) {
        uint32x4_t low = vshrq_n_u32(vreinterpretq_u32_f32(even.v[i]), 16);
        uint32x4_t w = vorrq_u32(low, vreinterpretq_u32_f32(odd.v[i]));
        vst1q_u16(p + 8 * i, vreinterpretq_u16_u32(w));
    }
}

// --- integers ------------------------------------------------------------------------------------
MK_INLINE v16f vf_from_int(v16i v) {
    v16f r;
    QUADS(i) {
        r.v[i] = vcvtq_f32_s32(v.v[i]);
    }
    return r;
}
MK_INLINE v16f vf_load_i8(const uint8_t *p) {
    v16f r;
    int8x16_t b = vld1q_s8((const int8_t *)p);
    int16x8_t w[2] = {vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b))};
    QUADS(i) {
        int16x4_t half = i % 2 == 0 ? vget_low_s16(w[i / 2]) : vget_high_s16(w[i / 2]);
        r.v[i] = vcvtq_f32_s32(vmovl_s16(half));
    }
    return r;
}
MK_INLINE v16i vi_round(v16f v) {  // nearest even; |v| < 2^22
    v16i r;
    QUADS(i) {
        r.v[i] = vcvtnq_s32_f32(v.v[i]);
    }
    return r;
}
MK_INLINE v16i vi_add(v16i a, v16i b) {
    QUADS(i) {
        a.v[i] = vaddq_s32(a.v[i], b.v[i]);
    }
    return a;
}
MK_INLINE int32_t vi_reduce_add(v16i v) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(v.v[0], v.v[1]), vaddq_s32(v.v[2], v.v[3])));
}
MK_INLINE void vi_store_i8(int8_t *p, v16i v) {
    int16x8_t a = vcombine_s16(vmovn_s32(v.v[0]), vmovn_s32(v.v[1]));
    int16x8_t b = vcombine_s16(vmovn_s32(v.v[2]), vmovn_s32(v.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
}

// sdot is signed x signed: only codes with an offset start at -offset * sum(x).
#define DOT_RUN(code) 8
MK_INLINE v16i dot_init(wt_code code, const int log2_offset, int32_t minus_128_sum) {
    bool offset = code != WT_I8 && code != WT_I4T && log2_offset >= 0;
    v16i r;
    QUADS(i) {
        r.v[i] = vdupq_n_s32(offset ? minus_128_sum / (128 >> (log2_offset & 7)) : 0);
    }
    return r;
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
    v16w w;
    QUADS(i) {
        w.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(0x80)));
    }
    return w;
}
// 16 rows x 8 columns of 4-bit codes.
MK_INLINE void wt_load_low(wt_code code, const int up, const uint8_t *p, wt_lut table, v16w *lo,
                           v16w *hi) {
    (void)up;
    QUADS(i) {
        uint8x16_t w = vld1q_u8(p + 16 * i);
        uint8x16_t l = vandq_u8(w, vdupq_n_u8(15)), h = vshrq_n_u8(w, 4);
        lo->v[i] = code == WT_I4T ? vqtbl1q_s8(table, l) : vreinterpretq_s8_u8(l);
        hi->v[i] = code == WT_I4T ? vqtbl1q_s8(table, h) : vreinterpretq_s8_u8(h);
    }
}
// Adds the upper bits of a plane of 64 bytes: those of step s lie at bit s (U5) or 2 s (U6).
MK_INLINE v16w wt_add_high(wt_code code, const int up, v16w w, const uint8_t *plane, const int s) {
    (void)up;
    const int8x16_t by = vdupq_n_s8((int8_t)(code == WT_U5 ? 4 - s : 4 - 2 * s));
    const uint8x16_t mask = vdupq_n_u8(code == WT_U5 ? 0x10 : 0x30);
    QUADS(i) {
        uint8x16_t h = vandq_u8(vshlq_u8(vld1q_u8(plane + 16 * i), by), mask);
        w.v[i] = vorrq_s8(w.v[i], vreinterpretq_s8_u8(h));
    }
    return w;
}
MK_INLINE wt_lut wt_table(const int8_t table[16]) {
    return vld1q_s8(table);
}
MK_INLINE v16i dot_step(wt_code code, v16i part, v16w w, const int8_t *x) {
    int32_t x4;
    (void)code;
    memcpy(&x4, x, 4);
    int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(x4));
    QUADS(i) {
        part.v[i] = vdotq_s32(part.v[i], w.v[i], v);
    }
    return part;
}
