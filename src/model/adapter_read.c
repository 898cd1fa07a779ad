// Reading adapters: PEFT folders and GGUF files to the parts of modules, checked by name and shape.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/adapter_int.h"

#define CONFIG_MAX_BYTES ((size_t)1 << 20)
#define PREFIX           "base_model.model."

// What a file has for one matrix of one module; in GGUF one entry holds all experts.
typedef struct {
    mk_module *mod;
    int64_t mat;
    char name[MK_NAME_MAX];  // of the module's matrix, as the file calls it
    const mk_tensor_view *part[MK_PART_N];
} entry;

typedef struct {
    const char *path;
    mk_adapters *s;
    entry *list;  // sorted by name
    int64_t n;
    bool stacked;   // experts are one tensor
    json_t *alpha;  // PEFT: alpha_pattern, or NULL
    double all_alpha;
    bool scale_is_one;  // GGUF without alpha
} reader;

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

// --- names ---------------------------------------------------------------------------------------

static void gguf_name(const reader *r, const mk_module *mod, char out[MK_NAME_MAX]) {
    mk_bind_name(out, r->s->model->arch->tensors[mod->row].gguf, mod->layer, 0);
}

static mk_status list_entries(reader *r, mk_err *err) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->s->n; i++) {
        n += r->stacked ? 1 : r->s->list[i].n_mat;
    }
    r->list = mk_try_alloc((size_t)n, sizeof *r->list);
    if (!r->list) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a list of %lld modules", (long long)n);
    }
    for (int64_t i = 0; i < r->s->n; i++) {
        mk_module *mod = &r->s->list[i];
        for (int64_t mat = 0; mat < (r->stacked ? 1 : mod->n_mat); mat++) {
            entry *e = &r->list[r->n++];
            *e = (entry){.mod = mod, .mat = mat};
            if (r->stacked) {
                gguf_name(r, mod, e->name);
            } else {
                mk_module_name(r->s, mod, mat, e->name);
            }
        }
    }
    qsort(r->list, (size_t)r->n, sizeof *r->list, by_name);
    return MK_OK;
}

// Puts a tensor called `name` + the end of a part into its entry.
static mk_status take(reader *r, const mk_tensor_view *v, const char *name, size_t n, mk_part part,
                      mk_err *err) {
    entry key = {0};
    snprintf(key.name, sizeof key.name, "%.*s", (int)(n < MK_NAME_MAX ? n : MK_NAME_MAX - 1), name);
    entry *e = bsearch(&key, r->list, (size_t)r->n, sizeof key, by_name);
    if (!e) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: tensor %s: the base %s has no linear layer \"%s\" that can be adapted",
                       r->path, v->name, mk_source_path(r->s->model->src), key.name);
    }
    if (!mk_dtype_is_float(v->dtype)) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: tensor %s: type %s cannot hold weights", r->path,
                       v->name, mk_dtype_get(v->dtype)->name);
    }
    e->part[part] = v;
    return MK_OK;
}

static bool ends_with(const char *s, const char *end, size_t *n) {
    size_t len = strlen(s), m = strlen(end);
    *n = len >= m ? len - m : 0;
    return len >= m && strcmp(s + *n, end) == 0;
}

static const struct {
    const char *end;
    mk_part part;
} peft_ends[] = {{".lora_A.weight", MK_PART_A},
                 {".lora_B.weight", MK_PART_B},
                 {".lora_magnitude_vector", MK_PART_M},
                 {".lora_magnitude_vector.weight", MK_PART_M}},
  gguf_ends[] = {{".lora_a", MK_PART_A}, {".lora_b", MK_PART_B}};

