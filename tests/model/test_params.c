// Loading for training, and the list of parameters: names, sizes and values against the tensors of
// the files.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/mathx.h"
#include "model/bind.h"
#include "model/params.h"
#include "torture.h"

#define GOLDEN "tests/golden/"

static const char *const folders[] = {"llama",       "llama3",         "yi",
                                      "qwen2",       "qwen2_tied",     "deepseek_v2lite",
                                      "deepseek_v2", "deepseek_v3",    "deepseek_v3_mtp",
                                      "llama-bf16",  "deepseek_v3-fp8"};
#define N_FOLDER (sizeof folders / sizeof folders[0])

typedef struct {
    mk_model *m;
    mk_params *ps;
    mk_pool *pool;
} loaded;

static loaded load(const char *path, bool f32) {
    loaded l = {.pool = mk_pool_create(2)};
    mk_err err = {0};
    mk_status st = mk_model_open(path, &l.m, &err);
    if (st == MK_OK) {
        st = f32 ? mk_model_load_f32(l.m, l.pool, NULL, NULL, &err)
                 : mk_model_load(l.m, l.pool, NULL, NULL, &err);
    }
    st = st == MK_OK ? mk_params_create(l.m, &l.ps, &err) : st;
    if (st != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
    return l;
}

static loaded load_folder(const char *name, bool f32) {
    char path[512];
    snprintf(path, sizeof path, GOLDEN "models/%s", name);
    return load(path, f32);
}

static void unload(loaded *l) {
    mk_params_destroy(l->ps);
    mk_model_close(l->m);
    mk_pool_destroy(l->pool);
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

// --- values --------------------------------------------------------------------------------------

static float *tensor(const mk_model *m, const char *name) {
    float *f = NULL;
    mk_err err = {0};
    const mk_tensor_view *v = mk_source_find(m->src, name);
    if (!v || mk_bind_to_f32(m, v, &f, &err) != MK_OK) {
        fail_msg("%s: %s", name, v ? err.msg : "not in the file");
    }
    return f;
}

// Matrix `mat` of p as the tensors of the file give it: experts are one tensor each, and kv_b_proj
// holds per head d_nope rows of keys, here transposed, then d_v rows of values.
static float *expected(const mk_model *m, const mk_param *p, int64_t mat) {
    char name[512];
    const char *star = strchr(p->name, '*');
    if (star) {
        snprintf(name, sizeof name, "%.*s%lld%s", (int)(star - p->name), p->name, (long long)mat,
                 star + 1);
        return tensor(m, name);
    }
    bool k = ends_with(p->name, ".kv_b_proj.k"), v = ends_with(p->name, ".kv_b_proj.v");
    if (!k && !v) {
        return tensor(m, p->name);
    }
    snprintf(name, sizeof name, "%.*s.weight", (int)strlen(p->name) - 2, p->name);
    const mk_hparams *hp = &m->hp;
    float *all = tensor(m, name), *f = mk_alloc((size_t)(p->n_out * p->n_in) * sizeof *f);
    for (int64_t i = 0; i < p->n_out; i++) {
        for (int64_t c = 0; c < p->n_in; c++) {
            int64_t head = mat * (hp->d_nope + hp->d_v);
            int64_t row = k ? c : hp->d_nope + i, col = k ? i : c;
            f[i * p->n_in + c] = all[(head + row) * hp->kv_lora + col];
        }
    }
    mk_free(all);
    return f;
}

static int64_t check_values(const loaded *l, const mk_param *p) {
    int64_t n = p->n_out * p->n_in, n_bad = 0;
    float *got = mk_alloc((size_t)n * sizeof *got);
    for (int64_t mat = 0; mat < p->n_mat; mat++) {
        float *want = expected(l->m, p, mat);
        mk_param_get(p, mat, got, l->pool);
        n_bad += memcmp(got, want, (size_t)n * sizeof *got) != 0;
        mk_free(want);
    }
    mk_free(got);
    if (n_bad) {
        printf("%s: %lld of %lld matrices differ\n", p->name, (long long)n_bad,
               (long long)p->n_mat);
    }
    return n_bad;
}

// Every parameter of every family holds the file's values, and there are as many as the file has.
static void test_folder_values(void **state) {
    (void)state;
    int64_t n_bad = 0;
    for (size_t i = 0; i < N_FOLDER; i++) {
        loaded l = load_folder(folders[i], true);
        int64_t n_value = 0;
        for (int64_t k = 0; k < l.ps->n; k++) {
            const mk_param *p = &l.ps->list[k];
            assert_non_null(p->p);
            n_bad += check_values(&l, p);
            n_value += p->n_value;
        }
        if (n_value != mk_model_n_param(l.m)) {
            printf("%s: %lld values, expected %lld\n", folders[i], (long long)n_value,
                   (long long)mk_model_n_param(l.m));
            n_bad++;
        }
        unload(&l);
    }
    assert_int_equal(n_bad, 0);
}

// The same model as GGUF gives the same list and, for float files, the same values.
static void test_gguf_is_folder(void **state) {
    (void)state;
    static const struct {
        const char *folder, *gguf;
        bool same_values;
    } pairs[] = {
        {"llama", "llama-f32.gguf", true},
        {"llama-bf16", "llama-bf16.gguf", true},
        {"llama3", "llama3-f32.gguf", true},
        {"yi", "yi-f32-00001-of-00002.gguf", true},
        {"qwen2", "qwen2-f32.gguf", true},
        {"deepseek_v2lite", "deepseek_v2lite-a-f32.gguf", true},
        {"deepseek_v2", "deepseek_v2-b-f32.gguf", true},
        {"deepseek_v3", "deepseek_v3-c-f32.gguf", true},
        {"deepseek_v3", "deepseek_v3-c-q4_0.gguf", false},
        {"qwen2_tied", "qwen2_tied-q8_0.gguf", false},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, GOLDEN "gguf/%s", pairs[i].gguf);
        loaded a = load_folder(pairs[i].folder, true), b = load(path, true);
        assert_int_equal(a.ps->n, b.ps->n);
        for (int64_t k = 0; k < a.ps->n; k++) {
            const mk_param *p = &a.ps->list[k], *q = &b.ps->list[k];
            assert_string_equal(p->name, q->name);
            assert_int_equal(p->n_float, q->n_float);
            assert_int_equal(p->n_mat, q->n_mat);
            assert_int_equal(p->tied, q->tied);
            bool same = memcmp(p->p, q->p, (size_t)p->n_float * sizeof(float)) == 0;
            if (same != (pairs[i].same_values || p->kind == MK_PARAM_VECTOR || p->is_router)) {
                fail_msg("%s: %s", pairs[i].gguf, p->name);
            }
        }
        unload(&a);
        unload(&b);
    }
}

// --- the list ------------------------------------------------------------------------------------

static void test_flags(void **state) {
    (void)state;
    loaded l = load_folder("deepseek_v3", true);
    int n_bias = 0, n_router = 0, n_lora = 0, n_norm = 0;
    for (int64_t i = 0; i < l.ps->n; i++) {
        const mk_param *p = &l.ps->list[i];
        n_bias += p->is_select_bias;
        n_router += p->is_router;
        n_lora += p->is_lora_target;
        n_norm += p->is_norm_or_bias;
        assert_true(p->is_select_bias == (strstr(p->name, "e_score_correction_bias") != NULL));
        assert_true(p->is_norm_or_bias == (p->kind == MK_PARAM_VECTOR));
        assert_true(mk_params_named(l.ps, p->name) == p);
        assert_true(mk_params_at(l.ps, p->kind == MK_PARAM_MATRIX ? (void *)p->w : p->p) == p);
    }
    int n_layer = (int)l.m->hp.n_layer, n_moe = n_layer - (int)l.m->hp.n_dense_lead;
    assert_int_equal(n_bias, n_moe);
    assert_int_equal(n_router, n_moe);
    // q_a, q_b, kv_a, o; gate, up, down of the dense, of the experts and of the shared experts
    assert_int_equal(n_lora, 4 * n_layer + 3 * (n_layer - n_moe) + 6 * n_moe);
    assert_int_equal(n_norm, 4 * n_layer + n_moe + 1);
    assert_null(mk_params_named(l.ps, "model.layers.0.mlp.gate_proj"));
    assert_null(mk_params_at(l.ps, l.ps));
    assert_true(mk_params_at(l.ps, l.m->globals.embed->data) ==
                mk_params_named(l.ps, "model.embed_tokens.weight"));
    unload(&l);
}

// A trainer's memory plan, and rows beyond the last are zeros that an optimiser may walk.
static void test_memory(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FOLDER; i++) {
        char path[512];
        snprintf(path, sizeof path, GOLDEN "models/%s", folders[i]);
        mk_model *m = NULL;
        mk_err err = {0};
        assert_int_equal(mk_model_open(path, &m, &err), MK_OK);
        size_t plan = mk_model_f32_bytes(m);
        mk_model_close(m);
        loaded l = load_folder(folders[i], true);
        int64_t n_float = 0;
        for (int64_t k = 0; k < l.ps->n; k++) {
            const mk_param *p = &l.ps->list[k];
            n_float += p->n_float + (p->tied ? (p->n_out + 15) / 16 * 16 * p->n_in : 0);
            for (int64_t at = 0; p->kind == MK_PARAM_MATRIX && at < p->n_float; at++) {
                int64_t in_mat = at % (p->n_float / p->n_mat);
                int64_t row = in_mat / 16 / p->n_in * 16 + in_mat % 16;
                assert_true(row < p->n_out || p->p[at] == 0);
            }
        }
        assert_int_equal(plan, (size_t)n_float * sizeof(float));
        assert_int_equal(mk_model_f32_bytes(l.m), plan);
        unload(&l);
    }
}

