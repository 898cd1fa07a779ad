// Choosing a token: against independent definitions (libm's exp in double, and the exact sums that
// engine/sample.h promises, both over sorted rows), expected frequencies, edges.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "engine/sample.h"
#include "cmocka_all.h"

// Independent definition: sort everything, cut by rule, walk the sum.
typedef struct {
    double p;
    int32_t id;
} plain_row;

static int by_p(const void *a, const void *b) {
    const plain_row *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

static int32_t plain_choice(const mk_sample_params *p, const float *logits, int n, int64_t pos) {
    plain_row rows[64];
    double max = -1e30, total = 0;
    for (int i = 0; i < n; i++) {
        max = (double)logits[i] > max ? (double)logits[i] : max;
    }
    for (int i = 0; i < n; i++) {
        rows[i] = (plain_row){exp(((double)logits[i] - max) / (double)p->temperature), i};
        total += rows[i].p;
    }
    qsort(rows, (size_t)n, sizeof *rows, by_p);
    int keep = 0, limit = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double kept = 0;
    while (keep < limit) {
        if (keep > 0 && rows[keep].p < (double)p->min_p * rows[0].p) {
            break;
        }
        kept += rows[keep++].p;
        if (kept >= (double)p->top_p * total) {
            break;
        }
    }
    double target = mk_rng_unit(p->seed, (uint64_t)pos) * kept, sum = 0;
    for (int i = 0; i < keep; i++) {
        sum += rows[i].p;
        if (sum > target) {
            return rows[i].id;
        }
    }
    return rows[keep - 1].id;
}

static void test_definition(void **state) {
    (void)state;
    int n_diff = 0;
    for (int trial = 0; trial < 20000; trial++) {
        float logits[50];
        uint64_t t = (uint64_t)trial;
        for (int i = 0; i < 50; i++) {
            logits[i] = (float)(8 * mk_rng_unit(1000 + t, (uint64_t)i)) - 4;
        }
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.temperature = 0.3f + (float)mk_rng_unit(1, t);
        p.top_k = (int32_t)(mk_rng_u64(2, t) % 60);
        p.top_p = trial % 3 == 0 ? 1.0f : 0.5f + 0.5f * (float)mk_rng_unit(3, t);
        p.min_p = trial % 4 == 0 ? 0.0f : 0.2f * (float)mk_rng_unit(4, t);
        p.seed = t;
        mk_sampler *s = NULL;
        mk_err err = {0};
        assert_int_equal(mk_sampler_create(&p, 50, 4, &s, &err), MK_OK);
        n_diff += mk_sampler_choose(s, logits, trial) != plain_choice(&p, logits, 50, trial);
        mk_sampler_destroy(s);
    }
    assert_in_range(n_diff, 0, 2);  // libm's exp may fall on the other side of a cut
}

static void test_frequencies(void **state) {
    (void)state;
    const float logits[4] = {0, 1, 2, 3};
    int count[4] = {0};
    mk_sample_params p = MK_SAMPLE_DEFAULTS;
    p.temperature = 1;
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0;
    p.seed = 5;
    mk_sampler *s = NULL;
    mk_err err = {0};
    assert_int_equal(mk_sampler_create(&p, 4, 4, &s, &err), MK_OK);
    for (int i = 0; i < 100000; i++) {
        count[mk_sampler_choose(s, logits, i)]++;
    }
    mk_sampler_destroy(s);
    const double want[4] = {0.0320586, 0.0871443, 0.2368828, 0.6439143};
    for (int i = 0; i < 4; i++) {  // five standard deviations
        double sd = sqrt(want[i] * (1 - want[i]) / 100000);
        assert_true(fabs(count[i] / 100000.0 - want[i]) < 5 * sd);
    }
}

static void test_edges(void **state) {
    (void)state;
    mk_sampler *s = NULL;
    mk_err err = {0};
    mk_sample_params p = MK_SAMPLE_DEFAULTS;
    p.n_token = 3;
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_OK);
    const float padded[5] = {0, 1, 2, 100, 100}, nan_row[5] = {NAN, NAN, NAN, 1, 1},
                inf_row[5] = {0, INFINITY, 0, 0, 0};
    for (int i = 0; i < 100; i++) {
        assert_in_range(mk_sampler_choose(s, padded, i), 0, 2);
    }
    assert_int_equal(mk_sampler_choose(s, nan_row, 0), 0);
    assert_int_equal(mk_sampler_choose(s, inf_row, 0), 1);
    mk_sampler_destroy(s);
    p.temperature = 0;
    p.n_token = 0;
    const float tie[5] = {1, 3, 3, 0, 3};
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_OK);
    assert_int_equal(mk_sampler_choose(s, tie, 0), 1);  // ties: lowest id
    mk_sampler_destroy(s);
    p.repetition_penalty = 2;
    p.presence_penalty = 0.5f;
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_OK);
    mk_sampler_accept(s, 1, false);
    mk_sampler_accept(s, 2, true);
    mk_sampler_accept(s, 2, true);
    assert_int_equal(mk_sampler_choose(s, tie, 0), 4);  // 1.5, 1.5 - 0.5, and 3 untouched
    mk_sampler_destroy(s);
    p.top_p = 1.5f;
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "top_p"));
}

