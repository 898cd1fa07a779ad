// Truth: the definition of UTF-8 in RFC 3629, written out here a second time as a table of
// forbidden forms, and every code point there is.
#include "cmocka_all.h"

#include "base/utf8.h"

static void test_every_code_point(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp <= 0x110100; cp++) {
        bool valid = cp <= 0x10FFFF && !(cp >= 0xD800 && cp <= 0xDFFF);
        int expected = !valid ? 3 : cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
        char u[4];
        int n = mk_utf8_encode(cp, u);
        uint32_t back = 0;
        assert_int_equal(n, expected);
        assert_int_equal(mk_utf8_decode(u, (size_t)n, &back), n);
        assert_int_equal(back, valid ? cp : 0xFFFD);
        for (int cut = 1; cut < n; cut++) {
            assert_int_equal(mk_utf8_decode(u, (size_t)cut, &back), -1);
            assert_int_equal(mk_utf8_incomplete_tail(u, (size_t)cut), cut);
        }
        assert_int_equal(mk_utf8_incomplete_tail(u, (size_t)n), 0);
    }
}

// Counts the valid sequences among all of 2, 3 and 4 bytes; the sizes of the ranges of code points
// are known.
static void test_no_other_sequence(void **state) {
    (void)state;
    uint32_t cp;
    int64_t n2 = 0, n3 = 0, n4 = 0;
    for (uint32_t w = 0; w < 1u << 24; w++) {
        char u[3] = {(char)(w >> 16), (char)(w >> 8), (char)w};
        n3 += mk_utf8_decode(u, 3, &cp) == 3;
        n2 += (w & 0xFF) == 0 && mk_utf8_decode(u, 2, &cp) == 2;
    }
    for (uint32_t w = 0xE0000000; w >= 0xE0000000; w += 1) {
        char u[4] = {(char)(w >> 24), (char)(w >> 16), (char)(w >> 8), (char)w};
        bool tail = (w & 0xC0) == 0x80 && (w >> 8 & 0xC0) == 0x80;
        if (!tail) {
            w |= 0x3F;  // skip what cannot count; the loop below still meets one of each kind
            assert_int_not_equal(mk_utf8_decode(u, 4, &cp), 4);
            continue;
        }
        n4 += mk_utf8_decode(u, 4, &cp) == 4;
    }
    assert_int_equal(n2, 0x800 - 0x80);
    assert_int_equal(n3, 0x10000 - 0x800 - 0x800);
    assert_int_equal(n4, 0x110000 - 0x10000);
}

static void test_forbidden(void **state) {
    (void)state;
    static const char *const bad[] = {
        "\x80",
        "\xBF",
        "\xC0\x80",
        "\xC1\xBF",
        "\xE0\x80\x80",
        "\xE0\x9F\xBF",
        "\xED\xA0\x80",
        "\xED\xBF\xBF",
        "\xF0\x80\x80\x80",
        "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xFE",
        "\xFF",
        "\xC3(",
        "\xE2\x82(",
        "\xF0\x9F\x98(",
        "\xF8\x88\x80\x80\x80",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint32_t cp = 0;
        assert_int_equal(mk_utf8_decode(bad[i], strlen(bad[i]), &cp), -1);
        assert_int_equal(cp, 0xFFFD);
        assert_int_equal(mk_utf8_first_invalid(bad[i], strlen(bad[i])), 0);
    }
    uint32_t cp;
    assert_int_equal(mk_utf8_decode("", 0, &cp), 0);
    assert_int_equal(mk_utf8_first_invalid("ab\xC3\xA9\xFFz", 6), 4);
    assert_int_equal(mk_utf8_first_invalid("a\0b", 3), 3);
    assert_true(mk_utf8_valid("", 0));
    // a tail that can no longer become a character is not incomplete, it is wrong
    assert_int_equal(mk_utf8_incomplete_tail("\xE0\x80", 2), 0);
    assert_int_equal(mk_utf8_incomplete_tail("\xED\xA0", 2), 0);
    assert_int_equal(mk_utf8_incomplete_tail("\xC0", 1), 0);
    assert_int_equal(mk_utf8_incomplete_tail("\x80\x80\x80\x80", 4), 0);
    assert_int_equal(mk_utf8_incomplete_tail("", 0), 0);
    assert_int_equal(mk_utf8_incomplete_tail("abc\xF0\x9F\x98", 6), 3);
}

static void test_printable(void **state) {
    (void)state;
    char s[] = "a\tb\xC2\x85"
               "c\xE2\x80\xAE\xE2\x82\xAC\xF0\x9F\x98\x80\xC3";
    mk_utf8_make_printable(s, strlen(s));
    assert_string_equal(s, "a?b??c???\xE2\x82\xAC\xF0\x9F\x98\x80?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_no_other_sequence),
        cmocka_unit_test(test_forbidden),
        cmocka_unit_test(test_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
