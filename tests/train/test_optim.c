// Optimisers and schedules: golden values of PyTorch and transformers (tests/golden/gen_optim.py),
// plain definitions, and the same bits for every number of threads and instruction set.
#include "cmocka_all.h"

#include <math.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "torture.h"
#include "train/optim.h"
#include "train/schedule.h"

enum { N_STEP = 10, MAX_PARAM = 8 };

static json_t *golden;

static int load_golden(void **state) {
    mk_err err = {0};
    (void)state;
    if (mk_json_file("tests/golden/optim/optim.json", 1 << 20, &golden, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int free_golden(void **state) {
    (void)state;
    json_decref(golden);
    return 0;
}

static double number(const json_t *array, size_t i) {
    const json_t *v = json_array_get(array, i);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

// grad() of the generator; step -1 gives first values.
static float gen(int tensor, int step, int64_t i) {
    uint32_t u = (uint32_t)i * 0x9E3779B1u + (uint32_t)(step + 1) * 0x85EBCA77u +
                 (uint32_t)tensor * 0xC2B2AE3Du;
    u ^= u >> 15;
    u *= 0x2C1B3C6Du;
    u ^= u >> 12;
    double size = step < 0 ? 1 : number(json_object_get(golden, "sizes"), (size_t)step);
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
static int64_t place(const mk_optim_param *p, int64_t i) {
    if (p->n_mat == 0) {
        return i;
    }
    int64_t o = i / p->n_in, k = i % p->n_in;
    return o / 16 * 16 * p->n_in + k * 16 + o % 16;
}

static int64_t n_real(const mk_optim_param *p) {
    return p->n_mat == 0 ? p->n : p->n_mat * p->n_out * p->n_in;
}

static bench bench_open(const mk_kernels *k, int n_thread) {
    bench b = {.pool = mk_pool_create(n_thread)};
    b.ops = mk_ops_create(k, b.pool);
    return b;
}

static mk_optim_param *add(bench *b, const char *name, int64_t n) {
    mk_optim_param *p = &b->param[b->n++];
    *p = (mk_optim_param){.name = name, .n = n, .decay = true, .lr_factor = 1};
    p->p = mk_try_alloc((size_t)n, sizeof(float));
    p->g = mk_try_alloc((size_t)n, sizeof(float));
    assert_true(p->p != NULL && p->g != NULL);
    return p;
}

static void add_matrix(bench *b, const char *name, int64_t n_out, int64_t n_in) {
    mk_optim_param *p = add(b, name, (n_out + 15) / 16 * 16 * n_in);
    p->n_mat = 1;
    p->n_out = n_out;
    p->n_in = n_in;
}

static void fill(const bench *b, int step) {
    for (int t = 0; t < b->n; t++) {
        const mk_optim_param *p = &b->param[t];
        for (int64_t i = 0; i < n_real(p); i++) {
            (step < 0 ? p->p : p->g)[place(p, i)] = gen(t, step, i);
        }
    }
}

static void start(bench *b, const mk_optim_opts *opts) {
    mk_err err = {0};
    fill(b, -1);
    if (mk_optim_create(b->ops, opts, b->param, b->n, &b->o, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
}

static void bench_close(bench *b) {
    mk_optim_destroy(b->o);
    for (int t = 0; t < b->n; t++) {
        mk_free(b->param[t].p);
        mk_free(b->param[t].g);
    }
    mk_ops_destroy(b->ops);
    mk_pool_destroy(b->pool);
}

static mk_optim_report step(const bench *b, int s, double g_scale) {
    mk_optim_report r;
    mk_err err = {0};
    double lr = number(json_object_get(golden, "lr"), (size_t)s);
    fill(b, s);
    if (mk_optim_step(b->o, &(mk_optim_at){s + 1, lr, g_scale}, &r, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return r;
}

static void assert_values(const bench *b, const json_t *want, double tolerance, int s) {
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

// --- AdamW ---------------------------------------------------------------------------------------
// Values are below 1.1: 6e-8 for the rounding of each of 10 steps.
static void adamw_equals_torch(void **state) {
    (void)state;
    const json_t *g = json_object_get(golden, "adamw"), *n = json_object_get(g, "n");
    static const char *const names[] = {"a", "b", "c"};
    bench b = bench_open(mk_kernels_at(0), 2);
    for (size_t t = 0; t < 3; t++) {
        add(&b, names[t], (int64_t)number(n, t))->decay = t != 2;
    }
    mk_optim_opts opts = mk_optim_defaults();
    opts.clip = json_number_value(json_object_get(g, "clip"));
    start(&b, &opts);
    int n_clipped = 0;
    for (int s = 0; s < N_STEP; s++) {
        mk_optim_report r = step(&b, s, 1);
        double norm = number(json_object_get(g, "norms"), (size_t)s);
        assert_true(fabs(r.norm - norm) < 1e-6 * norm);
        assert_int_equal(r.clipped, norm > opts.clip);
        n_clipped += r.clipped;
        assert_values(&b, json_array_get(json_object_get(g, "values"), (size_t)s), 6e-7, s);
        assert_true(b.param[0].g[3] == 0);  // zero_g
    }
    assert_true(n_clipped > 2 && n_clipped < N_STEP - 2);
    bench_close(&b);
}

// The formulas of optim.h in a loop, bit by bit; n is no multiple of 16, g_scale not 1.
static void adamw_is_exact(void **state) {
    (void)state;
    enum { N = 40000 + 13 };
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
        add(&b, "w", N)->lr_factor = 0.5;
        mk_optim_opts opts = mk_optim_defaults();
        opts.clip = 0;
        start(&b, &opts);
        float *p = mk_try_alloc(3 * N, sizeof *p), *m = p + N, *v = m + N;
        memcpy(p, b.param[0].p, N * sizeof *p);
        double c1 = 1, c2 = 1;
        for (int s = 0; s < 3; s++) {
            c1 *= opts.beta1;
            c2 *= opts.beta2;
            double lr = number(json_object_get(golden, "lr"), (size_t)s) * 0.5;
            float size = (float)(lr / (1 - c1)), keep = (float)(1 - lr * opts.weight_decay);
            float v_scale = (float)(1 / sqrt(1 - c2)), b1 = 0.9f, b2 = 0.95f;
            float n1 = (float)(1 - opts.beta1), n2 = (float)(1 - opts.beta2);
            step(&b, s, 1.0 / 3);
            for (int i = 0; i < N; i++) {
                float g = gen(0, s, i) * (float)(1.0 / 3);
                m[i] = fmaf(b1, m[i], n1 * g);
                v[i] = fmaf(b2, v[i], n2 * g * g);
                p[i] = fmaf(-size, m[i] / fmaf(sqrtf(v[i]), v_scale, 1e-8f), p[i] * keep);
            }
            assert_memory_equal(p, b.param[0].p, N * sizeof *p);
        }
        int64_t n;
        const mk_ckpt_section *states = mk_optim_states(b.o, &n);
        assert_int_equal(n, 2);
        assert_string_equal(states[0].name, "adam.m:w");
        assert_string_equal(states[1].name, "adam.v:w");
        assert_memory_equal(states[0].data, m, N * sizeof *m);
        assert_memory_equal(states[1].data, v, N * sizeof *v);
        mk_free(p);
        bench_close(&b);
    }
}

// --- Muon ----------------------------------------------------------------------------------------
// Wide, tall and square, none a multiple of 16.  The steps enlarge small singular values 500-fold,
// and rounding with them; rates are below 0.01, updates 0.9 at most.
static void muon_equals_torch(void **state) {
    (void)state;
    const json_t *g = json_object_get(golden, "muon"), *shapes = json_object_get(g, "shapes");
    static const char *const names[] = {"wide", "tall", "square"};
    bench b = bench_open(mk_kernels_at(0), 2);
    for (size_t t = 0; t < 3; t++) {
        const json_t *shape = json_array_get(shapes, t);
        add_matrix(&b, names[t], (int64_t)number(shape, 0), (int64_t)number(shape, 1));
    }
    mk_optim_opts opts = mk_optim_defaults();
    opts.clip = 0;
    opts.muon = true;
    start(&b, &opts);
    int n_compared = 0;
    for (int s = 0; s < N_STEP; s++) {
        char key[8];
        snprintf(key, sizeof key, "%d", s + 1);
        step(&b, s, 1);
        const json_t *want = json_object_get(json_object_get(g, "values"), key);
        if (want != NULL) {
            assert_values(&b, want, 1e-6, s);
            n_compared++;
        }
    }
    assert_int_equal(n_compared, 3);
    // padding: rows beyond n_out
    for (int64_t i = 0; i < b.param[0].n; i++) {
        assert_true(i % 16 < 5 || b.param[0].p[i] == 0);
    }
    bench_close(&b);
}

// --- schedules -----------------------------------------------------------------------------------
// transformers warms up from 0, so its step s + 1 is ours s; its wsd warms up from the minimum.
static void schedules_equal_transformers(void **state) {
    (void)state;
    const json_t *g = json_object_get(golden, "schedules");
    static const char *const kinds[] = {"constant", "linear", "cosine", "wsd"};
    for (int k = 0; k < 4; k++) {
        mk_schedule s = {.lr = 0.25, .n_step = 20, .n_warmup = 4, .decay = 0.4};
        s.min_ratio = k >= 2 ? 0.1 : 0;
        assert_int_equal(mk_schedule_parse(kinds[k], &s.kind, NULL), MK_OK);
        assert_string_equal(mk_schedule_name(s.kind), kinds[k]);
        assert_int_equal(mk_schedule_check(&s, NULL), MK_OK);
        const json_t *want = json_object_get(g, kinds[k]);
        assert_int_equal(json_array_size(want), s.n_step + 1);
        for (int64_t i = 0; i <= s.n_step; i++) {
            double w = i < 4 ? 0.25 * (double)(i + 1) : number(want, (size_t)i);
            assert_true(fabs(mk_schedule_lr(&s, i) - 0.25 * w) < 1e-12);
        }
        assert_true(mk_schedule_lr(&s, 1000) == mk_schedule_lr(&s, 20));
    }
}

static void schedules_at_their_ends(void **state) {
    (void)state;
    mk_schedule s = {.kind = MK_SCHEDULE_COSINE, .lr = 1, .n_step = 3, .n_warmup = 3};
    assert_true(mk_schedule_lr(&s, 0) == 1.0 / 3 && mk_schedule_lr(&s, 2) == 1);
    s.n_warmup = 0;
    assert_true(mk_schedule_lr(&s, 0) == 1 && mk_schedule_lr(&s, 3) == 0);
    s = (mk_schedule){.kind = MK_SCHEDULE_WSD, .lr = 1, .n_step = 10, .n_warmup = 6, .decay = 0.9};
    assert_true(mk_schedule_lr(&s, 6) == 1 && mk_schedule_lr(&s, 8) == 0.5);
    s.decay = 0;
    assert_true(mk_schedule_lr(&s, 9) == 1);
}

static void schedules_refuse_nonsense(void **state) {
    (void)state;
    const mk_schedule good = {.lr = 1, .n_step = 10, .n_warmup = 2, .min_ratio = 0.1, .decay = 0.2};
    mk_schedule bad[6];
    mk_err err = {0};
    for (int i = 0; i < 6; i++) {
        bad[i] = good;
    }
    bad[0].lr = NAN;
    bad[1].lr = -1;
    bad[2].min_ratio = 1.5;
    bad[3].n_warmup = 11;
    bad[4].n_warmup = -1;
    bad[5].decay = -0.1;
    assert_int_equal(mk_schedule_check(&good, &err), MK_OK);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(mk_schedule_check(&bad[i], &err), MK_EUSAGE);
    }
    mk_schedule_kind kind;
    assert_int_equal(mk_schedule_parse("cosinus", &kind, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "cosinus"));
    assert_non_null(strstr(err.msg, "wsd"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_equals_torch),      cmocka_unit_test(adamw_is_exact),
        cmocka_unit_test(muon_equals_torch),       cmocka_unit_test(schedules_equal_transformers),
        cmocka_unit_test(schedules_at_their_ends), cmocka_unit_test(schedules_refuse_nonsense),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