static mk_status take_peft(reader *r, const mk_tensor_view *v, mk_err *err) {
    bool prefixed = strncmp(v->name, PREFIX, strlen(PREFIX)) == 0;
    for (size_t i = 0; prefixed && i < sizeof peft_ends / sizeof peft_ends[0]; i++) {
        size_t n = 0;
        if (ends_with(v->name, peft_ends[i].end, &n) && n > strlen(PREFIX)) {
            return take(r, v, v->name + strlen(PREFIX), n - strlen(PREFIX), peft_ends[i].part, err);
        }
    }
    return MK_FAIL(err, MK_EUNSUPPORTED,
                   "%s: tensor %s: expected " PREFIX
                   "MODULE.lora_A.weight, .lora_B.weight or .lora_magnitude_vector; biases, "
                   "embeddings and modules that were trained as a whole are not read",
                   r->path, v->name);
}

static mk_status take_gguf(reader *r, const mk_tensor_view *v, mk_err *err) {
    for (size_t i = 0; i < sizeof gguf_ends / sizeof gguf_ends[0]; i++) {
        size_t n = 0;
        if (ends_with(v->name, gguf_ends[i].end, &n)) {
            return take(r, v, v->name, n, gguf_ends[i].part, err);
        }
    }
    return MK_FAIL(err, MK_EUNSUPPORTED,
                   "%s: tensor %s: expected names ending in .lora_a or .lora_b", r->path, v->name);
}

// --- shapes --------------------------------------------------------------------------------------

static mk_status check_part(const reader *r, const entry *e, mk_part part, int64_t rank,
                            mk_err *err) {
    const mk_tensor_view *v = e->part[part];
    const mk_module *mod = e->mod;
    bool stack = r->stacked && mod->n_mat > 1;
    int64_t want[3] = {mod->n_mat, part == MK_PART_A ? rank : mod->n_out,
                       part == MK_PART_A ? mod->n_in : rank};
    int n_dim = part == MK_PART_M ? 1 : 2;
    int64_t *first = want + 1;
    if (stack) {
        first = want;
        n_dim = 3;
    }
    mk_status st = mk_bind_check_shape(v, first, n_dim, err);
    if (st != MK_OK) {
        char what[256];
        snprintf(what, sizeof what, "%s: the adapter was made for another base", r->path);
        return mk_err_prefix(err, "%s", what);
    }
    return MK_OK;
}

// A and B, and magnitudes if the file's configuration says so; *rank is A's.
static mk_status check_entry(const reader *r, const entry *e, int64_t *rank, mk_err *err) {
    static const char *const what[] = {"A", "B", "magnitudes"};
    for (int p = 0; p < MK_PART_N; p++) {
        bool wanted = p != MK_PART_M || r->s->dora;
        if (wanted != (e->part[p] != NULL)) {
            return MK_FAIL(err, MK_ECORRUPT, "%s: module %s: %s %s", r->path, e->name, what[p],
                           wanted ? "is missing" : "without \"use_dora\" in adapter_config.json");
        }
    }
    const mk_tensor_view *a = e->part[MK_PART_A];
    *rank = a->n_dim >= 2 ? a->shape[a->n_dim - 2] : 0;
    if (*rank < 1 || *rank > MK_ADAPTER_MAX_RANK) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: tensor %s: rank %lld, expected 1 to %d (shape [rank, %lld])", r->path,
                       a->name, (long long)*rank, MK_ADAPTER_MAX_RANK, (long long)e->mod->n_in);
    }
    for (int p = 0; p < MK_PART_N; p++) {
        MK_TRY(e->part[p] ? check_part(r, e, (mk_part)p, *rank, err) : MK_OK);
    }
    return MK_OK;
}

// --- values --------------------------------------------------------------------------------------

// Rows of Llama's q and k in a GGUF file: pairs (i, i + half) of a head are neighbours there.
static void sort_rows(const reader *r, const mk_module *mod, float *rows, int64_t n_col,
                      float *tmp) {
    unsigned flags = r->s->model->arch->tensors[mod->row].flags;
    int64_t hd = r->s->model->hp.d_head;
    if (!r->stacked || !(flags & (MK_T_PERMUTED_Q | MK_T_PERMUTED_K))) {
        return;
    }
    memcpy(tmp, rows, (size_t)(mod->n_out * n_col) * sizeof *rows);
    for (int64_t i = 0; i < mod->n_out; i++) {
        int64_t in_head = i % hd, to = i - in_head + in_head % 2 * (hd / 2) + in_head / 2;
        memcpy(rows + to * n_col, tmp + i * n_col, (size_t)n_col * sizeof *rows);
    }
}

