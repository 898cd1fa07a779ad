// What this machine can do at most, measured: the yardstick of `minke bench`.
//
// Bandwidth: all threads read an array much larger than the caches.  Compute: all threads run
// chains of the instruction the kernels use, out of registers, with the instruction set in use.
// Kernel: all threads run the real kernel of one type of weights, out of the nearest cache.  It
// needs more than the chains do (docs/performance.md), also of what a neighbour on the core takes.
// Handover: a cache line goes from one thread to another and back; it tells whether their cores
// share a cache (tens of nanoseconds) or not (hundreds), which a virtual machine may change at
// will.
//
// A machine's speed drifts (other programs, heat, neighbours), so a limit belongs to its moment: a
// probe is opened once and asked for a short burst again and again between the measurements that
// it is held against; the median of the bursts is the limit.
//
//     MK_TRY(mk_limits_open(pool, what, &probe, err));
//     mk_limits l = mk_limits_burst(probe);  ...  mk_limits_close(probe);
#ifndef MK_CMD_LIMITS_H
#define MK_CMD_LIMITS_H

#include <stddef.h>

#include "base/pool.h"
#include "base/status.h"
#include "ops/ops.h"

typedef struct {
    double read_bytes_per_second;   // from memory: an array of 512 MB
    double model_bytes_per_second;  // an array as large as the model: caches help a small one
    // Indexed by mk_arith; a multiply-add is two operations.  float32; pairs of bf16 summed in
    // float32 (the float32 rate where a set has no such instruction); int8 summed in int32.
    double ops_per_second[MK_ARITH_N];
    double kernel_ops_per_second;  // of the kind kernel_arith
    mk_arith kernel_arith;
    double handover_seconds;  // there and back, first and last thread; 0 with one thread
} mk_limits;

typedef struct {
    const mk_kernels *kernels;  // in use
    mk_dtype dtype;             // most of the weights
    size_t model_bytes;         // what one token reads
} mk_limits_of;

typedef struct mk_limits_probe mk_limits_probe;

// The pool must outlive the probe.  Errors: MK_ENOMEM (needs 512 MB for the array), MK_EUNSUPPORTED
// (no kernel for this type).
mk_status mk_limits_open(mk_pool *pool, mk_limits_of what, mk_limits_probe **out,
                         mk_err *err) MK_WARN_UNUSED;
void mk_limits_close(mk_limits_probe *p);
// Each limit measured once, as the best of some tries that take a tenth of a second together.
mk_limits mk_limits_burst(mk_limits_probe *p);

#endif
