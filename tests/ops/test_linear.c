// Linear layers against their definition in docs/numerics.md, written out naively with fmaf in the
// stated order: equality is exact.  The integer types are compared with the same formula over
// mk_dtype_row_ints.  Every instruction set of this machine, several thread counts and batch sizes
// must give the same bits; a second test bounds the distance to plain double arithmetic on the
// dequantised weights (the error of rounding activations to 8 bits).
#include <math.h>

#include "ops_util.h"

typedef struct {
    mk_dtype dtype;
    int64_t n_out, n_in;
    size_t row_bytes;
    uint8_t *data;
    float *tile_scale;
    int64_t tile_cols;
} tensor;

static bool is_quantised(mk_dtype t) {
    return mk_dtype_get((int64_t)t)->group != 0;
}

static void put_f16(uint8_t *p, float v) {
    uint16_t h = mk_f16_from_f32(v);
    memcpy(p, &h, 2);
}

// Random bytes are valid blocks of every quantised type, apart from their f16 scales, which must be
// finite and of a usual size: offsets of the scales per type.
typedef struct {
    mk_dtype dtype;
    int at[2];
} scale_at;
static const scale_at scales_at[] = {
    {MK_DTYPE_Q4_0, {0, -1}},    {MK_DTYPE_Q4_1, {0, 2}},     {MK_DTYPE_Q5_0, {0, -1}},
    {MK_DTYPE_Q5_1, {0, 2}},     {MK_DTYPE_Q8_0, {0, -1}},    {MK_DTYPE_Q2_K, {80, 82}},
    {MK_DTYPE_Q3_K, {108, -1}},  {MK_DTYPE_Q4_K, {0, 2}},     {MK_DTYPE_Q5_K, {0, 2}},
    {MK_DTYPE_Q6_K, {208, -1}},  {MK_DTYPE_IQ2_XXS, {0, -1}}, {MK_DTYPE_IQ2_XS, {0, -1}},
    {MK_DTYPE_IQ3_XXS, {0, -1}}, {MK_DTYPE_IQ1_S, {0, -1}},   {MK_DTYPE_IQ4_NL, {0, -1}},
    {MK_DTYPE_IQ3_S, {0, -1}},   {MK_DTYPE_IQ2_S, {0, -1}},   {MK_DTYPE_IQ4_XS, {0, -1}},
    {MK_DTYPE_IQ1_M, {-1, -1}},  {MK_DTYPE_TQ1_0, {52, -1}},  {MK_DTYPE_TQ2_0, {64, -1}},
    {MK_DTYPE_MXFP4, {-1, -1}},
};
#define N_QUANT ((int)(sizeof scales_at / sizeof scales_at[0]))

static void fix_scales(tensor *t, uint64_t *rng) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)t->dtype);
    int64_t n = t->n_out * (t->n_in / info->block);
    for (int64_t b = 0; b < n; b++) {
        uint8_t *p = t->data + b * info->block_bytes;
        for (int i = 0; i < N_QUANT; i++) {
            for (int s = 0; s < 2 && scales_at[i].dtype == t->dtype; s++) {
                if (scales_at[i].at[s] >= 0) {
                    put_f16(p + scales_at[i].at[s], next_float(rng) * 0.1f);
                }
            }
        }
        if (t->dtype == MK_DTYPE_MXFP4) {
            p[0] = (uint8_t)(118 + next_int(rng, 8));
        }
        if (t->dtype == MK_DTYPE_IQ1_M) {  // the scale is spread over the top nibbles of four words
            uint16_t h = mk_f16_from_f32(next_float(rng) * 0.1f);
            for (int i = 0; i < 4; i++) {
                p[48 + 2 * i + 1] = (uint8_t)((p[48 + 2 * i + 1] & 15) | (h >> (4 * i) & 15) << 4);
            }
        }
    }
}

