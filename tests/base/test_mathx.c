// Truth: long double libm (64 bits of mantissa on x86) for the functions, the definition of each
// small format evaluated with ldexp for the conversions, and hardware-independent published values
// for the hash.
#include "cmocka_all.h"

#include <float.h>
#include <math.h>

#include "base/mathx.h"

static bool same_bits(float a, float b) {
    return mk_f32_bits(a) == mk_f32_bits(b);
}

// --- small floats --------------------------------------------------------------------------------

// The value of a small format with n_exp exponent and n_man mantissa bits, without infinities and
// NaN.
static float by_definition(unsigned bits, int n_exp, int n_man) {
    unsigned m = bits & ((1u << n_man) - 1), e = bits >> n_man & ((1u << n_exp) - 1);
    int bias = (1 << (n_exp - 1)) - 1;
    double v =
        e == 0 ? ldexp(m, 1 - bias - n_man) : ldexp(m + (1u << n_man), (int)e - bias - n_man);
    return (float)(bits >> (n_exp + n_man) & 1 ? -v : v);
}

static void check_all_small_floats(void) {
    for (unsigned h = 0; h < 65536; h++) {
        float f = mk_f32_from_f16((uint16_t)h);
        if ((h >> 10 & 31) < 31) {
            assert_true(same_bits(f, by_definition(h, 5, 10)));
        } else {
            assert_int_equal(mk_f32_bits(f), (h & 0x8000) << 16 | 0x7F800000 | (h & 0x3FF) << 13);
        }
        bool nan = (h & 0x7FFF) > 0x7C00;
        assert_int_equal(mk_f16_from_f32(f), nan ? h | 0x200 : h);
        unsigned bf_nan = (h & 0x7FFF) > 0x7F80 ? 0x40 : 0;
        assert_int_equal(mk_bf16_from_f32(mk_f32_from_bf16((uint16_t)h)), h | bf_nan);
    }
    for (unsigned b = 0; b < 256; b++) {
        float f = mk_f32_from_e4m3((uint8_t)b), g = mk_f32_from_e5m2((uint8_t)b);
        assert_true((b & 0x7F) == 0x7F ? f != f : same_bits(f, by_definition(b, 4, 3)));
        if ((b >> 2 & 31) < 31) {
            assert_true(same_bits(g, by_definition(b, 5, 2)));
        } else {
            assert_true((b & 3) ? g != g : isinf(g) && (g < 0) == (b > 127));
        }
        float s = mk_f32_from_e8m0((uint8_t)b);
        assert_true(b == 255 ? s != s : mk_f32_bits(s) == (b ? b << 23 : 1u << 22));
    }
}

static void test_small_floats(void **state) {
    (void)state;
    check_all_small_floats();
    assert_true(mk_f32_from_e8m0(0) == ldexpf(1, -127));
    assert_true(mk_f32_from_e4m3(0x7E) == 448.0f);
}

// The conversions are integer work, so flush-to-zero must not change a bit of them.  The expected
// values are made before.
static void test_f16_under_flush_to_zero(void **state) {
    (void)state;
    static uint32_t expected[65536];
    for (unsigned h = 0; h < 65536; h++) {
        expected[h] = mk_f32_bits(mk_f32_from_f16((uint16_t)h));
    }
    int wrong = 0;
    uint64_t old = mk_fpu_enter();
    for (unsigned h = 0; h < 65536; h++) {
        wrong += mk_f32_bits(mk_f32_from_f16((uint16_t)h)) != expected[h];
        wrong += (h & 0x7FFF) <= 0x7C00 && mk_f16_from_f32(mk_f32_from_bits(expected[h])) != h;
    }
    mk_fpu_leave(old);
    assert_int_equal(wrong, 0);
}

// Nearest, ties to even: between neighbours a < b of the format, the midpoint goes to the even one.
static void check_between(uint16_t lo, float a, float b, uint16_t (*narrow)(float)) {
    float mid = (float)(((double)a + (double)b) / 2);
    uint16_t hi = (uint16_t)(lo + 1);
    assert_int_equal(narrow(mid), lo & 1 ? hi : lo);
    assert_int_equal(narrow(nextafterf(mid, a)), lo);
    assert_int_equal(narrow(nextafterf(mid, b)), hi);
    assert_int_equal(narrow(-mid), (lo & 1 ? hi : lo) | 0x8000);
}

