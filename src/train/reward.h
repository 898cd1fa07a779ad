// Rewards: functions from a completion to a number, by rules that a model should not be able to
// talk round.
//
// A mk_rewards is a list of reward functions with weights and names, made from texts:
//
//     KIND[:KEY=VALUE[,KEY=VALUE...]]     "exact"   "format:weight=0.1"   "regex:pattern=\d+( eggs)?"
//
//     kind        wants in the line      1 if ... (else 0)
//     exact       answer                 the answer is this text, runs of white space aside
//     numeric     answer                 the last number of the answer is this number
//     regex       answer, or pattern=    the whole answer matches (find=on: some part of it)
//     expression  answer or target,      the answer is an arithmetic expression of this value (or "... = value");
//                 numbers (optional)     with numbers: it uses exactly these, each once, and no sign of its own
//     math        answer                 the boxed (or whole) answer is equal as a piece of mathematics
//     format                             one reasoning section, then an answer, ended by the model itself
//     length                             0 up to max-soft tokens, down to -1 at max (DAPO's soft overlong penalty)
//     command     anything               what an external program prints (command.h)
//     checker     checker                the kind that the line names: one of exact to math
//
// Keys of every kind: weight= (1), name= (the kind), tag=NAME (the answer is what stands between
// the only <NAME> and the only </NAME> of it).  numeric and math: tolerance= (1e-9, relative).
// format: lines=N (at most N lines of answer).  length: max=, soft=.  pattern=, run= and shell=
// take the rest of the text, commas and all.
//
// What a completion cannot do.  The answer is what follows the reasoning section; a completion that
// never closes it has none, and an answer that contains a tag of reasoning again counts as none.
// Only the last number, the last box counts, so a list of guesses is worth its last guess; behind
// the last number at most 32 bytes in its line may stand.  exact and expression take the whole
// answer and nothing beside it.  Whatever bytes a completion has (NUL, half characters, 100,000
// parentheses), scoring takes time linear in them, or bounded (regex), and is never an error;
// errors are for lines without the field that a kind wants, and for programs that do not work.
//
// The list owns everything; inputs are borrowed for the call.  After creation it is not changed:
// any number of threads may score.
#ifndef MK_TRAIN_REWARD_H
#define MK_TRAIN_REWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"

#define MK_REWARDS_MAX 32

typedef struct mk_rewards mk_rewards;

typedef struct {
    const char *open, *close;  // tags of reasoning; NULL = <think>, </think>
} mk_rewards_opts;

// Errors: MK_EUSAGE (unknown kind or key, value out of range, bad pattern), MK_ENOTFOUND (program).
mk_status mk_rewards_create(const char *const *spec, size_t n, const mk_rewards_opts *opts,
                            mk_rewards **out, mk_err *err) MK_WARN_UNUSED;
void mk_rewards_destroy(mk_rewards *r);
int mk_rewards_count(const mk_rewards *r);
const char *mk_rewards_name(const mk_rewards *r, int i);
double mk_rewards_weight(const mk_rewards *r, int i);

typedef struct {
    const char *prompt;  // as the model saw it; NULL = none.  Only commands look at it.
    size_t n_prompt;
    const char *completion;  // everything behind the prompt, without the token that ends the turn
    size_t n_completion;
    bool thinking;           // the prompt ended in the opening tag
    bool finished;           // ended by the model, not by the limit on tokens
    int64_t n_tok, max_tok;  // length of the completion, and its limit (0 = none)
    const json_t *line;      // the object of the data line
} mk_reward_input;

// each[mk_rewards_count], may be NULL: the values without weights; *total: their weighted sum.
// Errors: MK_ECORRUPT (the line lacks a field, with its name), MK_EIO (a program fails every time).
mk_status mk_rewards_score(const mk_rewards *r, const mk_reward_input *in, double *each,
                           double *total, mk_err *err) MK_WARN_UNUSED;

#endif
