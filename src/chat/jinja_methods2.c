// Methods of strings that ask or pad, of dictionaries, lists, tuples and loops; and the look-up of
// methods by type.
#include <string.h>
#include <utf8proc.h>

#include "chat/jinja_int.h"

#define METHOD(name)                                                                               \
    static bool name(jctx *c, const jval *s, const jval *a, const jargs *args, jval *out)
#define UNUSED_ARGS ((void)a, (void)args)

// --- strings: what are the characters? -----------------------------------------------------------
typedef bool (*cp_test)(uint32_t cp);

static utf8proc_category_t category(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp);
}

static bool cp_alpha(uint32_t cp) {
    utf8proc_category_t k = category(cp);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

static bool cp_digit(uint32_t cp) {
    return category(cp) == UTF8PROC_CATEGORY_ND || cp == 0xb2 || cp == 0xb3 || cp == 0xb9;
}

static bool cp_decimal(uint32_t cp) {
    return category(cp) == UTF8PROC_CATEGORY_ND;
}

static bool cp_alnum(uint32_t cp) {
    utf8proc_category_t k = category(cp);
    return cp_alpha(cp) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL ||
           k == UTF8PROC_CATEGORY_NO;
}

static bool cp_ascii(uint32_t cp) {
    return cp < 0x80;
}

static bool all_cp(jctx *c, const jval *s, cp_test test, bool empty, jval *out) {
    *out = mk_j_bool(s->n > 0 || empty);
    for (uint32_t at = 0; at < s->n && out->u.b;) {
        uint32_t cp;
        at += mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        out->u.b = test(cp);
    }
    return mk_j_steps(c, s->n / 64);
}

METHOD(m_isalpha) {
    UNUSED_ARGS;
    return all_cp(c, s, cp_alpha, false, out);
}

METHOD(m_isdigit) {
    UNUSED_ARGS;
    return all_cp(c, s, cp_digit, false, out);
}

METHOD(m_isdecimal) {
    UNUSED_ARGS;
    return all_cp(c, s, cp_decimal, false, out);
}

METHOD(m_isalnum) {
    UNUSED_ARGS;
    return all_cp(c, s, cp_alnum, false, out);
}

METHOD(m_isspace) {
    UNUSED_ARGS;
    return all_cp(c, s, mk_j_is_space, false, out);
}

METHOD(m_isascii) {
    UNUSED_ARGS;
    return all_cp(c, s, cp_ascii, true, out);
}

// At least one cased character and none of the other case.
static bool one_case(jctx *c, const jval *s, bool upper, jval *out) {
    bool seen = false, other = false;
    for (uint32_t at = 0; at < s->n;) {
        uint32_t cp;
        at += mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        utf8proc_category_t k = category(cp);
        bool up = k == UTF8PROC_CATEGORY_LU, low = k == UTF8PROC_CATEGORY_LL;
        seen = seen || (upper ? up : low);
        other = other || (upper ? low : up) || k == UTF8PROC_CATEGORY_LT;
    }
    *out = mk_j_bool(seen && !other);
    return mk_j_steps(c, s->n / 64);
}

METHOD(m_isupper) {
    UNUSED_ARGS;
    return one_case(c, s, true, out);
}

METHOD(m_islower) {
    UNUSED_ARGS;
    return one_case(c, s, false, out);
}

METHOD(m_istitle) {
    UNUSED_ARGS;
    jval t;
    if (!mk_j_case(c, s, JCASE_TITLE, &t)) {
        return false;
    }
    bool cased = false;
    for (uint32_t at = 0; at < s->n;) {
        uint32_t cp;
        at += mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        cased = cased || category(cp) <= UTF8PROC_CATEGORY_LT;
    }
    *out = mk_j_bool(cased && t.n == s->n && memcmp(t.u.p, s->u.p, s->n) == 0);
    return true;
}

// --- strings: padding ----------------------------------------------------------------------------
static bool fill(jctx *c, jsb *b, const jval *pad, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (!mk_j_step(c) || !mk_j_sb_val(c, b, pad)) {
            return false;
        }
    }
    return true;
}

// align: -1 left, 0 centre, 1 right
static bool justify(jctx *c, const jval *s, const jval *a, int align, jval *out) {
    int64_t width, have = (int64_t)mk_j_count_cp(s);
    jval pad = a[1].kind == JV_MISSING ? mk_j_lit(" ") : a[1];
    if (!mk_j_as_int(&a[0], &width)) {
        return mk_j_raise(c, "'%s' object cannot be interpreted as an integer",
                          mk_j_type_name(&a[0]));
    }
    if (pad.kind != JV_STR || mk_j_count_cp(&pad) != 1) {
        return mk_j_raise(c, "The fill character must be exactly one character long");
    }
    int64_t room = width > have ? width - have : 0;
    // Python puts the odd blank to the left when the width is odd
    int64_t left = align < 0 ? 0 : align > 0 ? room : room / 2 + (room & width & 1);
    jsb b;
    mk_j_sb_init(&b);
    if (!fill(c, &b, &pad, left) || !mk_j_sb_val(c, &b, s) || !fill(c, &b, &pad, room - left)) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    out->sub = s->sub;
    return true;
}

