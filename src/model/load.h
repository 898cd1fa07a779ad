// Packing bound tensors (see bind.h) into mk_layer and mk_globals.
#ifndef MK_MODEL_LOAD_H
#define MK_MODEL_LOAD_H

#include "model/model.h"

// Fills the fields of all rows.  After an error only mk_load_free may follow.  m->f32 (with the
// layouts made for it): all as float32, the token table too; m->bf16 as well: these are the masters
// of weights that become MK_PACK_BF16.
mk_status mk_load_weights(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                          mk_err *err) MK_WARN_UNUSED;
// Frees what was filled; layouts stay, so that mk_load_weights can fill it again.
void mk_load_free(mk_model *m);

// Calls fn for every weight that has a layout, in the order of layers and table rows; row is the
// table's, or one of those below for what a family packs itself.  Stops at the first error.
enum { MK_LOAD_ROW_K_B = -1, MK_LOAD_ROW_V_B = -2 };
typedef mk_status (*mk_load_weight_fn)(void *arg, mk_weight *w, int layer, int row, mk_err *err);
mk_status mk_load_each(mk_model *m, mk_load_weight_fn fn, void *arg, mk_err *err) MK_WARN_UNUSED;

// Packs one weight after the other in that order, shows it to sink and frees it again: no more than
// one weight (of a family's own two) is in memory.
mk_status mk_load_stream(mk_model *m, mk_pool *pool, mk_load_weight_fn sink, void *arg,
                         mk_err *err) MK_WARN_UNUSED;

// Lays out every weight without data, as float32 if m->f32, so that plans and dry passes can be
// made before loading.
mk_status mk_load_layout(mk_model *m, mk_err *err) MK_WARN_UNUSED;

// Bytes that mk_load_weights will allocate for a model with f32 set.
size_t mk_load_f32_bytes(const mk_model *m);

// Bytes that mk_load_weights will allocate; *per_token (may be NULL): the part read to compute one
// token.
size_t mk_load_bytes(const mk_model *m, size_t *per_token);

#endif
