// The parts of JSON: strings, white space, any value, one certain value.
//
// White space is bounded, so that a model cannot go on with it for ever: after a brace, bracket or
// comma nothing, a blank, or a line and its indentation; after a colon nothing or a blank.
#include "chat/grammar_int.h"

enum { MAX_INDENT = 32, MAX_TABS = 8 };
enum { RULE_STRING, RULE_VALUE, RULE_OBJECT };

mk_gn mk_gb_json_space(mk_gb *b) {
    if (b->json_space != MK_GN_EMPTY) {
        return b->json_space;
    }
    mk_gn blanks = mk_gb_repeat(b, mk_gb_text(b, " "), 0, MAX_INDENT);
    mk_gn tabs = mk_gb_repeat(b, mk_gb_text(b, "\t"), 1, MAX_TABS);
    mk_gn line = mk_gb_seq2(b, mk_gb_text(b, "\n"), mk_gb_alt2(b, blanks, tabs));
    b->json_space = mk_gb_alt(b, (mk_gn[]){MK_GN_EMPTY, mk_gb_text(b, " "), line}, 3);
    return b->json_space;
}

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

mk_gn mk_gb_json_char(mk_gb *b) {
    mk_cset plain = {0};
    mk_cset_add(b, &plain, 0x20, '"' - 1);
    mk_cset_add(b, &plain, '"' + 1, '\\' - 1);
    mk_cset_add(b, &plain, '\\' + 1, 0x10FFFF);
    mk_gn as_is = mk_gb_chars(b, &plain);
    mk_cset_free(&plain);
    mk_gn named = mk_gb_oneof(b, "\"\\/bfnrt");
    mk_gn code = mk_gb_seq2(b, mk_gb_text(b, "u"), unicode_escape(b));
    return mk_gb_alt2(b, as_is, mk_gb_seq2(b, mk_gb_text(b, "\\"), mk_gb_alt2(b, named, code)));
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
        mk_gn quote = mk_gb_text(b, "\"");
        mk_gn chars = mk_gb_repeat(b, mk_gb_json_char(b), 0, MK_G_INF);
        mk_gb_rule_set(b, rule, mk_gb_seq3(b, quote, chars, quote));
    }
    return mk_gb_call(b, rule);
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
        mk_gn blank = mk_gb_repeat(b, mk_gb_text(b, " "), 0, 1);
        mk_gn colon = mk_gb_seq2(b, mk_gb_text(b, ":"), blank);
        mk_gn pair = mk_gb_seq3(b, mk_gb_json_string(b), colon, mk_gb_json_any(b));
        mk_gb_rule_set(b, rule, braces(b, "{", pair, "}"));
    }
    return mk_gb_call(b, rule);
}

mk_gn mk_gb_json_any(mk_gb *b) {
    uint32_t rule;
    if (shared_rule(b, RULE_VALUE, "value", &rule)) {
        mk_gn call = mk_gb_call(b, rule);
        mk_gn words = mk_gb_alt(
            b, (mk_gn[]){mk_gb_text(b, "true"), mk_gb_text(b, "false"), mk_gb_text(b, "null")}, 3);
        mk_gn kinds[] = {mk_gb_json_object(b), braces(b, "[", call, "]"), mk_gb_json_string(b),
                         mk_gb_json_number(b), words};
        mk_gb_rule_set(b, rule, mk_gb_alt(b, kinds, 5));
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

mk_gn mk_gb_json_literal(mk_gb *b, const json_t *value) {
    mk_buf text;
    mk_gn x = MK_GN_EMPTY;
    mk_buf_init(&text, b->max_bytes);
    if (mk_g_json_text(value, &text)) {
        x = mk_gb_bytes(b, text.data, text.len);
    } else {
        MK_GB_FAIL(b, MK_ELIMIT, "a value of the schema cannot be written as JSON");
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
