// First a list of all tensors that will be written (plan), then the metadata, then the data in the
// order of the list.
#include "model/export.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "model/bind.h"
#include "model/config.h"
#include "model/values.h"

#define WRITE_BYTES ((size_t)16 << 20)  // of an unchanged tensor at once, so that it can be stopped
#define F16_MAX     65504.0f

typedef struct {
    char name[MK_NAME_MAX];
    mk_dtype type;
    int n_dim;
    int64_t shape[4];
    // Where the data come from: exactly one of
    const mk_tensor_view *const
        *view;  // n_view bound tensors, one behind the other (or what `made` makes of the first)
    const mk_tensor_view *copy;  // a tensor of a GGUF file that no row binds
    float *values;               // owned
    bool memory;                 // n_mat matrices of the model's memory, from `at` on (values.h)
    mk_value_at at;
    int64_t n_view, n_mat;
    bool permute;
    const mk_made_row *made;
} item;

typedef struct {
    const mk_model *m;
    const mk_export_opts *opts;
    item *items;
    int64_t n, cap;
    uint64_t done, total;
} job;

// --- plan ----------------------------------------------------------------------------------------

static item *add_item(job *j, mk_err *err) {
    if (j->n == j->cap) {
        int64_t cap = j->cap ? 2 * j->cap : 256;
        item *p = mk_try_realloc(j->items, (size_t)cap, sizeof *p);
        if (!p) {
            (void)MK_FAIL(err, MK_ENOMEM, "no memory for a list of %lld tensors", (long long)cap);
            return NULL;
        }
        j->items = p;
        j->cap = cap;
    }
    memset(&j->items[j->n], 0, sizeof *j->items);
    return &j->items[j->n++];
}

// Whether minke can make the type from float32.
static bool is_writable(mk_dtype t) {
    return t == MK_DTYPE_F32 || t == MK_DTYPE_F16 || t == MK_DTYPE_BF16 || t == MK_DTYPE_Q8_0;
}

// Type of a matrix; vectors and routers are decided by the caller.  memory: the values are not the
// file's any more.
static mk_dtype choose_type(const job *j, mk_dtype from, int64_t n_in, bool memory) {
    mk_dtype t = j->opts->type;
    if (t == MK_DTYPE_N) {
        t = from < MK_DTYPE_F8_E4M3 ? from : MK_DTYPE_BF16;
        t = memory && !is_writable(t) ? MK_DTYPE_Q8_0 : t;
    }
    const mk_dtype_info *info = mk_dtype_get((int64_t)t);
    return n_in % info->block == 0 ? t : MK_DTYPE_F16;
}

// Rows in memory are in the order of a folder.
static bool is_permuted(const mk_model *m, const mk_tensor_row *row, bool memory) {
    return (row->flags & (MK_T_PERMUTED_Q | MK_T_PERMUTED_K)) &&
           (memory || !mk_source_is_gguf(m->src));
}

// A model that was loaded for training may have been changed, any other is what its files are; but
// adapters may be merged on the way.
static bool in_memory(const mk_model *m, mk_value_at at) {
    return (m->f32 && mk_values_in_memory(m, at)) || mk_values_merged(m, at);
}

static mk_status plan_row(job *j, mk_value_at at, mk_err *err) {
    const mk_tensor_row *row = &j->m->arch->tensors[at.row];
    const mk_binding *b = mk_model_binding(j->m, at.layer, at.row);
    const mk_tensor_view *v = b->view[0];
    bool gguf = mk_source_is_gguf(j->m->src), memory = in_memory(j->m, at);
    if (!gguf && !row->gguf) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "tensor %s has no name in GGUF", v->name);
    }
    item *it = add_item(j, err);
    if (!it) {
        return err ? err->code : MK_ENOMEM;
    }
    if (gguf) {
        snprintf(it->name, sizeof it->name, "%s", v->name);
    } else {
        mk_bind_name(it->name, row->gguf, at.layer, 0);
    }
    if (row->cls == MK_T_EXPERTS && !gguf) {
        it->shape[it->n_dim++] = b->n_view;
    }
    for (int d = 0; d < v->n_dim && it->n_dim < 4; d++) {
        it->shape[it->n_dim++] = v->shape[d];
    }
    bool exact = row->cls == MK_T_VECTOR || row->cls == MK_T_LINEAR_F32;
    it->type = exact ? (gguf && !memory ? v->dtype : MK_DTYPE_F32)
                     : choose_type(j, v->dtype, v->shape[v->n_dim - 1], memory);
    it->view = b->view;
    it->n_view = b->n_view;
    it->permute = is_permuted(j->m, row, memory);
    it->memory = memory;
    it->at = at;
    it->n_mat = row->cls == MK_T_EXPERTS ? j->m->hp.n_expert : 1;
    return MK_OK;
}

