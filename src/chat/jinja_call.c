// Calls: arguments, macros, bound methods, and the global functions of chat templates.
#include <string.h>
#include <time.h>

#include "chat/jinja_int.h"

// --- arguments -----------------------------------------------------------------------------------
static bool push_pos(jctx *c, jargs *a, uint32_t *cap, const jval *v) {
    if (a->n_pos == *cap) {
        uint32_t grown = *cap == 0 ? 4 : *cap * 2;
        jval *p = mk_j_alloc(c, grown, sizeof *p);
        if (p == NULL) {
            return false;
        }
        if (a->n_pos > 0) {
            memcpy(p, a->pos, a->n_pos * sizeof *p);
        }
        a->pos = p;
        *cap = grown;
    }
    a->pos[a->n_pos++] = *v;
    return mk_j_step(c);
}

static bool push_kw(jctx *c, jargs *a, jtext name, const jval *v) {
    for (uint32_t i = 0; i < a->n_kw; i++) {
        if (mk_j_text_eq(a->kw_name[i], name)) {
            return mk_j_raise(c, "got multiple values for keyword argument '%.*s'", (int)name.n,
                              name.p);
        }
    }
    if ((a->n_kw & (a->n_kw - 1)) == 0) {  // 0, 1, 2, 4, 8 ...: full
        uint32_t cap = a->n_kw == 0 ? 1 : a->n_kw * 2;
        jtext *names = mk_j_alloc(c, cap, sizeof *names);
        jval *vals = names != NULL ? mk_j_alloc(c, cap, sizeof *vals) : NULL;
        if (vals == NULL) {
            return false;
        }
        if (a->n_kw > 0) {
            memcpy(names, a->kw_name, a->n_kw * sizeof *names);
            memcpy(vals, a->kw, a->n_kw * sizeof *vals);
        }
        a->kw_name = names;
        a->kw = vals;
    }
    a->kw_name[a->n_kw] = name;
    a->kw[a->n_kw++] = *v;
    return mk_j_steps(c, 1 + a->n_kw / 8);
}

static bool spread(jctx *c, jargs *a, uint32_t *cap, const jval *v) {
    jiter it;
    jval item;
    bool more = true;
    if (!mk_j_iter(c, v, &it)) {
        return false;
    }
    while (more) {
        if (!mk_j_next(c, &it, &item, &more) || (more && !push_pos(c, a, cap, &item))) {
            return false;
        }
    }
    return true;
}

static bool spread_kw(jctx *c, jargs *a, const jval *v) {
    if (v->kind != JV_DICT) {
        return mk_j_raise(c, "argument after ** must be a mapping, not %s", mk_j_type_name(v));
    }
    for (uint32_t i = 0; i < v->u.dict->n; i++) {
        const jval *k = &v->u.dict->e[i].key;
        if (k->kind != JV_STR) {
            return mk_j_raise(c, "keywords must be strings");
        }
        if (!push_kw(c, a, (jtext){k->u.p, k->n}, &v->u.dict->e[i].val)) {
            return false;
        }
    }
    return true;
}

bool mk_j_eval_args(jctx *c, const jnode *args, jenv *e, jargs *out) {
    uint32_t cap = 0;
    *out = (jargs){0};
    for (const jnode *n = args; n != NULL; n = n->next) {
        bool wrapped = n->kind == JN_KWARG || n->kind == JN_STAR || n->kind == JN_STARSTAR;
        jval v;
        if (!mk_j_eval(c, wrapped ? n->a : n, e, &v)) {
            return false;
        }
        bool ok = n->kind == JN_KWARG      ? push_kw(c, out, n->v.text, &v)
                  : n->kind == JN_STAR     ? spread(c, out, &cap, &v)
                  : n->kind == JN_STARSTAR ? spread_kw(c, out, &v)
                                           : push_pos(c, out, &cap, &v);
        if (!ok) {
            return false;
        }
    }
    return true;
}

// Position of the parameter `name` in "a,b,c", -1 if there is none.
static int param_index(const char *params, jtext name) {
    int k = 0;
    for (const char *p = params; *p != 0; k++) {
        size_t n = strcspn(p, ",");
        if (n == name.n && memcmp(p, name.p, n) == 0) {
            return k;
        }
        p += n + (p[n] == ',');
    }
    return -1;
}

static int param_count(const char *params) {
    int n = params[0] != 0;
    for (const char *p = params; *p != 0; p++) {
        n += *p == ',';
    }
    return n;
}

