// KTO: losses and slopes against PyTorch and against finite differences; which answers are mixed
// with which prompts; what a step logs against passes made by hand; its gradient against the slope
// of the loss of a whole model; refusals.
#include "train/preference_rig.h"

static mk_preference_rule rule_of(double beta, double sft) {
    mk_err err = {0};
    mk_preference_rule rule = {"kto", beta, 0, -1, sft};
    assert_int_equal(mk_preference_check(&rule, &err), MK_OK);
    assert_true(mk_preference_has_labels(&rule) && mk_preference_has_reference(&rule));
    return rule;
}

// --- answers -------------------------------------------------------------------------------------

static bool close_to(double got, double want) {
    return fabs(got - want) <= 1e-12 * fabs(want) + 1e-14;
}

static mk_preference_answer answer_of(const json_t *a) {
    return (mk_preference_answer){
        .logp = item(a, 0), .ref = item(a, 1), .n = 1, .good = json_is_true(json_array_get(a, 2))};
}

static void an_update_is_that_of_torch(void **state) {
    (void)state;
    json_t *golden = NULL;
    mk_err err = {0};
    size_t i, k;
    const json_t *c, *a;
    assert_int_equal(mk_json_file("tests/golden/preference/kto.json", 1 << 20, &golden, &err),
                     MK_OK);
    assert_true(json_array_size(golden) >= 6);
    json_array_foreach(golden, i, c) {
        mk_preference_rule rule = rule_of(number(c, "beta"), -1);
        const json_t *answers = json_object_get(c, "answers"),
                     *weight = json_object_get(c, "weight"), *slope = json_object_get(c, "slope"),
                     *reward = json_object_get(c, "reward");
        double loss = 0, n = (double)json_array_size(answers);
        json_array_foreach(answers, k, a) {
            mk_preference_answer x = answer_of(a);
            mk_preference_answer_value v = mk_preference_answer_loss(&rule, &x, number(c, "kl"));
            double w = item(weight, x.good ? 0 : 1);
            loss += w * v.loss / n;
            assert_true(close_to(w * v.slope / n, item(slope, k)));
            assert_true(close_to(v.reward, item(reward, k)));
        }
        assert_true(close_to(loss, number(c, "value")));
    }
    json_decref(golden);
}

static void slopes_are_differences(void **state) {
    (void)state;
    static const double logp[] = {-0.5, -3, -20, -90}, kl[] = {0, 0.75, 6};
    for (int i = 0; i < 4 * 4 * 3 * 2 * 2; i++) {
        mk_preference_rule rule = rule_of(i % 2 ? 0.1 : 1.5, i / 2 % 2 ? 0.25 : 0);
        mk_preference_answer a = {logp[i / 4 % 4], logp[i / 16 % 4], 3, (i / 2 + i / 4) % 2 == 1};
        double z = kl[i / 64], eps = 1e-5;
        mk_preference_answer_value v = mk_preference_answer_loss(&rule, &a, z), side[2];
        for (int s = 0; s < 2; s++) {
            mk_preference_answer moved = a;
            moved.logp += s ? -eps : eps;
            side[s] = mk_preference_answer_loss(&rule, &moved, z);
        }
        double want = (side[0].loss - side[1].loss) / (2 * eps);
        assert_true(fabs(v.slope - want) <= 1e-6 * fabs(want) + 1e-10 * (1 + fabs(v.loss)));
    }
}

static void extremes_are_finite(void **state) {
    (void)state;
    static const double logp[] = {0, -1e-9, -1, -1e5};
    for (int i = 0; i < 4 * 4 * 2; i++) {
        mk_preference_rule rule = rule_of(i % 3 ? 0.1 : 100, -1);
        mk_preference_answer a = {logp[i % 4], logp[i / 4 % 4], 2, i / 16 == 1};
        for (double kl = 0; kl < 1e5; kl = kl * 10 + 1) {
            mk_preference_answer_value v = mk_preference_answer_loss(&rule, &a, kl);
            assert_true(v.loss >= 0 && v.loss <= 1 && isfinite(v.slope));
            assert_true(a.good ? v.slope <= 0 : v.slope >= 0);
        }
    }
}

// --- a model -------------------------------------------------------------------------------------

static const char lines[] =
    "{\"prompt\":\"Which way?\",\"completion\":\"to the left\",\"label\":true}\n"
    "{\"prompt\":\"Which way?\",\"completion\":\"right\",\"label\":false}\n"
    "{\"prompt\":\"And now?\",\"completion\":\"left\",\"label\":true}\n"
    "{\"prompt\":\"2+2\",\"completion\":\"5\",\"label\":true,\"weight\":0.5}\n"
    "{\"prompt\":\"Who are you?\",\"completion\":\"straight on and on\",\"label\":false}\n";
