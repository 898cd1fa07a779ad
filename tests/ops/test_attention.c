// Attention against softmax in double (tolerance: float32 roundings of sums of up to a few hundred
// terms, about 1e-5), int8 caches against the formulas of docs/numerics.md written out, bit by bit;
// and against itself: every cut of a prompt, batch of sequences, thread count and instruction set
// must give the same bits, and whatever lies in the cache behind a row's position must not matter.
#include <math.h>

#include "ops_util.h"

enum { MAX_BLOCKS = 8 };

typedef struct {
    mk_attn a;
    int64_t n;         // tokens of the sequence
    float *k, *v, *q;  // [n, heads * d]; latent: v NULL
} sequence;

static sequence make_sequence(mk_attn a, int64_t n, uint64_t *rng) {
    sequence s = {a, n, random_floats(rng, n * a.n_kv_head * a.d_k), NULL,
                  random_floats(rng, n * a.n_head * a.d_k)};
    if (!a.latent) {
        s.v = random_floats(rng, n * a.n_kv_head * a.d_v);
    }
    return s;
}

static void sequence_free(sequence *s) {
    mk_free(s->k);
    mk_free(s->v);
    mk_free(s->q);
}

static double stored(const mk_attn *a, float x) {
    return (double)(a->type == MK_KV_F16 ? mk_f32_from_f16(mk_f16_from_f32(x)) : x);
}

// y[h*d_v ..] of row t, in double.
static void naive_row(const sequence *s, int64_t t, int64_t h, double *y) {
    const mk_attn *a = &s->a;
    int64_t kvh = h / (a->n_head / a->n_kv_head), row = a->n_kv_head * a->d_k;
    double p[MAX_BLOCKS * MK_KV_BLOCK], top = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= t; j++) {
        p[j] = 0;
        for (int64_t d = 0; d < a->d_k; d++) {
            p[j] += (double)s->q[(t * a->n_head + h) * a->d_k + d] *
                    stored(a, s->k[j * row + kvh * a->d_k + d]);
        }
        p[j] *= (double)a->scale;
        top = p[j] > top ? p[j] : top;
    }
    for (int64_t j = 0; j <= t; j++) {
        p[j] = exp(p[j] - top);
        sum += p[j];
    }
    for (int64_t d = 0; d < a->d_v; d++) {
        y[d] = 0;
        for (int64_t j = 0; j <= t; j++) {
            float v = a->latent ? s->k[j * row + d] : s->v[(j * a->n_kv_head + kvh) * a->d_v + d];
            y[d] += p[j] / sum * stored(a, v);
        }
    }
}

// --- int8, written out ---------------------------------------------------------------------------
// codes and the scale of n columns
static float quantise(const float *x, int64_t n, int32_t *q) {
    float amax = 0;
    for (int64_t i = 0; i < n; i++) {
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    bool zero = amax < 0x1p-100f;
    for (int64_t i = 0; i < n; i++) {
        q[i] = zero ? 0 : (int32_t)nearbyintf(x[i] * (127.0f / amax));
    }
    return zero ? 0.0f : amax / 127.0f;
}

static float exp2_of(float x) {
    x = x < -126.0f ? -126.0f : x;
    float n = nearbyintf(x), r = x - n;
    float p = fmaf(r, 0x1.3a02ccp-7f, 0x1.c9fc46p-5f);
    p = fmaf(p, r, 0x1.ec0378p-3f);
    p = fmaf(p, r, 0x1.62e12cp-1f);
    return fmaf(p, r, 1.0f) * ldexpf(1.0f, (int)n);
}

enum { MAX_COLS = 512 };

// Columns [lo, hi) of a key and a query, in groups of 32; the key's groups share a scale `wide` by
// `wide`.
static float score_part(const float *k, const float *q, int64_t lo, int64_t hi, int64_t wide,
                        float scale, float s) {
    for (int64_t w = lo; w < hi; w += 32 * wide) {
        int64_t end = w + 32 * wide < hi ? w + 32 * wide : hi;
        int32_t kq[MAX_COLS], qq[32];
        float kd = quantise(k + w, end - w, kq);
        for (int64_t g = w; g < end; g += 32) {
            int64_t n = end - g < 32 ? end - g : 32;
            float d = quantise(q + g, n, qq);
            int32_t isum = 0;
            for (int64_t i = 0; i < n; i++) {
                isum += qq[i] * kq[g - w + i];
            }
            s = fmaf((float)isum, kd * (d * scale), s);
        }
    }
    return s;
}

static float score(const mk_attn *a, const float *k, const float *q) {
    float scale = a->scale * 0x1.715476p+0f;
    float s = a->latent ? score_part(k, q, 0, a->d_v, 4, scale, 0) : 0;
    return score_part(k, q, a->latent ? a->d_v : 0, a->d_k, 1, scale, s);
}

// One block of 64 keys for one query: p are its probabilities, n of them visible.
static void add_values(const sequence *s, int64_t first, int64_t kvh, const float *p, int64_t n,
                       float corr, float *acc) {
    const mk_attn *a = &s->a;
    int64_t stride = a->n_kv_head * (a->latent ? a->d_k : a->d_v);
    const float *v = (a->latent ? s->k : s->v) + first * stride + kvh * a->d_v;
    for (int64_t c = 0; c < a->d_v; c++) {
        acc[c] *= corr;
    }
    for (int64_t lo = 0; lo < a->d_v; lo += 128) {
        int64_t width = a->d_v - lo < 128 ? a->d_v - lo : 128;
        for (int64_t half = 0; half < n; half += 32) {
            int32_t vq[32][128], pq[32];
            float scaled[32];
            int64_t m = n - half < 32 ? n - half : 32;
            for (int64_t j = 0; j < m; j++) {
                scaled[j] = p[half + j] * quantise(v + (half + j) * stride + lo, width, vq[j]);
            }
            float d = quantise(scaled, m, pq);
            for (int64_t c = 0; c < width && d > 0; c++) {
                int32_t isum = 0;
                for (int64_t j = 0; j < m; j++) {
                    isum += pq[j] * vq[j][c];
                }
                acc[lo + c] = fmaf((float)isum, d, acc[lo + c]);
            }
        }
    }
}

static float tree_sum(float *v) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            v[i] += v[i + half];
        }
    }
    return v[0];
}

