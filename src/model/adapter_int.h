// Private to adapter*.c: modules and their values as checkpoints hold them.
#ifndef MK_MODEL_ADAPTER_INT_H
#define MK_MODEL_ADAPTER_INT_H

#include "model/adapter.h"
#include "model/bind.h"
#include "model/values.h"

// A linear layer of a checkpoint; experts of a layer are n_mat matrices of one.
typedef struct {
    char *name;  // with * for the expert; without ".weight"
    int layer, row;
    // The model's weights: one, or the halves of kv_b_proj: keys [kv_lora, d_nope] and values [d_v,
    // kv_lora] per head.
    int n_w;
    mk_weight *w[2];
    mk_adapter ad[2];
    int64_t n_mat, n_out, n_in;
    int64_t rank;  // 0: no adapter
    double alpha;
} mk_module;

struct mk_adapters {
    mk_model *model;
    const mk_kernels *k;
    mk_module *list;  // every target of the model
    int64_t n;
    bool rslora, dora, attached;
    bool is_new;  // magnitudes wait for the lengths of the base
    double strength;
    mk_params *params;
};

// All targets, none with an adapter yet.
mk_status mk_adapters_new(mk_model *m, mk_adapters **out, mk_err *err) MK_WARN_UNUSED;
// Memory for an adapter of that rank, zero; s->rslora, dora and strength are set.
mk_status mk_module_start(const mk_adapters *s, mk_module *mod, int64_t rank, double alpha,
                          mk_err *err) MK_WARN_UNUSED;
// When all modules have their values: the list of parameters, copies and lengths.
mk_status mk_adapters_finish(mk_adapters *s, mk_pool *pool, mk_err *err) MK_WARN_UNUSED;

// Name of matrix `mat` of the module.
void mk_module_name(const mk_adapters *s, const mk_module *mod, int64_t mat, char out[MK_NAME_MAX]);

// Values of matrix `mat` as files hold them: A [rank, n_in], B [n_out, rank], magnitudes [n_out].
typedef enum { MK_PART_A, MK_PART_B, MK_PART_M, MK_PART_N } mk_part;
int64_t mk_part_rows(const mk_module *mod, mk_part part);
int64_t mk_part_cols(const mk_module *mod, mk_part part);  // M: 1
void mk_module_get(const mk_module *mod, mk_part part, int64_t mat, float *rows);
void mk_module_set(const mk_module *mod, mk_part part, int64_t mat, const float *rows);

// Values of a row as values.h gives them become those with the adapters, if the row has one.  half:
// 0 or 1 for a row that holds that half of kv_b_proj, else -1.  pool may be NULL.  Errors:
// MK_ENOMEM.
mk_status mk_adapters_apply(const mk_adapters *s, mk_value_at at, int half, float *values,
                            mk_pool *pool, mk_err *err) MK_WARN_UNUSED;
bool mk_adapters_change(const mk_adapters *s, int layer, int row, int half);

#endif