// What may be changed after loading for inference: vectors and routers of a quantised file, all but
// the token table of a float32 one.
static void test_frozen(void **state) {
    (void)state;
    loaded q = load(GOLDEN "gguf/deepseek_v3-c-q4_0.gguf", false);
    for (int64_t i = 0; i < q.ps->n; i++) {
        const mk_param *p = &q.ps->list[i];
        bool free = p->kind == MK_PARAM_VECTOR || p->is_router;
        assert_true((p->p != NULL) == free);
        assert_true(mk_params_at(q.ps, p->kind == MK_PARAM_MATRIX ? (void *)p->w
                                       : p->p                     ? (void *)p->p
                                                                  : q.m->globals.embed->data) == p);
    }
    unload(&q);
    loaded f = load_folder("llama", false);
    for (int64_t i = 0; i < f.ps->n; i++) {
        assert_true((f.ps->list[i].p != NULL) == (f.ps->list[i].kind != MK_PARAM_EMBED));
    }
    unload(&f);
}

static void test_set_and_refresh(void **state) {
    (void)state;
    loaded l = load_folder("qwen2_tied", true);
    const mk_param *e = mk_params_named(l.ps, "model.embed_tokens.weight");
    assert_true(e && e->tied && e->w == &l.m->globals.output);
    assert_true(mk_params_at(l.ps, e->w) == e);
    for (int64_t i = 0; i < e->n_float; i++) {
        e->p[i] = (float)mk_rng_unit(1, (uint64_t)i);
    }
    mk_params_refresh(l.ps, l.pool);
    float *rows = mk_alloc((size_t)e->n_float * sizeof *rows);
    mk_f32_unpack(rows, (const float *)(const void *)e->w->data, (mk_f32_shape){e->n_out, e->n_in},
                  l.pool);
    assert_memory_equal(rows, e->p, (size_t)e->n_float * sizeof *rows);
    mk_free(rows);
    unload(&l);

    l = load_folder("deepseek_v2", true);
    const mk_param *x = mk_params_named(l.ps, "model.layers.1.mlp.experts.*.up_proj.weight");
    assert_true(x && x->n_mat == l.m->hp.n_expert);
    int64_t n = x->n_out * x->n_in;
    float *in = mk_alloc((size_t)n * sizeof *in), *out = mk_alloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        in[i] = (float)i;
    }
    mk_param_set(x, 2, in, l.pool);
    mk_param_get(x, 2, out, l.pool);
    assert_memory_equal(in, out, (size_t)n * sizeof *in);
    assert_int_equal(check_values(&l, x), 1);  // the other experts are as they were
    mk_free(in);
    mk_free(out);
    unload(&l);
}

static mk_status load_scenario(void *arg, mk_err *err) {
    mk_pool *pool = arg;
    mk_model *m = NULL;
    mk_params *ps = NULL;
    mk_status st = mk_model_open(GOLDEN "models/deepseek_v3-fp8", &m, err);
    st = st == MK_OK ? mk_model_load_f32(m, pool, NULL, NULL, err) : st;
    st = st == MK_OK ? mk_params_create(m, &ps, err) : st;
    mk_params_destroy(ps);
    mk_model_close(m);
    return st;
}

static void test_no_memory(void **state) {
    (void)state;
    mk_pool *pool = mk_pool_create(1);
    assert_true(mk_torture(load_scenario, pool) > 20);
    mk_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder_values), cmocka_unit_test(test_gguf_is_folder),
        cmocka_unit_test(test_flags),         cmocka_unit_test(test_memory),
        cmocka_unit_test(test_frozen),        cmocka_unit_test(test_set_and_refresh),
        cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