static void naive_q8_row(const sequence *s, int64_t t, int64_t h, float *y) {
    const mk_attn *a = &s->a;
    int64_t kvh = h / (a->n_head / a->n_kv_head);
    float m = -INFINITY, l[16] = {0};
    memset(y, 0, (size_t)a->d_v * sizeof *y);
    for (int64_t first = 0; first <= t; first += MK_KV_BLOCK) {
        int64_t n = t + 1 - first < MK_KV_BLOCK ? t + 1 - first : MK_KV_BLOCK;
        float p[MK_KV_BLOCK], top = m;
        for (int64_t j = 0; j < n; j++) {
            p[j] = score(a, s->k + ((first + j) * a->n_kv_head + kvh) * a->d_k,
                         s->q + (t * a->n_head + h) * a->d_k);
            top = p[j] > top ? p[j] : top;
        }
        float corr = exp2_of(m - top);
        m = top;
        for (int64_t i = 0; i < 16; i++) {
            l[i] *= corr;
        }
        for (int64_t j = 0; j < n; j++) {
            p[j] = exp2_of(p[j] - m);
            l[j % 16] += p[j];
        }
        add_values(s, first, kvh, p, n, corr, y);
    }
    float inv = 1.0f / tree_sum(l);
    for (int64_t c = 0; c < a->d_v; c++) {
        y[c] *= inv;
    }
}

static void check_equals_q8(const sequence *s, const float *y, const char *what) {
    const mk_attn *a = &s->a;
    uint64_t fpu = mk_fpu_enter();
    for (int64_t t = 0; t < s->n; t += (t < 10 || t > 60 ? 1 : 13)) {
        for (int64_t h = 0; h < a->n_head; h += 1 + h / 4) {
            float want[MAX_COLS];
            naive_q8_row(s, t, h, want);
            assert_same_floats(y + (t * a->n_head + h) * a->d_v, want, a->d_v, what);
        }
    }
    mk_fpu_leave(fpu);
}

// --- running -------------------------------------------------------------------------------------
typedef struct {
    const mk_attn *a;
    mk_kv_layer kv;
    mk_rows rows;
    mk_mat k, v, q, y;
} attn_step;

static void step_attention(mk_ops *ops, void *arg) {
    attn_step *s = arg;
    mk_op_kv_store(ops, s->a, s->kv, &s->rows, s->k, s->v);
    mk_op_attention(ops, s->y, s->q, s->a, s->kv, &s->rows);
}

// A cache whose every byte is NaN.
static mk_kv_layer stale_cache(const mk_attn *a, int64_t n_block) {
    mk_kv_layer kv = {NULL, mk_attn_block_bytes(a) + 128};
    kv.base = mk_alloc((size_t)n_block * kv.block_stride);
    memset(kv.base, 0xFF, (size_t)n_block * kv.block_stride);
    return kv;
}

