// Filters on texts and single values, and the look-up of filters by name.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/jinja_int.h"

#define FILTER(name)                                                                               \
    static bool name(jctx *c, const jval *s, const jval *a, const jargs *args, jval *out)
#define UNUSED_ARGS ((void)a, (void)args)

// soft_str: texts stay as they are (markup too), all else becomes str().
static bool soft(jctx *c, const jval *v, jval *out) {
    if (v->kind == JV_STR) {
        *out = *v;
        return true;
    }
    return mk_j_to_str(c, v, out);
}

static bool flag(const jval *v) {
    return v->kind != JV_MISSING && mk_j_truth(v);
}

static bool opt_int(jctx *c, const jval *v, int64_t dflt, int64_t *out) {
    *out = dflt;
    return v->kind == JV_MISSING || v->kind == JV_NONE || mk_j_as_int(v, out) ||
           mk_j_raise(c, "'%s' object cannot be interpreted as an integer", mk_j_type_name(v));
}

// --- case, trim, replace -------------------------------------------------------------------------
static bool change_case(jctx *c, const jval *s, int how, jval *out) {
    jval t;
    return soft(c, s, &t) && mk_j_case(c, &t, how, out);
}

FILTER(f_upper) {
    UNUSED_ARGS;
    return change_case(c, s, JCASE_UPPER, out);
}

FILTER(f_lower) {
    UNUSED_ARGS;
    return change_case(c, s, JCASE_LOWER, out);
}

FILTER(f_capitalize) {
    UNUSED_ARGS;
    return change_case(c, s, JCASE_CAPITALIZE, out);
}

// Unlike the method, words begin only after white space or one of - ( { [ <.
FILTER(f_title) {
    UNUSED_ARGS;
    jval t, part;
    jsb b;
    mk_j_sb_init(&b);
    if (!soft(c, s, &t)) {
        return false;
    }
    for (uint32_t at = 0; at < t.n;) {
        uint32_t end = at, cp;
        bool sep = true;
        while (end < t.n && sep) {
            uint32_t k = mk_j_decode(t.u.p + end, t.u.p + t.n, &cp);
            sep = mk_j_is_space(cp) || (cp < 0x80 && cp != 0 && strchr("-({[<", (int)cp) != NULL);
            end += sep ? k : 0;
        }
        jval gap = mk_j_sub(&t, at, end - at);
        uint32_t word = end;
        while (end < t.n && !sep) {
            uint32_t k = mk_j_decode(t.u.p + end, t.u.p + t.n, &cp);
            sep = mk_j_is_space(cp) || (cp < 0x80 && cp != 0 && strchr("-({[<", (int)cp) != NULL);
            end += sep ? 0 : k;
        }
        part = mk_j_sub(&t, word, end - word);
        if (!mk_j_sb_val(c, &b, &gap) || !mk_j_case(c, &part, JCASE_CAPITALIZE, &part) ||
            !mk_j_sb_val(c, &b, &part)) {
            return false;
        }
        at = end;
    }
    *out = mk_j_sb_done(&b);
    return mk_j_steps(c, t.n / 64);
}

FILTER(f_trim) {
    (void)args;
    jval t;
    const jval *chars = a[0].kind == JV_MISSING || a[0].kind == JV_NONE ? NULL : &a[0];
    if (!soft(c, s, &t)) {
        return false;
    }
    if (chars != NULL && chars->kind != JV_STR) {
        return mk_j_raise(c, "strip arg must be None or str");
    }
    if (chars != NULL && chars->n > 16 && !mk_j_steps(c, (uint64_t)t.n * chars->n / 256)) {
        return false;
    }
    *out = mk_j_strip(&t, chars, 3);
    return mk_j_steps(c, t.n / 256);
}

FILTER(f_replace) {
    (void)args;
    jval t, from, to;
    int64_t count;
    return mk_j_to_str(c, s, &t) && mk_j_to_str(c, &a[0], &from) && mk_j_to_str(c, &a[1], &to) &&
           opt_int(c, &a[2], -1, &count) && mk_j_replace(c, &t, &from, &to, count, out);
}

// --- layout --------------------------------------------------------------------------------------
static bool indent_unit(jctx *c, const jval *width, int64_t dflt, jval *out) {
    int64_t n = dflt;
    if (width->kind == JV_STR) {
        *out = *width;
        return true;
    }
    if (width->kind != JV_MISSING && !mk_j_as_int(width, &n)) {
        return mk_j_raise(c, "can't multiply sequence by non-int of type '%s'",
                          mk_j_type_name(width));
    }
    jval blank = mk_j_lit(" ");
    return mk_j_repeat(c, &blank, n, out);
}

