// The list of parameters, made from the family's tensor table.
#include "model/params.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "model/bind.h"
#include "model/load.h"

// Addresses and names, sorted, each with its parameter.
typedef struct {
    const void *at;
    int64_t i;
} place;

struct mk_params_index {
    place *place;  // by address
    int64_t n_place;
    place *name;  // by text
};

// --- one parameter -------------------------------------------------------------------------------

// The table's name with * for the expert.
static char *name_of(const mk_tensor_row *row, int layer) {
    char pattern[MK_NAME_MAX], name[MK_NAME_MAX];
    size_t n = 0;
    for (const char *s = row->hf; *s && n + 1 < sizeof pattern; n++) {
        bool expert = strncmp(s, "{E}", 3) == 0;
        pattern[n] = expert ? '*' : *s;
        s += expert ? 3 : 1;
    }
    pattern[n] = 0;
    mk_bind_name(name, pattern, layer, 0);
    return mk_strdup(name);
}

static void fill_matrix(const mk_model *m, mk_param *p, mk_weight *w) {
    p->kind = MK_PARAM_MATRIX;
    p->w = w;
    p->n_mat = w->n_mat;
    p->n_out = w->n_out;
    p->n_in = w->n_in;
    p->n_float = w->n_mat * ((w->n_out + 15) / 16 * 16) * w->n_in;
    p->p = m->packed ? NULL : mk_weight_values(w);
}

static void fill_row(mk_model *m, mk_param *p, const mk_tensor_row *row, int layer) {
    char *base = layer < 0 ? (char *)&m->globals : (char *)&m->layer[layer];
    void *field = base + row->field;
    const mk_tensor_view *v = mk_model_binding(m, layer, p->row)->view[0];
    p->name = name_of(row, layer);
    p->is_lora_target = (row->flags & MK_T_LORA) != 0;
    switch (row->cls) {
    case MK_T_EMBED:
        p->kind = MK_PARAM_EMBED;
        p->p = m->embed_values;
        p->n_out = v->shape[0];
        p->n_in = v->shape[1];
        p->n_float = p->n_out * p->n_in;
        break;
    case MK_T_VECTOR:
        p->kind = MK_PARAM_VECTOR;
        p->p = *(float **)field;
        p->n_in = p->n_float = v->shape[v->n_dim - 1];
        p->is_norm_or_bias = true;
        p->is_select_bias = layer >= 0 && row->field == offsetof(mk_layer, router_bias);
        break;
    default:
        fill_matrix(m, p, field);
        p->is_router = row->cls == MK_T_LINEAR_F32;
        break;
    }
}

// --- the list ------------------------------------------------------------------------------------

// The next entry, in the order of the list; the same walk counts (list NULL) and fills.
typedef struct {
    mk_param *list;
    int64_t n;
} filler;

static mk_param *next(filler *f, int layer, int row) {
    mk_param *p = f->list ? &f->list[f->n] : NULL;
    f->n++;
    if (p) {
        *p = (mk_param){.n_mat = 1, .n_out = 1, .layer = layer, .row = row};
    }
    return p;
}

static void add_latent(mk_model *m, filler *f, int layer) {
    static const struct {
        size_t field;
        int row;
        const char *name;
    } half[] = {
        {offsetof(mk_layer, wk_b), MK_LOAD_ROW_K_B, "model.layers.{L}.self_attn.kv_b_proj.k"},
        {offsetof(mk_layer, wv_b), MK_LOAD_ROW_V_B, "model.layers.{L}.self_attn.kv_b_proj.v"},
    };
    for (size_t i = 0; i < 2; i++) {
        mk_param *p = next(f, layer, half[i].row);
        if (p) {
            char name[MK_NAME_MAX];
            mk_bind_name(name, half[i].name, layer, 0);
            p->name = mk_strdup(name);
            fill_matrix(m, p, (mk_weight *)(void *)((char *)&m->layer[layer] + half[i].field));
        }
    }
}

static void add_layer(mk_model *m, filler *f, int layer) {
    for (int i = 0; i < m->arch->n_tensors; i++) {
        const mk_tensor_row *row = &m->arch->tensors[i];
        bool there = mk_model_binding(m, layer, i)->n_view > 0 && row->cls != MK_T_CUSTOM;
        if (!there || (layer < 0 && mk_model_is_tied(m, i))) {
            continue;  // the output matrix of a tied model is found at the token table
        }
        mk_param *p = next(f, layer, i);
        if (p) {
            fill_row(m, p, row, layer);
        }
    }
    if (layer >= 0 && m->layer[layer].wk_b.n_mat > 0) {
        add_latent(m, f, layer);
    }
}

static void add_all(mk_model *m, filler *f) {
    for (int layer = -1; layer < mk_model_n_layer(m); layer++) {
        add_layer(m, f, layer);
    }
    bool tied = false;
    for (int i = 0; i < m->arch->n_tensors; i++) {
        tied = tied || mk_model_is_tied(m, i);
    }
    for (int64_t i = 0; f->list && i < f->n; i++) {
        mk_param *p = &f->list[i];
        p->n_value = p->n_mat * p->n_out * p->n_in;
        if (p->kind == MK_PARAM_EMBED && tied) {
            p->tied = true;
            p->w = &m->globals.output;
        }
    }
}

