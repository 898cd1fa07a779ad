// Learning from preferences: of two answers to one prompt, which is the better one; or of single
// answers, which are good (kto).
//
// A loss looks at a pair through two numbers, the log-probabilities c of the chosen and r of the
// rejected answer (sums over their tokens), and for some losses through the same two of the model
// that training started from, the reference.  Those do not change, so they are computed once,
// before the first step, and kept: no second model is in memory.
//
//     name      loss of a pair; h is the logit that the pair is the right way round
//     dpo       -(1-s) log sigmoid(h) - s log sigmoid(-h),  h = beta ((c - c_ref) - (r - r_ref))
//               (Rafailov et al. 2023, eq. 7; s: Mitchell 2023, conservative DPO)
//     ipo       (h - 1/(2 beta))^2,  h without beta  (Azar et al. 2023, eq. 17)
//     apo-zero  sigmoid(-beta (c - c_ref)) + sigmoid(beta (r - r_ref))  (D'Oosterlinck et al. 2024):
//               each answer against the reference alone, as KTO does with a reference point of 0
//     simpo     as dpo,  h = beta (c/n_c - r/n_r) - margin; no reference  (Meng et al. 2024, eq. 6)
//     orpo      -c/n_c - beta log sigmoid(h),  h = log odds of e^(c/n_c) less those of e^(r/n_r);
//               no reference  (Hong et al. 2024, eq. 6 and 7)
//
// and for a single answer of log-probability a, which is good or bad,
//
//     kto       sigmoid(beta z0 - beta (a - a_ref)) if it is good, else sigmoid(beta (a - a_ref) - beta z0);
//               z0 >= 0 is how far the model is from the reference (preference_kto.c says how that
//               is estimated)  (Ethayarajh et al. 2024, eq. 8)
//
// `sft` adds sft * -c/n_c to any of them (orpo has 1; kto: where the answer is good), against
// answers that all become rarer.  A sample's weight multiplies the loss of its pair.
#ifndef MK_TRAIN_PREFERENCE_H
#define MK_TRAIN_PREFERENCE_H

#include "train/batcher.h"
#include "train/run.h"

// --- losses --------------------------------------------------------------------------------------

typedef struct {
    const char *loss;                     // name in the table above
    double beta, smoothing, margin, sft;  // beta, margin, sft < 0: the loss's own
} mk_preference_rule;

// Errors: MK_EUSAGE (an unknown loss; a number out of its range, or that the loss does not have).
// Fills in the loss's own numbers.
mk_status mk_preference_check(mk_preference_rule *rule, mk_err *err) MK_WARN_UNUSED;
bool mk_preference_has_reference(const mk_preference_rule *rule);

bool mk_preference_has_labels(const mk_preference_rule *rule);  // kto: single answers

// [0] of the chosen, [1] of the rejected answer
typedef struct {
    double logp[2], ref[2];  // sums over the tokens
    int64_t n[2];            // tokens
} mk_preference_pair;

typedef struct {
    double loss;
    double slope[2];   // of the loss along logp[k]
    double reward[2];  // beta times the log-probability, less the reference's or by token
} mk_preference_value;

// `rule` has passed mk_preference_check, and is of pairs.
mk_preference_value mk_preference_loss(const mk_preference_rule *rule, const mk_preference_pair *p);

typedef struct {
    double logp, ref;  // sums over the tokens
    int64_t n;         // tokens
    bool good;
} mk_preference_answer;

typedef struct {
    double loss, slope, reward;  // reward: beta times the log-probability less the reference's
} mk_preference_answer_value;

// The same of labels; kl is z0, a constant.
mk_preference_answer_value mk_preference_answer_loss(const mk_preference_rule *rule,
                                                     const mk_preference_answer *a, double kl);

// --- the method ----------------------------------------------------------------------------------

typedef struct mk_preference mk_preference;

typedef struct {
    mk_trainer *trainer;
    const mk_data *data;   // pairs, or for kto labels; outlives the method
    const mk_data *eval;   // held-out ones; NULL: none
    int64_t n_row, n_seq;  // of one batch: the trainer's
    int64_t n_accum;       // batches in a step; at least 1
    uint64_t seed;
    bool shuffle;
    mk_preference_rule rule;
    // kto: what the losses of good and of bad answers are multiplied with; < 0 counts as 1.  The
    // paper wants (weight * count) of the good to be 1 to 4/3 of that of the bad ones.
    double label_weight[2];
    // Called while the reference is computed; false stops with MK_EINTR.  May be NULL.
    bool (*progress)(void *arg, int64_t n_done, int64_t n);
    void *progress_arg;
} mk_preference_opts;

// The weights that the trainer has now are the reference: call it before a checkpoint is opened.
// Errors: those of mk_preference_check, mk_batcher_create, mk_trainer_pass; MK_EUSAGE (weights of
// labels for another loss than kto, or 0; data of the wrong kind), MK_ENOMEM, MK_EINTR.
mk_status mk_preference_create(const mk_preference_opts *o, mk_preference **out,
                               mk_err *err) MK_WARN_UNUSED;
void mk_preference_destroy(mk_preference *p);

int64_t mk_preference_n_batch(const mk_preference *p);  // of one epoch, for plans
const mk_preference_rule *mk_preference_get_rule(const mk_preference *p);
const double *mk_preference_label_weight(const mk_preference *p);  // [2], 1 filled in
// Of the reference's log-probabilities: part of a run's recipe, because a run that goes on from
// another reference is another run.  0 without a reference.
uint64_t mk_preference_reference_hash(const mk_preference *p);

// To be run with the object as method_arg.  Logs loss, accuracy (share of pairs whose chosen answer
// has the greater reward), margin (mean difference of the rewards), reward_chosen, reward_rejected,
// logp_chosen, logp_rejected (means per token), pairs, tokens, epoch; evaluations eval_loss,
// eval_accuracy, eval_margin.  kto: kl and eval_kl (z0), samples instead of pairs; chosen and
// rejected are the good and the bad ones (what there is none of is left out), accuracy is the share
// of answers whose reward is on its side of beta * kl.
extern const mk_method mk_method_dpo;

#endif
