// Private to the gguf*.c files.
#ifndef MK_FORMAT_GGUF_INT_H
#define MK_FORMAT_GGUF_INT_H

#include "format/gguf.h"
#include "format/names.h"

// One metadata entry.  The value lies in the file: p is the first byte of a scalar, of a string's
// text, or of an array's first element; n is the length of a string or the number of elements.  All
// of it was checked to lie inside the file.
typedef struct {
    const char *key;  // first member: see names.h
    mk_gguf_type type, elem_type;
    const uint8_t *p;
    uint64_t n;
} mk_gguf_kv;

// One file: a whole model, or a part of a split one.
typedef struct {
    mk_map map;
    bool mapped;       // else map.data belongs to the caller of mk_gguf_open_memory
    const char *what;  // name for messages; outlives the part
    mk_gguf_kv *kv;
    size_t n_kv;
    mk_tensor_view *tensors;  // data pointers set, ranges checked
    size_t n_tensor;
    char *texts;  // the NUL-terminated keys and names
    mk_names key_index;
} mk_gguf_part;

struct mk_gguf {
    mk_gguf_part **parts;  // the first one has the metadata
    size_t n_part;
    mk_tensor_view *tensors;  // of all parts; the only part's own array if there is one part
    size_t n_tensor;
    mk_names tensor_index;
};

// Parses part->map; on error the part is left for mk_gguf_part_free.
mk_status mk_gguf_parse(mk_gguf_part *part, mk_err *err) MK_WARN_UNUSED;
void mk_gguf_part_free(mk_gguf_part *part);

// Bytes of one value of a type on disk, 0 for strings and arrays.
size_t mk_gguf_type_bytes(mk_gguf_type t);
const char *mk_gguf_type_name(mk_gguf_type t);

// An optional integer of one part (split.count and the like); the same contract as mk_gguf_get_i64.
mk_status mk_gguf_part_i64(const mk_gguf_part *part, const char *key, int64_t min, int64_t max,
                           int64_t *out, mk_err *err) MK_WARN_UNUSED;

#endif
