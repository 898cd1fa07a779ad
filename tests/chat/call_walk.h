// What tests of tool calls share: a vocabulary with the marks of many families, published
// templates, and answers of random allowed tokens that the parser reads back.
#ifndef MK_TESTS_CHAT_CALL_WALK_H
#define MK_TESTS_CHAT_CALL_WALK_H

#include "chat/call_frame.h"
#include "chat/chat_util.h"
#include "chat/parse.h"

// Marks of many families at once; those from <|im_end|> on end an answer.
static const char *const marks[] = {"<tool_call>",
                                    "</tool_call>",
                                    "<think>",
                                    "</think>",
                                    "[TOOL_CALLS]",
                                    "[ARGS]",
                                    "[CALL_ID]",
                                    "<|tool_calls_section_begin|>",
                                    "<|tool_calls_section_end|>",
                                    "<|tool_call_begin|>",
                                    "<|tool_call_end|>",
                                    "<|tool_call_argument_begin|>",
                                    "<｜tool▁calls▁begin｜>",
                                    "<｜tool▁calls▁end｜>",
                                    "<｜tool▁call▁begin｜>",
                                    "<｜tool▁call▁end｜>",
                                    "<｜tool▁sep｜>",
                                    "<|START_ACTION|>",
                                    "<|END_ACTION|>",
                                    "<|START_THINKING|>",
                                    "<|END_THINKING|>",
                                    "<|tools_prefix|>",
                                    "<|tools_suffix|>",
                                    "<|inner_prefix|>",
                                    "<|inner_suffix|>",
                                    "<|function_call|>",
                                    "<|python_tag|>",
                                    "<|start_header_id|>",
                                    "<|end_header_id|>",
                                    "<|im_start|>",
                                    "<|tool_call>",
                                    "<tool_call|>",
                                    "<|turn>",
                                    "<｜Assistant｜>",
                                    "<｜User｜>",
                                    "<tool_calls>",
                                    "</tool_calls>",
                                    "<|role_sep|>",
                                    "<|begin_assistant|>",
                                    "<|start|>",
                                    "<|channel|>",
                                    "<|message|>",
                                    "<|constrain|>",
                                    "<|return|>",
                                    "<|im_end|>",
                                    "</s>",
                                    "<｜end▁of▁sentence｜>",
                                    "<|eot_id|>",
                                    "<|eom_id|>",
                                    "<|call|>",
                                    "<seed:eos>",
                                    "<turn|>",
                                    "<|end|>",
                                    "<|message_sep|>",
                                    "<|END_OF_TURN_TOKEN|>",
                                    "<|assistant_end|>",
                                    "<|endoftext|>"};

