// Responses: answers.
//
// The output is a list of items: reasoning, a message, calls.  One item is open at a time; what
// comes next of another kind closes it.
//
//   event          opens            within                              at its end
//   REASONING      reasoning        reasoning_text.delta                .done, content_part.done, item.done
//   TEXT           message          output_text.delta                   the same
//   TOOL_BEGIN     function_call    function_call_arguments.delta       .done, item.done
//
// Reasoning is sent as its text, or as its summary if one was asked for.
#include <string.h>

#include "base/alloc.h"
#include "serve/jout.h"
#include "serve/openai_responses.h"
#include "serve/wire.h"

typedef enum { ITEM_NONE, ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL } item_kind;

struct mk_writer_state {
    mk_reply_info info;
    mk_buf tail;  // of the response object: everything that the answer does not change
    bool started, failed;
    int64_t sequence;
    // the open item
    item_kind kind;
    int n_item;             // items before it
    mk_buf text;            // escaped: text, reasoning, arguments
    mk_buf logprobs;        // items followed by commas
    char *call_id, *name;   // name: as the model knows it
    mk_openai_tokens wait;  // tokens whose text has not come
    mk_buf ids;             // of all tokens, followed by commas
    // the answer
    mk_buf output;  // closed items with commas between
    mk_stop_reason stop;
    mk_usage usage;
    const mk_err *error;  // only while an error is written
};

// --- the response object -------------------------------------------------------------------------

static const json_t *given(const mk_ask *a, const char *name) {
    return json_object_get(a->given, name);
}

static void add_given(mk_buf *b, const mk_ask *a, const char *name, const char *other) {
    mk_buf_printf(b, ",\"%s\":", name);
    if (given(a, name)) {
        mk_jout_value(b, given(a, name));
    } else {
        mk_buf_puts(b, other);
    }
}

static void add_tools(mk_buf *b, const mk_ask *a) {
    mk_buf_puts(b, ",\"tools\":[");
    size_t i;
    json_t *tool;
    json_array_foreach(a->tools, i, tool) {
        const json_t *f = json_object_get(tool, "function");
        static const char *const names[] = {"name", "description", "parameters"};
        mk_buf_puts(b, i ? ",{\"type\":\"function\"" : "{\"type\":\"function\"");
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            mk_buf_printf(b, ",\"%s\":", names[k]);
            const json_t *v = json_object_get(f, names[k]);
            if (v) {
                mk_jout_value(b, v);
            } else {
                mk_buf_puts(b, "null");
            }
        }
        mk_buf_printf(b, ",\"strict\":%s}",
                      json_is_true(json_object_get(f, "strict")) ? "true" : "false");
    }
    mk_buf_putc(b, ']');
}

static void add_number(mk_buf *b, const char *name, float x) {
    mk_buf_printf(b, ",\"%s\":", name);
    mk_wire_number(b, (double)x);
}

static void add_text_format(mk_buf *b, const mk_ask *a) {
    const json_t *text = given(a, "text"), *v;
    const char *key;
    mk_buf_puts(b, ",\"text\":{\"format\":");
    const json_t *format = json_object_get(text, "format");
    if (json_is_object(format)) {
        mk_jout_value(b, format);
    } else {
        mk_buf_puts(b, "{\"type\":\"text\"}");
    }
    json_object_foreach((json_t *)(uintptr_t)text, key, v) {
        if (strcmp(key, "format") != 0) {
            mk_buf_putc(b, ',');
            mk_wire_text(b, key);
            mk_buf_putc(b, ':');
            mk_jout_value(b, v);
        }
    }
    mk_buf_putc(b, '}');
}

static void add_reasoning(mk_buf *b, const mk_ask *a) {
    mk_buf_puts(b, ",\"reasoning\":{\"effort\":");
    mk_wire_text(b, a->think == MK_THINK_OFF ? "none" : a->effort);
    mk_buf_puts(b, ",\"summary\":");
    mk_wire_text(b, json_string_value(json_object_get(given(a, "reasoning"), "summary")));
    mk_buf_putc(b, '}');
}

