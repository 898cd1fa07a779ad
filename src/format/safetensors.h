// safetensors files, single or sharded by model.safetensors.index.json, read by mmap; and a writer.
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

// --- writer: one file; collect tensor descriptions, then stream the data -------------------------
// Sticky: nothing here fails but mk_st_out_write, which reports the first mistake (a type that the
// format lacks, a shape that does not fit, a name given twice or not UTF-8, no memory).  Texts are
// copied.
typedef struct mk_st_out mk_st_out;
mk_st_out *mk_st_out_create(void);
void mk_st_out_destroy(mk_st_out *o);
// An entry of "__metadata__"; "format": "pt", which transformers asks for, is there without asking.
void mk_st_out_meta(mk_st_out *o, const char *key, const char *text);
// Declares a tensor, row-major; n_dim 0 is one element.
void mk_st_out_tensor(mk_st_out *o, const char *name, mk_dtype t, int n_dim, const int64_t *shape);
uint64_t mk_st_out_data_bytes(const mk_st_out *o);
// Writes header and then, per tensor, what `fill` delivers in pieces through mk_writer_write;
// checks that each tensor got exactly its bytes; atomic.  i_tensor counts declarations, but the
// calls come in descending element size (so that every tensor is aligned), equal sizes as declared.
typedef mk_status (*mk_st_fill)(void *arg, int64_t i_tensor, mk_writer *w, mk_err *err);
mk_status mk_st_out_write(mk_st_out *o, const char *path, mk_st_fill fill, void *arg,
                          mk_err *err) MK_WARN_UNUSED;

#endif
