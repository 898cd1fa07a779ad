// Backward of attention against three things: the formulas of cpu/back_attention.c written out, bit
// by bit, on every instruction set, thread count and order of sequences in the batch; torch in
// double (tests/golden/gen_attention_back.py); and finite differences of attention in double.
#include <math.h>

#include "base/file.h"
#include "ops/back.h"
#include "ops_util.h"

// What a sequence has: inputs, gradients before (`old`) and after, all [token, head, column].
enum { Q, K, V, DY, N_IN };
typedef struct {
    mk_attn a;
    int64_t n;
    float *in[N_IN], *old[3], *want[3];  // gradients of Q, K, V; latent: V NULL
} sequence;

static int64_t cols_of(const mk_attn *a, int what) {
    switch (what) {
    case Q:
        return a->n_head * a->d_k;
    case K:
        return a->n_kv_head * a->d_k;
    case V:
        return a->latent ? 0 : a->n_kv_head * a->d_v;
    default:
        return a->n_head * a->d_v;
    }
}

static sequence make_sequence(mk_attn a, int64_t n, uint64_t *rng) {
    sequence s = {.a = a, .n = n};
    for (int i = 0; i < N_IN; i++) {
        s.in[i] = random_floats(rng, n * cols_of(&a, i));
    }
    for (int i = 0; i < 3; i++) {
        int64_t m = n * cols_of(&a, i);
        s.old[i] = random_floats(rng, m);
        s.want[i] = mk_alloc((size_t)(m > 0 ? m : 1) * sizeof(float));
    }
    return s;
}

static void sequence_free(sequence *s) {
    for (int i = 0; i < N_IN; i++) {
        mk_free(s->in[i]);
    }
    for (int i = 0; i < 3; i++) {
        mk_free(s->old[i]);
        mk_free(s->want[i]);
    }
}

// --- the definition, written out -----------------------------------------------------------------
static float tree_sum(float *v) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            v[i] += v[i + half];
        }
    }
    return v[0];
}

static float dot(const float *x, const float *y, int64_t n) {
    float s = 0;
    for (int64_t i = 0; i < n; i++) {
        s = fmaf(x[i], y[i], s);
    }
    return s;
}

typedef struct {
    const float *q, *k, *v, *dy;  // of one head; rows q_row.. floats apart
    int64_t q_row, k_row, v_row, dy_row;
} one_head;

static one_head head_of(const sequence *s, int64_t h) {
    const mk_attn *a = &s->a;
    int64_t kvh = h / (a->n_head / a->n_kv_head);
    one_head r = {.q = s->in[Q] + h * a->d_k,
                  .k = s->in[K] + kvh * a->d_k,
                  .v = a->latent ? s->in[K] : s->in[V] + kvh * a->d_v,
                  .dy = s->in[DY] + h * a->d_v};
    r.q_row = cols_of(a, Q);
    r.k_row = cols_of(a, K);
    r.v_row = a->latent ? r.k_row : cols_of(a, V);
    r.dy_row = cols_of(a, DY);
    return r;
}

// P and dS of query t, keys 0..t.
static void naive_row(const mk_attn *a, const one_head *x, int64_t t, float *p, float *ds) {
    float m = -INFINITY, l[16] = {0}, sum[16] = {0};
    for (int64_t j = 0; j <= t; j++) {
        p[j] = a->scale * dot(x->q + t * x->q_row, x->k + j * x->k_row, a->d_k);
        ds[j] = dot(x->dy + t * x->dy_row, x->v + j * x->v_row, a->d_v);
        m = p[j] > m ? p[j] : m;
    }
    for (int64_t j = 0; j <= t; j++) {
        p[j] = mk_expf(p[j] - m);
        l[j % 16] += p[j];
        sum[j % 16] = fmaf(p[j], ds[j], sum[j % 16]);
    }
    float inv = 1.0f / tree_sum(l), delta = tree_sum(sum) * inv;
    for (int64_t j = 0; j <= t; j++) {
        p[j] *= inv;
        ds[j] = p[j] * (ds[j] - delta);
    }
}

