// Grammars by tables: which texts a schema, a regex, a list or a GBNF text lets through, and what
// is refused with which words.
#include "cmocka_all.h"

#include "base/json.h"
#include "chat/grammar.h"

typedef enum { SCHEMA, REGEX, CHOICE, GBNF } form;

static mk_status compile(form f, const char *text, mk_grammar **g, mk_err *err) {
    json_t *v = NULL;
    mk_status st;
    if (f == REGEX) {
        return mk_grammar_from_regex(text, strlen(text), NULL, g, err);
    }
    if (f == GBNF) {
        return mk_grammar_from_gbnf(text, strlen(text), NULL, g, err);
    }
    if (mk_json_parse(text, strlen(text), "test", &v, err) != MK_OK) {
        fail_msg("%s: %s", text, err->msg);
    }
    st = f == SCHEMA ? mk_grammar_from_schema(v, NULL, g, err)
                     : mk_grammar_from_choice(v, NULL, g, err);
    json_decref(v);
    return st;
}

static bool accepts(mk_grammar *g, const char *text, size_t n) {
    mk_grammar_state *s = NULL;
    mk_err err = {0};
    assert_int_equal(mk_grammar_start(g, NULL, &s, &err), MK_OK);
    mk_status st = mk_grammar_feed(s, text, n, &err);
    bool ok = st == MK_OK && mk_grammar_can_end(s);
    // byte by byte is the same, and ends at the same place
    mk_grammar_rewind(s, 0);
    size_t i = 0;
    while (i < n && mk_grammar_feed(s, text + i, 1, NULL) == MK_OK) {
        i++;
    }
    assert_int_equal(i == n && mk_grammar_can_end(s), ok);
    assert_int_equal(mk_grammar_pos(s), i);
    mk_grammar_state_destroy(s);
    return ok;
}

typedef struct {
    form form;
    const char *text;
    const char *yes[12], *no[12];
} row;