static tensor random_tensor(mk_dtype dtype, int64_t n_out, int64_t n_in, uint64_t *rng) {
    tensor t = {.dtype = dtype, .n_out = n_out, .n_in = n_in};
    assert_true(mk_dtype_row_bytes(dtype, n_in, &t.row_bytes));
    t.data = mk_try_alloc((size_t)n_out, t.row_bytes);
    assert_non_null(t.data);
    if (is_quantised(dtype)) {
        for (size_t i = 0; i < (size_t)n_out * t.row_bytes; i++) {
            t.data[i] = (uint8_t)next_u64(rng);
        }
        fix_scales(&t, rng);
        return t;
    }
    for (int64_t i = 0; i < n_out * n_in; i++) {
        float v = next_float(rng);
        uint16_t h = dtype == MK_DTYPE_F16 ? mk_f16_from_f32(v) : mk_bf16_from_f32(v);
        if (dtype == MK_DTYPE_F32) {
            memcpy(t.data + 4 * i, &v, 4);
        } else if (dtype == MK_DTYPE_F8_E4M3) {
            uint8_t b = (uint8_t)next_u64(rng);
            t.data[i] = (b & 0x7F) == 0x7F ? 0 : b;
        } else {
            memcpy(t.data + 2 * i, &h, 2);
        }
    }
    if (dtype == MK_DTYPE_F8_E4M3) {
        t.tile_cols = (n_in + 127) / 128;
        t.tile_scale = random_floats(rng, (n_out + 127) / 128 * t.tile_cols);
    }
    return t;
}

static void tensor_free(tensor *t) {
    mk_free(t->data);
    mk_free(t->tile_scale);
}

static mk_weight_src source_of(const tensor *t) {
    return (mk_weight_src){.dtype = t->dtype,
                           .data = t->data,
                           .n_mat = 1,
                           .n_out = t->n_out,
                           .n_in = t->n_in,
                           .row_bytes = t->row_bytes,
                           .tile_scale = t->tile_scale,
                           .tile_cols = t->tile_cols};
}

// --- the definition ------------------------------------------------------------------------------
static float naive_float(const tensor *t, int64_t o, const float *x) {
    const uint8_t *row = t->data + (size_t)o * t->row_bytes;
    float *w = mk_alloc((size_t)t->n_in * sizeof *w), acc = 0;
    mk_dtype_to_f32(t->dtype, row, t->n_in, w);
    if (t->dtype == MK_DTYPE_F8_E4M3) {
        for (int64_t k = 0; k < t->n_in; k += 128) {
            float p = 0;
            for (int64_t i = k; i < k + 128 && i < t->n_in; i++) {
                p = fmaf(w[i] * 0x1p-8f, x[i], p);
            }
            acc = fmaf(t->tile_scale[o / 128 * t->tile_cols + k / 128] * 0x1p8f, p, acc);
        }
    } else if (t->dtype == MK_DTYPE_BF16) {
        for (int64_t k = 0; k < t->n_in; k += 2) {
            if (k + 1 < t->n_in) {
                acc = fmaf(w[k + 1], mk_f32_from_bf16(mk_bf16_from_f32(x[k + 1])), acc);
            }
            acc = fmaf(w[k], mk_f32_from_bf16(mk_bf16_from_f32(x[k])), acc);
        }
    } else {
        for (int64_t k = 0; k < t->n_in; k++) {
            acc = fmaf(w[k], x[k], acc);
        }
    }
    mk_free(w);
    return acc;
}