// Query t of one head: dq, and its part of the sums of dk and dv [key][column].
static void naive_query(const sequence *s, int64_t h, int64_t t, float *dk, float *dv) {
    const mk_attn *a = &s->a;
    one_head x = head_of(s, h);
    float *p = mk_alloc((size_t)(t + 1) * 2 * sizeof *p), *ds = p + t + 1;
    naive_row(a, &x, t, p, ds);
    for (int64_t d = 0; d < a->d_k; d++) {
        float sum = 0, *dq = s->want[Q] + t * x.q_row + h * a->d_k + d;
        for (int64_t j = 0; j <= t; j++) {
            sum = fmaf(ds[j], x.k[j * x.k_row + d], sum);
            dk[j * a->d_k + d] = fmaf(ds[j], x.q[t * x.q_row + d], dk[j * a->d_k + d]);
        }
        *dq = fmaf(a->scale, sum, *dq);
    }
    for (int64_t j = 0; j <= t; j++) {
        for (int64_t c = 0; c < a->d_v; c++) {
            dv[j * a->d_v + c] = fmaf(p[j], x.dy[t * x.dy_row + c], dv[j * a->d_v + c]);
        }
    }
    mk_free(p);
}

// Fills want.
static void naive_backward(sequence *s) {
    const mk_attn *a = &s->a;
    uint64_t fpu = mk_fpu_enter();
    for (int i = 0; i < 3; i++) {
        memcpy(s->want[i], s->old[i], (size_t)(s->n * cols_of(a, i)) * sizeof(float));
    }
    int64_t group = a->n_head / a->n_kv_head;
    for (int64_t kvh = 0; kvh < a->n_kv_head; kvh++) {
        float *dk = mk_zalloc((size_t)(s->n * (a->d_k + a->d_v)) * sizeof *dk);
        float *dv = dk + s->n * a->d_k;
        for (int64_t i = 0; i < group * s->n; i++) {
            naive_query(s, kvh * group + i / s->n, i % s->n, dk, dv);
        }
        for (int64_t j = 0; j < s->n; j++) {
            float *to = s->want[K] + j * cols_of(a, K) + kvh * a->d_k;
            for (int64_t d = 0; d < a->d_k; d++) {
                to[d] = fmaf(a->scale, dk[j * a->d_k + d], to[d]);
            }
            to = a->latent ? to : s->want[V] + j * cols_of(a, V) + kvh * a->d_v;
            for (int64_t c = 0; c < a->d_v; c++) {
                to[c] += dv[j * a->d_v + c];
            }
        }
        mk_free(dk);
    }
    mk_fpu_leave(fpu);
}

// --- running -------------------------------------------------------------------------------------
enum { MAX_SEQ = 40, MAX_ROWS = 1200 };

typedef struct {
    sequence *s[MAX_SEQ];
    int n_seq;
    int64_t gap;    // unused columns behind every row
    unsigned skip;  // bit i: gradient i is not wanted
} batch;

typedef struct {
    const batch *b;
    const mk_attn *a;
    mk_rows rows;
    mk_mat in[N_IN], grad[3];
} back_step;

static void step_back(mk_ops *ops, void *arg) {
    const back_step *s = arg;
    mk_back_attention(ops, s->grad[Q], s->grad[K], s->grad[V], s->in[DY], s->in[Q], s->in[K],
                      s->in[V], s->a, &s->rows);
}

#define GAP_MARK 7.5f

// The rows of all sequences in the order of the batch.
static mk_mat gather(const batch *b, int what, bool gradient) {
    const mk_attn *a = &b->s[0]->a;
    int64_t n = 0, cols = cols_of(a, what);
    if (cols == 0 || (gradient && (b->skip >> what & 1) != 0)) {
        return (mk_mat){0};
    }
    for (int i = 0; i < b->n_seq; i++) {
        n += b->s[i]->n;
    }
    mk_mat m = {mk_alloc((size_t)(n * (cols + b->gap)) * sizeof(float)), n, cols, cols + b->gap};
    float *to = m.p;
    for (int i = 0; i < b->n_seq; i++) {
        const float *from = gradient ? b->s[i]->old[what] : b->s[i]->in[what];
        for (int64_t t = 0; t < b->s[i]->n; t++, to += m.stride) {
            memcpy(to, from + t * cols, (size_t)cols * sizeof *to);
            for (int64_t c = cols; c < m.stride; c++) {
                to[c] = GAP_MARK;
            }
        }
    }
    return m;
}

