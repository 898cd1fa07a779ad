// See run.h.
#include "train/run.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "train/steplog.h"

typedef struct {
    const mk_run *r;
    int64_t step;        // done
    double best, score;  // score: of the evaluation at this step, or NaN
    int64_t n_worse;     // evaluations since the best
    mk_steplog *log;     // NULL: nothing is written
    bool due, asked;     // to save; to stop: both wait until the method is whole
} state;

// --- log -----------------------------------------------------------------------------------------

// Of the run and of the method.
static mk_status open_logs(state *s, mk_err *err) {
    if (s->r->dir) {
        char *path = mk_path_join(s->r->dir, "log.jsonl");
        mk_status st = mk_steplog_open(path, s->step, &s->log, err);
        mk_free(path);
        MK_TRY(st);
    }
    return s->r->method->begin ? s->r->method->begin(s->r->method_arg, s->step, err) : MK_OK;
}

// --- checkpoints ---------------------------------------------------------------------------------

static mk_status save(state *s, mk_err *err) {
    if (!s->r->dir) {
        return MK_OK;
    }
    int64_t n = 0;
    const mk_ckpt_section *list = mk_trainer_state(s->r->trainer, &n);
    json_t *run = json_object();
    json_object_set_new(run, "method", json_string(s->r->method->name));
    json_object_set(run, "recipe", (json_t *)(uintptr_t)s->r->recipe);
    if (s->r->notes) {
        json_object_set(run, "notes", (json_t *)(uintptr_t)s->r->notes);
    }
    json_object_set_new(run, "position", s->r->method->tell(s->r->method_arg));
    json_object_set_new(run, "n_worse", json_integer(s->n_worse));
    if (!isnan(s->best)) {
        json_object_set_new(run, "best", json_real(s->best));
    }
    mk_ckpt_head head = {s->step, s->score, run};
    char *path = mk_ckpt_name(s->r->dir, s->step);
    mk_status st = mk_ckpt_write(path, &head, list, n, err);
    mk_free(path);
    json_decref(run);
    return st == MK_OK ? mk_ckpt_prune(s->r->dir, s->r->keep_last > 0 ? s->r->keep_last : 1,
                                       s->r->keep_best, err)
                       : st;
}

static mk_status refuse(const mk_ckpt *c, const char *key, const json_t *was, const json_t *is,
                        mk_err *err) {
    mk_buf now, then;
    mk_buf_init(&now, 256);
    mk_buf_init(&then, 256);
    mk_json_add(&now, is);
    mk_json_add(&then, was);
    mk_status st = MK_FAIL(err, MK_EUSAGE,
                           "%s was made with %s = %s, now it is %s; give the same options "
                           "to go on, or another folder to begin anew",
                           mk_ckpt_path(c), key, was && then.data ? then.data : "nothing",
                           is && now.data ? now.data : "nothing");
    mk_buf_free(&now);
    mk_buf_free(&then);
    return st;
}

// The recipe of a run that is resumed must be this one.
static mk_status check_recipe(const mk_run *r, const mk_ckpt *c, const json_t *run, mk_err *err) {
    json_t *was = json_object_get(run, "recipe"), *is = (json_t *)(uintptr_t)r->recipe, *value;
    const char *name = json_string_value(json_object_get(run, "method")), *key;
    if (!name || strcmp(name, r->method->name) != 0) {
        return MK_FAIL(err, MK_EUSAGE, "%s belongs to a run of %s, not of %s; use another folder",
                       mk_ckpt_path(c), name ? name : "?", r->method->name);
    }
    json_object_foreach(is, key, value) {
        if (!json_equal(value, json_object_get(was, key))) {
            return refuse(c, key, json_object_get(was, key), value, err);
        }
    }
    json_object_foreach(was, key, value) {
        if (!json_object_get(is, key)) {
            return refuse(c, key, value, NULL, err);
        }
    }
    return MK_OK;
}

static mk_status restore(state *s, const mk_ckpt *c, mk_err *err) {
    mk_ckpt_head head = mk_ckpt_get_head(c);
    int64_t n = 0;
    const mk_ckpt_section *list = mk_trainer_state(s->r->trainer, &n);
    MK_TRY(check_recipe(s->r, c, head.run, err));
    MK_TRY(mk_ckpt_load(c, list, n, err));
    MK_TRY(s->r->method->seek(s->r->method_arg, json_object_get(head.run, "position"), err));
    mk_trainer_restored(s->r->trainer);
    const json_t *best = json_object_get(head.run, "best");
    s->best = best ? json_number_value(best) : NAN;
    s->n_worse = json_integer_value(json_object_get(head.run, "n_worse"));
    s->step = head.step;
    return MK_OK;
}

