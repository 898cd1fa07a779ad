// One stored tensor, wherever it comes from.  Shapes are row-major, slowest index first ([n_out,
// n_in] for a linear layer), for GGUF (which stores dims fastest first) and safetensors alike.
#ifndef MK_FORMAT_TENSOR_H
#define MK_FORMAT_TENSOR_H

#include "base/file.h"
#include "format/dtype.h"

#define MK_MAX_DIMS 8

typedef struct {
    const char *name;  // owned by the file object it came from
    mk_dtype dtype;
    int n_dim;                   // 0..MK_MAX_DIMS; GGUF: 1..4
    int64_t shape[MK_MAX_DIMS];  // unused entries are 1
    const uint8_t *data;         // n_bytes inside the map; may be unaligned
    size_t n_bytes;
    const mk_map *map;  // the file; lives as long as the file object
} mk_tensor_view;

#endif
