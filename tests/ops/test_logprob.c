// Log-probabilities, entropy and their gradient: against torch in float64 (tests/golden/
// gen_logprob.py), against the definition of docs/numerics.md written out naively (equal bits on
// every instruction set, any threads, any cut of the rows), and the gradient against finite
// differences.
#include <math.h>

#include "base/file.h"
#include "ops/back.h"
#include "ops_util.h"

typedef struct {
    mk_mat z, dz;
    const int32_t *id;
    const float *weight;
    float temperature;
    float *logp, *lse, *entropy;  // [n_row], or NULL
    int64_t cut;                  // rows of a call, 0 = all
} logprob_step;

static void call_all(mk_ops *ops, void *arg) {
    const logprob_step *s = arg;
    int64_t cut = s->cut > 0 ? s->cut : s->z.n_row;
    for (int64_t t = 0; t < s->z.n_row; t += cut) {
        int64_t n = s->z.n_row - t < cut ? s->z.n_row - t : cut;
        mk_mat z = mk_mat_rows(s->z, t, n);
        mk_op_logprob(ops, s->logp + t, s->lse != NULL ? s->lse + t : NULL, z, s->id + t,
                      s->temperature);
        if (s->entropy != NULL) {
            mk_op_entropy(ops, s->entropy + t, z, s->temperature);
        }
        if (s->dz.p != NULL) {
            mk_back_logprob(ops, mk_mat_rows(s->dz, t, n), z, s->id + t, s->weight + t,
                            s->temperature);
        }
    }
}

static void run_all(const mk_kernels *k, int n_thread, logprob_step *s) {
    bench b = bench_open(k, n_thread);
    run_step(&b, call_all, s);
    bench_close(&b);
}

// --- torch ---------------------------------------------------------------------------------------
typedef struct {
    int64_t n_row, n_vocab;
    float temperature;
    float *z, *weight, *dz;
    int32_t *id;
    double *truth[3];  // logp, lse, entropy
} golden;

static void *take(const char **p, size_t n, size_t size) {
    void *copy = mk_try_alloc(n, size);
    assert_non_null(copy);
    memcpy(copy, *p, n * size);
    *p += n * size;
    return copy;
}

static golden golden_read(const char **p) {
    int32_t shape[2];
    golden g;
    memcpy(shape, *p, sizeof shape);
    memcpy(&g.temperature, *p + 8, sizeof g.temperature);
    *p += 12;
    g.n_row = shape[0];
    g.n_vocab = shape[1];
    size_t rows = (size_t)g.n_row, n = rows * (size_t)g.n_vocab;
    g.z = take(p, n, 4);
    g.id = take(p, rows, 4);
    g.weight = take(p, rows, 4);
    for (int i = 0; i < 3; i++) {
        g.truth[i] = take(p, rows, 8);
    }
    g.dz = take(p, n, 4);
    return g;
}

static void golden_free(golden *g) {
    mk_free(g->z);
    mk_free(g->id);
    mk_free(g->weight);
    mk_free(g->dz);
    for (int i = 0; i < 3; i++) {
        mk_free(g->truth[i]);
    }
}

// Scaling by 1/T and subtracting the maximum each round to half an ulp of the scaled logits, so the
// exponents are off by 2^-22 of the greatest |z / T| among those that count (far from the
// maximum p is 0 anyhow); sums of 1000 terms and the exponential add less than 2e-6.
static double tolerance(const float *z, int64_t n, double temperature) {
    double top = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        top = (double)z[i] > top ? (double)z[i] : top;
    }
    return 2e-6 + fabs(top) / temperature * 0x1p-22;
}

static void near(double got, double want, double tol, const char *what, int64_t row) {
    if (!(fabs(got - want) <= tol + 0x1p-23 * fabs(want))) {
        fail_msg("%s of row %lld: %.9g, torch has %.9g", what, (long long)row, got, want);
    }
}

