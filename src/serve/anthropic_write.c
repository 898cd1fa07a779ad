// Answers in the shape of Anthropic's Messages.
//
// An answer is a list of blocks: thinking, text, tool_use.  A block opens with the first event of
// its kind and closes when another kind comes.  Streamed:
//
//   message_start  (content_block_start  content_block_delta...  content_block_stop)...
//   message_delta  message_stop
//
// Clients watch for silence, and their watchdogs hear events only, not comments: the first
// heartbeat sends message_start before the prompt has been read, every later one a ping.  The
// counts in that message_start are zero; those in message_delta are totals and replace them.
//
// Source: anthropic SDK 2.12 for Python (_streaming.py, lib/streaming/_messages.py, types/).
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "serve/anthropic_int.h"
#include "serve/jout.h"
#include "serve/wire.h"

#define MAX_BODY ((size_t)1 << 28)

typedef enum { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL } block_kind;

struct mk_writer_state {
    char *id, *model;
    const mk_ask *ask;
    bool started;  // message_start is out
    bool over;     // DONE or ERROR has come
    bool failed;   // ERROR
    block_kind block;
    int n_block, n_tool;
    mk_buf text;     // of the open block, where it is needed at the block's end
    mk_buf content;  // whole body: the blocks so far
    mk_stop_reason stop;
    char *stop_text;
    mk_usage usage;
};

mk_writer_state *mk_anthropic_open(const mk_reply_info *info) {
    mk_writer_state *w = mk_alloc(sizeof *w);
    *w = (mk_writer_state){
        .id = mk_strdup(info->id), .model = mk_strdup(info->model), .ask = info->ask};
    mk_buf_init(&w->text, MAX_BODY);
    mk_buf_init(&w->content, MAX_BODY);
    return w;
}

void mk_anthropic_close(mk_writer_state *w) {
    if (!w) {
        return;
    }
    mk_buf_free(&w->text);
    mk_buf_free(&w->content);
    mk_free(w->id);
    mk_free(w->model);
    mk_free(w->stop_text);
    mk_free(w);
}

// --- parts ---------------------------------------------------------------------------------------

static void begin(mk_buf *out, const char *event) {
    mk_buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", event, event);
}

static void end(mk_buf *out) {
    mk_buf_puts(out, "}\n\n");
}

// input_tokens are those that were computed; the cached ones are counted beside them.
static void add_usage(mk_buf *out, const mk_usage *u, bool total) {
    mk_buf_printf(out,
                  "\"usage\":{\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,"
                  "\"cache_read_input_tokens\":%lld,\"output_tokens\":%lld",
                  (long long)(u->n_prompt - u->n_cached), (long long)u->n_cached,
                  (long long)u->n_generated);
    if (total) {
        mk_buf_printf(out, ",\"output_tokens_details\":{\"thinking_tokens\":%lld}",
                      (long long)u->n_reasoning);
    }
    mk_buf_putc(out, '}');
}

static void add_head(mk_buf *out, const mk_writer_state *w) {
    mk_buf_printf(
        out, "\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", w->id);
    mk_wire_text(out, w->model);
}

// The limit of the request was not reached: then it was the window.
static const char *stop_reason(const mk_writer_state *w) {
    bool asked = w->ask->n_predict >= 0 && w->usage.n_generated >= w->ask->n_predict;
    switch (w->stop) {
    case MK_STOP_TEXT:
        return "stop_sequence";
    case MK_STOP_LENGTH:
        return asked ? "max_tokens" : "model_context_window_exceeded";
    case MK_STOP_TOOLS:
        return "tool_use";
    case MK_STOP_CANCELLED:
        return "pause_turn";
    case MK_STOP_END:
        break;
    }
    return w->n_tool > 0 ? "tool_use" : "end_turn";
}

static void add_stop(mk_buf *out, const mk_writer_state *w) {
    mk_buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(w));
    mk_wire_text(out, w->stop == MK_STOP_TEXT ? w->stop_text : NULL);
}

// Nothing is proved by it: clients want to give it back with the text, and some refuse a block
// without one.
static void add_signature(mk_buf *out, const mk_buf *text) {
    const char *p = text->data ? text->data : "";
    mk_buf_printf(out, "%016llx%016llx", (unsigned long long)mk_hash64(p, text->len, 0),
                  (unsigned long long)mk_hash64(p, text->len, 1));
}

