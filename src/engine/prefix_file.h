// Files of the prefix cache: a run of consecutive blocks of one prompt, as bytes
// (docs/prefix-cache.md).  This module knows what is in a file; prefix_disk.h knows the folder.
//
// Nothing in a file is trusted: it is used only if its checksum is right, if it says that it was
// made for the same model, cache and version of the numbers, and if its keys are those of its ids.
// Threads: functions of their arguments.
#ifndef MK_ENGINE_PREFIX_FILE_H
#define MK_ENGINE_PREFIX_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mathx.h"
#include "base/status.h"

enum {
    MK_PREFIX_RUN_MAX = 64,      // blocks in a file
    MK_PREFIX_MODEL_MAX = 1024,  // bytes of a model's key
    MK_PREFIX_HEAD_MAX = 4096    // what precedes the ids is never longer
};

// What blocks must have in common to be exchanged.
typedef struct {
    const char *model_key;  // at most MK_PREFIX_MODEL_MAX bytes
    uint32_t kv_type;       // mk_kv_type
    uint64_t block_bytes;
    int key_bits;  // of a key that count; 0: all (tests ask for few, so that keys collide)
} mk_prefix_kind;

typedef struct {
    uint64_t tenant;
    int64_t first, n;     // blocks before it; blocks in it
    const int32_t *ids;   // [(first + n) * MK_KV_BLOCK], from position 0
    const mk_u128 *keys;  // [n]
    const uint8_t *data;  // [n, block_bytes]
} mk_prefix_run;

// Hash of everything in `kind`.
uint64_t mk_prefix_tag(const mk_prefix_kind *k);
// Key of a tenant's empty prefix; of a prefix that is one block (MK_KV_BLOCK ids) longer.
mk_u128 mk_prefix_root(const mk_prefix_kind *k, uint64_t tenant);
mk_u128 mk_prefix_next(const mk_prefix_kind *k, mk_u128 before, const int32_t *ids);

// Size of a file of n blocks with `first` before them; 0: cannot be addressed.
size_t mk_prefix_file_bytes(const mk_prefix_kind *k, int64_t first, int64_t n);
// Lays a file out in `file` (so many bytes, zeroed, aligned to 16) from everything in the run but
// its data; returns where the data go.
uint8_t *mk_prefix_file_lay(const mk_prefix_kind *k, const mk_prefix_run *run, uint8_t *file);
// Adds the checksum, when the data are there.
void mk_prefix_file_seal(uint8_t *file, size_t n_bytes);

// What precedes the ids, from the first n bytes of a file of n_file bytes (n = n_file, or at least
// MK_PREFIX_HEAD_MAX).  run->ids and data are NULL; keys point into p, which is aligned to 16.
// Errors: MK_ECORRUPT; MK_EUNSUPPORTED (of another version, model or cache).
mk_status mk_prefix_file_head(const mk_prefix_kind *k, const uint8_t *p, size_t n, size_t n_file,
                              mk_prefix_run *run, mk_err *err) MK_WARN_UNUSED;
// A whole file, all of it checked; the run points into p.  Errors: the same.
mk_status mk_prefix_file_parse(const mk_prefix_kind *k, const uint8_t *p, size_t n,
                               mk_prefix_run *run, mk_err *err) MK_WARN_UNUSED;

#endif
