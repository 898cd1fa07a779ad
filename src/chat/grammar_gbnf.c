// GBNF, llama.cpp's notation for grammars.
//
//     name ::= "text" [a-z0-9] [^"\\] . other-rule ( ... | ... ) x* x+ x? x{2} x{2,} x{2,5} # comment
//
// A rule ends where its line ends, unless a bracket is open or an alternative begins or ends there.
// Escapes in texts and sets: \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH.  Tokens by number or name
// (<[7]>, <think>) are refused: what they are depends on the vocabulary.
#include <string.h>

#include "base/buf.h"
#include "chat/grammar_int.h"
#include "chat/grammar_scan.h"

typedef struct {
    char *name;  // points into the text
    size_t n;
    uint32_t rule;
} named;

typedef struct {
    mk_gb *b;
    mk_gscan in;
    int depth;
    named *slot;  // open addressing by name
    size_t n_named, n_slot;
} parser;

static mk_gn parse_alternatives(parser *s);

static void fail(parser *s, mk_status code, const char *what) {
    size_t line = 1;
    for (size_t i = 0; i < s->in.at && i < s->in.n; i++) {
        line += s->in.p[i] == '\n';
    }
    MK_GB_FAIL(s->b, code, "GBNF, line %zu: %s", line, what);
    s->in.at = s->in.n;
}

static void skip_space(parser *s, bool lines) {
    while (s->in.at < s->in.n) {
        char c = s->in.p[s->in.at];
        if (c == '#') {
            while (s->in.at < s->in.n && s->in.p[s->in.at] != '\n') {
                s->in.at++;
            }
        } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
            s->in.at++;
        } else {
            break;
        }
    }
}

static bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t name_length(const parser *s) {
    size_t n = 0;
    while (s->in.at + n < s->in.n && is_name_char(s->in.p[s->in.at + n])) {
        n++;
    }
    return n;
}

// --- rules by name -------------------------------------------------------------------------------
static named *find_slot(named *slot, size_t n_slot, const char *p, size_t n) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (uint8_t)p[i]) * 1099511628211u;
    }
    size_t at = (h ^ h >> 32) & (n_slot - 1);
    while (slot[at].name != NULL && (slot[at].n != n || memcmp(slot[at].name, p, n) != 0)) {
        at = (at + 1) & (n_slot - 1);
    }
    return &slot[at];
}

static bool grow_slots(parser *s) {
    size_t n_slot = s->n_slot < 64 ? 64 : 2 * s->n_slot;
    named *slot = mk_try_alloc(n_slot, sizeof(*slot));
    if (slot == NULL) {
        fail(s, MK_ENOMEM, "no memory for the names of rules");
        return false;
    }
    for (size_t i = 0; i < s->n_slot; i++) {
        if (s->slot[i].name != NULL) {
            *find_slot(slot, n_slot, s->slot[i].name, s->slot[i].n) = s->slot[i];
        }
    }
    mk_free(s->slot);
    s->slot = slot;
    s->n_slot = n_slot;
    return true;
}

static uint32_t rule_of(parser *s, const char *p, size_t n) {
    if (2 * (s->n_named + 1) > s->n_slot && !grow_slots(s)) {
        return 0;
    }
    named *x = find_slot(s->slot, s->n_slot, p, n);
    if (x->name == NULL) {
        char name[128];
        size_t k = n < sizeof(name) - 1 ? n : sizeof(name) - 1;
        memcpy(name, p, k);
        name[k] = '\0';
        *x = (named){(char *)(uintptr_t)p, n, mk_gb_rule(s->b, name)};
        s->n_named++;
    }
    return x->rule;
}

// --- characters ----------------------------------------------------------------------------------
static uint32_t take_hex(parser *s, int n) {
    uint32_t x;
    if (mk_gscan_hex(&s->in, n, &x) < n) {
        fail(s, MK_EUSAGE, "expected hexadecimal digits after a backslash");
        return 0;
    }
    if (x > 0x10FFFF || (x >= 0xD800 && x < 0xE000)) {
        fail(s, MK_EUSAGE, "an escape that is no character");
        return 0;
    }
    return x;
}

