// Private to folder*.c.
#ifndef MK_MODEL_FOLDER_INT_H
#define MK_MODEL_FOLDER_INT_H

#include "model/bind.h"
#include "model/folder.h"
#include "model/values.h"

// One tensor of a checkpoint.
typedef struct {
    char name[MK_NAME_MAX];
    mk_value_at at;
    int n_dim;
    int64_t shape[3], n;
} mk_hf_tensor;

typedef struct {
    mk_hf_tensor *list;
    int64_t n, cap;
} mk_hf_list;

// The tensors a folder of m holds: those that are bound, or, for the model of a configuration
// alone, those a new model has.
mk_status mk_hf_list_make(const mk_model *m, mk_hf_list *list, mk_err *err) MK_WARN_UNUSED;
void mk_hf_list_free(mk_hf_list *list);

// model.safetensors in `dir`, matrices as `type`.  values: writes the tensor with mk_folder_put.
typedef struct mk_folder_job mk_folder_job;
typedef mk_status (*mk_folder_values)(mk_folder_job *job, const mk_hf_tensor *t, mk_writer *w,
                                      mk_err *err);
struct mk_folder_job {
    const mk_model *m;
    const mk_save_opts *opts;
    mk_folder_values values;
    void *arg;
    mk_hf_list tensors;
    uint64_t done, total;
};
mk_status mk_folder_write(mk_folder_job *job, const char *dir, mk_err *err) MK_WARN_UNUSED;
// The next n values of t.
mk_status mk_folder_put(mk_folder_job *job, const mk_hf_tensor *t, const float *values, int64_t n,
                        mk_writer *w, mk_err *err) MK_WARN_UNUSED;

// config.json with the type; `config` is not changed.
mk_status mk_folder_write_config(const json_t *config, mk_dtype type, const char *dir,
                                 mk_err *err) MK_WARN_UNUSED;
// What config.json of a GGUF file's model says (json_decref).
mk_status mk_folder_config(const mk_model *m, json_t **out, mk_err *err) MK_WARN_UNUSED;

#endif
