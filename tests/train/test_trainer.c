// Whole models: gradients against finite differences of the forward that serves, bits against
// threads, cuts and checkpoints, and learning one batch by heart.
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "cmocka_all.h"

// ..._mtp with its prediction layer.
static const char *const folders[] = {"llama",           "llama3",      "qwen2",
                                      "qwen2_tied",      "deepseek_v2", "deepseek_v2lite",
                                      "deepseek_v3_mtp", "deepseek_v3"};
#define MTP_WEIGHT 0.3
#define N_FOLDER   (sizeof folders / sizeof folders[0])
#ifdef MK_TEST_SHORT
#define EVERY 3
#else
#define EVERY 1
#endif

#define N_A 21
#define N_B 14
static int32_t ids_a[N_A], ids_b[N_B];
static uint8_t mask_a[N_A], mask_b[N_B];

typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_trainer *tr;
    mk_err err;
    double loss;
    bool mtp;
    float logp[64];
} rig;

static rig open_rig(const char *folder, int n_thread, bool checkpoint, double lr_clip) {
    rig r = {.mtp = strstr(folder, "_mtp") != NULL};
    char path[256];
    snprintf(path, sizeof path, "tests/golden/models/%s", folder);
    r.pool = mk_pool_create(n_thread);
    assert_int_equal(mk_model_open(path, &r.model, &r.err), MK_OK);
    if (r.mtp) {
        assert_int_equal(mk_model_use_mtp(r.model, &r.err), MK_OK);
    }
    assert_int_equal(mk_model_load_f32(r.model, r.pool, NULL, NULL, &r.err), MK_OK);
    mk_trainer_opts o = {.model = r.model,
                         .pool = r.pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 32,
                         .n_row = 64,
                         .n_seq = 4,
                         .checkpoint = checkpoint,
                         .mtp_weight = r.mtp ? MTP_WEIGHT : 0,
                         .optim = mk_optim_defaults()};
    o.optim.clip = lr_clip;
    o.optim.weight_decay = 0;
    assert_int_equal(mk_kernels_find("auto", &o.kernels, &r.err), MK_OK);
    if (mk_trainer_create(&o, &r.tr, &r.err) != MK_OK) {
        fail_msg("%s", r.err.msg);
    }
    for (int i = 0; i < N_A; i++) {
        ids_a[i] = (int32_t)(mk_rng_u64(1, (uint64_t)i) % (uint64_t)r.model->hp.n_vocab);
        mask_a[i] = i > 3;
    }
    for (int i = 0; i < N_B; i++) {
        ids_b[i] = (int32_t)(mk_rng_u64(2, (uint64_t)i) % (uint64_t)r.model->hp.n_vocab);
        mask_b[i] = i > 0;
    }
    return r;
}

static void close_rig(rig *r) {
    mk_trainer_destroy(r->tr);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

static void mean_loss(void *arg, const float *logp, float *weight, int64_t n) {
    rig *r = arg;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = 1.0f / (float)(N_A - 4 + N_B - 1);
        r->loss -= (double)logp[i] * (double)weight[i];
    }
}

static void pass(rig *r, int which, bool learn) {
    mk_data_seq seq[] = {{ids_a, mask_a, N_A, N_A - 4}, {ids_b, mask_b, N_B, N_B - 1}};
    mk_mtp_sums mtp = {0};
    mk_train_pass p = {.seq = which == 1 ? seq + 1 : seq,
                       .n_seq = which == 2 ? 2 : 1,
                       .weigh = learn ? mean_loss : NULL,
                       .arg = r,
                       .logp = r->logp,
                       .mtp = &mtp};
    r->loss = 0;
    assert_int_equal(mk_trainer_pass(r->tr, &p, &r->err), MK_OK);
    int n = (which != 1 ? N_A - 4 : 0) + (which != 0 ? N_B - 1 : 0);
    double loss = 0;
    for (int i = 0; i < n; i++) {
        loss -= (double)r->logp[i] / (N_A - 4 + N_B - 1);
    }
    if (learn) {
        assert_true(fabs(loss - r->loss) < 1e-6);
    }
    r->loss = loss + MTP_WEIGHT * (learn ? mtp.loss : mtp.loss / (N_A - 4 + N_B - 1));
}

