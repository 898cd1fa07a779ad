// Binding tensors to table rows.
//
// Invariants after mk_bind_all:
//  1. every row that applies to a layer has its tensors, or is optional and has none;
//  2. every bound tensor has exactly the shape the table states and a type the kernels can pack;
//  3. every tensor of the file is bound, or matches an ignore pattern of the family: nothing is left out in silence,
//     because a tensor we do not know means a computation we would not do.
// A prediction layer is extra: it is bound as a whole if all of it is there, or left out.
#include "model/bind.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"

#define FP8_TILE 128

static int64_t dim_of(const mk_model *m, size_t offset) {
    int64_t v;
    memcpy(&v, (const char *)&m->hp + offset, sizeof v);
    return v;
}

void mk_bind_name(char out[MK_NAME_MAX], const char *pattern, int layer, int64_t expert) {
    size_t n = 0;
    for (const char *p = pattern; *p && n + 24 < MK_NAME_MAX;) {
        if (p[0] == '{' && p[2] == '}') {
            n += (size_t)snprintf(out + n, 24, "%lld",
                                  p[1] == 'L' ? (long long)layer : (long long)expert);
            p += 3;
        } else {
            out[n++] = *p++;
        }
    }
    out[n] = 0;
}

static void shape_text(char *out, size_t cap, const int64_t *shape, int n_dim) {
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < n_dim && n < cap; i++) {
        n += (size_t)snprintf(out + n, cap - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    }
}

mk_status mk_bind_check_shape(const mk_tensor_view *v, const int64_t *want, int n_dim,
                              mk_err *err) {
    bool same = v->n_dim == n_dim;
    for (int i = 0; same && i < n_dim; i++) {
        same = v->shape[i] == want[i];
    }
    if (same) {
        return MK_OK;
    }
    char a[128], b[128];
    shape_text(a, sizeof a, want, n_dim);
    shape_text(b, sizeof b, v->shape, v->n_dim);
    return MK_FAIL(err, MK_ECORRUPT, "tensor %s: expected shape [%s], got [%s]", v->name, a, b);
}

static mk_status check_type(const mk_tensor_view *v, mk_tensor_class cls, int64_t n_in,
                            mk_err *err) {
    const mk_dtype_info *info = mk_dtype_get(v->dtype);
    if (!mk_dtype_is_float(v->dtype)) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "tensor %s: type %s cannot hold weights", v->name,
                       info->name);
    }
    if (cls == MK_T_VECTOR && info->group > 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "tensor %s: type %s, expected a plain float type",
                       v->name, info->name);
    }
    if (n_in % info->block != 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "tensor %s: rows of %lld elements, but %s needs a multiple of %d", v->name,
                       (long long)n_in, info->name, info->block);
    }
    return MK_OK;
}

static mk_status check_view(const mk_model *m, const mk_tensor_row *row, const mk_tensor_view *v,
                            mk_err *err) {
    if (row->cls == MK_T_CUSTOM) {
        return MK_OK;  // the family checks it
    }
    int64_t want[4];
    int n = 0;
    if (row->cls == MK_T_EXPERTS && mk_source_is_gguf(m->src)) {
        want[n++] = m->hp.n_expert;
    }
    for (int i = 0; i < row->n_dim; i++) {
        want[n++] = dim_of(m, row->shape[i]);
    }
    // a one-row matrix of the same size is the same vector ([1, 64] in some files)
    if (row->cls == MK_T_VECTOR && v->n_dim == 2 && v->shape[0] == 1 && v->shape[1] == want[0]) {
        return check_type(v, row->cls, want[0], err);
    }
    MK_TRY(mk_bind_check_shape(v, want, n, err));
    return check_type(v, row->cls, want[n - 1], err);
}

