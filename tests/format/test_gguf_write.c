// Writing GGUF: the bytes must be those the gguf package writes (tests/golden/gen_formats.py), and
// nothing half-written may ever stand under the final name.
#include "format/golden.h"

#include <stdlib.h>
#include <unistd.h>

#include "format/gguf.h"

#define DIR "tests/golden/format/"

typedef struct {
    char dir[32];
    char *path;
} place;

static place make_place(void) {
    place p = {.dir = "/tmp/mk_write_XXXXXX"};
    assert_non_null(mkdtemp(p.dir));
    p.path = mk_path_join(p.dir, "out.gguf");
    return p;
}

static void drop_place(place *p) {
    (void)unlink(p->path);
    mk_free(p->path);
    assert_int_equal(rmdir(p->dir), 0);  // fails if a temporary file is left
}

static void assert_same_file(const char *got_path, const char *want_path) {
    size_t n_got = 0, n_want = 0;
    char *got = golden_read(got_path, &n_got), *want = golden_read(want_path, &n_want);
    for (size_t i = 0; i < n_got && i < n_want; i++) {
        if (got[i] != want[i]) {
            fail_msg("byte %zu is %02x, want %02x", i, (unsigned char)got[i],
                     (unsigned char)want[i]);
        }
    }
    assert_int_equal(n_got, n_want);
    mk_free(got);
    mk_free(want);
}

// --- from values ---------------------------------------------------------------------------------

static const struct {
    const char *name;
    mk_dtype dtype;
    int n_dim;
    int64_t shape[3];
    int64_t n;
} declared[] = {{"f32", MK_DTYPE_F32, 2, {2, 3}, 6},
                {"f16", MK_DTYPE_F16, 3, {2, 2, 5}, 20},
                {"bf16", MK_DTYPE_BF16, 1, {8}, 8},
                {"q8_0", MK_DTYPE_Q8_0, 3, {1, 3, 64}, 192}};

// Element i is (i - 4) / 2; delivered in two pieces.
static mk_status fill_ramp(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    float x[256];
    uint8_t out[1024];
    size_t bytes = 0, half;
    (void)arg;
    for (int64_t k = 0; k < declared[i].n; k++) {
        x[k] = (float)(k - 4) / 2;
    }
    assert_true(mk_dtype_row_bytes(declared[i].dtype, declared[i].n, &bytes));
    MK_TRY(mk_dtype_from_f32(declared[i].dtype, x, declared[i].n, out, err));
    half = bytes / 2;
    MK_TRY(mk_writer_write(w, out, half, err));
    return mk_writer_write(w, out + half, bytes - half, err);
}

static mk_gguf_out *describe(void) {
    const mk_gguf_str strs[] = {{"", 0}, {"ab", 2}};
    const float f32s[] = {0.5f, 0.25f, 3.0f};
    const int32_t i32s[] = {1, -1};
    mk_gguf_out *o = mk_gguf_out_create();
    mk_gguf_out_str(o, "general.architecture", "test", 4);
    mk_gguf_out_u32(o, "k.u32", 7);
    mk_gguf_out_i64(o, "k.i16", MK_GGUF_I16, -7);
    mk_gguf_out_i64(o, "k.bool", MK_GGUF_BOOL, 1);
    mk_gguf_out_f32(o, "k.f32", 0.1f);
    mk_gguf_out_str(o, "k.str", "text", 4);
    mk_gguf_out_arr_str(o, "k.strs", strs, 2);
    mk_gguf_out_arr_f32(o, "k.f32s", f32s, 3);
    mk_gguf_out_arr_i32(o, "k.i32s", i32s, 2);
    for (size_t i = 0; i < sizeof declared / sizeof declared[0]; i++) {
        mk_gguf_out_tensor(o, declared[i].name, declared[i].dtype, declared[i].n_dim,
                           declared[i].shape);
    }
    return o;
}

