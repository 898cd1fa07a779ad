// The backward of linear layers against its definition, written out naively with fmaf in the stated
// order: equality is exact, on every instruction set of this machine, for any number of threads and
// any cut of the tokens.  A second comparison with sums in double precision bounds the error of the
// definition itself.
#include <math.h>

#include "ops/back.h"
#include "ops/kernels.h"
#include "ops_util.h"

typedef struct {
    mk_mat dx, dy, x;
    float *g, *bias;
    const mk_weight *w;
    int64_t mat;
} back_step;

static void step_x(mk_ops *ops, void *arg) {
    back_step *s = arg;
    mk_back_linear_x(ops, s->dx, s->dy, s->w, s->mat);
}

static void step_w(mk_ops *ops, void *arg) {
    back_step *s = arg;
    mk_back_linear_w(ops, s->g, s->dy, s->x);
}

static void step_bias(mk_ops *ops, void *arg) {
    back_step *s = arg;
    mk_back_bias(ops, s->bias, s->dy);
}

// A matrix of random values that ends with its last element, so that a sanitizer sees reads beyond;
// the columns between n_col and the stride are NaN, so that everybody else sees them too.
static mk_mat random_mat(uint64_t *rng, int64_t n_row, int64_t n_col, int64_t stride) {
    int64_t n = (n_row - 1) * stride + n_col;
    mk_mat m = {random_floats(rng, n), n_row, n_col, stride};
    for (int64_t i = 0; i < n; i++) {
        m.p[i] = i % stride < n_col ? m.p[i] : NAN;
    }
    return m;
}

static float *copy_floats(const float *p, int64_t n) {
    float *c = mk_try_alloc((size_t)n, sizeof *c);
    assert_non_null(c);
    memcpy(c, p, (size_t)n * sizeof *c);
    return c;
}

static size_t packed_at(int64_t n_in, int64_t o, int64_t i) {
    return (size_t)((o / 16 * n_in + i) * 16 + o % 16);
}

// Calls f for every instruction set with 1, 2 and 3 threads.
typedef void (*each_fn)(const bench *b, const char *what, void *arg);
static void each_set(each_fn f, void *arg) {
    for (int i = 0; mk_kernels_at(i) != NULL; i++) {
        for (int n = 1; n <= 3; n++) {
            char what[64];
            bench b = bench_open(mk_kernels_at(i), n);
            snprintf(what, sizeof what, "%s, %d threads", mk_kernels_name(mk_kernels_at(i)), n);
            f(&b, what, arg);
            bench_close(&b);
        }
    }
}

// --- weights and bias ----------------------------------------------------------------------------
typedef struct {
    mk_mat dy, x;
    float *before, *want, *bias_before, *bias_want;
    int64_t n_float;
} weights_case;

// `padding` rows of the last tile stay as they are: zero.
static weights_case weights_open(uint64_t *rng, int64_t n_out, int64_t n_in, int64_t n_tok,
                                 int64_t stride) {
    weights_case c = {.n_float = (n_out + 15) / 16 * 16 * n_in};
    c.dy = random_mat(rng, n_tok, n_out, stride > 0 ? stride : n_out + 5);
    c.x = random_mat(rng, n_tok, n_in, stride > 0 ? stride : n_in + 3);
    c.before = random_floats(rng, c.n_float);
    for (int64_t o = n_out; o % 16 != 0; o++) {
        for (int64_t i = 0; i < n_in; i++) {
            c.before[packed_at(n_in, o, i)] = 0;
        }
    }
    c.want = copy_floats(c.before, c.n_float);
    c.bias_before = random_floats(rng, n_out);
    c.bias_want = copy_floats(c.bias_before, n_out);
    for (int64_t o = 0; o < n_out; o++) {
        double bias = (double)c.bias_before[o], size = fabs(bias);
        for (int64_t t = 0; t < n_tok; t++) {
            float v = c.dy.p[t * c.dy.stride + o];
            c.bias_want[o] += v;
            bias += (double)v;
            size += fabs((double)v);
        }
        assert_true(fabs((double)c.bias_want[o] - bias) <= size * (double)n_tok * 0x1p-24);
    }
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t i = 0; i < n_in; i++) {
            float *g = &c.want[packed_at(n_in, o, i)];
            double sum = (double)*g, size = fabs(sum);
            for (int64_t t = 0; t < n_tok; t++) {
                float a = c.dy.p[t * c.dy.stride + o], b = c.x.p[t * c.x.stride + i];
                *g = fmaf(a, b, *g);
                sum += (double)a * (double)b;
                size += fabs((double)a * (double)b);
            }
            // each of n_tok roundings is at most half a unit of a partial sum
            assert_true(fabs((double)*g - sum) <= size * (double)n_tok * 0x1p-24);
        }
    }
    return c;
}