static const mk_tensor_view *find_tied(const mk_model *m, const mk_tensor_row *row) {
    bool tied =
        (row->flags & MK_T_TIED) && (mk_source_is_gguf(m->src) || m->hp.tie_embeddings != 0);
    return tied ? mk_source_find(m->src, mk_source_is_gguf(m->src) ? "token_embd.weight"
                                                                   : "model.embed_tokens.weight")
                : NULL;
}

static mk_status find_views(mk_model *m, const mk_tensor_row *row, int layer, mk_binding *b,
                            mk_err *err) {
    bool gguf = mk_source_is_gguf(m->src);
    const char *pattern = gguf ? row->gguf : row->hf;
    if (!pattern) {
        return MK_OK;
    }
    int64_t n = row->cls == MK_T_EXPERTS && !gguf ? m->hp.n_expert : 1;
    b->view = mk_try_alloc((size_t)n, sizeof *b->view);
    if (!b->view) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld tensor references", (long long)n);
    }
    for (int64_t e = 0; e < n; e++) {
        char name[MK_NAME_MAX];
        mk_bind_name(name, pattern, layer, e);
        const mk_tensor_view *v = mk_source_find(m->src, name);
        v = v ? v : find_tied(m, row);
        if (!v && (row->flags & MK_T_OPTIONAL) && e == 0) {
            return MK_OK;
        }
        if (!v) {
            return MK_FAIL(err, MK_ECORRUPT, "%s: tensor %s is missing", mk_source_path(m->src),
                           name);
        }
        MK_TRY(check_view(m, row, v, err));
        b->view[e] = v;
        b->n_view = e + 1;
    }
    return MK_OK;
}

const mk_binding *mk_model_binding(const mk_model *m, int layer, int row) {
    return &m->binding[(int64_t)(layer + 1) * m->arch->n_tensors + row];
}

static mk_status bind_layer(mk_model *m, int layer, mk_err *err) {
    for (int i = 0; i < m->arch->n_tensors; i++) {
        const mk_tensor_row *row = &m->arch->tensors[i];
        bool global = (row->flags & MK_T_GLOBAL) != 0;
        if (global != (layer < 0) || (row->when && !row->when(&m->hp, layer))) {
            continue;
        }
        MK_TRY(find_views(m, row, layer, &m->binding[(int64_t)(layer + 1) * m->arch->n_tensors + i],
                          err));
    }
    return layer >= 0 && m->arch->check ? m->arch->check(m, layer, err) : MK_OK;
}

// --- invariant 3: nothing left over --------------------------------------------------------------

static int by_address(const void *a, const void *b) {
    const mk_tensor_view *x = *(const mk_tensor_view *const *)a,
                         *y = *(const mk_tensor_view *const *)b;
    return x < y ? -1 : x > y;
}

static bool ignored(const mk_model *m, const char *name) {
    for (const char *const *p = m->arch->ignore; p && *p; p++) {
        if (fnmatch(*p, name, 0) == 0) {
            return true;
        }
    }
    // layers behind the last one: prediction layers, and in one that is bound its copies of the
    // token table and the output matrix, which are the model's
    int layer = -1;
    return (sscanf(name, "model.layers.%d.", &layer) == 1 ||
            sscanf(name, "blk.%d.", &layer) == 1) &&
           layer >= m->hp.n_layer && layer < m->hp.n_layer + m->hp.n_nextn;
}

static mk_status check_leftovers(mk_model *m, mk_err *err) {
    int64_t n_row = (m->n_bound + 1) * m->arch->n_tensors, n = 0;
    for (int64_t i = 0; i < n_row; i++) {
        n += m->binding[i].n_view;
    }
    const mk_tensor_view **used = mk_try_alloc((size_t)n, sizeof *used);
    if (!used && n > 0) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld tensor references", (long long)n);
    }
    n = 0;
    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t j = 0; j < m->binding[i].n_view; j++) {
            used[n++] = m->binding[i].view[j];
        }
    }
    qsort(used, (size_t)n, sizeof *used, by_address);
    mk_status st = MK_OK;
    for (int64_t i = 0; i < mk_source_n_tensor(m->src) && st == MK_OK; i++) {
        const mk_tensor_view *v = mk_source_tensor(m->src, i);
        if (!bsearch(&v, used, (size_t)n, sizeof *used, by_address) && !ignored(m, v->name)) {
            st = MK_FAIL(err, MK_EUNSUPPORTED,
                         "%s: tensor %s is not part of the %s architecture as minke knows it",
                         mk_source_path(m->src), v->name, m->arch->name);
        }
    }
    mk_free(used);
    return st;
}