// --- to the bit ----------------------------------------------------------------------------------

typedef struct {
    float logit;
    int32_t id;
} exact_row;

static int by_logit(const void *a, const void *b) {
    const exact_row *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1)
                                : (x->id > y->id) - (x->id < y->id);
}

// A row of logits, sorted, with its weights at one temperature.
typedef struct {
    int n, n_all;     // all, and those above -inf
    exact_row *rows;  // [n_all]
    double *weight;   // [n_all]
    double total;     // by ascending id
} exact;

static exact exact_sort(const float *logits, int n) {
    exact e = {.n = n,
               .rows = mk_alloc((size_t)n * sizeof *e.rows),
               .weight = mk_alloc((size_t)n * sizeof *e.weight)};
    for (int i = 0; i < n; i++) {
        if (logits[i] > -INFINITY) {
            e.rows[e.n_all++] = (exact_row){logits[i], i};
        }
    }
    qsort(e.rows, (size_t)e.n_all, sizeof *e.rows, by_logit);
    return e;
}

static void exact_weigh(exact *e, const float *logits, float temperature) {
    e->total = 0;
    for (int i = 0; e->n_all > 0 && i < e->n; i++) {
        float x = (logits[i] - e->rows[0].logit) / temperature;
        e->total += logits[i] > -INFINITY ? (double)mk_expf(x) : 0;
    }
    for (int i = 0; i < e->n_all; i++) {
        float x = (e->rows[i].logit - e->rows[0].logit) / temperature;
        e->weight[i] = (double)mk_expf(x);
    }
}

static void exact_free(exact *e) {
    mk_free(e->rows);
    mk_free(e->weight);
}

// The sums in the order that sample.h states.
static int32_t exact_draw(const exact *e, const mk_sample_params *p, int64_t pos) {
    if (e->n_all == 0 || e->rows[0].logit == INFINITY) {
        return e->n_all > 0 ? e->rows[0].id : 0;
    }
    int limit = p->top_k > 0 && p->top_k < e->n_all ? p->top_k : e->n_all, keep = 0;
    bool filtered = limit < e->n_all || p->top_p < 1 || p->min_p > 0;
    double kept = 0, sum = 0;
    while (filtered && keep < limit && !(keep > 0 && e->weight[keep] < (double)p->min_p)) {
        kept += e->weight[keep++];
        if (kept >= (double)p->top_p * e->total) {
            break;
        }
    }
    keep = filtered ? keep : e->n_all;
    double target = mk_rng_unit(p->seed, (uint64_t)pos) * (filtered ? kept : e->total);
    int i = 0;
    do {
        sum += e->weight[i++];
    } while (i < keep && sum <= target);
    return e->rows[i - 1].id;
}

static int32_t exact_choice(const mk_sample_params *p, const float *logits, int n, int64_t pos) {
    exact e = exact_sort(logits, n);
    exact_weigh(&e, logits, p->temperature);
    int32_t id = exact_draw(&e, p, pos);
    exact_free(&e);
    return id;
}

