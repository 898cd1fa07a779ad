// The parts of JSON: strings, white space, any value, one certain value; and the same as Python or
// Gemma write them (mk_gvalues).
//
// White space is bounded, so that a model cannot go on with it for ever: after a brace, bracket or
// comma nothing, a blank, or a line and its indentation; after a colon nothing or a blank.
#include <string.h>

#include "chat/grammar_int.h"

enum { MAX_INDENT = 32, MAX_TABS = 8 };
enum { RULE_STRING, RULE_VALUE, RULE_OBJECT, RULE_OTHER };

void mk_gb_write_as(mk_gb *b, const mk_gvalues *how) {
    b->how = *how;
    memset(b->json_rule, 0, sizeof(b->json_rule));
    b->json_space = MK_GN_EMPTY;
}

static bool is(const mk_gb *b, mk_grammar_values notation) {
    return b->how.notation == notation;
}

mk_gn mk_gb_json_space(mk_gb *b) {
    if (b->json_space != MK_GN_EMPTY || is(b, MK_VALUES_MARKED)) {
        return b->json_space;
    }
    mk_gn blanks = mk_gb_repeat(b, mk_gb_text(b, " "), 0, MAX_INDENT);
    mk_gn tabs = mk_gb_repeat(b, mk_gb_text(b, "\t"), 1, MAX_TABS);
    mk_gn line = mk_gb_seq2(b, mk_gb_text(b, "\n"), mk_gb_alt2(b, blanks, tabs));
    b->json_space = mk_gb_alt(b, (mk_gn[]){MK_GN_EMPTY, mk_gb_text(b, " "), line}, 3);
    return b->json_space;
}

mk_gn mk_gb_json_colon(mk_gb *b) {
    mk_gn blank = mk_gb_repeat(b, mk_gb_text(b, " "), 0, 1), colon = mk_gb_text(b, ":");
    return is(b, MK_VALUES_MARKED) ? colon : mk_gb_seq2(b, colon, blank);
}

static const char *python_word(const char *word) {
    return word[0] == 't' ? "True" : word[0] == 'f' ? "False" : "None";
}

mk_gn mk_gb_json_word(mk_gb *b, const char *word) {
    mk_gn json = mk_gb_text(b, word), python = mk_gb_text(b, python_word(word));
    bool both = is(b, MK_VALUES_MARKED) && word[0] == 'n';  // its templates write None
    return is(b, MK_VALUES_PYTHON) ? python : both ? mk_gb_alt2(b, json, python) : json;
}

// --- strings -------------------------------------------------------------------------------------
// \uXXXX: any character but NUL, which few readers bear; those beyond 16 bits as a pair.
static mk_gn unicode_escape(mk_gb *b) {
    mk_gn hex = mk_gb_oneof(b, "0123456789abcdefABCDEF");
    mk_gn some = mk_gb_oneof(b, "123456789abcdefABCDEF"), zero = mk_gb_text(b, "0");
    mk_gn hex2 = mk_gb_seq2(b, hex, hex), hex3 = mk_gb_seq2(b, hex, hex2);
    mk_gn low0 = mk_gb_alt2(b, mk_gb_seq2(b, some, hex), mk_gb_seq2(b, zero, some));
    mk_gn low = mk_gb_alt2(b, mk_gb_seq2(b, some, hex2), mk_gb_seq2(b, zero, low0));
    mk_gn d = mk_gb_oneof(b, "dD");
    mk_gn high_half = mk_gb_seq3(b, d, mk_gb_oneof(b, "89abAB"), hex2);
    mk_gn low_half = mk_gb_seq3(b, d, mk_gb_oneof(b, "cdefCDEF"), hex2);
    mk_gn pair = mk_gb_seq3(b, high_half, mk_gb_text(b, "\\u"), low_half);
    return mk_gb_alt(b,
                     (mk_gn[]){mk_gb_seq2(b, zero, low),
                               mk_gb_seq2(b, mk_gb_oneof(b, "123456789abcefABCEF"), hex3),
                               mk_gb_seq3(b, d, mk_gb_oneof(b, "01234567"), hex2), pair},
                     4);
}

