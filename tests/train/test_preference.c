// Preferences: losses and slopes against PyTorch and against finite differences, the gradient of a
// whole step against the slope of the loss of a whole model, learning, the reference, refusals.
#include "train/preference_rig.h"

// --- one pair ------------------------------------------------------------------------------------

static mk_preference_rule rule_of(const json_t *c) {
    mk_err err = {0};
    mk_preference_rule rule = {json_string_value(json_object_get(c, "loss")), number(c, "beta"),
                               number(c, "smoothing"), number(c, "margin"), number(c, "sft")};
    if (mk_preference_check(&rule, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return rule;
}

static mk_preference_pair pair_of(const json_t *c) {
    const json_t *p = json_object_get(c, "pair");
    return (mk_preference_pair){.logp = {item(p, 0), item(p, 3)},
                                .ref = {item(p, 1), item(p, 4)},
                                .n = {(int64_t)item(p, 2), (int64_t)item(p, 5)}};
}

static bool close_to(double got, double want, double rel) {
    return fabs(got - want) <= rel * fabs(want) + 1e-14;
}

static json_t *load_golden(void) {
    json_t *golden = NULL;
    mk_err err = {0};
    if (mk_json_file("tests/golden/preference/preference.json", 1 << 20, &golden, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return golden;
}

static void losses_are_those_of_torch(void **state) {
    (void)state;
    json_t *golden = load_golden();
    size_t i;
    const json_t *c;
    assert_true(json_array_size(golden) > 60);
    json_array_foreach(golden, i, c) {
        mk_preference_rule rule = rule_of(c);
        mk_preference_pair p = pair_of(c);
        mk_preference_value v = mk_preference_loss(&rule, &p);
        const json_t *slope = json_object_get(c, "slope");
        // the odds of answers near certainty lose digits in both programs
        double rel = strcmp(rule.loss, "orpo") == 0 ? 1e-9 : 1e-12;
        if (!close_to(v.loss, number(c, "value"), rel) ||
            !close_to(v.slope[0], item(slope, 0), rel) ||
            !close_to(v.slope[1], item(slope, 1), rel)) {
            fail_msg("case %zu, %s: loss %.17g, slopes %.17g %.17g", i, rule.loss, v.loss,
                     v.slope[0], v.slope[1]);
        }
    }
    json_decref(golden);
}

// The slope that the loss itself has, of the same C function: no formula of its own can be wrong.
static void slopes_are_differences(void **state) {
    (void)state;
    json_t *golden = load_golden();
    size_t i;
    const json_t *c;
    json_array_foreach(golden, i, c) {
        mk_preference_rule rule = rule_of(c);
        mk_preference_value at, side[2];
        mk_preference_pair p = pair_of(c);
        at = mk_preference_loss(&rule, &p);
        for (int k = 0; k < 2; k++) {
            double eps = 1e-5 * (fabs(p.logp[k]) < 1 ? fabs(p.logp[k]) : 1);
            for (int s = 0; s < 2; s++) {
                mk_preference_pair moved = p;
                moved.logp[k] += s ? -eps : eps;
                side[s] = mk_preference_loss(&rule, &moved);
            }
            double want = (side[0].loss - side[1].loss) / (2 * eps);
            double round = 1e-15 * (1 + fabs(at.loss)) / eps;
            assert_true(fabs(at.slope[k] - want) <= 1e-6 * fabs(want) + round);
        }
    }
    json_decref(golden);
}

// Numbers of a float32 model at its limits: probabilities of 1, and of nothing.
static void extremes_are_finite(void **state) {
    (void)state;
    static const char *const names[] = {"dpo", "ipo", "apo-zero", "simpo", "orpo"};
    static const double logp[] = {0, -1e-9, -1e-4, -1, -1e5};
    mk_err err = {0};
    for (int i = 0; i < 5 * 25; i++) {
        mk_preference_rule rule = {names[i / 25], -1, 0, -1, -1};
        mk_preference_pair p = {.logp = {logp[i % 5], logp[i / 5 % 5]}, .n = {1, 3}};
        assert_int_equal(mk_preference_check(&rule, &err), MK_OK);
        mk_preference_value v = mk_preference_loss(&rule, &p);
        assert_true(isfinite(v.loss) && isfinite(v.slope[0]) && isfinite(v.slope[1]));
        assert_true(v.slope[0] <= 0 || strcmp(names[i / 25], "ipo") == 0);
    }
}

static void wrong_rules_are_refused(void **state) {
    (void)state;
    static const struct {
        mk_preference_rule rule;
        const char *words;
    } rows[] = {
        {{"ppo", -1, 0, -1, -1}, "unknown loss 'ppo', expected dpo"},
        {{"dpo", 0, 0, -1, -1}, "beta is 0"},
        {{"dpo", -1, 0, 1, -1}, "the loss dpo has no margin"},
        {{"orpo", -1, 0.1, -1, -1}, "the loss orpo has no label smoothing"},
        {{"dpo", -1, 0.5, -1, -1}, "label smoothing is 0.5"},
        {{"dpo", -1, -0.1, -1, -1}, "label smoothing is -0.1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_err err = {0};
        mk_preference_rule rule = rows[i].rule;
        assert_int_equal(mk_preference_check(&rule, &err), MK_EUSAGE);
        assert_non_null(strstr(err.msg, rows[i].words));
    }
}

// --- a model -------------------------------------------------------------------------------------

// Two wrong-looking answers are the chosen ones; the last pair counts half.
static const char lines[] =
    "{\"prompt\":\"Which way?\",\"chosen\":\"to the left\",\"rejected\":\"right\"}\n"
    "{\"prompt\":\"And now?\",\"chosen\":\"left\",\"rejected\":\"straight on and on\"}\n"
    "{\"prompt\":\"2+2\",\"chosen\":\"5\",\"rejected\":\"4\"}\n"
    "{\"prompt\":\"Who?\",\"chosen\":\"nobody\",\"rejected\":\"me\",\"weight\":0.5}\n";

static double eval_loss(rig *r) {
    double score = 0;
    json_t *log = json_object();
    must(r, mk_method_dpo.evaluate(r->pref, 0, &score, log, &r->err));
    json_decref(log);
    return score;
}

static double measured_loss(void *arg) {
    return eval_loss(arg);
}

static void moved(void *arg, const mk_param *p) {
    (void)p;
    refresh(arg);
}

// Every loss, away from its reference: what a step hands to the optimiser is the slope of what
// evaluate measures (all pairs are in one batch), for some of the parameters.
static void gradients_are_slopes(void **state) {
    (void)state;
    static const char *const names[] = {"dpo", "ipo", "apo-zero", "simpo", "orpo"};
    for (int i = 0; i < 5; i++) {
        rig r = open_rig(2, 256, lines);
        r.o.rule = (mk_preference_rule){names[i], -1, 0, -1, 0.25};
        must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
        json_decref(one_step(&r, 0, 3e-3));
        double scale = 0;
        json_t *log = json_object();
        must(&r, mk_method_dpo.step(r.pref, 1, &scale, log, &r.err));
        json_decref(log);
        measure m = {measured_loss, moved, &r};
        gradients_agree(&r, &m, scale, eval_loss(&r), names[i]);
        close_rig(&r);
    }
}

static void a_model_learns_to_prefer(void **state) {
    (void)state;
    static const char *const names[] = {"dpo", "ipo", "apo-zero", "simpo", "orpo"};
    for (int i = 0; i < 5; i++) {
        rig r = open_rig(2, 256, lines);
        r.o.rule = (mk_preference_rule){names[i], -1, 0, -1, -1};
        must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
        double before = eval_loss(&r);
        json_t *log = NULL;
        for (int64_t step = 0; step < 12; step++) {
            json_decref(log);
            log = one_step(&r, step, 3e-3);
        }
        assert_true(number(log, "eval_accuracy") == 1);
        assert_true(number(log, "eval_margin") > 0);
        assert_true(number(log, "eval_loss") < before);
        json_decref(log);
        close_rig(&r);
    }
}

// Before the first update the model is its reference, to the last bit, whatever batches they were
// computed in; and the loss is log 2.
static void the_first_step_is_at_the_reference(void **state) {
    (void)state;
    static const int64_t rows[] = {256, 64};
    double second[2];
    uint64_t hash[2];
    for (int i = 0; i < 2; i++) {
        rig r = open_rig(i + 1, rows[i], lines);
        r.o.rule = (mk_preference_rule){"dpo", -1, 0, -1, -1};
        r.o.n_accum = i == 0 ? 1 : 2;
        must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
        assert_int_equal(mk_preference_n_batch(r.pref), r.o.n_accum);
        json_t *log = one_step(&r, 0, 1e-3);
        assert_true(number(log, "loss") == mk_log(2));
        assert_true(number(log, "margin") == 0 && number(log, "reward_chosen") == 0);
        assert_true(number(log, "pairs") == 4);
        second[i] = number(log, "eval_loss");
        hash[i] = mk_preference_reference_hash(r.pref);
        json_decref(log);
        close_rig(&r);
    }
    assert_true(second[0] < mk_log(2));
    assert_true(fabs(second[0] - second[1]) < 1e-5);
    assert_true(hash[0] == hash[1] && hash[0] != 0);
}

// A pair with weight 0.5 counts half in the loss of a step.
static void weights_count(void **state) {
    (void)state;
    rig r = open_rig(1, 256, lines);
    r.o.rule = (mk_preference_rule){"simpo", -1, 0, -1, -1};
    must(&r, mk_preference_create(&r.o, &r.pref, &r.err));
    double sum = 0, weight = 0, whole = eval_loss(&r);
    mk_preference_rule rule = *mk_preference_get_rule(r.pref);
    for (int64_t i = 0; i < mk_data_n_sample(r.data); i++) {
        mk_data_sample s = mk_data_get(r.data, i);
        float logp[2][64];
        mk_preference_pair p = {.n = {s.seq[0].n_target, s.seq[1].n_target}};
        for (int k = 0; k < 2; k++) {
            mk_train_pass pass = {.seq = &s.seq[k], .n_seq = 1, .logp = logp[k]};
            must(&r, mk_trainer_pass(r.tr, &pass, &r.err));
            for (int64_t t = 0; t < p.n[k]; t++) {
                p.logp[k] += (double)logp[k][t];
            }
        }
        sum += (double)s.weight * mk_preference_loss(&rule, &p).loss;
        weight += (double)s.weight;
    }
    assert_true(weight == 3.5);
    assert_true(fabs(whole - sum / weight) < 1e-12);
    close_rig(&r);
}

static bool refuse(void *arg, int64_t n_done, int64_t n) {
    *(int64_t *)arg = n_done;
    return n_done >= n;
}

static void wrong_use_is_refused(void **state) {
    (void)state;
    rig r = open_rig(1, 64, lines);
    int64_t done = 0;
    r.o.rule = (mk_preference_rule){"dpo", -1, 0, -1, -1};
    r.o.progress = refuse;
    r.o.progress_arg = &done;
    assert_int_equal(mk_preference_create(&r.o, &r.pref, &r.err), MK_EINTR);
    assert_true(done > 0 && done < 4);
    r.o.progress = NULL;
    r.o.n_seq = 1;
    assert_int_equal(mk_preference_create(&r.o, &r.pref, &r.err), MK_EUSAGE);
    r.o.n_seq = 8;
    r.o.n_row = 8;  // no pair fits
    assert_int_equal(mk_preference_create(&r.o, &r.pref, &r.err), MK_EUSAGE);
    assert_non_null(strstr(r.err.msg, "x.jsonl line 1"));
    r.pref = NULL;
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_those_of_torch),
        cmocka_unit_test(slopes_are_differences),
        cmocka_unit_test(extremes_are_finite),
        cmocka_unit_test(wrong_rules_are_refused),
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(a_model_learns_to_prefer),
        cmocka_unit_test(the_first_step_is_at_the_reference),
        cmocka_unit_test(weights_count),
        cmocka_unit_test(wrong_use_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
