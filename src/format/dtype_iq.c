// The IQ types: eight (or four) values at once come from a grid of allowed points, signs are kept
// apart.
//
// The signed grid values are the integers q.  Group scales are d * (2s+1) * a power of two, at most
// 16 significant bits; |q| <= 62, so scale * q is exact in float32.
//
// Source of the layouts: block structs of ggml-common.h and the dequantisation formulas of
// ggml-quants.c (llama.cpp).
#include "format/dtype_int.h"

// What the codes of the grids stand for; IQ1's grid holds -1, 0, 1 (code - 1).
static const int8_t value_iq2[4] = {8, 25, 43, 0};  // code 3 does not occur
static const int8_t value_iq3xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const int8_t value_iq3s[8] = {1, 3, 5, 7, 9, 11, 13, 15};

// Seven stored sign bits; the eighth makes the number of minus signs even.
static unsigned even_signs(unsigned seven) {
    return seven | (unsigned)(__builtin_popcount(seven) & 1) << 7;
}

static int8_t with_sign(int value, unsigned signs, int j) {
    return (int8_t)(signs >> j & 1 ? -value : value);
}

static void iq2_point(uint16_t point, unsigned signs, int8_t *q) {
    for (int j = 0; j < 8; j++) {
        q[j] = with_sign(value_iq2[point >> 2 * j & 3], signs, j);
    }
}

// d * (0.5 + s) / 4 of the IQ2 types
static float iq2_scale(float d, unsigned s) {
    return d * (0.125f * (float)(2 * s + 1));
}

// d, then per 32 values: four grid indices (8 bits), four times 7 sign bits and a 4-bit scale
void mk_block_iq2_xxs(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    float d = mk_load_f16(src);
    for (int g = 0; g < 8; g++) {
        const uint8_t *index = src + 2 + 8 * g;
        uint32_t tail = mk_load_u32(index + 4);
        scale[g] = iq2_scale(d, tail >> 28);
        for (int k = 0; k < 4; k++) {
            iq2_point(mk_grid_iq2xxs[index[k]], even_signs(tail >> 7 * k & 127),
                      q + 32 * g + 8 * k);
        }
    }
}

// d, u16 qs[32] (9-bit index, 7 sign bits), scales[8]: a nibble per 16 values
void mk_block_iq2_xs(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    float d = mk_load_f16(src);
    for (int g = 0; g < 16; g++) {
        scale[g] = iq2_scale(d, src[66 + g / 2] >> 4 * (g & 1) & 15);
    }
    for (int k = 0; k < 32; k++) {
        unsigned code = mk_load_u16(src + 2 + 2 * k);
        iq2_point(mk_grid_iq2xs[code & 511], even_signs(code >> 9), q + 8 * k);
    }
}

// d, index low bytes[32], signs[32], qh[8] (two high index bits each), scales[8]
void mk_block_iq2_s(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *index = src + 2, *signs = src + 34, *qh = src + 66, *scales = src + 74;
    float d = mk_load_f16(src);
    for (int g = 0; g < 16; g++) {
        scale[g] = iq2_scale(d, scales[g / 2] >> 4 * (g & 1) & 15);
    }
    for (int k = 0; k < 32; k++) {
        unsigned high = qh[k / 4] >> 2 * (k & 3) & 3;
        iq2_point(mk_grid_iq2s[index[k] | high << 8], signs[k], q + 8 * k);
    }
}

// Eight values from two points of four.
static void iq3_pair(uint16_t a, uint16_t b, const int8_t value[8], unsigned signs, int8_t *q) {
    for (int j = 0; j < 4; j++) {
        q[j] = with_sign(value[a >> 4 * j & 7], signs, j);
        q[j + 4] = with_sign(value[b >> 4 * j & 7], signs, j + 4);
    }
}

// d, index bytes[64] (four values each), per 32 values a word of four times 7 sign bits and a 4-bit
// scale
void mk_block_iq3_xxs(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *index = src + 2;
    float d = mk_load_f16(src);
    for (int g = 0; g < 8; g++) {
        uint32_t tail = mk_load_u32(src + 66 + 4 * g);
        scale[g] = d * (0.25f * (float)(2 * (tail >> 28) + 1));
        for (int k = 0; k < 4; k++, index += 2, q += 8) {
            unsigned signs = even_signs(tail >> 7 * k & 127);
            iq3_pair(mk_grid_iq3xxs[index[0]], mk_grid_iq3xxs[index[1]], value_iq3xxs, signs, q);
        }
    }
}

