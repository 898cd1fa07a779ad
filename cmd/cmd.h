// The verbs of the program and what they share.  Only this room prints and ends the process.
//
// A verb is one file: an options table (mk_opt_spec), and a function that parses its arguments,
// does the work and returns a status.  main.c prints the error, if there is one, and turns the
// status into the exit code.
#ifndef MK_CMD_CMD_H
#define MK_CMD_CMD_H

#include <stdbool.h>
#include <stdio.h>

#include "base/opt.h"
#include "base/status.h"
#include "chat/llm.h"

// name, one line for `minke help`
#define CMD_VERBS(X)                                                                               \
    X(run, "one answer to one prompt, streamed")                                                   \
    X(chat, "a conversation in the terminal")                                                      \
    X(serve, "OpenAI, Anthropic and Ollama APIs for programs, on one port")                        \
    X(keys, "API keys of the service: new, list, revoke")                                          \
    X(usage, "what the service has answered, and what others would have charged")                  \
    X(show, "what a model is and how much memory it takes")                                        \
    X(tokenize, "text to token ids and back")                                                      \
    X(tokenizer, "makes a tokenizer: bytes, given words, or BPE learned from text")                \
    X(perplexity, "how well a model predicts a text")                                              \
    X(logits, "raw logits of every position as a .npy file")                                       \
    X(convert, "a model folder or GGUF file to a GGUF file")                                       \
    X(merge, "a model and an adapter to one model")                                                \
    X(train, "teach a model: see what it would learn from data")                                   \
    X(cache, "packed copies of models on disk, for a faster start")                                \
    X(bench, "speed of prompt and generation against the limits of the machine")

#define X(name, about)                                                                             \
    extern const mk_opt_spec cmd_##name##_spec;                                                    \
    mk_status cmd_##name(int argc, char *const *argv, mk_err *err);
CMD_VERBS(X)
#undef X

// --- arguments -----------------------------------------------------------------------------------
// mk_opt_parse, then --help on standard output if it was asked for (r->help).  mk_opt_free in every
// case.
mk_status cmd_parse(const mk_opt_spec *spec, int argc, char *const *argv, void *values,
                    mk_opt_result *r, mk_err *err) MK_WARN_UNUSED;

// What every verb that opens a model accepts.  Zero is a valid start.
typedef struct {
    const char *model, *isa, *kv_type, *template_path, *cache_dir, *adapter;
    // n_ctx: 0 = not given, CMD_CTX_MAX = the model's whole window
    int64_t n_thread, n_ctx, n_chunk;
    bool quiet, verbose;
    bool packed;  // use the packed copy of the model if there is one
} cmd_model_args;

#define CMD_CTX_MAX (-1)

// Rows of an options table for a cmd_model_args `field` of struct `T`.  The first row stands alone,
// so that a verb can take its model as an argument instead.
#define CMD_OPT_MODEL(T, field)                                                                    \
    {                                                                                              \
        .name = "model", .short_name = "m", .type = MK_OPT_STR,                                    \
        .offset = offsetof(T, field.model), .arg = "MODEL", .env = "MINKE_MODEL",                  \
        .help = "a .gguf file, a model folder, or a name in models/", .group = "Model"             \
    }
#define CMD_OPT_RUNTIME(T, field)                                                                  \
    {.name = "threads",                                                                            \
     .short_name = "t",                                                                            \
     .type = MK_OPT_I64,                                                                           \
     .offset = offsetof(T, field.n_thread),                                                        \
     .min = 1,                                                                                     \
     .max = 1024,                                                                                  \
     .arg = "N",                                                                                   \
     .env = "MINKE_THREADS",                                                                       \
     .help = "threads; without it every processor that is free to use"},                           \
        CMD_OPT_RUNTIME_REST(T, field)
