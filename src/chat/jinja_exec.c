// Statements, loops and the entry points of rendering.
//
// Scopes: a loop body, a macro, a set/filter/call/with block have one of their own; if has none.
// Reading walks outwards through the scopes of the text (not of the calls); setting always writes
// the innermost. That is what Jinja's compiled templates do.
#include <string.h>

#include "chat/jinja_int.h"

typedef bool (*exec_fn)(jctx *c, const jnode *n, jenv *e, jflow *flow);

// --- output --------------------------------------------------------------------------------------
static bool add_run(jctx *c, size_t n, bool user) {
    mk_jinja_text *t = c->out;
    size_t end = t->text.len;
    if (n == 0) {
        return true;
    }
    if (t->n_runs > 0 && t->runs[t->n_runs - 1].user == user) {
        t->runs[t->n_runs - 1].end = end;
        return true;
    }
    if (t->n_runs == t->cap_runs) {
        size_t cap = t->cap_runs == 0 ? 32 : t->cap_runs * 2;
        mk_jinja_run *runs = mk_try_realloc(t->runs, cap, sizeof *runs);
        if (runs == NULL) {
            return mk_j_nomem(c);
        }
        t->runs = runs;
        t->cap_runs = cap;
    }
    t->runs[t->n_runs++] = (mk_jinja_run){end, user};
    return true;
}

static bool out_add(jctx *c, const char *p, size_t n, bool user) {
    mk_buf *b = &c->out->text;
    if (n > c->lim.max_output_bytes || b->len > c->lim.max_output_bytes - n) {
        return mk_j_limit(c, "the output is larger than allowed");
    }
    mk_buf_add(b, p, n);
    return b->failed ? mk_j_nomem(c) : add_run(c, n, user);
}

bool mk_j_emit(jctx *c, const jval *s) {
    if (c->capture != NULL) {
        return mk_j_sb_val(c, c->capture, s);
    }
    if (!mk_j_steps(c, s->n / 256)) {
        return false;
    }
    if (s->tag == NULL || s->tag == mk_j_user) {
        return out_add(c, s->u.p, s->n, s->tag != NULL);
    }
    for (uint32_t from = 0; from < s->n;) {
        uint32_t to = from + 1;
        while (to < s->n && s->tag[to] == s->tag[from]) {
            to++;
        }
        if (!out_add(c, s->u.p + from, to - from, s->tag[from] != 0)) {
            return false;
        }
        from = to;
    }
    return true;
}

bool mk_j_capture(jctx *c, const jnode *list, jenv *e, jval *out) {
    jsb b, *outer = c->capture;
    jflow flow = JFLOW_NEXT;
    mk_j_sb_init(&b);
    c->capture = &b;
    bool ok = mk_j_exec(c, list, e, &flow);
    c->capture = outer;
    if (ok) {
        *out = mk_j_sb_done(&b);
    }
    return ok;
}

// --- scopes --------------------------------------------------------------------------------------
static jenv *env_new(jctx *c, jenv *up) {
    jenv *e = mk_j_alloc(c, 1, sizeof *e);
    if (e != NULL) {
        e->up = up;
    }
    return e;
}

