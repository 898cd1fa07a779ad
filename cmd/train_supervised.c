// minke train pretrain, minke train sft: learning from texts and from conversations.
#include <string.h>
#include <unistd.h>

#include "train/supervised.h"
#include "train_setup.h"

typedef struct {
    cmd_train_args t;
} args;

#define OPT_EPOCHS                                                                                 \
    {                                                                                              \
        .name = "epochs", .type = MK_OPT_I64, .offset = offsetof(args, t.epochs), .min = 1,        \
        .max = 1 << 20, .arg = "N", .help = "instead of --steps: times through the data (1)",      \
        .group = "Method"                                                                          \
    }

static const mk_opt sft_opts[] = {CMD_OPT_TRAIN(args, t), OPT_EPOCHS};
static const mk_opt pretrain_opts[] = {
    CMD_OPT_TRAIN(args, t),
    OPT_EPOCHS,
    {.name = "config",
     .type = MK_OPT_STR,
     .offset = offsetof(args, t.config),
     .arg = "FILE",
     .help = "a config.json: a new model of random weights is made for it in DIR/start"},
    {.name = "tokenizer",
     .type = MK_OPT_STR,
     .offset = offsetof(args, t.tokenizer),
     .arg = "DIR",
     .help = "with --config: folder with the tokenizer of the new model"},
};

const mk_opt_spec cmd_train_sft_spec = {
    .program = "minke train sft",
    .usage = "-m MODEL -o DIR FILE...",
    .about = "Fine-tunes a model on conversations: the answers are learned, in the words of the "
             "model's own chat template. `minke train preview` shows what would be learned.",
    .opts = sft_opts,
    .n_opts = MK_OPT_COUNT(sft_opts),
    .max_args = -1,
};

const mk_opt_spec cmd_train_pretrain_spec = {
    .program = "minke train pretrain",
    .usage = "(--config FILE --tokenizer DIR | -m MODEL) -o DIR FILE...",
    .about = "Trains a new model, or goes on with one, on texts or conversations.",
    .opts = pretrain_opts,
    .n_opts = MK_OPT_COUNT(pretrain_opts),
    .max_args = -1,
};

// How long it will take, as measured on one batch; where nobody reads, nothing is measured.
static mk_status show_time(const cmd_train_args *a, mk_supervised *s, mk_err *err) {
    double seconds = 0;
    char text[32];
    if (!a->dry_run && (a->json || a->model.quiet || !isatty(fileno(stderr)))) {
        return MK_OK;
    }
    MK_TRY(mk_supervised_measure(s, &seconds, err));
    cmd_time_text(seconds * (double)a->steps, text);
    if (a->json) {
        return cmd_print_json(json_pack("{s:f, s:I, s:f}", "seconds_per_step", seconds, "steps",
                                        (json_int_t)a->steps, "seconds",
                                        seconds * (double)a->steps),
                              false, err);
    }
    fprintf(stderr, "time       %lld updates of %.2f s: %s, without evaluations\n",
            (long long)a->steps, seconds, text);
    return MK_OK;
}

static mk_status train(cmd_training *t, cmd_train_args *a, const mk_method *method, mk_err *err) {
    bool stop = false;
    mk_supervised *s = NULL;
    MK_TRY(cmd_training_plan(t, method->name, &stop, err));
    mk_supervised_opts o = {.trainer = t->trainer,
                            .data = t->data,
                            .eval = t->eval,
                            .n_row = t->trainer_opts.n_row,
                            .n_seq = t->trainer_opts.n_seq,
                            .n_accum = a->accum,
                            .seed = (uint64_t)a->seed,
                            .shuffle = a->shuffle};
    MK_TRY(mk_supervised_create(&o, &s, err));
    if (a->steps == 0) {
        int64_t n = mk_supervised_n_batch(s) * (a->epochs ? a->epochs : 1);
        a->steps = (n + a->accum - 1) / a->accum;
    }
    static const char *const extra[] = {"imbalance", NULL};
    mk_status st = show_time(a, s, err);
    if (st == MK_OK && !stop) {
        json_t *recipe = json_object();
        st = cmd_training_run(t, method, s, recipe, extra, err);
        json_decref(recipe);
    }
    mk_supervised_destroy(s);
    return st;
}

static mk_status run(const mk_opt_spec *spec, const mk_method *method, mk_data_kind kind, int argc,
                     char *const *argv, mk_err *err) {
    args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        cmd_training t = {0};
        cmd_training_needs needs = {.kind = kind, .eval_kind = kind};
        st = cmd_training_open(&t, &a.t, &needs, r.args, r.n_args, err);
        st = st == MK_OK ? train(&t, &a.t, method, err) : st;
        cmd_training_close(&t);
    }
    mk_opt_free(spec, &a, &r);
    return st;
}

mk_status cmd_train_sft(int argc, char *const *argv, mk_err *err) {
    return run(&cmd_train_sft_spec, &mk_method_sft, MK_DATA_CHAT, argc, argv, err);
}

// Texts, or lines of prompt and completion for a model that is to be born with them.
mk_status cmd_train_pretrain(int argc, char *const *argv, mk_err *err) {
    return run(&cmd_train_pretrain_spec, &mk_method_pretrain, MK_DATA_AUTO, argc, argv, err);
}
