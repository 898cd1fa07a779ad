// 8-bit moments: the code against the paper's description, the update against a plain definition.
#include "train/optim_util.h"

#include "ops/optim.h"

// The code written down as the paper has it: bits after the sign are zeros that count the tens, a
// one, and a number of a part of [0.1, 1].
static float value_of_bits(unsigned bits, int n_bits) {
    int zeros = 0;
    while (zeros < n_bits && !(bits >> (n_bits - 1 - zeros) & 1)) {
        zeros++;
    }
    if (zeros >= 7) {  // seven zeros: 0, and with one more bit behind them 1
        return bits == 0 ? 0.0f : 1.0f;
    }
    int left = n_bits - 1 - zeros;
    double part = bits & ((1u << left) - 1), parts = 1u << left, ten = 1;
    for (int i = 0; i < zeros; i++) {
        ten *= 10;
    }
    return (float)((0.1 + 0.9 * (part + 0.5) / parts) / ten);
}

static int rising(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

// 8 bits without a sign; 7 with one, 1 in the place of -0.
static void plain_code(float value[256], bool with_sign) {
    for (unsigned i = 0; i < 256; i++) {
        float x = value_of_bits(with_sign ? i & 127 : i, with_sign ? 7 : 8);
        value[i] = !with_sign || i < 128 ? x : x == 0 ? 1.0f : -x;
    }
    qsort(value, 256, sizeof *value, rising);
}

// Nearest value by looking at all; the one nearer to 0 at a tie.
static uint8_t plain_nearest(const float value[256], float x) {
    int best = 0;
    for (int i = 1; i < 256; i++) {
        double d = fabs((double)value[i] - (double)x), was = fabs((double)value[best] - (double)x);
        if (d < was || (d == was && fabsf(value[i]) < fabsf(value[best]))) {
            best = i;
        }
    }
    return (uint8_t)best;
}

static void codes_are_the_papers(void **state) {
    (void)state;
    for (int with_sign = 0; with_sign < 2; with_sign++) {
        mk_code8 c;
        float want[256];
        mk_code8_init(&c, with_sign);
        plain_code(want, with_sign);
        for (int i = 0; i < 256; i++) {
            // two ways to the same number: a rounding of the double apart
            assert_true(fabsf(c.value[i] - want[i]) <= 1.2e-7f * fabsf(want[i]));
        }
        assert_true(c.value[c.zero] == 0 && c.value[255] == 1);
    }
}

// One tensor of 4,096 + 100 floats (a block that is cut) through the definition.
typedef struct {
    float p[4196], m_max[17], v_max[17];
    uint8_t m[4196], v[4196];
    mk_code8 m_code, v_code;
} plain8;

static void plain_step(plain8 *x, int s, float size, float keep, float v_scale) {
    for (int64_t lo = 0; lo < 4196; lo += 256) {
        float m[256], v[256], mm = 0, vm = 0;
        int64_t n = lo + 256 < 4196 ? 256 : 4196 - lo, block = lo / 256;
        for (int64_t i = 0; i < n; i++) {
            float g = gen(0, s, lo + i);
            m[i] = x->m_code.value[x->m[lo + i]] * x->m_max[block];
            v[i] = x->v_code.value[x->v[lo + i]] * x->v_max[block];
            m[i] = fmaf(0.9f, m[i], (float)(1 - 0.9) * g);
            v[i] = fmaf(0.95f, v[i], (float)(1 - 0.95) * g * g);
            x->p[lo + i] =
                fmaf(-size, m[i] / fmaf(sqrtf(v[i]), v_scale, 1e-8f), x->p[lo + i] * keep);
            mm = fmaxf(mm, fabsf(m[i]));
            vm = fmaxf(vm, v[i]);
        }
        for (int64_t i = 0; i < n; i++) {
            x->m[lo + i] = plain_nearest(x->m_code.value, m[i] * (1 / mm));
            x->v[lo + i] = plain_nearest(x->v_code.value, v[i] * (1 / vm));
            if (x->v[lo + i] == 0 && v[i] > 0) {
                x->v[lo + i] = 1;
            }
        }
        x->m_max[block] = mm;
        x->v_max[block] = vm;
    }
}

static void eight_bit_is_exact(void **state) {
    (void)state;
    static plain8 want;
    for (int k = 0; mk_kernels_at(k) != NULL; k++) {
        bench b = bench_open(mk_kernels_at(k), 1 + k % 3);
        add(&b, "w", 4196);
        mk_optim_opts opts = mk_optim_defaults();
        opts.clip = 0;
        opts.eight_bit = true;
        start(&b, &opts);
        memset(&want, 0, sizeof want);
        mk_code8_init(&want.m_code, true);
        mk_code8_init(&want.v_code, false);
        memcpy(want.p, b.param[0].p, sizeof want.p);
        double c1 = 1, c2 = 1;
        for (int s = 0; s < 4; s++) {
            c1 *= opts.beta1;
            c2 *= opts.beta2;
            double lr = number(json_object_get(golden, "lr"), (size_t)s);
            plain_step(&want, s, (float)(lr / (1 - c1)), (float)(1 - lr * opts.weight_decay),
                       (float)(1 / sqrt(1 - c2)));
            step(&b, s, 1);
            assert_memory_equal(b.param[0].p, want.p, sizeof want.p);
        }
        int64_t n;
        const mk_ckpt_section *got = mk_optim_states(b.o, &n);
        assert_int_equal(n, 4);
        assert_memory_equal(got[0].data, want.m, sizeof want.m);
        assert_memory_equal(got[1].data, want.v, sizeof want.v);
        assert_memory_equal(got[2].data, want.m_max, sizeof want.m_max);
        assert_memory_equal(got[3].data, want.v_max, sizeof want.v_max);
        bench_close(&b);
    }
}

// A gradient that points to a fixed place, with noise of half its size.  Codes are off by 1.4 % at
// worst in the upper decade, updates by about as much: both go to nearly the same place.
static double distance_after(bool eight_bit, float *p_out, int n) {
    bench b = bench_open(mk_kernels_at(0), 2);
    add(&b, "w", n);
    mk_optim_opts opts = mk_optim_defaults();
    opts.eight_bit = eight_bit;
    opts.weight_decay = 0;
    opts.clip = 0;
    start(&b, &opts);
    int64_t n_state;
    mk_optim_states(b.o, &n_state);
    assert_int_equal(n_state, eight_bit ? 4 : 2);
    double d = 0;
    for (int s = 0; s < 200; s++) {
        for (int64_t i = 0; i < n; i++) {
            b.param[0].g[i] = b.param[0].p[i] - gen(5, -1, i) + 0.5f * gen(s + 9, -1, i);
        }
        assert_int_equal(mk_optim_step(b.o, &(mk_optim_at){s + 1, 0.01, 1}, NULL, NULL), MK_OK);
    }
    for (int64_t i = 0; i < n; i++) {
        double e = (double)(b.param[0].p[i] - gen(5, -1, i));
        d += e * e;
        p_out[i] = b.param[0].p[i];
    }
    bench_close(&b);
    return sqrt(d / n);
}

static void eight_bit_goes_where_32_bit_goes(void **state) {
    (void)state;
    enum { N = 8192 };
    static float p8[N], p32[N];
    double d8 = distance_after(true, p8, N), d32 = distance_after(false, p32, N), apart = 0;
    for (int i = 0; i < N; i++) {
        apart += (double)((p8[i] - p32[i]) * (p8[i] - p32[i]));
    }
    apart = sqrt(apart / N);
    assert_true(d32 < 0.06);  // of 0.8 at the beginning
    assert_true(d8 < 1.05 * d32);
    assert_true(apart < 0.01 && apart > 1e-6);
}

// Gradients that are 1e-5 of the largest of their block: v is 1e-10 of the largest, below all
// values of the code, m is not.  Were v lost, m / eps would move the parameter by a thousand rates.
static void small_moments_are_not_lost(void **state) {
    (void)state;
    enum { N = 4096 };
    bench b = bench_open(mk_kernels_at(0), 1);
    add(&b, "w", N);
    mk_optim_opts opts = mk_optim_defaults();
    opts.eight_bit = true;
    opts.weight_decay = opts.clip = 0;
    start(&b, &opts);
    float was = b.param[0].p[1];
    for (int s = 0; s < 3; s++) {
        for (int64_t i = 0; i < N; i++) {
            b.param[0].g[i] = s > 0 ? 0.0f : i % 256 == 0 ? 100.0f : 1e-3f;
        }
        assert_int_equal(mk_optim_step(b.o, &(mk_optim_at){s + 1, 0.01, 1}, NULL, NULL), MK_OK);
        int64_t n;
        const mk_ckpt_section *states = mk_optim_states(b.o, &n);
        assert_string_equal(states[1].name, "adam.v8:w");
        assert_int_equal(((const uint8_t *)states[1].data)[1], 1);
        assert_int_equal(((const uint8_t *)states[1].data)[256], 255);
    }
    assert_true(fabsf(b.param[0].p[1] - was) < 0.03f);
    bench_close(&b);
}

// What stays in 32 bits: small tensors, those that are told to, and Muon's.
static void states_are_what_options_say(void **state) {
    (void)state;
    bench b = bench_open(mk_kernels_at(0), 1);
    add(&b, "small", 4095);
    add(&b, "large", 4096);
    add(&b, "embedding", 4096)->keep_f32 = true;
    add_matrix(&b, "matrix", 64, 64);
    mk_optim_opts opts = mk_optim_defaults();
    opts.eight_bit = opts.muon = true;
    start(&b, &opts);
    static const char *const names[] = {"adam.m:small",     "adam.v:small",     "adam.m8:large",
                                        "adam.v8:large",    "adam.m_max:large", "adam.v_max:large",
                                        "adam.m:embedding", "adam.v:embedding", "muon.m:matrix"};
    static const int64_t counts[] = {4095, 4095, 4096, 4096, 16, 16, 4096, 4096, 4096};
    int64_t n;
    const mk_ckpt_section *s = mk_optim_states(b.o, &n);
    assert_int_equal(n, 9);
    for (int i = 0; i < 9; i++) {
        assert_string_equal(s[i].name, names[i]);
        assert_int_equal(s[i].shape[0], counts[i]);
        assert_int_equal(s[i].dtype, i >= 2 && i < 4 ? MK_DTYPE_U8 : MK_DTYPE_F32);
    }
    size_t bytes = mk_optim_bytes(&opts, b.param, b.n);
    assert_int_equal(bytes, 2 * 4095 * 4 + 2 * 4 + 2 * 4096 + 2 * 64 + 3 * 4096 * 4);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_the_papers),
        cmocka_unit_test(eight_bit_is_exact),
        cmocka_unit_test(eight_bit_goes_where_32_bit_goes),
        cmocka_unit_test(small_moments_are_not_lost),
        cmocka_unit_test(states_are_what_options_say),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
