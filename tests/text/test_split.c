// Every rule of the pre-tokenizers against the regex it stands for, run by PCRE2: around each code
// point of Unicode, and on random mixtures.  PCRE2 is the independent engine; its Unicode is one
// version older than utf8proc's, so code points that it does not know are left out.
#include "cmocka_all.h"

#include <utf8proc.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "text/regex.h"
#include "text/split.h"

typedef struct {
    const mk_split_rule *rule;
    mk_regex *re;
    mk_match *m;
    mk_uclass u;
    mk_regex *assigned;
} fixture;

// Both engines over one text; false and a message at the first difference.
static bool same_splits(fixture *f, const char *text, size_t n) {
    size_t at = 0;
    while (at < n) {
        size_t s1 = 0, e1 = 0, s2 = 0, e2 = 0;
        bool found2;
        mk_err err = {0};
        bool found1 = mk_split_find(f->rule, &f->u, text, n, at, &s1, &e1);
        if (mk_regex_find(f->re, f->m, text, n, at, &found2, &s2, &e2, &err) != MK_OK) {
            fail_msg("%s", err.msg);
        }
        if (found1 != found2 || (found1 && (s1 != s2 || e1 != e2))) {
            fprintf(stderr, "%.60s\n  at %zu: rule %d %zu-%zu, PCRE2 %d %zu-%zu in", f->rule->regex,
                    at, found1, s1, e1, found2, s2, e2);
            for (size_t i = 0; i < n; i++) {
                fprintf(stderr, " %02x", (unsigned char)text[i]);
            }
            fprintf(stderr, "\n");
            return false;
        }
        if (!found1) {
            break;
        }
        at = e1;
    }
    return true;
}

static size_t put(char *p, uint32_t cp) {
    return (size_t)mk_utf8_encode(cp, p);
}

// Does PCRE2 know this code point, and is it one a text can hold?
static bool usable(fixture *f, uint32_t cp) {
    if (cp >= 0xD800 && cp < 0xE000) {
        return false;
    }
    char c[4];
    size_t n = put(c, cp), s, e;
    bool known = false;
    mk_err err = {0};
    assert_int_equal(mk_regex_find(f->assigned, f->m, c, n, 0, &known, &s, &e, &err), MK_OK);
    bool ours = utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_CN;
    return known == ours;
}

static int sweep_unicode(fixture *f) {
    int bad = 0;
    for (uint32_t cp = 0; cp <= 0x10FFFF && bad < 5; cp++) {
        if (cp == 0x40000) {
            cp = 0xE0000;  // nothing is assigned between
        }
        if (cp == 0xE1000) {
            cp = 0x10FF00;
        }
        // the common ideographs and syllables are alike: every 16th is enough
        bool dense = (cp >= 0x3400 && cp < 0xA000) || (cp >= 0xAC00 && cp < 0xD7A0) ||
                     (cp >= 0x20000 && cp < 0x32000);
        if ((dense && cp % 16 != 0) || !usable(f, cp)) {
            continue;
        }
        char t[64];
        size_t n = 0;
        t[n++] = 'a';
        n += put(t + n, cp);
        n += put(t + n, cp);
        memcpy(t + n, "B1", 2);
        n += 2;
        n += put(t + n, cp);
        memcpy(t + n, "  ", 2);
        n += 2;
        n += put(t + n, cp);
        memcpy(t + n, "'s\n.", 4);
        n += 4;
        n += put(t + n, cp);
        bad += !same_splits(f, t, n);
    }
    return bad;
}

static int sweep_random(fixture *f, uint64_t seed) {
    static const uint32_t pool[] = {
        ' ',     ' ',    '\n',   '\r',    '\t',   'a',    'B',    'z',    's',    'S',    't',
        'l',     'L',    'r',    'e',     'E',    'v',    'd',    'm',    '\'',   '\'',   '1',
        '2',     '9',    '0',    '.',     '!',    '/',    '$',    '<',    '`',    '_',    0xE9,
        0xC9,    0x301,  0x17F,  0x4E00,  0x9FA5, 0x9FA6, 0x3042, 0x30AB, 0x3000, 0x3001, 0xAC00,
        0x661,   0xBD,   0x2160, 0x1C5,   0x2B0,  0x5D0,  0x85,   0xA0,   0x200B, 0x180E, 0x2028,
        0x1F600, 0x200D, 0xFE0F, 0x20000, 0xAA,   0x3005, 0x3007, 0xFF01, 0x2019, 0x7F,   0x0};
    int bad = 0;
    for (uint64_t i = 0; i < 20000 && bad < 5; i++) {
        char t[128];
        size_t n = 0, len = 1 + mk_rng_u64(seed, i * 64) % 20;
        for (uint64_t k = 0; k < len; k++) {
            n +=
                put(t + n, pool[mk_rng_u64(seed, i * 64 + 1 + k) % (sizeof pool / sizeof pool[0])]);
        }
        bad += !same_splits(f, t, n);
    }
    return bad;
}

