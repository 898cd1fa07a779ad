// One row of logits: the largest one and the exponentials, on every instruction set, against the
// scalar definition (base/mathx.h), bit for bit.
#include <math.h>
#include <string.h>

#include "base/mathx.h"
#include "ops/kernels.h"
#include "ops_util.h"

enum { N = 150 };

static void fill_row(float *z, uint64_t seed) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f, -0.0f};
    for (uint64_t i = 0; i < N; i++) {
        z[i] = 40 * (float)mk_rng_unit(seed, i) - 20;
        if (seed % 2 == 1 && mk_rng_u64(seed + 1000, i) % 8 == 0) {
            z[i] = odd[mk_rng_u64(seed + 2000, i) % 7];
        }
    }
}

static void test_row(void **state) {
    (void)state;
    float z[N], e[N + 1];
    for (uint64_t seed = 0; seed < 40; seed++) {
        fill_row(z, seed);
        int64_t n = 1 + (int64_t)(mk_rng_u64(seed, N) % N);
        float t = (float[]){1, 0.6f, 1e-3f, 100}[seed / 2 % 4], max = -INFINITY;
        for (int64_t i = 0; i < n; i++) {
            max = z[i] > max ? z[i] : max;
        }
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            e[n] = 7;
            float got = mk_kernels_at(k)->row_max(z, n);
            assert_memory_equal(&got, &max, sizeof max);
            mk_kernels_at(k)->row_exp(e, z, n, max, t);
            for (int64_t i = 0; i < n; i++) {
                float want = mk_expf((z[i] - max) / t);
                assert_true(isnan(want) ? isnan(e[i]) : memcmp(&e[i], &want, sizeof want) == 0);
            }
            assert_true(e[n] == 7);  // nothing behind the row
        }
    }
}

static void test_empty(void **state) {
    (void)state;
    const float none[3] = {NAN, NAN, -INFINITY};
    assert_true(mk_row_max(none, 0) == -INFINITY && mk_row_max(none, 3) == -INFINITY);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_row), cmocka_unit_test(test_empty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
