// Adapters beside linear layers, heads and experts.
//
// Forward: bit by bit against the definition (ops.h) written out with the operators' own base
// product, on every instruction set.  Backward: against the same formulas in double (1e-4 of the
// largest value: float32 sums over a few hundred terms), and bit by bit against other cuts, threads
// and instruction sets.  Lengths and merged weights against double.
#include <math.h>

#include "ops/tape.h"
#include "ops_util.h"

static float *floats(int64_t n) {
    float *p = mk_try_alloc((size_t)(n > 0 ? n : 1), sizeof *p);
    assert_non_null(p);
    return p;
}

// --- weights with adapters -----------------------------------------------------------------------

// Rows f32 as a weight; `back` receives the values it stands for.
static mk_weight pack(mk_dtype t, const float *f, int64_t n_mat, int64_t n_out, int64_t n_in) {
    mk_pool *pool = mk_pool_create(1);
    size_t row = 0;
    assert_true(mk_dtype_row_bytes(t, n_in, &row));
    uint8_t *data = mk_try_alloc((size_t)(n_mat * n_out), row);
    assert_int_equal(mk_dtype_from_f32(t, f, n_mat * n_out * n_in, data, NULL), MK_OK);
    mk_weight_src src = {.dtype = t,
                         .data = data,
                         .n_mat = n_mat,
                         .n_out = n_out,
                         .n_in = n_in,
                         .row_bytes = row,
                         .mat_stride = (size_t)n_out * row};
    mk_weight w;
    assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_OK);
    mk_free(data);
    mk_pool_destroy(pool);
    return w;
}

// What a weight of type t stands for.
static float *rounded(mk_dtype t, const float *f, int64_t n) {
    uint8_t *data = mk_alloc((size_t)n * 4);
    float *out = floats(n);
    assert_int_equal(mk_dtype_from_f32(t, f, n, data, NULL), MK_OK);
    mk_dtype_to_f32(t, data, n, out);
    mk_free(data);
    return out;
}

typedef struct {
    int64_t n_mat, n_out, n_in, rank;
    mk_weight w;
    mk_adapter ad;
    float *wf, *af, *bf, *mag, *norm;  // rows
} layer;

typedef struct {
    mk_dtype type;
    int64_t n_mat, n_out, n_in, rank;
    bool share_a, share_b, magnitude, of_columns;
} layer_spec;

static layer make_layer(uint64_t *rng, layer_spec s) {
    layer l = {.n_mat = s.n_mat, .n_out = s.n_out, .n_in = s.n_in, .rank = s.rank};
    int64_t na = s.share_a ? 1 : s.n_mat, nb = s.share_b ? 1 : s.n_mat;
    float *f = random_floats(rng, s.n_mat * s.n_out * s.n_in);
    l.wf = rounded(s.type, f, s.n_mat * s.n_out * s.n_in);
    l.w = pack(s.type, f, s.n_mat, s.n_out, s.n_in);
    mk_free(f);
    l.af = random_floats(rng, na * s.rank * s.n_in);
    l.bf = random_floats(rng, nb * s.n_out * s.rank);
    l.ad = (mk_adapter){.scale = 0.75f, .of_columns = s.of_columns};
    l.ad.a = pack(MK_DTYPE_F32, l.af, na, s.rank, s.n_in);
    l.ad.b = pack(MK_DTYPE_F32, l.bf, nb, s.n_out, s.rank);
    if (s.magnitude) {
        int64_t n = s.n_mat * (s.of_columns ? s.n_in : s.n_out);
        l.mag = random_floats(rng, n);
        l.norm = random_floats(rng, n);
        for (int64_t i = 0; i < n; i++) {
            l.norm[i] = 0.5f + fabsf(l.norm[i]);
        }
        l.ad.magnitude = l.mag;
        l.ad.norm = l.norm;
    }
    return l;
}

static void free_layer(layer *l) {
    mk_weight_free(&l->w);
    mk_weight_free(&l->ad.a);
    mk_weight_free(&l->ad.b);
    mk_free(l->wf);
    mk_free(l->af);
    mk_free(l->bf);
    mk_free(l->mag);
    mk_free(l->norm);
}

// --- forward -------------------------------------------------------------------------------------
typedef struct {
    layer *l;
    mk_mat x, y;
    int64_t xs, ys;  // strides of heads; 0: one matrix
    const float *bias;
} fwd_step;

