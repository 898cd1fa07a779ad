// A hostile answer for every format: cut at random places it must give the events of the whole, in
// an order that clients can read, with arguments that are JSON objects unless they are broken.
// First byte: the format; second: the state at the start; third: where to cut.
// libfuzzer: -max_len=4096
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "chat/json_feed.h"
#include "chat/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

typedef struct {
    mk_buf line, args;
    mk_ae_kind kind;
    int n_calls;
    bool in_call;
} events;

static void require(bool ok) {
    if (!ok) {
        abort();
    }
}

static void take(void *arg, const mk_answer_event *ev) {
    events *e = arg;
    bool text = ev->kind == MK_AE_REASONING || ev->kind == MK_AE_TEXT;
    if (ev->kind == MK_AE_TOOL_ARGS) {
        require(e->in_call && ev->index == e->n_calls - 1 && ev->n > 0);
        mk_buf_add(&e->args, ev->text, ev->n);
        return;
    }
    if (!text || ev->kind != e->kind) {
        mk_buf_putc(&e->line, (char)('0' + (int)ev->kind));
    }
    e->kind = ev->kind;
    if (text) {
        require(!e->in_call && ev->n > 0);
        mk_buf_add(&e->line, ev->text, ev->n);
    } else if (ev->kind == MK_AE_TOOL_BEGIN) {
        require(!e->in_call && ev->index == e->n_calls++ && ev->name[0] != 0);
        mk_buf_puts(&e->line, ev->name);
        mk_buf_clear(&e->args);
        e->in_call = true;
    } else {
        require(e->in_call && ev->kind == MK_AE_TOOL_END && ev->index == e->n_calls - 1);
        bool object = e->args.len > 0 && e->args.data[0] == '{';
        require(ev->broken || (object && mk_json_is_value(e->args.data, e->args.len, NULL)));
        mk_buf_add(&e->line, e->args.data, e->args.len);
        mk_buf_putc(&e->line, ev->broken ? '!' : '.');
        e->in_call = false;
    }
}

static json_t *tools;

static void start(void) {
    static const char text[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{"
        "\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"o\":{\"type\":[\"object\","
        "\"null\"]}}}}},{\"name\":\"g\"}]";
    require(mk_json_parse(text, sizeof text - 1, "tools", &tools, NULL) == MK_OK);
}

// cuts 0: all at once; else pieces of changing sizes.
static void parse(const mk_parse_opts *o, const char *text, size_t n, uint32_t cuts, events *e) {
    mk_parser *p;
    *e = (events){.kind = MK_AE_N};
    mk_buf_init(&e->line, 1 << 24);
    mk_buf_init(&e->args, 1 << 24);
    require(mk_parser_create(o, take, e, &p, NULL) == MK_OK);
    for (size_t at = 0; at < n;) {
        cuts = cuts * 1664525u + (cuts ? 1013904223u : 0);
        size_t k = cuts ? 1 + (cuts >> 24) % 9 : n;
        k = k < n - at ? k : n - at;
        require(mk_parser_push(p, text + at, k, NULL) == MK_OK);
        at += k;
    }
    require(mk_parser_finish(p, NULL) == MK_OK && !e->in_call);
    mk_parser_destroy(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int n_format = 0;
    events whole, cut;
    if (!tools) {
        start();
    }
    if (n < 3) {
        return 0;
    }
    while (mk_parse_format_at(n_format)) {
        n_format++;
    }
    mk_parse_opts o = {.format = mk_parse_format_at(data[0] % n_format),
                       .tools = data[1] & 1 ? NULL : tools,
                       .starts_inside = data[1] & 2,
                       .no_reasoning = data[1] & 4};
    const char *text = (const char *)data + 3;
    parse(&o, text, n - 3, 0, &whole);
    parse(&o, text, n - 3, 1u + data[2], &cut);
    require(whole.line.len == cut.line.len &&
            (whole.line.len == 0 || memcmp(whole.line.data, cut.line.data, cut.line.len) == 0));
    mk_buf_free(&whole.line);
    mk_buf_free(&whole.args);
    mk_buf_free(&cut.line);
    mk_buf_free(&cut.args);
    return 0;
}
