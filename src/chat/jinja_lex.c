// Template text -> tokens. Whitespace control is decided here, as in Jinja with trim_blocks and
// lstrip_blocks:
//   "-" beside a tag removes all white space on that side; "+" keeps it;
//   without a sign, blanks between a line's start and a {% or {# tag go, and so does one newline
//   after %} or #}.
// A comment or raw block never becomes a token; the text in a raw block is data.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/ascii.h"
#include "base/utf8.h"
#include "chat/jinja_int.h"

// --- small helpers -------------------------------------------------------------------------------
static bool lex_fail(jlex *lx, const char *what) {
    lx->status = MK_FAIL(lx->err, MK_ETEMPLATE, "chat template, line %d: %s", lx->line, what);
    return false;
}

static bool lex_nomem(jlex *lx) {
    lx->status =
        MK_FAIL(lx->err, MK_ENOMEM, "chat template: out of memory while reading %u bytes", lx->n);
    return false;
}

// White space in Python's sense: str.isspace() and \s agree on these.
bool mk_j_is_space(uint32_t cp) {
    static const uint16_t more[] = {0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000};
    if (cp < 0x80) {
        return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32);
    }
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        if (cp == more[i]) {
            return true;
        }
    }
    return cp >= 0x2000 && cp <= 0x200a;
}

// Length of the character at p (p < end); the text is valid UTF-8.
uint32_t mk_j_decode(const char *p, const char *end, uint32_t *cp) {
    unsigned char b = (unsigned char)*p;
    if (b < 0x80) {
        *cp = b;
        return 1;
    }
    int k = mk_utf8_decode(p, (size_t)(end - p), cp);
    return k > 0 ? (uint32_t)k : 1;
}

static uint32_t skip_space(const jlex *lx, uint32_t at) {
    while (at < lx->n) {
        uint32_t cp;
        uint32_t k = mk_j_decode(lx->src + at, lx->src + lx->n, &cp);
        if (!mk_j_is_space(cp)) {
            break;
        }
        at += k;
    }
    return at;
}

static uint32_t strip_right(const jlex *lx, uint32_t from, uint32_t to) {
    jval s = mk_j_str(lx->src + from, to - from, NULL);
    return from + mk_j_strip(&s, NULL, 2).n;
}

static bool starts(const jlex *lx, uint32_t at, const char *s) {
    size_t n = strlen(s);
    return n <= lx->n - at && memcmp(lx->src + at, s, n) == 0;
}

// Moves to `to`, counting the lines on the way.
static void move(jlex *lx, uint32_t to) {
    for (; lx->counted < to; lx->counted++) {
        lx->line += lx->src[lx->counted] == '\n';
    }
    lx->pos = to;
}

bool mk_j_lex_init(jlex *lx, const char *text, size_t n, mk_arena *arena, mk_err *err) {
    memset(lx, 0, sizeof *lx);
    lx->arena = arena;
    lx->err = err;
    lx->line = 1;
    char *copy = mk_arena_try(arena, n + 1, 1);
    if (copy == NULL) {
        return lex_nomem(lx);
    }
    uint32_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r') {
            copy[k++] = '\n';
            i += i + 1 < n && text[i + 1] == '\n';
        } else {
            copy[k++] = text[i];
        }
    }
    lx->n = k - (k > 0 && copy[k - 1] == '\n');
    lx->src = copy;
    return true;
}

// --- tags and data -------------------------------------------------------------------------------
// After the closing sign of a tag at `at` (which is at "-", "+" or the bracket itself): position
// behind it, or 0.
static uint32_t tag_end(const jlex *lx, uint32_t at, const char *close, bool plus_ok, bool trim) {
    if (starts(lx, at, close)) {
        at += 2;
        return trim && at < lx->n && lx->src[at] == '\n' ? at + 1 : at;
    }
    if (at < lx->n && (lx->src[at] == '-' || (plus_ok && lx->src[at] == '+')) &&
        starts(lx, at + 1, close)) {
        return lx->src[at] == '-' ? skip_space(lx, at + 3) : at + 3;
    }
    return 0;
}

// {% raw %} at `at`: position of its content, or 0.
static uint32_t raw_begin(const jlex *lx, uint32_t at) {
    at += 2;
    at += at < lx->n && (lx->src[at] == '-' || lx->src[at] == '+');
    at = skip_space(lx, at);
    if (!starts(lx, at, "raw")) {
        return 0;
    }
    return tag_end(lx, skip_space(lx, at + 3), "%}", false, false);
}

