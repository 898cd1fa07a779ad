// Random expressions and the trace that reduces them one operator at a time.
#include "expression.h"

#include <stdlib.h>
#include <string.h>

// --- expressions ---------------------------------------------------------------------------------

static void push(pz_expr *e, char kind, int32_t v) {
    e->tok[e->n++] = (pz_tok){kind, v};
    e->n_op += kind != 'n' && kind != '(' && kind != ')';
}

static char random_op(pz_rng *r) {
    int k = pz_below(r, 100);
    return k < 36 ? '+' : k < 68 ? '-' : '*';
}

// Do the parentheses of (op) matter on this side of `parent`?  Where they do not, a few stay.
static bool wants_parens(pz_rng *r, char parent, bool right, char op) {
    if (!parent) {
        return false;
    }
    bool looser = parent == '*' && op != '*';
    if (looser || (parent == '-' && right && op != '*')) {
        return true;
    }
    return pz_chance(r, right && (op == '*') == (parent == '*') ? 0.5 : 0.12);
}

static void grow(pz_expr *e, pz_rng *r, int n_op, char parent, bool right) {
    if (n_op == 0) {
        push(e, 'n', pz_chance(r, 0.25) ? pz_below(r, 10) : pz_below(r, 100));
        return;
    }
    char op = random_op(r);
    int n_left = pz_below(r, n_op);
    bool parens = wants_parens(r, parent, right, op);
    if (parens) {
        push(e, '(', 0);
    }
    grow(e, r, n_left, op, false);
    push(e, op, 0);
    grow(e, r, n_op - 1 - n_left, op, true);
    if (parens) {
        push(e, ')', 0);
    }
}

void pz_expr_random(pz_expr *e, pz_rng *r, int n_op) {
    e->n = e->n_op = 0;
    grow(e, r, n_op, 0, false);
}

void pz_expr_print(const pz_expr *e, mk_buf *out, const char *space) {
    for (int i = 0; i < e->n; i++) {
        char k = e->tok[i].kind;
        if (k == 'n') {
            mk_buf_printf(out, "%d", e->tok[i].v);
        } else if (k == '(' || k == ')') {
            mk_buf_putc(out, k);
        } else {
            mk_buf_printf(out, "%s%c%s", space, k, space);
        }
    }
}

int pz_expr_next(const pz_expr *e) {
    int to = 0, from, first = -1;
    while (to < e->n && e->tok[to].kind != ')') {
        to++;
    }
    for (from = to; from > 0 && e->tok[from - 1].kind != '('; from--) {
    }
    for (int i = from; i < to; i++) {
        if (e->tok[i].kind == '*') {
            return i;
        }
        first = first < 0 && e->tok[i].kind != 'n' ? i : first;
    }
    return first;
}

static void cut(pz_expr *e, int at, int n) {
    memmove(e->tok + at, e->tok + at + n, (size_t)(e->n - at - n) * sizeof e->tok[0]);
    e->n -= n;
}

void pz_expr_apply(pz_expr *e, int at, int32_t v) {
    e->tok[at - 1].v = v;
    cut(e, at, 2);
    e->n_op--;
    if (at >= 2 && at < e->n && e->tok[at - 2].kind == '(' && e->tok[at].kind == ')') {
        cut(e, at, 1);
        cut(e, at - 2, 1);
    }
}

// --- the trace -----------------------------------------------------------------------------------

typedef enum { AT_STEP, AT_COPY, AT_ORDER } slip_place;

typedef struct {
    pz_pen pen;
    pz_item *it;
    const pz_quality *q;
    pz_expr e;
    int step, slip_step;  // slip_step -1: none (left)
    slip_place place;
    pz_slip slip;
} trace;

static bool in_range(int64_t v) {
    return v >= -PZ_MAX_VALUE && v <= PZ_MAX_VALUE;
}

// The value, if every step of the way is in range.
static bool value_of(pz_expr e, int64_t *v) {
    while (e.n_op > 0) {
        int at = pz_expr_next(&e);
        *v = pz_compute(e.tok[at].kind, e.tok[at - 1].v, e.tok[at + 1].v);
        if (!in_range(*v)) {
            return false;
        }
        pz_expr_apply(&e, at, (int32_t)*v);
    }
    return true;
}

static void plan_slip(trace *t) {
    t->slip_step = -1;
    if (t->it->course != PZ_NOTICED && t->it->course != PZ_UNNOTICED) {
        return;
    }
    t->slip_step = pz_below(t->pen.rng, t->e.n_op);
    int k = pz_below(t->pen.rng, 100);
    t->place = k < 80 ? AT_STEP : k < 92 ? AT_COPY : AT_ORDER;
    k = pz_below(t->pen.rng, 100);
    t->slip = k < 70 ? PZ_SLIP_FACT : k < 85 ? PZ_SLIP_RESULT : PZ_SLIP_SIGN;
}

// A number with a digit changed or lost.
static int32_t misread(pz_rng *r, int32_t v) {
    int32_t a = abs(v), b = a >= 10 && pz_chance(r, 0.4) ? a / 10 : a - a % 10 + pz_below(r, 10);
    return v < 0 ? -b : b;
}

