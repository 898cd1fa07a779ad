// Element types against the gguf package, numpy and torch (tests/golden/gen_dtypes.py): equal bits,
// with and without flushed denormals.
#include "format/golden.h"

#include <inttypes.h>
#include <math.h>

#include "base/mathx.h"
#include "format/dtype.h"
#include "format/dtype_int.h"

#define DIR "tests/golden/dtypes/"

// Runs a check in the normal floating-point mode and again with denormals flushed.
static void both_modes(void (*check)(void)) {
    check();
    uint64_t old = mk_fpu_enter();
    check();
    mk_fpu_leave(old);
}

static void assert_same_f32(const char *name, const float *got, const uint32_t *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (golden_bits(got[i]) != want[i]) {
            fail_msg("%s element %zu: got %08x, want %08x", name, i, golden_bits(got[i]), want[i]);
        }
    }
}

// One line of blocks.txt: output of the first blocks bit by bit, of all blocks by hash.
static void check_block_type(int id, const char *name, int64_t n_block, size_t n_full,
                             uint64_t hash) {
    char path[128];
    size_t n_in = 0, n_out = 0;
    const mk_dtype_info *info = mk_dtype_get(id);
    assert_non_null(info);
    assert_string_equal(info->name, name);
    (void)snprintf(path, sizeof path, DIR "%s.blocks", name);
    char *in = golden_read(path, &n_in);
    (void)snprintf(path, sizeof path, DIR "%s.f32", name);
    char *want = golden_read(path, &n_out);
    int64_t n = n_block * info->block;
    size_t bytes = 0;
    assert_true(mk_dtype_row_bytes((mk_dtype)id, n, &bytes));
    assert_int_equal(bytes, n_in);
    assert_int_equal(n_full * (size_t)info->block * 4, n_out);
    char *unaligned = mk_alloc(n_in + 1);
    memcpy(unaligned + 1, in, n_in);
    float *out = mk_alloc((size_t)n * sizeof *out);
    mk_dtype_to_f32((mk_dtype)id, unaligned + 1, n, out);
    assert_same_f32(name, out, (const uint32_t *)(const void *)want, n_out / 4);
    if (golden_hash_f32(out, (size_t)n) != hash) {
        fail_msg("%s: hash of all blocks differs", name);
    }
    mk_free(out);
    mk_free(unaligned);
    mk_free(in);
    mk_free(want);
}

static void check_blocks(void) {
    size_t n = 0;
    int n_types = 0, at = 0, id = 0, n_block = 0, n_full = 0, used = 0;
    uint64_t hash = 0;
    char name[32];
    char *list = golden_read(DIR "blocks.txt", &n);
    while (sscanf(list + at, "%d %31s %d %d %" SCNx64 "%n", &id, name, &n_block, &n_full, &hash,
                  &used) == 5) {
        check_block_type(id, name, n_block, (size_t)n_full, hash);
        at += used;
        n_types++;
    }
    assert_int_equal(n_types, 22);
    mk_free(list);
}

static void test_blocks(void **state) {
    (void)state;
    both_modes(check_blocks);
}

// The definition and the dequantisation say the same, and scale * q is exact.
static void check_ints_of(int id) {
    const mk_dtype_info *info = mk_dtype_get(id);
    uint8_t block[256];
    int8_t q[256];
    float scale[16], shift[16], out[256];
    for (uint64_t seed = 0; seed < 200; seed++) {
        for (int i = 0; i < info->block_bytes; i++) {
            block[i] = (uint8_t)mk_rng_u64(seed, (uint64_t)i);
        }
        block[0] = id == MK_DTYPE_MXFP4 ? (uint8_t)(2 + block[0] % 250) : block[0];
        mk_dtype_row_ints((mk_dtype)id, block, info->block, q, scale,
                          info->has_shift ? shift : NULL);
        mk_dtype_to_f32((mk_dtype)id, block, info->block, out);
        for (int i = 0; i < info->block; i++) {
            int g = i / info->group;
            float product = scale[g] * (float)q[i];
            float value = info->has_shift ? product + shift[g] : product;
            assert_int_equal(golden_bits(value), golden_bits(out[i]));
            assert_true(!isfinite(scale[g]) || (double)scale[g] * q[i] == (double)product);
        }
    }
}

static void test_ints(void **state) {
    (void)state;
    for (int id = 0; id < MK_DTYPE_N; id++) {
        const mk_dtype_info *info = mk_dtype_get(id);
        if (info != NULL && info->group != 0) {
            assert_true(info->block % info->group == 0 && (info->group == 16 || info->group == 32));
            check_ints_of(id);
        }
    }
}

