// Countdown puzzles: a target from given numbers, each used once, by + - *.
//
// The search goes backwards.  Whatever expression reaches the target, some number n stands alone on
// its top: target = r+n, r-n, n-r or r*n, so the rest must make r = |target-n|, target+n or
// target/n.  With three numbers the rest is a pair a, b, which can make a+b, a*b and |a-b|: nine
// results against at most nine wants, so the search over three numbers is complete in three lines.
// With four numbers the first want is a guess, and the three others are searched for it.
#include "puzzles.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WANT = 3, WIDE = 10, MAX_SUB_TARGET = 200, N_GUESS = 3 };

// rel: how the rest r and the number n make the target.  '+' r+n, '-' r-n, 'r' n-r, '*' r*n
typedef struct {
    int value, n;
    char rel;
} want;

typedef struct {
    int a, b, value;
    char op;
} pair;

typedef struct {
    pz_item *it;
    pz_rng *rng;
    mk_buf *out;
    want outer;  // four numbers: the guess on top
    bool has_outer;
} search;

static int find_wants(int target, int n, want *w) {
    int k = 0;
    w[k++] = target >= n ? (want){target - n, n, '+'} : (want){n - target, n, 'r'};
    w[k++] = (want){target + n, n, '-'};
    if (target % n == 0) {
        w[k++] = (want){target / n, n, '*'};
    }
    return k;
}

// What two numbers make; a product above `most` cannot be wanted.
static int find_pairs(int a, int b, int most, pair *p) {
    int k = 0;
    p[k++] = (pair){a, b, a + b, '+'};
    if (a * b <= most) {
        p[k++] = (pair){a, b, a * b, '*'};
    }
    p[k++] = a >= b ? (pair){a, b, a - b, '-'} : (pair){b, a, b - a, '-'};
    return k;
}

// The others of n_number numbers without number i.
static void others(const int *number, int n_number, int i, int *rest) {
    for (int k = 0, n = 0; k < n_number; k++) {
        if (k != i) {
            rest[n++] = number[k];
        }
    }
}

// --- which puzzles can be solved -----------------------------------------------------------------

// Every way of joining two of the numbers, then the rest; `signed` values, no division.
static bool solvable(const int *number, int n, int target) {
    if (n == 1) {
        return number[0] == target;
    }
    for (int i = 0; i < n; i++) {
        for (int k = i + 1; k < n; k++) {
            int rest[PZ_MAX_NUMBERS], m = 0;
            for (int j = 0; j < n; j++) {
                if (j != i && j != k) {
                    rest[m++] = number[j];
                }
            }
            const int made[] = {number[i] + number[k], number[i] * number[k], number[i] - number[k],
                                number[k] - number[i]};
            for (int j = 0; j < 4; j++) {
                rest[m] = made[j];
                if (solvable(rest, m + 1, target)) {
                    return true;
                }
            }
        }
    }
    return false;
}

static int compare_int(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

static void write_canonical(mk_buf *out, int target, const int *number, int n) {
    int sorted[PZ_MAX_NUMBERS];
    memcpy(sorted, number, (size_t)n * sizeof *number);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_int);
    mk_buf_printf(out, "%d", target);
    for (int i = 0; i < n; i++) {
        mk_buf_printf(out, " %d", sorted[i]);
    }
}

static bool is_test_item(int target, const int *number, int n) {
    mk_buf b;
    mk_buf_init(&b, 256);
    write_canonical(&b, target, number, n);
    bool yes = pz_is_test("countdown", b.data, b.len);
    mk_buf_free(&b);
    return yes;
}

// --- writing -------------------------------------------------------------------------------------

static int apply(const want *w, int r) {
    switch (w->rel) {
    case '+':
        return r + w->n;
    case '-':
        return r - w->n;
    case 'r':
        return w->n - r;
    default:
        return r * w->n;
    }
}

