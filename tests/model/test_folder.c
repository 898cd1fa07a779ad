// Writing folders and GGUF files of models whose weights were changed, and new models.
#include <dirent.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "model/bind.h"
#include "model/export.h"
#include "model/folder.h"
#include "model/forward.h"
#include "model/params.h"
#include "torture.h"

#define GOLDEN "tests/golden/"

// --- places and models ---------------------------------------------------------------------------

typedef struct {
    char dir[40];
    char *folder, *gguf;
} place;

static place make_place(void) {
    place p = {.dir = "/tmp/mk_folder_XXXXXX"};
    assert_non_null(mkdtemp(p.dir));
    p.folder = mk_path_join(p.dir, "model");
    p.gguf = mk_path_join(p.dir, "model.gguf");
    return p;
}

static void remove_files(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        char *name = mk_path_join(path, e->d_name);
        (void)unlink(name);
        mk_free(name);
    }
    if (d) {
        closedir(d);
    }
    (void)rmdir(path);
}

static void drop_place(place *p) {
    remove_files(p->folder);
    (void)unlink(p->gguf);
    mk_free(p->folder);
    mk_free(p->gguf);
    assert_int_equal(rmdir(p->dir), 0);  // fails if a temporary file is left
}

static mk_model *open_model(const char *path) {
    mk_model *m = NULL;
    mk_err err = {0};
    if (mk_model_open(path, &m, &err) != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
    return m;
}

static mk_model *load(const char *path, bool f32, mk_pool *pool) {
    mk_model *m = open_model(path);
    mk_err err = {0};
    mk_status st = f32 ? mk_model_load_f32(m, pool, NULL, NULL, &err)
                       : mk_model_load(m, pool, NULL, NULL, &err);
    if (st != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
    return m;
}

static void save(const mk_model *m, const char *dir, mk_dtype type) {
    mk_err err = {0};
    if (mk_model_save_folder(m, dir, &(mk_save_opts){.type = type}, &err) != MK_OK) {
        fail_msg("%s: %s", dir, err.msg);
    }
}

static float *logits_of(const char *path, mk_pool *pool) {
    mk_model *m = load(path, false, pool);
    float *y = forward_logits(m, pool);
    mk_model_close(m);
    return y;
}

static size_t logits_bytes(const mk_model *m) {
    return (size_t)(FORWARD_TOK * m->hp.n_vocab) * sizeof(float);
}

static void init(const char *config, const char *dir, uint64_t seed) {
    mk_err err = {0};
    if (mk_model_init_folder(config, dir, seed, &err) != MK_OK) {
        fail_msg("%s: %s", config, err.msg);
    }
}

// --- what is written is what was there -----------------------------------------------------------

static float *values(const mk_model *m, const mk_tensor_view *v) {
    float *f = NULL;
    mk_err err = {0};
    if (mk_bind_to_f32(m, v, &f, &err) != MK_OK) {
        fail_msg("%s: %s", v->name, err.msg);
    }
    return f;
}

static int64_t n_element(const mk_tensor_view *v) {
    int64_t n = 1;
    for (int d = 0; d < v->n_dim; d++) {
        n *= v->shape[d];
    }
    return n;
}

// Every tensor of `got` is one of `want` (the folder a GGUF file was made of, or the source
// itself).
static void check_tensors(const char *got_path, const char *want_path, mk_dtype type) {
    mk_model *got = open_model(got_path), *want = open_model(want_path);
    assert_int_equal(mk_model_n_param(got), mk_model_n_param(want));
    for (int64_t i = 0; i < mk_source_n_tensor(got->src); i++) {
        const mk_tensor_view *g = mk_source_tensor(got->src, i),
                             *w = mk_source_find(want->src, g->name);
        if (!w || g->n_dim != w->n_dim || memcmp(g->shape, w->shape, sizeof g->shape) != 0) {
            fail_msg("%s: %s is not as in %s", got_path, g->name, want_path);
            return;
        }
        bool plain = g->n_dim == 1 || strstr(g->name, "mlp.gate.weight");
        assert_int_equal(g->dtype, plain ? MK_DTYPE_F32 : type);
        float *a = values(got, g), *b = values(want, w);
        for (int64_t k = 0; k < n_element(g); k++) {
            float x = g->dtype == MK_DTYPE_BF16 ? mk_f32_from_bf16(mk_bf16_from_f32(b[k])) : b[k];
            if (memcmp(&a[k], &x, sizeof x) != 0) {
                fail_msg("%s[%lld]: %a, expected %a", g->name, (long long)k, (double)a[k],
                         (double)x);
            }
        }
        mk_free(a);
        mk_free(b);
    }
    mk_model_close(got);
    mk_model_close(want);
}

static const struct {
    const char *source, *folder;
    bool f32;  // loaded for training, or not at all
    mk_dtype type;
} saved[] = {
    {"models/llama", "models/llama", false, MK_DTYPE_F32},
    {"models/llama", "models/llama", true, MK_DTYPE_BF16},
    {"models/llama3", "models/llama3", true, MK_DTYPE_F32},
    {"models/yi", "models/yi", true, MK_DTYPE_F32},
    {"models/qwen2", "models/qwen2", true, MK_DTYPE_F32},
    {"models/qwen2_tied", "models/qwen2_tied", true, MK_DTYPE_F32},
    {"models/deepseek_v2lite", "models/deepseek_v2lite", true, MK_DTYPE_F32},
    {"models/deepseek_v3", "models/deepseek_v3", true, MK_DTYPE_BF16},
    {"models/deepseek_v3-fp8", "models/deepseek_v3-fp8", true, MK_DTYPE_F32},
    {"models/deepseek_v3-fp8", "models/deepseek_v3-fp8", false, MK_DTYPE_F32},
    {"models/deepseek_v3_mtp", "models/deepseek_v3_mtp", false, MK_DTYPE_F32},
    {"models/llama-bf16", "models/llama-bf16", true, MK_DTYPE_BF16},
    {"gguf/llama-f32.gguf", "models/llama", false, MK_DTYPE_F32},
    {"gguf/llama-f32.gguf", "models/llama", true, MK_DTYPE_F32},
    {"gguf/llama3-f32.gguf", "models/llama3", false, MK_DTYPE_F32},
    {"gguf/yi-f32-00001-of-00002.gguf", "models/yi", true, MK_DTYPE_F32},
    {"gguf/qwen2-f32.gguf", "models/qwen2", true, MK_DTYPE_F32},
    {"gguf/deepseek_v2lite-a-f32.gguf", "models/deepseek_v2lite", false, MK_DTYPE_F32},
    {"gguf/deepseek_v2-b-f32.gguf", "models/deepseek_v2", true, MK_DTYPE_F32},
    {"gguf/deepseek_v3-c-f32.gguf", "models/deepseek_v3", false, MK_DTYPE_F32},
    {"gguf/deepseek_v3-c-f32.gguf", "models/deepseek_v3", true, MK_DTYPE_F32},
};

static void test_saved_tensors(void **state) {
    (void)state;
    mk_pool *pool = mk_pool_create(2);
    for (size_t i = 0; i < sizeof saved / sizeof saved[0]; i++) {
        place p = make_place();
        char path[256], want[256];
        snprintf(path, sizeof path, GOLDEN "%s", saved[i].source);
        snprintf(want, sizeof want, GOLDEN "%s", saved[i].folder);
        mk_model *m = saved[i].f32 ? load(path, true, pool) : open_model(path);
        save(m, p.folder, saved[i].type);
        check_tensors(p.folder, want, saved[i].type);
        if (saved[i].type == MK_DTYPE_F32 && !strstr(saved[i].source, "fp8")) {
            float *a = logits_of(p.folder, pool), *b = logits_of(want, pool);
            if (memcmp(a, b, logits_bytes(m)) != 0) {
                fail_msg("%s: other logits than %s", saved[i].source, want);
            }
            mk_free(a);
            mk_free(b);
        }
        mk_model_close(m);
        drop_place(&p);
    }
    mk_pool_destroy(pool);
}

// config.json says what it said, but for the type; what lies beside it is there.
static void test_saved_files(void **state) {
    (void)state;
    place p = make_place();
    mk_err err = {0};
    mk_model *m = open_model(GOLDEN "models/deepseek_v3-fp8");
    save(m, p.folder, MK_DTYPE_BF16);
    json_t *got = NULL, *want = json_deep_copy(mk_source_config(m->src));
    char *path = mk_path_join(p.folder, "config.json");
    assert_int_equal(mk_json_file(path, 1 << 20, &got, &err), MK_OK);
    assert_non_null(json_object_get(want, "quantization_config"));
    assert_string_equal(json_string_value(json_object_get(got, "torch_dtype")), "bfloat16");
    json_object_del(want, "quantization_config");
    json_object_set_new(want, "torch_dtype", json_string("bfloat16"));
    assert_true(json_equal(got, want));
    json_decref(got);
    json_decref(want);
    mk_free(path);
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja", "generation_config.json"};
    for (size_t i = 0; i < 4; i++) {
        char *a = mk_path_join(p.folder, names[i]),
             *b = mk_path_join(GOLDEN "models/deepseek_v3-fp8", names[i]), *x = NULL, *y = NULL;
        size_t n = 0, n_want = 0;
        assert_int_equal(mk_file_read(a, 1 << 20, &x, &n, &err), MK_OK);
        assert_int_equal(mk_file_read(b, 1 << 20, &y, &n_want, &err), MK_OK);
        assert_int_equal(n, n_want);
        assert_memory_equal(x, y, n);
        mk_free(a);
        mk_free(b);
        mk_free(x);
        mk_free(y);
    }
    mk_model_close(m);
    drop_place(&p);
}

// --- changed weights -----------------------------------------------------------------------------

static void change(mk_model *m, mk_pool *pool) {
    mk_params *ps = NULL;
    mk_err err = {0};
    assert_int_equal(mk_params_create(m, &ps, &err), MK_OK);
    for (int64_t i = 0; i < ps->n; i++) {
        for (int64_t k = 0; k < ps->list[i].n_float; k++) {
            ps->list[i].p[k] *= 0.75f + 0.5f * (float)mk_rng_unit((uint64_t)i, (uint64_t)k);
        }
    }
    mk_params_refresh(ps, pool);
    mk_params_destroy(ps);
}

static void export(const mk_model *m, mk_dtype type, const char *path) {
    mk_err err = {0};
    if (mk_export_gguf(m, &(mk_export_opts){.type = type, .name = "t"}, path, &err) != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
}

// A trained model gives the same logits in memory, from its folder, from its GGUF file, and from a
// GGUF file of its folder.
static void test_changed(void **state) {
    (void)state;
    static const char *const sources[] = {"models/llama",
                                          "models/llama3-bf16",
                                          "models/qwen2_tied",
                                          "models/deepseek_v2",
                                          "models/deepseek_v3-fp8",
                                          "gguf/llama-f32.gguf",
                                          "gguf/qwen2-q4_0.gguf",
                                          "gguf/llama3-q8_0.gguf",
                                          "gguf/deepseek_v2lite-a-q4_0.gguf",
                                          "gguf/deepseek_v2-b-f32.gguf",
                                          "gguf/deepseek_v3-c-q4_0.gguf"};
    mk_pool *pool = mk_pool_create(2);
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        place p = make_place();
        char path[256];
        snprintf(path, sizeof path, GOLDEN "%s", sources[i]);
        mk_model *m = load(path, true, pool);
        float *before = forward_logits(m, pool);
        change(m, pool);
        float *want = forward_logits(m, pool);
        assert_true(memcmp(before, want, logits_bytes(m)) != 0);
        save(m, p.folder, MK_DTYPE_F32);
        export(m, MK_DTYPE_F32, p.gguf);
        float *folder = logits_of(p.folder, pool), *gguf = logits_of(p.gguf, pool);
        mk_model *again = open_model(p.folder);
        export(again, MK_DTYPE_N, p.gguf);
        mk_model_close(again);
        float *twice = logits_of(p.gguf, pool);
        // the frequencies in this file are rounded, those of a configuration are not
        bool rounded = strstr(sources[i], "gguf/llama3") != NULL;
        bool same = memcmp(want, gguf, logits_bytes(m)) == 0 &&
                    memcmp(folder, twice, logits_bytes(m)) == 0 &&
                    (rounded || memcmp(want, folder, logits_bytes(m)) == 0);
        for (size_t k = 0; k < logits_bytes(m) / sizeof *want && same; k++) {
            same = fabsf(want[k] - folder[k]) < 1e-4f * (1 + fabsf(want[k]));
        }
        if (!same) {
            fail_msg("%s: other logits", sources[i]);
        }
        mk_free(before);
        mk_free(want);
        mk_free(folder);
        mk_free(gguf);
        mk_free(twice);
        mk_model_close(m);
        drop_place(&p);
    }
    mk_pool_destroy(pool);
}

// Types of a trained GGUF file: kept where minke can make them.
static void test_exported_types(void **state) {
    (void)state;
    static const struct {
        const char *source;
        mk_dtype type, want, narrow;  // narrow: of rows without whole blocks
    } rows[] = {
        {"gguf/llama-q8_0.gguf", MK_DTYPE_N, MK_DTYPE_Q8_0, MK_DTYPE_F16},
        {"gguf/llama-q4_0.gguf", MK_DTYPE_N, MK_DTYPE_Q8_0, MK_DTYPE_F16},
        {"gguf/llama-bf16.gguf", MK_DTYPE_N, MK_DTYPE_BF16, MK_DTYPE_BF16},
        {"gguf/deepseek_v3-c-q4_0.gguf", MK_DTYPE_BF16, MK_DTYPE_BF16, MK_DTYPE_BF16},
        {"models/llama", MK_DTYPE_Q8_0, MK_DTYPE_Q8_0, MK_DTYPE_F16},
    };
    mk_pool *pool = mk_pool_create(1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        place p = make_place();
        char path[256];
        snprintf(path, sizeof path, GOLDEN "%s", rows[i].source);
        mk_model *m = load(path, true, pool);
        change(m, pool);
        export(m, rows[i].type, p.gguf);
        mk_model *back = load(p.gguf, true, pool);
        mk_params *a = NULL, *b = NULL;
        assert_int_equal(mk_params_create(m, &a, NULL), MK_OK);
        assert_int_equal(mk_params_create(back, &b, NULL), MK_OK);
        for (int64_t k = 0; k < mk_source_n_tensor(back->src); k++) {
            const mk_tensor_view *v = mk_source_tensor(back->src, k);
            bool exact = v->n_dim == 1 || strstr(v->name, "ffn_gate_inp");
            bool narrow = v->shape[v->n_dim - 1] % 32 != 0;
            assert_int_equal(v->dtype, exact    ? MK_DTYPE_F32
                                       : narrow ? rows[i].narrow
                                                : rows[i].want);
        }
        assert_int_equal(a->n, b->n);
        for (int64_t k = 0; k < a->n; k++) {  // Q8_0: half a step of max/127, rounded to f16
            const mk_param *x = &a->list[k], *y = &b->list[k];
            float most = 0, off = 0;
            for (int64_t e = 0; e < x->n_float; e++) {
                most = fmaxf(most, fabsf(x->p[e]));
                off = fmaxf(off, fabsf(x->p[e] - y->p[e]));
            }
            if (off > most / 225) {
                fail_msg("%s: %s is off by %g of %g", rows[i].source, x->name, (double)off,
                         (double)most);
            }
        }
        mk_params_destroy(a);
        mk_params_destroy(b);
        mk_model_close(back);
        mk_model_close(m);
        drop_place(&p);
    }
    mk_pool_destroy(pool);
}

// --- what goes wrong -----------------------------------------------------------------------------

static mk_status stop(void *arg, uint64_t done, uint64_t total) {
    (void)arg;
    return done > total / 2 ? MK_EINTR : MK_OK;
}

static void test_refused(void **state) {
    (void)state;
    place p = make_place();
    mk_model *m = open_model(GOLDEN "models/llama");
    mk_err err = {0};
    mk_save_opts o = {.type = MK_DTYPE_Q8_0};
    assert_int_equal(mk_model_save_folder(m, p.folder, &o, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "Q8_0"));
    o.type = MK_DTYPE_F32;
    assert_int_equal(mk_model_save_folder(m, "/nowhere/at/all", &o, &err), MK_ENOTFOUND);
    o.step = stop;
    assert_int_equal(mk_model_save_folder(m, p.folder, &o, &err), MK_EINTR);
    char *file = mk_path_join(p.folder, "model.safetensors"),
         *index = mk_path_join(p.folder, "model.safetensors.index.json");
    assert_false(mk_path_is_file(file));
    FILE *f = fopen(index, "wb");
    assert_true(f && fclose(f) == 0);
    o.step = NULL;
    assert_int_equal(mk_model_save_folder(m, p.folder, &o, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "index.json"));
    assert_false(mk_path_is_file(file));
    mk_free(file);
    mk_free(index);
    mk_model_close(m);
    drop_place(&p);
}

typedef struct {
    const mk_model *m;
    const place *p;
} save_args;

static mk_status save_scenario(void *arg, mk_err *err) {
    const save_args *a = arg;
    MK_TRY(mk_model_save_folder(a->m, a->p->folder, &(mk_save_opts){.type = MK_DTYPE_BF16}, err));
    return mk_export_gguf(a->m, &(mk_export_opts){.type = MK_DTYPE_Q8_0}, a->p->gguf, err);
}

static mk_status init_scenario(void *arg, mk_err *err) {
    return mk_model_init_folder(GOLDEN "models/qwen2", arg, 1, err);
}

// A layer with few experts, because every allocation is a run that writes files.
static void small_model(const char *dir) {
    json_t *config = NULL;
    mk_err err = {0};
    char path[256];
    assert_int_equal(mk_json_file(GOLDEN "models/deepseek_v2/config.json", 1 << 20, &config, &err),
                     MK_OK);
    json_object_set_new(config, "num_hidden_layers", json_integer(1));
    json_object_set_new(config, "first_k_dense_replace", json_integer(0));
    json_object_set_new(config, "n_routed_experts", json_integer(2));
    json_object_set_new(config, "num_experts_per_tok", json_integer(1));
    json_object_set_new(config, "topk_group", json_integer(1));
    json_object_set_new(config, "n_group", json_integer(1));
    snprintf(path, sizeof path, "%s.json", dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    init(path, dir, 1);
    assert_int_equal(unlink(path), 0);
}

static void test_no_memory(void **state) {
    (void)state;
    place p = make_place(), q = make_place();
    small_model(q.folder);
    mk_pool *pool = mk_pool_create(1);
    mk_model *m = load(q.folder, true, pool);
    save_args a = {m, &p};
    assert_true(mk_torture(save_scenario, &a) > 30);
    assert_true(mk_torture(init_scenario, p.folder) > 2);
    mk_model_close(m);
    mk_pool_destroy(pool);
    drop_place(&p);
    drop_place(&q);
}

// --- new models ----------------------------------------------------------------------------------

// A new model has the tensors that transformers gave the golden one, and runs.
static void test_new_tensors(void **state) {
    (void)state;
    static const char *const names[] = {"llama",           "llama3",      "qwen2",
                                        "qwen2_tied",      "deepseek_v2", "deepseek_v2lite",
                                        "deepseek_v3-bf16"};
    mk_pool *pool = mk_pool_create(2);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        place p = make_place();
        char path[256];
        snprintf(path, sizeof path, GOLDEN "models/%s", names[i]);
        init(path, p.folder, 7);
        mk_model *a = load(p.folder, false, pool), *b = open_model(path);
        assert_int_equal(mk_source_n_tensor(a->src), mk_source_n_tensor(b->src));
        for (int64_t k = 0; k < mk_source_n_tensor(a->src); k++) {
            const mk_tensor_view *v = mk_source_tensor(a->src, k),
                                 *w = mk_source_find(b->src, v->name);
            assert_true(w && v->dtype == MK_DTYPE_F32 && v->n_dim == w->n_dim &&
                        memcmp(v->shape, w->shape, sizeof v->shape) == 0);
        }
        float *y = forward_logits(a, pool);
        for (int64_t k = 0; k < FORWARD_TOK * a->hp.n_vocab; k++) {
            assert_true(isfinite(y[k]));
        }
        mk_free(y);
        mk_model_close(a);
        mk_model_close(b);
        drop_place(&p);
    }
    mk_pool_destroy(pool);
}

static float expected_range(const mk_model *m, const char *name) {
    bool residual = strstr(name, ".o_proj.") || strstr(name, ".down_proj.");
    return residual ? 0.02f / sqrtf(2.0f * (float)m->hp.n_layer) : 0.02f;
}

// Mean and deviation of every matrix, and the share beyond two deviations (4.55 % of a normal one);
// bounds are five standard errors.
static void test_distribution(void **state) {
    (void)state;
    place p = make_place();
    init(GOLDEN "models/deepseek_v3", p.folder, 1);
    mk_model *m = open_model(p.folder);
    double total = 0, beyond = 0;
    for (int64_t i = 0; i < mk_source_n_tensor(m->src); i++) {
        const mk_tensor_view *v = mk_source_tensor(m->src, i);
        int64_t n = n_element(v);
        float *x = values(m, v);
        double sum = 0, sum2 = 0, range = (double)expected_range(m, v->name);
        for (int64_t k = 0; k < n; k++) {
            double z = (double)x[k] / range;
            sum += z;
            sum2 += z * z;
            beyond += v->n_dim == 2 && fabs(z) > 2;
            assert_true(v->n_dim == 2 || x[k] == (strstr(v->name, "bias") ? 0.0f : 1.0f));
        }
        double mean = sum / (double)n, dev = sqrt(sum2 / (double)n - mean * mean);
        if (v->n_dim == 2 &&
            (fabs(mean) > 5 / sqrt((double)n) || fabs(dev - 1) > 5 / sqrt(2 * (double)n))) {
            fail_msg("%s: mean %g, deviation %g", v->name, mean, dev);
        }
        total += v->n_dim == 2 ? (double)n : 0;
        mk_free(x);
    }
    double share = beyond / total, error = sqrt(0.0455 * 0.9545 / total);
    assert_true(fabs(share - 0.0455) < 5 * error);
    mk_model_close(m);
    drop_place(&p);
}

// A value depends on seed, name and index alone: not on how many layers there are, nor where a
// tensor lies.
static void test_same_values(void **state) {
    (void)state;
    place p = make_place(), q = make_place();
    mk_err err = {0};
    json_t *config = NULL;
    char *path = mk_path_join(q.dir, "small.json");
    assert_int_equal(mk_json_file(GOLDEN "models/qwen2/config.json", 1 << 20, &config, &err),
                     MK_OK);
    json_object_set_new(config, "num_hidden_layers", json_integer(1));
    json_object_set_new(config, "vocab_size", json_integer(400));
    json_object_set_new(config, "tie_word_embeddings", json_true());
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    init(GOLDEN "models/qwen2/config.json", p.folder, 3);
    init(path, q.folder, 3);
    mk_model *a = open_model(p.folder), *b = open_model(q.folder);
    assert_null(mk_source_find(b->src, "lm_head.weight"));
    int n_same = 0;
    for (int64_t i = 0; i < mk_source_n_tensor(b->src); i++) {
        const mk_tensor_view *v = mk_source_tensor(b->src, i), *w = mk_source_find(a->src, v->name);
        size_t n = w->n_bytes < v->n_bytes ? w->n_bytes : v->n_bytes;
        bool residual = strstr(v->name, "o_proj") || strstr(v->name, "down_proj");
        assert_true((memcmp(v->data, w->data, n) == 0) != residual);  // scaled by the layers
        n_same += !residual;
    }
    assert_int_equal(n_same, 1 + 1 + 5 + 2 + 3);
    init(path, p.folder, 4);  // another seed, over the old files
    mk_model *c = open_model(p.folder);
    const mk_tensor_view *v = mk_source_find(c->src, "model.embed_tokens.weight"),
                         *w = mk_source_find(b->src, v->name);
    assert_true(memcmp(v->data, w->data, v->n_bytes) != 0);
    assert_int_equal(mk_hash64(w->data, w->n_bytes, 0), UINT64_C(0xD5BE87A0B5CE913C));
    mk_model_close(a);
    mk_model_close(b);
    mk_model_close(c);
    (void)unlink(path);
    mk_free(path);
    drop_place(&p);
    drop_place(&q);
}

static void test_bad_configs(void **state) {
    (void)state;
    static const struct {
        const char *base, *key, *value;
        mk_status want;
        const char *says;
    } rows[] = {
        {"llama", "mlp_bias", "true", MK_EUNSUPPORTED, "mlp_bias"},
        {"deepseek_v3", "attention_bias", "true", MK_EUNSUPPORTED, "attention_bias"},
        {"llama", "attention_bias", "1", MK_ECORRUPT, "attention_bias"},
        {"llama", "initializer_range", "-1", MK_ECORRUPT, "initializer_range"},
        {"llama", "vocab_size", NULL, MK_ECORRUPT, "embed_tokens"},
        {"llama", "architectures", "[\"Nobody\"]", MK_EUNSUPPORTED, "Nobody"},
        {"llama", "num_hidden_layers", "0", MK_ECORRUPT, "num_hidden_layers"},
    };
    place p = make_place();
    char *path = mk_path_join(p.dir, "config.json");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char from[256];
        mk_err err = {0};
        json_t *config = NULL;
        snprintf(from, sizeof from, GOLDEN "models/%s/config.json", rows[i].base);
        assert_int_equal(mk_json_file(from, 1 << 20, &config, &err), MK_OK);
        json_object_del(config, rows[i].key);
        if (rows[i].value) {
            json_object_set_new(config, rows[i].key,
                                json_loads(rows[i].value, JSON_DECODE_ANY, NULL));
        }
        assert_int_equal(json_dump_file(config, path, 0), 0);
        json_decref(config);
        mk_status st = mk_model_init_folder(path, p.folder, 1, &err);
        if (st != rows[i].want || !strstr(err.msg, rows[i].says)) {
            fail_msg("%s: %s: %s", rows[i].key, mk_status_name(st), err.msg);
        }
        assert_false(mk_path_is_dir(p.folder));
    }
    (void)unlink(path);
    mk_free(path);
    drop_place(&p);
}

// Llama's optional biases: asked for, they are there, and zero.
static void test_new_biases(void **state) {
    (void)state;
    place p = make_place();
    mk_err err = {0};
    json_t *config = NULL;
    char *path = mk_path_join(p.dir, "config.json");
    assert_int_equal(mk_json_file(GOLDEN "models/llama/config.json", 1 << 20, &config, &err),
                     MK_OK);
    json_object_set_new(config, "attention_bias", json_true());
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    init(path, p.folder, 1);
    mk_model *m = open_model(p.folder);
    static const char *const names[] = {"q", "k", "v", "o"};
    for (size_t i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.1.self_attn.%s_proj.bias", names[i]);
        const mk_tensor_view *v = mk_source_find(m->src, name);
        float *x = v ? values(m, v) : NULL;
        assert_true(x && x[0] == 0 && x[v->shape[0] - 1] == 0);
        mk_free(x);
    }
    mk_model_close(m);
    (void)unlink(path);
    mk_free(path);
    drop_place(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_tensors), cmocka_unit_test(test_saved_files),
        cmocka_unit_test(test_changed),       cmocka_unit_test(test_exported_types),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_new_tensors),   cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_same_values),   cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_new_biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