// The slope of the loss along a random direction of one parameter.
static double slope(rig *r, const mk_param *p, double eps) {
    float *keep = mk_alloc((size_t)p->n_float * sizeof *keep);
    memcpy(keep, p->p, (size_t)p->n_float * sizeof *keep);
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < p->n_float; i++) {
            double d = 2 * mk_rng_unit(3, (uint64_t)i) - 1;
            p->p[i] = keep[i] + (float)((side ? -eps : eps) * d);
        }
        mk_params_refresh(mk_trainer_params(r->tr), r->pool);
        pass(r, 2, false);
        loss[side] = r->loss;
    }
    memcpy(p->p, keep, (size_t)p->n_float * sizeof *keep);
    mk_params_refresh(mk_trainer_params(r->tr), r->pool);
    mk_free(keep);
    return (loss[0] - loss[1]) / (2 * eps);
}

static double along(const float *g, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)g[i] * (2 * mk_rng_unit(3, (uint64_t)i) - 1);
    }
    return sum;
}

static double length(const float *g, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)g[i] * (double)g[i];
    }
    return sqrt(sum);
}

// The forward is float32: the loss of some ten nats has an error of about 1e-6, and the step is
// chosen so that the loss moves by about 1e-3; so 1 % and a little of the gradient's length, for
// directions that lie across it.  A router may choose another expert on the way, where the loss
// jumps: then a smaller step must agree.
static bool agrees(rig *r, const mk_param *p, const float *g, double *want) {
    double len = length(g, p->n_float), got = along(g, p->n_float);
    double eps = len > 0.03 ? 1e-3 / len : 3e-2;
    for (int i = 0; i < 4; i++, eps /= 5) {
        *want = slope(r, p, eps);
        if (fabs(got - *want) <= 0.01 * fabs(*want) + 0.02 * len + 1e-4) {
            return true;
        }
    }
    return false;
}

static void gradients_are_slopes(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f += EVERY) {
        rig r = open_rig(folders[f], 2, false, 0);
        pass(&r, 2, true);
        const mk_params *ps = mk_trainer_params(r.tr);
        for (int64_t i = 0; i < ps->n; i++) {
            const mk_param *p = &ps->list[i];
            const float *g = mk_trainer_gradient(r.tr, p);
            double want = 0;
            if (p->is_select_bias) {
                assert_null(g);
            } else if (!agrees(&r, p, g, &want)) {
                fail_msg("%s, %s: slope %.6g, gradient along it %.6g (length %.3g)", folders[f],
                         p->name, want, along(g, p->n_float), length(g, p->n_float));
            }
        }
        close_rig(&r);
    }
}

static void *all_gradients(rig *r, size_t *n) {
    const mk_params *ps = mk_trainer_params(r->tr);
    *n = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        *n += (size_t)ps->list[i].n_float;
    }
    float *all = mk_alloc(*n * sizeof *all);
    memset(all, 0, *n * sizeof *all);
    size_t at = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        const float *g = mk_trainer_gradient(r->tr, &ps->list[i]);
        if (g) {
            memcpy(all + at, g, (size_t)ps->list[i].n_float * sizeof *g);
        }
        at += (size_t)ps->list[i].n_float;
    }
    return all;
}

// One thread or three, one batch or two, layers kept or computed again: the same bytes.
static void gradients_do_not_depend_on_how(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f += EVERY) {
        size_t n = 0, m = 0;
        rig r = open_rig(folders[f], 1, false, 0);
        pass(&r, 2, true);
        float *want = all_gradients(&r, &n);
        close_rig(&r);
        for (int way = 0; way < 3; way++) {
            r = open_rig(folders[f], way == 0 ? 3 : 2, way == 1, 0);
            if (way == 2) {
                pass(&r, 0, true);
                pass(&r, 1, true);
            } else {
                pass(&r, 2, true);
            }
            float *got = all_gradients(&r, &m);
            assert_int_equal(n, m);
            if (memcmp(want, got, n * sizeof *got) != 0) {
                fail_msg("%s: way %d gives other gradients", folders[f], way);
            }
            mk_free(got);
            close_rig(&r);
        }
        mk_free(want);
    }
}

// Learning two sequences by heart.
static void one_batch_can_be_learned(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f += 3) {
        rig r = open_rig(folders[f], 2, f % 2 == 0, 1.0);
        for (int64_t step = 1; step <= 60; step++) {
            pass(&r, 2, true);
            mk_optim_at at = {step, 1e-2, 1};
            assert_int_equal(mk_trainer_update(r.tr, &at, NULL, &r.err), MK_OK);
        }
        pass(&r, 2, false);
        if (!(r.loss < 0.05)) {
            fail_msg("%s: loss %.4f after 60 steps", folders[f], r.loss);
        }
        close_rig(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(gradients_do_not_depend_on_how),
        cmocka_unit_test(one_batch_can_be_learned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
