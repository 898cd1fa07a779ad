// The page.  See report.h, and web/report.css and web/report.js, which it carries.
#include "train/report.h"

#include <string.h>

#include "base/alloc.h"
#include "base/html.h"
#include "base/utf8.h"
#include "train/report_int.h"

// Made from the files in web/ when the library is built.
extern const unsigned char mk_web_report_css[], mk_web_report_js[];
extern const unsigned long mk_web_report_css_n, mk_web_report_js_n;

#define MAX_NAME 80

void mk_rep_text(mk_buf *b, const char *p, size_t n, size_t max) {
    if (n <= max) {
        mk_html_text(b, p, n);
        return;
    }
    mk_html_text(b, p, max - mk_utf8_incomplete_tail(p, max));
    mk_buf_puts(b, "\xE2\x80\xA6");
}

void mk_rep_name(mk_buf *b, const char *s) {
    mk_rep_text(b, s, strlen(s), MAX_NAME);
}

// --- head ----------------------------------------------------------------------------------------

// Lines of a run are hidden where its box in the legend is not checked; without a script.
static void write_rules(mk_buf *b, int n_run) {
    for (int r = 0; n_run > 1 && r < n_run; r++) {
        mk_buf_printf(b, ":root:has(#run%d:not(:checked)) .r%d{display:none}\n", r, r);
    }
}

static void write_head(mk_buf *b, const mk_runlog *const *run, int n_run) {
    mk_buf_puts(b, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                   "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                   "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
                   "form-action 'none'\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                   "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    for (int r = 0; r < n_run && r < 3; r++) {
        mk_buf_puts(b, r > 0 ? ", " : "");
        mk_rep_name(b, run[r]->name);
    }
    mk_buf_puts(b, " \xC2\xB7 minke training report</title>\n<style>\n");
    mk_buf_add(b, mk_web_report_css, mk_web_report_css_n);
    write_rules(b, n_run);
    mk_buf_puts(b, "</style></head>\n<body><main>\n");
}

// --- charts --------------------------------------------------------------------------------------

static const char *const group_titles[] = {
#define X(name, title) title,
    MK_REP_GROUPS(X)
#undef X
};

// What never changed is said in a line instead of drawn.
static void write_constants(mk_buf *b, const mk_rep_chart *list, int64_t n, mk_rep_group g) {
    bool any = false;
    char text[MK_REP_NUMBER];
    for (int64_t i = 0; i < n; i++) {
        if (list[i].in == g && mk_rep_constant(&list[i])) {
            mk_buf_puts(b, any ? "" : "<p class=\"constants\"><span>Constant</span>");
            mk_buf_puts(b, "<span><bdi>");
            mk_rep_name(b, list[i].title);
            mk_buf_printf(b, "</bdi> <b>%s</b></span>",
                          mk_rep_number(list[i].s[0].curve->value[0], list[i].u, text));
            any = true;
        }
    }
    mk_buf_puts(b, any ? "</p>\n" : "");
}

static mk_status write_group(mk_rep_canvas *c, const mk_rep_chart *list, int64_t n, mk_rep_group g,
                             mk_err *err) {
    bool any = false, grid = false;
    int n_small = 0;
    for (int64_t i = 0; i < n; i++) {
        any = any || list[i].in == g;
        n_small += list[i].in == g && !list[i].wide && !mk_rep_constant(&list[i]);
    }
    if (!any) {
        return MK_OK;
    }
    mk_buf_printf(c->b, "<section><h2>%s</h2>\n", group_titles[g]);
    for (int64_t i = 0; i < n; i++) {
        if (list[i].in == g && !mk_rep_constant(&list[i])) {
            if (!grid) {  // four are two rows of two rather than three and one
                mk_buf_printf(c->b, "<div class=\"charts%s\">\n",
                              n_small <= 2 || n_small == 4 ? " two" : "");
            }
            grid = true;
            MK_TRY(mk_rep_draw(c, &list[i], err));
        }
    }
    mk_buf_puts(c->b, grid ? "</div>\n" : "");
    write_constants(c->b, list, n, g);
    mk_buf_puts(c->b, "</section>\n");
    return MK_OK;
}

// Bytes that the lines of all charts may take, and about what a drawn point takes: in the path, the
// smooth path, and the numbers for the script.
#define CHART_BYTES ((int64_t)1100 << 10)
#define POINT_BYTES 45

static int64_t columns_for(const mk_rep_chart *list, int64_t n) {
    int64_t n_series = 1;
    for (int64_t i = 0; i < n; i++) {
        n_series += mk_rep_constant(&list[i]) ? 0 : list[i].n;
    }
    int64_t columns = CHART_BYTES / POINT_BYTES / 2 / n_series;
    return columns < 8 ? 8 : columns > MK_REP_MAX_COLUMN ? MK_REP_MAX_COLUMN : columns;
}

// Which runs are shown, and how; a legend that stays in sight.
static void write_bar(mk_buf *b, const mk_runlog *const *run, int n_run) {
    mk_buf_puts(b, "<div class=\"bar\">\n");
    for (int r = 0; n_run > 1 && r < n_run; r++) {
        mk_buf_printf(b,
                      "<label class=\"h%d\"><input type=\"checkbox\" id=\"run%d\" checked>"
                      "%s<bdi>",
                      r % 8, r, r >= 8 ? "<i class=\"h dash\"></i>" : "");
        mk_rep_name(b, run[r]->name);
        mk_buf_puts(b, "</bdi></label>\n");
    }
    mk_buf_puts(b, "<label class=\"smooth\"><input type=\"checkbox\" id=\"smooth\" checked>"
                   "Smooth lines</label></div>\n");
}

static mk_status write_charts(mk_rep_canvas *c, const mk_runlog *const *run, int n_run,
                              mk_err *err) {
    mk_rep_chart *list = mk_try_alloc(MK_REP_MAX_CHART, sizeof *list);
    if (!list) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the charts of %d runs", n_run);
    }
    int64_t n = mk_rep_list(run, n_run, list);
    c->n_column = columns_for(list, n);
    write_bar(c->b, run, n_run);
    mk_status st = MK_OK;
    for (int g = 0; g < MK_REP_N_GROUP && st == MK_OK; g++) {
        st = write_group(c, list, n, (mk_rep_group)g, err);
    }
    mk_free(list);
    return st;
}

