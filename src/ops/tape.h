// The tape: what a forward pass did, so that it can be walked backwards.
//
// While a tape is set, every operator of ops.h records itself and what it reads stays in the step's
// scratch (mk_op_release does nothing).  So every architecture trains with the forward it serves
// with, and the trainer sees the sampler's bits.
//
// Gradients of activations live in a shadow of the scratch: the gradient of the float at address p
// lies at a fixed distance from p, so views, columns and rows need no bookkeeping.  Gradients of
// weights go where mk_tape_want says; weights nobody wants are frozen.
//
// Checkpointing: with mk_tape_checkpoint on, memory of a layer is reused by the next
// (mk_op_segment); only what is alive between layers is kept, and going back every layer is
// computed again from there, with the same functions and so the same bits.
//
// Invariants
//  1. a record holds addresses inside the scratch and copies of small arguments; arrays of the batch
//     (ids, positions, tables) belong to the caller and stay as they are until mk_tape_backward;
//  2. an operator that overwrites its input keeps a copy if its backward needs the old values;
//  3. the shadow of a buffer is zero before the first backward that writes there;
//  4. recording changes no bit of the forward pass.
//
//     mk_ops_set_tape(ops, tape);
//     mk_ops_begin(ops, false);
//     logits = forward(...);
//     mk_back_logprob(ops, mk_tape_grad(tape, logits), logits, ids, weight, 1);
//     mk_tape_backward(tape);
//     mk_ops_end(ops);
#ifndef MK_OPS_TAPE_H
#define MK_OPS_TAPE_H

#include "ops/back.h"

typedef struct mk_tape mk_tape;

mk_tape *mk_tape_create(void);
void mk_tape_destroy(mk_tape *t);

// From the next step on (never during one).  NULL: steps are not recorded.  The tape is cleared
// when a step begins; it must outlive the steps.
void mk_ops_set_tape(mk_ops *ops, mk_tape *t);
mk_tape *mk_ops_tape(const mk_ops *ops);  // the one that is set, or NULL
bool mk_ops_is_recording(const mk_ops *ops);
void mk_tape_checkpoint(mk_tape *t, bool on);

// The gradient of the weights or the vector that begin at `values` is added to grad (for a stack of
// matrices: one gradient of mk_grad_floats after the other; a token table: f32 row-major).  grad
// NULL: not wanted any more.
void mk_tape_want(mk_tape *t, const void *values, float *grad);

// What is recorded from here on belongs to `part`, until the step ends; a step begins in part 0.  A
// weight that another part uses as well may have a gradient of its own there, to be added by the
// caller, because the order of one sum over both would depend on how tokens were cut into batches.
void mk_tape_part(mk_tape *t, int part);
// As mk_tape_want for the uses in `part` alone (0: all other uses, which is mk_tape_want itself).
void mk_tape_want_in(mk_tape *t, int part, const void *values, float *grad);

// Gradient of a matrix in scratch, for the caller to add to (the logits'): zero at first.
mk_mat mk_tape_grad(mk_tape *t, mk_mat m);
// Walks back to the beginning.  Once per step, before mk_ops_end.
void mk_tape_backward(mk_tape *t);

// Called on the way back for every routing: which experts were chosen, sel [n_tok, n_used]; r is
// the model's.  For balancing the load.
typedef void (*mk_tape_route_fn)(void *arg, const mk_route *r, const int32_t *sel, int64_t n_tok);
void mk_tape_on_route(mk_tape *t, mk_tape_route_fn fn, void *arg);

// Bytes of gradients and checkpoints that steps like the (dry) one just done need.
size_t mk_tape_need(const mk_tape *t);
// Takes that memory.  Errors: MK_ENOMEM.
mk_status mk_tape_reserve(mk_tape *t, mk_err *err) MK_WARN_UNUSED;

#endif