static void unbind_layer(mk_model *m, int64_t layer) {
    mk_binding *b = &m->binding[(layer + 1) * m->arch->n_tensors];
    for (int i = 0; i < m->arch->n_tensors; i++) {
        mk_free(b[i].view);
        b[i] = (mk_binding){NULL, 0};
    }
}

bool mk_bind_may_have_mtp(const mk_model *m) {
    return m->arch->mtp && m->hp.n_nextn == 1;
}

mk_status mk_bind_mtp(mk_model *m, mk_err *err) {
    if (m->n_bound > m->hp.n_layer) {
        return MK_OK;
    }
    if (!mk_bind_may_have_mtp(m)) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: %lld layers of multi-token prediction, expected 1",
                       mk_source_path(m->src), (long long)m->hp.n_nextn);
    }
    mk_status st = bind_layer(m, (int)m->hp.n_layer, err);
    if (st == MK_OK) {
        m->n_bound++;
    } else {
        unbind_layer(m, m->hp.n_layer);
    }
    return st;
}

mk_status mk_bind_all(mk_model *m, mk_err *err) {
    m->binding =
        mk_try_alloc((size_t)(m->hp.n_layer + 2) * (size_t)m->arch->n_tensors, sizeof *m->binding);
    if (!m->binding) {
        return MK_FAIL(err, MK_ENOMEM, "no memory to bind %lld layers", (long long)m->hp.n_layer);
    }
    m->n_bound = m->hp.n_layer;
    for (int layer = -1; layer < m->hp.n_layer; layer++) {
        MK_TRY(bind_layer(m, layer, err));
    }
    mk_err why = {0};
    if (mk_bind_may_have_mtp(m) && mk_bind_mtp(m, &why) == MK_ENOMEM) {
        return MK_FAIL(err, MK_ENOMEM, "%s", why.msg);
    }
    return check_leftovers(m, err);
}

void mk_bind_free(mk_model *m) {
    for (int64_t layer = -1; m->binding && layer <= m->hp.n_layer; layer++) {
        unbind_layer(m, layer);
    }
    mk_free(m->binding);
    m->binding = NULL;
}

// --- sources for packing -------------------------------------------------------------------------

mk_status mk_bind_tile_scale(const mk_model *m, const mk_tensor_view *view, float **scale,
                             int64_t *n_col, mk_err *err) {
    char name[MK_NAME_MAX];
    int n = snprintf(name, sizeof name, "%s_scale_inv", view->name);
    const mk_tensor_view *v =
        n > 0 && (size_t)n < sizeof name ? mk_source_find(m->src, name) : NULL;
    if (!v) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "tensor %s is FP8, but its scales %s_scale_inv are missing", view->name,
                       view->name);
    }
    int64_t rows = view->n_dim == 2 ? view->shape[0] : 0,
            cols = view->n_dim == 2 ? view->shape[1] : 0;
    int64_t want[2] = {(rows + FP8_TILE - 1) / FP8_TILE, (cols + FP8_TILE - 1) / FP8_TILE};
    MK_TRY(mk_bind_check_shape(v, want, 2, err));
    if (!mk_dtype_is_float(v->dtype) || mk_dtype_get(v->dtype)->group > 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "tensor %s: type %s, expected F32", v->name,
                       mk_dtype_get(v->dtype)->name);
    }
    *scale = mk_try_alloc((size_t)(want[0] * want[1]), sizeof **scale);
    if (!*scale) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the scales of %s", view->name);
    }
    mk_dtype_to_f32(v->dtype, v->data, want[0] * want[1], *scale);
    *n_col = want[1];
    return MK_OK;
}

