// How a model writes tool calls, found out from its chat template: what the template makes of a
// past call is what the model was trained to write.
//
// A marked call is rendered behind a question, and what stands between the prompt and the end of
// the turn is cut out: the text before the arguments (with the name in it), the text between two
// calls, the text behind the last one.  So there is no table of formats to keep.  Where arguments
// are no JSON object, calls with no, one and two parameters tell what stands around each
// (call_params.c); only what the values are written in is asked of the parser's table, and so are
// the calls of families whose template writes none or writes them in headers (gpt-oss).
#ifndef MK_CHAT_CALL_FRAME_H
#define MK_CHAT_CALL_FRAME_H

#include <jansson.h>

#include "base/buf.h"
#include "base/status.h"
#include "chat/grammar.h"
#include "chat/template.h"
#include "text/tokenizer.h"

// Texts are as a grammar knows them (mk_grammar_spell), with MK_CALL_NAME for the name of the tool.
#define MK_CALL_NAME "mk_marked_tool"

typedef enum {
    MK_CALLS_OPEN,    // only `trigger` is known
    MK_CALLS_JSON,    // the name, then arguments as a JSON object
    MK_CALLS_PARAMS,  // the name, then parameters one by one
    MK_CALLS_HEADERS  // messages with headers: `first` is the recipient, `header` the marks
} mk_call_kind;

typedef struct {
    bool has_calls;  // the model writes calls at all; without it nothing else is set
    mk_call_kind kind;
    const char *why_not;  // OPEN: why, for messages
    uint32_t max;         // calls in one answer; 0: any number
    mk_buf first, next, tail, trigger;
    // PARAMS
    mk_grammar_params params;  // texts of `part`, but for those of the parser
    mk_buf part[7];
    // HEADERS
    mk_grammar_headers headers;  // texts of `part`
} mk_call_frame;

// Errors: MK_ENOMEM; what a template cannot do is no error.  *out must be freed.
mk_status mk_call_frame_find(const mk_chat_template *t, const mk_tokenizer *tok, mk_call_frame *out,
                             mk_err *err) MK_WARN_UNUSED;
void mk_call_frame_free(mk_call_frame *f);

// A text of the frame for one tool: the name put in.  Names are letters, digits, "_", "-", ".".
bool mk_call_name_fits(const char *name);
char *mk_call_frame_text(const mk_buf *text, const char *name);  // mk_free

#endif
