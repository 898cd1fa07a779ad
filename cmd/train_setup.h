// What the methods that change a model share: their options, and everything from the files to a
// running loop and the saved result.
#ifndef MK_CMD_TRAIN_SETUP_H
#define MK_CMD_TRAIN_SETUP_H

#include "lora.h"
#include "train.h"
#include "train/reward.h"
#include "train/run.h"

// Zero is a valid start; defaults come from the table.
typedef struct {
    cmd_model_args model;
    cmd_data_args data;
    cmd_lora_args lora;
    const char *out, *config, *tokenizer, *schedule, *optimizer, *type, *precision;
    mk_opt_list eval;
    int64_t steps, epochs, batch_tokens, accum, warmup, save_every, eval_every, keep, patience,
        seed;
    double lr, min_lr, decay, weight_decay, beta1, beta2, clip, balance, mtp;
    bool checkpointing, dry_run, json, shuffle;
} cmd_train_args;

// Rows for a cmd_train_args that is the first member of struct T, under the name `field`.
#define CMD_OPT_TRAIN(T, field)                                                                    \
    CMD_OPT_MODEL(T, field.model), CMD_OPT_TEMPLATE(T, field.model),                               \
        {.name = "out",                                                                            \
         .short_name = "o",                                                                        \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.out),                                                         \
         .arg = "DIR",                                                                             \
         .help = "folder of the run: checkpoints, log.jsonl, and the result in DIR/model; a run "  \
                 "that stands there goes on",                                                      \
         .group = "Run"},                                                                          \
        {.name = "steps",                                                                          \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.steps),                                                       \
         .min = 1,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "N",                                                                               \
         .help = "updates"},                                                                       \
        {.name = "batch-tokens",                                                                   \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.batch_tokens),                                                \
         .dflt = "4096",                                                                           \
         .min = 2,                                                                                 \
         .max = 1 << 24,                                                                           \
         .arg = "N",                                                                               \
         .help = "tokens computed together at most"},                                              \
        {.name = "accum",                                                                          \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.accum),                                                       \
         .dflt = "1",                                                                              \
         .min = 1,                                                                                 \
         .max = 1 << 20,                                                                           \
         .arg = "N",                                                                               \
         .help = "batches whose gradients make one update"},                                       \
        {.name = "lr",                                                                             \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.lr),                                                          \
         .dflt = "1e-4",                                                                           \
         .min = 0,                                                                                 \
         .max = 100,                                                                               \
         .arg = "X",                                                                               \
         .help = "learning rate behind the warm-up",                                               \
         .group = "Learning"},                                                                     \
        {.name = "schedule",                                                                       \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.schedule),                                                    \
         .dflt = "cosine",                                                                         \
         .choices = "constant|linear|cosine|wsd",                                                  \
         .arg = "KIND",                                                                            \
         .help = "how the rate falls; wsd: only in the last part of the run"},                     \
        {.name = "warmup",                                                                         \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.warmup),                                                      \
         .dflt = "0",                                                                              \
         .min = 0,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "N",                                                                               \
         .help = "updates in which the rate rises"},                                               \
        {.name = "min-lr",                                                                         \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.min_lr),                                                      \
         .dflt = "0.1",                                                                            \
         .min = 0,                                                                                 \
         .max = 1,                                                                                 \
         .arg = "X",                                                                               \
         .help = "the rate at the end, as a part of --lr"},                                        \
        {.name = "decay",                                                                          \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.decay),                                                       \
         .dflt = "0.2",                                                                            \
         .min = 0,                                                                                 \
         .max = 1,                                                                                 \
         .arg = "X",                                                                               \
         .help = "wsd: the part of the run in which the rate falls"},                              \
        {.name = "optimizer",                                                                      \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.optimizer),                                                   \
         .dflt = "adamw",                                                                          \
         .choices = "adamw|adamw8|muon",                                                           \
         .arg = "NAME",                                                                            \
         .help = "adamw8: moments in 8 bits; muon: matrices by Muon, the rest by AdamW"},          \
        {.name = "weight-decay",                                                                   \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.weight_decay),                                                \
         .dflt = "0.1",                                                                            \
         .min = 0,                                                                                 \
         .max = 10,                                                                                \
         .arg = "X",                                                                               \
         .help = "of matrices and the token table, times the rate"},                               \
        {.name = "beta1",                                                                          \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.beta1),                                                       \
         .dflt = "0.9",                                                                            \
         .min = 0,                                                                                 \
         .max = 0.9999,                                                                            \
         .arg = "X",                                                                               \
         .help = "of the mean of the gradients"},                                                  \
        {.name = "beta2",                                                                          \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.beta2),                                                       \
         .dflt = "0.95",                                                                           \
         .min = 0,                                                                                 \
         .max = 0.999999,                                                                          \
         .arg = "X",                                                                               \
         .help = "of the mean of their squares"},                                                  \
        {.name = "clip",                                                                           \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.clip),                                                        \
         .dflt = "1",                                                                              \
         .min = 0,                                                                                 \
         .max = 1e9,                                                                               \
         .arg = "X",                                                                               \
         .help = "largest norm of all gradients together; 0 is off"},                              \
        {.name = "balance",                                                                        \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.balance),                                                     \
         .dflt = "0.001",                                                                          \
         .min = 0,                                                                                 \
         .max = 1,                                                                                 \
         .arg = "X",                                                                               \
         .help = "experts: step of the selection bias towards equal loads; 0 is off"},             \
        {.name = "mtp",                                                                            \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.mtp),                                                         \
         .dflt = "0",                                                                              \
         .min = 0,                                                                                 \
         .max = 1000,                                                                              \
         .arg = "X",                                                                               \
         .help = "weight of the loss of multi-token prediction, for a model with a layer for it "  \
                 "(DeepSeek-V3 had 0.3, then 0.1); 0 leaves that layer as it is"},                 \
        {.name = "precision",                                                                      \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.precision),                                                   \
         .dflt = "f32",                                                                            \
         .choices = "f32|bf16",                                                                    \
         .arg = "TYPE",                                                                            \
         .help = "of products of matrices; bf16: about twice as fast where the processor has it, " \
                 "weights and sums stay f32"},                                                     \
        {.name = "checkpointing",                                                                  \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.checkpointing),                                               \
         .help = "keep only what lies between layers and compute them twice: less memory, the "    \
                 "same result"},                                                                   \
        {.name = "shuffle",                                                                        \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.shuffle),                                                     \
         .dflt = "on",                                                                             \
         .help = "another order of the samples in every epoch"},                                   \
        {.name = "seed",                                                                           \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.seed),                                                        \
         .dflt = "1",                                                                              \
         .min = 0,                                                                                 \
         .max = 999999999999999.0,                                                                 \
         .arg = "N",                                                                               \
         .help = "of order, sampling and new weights; the same seed gives the same model"},        \
        {.name = "eval",                                                                           \
         .type = MK_OPT_LIST,                                                                      \
         .offset = offsetof(T, field.eval),                                                        \
         .arg = "FILE",                                                                            \
         .help = "held-out data to be measured on; may be repeated",                               \
         .group = "Evaluation and saving"},                                                        \
        {.name = "eval-every",                                                                     \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.eval_every),                                                  \
         .dflt = "0",                                                                              \
         .min = 0,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "N",                                                                               \
         .help = "updates between evaluations; 0: at the end"},                                    \
        {.name = "patience",                                                                       \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.patience),                                                    \
         .dflt = "0",                                                                              \
         .min = 0,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "N",                                                                               \
         .help = "stop after so many evaluations without a better score; 0 is off"},               \
        {.name = "save-every",                                                                     \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.save_every),                                                  \
         .dflt = "100",                                                                            \
         .min = 0,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "N",                                                                               \
         .help = "updates between checkpoints; 0: at the end"},                                    \
        {.name = "keep",                                                                           \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.keep),                                                        \
         .dflt = "2",                                                                              \
         .min = 1,                                                                                 \
         .max = 1 << 20,                                                                           \
         .arg = "N",                                                                               \
         .help = "checkpoints that stay, beside the best"},                                        \
        {.name = "type",                                                                           \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.type),                                                        \
         .dflt = "f32",                                                                            \
         .choices = "f32|bf16",                                                                    \
         .arg = "TYPE",                                                                            \
         .help = "of the weights in DIR/model; minke convert writes GGUF and smaller types"},      \
        {.name = "dry-run",                                                                        \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.dry_run),                                                     \
         .help = "show the plan and stop"},                                                        \
        {.name = "json",                                                                           \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.json),                                                        \
         .help = "the plan, and one object per step, on standard output"},                         \
        {.name = "threads",                                                                        \
         .short_name = "t",                                                                        \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.model.n_thread),                                              \
         .min = 1,                                                                                 \
         .max = 1024,                                                                              \
         .arg = "N",                                                                               \
         .env = "MINKE_THREADS",                                                                   \
         .help = "threads; the result does not depend on it",                                      \
         .group = "Machine"},                                                                      \
        {.name = "isa",                                                                            \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.model.isa),                                                   \
         .dflt = "auto",                                                                           \
         .arg = "SET",                                                                             \
         .env = "MINKE_ISA",                                                                       \
         .help = "instruction set; the result does not depend on it"},                             \
        {.name = "quiet",                                                                          \
         .short_name = "q",                                                                        \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.model.quiet),                                                 \
         .help = "nothing on standard error but errors"},                                          \
        CMD_OPT_LORA(T, field.lora), CMD_OPT_DATA(T, field.data)

