// What the kinds of rewards share.
#ifndef MK_TRAIN_REWARD_INT_H
#define MK_TRAIN_REWARD_INT_H

#include <stdatomic.h>

#include "base/buf.h"
#include "train/command.h"
#include "train/reward.h"

typedef struct mk_reward mk_reward;

// A completion taken apart.
typedef struct {
    const mk_reward_input *in;
    const char *reasoning, *answer;
    size_t n_reasoning, n_answer;
    bool has_answer;  // the reasoning is closed (or there is none) and no tag stands in the answer
    const char *open, *close;
} mk_reward_text;

typedef struct {
    const char *name;
    unsigned keys;                                    // MK_KEY_...
    bool by_line;                                     // a line may name it as its checker
    mk_status (*prepare)(mk_reward *r, mk_err *err);  // may be NULL
    mk_status (*score)(const mk_reward *r, const mk_reward_text *t, double *value, mk_err *err);
} mk_reward_kind;

struct mk_reward {
    const mk_reward_kind *kind;
    char *name, *tag, *pattern;
    double weight, tolerance;
    bool find;
    int64_t lines, max, soft;
    mk_command_opts command;
    char *run;
    void *regex;  // pcre2_code of `pattern`
    mk_command *program;
    atomic_int *failures;  // of the program, one after the other
};

enum {
    MK_KEY_ANY = 1,
    MK_KEY_NUMBER = 2,
    MK_KEY_REGEX = 4,
    MK_KEY_FORMAT = 8,
    MK_KEY_LENGTH = 16,
    MK_KEY_COMMAND = 32
};

extern const mk_reward_kind mk_reward_kinds[];
extern const int mk_reward_n_kind;

// The field `key` of the line as text: a string, or a number printed.  `room` holds printed
// numbers.  Errors: MK_ECORRUPT.
mk_status mk_reward_field(const mk_reward_text *t, const char *key, char room[32],
                          const char **text, size_t *n, mk_err *err) MK_WARN_UNUSED;

void mk_reward_trim(const char **s, size_t *n);  // white space at both ends

// A number in a text, exact where it can be.
typedef struct {
    double value;
    bool is_int, is_percent;
    int64_t integer;
} mk_reward_number;

// The number that starts at text[*at] (a digit, or a point before a digit), with sign, separators,
// exponent, denominator and percent; *at moves behind it.  false: too long or too large for one.
bool mk_reward_read_number(const char *text, size_t n, size_t *at, mk_reward_number *v);
// The last number of a text, and the offset behind it; false if there is none.
bool mk_reward_last_number(const char *text, size_t n, mk_reward_number *v, size_t *end);
bool mk_reward_same_number(const mk_reward_number *a, const mk_reward_number *b, double tolerance);

// Equal as pieces of mathematics?
bool mk_reward_math_equal(const char *a, size_t na, const char *b, size_t nb, double tolerance);

mk_status mk_reward_regex_prepare(mk_reward *r, mk_err *err);
void mk_reward_regex_free(mk_reward *r);
mk_status mk_reward_score_regex(const mk_reward *r, const mk_reward_text *t, double *v,
                                mk_err *err);
mk_status mk_reward_score_math(const mk_reward *r, const mk_reward_text *t, double *v, mk_err *err);
mk_status mk_reward_command_prepare(mk_reward *r, mk_err *err);
mk_status mk_reward_score_command(const mk_reward *r, const mk_reward_text *t, double *v,
                                  mk_err *err);

#endif