FILTER(f_indent) {
    (void)args;
    jval unit, lines, newline = mk_j_lit("\n"), ended;
    jsb b;
    bool first = flag(&a[1]), blank = flag(&a[2]);
    mk_j_sb_init(&b);
    if (s->kind != JV_STR) {
        return s->kind == JV_UNDEF
                   ? mk_j_undef_error(c, s)
                   : mk_j_raise(c, "indent needs a string, not %s", mk_j_type_name(s));
    }
    // a line end is added so that a text ending in one keeps an empty last line
    if (!indent_unit(c, &a[0], 4, &unit) || !mk_j_concat(c, s, &newline, &ended) ||
        !mk_j_list_new(c, JV_LIST, 0, &lines) ||
        !mk_j_split_lines(c, &ended, false, lines.u.list)) {
        return false;
    }
    for (uint32_t i = 0; i < lines.u.list->n; i++) {
        const jval *line = &lines.u.list->v[i];
        bool pad = i == 0 ? first : blank || line->n > 0;
        if ((i > 0 && !mk_j_sb_puts(c, &b, "\n", NULL)) || (pad && !mk_j_sb_val(c, &b, &unit)) ||
            !mk_j_sb_val(c, &b, line)) {
            return false;
        }
    }
    *out = mk_j_sb_done(&b);
    out->sub = s->sub;
    return true;
}

FILTER(f_center) {
    (void)args;
    jval t, width = a[0].kind == JV_MISSING ? mk_j_int(80) : a[0];
    jargs one = {.pos = &width, .n_pos = 1};
    return soft(c, s, &t) &&
           mk_j_apply(c, mk_j_find_method(JV_STR, JTEXT("center")), "filter", &t, &one, out);
}

FILTER(f_truncate) {
    (void)args;
    int64_t length, leeway, n, n_end;
    jval end = a[2].kind == JV_MISSING ? mk_j_lit("...") : a[2];
    jval part[3] = {{.kind = JV_MISSING}, {.kind = JV_MISSING}, {.kind = JV_MISSING}}, head;
    if (!opt_int(c, &a[0], 255, &length) || !opt_int(c, &a[3], 5, &leeway) ||
        !mk_j_length(c, s, &n) || !mk_j_length(c, &end, &n_end)) {
        return false;
    }
    if (length < n_end || leeway < 0) {
        return mk_j_raise(c, "expected length >= %lld, got %lld", (long long)n_end,
                          (long long)length);
    }
    *out = *s;
    if (n <= length || n - length <= leeway) {
        return true;
    }
    if (s->kind != JV_STR || end.kind != JV_STR) {
        return mk_j_raise(c, "truncate needs a string, not %s", mk_j_type_name(s));
    }
    part[1] = mk_j_int(length - n_end);
    if (!mk_j_slice(c, s, part, &head)) {
        return false;
    }
    for (size_t i = head.n; i > 0 && !flag(&a[1]); i--) {
        if (head.u.p[i - 1] == ' ') {
            head = mk_j_sub(&head, 0, i - 1);
            break;
        }
    }
    return mk_j_concat(c, &head, &end, out);
}

