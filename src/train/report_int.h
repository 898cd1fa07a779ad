// What the files of the report share.
//
//   report.c          the page
//   report_list.c     which charts there are, from a table of known fields
//   report_chart.c    one chart as HTML and SVG, and its numbers for the script
//   report_curve.c    thinning, smoothing, the scale of an axis
//   report_number.c   numbers as text
//   report_facts.c    summary and recipe
//   report_samples.c  transcripts
#ifndef MK_TRAIN_REPORT_INT_H
#define MK_TRAIN_REPORT_INT_H

#include "train/report.h"

// --- text from outside ---------------------------------------------------------------------------
// Escaped; of a longer text the first `max` bytes and an ellipsis.
void mk_rep_text(mk_buf *b, const char *p, size_t n, size_t max);
void mk_rep_name(mk_buf *b, const char *s);  // of a run, a field, a key: short

// --- numbers as text -----------------------------------------------------------------------------
#define MK_REP_NUMBER 56  // bytes that hold any of them
// web/report.js repeats mk_rep_number for the read-out.
typedef enum {
    MK_REP_PLAIN,  // "1.835"
    MK_REP_COUNT,  // "4,096", "3.41 M"
    MK_REP_SHARE   // "12.5 %"
} mk_rep_unit;

const char *mk_rep_number(double v, mk_rep_unit u, char out[MK_REP_NUMBER]);
const char *mk_rep_time(double seconds, char out[MK_REP_NUMBER]);  // "45 s", "2 h 05 min"
// At an axis that ends at `top`, shorter: "1.5", "20k", "25%".
const char *mk_rep_tick(double v, double top, mk_rep_unit u, char out[MK_REP_NUMBER]);
// The smallest of 1, 2, 2.5, 5 times a power of ten that cuts `range` into at most n parts.
double mk_rep_step(double range, int n);

// --- curves --------------------------------------------------------------------------------------
#define MK_REP_MAX_COLUMN 600

// An axis; `log`: lo and hi are powers of ten and above 0.
typedef struct {
    double lo, hi, step;
    bool log;
    int64_t n_outside;  // values that were left outside, so that the others can be seen
    double outside;     // the farthest of them
} mk_rep_scale;

// Sorts the n values.
mk_rep_scale mk_rep_make_scale(double *value, int64_t n);
// 0 at lo, 1 at hi.
double mk_rep_place(const mk_rep_scale *s, double v);

#define MK_REP_MAX_POINT (2 * MK_REP_MAX_COLUMN)

// A curve as it is drawn: all its points, or of every column the least and the greatest.
typedef struct {
    int64_t n;  // points
    int64_t step[MK_REP_MAX_POINT], column[MK_REP_MAX_POINT];
    double value[MK_REP_MAX_POINT];
    double mean[MK_REP_MAX_POINT];  // of what lies around, for the smooth line
    bool smooth;                    // there is one: enough points, and noise in them
    int64_t n_column;
    double column_mean[MK_REP_MAX_POINT], column_n[MK_REP_MAX_POINT];
} mk_rep_thin;

void mk_rep_thin_curve(const mk_curve *c, int64_t x0, int64_t x1, int64_t n_column,
                       mk_rep_thin *out);
// Makes the means.
void mk_rep_smooth(mk_rep_thin *t, const mk_rep_scale *s);

// --- charts --------------------------------------------------------------------------------------
typedef enum {
    MK_REP_NOISY,  // a smooth line helps
    MK_REP_EXACT,  // its corners mean something
    MK_REP_DOTS    // few points, each of which counts: evaluations
} mk_rep_kind;

#define MK_REP_MAX_SERIES MK_RUNLOG_MAX_CURVE

typedef struct {
    const mk_curve *curve;
    const char *who;  // name of the run
    // what it is beside others of the same run; may be from a log; NULL: nothing
    const char *label;
    int run, hue;  // of 0 ...
    mk_rep_kind kind;
} mk_rep_series;

// clang-format off
#define MK_REP_GROUPS(X)                                \
    X(LEARNING, "Learning")                             \
    X(SAMPLING, "What the model wrote")                 \
    X(OPTIMISER, "Optimiser and data")                  \
    X(OTHER, "Other fields of the log")
// clang-format on

typedef enum {
#define X(name, title) MK_REP_##name,
    MK_REP_GROUPS(X)
#undef X
        MK_REP_N_GROUP
} mk_rep_group;

typedef struct {
    const char *title, *note;  // title may be from a log; note NULL: none
    mk_rep_group in;
    mk_rep_unit u;
    bool wide;
    int n;
    mk_rep_series s[MK_REP_MAX_SERIES];
} mk_rep_chart;

// Room for every field of every run.
#define MK_REP_MAX_CHART (MK_REPORT_MAX_RUN * MK_RUNLOG_MAX_CURVE)

// Fills `list` with the charts of all runs, in the order of the page; returns their number.
int64_t mk_rep_list(const mk_runlog *const *run, int n_run, mk_rep_chart *list);
// All values of all its series are the same.
bool mk_rep_constant(const mk_rep_chart *ch);

// What a reader reads off the ends of a drawn curve; the summary must say the same.
typedef struct {
    const mk_curve *curve;
    double begin, end;
} mk_rep_ends;

// What all charts of a page share.
typedef struct {
    mk_buf *b;
    mk_buf data;       // for the script: one JSON array of numbers per chart
    int64_t x0, x1;    // steps at the left and the right edge
    int64_t n_column;  // most columns of a curve
    int n_run;
    int64_t n_chart;    // drawn so far
    mk_rep_ends *ends;  // [n_ends] of the curves drawn so far; room for all
    int64_t n_ends;
} mk_rep_canvas;

// Errors: MK_ENOMEM.
mk_status mk_rep_draw(mk_rep_canvas *c, const mk_rep_chart *ch, mk_err *err) MK_WARN_UNUSED;

// --- other parts of the page ---------------------------------------------------------------------
// After the charts were drawn.
void mk_rep_summary(mk_buf *b, const mk_rep_canvas *c, const mk_runlog *const *run);
void mk_rep_recipe(mk_buf *b, const mk_runlog *const *run, int n_run);
int64_t mk_rep_samples(mk_buf *b, const mk_runlog *const *run, int n_run);  // how many

#endif
