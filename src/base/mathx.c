// The definitions behind mathx.h.  docs/numerics.md is the version these bits belong to: a change
// here is a new version.
//
// No libm: only IEEE + - * /, explicit fma, integer operations and selects.  fma is exact by its
// definition, whether the processor or the C library computes it.  The polynomials are ours:
// mk_expf is a Remez fit of (e^r - 1 - r) / r^2 on |r| <= ln2/2 (relative error 3.7e-9), the double
// ones are Taylor series cut below half an ulp.
#include "base/mathx.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// --- small floats --------------------------------------------------------------------------------
// Integer operations throughout: the caller may run with flush-to-zero, which would lose
// subnormals.

float mk_f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t e = h >> 10 & 0x1F, m = h & 0x3FF;
    if (e == 0x1F) {
        return mk_f32_from_bits(sign | 0x7F800000 | m << 13);
    }
    if (e == 0) {
        if (m == 0) {
            return mk_f32_from_bits(sign);
        }
        // m * 2^-24: move the highest bit of m to the hidden place (bit 10)
        uint32_t shift = (uint32_t)__builtin_clz(m) - 21;
        m = m << shift & 0x3FF;
        e = 1 - shift;
    }
    return mk_f32_from_bits(sign | (e + 112) << 23 | m << 13);
}

// q = v / 2^shift, rounded to nearest, ties to even; 1 <= shift <= 31.
static uint32_t shift_rne(uint32_t v, uint32_t shift) {
    uint32_t q = v >> shift, rest = v & ((1u << shift) - 1), half = 1u << (shift - 1);
    return q + (rest > half || (rest == half && (q & 1)));
}

uint16_t mk_f16_from_f32(float f) {
    uint32_t u = mk_f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFF;
    uint32_t h;
    if (a > 0x7F800000) {
        h = 0x7E00 | (a >> 13 & 0x3FF);  // NaN, made quiet
    } else if (a >= 0x477FF000) {
        h = 0x7C00;  // 65520 and above round to infinity
    } else if (a >= 0x38800000) {
        h = shift_rne(a, 13) -
            (112u << 10);  // a carry out of the mantissa is the right next exponent
    } else if (a >= 0x33000000) {
        h = shift_rne((a & 0x7FFFFF) | 0x800000, 126 - (a >> 23));  // subnormal: unit 2^-24
    } else {
        h = 0;  // below 2^-25; exactly 2^-25 goes the line above and ties to even, 0
    }
    return (uint16_t)(sign | h);
}

