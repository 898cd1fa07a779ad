// Panels of speeds: one for each kind of measurement and whatever is not on its axis.
//
// The axis is the first of tokens, depth and threads that has more than one value for the kind; the
// rest is said in the heading.  Values stand at even distances in the order they were given in.
#include <string.h>

#include "bench_svg.h"

typedef enum { AXIS_TOKENS, AXIS_DEPTH, AXIS_THREADS, N_AXIS } axis;

static int64_t on_axis(const bench_point *p, axis a) {
    return a == AXIS_TOKENS ? p->n : a == AXIS_DEPTH ? p->depth : p->n_thread;
}

static axis axis_of(const bench_plan *plan, bench_kind kind) {
    for (int a = 0; a < N_AXIS; a++) {
        const bench_point *first = NULL;
        for (int64_t i = 0; i < plan->n_point; i++) {
            const bench_point *p = &plan->point[i];
            first = first || p->kind != kind ? first : p;
            if (p->kind == kind && on_axis(p, (axis)a) != on_axis(first, (axis)a)) {
                return (axis)a;
            }
        }
    }
    return AXIS_TOKENS;
}

// Points of one panel: those that differ from `p` along the axis only.
static bool same_panel(const bench_point *p, const bench_point *q, axis a) {
    bool same = p->kind == q->kind;
    for (int k = 0; k < N_AXIS; k++) {
        same = same && ((int)a == k || on_axis(p, (axis)k) == on_axis(q, (axis)k));
    }
    return same;
}

// The first point of the i-th panel; NULL past the last.
static const bench_point *panel_head(const bench_plan *plan, int i) {
    for (int64_t k = 0; k < plan->n_point; k++) {
        const bench_point *p = &plan->point[k];
        bool first = true;
        for (int64_t j = 0; j < k && first; j++) {
            first = !same_panel(p, &plan->point[j], axis_of(plan, p->kind));
        }
        if (first && i-- == 0) {
            return p;
        }
    }
    return NULL;
}

int bench_speed_panels(const bench_plan *plan) {
    int n = 0;
    while (panel_head(plan, n)) {
        n++;
    }
    return n;
}

// --- one panel -----------------------------------------------------------------------------------

#define MAX_SHOWN 64

typedef struct {
    const bench_plan *plan;
    svg_pane pane;
    const bench_point *p[MAX_SHOWN];
    int n;
    axis axis;
    double max;  // of the y axis
} panel;

static double x_of(const panel *c, int i) {
    return c->pane.x + c->pane.w * (i + 0.5) / c->n;
}

// Series stand side by side: their whiskers would hide each other.
static double x_beside(const panel *c, int i, int series) {
    return x_of(c, i) + 7 * (series - c->plan->n_peer / 2.0);
}

static double y_of(const panel *c, double speed) {
    return c->pane.y + c->pane.h * (1 - speed / c->max);
}

static void collect(panel *c, const bench_point *head) {
    double max = 0;
    for (int64_t i = 0; i < c->plan->n_point && c->n < MAX_SHOWN; i++) {
        const bench_point *p = &c->plan->point[i];
        if (!same_panel(head, p, c->axis)) {
            continue;
        }
        c->p[c->n++] = p;
        double limit = bench_bound_of(p).speed, ours = bench_max(&p->speed);
        max = limit > max ? limit : max;
        max = ours > max ? ours : max;
        for (int k = 0; k < c->plan->n_peer; k++) {
            double them = bench_max(&p->peer[k]);
            max = them > max ? them : max;
        }
    }
    double step = svg_step(max, 5);
    for (c->max = step; c->max < max;) {
        c->max += step;
    }
}

static void grid(const panel *c) {
    const char *const unit[N_AXIS] = {bench_kind_about(c->p[0]->kind), "tokens in the cache",
                                      "threads"};
    const svg_pane *a = &c->pane;
    char text[24];
    double step = svg_step(c->max, 5);
    for (double v = 0; v <= c->max * 1.001; v += step) {
        svg_line(a->b, (double[]){a->x, y_of(c, v)}, (double[]){a->x + a->w, y_of(c, v)},
                 v > 0 ? "class=\"grid\"" : "class=\"axis\"");
        svg_text(a->b, a->x - 8, y_of(c, v) + 4, "class=\"dim\" text-anchor=\"end\"",
                 svg_number(v, text));
    }
    for (int i = 0; i < c->n; i++) {
        snprintf(text, sizeof text, "%lld", (long long)on_axis(c->p[i], c->axis));
        svg_text(a->b, x_of(c, i), a->y + a->h + 18, "text-anchor=\"middle\"", text);
    }
    svg_text(a->b, a->x + a->w / 2, a->y + a->h + 36, "class=\"dim\" text-anchor=\"middle\"",
             unit[c->axis]);
}

