// Learning from examples: pretraining on text, fine-tuning on conversations.
//
// The loss of a step is the mean of -log p over all targets of its batches, whatever batches they
// came in (training by sums, not by means of means).
#ifndef MK_TRAIN_SUPERVISED_H
#define MK_TRAIN_SUPERVISED_H

#include "train/batcher.h"
#include "train/run.h"
#include "train/samples.h"

typedef struct mk_supervised mk_supervised;

typedef struct {
    mk_trainer *trainer;
    const mk_data *data;   // text or chat; outlives the method
    const mk_data *eval;   // held-out data; NULL: none
    int64_t n_row, n_seq;  // of one batch: the trainer's
    int64_t n_accum;       // batches in a step; at least 1
    uint64_t seed;
    bool shuffle;
    // Evaluations also let the model answer: greedy completions of the first n_check prompts (0:
    // all) of `check` (rl data), rewarded.  NULL: they do not.  The score is then their mean.
    mk_samples *answers;
    const mk_data *check;
    int64_t n_check;
} mk_supervised_opts;

// Errors: those of mk_batcher_create.
mk_status mk_supervised_create(const mk_supervised_opts *o, mk_supervised **out,
                               mk_err *err) MK_WARN_UNUSED;
void mk_supervised_destroy(mk_supervised *s);

// To be run with the object as method_arg.  Logs loss, tokens, targets, epoch, and with the
// trainer's mtp_weight mtp_loss; evaluations eval_loss and accuracy.
extern const mk_method mk_method_sft, mk_method_pretrain;

// For plans: batches of one epoch; and the time of one update, measured on the first batch.  That
// changes nothing but the contents of caches.
int64_t mk_supervised_n_batch(const mk_supervised *s);
mk_status mk_supervised_measure(mk_supervised *s, double *seconds, mk_err *err) MK_WARN_UNUSED;

#endif