// Runs the sequence in pieces of `chunk` rows through `ops`; y [n, n_head * d_v].
static float *run_sequence(const bench *b, const sequence *s, int64_t chunk) {
    const mk_attn *a = &s->a;
    int32_t table[MAX_BLOCKS], pos[MAX_BLOCKS * MK_KV_BLOCK];
    const int32_t *tables[MAX_BLOCKS * MK_KV_BLOCK];
    int64_t yc = a->n_head * a->d_v, kc = a->n_kv_head * a->d_k, vc = a->n_kv_head * a->d_v,
            qc = a->n_head * a->d_k;
    float *y = mk_try_alloc((size_t)(s->n * yc), sizeof *y);
    mk_kv_layer kv = stale_cache(a, MAX_BLOCKS);
    for (int i = 0; i < MAX_BLOCKS; i++) {
        table[i] = (i * 5 + 3) % MAX_BLOCKS;  // blocks lie anywhere
    }
    for (int64_t t = 0; t < s->n; t++) {
        pos[t] = (int32_t)t;
        tables[t] = table;
    }
    for (int64_t t = 0; t < s->n; t += chunk) {
        int64_t n = s->n - t < chunk ? s->n - t : chunk;
        attn_step step = {a,
                          kv,
                          {n, pos + t, tables + t},
                          {s->k + t * kc, n, kc, kc},
                          {s->v == NULL ? NULL : s->v + t * vc, n, vc, vc},
                          {s->q + t * qc, n, qc, qc},
                          {y + t * yc, n, yc, yc}};
        run_step(b, step_attention, &step);
    }
    mk_free(kv.base);
    return y;
}

// Floats: every element within 2e-5 of 1 + |value|.  int8: rounding to 1/254 of the largest of 32
// columns (or 128, or 32 keys) happens five times, so the distance over all rows is compared.
static void check_near_naive(const sequence *s, const float *y, const char *what) {
    const mk_attn *a = &s->a;
    double *want = mk_alloc((size_t)a->d_v * sizeof *want), diff2 = 0, ref2 = 0;
    for (int64_t t = 0; t < s->n; t += (t < 70 ? 1 : 13)) {
        for (int64_t h = 0; h < a->n_head; h++) {
            naive_row(s, t, h, want);
            for (int64_t d = 0; d < a->d_v; d++) {
                double got = (double)y[(t * a->n_head + h) * a->d_v + d];
                if (a->type != MK_KV_Q8 && !(fabs(got - want[d]) < 2e-5 * (1 + fabs(want[d])))) {
                    fail_msg("%s: row %lld head %lld column %lld: %.8g, expected %.8g", what,
                             (long long)t, (long long)h, (long long)d, got, want[d]);
                }
                diff2 += (got - want[d]) * (got - want[d]);
                ref2 += want[d] * want[d];
            }
        }
    }
    if (!(sqrt(diff2 / ref2) < 0.03)) {
        fail_msg("%s: |y - exact| / |exact| is %.3g, expected below 0.03", what,
                 sqrt(diff2 / ref2));
    }
    mk_free(want);
}

static const mk_attn shapes[] = {
    {.n_head = 4, .n_kv_head = 2, .d_k = 64, .d_v = 64, .type = MK_KV_F32, .scale = 0.125f},
    {.n_head = 14, .n_kv_head = 2, .d_k = 64, .d_v = 64, .type = MK_KV_F16, .scale = 0.125f},
    {.n_head = 3, .n_kv_head = 3, .d_k = 24, .d_v = 20, .type = MK_KV_F16, .scale = 0.2f},
    {.n_head = 3, .n_kv_head = 1, .d_k = 7, .d_v = 5, .type = MK_KV_F32, .scale = 0.3f},
    {.n_head = 2, .n_kv_head = 1, .d_k = 48, .d_v = 130, .type = MK_KV_F32, .scale = 0.1f},
    {.n_head = 40,
     .n_kv_head = 1,
     .d_k = 36,
     .d_v = 32,
     .latent = true,
     .type = MK_KV_F16,
     .scale = 0.1f},
    {.n_head = 70,
     .n_kv_head = 1,
     .d_k = 21,
     .d_v = 17,
     .latent = true,
     .type = MK_KV_F32,
     .scale = 0.1f},
    {.n_head = 1,
     .n_kv_head = 1,
     .d_k = 16,
     .d_v = 16,
     .latent = true,
     .type = MK_KV_F32,
     .scale = 1.5f},
    {.n_head = 8, .n_kv_head = 2, .d_k = 64, .d_v = 64, .type = MK_KV_Q8, .scale = 0.125f},
    {.n_head = 14, .n_kv_head = 2, .d_k = 64, .d_v = 64, .type = MK_KV_Q8, .scale = 0.125f},
    {.n_head = 3, .n_kv_head = 3, .d_k = 40, .d_v = 20, .type = MK_KV_Q8, .scale = 0.2f},
    {.n_head = 2, .n_kv_head = 1, .d_k = 7, .d_v = 150, .type = MK_KV_Q8, .scale = 0.1f},
    {.n_head = 70,
     .n_kv_head = 1,
     .d_k = 176,
     .d_v = 144,
     .latent = true,
     .type = MK_KV_Q8,
     .scale = 0.1f},
    {.n_head = 16,
     .n_kv_head = 1,
     .d_k = 57,
     .d_v = 17,
     .latent = true,
     .type = MK_KV_Q8,
     .scale = 0.1f},
};

