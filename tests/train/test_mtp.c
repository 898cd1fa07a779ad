// Training with a prediction layer: what it leaves alone, whose weights its loss has, what is
// refused.  Its gradients are in test_trainer.c, and against transformers in test_golden_grads.c.
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "cmocka_all.h"
#include "model/folder.h"
#include "train/trainer.h"

#define MODEL "tests/golden/models/deepseek_v3_mtp"

enum { N_A = 11, N_B = 2, N_C = 9, N_SEQ = 3, N_ALL = N_A + N_B + N_C };

typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_trainer *tr;
    mk_err err;
    int32_t ids[N_SEQ][N_A];
    uint8_t mask[N_SEQ][N_A];
    float weight[N_ALL];  // that mean_weight gives, or all 0: 1 for each
    float logp[N_ALL];
    int64_t n_target;
} rig;

static const int64_t lengths[N_SEQ] = {N_A, N_B, N_C};

static mk_trainer_opts opts_of(const rig *r, double mtp_weight) {
    mk_trainer_opts o = {.model = r->model,
                         .pool = r->pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 16,
                         .n_row = 32,
                         .n_seq = N_SEQ,
                         .mtp_weight = mtp_weight,
                         .optim = mk_optim_defaults()};
    mk_err err = {0};
    assert_int_equal(mk_kernels_find("auto", &o.kernels, &err), MK_OK);
    return o;
}

static void open_model(rig *r, const char *path, bool use_mtp) {
    *r = (rig){.pool = mk_pool_create(2)};
    assert_int_equal(mk_model_open(path, &r->model, &r->err), MK_OK);
    if (use_mtp) {
        assert_int_equal(mk_model_use_mtp(r->model, &r->err), MK_OK);
    }
    assert_int_equal(mk_model_load_f32(r->model, r->pool, NULL, NULL, &r->err), MK_OK);
    for (int s = 0; s < N_SEQ; s++) {
        for (int64_t i = 0; i < lengths[s]; i++) {
            uint64_t u = mk_rng_u64((uint64_t)s, (uint64_t)i);
            r->ids[s][i] = (int32_t)(u % (uint64_t)r->model->hp.n_vocab);
            r->mask[s][i] = i > 0 && (u >> 40) % 4 != 0;
        }
    }
    r->mask[0][1] = r->mask[1][1] = 1;  // targets that only the model itself has
}

static void open_rig(rig *r, const char *path, bool use_mtp, double mtp_weight) {
    open_model(r, path, use_mtp);
    mk_trainer_opts o = opts_of(r, mtp_weight);
    if (mk_trainer_create(&o, &r->tr, &r->err) != MK_OK) {
        fail_msg("%s", r->err.msg);
    }
}