METHOD(m_ljust) {
    (void)args;
    return justify(c, s, a, -1, out);
}

METHOD(m_rjust) {
    (void)args;
    return justify(c, s, a, 1, out);
}

METHOD(m_center) {
    (void)args;
    return justify(c, s, a, 0, out);
}

METHOD(m_zfill) {
    (void)args;
    int64_t width, have = (int64_t)mk_j_count_cp(s);
    jval zero = mk_j_lit("0");
    if (!mk_j_as_int(&a[0], &width)) {
        return mk_j_raise(c, "'%s' object cannot be interpreted as an integer",
                          mk_j_type_name(&a[0]));
    }
    size_t sign = s->n > 0 && (s->u.p[0] == '-' || s->u.p[0] == '+');
    jval head = mk_j_sub(s, 0, sign), tail = mk_j_sub(s, sign, s->n - sign);
    jsb b;
    mk_j_sb_init(&b);
    if (!mk_j_sb_val(c, &b, &head) || !fill(c, &b, &zero, width - have) ||
        !mk_j_sb_val(c, &b, &tail)) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    return true;
}

METHOD(m_expandtabs) {
    (void)args;
    int64_t size = 8, col = 0;
    jval blank = mk_j_lit(" ");
    jsb b;
    if (a[0].kind != JV_MISSING && !mk_j_as_int(&a[0], &size)) {
        return mk_j_raise(c, "'%s' object cannot be interpreted as an integer",
                          mk_j_type_name(&a[0]));
    }
    mk_j_sb_init(&b);
    for (uint32_t at = 0; at < s->n;) {
        uint32_t cp;
        jval one = mk_j_sub(s, at, mk_j_decode(s->u.p + at, s->u.p + s->n, &cp));
        at += one.n;
        int64_t tab = size > 0 ? size - col % size : 0;
        if (!(cp == '\t' ? fill(c, &b, &blank, tab) : mk_j_sb_val(c, &b, &one))) {
            return false;
        }
        col = cp == '\n' || cp == '\r' ? 0 : col + (cp == '\t' ? tab : 1);
    }
    *out = mk_j_sb_done(&b);
    return mk_j_steps(c, s->n / 64);
}

static const jop str_rows[] = {
    {"isalpha", m_isalpha, "", 0},
    {"isdigit", m_isdigit, "", 0},
    {"isdecimal", m_isdecimal, "", 0},
    {"isnumeric", m_isdigit, "", 0},
    {"isalnum", m_isalnum, "", 0},
    {"isspace", m_isspace, "", 0},
    {"isascii", m_isascii, "", 0},
    {"isupper", m_isupper, "", 0},
    {"islower", m_islower, "", 0},
    {"istitle", m_istitle, "", 0},
    {"ljust", m_ljust, "width,fillchar", 1},
    {"rjust", m_rjust, "width,fillchar", 1},
    {"center", m_center, "width,fillchar", 1},
    {"zfill", m_zfill, "width", 1},
    {"expandtabs", m_expandtabs, "tabsize", 0},
};

// --- dictionaries --------------------------------------------------------------------------------
METHOD(d_get) {
    (void)args;
    const jval *found;
    if (!mk_j_hashable(c, &a[0]) || !mk_j_dict_get(c, s->u.dict, &a[0], &found)) {
        return false;
    }
    *out = found != NULL ? *found : a[1].kind == JV_MISSING ? mk_j_none() : a[1];
    return true;
}

static bool view(const jval *s, int which, jval *out) {
    *out = (jval){.kind = JV_VIEW, .sub = (uint8_t)which, .u.dict = s->u.dict};
    return true;
}

METHOD(d_keys) {
    UNUSED_ARGS, (void)c;
    return view(s, 0, out);
}

METHOD(d_values) {
    UNUSED_ARGS, (void)c;
    return view(s, 1, out);
}

METHOD(d_items) {
    UNUSED_ARGS, (void)c;
    return view(s, 2, out);
}

METHOD(d_copy) {
    UNUSED_ARGS;
    if (!mk_j_dict_new(c, JV_DICT, s->u.dict->n, out)) {
        return false;
    }
    for (uint32_t i = 0; i < s->u.dict->n; i++) {
        out->u.dict->e[i] = s->u.dict->e[i];
    }
    out->u.dict->n = s->u.dict->n;
    return mk_j_steps(c, s->u.dict->n);
}

static const jop dict_rows[] = {
    {"get", d_get, "key,default", 1}, {"keys", d_keys, "", 0}, {"values", d_values, "", 0},
    {"items", d_items, "", 0},        {"copy", d_copy, "", 0},
};

// --- lists, tuples, ranges -----------------------------------------------------------------------
METHOD(l_count) {
    (void)args;
    jiter it;
    jval item;
    bool more = true, same;
    *out = mk_j_int(0);
    if (!mk_j_iter(c, s, &it)) {
        return false;
    }
    for (;;) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            return true;
        }
        if (!mk_j_equal(c, &item, &a[0], 0, &same)) {
            return false;
        }
        out->u.i += same;
    }
}

