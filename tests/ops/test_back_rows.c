// Backward of the row operators.  Gradients against finite differences of a plain forward in
// double; bits against the definition of docs/numerics.md written out naively, and equal on every
// instruction set, for 1, 2, 3 threads and any cut of the rows.
#include <math.h>

#include "ops/back.h"
#include "ops_util.h"

// --- one call and what it writes -----------------------------------------------------------------
// Everything that is written lies in data: gradients [n_row, n_col] with a stride, and one that is
// summed over the rows.
typedef struct job {
    void (*call)(mk_ops *ops, const struct job *j, int64_t first, int64_t n);  // of these rows
    mk_mat in[3], out[2];
    float *sum, *data;
    int64_t n_data;
    const float *w;
    float eps;
    const int32_t *ids;
    const mk_rope *rope;
    const mk_route *route;
    int64_t cut;  // rows of a call, 0 = all
} job;

static void call_job(mk_ops *ops, void *arg) {
    const job *j = arg;
    int64_t n_row = j->in[0].n_row, cut = j->cut > 0 ? j->cut : n_row;
    for (int64_t t = 0; t < n_row; t += cut) {
        j->call(ops, j, t, n_row - t < cut ? n_row - t : cut);
    }
}

static void run_job(const mk_kernels *k, int n_thread, job *j) {
    bench b = bench_open(k, n_thread);
    run_step(&b, call_job, j);
    bench_close(&b);
}

static float *copy_of(const float *p, int64_t n) {
    float *c = mk_alloc((size_t)n * 4 + 1);
    memcpy(c, p, (size_t)n * 4);
    return c;
}

// Every way of computing gives `want` (n_data floats, begun with what is in data now).
static void same_everywhere(job *j, const float *want) {
    static const int64_t cuts[] = {0, 1, 3};
    float *start = copy_of(j->data, j->n_data);
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            for (int c = 0; c < 3; c++) {
                memcpy(j->data, start, (size_t)j->n_data * 4);
                j->cut = cuts[c];
                run_job(mk_kernels_at(k), n_thread, j);
                assert_same_floats(j->data, want, j->n_data, mk_kernels_name(mk_kernels_at(k)));
            }
        }
    }
    mk_free(start);
}

static mk_mat rows_of(mk_mat m, int64_t first, int64_t n) {
    return m.p == NULL ? m : mk_mat_rows(m, first, n);
}

static mk_mat random_mat(uint64_t *rng, int64_t n_row, int64_t n_col, int64_t stride) {
    return (mk_mat){random_floats(rng, n_row * stride), n_row, n_col, stride};
}

// Room for n_out gradients of that shape and n_sum floats behind them, all random.
static void random_outputs(job *j, uint64_t *rng, int n_out, mk_mat like, int64_t n_sum) {
    int64_t size = like.n_row * like.stride;
    j->n_data = n_out * size + n_sum;
    j->data = random_floats(rng, j->n_data);
    for (int i = 0; i < n_out; i++) {
        j->out[i] = (mk_mat){j->data + i * size, like.n_row, like.n_col, like.stride};
    }
    j->sum = n_sum > 0 ? j->data + n_out * size : NULL;
}

static void job_free(job *j) {
    for (int i = 0; i < 3; i++) {
        mk_free(j->in[i].p);
    }
    mk_free(j->data);
}

// --- finite differences --------------------------------------------------------------------------
// A forward in double: y of n inputs x, weighted by dy and summed.
typedef double (*loss_fn)(const job *j, const double *x);

// Compares n gradients with central differences of loss at x.  Those are good to 1e-9 here; the
// float32 gradients are a dozen roundings of 6e-8 away, of values up to the greatest: 2e-6 of it.
// A wrong term is off by more than a hundredth.
static void assert_slopes(const job *j, loss_fn loss, double *x, const float *gradient, int64_t n) {
    double *slope = mk_alloc((size_t)n * sizeof *slope), top = 0;
    for (int64_t i = 0; i < n; i++) {
        const double h = 1e-5, was = x[i];
        x[i] = was + h;
        double up = loss(j, x);
        x[i] = was - h;
        slope[i] = (up - loss(j, x)) / (2 * h);
        x[i] = was;
        top = fabs(slope[i]) > top ? fabs(slope[i]) : top;
    }
    assert_true(top > 0);
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)gradient[i] - slope[i]) <= 2e-6 * top)) {
            fail_msg("gradient %lld of %lld is %.9g, the slope %.9g (greatest %.3g)", (long long)i,
                     (long long)n, (double)gradient[i], slope[i], top);
        }
    }
    mk_free(slope);
}

