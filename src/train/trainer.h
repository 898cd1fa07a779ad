// One model in training: recorded passes over batches of sequences, and updates of what is trained.
//
// The trainer owns an engine, so that sampling, evaluation and training compute with the same
// weights, the same functions and the same bits (docs/numerics.md).  Every method (sft, dpo, grpo)
// is a weighting of log-probabilities: a pass computes log p of every target, asks for the weight
// of each in the loss sum(weight * -log p), and adds the gradient.
//
// Threads: one at a time.  The model and the pool outlive the trainer.
//
//     MK_TRY(mk_trainer_create(&opts, &tr, err));
//     MK_TRY(mk_trainer_pass(tr, &pass, err));         // once or more: gradients add up
//     MK_TRY(mk_trainer_update(tr, &at, &report, err));
#ifndef MK_TRAIN_TRAINER_H
#define MK_TRAIN_TRAINER_H

#include "engine/engine.h"
#include "model/adapter.h"
#include "train/data.h"
#include "train/mtp.h"
#include "train/optim.h"

typedef struct mk_trainer mk_trainer;

typedef struct {
    // loaded by mk_model_load_f32, or _bf16: then products of its matrices are bf16
    mk_model *model;  // with adapters: loaded in whatever form
    // These alone are trained, the model stays as it is; the trainer attaches them.  They may be
    // detached and attached between passes (the reference of a preference).  NULL: all parameters
    // of the model.
    mk_adapters *adapters;
    const mk_kernels *kernels;
    mk_pool *pool;
    mk_kv_type kv_type;
    int64_t n_ctx;    // tokens of the longest sequence
    int64_t n_row;    // tokens in one pass at most
    int64_t n_seq;    // sequences in one pass at most
    bool checkpoint;  // keep only what lies between the layers, and compute layers twice
    mk_optim_opts optim;
    // Balancing without a loss (DeepSeek-V3 report, 2.1.2): per update the selection bias of an
    // expert with less than the mean load rises by this, of one with more it falls.  0: it stays.
    // With adapters it stays as well: it is the base's.
    double balance_rate;
    // Multi-token prediction (mtp.h): every pass adds to its loss this times that of the prediction
    // layer, which must be loaded (mk_model_use_mtp).  0: the layer, if loaded, is left alone.
    double mtp_weight;
} mk_trainer_opts;

// Errors: MK_ENOMEM, MK_EUSAGE (an option out of its range).
mk_status mk_trainer_create(const mk_trainer_opts *opts, mk_trainer **out,
                            mk_err *err) MK_WARN_UNUSED;
void mk_trainer_destroy(mk_trainer *tr);

mk_engine *mk_trainer_engine(mk_trainer *tr);  // all its sequences are closed between the calls
const mk_params *mk_trainer_params(const mk_trainer *tr);

// The weight of every target in the loss, given its log-probability; in the order of sequences and
// positions.
typedef void (*mk_weigh_fn)(void *arg, const float *logp, float *weight, int64_t n);

typedef struct {
    const mk_data_seq *seq;  // [n_seq]; a target is predicted from the tokens before it
    int64_t n_seq;
    float temperature;  // logits are divided by it; 0 counts as 1
    mk_weigh_fn weigh;  // NULL: nothing is learned, log-probabilities only
    void *arg;
    float *logp;     // [all targets] out, or NULL
    float *entropy;  // [all targets] out, or NULL
    // Out, or NULL: the prediction layer's loss, before mtp_weight, is added to it; without weigh
    // with weight 1 for each target.  Untouched if mtp_weight is 0.
    mk_mtp_sums *mtp;
} mk_train_pass;

// Errors: MK_EUSAGE (an id outside the vocabulary), MK_ECONTEXT; gradients are then as before.
mk_status mk_trainer_pass(mk_trainer *tr, const mk_train_pass *pass, mk_err *err) MK_WARN_UNUSED;

// Changes the parameters by their gradients, balances the experts, and begins anew with gradients
// of zero.  Errors: MK_ELIMIT (a gradient is not finite; the parameters are as before).
mk_status mk_trainer_update(mk_trainer *tr, const mk_optim_at *at, mk_optim_report *report,
                            mk_err *err) MK_WARN_UNUSED;
void mk_trainer_drop_gradients(mk_trainer *tr);
// Gradient of a parameter so far, laid out as its values; NULL if it is not trained.
float *mk_trainer_gradient(mk_trainer *tr, const mk_param *p);

// Everything that decides how training goes on: parameters, selection biases, moments.  Pointers
// live as long as the trainer; after writing into them call mk_trainer_restored.
const mk_ckpt_section *mk_trainer_state(mk_trainer *tr, int64_t *n);
void mk_trainer_restored(mk_trainer *tr);

// For plans and reports.
typedef struct {
    int64_t n_trained;  // parameters
    size_t weights, gradients, moments, activations, kv, total;
} mk_train_memory;
mk_status mk_trainer_plan(const mk_trainer_opts *opts, mk_train_memory *out,
                          mk_err *err) MK_WARN_UNUSED;
// Largest share of one expert over its fair share since the last update, all layers; 0 without
// experts.
double mk_trainer_imbalance(const mk_trainer *tr);

#endif
