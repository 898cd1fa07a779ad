// Secrets: where they come from, that every digit is equally likely, and what happens without the
// system's generator.  This program's own getentropy stands in for the C library's.
#include "cmocka_all.h"

#include <errno.h>
#include <unistd.h>

#include "base/secret.h"

typedef enum { REAL, COUNTING, NONE } generator;
static generator from;
static unsigned char next;
static size_t n_call, n_byte, most;

int getentropy(void *p, size_t n) {
    unsigned char *to = p;
    n_call++;
    n_byte += n;
    most = n > most ? n : most;
    if (from == NONE) {
        errno = ENOSYS;
        return -1;
    }
    if (from == COUNTING) {
        for (size_t i = 0; i < n; i++) {
            to[i] = next++;
        }
        return 0;
    }
    FILE *f = fopen("/dev/urandom", "rb");
    assert_non_null(f);
    assert_int_equal(fread(p, 1, n, f), n);
    (void)fclose(f);
    return 0;
}

static void begin(generator g) {
    from = g;
    next = 0;
    n_call = n_byte = most = 0;
}

static void test_bytes(void **state) {
    (void)state;
    unsigned char b[1000];
    mk_err err = {0};
    begin(COUNTING);
    memset(b, 0xAA, sizeof b);
    assert_int_equal(mk_secret_bytes(b, 999, &err), MK_OK);
    for (int i = 0; i < 999; i++) {
        assert_int_equal(b[i], i & 255);
    }
    assert_int_equal(b[999], 0xAA);
    assert_int_equal(n_byte, 999);
    assert_int_equal(most, 256);  // the C library refuses more
    begin(COUNTING);
    assert_int_equal(mk_secret_bytes(b, 0, &err), MK_OK);
    assert_int_equal(n_call, 0);
}

// Of 62 * 4 bytes in a row every digit comes four times, and the eight that are left make none.
static void test_every_digit_is_equally_likely(void **state) {
    (void)state;
    char text[63 * 4 + 2];
    int n[256] = {0};
    mk_err err = {0};
    begin(COUNTING);
    assert_int_equal(mk_secret_text(text, 62 * 4 + 1, &err), MK_OK);
    assert_int_equal(strlen(text), 62 * 4 + 1);
    assert_int_equal(text[62 * 4], text[0]);
    for (int i = 0; i < 62 * 4; i++) {
        n[(unsigned char)text[i]]++;
    }
    for (int c = 0; c < 256; c++) {
        bool digit = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        assert_int_equal(n[c], digit ? 4 : 0);
    }
    assert_int_equal(mk_secret_text(text, 0, &err), MK_OK);
    assert_string_equal(text, "");
}

static void test_two_are_two(void **state) {
    (void)state;
    char a[25], b[25];
    mk_err err = {0};
    begin(REAL);
    assert_int_equal(mk_secret_text(a, 24, &err), MK_OK);
    assert_int_equal(mk_secret_text(b, 24, &err), MK_OK);
    assert_string_not_equal(a, b);
}

static void test_without_a_generator(void **state) {
    (void)state;
    char text[9] = "12345678";
    unsigned char b[3] = {1, 2, 3};
    mk_err err = {0};
    begin(NONE);
    assert_int_equal(mk_secret_text(text, 8, &err), MK_EIO);
    assert_non_null(strstr(err.msg, "random"));
    for (size_t i = 0; i < sizeof text; i++) {
        assert_int_equal(text[i], 0);
    }
    assert_int_equal(mk_secret_bytes(b, 3, &err), MK_EIO);
    assert_int_equal(b[0] | b[1] | b[2], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_every_digit_is_equally_likely),
        cmocka_unit_test(test_two_are_two),
        cmocka_unit_test(test_without_a_generator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
