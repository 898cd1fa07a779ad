// Private to the dtype_*.c files: how one block of each quantised type becomes integers.
//
// A block function reads exactly block_bytes at src (unaligned is fine) and writes block values to
// q, block/group values to scale and, if the type has a shift, block/group values to shift.
#ifndef MK_FORMAT_DTYPE_INT_H
#define MK_FORMAT_DTYPE_INT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"
#include "base/mathx.h"

typedef void (*mk_block_fn)(const uint8_t *src, int8_t *q, float *scale, float *shift);

// 32 values per block (dtype_small.c), and the ternary types
void mk_block_q4_0(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q4_1(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q5_0(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q5_1(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q8_0(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq4_nl(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_mxfp4(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_tq1_0(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_tq2_0(const uint8_t *src, int8_t *q, float *scale, float *shift);
// K quants, 256 values (dtype_kquants.c)
void mk_block_q2_k(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q3_k(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q4_k(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q5_k(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_q6_k(const uint8_t *src, int8_t *q, float *scale, float *shift);
// grid and table quants, 256 values (dtype_iq.c)
void mk_block_iq2_xxs(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq2_xs(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq2_s(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq3_xxs(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq3_s(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq1_s(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq1_m(const uint8_t *src, int8_t *q, float *scale, float *shift);
void mk_block_iq4_xs(const uint8_t *src, int8_t *q, float *scale, float *shift);

// dtype_grids.c
extern const uint16_t mk_grid_iq2xxs[256];
extern const uint16_t mk_grid_iq2xs[512];
extern const uint16_t mk_grid_iq2s[1024];
extern const uint16_t mk_grid_iq3xxs[256];
extern const uint16_t mk_grid_iq3s[512];
extern const uint16_t mk_grid_iq1s[2048];
// The sixteen values of IQ4_NL and IQ4_XS (dtype_small.c).
extern const int8_t mk_table_iq4[16];

MK_INLINE uint16_t mk_load_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

MK_INLINE uint32_t mk_load_u32(const uint8_t *p) {
    return (uint32_t)mk_load_u16(p) | (uint32_t)mk_load_u16(p + 2) << 16;
}

MK_INLINE float mk_load_f16(const uint8_t *p) {
    return mk_f32_from_f16(mk_load_u16(p));
}

#endif
