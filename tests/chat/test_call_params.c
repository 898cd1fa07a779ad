// Calls whose parameters stand one by one, and calls in headers: what the templates of the families
// write of a call is taken by the grammar and read back by the parser as it was; calls that the
// schema forbids are not taken, however the same template writes them.
#include "call_walk.h"

#include "chat/call_frame_int.h"
#include "chat/encode.h"
#include "parse_events.h"

static const struct {
    const char *file;
    mk_grammar_values values;
    bool sorted;
    const char *first, *open, *mid_bare, *end_bare, *mid, *end, *between, *next, *tail;
} rows[] = {
    {"Qwen3-Coder", MK_VALUES_JSON, false, "«<tool_call>»\\n<function=T>\\n", "<parameter=", ">\\n",
     "\\n</parameter>\\n", ">\\n", "\\n</parameter>\\n", "",
     "</function>\\n«</tool_call>»\\n«<tool_call>»\\n<function=T>\\n",
     "</function>\\n«</tool_call>»"},
    {"stepfun-ai-Step-3.5-Flash", MK_VALUES_JSON, false, "«<tool_call>»\\n<function=T>\\n",
     "<parameter=", ">\\n", "\\n</parameter>\\n", ">\\n", "\\n</parameter>\\n", "",
     "</function>\\n«</tool_call>»«<tool_call>»\\n<function=T>\\n", "</function>\\n«</tool_call>»"},
    {"ByteDance-Seed-OSS", MK_VALUES_PYTHON, false, "<seed:tool_call>\\n<function=T>\\n",
     "<parameter=", ">", "</parameter>\\n", ">", "</parameter>\\n", "",
     "</function>\\n</seed:tool_call>\\n<seed:tool_call>\\n<function=T>\\n",
     "</function>\\n</seed:tool_call>«<seed:eos>»"},
    {"GLM-4.6", MK_VALUES_JSON, false, "«<tool_call>»T\\n", "<arg_key>", "</arg_key>\\n<arg_value>",
     "</arg_value>\\n", "</arg_key>\\n<arg_value>", "</arg_value>\\n", "",
     "«</tool_call>»\\n«<tool_call>»T\\n", "«</tool_call>»"},
    {"GLM-4.7-Flash", MK_VALUES_JSON, false, "«<tool_call>»T", "<arg_key>", "</arg_key><arg_value>",
     "</arg_value>", "</arg_key><arg_value>", "</arg_value>", "", "«</tool_call>»«<tool_call>»T",
     "«</tool_call>»"},
    {"deepseek-ai-DeepSeek-V3.2", MK_VALUES_JSON, false,
     "<｜DSML｜function_calls>\\n<｜DSML｜invoke name=\"T\">\\n", "<｜DSML｜parameter name=\"",
     "\" string=\"true\">", "</｜DSML｜parameter>\\n", "\" string=\"false\">",
     "</｜DSML｜parameter>\\n", "", "</｜DSML｜invoke>\\n<｜DSML｜invoke name=\"T\">\\n",
     "</｜DSML｜invoke>\\n</｜DSML｜function_calls>"},
    {"google-gemma-4-31B-it-interleaved", MK_VALUES_MARKED, true, "«<|tool_call>»call:T{", "",
     ":<|\"|>", "<|\"|>", ":", "", ",", "}«<tool_call|>»«<|tool_call>»call:T{",
     "}«<tool_call|>»«<turn|>»"},
    {"LFM2-8B-A1B", MK_VALUES_PYTHON, false, "<|tool_call_start|>[T(", "", "", "", "=", "", ", ",
     "), T(", ")]«<|tool_call_end|>»"},
};
enum { N_ROW = sizeof rows / sizeof rows[0] };

