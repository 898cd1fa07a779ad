// Reads files of the prefix cache on a thread of its own, so that the rounds of those who are being
// answered go on while a long conversation comes back from a slow disk (docs/prefix-cache.md).
//
// Everybody who reads is a number (a sequence) and has one file on order at most.  Files are read
// in the order of the orders, and a few that wait to be fetched at most are held in memory.
//
// Threads: one at a time; the disk's folder outlives the reader.
#ifndef MK_ENGINE_PREFIX_READER_H
#define MK_ENGINE_PREFIX_READER_H

#include "engine/prefix_disk.h"

typedef struct mk_prefix_reader mk_prefix_reader;

// Errors: MK_ENOMEM (no thread).
mk_status mk_prefix_reader_start(mk_prefix_disk *d, mk_prefix_reader **out,
                                 mk_err *err) MK_WARN_UNUSED;
// waits for a file that is being read; NULL is fine
void mk_prefix_reader_stop(mk_prefix_reader *r);

typedef enum { MK_PREFIX_MISS, MK_PREFIX_FOUND, MK_PREFIX_LATER } mk_prefix_state;
// The file with the block of this key, if it has been read; otherwise it is ordered (LATER), in the
// place of what `who` had on order before.  FOUND: *out is the caller's.
mk_prefix_state mk_prefix_reader_get(mk_prefix_reader *r, int who, uint64_t tenant, mk_u128 key,
                                     mk_prefix_found *out);
// What `who` (-1: anybody) has on order is not wanted any more.
void mk_prefix_reader_let_go(mk_prefix_reader *r, int who);
// Waits until a file can be fetched, `ms` at most.
void mk_prefix_reader_wait(mk_prefix_reader *r, int ms);

#endif
