// Random weights of any stored type, fast: for models that are only measured.
#ifndef MK_BENCH_MAKE_WEIGHTS_H
#define MK_BENCH_MAKE_WEIGHTS_H

#include "format/dtype.h"

typedef struct {
    mk_dtype type;          // F32, F16, BF16, Q4_0, Q5_0, Q8_0, Q4_K, Q6_K
    float centre, spread;   // mean and standard deviation; quantised types have mean about 0
    uint64_t key, counter;  // of the random numbers; the counter goes on with every call
} mk_values;

// Writes the next n blocks (elements of a plain type) of v to p, any alignment.
void mk_make_blocks(mk_values *v, uint8_t *p, size_t n);

#endif
