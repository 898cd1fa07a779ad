// A file of a run with one JSON object per line, each with the "step" it belongs to, in ascending
// order: log.jsonl, samples.jsonl.
//
// Opening one cuts it back to the steps that are done, so that a run which was killed and goes on
// from its checkpoint neither repeats lines nor loses any.  A line that cannot be written is an
// error and not forgotten; what is left of it is cut off when the file is opened again.
//
//     MK_TRY(mk_steplog_open(path, step, &log, err));
//     MK_TRY(mk_steplog_write(log, line, err));
//     MK_TRY(mk_steplog_close(log, err));
#ifndef MK_TRAIN_STEPLOG_H
#define MK_TRAIN_STEPLOG_H

#include <jansson.h>

#include "base/status.h"

typedef struct mk_steplog mk_steplog;

// Makes the file, or cuts it behind the last line whose step is at most `step`.
// Errors: MK_EIO, MK_ENOTFOUND (no such folder).
mk_status mk_steplog_open(const char *path, int64_t step, mk_steplog **out,
                          mk_err *err) MK_WARN_UNUSED;
// The line is with the operating system when this returns.  Errors: MK_EIO (disk full), MK_ENOMEM.
mk_status mk_steplog_write(mk_steplog *l, const json_t *line, mk_err *err) MK_WARN_UNUSED;
// NULL is fine.  Errors: MK_EIO; the object is gone all the same.
mk_status mk_steplog_close(mk_steplog *l, mk_err *err);

#endif
