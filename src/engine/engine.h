// The engine: one loaded model, one thread pool, one block cache; forward passes over ragged
// batches.  Token ids only.
//
// A batch is a list of steps, each some new tokens of one sequence: decoding is a step of one
// token, a prompt is fed in chunks, many sequences go together.  No result depends on how the work
// was cut into batches (docs/numerics.md).  Decoding allocates nothing: all memory is reserved when
// the engine is made.  Threads: one at a time.  The model must outlive the engine.
//
//     mk_engine_feed(e, seq, ids, n, MK_LOGITS_LAST, err);  // prompt
//     id = choose(mk_engine_logits(e, 0)); ...              // n_vocab floats
#ifndef MK_ENGINE_ENGINE_H
#define MK_ENGINE_ENGINE_H

#include <stdint.h>

#include "base/pool.h"
#include "base/status.h"
#include "engine/kv.h"
#include "model/model.h"
#include "ops/tape.h"

typedef struct mk_engine mk_engine;

typedef struct {
    const mk_kernels *kernels;  // not NULL: mk_kernels_find
    mk_pool *pool;              // outlives the engine
    mk_kv_type kv_type;
    int64_t n_ctx;    // positions per sequence
    int64_t n_seq;    // sequences at once
    int64_t n_block;  // blocks of the cache; 0: what n_seq sequences need when they are full
    int64_t n_chunk;  // rows per forward at most; 0 = 512
    int64_t n_out;    // logits rows per forward at most; 0 = n_seq
    // to record on; outlives the engine.  NULL: the engine only runs
    mk_tape *tape;
} mk_engine_opts;

// SOME: of the tokens whose `want` is not 0
typedef enum { MK_LOGITS_NONE, MK_LOGITS_LAST, MK_LOGITS_ALL, MK_LOGITS_SOME } mk_logits_mode;

typedef struct {
    int seq;
    const int32_t *ids;
    int64_t n;
    mk_logits_mode logits;
    const uint8_t *want;  // [n], for MK_LOGITS_SOME
} mk_step;

// Errors: MK_ENOMEM.  The model must be loaded.
mk_status mk_engine_create(const mk_model *m, const mk_engine_opts *opts, mk_engine **out,
                           mk_err *err) MK_WARN_UNUSED;
void mk_engine_destroy(mk_engine *e);

mk_status mk_engine_seq_open(mk_engine *e, int *seq, mk_err *err) MK_WARN_UNUSED;
void mk_engine_seq_close(mk_engine *e, int seq);
int64_t mk_engine_seq_length(const mk_engine *e, int seq);
void mk_engine_seq_truncate(mk_engine *e, int seq, int64_t n);

// One forward pass.  Each sequence appears at most once; together at most n_chunk rows and n_out
// logits rows (assertion).  Logits rows come in the order of the steps.  Errors: MK_EUSAGE (id
// outside the vocabulary), MK_ECONTEXT, MK_ELIMIT (the cache has too few free blocks); after an
// error no sequence has changed.
mk_status mk_engine_forward(mk_engine *e, const mk_step *steps, int n_step,
                            mk_err *err) MK_WARN_UNUSED;
// The same pass; `fn` is called with the logits [n_out, n_vocab] while the step is still open, and
// may use operators.  With `record` the pass is on the engine's tape, and fn may give the logits a
// gradient (mk_tape_grad) and walk back; sequences are then empty before.  Errors: as above, and
// what fn returns.
typedef mk_status (*mk_engine_fn)(void *arg, mk_ops *ops, mk_mat logits, mk_err *err);
mk_status mk_engine_forward_with(mk_engine *e, const mk_step *steps, int n_step, bool record,
                                 mk_engine_fn fn, void *arg, mk_err *err) MK_WARN_UNUSED;
// Inside fn: what came out of the last layer for every row of the pass, [rows, d_model], before the
// last norm; valid until fn returns.
mk_mat mk_engine_hidden(const mk_engine *e);
// Inside fn, once, of a model whose prediction layer is loaded (mk_model_use_mtp): logits [number
// of rows with want, n_vocab] of the tokens after the next ones.  next [n] holds, for every row of
// this pass, in the order of the steps, the token that follows it; want [n] is not 0 for rows whose
// prediction is wanted; next stays as it is until fn returns.  Recorded if the pass is.  Sequences
// are empty before the pass.  Ids are in the vocabulary (assertion).
mk_mat mk_engine_mtp(mk_engine *e, const int32_t *next, const uint8_t *want);
// Row i of the logits of the last forward, n_vocab floats, valid until the next one.
const float *mk_engine_logits(const mk_engine *e, int64_t i);

// Feeds any number of tokens of one sequence in chunks; with MK_LOGITS_LAST the last row stays
// readable.
mk_status mk_engine_feed(mk_engine *e, int seq, const int32_t *ids, int64_t n, mk_logits_mode mode,
                         mk_err *err) MK_WARN_UNUSED;
// The same with all logits, handed over row by row in order.  A status other than MK_OK from `row`
// stops the feeding.
typedef mk_status (*mk_row_fn)(void *arg, int64_t i, const float *logits, mk_err *err);
mk_status mk_engine_feed_rows(mk_engine *e, int seq, const int32_t *ids, int64_t n, mk_row_fn row,
                              void *arg, mk_err *err) MK_WARN_UNUSED;

const mk_model *mk_engine_model(const mk_engine *e);
mk_ops *mk_engine_ops(mk_engine *e);  // taps, profile
mk_kv *mk_engine_kv(mk_engine *e);    // for who shares its blocks (prefix.h)
int64_t mk_engine_n_ctx(const mk_engine *e);
int64_t mk_engine_n_chunk(const mk_engine *e);
int64_t mk_engine_n_out(const mk_engine *e);

// Memory an engine with these options will use when its window is full: weights, cache, scratch.
typedef struct {
    size_t weights, kv, scratch, total;
} mk_memory_plan;
mk_status mk_engine_plan(const mk_model *m, const mk_engine_opts *opts, mk_memory_plan *out,
                         mk_err *err) MK_WARN_UNUSED;

#endif
