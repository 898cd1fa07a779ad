// Pieces of answers that OpenAI's dialects share.
#include <ctype.h>
#include <string.h>

#include "base/alloc.h"
#include "serve/openai_int.h"
#include "serve/wire.h"

// --- usage ---------------------------------------------------------------------------------------

void mk_openai_add_usage(mk_buf *b, const mk_usage *u) {
    mk_buf_printf(b, "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,",
                  (long long)u->n_prompt, (long long)u->n_generated,
                  (long long)(u->n_prompt + u->n_generated));
    mk_buf_printf(b,
                  "\"prompt_tokens_details\":{\"cached_tokens\":%lld,\"cache_write_tokens\":%lld},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":%lld},"
                  "\"prompt_cache_hit_tokens\":%lld,\"prompt_cache_miss_tokens\":%lld}",
                  (long long)u->n_cached, (long long)(u->n_prompt - u->n_cached),
                  (long long)u->n_reasoning, (long long)u->n_cached,
                  (long long)(u->n_prompt - u->n_cached));
}

static void add_field(mk_buf *b, const char *name, double x) {
    mk_buf_printf(b, ",\"%s\":", name);
    mk_wire_number(b, x);
}

void mk_openai_add_timings(mk_buf *b, const mk_usage *u) {
    double n_read = (double)(u->n_prompt - u->n_cached), n_made = (double)u->n_generated;
    mk_buf_printf(b, "{\"cache_n\":%lld,\"prompt_n\":%lld", (long long)u->n_cached,
                  (long long)(u->n_prompt - u->n_cached));
    add_field(b, "queue_ms", u->queue_ms);
    add_field(b, "prompt_ms", u->prompt_ms);
    add_field(b, "prompt_per_second", u->prompt_ms > 0 ? 1e3 * n_read / u->prompt_ms : 0);
    mk_buf_printf(b, ",\"predicted_n\":%lld", (long long)u->n_generated);
    add_field(b, "predicted_ms", u->generation_ms);
    add_field(b, "predicted_per_second",
              u->generation_ms > 0 ? 1e3 * n_made / u->generation_ms : 0);
    if (u->n_drafted > 0) {
        mk_buf_printf(b, ",\"draft_n\":%lld,\"draft_n_accepted\":%lld", (long long)u->n_drafted,
                      (long long)u->n_accepted);
    }
    mk_buf_putc(b, '}');
}

// --- log-probabilities ---------------------------------------------------------------------------

void mk_openai_token_text(const mk_reply_info *info, int32_t id, mk_buf *out) {
    if (info->token_text) {
        info->token_text(info->token_arg, id, out);
    } else {
        mk_buf_printf(out, "%d", (int)id);
    }
}

double mk_openai_logprob(double logprob) {
    return logprob > -9999.0 ? logprob : -9999.0;  // false for NaN and -infinity
}

// "token":..,"logprob":..,"bytes":[..]; returns how many bytes the token has.
static size_t add_token(mk_buf *b, const mk_reply_info *info, int32_t id, float logprob) {
    mk_buf text;
    mk_buf_init(&text, 1 << 16);
    mk_openai_token_text(info, id, &text);
    const char *p = text.data ? text.data : "";
    size_t n = text.len;
    if (info->ask->want_token_ids) {
        mk_buf_printf(b, "\"id\":%d,", (int)id);
    }
    mk_buf_puts(b, "\"token\":");
    mk_wire_string(b, p, n);
    mk_buf_puts(b, ",\"logprob\":");
    mk_wire_number(b, mk_openai_logprob((double)logprob));
    mk_buf_puts(b, ",\"bytes\":");
    mk_wire_bytes(b, p, n);
    b->failed = b->failed || text.failed;
    mk_buf_free(&text);
    return n;
}

void mk_openai_tokens_init(mk_openai_tokens *t) {
    *t = (mk_openai_tokens){.last = MK_AE_START};
    mk_buf_init(&t->items, SIZE_MAX - 1);
}

void mk_openai_tokens_free(mk_openai_tokens *t) {
    mk_buf_free(&t->items);
    mk_free(t->tok);
    mk_openai_tokens_init(t);
}

void mk_openai_tokens_add(mk_openai_tokens *t, const mk_reply_info *info,
                          const mk_answer_event *ev) {
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        struct mk_openai_token *tok = mk_try_realloc(t->tok, cap, sizeof *tok);
        if (!tok) {
            t->items.failed = true;
            return;
        }
        t->tok = tok;
        t->cap = cap;
    }
    mk_buf *b = &t->items;
    struct mk_openai_token *tok = &t->tok[t->n++];
    tok->begin = b->len;
    mk_buf_putc(b, '{');
    tok->n_text = add_token(b, info, ev->id, ev->logprob);
    mk_buf_puts(b, ",\"top_logprobs\":[");
    for (int i = 0; i < ev->n_top; i++) {
        mk_buf_puts(b, i ? ",{" : "{");
        (void)add_token(b, info, ev->top[i].id, ev->top[i].logprob);
        mk_buf_putc(b, '}');
    }
    mk_buf_puts(b, "]},");
}

void mk_openai_tokens_take(mk_openai_tokens *t, mk_ae_kind kind, size_t n_text, mk_buf *out) {
    size_t i = 0, sum = 0;
    if (t->last != kind) {
        for (i = t->n; i > 0 && sum < n_text; i--) {
            sum += t->tok[i - 1].n_text;
        }
    }
    if (i < t->n) {
        mk_buf_add(out, t->items.data + t->tok[i].begin, t->items.len - t->tok[i].begin);
    }
    out->failed = out->failed || t->items.failed;
    mk_buf_clear(&t->items);
    t->n = 0;
    t->last = kind;
}

