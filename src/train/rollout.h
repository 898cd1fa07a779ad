// Sampling many completions at once, for reinforcement, evaluation and distillation.
//
// Up to n_seq sequences of the engine run together; when one ends the next begins, so a batch stays
// full.  What comes out does not depend on that: every completion is a function of the weights, its
// prompt, its seed and the temperature, and log-probabilities are those the trainer would compute
// (back.h, mk_op_logprob), bit for bit.
#ifndef MK_TRAIN_ROLLOUT_H
#define MK_TRAIN_ROLLOUT_H

#include "engine/engine.h"

typedef struct {
    mk_engine *engine;  // its sequences are closed; n_seq of them are used
    int64_t n_seq;
    float temperature;       // 0: the most probable token, the lowest id of equals
    int64_t max_tok;         // of a completion
    int64_t n_token;         // ids from here on are padding of the output matrix and never chosen
    const int32_t *end_ids;  // [n_end] ids that end a completion
    int64_t n_end;
    // [n_forbid] ids that are never chosen; log-probabilities are then those among the rest
    const int32_t *forbid_ids;
    int64_t n_forbid;
    // Called now and then; false stops with MK_EINTR.  May be NULL.
    bool (*progress)(void *arg, int64_t n_done, int64_t n);
    void *progress_arg;
} mk_rollout_opts;

typedef struct {
    const int32_t *prompt;  // [n_prompt], n_prompt >= 1
    int64_t n_prompt;
    uint64_t seed;  // of this completion
    // out
    int32_t *ids;  // [max_tok], the caller's; with the id that ended it
    float *logp;   // [max_tok] at the temperature (1 for 0), or NULL
    int64_t n;
    bool finished;  // by an id that ends, not by max_tok or the window
} mk_rollout_item;

// Errors: MK_ECONTEXT (a prompt that fills the window), MK_EUSAGE (an id outside the vocabulary),
// MK_EINTR.
mk_status mk_rollout(const mk_rollout_opts *o, mk_rollout_item *item, int64_t n,
                     mk_err *err) MK_WARN_UNUSED;

#endif
