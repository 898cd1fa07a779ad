// Tool arguments between text and value: nothing may change on the way.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/json.h"
#include "serve/jout.h"

static void test_args(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"", "{}"},
        {" \n\t ", "{}"},
        {"{}", "{}"},
        {" { \"a\" : [ 1 , 2.50 ] ,\r\n \"b c\" : \" x \\\" y \\\\\" } ",
         "{\"a\":[1,2.50],\"b c\":\" x \\\" y \\\\\"}"},
        // digits that no double holds
        {"{\"pi\": 3.14159265358979323846, \"n\": 123456789012345678901234567890}",
         "{\"pi\":3.14159265358979323846,\"n\":123456789012345678901234567890}"},
        {"{\"k\": \"\xEC\x95\x88 \\u0041\"}", "{\"k\":\"\xEC\x95\x88 \\u0041\"}"},
        // no objects
        {"{\"a\": 1", "{\"INVALID_JSON\":\"{\\\"a\\\": 1\"}"},
        {"[1]", "{\"INVALID_JSON\":\"[1]\"}"},
        {"{\"a\":1} x", "{\"INVALID_JSON\":\"{\\\"a\\\":1} x\"}"},
        {"null", "{\"INVALID_JSON\":\"null\"}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_buf b;
        mk_buf_init(&b, 1 << 16);
        mk_jout_args(&b, rows[i].in, strlen(rows[i].in));
        assert_false(b.failed);
        assert_string_equal(b.data, rows[i].out);
        mk_buf_free(&b);
    }
}

// Every beginning of an object is an object by itself or is wrapped, and is valid JSON either way.
static void test_args_cut(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\": [1, {\"b\": \"x\\\\\\\"\\u00e9\xC3\xA9\"}], \"c\": -1.5e-7}";
    for (size_t n = 0; n < sizeof text; n++) {
        mk_buf b;
        mk_err err = {0};
        json_t *v = NULL;
        mk_buf_init(&b, 1 << 16);
        mk_jout_args(&b, text, n);
        assert_int_equal(mk_json_parse(b.data, b.len, "args", &v, &err), MK_OK);
        assert_true(json_is_object(v));
        bool whole = n == sizeof text - 1;
        assert_int_equal(json_object_get(v, "INVALID_JSON") == NULL, whole || n == 0);
        json_decref(v);
        mk_buf_free(&b);
    }
}

static void test_value(void **state) {
    (void)state;
    static const char *const rows[] = {
        "{\"b\":1,\"a\":[true,false,null,\"x\\n\\\"\"],\"c\":{}}",
        "[0.1,-2.5,3.14159265358979,1e+300,5e-324,0.30000000000000004,100000.0,-"
        "9223372036854775807]",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_err err = {0};
        json_t *v = NULL, *again = NULL;
        assert_int_equal(mk_json_parse(rows[i], strlen(rows[i]), "value", &v, &err), MK_OK);
        mk_buf b;
        mk_buf_init(&b, 1 << 16);
        mk_jout_value(&b, v);
        assert_int_equal(mk_json_parse(b.data, b.len, "value", &again, &err), MK_OK);
        assert_true(json_equal(v, again));
        if (i == 0) {
            assert_string_equal(b.data, rows[i]);
        } else {
            assert_non_null(strstr(b.data, "[0.1,-2.5,3.14159265358979,"));
            assert_non_null(strstr(b.data, ",0.30000000000000004,100000.0,"));
        }
        json_decref(v);
        json_decref(again);
        mk_buf_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_args), cmocka_unit_test(test_args_cut),
                                       cmocka_unit_test(test_value)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
