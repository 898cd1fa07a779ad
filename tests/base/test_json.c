#include "cmocka_all.h"

#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

static json_t *parse(const char *text, mk_err *err) {
    json_t *v = NULL;
    mk_status st = mk_json_parse(text, strlen(text), "test.json", &v, err);
    assert_int_equal(st == MK_OK, v != NULL);
    return v;
}

static void test_values(void **state) {
    (void)state;
    mk_err err = {0};
    static const char *const good[] = {
        "null",
        " true\n",
        "-0",
        "1.5e3",
        "\"\\u00e9\\ud83d\\ude00\"",
        "[]",
        "{}",
        "[1,[2,{\"a\":[]}]]",
        "\xEF\xBB\xBF{}",
        "\"[{\\\"[{\"",
        "\"\\\\\"",
        "9223372036854775807",
        "-9223372036854775808",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        json_t *v = parse(good[i], &err);
        assert_non_null(v);
        json_decref(v);
    }
    static const char *const bad[] = {
        "",         " ",           "{",     "[1,]",    "{\"a\":1,}",
        "nul",      "01",          "1 2",   "{} {}",   "{\"a\":1,\"a\":2}",
        "\"\xFF\"", "\"\n\"",      "NaN",   "'a'",     "[1",
        "\"abc",    "\"\\",        "]",     "}}",      "{\"a\" 1}",
        "-",        "\"\\ud800\"", "1e999", "// c\n1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err.msg[0] = '\0';
        assert_null(parse(bad[i], &err));
        assert_int_equal(err.code, MK_ECORRUPT);
        assert_int_equal(strncmp(err.msg, "test.json: ", 11), 0);
    }
    assert_null(parse("{\n\"a\":\n?}", &err));
    assert_non_null(strstr(err.msg, "line 3"));
}

static char *repeat(const char *open, size_t n, const char *middle, const char *close) {
    mk_buf b;
    mk_buf_init(&b, 1 << 28);
    for (size_t i = 0; i < n; i++) {
        mk_buf_puts(&b, open);
    }
    mk_buf_puts(&b, middle);
    for (size_t i = 0; i < n; i++) {
        mk_buf_puts(&b, close);
    }
    return mk_buf_detach(&b);
}

static void test_limits(void **state) {
    (void)state;
    mk_err err = {0};
    char *deepest = repeat("[", MK_JSON_MAX_DEPTH, "1", "]");
    json_t *v = parse(deepest, &err);
    assert_non_null(v);
    json_decref(v);
    mk_free(deepest);
    char *deep = repeat("{\"a\":", MK_JSON_MAX_DEPTH + 1, "1", "}");
    assert_null(parse(deep, &err));
    assert_non_null(strstr(err.msg, "128"));
    mk_free(deep);
    char *bomb = repeat("[", 3000000, "", "");
    assert_null(parse(bomb, &err));
    mk_free(bomb);
    // 1.1 million empty objects would cost 200 MB
    char *many = repeat("{},", 1100000, "", "");
    char *array = mk_alloc(strlen(many) + 4);
    sprintf(array, "[%s1]", many);
    assert_null(parse(array, &err));
    assert_non_null(strstr(err.msg, "objects"));
    mk_free(array);
    mk_free(many);
    // brackets inside strings do not count
    char *text = repeat("[{", 1000, "", "");
    char *quoted = mk_alloc(strlen(text) + 3);
    sprintf(quoted, "\"%s\"", text);
    v = parse(quoted, &err);
    assert_non_null(v);
    json_decref(v);
    mk_free(quoted);
    mk_free(text);
}

