// The verifier's half for Countdown.  It knows which puzzle is being searched (the item, or what a
// guess left of it) and what the lines of that search must say.
#include <stdlib.h>
#include <string.h>

#include "verify_int.h"

enum { MAX_SEEN = 16 };

typedef struct {
    const pz_puzzle *item;
    pz_puzzle now;                // what is searched
    int64_t want[3];              // of the line that is searched
    int n_want, rest[2], n_rest;  // and the two other numbers
    span hit;                     // the equation that was called ok
} state;

bool pz_read_item(const char *item, pz_puzzle *p) {
    char *end;
    p->target = (int)strtol(item, &end, 10);
    for (p->n = 0; *end == ' ' && p->n < PZ_MAX_NUMBERS; p->n++) {
        p->number[p->n] = (int)strtol(end, &end, 10);
    }
    return *end == 0 && p->n >= 2;
}

bool pz_uses_numbers(const pz_puzzle *p, const int64_t *number, int n) {
    bool used[PZ_MAX_NUMBERS] = {false};
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < p->n && (used[k] || p->number[k] != number[i])) {
            k++;
        }
        if (k == p->n) {
            return false;
        }
        used[k] = true;
    }
    return n == p->n;
}

typedef struct {
    int64_t a, b, v;
    char op;
} equation;

// "a op b=c", and c is right
static bool read_equation(span t, equation *e) {
    span a = pz_take(&t, "+-*/"), b;
    if (t.n < 2) {
        return false;
    }
    e->op = t.s[0];
    t = (span){t.s + 1, t.n - 1};
    b = pz_take(&t, "=");
    if (!pz_skip(&t, '=') || !pz_eval(a.s, a.n, &e->a) || !pz_eval(b.s, b.n, &e->b) ||
        !pz_eval(t.s, t.n, &e->v)) {
        return false;
    }
    switch (e->op) {
    case '+':
        return e->v == e->a + e->b;
    case '-':
        return e->v == e->a - e->b;
    case '*':
        return e->v == e->a * e->b;
    default:
        return e->b != 0 && e->v * e->b == e->a;
    }
}

static bool take_equation(span *s, const char *stop, span *text, equation *e) {
    *text = pz_take(s, stop);
    (void)pz_skip(s, ' ');
    return read_equation(*text, e);
}

static bool remove_number(const pz_puzzle *p, int64_t n, int *rest, int *n_rest) {
    bool found = false;
    *n_rest = 0;
    for (int i = 0; i < p->n; i++) {
        if (!found && p->number[i] == n) {
            found = true;
        } else {
            rest[(*n_rest)++] = p->number[i];
        }
    }
    return found;
}

// What the others must make if n stands alone on top: target and n, joined backwards.
static bool is_want(const equation *e, int64_t target, int64_t n) {
    return (e->op == '-' && ((e->a == target && e->b == n) || (e->a == n && e->b == target)) &&
            e->v >= 0) ||
           (e->op == '+' && e->a == target && e->b == n) ||
           (e->op == '/' && e->a == target && e->b == n);
}

// "24-9=15 from 3 5 7" behind "9:"
static bool guess_true(state *s, span line, int64_t n) {
    equation e;
    span text;
    pz_puzzle sub = {.n = 3};
    int rest[PZ_MAX_NUMBERS], n_rest;
    if (!take_equation(&line, " ", &text, &e) || !is_want(&e, s->item->target, n) ||
        !remove_number(s->item, n, rest, &n_rest) || n_rest != 3 || line.n < 6 ||
        memcmp(line.s, "from ", 5) != 0) {
        return false;
    }
    int64_t left[3];
    line = (span){line.s + 5, line.n - 5};
    for (int i = 0; i < 3; i++) {
        span w = pz_take(&line, " ");
        (void)pz_skip(&line, ' ');
        if (!pz_eval(w.s, w.n, &left[i])) {
            return false;
        }
    }
    memcpy(sub.number, rest, sizeof sub.number);
    sub.target = (int)e.v;
    s->now = sub;
    return line.n == 0 && pz_uses_numbers(&sub, left, 3);
}