static void test_rounding(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x7BFF; h++) {
        check_between((uint16_t)h, mk_f32_from_f16((uint16_t)h), mk_f32_from_f16((uint16_t)(h + 1)),
                      mk_f16_from_f32);
    }
    for (unsigned h = 0x80; h < 0x7F7F; h++) {
        check_between((uint16_t)h, mk_f32_from_bf16((uint16_t)h),
                      mk_f32_from_bf16((uint16_t)(h + 1)), mk_bf16_from_f32);
    }
    assert_int_equal(mk_f16_from_f32(65519.996f), 0x7BFF);
    assert_int_equal(mk_f16_from_f32(65520.0f), 0x7C00);
    assert_int_equal(mk_f16_from_f32(-INFINITY), 0xFC00);
    assert_int_equal(mk_f16_from_f32(0x1p-25f), 0);
    assert_int_equal(mk_f16_from_f32(0x1.000002p-25f), 1);
    assert_int_equal(mk_f16_from_f32(FLT_MAX), 0x7C00);
    assert_int_equal(mk_bf16_from_f32(FLT_MAX), 0x7F80);
    assert_int_equal(mk_bf16_from_f32(INFINITY), 0x7F80);
    assert_true((mk_bf16_from_f32(mk_f32_from_bits(0x7F800001)) & 0x7FFF) > 0x7F80);
    assert_true((mk_f16_from_f32(mk_f32_from_bits(0xFF800001)) & 0x7FFF) > 0x7C00);
}

// --- functions -----------------------------------------------------------------------------------

static double ulp_error_f32(float got, long double want) {
    int e;
    frexpl(want, &e);
    return (double)fabsl(((long double)got - want) / ldexpl(1, e - 24));
}

static double ulp_error_f64(double got, long double want) {
    int e;
    frexpl(want, &e);
    return (double)fabsl(((long double)got - want) / ldexpl(1, e - 53));
}

// Every 251st float of the whole range, so that all exponents and both signs are met.
static void test_expf(void **state) {
    (void)state;
    double worst = 0;
    for (uint64_t u = 0; u <= 0xFFFFFFFFu; u += 251) {
        float x = mk_f32_from_bits((uint32_t)u);
        float y = mk_expf(x);
        if (x != x) {
            assert_true(y != y);
        } else if (x < MK_EXPF_LO) {
            assert_true(same_bits(y, 0.0f));
        } else if (x > MK_EXPF_HI) {
            assert_true(isinf(y) && y > 0);
        } else {
            double e = ulp_error_f32(y, expl(x));
            worst = e > worst ? e : worst;
        }
    }
    print_message("mk_expf: largest error %.3f ulp\n", worst);
    assert_true(worst < 1.1);
    assert_true(mk_expf(0.0f) == 1.0f && mk_expf(-0.0f) == 1.0f);
}

static void test_expf_edges(void **state) {
    (void)state;
    float hi = mk_expf(MK_EXPF_HI), lo = mk_expf(MK_EXPF_LO);
    assert_true(isfinite(hi) && hi > 3.40e38f);
    assert_true(lo >= FLT_MIN && lo < 1.0001f * FLT_MIN);
    assert_true(isinf(mk_expf(nextafterf(MK_EXPF_HI, 100))));
    assert_true(mk_expf(nextafterf(MK_EXPF_LO, -100)) == 0);
    assert_true(mk_expf(-INFINITY) == 0 && isinf(mk_expf(INFINITY)));
    assert_true(mk_expf(-1e38f) == 0 && isinf(mk_expf(1e38f)));
    // flush-to-zero changes nothing, because no result and no intermediate is subnormal
    int wrong = 0;
    for (float x = -90; x < 90; x += 0.01f) {
        float plain = mk_expf(x);
        uint64_t old = mk_fpu_enter();
        wrong += !same_bits(mk_expf(x), plain);
        mk_fpu_leave(old);
    }
    assert_int_equal(wrong, 0);
}

static void test_exp_f64(void **state) {
    (void)state;
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        double x = (mk_rng_unit(1, (uint64_t)i) * 2 - 1) * (i % 3 == 0 ? 1 : 700);
        double e = ulp_error_f64(mk_exp(x), expl(x));
        worst = e > worst ? e : worst;
    }
    print_message("mk_exp: largest error %.3f ulp\n", worst);
    assert_true(worst < 2);
    assert_true(mk_exp(0) == 1 && isinf(mk_exp(710)) && mk_exp(-1000) == 0 && isnan(mk_exp(NAN)));
    assert_true(isinf(mk_exp(INFINITY)) && mk_exp(-INFINITY) == 0);
}

