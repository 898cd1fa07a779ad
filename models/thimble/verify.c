// Checks every number of the traces with the program's own evaluator, which shares no code with the
// writers.
//
// A trace is true if every line follows: the expression is the one before with the last result put
// in, both sides of every = agree, columns are what adding, subtracting or multiplying the last
// digits gives, a check repeats the numbers of its step, "ok" stands where it should.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "train/expr.h"
#include "verify_int.h"

enum { FILE_MAX_BYTES = 2000000000, N_SHOWN = 10, MAX_TEXT = 256 };

// --- texts ---------------------------------------------------------------------------------------

bool pz_eval(const char *s, size_t n, int64_t *v) {
    mk_expr e;
    if (mk_expr_eval(s, n, &e, NULL) != MK_OK) {
        return false;
    }
    *v = e.value;
    return true;
}

bool pz_ends_with(const char *s, size_t n, const char *end) {
    size_t k = strlen(end);
    return n >= k && memcmp(s + n - k, end, k) == 0;
}

span pz_take(span *s, const char *stop) {
    size_t k = 0;
    while (k < s->n && !strchr(stop, s->s[k])) {
        k++;
    }
    span t = {s->s, k};
    s->s += k;
    s->n -= k;
    return t;
}

bool pz_skip(span *s, char c) {
    if (s->n == 0 || s->s[0] != c) {
        return false;
    }
    s->s++;
    s->n--;
    return true;
}

bool pz_cut_end(span *s, const char *end) {
    bool yes = pz_ends_with(s->s, s->n, end);
    s->n -= yes ? strlen(end) : 0;
    return yes;
}

// --- one step ------------------------------------------------------------------------------------

// x op y out of "x*y" or "-(x*y)", no sign inside
static bool split_pair(span t, int64_t *x, char *op, int64_t *y) {
    if (t.n > 3 && t.s[0] == '-' && t.s[1] == '(' && t.s[t.n - 1] == ')') {
        t = (span){t.s + 2, t.n - 3};
    }
    span left = pz_take(&t, "+-*");
    if (t.n < 2) {
        return false;
    }
    *op = t.s[0];
    return pz_eval(left.s, left.n, x) && pz_eval(t.s + 1, t.n - 1, y) && *x >= 0 && *y >= 0;
}

static bool next_column(span *t, int64_t *v, bool *borrow) {
    span c = pz_take(t, " ");
    (void)pz_skip(t, ' ');
    *borrow = pz_ends_with(c.s, c.n, "'");
    return pz_eval(c.s, c.n - *borrow, v);
}

// One digit, or one digit and a zero: what the columns of a product are multiplied by.
static bool is_round(int64_t y) {
    return y < 10 || (y < 100 && y % 10 == 0);
}

// Column i: what the operation on the last i+1 digits gives, without its last i digits.
static bool columns_true(span t, int64_t x, char op, int64_t y) {
    if (op == '*' && y >= 10 && (x < 10 || !is_round(y))) {
        int64_t swap = x;
        x = y;
        y = swap;
    }
    y = op == '*' && y >= 10 ? y / 10 : y;
    int64_t most = op == '*' ? x : x > y ? x : y;
    int64_t ten = 1;
    do {
        int64_t xs = x % (10 * ten), ys = op == '*' ? y : y % (10 * ten), v;
        bool borrow;
        int64_t want = op == '+' ? (xs + ys) / ten : op == '*' ? xs * ys / ten : (x - y) / ten % 10;
        if (t.n == 0 || !next_column(&t, &v, &borrow) || v != want ||
            borrow != (op == '-' && xs < ys)) {
            return false;
        }
        ten *= 10;
    } while (most / ten > 0);
    return t.n == 0;
}

// ":columns" of the operation written in `what`; *s ends on the = of the result
static bool work_true(span *s, span what) {
    int64_t x, y;
    char op;
    span c = pz_take(s, "=");
    return split_pair(what, &x, &op, &y) && columns_true(c, x, op, y);
}