static double median_of(const bench_point *p, int series) {
    return bench_median(series == 0 ? &p->speed : &p->peer[series - 1]);
}

// A line through the medians, where there are any.
static void line(const panel *c, int series, const char *attrs) {
    mk_buf *b = c->pane.b;
    mk_buf_printf(b, "<polyline %s points=\"", attrs);
    for (int i = 0; i < c->n; i++) {
        double v = median_of(c->p[i], series);
        if (v > 0) {
            mk_buf_printf(b, "%.1f,%.1f ", x_beside(c, i, series), y_of(c, v));
        }
    }
    mk_buf_puts(b, "\"/>\n");
}

// At each point a stroke as wide as its place, and lines between them.
static void limit_line(const panel *c) {
    double half = c->pane.w / c->n * 0.25;
    mk_buf_puts(c->pane.b, "<polyline class=\"lim\" points=\"");
    for (int i = 0; i < c->n; i++) {
        double x = x_of(c, i), y = y_of(c, bench_bound_of(c->p[i]).speed);
        mk_buf_printf(c->pane.b, "%.1f,%.1f %.1f,%.1f ", x - half, y, x + half, y);
    }
    mk_buf_puts(c->pane.b, "\"/>\n");
}

static void marks(const panel *c, int series, const char *name) {
    char attrs[32], title[160], text[24];
    snprintf(attrs, sizeof attrs, "class=\"s k%d\"", series % 4);
    line(c, series, attrs);
    snprintf(attrs, sizeof attrs, "class=\"w k%d\"", series % 4);
    for (int i = 0; i < c->n; i++) {
        const bench_samples *s = series == 0 ? &c->p[i]->speed : &c->p[i]->peer[series - 1];
        double x = x_beside(c, i, series), v = bench_median(s);
        if (s->n == 0) {
            continue;
        }
        svg_line(c->pane.b, (double[]){x, y_of(c, bench_min(s))},
                 (double[]){x, y_of(c, bench_max(s))}, attrs);
        snprintf(title, sizeof title, "%s, %s %lld: %.2f tok/s (%.2f to %.2f)", name,
                 bench_kind_name(c->p[i]->kind), (long long)c->p[i]->n, v, bench_min(s),
                 bench_max(s));
        svg_mark(c->pane.b, series, x, y_of(c, v), title);
        if (series == 0) {
            svg_text(c->pane.b, x - 8, y_of(c, v) - 7, "class=\"v\" text-anchor=\"end\"",
                     svg_number(v, text));
        }
    }
}

void bench_speed_panel(const bench_plan *plan, mk_buf *b, int i, double x, double y) {
    const bench_point *head = panel_head(plan, i);
    char title[160];
    panel c = {.plan = plan,
               .axis = axis_of(plan, head->kind),
               .pane = {b, x + 56, y + 56, SVG_PANEL_W - 80, SVG_PANEL_H - 116}};
    collect(&c, head);
    int at = snprintf(title, sizeof title, "%s", bench_kind_name(head->kind));
    if (c.axis != AXIS_TOKENS) {
        at += snprintf(title + at, sizeof title - (size_t)at, " %lld", (long long)head->n);
    }
    at += snprintf(title + at, sizeof title - (size_t)at, ", tokens per second");
    if (c.axis != AXIS_DEPTH && head->depth > 0) {
        at +=
            snprintf(title + at, sizeof title - (size_t)at, ", depth %lld", (long long)head->depth);
    }
    if (c.axis != AXIS_THREADS) {
        snprintf(title + at, sizeof title - (size_t)at, ", %d thread%s", head->n_thread,
                 head->n_thread == 1 ? "" : "s");
    }
    svg_heading(plan, b, x, y + 14, title, true);
    grid(&c);
    limit_line(&c);
    for (int k = plan->n_peer; k >= 0; k--) {  // ours on top
        char name[BENCH_NAME_MAX] = "minke";
        if (k > 0) {
            bench_peer_name(plan->peers[k - 1], k - 1, name);
        }
        marks(&c, k, name);
    }
}
