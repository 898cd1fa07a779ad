// The values of a model's tensors as float32 rows in the order of a folder's checkpoint, wherever
// they are: in memory that may have been changed (params.h), or in the file.  For writing models.
#ifndef MK_MODEL_VALUES_H
#define MK_MODEL_VALUES_H

#include "model/model.h"

// Matrix `mat` (of experts; else 0) of row `row` of the family's table.
typedef struct {
    int layer, row;  // layer -1: a global row
    int64_t mat;
} mk_value_at;

// Whether adapters that are merged on the way (mk_adapters_merge_into_files) change the values.
bool mk_values_merged(const mk_model *m, mk_value_at at);

// Whether the values are those in the model's memory and not in the file: float32, and loaded.
bool mk_values_in_memory(const mk_model *m, mk_value_at at);

// A fresh list (mk_free): vectors [n], matrices [n_out, n_in]; for CUSTOM rows, which of the
// family's tensors the row is decides: one that `made` makes, all of it, or what they are joined
// to.  pool may be NULL.  Errors: MK_ENOMEM, MK_ECORRUPT, MK_EUNSUPPORTED (FP8 without scales).
mk_status mk_values_get(const mk_model *m, mk_value_at at, mk_pool *pool, float **out,
                        mk_err *err) MK_WARN_UNUSED;

#endif
