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

static double exact_weight(const mk_sample_params *p, float logit, float max) {
    return (double)mk_expf((logit - max) / p->temperature);
}

// The sums in the order that sample.h states, everything sorted.
static int32_t exact_choice(const mk_sample_params *p, const float *logits, int n, int64_t pos) {
    exact_row *rows = mk_alloc((size_t)n * sizeof *rows);
    int n_all = 0;
    for (int i = 0; i < n; i++) {
        if (logits[i] > -INFINITY) {
            rows[n_all++] = (exact_row){logits[i], i};
        }
    }
    qsort(rows, (size_t)n_all, sizeof *rows, by_logit);
    int32_t id = n_all > 0 ? rows[0].id : 0;
    if (n_all > 0 && rows[0].logit < INFINITY) {
        double total = 0, kept = 0, sum = 0;
        for (int i = 0; i < n; i++) {
            total += logits[i] > -INFINITY ? exact_weight(p, logits[i], rows[0].logit) : 0;
        }
        int limit = p->top_k > 0 && p->top_k < n_all ? p->top_k : n_all, keep = 0;
        bool filtered = limit < n_all || p->top_p < 1 || p->min_p > 0;
        while (filtered && keep < limit) {
            double w = exact_weight(p, rows[keep].logit, rows[0].logit);
            if (keep > 0 && w < (double)p->min_p) {
                break;
            }
            kept += w;
            keep++;
            if (kept >= (double)p->top_p * total) {
                break;
            }
        }
        keep = filtered ? keep : n_all;
        double target = mk_rng_unit(p->seed, (uint64_t)pos) * (filtered ? kept : total);
        for (int i = 0; i < keep && (i == 0 || sum <= target); i++) {
            sum += exact_weight(p, rows[i].logit, rows[0].logit);
            id = rows[i].id;
        }
    }
    mk_free(rows);
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
        cmocka_unit_test(test_definition), cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_edges),      cmocka_unit_test(test_exact),
        cmocka_unit_test(test_forbidden),  cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
