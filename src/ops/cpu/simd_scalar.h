// Plain C: a loop of 16.  This is the definition the other sets must equal.  Included by simd.h
// only.  Lane loops have no dependence between lanes, so the compiler may use whatever the baseline
// processor offers.

#define MK_INT_T  1
#define MK_FLT_T  1
#define MK_ATTN_Q 1
#define MK_PV_C   1
#define MK_BACK_R 1  // vectors and columns at once in gradients of linear layers
#define MK_BACK_N 2

typedef struct {
    float v[16];
} v16f;
typedef struct {
    int32_t v[16];
} v16i;
typedef struct {
    int8_t v[64];
} v16w;
typedef const int8_t *wt_lut;

#define LANES(i) for (int i = 0; i < 16; i++)

MK_INLINE v16f vf_set1(float x) {
    v16f r;
    LANES(i) {
        r.v[i] = x;
    }
    return r;
}
MK_INLINE v16f vf_zero(void) {
    return vf_set1(0.0f);
}
MK_INLINE v16f vf_load(const float *p) {
    v16f r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
MK_INLINE void vf_store(float *p, v16f v) {
    memcpy(p, v.v, sizeof v.v);
}
MK_INLINE v16f vf_load_n(const float *p, int64_t n) {
    v16f r = vf_zero();
    memcpy(r.v, p, (size_t)(n > 16 ? 16 : n) * sizeof *p);
    return r;
}
MK_INLINE void vf_store_n(float *p, v16f v, int64_t n) {
    memcpy(p, v.v, (size_t)(n > 16 ? 16 : n) * sizeof *p);
}
MK_INLINE v16f vf_add(v16f a, v16f b) {
    LANES(i) {
        a.v[i] += b.v[i];
    }
    return a;
}
MK_INLINE v16f vf_sub(v16f a, v16f b) {
    LANES(i) {
        a.v[i] -= b.v[i];
    }
    return a;
}
MK_INLINE v16f vf_mul(v16f a, v16f b) {
    LANES(i) {
        a.v[i] *= b.v[i];
    }
    return a;
}
MK_INLINE v16f vf_div(v16f a, v16f b) {
    LANES(i) {
        a.v[i] /= b.v[i];
    }
    return a;
}
MK_INLINE v16f vf_sqrt(v16f a) {
    LANES(i) {
        a.v[i] = sqrtf(a.v[i]);
    }
    return a;
}
MK_INLINE v16f vf_fma(v16f a, v16f b, v16f c) {
    LANES(i) {
        c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    }
    return c;
}
// a > b ? a : b, so that a NaN in a is ignored.
MK_INLINE v16f vf_max(v16f a, v16f b) {
    LANES(i) {
        a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    }
    return a;
}
MK_INLINE v16f vf_abs(v16f a) {
    LANES(i) {
        a.v[i] = mk_f32_from_bits(mk_f32_bits(a.v[i]) & 0x7FFFFFFFu);
    }
    return a;
}
MK_INLINE v16f vf_neg(v16f a) {
    LANES(i) {
        a.v[i] = mk_f32_from_bits(mk_f32_bits(a.v[i]) ^ 0x80000000u);
    }
    return a;
}
MK_INLINE v16f vf_select_gt(v16f a, v16f b, v16f yes, v16f no) {
    LANES(i) {
        no.v[i] = a.v[i] > b.v[i] ? yes.v[i] : no.v[i];
    }
    return no;
}
MK_INLINE v16f vf_select_nan(v16f a, v16f yes, v16f no) {
    LANES(i) {
        no.v[i] = a.v[i] != a.v[i] ? yes.v[i] : no.v[i];
    }
    return no;
}
// lane < n ? a : b
MK_INLINE v16f vf_select_below(int64_t n, v16f a, v16f b) {
    LANES(i) {
        b.v[i] = i < n ? a.v[i] : b.v[i];
    }
    return b;
}
// bits(p) + (bits(t) << 23)
MK_INLINE v16f vf_scale_exponent(v16f p, v16f t) {
    LANES(i) {
        p.v[i] = mk_f32_from_bits(mk_f32_bits(p.v[i]) + (mk_f32_bits(t.v[i]) << 23));
    }
    return p;
}
MK_INLINE float vf_reduce_add(v16f v) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            v.v[i] += v.v[i + half];
        }
    }
    return v.v[0];
}
MK_INLINE float vf_reduce_max(v16f v) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            v.v[i] = v.v[i] > v.v[i + half] ? v.v[i] : v.v[i + half];
        }
    }
    return v.v[0];
}