// Python writes integers of any size; jansson's own limit would refuse the file.
static void test_wide_integers(void **state) {
    (void)state;
    mk_err err = {0};
    json_t *v = parse(
        "{\"model_max_length\": 1000000000000000019884624838656, \"b\":[-99999999999999999999,"
        "9223372036854775808,-9223372036854775809,9223372036854775807],\"c\":"
        "\"99999999999999999999\","
        "\"d\":123456789012345678901.5,\"e\":123456789012345678901e2}",
        &err);
    assert_non_null(v);
    assert_true(json_is_real(json_object_get(v, "model_max_length")));
    assert_true(json_real_value(json_object_get(v, "model_max_length")) == 1e30);
    json_t *b = json_object_get(v, "b");
    assert_true(json_real_value(json_array_get(b, 0)) == -1e20);
    assert_true(json_is_real(json_array_get(b, 1)));
    assert_true(json_is_real(json_array_get(b, 2)));
    assert_true(json_integer_value(json_array_get(b, 3)) == INT64_MAX);
    assert_string_equal(json_string_value(json_object_get(v, "c")), "99999999999999999999");
    assert_true(json_real_value(json_object_get(v, "d")) == 123456789012345678901.5);
    assert_true(json_real_value(json_object_get(v, "e")) == 123456789012345678901e2);
    json_decref(v);
}

static void test_getters(void **state) {
    (void)state;
    mk_err err = {0};
    json_t *o = parse(
        "{\"i\":5,\"f\":2.5,\"b\":true,\"s\":\"x\",\"n\":null,\"z\":\"a\\u0000b\",\"a\":[]}", &err);
    int64_t i = -1;
    double f = -1;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(mk_json_get_i64(o, "i", 0, 10, &i, &err), MK_OK);
    assert_int_equal(i, 5);
    assert_int_equal(mk_json_get_i64(o, "n", 0, 10, &i, &err), MK_OK);
    assert_int_equal(mk_json_get_i64(o, "missing", 0, 10, &i, &err), MK_OK);
    assert_int_equal(i, 5);
    assert_int_equal(mk_json_get_i64(o, "i", 6, 10, &i, &err), MK_ECORRUPT);
    assert_string_equal(err.msg, "\"i\": expected 6 to 10, got 5");
    assert_int_equal(mk_json_get_i64(o, "f", 0, 10, &i, &err), MK_ECORRUPT);
    assert_string_equal(err.msg, "\"f\": expected an integer, got number");
    assert_int_equal(mk_json_get_f64(o, "i", &f, &err), MK_OK);
    assert_true(f == 5);
    assert_int_equal(mk_json_get_f64(o, "f", &f, &err), MK_OK);
    assert_true(f == 2.5);
    assert_int_equal(mk_json_get_f64(o, "s", &f, &err), MK_ECORRUPT);
    assert_int_equal(mk_json_get_bool(o, "b", &b, &err), MK_OK);
    assert_true(b);
    assert_int_equal(mk_json_get_bool(o, "i", &b, &err), MK_ECORRUPT);
    assert_int_equal(mk_json_get_str(o, "s", &s, &err), MK_OK);
    assert_string_equal(s, "x");
    assert_int_equal(mk_json_get_str(o, "a", &s, &err), MK_ECORRUPT);
    assert_string_equal(err.msg, "\"a\": expected a string, got array");
    assert_int_equal(mk_json_get_str(o, "z", &s, &err), MK_ECORRUPT);
    assert_int_equal(json_string_length(json_object_get(o, "z")), 3);
    assert_string_equal(mk_json_type_name(NULL), "nothing");
    assert_int_equal(mk_json_get_i64(json_object_get(o, "a"), "i", 0, 1, &i, &err),
                     MK_OK);  // not an object: missing
    json_decref(o);
}

static void test_file(void **state) {
    (void)state;
    char path[] = "/tmp/minke-json-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "{\"a\":1}", 7), 7);
    close(fd);
    json_t *v = NULL;
    mk_err err = {0};
    assert_int_equal(mk_json_file(path, 7, &v, &err), MK_OK);
    json_decref(v);
    assert_int_equal(mk_json_file(path, 6, &v, &err), MK_ELIMIT);
    assert_null(v);
    unlink(path);
    assert_int_equal(mk_json_file(path, 7, &v, &err), MK_ENOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_wide_integers), cmocka_unit_test(test_getters),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
