// See call_frame.h.
#include "chat/call_frame.h"

#include <string.h>

#include "base/alloc.h"
#include "chat/call_frame_int.h"
#include "chat/encode.h"

enum {
    MAX_CALLS = 3,
    N_PART = sizeof((mk_call_frame *)0)->part / sizeof(mk_buf),
    MAX_NAME = 128,
    MAX_TRIGGER = 48
};

typedef mk_call_how how;

// --- rendering -----------------------------------------------------------------------------------
static json_t *marked_args(mk_call_args args) {
    switch (args) {
    case MK_ARGS_NO:
        return json_object();
    case MK_ARGS_TWO:
        return json_pack("{s:s, s:s}", ARG_KEY, ARG_VALUE, ARG_AGAIN, ARG_VALUE);
    case MK_ARGS_NUMBER:
        return json_pack("{s:i}", ARG_KEY, ARG_NUMBER);
    case MK_ARGS_LIST:
        return json_pack("{s:[s]}", ARG_KEY, ARG_VALUE);
    default:
        return json_pack("{s:s}", ARG_KEY, ARG_VALUE);
    }
}

static json_t *one_call(const how *h, int i) {
    json_t *args =
        h->as_text ? json_string("{\"" ARG_KEY "\": \"" ARG_VALUE "\"}") : marked_args(h->args);
    json_t *id = h->long_id ? json_sprintf("functions." MK_CALL_NAME ":%d", i)
                            : json_sprintf("mkcall%03d", i);
    return json_pack("{s:o, s:s, s:{s:s, s:o}}", "id", id, "type", "function", "function", "name",
                     MK_CALL_NAME, "arguments", args);
}

static json_t *marked_tools(void) {
    return json_pack("[{s:s, s:{s:s, s:s, s:{s:s, s:{s:{s:s, s:s}, s:{s:s, s:s}}, s:[s]}}}]",
                     "type", "function", "function", "name", MK_CALL_NAME, "description", "d",
                     "parameters", "type", "object", "properties", ARG_KEY, "type", "string",
                     "description", "d", ARG_AGAIN, "type", "string", "description", "d",
                     "required", ARG_KEY);
}

// The question, and behind it the calls if there are any.
static mk_status render(const mk_chat_template *t, const how *h, mk_jinja_text *out, mk_err *err) {
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "?");
    json_t *calls = json_array(), *tools = marked_tools();
    for (int i = 0; i < h->n_call; i++) {
        (void)json_array_append_new(calls, one_call(h, i));
    }
    if (h->n_call > 0) {
        json_t *content = h->null_content ? json_null() : json_string("");
        (void)json_array_append_new(messages, json_pack("{s:s, s:o, s:O}", "role", "assistant",
                                                        "content", content, "tool_calls", calls));
    }
    mk_chat_render_opts o = MK_CHAT_RENDER_DEFAULTS;
    o.add_generation_prompt = h->n_call == 0;
    mk_status st = mk_chat_template_render(t, messages, tools, &o, out, err);
    json_decref(messages);
    json_decref(calls);
    json_decref(tools);
    return st;
}

// --- cutting out ---------------------------------------------------------------------------------
static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static size_t trimmed(const char *p, size_t n) {
    while (n > 0 && is_space(p[n - 1])) {
        n--;
    }
    return n;
}

static bool ends_with(const char *p, size_t n, const char *tag) {
    size_t k = strlen(tag);
    return n >= k && memcmp(p + n - k, tag, k) == 0;
}

static bool begins_with(const char *p, size_t n, const char *tag) {
    size_t k = strlen(tag);
    return n >= k && memcmp(p, tag, k) == 0;
}

// The length of a prompt without the reasoning that it opens, or opens and closes.
static size_t without_reasoning(const char *p, size_t n, const char *open, const char *close) {
    n = trimmed(p, n);
    if (ends_with(p, n, close)) {
        n = trimmed(p, n - strlen(close));
    }
    if (ends_with(p, n, open)) {
        n = trimmed(p, n - strlen(open));
    }
    return n;
}

static size_t skip_space(const char *p, size_t at, size_t n) {
    while (at < n && is_space(p[at])) {
        at++;
    }
    return at;
}

// Where in the rendered conversation the answer proper begins; false: it does not begin with the
// prompt.
static bool find_answer(const mk_buf *prompt, const mk_buf *full, const mk_parse_opts *po,
                        size_t *from) {
    const char *open = po->think_open ? po->think_open : "<think>";
    const char *close = po->think_close ? po->think_close : "</think>";
    size_t n = without_reasoning(prompt->data, prompt->len, open, close);
    if (n > full->len || memcmp(prompt->data, full->data, n) != 0) {
        return false;
    }
    size_t at = skip_space(full->data, n, full->len);
    if (begins_with(full->data + at, full->len - at, open)) {
        const char *end = memmem(full->data + at, full->len - at, close, strlen(close));
        at = end ? (size_t)(end - full->data) : at;
    }
    if (begins_with(full->data + at, full->len - at, close)) {
        at += strlen(close);
    }
    *from = skip_space(full->data, at, full->len);
    return true;
}

