// Optimisers: sums of squares, AdamW with float32 and with 8-bit moments (formulas in optim.h).
//
// AdamW with float32 moments moves 28 bytes a parameter and is bound by memory: division and root
// hide behind it.  8-bit moments move 14 and are bound by the scalar part of coding and decoding,
// two loads from tables each.
#include "ops/cpu/cpu.h"
#include "ops/optim.h"

float MK_FN(sum_squares)(const float *x, int64_t n) {
    v16f s = vf_zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16f v = vf_load(x + i);
        s = vf_fma(v, v, s);
    }
    if (i < n) {
        v16f v = vf_load_n(x + i, n - i);
        s = vf_fma(v, v, s);
    }
    return vf_reduce_add(s);
}

// The constants of a call, in lanes.
typedef struct {
    v16f g_scale, beta1, beta2, not_beta1, not_beta2, v_scale, eps, keep, minus_step;
} lanes;

static lanes lanes_of(const mk_adamw *a, const mk_adamw_tensor *t) {
    return (lanes){vf_set1(a->g_scale),   vf_set1(a->beta1),     vf_set1(a->beta2),
                   vf_set1(a->not_beta1), vf_set1(a->not_beta2), vf_set1(a->v_scale),
                   vf_set1(a->eps),       vf_set1(t->keep),      vf_set1(-t->step)};
}

// New parameters; m and v become the new moments.
MK_INLINE v16f update(const lanes *c, v16f p, v16f g, v16f *m, v16f *v) {
    g = vf_mul(g, c->g_scale);
    *m = vf_fma(c->beta1, *m, vf_mul(c->not_beta1, g));
    *v = vf_fma(c->beta2, *v, vf_mul(vf_mul(c->not_beta2, g), g));
    v16f denominator = vf_fma(vf_sqrt(*v), c->v_scale, c->eps);
    return vf_fma(c->minus_step, vf_div(*m, denominator), vf_mul(p, c->keep));
}

static void adamw_f32(const mk_adamw *a, const mk_adamw_tensor *t, int64_t lo, int64_t hi) {
    const lanes c = lanes_of(a, t);
    int64_t i = lo;
    for (; i + 16 <= hi; i += 16) {
        v16f m = vf_load(t->m + i), v = vf_load(t->v + i);
        vf_store(t->p + i, update(&c, vf_load(t->p + i), vf_load(t->g + i), &m, &v));
        vf_store(t->m + i, m);
        vf_store(t->v + i, v);
        if (a->zero_g) {
            vf_store(t->g + i, vf_zero());
        }
    }
    if (i < hi) {
        int64_t n = hi - i;
        v16f m = vf_load_n(t->m + i, n), v = vf_load_n(t->v + i, n);
        v16f p = update(&c, vf_load_n(t->p + i, n), vf_load_n(t->g + i, n), &m, &v);
        vf_store_n(t->p + i, p, n);
        vf_store_n(t->m + i, m, n);
        vf_store_n(t->v + i, v, n);
        if (a->zero_g) {
            vf_store_n(t->g + i, vf_zero(), n);
        }
    }
}

// --- 8-bit moments -------------------------------------------------------------------------------
// Not yet times the block's max.  MK_KEEP: gcc makes a vector of 16 loads out of this, which is
// three times slower.
static void decode(const mk_code8 *c, const uint8_t *code, int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t k = code[i];
        MK_KEEP(k);
        x[i] = c->value[k];
    }
}

#define LEAST 0x1p-24f  // the first cell, far below the first border

// Index of the value >= 0 that is nearest to x, LEAST <= x <= 1.
MK_INLINE int nearest(const mk_code8 *c, float x) {
    const uint32_t first = (uint32_t)(127 - 24) << MK_CODE8_BITS, bits = mk_f32_bits(x);
    int i = c->cell[(bits >> (23 - MK_CODE8_BITS)) - first];
    return i + (bits > mk_f32_bits(c->border[i]));  // floats >= 0 are ordered as their bits
}

