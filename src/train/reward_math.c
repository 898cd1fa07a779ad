// The reward `math`: are two answers in LaTeX the same piece of mathematics?
//
// Both are cleaned (spacing, \left, \text, $, degrees, ...) and cut at the commas outside of
// brackets; the parts are equal if both have a value (numbers, fractions, roots, powers, pi, the
// four operations) and the values agree, or if they are the same text.  Parts in brackets keep
// their order, others are a set.  Expressions with variables are compared as text: 2x+1 is not
// found to be 1+2x.
#include <math.h>
#include <string.h>

#include "base/mathx.h"
#include "base/opt.h"
#include "train/reward_int.h"

enum { MAX_TEXT = 2048, MAX_PARTS = 16, MAX_DEPTH = 32, MAX_POWER = 64 };

typedef struct {
    const char *s;
    size_t n;
} span;

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool starts(span t, const char *with) {
    size_t n = strlen(with);
    return t.n >= n && memcmp(t.s, with, n) == 0;
}

static span behind(span t, size_t n) {
    return (span){t.s + n, t.n - n};
}

// --- which part of the answer --------------------------------------------------------------------

// t starts behind an opening brace: what stands before the brace that closes it
static bool inside_braces(span t, span *out) {
    int depth = 1;
    for (size_t i = 0; i < t.n; i++) {
        depth += t.s[i] == '{' ? 1 : t.s[i] == '}' ? -1 : 0;
        if (depth == 0) {
            *out = (span){t.s, i};
            return true;
        }
    }
    return false;
}

static bool last_box(span t, span *out) {
    static const char *const marks[] = {"\\boxed{", "\\fbox{"};
    size_t last = t.n;
    for (size_t i = 0; i + 1 < t.n; i++) {
        if (t.s[i] == '\\' && (starts(behind(t, i), marks[0]) || starts(behind(t, i), marks[1]))) {
            last = i;
        }
    }
    if (last == t.n) {
        return false;
    }
    span from = behind(t, last + strlen(t.s[last + 1] == 'b' ? marks[0] : marks[1]));
    if (!inside_braces(from, out)) {
        *out = (span){t.s, 0};  // never closed: no answer
    }
    return true;
}

// The last box; else what follows the last "answer is" or "answer:"; else everything.
static span pick(span t) {
    static const char *const words[] = {"answer is", "Answer is", "answer:", "Answer:"};
    span box;
    if (last_box(t, &box)) {
        return box;
    }
    span out = t;
    for (size_t i = 0; i < t.n; i++) {
        for (size_t k = 0; (t.s[i] == 'a' || t.s[i] == 'A') && k < 4; k++) {
            if (starts(behind(t, i), words[k])) {
                out = behind(t, i + strlen(words[k]));
            }
        }
    }
    return out;
}

// --- cleaning ------------------------------------------------------------------------------------

static const struct {
    const char *from, *to;
} spellings[] = {
    {"\\left", ""},
    {"\\right", ""},
    {"\\displaystyle", ""},
    {"\\!", ""},
    {"\\,", ""},
    {"\\;", ""},
    {"\\:", ""},
    {"\\ ", ""},
    {"\\quad", ""},
    {"\\$", ""},
    {"$", ""},
    {"~", ""},
    {"^{\\circ}", ""},
    {"^\\circ", ""},
    {"\\degree", ""},
    {"\\%", ""},
    {"%", ""},
    {"\\dfrac", "\\frac"},
    {"\\tfrac", "\\frac"},
    {"\\cdot", "*"},
    {"\\times", "*"},
    {"\\div", "/"},
    {"\\pi", "pi"},
    {"{,}", ""},
    {",\\!", ""},
    {"\xE2\x88\x92", "-"},
    {"\xCF\x80", "pi"},
    {"\xC3\x97", "*"},
    {"\xC3\xB7", "/"},
    {"\\(", ""},
    {"\\)", ""},
    {"\\[", ""},
    {"\\]", ""},
};

// A comma between digits that stands before exactly three digits, outside of brackets.
static bool is_separator(span t, size_t i, int depth) {
    size_t k = i + 1;
    while (k < t.n && is_digit(t.s[k])) {
        k++;
    }
    return depth == 0 && i > 0 && is_digit(t.s[i - 1]) && k == i + 4;
}

