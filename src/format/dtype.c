// The table of element types, and conversions between them and float32.  Quantised types go through
// the integers of mk_dtype_row_ints; plain types have one converter each.
//
// Every conversion gives the same bits whether or not the thread flushes denormals (house rule: FTZ
// and DAZ are on in worker threads): results that could be subnormal are put together with integer
// operations.
//
// Stored numbers are little-endian, and so are the machines minke runs on; F32 rows are copied.
#include "format/dtype.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "format/dtype_int.h"

enum { MAX_BLOCK = 256, MAX_GROUPS = 16 };

typedef void (*plain_fn)(const uint8_t *src, int64_t n, float *dst);

typedef struct {
    mk_dtype_info info;
    mk_block_fn ints;  // quantised types
    plain_fn plain;    // plain floats; neither for integers
} dtype_row;

// --- plain types ---------------------------------------------------------------------------------

static void from_f32(const uint8_t *src, int64_t n, float *dst) {
    memcpy(dst, src, (size_t)n * sizeof *dst);
}

// mk_f32_from_f16 without branches, for whole rows: the exponent is moved to its new bias; a
// subnormal is read as 2^-14 * (1 + m/1024), from which 2^-14 is subtracted exactly.
static float f16_value(uint16_t h) {
    uint32_t e = h & 0x7C00, w = (uint32_t)(h & 0x7FFF) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t normal = w + ((uint32_t)112 << 23), special = w + ((uint32_t)224 << 23);
    float tiny = mk_f32_from_bits(w + ((uint32_t)113 << 23)) - 0x1p-14f;
    uint32_t bits = e == 0x7C00 ? special : normal;
    return mk_f32_from_bits(sign | (e == 0 ? mk_f32_bits(tiny) : bits));
}

static void from_f16(const uint8_t *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof h);
        dst[i] = f16_value(h);
    }
}

static void from_bf16(const uint8_t *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = mk_f32_from_bf16(mk_load_u16(src + 2 * i));
    }
}

// The hardware conversion flushes results below 2^-126; there the mantissa is rounded by hand, in
// units of 2^-149 (which are the bits of the result).
static float f32_from_f64_bits(uint64_t u) {
    enum { EXP_MIN_NORMAL = 1023 - 126, EXP_UNIT = 1023 + 52 - 149 };
    unsigned e = (unsigned)(u >> 52 & 2047), shift = EXP_UNIT - e;
    uint32_t sign = (uint32_t)(u >> 63) << 31;
    if (e >= EXP_MIN_NORMAL) {
        double x;
        memcpy(&x, &u, sizeof x);
        return (float)x;
    }
    if (e == 0 || shift > 54) {  // below half a unit: zero
        return mk_f32_from_bits(sign);
    }
    uint64_t m = (u & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52;
    uint64_t units = m >> shift, rest = m & (((uint64_t)1 << shift) - 1),
             half = (uint64_t)1 << (shift - 1);
    units += rest > half || (rest == half && (units & 1)) ? 1 : 0;
    return mk_f32_from_bits(sign | (uint32_t)units);
}

static void from_f64(const uint8_t *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t u = (uint64_t)mk_load_u32(src + 8 * i) | (uint64_t)mk_load_u32(src + 8 * i + 4)
                                                              << 32;
        dst[i] = f32_from_f64_bits(u);
    }
}

// Long rows of one-byte types by a table of all values.
static void from_bytes(float (*value)(uint8_t), const uint8_t *src, int64_t n, float *dst) {
    enum { WORTH_A_TABLE = 1024 };
    float values[256];
    bool by_table = n >= WORTH_A_TABLE;
    for (int i = 0; by_table && i < 256; i++) {
        values[i] = value((uint8_t)i);
    }
    for (int64_t i = 0; i < n; i++) {
        dst[i] = by_table ? values[src[i]] : value(src[i]);
    }
}

static void from_e4m3(const uint8_t *src, int64_t n, float *dst) {
    from_bytes(mk_f32_from_e4m3, src, n, dst);
}