// {% endraw %} at `at`: position behind it, or 0.
static uint32_t raw_end(const jlex *lx, uint32_t at) {
    at += 2;
    at += at < lx->n && (lx->src[at] == '-' || lx->src[at] == '+');
    at = skip_space(lx, at);
    if (!starts(lx, at, "endraw")) {
        return 0;
    }
    return tag_end(lx, skip_space(lx, at + 6), "%}", true, true);
}

// End of the data [from, to) in front of the tag at `to`, after whitespace control.
static uint32_t data_end(const jlex *lx, uint32_t from, uint32_t to, bool variable) {
    char sign = to + 2 < lx->n ? lx->src[to + 2] : 0;
    if (sign == '-') {
        return strip_right(lx, from, to);
    }
    if (sign == '+' || variable) {
        return to;
    }
    uint32_t bol = to;
    while (bol > from && lx->src[bol - 1] != '\n') {
        bol--;
    }
    bool at_line_start = bol > from || from == 0 || lx->src[from - 1] == '\n';
    return at_line_start && skip_space(lx, bol) >= to ? bol : to;
}

static bool data_token(jlex *lx, uint32_t from, uint32_t to, jtok *t) {
    t->kind = JT_DATA;
    t->line = lx->line;
    t->text = (jtext){lx->src + from, to - from};
    return to > from;
}

static bool lex_raw(jlex *lx, jtok *t, bool *emitted) {
    for (uint32_t at = lx->pos; at + 1 < lx->n; at++) {
        uint32_t end = lx->src[at] == '{' && lx->src[at + 1] == '%' ? raw_end(lx, at) : 0;
        if (end != 0) {
            *emitted = data_token(lx, lx->pos, data_end(lx, lx->pos, at, false), t);
            move(lx, end);
            lx->mode = JMODE_ROOT;
            return true;
        }
    }
    if (lx->pos >= lx->n) {  // as with comments
        lx->mode = JMODE_ROOT;
        return true;
    }
    return lex_fail(lx, "Missing end of raw directive");
}

static bool skip_comment(jlex *lx, uint32_t at) {
    for (uint32_t i = at + 2; i + 1 < lx->n; i++) {
        uint32_t end = tag_end(lx, i, "#}", true, true);
        if (end != 0) {
            move(lx, end);
            return true;
        }
    }
    if (at + 2 >= lx->n) {  // nothing at all behind the opening: Jinja lets it pass
        move(lx, lx->n);
        return true;
    }
    return lex_fail(lx, "Missing end of comment tag");
}

// Data up to the next tag; enters the tag.  *emitted: *t holds the data (there may be none).
static bool lex_root(jlex *lx, jtok *t, bool *emitted) {
    uint32_t at = lx->pos;
    while (at < lx->n) {
        const char *brace = memchr(lx->src + at, '{', lx->n - at);
        at = brace != NULL ? (uint32_t)(brace - lx->src) : lx->n;
        if (at + 1 < lx->n && strchr("{%#", lx->src[at + 1]) != NULL && lx->src[at + 1] != 0) {
            break;
        }
        at += at < lx->n;
    }
    char what = at < lx->n ? lx->src[at + 1] : 0;
    if (what == 0) {
        *emitted = data_token(lx, lx->pos, lx->n, t);
        move(lx, lx->n);
        return true;
    }
    *emitted = data_token(lx, lx->pos, data_end(lx, lx->pos, at, what == '{'), t);
    move(lx, at);
    if (what == '#') {
        uint32_t body = at;
        body += at + 2 < lx->n && (lx->src[at + 2] == '-' || lx->src[at + 2] == '+');
        return skip_comment(lx, body);
    }
    uint32_t raw = what == '%' ? raw_begin(lx, at) : 0;
    if (raw != 0) {
        move(lx, raw);
        lx->mode = JMODE_RAW;
        return true;
    }
    lx->mode = what == '{' ? JMODE_VAR : JMODE_BLOCK;
    return true;
}

// --- tokens inside a tag -------------------------------------------------------------------------
static bool is_digit(char ch) {
    return ch >= '0' && ch <= '9';
}

// (\d+_)*\d+ from at: position behind, or at itself.
static uint32_t digits(const jlex *lx, uint32_t at) {
    while (at < lx->n &&
           (is_digit(lx->src[at]) || (lx->src[at] == '_' && at > 0 && is_digit(lx->src[at - 1]) &&
                                      at + 1 < lx->n && is_digit(lx->src[at + 1])))) {
        at++;
    }
    return at;
}

