// Fill in the middle, with a vocabulary of bytes and the marks of one family.  Truth: the order
// that the models' cards give.
#include "base/buf.h"
#include "chat/fim.h"
#include "cmocka_all.h"

// A byte-level vocabulary: printable ASCII stands for itself; ids 0 to 93 are '!' to '~'.
static mk_tokenizer *make(const char *const *extra, int n_extra) {
    mk_buf b;
    mk_err err = {0};
    mk_tokenizer *t = NULL;
    mk_buf_init(&b, 1 << 16);
    mk_buf_puts(&b, "{\"added_tokens\": [");
    for (int i = 0; i < n_extra; i++) {
        mk_buf_printf(
            &b,
            "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
            "\"rstrip\": false, \"normalized\": false, \"special\": true}",
            i ? "," : "", 94 + i, extra[i]);
    }
    mk_buf_puts(&b, "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                    "\"add_prefix_space\": false, \"use_regex\": false}, \"decoder\": {\"type\": "
                    "\"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (int c = 33; c < 127; c++) {
        mk_buf_printf(&b, c == '"' || c == '\\' ? "%s\"\\%c\": %d" : "%s\"%c\": %d",
                      c > 33 ? "," : "", c, c - 33);
    }
    mk_buf_puts(&b, "}, \"merges\": []}}");
    mk_status st = mk_tokenizer_from_json(b.data, b.len, &t, &err);
    if (st != MK_OK) {
        print_error("%s\n", err.msg);
    }
    assert_int_equal(st, MK_OK);
    mk_buf_free(&b);
    return t;
}

static void test_order(void **state) {
    (void)state;
    static const char *const star[] = {"<fim_middle>", "<fim_prefix>", "<fim_suffix>"};
    mk_tokenizer *t = make(star, 3);
    mk_ids ids = {0};
    mk_err err = {0};
    assert_int_equal(mk_fim_encode(t, "ab", "<fim_middle>", &ids, &err), MK_OK);
    assert_int_equal(ids.n, 3 + 2 + 12);  // a mark in the text is text
    assert_int_equal(ids.data[0], 95);
    assert_int_equal(ids.data[1], 'a' - 33);
    assert_int_equal(ids.data[3], 96);
    assert_int_equal(ids.data[4], '<' - 33);
    assert_int_equal(ids.data[ids.n - 1], 94);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
}

static void test_none(void **state) {
    (void)state;
    static const char *const some[] = {"<fim_prefix>", "<fim_suffix>"};
    mk_tokenizer *t = make(some, 2);
    mk_ids ids = {0};
    mk_err err = {0};
    assert_int_equal(mk_fim_encode(t, "a", "b", &ids, &err), MK_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "/suffix"));
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
