// Optimisers: golden values of PyTorch (tests/golden/gen_optim.py), plain definitions, and the same
// bits for every number of threads and instruction set.
#include "train/optim_util.h"

#include "torture.h"

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
        char key[16];
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

// --- everything at once --------------------------------------------------------------------------
// Hash of all parameters and states after 3 steps with clipping, all kinds of states, several
// chunks a tensor, matrices large enough to be shared between threads.
static uint64_t hash_of_run(const mk_kernels *k, int n_thread, int from_checkpoint) {
    bench b = bench_open(k, n_thread);
    add(&b, "embedding", 50021)->keep_f32 = true;
    add(&b, "adapter", 40000)->lr_factor = 2;
    add(&b, "norm", 77)->decay = false;
    add_matrix(&b, "up", 100, 72);
    add_matrix(&b, "down", 72, 100);
    mk_optim_opts opts = mk_optim_defaults();
    opts.eight_bit = opts.muon = true;
    start(&b, &opts);
    uint64_t h = 0;
    for (int s = 0; s < 3; s++) {
        if (s == from_checkpoint) {  // states and parameters through copies, into a new optimiser
            int64_t n;
            const mk_ckpt_section *old = mk_optim_states(b.o, &n);
            mk_optim *was = b.o;
            assert_int_equal(mk_optim_create(b.ops, &opts, b.param, b.n, &b.o, NULL), MK_OK);
            const mk_ckpt_section *new = mk_optim_states(b.o, &n);
            for (int64_t i = 0; i < n; i++) {
                size_t bytes = 0;
                assert_true(mk_dtype_row_bytes(old[i].dtype, old[i].shape[0], &bytes));
                memcpy(new[i].data, old[i].data, bytes);
            }
            mk_optim_destroy(was);
        }
        mk_optim_report r = step(&b, s, 0.75);
        assert_true(r.clipped);
        h = mk_hash64(&r.norm, sizeof r.norm, h);
    }
    for (int t = 0; t < b.n; t++) {
        h = mk_hash64(b.param[t].p, (size_t)b.param[t].n * sizeof(float), h);
    }
    int64_t n;
    const mk_ckpt_section *states = mk_optim_states(b.o, &n);
    for (int64_t i = 0; i < n; i++) {
        size_t bytes = 0;
        assert_true(mk_dtype_row_bytes(states[i].dtype, states[i].shape[0], &bytes));
        h = mk_hash64(states[i].data, bytes, h);
    }
    bench_close(&b);
    return h;
}

static void bits_depend_on_nothing(void **state) {
    (void)state;
    uint64_t want = hash_of_run(mk_kernels_at(0), 1, -1);
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            if (hash_of_run(mk_kernels_at(k), n_thread, n_thread - 1) != want) {
                fail_msg("other bits with %s and %d threads", mk_kernels_name(mk_kernels_at(k)),
                         n_thread);
            }
        }
    }
}

// A gradient that is not finite: nothing is written, step, tensor and place are named.
static void bad_gradients_stop(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e20f};
    bench b = bench_open(mk_kernels_at(0), 2);
    add(&b, "first", 100);
    add(&b, "blk.3.up", 40000);
    mk_optim_opts opts = mk_optim_defaults();
    start(&b, &opts);
    step(&b, 0, 1);
    float *was = mk_try_alloc(40000, sizeof *was);
    memcpy(was, b.param[1].p, 40000 * sizeof *was);
    float first = b.param[0].p[0];
    for (int i = 0; i < 4; i++) {
        mk_err err = {0};
        fill(&b, 1);
        b.param[1].g[33333] = bad[i];
        assert_int_equal(mk_optim_step(b.o, &(mk_optim_at){12, 0.1, 1}, NULL, &err), MK_ELIMIT);
        assert_non_null(strstr(err.msg, "step 12: the gradient of blk.3.up "));
        assert_non_null(strstr(err.msg, i < 3 ? "element 33333 of 40000" : "too large"));
        assert_memory_equal(was, b.param[1].p, 40000 * sizeof *was);
        assert_true(b.param[0].p[0] == first);
    }
    mk_free(was);
    bench_close(&b);
}

static void padding_stays_zero(void **state) {
    (void)state;
    for (int eight_bit = 0; eight_bit < 2; eight_bit++) {
        bench b = bench_open(mk_kernels_at(0), 1);
        add_matrix(&b, "w", 17, 300);  // rows 17 to 31 are padding
        mk_optim_opts opts = mk_optim_defaults();
        opts.eight_bit = eight_bit;
        start(&b, &opts);
        for (int s = 0; s < N_STEP; s++) {
            step(&b, s, 1);
        }
        for (int64_t i = 0; i < 15; i++) {
            for (int64_t k = 0; k < 300; k++) {
                assert_true(mk_f32_bits(b.param[0].p[300 * 16 + k * 16 + 1 + i]) == 0);
            }
        }
        assert_true(b.param[0].p[300 * 16] != gen(0, -1, 16 * 300));
        bench_close(&b);
    }
}

static void options_are_checked(void **state) {
    (void)state;
    bench b = bench_open(mk_kernels_at(0), 1);
    mk_optim_opts bad[8];
    for (int i = 0; i < 8; i++) {
        bad[i] = mk_optim_defaults();
    }
    bad[0].beta1 = 1;
    bad[1].beta2 = NAN;
    bad[2].eps = 0;
    bad[3].weight_decay = -1;
    bad[4].clip = -1;
    bad[5].momentum = 1;
    bad[6].beta1 = -0.1;
    bad[7].clip = INFINITY;
    for (int i = 0; i < 8; i++) {
        mk_err err = {0};
        mk_optim *o = NULL;
        assert_int_equal(mk_optim_create(b.ops, &bad[i], NULL, 0, &o, &err), MK_EUSAGE);
        assert_null(o);
        assert_true(strlen(err.msg) > 10);
    }
    bench_close(&b);
}

static mk_status create_and_step(void *arg, mk_err *err) {
    const bench *b = arg;
    mk_optim *o = NULL;
    mk_optim_opts opts = mk_optim_defaults();
    opts.eight_bit = opts.muon = true;
    mk_ops *ops = mk_ops_create(mk_kernels_at(0), b->pool);
    mk_status st = mk_optim_create(ops, &opts, b->param, b->n, &o, err);
    if (st == MK_OK) {
        st = mk_optim_step(o, &(mk_optim_at){1, 0.01, 1}, NULL, err);
    }
    mk_optim_destroy(o);
    mk_ops_destroy(ops);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    bench b = bench_open(mk_kernels_at(0), 1);
    add(&b, "w", 5000);
    add_matrix(&b, "m", 20, 30);
    assert_true(mk_torture(create_and_step, &b) >= 5);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_equals_torch),  cmocka_unit_test(adamw_is_exact),
        cmocka_unit_test(muon_equals_torch),   cmocka_unit_test(bits_depend_on_nothing),
        cmocka_unit_test(bad_gradients_stop),  cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(options_are_checked), cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