// Tensors that the family computes from others (DeepSeek's split kv_b).
static mk_status plan_made(job *j, int layer, mk_err *err) {
    for (const mk_made_row *r = j->m->arch->made; r && r->gguf; r++) {
        const mk_binding *b = mk_model_binding(j->m, layer, r->from);
        item *it = b->n_view ? add_item(j, err) : NULL;
        if (!it) {
            return b->n_view ? (err ? err->code : MK_ENOMEM) : MK_OK;
        }
        mk_bind_name(it->name, r->gguf, layer, 0);
        it->n_dim = r->n_dim;
        for (int d = 0; d < r->n_dim; d++) {
            memcpy(&it->shape[d], (const char *)&j->m->hp + r->shape[d], sizeof it->shape[d]);
        }
        it->at = (mk_value_at){layer, r->from, 0};
        it->type =
            choose_type(j, b->view[0]->dtype, it->shape[r->n_dim - 1], in_memory(j->m, it->at));
        it->view = b->view;
        it->n_view = 1;
        it->made = r;
    }
    return MK_OK;
}

// The output matrix of a model with tied embeddings is the token table itself and is not written
// twice.
static bool is_tied(const job *j, int layer, int row) {
    return layer < 0 && mk_model_is_tied(j->m, row);
}

static mk_status plan_layer(job *j, int layer, mk_err *err) {
    const mk_arch *arch = j->m->arch;
    bool folder = !mk_source_is_gguf(j->m->src);
    for (int i = 0; i < arch->n_tensors; i++) {
        const mk_binding *b = mk_model_binding(j->m, layer, i);
        bool replaced = folder && arch->made && arch->tensors[i].cls == MK_T_CUSTOM;
        if (b->n_view > 0 && !replaced && !is_tied(j, layer, i)) {
            MK_TRY(plan_row(j, (mk_value_at){layer, i, 0}, err));
        }
    }
    return layer >= 0 && folder ? plan_made(j, layer, err) : MK_OK;
}

// Llama 3's stretched frequencies are a tensor in GGUF: f / divisor is to be exactly what the
// configuration gives.
static mk_status plan_rope_freqs(job *j, mk_err *err) {
    const mk_model *m = j->m;
    if (m->hp.rope_scale != MK_ROPE_SCALE_LLAMA3 || mk_source_is_gguf(m->src)) {
        return MK_OK;
    }
    int64_t n_dim = m->arch->rope_dims(&m->hp), n = n_dim / 2;
    mk_hparams plain = m->hp;
    plain.rope_scale = MK_ROPE_SCALE_NONE;
    item *it = add_item(j, err);
    float *f = it ? mk_try_alloc((size_t)n, sizeof *f) : NULL;
    if (!f) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld rotary frequencies", (long long)n);
    }
    mk_rope_inv_freq(&plain, n_dim, NULL, f);
    for (int64_t i = 0; i < n; i++) {
        float want = m->inv_freq[i], d = f[i] / want, up = nextafterf(d, INFINITY),
              down = nextafterf(d, 0);
        f[i] = f[i] / d == want ? d : f[i] / up == want ? up : f[i] / down == want ? down : d;
    }
    *it = (item){
        .name = "rope_freqs.weight", .type = MK_DTYPE_F32, .n_dim = 1, .shape = {n}, .values = f};
    return MK_OK;
}

// Copies of the token table and the output matrix in a prediction layer: what they are copies of
// may have been trained, and readers that miss them take that.
static bool is_stale_copy(const mk_model *m, const char *name) {
    int layer = -1;
    return m->f32 && m->n_bound > m->hp.n_layer && sscanf(name, "blk.%d.", &layer) == 1 &&
           layer >= m->hp.n_layer;
}

