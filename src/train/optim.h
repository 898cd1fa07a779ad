// Optimisers: AdamW with float32 or 8-bit moments, Muon for matrices, clipping by the global norm.
//
// Nouns
//   mk_optim_param   a flat array of parameters and its gradient, both the caller's, with what the
//                    optimiser must know about it
//   mk_optim         the states of all parameters; states are reachable by name for checkpoints
//
// The layout of the floats does not matter to AdamW; padding (value 0, gradient 0) stays 0.  Bits
// are the same for every number of threads and instruction set (docs/numerics.md).
//
//     mk_optim *o;
//     MK_TRY(mk_optim_create(ops, &opts, params, n, &o, err));
//     for (t = 1; ...; t++) { ...gradients...; MK_TRY(mk_optim_step(o, &at, &report, err)); }
//     mk_optim_destroy(o);
//
// Ownership: names are copied; params[i].p and .g must stay where they are.  Scratch comes from
// `ops`, which must be outside of a step.  Threads: as `ops`.
#ifndef MK_TRAIN_OPTIM_H
#define MK_TRAIN_OPTIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "ops/ops.h"
#include "train/ckpt.h"

typedef struct {
    const char *name;
    float *p, *g;
    int64_t n;
    bool decay;        // weight decay applies (not for norms and biases)
    bool keep_f32;     // moments stay float32 (embeddings)
    double lr_factor;  // the rate is multiplied by it; > 0
    // Muon may have it: n_mat matrices [n_out, n_in], each [n_out/16][n_in][16] with rows beyond
    // n_out zero (mk_grad_floats); 0: not a matrix.
    int64_t n_mat, n_out, n_in;
} mk_optim_param;

typedef struct {
    double beta1, beta2, eps, weight_decay;
    double clip;      // largest global norm of the gradients; 0: none
    bool eight_bit;   // moments of AdamW; tensors below MK_OPTIM_MIN_8BIT floats stay float32
    bool muon;        // for parameters with n_mat > 0, AdamW for the others
    double momentum;  // of Muon
    bool zero_g;      // a step leaves zeros in the gradients, in the pass that reads them
} mk_optim_opts;

#define MK_OPTIM_MIN_8BIT 4096

// 0.9, 0.95, 1e-8, 0.1, clip 1; Muon's momentum 0.95; zero_g.
mk_optim_opts mk_optim_defaults(void);

typedef struct mk_optim mk_optim;
// Errors: MK_EUSAGE (an option out of its range), MK_ENOMEM.
mk_status mk_optim_create(mk_ops *ops, const mk_optim_opts *opts, const mk_optim_param *params,
                          int64_t n, mk_optim **out, mk_err *err) MK_WARN_UNUSED;
void mk_optim_destroy(mk_optim *o);
// Bytes of the states of such an optimiser, for plans.  SIZE_MAX if they do not fit a size.
size_t mk_optim_bytes(const mk_optim_opts *opts, const mk_optim_param *params, int64_t n);

typedef struct {
    int64_t step;    // 1, 2, ...: the number of this update
    double lr;       // >= 0
    double g_scale;  // gradients are multiplied by it first (1 / tokens); 1: as they are
} mk_optim_at;

typedef struct {
    double norm;   // global norm of the scaled gradients, before clipping
    bool clipped;  // they were scaled down to opts.clip
} mk_optim_report;

// One update.  A gradient that is not finite stops it before anything is written: MK_ELIMIT, with
// step and tensor.  `report` may be NULL.
mk_status mk_optim_step(mk_optim *o, const mk_optim_at *at, mk_optim_report *report,
                        mk_err *err) MK_WARN_UNUSED;

// The states, to be written to and read from checkpoints; pointers live as long as o.
const mk_ckpt_section *mk_optim_states(const mk_optim *o, int64_t *n);

#endif