static void from_e5m2(const uint8_t *src, int64_t n, float *dst) {
    from_bytes(mk_f32_from_e5m2, src, n, dst);
}

static void from_e8m0(const uint8_t *src, int64_t n, float *dst) {
    from_bytes(mk_f32_from_e8m0, src, n, dst);
}

// --- the table -----------------------------------------------------------------------------------

// clang-format off
#define PLAIN(id, text, bytes, fn) [id] = {{text, 1, bytes, 0, false}, NULL, fn}
#define QUANT(id, text, block, bytes, group, shift, fn) \
    [id] = {{text, block, bytes, group, shift}, fn, NULL}

static const dtype_row table[MK_DTYPE_N] = {
    PLAIN(MK_DTYPE_F32, "F32", 4, from_f32),
    PLAIN(MK_DTYPE_F16, "F16", 2, from_f16),
    PLAIN(MK_DTYPE_BF16, "BF16", 2, from_bf16),
    PLAIN(MK_DTYPE_F64, "F64", 8, from_f64),
    PLAIN(MK_DTYPE_F8_E4M3, "F8_E4M3", 1, from_e4m3),
    PLAIN(MK_DTYPE_F8_E5M2, "F8_E5M2", 1, from_e5m2),
    PLAIN(MK_DTYPE_F8_E8M0, "F8_E8M0", 1, from_e8m0),
    PLAIN(MK_DTYPE_I8, "I8", 1, NULL),
    PLAIN(MK_DTYPE_I16, "I16", 2, NULL),
    PLAIN(MK_DTYPE_I32, "I32", 4, NULL),
    PLAIN(MK_DTYPE_I64, "I64", 8, NULL),
    PLAIN(MK_DTYPE_U8, "U8", 1, NULL),
    PLAIN(MK_DTYPE_U16, "U16", 2, NULL),
    PLAIN(MK_DTYPE_U32, "U32", 4, NULL),
    PLAIN(MK_DTYPE_U64, "U64", 8, NULL),
    PLAIN(MK_DTYPE_BOOL, "BOOL", 1, NULL),
    //    id               name      block bytes group shift
    QUANT(MK_DTYPE_Q4_0, "Q4_0", 32, 18, 32, false, mk_block_q4_0),
    QUANT(MK_DTYPE_Q4_1, "Q4_1", 32, 20, 32, true, mk_block_q4_1),
    QUANT(MK_DTYPE_Q5_0, "Q5_0", 32, 22, 32, false, mk_block_q5_0),
    QUANT(MK_DTYPE_Q5_1, "Q5_1", 32, 24, 32, true, mk_block_q5_1),
    QUANT(MK_DTYPE_Q8_0, "Q8_0", 32, 34, 32, false, mk_block_q8_0),
    QUANT(MK_DTYPE_IQ4_NL, "IQ4_NL", 32, 18, 32, false, mk_block_iq4_nl),
    QUANT(MK_DTYPE_MXFP4, "MXFP4", 32, 17, 32, false, mk_block_mxfp4),
    QUANT(MK_DTYPE_TQ1_0, "TQ1_0", 256, 54, 32, false, mk_block_tq1_0),
    QUANT(MK_DTYPE_TQ2_0, "TQ2_0", 256, 66, 32, false, mk_block_tq2_0),
    QUANT(MK_DTYPE_Q2_K, "Q2_K", 256, 84, 16, true, mk_block_q2_k),
    QUANT(MK_DTYPE_Q3_K, "Q3_K", 256, 110, 16, false, mk_block_q3_k),
    QUANT(MK_DTYPE_Q4_K, "Q4_K", 256, 144, 32, true, mk_block_q4_k),
    QUANT(MK_DTYPE_Q5_K, "Q5_K", 256, 176, 32, true, mk_block_q5_k),
    QUANT(MK_DTYPE_Q6_K, "Q6_K", 256, 210, 16, false, mk_block_q6_k),
    QUANT(MK_DTYPE_IQ2_XXS, "IQ2_XXS", 256, 66, 32, false, mk_block_iq2_xxs),
    QUANT(MK_DTYPE_IQ2_XS, "IQ2_XS", 256, 74, 16, false, mk_block_iq2_xs),
    QUANT(MK_DTYPE_IQ2_S, "IQ2_S", 256, 82, 16, false, mk_block_iq2_s),
    QUANT(MK_DTYPE_IQ3_XXS, "IQ3_XXS", 256, 98, 32, false, mk_block_iq3_xxs),
    QUANT(MK_DTYPE_IQ3_S, "IQ3_S", 256, 110, 32, false, mk_block_iq3_s),
    QUANT(MK_DTYPE_IQ1_S, "IQ1_S", 256, 50, 32, false, mk_block_iq1_s),
    QUANT(MK_DTYPE_IQ1_M, "IQ1_M", 256, 56, 16, false, mk_block_iq1_m),
    QUANT(MK_DTYPE_IQ4_XS, "IQ4_XS", 256, 136, 32, false, mk_block_iq4_xs),
};
// clang-format on