mk_status mk_call_spelled(const mk_chat_template *t, const mk_tokenizer *tok, const how *h,
                          mk_buf *out, mk_err *err) {
    mk_jinja_text prompt = {0}, full = {0};
    mk_parse_opts po = {0};
    mk_ids ids = {0};
    mk_err own;
    size_t from = 0;
    json_t *tools = marked_tools();
    mk_parse_detect(mk_chat_template_text_for(t, tools), &po);
    json_decref(tools);
    mk_buf_clear(out);
    mk_status st = render(t, &(how){0}, &prompt, &own);
    st = st == MK_OK ? render(t, h, &full, &own) : st;
    if (st == MK_OK && full.text.len > 0 && prompt.text.len > 0 &&
        find_answer(&prompt.text, &full.text, &po, &from)) {
        st = mk_chat_encode(tok, &full, from, full.text.len, &ids, err);
        mk_grammar_spell(tok, ids.data, ids.n, out);
        if (out->failed) {
            st = MK_FAIL(err, MK_ENOMEM, "no memory for what a tool call looks like");
        }
    } else {
        st = MK_OK;
    }
    mk_ids_free(&ids);
    mk_jinja_text_free(&prompt);
    mk_jinja_text_free(&full);
    return st;
}

// --- taking apart --------------------------------------------------------------------------------
typedef mk_call_span span;

const char *mk_call_find(const mk_buf *b, size_t from, const char *what) {
    return b->data && from <= b->len ? memmem(b->data + from, b->len - from, what, strlen(what))
                                     : NULL;
}

// The next arguments written as {"key": "value"}.
static bool find_args(const mk_buf *b, size_t from, span *s) {
    const char *at = b->data ? mk_call_find(b, from, "\"" ARG_KEY "\"") : NULL;
    if (!at) {
        return false;
    }
    size_t k = trimmed(b->data, (size_t)(at - b->data));
    if (k <= from || b->data[k - 1] != '{') {
        return false;
    }
    s->from = k - 1;
    k = skip_space(b->data, (size_t)(at - b->data) + strlen("\"" ARG_KEY "\""), b->len);
    if (k >= b->len || b->data[k] != ':') {
        return false;
    }
    k = skip_space(b->data, k + 1, b->len);
    if (!begins_with(b->data + k, b->len - k, "\"" ARG_VALUE "\"")) {
        return false;
    }
    k = skip_space(b->data, k + strlen("\"" ARG_VALUE "\""), b->len);
    s->to = k + 1;
    return k < b->len && b->data[k] == '}';
}

size_t mk_call_turn_end(const mk_tokenizer *tok, const mk_buf *b, size_t from) {
    for (size_t i = from; i + MK_GRAMMAR_TOKEN_BYTES <= b->len; i++) {
        if ((unsigned char)b->data[i] == MK_GRAMMAR_TOKEN) {
            if (mk_tokenizer_is_eog(tok, mk_grammar_spelled_token(b->data + i))) {
                return i;
            }
            i += MK_GRAMMAR_TOKEN_BYTES - 1;
        }
    }
    size_t n = trimmed(b->data, b->len);
    return n > from ? n : from;
}

static bool has_text(const mk_buf *b, span s, const char *what) {
    return memmem(b->data + s.from, s.to - s.from, what, strlen(what)) != NULL;
}

static bool same(const mk_buf *a, span x, const mk_buf *b, span y) {
    size_t n = x.to - x.from;
    return n == y.to - y.from && memcmp(a->data + x.from, b->data + y.from, n) == 0;
}

void mk_call_put(mk_buf *out, const mk_buf *b, span s) {
    mk_buf_clear(out);
    mk_buf_add(out, b->data + s.from, s.to - s.from);
}

void mk_call_set_trigger(mk_call_frame *f, const mk_buf *b, size_t end) {
    size_t n = 0;
    const char *p = b->data;
    if (end > 0 && (unsigned char)p[0] == MK_GRAMMAR_TOKEN) {
        n = MK_GRAMMAR_TOKEN_BYTES;
    } else if (end > 0 && (p[0] == '<' || p[0] == '[')) {
        const char *close = memchr(p, p[0] == '<' ? '>' : ']', end);
        n = close ? (size_t)(close - p) + 1 : end;
        const char *eq = memchr(p, '=', n);
        n = eq ? (size_t)(eq - p) + 1 : n;
    } else if (end > 0 && p[0] == '{') {
        n = 1;
    } else {
        while (n < end && p[n] > ' ' && !strchr("{[<", p[n]) &&
               (unsigned char)p[n] != MK_GRAMMAR_TOKEN) {
            n++;
        }
    }
    const char *name = memmem(p, end, MK_CALL_NAME, strlen(MK_CALL_NAME));
    size_t most = name ? (size_t)(name - p) : end;
    n = n < most ? n : most;
    mk_call_put(&f->trigger, b, (span){0, n < MAX_TRIGGER ? n : MAX_TRIGGER});
}

