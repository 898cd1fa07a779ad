// minke train dpo: learning which of two answers is the better one.
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "train/preference.h"
#include "train_setup.h"

typedef struct {
    cmd_train_args t;
    const char *loss;
    double beta, smoothing, margin, sft, desirable, undesirable;
} args;

static const mk_opt opts[] = {
    CMD_OPT_TRAIN(args, t),
    {.name = "epochs",
     .type = MK_OPT_I64,
     .offset = offsetof(args, t.epochs),
     .min = 1,
     .max = 1 << 20,
     .arg = "N",
     .help = "instead of --steps: times through the data (1)",
     .group = "Method"},
    {.name = "loss",
     .type = MK_OPT_STR,
     .offset = offsetof(args, loss),
     .dflt = "dpo",
     .choices = "dpo|ipo|apo-zero|simpo|orpo|kto",
     .arg = "NAME",
     .help = "how a pair is judged; simpo and orpo need no reference; kto: single answers with a "
             "label instead of pairs"},
    {.name = "beta",
     .type = MK_OPT_F64,
     .offset = offsetof(args, beta),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "X",
     .help = "how sharply; orpo: weight of the odds; below 0: the loss's own (0.1; simpo 2)"},
    {.name = "smoothing",
     .type = MK_OPT_F64,
     .offset = offsetof(args, smoothing),
     .dflt = "0",
     .min = 0,
     .max = 0.5,
     .arg = "X",
     .help = "dpo and simpo: share of pairs that are taken to be the wrong way round"},
    {.name = "margin",
     .type = MK_OPT_F64,
     .offset = offsetof(args, margin),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "X",
     .help = "simpo: what the chosen answer must be ahead; below 0: 1"},
    {.name = "sft",
     .type = MK_OPT_F64,
     .offset = offsetof(args, sft),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "X",
     .help = "weight of learning the chosen answer as sft does, beside; below 0: the loss's own "
             "(0; orpo 1)"},
    {.name = "desirable",
     .type = MK_OPT_F64,
     .offset = offsetof(args, desirable),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "X",
     .help = "kto: weight of good answers; below 0: 1"},
    {.name = "undesirable",
     .type = MK_OPT_F64,
     .offset = offsetof(args, undesirable),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "X",
     .help = "kto: weight of bad answers; below 0: 1. Best where the good ones' weight times their "
             "number is 1 to 1.33 times that of the bad ones"},
};

const mk_opt_spec cmd_train_dpo_spec = {
    .program = "minke train dpo",
    .usage = "-m MODEL -o DIR FILE...",
    .about = "Teaches a model which of two answers to a prompt is the better one, or which answers "
             "are good (--loss kto). The model it starts from is the reference; what that says of "
             "every answer is computed once.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = -1,
};

typedef struct {
    mk_progress bar;
    const char *unit;
    bool on;
} reference_bar;

static bool on_reference(void *arg, int64_t n_done, int64_t n) {
    reference_bar *b = arg;
    if (!b->on) {
        mk_progress_start(&b->bar, "reference", b->unit, (uint64_t)n);
        b->on = true;
    }
    mk_progress_update(&b->bar, (uint64_t)n_done);
    if (n_done == n) {
        mk_progress_end(&b->bar, (uint64_t)n);
        b->on = false;
    }
    return !cmd_interrupted();
}

static json_t *make_recipe(const mk_preference *p) {
    const mk_preference_rule *rule = mk_preference_get_rule(p);
    char hash[24];
    (void)snprintf(hash, sizeof hash, "%016llx",
                   (unsigned long long)mk_preference_reference_hash(p));
    json_t *o = json_pack("{s:s, s:f, s:f, s:f, s:f, s:s}", "loss", rule->loss, "beta", rule->beta,
                          "smoothing", rule->smoothing, "margin", rule->margin, "sft", rule->sft,
                          "reference", hash);
    if (mk_preference_has_labels(rule)) {
        const double *w = mk_preference_label_weight(p);
        json_object_set_new(o, "desirable", json_real(w[0]));
        json_object_set_new(o, "undesirable", json_real(w[1]));
    }
    return o;
}

static mk_status train(cmd_training *t, args *a, mk_err *err) {
    bool stop = false;
    reference_bar bar = {.unit = strcmp(a->loss, "kto") == 0 ? "answers" : "pairs"};
    mk_preference *p = NULL;
    mk_preference_opts o = {
        .data = t->data,
        .eval = t->eval,
        .n_row = t->trainer_opts.n_row,
        .n_seq = t->trainer_opts.n_seq,
        .n_accum = a->t.accum,
        .seed = (uint64_t)a->t.seed,
        .shuffle = a->t.shuffle,
        .rule = {a->loss, a->beta, a->smoothing, a->margin, a->sft},
        .label_weight = {a->desirable, a->undesirable},
        .progress = on_reference,
        .progress_arg = &bar,
    };
    MK_TRY(mk_preference_check(&o.rule, err));
    MK_TRY(cmd_training_plan(t, "dpo", &stop, err));
    if (stop) {
        return MK_OK;
    }
    // Before the run opens its checkpoint: the reference is the model that training started from.
    o.trainer = t->trainer;
    cmd_catch_interrupt();
    MK_TRY(mk_preference_create(&o, &p, err));
    if (a->t.steps == 0) {
        int64_t n = mk_preference_n_batch(p) * (a->t.epochs ? a->t.epochs : 1);
        a->t.steps = (n + a->t.accum - 1) / a->t.accum;
    }
    static const char *const extra[] = {"accuracy",      "margin",    "kl",
                                        "eval_accuracy", "imbalance", NULL};
    json_t *recipe = make_recipe(p);
    mk_status st = cmd_training_run(t, &mk_method_dpo, p, recipe, extra, err);
    json_decref(recipe);
    mk_preference_destroy(p);
    return st;
}

mk_status cmd_train_dpo(int argc, char *const *argv, mk_err *err) {
    args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_train_dpo_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        cmd_training t = {0};
        mk_data_kind kind = strcmp(a.loss, "kto") == 0 ? MK_DATA_LABEL : MK_DATA_PAIR;
        cmd_training_needs needs = {.kind = kind, .eval_kind = kind};
        st = cmd_training_open(&t, &a.t, &needs, r.args, r.n_args, err);
        st = st == MK_OK ? train(&t, &a, err) : st;
        cmd_training_close(&t);
    }
    mk_opt_free(&cmd_train_dpo_spec, &a, &r);
    return st;
}
