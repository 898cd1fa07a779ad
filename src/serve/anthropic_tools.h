// Tools of Anthropic's Messages, brought to OpenAI's shape.
#ifndef MK_SERVE_ANTHROPIC_TOOLS_H
#define MK_SERVE_ANTHROPIC_TOOLS_H

#include "serve/ask.h"
#include "serve/fields.h"

// Tools with a schema, and those that a client runs under a name that Anthropic's models know
// (bash_*, text_editor_*: their schema stands here).  Tools that Anthropic's servers run are left
// out and noted in ask->unknown.
mk_status mk_anthropic_tools(const mk_at *at, const json_t *v, mk_ask *ask,
                             mk_err *err) MK_WARN_UNUSED;
// After the tools: a choice that names one of them must be possible.
mk_status mk_anthropic_tool_choice(const mk_at *at, const json_t *v, mk_ask *ask,
                                   mk_err *err) MK_WARN_UNUSED;

#endif