// --- errors and heartbeats -----------------------------------------------------------------------

static const char *error_type(int http_status) {
    switch (http_status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    default:
        break;
    }
    return http_status >= 500 ? "server_error" : "invalid_request_error";
}

// What is missing has codes by which clients tell what to do about it.
static const char *missing_code(const mk_err *err) {
    static const char *const rows[][2] = {
        {MK_NO_MODEL, "model_not_found"},
        {MK_NOT_KEPT, "previous_response_not_found"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strncmp(err->msg, rows[i][0], strlen(rows[i][0])) == 0) {
            return rows[i][1];
        }
    }
    return NULL;
}

const char *mk_openai_error_code(int http_status, const mk_err *err) {
    if (http_status == 401) {
        return "invalid_api_key";
    }
    if (http_status == 429) {
        return "rate_limit_exceeded";
    }
    const char *missing = missing_code(err);
    if (missing) {
        return missing;
    }
    switch (err->code) {
    case MK_ECONTEXT:
        return "context_length_exceeded";
    case MK_EUNSUPPORTED:
        return "unsupported_parameter";
    case MK_EUSAGE:
        return http_status == 400 ? "invalid_value" : NULL;
    case MK_ENOMEM:
        return "out_of_memory";
    case MK_EINTR:
        return "service_unavailable";
    default:
        return NULL;
    }
}

// "/messages/0/role: ..." is about messages[0].role.
static void add_param(mk_buf *b, const char *msg) {
    const char *end = msg[0] == '/' && msg[1] ? strstr(msg, ": ") : NULL;
    if (!end || memchr(msg, ' ', (size_t)(end - msg))) {
        mk_buf_puts(b, "null");
        return;
    }
    mk_buf name;
    mk_buf_init(&name, 4096);
    for (const char *p = msg + 1; p < end;) {
        const char *slash = memchr(p, '/', (size_t)(end - p));
        size_t n = (size_t)((slash ? slash : end) - p);
        bool index = n > 0 && isdigit((unsigned char)*p) && p != msg + 1;
        mk_buf_puts(&name, index ? "[" : (p == msg + 1 ? "" : "."));
        mk_buf_add(&name, p, n);
        mk_buf_puts(&name, index ? "]" : "");
        p += n + (slash != NULL);
    }
    mk_wire_text(b, name.data);
    b->failed = b->failed || name.failed;
    mk_buf_free(&name);
}

void mk_openai_error(int http_status, const mk_err *err, mk_buf *out) {
    mk_buf_puts(out, "{\"error\":{\"message\":");
    mk_wire_text(out, err->msg);
    mk_buf_printf(out, ",\"type\":\"%s\",\"param\":", error_type(http_status));
    add_param(out, err->msg);
    mk_buf_puts(out, ",\"code\":");
    mk_wire_text(out, mk_openai_error_code(http_status, err));
    mk_buf_puts(out, "}}");
}

void mk_openai_heartbeat(mk_buf *out) {
    mk_buf_puts(out, ": keep-alive\n\n");
}

// --- the frame of completions --------------------------------------------------------------------

void mk_openai_add_head(const mk_openai_frame *f, mk_buf *out) {
    mk_buf_printf(
        out, "{\"id\":\"%s%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", f->id_prefix,
        f->info.id, f->info.ask->stream ? f->chunk_object : f->object, (long long)f->info.created);
    mk_wire_text(out, f->info.model);
    mk_buf_puts(out, ",\"system_fingerprint\":");
    mk_wire_text(out, f->info.fingerprint);
    mk_buf_puts(out, ",\"choices\":[");
}

static void add_total(const mk_openai_frame *f, mk_buf *out) {
    mk_buf_puts(out, "],\"usage\":");
    mk_openai_add_usage(out, &f->total.sum);
    mk_buf_puts(out, ",\"timings\":");
    mk_openai_add_timings(out, &f->total.sum);
    mk_buf_putc(out, '}');
}

void mk_openai_fail(mk_openai_frame *f, const mk_err *error, mk_buf *out) {
    f->failed = true;
    if (f->info.ask->stream) {
        mk_wire_sse_begin(out, NULL);
    }
    mk_openai_error(mk_error_http_status(error->code), error, out);
    if (f->info.ask->stream) {
        mk_wire_sse_end(out);
    }
}

void mk_openai_finish(mk_openai_frame *f, mk_writer_state *w, mk_buf *out) {
    const mk_ask *ask = f->info.ask;
    if (f->failed) {
        return;
    }
    if (!ask->stream) {
        mk_openai_add_head(f, out);
        for (int i = 0; i < mk_ask_choices(ask); i++) {
            mk_buf_puts(out, i ? "," : "");
            f->add_choice(w, i, out);
        }
        add_total(f, out);
        return;
    }
    if (ask->include_usage) {
        mk_wire_sse_begin(out, NULL);
        mk_openai_add_head(f, out);
        add_total(f, out);
        mk_wire_sse_end(out);
    }
    mk_buf_puts(out, "data: [DONE]\n\n");
}

void mk_openai_frame_heartbeat(const mk_openai_frame *f, mk_buf *out) {
    if (f->info.ask->stream && !f->failed) {
        mk_openai_heartbeat(out);
    }
}