static void naive_quantise(const float *x, int64_t n, int8_t q[64], float *d) {
    float amax = 0;
    for (int64_t i = 0; i < n; i++) {
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    *d = amax < 0x1p-100f ? 0 : amax / 127.0f;
    for (int64_t i = 0; i < n; i++) {
        float v = *d == 0 ? 0 : rintf(x[i] * (127.0f / amax));
        v = v != v ? 0 : v > 127 ? 127 : v < -127 ? -127 : v;
        q[i] = (int8_t)v;
    }
}

static float naive_int(const tensor *t, int64_t o, const float *x) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)t->dtype);
    size_t n = (size_t)t->n_in;
    int8_t *q = mk_alloc(n);
    float *scale = mk_alloc(n * 4), *shift = mk_alloc(n * 4), acc = 0;
    mk_dtype_row_ints(t->dtype, t->data + (size_t)o * t->row_bytes, t->n_in, q, scale, shift);
    for (int64_t k = 0; k < t->n_in; k += 64) {
        int8_t xq[64];
        float d, p = 0;
        int64_t end = k + 64 < t->n_in ? k + 64 : t->n_in;
        naive_quantise(x + k, end - k, xq, &d);
        for (int64_t g = k; g < end; g += info->group) {
            int32_t sum = 0, xsum = 0;
            for (int64_t i = g; i < g + info->group; i++) {
                sum += q[i] * xq[i - k];
                xsum += xq[i - k];
            }
            float s = scale[g / info->group];
            p = g == k ? (float)sum * s : fmaf((float)sum, s, p);
            if (info->has_shift) {
                p = fmaf(shift[g / info->group], (float)xsum, p);
            }
        }
        acc = fmaf(p, d, acc);
    }
    mk_free(q);
    mk_free(scale);
    mk_free(shift);
    return acc;
}

static float *naive(const tensor *t, const float *x, int64_t n_tok, const float *bias) {
    float *y = mk_alloc((size_t)(n_tok * t->n_out + 1) * sizeof *y);
    uint64_t fpu = mk_fpu_enter();
    for (int64_t i = 0; i < n_tok; i++) {
        for (int64_t o = 0; o < t->n_out; o++) {
            float v = is_quantised(t->dtype) ? naive_int(t, o, x + i * t->n_in)
                                             : naive_float(t, o, x + i * t->n_in);
            y[i * t->n_out + o] = bias != NULL ? v + bias[o] : v;
        }
    }
    mk_fpu_leave(fpu);
    return y;
}

// --- exactness -----------------------------------------------------------------------------------
typedef struct {
    const mk_weight *w;
    const float *bias;
    mk_mat x, y;
} linear_step;

static void step_linear(mk_ops *ops, void *arg) {
    linear_step *s = arg;
    mk_op_linear(ops, s->y, s->x, s->w, s->bias);
}

static void check_all_isas(const tensor *t, const float *x, int64_t n_tok, const float *bias,
                           const float *want) {
    float *y = mk_alloc((size_t)(n_tok * t->n_out + 1) * sizeof *y);
    for (int i = 0; mk_kernels_at(i) != NULL; i++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            bench b = bench_open(mk_kernels_at(i), n_thread);
            mk_weight w;
            mk_weight_src src = source_of(t);
            mk_err err = {0};
            assert_int_equal(mk_weight_pack(&src, b.pool, &w, &err), MK_OK);
            assert_int_equal(w.mat_bytes, mk_weight_packed_bytes(&src));
            memset(y, 0xFF, (size_t)(n_tok * t->n_out + 1) * sizeof *y);
            linear_step s = {&w,
                             bias,
                             {(float *)(uintptr_t)x, n_tok, t->n_in, t->n_in},
                             {y, n_tok, t->n_out, t->n_out}};
            run_step(&b, step_linear, &s);
            char what[128];
            snprintf(what, sizeof what, "%s %s [%lld,%lld] x %lld, %d threads",
                     mk_kernels_name(mk_kernels_at(i)), mk_dtype_get((int64_t)t->dtype)->name,
                     (long long)t->n_out, (long long)t->n_in, (long long)n_tok, n_thread);
            assert_same_floats(y, want, n_tok * t->n_out, what);
            assert_true(mk_f32_bits(y[n_tok * t->n_out]) ==
                        0xFFFFFFFF);  // nothing behind the last element
            mk_weight_free(&w);
            bench_close(&b);
        }
    }
    mk_free(y);
}

static void check_type(mk_dtype dtype, int64_t n_out, int64_t n_in, int64_t n_tok, bool with_bias,
                       uint64_t *rng) {
    tensor t = random_tensor(dtype, n_out, n_in, rng);
    float *x = random_floats(rng, n_tok * n_in),
          *bias = with_bias ? random_floats(rng, n_out) : NULL;
    float *want = naive(&t, x, n_tok, bias);
    check_all_isas(&t, x, n_tok, bias, want);
    tensor_free(&t);
    mk_free(x);
    mk_free(bias);
    mk_free(want);
}