static void one_row(float *logits, int n, uint64_t t) {
    float spread = (float[]){0.5f, 3, 12, 60}[t % 4];
    for (int i = 0; i < n; i++) {
        double u = mk_rng_unit(t, 2 * (uint64_t)i), v = mk_rng_unit(t, 2 * (uint64_t)i + 1);
        logits[i] = spread * (float)(sqrt(-2 * log(u + 1e-12)) * cos(6.283185307 * v));
        logits[i] = t % 5 == 0 ? rintf(2 * logits[i]) : logits[i];  // many equal ones
        if (t % 3 == 0 && v < 0.3) {
            logits[i] = v < 0.28 ? -INFINITY : v < 0.29 ? -3e38f : NAN;
        }
    }
}

static void test_exact(void **state) {
    (void)state;
    static const int size[] = {1, 2, 15, 16, 17, 33, 511, 512, 1300};
    static const float temperature[] = {1e-30f, 0.05f, 0.6f, 1, 1, 100};
    float logits[1300];
    for (uint64_t t = 0; t < 4000; t++) {
        int n = size[t % 9];
        one_row(logits, n, t);
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.temperature = temperature[mk_rng_u64(1, t) % 6];
        p.top_k = t % 2 ? 0 : (int32_t)(mk_rng_u64(2, t) % 60);
        p.top_p = mk_rng_u64(3, t) % 2 ? 1.0f : (float)mk_rng_unit(4, t);
        p.min_p = mk_rng_u64(5, t) % 2 ? 0.0f : 0.2f * (float)mk_rng_unit(6, t);
        p.seed = t;
        mk_sampler *s = NULL;
        mk_err err = {0};
        assert_int_equal(mk_sampler_create(&p, n, 4, &s, &err), MK_OK);
        for (int pos = 0; pos < 4; pos++) {
            assert_int_equal(mk_sampler_choose(s, logits, pos), exact_choice(&p, logits, n, pos));
        }
        mk_sampler_destroy(s);
        p.temperature = 0;
        assert_int_equal(mk_sampler_create(&p, n, 4, &s, &err), MK_OK);
        p.temperature = 1;
        p.top_k = 1;
        assert_int_equal(mk_sampler_choose(s, logits, 0), exact_choice(&p, logits, n, 0));
        mk_sampler_destroy(s);
    }
}

// --- many candidates -----------------------------------------------------------------------------

enum { N_MANY = 7000, N_SHAPE = 18, N_POS = 12 };

static float normal(uint64_t seed, int i) {
    double u = mk_rng_unit(seed, 2 * (uint64_t)i), v = mk_rng_unit(seed, 2 * (uint64_t)i + 1);
    return (float)(sqrt(-2 * log(u + 1e-12)) * cos(6.283185307 * v));
}

// Logits of which many are near the best, or far from it but many, or the same.
static float flat_logit(int shape, uint64_t seed, int i) {
    static const float tiny[] = {0, -0.0f, 1e-40f, -1e-40f, 1e-37f, 0, -1};
    float x = normal(seed, i), u = (float)mk_rng_unit(seed + 1, (uint64_t)i);
    switch (shape) {
    case 0:
        return 0.001f * x;
    case 1:
        return 0.1f * x;
    case 2:
        return 0.5f * x - 100;
    case 3:
        return x;
    case 4:
        return 2.5f * x;
    case 5:
        return 12 * x;
    case 6:
        return rintf(4 * x) / 4;
    case 7:
        return -7;  // all equal
    case 8:
        return i % 2 ? 1 : -1;  // two values
    case 9:
        return i % 3 == 0 ? -INFINITY : 0.5f * x;  // a third forbidden
    case 10:
        return i % 50 ? -INFINITY : x;  // nearly all forbidden
    case 11:
        return i % 7 == 0 ? NAN : i % 7 == 1 ? -3e38f : x;
    case 12:
        return i == 4321 ? 0 : -11 - 2 * u;  // one, and many a little below
    case 13:
        return i == 4321 ? 0 : -20.5f - 2 * u;  // one, and many far below
    case 14:
        return 60 * u;
    case 15:
        return 3e38f * (2 * u - 1);  // differences overflow
    case 16:
        return tiny[mk_rng_u64(seed, (uint64_t)i) % 7];
    default:
        return i == 77 || i == 78 ? INFINITY : x;
    }
}

