// Sets of adapters: modules, new adapters, parameters, attaching.
//
// Invariants
//  1. list holds every target of the family's table, in the order of layers and rows; a module with
//     rank 0 has no memory and no adapter;
//  2. weights of the model point to ad[] of modules with an adapter exactly while the set is
//     attached;
//  3. for halves (n_w = 2): ad[0].a is B's keys, transposed per head, ad[0].b is A transposed, one
//     for all heads; ad[1].a is A, one for all heads, ad[1].b is B's values.  ad[0].b follows ad[1].a
//     in `follow`.
#include "model/adapter.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "model/adapter_int.h"

#define PREFIX "base_model.model."

// --- modules -------------------------------------------------------------------------------------

void mk_module_name(const mk_adapters *s, const mk_module *mod, int64_t mat,
                    char out[MK_NAME_MAX]) {
    mk_bind_name(out, s->model->arch->tensors[mod->row].hf, mod->layer, mat);
    size_t n = strlen(out), end = strlen(".weight");
    if (n > end && strcmp(out + n - end, ".weight") == 0) {
        out[n - end] = 0;
    }
}

// With * for the expert.
static char *pattern_name(const mk_adapters *s, const mk_module *mod) {
    char name[MK_NAME_MAX];
    const char *hf = s->model->arch->tensors[mod->row].hf, *expert = strstr(hf, "{E}");
    mk_module_name(s, mod, 0, name);
    if (!expert) {
        return mk_strdup(name);
    }
    const char *end = strstr(name, ".experts.") + strlen(".experts.");
    char full[MK_NAME_MAX + 1];
    snprintf(full, sizeof full, "%.*s*%s", (int)(end - name), name, end + 1);
    return mk_strdup(full);
}

static bool fill_module(mk_model *m, int layer, int row, mk_module *mod) {
    const mk_tensor_row *r = &m->arch->tensors[row];
    mk_layer *l = &m->layer[layer];
    *mod = (mk_module){.layer = layer, .row = row, .n_w = 1};
    if (!(r->flags & MK_T_LORA) || !r->hf || (r->flags & MK_T_GLOBAL)) {
        return false;
    }
    if (r->cls == MK_T_CUSTOM) {  // kv_b_proj
        mod->n_w = 2;
        mod->w[0] = &l->wk_b;
        mod->w[1] = &l->wv_b;
        mod->n_mat = 1;
        mod->n_out = l->wk_b.n_mat * (l->wk_b.n_in + l->wv_b.n_out);
        mod->n_in = l->wv_b.n_in;
        return l->wk_b.n_mat > 0;
    }
    mk_weight *w = (mk_weight *)(void *)((char *)l + r->field);
    mod->w[0] = w;
    mod->n_mat = w->n_mat;
    mod->n_out = w->n_out;
    mod->n_in = w->n_in;
    return mk_model_binding(m, layer, row)->n_view > 0;
}

