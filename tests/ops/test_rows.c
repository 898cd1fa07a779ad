// Row operators against plain definitions, exactly where the order of operations is the definition
// (RMS norm, SwiGLU, rotation), for every instruction set; and the bookkeeping of a step: scratch,
// dry runs, taps, times.
#include <math.h>

#include "ops_util.h"

typedef struct {
    mk_mat y, a, b;
    const float *w;
    float eps;
    void (*call)(mk_ops *ops, void *arg);
    const mk_rope *rope;
    const int32_t *pos;
} rows_step;

static void call_rmsnorm(mk_ops *ops, void *arg) {
    rows_step *s = arg;
    mk_op_rmsnorm(ops, s->y, s->a, s->w, s->eps);
}
static void call_swiglu(mk_ops *ops, void *arg) {
    rows_step *s = arg;
    mk_op_swiglu(ops, s->y, s->a, s->b);
}
static void call_add(mk_ops *ops, void *arg) {
    rows_step *s = arg;
    mk_op_add(ops, s->y, s->a);
}
static void call_copy(mk_ops *ops, void *arg) {
    rows_step *s = arg;
    mk_op_copy(ops, s->y, s->a);
}
static void call_rope(mk_ops *ops, void *arg) {
    rows_step *s = arg;
    mk_op_rope_angles(ops, s->b, s->pos, s->w, s->rope->n_pair, 1.25);
    mk_op_rope(ops, s->y, s->rope, s->b);
}

static float tree16(const float *s) {
    float v[16];
    memcpy(v, s, sizeof v);
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            v[i] += v[i + half];
        }
    }
    return v[0];
}

static void naive_rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps) {
    float s[16] = {0};
    for (int64_t i = 0; i < n; i++) {
        s[i % 16] = fmaf(x[i], x[i], s[i % 16]);
    }
    float r = 1.0f / sqrtf(tree16(s) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * r * w[i];
    }
}

static const int64_t sizes[][2] = {{1, 1},    {1, 16},    {3, 33}, {5, 100},
                                   {1, 9000}, {17, 2048}, {0, 64}};

static void rmsnorm_is_exact(void **state) {
    (void)state;
    uint64_t rng = 31;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t n = sizes[i][0], d = sizes[i][1];
        float *x = random_floats(&rng, n * d), *w = random_floats(&rng, d),
              *want = random_floats(&rng, n * d);
        for (int64_t t = 0; t < n; t++) {
            naive_rmsnorm(want + t * d, x + t * d, w, d, 1e-5f);
        }
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
            float *y = random_floats(&rng, n * d);
            memcpy(y, x, (size_t)(n * d) * 4);
            rows_step s = {
                .y = {y, n, d, d}, .a = {y, n, d, d}, .w = w, .eps = 1e-5f};  // y aliases x
            run_step(&b, call_rmsnorm, &s);
            assert_same_floats(y, want, n * d, mk_kernels_name(mk_kernels_at(k)));
            mk_free(y);
            bench_close(&b);
        }
        mk_free(x);
        mk_free(w);
        mk_free(want);
    }
}

// Also the proof that the vector exponential equals mk_expf: over steps through the whole range and
// the special values.
static void swiglu_is_exact(void **state) {
    (void)state;
    enum { N = 200003 };
    uint64_t rng = 32;
    float *g = random_floats(&rng, N), *u = random_floats(&rng, N), *y = mk_alloc(N * 4),
          *want = mk_alloc(N * 4);
    static const float special[] = {0.0f,   -0.0f,    NAN,      INFINITY,  -INFINITY,
                                    1e-40f, 87.3365f, 88.7229f, -88.7229f, -87.3365f};
    for (int i = 0; i < N; i++) {
        g[i] = i < 10 ? special[i] : i % 2 == 0 ? g[i] * 4 : ((float)i / N - 0.5f) * 180;
    }
    uint64_t fpu = mk_fpu_enter();
    for (int i = 0; i < N; i++) {
        want[i] = g[i] / (1.0f + mk_expf(-g[i])) * u[i];
    }
    mk_fpu_leave(fpu);
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 2);
        rows_step s = {.y = {y, 1, N, N}, .a = {g, 1, N, N}, .b = {u, 1, N, N}};
        run_step(&b, call_swiglu, &s);
        assert_same_floats(y, want, N, mk_kernels_name(mk_kernels_at(k)));
        s = (rows_step){.y = {y, 7, 1001, 1003}, .a = {g, 7, 1001, 1003}, .b = {u, 7, 1001, 1003}};
        run_step(&b, call_swiglu, &s);
        assert_same_floats(y + 6 * 1003, want + 6 * 1003, 1001, mk_kernels_name(mk_kernels_at(k)));
        bench_close(&b);
    }
    mk_free(g);
    mk_free(u);
    mk_free(y);
    mk_free(want);
}