static const row rows[] = {
    {REGEX, "abc", {"abc"}, {"ab", "abcd", "", "xabc"}},
    {REGEX, "(a+)+b", {"ab", "aaaaaaab"}, {"a", "b", "aaaaaa"}},
    {REGEX, "[^a-c]{2,3}", {"xy", "xyz", "\xc3\xa9\xe2\x82\xac"}, {"x", "wxyz", "xa", "\xc3\xa9"}},
    {REGEX, "^(?:\\d{3}-)?\\d{4}$", {"123-4567", "4567"}, {"123-456", "-4567"}},
    {REGEX, "(a?){0,3}b|", {"b", "ab", "aaab", ""}, {"aaaab", "a"}},
    {REGEX, "(a*){2,4}c", {"c", "aaaaaaaaac"}, {"a", "b"}},
    {REGEX, "((ab)?c?){2,1000}d", {"d", "abcd", "cccabd", "abababcccd"}, {"abbd", "cba"}},
    {REGEX, "x{2,}", {"xx", "xxxxxxxxxxxxx"}, {"x", ""}},
    {REGEX, "(ab|cd){3,5}", {"ababab", "abcdabcdab"}, {"abab", "cdcdcdcdcdcd"}},
    {REGEX, "[\\u0041-\\x43\\-\\]]+?", {"ABC", "-]"}, {"D", "\\"}},
    {REGEX,
     "a.c",
     {"abc", "a\xe2\x82\xac"
             "c"},
     {"a\nc", "ac"}},
    {REGEX, "\\ud83d\\ude00\\u{e9}+", {"\xf0\x9f\x98\x80\xc3\xa9"}, {"\xf0\x9f\x98\x80"}},
    {REGEX, "[]", {0}, {0}},
    {REGEX, "(?<year>\\d{4})\\/\\w\\s\\S\\W\\D", {"2024/a b+c"}, {"2024/a bcc"}},
    {REGEX, "[\\x{10}]", {0}, {0}},
    {CHOICE,
     "[\"yes\",\"no\",\"yesterday\",\"\"]",
     {"yes", "no", "yesterday", ""},
     {"ye", "yesno"}},
    {GBNF, "root ::= \"a\" b* # comment\nb ::= \"b\" | \"c\"", {"a", "abcb"}, {"b", "ad"}},
    {GBNF, "root ::= (\"a\"\n | \"b\")\n  \"c\"", {0}, {0}},
    {GBNF, "root ::= (\"a\"\n | \"b\") \"c\"{2,3}", {"acc", "bccc"}, {"ac", "bcccc"}},
    {GBNF,
     "root ::= e\ne ::= t (\"+\" t)*\nt ::= [0-9]+ | \"(\" e \")\"",
     {"1", "1+2+(3+(4))", "((((7))))"},
     {"1+", "(1", "(1))", ""}},
    {GBNF,
     "root ::= \"\\x41\\u00e9\\U0001F600\\\"\\n\" [^\\n\\]]? .{0,1}",
     {"A\xc3\xa9\xf0\x9f\x98\x80\"\n", "A\xc3\xa9\xf0\x9f\x98\x80\"\nx\n"},
     {"A"}},
    {GBNF, "root ::= a b\na ::= \"x\"?\nb ::= \"y\"?", {"", "x", "y", "xy"}, {"yx"}},
    {GBNF,
     "root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"\"",
     {"", "ab", "aabc", "aaaaaaaaaaaaaaaaaaaaaaaabcbcbcbcbcbcbcbcbcbcbcbc"},
     {"a", "aab", "abc"}},
    {GBNF, "root ::= \"a\"{3000} \"b\"", {0}, {"ab"}},
    {GBNF, "root ::= x{,2} \"!\"\nx ::= \"a\" |\n  \"b\"", {"!", "ab!"}, {"aba!"}},

    {SCHEMA,
     "true",
     {"1", "{}", "[1, \"a\"]", "\"\\ud83d\\ude00\"", "-0.5e-3", "null"},
     {"", "01", "\"\\ud83d\"", "\"\\ude00\"", "[1,]", "{\"a\" :1}", "\"\x01\"", "\"\xc3\"", "nul"}},
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":"
     "\"string\"},\"c\":{\"type\":\"boolean\"}},\"required\":[\"b\"]}",
     {"{\"a\":1,\"b\":\"x\",\"c\":true}", "{\"b\":\"\"}", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}",
      "{ \"b\":\"x\", \"c\":false }"},
     {"{}", "{\"a\":1}", "{\"b\":\"x\",\"a\":1}", "{\"b\":\"x\",}", "{,\"b\":\"x\"}",
      "{\"b\":\"x\",\"d\":1}", "{\"a\":1\"b\":\"x\"}", "{\"b\":1}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"additionalProperties\":"
     "{\"type\":\"integer\"}}",
     {"{}", "{\"a\":\"x\"}", "{\"b\":null,\"ab\":1}", "{\"c\":1,\"d\":2}", "{\"\":3}",
      "{\"a\":1,\"b\":2,\"bb\":7,\"\xc3\xa9\":1}"},
     {"{\"c\":\"x\"}", "{\"c\":1,\"a\":2}", "{\"c\":1,}", "{\"a\":1,\"a\":2}"}},
    {SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":4}",
     {"[1,2]", "[1, 2, 3, 4]", "[\n1,\n2\n]"},
     {"[]", "[1]", "[1,2,3,4,5]", "[1,2,]"}},
    {SCHEMA,
     "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],"
     "\"items\":{\"type\":\"boolean\"},\"minItems\":1}",
     {"[1]", "[1,\"a\"]", "[1,\"a\",true,false]"},
     {"[]", "[\"a\"]", "[1,true]", "[1,\"a\",1]"}},
    {SCHEMA, "{\"type\":\"array\",\"items\":false}", {"[]"}, {"[1]"}},
    {SCHEMA,
     "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"\\n\\u00e9\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\xc3\xa9\""},
     {"\"a\"", "\"abcd\"", "\"\""}},
    {SCHEMA, "{\"type\":\"string\",\"maxLength\":1000000}", {"\"\"", "\"abc\""}, {"\"abc"}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^[a-z]\\\"\\\\\\\\$\"}",
     {"\"x\\\"\\\\\""},
     {"\"x\"\\\"", "\"X\\\"\\\\\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"b+\"}",
     {"\"abc\"", "\"b\"", "\"\\nb\""},
     {"\"a\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^[a-f]+$\",\"maxLength\":4}",
     {"\"a\"", "\"abcd\""},
     {"\"\"", "\"abcde\"", "\"g\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-29\"", "\"1999-12-31\""},
     {"\"2023-02-29\"", "\"2024-13-01\"", "\"2024-4-1\"", "\"1900-02-29\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-02-29T23:59:59.5Z\""},
     {"\"2024-02-29 23:59:59Z\"", "\"2024-02-29T24:00:00Z\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"format\":\"uuid\",\"maxLength\":36}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567\""}},
    {SCHEMA,
     "{\"type\":\"integer\",\"minimum\":-3,\"maximum\":123}",
     {"-3", "-1", "0", "9", "10", "99", "100", "123"},
     {"-4", "124", "-0", "00", "1.0", "1000", "-10"}},
    {SCHEMA,
     "{\"type\":\"integer\",\"exclusiveMinimum\":17,\"exclusiveMaximum\":23}",
     {"18", "22"},
     {"17", "23", "1", "2", "180"}},
    {SCHEMA,
     "{\"type\":\"integer\",\"minimum\":100}",
     {"100", "999999", "123456789012345678"},
     {"99", "0", "-100"}},
    {SCHEMA,
     "{\"type\":\"number\",\"minimum\":0.25,\"exclusiveMaximum\":2.5}",
     {"0.25", "0.3", "1", "1.99", "2", "2.4999", "2.0", "0.250"},
     {"0", "0.2", "0.2499", "2.5", "3", "-1", "2.50", "0."}},
    {SCHEMA,
     "{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":1}",
     {"0.1", "0.001", "1", "1.0", "1.000"},
     {"0", "0.0", "0.00", "1.001", "-0.1", "1.1"}},
    {SCHEMA,
     "{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":-0.5}",
     {"-1", "-0.5", "-1.5", "-0.75"},
     {"0", "-0.4", "-1.6", "1", "-2"}},
    {SCHEMA,
     "{\"enum\":[1,\"a\",null,{\"x\":[1.5,true]}]}",
     {"1", "\"a\"", "null", "{\"x\":[1.5,true]}"},
     {"2", "a", "{}"}},
    {SCHEMA, "{\"type\":\"string\",\"enum\":[1,\"a\"]}", {"\"a\""}, {"1"}},
    {SCHEMA, "{\"const\":0.1}", {"0.1"}, {"0.10000000000000001", "1"}},
    {SCHEMA, "{\"type\":[\"integer\",\"null\"]}", {"1", "null"}, {"\"a\"", "1.5"}},
    {SCHEMA, "{\"type\":\"string\",\"nullable\":true}", {"\"a\"", "null"}, {"1"}},
    {SCHEMA,
     "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}",
     {"12", "\"a\""},
     {"\"ab\"", "null"}},
    {SCHEMA,
     "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},"
     "\"required\":[\"a\"]},{\"$ref\":\"#/$defs/b\"}],\"$defs\":{\"b\":{\"properties\":{\"b\":"
     "{\"type\":\"null\"}},\"required\":[\"b\"]}}}",
     {"{\"a\":1,\"b\":null}"},
     {"{\"a\":1}", "{\"b\":null}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":"
     "\"integer\"}},\"anyOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
     {"{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}"},
     {"{}"}},
    {SCHEMA,
     "{\"anyOf\":[{\"properties\":{\"a\":{\"minimum\":5}}},{\"properties\":{\"a\":{\"maximum\":"
     "2}}}],\"oneOf\":[{\"properties\":{\"a\":{\"type\":\"integer\",\"maximum\":9}}}]}",
     {"{\"a\":5}", "{\"a\":2}", "{}"},
     {"{\"a\":3}", "{\"a\":10}"}},
    {SCHEMA,
     "{\"$ref\":\"#/$defs/"
     "n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":"
     "\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},"
     "\"required\":[\"v\",\"next\"],\"additionalProperties\":false}}}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3,\"next\":null}}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},\"minProperties\":1,"
     "\"maxProperties\":2}",
     {"{\"a\":1}", "{\"a\":1,\"b\":2}"},
     {"{}", "{\"a\":1,\"b\":2,\"c\":3}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"patternProperties\":{\"^x_\":{\"type\":\"integer\"}},"
     "\"additionalProperties\":false}",
     {"{}", "{\"x_a\":1}"},
     {"{\"a\":1}", "{\"x_a\":\"\"}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-z]+$\"}}",
     {"{\"a\":1}"},
     {"{\"A\":1}"}},
    {SCHEMA, "{\"type\":\"object\",\"required\":[\"a\"]}", {"{\"a\":[]}"}, {"{}", "{\"b\":1}"}},
    {SCHEMA,
     "{\"properties\":{\"a\\\"b\":{\"const\":1}},\"additionalProperties\":true}",
     {"{\"a\\\"b\":1}", "{\"a\":2}", "{\"a\\\"b\":1,\"a\\\"c\":2}"},
     {"{\"a\\\"b\":2}"}},
    {SCHEMA,
     "{\"$ref\":\"#/definitions/a~1b/items/0\",\"definitions\":{\"a/"
     "b\":{\"items\":[{\"const\":7}]}}}",
     {"7"},
     {"8"}},
};

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const row *r = &rows[i];
        mk_grammar *g = NULL;
        mk_err err = {0};
        mk_status st = compile(r->form, r->text, &g, &err);
        if (r->yes[0] == NULL && r->no[0] == NULL) {
            assert_int_not_equal(st, MK_OK);
            continue;
        }
        if (st != MK_OK) {
            fail_msg("%s: %s", r->text, err.msg);
        }
        for (size_t k = 0; k < 12 && r->yes[k] != NULL; k++) {
            if (!accepts(g, r->yes[k], strlen(r->yes[k]))) {
                fail_msg("%s does not accept %s", r->text, r->yes[k]);
            }
        }
        for (size_t k = 0; k < 12 && r->no[k] != NULL; k++) {
            if (accepts(g, r->no[k], strlen(r->no[k]))) {
                fail_msg("%s accepts %s", r->text, r->no[k]);
            }
        }
        mk_grammar_unref(g);
    }
}

