// Training adapters: gradients against finite differences of the forward that serves, bits against
// threads, cuts, checkpoints and decoding with a cache, learning, plans.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "cmocka_all.h"
#include "train/trainer.h"

#define LLAMA   "models/llama"
#define QWEN2   "models/qwen2"
#define DEEP    "models/deepseek_v3"
#define LLAMA_B "models/llama-bf16"
#define DEEP_B  "models/deepseek_v3-bf16"
#define LLAMA_Q "gguf/llama_k256-q4_k.gguf"
#define DEEP_Q  "gguf/deepseek_v3_k256-c-q4_k_m.gguf"
#define N(a)    (sizeof(a) / sizeof(a)[0])

// Under sanitizers, ten times slower, only the last of a list.
#ifdef MK_TEST_SHORT
#define FIRST(a) (N(a) - 1)
#else
#define FIRST(a) ((size_t)0)
#endif

#define N_A 21
#define N_B 14
static int32_t ids_a[N_A], ids_b[N_B];
static uint8_t mask_a[N_A], mask_b[N_B];

typedef struct {
    const char *path;
    bool f32, dora, checkpoint;
    int n_thread, rank;
} rig_spec;

typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_adapters *set;
    mk_trainer *tr;
    mk_err err;
    double loss;
} rig;

static mk_trainer_opts trainer_opts(const rig *r, bool checkpoint) {
    mk_trainer_opts o = {.model = r->model,
                         .adapters = r->set,
                         .pool = r->pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 32,
                         .n_row = 64,
                         .n_seq = 4,
                         .checkpoint = checkpoint,
                         .balance_rate = 0.1,
                         .optim = mk_optim_defaults()};
    o.optim.weight_decay = 0;
    assert_int_equal(mk_kernels_find("auto", &o.kernels, NULL), MK_OK);
    return o;
}

// B is not zero: with B = 0 nothing reaches A.
static void disturb(rig *r) {
    const mk_params *ps = mk_adapters_params(r->set);
    for (int64_t i = 0; i < ps->n; i++) {
        const mk_param *p = &ps->list[i];
        for (int64_t mat = 0; strstr(p->name, ".lora_A") == NULL && mat < p->n_mat; mat++) {
            float *rows = mk_alloc((size_t)(p->n_out * p->n_in) * sizeof *rows);
            mk_param_get(p, mat, rows, r->pool);
            for (int64_t j = 0; j < p->n_out * p->n_in; j++) {
                rows[j] +=
                    (float)(0.2 * (mk_rng_unit((uint64_t)(i * 1000 + mat), (uint64_t)j) - 0.5));
            }
            mk_param_set(p, mat, rows, r->pool);
            mk_free(rows);
        }
    }
    mk_params_refresh(ps, r->pool);
}

static rig open_rig(rig_spec s) {
    rig r = {0};
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s", s.path);
    r.pool = mk_pool_create(s.n_thread ? s.n_thread : 2);
    assert_int_equal(mk_model_open(path, &r.model, &r.err), MK_OK);
    assert_int_equal(
        (s.f32 ? mk_model_load_f32 : mk_model_load)(r.model, r.pool, NULL, NULL, &r.err), MK_OK);
    mk_adapter_spec spec = {.rank = s.rank ? s.rank : 3, .alpha = 4, .dora = s.dora, .seed = 7};
    if (mk_adapters_create(r.model, &spec, r.pool, &r.set, &r.err) != MK_OK) {
        fail_msg("%s", r.err.msg);
    }
    mk_trainer_opts o = trainer_opts(&r, s.checkpoint);
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
    mk_adapters_destroy(r->set);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

static void mean_loss(void *arg, const float *logp, float *weight, int64_t n) {
    (void)arg, (void)logp;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = 1.0f / (float)(N_A - 4 + N_B - 1);
    }
}