static void check_gradient(const batch *b, int which, mk_mat m, const char *what) {
    const float *row = m.p;
    for (int i = 0; m.p != NULL && i < b->n_seq; i++) {
        for (int64_t t = 0; t < b->s[i]->n; t++, row += m.stride) {
            char text[120];
            snprintf(text, sizeof text, "%s: d%c of row %d of sequence %d of %d", what,
                     "qkv"[which], (int)t, i, (int)b -> s[i] -> n);
            assert_same_floats(row, b->s[i]->want[which] + t * m.n_col, m.n_col, text);
            for (int64_t c = m.n_col; c < m.stride; c++) {
                assert_true(row[c] == GAP_MARK);
            }
        }
    }
}

// Runs the batch and calls `check` for each gradient.
typedef void (*check_fn)(const batch *b, int which, mk_mat m, const char *what);
static void run_batch(const bench *be, const batch *b, check_fn check, const char *what) {
    static const int32_t tables[MAX_SEQ][1];
    int32_t pos[MAX_ROWS];
    const int32_t *table[MAX_ROWS];
    back_step step = {.b = b, .a = &b->s[0]->a};
    for (int i = 0; i < b->n_seq; i++) {
        for (int64_t t = 0; t < b->s[i]->n; t++) {
            assert_true(step.rows.n_tok < MAX_ROWS);
            pos[step.rows.n_tok] = (int32_t)t;
            table[step.rows.n_tok++] = tables[i % 3 == 2 ? i - 1 : i];  // a table may be shared
        }
    }
    step.rows.pos = pos;
    step.rows.table = table;
    for (int i = 0; i < N_IN; i++) {
        step.in[i] = gather(b, i, false);
    }
    for (int i = 0; i < 3; i++) {
        step.grad[i] = gather(b, i, true);
    }
    run_step(be, step_back, &step);
    for (int i = 0; i < 3; i++) {
        check(b, i, step.grad[i], what);
        mk_free(step.grad[i].p);
    }
    for (int i = 0; i < N_IN; i++) {
        mk_free(step.in[i].p);
    }
}

// Every instruction set, 1 to 3 threads.
static void check_everywhere(const batch *b, check_fn check, const char *what) {
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            bench be = bench_open(mk_kernels_at(k), n_thread);
            char text[80];
            snprintf(text, sizeof text, "%s, %s, %d threads", what,
                     mk_kernels_name(mk_kernels_at(k)), n_thread);
            run_batch(&be, b, check, text);
            bench_close(&be);
        }
    }
}

// --- bits ----------------------------------------------------------------------------------------
static const mk_attn shapes[] = {
    {.n_head = 4, .n_kv_head = 2, .d_k = 64, .d_v = 64, .scale = 0.125f},
    {.n_head = 3, .n_kv_head = 3, .d_k = 24, .d_v = 20, .scale = 0.2f},
    {.n_head = 3, .n_kv_head = 1, .d_k = 7, .d_v = 5, .scale = 0.3f},
    {.n_head = 2, .n_kv_head = 1, .d_k = 48, .d_v = 130, .scale = 0.1f},
    {.n_head = 5, .n_kv_head = 1, .d_k = 21, .d_v = 17, .latent = true, .scale = 0.1f},
    {.n_head = 2, .n_kv_head = 1, .d_k = 80, .d_v = 80, .latent = true, .scale = 1.5f},
};

static void bits_are_those_of_the_definition(void **state) {
    (void)state;
    static const int64_t lengths[] = {17, 1, 40, 8, 5, 64};
    uint64_t rng = 21;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        sequence s[6];
        batch b = {.n_seq = 6, .gap = i % 2 == 0 ? 0 : 3}, turned = b;
        for (int j = 0; j < 6; j++) {
            s[j] = make_sequence(shapes[i], lengths[j], &rng);
            naive_backward(&s[j]);
            b.s[j] = &s[j];
            turned.s[5 - j] = &s[j];
        }
        char what[40];
        snprintf(what, sizeof what, "shape %zu", i);
        check_everywhere(&b, check_gradient, what);
        check_everywhere(&turned, check_gradient, what);
        for (int j = 0; j < 6; j++) {
            sequence_free(&s[j]);
        }
    }
}

