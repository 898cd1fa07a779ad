// Writing a model as one GGUF file, from either format.
//
// The two tables of a family drive it: configuration rows name the keys, tensor rows the tensors.
// From a folder the rows of Llama's q and k are put into the order of GGUF files, experts are
// stacked, FP8 is multiplied out, and what a family stores differently there comes from its `made`
// rows.  From a GGUF file everything is copied but the element types.  Vectors and routers stay
// float32; a row that holds no whole block of the wanted type becomes F16.  Of a model that was
// loaded for training (mk_model_load_f32) the values in memory are written, changed or not.
#ifndef MK_MODEL_EXPORT_H
#define MK_MODEL_EXPORT_H

#include "format/gguf.h"
#include "model/model.h"

typedef struct {
    // F32, F16, BF16, Q8_0; MK_DTYPE_N keeps the types, but FP8 becomes BF16, and what is in a
    // trainer's memory and came from a type that cannot be made again becomes Q8_0
    mk_dtype type;
    const char *name;  // general.name, for a folder
    // Of a folder: its prediction layer, too (from a GGUF file it is copied in any case).  Such
    // files count it among their blocks; readers that do not know that (llama.cpp before August
    // 2026, ik_llama.cpp) take it for one more layer of the model.
    bool mtp;
    // Adds what rooms above know of a folder: tokenizer, chat template, sampling.  Not called for a
    // GGUF source.
    void (*metadata)(void *arg, mk_gguf_out *out);
    // Called as bytes are written; a status other than MK_OK stops, and leaves no file.  May be
    // NULL.
    mk_status (*step)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} mk_export_opts;

// Writes PATH, atomically.  The model need not be loaded.  Errors: MK_EIO, MK_ENOMEM,
// MK_EUNSUPPORTED (something that GGUF cannot say, a value too large for F16).
mk_status mk_export_gguf(const mk_model *m, const mk_export_opts *opts, const char *path,
                         mk_err *err) MK_WARN_UNUSED;

#endif