// Tensors of a GGUF file that no row binds (frequencies, prediction layers) are copied.
static mk_status plan_rest(job *j, mk_err *err) {
    const mk_source *src = j->m->src;
    int64_t n_bound = j->n;
    for (int64_t i = 0; mk_source_is_gguf(src) && i < mk_source_n_tensor(src); i++) {
        const mk_tensor_view *v = mk_source_tensor(src, i);
        bool bound = is_stale_copy(j->m, v->name);
        for (int64_t k = 0; k < n_bound && !bound; k++) {
            bound = j->items[k].view[0] == v;
        }
        item *it = bound ? NULL : add_item(j, err);
        if (!bound && !it) {
            return MK_ENOMEM;
        }
        if (it) {
            *it = (item){.type = v->dtype, .n_dim = v->n_dim, .copy = v};
            snprintf(it->name, sizeof it->name, "%s", v->name);
            memcpy(it->shape, v->shape, sizeof it->shape);
        }
    }
    return MK_OK;
}

// Layers that are written.
static int64_t n_layer_of(const job *j) {
    return j->opts->mtp || mk_source_is_gguf(j->m->src) ? j->m->n_bound : j->m->hp.n_layer;
}

static mk_status plan(job *j, mk_err *err) {
    for (int layer = -1; layer < n_layer_of(j); layer++) {
        MK_TRY(plan_layer(j, layer, err));
    }
    MK_TRY(plan_rope_freqs(j, err));
    return plan_rest(j, err);
}

// --- metadata ------------------------------------------------------------------------------------

// Number that files carry for people; informative only.
static uint32_t file_type(mk_dtype t) {
    return t == MK_DTYPE_F32 ? 0 : t == MK_DTYPE_F16 ? 1 : t == MK_DTYPE_Q8_0 ? 7 : 32;
}

static void put_str(mk_gguf_out *o, const char *key, const char *s) {
    mk_gguf_out_str(o, key, s, strlen(s));
}

static bool starts_with(const char *s, const char *head) {
    return strncmp(s, head, strlen(head)) == 0;
}

// Keys of rotary scaling go out only where GGUF says the scaling by keys.
static bool says_nothing(const mk_cfg_row *r, const mk_hparams *hp) {
    bool linear = hp->rope_scale == MK_ROPE_SCALE_LINEAR,
         yarn = hp->rope_scale == MK_ROPE_SCALE_YARN;
    return !r->gguf || (starts_with(r->gguf, "rope.scaling.") && !linear && !yarn) ||
           (starts_with(r->gguf, "rope.scaling.yarn") && !yarn);
}

static void put_config_row(const mk_cfg_row *r, const mk_hparams *hp, const char *arch,
                           mk_gguf_out *o) {
    char key[256];
    const void *field = (const char *)hp + r->field;
    int64_t i = 0;
    double f = 0;
    snprintf(key, sizeof key, "%s%s%s", r->gguf[0] == '/' ? "" : arch, r->gguf[0] == '/' ? "" : ".",
             r->gguf[0] == '/' ? r->gguf + 1 : r->gguf);
    switch (r->type) {
    case MK_CFG_I64:
        memcpy(&i, field, sizeof i);
        if (i != 0) {
            mk_gguf_out_u32(o, key, (uint32_t)i);
        }
        break;
    case MK_CFG_F64:
        memcpy(&f, field, sizeof f);
        if (f > 0 || f < 0) {
            mk_gguf_out_f32(o, key, (float)f);
        }
        break;
    case MK_CFG_BOOL:
        memcpy(&i, field, sizeof i);
        if (i >= 0) {
            mk_gguf_out_i64(o, key, MK_GGUF_BOOL, i);
        }
        break;
    case MK_CFG_STR:
        if (*(const char *)field) {
            put_str(o, key, field);
        }
        break;
    }
}

// An attention factor other than YaRN's own has no key that every reader takes the same way.
static mk_status check_sayable(const mk_hparams *hp, mk_err *err) {
    double own = mk_yarn_mscale(hp->rope_factor, 1.0);
    if (hp->rope_scale == MK_ROPE_SCALE_YARN && hp->rope_attn_factor > 0 &&
        fabs(hp->rope_attn_factor - own) > 1e-6) {
        return MK_FAIL(
            err, MK_EUNSUPPORTED,
            "rope attention_factor %g cannot be written to GGUF; expected %g, YaRN's own",
            hp->rope_attn_factor, own);
    }
    return MK_OK;
}

