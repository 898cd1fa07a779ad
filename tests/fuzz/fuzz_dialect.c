// Any request to any dialect, and any answer to it: a request is refused with a pointer to what is
// wrong, or gives an ask in the promised shape; what the writer makes of the answer is JSON.
//
// The input: one byte chooses the dialect, the body up to the first NUL byte, then the answer, one
// byte per event and after some a byte with a length and a text.
// libfuzzer: -max_len=8192
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "serve/dialect.h"

static const mk_dialect *const dialects[] = {
    &mk_dialect_openai_chat, &mk_dialect_openai_completions, &mk_dialect_openai_responses,
    &mk_dialect_anthropic,   &mk_dialect_ollama_chat,        &mk_dialect_ollama_generate};

// --- requests ------------------------------------------------------------------------------------

static void check_message(const json_t *m) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const char *role = json_string_value(json_object_get(m, "role"));
    const json_t *content = json_object_get(m, "content"), *call;
    int known = 0;
    for (int i = 0; role && i < 4; i++) {
        known += strcmp(roles[i], role) == 0;
    }
    MK_ASSERT(known == 1 && (json_is_string(content) || json_is_null(content)));
    size_t i;
    json_array_foreach(json_object_get(m, "tool_calls"), i, call) {
        const json_t *f = json_object_get(call, "function");
        MK_ASSERT(json_is_string(json_object_get(call, "id")));
        MK_ASSERT(json_is_string(json_object_get(f, "name")));
        MK_ASSERT(json_is_string(json_object_get(f, "arguments")));
    }
}

static void check_ask(const mk_ask *a) {
    size_t i;
    const json_t *v;
    json_array_foreach(a->messages, i, v) {
        check_message(v);
    }
    json_array_foreach(a->tools, i, v) {
        const json_t *f = json_object_get(v, "function");
        MK_ASSERT(json_is_string(json_object_get(f, "name")));
        MK_ASSERT(json_is_object(json_object_get(f, "parameters")));
    }
    json_array_foreach(a->unknown, i, v) {
        MK_ASSERT(json_is_string(v));
    }
    MK_ASSERT(a->n_stop >= 0 && a->n_stop <= MK_ASK_MAX_STOP);
    MK_ASSERT(a->n >= 1 && a->n <= MK_ASK_MAX_N && a->n_predict >= -1);
    MK_ASSERT(mk_ask_choices(a) <= MK_ASK_MAX_CHOICE);
    MK_ASSERT(a->tool_choice != MK_TOOLS_NAMED || a->tool_name);
    MK_ASSERT(a->format != MK_FORMAT_SCHEMA || json_is_object(a->schema));
}

// --- answers -------------------------------------------------------------------------------------

typedef struct {
    const uint8_t *p;
    size_t n;
} bytes;

static int next(bytes *b) {
    int v = b->n > 0 ? *b->p : -1;
    b->p += b->n > 0;
    b->n -= b->n > 0;
    return v;
}

// A text of the input, or of its own when the input's bytes are not whole characters.
static void take_text(bytes *in, mk_answer_event *ev) {
    size_t n = (size_t)(next(in) + 1) % 32;
    n = n < in->n ? n : in->n;
    json_t *v = mk_json_text((const char *)in->p, n);
    static char text[4 * 32];
    ev->n = json_string_length(v);
    memcpy(text, json_string_value(v), ev->n);
    ev->text = text;
    in->p += n;
    in->n -= n;
    json_decref(v);
}

typedef struct {
    const mk_dialect *d;
    mk_writer_state *w;
    mk_buf out;
    bool in_call;
    int n_call;
} answer;

static void send_kind(answer *a, mk_ae_kind kind, mk_answer_event ev) {
    ev.kind = kind;
    ev.index = a->n_call;
    a->d->event(a->w, 0, &ev, &a->out);
}

static void end_call(answer *a) {
    if (a->in_call) {
        send_kind(a, MK_AE_TOOL_END, (mk_answer_event){0});
        a->in_call = false;
        a->n_call++;
    }
}