// --- small floats --------------------------------------------------------------------------------
MK_INLINE v16f vf_load_f16(const uint16_t *p) {
    v16f r;
    LANES(i) {
        r.v[i] = mk_f32_from_f16(p[i]);
    }
    return r;
}
MK_INLINE v16f vf_load_f16_n(const uint16_t *p, int64_t n) {
    v16f r = vf_zero();
    for (int i = 0; i < 16 && i < n; i++) {
        r.v[i] = mk_f32_from_f16(p[i]);
    }
    return r;
}
MK_INLINE void vf_store_f16(uint16_t *p, v16f v) {
    LANES(i) {
        p[i] = mk_f16_from_f32(v.v[i]);
    }
}
// e4m3 * 2^-8: the bits moved into a binary16.
MK_INLINE v16f vf_load_e4m3(const uint8_t *p) {
    v16f r;
    LANES(i) {
        r.v[i] = mk_f32_from_f16((uint16_t)((p[i] & 0x80) << 8 | (p[i] & 0x7F) << 7));
    }
    return r;
}
// 16 pairs of bf16: the even (low) and the odd (high) elements.
MK_INLINE void vf_load_bf16_pairs(const uint16_t *p, v16f *even, v16f *odd) {
    LANES(i) {
        even->v[i] = mk_f32_from_bf16(p[2 * i]);
        odd->v[i] = mk_f32_from_bf16(p[2 * i + 1]);
    }
}
// Rounds to bf16 (nearest even; NaN stays NaN) and widens again.
MK_INLINE v16f vf_round_bf16(v16f v) {
    LANES(i) {
        v.v[i] = mk_f32_from_bf16(mk_bf16_from_f32(v.v[i]));
    }
    return v;
}

// Rounds to bf16 and puts in pairs, the inverse of vf_load_bf16_pairs.
MK_INLINE void vf_store_bf16_pairs(uint16_t *p, v16f even, v16f odd) {
    LANES(i) {
        p[2 * i] = mk_bf16_from_f32(even.v[i]);
        p[2 * i + 1] = mk_bf16_from_f32(odd.v[i]);
    }
}

// --- integers ------------------------------------------------------------------------------------
MK_INLINE v16f vf_from_int(v16i v) {
    v16f r;
    LANES(i) {
        r.v[i] = (float)v.v[i];
    }
    return r;
}
MK_INLINE v16f vf_load_i8(const uint8_t *p) {
    v16f r;
    LANES(i) {
        r.v[i] = (float)(int8_t)p[i];
    }
    return r;
}
MK_INLINE v16i vi_round(v16f v) {  // nearest even; |v| < 2^22
    const float magic = 0x1.8p23f;
    v16i r;
    LANES(i) {
        r.v[i] = (int32_t)(v.v[i] + magic - magic);
    }
    return r;
}
MK_INLINE v16i vi_add(v16i a, v16i b) {
    LANES(i) {
        a.v[i] += b.v[i];
    }
    return a;
}
MK_INLINE int32_t vi_reduce_add(v16i v) {
    int32_t s = 0;
    LANES(i) {
        s += v.v[i];
    }
    return s;
}
MK_INLINE void vi_store_i8(int8_t *p, v16i v) {
    LANES(i) {
        p[i] = (int8_t)v.v[i];
    }
}

// Signed products; only codes with an offset start at -offset * sum(x).
#define DOT_RUN(code) 8
MK_INLINE v16i dot_init(wt_code code, const int log2_offset, int32_t minus_128_sum) {
    bool offset = code != WT_I8 && code != WT_I4T && log2_offset >= 0;
    v16i r;
    LANES(i) {
        r.v[i] = offset ? minus_128_sum / (128 >> (log2_offset & 7)) : 0;
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
    for (int i = 0; i < 64; i++) {
        w.v[i] = (int8_t)(p[i] ^ 0x80);
    }
    return w;
}
// 16 rows x 8 columns of 4-bit codes.
MK_INLINE void wt_load_low(wt_code code, const int up, const uint8_t *p, wt_lut table, v16w *lo,
                           v16w *hi) {
    (void)up;
    for (int i = 0; i < 64; i++) {
        int l = p[i] & 15, h = p[i] >> 4;
        lo->v[i] = code == WT_I4T ? table[l] : (int8_t)l;
        hi->v[i] = code == WT_I4T ? table[h] : (int8_t)h;
    }
}
// Adds the upper bits of a plane of 64 bytes: those of step s lie at bit s (U5) or 2 s (U6).
MK_INLINE v16w wt_add_high(wt_code code, const int up, v16w w, const uint8_t *plane, const int s) {
    (void)up;
    for (int i = 0; i < 64; i++) {
        int bits = code == WT_U5 ? plane[i] >> s & 1 : plane[i] >> (2 * s) & 3;
        w.v[i] = (int8_t)(w.v[i] | bits << 4);
    }
    return w;
}
MK_INLINE wt_lut wt_table(const int8_t table[16]) {
    return table;
}
MK_INLINE v16i dot_step(wt_code code, v16i part, v16w w, const int8_t *x) {
    (void)code;
    LANES(i) {
        for (int k = 0; k < 4; k++) {
            part.v[i] += w.v[4 * i + k] * x[k];
        }
    }
    return part;
}
