// The for statement and its `loop` object.
//
// Items are pulled one at a time and at most one ahead (loop.last, loop.nextitem), as Jinja does,
// so a filter (for x in y if ...) sees the changes the body makes to namespaces. loop.length of
// something without a length pulls the rest into l->all. The else part runs when no iteration came
// to its end (so also after break in the first one).
#include <string.h>

#include "chat/jinja_int.h"

static bool pull(jctx *c, jloop *l, jval *out, bool *more) {
    const jnode *test = l->node->c->b;
    for (;;) {
        if (!mk_j_next(c, &l->it, out, more)) {
            return false;
        }
        if (!*more || test == NULL || l->all != NULL) {
            return true;
        }
        jenv scope = {.up = l->env};
        jval keep;
        if (!mk_j_assign(c, l->node->a, out, &scope) || !mk_j_eval(c, test, &scope, &keep)) {
            return false;
        }
        if (mk_j_truth(&keep)) {
            return true;
        }
    }
}

static bool peek(jctx *c, jloop *l) {
    bool more;
    if (l->has_after || l->exhausted) {
        return true;
    }
    if (!pull(c, l, &l->after, &more)) {
        return false;
    }
    l->has_after = more;
    l->exhausted = !more;
    return true;
}

bool mk_j_loop_next(jctx *c, jloop *l, jval *out, bool *more) {
    if (!peek(c, l)) {
        return false;
    }
    *more = l->has_after;
    if (*more) {
        l->index0++;
        l->before = l->current;
        l->current = l->after;
        l->has_after = false;
        *out = l->current;
    }
    return true;
}

// --- the loop object -----------------------------------------------------------------------------
static bool has_length(const jloop *l) {
    return l->node->c->b == NULL && l->items.kind != JV_GEN;
}

static bool loop_length(jctx *c, jloop *l, int64_t *out) {
    if (has_length(l)) {  // asked for once, as in Jinja: a list may grow while it is walked
        bool ok = l->length > 0 || mk_j_length(c, &l->items, &l->length);
        *out = l->length;
        return ok;
    }
    if (l->all == NULL) {
        jval rest, v;
        bool more = true;
        if (!mk_j_list_new(c, JV_LIST, 0, &rest)) {
            return false;
        }
        while (more && !l->exhausted) {
            if (!pull(c, l, &v, &more) || (more && !mk_j_list_push(c, rest.u.list, &v))) {
                return false;
            }
        }
        l->length = rest.u.list->n + l->index0 + 1 + l->has_after;
        l->all = rest.u.list;
        l->it = (jiter){.v = rest};
    }
    *out = l->length;
    return true;
}

static bool at_index(jctx *c, jloop *l, jval *out) {
    (void)c;
    *out = mk_j_int(l->index0 + 1);
    return true;
}

static bool at_index0(jctx *c, jloop *l, jval *out) {
    (void)c;
    *out = mk_j_int(l->index0);
    return true;
}

static bool at_revindex(jctx *c, jloop *l, jval *out) {
    int64_t n;
    *out = mk_j_int(0);
    return loop_length(c, l, &n) && (out->u.i = n - l->index0, true);
}

static bool at_revindex0(jctx *c, jloop *l, jval *out) {
    int64_t n;
    *out = mk_j_int(0);
    return loop_length(c, l, &n) && (out->u.i = n - l->index0 - 1, true);
}

static bool at_length(jctx *c, jloop *l, jval *out) {
    *out = mk_j_int(0);
    return loop_length(c, l, &out->u.i);
}

static bool at_first(jctx *c, jloop *l, jval *out) {
    (void)c;
    *out = mk_j_bool(l->index0 == 0);
    return true;
}

static bool at_last(jctx *c, jloop *l, jval *out) {
    bool ok = peek(c, l);
    *out = mk_j_bool(!l->has_after);
    return ok;
}

static bool at_previtem(jctx *c, jloop *l, jval *out) {
    (void)c;
    *out = l->index0 == 0 ? mk_j_hint("there is no previous item") : l->before;
    return true;
}

