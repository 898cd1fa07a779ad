// The two halves of the dialect mk_dialect_openai_chat.
#ifndef MK_SERVE_OPENAI_CHAT_H
#define MK_SERVE_OPENAI_CHAT_H

#include "serve/openai_int.h"

mk_status mk_openai_chat_parse(const json_t *body, mk_ask *a, mk_err *err) MK_WARN_UNUSED;

#endif