static void test_rules(void **state) {
    (void)state;
    fixture f = {0};
    mk_err err = {0};
    assert_true(mk_uclass_init(&f.u));
    f.m = mk_match_create();
    assert_int_equal(mk_regex_compile("\\P{Cn}", 6, &f.assigned, &err), MK_OK);
    int bad = 0;
    for (int i = 0; i < mk_split_n_all; i++) {
        f.rule = mk_split_all[i];
        // the one rule that says something else than its regex: see split.h
        const char *re = f.rule == &mk_rule_space_end ? "\\s+\\z" : f.rule->regex;
        if (mk_regex_compile(re, strlen(re), &f.re, &err) != MK_OK) {
            fail_msg("%s", err.msg);
        }
        bad += sweep_unicode(&f);
        bad += sweep_random(&f, (uint64_t)i);
        mk_regex_destroy(f.re);
    }
    assert_int_equal(bad, 0);
    mk_regex_destroy(f.assigned);
    mk_match_destroy(f.m);
    mk_uclass_free(&f.u);
}

// Classes over all of Unicode against utf8proc and PCRE2's own properties.
static void test_classes(void **state) {
    (void)state;
    static const struct {
        const char *re;
        unsigned mask;
    } rows[] = {{"\\p{L}", MK_C_LETTER}, {"\\p{N}", MK_C_NUM},          {"\\p{P}", MK_C_PUNCT},
                {"\\p{S}", MK_C_SYM},    {"\\p{M}", MK_C_MARK},         {"\\p{Han}", MK_C_HAN},
                {"\\s", MK_C_WS},        {"[\\p{Lu}\\p{Lt}]", MK_C_UP}, {"\\p{Ll}", MK_C_LOW}};
    fixture f = {0};
    mk_err err = {0};
    assert_true(mk_uclass_init(&f.u));
    f.m = mk_match_create();
    assert_int_equal(mk_regex_compile("\\P{Cn}", 6, &f.assigned, &err), MK_OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(mk_regex_compile(rows[i].re, strlen(rows[i].re), &f.re, &err), MK_OK);
        for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
            cp = cp == 0x40000 ? 0xE0000 : cp == 0xE1000 ? 0x10FF00 : cp;  // nothing, private use
            if (!usable(&f, cp)) {
                continue;
            }
            char c[4];
            size_t n = put(c, cp), s, e;
            bool want = false;
            assert_int_equal(mk_regex_find(f.re, f.m, c, n, 0, &want, &s, &e, &err), MK_OK);
            if (want != ((mk_uclass_of(&f.u, cp) & rows[i].mask) != 0)) {
                fail_msg("%s: U+%04X, PCRE2 says %d", rows[i].re, cp, want);
            }
        }
        mk_regex_destroy(f.re);
    }
    mk_regex_destroy(f.assigned);
    mk_match_destroy(f.m);
    mk_uclass_free(&f.u);
}

// Hostile lengths must not cost more than linear time: 4 MB of each in well under the time limit of
// a test.
static void test_linear(void **state) {
    (void)state;
    static const char *const units[] = {" ",        "\n",           "a",   "A",   "'", "1", ".",
                                        "\xCC\x81", "\xE4\xB8\x80", " \t", "\xFF"};
    mk_uclass u;
    assert_true(mk_uclass_init(&u));
    size_t n = (size_t)1 << 20;
    char *text = mk_alloc(n + 8);
    for (size_t k = 0; k < sizeof units / sizeof units[0]; k++) {
        size_t len = strlen(units[k]);
        for (size_t i = 0; i + len <= n; i += len) {
            memcpy(text + i, units[k], len);
        }
        for (int r = 0; r < mk_split_n_all; r++) {
            size_t at = 0, s, e, total = n - n % len;
            while (at < total && mk_split_find(mk_split_all[r], &u, text, total, at, &s, &e)) {
                at = e;
            }
        }
    }
    mk_free(text);
    mk_uclass_free(&u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
