// Readers of fields that several dialects share (serve/fields.h), all into an mk_ask: sampling,
// reasoning switches, tools, answer formats, contents of messages.
#ifndef MK_SERVE_ASK_READ_H
#define MK_SERVE_ASK_READ_H

#include "base/buf.h"
#include "serve/ask.h"
#include "serve/fields.h"

// Adds "what: detail" to ask->unknown: something that was skipped.
void mk_ask_note(mk_ask *a, const char *what, const char *detail);

// --- limits and sampling -------------------------------------------------------------------------
mk_status mk_read_stop(const mk_at *at, const json_t *v, void *ask, mk_err *err);  // one or a list
// {"50256": -100} or [[50256, -100], [13, false]]
mk_status mk_read_logit_bias(const mk_at *at, const json_t *v, void *ask, mk_err *err);
mk_status mk_read_seed(const mk_at *at, const json_t *v, void *ask, mk_err *err);  // -1: none
// Tokens at most: 1 or more, or -1; of several fields the smallest wins.
mk_status mk_read_limit(const mk_at *at, const json_t *v, void *ask, mk_err *err);
mk_status mk_read_top_k(const mk_at *at, const json_t *v, void *ask, mk_err *err);  // -1 is 0

// --- reasoning -----------------------------------------------------------------------------------
// Where several switches are used, "off" wins.
mk_status mk_read_effort(const mk_at *at, const json_t *v, void *ask, mk_err *err);  // "low"
// true, "low"
mk_status mk_read_think(const mk_at *at, const json_t *v, void *ask, mk_err *err);
mk_status mk_read_thinking(const mk_at *at, const json_t *v, void *ask, mk_err *err);  // {type..}
mk_status mk_read_think_budget(const mk_at *at, const json_t *v, void *ask, mk_err *err);
// chat_template_kwargs, with enable_thinking, thinking and reasoning_effort among them
mk_status mk_read_template_kwargs(const mk_at *at, const json_t *v, void *ask, mk_err *err);

// --- formats -------------------------------------------------------------------------------------
// {"type": "json_schema", ...} in OpenAI's two forms and llama.cpp's
mk_status mk_read_format(const mk_at *at, const json_t *v, void *ask, mk_err *err);
mk_status mk_read_schema(const mk_at *at, const json_t *v, void *ask, mk_err *err);  // or its text
mk_status mk_read_regex(const mk_at *at, const json_t *v, void *ask, mk_err *err);
mk_status mk_read_choice(const mk_at *at, const json_t *v, void *ask, mk_err *err);
mk_status mk_read_gbnf(const mk_at *at, const json_t *v, void *ask, mk_err *err);
// {"json": .., "regex": .., "choice": .., "grammar": ..}
mk_status mk_read_structured(const mk_at *at, const json_t *v, void *ask, mk_err *err);

// --- tools ---------------------------------------------------------------------------------------
// Adds one to ask->tools.  function: {name, description, parameters, strict}; prefix: put in front
// of the name, or NULL.
mk_status mk_ask_add_tool(mk_ask *a, const mk_at *at, const json_t *function, const char *prefix,
                          mk_err *err);
// The name by which a model knows a tool of a namespace: "space__name".  space may be NULL.
void mk_tool_full_name(const char *space, const char *name, mk_buf *out);
// "auto", "none", "required", {"type": "function", ...}, {"type": "allowed_tools", ...}; read after
// the tools
mk_status mk_read_tool_choice(const mk_at *at, const json_t *v, void *ask, mk_err *err);

// --- messages ------------------------------------------------------------------------------------
// A content in any form: null, a string, a list of parts.  *text: a new string value.  *reasoning:
// what parts of thinking said, a new string value or NULL; may be NULL itself.
mk_status mk_at_content(const mk_at *at, const json_t *v, json_t **text, json_t **reasoning,
                        mk_err *err) MK_WARN_UNUSED;
// Arguments of a call: a string, or the object that should have been one.  *out is a new string.
mk_status mk_at_arguments(const mk_at *at, const json_t *v, json_t **out,
                          mk_err *err) MK_WARN_UNUSED;
// Appends a message {role, content}; takes content.  Returns it, borrowed.
json_t *mk_ask_add_message(mk_ask *a, const char *role, json_t *content);
// Adds a call to an assistant's message.
void mk_message_add_call(json_t *message, const char *id, const char *name, json_t *arguments);
// After all messages: several system messages at the beginning become one, tool results get the
// names of what was called.  Errors: MK_ENOMEM.
mk_status mk_ask_settle_messages(mk_ask *a, mk_err *err) MK_WARN_UNUSED;

#endif