MK_INLINE v16f vf_min(v16f x, v16f y) {
    return vf_select_gt(x, y, y, x);
}

// n is rounded up to 16: x has room.
static void encode_signed(const mk_code8 *c, const float *x, float inv, int64_t n, uint8_t *code) {
    float y[MK_CODE8_BLOCK];
    const v16f one = vf_set1(1.0f), below_one = vf_set1(-c->value[0]);  // there is no code of -1
    for (int64_t i = 0; i < n; i += 16) {
        v16f xi = vf_load(x + i), v = vf_max(vf_mul(vf_abs(xi), vf_set1(inv)), vf_set1(LEAST));
        vf_store(y + i, vf_min(v, vf_select_gt(vf_zero(), xi, below_one, one)));
    }
    for (int64_t i = 0; i < n; i++) {
        int minus = -(int)(mk_f32_bits(x[i]) >> 31), k = nearest(c, y[i]);
        code[i] = (uint8_t)(c->zero + ((k ^ minus) - minus));
    }
}

static void encode_unsigned(const mk_code8 *c, const float *x, float inv, int64_t n,
                            uint8_t *code) {
    float y[MK_CODE8_BLOCK];
    const v16f least = vf_set1(LEAST), first = vf_set1(c->value[1]);
    for (int64_t i = 0; i < n; i += 16) {
        v16f xi = vf_load(x + i), low = vf_select_gt(xi, vf_zero(), first, least);
        v16f v = vf_max(vf_mul(xi, vf_set1(inv)), low);
        vf_store(y + i, vf_min(v, vf_set1(1.0f)));
    }
    for (int64_t i = 0; i < n; i++) {
        code[i] = (uint8_t)nearest(c, y[i]);
    }
}

static void adamw_block(const mk_adamw *a, const mk_adamw_tensor *t, const lanes *c, int64_t lo,
                        int64_t n) {
    float m[MK_CODE8_BLOCK] = {0}, v[MK_CODE8_BLOCK] = {0};
    int64_t block = lo / MK_CODE8_BLOCK;
    decode(a->m_code, t->m8 + lo, n, m);
    decode(a->v_code, t->v8 + lo, n, v);
    const v16f m_unit = vf_set1(t->m_max[block]), v_unit = vf_set1(t->v_max[block]);
    v16f m_max = vf_zero(), v_max = vf_zero();
    for (int64_t i = 0; i < n; i += 16) {
        int64_t k = n - i < 16 ? n - i : 16;
        v16f mi = vf_mul(vf_load(m + i), m_unit), vi = vf_mul(vf_load(v + i), v_unit);
        v16f p = update(c, vf_load_n(t->p + lo + i, k), vf_load_n(t->g + lo + i, k), &mi, &vi);
        vf_store_n(t->p + lo + i, p, k);
        vf_store(m + i, mi);
        vf_store(v + i, vi);
        m_max = vf_max(vf_abs(mi), m_max);
        v_max = vf_max(vi, v_max);
        if (a->zero_g) {
            vf_store_n(t->g + lo + i, vf_zero(), k);
        }
    }
    float mm = vf_reduce_max(m_max), vm = vf_reduce_max(v_max);
    t->m_max[block] = mm;
    t->v_max[block] = vm;
    encode_signed(a->m_code, m, mm > 0 ? 1.0f / mm : 0, n, t->m8 + lo);
    encode_unsigned(a->v_code, v, vm > 0 ? 1.0f / vm : 0, n, t->v8 + lo);
}

void MK_FN(adamw)(const mk_adamw *a, const mk_adamw_tensor *t, int64_t lo, int64_t hi) {
    if (t->m != NULL) {
        adamw_f32(a, t, lo, hi);
        return;
    }
    const lanes c = lanes_of(a, t);
    for (int64_t i = lo; i < hi; i += MK_CODE8_BLOCK) {
        adamw_block(a, t, &c, i, hi - i < MK_CODE8_BLOCK ? hi - i : MK_CODE8_BLOCK);
    }
}