static const mk_dtype plain_types[] = {MK_DTYPE_F32, MK_DTYPE_F16, MK_DTYPE_BF16, MK_DTYPE_F8_E4M3};

static void plain_types_are_exact(void **state) {
    (void)state;
    static const int64_t shape[][3] = {{1, 1, 1},    {16, 2, 1},   {17, 33, 2},  {40, 129, 3},
                                       {96, 300, 1}, {130, 64, 5}, {33, 7, 8},   {50, 256, 9},
                                       {15, 31, 17}, {145, 40, 4}, {64, 128, 6}, {31, 130, 70},
                                       {300, 500, 3}};
    uint64_t rng = 1;
    for (size_t d = 0; d < sizeof plain_types / sizeof plain_types[0]; d++) {
        for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
            check_type(plain_types[d], shape[i][0], shape[i][1], shape[i][2], i % 2 == 0, &rng);
        }
    }
}

static void quantised_types_are_exact(void **state) {
    (void)state;
    static const int64_t shape[][3] = {{16, 256, 1}, {70, 512, 1},  {33, 256, 2}, {20, 256, 4},
                                       {49, 512, 8}, {17, 256, 13}, {200, 512, 5}};
    uint64_t rng = 2;
    for (int d = 0; d < N_QUANT; d++) {
        const mk_dtype_info *info = mk_dtype_get((int64_t)scales_at[d].dtype);
        for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
            int64_t n_in = info->block == 32 && i % 2 == 1 ? shape[i][1] - 32 : shape[i][1];
            check_type(scales_at[d].dtype, shape[i][0], n_in, shape[i][2], i % 2 == 0, &rng);
        }
    }
}

static void batch_sizes_are_exact(void **state) {
    (void)state;
    uint64_t rng = 3;
    for (int64_t n_tok = 0; n_tok <= 17; n_tok++) {
        check_type(MK_DTYPE_Q8_0, 35, 96, n_tok, false, &rng);
        check_type(MK_DTYPE_Q4_1, 35, 96, n_tok, false, &rng);
        check_type(MK_DTYPE_F32, 35, 41, n_tok, false, &rng);
        check_type(MK_DTYPE_BF16, 35, 41, n_tok, false, &rng);
    }
}

// --- odd activations -----------------------------------------------------------------------------
static void bad_activations_are_contained(void **state) {
    (void)state;
    uint64_t rng = 4;
    tensor t = random_tensor(MK_DTYPE_Q8_0, 20, 64, &rng);
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1e36f, 1e-40f, 1e-37f, -0.0f};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        float *x = random_floats(&rng, 3 * 64);
        x[64 + 5] = odd[i];  // only row 1
        for (int k = 32; k < 64 && i >= 4; k++) {
            x[64 + k] = odd[i];
        }
        float *want = naive(&t, x, 3, NULL);
        for (int o = 0; o < 20; o++) {  // NaN is dropped, an infinity must not vanish
            assert_true(isfinite(want[o]) && isfinite(want[40 + o]));
            assert_true((i == 1 || i == 2) == !isfinite(want[20 + o]));
        }
        check_all_isas(&t, x, 3, NULL, want);
        mk_free(x);
        mk_free(want);
    }
    tensor_free(&t);
}

// The kernels widen F8 codes without a test for NaN: packing must have seen it.  No tile scales: 1.
static void f8_nan_stays_visible(void **state) {
    (void)state;
    uint64_t rng = 9;
    tensor t = random_tensor(MK_DTYPE_F8_E4M3, 20, 200, &rng);
    t.data[3 * 200 + 150] = 0xFF;
    for (int64_t i = 0; i < 2; i++) {
        t.tile_scale[i] = 1;
    }
    float *x = random_floats(&rng, 200), *want = naive(&t, x, 1, NULL);
    assert_true(isnan(want[3]) && !isnan(want[2]) && !isnan(want[4]));
    check_all_isas(&t, x, 1, NULL, want);
    mk_free(t.tile_scale);
    t.tile_scale = NULL;
    check_all_isas(&t, x, 1, NULL, want);
    mk_free(x);
    mk_free(want);
    tensor_free(&t);
}

