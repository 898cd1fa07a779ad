// Private to prefix_disk*.c: the index and its lock, shared by the caller's thread and the writer.
#ifndef MK_ENGINE_PREFIX_DISK_INT_H
#define MK_ENGINE_PREFIX_DISK_INT_H

#include <pthread.h>

#include "engine/prefix_disk.h"
#include "engine/prefix_map.h"

// TAG-KEY.mkkv: 16 hexadecimal digits of mk_prefix_tag, 32 of the last block's key.
#define MK_PREFIX_FILE_END ".mkkv"
enum { MK_PREFIX_NAME = 16 + 1 + 32 + sizeof MK_PREFIX_FILE_END };

typedef struct mk_prefix_entry mk_prefix_entry;
struct mk_prefix_entry {           // a file
    mk_prefix_entry *prev, *next;  // all of them
    mk_prefix_entry *next_touch;   // those whose time is to be set; oldest request first
    bool written, touch;
    uint64_t tenant, touched_ns;  // when its time was last asked to be set (monotonic)
    size_t n_bytes;
    int64_t n;
    mk_u128 keys[];  // [n]
};

typedef struct mk_prefix_job mk_prefix_job;
struct mk_prefix_job {  // a file that waits to be written
    mk_prefix_job *next;
    mk_prefix_entry *entry;
    uint8_t *bytes;
    size_t n_bytes;
};

struct mk_prefix_disk {
    // constant
    char *dir, *model_key;
    mk_prefix_kind kind;
    uint64_t tag, max_bytes;
    pthread_t thread;
    bool started;
    // under the lock
    pthread_mutex_t lock;
    pthread_cond_t work, idle;  // there is something to do; a job is done
    mk_prefix_map map;          // key of a block: entry, place in it
    mk_prefix_entry entries;    // head of the ring
    mk_prefix_entry *touch_first, *touch_last;
    mk_prefix_job *first, *last, *busy;
    size_t queued_bytes;
    bool closing, warned;
    uint64_t stopped_until_ns;         // 0, or nothing is written before
    uint64_t dir_bytes, unseen_bytes;  // of the folder; of these, written since it was looked at
    int64_t n_block, n_damaged;
};

// --- index; under the lock -----------------------------------------------------------------------
// NULL: no memory, or the last block is there already.  Blocks that other entries have are left to
// those.
mk_prefix_entry *mk_prefix_entry_add(mk_prefix_disk *d, const mk_prefix_run *run, size_t n_bytes);
void mk_prefix_entry_remove(mk_prefix_disk *d, mk_prefix_entry *e);
mk_u128 mk_prefix_entry_name(const mk_prefix_entry *e);  // the key in its name

// --- folder (prefix_folder.c); not under the lock ------------------------------------------------
char *mk_prefix_file_path(const mk_prefix_disk *d, mk_u128 last);  // mk_free
// Adds files of this kind that are not known yet, and removes what has no business there: damaged
// ones, and what killed processes left under other names.
mk_status mk_prefix_folder_scan(mk_prefix_disk *d, mk_err *err) MK_WARN_UNUSED;
// Removes the oldest files, until `need` bytes more stay well below the limit.
void mk_prefix_folder_sweep(mk_prefix_disk *d, uint64_t need);
// The whole file, aligned to 16, mk_free.  Errors: MK_ENOTFOUND, MK_ENOMEM, MK_EIO; MK_ECORRUPT if
// it has not n_bytes.
mk_status mk_prefix_file_read(const char *path, size_t n_bytes, uint8_t **out,
                              mk_err *err) MK_WARN_UNUSED;

#endif
