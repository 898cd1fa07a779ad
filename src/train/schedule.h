// Learning-rate schedules: a pure function of the step.
//
// Warm-up: the first n_warmup steps rise in equal parts, the last of them has the full rate.  Then
//     constant   the full rate
//     linear     falls in equal parts from the full rate towards min_ratio of it
//     cosine     the same along half a cosine (Loshchilov & Hutter 2017)
//     wsd        full rate, then linear over the last `decay` of all steps (Hu et al. 2024, MiniCPM)
// min_ratio itself is reached one step behind the last.  The cosine is ours (base/mathx.h), so a
// run has the same rates on every machine.
#ifndef MK_TRAIN_SCHEDULE_H
#define MK_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/status.h"

// kind, name in options and logs
#define MK_SCHEDULE_MAP(X)                                                                         \
    X(MK_SCHEDULE_CONSTANT, "constant")                                                            \
    X(MK_SCHEDULE_LINEAR, "linear")                                                                \
    X(MK_SCHEDULE_COSINE, "cosine")                                                                \
    X(MK_SCHEDULE_WSD, "wsd")

typedef enum {
#define X(id, name) id,
    MK_SCHEDULE_MAP(X)
#undef X
} mk_schedule_kind;

typedef struct {
    mk_schedule_kind kind;
    double lr;                 // full rate, >= 0
    double min_ratio;          // 0 to 1
    int64_t n_step, n_warmup;  // 0 <= n_warmup <= n_step
    double decay;              // wsd: 0 to 1
} mk_schedule;

const char *mk_schedule_name(mk_schedule_kind kind);
// Errors: MK_EUSAGE (lists the known names).
mk_status mk_schedule_parse(const char *name, mk_schedule_kind *kind, mk_err *err) MK_WARN_UNUSED;
// Errors: MK_EUSAGE (a number out of its range).
mk_status mk_schedule_check(const mk_schedule *s, mk_err *err) MK_WARN_UNUSED;

// Rate of step 0, 1, ...; from n_step on that of the end.
double mk_schedule_lr(const mk_schedule *s, int64_t step);

#endif
