// What all pictures share: the document, text, marks, and the files.
#include "bench_svg.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/html.h"
#include "cmd.h"

#define MAX_PICTURE ((size_t)32 << 20)
#define MARGIN      12.0

// Light first; the second half counts where a dark page is wanted.  Two hues that the commonest
// colour blindness mixes up never stand for neighbouring series.
static const char style[] =
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#3d444d}"
    ".h{font-size:14px;font-weight:600;fill:#1f2328}.dim{fill:#656d76}.page{fill:#ffffff}"
    ".grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}"
    ".lim{stroke:#57606a;stroke-width:1.5;stroke-dasharray:6 4;fill:none}"
    ".s{fill:none;stroke-width:2}.w{stroke-width:1;opacity:.7}"
    ".v{paint-order:stroke;stroke:#ffffff;stroke-width:3px;stroke-linejoin:round}"
    ".k0{stroke:#0550ae}.k1{stroke:#bc4c00}.k2{stroke:#1a7f37}.k3{stroke:#8250df}"
    ".f0{fill:#0550ae}.f1{fill:#bc4c00}.f2{fill:#1a7f37}.f3{fill:#8250df}"
    "@media (prefers-color-scheme:dark){text{fill:#c9d1d9}.h{fill:#f0f6fc}.dim{fill:#9198a1}"
    ".page{fill:#0d1117}.v{stroke:#0d1117}.grid{stroke:#2a313c}.axis{stroke:#656c76}.lim{stroke:#"
    "9198a1}"
    ".k0{stroke:#58a6ff}.k1{stroke:#f0883e}.k2{stroke:#3fb950}.k3{stroke:#bc8cff}"
    ".f0{fill:#58a6ff}.f1{fill:#f0883e}.f2{fill:#3fb950}.f3{fill:#bc8cff}}";

#define N_COLOUR 4

// --- text ----------------------------------------------------------------------------------------

void svg_text(mk_buf *b, double x, double y, const char *attrs, const char *text) {
    mk_buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attrs);
    mk_html_str(b, text);
    mk_buf_puts(b, "</text>\n");
}

void svg_line(mk_buf *b, const double from[2], const double to[2], const char *attrs) {
    mk_buf_printf(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", from[0],
                  from[1], to[0], to[1], attrs);
}

double svg_step(double range, int n) {
    static const double part[] = {1, 2, 2.5, 5, 10};
    double power = range > 0 ? pow(10, floor(log10(range / n))) : 1;
    for (int i = 0; i < 5; i++) {
        if (power * part[i] * n >= range) {
            return power * part[i];
        }
    }
    return power * 10;
}

const char *svg_number(double v, char out[24]) {
    snprintf(out, 24, fabs(v) < 9.995 ? "%.3g" : fabs(v) < 99.95 ? "%.1f" : "%.0f", v);
    size_t n = strlen(out);
    if (n > 2 && strcmp(out + n - 2, ".0") == 0) {
        out[n - 2] = 0;
    }
    return out;
}

// --- marks ---------------------------------------------------------------------------------------