static void step_forward(mk_ops *ops, void *arg) {
    fwd_step *s = arg;
    if (s->ys == 0) {
        mk_op_linear(ops, s->y, s->x, &s->l->w, s->bias);
    } else {
        mk_op_linear_heads(ops, s->y, s->ys, s->x, s->xs, &s->l->w);
    }
}

// y, of the base product, becomes what it is with the adapter.  x as the adapter sees it.
static void naive_add(const layer *l, int64_t mat, const float *x, float *y) {
    float u[64];
    int64_t ma = l->ad.a.n_mat == 1 ? 0 : mat, mb = l->ad.b.n_mat == 1 ? 0 : mat;
    for (int64_t k = 0; k < l->rank; k++) {
        u[k] = 0;
        for (int64_t i = 0; i < l->n_in; i++) {
            u[k] = fmaf(l->af[(ma * l->rank + k) * l->n_in + i], x[i], u[k]);
        }
        u[k] *= l->ad.scale;
    }
    for (int64_t o = 0; o < l->n_out; o++) {
        float d = 0;
        for (int64_t k = 0; k < l->rank; k++) {
            d = fmaf(l->bf[(mb * l->n_out + o) * l->rank + k], u[k], d);
        }
        y[o] += d;
    }
}

// The whole step with base products of the operators: `base` gives y of a step without adapter.
static void naive_forward(const bench *b, fwd_step s) {
    layer *l = s.l;
    int64_t n_head = s.ys == 0 ? 1 : l->n_mat, xs = s.ys == 0 ? l->n_in : s.xs;
    float *x = floats(s.x.n_row * s.x.n_col);
    for (int64_t t = 0; t < s.x.n_row; t++) {
        memcpy(x + t * s.x.n_col, s.x.p + t * s.x.stride, (size_t)s.x.n_col * sizeof *x);
        for (int64_t i = 0; l->mag && l->ad.of_columns && i < n_head * l->n_in; i++) {
            x[t * s.x.n_col + i / l->n_in * xs + i % l->n_in] *= l->mag[i] / l->norm[i];
        }
    }
    fwd_step base = s;
    base.x = (mk_mat){x, s.x.n_row, s.x.n_col, s.x.n_col};
    base.bias = l->mag ? NULL : s.bias;
    l->w.adapter = NULL;
    run_step(b, step_forward, &base);
    l->w.adapter = &l->ad;
    for (int64_t t = 0; t < s.x.n_row; t++) {
        for (int64_t h = 0; h < n_head; h++) {
            float *y = s.y.p + t * s.y.stride + h * s.ys;
            naive_add(l, h, x + t * s.x.n_col + h * xs, y);
            for (int64_t o = 0; l->mag && !l->ad.of_columns && o < l->n_out; o++) {
                y[o] = y[o] * (l->mag[h * l->n_out + o] / l->norm[h * l->n_out + o]) +
                       (s.bias ? s.bias[o] : 0);
            }
        }
    }
    mk_free(x);
}

static void check_forward(uint64_t *rng, const bench *b, layer_spec spec, int64_t n_tok) {
    layer l = make_layer(rng, spec);
    bool heads = spec.n_mat > 1;
    int64_t xs = heads ? spec.n_in + 3 : 0, ys = heads ? spec.n_out + 5 : 0;
    int64_t nx = heads ? spec.n_mat * xs : spec.n_in, ny = heads ? spec.n_mat * ys : spec.n_out;
    float *x = random_floats(rng, n_tok * nx), *bias = random_floats(rng, spec.n_out);
    float *y = floats(n_tok * ny), *want = floats(n_tok * ny);
    memset(y, 0, (size_t)(n_tok * ny) * sizeof *y);
    memset(want, 0, (size_t)(n_tok * ny) * sizeof *want);
    fwd_step s = {.l = &l, .x = {x, n_tok, nx, nx}, .y = {y, n_tok, ny, ny}, .xs = xs, .ys = ys};
    s.bias = heads || n_tok % 2 == 0 ? NULL : bias;
    l.w.adapter = &l.ad;
    run_step(b, step_forward, &s);
    s.y.p = want;
    naive_forward(b, s);
    assert_same_floats(y, want, n_tok * ny, mk_kernels_name(mk_ops_kernels(b->ops)));
    mk_free(x);
    mk_free(y);
    mk_free(want);
    mk_free(bias);
    free_layer(&l);
}