mk_status mk_adapters_new(mk_model *m, mk_adapters **out, mk_err *err) {
    mk_adapters *s = mk_zalloc(sizeof *s);
    s->model = m;
    s->strength = 1;
    mk_status st = mk_kernels_find("auto", &s->k, err);
    s->list = mk_try_alloc((size_t)(m->hp.n_layer * m->arch->n_tensors), sizeof *s->list);
    if (st == MK_OK && !s->list) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for a list of modules");
    }
    for (int layer = 0; st == MK_OK && layer < m->hp.n_layer; layer++) {
        for (int row = 0; row < m->arch->n_tensors; row++) {
            mk_module *mod = &s->list[s->n];
            if (fill_module(m, layer, row, mod)) {
                mod->name = pattern_name(s, mod);
                s->n++;
            }
        }
    }
    if (st != MK_OK) {
        mk_adapters_destroy(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

static mk_status alloc_matrix(mk_weight *w, int64_t n_mat, int64_t n_out, int64_t n_in,
                              mk_err *err) {
    mk_weight_src src = {.dtype = MK_DTYPE_F32, .n_mat = n_mat, .n_out = n_out, .n_in = n_in};
    return mk_weight_alloc(&src, w, err);  // zero
}

// Magnitudes of a half.
static int64_t n_length(const mk_module *mod, int half) {
    const mk_weight *w = mod->w[half];
    return w->n_mat * (mod->ad[half].of_columns ? w->n_in : w->n_out);
}

static mk_status alloc_lengths(mk_adapter *ad, int64_t n, mk_err *err) {
    ad->magnitude = mk_try_alloc((size_t)n, sizeof *ad->magnitude);
    ad->norm = mk_try_alloc((size_t)n, sizeof *ad->norm);
    return ad->magnitude && ad->norm
               ? MK_OK
               : MK_FAIL(err, MK_ENOMEM, "no memory for %lld magnitudes", (long long)n);
}

mk_status mk_module_start(const mk_adapters *s, mk_module *mod, int64_t rank, double alpha,
                          mk_err *err) {
    double by = s->rslora ? __builtin_sqrt((double)rank) : (double)rank;
    mod->rank = rank;
    mod->alpha = alpha;
    for (int i = 0; i < mod->n_w; i++) {
        const mk_weight *w = mod->w[i];
        mk_adapter *ad = &mod->ad[i];
        bool halves = mod->n_w == 2;
        ad->scale = (float)(alpha / by * s->strength);
        ad->of_columns = halves && i == 0;
        MK_TRY(alloc_matrix(&ad->a, halves && i == 1 ? 1 : w->n_mat, rank, w->n_in, err));
        MK_TRY(alloc_matrix(&ad->b, halves && i == 0 ? 1 : w->n_mat, w->n_out, rank, err));
        if (s->dora) {
            MK_TRY(alloc_lengths(ad, n_length(mod, i), err));
        }
    }
    return MK_OK;
}

static void free_module(mk_module *mod) {
    for (int i = 0; i < mod->n_w; i++) {
        mk_weight_free(&mod->ad[i].a);
        mk_weight_free(&mod->ad[i].b);
        mk_free(mod->ad[i].magnitude);
        mk_free(mod->ad[i].norm);
    }
    mk_free(mod->name);
}

void mk_adapters_destroy(mk_adapters *s) {
    if (!s) {
        return;
    }
    mk_adapters_detach(s);
    if (s->model->merged == s) {
        s->model->merged = NULL;
    }
    for (int64_t i = 0; i < s->n; i++) {
        free_module(&s->list[i]);
    }
    mk_params_destroy(s->params);
    mk_free(s->list);
    mk_free(s);
}

// --- values --------------------------------------------------------------------------------------

// Element of a packed matrix.
static float *element(const mk_weight *w, int64_t mat, int64_t o, int64_t i) {
    float *p = (float *)(void *)(w->data + (size_t)mat * w->mat_bytes);
    return p + (o / 16 * w->n_in + i) * 16 + o % 16;
}

int64_t mk_part_rows(const mk_module *mod, mk_part part) {
    return part == MK_PART_A ? mod->rank : mod->n_out;
}

int64_t mk_part_cols(const mk_module *mod, mk_part part) {
    return part == MK_PART_A ? mod->n_in : part == MK_PART_B ? mod->rank : 1;
}

// Where the model has what files have in row r, column c.
static float *place(const mk_module *mod, mk_part part, int64_t mat, int64_t r, int64_t c) {
    const mk_adapter *ad = mod->ad;
    if (mod->n_w == 1) {
        return part == MK_PART_A   ? element(&ad->a, mat, r, c)
               : part == MK_PART_B ? element(&ad->b, mat, r, c)
                                   : &ad->magnitude[mat * mod->n_out + r];
    }
    if (part == MK_PART_A) {
        return element(&ad[1].a, 0, r, c);
    }
    int64_t d_nope = mod->w[0]->n_in, d_v = mod->w[1]->n_out, head = r / (d_nope + d_v);
    int64_t in_head = r % (d_nope + d_v);
    if (in_head < d_nope) {
        return part == MK_PART_B ? element(&ad[0].a, head, c, in_head)
                                 : &ad[0].magnitude[head * d_nope + in_head];
    }
    in_head -= d_nope;
    return part == MK_PART_B ? element(&ad[1].b, head, in_head, c)
                             : &ad[1].magnitude[head * d_v + in_head];
}

void mk_module_get(const mk_module *mod, mk_part part, int64_t mat, float *rows) {
    int64_t n_row = mk_part_rows(mod, part), n_col = mk_part_cols(mod, part);
    for (int64_t r = 0; r < n_row; r++) {
        for (int64_t c = 0; c < n_col; c++) {
            rows[r * n_col + c] = *place(mod, part, mat, r, c);
        }
    }
}

void mk_module_set(const mk_module *mod, mk_part part, int64_t mat, const float *rows) {
    int64_t n_row = mk_part_rows(mod, part), n_col = mk_part_cols(mod, part);
    for (int64_t r = 0; r < n_row; r++) {
        for (int64_t c = 0; c < n_col; c++) {
            *place(mod, part, mat, r, c) = rows[r * n_col + c];
        }
    }
}

// --- what follows the values ---------------------------------------------------------------------

static void follow_lengths(const mk_adapters *s, mk_module *mod, mk_pool *pool) {
    for (int h = 0; h < mod->n_w; h++) {
        mk_adapter *ad = &mod->ad[h];
        mk_adapter_norms(s->k, pool, mod->w[h], ad);
        if (s->is_new) {
            memcpy(ad->magnitude, ad->norm, (size_t)n_length(mod, h) * sizeof *ad->norm);
        }
    }
}

static void follow(void *arg, mk_pool *pool) {
    mk_adapters *s = arg;
    bool lengths = s->dora && s->model->loaded;
    for (int64_t i = 0; i < s->n; i++) {
        mk_module *mod = &s->list[i];
        for (int64_t k = 0; mod->n_w == 2 && k < mod->rank; k++) {
            for (int64_t c = 0; c < mod->n_in; c++) {
                *element(&mod->ad[0].b, 0, c, k) = *element(&mod->ad[1].a, 0, k, c);
            }
        }
        if (mod->rank > 0 && lengths) {
            follow_lengths(s, mod, pool);
        }
    }
    s->is_new = s->is_new && !lengths;
}

// --- parameters ----------------------------------------------------------------------------------

typedef struct {
    mk_param *list;  // NULL: counting
    int64_t n;
} filler;

static char *param_name(const mk_module *mod, const char *end) {
    size_t n = strlen(PREFIX) + strlen(mod->name) + strlen(end) + 1;
    char *name = mk_alloc(n);
    snprintf(name, n, PREFIX "%s%s", mod->name, end);
    return name;
}

static mk_param *next(filler *f, const mk_module *mod, const char *end) {
    mk_param *p = f->list ? &f->list[f->n] : NULL;
    f->n++;
    if (p) {
        *p = (mk_param){.name = param_name(mod, end),
                        .n_mat = 1,
                        .n_out = 1,
                        .layer = mod->layer,
                        .row = mod->row};
    }
    return p;
}

static mk_param *add_matrix(filler *f, const mk_module *mod, mk_weight *w, const char *end) {
    mk_param *p = next(f, mod, end);
    if (p) {
        p->kind = MK_PARAM_MATRIX;
        p->w = w;
        p->p = (float *)(void *)w->data;
        p->n_mat = w->n_mat;
        p->n_out = w->n_out;
        p->n_in = w->n_in;
        p->n_float = w->n_mat * ((w->n_out + 15) / 16 * 16) * w->n_in;
        p->n_value = w->n_mat * w->n_out * w->n_in;
    }
    return p;
}

static void add_magnitude(filler *f, const mk_module *mod, int i, const char *end) {
    mk_param *p = mod->ad[i].magnitude ? next(f, mod, end) : NULL;
    if (p) {
        p->kind = MK_PARAM_VECTOR;
        p->p = mod->ad[i].magnitude;
        p->n_in = n_length(mod, i);
        p->n_float = p->n_value = p->n_in;
        p->is_norm_or_bias = true;  // lengths: they do not decay
    }
}

static void add_module(filler *f, mk_module *mod) {
    mk_adapter *ad = mod->ad;
    if (mod->rank == 0) {
        return;
    }
    if (mod->n_w == 1) {
        (void)add_matrix(f, mod, &ad->a, ".lora_A.weight");
        (void)add_matrix(f, mod, &ad->b, ".lora_B.weight");
        add_magnitude(f, mod, 0, ".lora_magnitude_vector");
        return;
    }
    mk_param *a = add_matrix(f, mod, &ad[1].a, ".lora_A.weight");
    if (a) {
        a->copy = &ad[0].b;
    }
    (void)add_matrix(f, mod, &ad[0].a, ".lora_B.k");
    (void)add_matrix(f, mod, &ad[1].b, ".lora_B.v");
    add_magnitude(f, mod, 0, ".lora_magnitude_vector.k");
    add_magnitude(f, mod, 1, ".lora_magnitude_vector.v");
}

mk_status mk_adapters_finish(mk_adapters *s, mk_pool *pool, mk_err *err) {
    filler fill = {NULL, 0};
    for (int64_t i = 0; i < s->n; i++) {
        add_module(&fill, &s->list[i]);
    }
    mk_param *list = mk_try_alloc((size_t)fill.n, sizeof *list);
    if (!list) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a list of %lld parameters",
                       (long long)fill.n);
    }
    fill = (filler){list, 0};
    for (int64_t i = 0; i < s->n; i++) {
        add_module(&fill, &s->list[i]);
    }
    MK_TRY(mk_params_wrap(s->model, list, fill.n, &s->params, err));
    s->params->follow = follow;
    s->params->follow_arg = s;
    follow(s, pool);
    return MK_OK;
}