static void weights_close(weights_case *c) {
    mk_free(c->dy.p);
    mk_free(c->x.p);
    mk_free(c->before);
    mk_free(c->want);
    mk_free(c->bias_before);
    mk_free(c->bias_want);
}

static void check_weights(const bench *b, const char *what, void *arg) {
    const weights_case *c = arg;
    back_step s = {.dy = c->dy, .x = c->x};
    s.g = copy_floats(c->before, c->n_float);
    s.bias = copy_floats(c->bias_before, c->dy.n_col);
    run_step(b, step_w, &s);
    run_step(b, step_bias, &s);
    assert_same_floats(s.g, c->want, c->n_float, what);
    assert_same_floats(s.bias, c->bias_want, c->dy.n_col, what);
    // the same tokens in pieces of 1, 2, 3, ... rows
    memcpy(s.g, c->before, (size_t)c->n_float * sizeof *s.g);
    memcpy(s.bias, c->bias_before, (size_t)c->dy.n_col * sizeof *s.bias);
    for (int64_t t = 0, n = 1; t < c->dy.n_row; t += n, n++) {
        n = n < c->dy.n_row - t ? n : c->dy.n_row - t;
        s.dy = mk_mat_rows(c->dy, t, n);
        s.x = mk_mat_rows(c->x, t, n);
        run_step(b, step_w, &s);
        run_step(b, step_bias, &s);
    }
    assert_same_floats(s.g, c->want, c->n_float, what);
    assert_same_floats(s.bias, c->bias_want, c->dy.n_col, what);
    mk_free(s.g);
    mk_free(s.bias);
}

static void test_weights(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},     {17, 33, 3},   {257, 33, 64}, {17, 257, 129},
                                        {1, 257, 129}, {257, 1, 129}, {40, 20, 401}, {64, 96, 5}};
    uint64_t rng = 1;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        weights_case c = weights_open(&rng, shapes[i][0], shapes[i][1], shapes[i][2], 0);
        each_set(check_weights, &c);
        weights_close(&c);
    }
    // rows that are copied because of their distance
    weights_case c = weights_open(&rng, 40, 101, 290, 512);
    each_set(check_weights, &c);
    weights_close(&c);
}

// --- inputs --------------------------------------------------------------------------------------
typedef struct {
    const mk_weight *w;
    int64_t mat;
    mk_mat dy, before;
    float *want;
    int64_t n_float;
} inputs_case;

static void check_inputs(const bench *b, const char *what, void *arg) {
    const inputs_case *c = arg;
    float *dx = copy_floats(c->before.p, c->n_float);
    back_step s = {.dy = c->dy, .dx = c->before, .w = c->w, .mat = c->mat};
    s.dx.p = dx;
    run_step(b, step_x, &s);
    assert_same_floats(dx, c->want, c->n_float, what);
    // tokens are independent of each other
    memcpy(dx, c->before.p, (size_t)c->n_float * sizeof *dx);
    for (int64_t t = 0, n = 1; t < c->dy.n_row; t += n, n += 6) {
        n = n < c->dy.n_row - t ? n : c->dy.n_row - t;
        s.dx = mk_mat_rows((mk_mat){dx, c->before.n_row, c->before.n_col, c->before.stride}, t, n);
        s.dy = mk_mat_rows(c->dy, t, n);
        run_step(b, step_x, &s);
    }
    assert_same_floats(dx, c->want, c->n_float, what);
    mk_free(dx);
}

