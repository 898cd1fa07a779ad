// Packed files: the weights of one model as the kernels read them, to be mapped instead of packed
// again (docs/pack-cache.md).  This module knows the bytes; model/pack_cache.h knows models.
//
//   page 0   magic and version, zeros
//   data     the weights one after the other, each at a multiple of MK_PACKFILE_ALIGN
//   index    one record per source file, one per weight, then the names; it stands behind the data because it holds
//            their hashes and the data are written as they come
//   trailer  the last 128 bytes: versions, sizes, hash of the index, hash of itself
//
// Little endian, records of fixed size.  Nothing in a file is trusted: trailer and index are copied
// out of the map, their hashes are checked, and every count, size and offset is checked against the
// file before use.  The hashes of the data are checked by mk_packfile_verify only, because that
// reads every byte.  A mk_packfile is immutable and may be shared by threads.
#ifndef MK_FORMAT_PACKFILE_H
#define MK_FORMAT_PACKFILE_H

#include <stdint.h>

#include "base/file.h"
#include "base/status.h"

#define MK_PACKFILE_ALIGN 4096

// One file that the model was read from, as it was then.
typedef struct {
    const char *path;  // NUL-terminated, any other bytes
    uint64_t n_bytes;
    int64_t mtime_ns;
} mk_packfile_source;

// One weight, as it is stored: mk_weight's numbers, and where its data lie.  layer and row say
// which weight of the model it is; what they mean is the caller's business.
typedef struct {
    int32_t layer, row;
    uint32_t dtype, kind, scales, group, has_shift, has_table;
    int32_t code_offset;
    uint32_t zero;
    int8_t table[16];
    int64_t n_mat, n_out, n_in;
    uint64_t mat_bytes, offset, hash;  // hash: XXH3 of the n_mat * mat_bytes bytes
} mk_packfile_entry;

typedef struct {
    uint32_t layout;       // version of the packed layouts (MK_PACK_LAYOUT)
    uint64_t fingerprint;  // what was packed
    const char *model;     // path as the model was opened with, absolute
    const mk_packfile_source *source;
    int64_t n_source;
} mk_packfile_head;

// --- reading -------------------------------------------------------------------------------------
typedef struct mk_packfile mk_packfile;

// Errors: MK_ENOTFOUND, MK_EIO, MK_ECORRUPT (what, expected, actual), MK_EUNSUPPORTED (another
// version of the format), MK_ENOMEM.
mk_status mk_packfile_open(const char *path, mk_packfile **out, mk_err *err) MK_WARN_UNUSED;
// The same over bytes in memory, which must outlive the object, as must `what`, a name for
// messages.
mk_status mk_packfile_open_memory(const void *data, size_t n_bytes, const char *what,
                                  mk_packfile **out, mk_err *err) MK_WARN_UNUSED;
void mk_packfile_close(mk_packfile *f);
// Its pages leave our memory (mk_map_forget) until they are read again.
void mk_packfile_forget(const mk_packfile *f);

const char *mk_packfile_path(const mk_packfile *f);
size_t mk_packfile_bytes(const mk_packfile *f);  // of the whole file
const mk_packfile_head *mk_packfile_get_head(const mk_packfile *f);
int64_t mk_packfile_n_entry(const mk_packfile *f);
const mk_packfile_entry *mk_packfile_get_entry(const mk_packfile *f, int64_t i);
// The n_mat * mat_bytes bytes of a weight, inside the map; read-only.
const uint8_t *mk_packfile_data(const mk_packfile *f, int64_t i);

// Reads every byte of the data and compares the hashes; step may be NULL and stops the work with
// its error.  Errors: MK_ECORRUPT (the first weight that differs).
typedef mk_status (*mk_packfile_step)(void *arg, uint64_t done, uint64_t total);
mk_status mk_packfile_verify(const mk_packfile *f, mk_packfile_step step, void *arg,
                             mk_err *err) MK_WARN_UNUSED;

// --- writing -------------------------------------------------------------------------------------
// Weights are added one by one and not kept; nothing appears under PATH before commit
// (base/file.h).
typedef struct mk_packfile_out mk_packfile_out;
mk_status mk_packfile_create(const char *path, mk_packfile_out **out, mk_err *err) MK_WARN_UNUSED;
// e: all fields but offset and hash.
mk_status mk_packfile_add(mk_packfile_out *o, const mk_packfile_entry *e, const uint8_t *data,
                          mk_err *err) MK_WARN_UNUSED;
// Writes index and trailer and gives the file its name; frees o whatever happens.
mk_status mk_packfile_commit(mk_packfile_out *o, const mk_packfile_head *head,
                             mk_err *err) MK_WARN_UNUSED;
void mk_packfile_abort(mk_packfile_out *o);  // NULL is fine

#endif