static mk_status set_part(const reader *r, const entry *e, mk_part part, int64_t mat, mk_err *err) {
    const mk_tensor_view *v = e->part[part];
    const mk_module *mod = e->mod;
    int64_t n_row = mk_part_rows(mod, part), n_col = mk_part_cols(mod, part), n = n_row * n_col;
    size_t bytes = v->n_bytes / (size_t)(r->stacked ? mod->n_mat : 1);
    size_t at = r->stacked ? (size_t)mat * bytes : 0, row = 0;
    if (!mk_dtype_row_bytes(v->dtype, v->shape[v->n_dim - 1], &row) || bytes % row != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: tensor %s: rows of type %s cannot be read",
                       r->path, v->name, mk_dtype_get(v->dtype)->name);
    }
    float *rows = mk_try_alloc((size_t)n, 2 * sizeof *rows);
    if (!rows) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %s", v->name);
    }
    mk_dtype_to_f32(v->dtype, v->data + at, n, rows);
    if (part == MK_PART_B) {
        sort_rows(r, mod, rows, n_col, rows + n);
    }
    mk_module_set(mod, part, mat, rows);
    mk_free(rows);
    return MK_OK;
}

static mk_status set_entry(const reader *r, const entry *e, mk_err *err) {
    int64_t first = r->stacked ? 0 : e->mat, end = r->stacked ? e->mod->n_mat : e->mat + 1;
    for (int p = 0; p < MK_PART_N; p++) {
        for (int64_t mat = first; e->part[p] && mat < end; mat++) {
            MK_TRY(set_part(r, e, (mk_part)p, mat, err));
        }
    }
    return MK_OK;
}

// --- alpha ---------------------------------------------------------------------------------------

// PEFT's rule: the first key that is the module's name or its end, whole words.
static mk_status alpha_of(const reader *r, const char *name, int64_t rank, double *out,
                          mk_err *err) {
    const char *key;
    json_t *value;
    *out = r->scale_is_one ? (double)rank : r->all_alpha;
    json_object_foreach(r->alpha, key, value) {
        const char *plain = key[0] == '^' ? key + 1 : key;
        size_t n = 0;
        if (strpbrk(plain, "*[](){}\\+?|$^")) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "%s: alpha_pattern \"%s\" is a regular expression; expected a module's "
                           "name or its end",
                           r->path, key);
        }
        bool match =
            ends_with(name, plain, &n) && (n == 0 || (key[0] != '^' && name[n - 1] == '.'));
        if (match && json_is_number(value)) {
            *out = json_number_value(value);
            return MK_OK;
        }
    }
    return MK_OK;
}

static mk_status start_module(reader *r, const entry *e, int64_t rank, mk_err *err) {
    mk_module *mod = e->mod;
    double alpha = 0;
    MK_TRY(alpha_of(r, e->name, rank, &alpha, err));
    if (mod->rank == 0) {
        return mk_module_start(r->s, mod, rank, alpha, err);
    }
    bool same = !(alpha < mod->alpha) && !(alpha > mod->alpha);
    if (mod->rank != rank || !same) {
        return MK_FAIL(
            err, MK_EUNSUPPORTED,
            "%s: module %s: rank %lld and alpha %g, other experts of its layer have %lld "
            "and %g; they must be alike",
            r->path, e->name, (long long)rank, alpha, (long long)mod->rank, mod->alpha);
    }
    return MK_OK;
}