static void linears_follow_the_definition(void **state) {
    (void)state;
    static const mk_dtype types[] = {MK_DTYPE_F32, MK_DTYPE_BF16, MK_DTYPE_Q8_0};
    static const int64_t outs[] = {1, 16, 37, 130}, ranks[] = {1, 4, 17}, toks[] = {1, 5, 131};
    uint64_t rng = 5;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
        for (int i = 0; i < 36; i++) {
            layer_spec s = {.type = types[i % 3],
                            .n_mat = 1,
                            .n_out = outs[i % 4],
                            .n_in = i % 5 == 0 ? 96 : 64,
                            .rank = ranks[i / 4 % 3],
                            .magnitude = i % 7 > 3};
            check_forward(&rng, &b, s, toks[i / 12]);
        }
        bench_close(&b);
    }
}

static void heads_follow_the_definition(void **state) {
    (void)state;
    uint64_t rng = 6;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
        for (int i = 0; i < 24; i++) {
            layer_spec s = {.type = i % 2 ? MK_DTYPE_Q8_0 : MK_DTYPE_F32,
                            .n_mat = 3 + i % 2,
                            .n_out = i % 3 == 0 ? 40 : 16,
                            .n_in = 32,
                            .rank = i % 5 + 1,
                            .share_a = i % 3 == 1,
                            .share_b = i % 3 == 2,
                            .magnitude = i >= 8,
                            .of_columns = i >= 16};
            check_forward(&rng, &b, s, i % 4 == 3 ? 130 : 1 + i % 4);
        }
        bench_close(&b);
    }
}

// --- the fused operators -------------------------------------------------------------------------
typedef struct {
    layer *gate, *up, *down;
    const float *norm;
    mk_mat x, y;
    bool apart;
} mlp_step;

static void step_mlp(mk_ops *ops, void *arg) {
    mlp_step *s = arg;
    mk_mat g = mk_op_new(ops, s->x.n_row, s->gate->n_out);
    mk_mat u = mk_op_new(ops, s->x.n_row, s->up->n_out);
    mk_linear both[] = {{&s->gate->w, NULL, g}, {&s->up->w, NULL, u}};
    if (!s->apart) {
        mk_op_normed_linears(ops, (mk_normed){s->x, s->norm, 1e-5f}, both, 2);
        mk_op_swiglu_linear(ops, s->y, g, u, &s->down->w);
        return;
    }
    mk_mat n = mk_op_new(ops, s->x.n_row, s->x.n_col);
    mk_mat h = mk_op_new(ops, s->x.n_row, s->gate->n_out);
    mk_op_rmsnorm(ops, n, s->x, s->norm, 1e-5f);
    mk_op_linears(ops, n, both, 2);
    mk_op_swiglu(ops, h, g, u);
    mk_op_linear(ops, s->y, h, &s->down->w, NULL);
}

static void norm_and_swiglu_come_first(void **state) {
    (void)state;
    uint64_t rng = 7;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 2);
        layer g = make_layer(&rng, (layer_spec){MK_DTYPE_Q8_0, 1, 96, 64, 3, 0, 0, 0, 0});
        layer u = make_layer(&rng, (layer_spec){MK_DTYPE_Q8_0, 1, 96, 64, 3, 0, 0, 1, 0});
        layer d = make_layer(&rng, (layer_spec){MK_DTYPE_BF16, 1, 64, 96, 3, 0, 0, 0, 0});
        float *x = random_floats(&rng, 9 * 64), *norm = random_floats(&rng, 64);
        float y[9 * 64], want[9 * 64];
        mlp_step s = {&g, &u, &d, norm, {x, 9, 64, 64}, {y, 9, 64, 64}, false};
        for (int with = 1; with < 8; with++) {
            g.w.adapter = with & 1 ? &g.ad : NULL;
            u.w.adapter = with & 2 ? &u.ad : NULL;
            d.w.adapter = with & 4 ? &d.ad : NULL;
            s.apart = false;
            s.y.p = y;
            run_step(&b, step_mlp, &s);
            s.apart = true;
            s.y.p = want;
            run_step(&b, step_mlp, &s);
            assert_same_floats(y, want, 9 * 64, "mlp");
        }
        free_layer(&g);
        free_layer(&u);
        free_layer(&d);
        mk_free(x);
        mk_free(norm);
        bench_close(&b);
    }
}

// --- experts -------------------------------------------------------------------------------------
enum { E = 5, USED = 2, D = 64, FF = 96, TOK = 19 };

