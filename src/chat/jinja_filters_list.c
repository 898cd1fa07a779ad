// Filters on sequences and mappings.
// Where Jinja gives a generator, so do we (it can be walked once and has no length), but its items
// are computed at once.
#include <string.h>

#include "chat/jinja_int.h"

#define FILTER(name)                                                                               \
    static bool name(jctx *c, const jval *s, const jval *a, const jargs *args, jval *out)
#define UNUSED_ARGS ((void)a, (void)args)

static bool flag(const jval *v) {
    return v->kind != JV_MISSING && mk_j_truth(v);
}

static bool given(const jval *v) {
    return v->kind != JV_MISSING && v->kind != JV_NONE;
}

// --- size and ends -------------------------------------------------------------------------------
FILTER(f_length) {
    UNUSED_ARGS;
    *out = mk_j_int(0);
    return mk_j_length(c, s, &out->u.i);
}

FILTER(f_first) {
    UNUSED_ARGS;
    jiter it;
    bool more;
    if (!mk_j_iter(c, s, &it) || !mk_j_next(c, &it, out, &more)) {
        return false;
    }
    if (!more) {
        *out = mk_j_hint("No first item, sequence was empty.");
    }
    return true;
}

// What reversed() accepts: sequences and dictionaries, no generators.
static bool reversible(jctx *c, const jval *s) {
    return (s->kind != JV_GEN && s->kind != JV_UNDEF && s->kind != JV_LOOP && mk_j_iterable(s)) ||
           mk_j_raise(c, "'%s' object is not reversible", mk_j_type_name(s));
}

FILTER(f_last) {
    UNUSED_ARGS;
    jval list;
    if (s->kind == JV_UNDEF) {
        *out = mk_j_hint("No last item, sequence was empty.");
        return true;
    }
    if (!reversible(c, s) || !mk_j_to_list(c, s, &list)) {
        return false;
    }
    uint32_t n = list.u.list->n;
    *out = n > 0 ? list.u.list->v[n - 1] : mk_j_hint("No last item, sequence was empty.");
    return true;
}

FILTER(f_list) {
    UNUSED_ARGS;
    return mk_j_to_list(c, s, out);
}

FILTER(f_items) {
    UNUSED_ARGS;
    if (s->kind == JV_UNDEF) {
        return mk_j_gen_new(c, out);
    }
    if (s->kind != JV_DICT) {
        return mk_j_raise(c, "Can only get item pairs from a mapping.");
    }
    jval view = {.kind = JV_VIEW, .sub = 2, .u.dict = s->u.dict}, list;
    if (!mk_j_to_list(c, &view, &list) || !mk_j_gen_new(c, out)) {
        return false;
    }
    out->u.gen->list = *list.u.list;
    return true;
}

FILTER(f_join) {
    (void)args;
    jiter it;
    jval item, part, sep = mk_j_lit("");
    jsb b;
    bool more = true;
    mk_j_sb_init(&b);
    if ((a[0].kind != JV_MISSING && !mk_j_to_str(c, &a[0], &sep)) || !mk_j_iter(c, s, &it)) {
        return false;
    }
    for (bool first = true;; first = false) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        jval obj = item;
        if (!mk_j_path(c, &obj, &a[1], NULL, &item) || !mk_j_to_str(c, &item, &part) ||
            (!first && !mk_j_sb_val(c, &b, &sep)) || !mk_j_sb_val(c, &b, &part)) {
            return false;
        }
    }
    *out = mk_j_sb_done(&b);
    return true;
}