// which: the first sequence, the second, or 2 for both.
static void pass(rig *r, int which, bool learn, float *logp) {
    mk_data_seq seq[] = {{ids_a, mask_a, N_A, N_A - 4}, {ids_b, mask_b, N_B, N_B - 1}};
    mk_train_pass p = {.seq = which == 1 ? seq + 1 : seq,
                       .n_seq = which == 2 ? 2 : 1,
                       .weigh = learn ? mean_loss : NULL,
                       .logp = logp};
    assert_int_equal(mk_trainer_pass(r->tr, &p, &r->err), MK_OK);
    int n = (which != 1 ? N_A - 4 : 0) + (which != 0 ? N_B - 1 : 0);
    r->loss = 0;
    for (int i = 0; i < n; i++) {
        r->loss -= (double)logp[i] / (N_A - 4 + N_B - 1);
    }
}

// --- slopes --------------------------------------------------------------------------------------

// Lengths of DoRA's rows are constants: they are not refreshed, but A has a copy in some models.
static void follow_copy(const mk_param *p) {
    for (int64_t o = 0; p->copy && o < p->n_out; o++) {
        for (int64_t i = 0; i < p->n_in; i++) {
            ((float *)(void *)p->copy->data)[(i / 16 * p->n_out + o) * 16 + i % 16] =
                p->p[(o / 16 * p->n_in + i) * 16 + o % 16];
        }
    }
}

static double along(const float *g, const mk_param *p) {
    double sum = 0;
    for (int64_t i = 0; i < p->n_float; i++) {
        sum += (double)g[i] * (2 * mk_rng_unit(3, (uint64_t)i) - 1);
    }
    return sum;
}

// Padding has no gradient and must not be moved.
static bool is_padding(const mk_param *p, int64_t i) {
    int64_t per_mat = p->n_float / p->n_mat, at = i % per_mat;
    return p->kind == MK_PARAM_MATRIX && at / (16 * p->n_in) * 16 + at % 16 >= p->n_out;
}

static double slope(rig *r, const mk_param *p, double eps) {
    float *keep = mk_alloc((size_t)p->n_float * sizeof *keep), logp[N_A + N_B];
    memcpy(keep, p->p, (size_t)p->n_float * sizeof *keep);
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < p->n_float; i++) {
            double d = is_padding(p, i) ? 0 : 2 * mk_rng_unit(3, (uint64_t)i) - 1;
            p->p[i] = keep[i] + (float)((side ? -eps : eps) * d);
        }
        follow_copy(p);
        pass(r, 2, false, logp);
        loss[side] = r->loss;
    }
    memcpy(p->p, keep, (size_t)p->n_float * sizeof *keep);
    follow_copy(p);
    mk_free(keep);
    return (loss[0] - loss[1]) / (2 * eps);
}

// Tolerance and steps as in test_trainer.c.
static bool agrees(rig *r, const mk_param *p, const float *g, double *want) {
    double len = 0, got = along(g, p);
    for (int64_t i = 0; i < p->n_float; i++) {
        len += (double)g[i] * (double)g[i];
    }
    len = sqrt(len);
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
    static const rig_spec specs[] = {{.path = LLAMA},
                                     {.path = QWEN2, .dora = true},
                                     {.path = DEEP},
                                     {.path = DEEP, .dora = true}};
    for (size_t s = FIRST(specs); s < N(specs); s++) {
        float logp[N_A + N_B];
        rig r = open_rig(specs[s]);
        disturb(&r);
        pass(&r, 2, true, logp);
        const mk_params *ps = mk_trainer_params(r.tr);
        int64_t n_zero = 0;
        for (int64_t i = 0; i < ps->n; i++) {
            const mk_param *p = &ps->list[i];
            const float *g = mk_trainer_gradient(r.tr, p);
            double want = 0, most = 0;
            for (int64_t j = 0; j < p->n_float; j++) {
                most = fabs((double)g[j]) > most ? fabs((double)g[j]) : most;
            }
            n_zero += most < 1e-9;
            // of the layers between, what differs would differ in these as well
            bool ends = p->layer == 0 || p->layer == r.model->hp.n_layer - 1;
            if (ends && !agrees(&r, p, g, &want)) {
                fail_msg("%s, %s: slope %.6g, gradient along it %.6g", specs[s].path, p->name, want,
                         along(g, p));
            }
        }
        assert_int_equal(n_zero, 0);
        close_rig(&r);
    }
}