static bool at_nextitem(jctx *c, jloop *l, jval *out) {
    bool ok = peek(c, l);
    *out = l->has_after ? l->after : mk_j_hint("there is no next item");
    return ok;
}

static bool at_depth(jctx *c, jloop *l, jval *out) {
    (void)c;
    *out = mk_j_int(l->depth0 + 1);
    return true;
}

static bool at_depth0(jctx *c, jloop *l, jval *out) {
    (void)c;
    *out = mk_j_int(l->depth0);
    return true;
}

static const struct {
    const char *name;
    bool (*get)(jctx *c, jloop *l, jval *out);
} attrs[] = {
    {"index", at_index},       {"index0", at_index0},     {"first", at_first},
    {"last", at_last},         {"length", at_length},     {"previtem", at_previtem},
    {"nextitem", at_nextitem}, {"revindex", at_revindex}, {"revindex0", at_revindex0},
    {"depth", at_depth},       {"depth0", at_depth0},
};

bool mk_j_loop_attr(jctx *c, jloop *l, jtext name, jval *out) {
    for (size_t i = 0; i < sizeof attrs / sizeof attrs[0]; i++) {
        if (mk_j_text_is(name, attrs[i].name)) {
            return attrs[i].get(c, l, out);
        }
    }
    const jop *op = mk_j_find_method(JV_LOOP, name);
    if (op == NULL) {
        *out = mk_j_undef(JU_ATTR, JV_LOOP, name);
        return true;
    }
    jmethod *m = mk_j_alloc(c, 1, sizeof *m);
    if (m == NULL) {
        return false;
    }
    *m = (jmethod){(jval){.kind = JV_LOOP, .u.loop = l}, op};
    *out = (jval){.kind = JV_METHOD, .u.method = m};
    return true;
}

// loop(items) inside a recursive loop: the text of the whole loop over other items.
bool mk_j_loop_call(jctx *c, jloop *l, const jargs *args, jval *out) {
    jflow flow = JFLOW_NEXT;
    jsb b, *outer = c->capture;
    if (!l->node->op) {
        return mk_j_raise(c, "The loop must have the 'recursive' marker to be called recursively.");
    }
    if (args->n_pos != 1 || args->n_kw != 0) {
        return mk_j_raise(c, "loop() takes one argument");
    }
    mk_j_sb_init(&b);
    c->capture = &b;
    bool ok =
        mk_j_enter(c) && mk_j_loop_run(c, l->node, &args->pos[0], l->env, l->depth0 + 1, &flow);
    c->capture = outer;
    c->depth--;
    *out = mk_j_sb_done(&b);
    return ok;
}

// --- the statement -------------------------------------------------------------------------------
static bool run_body(jctx *c, jloop *l, const jval *item, jenv *e, jflow *flow) {
    jval self = {.kind = JV_LOOP, .u.loop = l};
    e->n = 0;  // a fresh scope for every iteration, in the same memory
    *flow = JFLOW_NEXT;
    return mk_j_bind(c, e, JSYM_LOOP, &self) && mk_j_assign(c, l->node->a, item, e) &&
           mk_j_exec(c, l->node->c->a, e, flow);
}

bool mk_j_loop_run(jctx *c, const jnode *n, const jval *items, jenv *e, int64_t depth0,
                   jflow *flow) {
    jloop *l = mk_j_alloc(c, 1, sizeof *l);
    jenv *inner = l != NULL ? mk_j_alloc(c, 1, sizeof *inner) : NULL;
    bool more = true, completed = false;
    jval item;
    if (inner == NULL || !mk_j_iter(c, items, &l->it)) {
        return false;
    }
    inner->up = e;
    l->items = *items;
    l->node = n;
    l->env = e;
    l->index0 = -1;
    l->depth0 = depth0;
    for (;;) {
        if (!mk_j_loop_next(c, l, &item, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (!run_body(c, l, &item, inner, flow)) {
            return false;
        }
        completed = completed || *flow == JFLOW_NEXT;
        if (*flow == JFLOW_BREAK) {
            break;
        }
    }
    *flow = JFLOW_NEXT;
    return completed || n->c->c == NULL || mk_j_exec(c, n->c->c, e, flow);
}
