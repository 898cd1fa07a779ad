// Writing adapters: PEFT's layout and GGUF.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/adapter_int.h"
#include "model/folder_int.h"

// A tensor of the file: a part of one matrix, or of all of a module's (GGUF).
typedef struct {
    const mk_module *mod;
    mk_part part;
    int64_t mat;
} item;

typedef struct {
    const mk_adapters *s;
    item *list;
    int64_t n, cap;
} job;

static mk_status add(job *j, const mk_module *mod, mk_part part, int64_t mat, mk_err *err) {
    if (j->n == j->cap) {
        int64_t cap = j->cap ? 2 * j->cap : 256;
        item *p = mk_try_realloc(j->list, (size_t)cap, sizeof *p);
        if (!p) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for a list of %lld tensors", (long long)cap);
        }
        j->list = p;
        j->cap = cap;
    }
    j->list[j->n++] = (item){mod, part, mat};
    return MK_OK;
}

static mk_status list_items(job *j, bool stacked, mk_err *err) {
    for (int64_t i = 0; i < j->s->n; i++) {
        const mk_module *mod = &j->s->list[i];
        for (int64_t mat = 0; mod->rank > 0 && mat < (stacked ? 1 : mod->n_mat); mat++) {
            MK_TRY(add(j, mod, MK_PART_A, mat, err));
            MK_TRY(add(j, mod, MK_PART_B, mat, err));
            MK_TRY(j->s->dora ? add(j, mod, MK_PART_M, mat, err) : MK_OK);
        }
    }
    return MK_OK;
}

// Rows of Llama's q and k are stored for interleaved rotation (bind.h).
static void permute_rows(const job *j, const item *it, float *rows, float *tmp) {
    const mk_module *mod = it->mod;
    unsigned flags = j->s->model->arch->tensors[mod->row].flags;
    int64_t hd = j->s->model->hp.d_head, n_col = mk_part_cols(mod, it->part);
    if (it->part != MK_PART_B || !(flags & (MK_T_PERMUTED_Q | MK_T_PERMUTED_K))) {
        return;
    }
    memcpy(tmp, rows, (size_t)(mod->n_out * n_col) * sizeof *rows);
    for (int64_t i = 0; i < mod->n_out; i++) {
        int64_t in_head = i % hd, from = i - in_head + in_head % 2 * (hd / 2) + in_head / 2;
        memcpy(rows + i * n_col, tmp + from * n_col, (size_t)n_col * sizeof *rows);
    }
}

static mk_status put(const job *j, const item *it, bool gguf, mk_writer *w, mk_err *err) {
    int64_t n = mk_part_rows(it->mod, it->part) * mk_part_cols(it->mod, it->part);
    int64_t end = gguf ? it->mod->n_mat : it->mat + 1;
    float *rows = mk_try_alloc((size_t)n, 2 * sizeof *rows);
    mk_status st =
        rows ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for %lld values", (long long)n);
    for (int64_t mat = gguf ? 0 : it->mat; st == MK_OK && mat < end; mat++) {
        mk_module_get(it->mod, it->part, mat, rows);
        if (gguf) {
            permute_rows(j, it, rows, rows + n);
        }
        st = mk_writer_write(w, rows, (size_t)n * sizeof *rows, err);
    }
    mk_free(rows);
    return st;
}

// --- PEFT: the configuration ---------------------------------------------------------------------

