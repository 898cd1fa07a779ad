// Checkpoints: one file holds everything a run needs to go on.
//
//   header    64 bytes: magic, version, step, score, sizes, hash of the table, hash of itself
//   table     one record per section (type, shape, place, hash), then the names
//   sections  each at a multiple of 64, zeros between them; the first is the run's JSON
//
// Little endian; hashes are XXH3.  The bytes are a function of what is stored: no times, no paths.
// A file appears under its name complete or not at all (base/file.h).  Nothing in a file is
// trusted: opening checks every count, size and offset against the file before use, then every
// byte against its hash.
//
// Nouns
//   mk_ckpt_section   a named array: a tensor, a state of the optimiser, whatever the run keeps
//   mk_ckpt           an opened, verified file
//   run folder        holds files ckpt-NNNNNNNN.mkt, N being the step
#ifndef MK_TRAIN_CKPT_H
#define MK_TRAIN_CKPT_H

#include <jansson.h>
#include <stdint.h>

#include "base/status.h"
#include "format/dtype.h"

#define MK_CKPT_DIM 4

typedef struct {
    const char *name;
    mk_dtype dtype;
    int32_t n_dim;  // 1 to MK_CKPT_DIM
    int64_t shape[MK_CKPT_DIM];
    void *data;  // the whole array, without holes; only read when it is written to a file
} mk_ckpt_section;

typedef struct {
    int64_t step;
    double score;       // of the model, less is better; NaN: not known
    const json_t *run;  // an object, anything the run wants back; sorted by key in the file
} mk_ckpt_head;

// Errors: MK_EIO, MK_ENOTFOUND (folder), MK_ENOMEM; after any of them the old file is intact.
mk_status mk_ckpt_write(const char *path, const mk_ckpt_head *head, const mk_ckpt_section *list,
                        int64_t n, mk_err *err) MK_WARN_UNUSED;

typedef struct mk_ckpt mk_ckpt;
// Reads and verifies the whole file.  Errors: MK_ENOTFOUND, MK_EIO, MK_ECORRUPT (what is wrong),
// MK_EUNSUPPORTED (another version), MK_ENOMEM.
mk_status mk_ckpt_open(const char *path, mk_ckpt **out, mk_err *err) MK_WARN_UNUSED;
// The same over bytes in memory, which must outlive the object, as must `what`, a name for
// messages.
mk_status mk_ckpt_open_memory(const void *data, size_t n_bytes, const char *what, mk_ckpt **out,
                              mk_err *err) MK_WARN_UNUSED;
void mk_ckpt_close(mk_ckpt *c);

// `run` is borrowed.
mk_ckpt_head mk_ckpt_get_head(const mk_ckpt *c);
const char *mk_ckpt_path(const mk_ckpt *c);
// Sections without the run's JSON; data lie in the file's map, read-only.
const mk_ckpt_section *mk_ckpt_sections(const mk_ckpt *c, int64_t *n);
const mk_ckpt_section *mk_ckpt_find(const mk_ckpt *c, const char *name);  // NULL: not there

// Fills the data of every section of the list.  The file must have exactly these, of these types
// and shapes; nothing is written otherwise.  Errors: MK_EUSAGE (the first that differs).
mk_status mk_ckpt_load(const mk_ckpt *c, const mk_ckpt_section *list, int64_t n,
                       mk_err *err) MK_WARN_UNUSED;

// --- run folders ---------------------------------------------------------------------------------
char *mk_ckpt_name(const char *dir, int64_t step);  // path of the file of a step; mk_free

// Opens the newest file that is whole.  Damaged ones are reported as warnings and passed over.
// Errors: MK_ENOTFOUND (there is none), MK_EIO (the folder), MK_ECORRUPT (all are damaged).
mk_status mk_ckpt_latest(const char *dir, mk_ckpt **out, mk_err *err) MK_WARN_UNUSED;

// Opens the one with the best score, the newest of equals.  Errors: MK_ENOTFOUND (none has a
// score), those of mk_ckpt_open.
mk_status mk_ckpt_best(const char *dir, mk_ckpt **out, mk_err *err) MK_WARN_UNUSED;

// Step and score of a file from its header alone (run is NULL).  Errors: MK_ENOTFOUND, MK_EIO,
// MK_ECORRUPT, MK_EUNSUPPORTED.
mk_status mk_ckpt_peek(const char *path, mk_ckpt_head *head, mk_err *err) MK_WARN_UNUSED;

// Deletes all but the newest n_last files (at least 1) and the n_best of the best score (the newer
// at a tie; files without a score are never best), and the temporary files of writers that were
// killed: one run at a time has a folder.  Errors: MK_EIO, MK_ENOTFOUND (the folder, or a file that
// cannot be deleted).
mk_status mk_ckpt_prune(const char *dir, int64_t n_last, int64_t n_best,
                        mk_err *err) MK_WARN_UNUSED;

#endif