static mk_gn escape(mk_gb *b) {
    const char *letters = is(b, MK_VALUES_PYTHON) ? "\"'\\bfnrt" : "\"\\/bfnrt";
    mk_gn named = mk_gb_oneof(b, letters);
    mk_gn code = mk_gb_seq2(b, mk_gb_text(b, "u"), unicode_escape(b));
    if (is(b, MK_VALUES_PYTHON)) {  // \x1b, but no NUL
        mk_gn hex = mk_gb_oneof(b, "0123456789abcdefABCDEF");
        mk_gn some = mk_gb_oneof(b, "123456789abcdefABCDEF");
        mk_gn two =
            mk_gb_alt2(b, mk_gb_seq2(b, some, hex), mk_gb_seq2(b, mk_gb_text(b, "0"), some));
        code = mk_gb_alt2(b, code, mk_gb_seq2(b, mk_gb_text(b, "x"), two));
    }
    return mk_gb_seq2(b, mk_gb_text(b, "\\"), mk_gb_alt2(b, named, code));
}

// A character between these quotes.
static mk_gn char_between(mk_gb *b, uint32_t quote) {
    mk_cset plain = {0};
    mk_cset_add(b, &plain, 0x20, 0x10FFFF);
    mk_cset_remove(b, &plain, quote);
    mk_cset_remove(b, &plain, '\\');
    if (b->how.avoid[0] != '\0') {
        mk_cset_remove(b, &plain, (uint8_t)b->how.avoid[0]);
    }
    mk_gn as_is = mk_gb_chars(b, &plain);
    mk_cset_free(&plain);
    return mk_gb_alt2(b, as_is, escape(b));
}

mk_gn mk_gb_bare_char(mk_gb *b) {
    mk_cset all = {0};
    mk_cset_add(b, &all, 1, 0x10FFFF);
    mk_cset_remove(b, &all, (uint8_t)b->how.avoid[0]);
    mk_gn x = mk_gb_chars(b, &all);
    mk_cset_free(&all);
    return x;
}

mk_gn mk_gb_json_char(mk_gb *b) {
    return is(b, MK_VALUES_MARKED) ? mk_gb_bare_char(b) : char_between(b, '"');
}

mk_gn mk_gb_json_quote(mk_gb *b) {
    return mk_gb_text(b, is(b, MK_VALUES_MARKED) ? b->how.quote : "\"");
}

// Any characters of a string; where a text must not stand in it, all of that text.
static mk_gn chars_between(mk_gb *b, char quote) {
    if (b->how.avoid[0] == '\0') {
        return mk_gb_repeat(b, char_between(b, (uint8_t)quote), 0, MK_G_INF);
    }
    mk_byteset plain = mk_g_text_bytes();
    plain.bit[0] &= ~(UINT64_C(0xFFFFFFFF) | UINT64_C(1) << quote);
    plain.bit['\\' / 64] &= ~(UINT64_C(1) << ('\\' % 64));
    mk_guntil o = {.mark = b->how.avoid, .plain = &plain, .escape = escape(b), .then = MK_GN_NONE};
    return mk_gb_until(b, &o);
}

static mk_gn marked_string(mk_gb *b) {
    mk_byteset plain = mk_g_text_bytes();
    mk_guntil o = {.mark = b->how.avoid, .plain = &plain, .escape = MK_GN_NONE, .then = MK_GN_NONE};
    return mk_gb_seq3(b, mk_gb_json_quote(b), mk_gb_until(b, &o), mk_gb_json_quote(b));
}

// A rule that is made once per grammar.
static bool shared_rule(mk_gb *b, int which, const char *name, uint32_t *rule) {
    bool fresh = b->json_rule[which] == 0;
    if (fresh) {
        uint32_t r = mk_gb_rule(b, name);
        if (b->status != MK_OK) {
            *rule = 0;
            return false;
        }
        b->json_rule[which] = r + 1;
        b->rule[r].keep = true;
    }
    *rule = b->json_rule[which] - 1;
    return fresh;
}

mk_gn mk_gb_json_string(mk_gb *b) {
    uint32_t rule;
    if (shared_rule(b, RULE_STRING, "string", &rule)) {
        mk_gn quote = mk_gb_text(b, "\""), single = mk_gb_text(b, "'");
        mk_gn x = is(b, MK_VALUES_MARKED) ? marked_string(b)
                                          : mk_gb_seq3(b, quote, chars_between(b, '"'), quote);
        if (is(b, MK_VALUES_PYTHON)) {
            x = mk_gb_alt2(b, x, mk_gb_seq3(b, single, chars_between(b, '\''), single));
        }
        mk_gb_rule_set(b, rule, x);
    }
    return mk_gb_call(b, rule);
}

