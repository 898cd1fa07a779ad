// Reading safetensors: files of the official package (tests/golden/gen_formats.py), broken headers,
// broken indexes, failing memory.
#include "format/golden.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/safetensors.h"

// LLVMFuzzerTestOneInput: opens bytes and reads everything in them
#include "fuzz/fuzz_safetensors.c"

#define DIR "tests/golden/format/"

// --- good files ----------------------------------------------------------------------------------

// Element i is (i - 4) / 2, which all float types here hold exactly.
static void check_ramp(const mk_safetensors *s, const char *name, mk_dtype t, int n_dim, int64_t n0,
                       int64_t n1) {
    float out[64];
    const mk_tensor_view *v = mk_safetensors_find(s, name);
    assert_non_null(v);
    assert_string_equal(v->name, name);
    assert_int_equal(v->dtype, t);
    assert_int_equal(v->n_dim, n_dim);
    assert_int_equal(v->shape[0], n0);
    assert_int_equal(v->shape[1], n1);
    assert_int_equal(v->shape[MK_MAX_DIMS - 1], 1);
    mk_dtype_to_f32(t, v->data, n0 * n1, out);
    for (int64_t i = 0; i < n0 * n1; i++) {
        assert_true(out[i] == (float)(i - 4) / 2);
    }
}