// --- meaning -------------------------------------------------------------------------------------
// One activation 127, the others 0: d = 1, q = 127, so the output is 127 times the dequantised
// weight, up to the roundings of scale*127*q and of adding the shift.
static void one_hot_returns_the_weights(void **state) {
    (void)state;
    uint64_t rng = 5;
    const mk_kernels *k = mk_kernels_at(0);
    for (int d = 0; d < N_QUANT; d++) {
        tensor t = random_tensor(scales_at[d].dtype, 18, 256, &rng);
        float *w = mk_alloc(256 * sizeof *w), y[18];
        float *x = mk_try_alloc(256, sizeof *x);
        bench b = bench_open(k, 1);
        mk_weight packed;
        mk_weight_src src = source_of(&t);
        assert_int_equal(mk_weight_pack(&src, b.pool, &packed, NULL), MK_OK);
        for (int col = 0; col < 256; col += 7) {
            memset(x, 0, 256 * sizeof *x);
            x[col] = 127;
            linear_step s = {&packed, NULL, {x, 1, 256, 256}, {y, 1, 18, 18}};
            run_step(&b, step_linear, &s);
            for (int o = 0; o < 18; o++) {
                mk_dtype_to_f32(t.dtype, t.data + (size_t)o * t.row_bytes, 256, w);
                double want = 127.0 * (double)w[col];
                // the shift and scale*q may be far larger than their sum; their size is bounded by
                // the row's largest value
                double big = 0;
                for (int i = 0; i < 256; i++) {
                    big = fabs((double)w[i]) > big ? fabs((double)w[i]) : big;
                }
                if (fabs((double)y[o] - want) > 127 * big * 1e-6) {
                    fail_msg("%s row %d column %d: %g, expected %g",
                             mk_dtype_get((int64_t)t.dtype)->name, o, col, (double)y[o], want);
                }
            }
        }
        mk_weight_free(&packed);
        bench_close(&b);
        mk_free(w);
        mk_free(x);
        tensor_free(&t);
    }
}

// Distance to double arithmetic: int8 activations keep about 1/254 of each group's maximum, errors
// add like a random walk.
static void quantised_is_near_double(void **state) {
    (void)state;
    uint64_t rng = 6;
    for (int d = 0; d < N_QUANT; d++) {
        tensor t = random_tensor(scales_at[d].dtype, 16, 1024, &rng);
        float *x = random_floats(&rng, 1024), *w = mk_alloc(1024 * sizeof *w),
              *y = naive(&t, x, 1, NULL);
        for (int o = 0; o < 16; o++) {
            double want = 0, norm = 0;
            mk_dtype_to_f32(t.dtype, t.data + (size_t)o * t.row_bytes, 1024, w);
            for (int i = 0; i < 1024; i++) {
                want += (double)w[i] * (double)x[i];
                norm += (double)w[i] * (double)w[i];
            }
            // step of a group: max|x| / 127 <= 16 / 127; error of one product uniform in half a
            // step, times |w|
            double tolerance = 6 * sqrt(norm) * 16 / 127 / sqrt(12);
            if (fabs((double)y[o] - want) > tolerance) {
                fail_msg("%s: %g, expected %g +- %g", mk_dtype_get((int64_t)t.dtype)->name,
                         (double)y[o], want, tolerance);
            }
        }
        tensor_free(&t);
        mk_free(x);
        mk_free(w);
        mk_free(y);
    }
}

// --- lists, heads, maps --------------------------------------------------------------------------
typedef struct {
    mk_linear list[4];
    mk_mat x;
    int n;
} list_step;

static void step_list(mk_ops *ops, void *arg) {
    list_step *s = arg;
    mk_op_linears(ops, s->x, s->list, s->n);
}

