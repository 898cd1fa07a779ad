// The key/value cache: a pool of blocks of MK_KV_BLOCK tokens, addressed by (sequence, position).
//
// A physical block stands for 64 tokens in every layer, so that it is the unit that can later be
// shared, spilled to disk and restored; in memory each layer's parts of all blocks lie side by
// side, because a step of attention reads one layer.  A sequence is a table of physical blocks and
// a length.
//
// Invariants
//  1. every physical block is either on the free list or in exactly one table;
//  2. a sequence of length n holds exactly ceil(n / 64) blocks;
//  3. rows at positions >= length may hold stale data; attention never lets them into a result.
// Threads: one at a time.
#ifndef MK_ENGINE_KV_H
#define MK_ENGINE_KV_H

#include <stdint.h>

#include "base/status.h"
#include "model/model.h"

typedef struct mk_kv mk_kv;

// Room for n_seq sequences of n_ctx positions each; memory is touched only as it is used.  Errors:
// MK_ENOMEM.
mk_status mk_kv_create(const mk_model *m, mk_kv_type type, int64_t n_ctx, int64_t n_seq,
                       mk_kv **out, mk_err *err) MK_WARN_UNUSED;
void mk_kv_destroy(mk_kv *kv);

// Opens an empty sequence.  Errors: MK_ELIMIT when all n_seq are open.
mk_status mk_kv_open(mk_kv *kv, int *seq, mk_err *err) MK_WARN_UNUSED;
void mk_kv_close(mk_kv *kv, int seq);
int64_t mk_kv_length(const mk_kv *kv, int seq);
// Makes the sequence n tokens longer (their rows are stale until stored).  Errors: MK_ECONTEXT with
// both numbers; then nothing has changed.
mk_status mk_kv_extend(mk_kv *kv, int seq, int64_t n, mk_err *err) MK_WARN_UNUSED;
// Shortens the sequence to n tokens (n <= length).
void mk_kv_truncate(mk_kv *kv, int seq, int64_t n);

const int32_t *mk_kv_table(const mk_kv *kv, int seq);  // physical block of each logical block
const mk_kv_layer *mk_kv_layers(const mk_kv *kv);      // [mk_model_n_layer]
mk_kv_type mk_kv_get_type(const mk_kv *kv);
int64_t mk_kv_n_ctx(const mk_kv *kv);
int64_t mk_kv_blocks_used(const mk_kv *kv);
int64_t mk_kv_blocks_total(const mk_kv *kv);

#endif
