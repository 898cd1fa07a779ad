// Reading GGUF: files of the gguf package (tests/golden/gen_formats.py), broken files, split files,
// failing memory.
#include "format/golden.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mathx.h"
#include "format/gguf.h"
#include "format/names.h"

#include "fuzz/fuzz_gguf.c"  // LLVMFuzzerTestOneInput: opens bytes and reads everything in them

#define DIR "tests/golden/format/"

static mk_gguf *open_good(const char *path) {
    mk_gguf *g = NULL;
    mk_err err = {0};
    if (mk_gguf_open(path, &g, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return g;
}

// --- good files ----------------------------------------------------------------------------------

static void check_i64(const mk_gguf *g, const char *key, int64_t want) {
    int64_t v = 0;
    assert_int_equal(mk_gguf_get_i64(g, key, INT64_MIN, INT64_MAX, &v, NULL), MK_OK);
    assert_true(v == want);
}

static void check_str(const mk_gguf *g, const char *key, const char *want) {
    mk_gguf_str s = {0};
    assert_int_equal(mk_gguf_get_str(g, key, &s, NULL), MK_OK);
    assert_int_equal(s.n, strlen(want));
    assert_memory_equal(s.p, want, s.n);
}

static void check_scalars(const mk_gguf *g) {
    double d = 0;
    bool b = false;
    check_i64(g, "t.u8", 200);
    check_i64(g, "t.i8", -100);
    check_i64(g, "t.u16", 60000);
    check_i64(g, "t.i16", -30000);
    check_i64(g, "t.u32", INT64_C(4000000000));
    check_i64(g, "t.i32", -2000000000);
    check_i64(g, "t.i64", -(INT64_C(1) << 62));
    assert_int_equal(mk_gguf_get_f64(g, "t.f32", &d, NULL), MK_OK);
    assert_true(d == (double)0.1f);
    assert_int_equal(mk_gguf_get_f64(g, "t.f64", &d, NULL), MK_OK);
    assert_true(d == 1e-300);
    assert_int_equal(mk_gguf_get_f64(g, "t.i8", &d, NULL), MK_OK);
    assert_true(d == -100);
    assert_int_equal(mk_gguf_get_f64(g, "t.u64", &d, NULL), MK_OK);
    assert_true(d == 0x1p63);
    assert_int_equal(mk_gguf_get_bool(g, "t.bool", &b, NULL), MK_OK);
    assert_true(b);
    check_str(g, "t.str",
              "Gr\xC3\xBC\xC3\x9F"
              "e\n");
    check_str(g, "t.empty", "");
    check_str(g, "general.architecture", "test");
}

static void check_arrays(const mk_gguf *g) {
    int64_t v = 0, n = 0;
    double d = 0;
    mk_gguf_str *s = NULL;
    assert_int_equal(mk_gguf_arr_len(g, "a.i32"), 3);
    assert_int_equal(mk_gguf_arr_type(g, "a.i32"), MK_GGUF_I32);
    assert_int_equal(mk_gguf_arr_i64(g, "a.i32", 1, &v, NULL), MK_OK);
    assert_int_equal(v, -2);
    assert_int_equal(mk_gguf_arr_i64(g, "a.u8", 1, &v, NULL), MK_OK);
    assert_int_equal(v, 255);
    assert_int_equal(mk_gguf_arr_i64(g, "a.bool", 2, &v, NULL), MK_OK);
    assert_int_equal(v, 1);
    assert_int_equal(mk_gguf_arr_f64(g, "a.f32", 1, &d, NULL), MK_OK);
    assert_true(d == -1.5);
    assert_int_equal(mk_gguf_arr_strs(g, "a.str", &s, &n, NULL), MK_OK);
    assert_int_equal(n, 3);
    assert_int_equal(s[0].n, 0);
    assert_true(s[2].n == 3 && memcmp(s[2].p, "bcd", 3) == 0);
    mk_free(s);
}

// Element i is (i - 4) / 2 in all of them; exact in every type but Q8_0.
static void check_tensor(const mk_gguf *g, const char *name, mk_dtype t, int n_dim, int64_t rows,
                         int64_t cols, double tol) {
    float out[256];
    const mk_tensor_view *v = mk_gguf_find_tensor(g, name);
    assert_non_null(v);
    assert_string_equal(v->name, name);
    assert_int_equal(v->dtype, t);
    assert_int_equal(v->n_dim, n_dim);
    assert_int_equal(n_dim == 1 ? 1 : v->shape[0], rows);
    assert_int_equal(v->shape[n_dim - 1], cols);
    assert_int_equal(v->shape[n_dim], 1);
    size_t bytes = 0;
    assert_true(mk_dtype_row_bytes(t, rows * cols, &bytes) && bytes == v->n_bytes);
    assert_true(v->data >= v->map->data && v->data + v->n_bytes <= v->map->data + v->map->n_bytes);
    mk_dtype_to_f32(t, v->data, rows * cols, out);
    for (int64_t i = 0; i < rows * cols; i++) {
        double d = (double)out[i] - (double)(i - 4) / 2;
        assert_true(d <= tol && d >= -tol);
    }
}

static void check_all_file(const char *path) {
    mk_gguf *g = open_good(path);
    assert_int_equal(mk_gguf_n_kv(g), 20);
    check_scalars(g);
    check_arrays(g);
    assert_int_equal(mk_gguf_n_tensor(g), 6);
    check_tensor(g, "f32", MK_DTYPE_F32, 2, 2, 3, 0);
    check_tensor(g, "f16", MK_DTYPE_F16, 1, 1, 4, 0);
    check_tensor(g, "bf16", MK_DTYPE_BF16, 2, 2, 8, 0);
    check_tensor(g, "q8_0", MK_DTYPE_Q8_0, 2, 2, 64,
                 63.0 / 254 + 0.05);  // half a step of the largest block
    const mk_tensor_view *v = mk_gguf_find_tensor(g, "i32.4d");
    assert_non_null(v);
    const int64_t shape[] = {2, 3, 2, 2, 1};
    assert_memory_equal(v->shape, shape, sizeof shape);
    int32_t last;
    memcpy(&last, v->data + 23 * 4, 4);
    assert_int_equal(last, 23);
    assert_null(mk_gguf_find_tensor(g, "nothing"));
    assert_int_equal(mk_gguf_find(g, "nothing"), -1);
    mk_gguf_close(g);
}

static void test_good_files(void **state) {
    (void)state;
    check_all_file(DIR "all.gguf");
    check_all_file(DIR "v2.gguf");
    mk_gguf *g = open_good(DIR "aligned64.gguf");
    check_tensor(g, "a", MK_DTYPE_F32, 1, 1, 3, 0);
    check_tensor(g, "b", MK_DTYPE_F32, 1, 1, 5, 0);
    mk_gguf_close(g);
    g = open_good(DIR "vocab.gguf");
    assert_int_equal(mk_gguf_n_tensor(g), 0);
    assert_int_equal(mk_gguf_arr_len(g, "tokenizer.ggml.tokens"), 3);
    mk_gguf_close(g);
}

// --- wrong questions -----------------------------------------------------------------------------

static void test_getters_refuse(void **state) {
    (void)state;
    mk_gguf *g = open_good(DIR "all.gguf");
    mk_err err = {0};
    int64_t v = 77, n = 0;
    double d = 77;
    bool b = true;
    mk_gguf_str s = {0}, *strs = NULL;
    assert_int_equal(mk_gguf_get_i64(g, "none", 0, 1, &v, &err), MK_OK);
    assert_int_equal(mk_gguf_get_f64(g, "none", &d, &err), MK_OK);
    assert_int_equal(mk_gguf_get_bool(g, "none", &b, &err), MK_OK);
    assert_int_equal(mk_gguf_get_str(g, "none", &s, &err), MK_OK);
    assert_true(v == 77 && d == 77 && b && s.p == NULL);
    assert_int_equal(mk_gguf_kv_type(g, mk_gguf_find(g, "t.i16")), MK_GGUF_I16);
    assert_int_equal(mk_gguf_kv_type(g, mk_gguf_find(g, "a.str")), MK_GGUF_ARRAY);
    assert_int_equal(mk_gguf_get_i64(g, "t.u8", 0, 199, &v, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "t.u8"));
    assert_non_null(strstr(err.msg, "199"));
    assert_non_null(strstr(err.msg, "200"));
    assert_int_equal(mk_gguf_get_i64(g, "t.u64", INT64_MIN, INT64_MAX, &v, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "9223372036854775813"));
    assert_int_equal(mk_gguf_get_i64(g, "t.f32", 0, 9, &v, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "f32"));
    assert_int_equal(mk_gguf_get_i64(g, "a.i32", 0, 9, &v, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "array of i32"));
    assert_int_equal(mk_gguf_get_f64(g, "t.str", &d, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_get_bool(g, "t.u8", &b, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_get_str(g, "a.str", &s, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_strs(g, "a.i32", &strs, &n, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_strs(g, "none", &strs, &n, &err), MK_OK);
    assert_true(strs == NULL && n == 0);
    assert_int_equal(mk_gguf_arr_i64(g, "a.i32", 3, &v, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_i64(g, "a.i32", -1, &v, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_i64(g, "a.str", 0, &v, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_i64(g, "a.f32", 0, &v, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_i64(g, "a.u64", 0, &v, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_f64(g, "a.bool", 0, &d, &err), MK_ECORRUPT);
    assert_int_equal(mk_gguf_arr_len(g, "t.u8"), 0);
    assert_int_equal(mk_gguf_arr_type(g, "t.u8"), MK_GGUF_N_TYPE);
    assert_true(v == 77 && d == 77 && b);
    mk_gguf_close(g);
}

// --- broken files, field by field ----------------------------------------------------------------

// A small file, every number of it a field.
typedef struct {
    uint32_t magic, version;
    uint64_t n_tensor, n_kv;
    uint64_t align_type, align;
    uint64_t key_len;
    uint32_t type, elem;
    uint64_t count;
    uint32_t flag;
    uint64_t name_len;
    uint32_t n_dim;
    uint64_t ne[2];
    uint32_t dtype;
    uint64_t offset, offset_one;
    const char *key, *name;
} spec;

static const spec sound = {.magic = 0x46554747,
                           .version = 3,
                           .n_tensor = 2,
                           .n_kv = 3,
                           .align_type = MK_GGUF_U32,
                           .align = 32,
                           .key_len = 4,
                           .type = MK_GGUF_ARRAY,
                           .elem = MK_GGUF_I32,
                           .count = 2,
                           .flag = 1,
                           .name_len = 3,
                           .n_dim = 2,
                           .ne = {4, 4},
                           .dtype = MK_DTYPE_F32,
                           .offset = 32,
                           .key = "list",
                           .name = "two"};

static void u32(mk_buf *b, uint32_t v) {
    mk_buf_add(b, &v, sizeof v);
}

static void u64(mk_buf *b, uint64_t v) {
    mk_buf_add(b, &v, sizeof v);
}

static void text(mk_buf *b, uint64_t n, const char *s) {
    u64(b, n);
    mk_buf_add(b, s, n < 64 ? n : strlen(s));
}

static void build(const spec *s, mk_buf *b) {
    mk_buf_init(b, 1 << 16);
    u32(b, s->magic);
    u32(b, s->version);
    u64(b, s->n_tensor);
    u64(b, s->n_kv);
    text(b, 17, "general.alignment");
    u32(b, (uint32_t)s->align_type);
    mk_buf_add(b, &s->align, s->align_type == MK_GGUF_U64 ? 8 : 4);
    text(b, s->key_len, s->key);
    u32(b, s->type);
    u32(b, s->elem);
    u64(b, s->count);
    u64(b, 5);
    text(b, 4, "flag");
    u32(b, MK_GGUF_BOOL);
    mk_buf_putc(b, (char)s->flag);
    text(b, 3, "one");
    u32(b, 1);
    u64(b, 8);
    u32(b, MK_DTYPE_F32);
    u64(b, s->offset_one);
    text(b, s->name_len, s->name);
    u32(b, s->n_dim);
    u64(b, s->ne[0]);
    u64(b, s->ne[1]);
    u32(b, s->dtype);
    u64(b, s->offset);
    while (b->len % 32 != 0) {
        mk_buf_putc(b, 0);
    }
    for (int i = 0; i < 96; i++) {
        mk_buf_putc(b, (char)i);
    }
}

// Opens the file; on success everything in it is read.
static mk_status try_open(const void *data, size_t n, mk_err *err) {
    mk_gguf *g = NULL;
    *err = (mk_err){0};
    mk_status st = mk_gguf_open_memory(data, n, "broken.gguf", &g, err);
    assert_true((st == MK_OK) == (g != NULL));
    mk_gguf_close(g);
    return st;
}

typedef struct {
    size_t field, size;
    uint64_t value;
    mk_status want;
    const char *says[3];
} field_case;

#define F(f) offsetof(spec, f), sizeof((spec *)0)->f
#define N1   UINT64_MAX
#define P63  (UINT64_C(1) << 63)
#define P31  (UINT64_C(1) << 31)

static const field_case field_cases[] = {
    {F(magic), 0x46554746, MK_ECORRUPT, {"'GGUF'", "46 47 55 46"}},
    {F(version), 1, MK_EUNSUPPORTED, {"version 1", "2 or 3"}},
    {F(version), 0x03000000, MK_EUNSUPPORTED, {"big-endian"}},
    {F(version), 4, MK_EUNSUPPORTED, {"version 4", "2 or 3"}},
    {F(version), 0, MK_EUNSUPPORTED, {"version 0"}},
    {F(n_tensor), N1, MK_ECORRUPT, {"18446744073709551615 tensors"}},
    {F(n_tensor), P63, MK_ECORRUPT, {"9223372036854775808 tensors"}},
    {F(n_tensor), P31 - 1, MK_ECORRUPT, {"2147483647 tensors"}},
    {F(n_tensor), 3, MK_ECORRUPT, {"tensor"}},
    {F(n_kv), N1, MK_ECORRUPT, {"18446744073709551615 keys"}},
    {F(n_kv), P31 + 1, MK_ECORRUPT, {"2147483649 keys"}},
    {F(n_kv), 4, MK_ECORRUPT, {"tensor name", "0 bytes"}},
    {F(align), 0, MK_ECORRUPT, {"general.alignment", "found 0"}},
    {F(align), 48, MK_ECORRUPT, {"general.alignment", "power of two", "48"}},
    {F(align), P31, MK_ECORRUPT, {"2147483"}},
    {F(align_type), MK_GGUF_F32, MK_ECORRUPT, {"general.alignment", "integer", "f32"}},
    {F(key_len), 0, MK_ECORRUPT, {"key", "0 bytes", "1 to 65535"}},
    {F(key_len), N1, MK_ECORRUPT, {"key", "18446744073709551615", "truncated"}},
    {F(key_len), P63, MK_ECORRUPT, {"9223372036854775808"}},
    {F(key_len), P31 - 1, MK_ECORRUPT, {"2147483647"}},
    {F(type), 13, MK_ECORRUPT, {"'list'", "is 13", "0 to 12"}},
    {F(type), UINT32_MAX, MK_ECORRUPT, {"'list'", "4294967295"}},
    {F(elem), MK_GGUF_ARRAY, MK_EUNSUPPORTED, {"'list'", "array of arrays"}},
    {F(elem), 13, MK_ECORRUPT, {"'list'", "element type"}},
    {F(elem), MK_GGUF_STRING, MK_ECORRUPT, {"string", "truncated"}},
    {F(count), N1, MK_ECORRUPT, {"'list'", "18446744073709551615"}},
    {F(count), P63, MK_ECORRUPT, {"'list'", "9223372036854775808"}},
    {F(count), (UINT64_C(1) << 62), MK_ECORRUPT, {"'list'", "4611686018427387904"}},
    {F(count), P31, MK_ECORRUPT, {"'list'", "2147483648"}},
    {F(flag), 2, MK_ECORRUPT, {"'flag'", "is 2", "0 or 1"}},
    {F(name_len), 0, MK_ECORRUPT, {"tensor name", "0 bytes"}},
    {F(name_len), N1, MK_ECORRUPT, {"tensor name", "18446744073709551615"}},
    {F(n_dim), 0, MK_ECORRUPT, {"'two'", "0 dimensions", "1 to 4"}},
    {F(n_dim), 5, MK_ECORRUPT, {"'two'", "5 dimensions"}},
    {F(n_dim), UINT32_MAX, MK_ECORRUPT, {"'two'", "4294967295"}},
    {F(ne[0]), 0, MK_ECORRUPT, {"'two'", "is 0", "at least 1"}},
    {F(ne[1]), 0, MK_ECORRUPT, {"'two'", "is 0"}},
    {F(ne[0]), N1, MK_ECORRUPT, {"'two'", "18446744073709551615"}},
    {F(ne[1]), P63, MK_ECORRUPT, {"'two'", "9223372036854775808"}},
    {F(ne[0]), P63 - 1, MK_ECORRUPT, {"'two'", "2^63"}},
    {F(ne[0]), (UINT64_C(1) << 60), MK_ECORRUPT, {"'two'", "a size that fits"}},
    {F(ne[1]), P31 + 1, MK_ECORRUPT, {"'two'", "34359738384 bytes", "96"}},
    {F(dtype), 36, MK_EUNSUPPORTED, {"'two'", "id 36"}},
    {F(dtype), 97, MK_EUNSUPPORTED, {"'two'", "id 97"}},
    {F(dtype), MK_DTYPE_F8_E4M3, MK_EUNSUPPORTED, {"'two'", "id 64"}},
    {F(dtype), UINT32_MAX, MK_EUNSUPPORTED, {"'two'", "id 4294967295"}},
    {F(dtype), MK_DTYPE_Q8_0, MK_ECORRUPT, {"'two'", "4 elements", "multiple of 32"}},
    {F(offset), 33, MK_ECORRUPT, {"'two'", "offset 33", "multiple of 32"}},
    {F(offset), 64, MK_ECORRUPT, {"'two'", "64 bytes at offset 64", "96 bytes"}},
    {F(offset), UINT64_MAX - 31, MK_ECORRUPT, {"'two'", "18446744073709551584"}},
    {F(offset), P63, MK_ECORRUPT, {"'two'", "9223372036854775808"}},
    {F(offset), 0, MK_ECORRUPT, {"'one'", "'two'", "overlap"}},
    {F(offset_one), 64, MK_ECORRUPT, {"'two'", "'one'", "overlap"}},
    {F(align_type), MK_GGUF_U64, MK_OK, {NULL}},
    {F(version), 2, MK_OK, {NULL}},
};

static void test_broken_fields(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof field_cases / sizeof field_cases[0]; i++) {
        const field_case *c = &field_cases[i];
        spec s = sound;
        mk_buf b;
        mk_err err;
        memcpy((char *)&s + c->field, &c->value, c->size);
        build(&s, &b);
        mk_status st = try_open(b.data, b.len, &err);
        if (st != c->want) {
            fail_msg("case %zu: status %s, want %s (%s)", i, mk_status_name(st),
                     mk_status_name(c->want), err.msg);
        }
        for (int k = 0; k < 3 && c->says[k] != NULL; k++) {
            if (strstr(err.msg, c->says[k]) == NULL || strstr(err.msg, "broken.gguf") == NULL) {
                fail_msg("case %zu: '%s' not in: %s", i, c->says[k], err.msg);
            }
        }
        mk_buf_free(&b);
    }
}

// Tensors may be listed in any order.
static void test_descending_offsets(void **state) {
    (void)state;
    spec s = sound;
    mk_buf b;
    mk_err err;
    s.offset_one = 64;
    s.offset = 0;
    build(&s, &b);
    assert_int_equal(try_open(b.data, b.len, &err), MK_OK);
    mk_buf_free(&b);
}

// 64 elements are two blocks of Q8_0, but a row of 16 is not a whole block.
static void test_broken_rows(void **state) {
    (void)state;
    spec s = sound;
    mk_buf b;
    mk_err err;
    s.dtype = MK_DTYPE_Q8_0;
    s.ne[0] = 16;
    build(&s, &b);
    assert_int_equal(try_open(b.data, b.len, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "rows of 16 elements of type Q8_0"));
    mk_buf_free(&b);
}

static void test_broken_names(void **state) {
    (void)state;
    const struct {
        const char *key, *name;
        uint64_t key_len;
        const char *says;
    } cases[] = {{"flag", "two", 4, "key 'flag' occurs twice"},
                 {"list", "one", 4, "tensor 'one' occurs twice"},
                 {"li\0t", "two", 4, "NUL"},
                 {"li\x1b[", "one", 4, "tensor 'one'"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spec s = sound;
        mk_buf b;
        mk_err err;
        s.key = cases[i].key;
        s.key_len = cases[i].key_len;
        s.name = cases[i].name;
        build(&s, &b);
        assert_int_equal(try_open(b.data, b.len, &err), MK_ECORRUPT);
        if (strstr(err.msg, cases[i].says) == NULL) {
            fail_msg("'%s' not in: %s", cases[i].says, err.msg);
        }
        mk_buf_free(&b);
    }
}

static void test_big_endian_file(void **state) {
    (void)state;
    mk_gguf *g = NULL;
    mk_err err = {0};
    assert_int_equal(mk_gguf_open(DIR "big_endian.gguf", &g, &err), MK_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "big-endian"));
    assert_int_equal(mk_gguf_open(DIR "no such file.gguf", &g, &err), MK_ENOTFOUND);
    assert_null(g);
}

// --- broken files, byte by byte ------------------------------------------------------------------

// A copy of exactly n bytes, so that a sanitizer sees every access beyond.
static void try_copy(const char *data, size_t n) {
    uint8_t *copy = mk_alloc(n + (n == 0));
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    mk_free(copy);
}

static void test_truncations(void **state) {
    (void)state;
    size_t n = 0;
    char *data = golden_read(DIR "all.gguf", &n);
    mk_gguf *g = NULL;
    assert_int_equal(mk_gguf_open_memory(data, n, "all", &g, NULL), MK_OK);
    const mk_tensor_view *last = mk_gguf_tensor(g, mk_gguf_n_tensor(g) - 1);
    size_t end = (size_t)(last->data - (const uint8_t *)data) + last->n_bytes;
    mk_gguf_close(g);
    for (size_t i = 0; i < n; i++) {
        mk_err err;
        try_copy(data, i);
        mk_status st = try_open(data, i, &err);
        assert_true(i < end ? st == MK_ECORRUPT : st == MK_OK);
    }
    mk_free(data);
}

static void test_flipped_bits(void **state) {
    (void)state;
    size_t n = 0;
    char *data = golden_read(DIR "all.gguf", &n);
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            data[i] = (char)(data[i] ^ 1 << bit);
            try_copy(data, n);
            data[i] = (char)(data[i] ^ 1 << bit);
        }
    }
    mk_free(data);
}

// Every length, count, type and offset is hit, because every place is.
static void test_corner_numbers_everywhere(void **state) {
    (void)state;
    const uint64_t corners[] = {0, 1, P31 - 1, P31, P31 + 1, P63, P63 - 1, N1, N1 - 31};
    size_t n = 0;
    char *data = golden_read(DIR "all.gguf", &n);
    for (size_t i = 0; i + 8 <= n; i++) {
        char saved[8];
        memcpy(saved, data + i, 8);
        for (size_t k = 0; k < 2 * sizeof corners / sizeof corners[0]; k++) {
            memcpy(data + i, &corners[k / 2], k % 2 == 0 ? 4 : 8);
            try_copy(data, n);
            memcpy(data + i, saved, 8);
        }
    }
    mk_free(data);
}

// --- split files ---------------------------------------------------------------------------------

// Sets split.tensors.count, an i32 behind its key and type, in the bytes of a part.
static void patch_count(char *data, size_t n, int32_t count) {
    const char key[] = "split.tensors.count";
    char *at = memmem(data, n, key, strlen(key));
    assert_non_null(at);
    memcpy(at + strlen(key) + 4, &count, sizeof count);
}

static void copy_file(const char *from, const char *dir, const char *name, int32_t count) {
    size_t n = 0;
    char *data = golden_read(from, &n), *path = mk_path_join(dir, name);
    patch_count(data, n, count);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    mk_free(path);
    mk_free(data);
}

static void remove_in(const char *dir, const char *name) {
    char *path = mk_path_join(dir, name);
    (void)unlink(path);
    mk_free(path);
}

static const char *const part_names[] = {"split-00001-of-00003.gguf", "split-00002-of-00003.gguf",
                                         "split-00003-of-00003.gguf"};

// Copies of parts a, b, c (counted from 0; -1: missing) under the three names, the first as
// first_name.
static mk_status open_parts(int a, int b, int c, const char *first_name, int32_t count,
                            mk_err *err) {
    char dir[] = "/tmp/mk_gguf_XXXXXX";
    const int which[] = {a, b, c};
    mk_gguf *g = NULL;
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 3; i++) {
        if (which[i] >= 0) {
            char from[128];
            (void)snprintf(from, sizeof from, DIR "%s", part_names[which[i]]);
            copy_file(from, dir, i == 0 ? first_name : part_names[i], count);
        }
    }
    char *path = mk_path_join(dir, first_name);
    *err = (mk_err){0};
    mk_status st = mk_gguf_open(path, &g, err);
    mk_gguf_close(g);
    for (int i = 0; i < 3; i++) {
        remove_in(dir, i == 0 ? first_name : part_names[i]);
    }
    mk_free(path);
    assert_int_equal(rmdir(dir), 0);
    return st;
}

static void test_split(void **state) {
    (void)state;
    mk_gguf *g = open_good(DIR "split-00001-of-00003.gguf");
    assert_int_equal(mk_gguf_n_tensor(g), 5);
    check_str(g, "general.architecture", "test");
    size_t sum = 0;
    for (int i = 0; i < 5; i++) {
        char name[8];
        float x[3];
        (void)snprintf(name, sizeof name, "t%d", i);
        const mk_tensor_view *v = mk_gguf_find_tensor(g, name);
        assert_non_null(v);
        mk_dtype_to_f32(MK_DTYPE_F32, v->data, 3, x);
        assert_true(x[0] == (float)(-2 + i) && x[2] == (float)(-1 + i));
        sum += v->n_bytes;
    }
    assert_true(mk_gguf_file_bytes(g) == 288 + 256 + 192 && sum == 60);
    mk_gguf_close(g);
}

static void test_split_refuses(void **state) {
    (void)state;
    mk_err err;
    const char *first = part_names[0];
    assert_int_equal(open_parts(0, 1, 2, first, 5, &err), MK_OK);
    assert_int_equal(open_parts(0, 1, 2, first, 6, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "split.tensors.count is 6"));
    assert_non_null(strstr(err.msg, "5 tensors"));
    assert_int_equal(open_parts(0, -1, 2, first, 5, &err), MK_ENOTFOUND);
    assert_non_null(strstr(err.msg, "split-00002-of-00003.gguf"));
    assert_int_equal(open_parts(0, 2, 1, first, 5, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "part 2 of 3; expected part 1 of 3"));
    assert_int_equal(open_parts(1, 1, 2, first, 5, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "part 2 of 3"));
    assert_int_equal(open_parts(0, 1, 2, "other.gguf", 5, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "-00001-of-00003.gguf"));
    size_t n = 0;
    char *data = golden_read(DIR "split-00001-of-00003.gguf", &n);
    assert_int_equal(try_open(data, n, &err), MK_EUNSUPPORTED);
    mk_free(data);
}

// --- names, memory, speed ------------------------------------------------------------------------

// 1025 names whose hashes end alike: a table of 4096 slots would be walked from the same place for
// each.
static void test_colliding_names(void **state) {
    (void)state;
    enum { N = 1025 };
    static struct { const char *name; } records[N];
    static char texts[N][16];
    mk_names x;
    mk_err err = {0};
    int n = 0;
    for (unsigned i = 0; n < N; i++) {
        int len = snprintf(texts[n], sizeof texts[n], "%u", i);
        if ((mk_hash64(texts[n], (size_t)len, 0) & 4095) == 7) {
            records[n].name = texts[n];
            n++;
        }
    }
    assert_int_equal(mk_names_build(&x, "tensor", records, N - 1, sizeof records[0], &err), MK_OK);
    assert_int_equal(mk_names_find(&x, texts[1000]), 1000);
    assert_int_equal(mk_names_find(&x, "nothing"), -1);
    mk_names_free(&x);
    assert_int_equal(mk_names_build(&x, "tensor", records, N, sizeof records[0], &err), MK_ELIMIT);
}

static void sweep(mk_status (*scenario)(mk_err *err)) {
    int64_t live = mk_alloc_live();
    bool failed_once = false;
    for (int64_t n = 1; n < 1000; n++) {
        mk_err err = {0};
        mk_alloc_fail_at(n);
        mk_status st = scenario(&err);
        mk_alloc_fail_at(0);
        assert_true(mk_alloc_live() == live);
        if (st == MK_OK) {
            assert_true(failed_once);
            return;
        }
        failed_once = true;
        assert_int_equal(st, MK_ENOMEM);
        assert_true(err.msg[0] != '\0');
    }
    fail_msg("no end");
}

static mk_status scenario_single(mk_err *err) {
    mk_gguf *g = NULL;
    mk_gguf_str *s = NULL;
    int64_t n = 0;
    MK_TRY(mk_gguf_open(DIR "all.gguf", &g, err));
    mk_status st = mk_gguf_arr_strs(g, "a.str", &s, &n, err);
    mk_free(s);
    mk_gguf_close(g);
    return st;
}

static mk_status scenario_split(mk_err *err) {
    mk_gguf *g = NULL;
    mk_status st = mk_gguf_open(DIR "split-00001-of-00003.gguf", &g, err);
    mk_gguf_close(g);
    return st;
}

// The file is built once, outside the scenario: building allocates too.
static mk_buf built;

static mk_status scenario_memory(mk_err *err) {
    mk_gguf *g = NULL;
    mk_status st = mk_gguf_open_memory(built.data, built.len, "memory", &g, err);
    mk_gguf_close(g);
    return st;
}

static void test_failing_memory(void **state) {
    (void)state;
    build(&sound, &built);
    sweep(scenario_memory);
    mk_buf_free(&built);
    sweep(scenario_single);
    sweep(scenario_split);
}

// A vocabulary of 150,000 tokens: found by key, walked once, without memory of its own.
static void test_large_vocabulary(void **state) {
    (void)state;
    enum { N_TOKEN = 150000 };
    mk_buf b;
    mk_buf_init(&b, (size_t)64 << 20);
    mk_buf_puts(&b, "GGUF");
    u32(&b, 3);
    u64(&b, 0);
    u64(&b, 1);
    text(&b, 6, "tokens");
    u32(&b, MK_GGUF_ARRAY);
    u32(&b, MK_GGUF_STRING);
    u64(&b, N_TOKEN);
    for (int i = 0; i < N_TOKEN; i++) {
        char token[16];
        int len = snprintf(token, sizeof token, "token%d", i);
        text(&b, (uint64_t)len, token);
    }
    mk_gguf *g = NULL;
    mk_gguf_str *s = NULL;
    int64_t n = 0;
    clock_t start = clock();
    assert_int_equal(mk_gguf_open_memory(b.data, b.len, "vocabulary", &g, NULL), MK_OK);
    assert_true(clock() - start < CLOCKS_PER_SEC / 2);  // 1 ms in a release build
    assert_int_equal(mk_gguf_arr_strs(g, "tokens", &s, &n, NULL), MK_OK);
    assert_int_equal(n, N_TOKEN);
    assert_memory_equal(s[N_TOKEN - 1].p, "token149999", 11);
    mk_free(s);
    mk_gguf_close(g);
    mk_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_files),
        cmocka_unit_test(test_getters_refuse),
        cmocka_unit_test(test_broken_fields),
        cmocka_unit_test(test_descending_offsets),
        cmocka_unit_test(test_broken_rows),
        cmocka_unit_test(test_broken_names),
        cmocka_unit_test(test_big_endian_file),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_corner_numbers_everywhere),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_split_refuses),
        cmocka_unit_test(test_colliding_names),
        cmocka_unit_test(test_failing_memory),
        cmocka_unit_test(test_large_vocabulary),
    };
    return cmocka_run_group_tests_name("format/gguf", tests, NULL, NULL);
}