FILTER(f_reverse) {
    UNUSED_ARGS;
    jval list;
    jsb b;
    mk_j_sb_init(&b);
    if (!(s->kind == JV_UNDEF ? mk_j_iterable(s) : mk_j_to_list(c, s, &list))) {
        return false;
    }
    if (s->kind == JV_UNDEF) {
        return mk_j_gen_new(c, out);
    }
    jlist *l = list.u.list;
    for (uint32_t i = 0; i < l->n / 2; i++) {
        jval t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
    if (s->kind != JV_STR) {
        if (!mk_j_gen_new(c, out)) {
            return false;
        }
        out->u.gen->list = *l;
        return true;
    }
    for (uint32_t i = 0; i < l->n; i++) {
        if (!mk_j_sb_val(c, &b, &l->v[i])) {
            return false;
        }
    }
    *out = mk_j_sb_done(&b);
    out->sub = s->sub;
    return true;
}

// --- sorting -------------------------------------------------------------------------------------
// Items with their keys; a stable merge sort. Descending keeps equal items in order, too, as
// Python's reverse does.
typedef struct {
    jval key, item;
} keyed;

static bool merge(jctx *c, keyed *v, keyed *tmp, uint32_t n, bool reverse) {
    if (n < 2) {
        return true;
    }
    uint32_t half = n / 2, i = 0, j = half, k = 0;
    if (!merge(c, v, tmp, half, reverse) || !merge(c, v + half, tmp, n - half, reverse)) {
        return false;
    }
    while (i < half && j < n) {
        bool right_first;
        const jval *l = &v[i].key, *r = &v[j].key;
        if (!mk_j_less(c, reverse ? l : r, reverse ? r : l, "<", 0, &right_first)) {
            return false;
        }
        tmp[k++] = right_first ? v[j++] : v[i++];
    }
    memcpy(tmp + k, v + i, (half - i) * sizeof *v);
    k += half - i;
    memcpy(tmp + k, v + j, (n - j) * sizeof *v);
    memcpy(v, tmp, n * sizeof *v);
    return true;
}

static bool fold_case(jctx *c, bool sensitive, jval *key) {
    jval k = *key;
    return sensitive || key->kind != JV_STR || mk_j_case(c, &k, JCASE_LOWER, key);
}

// Key of an item: the value at a path, or a list of them for "a,b".
static bool sort_key(jctx *c, const jval *item, const jval *attribute, const jval *dflt,
                     bool sensitive, jval *out) {
    if (attribute->kind != JV_STR || memchr(attribute->u.p, ',', attribute->n) == NULL) {
        return mk_j_path(c, item, attribute, dflt, out) && fold_case(c, sensitive, out);
    }
    if (!mk_j_list_new(c, JV_LIST, 0, out)) {
        return false;
    }
    for (uint32_t from = 0; from <= attribute->n;) {
        const char *comma = memchr(attribute->u.p + from, ',', attribute->n - from);
        uint32_t to = comma != NULL ? (uint32_t)(comma - attribute->u.p) : attribute->n;
        jval path = mk_j_sub(attribute, from, to - from), key;
        if (!mk_j_path(c, item, &path, NULL, &key) || !fold_case(c, sensitive, &key) ||
            !mk_j_list_push(c, out->u.list, &key)) {
            return false;
        }
        from = to + 1;
    }
    return true;
}

typedef struct {
    const jval *attribute, *dflt;  // dflt: instead of an undefined key, or NULL
    bool sensitive, reverse;
    bool lists;  // keys are lists, as the sort filter's are: equal ones are never compared by <
} sort_opts;

static bool wrap_keys(jctx *c, keyed *v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        jval key = v[i].key;
        if (!mk_j_list_new(c, JV_LIST, 1, &v[i].key) || !mk_j_list_push(c, v[i].key.u.list, &key)) {
            return false;
        }
    }
    return true;
}

static bool sort_list(jctx *c, jlist *l, sort_opts o) {
    keyed *v = mk_j_alloc(c, l->n, sizeof *v),
          *tmp = v != NULL ? mk_j_alloc(c, l->n, sizeof *tmp) : NULL;
    if (tmp == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < l->n; i++) {
        v[i].item = l->v[i];
        if (!sort_key(c, &l->v[i], o.attribute, o.dflt, o.sensitive, &v[i].key)) {
            return false;
        }
    }
    if (o.lists && !wrap_keys(c, v, l->n)) {
        return false;
    }
    if (!merge(c, v, tmp, l->n, o.reverse)) {
        return false;
    }
    for (uint32_t i = 0; i < l->n; i++) {
        l->v[i] = v[i].item;
    }
    return true;
}

FILTER(f_sort) {
    (void)args;
    return mk_j_to_list(c, s, out) &&
           sort_list(c, out->u.list, (sort_opts){&a[2], NULL, flag(&a[1]), flag(&a[0]), true});
}

