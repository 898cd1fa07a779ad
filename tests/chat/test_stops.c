// Stop texts: every way of cutting a text into two or three pieces gives the same output as the
// plain definition (everything before the first complete stop text).
#include "cmocka_all.h"

#include "chat/stops.h"

static size_t plain(const char *text, const char *const *stop, int n_stop) {
    size_t at = strlen(text);
    for (int i = 0; i < n_stop; i++) {
        const char *hit = strstr(text, stop[i]);
        if (hit && (size_t)(hit - text) < at) {
            at = (size_t)(hit - text);
        }
    }
    return at;
}

static void check(const char *text, const char *const *stop, int n_stop, size_t a, size_t b) {
    mk_stops s;
    mk_buf out;
    size_t n = strlen(text), cuts[4] = {0, a, b, n};
    mk_stops_init(&s, stop, n_stop);
    mk_buf_init(&out, 1 << 16);
    bool hit = false;
    for (int i = 0; i < 3; i++) {
        hit = mk_stops_push(&s, text + cuts[i], cuts[i + 1] - cuts[i], &out);
    }
    mk_stops_finish(&s, &out);
    size_t want = plain(text, stop, n_stop);
    assert_int_equal(hit, want < n);
    assert_int_equal(out.len, want);
    assert_memory_equal(out.data ? out.data : "", text, want);
    mk_buf_free(&out);
    mk_stops_free(&s);
}

static void test_every_cut(void **state) {
    (void)state;
    static const char *const stop[] = {"</s>", "abab", "b\n\n", "x"};
    static const char *const texts[] = {"hello </s> tail", "aababab", "</</s", "no stop at all",
                                        "ab\n\nab",        "a</s",    "abax"};
    for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++) {
        size_t n = strlen(texts[t]);
        for (int k = 0; k <= 4; k++) {
            for (size_t a = 0; a <= n; a++) {
                for (size_t b = a; b <= n; b++) {
                    check(texts[t], stop, k, a, b);
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