// All but the threads, for a verb that measures with several numbers of them.
#define CMD_OPT_RUNTIME_REST(T, field)                                                             \
    {.name = "ctx",                                                                                \
     .type = MK_OPT_I64,                                                                           \
     .offset = offsetof(T, field.n_ctx),                                                           \
     .min = 1,                                                                                     \
     .max = 1 << 30,                                                                               \
     .word = "max",                                                                                \
     .word_value = CMD_CTX_MAX,                                                                    \
     .arg = "N",                                                                                   \
     .env = "MINKE_CTX",                                                                           \
     .help = "window in tokens; without it the model's window, or what fits into memory"},         \
        {.name = "chunk",                                                                          \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.n_chunk),                                                     \
         .min = 1,                                                                                 \
         .max = 65536,                                                                             \
         .arg = "N",                                                                               \
         .help = "tokens of a prompt computed together (512); the answer does not depend on it"},  \
        {.name = "kv-type",                                                                        \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.kv_type),                                                     \
         .dflt = "auto",                                                                           \
         .choices = "auto|f32|f16|q8",                                                             \
         .arg = "TYPE",                                                                            \
         .help = "numbers in the cache; q8: int8, half of f16 and the fastest, a little rounded"}, \
        {.name = "isa",                                                                            \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.isa),                                                         \
         .dflt = "auto",                                                                           \
         .arg = "SET",                                                                             \
         .env = "MINKE_ISA",                                                                       \
         .help = "instruction set: auto, scalar, avx2, avx512, neon; the answer does not depend "  \
                 "on it"},                                                                         \
        {.name = "quiet",                                                                          \
         .short_name = "q",                                                                        \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.quiet),                                                       \
         .help = "nothing on standard error but errors"},                                          \
    {                                                                                              \
        .name = "verbose", .short_name = "v", .type = MK_OPT_FLAG,                                 \
        .offset = offsetof(T, field.verbose), .help = "say what is done"                           \
    }
#define CMD_OPT_CACHE_DIR(T, field)                                                                \
    {                                                                                              \
        .name = "cache-dir", .type = MK_OPT_STR, .offset = offsetof(T, field.cache_dir),           \
        .arg = "DIR", .env = "MINKE_CACHE_DIR",                                                    \
        .help = "folder of packed copies (minke cache); without it ~/.cache/minke"                 \
    }
#define CMD_OPT_STATE_DIR(T, field)                                                                \
    {                                                                                              \
        .name = "state-dir", .type = MK_OPT_STR, .offset = offsetof(T, field), .arg = "DIR",       \
        .env = "MINKE_STATE_DIR",                                                                  \
        .help = "folder of keys, ledger and kept answers; without it ~/.local/state/minke"         \
    }
#define CMD_OPT_PACKED(T, field)                                                                   \
    CMD_OPT_CACHE_DIR(T, field), {                                                                 \
        .name = "packed", .type = MK_OPT_FLAG, .offset = offsetof(T, field.packed), .dflt = "on",  \
        .help = "use the packed copy of the model, if there is one"                                \
    }
#define CMD_OPT_ADAPTER(T, field)                                                                  \
    {                                                                                              \
        .name = "adapter", .type = MK_OPT_STR, .offset = offsetof(T, field.adapter),               \
        .arg = "PATH[=SCALE]",                                                                     \
        .help = "LoRA adapter on the model: a PEFT folder or a GGUF file; SCALE makes it weaker "  \
                "or stronger (1)"                                                                  \
    }
#define CMD_OPT_TEMPLATE(T, field)                                                                 \
    {                                                                                              \
        .name = "template", .type = MK_OPT_STR, .offset = offsetof(T, field.template_path),        \
        .arg = "FILE", .help = "chat template to use instead of the model's own"                   \
    }

// How to choose tokens.  Start with CMD_SAMPLE_ARGS: then what is not given is the model's own
// recommendation.
typedef struct {
    double temp, top_p, min_p, repeat, presence, frequency;  // NaN = not given
    int64_t top_k, seed, n_predict;                          // -1 = not given
    mk_opt_list stop, bias;
} cmd_sample_args;
#define CMD_SAMPLE_ARGS                                                                            \
    ((cmd_sample_args){.temp = NAN,                                                                \
                       .top_p = NAN,                                                               \
                       .min_p = NAN,                                                               \
                       .repeat = NAN,                                                              \
                       .presence = NAN,                                                            \
                       .frequency = NAN,                                                           \
                       .top_k = -1,                                                                \
                       .seed = 0,                                                                  \
                       .n_predict = -1})