// A golden tokenizer with tokens that end an answer; and with all the marks as tokens of their own.
static inline mk_tokenizer *load(const char *name, bool with_marks) {
    size_t n;
    char *text = tokenizer_text(name, &n);
    mk_tokenizer *t = NULL;
    mk_err err = {0};
    json_t *j = parse(text);
    mk_free(text);
    json_t *added = json_object_get(j, "added_tokens");
    json_int_t next = 0;
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(json_object_get(j, "model"), "vocab"), key, v) {
        next = json_integer_value(v) >= next ? json_integer_value(v) + 1 : next;
    }
    size_t i;
    json_array_foreach(added, i, v) {
        json_int_t id = json_integer_value(json_object_get(v, "id"));
        next = id >= next ? id + 1 : next;
    }
    bool ends = false;
    for (i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        ends = ends || strcmp(marks[i], "<|im_end|>") == 0;
        if (!ends && !with_marks) {
            continue;
        }
        json_array_append_new(added, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", next++,
                                               "content", marks[i], "special", 1, "lstrip", 0,
                                               "rstrip", 0, "single_word", 0, "normalized", 0));
    }
    char *all = json_dumps(j, 0);
    if (mk_tokenizer_from_json(all, strlen(all), &t, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    free(all);
    json_decref(j);
    return t;
}

// The bytes of a grammar for people: tokens as their names in guillemets.
static inline char *shown(const mk_tokenizer *t, const mk_buf *b) {
    mk_buf out;
    mk_buf_init(&out, 1 << 20);
    for (size_t i = 0; i < b->len; i++) {
        if ((unsigned char)b->data[i] == MK_GRAMMAR_TOKEN) {
            size_t n;
            const char *p = mk_tokenizer_piece(t, mk_grammar_spelled_token(b->data + i), &n);
            mk_buf_puts(&out, "«");
            mk_buf_add(&out, p, n);
            mk_buf_puts(&out, "»");
            i += MK_GRAMMAR_TOKEN_BYTES - 1;
        } else if (b->data[i] == '\n') {
            mk_buf_puts(&out, "\\n");
        } else {
            mk_buf_add(&out, b->data + i, 1);
        }
    }
    mk_buf_puts(&out, "");
    return out.data ? mk_buf_detach(&out) : mk_strdup("");
}

static inline void find_frame(const mk_chat_template *t, const mk_tokenizer *tok,
                              mk_call_frame *f) {
    mk_err err = {0};
    if (mk_call_frame_find(t, tok, f, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
}

static inline void assert_shown(const mk_tokenizer *t, const mk_buf *b, const char *want,
                                const char *name) {
    char *got = shown(t, b);
    mk_buf whole;
    mk_buf_init(&whole, 1 << 20);
    for (const char *p = got; *p;) {
        size_t k = strlen(MK_CALL_NAME);
        bool is = strncmp(p, MK_CALL_NAME, k) == 0;
        mk_buf_add(&whole, is ? "T" : p, 1);
        p += is ? k : 1;
    }
    mk_buf_puts(&whole, "");
    const char *have = whole.data ? whole.data : "";
    if (strcmp(have, want) != 0) {
        fail_msg("%s:\n  got  %s\n  want %s", name, have, want);
    }
    mk_buf_free(&whole);
    mk_free(got);
}

// --- answers of random tokens --------------------------------------------------------------------

static const char weather_text[] =
    "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\",\"maxLength\":12},"
    "\"days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":14},\"unit\":{\"enum\":[\"C\",\"F\"]}"
    "},"
    "\"required\":[\"city\",\"days\"],\"additionalProperties\":false}";
static const char now_text[] =
    "{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}";

static inline bool fits(const char *name, const json_t *args) {
    const json_t *city = json_object_get(args, "city"), *days = json_object_get(args, "days");
    const char *unit = json_string_value(json_object_get(args, "unit"));
    size_t n = json_object_size(args);
    if (!json_is_object(args) || strcmp(name, "now") == 0) {
        return json_is_object(args) && n == 0;
    }
    return strcmp(name, "get_weather") == 0 && json_is_string(city) && json_is_integer(days) &&
           json_integer_value(days) >= 1 && json_integer_value(days) <= 14 &&
           n == (unit ? 3u : 2u) && (!unit || strcmp(unit, "C") == 0 || strcmp(unit, "F") == 0);
}

typedef struct {
    mk_buf text, args;
    char name[64];
    int n_call, n_bad, n_end;
} heard;

static inline void listen(void *arg, const mk_answer_event *ev) {
    heard *h = arg;
    if (ev->kind == MK_AE_TEXT) {
        mk_buf_add(&h->text, ev->text, ev->n);
    } else if (ev->kind == MK_AE_TOOL_BEGIN) {
        snprintf(h->name, sizeof h->name, "%s", ev->name);
        mk_buf_clear(&h->args);
        h->n_call++;
    } else if (ev->kind == MK_AE_TOOL_ARGS) {
        mk_buf_add(&h->args, ev->text, ev->n);
    } else if (ev->kind == MK_AE_TOOL_END) {
        json_t *args = NULL;
        mk_err err;
        bool read = h->args.data &&
                    mk_json_parse(h->args.data, h->args.len, "arguments", &args, &err) == MK_OK;
        h->n_bad += ev->broken || !read || !fits(h->name, args);
        h->n_end++;
        json_decref(args);
    }
}

typedef struct {
    const mk_tokenizer *tok;
    mk_token_trie *trie;
    const char *trigger;  // a token, taken at times where it may be
    size_t n_trigger;
    int limit;
} drive;

// One token: any that is allowed, after a while rather one that closes something.
static inline int32_t choose(const drive *d, const uint64_t *mask, int64_t n_vocab, int i,
                             bool end) {
    static int32_t allowed[1 << 16];
    int32_t n = 0;
    for (int32_t id = 0; id < n_vocab; id++) {
        if (mask[id / 64] >> (id % 64) & 1) {
            if (mk_tokenizer_is_eog(d->tok, id) && (end || i > 60)) {
                return id;
            }
            size_t len;
            const char *p = mk_tokenizer_piece(d->tok, id, &len);
            if (len == d->n_trigger && memcmp(p, d->trigger, len) == 0 && rng() % 4 == 0) {
                return id;
            }
            allowed[n++] = id;
        }
    }
    assert_true(n > 0);
    for (int k = 0; k < 60 && i > 40; k++) {
        size_t len;
        int32_t id = allowed[rng() % (uint64_t)n];
        const char *p = mk_tokenizer_piece(d->tok, id, &len);
        if (len > 0 && len < 3 && strchr("\"]}0123456789", p[0])) {
            return id;
        }
    }
    return allowed[rng() % (uint64_t)n];
}

// An answer of random allowed tokens through the parser; false: it became too long.
static inline bool run(const drive *d, mk_grammar *g, const mk_parse_opts *po, heard *h) {
    mk_err err = {0};
    mk_grammar_state *s;
    mk_parser *p;
    int64_t n_vocab = mk_tokenizer_n_vocab(d->tok);
    size_t n_word = ((size_t)n_vocab + 63) / 64;
    uint64_t *mask = mk_alloc(n_word * sizeof *mask);
    mk_detok *detok = mk_detok_create(d->tok, true);
    *h = (heard){0};
    mk_buf_init(&h->text, 1 << 20);
    mk_buf_init(&h->args, 1 << 20);
    assert_int_equal(mk_grammar_start(g, d->trie, &s, &err), MK_OK);
    assert_int_equal(mk_parser_create(po, listen, h, &p, &err), MK_OK);
    bool ended = false;
    for (int i = 0; i < d->limit && !ended; i++) {
        memset(mask, 0xff, n_word * sizeof *mask);
        assert_int_equal(mk_grammar_mask(s, mask, n_vocab, &err), MK_OK);
        int32_t id = choose(d, mask, n_vocab, i, rng() % 3 == 0);
        if (mk_grammar_accept(s, id, &err) != MK_OK) {
            fail_msg("token %d: %s", (int)id, err.msg);
        }
        ended = mk_tokenizer_is_eog(d->tok, id);
        if (!ended) {
            assert_int_equal(mk_parse_token(p, detok, d->tok, id, &err), MK_OK);
        }
    }
    const char *rest = NULL;
    size_t n = 0;
    mk_detok_finish(detok, &rest, &n);
    assert_int_equal(mk_parser_push(p, rest, n, &err), MK_OK);
    assert_int_equal(mk_parser_finish(p, &err), MK_OK);
    mk_parser_destroy(p);
    mk_detok_destroy(detok);
    mk_grammar_state_destroy(s);
    mk_free(mask);
    return ended;
}

static inline void stop_listening(heard *h) {
    mk_buf_free(&h->text);
    mk_buf_free(&h->args);
}

static inline json_t *two_tools(void) {
    return json_pack("[{s:s, s:{s:s, s:s, s:o}}, {s:s, s:{s:s, s:s, s:o}}]", "type", "function",
                     "function", "name", "get_weather", "description", "d", "parameters",
                     parse(weather_text), "type", "function", "function", "name", "now",
                     "description", "d", "parameters", parse(now_text));
}

// A grammar for two tools; c: what else is asked for.
static inline mk_grammar *compile(const mk_call_frame *f, const json_t *tools, mk_grammar_calls c) {
    mk_err err = {0};
    mk_grammar *g = NULL;
    mk_grammar_call call[2];
    for (size_t i = 0; i < 2; i++) {
        const json_t *fn = json_object_get(json_array_get(tools, i), "function");
        const char *name = json_string_value(json_object_get(fn, "name"));
        call[i] = (mk_grammar_call){.first = mk_call_frame_text(&f->first, name),
                                    .next = mk_call_frame_text(&f->next, name),
                                    .schema = json_object_get(fn, "parameters"),
                                    .where = "/tools/0/function/parameters"};
    }
    c.call = call;
    c.n = 2;
    c.tail = f->tail.data;
    c.trigger = f->trigger.data;
    c.params = f->kind == MK_CALLS_PARAMS ? &f->params : NULL;
    c.headers = f->kind == MK_CALLS_HEADERS ? &f->headers : NULL;
    if (mk_grammar_from_calls(&c, NULL, &g, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    for (size_t i = 0; i < 2; i++) {
        mk_free((void *)(uintptr_t)call[i].first);
        mk_free((void *)(uintptr_t)call[i].next);
    }
    return g;
}

typedef struct {
    int n_answer, n_call, n_call_max, n_text;
} totals;

// Answers of one family.
static inline void drive_file(const char *file, const mk_tokenizer *tok, mk_token_trie *trie,
                              mk_grammar_calls c, totals *sum) {
    mk_chat_template *t = read_template(file);
    json_t *tools = two_tools();
    mk_parse_opts po = {0};
    mk_call_frame f;
    find_frame(t, tok, &f);
    mk_parse_detect(mk_chat_template_text_for(t, tools), &po);
    po.tools = tools;
    mk_grammar *g = compile(&f, tools, c);
    drive d = {.tok = tok, .trie = trie, .limit = 600};
    if (f.kind == MK_CALLS_HEADERS) {  // what ends the reasoning, else no answer does
        mk_buf_puts(&f.trigger, "<|end|>");
    }
    d.n_trigger = f.trigger.len;
    d.trigger =
        f.trigger.len && (unsigned char)f.trigger.data[0] == MK_GRAMMAR_TOKEN
            ? mk_tokenizer_piece(tok, mk_grammar_spelled_token(f.trigger.data), &d.n_trigger)
            : f.trigger.data;
    for (int k = 0; k < 6; k++) {
        heard h;
        bool ended = run(&d, g, &po, &h);
        size_t n_text = h.text.len;
        if (ended && (h.n_bad > 0 || h.n_end != h.n_call || (c.max && h.n_call > (int)c.max) ||
                      (!c.may_be_text && (h.n_call == 0 || n_text > 0)))) {
            fail_msg("%s: %d calls, %d bad, text: %s, last %s(%s)", file, h.n_call, h.n_bad,
                     n_text ? h.text.data : "", h.name, h.args.data ? h.args.data : "");
        }
        sum->n_answer += ended;
        sum->n_call += ended ? h.n_call : 0;
        sum->n_text += ended && n_text > 0;
        sum->n_call_max = ended && h.n_call > sum->n_call_max ? h.n_call : sum->n_call_max;
        stop_listening(&h);
    }
    mk_grammar_unref(g);
    mk_call_frame_free(&f);
    json_decref(tools);
    mk_chat_template_destroy(t);
}

#endif