static void write_apply(mk_buf *out, const want *w, int r) {
    if (w->rel == 'r') {
        mk_buf_printf(out, "%d-%d=%d", w->n, r, apply(w, r));
    } else {
        mk_buf_printf(out, "%d%c%d=%d", r, w->rel, w->n, apply(w, r));
    }
}

// "24-3=21"; `shown` stands for the value
static void write_want(mk_buf *out, const want *w, int target, int shown) {
    int a = w->rel == 'r' ? w->n : target, b = w->rel == 'r' ? target : w->n;
    char op = w->rel == '+' || w->rel == 'r' ? '-' : w->rel == '-' ? '+' : '/';
    mk_buf_printf(out, "%d%c%d=%d", a, op, b, shown);
}

static void write_join(mk_buf *out, const want *w, const char *inner) {
    if (w->rel == 'r') {
        mk_buf_printf(out, "%d-(%s)", w->n, inner);
    } else {
        mk_buf_printf(out, "(%s)%c%d", inner, w->rel, w->n);
    }
}

// "check 5*7=35 35+3=38 ok": the whole way up; returns whether it ends at the target.
static bool write_check(const search *s, const pair *p, const want *w) {
    mk_buf_printf(s->out, "check %d%c%d=%d", p->a, p->op, p->b, p->value);
    int v = p->value;
    if (w) {
        mk_buf_putc(s->out, ' ');
        write_apply(s->out, w, v);
        v = apply(w, v);
    }
    if (s->has_outer) {
        mk_buf_putc(s->out, ' ');
        write_apply(s->out, &s->outer, v);
        v = apply(&s->outer, v);
    }
    bool ok = v == s->it->target;
    mk_buf_puts(s->out, ok ? " ok\n" : " wait\n");
    return ok;
}

static void write_answer(const search *s, const pair *p, const want *w) {
    char inner[32], joined[64];
    mk_buf b;
    snprintf(inner, sizeof inner, "%d%c%d", p->a, p->op, p->b);
    if (!w) {
        mk_buf_puts(&s->it->answer, inner);
        return;
    }
    mk_buf_init(&b, sizeof joined);
    write_join(&b, w, inner);
    snprintf(joined, sizeof joined, "%s", b.data);
    mk_buf_free(&b);
    if (s->has_outer) {
        write_join(&s->it->answer, &s->outer, joined);
    } else {
        mk_buf_puts(&s->it->answer, joined);
    }
}

// --- the search over three numbers ---------------------------------------------------------------

typedef struct {
    int block, at;   // which line, which pair of it
    const want *to;  // the want it is taken for
    bool wrong_pair, wrong_want;
} slip;

typedef struct {
    int n_block, n_want[3], n_pair[3], target;
    want want[3][MAX_WANT];
    pair pair[3][3];
    int hit_block, hit_at, hit_want;  // hit_block < 0: no solution
} plan;

static void find_hit(plan *p) {
    p->hit_block = -1;
    for (int i = 0; i < p->n_block; i++) {
        for (int k = 0; k < p->n_pair[i]; k++) {
            for (int j = 0; j < p->n_want[i]; j++) {
                if (p->pair[i][k].value == p->want[i][j].value) {
                    p->hit_block = i;
                    p->hit_at = k;
                    p->hit_want = j;
                    return;
                }
            }
        }
    }
}

// The three lines: number i alone, the two others a pair.  The same number twice is one line.
static void make_plan(plan *p, const int *number, int target) {
    p->n_block = 0;
    p->target = target;
    for (int i = 0; i < 3; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++) {
            seen = seen || number[k] == number[i];
        }
        if (!seen) {
            int rest[3], b = p->n_block++;
            others(number, 3, i, rest);
            p->n_want[b] = find_wants(target, number[i], p->want[b]);
            p->n_pair[b] = find_pairs(rest[0], rest[1], target + number[i], p->pair[b]);
        }
    }
    find_hit(p);
}

