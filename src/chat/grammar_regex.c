// Regular expressions of ECMA-262 (the dialect of JSON Schema's "pattern"), the part of them that
// is regular: no lookaround, no backreferences, no word boundaries; "^" and "$" only where a whole
// alternative begins and ends.  There is no matching here and so no backtracking: a pattern becomes
// nodes of a grammar.
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "chat/grammar_int.h"
#include "chat/grammar_scan.h"

typedef struct {
    mk_gb *b;
    mk_gscan in;
    const mk_re_opts *o;
    int depth;
} parser;

static mk_gn parse_alternatives(parser *s, bool top);

static void fail(parser *s, mk_status code, const char *what) {
    MK_GB_FAIL(s->b, code, "%s: %s at byte %zu of the pattern", s->o->what, what, s->in.at);
    s->in.at = s->in.n;
}

static uint32_t take_char(parser *s) {
    uint32_t cp = 0;
    const char *wrong = mk_gscan_char(&s->in, &cp);
    if (wrong != NULL) {
        fail(s, MK_EUSAGE, wrong);
        return 0;
    }
    return cp;
}

// --- sets ----------------------------------------------------------------------------------------
static void add_digits(mk_gb *b, mk_cset *c) {
    mk_cset_add(b, c, '0', '9');
}

static void add_word(mk_gb *b, mk_cset *c) {
    mk_cset_add(b, c, '0', '9');
    mk_cset_add(b, c, 'A', 'Z');
    mk_cset_add(b, c, '_', '_');
    mk_cset_add(b, c, 'a', 'z');
}