static uint32_t exponent(const jlex *lx, uint32_t at) {
    if (at < lx->n && (lx->src[at] == 'e' || lx->src[at] == 'E')) {
        uint32_t d = at + 1;
        d += d < lx->n && (lx->src[d] == '+' || lx->src[d] == '-');
        uint32_t end = d < lx->n && is_digit(lx->src[d]) ? digits(lx, d) : d;
        return end > d ? end : at;
    }
    return at;
}

// Copies the digits without "_"; false if too long for any number we keep.
static bool plain_number(const jlex *lx, uint32_t from, uint32_t to, char *out, size_t cap) {
    size_t k = 0;
    for (uint32_t i = from; i < to; i++) {
        if (lx->src[i] == '_') {
            continue;
        }
        if (k + 1 >= cap) {
            return false;
        }
        out[k++] = lx->src[i];
    }
    out[k] = 0;
    return true;
}

static bool lex_float(jlex *lx, jtok *t, uint32_t *end) {
    uint32_t whole = digits(lx, lx->pos);
    uint32_t frac = whole;
    if (whole + 1 < lx->n && lx->src[whole] == '.' && is_digit(lx->src[whole + 1])) {
        frac = digits(lx, whole + 1);
    }
    *end = exponent(lx, frac);
    if (*end == whole) {
        return false;
    }
    char num[400];
    t->kind = JT_FLOAT;
    t->f = plain_number(lx, lx->pos, *end, num, sizeof num) ? strtod(num, NULL) : (double)INFINITY;
    return true;
}

// 99: none in any base.
static int digit_value(char ch) {
    int digit = mk_hex_digit(ch);
    return digit >= 0 ? digit : 99;
}

static bool lex_int(jlex *lx, jtok *t, uint32_t *end) {
    uint32_t at = lx->pos;
    int base = 10;
    if (lx->src[at] == '0' && at + 1 < lx->n) {
        int low = lx->src[at + 1] | 0x20;
        base = low == 'x' ? 16 : low == 'o' ? 8 : low == 'b' ? 2 : 10;
    }
    if (base != 10) {
        uint32_t d = at + 2;
        d += d < lx->n && lx->src[d] == '_';
        at = d < lx->n && digit_value(lx->src[d]) < base ? d : at;
        base = at == lx->pos ? 10 : base;
    }
    bool zero = base == 10 && lx->src[at] == '0';  // 0_0 is a number, 01 is two
    int64_t v = 0;
    for (; at < lx->n; at++) {
        if (lx->src[at] == '_' && at + 1 < lx->n && digit_value(lx->src[at + 1]) < base) {
            continue;
        }
        int d = digit_value(lx->src[at]);
        if (d >= base || (zero && d != 0)) {
            break;
        }
        if (__builtin_mul_overflow(v, (int64_t)base, &v) ||
            __builtin_add_overflow(v, (int64_t)d, &v)) {
            return lex_fail(lx, "integer does not fit in 64 bits");
        }
    }
    t->kind = JT_INT;
    t->i = v;
    *end = at;
    return true;
}

static bool is_word(uint32_t cp, bool first) {
    if (cp < 0x80) {
        return cp == '_' || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') ||
               (!first && cp >= '0' && cp <= '9');
    }
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) || k == UTF8PROC_CATEGORY_NL ||
           (!first && (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC ||
                       k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_PC));
}

static uint32_t word_end(const jlex *lx, uint32_t at) {
    bool first = true;
    while (at < lx->n) {
        uint32_t cp;
        uint32_t k = mk_j_decode(lx->src + at, lx->src + lx->n, &cp);
        if (!is_word(cp, first)) {
            break;
        }
        at += k;
        first = false;
    }
    return at;
}

// --- string literals -----------------------------------------------------------------------------
static bool hex_escape(jlex *lx, uint32_t *at, uint32_t end, int n_digits, uint32_t *cp) {
    uint32_t v = 0;
    for (int i = 0; i < n_digits; i++) {
        int d = *at < end ? digit_value(lx->src[*at]) : 99;
        if (d > 15) {
            return lex_fail(lx, "truncated \\x, \\u or \\U escape in a string");
        }
        v = v << 4 | (uint32_t)d;
        ++*at;
    }
    if (v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) {
        return lex_fail(lx, "a \\u or \\U escape is not a character");
    }
    *cp = v;
    return true;
}

