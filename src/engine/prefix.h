// The prefix cache: what was computed once is found again, in memory and on disk.
//
// A tree over whole blocks of MK_KV_BLOCK tokens.  A node stands for the tokens from position 0 to
// the end of its block, of one tenant; its key is a chained 128-bit hash of tenant, model and ids,
// and the ids themselves are kept and compared, so that a collision is a miss and never a wrong
// token.  Blocks in memory are shared with running sequences by reference counts (engine/kv.h); a
// block that nobody uses may be taken back, least recently used first, leaves before their parents.
// With a folder, blocks are written there as they become known, by a thread that nobody waits for
// (prefix_disk.h), so that a killed process loses next to nothing; a damaged file is a miss.
// How it works and what it costs: docs/prefix-cache.md.
//
// Blocks stay in the pool until somebody needs them, so a sequence that is to grow may find it
// empty (MK_ELIMIT, engine.h): call mk_prefix_make_room before.
//
// Threads: one at a time, the engine's (the scheduler's), but for mk_prefix_read.
#ifndef MK_ENGINE_PREFIX_H
#define MK_ENGINE_PREFIX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"

typedef struct mk_prefix mk_prefix;

typedef struct {
    mk_engine *engine;
    const char *dir;    // folder of blocks on disk; NULL: memory only
    uint64_t max_disk;  // bytes; > 0 if there is a folder
    // what makes blocks different besides the model, its files' times, its configuration and its
    // adapters (mk_model_state_key), which are always told apart; may be NULL
    const char *model_key;
    int key_bits;  // of a key that count; 0: all 128 (tests ask for few, so that keys collide)
} mk_prefix_opts;

// The engine must outlive it; no other prefix cache may use the engine.  Errors: MK_ENOMEM, MK_EIO
// (the folder).
mk_status mk_prefix_create(const mk_prefix_opts *o, mk_prefix **out, mk_err *err) MK_WARN_UNUSED;
// Writes what is only in memory, if there is a folder.  Sequences keep the blocks that they hold.
void mk_prefix_destroy(mk_prefix *p);

// Gives an empty sequence the longest known prefix of ids[0..n), at most n - 1 tokens, in whole
// blocks; from disk too.  Returns its length.  Never fails: what cannot be had is a miss.
//
// With `more` it does not wait for the disk: *more says that files are being read, and it is to be
// called again, before the sequence is fed, for what is in them.  A call adds what is in memory and
// one file (16 MB) at most.  Whoever does not come back says so: mk_prefix_let_go.
int64_t mk_prefix_attach(mk_prefix *p, int seq, uint64_t tenant, const int32_t *ids, int64_t n,
                         bool *more);
void mk_prefix_let_go(mk_prefix *p, int seq);
// Waits until a file has been read that somebody asked for, `ms` at most.
void mk_prefix_wait(mk_prefix *p, int ms);
// The whole blocks of ids[0..n), all of which the sequence holds computed, are known from now on.
// Where they were known already, the sequence's own copies go back to the pool.  Cheap, but not for
// every token: a walk over all n (25 us at 32k); call it when blocks were completed.
void mk_prefix_insert(mk_prefix *p, int seq, uint64_t tenant, const int32_t *ids, int64_t n);
// Takes back blocks that nobody uses until n are free, or none is left; returns how many are free.
int64_t mk_prefix_make_room(mk_prefix *p, int64_t n);
// Blocks that make_room could free at most, plus those that are free.
int64_t mk_prefix_available(const mk_prefix *p);
// Everything of one tenant (UINT64_MAX: of all) is forgotten, on disk too.
void mk_prefix_forget(mk_prefix *p, uint64_t tenant);
// Writes everything in memory to disk and waits for it.
void mk_prefix_flush(mk_prefix *p);

typedef struct {
    int64_t memory_blocks, disk_blocks;
    uint64_t disk_bytes;
    int64_t lookups, hit_tokens, disk_hit_tokens, miss_tokens, evicted, damaged;
} mk_prefix_figures;
void mk_prefix_read(const mk_prefix *p, mk_prefix_figures *out);

#endif