// Numbers of draws, among them those with the largest and smallest random numbers of many: sums end
// at the last and at the first candidates.
static void find_positions(uint64_t seed, int64_t *pos) {
    int64_t low = 0, high = 0;
    for (int64_t i = 0; i < 1000000; i++) {
        double u = mk_rng_unit(seed, (uint64_t)i);
        low = u < mk_rng_unit(seed, (uint64_t)low) ? i : low;
        high = u > mk_rng_unit(seed, (uint64_t)high) ? i : high;
    }
    assert_true(mk_rng_unit(seed, (uint64_t)high) > 1 - 1e-5);
    for (int64_t i = 0; i < N_POS; i++) {
        pos[i] = i;
    }
    pos[0] = low;
    pos[1] = high;
}

// Every combination of filters, each with two draws, the last candidate's one and another.
static int compare_filters(const exact *e, const float *logits, float temperature,
                           const int64_t *positions) {
    static const float top_p[] = {1, 0.99999f, 0.95f, 0.5f, 0},
                       min_p[] = {0, 1e-7f, 0.001f, 0.3f, 1};
    static const int top_k[] = {0, 1, 40, 5000, N_MANY - 1, N_MANY + 5};
    int n_diff = 0;
    for (int i = 0; i < 5 * 5 * 6; i++) {
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.temperature = temperature;
        p.top_p = top_p[i % 5];
        p.min_p = min_p[i / 5 % 5];
        p.top_k = top_k[i / 25];
        p.seed = 9;
        mk_sampler *s = NULL;
        mk_err err = {0};
        assert_int_equal(mk_sampler_create(&p, e->n, 4, &s, &err), MK_OK);
        const int64_t pos[] = {positions[1], positions[i % 11 == 0 ? 0 : 2 + i % (N_POS - 2)]};
        for (int k = 0; k < 2; k++) {
            n_diff += mk_sampler_choose(s, logits, pos[k]) != exact_draw(e, &p, pos[k]);
        }
        mk_sampler_destroy(s);
    }
    return n_diff;
}

static void test_many(void **state) {
    (void)state;
    static const float temperature[] = {0.6f, 1, 1.5f, 30};
    static float logits[N_MANY], plain[N_MANY];
    int64_t positions[N_POS];
    find_positions(9, positions);
    for (int i = 0; i < N_SHAPE * 4; i++) {
        for (int k = 0; k < N_MANY; k++) {
            logits[k] = flat_logit(i % N_SHAPE, 40 + (uint64_t)i, k);
            plain[k] = isnan(logits[k]) ? -INFINITY : logits[k];
        }
        // engines flush subnormal numbers to zero, programs need not
        bool flush = (i + i / N_SHAPE) % 2;
        uint64_t old = flush ? mk_fpu_enter() : 0;
        exact e = exact_sort(plain, N_MANY);
        exact_weigh(&e, plain, temperature[i / N_SHAPE]);
        int n_diff = compare_filters(&e, logits, temperature[i / N_SHAPE], positions);
        if (flush) {
            mk_fpu_leave(old);
        }
        exact_free(&e);
        if (n_diff > 0) {
            fail_msg("shape %d, temperature %g: %d choices differ", i % N_SHAPE,
                     (double)temperature[i / N_SHAPE], n_diff);
        }
    }
}

