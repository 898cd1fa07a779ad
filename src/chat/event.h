// What an answer consists of while it comes: the one stream that every dialect is rendered from.
//
// Order for one answer: START, then any number of REASONING, TEXT, TOOL_* and TOKEN, then one DONE
// or one ERROR.  A TOKEN stands before the text it completes (a token may complete none: its bytes
// may be half a character, a tag, or held back).  A tool call is TOOL_BEGIN, TOOL_ARGS (any number,
// fragments of one JSON object), TOOL_END, nothing else in between but TOKEN; calls have ascending
// indices from 0.  However the tokens were cut into steps, concatenated texts are the same.
//
// A prompt that is scored: before START one PROMPT per token of it, in order.
#ifndef MK_CHAT_EVENT_H
#define MK_CHAT_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/sample.h"

typedef enum {
    MK_AE_START,       // the prompt has been read
    MK_AE_REASONING,   // text
    MK_AE_TEXT,        // text
    MK_AE_TOOL_BEGIN,  // index, call_id, name: whole
    MK_AE_TOOL_ARGS,   // index, text: a fragment
    MK_AE_TOOL_END,    // index
    MK_AE_TOKEN,       // one per generated token; of a scored prompt also the one that ends it
    MK_AE_PROMPT,      // one per token of a scored prompt; the first has no log-probability
    MK_AE_DONE,        // finish, usage
    MK_AE_ERROR,       // status
    MK_AE_N
} mk_ae_kind;

typedef enum {
    MK_STOP_END,     // the model ended its answer
    MK_STOP_TEXT,    // a stop text of the request; stop_text says which
    MK_STOP_LENGTH,  // the limit of tokens, or the window is full
    MK_STOP_TOOLS,   // the model ended its answer after tool calls
    MK_STOP_CANCELLED
} mk_stop_reason;

// Tokens.  n_cached of the n_prompt needed no computing; n_reasoning of the n_generated were
// reasoning.
typedef struct {
    int64_t n_prompt, n_cached, n_generated, n_reasoning;
    double queue_ms, prompt_ms, generation_ms;
    int64_t n_drafted, n_accepted;  // speculation
} mk_usage;

// Everything pointed to lives until the callback returns.
typedef struct {
    mk_ae_kind kind;
    const char *text;  // whole UTF-8 characters, not NUL-terminated
    size_t n;
    int index;
    const char *call_id, *name;
    bool broken;  // TOOL_END: the arguments are not one complete JSON object
    int32_t id;   // TOKEN, PROMPT
    float logprob;
    const mk_logprob *top;  // n_top best alternatives
    int n_top;
    mk_stop_reason stop;
    const char *stop_text;
    mk_usage usage;       // START: what is known; DONE: everything
    const mk_err *error;  // ERROR
} mk_answer_event;

#endif
