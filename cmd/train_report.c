// minke train report: the page of one or several runs, or their curves as TensorBoard's event
// files.
#include "train.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/file.h"
#include "train/report.h"
#include "train/tbevents.h"

typedef struct {
    const char *output, *tensorboard;
} report_args;

static const mk_opt opts[] = {
    {.name = "output",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(report_args, output),
     .arg = "FILE",
     .help = "name of the page; without it report.html in the folder of the first run"},
    {.name = "tensorboard",
     .type = MK_OPT_STR,
     .offset = offsetof(report_args, tensorboard),
     .arg = "OUTDIR",
     .help = "write event files for TensorBoard into this folder, one of each run, and a page only "
             "with -o"},
};

const mk_opt_spec cmd_train_report_spec = {
    .program = "minke train report",
    .usage = "DIR... [-o FILE.html]",
    .about = "Shows training runs: one HTML page with curves, the recipe and samples, that needs "
             "nothing else. A DIR is the folder of a run; several are drawn over one another. A "
             "run may still be going on.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .min_args = 0,
    .max_args = -1,
};

typedef struct {
    mk_runlog *run[MK_REPORT_MAX_RUN];
    int n;
} runs;

// --- the page ------------------------------------------------------------------------------------

static mk_status save(const mk_buf *b, const char *path, mk_err *err) {
    mk_writer *w = NULL;
    MK_TRY(mk_writer_open(path, &w, err));
    mk_status st = mk_writer_write(w, b->data, b->len, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

static mk_status write_page(const runs *r, const char *output, mk_err *err) {
    char *path = output ? mk_strdup(output) : mk_path_join(r->run[0]->dir, "report.html"), size[32];
    mk_report_info info = {0};
    mk_buf b;
    mk_buf_init(&b, MK_REPORT_MAX_BYTES);
    mk_status st = mk_report_html((const mk_runlog *const *)r->run, r->n, &b, &info, err);
    st = st == MK_OK ? save(&b, path, err) : st;
    if (st == MK_OK) {
        cmd_write_text(stdout, path, strlen(path));
        printf(": %d %s, %lld charts, %lld samples, %s\n", r->n, r->n == 1 ? "run" : "runs",
               (long long)info.n_chart, (long long)info.n_sample,
               cmd_bytes_text((double)b.len, size));
    }
    mk_buf_free(&b);
    mk_free(path);
    return st;
}

// --- TensorBoard ---------------------------------------------------------------------------------

// TensorBoard names a run after its folder: OUTDIR/RUN/events...; a second run of the name gets a
// number.
static char *folder_of(const runs *r, int i, const char *outdir) {
    int same = 1;
    for (int k = 0; k < i; k++) {
        same += strcmp(r->run[k]->name, r->run[i]->name) == 0;
    }
    mk_buf name;
    mk_buf_init(&name, 1 << 16);
    mk_buf_puts(&name, r->run[i]->name);
    if (same > 1) {
        mk_buf_printf(&name, "-%d", same);
    }
    char *path = mk_path_join(outdir, name.data);
    mk_buf_free(&name);
    return path;
}

static mk_status write_events(const runs *r, const char *outdir, mk_err *err) {
    MK_TRY(mk_folder_make(outdir, err));
    mk_status st = MK_OK;
    for (int i = 0; i < r->n && st == MK_OK; i++) {
        char *dir = folder_of(r, i, outdir),
             *path = mk_path_join(dir, "events.out.tfevents.0000000000.minke");
        int64_t n = 0;
        st = mk_folder_make(dir, err);
        st = st == MK_OK ? mk_tb_write_run(r->run[i], path, &n, err) : st;
        if (st == MK_OK) {
            cmd_write_text(stdout, path, strlen(path));
            printf(": %lld events\n", (long long)n);
        }
        mk_free(path);
        mk_free(dir);
    }
    return st;
}

// --- the method ----------------------------------------------------------------------------------

static mk_status open_runs(const mk_opt_result *o, runs *r, mk_err *err) {
    if (o->n_args < 1 || o->n_args > MK_REPORT_MAX_RUN) {
        return MK_FAIL(err, MK_EUSAGE, "train report: expected the folders of 1 to %d runs, got %d",
                       MK_REPORT_MAX_RUN, o->n_args);
    }
    for (; r->n < o->n_args; r->n++) {
        MK_TRY(mk_runlog_open(o->args[r->n], &r->run[r->n], err));
    }
    return MK_OK;
}

mk_status cmd_train_report(int argc, char *const *argv, mk_err *err) {
    report_args a = {0};
    mk_opt_result o = {0};
    runs r = {0};
    mk_status st = cmd_parse(&cmd_train_report_spec, argc, argv, &a, &o, err);
    if (st == MK_OK && !o.help) {
        st = open_runs(&o, &r, err);
        if (st == MK_OK && a.tensorboard) {
            st = write_events(&r, a.tensorboard, err);
        }
        if (st == MK_OK && (a.output || !a.tensorboard)) {
            st = write_page(&r, a.output, err);
        }
    }
    for (int i = 0; i < r.n; i++) {
        mk_runlog_close(r.run[i]);
    }
    mk_opt_free(&cmd_train_report_spec, &a, &o);
    return st;
}
