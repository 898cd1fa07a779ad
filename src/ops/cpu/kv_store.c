// Rows of keys and values into a block of the cache, in the layout of its type (ops/ops.h,
// ops/kv_q8.h).
#include "ops/cpu/attention.h"

// --- float32 and float16 -------------------------------------------------------------------------
// 16 or fewer floats as the cache stores them; the first n of tmp count.
static size_t to_cache(mk_kv_type type, const float *x, int64_t n, void *tmp) {
    v16f v = n >= 16 ? vf_load(x) : vf_load_n(x, n);
    if (type == MK_KV_F16) {
        vf_store_f16(tmp, v);
        return 2;
    }
    vf_store(tmp, v);
    return 4;
}

// n floats side by side.
static void put_row(mk_kv_type type, uint8_t *dst, const float *x, int64_t n) {
    float tmp[16];
    for (int64_t i = 0; i < n; i += 16) {
        int64_t m = n - i < 16 ? n - i : 16;
        size_t elem = to_cache(type, x + i, m, tmp);
        memcpy(dst + (size_t)i * elem, tmp, (size_t)m * elem);
    }
}

// n floats, each 16 elements behind the one before: one key among 16.
static void put_key(mk_kv_type type, uint8_t *dst, const float *x, int64_t n) {
    float tmp[16];
    for (int64_t i = 0; i < n; i += 16) {
        int64_t m = n - i < 16 ? n - i : 16;
        to_cache(type, x + i, m, tmp);
        for (int64_t j = 0; j < m && type == MK_KV_F16; j++) {
            memcpy(dst + (size_t)(i + j) * 32, (uint8_t *)tmp + 2 * (size_t)j, 2);
        }
        for (int64_t j = 0; j < m && type != MK_KV_F16; j++) {
            memcpy(dst + (size_t)(i + j) * 64, tmp + j, 4);
        }
    }
}

static void store_floats(const mk_attn *a, uint8_t *block, int64_t slot, const float *k,
                         const float *v) {
    size_t elem = a->type == MK_KV_F16 ? 2 : 4;
    if (a->latent) {
        put_row(a->type, block + (size_t)(slot * a->d_k) * elem, k, a->d_k);
        return;
    }
    uint8_t *vals = block + (size_t)(a->n_kv_head * MK_KV_BLOCK * a->d_k) * elem;
    for (int64_t h = 0; h < a->n_kv_head; h++) {
        int64_t key = h * MK_KV_BLOCK * a->d_k + slot / 16 * a->d_k * 16 + slot % 16;
        int64_t val = (h * MK_KV_BLOCK + slot) * a->d_v;
        put_key(a->type, block + (size_t)key * elem, k + h * a->d_k, a->d_k);
        put_row(a->type, vals + (size_t)val * elem, v + h * a->d_v, a->d_v);
    }
}

// --- int8 ----------------------------------------------------------------------------------------
// One key: groups of 32 columns, of which the latent's share a scale four by four.
static void put_key_q8(const mk_attn *a, const mk_q8_shape *s, uint8_t *head, int64_t slot,
                       const float *x) {
    uint8_t *codes = head + slot / 16 * s->n_group * 512 + slot % 16 * 4;
    float *scales = (float *)(head + s->k_scales) + slot / 16 * s->n_k_scale * 16 + slot % 16;
    for (int64_t g = 0; g < s->n_group;) {
        int64_t end = g + 1, at = mk_q8_scale_of(s, g);
        while (end < s->n_wide && mk_q8_scale_of(s, end) == at) {
            end++;
        }
        float amax = 0;
        for (int64_t i = g; i < end; i++) {
            int64_t n, first = mk_q8_group_at(a, s, i, &n);
            float m = group_amax(x + first, n);
            amax = m > amax ? m : amax;
        }
        for (; g < end; g++) {
            int8_t q[32];
            int32_t sum;
            int64_t n, first = mk_q8_group_at(a, s, g, &n);
            scales[16 * at] = quantise_group(x + first, n, amax, q, &sum);
            for (int i = 0; i < 8; i++) {
                uint8_t four[4];
                for (int j = 0; j < 4; j++) {
                    four[j] = (uint8_t)(q[4 * i + j] ^ -128);
                }
                memcpy(codes + (g * 8 + i) * 64, four, 4);
            }
        }
    }
}

// One value: a scale per 128 columns.
static void put_value_q8(const mk_attn *a, const mk_q8_shape *s, uint8_t *head, int64_t slot,
                         const float *x) {
    uint8_t *codes = head + s->v_codes + slot / 4 * 64 + slot % 4;
    float *scales = (float *)(head + s->v_scales) + slot / 16 * s->n_v_scale * 16 + slot % 16;
    for (int64_t v = 0; v < s->n_v_scale; v++) {
        int64_t lo = v * MK_Q8_VALUES, hi = lo + MK_Q8_VALUES < a->d_v ? lo + MK_Q8_VALUES : a->d_v;
        float amax = 0;
        for (int64_t c = lo; c < hi; c += 32) {
            float m = group_amax(x + c, hi - c);
            amax = m > amax ? m : amax;
        }
        for (int64_t c = lo; c < hi; c += 32) {
            int8_t q[32];
            int32_t sum;
            scales[16 * v] = quantise_group(x + c, hi - c, amax, q, &sum);
            for (int64_t i = 0; i < 32 && c + i < hi; i++) {
                codes[(c + i) / 16 * 1024 + (c + i) % 16 * 4] = (uint8_t)q[i];
            }
        }
    }
}

static void store_q8(const mk_attn *a, uint8_t *block, int64_t slot, const float *k,
                     const float *v) {
    mk_q8_shape s = mk_q8_shape_of(a);
    for (int64_t h = 0; h < a->n_kv_head; h++, block += s.head_bytes) {
        put_key_q8(a, &s, block, slot, k + h * a->d_k);
        if (!a->latent) {
            put_value_q8(a, &s, block, slot, v + h * a->d_v);
        }
    }
}

void MK_FN(kv_store)(const mk_attn *a, uint8_t *block, int64_t slot, const float *k,
                     const float *v) {
    if (a->type == MK_KV_Q8) {
        store_q8(a, block, slot, k, v);
    } else {
        store_floats(a, block, slot, k, v);
    }
}
