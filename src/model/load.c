// Packing the bound tensors into the kernels' layout, and the sizes that follow from the tables.
#include <string.h>

#include "base/alloc.h"
#include "model/bind.h"
#include "model/load.h"

typedef struct {
    mk_model *m;
    mk_pool *pool;
    mk_load_progress progress;
    void *arg;
    uint64_t done, total;
    // takes each packed weight and its memory; NULL: they stay in the model
    mk_load_weight_fn sink;
    void *sink_arg;
} loader;

static void *field_of(const mk_model *m, const mk_tensor_row *row, int layer) {
    char *base = layer < 0 ? (char *)(uintptr_t)&m->globals : (char *)&m->layer[layer];
    return base + row->field;
}

static void forget(const mk_tensor_view *v) {
    if (v->map && v->map->data) {
        mk_map_forget(v->map, (size_t)(v->data - v->map->data), v->n_bytes);
    }
}

static mk_status load_vector(loader *l, const mk_tensor_row *row, const mk_binding *b, float **out,
                             mk_err *err) {
    int64_t n = b->view[0]->shape[b->view[0]->n_dim - 1];
    int32_t *map = NULL;
    MK_TRY(mk_bind_to_f32(l->m, b->view[0], out, err));
    MK_TRY(mk_bind_row_map(l->m, row, n, &map, err));
    if (!map) {
        return MK_OK;
    }
    float *tmp = mk_try_alloc((size_t)n, sizeof *tmp);  // a bias of permuted rows
    if (tmp) {
        memcpy(tmp, *out, (size_t)n * sizeof *tmp);
        for (int64_t r = 0; r < n; r++) {
            (*out)[r] = tmp[map[r]];
        }
    }
    mk_free(map);
    mk_free(tmp);
    return tmp ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for %s", b->view[0]->name);
}

// Routers decide by small differences: they are kept in float32 whatever the file's type.
static mk_status load_linear_f32(loader *l, const mk_binding *b, mk_weight *out, mk_err *err) {
    float *f = NULL;
    MK_TRY(mk_bind_to_f32(l->m, b->view[0], &f, err));
    int64_t n_out = b->view[0]->shape[0], n_in = b->view[0]->shape[1];
    mk_weight_src src = {.dtype = MK_DTYPE_F32,
                         .data = (const uint8_t *)f,
                         .n_mat = 1,
                         .n_out = n_out,
                         .n_in = n_in,
                         .row_bytes = (size_t)n_in * sizeof *f};
    mk_status st = mk_weight_fill(&src, l->pool, out, err);
    mk_free(f);
    return st;
}

static mk_status load_linear(loader *l, const mk_tensor_row *row, const mk_binding *b,
                             mk_weight *out, mk_err *err) {
    mk_weight_src src;
    mk_src_own own;
    mk_status st = mk_bind_src(l->m, row, b->view[0], &src, &own, err);
    if (st == MK_OK) {
        st = mk_weight_fill(&src, l->pool, out, err);
    }
    mk_bind_src_free(&own);
    return st;
}

// Experts of a folder: one tensor each, all of one type.
static mk_status load_experts(loader *l, const mk_tensor_row *row, const mk_binding *b,
                              mk_weight *out, mk_err *err) {
    for (int64_t e = 0; e < b->n_view; e++) {
        mk_weight_src src;
        mk_src_own own;
        mk_status st = mk_bind_src(l->m, row, b->view[e], &src, &own, err);
        src.n_mat = b->n_view;
        src.mat_stride = 0;
        if (st == MK_OK && e == 0 && !out->data) {
            st = mk_weight_alloc(&src, out, err);
        }
        if (st == MK_OK && src.dtype != b->view[0]->dtype && !l->m->f32) {
            st = MK_FAIL(err, MK_EUNSUPPORTED, "tensor %s: type %s, but expert 0 has %s",
                         b->view[e]->name, mk_dtype_get(src.dtype)->name,
                         mk_dtype_get(b->view[0]->dtype)->name);
        }
        if (st == MK_OK) {
            st = mk_weight_pack_one(&src, e, l->pool, out, err);
        }
        mk_bind_src_free(&own);
        MK_TRY(st);
        forget(b->view[e]);
    }
    return MK_OK;
}