// The next one with another prompt.
static const int64_t partner[] = {2, 2, 3, 4, 0};
enum { N = 5 };

static rig open_kto(int n_thread, int64_t n_row, const char *text) {
    rig r = open_rig(n_thread, n_row, text);
    r.o.rule = (mk_preference_rule){"kto", 0.5, 0, -1, 0};
    r.o.label_weight[0] = r.o.label_weight[1] = -1;
    return r;
}

// Sum of log p of the answer of sample j behind the prompt of sample i, by a pass of its own.
static double logp_of(rig *r, int64_t i, int64_t j) {
    mk_data_sample a = mk_data_get(r->data, i), b = mk_data_get(r->data, j);
    int32_t ids[64];
    uint8_t mask[64] = {0};
    float logp[64];
    int64_t n = 0;
    double sum = 0;
    for (int64_t k = 0; k < a.n_prompt; k++) {
        ids[n++] = a.seq[0].ids[k];
    }
    for (int64_t k = b.n_prompt; k < b.seq[0].n; k++) {
        mask[n] = 1;
        ids[n++] = b.seq[0].ids[k];
    }
    mk_data_seq seq = {ids, mask, n, b.seq[0].n - b.n_prompt};
    mk_train_pass pass = {.seq = &seq, .n_seq = 1, .logp = logp};
    must(r, mk_trainer_pass(r->tr, &pass, &r->err));
    for (int64_t k = 0; k < seq.n_target; k++) {
        sum += (double)logp[k];
    }
    return sum;
}

typedef struct {
    double own[N], mixed[N];
} passes;

static passes by_hand(rig *r) {
    passes p;
    for (int64_t i = 0; i < N; i++) {
        p.own[i] = logp_of(r, i, i);
        p.mixed[i] = logp_of(r, i, partner[i]);
    }
    return p;
}

static double kl_of(const passes *now, const passes *ref) {
    double sum = 0;
    for (int i = 0; i < N; i++) {
        sum += (now->mixed[i] - ref->mixed[i]) / N;
    }
    return sum > 0 ? sum : 0;
}

static double loss_of(rig *r, const passes *now, const passes *ref, double kl) {
    double sum = 0, weight = 0;
    const double *w = mk_preference_label_weight(r->pref);
    for (int64_t i = 0; i < N; i++) {
        mk_data_sample s = mk_data_get(r->data, i);
        mk_preference_answer a = {now->own[i], ref->own[i], s.seq[0].n_target, s.label};
        double loss = mk_preference_answer_loss(mk_preference_get_rule(r->pref), &a, kl).loss;
        sum += (double)s.weight * w[s.label ? 0 : 1] * loss;
        weight += (double)s.weight;
    }
    return sum / weight;
}

static void labels_are_read(void **state) {
    (void)state;
    rig r = open_kto(1, 256, lines);
    assert_int_equal(mk_data_n_sample(r.data), N);
    assert_int_equal(mk_data_get_kind(r.data), MK_DATA_LABEL);
    for (int64_t i = 0; i < N; i++) {
        mk_data_sample s = mk_data_get(r.data, i);
        assert_int_equal(s.label, i != 1 && i != 4);
        assert_true(s.n_seq == 1 && s.n_prompt > 1 && s.seq[0].n_target == s.seq[0].n - s.n_prompt);
        assert_true(s.weight == (i == 3 ? 0.5f : 1.0f));
    }
    close_rig(&r);
}

// What a step says, and the evaluation behind it, from the passes that they are made of; in one
// batch and in several.
static void steps_are_sums_of_passes(void **state) {
    (void)state;
    static const int64_t rows[] = {256, 64};
    for (int k = 0; k < 2; k++) {
        rig r = open_kto(k + 1, rows[k], lines);
        r.o.label_weight[0] = 1.25;
        must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
        r.o.n_accum = mk_preference_n_batch(r.pref);
        assert_true(k == 0 ? r.o.n_accum == 1 : r.o.n_accum > 1);
        mk_preference_destroy(r.pref);
        must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
        assert_true(mk_preference_reference_hash(r.pref) != 0);
        passes ref = by_hand(&r);
        json_t *log = one_step(&r, 0, 1e-3);
        assert_true(number(log, "kl") == 0 && number(log, "margin") == 0);  // to the last bit
        assert_true(number(log, "reward_chosen") == 0 && number(log, "reward_rejected") == 0);
        assert_true(fabs(number(log, "loss") - 0.5 * (1.25 * 2.5 + 2) / 4.5) < 1e-12);
        assert_true(number(log, "samples") == N);
        double most = 0;
        for (int64_t step = 1; step < 6; step++) {
            passes now = by_hand(&r);
            double kl = kl_of(&now, &ref);
            assert_true(fabs(number(log, "eval_kl") - kl) < 1e-12);
            assert_true(fabs(number(log, "eval_loss") - loss_of(&r, &now, &ref, kl)) < 1e-12);
            json_decref(log);
            log = one_step(&r, step, 1e-3);
            assert_true(fabs(number(log, "kl") - kl) < 1e-12);
            assert_true(fabs(number(log, "loss") - loss_of(&r, &now, &ref, kl)) < 1e-12);
            most = kl > most ? kl : most;
        }
        assert_true(most > 0.1);
        json_decref(log);
        close_rig(&r);
    }
}

