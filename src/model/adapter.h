// Adapters of a model: LoRA, rsLoRA and DoRA on its linear layers (ops.h has the formulas), made
// new, trained, read, written and merged.
//
// Nouns
//   mk_adapters   the adapters of one model, over modules: what a checkpoint calls a linear layer
//                 ("model.layers.3.self_attn.q_proj"); the experts of a layer are one module here,
//                 "model.layers.3.mlp.experts.*.up_proj", with matrices of their own
//   attached      the model computes with them; else it computes as if they were not there
//
// The targets are all linear layers of a family's table but the output matrix and the routers.  The
// base may be of any type, quantised or not, and is never changed but by mk_adapters_merge.
//
// kv_b_proj of MLA is one module with one A, as for everybody else, though the model holds two
// matrices per head, one of them transposed (params.h): the halves of B and of the magnitudes are
// two parameters, ".k" and ".v", and A is held a second time, transposed.
//
// The model outlives its adapters.  Attached and detached between steps of every engine that uses
// it; scratch is measured when an engine is made, so that must come after attaching.  Threads: one
// at a time.
//
//     MK_TRY(mk_adapters_create(model, &spec, pool, &set, err));    // or mk_adapters_read
//     mk_adapters_attach(set);
//     ... mk_adapters_params(set) to a trainer, mk_params_refresh after every change ...
//     MK_TRY(mk_adapters_write_folder(set, dir, err));
#ifndef MK_MODEL_ADAPTER_H
#define MK_MODEL_ADAPTER_H

#include "model/params.h"

typedef struct mk_adapters mk_adapters;

typedef struct {
    int64_t rank;  // 1 to MK_ADAPTER_MAX_RANK
    double alpha;  // scale = alpha / rank, with rslora alpha / sqrt(rank); 0: twice the rank
    bool rslora;   // Kalajdzievski 2023
    bool dora;     // magnitudes (Liu et al. 2024)
    // Modules by parts of their names, separated by commas: "q_proj,mlp.up_proj,experts".  A part
    // is one or more whole words between dots.  NULL or "all": every target.
    const char *targets;
    uint64_t seed;
} mk_adapter_spec;
#define MK_ADAPTER_MAX_RANK 4096

// Adapters that change nothing yet: B = 0, A uniform in +-1/sqrt(n_in), a function of (seed, name,
// index) alone; magnitudes are the lengths of the rows.  The model may be loaded later; then
// mk_params_refresh must come before the first step.  Errors: MK_EUSAGE
// (rank or alpha out of range, a target that no module has: lists what there is), MK_ENOMEM.
mk_status mk_adapters_create(mk_model *m, const mk_adapter_spec *spec, mk_pool *pool,
                             mk_adapters **out, mk_err *err) MK_WARN_UNUSED;

// PATH is a folder in PEFT's layout (adapter_config.json, adapter_model.safetensors) or a GGUF
// adapter (general.type "adapter", adapter.type "lora"), made by anybody.  The scale is multiplied
// by `strength` (1: as it was trained).  The model may be loaded later; then mk_params_refresh must
// come before the first step.  Errors: MK_ENOTFOUND, MK_ECORRUPT (a tensor that does not fit the
// base: its name, the expected and the actual shape), MK_EUNSUPPORTED (another method, tensors that
// are no adapters'), MK_ENOMEM.
mk_status mk_adapters_read(mk_model *m, const char *path, double strength, mk_pool *pool,
                           mk_adapters **out, mk_err *err) MK_WARN_UNUSED;
// Detaches.
void mk_adapters_destroy(mk_adapters *s);

// At most one set is attached to a model.
void mk_adapters_attach(mk_adapters *s);
void mk_adapters_detach(mk_adapters *s);
bool mk_adapters_is_attached(const mk_adapters *s);

// What can be trained and saved, named as in PEFT's files ("base_model.model." + module +
// ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"), in the order of the family's
// table.  mk_params_refresh of the list makes the transposed copies of kv_b_proj and, the model
// being loaded, the lengths of rows follow the values.
const mk_params *mk_adapters_params(const mk_adapters *s);
size_t mk_adapters_bytes(const mk_adapters *s);  // of memory

// For people: "LoRA, rank 8, alpha 16, 84 modules".
void mk_adapters_describe(const mk_adapters *s, char *out, size_t out_bytes);

// Writes PEFT's layout into the folder `dir`, which is made if it is not there; float32.  Errors:
// MK_EIO, MK_ENOMEM.
mk_status mk_adapters_write_folder(const mk_adapters *s, const char *dir,
                                   mk_err *err) MK_WARN_UNUSED;
// Writes a GGUF adapter as llama.cpp reads it; float32.  kv_b_proj is written as attn_kv_b:
// llama.cpp takes it for base files that hold that tensor and refuses it for others, whose halves
// it would leave unchanged without a word.  Errors: MK_EIO, MK_ENOMEM, MK_EUNSUPPORTED (magnitudes,
// or scales that one alpha cannot say).
mk_status mk_adapters_write_gguf(const mk_adapters *s, const char *path,
                                 mk_err *err) MK_WARN_UNUSED;

// The weights become what they were with the adapters: W + scale B A, rows of DoRA scaled.  The
// model is loaded by mk_model_load_f32 or _bf16; the set is detached and should be destroyed.
void mk_adapters_merge(mk_adapters *s, mk_pool *pool);
// The same for writing only: from now on values of the model (values.h), and so what
// mk_export_gguf and mk_model_save_folder write, are those with the adapters; no weight in memory
// is changed and the model need not be loaded.  `s` outlives the writing; NULL: no more.
void mk_adapters_merge_into_files(mk_model *m, const mk_adapters *s);

#endif
