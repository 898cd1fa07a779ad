// The report of training runs: one HTML page that needs nothing else.
//
// The page asks for nothing from outside (its policy forbids the browser to), works from a file,
// without a script, in light and dark, and on a phone.  Its script adds the read-out under the
// pointer.  All text of logs, recipes and samples is escaped; the script gets numbers only.  Long
// runs are thinned for drawing, the least and the greatest value of every column being kept, so
// that a page stays below MK_REPORT_MAX_BYTES.
//
// The bytes are a function of the runs: no times, no names of machines.
#ifndef MK_TRAIN_REPORT_H
#define MK_TRAIN_REPORT_H

#include "base/buf.h"
#include "train/runlog.h"

#define MK_REPORT_MAX_RUN   16
#define MK_REPORT_MAX_BYTES ((size_t)2 << 20)

typedef struct {
    int64_t n_chart, n_sample;  // on the page
} mk_report_info;

// Appends the page of 1 to MK_REPORT_MAX_RUN runs to `b`.  `info` may be NULL.  Errors: MK_EUSAGE
// (number of runs), MK_ENOMEM.
mk_status mk_report_html(const mk_runlog *const *run, int n_run, mk_buf *b, mk_report_info *info,
                         mk_err *err) MK_WARN_UNUSED;

#endif