uint16_t mk_bf16_from_f32(float f) {
    uint32_t u = mk_f32_bits(f);
    if ((u & 0x7FFFFFFF) > 0x7F800000) {
        return (uint16_t)(u >> 16 | 0x40);
    }
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

float mk_f32_from_e4m3(uint8_t b) {
    uint32_t sign = (uint32_t)(b & 0x80) << 24, e = b >> 3 & 0xF, m = b & 7;
    if ((b & 0x7F) == 0x7F) {
        return mk_f32_from_bits(sign | 0x7FC00000);
    }
    if (e == 0) {
        return mk_f32_from_bits(sign | mk_f32_bits((float)m * 0x1p-9f));
    }
    return mk_f32_from_bits(sign | (e + 120) << 23 | m << 20);
}

float mk_f32_from_e5m2(uint8_t b) {
    return mk_f32_from_f16((uint16_t)(b << 8));  // E5M2 is the upper byte of binary16
}

float mk_f32_from_e8m0(uint8_t b) {
    if (b == 255) {
        return mk_f32_from_bits(0x7FC00000);
    }
    return mk_f32_from_bits(b == 0 ? 0x00400000 : (uint32_t)b << 23);  // 2^-127 is subnormal
}

// --- exp, log, sin, cos --------------------------------------------------------------------------

// The sequence, which every vector form repeats:
//   t = fma(x, log2 e, 1.5 * 2^23)      rounds x * log2 e to an integer in the low bits of t
//   n = t - 1.5 * 2^23
//   r = fma(n, -ln2_hi, x)              exact
//   r = fma(n, -ln2_lo, r)
//   p = Horner in r with fma: c6 c5 c4 c3 c2 1 1
//   y = bits(p) + (bits(t) << 23)       p * 2^n by the exponent field
//   x > hi: y = inf;  x < lo: y = 0;  x is NaN: y = x
// lo is the first float whose exponential is a normal number, so nothing depends on flush-to-zero.
float mk_expf(float x) {
    const float magic = 0x1.8p23f;
    float t = fmaf(x, 0x1.715476p+0f, magic);
    float n = t - magic;
    float r = fmaf(n, -0x1.62e43p-1f, x);
    r = fmaf(n, 0x1.05c61p-29f, r);
    float p = 0x1.6a23dp-10f;
    p = fmaf(p, r, 0x1.123a2p-7f);
    p = fmaf(p, r, 0x1.5558f2p-5f);
    p = fmaf(p, r, 0x1.555492p-3f);
    p = fmaf(p, r, 0x1.fffffcp-2f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    float y = mk_f32_from_bits(mk_f32_bits(p) + (mk_f32_bits(t) << 23));
    y = x > MK_EXPF_HI ? mk_f32_from_bits(0x7F800000) : y;
    y = x < MK_EXPF_LO ? 0.0f : y;
    return x != x ? x : y;
}

static double f64_from_bits(uint64_t u) {
    double d;
    memcpy(&d, &u, sizeof d);
    return d;
}

static uint64_t f64_bits(double d) {
    uint64_t u;
    memcpy(&u, &d, sizeof u);
    return u;
}

#define MAGIC64 0x1.8p52
#define LN2_HI  0x1.62e42fefa39efp-1
#define LN2_LO  0x1.abc9e3b39803fp-56

// c[0] + c[1] x + ... by Horner.
static double horner(const double *c, int n, double x) {
    double p = c[n - 1];
    for (int i = n - 2; i >= 0; i--) {
        p = fma(p, x, c[i]);
    }
    return p;
}

double mk_exp(double x) {
    static const double inv_factorial[] = {
        1.0,
        1.0,
        1.0 / 2,
        1.0 / 6,
        1.0 / 24,
        1.0 / 120,
        1.0 / 720,
        1.0 / 5040,
        1.0 / 40320,
        1.0 / 362880,
        1.0 / 3628800,
        1.0 / 39916800,
        1.0 / 479001600,
        1.0 / 6227020800,
    };
    double t = fma(x, 0x1.71547652b82fep+0, MAGIC64);
    double n = t - MAGIC64;
    double r = fma(n, -LN2_HI, x);
    r = fma(n, -LN2_LO, r);
    double p = horner(inv_factorial, 14, r);
    double y = f64_from_bits(f64_bits(p) + (f64_bits(t) << 52));
    y = x > 709.78 ? f64_from_bits((uint64_t)0x7FF << 52) : y;
    y = x < -708.39 ? 0.0 : y;
    return x != x ? x : y;
}

// x = 2^k m, m in [sqrt(1/2), sqrt 2); f = m - 1, s = f / (2 + f); log m = 2 artanh s = f - s (f -
// R), where R = 2 (s^2/3 + s^4/5 + ...).  Written from f, the leading term is exact.
double mk_log(double x) {
    static const double odd[] = {
        2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11, 2.0 / 13,
        2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23,
    };
    const uint64_t sqrt_half = 0x3FE6A09E667F3BCDu;
    uint64_t u = f64_bits(x) - sqrt_half;
    int64_t k = (int64_t)u >> 52;
    double m = f64_from_bits((u & 0xFFFFFFFFFFFFFu) + sqrt_half);
    double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    double big_r = z * horner(odd, 11, z);
    double kd = (double)k;
    double low = fma(kd, LN2_LO, -(s * (f - big_r)));
    return fma(kd, LN2_HI, f + low);
}

double mk_pow(double x, double y) {
    return mk_exp(y * mk_log(x));
}

// Cody and Waite with two parts of pi/2: the first step is exact because of fma, so the error is
// that of the second.
void mk_sincos(double x, double *s, double *c) {
    static const double sin_c[] = {
        1.0,          -1.0 / 6,        1.0 / 120,        -1.0 / 5040,
        1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000,
    };
    static const double cos_c[] = {
        1.0,
        -1.0 / 2,
        1.0 / 24,
        -1.0 / 720,
        1.0 / 40320,
        -1.0 / 3628800,
        1.0 / 479001600,
        -1.0 / 87178291200,
        1.0 / 20922789888000,
    };
    double t = fma(x, 0x1.45f306dc9c883p-1, MAGIC64);
    uint64_t quadrant = f64_bits(t) & 3;
    double n = t - MAGIC64;
    double r = fma(n, -0x1.921fb54442d18p+0, x);
    r = fma(n, -0x1.1a62633145c07p-54, r);
    double z = r * r;
    double sr = r * horner(sin_c, 8, z), cr = horner(cos_c, 9, z);
    double a = quadrant & 1 ? cr : sr, b = quadrant & 1 ? sr : cr;
    *s = quadrant & 2 ? -a : a;
    *c = (quadrant + 1) & 2 ? -b : b;
}

// --- flush to zero -------------------------------------------------------------------------------

#if defined(__x86_64__)
uint64_t mk_fpu_enter(void) {
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040);  // FTZ (bit 15) and DAZ (bit 6)
    return old;
}

void mk_fpu_leave(uint64_t old) {
    _mm_setcsr((unsigned)old);
}
#elif defined(__aarch64__)
uint64_t mk_fpu_enter(void) {
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(old | (uint64_t)1 << 24));  // FZ
    return old;
}

void mk_fpu_leave(uint64_t old) {
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
}
#else
uint64_t mk_fpu_enter(void) {
    return 0;
}

void mk_fpu_leave(uint64_t old) {
    (void)old;
}
#endif

// --- random numbers ------------------------------------------------------------------------------

#define GOLDEN 0x9E3779B97F4A7C15u  // 2^64 / golden ratio, odd

static uint64_t finalise(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint64_t mk_rng_u64(uint64_t seed, uint64_t counter) {
    return finalise(finalise(seed + GOLDEN) + (counter + 1) * GOLDEN);
}

double mk_rng_unit(uint64_t seed, uint64_t counter) {
    return (double)(mk_rng_u64(seed, counter) >> 11) * 0x1p-53;
}