static double *widened(const float *p, int64_t n) {
    double *d = mk_alloc((size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++) {
        d[i] = (double)p[i];
    }
    return d;
}

// Slopes of a matrix without padding, all else of the job fixed; its gradient begins at zero.
static void check_slopes(const job *j, loss_fn loss, mk_mat x, const float *gradient) {
    assert_true(x.stride == x.n_col);
    double *d = widened(x.p, x.n_row * x.n_col);
    assert_slopes(j, loss, d, gradient, x.n_row * x.n_col);
    mk_free(d);
}

static void run_from_zero(job *j) {
    memset(j->data, 0, (size_t)j->n_data * 4);
    j->cut = 0;
    run_job(mk_kernels_at(0), 1, j);
}

// --- RMS norm: in = dy, x; out = dx; sum = gw ----------------------------------------------------
static void call_rmsnorm(mk_ops *ops, const job *j, int64_t first, int64_t n) {
    mk_back_rmsnorm(ops, rows_of(j->out[0], first, n), j->sum, rows_of(j->in[0], first, n),
                    rows_of(j->in[1], first, n), j->w, j->eps);
}

static double rms_in_double(const double *x, int64_t n, double eps) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) {
        s += x[i] * x[i];
    }
    return 1 / sqrt(s / (double)n + eps);
}

static double norm_loss_x(const job *j, const double *x) {
    mk_mat dy = j->in[0];
    double loss = 0;
    for (int64_t t = 0; t < dy.n_row; t++) {
        double r = rms_in_double(x + t * dy.n_col, dy.n_col, (double)j->eps);
        for (int64_t i = 0; i < dy.n_col; i++) {
            loss += (double)dy.p[t * dy.stride + i] * x[t * dy.n_col + i] * r * (double)j->w[i];
        }
    }
    return loss;
}

