// The parameters of a loaded model as a list: what a trainer changes, saves and reports.
//
// Nouns
//   mk_param   one piece of memory with values: a stack of matrices, a vector, or the token table
//   mk_params  all of them, in a fixed order: global rows of the family's table, then layer by
//              layer the rows of the table and what the family packs itself.  The order and the
//              names depend on the architecture and its numbers only, not on the file's format, so
//              a checkpoint may refer to them.
//
// The list points into the model and must be destroyed before it; it owns names and index.  Values
// may be changed between steps of every engine that uses the model.  Threads: the list is
// immutable.
//
//     MK_TRY(mk_model_load_f32(model, pool, NULL, NULL, err));
//     MK_TRY(mk_params_create(model, &params, err));
//     for (i = 0; i < params->n; i++) { ... params->list[i].p[0 .. n_float) ... }
//     mk_params_refresh(params, pool);
#ifndef MK_MODEL_PARAMS_H
#define MK_MODEL_PARAMS_H

#include "model/model.h"

typedef enum {
    MK_PARAM_MATRIX,  // n_mat matrices, MK_PACK_F32, one behind the other: w's, or its master
    MK_PARAM_VECTOR,  // f32 [n_in]
    MK_PARAM_EMBED    // f32 [n_out, n_in], row-major: the token table
} mk_param_kind;

typedef struct {
    // Name in a Hugging Face folder; experts of a layer are one parameter, "...experts.*.up_proj.
    // weight"; the halves of MLA's kv_b_proj are two, "...kv_b_proj.k" and ".v" (per head
    // [kv_lora, d_nope], that is transposed, and [d_v, kv_lora]).
    const char *name;
    mk_param_kind kind;
    mk_weight *w;                // MATRIX; EMBED: the tied output matrix, or NULL; else NULL
    float *p;                    // values; NULL when they cannot be changed: a frozen weight
    int64_t n_mat, n_out, n_in;  // VECTOR: 1, 1, n
    int64_t n_float;             // at p: a MATRIX has rows padded with zeros to a multiple of 16
    int64_t n_value;             // without the padding
    int layer;                   // -1: global
    int row;                     // of the family's tensor table, or MK_LOAD_ROW_... (load.h)
    bool is_lora_target, is_router;
    bool is_norm_or_bias;  // no weight decay
    bool is_select_bias;   // of the choice of experts: no gradient reaches it, a trainer moves it
    bool tied;             // EMBED: the output matrix holds the same values
    // MATRIX of an adapter that the model also holds transposed (adapter.h): the copy, a single
    // matrix [n_in, n_out], or NULL.  Operators that use it have a gradient of their own for it.
    mk_weight *copy;
} mk_param;

typedef struct {
    mk_param *list;
    int64_t n;
    mk_model *model;
    struct mk_params_index *index;
    // of a list that is not the model's own: makes what depends on the values follow them
    void (*follow)(void *arg, mk_pool *pool);
    void *follow_arg;
} mk_params;

// The model is loaded.  After mk_model_load only what is float32 and not part of a packed copy on
// disk can be changed.  Errors: MK_ENOMEM.
mk_status mk_params_create(mk_model *m, mk_params **out, mk_err *err) MK_WARN_UNUSED;
void mk_params_destroy(mk_params *ps);

// The parameter whose weight (an mk_weight of the model), vector or token table an operator was
// given, NULL if there is none.  A tied output matrix is found as the token table.
const mk_param *mk_params_at(const mk_params *ps, const void *address);
const mk_param *mk_params_named(const mk_params *ps, const char *name);  // NULL if there is none

// A list made elsewhere (adapter.h), which is taken over with its names (mk_free), also after an
// error.  Errors: MK_ENOMEM.
mk_status mk_params_wrap(mk_model *m, mk_param *list, int64_t n, mk_params **out,
                         mk_err *err) MK_WARN_UNUSED;

// Makes what is a copy of parameters follow them: the tied output matrix, weights rounded to bf16,
// and what belongs to adapters.
void mk_params_refresh(const mk_params *ps, mk_pool *pool);

// Values of one matrix of a MATRIX, or of a VECTOR or EMBED, as rows f32 [n_out, n_in] (mat = 0),
// and back.  p is not NULL.
void mk_param_get(const mk_param *p, int64_t mat, float *rows, mk_pool *pool);
void mk_param_set(const mk_param *p, int64_t mat, const float *rows, mk_pool *pool);

#endif