typedef struct {
    layer *gate, *up, *down;
    mk_mat x, y, w;
    int32_t *sel;
} moe_step;

static void step_moe(mk_ops *ops, void *arg) {
    moe_step *s = arg;
    mk_moe m = {&s->gate->w, &s->up->w, &s->down->w, s->sel, s->w, USED};
    mk_op_moe(ops, s->y, s->x, &m);
}

// Matrix e of a stack with its adapter, as a layer of its own; nothing is owned.
static layer expert_of(const layer *l, int64_t e) {
    layer one = *l;
    one.w.n_mat = one.ad.a.n_mat = one.ad.b.n_mat = 1;
    one.w.data += (size_t)e * l->w.mat_bytes;
    one.ad.a.data += (size_t)e * l->ad.a.mat_bytes;
    one.ad.b.data += (size_t)e * l->ad.b.mat_bytes;
    if (l->mag) {
        one.ad.magnitude += e * l->n_out;
        one.ad.norm += e * l->n_out;
    }
    return one;
}

typedef struct {
    layer gate, up, down;
    float *x, *y;
} expert_step;

static void step_expert(mk_ops *ops, void *arg) {
    expert_step *s = arg;
    layer *list[] = {&s->gate, &s->up, &s->down};
    for (int i = 0; i < 3; i++) {
        list[i]->w.adapter = &list[i]->ad;
    }
    mk_mat x = {s->x, 1, D, D}, y = {s->y, 1, D, D}, g = mk_op_new(ops, 1, FF),
           u = mk_op_new(ops, 1, FF);
    mk_op_linear(ops, g, x, &s->gate.w, NULL);
    mk_op_linear(ops, u, x, &s->up.w, NULL);
    mk_op_swiglu(ops, g, g, u);
    mk_op_linear(ops, y, g, &s->down.w, NULL);
}

static void experts_follow_the_definition(void **state) {
    (void)state;
    uint64_t rng = 8;
    float *x = random_floats(&rng, TOK * D), *w = random_floats(&rng, TOK * USED);
    float y[TOK * D], want[TOK * D], row[D];
    int32_t sel[TOK * USED];
    for (int t = 0; t < TOK; t++) {
        sel[2 * t] = t % 3;
        sel[2 * t + 1] = 3 + t % 2;
    }
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int dora = 0; dora < 2; dora++) {
            bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
            mk_dtype t = k % 2 ? MK_DTYPE_Q8_0 : MK_DTYPE_BF16;
            layer g = make_layer(&rng, (layer_spec){t, E, FF, D, 3, 0, 0, dora, 0});
            layer u = make_layer(&rng, (layer_spec){t, E, FF, D, 5, 0, 0, dora, 0});
            layer d = make_layer(&rng, (layer_spec){MK_DTYPE_F32, E, D, FF, 2, 0, 0, dora, 0});
            g.w.adapter = &g.ad;
            u.w.adapter = &u.ad;
            d.w.adapter = &d.ad;
            for (int i = 0; i < TOK; i++) {
                for (int j = 0; j < USED; j++) {
                    int32_t e = sel[USED * i + j];
                    expert_step one = {expert_of(&g, e), expert_of(&u, e), expert_of(&d, e),
                                       x + i * D, row};
                    run_step(&b, step_expert, &one);
                    for (int c = 0; c < D; c++) {
                        want[i * D + c] =
                            fmaf(w[USED * i + j], row[c], j == 0 ? 0.0f : want[i * D + c]);
                    }
                }
            }
            moe_step s = {&g, &u, &d, {x, TOK, D, D}, {y, TOK, D, D}, {w, TOK, USED, USED}, sel};
            run_step(&b, step_moe, &s);
            assert_same_floats(y, want, TOK * D, mk_kernels_name(mk_kernels_at(k)));
            free_layer(&g);
            free_layer(&u);
            free_layer(&d);
            bench_close(&b);
        }
    }
    mk_free(x);
    mk_free(w);
}

// --- nothing learned yet -------------------------------------------------------------------------