static double norm_loss_w(const job *j, const double *w) {
    mk_mat dy = j->in[0], x = j->in[1];
    double loss = 0;
    for (int64_t t = 0; t < dy.n_row; t++) {
        double *row = widened(x.p + t * x.stride, x.n_col);
        double r = rms_in_double(row, x.n_col, (double)j->eps);
        for (int64_t i = 0; i < dy.n_col; i++) {
            loss += (double)dy.p[t * dy.stride + i] * row[i] * r * w[i];
        }
        mk_free(row);
    }
    return loss;
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

static void naive_rmsnorm(const job *j, float *dx, float *gw) {
    mk_mat dym = j->in[0], xm = j->in[1];
    int64_t n = xm.n_col;
    for (int64_t t = 0; t < xm.n_row; t++) {
        const float *x = xm.p + t * xm.stride, *dy = dym.p + t * dym.stride;
        float s[16] = {0}, q[16] = {0};
        for (int64_t i = 0; i < n; i++) {
            q[i % 16] = fmaf(x[i], x[i], q[i % 16]);
            s[i % 16] = fmaf(j->w[i] * dy[i], x[i], s[i % 16]);
        }
        float r = 1.0f / sqrtf(tree16(q) / (float)n + j->eps);
        float k = r * tree16(s) / (float)n * r * r;
        for (int64_t i = 0; i < n; i++) {
            if (dx != NULL) {
                dx[t * xm.stride + i] += fmaf(-k, x[i], r * (j->w[i] * dy[i]));
            }
            if (gw != NULL) {
                gw[i] = fmaf(dy[i], x[i] * r, gw[i]);
            }
        }
    }
}

// want: of dx, of gw
static job norm_job(uint64_t *rng, int64_t n_row, int64_t n_col, int64_t stride,
                    const bool want[2]) {
    job j = {.call = call_rmsnorm, .eps = 1e-5f};
    j.in[0] = random_mat(rng, n_row, n_col, stride);
    j.in[1] = random_mat(rng, n_row, n_col, stride);
    j.w = random_floats(rng, n_col);
    random_outputs(&j, rng, want[0] ? 1 : 0, j.in[1], want[1] ? n_col : 0);
    return j;
}

static void norm_job_free(job *j) {
    mk_free((float *)(uintptr_t)j->w);
    job_free(j);
}

static const int64_t shapes[][3] = {{1, 1, 1},       {2, 16, 16},   {3, 33, 40},     {5, 100, 101},
                                    {1, 9000, 9000}, {9, 130, 130}, {17, 1040, 1050}};

static void rmsnorm_bits(void **state) {
    (void)state;
    static const bool wants[][2] = {{true, true}, {true, false}, {false, true}};
    uint64_t rng = 61;
    for (size_t i = 0; i < 3 * sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t *s = shapes[i / 3];
        const bool *which = wants[i % 3];
        job j = norm_job(&rng, s[0], s[1], s[2], which);
        float *want = copy_of(j.data, j.n_data);
        naive_rmsnorm(&j, which[0] ? want : NULL,
                      which[1] ? want + (which[0] ? s[0] * s[2] : 0) : NULL);
        same_everywhere(&j, want);
        mk_free(want);
        norm_job_free(&j);
    }
}

static void rmsnorm_slopes(void **state) {
    (void)state;
    uint64_t rng = 62;
    for (size_t i = 0; i < 4; i++) {
        static const bool both[] = {true, true};
        job j = norm_job(&rng, shapes[i][0] + 1, shapes[i][1] + 1, shapes[i][1] + 1, both);
        j.eps = i == 3 ? 0.3f : 1e-5f;  // an epsilon that counts
        run_from_zero(&j);
        check_slopes(&j, norm_loss_x, j.in[1], j.out[0].p);
        double *w = widened(j.w, j.in[1].n_col);
        assert_slopes(&j, norm_loss_w, w, j.sum, j.in[1].n_col);
        mk_free(w);
        norm_job_free(&j);
    }
}

// A row whose r^3 is infinite in float32 has gradients near 1 / its size all the same.
static void rmsnorm_of_tiny_rows(void **state) {
    (void)state;
    static const bool dx_only[] = {true, false};
    uint64_t rng = 63;
    job j = norm_job(&rng, 2, 24, 24, dx_only);
    j.eps = 0;
    for (int i = 0; i < 48; i++) {
        j.in[1].p[i] *= 1e-15f;
    }
    run_from_zero(&j);
    double *x = widened(j.in[1].p, 48);
    for (int t = 0; t < 2; t++) {
        double r = rms_in_double(x + 24 * t, 24, 0), dot = 0;
        for (int i = 24 * t; i < 24 * t + 24; i++) {
            dot += (double)j.w[i % 24] * (double)j.in[0].p[i] * x[i] * r;
        }
        for (int i = 24 * t; i < 24 * t + 24; i++) {
            double want = (double)j.w[i % 24] * (double)j.in[0].p[i] - x[i] * r * dot / 24;
            assert_true(fabs((double)j.data[i] / r - want) < 1e-5);
        }
    }
    mk_free(x);
    norm_job_free(&j);
}

// --- SwiGLU: in = dy, g, u; out = dg, du ---------------------------------------------------------
static void call_swiglu(mk_ops *ops, const job *j, int64_t first, int64_t n) {
    mk_back_swiglu(ops, rows_of(j->out[0], first, n), rows_of(j->out[1], first, n),
                   rows_of(j->in[0], first, n), rows_of(j->in[1], first, n),
                   rows_of(j->in[2], first, n));
}

static job swiglu_job(uint64_t *rng, int64_t n_row, int64_t n_col, int64_t stride) {
    job j = {.call = call_swiglu};
    for (int i = 0; i < 3; i++) {
        j.in[i] = random_mat(rng, n_row, n_col, stride);
    }
    for (int64_t i = 0; i < n_row * stride; i++) {
        j.in[1].p[i] *= 8;  // both ends of the sigmoid
    }
    random_outputs(&j, rng, 2, j.in[0], 0);
    return j;
}

static void swiglu_bits(void **state) {
    (void)state;
    uint64_t rng = 64;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        job j = swiglu_job(&rng, shapes[i][0], shapes[i][1], shapes[i][2]);
        if (shapes[i][1] >= 16) {
            j.in[1].p[0] = -200;  // exp overflows
            j.in[1].p[1] = 200;
        }
        float *want = copy_of(j.data, j.n_data), *dg = want, *du = want + j.n_data / 2;
        uint64_t fpu = mk_fpu_enter();
        for (int64_t at = 0; at < j.n_data / 2; at++) {
            if (at % shapes[i][2] < shapes[i][1]) {
                float g = j.in[1].p[at], s = 1.0f / (1.0f + mk_expf(-g)), a = j.in[0].p[at] * s;
                du[at] = fmaf(a, g, du[at]);
                dg[at] = fmaf(a * j.in[2].p[at], fmaf(g, 1.0f - s, 1.0f), dg[at]);
            }
        }
        mk_fpu_leave(fpu);
        same_everywhere(&j, want);
        mk_free(want);
        job_free(&j);
    }
}