// One long sequence is divided between the threads; several pieces of queries, several at once.
static void long_sequences_keep_their_bits(void **state) {
    (void)state;
    uint64_t rng = 22;
    for (int i = 0; i < 2; i++) {
        mk_attn a = {.n_head = 2, .n_kv_head = 1, .d_k = 10, .d_v = 6, .scale = 0.3f};
        a.latent = i == 1;
        sequence s = make_sequence(a, 700, &rng), next = make_sequence(a, 30, &rng);
        naive_backward(&s);
        naive_backward(&next);
        batch b = {.s = {&s, &next}, .n_seq = 2, .gap = 1};
        check_everywhere(&b, check_gradient, "700 rows");
        sequence_free(&s);
        sequence_free(&next);
    }
}

static void gradients_may_be_left_out(void **state) {
    (void)state;
    uint64_t rng = 23;
    for (int i = 0; i < 2; i++) {
        sequence s = make_sequence(shapes[i == 0 ? 1 : 4], 50, &rng);
        naive_backward(&s);
        for (unsigned skip = 1; skip < 8; skip++) {
            batch b = {.s = {&s}, .n_seq = 1, .skip = skip};
            bench be = bench_open(mk_kernels_at(0), 2);
            run_batch(&be, &b, check_gradient, "some gradients");
            bench_close(&be);
        }
        sequence_free(&s);
    }
}

static void no_rows_are_fine(void **state) {
    (void)state;
    uint64_t rng = 24;
    sequence s = make_sequence(shapes[0], 0, &rng);
    batch b = {.s = {&s}, .n_seq = 1};
    check_everywhere(&b, check_gradient, "no rows");
    sequence_free(&s);
}

// --- golden --------------------------------------------------------------------------------------
// Distance allowed to an exact gradient, relative to the largest element of its kind: rounding of
// scores, of sums of up to 130 terms and of P, about 1e-6 together (measured 6e-7).
#define TOLERANCE 2e-6

static void check_near(const batch *b, int which, mk_mat m, const char *what) {
    const float *row = m.p;
    for (int i = 0; m.p != NULL && i < b->n_seq; i++) {
        const float *want = b->s[i]->want[which];
        double most = 0;
        for (int64_t j = 0; j < b->s[i]->n * m.n_col; j++) {
            most = fabs((double)want[j]) > most ? fabs((double)want[j]) : most;
        }
        for (int64_t t = 0; t < b->s[i]->n; t++, row += m.stride) {
            for (int64_t c = 0; c < m.n_col; c++) {
                double w = (double)want[t * m.n_col + c], got = (double)row[c];
                if (!(fabs(got - w) <= TOLERANCE * (most + 1e-3))) {
                    fail_msg("%s: d%c of row %d column %d of sequence %d: %.8g, expected %.8g",
                             what, "qkv"[which], (int)t, (int)c, i, got, w);
                }
            }
        }
    }
}

static const uint8_t *read_codes(const uint8_t *from, float *to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        to[i] = (float)(int8_t)from[i] / 32.0f;
    }
    return from + n;
}