// All fields that stay the same while the answer comes.
static void make_tail(mk_buf *b, const mk_ask *a) {
    const mk_sample_params *s = &a->sample;
    add_given(b, a, "instructions", "null");
    if (a->n_predict > 0) {
        mk_buf_printf(b, ",\"max_output_tokens\":%lld", (long long)a->n_predict);
    } else {
        mk_buf_puts(b, ",\"max_output_tokens\":null");
    }
    add_given(b, a, "max_tool_calls", "null");
    mk_buf_printf(b, ",\"parallel_tool_calls\":%s,\"previous_response_id\":",
                  a->parallel_tools ? "true" : "false");
    mk_wire_text(b, a->previous);
    add_given(b, a, "prompt_cache_key", "null");
    add_reasoning(b, a);
    add_given(b, a, "safety_identifier", "null");
    mk_buf_printf(b, ",\"service_tier\":\"default\",\"store\":%s", a->keep ? "true" : "false");
    add_number(b, "temperature", a->has_temperature || s->temperature > 0 ? s->temperature : 1);
    add_number(b, "top_p", a->has_top_p || s->top_p > 0 ? s->top_p : 1);
    add_number(b, "presence_penalty", s->presence_penalty);
    add_number(b, "frequency_penalty", s->frequency_penalty);
    mk_buf_printf(b, ",\"top_logprobs\":%d", a->n_logprob > 0 ? a->n_logprob : 0);
    add_text_format(b, a);
    add_given(b, a, "tool_choice", "\"auto\"");
    add_tools(b, a);
    mk_buf_puts(b, ",\"truncation\":\"disabled\"");
    add_given(b, a, "user", "null");
    add_given(b, a, "metadata", "{}");
}

static void add_usage(mk_buf *b, const mk_usage *u) {
    mk_buf_printf(b,
                  "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld,"
                  "\"cache_write_tokens\":%lld},\"output_tokens\":%lld,",
                  (long long)u->n_prompt, (long long)u->n_cached,
                  (long long)(u->n_prompt - u->n_cached), (long long)u->n_generated);
    mk_buf_printf(b, "\"output_tokens_details\":{\"reasoning_tokens\":%lld},\"total_tokens\":%lld,",
                  (long long)u->n_reasoning, (long long)(u->n_prompt + u->n_generated));
    mk_buf_printf(b, "\"prompt_cache_hit_tokens\":%lld,\"prompt_cache_miss_tokens\":%lld}",
                  (long long)u->n_cached, (long long)(u->n_prompt - u->n_cached));
}

// Codes that clients act upon: agents make room when a prompt is too long, and wait.
static const char *failure_code(const mk_err *error) {
    int http = mk_error_http_status(error->code);
    if (error->code == MK_ECONTEXT || http == 429) {
        return mk_openai_error_code(http, error);
    }
    return http < 500 ? "invalid_prompt" : "server_error";
}