#define CMD_SEED_RANDOM (-1)

#define CMD_OPT_SAMPLE(T, field)                                                                   \
    {.name = "max-tokens",                                                                         \
     .short_name = "n",                                                                            \
     .type = MK_OPT_I64,                                                                           \
     .offset = offsetof(T, field.n_predict),                                                       \
     .min = 0,                                                                                     \
     .max = 1 << 30,                                                                               \
     .arg = "N",                                                                                   \
     .help = "tokens at most; without it until the model stops or the window is full",             \
     .group = "Sampling (what is not given is the model's own recommendation)"},                   \
        {.name = "temp",                                                                           \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.temp),                                                        \
         .min = 0,                                                                                 \
         .max = 100,                                                                               \
         .arg = "T",                                                                               \
         .help = "temperature; 0 takes the most probable token every time"},                       \
        {.name = "top-k",                                                                          \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.top_k),                                                       \
         .min = 0,                                                                                 \
         .max = 1 << 30,                                                                           \
         .arg = "K",                                                                               \
         .help = "choose among the K most probable tokens; 0 is off"},                             \
        {.name = "top-p",                                                                          \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.top_p),                                                       \
         .min = 0,                                                                                 \
         .max = 1,                                                                                 \
         .arg = "P",                                                                               \
         .help = "choose among the most probable tokens that sum to P; 1 is off"},                 \
        {.name = "min-p",                                                                          \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.min_p),                                                       \
         .min = 0,                                                                                 \
         .max = 1,                                                                                 \
         .arg = "P",                                                                               \
         .help = "drop tokens less probable than P times the best; 0 is off"},                     \
        {.name = "repeat-penalty",                                                                 \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.repeat),                                                      \
         .min = 0.01,                                                                              \
         .max = 100,                                                                               \
         .arg = "X",                                                                               \
         .help = "divides the logits of the last 64 tokens; 1 is off"},                            \
        {.name = "presence-penalty",                                                               \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.presence),                                                    \
         .min = -100,                                                                              \
         .max = 100,                                                                               \
         .arg = "X",                                                                               \
         .help = "taken once from every token that was generated before"},                         \
        {.name = "frequency-penalty",                                                              \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.frequency),                                                   \
         .min = -100,                                                                              \
         .max = 100,                                                                               \
         .arg = "X",                                                                               \
         .help = "taken from a token once for every time it was generated"},                       \
        {.name = "logit-bias",                                                                     \
         .type = MK_OPT_LIST,                                                                      \
         .offset = offsetof(T, field.bias),                                                        \
         .arg = "ID=V",                                                                            \
         .help = "added to the logit of one token; ID=-inf forbids it; may be repeated"},          \
        {.name = "seed",                                                                           \
         .type = MK_OPT_I64,                                                                       \
         .offset = offsetof(T, field.seed),                                                        \
         .min = 0,                                                                                 \
         .max = 999999999999999.0,                                                                 \
         .word = "random",                                                                         \
         .word_value = CMD_SEED_RANDOM,                                                            \
         .arg = "N",                                                                               \
         .help = "the same seed gives the same text on every machine; without it 0"},              \
    {                                                                                              \
        .name = "stop", .type = MK_OPT_LIST, .offset = offsetof(T, field.stop), .arg = "TEXT",     \
        .help = "a text that ends the answer; may be repeated"                                     \
    }

#define CMD_THINK_CHOICES "off|on|low|medium|high|max"

// Sampling parameters for a ready model; *bias (mk_free) is the list that p->bias points to.
mk_status cmd_sample_params(const cmd_sample_args *a, const mk_llm *llm, mk_sample_params *p,
                            mk_logit_bias **bias, mk_err *err) MK_WARN_UNUSED;
// Says so if the thinking took all the tokens that there were.
void cmd_warn_unanswered(const mk_answer *a);
// Fills r->think and r->effort from the value of --think (NULL = the model's default).
void cmd_set_think(mk_request *r, const char *think);

// --- models --------------------------------------------------------------------------------------
#define CMD_DEFAULT_MODEL "thimble"
#define CMD_DEFAULT_ABOUT                                                                          \
    "The built-in model knows sums like (37+58)*6-129 and puzzles like: Make 24 from 3 5 7 9"