static mk_status folder_metadata(const job *j, mk_gguf_out *o, mk_err *err) {
    const mk_arch *arch = j->m->arch;
    const char *name = arch->gguf_arch[0];
    mk_hparams hp = j->m->hp;
    hp.n_nextn = n_layer_of(j) - hp.n_layer;
    MK_TRY(check_sayable(&hp, err));
    put_str(o, "general.architecture", name);
    put_str(o, "general.type", "model");
    put_str(o, "general.name", j->opts->name ? j->opts->name : "model");
    mk_gguf_out_u32(o, "general.file_type", file_type(j->opts->type));
    mk_gguf_out_u32(o, "general.quantization_version", 2);
    if (arch->gguf_config) {
        arch->gguf_config(&hp, o);
    }
    for (int i = 0; i < arch->n_config; i++) {
        if (!says_nothing(&arch->config[i], &hp)) {
            put_config_row(&arch->config[i], &hp, name, o);
        }
    }
    if (j->opts->metadata) {
        j->opts->metadata(j->opts->arg, o);
    }
    return MK_OK;
}

static void gguf_metadata(const job *j, mk_gguf_out *o) {
    const mk_gguf *g = mk_source_gguf(j->m->src);
    bool keep = j->opts->type == MK_DTYPE_N;
    for (int64_t i = 0; i < mk_gguf_n_kv(g); i++) {
        if (keep || strcmp(mk_gguf_key(g, i), "general.file_type") != 0) {
            mk_gguf_out_copy_kv(o, g, i);
        }
    }
    if (!keep) {
        mk_gguf_out_u32(o, "general.file_type", file_type(j->opts->type));
    }
}

// --- data ----------------------------------------------------------------------------------------

static mk_status put_bytes(job *j, mk_writer *w, const void *p, size_t n, mk_err *err) {
    const uint8_t *at = p;
    while (n > 0) {
        size_t part = n < WRITE_BYTES ? n : WRITE_BYTES;
        MK_TRY(mk_writer_write(w, at, part, err));
        at += part;
        n -= part;
        j->done += part;
        MK_TRY(j->opts->step ? j->opts->step(j->opts->arg, j->done, j->total) : MK_OK);
    }
    return MK_OK;
}

static mk_status check_f16(const item *it, const float *row, int64_t n, mk_err *err) {
    for (int64_t i = 0; it->type == MK_DTYPE_F16 && i < n; i++) {
        if (fabsf(row[i]) > F16_MAX && isfinite(row[i])) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "tensor %s: %g does not fit into F16 (at most 65504); use --type bf16",
                           it->name, (double)row[i]);
        }
    }
    return MK_OK;
}

// Rows of n_in values, from float32 (`all`) or from the view's own type.
typedef struct {
    const mk_tensor_view *view;
    const float *all;
    int64_t n_row, n_in;
} rows;

// Row of the source that is row r of a GGUF file: pairs (i, i + half) of a head become neighbours.
static int64_t source_row(const job *j, const item *it, int64_t r) {
    if (!it->permute) {
        return r;  // d_head is 0 in some families
    }
    int64_t hd = j->m->hp.d_head, in_head = r % hd;
    return r - in_head + in_head % 2 * (hd / 2) + in_head / 2;
}

static mk_status put_rows(job *j, const item *it, const rows *src, mk_writer *w, mk_err *err) {
    size_t in_bytes = 0, out_bytes = 0;
    float *row = mk_try_alloc((size_t)src->n_in, sizeof *row);
    bool ok = mk_dtype_row_bytes(it->type, src->n_in, &out_bytes) &&
              (src->all || mk_dtype_row_bytes(src->view->dtype, src->n_in, &in_bytes));
    uint8_t *out = ok ? mk_try_alloc(out_bytes, 1) : NULL;
    mk_status st =
        row && out ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for a row of %s", it->name);
    for (int64_t r = 0; r < src->n_row && st == MK_OK; r++) {
        int64_t s = source_row(j, it, r);
        const float *f = src->all ? src->all + s * src->n_in : row;
        if (!src->all) {
            mk_dtype_to_f32(src->view->dtype, src->view->data + (size_t)s * in_bytes, src->n_in,
                            row);
        }
        st = check_f16(it, f, src->n_in, err);
        st = st == MK_OK ? mk_dtype_from_f32(it->type, f, src->n_in, out, err) : st;
        st = st == MK_OK ? put_bytes(j, w, out, out_bytes, err) : st;
    }
    mk_free(row);
    mk_free(out);
    return st;
}

// A vector whose elements are permuted is a matrix of one column.
static rows rows_of(const item *it, const mk_tensor_view *v) {
    int64_t n = 1, n_in = it->permute && v->n_dim == 1 ? 1 : v->shape[v->n_dim - 1];
    for (int d = 0; d < v->n_dim; d++) {
        n *= v->shape[d];
    }
    return (rows){.view = v, .n_row = n / n_in, .n_in = n_in};
}