static void add_response(const mk_writer_state *w, const char *status, mk_buf *b) {
    bool completed = strcmp(status, "completed") == 0, running = strcmp(status, "in_progress") == 0;
    const mk_usage *u = &w->usage;
    mk_buf_printf(b, "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%lld,", w->info.id,
                  (long long)w->info.created);
    mk_buf_printf(b, "\"status\":\"%s\",\"completed_at\":", status);
    if (completed) {
        double ms = u->queue_ms + u->prompt_ms + u->generation_ms;
        mk_buf_printf(b, "%lld", (long long)w->info.created + (long long)(ms / 1e3));
    } else {
        mk_buf_puts(b, "null");
    }
    mk_buf_puts(b, ",\"background\":false,\"error\":");
    if (w->error) {
        mk_buf_printf(b, "{\"code\":\"%s\",\"message\":", failure_code(w->error));
        mk_wire_text(b, w->error->msg);
        mk_buf_putc(b, '}');
    } else {
        mk_buf_puts(b, "null");
    }
    mk_buf_puts(b, ",\"incomplete_details\":");
    if (strcmp(status, "incomplete") == 0) {
        mk_buf_printf(b, "{\"reason\":\"%s\"}",
                      w->stop == MK_STOP_LENGTH ? "max_output_tokens" : "cancelled");
    } else {
        mk_buf_puts(b, "null");
    }
    mk_buf_puts(b, ",\"model\":");
    mk_wire_text(b, w->info.model);
    mk_buf_puts(b, ",\"output\":[");
    mk_buf_add(b, w->output.data ? w->output.data : "", w->output.len);
    mk_buf_putc(b, ']');
    mk_buf_add(b, w->tail.data, w->tail.len);
    mk_buf_puts(b, ",\"usage\":");
    if (running || w->error) {
        mk_buf_puts(b, "null");
    } else {
        add_usage(b, u);
        mk_buf_puts(b, ",\"timings\":");
        mk_openai_add_timings(b, u);
    }
    if (!running && w->ids.len) {
        mk_buf_puts(b, ",\"token_ids\":[");
        mk_buf_add(b, w->ids.data, w->ids.len - 1);
        mk_buf_putc(b, ']');
    }
    mk_buf_putc(b, '}');
    b->failed = b->failed || w->output.failed || w->tail.failed || w->ids.failed;
}

// --- events of a stream --------------------------------------------------------------------------

static void event_begin(mk_writer_state *w, const char *type, mk_buf *out) {
    mk_wire_sse_begin(out, type);
    mk_buf_printf(out, "{\"type\":\"%s\",\"sequence_number\":%lld", type, (long long)w->sequence++);
}

static void event_end(mk_buf *out) {
    mk_buf_putc(out, '}');
    mk_wire_sse_end(out);
}

static void response_event(mk_writer_state *w, const char *type, const char *status, mk_buf *out) {
    event_begin(w, type, out);
    mk_buf_puts(out, ",\"response\":");
    add_response(w, status, out);
    event_end(out);
}

static void start(mk_writer_state *w, mk_buf *out) {
    if (!w->started && w->info.ask->stream) {
        response_event(w, "response.created", "in_progress", out);
        response_event(w, "response.in_progress", "in_progress", out);
    }
    w->started = true;
}

static bool summary(const mk_writer_state *w) {
    return w->kind == ITEM_REASONING && w->info.ask->reasoning_summary;
}

static void add_item_id(const mk_writer_state *w, mk_buf *b) {
    static const char *const prefix[] = {"", "rs", "msg", "fc"};
    mk_buf_printf(b, "\"%s_%s%02d\"", prefix[w->kind], w->info.id, w->n_item);
}

// ,"item_id":..,"output_index":.. and which part of the item
static void add_place(const mk_writer_state *w, mk_buf *b) {
    mk_buf_puts(b, ",\"item_id\":");
    add_item_id(w, b);
    mk_buf_printf(b, ",\"output_index\":%d", w->n_item);
    if (w->kind != ITEM_CALL) {
        mk_buf_puts(b, summary(w) ? ",\"summary_index\":0" : ",\"content_index\":0");
    }
}

static void add_logprobs(const mk_buf *items, mk_buf *b) {
    mk_buf_puts(b, ",\"logprobs\":[");
    mk_buf_add(b, items->data ? items->data : "", items->len ? items->len - 1 : 0);
    mk_buf_putc(b, ']');
    b->failed = b->failed || items->failed;
}

static void add_escaped(mk_buf *b, const char *name, const mk_buf *text) {
    mk_buf_printf(b, ",\"%s\":\"", name);
    mk_buf_add(b, text->data ? text->data : "", text->len);
    mk_buf_putc(b, '"');
    b->failed = b->failed || text->failed;
}

