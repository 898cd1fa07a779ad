// Checks every number of the traces with the program's own evaluator, which shares no code with the
// writers.
//
// A line of reasoning is true if every value it states is the value of what it states it for: an
// expression keeps the value of the question, both sides of every = agree, columns are what adding,
// subtracting or multiplying the last digits gives, "ok" stands where it should.
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "puzzles.h"
#include "train/expr.h"

enum { FILE_MAX_BYTES = 2000000000, N_SHOWN = 10 };

static bool eval(const char *s, size_t n, int64_t *v) {
    mk_expr e;
    if (mk_expr_eval(s, n, &e, NULL) != MK_OK) {
        return false;
    }
    *v = e.value;
    return true;
}

static bool ends_with(const char *s, size_t n, const char *end) {
    size_t k = strlen(end);
    return n >= k && memcmp(s + n - k, end, k) == 0;
}

// --- one step ------------------------------------------------------------------------------------

typedef struct {
    const char *s;
    size_t n;
} span;

// The text up to one of the signs in `stop`; *s moves behind it (on the sign).
static span take(span *s, const char *stop) {
    size_t k = 0;
    while (k < s->n && !strchr(stop, s->s[k])) {
        k++;
    }
    span t = {s->s, k};
    s->s += k;
    s->n -= k;
    return t;
}

static bool skip(span *s, char c) {
    if (s->n == 0 || s->s[0] != c) {
        return false;
    }
    s->s++;
    s->n--;
    return true;
}

// x op y out of "x*y" or "-(x*y)", no sign inside
static bool split_pair(span t, int64_t *x, char *op, int64_t *y) {
    if (t.n > 3 && t.s[0] == '-' && t.s[1] == '(' && t.s[t.n - 1] == ')') {
        t = (span){t.s + 2, t.n - 3};
    }
    span left = take(&t, "+-*");
    if (t.n < 2) {
        return false;
    }
    *op = t.s[0];
    return eval(left.s, left.n, x) && eval(t.s + 1, t.n - 1, y) && *x >= 0 && *y >= 0;
}

static bool next_column(span *t, int64_t *v, bool *borrow) {
    span c = take(t, " ");
    (void)skip(t, ' ');
    *borrow = ends_with(c.s, c.n, "'");
    return eval(c.s, c.n - *borrow, v);
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
    span c = take(s, "=");
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
        span part = take(s, ":"), result;
        int64_t v, r;
        if (!skip(s, ':') || !work_true(s, part) || !skip(s, '=')) {
            return false;
        }
        result = take(s, ";");
        if (!eval(part.s, part.n, &v) || !eval(result.s, result.n, &r) || v != r || !skip(s, ';')) {
            return false;
        }
        total += v;
    }
    span sum = take(s, ":");
    return skip(s, ':') && work_true(s, sum) && split_pair(sum, &a, &op, &b) && op == '+' &&
           a + b == total && total == x * y;
}

