// The roofline: operations per byte against operations per second, both logarithmic.
//
// The roof is min(bandwidth * x, peak) for each kind of arithmetic that the model uses, and the
// kernel of its main type of weights a ceiling below; a mark lies
// at the operations and bytes that its measurement needs (bench_work), so its height under the roof
// is the fraction of the limit.  One panel for each number of threads.
// Source: Williams, Waterman, Patterson 2009.
#include <math.h>
#include <string.h>

#include "bench_svg.h"

#define MAX_LABELS 64

typedef struct {
    const bench_plan *plan;
    svg_pane pane;
    const bench_point *head;      // the first point with the panel's threads; its limits are drawn
    double lo[2], hi[2];          // of the axes, as powers of ten
    double label[MAX_LABELS][3];  // left end, height, width
    int n_label;
} roof;

static const bench_point *roof_head(const bench_plan *plan, int i) {
    for (int64_t k = 0; k < plan->n_point; k++) {
        bool first = true;
        for (int64_t j = 0; j < k && first; j++) {
            first = plan->point[j].n_thread != plan->point[k].n_thread;
        }
        if (first && i-- == 0) {
            return &plan->point[k];
        }
    }
    return NULL;
}

int bench_roof_panels(const bench_plan *plan) {
    int n = 0;
    while (roof_head(plan, n)) {
        n++;
    }
    return n;
}

static double sum(const double v[MK_ARITH_N]) {
    return v[0] + v[1] + v[2];
}

static double intensity(const bench_point *p) {
    return sum(p->work.n_op) / (p->work.weight_bytes + p->work.cache_bytes);
}

// Operations per second at a number of tokens per second.
static double rate(const bench_point *p, double speed) {
    return sum(p->work.n_op) / p->work.n_tok * speed;
}

static bool here(const roof *r, const bench_point *p) {
    return p->n_thread == r->head->n_thread;
}

// The kinds of arithmetic that some measurement of the panel uses.
static bool uses(const roof *r, int kind) {
    for (int64_t i = 0; i < r->plan->n_point; i++) {
        const bench_point *p = &r->plan->point[i];
        if (here(r, p) && p->work.n_op[kind] > 0.01 * sum(p->work.n_op)) {
            return true;
        }
    }
    return false;
}

// --- axes ----------------------------------------------------------------------------------------

static void widen(roof *r, int a, double v) {
    double e = log10(v);
    r->lo[a] = e < r->lo[a] ? e : r->lo[a];
    r->hi[a] = e > r->hi[a] ? e : r->hi[a];
}

static void set_axes(roof *r) {
    const mk_limits *l = &r->head->limits;
    r->lo[0] = r->lo[1] = 300;
    r->hi[0] = r->hi[1] = -300;
    for (int64_t i = 0; i < r->plan->n_point; i++) {
        const bench_point *p = &r->plan->point[i];
        if (here(r, p)) {
            widen(r, 0, intensity(p));
            widen(r, 1, rate(p, bench_median(&p->speed)));
            for (int k = 0; k < r->plan->n_peer; k++) {
                double them = bench_median(&p->peer[k]);
                widen(r, 1, rate(p, them > 0 ? them : bench_median(&p->speed)));
            }
        }
    }
    for (int k = 0; k < MK_ARITH_N; k++) {
        if (uses(r, k)) {
            widen(r, 0, l->ops_per_second[k] / l->model_bytes_per_second);  // the ridge
            widen(r, 1, l->ops_per_second[k]);
        }
    }
    for (int a = 0; a < 2; a++) {
        r->lo[a] = floor((r->lo[a] - 0.1) * 3) / 3;
        r->hi[a] = ceil((r->hi[a] + 0.1) * 3) / 3;
    }
}

static double x_at(const roof *r, double v) {
    return r->pane.x + r->pane.w * (log10(v) - r->lo[0]) / (r->hi[0] - r->lo[0]);
}

static double y_at(const roof *r, double v) {
    return r->pane.y + r->pane.h * (1 - (log10(v) - r->lo[1]) / (r->hi[1] - r->lo[1]));
}

static void grid(const roof *r) {
    const svg_pane *a = &r->pane;
    char text[24];
    for (int e = (int)ceil(r->lo[0]); e <= (int)floor(r->hi[0]); e++) {
        double x = x_at(r, pow(10, e));
        svg_line(a->b, (double[]){x, a->y}, (double[]){x, a->y + a->h}, "class=\"grid\"");
        svg_text(a->b, x, a->y + a->h + 18, "text-anchor=\"middle\"", svg_number(pow(10, e), text));
    }
    for (int e = (int)ceil(r->lo[1]); e <= (int)floor(r->hi[1]); e++) {
        double y = y_at(r, pow(10, e));
        svg_line(a->b, (double[]){a->x, y}, (double[]){a->x + a->w, y}, "class=\"grid\"");
        svg_text(a->b, a->x - 8, y + 4, "class=\"dim\" text-anchor=\"end\"",
                 svg_number(pow(10, e - 9), text));
    }
    svg_text(a->b, a->x + a->w / 2, a->y + a->h + 36, "class=\"dim\" text-anchor=\"middle\"",
             "operations per byte");
}

// --- the roof ------------------------------------------------------------------------------------

