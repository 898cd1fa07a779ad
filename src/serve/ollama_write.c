// Answers of Ollama's /api/chat and /api/generate: one JSON object per line, the last with
// "done":true and the figures; or one object with everything.
//
// A call of a tool comes whole, its arguments as an object.  A silent stream is kept alive by an
// object without text: an empty line would end clients that parse every line.
//
// Source: docs/api.md and api/types.go of Ollama; ollama 0.6 for Python (_client.py, _types.py).
#include <string.h>

#include "base/alloc.h"
#include "serve/jout.h"
#include "serve/ollama_int.h"
#include "serve/wire.h"

#define MAX_BODY ((size_t)1 << 28)

struct mk_writer_state {
    bool generate;
    char *model;
    int64_t created;
    const mk_ask *ask;
    void (*token_text)(void *arg, int32_t id, mk_buf *out);
    void *token_arg;
    mk_buf text, thinking;  // whole body; text also where a context has to be made of it
    mk_buf calls;           // objects with commas between them, of the next line or the whole body
    mk_buf args;            // of the open call
    mk_buf logprobs;        // objects with commas between them, of the next line or the whole body
    char *call_id, *name;   // of the open call
    int n_call;
    bool over, failed;
    mk_stop_reason stop;
    mk_usage usage;
};

static mk_writer_state *open_writer(const mk_reply_info *info, bool generate) {
    mk_writer_state *w = mk_alloc(sizeof *w);
    *w = (mk_writer_state){.generate = generate,
                           .model = mk_strdup(info->model),
                           .created = info->created,
                           .ask = info->ask,
                           .token_text = info->token_text,
                           .token_arg = info->token_arg};
    mk_buf *const bufs[] = {&w->text, &w->thinking, &w->calls, &w->args, &w->logprobs};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
        mk_buf_init(bufs[i], MAX_BODY);
    }
    return w;
}

mk_writer_state *mk_ollama_open_chat(const mk_reply_info *info) {
    return open_writer(info, false);
}

mk_writer_state *mk_ollama_open_generate(const mk_reply_info *info) {
    return open_writer(info, true);
}

void mk_ollama_close(mk_writer_state *w) {
    if (!w) {
        return;
    }
    mk_buf *const bufs[] = {&w->text, &w->thinking, &w->calls, &w->args, &w->logprobs};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
        mk_buf_free(bufs[i]);
    }
    mk_free(w->model);
    mk_free(w->call_id);
    mk_free(w->name);
    mk_free(w);
}

// --- parts ---------------------------------------------------------------------------------------

typedef struct {
    const char *p;
    size_t n;
} piece;

static piece whole(const mk_buf *b) {
    return (piece){b->data ? b->data : "", b->len};
}

// ,"key":[list] if there is any; the list is empty afterwards.
static void add_list(mk_buf *out, const char *key, mk_buf *list) {
    if (list->len > 0) {
        mk_buf_printf(out, ",\"%s\":[", key);
        mk_buf_add(out, list->data, list->len);
        mk_buf_putc(out, ']');
        mk_buf_clear(list);
    }
}

// An object up to "done".
static void begin(mk_writer_state *w, piece text, piece thinking, bool last, mk_buf *out) {
    mk_buf_puts(out, "{\"model\":");
    mk_wire_text(out, w->model);
    mk_buf_puts(out, ",\"created_at\":\"");
    mk_ollama_time(out, w->created);
    mk_buf_puts(out, w->generate ? "\",\"response\":"
                                 : "\",\"message\":{\"role\":\"assistant\",\"content\":");
    mk_wire_string(out, text.p, text.n);
    if (thinking.n > 0) {
        mk_buf_puts(out, ",\"thinking\":");
        mk_wire_string(out, thinking.p, thinking.n);
    }
    add_list(out, "tool_calls", &w->calls);
    mk_buf_puts(out, w->generate ? "" : "}");
    mk_buf_puts(out, last ? ",\"done\":true" : ",\"done\":false");
}

