// Expressions: one small function per kind of node, found through a table.
// Recursion is bounded twice: by the height of expression trees (parser) and by mk_j_enter here.
#include <stdio.h>
#include <string.h>

#include "chat/jinja_int.h"

typedef bool (*eval_fn)(jctx *c, const jnode *n, jenv *e, jval *out);

const jval *mk_j_lookup(const jenv *e, int32_t sym) {
    for (; e != NULL; e = e->up) {
        for (uint32_t i = 0; i < e->n; i++) {
            if (e->v[i].sym == sym) {
                return &e->v[i].v;
            }
        }
    }
    return NULL;
}

// --- leaves --------------------------------------------------------------------------------------
static bool ev_none(jctx *c, const jnode *n, jenv *e, jval *out) {
    (void)c, (void)n, (void)e;
    *out = mk_j_none();
    return true;
}

static bool ev_bool(jctx *c, const jnode *n, jenv *e, jval *out) {
    (void)c, (void)e;
    *out = mk_j_bool(n->kind == JN_TRUE);
    return true;
}

static bool ev_int(jctx *c, const jnode *n, jenv *e, jval *out) {
    (void)c, (void)e;
    *out = mk_j_int(n->v.i);
    return true;
}

static bool ev_float(jctx *c, const jnode *n, jenv *e, jval *out) {
    (void)c, (void)e;
    *out = mk_j_float(n->v.f);
    return true;
}

static bool ev_str(jctx *c, const jnode *n, jenv *e, jval *out) {
    (void)c, (void)e;
    *out = mk_j_str(n->v.text.p, n->v.text.n, NULL);
    return true;
}

static bool ev_name(jctx *c, const jnode *n, jenv *e, jval *out) {
    const jval *v = mk_j_lookup(e, n->sym);
    if (v != NULL && v->kind != JV_MISSING) {
        *out = *v;
        return true;
    }
    int g = v == NULL ? mk_j_global(n->v.text) : -1;
    *out = g >= 0 ? (jval){.kind = JV_FUNC, .u.i = g} : mk_j_undef(JU_NAME, JV_NONE, n->v.text);
    return mk_j_step(c);
}

// --- collections ---------------------------------------------------------------------------------
static bool ev_list(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval list, item;
    if (!mk_j_list_new(c, n->kind == JN_LIST ? JV_LIST : JV_TUPLE, 0, &list)) {
        return false;
    }
    for (const jnode *k = n->a; k != NULL; k = k->next) {
        if (!mk_j_eval(c, k, e, &item) || !mk_j_list_push(c, list.u.list, &item)) {
            return false;
        }
    }
    *out = list;
    return true;
}

static bool ev_dict(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval dict, key, val;
    if (!mk_j_dict_new(c, JV_DICT, 0, &dict)) {
        return false;
    }
    for (const jnode *k = n->a; k != NULL; k = k->next->next) {
        if (!mk_j_eval(c, k, e, &key) || !mk_j_eval(c, k->next, e, &val) ||
            !mk_j_dict_set(c, dict.u.dict, &key, &val)) {
            return false;
        }
    }
    *out = dict;
    return true;
}

static bool ev_attr(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval obj;
    return mk_j_eval(c, n->a, e, &obj) && mk_j_attr(c, &obj, n->v.text, out);
}

static bool ev_item(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval obj, key;
    if (!mk_j_eval(c, n->a, e, &obj)) {
        return false;
    }
    if (n->b->kind != JN_SLICE) {
        return mk_j_eval(c, n->b, e, &key) && mk_j_item(c, &obj, &key, out);
    }
    const jnode *part[3] = {n->b->a, n->b->b, n->b->c};
    jval v[3] = {{.kind = JV_MISSING}, {.kind = JV_MISSING}, {.kind = JV_MISSING}};
    for (int i = 0; i < 3; i++) {
        if (part[i] != NULL && !mk_j_eval(c, part[i], e, &v[i])) {
            return false;
        }
    }
    return mk_j_slice(c, &obj, v, out);
}

static bool ev_slice(jctx *c, const jnode *n, jenv *e, jval *out) {
    (void)n, (void)e, (void)out;  // x[1:2, 3]: a slice inside a tuple
    return mk_j_raise(c, "a slice is only possible as the single index");
}

// --- operations ----------------------------------------------------------------------------------
static bool ev_call(jctx *c, const jnode *n, jenv *e, jval *out) {
    return mk_j_eval_call(c, n, e, NULL, out);
}

static bool ev_filter(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval subject;
    jargs args;
    if (n->entry == NULL) {
        return mk_j_raise(c, "No filter named '%.*s' found.", (int)n->v.text.n, n->v.text.p);
    }
    if (n->a == NULL) {
        subject = c->block_text;
    } else if (!mk_j_eval(c, n->a, e, &subject)) {
        return false;
    }
    return mk_j_eval_args(c, n->b, e, &args) &&
           mk_j_apply(c, n->entry, "filter", &subject, &args, out);
}