// The kernel's lower ceiling.
static void draw_kernel(const roof *r) {
    const svg_pane *a = &r->pane;
    double rate = r->head->limits.kernel_ops_per_second, y = y_at(r, rate);
    double ridge = x_at(r, rate / r->head->limits.model_bytes_per_second);
    char text[64];
    svg_line(a->b, (double[]){ridge, y}, (double[]){a->x + a->w, y}, "class=\"lim\"");
    snprintf(text, sizeof text, "%s kernel %.0f", bench_main_type(r->plan), rate / 1e9);
    svg_text(a->b, a->x + a->w, y - 5, "class=\"dim\" text-anchor=\"end\"", text);
}

static void draw_roof(const roof *r) {
    const mk_limits *l = &r->head->limits;
    const svg_pane *a = &r->pane;
    double top = 0, left = pow(10, r->lo[0]), bottom = pow(10, r->lo[1]);
    char text[64];
    for (int k = 0; k < MK_ARITH_N; k++) {
        if (!uses(r, k)) {
            continue;
        }
        double peak = l->ops_per_second[k], y = y_at(r, peak);
        double ridge = x_at(r, peak / l->model_bytes_per_second);
        svg_line(a->b, (double[]){ridge, y}, (double[]){a->x + a->w, y}, "class=\"lim\"");
        snprintf(text, sizeof text, "%s %.0f Gop/s", bench_arith_name((mk_arith)k), peak / 1e9);
        svg_text(a->b, a->x + a->w, y - 5, "class=\"dim\" text-anchor=\"end\"", text);
        top = peak > top ? peak : top;
        if (k == (int)l->kernel_arith) {
            draw_kernel(r);
        }
    }
    double from =
        left * l->model_bytes_per_second > bottom ? left : bottom / l->model_bytes_per_second;
    double x = x_at(r, from), y = y_at(r, from * l->model_bytes_per_second);
    svg_line(a->b, (double[]){x, y},
             (double[]){x_at(r, top / l->model_bytes_per_second), y_at(r, top)}, "class=\"lim\"");
    snprintf(text, sizeof text, "%.1f GB/s", l->model_bytes_per_second / 1e9);
    svg_text(a->b, a->x + 6, a->y + 14, "class=\"dim\"", text);
}

// Free of the labels that are there already: to the left of its mark and upwards for drafts and at
// the right edge, else to the right and downwards.
static void draw_label(roof *r, double x, double y, bool left, const char *text) {
    double width = 6.6 * (double)strlen(text), step = left ? -13 : 13;
    double from = left ? x - 9 - width : x + 9;
    y += left ? -2 : 8;
    for (int i = 0; i < r->n_label; i++) {
        double *l = r->label[i];
        if (from < l[0] + l[2] && l[0] < from + width && fabs(l[1] - y) < 12) {
            y = l[1] + step;
            i = -1;  // from the beginning, with the new place: it only moves one way
        }
    }
    svg_text(r->pane.b, left ? x - 9 : from, y,
             left ? "class=\"v\" text-anchor=\"end\"" : "class=\"v\"", text);
    if (r->n_label < MAX_LABELS) {
        memcpy(r->label[r->n_label++], (double[]){from, y, width}, sizeof r->label[0]);
    }
}

static void draw_point(roof *r, const bench_point *p, int series, const char *name) {
    char title[200], label[48];
    const bench_samples *s = series == 0 ? &p->speed : &p->peer[series - 1];
    if (s->n == 0) {
        return;
    }
    double done = rate(p, bench_median(s)), x = x_at(r, intensity(p)), y = y_at(r, done);
    snprintf(title, sizeof title, "%s, %s %lld at depth %lld: %.1f Gop/s at %.2f operations a byte",
             name, bench_kind_name(p->kind), (long long)p->n, (long long)p->depth, done / 1e9,
             intensity(p));
    svg_mark(r->pane.b, series, x, y, title);
    if (series == 0) {
        snprintf(label, sizeof label, p->depth > 0 ? "%s %lld @ %lld" : "%s %lld",
                 bench_kind_name(p->kind), (long long)p->n, (long long)p->depth);
        bool left = p->kind == BENCH_DRAFT || x > r->pane.x + 0.8 * r->pane.w;
        draw_label(r, x, y, left, label);
    }
}

void bench_roof_panel(const bench_plan *plan, mk_buf *b, int i, double x, double y) {
    roof r = {.plan = plan,
              .head = roof_head(plan, i),
              .pane = {b, x + 56, y + 56, SVG_PANEL_W - 80, SVG_PANEL_H - 116}};
    char title[64];
    snprintf(title, sizeof title, "roofline, Gop/s, %d thread%s", r.head->n_thread,
             r.head->n_thread == 1 ? "" : "s");
    svg_heading(plan, b, x, y + 14, title, true);
    set_axes(&r);
    grid(&r);
    draw_roof(&r);
    for (int k = plan->n_peer; k >= 0; k--) {
        char name[BENCH_NAME_MAX] = "minke";
        if (k > 0) {
            bench_peer_name(plan->peers[k - 1], k - 1, name);
        }
        for (int64_t j = 0; j < plan->n_point; j++) {
            if (here(&r, &plan->point[j])) {
                draw_point(&r, &plan->point[j], k, name);
            }
        }
    }
}