// --- finding -------------------------------------------------------------------------------------

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)((const place *)a)->at, y = (uintptr_t)((const place *)b)->at;
    return (x > y) - (x < y);
}

static int by_text(const void *a, const void *b) {
    return strcmp(((const place *)a)->at, ((const place *)b)->at);
}

static mk_status make_index(mk_params *ps, mk_err *err) {
    struct mk_params_index *x = ps->index;
    x->place = mk_try_alloc((size_t)ps->n, 2 * sizeof *x->place);
    x->name = mk_try_alloc((size_t)ps->n, sizeof *x->name);
    if (!x->place || !x->name) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for an index of %lld parameters",
                       (long long)ps->n);
    }
    for (int64_t i = 0; i < ps->n; i++) {
        const mk_param *p = &ps->list[i];
        x->name[i] = (place){p->name, i};
        if (p->w) {
            x->place[x->n_place++] = (place){p->w, i};
        }
        if (p->kind == MK_PARAM_VECTOR) {
            x->place[x->n_place++] = (place){p->p, i};
        } else if (p->kind == MK_PARAM_EMBED) {
            x->place[x->n_place++] = (place){ps->model->globals.embed->data, i};
        }
    }
    qsort(x->place, (size_t)x->n_place, sizeof *x->place, by_address);
    qsort(x->name, (size_t)ps->n, sizeof *x->name, by_text);
    return MK_OK;
}

const mk_param *mk_params_at(const mk_params *ps, const void *address) {
    place key = {address, 0};
    const place *at =
        bsearch(&key, ps->index->place, (size_t)ps->index->n_place, sizeof key, by_address);
    return at ? &ps->list[at->i] : NULL;
}

const mk_param *mk_params_named(const mk_params *ps, const char *name) {
    place key = {name, 0};
    const place *at = bsearch(&key, ps->index->name, (size_t)ps->n, sizeof key, by_text);
    return at ? &ps->list[at->i] : NULL;
}

// --- life ----------------------------------------------------------------------------------------

mk_status mk_params_wrap(mk_model *m, mk_param *list, int64_t n, mk_params **out, mk_err *err) {
    mk_params *ps = mk_zalloc(sizeof *ps);
    *ps = (mk_params){.list = list, .n = n, .model = m, .index = mk_zalloc(sizeof *ps->index)};
    mk_status st = make_index(ps, err);
    if (st != MK_OK) {
        mk_params_destroy(ps);
        return st;
    }
    *out = ps;
    return MK_OK;
}

mk_status mk_params_create(mk_model *m, mk_params **out, mk_err *err) {
    MK_ASSERT(m->loaded);
    filler fill = {NULL, 0};
    add_all(m, &fill);
    mk_param *list = mk_try_alloc((size_t)fill.n, sizeof *list);
    if (!list) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a list of %lld parameters",
                       (long long)fill.n);
    }
    fill = (filler){list, 0};
    add_all(m, &fill);
    return mk_params_wrap(m, list, fill.n, out, err);
}

void mk_params_destroy(mk_params *ps) {
    if (!ps) {
        return;
    }
    for (int64_t i = 0; i < ps->n; i++) {
        mk_free((char *)(uintptr_t)ps->list[i].name);
    }
    mk_free(ps->list);
    mk_free(ps->index->place);
    mk_free(ps->index->name);
    mk_free(ps->index);
    mk_free(ps);
}

// --- values --------------------------------------------------------------------------------------

void mk_params_refresh(const mk_params *ps, mk_pool *pool) {
    for (int64_t i = 0; i < ps->n; i++) {
        const mk_param *p = &ps->list[i];
        if (p->tied && p->p) {
            mk_f32_pack(mk_weight_values(p->w), p->p, (mk_f32_shape){p->n_out, p->n_in}, pool);
        }
        if (p->w && p->w->master) {
            mk_weight_round(p->w, pool);
        }
    }
    if (ps->follow) {
        ps->follow(ps->follow_arg, pool);
    }
}

static float *matrix_of(const mk_param *p, int64_t mat) {
    MK_ASSERT(p->p && mat >= 0 && mat < p->n_mat);
    return p->p + mat * (p->n_float / p->n_mat);
}

void mk_param_get(const mk_param *p, int64_t mat, float *rows, mk_pool *pool) {
    const float *from = matrix_of(p, mat);
    if (p->kind == MK_PARAM_MATRIX) {
        mk_f32_unpack(rows, from, (mk_f32_shape){p->n_out, p->n_in}, pool);
    } else {
        memcpy(rows, from, (size_t)p->n_float * sizeof *rows);
    }
}

void mk_param_set(const mk_param *p, int64_t mat, const float *rows, mk_pool *pool) {
    float *to = matrix_of(p, mat);
    if (p->kind == MK_PARAM_MATRIX) {
        mk_f32_pack(to, rows, (mk_f32_shape){p->n_out, p->n_in}, pool);
    } else {
        memcpy(to, rows, (size_t)p->n_float * sizeof *rows);
    }
}
