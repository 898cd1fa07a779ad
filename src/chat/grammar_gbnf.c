// GBNF, llama.cpp's notation for grammars.
//
//     name ::= "text" [a-z0-9] [^"\\] . other-rule ( ... | ... ) x* x+ x? x{2} x{2,} x{2,5} # comment
//
// A rule ends where its line ends, unless a bracket is open or an alternative begins or ends there.
// Escapes in texts and sets: \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH.  Tokens by number or name
// (<[7]>, <think>) are refused: what they are depends on the vocabulary.
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "chat/grammar_int.h"

typedef struct {
    char *name;  // points into the text
    size_t n;
    uint32_t rule;
} named;

typedef struct {
    mk_gb *b;
    const char *p;
    size_t n, at;
    int depth;
    named *slot;  // open addressing by name
    size_t n_named, n_slot;
} parser;

static mk_gn parse_alternatives(parser *s);

static void fail(parser *s, mk_status code, const char *what) {
    size_t line = 1;
    for (size_t i = 0; i < s->at && i < s->n; i++) {
        line += s->p[i] == '\n';
    }
    MK_GB_FAIL(s->b, code, "GBNF, line %zu: %s", line, what);
    s->at = s->n;
}

static bool looking_at(const parser *s, const char *text) {
    size_t n = strlen(text);
    return s->n - s->at >= n && memcmp(s->p + s->at, text, n) == 0;
}

static bool take(parser *s, const char *text) {
    bool yes = looking_at(s, text);
    s->at += yes ? strlen(text) : 0;
    return yes;
}

static void skip_space(parser *s, bool lines) {
    while (s->at < s->n) {
        char c = s->p[s->at];
        if (c == '#') {
            while (s->at < s->n && s->p[s->at] != '\n') {
                s->at++;
            }
        } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
            s->at++;
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
    while (s->at + n < s->n && is_name_char(s->p[s->at + n])) {
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
    uint32_t x = 0;
    for (int i = 0; i < n; i++, s->at++) {
        char c = s->at < s->n ? s->p[s->at] : '\0';
        int v = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (v < 0) {
            fail(s, MK_EUSAGE, "expected hexadecimal digits after a backslash");
            return 0;
        }
        x = x * 16 + (uint32_t)v;
    }
    if (x > 0x10FFFF || (x >= 0xD800 && x < 0xE000)) {
        fail(s, MK_EUSAGE, "an escape that is no character");
        return 0;
    }
    return x;
}

static uint32_t take_char(parser *s) {
    uint32_t cp = 0;
    int n = mk_utf8_decode(s->p + s->at, s->n - s->at, &cp);
    if (n <= 0) {
        fail(s, MK_EUSAGE, n == 0 ? "unexpected end" : "a byte that is not UTF-8");
        return 0;
    }
    s->at += (size_t)n;
    if (cp != '\\') {
        return cp;
    }
    char c = s->at < s->n ? s->p[s->at++] : '\0';
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
    mk_buf_init(&text, s->n + 16);
    while (s->at < s->n && s->p[s->at] != '"') {
        mk_buf_utf8(&text, take_char(s));
    }
    if (!take(s, "\"")) {
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
    bool invert = take(s, "^");
    while (s->at < s->n && s->p[s->at] != ']') {
        uint32_t lo = take_char(s), hi = lo;
        if (s->n - s->at >= 2 && s->p[s->at] == '-' && s->p[s->at + 1] != ']') {
            s->at++;
            hi = take_char(s);
        }
        if (hi < lo) {
            fail(s, MK_EUSAGE, "a range that runs backwards");
        }
        mk_cset_add(s->b, &c, lo, hi);
    }
    if (!take(s, "]")) {
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
static bool take_number(parser *s, uint32_t *out) {
    size_t start = s->at;
    uint64_t x = 0;
    for (; s->at < s->n && s->p[s->at] >= '0' && s->p[s->at] <= '9'; s->at++) {
        x = x * 10 + (uint64_t)(s->p[s->at] - '0');
        x = x > MK_G_MAX_REPEAT ? MK_G_MAX_REPEAT : x;
    }
    *out = (uint32_t)x;
    return s->at > start;
}

static mk_gn repeated(parser *s, mk_gn x) {
    uint32_t min = 0, max = MK_G_INF;
    if (take(s, "*")) {
    } else if (take(s, "+")) {
        min = 1;
    } else if (take(s, "?")) {
        max = 1;
    } else if (take(s, "{")) {
        skip_space(s, false);
        bool has_min = take_number(s, &min), comma;
        skip_space(s, false);
        comma = take(s, ",");
        skip_space(s, false);
        if (!(comma && take_number(s, &max)) && has_min && !comma) {
            max = min;
        }
        skip_space(s, false);
        if (!take(s, "}") || (!has_min && !comma) || min > max) {
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
    if (!take(s, ")")) {
        fail(s, MK_EUSAGE, "a '(' without ')'");
    }
    return x;
}

static mk_gn parse_atom(parser *s) {
    size_t n = name_length(s);
    if (n > 0) {
        const char *name = s->p + s->at;
        s->at += n;
        return mk_gb_call(s->b, rule_of(s, name, n));
    }
    if (take(s, "\"")) {
        return parse_text(s);
    }
    if (take(s, "[")) {
        return parse_set(s);
    }
    if (take(s, "(")) {
        return parse_group(s);
    }
    if (take(s, ".")) {
        return any_char(s);
    }
    if (looking_at(s, "<") || looking_at(s, "!")) {
        fail(s, MK_EUNSUPPORTED, "tokens in a grammar are not supported; write their text");
    } else {
        fail(s, MK_EUSAGE, "expected a text, a set, a rule or a bracket");
    }
    return MK_GN_EMPTY;
}

static bool at_quantifier(const parser *s) {
    return s->at < s->n && strchr("*+?{", s->p[s->at]) != NULL && s->p[s->at] != '\0';
}

// Inside of brackets lines do not matter; outside a line's end ends the sequence.
static mk_gn parse_sequence(parser *s) {
    mk_gnlist l = {0};
    for (;;) {
        skip_space(s, s->depth > 0);
        if (s->at >= s->n || strchr("|)\r\n", s->p[s->at]) != NULL || s->b->status != MK_OK) {
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
        size_t before = s->at;
        skip_space(s, true);  // a line may begin with '|'
        if (!looking_at(s, "|")) {
            s->at = s->b->status == MK_OK ? before : s->n;
        } else {
            s->at++;
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
    const char *name = s->p + s->at;
    if (n == 0) {
        fail(s, MK_EUSAGE, "expected the name of a rule");
        return;
    }
    s->at += n;
    skip_space(s, false);
    if (!take(s, "::=")) {
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
    if (s->at < s->n && s->p[s->at] != '\n' && s->p[s->at] != '\r') {
        fail(s, MK_EUSAGE, "expected the end of the line");
    }
}

mk_gn mk_gb_gbnf(mk_gb *b, const char *text, size_t n) {
    parser s = {.b = b, .p = text, .n = n};
    for (skip_space(&s, true); s.at < s.n && b->status == MK_OK; skip_space(&s, true)) {
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