static void start_message(mk_writer_state *w, const mk_usage *usage, mk_buf *out) {
    if (w->started || !w->ask->stream) {
        return;
    }
    w->started = true;
    begin(out, "message_start");
    mk_buf_puts(out, ",\"message\":{");
    add_head(out, w);
    mk_buf_puts(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    add_usage(out, usage, false);
    mk_buf_putc(out, '}');
    end(out);
}

// --- blocks --------------------------------------------------------------------------------------

static bool hides(const mk_writer_state *w) {
    return w->block == BLOCK_THINKING && w->ask->hide_reasoning;
}

static void add_block_head(mk_buf *out, block_kind kind, const mk_answer_event *ev) {
    static const char *const types[] = {
        [BLOCK_THINKING] = "thinking", [BLOCK_TEXT] = "text", [BLOCK_TOOL] = "tool_use"};
    mk_buf_printf(out, "{\"type\":\"%s\"", types[kind]);
    if (kind == BLOCK_TOOL) {
        mk_buf_puts(out, ",\"id\":");
        mk_wire_text(out, ev->call_id);
        mk_buf_puts(out, ",\"name\":");
        mk_wire_text(out, ev->name);
    }
}

static void open_block(mk_writer_state *w, block_kind kind, const mk_answer_event *ev,
                       mk_buf *out) {
    static const char *const empty[] = {[BLOCK_THINKING] = ",\"thinking\":\"\",\"signature\":\"\"}",
                                        [BLOCK_TEXT] = ",\"text\":\"\"}",
                                        [BLOCK_TOOL] = ",\"input\":{}}"};
    w->block = kind;
    w->n_tool += kind == BLOCK_TOOL;
    mk_buf_clear(&w->text);
    if (w->ask->stream) {
        begin(out, "content_block_start");
        mk_buf_printf(out, ",\"index\":%d,\"content_block\":", w->n_block);
        add_block_head(out, kind, ev);
        mk_buf_puts(out, empty[kind]);
        end(out);
    } else {
        mk_buf_puts(&w->content, w->n_block > 0 ? "," : "");
        add_block_head(&w->content, kind, ev);
    }
    w->n_block++;
}

static void begin_delta(const mk_writer_state *w, mk_buf *out, const char *type,
                        const char *field) {
    begin(out, "content_block_delta");
    mk_buf_printf(out, ",\"index\":%d,\"delta\":{\"type\":\"%s\",\"%s\":", w->n_block - 1, type,
                  field);
}

static void add_text(mk_writer_state *w, const mk_answer_event *ev, mk_buf *out) {
    static const struct {
        const char *type, *field;
    } deltas[] = {[BLOCK_THINKING] = {"thinking_delta", "thinking"},
                  [BLOCK_TEXT] = {"text_delta", "text"},
                  [BLOCK_TOOL] = {"input_json_delta", "partial_json"}};
    if (!w->ask->stream || w->block == BLOCK_THINKING) {
        mk_buf_add(&w->text, ev->text, ev->n);
    }
    if (w->ask->stream && !hides(w)) {
        begin_delta(w, out, deltas[w->block].type, deltas[w->block].field);
        mk_wire_string(out, ev->text, ev->n);
        mk_buf_putc(out, '}');
        end(out);
    }
}

static void end_block_stream(const mk_writer_state *w, mk_buf *out) {
    if (w->block == BLOCK_THINKING) {
        begin_delta(w, out, "signature_delta", "signature");
        mk_buf_putc(out, '"');
        add_signature(out, &w->text);
        mk_buf_puts(out, "\"}");
        end(out);
    }
    begin(out, "content_block_stop");
    mk_buf_printf(out, ",\"index\":%d", w->n_block - 1);
    end(out);
}

static void end_block_whole(mk_writer_state *w) {
    mk_buf *c = &w->content;
    const char *p = w->text.data ? w->text.data : "";
    size_t n = w->text.len;
    switch (w->block) {
    case BLOCK_THINKING:
        mk_buf_puts(c, ",\"thinking\":");
        mk_wire_string(c, p, hides(w) ? 0 : n);
        mk_buf_puts(c, ",\"signature\":\"");
        add_signature(c, &w->text);
        mk_buf_putc(c, '"');
        break;
    case BLOCK_TEXT:
        mk_buf_puts(c, ",\"text\":");
        mk_wire_string(c, p, n);
        break;
    case BLOCK_TOOL:
        mk_buf_puts(c, ",\"input\":");
        mk_jout_args(c, p, n);
        break;
    case BLOCK_NONE:
        break;
    }
    mk_buf_putc(c, '}');
    c->failed = c->failed || w->text.failed;
}

static void end_block(mk_writer_state *w, mk_buf *out) {
    if (w->block == BLOCK_NONE) {
        return;
    }
    if (w->ask->stream) {
        end_block_stream(w, out);
    } else {
        end_block_whole(w);
    }
    w->block = BLOCK_NONE;
}

// Text for a block of this kind, which is opened if another one is open.
static void put(mk_writer_state *w, block_kind kind, const mk_answer_event *ev, mk_buf *out) {
    if (ev->n == 0) {
        return;
    }
    if (w->block != kind) {
        end_block(w, out);
        open_block(w, kind, ev, out);
    }
    add_text(w, ev, out);
}

// --- the dialect's functions ---------------------------------------------------------------------

static void done(mk_writer_state *w, const mk_answer_event *ev, mk_buf *out) {
    end_block(w, out);
    w->over = true;
    w->stop = ev->stop;
    w->usage = ev->usage;
    if (ev->stop_text) {
        w->stop_text = mk_strdup(ev->stop_text);
    }
}

static void fail(mk_writer_state *w, const mk_err *err, mk_buf *out) {
    w->over = w->failed = true;
    if (w->ask->stream) {
        mk_buf_puts(out, "event: error\ndata: ");
    }
    mk_anthropic_error(mk_error_http_status(err->code), err, out);
    if (w->ask->stream) {
        mk_buf_puts(out, "\n\n");
    }
}

void mk_anthropic_event(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out) {
    if (choice != 0 || w->over) {
        return;  // one answer is all this dialect knows
    }
    if (ev->kind != MK_AE_ERROR) {
        start_message(w, &ev->usage, out);
    }
    switch (ev->kind) {
    case MK_AE_REASONING:
        put(w, BLOCK_THINKING, ev, out);
        break;
    case MK_AE_TEXT:
        put(w, BLOCK_TEXT, ev, out);
        break;
    case MK_AE_TOOL_BEGIN:
        end_block(w, out);
        open_block(w, BLOCK_TOOL, ev, out);
        break;
    case MK_AE_TOOL_ARGS:
        put(w, BLOCK_TOOL, ev, out);
        break;
    case MK_AE_TOOL_END:
        end_block(w, out);
        break;
    case MK_AE_DONE:
        done(w, ev, out);
        break;
    case MK_AE_ERROR:
        fail(w, ev->error, out);
        break;
    case MK_AE_START:
    case MK_AE_TOKEN:
    case MK_AE_PROMPT:
    case MK_AE_N:
        break;
    }
    // what was lost while it was collected
    out->failed = out->failed || w->text.failed || w->content.failed;
}

static void finish_stream(const mk_writer_state *w, mk_buf *out) {
    begin(out, "message_delta");
    mk_buf_puts(out, ",\"delta\":{");
    add_stop(out, w);
    mk_buf_puts(out, "},");
    add_usage(out, &w->usage, true);
    end(out);
    begin(out, "message_stop");
    end(out);
}

void mk_anthropic_finish(mk_writer_state *w, mk_buf *out) {
    if (!w->over || w->failed) {
        return;
    }
    if (w->ask->stream) {
        finish_stream(w, out);
        return;
    }
    if (w->content.failed) {
        mk_err err = {0};
        (void)MK_FAIL(&err, MK_ENOMEM, "the answer has more than %zu bytes: ask for a stream",
                      MAX_BODY);
        mk_anthropic_error(mk_error_http_status(err.code), &err, out);
        return;
    }
    mk_buf_putc(out, '{');
    add_head(out, w);
    mk_buf_puts(out, ",\"content\":[");
    mk_buf_add(out, w->content.data, w->content.len);
    mk_buf_puts(out, "],");
    add_stop(out, w);
    mk_buf_putc(out, ',');
    add_usage(out, &w->usage, true);
    mk_buf_putc(out, '}');
}

void mk_anthropic_heartbeat(mk_writer_state *w, mk_buf *out) {
    if (!w->ask->stream || w->over) {
        return;
    }
    start_message(w, &w->usage, out);
    begin(out, "ping");
    end(out);
}

void mk_anthropic_error(int http_status, const mk_err *err, mk_buf *out) {
    static const struct {
        int status;
        const char *type;
    } types[] = {{400, "invalid_request_error"}, {401, "authentication_error"},
                 {402, "billing_error"},         {403, "permission_error"},
                 {404, "not_found_error"},       {413, "request_too_large"},
                 {429, "rate_limit_error"},      {503, "overloaded_error"},
                 {504, "timeout_error"},         {529, "overloaded_error"}};
    const char *type = http_status < 500 ? "invalid_request_error" : "api_error";
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        type = types[i].status == http_status ? types[i].type : type;
    }
    mk_buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type);
    mk_wire_text(out, err->msg);
    if (strncmp(err->msg, "/thread: ", 9) == 0) {  // clients then send the whole conversation
        mk_buf_puts(out, ",\"details\":{\"error_code\":\"thread_unsupported_request\"}");
    }
    mk_buf_puts(out, "}}");
}