// Path of a model by file, folder or name (mk_free); the file itself where a folder holds one GGUF
// file.  NULL name = CMD_DEFAULT_MODEL.  Errors: MK_ENOTFOUND with the list of models that are
// there, MK_EUSAGE (a folder with several GGUF files).
mk_status cmd_find_model(const char *name, char **path, mk_err *err) MK_WARN_UNUSED;
// Folder of the packed copies (mk_free): the one given, $XDG_CACHE_HOME/minke or ~/.cache/minke;
// NULL if there is no home.
char *cmd_cache_dir(const char *given);
// Folder of the service's state (mk_free): the one given, $XDG_STATE_HOME/minke or
// ~/.local/state/minke; NULL if there is no home.
char *cmd_state_dir(const char *given);
// A file that comes with the program (mk_free): in data/ beside it, or where it was installed;
// NULL.
char *cmd_find_data(const char *name);

typedef struct {
    bool describe_only, later;    // as in mk_llm_opts
    int64_t n_out, n_seq, n_ctx;  // likewise; n_ctx only when --ctx is not given
    bool serve;                   // as in mk_llm_opts
    mk_load_progress loading;     // is told of the loading as well; may be NULL
    void *loading_arg;
} cmd_open_opts;
// One sequence belongs to mk_llm_generate: a verb that feeds the engine itself asks for two.
// Finds and opens; shows the progress of loading on a terminal.
mk_status cmd_open(const cmd_model_args *a, const cmd_open_opts *how, mk_llm **out,
                   mk_err *err) MK_WARN_UNUSED;

// Path (mk_free) and scale of an --adapter: PATH, or PATH=SCALE.
void cmd_split_adapter(const char *arg, char **path, double *scale);
// Writes the model of `llm`, which may be open for describing only, to a GGUF file, or a folder if
// `out` is one or ends with '/'.  type as the option of convert; `what` names the work on the
// terminal.
mk_status cmd_write_model(mk_llm *llm, const char *out, const char *type, const char *what,
                          mk_err *err) MK_WARN_UNUSED;
// Of a model from a GGUF file: tokenizer.json with its two companions and the chat template, into
// the folder that the model is being written to, if the file carries a tokenizer.json; else warns.
// Of a folder, whose files mk_model_save_folder copies: the template, if --template gave another.
mk_status cmd_save_words(const mk_llm *llm, const char *dir, mk_err *err) MK_WARN_UNUSED;
// Makes `text` the chat template of the folder.
mk_status cmd_save_template(const char *text, const char *dir, mk_err *err) MK_WARN_UNUSED;
#define CMD_TYPE_CHOICES "keep|f32|f16|bf16|q8_0"

// --- input, output, signals ----------------------------------------------------------------------
#define CMD_INPUT_MAX ((size_t)1 << 30)
// From now on Ctrl-C raises a flag instead of ending the program; a second one ends it.
void cmd_catch_interrupt(void);
bool cmd_interrupted(void);
void cmd_clear_interrupt(void);
// A file, or standard input for "-".
mk_status cmd_read_input(const char *path, char **data, size_t *n, mk_err *err) MK_WARN_UNUSED;

// Appends ids separated by commas, spaces or newlines; `flag` names them in messages.
mk_status cmd_parse_ids(const char *s, const char *flag, mk_ids *ids, mk_err *err) MK_WARN_UNUSED;

// Text from a model or a file.  On a terminal control characters (but newline and tab) are shown as
// '?', so that no text can drive it.  false when nobody reads any more.
bool cmd_write_text(FILE *f, const char *text, size_t n);
bool cmd_color(FILE *f);  // a terminal, and NO_COLOR is not set
// One JSON value and a newline; takes the reference.
mk_status cmd_print_json(json_t *v, bool pretty, mk_err *err) MK_WARN_UNUSED;
// MK_EIO if standard output could not be written (full disk); a closed pipe is no error.
mk_status cmd_check_stdout(mk_err *err) MK_WARN_UNUSED;
// "1.23 GB", "45.6 MB", "789 B"; decimal units.
const char *cmd_bytes_text(double n, char out[32]);

#endif
