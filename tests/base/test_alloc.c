#include "cmocka_all.h"

#include "base/alloc.h"

static void test_overflow(void **state) {
    (void)state;
    size_t out = 7;
    assert_true(mk_mul_size(3, 5, &out));
    assert_int_equal(out, 15);
    assert_false(mk_mul_size(SIZE_MAX, 2, &out));
    assert_false(mk_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 15);
    assert_true(mk_add_size(SIZE_MAX - 1, 1, &out));
    assert_true(out == SIZE_MAX);
    int64_t i = 9;
    assert_false(mk_mul_i64(INT64_MAX, 2, &i));
    assert_false(mk_mul_i64(INT64_MIN, -1, &i));
    assert_int_equal(i, 9);
    assert_true(mk_mul_i64(-4, 5, &i));
    assert_int_equal(i, -20);
}

static void test_try(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    assert_null(mk_try_alloc(SIZE_MAX, 2));
    assert_null(mk_try_alloc(SIZE_MAX / 2 + 2, 1));
    unsigned char *p = mk_try_alloc(10, 10);
    assert_non_null(p);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(p[i], 0);
    }
    memset(p, 0x5A, 100);
    assert_null(mk_try_realloc(p, SIZE_MAX, 3));
    assert_int_equal(p[99], 0x5A);  // a refused growth leaves the block as it was
    p = mk_try_realloc(p, 1000, 1);
    assert_int_equal(p[99], 0x5A);
    void *empty = mk_try_alloc(0, 8);
    assert_non_null(empty);
    void *grown = mk_try_realloc(NULL, 4, 4);
    assert_int_equal(mk_alloc_live(), live + 3);
    mk_free(p);
    mk_free(empty);
    mk_free(grown);
    mk_free(NULL);
    assert_int_equal(mk_alloc_live(), live);
}

static void test_faults(void **state) {
    (void)state;
    mk_alloc_fail_at(3);
    void *a = mk_try_alloc(1, 1), *b = mk_try_realloc(NULL, 1, 1);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(mk_alloc_fail_left(), 1);
    assert_null(mk_try_alloc(1, 1));
    assert_int_equal(mk_alloc_fail_left(), 0);
    void *c = mk_try_alloc(1, 1);
    assert_non_null(c);  // once only
    mk_alloc_fail_at(1);
    void *d = mk_alloc(1);  // the aborting allocators are not part of it
    assert_non_null(d);
    assert_null(mk_big_alloc(1));
    mk_alloc_fail_at(1);
    mk_alloc_fail_at(0);
    void *e = mk_try_alloc(1, 1);
    assert_non_null(e);
    void *all[] = {a, b, c, d, e};
    for (int i = 0; i < 5; i++) {
        mk_free(all[i]);
    }
}

static void test_counts(void **state) {
    (void)state;
    uint64_t n = mk_alloc_count_thread();
    char *s = mk_strdup("abc"), *t = mk_strndup("abcdef", 2);
    assert_string_equal(s, "abc");
    assert_string_equal(t, "ab");
    s = mk_try_realloc(s, 100, 1);
    assert_int_equal(mk_alloc_count_thread() - n, 3);
    mk_free(s);
    mk_free(t);
}

static void test_big(void **state) {
    (void)state;
    size_t n = (5u << 20) + 3;
    unsigned char *p = mk_big_alloc(n);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 4096, 0);
    assert_int_equal(p[0] | p[n - 1], 0);
    p[n - 1] = 1;
    mk_big_free(p, n);
    mk_big_free(NULL, 1);
    assert_null(mk_big_alloc(SIZE_MAX));
    assert_null(mk_big_alloc((size_t)1 << 60));
}

static void test_arena(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    mk_arena *a = mk_arena_create(1000, 0);
    for (size_t i = 1; i < 300; i++) {
        unsigned char *p = mk_arena_try(a, i, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (i >= 64 ? 64 : 16), 0);
        for (size_t j = 0; j < i; j++) {
            assert_int_equal(p[j], 0);
        }
        memset(p, (int)i, i);  // overlap with a later block would show there
    }
    unsigned char *large = mk_arena_try(a, 1, 100000);
    assert_non_null(large);
    large[99999] = 1;
    assert_string_equal(mk_arena_strndup(a, "hello", 4), "hell");
    assert_true(mk_arena_used(a) > 140000);
    mk_arena_reset(a);
    assert_int_equal(mk_arena_used(a), 0);
    assert_int_equal(mk_alloc_live(), live + 2);  // the arena and its largest chunk
    unsigned char *again = mk_arena_try(a, 90000, 1);
    assert_int_equal(again[89999] | again[0], 0);
    assert_int_equal(mk_alloc_live(), live + 2);
    mk_arena_destroy(a);
    mk_arena_destroy(NULL);
    assert_int_equal(mk_alloc_live(), live);
}

static void test_arena_cap(void **state) {
    (void)state;
    mk_arena *a = mk_arena_create(64, 256);
    assert_non_null(mk_arena_try(a, 1, 200));
    assert_null(mk_arena_try(a, 1, 100));
    assert_null(mk_arena_try(a, SIZE_MAX, SIZE_MAX));
    assert_null(mk_arena_try(a, SIZE_MAX, 1));
    assert_null(mk_arena_strndup(a, "", SIZE_MAX));
    assert_non_null(mk_arena_try(a, 1, 8));
    assert_true(mk_arena_used(a) <= 256);
    mk_arena_reset(a);
    assert_non_null(mk_arena_try(a, 1, 256));
    assert_null(mk_arena_try(a, 1, 1));
    mk_arena_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overflow),  cmocka_unit_test(test_try), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_counts),    cmocka_unit_test(test_big), cmocka_unit_test(test_arena),
        cmocka_unit_test(test_arena_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
