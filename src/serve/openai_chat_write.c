// Chat completions: answers.
//
// A stream has one chunk with the role for each choice, then deltas, then one with the reason of
// the end; after all choices one with the usage, if it was asked for, and [DONE].  Otherwise the
// same pieces are collected, and written as one body at the end.
#include <string.h>

#include "base/alloc.h"
#include "serve/openai_chat.h"
#include "serve/wire.h"

typedef struct {
    bool started;
    int n_call;              // calls begun
    bool has_arguments;      // of the call that is open
    mk_openai_tokens wait;   // tokens whose text has not come
    mk_buf ids;              // of tokens not yet sent, each followed by a comma
    mk_buf text, reasoning;  // the rest is for whole bodies: escaped texts,
    mk_buf calls;            // and JSON, items followed by commas
    mk_buf text_logprobs, reasoning_logprobs;
    mk_stop_reason stop;
    char *stop_text;
} chat_choice;

struct mk_writer_state {
    mk_openai_frame frame;
    const char *reasoning_names[2];
    chat_choice *choice;  // [info.ask->n]
};

static void body_choice(mk_writer_state *w, int i, mk_buf *out);

static mk_writer_state *chat_open(const mk_reply_info *info) {
    mk_writer_state *w = mk_zalloc(sizeof *w);
    w->frame = (mk_openai_frame){.info = *info,
                                 .id_prefix = "chatcmpl-",
                                 .object = "chat.completion",
                                 .chunk_object = "chat.completion.chunk",
                                 .add_choice = body_choice};
    const char *f = info->ask->reasoning_field ? info->ask->reasoning_field : info->reasoning_field;
    bool both = f && strcmp(f, "both") == 0, other = f && strcmp(f, "reasoning") == 0;
    w->reasoning_names[0] = other ? "reasoning" : "reasoning_content";
    w->reasoning_names[1] = both ? "reasoning" : NULL;
    w->choice = mk_zalloc((size_t)info->ask->n * sizeof *w->choice);
    for (int i = 0; i < info->ask->n; i++) {
        chat_choice *c = &w->choice[i];
        mk_openai_tokens_init(&c->wait);
        mk_buf *const bufs[] = {&c->ids,   &c->text,          &c->reasoning,
                                &c->calls, &c->text_logprobs, &c->reasoning_logprobs};
        for (size_t k = 0; k < sizeof bufs / sizeof bufs[0]; k++) {
            mk_buf_init(bufs[k], SIZE_MAX - 1);
        }
    }
    return w;
}

static void chat_close(mk_writer_state *w) {
    for (int i = 0; w && i < w->frame.info.ask->n; i++) {
        chat_choice *c = &w->choice[i];
        mk_openai_tokens_free(&c->wait);
        mk_buf *const bufs[] = {&c->ids,   &c->text,          &c->reasoning,
                                &c->calls, &c->text_logprobs, &c->reasoning_logprobs};
        for (size_t k = 0; k < sizeof bufs / sizeof bufs[0]; k++) {
            mk_buf_free(bufs[k]);
        }
        mk_free(c->stop_text);
    }
    if (w) {
        mk_free(w->choice);
    }
    mk_free(w);
}

// --- pieces --------------------------------------------------------------------------------------

// Items followed by commas as an array; nothing: null.
static void add_array(mk_buf *out, const mk_buf *items) {
    if (items->len == 0) {
        mk_buf_puts(out, "null");
        return;
    }
    mk_buf_putc(out, '[');
    mk_buf_add(out, items->data, items->len - 1);
    mk_buf_putc(out, ']');
}

static void add_logprobs(mk_buf *out, const mk_buf *text, const mk_buf *reasoning) {
    if (text->len == 0 && reasoning->len == 0) {
        mk_buf_puts(out, "null");
        return;
    }
    mk_buf_puts(out, "{\"content\":");
    add_array(out, text);
    mk_buf_puts(out, ",\"refusal\":null");
    if (reasoning->len) {
        mk_buf_puts(out, ",\"reasoning_content\":");
        add_array(out, reasoning);
    }
    mk_buf_putc(out, '}');
}

static void add_ids(mk_buf *out, mk_buf *ids) {
    if (ids->len) {
        mk_buf_puts(out, ",\"token_ids\":");
        add_array(out, ids);
        mk_buf_clear(ids);
    }
}

static const char *finish_name(const chat_choice *c) {
    switch (c->stop) {
    case MK_STOP_LENGTH:
        return "length";
    case MK_STOP_CANCELLED:
        return "cancelled";
    case MK_STOP_TOOLS:
        return "tool_calls";
    case MK_STOP_END:
    case MK_STOP_TEXT:
        break;
    }
    return c->n_call > 0 ? "tool_calls" : "stop";
}

static void add_finish(mk_buf *out, const chat_choice *c) {
    mk_buf_printf(out, ",\"finish_reason\":\"%s\"", finish_name(c));
    if (c->stop_text) {
        mk_buf_puts(out, ",\"stop_reason\":");
        mk_wire_text(out, c->stop_text);
    }
}

// --- streams -------------------------------------------------------------------------------------