// d, index low bytes[64], qh[8] (one high index bit each), signs[32], scales[4]: a nibble per 32
// values
void mk_block_iq3_s(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *index = src + 2, *qh = src + 66, *signs = src + 74, *scales = src + 106;
    float d = mk_load_f16(src);
    for (int g = 0; g < 8; g++) {
        scale[g] = d * (float)(2 * (scales[g / 2] >> 4 * (g & 1) & 15) + 1);
        for (int k = 0; k < 4; k++, index += 2, q += 8) {
            unsigned a = index[0] | (qh[g] >> 2 * k & 1u) << 8,
                     b = index[1] | (qh[g] >> (2 * k + 1) & 1u) << 8;
            iq3_pair(mk_grid_iq3s[a], mk_grid_iq3s[b], value_iq3s, signs[4 * g + k], q);
        }
    }
}

// (grid + delta) * 8 with delta = +-1/8: eight values out of -9, -7, -1, 1, 7, 9
static void iq1_point(uint16_t point, bool minus, int8_t *q) {
    for (int j = 0; j < 8; j++) {
        int grid = (int)(point >> 2 * j & 3) - 1;
        q[j] = (int8_t)(8 * grid + (minus ? -1 : 1));
    }
}

// d, index low bytes[32], u16 qh[8]: per 32 values four times three high index bits, a 3-bit scale,
// the sign of delta
void mk_block_iq1_s(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    float d = mk_load_f16(src);
    for (int g = 0; g < 8; g++) {
        unsigned qh = mk_load_u16(src + 34 + 2 * g);
        scale[g] = d * (0.125f * (float)(2 * (qh >> 12 & 7) + 1));
        for (int k = 0; k < 4; k++) {
            unsigned index = src[2 + 4 * g + k] | (qh >> 3 * k & 7) << 8;
            iq1_point(mk_grid_iq1s[index], qh >> 15 != 0, q + 32 * g + 8 * k);
        }
    }
}

// index low bytes[32], qh[16] (per 8 values: three high index bits and the sign of delta), u16
// scales[4]: four 3-bit scales (one per 16 values) and on top a nibble of the f16 super-scale,
// lowest nibble first
void mk_block_iq1_m(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    const uint8_t *qh = src + 32, *scales = src + 48;
    unsigned d_bits = 0;
    for (int i = 0; i < 4; i++) {
        d_bits |= (unsigned)(mk_load_u16(scales + 2 * i) >> 12) << 4 * i;
    }
    float d = mk_f32_from_f16((uint16_t)d_bits);
    for (int g = 0; g < 16; g++) {
        unsigned s = mk_load_u16(scales + 2 * (g / 4)) >> 3 * (g & 3) & 7;
        scale[g] = d * (0.125f * (float)(2 * s + 1));
    }
    for (int k = 0; k < 32; k++) {
        unsigned high = qh[k / 2] >> 4 * (k & 1) & 15;
        iq1_point(mk_grid_iq1s[src[k] | (high & 7) << 8], high >> 3 != 0, q + 8 * k);
    }
}

// d, u16 scales_h (two high bits per 32 values), scales_l[4] (low nibbles), qs[128]: 16 bytes per
// 32 values
void mk_block_iq4_xs(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    float d = mk_load_f16(src);
    unsigned scales_h = mk_load_u16(src + 2);
    for (int g = 0; g < 8; g++) {
        unsigned low = src[4 + g / 2] >> 4 * (g & 1) & 15, high = scales_h >> 2 * g & 3;
        scale[g] = d * (float)((int)(low | high << 4) - 32);
        for (int j = 0; j < 16; j++) {
            uint8_t pair = src[8 + 16 * g + j];
            q[32 * g + j] = mk_table_iq4[pair & 15];
            q[32 * g + 16 + j] = mk_table_iq4[pair >> 4];
        }
    }
}
