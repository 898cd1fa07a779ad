// The template interpreter: several hundred small templates with jinja2's own results
// (tests/golden/gen_jinja.py), the origin of text, bounds, and what happens when memory runs out.
#include <time.h>

#include "chat/chat_util.h"
#include "chat/jinja.h"

#define NOW 1772719629  // the date of the generator

static mk_status render(const char *tpl, size_t n, const json_t *vars, mk_jinja_text *out,
                        mk_err *err) {
    mk_jinja *j = NULL;
    mk_jinja_limits lim = {.now = NOW};
    *out = (mk_jinja_text){0};
    mk_status st = mk_jinja_compile(tpl, n, &j, err);
    if (st == MK_OK) {
        st = mk_jinja_render_text(j, &(mk_jinja_vars){.user = vars}, &lim, out, err);
    }
    mk_jinja_destroy(j);
    return st;
}

// --- against jinja2 ------------------------------------------------------------------------------
static bool contains_printable(const char *msg, const char *want) {
    char text[512];
    size_t i = 0;
    for (; want[i] != 0 && i + 1 < sizeof text; i++) {
        text[i] = (unsigned char)want[i] < 0x20 ? '?' : want[i];
    }
    text[i] = 0;
    return strstr(msg, text) != NULL;
}

static bool agrees(const char *kind, const json_t *want, mk_status st, const mk_jinja_text *out,
                   const mk_err *err) {
    const char *text = json_string_value(want), *got = out->text.data != NULL ? out->text.data : "";
    if (strcmp(kind, "ok") == 0) {
        return st == MK_OK && out->text.len == json_string_length(want) &&
               memcmp(got, text, out->text.len) == 0;
    }
    if (strcmp(kind, "raised") == 0 || strcmp(kind, "undefined") == 0) {
        return st == MK_ETEMPLATE &&
               (contains_printable(err->msg, text) || strstr(text, "gen_templates.") != NULL);
    }
    return st == MK_ETEMPLATE || (st == MK_ELIMIT && strstr(text, "recursion") != NULL);
}

