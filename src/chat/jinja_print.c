// str(), repr() and JSON of values, character for character as Python 3 prints them.
// Origin: an escape sequence inherits the origin of the character it stands for; quotes, brackets
// and numbers are template text (no control token is made of them alone).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "chat/jinja_int.h"

// Shortest digits that read back as the same number, in Python's layout.
void mk_j_float_repr(double f, char out[40]) {
    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    char num[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(num, sizeof num, "%.*e", digits - 1, f);
        if (strtod(num, NULL) == f) {
            break;
        }
    }
    int exp10 = (int)strtol(strchr(num, 'e') + 1, NULL, 10);
    if (exp10 < -4 || exp10 >= 16) {
        snprintf(out, 40, "%s", num);  // C and Python agree: at least two digits of exponent
        return;
    }
    int digits = (int)strspn(num + (num[0] == '-'), "0123456789.");
    digits -= digits > 1;  // without the point
    int after = digits - 1 - exp10;
    snprintf(out, 40, "%.*f", after > 1 ? after : 1, f);
}

static bool printable(uint32_t cp) {
    if (cp < 0x7f) {
        return cp >= 0x20;
    }
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return k != UTF8PROC_CATEGORY_CC && k != UTF8PROC_CATEGORY_CF && k != UTF8PROC_CATEGORY_CS &&
           k != UTF8PROC_CATEGORY_CO && k != UTF8PROC_CATEGORY_CN && k != UTF8PROC_CATEGORY_ZL &&
           k != UTF8PROC_CATEGORY_ZP && k != UTF8PROC_CATEGORY_ZS;
}