// w: packed; rows: the same matrix [n_out][n_in] as float32.
static void run_inputs(uint64_t *rng, const mk_weight *w, int64_t mat, const float *rows,
                       int64_t n_tok) {
    int64_t n_in = w->n_in, n_out = w->n_out;
    inputs_case c = {.w = w, .mat = mat};
    c.dy = random_mat(rng, n_tok, n_out, n_out + 7);
    c.before = random_mat(rng, n_tok, n_in, n_in + 2);
    c.n_float = (n_tok - 1) * c.before.stride + n_in;
    c.want = copy_floats(c.before.p, c.n_float);
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t i = 0; i < n_in; i++) {
            float acc = 0;
            double sum = 0, size = 0;
            for (int64_t o = 0; o < n_out; o++) {
                float a = c.dy.p[t * c.dy.stride + o], b = rows[o * n_in + i];
                acc = fmaf(a, b, acc);
                sum += (double)a * (double)b;
                size += fabs((double)a * (double)b);
            }
            assert_true(fabs((double)acc - sum) <= size * (double)n_out * 0x1p-24);
            c.want[t * c.before.stride + i] += acc;
        }
    }
    each_set(check_inputs, &c);
    mk_free(c.dy.p);
    mk_free(c.before.p);
    mk_free(c.want);
}

static void test_inputs(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {
        {1, 1, 1},     {17, 33, 3},   {257, 33, 64}, {17, 257, 129}, {1, 257, 129},
        {257, 1, 129}, {801, 20, 40}, {64, 96, 5},   {300, 20, 801}, {20, 401, 40}};
    uint64_t rng = 2;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t n_out = shapes[i][0], n_in = shapes[i][1];
        float *rows = random_floats(&rng, 2 * n_out * n_in);
        size_t row_bytes = (size_t)n_in * 4;
        mk_weight_src src = {.dtype = MK_DTYPE_F32,
                             .data = (const uint8_t *)rows,
                             .n_mat = 2,
                             .n_out = n_out,
                             .n_in = n_in,
                             .row_bytes = row_bytes,
                             .mat_stride = (size_t)n_out * row_bytes};
        mk_pool *pool = mk_pool_create(1);
        mk_weight w;
        assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_OK);
        mk_pool_destroy(pool);
        run_inputs(&rng, &w, 1, rows + n_out * n_in, shapes[i][2]);
        mk_weight_free(&w);
        mk_free(rows);
    }
}

// --- every type whose products are float32 -------------------------------------------------------
static void put_f16(uint8_t *p, float v) {
    uint16_t h = mk_f16_from_f32(v);
    memcpy(p, &h, 2);
}

// Where the f16 scales of a block lie.
typedef struct {
    mk_dtype dtype;
    int at[2];
} scale_at;
static const scale_at scales_at[] = {
    {MK_DTYPE_Q4_0, {0, -1}},    {MK_DTYPE_Q4_1, {0, 2}},      {MK_DTYPE_Q5_0, {0, -1}},
    {MK_DTYPE_Q5_1, {0, 2}},     {MK_DTYPE_Q8_0, {0, -1}},     {MK_DTYPE_Q2_K, {80, 82}},
    {MK_DTYPE_Q3_K, {108, -1}},  {MK_DTYPE_Q4_K, {0, 2}},      {MK_DTYPE_Q5_K, {0, 2}},
    {MK_DTYPE_Q6_K, {208, -1}},  {MK_DTYPE_IQ2_XXS, {0, -1}},  {MK_DTYPE_IQ2_XS, {0, -1}},
    {MK_DTYPE_IQ3_XXS, {0, -1}}, {MK_DTYPE_IQ1_S, {0, -1}},    {MK_DTYPE_IQ4_NL, {0, -1}},
    {MK_DTYPE_IQ3_S, {0, -1}},   {MK_DTYPE_IQ2_S, {0, -1}},    {MK_DTYPE_IQ4_XS, {0, -1}},
    {MK_DTYPE_TQ1_0, {52, -1}},  {MK_DTYPE_TQ2_0, {64, -1}},   {MK_DTYPE_MXFP4, {-1, -1}},
    {MK_DTYPE_F16, {-1, -1}},    {MK_DTYPE_F8_E4M3, {-1, -1}},
};
#define N_TYPE ((int)(sizeof scales_at / sizeof scales_at[0]))

