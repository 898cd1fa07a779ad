// One chart: a heading with what its lines are and where they end, the lines as SVG, and its
// numbers for the script.
//
// The SVG is stretched to the width of the page (preserveAspectRatio none), its lines are not
// (vector-effect in report.css); labels are HTML, so that they keep their size on a phone.  A dot
// is a line of no length with round ends, which stretching leaves round.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "train/report_int.h"

// Units of the drawing; integers, so that relative moves add up exactly.
#define W 4000
#define H 1000

typedef struct {
    mk_rep_canvas *c;
    const mk_rep_chart *ch;
    mk_rep_thin *thin;  // [ch->n]
    mk_rep_scale scale;
} drawing;

// --- lines ---------------------------------------------------------------------------------------

static int x_of(const drawing *d, int64_t step) {
    int64_t range = d->c->x1 - d->c->x0;
    return range > 0 ? (int)((double)(step - d->c->x0) / (double)range * W + 0.5) : W / 2;
}

// What lies outside is cut off by the picture's frame; no need to go far.
static int y_of(const drawing *d, double v) {
    double y = (1 - mk_rep_place(&d->scale, v)) * H;
    return (int)floor((y < -H / 4.0 ? -H / 4.0 : y > H * 1.25 ? H * 1.25 : y) + 0.5);
}

static void draw_path(const drawing *d, const mk_rep_thin *t, const double *value) {
    mk_buf *b = d->c->b;
    int x = 0, y = 0;
    for (int64_t i = 0; i < t->n; i++) {
        int to_x = x_of(d, t->step[i]), to_y = y_of(d, value[i]);
        if (i > 0 && to_x == x && to_y == y) {
            continue;
        }
        if (i == 0) {
            mk_buf_printf(b, "M%d %dl", to_x, to_y);
        } else {
            mk_buf_printf(b, i == 1 || to_x - x < 0 ? "%d %d" : " %d %d", to_x - x, to_y - y);
        }
        x = to_x;
        y = to_y;
    }
    mk_buf_puts(b, " 0 0");  // a path of one point would not be drawn
}

static void draw_series(const drawing *d, int i) {
    const mk_rep_series *s = &d->ch->s[i];
    const mk_rep_thin *t = &d->thin[i];
    mk_buf *b = d->c->b;
    const char *dash = s->hue >= 8 ? " dash" : "";
    mk_buf_printf(b, "<path class=\"%s h%d r%d%s\" d=\"",
                  s->kind == MK_REP_DOTS ? "thin"
                  : t->smooth            ? "raw"
                                         : "line",
                  s->hue % 8, s->run, dash);
    draw_path(d, t, t->value);
    mk_buf_puts(b, "\"/>");
    if (s->kind == MK_REP_DOTS || t->n == 1) {
        mk_buf_printf(b, "<path class=\"dots h%d r%d\" d=\"", s->hue % 8, s->run);
        for (int64_t k = 0; k < t->n; k++) {
            mk_buf_printf(b, "M%d %dh0", x_of(d, t->step[k]), y_of(d, t->value[k]));
        }
        mk_buf_puts(b, "\"/>");
    } else if (t->smooth) {
        mk_buf_printf(b, "<path class=\"mean h%d r%d%s\" d=\"", s->hue % 8, s->run, dash);
        draw_path(d, t, t->mean);
        mk_buf_puts(b, "\"/>");
    }
}

// --- axes ----------------------------------------------------------------------------------------

// Lines of the y axis from the lowest; at most 12, whatever the scale is.
static int64_t y_ticks(const mk_rep_scale *s, double tick[12]) {
    int64_t n = 0;
    if (s->log) {
        for (double v = s->lo; v <= s->hi * 1.0001 && n < 12; v *= s->step) {
            tick[n++] = v;
        }
        return n;
    }
    double first = floor(s->lo / s->step + 0.5);
    for (; n < 12 && (first + (double)n) * s->step <= s->hi + s->step / 2; n++) {
        tick[n] = (first + (double)n) * s->step;
    }
    return n;
}

static void draw_grid(const drawing *d, const double *tick, int64_t n) {
    mk_buf_puts(d->c->b, "<path class=\"grid\" d=\"");
    for (int64_t i = 0; i < n; i++) {
        mk_buf_printf(d->c->b, "M0 %dH%d", y_of(d, tick[i]), W);
    }
    mk_buf_puts(d->c->b, "\"/>");
}

