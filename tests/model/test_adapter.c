// Adapters as files and as parts of models.  Truth: logits that PEFT computed with its own files
// (tests/golden/gen_adapters.py); what minke writes is read back, and merged models are compared
// with attached adapters.
#include "model/adapter.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "forward.h"
#include "model/export.h"
#include "model/folder.h"
#include "model/values.h"
#include "torture.h"

#define GOLDEN "tests/golden/"
#define N(a)   (sizeof(a) / sizeof(a)[0])

enum { N_IDS = 64, N_ROWS = 8 };

static const struct {
    const char *name, *base;
    bool dora;
} cases[] = {{"llama_lora", "llama", false},
             {"qwen2_rslora", "qwen2", false},
             {"llama3_dora", "llama3", true},
             {"qwen2_dora", "qwen2", true},
             {"deepseek_v2lite_dora", "deepseek_v2lite", true},
             {"deepseek_v3_lora", "deepseek_v3", false},
             {"deepseek_v3_experts", "deepseek_v3", false}};

static char tmp[] = "/tmp/minke-test-adapter-XXXXXX";

static const char *in_tmp(const char *name) {
    static char path[4][512];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", tmp, name);
    return path[i];
}

static const char *golden_path(const char *kind, const char *name) {
    static char path[4][512];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], GOLDEN "%s/%s", kind, name);
    return path[i];
}

// --- models --------------------------------------------------------------------------------------
typedef struct {
    mk_model *m;
    mk_adapters *set;
    mk_pool *pool;
} loaded;

