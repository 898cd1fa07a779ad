// The K quants: 256 values per block, groups of 16 or 32 with small integer scales under one (or
// two) f16 super-scales.
//
// A group's scale is d * sc, an f16 (11 significant bits) times at most 7 bits, and |q| < 64 or
// less: scale * q has at most 24 significant bits, so it is exact in float32.  The same holds for
// the shifts, -dmin * m.
//
// Source of the layouts: block structs of ggml-common.h and the dequantisation formulas of
// ggml-quants.c (llama.cpp).
#include "format/dtype_int.h"

enum { STRIP = 32, STRIPS = 8, GROUPS_16 = 16 };

// All elements are addressed as 8 strips of 32; the loops over a strip have constant shifts, so
// compilers vectorise them.

// Strip k of 2-bit fields laid out as 2 halves x 4 fields x 32 bytes.
static void two_bits(const uint8_t *qs, int k, int8_t *q) {
    const uint8_t *p = qs + k / 4 * STRIP;
    int shift = 2 * (k & 3);
    for (int l = 0; l < STRIP; l++) {
        q[l] = (int8_t)(p[l] >> shift & 3);
    }
}

// Strip k of 4-bit fields: 32 bytes serve two strips, low nibbles first.
static void four_bits(const uint8_t *qs, int k, int8_t *q) {
    const uint8_t *p = qs + k / 2 * STRIP;
    int shift = 4 * (k & 1);
    for (int l = 0; l < STRIP; l++) {
        q[l] = (int8_t)(p[l] >> shift & 15);
    }
}

// scales[16] (low nibble scale, high nibble minimum), qs[64], d, dmin
void mk_block_q2_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    float d = mk_load_f16(src + 80), dmin = mk_load_f16(src + 82);
    for (int g = 0; g < GROUPS_16; g++) {
        scale[g] = d * (float)(src[g] & 15);
        shift[g] = -(dmin * (float)(src[g] >> 4));
    }
    for (int k = 0; k < STRIPS; k++) {
        two_bits(src + 16, k, q + k * STRIP);
    }
}

// Scale g of Q3_K: 4 low bits from bytes 0-7 (low nibbles first), 2 high bits from bytes 8-11,
// minus 32.
static int q3_scale(const uint8_t *s, int g) {
    int low = s[g & 7] >> 4 * (g >> 3) & 15;
    int high = s[8 + (g & 3)] >> 2 * (g >> 2) & 3;
    return (low | high << 4) - 32;
}

// hmask[32], qs[64], scales[12], d.  Bit k of hmask[l] belongs to element l of strip k; set means
// "do not subtract 4".
void mk_block_q3_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *hmask = src, *qs = src + 32, *scales = src + 96;
    float d = mk_load_f16(src + 108);
    for (int g = 0; g < GROUPS_16; g++) {
        scale[g] = d * (float)q3_scale(scales, g);
    }
    for (int k = 0; k < STRIPS; k++, q += STRIP) {
        two_bits(qs, k, q);
        for (int l = 0; l < STRIP; l++) {
            q[l] = (int8_t)(q[l] - 4 + 4 * (hmask[l] >> k & 1));
        }
    }
}

// Scales and minima of Q4_K and Q5_K, 6 bits each in 12 bytes: strips 0-3 in the low six bits of
// bytes 0-3 (scale) and 4-7 (minimum); strips 4-7 have their low four bits in bytes 8-11 and their
// high two bits on top of bytes 0-7.
static void k_scales(const uint8_t *src, float *scale, float *shift) {
    float d = mk_load_f16(src), dmin = mk_load_f16(src + 2);
    const uint8_t *s = src + 4;
    for (int k = 0; k < STRIPS; k++) {
        int sc, m;
        if (k < 4) {
            sc = s[k] & 63;
            m = s[k + 4] & 63;
        } else {
            sc = (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
            m = s[k + 4] >> 4 | (s[k] >> 6) << 4;
        }
        scale[k] = d * (float)sc;
        shift[k] = -(dmin * (float)m);
    }
}

// d, dmin, scales[12], qs[128]
void mk_block_q4_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    k_scales(src, scale, shift);
    for (int k = 0; k < STRIPS; k++) {
        four_bits(src + 16, k, q + k * STRIP);
    }
}

// d, dmin, scales[12], qh[32], qs[128]; bit k of qh[l] is the fifth bit of element l of strip k.
void mk_block_q5_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    const uint8_t *qh = src + 16, *qs = src + 48;
    k_scales(src, scale, shift);
    for (int k = 0; k < STRIPS; k++, q += STRIP) {
        four_bits(qs, k, q);
        for (int l = 0; l < STRIP; l++) {
            q[l] = (int8_t)(q[l] + 16 * (qh[l] >> k & 1));
        }
    }
}

// ql[128], qh[64], scales[16] (signed), d.  Per half: four strips; strips 0 and 1 are the low
// nibbles of the half's 64 bytes of ql, strips 2 and 3 the high ones; the fields of qh hold the two
// high bits.
void mk_block_q6_k(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *ql = src, *qh = src + 128, *scales = src + 192;
    float d = mk_load_f16(src + 208);
    for (int g = 0; g < GROUPS_16; g++) {
        scale[g] = d * (float)(int8_t)scales[g];
    }
    for (int k = 0; k < STRIPS; k++, q += STRIP) {
        const uint8_t *low = ql + k / 4 * 64 + (k & 1) * STRIP;
        int nibble = 4 * (k >> 1 & 1);
        two_bits(qh, k, q);
        for (int l = 0; l < STRIP; l++) {
            q[l] = (int8_t)((q[l] << 4 | (low[l] >> nibble & 15)) - 32);
        }
    }
}
