// Training adapters: gradients against finite differences of the forward that serves, bits against
// threads, cuts, checkpoints and decoding with a cache, learning, plans.
#include "train/trainer_rig.h"

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

static rig open_adapters(rig_spec s) {
    s.rank = s.rank ? s.rank : 3;
    s.clip = mk_optim_defaults().clip;
    s.balance_rate = 0.1;
    return open_rig(s);
}

// --- slopes --------------------------------------------------------------------------------------

// Lengths of DoRA's rows are constants: they are not refreshed, but A has a copy in some models.
static void follow_copy(void *arg, const mk_param *p) {
    (void)arg;
    for (int64_t o = 0; p->copy && o < p->n_out; o++) {
        for (int64_t i = 0; i < p->n_in; i++) {
            ((float *)(void *)p->copy->data)[(i / 16 * p->n_out + o) * 16 + i % 16] =
                p->p[(o / 16 * p->n_in + i) * 16 + o % 16];
        }
    }
}

static void gradients_are_slopes(void **state) {
    (void)state;
    static const rig_spec specs[] = {{.path = LLAMA},
                                     {.path = QWEN2, .dora = true},
                                     {.path = DEEP},
                                     {.path = DEEP, .dora = true}};
    for (size_t s = FIRST(specs); s < N(specs); s++) {
        rig r = open_adapters(specs[s]);
        disturb(&r);
        pass(&r, 2, true);
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
            if (ends && !gradient_agrees(&r, follow_copy, p, g, &want)) {
                fail_msg("%s, %s: slope %.6g, gradient along it %.6g", specs[s].path, p->name, want,
                         along(g, p));
            }
        }
        assert_int_equal(n_zero, 0);
        close_rig(&r);
    }
}

// --- bits ----------------------------------------------------------------------------------------

// One thread or three, one batch or two, layers kept or computed again: the same bytes.
static void gradients_do_not_depend_on_how(void **state) {
    (void)state;
    static const rig_spec specs[] = {{.path = LLAMA, .dora = true},
                                     {.path = DEEP},
                                     {.path = DEEP_B},
                                     {.path = DEEP_Q, .dora = true},
                                     {.path = LLAMA_Q}};
    for (size_t s = FIRST(specs); s < N(specs); s++) {
        float *want = NULL;
        for (int way = 0; way < 4; way++) {
            rig_spec spec = specs[s];
            size_t n = 0;
            spec.n_thread = way == 1 ? 3 : 1;
            spec.checkpoint = way == 2;
            rig r = open_adapters(spec);
            disturb(&r);
            pass(&r, way == 3 ? 0 : 2, true);
            if (way == 3) {
                pass(&r, 1, true);
            }
            float *got = all_gradients(r.tr, &n);
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
        rig r = open_adapters(specs[s]);
        disturb(&r);
        pass(&r, 2, true);
        const float *want = r.logp;
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
        float with[N_TARGET];
        rig r = open_adapters((rig_spec){.path = paths[s / 2], .dora = s % 2});
        pass(&r, 2, false);
        memcpy(with, r.logp, sizeof with);
        mk_adapters_detach(r.set);
        pass(&r, 2, false);
        assert_memory_equal(with, r.logp, sizeof with);
        mk_adapters_attach(r.set);
        disturb(&r);
        pass(&r, 2, false);
        assert_memory_not_equal(with, r.logp, sizeof with);
        mk_adapters_detach(r.set);
        pass(&r, 2, false);
        assert_memory_equal(with, r.logp, sizeof with);
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
        float *g[2];
        size_t n = 0;
        for (int f32 = 0; f32 < 2; f32++) {
            rig r = open_adapters((rig_spec){.path = paths[s], .f32 = f32});
            disturb(&r);
            pass(&r, 2, true);
            g[f32] = all_gradients(r.tr, &n);
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
        rig r = open_adapters(specs[s]);
        const mk_weight *base = &r.model->layer[0].wo;
        uint64_t before = mk_hash64(base->data, base->mat_bytes, 0);
        pass(&r, 2, false);
        double first = r.loss;
        for (int64_t step = 1; step <= 24; step++) {
            pass(&r, 2, true);
            mk_optim_at at = {step, 3e-2, 1};
            assert_int_equal(mk_trainer_update(r.tr, &at, NULL, &r.err), MK_OK);
        }
        pass(&r, 2, false);
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
    rig r = open_adapters((rig_spec){.path = DEEP_Q, .dora = true}),
        early = {.spec = r.spec, .pool = r.pool};
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
    rig r = open_adapters((rig_spec){.path = DEEP, .rank = 4});
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