static uint32_t take_char(parser *s) {
    uint32_t cp = 0;
    const char *wrong = mk_gscan_char(&s->in, &cp);
    if (wrong != NULL) {
        fail(s, MK_EUSAGE, wrong);
        return 0;
    }
    if (cp != '\\') {
        return cp;
    }
    char c = s->in.at < s->in.n ? s->in.p[s->in.at++] : '\0';
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'x':
        return take_hex(s, 2);
    case 'u':
        return take_hex(s, 4);
    case 'U':
        return take_hex(s, 8);
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
        return (uint8_t)c;
    default:
        fail(s, MK_EUSAGE, "an unknown escape");
        return 0;
    }
}

static mk_gn parse_text(parser *s) {
    mk_buf text;
    mk_buf_init(&text, s->in.n + 16);
    while (s->in.at < s->in.n && s->in.p[s->in.at] != '"') {
        mk_buf_utf8(&text, take_char(s));
    }
    if (!mk_gscan_take(&s->in, "\"")) {
        fail(s, MK_EUSAGE, "a text without its closing '\"'");
    }
    if (text.failed) {
        fail(s, MK_ENOMEM, "no memory for a text");
    }
    mk_gn x = mk_gb_bytes(s->b, text.data, text.len);
    mk_buf_free(&text);
    return x;
}

static mk_gn parse_set(parser *s) {
    mk_cset c = {0};
    bool invert = mk_gscan_take(&s->in, "^");
    while (s->in.at < s->in.n && s->in.p[s->in.at] != ']') {
        uint32_t lo = take_char(s), hi = lo;
        if (s->in.n - s->in.at >= 2 && s->in.p[s->in.at] == '-' && s->in.p[s->in.at + 1] != ']') {
            s->in.at++;
            hi = take_char(s);
        }
        if (hi < lo) {
            fail(s, MK_EUSAGE, "a range that runs backwards");
        }
        mk_cset_add(s->b, &c, lo, hi);
    }
    if (!mk_gscan_take(&s->in, "]")) {
        fail(s, MK_EUSAGE, "a set without ']'");
    }
    mk_cset_sort(&c);
    if (invert) {
        mk_cset_invert(s->b, &c);
    }
    mk_gn x = mk_gb_chars(s->b, &c);
    mk_cset_free(&c);
    return x;
}

static mk_gn any_char(parser *s) {
    mk_cset c = {0};
    mk_cset_add(s->b, &c, 0, 0x10FFFF);
    mk_gn x = mk_gb_chars(s->b, &c);
    mk_cset_free(&c);
    return x;
}

// --- structure -----------------------------------------------------------------------------------
static mk_gn repeated(parser *s, mk_gn x) {
    uint32_t min = 0, max = MK_G_INF;
    if (mk_gscan_take(&s->in, "*")) {
    } else if (mk_gscan_take(&s->in, "+")) {
        min = 1;
    } else if (mk_gscan_take(&s->in, "?")) {
        max = 1;
    } else if (mk_gscan_take(&s->in, "{")) {
        skip_space(s, false);
        bool has_min = mk_gscan_number(&s->in, &min), comma;
        skip_space(s, false);
        comma = mk_gscan_take(&s->in, ",");
        skip_space(s, false);
        if (!(comma && mk_gscan_number(&s->in, &max)) && has_min && !comma) {
            max = min;
        }
        skip_space(s, false);
        if (!mk_gscan_take(&s->in, "}") || (!has_min && !comma) || min > max) {
            fail(s, MK_EUSAGE, "expected {m}, {m,}, {,n} or {m,n} with m <= n");
        }
    }
    return mk_gb_repeat(s->b, x, min, max);
}

static mk_gn parse_group(parser *s) {
    if (s->depth >= MK_G_MAX_DEPTH) {
        fail(s, MK_ELIMIT, "brackets are nested too deeply");
        return MK_GN_EMPTY;
    }
    s->depth++;
    mk_gn x = parse_alternatives(s);
    s->depth--;
    if (!mk_gscan_take(&s->in, ")")) {
        fail(s, MK_EUSAGE, "a '(' without ')'");
    }
    return x;
}