static void parameters_are_found(void **state) {
    (void)state;
    mk_tokenizer *tok = load("qwen2", true);
    for (size_t i = 0; i < N_ROW; i++) {
        mk_chat_template *t = read_template(rows[i].file);
        mk_call_frame f;
        find_frame(t, tok, &f);
        assert_int_equal(f.kind, MK_CALLS_PARAMS);
        assert_int_equal(f.max, 0);
        assert_int_equal(f.params.values, rows[i].values);
        assert_int_equal(f.params.sorted, rows[i].sorted);
        const char *want[] = {rows[i].open, rows[i].mid_bare, rows[i].end_bare,
                              rows[i].mid,  rows[i].end,      rows[i].between};
        for (size_t k = 0; k < 6; k++) {
            assert_shown(tok, &f.part[k], want[k], rows[i].file);
        }
        assert_shown(tok, &f.first, rows[i].first, rows[i].file);
        assert_shown(tok, &f.next, rows[i].next, rows[i].file);
        assert_shown(tok, &f.tail, rows[i].tail, rows[i].file);
        mk_call_frame_free(&f);
        mk_chat_template_destroy(t);
    }
    mk_tokenizer_destroy(tok);
}

// --- there and back ------------------------------------------------------------------------------

static const char plan_text[] =
    "{\"type\":\"object\",\"properties\":{\"a_city\":{\"type\":\"string\"},"
    "\"b_days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":14},\"c_ok\":{\"type\":\"boolean\"}"
    ","
    "\"d_tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
    "\"e_more\":{\"$ref\":\"#/$defs/more\"},\"f_unit\":{\"enum\":[\"C\",\"F\"]},"
    "\"g_note\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]},"
    "\"h_ratio\":{\"type\":\"number\"},"
    "\"i_id\":{\"anyOf\":[{\"type\":\"integer\",\"minimum\":10},{\"type\":\"string\"}]},"
    "\"j_code\":{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}[0-9<]+$\"}},"
    "\"required\":[\"a_city\",\"b_days\",\"c_ok\"],\"additionalProperties\":false,"
    "\"$defs\":{\"more\":{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"},"
    "\"y\":{\"type\":\"string\",\"maxLength\":5}},\"required\":[\"x\"],"
    "\"additionalProperties\":false}}}";

static json_t *plan_tools(void) {
    return json_pack("[{s:s, s:{s:s, s:s, s:o}}, {s:s, s:{s:s, s:s, s:o}}]", "type", "function",
                     "function", "name", "plan", "description", "d", "parameters", parse(plan_text),
                     "type", "function", "function", "name", "now", "description", "d",
                     "parameters", parse(now_text));
}

// All families, XML with and without lines, lists as JSON and as Python; gpt-oss.
static const char *const files[] = {"Qwen3-Coder",
                                    "Qwen3.5-4B",
                                    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
                                    "stepfun-ai-Step-3.5-Flash",
                                    "ByteDance-Seed-OSS",
                                    "GLM-4.6",
                                    "GLM-4.7-Flash",
                                    "GLM-5.2",
                                    "deepseek-ai-DeepSeek-V3.2",
                                    "deepseek-ai-DeepSeek-V4",
                                    "google-gemma-4-31B-it",
                                    "google-gemma-4-31B-it-interleaved",
                                    "openai-gpt-oss-120b"};
enum { N_FILE = sizeof files / sizeof files[0] };

#define NEED "\"a_city\":\"K\\u00f6ln\",\"b_days\":3,\"c_ok\":true"