// One chunk is chunk_begin, the fields of its delta, and chunk_end.
static void chunk_begin(const mk_writer_state *w, int choice, mk_buf *out) {
    mk_wire_sse_begin(out, NULL);
    mk_openai_add_head(&w->frame, out);
    mk_buf_printf(out, "{\"index\":%d,\"delta\":{", choice);
}

static void chunk_end(const mk_writer_state *w, chat_choice *c, const mk_buf *logprobs,
                      mk_ae_kind kind, mk_buf *out) {
    static const mk_buf none = {0};
    mk_buf_puts(out, "},\"logprobs\":");
    bool text = kind == MK_AE_TEXT;
    add_logprobs(out, text && logprobs ? logprobs : &none, !text && logprobs ? logprobs : &none);
    add_ids(out, &c->ids);
    if (kind == MK_AE_DONE) {
        add_finish(out, c);
    } else {
        mk_buf_puts(out, ",\"finish_reason\":null");
    }
    mk_buf_puts(out, "}]");
    mk_buf_puts(out, w->frame.info.ask->include_usage ? ",\"usage\":null}" : "}");
    mk_wire_sse_end(out);
}

static void stream_start(const mk_writer_state *w, int choice, mk_buf *out) {
    chat_choice *c = &w->choice[choice];
    if (!c->started) {
        c->started = true;
        chunk_begin(w, choice, out);
        mk_buf_puts(out, "\"role\":\"assistant\",\"content\":\"\"");
        chunk_end(w, c, NULL, MK_AE_START, out);
    }
}

static void add_text_field(mk_buf *out, const char *name, const mk_answer_event *ev) {
    mk_buf_printf(out, "\"%s\":", name);
    mk_wire_string(out, ev->text, ev->n);
}

static void stream_text(const mk_writer_state *w, int choice, const mk_answer_event *ev,
                        mk_buf *out) {
    chat_choice *c = &w->choice[choice];
    mk_buf logprobs;
    mk_buf_init(&logprobs, SIZE_MAX - 1);
    mk_openai_tokens_take(&c->wait, ev->kind, ev->n, &logprobs);
    chunk_begin(w, choice, out);
    if (ev->kind == MK_AE_TEXT) {
        add_text_field(out, "content", ev);
    } else {
        add_text_field(out, w->reasoning_names[0], ev);
        if (w->reasoning_names[1]) {
            mk_buf_putc(out, ',');
            add_text_field(out, w->reasoning_names[1], ev);
        }
    }
    chunk_end(w, c, &logprobs, ev->kind, out);
    out->failed = out->failed || logprobs.failed;
    mk_buf_free(&logprobs);
}

static void stream_call(const mk_writer_state *w, int choice, const mk_answer_event *ev,
                        mk_buf *out) {
    bool begin = ev->kind == MK_AE_TOOL_BEGIN;
    chunk_begin(w, choice, out);
    mk_buf_printf(out, "\"tool_calls\":[{\"index\":%d,", ev->index);
    if (begin) {
        mk_buf_puts(out, "\"id\":");
        mk_wire_text(out, ev->call_id);
        mk_buf_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
        mk_wire_text(out, ev->name);
        mk_buf_puts(out, ",\"arguments\":\"\"}}]");
    } else {
        mk_buf_puts(out, "\"function\":{");
        add_text_field(out, "arguments", ev);
        mk_buf_puts(out, "}}]");
    }
    chunk_end(w, &w->choice[choice], NULL, ev->kind, out);
}

static void stream_done(const mk_writer_state *w, int choice, mk_buf *out) {
    chunk_begin(w, choice, out);
    chunk_end(w, &w->choice[choice], NULL, MK_AE_DONE, out);
}

// --- whole bodies --------------------------------------------------------------------------------

static void collect_text(chat_choice *c, const mk_answer_event *ev) {
    bool text = ev->kind == MK_AE_TEXT;
    mk_wire_escaped(text ? &c->text : &c->reasoning, ev->text, ev->n);
    mk_openai_tokens_take(&c->wait, ev->kind, ev->n,
                          text ? &c->text_logprobs : &c->reasoning_logprobs);
}

static void collect_call(chat_choice *c, const mk_answer_event *ev) {
    mk_buf *b = &c->calls;
    if (ev->kind == MK_AE_TOOL_ARGS) {
        mk_wire_escaped(b, ev->text, ev->n);
        return;
    }
    mk_buf_puts(b, "{\"id\":");
    mk_wire_text(b, ev->call_id);
    mk_buf_puts(b, ",\"type\":\"function\",\"function\":{\"name\":");
    mk_wire_text(b, ev->name);
    mk_buf_puts(b, ",\"arguments\":\"");
}

static void add_escaped(mk_buf *out, const char *name, const mk_buf *text) {
    mk_buf_printf(out, ",\"%s\":\"", name);
    mk_buf_add(out, text->data ? text->data : "", text->len);
    mk_buf_putc(out, '"');
}

