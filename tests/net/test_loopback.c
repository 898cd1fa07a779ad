// Which addresses are of this machine alone.  A name that only looks like one would open a server
// without a key, or let a page of somewhere else in (DNS rebinding).
#include "cmocka_all.h"

#include "net/loopback.h"

static void test_addresses(void **state) {
    (void)state;
    static const char *const yes[] = {
        "localhost",        "LocalHost",          "127.0.0.1",     "127.0.0.2",
        "127.255.255.255",  "127.0.0.0",          "::1",           "[::1]",
        "0:0:0:0:0:0:0:1",  "[0::0:1]",           "0:0::1",        "[::0001]",
        "::ffff:127.0.0.1", "[::FFFF:127.8.0.1]", "::ffff:7f00:1",
    };
    static const char *const no[] = {
        "",
        ".",
        "localhos",
        "localhost.",
        "localhost.evil.example",
        "localhosts",
        "xlocalhost",
        "[localhost]",
        "127.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.",
        "127.0.0.256",
        "127.0.0",
        "127.1",
        "127",
        "2130706433",
        "0x7f.0.0.1",
        "128.0.0.1",
        "126.255.255.255",
        "0.0.0.0",
        "1.127.0.0",
        "192.168.127.1",
        "[127.0.0.1]",
        "::",
        "[::]",
        "::2",
        "1::1",
        "::1:1",
        "[::1",
        "::1]",
        "[]",
        "[::1].evil.example",
        "::ffff:128.0.0.1",
        "::ffff:0:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "fe80::1",
        " 127.0.0.1",
        "127.0.0.1 ",
        "127.0.0.1/8",
        "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0001",
    };
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        if (!mk_is_loopback(yes[i], strlen(yes[i]))) {
            fail_msg("'%s' is an address of this machine alone", yes[i]);
        }
    }
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        if (mk_is_loopback(no[i], strlen(no[i]))) {
            fail_msg("'%s' is not an address of this machine alone", no[i]);
        }
    }
}

// The length counts, not a NUL behind it.
static void test_lengths(void **state) {
    (void)state;
    assert_true(mk_is_loopback("127.0.0.1:8484", 9));
    assert_false(mk_is_loopback("127.0.0.1:8484", 14));
    assert_true(mk_is_loopback("[::1]:8484", 5));
    assert_true(mk_is_loopback("localhost:8484", 9));
    assert_false(mk_is_loopback("localhost", 8));
    assert_false(mk_is_loopback("127.0.0.1\0evil", 14));
    assert_false(mk_is_loopback("localhost\0", 10));
}

static void test_what_is_an_address(void **state) {
    (void)state;
    static const char *const yes[] = {"192.168.1.7", "10.0.0.1",      "127.0.0.1", "0.0.0.0",
                                      "fe80::1",     "[2001:db8::1]", "::"};
    static const char *const no[] = {
        "",          "localhost",    "a.b",        "1.2.3",    "1.2.3.4.evil.example",
        "[1.2.3.4]", "3232235777",   "0x7f.0.0.1", "1.2.3.4.", "[]",
        "[::1",      "fe80::1%eth0", "1.2.3.256"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!mk_is_address(yes[i], strlen(yes[i]))) {
            fail_msg("%s is an address", yes[i]);
        }
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (mk_is_address(no[i], strlen(no[i]))) {
            fail_msg("%s is no address", no[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_what_is_an_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
