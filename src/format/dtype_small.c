// Block types with one or two scales for the whole block: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 (32
// values) and the ternary TQ1_0 TQ2_0 (256 values).  Byte j of 16 packs element j in its low and
// element j+16 in its high nibble.
//
// Source of the layouts: block structs of ggml-common.h and the dequantisation formulas of
// ggml-quants.c (llama.cpp).
#include "format/dtype_int.h"

enum { Q32 = 32, HALF = 16, TQ_BLOCK = 256, TQ_GROUPS = 8 };

const int8_t mk_table_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};

// E2M1 values doubled, so that they are integers; the block's scale is halved in return.
static const int8_t table_mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void nibbles(const uint8_t *src, int offset, int8_t *q) {
    for (int j = 0; j < HALF; j++) {
        q[j] = (int8_t)((src[j] & 15) + offset);
        q[j + HALF] = (int8_t)((src[j] >> 4) + offset);
    }
}

static void table_nibbles(const uint8_t *src, const int8_t table[16], int8_t *q) {
    for (int j = 0; j < HALF; j++) {
        q[j] = table[src[j] & 15];
        q[j + HALF] = table[src[j] >> 4];
    }
}

// Bit j of the 32-bit word at `high` is the fifth bit of element j.
static void add_fifth_bit(const uint8_t *high, int8_t *q) {
    uint32_t bits = mk_load_u32(high);
    for (int j = 0; j < Q32; j++) {
        q[j] = (int8_t)(q[j] + (int)(bits >> j & 1) * 16);
    }
}

void mk_block_q4_0(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    scale[0] = mk_load_f16(src);
    nibbles(src + 2, -8, q);
}

void mk_block_q4_1(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    scale[0] = mk_load_f16(src);
    shift[0] = mk_load_f16(src + 2);
    nibbles(src + 4, 0, q);
}

void mk_block_q5_0(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    scale[0] = mk_load_f16(src);
    nibbles(src + 6, -16, q);
    add_fifth_bit(src + 2, q);
}

void mk_block_q5_1(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    scale[0] = mk_load_f16(src);
    shift[0] = mk_load_f16(src + 2);
    nibbles(src + 8, 0, q);
    add_fifth_bit(src + 4, q);
}

void mk_block_q8_0(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    scale[0] = mk_load_f16(src);
    memcpy(q, src + 2, Q32);
}

void mk_block_iq4_nl(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    scale[0] = mk_load_f16(src);
    table_nibbles(src + 2, mk_table_iq4, q);
}

// 2^(e-128), half of the E8M0 value.  e = 0 and 1 give subnormals, so the bits are put together: a
// multiplication would be flushed to zero.  255 is NaN in E8M0 (OCP microscaling formats 1.0,
// 5.4.1).
static float half_e8m0(uint8_t e) {
    if (e == 255) {
        return mk_f32_from_bits(0x7FC00000);
    }
    return mk_f32_from_bits(e < 2 ? (uint32_t)0x00200000 << e : (uint32_t)(e - 1) << 23);
}

void mk_block_mxfp4(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    scale[0] = half_e8m0(src[0]);
    table_nibbles(src + 1, table_mxfp4, q);
}

// One scale for 256 values, repeated to keep the group at 32.
static void repeat_scale(const uint8_t *src, float *scale) {
    for (int i = 0; i < TQ_GROUPS; i++) {
        scale[i] = mk_load_f16(src);
    }
}

// Five ternary digits in a byte: the byte is ceil(v * 256 / 243), a fraction of 256 whose first
// base-3 digit falls out of the top when it is multiplied by 3.  Digit k of n_bytes bytes makes the
// k-th strip of n_bytes values.
static int8_t *trits(const uint8_t *src, int n_bytes, int n_digits, int8_t *q) {
    unsigned power = 1;
    for (int k = 0; k < n_digits; k++, power *= 3) {
        for (int j = 0; j < n_bytes; j++) {
            unsigned rest = (src[j] * power) & 255;
            *q++ = (int8_t)((int)(rest * 3 >> 8) - 1);
        }
    }
    return q;
}

void mk_block_tq1_0(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    repeat_scale(src + 52, scale);
    q = trits(src, 32, 5, q);
    q = trits(src + 32, 16, 5, q);
    trits(src + 48, 4, 4, q);
}

void mk_block_tq2_0(const uint8_t *src, int8_t *q, float *scale, float *shift) {
    (void)shift;
    repeat_scale(src + 64, scale);
    for (int i = 0; i < TQ_BLOCK; i++) {  // i = 128 * half + 32 * field + byte
        int byte = (i >> 7) * 32 + (i & 31), field = i >> 5 & 3;
        q[i] = (int8_t)((src[byte] >> 2 * field & 3) - 1);
    }
}
