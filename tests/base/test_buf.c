#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "torture.h"

static void test_build(void **state) {
    (void)state;
    mk_buf b;
    mk_buf_init(&b, 1 << 20);
    mk_buf_puts(&b, "x=");
    mk_buf_printf(&b, "%d", 42);
    mk_buf_putc(&b, ';');
    mk_buf_utf8(&b, 0x20AC);
    mk_buf_add(&b, "", 0);
    assert_string_equal(b.data, "x=42;\xE2\x82\xAC");
    assert_int_equal(b.len, 8);
    char *s = mk_buf_detach(&b);
    assert_string_equal(s, "x=42;\xE2\x82\xAC");
    assert_null(b.data);
    mk_free(s);
    s = mk_buf_detach(&b);
    assert_string_equal(s, "");  // an empty buffer detaches as an empty string
    mk_free(s);
}

static void test_printf_of_any_length(void **state) {
    (void)state;
    char *text = mk_alloc(5001);
    for (size_t n = 0; n <= 5000; n += n < 520 ? 1 : 197) {
        memset(text, 'a', n);
        text[n] = '\0';
        mk_buf b;
        mk_buf_init(&b, SIZE_MAX);
        mk_buf_printf(&b, "<%s>", text);
        assert_false(b.failed);
        assert_int_equal(b.len, n + 2);
        assert_int_equal(b.data[0], '<');
        assert_int_equal(b.data[n + 1], '>');
        assert_int_equal(b.data[n + 2], 0);
        mk_buf_free(&b);
    }
    mk_free(text);
}

static void test_sticky(void **state) {
    (void)state;
    mk_buf b;
    mk_buf_init(&b, 10);
    mk_buf_puts(&b, "12345");
    mk_buf_puts(&b, "67890");
    assert_false(b.failed);  // the maximum itself fits
    mk_buf_putc(&b, 'x');
    assert_true(b.failed);
    assert_string_equal(b.data, "1234567890");
    mk_buf_clear(&b);
    mk_buf_puts(&b, "123456789012");
    assert_true(b.failed);
    mk_buf_puts(&b, "1");  // would fit, but failure sticks
    mk_buf_printf(&b, "%d", 1);
    assert_int_equal(b.len, 0);
    assert_null(mk_buf_detach(&b));
    mk_buf_free(&b);
    assert_false(b.failed);
    mk_buf_puts(&b, "1234567890");
    assert_string_equal(b.data, "1234567890");
    mk_buf_free(&b);
    mk_buf_init(&b, 0);
    mk_buf_puts(&b, "");
    assert_false(b.failed);
    mk_buf_putc(&b, 'x');
    assert_true(b.failed);
    mk_buf_free(&b);
}

static mk_status build(void *arg, mk_err *err) {
    (void)arg;
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    for (int i = 0; i < 1000; i++) {
        mk_buf_printf(&b, "%d,", i);
    }
    char *s = mk_buf_detach(&b);
    mk_buf_free(&b);
    mk_free(s);
    return s ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory");
}

static void test_torture(void **state) {
    (void)state;
    assert_in_range(mk_torture(build, NULL), 5, 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_build),
        cmocka_unit_test(test_printf_of_any_length),
        cmocka_unit_test(test_sticky),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
