// The short ways of packing give the bytes of the general one.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/pack_int.h"

enum { COLS = 512, MAX_ROW = COLS * 8 };

typedef struct {
    uint8_t bytes[MK_TILE][MAX_ROW];
    const uint8_t *row[MK_TILE];
} rows;

// Random bytes; every so many f16 of them are made special, since scales stand at many places.
static void fill(rows *x, uint64_t seed) {
    static const uint16_t special[] = {0x0000, 0x8000, 0x0001, 0x83FF, 0x7C00, 0xFC00,
                                       0x7C01, 0x7E00, 0xFD55, 0x7BFF, 0x0400, 0x8400};
    uint64_t n = 0;
    for (int r = 0; r < MK_TILE; r++) {
        x->row[r] = x->bytes[r];
        for (size_t i = 0; i < MAX_ROW; i += 2) {
            uint64_t v = mk_rng_u64(seed, n++);
            uint16_t h = (uint16_t)v;
            if (v >> 16 & 1) {
                h = special[(v >> 17) % (sizeof special / sizeof special[0])];
            }
            memcpy(x->bytes[r] + i, &h, 2);
        }
    }
}

static void test_fast_is_general(void **state) {
    (void)state;
    static rows x;
    int n_fast = 0;
    for (int t = 0; t < MK_DTYPE_N; t++) {
        const mk_dtype_info *info = mk_dtype_get(t);
        mk_weight w = {.dtype = (mk_dtype)t, .n_mat = 1, .n_out = MK_TILE, .n_in = COLS};
        if (!info || info->group == 0 || !mk_pack_int_layout(info, &w)) {
            continue;
        }
        for (int part = 0; part < 2; part++) {  // whole rows, and a part that 256 does not divide
            w.n_in = part == 0 ? COLS : COLS - 32;
            if (w.n_in % info->block != 0) {
                continue;
            }
            size_t n = mk_weight_tile_bytes(&w);
            uint8_t *a = mk_alloc(n + 1), *b = mk_alloc(n + 1);
            bool is_fast = false;
            for (uint64_t seed = 1; seed <= 50; seed++) {
                fill(&x, seed);
                memset(a, 0xAA, n + 1);
                memset(b, 0x55, n);
                b[n] = 0xAA;
                mk_pack_int_tile(&w, x.row, a);
                is_fast = mk_pack_fast_tile(&w, x.row, b);
                if (is_fast) {
                    assert_memory_equal(a, b, n + 1);
                }
            }
            n_fast += is_fast;
            mk_free(a);
            mk_free(b);
        }
    }
    assert_int_equal(n_fast, 6 + 3);  // the K types have no rows of 480
}

static void test_words_and_halves(void **state) {
    (void)state;
    static rows x;
    static uint32_t words[COLS * MK_TILE];
    static uint16_t halves[COLS * MK_TILE];
    fill(&x, 7);
    for (int64_t n = 8; n <= COLS; n += n < 32 ? 8 : 240) {
        for (size_t at = 0; at < 7; at += 2) {
            mk_pack_words(x.row, at, n, words);
            mk_pack_halves(x.row, at, n, halves);
            for (int64_t i = 0; i < n * MK_TILE; i++) {
                const uint8_t *p = x.bytes[i % MK_TILE] + at;
                assert_memory_equal(&words[i], p + i / MK_TILE * 4, 4);
                assert_memory_equal(&halves[i], p + i / MK_TILE * 2, 2);
            }
        }
    }
}

// --- the float32 layout --------------------------------------------------------------------------

