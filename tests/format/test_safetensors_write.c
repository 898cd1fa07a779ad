// Writing safetensors: the bytes must be those the safetensors package writes
// (tests/golden/gen_formats.py), and nothing half-written may ever stand under the final name.
#include "format/golden.h"

#include <stdlib.h>
#include <unistd.h>

#include "format/safetensors.h"

#define DIR "tests/golden/format/"

typedef struct {
    char dir[32];
    char *path;
} place;

static place make_place(void) {
    place p = {.dir = "/tmp/mk_write_XXXXXX"};
    assert_non_null(mkdtemp(p.dir));
    p.path = mk_path_join(p.dir, "out.safetensors");
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

// --- the official bytes --------------------------------------------------------------------------

// A copy of a file, declared in another order; delivered in two pieces.
typedef struct {
    mk_safetensors *from;
    int64_t order[16], n;
} copy;

static mk_status fill_copy(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    const copy *c = arg;
    const mk_tensor_view *v = mk_safetensors_tensor(c->from, c->order[i]);
    size_t half = v->n_bytes / 2;
    MK_TRY(mk_writer_write(w, v->data, half, err));
    return mk_writer_write(w, v->data + half, v->n_bytes - half, err);
}

// Declares small elements first: the writer puts them last.  Tensors of one size stay in the order
// they are declared in.
static mk_st_out *declare(copy *c) {
    mk_st_out *o = mk_st_out_create();
    c->n = 0;
    for (int32_t bytes = 1; bytes <= 8; bytes *= 2) {
        for (int64_t i = 0; i < mk_safetensors_n_tensor(c->from); i++) {
            const mk_tensor_view *v = mk_safetensors_tensor(c->from, i);
            if (mk_dtype_get((int64_t)v->dtype)->block_bytes == bytes) {
                c->order[c->n++] = i;
                mk_st_out_tensor(o, v->name, v->dtype, v->n_dim, v->shape);
            }
        }
    }
    return o;
}

static void test_written_bytes(void **state) {
    (void)state;
    place p = make_place();
    mk_err err = {0};
    copy c = {0};
    assert_int_equal(mk_safetensors_open(DIR "written.safetensors", &c.from, &err), MK_OK);
    mk_st_out *o = declare(&c);
    assert_int_equal(c.n, 11);
    assert_int_equal(mk_st_out_data_bytes(o), 135);
    if (mk_st_out_write(o, p.path, fill_copy, &c, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    assert_same_file(p.path, DIR "written.safetensors");
    mk_st_out_destroy(o);
    mk_safetensors_close(c.from);
    drop_place(&p);
}

static mk_status fill_floats(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    (void)i;
    return mk_writer_write(w, arg, 2 * sizeof(float), err);
}

// Names and texts that JSON must escape come back as they were.
static void test_read_back(void **state) {
    (void)state;
    place p = make_place();
    mk_err err = {0};
    const float x[] = {1, -2.5f};
    const int64_t n = 2;
    const char *name = "a \"quoted\" \\ name\n\x01 Grüße";
    mk_st_out *o = mk_st_out_create();
    mk_st_out_meta(o, "made by", "a \"test\"");
    mk_st_out_tensor(o, name, MK_DTYPE_F32, 1, &n);
    mk_safetensors *from = NULL;
    mk_st_out *source = mk_st_out_create();  // an empty file is a file
    assert_int_equal(mk_st_out_write(source, p.path, fill_copy, NULL, &err), MK_OK);
    assert_int_equal(mk_safetensors_open(p.path, &from, &err), MK_OK);
    assert_int_equal(mk_safetensors_n_tensor(from), 0);
    mk_safetensors_close(from);
    mk_st_out_destroy(source);
    assert_int_equal(mk_st_out_write(o, p.path, fill_floats, (void *)(uintptr_t)x, &err), MK_OK);
    assert_int_equal(mk_safetensors_open(p.path, &from, &err), MK_OK);
    const mk_tensor_view *v = mk_safetensors_find(from, name);
    assert_non_null(v);
    assert_memory_equal(v->data, x, sizeof x);
    assert_int_equal((v->data - v->map->data) % 8, 0);
    mk_safetensors_close(from);
    mk_st_out_destroy(o);
    drop_place(&p);
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
        mk_st_out *o = mk_st_out_create();
        mk_st_out_tensor(o, "t", MK_DTYPE_F32, 1, &one);
        size_t n = wrong[i];
        assert_int_equal(mk_st_out_write(o, p.path, fill_short, &n, &err), MK_EIO);
        assert_non_null(strstr(err.msg, "'t'"));
        assert_non_null(strstr(err.msg, "expected 4"));
        mk_st_out_destroy(o);
        char *old = golden_read(p.path, &n);
        assert_string_equal(old, "old");
        mk_free(old);
        drop_place(&p);
    }
}

typedef void (*mistake)(mk_st_out *o);

static void tensor_twice(mk_st_out *o) {
    const int64_t n = 2;
    mk_st_out_tensor(o, "twin", MK_DTYPE_I8, 1, &n);
    mk_st_out_tensor(o, "twin", MK_DTYPE_F32, 1, &n);
}

static void metadata_name(mk_st_out *o) {
    const int64_t n = 1;
    mk_st_out_tensor(o, "__metadata__", MK_DTYPE_F32, 1, &n);
}

static void block_type(mk_st_out *o) {
    const int64_t n = 32;
    mk_st_out_tensor(o, "t", MK_DTYPE_Q8_0, 1, &n);
}

static void negative_dimension(mk_st_out *o) {
    const int64_t n = -1;
    mk_st_out_tensor(o, "t", MK_DTYPE_F32, 1, &n);
}

static void too_many_dimensions(mk_st_out *o) {
    const int64_t shape[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    mk_st_out_tensor(o, "t", MK_DTYPE_F32, 9, shape);
}

static void huge_shape(mk_st_out *o) {
    const int64_t shape[] = {INT64_C(1) << 31, INT64_C(1) << 31};
    mk_st_out_tensor(o, "t", MK_DTYPE_F32, 2, shape);
}

static void huge_sum(mk_st_out *o) {
    const int64_t n = INT64_C(1) << 62;
    mk_st_out_tensor(o, "s", MK_DTYPE_I8, 1, &n);
    mk_st_out_tensor(o, "t", MK_DTYPE_I8, 1, &n);
}

static void broken_name(mk_st_out *o) {
    const int64_t n = 1;
    mk_st_out_tensor(o, "t\xFF", MK_DTYPE_F32, 1, &n);
}

static void broken_text(mk_st_out *o) {
    mk_st_out_meta(o, "key", "\xC3");
}

static void test_mistakes(void **state) {
    (void)state;
    const struct {
        mistake make;
        mk_status want;
        const char *says;
    } rows[] = {{tensor_twice, MK_ECORRUPT, "'twin'"},
                {metadata_name, MK_ECORRUPT, "'__metadata__'"},
                {block_type, MK_EUNSUPPORTED, "Q8_0"},
                {negative_dimension, MK_EUNSUPPORTED, "'t'"},
                {too_many_dimensions, MK_EUNSUPPORTED, "9 dim"},
                {huge_shape, MK_EUNSUPPORTED, "'t'"},
                {huge_sum, MK_EUNSUPPORTED, "'t'"},
                {broken_name, MK_EUNSUPPORTED, "UTF-8"},
                {broken_text, MK_EUNSUPPORTED, "'key'"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        place p = make_place();
        mk_err err = {0};
        size_t n = 4;
        mk_st_out *o = mk_st_out_create();
        rows[i].make(o);
        assert_int_equal(mk_st_out_write(o, p.path, fill_short, &n, &err), rows[i].want);
        if (strstr(err.msg, rows[i].says) == NULL) {
            fail_msg("'%s' not in: %s", rows[i].says, err.msg);
        }
        assert_false(mk_path_is_file(p.path));
        mk_st_out_destroy(o);
        drop_place(&p);
    }
}

static void test_failing_memory(void **state) {
    (void)state;
    copy c = {0};
    assert_int_equal(mk_safetensors_open(DIR "written.safetensors", &c.from, NULL), MK_OK);
    int64_t live = mk_alloc_live();
    for (int64_t n = 1;; n++) {
        place p = make_place();
        mk_err err = {0};
        mk_alloc_fail_at(n);
        mk_st_out *o = declare(&c);
        mk_status st = mk_st_out_write(o, p.path, fill_copy, &c, &err);
        mk_alloc_fail_at(0);
        mk_st_out_destroy(o);
        bool there = mk_path_is_file(p.path);
        drop_place(&p);
        assert_true(mk_alloc_live() == live);
        assert_true(there == (st == MK_OK));
        if (st == MK_OK) {
            assert_true(n > 2);
            break;
        }
        assert_int_equal(st, MK_ENOMEM);
        assert_true(err.msg[0] != '\0' && n < 1000);
    }
    mk_safetensors_close(c.from);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_bytes),  cmocka_unit_test(test_read_back),
        cmocka_unit_test(test_wrong_delivery), cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_failing_memory),
    };
    return cmocka_run_group_tests_name("format/safetensors_write", tests, NULL, NULL);
}