FILTER(f_wordcount) {
    UNUSED_ARGS;
    jval t;
    bool inside = false;
    *out = mk_j_int(0);
    if (!soft(c, s, &t)) {
        return false;
    }
    for (uint32_t at = 0; at < t.n;) {
        uint32_t cp;
        at += mk_j_decode(t.u.p + at, t.u.p + t.n, &cp);
        bool word =
            cp == '_' || !(mk_j_is_space(cp) ||
                           (cp < 0x80 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~", (int)cp)));
        out->u.i += word && !inside;
        inside = word;
    }
    return mk_j_steps(c, t.n / 64);
}

// --- markup --------------------------------------------------------------------------------------
FILTER(f_safe) {
    UNUSED_ARGS;
    if (!soft(c, s, out)) {
        return false;
    }
    out->sub = 1;
    return true;
}

FILTER(f_escape) {
    UNUSED_ARGS;
    jval t;
    return soft(c, s, &t) && mk_j_escape(c, &t, out);
}

FILTER(f_forceescape) {
    UNUSED_ARGS;
    jval t;
    return mk_j_to_str(c, s, &t) && mk_j_escape(c, &t, out);
}

FILTER(f_string) {
    UNUSED_ARGS;
    return soft(c, s, out);
}

FILTER(f_format) {
    (void)a;
    jval t, v;
    if (!soft(c, s, &t)) {
        return false;
    }
    if (args->n_kw > 0 && args->n_pos > 0) {
        return mk_j_raise(c, "can't handle positional and keyword arguments at the same time");
    }
    if (!(args->n_kw > 0 ? mk_j_dict_new(c, JV_DICT, args->n_kw, &v)
                         : mk_j_list_new(c, JV_TUPLE, args->n_pos, &v))) {
        return false;
    }
    for (uint32_t i = 0; i < args->n_kw; i++) {
        jval key = mk_j_str(args->kw_name[i].p, args->kw_name[i].n, NULL);
        if (!mk_j_dict_set(c, v.u.dict, &key, &args->kw[i])) {
            return false;
        }
    }
    for (uint32_t i = 0; i < args->n_pos; i++) {
        if (!mk_j_list_push(c, v.u.list, &args->pos[i])) {
            return false;
        }
    }
    return mk_j_percent(c, &t, &v, out);
}

// --- JSON ----------------------------------------------------------------------------------------
FILTER(f_tojson) {
    (void)args;
    jjson_opts o = {.ascii = flag(&a[0]), .sort = flag(&a[3])};
    jsb b;
    mk_j_sb_init(&b);
    bool pretty = a[1].kind != JV_MISSING && a[1].kind != JV_NONE;
    if (pretty && !indent_unit(c, &a[1], 0, &o.indent)) {
        return false;
    }
    o.item_sep = mk_j_lit(pretty ? "," : ", ");
    o.key_sep = mk_j_lit(": ");
    if (a[2].kind != JV_MISSING && a[2].kind != JV_NONE) {
        if ((a[2].kind != JV_LIST && a[2].kind != JV_TUPLE) || a[2].u.list->n != 2 ||
            a[2].u.list->v[0].kind != JV_STR || a[2].u.list->v[1].kind != JV_STR) {
            return mk_j_raise(c, "separators must be two strings");
        }
        o.item_sep = a[2].u.list->v[0];
        o.key_sep = a[2].u.list->v[1];
    }
    if (!mk_j_json(c, &b, s, &o, 0)) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    return true;
}

// --- numbers -------------------------------------------------------------------------------------
// Digits with optional sign, blanks around and _ between, in `base`; false if it is no integer of
// 64 bits.
static bool read_int(const jval *s, int base, int64_t *out) {
    jval t = mk_j_strip(s, NULL, 3);
    char num[80];
    uint32_t k = 0, at = 0;
    for (; at < t.n && k + 1 < sizeof num; at++) {
        bool between = at > 0 && at + 1 < t.n && t.u.p[at - 1] != '_';
        if (t.u.p[at] != '_' || !between) {
            num[k++] = t.u.p[at];
        }
    }
    num[k] = 0;
    if (at < t.n || k == 0 || base == 1 || base < 0 || base > 36 ||
        mk_j_is_space((unsigned char)num[0])) {
        return false;
    }
    char *end;
    errno = 0;
    *out = strtoll(num, &end, base);
    return errno == 0 && *end == 0 && end != num;
}

static bool read_float(const jval *s, double *out) {
    jval t = mk_j_strip(s, NULL, 3);
    char num[400];
    if (t.n == 0 || t.n >= sizeof num || memchr(t.u.p, 'x', t.n) != NULL ||
        memchr(t.u.p, 'X', t.n) != NULL || memchr(t.u.p, '(', t.n) != NULL ||
        memchr(t.u.p, 0, t.n) != NULL) {
        return false;
    }
    memcpy(num, t.u.p, t.n);
    num[t.n] = 0;
    char *end;
    *out = strtod(num, &end);
    return *end == 0;
}

FILTER(f_int) {
    (void)args;
    int64_t base, v;
    double d;
    *out = a[0].kind == JV_MISSING ? mk_j_int(0) : a[0];
    if (s->kind == JV_UNDEF) {
        return mk_j_undef_error(c, s);
    }
    if (!opt_int(c, &a[1], 10, &base)) {
        return false;
    }
    if (mk_j_as_int(s, &v) ||
        (s->kind == JV_STR && read_int(s, (int)(base > 99 ? 99 : base), &v))) {
        *out = mk_j_int(v);
    } else if ((mk_j_as_number(s, &d) || (s->kind == JV_STR && read_float(s, &d))) &&
               fabs(d) < 9.2e18) {
        *out = mk_j_int((int64_t)d);
    }
    return true;
}

FILTER(f_float) {
    (void)args;
    double d;
    *out = a[0].kind == JV_MISSING ? mk_j_float(0) : a[0];
    if (s->kind == JV_UNDEF) {
        return mk_j_undef_error(c, s);
    }
    if (mk_j_as_number(s, &d) || (s->kind == JV_STR && read_float(s, &d))) {
        *out = mk_j_float(d);
    }
    return true;
}

FILTER(f_abs) {
    UNUSED_ARGS;
    int64_t i;
    jval zero = mk_j_int(0);
    if (s->kind == JV_FLOAT) {
        *out = mk_j_float(fabs(s->u.f));
        return true;
    }
    if (s->kind == JV_UNDEF || !mk_j_as_int(s, &i)) {
        return mk_j_raise(c, "bad operand type for abs(): '%s'", mk_j_type_name(s));
    }
    *out = mk_j_int(i);
    return i >= 0 || mk_j_binary(c, JT_SUB, &zero, s, out);
}

// 10 ** e, correctly rounded.
static double power_of_ten(int64_t e) {
    char num[16];
    snprintf(num, sizeof num, "1e%d", (int)(e > 400 ? 400 : e < -400 ? -400 : e));
    return strtod(num, NULL);
}

// Python rounds half to even on the decimal value; printf does the same for a given precision.
static double round_common(double v, int64_t digits) {
    char num[512];
    if (!isfinite(v) || digits > 300 || digits < -300) {
        return digits < -300 ? 0 : v;
    }
    if (digits >= 0) {
        snprintf(num, sizeof num, "%.*f", (int)digits, v);
        return strtod(num, NULL);
    }
    double scale = power_of_ten(-digits);
    return nearbyint(v / scale) * scale;
}

FILTER(f_round) {
    (void)args;
    int64_t digits;
    double v;
    jval how = a[1].kind == JV_MISSING ? mk_j_lit("common") : a[1];
    jtext method = how.kind == JV_STR ? (jtext){how.u.p, how.n} : JTEXT("");
    bool ceil_it = mk_j_text_is(method, "ceil"), floor_it = mk_j_text_is(method, "floor");
    if (!ceil_it && !floor_it && !mk_j_text_is(method, "common")) {
        return mk_j_raise(c, "method must be common, ceil or floor");
    }
    if (s->kind == JV_UNDEF || !mk_j_as_number(s, &v)) {
        return mk_j_raise(c, "type %s doesn't define __round__ method", mk_j_type_name(s));
    }
    if (!opt_int(c, &a[0], 0, &digits)) {
        return false;
    }
    if (ceil_it || floor_it) {
        double scale = power_of_ten(digits);
        *out = mk_j_float((ceil_it ? ceil(v * scale) : floor(v * scale)) / scale);
        return true;
    }
    *out = s->kind == JV_FLOAT || digits < 0 ? mk_j_float(round_common(v, digits)) : *s;
    if (s->kind == JV_BOOL) {
        *out = mk_j_int(s->u.b);
    } else if (s->kind == JV_INT && digits < 0) {
        *out = mk_j_int((int64_t)out->u.f);
    }
    return true;
}

// --- choice --------------------------------------------------------------------------------------
FILTER(f_default) {
    (void)c, (void)args;
    bool use = s->kind == JV_UNDEF || (flag(&a[1]) && !mk_j_truth(s));
    *out = !use ? *s : a[0].kind == JV_MISSING ? mk_j_lit("") : a[0];
    return true;
}

FILTER(f_attr) {
    (void)args;
    if (a[0].kind != JV_STR) {
        return mk_j_raise(c, "attribute name must be string, not '%s'", mk_j_type_name(&a[0]));
    }
    if (s->kind == JV_DICT) {  // only attributes, never items
        const jop *op = mk_j_find_method(JV_DICT, (jtext){a[0].u.p, a[0].n});
        if (op == NULL) {
            *out = mk_j_undef(JU_ATTR, JV_DICT, (jtext){a[0].u.p, a[0].n});
            return true;
        }
    }
    return mk_j_attr(c, s, (jtext){a[0].u.p, a[0].n}, out);
}

static const jop rows[] = {
    {"upper", f_upper, "", 0},
    {"lower", f_lower, "", 0},
    {"capitalize", f_capitalize, "", 0},
    {"title", f_title, "", 0},
    {"trim", f_trim, "chars", 0},
    {"replace", f_replace, "old,new,count", 2},
    {"indent", f_indent, "width,first,blank", 0},
    {"center", f_center, "width", 0},
    {"truncate", f_truncate, "length,killwords,end,leeway", 0},
    {"wordcount", f_wordcount, "", 0},
    {"safe", f_safe, "", 0},
    {"e", f_escape, "", 0},
    {"escape", f_escape, "", 0},
    {"forceescape", f_forceescape, "", 0},
    {"string", f_string, "", 0},
    {"format", f_format, "*", 0},
    {"tojson", f_tojson, "ensure_ascii,indent,separators,sort_keys", 0},
    {"int", f_int, "default,base", 0},
    {"float", f_float, "default", 0},
    {"abs", f_abs, "", 0},
    {"round", f_round, "precision,method", 0},
    {"default", f_default, "default_value,boolean", 0},
    {"d", f_default, "default_value,boolean", 0},
    {"attr", f_attr, "name", 1},
};

const jop *mk_j_find_filter(jtext name) {
    const jop *op = mk_j_op_find((jop_table){rows, sizeof rows / sizeof rows[0]}, name);
    return op != NULL ? op : mk_j_op_find(mk_j_filters_list(), name);
}