const mk_dtype_info *mk_dtype_get(int64_t id) {
    if (id < 0 || id >= MK_DTYPE_N || table[id].info.name == NULL) {
        return NULL;
    }
    return &table[id].info;
}

bool mk_dtype_row_bytes(mk_dtype t, int64_t n, size_t *out) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)t);
    if (info == NULL || n < 0 || n % info->block != 0) {
        return false;
    }
    return mk_mul_size((size_t)(n / info->block), (size_t)info->block_bytes, out);
}

bool mk_dtype_is_float(mk_dtype t) {
    return mk_dtype_get((int64_t)t) != NULL && (table[t].ints != NULL || table[t].plain != NULL);
}

// --- quantised types -----------------------------------------------------------------------------

void mk_dtype_row_ints(mk_dtype t, const void *src, int64_t n, int8_t *q, float *scale,
                       float *shift) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)t);
    MK_ASSERT(info != NULL && table[t].ints != NULL && n >= 0 && n % info->block == 0);
    MK_ASSERT(shift != NULL || !info->has_shift);
    const uint8_t *p = src;
    int groups = info->block / info->group;
    for (int64_t i = 0; i < n; i += info->block, p += info->block_bytes) {
        table[t].ints(p, q + i, scale, shift);
        scale += groups;
        shift = info->has_shift ? shift + groups : NULL;
    }
}

// scale * q where the scale is subnormal (MXFP4 only: 2^-128 or 2^-127, and |q| <= 12): done on the
// bits, because the multiplication would read the scale as zero in a thread that flushes denormals.
static float tiny_product(float scale, int8_t q) {
    enum { UNIT = 149 };  // the bits of a subnormal float count units of 2^-149
    uint32_t sign = q < 0 ? 0x80000000u : 0, magnitude = (uint32_t)abs(q);
    uint32_t units = mk_f32_bits(scale) * magnitude;
    if (units == 0) {
        return mk_f32_from_bits(0);
    }
    uint32_t exponent = (uint32_t)(31 - __builtin_clz(units));
    if (exponent < 24) {  // subnormal or the first normal binade: the encoding is linear
        return mk_f32_from_bits(sign | units);
    }
    uint32_t mantissa = units >> (exponent - 23) & 0x7FFFFF;
    return mk_f32_from_bits(sign | (exponent - UNIT + 127) << 23 | mantissa);
}

static bool is_subnormal(float x) {
    uint32_t u = mk_f32_bits(x) & 0x7FFFFFFF;
    return u != 0 && u < 0x00800000;
}

// The definition, carried out.  scale * q is exact: a fused multiply-add would give the same bits.
static void apply_group(const int8_t *q, int n, float scale, const float *shift, float *dst) {
    if (is_subnormal(scale)) {
        for (int i = 0; i < n; i++) {
            dst[i] = tiny_product(scale, q[i]);
        }
    } else if (shift != NULL) {
        for (int i = 0; i < n; i++) {
            dst[i] = scale * (float)q[i] + *shift;
        }
    } else {
        for (int i = 0; i < n; i++) {
            dst[i] = scale * (float)q[i];
        }
    }
}