static void label_y(const drawing *d, const double *tick, int64_t n) {
    char text[MK_REP_NUMBER];
    for (int64_t i = 0; i < n; i++) {
        mk_buf_printf(d->c->b, "<span class=\"y\" style=\"top:%.1f%%\">%s</span>",
                      100.0 * y_of(d, tick[i]) / H,
                      mk_rep_tick(tick[i], d->scale.hi, d->ch->u, text));
    }
}

static void label_x(const drawing *d) {
    char text[MK_REP_NUMBER];
    double x0 = (double)d->c->x0, x1 = (double)d->c->x1;
    double by = mk_rep_step(x1 - x0, d->ch->wide ? 6 : 3);
    by = by < 1 ? 1 : by;
    mk_buf_puts(d->c->b, d->ch->wide ? "<span class=\"x step0\">step</span>" : "");
    for (double v = ceil(x0 / by) * by; v <= x1; v += by) {
        mk_buf_printf(d->c->b, "<span class=\"x\" style=\"left:%.2f%%\">%s</span>",
                      100.0 * x_of(d, (int64_t)v) / W, mk_rep_tick(v, x1, MK_REP_PLAIN, text));
    }
}

// --- heading -------------------------------------------------------------------------------------

static void write_key(const drawing *d, int i) {
    const mk_rep_series *s = &d->ch->s[i];
    const mk_rep_thin *t = &d->thin[i];
    char text[MK_REP_NUMBER];
    mk_buf *b = d->c->b;
    mk_buf_printf(b, "<span class=\"key r%d\">", s->run);
    if (d->ch->n > 1 || d->c->n_run > 1) {
        mk_buf_printf(b, "<i class=\"h%d%s\"></i>", s->hue % 8,
                      s->kind == MK_REP_DOTS ? " ring" : "");
    }
    if (d->ch->n > 1 && s->label) {
        mk_buf_puts(b, "<bdi>");
        mk_rep_name(b, s->label);
        mk_buf_puts(b, "</bdi> ");
    }
    mk_buf_printf(b, "<b>%s</b></span>", mk_rep_number(t->mean[t->n - 1], d->ch->u, text));
}

// How to read it, and what is special about its scale.
static void write_note(const drawing *d) {
    char text[MK_REP_NUMBER];
    mk_buf *b = d->c->b;
    const char *between = d->ch->note ? "; " : "";
    if (!d->ch->note && !d->scale.log && d->scale.n_outside == 0) {
        return;
    }
    mk_buf_printf(b, "<p class=\"note\">%s", d->ch->note ? d->ch->note : "");
    if (d->scale.log) {
        mk_buf_printf(b, "%slogarithmic scale", between);
    } else if (d->scale.n_outside > 0) {
        mk_buf_printf(b, "%s%lld beyond the frame, as far as %s", between,
                      (long long)d->scale.n_outside,
                      mk_rep_number(d->scale.outside, d->ch->u, text));
    }
    mk_buf_puts(b, "</p>");
}

static void write_heading(const drawing *d) {
    mk_buf *b = d->c->b;
    mk_buf_puts(b, "<figcaption><h3><bdi>");
    mk_rep_name(b, d->ch->title);
    mk_buf_puts(b, "</bdi></h3><p class=\"keys\">");
    for (int i = 0; i < d->ch->n; i++) {
        write_key(d, i);
    }
    mk_buf_puts(b, "</p>");
    write_note(d);
    mk_buf_puts(b, "</figcaption>");
}

// What a reader who does not see the picture is told.
static void write_label(const drawing *d) {
    mk_buf *b = d->c->b;
    char from[MK_REP_NUMBER], to[MK_REP_NUMBER];
    mk_rep_name(b, d->ch->title);
    for (int i = 0; i < d->ch->n; i++) {
        const mk_curve *c = d->ch->s[i].curve;
        mk_buf_puts(b, i > 0 ? "; " : ": ");
        mk_rep_name(b, d->c->n_run > 1 ? d->ch->s[i].who : "");
        mk_buf_puts(b, d->ch->s[i].label ? " " : "");
        mk_rep_name(b, d->ch->s[i].label ? d->ch->s[i].label : "");
        mk_buf_printf(b, " from %s at step %lld to %s at step %lld",
                      mk_rep_number(d->thin[i].mean[0], d->ch->u, from), (long long)c->step[0],
                      mk_rep_number(d->thin[i].mean[d->thin[i].n - 1], d->ch->u, to),
                      (long long)c->step[c->n - 1]);
    }
}