static void gradients_are_those_of_torch(void **state) {
    (void)state;
    static const mk_attn cases[] = {
        {.n_head = 4, .n_kv_head = 2, .d_k = 8, .d_v = 8, .scale = 0.375f},
        {.n_head = 4, .n_kv_head = 1, .d_k = 12, .d_v = 8, .latent = true, .scale = 0.25f}};
    static const int64_t lengths[] = {1, 5, 70, 130};
    uint64_t rng = 25;
    char *data = NULL;
    size_t n_bytes = 0;
    mk_err err = {0};
    if (mk_file_read("tests/golden/attention_back.bin", 1 << 20, &data, &n_bytes, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    const uint8_t *at = (const uint8_t *)data;
    for (int i = 0; i < 2; i++) {
        sequence s[4];
        batch b = {.n_seq = 4};
        for (int j = 0; j < 4; j++) {
            s[j] = make_sequence(cases[i], lengths[j], &rng);
            b.s[j] = &s[j];
            for (int what = 0; what < N_IN; what++) {
                at = read_codes(at, s[j].in[what], lengths[j] * cols_of(&cases[i], what));
            }
            for (int g = 0; g < 3; g++) {
                size_t size = (size_t)(lengths[j] * cols_of(&cases[i], g)) * sizeof(float);
                memset(s[j].old[g], 0, size);
                memcpy(s[j].want[g], at, size);
                at += size;
            }
        }
        check_everywhere(&b, check_near, i == 0 ? "grouped" : "latent");
        for (int j = 0; j < 4; j++) {
            sequence_free(&s[j]);
        }
    }
    assert_ptr_equal(at, (const uint8_t *)data + n_bytes);
    mk_free(data);
}

// --- finite differences --------------------------------------------------------------------------
// sum of dy * y, in double; `in` are q, k, v.
static double loss(const sequence *s, double *const in[3]) {
    const mk_attn *a = &s->a;
    double sum = 0;
    for (int64_t i = 0; i < s->n * a->n_head; i++) {
        int64_t t = i / a->n_head, h = i % a->n_head, kvh = h / (a->n_head / a->n_kv_head);
        double norm = 0, y = 0;
        for (int64_t j = 0; j <= t; j++) {
            const double *q = in[Q] + i * a->d_k, *k = in[K] + (j * a->n_kv_head + kvh) * a->d_k;
            const double *v = a->latent ? k : in[V] + (j * a->n_kv_head + kvh) * a->d_v;
            double score = 0, part = 0;
            for (int64_t d = 0; d < a->d_k; d++) {
                score += q[d] * k[d];
            }
            for (int64_t c = 0; c < a->d_v; c++) {
                part += (double)s->in[DY][i * a->d_v + c] * v[c];
            }
            double e = exp(score * (double)a->scale);
            norm += e;
            y += e * part;
        }
        sum += y / norm;
    }
    return sum;
}

static void gradients_are_slopes(void **state) {
    (void)state;
    static const mk_attn cases[] = {
        {.n_head = 4, .n_kv_head = 2, .d_k = 5, .d_v = 3, .scale = 0.4f},
        {.n_head = 3, .n_kv_head = 1, .d_k = 5, .d_v = 3, .latent = true, .scale = 0.4f}};
    const double h = 1e-4;
    uint64_t rng = 26;
    for (int i = 0; i < 2; i++) {
        sequence s = make_sequence(cases[i], 19, &rng);
        double *x[3];
        for (int g = 0; g < 3; g++) {
            int64_t n = s.n * cols_of(&s.a, g);
            x[g] = mk_alloc((size_t)(n > 0 ? n : 1) * sizeof(double));
            for (int64_t j = 0; j < n; j++) {
                x[g][j] = (double)s.in[g][j];
                s.old[g][j] = 0;
            }
        }
        for (int g = 0; g < 3; g++) {
            for (int64_t j = 0; j < s.n * cols_of(&s.a, g); j++) {
                double was = x[g][j];
                x[g][j] = was + h;
                double up = loss(&s, x);
                x[g][j] = was - h;
                s.want[g][j] = (float)((up - loss(&s, x)) / (2 * h));
                x[g][j] = was;
            }
        }
        batch b = {.s = {&s}, .n_seq = 1};
        check_everywhere(&b, check_near, i == 0 ? "slopes, grouped" : "slopes, latent");
        for (int g = 0; g < 3; g++) {
            mk_free(x[g]);
        }
        sequence_free(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_those_of_the_definition),
        cmocka_unit_test(long_sequences_keep_their_bits),
        cmocka_unit_test(gradients_may_be_left_out),
        cmocka_unit_test(no_rows_are_fine),
        cmocka_unit_test(gradients_are_those_of_torch),
        cmocka_unit_test(gradients_are_slopes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