static void block_to_f32(const dtype_row *row, const uint8_t *src, float *dst) {
    int8_t q[MAX_BLOCK];
    float scale[MAX_GROUPS], shift[MAX_GROUPS];
    int group = row->info.group;
    row->ints(src, q, scale, shift);
    for (int g = 0; g < row->info.block / group; g++) {
        const float *s = row->info.has_shift ? &shift[g] : NULL;
        apply_group(q + g * group, group, scale[g], s, dst + g * group);
    }
}

void mk_dtype_to_f32(mk_dtype t, const void *src, int64_t n, float *dst) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)t);
    MK_ASSERT(info != NULL && mk_dtype_is_float(t) && n >= 0 && n % info->block == 0);
    if (n == 0) {
        return;  // src may be NULL
    }
    if (table[t].plain != NULL) {
        table[t].plain(src, n, dst);
        return;
    }
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i += info->block, p += info->block_bytes) {
        block_to_f32(&table[t], p, dst + i);
    }
}

// --- from float32 --------------------------------------------------------------------------------

static void put_u16(uint8_t *dst, uint16_t v) {
    dst[0] = (uint8_t)(v & 255);
    dst[1] = (uint8_t)(v >> 8);
}

static int8_t round_half_away(float x) {
    float a = fabsf(x), low = floorf(a);
    int r = (int)low + (a - low >= 0.5f ? 1 : 0);
    return (int8_t)(x < 0 ? -r : r);
}

// d = max|x| / 127, q = round(x * (1/d)), half away from zero: ggml's reference quantiser, bit for
// bit, with two additions.  Blocks below 2^-100 become zero (their f16 scale is zero anyway; 1/d
// could overflow, and denormals may be flushed).  A block with an infinity or NaN gets the scale
// NaN, so that the damage stays visible.
static void quantise_q8_0(const float *x, uint8_t *dst) {
    const float tiny = 0x1p-100f;
    float amax = 0;
    bool finite = true;
    for (int i = 0; i < 32; i++) {
        float a = fabsf(x[i]);
        finite = finite && (mk_f32_bits(a) < 0x7F800000);
        amax = a > amax ? a : amax;
    }
    if (!finite || amax < tiny) {
        put_u16(dst, finite ? 0 : 0x7E00);
        memset(dst + 2, 0, 32);
        return;
    }
    float d = amax / 127.0f, inverse = 1.0f / d;
    put_u16(dst, mk_f16_from_f32(d));
    for (int i = 0; i < 32; i++) {
        dst[2 + i] = (uint8_t)round_half_away(x[i] * inverse);
    }
}

mk_status mk_dtype_from_f32(mk_dtype t, const float *src, int64_t n, void *dst, mk_err *err) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)t);
    uint8_t *p = dst;
    MK_ASSERT(n >= 0);
    if (t != MK_DTYPE_F32 && t != MK_DTYPE_F16 && t != MK_DTYPE_BF16 && t != MK_DTYPE_Q8_0) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "cannot write element type %s: expected F32, F16, BF16 or Q8_0",
                       info != NULL ? info->name : "(unknown)");
    }
    MK_ASSERT(info != NULL && n % info->block == 0);
    if (t == MK_DTYPE_F32 && n > 0) {
        memcpy(dst, src, (size_t)n * sizeof *src);
    } else if (t == MK_DTYPE_Q8_0) {
        for (int64_t i = 0; i < n / 32; i++) {
            quantise_q8_0(src + 32 * i, p + 34 * i);
        }
    } else {
        for (int64_t i = 0; i < n && t != MK_DTYPE_F32; i++) {
            put_u16(p + 2 * i,
                    t == MK_DTYPE_F16 ? mk_f16_from_f32(src[i]) : mk_bf16_from_f32(src[i]));
        }
    }
    return MK_OK;
}
