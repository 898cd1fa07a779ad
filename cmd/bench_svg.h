// Pictures of `minke bench`: a grid of panels in one self-contained SVG.
//
// Colours come from classes with a light and a dark form (prefers-color-scheme), nothing is loaded
// from elsewhere, every mark has a <title> that says its numbers.  Series 0 is ours, 1.. are peers;
// they differ in the shape of their marks as well as in colour.
#ifndef MK_CMD_BENCH_SVG_H
#define MK_CMD_BENCH_SVG_H

#include "bench.h"

#define SVG_PANEL_W 480.0
#define SVG_PANEL_H 340.0

// The part of a panel that is drawn in, in pixels of the picture.
typedef struct {
    mk_buf *b;
    double x, y, w, h;
} svg_pane;

// A panel draws itself; `arg` is its own.
typedef void (*svg_panel_fn)(mk_buf *b, double x, double y, void *arg);

void svg_begin(mk_buf *b, const char *title, int n_panel);
void svg_end(mk_buf *b);
// Left upper corner of the i-th panel.
void svg_place(int i, double *x, double *y);

void svg_text(mk_buf *b, double x, double y, const char *attrs, const char *text);
void svg_line(mk_buf *b, const double from[2], const double to[2], const char *attrs);
// The mark of a series (0 filled circle, then square, triangle, diamond, again) with a title.
void svg_mark(mk_buf *b, int series, double x, double y, const char *title);
// Heading of a panel, and a row of marks with names under it: ours, the peers, the limit.
void svg_heading(const bench_plan *plan, mk_buf *b, double x, double y, const char *title,
                 bool with_limit);

// The smallest of 1, 2, 2.5, 5 times a power of ten that cuts `range` into at most n parts.
double svg_step(double range, int n);
// "1500", "2.5": as many digits as needed.
const char *svg_number(double v, char out[24]);

// How many panels there are, and the drawing of the i-th, for speeds and for the roofline.
int bench_speed_panels(const bench_plan *plan);
void bench_speed_panel(const bench_plan *plan, mk_buf *b, int i, double x, double y);
int bench_roof_panels(const bench_plan *plan);
void bench_roof_panel(const bench_plan *plan, mk_buf *b, int i, double x, double y);

#endif
