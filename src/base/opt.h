// The options table: one row per option gives the command-line flag, its environment form, default,
// range and help text.
//
//     typedef struct { const char *model; int64_t n; double top_p; bool raw; mk_opt_list stop; } run_args;
//     static const mk_opt opts[] = {
//         {.name = "model", .short_name = "m", .type = MK_OPT_STR, .offset = offsetof(run_args, model),
//          .arg = "MODEL", .env = "MINKE_MODEL", .help = "file, folder or name of the model"},
//         {.name = "top-p", .type = MK_OPT_F64, .offset = offsetof(run_args, top_p), .dflt = "1", .min = 0, .max = 1,
//          .arg = "P", .help = "keep the most probable tokens that sum to P"},
//         ...
//     };
//     static const mk_opt_spec spec = {.program = "minke run", .usage = "[-m MODEL] [PROMPT]", .about = "One answer.",
//                                      .opts = opts, .n_opts = MK_OPT_COUNT(opts), .max_args = 1};
//     run_args a = {0};  mk_opt_result r;
//     MK_TRY(mk_opt_parse(&spec, argc, argv, &a, &r, err));      // argv[0] is skipped
//     if (r.help) { mk_opt_help(&spec, &buf); ... }
//     ... mk_opt_free(&spec, &a, &r);
//
// Accepted: --x V, --x=V, -x V, -x=V, --flag, --no-flag, --flag=on|off; `--` ends the options;
// options and arguments mix; a lone `-` is an argument.  --help and -h are always known.  An option
// given twice: the last one counts, except lists.  Precedence: the caller's initialisation, then
// `dflt`, then the environment (only rows with .env), then the command line.  The result does not
// depend on the locale.  Strings point into argv, the environment or the table: nothing is copied.
#ifndef MK_BASE_OPT_H
#define MK_BASE_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef enum {
    MK_OPT_FLAG,  // bool
    MK_OPT_I64,   // int64_t
    MK_OPT_F64,   // double, finite
    MK_OPT_STR,   // const char *
    MK_OPT_LIST   // mk_opt_list: every occurrence adds one string
} mk_opt_type;

typedef struct {
    const char **items;
    size_t n;
} mk_opt_list;

typedef struct {
    const char *name;        // "top-p"; the flag is --top-p
    const char *short_name;  // "m", "ngl": the flag is -m, -ngl; NULL = none
    mk_opt_type type;
    size_t offset;  // of the field in the caller's struct
    // text parsed like a value (flags: "on"); NULL = the field keeps its initial value
    const char *dflt;
    // numbers: both inclusive; min == max == 0 means any (I64: bounds up to 2^53 are exact)
    double min, max;
    const char *choices;  // strings: the allowed values, "auto|on|off"; NULL = any
    // numbers: one word accepted instead of a number ("max"), standing for word_value; or NULL
    const char *word;
    double word_value;
    const char *arg;    // name of the value in the help ("N"); NULL = "VALUE"
    const char *env;    // "MINKE_CTX", or NULL; must start with MINKE_
    const char *help;   // one sentence; range, choices and default are added by mk_opt_help
    const char *group;  // heading above this row and those after it; NULL = same as before
} mk_opt;

#define MK_OPT_COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define MK_OPT_MAX_ROWS     128

typedef struct {
    const char *program;  // "minke run"
    const char *usage;    // what follows it in the usage line; NULL = "[options]"
    const char *about;    // one paragraph under the usage line; may be NULL
    const char *more;     // paragraph(s) at the end (examples); printed as they are; may be NULL
    const mk_opt *opts;
    size_t n_opts;
    int min_args, max_args;  // arguments that are not options; max_args < 0 = any number
} mk_opt_spec;

typedef struct {
    // the arguments that are not options, in order (owned by the result, strings by argv)
    const char **args;
    int n_args;
    bool help;                    // --help or -h was given: nothing else was checked
    bool given[MK_OPT_MAX_ROWS];  // by row: set on the command line or by the environment
} mk_opt_result;

// Fills `values` (the caller's struct) and *r.  Errors: MK_EUSAGE, with the flag, what was expected
// and what was given, and for an unknown flag the nearest known one.  mk_opt_free in every case.
mk_status mk_opt_parse(const mk_opt_spec *spec, int argc, char *const *argv, void *values,
                       mk_opt_result *r, mk_err *err) MK_WARN_UNUSED;
void mk_opt_free(const mk_opt_spec *spec, void *values, mk_opt_result *r);

// true if the option with this long name was given (assertion: the row exists).
bool mk_opt_given(const mk_opt_spec *spec, const mk_opt_result *r, const char *name);

// The text of --help, lines of at most 80 columns.
void mk_opt_help(const mk_opt_spec *spec, mk_buf *out);

// The candidate nearest to `word` by edit distance, if it is near enough to be a slip of the
// finger; else NULL.
const char *mk_opt_suggest(const char *word, const char *const *candidates, size_t n);

// Strict numbers, independent of the locale: the whole text or an error; no spaces, no hexadecimal,
// no "inf" or "nan".
bool mk_parse_i64(const char *s, int64_t *out);
bool mk_parse_f64(const char *s, double *out);

// An environment variable that is not an option of a table (NO_COLOR, HOME, TERM); NULL when unset
// or empty.  The only getenv of the program stands behind this and the .env rows.
const char *mk_env(const char *name);

#endif