// Random bytes are valid blocks of every type but for their scales.
static void random_blocks(const scale_at *type, uint8_t *p, int64_t n, uint64_t *rng) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)type->dtype);
    for (int64_t b = 0; b < n; b++, p += info->block_bytes) {
        for (int i = 0; i < info->block_bytes; i++) {
            p[i] = (uint8_t)next_u64(rng);
        }
        for (int s = 0; s < 2 && type->at[s] >= 0; s++) {
            put_f16(p + type->at[s], next_float(rng) * 0.1f);
        }
        if (type->dtype == MK_DTYPE_MXFP4) {
            p[0] = (uint8_t)(118 + next_int(rng, 8));
        } else if (type->dtype == MK_DTYPE_F8_E4M3) {
            p[0] = (p[0] & 0x7F) == 0x7F ? 0 : p[0];
        } else if (type->dtype == MK_DTYPE_F16) {
            put_f16(p, next_float(rng));
        }
    }
}

static void check_type(const scale_at *type, int64_t n_out, int64_t n_in, uint64_t *rng) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)type->dtype);
    size_t row_bytes;
    assert_true(mk_dtype_row_bytes(type->dtype, n_in, &row_bytes));
    uint8_t *data = mk_try_alloc((size_t)n_out, row_bytes);
    float *rows = random_floats(rng, n_out * n_in), *tile_scale = NULL;
    assert_non_null(data);
    random_blocks(type, data, n_out * (n_in / info->block), rng);
    int64_t tile_cols = (n_in + 127) / 128;
    if (type->dtype == MK_DTYPE_F8_E4M3) {
        tile_scale = random_floats(rng, (n_out + 127) / 128 * tile_cols);
    }
    for (int64_t o = 0; o < n_out; o++) {
        mk_dtype_to_f32(type->dtype, data + (size_t)o * row_bytes, n_in, rows + o * n_in);
        for (int64_t i = 0; tile_scale != NULL && i < n_in; i++) {
            rows[o * n_in + i] *= tile_scale[o / 128 * tile_cols + i / 128];
        }
    }
    mk_weight_src src = {type->dtype, data, 1,    n_out,      n_in,
                         row_bytes,   0,    NULL, tile_scale, tile_cols};
    mk_pool *pool = mk_pool_create(1);
    mk_weight w;
    assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_OK);
    mk_pool_destroy(pool);
    run_inputs(rng, &w, 0, rows, 19);
    mk_weight_free(&w);
    mk_free(data);
    mk_free(rows);
    mk_free(tile_scale);
}

static void test_types(void **state) {
    (void)state;
    uint64_t rng = 3;
    for (int i = 0; i < N_TYPE; i++) {
        const mk_dtype_info *info = mk_dtype_get((int64_t)scales_at[i].dtype);
        // 512 and 544 columns: rows of several blocks, cut where no group begins
        check_type(&scales_at[i], 23, info->block == 1 ? 301 : info->block == 32 ? 544 : 512, &rng);
    }
}