static void test_mxfp4_nan(void **state) {
    (void)state;
    uint8_t block[17] = {255, 0x21};
    float out[32];
    mk_dtype_to_f32(MK_DTYPE_MXFP4, block, 32, out);
    for (int i = 0; i < 32; i++) {
        assert_true(isnan(out[i]));
    }
}

// Every entry of the grids: the package's tables have these hashes.
static void test_grids(void **state) {
    (void)state;
    static const struct {
        const char *name;
        const uint16_t *grid;
        size_t n;
    } rows[] = {{"iq2xxs", mk_grid_iq2xxs, 256}, {"iq2xs", mk_grid_iq2xs, 512},
                {"iq2s", mk_grid_iq2s, 1024},    {"iq3xxs", mk_grid_iq3xxs, 256},
                {"iq3s", mk_grid_iq3s, 512},     {"iq1s", mk_grid_iq1s, 2048}};
    size_t n = 0;
    int at = 0, used = 0;
    char name[32];
    uint64_t want = 0;
    char *list = golden_read(DIR "grids.txt", &n);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++, at += used) {
        assert_int_equal(sscanf(list + at, "%31s %" SCNx64 "%n", name, &want, &used), 2);
        assert_string_equal(name, rows[i].name);
        uint64_t got =
            golden_hash(GOLDEN_HASH_START, rows[i].grid, rows[i].n * sizeof rows[i].grid[0]);
        if (got != want) {
            fail_msg("grid %s: hash %016" PRIx64 ", want %016" PRIx64, name, got, want);
        }
    }
    mk_free(list);
}

// All bit patterns of the small plain types.
static void check_plain(void) {
    size_t n = 0;
    int n_types = 0, at = 0, used = 0, id = 0;
    char name[32];
    uint64_t want = 0;
    char *list = golden_read(DIR "plain.txt", &n);
    uint8_t *in = mk_alloc(2 * 65536);
    float *out = mk_alloc(65536 * sizeof *out);
    for (; sscanf(list + at, "%d %31s %" SCNx64 "%n", &id, name, &want, &used) == 3;
         at += used, n_types++) {
        const mk_dtype_info *info = mk_dtype_get(id);
        assert_string_equal(info->name, name);
        int count = info->block_bytes == 1 ? 256 : 65536;
        for (int i = 0; i < count; i++) {
            in[i * info->block_bytes] = (uint8_t)(i & 255);
            if (info->block_bytes == 2) {
                in[2 * i + 1] = (uint8_t)(i >> 8);
            }
        }
        mk_dtype_to_f32((mk_dtype)id, in, count, out);
        if (golden_hash_f32(out, (size_t)count) != want) {
            fail_msg("%s: hash differs", name);
        }
    }
    assert_int_equal(n_types, 5);
    mk_free(in);
    mk_free(out);
    mk_free(list);
}

static void test_plain(void **state) {
    (void)state;
    both_modes(check_plain);
}

static void check_f64(void) {
    size_t n = 0;
    char *in = golden_read(DIR "f64.bin", &n);
    assert_true(n > 500 * 12 && n % 12 == 0);
    for (size_t at = 0; at < n; at += 12) {
        float out;
        uint32_t want;
        mk_dtype_to_f32(MK_DTYPE_F64, in + at, 1, &out);
        memcpy(&want, in + at + 8, 4);
        assert_same_f32("F64", &out, &want, 1);
    }
    mk_free(in);
}

static void test_f64(void **state) {
    (void)state;
    both_modes(check_f64);
}

// Rows of one-byte types long enough for a table of values: the same as one at a time.
static void test_long_byte_rows(void **state) {
    (void)state;
    const mk_dtype types[] = {MK_DTYPE_F8_E4M3, MK_DTYPE_F8_E5M2, MK_DTYPE_F8_E8M0};
    uint8_t in[2000];
    float all[2000], one;
    for (size_t t = 0; t < 3; t++) {
        for (int i = 0; i < 2000; i++) {
            in[i] = (uint8_t)(i * 7);
        }
        mk_dtype_to_f32(types[t], in, 2000, all);
        for (int i = 0; i < 2000; i++) {
            mk_dtype_to_f32(types[t], in + i, 1, &one);
            assert_int_equal(golden_bits(all[i]), golden_bits(one));
        }
    }
}

static bool is_nan16(uint16_t h, uint16_t infinity) {
    return (h & 0x7FFF) > infinity;
}