// --- bits ----------------------------------------------------------------------------------------

static float *all_gradients(rig *r, size_t *n) {
    const mk_params *ps = mk_trainer_params(r->tr);
    *n = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        *n += (size_t)ps->list[i].n_float;
    }
    float *all = mk_alloc(*n * sizeof *all);
    size_t at = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        memcpy(all + at, mk_trainer_gradient(r->tr, &ps->list[i]),
               (size_t)ps->list[i].n_float * sizeof *all);
        at += (size_t)ps->list[i].n_float;
    }
    return all;
}

// One thread or three, one batch or two, layers kept or computed again: the same bytes.
static void gradients_do_not_depend_on_how(void **state) {
    (void)state;
    static const rig_spec specs[] = {{.path = LLAMA, .dora = true},
                                     {.path = DEEP},
                                     {.path = DEEP_B},
                                     {.path = DEEP_Q, .dora = true},
                                     {.path = LLAMA_Q}};
    for (size_t s = FIRST(specs); s < N(specs); s++) {
        float *want = NULL, logp[N_A + N_B];
        for (int way = 0; way < 4; way++) {
            rig_spec spec = specs[s];
            size_t n = 0;
            spec.n_thread = way == 1 ? 3 : 1;
            spec.checkpoint = way == 2;
            rig r = open_rig(spec);
            disturb(&r);
            pass(&r, way == 3 ? 0 : 2, true, logp);
            if (way == 3) {
                pass(&r, 1, true, logp);
            }
            float *got = all_gradients(&r, &n);
            if (way > 0 && memcmp(want, got, n * sizeof *got) != 0) {
                fail_msg("%s: way %d gives other gradients", specs[s].path, way);
            }
            want = way == 0 ? got : want;
            mk_free(way == 0 ? NULL : got);
            close_rig(&r);
        }
        mk_free(want);
    }
}

typedef struct {
    int32_t next;
    float logp;
} look;

static mk_status read_logp(void *arg, mk_ops *ops, mk_mat logits, mk_err *err) {
    look *l = arg;
    (void)err;
    mk_op_logprob(ops, &l->logp, NULL, logits, &l->next, 1);
    return MK_OK;
}

// A recorded pass, and decoding token by token beside another sequence, whose prompt came in one
// piece.
static void sampling_and_training_agree_to_the_bit(void **state) {
    (void)state;
    static const rig_spec specs[] = {{.path = LLAMA, .dora = true},  {.path = DEEP},
                                     {.path = DEEP, .dora = true},   {.path = LLAMA_B},
                                     {.path = DEEP_B, .dora = true}, {.path = LLAMA_Q},
                                     {.path = DEEP_Q, .dora = true}};
    for (size_t s = FIRST(specs); s < N(specs); s++) {
        float want[N_A + N_B];
        rig r = open_rig(specs[s]);
        disturb(&r);
        pass(&r, 2, true, want);
        mk_engine *e = mk_trainer_engine(r.tr);
        int seq = 0, other = 0;
        assert_int_equal(mk_engine_seq_open(e, &seq, &r.err), MK_OK);
        assert_int_equal(mk_engine_seq_open(e, &other, &r.err), MK_OK);
        assert_int_equal(mk_engine_feed(e, seq, ids_a, 3, MK_LOGITS_NONE, &r.err), MK_OK);
        for (int i = 3; i + 1 < N_A; i++) {
            look l = {.next = ids_a[i + 1]};
            mk_step steps[] = {{other, ids_b + i % N_B, 1, MK_LOGITS_NONE, NULL},
                               {seq, ids_a + i, 1, MK_LOGITS_LAST, NULL}};
            assert_int_equal(mk_engine_forward_with(e, steps, 2, false, read_logp, &l, &r.err),
                             MK_OK);
            if (memcmp(&l.logp, &want[i - 3], sizeof l.logp) != 0) {
                fail_msg("%s: token %d: %a decoded, %a in training", specs[s].path, i,
                         (double)l.logp, (double)want[i - 3]);
            }
        }
        mk_engine_seq_close(e, seq);
        mk_engine_seq_close(e, other);
        close_rig(&r);
    }
}

