// The prediction layer of DeepSeek-V3 in files and in memory: loaded only when it is asked for,
// listed, written and read again.  What it computes is in tests/train/test_golden_grads.c.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "model/export.h"
#include "model/folder.h"
#include "model/forward.h"
#include "model/params.h"
#include "torture.h"

#define FOLDER "tests/golden/models/deepseek_v3_mtp"
#define GGUF   "tests/golden/gguf/deepseek_v3_mtp-c-bf16.gguf"

static mk_pool *pool;

typedef struct {
    mk_model *m;
    mk_params *ps;
} loaded;

static void ok(mk_status st, const mk_err *err) {
    if (st != MK_OK) {
        fail_msg("%s", err->msg);
    }
}

static loaded load(const char *path, bool mtp) {
    loaded l = {NULL, NULL};
    mk_err err = {0};
    ok(mk_model_open(path, &l.m, &err), &err);
    ok(mtp ? mk_model_use_mtp(l.m, &err) : MK_OK, &err);
    ok(mk_model_load_f32(l.m, pool, NULL, NULL, &err), &err);
    ok(mk_params_create(l.m, &l.ps, &err), &err);
    return l;
}

static void unload(loaded *l) {
    mk_params_destroy(l->ps);
    mk_model_close(l->m);
}

// --- places --------------------------------------------------------------------------------------

typedef struct {
    char dir[40];
    char *folder, *gguf;
} place;

static place make_place(void) {
    place p = {.dir = "/tmp/mk_mtp_XXXXXX"};
    assert_non_null(mkdtemp(p.dir));
    p.folder = mk_path_join(p.dir, "model");
    p.gguf = mk_path_join(p.dir, "model.gguf");
    return p;
}

static void drop_place(place *p) {
    DIR *d = opendir(p->folder);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        char *name = mk_path_join(p->folder, e->d_name);
        (void)unlink(name);
        mk_free(name);
    }
    if (d) {
        closedir(d);
    }
    (void)rmdir(p->folder);
    (void)unlink(p->gguf);
    mk_free(p->folder);
    mk_free(p->gguf);
    assert_int_equal(rmdir(p->dir), 0);
}

static void save(const mk_model *m, const char *dir) {
    mk_err err = {0};
    ok(mk_model_save_folder(m, dir, &(mk_save_opts){.type = MK_DTYPE_F32}, &err), &err);
}

static void export(const mk_model *m, bool mtp, const char *path) {
    mk_err err = {0};
    mk_export_opts o = {.type = MK_DTYPE_F32, .name = "t", .mtp = mtp};
    ok(mk_export_gguf(m, &o, path, &err), &err);
}

// --- in memory -----------------------------------------------------------------------------------

static const mk_param *named(const loaded *l, const char *name) {
    return mk_params_named(l->ps, name);
}

static void it_is_listed_when_it_is_loaded(void **state) {
    (void)state;
    loaded without = load(FOLDER, false), with = load(FOLDER, true);
    // three norms and eh_proj; in the block 4 norms, q_a, q_b, kv_a, two halves of kv_b, o, router,
    // bias, three of the experts and three of the shared one
    assert_int_equal(with.ps->n - without.ps->n, 4 + 4 + 6 + 2 + 6);
    assert_null(named(&without, "model.layers.2.eh_proj.weight"));
    const mk_param *eh = named(&with, "model.layers.2.eh_proj.weight"),
                   *norm = named(&with, "model.layers.2.shared_head.norm.weight"),
                   *up = named(&with, "model.layers.2.mlp.experts.*.up_proj.weight"),
                   *bias = named(&with, "model.layers.2.mlp.gate.e_score_correction_bias");
    assert_true(eh && eh->n_out == 48 && eh->n_in == 96 && eh->is_lora_target);
    assert_true(norm && norm->is_norm_or_bias && !norm->is_select_bias);
    assert_true(up && up->n_mat == 4);
    assert_true(bias && bias->is_select_bias);
    for (int64_t i = 0; i < without.ps->n; i++) {  // the others come first, in the same order
        assert_string_equal(without.ps->list[i].name, with.ps->list[i].name);
    }
    float rows[48 * 96];
    mk_param_get(eh, 0, rows, pool);
    const mk_tensor_view *v = mk_source_find(with.m->src, eh->name);
    assert_int_equal(v->n_bytes, sizeof rows);
    assert_memory_equal(rows, v->data, sizeof rows);
    unload(&without);
    unload(&with);
}

