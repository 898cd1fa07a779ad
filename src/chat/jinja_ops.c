// Operators, attributes, items and slices of values, with Python's results.
// Integers have 64 bits: where Python would grow, the rendering fails with a message.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "chat/jinja_int.h"

static bool overflow(jctx *c) {
    return mk_j_raise(c, "the result does not fit in a 64-bit integer");
}

static bool type_error(jctx *c, const char *op, const jval *a, const jval *b) {
    return mk_j_raise(c, "unsupported operand type(s) for %s: '%s' and '%s'", op, mk_j_type_name(a),
                      mk_j_type_name(b));
}

// --- sequences -----------------------------------------------------------------------------------
bool mk_j_concat(jctx *c, const jval *a, const jval *b, jval *out) {
    jval x = *a, y = *b;
    bool markup = a->sub || b->sub;
    if (markup && (!mk_j_escape(c, a, &x) || !mk_j_escape(c, b, &y))) {
        return false;
    }
    jsb sb;
    mk_j_sb_init(&sb);
    if (!mk_j_sb_val(c, &sb, &x) || !mk_j_sb_val(c, &sb, &y)) {
        return false;
    }
    *out = mk_j_sb_done(&sb);
    out->sub = markup;
    return true;
}

bool mk_j_repeat(jctx *c, const jval *s, int64_t times, jval *out) {
    jsb sb;
    mk_j_sb_init(&sb);
    size_t total;
    if (times > 0 && (!mk_mul_size(s->n, (size_t)times, &total) || total > MK_J_MAX_BYTES / 2)) {
        return mk_j_limit(c, "a string does not fit in the memory of a template");
    }
    for (int64_t i = 0; s->n > 0 && i < times; i++) {
        if (!mk_j_step(c) || !mk_j_sb_val(c, &sb, s)) {
            return false;
        }
    }
    *out = mk_j_sb_done(&sb);
    out->sub = s->sub;
    return true;
}

static bool join_lists(jctx *c, const jval *a, const jval *b, jval *out) {
    const jlist *part[2] = {a->u.list, b->u.list};
    if (!mk_j_list_new(c, a->kind, 0, out)) {
        return false;
    }
    for (int k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < part[k]->n; i++) {
            if (!mk_j_list_push(c, out->u.list, &part[k]->v[i])) {
                return false;
            }
        }
    }
    return true;
}

static bool repeat_list(jctx *c, const jval *a, int64_t times, jval *out) {
    if (!mk_j_list_new(c, a->kind, 0, out)) {
        return false;
    }
    for (int64_t k = 0; a->u.list->n > 0 && k < times; k++) {
        for (uint32_t i = 0; i < a->u.list->n; i++) {
            if (!mk_j_list_push(c, out->u.list, &a->u.list->v[i])) {
                return false;
            }
        }
    }
    return true;
}

static bool is_list(const jval *v) {
    return v->kind == JV_LIST || v->kind == JV_TUPLE;
}

// --- arithmetic ----------------------------------------------------------------------------------
// Python's ** of floats is the C library's; nothing numeric of a model depends on it.
static double float_pow(double a, double b) {
    return pow(a, b);
}

static bool int_pow(jctx *c, int64_t base, int64_t exp, jval *out) {
    if (exp < 0) {
        *out = mk_j_float(float_pow((double)base, (double)exp));
        return base != 0 || mk_j_raise(c, "0.0 cannot be raised to a negative power");
    }
    int64_t r = 1;
    for (; exp > 0; exp >>= 1) {
        if ((exp & 1) != 0 && __builtin_mul_overflow(r, base, &r)) {
            return overflow(c);
        }
        if (exp > 1 && __builtin_mul_overflow(base, base, &base)) {
            return overflow(c);
        }
    }
    *out = mk_j_int(r);
    return true;
}

// Floor division or its remainder; the sign of the remainder is the divisor's.
static bool int_divmod(jctx *c, bool mod, int64_t a, int64_t b, int64_t *out) {
    if (b == 0) {
        return mk_j_raise(c, "integer division or modulo by zero");
    }
    if (b == -1) {  // INT64_MIN / -1 traps
        *out = 0;
        return mod || !__builtin_sub_overflow((int64_t)0, a, out) || overflow(c);
    }
    int64_t q = a / b, r = a % b;
    bool adjust = r != 0 && (r < 0) != (b < 0);
    *out = mod ? r + (adjust ? b : 0) : q - adjust;
    return true;
}

