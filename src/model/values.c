// Reading back what a model holds.
#include "model/values.h"

#include <string.h>

#include "base/alloc.h"
#include "model/adapter_int.h"
#include "model/bind.h"

static const void *field_of(const mk_model *m, mk_value_at at) {
    const char *base = at.layer < 0 ? (const char *)&m->globals : (const char *)&m->layer[at.layer];
    return base + m->arch->tensors[at.row].field;
}

static bool weight_in_memory(const mk_model *m, const mk_weight *w) {
    return m->loaded && !m->packed && mk_weight_values(w);
}

bool mk_values_in_memory(const mk_model *m, mk_value_at at) {
    if (at.layer >= mk_model_n_layer(m)) {
        return false;  // a prediction layer that was left in the files
    }
    switch (m->arch->tensors[at.row].cls) {
    case MK_T_EMBED:
        return m->embed_values != NULL;
    case MK_T_VECTOR:
        return m->loaded;
    case MK_T_CUSTOM:
        return weight_in_memory(m, &m->layer[at.layer].wk_b) &&
               weight_in_memory(m, &m->layer[at.layer].wv_b);
    default:
        return weight_in_memory(m, field_of(m, at));
    }
}

static mk_status copy_of(const float *from, int64_t n, float **out, mk_err *err) {
    *out = mk_try_alloc((size_t)n, sizeof **out);
    if (!*out) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld values", (long long)n);
    }
    memcpy(*out, from, (size_t)n * sizeof **out);
    return MK_OK;
}

// --- from memory ---------------------------------------------------------------------------------

// Matrices [first, first + n) of w, one behind the other.
static mk_status unpack(const mk_weight *w, int64_t first, int64_t n, mk_pool *pool, float **out,
                        mk_err *err) {
    int64_t size = w->n_out * w->n_in;
    mk_pool *own = pool ? NULL : mk_pool_create(1);
    *out = mk_try_alloc((size_t)(n * size), sizeof **out);
    for (int64_t i = 0; *out && i < n; i++) {
        const float *from =
            mk_weight_values(w) + (first + i) * ((w->n_out + 15) / 16 * 16 * w->n_in);
        mk_f32_unpack(*out + i * size, from, (mk_f32_shape){w->n_out, w->n_in}, pool ? pool : own);
    }
    mk_pool_destroy(own);
    return *out ? MK_OK
                : MK_FAIL(err, MK_ENOMEM, "no memory for %lld matrices of %lld x %lld",
                          (long long)n, (long long)w->n_out, (long long)w->n_in);
}

// --- from the file -------------------------------------------------------------------------------

// One matrix of a stack of experts as a tensor of its own.
static mk_tensor_view matrix_view(const mk_tensor_view *v, int64_t mat) {
    mk_tensor_view one = *v;
    if (v->n_dim == 3) {
        one.n_dim = 2;
        one.shape[0] = v->shape[1];
        one.shape[1] = v->shape[2];
        one.shape[2] = 1;
        one.n_bytes = v->n_bytes / (size_t)v->shape[0];
        one.data = v->data + (size_t)mat * one.n_bytes;
    }
    return one;
}

static mk_status sort_rows(const mk_model *m, mk_value_at at, int64_t n_row, int64_t n_in,
                           float **values, mk_err *err) {
    int32_t *map = NULL;
    MK_TRY(mk_bind_row_map(m, &m->arch->tensors[at.row], n_row, &map, err));
    if (!map) {
        return MK_OK;
    }
    float *sorted = mk_try_alloc((size_t)(n_row * n_in), sizeof *sorted);
    for (int64_t r = 0; sorted && r < n_row; r++) {
        memcpy(sorted + r * n_in, *values + map[r] * n_in, (size_t)n_in * sizeof *sorted);
    }
    mk_free(map);
    mk_free(*values);
    *values = sorted;
    return sorted ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for %lld rows", (long long)n_row);
}

static mk_status from_file(const mk_model *m, mk_value_at at, float **out, mk_err *err) {
    const mk_binding *b = mk_model_binding(m, at.layer, at.row);
    mk_tensor_class cls = m->arch->tensors[at.row].cls;
    MK_ASSERT(b->n_view > 0);
    if (cls == MK_T_EXPERTS) {
        mk_tensor_view one = matrix_view(b->view[b->n_view > 1 ? at.mat : 0], at.mat);
        return mk_bind_to_f32(m, &one, out, err);
    }
    const mk_tensor_view *v = b->view[0];
    int64_t n_in = cls == MK_T_VECTOR ? 1 : v->shape[v->n_dim - 1],
            n_row = cls == MK_T_VECTOR ? v->shape[v->n_dim - 1] : v->shape[0];
    MK_TRY(mk_bind_to_f32(m, v, out, err));
    mk_status st = sort_rows(m, at, n_row, n_in, out, err);
    if (st != MK_OK) {
        mk_free(*out);
        *out = NULL;
    }
    return st;
}

