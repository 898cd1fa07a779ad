// The folder of the prefix cache: blocks on disk, found by key, written by a thread of its own
// (docs/prefix-cache.md).
//
// A file is written under another name, synced and renamed, and read as a whole and checked before
// any of it is used; so a killed process, a full disk or a damaged file can cost blocks and nothing
// else.  What is in the folder is known from the heads of the files, which are read at the start.
// Files are removed oldest first (time of last change, set anew when they are used) when the folder
// grows over its limit.  Several processes and models may share a folder: the limit holds for all
// of them together, and a file that is gone is a miss.
//
// Threads: one at a time, but mk_prefix_disk_get, _there and _read.
#ifndef MK_ENGINE_PREFIX_DISK_H
#define MK_ENGINE_PREFIX_DISK_H

#include "engine/prefix_file.h"

typedef struct mk_prefix_disk mk_prefix_disk;

typedef struct {
    const char *dir;  // made if it is not there, for the owner alone
    uint64_t max_bytes;
    mk_prefix_kind kind;  // copied
} mk_prefix_disk_opts;

// Errors: MK_EIO (the folder cannot be made or read), MK_ENOMEM.
mk_status mk_prefix_disk_open(const mk_prefix_disk_opts *o, mk_prefix_disk **out,
                              mk_err *err) MK_WARN_UNUSED;
void mk_prefix_disk_close(mk_prefix_disk *d);  // writes what is queued; NULL is fine

// Whether a block is there, or on its way.
bool mk_prefix_disk_has(mk_prefix_disk *d, mk_u128 key);
// Whether a block could be read now.
bool mk_prefix_disk_there(mk_prefix_disk *d, mk_u128 key);
// Most blocks that should be put as one run.
int64_t mk_prefix_disk_run(const mk_prefix_disk *d);
// Queues a run, whose data `fill` copies, block by block, before this returns.  wait: until there
// is room in the queue.  False: it was not taken (queue or disk is full, no memory).
typedef void (*mk_prefix_fill)(void *arg, int64_t i, uint8_t *out);
bool mk_prefix_disk_put(mk_prefix_disk *d, const mk_prefix_run *run, bool wait, mk_prefix_fill fill,
                        void *arg);

// The file that holds a block, whole and checked.
typedef struct {
    mk_prefix_run run;
    int64_t at;      // of the block in the run
    uint8_t *bytes;  // mk_free
} mk_prefix_found;
// False: a miss.  A file that is not what it should be is removed.
bool mk_prefix_disk_get(mk_prefix_disk *d, uint64_t tenant, mk_u128 key, mk_prefix_found *out);
// The prefix with these keys was used.
void mk_prefix_disk_touch(mk_prefix_disk *d, const mk_u128 *keys, int64_t n);
// Removes what was made by a tenant (UINT64_MAX: by any), queued or written.
void mk_prefix_disk_forget(mk_prefix_disk *d, uint64_t tenant);
void mk_prefix_disk_flush(mk_prefix_disk *d);  // waits until the queue is empty

typedef struct {
    int64_t blocks;   // of this kind, written
    uint64_t bytes;   // of the folder, when it was last looked at, and what was written since
    int64_t damaged;  // files that were refused and removed
} mk_prefix_disk_figures;
void mk_prefix_disk_read(mk_prefix_disk *d, mk_prefix_disk_figures *out);

#endif