// --- values --------------------------------------------------------------------------------------
// A key that nothing is known of.
static mk_gn any_key(mk_gb *b) {
    if (!is(b, MK_VALUES_MARKED)) {
        return mk_gb_json_string(b);
    }
    mk_gn letter =
        mk_gb_oneof(b, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return mk_gb_repeat(b, letter, 1, 48);
}

// open (item (, item)*)? close
static mk_gn braces(mk_gb *b, const char *open, mk_gn item, const char *close) {
    mk_gn space = mk_gb_json_space(b);
    mk_gn more = mk_gb_seq3(b, mk_gb_text(b, ","), space, item);
    mk_gn items = mk_gb_seq3(b, item, mk_gb_repeat(b, more, 0, MK_G_INF), space);
    mk_gn inside = mk_gb_seq2(b, space, mk_gb_repeat(b, items, 0, 1));
    return mk_gb_seq3(b, mk_gb_text(b, open), inside, mk_gb_text(b, close));
}

mk_gn mk_gb_json_object(mk_gb *b) {
    uint32_t rule;
    if (shared_rule(b, RULE_OBJECT, "object", &rule)) {
        mk_gn pair = mk_gb_seq3(b, any_key(b), mk_gb_json_colon(b), mk_gb_json_any(b));
        mk_gb_rule_set(b, rule, braces(b, "{", pair, "}"));
    }
    return mk_gb_call(b, rule);
}

mk_gn mk_gb_json_any(mk_gb *b) {
    uint32_t rule;
    if (shared_rule(b, RULE_VALUE, "value", &rule)) {
        mk_gb_rule_set(b, rule, mk_gb_alt2(b, mk_gb_json_other(b), mk_gb_json_string(b)));
    }
    return mk_gb_call(b, rule);
}

mk_gn mk_gb_json_other(mk_gb *b) {
    uint32_t rule;
    if (shared_rule(b, RULE_OTHER, "value", &rule)) {
        mk_gn words[] = {mk_gb_json_word(b, "true"), mk_gb_json_word(b, "false"),
                         mk_gb_json_word(b, "null")};
        mk_gn kinds[] = {mk_gb_json_object(b), braces(b, "[", mk_gb_json_any(b), "]"),
                         mk_gb_json_number(b), mk_gb_alt(b, words, 3)};
        mk_gb_rule_set(b, rule, mk_gb_alt(b, kinds, 4));
    }
    return mk_gb_call(b, rule);
}

static int add_bytes(const char *p, size_t n, void *buf) {
    mk_buf_add(buf, p, n);
    return 0;
}

static bool dump(const json_t *value, int digits, mk_buf *out) {
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION((size_t)digits);
    mk_buf_clear(out);
    return json_dump_callback(value, add_bytes, out, flags) == 0 && !out->failed;
}

bool mk_g_json_text(const json_t *value, mk_buf *out) {
    for (int digits = 15; digits < 17; digits++) {  // the shortest that is read back the same
        json_t *back = dump(value, digits, out)
                           ? json_loadb(out->data, out->len, JSON_DECODE_ANY, NULL)
                           : NULL;
        bool same = back != NULL && json_equal(back, value);
        json_decref(back);
        if (same) {
            return true;
        }
    }
    return dump(value, 17, out);
}

// --- one value -----------------------------------------------------------------------------------
static mk_gn string_literal(mk_gb *b, const char *p, size_t n) {
    if (is(b, MK_VALUES_MARKED)) {
        mk_gn quote = mk_gb_json_quote(b);
        return mk_gb_seq3(b, quote, mk_gb_bytes(b, p, n), quote);
    }
    mk_buf text;
    json_t *s = json_stringn(p, n);
    mk_buf_init(&text, b->max_bytes);
    bool ok = mk_g_json_text(s, &text);
    mk_gn x = ok ? mk_gb_bytes(b, text.data, text.len) : MK_GN_EMPTY;
    if (ok && is(b, MK_VALUES_PYTHON) && memchr(p, '\'', n) == NULL) {
        text.data[0] = text.data[text.len - 1] = '\'';
        x = mk_gb_alt2(b, x, mk_gb_bytes(b, text.data, text.len));
    }
    if (!ok) {
        MK_GB_FAIL(b, MK_ELIMIT, "a value of the schema cannot be written as JSON");
    }
    mk_buf_free(&text);
    json_decref(s);
    return x;
}

mk_gn mk_gb_json_key(mk_gb *b, const char *key) {
    size_t n = strlen(key);
    if (!is(b, MK_VALUES_MARKED)) {
        return string_literal(b, key, n);
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)key[i];
        bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
        if (!letter && !(c >= '0' && c <= '9') && strchr("_-$.", c) == NULL && c < 0x80) {
            n = 0;
        }
    }
    if (n == 0 || n > 63) {
        MK_GB_FAIL(b, MK_EUNSUPPORTED,
                   "\"%.80s\": the model writes names of 1 to 63 letters, digits, \"_\", \"-\"",
                   key);
    }
    return mk_gb_bytes(b, key, n);
}

