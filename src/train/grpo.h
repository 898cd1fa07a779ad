// Reinforcement by rules: groups of completions of one prompt, rewarded, learned relative to each
// other.
//
// Every step samples `group` completions of `n_prompt` prompts with the weights as they are, scores
// them, turns the rewards of a group into advantages, and weighs every token's -log p
// (back.h, mk_back_logprob).  Sampler and trainer are one engine, so on the first pass the
// probability ratio is exactly 1; the largest difference of log-probabilities is logged every step
// and is 0.
//
// Variants (the table is in grpo.c): GRPO (Shao et al. 2024, DeepSeekMath), Dr. GRPO (Liu et al.
// 2025), DAPO (Yu et al. 2025), GSPO (Zheng et al. 2025).
#ifndef MK_TRAIN_GRPO_H
#define MK_TRAIN_GRPO_H

#include "train/batcher.h"
#include "train/run.h"
#include "train/samples.h"

typedef struct mk_grpo mk_grpo;

typedef struct {
    mk_trainer *trainer;
    const mk_data *data, *eval;  // rl; eval NULL: none
    const mk_tokenizer *tokenizer;
    const mk_rewards *rewards;
    const char *variant;   // "grpo", "dr-grpo", "dapo", "gspo"
    int64_t n_row, n_seq;  // of a pass, and sequences that sample together: the trainer's
    int64_t n_prompt, group;
    int64_t max_tok;             // of a completion
    int64_t n_inner;             // updates from the completions of one sampling; at least 1
    float temperature;           // > 0
    double clip_low, clip_high;  // < 0: the variant's own
    // Dynamic sampling (DAPO, section 3.2).  A group whose rewards are all equal teaches nothing: a
    // group of the next prompt takes its place, until every group has something to teach or
    // n_retry * n_prompt further prompts have been drawn.  Those that remain are left out.
    // < 0: the variant's own (dapo 3, others 0).
    int64_t n_retry;
    bool keep_truncated;  // completions cut by max_tok are learned from as well
    uint64_t seed;
    int64_t n_eval;  // held-out prompts per evaluation; 0: all
    // JSONL file to which some completions of every step go, or NULL.  A run that is resumed cuts
    // it back to its checkpoint, as it does its log.
    const char *samples;
    int64_t n_sample;                                        // how many of them
    bool (*progress)(void *arg, int64_t n_done, int64_t n);  // of sampling; may be NULL
    void *progress_arg;
} mk_grpo_opts;

// Errors: MK_EUSAGE (an unknown variant, a number out of its range), MK_ENOMEM, those of
// mk_batcher_create.
mk_status mk_grpo_create(const mk_grpo_opts *o, mk_grpo **out, mk_err *err) MK_WARN_UNUSED;
void mk_grpo_destroy(mk_grpo *g);

int64_t mk_grpo_n_retry(const mk_grpo *g);  // with the variant's own filled in

// Logs of everything that a step sampled, thrown away or not: reward, reward/NAME of every
// function, reward_std, length, truncated, zero_variance (share of the groups).  So dynamic
// sampling does not flatter them.  redrawn, redrawn_tokens: groups that others took the place of.
// Of what is learned: tokens, entropy, clip_fraction, max_dlogp.  Evaluations: accuracy (mean
// reward of greedy answers).
extern const mk_method mk_method_grpo;

#endif