// --- new adapters --------------------------------------------------------------------------------

// Whether `part` is one or more whole words of the name.
static bool has_words(const char *name, const char *part, size_t n) {
    for (size_t i = 0; name[i]; i++) {
        bool begins = i == 0 || name[i - 1] == '.';
        if (begins && strncmp(name + i, part, n) == 0 && (name[i + n] == '.' || !name[i + n])) {
            return true;
        }
    }
    return false;
}

// The next part of a list, without spaces around it; false at the end.
static bool next_part(const char **at, const char **part, size_t *n) {
    const char *p = *at + strspn(*at, ", ");
    *part = p;
    *n = strcspn(p, ",");
    *at = p + *n;
    while (*n > 0 && p[*n - 1] == ' ') {
        --*n;
    }
    return *n > 0;
}

static const char *last_word(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

static mk_status no_such_target(const mk_adapters *s, const char *part, size_t n, mk_err *err) {
    char known[512] = "";
    size_t len = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const char *word = last_word(s->list[i].name);
        const char *seen = strstr(known, word);
        bool whole = seen && (seen == known || seen[-1] == ' ') &&
                     (seen[strlen(word)] == ',' || !seen[strlen(word)]);
        if (!whole && len + strlen(word) + 3 < sizeof known) {
            len += (size_t)snprintf(known + len, sizeof known - len, "%s%s", len ? ", " : "", word);
        }
    }
    return MK_FAIL(err, MK_EUSAGE,
                   "target \"%.*s\": this model has no linear layer of that name; expected all, or "
                   "some of %s",
                   (int)n, part, known);
}