// B = 0, and magnitudes that are the lengths: the bits of the base.
static void a_new_adapter_changes_no_bit(void **state) {
    (void)state;
    uint64_t rng = 9;
    bench b = bench_open(mk_kernels_at(0), 2);
    for (int i = 0; i < 12; i++) {
        static const mk_dtype types[] = {MK_DTYPE_F32, MK_DTYPE_F16, MK_DTYPE_BF16, MK_DTYPE_Q8_0};
        bool heads = i % 3 == 2;
        layer_spec spec = {.type = types[i % 4],
                           .n_mat = heads ? 3 : 1,
                           .n_out = 37,
                           .n_in = 64,
                           .rank = 4,
                           .magnitude = i >= 4,
                           .of_columns = heads && i > 7};
        layer l = make_layer(&rng, spec);
        memset(l.ad.b.data, 0, l.ad.b.mat_bytes * (size_t)l.ad.b.n_mat);
        if (l.mag) {
            mk_adapter_norms(mk_kernels_at(0), b.pool, &l.w, &l.ad);
            memcpy(l.mag, l.norm,
                   (size_t)(l.n_mat * (spec.of_columns ? l.n_in : l.n_out)) * sizeof *l.mag);
        }
        int64_t nx = l.n_mat * 64, ny = l.n_mat * 40;
        float *x = random_floats(&rng, 7 * nx), *bias = random_floats(&rng, 37);
        float *y = mk_zalloc((size_t)(7 * ny) * sizeof *y), *want = mk_zalloc((size_t)(7 * ny) * 4);
        fwd_step s = {&l, {x, 7, nx, nx}, {want, 7, heads ? ny : 37, ny}, 64, heads ? 40 : 0, bias};
        run_step(&b, step_forward, &s);
        l.w.adapter = &l.ad;
        s.y.p = y;
        run_step(&b, step_forward, &s);
        assert_memory_equal(y, want, (size_t)(7 * ny) * sizeof *y);
        mk_free(x);
        mk_free(y);
        mk_free(want);
        mk_free(bias);
        free_layer(&l);
    }
    bench_close(&b);
}

// --- lengths and merging -------------------------------------------------------------------------

static double changed_at(const layer *l, int64_t mat, int64_t o, int64_t i) {
    int64_t ma = l->ad.a.n_mat == 1 ? 0 : mat, mb = l->ad.b.n_mat == 1 ? 0 : mat;
    double d = 0;
    for (int64_t k = 0; k < l->rank; k++) {
        d += (double)l->bf[(mb * l->n_out + o) * l->rank + k] *
             (double)l->af[(ma * l->rank + k) * l->n_in + i];
    }
    return (double)l->wf[(mat * l->n_out + o) * l->n_in + i] + (double)l->ad.scale * d;
}

static void check_lengths(const layer *l) {
    bool cols = l->ad.of_columns;
    int64_t n = cols ? l->n_in : l->n_out, m = cols ? l->n_out : l->n_in;
    for (int64_t mat = 0; mat < l->n_mat; mat++) {
        for (int64_t a = 0; a < n; a++) {
            double sum = 0;
            for (int64_t c = 0; c < m; c++) {
                double v = cols ? changed_at(l, mat, c, a) : changed_at(l, mat, a, c);
                sum += v * v;
            }
            double got = (double)l->norm[mat * n + a];
            if (fabs(got - sqrt(sum)) > 1e-6 * sqrt(sum)) {
                fail_msg("length %lld of matrix %lld: %.9g, expected %.9g", (long long)a,
                         (long long)mat, got, sqrt(sum));
            }
        }
    }
}

// The values of packed weight (float32) against double, after merging.
static void check_merged(const layer *l, const float *packed) {
    for (int64_t j = 0; j < l->n_mat * l->n_out * l->n_in; j++) {
        int64_t mat = j / (l->n_out * l->n_in), o = j / l->n_in % l->n_out, i = j % l->n_in;
        int64_t tiles = (l->n_out + 15) / 16,
                at = l->ad.of_columns ? mat * l->n_in + i : mat * l->n_out + o;
        double want = changed_at(l, mat, o, i);
        want *= l->mag ? (double)l->mag[at] / (double)l->norm[at] : 1;
        double got = (double)packed[((mat * tiles + o / 16) * l->n_in + i) * 16 + o % 16];
        if (fabs(got - want) > 2e-6 * (fabs(want) + 1)) {
            fail_msg("merged [%lld,%lld,%lld] is %.9g, expected %.9g", (long long)mat, (long long)o,
                     (long long)i, got, want);
        }
    }
}