// Calls "name arguments", and whether a grammar of the two tools takes them.
static const struct {
    const char *name, *args;
    bool ok;
} calls[] = {
    {"plan", "{" NEED "}", true},
    {"now", "{}", true},
    {"plan", "{\"a_city\":\"\",\"b_days\":14,\"c_ok\":false}", true},
    {"plan", "{\"a_city\":\"New <b>\\n\\\"York\\\" 'x' \\\\ </par\\n\",\"b_days\":1,\"c_ok\":true}",
     true},
    {"plan", "{\"a_city\":\"\\n a\\n\\n\",\"b_days\":1,\"c_ok\":true}", true},
    {"plan", "{\"a_city\":\"<</parameter <｜DSML｜ </</arg_value <|\",\"b_days\":9,\"c_ok\":true}",
     true},
    {"plan", "{\"a_city\":\"true\",\"b_days\":10,\"c_ok\":true,\"f_unit\":\"F\"}", true},
    {"plan", "{" NEED ",\"d_tags\":[]}", true},
    {"plan", "{" NEED ",\"d_tags\":[\"a\",\"b\\\"'<\\n\\\\\",\"</x>\"],\"g_note\":null}", true},
    {"plan", "{" NEED ",\"e_more\":{\"x\":-7}}", true},
    {"plan", "{" NEED ",\"e_more\":{\"x\":0,\"y\":\"\\u00e4 'b'\"},\"f_unit\":\"C\"}", true},
    {"plan", "{" NEED ",\"g_note\":\"nothing\",\"h_ratio\":1.5}", true},
    {"plan", "{" NEED ",\"h_ratio\":-2,\"i_id\":10}", true},
    {"plan", "{" NEED ",\"i_id\":\"ten\"}", true},
    {"plan", "{" NEED ",\"j_code\":\"AB12\"}", true},
    // the name of no tool
    {"plans", "{" NEED "}", false},
    {"pla", "{" NEED "}", false},
    // something is missing
    {"plan", "{}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":3}", false},
    {"plan", "{\"b_days\":3,\"c_ok\":true}", false},
    // something is of another type, or out of bounds
    {"plan", "{\"a_city\":\"x\",\"b_days\":\"three\",\"c_ok\":true}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":0,\"c_ok\":true}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":15,\"c_ok\":true}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":1.5,\"c_ok\":true}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":[3],\"c_ok\":true}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":3,\"c_ok\":\"maybe\"}", false},
    {"plan", "{\"a_city\":\"x\",\"b_days\":3,\"c_ok\":null}", false},
    {"plan", "{" NEED ",\"d_tags\":\"x\"}", false},
    {"plan", "{" NEED ",\"d_tags\":[1]}", false},
    {"plan", "{" NEED ",\"e_more\":{}}", false},
    {"plan", "{" NEED ",\"e_more\":{\"x\":1,\"y\":\"longer\"}}", false},
    {"plan", "{" NEED ",\"f_unit\":\"K\"}", false},
    {"plan", "{" NEED ",\"h_ratio\":\"1,5\"}", false},
    {"plan", "{" NEED ",\"i_id\":9}", false},
    {"plan", "{" NEED ",\"j_code\":\"A12\"}", false},
    {"plan", "{" NEED ",\"other\":1}", false},
    {"now", "{\"x\":1}", false},
};
enum { N_CALL = sizeof calls / sizeof calls[0] };

typedef struct {
    const mk_tokenizer *tok;
    mk_token_trie *trie;
    mk_chat_template *t;
    json_t *tools;
    mk_call_frame f;
    mk_parse_opts po;
    mk_grammar *g;  // a call must come
    mk_jinja_text prompt, full;
    mk_ids ids;  // of the answer
    mk_buf spelled;
} family;

static void begin_family(family *m, const char *file, const mk_tokenizer *tok) {
    mk_err err = {0};
    *m = (family){.tok = tok, .t = read_template(file), .tools = plan_tools()};
    mk_buf_init(&m->spelled, 1 << 20);
    find_frame(m->t, tok, &m->f);
    mk_parse_detect(mk_chat_template_text_for(m->t, m->tools), &m->po);
    m->po.tools = m->tools;
    m->g = compile(&m->f, m->tools, (mk_grammar_calls){.max = m->f.max});
    assert_int_equal(mk_token_trie_create(tok, &m->trie, &err), MK_OK);
}

static void end_family(family *m) {
    mk_ids_free(&m->ids);
    mk_buf_free(&m->spelled);
    mk_grammar_unref(m->g);
    mk_token_trie_unref(m->trie);
    mk_call_frame_free(&m->f);
    json_decref(m->tools);
    mk_chat_template_destroy(m->t);
}