// New adapters, or detached ones: the bits of the base.
static void new_adapters_change_no_bit(void **state) {
    (void)state;
    static const char *const paths[] = {LLAMA, QWEN2, DEEP, LLAMA_Q, DEEP_Q};
    for (size_t s = 2 * FIRST(paths); s < 2 * N(paths); s++) {
        float with[N_A + N_B], without[N_A + N_B];
        rig r = open_rig((rig_spec){.path = paths[s / 2], .dora = s % 2});
        pass(&r, 2, false, with);
        mk_adapters_detach(r.set);
        pass(&r, 2, false, without);
        assert_memory_equal(with, without, sizeof(float) * (N_A - 4 + N_B - 1));
        mk_adapters_attach(r.set);
        disturb(&r);
        pass(&r, 2, false, with);
        assert_memory_not_equal(with, without, sizeof(float) * (N_A - 4 + N_B - 1));
        mk_adapters_detach(r.set);
        pass(&r, 2, false, with);
        assert_memory_equal(with, without, sizeof(float) * (N_A - 4 + N_B - 1));
        close_rig(&r);
    }
}

// --- a quantised base ----------------------------------------------------------------------------

// The forward rounds activations to int8, so there are no slopes; but the gradients must be near
// those over the same values in float32, which are checked above: within a few percent, of which
// int8 makes about one per layer.
static void gradients_on_a_quantised_base_are_near(void **state) {
    (void)state;
    static const char *const paths[] = {LLAMA_Q, DEEP_Q};
    for (size_t s = FIRST(paths); s < N(paths); s++) {
        float *g[2], logp[N_A + N_B];
        size_t n = 0;
        for (int f32 = 0; f32 < 2; f32++) {
            rig r = open_rig((rig_spec){.path = paths[s], .f32 = f32});
            disturb(&r);
            pass(&r, 2, true, logp);
            g[f32] = all_gradients(&r, &n);
            close_rig(&r);
        }
        double diff = 0, len = 0;
        for (size_t i = 0; i < n; i++) {
            diff += ((double)g[0][i] - (double)g[1][i]) * ((double)g[0][i] - (double)g[1][i]);
            len += (double)g[1][i] * (double)g[1][i];
        }
        if (!(sqrt(diff / len) < 0.1)) {
            fail_msg("%s: gradients differ by %.3f of their length", paths[s], sqrt(diff / len));
        }
        mk_free(g[0]);
        mk_free(g[1]);
    }
}

// --- learning ------------------------------------------------------------------------------------

static void adapters_learn_and_the_base_stays(void **state) {
    (void)state;
    static const rig_spec specs[] = {{.path = LLAMA, .rank = 8},
                                     {.path = DEEP, .rank = 8, .dora = true},
                                     {.path = LLAMA_Q, .rank = 8, .checkpoint = true}};
    for (size_t s = FIRST(specs); s < N(specs); s++) {
        float logp[N_A + N_B];
        rig r = open_rig(specs[s]);
        const mk_weight *base = &r.model->layer[0].wo;
        uint64_t before = mk_hash64(base->data, base->mat_bytes, 0);
        pass(&r, 2, false, logp);
        double first = r.loss;
        for (int64_t step = 1; step <= 24; step++) {
            pass(&r, 2, true, logp);
            mk_optim_at at = {step, 3e-2, 1};
            assert_int_equal(mk_trainer_update(r.tr, &at, NULL, &r.err), MK_OK);
        }
        pass(&r, 2, false, logp);
        if (!(r.loss < 0.25 * first)) {
            fail_msg("%s: loss %.4f after 24 steps, %.4f before", specs[s].path, r.loss, first);
        }
        assert_true(mk_hash64(base->data, base->mat_bytes, 0) == before);
        assert_true(mk_trainer_imbalance(r.tr) <= 0);
        close_rig(&r);
    }
}

