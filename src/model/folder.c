// Folders: the list of tensors, model.safetensors, and the files beside it.
#include "model/folder.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "model/folder_int.h"

enum { PIECE = 1 << 16 };  // values converted and written at once

// --- the list of tensors -------------------------------------------------------------------------

static mk_status add(mk_hf_list *l, const mk_hf_tensor *t, mk_err *err) {
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 256;
        mk_hf_tensor *p = mk_try_realloc(l->list, (size_t)cap, sizeof *p);
        if (!p) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for a list of %lld tensors", (long long)cap);
        }
        l->list = p;
        l->cap = cap;
    }
    l->list[l->n++] = *t;
    return MK_OK;
}

// A family's own rows are written in the form of a folder, whatever the file has of them.
static bool has_custom(const mk_model *m, int layer) {
    bool has = false;
    for (int i = 0; i < m->arch->n_tensors; i++) {
        has = has ||
              (m->arch->tensors[i].cls == MK_T_CUSTOM && mk_model_binding(m, layer, i)->n_view > 0);
    }
    return has;
}

static bool is_there(const mk_model *m, int layer, int row) {
    const mk_tensor_row *r = &m->arch->tensors[row];
    if (!r->hf || (layer < 0) != ((r->flags & MK_T_GLOBAL) != 0) ||
        (r->when && !r->when(&m->hp, layer))) {
        return false;
    }
    if (!m->binding) {  // a configuration alone
        bool tied = (r->flags & MK_T_TIED) && m->hp.tie_embeddings > 0;
        bool optional = (r->flags & MK_T_OPTIONAL) != 0;
        return !tied && (!optional || (m->arch->is_new && m->arch->is_new(&m->hp, m->src, row)));
    }
    if (r->cls == MK_T_CUSTOM) {
        return has_custom(m, layer);
    }
    return mk_model_binding(m, layer, row)->n_view > 0 && !(layer < 0 && mk_model_is_tied(m, row));
}

static mk_status add_row(const mk_model *m, int layer, int row, mk_hf_list *l, mk_err *err) {
    const mk_tensor_row *r = &m->arch->tensors[row];
    mk_hf_tensor t = {.at = {layer, row, 0}, .n_dim = r->n_dim, .n = 1};
    for (int d = 0; d < r->n_dim; d++) {
        memcpy(&t.shape[d], (const char *)&m->hp + r->shape[d], sizeof t.shape[d]);
        if (t.shape[d] < 1 || !mk_mul_i64(t.n, t.shape[d], &t.n)) {
            return MK_FAIL(err, MK_EUNSUPPORTED, "%s: rows of %s have no size that can be written",
                           mk_source_path(m->src), r->hf);
        }
    }
    int64_t n_mat = r->cls == MK_T_EXPERTS ? m->hp.n_expert : 1;
    for (; t.at.mat < n_mat; t.at.mat++) {
        mk_bind_name(t.name, r->hf, layer, t.at.mat);
        MK_TRY(add(l, &t, err));
    }
    return MK_OK;
}

mk_status mk_hf_list_make(const mk_model *m, mk_hf_list *l, mk_err *err) {
    for (int layer = -1; layer < m->n_bound; layer++) {
        for (int row = 0; row < m->arch->n_tensors; row++) {
            if (is_there(m, layer, row)) {
                MK_TRY(add_row(m, layer, row, l, err));
            }
        }
    }
    return MK_OK;
}

void mk_hf_list_free(mk_hf_list *l) {
    mk_free(l->list);
    *l = (mk_hf_list){NULL, 0, 0};
}

// --- model.safetensors ---------------------------------------------------------------------------

// Norms and routers decide by small differences, and weigh little.
static mk_dtype type_of(const mk_folder_job *job, const mk_hf_tensor *t) {
    mk_tensor_class cls = job->m->arch->tensors[t->at.row].cls;
    return cls == MK_T_VECTOR || cls == MK_T_LINEAR_F32 ? MK_DTYPE_F32 : job->opts->type;
}

mk_status mk_folder_put(mk_folder_job *job, const mk_hf_tensor *t, const float *values, int64_t n,
                        mk_writer *w, mk_err *err) {
    mk_dtype type = type_of(job, t);
    uint16_t half[4096];
    for (int64_t at = 0; at < n;) {
        int64_t most = type == MK_DTYPE_F32 ? PIECE : (int64_t)(sizeof half / sizeof half[0]);
        int64_t part = n - at < most ? n - at : most;
        const void *from = values + at;
        size_t bytes = (size_t)part * sizeof *values;
        if (type != MK_DTYPE_F32) {
            MK_TRY(mk_dtype_from_f32(type, values + at, part, half, err));
            from = half;
            bytes = (size_t)part * sizeof half[0];
        }
        MK_TRY(mk_writer_write(w, from, bytes, err));
        at += part;
        job->done += bytes;
        MK_TRY(job->opts->step ? job->opts->step(job->opts->arg, job->done, job->total) : MK_OK);
    }
    return MK_OK;
}