// A line in the middle of a stream.
static void add_line(mk_writer_state *w, piece text, piece thinking, mk_buf *out) {
    begin(w, text, thinking, false, out);
    add_list(out, "logprobs", &w->logprobs);
    mk_buf_puts(out, "}\n");
}

// --- events --------------------------------------------------------------------------------------

static void add_text(mk_writer_state *w, const mk_answer_event *ev, bool thinking, mk_buf *out) {
    if (ev->n == 0) {
        return;
    }
    const piece none = {"", 0}, some = {ev->text, ev->n};
    bool keep = !w->ask->stream || (w->generate && !thinking && w->ask->messages);
    if (keep) {
        mk_buf_add(thinking ? &w->thinking : &w->text, ev->text, ev->n);
    }
    if (w->ask->stream) {
        add_line(w, thinking ? none : some, thinking ? some : none, out);
    }
}

static void begin_call(mk_writer_state *w, const mk_answer_event *ev) {
    mk_free(w->call_id);
    mk_free(w->name);
    w->call_id = mk_strdup(ev->call_id ? ev->call_id : "");
    w->name = mk_strdup(ev->name ? ev->name : "");
    mk_buf_clear(&w->args);
}

static void end_call(mk_writer_state *w, mk_buf *out) {
    if (!w->name) {
        return;
    }
    mk_buf *c = &w->calls;
    mk_buf_puts(c, c->len > 0 ? ",{\"id\":" : "{\"id\":");
    mk_wire_text(c, w->call_id);
    mk_buf_printf(c, ",\"function\":{\"index\":%d,\"name\":", w->n_call++);
    mk_wire_text(c, w->name);
    mk_buf_puts(c, ",\"arguments\":");
    mk_jout_args(c, w->args.data ? w->args.data : "", w->args.len);
    mk_buf_puts(c, "}}");
    c->failed = c->failed || w->args.failed;
    out->failed = out->failed || c->failed;
    mk_free(w->name);
    w->name = NULL;
    if (w->ask->stream) {
        add_line(w, (piece){"", 0}, (piece){"", 0}, out);
    }
}

static void add_token(const mk_writer_state *w, mk_buf *b, int32_t id, float logprob) {
    mk_buf text;
    mk_buf_init(&text, MAX_BODY);
    if (w->token_text) {
        w->token_text(w->token_arg, id, &text);
    } else {
        mk_buf_printf(&text, "%d", (int)id);
    }
    mk_buf_puts(b, "{\"token\":");
    mk_wire_string(b, text.data ? text.data : "", text.len);
    mk_buf_puts(b, ",\"logprob\":");
    mk_wire_number(b, (double)logprob);
    mk_buf_puts(b, ",\"bytes\":");
    mk_wire_bytes(b, text.data, text.len);
    b->failed = b->failed || text.failed;
    mk_buf_free(&text);
}

static void add_logprob(mk_writer_state *w, const mk_answer_event *ev) {
    if (w->ask->n_logprob < 0) {
        return;
    }
    mk_buf *b = &w->logprobs;
    mk_buf_puts(b, b->len > 0 ? "," : "");
    add_token(w, b, ev->id, ev->logprob);
    int n = ev->n_top < w->ask->n_logprob ? ev->n_top : w->ask->n_logprob;
    for (int i = 0; i < n; i++) {
        mk_buf_puts(b, i == 0 ? ",\"top_logprobs\":[" : ",");
        add_token(w, b, ev->top[i].id, ev->top[i].logprob);
        mk_buf_putc(b, '}');
    }
    mk_buf_puts(b, n > 0 ? "]}" : "}");
}

static void fail(mk_writer_state *w, const mk_err *err, mk_buf *out) {
    w->over = w->failed = true;
    mk_ollama_error(mk_error_http_status(err->code), err, out);
    mk_buf_puts(out, w->ask->stream ? "\n" : "");
}