static const struct {
    form form;
    const char *text, *begins;
    mk_status status;
} refusals[] = {
    {SCHEMA, "{\"properties\":{\"a/b\":{\"not\":{}}}}", "/properties/a~1b/not: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"if\":{}}}}",
     "/$defs/x/if: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"anyOf\":[{\"type\":\"string\"},{\"contains\":{}}]}",
     "/anyOf/1/contains: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"uniqueItems\":true}", "/uniqueItems: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"type\":\"string\",\"format\":\"regex\"}", "/format: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"items\":{\"pattern\":\"(?=a)\"}}", "/items/pattern: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"pattern\":\"(a)\\\\1\"}", "/pattern: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"pattern\":\"[\"}", "/pattern: ", MK_EUSAGE},
    {SCHEMA, "{\"$ref\":\"other.json\"}", "/$ref: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"$ref\":\"#/nowhere\"}", "/$ref: ", MK_EUSAGE},
    {SCHEMA, "{\"type\":\"text\"}", "/type: ", MK_EUSAGE},
    {SCHEMA, "{\"minLength\":-1}", "/minLength: ", MK_EUSAGE},
    {SCHEMA, "{\"minimum\":\"1\"}", "/minimum: ", MK_EUSAGE},
    {SCHEMA, "{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}",
     "/allOf/1/pattern: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "root: no text", MK_EUSAGE},
    {SCHEMA, "{\"$ref\":\"#\"}", "", MK_EUNSUPPORTED},
    {SCHEMA, "{\"allOf\":[{\"$ref\":\"#\"}]}", "", MK_ELIMIT},
    {SCHEMA, "{\"$ref\":\"#\",\"type\":\"object\"}", "/$ref: ", MK_EUNSUPPORTED},
    {SCHEMA, "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "", MK_EUNSUPPORTED},
    {SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
     "", MK_EUSAGE},
    {SCHEMA, "[]", "/: ", MK_EUSAGE},
    {GBNF, "root ::= root \"a\" | \"b\"", "root: the rule begins with itself", MK_EUNSUPPORTED},
    {GBNF, "root ::= a? root", "a: the rule is used", MK_EUSAGE},
    {GBNF, "root ::= a? b\na ::= \"x\"\nb ::= root", "", MK_EUNSUPPORTED},
    {GBNF, "a ::= \"x\"", "GBNF, line 1: there is no rule named root", MK_EUSAGE},
    {GBNF, "root ::= \"a\n", "GBNF, line 2: ", MK_EUSAGE},
    {GBNF, "root ::= <[7]>", "GBNF, line 1: tokens", MK_EUNSUPPORTED},
    {GBNF, "root ::= \"a\"\nroot ::= \"b\"", "GBNF, line 2: ", MK_EUSAGE},
    {GBNF, "root ::= \"a\" \"b\")", "GBNF, line 1: ", MK_EUSAGE},
    {GBNF, "root ::= \"a\" root", "root: no text", MK_EUSAGE},
    {GBNF, "root ::= \n [\\x4g]", "GBNF, line 2: expected hexadecimal digits", MK_EUSAGE},
    {GBNF, "root ::= \"\\uD800\"", "GBNF, line 1: an escape that is no character", MK_EUSAGE},
    {GBNF, "root ::= \"\xff\"", "GBNF, line 1: a byte that is not UTF-8", MK_EUSAGE},
    {GBNF, "root ::= \"a\"{2,1}", "GBNF, line 1: expected {m}, ", MK_EUSAGE},
    {REGEX, "a**b(", "regex: ", MK_EUSAGE},
    {REGEX, "a\\x4g", "regex: expected hexadecimal digits at byte 4", MK_EUSAGE},
    {REGEX, "\\u{110000}", "regex: an escape that is no character at byte 10", MK_EUSAGE},
    {REGEX, "a\xff", "regex: a byte that is not UTF-8 at byte 1", MK_EUSAGE},
    {REGEX, "a{2,1}", "regex: a repetition whose bounds", MK_EUSAGE},
    {REGEX, "\\bword", "regex: word boundaries", MK_EUNSUPPORTED},
    {REGEX, "a$b", "regex: text after '$'", MK_EUNSUPPORTED},
    {CHOICE, "[]", "choice: ", MK_EUSAGE},
    {CHOICE, "[1]", "choice: ", MK_EUSAGE},
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        mk_grammar *g = NULL;
        mk_err err = {0};
        mk_status st = compile(refusals[i].form, refusals[i].text, &g, &err);
        if (st != refusals[i].status ||
            strncmp(err.msg, refusals[i].begins, strlen(refusals[i].begins)) != 0) {
            fail_msg("%s: expected %s, %s...; got %s, %s", refusals[i].text,
                     mk_status_name(refusals[i].status), refusals[i].begins, mk_status_name(st),
                     err.msg);
        }
        assert_null(g);
    }
}

static void test_forced(void **state) {
    (void)state;
    mk_grammar *g = NULL;
    mk_grammar_state *s = NULL;
    mk_err err = {0};
    char out[64];
    assert_int_equal(compile(REGEX, "hello (world|wide)", &g, &err), MK_OK);
    assert_int_equal(mk_grammar_start(g, NULL, &s, &err), MK_OK);
    mk_grammar_unref(g);  // the state keeps it
    size_t n = mk_grammar_forced(s, out, sizeof(out));
    assert_int_equal(n, 7);
    assert_memory_equal(out, "hello w", 7);
    assert_int_equal(mk_grammar_feed(s, "hello wo", 8, &err), MK_OK);
    n = mk_grammar_forced(s, out, sizeof(out));
    assert_int_equal(n, 3);
    assert_false(mk_grammar_can_end(s));
    assert_int_equal(mk_grammar_feed(s, out, n, &err), MK_OK);
    assert_true(mk_grammar_must_end(s));
    assert_int_equal(mk_grammar_feed(s, "x", 1, &err), MK_EUSAGE);
    assert_int_equal(mk_grammar_pos(s), 2);
    mk_grammar_rewind(s, 1);
    assert_false(mk_grammar_must_end(s));
    assert_int_equal(mk_grammar_feed(s, "rld", 3, &err), MK_OK);
    mk_grammar_state_destroy(s);
}

static void test_frames(void **state) {
    (void)state;
    json_t *schema = json_pack("{s:s}", "type", "integer");
    mk_grammar_frame f[] = {{"<call>a(", ")</call>", schema}, {"<call>b", "()</call>", NULL}};
    mk_grammar *g = NULL;
    mk_err err = {0};
    assert_int_equal(mk_grammar_from_frames(f, 2, "\n", true, NULL, &g, &err), MK_OK);
    static const char *const yes[] = {"<call>a(12)</call>", "<call>b()</call>\n<call>a(-1)</call>"};
    static const char *const no[] = {"<call>a()</call>", "<call>b()</call><call>b()</call>", ""};
    for (size_t i = 0; i < 2; i++) {
        assert_true(accepts(g, yes[i], strlen(yes[i])));
    }
    for (size_t i = 0; i < 3; i++) {
        assert_false(accepts(g, no[i], strlen(no[i])));
    }
    mk_grammar_unref(g);
    json_decref(schema);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_forced),
        cmocka_unit_test(test_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