// "47*80:56 37=3760;47*3:21 14=141;3760+141:1 10 8 3", *s ends on the = of the result
static bool long_true(span *s, span what) {
    int64_t x, y, total = 0, a, b;
    char op;
    if (!split_pair(what, &x, &op, &y) || op != '*') {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        span part = pz_take(s, ":"), result;
        int64_t v, r;
        if (!pz_skip(s, ':') || !work_true(s, part) || !pz_skip(s, '=')) {
            return false;
        }
        result = pz_take(s, ";");
        if (!pz_eval(part.s, part.n, &v) || !pz_eval(result.s, result.n, &r) || v != r ||
            !pz_skip(s, ';')) {
            return false;
        }
        total += v;
    }
    span sum = pz_take(s, ":");
    return pz_skip(s, ':') && work_true(s, sum) && split_pair(sum, &a, &op, &b) && op == '+' &&
           a + b == total && total == x * y;
}

// "a op b", then "=..." of the same value, with or without the work before the last.
static bool step_true(span s, int64_t *value) {
    span what = pz_take(&s, "=:");
    int64_t v;
    if (!pz_eval(what.s, what.n, value)) {
        return false;
    }
    bool any = false;
    while (s.n > 0) {
        if (pz_skip(&s, ':')) {
            span ahead = s;
            span first = pz_take(&ahead, "=:");
            bool is_long = memchr(first.s, '*', first.n) != NULL;
            if (!(is_long ? long_true(&s, what) : work_true(&s, what))) {
                return false;
            }
        } else if (pz_skip(&s, '=')) {
            what = pz_take(&s, "=:");
            any = true;
            if (!pz_eval(what.s, what.n, &v) || v != *value) {
                return false;
            }
        } else {
            return false;
        }
    }
    return any;
}

// --- checks --------------------------------------------------------------------------------------

// "570=12=3": every = is a sum of digits, down to one; *first is what stands before the first =
static bool roots_true(span s, int64_t *first, int64_t *last) {
    span t = pz_take(&s, "=");
    if (!pz_eval(t.s, t.n, first)) {
        return false;
    }
    *last = *first;
    bool product = memchr(t.s, '*', t.n) != NULL;
    while (pz_skip(&s, '=')) {
        int64_t want = *last, v;
        if (!product) {
            for (want = 0; *last > 0; *last /= 10) {
                want += *last % 10;
            }
        }
        product = false;
        t = pz_take(&s, "=");
        if (!pz_eval(t.s, t.n, &v) || v != want) {
            return false;
        }
        *last = v;
    }
    return *last < 10;
}

// A check belongs to the step before it: "a op b=r".
typedef struct {
    int64_t a, b, r;
    char op;
    bool any;
} last_step;

// Without "check " and without the verdict; *good: what the check found.
static bool nines_true(span s, const last_step *p, bool *good) {
    int64_t first[4], last[4];
    for (int i = 0; i < 4; i++) {
        span part = pz_take(&s, " ");
        (void)pz_skip(&s, ' ');
        if (!roots_true(part, &first[i], &last[i])) {
            return false;
        }
    }
    *good = last[2] == last[3];
    return s.n == 0 && first[0] == llabs(p->a) && first[1] == llabs(p->b) &&
           first[2] == last[0] * last[1] && first[3] == llabs(p->r);
}

// "a op b...=r"
static void remember(last_step *p, span s) {
    span what = pz_take(&s, "=:");
    size_t k = 1;
    while (k < what.n && !strchr("+-*", what.s[k])) {
        k++;
    }
    const char *r = what.s + what.n + s.n;
    while (r > what.s && r[-1] != '=') {
        r--;
    }
    *p = (last_step){.any = k + 1 < what.n};
    if (p->any) {
        p->op = what.s[k];
        p->a = strtoll(what.s, NULL, 10);
        p->b = strtoll(what.s + k + 1, NULL, 10);
        p->r = strtoll(r, NULL, 10);
    }
}

static bool check_true(span s, const last_step *p) {
    bool ok = pz_cut_end(&s, " ok"), wait = pz_cut_end(&s, " wait"), good = false;
    if (!p->any || ok == wait) {
        return false;
    }
    if (p->op == '*') {
        return nines_true(s, p, &good) && good == ok;
    }
    last_step back;
    int64_t v;
    remember(&back, s);
    return step_true(s, &v) && back.any && back.op == (p->op == '+' ? '-' : '+') &&
           back.a == p->r && back.b == p->b && (v == p->a) == ok;
}