bool mk_j_bind(jctx *c, jenv *e, int32_t sym, const jval *v) {
    for (uint32_t i = 0; i < e->n; i++) {
        if (e->v[i].sym == sym) {
            e->v[i].v = *v;
            return true;
        }
    }
    if (e->n == e->cap) {
        uint32_t cap = e->cap == 0 ? 4 : e->cap * 2;
        jbind *grown = mk_j_alloc(c, cap, sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        if (e->n > 0) {
            memcpy(grown, e->v, e->n * sizeof *grown);
        }
        e->v = grown;
        e->cap = cap;
    }
    e->v[e->n++] = (jbind){sym, *v};
    return true;
}

static bool assign_many(jctx *c, const jnode *target, const jval *v, jenv *e) {
    jval items;
    uint32_t want = 0, i = 0;
    if (!mk_j_iterable(v)) {
        return mk_j_raise(c, "cannot unpack non-iterable %s object", mk_j_type_name(v));
    }
    if (!mk_j_to_list(c, v, &items)) {
        return false;
    }
    for (const jnode *k = target->a; k != NULL; k = k->next) {
        want++;
    }
    if (items.u.list->n > want) {
        return mk_j_raise(c, "too many values to unpack (expected %u)", want);
    }
    if (items.u.list->n < want) {
        return mk_j_raise(c, "not enough values to unpack (expected %u, got %u)", want,
                          items.u.list->n);
    }
    for (const jnode *k = target->a; k != NULL; k = k->next) {
        if (!mk_j_assign(c, k, &items.u.list->v[i++], e)) {
            return false;
        }
    }
    return true;
}

static bool assign_namespace(jctx *c, const jnode *target, const jval *v, const jenv *e) {
    const jval *ns = mk_j_lookup(e, target->sym);
    jtext name = target->v.text;
    if (ns == NULL || ns->kind != JV_NS) {
        return mk_j_raise(c, "cannot assign attribute on non-namespace object");
    }
    if (name.p[0] == '_') {
        return mk_j_raise(c,
                          "Chat templates cannot store underscore-prefixed attributes on a "
                          "namespace, but got '%.*s'.",
                          (int)name.n, name.p);
    }
    jval key = mk_j_str(name.p, name.n, NULL);
    return mk_j_dict_set(c, ns->u.dict, &key, v);
}

bool mk_j_assign(jctx *c, const jnode *target, const jval *v, jenv *e) {
    if (target->kind == JN_NAME) {
        return mk_j_bind(c, e, target->sym, v);
    }
    return target->kind == JN_NSREF ? assign_namespace(c, target, v, e)
                                    : assign_many(c, target, v, e);
}

// --- simple statements ---------------------------------------------------------------------------
static bool ex_data(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)e, (void)flow;
    jval s = mk_j_str(n->v.text.p, n->v.text.n, NULL);
    return mk_j_emit(c, &s);
}

static bool ex_output(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)flow;
    jval v, s;
    return mk_j_eval(c, n->a, e, &v) && mk_j_to_str(c, &v, &s) && mk_j_emit(c, &s);
}

static bool ex_if(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    jval test;
    for (;;) {
        c->line = n->line;
        if (!mk_j_eval(c, n->a, e, &test)) {
            return false;
        }
        if (mk_j_truth(&test)) {
            return mk_j_exec(c, n->b, e, flow);
        }
        if (!n->op) {
            return mk_j_exec(c, n->c, e, flow);
        }
        n = n->c;
    }
}

static bool ex_set(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)flow;
    jval v;
    return mk_j_eval(c, n->b, e, &v) && mk_j_assign(c, n->a, &v, e);
}

// Runs the body in its own scope, then the filters over its text.
static bool block_text(jctx *c, const jnode *n, jenv *e, jval *out) {
    jenv *inner = env_new(c, e);
    if (inner == NULL || !mk_j_capture(c, n->c, inner, out)) {
        return false;
    }
    if (n->b == NULL) {
        return true;
    }
    jval outer = c->block_text;
    c->block_text = *out;
    bool ok = mk_j_eval(c, n->b, e, out);
    c->block_text = outer;
    return ok;
}

static bool ex_setblock(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)flow;
    jval v;
    return block_text(c, n, e, &v) && mk_j_assign(c, n->a, &v, e);
}

static bool ex_filterblock(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)flow;
    jval v, s;
    return block_text(c, n, e, &v) && mk_j_to_str(c, &v, &s) && mk_j_emit(c, &s);
}

static bool ex_macro(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)flow;
    jmacro *m = mk_j_alloc(c, 1, sizeof *m);
    if (m == NULL) {
        return false;
    }
    *m = (jmacro){n, e};
    jval v = {.kind = JV_MACRO, .u.macro = m};
    return mk_j_bind(c, e, n->sym, &v);
}

static bool ex_callblock(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)flow;
    jval v, s;
    return mk_j_call_block(c, n, e, &v) && mk_j_to_str(c, &v, &s) && mk_j_emit(c, &s);
}

static bool ex_with(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    jenv *inner = env_new(c, e);
    jval v;
    for (const jnode *k = n->a; inner != NULL && k != NULL; k = k->next->next) {
        // the values see the scope outside
        if (!mk_j_eval(c, k->next, e, &v) || !mk_j_assign(c, k, &v, inner)) {
            return false;
        }
    }
    return inner != NULL && mk_j_exec(c, n->c, inner, flow);
}

static bool ex_scope(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    jenv *inner = env_new(c, n->kind == JN_BLOCK ? c->root : e);
    return inner != NULL && mk_j_exec(c, n->c, inner, flow);
}

static bool ex_break(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)c, (void)e;
    *flow = n->kind == JN_BREAK ? JFLOW_BREAK : JFLOW_CONTINUE;
    return true;
}

static bool ex_unavailable(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    (void)e, (void)flow;
    return mk_j_raise(c, "'%.*s' is not available: a chat template stands alone", (int)n->v.text.n,
                      n->v.text.p);
}