// \text{...} and its kin: units behind a number are dropped, else the words stay.  Returns how many
// bytes of t it takes, or 0.
static size_t clean_words(span t, mk_buf *out) {
    static const char *const names[] = {"\\text{", "\\textbf{", "\\mathrm{",
                                        "\\mbox{", "\\textit{", "\\mathbf{"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i]);
        span in;
        if (!starts(t, names[i]) || !inside_braces(behind(t, n), &in)) {
            continue;
        }
        bool unit =
            out->len > 0 && (is_digit(out->data[out->len - 1]) || out->data[out->len - 1] == '}');
        for (size_t k = 0; k < in.n && !unit; k++) {
            if (in.s[k] != ' ') {
                mk_buf_putc(out, in.s[k]);
            }
        }
        n += in.n + 1;
        static const char *const squares[] = {"^2", "^3", "^{2}", "^{3}"};
        for (size_t k = 0; unit && k < 4; k++) {
            if (starts(behind(t, n), squares[k])) {
                return n + strlen(squares[k]);
            }
        }
        return n;
    }
    return 0;
}

static size_t clean_spelling(span t, mk_buf *out) {
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        size_t n = strlen(spellings[i].from);
        bool word = n > 2 && is_letter(spellings[i].from[n - 1]);
        if (starts(t, spellings[i].from) && !(word && t.n > n && is_letter(t.s[n]))) {
            mk_buf_puts(out, spellings[i].to);
            return n;
        }
    }
    return 0;
}

static void clean(span t, mk_buf *out) {
    int depth = 0;
    for (size_t i = 0; i < t.n;) {
        char c = t.s[i];
        size_t n = c == ' ' || c == '\n' || c == '\t' || c == '\r' ? 1 : 0;
        n = n ? n : clean_words(behind(t, i), out);
        n = n ? n : clean_spelling(behind(t, i), out);
        n = n ? n : c == ',' && is_separator(t, i, depth) ? 1 : 0;
        // {c} is c
        if (n == 0 && c == '{' && i + 2 < t.n && t.s[i + 2] == '}' && t.s[i + 1] != '\\') {
            mk_buf_putc(out, t.s[i + 1]);
            n = 3;
        }
        if (n == 0) {
            depth += c == '(' || c == '[' || c == '{'   ? 1
                     : c == ')' || c == ']' || c == '}' ? -1
                                                        : 0;
            mk_buf_putc(out, c);
            n = 1;
        }
        i += n;
    }
    while (out->len > 0 && (out->data[out->len - 1] == '.' || out->data[out->len - 1] == ',')) {
        out->len--;
    }
}

// --- values --------------------------------------------------------------------------------------

typedef struct {
    span t;
    int depth;
} parser;

static bool sum(parser *p, double *v);

static bool eat(parser *p, const char *what) {
    if (!starts(p->t, what)) {
        return false;
    }
    p->t = behind(p->t, strlen(what));
    return true;
}

static bool number(parser *p, double *v) {
    char text[64];
    size_t n = 0;
    while (n < p->t.n && n < sizeof text - 1 && (is_digit(p->t.s[n]) || p->t.s[n] == '.')) {
        text[n] = p->t.s[n];
        n++;
    }
    text[n] = 0;
    p->t = behind(p->t, n);
    return n > 0 && n < sizeof text - 1 && mk_parse_f64(text, v);
}

// The argument of \frac, \sqrt or ^: braces, one digit, or pi
static bool argument(parser *p, double *v) {
    if (eat(p, "{")) {
        return sum(p, v) && eat(p, "}");
    }
    if (p->t.n > 0 && is_digit(p->t.s[0])) {
        *v = p->t.s[0] - '0';
        p->t = behind(p->t, 1);
        return true;
    }
    if (eat(p, "pi")) {
        *v = 3.14159265358979323846;
        return true;
    }
    return false;
}

static bool root(parser *p, double *v) {
    double degree = 2;
    if (eat(p, "[") && (!sum(p, &degree) || !eat(p, "]"))) {
        return false;
    }
    if (!argument(p, v)) {
        return false;
    }
    if (degree == 2) {
        *v = sqrt(*v);
        return *v >= 0;
    }
    if (degree < 1 || degree > MAX_POWER || *v <= 0) {
        return false;
    }
    *v = mk_pow(*v, 1 / degree);
    return true;
}