// The part of the open item, with what it has so far.
static void add_part(const mk_writer_state *w, mk_buf *b) {
    if (w->kind == ITEM_MESSAGE) {
        mk_buf_puts(b, "{\"type\":\"output_text\",\"annotations\":[]");
        add_logprobs(&w->logprobs, b);
    } else {
        mk_buf_printf(b, "{\"type\":\"%s\"", summary(w) ? "summary_text" : "reasoning_text");
    }
    add_escaped(b, "text", &w->text);
    mk_buf_putc(b, '}');
}

// The name as the client knows it, and its namespace.
static void add_call_name(const mk_writer_state *w, mk_buf *b) {
    const json_t *pair = json_object_get(given(w->info.ask, "namespaces"), w->name);
    mk_buf_puts(b, ",\"name\":");
    mk_wire_text(b, pair ? json_string_value(json_array_get(pair, 1)) : w->name);
    if (pair) {
        mk_buf_puts(b, ",\"namespace\":");
        mk_wire_text(b, json_string_value(json_array_get(pair, 0)));
    }
}

// The open item.  part: with its text; without while it begins.
static void add_item(const mk_writer_state *w, const char *status, bool part, mk_buf *b) {
    mk_buf_puts(b, "{\"id\":");
    add_item_id(w, b);
    if (w->kind == ITEM_CALL) {
        mk_buf_printf(b, ",\"type\":\"function_call\",\"status\":\"%s\"", status);
        add_escaped(b, "arguments", &w->text);
        mk_buf_puts(b, ",\"call_id\":");
        mk_wire_text(b, w->call_id);
        add_call_name(w, b);
    } else if (w->kind == ITEM_MESSAGE) {
        mk_buf_printf(b, ",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\"", status);
        mk_buf_puts(b, ",\"content\":[");
        if (part) {
            add_part(w, b);
        }
        mk_buf_putc(b, ']');
    } else {
        mk_buf_printf(b, ",\"type\":\"reasoning\",\"status\":\"%s\",\"summary\":[", status);
        if (part && summary(w)) {
            add_part(w, b);
        }
        mk_buf_puts(b, "],\"content\":[");
        if (part && !summary(w)) {
            add_part(w, b);
        }
        mk_buf_putc(b, ']');
    }
    mk_buf_putc(b, '}');
}

static void item_event(mk_writer_state *w, const char *type, const char *status, bool part,
                       mk_buf *out) {
    event_begin(w, type, out);
    mk_buf_printf(out, ",\"output_index\":%d,\"item\":", w->n_item);
    add_item(w, status, part, out);
    event_end(out);
}

static void part_event(mk_writer_state *w, bool added, mk_buf *out) {
    static const char *const names[2][2] = {
        {"response.content_part.done", "response.content_part.added"},
        {"response.reasoning_summary_part.done", "response.reasoning_summary_part.added"}};
    event_begin(w, names[summary(w)][added], out);
    add_place(w, out);
    mk_buf_puts(out, ",\"part\":");
    add_part(w, out);
    event_end(out);
}

// Names of the deltas of a kind: delta, done.
static const char *delta_name(const mk_writer_state *w, bool done) {
    static const char *const names[][2] = {
        {"response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"},
        {"response.reasoning_text.delta", "response.reasoning_text.done"},
        {"response.output_text.delta", "response.output_text.done"},
        {"response.function_call_arguments.delta", "response.function_call_arguments.done"}};
    return names[summary(w) ? 0 : w->kind][done];
}

// --- items ---------------------------------------------------------------------------------------

static void open_item(mk_writer_state *w, item_kind kind, mk_buf *out) {
    w->kind = kind;
    if (w->info.ask->stream) {
        item_event(w, "response.output_item.added", "in_progress", false, out);
        if (kind != ITEM_CALL) {
            part_event(w, true, out);
        }
    }
}

