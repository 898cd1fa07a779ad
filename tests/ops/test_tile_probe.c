// The kernel of every type of weights alone, on every instruction set: it runs, on several threads,
// and takes back what it allocated.
#include "ops_util.h"

typedef struct {
    const mk_tile_probe *probe;
} work;

static void run_part(void *arg, int ith, int n_thread) {
    (void)n_thread;
    mk_tile_probe_run(((work *)arg)->probe, ith, 2);
}

static mk_arith arith_of(mk_dtype t) {
    return mk_dtype_get((int64_t)t)->group > 0 ? MK_ARITH_INT8
           : t == MK_DTYPE_BF16                ? MK_ARITH_BF16
                                               : MK_ARITH_F32;
}

// Those of which a linear layer can be.
static bool is_weight(mk_dtype t) {
    mk_weight w;
    mk_err err = {0};
    mk_weight_src src = {.dtype = t, .n_mat = 1, .n_out = 16, .n_in = 256};
    return mk_dtype_get((int64_t)t) != NULL && mk_dtype_is_float(t) &&
           mk_weight_layout(&src, &w, &err) == MK_OK;
}

static void test_every_type(void **state) {
    (void)state;
    int n = 0;
    mk_pool *pool = mk_pool_create(2);
    for (int i = 0; mk_kernels_at(i) != NULL; i++) {
        for (int t = 0; t < MK_DTYPE_N; t++) {
            mk_err err = {0};
            mk_tile_probe *p = NULL;
            int64_t live = mk_alloc_live();
            mk_status st = MK_EUNSUPPORTED;
            if (mk_dtype_get(t) != NULL) {
                st = mk_tile_probe_create(mk_kernels_at(i), (mk_dtype)t, pool, &p, &err);
            }
            assert_int_equal(st, is_weight((mk_dtype)t) ? MK_OK : MK_EUNSUPPORTED);
            if (st == MK_OK) {
                assert_int_equal(mk_tile_probe_arith(p), arith_of((mk_dtype)t));
                assert_true(mk_tile_probe_ops(p) > 0);
                mk_pool_run(pool, run_part, &(work){p});
                mk_tile_probe_destroy(p);
                n++;
            }
            assert_int_equal(mk_alloc_live(), live);
        }
    }
    mk_pool_destroy(pool);
    assert_true(n >= 26);  // F32, F16, BF16, F8_E4M3 and 22 quantised types
}

static void test_no_memory(void **state) {
    (void)state;
    mk_pool *pool = mk_pool_create(1);
    int64_t live = mk_alloc_live();
    for (int64_t at = 1;; at++) {
        mk_err err = {0};
        mk_tile_probe *p = NULL;
        mk_alloc_fail_at(at);
        mk_status st = mk_tile_probe_create(mk_kernels_at(0), MK_DTYPE_Q8_0, pool, &p, &err);
        bool failed = mk_alloc_fail_left() == 0;
        mk_alloc_fail_at(0);
        assert_int_equal(st, failed ? MK_ENOMEM : MK_OK);
        mk_tile_probe_destroy(p);
        assert_int_equal(mk_alloc_live(), live);
        if (!failed) {
            assert_true(at > 3);
            break;
        }
    }
    mk_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_type),
                                       cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