static void check_golden(const golden *g) {
    int64_t n = g->n_row, v = g->n_vocab;
    float out[3][16], *dz = mk_zalloc((size_t)(n * v) * 4);
    assert_true(n <= 16);
    logprob_step s = {.z = {g->z, n, v, v},
                      .dz = {dz, n, v, v},
                      .id = g->id,
                      .weight = g->weight,
                      .temperature = g->temperature,
                      .logp = out[0],
                      .lse = out[1],
                      .entropy = out[2]};
    run_all(mk_kernels_at(0), 1, &s);
    for (int64_t t = 0; t < n; t++) {
        double tol = tolerance(g->z + t * v, v, (double)g->temperature);
        if (tol > 0.1) {
            tol = 0;  // logits too far apart for a second one to count
        }
        near((double)out[0][t], g->truth[0][t], tol, "logp", t);
        near((double)out[1][t], g->truth[1][t], tol, "lse", t);
        near((double)out[2][t], g->truth[2][t], tol * 10, "entropy", t);
        for (int64_t i = 0; i < v; i++) {
            near((double)dz[t * v + i], (double)g->dz[t * v + i],
                 tol * fabs((double)g->weight[t] / (double)g->temperature), "gradient", t);
        }
    }
    mk_free(dz);
}

static void torch_agrees(void **state) {
    (void)state;
    char *data = NULL;
    size_t n = 0;
    mk_err err = {0};
    assert_int_equal(mk_file_read("tests/golden/logprob.bin", 1 << 20, &data, &n, &err), MK_OK);
    int n_record = 0;
    for (const char *p = data; p < data + n; n_record++) {
        golden g = golden_read(&p);
        check_golden(&g);
        golden_free(&g);
    }
    assert_int_equal(n_record, 6);
    mk_free(data);
}

// --- the definition ------------------------------------------------------------------------------
static float tree16(float *v) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            v[i] += v[i + half];
        }
    }
    return v[0];
}

// One row by docs/numerics.md; dz and weight may be NULL.
static void naive_row(const logprob_step *s, int64_t t, float *dz) {
    const float *z = s->z.p + t * s->z.stride;
    int64_t n = s->z.n_col;
    float inv = 1.0f / s->temperature, max = -INFINITY, sum[16] = {0}, dot[16] = {0};
    for (int64_t i = 0; i < n; i++) {
        max = z[i] * inv > max ? z[i] * inv : max;
    }
    for (int64_t i = 0; i < n; i++) {
        float d = z[i] * inv - max, e = mk_expf(d);
        sum[i % 16] += e;
        dot[i % 16] = e > 0 ? fmaf(e, d, dot[i % 16]) : dot[i % 16];
    }
    float total = tree16(sum), r = 1.0f / total;
    double log_sum = total == total ? mk_log((double)total) : (double)NAN;
    s->logp[t] = (float)((double)(z[s->id[t]] * inv) - (double)max - log_sum);
    s->lse[t] = (float)((double)max + log_sum);
    s->entropy[t] = (float)(log_sum - (double)tree16(dot) / (double)total);
    for (int64_t i = 0; i < n && s->weight[t] != 0; i++) {
        float p = mk_expf(z[i] * inv - max) * r;
        dz[i] = fmaf(s->weight[t] * inv, i == s->id[t] ? p - 1.0f : p, dz[i]);
    }
}

typedef struct {
    int64_t n_row, n_col, stride;
    float temperature;
} shape;