static mk_status put_view(job *j, const item *it, const mk_tensor_view *v, mk_writer *w,
                          mk_err *err) {
    if (v->dtype == it->type && !it->permute) {
        return put_bytes(j, w, v->data, v->n_bytes, err);
    }
    rows src = rows_of(it, v);
    float *all = NULL;
    if (v->dtype == MK_DTYPE_F8_E4M3) {
        MK_TRY(mk_bind_to_f32(j->m, v, &all, err));
        src.all = all;
    }
    mk_status st = put_rows(j, it, &src, w, err);
    mk_free(all);
    return st;
}

static mk_status put_made(job *j, const item *it, mk_writer *w, mk_err *err) {
    float *from = NULL;
    int64_t n = 1;
    for (int d = 0; d < it->n_dim; d++) {
        n *= it->shape[d];
    }
    MK_TRY(mk_values_get(j->m, it->at, NULL, &from, err));
    float *to = mk_try_alloc((size_t)n, sizeof *to);
    mk_status st = to ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for %s", it->name);
    if (st == MK_OK) {
        it->made->make(&j->m->hp, from, to);
        int64_t n_in = it->shape[it->n_dim - 1];
        st = put_rows(j, it, &(rows){.all = to, .n_row = n / n_in, .n_in = n_in}, w, err);
    }
    mk_free(from);
    mk_free(to);
    return st;
}

// What a trainer may have changed.
static mk_status put_memory(job *j, const item *it, mk_writer *w, mk_err *err) {
    int64_t n_in = it->permute && it->n_dim == 1 ? 1 : it->shape[it->n_dim - 1], n = 1;
    for (int d = 0; d < it->n_dim; d++) {
        n *= it->shape[d];
    }
    mk_status st = MK_OK;
    for (mk_value_at at = it->at; at.mat < it->n_mat && st == MK_OK; at.mat++) {
        float *values = NULL;
        MK_TRY(mk_values_get(j->m, at, NULL, &values, err));
        rows src = {.all = values, .n_row = n / it->n_mat / n_in, .n_in = n_in};
        st = put_rows(j, it, &src, w, err);
        mk_free(values);
    }
    return st;
}

static mk_status fill(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    job *j = arg;
    const item *it = &j->items[i];
    if (it->values) {
        return put_bytes(j, w, it->values, (size_t)it->shape[0] * sizeof *it->values, err);
    }
    if (it->copy) {
        return put_bytes(j, w, it->copy->data, it->copy->n_bytes, err);
    }
    if (it->made) {
        return put_made(j, it, w, err);
    }
    if (it->memory) {
        return put_memory(j, it, w, err);
    }
    for (int64_t k = 0; k < it->n_view; k++) {
        MK_TRY(put_view(j, it, it->view[k], w, err));
    }
    return MK_OK;
}

// --- all together --------------------------------------------------------------------------------

static void declare(job *j, mk_gguf_out *o) {
    for (int64_t i = 0; i < j->n; i++) {
        const item *it = &j->items[i];
        size_t n = 0;
        int64_t rows_before = 1;
        for (int d = 0; d + 1 < it->n_dim; d++) {
            rows_before *= it->shape[d];
        }
        if (mk_dtype_row_bytes(it->type, it->shape[it->n_dim - 1], &n)) {
            j->total += n * (uint64_t)rows_before;
        }
        mk_gguf_out_tensor(o, it->name, it->type, it->n_dim, it->shape);
    }
}

static mk_status write_all(job *j, mk_gguf_out *o, const char *path, mk_err *err) {
    MK_TRY(plan(j, err));
    if (mk_source_is_gguf(j->m->src)) {
        gguf_metadata(j, o);
    } else {
        MK_TRY(folder_metadata(j, o, err));
    }
    declare(j, o);
    return mk_gguf_out_write(o, path, fill, j, err);
}

mk_status mk_export_gguf(const mk_model *m, const mk_export_opts *opts, const char *path,
                         mk_err *err) {
    job j = {.m = m, .opts = opts};
    mk_gguf_out *o = mk_gguf_out_create();
    mk_status st = write_all(&j, o, path, err);
    for (int64_t i = 0; i < j.n; i++) {
        mk_free(j.items[i].values);
    }
    mk_free(j.items);
    mk_gguf_out_destroy(o);
    return st;
}