bool mk_j_apply(jctx *c, const jop *op, const char *what, const jval *self, const jargs *args,
                jval *out) {
    jval a[MK_J_MAX_PARAMS];
    if (op->params[0] == '*') {
        return op->fn(c, self, NULL, args, out);
    }
    int n = param_count(op->params);
    MK_ASSERT(n <= MK_J_MAX_PARAMS);
    for (int i = 0; i < MK_J_MAX_PARAMS; i++) {
        a[i] = (jval){.kind = JV_MISSING};
    }
    if (args->n_pos > (uint32_t)n) {
        return mk_j_raise(c, "%s '%s' takes at most %d arguments, got %u", what, op->name, n,
                          args->n_pos);
    }
    for (uint32_t i = 0; i < args->n_pos; i++) {
        a[i] = args->pos[i];
    }
    for (uint32_t i = 0; i < args->n_kw; i++) {
        int k = param_index(op->params, args->kw_name[i]);
        if (k < 0 || a[k].kind != JV_MISSING) {
            return mk_j_raise(c, "%s '%s' got an unexpected keyword argument '%.*s'", what,
                              op->name, (int)args->kw_name[i].n, args->kw_name[i].p);
        }
        a[k] = args->kw[i];
    }
    for (int i = 0; i < op->n_required; i++) {
        if (a[i].kind == JV_MISSING) {
            return mk_j_raise(c, "%s '%s' needs %d arguments", what, op->name, op->n_required);
        }
    }
    return op->fn(c, self, a, args, out);
}

// --- macros --------------------------------------------------------------------------------------
typedef struct {
    const jargs *args;
    uint8_t *kw_used;
} macro_args;

static bool macro_param(jctx *c, const jnode *param, uint32_t i, macro_args *m, jenv *e) {
    const jargs *args = m->args;
    jtext name = c->tpl->sym[param->sym];
    if (i < args->n_pos) {
        return mk_j_bind(c, e, param->sym, &args->pos[i]);
    }
    for (uint32_t k = 0; k < args->n_kw; k++) {
        if (mk_j_text_eq(args->kw_name[k], name)) {
            m->kw_used[k] = 1;
            return mk_j_bind(c, e, param->sym, &args->kw[k]);
        }
    }
    jval v;
    if (param->a != NULL) {
        return mk_j_eval(c, param->a, e, &v) && mk_j_bind(c, e, param->sym, &v);
    }
    jsb b;
    mk_j_sb_init(&b);
    if (!mk_j_sb_puts(c, &b, "parameter '", NULL) || !mk_j_sb_add(c, &b, name.p, name.n, NULL) ||
        !mk_j_sb_puts(c, &b, "' was not provided", NULL)) {
        return false;
    }
    v = mk_j_undef(JU_HINT, JV_NONE, (jtext){b.p, b.n});
    return mk_j_bind(c, e, param->sym, &v);
}

static bool macro_caller(jctx *c, const jnode *node, macro_args *m, jenv *e) {
    for (const jnode *p = node->a; p != NULL; p = p->next) {
        if (p->sym == JSYM_CALLER) {
            return true;
        }
    }
    for (uint32_t k = 0; k < m->args->n_kw; k++) {
        if (mk_j_text_is(m->args->kw_name[k], "caller")) {
            m->kw_used[k] = 1;
            return mk_j_bind(c, e, JSYM_CALLER, &m->args->kw[k]);
        }
    }
    jval none = mk_j_hint("No caller defined");
    return mk_j_bind(c, e, JSYM_CALLER, &none);
}

// What is left over goes to kwargs and varargs, if the macro mentions them; else it is an error.
static bool macro_rest(jctx *c, const jnode *node, uint32_t n_params, const macro_args *m,
                       jenv *e) {
    const jargs *args = m->args;
    jtext name = c->tpl->sym[node->sym];
    jval kwargs, varargs;
    if (!mk_j_dict_new(c, JV_DICT, 0, &kwargs) || !mk_j_list_new(c, JV_TUPLE, 0, &varargs)) {
        return false;
    }
    for (uint32_t k = 0; k < args->n_kw; k++) {
        if (m->kw_used[k]) {
            continue;
        }
        jval key = mk_j_str(args->kw_name[k].p, args->kw_name[k].n, NULL);
        if ((node->op & JMACRO_KWARGS) == 0) {
            return mk_j_raise(c, "macro '%.*s' takes no keyword argument '%.*s'", (int)name.n,
                              name.p, (int)key.n, key.u.p);
        }
        if (!mk_j_dict_set(c, kwargs.u.dict, &key, &args->kw[k])) {
            return false;
        }
    }
    if (args->n_pos > n_params && (node->op & JMACRO_VARARGS) == 0) {
        return mk_j_raise(c, "macro '%.*s' takes not more than %u argument(s)", (int)name.n, name.p,
                          n_params);
    }
    for (uint32_t i = n_params; i < args->n_pos; i++) {
        if (!mk_j_list_push(c, varargs.u.list, &args->pos[i])) {
            return false;
        }
    }
    return ((node->op & JMACRO_KWARGS) == 0 || mk_j_bind(c, e, JSYM_KWARGS, &kwargs)) &&
           ((node->op & JMACRO_VARARGS) == 0 || mk_j_bind(c, e, JSYM_VARARGS, &varargs));
}