// --- a trace of an expression --------------------------------------------------------------------

// The expression as it stands, and the step that was worked out but not yet put in.
typedef struct {
    int64_t value;
    char now[MAX_TEXT];
    span what, result;  // what.n == 0: none
    last_step last;
} course;

static bool is_number_sign(char c) {
    return c >= '0' && c <= '9';
}

// Does `line` come out of the expression by putting the result in place of what was worked out,
// with or without the parentheses around it?
static bool follows(const course *c, span line) {
    size_t n = strlen(c->now);
    for (const char *at = c->now; at + c->what.n <= c->now + n; at++) {
        const char *end = at + c->what.n;
        if (memcmp(at, c->what.s, c->what.n) != 0 || is_number_sign(*end) ||
            (at > c->now && is_number_sign(at[-1]) && is_number_sign(*at))) {
            continue;
        }
        bool inside = at > c->now && at[-1] == '(' && *end == ')';
        char next[MAX_TEXT];
        int k = snprintf(next, sizeof next, "%.*s%.*s%s", (int)(at - c->now) - inside, c->now,
                         (int)c->result.n, c->result.s, end + inside);
        if (k == (int)line.n && memcmp(next, line.s, line.n) == 0) {
            return true;
        }
    }
    return false;
}

// The expression is now `line`: it must be the question itself, or follow from the last step.
static bool moves_to(course *c, span line) {
    bool same = line.n == strlen(c->now) && memcmp(line.s, c->now, line.n) == 0;
    bool ok = c->what.n ? follows(c, line) : same;
    snprintf(c->now, sizeof c->now, "%.*s", (int)line.n, line.s);
    c->what.n = 0;
    return ok;
}

static bool expression_line_true(course *c, span line, int *wait) {
    int64_t v;
    if (line.n > 6 && memcmp(line.s, "check ", 6) == 0) {
        bool no = pz_ends_with(line.s, line.n, " wait");
        *wait += no;
        c->what.n = no ? 0 : c->what.n;
        return check_true((span){line.s + 6, line.n - 6}, &c->last);
    }
    if (pz_cut_end(&line, " wait")) {  // copied wrongly; the next line is the right one
        ++*wait;
        return false;
    }
    if (!memchr(line.s, '=', line.n)) {
        return moves_to(c, line) && pz_eval(line.s, line.n, &v) && v == c->value;
    }
    span rest = line, what = pz_take(&rest, "=:");
    remember(&c->last, line);
    // the last step is the expression itself
    bool ok = c->what.n == 0 || moves_to(c, what);
    c->what = what;
    c->result = line;
    while (memchr(c->result.s, '=', c->result.n)) {
        (void)pz_take(&c->result, "=");
        (void)pz_skip(&c->result, '=');
    }
    return ok && step_true(line, &v);
}

static bool expression_trace_true(const char *item, int64_t value, span think, span answer,
                                  int *wait, span *lie) {
    course c = {.value = value};
    bool ok = true;
    snprintf(c.now, sizeof c.now, "%s", item);
    while (think.n > 0) {
        span line = pz_take(&think, "\n");
        (void)pz_skip(&think, '\n');
        if (!expression_line_true(&c, line, wait) && ok) {
            ok = false;
            *lie = line;
        }
    }
    if (ok && (c.what.n == 0 || !follows(&c, answer))) {
        ok = false;
        *lie = answer;
    }
    return ok;
}

// --- lines of the file ---------------------------------------------------------------------------

typedef struct {
    int64_t lines, direct, plain, mended, wrong, lying;
} table;

static bool answer_right(bool countdown, const pz_puzzle *p, int64_t value, span answer) {
    mk_expr e;
    if (mk_expr_eval(answer.s, answer.n, &e, NULL) != MK_OK) {
        return false;
    }
    return countdown
               ? e.value == p->target && pz_uses_numbers(p, e.number, e.n_number) && e.n_minus == 0
               : e.value == value && e.n_op == 0;
}