// DoRA of some experts only: the others' rows keep their lengths, which are known when the base is.
static mk_status check_whole(const reader *r, mk_err *err) {
    for (int64_t i = 0; i < r->n && r->s->dora; i++) {
        const entry *e = &r->list[i];
        if (e->mod->rank > 0 && !e->part[MK_PART_M]) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "%s: module %s has no magnitudes, other experts of its layer do",
                           r->path, e->name);
        }
    }
    return MK_OK;
}

static mk_status fill(reader *r, mk_err *err) {
    int64_t n_used = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const entry *e = &r->list[i];
        if (e->part[MK_PART_A] || e->part[MK_PART_B] || e->part[MK_PART_M]) {
            int64_t rank = 0;
            MK_TRY(check_entry(r, e, &rank, err));
            MK_TRY(start_module(r, e, rank, err));
            MK_TRY(set_entry(r, e, err));
            n_used++;
        }
    }
    if (n_used == 0) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: no adapter in it; expected tensors %s", r->path,
                       r->stacked ? "NAME.lora_a and NAME.lora_b"
                                  : PREFIX "MODULE.lora_A.weight and .lora_B.weight");
    }
    return check_whole(r, err);
}

// --- PEFT ----------------------------------------------------------------------------------------

// Initialisations that change the base itself: their adapters mean nothing on the original.
static mk_status check_init(const reader *r, const json_t *config, mk_err *err) {
    static const char *const bad[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    const char *init = json_string_value(json_object_get(config, "init_lora_weights"));
    for (size_t i = 0; init && i < sizeof bad / sizeof bad[0]; i++) {
        if (strncmp(init, bad[i], strlen(bad[i])) == 0) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "%s: init_lora_weights is \"%s\", which changes the base as well; save "
                           "the adapter converted to plain LoRA",
                           r->path, init);
        }
    }
    return MK_OK;
}

// Values that would change what is computed, each with the only one that is read.
static mk_status check_config(const reader *r, const json_t *config, mk_err *err) {
    static const struct {
        const char *key, *only;
    } texts[] = {{"peft_type", "LORA"}, {"bias", "none"}};
    static const char *const flags[] = {"fan_in_fan_out", "lora_bias", "use_qalora"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *s = NULL;
        MK_TRY(mk_json_get_str(config, texts[i].key, &s, err));
        if (s && strcmp(s, texts[i].only) != 0) {
            return MK_FAIL(err, MK_EUNSUPPORTED, "%s: %s is \"%s\", expected \"%s\"", r->path,
                           texts[i].key, s, texts[i].only);
        }
    }
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool on = false;
        MK_TRY(mk_json_get_bool(config, flags[i], &on, err));
        if (on) {
            return MK_FAIL(err, MK_EUNSUPPORTED, "%s: %s is true, expected false", r->path,
                           flags[i]);
        }
    }
    return check_init(r, config, err);
}

static mk_status read_config(reader *r, const json_t *config, mk_err *err) {
    MK_TRY(check_config(r, config, err));
    int64_t rank = 0;
    r->all_alpha = -1;
    MK_TRY(mk_json_get_i64(config, "r", 1, MK_ADAPTER_MAX_RANK, &rank, err));
    MK_TRY(mk_json_get_f64(config, "lora_alpha", &r->all_alpha, err));
    MK_TRY(mk_json_get_bool(config, "use_rslora", &r->s->rslora, err));
    MK_TRY(mk_json_get_bool(config, "use_dora", &r->s->dora, err));
    if (rank == 0 || !(r->all_alpha >= 0)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: adapter_config.json must say r and lora_alpha >= 0",
                       r->path);
    }
    json_t *pattern = json_object_get(config, "alpha_pattern");
    r->alpha = json_is_object(pattern) ? pattern : NULL;
    return MK_OK;
}