static void body_choice(mk_writer_state *w, int i, mk_buf *out) {
    chat_choice *c = &w->choice[i];
    mk_buf_printf(out, "{\"index\":%d,\"message\":{\"role\":\"assistant\"", i);
    if (c->text.len == 0 && c->n_call > 0) {
        mk_buf_puts(out, ",\"content\":null");
    } else {
        add_escaped(out, "content", &c->text);
    }
    mk_buf_puts(out, ",\"refusal\":null");
    for (size_t k = 0; k < 2 && w->reasoning_names[k] && c->reasoning.len; k++) {
        add_escaped(out, w->reasoning_names[k], &c->reasoning);
    }
    if (c->n_call > 0) {
        mk_buf_puts(out, ",\"tool_calls\":");
        add_array(out, &c->calls);
    }
    mk_buf_puts(out, "},\"logprobs\":");
    add_logprobs(out, &c->text_logprobs, &c->reasoning_logprobs);
    add_ids(out, &c->ids);
    add_finish(out, c);
    mk_buf_putc(out, '}');
}

// --- events --------------------------------------------------------------------------------------

static void token(const mk_writer_state *w, chat_choice *c, const mk_answer_event *ev) {
    if (w->frame.info.ask->n_logprob >= 0) {
        mk_openai_tokens_add(&c->wait, &w->frame.info, ev);
    }
    if (w->frame.info.ask->want_token_ids) {
        mk_buf_printf(&c->ids, "%d,", (int)ev->id);
    }
}

static void call(const mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out) {
    static const mk_answer_event no_arguments = {.kind = MK_AE_TOOL_ARGS, .text = "{}", .n = 2};
    chat_choice *c = &w->choice[choice];
    mk_buf dropped;  // log-probabilities of calls have no place
    mk_buf_init(&dropped, SIZE_MAX - 1);
    mk_openai_tokens_take(&c->wait, ev->kind, 0, &dropped);
    mk_buf_free(&dropped);
    mk_answer_event now = *ev;
    if (ev->kind == MK_AE_TOOL_END) {
        // without arguments clients would parse an empty text
        if (!c->has_arguments) {
            now = no_arguments;
            now.index = ev->index;
        }
    } else {
        c->n_call += ev->kind == MK_AE_TOOL_BEGIN;
        c->has_arguments = ev->kind == MK_AE_TOOL_ARGS && (c->has_arguments || ev->n > 0);
    }
    if (now.kind != MK_AE_TOOL_END && w->frame.info.ask->stream) {
        stream_call(w, choice, &now, out);
    } else if (now.kind != MK_AE_TOOL_END) {
        collect_call(c, &now);
    }
    if (ev->kind == MK_AE_TOOL_END && !w->frame.info.ask->stream) {
        mk_buf_puts(&c->calls, "\"}},");
    }
}

// What was lost while an answer was collected makes all of it fail.
static bool lost(const chat_choice *c) {
    return c->wait.items.failed || c->ids.failed || c->text.failed || c->reasoning.failed ||
           c->calls.failed || c->text_logprobs.failed || c->reasoning_logprobs.failed;
}

static void chat_event(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out) {
    chat_choice *c = &w->choice[choice];
    bool stream = w->frame.info.ask->stream;
    bool nothing = ev->n == 0 && (ev->kind == MK_AE_TEXT || ev->kind == MK_AE_REASONING);
    if (w->frame.failed || nothing) {
        return;
    }
    if (stream && ev->kind != MK_AE_ERROR) {
        stream_start(w, choice, out);
    }
    switch (ev->kind) {
    case MK_AE_TEXT:
    case MK_AE_REASONING:
        if (stream) {
            stream_text(w, choice, ev, out);
        } else {
            collect_text(c, ev);
        }
        break;
    case MK_AE_TOOL_BEGIN:
    case MK_AE_TOOL_ARGS:
    case MK_AE_TOOL_END:
        call(w, choice, ev, out);
        break;
    case MK_AE_TOKEN:
        token(w, c, ev);
        break;
    case MK_AE_DONE:
        c->stop = ev->stop;
        c->stop_text = ev->stop == MK_STOP_TEXT && ev->stop_text ? mk_strdup(ev->stop_text) : NULL;
        mk_tally_add(&w->frame.total, w->frame.info.ask, choice, &ev->usage);
        if (stream) {
            stream_done(w, choice, out);
        }
        break;
    case MK_AE_ERROR:
        mk_openai_fail(&w->frame, ev->error, out);
        break;
    case MK_AE_START:
    case MK_AE_PROMPT:
    case MK_AE_N:
        break;
    }
    out->failed = out->failed || lost(c);
}

static void chat_finish(mk_writer_state *w, mk_buf *out) {
    mk_openai_finish(&w->frame, w, out);
}

static void chat_heartbeat(mk_writer_state *w, mk_buf *out) {
    mk_openai_frame_heartbeat(&w->frame, out);
}

const mk_dialect mk_dialect_openai_chat = {
    .name = "openai-chat",
    .content_type = "text/event-stream",
    .parse = mk_openai_chat_parse,
    .open = chat_open,
    .event = chat_event,
    .finish = chat_finish,
    .heartbeat = chat_heartbeat,
    .close = chat_close,
    .error = mk_openai_error,
};