static mk_status bad_line(const char *what, int64_t n, mk_err *err) {
    return MK_FAIL(err, MK_ECORRUPT, "line %" PRId64 ": expected %s", n, what);
}

static mk_status judge_item(const json_t *o, int64_t n, table *t, FILE *out, mk_err *err) {
    const char *text = json_string_value(json_object_get(o, "completion"));
    const char *id = json_string_value(json_object_get(o, "id"));
    const char *item = id ? strchr(id, ' ') : NULL;
    if (!text) {
        text = json_string_value(json_object_get(o, "text"));
        text = text ? strchr(text, '\n') : NULL;
        text = text ? text + 1 : NULL;
    }
    if (!text || !item) {
        return bad_line("the fields completion (or text) and id", n, err);
    }
    if (strncmp(id, "other ", 6) == 0) {
        bool same = strcmp(text, PZ_OTHER_ANSWER) == 0;
        t->lines++;
        t->direct += same;
        t->wrong += !same;
        return MK_OK;
    }
    bool none = strncmp(id, "impossible ", 11) == 0;
    bool countdown = none || strncmp(id, "countdown ", 10) == 0;
    item++;
    pz_puzzle p = {0};
    int64_t value = 0;
    if (countdown ? !pz_read_item(item, &p) : !pz_eval(item, strlen(item), &value)) {
        return bad_line("a puzzle in the field id", n, err);
    }
    const char *close = strstr(text, "</think>\n");
    bool direct = strncmp(text, "<think>\n", 8) != 0;
    if (direct == (close != NULL)) {
        return bad_line("<think> and </think>, or neither", n, err);
    }
    span answer = {direct ? text : close + 9, strlen(direct ? text : close + 9)}, lie = answer;
    bool honest = true;
    int wait = 0;
    if (!direct) {
        span think = {text + 8, (size_t)(close - text) - 8};
        honest = countdown ? pz_countdown_trace_true(&p, think, &wait, &lie)
                           : expression_trace_true(item, value, think, answer, &wait, &lie);
    }
    const char *nothing = p.n == 4 ? PZ_FOUND_NOTHING : PZ_NO_SOLUTION;
    bool right = none ? strcmp(answer.s, nothing) == 0 : answer_right(countdown, &p, value, answer),
         lying = right && !honest && wait == 0;
    t->lines++;
    t->direct += direct && right;
    t->wrong += !right;
    t->mended += right && wait > 0;
    t->plain += right && !direct && wait == 0 && honest;
    t->lying += lying;
    if ((lying || !right) && t->wrong + t->lying <= N_SHOWN) {
        fprintf(out, "line %" PRId64 ": %s: %.*s\n", n, right ? "not true" : "wrong answer",
                (int)lie.n, lie.s);
    }
    return MK_OK;
}

mk_status pz_verify(const char *path, FILE *out, bool *clean, mk_err *err) {
    char *data = NULL;
    size_t n_bytes = 0;
    table t = {0};
    MK_TRY(mk_file_read(path, FILE_MAX_BYTES, &data, &n_bytes, err));
    span rest = {data, n_bytes};
    mk_status st = MK_OK;
    for (int64_t n = 1; st == MK_OK && rest.n > 0; n++) {
        span line = pz_take(&rest, "\n");
        (void)pz_skip(&rest, '\n');
        json_t *o = NULL;
        st = mk_json_parse(line.s, line.n, "line", &o, err);
        st = st == MK_OK ? judge_item(o, n, &t, out, err) : st;
        json_decref(o);
    }
    mk_free(data);
    if (st != MK_OK) {
        return mk_err_prefix(err, "%s", path);
    }
    fprintf(out,
            "lines %" PRId64 ": true %" PRId64 ", without reasoning %" PRId64 ", mended %" PRId64
            ", wrong answer %" PRId64 ", right answer by untrue steps %" PRId64 "\n",
            t.lines, t.plain, t.direct, t.mended, t.wrong, t.lying);
    *clean = t.plain + t.direct == t.lines;
    return MK_OK;
}
