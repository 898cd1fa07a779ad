// minke train pretrain, minke train sft: learning from texts and from conversations.
#include <string.h>
#include <unistd.h>

#include "train/supervised.h"
#include "train_setup.h"

typedef struct {
    cmd_train_args t;
    mk_opt_list check, reward;
    int64_t n_check, max_tok;
} args;

#define OPT_CHECK                                                                                  \
    {.name = "check",                                                                              \
     .type = MK_OPT_LIST,                                                                          \
     .offset = offsetof(args, check),                                                              \
     .arg = "FILE",                                                                                \
     .help = "prompts with answers (as for grpo) that the model answers at every evaluation; "     \
             "their mean reward then decides what is best",                                        \
     .group = "Answers"},                                                                          \
        CMD_OPT_REWARD(args, reward), CMD_OPT_MAX_TOKENS(args, max_tok), {                         \
        .name = "check-prompts", .type = MK_OPT_I64, .offset = offsetof(args, n_check),            \
        .dflt = "0", .min = 0, .max = 1 << 30, .arg = "N", .help = "of them; 0: all"               \
    }

#define OPT_EPOCHS                                                                                 \
    {                                                                                              \
        .name = "epochs", .type = MK_OPT_I64, .offset = offsetof(args, t.epochs), .min = 1,        \
        .max = 1 << 20, .arg = "N", .help = "instead of --steps: times through the data (1)",      \
        .group = "Method"                                                                          \
    }

static const mk_opt sft_opts[] = {CMD_OPT_TRAIN(args, t), OPT_CHECK, OPT_EPOCHS};
static const mk_opt pretrain_opts[] = {
    CMD_OPT_TRAIN(args, t),
    OPT_CHECK,
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

static void add_epochs(cmd_train_args *a, const mk_supervised *s) {
    if (a->steps == 0) {
        int64_t n = mk_supervised_n_batch(s) * (a->epochs ? a->epochs : 1);
        a->steps = (n + a->accum - 1) / a->accum;
    }
}

// The model answers prompts at evaluations.
typedef struct {
    mk_data *data;
    mk_rewards *rewards;
    mk_samples *answers;
} checks;

static mk_status open_checks(checks *c, const cmd_training *t, const args *a, mk_err *err) {
    if (a->check.n == 0) {
        return MK_OK;
    }
    MK_TRY(cmd_make_rewards(&a->reward, &c->rewards, err));
    MK_TRY(cmd_read_data(&a->t.data, t->llm, MK_DATA_RL, a->check.items, (int)a->check.n, &c->data,
                         err));
    int64_t n_seq = t->trainer_opts.n_seq;
    mk_samples_opts o = {.engine = mk_trainer_engine(t->trainer),
                         .tokenizer = mk_llm_tokenizer(t->llm),
                         .rewards = c->rewards,
                         .n_seq = n_seq,
                         .n_prompt = n_seq,
                         .group = 1,
                         .max_tok = a->max_tok};
    return mk_samples_create(&o, &c->answers, err);
}

static void close_checks(checks *c) {
    mk_samples_destroy(c->answers);
    mk_data_destroy(c->data);
    mk_rewards_destroy(c->rewards);
}

static mk_status learn(cmd_training *t, args *a, const mk_method *method, const checks *c,
                       bool stop, mk_err *err) {
    static const char *const extra[] = {"mtp_loss", "accuracy", "imbalance", NULL};
    mk_supervised *s = NULL;
    mk_supervised_opts o = {.trainer = t->trainer,
                            .data = t->data,
                            .eval = t->eval,
                            .n_row = t->trainer_opts.n_row,
                            .n_seq = t->trainer_opts.n_seq,
                            .n_accum = a->t.accum,
                            .seed = (uint64_t)a->t.seed,
                            .shuffle = a->t.shuffle,
                            .answers = c->answers,
                            .check = c->data,
                            .n_check = a->n_check};
    MK_TRY(mk_supervised_create(&o, &s, err));
    add_epochs(&a->t, s);
    mk_status st = show_time(&a->t, s, err);
    if (st == MK_OK && !stop) {
        json_t *recipe = json_object();
        st = cmd_training_run(t, method, s, recipe, extra, err);
        json_decref(recipe);
    }
    mk_supervised_destroy(s);
    return st;
}

static mk_status train(cmd_training *t, args *a, const mk_method *method, mk_err *err) {
    bool stop = false;
    checks c = {0};
    MK_TRY(cmd_training_plan(t, method->name, &stop, err));
    mk_status st = open_checks(&c, t, a, err);
    st = st == MK_OK ? learn(t, a, method, &c, stop, err) : st;
    close_checks(&c);
    return st;
}

#define PROMPT_ROOM 64  // tokens of a prompt that is checked, beside --max-tokens

static mk_status run(const mk_opt_spec *spec, const mk_method *method, mk_data_kind kind, int argc,
                     char *const *argv, mk_err *err) {
    args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        cmd_training t = {0};
        cmd_training_needs needs = {.kind = kind, .eval_kind = kind};
        needs.at_least = a.check.n > 0 ? a.max_tok + PROMPT_ROOM : 0;
        st = cmd_training_open(&t, &a.t, &needs, r.args, r.n_args, err);
        st = st == MK_OK ? train(&t, &a, method, err) : st;
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