static void render(const family *m, const json_t *list, mk_jinja_text *out) {
    mk_err err = {0};
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "?");
    if (list) {
        json_array_append_new(messages, json_pack("{s:s, s:s, s:O}", "role", "assistant", "content",
                                                  "", "tool_calls", list));
    }
    mk_chat_render_opts o = MK_CHAT_RENDER_DEFAULTS;
    o.add_generation_prompt = list == NULL;
    if (mk_chat_template_render(m->t, messages, m->tools, &o, out, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    json_decref(messages);
}

// Where the answer begins in the rendered conversation: the last place with what calls begin with.
static size_t answer_at(const family *m, const char *name) {
    char *first = mk_call_frame_text(&m->f.first, name), *spelled = mk_strdup("");
    mk_buf raw;
    mk_buf_init(&raw, 1 << 16);
    for (const char *p = first; *p && m->f.kind == MK_CALLS_PARAMS; p++) {
        if ((unsigned char)*p == MK_GRAMMAR_TOKEN) {
            size_t n;
            const char *piece = mk_tokenizer_piece(m->tok, mk_grammar_spelled_token(p), &n);
            mk_buf_add(&raw, piece, n);
            p += MK_GRAMMAR_TOKEN_BYTES - 1;
        } else {
            mk_buf_add(&raw, p, 1);
        }
    }
    if (m->f.kind == MK_CALLS_HEADERS) {
        mk_buf_printf(&raw, " to=functions.%s<|channel|>", name);
    }
    const char *text = m->full.text.data, *last = NULL;
    for (const char *p = text;
         (p = memmem(p, m->full.text.len - (size_t)(p - text), raw.data, raw.len)) != NULL; p++) {
        last = last && m->f.kind == MK_CALLS_PARAMS && last > text + m->prompt.text.len - 32 ? last
                                                                                             : p;
    }
    if (!last) {
        fail_msg("no call: %s", text);
    }
    mk_buf_free(&raw);
    mk_free(first);
    mk_free(spelled);
    return (size_t)(last - text);
}

// What the template makes of these calls, cut out.
static void write_calls(family *m, const json_t *list) {
    mk_err err = {0};
    const char *name = json_string_value(
        json_object_get(json_object_get(json_array_get(list, 0), "function"), "name"));
    render(m, NULL, &m->prompt);
    render(m, list, &m->full);
    m->ids.n = 0;
    assert_int_equal(
        mk_chat_encode(m->tok, &m->full, answer_at(m, name), m->full.text.len, &m->ids, &err),
        MK_OK);
    int64_t n = 0;
    while (n < m->ids.n && !mk_tokenizer_is_eog(m->tok, m->ids.data[n])) {
        n++;
    }
    m->ids.n = n;
    mk_buf_clear(&m->spelled);
    mk_grammar_spell(m->tok, m->ids.data, n, &m->spelled);
    size_t end = m->spelled.len;  // GLM ends with nothing, some with white space
    while (end > 0 && m->f.tail.len > 0 && m->spelled.data[end - 1] == '\n' &&
           m->f.tail.data[m->f.tail.len - 1] != '\n') {
        end--;
    }
    m->spelled.len = end;
    mk_jinja_text_free(&m->prompt);
    mk_jinja_text_free(&m->full);
}

static bool accepts(mk_grammar *g, const char *p, size_t n) {
    mk_grammar_state *s;
    mk_err err = {0};
    assert_int_equal(mk_grammar_start(g, NULL, &s, &err), MK_OK);
    bool whole = mk_grammar_feed(s, p, n, &err) == MK_OK && mk_grammar_can_end(s);
    mk_grammar_state_destroy(s);
    // cut at every place, the same
    assert_int_equal(mk_grammar_start(g, NULL, &s, &err), MK_OK);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        ok = mk_grammar_feed(s, p + i, 1, &err) == MK_OK;
    }
    assert_int_equal(ok && mk_grammar_can_end(s), whole);
    mk_grammar_state_destroy(s);
    return whole;
}

// Token by token under the mask.
static bool accepts_tokens(const family *m) {
    mk_grammar_state *s;
    mk_err err = {0};
    int64_t n_vocab = mk_tokenizer_n_vocab(m->tok);
    size_t n_word = ((size_t)n_vocab + 63) / 64;
    uint64_t *mask = mk_alloc(n_word * sizeof *mask);
    assert_int_equal(mk_grammar_start(m->g, m->trie, &s, &err), MK_OK);
    bool ok = true;
    for (int64_t i = 0; i < m->ids.n && ok; i++) {
        int32_t id = m->ids.data[i];
        if (mk_grammar_can_end(s) && i + 1 == m->ids.n) {
            break;  // white space behind the turn
        }
        memset(mask, 0xff, n_word * sizeof *mask);
        assert_int_equal(mk_grammar_mask(s, mask, n_vocab, &err), MK_OK);
        ok = mask[id / 64] >> (id % 64) & 1;
        assert_int_equal(mk_grammar_accept(s, id, &err) == MK_OK, ok);
    }
    ok = ok && mk_grammar_can_end(s);
    mk_grammar_state_destroy(s);
    mk_free(mask);
    return ok;
}