static const char *last_word(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

// Whether all modules of that last word have adapters.
static bool is_whole(const mk_adapters *s, const char *word) {
    for (int64_t i = 0; i < s->n; i++) {
        if (s->list[i].rank == 0 && strcmp(last_word(s->list[i].name), word) == 0) {
            return false;
        }
    }
    return true;
}

static void append_new(json_t *list, const char *text) {
    size_t i;
    json_t *have;
    json_array_foreach(list, i, have) {
        if (strcmp(json_string_value(have), text) == 0) {
            return;
        }
    }
    (void)json_array_append_new(list, json_string(text));
}

// PEFT adapts every module whose name ends in one of these: last words where all have adapters,
// else whole names.
static json_t *target_modules(const mk_adapters *s) {
    json_t *list = json_array();
    for (int64_t i = 0; i < s->n; i++) {
        const mk_module *mod = &s->list[i];
        if (mod->rank == 0) {
            continue;
        }
        if (is_whole(s, last_word(mod->name))) {
            append_new(list, last_word(mod->name));
            continue;
        }
        for (int64_t mat = 0; mat < mod->n_mat; mat++) {
            char name[MK_NAME_MAX];
            mk_module_name(s, mod, mat, name);
            (void)json_array_append_new(list, json_string(name));
        }
    }
    return list;
}

static json_t *number(double v) {
    return v <= floor(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_real(v);
}

// Modules that differ from the first: their ranks and alphas by name.
static void patterns(const mk_adapters *s, const mk_module *first, json_t *ranks, json_t *alphas) {
    for (int64_t i = 0; i < s->n; i++) {
        const mk_module *mod = &s->list[i];
        for (int64_t mat = 0; mod->rank > 0 && mat < mod->n_mat; mat++) {
            char name[MK_NAME_MAX];
            mk_module_name(s, mod, mat, name);
            if (mod->rank != first->rank) {
                (void)json_object_set_new(ranks, name, json_integer(mod->rank));
            }
            if (mod->alpha < first->alpha || mod->alpha > first->alpha) {
                (void)json_object_set_new(alphas, name, number(mod->alpha));
            }
        }
    }
}

static const mk_module *first_used(const mk_adapters *s) {
    for (int64_t i = 0; i < s->n; i++) {
        if (s->list[i].rank > 0) {
            return &s->list[i];
        }
    }
    return NULL;  // never: a set has an adapter
}

static json_t *make_config(const mk_adapters *s) {
    const mk_module *first = first_used(s);
    json_t *ranks = json_object(), *alphas = json_object();
    patterns(s, first, ranks, alphas);
    return json_pack("{s:s, s:s, s:s, s:I, s:o, s:f, s:o, s:o, s:o, s:b, s:b, s:b, s:b, s:s, s:n}",
                     "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path",
                     mk_source_path(s->model->src), "r", (json_int_t)first->rank, "lora_alpha",
                     number(first->alpha), "lora_dropout", 0.0, "target_modules", target_modules(s),
                     "rank_pattern", ranks, "alpha_pattern", alphas, "use_rslora", (int)s->rslora,
                     "use_dora", (int)s->dora, "fan_in_fan_out", 0, "inference_mode", 1, "bias",
                     "none", "modules_to_save");
}

typedef struct {
    mk_writer *w;
    mk_err *err;
    mk_status st;
} text_out;

static int put_text(const char *text, size_t n, void *arg) {
    text_out *t = arg;
    t->st = t->st == MK_OK ? mk_writer_write(t->w, text, n, t->err) : t->st;
    return t->st == MK_OK ? 0 : -1;
}

static mk_status write_config(const mk_adapters *s, const char *dir, mk_err *err) {
    char *path = mk_path_join(dir, "adapter_config.json");
    json_t *config = make_config(s);
    text_out t = {.err = err, .st = MK_OK};
    mk_status st = mk_writer_open(path, &t.w, err);
    mk_free(path);
    if (st == MK_OK) {
        bool ok = config && json_dump_callback(config, put_text, &t, JSON_INDENT(2)) == 0;
        st = t.st == MK_OK && !ok ? MK_FAIL(err, MK_EUNSUPPORTED,
                                            "%s: the configuration cannot be said in JSON", dir)
                                  : t.st;
        if (st == MK_OK) {
            st = mk_writer_commit(t.w, err);
        } else {
            mk_writer_abort(t.w);
        }
    }
    json_decref(config);
    return st;
}

// --- PEFT: the tensors ---------------------------------------------------------------------------

static mk_status fill_peft(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    const job *j = arg;
    return put(j, &j->list[i], false, w, err);
}

static mk_status write_tensors(job *j, const char *dir, mk_err *err) {
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight",
                                       ".lora_magnitude_vector"};
    mk_st_out *o = mk_st_out_create();
    for (int64_t i = 0; i < j->n; i++) {
        const item *it = &j->list[i];
        char name[MK_NAME_MAX], full[MK_NAME_MAX + 64];
        mk_module_name(j->s, it->mod, it->mat, name);
        snprintf(full, sizeof full, "base_model.model.%s%s", name, ends[it->part]);
        int64_t shape[2] = {mk_part_rows(it->mod, it->part), mk_part_cols(it->mod, it->part)};
        mk_st_out_tensor(o, full, MK_DTYPE_F32, it->part == MK_PART_M ? 1 : 2, shape);
    }
    char *path = mk_path_join(dir, "adapter_model.safetensors");
    mk_status st = mk_st_out_write(o, path, fill_peft, j, err);
    mk_free(path);
    mk_st_out_destroy(o);
    return st;
}

mk_status mk_adapters_write_folder(const mk_adapters *s, const char *dir, mk_err *err) {
    job j = {.s = s};
    MK_TRY(mk_folder_make(dir, err));
    mk_status st = list_items(&j, false, err);
    st = st == MK_OK ? write_config(s, dir, err) : st;
    st = st == MK_OK ? write_tensors(&j, dir, err) : st;
    mk_free(j.list);
    return st;
}

// --- GGUF ----------------------------------------------------------------------------------------

static mk_status fill_gguf(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    const job *j = arg;
    return put(j, &j->list[i], true, w, err);
}

// The file has one alpha, and readers divide it by each module's rank.
static mk_status one_alpha(const mk_adapters *s, double *alpha, mk_err *err) {
    const mk_module *first = first_used(s);
    for (int64_t i = 0; i < s->n; i++) {
        const mk_module *mod = &s->list[i];
        double a = s->rslora ? mod->alpha * sqrt((double)mod->rank) : mod->alpha;
        if (mod == first) {
            *alpha = a;
        }
        if (mod->rank > 0 && fabs(a - *alpha) > 1e-6 * fabs(*alpha)) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "module %s: alpha %g where others have %g; a GGUF adapter can say one "
                           "only: write a folder, or merge",
                           mod->name, a, *alpha);
        }
    }
    return MK_OK;
}