static bool ev_test(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval subject;
    jargs args;
    if (n->entry == NULL) {
        return mk_j_raise(c, "No test named '%.*s' found.", (int)n->v.text.n, n->v.text.p);
    }
    return mk_j_eval(c, n->a, e, &subject) && mk_j_eval_args(c, n->b, e, &args) &&
           mk_j_apply(c, n->entry, "test", &subject, &args, out);
}

static bool ev_not(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval v;
    if (!mk_j_eval(c, n->a, e, &v)) {
        return false;
    }
    *out = mk_j_bool(!mk_j_truth(&v));
    return true;
}

static bool ev_sign(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval v;
    return mk_j_eval(c, n->a, e, &v) && mk_j_unary(c, n->kind, &v, out);
}

static bool ev_bin(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval a, b;
    return mk_j_eval(c, n->a, e, &a) && mk_j_eval(c, n->b, e, &b) &&
           mk_j_binary(c, n->op, &a, &b, out);
}

// and / or give one of their operands, as in Python.
static bool ev_logic(jctx *c, const jnode *n, jenv *e, jval *out) {
    if (!mk_j_eval(c, n->a, e, out)) {
        return false;
    }
    return mk_j_truth(out) == (n->kind == JN_OR) || mk_j_eval(c, n->b, e, out);
}

static bool ev_concat(jctx *c, const jnode *n, jenv *e, jval *out) {
    jsb b;
    jval v, s;
    mk_j_sb_init(&b);
    for (const jnode *k = n->a; k != NULL; k = k->next) {
        if (!mk_j_eval(c, k, e, &v) || !mk_j_to_str(c, &v, &s) || !mk_j_sb_val(c, &b, &s)) {
            return false;
        }
    }
    *out = mk_j_sb_done(&b);
    return true;
}

// a < b < c is (a < b) and (b < c) with b evaluated once.
static bool ev_compare(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval left, right;
    if (!mk_j_eval(c, n->a, e, &left)) {
        return false;
    }
    for (const jnode *k = n->b; k != NULL; k = k->next) {
        if (!mk_j_eval(c, k->a, e, &right) || !mk_j_binary(c, k->op, &left, &right, out)) {
            return false;
        }
        if (!mk_j_truth(out)) {
            break;
        }
        left = right;
    }
    return true;
}

static bool ev_cond(jctx *c, const jnode *n, jenv *e, jval *out) {
    jval test;
    if (!mk_j_eval(c, n->a, e, &test)) {
        return false;
    }
    const jnode *pick = mk_j_truth(&test) ? n->b : n->c;
    if (pick != NULL) {
        return mk_j_eval(c, pick, e, out);
    }
    char line[24];
    jsb hint;
    snprintf(line, sizeof line, "%d", n->line);
    mk_j_sb_init(&hint);
    if (!mk_j_sb_puts(c, &hint, "the inline if-expression on line ", NULL) ||
        !mk_j_sb_puts(c, &hint, line, NULL) ||
        !mk_j_sb_puts(c, &hint, " evaluated to false and no else section was defined.", NULL)) {
        return false;
    }
    *out = mk_j_undef(JU_HINT, JV_NONE, (jtext){hint.p, hint.n});
    return true;
}

static const eval_fn table[] = {
    [JN_NONE] = ev_none,   [JN_TRUE] = ev_bool, [JN_FALSE] = ev_bool,    [JN_INT] = ev_int,
    [JN_FLOAT] = ev_float, [JN_STR] = ev_str,   [JN_NAME] = ev_name,     [JN_TUPLE] = ev_list,
    [JN_LIST] = ev_list,   [JN_DICT] = ev_dict, [JN_ATTR] = ev_attr,     [JN_ITEM] = ev_item,
    [JN_SLICE] = ev_slice, [JN_CALL] = ev_call, [JN_FILTER] = ev_filter, [JN_TEST] = ev_test,
    [JN_NOT] = ev_not,     [JN_NEG] = ev_sign,  [JN_POS] = ev_sign,      [JN_BIN] = ev_bin,
    [JN_AND] = ev_logic,   [JN_OR] = ev_logic,  [JN_CONCAT] = ev_concat, [JN_COMPARE] = ev_compare,
    [JN_COND] = ev_cond,
};

bool mk_j_eval(jctx *c, const jnode *n, jenv *e, jval *out) {
    if (!mk_j_enter(c)) {
        return false;
    }
    MK_ASSERT(n->kind < sizeof table / sizeof table[0] && table[n->kind] != NULL);
    jval v;
    bool ok = table[n->kind](c, n, e, &v);
    if (ok) {
        *out = v;
    }
    c->depth--;
    return ok;
}
