// Routing and experts against naive definitions.  Routing is compared with an independent
// sort-based choice in double with ties broken by id (weights: 1e-6 relative, float32 exp and
// division); the expert sum is compared exactly with mk_op_linear + mk_op_swiglu per expert and
// FMAs in ascending expert id, because those have tests of their own.
#include <math.h>

#include "ops_util.h"

// --- routing -------------------------------------------------------------------------------------
typedef struct {
    const mk_route *r;
    mk_mat logits, w;
    int32_t *sel;
} route_step;

static void step_route(mk_ops *ops, void *arg) {
    route_step *s = arg;
    mk_op_route(ops, s->r, s->logits, s->sel, s->w);
}

// Scores are computed as float here too, otherwise ties would be decided by rounding noise.
static void naive_route(const mk_route *r, const float *l, int32_t *sel, double *w) {
    double s[256], c[256], sum = 0, top = -INFINITY;
    bool taken[256] = {false}, open[256];
    int64_t n = r->n_expert, size = r->n_group > 0 ? n / r->n_group : n;
    for (int64_t i = 0; i < n; i++) {
        top = (double)l[i] > top ? (double)l[i] : top;
    }
    for (int64_t i = 0; i < n; i++) {
        s[i] =
            r->score == MK_SCORE_SIGMOID ? 1 / (1 + exp(-(double)l[i])) : exp((double)l[i] - top);
        sum += s[i];
    }
    for (int64_t i = 0; i < n; i++) {
        s[i] = r->score == MK_SCORE_SIGMOID ? s[i] : s[i] / sum;
        c[i] = s[i] + (r->bias != NULL ? (double)r->bias[i] : 0);
        open[i] = r->group == MK_GROUP_NONE;
    }
    for (int64_t k = 0; r->group != MK_GROUP_NONE && k < r->n_group_used; k++) {
        double best = -INFINITY;
        int64_t at = -1;
        for (int64_t g = 0; g < r->n_group; g++) {
            double a = -INFINITY, b = -INFINITY;
            for (int64_t i = g * size; i < (g + 1) * size; i++) {
                if (c[i] > a) {
                    b = a;
                    a = c[i];
                } else if (c[i] > b) {
                    b = c[i];
                }
            }
            double score = r->group == MK_GROUP_TOP2 ? a + b : a;
            if (!open[g * size] && score > best + 1e-9) {
                best = score;
                at = g;
            }
        }
        for (int64_t i = at * size; i < (at + 1) * size; i++) {
            open[i] = true;
        }
    }
    sum = 0;
    for (int64_t k = 0; k < r->n_used; k++) {
        int64_t at = -1;
        for (int64_t i = 0; i < n; i++) {
            if (open[i] && !taken[i] && (at < 0 || c[i] > c[at] + 1e-9)) {
                at = i;
            }
        }
        taken[at] = true;
        sum += s[at];
    }
    for (int64_t i = 0, k = 0; i < n; i++) {
        if (taken[i]) {
            sel[k] = (int32_t)i;
            w[k++] = s[i] / (r->normalise ? sum + 1e-20 : 1) * (double)r->scale;
        }
    }
}

enum { ROWS = 40 };

static void check_route(const mk_route *r, const float *logits) {
    int32_t sel[ROWS * 16], want_sel[16];
    float w[ROWS * 16], first[ROWS * 16];
    double want[16];
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 2);
        route_step s = {r,
                        {(float *)(uintptr_t)logits, ROWS, r->n_expert, r->n_expert},
                        {w, ROWS, r->n_used, r->n_used},
                        sel};
        run_step(&b, step_route, &s);
        for (int t = 0; t < ROWS; t++) {
            naive_route(r, logits + t * r->n_expert, want_sel, want);
            for (int64_t i = 0; i < r->n_used; i++) {
                assert_int_equal(sel[t * r->n_used + i], want_sel[i]);
                double got = (double)w[t * r->n_used + i];
                assert_true(fabs(got - want[i]) <= 2e-6 * want[i] + 1e-12);
            }
        }
        if (k == 0) {
            memcpy(first, w, sizeof first);
        }
        assert_same_floats(w, first, ROWS * r->n_used, mk_kernels_name(mk_kernels_at(k)));
        bench_close(&b);
    }
}

