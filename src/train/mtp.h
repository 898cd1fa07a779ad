// Multi-token prediction in training (DeepSeek-V3 report, 2.2, with one layer): what the prediction
// layer is asked in a pass, and its loss.
//
// A row of a pass is a token of a sequence but the last.  The layer is given the model's hidden
// state of row i and the token i + 1, and predicts token i + 2, if that is a target.  Its loss has
// the weights that the same targets have in the model's own loss, so it is normalised alike,
// however the tokens were cut into batches.
//
// Threads: one at a time, as the trainer it belongs to.
#ifndef MK_TRAIN_MTP_H
#define MK_TRAIN_MTP_H

#include "engine/engine.h"
#include "train/data.h"

typedef struct mk_mtp mk_mtp;

// For passes of at most n_row rows.  Errors: MK_ENOMEM.
mk_status mk_mtp_create(int64_t n_row, mk_mtp **out, mk_err *err) MK_WARN_UNUSED;
void mk_mtp_destroy(mk_mtp *p);

// The sequences of a pass, those of one token left out; their masks say what a target is.
void mk_mtp_lay_out(mk_mtp *p, const mk_data_seq *seq, int64_t n_seq);

// Inside the pass: logits and log-probabilities of all targets.  No rows if there are none.
mk_mat mk_mtp_predict(mk_mtp *p, mk_engine *e, float temperature);

// Sums over targets: of weight * -logp, and of weight.
typedef struct {
    double loss, weight;
} mk_mtp_sums;
// Takes over the weights of the model's own targets, in the order of sequences and positions, but 0
// for those below 0: what the model is to avoid is nothing to be foreseen.  NULL: 1 for each.  Adds
// to *sums, which may be NULL.
void mk_mtp_weigh(mk_mtp *p, const float *weight, mk_mtp_sums *sums);

// The gradient of factor * loss, to be added to that of the logits.
void mk_mtp_back(mk_mtp *p, mk_ops *ops, mk_mat dz, mk_mat z, float temperature, double factor);

#endif