static void test_log_f64(void **state) {
    (void)state;
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        double u = mk_rng_unit(2, (uint64_t)i);
        double x = i % 3 == 0   ? 1 + (u - 0.5) * 0.5
                   : i % 3 == 1 ? ldexp(1 + u, i % 2000 - 1000)
                                : 1 + (u - 0.5) * 1e-6;
        double e = x == 1 ? 0 : ulp_error_f64(mk_log(x), logl(x));
        worst = e > worst ? e : worst;
    }
    print_message("mk_log: largest error %.3f ulp\n", worst);
    assert_true(worst < 2);
    assert_true(mk_log(1) == 0);
    assert_true(ulp_error_f64(mk_log(DBL_MAX), logl(DBL_MAX)) < 2);
    assert_true(ulp_error_f64(mk_log(DBL_MIN), logl(DBL_MIN)) < 2);
}

// RoPE frequencies: base^(-2i/d), which must be right after rounding to float32.
static void test_pow(void **state) {
    (void)state;
    static const double bases[] = {10000, 500000, 1000000, 150000, 8000000};
    for (size_t b = 0; b < 5; b++) {
        for (int d = 32; d <= 256; d *= 2) {
            for (int i = 0; i < d / 2; i++) {
                double y = -2.0 * i / d, got = mk_pow(bases[b], y);
                long double want = powl(bases[b], y);
                assert_true(fabsl(got - want) < 4e-15L * want);
            }
        }
    }
}

static void test_sincos(void **state) {
    (void)state;
    double worst = 0;
    for (int i = 0; i < 400000; i++) {
        double u = mk_rng_unit(3, (uint64_t)i) * 2 - 1;
        double x = i % 4 == 0   ? u * 1e9
                   : i % 4 == 1 ? u * 131072
                   : i % 4 == 2 ? u * 4
                                : (double)(i / 4) * 1.5707963267948966;
        double s, c;
        mk_sincos(x, &s, &c);
        double e = (double)fmaxl(fabsl(s - sinl(x)), fabsl(c - cosl(x)));
        worst = e > worst ? e : worst;
        assert_true(fabs(s) <= 1 && fabs(c) <= 1);
    }
    print_message("mk_sincos: largest absolute error %.3g\n", worst);
    assert_true(worst < 1e-13);
    double s, c;
    mk_sincos(0, &s, &c);
    assert_true(s == 0 && c == 1);
}

// --- random numbers and hash ---------------------------------------------------------------------

static void test_rng(void **state) {
    (void)state;
    // The counter makes a SplitMix64 stream: its first output for state 0 is the published
    // 0xE220A8397B1DCDAF, which is also the mixed seed here, so stream (0, c) is SplitMix64 seeded
    // with that value.
    uint64_t state0 = 0xE220A8397B1DCDAFu;
    for (uint64_t c = 0; c < 5; c++) {
        uint64_t z = (state0 += 0x9E3779B97F4A7C15u);
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        assert_true(mk_rng_u64(0, c) == (z ^ z >> 31));
    }
    double mean = 0, square = 0, pair = 0;
    int64_t ones[64] = {0};
    enum { N = 200000 };
    for (uint64_t i = 0; i < N; i++) {
        double u = mk_rng_unit(7, i);
        assert_true(u >= 0 && u < 1);
        mean += u;
        square += u * u;
        pair += u * mk_rng_unit(8, i);  // neighbouring seeds are independent
        for (int b = 0; b < 64; b++) {
            ones[b] += (int64_t)(mk_rng_u64(7, i) >> b & 1);
        }
    }
    assert_true(fabs(mean / N - 0.5) < 0.003);
    assert_true(fabs(square / N - 1.0 / 3) < 0.003);
    assert_true(fabs(pair / N - 0.25) < 0.003);
    for (int b = 0; b < 64; b++) {
        assert_true(llabs(ones[b] - N / 2) < 5 * 224);  // five standard deviations, sqrt(N)/2 each
    }
}

static void test_hash(void **state) {
    (void)state;
    assert_true(mk_hash64("", 0, 0) ==
                0x2D06800538D394C2u);  // published XXH3_64bits of the empty input
    unsigned char data[5000];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * 131);
    }
    uint64_t h = mk_hash64(data, sizeof data, 1);
    assert_true(h == mk_hash64(data, sizeof data, 1));
    assert_true(h != mk_hash64(data, sizeof data, 2));
    data[4321] ^= 1;
    assert_true(h != mk_hash64(data, sizeof data, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_floats), cmocka_unit_test(test_f16_under_flush_to_zero),
        cmocka_unit_test(test_rounding),     cmocka_unit_test(test_expf),
        cmocka_unit_test(test_expf_edges),   cmocka_unit_test(test_exp_f64),
        cmocka_unit_test(test_log_f64),      cmocka_unit_test(test_pow),
        cmocka_unit_test(test_sincos),       cmocka_unit_test(test_rng),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