typedef struct {
    json_t *calls;  // [[name, arguments]]
    mk_buf args;
    char name[64];
    bool bad;
} reading;

static void on_read(void *arg, const mk_answer_event *ev) {
    reading *r = arg;
    json_t *args = NULL;
    mk_err err;
    switch (ev->kind) {
    case MK_AE_TOOL_BEGIN:
        snprintf(r->name, sizeof r->name, "%s", ev->name);
        mk_buf_clear(&r->args);
        break;
    case MK_AE_TOOL_ARGS:
        mk_buf_add(&r->args, ev->text, ev->n);
        break;
    case MK_AE_TOOL_END:
        r->bad = r->bad || ev->broken ||
                 mk_json_parse(r->args.data, r->args.len, "arguments", &args, &err) != MK_OK;
        json_array_append_new(r->calls, json_pack("[s, o]", r->name, args ? args : json_null()));
        break;
    default:
        r->bad = r->bad || ev->kind == MK_AE_TEXT;
    }
}

// The calls that a parser finds in the answer; NULL: something else stands there, too.
static json_t *read_back(const family *m) {
    reading r = {.calls = json_array()};
    mk_err err = {0};
    mk_parser *p;
    mk_buf_init(&r.args, 1 << 20);
    mk_detok *detok = mk_detok_create(m->tok, true);
    assert_int_equal(mk_parser_create(&m->po, on_read, &r, &p, &err), MK_OK);
    for (int64_t i = 0; i < m->ids.n; i++) {
        assert_int_equal(mk_parse_token(p, detok, m->tok, m->ids.data[i], &err), MK_OK);
    }
    const char *rest = NULL;
    size_t n = 0;
    mk_detok_finish(detok, &rest, &n);
    assert_int_equal(mk_parser_push(p, rest, n, &err), MK_OK);
    assert_int_equal(mk_parser_finish(p, &err), MK_OK);
    mk_parser_destroy(p);
    mk_detok_destroy(detok);
    mk_buf_free(&r.args);
    if (r.bad) {
        json_decref(r.calls);
        return NULL;
    }
    return r.calls;
}

static json_t *call_of(size_t i, int k) {
    return json_pack("{s:o, s:s, s:{s:s, s:o}}", "id", json_sprintf("mkcall%03d", k), "type",
                     "function", "function", "name", calls[i].name, "arguments",
                     parse(calls[i].args));
}

static void fail_with(const family *m, const char *file, const char *what, const char *args) {
    char *text = shown(m->tok, &m->spelled);
    fail_msg("%s: %s: %s\n%s", file, what, args, text);
}

static void check_call(family *m, const char *file, size_t i) {
    json_t *list = json_pack("[o]", call_of(i, 0));
    write_calls(m, list);
    bool ok = accepts(m->g, m->spelled.data, m->spelled.len);
    if (ok != calls[i].ok || accepts_tokens(m) != ok) {
        fail_with(m, file, ok ? "taken" : "not taken", calls[i].args);
    }
    json_t *want = json_pack("[[s, o]]", calls[i].name, parse(calls[i].args));
    json_t *got = ok ? read_back(m) : NULL;
    if (ok && !json_equal(got, want)) {
        char *text = got ? json_dumps(got, 0) : NULL;
        fail_with(m, file, text ? text : "no calls", calls[i].args);
    }
    json_decref(got);
    json_decref(want);
    json_decref(list);
}

static void calls_there_and_back(void **state) {
    (void)state;
    mk_tokenizer *tok = load("qwen2", true);
    for (size_t k = 0; k < N_FILE; k++) {
        family m;
        begin_family(&m, files[k], tok);
        for (size_t i = 0; i < N_CALL; i++) {
            check_call(&m, files[k], i);
        }
        end_family(&m);
    }
    mk_tokenizer_destroy(tok);
}