static bool fraction(parser *p, double *v) {
    double below;
    if (!argument(p, v) || !argument(p, &below) || below == 0) {
        return false;
    }
    *v /= below;
    return true;
}

static bool atom(parser *p, double *v) {
    if (p->t.n == 0) {
        return false;
    }
    if (is_digit(p->t.s[0]) || p->t.s[0] == '.') {
        return number(p, v);
    }
    if (eat(p, "\\frac")) {
        return fraction(p, v);
    }
    if (eat(p, "\\sqrt")) {
        return root(p, v);
    }
    if (eat(p, "(")) {
        return sum(p, v) && eat(p, ")");
    }
    return argument(p, v);
}

static bool power(parser *p, double *v) {
    double e, base;
    if (!atom(p, v)) {
        return false;
    }
    if (!eat(p, "^")) {
        return true;
    }
    bool minus = eat(p, "-");
    if (!argument(p, &e) || e != floor(e) || fabs(e) > MAX_POWER) {
        return false;
    }
    e = minus ? -e : e;
    base = *v;
    *v = 1;
    for (int i = 0; i < (int)fabs(e); i++) {
        *v *= base;
    }
    *v = e < 0 ? 1 / *v : *v;
    return isfinite(*v);
}

static bool signed_power(parser *p, double *v) {
    bool minus = false;
    while (starts(p->t, "-") || starts(p->t, "+")) {
        minus = minus != (p->t.s[0] == '-');
        p->t = behind(p->t, 1);
    }
    bool ok = power(p, v);
    *v = minus ? -*v : *v;
    return ok;
}

// Is t "\frac" of plain digits?  Behind a whole number that makes a mixed number.
static bool plain_fraction(span t) {
    int n_group = 0;
    if (!starts(t, "\\frac")) {
        return false;
    }
    for (t = behind(t, 5); n_group < 2; n_group++) {
        span in = {t.s, t.n > 0 ? 1 : 0};
        size_t braces = 0;
        if (starts(t, "{")) {
            if (!inside_braces(behind(t, 1), &in)) {
                return false;
            }
            braces = 2;
        }
        for (size_t i = 0; i < in.n; i++) {
            if (!is_digit(in.s[i])) {
                return false;
            }
        }
        if (in.n == 0) {
            return false;
        }
        t = behind(t, in.n + braces);
    }
    return true;
}

static bool product(parser *p, double *v) {
    span before = p->t;
    if (!signed_power(p, v)) {
        return false;
    }
    bool whole = p->t.s > before.s && is_digit(p->t.s[-1]) && *v == floor(*v);
    while (p->t.n > 0) {
        double right;
        bool mixed = whole && plain_fraction(p->t);
        bool next = starts(p->t, "\\") || starts(p->t, "(") || starts(p->t, "pi");
        bool divide = eat(p, "/"), times = !divide && eat(p, "*");
        if (!divide && !times && !next) {
            return true;
        }
        if (!(divide || times ? signed_power(p, &right) : power(p, &right)) ||
            (divide && right == 0)) {
            return false;
        }
        *v = divide  ? *v / right
             : mixed ? (before.s[0] == '-' ? *v - right : *v + right)
                     : *v * right;
        whole = false;
    }
    return true;
}

static bool sum(parser *p, double *v) {
    if (++p->depth > MAX_DEPTH || !product(p, v)) {
        return false;
    }
    while (starts(p->t, "+") || starts(p->t, "-")) {
        double right;
        bool minus = p->t.s[0] == '-';
        p->t = behind(p->t, 1);
        if (!product(p, &right)) {
            return false;
        }
        *v = minus ? *v - right : *v + right;
    }
    p->depth--;
    return isfinite(*v);
}

static bool value_of(span t, double *v) {
    parser p = {.t = t};
    return sum(&p, v) && p.t.n == 0;
}

// --- comparing -----------------------------------------------------------------------------------