static void close_rig(rig *r) {
    mk_trainer_destroy(r->tr);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

static void give_weights(void *arg, const float *logp, float *weight, int64_t n) {
    const rig *r = arg;
    (void)logp;
    memcpy(weight, r->weight, (size_t)n * sizeof *weight);
}

static mk_mtp_sums pass(rig *r, bool learn) {
    mk_data_seq seq[N_SEQ];
    r->n_target = 0;
    for (int s = 0; s < N_SEQ; s++) {
        seq[s] = (mk_data_seq){.ids = r->ids[s], .mask = r->mask[s], .n = lengths[s]};
        for (int64_t i = 0; i < lengths[s]; i++) {
            seq[s].n_target += r->mask[s][i];
        }
        r->n_target += seq[s].n_target;
    }
    mk_mtp_sums mtp = {0};
    mk_train_pass p = {.seq = seq,
                       .n_seq = N_SEQ,
                       .weigh = learn ? give_weights : NULL,
                       .arg = r,
                       .logp = r->logp,
                       .mtp = &mtp};
    assert_int_equal(mk_trainer_pass(r->tr, &p, &r->err), MK_OK);
    return mtp;
}

// --- what it leaves alone ------------------------------------------------------------------------

// The model's own log-probabilities have the same bits without the layer, with it, and learning.
static void the_models_bits_stay(void **state) {
    (void)state;
    float want[N_ALL];
    for (int way = 0; way < 4; way++) {
        rig r;
        open_rig(&r, MODEL, way > 0, way > 1 ? 0.5 : 0);
        r.weight[1] = 1;
        mk_mtp_sums mtp = pass(&r, way == 3);
        assert_true((mtp.weight > 0) == (way >= 2));
        if (way == 0) {
            memcpy(want, r.logp, sizeof want);
        }
        assert_memory_equal(want, r.logp, sizeof want);
        close_rig(&r);
    }
}

// A layer that is loaded and not trained is not changed by weight decay either.
static void an_untrained_layer_stays(void **state) {
    (void)state;
    for (int way = 0; way < 2; way++) {
        rig r;
        open_rig(&r, MODEL, true, way == 0 ? 0 : 0.5);
        const mk_param *p =
            mk_params_named(mk_trainer_params(r.tr), "model.layers.2.eh_proj.weight");
        float before = p->p[0];
        r.weight[0] = 1;
        (void)pass(&r, true);
        assert_true((mk_trainer_gradient(r.tr, p) != NULL) == (way == 1));
        mk_optim_at at = {1, 0.1, 1};
        assert_int_equal(mk_trainer_update(r.tr, &at, NULL, &r.err), MK_OK);
        assert_true((p->p[0] == before) == (way == 0));
        close_rig(&r);
    }
}

// --- the loss ------------------------------------------------------------------------------------

// With a weight on one target, its loss is that of the layer predicting this target.
static void a_target_has_its_own_weight(void **state) {
    (void)state;
    rig r;
    open_rig(&r, MODEL, true, 0.5);
    rig one = r;  // its masks: one target at a time
    int64_t n = 0, n_both = 0;
    for (int s = 0; s < N_SEQ; s++) {
        for (int64_t i = 0; i < lengths[s]; i++) {
            if (!r.mask[s][i]) {
                continue;
            }
            memset(r.weight, 0, sizeof r.weight);
            memset(one.mask, 0, sizeof one.mask);
            r.weight[n] = -1;  // an answer to be avoided
            assert_true(pass(&r, true).weight == 0);
            r.weight[n++] = 2;
            one.mask[s][i] = 1;
            mk_mtp_sums got = pass(&r, true), want = pass(&one, false);
            if (!(fabs(got.loss - 2 * want.loss) < 1e-12 && got.weight == 2 * want.weight &&
                  want.weight == (i > 1) && (want.loss > 0) == (i > 1))) {
                fail_msg("sequence %d, token %lld: %.9g of %.9g, expected %.9g", s, (long long)i,
                         got.loss, got.weight, want.loss);
            }
            n_both += i > 1;
        }
    }
    assert_true(n_both > 8 && n > n_both);
    close_rig(&r);
}

// --- one matrix for the token table and the output -----------------------------------------------

static void make_tied(char dir[32]) {
    json_t *config = NULL;
    mk_err err = {0};
    char path[64];
    memcpy(dir, "/tmp/mk_tied_XXXXXX", 20);
    assert_non_null(mkdtemp(dir));
    assert_int_equal(mk_json_file(MODEL "/config.json", 1 << 20, &config, &err), MK_OK);
    json_object_set_new(config, "tie_word_embeddings", json_true());
    json_object_set_new(config, "initializer_range", json_real(0.2));
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    assert_int_equal(mk_model_init_folder(path, dir, 5, &err), MK_OK);
}

static void drop_tied(const char *dir) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

// The loss with the token table moved along its gradient.
static double loss_at(rig *r, const mk_param *p, const float *at, const float *g, double by) {
    for (int64_t i = 0; i < p->n_float; i++) {
        p->p[i] = at[i] + (float)(by * (double)g[i]);
    }
    mk_params_refresh(mk_trainer_params(r->tr), r->pool);
    mk_mtp_sums mtp = pass(r, false);
    double loss = 0.5 * mtp.loss;
    for (int64_t i = 0; i < r->n_target; i++) {
        loss -= (double)r->logp[i];
    }
    return loss;
}

// Four uses, two of which are the prediction layer's: the slope along the gradient is its length,
// squared.  The loss is some 200 nats, good to 1e-5, and moves by 0.1 along the step.
static void a_tied_table_gets_all_four(void **state) {
    (void)state;
    char dir[32];
    rig r;
    make_tied(dir);
    open_rig(&r, dir, true, 0.5);
    const mk_param *p = mk_params_named(mk_trainer_params(r.tr), "model.embed_tokens.weight");
    assert_true(p->tied);
    for (int i = 0; i < N_ALL; i++) {
        r.weight[i] = 1;
    }
    (void)pass(&r, true);
    const float *g = mk_trainer_gradient(r.tr, p);
    double square = 0;
    for (int64_t i = 0; i < p->n_float; i++) {
        square += (double)g[i] * (double)g[i];
    }
    float *at = mk_alloc((size_t)p->n_float * sizeof *at);
    memcpy(at, p->p, (size_t)p->n_float * sizeof *at);
    double by = 0.05 / square;
    double slope = (loss_at(&r, p, at, g, by) - loss_at(&r, p, at, g, -by)) / (2 * by);
    if (!(fabs(slope - square) < 0.005 * square)) {
        fail_msg("slope %.6g, expected %.6g", slope, square);
    }
    mk_free(at);
    close_rig(&r);
    drop_tied(dir);
}

// --- what is refused -----------------------------------------------------------------------------

static void what_is_refused(void **state) {
    (void)state;
    rig r;
    open_model(&r, MODEL, false);
    mk_trainer_opts o = opts_of(&r, 0.5);
    assert_int_equal(mk_trainer_create(&o, &r.tr, &r.err), MK_EUSAGE);
    assert_non_null(strstr(r.err.msg, "no prediction layer"));
    close_rig(&r);
    open_model(&r, MODEL, true);
    o = opts_of(&r, -1);
    r.tr = NULL;
    assert_int_equal(mk_trainer_create(&o, &r.tr, &r.err), MK_EUSAGE);
    o.mtp_weight = 0.5;
    assert_int_equal(mk_trainer_create(&o, &r.tr, &r.err), MK_OK);
    // the last id is never fed to the model, but to the layer, or it is a target
    r.ids[0][N_A - 1] = (int32_t)r.model->hp.n_vocab;
    mk_data_seq seq = {r.ids[0], r.mask[0], N_A, 0};
    mk_train_pass p = {.seq = &seq, .n_seq = 1};
    assert_int_equal(mk_trainer_pass(r.tr, &p, &r.err), MK_EUSAGE);
    assert_non_null(strstr(r.err.msg, "at the end of sequence 0"));
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_models_bits_stay),
        cmocka_unit_test(an_untrained_layer_stays),
        cmocka_unit_test(a_target_has_its_own_weight),
        cmocka_unit_test(a_tied_table_gets_all_four),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