static void test_written_bytes(void **state) {
    (void)state;
    place p = make_place();
    mk_err err = {0};
    mk_gguf_out *o = describe();
    if (mk_gguf_out_write(o, p.path, fill_ramp, NULL, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    mk_gguf_out_destroy(o);
    assert_same_file(p.path, DIR "written.gguf");
    drop_place(&p);
}

// --- from a file ---------------------------------------------------------------------------------

static mk_status fill_copy(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    const mk_tensor_view *v = mk_gguf_tensor(arg, i);
    return mk_writer_write(w, v->data, v->n_bytes, err);
}

static mk_status copy_file(const char *from, const char *to, mk_err *err) {
    mk_gguf *g = NULL;
    MK_TRY(mk_gguf_open(from, &g, err));
    mk_gguf_out *o = mk_gguf_out_create();
    for (int64_t i = 0; i < mk_gguf_n_kv(g); i++) {
        mk_gguf_out_copy_kv(o, g, i);
    }
    for (int64_t i = 0; i < mk_gguf_n_tensor(g); i++) {
        const mk_tensor_view *v = mk_gguf_tensor(g, i);
        mk_gguf_out_tensor(o, v->name, v->dtype, v->n_dim, v->shape);
    }
    mk_status st = mk_gguf_out_write(o, to, fill_copy, g, err);
    mk_gguf_out_destroy(o);
    mk_gguf_close(g);
    return st;
}

static void test_copied_bytes(void **state) {
    (void)state;
    place p = make_place();
    assert_int_equal(copy_file(DIR "all.gguf", p.path, NULL), MK_OK);
    assert_same_file(p.path, DIR "all.gguf");
    drop_place(&p);
}

// The layout of the old file stays behind: a split model becomes one file, alignment 64 becomes 32.
static void test_copied_layout(void **state) {
    (void)state;
    const char *const from[] = {DIR "split-00001-of-00003.gguf", DIR "aligned64.gguf"};
    const int64_t n_tensor[] = {5, 2};
    for (int k = 0; k < 2; k++) {
        place p = make_place();
        mk_gguf *a = NULL, *b = NULL;
        assert_int_equal(copy_file(from[k], p.path, NULL), MK_OK);
        assert_int_equal(mk_gguf_open(from[k], &a, NULL), MK_OK);
        assert_int_equal(mk_gguf_open(p.path, &b, NULL), MK_OK);
        assert_int_equal(mk_gguf_find(b, "split.count"), -1);
        assert_int_equal(mk_gguf_find(b, "general.alignment"), -1);
        assert_int_equal(mk_gguf_n_tensor(b), n_tensor[k]);
        for (int64_t i = 0; i < n_tensor[k]; i++) {
            const mk_tensor_view *v = mk_gguf_tensor(a, i), *w = mk_gguf_find_tensor(b, v->name);
            assert_non_null(w);
            assert_int_equal(w->n_bytes, v->n_bytes);
            assert_memory_equal(w->data, v->data, v->n_bytes);
        }
        mk_gguf_close(a);
        mk_gguf_close(b);
        drop_place(&p);
    }
}

// --- mistakes ------------------------------------------------------------------------------------

static mk_status fill_short(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    (void)i;
    return mk_writer_write(w, "12345678", *(size_t *)arg, err);
}

static void test_wrong_delivery(void **state) {
    (void)state;
    const size_t wrong[] = {0, 3, 5};
    const int64_t one = 1;
    for (size_t i = 0; i < 3; i++) {
        place p = make_place();
        mk_err err = {0};
        FILE *f = fopen(p.path, "wb");
        assert_non_null(f);
        assert_true(fputs("old", f) >= 0 && fclose(f) == 0);
        mk_gguf_out *o = mk_gguf_out_create();
        mk_gguf_out_tensor(o, "t", MK_DTYPE_F32, 1, &one);
        size_t n = wrong[i];
        assert_int_equal(mk_gguf_out_write(o, p.path, fill_short, &n, &err), MK_EIO);
        assert_non_null(strstr(err.msg, "'t'"));
        assert_non_null(strstr(err.msg, "expected 4"));
        mk_gguf_out_destroy(o);
        char *old = golden_read(p.path, &n);
        assert_string_equal(old, "old");
        mk_free(old);
        drop_place(&p);
    }
}

typedef void (*mistake)(mk_gguf_out *o);

static void key_twice(mk_gguf_out *o) {
    mk_gguf_out_u32(o, "twice", 1);
    mk_gguf_out_str(o, "twice", "x", 1);
}

static void tensor_twice(mk_gguf_out *o) {
    const int64_t n = 32;
    mk_gguf_out_tensor(o, "twin", MK_DTYPE_Q8_0, 1, &n);
    mk_gguf_out_tensor(o, "twin", MK_DTYPE_F32, 1, &n);
}

static void too_large_value(mk_gguf_out *o) {
    mk_gguf_out_i64(o, "k", MK_GGUF_U8, 256);
}

static void broken_row(mk_gguf_out *o) {
    const int64_t shape[] = {32, 31};
    mk_gguf_out_tensor(o, "t", MK_DTYPE_Q8_0, 2, shape);
}

static void empty_dimension(mk_gguf_out *o) {
    const int64_t shape[] = {0, 32};
    mk_gguf_out_tensor(o, "t", MK_DTYPE_F32, 2, shape);
}

static void too_many_dimensions(mk_gguf_out *o) {
    const int64_t shape[] = {1, 1, 1, 1, 1};
    mk_gguf_out_tensor(o, "t", MK_DTYPE_F32, 5, shape);
}

static void huge_shape(mk_gguf_out *o) {
    const int64_t shape[] = {INT64_C(1) << 32, INT64_C(1) << 32};
    mk_gguf_out_tensor(o, "t", MK_DTYPE_F32, 2, shape);
}

static void huge_sum(mk_gguf_out *o) {
    const int64_t n = INT64_C(1) << 61;
    mk_gguf_out_tensor(o, "s", MK_DTYPE_I8, 1, &n);
    for (int i = 0; i < 4; i++) {
        mk_gguf_out_tensor(o, "t", MK_DTYPE_I8, 1, &n);
    }
}

static void foreign_type(mk_gguf_out *o) {
    const int64_t n = 1;
    mk_gguf_out_tensor(o, "t", MK_DTYPE_F8_E4M3, 1, &n);
}

static void long_name(mk_gguf_out *o) {
    const int64_t n = 1;
    mk_gguf_out_tensor(o, "t23456789012345678901234567890123456789012345678901234567890123x",
                       MK_DTYPE_F32, 1, &n);
}

static void test_mistakes(void **state) {
    (void)state;
    const struct {
        mistake make;
        mk_status want;
        const char *says;
    } rows[] = {{key_twice, MK_ECORRUPT, "'twice'"},
                {tensor_twice, MK_ECORRUPT, "'twin'"},
                {too_large_value, MK_EUSAGE, "256"},
                {broken_row, MK_EUNSUPPORTED, "31"},
                {empty_dimension, MK_EUNSUPPORTED, "'t'"},
                {too_many_dimensions, MK_EUNSUPPORTED, "5 dim"},
                {huge_shape, MK_EUNSUPPORTED, "4294967296"},
                {huge_sum, MK_EUNSUPPORTED, "'t'"},
                {foreign_type, MK_EUNSUPPORTED, "F8_E4M3"},
                {long_name, MK_EUNSUPPORTED, "63"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        place p = make_place();
        mk_err err = {0};
        size_t n = 4;
        mk_gguf_out *o = mk_gguf_out_create();
        rows[i].make(o);
        assert_int_equal(mk_gguf_out_write(o, p.path, fill_short, &n, &err), rows[i].want);
        if (strstr(err.msg, rows[i].says) == NULL) {
            fail_msg("'%s' not in: %s", rows[i].says, err.msg);
        }
        assert_false(mk_path_is_file(p.path));
        mk_gguf_out_destroy(o);
        drop_place(&p);
    }
}

static void test_failing_memory(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    for (int64_t n = 1;; n++) {
        place p = make_place();
        mk_err err = {0};
        mk_alloc_fail_at(n);
        mk_gguf_out *o = describe();
        mk_status st = mk_gguf_out_write(o, p.path, fill_ramp, NULL, &err);
        mk_alloc_fail_at(0);
        mk_gguf_out_destroy(o);
        bool there = mk_path_is_file(p.path);
        drop_place(&p);
        assert_true(mk_alloc_live() == live);
        assert_true(there == (st == MK_OK));
        if (st == MK_OK) {
            assert_true(n > 3);
            return;
        }
        assert_int_equal(st, MK_ENOMEM);
        assert_true(err.msg[0] != '\0' && n < 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_bytes), cmocka_unit_test(test_copied_bytes),
        cmocka_unit_test(test_copied_layout), cmocka_unit_test(test_wrong_delivery),
        cmocka_unit_test(test_mistakes),      cmocka_unit_test(test_failing_memory),
    };
    return cmocka_run_group_tests_name("format/gguf_write", tests, NULL, NULL);
}