// A place before the hit where a pair could be taken for a want that it is near to.
static bool plan_slip(const search *s, const plan *p, slip *sl) {
    for (int tries = 0; tries < 20; tries++) {
        int b = pz_below(s->rng, p->hit_block + 1);
        int n = b == p->hit_block ? p->hit_at : p->n_pair[b];
        if (n == 0) {
            continue;
        }
        int at = pz_below(s->rng, n), j = pz_below(s->rng, p->n_want[b]);
        int far = abs(p->pair[b][at].value - p->want[b][j].value);
        if (far > 0 && far <= 10) {
            int k = pz_below(s->rng, 3);
            *sl = (slip){b, at, &p->want[b][j], k == 0, k == 1};
            return true;
        }
    }
    return false;
}

static void write_wants(const search *s, const plan *p, int b, const slip *sl) {
    mk_buf_printf(s->out, "%d:", p->want[b][0].n);
    for (int j = 0; j < p->n_want[b]; j++) {
        const want *w = &p->want[b][j];
        bool wrong = sl && sl->block == b && sl->wrong_want && sl->to == w;
        mk_buf_puts(s->out, j ? " " : "");
        write_want(s->out, w, p->target, wrong ? p->pair[b][sl->at].value : w->value);
    }
    mk_buf_putc(s->out, ';');
}

// Pairs from..to of line b; `shown` replaces the value of the last one if it is not -1.
static void write_pairs(const search *s, const plan *p, int b, int from, int to, int shown) {
    for (int k = from; k <= to; k++) {
        const pair *q = &p->pair[b][k];
        mk_buf_printf(s->out, "%s%d%c%d=%d", k > from ? " " : "", q->a, q->op, q->b,
                      k == to && shown >= 0 ? shown : q->value);
    }
}

// The pair taken for a hit though it is none.  true: the search goes on behind *from.
static bool write_slip(search *s, const plan *p, const slip *sl, int *from) {
    const pair *q = &p->pair[sl->block][sl->at];
    write_pairs(s, p, sl->block, 0, sl->at, sl->wrong_pair ? sl->to->value : -1);
    mk_buf_puts(s->out, " ok\n");
    if (s->it->course == PZ_UNNOTICED) {
        write_answer(s, q, sl->to);
        return false;
    }
    (void)write_check(s, q, sl->to);
    *from = sl->at + 1;
    if (sl->wrong_want) {  // the line is worth nothing: once more
        write_wants(s, p, sl->block, NULL);
        *from = 0;
    }
    return true;
}

// Writes the lines up to the hit; without a hit all of them.
static void write_search(search *s, const plan *p, const slip *sl) {
    int last = p->hit_block < 0 ? p->n_block - 1 : p->hit_block;
    for (int b = 0; b <= last; b++) {
        int from = 0, to = b == p->hit_block ? p->hit_at : p->n_pair[b] - 1;
        write_wants(s, p, b, sl);
        if (sl && sl->block == b && !write_slip(s, p, sl, &from)) {
            return;
        }
        if (from <= to) {
            write_pairs(s, p, b, from, to, -1);
            mk_buf_puts(s->out, b == p->hit_block ? " ok\n" : "\n");
        }
    }
    if (p->hit_block >= 0) {
        const pair *q = &p->pair[p->hit_block][p->hit_at];
        const want *w = &p->want[p->hit_block][p->hit_want];
        (void)write_check(s, q, w);
        write_answer(s, q, w);
    }
}

static bool search_three(search *s, const int *number, int target) {
    plan p;
    slip sl;
    make_plan(&p, number, target);
    if (p.hit_block < 0 && !s->it->impossible) {
        return false;
    }
    bool slips = s->it->course == PZ_NOTICED || s->it->course == PZ_UNNOTICED;
    if (slips && !plan_slip(s, &p, &sl)) {
        return false;
    }
    write_search(s, &p, slips ? &sl : NULL);
    return true;
}

// --- other sizes and the short style -------------------------------------------------------------