static void lengths_and_merging_follow_the_definition(void **state) {
    (void)state;
    static const mk_dtype types[] = {MK_DTYPE_F32, MK_DTYPE_Q8_0, MK_DTYPE_BF16, MK_DTYPE_F32};
    uint64_t rng = 10;
    for (int i = 0; i < 8; i++) {
        layer_spec spec = {.type = types[i % 4],
                           .n_mat = i % 2 ? 3 : 1,
                           .n_out = 37,
                           .n_in = i < 4 ? 64 : 288,
                           .rank = 1 + 5 * (i % 4),
                           .share_a = i % 4 == 1,
                           .share_b = i % 4 == 3,
                           .magnitude = true,
                           .of_columns = i == 3 || i == 5};
        layer l = make_layer(&rng, spec);
        size_t n = (size_t)(l.n_mat * (spec.of_columns ? l.n_in : l.n_out));
        size_t n_packed = l.w.mat_bytes * (size_t)l.n_mat;
        float *first = floats((int64_t)n);
        uint8_t *plain = mk_alloc(n_packed), *merged = NULL;
        memcpy(plain, l.w.data, n_packed);
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            mk_pool *pool = mk_pool_create(1 + k % 3);
            mk_adapter_norms(mk_kernels_at(k), pool, &l.w, &l.ad);
            if (k == 0) {
                memcpy(first, l.norm, n * sizeof *first);
                check_lengths(&l);
            }
            assert_memory_equal(first, l.norm, n * sizeof *first);
            if (l.w.kind == MK_PACK_F32) {
                mk_adapter_merge(mk_kernels_at(k), pool, &l.w, &l.ad);
                if (k == 0) {
                    check_merged(&l, (const float *)(const void *)l.w.data);
                    merged = mk_alloc(n_packed);
                    memcpy(merged, l.w.data, n_packed);
                }
                assert_memory_equal(merged, l.w.data, n_packed);
                memcpy(l.w.data, plain, n_packed);
            }
            mk_pool_destroy(pool);
        }
        mk_free(first);
        mk_free(plain);
        mk_free(merged);
        free_layer(&l);
    }
}

// --- backward ------------------------------------------------------------------------------------

// One recorded step of rows [first, first + n): gradients are added to those given.
typedef struct {
    layer *l;
    const float *x, *dy;
    int64_t first, n, nx, ny, xs, ys;
    float *ga, *gb, *gm, *dx;  // packed; packed; lengths; [n_tok, nx]
    const int32_t *row;        // 0, 1, ...
    mk_tape *tape;
} back_step;

static void step_back(mk_ops *ops, void *arg) {
    back_step *s = arg;
    mk_tape_want(s->tape, s->l->ad.a.data, s->ga);
    mk_tape_want(s->tape, s->l->ad.b.data, s->gb);
    if (s->gm != NULL) {
        mk_tape_want(s->tape, s->l->ad.magnitude, s->gm);
    }
    mk_mat x = mk_op_new(ops, s->n, s->nx), y = mk_op_new(ops, s->n, s->ny);
    mk_op_embed(ops, x, (const uint8_t *)s->x, MK_DTYPE_F32, (size_t)s->nx * sizeof *s->x,
                s->row + s->first);
    fwd_step f = {s->l, x, y, s->xs, s->ys, NULL};
    step_forward(ops, &f);
    mk_mat dy = mk_tape_grad(s->tape, y);
    mk_mat from = {(float *)(uintptr_t)(s->dy + s->first * s->ny), s->n, s->ny, s->ny};
    mk_op_copy(ops, dy, from);
    mk_tape_backward(s->tape);
    mk_op_copy(ops, (mk_mat){s->dx + s->first * s->nx, s->n, s->nx, s->nx},
               mk_tape_grad(s->tape, x));
}

static void run_back(const mk_kernels *k, int n_thread, back_step s) {
    bench b = bench_open(k, n_thread);
    s.tape = mk_tape_create();
    mk_ops_set_tape(b.ops, s.tape);
    mk_ops_begin(b.ops, true);
    step_back(b.ops, &s);
    mk_ops_end(b.ops);
    assert_int_equal(mk_ops_reserve(b.ops, mk_ops_high_water(b.ops), NULL), MK_OK);
    assert_int_equal(mk_tape_reserve(s.tape, NULL), MK_OK);
    mk_ops_begin(b.ops, false);
    step_back(b.ops, &s);
    mk_ops_end(b.ops);
    mk_ops_set_tape(b.ops, NULL);
    mk_tape_destroy(s.tape);
    bench_close(&b);
}

typedef struct {
    double *ga, *gb, *gm, *dx;
} double_grads;

