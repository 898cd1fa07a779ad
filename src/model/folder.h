// Writing Hugging Face folders: a model as it is in memory, or a new one with random weights.
//
// A folder is config.json, model.safetensors with the names and shapes of the checkpoint (experts
// one tensor each, kv_b_proj whole, rows of q and k in the checkpoint's order), and what lies
// beside them for tokenizer and chat.  The family's tensor table gives names and shapes.
// model.safetensors comes last and atomically: a folder that has it is complete.
#ifndef MK_MODEL_FOLDER_H
#define MK_MODEL_FOLDER_H

#include "model/model.h"

typedef struct {
    mk_dtype type;  // of matrices and token table: F32 or BF16; vectors and routers are F32
    mk_pool *pool;  // may be NULL
    // Adds files that rooms above know of (the tokenizer of a GGUF file); called before the weights
    // are written.  May be NULL.
    mk_status (*files)(void *arg, const char *dir, mk_err *err);
    // Called as bytes of weights are written; a status other than MK_OK stops.  May be NULL.
    mk_status (*step)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} mk_save_opts;

// Writes the model into the folder `dir`, which is made if it is not there (its parent must be).
// Values in float32 memory, changed or not, are written from there, others as the file's values;
// the model need not be loaded.  From a folder, config.json is copied but for the type, and
// tokenizer, chat template and generation_config.json as they are; from a GGUF file config.json is
// written from the numbers.  A prediction layer is written as well, without the copies of token
// table and output matrix that some files hold.  Errors: MK_EIO, MK_ENOMEM, MK_EUSAGE
// (another type, or a folder that holds shards, which readers would take instead), MK_EUNSUPPORTED
// (rotary frequencies of a GGUF file that no configuration says).
mk_status mk_model_save_folder(const mk_model *m, const char *dir, const mk_save_opts *opts,
                               mk_err *err) MK_WARN_UNUSED;

// Writes config.json and a float32 model.safetensors of random weights into `dir` for the
// configuration at `config` (a file like config.json, or a folder that holds one) of any family.
// Matrices and token table are normal deviates times initializer_range (0.02 if it is not said),
// those that write into the residual stream (o_proj, down_proj) divided by sqrt(2 n_layer), as
// GPT-2's (Radford et al. 2019); norms are 1, biases 0.  A value depends on seed, name and index
// alone.  Errors: those of reading a configuration, MK_EIO, MK_ENOMEM, MK_EUNSUPPORTED (biases that
// the family does not have).
mk_status mk_model_init_folder(const char *config, const char *dir, uint64_t seed,
                               mk_err *err) MK_WARN_UNUSED;

#endif
