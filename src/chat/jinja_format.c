// Formatting: "..." % values and "...".format(values), the parts of Python's rules that templates
// use. % knows s r a d i u f F e E g G x X o c and %, with flags, width and precision. {} knows
// positions, names, .attribute, [item], !s and !r, and specs of fill, align, sign, 0, width, comma,
// precision and the types s d f F e E g G x X o b %.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "chat/jinja_int.h"

#define MAX_WIDTH 4096  // of one field

typedef struct {
    char fill[5];  // one character
    char align;    // '<', '>', '^', '=' or 0
    char sign;     // '+', ' ' or 0
    bool alt, zero, comma;
    int width, prec;  // -1: not given
    char type;        // 0: not given
} fspec;

// --- numbers -------------------------------------------------------------------------------------
static void group_digits(const char *digits, char *out, size_t cap) {
    size_t whole = strspn(digits, "0123456789"), k = 0;
    for (size_t i = 0; digits[i] != 0 && k + 2 < cap; i++) {
        if (i > 0 && i < whole && (whole - i) % 3 == 0) {
            out[k++] = ',';
        }
        out[k++] = digits[i];
    }
    out[k] = 0;
}

static void int_digits(uint64_t v, int base, bool upper, char out[72]) {
    char tmp[72];
    int n = 0;
    do {
        tmp[n++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[v % (uint64_t)base];
        v /= (uint64_t)base;
    } while (v > 0);
    for (int i = 0; i < n; i++) {
        out[i] = tmp[n - 1 - i];
    }
    out[n] = 0;
}

// Digits of |v| without sign.  cap must hold a double with 300 digits and a precision of 100.
static void float_digits(double v, const fspec *f, char *out, size_t cap) {
    char fmt[16];
    double a = fabs(v);
    if (isnan(a) || isinf(a)) {
        snprintf(out, cap, "%s", isnan(a) ? "nan" : "inf");
        return;
    }
    if (f->type == 0 && f->prec < 0) {
        mk_j_float_repr(a, out);
        return;
    }
    char type = f->type == 0 ? 'g' : f->type == '%' ? 'f' : f->type;
    snprintf(fmt, sizeof fmt, "%%%s.*%c%s", f->alt ? "#" : "", type, f->type == '%' ? "%%" : "");
    snprintf(out, cap, fmt,
             f->prec < 0     ? 6
             : f->prec > 100 ? 100
                             : f->prec,
             f->type == '%' ? a * 100 : a);
}

// Pads head (sign and prefix) and body to the width.
static bool pad(jctx *c, jsb *b, const char *head, const jval *body, const fspec *f, char align) {
    int64_t room = f->width - (int64_t)strlen(head) - (int64_t)mk_j_count_cp(body);
    room = room < 0 ? 0 : room;
    int64_t left = align == '>'   ? room
                   : align == '^' ? room / 2
                                  : 0,
            inner = align == '=' ? room : 0;
    bool ok = true;
    for (int64_t i = 0; ok && i < left; i++) {
        ok = mk_j_sb_puts(c, b, f->fill, NULL);
    }
    ok = ok && mk_j_sb_puts(c, b, head, NULL);
    for (int64_t i = 0; ok && i < inner; i++) {
        ok = mk_j_sb_puts(c, b, f->fill, NULL);
    }
    ok = ok && mk_j_sb_val(c, b, body);
    for (int64_t i = left + inner; ok && i < room; i++) {
        ok = mk_j_sb_puts(c, b, f->fill, NULL);
    }
    return ok && mk_j_steps(c, (uint64_t)room);
}

static bool put_number(jctx *c, jsb *b, bool negative, const char *prefix, const char *digits,
                       const fspec *f) {
    char grouped[640], head[8];
    snprintf(head, sizeof head, "%s%s",
             negative         ? "-"
             : f->sign == '+' ? "+"
             : f->sign == ' ' ? " "
                              : "",
             prefix);
    if (f->comma) {
        group_digits(digits, grouped, sizeof grouped);
        digits = grouped;
    }
    jval body = mk_j_lit(digits);
    return pad(c, b, head, &body, f, f->align != 0 ? f->align : f->zero ? '=' : '>');
}

static bool put_int(jctx *c, jsb *b, int64_t v, const fspec *f) {
    char digits[72];
    uint64_t mag = v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
    int base = f->type == 'x' || f->type == 'X' ? 16 : f->type == 'o' ? 8 : f->type == 'b' ? 2 : 10;
    const char *prefix = !f->alt || base == 10 ? ""
                         : f->type == 'x'      ? "0x"
                         : f->type == 'X'      ? "0X"
                         : base == 8           ? "0o"
                                               : "0b";
    int_digits(mag, base, f->type == 'X', digits);
    return put_number(c, b, v < 0, prefix, digits, f);
}

static bool put_float(jctx *c, jsb *b, double v, const fspec *f) {
    char digits[512];
    float_digits(v, f, digits, sizeof digits);
    return put_number(c, b, signbit(v) && !isnan(v), "", digits, f);
}

static bool put_text(jctx *c, jsb *b, const jval *s, const fspec *f) {
    jval t = *s;
    if (f->prec >= 0) {
        jval part[3] = {{.kind = JV_MISSING}, mk_j_int(f->prec), {.kind = JV_MISSING}};
        if (!mk_j_slice(c, s, part, &t)) {
            return false;
        }
    }
    return pad(c, b, "", &t, f, f->align != 0 ? f->align : '<');
}

// --- % -------------------------------------------------------------------------------------------
typedef struct {
    const jval *fmt, *arg;
    uint32_t at, next;  // next: number of the next positional value
    bool by_name;
} percent;

static bool next_value(jctx *c, percent *p, const jval *named, jval *out) {
    if (named != NULL) {
        *out = *named;
        return true;
    }
    uint32_t n = p->arg->kind == JV_TUPLE ? p->arg->u.list->n : 1;
    if (p->next >= n) {
        return mk_j_raise(c, "not enough arguments for format string");
    }
    *out = p->arg->kind == JV_TUPLE ? p->arg->u.list->v[p->next] : *p->arg;
    p->next++;
    return true;
}

static char peek_char(const percent *p) {
    return p->at < p->fmt->n ? p->fmt->u.p[p->at] : 0;
}

// %(name)
static bool percent_name(jctx *c, percent *p, const jval **named) {
    uint32_t from = ++p->at;
    const char *close = memchr(p->fmt->u.p + from, ')', p->fmt->n - from);
    *named = NULL;
    if (close == NULL) {
        return mk_j_raise(c, "incomplete format key");
    }
    jtext key = {p->fmt->u.p + from, (uint32_t)(close - p->fmt->u.p) - from};
    p->at = (uint32_t)(close - p->fmt->u.p) + 1;
    p->by_name = true;
    if (p->arg->kind != JV_DICT) {
        return mk_j_raise(c, "format requires a mapping");
    }
    if (!mk_j_dict_find(c, p->arg->u.dict, key, named)) {
        return false;
    }
    return *named != NULL || mk_j_raise(c, "KeyError: '%.*s'", (int)key.n, key.p);
}

static bool percent_int(jctx *c, percent *p, int *out) {
    if (peek_char(p) == '*') {
        jval v;
        int64_t i;
        p->at++;
        if (!next_value(c, p, NULL, &v)) {
            return false;
        }
        if (!mk_j_as_int(&v, &i) || i < 0 || i > MAX_WIDTH) {
            return mk_j_raise(c, "* wants an int of at most %d", MAX_WIDTH);
        }
        *out = (int)i;
        return true;
    }
    int v = 0;
    while (peek_char(p) >= '0' && peek_char(p) <= '9') {
        v = v * 10 + (peek_char(p) - '0');
        p->at++;
        if (v > MAX_WIDTH) {
            return mk_j_limit(c, "a format is wider than 4096");
        }
    }
    *out = v;
    return true;
}

static bool percent_flags(jctx *c, percent *p, fspec *f) {
    for (;; p->at++) {
        char ch = peek_char(p);
        if (ch == '-') {
            f->align = '<';
        } else if (ch == '+' || (ch == ' ' && f->sign != '+')) {
            f->sign = ch;
        } else if (ch == '0') {
            f->zero = true;
        } else if (ch == '#') {
            f->alt = true;
        } else if (ch != ' ') {
            break;
        }
    }
    if (!percent_int(c, p, &f->width)) {
        return false;
    }
    if (peek_char(p) == '.') {
        p->at++;
        if (!percent_int(c, p, &f->prec)) {
            return false;
        }
    }
    while (peek_char(p) == 'l' || peek_char(p) == 'h' || peek_char(p) == 'L') {
        p->at++;
    }
    if (f->zero && f->align == 0) {
        f->fill[0] = '0';
        f->align = '=';
    }
    return true;
}

static bool percent_number(jctx *c, jsb *b, const jval *v, fspec *f) {
    int64_t i;
    double d;
    bool as_int = strchr("diuxXo", f->type) != NULL;
    if (v->kind == JV_UNDEF) {
        return mk_j_undef_error(c, v);
    }
    if (!mk_j_as_number(v, &d)) {
        return as_int ? mk_j_raise(c, "%%%c format: a real number is required, not %s", f->type,
                                   mk_j_type_name(v))
                      : mk_j_raise(c, "must be real number, not %s", mk_j_type_name(v));
    }
    if (!as_int) {
        return put_float(c, b, d, f);
    }
    if (v->kind == JV_FLOAT && (strchr("xXo", f->type) != NULL || isnan(d) || fabs(d) >= 9e18)) {
        return mk_j_raise(c, "%%%c format: an integer is required, not float", f->type);
    }
    i = v->kind == JV_FLOAT ? (int64_t)d : v->kind == JV_BOOL ? v->u.b : v->u.i;
    if (f->type == 'i' || f->type == 'u') {
        f->type = 'd';
    }
    return put_int(c, b, i, f);
}

static bool percent_text(jctx *c, jsb *b, const jval *v, const fspec *f, bool markup) {
    jval s;
    fspec t = *f;
    if (t.align == '=') {  // 0 means nothing for texts
        t.align = 0;
        t.fill[0] = ' ';
    }
    t.align = t.align == 0 ? '>' : t.align;
    if (f->type == 's') {
        if (!mk_j_to_str(c, v, &s) || (markup && !mk_j_escape(c, v->sub ? v : &s, &s))) {
            return false;
        }
        return put_text(c, b, &s, &t);
    }
    jsb r;
    mk_j_sb_init(&r);
    if (!mk_j_repr(c, &r, v, 0)) {
        return false;
    }
    s = mk_j_sb_done(&r);
    return put_text(c, b, &s, &t);
}

static bool percent_field(jctx *c, jsb *b, percent *p) {
    fspec f = {.fill = " ", .prec = -1};
    const jval *named = NULL;
    jval v;
    if ((peek_char(p) == '(' && !percent_name(c, p, &named)) || !percent_flags(c, p, &f)) {
        return false;
    }
    f.type = peek_char(p);
    p->at++;
    if (f.type == '%') {
        return mk_j_sb_puts(c, b, "%", NULL);
    }
    if (f.type == 0 || strchr("srdiufFeEgGxXoc", f.type) == NULL) {
        return f.type == 0 ? mk_j_raise(c, "incomplete format")
                           : mk_j_raise(c, "unsupported format character '%c' (0x%x) at index %u",
                                        f.type, (unsigned)(unsigned char)f.type, p->at - 1);
    }
    if (!next_value(c, p, named, &v)) {
        return false;
    }
    if (f.type == 's' || f.type == 'r') {
        return percent_text(c, b, &v, &f, p->fmt->sub != 0);
    }
    if (f.type != 'c') {
        return percent_number(c, b, &v, &f);
    }
    if (v.kind != JV_STR || mk_j_count_cp(&v) != 1) {
        return mk_j_raise(c, "%%c requires a character");
    }
    f.align = f.align == 0 || f.align == '=' ? '>' : f.align;
    return put_text(c, b, &v, &f);
}

bool mk_j_percent(jctx *c, const jval *fmt, const jval *arg, jval *out) {
    percent p = {.fmt = fmt, .arg = arg};
    jsb b;
    mk_j_sb_init(&b);
    while (p.at < fmt->n) {
        const char *hit = memchr(fmt->u.p + p.at, '%', fmt->n - p.at);
        uint32_t to = hit != NULL ? (uint32_t)(hit - fmt->u.p) : fmt->n;
        if (!mk_j_step(c) ||
            !mk_j_sb_add(c, &b, fmt->u.p + p.at, to - p.at, mk_j_tag_at(fmt->tag, p.at))) {
            return false;
        }
        p.at = to + (hit != NULL);
        if (hit != NULL && !percent_field(c, &b, &p)) {
            return false;
        }
    }
    uint32_t given = arg->kind == JV_TUPLE ? arg->u.list->n : 1;
    // what can be indexed by a key may stay unused, as with Python's mappings
    bool keyed = arg->kind == JV_DICT || arg->kind == JV_LIST || arg->kind == JV_UNDEF ||
                 arg->kind == JV_RANGE;
    if (!p.by_name && p.next < given && !keyed) {
        return mk_j_raise(c, "not all arguments converted during string formatting");
    }
    *out = mk_j_sb_done(&b);
    out->sub = fmt->sub;
    return true;
}

// --- format --------------------------------------------------------------------------------------
static bool is_align(char ch) {
    return ch == '<' || ch == '>' || ch == '^' || ch == '=';
}

// [[fill]align][sign][#][0][width][,][.precision][type]
static bool parse_spec(jctx *c, jtext s, fspec *f) {
    uint32_t at = 0, cp, k = s.n > 0 ? mk_j_decode(s.p, s.p + s.n, &cp) : 0;
    *f = (fspec){.fill = " ", .prec = -1};
    if (k > 0 && k < s.n && is_align(s.p[k])) {
        memcpy(f->fill, s.p, k);
        f->fill[k] = 0;
        f->align = s.p[k];
        at = k + 1;
    } else if (s.n > 0 && is_align(s.p[0])) {
        f->align = s.p[0];
        at = 1;
    }
    if (at < s.n && (s.p[at] == '+' || s.p[at] == '-' || s.p[at] == ' ')) {
        f->sign = s.p[at] == '-' ? 0 : s.p[at];
        at++;
    }
    if (at < s.n && s.p[at] == '#') {
        f->alt = true;
        at++;
    }
    if (at < s.n && s.p[at] == '0') {
        f->fill[0] = f->align == 0 ? '0' : f->fill[0];
        f->zero = true;
        at++;
    }
    for (; at < s.n && s.p[at] >= '0' && s.p[at] <= '9' && f->width <= MAX_WIDTH; at++) {
        f->width = f->width * 10 + (s.p[at] - '0');
    }
    if (at < s.n && s.p[at] == ',') {
        f->comma = true;
        at++;
    }
    if (at + 1 < s.n && s.p[at] == '.') {
        f->prec = 0;
        for (at++; at < s.n && s.p[at] >= '0' && s.p[at] <= '9' && f->prec <= MAX_WIDTH; at++) {
            f->prec = f->prec * 10 + (s.p[at] - '0');
        }
    }
    if (at + 1 == s.n && strchr("sdfFeEgGxXob%", s.p[at]) != NULL) {
        f->type = s.p[at++];
    }
    if (at < s.n || f->width > MAX_WIDTH || f->prec > MAX_WIDTH) {
        return mk_j_raise(c, "Invalid format specifier");
    }
    return true;
}

static bool format_value(jctx *c, jsb *b, const jval *v, jtext spec) {
    fspec f;
    jval s;
    if (!parse_spec(c, spec, &f)) {
        return false;
    }
    if (v->kind == JV_FLOAT ||
        (v->kind == JV_INT && f.type != 0 && strchr("fFeEgG%", f.type) != NULL)) {
        double d = 0;
        mk_j_as_number(v, &d);
        return (f.type != 0 && strchr("sdxXob", f.type) != NULL)
                   ? mk_j_raise(c, "Unknown format code '%c' for object of type 'float'", f.type)
                   : put_float(c, b, d, &f);
    }
    if (v->kind == JV_INT || (v->kind == JV_BOOL && f.type != 0)) {
        return f.type == 's' ? mk_j_raise(c, "Unknown format code 's' for object of type 'int'")
                             : put_int(c, b, v->kind == JV_BOOL ? v->u.b : v->u.i, &f);
    }
    if (f.type != 0 && f.type != 's') {
        return mk_j_raise(c, "Unknown format code '%c' for object of type '%s'", f.type,
                          mk_j_type_name(v));
    }
    if (v->kind != JV_STR && spec.n > 0) {
        return mk_j_raise(c, "unsupported format string passed to %s.__format__",
                          mk_j_type_name(v));
    }
    return mk_j_to_str(c, v, &s) && put_text(c, b, &s, &f);
}

typedef struct {
    const jargs *args;
    uint32_t next;
} auto_index;

// name[.attr|[item]]...
static bool format_field(jctx *c, jtext path, auto_index *ai, jval *out) {
    uint32_t n = (uint32_t)(path.n > 0 ? strcspn(path.p, ".[!:}") : 0);
    n = n > path.n ? path.n : n;
    uint32_t digits = (uint32_t)strspn(path.p, "0123456789"), index = 0;
    if (n == 0 || (digits >= n && n < 6)) {
        for (uint32_t i = 0; i < n; i++) {
            index = index * 10 + (uint32_t)(path.p[i] - '0');
        }
        index = n == 0 ? ai->next++ : index;
        if (index >= ai->args->n_pos) {
            return mk_j_raise(c, "Replacement index %u out of range for positional args tuple",
                              index);
        }
        *out = ai->args->pos[index];
    } else {
        uint32_t k = 0;
        while (k < ai->args->n_kw && !mk_j_text_eq(ai->args->kw_name[k], (jtext){path.p, n})) {
            k++;
        }
        if (k == ai->args->n_kw) {
            return mk_j_raise(c, "KeyError: '%.*s'", (int)n, path.p);
        }
        *out = ai->args->kw[k];
    }
    for (uint32_t at = n; at < path.n;) {
        bool item = path.p[at] == '[';
        uint32_t from = ++at;
        while (at < path.n && path.p[at] != (item ? ']' : '.') && (item || path.p[at] != '[')) {
            at++;
        }
        jval obj = *out, key = mk_j_str(path.p + from, at - from, NULL);
        bool number = key.n > 0 && key.n < 10 && strspn(key.u.p, "0123456789") >= key.n;
        if (item && number) {
            int64_t v = 0;
            for (uint32_t i = 0; i < key.n; i++) {
                v = v * 10 + (key.u.p[i] - '0');
            }
            key = mk_j_int(v);
        }
        if (!mk_j_item(c, &obj, &key, out)) {
            return false;
        }
        at += item && at < path.n;
    }
    return true;
}

// One {...}; `body` is what stands between the braces, NUL-terminated for strcspn by the caller.
static bool format_replacement(jctx *c, jsb *b, jtext body, auto_index *ai) {
    const char *colon = memchr(body.p, ':', body.n);
    uint32_t n = colon != NULL ? (uint32_t)(colon - body.p) : body.n;
    jtext spec = {body.p + n + (colon != NULL), body.n - n - (colon != NULL)};
    char conv = n >= 2 && body.p[n - 2] == '!' ? body.p[n - 1] : 0;
    jval v, s;
    if (!format_field(c, (jtext){body.p, conv != 0 ? n - 2 : n}, ai, &v)) {
        return false;
    }
    if (conv == 's') {
        return mk_j_to_str(c, &v, &s) && format_value(c, b, &s, spec);
    }
    if (conv == 'r') {
        jsb r;
        mk_j_sb_init(&r);
        if (!mk_j_repr(c, &r, &v, 0)) {
            return false;
        }
        s = mk_j_sb_done(&r);
        return format_value(c, b, &s, spec);
    }
    return conv != 0 ? mk_j_raise(c, "Unknown conversion specifier '%c'", conv)
                     : format_value(c, b, &v, spec);
}

bool mk_j_format(jctx *c, const jval *fmt, const jargs *args, jval *out) {
    jsb b;
    auto_index ai = {args, 0};
    mk_j_sb_init(&b);
    for (uint32_t at = 0; at < fmt->n;) {
        char ch = fmt->u.p[at];
        if (ch != '{' && ch != '}') {
            uint32_t from = at;
            while (at < fmt->n && fmt->u.p[at] != '{' && fmt->u.p[at] != '}') {
                at++;
            }
            if (!mk_j_sb_add(c, &b, fmt->u.p + from, at - from, mk_j_tag_at(fmt->tag, from))) {
                return false;
            }
            continue;
        }
        if (at + 1 < fmt->n && fmt->u.p[at + 1] == ch) {
            if (!mk_j_sb_add(c, &b, &fmt->u.p[at], 1, mk_j_tag_at(fmt->tag, at))) {
                return false;
            }
            at += 2;
            continue;
        }
        const char *close = ch == '{' ? memchr(fmt->u.p + at, '}', fmt->n - at) : NULL;
        if (close == NULL) {
            return mk_j_raise(c, ch == '{' ? "expected '}' before end of string"
                                           : "Single '}' encountered in format string");
        }
        uint32_t n = (uint32_t)(close - fmt->u.p) - at - 1;
        char *body = mk_j_alloc(c, (size_t)n + 1, 1);
        if (body == NULL) {
            return false;
        }
        memcpy(body, fmt->u.p + at + 1, n);
        if (!mk_j_step(c) || !format_replacement(c, &b, (jtext){body, n}, &ai)) {
            return false;
        }
        at += n + 2;
    }
    *out = mk_j_sb_done(&b);
    out->sub = fmt->sub;
    return true;
}