static double swiglu_loss(const job *j, const double *g, const double *u) {
    double loss = 0;
    for (int64_t i = 0; i < j->in[0].n_row * j->in[0].n_col; i++) {
        loss += (double)j->in[0].p[i] * g[i] / (1 + exp(-g[i])) * u[i];
    }
    return loss;
}

static double swiglu_loss_g(const job *j, const double *g) {
    double *u = widened(j->in[2].p, j->in[2].n_row * j->in[2].n_col), loss = swiglu_loss(j, g, u);
    mk_free(u);
    return loss;
}

static double swiglu_loss_u(const job *j, const double *u) {
    double *g = widened(j->in[1].p, j->in[1].n_row * j->in[1].n_col), loss = swiglu_loss(j, g, u);
    mk_free(g);
    return loss;
}

static void swiglu_slopes(void **state) {
    (void)state;
    uint64_t rng = 65;
    job j = swiglu_job(&rng, 3, 45, 45);
    run_from_zero(&j);
    check_slopes(&j, swiglu_loss_g, j.in[1], j.out[0].p);
    check_slopes(&j, swiglu_loss_u, j.in[2], j.out[1].p);
    float *both = copy_of(j.data, j.n_data);
    for (int i = 0; i < 2; i++) {  // one gradient alone; the other stays as it is
        mk_mat was = j.out[i];
        j.out[i].p = NULL;
        run_from_zero(&j);
        for (int64_t at = 0; at < j.n_data; at++) {
            assert_true(j.data[at] == (at / (j.n_data / 2) == i ? 0.0f : both[at]));
        }
        j.out[i] = was;
    }
    mk_free(both);
    job_free(&j);
}

// --- rotation: in = cs; out = dx, in place -------------------------------------------------------
static void call_rope(mk_ops *ops, const job *j, int64_t first, int64_t n) {
    mk_back_rope(ops, rows_of(j->out[0], first, n), j->rope, rows_of(j->in[0], first, n));
}

// Columns of pair i of a head.
static void pair_at(const mk_rope *r, int64_t i, int64_t *a, int64_t *b) {
    bool half = r->style == MK_ROPE_HALF;
    *a = r->first + (half ? i : 2 * i);
    *b = r->first + (half ? i + r->n_pair : 2 * i + 1);
}

// sum of w * rotated x, x as wide as the heads
static double rope_loss(const job *j, const double *x) {
    const mk_rope *r = j->rope;
    int64_t width = r->n_head * r->head_stride;
    double loss = 0;
    for (int64_t th = 0; th < j->in[0].n_row * r->n_head; th++) {
        const float *cs = j->in[0].p + th / r->n_head * j->in[0].stride;
        int64_t at = th / r->n_head * width + th % r->n_head * r->head_stride;
        for (int64_t i = 0; i < r->head_stride; i++) {
            bool rotated = i >= r->first && i < r->first + 2 * r->n_pair;
            loss += rotated ? 0 : (double)j->w[at + i] * x[at + i];
        }
        for (int64_t i = 0; i < r->n_pair; i++) {
            int64_t a, b;
            pair_at(r, i, &a, &b);
            double c = (double)cs[i], s = (double)cs[r->n_pair + i], u = x[at + a], v = x[at + b];
            loss += (double)j->w[at + a] * (u * c - v * s) + (double)j->w[at + b] * (v * c + u * s);
        }
    }
    return loss;
}

static void naive_rope(const job *j, float *dx) {
    const mk_rope *r = j->rope;
    for (int64_t t = 0; t < j->in[0].n_row; t++) {
        const float *cs = j->in[0].p + t * j->in[0].stride;
        for (int64_t hi = 0; hi < r->n_head * r->n_pair; hi++) {
            int64_t a, b, i = hi % r->n_pair;
            pair_at(r, i, &a, &b);
            float *x = dx + t * j->out[0].stride + hi / r->n_pair * r->head_stride;
            float u = x[a], v = x[b], c = cs[i], s = cs[r->n_pair + i];
            x[a] = u * c + v * s;
            x[b] = v * c - u * s;
        }
    }
}

