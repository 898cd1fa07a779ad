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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fast_is_general),
                                       cmocka_unit_test(test_words_and_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