static void several_calls(void **state) {
    (void)state;
    mk_tokenizer *tok = load("qwen2", true);
    for (size_t k = 0; k < N_FILE; k++) {
        family m;
        begin_family(&m, files[k], tok);
        if (m.f.kind == MK_CALLS_PARAMS) {
            json_t *list = json_pack("[o, o, o]", call_of(0, 0), call_of(1, 1), call_of(8, 2));
            write_calls(&m, list);
            json_t *got = read_back(&m);
            if (!accepts(m.g, m.spelled.data, m.spelled.len) || !accepts_tokens(&m) ||
                json_array_size(got) != 3) {
                fail_with(&m, files[k], "not taken", "three calls");
            }
            json_decref(got);
            json_decref(list);
        }
        end_family(&m);
    }
    mk_tokenizer_destroy(tok);
}

// --- texts ---------------------------------------------------------------------------------------

// A grammar for one tool "f" with these parameters, in this form.
static mk_status for_params(const char *schema, const mk_grammar_params *p, mk_grammar **g,
                            mk_err *err) {
    json_t *parameters = parse(schema);
    mk_grammar_call call = {.first = "f(", .next = "", .schema = parameters, .where = "/f"};
    mk_grammar_calls c = {.call = &call, .n = 1, .tail = ")", .max = 1, .params = p};
    mk_status st = mk_grammar_from_calls(&c, NULL, g, err);
    json_decref(parameters);
    return st;
}

static const mk_grammar_params python = {.values = MK_VALUES_PYTHON,
                                         .avoid = "",
                                         .quote = "",
                                         .open = "",
                                         .mid_bare = "",
                                         .end_bare = "",
                                         .mid = "=",
                                         .end = "",
                                         .between = ", "};
static const mk_grammar_params bare = {.values = MK_VALUES_JSON,
                                       .bare = true,
                                       .avoid = "</p>",
                                       .quote = "",
                                       .open = "<",
                                       .mid_bare = ">",
                                       .end_bare = "</p>",
                                       .mid = ">",
                                       .end = "</p>",
                                       .between = ""};

typedef struct {
    const char *text;
    bool ok;
} taken;