static bool int_op(jctx *c, int op, int64_t a, int64_t b, jval *out) {
    int64_t r = 0;
    bool over = false;
    switch (op) {
    case JT_ADD:
        over = __builtin_add_overflow(a, b, &r);
        break;
    case JT_SUB:
        over = __builtin_sub_overflow(a, b, &r);
        break;
    case JT_MUL:
        over = __builtin_mul_overflow(a, b, &r);
        break;
    case JT_DIV:
        *out = mk_j_float((double)a / (double)b);
        return b != 0 || mk_j_raise(c, "division by zero");
    case JT_FLOORDIV:
    case JT_MOD:
        if (!int_divmod(c, op == JT_MOD, a, b, &r)) {
            return false;
        }
        break;
    default:
        return int_pow(c, a, b, out);
    }
    *out = mk_j_int(r);
    return !over || overflow(c);
}

static bool float_op(jctx *c, int op, double a, double b, jval *out) {
    double r = 0;
    if (b == 0 && (op == JT_DIV || op == JT_FLOORDIV || op == JT_MOD)) {
        return mk_j_raise(c,
                          op == JT_DIV ? "float division by zero" : "float floor division by zero");
    }
    switch (op) {
    case JT_ADD:
        r = a + b;
        break;
    case JT_SUB:
        r = a - b;
        break;
    case JT_MUL:
        r = a * b;
        break;
    case JT_DIV:
        r = a / b;
        break;
    case JT_FLOORDIV:
        r = floor(a / b);
        break;
    case JT_MOD:
        r = fmod(a, b);
        r += r != 0 && (r < 0) != (b < 0) ? b : 0;
        break;
    default:
        r = float_pow(a, b);
        break;
    }
    *out = mk_j_float(r);
    return true;
}

// str, list and tuple have + and *, and a string has %.  *done = false: not such a case.
static bool sequence_op(jctx *c, int op, const jval *a, const jval *b, jval *out, bool *done) {
    int64_t n;
    *done = true;
    if (op == JT_ADD && a->kind == JV_STR) {
        return b->kind == JV_STR ? mk_j_concat(c, a, b, out)
                                 : mk_j_raise(c, "can only concatenate str (not \"%s\") to str",
                                              mk_j_type_name(b));
    }
    if (op == JT_ADD && is_list(a)) {
        return a->kind == b->kind
                   ? join_lists(c, a, b, out)
                   : mk_j_raise(c, "can only concatenate %s (not \"%s\") to %s", mk_j_type_name(a),
                                mk_j_type_name(b), mk_j_type_name(a));
    }
    if (op == JT_MOD && a->kind == JV_STR) {
        return mk_j_percent(c, a, b, out);
    }
    const jval *seq = a->kind == JV_STR || is_list(a) ? a : b, *count = seq == a ? b : a;
    if (op == JT_MUL && (seq->kind == JV_STR || is_list(seq)) && mk_j_as_int(count, &n)) {
        return seq->kind == JV_STR ? mk_j_repeat(c, seq, n, out) : repeat_list(c, seq, n, out);
    }
    *done = false;
    return true;
}

