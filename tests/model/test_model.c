// Opening models that are wrong: configuration, tensors, files.  Each row changes one thing of a
// golden folder and states what the message must name.  (Formats below have their own tests; here
// the files are well-formed.)
#include <dirent.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "model/model.h"

#define GOLDEN "tests/golden/models/"

typedef struct {
    const char *base;   // golden folder
    const char *key;    // of config.json
    const char *value;  // JSON text; NULL = remove the key
    mk_status want;
    const char *says;  // part of the message
} row;

static const row rows[] = {
    {"llama", "num_hidden_layers", "0", MK_ECORRUPT, "num_hidden_layers is 0"},
    {"llama", "num_hidden_layers", "99999999999", MK_ECORRUPT, "num_hidden_layers"},
    {"llama", "num_hidden_layers", "-1", MK_ECORRUPT, "num_hidden_layers"},
    {"llama", "num_hidden_layers", "\"two\"", MK_ECORRUPT, "an integer"},
    {"llama", "num_hidden_layers", NULL, MK_ECORRUPT, "num_hidden_layers is missing"},
    {"llama", "num_hidden_layers", "900", MK_ECORRUPT, "is missing"},
    {"llama", "num_hidden_layers", "1", MK_EUNSUPPORTED, "is not part of"},
    {"llama", "hidden_size", "65", MK_ECORRUPT, "65"},
    {"llama", "hidden_size", "1048576", MK_ECORRUPT, "expected shape"},
    {"llama", "intermediate_size", "100", MK_ECORRUPT, "expected shape [100"},
    {"llama", "vocab_size", "16777216", MK_ECORRUPT, "expected shape"},
    {"llama", "num_attention_heads", "7", MK_ECORRUPT, "7"},
    {"llama", "num_key_value_heads", "3", MK_ECORRUPT, "3"},
    {"llama", "head_dim", "1", MK_ECORRUPT, "head_dim"},
    {"llama", "head_dim", "1023", MK_EUNSUPPORTED, "even"},
    {"llama", "hidden_act", "\"gelu\"", MK_EUNSUPPORTED, "gelu"},
    {"llama", "rms_norm_eps", "-1", MK_ECORRUPT, "rms_norm_eps"},
    {"llama", "rms_norm_eps", "\"x\"", MK_ECORRUPT, "a number"},
    {"llama", "architectures", "[\"MambaForCausalLM\"]", MK_EUNSUPPORTED, "MambaForCausalLM"},
    {"llama", "architectures", "[\"\"]", MK_ECORRUPT, "architecture"},
    {"llama", "architectures", "[\"Qwen2ForCausalLM\"]", MK_ECORRUPT, "q_proj.bias"},
    {"llama", "rope_parameters", "{\"rope_type\":\"longrope\",\"rope_theta\":10000.0}",
     MK_EUNSUPPORTED, "longrope"},
    {"llama", "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":0}", MK_ECORRUPT,
     "rope_theta"},
    {"llama", "rope_parameters",
     "{\"rope_type\":\"a name far longer than any that anybody would use\"}", MK_ECORRUPT,
     "expected at most 31"},
    {"qwen2", "use_sliding_window", "true", MK_EUNSUPPORTED, "use_sliding_window"},
    {"qwen2", "tie_word_embeddings", "7", MK_ECORRUPT, "true or false"},
    {"deepseek_v3", "n_routed_experts", "13", MK_ECORRUPT, "13"},
    {"deepseek_v3", "n_routed_experts", "65537", MK_ECORRUPT, "65537"},
    {"deepseek_v3", "num_experts_per_tok", "0", MK_ECORRUPT, "experts"},
    {"deepseek_v3", "num_experts_per_tok", "12", MK_ECORRUPT, "12"},
    {"deepseek_v3", "topk_group", "5", MK_ECORRUPT, "5 groups"},
    {"deepseek_v3", "n_group", "5", MK_ECORRUPT, "5 groups"},
    {"deepseek_v3", "qk_rope_head_dim", "15", MK_ECORRUPT, "even"},
    {"deepseek_v3", "qk_rope_head_dim", "18", MK_ECORRUPT, "expected shape"},
    {"deepseek_v3", "kv_lora_rank", "48", MK_ECORRUPT, "expected shape"},
    {"deepseek_v3", "kv_lora_rank", NULL, MK_ECORRUPT, "kv_lora_rank"},
    {"deepseek_v3", "v_head_dim", "25", MK_ECORRUPT, "expected shape"},
    {"deepseek_v3", "moe_layer_freq", "2", MK_ECORRUPT, "moe_layer_freq"},
    {"deepseek_v3", "first_k_dense_replace", "1", MK_ECORRUPT, "is missing"},
    {"deepseek_v3", "scoring_func", "\"tanh\"", MK_EUNSUPPORTED, "tanh"},
    {"deepseek_v3", "topk_method", "\"random\"", MK_EUNSUPPORTED, "random"},
    {"deepseek_v3_mtp", "num_nextn_predict_layers", "0", MK_EUNSUPPORTED, "is not part of"},
};