static void check_definition(const shape *c, uint64_t *rng) {
    int64_t n = c->n_row, size = n * c->stride;
    float *z = random_floats(rng, size), *start = random_floats(rng, size),
          *want = random_floats(rng, size), *dz = random_floats(rng, size);
    float *weight = random_floats(rng, n), *expected = mk_alloc((size_t)n * 12 + 1),
          *got = mk_alloc((size_t)n * 12 + 1);
    int32_t *id = mk_alloc((size_t)n * 4 + 1);
    for (int64_t i = 0; i < size; i++) {
        z[i] = next_int(rng, 16) == 0 ? -INFINITY : z[i] * 8;
    }
    for (int64_t t = 0; t < n; t++) {
        id[t] = (int32_t)next_int(rng, c->n_col);
        weight[t] = t % 5 == 4 ? 0.0f : weight[t];
        z[t * c->stride + next_int(rng, c->n_col)] = 3.0f;  // one at least is not masked
    }
    memcpy(want, start, (size_t)size * 4);
    logprob_step s = {.z = {z, n, c->n_col, c->stride},
                      .id = id,
                      .weight = weight,
                      .temperature = c->temperature,
                      .logp = expected,
                      .lse = expected + n,
                      .entropy = expected + 2 * n};
    uint64_t fpu = mk_fpu_enter();
    for (int64_t t = 0; t < n; t++) {
        naive_row(&s, t, want + t * c->stride);
    }
    mk_fpu_leave(fpu);
    s.dz = (mk_mat){dz, n, c->n_col, c->stride};
    s.logp = got;
    s.lse = got + n;
    s.entropy = got + 2 * n;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            const char *name = mk_kernels_name(mk_kernels_at(k));
            s.cut = n_thread == 3 ? 3 : n_thread == 2 ? 1 : 0;
            memcpy(dz, start, (size_t)size * 4);
            run_all(mk_kernels_at(k), n_thread, &s);
            assert_same_floats(got, expected, 3 * n, name);
            assert_same_floats(dz, want, size, name);  // also what lies between the rows
        }
    }
    mk_free(z);
    mk_free(start);
    mk_free(want);
    mk_free(dz);
    mk_free(weight);
    mk_free(expected);
    mk_free(got);
    mk_free(id);
}

static void bits_are_the_definition(void **state) {
    (void)state;
    static const shape shapes[] = {
        {3, 1, 1, 1.0f},    {4, 16, 16, 0.7f},      {7, 17, 33, 1.0f},     {6, 79, 80, 1.3f},
        {5, 1000, 1003, 1}, {12, 4099, 4112, 0.6f}, {2, 151936, 151936, 1}};
    uint64_t rng = 51;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        check_definition(&shapes[i], &rng);
    }
}

// A long row against double: 2e-6 as in the golden rows, and the same again for sums of 9,500 terms
// a lane.
static void long_rows_stay_exact(void **state) {
    (void)state;
    enum { N = 151936 };
    uint64_t rng = 52;
    float *z = random_floats(&rng, N), logp, lse, entropy;
    int32_t id = 4711;
    double sum = 0, dot = 0;
    for (int i = 0; i < N; i++) {
        z[i] *= 2;
        sum += exp((double)z[i]);
        dot += exp((double)z[i]) * (double)z[i];
    }
    logprob_step s = {.z = {z, 1, N, N},
                      .id = &id,
                      .temperature = 1,
                      .logp = &logp,
                      .lse = &lse,
                      .entropy = &entropy};
    run_all(mk_kernels_at(0), 1, &s);
    assert_true(fabs((double)lse - log(sum)) < 4e-6);
    assert_true(fabs((double)logp - ((double)z[id] - log(sum))) < 4e-6);
    assert_true(fabs((double)entropy - (log(sum) - dot / sum)) < 4e-5);
    mk_free(z);
}

// --- finite differences --------------------------------------------------------------------------
static double weighted_loss(const double *z, int64_t n_row, int64_t n, const logprob_step *s) {
    double loss = 0;
    for (int64_t t = 0; t < n_row; t++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) {
            sum += exp(z[t * n + i] / (double)s->temperature);
        }
        loss += (double)s->weight[t] * (log(sum) - z[t * n + s->id[t]] / (double)s->temperature);
    }
    return loss;
}

