// Private to the safetensors*.c files.
#ifndef MK_FORMAT_SAFETENSORS_INT_H
#define MK_FORMAT_SAFETENSORS_INT_H

#include "format/names.h"
#include "format/safetensors.h"

// One file; views in the order of their data.
typedef struct {
    mk_map map;
    bool mapped;       // else map.data belongs to the caller of mk_safetensors_open_memory
    const char *what;  // name for messages; outlives the shard
    mk_tensor_view *tensors;
    size_t n_tensor;
    char *texts;  // NUL-terminated names
    mk_names index;
} mk_st_shard;

struct mk_safetensors {
    mk_st_shard **shards;
    size_t n_shard;
    mk_tensor_view *tensors;  // the single file's own array, or those the index names
    size_t n_tensor;
    bool own_tensors;
    mk_names own_index;     // if own_tensors
    const mk_names *index;  // own_index or the single file's
};

// Parses and checks shard->map; on error the shard is left for mk_st_shard_free.
mk_status mk_st_parse(mk_st_shard *shard, mk_err *err) MK_WARN_UNUSED;
void mk_st_shard_free(mk_st_shard *shard);

// "BF16"; NULL for a type that the format does not have.
const char *mk_st_dtype_name(mk_dtype t);

#endif