// --- the page ------------------------------------------------------------------------------------

static void write_tail(mk_rep_canvas *c) {
    mk_buf_printf(c->b, "</main>\n<script type=\"application/json\" id=\"data\">\n[%lld,%lld,%d,[",
                  (long long)c->x0, (long long)c->x1, c->n_run);
    mk_buf_add(c->b, c->data.data ? c->data.data : "", c->data.len);
    mk_buf_puts(c->b, "]]\n</script>\n<script>\n");
    mk_buf_add(c->b, mk_web_report_js, mk_web_report_js_n);
    mk_buf_puts(c->b, "</script></body></html>\n");
}

mk_status mk_report_html(const mk_runlog *const *run, int n_run, mk_buf *b, mk_report_info *info,
                         mk_err *err) {
    if (n_run < 1 || n_run > MK_REPORT_MAX_RUN) {
        return MK_FAIL(err, MK_EUSAGE, "expected 1 to %d runs in one report, got %d",
                       MK_REPORT_MAX_RUN, n_run);
    }
    mk_rep_canvas c = {.x0 = run[0]->first_step, .x1 = run[0]->last_step, .n_run = n_run};
    for (int r = 1; r < n_run; r++) {
        c.x0 = run[r]->first_step < c.x0 ? run[r]->first_step : c.x0;
        c.x1 = run[r]->last_step > c.x1 ? run[r]->last_step : c.x1;
    }
    mk_buf charts;
    mk_buf_init(&charts, MK_REPORT_MAX_BYTES);
    mk_buf_init(&c.data, MK_REPORT_MAX_BYTES);
    c.b = &charts;
    c.ends = mk_alloc(MK_REP_MAX_CHART * sizeof *c.ends);
    mk_status st = write_charts(&c, run, n_run, err);
    c.b = b;
    write_head(b, run, n_run);
    mk_rep_summary(b, &c, run);
    mk_rep_recipe(b, run, n_run);
    mk_buf_add(b, charts.data ? charts.data : "", charts.len);
    int64_t n_sample = mk_rep_samples(b, run, n_run);
    write_tail(&c);
    if (st == MK_OK && (b->failed || c.data.failed || charts.failed)) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for the report, or it would be larger than it may");
    }
    if (info) {
        *info = (mk_report_info){c.n_chart, n_sample};
    }
    mk_buf_free(&c.data);
    mk_buf_free(&charts);
    mk_free(c.ends);
    return st;
}