static void put_str(mk_gguf_out *o, const char *key, const char *s) {
    mk_gguf_out_str(o, key, s, strlen(s));
}

static void declare(const job *j, mk_gguf_out *o) {
    for (int64_t i = 0; i < j->n; i++) {
        const item *it = &j->list[i];
        char base[MK_NAME_MAX], name[MK_NAME_MAX + 16];
        mk_bind_name(base, j->s->model->arch->tensors[it->mod->row].gguf, it->mod->layer, 0);
        snprintf(name, sizeof name, "%s.lora_%c", base, it->part == MK_PART_A ? 'a' : 'b');
        int64_t shape[3] = {it->mod->n_mat, mk_part_rows(it->mod, it->part),
                            mk_part_cols(it->mod, it->part)};
        bool stack = it->mod->n_mat > 1;
        mk_gguf_out_tensor(o, name, MK_DTYPE_F32, stack ? 3 : 2, stack ? shape : shape + 1);
    }
}

mk_status mk_adapters_write_gguf(const mk_adapters *s, const char *path, mk_err *err) {
    job j = {.s = s};
    double alpha = 0;
    if (s->dora) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: GGUF adapters have no magnitudes (DoRA): write a folder, or merge",
                       path);
    }
    MK_TRY(one_alpha(s, &alpha, err));
    mk_status st = list_items(&j, true, err);
    mk_gguf_out *o = mk_gguf_out_create();
    put_str(o, "general.architecture", s->model->arch->gguf_arch[0]);
    put_str(o, "general.type", "adapter");
    put_str(o, "adapter.type", "lora");
    mk_gguf_out_f32(o, "adapter.lora.alpha", (float)alpha);
    declare(&j, o);
    st = st == MK_OK ? mk_gguf_out_write(o, path, fill_gguf, &j, err) : st;
    mk_gguf_out_destroy(o);
    mk_free(j.list);
    return st;
}
