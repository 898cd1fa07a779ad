// How a model writes tool calls, found out from its chat template: what the template makes of a
// past call is what the model was trained to write.
//
// A marked call is rendered behind a question, and what stands between the prompt and the end of
// the turn is cut out: the text before the arguments (with the name in it), the text between two
// calls, the text behind the last one.  So there is no table of formats to keep; a family whose
// arguments are not JSON is recognised as one that cannot be constrained.
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

typedef struct {
    bool has_calls;  // the template writes calls at all; without it nothing else is set
    bool json;       // ... with arguments as JSON and the name before them; else only `trigger` is
    const char *why_not;  // not json: why, for messages
    uint32_t max;         // calls in one answer; 0: any number
    mk_buf first, next, tail, trigger;
} mk_call_frame;

// Errors: MK_ENOMEM; what a template cannot do is no error.  *out must be freed.
mk_status mk_call_frame_find(const mk_chat_template *t, const mk_tokenizer *tok, mk_call_frame *out,
                             mk_err *err) MK_WARN_UNUSED;
void mk_call_frame_free(mk_call_frame *f);

// A text of the frame for one tool: the name put in.  Names are letters, digits, "_", "-", ".".
bool mk_call_name_fits(const char *name);
char *mk_call_frame_text(const mk_buf *text, const char *name);  // mk_free

#endif