static bool call_macro(jctx *c, const jmacro *macro, const jargs *args, jval *out) {
    const jnode *node = macro->node;
    jenv *e = mk_j_alloc(c, 1, sizeof *e);
    macro_args m = {args, mk_j_alloc(c, args->n_kw + 1, 1)};
    uint32_t n_params = 0;
    int32_t line = c->line;
    if (e == NULL || m.kw_used == NULL) {
        return false;
    }
    e->up = macro->env;
    if ((node->op & JMACRO_CALLER) != 0 && !macro_caller(c, node, &m, e)) {
        return false;
    }
    for (const jnode *p = node->a; p != NULL; p = p->next) {
        if (!macro_param(c, p, n_params++, &m, e)) {
            return false;
        }
    }
    if (!macro_rest(c, node, n_params, &m, e) || !mk_j_capture(c, node->c, e, out)) {
        return false;
    }
    c->line = line;
    return true;
}

// --- global functions ----------------------------------------------------------------------------
static bool fn_range(jctx *c, const jval *self, const jval *a, const jargs *args, jval *out) {
    (void)self, (void)args;
    int64_t v[3] = {0, 0, 1}, n = 0;
    for (int i = 0; i < 3; i++) {
        if (a[i].kind == JV_UNDEF) {
            return mk_j_undef_error(c, &a[i]);
        }
        if (a[i].kind != JV_MISSING && !mk_j_as_int(&a[i], &v[n++])) {
            return mk_j_raise(c, "'%s' object cannot be interpreted as an integer",
                              mk_j_type_name(&a[i]));
        }
    }
    int64_t start = n == 1 ? 0 : v[0], stop = n == 1 ? v[0] : v[1], step = v[2];
    if (step == 0) {
        return mk_j_raise(c, "range() arg 3 must not be zero");
    }
    // in unsigned arithmetic: the distance of two int64 always fits
    uint64_t span = 0, stride = step > 0 ? (uint64_t)step : (uint64_t)0 - (uint64_t)step;
    if (step > 0 ? start < stop : start > stop) {
        span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    }
    uint64_t count = span == 0 ? 0 : (span - 1) / stride + 1;
    if (count > MK_J_MAX_RANGE) {
        return mk_j_raise(c, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                          MK_J_MAX_RANGE);
    }
    jrange *r = mk_j_alloc(c, 1, sizeof *r);
    if (r == NULL) {
        return false;
    }
    *r = (jrange){start, stop, step, (int64_t)count};
    *out = (jval){.kind = JV_RANGE, .u.range = r};
    return true;
}

static bool fill_pair(jctx *c, jdict *d, const jval *pair) {
    jval items;
    if (!mk_j_to_list(c, pair, &items)) {
        return false;
    }
    if (items.u.list->n != 2) {
        return mk_j_raise(c, "dictionary update sequence element has length %u; 2 is required",
                          items.u.list->n);
    }
    return mk_j_dict_set(c, d, &items.u.list->v[0], &items.u.list->v[1]);
}

// dict(mapping or pairs, name=value...); the same for namespace().
static bool fill_dict(jctx *c, jdict *d, const jargs *args) {
    if (args->n_pos > 1) {
        return mk_j_raise(c, "dict expected at most 1 argument, got %u", args->n_pos);
    }
    if (args->n_pos == 1 && args->pos[0].kind == JV_DICT) {
        const jdict *from = args->pos[0].u.dict;
        for (uint32_t i = 0; i < from->n; i++) {
            if (!mk_j_dict_set(c, d, &from->e[i].key, &from->e[i].val)) {
                return false;
            }
        }
    } else if (args->n_pos == 1) {
        jiter it;
        jval item;
        bool more = true;
        if (!mk_j_iter(c, &args->pos[0], &it)) {
            return false;
        }
        while (more) {
            if (!mk_j_next(c, &it, &item, &more) || (more && !fill_pair(c, d, &item))) {
                return false;
            }
        }
    }
    for (uint32_t i = 0; i < args->n_kw; i++) {
        jval key = mk_j_str(args->kw_name[i].p, args->kw_name[i].n, NULL);
        if (!mk_j_dict_set(c, d, &key, &args->kw[i])) {
            return false;
        }
    }
    return true;
}