static void add_space(mk_gb *b, mk_cset *c) {
    static const mk_crange space[] = {
        {9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
        {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    for (size_t i = 0; i < sizeof(space) / sizeof(space[0]); i++) {
        mk_cset_add(b, c, space[i].lo, space[i].hi);
    }
}

// \d \w \s and their opposites; false if `letter` is none of them.
static bool add_class(parser *s, mk_cset *c, uint32_t letter) {
    mk_cset x = {0};
    switch (letter) {
    case 'd':
    case 'D':
        add_digits(s->b, &x);
        break;
    case 'w':
    case 'W':
        add_word(s->b, &x);
        break;
    case 's':
    case 'S':
        add_space(s->b, &x);
        break;
    default:
        return false;
    }
    mk_cset_sort(&x);
    if (letter < 'a') {
        mk_cset_invert(s->b, &x);
    }
    for (size_t i = 0; i < x.n; i++) {
        mk_cset_add(s->b, c, x.r[i].lo, x.r[i].hi);
    }
    mk_cset_free(&x);
    return true;
}

static uint32_t take_hex(parser *s, int min, int max) {
    uint32_t x;
    if (mk_gscan_hex(&s->in, max, &x) < min) {
        fail(s, MK_EUSAGE, "expected hexadecimal digits");
    }
    return x;
}

static uint32_t take_unicode(parser *s) {
    uint32_t cp;
    if (mk_gscan_take(&s->in, "{")) {
        cp = take_hex(s, 1, 6);
        if (!mk_gscan_take(&s->in, "}")) {
            fail(s, MK_EUSAGE, "expected '}'");
        }
    } else {
        cp = take_hex(s, 4, 4);
        if (cp >= 0xD800 && cp < 0xDC00 && mk_gscan_take(&s->in, "\\u")) {  // a pair of surrogates
            uint32_t low = take_hex(s, 4, 4);
            cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) {
        fail(s, MK_EUSAGE, "an escape that is no character");
        return 0;
    }
    return cp;
}

// The character that an escape stands for; the backslash and `letter` are behind us.
static uint32_t escaped(parser *s, uint32_t letter, bool in_class) {
    static const char from[] = "tnvfr", to[] = "\t\n\v\f\r";
    const char *at = letter != 0 && letter < 128 ? strchr(from, (int)letter) : NULL;
    if (at != NULL) {
        return (uint8_t)to[at - from];
    }
    if (letter == 'b' && in_class) {
        return '\b';
    }
    if (letter == 'x') {
        return take_hex(s, 2, 2);
    }
    if (letter == 'u') {
        return take_unicode(s);
    }
    if (letter == 'c') {
        uint32_t c = take_char(s);
        return c & 31;
    }
    if (letter == '0' &&
        !(s->in.at < s->in.n && s->in.p[s->in.at] >= '0' && s->in.p[s->in.at] <= '9')) {
        return 0;
    }
    if ((letter >= '0' && letter <= '9') || letter == 'k') {
        fail(s, MK_EUNSUPPORTED, "backreferences are not regular");
    } else if (letter == 'b' || letter == 'B') {
        fail(s, MK_EUNSUPPORTED, "word boundaries are not supported");
    } else if (letter == 'p' || letter == 'P') {
        fail(s, MK_EUNSUPPORTED, "Unicode properties are not supported");
    } else if ((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z')) {
        fail(s, MK_EUNSUPPORTED, "an unknown escape");
    }
    return letter;
}

static mk_gn char_node(parser *s, mk_cset *c) {
    uint32_t but = (uint8_t)s->o->but;
    bool had = but != 0 && mk_cset_has(c, but);
    if (had) {
        mk_cset_remove(s->b, c, but);
    }
    mk_gn x = s->o->json ? mk_gb_json_chars(s->b, c) : mk_gb_chars(s->b, c);
    mk_cset_free(c);
    if (had && s->o->json) {
        char escape[8];
        snprintf(escape, sizeof(escape), "\\u00%02x", (unsigned)but);
        x = mk_gb_alt2(s->b, mk_gb_text(s->b, escape), x);
    }
    return x;
}

// One element of [...]: a class (then *cp is not set), or a character.
static bool class_element(parser *s, mk_cset *c, uint32_t *cp) {
    *cp = take_char(s);
    if (*cp != '\\' || s->in.at >= s->in.n) {
        return true;
    }
    uint32_t letter = take_char(s);
    if (add_class(s, c, letter)) {
        return false;
    }
    *cp = escaped(s, letter, true);
    return true;
}

static mk_gn parse_set(parser *s) {
    mk_cset c = {0};
    bool invert = mk_gscan_take(&s->in, "^");
    while (s->in.at < s->in.n && !mk_gscan_sees(&s->in, "]")) {
        uint32_t lo, hi;
        if (!class_element(s, &c, &lo)) {
            continue;
        }
        hi = lo;
        if (s->in.n - s->in.at >= 2 && s->in.p[s->in.at] == '-' && s->in.p[s->in.at + 1] != ']') {
            s->in.at++;
            if (!class_element(s, &c, &hi)) {  // [a-\d]: a, -, and digits
                mk_cset_add(s->b, &c, '-', '-');
                hi = lo;
            }
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
    return char_node(s, &c);
}

static mk_gn dot(parser *s) {
    mk_cset c = {0};
    mk_cset_add(s->b, &c, '\n', '\n');
    mk_cset_add(s->b, &c, '\r', '\r');
    mk_cset_add(s->b, &c, 0x2028, 0x2029);
    mk_cset_sort(&c);
    mk_cset_invert(s->b, &c);
    return char_node(s, &c);
}

static mk_gn one_char(parser *s, uint32_t cp) {
    mk_cset c = {0};
    char utf8[4];
    bool as_is = !s->o->json || (cp >= 0x20 && cp != '"' && cp != '\\');
    if (as_is && (cp == 0 || cp != (uint8_t)s->o->but)) {
        return mk_gb_bytes(s->b, utf8, (size_t)mk_utf8_encode(cp, utf8));
    }
    mk_cset_add(s->b, &c, cp, cp);
    return char_node(s, &c);
}

static mk_gn parse_escape(parser *s) {
    mk_cset c = {0};
    if (s->in.at >= s->in.n) {
        fail(s, MK_EUSAGE, "a backslash at the end");
        return MK_GN_EMPTY;
    }
    uint32_t letter = take_char(s);
    if (add_class(s, &c, letter)) {
        return char_node(s, &c);
    }
    return one_char(s, escaped(s, letter, false));
}

// --- structure -----------------------------------------------------------------------------------
static mk_gn parse_group(parser *s) {
    if (s->depth >= MK_G_MAX_DEPTH) {
        fail(s, MK_ELIMIT, "groups are nested too deeply");
        return MK_GN_EMPTY;
    }
    if (mk_gscan_sees(&s->in, "?=") || mk_gscan_sees(&s->in, "?!") ||
        mk_gscan_sees(&s->in, "?<=") || mk_gscan_sees(&s->in, "?<!")) {
        fail(s, MK_EUNSUPPORTED, "lookaround is not supported");
    } else if (mk_gscan_take(&s->in, "?<")) {
        while (s->in.at < s->in.n && s->in.p[s->in.at] != '>') {
            s->in.at++;
        }
        mk_gscan_take(&s->in, ">");
    } else if (!mk_gscan_take(&s->in, "?:") && mk_gscan_sees(&s->in, "?")) {
        fail(s, MK_EUNSUPPORTED, "an unknown kind of group");
    }
    s->depth++;
    mk_gn x = parse_alternatives(s, false);
    s->depth--;
    if (!mk_gscan_take(&s->in, ")")) {
        fail(s, MK_EUSAGE, "a group without ')'");
    }
    return x;
}

// {m}, {m,}, {m,n}; anything else is not a quantifier and stays where it is.
static bool take_bounds(parser *s, uint32_t *min, uint32_t *max) {
    size_t start = s->in.at++;
    if (mk_gscan_number(&s->in, min)) {
        *max = *min;
        if (mk_gscan_take(&s->in, ",") && !mk_gscan_number(&s->in, max)) {
            *max = MK_G_INF;
        }
        if (mk_gscan_take(&s->in, "}")) {
            return true;
        }
    }
    s->in.at = start;
    return false;
}

static bool take_quantifier(parser *s, uint32_t *min, uint32_t *max) {
    bool yes = true;
    *min = 0;
    *max = MK_G_INF;
    if (mk_gscan_take(&s->in, "+")) {
        *min = 1;
    } else if (mk_gscan_take(&s->in, "?")) {
        *max = 1;
    } else if (mk_gscan_sees(&s->in, "{")) {
        yes = take_bounds(s, min, max);
    } else {
        yes = mk_gscan_take(&s->in, "*");
    }
    if (yes && *min > *max) {
        fail(s, MK_EUSAGE, "a repetition whose bounds are the wrong way round");
    }
    if (yes) {
        mk_gscan_take(&s->in, "?");  // lazy: the same texts
    }
    return yes;
}

static mk_gn parse_atom(parser *s) {
    uint32_t c = take_char(s);
    switch (c) {
    case '.':
        return dot(s);
    case '[':
        return parse_set(s);
    case '(':
        return parse_group(s);
    case '\\':
        return parse_escape(s);
    case '*':
    case '+':
    case '?':
        fail(s, MK_EUSAGE, "nothing to repeat");
        return MK_GN_EMPTY;
    default:
        return one_char(s, c);
    }
}

typedef struct {
    bool start, end;  // '^', '$'
    size_t n_set;     // atoms that are one of a set of characters
    mk_gn chars;
    uint32_t min, max;
} sequence;

// One atom or anchor and what repeats it.
static void parse_term(parser *s, bool top, mk_gnlist *l, sequence *q) {
    uint32_t min, max;
    char first = s->in.p[s->in.at];
    if (q->end) {
        fail(s, MK_EUNSUPPORTED, "text after '$'");
    } else if (mk_gscan_take(&s->in, "^")) {
        if (!top || l->n > 0) {
            fail(s, MK_EUNSUPPORTED, "'^' is supported only where the pattern begins");
        }
        q->start = true;
    } else if (mk_gscan_take(&s->in, "$")) {
        if (!top) {
            fail(s, MK_EUNSUPPORTED, "'$' is supported only where the pattern ends");
        }
        q->end = true;
    } else {
        mk_gn x = parse_atom(s);
        q->n_set += first == '[' || first == '.';
        q->chars = x;
        q->min = q->max = 1;
        for (int i = 0; take_quantifier(s, &min, &max); i++) {
            x = mk_gb_repeat(s->b, x, min, max);
            q->min = min;
            q->max = max;
            q->n_set += i > 0;  // (x{2}){3}: no longer one repetition
        }
        mk_gnlist_add(s->b, l, x);
    }
}

// A sequence between two '|'.  Any text takes the place of an anchor that is missing, if the
// pattern may match anywhere.
static mk_gn parse_sequence(parser *s, bool top, mk_gn anything) {
    mk_gnlist l = {0};
    sequence q = {0};
    while (s->in.at < s->in.n && s->in.p[s->in.at] != '|' && s->in.p[s->in.at] != ')' &&
           s->b->status == MK_OK) {
        parse_term(s, top, &l, &q);
    }
    if (top && s->o->simple != NULL && s->in.at == s->in.n && l.n == 1 && q.n_set == 1 && q.start &&
        q.end) {
        *s->o->simple = (mk_re_simple){true, q.chars, q.min, q.max};
    }
    mk_gn body = mk_gnlist_seq(s->b, &l);
    return mk_gb_seq3(s->b, q.start ? MK_GN_EMPTY : anything, body, q.end ? MK_GN_EMPTY : anything);
}

static mk_gn parse_alternatives(parser *s, bool top) {
    mk_gnlist l = {0};
    mk_gn anything = MK_GN_EMPTY;
    if (top && s->o->match == MK_RE_SEARCH) {
        mk_cset all = {0};
        mk_cset_add(s->b, &all, 0, 0x10FFFF);
        anything = mk_gb_repeat(s->b, char_node(s, &all), 0, MK_G_INF);
    }
    do {
        mk_gnlist_add(s->b, &l, parse_sequence(s, top, anything));
    } while (s->b->status == MK_OK && mk_gscan_take(&s->in, "|"));
    if (top && l.n > 1 && s->o->simple != NULL) {
        s->o->simple->yes = false;
    }
    return mk_gnlist_alt(s->b, &l);
}

// (...) around the whole pattern, so that anchors inside it are at the top: its length without the
// brackets, or 0.
static size_t inside_group(const char *p, size_t n) {
    int depth = 0;
    bool in_set = false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\\') {
            i++;
        } else if (in_set) {
            in_set = p[i] != ']';
        } else if (p[i] == '[') {
            in_set = true;
        } else {
            depth += (p[i] == '(') - (p[i] == ')');
            if (depth == 0) {
                return i + 1 == n && n > 2 ? n - 2 : 0;
            }
        }
    }
    return 0;
}

mk_gn mk_gb_regex(mk_gb *b, const char *p, size_t n, const mk_re_opts *o) {
    for (int i = 0; i < 4; i++) {
        size_t k = inside_group(p, n);
        size_t open = k > 2 && memcmp(p, "(?:", 3) == 0 ? 3 : 1;
        if (k == 0 || (open == 1 && (p[0] != '(' || p[1] == '?'))) {
            break;
        }
        p += open;
        n = k + 1 - open;
    }
    parser s = {.b = b, .in = {p, n, 0}, .o = o};
    mk_gn x = parse_alternatives(&s, true);
    if (b->status == MK_OK && s.in.at < s.in.n) {
        fail(&s, MK_EUSAGE, "')' without '('");
    }
    return x;
}

mk_status mk_grammar_from_regex(const char *pattern, size_t n, const mk_grammar_limits *limits,
                                mk_grammar **out, mk_err *err) {
    mk_gb b;
    mk_re_opts o = {.match = MK_RE_FULL, .what = "regex"};
    mk_gb_init(&b, limits, err);
    mk_gn x = mk_gb_regex(&b, pattern, n, &o);
    return mk_gb_finish(&b, x, out);
}