void svg_mark(mk_buf *b, int series, double x, double y, const char *title) {
    static const char *const shape[N_COLOUR] = {
        "M%.1f %.1fm-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        "M%.1f %.1fm-4 -4h8v8h-8z",
        "M%.1f %.1fm0 -5l5 9h-10z",
        "M%.1f %.1fm0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    };
    char path[96];
    int k = series % N_COLOUR;
    snprintf(path, sizeof path, shape[k], x, y);
    mk_buf_printf(b, "<path class=\"f%d\" d=\"%s\"><title>", k, path);
    mk_html_str(b, title);
    mk_buf_puts(b, "</title></path>\n");
}

void svg_heading(const bench_plan *plan, mk_buf *b, double x, double y, const char *title,
                 bool with_limit) {
    svg_text(b, x, y, "class=\"h\"", title);
    y += 20;
    for (int k = 0; k <= plan->n_peer; k++) {
        char name[BENCH_NAME_MAX] = "minke";
        if (k > 0) {
            bench_peer_name(plan->peers[k - 1], k - 1, name);
        }
        svg_mark(b, k, x + 5, y - 4, name);
        svg_text(b, x + 15, y, "", name);
        x += 30 + 7.0 * (double)strlen(name);
    }
    if (with_limit) {
        svg_line(b, (double[]){x, y - 4}, (double[]){x + 24, y - 4}, "class=\"lim\"");
        svg_text(b, x + 30, y, "", "limit of the machine");
    }
}

// --- the document --------------------------------------------------------------------------------

#define TITLE_H 36.0

// Two columns, row by row.
void svg_place(int i, double *x, double *y) {
    *x = MARGIN + (i % 2) * SVG_PANEL_W;
    *y = TITLE_H + MARGIN + floor(i / 2) * SVG_PANEL_H;
}

void svg_begin(mk_buf *b, const char *title, int n_panel) {
    double w = 2 * MARGIN + (n_panel > 1 ? 2 : 1) * SVG_PANEL_W;
    double h = TITLE_H + 2 * MARGIN + floor((n_panel + 1) / 2) * SVG_PANEL_H;
    mk_buf_printf(b,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
                  "viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n<title>",
                  w, h, w, h);
    mk_html_str(b, title);
    mk_buf_printf(b, "</title>\n<style>%s</style>\n", style);
    mk_buf_printf(b, "<rect class=\"page\" width=\"%.0f\" height=\"%.0f\"/>\n", w, h);
    svg_text(b, MARGIN, TITLE_H - 8, "class=\"h\"", title);
}

void svg_end(mk_buf *b) {
    mk_buf_puts(b, "</svg>\n");
}

// The speeds, if wanted, and behind them the roofline.
static void picture(const bench_plan *plan, bool speeds, mk_buf *b) {
    int n_speed = speeds ? bench_speed_panels(plan) : 0, n_roof = bench_roof_panels(plan);
    char title[256];
    snprintf(title, sizeof title, "%.160s, %s, cache in %s; medians of %lld",
             mk_path_base(plan->model_path), mk_kernels_name(mk_llm_kernels(plan->llm)),
             bench_kv_name(plan), (long long)plan->n_rep);
    svg_begin(b, title, n_speed + n_roof);
    for (int i = 0; i < n_speed + n_roof; i++) {
        double x, y;
        svg_place(i, &x, &y);
        if (i < n_speed) {
            bench_speed_panel(plan, b, i, x, y);
        } else {
            bench_roof_panel(plan, b, i - n_speed, x, y);
        }
    }
    svg_end(b);
}

// --- HTML ----------------------------------------------------------------------------------------

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
    "<meta name=\"viewport\" content=\"width=device-width\"/>"
    "<meta name=\"color-scheme\" content=\"light dark\"/><title>minke bench</title>\n<style>"
    "body{font:14px system-ui,-apple-system,'Segoe UI',sans-serif;margin:1rem;background:#ffffff;"
    "color:#1f2328}svg{max-width:100%;height:auto}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.25rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid "
    "#d8dee4}"
    "td:first-child,th:first-child{text-align:left}"
    "@media (prefers-color-scheme:dark){body{background:#0d1117;color:#c9d1d9}"
    "td,th{border-color:#2a313c}}</style></head><body>\n";

// The same numbers as the text's table, for those who read it in a browser.
static void html_row(const bench_plan *plan, const bench_point *p, mk_buf *b) {
    bench_bound w = bench_bound_of(p);
    bool memory = strcmp(w.bound, "bandwidth") == 0;
    mk_buf_printf(b,
                  "<tr><td>%s %lld</td><td>%lld</td><td>%d</td><td>%.2f</td><td>%.2f</td>"
                  "<td>%.2f</td><td>%.2f</td><td>%.1f %% of %s</td>",
                  bench_kind_name(p->kind), (long long)p->n, (long long)p->depth, p->n_thread,
                  bench_median(&p->speed), bench_min(&p->speed), bench_max(&p->speed), w.speed,
                  100 * (memory ? w.read : w.compute), w.bound);
    for (int k = 0; k < plan->n_peer; k++) {
        double them = bench_median(&p->peer[k]);
        if (them > 0) {
            mk_buf_printf(b, "<td>%.2f (%.2f x)</td>", them, bench_median(&p->speed) / them);
        } else {
            mk_buf_puts(b, "<td></td>");
        }
    }
    mk_buf_puts(b, "</tr>\n");
}

static void html_table(const bench_plan *plan, mk_buf *b) {
    mk_buf_puts(b, "<table><tr><th>measured</th><th>depth</th><th>threads</th><th>tok/s</th>"
                   "<th>min</th><th>max</th><th>limit</th><th>reached</th>");
    for (int k = 0; k < plan->n_peer; k++) {
        char name[BENCH_NAME_MAX];
        mk_buf_puts(b, "<th>");
        bench_peer_name(plan->peers[k], k, name);
        mk_html_str(b, name);
        mk_buf_puts(b, "</th>");
    }
    mk_buf_puts(b, "</tr>\n");
    for (int64_t i = 0; i < plan->n_point; i++) {
        html_row(plan, &plan->point[i], b);
    }
    mk_buf_puts(b, "</table>\n");
    for (int k = 0; k < plan->n_peer; k++) {
        char name[BENCH_NAME_MAX];
        bench_peer_name(plan->peers[k], k, name);
        mk_buf_printf(b, "<p>%s: <code>", name);
        mk_html_str(b, bench_peer_command(plan->peers[k]));
        mk_buf_puts(b, "</code></p>\n");
    }
}

// --- files ---------------------------------------------------------------------------------------

static bool ends_in(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

mk_status bench_check_picture(const char *path, mk_err *err) {
    return !path || ends_in(path, ".svg") || ends_in(path, ".html")
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE,
                         "expected a picture's name that ends in .svg or .html, "
                         "got '%s'",
                         path);
}

// Atomically: a picture is whole or not there.
static mk_status save(const mk_buf *b, const char *path, mk_err *err) {
    mk_writer *w = NULL;
    if (b->failed) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the picture %s", path);
    }
    MK_TRY(mk_writer_open(path, &w, err));
    mk_status st = mk_writer_write(w, b->data, b->len, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

static mk_status write_picture(const bench_plan *plan, bool speeds, const char *path, mk_err *err) {
    bool html = ends_in(path, ".html");
    mk_buf b;
    mk_buf_init(&b, MAX_PICTURE);
    mk_buf_puts(&b, html ? page_head : "");
    picture(plan, speeds, &b);
    if (html) {
        html_table(plan, &b);
        mk_buf_puts(&b, "</body></html>\n");
    }
    mk_status st = save(&b, path, err);
    mk_buf_free(&b);
    return st;
}

mk_status bench_write_chart(const bench_plan *plan, const char *path, mk_err *err) {
    return write_picture(plan, true, path, err);
}

mk_status bench_write_roofline(const bench_plan *plan, const char *path, mk_err *err) {
    return write_picture(plan, false, path, err);
}
