// What an answer said, as one message of the assistant: collected from its events while it comes,
// for what is kept of it afterwards.
#ifndef MK_SERVE_HEARD_H
#define MK_SERVE_HEARD_H

#include <jansson.h>

#include "base/buf.h"
#include "chat/event.h"

typedef struct {
    mk_buf text, reasoning, arguments;
    json_t *calls;  // array as in a message; NULL
} mk_heard;

void mk_heard_init(mk_heard *h);
void mk_heard_free(mk_heard *h);
void mk_heard_event(mk_heard *h, const mk_answer_event *ev);
// {role, content, reasoning_content, tool_calls}, the last two if there are any; a new value.
json_t *mk_heard_message(const mk_heard *h);

#endif