static void check_from_f32(void) {
    size_t n = 0;
    char *in = golden_read(DIR "from_f32.bin", &n);
    assert_true(n > 900 * 8 && n % 8 == 0);
    for (size_t at = 0; at < n; at += 8) {
        float x;
        uint16_t want[2], got[2];
        memcpy(&x, in + at, 4);
        memcpy(want, in + at + 4, 4);
        assert_int_equal(mk_dtype_from_f32(MK_DTYPE_F16, &x, 1, &got[0], NULL), MK_OK);
        assert_int_equal(mk_dtype_from_f32(MK_DTYPE_BF16, &x, 1, &got[1], NULL), MK_OK);
        assert_true(is_nan16(got[0], 0x7C00) ? is_nan16(want[0], 0x7C00) : got[0] == want[0]);
        assert_true(is_nan16(got[1], 0x7F80) ? is_nan16(want[1], 0x7F80) : got[1] == want[1]);
    }
    mk_free(in);
}

static void test_from_f32(void **state) {
    (void)state;
    both_modes(check_from_f32);
}

static void check_q8_0(void) {
    enum { ROW = 32 * 4 + 34 };
    size_t n = 0;
    char *in = golden_read(DIR "q8_0.bin", &n);
    assert_true(n > 50 * ROW && n % ROW == 0);
    for (size_t at = 0; at < n; at += ROW) {
        float x[32];
        uint8_t got[34];
        memcpy(x, in + at, sizeof x);
        assert_int_equal(mk_dtype_from_f32(MK_DTYPE_Q8_0, x, 32, got, NULL), MK_OK);
        assert_memory_equal(got, in + at + sizeof x, sizeof got);
    }
    mk_free(in);
}

static void test_q8_0(void **state) {
    (void)state;
    both_modes(check_q8_0);
}

// What ggml leaves undefined: infinities and NaN spoil their block visibly, denormals become zero.
static void test_q8_0_odd_values(void **state) {
    (void)state;
    const float odd[] = {INFINITY, -INFINITY, NAN};
    for (size_t k = 0; k < 3; k++) {
        float x[32] = {1, 2, 3}, y[32];
        uint8_t block[34];
        x[7] = odd[k];
        assert_int_equal(mk_dtype_from_f32(MK_DTYPE_Q8_0, x, 32, block, NULL), MK_OK);
        mk_dtype_to_f32(MK_DTYPE_Q8_0, block, 32, y);
        assert_true(isnan(y[0]) && isnan(y[7]));
    }
    float tiny[32] = {1e-40f, -1e-38f}, y[32];
    uint8_t block[34];
    assert_int_equal(mk_dtype_from_f32(MK_DTYPE_Q8_0, tiny, 32, block, NULL), MK_OK);
    mk_dtype_to_f32(MK_DTYPE_Q8_0, block, 32, y);
    assert_true(y[0] == 0 && y[1] == 0);
}

static void test_from_f32_refuses(void **state) {
    (void)state;
    mk_err err = {0};
    float x[256] = {0};
    uint8_t out[256];
    assert_int_equal(mk_dtype_from_f32(MK_DTYPE_Q4_K, x, 256, out, &err), MK_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "Q4_K"));
    assert_int_equal(mk_dtype_from_f32((mk_dtype)4, x, 256, out, &err), MK_EUNSUPPORTED);
}

static void test_table(void **state) {
    (void)state;
    const int64_t missing[] = {-1, 4,  5,  9,          15,        31,       36,
                               38, 40, 63, MK_DTYPE_N, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        assert_null(mk_dtype_get(missing[i]));
    }
    size_t out = 77;
    assert_false(mk_dtype_row_bytes(MK_DTYPE_Q4_K, 255, &out));
    assert_false(mk_dtype_row_bytes(MK_DTYPE_Q4_K, -256, &out));
    assert_false(mk_dtype_row_bytes((mk_dtype)5, 256, &out));
    assert_false(mk_dtype_row_bytes(MK_DTYPE_F64, INT64_MAX, &out));
    assert_int_equal(out, 77);
    assert_true(mk_dtype_row_bytes(MK_DTYPE_Q4_K, 512, &out));
    assert_int_equal(out, 288);
    assert_true(mk_dtype_is_float(MK_DTYPE_F8_E8M0) && mk_dtype_is_float(MK_DTYPE_TQ1_0));
    assert_false(mk_dtype_is_float(MK_DTYPE_I8) || mk_dtype_is_float(MK_DTYPE_BOOL));
    assert_false(mk_dtype_is_float((mk_dtype)9));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_ints),
        cmocka_unit_test(test_mxfp4_nan),
        cmocka_unit_test(test_grids),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_f64),
        cmocka_unit_test(test_from_f32),
        cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_q8_0_odd_values),
        cmocka_unit_test(test_from_f32_refuses),
        cmocka_unit_test(test_long_byte_rows),
    };
    return cmocka_run_group_tests_name("format/dtype", tests, NULL, NULL);
}
