// Element types of stored tensors, and what one row of each means.
//
// Ids 0..39 are GGUF's (ggml.h); types that only safetensors has start at MK_DTYPE_F8_E4M3.  One
// table describes all of them.  Every quantised type is given ONE definition, mk_dtype_row_ints:
// small integers, one scale per group and perhaps one shift per group.  Dequantisation and the
// packed layouts of ops/ are both derived from it, so they cannot disagree.
#ifndef MK_FORMAT_DTYPE_H
#define MK_FORMAT_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
    MK_DTYPE_F32 = 0,
    MK_DTYPE_F16 = 1,
    MK_DTYPE_Q4_0 = 2,
    MK_DTYPE_Q4_1 = 3,
    MK_DTYPE_Q5_0 = 6,
    MK_DTYPE_Q5_1 = 7,
    MK_DTYPE_Q8_0 = 8,
    MK_DTYPE_Q2_K = 10,
    MK_DTYPE_Q3_K = 11,
    MK_DTYPE_Q4_K = 12,
    MK_DTYPE_Q5_K = 13,
    MK_DTYPE_Q6_K = 14,
    MK_DTYPE_IQ2_XXS = 16,
    MK_DTYPE_IQ2_XS = 17,
    MK_DTYPE_IQ3_XXS = 18,
    MK_DTYPE_IQ1_S = 19,
    MK_DTYPE_IQ4_NL = 20,
    MK_DTYPE_IQ3_S = 21,
    MK_DTYPE_IQ2_S = 22,
    MK_DTYPE_IQ4_XS = 23,
    MK_DTYPE_I8 = 24,
    MK_DTYPE_I16 = 25,
    MK_DTYPE_I32 = 26,
    MK_DTYPE_I64 = 27,
    MK_DTYPE_F64 = 28,
    MK_DTYPE_IQ1_M = 29,
    MK_DTYPE_BF16 = 30,
    MK_DTYPE_TQ1_0 = 34,
    MK_DTYPE_TQ2_0 = 35,
    MK_DTYPE_MXFP4 = 39,
    // safetensors only
    MK_DTYPE_F8_E4M3 = 64,
    MK_DTYPE_F8_E5M2,
    MK_DTYPE_F8_E8M0,
    MK_DTYPE_U8,
    MK_DTYPE_U16,
    MK_DTYPE_U32,
    MK_DTYPE_U64,
    MK_DTYPE_BOOL,
    MK_DTYPE_N
} mk_dtype;

typedef struct {
    const char *name;     // "Q4_K"; NULL in the table for ids that do not exist
    int32_t block;        // elements per block, 1 for plain types
    int32_t block_bytes;  // bytes per block
    int32_t group;        // quantised types: elements per scale, 16 or 32; 0 for plain types
    bool has_shift;       // quantised types: the group has a shift
} mk_dtype_info;

// NULL for an id that is not in the table.
const mk_dtype_info *mk_dtype_get(int64_t id);

// Bytes of n elements in one row; false on overflow or if n is not a multiple of the block.
bool mk_dtype_row_bytes(mk_dtype t, int64_t n, size_t *out);

// The definition of a quantised type: for n elements (a multiple of the block) at src
//     value[k] = scale[k / group] * (float)q[k] + (has_shift ? shift[k / group] : 0)
// where scale, shift and scale * q are exact in float32 (at most 24 significant bits), so that only
// the addition rounds.  Two exceptions, both MXFP4: exponents 253 and 254 overflow to infinity for
// the largest q, and exponents 0 and 1 make a subnormal scale, which arithmetic with flushed
// denormals reads as zero (mk_dtype_to_f32 does not).
// q int8[n], scale f32[n/group], shift f32[n/group] (may be NULL if !has_shift).  Blocks may be
// unaligned.  Not for plain types (assertion).
void mk_dtype_row_ints(mk_dtype t, const void *src, int64_t n, int8_t *q, float *scale,
                       float *shift);

// Any float or quantised type to float32: dst f32[n].  src may be unaligned.  F64 is rounded.
// Integers are refused (assertion): use mk_dtype_is_float first.
void mk_dtype_to_f32(mk_dtype t, const void *src, int64_t n, float *dst);
bool mk_dtype_is_float(mk_dtype t);  // plain floats and quantised types

// float32 to F32, F16, BF16 (round to nearest even) or Q8_0 (d = max|x|/127 as f16, q = x/d rounded
// half away from zero, as ggml does; a block with infinity or NaN becomes all NaN).  n is a
// multiple of the block.  Errors: MK_EUNSUPPORTED for another type.
mk_status mk_dtype_from_f32(mk_dtype t, const float *src, int64_t n, void *dst, mk_err *err);

#endif