// One row after another, with the same largest logit: nothing of the last row is left.
static void test_rows_in_turn(void **state) {
    (void)state;
    static float row[2][N_MANY];
    for (int few = 0; few < 2; few++) {
        for (int k = 0; k < N_MANY; k++) {
            for (int r = 0; r < 2; r++) {
                row[r][k] =
                    few && k % 8 ? -100 : -(float)mk_rng_unit(70 + (uint64_t)r, (uint64_t)k);
            }
        }
        row[0][0] = row[1][0] = 1;
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.top_k = 0;
        mk_sampler *s = NULL;
        mk_err err = {0};
        assert_int_equal(mk_sampler_create(&p, N_MANY, 4, &s, &err), MK_OK);
        for (int pos = 0; pos < 10; pos++) {
            const float *l = row[pos % 2];
            assert_int_equal(mk_sampler_choose(s, l, pos), exact_choice(&p, l, N_MANY, pos));
        }
        mk_sampler_destroy(s);
    }
}

// As many logits as large models have, where sums of buckets come near what a double holds exactly.
static void test_vocabulary(void **state) {
    (void)state;
    enum { N = 200000 };
    float *logits = mk_alloc(N * sizeof *logits);
    for (int shape = 0; shape < 5; shape++) {
        for (int k = 0; k < N; k++) {
            // 4: more than half lie at the end of the first tier, so that sums are long and fine
            logits[k] = shape < 4 ? flat_logit((int[]){1, 3, 4, 7}[shape], 90, k)
                                  : -(float)(k % 2) * (7 + (float)mk_rng_unit(5, (uint64_t)k));
        }
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.temperature = 1;
        p.top_k = 0;
        p.min_p = 0;
        exact e = exact_sort(logits, N);
        exact_weigh(&e, logits, p.temperature);
        for (int i = 0; i < 3; i++) {
            p.top_p = (float[]){0.95f, 0.999999f, 1}[i];
            mk_sampler *s = NULL;
            mk_err err = {0};
            assert_int_equal(mk_sampler_create(&p, N, 4, &s, &err), MK_OK);
            for (int pos = 0; pos < 8; pos++) {
                assert_int_equal(mk_sampler_choose(s, logits, pos), exact_draw(&e, &p, pos));
            }
            mk_sampler_destroy(s);
        }
        exact_free(&e);
    }
    mk_free(logits);
}

static void test_forbidden(void **state) {
    (void)state;
    const float row[4] = {INFINITY, 2, 1, -INFINITY};
    const mk_logit_bias bias[] = {{0, -INFINITY}, {3, INFINITY}};  // inf - inf: forbidden wins
    for (int greedy = 0; greedy < 2; greedy++) {
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.temperature = greedy ? 0 : 1e-3f;
        p.bias = bias;
        p.n_bias = 2;
        mk_sampler *s = NULL;
        mk_err err = {0};
        assert_int_equal(mk_sampler_create(&p, 4, 4, &s, &err), MK_OK);
        assert_int_equal(mk_sampler_choose(s, row, 0), 1);
        mk_sampler_destroy(s);
    }
}

static void test_logprobs(void **state) {
    (void)state;
    float logits[1300];
    exact_row rows[1300];
    mk_logprob top[20];
    for (uint64_t t = 1; t < 300; t += 3) {
        int n = 21 + (int)(mk_rng_u64(7, t) % 1200);
        one_row(logits, n, t);
        float max = -INFINITY;
        double sum = 0;
        for (int i = 0; i < n; i++) {
            rows[i] = (exact_row){logits[i], i};
            max = logits[i] > max ? logits[i] : max;
        }
        for (int i = 0; i < n; i++) {
            sum += (double)mk_expf(logits[i] - max);
        }
        qsort(rows, (size_t)n, sizeof *rows, by_logit);
        assert_int_equal(mk_logprob_top(logits, n, 20, top), 20);
        for (int i = 0; i < 20; i++) {
            float lp = (float)((double)(rows[i].logit - max) - mk_log(sum));
            assert_memory_equal(&top[i].logprob, &lp, sizeof lp);
            float of = mk_logprob_of(logits, n, rows[i].id);
            assert_memory_equal(&of, &lp, sizeof lp);
            bool tie = (i > 0 && top[i - 1].logprob == lp) || (i < 19 && top[i + 1].logprob == lp);
            assert_true(tie || top[i].id == rows[i].id);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),   cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_edges),        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_many),         cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_rows_in_turn), cmocka_unit_test(test_forbidden),
        cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