static void lists_share_the_activations(void **state) {
    (void)state;
    static const mk_dtype types[4] = {MK_DTYPE_Q4_K, MK_DTYPE_Q6_K, MK_DTYPE_F32, MK_DTYPE_BF16};
    static const int64_t n_out[4] = {40, 100, 17, 64};
    uint64_t rng = 7;
    tensor t[4];
    float *x = random_floats(&rng, 5 * 256), *want[4];
    for (int i = 0; i < 4; i++) {
        t[i] = random_tensor(types[i], n_out[i], 256, &rng);
        want[i] = naive(&t[i], x, 5, NULL);
    }
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            bench b = bench_open(mk_kernels_at(k), n_thread);
            mk_weight w[4];
            list_step s = {.x = {x, 5, 256, 256}, .n = 4};
            for (int i = 0; i < 4; i++) {
                mk_weight_src src = source_of(&t[i]);
                assert_int_equal(mk_weight_pack(&src, b.pool, &w[i], NULL), MK_OK);
                float *y = mk_alloc((size_t)(5 * n_out[i]) * sizeof *y);
                s.list[i] = (mk_linear){&w[i], NULL, {y, 5, n_out[i], n_out[i]}};
            }
            run_step(&b, step_list, &s);
            for (int i = 0; i < 4; i++) {
                assert_same_floats(s.list[i].y.p, want[i], 5 * n_out[i], "list");
                mk_free(s.list[i].y.p);
                mk_weight_free(&w[i]);
            }
            bench_close(&b);
        }
    }
    for (int i = 0; i < 4; i++) {
        tensor_free(&t[i]);
        mk_free(want[i]);
    }
    mk_free(x);
}

// More tokens than one chunk and more columns than one block, or more row tiles than one group:
// sums wait in a buffer in between.
static void check_long(mk_dtype type, int64_t n_tok, int64_t n_out, int n_thread, uint64_t *rng) {
    int64_t n_in = type == MK_DTYPE_Q6_K || type == MK_DTYPE_Q4_K ? 1280 : 1312;
    tensor t = random_tensor(type, n_out, n_in, rng);
    float *x = random_floats(rng, n_tok * n_in),
          *bias = n_thread > 1 ? random_floats(rng, n_out) : NULL;
    float *want = naive(&t, x, n_tok, bias);
    float *y = mk_alloc((size_t)(n_tok * n_out) * sizeof *y);
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), n_thread);
        mk_weight w;
        mk_weight_src src = source_of(&t);
        assert_int_equal(mk_weight_pack(&src, b.pool, &w, NULL), MK_OK);
        list_step s = {.x = {x, n_tok, n_in, n_in}, .n = 1};
        s.list[0] = (mk_linear){&w, bias, {y, n_tok, n_out, n_out}};
        run_step(&b, step_list, &s);
        assert_same_floats(y, want, n_tok * n_out, mk_dtype_get(type)->name);
        mk_weight_free(&w);
        bench_close(&b);
    }
    tensor_free(&t);
    mk_free(x);
    mk_free(bias);
    mk_free(want);
    mk_free(y);
}

static void long_inputs_go_in_blocks(void **state) {
    (void)state;
    static const mk_dtype types[] = {MK_DTYPE_Q8_0, MK_DTYPE_Q6_K, MK_DTYPE_Q4_K, MK_DTYPE_Q5_0,
                                     MK_DTYPE_Q4_0, MK_DTYPE_BF16, MK_DTYPE_F32,  MK_DTYPE_F8_E4M3};
    uint64_t rng = 11;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        check_long(types[i], 261, 20, 2 + (int)i % 2, &rng);  // groups of tokens as well
        // 19 row tiles in one piece: a second thread would cut them into less than a group
        check_long(types[i], 43, 300, 1, &rng);
    }
    check_long(MK_DTYPE_F32, 523, 16, 2, &rng);  // tokens alone are divided
}

