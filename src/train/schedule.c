// Learning-rate schedules (schedule.h).  Doubles and + - * / only, so that a rate has the same bits
// everywhere.
#include "train/schedule.h"

#include <string.h>

#include "base/mathx.h"

#define PI 0x1.921fb54442d18p+1

static const char *const names[] = {
#define X(id, name) name,
    MK_SCHEDULE_MAP(X)
#undef X
};
#define KNOWN "constant, linear, cosine, wsd"

enum { N_KIND = sizeof names / sizeof names[0] };

const char *mk_schedule_name(mk_schedule_kind kind) {
    return names[kind];
}

mk_status mk_schedule_parse(const char *name, mk_schedule_kind *kind, mk_err *err) {
    for (int i = 0; i < N_KIND; i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (mk_schedule_kind)i;
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUSAGE, "schedule \"%s\" is not known; expected one of " KNOWN, name);
}

// NaN is out of every range.
static mk_status check_range(const char *what, double x, double max, mk_err *err) {
    if (x >= 0 && x <= max) {
        return MK_OK;
    }
    return MK_FAIL(err, MK_EUSAGE, "%s: expected 0 to %g, got %g", what, max, x);
}

mk_status mk_schedule_check(const mk_schedule *s, mk_err *err) {
    MK_TRY(check_range("learning rate", s->lr, 1e6, err));
    MK_TRY(check_range("smallest learning rate as a part of the full one", s->min_ratio, 1, err));
    MK_TRY(check_range("part of the steps in which wsd decays", s->decay, 1, err));
    if (s->n_step < 0 || s->n_warmup < 0 || s->n_warmup > s->n_step) {
        return MK_FAIL(err, MK_EUSAGE, "warm-up: expected 0 to %lld steps (all of them), got %lld",
                       (long long)s->n_step, (long long)s->n_warmup);
    }
    return MK_OK;
}

// Steps at the end in which the rate falls.
static int64_t n_decay(const mk_schedule *s) {
    int64_t rest = s->n_step - s->n_warmup;
    if (s->kind != MK_SCHEDULE_WSD) {
        return s->kind == MK_SCHEDULE_CONSTANT ? 0 : rest;
    }
    int64_t n = (int64_t)((double)s->n_step * s->decay + 0.5);
    return n < rest ? n : rest;
}

double mk_schedule_lr(const mk_schedule *s, int64_t step) {
    if (step < s->n_warmup) {
        return s->lr * ((double)(step + 1) / (double)s->n_warmup);
    }
    int64_t n = n_decay(s), at = step - (s->n_step - n);
    if (n == 0 || at <= 0) {
        return s->lr;
    }
    double left = at < n ? (double)(n - at) / (double)n : 0;  // 1 to 0
    if (s->kind == MK_SCHEDULE_COSINE) {
        double sin_x, cos_x;
        mk_sincos(PI * left, &sin_x, &cos_x);
        left = 0.5 * (1 - cos_x);
    }
    return s->lr * (s->min_ratio + (1 - s->min_ratio) * left);
}
