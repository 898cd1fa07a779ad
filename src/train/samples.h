// Completions with their rewards: what reinforcement, evaluation and distillation work on.
//
// mk_samples holds `group` completions of each of up to n_prompt prompts at a time, with their ids,
// log-probabilities, texts and rewards; drawing again replaces them.  A completion is a function of
// (weights, prompt, seed, number of the prompt in its data, number in its group, temperature).
#ifndef MK_TRAIN_SAMPLES_H
#define MK_TRAIN_SAMPLES_H

#include "text/tokenizer.h"
#include "train/data.h"
#include "train/reward.h"
#include "train/rollout.h"

typedef struct {
    mk_engine *engine;
    const mk_tokenizer *tokenizer;
    const mk_rewards *rewards;
    int64_t n_seq;     // that run together
    int64_t n_prompt;  // prompts at a time at most
    int64_t group, max_tok;
    float temperature;
    const int32_t *forbid_ids;  // [n_forbid] never chosen; outlives this
    int64_t n_forbid;
    bool (*progress)(void *arg, int64_t n_done, int64_t n);  // may be NULL
    void *progress_arg;
} mk_samples_opts;

typedef struct {
    mk_samples_opts o;
    int64_t n;              // completions drawn: prompts * group, in the order of the prompts
    mk_rollout_item *item;  // [n]
    double *reward;         // [n] weighted sum
    double *each;           // [n * mk_rewards_count] without weights
    char **text;            // [n] NUL-terminated, may hold NULs before
    size_t *n_text;         // [n]
    int32_t *ids;           // behind item
    float *logp;
    mk_rollout_item *part;  // [n] those that are sampled together
    mk_ids end_ids;
} mk_samples;

// Errors: MK_ENOMEM.
mk_status mk_samples_create(const mk_samples_opts *o, mk_samples **out, mk_err *err) MK_WARN_UNUSED;
void mk_samples_destroy(mk_samples *s);

// Completions of the samples which[0..n_prompt) of `data` (kind rl).  Errors: those of mk_rollout
// and mk_rewards_score, with file and line of the prompt.
mk_status mk_samples_draw(mk_samples *s, const mk_data *data, const int64_t *which,
                          int64_t n_prompt, uint64_t seed, mk_err *err) MK_WARN_UNUSED;

// The same for some groups of the last draw alone: place[k] becomes completions of which[k], the
// other groups stay.  After an error what is held is not to be used.
mk_status mk_samples_redraw(mk_samples *s, const mk_data *data, const int64_t *which,
                            const int64_t *place, int64_t n_prompt, uint64_t seed,
                            mk_err *err) MK_WARN_UNUSED;

// Mean reward over the first n samples of `data` (0: all), one draw of the whole group each.
mk_status mk_samples_mean(mk_samples *s, const mk_data *data, int64_t n, uint64_t seed,
                          double *mean, mk_err *err) MK_WARN_UNUSED;

#endif
