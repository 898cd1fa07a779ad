// Scalar mathematics whose bits never change: conversions of small floats, exp/log/sin/cos of our
// own, RNG.
//
// libm differs between versions and machines, so nothing that ends up in a token may call it.
// These functions use only IEEE + - * / sqrt and explicit FMA; the vector forms in ops/cpu/simd.h
// repeat mk_expf operation by operation.  docs/numerics.md states each of them.
#ifndef MK_BASE_MATHX_H
#define MK_BASE_MATHX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"

// Version of docs/numerics.md: raised with every change that alters any result, so that what was
// computed by another version is not taken for one's own.
#define MK_NUMERICS 2

MK_INLINE float mk_f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

MK_INLINE uint32_t mk_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

MK_INLINE float mk_f32_from_bf16(uint16_t h) {
    return mk_f32_from_bits((uint32_t)h << 16);
}

float mk_f32_from_f16(uint16_t h);   // exact, subnormals and NaN kept
uint16_t mk_f16_from_f32(float f);   // round to nearest even, overflow to infinity
uint16_t mk_bf16_from_f32(float f);  // round to nearest even; NaN stays NaN
float mk_f32_from_e4m3(uint8_t b);   // E4M3FN: no infinity, 0x7F and 0xFF are NaN
float mk_f32_from_e5m2(uint8_t b);
// 2^(b-127), 255 is NaN; 2^-127 reads as 0 after mk_fpu_enter
float mk_f32_from_e8m0(uint8_t b);

// The range in which e^x is a finite normal float; mk_expf is 0 below it and +inf above it.
#define MK_EXPF_LO (-87.33654f)
#define MK_EXPF_HI 88.72283f

float mk_expf(float x);                          // max error < 2 ulp; NaN in, NaN out
double mk_exp(double x);                         // < 2 ulp for |x| < 700
double mk_log(double x);                         // x > 0, finite and normal; < 2 ulp
double mk_pow(double x, double y);               // x > 0: exp(y log x), enough for RoPE frequencies
void mk_sincos(double x, double *s, double *c);  // |x| < 1e9, absolute error < 1e-13

// Flush-to-zero and denormals-are-zero for the calling thread; returns the old state for
// mk_fpu_leave.
uint64_t mk_fpu_enter(void);
void mk_fpu_leave(uint64_t old);

// Counter-based random numbers: the same (seed, counter) gives the same value on every machine and
// in any order.  Two rounds of the SplitMix64 finaliser (Steele, Lea, Flood 2014) over the mixed
// key.
uint64_t mk_rng_u64(uint64_t seed, uint64_t counter);
double mk_rng_unit(uint64_t seed, uint64_t counter);  // [0, 1) with 53 bits

// XXH3; for keys and test hashes, not for secrets
uint64_t mk_hash64(const void *p, size_t n, uint64_t seed);
typedef struct {
    uint64_t lo, hi;
} mk_u128;
mk_u128 mk_hash128(const void *p, size_t n, uint64_t seed);
MK_INLINE int mk_u128_equal(mk_u128 a, mk_u128 b) {
    return a.lo == b.lo && a.hi == b.hi;
}

#endif
