// A small model with its trainer and two sequences to learn: what the tests of whole models and of
// adapters share.
#ifndef MK_TESTS_TRAIN_TRAINER_RIG_H
#define MK_TESTS_TRAIN_TRAINER_RIG_H

#include "cmocka_all.h"
#include "train/gradients.h"
#include "train/trainer.h"

enum { N_A = 21, N_B = 14, N_TARGET = N_A - 4 + N_B - 1 };
static int32_t ids_a[N_A], ids_b[N_B];
static uint8_t mask_a[N_A], mask_b[N_B];

#define MTP_WEIGHT 0.3

typedef struct {
    const char *path;  // below tests/golden/
    int n_thread;      // 0: 2
    bool f32, mtp, checkpoint;
    int rank;  // of adapters; 0: all weights are trained
    bool dora;
    double clip, balance_rate;
} rig_spec;

typedef struct {
    rig_spec spec;
    mk_model *model;
    mk_pool *pool;
    mk_adapters *set;  // NULL: none
    mk_trainer *tr;
    mk_err err;
    double loss;           // of the last pass: mean over the targets of both sequences
    float logp[N_TARGET];  // of its targets
} rig;

static inline mk_trainer_opts trainer_opts(const rig *r, bool checkpoint) {
    mk_trainer_opts o = {.model = r->model,
                         .adapters = r->set,
                         .pool = r->pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 32,
                         .n_row = 64,
                         .n_seq = 4,
                         .checkpoint = checkpoint,
                         .mtp_weight = r->spec.mtp ? MTP_WEIGHT : 0,
                         .balance_rate = r->spec.balance_rate,
                         .optim = mk_optim_defaults()};
    o.optim.clip = r->spec.clip;
    o.optim.weight_decay = 0;
    assert_int_equal(mk_kernels_find("auto", &o.kernels, NULL), MK_OK);
    return o;
}

static inline void fill(int32_t *ids, uint8_t *mask, int n, int n_prompt, uint64_t seed,
                        int64_t n_vocab) {
    for (int i = 0; i < n; i++) {
        ids[i] = (int32_t)(mk_rng_u64(seed, (uint64_t)i) % (uint64_t)n_vocab);
        mask[i] = i >= n_prompt;
    }
}

static inline void must(rig *r, mk_status st) {
    if (st != MK_OK) {
        fail_msg("%s: %s", r->spec.path, r->err.msg);
    }
}

static inline rig open_rig(rig_spec s) {
    rig r = {.spec = s, .pool = mk_pool_create(s.n_thread ? s.n_thread : 2)};
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s", s.path);
    must(&r, mk_model_open(path, &r.model, &r.err));
    if (s.mtp) {
        must(&r, mk_model_use_mtp(r.model, &r.err));
    }
    must(&r, (s.f32 ? mk_model_load_f32 : mk_model_load)(r.model, r.pool, NULL, NULL, &r.err));
    if (s.rank) {
        mk_adapter_spec spec = {.rank = s.rank, .alpha = 4, .dora = s.dora, .seed = 7};
        must(&r, mk_adapters_create(r.model, &spec, r.pool, &r.set, &r.err));
    }
    mk_trainer_opts o = trainer_opts(&r, s.checkpoint);
    must(&r, mk_trainer_create(&o, &r.tr, &r.err));
    fill(ids_a, mask_a, N_A, 4, 1, r.model->hp.n_vocab);
    fill(ids_b, mask_b, N_B, 1, 2, r.model->hp.n_vocab);
    return r;
}

static inline void close_rig(rig *r) {
    mk_trainer_destroy(r->tr);
    mk_adapters_destroy(r->set);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

static inline void mean_loss(void *arg, const float *logp, float *weight, int64_t n) {
    rig *r = arg;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = 1.0f / N_TARGET;
        r->loss -= (double)logp[i] * (double)weight[i];
    }
}

// which: the first sequence, the second, or 2 for both.
static inline void pass(rig *r, int which, bool learn) {
    mk_data_seq seq[] = {{ids_a, mask_a, N_A, N_A - 4}, {ids_b, mask_b, N_B, N_B - 1}};
    mk_mtp_sums mtp = {0};
    mk_train_pass p = {.seq = which == 1 ? seq + 1 : seq,
                       .n_seq = which == 2 ? 2 : 1,
                       .weigh = learn ? mean_loss : NULL,
                       .arg = r,
                       .logp = r->logp,
                       .mtp = r->spec.mtp ? &mtp : NULL};
    r->loss = 0;
    must(r, mk_trainer_pass(r->tr, &p, &r->err));
    int n = (which != 1 ? N_A - 4 : 0) + (which != 0 ? N_B - 1 : 0);
    double loss = 0;
    for (int i = 0; i < n; i++) {
        loss -= (double)r->logp[i] / N_TARGET;
    }
    if (learn) {
        assert_true(fabs(loss - r->loss) < 1e-6);
    }
    r->loss = loss + MTP_WEIGHT * (learn ? mtp.loss : mtp.loss / N_TARGET);
}

static inline double loss_now(void *arg) {
    rig *r = arg;
    pass(r, 2, false);
    return r->loss;
}

// A loss of some ten nats has an error of about 1e-6 in float32: a step that moves it by about
// 1e-3.
static inline bool gradient_agrees(rig *r, void (*moved)(void *arg, const mk_param *p),
                                   const mk_param *p, const float *g, double *want) {
    measure m = {loss_now, moved, r};
    double len = length(g, p->n_float);
    return agrees(&m, p, g, 1, len > 0.03 ? 1e-3 / len : 3e-2, want);
}

#endif