// Central differences in double are good to 1e-8 here; 2e-6 is the float32 softmax.
static void gradient_is_the_slope(void **state) {
    (void)state;
    enum { ROWS = 4, N = 37 };
    static const int32_t id[ROWS] = {0, 36, 5, 16};
    static const float weight[ROWS] = {1.0f, -0.5f, 0.0f, 2.25f};
    uint64_t rng = 53;
    float *z = random_floats(&rng, ROWS * N), dz[ROWS * N] = {0}, logp[ROWS];
    double zd[ROWS * N];
    logprob_step s = {.z = {z, ROWS, N, N},
                      .dz = {dz, ROWS, N, N},
                      .id = id,
                      .weight = weight,
                      .temperature = 0.8f,
                      .logp = logp};
    run_all(mk_kernels_at(0), 1, &s);
    for (int i = 0; i < ROWS * N; i++) {
        zd[i] = (double)z[i];
    }
    for (int i = 0; i < ROWS * N; i++) {
        const double h = 1e-5;
        zd[i] += h;
        double up = weighted_loss(zd, ROWS, N, &s);
        zd[i] -= 2 * h;
        double slope = (up - weighted_loss(zd, ROWS, N, &s)) / (2 * h);
        zd[i] += h;
        assert_true(fabs((double)dz[i] - slope) < 2e-6);
    }
    mk_free(z);
}

// --- what is not a number ------------------------------------------------------------------------
enum { SPECIAL_ROWS = 7, SPECIAL_N = 19 };

static void check_special(const mk_kernels *k) {
    float z[SPECIAL_ROWS][SPECIAL_N], dz[SPECIAL_ROWS][SPECIAL_N] = {{0}}, logp[SPECIAL_ROWS],
                                      lse[SPECIAL_ROWS], entropy[SPECIAL_ROWS];
    int32_t id[SPECIAL_ROWS] = {0, 0, 0, 3, 18, 2, 18};
    float weight[SPECIAL_ROWS] = {1, 1, 1, 1, 1, 0, 1};
    for (int t = 0; t < SPECIAL_ROWS; t++) {
        for (int i = 0; i < SPECIAL_N; i++) {
            z[t][i] = t == 2 || t == 4 ? -INFINITY : (float)(i % 5);
        }
    }
    z[0][17] = NAN;       // a NaN anywhere
    z[1][18] = INFINITY;  // as torch
    z[3][3] = -INFINITY;  // the token itself is masked; row 2: all are
    z[4][18] = -300;      // all but the token are
    z[5][2] = NAN;        // weight 0
    z[6][18] = 2e38f;
    logprob_step s = {.z = {z[0], SPECIAL_ROWS, SPECIAL_N, SPECIAL_N},
                      .dz = {dz[0], SPECIAL_ROWS, SPECIAL_N, SPECIAL_N},
                      .id = id,
                      .weight = weight,
                      .temperature = 1,
                      .logp = logp,
                      .lse = lse,
                      .entropy = entropy};
    run_all(k, 2, &s);
    for (int t = 0; t < 3; t++) {
        assert_true(isnan(logp[t]) && isnan(lse[t]) && isnan(entropy[t]) && isnan(dz[t][0]) &&
                    isnan(dz[t][18]));
    }
    assert_true(logp[3] == -INFINITY && isfinite(lse[3]) && isfinite(entropy[3]) &&
                dz[3][3] == -1.0f);
    assert_true(logp[4] == 0.0f && lse[4] == -300.0f && entropy[4] == 0.0f && dz[4][18] == 0.0f);
    assert_true(isnan(logp[5]) && dz[5][0] == 0.0f && dz[5][2] == 0.0f);
    assert_true(logp[6] == 0.0f && lse[6] == 2e38f && dz[6][0] == 0.0f);
}

static void special_values(void **state) {
    (void)state;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        check_special(mk_kernels_at(k));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_agrees),         cmocka_unit_test(bits_are_the_definition),
        cmocka_unit_test(long_rows_stay_exact), cmocka_unit_test(gradient_is_the_slope),
        cmocka_unit_test(special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
