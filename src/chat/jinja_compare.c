// Values compared: equality, order, membership.  The rules are Python's; the error texts, too.
#include <string.h>

#include "chat/jinja_int.h"

static bool equal_lists(jctx *c, const jlist *a, const jlist *b, int depth, bool *out) {
    *out = a->n == b->n;
    for (uint32_t i = 0; *out && i < a->n; i++) {
        if (!mk_j_equal(c, &a->v[i], &b->v[i], depth + 1, out)) {
            return false;
        }
    }
    return true;
}

static bool equal_dicts(jctx *c, const jdict *a, const jdict *b, int depth, bool *out) {
    *out = a->n == b->n;
    for (uint32_t i = 0; *out && i < a->n; i++) {
        const jval *other;
        if (!mk_j_dict_get(c, b, &a->e[i].key, &other)) {
            return false;
        }
        *out = other != NULL;
        if (*out && !mk_j_equal(c, &a->e[i].val, other, depth + 1, out)) {
            return false;
        }
    }
    return true;
}

static bool equal_numbers(const jval *a, const jval *b) {
    int64_t i, j;
    double x = 0, y = 0;
    if (mk_j_as_int(a, &i) && mk_j_as_int(b, &j)) {
        return i == j;
    }
    return mk_j_as_number(a, &x) && mk_j_as_number(b, &y) && x == y;
}

bool mk_j_equal(jctx *c, const jval *a, const jval *b, int depth, bool *out) {
    double x;
    if (depth > MK_J_MAX_DATA_DEPTH) {
        return mk_j_limit(c, "values are nested too deeply to compare");
    }
    if (!mk_j_step(c)) {
        return false;
    }
    if (mk_j_as_number(a, &x) && mk_j_as_number(b, &x)) {
        *out = equal_numbers(a, b);
        return true;
    }
    *out = false;
    if (a->kind != b->kind) {
        return true;
    }
    switch ((jval_kind)a->kind) {
    case JV_UNDEF:
    case JV_NONE:
        *out = true;
        return true;
    case JV_STR:
        *out = a->n == b->n && memcmp(a->u.p, b->u.p, a->n) == 0;
        return mk_j_steps(c, *out ? a->n / 256 : 0);
    case JV_LIST:
    case JV_TUPLE:
        return equal_lists(c, a->u.list, b->u.list, depth, out);
    case JV_DICT:
        return equal_dicts(c, a->u.dict, b->u.dict, depth, out);
    case JV_RANGE:
        *out = a->u.range->n == b->u.range->n &&
               (a->u.range->n == 0 || a->u.range->start == b->u.range->start) &&
               (a->u.range->n < 2 || a->u.range->step == b->u.range->step);
        return true;
    case JV_FUNC:
        *out = a->u.i == b->u.i;
        return true;
    default:
        *out = (const void *)a->u.list == (const void *)b->u.list;
        return true;
    }
}

static int compare_text(const jval *a, const jval *b) {
    // UTF-8 orders as its code points do
    uint32_t n = a->n < b->n ? a->n : b->n;
    int k = n > 0 ? memcmp(a->u.p, b->u.p, n) : 0;
    return k != 0 ? k : a->n < b->n ? -1 : a->n > b->n;
}

bool mk_j_less(jctx *c, const jval *a, const jval *b, const char *op, int depth, bool *out) {
    double x, y;
    int64_t i, j;
    // a > b and a <= b are asked as b < a: messages and undefined values go by what the template
    // wrote
    bool swapped = strcmp(op, ">") == 0 || strcmp(op, "<=") == 0;
    const jval *l0 = swapped ? b : a, *r0 = swapped ? a : b;
    if (!mk_j_step(c)) {
        return false;
    }
    if (mk_j_as_int(a, &i) && mk_j_as_int(b, &j)) {
        *out = i < j;
        return true;
    }
    if (mk_j_as_number(a, &x) && mk_j_as_number(b, &y)) {
        *out = x < y;
        return true;
    }
    if (a->kind == JV_STR && b->kind == JV_STR) {
        *out = compare_text(a, b) < 0;
        return mk_j_steps(c, a->n / 256);
    }
    if (a->kind == JV_UNDEF || b->kind == JV_UNDEF) {
        return mk_j_undef_error(c, l0->kind == JV_UNDEF ? l0 : r0);
    }
    if ((a->kind != JV_LIST && a->kind != JV_TUPLE) || a->kind != b->kind ||
        depth > MK_J_MAX_DATA_DEPTH) {
        return mk_j_raise(c, "'%s' not supported between instances of '%s' and '%s'", op,
                          mk_j_type_name(l0), mk_j_type_name(r0));
    }
    const jlist *l = a->u.list, *r = b->u.list;
    for (uint32_t k = 0; k < l->n && k < r->n; k++) {
        bool same;
        if (!mk_j_equal(c, &l->v[k], &r->v[k], depth + 1, &same)) {
            return false;
        }
        if (!same) {
            return mk_j_less(c, &l->v[k], &r->v[k], op, depth + 1, out);
        }
    }
    *out = l->n < r->n;
    return true;
}

bool mk_j_contains(jctx *c, const jval *seq, const jval *v, bool *out) {
    const jval *found;
    size_t at;
    if (seq->kind == JV_STR) {
        if (v->kind == JV_UNDEF || v->kind != JV_STR) {
            return mk_j_raise(c, "'in <string>' requires string as left operand, not %s",
                              mk_j_type_name(v));
        }
        *out = mk_j_find_text(seq, 0, v->u.p, v->n, &at);
        return mk_j_steps(c, seq->n / 256);
    }
    if (seq->kind == JV_DICT || (seq->kind == JV_VIEW && seq->sub == 0)) {
        if (!mk_j_hashable(c, v) || !mk_j_dict_get(c, seq->u.dict, v, &found)) {
            return false;
        }
        *out = found != NULL;
        return true;
    }
    if (!mk_j_iterable(seq)) {
        return mk_j_raise(c, "argument of type '%s' is not iterable", mk_j_type_name(seq));
    }
    jiter it;
    jval item;
    bool more;
    *out = false;
    if (!mk_j_iter(c, seq, &it)) {
        return false;
    }
    while (!*out) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (!mk_j_equal(c, &item, v, 0, out)) {
            return false;
        }
    }
    return true;
}