static mk_status resume(state *s, mk_err *err) {
    mk_ckpt *c = NULL;
    mk_err none = {0};
    if (!s->r->dir) {
        return MK_OK;
    }
    mk_status st = mk_ckpt_latest(s->r->dir, &c, &none);
    if (st == MK_ENOTFOUND) {
        return MK_OK;
    }
    if (st != MK_OK) {
        *err = none;
        return st;
    }
    st = restore(s, c, err);
    mk_ckpt_close(c);
    return st;
}

// --- the loop ------------------------------------------------------------------------------------

static mk_status evaluate(state *s, json_t *log, mk_err *err) {
    MK_TRY(s->r->method->evaluate(s->r->method_arg, s->step, &s->score, log, err));
    bool better = isnan(s->best) || s->score < s->best;
    s->best = better ? s->score : s->best;
    s->n_worse = better ? 0 : s->n_worse + 1;
    s->due = s->due || (better && s->r->keep_best > 0);
    return MK_OK;
}

static mk_status update(state *s, double g_scale, json_t *log, mk_err *err) {
    double lr = mk_schedule_lr(&s->r->schedule, s->step);
    mk_optim_at at = {s->step + 1, lr, g_scale};
    mk_optim_report report = {0};
    MK_TRY(mk_trainer_update(s->r->trainer, &at, &report, err));
    json_object_set_new(log, "lr", json_real(lr));
    json_object_set_new(log, "grad_norm", json_real(report.norm));
    double imbalance = mk_trainer_imbalance(s->r->trainer);
    if (imbalance > 0) {
        json_object_set_new(log, "imbalance", json_real(imbalance));
    }
    return MK_OK;
}

// One step and what belongs behind it; *stop: the run is to end here, everything being saved.
static mk_status one_step(state *s, bool *stop, mk_err *err) {
    const mk_run *r = s->r;
    double g_scale = 1;
    uint64_t begin = mk_now_ns();
    json_t *log = json_object();
    json_object_set_new(log, "step", json_integer(s->step + 1));
    mk_status st = r->method->step(r->method_arg, s->step, &g_scale, log, err);
    st = st == MK_OK ? update(s, g_scale, log, err) : st;
    if (st == MK_OK) {
        s->step++;
        s->score = NAN;
        json_object_set_new(log, "seconds", json_real((double)(mk_now_ns() - begin) / 1e9));
        bool last = s->step >= r->schedule.n_step;
        mk_run_progress p = {s->step, r->schedule.n_step, log, false};
        p.evaluated =
            r->method->evaluate && (last || (r->eval_every > 0 && s->step % r->eval_every == 0));
        st = p.evaluated ? evaluate(s, log, err) : MK_OK;
        *stop = last || (p.evaluated && r->patience > 0 && s->n_worse >= r->patience);
        s->due = s->due || *stop || (r->save_every > 0 && s->step % r->save_every == 0);
        st = st == MK_OK && s->log ? mk_steplog_write(s->log, log, err) : st;
        bool go_on = st != MK_OK || !r->progress || r->progress(r->progress_arg, &p);
        bool whole = !r->method->whole || r->method->whole(r->method_arg);
        s->asked = s->asked || !go_on;
        if (st == MK_OK && (s->due || s->asked) && (whole || *stop)) {
            st = save(s, err);
            s->due = false;
            if (st == MK_OK && s->asked && !*stop) {
                st = MK_FAIL(err, MK_EINTR,
                             "stopped after step %lld; the same command goes on from there",
                             (long long)s->step);
            }
        }
    }
    json_decref(log);
    return st;
}

mk_status mk_run_train(const mk_run *run, mk_err *err) {
    state s = {.r = run, .best = NAN};
    MK_TRY(mk_schedule_check(&run->schedule, err));
    mk_status st = resume(&s, err);
    st = st == MK_OK ? open_logs(&s, err) : st;
    bool stop = s.step >= run->schedule.n_step || (run->patience > 0 && s.n_worse >= run->patience);
    while (st == MK_OK && !stop) {
        st = one_step(&s, &stop, err);
    }
    mk_status closed = mk_steplog_close(s.log, st == MK_OK ? err : NULL);
    return st == MK_OK ? closed : st;
}