mk_status mk_bind_to_f32(const mk_model *m, const mk_tensor_view *view, float **out, mk_err *err) {
    int64_t n_in = view->shape[view->n_dim > 0 ? view->n_dim - 1 : 0], n_row = 1;
    for (int i = 0; i + 1 < view->n_dim; i++) {
        n_row *=
            view->shape[i];  // cannot overflow: the reader checked the product against the file
    }
    float *f = mk_try_alloc((size_t)(n_row * n_in), sizeof *f), *scale = NULL;
    int64_t n_col = 0;
    mk_status st = f ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for %s as float32", view->name);
    if (st == MK_OK && view->dtype == MK_DTYPE_F8_E4M3) {
        st = mk_bind_tile_scale(m, view, &scale, &n_col, err);
    }
    if (st != MK_OK) {
        mk_free(f);
        return st;
    }
    mk_dtype_to_f32(view->dtype, view->data, n_row * n_in, f);
    for (int64_t i = 0; scale && i < n_row * n_in; i++) {
        int64_t r = i / n_in, k = i % n_in;
        f[i] *= scale[r / FP8_TILE * n_col + k / FP8_TILE];
    }
    mk_free(scale);
    *out = f;
    return MK_OK;
}

mk_status mk_bind_row_map(const mk_model *m, const mk_tensor_row *row, int64_t n_out, int32_t **map,
                          mk_err *err) {
    int64_t hd = m->hp.d_head;
    *map = NULL;
    if (!(row->flags & (MK_T_PERMUTED_Q | MK_T_PERMUTED_K)) || !mk_source_is_gguf(m->src)) {
        return MK_OK;
    }
    *map = mk_try_alloc((size_t)n_out, sizeof **map);
    if (!*map) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a row order of %lld", (long long)n_out);
    }
    for (int64_t r = 0; r < n_out; r++) {
        int64_t h = r / hd, j = r % hd / (hd / 2), i = r % hd % (hd / 2);
        (*map)[r] = (int32_t)(h * hd + 2 * i + j);
    }
    return MK_OK;
}

mk_status mk_bind_src(const mk_model *m, const mk_tensor_row *row, const mk_tensor_view *view,
                      mk_weight_src *src, mk_src_own *own, mk_err *err) {
    *own = (mk_src_own){NULL, NULL};
    bool stacked = view->n_dim == 3;
    int64_t n_out = view->shape[view->n_dim - 2], n_in = view->shape[view->n_dim - 1];
    *src = (mk_weight_src){.dtype = view->dtype,
                           .data = view->data,
                           .n_mat = stacked ? view->shape[0] : 1,
                           .n_out = n_out,
                           .n_in = n_in};
    if (!mk_dtype_row_bytes(view->dtype, n_in, &src->row_bytes) ||
        !mk_mul_size(src->row_bytes, (size_t)n_out, &src->mat_stride)) {
        return MK_FAIL(err, MK_ECORRUPT, "tensor %s: impossible row length %lld", view->name,
                       (long long)n_in);
    }
    MK_TRY(mk_bind_row_map(m, row, n_out, &own->row_map, err));
    src->row_map = own->row_map;
    if (view->dtype == MK_DTYPE_F8_E4M3) {
        mk_status st = mk_bind_tile_scale(m, view, &own->tile_scale, &src->tile_cols, err);
        src->tile_scale = own->tile_scale;
        return st;
    }
    return MK_OK;
}

void mk_bind_src_free(mk_src_own *own) {
    mk_free(own->row_map);
    mk_free(own->tile_scale);
    *own = (mk_src_own){NULL, NULL};
}
