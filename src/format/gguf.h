// GGUF v2/v3 files (little endian), single or split, read by mmap; and a writer.
// Specification: docs/gguf.md of the ggml project.
//
// Nothing in a file is trusted: every count, length, offset and shape is checked against the file
// size before use, so after mk_gguf_open every view is safe to read.  A mk_gguf is immutable and
// may be shared by threads.  Strings and views point into it and live until mk_gguf_close.
#ifndef MK_FORMAT_GGUF_H
#define MK_FORMAT_GGUF_H

#include "base/status.h"
#include "format/tensor.h"

typedef enum {
    MK_GGUF_U8,
    MK_GGUF_I8,
    MK_GGUF_U16,
    MK_GGUF_I16,
    MK_GGUF_U32,
    MK_GGUF_I32,
    MK_GGUF_F32,
    MK_GGUF_BOOL,
    MK_GGUF_STRING,
    MK_GGUF_ARRAY,
    MK_GGUF_U64,
    MK_GGUF_I64,
    MK_GGUF_F64,
    MK_GGUF_N_TYPE
} mk_gguf_type;

typedef struct {
    const char *p;  // not NUL-terminated, any bytes
    size_t n;
} mk_gguf_str;

typedef struct mk_gguf mk_gguf;

// Opens PATH; for the first part of a split file (name-00001-of-0000N.gguf) all parts are opened
// and checked against split.count and split.tensors.count.  Errors: MK_ENOTFOUND, MK_ECORRUPT
// (what, expected, actual, at which byte), MK_EUNSUPPORTED (version 1, big endian, tensor types
// unknown, arrays of arrays), MK_EUSAGE (a later part of a split file), MK_ELIMIT (names made to
// collide), MK_EIO, MK_ENOMEM.
mk_status mk_gguf_open(const char *path, mk_gguf **out, mk_err *err) MK_WARN_UNUSED;
// The same over bytes in memory (tests, fuzzing, an embedded model); they and `what`, a name for
// messages, must outlive the object.
mk_status mk_gguf_open_memory(const void *data, size_t n_bytes, const char *what, mk_gguf **out,
                              mk_err *err) MK_WARN_UNUSED;
void mk_gguf_close(mk_gguf *g);

int64_t mk_gguf_n_kv(const mk_gguf *g);
const char *mk_gguf_key(const mk_gguf *g, int64_t i);
mk_gguf_type mk_gguf_kv_type(const mk_gguf *g, int64_t i);
int64_t mk_gguf_find(const mk_gguf *g, const char *key);  // index, or -1

// Typed optional values: a missing key leaves *out as it is and returns MK_OK; a wrong type or a
// value out of range is MK_ECORRUPT with key, expected and actual.  Any integer type is taken for
// i64 if the value fits; f32/f64/ints for f64.
mk_status mk_gguf_get_i64(const mk_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                          mk_err *err) MK_WARN_UNUSED;
mk_status mk_gguf_get_f64(const mk_gguf *g, const char *key, double *out,
                          mk_err *err) MK_WARN_UNUSED;
mk_status mk_gguf_get_bool(const mk_gguf *g, const char *key, bool *out,
                           mk_err *err) MK_WARN_UNUSED;
mk_status mk_gguf_get_str(const mk_gguf *g, const char *key, mk_gguf_str *out,
                          mk_err *err) MK_WARN_UNUSED;

// Arrays: length (0 if the key is missing or not an array), element type (MK_GGUF_N_TYPE then) and
// elements, converted like the scalars above; a bool is 0 or 1 for arr_i64.  A missing key or
// element is MK_ECORRUPT: ask arr_len first.
int64_t mk_gguf_arr_len(const mk_gguf *g, const char *key);
mk_gguf_type mk_gguf_arr_type(const mk_gguf *g, const char *key);
mk_status mk_gguf_arr_i64(const mk_gguf *g, const char *key, int64_t i, int64_t *out,
                          mk_err *err) MK_WARN_UNUSED;
mk_status mk_gguf_arr_f64(const mk_gguf *g, const char *key, int64_t i, double *out,
                          mk_err *err) MK_WARN_UNUSED;
// All strings of an array at once (arrays of strings have no random access on disk): *out has *n
// entries, mk_free.  A missing key gives *out = NULL and *n = 0.
mk_status mk_gguf_arr_strs(const mk_gguf *g, const char *key, mk_gguf_str **out, int64_t *n,
                           mk_err *err) MK_WARN_UNUSED;

int64_t mk_gguf_n_tensor(const mk_gguf *g);  // over all parts
const mk_tensor_view *mk_gguf_tensor(const mk_gguf *g, int64_t i);
// Hash lookup; NULL if there is none.
const mk_tensor_view *mk_gguf_find_tensor(const mk_gguf *g, const char *name);
size_t mk_gguf_file_bytes(const mk_gguf *g);  // over all parts

// --- writer: collect metadata and tensor descriptions, then stream the data in the order described
// Sticky: nothing here fails but mk_gguf_out_write, which reports the first mistake (a shape or
// value that does not fit, a key or name given twice, no memory).  Texts are copied.
typedef struct mk_gguf_out mk_gguf_out;
mk_gguf_out *mk_gguf_out_create(void);
void mk_gguf_out_destroy(mk_gguf_out *o);
void mk_gguf_out_u32(mk_gguf_out *o, const char *key, uint32_t v);
void mk_gguf_out_i64(mk_gguf_out *o, const char *key, mk_gguf_type type,
                     int64_t v);  // any integer type, BOOL too
void mk_gguf_out_f32(mk_gguf_out *o, const char *key, float v);
void mk_gguf_out_str(mk_gguf_out *o, const char *key, const char *p, size_t n);
void mk_gguf_out_arr_str(mk_gguf_out *o, const char *key, const mk_gguf_str *v, int64_t n);
void mk_gguf_out_arr_f32(mk_gguf_out *o, const char *key, const float *v, int64_t n);
void mk_gguf_out_arr_i32(mk_gguf_out *o, const char *key, const int32_t *v, int64_t n);
// One key of another file, unchanged; general.alignment and split.* are left out, they describe the
// old file's layout.
void mk_gguf_out_copy_kv(mk_gguf_out *o, const mk_gguf *g, int64_t i);
// Declares a tensor: row-major shape; dtype F32, F16, BF16, Q8_0 or any type copied through
// unchanged.
void mk_gguf_out_tensor(mk_gguf_out *o, const char *name, mk_dtype t, int n_dim,
                        const int64_t *shape);
// Writes header and then, per tensor in order, what `fill` delivers in pieces through
// mk_writer_write; checks that each tensor got exactly its bytes; atomic.
typedef mk_status (*mk_gguf_fill)(void *arg, int64_t i_tensor, mk_writer *w, mk_err *err);
mk_status mk_gguf_out_write(mk_gguf_out *o, const char *path, mk_gguf_fill fill, void *arg,
                            mk_err *err) MK_WARN_UNUSED;

#endif