static mk_gn object_literal(mk_gb *b, const json_t *value) {
    mk_gnlist l = {0};
    const char *key;
    json_t *v;
    mk_gnlist_add(b, &l, mk_gb_text(b, "{"));
    json_object_foreach((json_t *)(uintptr_t)value, key, v) {
        mk_gnlist_add(b, &l, l.n > 1 ? mk_gb_text(b, ",") : MK_GN_EMPTY);
        mk_gnlist_add(b, &l, mk_gb_json_key(b, key));
        mk_gnlist_add(b, &l, mk_gb_json_colon(b));
        mk_gnlist_add(b, &l, mk_gb_json_literal(b, v));
    }
    mk_gnlist_add(b, &l, mk_gb_text(b, "}"));
    return mk_gnlist_seq(b, &l);
}

static mk_gn array_literal(mk_gb *b, const json_t *value) {
    mk_gnlist l = {0};
    mk_gnlist_add(b, &l, mk_gb_text(b, "["));
    for (size_t i = 0; i < json_array_size(value); i++) {
        mk_gn comma = mk_gb_seq2(b, mk_gb_text(b, ","), mk_gb_json_space(b));
        mk_gnlist_add(b, &l, i > 0 ? comma : MK_GN_EMPTY);
        mk_gnlist_add(b, &l, mk_gb_json_literal(b, json_array_get(value, i)));
    }
    mk_gnlist_add(b, &l, mk_gb_text(b, "]"));
    return mk_gnlist_seq(b, &l);
}

mk_gn mk_gb_json_literal(mk_gb *b, const json_t *value) {
    mk_buf text;
    mk_gn x = MK_GN_EMPTY;
    mk_buf_init(&text, b->max_bytes);
    bool ok = mk_g_json_text(value, &text);
    if (!ok) {
        MK_GB_FAIL(b, MK_ELIMIT, "a value of the schema cannot be written as JSON");
    } else if (b->how.avoid[0] != '\0' &&
               memmem(text.data, text.len, b->how.avoid, strlen(b->how.avoid)) != NULL) {
        MK_GB_FAIL(b, MK_EUNSUPPORTED, "\"%s\" in a value: it ends a parameter with this model",
                   b->how.avoid);
    } else if (is(b, MK_VALUES_JSON)) {
        x = mk_gb_bytes(b, text.data, text.len);
    } else if (json_is_string(value)) {
        x = string_literal(b, json_string_value(value), json_string_length(value));
    } else if (json_is_object(value)) {
        x = object_literal(b, value);
    } else if (json_is_array(value)) {
        x = array_literal(b, value);
    } else if (json_is_number(value)) {
        x = mk_gb_bytes(b, text.data, text.len);
    } else {
        x = mk_gb_json_word(b, text.data);
    }
    mk_buf_free(&text);
    return x;
}

mk_status mk_grammar_from_json_object(mk_grammar **out, mk_err *err) {
    mk_gb b;
    mk_gb_init(&b, NULL, err);
    mk_gn x = mk_gb_json_object(&b);
    return mk_gb_finish(&b, x, out);
}