// The token table stays in the file and its rows are read as tokens come; a trainer changes a copy.
static mk_status load_embed(loader *l, const mk_tensor_view *v, mk_err *err) {
    mk_model *m = l->m;
    m->globals.embed = v;
    if (!m->f32) {
        return MK_OK;
    }
    MK_TRY(mk_bind_to_f32(m, v, &m->embed_values, err));
    m->embed_view = *v;
    m->embed_view.dtype = MK_DTYPE_F32;
    m->embed_view.data = (const uint8_t *)m->embed_values;
    m->embed_view.n_bytes = (size_t)(v->shape[0] * v->shape[1]) * sizeof(float);
    m->embed_view.map = NULL;
    m->globals.embed = &m->embed_view;
    forget(v);
    return MK_OK;
}

// With a packed file only the vectors are read from the source, for a packed file only the rest.
static bool is_wanted(const loader *l, mk_tensor_class cls) {
    return l->m->packed ? cls == MK_T_VECTOR : l->sink ? cls != MK_T_VECTOR : true;
}

static mk_status load_row(loader *l, int layer, int i, mk_err *err) {
    const mk_tensor_row *row = &l->m->arch->tensors[i];
    const mk_binding *b = mk_model_binding(l->m, layer, i);
    if (b->n_view == 0 || !is_wanted(l, row->cls)) {
        return MK_OK;
    }
    void *field = field_of(l->m, row, layer);
    mk_status st = MK_OK;
    switch (row->cls) {
    case MK_T_EMBED:
        return load_embed(l, b->view[0], err);
    case MK_T_CUSTOM:
        return MK_OK;  // the family's pack
    case MK_T_VECTOR:
        st = load_vector(l, row, b, field, err);
        break;
    case MK_T_LINEAR:
        st = load_linear(l, row, b, field, err);
        break;
    case MK_T_LINEAR_F32:
        st = load_linear_f32(l, b, field, err);
        break;
    case MK_T_EXPERTS:
        st = b->n_view > 1 ? load_experts(l, row, b, field, err)
                           : load_linear(l, row, b, field, err);
        break;
    }
    MK_TRY(st);
    for (int64_t v = 0; v < b->n_view; v++) {
        l->done += b->view[v]->n_bytes;
        forget(b->view[v]);
    }
    if (l->progress && !l->progress(l->arg, l->done, l->total)) {
        return MK_FAIL(err, MK_EINTR, "the load was ended after %llu of %llu bytes",
                       (unsigned long long)l->done, (unsigned long long)l->total);
    }
    return MK_OK;
}

// --- all rows ------------------------------------------------------------------------------------

static bool is_packed(mk_tensor_class cls) {
    return cls == MK_T_LINEAR || cls == MK_T_LINEAR_F32 || cls == MK_T_EXPERTS;
}

// Every weight of one layer that has a layout.
static mk_status each_in_layer(mk_model *m, int layer, mk_load_weight_fn fn, void *arg,
                               mk_err *err) {
    for (int i = 0; i < m->arch->n_tensors; i++) {
        if (is_packed(m->arch->tensors[i].cls) && mk_model_binding(m, layer, i)->n_view > 0) {
            MK_TRY(fn(arg, field_of(m, &m->arch->tensors[i], layer), layer, i, err));
        }
    }
    if (layer >= 0 && m->layer[layer].wk_b.n_mat > 0) {  // what families pack themselves
        MK_TRY(fn(arg, &m->layer[layer].wk_b, layer, MK_LOAD_ROW_K_B, err));
        MK_TRY(fn(arg, &m->layer[layer].wv_b, layer, MK_LOAD_ROW_V_B, err));
    }
    return MK_OK;
}

mk_status mk_load_each(mk_model *m, mk_load_weight_fn fn, void *arg, mk_err *err) {
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        MK_TRY(each_in_layer(m, layer, fn, arg, err));
    }
    return MK_OK;
}

static mk_status give_away(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    const loader *l = arg;
    if (!w->data) {
        return MK_OK;
    }
    mk_status st = l->sink(l->sink_arg, w, layer, row, err);
    mk_weight_free(w);
    return st;
}

static mk_status load_all(loader *l, mk_err *err) {
    mk_model *m = l->m;
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            MK_TRY(load_row(l, layer, i, err));
            if (l->sink) {
                MK_TRY(each_in_layer(m, layer, give_away, l, err));
            }
        }
        if (layer >= 0 && m->arch->pack && !m->packed) {
            MK_TRY(m->arch->pack(m, layer, l->pool, err));
        }
        if (l->sink) {
            MK_TRY(each_in_layer(m, layer, give_away, l, err));
        }
    }
    return MK_OK;
}