// --- what a family packs itself ------------------------------------------------------------------

// Which of the two tensors in `made` a row of GGUF files is; -1: what they are made of.
static int made_index(const mk_arch *arch, int row) {
    const char *name = arch->tensors[row].gguf;
    for (int i = 0; arch->made[i].gguf; i++) {
        if (strcmp(arch->made[i].gguf, name) == 0) {
            return i;
        }
    }
    return -1;
}

static int row_of_made(const mk_arch *arch, int i) {
    for (int row = 0; row < arch->n_tensors; row++) {
        if (arch->tensors[row].cls == MK_T_CUSTOM && made_index(arch, row) == i) {
            return row;
        }
    }
    return -1;
}

static mk_status made_part(const mk_model *m, mk_value_at at, int i, mk_pool *pool, float **out,
                           mk_err *err) {
    if (mk_values_in_memory(m, at)) {
        const mk_layer *l = &m->layer[at.layer];
        const mk_weight *w = i == 0 ? &l->wk_b : &l->wv_b;
        return unpack(w, 0, w->n_mat, pool, out, err);
    }
    at.row = row_of_made(m->arch, i);
    return from_file(m, at, out, err);
}

static mk_status custom(const mk_model *m, mk_value_at at, mk_pool *pool, float **out,
                        mk_err *err) {
    const mk_arch *arch = m->arch;
    int part = made_index(arch, at.row);
    if (part >= 0) {
        return made_part(m, at, part, pool, out, err);
    }
    if (!mk_values_in_memory(m, at) && mk_model_binding(m, at.layer, at.row)->n_view > 0) {
        return from_file(m, at, out, err);
    }
    float *first = NULL, *second = NULL;
    int64_t n = 1, dim = 0;
    for (int d = 0; d < arch->tensors[at.row].n_dim; d++) {
        memcpy(&dim, (const char *)&m->hp + arch->tensors[at.row].shape[d], sizeof dim);
        n *= dim;
    }
    mk_status st = made_part(m, at, 0, pool, &first, err);
    st = st == MK_OK ? made_part(m, at, 1, pool, &second, err) : st;
    *out = st == MK_OK ? mk_try_alloc((size_t)n, sizeof **out) : NULL;
    if (st == MK_OK && !*out) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for %lld values", (long long)n);
    }
    if (st == MK_OK) {
        arch->join(&m->hp, first, second, *out);
    }
    mk_free(first);
    mk_free(second);
    return st;
}

static mk_status base_values(const mk_model *m, mk_value_at at, mk_pool *pool, float **out,
                             mk_err *err) {
    const mk_tensor_class cls = m->arch->tensors[at.row].cls;
    if (cls == MK_T_CUSTOM) {
        return custom(m, at, pool, out, err);
    }
    if (!mk_values_in_memory(m, at)) {
        return from_file(m, at, out, err);
    }
    const mk_tensor_view *v = mk_model_binding(m, at.layer, at.row)->view[0];
    if (cls == MK_T_EMBED) {
        return copy_of(m->embed_values, v->shape[0] * v->shape[1], out, err);
    }
    if (cls == MK_T_VECTOR) {
        return copy_of(*(float *const *)field_of(m, at), v->shape[v->n_dim - 1], out, err);
    }
    return unpack(field_of(m, at), at.mat, 1, pool, out, err);
}

// --- adapters on the way -------------------------------------------------------------------------

static int half_of(const mk_model *m, int row) {
    return m->arch->tensors[row].cls == MK_T_CUSTOM ? made_index(m->arch, row) : -1;
}

bool mk_values_merged(const mk_model *m, mk_value_at at) {
    return m->merged && mk_adapters_change(m->merged, at.layer, at.row, half_of(m, at.row));
}

mk_status mk_values_get(const mk_model *m, mk_value_at at, mk_pool *pool, float **out,
                        mk_err *err) {
    *out = NULL;
    MK_TRY(base_values(m, at, pool, out, err));
    if (!m->merged) {
        return MK_OK;
    }
    mk_status st = mk_adapters_apply(m->merged, at, half_of(m, at.row), *out, pool, err);
    if (st != MK_OK) {
        mk_free(*out);
        *out = NULL;
    }
    return st;
}