static bool arithmetic(jctx *c, int op, const jval *a, const jval *b, jval *out) {
    static const char *const name[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
    int64_t i, j;
    double x, y;
    bool done;
    if (a->kind == JV_UNDEF || (b->kind == JV_UNDEF && !(op == JT_MOD && a->kind == JV_STR))) {
        return mk_j_undef_error(c, a->kind == JV_UNDEF ? a : b);
    }
    if (mk_j_as_int(a, &i) && mk_j_as_int(b, &j)) {
        return int_op(c, op, i, j, out);
    }
    if (mk_j_as_number(a, &x) && mk_j_as_number(b, &y)) {
        return float_op(c, op, x, y, out);
    }
    if (!sequence_op(c, op, a, b, out, &done)) {
        return false;
    }
    return done || type_error(c, name[op], a, b);
}

static bool ordered(jctx *c, int op, const jval *a, const jval *b, bool *out) {
    double x, y;
    bool less;
    if (mk_j_as_number(a, &x) && mk_j_as_number(b, &y) && (isnan(x) || isnan(y))) {
        *out = false;
        return true;
    }
    switch (op) {
    case JT_LT:
        return mk_j_less(c, a, b, "<", 0, out);
    case JT_GT:
        return mk_j_less(c, b, a, ">", 0, out);
    case JT_LE:
        if (!mk_j_less(c, b, a, "<=", 0, &less)) {
            return false;
        }
        break;
    default:
        if (!mk_j_less(c, a, b, ">=", 0, &less)) {
            return false;
        }
        break;
    }
    *out = !less;
    return true;
}

bool mk_j_binary(jctx *c, int op, const jval *a, const jval *b, jval *out) {
    if (op <= JT_POW) {
        return arithmetic(c, op, a, b, out);
    }
    bool r = false, ok;
    if (op == JT_EQ || op == JT_NE) {
        ok = mk_j_equal(c, a, b, 0, &r);
    } else if (op == JT_IN || op == JT_NOTIN) {
        ok = mk_j_contains(c, b, a, &r);
    } else {
        ok = ordered(c, op, a, b, &r);
    }
    *out = mk_j_bool(r != (op == JT_NE || op == JT_NOTIN));
    return ok;
}

bool mk_j_unary(jctx *c, int kind, const jval *a, jval *out) {
    int64_t i;
    if (a->kind == JV_UNDEF) {
        return mk_j_undef_error(c, a);
    }
    if (mk_j_as_int(a, &i)) {
        *out = mk_j_int(i);
        return kind != JN_NEG || !__builtin_sub_overflow((int64_t)0, i, &out->u.i) || overflow(c);
    }
    if (a->kind == JV_FLOAT) {
        *out = mk_j_float(kind == JN_NEG ? -a->u.f : a->u.f);
        return true;
    }
    return mk_j_raise(c, "bad operand type for unary %s: '%s'", kind == JN_NEG ? "-" : "+",
                      mk_j_type_name(a));
}

// --- attributes ----------------------------------------------------------------------------------
static bool method_of(jctx *c, const jval *o, jtext name, jval *out) {
    if (mk_j_method_unsafe(o->kind, name)) {
        *out = mk_j_undef(JU_UNSAFE, o->kind, name);
        return true;
    }
    const jop *op = mk_j_find_method(o->kind, name);
    *out = (jval){.kind = JV_MISSING};
    if (op == NULL) {
        return true;
    }
    jmethod *m = mk_j_alloc(c, 1, sizeof *m);
    if (m == NULL) {
        return false;
    }
    *m = (jmethod){*o, op};
    *out = (jval){.kind = JV_METHOD, .u.method = m};
    return true;
}

static jtext text_of(const jval *s) {
    return (jtext){s->u.p, s->n};
}

bool mk_j_attr(jctx *c, const jval *o, jtext name, jval *out) {
    const jval *found = NULL;
    if (o->kind == JV_UNDEF) {
        return mk_j_undef_error(c, o);
    }
    if (o->kind == JV_LOOP) {
        return mk_j_loop_attr(c, o->u.loop, name, out);
    }
    if (o->kind != JV_NS) {
        if (!method_of(c, o, name, out)) {
            return false;
        }
        if (out->kind != JV_MISSING) {
            return true;
        }
    }
    if ((o->kind == JV_DICT || o->kind == JV_NS) && !mk_j_dict_find(c, o->u.dict, name, &found)) {
        return false;
    }
    *out = found != NULL ? *found : mk_j_undef(JU_ATTR, o->kind, name);
    return true;
}

static bool no_element(jctx *c, const jval *o, const jval *key, jval *out) {
    jsb b;
    mk_j_sb_init(&b);
    if (!mk_j_sb_puts(c, &b, o->kind == JV_NONE ? "None" : mk_j_type_name(o), NULL) ||
        (o->kind != JV_NONE && !mk_j_sb_puts(c, &b, " object", NULL)) ||
        !mk_j_sb_puts(c, &b, " has no element ", NULL) || !mk_j_repr(c, &b, key, 0)) {
        return false;
    }
    jval hint = mk_j_sb_done(&b);
    *out = mk_j_undef(JU_HINT, JV_NONE, text_of(&hint));
    return true;
}

// Byte offset of the code point number `i` (0 <= i <= count).
static size_t cp_offset(const jval *s, int64_t i) {
    size_t at = 0;
    while (i > 0 && at < s->n) {
        uint32_t cp;
        at += mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        i--;
    }
    return at;
}

static bool index_sequence(jctx *c, const jval *o, int64_t i, jval *out, bool *found) {
    int64_t n;
    uint32_t cp;
    if (!mk_j_length(c, o, &n)) {
        return false;
    }
    i += i < 0 ? n : 0;
    *found = i >= 0 && i < n;
    if (!*found) {
        return true;
    }
    if (o->kind == JV_STR) {
        size_t at = cp_offset(o, i);
        *out = mk_j_sub(o, at, mk_j_decode(o->u.p + at, o->u.p + o->n, &cp));
        return mk_j_steps(c, at / 256);
    }
    *out =
        o->kind == JV_RANGE ? mk_j_int(o->u.range->start + i * o->u.range->step) : o->u.list->v[i];
    return true;
}

static bool is_sequence(const jval *o) {
    return o->kind == JV_STR || is_list(o) || o->kind == JV_RANGE;
}

bool mk_j_item(jctx *c, const jval *o, const jval *key, jval *out) {
    const jval *found = NULL;
    int64_t i;
    bool hit = false;
    if (o->kind == JV_UNDEF) {
        return mk_j_undef_error(c, o);
    }
    if (o->kind == JV_DICT && key->kind != JV_LIST && key->kind != JV_DICT) {
        if (!mk_j_dict_get(c, o->u.dict, key, &found)) {
            return false;
        }
        if (found != NULL) {
            *out = *found;
            return true;
        }
    }
    if (is_sequence(o) && mk_j_as_int(key, &i)) {
        return index_sequence(c, o, i, out, &hit) && (hit || no_element(c, o, key, out));
    }
    if (key->kind != JV_STR) {
        return no_element(c, o, key, out);
    }
    return mk_j_attr(c, o, text_of(key), out);
}

// --- slices --------------------------------------------------------------------------------------
typedef struct {
    int64_t start, step, n;
} jslice;

static bool slice_index(jctx *c, const jval *v, int64_t dflt, int64_t *out) {
    if (v->kind == JV_MISSING || v->kind == JV_NONE) {
        *out = dflt;
        return true;
    }
    return mk_j_as_int(v, out) ||
           mk_j_raise(c, "slice indices must be integers or None or have an __index__ method");
}

static int64_t clamp_index(int64_t i, int64_t len, int64_t low, int64_t high) {
    i += i < 0 ? len : 0;
    return i < low ? low : i > high ? high : i;
}

// Python's slice.indices: which elements of a sequence of length len.
static bool slice_plan(jctx *c, const jval part[3], int64_t len, jslice *s) {
    int64_t start, stop;
    if (!slice_index(c, &part[2], 1, &s->step)) {
        return false;
    }
    if (s->step == 0) {
        return mk_j_raise(c, "slice step cannot be zero");
    }
    bool down = s->step < 0;
    int64_t low = down ? -1 : 0, high = down ? len - 1 : len;
    if (!slice_index(c, &part[0], down ? INT64_MAX : 0, &start) ||
        !slice_index(c, &part[1], down ? INT64_MIN : INT64_MAX, &stop)) {
        return false;
    }
    start = clamp_index(start, len, low, high);
    stop = part[1].kind == JV_MISSING || part[1].kind == JV_NONE
               ? (down ? -1 : len)
               : clamp_index(stop, len, low, high);
    s->step = s->step < -len - 1 ? -len - 1 : s->step > len + 1 ? len + 1 : s->step;
    int64_t span = down ? start - stop : stop - start, stride = down ? -s->step : s->step;
    s->start = start;
    s->n = span > 0 ? (span + stride - 1) / stride : 0;
    return true;
}

static bool slice_str(jctx *c, const jval *o, const jslice *s, jval *out) {
    if (s->step == 1 || s->n == 0) {
        size_t from = s->n > 0 ? cp_offset(o, s->start) : 0;
        jval rest = mk_j_sub(o, from, o->n - from);
        *out = mk_j_sub(o, from, s->n > 0 ? cp_offset(&rest, s->n) : 0);
        return true;
    }
    // other steps: byte offset of every code point first, so that it stays linear
    size_t n_cp = mk_j_count_cp(o), at = 0;
    uint32_t *off = mk_j_alloc(c, n_cp + 1, sizeof *off);
    if (off == NULL) {
        return false;
    }
    for (size_t i = 0; i <= n_cp; i++) {
        uint32_t cp;
        off[i] = (uint32_t)at;
        at += at < o->n ? mk_j_decode(o->u.p + at, o->u.p + o->n, &cp) : 0;
    }
    jsb b;
    mk_j_sb_init(&b);
    for (int64_t k = 0; k < s->n; k++) {
        int64_t i = s->start + k * s->step;
        if (!mk_j_step(c) || !mk_j_sb_add(c, &b, o->u.p + off[i], off[i + 1] - off[i],
                                          mk_j_tag_at(o->tag, off[i]))) {
            return false;
        }
    }
    *out = mk_j_sb_done(&b);
    out->sub = o->sub;
    return true;
}

static bool slice_range(jctx *c, const jrange *r, const jslice *s, jval *out) {
    jrange *n = mk_j_alloc(c, 1, sizeof *n);
    if (n == NULL) {
        return false;
    }
    n->start = r->start + s->start * r->step;
    n->step = r->step * s->step;
    n->n = s->n;
    n->stop = n->start + n->n * n->step;
    *out = (jval){.kind = JV_RANGE, .u.range = n};
    return true;
}

bool mk_j_slice(jctx *c, const jval *o, const jval part[3], jval *out) {
    int64_t len;
    jslice s;
    if (o->kind == JV_UNDEF) {
        return mk_j_undef_error(c, o);
    }
    if (!is_sequence(o)) {
        // unlike o[key], Jinja compiles slices to Python's own
        return o->kind == JV_DICT
                   ? mk_j_raise(c, "unhashable type: 'slice'")
                   : mk_j_raise(c, "'%s' object is not subscriptable", mk_j_type_name(o));
    }
    if (!mk_j_length(c, o, &len) || !slice_plan(c, part, len, &s) ||
        !mk_j_steps(c, (uint64_t)len / 64)) {
        return false;
    }
    if (o->kind == JV_STR) {
        return slice_str(c, o, &s, out);
    }
    if (o->kind == JV_RANGE) {
        return slice_range(c, o->u.range, &s, out);
    }
    if (!mk_j_list_new(c, o->kind, (uint32_t)s.n, out)) {
        return false;
    }
    for (int64_t k = 0; k < s.n; k++) {
        if (!mk_j_list_push(c, out->u.list, &o->u.list->v[s.start + k * s.step])) {
            return false;
        }
    }
    return true;
}

// --- paths of filters ----------------------------------------------------------------------------
static bool path_part(jctx *c, const jval *path, uint32_t from, uint32_t to, jval *out) {
    *out = mk_j_sub(path, from, to - from);
    int64_t v = 0;
    for (uint32_t i = from; i < to; i++) {
        char ch = path->u.p[i];
        if (ch < '0' || ch > '9' || __builtin_mul_overflow(v, (int64_t)10, &v) ||
            __builtin_add_overflow(v, (int64_t)(ch - '0'), &v)) {
            return true;
        }
    }
    if (to > from) {
        *out = mk_j_int(v);
    }
    return mk_j_step(c);
}

bool mk_j_path(jctx *c, const jval *o, const jval *path, const jval *dflt, jval *out) {
    *out = *o;
    if (path->kind == JV_MISSING || path->kind == JV_NONE) {
        return true;
    }
    if (path->kind != JV_STR) {
        jval obj = *out;
        return mk_j_item(c, &obj, path, out);
    }
    for (uint32_t from = 0; from <= path->n;) {
        const char *dot = memchr(path->u.p + from, '.', path->n - from);
        uint32_t to = dot != NULL ? (uint32_t)(dot - path->u.p) : path->n;
        jval key, obj = *out;
        if (!path_part(c, path, from, to, &key) || !mk_j_item(c, &obj, &key, out)) {
            return false;
        }
        if (dflt != NULL && dflt->kind != JV_MISSING && dflt->kind != JV_NONE &&
            out->kind == JV_UNDEF) {
            *out = *dflt;
        }
        from = to + 1;
    }
    return true;
}