static mk_gn parse_atom(parser *s) {
    size_t n = name_length(s);
    if (n > 0) {
        const char *name = s->in.p + s->in.at;
        s->in.at += n;
        return mk_gb_call(s->b, rule_of(s, name, n));
    }
    if (mk_gscan_take(&s->in, "\"")) {
        return parse_text(s);
    }
    if (mk_gscan_take(&s->in, "[")) {
        return parse_set(s);
    }
    if (mk_gscan_take(&s->in, "(")) {
        return parse_group(s);
    }
    if (mk_gscan_take(&s->in, ".")) {
        return any_char(s);
    }
    if (mk_gscan_sees(&s->in, "<") || mk_gscan_sees(&s->in, "!")) {
        fail(s, MK_EUNSUPPORTED, "tokens in a grammar are not supported; write their text");
    } else {
        fail(s, MK_EUSAGE, "expected a text, a set, a rule or a bracket");
    }
    return MK_GN_EMPTY;
}

static bool at_quantifier(const parser *s) {
    return s->in.at < s->in.n && strchr("*+?{", s->in.p[s->in.at]) != NULL &&
           s->in.p[s->in.at] != '\0';
}

// Inside of brackets lines do not matter; outside a line's end ends the sequence.
static mk_gn parse_sequence(parser *s) {
    mk_gnlist l = {0};
    for (;;) {
        skip_space(s, s->depth > 0);
        if (s->in.at >= s->in.n || strchr("|)\r\n", s->in.p[s->in.at]) != NULL ||
            s->b->status != MK_OK) {
            break;
        }
        mk_gn x = parse_atom(s);
        for (skip_space(s, s->depth > 0); at_quantifier(s) && s->b->status == MK_OK;
             skip_space(s, s->depth > 0)) {
            x = repeated(s, x);
        }
        mk_gnlist_add(s->b, &l, x);
    }
    return mk_gnlist_seq(s->b, &l);
}

static mk_gn parse_alternatives(parser *s) {
    mk_gnlist l = {0};
    skip_space(s, true);
    do {
        mk_gnlist_add(s->b, &l, parse_sequence(s));
        size_t before = s->in.at;
        skip_space(s, true);  // a line may begin with '|'
        if (!mk_gscan_sees(&s->in, "|")) {
            s->in.at = s->b->status == MK_OK ? before : s->in.n;
        } else {
            s->in.at++;
            skip_space(s, true);
            continue;
        }
        break;
    } while (s->b->status == MK_OK);
    skip_space(s, s->depth > 0);
    return mk_gnlist_alt(s->b, &l);
}

static void parse_rule(parser *s) {
    size_t n = name_length(s);
    const char *name = s->in.p + s->in.at;
    if (n == 0) {
        fail(s, MK_EUSAGE, "expected the name of a rule");
        return;
    }
    s->in.at += n;
    skip_space(s, false);
    if (!mk_gscan_take(&s->in, "::=")) {
        fail(s, MK_EUSAGE, "expected '::='");
        return;
    }
    uint32_t rule = rule_of(s, name, n);
    if (s->b->status != MK_OK) {
        return;
    }
    if (s->b->rule[rule].set) {
        fail(s, MK_EUSAGE, "this rule is defined twice");
        return;
    }
    mk_gn x = parse_alternatives(s);
    mk_gb_rule_set(s->b, rule, x);
    if (s->in.at < s->in.n && s->in.p[s->in.at] != '\n' && s->in.p[s->in.at] != '\r') {
        fail(s, MK_EUSAGE, "expected the end of the line");
    }
}

mk_gn mk_gb_gbnf(mk_gb *b, const char *text, size_t n) {
    parser s = {.b = b, .in = {text, n, 0}};
    for (skip_space(&s, true); s.in.at < s.in.n && b->status == MK_OK; skip_space(&s, true)) {
        parse_rule(&s);
    }
    uint32_t root = rule_of(&s, "root", 4);
    if (b->status == MK_OK && !b->rule[root].set) {
        fail(&s, MK_EUSAGE, "there is no rule named root");
    }
    mk_gn x = mk_gb_call(b, root);
    mk_free(s.slot);
    return x;
}

mk_status mk_grammar_from_gbnf(const char *text, size_t n, const mk_grammar_limits *limits,
                               mk_grammar **out, mk_err *err) {
    mk_gb b;
    mk_gb_init(&b, limits, err);
    mk_gn x = mk_gb_gbnf(&b, text, n);
    return mk_gb_finish(&b, x, out);
}