static bool fn_dict(jctx *c, const jval *self, const jval *a, const jargs *args, jval *out) {
    (void)self, (void)a;
    return mk_j_dict_new(c, JV_DICT, 0, out) && fill_dict(c, out->u.dict, args);
}

static bool fn_namespace(jctx *c, const jval *self, const jval *a, const jargs *args, jval *out) {
    (void)self, (void)a;
    if (!mk_j_dict_new(c, JV_NS, 0, out) || !fill_dict(c, out->u.dict, args)) {
        return false;
    }
    for (uint32_t i = 0; i < out->u.dict->n; i++) {
        const jval *k = &out->u.dict->e[i].key;
        if (k->kind == JV_STR && k->n > 0 && k->u.p[0] == '_') {
            return mk_j_raise(c,
                              "Chat templates cannot store underscore-prefixed attributes on a "
                              "namespace, but got "
                              "'%.*s'.",
                              (int)(k->n > 100 ? 100 : k->n), k->u.p);
        }
    }
    return true;
}

static bool fn_raise(jctx *c, const jval *self, const jval *a, const jargs *args, jval *out) {
    (void)self, (void)args, (void)out;
    jval s;
    if (!mk_j_to_str(c, &a[0], &s)) {
        return false;
    }
    return mk_j_raise(c, "%.*s", (int)(s.n > 600 ? 600 : s.n), s.u.p);
}

static bool fn_strftime(jctx *c, const jval *self, const jval *a, const jargs *args, jval *out) {
    (void)self, (void)args;
    char fmt[128], text[512];
    struct tm tm;
    time_t t = (time_t)c->lim.now;
    if (a[0].kind != JV_STR || a[0].n >= sizeof fmt) {
        return mk_j_raise(c, "strftime_now needs a format of at most 127 bytes");
    }
    memcpy(fmt, a[0].u.p, a[0].n);
    fmt[a[0].n] = 0;
    if (gmtime_r(&t, &tm) == NULL) {
        return mk_j_raise(c, "strftime_now: the date is out of range");
    }
    size_t n = fmt[0] != 0 ? strftime(text, sizeof text, fmt, &tm) : 0;
    jsb b;
    mk_j_sb_init(&b);
    if (!mk_j_sb_add(c, &b, text, n, NULL)) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    return true;
}

static const jop globals[] = {
    {"range", fn_range, "a,b,c", 1},
    {"dict", fn_dict, "*", 0},
    {"namespace", fn_namespace, "*", 0},
    {"raise_exception", fn_raise, "message", 1},
    {"strftime_now", fn_strftime, "format", 1},
};

int mk_j_global(jtext name) {
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++) {
        if (mk_j_text_is(name, globals[i].name)) {
            return (int)i;
        }
    }
    return -1;
}

// --- calls ---------------------------------------------------------------------------------------
bool mk_j_call(jctx *c, const jval *f, const jargs *args, jval *out) {
    bool ok;
    if (!mk_j_enter(c)) {
        return false;
    }
    switch ((jval_kind)f->kind) {
    case JV_MACRO:
        ok = call_macro(c, f->u.macro, args, out);
        break;
    case JV_FUNC:
        ok = mk_j_apply(c, &globals[f->u.i], "function", f, args, out);
        break;
    case JV_METHOD:
        ok = mk_j_apply(c, f->u.method->op, "method", &f->u.method->self, args, out);
        break;
    case JV_LOOP:
        ok = mk_j_loop_call(c, f->u.loop, args, out);
        break;
    case JV_UNDEF:
        return mk_j_undef_error(c, f);
    default:
        return mk_j_raise(c, "'%s' object is not callable", mk_j_type_name(f));
    }
    c->depth--;
    return ok;
}

bool mk_j_eval_call(jctx *c, const jnode *n, jenv *e, const jval *caller, jval *out) {
    jval f;
    jargs args;
    if (!mk_j_eval(c, n->a, e, &f) || !mk_j_eval_args(c, n->b, e, &args) ||
        (caller != NULL && !push_kw(c, &args, JTEXT("caller"), caller))) {
        return false;
    }
    return mk_j_call(c, &f, &args, out);
}

bool mk_j_call_block(jctx *c, const jnode *n, jenv *e, jval *out) {
    jmacro *m = mk_j_alloc(c, 1, sizeof *m);
    if (m == NULL) {
        return false;
    }
    *m = (jmacro){n->b, e};
    jval caller = {.kind = JV_MACRO, .u.macro = m};
    return mk_j_eval_call(c, n->a, e, &caller, out);
}
