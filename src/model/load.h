// Packing bound tensors (see bind.h) into mk_layer and mk_globals.
#ifndef MK_MODEL_LOAD_H
#define MK_MODEL_LOAD_H

#include "model/model.h"

// Fills the fields of all rows.  After an error the model can only be closed.
mk_status mk_load_weights(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                          mk_err *err) MK_WARN_UNUSED;
void mk_load_free(mk_model *m);

// Lays out every weight without data, so that plans and dry passes can be made before loading.
mk_status mk_load_layout(mk_model *m, mk_err *err) MK_WARN_UNUSED;

// Bytes that mk_load_weights will allocate; *per_token (may be NULL): the part read to compute one
// token.
size_t mk_load_bytes(const mk_model *m, size_t *per_token);

#endif
