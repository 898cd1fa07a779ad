// Is vdpbf16ps two FMAs, the odd element first, with denormals flushed?  docs/numerics.md says so,
// and the avx512bf16 kernels rely on it.  Compared here on millions of random inputs: usual values,
// all exponents, denormals, cancellation.  Infinities and NaN are left out (the instruction gives a
// NaN where FMAs do; its bits may differ).
#include <math.h>

#include "ops_util.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROUNDS = 250000 };  // times 16 lanes

// How the numbers of a round are drawn.
static uint16_t draw(uint64_t *rng, int kind) {
    uint64_t r = next_u64(rng);
    switch (kind) {
    case 0:  // any finite pattern
        return (uint16_t)((r & 0x7F80) == 0x7F80 ? r & 0xBFFF : r);
    case 1:  // close to 1: sums cancel
        return (uint16_t)((r & 0x807F) | (uint64_t)(126 + (r >> 20) % 3) << 7);
    case 2:  // products near the smallest normal number and below
        return (uint16_t)((r & 0x807F) | (uint64_t)(58 + (r >> 20) % 14) << 7);
    default:  // denormals among usual values
        return (uint16_t)((r & 0x807F) |
                          ((r >> 20) % 3 == 0 ? 0 : (uint64_t)(100 + (r >> 24) % 60) << 7));
    }
}

static float draw_sum(uint64_t *rng, int kind) {
    uint64_t r = next_u64(rng);
    uint32_t e = kind == 0   ? (uint32_t)(r >> 40) % 255
                 : kind == 2 ? (uint32_t)(r >> 40) % 8
                             : 110 + (uint32_t)(r >> 40) % 30;
    return mk_f32_from_bits((uint32_t)(r & 0x807FFFFF) | e << 23);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void dot(const float *c,
                                                                                const uint16_t *a,
                                                                                const uint16_t *b,
                                                                                float *out) {
    __m512 r = _mm512_dpbf16_ps(_mm512_loadu_ps(c), (__m512bh)_mm512_loadu_si512(a),
                                (__m512bh)_mm512_loadu_si512(b));
    _mm512_storeu_ps(out, r);
}

// The C library's fmaf flushes as the hardware's does when compiled for it, but not its emulation:
// use the instruction.
__attribute__((target("fma"))) static float fma_hw(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}

static void instruction_equals_two_fmas(void **state) {
    (void)state;
    if (!__builtin_cpu_supports("avx512bf16")) {
        print_message("no AVX512_BF16 here, nothing compared\n");
        skip();
    }
    uint64_t rng = 41, fpu = mk_fpu_enter();
    int64_t wrong = 0, n = 0, even_first = 0;
    for (int round = 0; round < ROUNDS; round++) {
        float c[16], got[16];
        uint16_t a[32], b[32];
        for (int i = 0; i < 32; i++) {
            a[i] = draw(&rng, round % 4);
            b[i] = draw(&rng, round % 4);
            c[i / 2] = draw_sum(&rng, round % 4);
        }
        dot(c, a, b, got);
        for (int i = 0; i < 16; i++) {
            float a0 = mk_f32_from_bf16(a[2 * i]), a1 = mk_f32_from_bf16(a[2 * i + 1]);
            float b0 = mk_f32_from_bf16(b[2 * i]), b1 = mk_f32_from_bf16(b[2 * i + 1]);
            float want = fma_hw(a0, b0, fma_hw(a1, b1, c[i])),
                  other = fma_hw(a1, b1, fma_hw(a0, b0, c[i]));
            if (!isfinite(want)) {
                continue;
            }
            n++;
            wrong += mk_f32_bits(want) != mk_f32_bits(got[i]);
            even_first += mk_f32_bits(other) != mk_f32_bits(got[i]);
        }
    }
    mk_fpu_leave(fpu);
    print_message("%lld of %lld sums differ; with the even element first %lld would\n",
                  (long long)wrong, (long long)n, (long long)even_first);
    assert_true(n > 3000000);
    assert_true(even_first > 0);  // the inputs can tell the orders apart
    assert_int_equal(wrong, 0);
}
#else
static void instruction_equals_two_fmas(void **state) {
    (void)state;
    print_message("not an x86 processor, nothing compared\n");
    skip();
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(instruction_equals_two_fmas)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
