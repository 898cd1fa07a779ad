// Binding: every row of a family's tensor table to tensors of the file, checked by name, shape and
// type, once.
#ifndef MK_MODEL_BIND_H
#define MK_MODEL_BIND_H

#include "model/model.h"

// Writes `pattern` with {L} and {E} replaced.
#define MK_NAME_MAX 256
void mk_bind_name(char out[MK_NAME_MAX], const char *pattern, int layer, int64_t expert);

// Fills m->binding.  Errors: MK_ECORRUPT (missing tensor, wrong shape), MK_EUNSUPPORTED (type that
// cannot be packed, a tensor that no row and no ignore pattern knows), MK_ENOMEM.
mk_status mk_bind_all(mk_model *m, mk_err *err) MK_WARN_UNUSED;
void mk_bind_free(mk_model *m);

// Whether the configuration asks for a prediction layer that minke knows.
bool mk_bind_may_have_mtp(const mk_model *m);
// Binds the prediction layer, if mk_bind_all could not, to say why.  Errors: those of
// mk_model_use_mtp.
mk_status mk_bind_mtp(mk_model *m, mk_err *err) MK_WARN_UNUSED;

// Describes the tensor bound to a LINEAR, LINEAR_F32 or EXPERTS row for packing.  Lists that the
// source points to (row_map, tile_scale) live in *own, to be released with mk_bind_src_free.
typedef struct {
    int32_t *row_map;
    float *tile_scale;
} mk_src_own;
mk_status mk_bind_src(const mk_model *m, const mk_tensor_row *row, const mk_tensor_view *view,
                      mk_weight_src *src, mk_src_own *own, mk_err *err) MK_WARN_UNUSED;
void mk_bind_src_free(mk_src_own *own);

// Where row r of a tensor lies in the file, as a fresh list (mk_free); NULL: where it belongs.
// GGUF's converter stored row h*hd + j*(hd/2) + i (j = half, i = pair) at h*hd + 2*i + j, for
// interleaved rotation.
mk_status mk_bind_row_map(const mk_model *m, const mk_tensor_row *row, int64_t n_out, int32_t **map,
                          mk_err *err) MK_WARN_UNUSED;

// The scales of an FP8 tensor "X.weight", float32 [ceil(n_out/128), ceil(n_in/128)], as a fresh
// list (mk_free).
mk_status mk_bind_tile_scale(const mk_model *m, const mk_tensor_view *view, float **scale,
                             int64_t *n_col, mk_err *err) MK_WARN_UNUSED;

// A whole tensor as float32, row-major, as a fresh list (mk_free).  FP8 tensors are multiplied by
// their tile scales.
mk_status mk_bind_to_f32(const mk_model *m, const mk_tensor_view *view, float **out,
                         mk_err *err) MK_WARN_UNUSED;

// "expected [16, 64], got [64, 16]" for one view; n_dim dims of `want`.
mk_status mk_bind_check_shape(const mk_tensor_view *v, const int64_t *want, int n_dim,
                              mk_err *err) MK_WARN_UNUSED;

#endif