// --- memory --------------------------------------------------------------------------------------
// One block for all weights of a model: the kernel can use huge pages from end to end.  With a
// block per weight, each had up to 4 MB of small pages at its ends: 60,000 page faults for a
// gigabyte (bench/notes.md).

static size_t weight_bytes(const mk_weight *w) {
    return w->mat_bytes * (size_t)w->n_mat;  // was checked when it was laid out
}

static mk_status add_bytes(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    size_t *total = arg, n = 0;
    (void)layer, (void)row;
    if (!mk_add_size(weight_bytes(w), 63, &n) || !mk_add_size(*total, n / 64 * 64, total)) {
        return MK_FAIL(err, MK_ENOMEM, "the weights do not fit any memory");
    }
    return MK_OK;
}

static mk_status take_bytes(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    uint8_t **at = arg;
    (void)layer, (void)row, (void)err;
    w->data = *at;
    w->borrowed = true;
    *at += (weight_bytes(w) + 63) / 64 * 64;
    return MK_OK;
}

static mk_status reserve(mk_model *m, mk_err *err) {
    size_t total = 0;
    MK_TRY(mk_load_each(m, add_bytes, &total, err));
    uint8_t *at = mk_big_alloc(total);
    if (!at) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu bytes of packed weights", total);
    }
    m->weights = at;
    m->weights_bytes = total;
    return mk_load_each(m, take_bytes, &at, err);
}

// --- masters -------------------------------------------------------------------------------------

typedef struct {
    mk_model *m;
    mk_pool *pool;
    uint8_t *at;
    size_t total;
} rounder;

// A router stays what it is.
static bool has_master(const mk_model *m, int row) {
    return row < 0 || m->arch->tensors[row].cls != MK_T_LINEAR_F32;
}

static mk_status rounded_layout(const mk_weight *w, mk_weight *out, mk_err *err) {
    mk_weight_src src = {
        .dtype = MK_DTYPE_BF16, .n_mat = w->n_mat, .n_out = w->n_out, .n_in = w->n_in};
    return mk_weight_layout(&src, out, err);
}

static mk_status add_rounded(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    rounder *r = arg;
    mk_weight to;
    (void)layer;
    if (has_master(r->m, row)) {
        MK_TRY(rounded_layout(w, &to, err));
        MK_TRY(add_bytes(&r->total, &to, layer, row, err));
    }
    return MK_OK;
}

static mk_status round_one(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    rounder *r = arg;
    mk_weight to;
    if (has_master(r->m, row)) {
        MK_TRY(rounded_layout(w, &to, err));
        MK_TRY(take_bytes(&r->at, &to, layer, row, err));
        to.master = mk_weight_values(w);
        *w = to;
        mk_weight_round(w, r->pool);
    }
    return MK_OK;
}

static mk_status round_all(mk_model *m, mk_pool *pool, mk_err *err) {
    rounder r = {.m = m, .pool = pool};
    MK_TRY(mk_load_each(m, add_rounded, &r, err));
    r.at = m->rounded = mk_big_alloc(r.total);
    if (!r.at) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu bytes of weights as bf16", r.total);
    }
    m->rounded_bytes = r.total;
    return mk_load_each(m, round_one, &r, err);
}

mk_status mk_load_weights(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                          mk_err *err) {
    loader l = {m, pool, progress, arg, 0, mk_source_file_bytes(m->src), NULL, NULL};
    if (!m->packed) {
        MK_TRY(reserve(m, err));
    }
    MK_TRY(load_all(&l, err));
    return m->bf16 ? round_all(m, pool, err) : MK_OK;
}

mk_status mk_load_stream(mk_model *m, mk_pool *pool, mk_load_weight_fn sink, void *arg,
                         mk_err *err) {
    loader l = {m, pool, NULL, NULL, 0, 0, sink, arg};
    MK_ASSERT(!m->loaded && !m->packed);
    return load_all(&l, err);
}

static mk_status release(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    (void)arg, (void)layer, (void)row, (void)err;
    mk_weight_free(w);
    return MK_OK;
}

void mk_load_free(mk_model *m) {
    if (!m->binding) {
        return;  // nothing was laid out
    }
    mk_status st = mk_load_each(m, release, NULL, NULL);
    MK_ASSERT(st == MK_OK);
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            const mk_tensor_row *row = &m->arch->tensors[i];
            if (row->cls == MK_T_VECTOR && mk_model_binding(m, layer, i)->n_view > 0) {
                float **values = field_of(m, row, layer);
                mk_free(*values);
                *values = NULL;
            }
        }
    }
    mk_big_free(m->weights, m->weights_bytes);
    mk_big_free(m->rounded, m->rounded_bytes);
    mk_free(m->embed_values);
    m->weights = m->rounded = NULL;
    m->weights_bytes = m->rounded_bytes = 0;
    m->embed_values = NULL;
}

