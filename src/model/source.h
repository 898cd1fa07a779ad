// Where a model comes from: one GGUF file (perhaps split) or one Hugging Face folder (config.json +
// safetensors).  A folder without safetensors that holds one GGUF file stands for that file.
//
// Gives tensors by name and configuration values by key, with errors that name key, expected and
// actual.  Immutable after opening.  Owns the maps; every view lives until mk_source_close.
#ifndef MK_MODEL_SOURCE_H
#define MK_MODEL_SOURCE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"
#include "format/gguf.h"
#include "format/safetensors.h"

typedef struct mk_source mk_source;

// PATH is a folder or a .gguf file.  Other files (pickle, .bin, lone .safetensors) get an error
// that says what is read.
mk_status mk_source_open(const char *path, mk_source **out, mk_err *err) MK_WARN_UNUSED;
// Path (mk_free) of the GGUF file that folder `dir` stands for, whatever else lies there; NULL if
// it stands for none: no GGUF file, or safetensors.  Of a split file the first part.  Errors:
// MK_EUSAGE (several to choose from).
mk_status mk_source_gguf_in(const char *dir, char **path, mk_err *err) MK_WARN_UNUSED;
// A configuration without tensors, for a model that is to be made: a file like config.json, or a
// folder that holds one.
mk_status mk_source_open_config(const char *path, mk_source **out, mk_err *err) MK_WARN_UNUSED;
void mk_source_close(mk_source *s);

bool mk_source_is_gguf(const mk_source *s);
const char *mk_source_path(const mk_source *s);
const mk_gguf *mk_source_gguf(const mk_source *s);   // NULL for a folder
const json_t *mk_source_config(const mk_source *s);  // config.json; NULL for GGUF
// Architecture as the files call it: general.architecture, or architectures[0] / model_type.
const char *mk_source_arch(const mk_source *s);
int64_t mk_source_n_tensor(const mk_source *s);
const mk_tensor_view *mk_source_tensor(const mk_source *s, int64_t i);
const mk_tensor_view *mk_source_find(const mk_source *s, const char *name);
size_t mk_source_file_bytes(const mk_source *s);

// Configuration values.  hf: alternatives by '|', nesting by '.'; gguf: key without "<arch>." or
// "/absolute.key".  *found tells whether any was there; if not, *out is untouched.
mk_status mk_source_i64(const mk_source *s, const char *hf, const char *gguf, int64_t *out,
                        bool *found, mk_err *err) MK_WARN_UNUSED;
mk_status mk_source_f64(const mk_source *s, const char *hf, const char *gguf, double *out,
                        bool *found, mk_err *err) MK_WARN_UNUSED;
mk_status mk_source_bool(const mk_source *s, const char *hf, const char *gguf, bool *out,
                         bool *found, mk_err *err) MK_WARN_UNUSED;
// At most out_bytes - 1 characters; longer is an error.
mk_status mk_source_str(const mk_source *s, const char *hf, const char *gguf, char *out,
                        size_t out_bytes, bool *found, mk_err *err) MK_WARN_UNUSED;
// Name used in error messages for a key: the alternative that would be read.
const char *mk_source_key_name(const mk_source *s, const char *hf, const char *gguf);

#endif