static void add_and_copy_respect_strides(void **state) {
    (void)state;
    uint64_t rng = 33;
    float *x = random_floats(&rng, 5 * 40), *y = random_floats(&rng, 5 * 50),
          *was = mk_alloc(5 * 50 * 4);
    memcpy(was, y, 5 * 50 * 4);
    bench b = bench_open(mk_kernels_at(0), 2);
    rows_step s = {.y = {y, 5, 30, 50}, .a = {x, 5, 30, 40}};
    run_step(&b, call_add, &s);
    for (int i = 0; i < 5 * 50; i++) {
        float want = i % 50 < 30 ? was[i] + x[i / 50 * 40 + i % 50] : was[i];
        assert_true(y[i] == want);
    }
    run_step(&b, call_copy, &s);
    for (int i = 0; i < 5 * 50; i++) {
        assert_true(y[i] == (i % 50 < 30 ? x[i / 50 * 40 + i % 50] : was[i]));
    }
    bench_close(&b);
    mk_free(x);
    mk_free(y);
    mk_free(was);
}

// Rotation against cos and sin of the C library in double; 1e-6 for the float32 table and two
// roundings.
static void rope_rotates_pairs(void **state) {
    (void)state;
    enum { TOK = 4, HEADS = 3, STRIDE = 20, FIRST = 4, PAIRS = 8 };
    uint64_t rng = 34;
    static const int32_t pos[TOK] = {0, 1, 17, 100000};
    float freq[PAIRS], cs[TOK * 2 * PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        freq[i] = (float)pow(10000.0, -i / 8.0);
    }
    for (int style = MK_ROPE_HALF; style <= MK_ROPE_INTERLEAVED; style++) {
        mk_rope r = {HEADS, STRIDE, FIRST, PAIRS, (mk_rope_style)style};
        float *x = random_floats(&rng, TOK * HEADS * STRIDE),
              *y = mk_alloc(TOK * HEADS * STRIDE * 4);
        memcpy(y, x, TOK * HEADS * STRIDE * 4);
        bench b = bench_open(mk_kernels_at(0), 2);
        rows_step s = {.y = {y, TOK, HEADS * STRIDE, HEADS * STRIDE},
                       .b = {cs, TOK, 2 * PAIRS, 2 * PAIRS},
                       .w = freq,
                       .rope = &r,
                       .pos = pos};
        run_step(&b, call_rope, &s);
        for (int i = 0; i < TOK * HEADS * STRIDE; i++) {
            int t = i / (HEADS * STRIDE), at = i % STRIDE - FIRST;
            if (at < 0 || at >= 2 * PAIRS) {
                assert_true(y[i] == x[i]);
                continue;
            }
            bool half = style == MK_ROPE_HALF;
            int pair = half ? at % PAIRS : at / 2;
            bool second = half ? at >= PAIRS : at % 2 == 1;
            int other = half ? (second ? -PAIRS : PAIRS) : (second ? -1 : 1);
            double angle = (double)((float)pos[t] * freq[pair]), c = 1.25 * cos(angle),
                   si = 1.25 * sin(angle);
            double want = (double)x[i] * c + (second ? 1 : -1) * (double)x[i + other] * si;
            assert_true(fabs((double)y[i] - want) <
                        1e-6 * (1 + fabs((double)x[i]) + fabs((double)x[i + other])) * 2);
        }
        bench_close(&b);
        mk_free(x);
        mk_free(y);
    }
}

// --- embedding -----------------------------------------------------------------------------------
typedef struct {
    mk_mat y;
    const uint8_t *table;
    mk_dtype dtype;
    size_t row_bytes;
    const int32_t *ids;
} embed_step;

