// The two halves of the dialect mk_dialect_openai_responses.
//
// ask->given, made by the parser for the writer: fields that the answer repeats as they came
// (instructions, metadata, tool_choice, text, reasoning ...), and "namespaces": an object from the
// name by which the model knows a tool to [namespace, name] as the client knows it.
#ifndef MK_SERVE_OPENAI_RESPONSES_H
#define MK_SERVE_OPENAI_RESPONSES_H

#include "serve/openai_int.h"

mk_status mk_openai_responses_parse(const json_t *body, mk_ask *a, mk_err *err) MK_WARN_UNUSED;
// "input" into ask->messages.
mk_status mk_openai_responses_input(const mk_at *at, const json_t *v, void *ask, mk_err *err);

#endif
