// What this machine can do at most, measured: the yardstick of `minke bench`.
//
// Bandwidth: all threads read an array much larger than the caches.  Compute: all threads run
// chains of the instruction the kernels use, out of registers, with the instruction set in use.
#ifndef MK_CMD_LIMITS_H
#define MK_CMD_LIMITS_H

#include <stddef.h>

#include "base/pool.h"
#include "base/status.h"

typedef struct {
    double read_bytes_per_second;   // from memory: an array of 512 MB
    double model_bytes_per_second;  // an array as large as the model: caches help a small one
    double f32_ops_per_second;      // a multiply-add is two operations
    // pairs of bf16 summed in float32; the f32 rate where a set has no such instruction
    double bf16_ops_per_second;
    double int8_ops_per_second;  // int8 products summed in int32
} mk_limits;

// isa: name of the kernels in use; model_bytes: packed weights.  Takes about two seconds.  Errors:
// MK_ENOMEM (needs 512 MB for the array).
mk_status mk_limits_measure(mk_pool *pool, const char *isa, size_t model_bytes, mk_limits *out,
                            mk_err *err) MK_WARN_UNUSED;

#endif