// What the loss is made of while a parameter moves: the estimate of the divergence stays what it
// is.
typedef struct {
    rig *r;
    passes ref;
    double kl;
} fixed;

static double measured_loss(void *arg) {
    fixed *f = arg;
    passes now = by_hand(f->r);
    return loss_of(f->r, &now, &f->ref, f->kl);
}

static void moved(void *arg, const mk_param *p) {
    (void)p;
    refresh(((fixed *)arg)->r);
}

static void gradients_are_slopes(void **state) {
    (void)state;
    rig r = open_kto(2, 256, lines);
    r.o.rule.sft = 0.25;
    r.o.label_weight[1] = 1.5;
    must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
    fixed f = {.r = &r, .ref = by_hand(&r)};
    for (int64_t step = 0; step < 3; step++) {
        json_decref(one_step(&r, step, 1e-3));
    }
    double scale = 0;
    json_t *log = json_object();
    must(&r, mk_method_dpo.step(r.pref, 3, &scale, log, &r.err));
    f.kl = number(log, "kl");
    assert_true(f.kl > 0.01);
    json_decref(log);
    measure m = {measured_loss, moved, &f};
    gradients_agree(&r, &m, scale, 0, "kto");
    close_rig(&r);
}

static void a_model_learns_what_is_good(void **state) {
    (void)state;
    rig r = open_kto(2, 256, lines);
    must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
    json_t *log = NULL;
    for (int64_t step = 0; step < 25; step++) {
        json_decref(log);
        log = one_step(&r, step, 3e-3);
    }
    assert_true(number(log, "eval_accuracy") == 1 && number(log, "eval_margin") > 0);
    assert_true(number(log, "eval_loss") < 0.25);
    json_decref(log);
    close_rig(&r);
}

// Where all answers are of one kind, or all prompts are one, it works with what there is.
static void one_sided_data_is_learned(void **state) {
    (void)state;
    static const char bad[] = "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":false}\n"
                              "{\"prompt\":\"a\",\"completion\":\"c\",\"label\":false}\n";
    rig r = open_kto(1, 256, bad);
    must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
    json_t *log = one_step(&r, 0, 1e-3);
    assert_true(number(log, "loss") == 0.5 && number(log, "reward_rejected") == 0);
    assert_null(json_object_get(log, "margin"));
    assert_null(json_object_get(log, "reward_chosen"));
    assert_true(number(log, "eval_loss") < 0.5);
    json_decref(log);
    close_rig(&r);
}

static void wrong_use_is_refused(void **state) {
    (void)state;
    static const char one[] = "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":true}\n",
                      pair[] = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n";
    static const struct {
        const char *text, *loss;
        double good, bad;
        const char *words;
    } rows[] = {
        {one, "kto", -1, -1, "expected two or more samples, got 1"},
        {pair, "kto", -1, -1, "data of kind pair, expected label"},
        {lines, "dpo", -1, -1, "data of kind label, expected pairs"},
        {lines, "kto", 0, -1, "the weight of desirable answers is 0"},
        {lines, "kto", -1, 0, "the weight of undesirable answers is 0"},
        {pair, "dpo", -1, 2, "the loss dpo has no weights of labels"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rig r = open_kto(1, 256, rows[i].text);
        r.o.rule = (mk_preference_rule){rows[i].loss, -1, 0, -1, -1};
        r.o.label_weight[0] = rows[i].good;
        r.o.label_weight[1] = rows[i].bad;
        assert_int_equal(mk_preference_create(&r.o, &r.pref, &r.err), MK_EUSAGE);
        if (!strstr(r.err.msg, rows[i].words)) {
            fail_msg("row %zu: %s", i, r.err.msg);
        }
        r.pref = NULL;
        close_rig(&r);
    }
    mk_err err = {0};
    mk_preference_rule rule = {"kto", -1, 0.1, -1, -1};
    assert_int_equal(mk_preference_check(&rule, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "kto has no label smoothing"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_is_that_of_torch),  cmocka_unit_test(slopes_are_differences),
        cmocka_unit_test(extremes_are_finite),         cmocka_unit_test(labels_are_read),
        cmocka_unit_test(steps_are_sums_of_passes),    cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(a_model_learns_what_is_good), cmocka_unit_test(one_sided_data_is_learned),
        cmocka_unit_test(wrong_use_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
