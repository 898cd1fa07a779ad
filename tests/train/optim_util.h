// What the tests of optimisers share: golden values, gradients by formula, an optimiser with its
// parameters.
#ifndef MK_TESTS_OPTIM_UTIL_H
#define MK_TESTS_OPTIM_UTIL_H

#include "cmocka_all.h"

#include <math.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "train/optim.h"

enum { N_STEP = 10, MAX_PARAM = 8 };

static json_t *golden;
static double sizes[N_STEP];  // of the gradients of each step

static inline double number(const json_t *array, size_t i) {
    const json_t *v = json_array_get(array, i);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static inline int load_golden(void **state) {
    mk_err err = {0};
    (void)state;
    if (mk_json_file("tests/golden/optim/optim.json", 1 << 20, &golden, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    for (size_t i = 0; i < N_STEP; i++) {
        sizes[i] = number(json_object_get(golden, "sizes"), i);
    }
    return 0;
}

static inline int free_golden(void **state) {
    (void)state;
    json_decref(golden);
    return 0;
}

// grad() of the generator; step -1 gives first values.
static inline float gen(int tensor, int step, int64_t i) {
    uint32_t u = (uint32_t)i * 0x9E3779B1u + (uint32_t)(step + 1) * 0x85EBCA77u +
                 (uint32_t)tensor * 0xC2B2AE3Du;
    u ^= u >> 15;
    u *= 0x2C1B3C6Du;
    u ^= u >> 12;
    double size = step < 0 || step >= N_STEP ? 1 : sizes[step];
    return (float)(((double)(u >> 8) - (1 << 23)) / (1 << 23) * size);
}

// --- runs ----------------------------------------------------------------------------------------
// An optimiser with its parameters and operators.
typedef struct {
    mk_pool *pool;
    mk_ops *ops;
    mk_optim_param param[MAX_PARAM];
    int64_t n;
    mk_optim *o;
} bench;

// Place in a parameter of element (row, column): row-major golden values against packed matrices.
static inline int64_t place(const mk_optim_param *p, int64_t i) {
    if (p->n_mat == 0) {
        return i;
    }
    int64_t o = i / p->n_in, k = i % p->n_in;
    return o / 16 * 16 * p->n_in + k * 16 + o % 16;
}

static inline int64_t n_real(const mk_optim_param *p) {
    return p->n_mat == 0 ? p->n : p->n_mat * p->n_out * p->n_in;
}

static inline bench bench_open(const mk_kernels *k, int n_thread) {
    bench b = {.pool = mk_pool_create(n_thread)};
    b.ops = mk_ops_create(k, b.pool);
    return b;
}

static inline mk_optim_param *add(bench *b, const char *name, int64_t n) {
    mk_optim_param *p = &b->param[b->n++];
    *p = (mk_optim_param){.name = name, .n = n, .decay = true, .lr_factor = 1};
    p->p = mk_try_alloc((size_t)n, sizeof(float));
    p->g = mk_try_alloc((size_t)n, sizeof(float));
    assert_true(p->p != NULL && p->g != NULL);
    return p;
}

static inline void add_matrix(bench *b, const char *name, int64_t n_out, int64_t n_in) {
    mk_optim_param *p = add(b, name, (n_out + 15) / 16 * 16 * n_in);
    p->n_mat = 1;
    p->n_out = n_out;
    p->n_in = n_in;
}

static inline void fill(const bench *b, int step) {
    for (int t = 0; t < b->n; t++) {
        const mk_optim_param *p = &b->param[t];
        for (int64_t i = 0; i < n_real(p); i++) {
            (step < 0 ? p->p : p->g)[place(p, i)] = gen(t, step, i);
        }
    }
}

static inline void start(bench *b, const mk_optim_opts *opts) {
    mk_err err = {0};
    fill(b, -1);
    if (mk_optim_create(b->ops, opts, b->param, b->n, &b->o, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
}

static inline void bench_close(bench *b) {
    mk_optim_destroy(b->o);
    for (int t = 0; t < b->n; t++) {
        mk_free(b->param[t].p);
        mk_free(b->param[t].g);
    }
    mk_ops_destroy(b->ops);
    mk_pool_destroy(b->pool);
}

static inline mk_optim_report step(const bench *b, int s, double g_scale) {
    mk_optim_report r;
    mk_err err = {0};
    double lr = number(json_object_get(golden, "lr"), (size_t)s);
    fill(b, s);
    if (mk_optim_step(b->o, &(mk_optim_at){s + 1, lr, g_scale}, &r, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return r;
}

static inline void assert_values(const bench *b, const json_t *want, double tolerance, int s) {
    for (int t = 0; t < b->n; t++) {
        const mk_optim_param *p = &b->param[t];
        const json_t *list = json_array_get(want, (size_t)t);
        assert_int_equal(json_array_size(list), n_real(p));
        for (int64_t i = 0; i < n_real(p); i++) {
            double w = number(list, (size_t)i), got = (double)p->p[place(p, i)];
            if (!(fabs(got - w) <= tolerance)) {
                fail_msg("step %d, %s[%lld]: %.9g, expected %.9g", s + 1, p->name, (long long)i,
                         got, w);
            }
        }
    }
}

#endif
