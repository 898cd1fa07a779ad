#include "cmocka_all.h"

#include "base/status.h"
#include "base/utf8.h"

static void test_table(void **state) {
    (void)state;
    assert_string_equal(mk_status_name(MK_ECORRUPT), "corrupt");
    assert_string_equal(mk_status_name((mk_status)999), "unknown status");
    assert_int_equal(mk_status_exit_code(MK_OK), 0);
    assert_int_equal(mk_status_exit_code(MK_EUSAGE), 1);
    assert_int_equal(mk_status_exit_code(MK_ENOTFOUND), 2);
    assert_int_equal(mk_status_exit_code(MK_ENOMEM), 3);
    assert_int_equal(mk_status_exit_code(MK_ECORRUPT), 5);
    assert_int_equal(mk_status_exit_code(MK_ECONTEXT), 6);
    assert_int_equal(mk_status_exit_code(MK_EINTR), 130);
}

static void test_set_and_prefix(void **state) {
    (void)state;
    mk_err err = {0};
    assert_int_equal(MK_FAIL(&err, MK_EIO, "wrote %d of %d bytes", 3, 7), MK_EIO);
    assert_string_equal(err.msg, "wrote 3 of 7 bytes");
    assert_non_null(strstr(err.file, "test_status.c"));
    assert_int_equal(mk_err_prefix(&err, "file %s", "a.gguf"), MK_EIO);
    assert_string_equal(err.msg, "file a.gguf: wrote 3 of 7 bytes");
    MK_FAIL(&err, MK_EIO, "again: %s", err.msg);  // an argument may be the old text
    assert_string_equal(err.msg, "again: file a.gguf: wrote 3 of 7 bytes");
    assert_int_equal(MK_FAIL(NULL, MK_ENOMEM, "x"), MK_ENOMEM);
    assert_int_equal(mk_err_prefix(NULL, "x"), MK_OK);
}

static void test_hostile_text(void **state) {
    (void)state;
    mk_err err;
    MK_FAIL(&err, MK_EIO, "name '%s'", "a\033[2Jb\nc\x7F");
    assert_string_equal(err.msg, "name 'a?[2Jb?c?'");
    MK_FAIL(&err, MK_EIO, "%s",
            "\xC2\x9B"
            "31m \xE2\x80\xAE \xFF ok \xC3\xA9");
    assert_string_equal(err.msg, "??31m ??? ? ok \xC3\xA9");
}

static void test_long_text(void **state) {
    (void)state;
    char text[4000];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3) {
            memcpy(text + i, "\xE2\x82\xAC", 4);
        }
        mk_err err;
        MK_FAIL(&err, MK_EIO, "%s", text);
        assert_true(strlen(err.msg) >= MK_ERR_MSG_MAX - 4);
        assert_true(mk_utf8_valid(err.msg, strlen(err.msg)));  // never half a character
        assert_null(strchr(err.msg, '?'));
        mk_err_prefix(&err, "%s", text);
        assert_true(strlen(err.msg) < MK_ERR_MSG_MAX);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_set_and_prefix),
        cmocka_unit_test(test_hostile_text),
        cmocka_unit_test(test_long_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