// The escape behind a backslash at *at; writes 0..4 bytes. Unknown escapes stay as they are, as in
// Python.
static bool escape(jlex *lx, uint32_t *at, uint32_t end, char *out, uint32_t *n_out) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char ch = lx->src[(*at)++];
    const char *simple = ch != 0 ? strchr(from, ch) : NULL;
    uint32_t cp = 0;
    *n_out = 0;
    if (ch == '\n') {
        return true;
    }
    if (simple != NULL) {
        cp = (uint32_t)(unsigned char)to[simple - from];
    } else if (ch >= '0' && ch <= '7') {
        cp = (uint32_t)(ch - '0');
        for (int i = 0; i < 2 && *at < end && lx->src[*at] >= '0' && lx->src[*at] <= '7'; i++) {
            cp = cp * 8 + (uint32_t)(lx->src[(*at)++] - '0');
        }
    } else if (ch == 'x' || ch == 'u' || ch == 'U') {
        if (!hex_escape(lx, at, end, ch == 'x' ? 2 : ch == 'u' ? 4 : 8, &cp)) {
            return false;
        }
    } else if (ch == 'N') {
        return lex_fail(lx, "\\N{...} escapes are not supported");
    } else {
        out[(*n_out)++] = '\\';
        out[(*n_out)++] = ch;  // of a longer character: its tail follows as ordinary bytes
        return true;
    }
    *n_out = (uint32_t)mk_utf8_encode(cp, out);
    return true;
}

static bool lex_string(jlex *lx, jtok *t, uint32_t *end) {
    char quote = lx->src[lx->pos];
    uint32_t at = lx->pos + 1;
    bool plain = true;
    while (at < lx->n && lx->src[at] != quote) {
        plain = plain && lx->src[at] != '\\';
        at += lx->src[at] == '\\' ? 2 : 1;
    }
    if (at >= lx->n) {
        return lex_fail(lx, "a string is not closed");
    }
    uint32_t from = lx->pos + 1;
    *end = at + 1;
    t->kind = JT_STRING;
    t->text = (jtext){lx->src + from, at - from};
    if (plain) {
        return true;
    }
    char *out = mk_arena_try(lx->arena, at - from + 4, 1);
    if (out == NULL) {
        return lex_nomem(lx);
    }
    uint32_t k = 0;
    for (uint32_t i = from; i < at;) {
        uint32_t n = 1;
        if (lx->src[i] != '\\') {
            out[k] = lx->src[i++];
        } else {
            i++;
            if (!escape(lx, &i, at, out + k, &n)) {
                return false;
            }
        }
        k += n;
    }
    t->text = (jtext){out, k};
    return true;
}

// --- operators -----------------------------------------------------------------------------------
static const struct {
    const char *text;  // longer ones first
    uint8_t kind;
} operators[] = {
    {"//", JT_FLOORDIV}, {"**", JT_POW},   {"==", JT_EQ},      {"!=", JT_NE},      {">=", JT_GE},
    {"<=", JT_LE},       {"+", JT_ADD},    {"-", JT_SUB},      {"/", JT_DIV},      {"*", JT_MUL},
    {"%", JT_MOD},       {"~", JT_TILDE},  {"[", JT_LBRACKET}, {"]", JT_RBRACKET}, {"(", JT_LPAREN},
    {")", JT_RPAREN},    {"{", JT_LBRACE}, {"}", JT_RBRACE},   {">", JT_GT},       {"<", JT_LT},
    {"=", JT_ASSIGN},    {".", JT_DOT},    {":", JT_COLON},    {"|", JT_PIPE},     {",", JT_COMMA},
    {";", JT_SEMICOLON},
};

static bool balance(jlex *lx, char ch) {
    static const char open[] = "([{", close[] = ")]}";
    const char *o = strchr(open, ch);
    if (o != NULL) {
        if (lx->n_close >= MK_J_MAX_NEST) {
            lx->status = MK_FAIL(lx->err, MK_ELIMIT,
                                 "chat template, line %d: more than %d brackets inside each other",
                                 lx->line, MK_J_MAX_NEST);
            return false;
        }
        lx->close[lx->n_close++] = close[o - open];
        return true;
    }
    if (strchr(close, ch) == NULL) {
        return true;
    }
    char want = lx->n_close > 0 ? lx->close[--lx->n_close] : 0;
    if (want != ch) {
        lx->status = MK_FAIL(
            lx->err, MK_ETEMPLATE, "chat template, line %d: unexpected '%c', expected %s%c%s",
            lx->line, ch, want ? "'" : "the end of the ta", want ? want : 'g', want ? "'" : "");
        return false;
    }
    return true;
}

