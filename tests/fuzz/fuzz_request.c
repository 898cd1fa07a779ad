// A hostile request body in every OpenAI dialect, and for what is taken a small answer, streamed
// and whole: what is written is JSON.  The first byte chooses the dialect.
// libfuzzer: -max_len=4096
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/dialect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const mk_dialect *const dialects[] = {
    &mk_dialect_openai_chat,
    &mk_dialect_openai_completions,
    &mk_dialect_openai_responses,
};

static void check_json(const char *p, size_t n) {
    json_t *v = NULL;
    if (mk_json_parse(p, n, "answer", &v, NULL) != MK_OK) {
        abort();
    }
    json_decref(v);
}

// Every data line of a stream but the last is JSON.
static void check_stream(const mk_buf *b) {
    const char *p = b->data, *end = p + b->len;
    while (p < end) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        if (!line) {
            abort();
        }
        if (line - p > 6 && memcmp(p, "data: ", 6) == 0 && p[6] != '[') {
            check_json(p + 6, (size_t)(line - p) - 6);
        }
        p = line + 1;
    }
}

static void answer(const mk_dialect *d, const mk_ask *a) {
    static const mk_answer_event events[] = {
        {.kind = MK_AE_START},
        {.kind = MK_AE_TOKEN, .id = 5, .logprob = -1},
        {.kind = MK_AE_REASONING, .text = "\x01\"", .n = 2},
        {.kind = MK_AE_TOOL_BEGIN, .call_id = "c", .name = "f"},
        {.kind = MK_AE_TOOL_ARGS, .text = "{\"", .n = 2},
        {.kind = MK_AE_TOOL_END},
        {.kind = MK_AE_TEXT, .text = "\xC3\xA9", .n = 2},
        {.kind = MK_AE_DONE, .stop = MK_STOP_END},
    };
    mk_reply_info info = {.id = "0", .model = a->model ? a->model : "m", .ask = a};
    mk_buf out;
    mk_buf_init(&out, 1 << 26);
    mk_writer_state *w = d->open(&info);
    for (int c = 0; c < a->n; c++) {
        for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
            d->event(w, c, &events[i], &out);
        }
    }
    d->finish(w, &out);
    d->close(w);
    if (out.failed || !out.data) {
        abort();
    }
    if (a->stream) {
        check_stream(&out);
    } else {
        check_json(out.data, out.len);
    }
    mk_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    json_t *body = NULL;
    if (n < 1 || mk_json_parse((const char *)data + 1, n - 1, "body", &body, NULL) != MK_OK) {
        return 0;
    }
    const mk_dialect *d = dialects[data[0] % (sizeof dialects / sizeof dialects[0])];
    mk_ask a;
    mk_err err = {0};
    mk_ask_init(&a);
    if (d->parse(body, &a, &err) == MK_OK) {
        answer(d, &a);
        a.stream = !a.stream;
        answer(d, &a);
    } else if (err.msg[0] != '/') {
        abort();  // no place
    } else {
        mk_buf out;
        mk_buf_init(&out, 1 << 16);
        d->error(mk_error_http_status(err.code), &err, &out);
        check_json(out.data, out.len);
        mk_buf_free(&out);
    }
    mk_ask_free(&a);
    json_decref(body);
    return 0;
}