// Rewards of a method: an mk_opt_list of texts (reward.h), and how long completions may be.
#define CMD_OPT_REWARD(T, field)                                                                   \
    {                                                                                              \
        .name = "reward", .type = MK_OPT_LIST, .offset = offsetof(T, field),                       \
        .arg = "KIND[:KEY=VALUE,...]",                                                             \
        .help =                                                                                    \
            "exact, numeric, regex, expression, math, format, length, command, or checker (what "  \
            "the line names); weight=X; may be repeated",                                          \
        .group = "Rewards"                                                                         \
    }
#define CMD_OPT_MAX_TOKENS(T, field)                                                               \
    {                                                                                              \
        .name = "max-tokens", .type = MK_OPT_I64, .offset = offsetof(T, field), .dflt = "256",     \
        .min = 1, .max = 1 << 20, .arg = "N", .help = "tokens of a completion at most"             \
    }

// What the verbs share that let a model answer prompts.
#define CMD_OPT_PROMPTS(T, field)                                                                  \
    {                                                                                              \
        .name = "n", .short_name = "n", .type = MK_OPT_I64, .offset = offsetof(T, field),          \
        .dflt = "0", .min = 0, .max = 1 << 30, .arg = "N",                                         \
        .help = "prompts, from the first on; 0: all", .group = "Sampling"                          \
    }