void mk_ollama_event(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out) {
    if (choice != 0 || w->over) {
        return;  // one answer is all these dialects know
    }
    switch (ev->kind) {
    case MK_AE_REASONING:
        add_text(w, ev, true, out);
        break;
    case MK_AE_TEXT:
        add_text(w, ev, false, out);
        break;
    case MK_AE_TOOL_BEGIN:
        begin_call(w, ev);
        break;
    case MK_AE_TOOL_ARGS:
        mk_buf_add(&w->args, ev->text, ev->n);
        break;
    case MK_AE_TOOL_END:
        end_call(w, out);
        break;
    case MK_AE_TOKEN:
        add_logprob(w, ev);
        break;
    case MK_AE_ERROR:
        fail(w, ev->error, out);
        break;
    case MK_AE_DONE:
        end_call(w, out);
        w->over = true;
        w->stop = ev->stop;
        w->usage = ev->usage;
        break;
    case MK_AE_START:
    case MK_AE_PROMPT:
    case MK_AE_N:
        break;
    }
    // what was lost while it was collected
    out->failed = out->failed || w->text.failed || w->thinking.failed || w->calls.failed ||
                  w->args.failed || w->logprobs.failed;
}

// --- the end -------------------------------------------------------------------------------------

static bool only_loads(const mk_ask *ask) {
    return !ask->messages && ask->n_prompt == 0;
}

static const char *done_reason(const mk_writer_state *w) {
    if (only_loads(w->ask)) {
        return w->ask->has_keep_alive && w->ask->keep_alive_s == 0 ? "unload" : "load";
    }
    return w->stop == MK_STOP_LENGTH      ? "length"
           : w->stop == MK_STOP_CANCELLED ? "cancelled"
                                          : "stop";
}

static long long ns(double ms) {
    return (long long)(ms * 1e6 + 0.5);
}

// The time before the prompt was read counts as loading: the total is the sum of its parts.
static void add_figures(const mk_usage *u, mk_buf *out) {
    long long load = ns(u->queue_ms), prompt = ns(u->prompt_ms), eval = ns(u->generation_ms);
    mk_buf_printf(out,
                  ",\"total_duration\":%lld,\"load_duration\":%lld,\"prompt_eval_count\":%lld,"
                  "\"prompt_eval_duration\":%lld,\"eval_count\":%lld,\"eval_duration\":%lld",
                  load + prompt + eval, load, (long long)u->n_prompt, prompt,
                  (long long)u->n_generated, eval);
}

void mk_ollama_finish(mk_writer_state *w, mk_buf *out) {
    if (!w->over || w->failed) {
        return;
    }
    if (w->text.failed || w->thinking.failed || w->calls.failed || w->logprobs.failed) {
        mk_err err = {0};
        (void)MK_FAIL(&err, MK_ENOMEM, "the answer has more than %zu bytes: ask for a stream",
                      MAX_BODY);
        fail(w, &err, out);
        return;
    }
    const piece none = {"", 0};
    bool stream = w->ask->stream;
    begin(w, stream ? none : whole(&w->text), stream ? none : whole(&w->thinking), true, out);
    mk_buf_printf(out, ",\"done_reason\":\"%s\"", done_reason(w));
    add_list(out, "logprobs", &w->logprobs);
    if (w->generate && w->ask->messages) {
        mk_buf_puts(out, ",\"context\":");
        mk_ollama_context_add(out, w->ask->messages, w->text.data, w->text.len);
    }
    if (!only_loads(w->ask)) {
        add_figures(&w->usage, out);
    }
    mk_buf_puts(out, stream ? "}\n" : "}");
}

void mk_ollama_heartbeat(mk_writer_state *w, mk_buf *out) {
    if (w->ask->stream && !w->over) {
        begin(w, (piece){"", 0}, (piece){"", 0}, false, out);
        mk_buf_puts(out, "}\n");
    }
}

void mk_ollama_error(int http_status, const mk_err *err, mk_buf *out) {
    (void)http_status;
    mk_buf_puts(out, "{\"error\":");
    mk_wire_text(out, err->msg);
    mk_buf_putc(out, '}');
}
