// Events put together: texts are appended, a call is one entry whose arguments come in fragments.
#include "serve/heard.h"

#include "base/json.h"

#define HEARD_MAX ((size_t)1 << 28)

void mk_heard_init(mk_heard *h) {
    *h = (mk_heard){0};
    mk_buf_init(&h->text, HEARD_MAX);
    mk_buf_init(&h->reasoning, HEARD_MAX);
    mk_buf_init(&h->arguments, HEARD_MAX);
}

void mk_heard_free(mk_heard *h) {
    mk_buf_free(&h->text);
    mk_buf_free(&h->reasoning);
    mk_buf_free(&h->arguments);
    json_decref(h->calls);
    h->calls = NULL;
}

static json_t *text_of(const mk_buf *b) {
    return mk_json_text(b->data ? b->data : "", b->len);
}

static void begin_call(mk_heard *h, const mk_answer_event *ev) {
    h->calls = h->calls ? h->calls : json_array();
    mk_buf_clear(&h->arguments);
    (void)json_array_append_new(h->calls, json_pack("{s:s, s:s, s:{s:s, s:s}}", "id",
                                                    ev->call_id ? ev->call_id : "", "type",
                                                    "function", "function", "name",
                                                    ev->name ? ev->name : "", "arguments", "{}"));
}

// A call without arguments keeps the empty object it began with.
static void end_call(mk_heard *h) {
    json_t *call = json_array_get(h->calls, json_array_size(h->calls) - 1);
    if (h->arguments.len) {
        (void)json_object_set_new(json_object_get(call, "function"), "arguments",
                                  text_of(&h->arguments));
    }
}

void mk_heard_event(mk_heard *h, const mk_answer_event *ev) {
    switch (ev->kind) {
    case MK_AE_REASONING:
        mk_buf_add(&h->reasoning, ev->text, ev->n);
        break;
    case MK_AE_TEXT:
        mk_buf_add(&h->text, ev->text, ev->n);
        break;
    case MK_AE_TOOL_BEGIN:
        begin_call(h, ev);
        break;
    case MK_AE_TOOL_ARGS:
        mk_buf_add(&h->arguments, ev->text, ev->n);
        break;
    case MK_AE_TOOL_END:
        end_call(h);
        break;
    default:
        break;
    }
}

json_t *mk_heard_message(const mk_heard *h) {
    json_t *m = json_object();
    (void)json_object_set_new(m, "role", json_string("assistant"));
    (void)json_object_set_new(m, "content", text_of(&h->text));
    if (h->reasoning.len) {
        (void)json_object_set_new(m, "reasoning_content", text_of(&h->reasoning));
    }
    if (h->calls) {
        (void)json_object_set(m, "tool_calls", h->calls);
    }
    return m;
}
