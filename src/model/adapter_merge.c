// Merging: into float32 weights in memory, or into values on their way to a file.
#include <string.h>

#include "base/alloc.h"
#include "model/adapter_int.h"

void mk_adapters_merge(mk_adapters *s, mk_pool *pool) {
    MK_ASSERT(s->model->f32 && s->model->loaded);
    mk_adapters_detach(s);
    for (int64_t i = 0; i < s->n; i++) {
        mk_module *mod = &s->list[i];
        for (int h = 0; mod->rank > 0 && h < mod->n_w; h++) {
            mk_adapter_merge(s->k, pool, mod->w[h], &mod->ad[h]);
            if (mod->w[h]->master) {
                mk_weight_round(mod->w[h], pool);
            }
        }
    }
}

void mk_adapters_merge_into_files(mk_model *m, const mk_adapters *s) {
    MK_ASSERT(!s || s->model == m);
    m->merged = s;
}

// --- values on their way -------------------------------------------------------------------------

// The module of a row; rows that hold a half of kv_b_proj belong to its module.
static const mk_module *module_at(const mk_adapters *s, int layer, int row, int half) {
    for (int64_t i = 0; i < s->n; i++) {
        const mk_module *mod = &s->list[i];
        if (mod->layer == layer && mod->rank > 0 &&
            (mod->row == row || (half >= 0 && mod->n_w == 2))) {
            return mod;
        }
    }
    return NULL;
}

bool mk_adapters_change(const mk_adapters *s, int layer, int row, int half) {
    return layer >= 0 && module_at(s, layer, row, half) != NULL;
}

static mk_weight matrix_of(const mk_weight *w, int64_t mat) {
    mk_weight one = *w;
    one.data += (size_t)(w->n_mat == 1 ? 0 : mat) * w->mat_bytes;
    one.n_mat = 1;
    return one;
}

// Memory for one matrix that is being merged.
typedef struct {
    mk_weight packed;
    float *norm;
} place;

static mk_status open_place(place *p, int64_t n_out, int64_t n_in, mk_err *err) {
    mk_weight_src src = {.dtype = MK_DTYPE_F32, .n_mat = 1, .n_out = n_out, .n_in = n_in};
    MK_TRY(mk_weight_alloc(&src, &p->packed, err));
    p->norm = mk_try_alloc((size_t)(n_out > n_in ? n_out : n_in), sizeof *p->norm);
    return p->norm ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for lengths of rows");
}

static void close_place(place *p) {
    mk_weight_free(&p->packed);
    mk_free(p->norm);
}

// Rows of matrix `mat` that ad belongs to.
static void change_matrix(const mk_adapters *s, const mk_adapter *ad, int64_t mat, place *p,
                          float *rows, mk_pool *pool) {
    const mk_f32_shape shape = {p->packed.n_out, p->packed.n_in};
    float *packed = (float *)(void *)p->packed.data;
    mk_adapter one = *ad;
    one.a = matrix_of(&ad->a, mat);
    one.b = matrix_of(&ad->b, mat);
    one.norm = p->norm;
    mk_f32_pack(packed, rows, shape, pool);
    if (ad->magnitude) {
        one.magnitude += mat * (ad->of_columns ? shape.n_in : shape.n_out);
        mk_adapter_norms(s->k, pool, &p->packed, &one);
    }
    mk_adapter_merge(s->k, pool, &p->packed, &one);
    mk_f32_unpack(rows, packed, shape, pool);
}

// All heads of a half, or the one matrix `mat`.
static mk_status change(const mk_adapters *s, const mk_module *mod, int i, int64_t mat,
                        float *values, mk_pool *pool, mk_err *err) {
    const mk_weight *w = mod->w[i];
    bool heads = mod->n_w == 2;
    place p = {0};
    mk_status st = open_place(&p, w->n_out, w->n_in, err);
    for (int64_t h = 0; st == MK_OK && h < (heads ? w->n_mat : 1); h++) {
        change_matrix(s, &mod->ad[i], heads ? h : mat, &p, values + h * w->n_out * w->n_in, pool);
    }
    close_place(&p);
    return st;
}

// kv_b_proj as a whole: taken apart, changed, joined.
static mk_status change_joined(const mk_adapters *s, const mk_module *mod, float *values,
                               mk_pool *pool, mk_err *err) {
    const mk_arch *arch = s->model->arch;
    const mk_hparams *hp = &s->model->hp;
    float *part[2] = {NULL, NULL};
    mk_status st = MK_OK;
    for (int i = 0; i < 2 && st == MK_OK; i++) {
        const mk_weight *w = mod->w[i];
        part[i] = mk_try_alloc((size_t)(w->n_mat * w->n_out * w->n_in), sizeof(float));
        if (!part[i]) {
            st = MK_FAIL(err, MK_ENOMEM, "no memory for the halves of %s", mod->name);
            break;
        }
        arch->made[i].make(hp, values, part[i]);
        st = change(s, mod, i, 0, part[i], pool, err);
    }
    if (st == MK_OK) {
        arch->join(hp, part[0], part[1], values);
    }
    mk_free(part[0]);
    mk_free(part[1]);
    return st;
}

mk_status mk_adapters_apply(const mk_adapters *s, mk_value_at at, int half, float *values,
                            mk_pool *pool, mk_err *err) {
    const mk_module *mod = at.layer < 0 ? NULL : module_at(s, at.layer, at.row, half);
    if (!mod) {
        return MK_OK;
    }
    mk_pool *own = pool ? NULL : mk_pool_create(1);
    mk_pool *use = pool ? pool : own;
    mk_status st = half < 0 && mod->n_w == 2
                       ? change_joined(s, mod, values, use, err)
                       : change(s, mod, half < 0 ? 0 : half, at.mat, values, use, err);
    mk_pool_destroy(own);
    return st;
}