METHOD(l_index) {
    (void)args;
    jiter it;
    jval item;
    bool more = true, same;
    if (!mk_j_iter(c, s, &it)) {
        return false;
    }
    for (int64_t i = 0;; i++) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            return mk_j_raise(c, "the value is not in the list");
        }
        if (!mk_j_equal(c, &item, &a[0], 0, &same)) {
            return false;
        }
        if (same) {
            *out = mk_j_int(i);
            return true;
        }
    }
}

METHOD(l_copy) {
    UNUSED_ARGS;
    return mk_j_to_list(c, s, out);
}

// Lists may hold themselves afterwards; whatever descends into values has a bound on its depth.
METHOD(l_append) {
    (void)args;
    *out = mk_j_none();
    return mk_j_list_push(c, s->u.list, &a[0]);
}

METHOD(l_pop) {
    (void)args;
    jlist *l = s->u.list;
    int64_t at = -1;
    if (a[0].kind != JV_MISSING && !mk_j_as_int(&a[0], &at)) {
        return mk_j_raise(c, "'%s' object cannot be interpreted as an integer",
                          mk_j_type_name(&a[0]));
    }
    at += at < 0 ? (int64_t)l->n : 0;
    if (at < 0 || at >= (int64_t)l->n) {
        return mk_j_raise(c, l->n == 0 ? "pop from empty list" : "pop index out of range");
    }
    *out = l->v[at];
    uint64_t n = l->n - 1 - (uint64_t)at;
    memmove(&l->v[at], &l->v[at + 1], n * sizeof *l->v);
    l->n--;
    return mk_j_steps(c, n / 64 + 1);
}

// The first two are those of tuples, too.
static const jop list_rows[] = {{"count", l_count, "value", 1},
                                {"index", l_index, "value", 1},
                                {"copy", l_copy, "", 0},
                                {"append", l_append, "object", 1},
                                {"pop", l_pop, "index", 0}};

// --- loops ---------------------------------------------------------------------------------------
METHOD(p_cycle) {
    (void)a;
    if (args->n_pos == 0) {
        return mk_j_raise(c, "no items for cycling given");
    }
    *out = args->pos[(uint64_t)s->u.loop->index0 % args->n_pos];
    return true;
}

METHOD(p_changed) {
    (void)a;
    jval now;
    bool same = false;
    if (!mk_j_list_new(c, JV_TUPLE, 0, &now)) {
        return false;
    }
    for (uint32_t i = 0; i < args->n_pos; i++) {
        if (!mk_j_list_push(c, now.u.list, &args->pos[i])) {
            return false;
        }
    }
    jval *last = &s->u.loop->changed;
    if (last->kind == JV_TUPLE && !mk_j_equal(c, last, &now, 0, &same)) {
        return false;
    }
    *last = now;
    *out = mk_j_bool(!same);
    return true;
}

static const jop loop_rows[] = {{"cycle", p_cycle, "*", 0}, {"changed", p_changed, "*", 0}};

// --- look-up -------------------------------------------------------------------------------------
#define TABLE(rows) ((jop_table){(rows), sizeof(rows) / sizeof((rows)[0])})

const jop *mk_j_op_find(jop_table t, jtext name) {
    for (size_t i = 0; i < t.n; i++) {
        if (mk_j_text_is(name, t.rows[i].name)) {
            return &t.rows[i];
        }
    }
    return NULL;
}

const jop *mk_j_find_method(jval_kind k, jtext name) {
    const jop *op = NULL;
    switch (k) {
    case JV_STR:
        op = mk_j_op_find(mk_j_methods_str(), name);
        return op != NULL ? op : mk_j_op_find(TABLE(str_rows), name);
    case JV_DICT:
        return mk_j_op_find(TABLE(dict_rows), name);
    case JV_LIST:
        return mk_j_op_find(TABLE(list_rows), name);
    case JV_TUPLE:
    case JV_RANGE:
        return mk_j_op_find((jop_table){list_rows, 2}, name);
    case JV_LOOP:
        return mk_j_op_find(TABLE(loop_rows), name);
    default:
        return NULL;
    }
}

// What changes its object exists in Python but is refused by the sandbox; a list may grow and
// shrink, which Kimi's template does.
bool mk_j_method_unsafe(jval_kind k, jtext name) {
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    static const char *const of_list[] = {"clear", "extend", "insert", "remove", "reverse", "sort"};
    if (k == JV_DICT || k == JV_LIST) {
        const char *const *names = k == JV_DICT ? of_dict : of_list;
        size_t n =
            k == JV_DICT ? sizeof of_dict / sizeof of_dict[0] : sizeof of_list / sizeof of_list[0];
        for (size_t i = 0; i < n; i++) {
            if (mk_j_text_is(name, names[i])) {
                return true;
            }
        }
    }
    return false;
}