static void check_rope(const mk_rope *r, int64_t n_row, uint64_t *rng) {
    int64_t width = r->n_head * r->head_stride;
    job j = {.call = call_rope, .rope = r};
    j.in[0] = random_mat(rng, n_row, 2 * r->n_pair, 2 * r->n_pair + 3);
    random_outputs(&j, rng, 1, (mk_mat){NULL, n_row, width, width + 5}, 0);
    float *want = copy_of(j.data, j.n_data);
    naive_rope(&j, want);
    same_everywhere(&j, want);
    mk_free(want);
    mk_free(j.data);
    random_outputs(&j, rng, 1, (mk_mat){NULL, n_row, width, width}, 0);
    float *dy = copy_of(j.data, j.n_data), *x = random_floats(rng, j.n_data);
    j.w = dy;
    j.cut = 0;
    run_job(mk_kernels_at(0), 1, &j);
    if (n_row < 8) {
        check_slopes(&j, rope_loss, (mk_mat){x, n_row, width, width}, j.data);
    }
    mk_free(dy);
    mk_free(x);
    job_free(&j);
}

static void rope_turns_back(void **state) {
    (void)state;
    uint64_t rng = 66;
    for (int style = MK_ROPE_HALF; style <= MK_ROPE_INTERLEAVED; style++) {
        check_rope(&(mk_rope){3, 20, 4, 7, (mk_rope_style)style}, 3, &rng);
        check_rope(&(mk_rope){1, 64, 0, 32, (mk_rope_style)style}, 2, &rng);
        check_rope(&(mk_rope){16, 64, 0, 32, (mk_rope_style)style}, 13, &rng);
    }
}

// --- embedding: in = dy; sum = gradient of the table ---------------------------------------------
static void call_embed(mk_ops *ops, const job *j, int64_t first, int64_t n) {
    mk_back_embed(ops, j->sum, rows_of(j->in[0], first, n), j->ids + first);
}

static void embed_adds_tokens_in_order(void **state) {
    (void)state;
    enum { VOCAB = 7 };
    static const int64_t sizes[][2] = {{1, 5}, {9, 64}, {23, 1000}};
    uint64_t rng = 67;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t n = sizes[i][0], d = sizes[i][1];
        int32_t ids[32];
        job j = {.call = call_embed, .ids = ids};
        j.in[0] = random_mat(&rng, n, d, d + 3);
        random_outputs(&j, &rng, 0, j.in[0], VOCAB * d);
        float *want = copy_of(j.data, j.n_data);
        for (int64_t t = 0; t < n; t++) {
            ids[t] = t % 3 == 0 ? VOCAB - 1 : (int32_t)next_int(&rng, VOCAB);
            for (int64_t c = 0; c < d; c++) {
                want[ids[t] * d + c] += j.in[0].p[t * (d + 3) + c];
            }
        }
        same_everywhere(&j, want);
        mk_free(want);
        job_free(&j);
    }
}

// --- routing: in = dw, logits; ids = the chosen; out = dlogits -----------------------------------
static void call_route(mk_ops *ops, const job *j, int64_t first, int64_t n) {
    mk_back_route(ops, rows_of(j->out[0], first, n), rows_of(j->in[0], first, n), j->route,
                  rows_of(j->in[1], first, n), j->ids + first * j->route->n_used);
}

// sum of dw * w(logits)
static double route_loss(const job *j, const double *logits) {
    const mk_route *r = j->route;
    double loss = 0;
    for (int64_t t = 0; t < j->in[0].n_row; t++) {
        const double *l = logits + t * r->n_expert;
        double all = 0, chosen = 0, s[64];
        for (int64_t i = 0; i < r->n_expert; i++) {
            s[i] = r->score == MK_SCORE_SIGMOID ? 1 / (1 + exp(-l[i])) : exp(l[i]);
            all += s[i];
        }
        for (int64_t i = 0; i < r->n_expert && r->score == MK_SCORE_SOFTMAX; i++) {
            s[i] /= all;
        }
        for (int64_t k = 0; k < r->n_used; k++) {
            chosen += s[j->ids[t * r->n_used + k]];
        }
        for (int64_t k = 0; k < r->n_used; k++) {
            double w = s[j->ids[t * r->n_used + k]] / (r->normalise ? chosen + 1e-20 : 1);
            loss += (double)j->in[0].p[t * j->in[0].stride + k] * w * (double)r->scale;
        }
    }
    return loss;
}

// n_used of n_expert, ascending, not the best: the choice is given.
static void draw_chosen(int32_t *sel, int64_t n_used, int64_t n_expert, uint64_t *rng) {
    for (int64_t e = 0, k = 0; k < n_used; e++) {
        if (next_int(rng, n_expert - e) < n_used - k) {
            sel[k++] = (int32_t)e;
        }
    }
}