FILTER(f_dictsort) {
    (void)args;
    jval by = a[1].kind == JV_MISSING ? mk_j_lit("key") : a[1];
    jtext name = by.kind == JV_STR ? (jtext){by.u.p, by.n} : JTEXT("");
    if (!mk_j_text_is(name, "key") && !mk_j_text_is(name, "value")) {
        return mk_j_raise(c, "You can only sort by either \"key\" or \"value\"");
    }
    if (s->kind != JV_DICT) {
        return s->kind == JV_UNDEF
                   ? mk_j_undef_error(c, s)
                   : mk_j_raise(c, "'%s object' has no attribute 'items'", mk_j_type_name(s));
    }
    jval view = {.kind = JV_VIEW, .sub = 2, .u.dict = s->u.dict},
         at = mk_j_int(name.n == 3 ? 0 : 1);
    return mk_j_to_list(c, &view, out) &&
           sort_list(c, out->u.list, (sort_opts){&at, NULL, flag(&a[0]), flag(&a[2]), false});
}

static bool extreme(jctx *c, const jval *s, const jval *a, bool max, jval *out) {
    jiter it;
    jval item, key, best = {0};
    bool more = true, better = true;
    *out = mk_j_hint("No aggregated item, sequence was empty.");
    if (!mk_j_iter(c, s, &it)) {
        return false;
    }
    for (bool first = true;; first = false) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            return true;
        }
        if (!mk_j_path(c, &item, &a[1], NULL, &key) || !fold_case(c, flag(&a[0]), &key) ||
            (!first && !mk_j_less(c, max ? &best : &key, max ? &key : &best, "<", 0, &better))) {
            return false;
        }
        if (first || better) {
            best = key;
            *out = item;
        }
    }
}

FILTER(f_min) {
    (void)args;
    return extreme(c, s, a, false, out);
}

FILTER(f_max) {
    (void)args;
    return extreme(c, s, a, true, out);
}

FILTER(f_sum) {
    (void)args;
    jiter it;
    jval item, part, total = a[1].kind == JV_MISSING ? mk_j_int(0) : a[1];
    bool more = true;
    if (!mk_j_iter(c, s, &it)) {
        return false;
    }
    while (more) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        jval sum = total;
        if (more && (!mk_j_path(c, &item, &a[0], NULL, &part) ||
                     !mk_j_binary(c, JT_ADD, &sum, &part, &total))) {
            return false;
        }
    }
    *out = total;
    return true;
}

FILTER(f_unique) {
    (void)args;
    jiter it;
    jval item, key, seen;
    const jval *old;
    bool more = true;
    if (!mk_j_iter(c, s, &it) || !mk_j_gen_new(c, out) || !mk_j_dict_new(c, JV_DICT, 0, &seen)) {
        return false;
    }
    for (;;) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            return true;
        }
        if (!mk_j_path(c, &item, &a[1], NULL, &key) || !fold_case(c, flag(&a[0]), &key) ||
            !mk_j_hashable(c, &key) || !mk_j_dict_get(c, seen.u.dict, &key, &old)) {
            return false;
        }
        if (old == NULL && (!mk_j_dict_set(c, seen.u.dict, &key, &item) ||
                            !mk_j_list_push(c, &out->u.gen->list, &item))) {
            return false;
        }
    }
}

FILTER(f_groupby) {
    (void)args;
    jval list, key, group, pair, last = {.kind = JV_MISSING};
    bool sensitive = flag(&a[2]);
    if (!mk_j_to_list(c, s, &list) ||
        !sort_list(c, list.u.list, (sort_opts){&a[0], &a[1], sensitive, false, false}) ||
        !mk_j_list_new(c, JV_LIST, 0, out)) {
        return false;
    }
    for (uint32_t i = 0; i < list.u.list->n; i++) {
        const jval *item = &list.u.list->v[i];
        jval raw;
        bool same = false;
        if (!mk_j_path(c, item, &a[0], &a[1], &raw)) {
            return false;
        }
        key = raw;
        if (!fold_case(c, sensitive, &key) || (i > 0 && !mk_j_equal(c, &key, &last, 0, &same))) {
            return false;
        }
        if (!same &&
            (!mk_j_list_new(c, JV_TUPLE, 2, &pair) || !mk_j_list_new(c, JV_LIST, 0, &group) ||
             !mk_j_list_push(c, pair.u.list, &raw) || !mk_j_list_push(c, pair.u.list, &group) ||
             !mk_j_list_push(c, out->u.list, &pair))) {
            return false;
        }
        if (!mk_j_list_push(c, group.u.list, item)) {
            return false;
        }
        last = key;
    }
    return true;
}