static bool ex_for(jctx *c, const jnode *n, jenv *e, jflow *flow) {
    jval items;
    return mk_j_eval(c, n->b, e, &items) && mk_j_loop_run(c, n, &items, e, 0, flow);
}

static const exec_fn table[] = {
    [JN_DATA] = ex_data,
    [JN_OUTPUT] = ex_output,
    [JN_IF] = ex_if,
    [JN_FOR] = ex_for,
    [JN_SET] = ex_set,
    [JN_SETBLOCK] = ex_setblock,
    [JN_MACRO] = ex_macro,
    [JN_CALLBLOCK] = ex_callblock,
    [JN_FILTERBLOCK] = ex_filterblock,
    [JN_WITH] = ex_with,
    [JN_SCOPE] = ex_scope,
    [JN_BLOCK] = ex_scope,
    [JN_BREAK] = ex_break,
    [JN_CONTINUE] = ex_break,
    [JN_UNAVAILABLE] = ex_unavailable,
};

bool mk_j_exec(jctx *c, const jnode *list, jenv *e, jflow *flow) {
    if (!mk_j_enter(c)) {
        return false;
    }
    for (const jnode *n = list; n != NULL && *flow == JFLOW_NEXT; n = n->next) {
        MK_ASSERT(n->kind < sizeof table / sizeof table[0] && table[n->kind] != NULL);
        c->line = n->line;
        if (!mk_j_step(c) || !table[n->kind](c, n, e, flow)) {
            return false;
        }
    }
    c->depth--;
    return true;
}

// --- entry points --------------------------------------------------------------------------------
void mk_jinja_text_free(mk_jinja_text *t) {
    if (t != NULL) {
        mk_buf_free(&t->text);
        mk_free(t->runs);
        *t = (mk_jinja_text){0};
    }
}

// Only the names the template mentions are imported.
static bool bind_vars(jctx *c) {
    for (int32_t i = 0; i < c->tpl->n_sym; i++) {
        jtext name = c->tpl->sym[i];
        const json_t *v = json_object_getn(c->vars->model, name.p, name.n);
        bool user = v == NULL;
        if (user) {
            v = json_object_getn(c->vars->user, name.p, name.n);
        }
        jval val;
        if (v != NULL &&
            (!mk_j_from_json(c, v, user, 0, &val) || !mk_j_bind(c, c->root, i, &val))) {
            return false;
        }
    }
    return true;
}

static void set_limits(jctx *c, const mk_jinja_limits *limits) {
    c->lim = limits != NULL ? *limits : (mk_jinja_limits){0};
    c->lim.max_steps = c->lim.max_steps == 0 ? 1000000 : c->lim.max_steps;
    c->lim.max_output_bytes =
        c->lim.max_output_bytes == 0 ? (size_t)64 << 20 : c->lim.max_output_bytes;
    c->lim.max_time_ms = c->lim.max_time_ms == 0 ? 5000 : c->lim.max_time_ms;
    c->lim.now = c->lim.now == 0 ? 1721952000 : c->lim.now;  // 2024-07-26
}

mk_status mk_jinja_render_text(const mk_jinja *j, const mk_jinja_vars *vars,
                               const mk_jinja_limits *limits, mk_jinja_text *out, mk_err *err) {
    jctx c = {.tpl = j, .vars = vars, .out = out, .err = err, .line = 1};
    jflow flow = JFLOW_NEXT;
    set_limits(&c, limits);
    *out = (mk_jinja_text){0};
    mk_buf_init(&out->text, c.lim.max_output_bytes + 1);
    c.arena = mk_arena_create(32768, 0);
    if (c.arena == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "chat template: out of memory");
    }
    c.root = env_new(&c, NULL);
    bool ok = c.root != NULL && bind_vars(&c) && mk_j_exec(&c, j->body, c.root, &flow);
    mk_arena_destroy(c.arena);
    if (!ok) {
        mk_jinja_text_free(out);
    }
    return c.status;
}

mk_status mk_jinja_render(const mk_jinja *j, const json_t *vars, const mk_jinja_limits *limits,
                          mk_buf *out, mk_err *err) {
    mk_jinja_text t;
    MK_TRY(mk_jinja_render_text(j, &(mk_jinja_vars){.model = vars}, limits, &t, err));
    mk_buf_add(out, t.text.data != NULL ? t.text.data : "", t.text.len);
    mk_jinja_text_free(&t);
    return out->failed ? MK_FAIL(err, MK_ENOMEM,
                                 "chat template: the rendered text does not fit in the buffer")
                       : MK_OK;
}
