// A request in the form that all dialects are brought into, before templates and tokens.
//
// Owned by whoever made it; mk_ask_free also after a failed parse.  Texts are NUL-terminated UTF-8.
#ifndef MK_SERVE_ASK_H
#define MK_SERVE_ASK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "chat/llm.h"
#include "engine/sample.h"

// A request has MAX_CHOICE answers at most: MAX_PROMPT prompts, MAX_N answers to each.
enum {
    MK_ASK_MAX_STOP = 16,
    MK_ASK_MAX_N = 16,
    MK_ASK_MAX_PROMPT = 128,
    MK_ASK_MAX_CHOICE = 128,
    MK_ASK_MAX_BIAS = 1024
};

typedef enum { MK_TOOLS_AUTO, MK_TOOLS_NONE, MK_TOOLS_REQUIRED, MK_TOOLS_NAMED } mk_tool_choice;

typedef enum {
    MK_FORMAT_TEXT,
    MK_FORMAT_JSON,    // any JSON object
    MK_FORMAT_SCHEMA,  // `schema`
    MK_FORMAT_REGEX,   // `pattern`
    MK_FORMAT_CHOICE,  // `schema` is an array of strings
    MK_FORMAT_GBNF     // `pattern`
} mk_answer_format;

typedef struct {
    char *text;    // or
    int32_t *ids;  // n_ids
    int64_t n_ids;
} mk_ask_prompt;

typedef struct {
    char *model;   // as the client named it; NULL: none named
    char *tenant;  // cache namespace below the key's own: user_id, user; NULL

    // What to answer: messages or prompts.
    // messages: array in OpenAI's chat shape, brought to one form: role system|user|assistant|tool;
    // content a string or null; assistants may have reasoning_content and tool_calls
    // [{id, type: function, function: {name, arguments: string}}]; tools have tool_call_id and, if
    // known, name.
    json_t *messages;
    json_t *tools;  // [{type: function, function: {name, description, parameters, strict}}]; NULL
    char *suffix;   // fill in the middle: what comes after each prompt; NULL
    mk_ask_prompt prompt[MK_ASK_MAX_PROMPT];  // text completion, not templated
    int n_prompt;
    bool echo;                // text completion: give the prompt back, too
    bool continue_last;       // the last assistant message is the beginning of the answer
    bool open_end;            // the template's words that begin an answer are left out
    json_t *template_kwargs;  // more variables for the template; NULL

    mk_tool_choice tool_choice;
    char *tool_name;  // NAMED
    bool parallel_tools;

    mk_think think;
    char *effort;          // "low", "medium", "high" ...; NULL
    int64_t think_budget;  // tokens of reasoning at most; -1: none

    mk_answer_format format;
    json_t *schema;
    char *pattern;
    bool strict;

    // Fields that the request set; the rest are the model's own.  has_* say which.
    mk_sample_params sample;
    bool has_temperature, has_top_p, has_top_k, has_min_p, has_repetition, has_seed;
    mk_logit_bias *bias;  // sample.bias points here
    int64_t n_predict;    // -1: until the window is full
    char *stop[MK_ASK_MAX_STOP];
    int n_stop;
    int n;          // answers to each prompt
    int n_logprob;  // -1: none; 0: the token's own; else best alternatives
    bool want_token_ids;
    bool ignore_eos;

    bool stream, include_usage;
    bool keep;       // Responses: remember this answer under its id (store)
    char *previous;  // Responses: previous_response_id; NULL
    json_t *given;   // Responses: fields that the answer repeats as they came; NULL
    // Responses: the messages that came as "instructions" and those that came as "input", before
    // they were settled; NULL: none.  Kept is the input alone.
    json_t *instructions, *input;
    json_t *unknown;         // names of fields that were not understood; NULL
    bool reasoning_summary;  // Responses: reasoning is wanted as summary
    char *reasoning_field;   // "reasoning_content", "reasoning", "both", for this answer; NULL
    bool hide_reasoning;     // Anthropic: blocks of thinking without their text

    // Ollama: how long the model stays loaded after this; negative: for ever
    bool has_keep_alive;
    double keep_alive_s;
    int64_t n_ctx;  // Ollama: prompt and answer together have at most so many tokens; 0: the window
} mk_ask;

// Zero of everything but the defaults: n = 1, n_predict = -1, n_logprob = -1, think_budget = -1,
// parallel_tools, sample with nothing set.
void mk_ask_init(mk_ask *a);
void mk_ask_free(mk_ask *a);

// Answers in all, at most MK_ASK_MAX_CHOICE: choice i is one to prompt i / n.
int mk_ask_choices(const mk_ask *a);
// Are log-probabilities of the prompts wanted, too?
bool mk_ask_scores(const mk_ask *a);

#endif