#define CMD_OPT_PARALLEL(T, field)                                                                 \
    {                                                                                              \
        .name = "parallel", .type = MK_OPT_I64, .offset = offsetof(T, field), .dflt = "128",       \
        .min = 1, .max = 4096, .arg = "N",                                                         \
        .help = "completions computed together; they do not depend on it"                          \
    }

// Without any: what the lines name.
mk_status cmd_make_rewards(const mk_opt_list *list, mk_rewards **out, mk_err *err) MK_WARN_UNUSED;

// A model open for training, with its words.
typedef struct {
    const cmd_train_args *a;
    mk_llm *llm;  // tokenizer and template; no weights
    mk_pool *pool;
    const mk_kernels *kernels;
    mk_model *model;        // in float32, perhaps with copies in bf16
    mk_adapters *adapters;  // or NULL; the model is then as the file has it
    mk_data *data, *eval;
    mk_trainer_opts trainer_opts;
    mk_trainer *trainer;
    char *dir;  // of the model that is started from
} cmd_training;

// Opens model and data and makes room for passes of n_seq sequences (0: what fits a batch) that are
// `more` tokens longer than the data's, and have `at_least` so many.  After an error too,
// cmd_training_close.
typedef struct {
    mk_data_kind kind, eval_kind;
    int64_t n_seq, more, at_least;
} cmd_training_needs;
mk_status cmd_training_open(cmd_training *t, const cmd_train_args *a,
                            const cmd_training_needs *needs, const char *const *files, int n_file,
                            mk_err *err) MK_WARN_UNUSED;
void cmd_training_close(cmd_training *t);

// Prints the plan (what is trained, memory, data), and makes the trainer; *stop with --dry-run.
mk_status cmd_training_plan(cmd_training *t, const char *method, bool *stop,
                            mk_err *err) MK_WARN_UNUSED;

// "1:02:03" or "2:03".
const char *cmd_time_text(double seconds, char out[32]);

// The loop, with progress and Ctrl-C, and the result in DIR/model.  `extra`: what a step's line
// shows beside loss and rate, NULL-terminated names of the log.
mk_status cmd_training_run(cmd_training *t, const mk_method *method, void *method_arg,
                           json_t *recipe, const char *const *extra, mk_err *err) MK_WARN_UNUSED;

#endif