// Escape of one character in repr(), or "" if it stands for itself.
static void repr_escape(uint32_t cp, char quote, char out[12]) {
    out[0] = 0;
    if (cp == (uint32_t)quote || cp == '\\') {
        snprintf(out, 12, "\\%c", (int)cp);
    } else if (cp == '\n' || cp == '\r' || cp == '\t') {
        snprintf(out, 12, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    } else if (!printable(cp)) {
        snprintf(out, 12, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    }
}

static const uint8_t *origin(const jval *s, size_t at) {
    return mk_j_tag_bit(s->tag, at) ? mk_j_user : NULL;
}

// Walks s; `escape` gives the replacement of a character or "". Unescaped stretches are copied
// whole.
typedef void (*escape_fn)(uint32_t cp, char quote, char out[12]);

static bool put_escaped(jctx *c, jsb *b, const jval *s, escape_fn escape, char quote) {
    size_t from = 0, at = 0;
    char esc[12];
    while (at < s->n) {
        uint32_t cp;
        uint32_t k = mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        escape(cp, quote, esc);
        if (esc[0] != 0) {
            if (!mk_j_sb_add(c, b, s->u.p + from, at - from, mk_j_tag_at(s->tag, from)) ||
                !mk_j_sb_puts(c, b, esc, origin(s, at))) {
                return false;
            }
            from = at + k;
        }
        at += k;
    }
    return mk_j_steps(c, s->n / 64) &&
           mk_j_sb_add(c, b, s->u.p + from, s->n - from, mk_j_tag_at(s->tag, from));
}

static bool repr_str(jctx *c, jsb *b, const jval *s) {
    bool single = memchr(s->u.p, '\'', s->n) != NULL, twice = memchr(s->u.p, '"', s->n) != NULL;
    char quote[2] = {single && !twice ? '"' : '\'', 0};
    if (s->sub && !mk_j_sb_puts(c, b, "Markup(", NULL)) {
        return false;
    }
    return mk_j_sb_puts(c, b, quote, NULL) && put_escaped(c, b, s, repr_escape, quote[0]) &&
           mk_j_sb_puts(c, b, quote, NULL) && (!s->sub || mk_j_sb_puts(c, b, ")", NULL));
}

static bool repr_items(jctx *c, jsb *b, const jlist *l, bool tuple, int depth) {
    if (!mk_j_sb_puts(c, b, tuple ? "(" : "[", NULL)) {
        return false;
    }
    for (uint32_t i = 0; i < l->n; i++) {
        if ((i > 0 && !mk_j_sb_puts(c, b, ", ", NULL)) || !mk_j_repr(c, b, &l->v[i], depth + 1)) {
            return false;
        }
    }
    return mk_j_sb_puts(c, b, tuple ? (l->n == 1 ? ",)" : ")") : "]", NULL);
}

static bool repr_dict(jctx *c, jsb *b, const jdict *d, int depth) {
    if (!mk_j_sb_puts(c, b, "{", NULL)) {
        return false;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        if ((i > 0 && !mk_j_sb_puts(c, b, ", ", NULL)) ||
            !mk_j_repr(c, b, &d->e[i].key, depth + 1) || !mk_j_sb_puts(c, b, ": ", NULL) ||
            !mk_j_repr(c, b, &d->e[i].val, depth + 1)) {
            return false;
        }
    }
    return mk_j_sb_puts(c, b, "}", NULL);
}

static bool repr_view(jctx *c, jsb *b, const jval *v, int depth) {
    jval items;
    return mk_j_to_list(c, v, &items) && mk_j_sb_puts(c, b, mk_j_type_name(v), NULL) &&
           mk_j_sb_puts(c, b, "(", NULL) && repr_items(c, b, items.u.list, false, depth) &&
           mk_j_sb_puts(c, b, ")", NULL);
}

static bool repr_range(jctx *c, jsb *b, const jrange *r) {
    char num[96];
    if (r->step == 1) {
        snprintf(num, sizeof num, "range(%lld, %lld)", (long long)r->start, (long long)r->stop);
    } else {
        snprintf(num, sizeof num, "range(%lld, %lld, %lld)", (long long)r->start,
                 (long long)r->stop, (long long)r->step);
    }
    return mk_j_sb_puts(c, b, num, NULL);
}

static bool repr_macro(jctx *c, jsb *b, const jmacro *m) {
    jtext name = c->tpl->sym[m->node->sym];
    return mk_j_sb_puts(c, b, "<Macro '", NULL) && mk_j_sb_add(c, b, name.p, name.n, NULL) &&
           mk_j_sb_puts(c, b, "'>", NULL);
}

static bool repr_number(jctx *c, jsb *b, const jval *v) {
    char num[48];
    if (v->kind == JV_INT) {
        snprintf(num, sizeof num, "%lld", (long long)v->u.i);
    } else {
        mk_j_float_repr(v->u.f, num);
    }
    return mk_j_sb_puts(c, b, num, NULL);
}

bool mk_j_repr(jctx *c, jsb *b, const jval *v, int depth) {
    if (depth > MK_J_MAX_DATA_DEPTH) {
        return mk_j_limit(c, "a value is nested too deeply to print");
    }
    if (!mk_j_step(c)) {
        return false;
    }
    switch ((jval_kind)v->kind) {
    case JV_UNDEF:
        return mk_j_sb_puts(c, b, "Undefined", NULL);
    case JV_NONE:
        return mk_j_sb_puts(c, b, "None", NULL);
    case JV_BOOL:
        return mk_j_sb_puts(c, b, v->u.b ? "True" : "False", NULL);
    case JV_INT:
    case JV_FLOAT:
        return repr_number(c, b, v);
    case JV_STR:
        return repr_str(c, b, v);
    case JV_LIST:
    case JV_TUPLE:
        return repr_items(c, b, v->u.list, v->kind == JV_TUPLE, depth);
    case JV_DICT:
        return repr_dict(c, b, v->u.dict, depth);
    case JV_NS:
        return mk_j_sb_puts(c, b, "<Namespace ", NULL) && repr_dict(c, b, v->u.dict, depth) &&
               mk_j_sb_puts(c, b, ">", NULL);
    case JV_VIEW:
        return repr_view(c, b, v, depth);
    case JV_RANGE:
        return repr_range(c, b, v->u.range);
    case JV_MACRO:
        return repr_macro(c, b, v->u.macro);
    default:
        // Python prints an address here; no template can want one
        return mk_j_sb_puts(c, b, "<", NULL) && mk_j_sb_puts(c, b, mk_j_type_name(v), NULL) &&
               mk_j_sb_puts(c, b, " object>", NULL);
    }
}

bool mk_j_to_str(jctx *c, const jval *v, jval *out) {
    if (v->kind == JV_STR) {
        *out = *v;
        out->sub = 0;
        return true;
    }
    if (v->kind == JV_UNDEF) {
        *out = mk_j_lit("");
        return true;
    }
    jsb b;
    mk_j_sb_init(&b);
    if (!mk_j_repr(c, &b, v, 0)) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    return true;
}

// --- JSON ----------------------------------------------------------------------------------------
static void json_escape(uint32_t cp, char ascii, char out[12]) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *k = cp != 0 && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    out[0] = 0;
    if (k != NULL) {
        snprintf(out, 12, "\\%c", to[k - from]);
    } else if (cp < 0x20) {
        snprintf(out, 12, "\\u%04x", cp);
    } else if (ascii && cp > 0x7e && cp < 0x10000) {
        snprintf(out, 12, "\\u%04x", cp);
    }
}

// Characters beyond U+FFFF need two escapes of six bytes, more than json_escape can return.
static bool json_ascii_str(jctx *c, jsb *b, const jval *s) {
    for (size_t at = 0; at < s->n;) {
        uint32_t cp;
        uint32_t k = mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        jval one = mk_j_sub(s, at, k);
        char pair[16];
        if (cp >= 0x10000) {
            snprintf(pair, sizeof pair, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                     0xdc00 + ((cp - 0x10000) & 0x3ff));
            if (!mk_j_sb_puts(c, b, pair, origin(s, at))) {
                return false;
            }
        } else if (!put_escaped(c, b, &one, json_escape, 1)) {
            return false;
        }
        at += k;
    }
    return true;
}

static bool json_str(jctx *c, jsb *b, const jval *s, bool ascii) {
    return mk_j_sb_puts(c, b, "\"", NULL) &&
           (ascii ? json_ascii_str(c, b, s) : put_escaped(c, b, s, json_escape, 0)) &&
           mk_j_sb_puts(c, b, "\"", NULL);
}

static bool json_newline(jctx *c, jsb *b, const jjson_opts *o, int depth) {
    if (o->indent.kind == JV_MISSING) {
        return true;
    }
    bool ok = mk_j_sb_puts(c, b, "\n", NULL);
    for (int i = 0; ok && i < depth; i++) {
        ok = mk_j_sb_val(c, b, &o->indent);
    }
    return ok;
}

static bool json_list(jctx *c, jsb *b, const jlist *l, const jjson_opts *o, int depth) {
    if (l->n == 0) {
        return mk_j_sb_puts(c, b, "[]", NULL);
    }
    bool ok = mk_j_sb_puts(c, b, "[", NULL);
    for (uint32_t i = 0; ok && i < l->n; i++) {
        ok = (i == 0 || mk_j_sb_val(c, b, &o->item_sep)) && json_newline(c, b, o, depth + 1) &&
             mk_j_json(c, b, &l->v[i], o, depth + 1);
    }
    return ok && json_newline(c, b, o, depth) && mk_j_sb_puts(c, b, "]", NULL);
}

static bool json_key(jctx *c, jsb *b, const jval *key, const jjson_opts *o) {
    if (key->kind == JV_STR) {
        return json_str(c, b, key, o->ascii);
    }
    if (key->kind < JV_NONE || key->kind > JV_FLOAT) {
        return mk_j_raise(c, "keys must be str, int, float, bool or None, not %s",
                          mk_j_type_name(key));
    }
    return mk_j_sb_puts(c, b, "\"", NULL) && mk_j_json(c, b, key, o, 0) &&
           mk_j_sb_puts(c, b, "\"", NULL);
}

// sort_keys: a small selection of the next key in order would be quadratic, so the entries are
// copied and sorted.
static bool sorted_entries(jctx *c, const jdict *d, jdict *out) {
    jentry *e = mk_j_alloc(c, d->n, sizeof *e);
    if (e == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t at = i;
        bool less = false;
        while (at > 0) {
            if (!mk_j_less(c, &d->e[i].key, &e[at - 1].key, "<", 0, &less)) {
                return false;
            }
            if (!less) {
                break;
            }
            e[at] = e[at - 1];
            at--;
        }
        e[at] = d->e[i];
    }
    *out = (jdict){e, d->n, d->n};
    return true;
}

static bool json_dict(jctx *c, jsb *b, const jdict *d, const jjson_opts *o, int depth) {
    jdict sorted;
    if (d->n == 0) {
        return mk_j_sb_puts(c, b, "{}", NULL);
    }
    if (o->sort) {
        if (!sorted_entries(c, d, &sorted)) {
            return false;
        }
        d = &sorted;
    }
    bool ok = mk_j_sb_puts(c, b, "{", NULL);
    for (uint32_t i = 0; ok && i < d->n; i++) {
        ok = (i == 0 || mk_j_sb_val(c, b, &o->item_sep)) && json_newline(c, b, o, depth + 1) &&
             json_key(c, b, &d->e[i].key, o) && mk_j_sb_val(c, b, &o->key_sep) &&
             mk_j_json(c, b, &d->e[i].val, o, depth + 1);
    }
    return ok && json_newline(c, b, o, depth) && mk_j_sb_puts(c, b, "}", NULL);
}

bool mk_j_json(jctx *c, jsb *b, const jval *v, const jjson_opts *o, int depth) {
    if (depth > MK_J_MAX_DATA_DEPTH) {
        return mk_j_limit(c, "a value is nested too deeply for JSON");
    }
    if (!mk_j_step(c)) {
        return false;
    }
    switch ((jval_kind)v->kind) {
    case JV_NONE:
        return mk_j_sb_puts(c, b, "null", NULL);
    case JV_BOOL:
        return mk_j_sb_puts(c, b, v->u.b ? "true" : "false", NULL);
    case JV_INT:
        return repr_number(c, b, v);
    case JV_FLOAT:
        if (isnan(v->u.f) || isinf(v->u.f)) {
            return mk_j_sb_puts(c, b,
                                isnan(v->u.f) ? "NaN"
                                : v->u.f > 0  ? "Infinity"
                                              : "-Infinity",
                                NULL);
        }
        return repr_number(c, b, v);
    case JV_STR:
        return json_str(c, b, v, o->ascii);
    case JV_LIST:
    case JV_TUPLE:
        return json_list(c, b, v->u.list, o, depth);
    case JV_DICT:
        return json_dict(c, b, v->u.dict, o, depth);
    default:
        return mk_j_raise(c, "Object of type %s is not JSON serializable", mk_j_type_name(v));
    }
}

// --- HTML ----------------------------------------------------------------------------------------
static void html_escape(uint32_t cp, char quote, char out[12]) {
    (void)quote;
    const char *s = cp == '&'    ? "&amp;"
                    : cp == '<'  ? "&lt;"
                    : cp == '>'  ? "&gt;"
                    : cp == '"'  ? "&#34;"
                    : cp == '\'' ? "&#39;"
                                 : "";
    snprintf(out, 12, "%s", s);
}

bool mk_j_escape(jctx *c, const jval *s, jval *out) {
    jsb b;
    if (s->kind == JV_STR && s->sub) {
        *out = *s;
        return true;
    }
    mk_j_sb_init(&b);
    if (!put_escaped(c, &b, s, html_escape, 0)) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    out->sub = 1;
    return true;
}