static bool lex_operator(jlex *lx, jtok *t, uint32_t *end) {
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (starts(lx, lx->pos, operators[i].text)) {
            size_t n = strlen(operators[i].text);
            t->kind = operators[i].kind;
            t->text = (jtext){lx->src + lx->pos, (uint32_t)n};
            *end = lx->pos + (uint32_t)n;
            return n > 1 || balance(lx, lx->src[lx->pos]);
        }
    }
    char msg[64];
    snprintf(msg, sizeof msg, "unexpected character at byte %u", lx->pos);
    return lex_fail(lx, msg);
}

static bool lex_tag(jlex *lx, jtok *t) {
    move(lx, skip_space(lx, lx->pos));
    t->line = lx->line;
    bool var = lx->mode == JMODE_VAR;
    if (lx->pos >= lx->n) {
        t->kind = JT_EOF;
        return true;
    }
    uint32_t end = lx->n_close > 0 ? 0 : tag_end(lx, lx->pos, var ? "}}" : "%}", !var, !var);
    if (end != 0) {
        t->kind = var ? JT_VAR_END : JT_BLOCK_END;
        move(lx, end);
        lx->mode = JMODE_ROOT;
        return true;
    }
    char ch = lx->src[lx->pos];
    bool ok = true;
    if (is_digit(ch)) {
        bool after_dot = lx->pos > 0 && lx->src[lx->pos - 1] == '.';
        ok = (!after_dot && lex_float(lx, t, &end)) || lex_int(lx, t, &end);
    } else if ((end = word_end(lx, lx->pos)) > lx->pos) {
        t->kind = JT_NAME;
        t->text = (jtext){lx->src + lx->pos, end - lx->pos};
    } else if (ch == '\'' || ch == '"') {
        ok = lex_string(lx, t, &end);
    } else {
        ok = lex_operator(lx, t, &end);
    }
    if (ok) {
        move(lx, end);
    }
    return ok;
}

// The sign of an opening tag belongs to it, so "{{-1}}" prints 1.
static bool open_tag(jlex *lx, jtok *t, uint8_t kind) {
    t->kind = kind;
    t->line = lx->line;
    uint32_t at = lx->pos + 2;
    at += at < lx->n && (lx->src[at] == '-' || lx->src[at] == '+');
    move(lx, at);
    return true;
}

bool mk_j_lex(jlex *lx, jtok *t) {
    memset(t, 0, sizeof *t);
    for (;;) {
        bool emitted = false;
        if (lx->mode == JMODE_ROOT && lx->pos >= lx->n) {
            t->kind = JT_EOF;
            t->line = lx->line;
            return true;
        }
        // a tag whose opening is still ahead: lex_root stopped in front of it
        if ((lx->mode == JMODE_VAR || lx->mode == JMODE_BLOCK) && !lx->opened) {
            lx->opened = true;
            return open_tag(lx, t, lx->mode == JMODE_VAR ? JT_VAR_BEGIN : JT_BLOCK_BEGIN);
        }
        if (lx->mode == JMODE_VAR || lx->mode == JMODE_BLOCK) {
            return lex_tag(lx, t);
        }
        if (!(lx->mode == JMODE_RAW ? lex_raw(lx, t, &emitted) : lex_root(lx, t, &emitted))) {
            return false;
        }
        lx->opened = false;
        if (emitted) {
            return true;
        }
    }
}

void mk_j_tok_describe(const jtok *t, char *out, size_t n) {
    static const char *const special[] = {
        [JT_STRING] = "a string",    [JT_INT] = "a number",   [JT_FLOAT] = "a number",
        [JT_DATA] = "template text", [JT_VAR_BEGIN] = "'{{'", [JT_VAR_END] = "'}}'",
        [JT_BLOCK_BEGIN] = "'{%'",   [JT_BLOCK_END] = "'%}'", [JT_EOF] = "the end of the template",
    };
    if (t->kind < sizeof special / sizeof special[0] && special[t->kind] != NULL) {
        snprintf(out, n, "%s", special[t->kind]);
    } else {
        snprintf(out, n, "'%.*s'", (int)(t->text.n > 40 ? 40 : t->text.n), t->text.p);
    }
}