static bool is_target(const mk_module *mod, const char *targets) {
    const char *at = targets, *part;
    size_t n;
    while (next_part(&at, &part, &n)) {
        if ((n == 3 && strncmp(part, "all", n) == 0) || has_words(mod->name, part, n)) {
            return true;
        }
    }
    return false;
}

static mk_status check_targets(const mk_adapters *s, const char *targets, mk_err *err) {
    const char *at = targets, *part;
    size_t n;
    int64_t n_part = 0;
    for (; next_part(&at, &part, &n); n_part++) {
        bool found = n == 3 && strncmp(part, "all", n) == 0;
        for (int64_t i = 0; i < s->n && !found; i++) {
            found = has_words(s->list[i].name, part, n);
        }
        if (!found) {
            return no_such_target(s, part, n, err);
        }
    }
    return n_part > 0 ? MK_OK : no_such_target(s, targets, strlen(targets), err);
}

// Uniform in +-1/sqrt(n_in): PyTorch's and PEFT's kaiming_uniform(a = sqrt(5)).
static void init_a(const mk_adapters *s, const mk_module *mod, uint64_t seed) {
    double bound = 1 / __builtin_sqrt((double)mod->n_in);
    for (int64_t mat = 0; mat < mod->n_mat; mat++) {
        char name[MK_NAME_MAX];
        mk_module_name(s, mod, mat, name);
        uint64_t key = mk_hash64(name, strlen(name), seed);
        for (int64_t r = 0; r < mod->rank; r++) {
            for (int64_t c = 0; c < mod->n_in; c++) {
                double u = mk_rng_unit(key, (uint64_t)(r * mod->n_in + c));
                *place(mod, MK_PART_A, mat, r, c) = (float)(bound * (2 * u - 1));
            }
        }
    }
}