static void it_costs_nothing_when_it_is_not(void **state) {
    (void)state;
    mk_model *m = NULL;
    mk_err err = {0};
    ok(mk_model_open(FOLDER, &m, &err), &err);
    size_t f32 = mk_model_f32_bytes(m), packed = mk_model_weight_bytes(m),
           kv = mk_model_kv_bytes_per_block(m, MK_KV_F32);
    ok(mk_model_use_mtp(m, &err), &err);
    assert_true(mk_model_f32_bytes(m) > f32 && mk_model_weight_bytes(m) > packed);
    assert_int_equal(mk_model_kv_bytes_per_block(m, MK_KV_F32) * 2, kv * 3);
    mk_model_close(m);
    loaded l = load(FOLDER, false);
    assert_int_equal(mk_model_f32_bytes(l.m), f32);
    assert_null(l.m->layer[2].eh_proj.data);
    assert_null(l.m->layer[2].e_norm);
    unload(&l);
}

static void the_models_logits_stay(void **state) {
    (void)state;
    loaded a = load(FOLDER, false), b = load(FOLDER, true);
    float *x = forward_logits(a.m, pool), *y = forward_logits(b.m, pool);
    assert_memory_equal(x, y, (size_t)(FORWARD_TOK * a.m->hp.n_vocab) * sizeof *x);
    mk_free(x);
    mk_free(y);
    unload(&a);
    unload(&b);
}

// --- in files ------------------------------------------------------------------------------------

static void check_same(const loaded *want, const char *path) {
    loaded got = load(path, want->m->mtp);
    assert_int_equal(got.ps->n, want->ps->n);
    for (int64_t i = 0; i < want->ps->n; i++) {
        const mk_param *a = &want->ps->list[i], *b = &got.ps->list[i];
        assert_string_equal(a->name, b->name);
        if (a->n_float != b->n_float ||
            memcmp(a->p, b->p, (size_t)a->n_float * sizeof(float)) != 0) {
            fail_msg("%s: %s is not what it was", path, a->name);
        }
    }
    unload(&got);
}

static void change(const loaded *l) {
    for (int64_t i = 0; i < l->ps->n; i++) {
        for (int64_t k = 0; k < l->ps->list[i].n_float; k++) {
            l->ps->list[i].p[k] *= 0.75f + 0.5f * (float)mk_rng_unit((uint64_t)i, (uint64_t)k);
        }
    }
    mk_params_refresh(l->ps, pool);
}

static int64_t said_layers(const mk_model *m) {
    return m->hp.n_nextn;
}

// From either format into both, trained or as the files say.
static void what_is_written_is_read(void **state) {
    (void)state;
    static const char *const sources[] = {FOLDER, GGUF};
    for (int i = 0; i < 4; i++) {
        place p = make_place();
        loaded l = load(sources[i / 2], true);
        if (i % 2 == 0) {
            change(&l);
        }
        save(l.m, p.folder);
        check_same(&l, p.folder);
        export(l.m, true, p.gguf);
        check_same(&l, p.gguf);
        mk_model *m = NULL;
        mk_err err = {0};
        ok(mk_model_open(p.gguf, &m, &err), &err);
        assert_int_equal(said_layers(m), 1);
        // copies would be of the token table before it was trained
        assert_null(mk_source_find(m->src, "blk.2.nextn.embed_tokens.weight"));
        mk_model_close(m);
        unload(&l);
        drop_place(&p);
    }
}

// A model that is only converted keeps its layer, and a GGUF file is without it unless it is asked
// for.
static void files_are_converted(void **state) {
    (void)state;
    place p = make_place();
    loaded all = load(FOLDER, true), main = load(FOLDER, false);
    mk_model *m = NULL;
    mk_err err = {0};
    ok(mk_model_open(FOLDER, &m, &err), &err);
    save(m, p.folder);
    check_same(&all, p.folder);
    export(m, true, p.gguf);
    check_same(&all, p.gguf);
    check_same(&main, p.gguf);
    export(m, false, p.gguf);
    check_same(&main, p.gguf);
    mk_model_close(m);
    ok(mk_model_open(p.gguf, &m, &err), &err);
    assert_int_equal(said_layers(m), 0);
    assert_int_equal(mk_model_use_mtp(m, &err), MK_EUNSUPPORTED);
    mk_model_close(m);
    unload(&all);
    unload(&main);
    drop_place(&p);
}