// Inputs that are normed or gated on the way in against the operators one after the other.
typedef struct {
    mk_mat g, u, tmp, y[4];
    const float *norm;
    const mk_weight *w;
} fused_step;

static void step_fused(mk_ops *ops, void *arg) {
    fused_step *s = arg;
    mk_linear list = {s->w, NULL, s->y[1]};
    mk_op_rmsnorm(ops, s->tmp, s->g, s->norm, 1e-5f);
    mk_op_linear(ops, s->y[0], s->tmp, s->w, NULL);
    mk_op_normed_linears(ops, (mk_normed){s->g, s->norm, 1e-5f}, &list, 1);
    mk_op_swiglu(ops, s->tmp, s->g, s->u);
    mk_op_linear(ops, s->y[2], s->tmp, s->w, NULL);
    mk_op_swiglu_linear(ops, s->y[3], s->g, s->u, s->w);
}

static void fused_inputs_give_the_same_bits(void **state) {
    (void)state;
    static const mk_dtype types[] = {MK_DTYPE_Q8_0, MK_DTYPE_BF16, MK_DTYPE_F32};
    static const int64_t n_toks[] = {1, 3, 9, 70, 523};
    enum { N_IN = 96, N_OUT = 33, MOST = 523 };
    uint64_t rng = 13;
    float *g = random_floats(&rng, MOST * N_IN), *u = random_floats(&rng, MOST * N_IN);
    float *norm = random_floats(&rng, N_IN);
    float *buf = mk_alloc(MOST * (N_IN + 4 * N_OUT) * sizeof *buf);
    for (int c = 0; c < 3 * 5 * 2; c++) {
        int64_t n = n_toks[c % 5];
        tensor t = random_tensor(types[c / 5 % 3], N_OUT, N_IN, &rng);
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            bench b = bench_open(mk_kernels_at(k), 1 + c / 15);
            mk_weight w;
            mk_weight_src src = source_of(&t);
            assert_int_equal(mk_weight_pack(&src, b.pool, &w, NULL), MK_OK);
            fused_step s = {
                {g, n, N_IN, N_IN}, {u, n, N_IN, N_IN}, {buf, n, N_IN, N_IN}, {{0}}, norm, &w};
            for (int i = 0; i < 4; i++) {
                s.y[i] = (mk_mat){buf + n * (N_IN + i * N_OUT), n, N_OUT, N_OUT};
            }
            run_step(&b, step_fused, &s);
            assert_same_floats(s.y[1].p, s.y[0].p, n * N_OUT, "normed");
            assert_same_floats(s.y[3].p, s.y[2].p, n * N_OUT, "gated");
            mk_weight_free(&w);
            bench_close(&b);
        }
        tensor_free(&t);
    }
    mk_free(g);
    mk_free(u);
    mk_free(norm);
    mk_free(buf);
}

typedef struct {
    mk_mat y, x;
    int64_t y_stride, x_stride;
    const mk_weight *w;
} heads_step;

static void step_heads(mk_ops *ops, void *arg) {
    heads_step *s = arg;
    mk_op_linear_heads(ops, s->y, s->y_stride, s->x, s->x_stride, s->w);
}