static void small_templates(void **state) {
    (void)state;
    mk_err err = {0};
    json_t *golden = NULL, *row;
    size_t i;
    int bad = 0;
    if (mk_json_file("tests/golden/templates/expressions.json", 8u << 20, &golden, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    const json_t *vars = json_object_get(golden, "vars");
    const json_t *cases = json_object_get(golden, "cases");
    json_array_foreach((json_t *)(uintptr_t)cases, i, row) {
        const json_t *tpl = json_array_get(row, 0), *want = json_array_get(row, 2);
        const char *kind = json_string_value(json_array_get(row, 1));
        mk_jinja_text out;
        memset(&err, 0, sizeof err);
        mk_status st = render(json_string_value(tpl), json_string_length(tpl), vars, &out, &err);
        if (!agrees(kind, want, st, &out, &err)) {
            bad++;
            fprintf(stderr, "%s\n    want %s: %s\n    got  %s: %s\n", json_string_value(tpl), kind,
                    json_string_value(want), mk_status_name(st),
                    st != MK_OK             ? err.msg
                    : out.text.data != NULL ? out.text.data
                                            : "");
        }
        mk_jinja_text_free(&out);
    }
    assert_true(json_array_size(cases) > 600);
    assert_int_equal(bad, 0);
    json_decref(golden);
}

// --- origin --------------------------------------------------------------------------------------
// The user's bytes as a string of the text's length: u = user, . = template.
static void assert_origin(const char *tpl, const char *text, const char *origin) {
    mk_err err = {0};
    mk_jinja_text out;
    json_t *vars = parse("{\"u\":\"<U "
                         "é>\",\"l\":[\"ab\",\"cd\"],\"d\":{\"key\":\"val\"},\"m\":[{\"role\":"
                         "\"user\"},{\"role\":\"evil\"}]}");
    static const char *const roles[] = {"user", NULL};
    mk_jinja *j = NULL;
    char got[256];
    assert_int_equal(mk_jinja_compile(tpl, strlen(tpl), &j, &err), MK_OK);
    if (mk_jinja_render_text(j, &(mk_jinja_vars){.user = vars, .plain_roles = roles}, NULL, &out,
                             &err) != MK_OK) {
        fail_msg("%s: %s", tpl, err.msg);
    }
    assert_string_equal(out.text.data, text);
    size_t at = 0;
    for (size_t i = 0; i < out.n_runs; i++) {
        for (; at < out.runs[i].end; at++) {
            got[at] = out.runs[i].user ? 'u' : '.';
        }
    }
    got[at] = 0;
    assert_int_equal(at, out.text.len);
    if (strcmp(got, origin) != 0) {
        fail_msg("%s\n  text   %s\n  want   %s\n  got    %s", tpl, text, origin, got);
    }
    mk_jinja_text_free(&out);
    mk_jinja_destroy(j);
    json_decref(vars);
}

static void origin_survives(void **state) {
    (void)state;
    assert_origin("a{{ u }}b", "a<U é>b", ".uuuuuu.");
    assert_origin("{{ 'x' + u ~ 'y' }}", "x<U é>y", ".uuuuuu.");
    assert_origin("{{ u[1:3] ~ u[0] ~ u[::-1] }}", "U <>é U<", "uuuuuuuuu");
    assert_origin("{{ u|upper|trim('<>') }}", "U É", "uuuu");
    assert_origin("{{ u|replace('U', 'tpl') }}", "<tpl é>", "u...uuuu");
    assert_origin("{{ u.split(' ')|join('|') }}", "<U|é>", "uu.uuu");
    assert_origin("{{ l|join(', ') }}", "ab, cd", "uu..uu");
    assert_origin("{{ d|tojson }}", "{\"key\": \"val\"}", "..uuu....uuu..");
    assert_origin("{{ d }}", "{'key': 'val'}", "..uuu....uuu..");
    assert_origin("{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %}", "key=val", "uuu.uuu");
    assert_origin("{% set x %}[{{ u }}]{% endset %}{{ x }}{{ x|length }}", "[<U é>]7", ".uuuuuu..");
    assert_origin("{% macro f(a) %}({{ a }}){% endmacro %}{{ f(u)|e }}", "(&lt;U é&gt;)",
                  ".uuuuuuuuuuuu.");
    assert_origin("{{ '%s-%5s' % (u, 'q') }}", "<U é>-    q", "uuuuuu......");
    assert_origin("{{ '{}:{!r}'.format(l[0], l[1]) }}", "ab:'cd'", "uu..uu.");
    assert_origin("{{ (u ~ 'T')|indent(2, true) }}", "  <U é>T", "..uuuuuu.");
    assert_origin("{{ u * 2 }}", "<U é><U é>", "uuuuuuuuuuuu");
    assert_origin("{{ l|sort(reverse=true)|first }}{{ u|reverse }}", "cd>é U<", "uuuuuuuu");
    assert_origin("{{ u|tojson(ensure_ascii=true) }}", "\"<U \\u00e9>\"", ".uuuuuuuuuu.");
    assert_origin("<|{{ m[0].role }}|><|{{ m[1].role }}|>", "<|user|><|evil|>", "..........uuuu..");
}

// --- bounds --------------------------------------------------------------------------------------
static void assert_bounded(const char *tpl, mk_status want) {
    mk_err err = {0};
    mk_jinja_text out;
    struct timespec a, b;
    json_t *vars = parse("{\"s\":\"xxxxxxxxxxxxxxxx\",\"l\":[1,2,3]}");
    clock_gettime(CLOCK_MONOTONIC, &a);
    mk_status st = render(tpl, strlen(tpl), vars, &out, &err);
    clock_gettime(CLOCK_MONOTONIC, &b);
    if (st != want) {
        fail_msg("%.80s: want %s, got %s: %s", tpl, mk_status_name(want), mk_status_name(st),
                 err.msg);
    }
    assert_true(b.tv_sec - a.tv_sec < 12);
    mk_jinja_text_free(&out);
    json_decref(vars);
}

static void bounds(void **state) {
    (void)state;
    assert_bounded("{% for a in range(10**9) %}x{% endfor %}",
                   MK_ETEMPLATE);  // the sandbox's own bound
    assert_bounded(
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        MK_ELIMIT);
    assert_bounded("{{ 'x' * 10**9 }}", MK_ELIMIT);
    assert_bounded("{{ 'x' * 10**8 }}", MK_ELIMIT);
    assert_bounded("{{ [0] * 10**9 }}", MK_ELIMIT);
    assert_bounded("{% set ns = namespace(s=s) %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s "
                   "%}{% endfor %}",
                   MK_ELIMIT);
    assert_bounded("{% set ns = namespace(s=l) %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s "
                   "%}{% endfor %}",
                   MK_ELIMIT);
    assert_bounded("{% set x = 'y' * 30000000 %}{{ x }}{{ x }}{{ x }}", MK_ELIMIT);  // output
    assert_bounded("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", MK_ELIMIT);
    assert_bounded("{% macro f(x) %}{{ f(x + 1) ~ f(x + 1) }}{% endmacro %}{{ f(0) }}", MK_ELIMIT);
    assert_bounded("{% for x in [l] recursive %}{{ loop([x]) }}{% endfor %}", MK_ELIMIT);
    assert_bounded("{% set ns = namespace(x=1) %}{% for a in range(9999) %}{% set ns.x = [ns.x] "
                   "%}{% endfor %}{{ ns.x }}",
                   MK_ELIMIT);
    assert_bounded("{% set ns = namespace(x=1) %}{% for a in range(9999) %}{% set ns.x = [ns.x] "
                   "%}{% endfor %}{{ ns.x|tojson }}",
                   MK_ELIMIT);
    assert_bounded("{% set ns = namespace(x=1, y=1) %}{% for a in range(9999) %}{% set ns.x = "
                   "[ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
                   MK_ELIMIT);
    assert_bounded("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", MK_ELIMIT);
    assert_bounded("{{ '%9999999d' % 1 }}", MK_ELIMIT);
    assert_bounded("{{ 'a'.center(10**12) }}", MK_ELIMIT);
    assert_bounded("{{ ('a' * 1000000).replace('a', 'b' * 1000) }}", MK_ELIMIT);
    assert_bounded("{{ ('a' * 4000000).rsplit('a' * 2000000 ~ 'b') }}", MK_ELIMIT);
    assert_bounded("{{ ('a' * 4000000).strip('b' * 4000000 ~ 'a') }}", MK_ELIMIT);
    assert_bounded("{{ 2 ** 63 }}", MK_ETEMPLATE);
    assert_bounded("{{ 99999999999999999999 }}", MK_ETEMPLATE);
    assert_bounded("{{ (-9223372036854775807 - 1) // -1 }}", MK_ETEMPLATE);
    assert_bounded("{{ (-9223372036854775807 - 1) % -1 }}", MK_OK);
    assert_bounded("{{ -(-9223372036854775807 - 1) }}", MK_ETEMPLATE);
    assert_bounded(
        "{{ l[9223372036854775807:] }}{{ l[-9223372036854775807 - 1::-9223372036854775807 - 1] }}",
        MK_OK);
}

static char *repeat(const char *open, const char *mid, const char *close, int n) {
    size_t a = strlen(open), b = strlen(mid), c = strlen(close);
    char *s = mk_zalloc((a + c) * (size_t)n + b + 1);
    for (int i = 0; i < n; i++) {
        memcpy(s + a * (size_t)i, open, a);
        memcpy(s + a * (size_t)n + b + c * (size_t)i, close, c);
    }
    memcpy(s + a * (size_t)n, mid, b);
    return s;
}

static void nesting(void **state) {
    (void)state;
    static const struct {
        const char *open, *mid, *close;
        int fine, deep;
    } rows[] = {
        {"{{ (", "1) }}", "", 1, 1},
        {"", "", "", 1, 1},
        {"{% if 1 %}", "x", "{% endif %}", 60, 100000},
        {"{% for a in [1] %}", "x", "{% endfor %}", 60, 30000},
        {"{% macro f() %}", "x", "{% endmacro %}", 60, 30000},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *fine = repeat(rows[i].open, rows[i].mid, rows[i].close, rows[i].fine);
        assert_bounded(fine, MK_OK);
        mk_free(fine);
        if (rows[i].deep > 1) {
            char *deep = repeat(rows[i].open, rows[i].mid, rows[i].close, rows[i].deep);
            assert_bounded(deep, MK_ELIMIT);
            mk_free(deep);
        }
    }
    static const char *const inner[][2] = {{"(", ")"},           {"[", "]"},
                                           {"not ", ""},         {"-", ""},
                                           {"1 if 1 else ", ""}, {"{1:", "}"},
                                           {"x(", ")"},          {"x[", "]"},
                                           {"1 + ", ""},         {"1 ** ", ""},
                                           {"", "|e"},           {"", ".a"},
                                           {"1 < (", ")"},       {"", " is defined or 1"}};
    for (size_t i = 0; i < sizeof inner / sizeof inner[0]; i++) {
        char *body = repeat(inner[i][0], "1", inner[i][1], 50000),
             *tpl = mk_alloc(strlen(body) + 16);
        sprintf(tpl, "{{ %s }}", body);
        assert_bounded(tpl, MK_ELIMIT);
        mk_free(tpl);
        mk_free(body);
    }
}

// Lists that hold themselves: whatever descends into them ends at a bound, and all is given back.
static void lists_in_themselves(void **state) {
    (void)state;
    static const char *const endless[] = {"{{ a }}",
                                          "{{ a|tojson }}",
                                          "{{ a|string|length }}",
                                          "{{ a == b }}",
                                          "{{ a in [b] }}",
                                          "{{ a }}",
                                          "{{ {'k': a}|tojson(2) }}",
                                          "{{ a < b }}",
                                          "{{ '%s' % a }}",
                                          "{{ a|join }}",
                                          "{{ a|unique|list }}",
                                          "{{ [a, b]|sort }}",
                                          "{{ a|pprint }}",
                                          "{{ a.index(b) }}",
                                          "{% for x in a %}{% set _ = a.append(x) %}{% endfor %}"};
    static const char make[] = "{% set a = [] %}{% set _ = a.append([a, a]) %}"
                               "{% set b = [] %}{% set _ = b.append([b, b]) %}";
    int64_t live = mk_alloc_live();
    for (size_t i = 0; i < sizeof endless / sizeof endless[0]; i++) {
        char tpl[512];
        mk_err err = {0};
        mk_jinja_text out;
        snprintf(tpl, sizeof tpl, "%s%s", make, endless[i]);
        mk_status st = render(tpl, strlen(tpl), NULL, &out, &err);
        if (st != MK_ELIMIT && st != MK_ETEMPLATE) {
            fail_msg("%s: %s", endless[i], mk_status_name(st));
        }
        mk_jinja_text_free(&out);
    }
    assert_int_equal(mk_alloc_live(), live);
    static const char grows[] =
        "{% set a = ['x'] %}{% for i in range(90000) %}{% for k in range(90000)"
        " %}{% set _ = a.append(a) %}{% endfor %}{% endfor %}";
    assert_bounded(grows, MK_ELIMIT);
}

static void json_depth(void **state) {
    (void)state;
    mk_err err = {0};
    mk_jinja_text out;
    json_t *v = json_integer(1);
    for (int i = 0; i < 1000; i++) {
        json_t *l = json_array();
        json_array_append_new(l, v);
        v = l;
    }
    json_t *vars = json_pack("{s:o}", "x", v);
    assert_int_equal(render("{{ x }}", 7, vars, &out, &err), MK_ELIMIT);
    assert_int_equal(render("no x", 4, vars, &out, &err), MK_OK);
    mk_jinja_text_free(&out);
    json_decref(vars);
}

static void bad_bytes(void **state) {
    (void)state;
    mk_err err = {0};
    mk_jinja *j = NULL;
    assert_int_equal(mk_jinja_compile("a\xff", 2, &j, &err), MK_ETEMPLATE);
    assert_int_equal(mk_jinja_compile("{{ '\xed\xa0\x80' }}", 11, &j, &err), MK_ETEMPLATE);
    char *big = mk_zalloc((2u << 20) + 1);
    memset(big, 'a', 2u << 20);
    assert_int_equal(mk_jinja_compile(big, 2u << 20, &j, &err), MK_ELIMIT);
    mk_free(big);
    mk_jinja_text out;
    assert_int_equal(render("a\0{{ 1 }}\0", 10, NULL, &out, &err), MK_OK);
    assert_int_equal(out.text.len, 4);
    assert_memory_equal(out.text.data, "a\0001\0", 4);
    mk_jinja_text_free(&out);
}

static void line_numbers(void **state) {
    (void)state;
    mk_err err = {0};
    mk_jinja *j = NULL;
    mk_jinja_text out;
    assert_int_equal(mk_jinja_compile("a\nb\n{{ 1 + }}", 13, &j, &err), MK_ETEMPLATE);
    assert_non_null(strstr(err.msg, "line 3"));
    assert_int_equal(mk_jinja_compile("{#\n\n-#}\n\n{% for %}", 18, &j, &err), MK_ETEMPLATE);
    assert_non_null(strstr(err.msg, "line 5"));
    assert_int_equal(render("\n\n{{ x.y }}", 11, NULL, &out, &err), MK_ETEMPLATE);
    assert_non_null(strstr(err.msg, "line 3"));
    assert_non_null(strstr(err.msg, "'x' is undefined"));
}

// --- memory --------------------------------------------------------------------------------------
static const char everything[] =
    "{% macro f(a, b=1) %}{{ a }}{{ varargs }}{{ caller() if caller else '' }}{% endmacro %}{{ "
    "f(1, 2, 3) }}"
    "{% set ns = namespace(x=[]) %}{% for k, v in d.items() %}{% set ns.x = ns.x + [k ~ v] %}{{ "
    "loop.last }}{% endfor %}"
    "{% set t | upper %}{{ u }}é{% endset %}{{ t }}{{ d|tojson(indent=2) }}{{ "
    "l|sort|map('string')|join(',') }}"
    "{{ '%s %5.1f' % (u, 1.5) }}{{ '{:>5}'.format(u) }}{{ u.split('b')[::-1] }}{{ m|groupby('r') "
    "}}{% call f(1) %}c{% endcall %}"
    "{{ u|replace('a', 'bb')|indent|e }}{{ (u ~ 'x') * 300 }}";

static void out_of_memory(void **state) {
    (void)state;
    json_t *vars = parse("{\"u\":\"abab\",\"l\":[3,1,2],\"d\":{\"k\":\"v\",\"w\":[1,{\"z\":null}]},"
                         "\"m\":[{\"r\":\"b\"},{\"r\":\"a\"}]}");
    int64_t live = mk_alloc_live();
    bool done = false;
    int n = 1;
    for (; !done && n < 10000; n++) {
        mk_err err = {0};
        mk_jinja_text out;
        mk_alloc_fail_at(n);
        mk_status st = render(everything, sizeof everything - 1, vars, &out, &err);
        mk_alloc_fail_at(0);
        done = st == MK_OK;
        if (st != MK_OK && st != MK_ENOMEM) {
            fail_msg("allocation %d: %s: %s", n, mk_status_name(st), err.msg);
        }
        mk_jinja_text_free(&out);
        assert_int_equal(mk_alloc_live(), live);
    }
    assert_true(done);
    assert_true(n > 5);
    json_decref(vars);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_templates),
        cmocka_unit_test(origin_survives),
        cmocka_unit_test(bounds),
        cmocka_unit_test(nesting),
        cmocka_unit_test(json_depth),
        cmocka_unit_test(bad_bytes),
        cmocka_unit_test(lists_in_themselves),
        cmocka_unit_test(line_numbers),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