static char *temp_dir(void) {
    char name[] = "/tmp/minke-test-XXXXXX";
    assert_non_null(mkdtemp(name));
    return mk_strdup(name);
}

static void link_all_but_config(const char *from, const char *to) {
    DIR *d = opendir(from);
    assert_non_null(d);
    char cwd[2048];
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (e->d_name[0] == '.' || strcmp(e->d_name, "config.json") == 0) {
            continue;
        }
        char target[4096], name[4096];
        snprintf(target, sizeof target, "%s/%s/%s", cwd, from, e->d_name);
        snprintf(name, sizeof name, "%s/%s", to, e->d_name);
        assert_int_equal(symlink(target, name), 0);
    }
    closedir(d);
}

static void remove_dir(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        unlink(name);
    }
    closedir(d);
    rmdir(path);
}

static mk_status open_changed(const row *r, mk_err *err) {
    char from[256];
    snprintf(from, sizeof from, GOLDEN "%s", r->base);
    char *dir = temp_dir(), *old = mk_path_join(from, "config.json"),
         *new = mk_path_join(dir, "config.json");
    json_t *config = NULL;
    assert_int_equal(mk_json_file(old, 1 << 20, &config, err), MK_OK);
    json_object_del(config, r->key);
    if (r->value) {
        json_object_set_new(config, r->key, json_loads(r->value, JSON_DECODE_ANY, NULL));
    }
    assert_int_equal(json_dump_file(config, new, 0), 0);
    json_decref(config);
    link_all_but_config(from, dir);
    mk_model *m = NULL;
    mk_status st = mk_model_open(dir, &m, err);
    mk_model_close(m);
    remove_dir(dir);
    mk_free(dir);
    mk_free(old);
    mk_free(new);
    return st;
}

static void test_bad_config(void **state) {
    (void)state;
    int n_bad = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_err err = {0};
        int64_t live = mk_alloc_live();
        mk_status st = open_changed(&rows[i], &err);
        if (st != rows[i].want || !strstr(err.msg, rows[i].says) || mk_alloc_live() != live) {
            printf("%s with %s = %s: got %s \"%s\", expected %s and \"%s\"\n", rows[i].base,
                   rows[i].key, rows[i].value ? rows[i].value : "(removed)", mk_status_name(st),
                   err.msg, mk_status_name(rows[i].want), rows[i].says);
            n_bad++;
        }
    }
    assert_int_equal(n_bad, 0);
}

static void test_bad_paths(void **state) {
    (void)state;
    static const struct {
        const char *path;
        mk_status want;
        const char *says;
    } paths[] = {
        {"no/such/thing", MK_ENOTFOUND, "no such file or folder"},
        {"tests", MK_ENOTFOUND, "config.json"},
        {GOLDEN "llama/model.safetensors", MK_EUSAGE, "folder"},
        {"LICENSE", MK_ECORRUPT, "GGUF"},
    };
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        mk_model *m = NULL;
        mk_err err = {0};
        assert_int_equal(mk_model_open(paths[i].path, &m, &err), paths[i].want);
        if (!strstr(err.msg, paths[i].says)) {
            fail_msg("%s: \"%s\" does not say \"%s\"", paths[i].path, err.msg, paths[i].says);
        }
    }
}

// Facts that `show` prints and plans are made from.
static void test_facts(void **state) {
    (void)state;
    mk_model *m = NULL;
    mk_err err = {0};
    assert_int_equal(mk_model_open(GOLDEN "qwen2_tied", &m, &err), MK_OK);
    int64_t n = 0;  // every tensor of the file once: a tied head is not counted twice
    for (int64_t i = 0; i < mk_source_n_tensor(m->src); i++) {
        const mk_tensor_view *v = mk_source_tensor(m->src, i);
        n += v->n_dim == 2 ? v->shape[0] * v->shape[1] : v->shape[0];
    }
    assert_int_equal(mk_model_n_param(m), n);
    size_t want = mk_model_weight_bytes(m);
    mk_pool *pool = mk_pool_create(1);
    int64_t live = mk_alloc_live();
    assert_int_equal(mk_model_load(m, pool, NULL, NULL, &err), MK_OK);
    assert_true(mk_alloc_live() > live);
    assert_int_equal(mk_model_weight_bytes(m), want);  // the plan before loading is the plan after
    mk_model_close(m);
    mk_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bad_config),
                                       cmocka_unit_test(test_bad_paths),
                                       cmocka_unit_test(test_facts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
