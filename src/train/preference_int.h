// Private to preference*.c: the method's object, and what labels (KTO) do otherwise than pairs.
#ifndef MK_TRAIN_PREFERENCE_INT_H
#define MK_TRAIN_PREFERENCE_INT_H

#include "train/preference.h"

// What steps and evaluations add up; of labels, [0] is of the good ones and [1] of the bad ones.
typedef struct {
    double loss, weight, right, reward[2], logp[2];
    int64_t n[2];  // answers on either side
    int64_t n_tok;
} mk_preference_sums;

// Samples to learn from or held-out ones: a batcher and a reference of their own.
typedef struct {
    const mk_data *data;
    mk_batcher *batcher;
    // [2 * n] log-probabilities of the reference: chosen and rejected, or of a label the sample and
    // its mixture; NULL: the loss has none
    double *ref;
    int64_t n;         // samples
    int64_t *partner;  // [n] labels: whose answer a sample's prompt is mixed with
} mk_preference_set;

struct mk_preference {
    mk_preference_opts o;
    mk_preference_set train, eval;
    mk_data_seq *seq;  // [n_seq] of the batch
    float *logp;       // [n_row]
    // the batch that is being weighed
    const mk_data_batch *batch;
    const mk_preference_set *set;
    mk_preference_sums sum;
    // labels
    bool labels;
    double kl;      // of this update: a number, not a function of the parameters
    int64_t *list;  // [n_seq] samples that are mixed together
    double *mixed;  // [n_seq] log-probabilities of their mixtures
    int32_t *ids;   // [n_row]
    uint8_t *mask;  // [n_row]
};

double mk_preference_add_up(const float *logp, int64_t n);
bool mk_preference_tick(const mk_preference *p, int64_t n_done, int64_t n);

// Finds partners.  Errors: MK_EUSAGE (fewer than two samples), MK_ENOMEM.
mk_status mk_kto_open(mk_preference *p, mk_preference_set *x, mk_err *err) MK_WARN_UNUSED;
// The reference of the mixtures.
mk_status mk_kto_reference(mk_preference *p, mk_preference_set *x, mk_err *err) MK_WARN_UNUSED;
// kl of the next n_batch batches (< 0: up to the end of the epoch); the batcher stands where it
// was.
mk_status mk_kto_estimate(mk_preference *p, const mk_preference_set *x, int64_t n_batch,
                          mk_err *err) MK_WARN_UNUSED;
// As mk_weigh_fn; weight NULL: losses only.
void mk_kto_weigh(mk_preference *p, const float *logp, float *weight, int64_t n);

#endif
