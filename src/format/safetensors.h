// safetensors files, single or sharded by model.safetensors.index.json, read by mmap.
// Specification: README of the safetensors format (Hugging Face), tightened as its 2023 audit
// asked: no gaps, no overlaps, no duplicate keys, header at most 100 MB, ranges equal to shape
// times size.
//
// Immutable after opening, may be shared by threads; views live until mk_safetensors_close.
#ifndef MK_FORMAT_SAFETENSORS_H
#define MK_FORMAT_SAFETENSORS_H

#include "base/status.h"
#include "format/tensor.h"

typedef struct mk_safetensors mk_safetensors;

// PATH is one *.safetensors file, or a folder holding model.safetensors or
// model.safetensors.index.json.  Shard names must stay inside the folder.  A tensor named by the
// index but absent from its shard is an error; one in a shard that the index does not name is
// ignored.  Errors: MK_ENOTFOUND, MK_ECORRUPT, MK_EUNSUPPORTED (sub-byte types, over 8 dimensions),
// MK_ELIMIT (names made to collide), MK_EIO, MK_ENOMEM.
mk_status mk_safetensors_open(const char *path, mk_safetensors **out, mk_err *err) MK_WARN_UNUSED;
// The same over bytes in memory; they and `what`, a name for messages, must outlive the object.
mk_status mk_safetensors_open_memory(const void *data, size_t n_bytes, const char *what,
                                     mk_safetensors **out, mk_err *err) MK_WARN_UNUSED;
void mk_safetensors_close(mk_safetensors *s);

// Tensors are numbered in the order of their data; with an index by file name, then tensor name.
int64_t mk_safetensors_n_tensor(const mk_safetensors *s);
const mk_tensor_view *mk_safetensors_tensor(const mk_safetensors *s, int64_t i);
// Hash lookup; NULL if there is none.
const mk_tensor_view *mk_safetensors_find(const mk_safetensors *s, const char *name);
size_t mk_safetensors_file_bytes(const mk_safetensors *s);

#endif