// "x=5" -> "5", "x\in[1,2]" -> "[1,2]"
static span without_name(span t) {
    size_t k = t.n > 1 && is_letter(t.s[0]) ? 1 : 0;
    if (k && starts(behind(t, k), "=") && !memchr(t.s + 2, '=', t.n - 2)) {
        return behind(t, 2);
    }
    return k && starts(behind(t, k), "\\in") && t.n > 4 && !is_letter(t.s[4]) ? behind(t, 4) : t;
}

// The parts between commas outside of brackets; 0 if there are too many.
static int parts_of(span t, span *part) {
    int depth = 0, n = 0;
    size_t from = 0;
    for (size_t i = 0; i <= t.n; i++) {
        char c = i < t.n ? t.s[i] : ',';
        depth += c == '(' || c == '[' || c == '{' ? 1 : c == ')' || c == ']' || c == '}' ? -1 : 0;
        if (c == ',' && (depth == 0 || i == t.n)) {
            if (n == MAX_PARTS) {
                return 0;
            }
            part[n++] = (span){t.s + from, i - from};
            from = i + 1;
        }
    }
    return n;
}

static bool same_part(span a, span b, double tolerance) {
    double x, y;
    a = without_name(a);
    b = without_name(b);
    bool has_x = value_of(a, &x), has_y = value_of(b, &y);
    if (has_x && has_y) {
        return fabs(x - y) <= tolerance * (fabs(y) > 1 ? fabs(y) : 1);
    }
    return !has_x && !has_y && a.n > 0 && a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
}

static bool in_brackets(span t) {
    int depth = 0;
    if (t.n < 2 || (t.s[0] != '(' && t.s[0] != '[')) {
        return false;
    }
    for (size_t i = 0; i < t.n; i++) {
        char c = t.s[i];
        depth += c == '(' || c == '[' ? 1 : c == ')' || c == ']' ? -1 : 0;
        if (depth == 0) {
            return i == t.n - 1;
        }
    }
    return false;
}

static bool same_list(span a, span b, bool ordered, double tolerance) {
    span x[MAX_PARTS], y[MAX_PARTS];
    bool used[MAX_PARTS] = {false};
    int n = parts_of(a, x);
    if (n == 0 || n != parts_of(b, y)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        int k = ordered ? i : 0;
        while (k < n && (used[k] || !same_part(x[i], y[k], tolerance))) {
            k = ordered ? n : k + 1;
        }
        if (k == n) {
            return false;
        }
        used[k] = true;
    }
    return true;
}

static bool same(span a, span b, double tolerance) {
    a = without_name(a);
    b = without_name(b);
    if (in_brackets(a) && in_brackets(b) && memchr(a.s, ',', a.n)) {
        return a.s[0] == b.s[0] && a.s[a.n - 1] == b.s[b.n - 1] &&
               same_list((span){a.s + 1, a.n - 2}, (span){b.s + 1, b.n - 2}, true, tolerance);
    }
    return same_list(a, b, false, tolerance);
}

bool mk_reward_math_equal(const char *a, size_t na, const char *b, size_t nb, double tolerance) {
    span x = pick((span){a, na}), y = pick((span){b, nb});
    mk_buf cx, cy;
    mk_reward_trim(&x.s, &x.n);
    mk_reward_trim(&y.s, &y.n);
    if (x.n > MAX_TEXT || y.n > MAX_TEXT) {
        return false;
    }
    mk_buf_init(&cx, 2 * MAX_TEXT);
    mk_buf_init(&cy, 2 * MAX_TEXT);
    clean(x, &cx);
    clean(y, &cy);
    bool ok = cx.len > 0 && cy.len > 0 && !cx.failed && !cy.failed &&
              same((span){cx.data, cx.len}, (span){cy.data, cy.len}, tolerance);
    mk_buf_free(&cx);
    mk_buf_free(&cy);
    return ok;
}

mk_status mk_reward_score_math(const mk_reward *r, const mk_reward_text *t, double *v,
                               mk_err *err) {
    char room[32];
    const char *want;
    size_t n;
    MK_TRY(mk_reward_field(t, "answer", room, &want, &n, err));
    *v = t->has_answer && mk_reward_math_equal(t->answer, t->n_answer, want, n, r->tolerance);
    return MK_OK;
}