static mk_status read_tensors(reader *r, const char *path, mk_err *err) {
    mk_safetensors *st = NULL;
    MK_TRY(mk_safetensors_open(path, &st, err));
    mk_status rc = list_entries(r, err);
    for (int64_t i = 0; rc == MK_OK && i < mk_safetensors_n_tensor(st); i++) {
        rc = take_peft(r, mk_safetensors_tensor(st, i), err);
    }
    rc = rc == MK_OK ? fill(r, err) : rc;
    mk_safetensors_close(st);
    return rc;
}

static mk_status read_peft(reader *r, mk_err *err) {
    char *config_path = mk_path_join(r->path, "adapter_config.json");
    char *path = mk_path_join(r->path, "adapter_model.safetensors");
    json_t *config = NULL;
    mk_status st = MK_OK;
    if (!mk_path_is_file(config_path) || !mk_path_is_file(path)) {
        st = MK_FAIL(
            err, MK_ENOTFOUND,
            "%s: expected adapter_config.json and adapter_model.safetensors in it (.bin files "
            "are not read), or a .gguf file",
            r->path);
    }
    st = st == MK_OK ? mk_json_file(config_path, CONFIG_MAX_BYTES, &config, err) : st;
    st = st == MK_OK ? read_config(r, config, err) : st;
    st = st == MK_OK ? read_tensors(r, path, err) : st;
    json_decref(config);
    mk_free(config_path);
    mk_free(path);
    return st;
}

// --- GGUF ----------------------------------------------------------------------------------------

static mk_status check_text(const reader *r, const mk_gguf *g, const char *key,
                            const char *const *want, mk_err *err) {
    mk_gguf_str s = {"", 0};
    MK_TRY(mk_gguf_get_str(g, key, &s, err));
    for (int i = 0; want[i]; i++) {
        if (s.n == strlen(want[i]) && memcmp(s.p, want[i], s.n) == 0) {
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUNSUPPORTED, "%s: %s is \"%.*s\", expected \"%s\"", r->path, key,
                   (int)(s.n < 64 ? s.n : 64), s.p, want[0]);
}

static mk_status read_open_gguf(reader *r, const mk_gguf *g, mk_err *err) {
    static const char *const type[] = {"adapter", NULL}, *const lora[] = {"lora", NULL};
    MK_TRY(check_text(r, g, "general.type", type, err));
    MK_TRY(check_text(r, g, "adapter.type", lora, err));
    MK_TRY(check_text(r, g, "general.architecture", r->s->model->arch->gguf_arch, err));
    if (mk_gguf_find(g, "adapter.alora.invocation_tokens") >= 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: adapters with invocation tokens are not read",
                       r->path);
    }
    MK_TRY(mk_gguf_get_f64(g, "adapter.lora.alpha", &r->all_alpha, err));
    r->scale_is_one = !(r->all_alpha > 0 || r->all_alpha < 0);
    r->stacked = true;
    MK_TRY(list_entries(r, err));
    for (int64_t i = 0; i < mk_gguf_n_tensor(g); i++) {
        MK_TRY(take_gguf(r, mk_gguf_tensor(g, i), err));
    }
    return fill(r, err);
}

static mk_status read_gguf(reader *r, mk_err *err) {
    mk_gguf *g = NULL;
    MK_TRY(mk_gguf_open(r->path, &g, err));
    mk_status st = read_open_gguf(r, g, err);
    mk_gguf_close(g);
    return st;
}

// --- either --------------------------------------------------------------------------------------

mk_status mk_adapters_read(mk_model *m, const char *path, double strength, mk_pool *pool,
                           mk_adapters **out, mk_err *err) {
    reader r = {.path = path};
    MK_TRY(mk_adapters_new(m, &r.s, err));
    r.s->strength = strength;
    mk_status st = mk_path_is_dir(path) ? read_peft(&r, err) : read_gguf(&r, err);
    st = st == MK_OK ? mk_adapters_finish(r.s, pool, err) : st;
    mk_free(r.list);
    if (st != MK_OK) {
        mk_adapters_destroy(r.s);
        return st;
    }
    *out = r.s;
    return MK_OK;
}
