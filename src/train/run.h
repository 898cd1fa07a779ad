// A training run: the loop around a method, its folder, and everything that makes it resumable.
//
// Nouns
//   mk_method   what differs between pretrain, sft, dpo, grpo: how a step makes gradients, what it
//               logs, how it evaluates, and where it stands in its data
//   mk_run      steps, learning rate, checkpoints, log, evaluation, early stopping
//
// The folder of a run
//   ckpt-NNNNNNNN.mkt   checkpoints (ckpt.h): parameters, moments, position in the data
//   log.jsonl           one object per step and per evaluation (steplog.h)
//   model/              the result, a Hugging Face folder (made by the caller)
//
// States:  start -> step -> (evaluate) -> (save) -> step ... -> done
//          mk_run_train opens the newest whole checkpoint first, so a killed run goes on where it
//          was saved, and its result has the same bytes as if it had never stopped.
//
// Invariants
//  1. a checkpoint holds all that later steps depend on; the log holds nothing they depend on;
//  2. lines of steps after the checkpoint that is resumed are dropped before new ones come, of the
//     log and of what the method writes;
//  3. a step whose gradients are not finite changes nothing and ends the run with an error.
#ifndef MK_TRAIN_RUN_H
#define MK_TRAIN_RUN_H

#include <jansson.h>

#include "train/schedule.h"
#include "train/trainer.h"

typedef struct {
    const char *name;
    // Makes the gradients of one update; *g_scale multiplies them.  Adds what the log should show.
    mk_status (*step)(void *m, int64_t step, double *g_scale, json_t *log, mk_err *err);
    // Adds what was measured; *score: less is better (a loss, or 1 - accuracy).  May be NULL.
    mk_status (*evaluate)(void *m, int64_t step, double *score, json_t *log, mk_err *err);
    // Position in the data, as a JSON object, and back.
    json_t *(*tell)(void *m);
    mk_status (*seek)(void *m, const json_t *at, mk_err *err);
    // Whether the position says everything: false in the middle of something that only memory
    // holds, and then nothing is saved.  NULL: always.
    bool (*whole)(void *m);
    // Once, before the first step of this process and after `seek`, if a checkpoint was there:
    // `done` steps are.  Here a method opens the files it writes beside the log.  May be NULL.
    mk_status (*begin)(void *m, int64_t done, mk_err *err);
} mk_method;

typedef struct {
    int64_t step, n_step;
    const json_t *log;  // of this step; borrowed
    bool evaluated;
} mk_run_progress;

typedef struct {
    const char *dir;  // exists; NULL: nothing is written
    mk_trainer *trainer;
    const mk_method *method;
    void *method_arg;
    mk_schedule schedule;  // n_step and the rate
    int64_t eval_every;    // steps; 0: only at the end, if the method can
    int64_t save_every;    // steps; 0: only at the end
    int64_t keep_last, keep_best;
    // Evaluations without a better score before the run stops; 0: never.
    int64_t patience;
    // What the run is made of: resuming with another value is an error that names the field.
    const json_t *recipe;
    const json_t *notes;  // kept in checkpoints, not compared; NULL
    // Called after every step; false: save and stop (Ctrl-C).  May be NULL.
    bool (*progress)(void *arg, const mk_run_progress *p);
    void *progress_arg;
} mk_run;

// Errors: MK_EINTR after `progress` said so (everything is saved), MK_ELIMIT (gradients or loss not
// finite: the last checkpoint is as it was), those of checkpoints and of the method.
mk_status mk_run_train(const mk_run *run, mk_err *err) MK_WARN_UNUSED;

#endif