// --- products of bf16 ----------------------------------------------------------------------------
// One chain over pairs of terms, the odd one first, both factors rounded.
static float pair_step(float acc, const float a[2], const float b[2]) {
    for (int i = 1; i >= 0; i--) {
        acc = fmaf(mk_f32_from_bf16(mk_bf16_from_f32(a[i])),
                   mk_f32_from_bf16(mk_bf16_from_f32(b[i])), acc);
    }
    return acc;
}

// Element (row, col) of m, 0 behind the last row or column.
static float at_or_0(mk_mat m, int64_t row, int64_t col) {
    return row < m.n_row && col < m.n_col ? m.p[row * m.stride + col] : 0;
}

typedef struct {
    const mk_weight *w;
    mk_mat dy, x, dx_before;
    float *g_before, *g_want, *dx_want;
    int64_t n_g, n_dx;
} bf16_case;

// dx and g in one call, then by rows cut behind even numbers.
static void step_both(mk_ops *ops, void *arg) {
    back_step *s = arg;
    mk_back_linears(ops, &(mk_back_linear){s->dx, s->dy, s->x, s->w, 0, s->g}, 1);
}

static void check_bf16(const bench *b, const char *what, void *arg) {
    const bf16_case *c = arg;
    float *dx = copy_floats(c->dx_before.p, c->n_dx), *g = copy_floats(c->g_before, c->n_g);
    mk_mat to = c->dx_before;
    to.p = dx;
    back_step s = {.dy = c->dy, .x = c->x, .dx = to, .w = c->w, .g = g};
    run_step(b, step_both, &s);
    assert_same_floats(g, c->g_want, c->n_g, what);
    assert_same_floats(dx, c->dx_want, c->n_dx, what);
    memcpy(dx, c->dx_before.p, (size_t)c->n_dx * sizeof *dx);
    memcpy(g, c->g_before, (size_t)c->n_g * sizeof *g);
    for (int64_t t = 0, n = 2; t < c->dy.n_row; t += n, n += 4) {
        n = n < c->dy.n_row - t ? n : c->dy.n_row - t;
        s.dy = mk_mat_rows(c->dy, t, n);
        s.x = mk_mat_rows(c->x, t, n);
        s.dx = mk_mat_rows(to, t, n);
        run_step(b, step_both, &s);
    }
    assert_same_floats(g, c->g_want, c->n_g, what);
    assert_same_floats(dx, c->dx_want, c->n_dx, what);
    mk_free(dx);
    mk_free(g);
}

static void want_bf16(bf16_case *c, const uint16_t *rows) {
    int64_t n_in = c->w->n_in, n_out = c->w->n_out, n_tok = c->dy.n_row;
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t i = 0; i < n_in; i++) {
            float *g = &c->g_want[packed_at(n_in, o, i)];
            for (int64_t t = 0; t < n_tok; t += 2) {
                float a[2] = {at_or_0(c->dy, t, o), at_or_0(c->dy, t + 1, o)};
                float b[2] = {at_or_0(c->x, t, i), at_or_0(c->x, t + 1, i)};
                *g = pair_step(*g, a, b);
            }
        }
    }
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t i = 0; i < n_in; i++) {
            float acc = 0;
            for (int64_t o = 0; o < n_out; o += 2) {
                float a[2] = {at_or_0(c->dy, t, o), at_or_0(c->dy, t, o + 1)};
                float b[2] = {mk_f32_from_bf16(rows[o * n_in + i]),
                              o + 1 < n_out ? mk_f32_from_bf16(rows[(o + 1) * n_in + i]) : 0};
                acc = pair_step(acc, a, b);
            }
            c->dx_want[t * c->dx_before.stride + i] += acc;
        }
    }
}