static void close_item(mk_writer_state *w, const char *status, mk_buf *out) {
    if (w->kind == ITEM_NONE) {
        return;
    }
    if (w->info.ask->stream) {
        event_begin(w, delta_name(w, true), out);
        add_place(w, out);
        if (w->kind == ITEM_CALL) {
            add_call_name(w, out);
        } else if (w->kind == ITEM_MESSAGE) {
            add_logprobs(&w->logprobs, out);
        }
        add_escaped(out, w->kind == ITEM_CALL ? "arguments" : "text", &w->text);
        event_end(out);
        if (w->kind != ITEM_CALL) {
            part_event(w, false, out);
        }
        item_event(w, "response.output_item.done", status, true, out);
    }
    mk_buf_puts(&w->output, w->n_item ? "," : "");
    add_item(w, status, true, &w->output);
    w->n_item++;
    w->kind = ITEM_NONE;
    mk_buf_clear(&w->text);
    mk_buf_clear(&w->logprobs);
}

static void delta(mk_writer_state *w, const char *p, size_t n, const mk_buf *logprobs,
                  mk_buf *out) {
    mk_wire_escaped(&w->text, p, n);
    if (w->kind == ITEM_MESSAGE) {
        mk_buf_add(&w->logprobs, logprobs->data ? logprobs->data : "", logprobs->len);
    }
    if (!w->info.ask->stream) {
        return;
    }
    event_begin(w, delta_name(w, false), out);
    add_place(w, out);
    if (w->kind == ITEM_MESSAGE) {
        add_logprobs(logprobs, out);
    }
    mk_buf_puts(out, ",\"delta\":");
    mk_wire_string(out, p, n);
    event_end(out);
}

static void text(mk_writer_state *w, const mk_answer_event *ev, mk_buf *out) {
    item_kind kind = ev->kind == MK_AE_TEXT ? ITEM_MESSAGE : ITEM_REASONING;
    if (w->kind != kind) {
        close_item(w, "completed", out);
        open_item(w, kind, out);
    }
    mk_buf logprobs;
    mk_buf_init(&logprobs, SIZE_MAX - 1);
    mk_openai_tokens_take(&w->wait, ev->kind, ev->n, &logprobs);
    delta(w, ev->text, ev->n, &logprobs, out);
    out->failed = out->failed || logprobs.failed;
    mk_buf_free(&logprobs);
}

static void call(mk_writer_state *w, const mk_answer_event *ev, mk_buf *out) {
    mk_buf dropped;  // log-probabilities of calls have no place
    mk_buf_init(&dropped, SIZE_MAX - 1);
    mk_openai_tokens_take(&w->wait, ev->kind, 0, &dropped);
    mk_buf_clear(&dropped);
    if (ev->kind == MK_AE_TOOL_BEGIN) {
        close_item(w, "completed", out);
        mk_free(w->call_id);
        mk_free(w->name);
        w->call_id = mk_strdup(ev->call_id);
        w->name = mk_strdup(ev->name);
        open_item(w, ITEM_CALL, out);
    } else if (ev->kind == MK_AE_TOOL_ARGS && ev->n > 0) {
        delta(w, ev->text, ev->n, &dropped, out);
    } else if (ev->kind == MK_AE_TOOL_END) {
        if (w->text.len == 0) {  // without arguments clients would parse an empty text
            delta(w, "{}", 2, &dropped, out);
        }
        close_item(w, "completed", out);
    }
    mk_buf_free(&dropped);
}

// --- the dialect ---------------------------------------------------------------------------------

static mk_writer_state *responses_open(const mk_reply_info *info) {
    mk_writer_state *w = mk_zalloc(sizeof *w);
    w->info = *info;
    mk_openai_tokens_init(&w->wait);
    mk_buf *const bufs[] = {&w->tail, &w->text, &w->logprobs, &w->ids, &w->output};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
        mk_buf_init(bufs[i], SIZE_MAX - 1);
    }
    make_tail(&w->tail, info->ask);
    return w;
}

