// The key/value cache: a pool of blocks of MK_KV_BLOCK tokens, addressed by (sequence, position).
//
// A physical block stands for 64 tokens in every layer, so that it is the unit that is shared,
// spilled to disk and restored; in memory each layer's parts of all blocks lie side by side,
// because a step of attention reads one layer.  A sequence is a table of physical blocks and a
// length.  A block has holders: the tables it is in, and those who took or held it by hand (the
// prefix tree, prefix.h).
//
// Invariants
//  1. a physical block is on the free list if it has no holder, and only then;
//  2. a sequence of length n holds exactly ceil(n / 64) blocks;
//  3. a block with more than one holder is not written.  Rows are written at the end of a sequence
//     only, so it is enough that mk_kv_extend copies a last block that is shared and not full (a
//     sequence cut back into a shared block goes on in a copy; cutting alone costs nothing and
//     cannot fail);
//  4. rows at positions >= length may hold stale data; attention never lets them into a result.
// The pool may be smaller than what all sequences could hold: then extending can find it empty.
// Threads: one at a time, but mk_kv_block_read of a held block whose rows are all computed.
#ifndef MK_ENGINE_KV_H
#define MK_ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "model/model.h"

typedef struct mk_kv mk_kv;

typedef struct {
    mk_kv_type type;
    int64_t n_ctx, n_seq;  // so many sequences of so many positions each at most
    int64_t n_block;       // of the pool; 0: what all sequences need when they are full
} mk_kv_opts;

// Blocks of the pool with these options; INT64_MAX if that is too large to count.
int64_t mk_kv_opts_blocks(const mk_kv_opts *o);
// Memory is touched only as it is used.  Errors: MK_ENOMEM.
mk_status mk_kv_create(const mk_model *m, const mk_kv_opts *o, mk_kv **out,
                       mk_err *err) MK_WARN_UNUSED;
void mk_kv_destroy(mk_kv *kv);

// Opens an empty sequence.  Errors: MK_ELIMIT when all n_seq are open.
mk_status mk_kv_open(mk_kv *kv, int *seq, mk_err *err) MK_WARN_UNUSED;
void mk_kv_close(mk_kv *kv, int seq);
int64_t mk_kv_length(const mk_kv *kv, int seq);
// Makes the sequence n tokens longer (their rows are stale until stored).  Errors: MK_ECONTEXT with
// both numbers, MK_ELIMIT when the pool has too few blocks; then nothing has changed.
mk_status mk_kv_extend(mk_kv *kv, int seq, int64_t n, mk_err *err) MK_WARN_UNUSED;
// Whether that would succeed; changes nothing.
mk_status mk_kv_check(const mk_kv *kv, int seq, int64_t n, mk_err *err) MK_WARN_UNUSED;
// Shortens the sequence to n tokens (n <= length).
void mk_kv_truncate(mk_kv *kv, int seq, int64_t n);

const int32_t *mk_kv_table(const mk_kv *kv, int seq);  // physical block of each logical block
const mk_kv_layer *mk_kv_layers(const mk_kv *kv);      // [mk_model_n_layer]
mk_kv_type mk_kv_get_type(const mk_kv *kv);
int64_t mk_kv_n_ctx(const mk_kv *kv);
int64_t mk_kv_blocks_used(const mk_kv *kv);
int64_t mk_kv_blocks_total(const mk_kv *kv);

// --- sharing -------------------------------------------------------------------------------------
// Only blocks whose 64 rows are all computed are shared.

// A free block, whose holder is now the caller.  False: there is none.
bool mk_kv_take(mk_kv *kv, int32_t *block) MK_WARN_UNUSED;
// One holder more of a block that has some; one less: the last gives it back to the pool.
void mk_kv_hold(mk_kv *kv, int32_t block);
void mk_kv_drop(mk_kv *kv, int32_t block);
int32_t mk_kv_holders(const mk_kv *kv, int32_t block);
// The block becomes the next 64 tokens of a sequence of whole blocks, whose window has room for it
// (assertion).
void mk_kv_append(mk_kv *kv, int seq, int32_t block);
// Logical block i of the sequence, a whole one, is from now on `block`, whose rows are the same.
void mk_kv_exchange(mk_kv *kv, int seq, int64_t i, int32_t block);
// Contents as mk_kv_block_bytes opaque bytes, layer by layer; writing: to a block with one holder.
size_t mk_kv_block_bytes(const mk_kv *kv);
void mk_kv_block_read(const mk_kv *kv, int32_t block, void *out);
void mk_kv_block_write(mk_kv *kv, int32_t block, const void *in);

#endif
