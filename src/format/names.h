// A hash index over an array of records whose first member is a name (const char *): tensors,
// metadata keys.
//
// The records stay with their owner, unmoved, as long as the index.  Building finds duplicates.
// Files are hostile, the hash is not secret: the number of probes is bounded, so names made to
// collide are refused instead of costing quadratic time.
#ifndef MK_FORMAT_NAMES_H
#define MK_FORMAT_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    const void *records;
    size_t n, stride;
    uint64_t *slots;  // 0 = empty, else high 32 bits of the hash and index + 1
    size_t mask;      // number of slots - 1; a power of two, at most half full
} mk_names;

// `kind` names the records in messages ("tensor", "key").  Errors: MK_ECORRUPT (a name occurs
// twice), MK_ELIMIT (too many records or collisions), MK_ENOMEM.  On error nothing is kept.
mk_status mk_names_build(mk_names *x, const char *kind, const void *records, size_t n,
                         size_t stride, mk_err *err) MK_WARN_UNUSED;
void mk_names_free(mk_names *x);
int64_t mk_names_find(const mk_names *x, const char *name);  // index, or -1

#endif