// One head of one token.
static void naive_back(const layer *l, int64_t h, const float *x0, const float *dy, double_grads g,
                       double *dx0) {
    int64_t ma = l->ad.a.n_mat == 1 ? 0 : h, mb = l->ad.b.n_mat == 1 ? 0 : h;
    bool rows = l->mag && !l->ad.of_columns, cols = l->mag && l->ad.of_columns;
    double x[64], dx[64] = {0}, u[32] = {0}, du[32] = {0};
    for (int64_t i = 0; i < l->n_in; i++) {
        int64_t at = h * l->n_in + i;
        x[i] = (double)x0[i] * (cols ? (double)l->mag[at] / (double)l->norm[at] : 1);
    }
    for (int64_t k = 0; k < l->rank; k++) {
        for (int64_t i = 0; i < l->n_in; i++) {
            u[k] += (double)l->ad.scale * (double)l->af[(ma * l->rank + k) * l->n_in + i] * x[i];
        }
    }
    for (int64_t o = 0; o < l->n_out; o++) {
        const float *w = l->wf + (h * l->n_out + o) * l->n_in;
        const float *b = l->bf + (mb * l->n_out + o) * l->rank;
        double sum = 0, d = (double)dy[o];
        for (int64_t i = 0; i < l->n_in; i++) {
            sum += (double)w[i] * x[i];
        }
        for (int64_t k = 0; k < l->rank; k++) {
            sum += (double)b[k] * u[k];
        }
        if (rows) {
            double norm = (double)l->norm[h * l->n_out + o];
            g.gm[h * l->n_out + o] += d * sum / norm;
            d *= (double)l->mag[h * l->n_out + o] / norm;
        }
        for (int64_t k = 0; k < l->rank; k++) {
            g.gb[(mb * l->n_out + o) * l->rank + k] += d * u[k];
            du[k] += d * (double)b[k];
        }
        for (int64_t i = 0; i < l->n_in; i++) {
            dx[i] += d * (double)w[i];
        }
    }
    for (int64_t i = 0; i < l->n_in; i++) {
        for (int64_t k = 0; k < l->rank; k++) {
            int64_t at = (ma * l->rank + k) * l->n_in + i;
            g.ga[at] += (double)l->ad.scale * du[k] * x[i];
            dx[i] += (double)l->ad.scale * du[k] * (double)l->af[at];
        }
        int64_t at = h * l->n_in + i;
        if (cols) {
            g.gm[at] += dx[i] * (double)x0[i] / (double)l->norm[at];
        }
        dx0[i] = dx[i] * (cols ? (double)l->mag[at] / (double)l->norm[at] : 1);
    }
}

static void assert_near(const float *got, const double *want, int64_t n, const char *what) {
    // what a quantised base adds up is in the gradient of magnitudes: its activations are int8
    double most = 0, rel = strstr(what, "int8") ? 2e-2 : 1e-4;
    for (int64_t i = 0; i < n; i++) {
        most = fabs(want[i]) > most ? fabs(want[i]) : most;
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= rel * most)) {
            fail_msg("%s[%lld]: %.7g, expected %.7g (largest %.3g)", what, (long long)i,
                     (double)got[i], want[i], most);
        }
    }
}

// Packed gradients of a stack as rows.
static float *unpacked(const float *g, const mk_weight *w) {
    int64_t n = w->n_out * w->n_in, tiles = (w->n_out + 15) / 16;
    float *rows = floats(w->n_mat * n);
    for (int64_t j = 0; j < w->n_mat * n; j++) {
        int64_t mat = j / n, o = j % n / w->n_in, i = j % w->n_in;
        rows[j] = g[((mat * tiles + o / 16) * w->n_in + i) * 16 + o % 16];
    }
    return rows;
}

static size_t packed_floats(const mk_weight *w) {
    return mk_grad_floats(w) * (size_t)w->n_mat;
}

static double *doubles(int64_t n) {
    return mk_zalloc((size_t)n * sizeof(double));
}