// The wanted values up to the semicolon: each kind once, all that there are.
static bool wants_true(state *s, span *line, int64_t n) {
    span part = pz_take(line, ";");
    int want = 2 + (s->now.target % n == 0);
    char ops[4] = {0};
    s->n_want = 0;
    while (part.n > 0 && s->n_want < 3) {
        equation e;
        span text;
        if (!take_equation(&part, " ", &text, &e) || !is_want(&e, s->now.target, n) ||
            strchr(ops, e.op)) {
            return false;
        }
        ops[s->n_want] = e.op;
        s->want[s->n_want++] = e.v;
    }
    return part.n == 0 && s->n_want == want && pz_skip(line, ';') && s->n_rest == 2;
}

// Does an equation join exactly these two numbers?
static bool joins(const equation *e, const int *rest) {
    return (e->a == rest[0] && e->b == rest[1]) || (e->a == rest[1] && e->b == rest[0]);
}

// What the others make; *hit: the last one is wanted, and no earlier one.
static bool pairs_true(state *s, span line, bool *hit) {
    *hit = false;
    while (line.n > 0) {
        equation e;
        if (*hit || !take_equation(&line, " ", &s->hit, &e) || !joins(&e, s->rest)) {
            return false;
        }
        for (int i = 0; i < s->n_want; i++) {
            *hit = *hit || s->want[i] == e.v;
        }
    }
    return true;
}

// Equations that go upwards: two numbers, then the value so far and another number each time.
static bool chain_true(const state *s, span line, span *first, int64_t *value) {
    int64_t used[MAX_SEEN];
    int n = 0;
    equation e;
    if (!take_equation(&line, " ", first, &e)) {
        return false;
    }
    used[n++] = e.a;
    used[n++] = e.b;
    *value = e.v;
    while (line.n > 0 && n < MAX_SEEN) {
        span text;
        if (!take_equation(&line, " ", &text, &e) || (e.a != *value && e.b != *value)) {
            return false;
        }
        used[n++] = e.a == *value ? e.b : e.a;
        *value = e.v;
    }
    return line.n == 0 && pz_uses_numbers(s->item, used, n);
}

static bool line_true(state *s, span line, int *wait) {
    span first, rest;
    int64_t n, value;
    bool hit;
    bool check = line.n > 6 && memcmp(line.s, "check ", 6) == 0;
    bool ok = pz_cut_end(&line, " ok"), no = pz_cut_end(&line, " wait"),
         tried = pz_cut_end(&line, " no");
    *wait += no;
    if (check) {
        line = (span){line.s + 6, line.n - 6};
        return chain_true(s, line, &first, &value) && (value == s->item->target) == ok &&
               first.n == s->hit.n && memcmp(first.s, s->hit.s, first.n) == 0;
    }
    rest = line;
    first = pz_take(&rest, ":");
    if (!pz_skip(&rest, ':')) {
        if (s->now.n == 2 && s->n_want == 0) {  // two numbers: one line
            s->want[s->n_want++] = s->now.target;
            memcpy(s->rest, s->now.number, sizeof s->rest);
            return pairs_true(s, line, &hit) && hit == ok;
        }
        if (s->n_want == 0) {  // a try forwards
            return chain_true(s, line, &first, &value) && ok != tried &&
                   (value == s->item->target) == ok;
        }
        return pairs_true(s, line, &hit) && hit == ok;  // the search goes on
    }
    int others[PZ_MAX_NUMBERS];
    if (!pz_eval(first.s, first.n, &n) || n < 1) {
        return false;
    }
    if (!memchr(rest.s, ';', rest.n)) {
        return guess_true(s, rest, n);
    }
    if (!remove_number(&s->now, n, others, &s->n_rest)) {
        return false;
    }
    memcpy(s->rest, others, sizeof s->rest);
    return wants_true(s, &rest, n) && pairs_true(s, rest, &hit) && hit == ok;
}

bool pz_countdown_trace_true(const pz_puzzle *p, span think, int *wait, span *lie) {
    state s = {.item = p, .now = *p};
    bool ok = true;
    while (think.n > 0) {
        span line = pz_take(&think, "\n");
        (void)pz_skip(&think, '\n');
        if (!line_true(&s, line, wait) && ok) {
            ok = false;
            *lie = line;
        }
    }
    return ok;
}
