// The K quants: 256 values per block, groups of 16 or 32 with small integer scales under one (or two) f16 super-scales.
//
// A group's scale is d * sc, an f16 (11 significant bits) times at most 7 bits, and |q| < 64 or less: scale * q has at most
// 24 significant bits, so it is exact in float32.  The same holds for the shifts, -dmin * m.
//
// Source of the layouts: block structs of ggml-common.h and the dequantisation formulas of ggml-quants.c (llama.cpp).
#include "format/dtype_int.h"

enum { BLOCK = 256, K_GROUPS = 8 };

// Element i of a block whose 2-bit fields are laid out as 2 halves x 4 fields x 32 bytes.
static int two_bits(const uint8_t *qs, int i) {
    return qs[(i >> 7) * 32 + (i & 31)] >> 2 * (i >> 5 & 3) & 3;
}

// scales[16] (low nibble scale, high nibble minimum), qs[64], d, dmin
void mk_block_q2_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    float d = mk_load_f16(src + 80), dmin = mk_load_f16(src + 82);
    for (int g = 0; g < 16; g++) {
        scale[g] = d * (float)(src[g] & 15);
        shift[g] = -(dmin * (float)(src[g] >> 4));
    }
    for (int i = 0; i < BLOCK; i++) {
        q[i] = (int8_t)two_bits(src + 16, i);
    }
}

// Scale g of Q3_K: 4 low bits from bytes 0-7 (low nibbles first), 2 high bits from bytes 8-11, minus 32.
static int q3_scale(const uint8_t *s, int g) {
    int low = s[g & 7] >> 4 * (g >> 3) & 15;
    int high = s[8 + (g & 3)] >> 2 * (g >> 2) & 3;
    return (low | high << 4) - 32;
}

// hmask[32], qs[64], scales[12], d.  A set bit in hmask means "do not subtract 4".
void mk_block_q3_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *hmask = src, *qs = src + 32, *scales = src + 96;
    float d = mk_load_f16(src + 108);
    for (int g = 0; g < 16; g++) {
        scale[g] = d * (float)q3_scale(scales, g);
    }
    for (int i = 0; i < BLOCK; i++) {
        int keep = hmask[i & 31] >> (i >> 5) & 1;
        q[i] = (int8_t)(two_bits(qs, i) - (keep ? 0 : 4));
    }
}

// Scales and minima of Q4_K and Q5_K, 6 bits each in 12 bytes: groups 0-3 in the low six bits of bytes 0-3 (scale) and 4-7
// (minimum); groups 4-7 have their low four bits in bytes 8-11 and their high two bits on top of bytes 0-7.
static void k_scales(const uint8_t *src, float *scale, float *shift) {
    float d = mk_load_f16(src), dmin = mk_load_f16(src + 2);
    const uint8_t *s = src + 4;
    for (int g = 0; g < K_GROUPS; g++) {
        int sc, m;
        if (g < 4) {
            sc = s[g] & 63;
            m = s[g + 4] & 63;
        } else {
            sc = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
            m = s[g + 4] >> 4 | (s[g] >> 6) << 4;
        }
        scale[g] = d * (float)sc;
        shift[g] = -(dmin * (float)m);
    }
}

// Group g of the 4-bit fields: 32 bytes serve two groups, low nibbles first.
static int four_bits(const uint8_t *qs, int i) {
    return qs[(i >> 6) * 32 + (i & 31)] >> 4 * (i >> 5 & 1) & 15;
}

// d, dmin, scales[12], qs[128]
void mk_block_q4_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    k_scales(src, scale, shift);
    for (int i = 0; i < BLOCK; i++) {
        q[i] = (int8_t)four_bits(src + 16, i);
    }
}

// d, dmin, scales[12], qh[32], qs[128]; bit g of qh[l] is the fifth bit of element l of group g.
void mk_block_q5_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    const uint8_t *qh = src + 16, *qs = src + 48;
    k_scales(src, scale, shift);
    for (int i = 0; i < BLOCK; i++) {
        int fifth = qh[i & 31] >> (i >> 5) & 1;
        q[i] = (int8_t)(four_bits(qs, i) | fifth << 4);
    }
}

// ql[128], qh[64], scales[16] (signed), d.  Per half: four strips of 32 values; strips 0 and 1 are the low nibbles of the
// 64 bytes of ql, strips 2 and 3 the high ones; field k of qh holds the two high bits of strip k.
void mk_block_q6_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *ql = src, *qh = src + 128, *scales = src + 192;
    float d = mk_load_f16(src + 208);
    for (int g = 0; g < 16; g++) {
        scale[g] = d * (float)(int8_t)scales[g];
    }
    for (int i = 0; i < BLOCK; i++) {
        int half = i >> 7, in_half = i & 127;
        int low = ql[half * 64 + (in_half & 63)] >> 4 * (in_half >> 6) & 15;
        q[i] = (int8_t)((low | two_bits(qh, i) << 4) - 32);
    }
}