// --- portions ------------------------------------------------------------------------------------
FILTER(f_batch) {
    (void)args;
    jval list, row = {.kind = JV_MISSING};
    int64_t size;
    if (!mk_j_as_int(&a[0], &size) || size < 1) {
        return mk_j_raise(c, "batch needs a positive number of items");
    }
    if (!mk_j_to_list(c, s, &list) || !mk_j_gen_new(c, out)) {
        return false;
    }
    for (uint32_t i = 0; i < list.u.list->n; i++) {
        if (i % (uint64_t)size == 0 &&
            (!mk_j_list_new(c, JV_LIST, 0, &row) || !mk_j_list_push(c, &out->u.gen->list, &row))) {
            return false;
        }
        if (!mk_j_list_push(c, row.u.list, &list.u.list->v[i])) {
            return false;
        }
    }
    while (given(&a[1]) && row.kind == JV_LIST && row.u.list->n < size) {
        if (!mk_j_list_push(c, row.u.list, &a[1])) {
            return false;
        }
    }
    return true;
}

FILTER(f_slice) {
    (void)args;
    jval list, row;
    int64_t slices, at = 0;
    if (!mk_j_as_int(&a[0], &slices) || slices < 1) {
        return mk_j_raise(c, "slice needs a positive number of parts");
    }
    if (!mk_j_to_list(c, s, &list) || !mk_j_gen_new(c, out)) {
        return false;
    }
    int64_t n = list.u.list->n, per = n / slices, extra = n % slices;
    for (int64_t k = 0; k < slices; k++) {
        int64_t end = at + per + (k < extra);
        if (!mk_j_list_new(c, JV_LIST, 0, &row)) {
            return false;
        }
        for (; at < end; at++) {
            if (!mk_j_list_push(c, row.u.list, &list.u.list->v[at])) {
                return false;
            }
        }
        if ((given(&a[1]) && k >= extra && !mk_j_list_push(c, row.u.list, &a[1])) ||
            !mk_j_list_push(c, &out->u.gen->list, &row)) {
            return false;
        }
    }
    return true;
}

// --- map, select, reject -------------------------------------------------------------------------
static const jval *keyword(const jargs *args, const char *name) {
    for (uint32_t i = 0; i < args->n_kw; i++) {
        if (mk_j_text_is(args->kw_name[i], name)) {
            return &args->kw[i];
        }
    }
    return NULL;
}

static jargs rest_of(const jargs *args, uint32_t n) {
    jargs r = *args;
    r.n_pos = args->n_pos > n ? args->n_pos - n : 0;
    r.pos = r.n_pos > 0 ? args->pos + n : NULL;
    return r;
}

static bool named_op(jctx *c, const jargs *args, uint32_t at, bool test, const jop **op) {
    *op = NULL;
    if (args->n_pos <= at) {
        return true;
    }
    const jval *v = &args->pos[at];
    jtext name = v->kind == JV_STR ? (jtext){v->u.p, v->n} : JTEXT("");
    *op = test ? mk_j_find_test(name) : mk_j_find_filter(name);
    return *op != NULL || mk_j_raise(c, "No %s named '%.*s'.", test ? "test" : "filter",
                                     (int)(name.n > 60 ? 60 : name.n), name.p);
}

static bool map_item(jctx *c, const jop *op, const jargs *args, const jval *item, jval *out) {
    if (op == NULL) {
        return mk_j_path(c, item, keyword(args, "attribute"), keyword(args, "default"), out);
    }
    jargs rest = rest_of(args, 1);
    return mk_j_apply(c, op, "filter", item, &rest, out);
}