static mk_status check_spec(const mk_adapter_spec *spec, mk_err *err) {
    if (spec->rank < 1 || spec->rank > MK_ADAPTER_MAX_RANK) {
        return MK_FAIL(err, MK_EUSAGE, "rank is %lld, expected 1 to %d", (long long)spec->rank,
                       MK_ADAPTER_MAX_RANK);
    }
    if (!(spec->alpha >= 0 && spec->alpha <= 1e6)) {
        return MK_FAIL(err, MK_EUSAGE, "alpha is %g, expected 0 to 1e6", spec->alpha);
    }
    return MK_OK;
}

static mk_status create(mk_adapters *s, const mk_adapter_spec *spec, mk_pool *pool, mk_err *err) {
    const char *targets = spec->targets ? spec->targets : "all";
    double alpha = spec->alpha > 0 ? spec->alpha : 2 * (double)spec->rank;
    MK_TRY(check_targets(s, targets, err));
    s->rslora = spec->rslora;
    s->dora = spec->dora;
    for (int64_t i = 0; i < s->n; i++) {
        mk_module *mod = &s->list[i];
        if (is_target(mod, targets)) {
            MK_TRY(mk_module_start(s, mod, spec->rank, alpha, err));
            init_a(s, mod, spec->seed);
        }
    }
    s->is_new = true;
    return mk_adapters_finish(s, pool, err);
}

mk_status mk_adapters_create(mk_model *m, const mk_adapter_spec *spec, mk_pool *pool,
                             mk_adapters **out, mk_err *err) {
    mk_adapters *s = NULL;
    MK_TRY(check_spec(spec, err));
    MK_TRY(mk_adapters_new(m, &s, err));
    mk_status st = create(s, spec, pool, err);
    if (st != MK_OK) {
        mk_adapters_destroy(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

// --- use -----------------------------------------------------------------------------------------

static void point(const mk_adapters *s, bool on) {
    for (int64_t i = 0; i < s->n; i++) {
        mk_module *mod = &s->list[i];
        for (int h = 0; mod->rank > 0 && h < mod->n_w; h++) {
            mod->w[h]->adapter = on ? &mod->ad[h] : NULL;
        }
    }
}

void mk_adapters_attach(mk_adapters *s) {
    MK_ASSERT(!s->model->adapters || s->model->adapters == s);
    point(s, true);
    s->model->adapters = s;
    s->attached = true;
}

void mk_adapters_detach(mk_adapters *s) {
    if (s->attached) {
        point(s, false);
        s->model->adapters = NULL;
        s->attached = false;
    }
}

bool mk_adapters_is_attached(const mk_adapters *s) {
    return s->attached;
}

const mk_params *mk_adapters_params(const mk_adapters *s) {
    return s->params;
}

size_t mk_adapters_bytes(const mk_adapters *s) {
    size_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const mk_module *mod = &s->list[i];
        for (int h = 0; mod->rank > 0 && h < mod->n_w; h++) {
            const mk_adapter *ad = &mod->ad[h];
            n += ad->a.mat_bytes * (size_t)ad->a.n_mat + ad->b.mat_bytes * (size_t)ad->b.n_mat;
            n += ad->magnitude ? 2 * (size_t)n_length(mod, h) * sizeof(float) : 0;
        }
    }
    return n;
}

void mk_adapters_describe(const mk_adapters *s, char *out, size_t out_bytes) {
    const mk_module *first = NULL;
    int64_t n = 0;
    bool same = true;
    for (int64_t i = 0; i < s->n; i++) {
        const mk_module *mod = &s->list[i];
        if (mod->rank > 0) {
            first = first ? first : mod;
            same = same && mod->rank == first->rank;
            n++;
        }
    }
    snprintf(out, out_bytes, "%s%s, rank %s%lld, alpha %g, %lld modules", s->rslora ? "rs" : "",
             s->dora ? "DoRA" : "LoRA", same ? "" : "differs, first ",
             (long long)(first ? first->rank : 0), first ? first->alpha : 0, (long long)n);
}