static bool search_two(search *s, const int *number, int target) {
    pair p[3];
    int n = find_pairs(number[0], number[1], target, p);
    if (s->it->course != PZ_PLAIN) {
        return false;
    }
    for (int k = 0; k < n; k++) {
        mk_buf_printf(s->out, "%s%d%c%d=%d", k ? " " : "", p[k].a, p[k].op, p[k].b, p[k].value);
        if (p[k].value == target) {
            mk_buf_puts(s->out, " ok\n");
            write_answer(s, &p[k], NULL);
            return true;
        }
    }
    mk_buf_putc(s->out, '\n');
    return s->it->impossible;
}

// One guess of the number on top and what the others must make: "9:24-9=15 from 3 5 7"
static bool write_guess(search *s, int i, const want *w, bool *hit) {
    int rest[PZ_MAX_NUMBERS];
    const int *number = s->it->number;
    others(number, 4, i, rest);
    if (w->value < 1 || w->value > MAX_SUB_TARGET ||
        (!s->it->want_test && is_test_item(w->value, rest, 3))) {
        return false;
    }
    s->outer = *w;
    s->has_outer = true;
    mk_buf_printf(s->out, "%d:", w->n);
    write_want(s->out, w, s->it->target, w->value);
    mk_buf_printf(s->out, " from %d %d %d\n", rest[0], rest[1], rest[2]);
    plan p;
    make_plan(&p, rest, w->value);
    *hit = p.hit_block >= 0;
    if (*hit) {
        return search_three(s, rest, w->value);
    }
    write_search(s, &p, NULL);
    return true;
}

// Mostly a guess that works, as a good player would; sometimes one that does not, first.
static bool search_four(search *s, const int *number, int target) {
    bool fails_first = pz_chance(s->rng, 0.15), hit = false;
    for (int tries = 0; tries < 60 && !hit; tries++) {
        want w[MAX_WANT];
        plan p;
        int i = pz_below(s->rng, 4), rest[PZ_MAX_NUMBERS];
        int k = pz_below(s->rng, find_wants(target, number[i], w));
        others(number, 4, i, rest);
        make_plan(&p, rest, w[k].value);
        if ((p.hit_block < 0) == fails_first && w[k].value > 0) {
            fails_first = false;
            if (!write_guess(s, i, &w[k], &hit)) {
                return false;
            }
        }
    }
    return hit;
}

// What there is to say when a few guesses have failed.
static bool give_up_four(search *s, const int *number, int target) {
    for (int done = 0, tries = 0; done < N_GUESS; tries++) {
        want w[MAX_WANT];
        int i = pz_below(s->rng, 4), k = pz_below(s->rng, find_wants(target, number[i], w));
        bool hit = false;
        if (tries > 60) {
            return false;
        }
        done += w[k].value > 0 && write_guess(s, i, &w[k], &hit);
    }
    return true;
}

// The short style: some tries forwards in any order, then one that works.
static bool guess_three(search *s, const int *number, int target) {
    plan p;
    make_plan(&p, number, target);
    if (p.hit_block < 0 || s->it->course != PZ_PLAIN) {
        return false;
    }
    for (int n = pz_below(s->rng, 5); n >= 0; n--) {
        int b = n ? pz_below(s->rng, p.n_block) : p.hit_block;
        const pair *q = &p.pair[b][n ? pz_below(s->rng, p.n_pair[b]) : p.hit_at];
        const want *w = &p.want[b][n ? pz_below(s->rng, p.n_want[b]) : p.hit_want];
        bool hit = apply(w, q->value) == target;
        mk_buf_printf(s->out, "%d%c%d=%d ", q->a, q->op, q->b, q->value);
        write_apply(s->out, w, q->value);
        mk_buf_puts(s->out, hit ? " ok\n" : " no\n");
        if (hit) {
            write_answer(s, q, w);
            return true;
        }
    }
    return false;
}

// --- the item ------------------------------------------------------------------------------------