static void send_event(answer *a, int what, bytes *in) {
    static const mk_logprob top[2] = {{1, -0.5f}, {2, -1.5f}};
    mk_answer_event ev = {.call_id = "call_1", .name = "f", .logprob = -0.5f, .id = 1, .top = top};
    switch (what % 8) {
    case 0:
    case 1:
        end_call(a);
        take_text(in, &ev);
        send_kind(a, what % 8 ? MK_AE_TEXT : MK_AE_REASONING, ev);
        break;
    case 2:
        end_call(a);
        send_kind(a, MK_AE_TOOL_BEGIN, ev);
        a->in_call = true;
        break;
    case 3:
        take_text(in, &ev);
        if (a->in_call) {
            send_kind(a, MK_AE_TOOL_ARGS, ev);
        }
        break;
    case 4:
        end_call(a);
        break;
    case 5:
        a->d->heartbeat(a->w, &a->out);
        break;
    default:
        ev.n_top = what % 3;
        send_kind(a, MK_AE_TOKEN, ev);
    }
}

static void check_json(const char *p, size_t n) {
    json_t *v = NULL;
    mk_err err = {0};
    MK_ASSERT(mk_json_parse(p, n, "output", &v, &err) == MK_OK);
    json_decref(v);
}

// Every line of a stream that carries JSON carries valid JSON.
static void check_output(const mk_ask *ask, const mk_buf *out) {
    if (!ask->stream) {
        check_json(out->data, out->len);
        return;
    }
    for (const char *p = out->data; p && *p;) {
        size_t n = strcspn(p, "\n");
        const char *data = strncmp(p, "data: ", 6) == 0 ? p + 6 : p;
        if (*data == '{') {
            check_json(data, n - (size_t)(data - p));
        }
        MK_ASSERT(p[n] == '\n');
        p += n + 1;
    }
}

static void run_answer(const mk_dialect *d, const mk_ask *ask, bytes in) {
    mk_reply_info info = {
        .id = "0123456789abcdefghijklmn", .model = "m", .fingerprint = "f", .ask = ask};
    answer a = {.d = d, .w = d->open(&info)};
    mk_buf_init(&a.out, 1 << 26);
    bool fails = next(&in) == 0;
    for (int i = mk_ask_scores(ask) ? next(&in) % 64 : 0; i > 0; i--) {
        send_kind(&a, MK_AE_PROMPT, (mk_answer_event){.id = i, .logprob = -0.5f});
    }
    send_kind(&a, MK_AE_START, (mk_answer_event){0});
    while (in.n > 0) {
        send_event(&a, next(&in), &in);
    }
    mk_err err = {.code = MK_EIO, .msg = "disk \"full\""};
    for (int i = 0; i < ask->n; i++) {
        mk_answer_event ev = {.kind = fails ? MK_AE_ERROR : MK_AE_DONE, .error = &err};
        if (i == 0 && !fails) {
            end_call(&a);
        }
        if (i == 0 || !fails) {
            d->event(a.w, i, &ev, &a.out);
        }
    }
    d->finish(a.w, &a.out);
    d->close(a.w);
    MK_ASSERT(!a.out.failed);
    check_output(ask, &a.out);
    mk_buf_free(&a.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 1) {
        return 0;
    }
    const mk_dialect *d = dialects[data[0] % (sizeof dialects / sizeof dialects[0])];
    const char *body = (const char *)data + 1;
    size_t n_body = 0;
    while (1 + n_body < n && body[n_body]) {
        n_body++;
    }
    int64_t live = mk_alloc_live();
    json_t *v = NULL;
    mk_err err = {0};
    if (mk_json_parse(body, n_body, "body", &v, &err) != MK_OK) {
        return 0;
    }
    mk_ask ask;
    mk_ask_init(&ask);
    size_t from = 1 + n_body < n ? 2 + n_body : n;
    if (d->parse(v, &ask, &err) == MK_OK) {
        check_ask(&ask);
        run_answer(d, &ask, (bytes){data + from, n - from});
    } else {
        mk_buf out;
        mk_buf_init(&out, 1 << 16);
        MK_ASSERT(err.msg[0] == '/');
        d->error(mk_error_http_status(err.code), &err, &out);
        check_json(out.data, out.len);
        mk_buf_free(&out);
    }
    mk_ask_free(&ask);
    json_decref(v);
    MK_ASSERT(mk_alloc_live() == live);
    return 0;
}