// Adapters of a model that is not loaded yet: the same plan, and when it is loaded the same bits.
static void adapters_may_come_before_the_weights(void **state) {
    (void)state;
    rig r = open_rig((rig_spec){.path = DEEP_Q, .dora = true}), early = {.pool = r.pool};
    mk_adapter_spec spec = {.rank = 3, .alpha = 4, .dora = true, .seed = 7};
    mk_train_memory a, b;
    mk_trainer_opts o = trainer_opts(&r, true);
    assert_int_equal(mk_trainer_plan(&o, &a, &r.err), MK_OK);
    assert_int_equal(mk_model_open("tests/golden/" DEEP_Q, &early.model, &r.err), MK_OK);
    assert_int_equal(mk_adapters_create(early.model, &spec, r.pool, &early.set, &r.err), MK_OK);
    o = trainer_opts(&early, true);
    assert_int_equal(mk_trainer_plan(&o, &b, &r.err), MK_OK);
    // scratch of the gradients of weights is counted when they have an address, wanted or not
    assert_true(b.activations <= a.activations && a.activations - b.activations < 4 << 20);
    b.total += a.activations - b.activations;
    b.activations = a.activations;
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(mk_model_load(early.model, r.pool, NULL, NULL, &r.err), MK_OK);
    mk_params_refresh(mk_adapters_params(early.set), r.pool);
    const mk_params *x = mk_adapters_params(r.set), *y = mk_adapters_params(early.set);
    assert_int_equal(x->n, y->n);
    for (int64_t i = 0; i < x->n; i++) {
        assert_memory_equal(x->list[i].p, y->list[i].p, (size_t)x->list[i].n_float * sizeof(float));
    }
    mk_adapters_destroy(early.set);
    mk_model_close(early.model);
    close_rig(&r);
}

static void plans_count_adapters(void **state) {
    (void)state;
    rig r = open_rig((rig_spec){.path = DEEP, .rank = 4});
    mk_trainer_opts o = trainer_opts(&r, false);
    mk_train_memory with, all;
    assert_int_equal(mk_trainer_plan(&o, &with, &r.err), MK_OK);
    const mk_params *ps = mk_adapters_params(r.set);
    int64_t n = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        n += ps->list[i].n_value;
    }
    assert_int_equal(with.n_trained, n);
    assert_true(with.weights == mk_model_weight_bytes(r.model) + mk_adapters_bytes(r.set));
    assert_true(mk_adapters_is_attached(r.set));
    mk_trainer_destroy(r.tr);
    r.tr = NULL;
    mk_adapters_detach(r.set);
    mk_train_memory detached;
    assert_int_equal(mk_trainer_plan(&o, &detached, &r.err), MK_OK);
    assert_memory_equal(&with, &detached, sizeof with);
    assert_false(mk_adapters_is_attached(r.set));
    o.adapters = NULL;
    assert_int_equal(mk_trainer_plan(&o, &all, &r.err), MK_OK);
    assert_true(with.gradients < all.gradients && with.moments < all.moments);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(gradients_do_not_depend_on_how),
        cmocka_unit_test(sampling_and_training_agree_to_the_bit),
        cmocka_unit_test(new_adapters_change_no_bit),
        cmocka_unit_test(gradients_on_a_quantised_base_are_near),
        cmocka_unit_test(adapters_learn_and_the_base_stays),
        cmocka_unit_test(plans_count_adapters),
        cmocka_unit_test(adapters_may_come_before_the_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