static void every_cut_gives_the_same_bits(void **state) {
    (void)state;
    static const int64_t chunks[] = {1, 7, 64, 1000};
    uint64_t rng = 11;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        sequence s = make_sequence(shapes[i], 64 + 64 + 9, &rng);
        bench first = bench_open(mk_kernels_at(0), 1);
        float *want = run_sequence(&first, &s, 1000);
        bench_close(&first);
        if (s.a.type == MK_KV_Q8) {
            check_equals_q8(&s, want, "scalar");
        }
        check_near_naive(&s, want, "scalar");
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
                bench b = bench_open(mk_kernels_at(k), 1 + (int)(c % 3));
                float *y = run_sequence(&b, &s, chunks[c]);
                char what[80];
                snprintf(what, sizeof what, "%s shape %zu chunk %lld",
                         mk_kernels_name(mk_kernels_at(k)), i, (long long)chunks[c]);
                assert_same_floats(y, want, s.n * s.a.n_head * s.a.d_v, what);
                mk_free(y);
                bench_close(&b);
            }
        }
        mk_free(want);
        sequence_free(&s);
    }
}

// Two sequences in one batch, rows of each contiguous, one in the middle of its text.
static void sequences_do_not_mix(void **state) {
    (void)state;
    uint64_t rng = 12;
    const mk_attn a = shapes[1];
    int64_t yc = a.n_head * a.d_v, kc = a.n_kv_head * a.d_k, vc = a.n_kv_head * a.d_v,
            qc = a.n_head * a.d_k;
    sequence s[2] = {make_sequence(a, 70, &rng), make_sequence(a, 5, &rng)};
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 2);
        float *want[2] = {run_sequence(&b, &s[0], 1000), run_sequence(&b, &s[1], 1000)};
        mk_kv_layer kv = stale_cache(&a, 4);
        static const int32_t t0[] = {2, 0}, t1[] = {3};
        int32_t pos[75];
        const int32_t *tables[75];
        for (int i = 0; i < 75; i++) {
            pos[i] = i < 70 ? i : i - 70;
            tables[i] = i < 70 ? t0 : t1;
        }
        float *kk = mk_alloc((size_t)(75 * kc) * 4), *vv = mk_alloc((size_t)(75 * vc) * 4);
        float *qq = mk_alloc((size_t)(75 * qc) * 4), *y = mk_alloc((size_t)(75 * yc) * 4);
        for (int i = 0; i < 75; i++) {
            const sequence *from = &s[i >= 70];
            memcpy(kk + i * kc, from->k + pos[i] * kc, (size_t)kc * 4);
            memcpy(vv + i * vc, from->v + pos[i] * vc, (size_t)vc * 4);
            memcpy(qq + i * qc, from->q + pos[i] * qc, (size_t)qc * 4);
        }
        attn_step step = {&a,
                          kv,
                          {75, pos, tables},
                          {kk, 75, kc, kc},
                          {vv, 75, vc, vc},
                          {qq, 75, qc, qc},
                          {y, 75, yc, yc}};
        run_step(&b, step_attention, &step);
        assert_same_floats(y, want[0], 70 * yc, "first sequence");
        assert_same_floats(y + 70 * yc, want[1], 5 * yc, "second sequence");
        mk_free(kk);
        mk_free(vv);
        mk_free(qq);
        mk_free(y);
        mk_free(kv.base);
        mk_free(want[0]);
        mk_free(want[1]);
        bench_close(&b);
    }
    sequence_free(&s[0]);
    sequence_free(&s[1]);
}

static void no_rows_are_fine(void **state) {
    (void)state;
    const mk_attn a = shapes[0];
    bench b = bench_open(mk_kernels_at(0), 2);
    attn_step step = {&a,
                      {NULL, 0},
                      {0, NULL, NULL},
                      {NULL, 0, 128, 128},
                      {NULL, 0, 128, 128},
                      {NULL, 0, 256, 256},
                      {NULL, 0, 256, 256}};
    run_step(&b, step_attention, &step);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_gives_the_same_bits),
        cmocka_unit_test(sequences_do_not_mix),
        cmocka_unit_test(no_rows_are_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