// Rows of every type, some of them in another order, as float32: what dequantising them says.
static void test_widen(void **state) {
    (void)state;
    enum { N_OUT = 37 };
    mk_pool *pool = mk_pool_create(3);
    int n_type = 0;
    for (int t = 0; t < MK_DTYPE_N; t++) {
        const mk_dtype_info *info = mk_dtype_get(t);
        int64_t n_in = info && info->block == 256 ? 512 : 288;
        size_t row_bytes = 0;
        mk_err err = {0};
        if (!info || !info->name || !mk_dtype_is_float((mk_dtype)t)) {
            continue;
        }
        assert_true(mk_dtype_row_bytes((mk_dtype)t, n_in, &row_bytes));
        uint8_t *data = mk_alloc(row_bytes * N_OUT);
        float scale[3] = {0.5f, 3, -0.25f}, *want = mk_alloc((size_t)n_in * sizeof *want);
        int32_t order[N_OUT];
        for (size_t i = 0; i < row_bytes * N_OUT; i++) {  // small exponents: no infinity, no NaN
            data[i] = (uint8_t)(mk_rng_u64((uint64_t)t, i) & 0x3B);
        }
        for (int r = 0; r < N_OUT; r++) {
            order[r] = N_OUT - 1 - r;
        }
        mk_weight_src src = {(mk_dtype)t, data, 1, N_OUT, n_in, row_bytes, 0, order, NULL, 3};
        src.tile_scale = t == MK_DTYPE_F8_E4M3 ? scale : NULL;
        mk_weight w;
        mk_weight_src as = src;
        as.dtype = MK_DTYPE_F32;
        assert_int_equal(mk_weight_alloc(&as, &w, &err), MK_OK);
        assert_int_equal(mk_weight_fill(&src, pool, &w, &err), MK_OK);
        uint64_t fpu = mk_fpu_enter();  // as packing does
        for (int64_t r = 0; r < (N_OUT + 15) / 16 * 16; r++) {
            if (r < N_OUT) {
                mk_dtype_to_f32((mk_dtype)t, data + (size_t)order[r] * row_bytes, n_in, want);
            }
            for (int64_t k = 0; k < n_in; k++) {
                float f = r < N_OUT ? want[k] : 0;
                // not by 1, which flushes
                f = src.tile_scale && r < N_OUT ? f * scale[k / 128] : f;
                float got =
                    ((const float *)(const void *)w.data)[(r / 16 * n_in + k) * 16 + r % 16];
                if (mk_f32_bits(f) != mk_f32_bits(got)) {
                    fail_msg("%s row %lld column %lld: %a, expected %a", info->name, (long long)r,
                             (long long)k, (double)got, (double)f);
                }
            }
        }
        mk_fpu_leave(fpu);
        n_type++;
        mk_weight_free(&w);
        mk_free(want);
        mk_free(data);
    }
    assert_true(n_type > 25);
    mk_pool_destroy(pool);
}

static void test_f32_rows(void **state) {
    (void)state;
    static const mk_f32_shape shapes[] = {{1, 1},    {16, 16},  {17, 5},
                                          {31, 300}, {64, 257}, {3, 513}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        mk_f32_shape s = shapes[i];
        int64_t n_pad = (s.n_out + 15) / 16 * 16;
        size_t n = (size_t)(s.n_out * s.n_in), n_packed = (size_t)(n_pad * s.n_in);
        float *plain = mk_alloc(n * 4), *packed = mk_alloc(n_packed * 4), *back = mk_alloc(n * 4);
        for (size_t k = 0; k < n; k++) {
            plain[k] = (float)mk_rng_unit(i, k);
        }
        memset(packed, 0xFF, n_packed * 4);
        mk_pool *pool = mk_pool_create((int)i % 3 + 1);
        mk_f32_pack(packed, plain, s, pool);
        for (int64_t r = 0; r < n_pad; r++) {
            for (int64_t k = 0; k < s.n_in; k++) {
                float want = r < s.n_out ? plain[r * s.n_in + k] : 0;
                assert_true(packed[(r / 16 * s.n_in + k) * 16 + r % 16] == want);
            }
        }
        mk_f32_unpack(back, packed, s, pool);
        assert_memory_equal(back, plain, n * 4);
        mk_f32_unpack_add(back, packed, s, pool);
        for (size_t k = 0; k < n; k++) {
            assert_true(back[k] == 2 * plain[k]);
        }
        mk_pool_destroy(pool);
        mk_free(plain);
        mk_free(packed);
        mk_free(back);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast_is_general), cmocka_unit_test(test_words_and_halves),
        cmocka_unit_test(test_widen), cmocka_unit_test(test_f32_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