// --- layouts and sizes, known before anything is packed ------------------------------------------

static mk_status layout_row(mk_model *m, int layer, int i, mk_err *err) {
    const mk_tensor_row *row = &m->arch->tensors[i];
    const mk_binding *b = mk_model_binding(m, layer, i);
    if (b->n_view == 0) {
        return MK_OK;
    }
    const mk_tensor_view *v = b->view[0];
    if (row->cls == MK_T_EMBED) {
        *(const mk_tensor_view **)field_of(m, row, layer) = v;
    }
    if (!is_packed(row->cls)) {
        return MK_OK;
    }
    mk_weight_src src = {.dtype = row->cls == MK_T_LINEAR_F32 || m->f32 ? MK_DTYPE_F32 : v->dtype,
                         .n_mat = v->n_dim == 3 ? v->shape[0] : b->n_view,
                         .n_out = v->shape[v->n_dim - 2],
                         .n_in = v->shape[v->n_dim - 1]};
    mk_status st = mk_weight_layout(&src, field_of(m, row, layer), err);
    if (st != MK_OK) {
        (void)mk_err_prefix(err, "tensor %s", v->name);
    }
    return st;
}

mk_status mk_load_layout(mk_model *m, mk_err *err) {
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            MK_TRY(layout_row(m, layer, i, err));
        }
        if (layer >= 0 && m->arch->layout) {
            MK_TRY(m->arch->layout(m, layer, err));
        }
    }
    return MK_OK;
}

// Sizes were checked when the weights were laid out in their own types, which are at most a few
// times smaller; a sum beyond size_t becomes the largest number.
static mk_status add_f32_bytes(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    size_t *total = arg, n = 0;
    (void)layer, (void)row, (void)err;
    bool ok = mk_mul_size((size_t)(w->n_out + 15) / 16 * 16 * sizeof(float), (size_t)w->n_in, &n) &&
              mk_mul_size(n, (size_t)w->n_mat, &n) && mk_add_size(*total, n, total);
    *total = ok ? *total : SIZE_MAX;
    return MK_OK;
}

size_t mk_load_f32_bytes(const mk_model *m) {
    size_t total = 0;
    mk_status st = mk_load_each((mk_model *)(uintptr_t)m, add_f32_bytes, &total, NULL);
    MK_ASSERT(st == MK_OK);
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            mk_tensor_class cls = m->arch->tensors[i].cls;
            const mk_binding *b = mk_model_binding(m, layer, i);
            size_t n = 0;
            if (b->n_view > 0 && cls == MK_T_VECTOR) {
                n = (size_t)b->view[0]->shape[b->view[0]->n_dim - 1] * sizeof(float);
            } else if (b->n_view > 0 && cls == MK_T_EMBED) {
                n = (size_t)(b->view[0]->shape[0] * b->view[0]->shape[1]) * sizeof(float);
            }
            total = mk_add_size(total, n, &total) ? total : SIZE_MAX;
        }
    }
    return total;
}

size_t mk_load_bytes(const mk_model *m, size_t *per_token) {
    size_t total = m->rounded ? m->weights_bytes : 0;  // masters and routers
    double token = 0,
           used = m->hp.n_expert ? (double)m->hp.n_expert_used / (double)m->hp.n_expert : 1;
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            const mk_tensor_row *row = &m->arch->tensors[i];
            const mk_binding *b = mk_model_binding(m, layer, i);
            if (b->n_view > 0 && is_packed(row->cls)) {
                size_t n = weight_bytes(field_of(m, row, layer));
                total += m->rounded && row->cls == MK_T_LINEAR_F32 ? 0 : n;
                token += (double)n * (row->cls == MK_T_EXPERTS ? used : 1);
            } else if (b->n_view > 0 && row->cls == MK_T_VECTOR) {
                total += (size_t)b->view[0]->shape[b->view[0]->n_dim - 1] * sizeof(float);
            }
        }
        size_t custom =
            layer < 0 ? 0
                      : weight_bytes(&m->layer[layer].wk_b) + weight_bytes(&m->layer[layer].wv_b);
        total += custom;
        token += (double)custom;
    }
    if (per_token) {
        *per_token = (size_t)token;
    }
    return total;
}