// One call, taken apart.  False: not with arguments in JSON behind the name.
static bool take_one(mk_call_frame *f, const mk_tokenizer *tok, const mk_buf *b) {
    span args;
    const char *name = b->data ? mk_call_find(b, 0, MK_CALL_NAME) : NULL;
    if (!name) {
        return false;
    }
    size_t at = (size_t)(name - b->data);
    if (!f->has_calls) {
        mk_call_set_trigger(f, b, mk_call_turn_end(tok, b, at));
    }
    f->has_calls = true;
    if (!find_args(b, 0, &args)) {
        f->why_not = "the model does not write the arguments of calls as JSON";
        return false;
    }
    span first = {0, args.from}, tail = {args.to, mk_call_turn_end(tok, b, args.to)};
    if (!has_text(b, first, MK_CALL_NAME)) {
        f->why_not = "the model writes the name of a tool behind its arguments";
        return false;
    }
    if (mk_call_turn_end(tok, b, 0) < args.from) {
        f->why_not = "the model's answer ends before the arguments of a call";
        return false;
    }
    mk_call_set_trigger(f, b, args.from);
    mk_call_put(&f->first, b, first);
    mk_call_put(&f->tail, b, tail);
    f->kind = MK_CALLS_JSON;
    f->max = 1;
    return true;
}

// Several calls: what stands between them, if it is the same text in front of each and the rest is
// as with one call.
static void take_more(mk_call_frame *f, const mk_tokenizer *tok, const mk_buf *b) {
    span args[MAX_CALLS] = {{0, 0}};
    for (int i = 0; i < MAX_CALLS; i++) {
        if (!b->data || !find_args(b, i > 0 ? args[i - 1].to : 0, &args[i])) {
            return;
        }
    }
    span first = {0, args[0].from}, tail = {args[2].to, mk_call_turn_end(tok, b, args[2].to)};
    span next = {args[0].to, args[1].from}, last = {args[1].to, args[2].from};
    if (!same(b, first, &f->first, (span){0, f->first.len}) ||
        !same(b, tail, &f->tail, (span){0, f->tail.len}) || !has_text(b, next, MK_CALL_NAME) ||
        mk_call_turn_end(tok, b, 0) < args[2].from) {
        return;
    }
    mk_call_put(&f->next, b, next);
    f->max = same(b, next, b, last) ? 0 : 2;  // a number that counts up: as far as it was seen
}

// --- reading it back -----------------------------------------------------------------------------
static void note_call(void *arg, const mk_answer_event *ev) {
    bool *seen = arg;
    *seen = *seen || (ev->kind == MK_AE_TOOL_BEGIN && strcmp(ev->name, MK_CALL_NAME) == 0);
}

// A spelled text as the model's tokens would reach the parser.
static mk_status push_spelled(mk_parser *p, const mk_tokenizer *tok, const mk_buf *b, mk_err *err) {
    size_t end = mk_call_turn_end(tok, b, 0);
    for (size_t i = 0; i < end;) {
        size_t n = 1;
        if ((unsigned char)b->data[i] == MK_GRAMMAR_TOKEN) {
            int32_t id = mk_grammar_spelled_token(b->data + i);
            const char *piece = mk_tokenizer_piece(tok, id, &n);
            bool wanted = mk_tokenizer_type(tok, id) != MK_TOKEN_CONTROL ||
                          (piece && mk_parser_wants(p, piece, n));
            MK_TRY(piece && wanted ? mk_parser_push(p, piece, n, err) : MK_OK);
            n = MK_GRAMMAR_TOKEN_BYTES;
        } else {
            MK_TRY(mk_parser_push(p, b->data + i, n, err));
        }
        i += n;
    }
    return mk_parser_finish(p, err);
}

// Is what the template writes a call to the parser, too?  What is not would be forced upon the
// model and then be given out as text.
static mk_status reads_back(const mk_chat_template *t, const mk_tokenizer *tok, const mk_buf *b,
                            bool *ok, mk_err *err) {
    json_t *tools = marked_tools();
    mk_parse_opts po = {.tools = tools, .no_reasoning = true};
    mk_parser *p = NULL;
    *ok = false;
    mk_parse_detect(mk_chat_template_text_for(t, tools), &po);
    mk_status st = mk_parser_create(&po, note_call, ok, &p, err);
    st = st == MK_OK ? push_spelled(p, tok, b, err) : st;
    mk_parser_destroy(p);
    json_decref(tools);
    return st;
}