static void check_texts(const char *schema, const mk_grammar_params *p, const taken *t) {
    mk_err err = {0};
    mk_grammar *g;
    if (for_params(schema, p, &g, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    for (; t->text; t++) {
        if (accepts(g, t->text, strlen(t->text)) != t->ok) {
            fail_msg("%s", t->text);
        }
    }
    mk_grammar_unref(g);
}

static void python_values(void **state) {
    (void)state;
    static const taken values[] = {{"f(s='x', b=True)", true},
                                   {"f(s=\"it's\", b=False, n=None)", true},
                                   {"f(s='a\\'\\n\\x1b\\u00e4', b=True)", true},
                                   {"f(s='', b=True, l=[1, -2], o={'a': 1})", true},
                                   {"f(s='', b=True, l=[], o={\"a\": 1, 'r': 1.5})", true},
                                   {"f(s='x', b=true)", false},
                                   {"f(s='x', b=True, n=null)", false},
                                   {"f(s=x, b=True)", false},
                                   {"f(s='x\", b=True)", false},
                                   {"f(s='\n', b=True)", false},
                                   {"f(b=True, s='x')", false},
                                   {"f(s='x')", false},
                                   {"f('x', b=True)", false},
                                   {"f(s='x', b=True, l=['1'])", false},
                                   {"f(s='x', b=True, o={'b': 1})", false},
                                   {"f(s='x', b=True, )", false},
                                   {NULL, false}};
    check_texts("{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\"},\"b\":{"
                "\"type\":\"boolean\"},\"n\":{\"type\":\"null\"},\"l\":{\"type\":\"array\","
                "\"items\":{\"type\":\"integer\"}},\"o\":{\"type\":\"object\",\"properties\":{"
                "\"a\":{\"type\":\"integer\"},\"r\":{\"type\":\"number\"}},\"required\":["
                "\"a\"]}},\"required\":[\"s\",\"b\"]}",
                &python, values);
    // nothing is known of the parameters
    static const taken any[] = {{"f()", true},
                                {"f(a=[{'b': None}], c='x')", true},
                                {"f(a=[{'b': null}])", false},
                                {"f(a)", false},
                                {NULL, false}};
    check_texts("{}", &python, any);
}

static void bare_values(void **state) {
    (void)state;
    static const taken texts[] = {{"f(<a></p>)", true},
                                  {"f(<a>< </ <b> </ p>\n\"</p>)", true},
                                  {"f(<a>x</p>y</p>)", false},
                                  {"f(<a>x</p><b>[\"<x>\",\"<\\/p>\"]</p>)", true},
                                  {"f(<a>x</p><b>[\"</p>\"]</p>)", false},
                                  {"f(<a>x</p><b>x</p>)", false},
                                  {"f(<a>x</p><c>True</p>)", true},
                                  {"f(<a>x</p><c>null</p>)", true},
                                  {"f(<a>x</p><c>maybe</p>)", false},
                                  {"f(<a>x</p><d>[1]</p>)", true},
                                  {"f(<a>x</p><d>text [</p>)", true},
                                  {"f(<a>x</p><d></p>)", true},
                                  // a list of texts, it would be
                                  {"f(<a>x</p><d>[\"x\"]</p>)", false},
                                  {"f(<a>x</p><d> [\"x\"]</p>)", false},
                                  {"f(<a>x</p><e>1.5</p>)", true},
                                  {"f(<b>[]</p>)", false},
                                  {NULL, false}};
    check_texts("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{"
                "\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"c\":{\"type\":[\"boolean\","
                "\"null\"]},\"d\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{"
                "\"type\":\"integer\"}}]},\"e\":{\"type\":[\"string\",\"integer\"]}},\"required\":["
                "\"a\"]}",
                &bare, texts);
}

static void what_cannot_be_told_apart_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *schema, *where;
    } cases[] = {{"{\"properties\":{\"a\":{\"enum\":[\"1\",1]}}}", "/f/properties/a/enum"},
                 {"{\"properties\":{\"a\":{\"enum\":[\"x</p>\"]}}}", "/f/properties/a/enum"},
                 {"{\"properties\":{\"a\":{\"type\":[\"string\",\"integer\"],\"minimum\":3,"
                  "\"maxLength\":3}}}",
                  "/f/properties/a"},
                 {"{\"properties\":{\"a b\":{\"type\":\"string\"}}}", "/f/properties"},
                 {"{\"anyOf\":[{\"type\":\"object\"}]}", "/f/anyOf"},
                 {"{\"properties\":{\"a\":{\"not\":{}}}}", "/f/properties/a/not"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mk_err err = {0};
        mk_grammar *g = NULL;
        assert_int_equal(for_params(cases[i].schema, &bare, &g, &err), MK_EUNSUPPORTED);
        if (strncmp(err.msg, cases[i].where, strlen(cases[i].where)) != 0) {
            fail_msg("%s: %s", cases[i].where, err.msg);
        }
    }
}

// --- answers of random tokens --------------------------------------------------------------------

static void random_answers(void **state) {
    (void)state;
    static const char *const vocabularies[] = {"qwen2", "deepseek3"};
    mk_err err = {0};
    totals sum = {0};
    rng_state = 7;
    for (size_t v = 0; v < 2; v++) {
        mk_tokenizer *tok = load(vocabularies[v], v == 0);
        mk_token_trie *trie;
        assert_int_equal(mk_token_trie_create(tok, &trie, &err), MK_OK);
        for (size_t k = 0; k < N_FILE; k++) {
            drive_file(files[k], tok, trie, (mk_grammar_calls){.max = 1}, &sum);
            drive_file(files[k], tok, trie, (mk_grammar_calls){.may_be_text = true, .max = 1},
                       &sum);
        }
        drive_file("LFM2-8B-A1B", tok, trie, (mk_grammar_calls){0}, &sum);
        mk_token_trie_unref(trie);
        mk_tokenizer_destroy(tok);
    }
    printf("%d answers, %d calls, %d with text\n", sum.n_answer, sum.n_call, sum.n_text);
    assert_true(sum.n_answer > 150 && sum.n_call > 100 && sum.n_text > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_found),
        cmocka_unit_test(calls_there_and_back),
        cmocka_unit_test(several_calls),
        cmocka_unit_test(python_values),
        cmocka_unit_test(bare_values),
        cmocka_unit_test(what_cannot_be_told_apart_is_refused),
        cmocka_unit_test(random_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