// --- numbers for the script ----------------------------------------------------------------------

static void add_list(mk_buf *b, const double *v, int64_t n) {
    mk_buf_putc(b, '[');
    for (int64_t i = 0; i < n; i++) {
        mk_buf_printf(b, i > 0 ? ",%.6g" : "%.6g", v[i]);
    }
    mk_buf_putc(b, ']');
}

// [unit, log, lo, hi, [[steps, each but the first as a difference], values, means or none], ...]
static void add_data(const drawing *d) {
    mk_buf *b = &d->c->data;
    mk_buf_printf(b, "%s[%d,%d,%.9g,%.9g", d->c->n_chart > 0 ? ",\n" : "", (int)d->ch->u,
                  d->scale.log, d->scale.lo, d->scale.hi);
    for (int i = 0; i < d->ch->n; i++) {
        const mk_rep_thin *t = &d->thin[i];
        mk_buf_puts(b, ",[[");
        for (int64_t k = 0; k < t->n; k++) {
            mk_buf_printf(b, k > 0 ? ",%lld" : "%lld",
                          (long long)(k > 0 ? t->step[k] - t->step[k - 1] : t->step[k]));
        }
        mk_buf_puts(b, "],");
        add_list(b, t->value, t->n);
        mk_buf_putc(b, ',');
        add_list(b, t->mean, t->smooth ? t->n : 0);
        mk_buf_putc(b, ']');
    }
    mk_buf_putc(b, ']');
}

// --- the chart -----------------------------------------------------------------------------------

static mk_status thin_all(drawing *d, mk_err *err) {
    int64_t n = 0;
    for (int i = 0; i < d->ch->n; i++) {
        mk_rep_thin_curve(d->ch->s[i].curve, d->c->x0, d->c->x1, d->c->n_column, &d->thin[i]);
        n += d->thin[i].n;
    }
    double *all = mk_try_alloc((size_t)n, sizeof *all);
    if (!all) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld points of a chart", (long long)n);
    }
    n = 0;
    for (int i = 0; i < d->ch->n; i++) {
        memcpy(all + n, d->thin[i].value, (size_t)d->thin[i].n * sizeof *all);
        n += d->thin[i].n;
    }
    d->scale = mk_rep_make_scale(all, n);
    mk_free(all);
    for (int i = 0; i < d->ch->n; i++) {
        mk_rep_thin *t = &d->thin[i];
        if (d->ch->s[i].kind == MK_REP_NOISY) {
            mk_rep_smooth(t, &d->scale);
        }
        d->c->ends[d->c->n_ends++] =
            (mk_rep_ends){d->ch->s[i].curve, t->mean[0], t->mean[t->n - 1]};
    }
    return MK_OK;
}

static void write_chart(const drawing *d) {
    mk_buf *b = d->c->b;
    double tick[12];
    int64_t n = y_ticks(&d->scale, tick);
    mk_buf_printf(b, "<figure class=\"chart%s\">", d->ch->wide ? " wide" : "");
    write_heading(d);
    mk_buf_puts(b, "<div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"");
    write_label(d);
    mk_buf_printf(b,
                  "\"><svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" "
                  "aria-hidden=\"true\">",
                  W, H);
    draw_grid(d, tick, n);
    for (int i = 0; i < d->ch->n; i++) {
        draw_series(d, i);
    }
    mk_buf_puts(b, "</svg>");
    label_y(d, tick, n);
    label_x(d);
    mk_buf_puts(b, "</div></figure>\n");
}

mk_status mk_rep_draw(mk_rep_canvas *c, const mk_rep_chart *ch, mk_err *err) {
    drawing d = {.c = c, .ch = ch, .thin = mk_try_alloc((size_t)ch->n, sizeof *d.thin)};
    if (!d.thin) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the %d lines of a chart", ch->n);
    }
    mk_status st = thin_all(&d, err);
    if (st == MK_OK) {
        write_chart(&d);
        add_data(&d);
        c->n_chart++;
    }
    mk_free(d.thin);
    return st;
}