static void call_embed(mk_ops *ops, void *arg) {
    embed_step *s = arg;
    mk_op_embed(ops, s->y, s->table, s->dtype, s->row_bytes, s->ids);
}

static void embed_copies_rows(void **state) {
    (void)state;
    static const mk_dtype types[] = {MK_DTYPE_F32, MK_DTYPE_F16, MK_DTYPE_BF16, MK_DTYPE_Q8_0};
    static const int32_t ids[] = {4, 0, 4, 2};
    uint64_t rng = 35;
    float *f = random_floats(&rng, 5 * 64), y[4 * 64], want[64];
    for (int d = 0; d < 4; d++) {
        size_t row = 0;
        assert_true(mk_dtype_row_bytes(types[d], 64, &row));
        uint8_t *data = mk_try_alloc(5, row);
        assert_int_equal(mk_dtype_from_f32(types[d], f, 5 * 64, data, NULL), MK_OK);
        bench b = bench_open(mk_kernels_at(0), 2);
        embed_step s = {{y, 4, 64, 64}, data, types[d], row, ids};
        run_step(&b, call_embed, &s);
        for (int t = 0; t < 4; t++) {
            mk_dtype_to_f32(types[d], data + (size_t)ids[t] * row, 64, want);
            assert_same_floats(y + t * 64, want, 64, "row");
        }
        bench_close(&b);
        mk_free(data);
    }
    mk_free(f);
}

// --- the step ------------------------------------------------------------------------------------
typedef struct {
    int n;
    float seen;
} tap_log;

static void on_tap(void *arg, const char *name, int layer, mk_mat m) {
    tap_log *t = arg;
    assert_string_equal(name, "here");
    assert_int_equal(layer, 3);
    t->n++;
    t->seen = m.p[0];
}

static void steps_count_their_scratch(void **state) {
    (void)state;
    bench b = bench_open(mk_kernels_at(0), 1);
    mk_ops_begin(b.ops, true);
    mk_mat a = mk_op_new(b.ops, 3, 17);
    assert_int_equal(a.stride, 32);
    size_t mark = mk_op_mark(b.ops);
    mk_op_new(b.ops, 100, 16);
    mk_op_release(b.ops, mark);
    mk_op_new_i32(b.ops, 5);
    mk_ops_end(b.ops);
    assert_int_equal(mk_ops_high_water(b.ops), 3 * 32 * 4 + 100 * 16 * 4);
    assert_int_equal(mk_ops_reserve(b.ops, mk_ops_high_water(b.ops), NULL), MK_OK);
    mk_alloc_fail_at(1);
    assert_int_equal(mk_ops_reserve(b.ops, (size_t)1 << 20, NULL), MK_ENOMEM);
    uint64_t before = mk_alloc_count_thread();
    tap_log log = {0, 0};
    mk_ops_set_tap(b.ops, on_tap, &log);
    mk_ops_profile(b.ops, true);
    mk_ops_begin(b.ops, false);
    a = mk_op_new(b.ops, 3, 17);
    mk_mat c = mk_op_new(b.ops, 3, 17);
    assert_true((uintptr_t)a.p % 64 == 0 && (uintptr_t)c.p % 64 == 0 && c.p >= a.p + 3 * a.stride);
    for (int i = 0; i < 3 * 32; i++) {
        a.p[i] = c.p[i] = 1;
    }
    mk_op_add(b.ops, a, c);
    mk_op_tap(b.ops, "here", 3, a);
    mk_ops_end(b.ops);
    assert_int_equal(mk_alloc_count_thread(), before);
    assert_int_equal(log.n, 1);
    assert_true(log.seen == 2.0f);
    mk_op_time times[32];
    assert_int_equal(mk_ops_times(b.ops, times, 32), 1);
    assert_string_equal(times[0].name, "add");
    assert_int_equal(times[0].n_call, 1);
    assert_true(times[0].n_op[MK_ARITH_F32] == 3.0 * 17 && times[0].n_op[MK_ARITH_INT8] == 0);
    assert_true(times[0].n_bytes == 2.0 * 3 * 17 * 4);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_is_exact),
        cmocka_unit_test(swiglu_is_exact),
        cmocka_unit_test(add_and_copy_respect_strides),
        cmocka_unit_test(rope_rotates_pairs),
        cmocka_unit_test(embed_copies_rows),
        cmocka_unit_test(steps_count_their_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