// --- the frame -----------------------------------------------------------------------------------
static mk_status try_how(const mk_chat_template *t, const mk_tokenizer *tok, how h,
                         mk_call_frame *f, mk_err *err) {
    mk_buf text;
    mk_buf_init(&text, MK_CALL_TEXT_MAX);
    h.n_call = 1;
    mk_status st = mk_call_spelled(t, tok, &h, &text, err);
    bool taken = st == MK_OK && take_one(f, tok, &text), read = taken;
    st = taken ? reads_back(t, tok, &text, &read, err) : st;
    if (taken && !read) {
        f->kind = MK_CALLS_OPEN;
        f->why_not =
            "calls in the way that the model's chat template writes them are not read here";
    } else if (st == MK_OK && taken) {
        h.n_call = MAX_CALLS;
        st = mk_call_spelled(t, tok, &h, &text, err);
        if (st == MK_OK) {
            take_more(f, tok, &text);
        }
    }
    mk_buf_free(&text);
    return st;
}

// Every way to write the conversation, until one shows the calls.
static mk_status try_all(const mk_chat_template *t, const mk_tokenizer *tok, mk_parse_writing w,
                         mk_call_frame *f, mk_err *err) {
    mk_status st = MK_OK;
    for (unsigned i = 0; i < 8 && st == MK_OK && f->kind == MK_CALLS_OPEN; i++) {
        how h = {.null_content = i & 1, .long_id = !(i & 2), .as_text = i & 4};
        if (h.as_text && f->has_calls) {
            break;  // it takes values, and made something else than JSON of them
        }
        st = try_how(t, tok, h, f, err);
        if (st == MK_OK && f->has_calls && f->kind == MK_CALLS_OPEN && w.kind != MK_PARSE_JSON) {
            st = mk_call_params(t, tok, &h, w, f, err);
        }
    }
    if (st == MK_OK && !f->has_calls && w.kind == MK_PARSE_PYTHON && w.open[0] != 0) {
        st = mk_call_python(tok, w, f, err);
    }
    return st;
}

mk_status mk_call_frame_find(const mk_chat_template *t, const mk_tokenizer *tok, mk_call_frame *out,
                             mk_err *err) {
    *out = (mk_call_frame){.why_not = "the model's chat template writes no tool calls"};
    mk_buf *all[] = {&out->first, &out->next, &out->tail, &out->trigger};
    for (size_t i = 0; i < 4; i++) {
        mk_buf_init(all[i], MK_CALL_TEXT_MAX);
    }
    for (size_t i = 0; i < N_PART; i++) {
        mk_buf_init(&out->part[i], MK_CALL_TEXT_MAX);
    }
    mk_parse_opts po = {0};
    json_t *tools = marked_tools();
    mk_parse_detect(t ? mk_chat_template_text_for(t, tools) : NULL, &po);
    json_decref(tools);
    mk_status st = mk_parse_format_has_headers(po.format) ? mk_call_headers(tok, out, err)
                   : t ? try_all(t, tok, mk_parse_format_writing(po.format), out, err)
                       : MK_OK;
    bool failed = false;
    for (size_t i = 0; i < 4; i++) {
        failed = failed || all[i]->failed;
    }
    for (size_t i = 0; i < N_PART; i++) {
        failed = failed || out->part[i].failed;
    }
    return st == MK_OK && failed
               ? MK_FAIL(err, MK_ENOMEM, "no memory for what a tool call looks like")
               : st;
}

void mk_call_frame_free(mk_call_frame *f) {
    mk_buf_free(&f->first);
    mk_buf_free(&f->next);
    mk_buf_free(&f->tail);
    mk_buf_free(&f->trigger);
    for (size_t i = 0; i < N_PART; i++) {
        mk_buf_free(&f->part[i]);
    }
}

bool mk_call_name_fits(const char *name) {
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t n = strlen(name);
    return n > 0 && n <= MAX_NAME && strspn(name, ok) == n;
}

char *mk_call_frame_text(const mk_buf *text, const char *name) {
    mk_buf out;
    mk_buf_init(&out, 2 * MK_CALL_TEXT_MAX);
    size_t at = 0, k = strlen(MK_CALL_NAME);
    const char *p;
    while (text->data && (p = mk_call_find(text, at, MK_CALL_NAME)) != NULL) {
        mk_buf_add(&out, text->data + at, (size_t)(p - text->data) - at);
        mk_buf_puts(&out, name);
        at = (size_t)(p - text->data) + k;
    }
    mk_buf_add(&out, text->data ? text->data + at : "", text->data ? text->len - at : 0);
    mk_buf_puts(&out, "");
    if (!out.failed && !out.data) {
        return mk_strdup("");
    }
    return mk_buf_detach(&out);
}