static void run_bf16(uint64_t *rng, int64_t n_out, int64_t n_in, int64_t n_tok) {
    uint16_t *rows = mk_try_alloc((size_t)(n_out * n_in), sizeof *rows);
    assert_non_null(rows);
    for (int64_t i = 0; i < n_out * n_in; i++) {
        rows[i] = mk_bf16_from_f32(next_float(rng));
    }
    mk_weight_src src = {.dtype = MK_DTYPE_BF16,
                         .data = (const uint8_t *)rows,
                         .n_mat = 1,
                         .n_out = n_out,
                         .n_in = n_in,
                         .row_bytes = (size_t)n_in * 2};
    mk_pool *pool = mk_pool_create(1);
    mk_weight w;
    assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_OK);
    mk_pool_destroy(pool);
    bf16_case c = {.w = &w, .n_g = (n_out + 15) / 16 * 16 * n_in};
    c.dy = random_mat(rng, n_tok, n_out, n_out + 7);
    c.x = random_mat(rng, n_tok, n_in, n_in + 3);
    c.dx_before = random_mat(rng, n_tok, n_in, n_in + 2);
    c.n_dx = (n_tok - 1) * c.dx_before.stride + n_in;
    c.g_before = random_floats(rng, c.n_g);
    for (int64_t o = n_out; o % 16 != 0; o++) {
        for (int64_t i = 0; i < n_in; i++) {
            c.g_before[packed_at(n_in, o, i)] = 0;
        }
    }
    // what rounding treats differently: ties, the smallest numbers
    const float odd[] = {1.00390625f, -1.01171875f, 0x1p-126f, 0x1.fffffep-127f, -0x1p-130f, -0.0f};
    for (int64_t i = 0; i < 6 && i < n_in && i < n_out; i++) {
        c.dy.p[i] = odd[i];
        c.x.p[i] = odd[5 - i];
    }
    c.g_want = copy_floats(c.g_before, c.n_g);
    c.dx_want = copy_floats(c.dx_before.p, c.n_dx);
    uint64_t fpu = mk_fpu_enter();
    want_bf16(&c, rows);
    mk_fpu_leave(fpu);
    each_set(check_bf16, &c);
    mk_weight_free(&w);
    void *blocks[] = {rows, c.dy.p, c.x.p, c.dx_before.p, c.g_before, c.g_want, c.dx_want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        mk_free(blocks[i]);
    }
}

static void test_bf16(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {
        {1, 1, 1},      {17, 33, 3},    {257, 33, 64}, {17, 257, 129}, {1, 257, 129},
        {1043, 1, 129}, {40, 20, 1043}, {64, 96, 5},   {600, 20, 401}, {20, 401, 40}};
    uint64_t rng = 5;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        run_bf16(&rng, shapes[i][0], shapes[i][1], shapes[i][2]);
    }
}

// Gradients that nobody wants, no tokens.
static void step_nothing(mk_ops *ops, void *arg) {
    back_step s = *(back_step *)arg;
    mk_back_linear_x(ops, (mk_mat){0}, s.dy, s.w, 0);
    mk_back_linear_w(ops, NULL, s.dy, s.x);
    mk_back_bias(ops, NULL, s.dy);
    s.dy.n_row = s.x.n_row = 0;
    mk_back_linear_w(ops, s.g, s.dy, s.x);
    mk_back_bias(ops, s.bias, s.dy);
}

static void test_nothing(void **state) {
    (void)state;
    uint64_t rng = 4;
    float g[16 * 3] = {1, 2, 3}, bias[5] = {4, 5, 6}, want[16 * 3], bias_want[5];
    memcpy(want, g, sizeof g);
    memcpy(bias_want, bias, sizeof bias);
    mk_weight w = {.n_mat = 1, .n_out = 5, .n_in = 3};
    back_step s = {.dy = random_mat(&rng, 2, 5, 5), .x = random_mat(&rng, 2, 3, 3), .g = g};
    s.bias = bias;
    s.w = &w;
    bench b = bench_open(mk_kernels_at(0), 1);
    run_step(&b, step_nothing, &s);
    bench_close(&b);
    assert_same_floats(g, want, 16 * 3, "g");
    assert_same_floats(bias, bias_want, 5, "bias");
    mk_free(s.dy.p);
    mk_free(s.x.p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights), cmocka_unit_test(test_inputs),
        cmocka_unit_test(test_types),   cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