static void test_all_types(void **state) {
    (void)state;
    mk_safetensors *s = NULL;
    mk_err err = {0};
    if (mk_safetensors_open(DIR "all.safetensors", &s, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(mk_safetensors_n_tensor(s), 11);
    assert_int_equal(mk_safetensors_file_bytes(s), mk_safetensors_tensor(s, 0)->map->n_bytes);
    check_ramp(s, "f32", MK_DTYPE_F32, 2, 2, 3);
    check_ramp(s, "f16", MK_DTYPE_F16, 1, 4, 1);
    check_ramp(s, "bf16", MK_DTYPE_BF16, 2, 2, 8);
    check_ramp(s, "e4m3", MK_DTYPE_F8_E4M3, 2, 3, 5);
    check_ramp(s, "e5m2", MK_DTYPE_F8_E5M2, 1, 7, 1);
    check_ramp(s, "f64", MK_DTYPE_F64, 1, 2, 1);
    const mk_tensor_view *v = mk_safetensors_find(s, "i64");
    int64_t last;
    memcpy(&last, v->data + 16, 8);
    assert_true(v->dtype == MK_DTYPE_I64 && v->n_bytes == 24 && last == 2);
    v = mk_safetensors_find(s, "u8");
    assert_true(v->dtype == MK_DTYPE_U8 && v->n_bytes == 3 && v->data[2] == 2);
    v = mk_safetensors_find(s, "bool");
    assert_true(v->dtype == MK_DTYPE_BOOL && v->n_bytes == 2 && v->data[0] == 1 && v->data[1] == 0);
    v = mk_safetensors_find(s, "scalar");
    float x;
    memcpy(&x, v->data, 4);
    assert_true(v->n_dim == 0 && v->n_bytes == 4 && x == 2.5f && v->shape[0] == 1);
    v = mk_safetensors_find(s, "empty");
    assert_true(v->n_dim == 2 && v->n_bytes == 0 && v->shape[0] == 0 && v->shape[1] == 4);
    assert_null(mk_safetensors_find(s, "__metadata__"));
    mk_safetensors_close(s);
}

static void check_sharded(const char *path) {
    mk_safetensors *s = NULL;
    mk_err err = {0};
    if (mk_safetensors_open(path, &s, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(mk_safetensors_n_tensor(s), 3);
    check_ramp(s, "a", MK_DTYPE_F32, 2, 2, 3);
    check_ramp(s, "b", MK_DTYPE_F16, 1, 4, 1);
    check_ramp(s, "c", MK_DTYPE_BF16, 2, 2, 8);
    assert_null(mk_safetensors_find(s, "not.in.map"));
    assert_true(mk_safetensors_find(s, "a")->map != mk_safetensors_find(s, "c")->map);
    assert_int_equal(mk_safetensors_file_bytes(s), 184 + 216);
    mk_safetensors_close(s);
}

static void test_sharded(void **state) {
    (void)state;
    check_sharded(DIR "sharded");
    check_sharded(DIR "sharded/");
    check_sharded(DIR "sharded/model.safetensors.index.json");
}

// --- broken headers ------------------------------------------------------------------------------

// A file of this header and n_data bytes.
static mk_status try_header(const char *header, size_t n_data, mk_err *err) {
    uint64_t n = strlen(header);
    uint8_t *file = mk_zalloc(8 + n + n_data);
    mk_safetensors *s = NULL;
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    *err = (mk_err){0};
    mk_status st = mk_safetensors_open_memory(file, 8 + n + n_data, "broken", &s, err);
    assert_true((st == MK_OK) == (s != NULL));
    mk_safetensors_close(s);
    LLVMFuzzerTestOneInput(file, 8 + n + n_data);
    mk_free(file);
    return st;
}

#define ENTRY(dtype, shape, range)                                                                 \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" range "}}"
#define TWO(range_a, range_b)                                                                      \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" range_a                             \
    "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" range_b "}}"

static const struct {
    const char *header;
    size_t n_data;
    mk_status want;
    const char *says[3];
} headers[] = {
    {"{}", 0, MK_OK, {NULL}},
    {"{}      ", 0, MK_OK, {NULL}},
    {ENTRY("\"F32\"", "[]", "[0,4]"), 4, MK_OK, {NULL}},
    {ENTRY("\"F32\"", "[0]", "[0,0]"), 0, MK_OK, {NULL}},
    {ENTRY("\"F32\"", "[4611686018427387904,4611686018427387904,0]", "[0,0]"), 0, MK_OK, {NULL}},
    {ENTRY("\"U16\"", "[1,1,1,1,1,1,1,2]", "[0,4]"), 4, MK_OK, {NULL}},
    {"{\"__metadata__\":{\"k\":\"v\"}}", 0, MK_OK, {NULL}},
    {TWO("[2,4]", "[0,2]"), 4, MK_OK, {NULL}},
    // the header itself
    {"", 0, MK_ECORRUPT, {"0 bytes"}},
    {" {}", 0, MK_ECORRUPT, {"0x20", "'{'"}},
    {"[]", 0, MK_ECORRUPT, {"0x5b", "'{'"}},
    {"{}x", 0, MK_ECORRUPT, {"broken"}},
    {"{\"a\":", 0, MK_ECORRUPT, {"broken"}},
    {"{\"\xff\":1}", 0, MK_ECORRUPT, {"broken"}},
    {"{}", 1, MK_ECORRUPT, {"end at byte 0", "expected 1"}},
    {"{\"a\":1}", 0, MK_ECORRUPT, {"'a'", "object", "integer"}},
    {"{\"__metadata__\":{\"k\":1}}", 0, MK_ECORRUPT, {"__metadata__ 'k'", "string", "integer"}},
    {"{\"__metadata__\":[]}", 0, MK_ECORRUPT, {"__metadata__", "array"}},
    // dtype
    {ENTRY("\"F4\"", "[2]", "[0,1]"), 1, MK_EUNSUPPORTED, {"'a'", "'F4'"}},
    {ENTRY("\"F33\"", "[1]", "[0,4]"), 4, MK_EUNSUPPORTED, {"'F33'"}},
    {ENTRY("3", "[1]", "[0,4]"), 4, MK_ECORRUPT, {"dtype", "integer"}},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, MK_ECORRUPT, {"dtype", "nothing"}},
    // shape
    {ENTRY("\"F32\"", "[-1]", "[0,4]"), 4, MK_ECORRUPT, {"shape[0]", "-1"}},
    {ENTRY("\"F32\"", "[1.0]", "[0,4]"), 4, MK_ECORRUPT, {"shape[0]", "an integer", "number"}},
    {ENTRY("\"F32\"", "[\"1\"]", "[0,4]"), 4, MK_ECORRUPT, {"shape[0]", "string"}},
    {ENTRY("\"F32\"", "1", "[0,4]"), 4, MK_ECORRUPT, {"shape", "list", "integer"}},
    {ENTRY("\"F32\"", "[2]", "[0,4]"), 4, MK_ECORRUPT, {"'a'", "4 bytes", "expected 8"}},
    {ENTRY("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"),
     4,
     MK_EUNSUPPORTED,
     {"9 entries", "at most 8"}},
    {ENTRY("\"F32\"", "[4611686018427387905]", "[0,4]"), 4, MK_ECORRUPT, {"'a'", "4 bytes"}},
    {ENTRY("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, MK_ECORRUPT, {"'a'", "0 bytes"}},
    {ENTRY("\"U8\"", "[18446744073709551617]", "[0,1]"), 1, MK_ECORRUPT, {"shape[0]"}},
    {ENTRY("\"U8\"", "[9223372036854775807]", "[0,1]"), 1, MK_ECORRUPT, {"9223372036854775807"}},
    // ranges
    {ENTRY("\"F32\"", "[1]", "[0,5]"), 5, MK_ECORRUPT, {"5 bytes", "expected 4"}},
    {ENTRY("\"F32\"", "[1]", "[4,0]"), 4, MK_ECORRUPT, {"[4, 0]", "ascending"}},
    {ENTRY("\"F32\"", "[1]", "[0,4]"), 3, MK_ECORRUPT, {"[0, 4]", "3 bytes", "truncated"}},
    {ENTRY("\"F32\"", "[1]", "[-4,0]"), 4, MK_ECORRUPT, {"data_offsets[0]", "-4"}},
    {ENTRY("\"F32\"", "[1]", "[9223372036854775804,9223372036854775807]"),
     4,
     MK_ECORRUPT,
     {"9223372036854775807"}},
    {ENTRY("\"F32\"", "[1]", "[0]"), 4, MK_ECORRUPT, {"1 entries", "expected 2"}},
    {ENTRY("\"F32\"", "[1]", "[0,1,2]"), 4, MK_EUNSUPPORTED, {"3 entries"}},
    {ENTRY("\"F32\"", "[1]", "[0,4]"), 5, MK_ECORRUPT, {"end at byte 4", "expected 5"}},
    {TWO("[0,2]", "[3,5]"), 5, MK_ECORRUPT, {"'b'", "gap"}},
    {TWO("[0,2]", "[1,3]"), 3, MK_ECORRUPT, {"'b'", "overlap"}},
    {TWO("[0,2]", "[0,2]"), 2, MK_ECORRUPT, {"'b'", "overlap"}},
    {TWO("[1,3]", "[3,5]"), 5, MK_ECORRUPT, {"'a'", "starts at 1", "expected 0"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1,
     MK_ECORRUPT,
     {"duplicate"}},
};

static void test_headers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        mk_err err;
        mk_status st = try_header(headers[i].header, headers[i].n_data, &err);
        if (st != headers[i].want) {
            fail_msg("%s: status %s, want %s: %s", headers[i].header, mk_status_name(st),
                     mk_status_name(headers[i].want), err.msg);
        }
        for (int k = 0; k < 3 && headers[i].says[k] != NULL; k++) {
            if (strstr(err.msg, headers[i].says[k]) == NULL) {
                fail_msg("%s: '%s' not in: %s", headers[i].header, headers[i].says[k], err.msg);
            }
        }
    }
}

static void test_header_length(void **state) {
    (void)state;
    const uint64_t lengths[] = {0,
                                1,
                                3,
                                100000001,
                                UINT32_C(0x7FFFFFFF),
                                UINT32_C(0x80000001),
                                UINT64_C(1) << 63,
                                UINT64_MAX,
                                UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        uint8_t file[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        char number[32];
        mk_safetensors *s = NULL;
        mk_err err = {0};
        memcpy(file, &lengths[i], 8);
        assert_int_equal(mk_safetensors_open_memory(file, sizeof file, "x", &s, &err), MK_ECORRUPT);
        (void)snprintf(number, sizeof number, "%llu bytes", (unsigned long long)lengths[i]);
        assert_non_null(strstr(err.msg, number));
    }
}

// A header that is there, but longer than the format allows.
static void test_header_limit(void **state) {
    (void)state;
    const uint64_t n = 100000001;
    uint8_t *file = mk_zalloc(8 + n);
    mk_safetensors *s = NULL;
    mk_err err = {0};
    memcpy(file, &n, 8);
    file[8] = '{';
    assert_int_equal(mk_safetensors_open_memory(file, 8 + n, "x", &s, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "100000001 bytes; expected 2 to 100000000"));
    mk_free(file);
}

static void try_copy(const char *data, size_t n) {
    uint8_t *copy = mk_alloc(n + (n == 0));
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    mk_free(copy);
}

static void test_truncations_and_flips(void **state) {
    (void)state;
    size_t n = 0;
    char *data = golden_read(DIR "all.safetensors", &n);
    for (size_t i = 0; i < n; i++) {
        mk_safetensors *s = NULL;
        try_copy(data, i);
        assert_int_equal(mk_safetensors_open_memory(data, i, "short", &s, NULL), MK_ECORRUPT);
        for (int bit = 0; bit < 8; bit++) {
            data[i] = (char)(data[i] ^ 1 << bit);
            try_copy(data, n);
            data[i] = (char)(data[i] ^ 1 << bit);
        }
    }
    mk_free(data);
}

// --- broken folders ------------------------------------------------------------------------------

static void write_file(const char *dir, const char *name, const void *data, size_t n) {
    char *path = mk_path_join(dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    mk_free(path);
}

static void remove_file(const char *dir, const char *name) {
    char *path = mk_path_join(dir, name);
    assert_int_equal(unlink(path), 0);
    mk_free(path);
}

// A folder with this index and the first shard of the golden model.
static mk_status try_index(const char *index, mk_err *err) {
    char dir[] = "/tmp/mk_st_XXXXXX";
    mk_safetensors *s = NULL;
    size_t n = 0;
    char *shard = golden_read(DIR "sharded/model-00001-of-00002.safetensors", &n);
    assert_non_null(mkdtemp(dir));
    write_file(dir, "s1.safetensors", shard, n);
    write_file(dir, "model.safetensors.index.json", index, strlen(index));
    *err = (mk_err){0};
    mk_status st = mk_safetensors_open(dir, &s, err);
    mk_safetensors_close(s);
    remove_file(dir, "s1.safetensors");
    remove_file(dir, "model.safetensors.index.json");
    assert_int_equal(rmdir(dir), 0);
    mk_free(shard);
    return st;
}

static void test_indexes(void **state) {
    (void)state;
    const struct {
        const char *index;
        mk_status want;
        const char *says;
    } rows[] = {
        {"{\"weight_map\":{\"a\":\"s1.safetensors\"}}", MK_OK, NULL},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s1.safetensors\"}}", MK_ECORRUPT,
         "'c'"},
        {"{\"weight_map\":{\"a\":\"s2.safetensors\"}}", MK_ENOTFOUND, "s2.safetensors"},
        {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", MK_ECORRUPT, "../s1.safetensors"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", MK_ECORRUPT, "/etc/passwd"},
        {"{\"weight_map\":{\"a\":\"..\"}}", MK_ECORRUPT, "'..'"},
        {"{\"weight_map\":{\"a\":\"\"}}", MK_ECORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":1}}", MK_ECORRUPT, "integer"},
        {"{\"weight_map\":{}}", MK_ECORRUPT, "weight_map"},
        {"{\"weight_map\":[]}", MK_ECORRUPT, "array"},
        {"{}", MK_ECORRUPT, "weight_map"},
        {"[]", MK_ECORRUPT, "weight_map"},
        {"{", MK_ECORRUPT, "index.json"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s1.safetensors\"}}", MK_ECORRUPT,
         "duplicate"},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", MK_ECORRUPT, "header"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_err err;
        mk_status st = try_index(rows[i].index, &err);
        if (st != rows[i].want || (rows[i].says != NULL && strstr(err.msg, rows[i].says) == NULL)) {
            fail_msg("%s: status %s, want %s and '%s' in: %s", rows[i].index, mk_status_name(st),
                     mk_status_name(rows[i].want), rows[i].says, err.msg);
        }
    }
}

static void test_nothing_there(void **state) {
    (void)state;
    mk_safetensors *s = NULL;
    mk_err err = {0};
    assert_int_equal(mk_safetensors_open("tests", &s, &err), MK_ENOTFOUND);
    assert_non_null(strstr(err.msg, "model.safetensors.index.json"));
    assert_int_equal(mk_safetensors_open("tests/none.safetensors", &s, &err), MK_ENOTFOUND);
    assert_int_equal(mk_safetensors_open(DIR "all.gguf", &s, &err), MK_ECORRUPT);
    assert_null(s);
}

// A folder with one plain file.
static void test_folder_with_single_file(void **state) {
    (void)state;
    char dir[] = "/tmp/mk_st_XXXXXX";
    mk_safetensors *s = NULL;
    size_t n = 0;
    char *file = golden_read(DIR "all.safetensors", &n);
    assert_non_null(mkdtemp(dir));
    write_file(dir, "model.safetensors", file, n);
    assert_int_equal(mk_safetensors_open(dir, &s, NULL), MK_OK);
    assert_int_equal(mk_safetensors_n_tensor(s), 11);
    mk_safetensors_close(s);
    remove_file(dir, "model.safetensors");
    assert_int_equal(rmdir(dir), 0);
    mk_free(file);
}

static mk_status open_either(const char *path, const char *data, size_t n, mk_safetensors **s,
                             mk_err *err) {
    return data != NULL ? mk_safetensors_open_memory(data, n, "memory", s, err)
                        : mk_safetensors_open(path, s, err);
}

// jansson's own allocations are outside the hook; ours are not.
static void test_failing_memory(void **state) {
    (void)state;
    const char *const paths[] = {DIR "all.safetensors", DIR "sharded", DIR "all.safetensors"};
    for (int k = 0; k < 3; k++) {
        size_t n_data = 0;
        char *data = k < 2 ? NULL : golden_read(paths[k], &n_data);
        int64_t live = mk_alloc_live();
        mk_status st = MK_ENOMEM;
        for (int64_t n = 1; st != MK_OK; n++) {
            mk_safetensors *s = NULL;
            mk_err err = {0};
            mk_alloc_fail_at(n);
            st = open_either(paths[k], data, n_data, &s, &err);
            mk_alloc_fail_at(0);
            mk_safetensors_close(s);
            assert_true(mk_alloc_live() == live);
            assert_true(st == MK_OK ? n > 3 : st == MK_ENOMEM && err.msg[0] != '\0' && n < 1000);
        }
        mk_free(data);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_types),
        cmocka_unit_test(test_sharded),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_header_limit),
        cmocka_unit_test(test_indexes),
        cmocka_unit_test(test_truncations_and_flips),
        cmocka_unit_test(test_nothing_there),
        cmocka_unit_test(test_folder_with_single_file),
        cmocka_unit_test(test_failing_memory),
    };
    return cmocka_run_group_tests_name("format/safetensors", tests, NULL, NULL);
}