static void write_list(mk_buf *out, const int *number, int n, int how) {
    for (int i = 0; i < n; i++) {
        const char *between = how == 0 ? " " : how == 2 && i == n - 1 ? " and " : ", ";
        mk_buf_printf(out, "%s%d", i ? between : "", number[i]);
    }
}

// %T the target, %N the numbers
static void write_prompt(pz_item *it, pz_rng *r) {
    static const char *const phrase[] = {
        "Make %T from %N",       "Make %T from %N.",    "Make %T with %N",
        "Make %T using %N.",     "Reach %T with %N.",   "Use %N to make %T.",
        "Use %N to get %T",      "Get %T from %N",      "Get %T out of %N.",
        "Countdown: %T from %N", "Countdown: %N -> %T", "How can I make %T from %N?",
        "Combine %N to get %T.", "Build %T from %N",
    };
    const char *p = phrase[pz_below(r, sizeof phrase / sizeof phrase[0])];
    int how = pz_below(r, 3);
    for (; *p; p++) {
        if (p[0] == '%' && p[1] == 'T') {
            mk_buf_printf(&it->prompt, "%d", it->target);
            p++;
        } else if (p[0] == '%' && p[1] == 'N') {
            write_list(&it->prompt, it->number, it->n_number, how);
            p++;
        } else {
            mk_buf_putc(&it->prompt, *p);
        }
    }
}

static bool draw(pz_item *it, pz_rng *r, int n) {
    int most = pz_below(r, 100) < WIDE ? 99 : 30;
    for (int i = 0; i < n; i++) {
        it->number[i] = 1 + pz_below(r, most);
    }
    it->n_number = n;
    it->n_op = n - 1;
    it->target = 1 + pz_below(r, 100);
    it->value = it->target;
    return solvable(it->number, n, it->target) != it->impossible;
}

static bool any_answer(pz_item *it, pz_rng *r) {
    pz_item copy = *it;
    copy.course = PZ_PLAIN;
    mk_buf_init(&copy.think, 1 << 16);
    search s = {.it = &copy, .rng = r, .out = &copy.think};
    bool ok = it->n_number == 2   ? search_two(&s, it->number, it->target)
              : it->n_number == 3 ? search_three(&s, it->number, it->target)
                                  : search_four(&s, it->number, it->target);
    mk_buf_free(&copy.think);
    it->answer = copy.answer;
    return ok;
}

static bool write_trace(pz_item *it, pz_rng *r, const pz_quality *q) {
    int order[PZ_MAX_NUMBERS];
    memcpy(order, it->number, sizeof order);
    if (pz_chance(r, q->shuffle)) {
        for (int i = it->n_number - 1; i > 0; i--) {
            int k = pz_below(r, i + 1), x = order[i];
            order[i] = order[k];
            order[k] = x;
        }
    }
    search s = {.it = it, .rng = r, .out = &it->think};
    if (it->n_number == 2) {
        return search_two(&s, order, it->target);
    }
    if (it->n_number == 4) {
        return it->impossible ? give_up_four(&s, it->number, it->target)
                              : search_four(&s, it->number, it->target);
    }
    return it->brief ? guess_three(&s, order, it->target) : search_three(&s, order, it->target);
}

bool pz_countdown(pz_item *it, pz_rng *r, int n_number, const pz_quality *q, bool prompts_only) {
    it->countdown = true;
    it->right = it->course != PZ_UNNOTICED;
    if (!draw(it, r, n_number)) {
        return false;
    }
    write_canonical(&it->text, it->target, it->number, n_number);
    if (pz_is_test("countdown", it->text.data, it->text.len) != it->want_test) {
        return false;
    }
    write_prompt(it, r);
    if (prompts_only) {
        mk_buf_puts(&it->answer, it->impossible ? PZ_NO_SOLUTION : "");
        return true;
    }
    if (it->impossible) {
        mk_buf_puts(&it->answer, n_number == 4 ? PZ_FOUND_NOTHING : PZ_NO_SOLUTION);
    }
    return it->course == PZ_DIRECT ? any_answer(it, r) : write_trace(it, r, q);
}