static mk_status fill(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    mk_folder_job *job = arg;
    return job->values(job, &job->tensors.list[i], w, err);
}

static mk_status write_tensors(mk_folder_job *job, const char *path, mk_err *err) {
    MK_TRY(mk_hf_list_make(job->m, &job->tensors, err));
    mk_st_out *o = mk_st_out_create();
    for (int64_t i = 0; i < job->tensors.n; i++) {
        const mk_hf_tensor *t = &job->tensors.list[i];
        mk_st_out_tensor(o, t->name, type_of(job, t), t->n_dim, t->shape);
    }
    job->total = mk_st_out_data_bytes(o);
    mk_status st = mk_st_out_write(o, path, fill, job, err);
    mk_st_out_destroy(o);
    return st;
}

mk_status mk_folder_write(mk_folder_job *job, const char *dir, mk_err *err) {
    char *path = mk_path_join(dir, "model.safetensors"),
         *index = mk_path_join(dir, "model.safetensors.index.json");
    mk_status st = MK_OK;
    if (mk_path_is_file(index)) {
        st = MK_FAIL(err, MK_EUSAGE,
                     "%s: there already, and readers would take the shards it names; expected a "
                     "folder without it",
                     index);
    }
    st = st == MK_OK ? write_tensors(job, path, err) : st;
    mk_hf_list_free(&job->tensors);
    mk_free(path);
    mk_free(index);
    return st;
}

// --- the files beside it -------------------------------------------------------------------------

static mk_status copy_file(const char *from, const char *to, mk_err *err) {
    mk_map map;
    mk_writer *w = NULL;
    MK_TRY(mk_map_open(from, &map, err));
    mk_status st = mk_writer_open(to, &w, err);
    if (st == MK_OK) {
        st = mk_writer_write(w, map.data, map.n_bytes, err);
        if (st == MK_OK) {
            st = mk_writer_commit(w, err);
        } else {
            mk_writer_abort(w);
        }
    }
    mk_map_close(&map);
    return st;
}

static mk_status copy_files(const char *from, const char *to, mk_err *err) {
    static const char *const names[] = {"tokenizer.json",      "tokenizer_config.json",
                                        "chat_template.jinja", "generation_config.json",
                                        "merges.txt",          "special_tokens_map.json",
                                        "tokenizer.model",     "added_tokens.json",
                                        "vocab.json"};
    mk_status st = MK_OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && st == MK_OK; i++) {
        char *a = mk_path_join(from, names[i]), *b = mk_path_join(to, names[i]);
        if (mk_path_is_file(a)) {
            st = copy_file(a, b, err);
        }
        mk_free(a);
        mk_free(b);
    }
    return st;
}

// --- all together --------------------------------------------------------------------------------

static mk_status put_values(mk_folder_job *job, const mk_hf_tensor *t, mk_writer *w, mk_err *err) {
    float *values = NULL;
    MK_TRY(mk_values_get(job->m, t->at, job->opts->pool, &values, err));
    mk_status st = mk_folder_put(job, t, values, t->n, w, err);
    mk_free(values);
    return st;
}

static mk_status write_config(const mk_model *m, mk_dtype type, const char *dir, mk_err *err) {
    const json_t *there = mk_source_config(m->src);
    if (there) {
        return mk_folder_write_config(there, type, dir, err);
    }
    json_t *made = NULL;
    MK_TRY(mk_folder_config(m, &made, err));
    mk_status st = mk_folder_write_config(made, type, dir, err);
    json_decref(made);
    return st;
}

static bool same_folder(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

mk_status mk_model_save_folder(const mk_model *m, const char *dir, const mk_save_opts *opts,
                               mk_err *err) {
    if (opts->type != MK_DTYPE_F32 && opts->type != MK_DTYPE_BF16) {
        const mk_dtype_info *info = mk_dtype_get((int64_t)opts->type);
        return MK_FAIL(err, MK_EUSAGE, "%s: type %s; a folder can hold F32 or BF16", dir,
                       info && info->name ? info->name : "?");
    }
    MK_TRY(mk_folder_make(dir, err));
    MK_TRY(write_config(m, opts->type, dir, err));
    if (!mk_source_is_gguf(m->src) && !same_folder(mk_source_path(m->src), dir)) {
        MK_TRY(copy_files(mk_source_path(m->src), dir, err));
    }
    MK_TRY(opts->files ? opts->files(opts->arg, dir, err) : MK_OK);
    mk_folder_job job = {.m = m, .opts = opts, .values = put_values};
    return mk_folder_write(&job, dir, err);
}