// The line with the whole expression.  false: the slip had no place, or a test item would be shown.
static bool write_line(trace *t) {
    mk_buf *out = t->pen.out;
    if (t->step == t->slip_step && t->place == AT_COPY) {
        pz_expr bad = t->e;
        int i = pz_below(t->pen.rng, bad.n);
        while (bad.tok[i].kind != 'n') {
            i = (i + 1) % bad.n;
        }
        bad.tok[i].v = misread(t->pen.rng, bad.tok[i].v);
        if (bad.tok[i].v == t->e.tok[i].v) {
            return false;
        }
        pz_expr_print(&bad, out, "");
        if (t->it->course == PZ_UNNOTICED) {
            mk_buf_putc(out, '\n');
            t->e = bad;
            return true;
        }
        mk_buf_puts(out, " wait\n");
    }
    size_t from = out->len;
    pz_expr_print(&t->e, out, "");
    if (!t->it->want_test && t->step > 0 &&
        pz_is_test("expression", out->data + from, out->len - from)) {
        return false;
    }
    mk_buf_putc(out, '\n');
    return true;
}

// Another operator between two numbers than the next one, or -1.
static int wrong_operator(const trace *t) {
    int next = pz_expr_next(&t->e), found = -1;
    for (int i = 1; i + 1 < t->e.n; i++) {
        const pz_tok *k = t->e.tok + i;
        bool op = k->kind == '+' || k->kind == '-' || k->kind == '*';
        if (i != next && op && k[-1].kind == 'n' && k[1].kind == 'n') {
            found = i;
        }
    }
    return found;
}

static bool write_right_step(trace *t, char op, int64_t a, int64_t b) {
    int64_t v = pz_write_step(&t->pen, op, a, b, PZ_NO_SLIP);
    mk_buf_putc(t->pen.out, '\n');
    return !pz_chance(t->pen.rng, t->q->check) || pz_write_check(&t->pen, op, a, b, v);
}

static bool write_step(trace *t) {
    bool slips = t->step == t->slip_step && t->place != AT_COPY;
    int at = slips && t->place == AT_ORDER ? wrong_operator(t) : pz_expr_next(&t->e);
    if (at < 0 || (slips && t->place == AT_ORDER && t->it->course == PZ_NOTICED)) {
        return false;  // an arithmetic check would not see a step out of order
    }
    char op = t->e.tok[at].kind;
    int64_t a = t->e.tok[at - 1].v, b = t->e.tok[at + 1].v, v = pz_compute(op, a, b);
    if (!in_range(v)) {
        return false;
    }
    if (slips && t->place == AT_STEP) {
        int64_t bad = pz_write_step(&t->pen, op, a, b, t->slip);
        mk_buf_putc(t->pen.out, '\n');
        if (bad == v || !in_range(bad)) {
            return false;
        }
        if (t->it->course == PZ_UNNOTICED) {
            pz_expr_apply(&t->e, at, (int32_t)bad);
            return true;
        }
        if (pz_write_check(&t->pen, op, a, b, bad)) {
            return false;  // casting out nines did not see it
        }
    }
    if (!write_right_step(t, op, a, b)) {
        return false;
    }
    pz_expr_apply(&t->e, at, (int32_t)v);
    return true;
}

static bool write_trace(trace *t) {
    plan_slip(t);
    for (; t->e.n_op > 0; t->step++) {
        if (t->e.n_op > 1 && !write_line(t)) {
            return false;
        }
        if (t->step == t->slip_step && t->place == AT_COPY && t->e.n_op == 1) {
            return false;  // the last step is a line of its own: nothing is copied
        }
        if (!write_step(t)) {
            return false;
        }
    }
    return true;
}

// --- the item ------------------------------------------------------------------------------------

static void write_prompt(pz_item *it, pz_rng *r, const pz_expr *e) {
    static const char *const phrase[][2] = {
        {"What is ", "?"},
        {"What is ", ""},
        {"Compute ", "."},
        {"Compute ", ""},
        {"Calculate ", "."},
        {"Calculate ", ""},
        {"Evaluate ", "."},
        {"How much is ", "?"},
        {"What's ", "?"},
        {"Work out ", "."},
        {"Solve ", ""},
        {"Please compute ", "."},
        {"Find the value of ", "."},
        {"Tell me ", "."},
        {"", " = ?"},
        {"", "=?"},
        {"", "="},
        {"", ""},
        {"", "?"},
        {"What is ", " ?"},
    };
    int k = pz_below(r, sizeof phrase / sizeof phrase[0]);
    mk_buf_puts(&it->prompt, phrase[k][0]);
    pz_expr_print(e, &it->prompt, pz_chance(r, 0.2) ? " " : "");
    mk_buf_puts(&it->prompt, phrase[k][1]);
}

bool pz_expression(pz_item *it, pz_rng *r, int n_op, const pz_quality *q, bool prompts_only) {
    trace t = {.pen = {&it->think, r, it->brief}, .it = it, .q = q};
    pz_expr_random(&t.e, r, n_op);
    it->countdown = false;
    it->n_op = n_op;
    if (!value_of(t.e, &it->value)) {
        return false;
    }
    pz_expr_print(&t.e, &it->text, "");
    if (pz_is_test("expression", it->text.data, it->text.len) != it->want_test) {
        return false;
    }
    write_prompt(it, r, &t.e);
    int64_t said = it->value;
    if (!prompts_only && it->course != PZ_DIRECT) {
        if (!write_trace(&t)) {
            return false;
        }
        said = t.e.tok[0].v;
    }
    mk_buf_printf(&it->answer, "%lld", (long long)said);
    it->right = said == it->value;
    return it->right == (it->course != PZ_UNNOTICED || prompts_only);
}
