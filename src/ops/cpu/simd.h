// Sixteen virtual lanes: every kernel of this folder is written once over these types.
//
//   v16f   16 float32 lanes        AVX-512 1x16, AVX2 2x8, NEON 4x4, scalar: a loop of 16
//   v16i   16 int32 lanes
//   v16w   the weights of 16 output rows x 4 columns, ready for the exact integer dot step
//
// Each instruction set gives the same bits: IEEE operations lane by lane, FMA where it is written,
// and reductions by one fixed tree (lane i + lane i+8, then i+4, i+2, i+1).  Everything runs with
// flush-to-zero (mk_fpu_enter).  The file is compiled once per set; MK_FN gives external names the
// suffix of the set.
#ifndef MK_OPS_CPU_SIMD_H
#define MK_OPS_CPU_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"
#include "base/mathx.h"

#define MK_CAT2(a, b) a##_##b
#define MK_CAT(a, b)  MK_CAT2(a, b)
#define MK_FN(name)   MK_CAT(mk_k_##name, MK_ISA)

// Complete unrolling of short loops over tiles, so that accumulators live in registers.  Not where
// nobody waits for speed and unrolled code takes the compiler minutes: plain C, sanitizers.
#if defined(MK_ISA_SCALAR) || defined(MK_SANITIZED)
#define MK_UNROLL
#elif defined(__clang__)
#define MK_UNROLL _Pragma("unroll")
#else
#define MK_UNROLL _Pragma("GCC unroll 16")
#endif

// How the integer weights are coded; a compile-time constant wherever it is used.
typedef enum {
    WT_I8,   // one byte: value + 128
    WT_I4T,  // four bits through a table of 16 values
    WT_U4,   // four, five, six bits: value + offset (int_type)
    WT_U5,
    WT_U6
} wt_code;

// The exact integer dot step, 16 rows x 4 columns at a time:
//     sum  = dot_init(code, log2 offset or -1, -128 * sum(x))        the zero point of the codes
//     part = dot_begin(code, sum); up to DOT_RUN(code) times part = dot_step(...); sum = dot_end(code, sum, part)
// Codes of 4, 5, 6 bits may come shifted up by WT_UP bits, which the scales take back (exactly: a
// power of two).  Sets differ in what they can multiply (u8 x s8, s8 x s8, with 16-bit partial
// sums): the integers that come out are the same.

#if defined(MK_ISA_AVX512)
#include "ops/cpu/simd_avx512.h"
#elif defined(MK_ISA_AVX2)
#include "ops/cpu/simd_avx2.h"
#elif defined(MK_ISA_NEON)
#include "ops/cpu/simd_neon.h"
#else
#include "ops/cpu/simd_scalar.h"
#endif

#ifndef WT_UP
#define WT_UP(code, log2_offset) ((void)(code), (void)(log2_offset), 0)
#endif

#ifndef MK_HAS_TRANSPOSE
// r[i] lane j <-> r[j] lane i
MK_INLINE void vf_transpose(v16f r[16]) {
    float a[16][16], b[16][16];
    for (int i = 0; i < 16; i++) {
        vf_store(a[i], r[i]);
    }
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 16; j++) {
            b[i][j] = a[j][i];
        }
    }
    for (int i = 0; i < 16; i++) {
        r[i] = vf_load(b[i]);
    }
}
#endif

// mk_expf of base/mathx.c, lane by lane and operation by operation.
MK_INLINE v16f vf_exp(v16f x) {
    const v16f magic = vf_set1(0x1.8p23f);
    v16f t = vf_fma(x, vf_set1(0x1.715476p+0f), magic);
    v16f n = vf_sub(t, magic);
    v16f r = vf_fma(n, vf_set1(-0x1.62e43p-1f), x);
    r = vf_fma(n, vf_set1(0x1.05c61p-29f), r);
    v16f p = vf_set1(0x1.6a23dp-10f);
    p = vf_fma(p, r, vf_set1(0x1.123a2p-7f));
    p = vf_fma(p, r, vf_set1(0x1.5558f2p-5f));
    p = vf_fma(p, r, vf_set1(0x1.555492p-3f));
    p = vf_fma(p, r, vf_set1(0x1.fffffcp-2f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    v16f y = vf_scale_exponent(p, t);
    y = vf_select_gt(x, vf_set1(MK_EXPF_HI), vf_set1(INFINITY), y);
    y = vf_select_gt(vf_set1(MK_EXPF_LO), x, vf_set1(0.0f), y);
    return vf_select_nan(x, x, y);
}

#ifndef MK_HAS_REDUCE4
// The sums of the lanes of four vectors.
MK_INLINE void vi_reduce_add4(const v16i v[4], int32_t sum[4]) {
    for (int i = 0; i < 4; i++) {
        sum[i] = vi_reduce_add(v[i]);
    }
}
#endif

// Up to 32 floats, the rest zero.
MK_INLINE void vf_load32(const float *p, int64_t n, v16f x[2]) {
    x[0] = n >= 16 ? vf_load(p) : vf_load_n(p, n);
    x[1] = n >= 32 ? vf_load(p + 16) : n > 16 ? vf_load_n(p + 16, n - 16) : vf_zero();
}

// round_to_nearest_even(x * inv), 0 for NaN: activations as int8 (prep.c).  |x * inv| is at most
// 127 (1 + 2^-22) where inv = 127 / max |x|, which rounds to 127.
MK_INLINE v16i vi_codes(v16f x, v16f inv) {
    v16f v = vf_mul(x, inv);
    return vi_round(vf_select_nan(v, vf_zero(), v));
}

// g / (1 + exp(-g)) * u
MK_INLINE v16f vf_swiglu(v16f g, v16f u) {
    v16f e = vf_add(vf_set1(1.0f), vf_exp(vf_neg(g)));
    return vf_mul(vf_div(g, e), u);
}

#endif
