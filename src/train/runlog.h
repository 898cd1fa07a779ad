// What a run wrote down: its log as curves, its recipe from the newest checkpoint, and a few of its
// samples.
//
// Nouns
//   mk_curve    the values of one field over the steps; ascending, without holes
//   mk_sample   one completion, as samples.jsonl has it
//   mk_runlog   all of a run folder that a report shows
//
// A log may be of a run that is still going on or was killed: half a last line is no error, lines
// that are not readable are counted and passed over.  A field that nobody knows is a curve like any
// other.  A step that comes again (somebody joined two logs) replaces what was at and behind it.
//
// Ownership: everything belongs to the mk_runlog; one thread at a time.
#ifndef MK_TRAIN_RUNLOG_H
#define MK_TRAIN_RUNLOG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define MK_RUNLOG_MAX_CURVE     64  // fields beyond these are counted, not kept
#define MK_RUNLOG_MAX_STEP      ((int64_t)1 << 53)
#define MK_RUNLOG_MAX_VALUE     1e100  // larger magnitudes are treated as unreadable
#define MK_RUNLOG_SAMPLED_STEPS 3      // first, middle, last
#define MK_RUNLOG_SAMPLES       4      // of each of them

typedef struct {
    char *name;  // of the field; UTF-8, any characters
    int64_t n, cap;
    int64_t *step;  // [n]
    double *value;  // [n], finite
} mk_curve;

typedef struct {
    int64_t step;
    json_t *json;  // the whole object
} mk_sample;

typedef struct {
    char *dir;
    const char *name;  // last part of dir; points into it
    mk_curve *curve;   // [n_curve], in the order in which the log first names them
    int64_t n_curve;
    int64_t n_line;  // readable ones
    int64_t n_bad;   // lines that are no object with a step
    int64_t n_lost;  // fields beyond MK_RUNLOG_MAX_CURVE
    bool half_line;  // the last line has no end
    int64_t first_step, last_step;
    json_t *run;        // of the newest whole checkpoint: "method", "recipe" ...; may be NULL
    int64_t ckpt_step;  // of it
    mk_sample *sample;  // [n_sample], by step, then from the best reward to the worst
    int64_t n_sample;
} mk_runlog;

// Errors: MK_ENOTFOUND (no folder, no log.jsonl), MK_EIO, MK_ECORRUPT (not one readable line),
// MK_ENOMEM.  A folder without samples or checkpoints is fine.
mk_status mk_runlog_open(const char *dir, mk_runlog **out, mk_err *err) MK_WARN_UNUSED;
void mk_runlog_close(mk_runlog *r);

const mk_curve *mk_runlog_find(const mk_runlog *r, const char *name);  // NULL: not there

#endif
