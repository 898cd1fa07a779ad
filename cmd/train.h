// minke train METHOD: the methods, and what they share.
//
// A method is one file with an options table and a function, like a verb; train.c finds it by name.
#ifndef MK_CMD_TRAIN_H
#define MK_CMD_TRAIN_H

#include "cmd.h"
#include "train/data.h"

// name, one line for `minke train --help`
#define CMD_TRAIN_METHODS(X)                                                                       \
    X(pretrain, "trains a new model, or goes on with one, on texts")                               \
    X(sft, "fine-tunes a model on conversations")                                                  \
    X(dpo, "teaches a model which of two answers is the better one")                               \
    X(grpo, "teaches a model by trying: rewards from rules")                                       \
    X(distill, "writes a model's right answers as training data for another")                      \
    X(score, "how often a model is right, by the same rules")                                      \
    X(export, "the model of a checkpoint as a folder")                                             \
    X(report, "one page with curves and samples of runs, or TensorBoard's files")                  \
    X(preview, "shows samples, what is learned of them, and counts")

#define X(name, about)                                                                             \
    extern const mk_opt_spec cmd_train_##name##_spec;                                              \
    mk_status cmd_train_##name(int argc, char *const *argv, mk_err *err);
CMD_TRAIN_METHODS(X)
#undef X

// --- data ----------------------------------------------------------------------------------------

// What every method that reads training data accepts.  Zero is a valid start.
typedef struct {
    const char *learn, *longer, *think, *separator;
    int64_t max_len;  // 0 = the model's window
    bool raw, skip_bad, allow_unknown;
} cmd_data_args;

#define CMD_OPT_DATA(T, field)                                                                     \
    {.name = "mask",                                                                               \
     .type = MK_OPT_STR,                                                                           \
     .offset = offsetof(T, field.learn),                                                           \
     .dflt = "assistant",                                                                          \
     .choices = "assistant|last|completion|all",                                                   \
     .arg = "WHAT",                                                                                \
     .group = "Data",                                                                              \
     .help = "what is learned: every answer, the last one, those of the completion (of messages: " \
             "behind the last user), or every token"},                                             \
        {.name = "max-len",                                                                        \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.max_len),                                                     \
         .min = 2,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "N",                                                                               \
         .help = "longest sample in tokens; without it the model's window"},                       \
        {.name = "long",                                                                           \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.longer),                                                      \
         .dflt = "cut",                                                                            \
         .choices = "cut|drop",                                                                    \
         .arg = "HOW",                                                                             \
         .help = "longer samples lose their end, or are left out"},                                \
        {.name = "raw",                                                                            \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.raw),                                                         \
         .help = "no chat template: strings as they are, control tokens in them recognised"},      \
        {.name = "think",                                                                          \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.think),                                                       \
         .choices = "off|on",                                                                      \
         .arg = "HOW",                                                                             \
         .help = "for templates that can switch reasoning; without it their own choice"},          \
        {.name = "separator",                                                                      \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.separator),                                                   \
         .arg = "TEXT",                                                                            \
         .help = "between the documents of a .txt file; without it a file is one document"},       \
        {.name = "skip-bad",                                                                       \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.skip_bad),                                                    \
         .help = "leave bad lines out and count them"},                                            \
    {                                                                                              \
        .name = "allow-unknown", .type = MK_OPT_FLAG, .offset = offsetof(T, field.allow_unknown),  \
        .help = "ignore fields that are not known"                                                 \
    }

// Reads the files with the model's tokenizer and template; *out is freed with mk_data_destroy.
mk_status cmd_read_data(const cmd_data_args *a, const mk_llm *llm, mk_data_kind kind,
                        const char *const *files, int n_file, mk_data **out,
                        mk_err *err) MK_WARN_UNUSED;
// What was read, as lines for a person or as one object.
void cmd_print_data_stats(FILE *f, const mk_data *d, const mk_data_stats *s);
json_t *cmd_data_stats_json(const mk_data *d, const mk_data_stats *s);

#endif