static void routing_follows_the_definition(void **state) {
    (void)state;
    uint64_t rng = 21;
    float *bias = random_floats(&rng, 256);
    const mk_route routes[] = {
        {64, 6, MK_SCORE_SOFTMAX, MK_GROUP_NONE, 1, 1, false, 1.0f, NULL},
        {160, 6, MK_SCORE_SOFTMAX, MK_GROUP_MAX, 8, 3, false, 16.0f, NULL},
        {256, 8, MK_SCORE_SIGMOID, MK_GROUP_TOP2, 8, 4, true, 2.5f, bias},
        {8, 2, MK_SCORE_SOFTMAX, MK_GROUP_NONE, 1, 1, true, 1.0f, NULL},
        {10, 3, MK_SCORE_SIGMOID, MK_GROUP_TOP2, 5, 2, true, 1.0f, bias},
        {3, 3, MK_SCORE_SIGMOID, MK_GROUP_NONE, 1, 1, true, 1.0f, bias},
    };
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        float *logits = random_floats(&rng, ROWS * routes[i].n_expert);
        for (int64_t k = 0; k < 10 * routes[i].n_expert; k++) {  // ten rows full of ties
            logits[k] = (float)next_int(&rng, 3);
        }
        for (int64_t k = 0; k < routes[i].n_expert; k++) {  // and one of nothing else
            logits[k] = 0.5f;
        }
        check_route(&routes[i], logits);
        mk_free(logits);
    }
    mk_free(bias);
}

// NaN logits must not choose an expert twice or outside the table.
static void nan_logits_choose_valid_experts(void **state) {
    (void)state;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int score = MK_SCORE_SOFTMAX; score <= MK_SCORE_SIGMOID; score++) {
            mk_route r = {12, 5, (mk_score)score, MK_GROUP_MAX, 4, 1, true, 1.0f, NULL};
            float logits[12], w[5];
            int32_t sel[5];
            for (int i = 0; i < 12; i++) {
                logits[i] = i % 2 == 0 ? NAN : i % 3 == 0 ? INFINITY : 0.0f;
            }
            bench b = bench_open(mk_kernels_at(k), 1);
            route_step s = {&r, {logits, 1, 12, 12}, {w, 1, 5, 5}, sel};
            run_step(&b, step_route, &s);
            for (int i = 0; i < 5; i++) {
                assert_true(sel[i] >= 0 && sel[i] < 12 && (i == 0 || sel[i] > sel[i - 1]));
            }
            bench_close(&b);
        }
    }
}

// --- experts -------------------------------------------------------------------------------------
typedef struct {
    mk_mat x, y;
    mk_moe m;
    int64_t d_ff;
} moe_step;

static void step_moe(mk_ops *ops, void *arg) {
    moe_step *s = arg;
    mk_op_moe(ops, s->y, s->x, &s->m);
}

static mk_weight matrix_of(const mk_weight *w, int32_t e) {
    mk_weight one = *w;
    one.n_mat = 1;
    one.data += (size_t)e * w->mat_bytes;
    return one;
}

// One expert for one token.
typedef struct {
    mk_mat x, g, u, o;
    mk_weight gate, up, down;
} expert_step;

static void step_expert(mk_ops *ops, void *arg) {
    expert_step *s = arg;
    mk_op_linear(ops, s->g, s->x, &s->gate, NULL);
    mk_op_linear(ops, s->u, s->x, &s->up, NULL);
    mk_op_swiglu(ops, s->g, s->g, s->u);
    mk_op_linear(ops, s->o, s->g, &s->down, NULL);
}