// A new model has what transformers' has, but for the copies of token table and output matrix.
static void a_new_model_has_it(void **state) {
    (void)state;
    place p = make_place();
    mk_err err = {0};
    ok(mk_model_init_folder(FOLDER, p.folder, 3, &err), &err);
    loaded l = load(p.folder, true);
    mk_model *m = NULL;
    ok(mk_model_open(FOLDER, &m, &err), &err);
    assert_int_equal(mk_source_n_tensor(l.m->src), mk_source_n_tensor(m->src) - 2);
    for (int64_t i = 0; i < mk_source_n_tensor(l.m->src); i++) {
        const mk_tensor_view *a = mk_source_tensor(l.m->src, i),
                             *b = mk_source_find(m->src, a->name);
        assert_true(b && a->n_dim == b->n_dim && a->n_bytes == b->n_bytes);
    }
    const mk_param *norm = named(&l, "model.layers.2.hnorm.weight");
    assert_true(norm->p[0] == 1 && norm->p[47] == 1);
    mk_model_close(m);
    unload(&l);
    drop_place(&p);
}

// --- what is refused -----------------------------------------------------------------------------

// The same weights with another number of layers in the configuration.
static mk_status use(const char *base, int n_nextn, mk_err *err) {
    place p = make_place();
    json_t *config = NULL;
    char from[2048], cwd[1024], *a = mk_path_join(base, "config.json"),
                                *b = mk_path_join(p.folder, "config.json"),
                                *c = mk_path_join(p.folder, "model.safetensors");
    ok(mk_json_file(a, 1 << 20, &config, err), err);
    json_object_set_new(config, "num_nextn_predict_layers", json_integer(n_nextn));
    assert_int_equal(mkdir(p.folder, 0777), 0);
    assert_int_equal(json_dump_file(config, b, 0), 0);
    json_decref(config);
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(from, sizeof from, "%s/%s/model.safetensors", cwd, base);
    assert_int_equal(symlink(from, c), 0);
    mk_model *m = NULL;
    ok(mk_model_open(p.folder, &m, err), err);  // it runs without the layer in any case
    mk_status st = mk_model_use_mtp(m, err);
    mk_model_close(m);
    mk_free(a);
    mk_free(b);
    mk_free(c);
    drop_place(&p);
    return st;
}

static void what_is_refused(void **state) {
    (void)state;
    mk_err err = {0};
    assert_int_equal(use(FOLDER, 1, &err), MK_OK);
    assert_int_equal(use(FOLDER, 2, &err), MK_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "2 layers"));
    assert_int_equal(use("tests/golden/models/deepseek_v3", 1, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "model.layers.5."));
    assert_int_equal(use("tests/golden/models/deepseek_v3", 0, &err), MK_EUNSUPPORTED);
    assert_int_equal(use("tests/golden/models/llama", 1, &err), MK_EUNSUPPORTED);
}

static mk_status open_scenario(void *arg, mk_err *err) {
    mk_model *m = NULL;
    (void)arg;
    MK_TRY(mk_model_open(FOLDER, &m, err));
    mk_status st = mk_model_use_mtp(m, err);
    mk_model_close(m);
    return st;
}

static void no_memory(void **state) {
    (void)state;
    assert_true(mk_torture(open_scenario, NULL) > 30);
}

static int make_pool(void **state) {
    (void)state;
    pool = mk_pool_create(2);
    return 0;
}

static int drop_pool(void **state) {
    (void)state;
    mk_pool_destroy(pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_listed_when_it_is_loaded),
        cmocka_unit_test(it_costs_nothing_when_it_is_not),
        cmocka_unit_test(the_models_logits_stay),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(files_are_converted),
        cmocka_unit_test(a_new_model_has_it),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, make_pool, drop_pool);
}