FILTER(f_map) {
    (void)a;
    jiter it;
    jval item, v;
    const jop *op;
    bool more = true;
    if (!mk_j_gen_new(c, out) || !mk_j_truth(s)) {
        return c->status == MK_OK;
    }
    if (!named_op(c, args, 0, false, &op) || !mk_j_iter(c, s, &it)) {
        return false;
    }
    if (op == NULL && keyword(args, "attribute") == NULL) {
        return mk_j_raise(c, "map requires a filter argument");
    }
    while (more) {
        if (!mk_j_next(c, &it, &item, &more) ||
            (more && (!mk_j_enter(c) || !map_item(c, op, args, &item, &v) ||
                      !mk_j_list_push(c, &out->u.gen->list, &v)))) {
            return false;
        }
        c->depth -= more;
    }
    return true;
}

typedef struct {
    bool by_attr, keep;  // keep: select; else reject
} choice;

static bool choose_item(jctx *c, const jop *op, const jargs *args, choice how, const jval *item,
                        bool *keep) {
    jval v = *item, r;
    if (how.by_attr && !mk_j_path(c, item, &args->pos[0], NULL, &v)) {
        return false;
    }
    if (op == NULL) {
        *keep = mk_j_truth(&v) == how.keep;
        return true;
    }
    jargs rest = rest_of(args, how.by_attr ? 2 : 1);
    if (!mk_j_apply(c, op, "test", &v, &rest, &r)) {
        return false;
    }
    *keep = mk_j_truth(&r) == how.keep;
    return true;
}

static bool choose(jctx *c, const jval *s, const jargs *args, choice how, jval *out) {
    jiter it;
    jval item;
    const jop *op;
    bool more = true, keep = false;
    if (!mk_j_gen_new(c, out) || !mk_j_truth(s)) {
        return c->status == MK_OK;
    }
    if (how.by_attr && args->n_pos == 0) {
        return mk_j_raise(c, "Missing parameter for attribute name");
    }
    if (!named_op(c, args, how.by_attr, true, &op) || !mk_j_iter(c, s, &it)) {
        return false;
    }
    while (more) {
        if (!mk_j_next(c, &it, &item, &more) ||
            (more && !choose_item(c, op, args, how, &item, &keep)) ||
            (more && keep && !mk_j_list_push(c, &out->u.gen->list, &item))) {
            return false;
        }
    }
    return true;
}

FILTER(f_select) {
    (void)a;
    return choose(c, s, args, (choice){false, true}, out);
}

FILTER(f_reject) {
    (void)a;
    return choose(c, s, args, (choice){false, false}, out);
}

FILTER(f_selectattr) {
    (void)a;
    return choose(c, s, args, (choice){true, true}, out);
}

FILTER(f_rejectattr) {
    (void)a;
    return choose(c, s, args, (choice){true, false}, out);
}

static const jop rows[] = {
    {"length", f_length, "", 0},
    {"count", f_length, "", 0},
    {"first", f_first, "", 0},
    {"last", f_last, "", 0},
    {"list", f_list, "", 0},
    {"items", f_items, "", 0},
    {"join", f_join, "d,attribute", 0},
    {"reverse", f_reverse, "", 0},
    {"sort", f_sort, "reverse,case_sensitive,attribute", 0},
    {"dictsort", f_dictsort, "case_sensitive,by,reverse", 0},
    {"min", f_min, "case_sensitive,attribute", 0},
    {"max", f_max, "case_sensitive,attribute", 0},
    {"sum", f_sum, "attribute,start", 0},
    {"unique", f_unique, "case_sensitive,attribute", 0},
    {"groupby", f_groupby, "attribute,default,case_sensitive", 1},
    {"batch", f_batch, "linecount,fill_with", 1},
    {"slice", f_slice, "slices,fill_with", 1},
    {"map", f_map, "*", 0},
    {"select", f_select, "*", 0},
    {"reject", f_reject, "*", 0},
    {"selectattr", f_selectattr, "*", 0},
    {"rejectattr", f_rejectattr, "*", 0},
};

jop_table mk_j_filters_list(void) {
    return (jop_table){rows, sizeof rows / sizeof rows[0]};
}