static loaded open_base(const char *path) {
    loaded l = {.pool = mk_pool_create(2)};
    mk_err err = {0};
    if (mk_model_open(path, &l.m, &err) != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
    return l;
}

static void load(loaded *l, bool f32) {
    mk_err err = {0};
    if ((f32 ? mk_model_load_f32 : mk_model_load)(l->m, l->pool, NULL, NULL, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
}

static void read_adapter(loaded *l, const char *path) {
    mk_err err = {0};
    if (mk_adapters_read(l->m, path, 1, l->pool, &l->set, &err) != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
}

static void create_adapter(loaded *l, mk_adapter_spec spec) {
    mk_err err = {0};
    if (mk_adapters_create(l->m, &spec, l->pool, &l->set, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
}

// A base with an adapter of PEFT's on it.
static loaded with_adapter(const char *base, const char *adapter, bool f32) {
    loaded l = open_base(base);
    load(&l, f32);
    read_adapter(&l, adapter);
    return l;
}

static void close_all(loaded *l) {
    mk_adapters_destroy(l->set);
    mk_model_close(l->m);
    mk_pool_destroy(l->pool);
}

static void *file_of(const char *path, size_t want) {
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(mk_file_read(path, 1 << 24, &data, &n, NULL), MK_OK);
    assert_true(n >= want);
    return data;
}

static float *golden_logits_of(const loaded *l, const char *base) {
    char path[512];
    snprintf(path, sizeof path, GOLDEN "models/%s/golden.ids.i32", base);
    int32_t *ids = file_of(path, N_IDS * sizeof *ids);
    float *out = forward_logits_of(l->m, l->pool, ids, N_IDS);
    mk_free(ids);
    return out;
}

static double distance(const float *a, const float *b, int64_t n) {
    double diff = 0, len = 0;
    for (int64_t i = 0; i < n; i++) {
        diff += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        len += (double)b[i] * (double)b[i];
    }
    return sqrt(diff / len);
}

// Two float32 computations of the same formula (tests/golden/README.md): 1e-5 for the base alone.
#define BOUND 2e-5

static void check_golden(const loaded *l, size_t c) {
    char path[512];
    int64_t n_vocab = l->m->hp.n_vocab;
    snprintf(path, sizeof path, GOLDEN "adapters/%s/logits.f32", cases[c].name);
    float *want = file_of(path, (size_t)(N_ROWS * n_vocab) * sizeof *want);
    float *all = golden_logits_of(l, cases[c].base);
    for (int64_t r = 0; r < N_ROWS; r++) {
        memmove(all + r * n_vocab, all + (7 + 8 * r) * n_vocab, (size_t)n_vocab * sizeof *all);
    }
    double d = distance(all, want, N_ROWS * n_vocab);
    if (!(d < BOUND)) {
        fail_msg("%s: logits differ from PEFT's by %.3g of their length", cases[c].name, d);
    }
    mk_free(want);
    mk_free(all);
}

// --- PEFT's files --------------------------------------------------------------------------------

// Read before the base is loaded, and after; attached in both cases before the first step.
static void logits_are_those_of_peft(void **state) {
    (void)state;
    for (size_t c = 0; c < N(cases); c++) {
        for (int late = 0; late < 2; late++) {
            loaded l = open_base(golden_path("models", cases[c].base));
            if (late) {
                load(&l, true);
            }
            read_adapter(&l, golden_path("adapters", cases[c].name));
            mk_adapters_attach(l.set);
            if (!late) {
                load(&l, false);
                mk_params_refresh(mk_adapters_params(l.set), l.pool);
            }
            check_golden(&l, c);
            close_all(&l);
        }
    }
}

static void strength_scales(void **state) {
    (void)state;
    mk_err err = {0};
    loaded l = open_base(golden_path("models", "llama")),
           plain = open_base(golden_path("models", "llama"));
    load(&l, false);
    load(&plain, false);
    assert_int_equal(
        mk_adapters_read(l.m, golden_path("adapters", "llama_lora"), 0, l.pool, &l.set, &err),
        MK_OK);
    mk_adapters_attach(l.set);
    float *a = golden_logits_of(&l, "llama"), *b = golden_logits_of(&plain, "llama");
    assert_memory_equal(a, b, (size_t)(N_IDS * l.m->hp.n_vocab) * sizeof *a);
    mk_free(a);
    mk_free(b);
    close_all(&l);
    close_all(&plain);
}

static void same_params(const mk_adapters *a, const mk_adapters *b) {
    const mk_params *x = mk_adapters_params(a), *y = mk_adapters_params(b);
    assert_int_equal(x->n, y->n);
    for (int64_t i = 0; i < x->n; i++) {
        assert_string_equal(x->list[i].name, y->list[i].name);
        assert_int_equal(x->list[i].n_float, y->list[i].n_float);
        assert_memory_equal(x->list[i].p, y->list[i].p, (size_t)x->list[i].n_float * sizeof(float));
    }
}

static void gguf_made_by_others_is_the_same_adapter(void **state) {
    (void)state;
    loaded a =
        with_adapter(golden_path("models", "llama"), golden_path("adapters", "llama_lora"), false);
    loaded b = with_adapter(golden_path("models", "llama"),
                            golden_path("adapters", "llama_lora.gguf"), false);
    // and on a base whose own rows of q and k are in GGUF's order
    loaded c = with_adapter(golden_path("gguf", "llama-f32.gguf"),
                            golden_path("adapters", "llama_lora.gguf"), false);
    same_params(a.set, b.set);
    same_params(a.set, c.set);
    loaded *list[] = {&b, &c};
    for (int i = 0; i < 2; i++) {
        mk_adapters_attach(list[i]->set);
        check_golden(list[i], 0);
    }
    close_all(&a);
    close_all(&b);
    close_all(&c);
}

// --- what is written -----------------------------------------------------------------------------

static void written_adapters_are_read_back(void **state) {
    (void)state;
    mk_err err = {0};
    for (size_t c = 0; c < N(cases); c++) {
        loaded a = with_adapter(golden_path("models", cases[c].base),
                                golden_path("adapters", cases[c].name), false);
        const char *dir = in_tmp("folder"), *file = in_tmp("adapter.gguf");
        assert_int_equal(mk_adapters_write_folder(a.set, dir, &err), MK_OK);
        loaded b = with_adapter(golden_path("models", cases[c].base), dir, false);
        same_params(a.set, b.set);
        mk_adapters_attach(b.set);
        check_golden(&b, c);
        close_all(&b);
        bool many_alphas = strcmp(cases[c].name, "qwen2_rslora") == 0;
        mk_status st = mk_adapters_write_gguf(a.set, file, &err);
        if (cases[c].dora || many_alphas) {
            assert_int_equal(st, MK_EUNSUPPORTED);
        } else {
            assert_int_equal(st, MK_OK);
            b = with_adapter(golden_path("models", cases[c].base), file, false);
            same_params(a.set, b.set);
            close_all(&b);
        }
        close_all(&a);
    }
}

// The tensors are PEFT's, byte by byte; its readers find the configuration they expect.
static void folders_are_as_peft_writes_them(void **state) {
    (void)state;
    for (size_t c = 0; c < N(cases); c++) {
        mk_err err = {0};
        char path[512];
        loaded a = with_adapter(golden_path("models", cases[c].base),
                                golden_path("adapters", cases[c].name), false);
        const char *dir = in_tmp("folder");
        assert_int_equal(mk_adapters_write_folder(a.set, dir, &err), MK_OK);
        mk_safetensors *got = NULL, *want = NULL;
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
        assert_int_equal(mk_safetensors_open(path, &got, &err), MK_OK);
        snprintf(path, sizeof path, GOLDEN "adapters/%s/adapter_model.safetensors", cases[c].name);
        assert_int_equal(mk_safetensors_open(path, &want, &err), MK_OK);
        assert_int_equal(mk_safetensors_n_tensor(got), mk_safetensors_n_tensor(want));
        for (int64_t i = 0; i < mk_safetensors_n_tensor(want); i++) {
            const mk_tensor_view *w = mk_safetensors_tensor(want, i);
            const mk_tensor_view *g = mk_safetensors_find(got, w->name);
            assert_non_null(g);
            assert_int_equal(g->n_dim, w->n_dim);
            assert_memory_equal(g->shape, w->shape, sizeof w->shape);
            assert_memory_equal(g->data, w->data, w->n_bytes);
        }
        mk_safetensors_close(got);
        mk_safetensors_close(want);
        json_t *ours = NULL, *theirs = NULL;
        snprintf(path, sizeof path, "%s/adapter_config.json", dir);
        assert_int_equal(mk_json_file(path, 1 << 20, &ours, &err), MK_OK);
        snprintf(path, sizeof path, GOLDEN "adapters/%s/adapter_config.json", cases[c].name);
        assert_int_equal(mk_json_file(path, 1 << 20, &theirs, &err), MK_OK);
        static const char *const keys[] = {"peft_type", "task_type", "use_rslora",
                                           "use_dora",  "bias",      "fan_in_fan_out"};
        for (size_t k = 0; k < N(keys); k++) {
            assert_true(
                json_equal(json_object_get(ours, keys[k]), json_object_get(theirs, keys[k])));
        }
        json_decref(ours);
        json_decref(theirs);
        close_all(&a);
    }
}

static json_t *config_of_new(const char *base, const char *targets) {
    mk_err err = {0};
    json_t *config = NULL;
    loaded l = open_base(golden_path("models", base));
    load(&l, false);
    create_adapter(&l, (mk_adapter_spec){.rank = 2, .targets = targets});
    assert_int_equal(mk_adapters_write_folder(l.set, in_tmp("new"), &err), MK_OK);
    assert_int_equal(mk_json_file(in_tmp("new/adapter_config.json"), 1 << 20, &config, &err),
                     MK_OK);
    close_all(&l);
    return config;
}

static bool has_target(const json_t *config, const char *name) {
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(config, "target_modules"), i, v) {
        if (strcmp(json_string_value(v), name) == 0) {
            return true;
        }
    }
    return false;
}

// Last words where every layer of that name is adapted, else whole names.
static void configurations_name_their_targets(void **state) {
    (void)state;
    json_t *c = config_of_new("deepseek_v3", NULL);
    assert_true(has_target(c, "kv_b_proj") && has_target(c, "gate_proj") &&
                has_target(c, "q_a_proj"));
    assert_false(has_target(c, "gate") || has_target(c, "lm_head"));
    assert_int_equal(json_array_size(json_object_get(c, "target_modules")), 8);
    assert_int_equal(json_integer_value(json_object_get(c, "lora_alpha")), 4);
    json_decref(c);
    c = config_of_new("deepseek_v3", "o_proj, experts");
    assert_true(has_target(c, "o_proj") && !has_target(c, "up_proj") &&
                !has_target(c, "kv_b_proj"));
    assert_true(has_target(c, "model.layers.3.mlp.experts.11.up_proj"));
    assert_false(has_target(c, "model.layers.3.mlp.shared_experts.up_proj"));
    json_decref(c);
}

// --- new ones ------------------------------------------------------------------------------------

static void new_adapters_are_as_specified(void **state) {
    (void)state;
    loaded a = open_base(golden_path("models", "deepseek_v3"));
    loaded b = open_base(golden_path("models", "deepseek_v3"));
    load(&a, false);
    load(&b, true);
    create_adapter(&a, (mk_adapter_spec){.rank = 3, .seed = 5});
    create_adapter(
        &b, (mk_adapter_spec){.rank = 3, .seed = 5, .targets = "q_b_proj,experts,kv_b_proj"});
    const mk_params *x = mk_adapters_params(a.set), *y = mk_adapters_params(b.set);
    assert_true(y->n < x->n && y->n == 2 * 5 + 3 * 5 + 2 * 3 * 2);
    for (int64_t i = 0; i < y->n; i++) {  // values do not depend on the choice of targets
        const mk_param *p = mk_params_named(x, y->list[i].name);
        assert_non_null(p);
        assert_memory_equal(p->p, y->list[i].p, (size_t)p->n_float * sizeof(float));
    }
    for (int64_t i = 0; i < x->n; i++) {
        const mk_param *p = &x->list[i];
        bool is_a = strstr(p->name, ".lora_A") != NULL;
        double most = 0, bound = 1 / sqrt((double)p->n_in), sum = 0;
        for (int64_t j = 0; j < p->n_float; j++) {
            most = fabs((double)p->p[j]) > most ? fabs((double)p->p[j]) : most;
            sum += (double)p->p[j];
        }
        assert_true(is_a ? most <= bound && most > 0.8 * bound : most <= 0);
        assert_true(fabs(sum) <= 3 * bound * sqrt((double)p->n_value));  // 5 standard deviations
        assert_true(p->kind == MK_PARAM_MATRIX && p->layer >= 0);
    }
    close_all(&a);
    a = open_base(golden_path("models", "deepseek_v3"));
    load(&a, false);
    create_adapter(&a, (mk_adapter_spec){.rank = 3, .seed = 6});
    const mk_param *p = &mk_adapters_params(a.set)->list[0];
    assert_memory_not_equal(p->p,
                            mk_params_named(y, "base_model.model.model.layers.0.self_attn.kv_b_proj"
                                               ".lora_A.weight")
                                ->p,
                            sizeof(float) * 16);
    close_all(&a);
    close_all(&b);
}

static void bad_specifications_are_refused(void **state) {
    (void)state;
    static const struct {
        mk_adapter_spec spec;
        const char *says;
    } bad[] = {{{.rank = 0}, "rank"},
               {{.rank = MK_ADAPTER_MAX_RANK + 1}, "rank"},
               {{.rank = 1, .alpha = -1}, "alpha"},
               {{.rank = 1, .alpha = NAN}, "alpha"},
               {{.rank = 1, .targets = "q_proj,k"}, "\"k\""},
               {{.rank = 1, .targets = "lm_head"}, "q_proj, k_proj, v_proj, o_proj, gate_proj"},
               {{.rank = 1, .targets = " , "}, "expected all"},
               {{.rank = 1, .targets = "q_pro"}, "q_pro"}};
    loaded l = open_base(golden_path("models", "llama"));
    load(&l, false);
    for (size_t i = 0; i < N(bad); i++) {
        mk_err err = {0};
        assert_int_equal(mk_adapters_create(l.m, &bad[i].spec, l.pool, &l.set, &err), MK_EUSAGE);
        if (!strstr(err.msg, bad[i].says)) {
            fail_msg("\"%s\" does not say %s", err.msg, bad[i].says);
        }
    }
    close_all(&l);
}

// --- misfits -------------------------------------------------------------------------------------

static void refused(const char *base, const char *adapter, mk_status code, const char *says) {
    mk_err err = {0};
    loaded l = open_base(golden_path("models", base));
    mk_status st = mk_adapters_read(l.m, adapter, 1, l.pool, &l.set, &err);
    if (st != code || !strstr(err.msg, says)) {
        fail_msg("%s on %s: %s, \"%s\"; expected %s and \"%s\"", adapter, base, mk_status_name(st),
                 err.msg, mk_status_name(code), says);
    }
    close_all(&l);
}

typedef struct {
    const char *name;
    int n_dim;
    int64_t shape[3];
} tensor_spec;

static mk_status fill_ones(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    const tensor_spec *t = (const tensor_spec *)arg + i;
    int64_t n = 1;
    for (int d = 0; d < t->n_dim; d++) {
        n *= t->shape[d];
    }
    for (; n > 0; n--) {
        MK_TRY(mk_writer_write(w, &(float){1}, sizeof(float), err));
    }
    return MK_OK;
}

// A PEFT folder of the given configuration and tensors.
static const char *folder_of(const char *config, tensor_spec *list, int64_t n) {
    const char *dir = in_tmp("made");
    mkdir(dir, 0777);
    FILE *f = fopen(in_tmp("made/adapter_config.json"), "w");
    assert_non_null(f);
    fputs(config, f);
    fclose(f);
    mk_st_out *o = mk_st_out_create();
    for (int64_t i = 0; i < n; i++) {
        mk_st_out_tensor(o, list[i].name, MK_DTYPE_F32, list[i].n_dim, list[i].shape);
    }
    assert_int_equal(
        mk_st_out_write(o, in_tmp("made/adapter_model.safetensors"), fill_ones, list, NULL), MK_OK);
    mk_st_out_destroy(o);
    return dir;
}

#define Q      "base_model.model.model.layers.0.self_attn.q_proj"
#define CONFIG "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4%s}"
#define PLAIN  "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4}"

static void adapters_that_do_not_fit_are_refused(void **state) {
    (void)state;
    tensor_spec a = {Q ".lora_A.weight", 2, {2, 64}}, b = {Q ".lora_B.weight", 2, {96, 2}};
    tensor_spec both[] = {a, b};
    mk_err err = {0};
    loaded l = open_base(golden_path("models", "llama"));
    assert_int_equal(mk_adapters_read(l.m, folder_of(PLAIN, both, 2), 1, l.pool, &l.set, &err),
                     MK_OK);
    close_all(&l);
    refused("llama", folder_of(PLAIN, both, 1), MK_ECORRUPT, "B is missing");
    refused("llama", folder_of(PLAIN, both + 1, 1), MK_ECORRUPT, "A is missing");
    refused("llama", folder_of(PLAIN, both, 0), MK_ECORRUPT, "no adapter");
    tensor_spec wide[] = {{Q ".lora_A.weight", 2, {2, 80}}, b};
    refused("llama", folder_of(PLAIN, wide, 2), MK_ECORRUPT,
            Q ".lora_A.weight: expected shape [2, 64], got [2, 80]");
    tensor_spec ranks[] = {a, {Q ".lora_B.weight", 2, {96, 3}}};
    refused("llama", folder_of(PLAIN, ranks, 2), MK_ECORRUPT,
            "expected shape [96, 2], got [96, 3]");
    tensor_spec flat[] = {{Q ".lora_A.weight", 1, {64}}, b};
    refused("llama", folder_of(PLAIN, flat, 2), MK_ECORRUPT, Q ".lora_A.weight: rank 0");
    tensor_spec alien[] = {
        a, b, {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", 2, {2, 64}}};
    refused("llama", folder_of(PLAIN, alien, 3), MK_ECORRUPT, "no linear layer \"model.layers.9.");
    alien[2].name = "base_model.model.lm_head.lora_A.weight";
    refused("llama", folder_of(PLAIN, alien, 3), MK_ECORRUPT, "no linear layer \"lm_head\"");
    alien[2].name = "base_model.model.model.embed_tokens.weight";
    refused("llama", folder_of(PLAIN, alien, 3), MK_EUNSUPPORTED, "embed_tokens");
    alien[2].name = Q ".lora_magnitude_vector";
    refused("llama", folder_of(PLAIN, alien, 3), MK_ECORRUPT, "magnitudes without \"use_dora\"");
    char config[256];
    snprintf(config, sizeof config, CONFIG, ", \"use_dora\": true");
    refused("llama", folder_of(config, both, 2), MK_ECORRUPT, "magnitudes is missing");
    refused("qwen2", golden_path("adapters", "llama_lora"), MK_ECORRUPT, "expected shape");
    refused("llama", golden_path("adapters", "deepseek_v3_lora"), MK_ECORRUPT, "no linear layer");
    refused("deepseek_v3", golden_path("adapters", "llama_lora.gguf"), MK_EUNSUPPORTED,
            "general.architecture is \"llama\"");
    refused("llama", golden_path("gguf", "llama-f32.gguf"), MK_EUNSUPPORTED,
            "general.type is \"model\"");
    refused("llama", golden_path("models", "llama"), MK_ENOTFOUND, "adapter_config.json");
    refused("llama", in_tmp("nowhere"), MK_ENOTFOUND, "nowhere");
}

static void configurations_that_mean_more_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *config, *says;
    } bad[] = {{", \"peft_type\": \"LOHA\"", "peft_type"},
               {", \"bias\": \"all\"", "bias"},
               {", \"fan_in_fan_out\": true", "fan_in_fan_out"},
               {", \"lora_bias\": true", "lora_bias"},
               {", \"init_lora_weights\": \"pissa_niter_4\"", "pissa_niter_4"},
               {", \"alpha_pattern\": {\"layers.*q_proj\": 3}", "regular expression"}};
    tensor_spec both[] = {{Q ".lora_A.weight", 2, {2, 64}}, {Q ".lora_B.weight", 2, {96, 2}}};
    for (size_t i = 0; i < N(bad); i++) {
        char config[256];
        bool own_type = strstr(bad[i].config, "peft_type") != NULL;
        snprintf(config, sizeof config, own_type ? "{\"r\": 2, \"lora_alpha\": 4%s}" : CONFIG,
                 bad[i].config);
        refused("llama", folder_of(config, both, 2), MK_EUNSUPPORTED, bad[i].says);
    }
    refused("llama", folder_of("{\"r\": 2}", both, 2), MK_ECORRUPT, "lora_alpha");
    refused("llama", folder_of("{\"r\": 0, \"lora_alpha\": 1}", both, 2), MK_ECORRUPT, "\"r\"");
    refused("llama", folder_of("[]", both, 2), MK_ECORRUPT, "");
    refused("llama", folder_of("{", both, 2), MK_ECORRUPT, "");
}

// Bytes that are not what they were: an error, or an adapter; never a crash.
static void damaged_files_do_no_harm(void **state) {
    (void)state;
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
    mk_err err = {0};
    loaded l = open_base(golden_path("models", "qwen2"));
    const char *dir = in_tmp("damaged");
    mkdir(dir, 0777);
    for (int round = 0; round < 300; round++) {
        for (int f = 0; f < 2; f++) {
            char *data = NULL, path[512];
            size_t n = 0;
            snprintf(path, sizeof path, GOLDEN "adapters/qwen2_dora/%s", names[f]);
            assert_int_equal(mk_file_read(path, 1 << 20, &data, &n, &err), MK_OK);
            size_t head = f == 0 ? n : 1500;  // the header of the tensors
            for (int k = 0; k < 1 + round % 3 && round % 2 == f; k++) {
                uint64_t r = mk_rng_u64((uint64_t)round, (uint64_t)k);
                static const char some[] = "0123456789[]{},:\"-.e";
                data[r % head] =
                    r >> 32 & 1 ? some[(r >> 40) % (sizeof some - 1)] : (char)(r >> 50);
            }
            snprintf(path, sizeof path, "%s/%s", dir, names[f]);
            FILE *out = fopen(path, "wb");
            assert_non_null(out);
            fwrite(data, 1, n, out);
            fclose(out);
            mk_free(data);
        }
        if (mk_adapters_read(l.m, dir, 1, l.pool, &l.set, &err) == MK_OK) {
            mk_adapters_destroy(l.set);
        }
        l.set = NULL;
    }
    close_all(&l);
}

// --- merging -------------------------------------------------------------------------------------

static void same_weights(const loaded *a, const loaded *b) {
    mk_params *x = NULL, *y = NULL;
    assert_int_equal(mk_params_create(a->m, &x, NULL), MK_OK);
    assert_int_equal(mk_params_create(b->m, &y, NULL), MK_OK);
    for (int64_t i = 0; i < x->n; i++) {
        assert_memory_equal(x->list[i].p, y->list[i].p, (size_t)x->list[i].n_float * sizeof(float));
    }
    mk_params_destroy(x);
    mk_params_destroy(y);
}

// In memory, into a folder and into GGUF: PEFT's logits, and the same bits all three times.
static void merged_models_are_adapted_models(void **state) {
    (void)state;
    for (size_t c = 0; c < N(cases); c++) {
        mk_err err = {0};
        const char *base = golden_path("models", cases[c].base);
        loaded a = with_adapter(base, golden_path("adapters", cases[c].name), true);
        mk_adapters_attach(a.set);
        mk_adapters_merge(a.set, a.pool);
        assert_false(mk_adapters_is_attached(a.set));
        check_golden(&a, c);

        loaded b = open_base(base);  // not loaded: tensor by tensor
        read_adapter(&b, golden_path("adapters", cases[c].name));
        mk_adapters_merge_into_files(b.m, b.set);
        mk_save_opts save = {.type = MK_DTYPE_F32, .pool = b.pool};
        assert_int_equal(mk_model_save_folder(b.m, in_tmp("merged"), &save, &err), MK_OK);
        mk_export_opts to = {.type = MK_DTYPE_N};
        assert_int_equal(mk_export_gguf(b.m, &to, in_tmp("merged.gguf"), &err), MK_OK);
        close_all(&b);
        for (int gguf = 0; gguf < 2; gguf++) {
            b = open_base(in_tmp(gguf ? "merged.gguf" : "merged"));
            load(&b, true);
            check_golden(&b, c);
            same_weights(&a, &b);
            close_all(&b);
        }
        close_all(&a);
    }
}

// Masters change, and what is rounded from them follows.
static void merging_into_masters(void **state) {
    (void)state;
    static const size_t list[] = {0, 5};
    for (size_t i = 0; i < N(list); i++) {
        mk_err err = {0};
        const char *base = golden_path("models", cases[list[i]].base);
        const char *adapter = golden_path("adapters", cases[list[i]].name);
        loaded a = with_adapter(base, adapter, true), b = open_base(base);
        assert_int_equal(mk_model_load_bf16(b.m, b.pool, NULL, NULL, &err), MK_OK);
        read_adapter(&b, adapter);
        mk_adapters_merge(a.set, a.pool);
        mk_adapters_merge(b.set, b.pool);
        same_weights(&a, &b);
        const mk_weight *w = &b.m->layer[0].wo;
        assert_non_null(w->master);
        uint8_t *data = mk_alloc(w->mat_bytes);
        memcpy(data, w->data, w->mat_bytes);
        mk_weight_round(w, b.pool);
        assert_memory_equal(data, w->data, w->mat_bytes);
        mk_free(data);
        close_all(&a);
        close_all(&b);
    }
}

// From GGUF files, whose halves of kv_b lie apart or together, in other types.
static void merging_into_other_files(void **state) {
    (void)state;
    static const struct {
        const char *base;
        size_t c;
    } from[] = {{"llama-f32.gguf", 0},
                {"deepseek_v3-c-f32.gguf", 5},
                {"deepseek_v2lite-a-f32.gguf", 4},
                {"deepseek_v3-c-f32.gguf", 6}};
    for (size_t i = 0; i < N(from); i++) {
        mk_err err = {0};
        loaded b = open_base(golden_path("gguf", from[i].base));
        read_adapter(&b, golden_path("adapters", cases[from[i].c].name));
        mk_adapters_merge_into_files(b.m, b.set);
        mk_export_opts to = {.type = MK_DTYPE_N};
        assert_int_equal(mk_export_gguf(b.m, &to, in_tmp("other.gguf"), &err), MK_OK);
        close_all(&b);
        b = open_base(in_tmp("other.gguf"));
        load(&b, false);
        check_golden(&b, from[i].c);
        close_all(&b);
    }
}

// A quantised base: what is changed becomes Q8_0, the rest keeps its bytes; logits near the adapted
// model's (Q8_0 rounds to 0.4 %, two layers).
static void quantised_bases_can_be_merged(void **state) {
    (void)state;
    mk_err err = {0};
    loaded a = open_base(golden_path("gguf", "llama_k256-q4_k.gguf"));
    load(&a, false);
    create_adapter(
        &a, (mk_adapter_spec){.rank = 4, .seed = 3, .dora = true, .targets = "q_proj,down_proj"});
    const mk_params *ps = mk_adapters_params(a.set);
    for (int64_t i = 0; i < ps->n; i++) {
        for (int64_t j = 0; strstr(ps->list[i].name, "lora_B") && j < ps->list[i].n_float; j++) {
            ps->list[i].p[j] = (float)(0.6 * mk_rng_unit(9, (uint64_t)j) - 0.3);
        }
    }
    mk_params_refresh(ps, a.pool);
    mk_adapters_attach(a.set);
    float *want = forward_logits(a.m, a.pool);
    mk_adapters_detach(a.set);
    float *plain = forward_logits(a.m, a.pool);
    mk_adapters_merge_into_files(a.m, a.set);
    mk_export_opts to = {.type = MK_DTYPE_N};
    assert_int_equal(mk_export_gguf(a.m, &to, in_tmp("q.gguf"), &err), MK_OK);
    mk_adapters_merge_into_files(a.m, NULL);
    loaded b = open_base(in_tmp("q.gguf"));
    assert_int_equal(mk_source_find(b.m->src, "blk.0.attn_q.weight")->dtype, MK_DTYPE_Q8_0);
    assert_int_equal(mk_source_find(b.m->src, "blk.0.attn_k.weight")->dtype, MK_DTYPE_Q4_K);
    load(&b, false);
    float *got = forward_logits(b.m, b.pool);
    int64_t n = FORWARD_TOK * a.m->hp.n_vocab;
    double d = distance(got, want, n), moved = distance(plain, want, n);
    if (!(d < 0.03 && moved > 0.2)) {
        fail_msg("merged logits differ by %.3g, the adapter moves them by %.3g", d, moved);
    }
    mk_free(want);
    mk_free(plain);
    mk_free(got);
    close_all(&a);
    close_all(&b);
}

// --- allocation failures -------------------------------------------------------------------------

static mk_status files_scenario(void *arg, mk_err *err) {
    const loaded *l = arg;
    mk_adapters *set = NULL;
    MK_TRY(mk_adapters_read(l->m, golden_path("adapters", "deepseek_v2lite_dora"), 1, l->pool, &set,
                            err));
    mk_status st = mk_adapters_write_folder(set, in_tmp("torture"), err);
    if (st == MK_OK) {
        float *v = NULL;
        mk_adapters_merge_into_files(l->m, set);
        st = mk_values_get(l->m, (mk_value_at){0, 0, 0}, NULL, &v, err);  // kv_b_proj
        mk_adapters_merge_into_files(l->m, NULL);
        mk_free(v);
    }
    mk_adapters_destroy(set);
    return st;
}

static mk_status create_scenario(void *arg, mk_err *err) {
    const loaded *l = arg;
    mk_adapters *set = NULL;
    mk_adapter_spec spec = {.rank = 2, .dora = true, .targets = "o_proj"};
    MK_TRY(mk_adapters_create(l->m, &spec, l->pool, &set, err));
    mk_adapters_destroy(set);
    return MK_OK;
}

static void memory_may_be_gone(void **state) {
    (void)state;
    loaded l = open_base(golden_path("models", "deepseek_v2lite"));
    load(&l, false);
    assert_true(mk_torture(files_scenario, &l) > 30);
    assert_true(mk_torture(create_scenario, &l) > 5);
    close_all(&l);
}

static int set_up(void **state) {
    (void)state;
    return mkdtemp(tmp) == NULL;
}

static int tear_down(void **state) {
    (void)state;
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", tmp);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_peft),
        cmocka_unit_test(strength_scales),
        cmocka_unit_test(gguf_made_by_others_is_the_same_adapter),
        cmocka_unit_test(written_adapters_are_read_back),
        cmocka_unit_test(folders_are_as_peft_writes_them),
        cmocka_unit_test(configurations_name_their_targets),
        cmocka_unit_test(new_adapters_are_as_specified),
        cmocka_unit_test(bad_specifications_are_refused),
        cmocka_unit_test(adapters_that_do_not_fit_are_refused),
        cmocka_unit_test(configurations_that_mean_more_are_refused),
        cmocka_unit_test(damaged_files_do_no_harm),
        cmocka_unit_test(merged_models_are_adapted_models),
        cmocka_unit_test(merging_into_masters),
        cmocka_unit_test(merging_into_other_files),
        cmocka_unit_test(quantised_bases_can_be_merged),
        cmocka_unit_test(memory_may_be_gone),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