static void check_against_double(const layer *l, const back_step *s) {
    int64_t n_head = s->ys ? l->n_mat : 1, nm = l->n_mat * (l->ad.of_columns ? l->n_in : l->n_out);
    int64_t na = l->ad.a.n_mat * l->rank * l->n_in, nb = l->ad.b.n_mat * l->n_out * l->rank;
    double_grads g = {doubles(na), doubles(nb), doubles(nm), doubles(s->n * s->nx)};
    for (int64_t t = 0; t < s->n; t++) {
        for (int64_t h = 0; h < n_head; h++) {
            naive_back(l, h, s->x + t * s->nx + h * s->xs, s->dy + t * s->ny + h * s->ys, g,
                       g.dx + t * s->nx + h * s->xs);
        }
    }
    float *ga = unpacked(s->ga, &l->ad.a), *gb = unpacked(s->gb, &l->ad.b);
    assert_near(ga, g.ga, na, "gradient of A");
    assert_near(gb, g.gb, nb, "gradient of B");
    assert_near(s->dx, g.dx, s->n * s->nx, "gradient of x");
    if (l->mag) {
        assert_near(s->gm, g.gm, nm,
                    l->w.kind == MK_PACK_F32 ? "gradient of magnitudes"
                                             : "gradient of magnitudes, int8");
    }
    mk_free(ga);
    mk_free(gb);
    mk_free(g.ga);
    mk_free(g.gb);
    mk_free(g.gm);
    mk_free(g.dx);
}

static void check_backward(uint64_t *rng, layer_spec spec, int64_t n_tok) {
    layer l = make_layer(rng, spec);
    bool heads = spec.n_mat > 1;
    back_step s = {.l = &l, .n = n_tok, .xs = heads ? spec.n_in + 3 : 0};
    s.ys = heads ? spec.n_out + 5 : 0;
    s.nx = heads ? spec.n_mat * s.xs : spec.n_in;
    s.ny = heads ? spec.n_mat * s.ys : spec.n_out;
    float *x = random_floats(rng, n_tok * s.nx), *dy = random_floats(rng, n_tok * s.ny);
    size_t na = packed_floats(&l.ad.a), nb = packed_floats(&l.ad.b), nx = (size_t)(n_tok * s.nx);
    size_t nm = l.mag ? (size_t)(l.n_mat * (spec.of_columns ? l.n_in : l.n_out)) : 0;
    float *first = NULL;
    int32_t row[64];
    for (int i = 0; i < 64; i++) {
        row[i] = i;
    }
    s.row = row;
    s.x = x;
    s.dy = dy;
    l.w.adapter = &l.ad;
    for (int way = 0; way < 3; way++) {
        float *p = mk_zalloc((na + nb + nm + nx) * sizeof *p);
        s.ga = p;
        s.gb = p + na;
        s.gm = l.mag ? p + na + nb : NULL;
        s.dx = p + na + nb + nm;
        if (way < 2) {  // way 1: in two steps
            int64_t cut = way == 0 ? n_tok : n_tok / 3;
            for (s.first = 0; s.first < n_tok; s.first += cut, cut = n_tok - cut) {
                s.n = cut;
                run_back(mk_kernels_at(0), 1, s);
            }
            s.first = 0;
            s.n = n_tok;
        } else {
            int k = 0;
            while (mk_kernels_at(k + 1) != NULL) {
                k++;
            }
            run_back(mk_kernels_at(k), 3, s);
        }
        if (way == 0) {
            check_against_double(&l, &s);
            first = p;
        } else {
            assert_same_floats(p, first, (int64_t)(na + nb + nm + nx),
                               way == 1 ? "cut" : "threads");
            mk_free(p);
        }
    }
    mk_free(first);
    mk_free(x);
    mk_free(dy);
    free_layer(&l);
}

static void gradients_follow_the_definition(void **state) {
    (void)state;
    uint64_t rng = 11;
    for (int i = 0; i < 12; i++) {
        bool heads = i >= 5;
        layer_spec s = {.type = i % 2 ? MK_DTYPE_Q8_0 : MK_DTYPE_F32,
                        .n_mat = heads ? 3 : 1,
                        .n_out = i % 3 == 0 ? 37 : 16,
                        .n_in = i % 4 == 0 ? 64 : 32,
                        .rank = 1 + 4 * (i % 5),
                        .share_a = heads && i % 3 == 0,
                        .share_b = heads && i % 3 == 1,
                        .magnitude = i % 5 > 2 || i > 9,
                        .of_columns = i > 9};
        check_backward(&rng, s, 3 + 20 * (i % 3));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linears_follow_the_definition),
        cmocka_unit_test(heads_follow_the_definition),
        cmocka_unit_test(norm_and_swiglu_come_first),
        cmocka_unit_test(experts_follow_the_definition),
        cmocka_unit_test(a_new_adapter_changes_no_bit),
        cmocka_unit_test(lengths_and_merging_follow_the_definition),
        cmocka_unit_test(gradients_follow_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