// One token after the other, one expert after the other.
static void naive_moe(const bench *b, const moe_step *m) {
    float g[256], u[256], o[256];
    expert_step s = {.g = {g, 1, m->d_ff, m->d_ff},
                     .u = {u, 1, m->d_ff, m->d_ff},
                     .o = {o, 1, m->y.n_col, m->y.n_col}};
    for (int64_t t = 0; t < m->x.n_row; t++) {
        s.x = (mk_mat){m->x.p + t * m->x.stride, 1, m->x.n_col, m->x.stride};
        for (int64_t i = 0; i < m->m.n_used; i++) {
            int32_t e = m->m.sel[t * m->m.n_used + i];
            s.gate = matrix_of(m->m.gate, e);
            s.up = matrix_of(m->m.up, e);
            s.down = matrix_of(m->m.down, e);
            run_step(b, step_expert, &s);
            for (int64_t d = 0; d < m->y.n_col; d++) {
                float *y = m->y.p + t * m->y.stride + d;
                *y = fmaf(m->m.w.p[t * m->m.w.stride + i], o[d], i == 0 ? 0.0f : *y);
            }
        }
    }
}

static mk_weight random_experts(mk_dtype t, int64_t n, int64_t n_out, int64_t n_in, mk_pool *pool,
                                uint64_t *rng) {
    float *f = random_floats(rng, n * n_out * n_in);
    size_t row = 0;
    assert_true(mk_dtype_row_bytes(t, n_in, &row));
    uint8_t *data = mk_try_alloc((size_t)(n * n_out), row);
    assert_int_equal(mk_dtype_from_f32(t, f, n * n_out * n_in, data, NULL), MK_OK);
    mk_weight w;
    mk_weight_src src = {.dtype = t,
                         .data = data,
                         .n_mat = n,
                         .n_out = n_out,
                         .n_in = n_in,
                         .row_bytes = row,
                         .mat_stride = (size_t)n_out * row};
    assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_OK);
    mk_free(f);
    mk_free(data);
    return w;
}

static void random_choice(uint64_t *rng, int64_t n_expert, int64_t n_used, int32_t *sel) {
    int64_t left = n_used;
    for (int64_t e = 0; e < n_expert && left > 0; e++) {
        if (next_int(rng, n_expert - e) < left) {
            *sel++ = (int32_t)e;
            left--;
        }
    }
}

static void experts_follow_the_definition(void **state) {
    (void)state;
    enum { E = 9, USED = 3, D = 64, FF = 96, MAXT = 70 };
    static const mk_dtype types[] = {MK_DTYPE_Q8_0, MK_DTYPE_F32, MK_DTYPE_BF16};
    static const int64_t n_toks[] = {0, 1, 2, 5, 17, MAXT};
    uint64_t rng = 22;
    float *x = random_floats(&rng, MAXT * D), *w = random_floats(&rng, MAXT * USED);
    float *y = mk_alloc(MAXT * D * sizeof *y), *want = mk_alloc(MAXT * D * sizeof *want);
    int32_t sel[MAXT * USED];
    for (int t = 0; t < MAXT; t++) {
        random_choice(&rng, E, USED, sel + t * USED);
    }
    for (size_t d = 0; d < 3; d++) {
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
            mk_weight gate = random_experts(types[d], E, FF, D, b.pool, &rng);
            mk_weight up = random_experts(types[d], E, FF, D, b.pool, &rng);
            mk_weight down = random_experts(types[(d + 1) % 3], E, D, FF, b.pool, &rng);
            for (size_t i = 0; i < sizeof n_toks / sizeof n_toks[0]; i++) {
                int64_t n = n_toks[i];
                moe_step s = {{x, n, D, D},
                              {y, n, D, D},
                              {&gate, &up, &down, sel, {w, n, USED, USED}, USED},
                              FF};
                run_step(&b, step_moe, &s);
                s.y.p = want;
                naive_moe(&b, &s);
                assert_same_floats(y, want, n * D, mk_kernels_name(mk_kernels_at(k)));
            }
            mk_weight_free(&gate);
            mk_weight_free(&up);
            mk_weight_free(&down);
            bench_close(&b);
        }
    }
    mk_free(x);
    mk_free(w);
    mk_free(y);
    mk_free(want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routing_follows_the_definition),
        cmocka_unit_test(nan_logits_choose_valid_experts),
        cmocka_unit_test(experts_follow_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