// Three heads cut out of one tensor by row maps, columns with gaps between the heads.
static void heads_use_their_own_matrix(void **state) {
    (void)state;
    uint64_t rng = 8;
    static const mk_dtype types[] = {MK_DTYPE_F32, MK_DTYPE_Q8_0, MK_DTYPE_BF16};
    enum { HEADS = 3, OUT = 60, IN = 64, XS = 80, YS = 64, TOK = 24 };
    for (int d = 0; d < 3; d++) {
        tensor t = random_tensor(types[d], HEADS * 2 * OUT, IN, &rng);
        int32_t map[OUT];
        for (int i = 0; i < OUT; i++) {
            map[i] = 2 * (OUT - 1 - i);  // every second row, backwards
        }
        float *x = random_floats(&rng, TOK * HEADS * XS), y[TOK * HEADS * YS];
        for (int k = 0; mk_kernels_at(k) != NULL; k++) {
            bench b = bench_open(mk_kernels_at(k), 2);
            mk_weight w;
            mk_weight_src src = source_of(&t);
            src.n_mat = HEADS;
            src.n_out = OUT;
            src.row_map = map;
            src.mat_stride = 2 * OUT * t.row_bytes;
            assert_int_equal(mk_weight_pack(&src, b.pool, &w, NULL), MK_OK);
            heads_step s = {
                {y, TOK, HEADS * YS, HEADS * YS}, {x, TOK, HEADS * XS, HEADS * XS}, YS, XS, &w};
            run_step(&b, step_heads, &s);
            for (int i = 0; i < TOK; i++) {
                for (int h = 0; h < HEADS; h++) {
                    float *want = naive(&t, x + (i * HEADS + h) * XS, 1, NULL);
                    for (int o = 0; o < OUT; o++) {
                        assert_same_floats(&y[(i * HEADS + h) * YS + o],
                                           &want[h * 2 * OUT + map[o]], 1, "head");
                    }
                    mk_free(want);
                }
            }
            mk_weight_free(&w);
            bench_close(&b);
        }
        mk_free(x);
        tensor_free(&t);
    }
}

// --- errors --------------------------------------------------------------------------------------
static void bad_sources_are_refused(void **state) {
    (void)state;
    uint8_t data[64] = {0};
    mk_weight w;
    mk_pool *pool = mk_pool_create(1);
    mk_weight_src src = {
        .dtype = MK_DTYPE_I32, .data = data, .n_mat = 1, .n_out = 4, .n_in = 4, .row_bytes = 16};
    mk_err err = {0};
    assert_int_equal(mk_weight_packed_bytes(&src), 0);
    assert_int_equal(mk_weight_pack(&src, pool, &w, &err), MK_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "I32"));
    src.dtype = MK_DTYPE_Q8_0;
    src.n_in = 33;
    assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_EUNSUPPORTED);
    src.dtype = MK_DTYPE_F32;
    src.n_in = INT64_MAX;
    assert_int_equal(mk_weight_packed_bytes(&src), 0);
    src.n_in = src.n_out = INT32_MAX;
    src.n_mat = INT64_MAX / 2;
    assert_int_equal(mk_weight_packed_bytes(&src), 0);
    src.n_out = src.n_in = 4;
    src.n_mat = 1;
    mk_alloc_fail_at(1);
    assert_int_equal(mk_weight_pack(&src, pool, &w, &err), MK_ENOMEM);
    mk_pool_destroy(pool);
}

static void unknown_sets_are_refused(void **state) {
    (void)state;
    const mk_kernels *k = NULL;
    mk_err err = {0};
    assert_int_equal(mk_kernels_find("auto", &k, &err), MK_OK);
    assert_non_null(k);
    assert_int_equal(mk_kernels_find("scalar", &k, &err), MK_OK);
    assert_string_equal(mk_kernels_name(k), "scalar");
    assert_int_equal(mk_kernels_find("sse9", &k, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "avx2"));
#if defined(__x86_64__)
    assert_int_equal(mk_kernels_find("neon", &k, &err), MK_EUSAGE);
#else
    assert_int_equal(mk_kernels_find("avx2", &k, &err), MK_EUSAGE);
#endif
    assert_non_null(strstr(err.msg, "does not have"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_types_are_exact),
        cmocka_unit_test(quantised_types_are_exact),
        cmocka_unit_test(batch_sizes_are_exact),
        cmocka_unit_test(bad_activations_are_contained),
        cmocka_unit_test(f8_nan_stays_visible),
        cmocka_unit_test(one_hot_returns_the_weights),
        cmocka_unit_test(quantised_is_near_double),
        cmocka_unit_test(lists_share_the_activations),
        cmocka_unit_test(long_inputs_go_in_blocks),
        cmocka_unit_test(fused_inputs_give_the_same_bits),
        cmocka_unit_test(heads_use_their_own_matrix),
        cmocka_unit_test(bad_sources_are_refused),
        cmocka_unit_test(unknown_sets_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