static void responses_close(mk_writer_state *w) {
    if (!w) {
        return;
    }
    mk_buf *const bufs[] = {&w->tail, &w->text, &w->logprobs, &w->ids, &w->output};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
        mk_buf_free(bufs[i]);
    }
    mk_openai_tokens_free(&w->wait);
    mk_free(w->call_id);
    mk_free(w->name);
    mk_free(w);
}

static void fail(mk_writer_state *w, const mk_err *error, mk_buf *out) {
    w->failed = true;
    if (!w->info.ask->stream) {
        mk_openai_error(mk_error_http_status(error->code), error, out);
        return;
    }
    start(w, out);
    close_item(w, "incomplete", out);
    w->error = error;
    response_event(w, "response.failed", "failed", out);
    w->error = NULL;
}

static void token(mk_writer_state *w, const mk_answer_event *ev) {
    if (w->info.ask->n_logprob >= 0) {
        mk_openai_tokens_add(&w->wait, &w->info, ev);
    }
    if (w->info.ask->want_token_ids) {
        mk_buf_printf(&w->ids, "%d,", (int)ev->id);
    }
}

static bool cut_off(mk_stop_reason stop) {
    return stop == MK_STOP_LENGTH || stop == MK_STOP_CANCELLED;
}

static void responses_event(mk_writer_state *w, int choice, const mk_answer_event *ev,
                            mk_buf *out) {
    (void)choice;  // always one
    if (w->failed) {
        return;
    }
    if (ev->kind != MK_AE_ERROR) {
        start(w, out);
    }
    switch (ev->kind) {
    case MK_AE_TEXT:
    case MK_AE_REASONING:
        if (ev->n > 0) {
            text(w, ev, out);
        }
        break;
    case MK_AE_TOOL_BEGIN:
    case MK_AE_TOOL_ARGS:
    case MK_AE_TOOL_END:
        call(w, ev, out);
        break;
    case MK_AE_TOKEN:
        token(w, ev);
        break;
    case MK_AE_DONE:
        close_item(w, cut_off(ev->stop) ? "incomplete" : "completed", out);
        w->stop = ev->stop;
        w->usage = ev->usage;
        break;
    case MK_AE_ERROR:
        fail(w, ev->error, out);
        break;
    case MK_AE_START:
    case MK_AE_PROMPT:
    case MK_AE_N:
        break;
    }
    // what was lost while it was collected
    out->failed = out->failed || w->wait.items.failed || w->ids.failed || w->text.failed ||
                  w->logprobs.failed || w->output.failed || w->tail.failed;
}

static void responses_finish(mk_writer_state *w, mk_buf *out) {
    const char *status = cut_off(w->stop) ? "incomplete" : "completed";
    if (w->failed) {
        return;
    }
    if (!w->info.ask->stream) {
        add_response(w, status, out);
        return;
    }
    response_event(w, cut_off(w->stop) ? "response.incomplete" : "response.completed", status, out);
    mk_buf_puts(out, "data: [DONE]\n\n");
}

static void responses_kept(const mk_writer_state *w, mk_buf *out) {
    add_response(w, cut_off(w->stop) ? "incomplete" : "completed", out);
}

static void responses_heartbeat(mk_writer_state *w, mk_buf *out) {
    if (w->info.ask->stream && !w->failed) {
        mk_openai_heartbeat(out);
    }
}

const mk_dialect mk_dialect_openai_responses = {
    .name = "openai-responses",
    .content_type = "text/event-stream",
    .parse = mk_openai_responses_parse,
    .open = responses_open,
    .event = responses_event,
    .finish = responses_finish,
    .kept = responses_kept,
    .kept_prefix = "resp_",
    .heartbeat = responses_heartbeat,
    .close = responses_close,
    .error = mk_openai_error,
};