static job route_job(const mk_route *r, int64_t n_row, int64_t stride, uint64_t *rng) {
    job j = {.call = call_route, .route = r};
    int32_t *sel = mk_alloc((size_t)(n_row * r->n_used) * 4);
    for (int64_t t = 0; t < n_row; t++) {
        draw_chosen(sel + t * r->n_used, r->n_used, r->n_expert, rng);
    }
    j.ids = sel;
    j.in[0] = random_mat(rng, n_row, r->n_used, r->n_used + 1);
    j.in[1] = random_mat(rng, n_row, r->n_expert, stride);
    random_outputs(&j, rng, 1, j.in[1], 0);
    return j;
}

static void route_job_free(job *j) {
    mk_free((int32_t *)(uintptr_t)j->ids);
    job_free(j);
}

static void naive_route(const job *j, float *dl, int64_t t) {
    const mk_route *r = j->route;
    const float *l = j->in[1].p + t * j->in[1].stride, *dw = j->in[0].p + t * j->in[0].stride;
    const int32_t *sel = j->ids + t * r->n_used;
    float s[64], a[64] = {0}, lanes[16] = {0}, max = -INFINITY, sum = 0, dot = 0, all = 0;
    for (int64_t i = 0; i < r->n_expert; i++) {
        max = l[i] > max ? l[i] : max;
    }
    for (int64_t i = 0; i < r->n_expert; i++) {
        bool sigmoid = r->score == MK_SCORE_SIGMOID;
        s[i] = sigmoid ? 1.0f / (1.0f + mk_expf(-l[i])) : mk_expf(l[i] - max);
        lanes[i % 16] += s[i];
    }
    for (int64_t i = 0; i < r->n_expert && r->score == MK_SCORE_SOFTMAX; i++) {
        s[i] /= tree16(lanes);
    }
    for (int64_t k = 0; k < r->n_used; k++) {
        sum += s[sel[k]];
        dot = fmaf(dw[k], s[sel[k]], dot);
    }
    for (int64_t k = 0; k < r->n_used; k++) {
        float d = sum + 1e-20f, v = r->normalise ? (dw[k] - dot / d) / d : dw[k];
        a[sel[k]] = v * r->scale;
        all = fmaf(a[sel[k]], s[sel[k]], all);
    }
    for (int64_t i = 0; i < r->n_expert; i++) {
        if (r->score == MK_SCORE_SOFTMAX) {
            dl[i] = fmaf(a[i] - all, s[i], dl[i]);
        } else {
            dl[i] = fmaf(a[i], s[i] * (1.0f - s[i]), dl[i]);
        }
    }
}

static void check_route(const mk_route *r, uint64_t *rng) {
    job j = route_job(r, 3, r->n_expert, rng);
    run_from_zero(&j);
    check_slopes(&j, route_loss, j.in[1], j.out[0].p);
    route_job_free(&j);
    j = route_job(r, 37, r->n_expert + 2, rng);
    float *want = copy_of(j.data, j.n_data);
    for (int64_t t = 0; t < 37; t++) {
        naive_route(&j, want + t * (r->n_expert + 2), t);
    }
    same_everywhere(&j, want);
    mk_free(want);
    route_job_free(&j);
}

static void route_slopes_and_bits(void **state) {
    (void)state;
    static const float bias[64] = {0.5f, -1.0f};  // for the choice only: no gradient knows it
    static const mk_route routes[] = {
        {8, 2, MK_SCORE_SOFTMAX, MK_GROUP_NONE, 1, 1, false, 1.0f, NULL},
        {33, 6, MK_SCORE_SOFTMAX, MK_GROUP_NONE, 1, 1, true, 1.0f, NULL},
        {64, 6, MK_SCORE_SOFTMAX, MK_GROUP_MAX, 8, 3, false, 16.0f, NULL},
        {16, 3, MK_SCORE_SIGMOID, MK_GROUP_NONE, 1, 1, false, 1.5f, bias},
        {64, 8, MK_SCORE_SIGMOID, MK_GROUP_TOP2, 8, 4, true, 2.5f, bias},
    };
    uint64_t rng = 68;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        check_route(&routes[i], &rng);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_bits),
        cmocka_unit_test(rmsnorm_slopes),
        cmocka_unit_test(rmsnorm_of_tiny_rows),
        cmocka_unit_test(swiglu_bits),
        cmocka_unit_test(swiglu_slopes),
        cmocka_unit_test(rope_turns_back),
        cmocka_unit_test(embed_adds_tokens_in_order),
        cmocka_unit_test(route_slopes_and_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
