// Thinning, smoothing, and the scale of an axis.
//
// Invariants
//  1. a drawn point is a point of the log: thinning chooses, it does not average;
//  2. the least and the greatest value of a column are among its drawn points, so no spike is lost;
//  3. `mean` is of whole columns, weighted by their points: it does not depend on which were chosen;
//     what lies beyond the frame counts as lying on it, so that a spike does not look like a hill.
#include <math.h>
#include <stdlib.h>

#include "base/mathx.h"
#include "train/report_int.h"

#define SMOOTH_MIN   40  // points below which a smooth line would only hide them
#define SMOOTH_SHARE 24  // columns on each side: a 24th of the curve, at least one

// --- columns -------------------------------------------------------------------------------------

// Of the points of one column, by index.
typedef struct {
    int64_t least, greatest, n;
    double sum;
} column;

static void add_to_column(column *k, const mk_curve *c, int64_t i) {
    if (k->n == 0 || c->value[i] < c->value[k->least]) {
        k->least = i;
    }
    if (k->n == 0 || c->value[i] > c->value[k->greatest]) {
        k->greatest = i;
    }
    k->sum += c->value[i];
    k->n++;
}

// Of a curve of few points each is a column, of others a column is a range of steps.
static int64_t make_columns(const mk_curve *c, int64_t x0, int64_t x1, int64_t n_column,
                            column col[2 * MK_REP_MAX_COLUMN]) {
    bool all = c->n <= 2 * n_column;
    int64_t n = 0, at = -1;
    for (int64_t i = 0; i < c->n; i++) {
        // steps are at most 2^53, columns 600: no overflow
        int64_t place = all ? i : (c->step[i] - x0) * n_column / (x1 - x0 + 1);
        if (place != at) {
            col[n++] = (column){0};
            at = place;
        }
        add_to_column(&col[n - 1], c, i);
    }
    return n;
}

static void add_drawn(mk_rep_thin *out, const mk_curve *c, int64_t i, int64_t at) {
    out->step[out->n] = c->step[i];
    out->value[out->n] = out->mean[out->n] = c->value[i];
    out->column[out->n++] = at;
}

void mk_rep_thin_curve(const mk_curve *c, int64_t x0, int64_t x1, int64_t n_column,
                       mk_rep_thin *out) {
    column col[2 * MK_REP_MAX_COLUMN];
    MK_ASSERT(n_column > 0 && n_column <= MK_REP_MAX_COLUMN);
    out->n_column = make_columns(c, x0, x1, n_column, col);
    out->n = 0;
    out->smooth = false;
    for (int64_t i = 0; i < out->n_column; i++) {
        int64_t a = col[i].least, b = col[i].greatest;
        out->column_mean[i] = col[i].sum / (double)col[i].n;
        out->column_n[i] = (double)col[i].n;
        add_drawn(out, c, a < b ? a : b, i);
        if (a != b) {
            add_drawn(out, c, a < b ? b : a, i);
        }
    }
}

// --- smoothing -----------------------------------------------------------------------------------

// Mean around column i, nearer ones weighing more.  Where the curve begins the window reaches
// hardly farther to the right than to the left, so that a steep start is not flattened.
static double mean_around(const mk_rep_thin *t, int64_t i, int64_t half, double lo, double hi) {
    int64_t left = i < half ? i : half, right = i < half ? i + half / 4 : half;
    right = right > half ? half : right;
    right = right > t->n_column - 1 - i ? t->n_column - 1 - i : right;
    double sum = 0, count = 0;
    for (int64_t k = i - left; k <= i + right; k++) {
        double v = t->column_mean[k];
        double weight = t->column_n[k] * (double)(half + 1 - (k < i ? i - k : k - i));
        sum += weight * (v < lo ? lo : v > hi ? hi : v);
        count += weight;
    }
    return sum / count;
}

void mk_rep_smooth(mk_rep_thin *t, const mk_rep_scale *s) {
    int64_t half = t->n_column / SMOOTH_SHARE > 1 ? t->n_column / SMOOTH_SHARE : 1;
    t->smooth = t->n_column >= SMOOTH_MIN;
    for (int64_t i = 0; t->smooth && i < t->n; i++) {
        t->mean[i] = mean_around(t, t->column[i], half, s->lo, s->hi);
    }
}

// --- scale ---------------------------------------------------------------------------------------

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// A spike that would press everything else into a ninth of the height is left outside.
#define SPIKE 8.0
// Values that all are positive and differ by more than this are drawn by their logarithm.
#define DECADES 300.0

static void leave_spikes_out(mk_rep_scale *s, const double *v, int64_t n) {
    int64_t out = n >= 50 ? n / 50 : n >= 20;  // at each end, of which this may be about
    double low = v[out], high = v[n - 1 - out], body = high - low;
    if (body > 0 && s->hi > high + SPIKE * body) {
        s->outside = s->hi;
        s->hi = high + body / 2;
    }
    if (body > 0 && s->lo < low - SPIKE * body) {
        s->outside = s->lo;
        s->lo = low - body / 2;
    }
    for (int64_t i = 0; i < n; i++) {
        s->n_outside += v[i] < s->lo || v[i] > s->hi;
    }
}

static mk_rep_scale log_scale(double lo, double hi) {
    mk_rep_scale s = {.lo = 1, .hi = 1, .step = 10, .log = true};
    while (s.lo > lo) {
        s.lo /= 10;
    }
    while (s.lo * 10 <= lo) {
        s.lo *= 10;
    }
    s.hi = s.lo;
    int n = 0;
    for (; s.hi < hi; n++) {
        s.hi *= 10;
    }
    for (; n > 6; n -= 6) {  // a line for every second, third ... decade
        s.step *= 10;
    }
    return s;
}

mk_rep_scale mk_rep_make_scale(double *value, int64_t n) {
    qsort(value, (size_t)n, sizeof *value, compare_doubles);
    mk_rep_scale s = {.lo = value[0], .hi = value[n - 1]};
    // the lowest and highest tenth: a ramp from almost nothing is no reason for a logarithm
    if (s.lo > 1e-300 && value[n - 1 - n / 10] / value[n / 10] > DECADES) {
        return log_scale(s.lo, s.hi);
    }
    leave_spikes_out(&s, value, n);
    if (s.lo > 0 && s.lo < 0.2 * s.hi) {
        s.lo = 0;
    }
    // what differs in the last digits only cannot be told apart either
    if (s.hi - s.lo <= 1e-9 * fabs(s.lo) || s.hi - s.lo < 1e-290) {
        double around = fabs(s.lo) > 1e-290 ? fabs(s.lo) / 2 : 1;
        s.lo -= around;
        s.hi += around;
    }
    s.step = mk_rep_step(s.hi - s.lo, 5);
    s.lo = floor(s.lo / s.step + 1e-9) * s.step;
    s.hi = ceil(s.hi / s.step - 1e-9) * s.step;
    return s;
}

double mk_rep_place(const mk_rep_scale *s, double v) {
    if (s->log) {
        return (mk_log(v > s->lo ? v : s->lo) - mk_log(s->lo)) / (mk_log(s->hi) - mk_log(s->lo));
    }
    return (v - s->lo) / (s->hi - s->lo);
}
