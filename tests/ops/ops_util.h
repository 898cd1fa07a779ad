// What the operator tests share: random numbers, contexts, exact comparison.
#ifndef MK_TESTS_OPS_UTIL_H
#define MK_TESTS_OPS_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "base/pool.h"
#include "ops/ops.h"

static inline uint64_t next_u64(uint64_t *state) {
    return mk_rng_u64(12345, (*state)++);
}

static inline int64_t next_int(uint64_t *state, int64_t n) {
    return (int64_t)(next_u64(state) % (uint64_t)n);
}

// Roughly normal, a few values far out.
static inline float next_float(uint64_t *state) {
    double s = 0;
    for (int i = 0; i < 4; i++) {
        s += mk_rng_unit(77, (*state)++) - 0.5;
    }
    return (float)(s * (next_u64(state) % 64 == 0 ? 8.0 : 1.0));
}

static inline float *random_floats(uint64_t *state, int64_t n) {
    float *p = mk_try_alloc((size_t)(n > 0 ? n : 1), sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) {
        p[i] = next_float(state);
    }
    return p;
}

// A context with its pool; steps are run twice, dry first, so that the scratch is sized as the
// engine sizes it.
typedef struct {
    mk_pool *pool;
    mk_ops *ops;
} bench;

static inline bench bench_open(const mk_kernels *k, int n_thread) {
    bench b = {mk_pool_create(n_thread), NULL};
    b.ops = mk_ops_create(k, b.pool);
    return b;
}

static inline void bench_close(bench *b) {
    mk_ops_destroy(b->ops);
    mk_pool_destroy(b->pool);
}

typedef void (*step_fn)(mk_ops *ops, void *arg);

static inline void run_step(const bench *b, step_fn fn, void *arg) {
    mk_ops_begin(b->ops, true);
    fn(b->ops, arg);
    mk_ops_end(b->ops);
    assert_int_equal(mk_ops_reserve(b->ops, mk_ops_high_water(b->ops), NULL), MK_OK);
    mk_ops_begin(b->ops, false);
    fn(b->ops, arg);
    mk_ops_end(b->ops);
}

// Bit by bit; every NaN counts as the same.
static inline void assert_same_floats(const float *a, const float *b, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = mk_f32_bits(a[i]), y = mk_f32_bits(b[i]);
        if (x != y && !(a[i] != a[i] && b[i] != b[i])) {
            fail_msg("%s: element %lld of %lld is %a, expected %a", what, (long long)i,
                     (long long)n, (double)a[i], (double)b[i]);
        }
    }
}

#endif
