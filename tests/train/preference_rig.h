// A small model that learns from preferences: what the tests of pairs and of labels share.
#ifndef MK_TESTS_TRAIN_PREFERENCE_RIG_H
#define MK_TESTS_TRAIN_PREFERENCE_RIG_H

#include "base/json.h"
#include "cmocka_all.h"
#include "train/preference.h"
#include "train/gradients.h"

typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_tokenizer *tok;
    mk_data *data;
    mk_trainer *tr;
    mk_preference *pref;  // NULL: the test makes it, of `o`
    mk_preference_opts o;
    mk_err err;
} rig;

static inline double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static inline double item(const json_t *list, size_t i) {
    const json_t *v = json_array_get(list, i);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static inline void must(rig *r, mk_status st) {
    if (st != MK_OK) {
        fail_msg("%s", r->err.msg);
    }
}

// text: lines of JSON, which are the data to learn from and to evaluate on.
static inline rig open_rig(int n_thread, int64_t n_row, const char *text) {
    rig r = {0};
    const char *dir = "tests/golden/models/llama";
    r.pool = mk_pool_create(n_thread);
    must(&r, mk_model_open(dir, &r.model, &r.err));
    must(&r, mk_model_load_f32(r.model, r.pool, NULL, NULL, &r.err));
    must(&r, mk_tokenizer_from_folder(dir, &r.tok, &r.err));
    mk_data_opts d = MK_DATA_DEFAULTS;
    d.tokenizer = r.tok;
    d.raw = true;
    must(&r, mk_data_create(&d, &r.data, &r.err));
    must(&r, mk_data_add_memory(r.data, "x.jsonl", text, strlen(text), &r.err));
    mk_trainer_opts t = {.model = r.model,
                         .pool = r.pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 64,
                         .n_row = n_row,
                         .n_seq = 8,
                         .optim = mk_optim_defaults()};
    t.optim.weight_decay = 0;
    must(&r, mk_kernels_find("auto", &t.kernels, &r.err));
    must(&r, mk_trainer_create(&t, &r.tr, &r.err));
    r.o = (mk_preference_opts){.trainer = r.tr,
                               .data = r.data,
                               .eval = r.data,
                               .n_row = n_row,
                               .n_seq = 8,
                               .n_accum = 1,
                               .seed = 1,
                               .shuffle = true};
    return r;
}

static inline void close_rig(rig *r) {
    mk_preference_destroy(r->pref);
    mk_trainer_destroy(r->tr);
    mk_data_destroy(r->data);
    mk_tokenizer_destroy(r->tok);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

// One step with its evaluation behind it; returns the log.
static inline json_t *one_step(rig *r, int64_t step, double lr) {
    json_t *log = json_object();
    double g_scale = 0, score = 0;
    must(r, mk_method_dpo.step(r->pref, step, &g_scale, log, &r->err));
    mk_optim_at at = {step + 1, lr, g_scale};
    must(r, mk_trainer_update(r->tr, &at, NULL, &r->err));
    must(r, mk_method_dpo.evaluate(r->pref, step, &score, log, &r->err));
    return log;
}

static inline void refresh(rig *r) {
    mk_params_refresh(mk_trainer_params(r->tr), r->pool);
}

// Every fifth parameter: what the last step handed to the optimiser, times scale, is the slope of
// what m measures.  loss: about what it measures now.
static inline void gradients_agree(rig *r, const measure *m, double scale, double loss,
                                   const char *name) {
    const mk_params *ps = mk_trainer_params(r->tr);
    for (int64_t i = 0; i < ps->n; i += 5) {
        const mk_param *p = &ps->list[i];
        const float *g = mk_trainer_gradient(r->tr, p);
        double want = 0, eps = 2e-2 * (1 + loss) / (scale * length(g, p->n_float) + 0.1);
        if (!agrees(m, p, g, scale, eps, &want)) {
            fail_msg("%s, %s: slope %.6g, gradient along it %.6g", name, p->name, want,
                     scale * along(g, p));
        }
    }
}

#endif