// "a op b", then "=..." of the same value, with or without the work before the last.
static bool step_true(span s, int64_t *left, int64_t *value) {
    span what = take(&s, "=:");
    int64_t v;
    if (!eval(what.s, what.n, value)) {
        return false;
    }
    *left = strtoll(what.s, NULL, 10);
    bool any = false;
    while (s.n > 0) {
        if (skip(&s, ':')) {
            span ahead = s;
            span first = take(&ahead, "=:");
            bool is_long = memchr(first.s, '*', first.n) != NULL;
            if (!(is_long ? long_true(&s, what) : work_true(&s, what))) {
                return false;
            }
        } else if (skip(&s, '=')) {
            what = take(&s, "=:");
            any = true;
            if (!eval(what.s, what.n, &v) || v != *value) {
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
    span t = take(&s, "=");
    if (!eval(t.s, t.n, first)) {
        return false;
    }
    *last = *first;
    bool product = memchr(t.s, '*', t.n) != NULL;
    while (skip(&s, '=')) {
        int64_t want = *last, v;
        if (!product) {
            for (want = 0; *last > 0; *last /= 10) {
                want += *last % 10;
            }
        }
        product = false;
        t = take(&s, "=");
        if (!eval(t.s, t.n, &v) || v != want) {
            return false;
        }
        *last = v;
    }
    return *last < 10;
}

// Without "check " and without the verdict; *good: what the check found.
static bool nines_true(span s, bool *good) {
    int64_t first[4], last[4];
    for (int i = 0; i < 4; i++) {
        span part = take(&s, " ");
        (void)skip(&s, ' ');
        if (!roots_true(part, &first[i], &last[i])) {
            return false;
        }
    }
    *good = last[2] == last[3];
    return s.n == 0 && first[2] == last[0] * last[1];
}

// A check belongs to the step before it: "a op b=r".
typedef struct {
    int64_t a, b, r;
    char op;
    bool any;
} last_step;

static bool check_true(span s, const last_step *p) {
    bool ok = ends_with(s.s, s.n, " ok"), wait = ends_with(s.s, s.n, " wait"), good = false;
    if (!p->any || (!ok && !wait)) {
        return false;
    }
    s.n -= ok ? 3 : 5;
    if (p->op == '*') {
        return nines_true(s, &good) && good == ok;
    }
    int64_t left, v;
    if (!step_true(s, &left, &v)) {
        return false;
    }
    return left == p->r && (v == p->a) == ok;
}

// --- a trace of an expression --------------------------------------------------------------------

typedef struct {
    int64_t value;
    int wait;   // lines that end in "wait"
    bool lies;  // a number somewhere is not true
    span why;
} judged;

static void lie(judged *j, span line) {
    if (!j->lies) {
        j->lies = true;
        j->why = line;
    }
}

static void remember(last_step *p, span s) {
    span what = take(&s, "=:");
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

static void judge_expression_line(judged *j, span line, last_step *p) {
    int64_t v, left;
    bool wait = ends_with(line.s, line.n, " wait");
    j->wait += wait;
    if (line.n > 6 && memcmp(line.s, "check ", 6) == 0) {
        if (!check_true((span){line.s + 6, line.n - 6}, p)) {
            lie(j, line);
        }
    } else if (memchr(line.s, '=', line.n)) {
        remember(p, line);
        if (!step_true(line, &left, &v)) {
            lie(j, line);
        }
    } else if (!eval(line.s, wait ? line.n - 5 : line.n, &v) || v != j->value) {
        lie(j, line);
    }
}

// --- a trace of Countdown ------------------------------------------------------------------------

typedef struct {
    int n, number[PZ_MAX_NUMBERS], target;
    int64_t want[4];  // of the line that is searched
    int n_want;
} puzzle;

static bool read_item(const char *item, puzzle *p) {
    char *end;
    p->target = (int)strtol(item, &end, 10);
    for (p->n = 0; *end == ' ' && p->n < PZ_MAX_NUMBERS; p->n++) {
        p->number[p->n] = (int)strtol(end, &end, 10);
    }
    return *end == 0 && p->n >= 2;
}

// "a op b=c"
static bool equation_true(span t, int64_t *v) {
    span left = take(&t, "=");
    int64_t r;
    return skip(&t, '=') && eval(left.s, left.n, v) && eval(t.s, t.n, &r) && *v == r;
}

// Every equation of a list with spaces; *last is the value of the last one.
static bool list_true(span s, int64_t *last, int64_t *all, int *n_all) {
    while (s.n > 0) {
        span t = take(&s, " ");
        (void)skip(&s, ' ');
        if (!equation_true(t, last)) {
            return false;
        }
        if (all && *n_all < 4) {
            all[(*n_all)++] = *last;
        }
    }
    return true;
}

static bool cut_end(span *s, const char *end) {
    bool yes = ends_with(s->s, s->n, end);
    s->n -= yes ? strlen(end) : 0;
    return yes;
}

static bool countdown_line_true(span s, puzzle *p, int *wait) {
    int64_t last = 0;
    bool check = s.n > 6 && memcmp(s.s, "check ", 6) == 0;
    bool ok = cut_end(&s, " ok"), no = cut_end(&s, " wait");
    *wait += no;
    if (check) {
        s = (span){s.s + 6, s.n - 6};
        return list_true(s, &last, NULL, NULL) && (last == p->target) == ok;
    }
    bool tried = cut_end(&s, " no");
    span rest = s;
    (void)take(&rest, ":");
    if (skip(&rest, ':')) {
        span wants = take(&rest, " ;");
        bool guess = rest.n > 6 && memcmp(rest.s, " from ", 6) == 0;
        if (guess) {
            return equation_true(wants, &last);
        }
        rest = (span){wants.s, wants.n + rest.n};
        wants = take(&rest, ";");
        p->n_want = 0;
        if (!list_true(wants, &last, p->want, &p->n_want) || !skip(&rest, ';')) {
            return false;
        }
        s = rest;
    } else if (p->n_want == 0) {
        p->want[p->n_want++] = p->target;  // two numbers, or a try forwards
    }
    bool hit = false;
    if (!list_true(s, &last, NULL, NULL)) {
        return false;
    }
    for (int i = 0; i < p->n_want; i++) {
        hit = hit || p->want[i] == last;
    }
    return hit == ok && !(tried && hit);
}

static bool uses_numbers(const puzzle *p, const mk_expr *e) {
    bool used[PZ_MAX_NUMBERS] = {false};
    for (int i = 0; i < e->n_number; i++) {
        int k = 0;
        while (k < p->n && (used[k] || p->number[k] != e->number[i])) {
            k++;
        }
        if (k == p->n) {
            return false;
        }
        used[k] = true;
    }
    return e->n_number == p->n && e->n_minus == 0;
}

// --- lines of the file ---------------------------------------------------------------------------

typedef struct {
    int64_t lines, direct, plain, mended, wrong, lying;
} table;

static bool answer_right(bool countdown, const puzzle *p, int64_t value, span answer) {
    mk_expr e;
    if (mk_expr_eval(answer.s, answer.n, &e, NULL) != MK_OK) {
        return false;
    }
    return countdown ? e.value == p->target && uses_numbers(p, &e)
                     : e.value == value && e.n_op == 0;
}

static void judge_trace(judged *j, bool countdown, puzzle *p, span think) {
    last_step last = {0};
    while (think.n > 0) {
        span line = take(&think, "\n");
        (void)skip(&think, '\n');
        if (!countdown) {
            judge_expression_line(j, line, &last);
        } else if (!countdown_line_true(line, p, &j->wait)) {
            lie(j, line);
        }
    }
}

static mk_status bad_line(const char *what, int64_t n, mk_err *err) {
    return MK_FAIL(err, MK_ECORRUPT, "line %" PRId64 ": expected %s", n, what);
}

static mk_status judge_item(const json_t *o, int64_t n, table *t, FILE *out, mk_err *err) {
    const char *text = json_string_value(json_object_get(o, "completion"));
    const char *kind = json_string_value(json_object_get(o, "kind"));
    const char *item = json_string_value(json_object_get(o, "item"));
    if (!text) {
        text = json_string_value(json_object_get(o, "text"));
        text = text ? strchr(text, '\n') : NULL;
        text = text ? text + 1 : NULL;
    }
    if (!text || !kind || !item) {
        return bad_line("the fields completion (or text), kind and item", n, err);
    }
    bool countdown = strcmp(kind, "countdown") == 0;
    puzzle p = {0};
    judged j = {0};
    if (countdown ? !read_item(item, &p) : !eval(item, strlen(item), &j.value)) {
        return bad_line("a puzzle in the field item", n, err);
    }
    const char *close = strstr(text, "</think>\n");
    bool direct = strncmp(text, "<think>\n", 8) != 0;
    if (direct == (close != NULL)) {
        return bad_line("<think> and </think>, or neither", n, err);
    }
    const char *answer = direct ? text : close + 9;
    if (!direct) {
        judge_trace(&j, countdown, &p, (span){text + 8, (size_t)(close - text) - 8});
    }
    bool right = answer_right(countdown, &p, j.value, (span){answer, strlen(answer)});
    t->lines++;
    t->direct += direct && right;
    t->wrong += !right;
    t->mended += right && j.wait > 0;
    t->plain += right && !direct && j.wait == 0 && !j.lies;
    bool lying = right && j.lies && j.wait == 0;
    t->lying += lying;
    if ((lying || !right) && t->wrong + t->lying <= N_SHOWN) {
        fprintf(out, "line %" PRId64 ": %s: %.*s\n", n, right ? "not true" : "wrong answer",
                j.lies ? (int)j.why.n : (int)strlen(answer), j.lies ? j.why.s : answer);
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
        span line = take(&rest, "\n");
        (void)skip(&rest, '\n');
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
