// How families of models write tool calls, as their templates tell, and answers that must be calls:
// made of random allowed tokens, read by the parser, they are calls to the tools that were offered
// with arguments that follow the schema.
#include "call_walk.h"

// --- frames --------------------------------------------------------------------------------------

static const struct {
    const char *file;
    uint32_t max;
    const char *first, *next, *tail, *trigger;  // next NULL: one call; tail NULL: not JSON
} rows[] = {
    {"Qwen-Qwen3-0.6B", 0, "«<tool_call>»\\n{\"name\": \"T\", \"arguments\": ",
     "}\\n«</tool_call>»\\n«<tool_call>»\\n{\"name\": \"T\", \"arguments\": ", "}\\n«</tool_call>»",
     "«<tool_call>»"},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", 0,
     "«<tool_call>»\\n{\"name\": \"T\", \"arguments\": ",
     "}\\n«</tool_call>»\\n«<tool_call>»\\n{\"name\": \"T\", \"arguments\": ", "}\\n«</tool_call>»",
     "«<tool_call>»"},
    {"Qwen-QwQ-32B", 0, "«<tool_call>»\\n{\"name\": \"T\", \"arguments\": ",
     "}\\n«</tool_call>»\\n«<tool_call>»\\n{\"name\": \"T\", \"arguments\": ", "}\\n«</tool_call>»",
     "«<tool_call>»"},
    {"moonshotai-Kimi-K2", 2,
     "«<|tool_calls_section_begin|>»«<|tool_call_begin|>»functions.T:0"
     "«<|tool_call_argument_begin|>»",
     "«<|tool_call_end|>»«<|tool_call_begin|>»functions.T:1«<|tool_call_argument_begin|>»",
     "«<|tool_call_end|>»«<|tool_calls_section_end|>»", "«<|tool_calls_section_begin|>»"},
    {"Kimi-K2-Instruct", 2,
     "«<|tool_calls_section_begin|>»«<|tool_call_begin|>»functions.T:0"
     "«<|tool_call_argument_begin|>»",
     "«<|tool_call_end|>»«<|tool_call_begin|>»functions.T:1«<|tool_call_argument_begin|>»",
     "«<|tool_call_end|>»«<|tool_calls_section_end|>»", "«<|tool_calls_section_begin|>»"},
    {"deepseek-ai-DeepSeek-V3.1", 0,
     "«<｜tool▁calls▁begin｜>»«<｜tool▁call▁begin｜>»T«<｜tool▁sep｜>»",
     "«<｜tool▁call▁end｜>»«<｜tool▁call▁begin｜>»T«<｜tool▁sep｜>»",
     "«<｜tool▁call▁end｜>»«<｜tool▁calls▁end｜>»", "«<｜tool▁calls▁begin｜>»"},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", 0,
     "«<｜tool▁calls▁begin｜>»«<｜tool▁call▁begin｜>»function«<｜tool▁sep｜>»T\\n```json\\n",
     "\\n```«<｜tool▁call▁end｜>»\\n«<｜tool▁call▁begin｜>»function«<｜tool▁sep｜>»T\\n```json\\n",
     "\\n```«<｜tool▁call▁end｜>»«<｜tool▁calls▁end｜>»", "«<｜tool▁calls▁begin｜>»"},
    {"meta-llama-Llama-3.1-8B-Instruct", 1, "{\"name\": \"T\", \"parameters\": ", NULL, "}", "{"},
    {"mistralai-Ministral-3-14B-Reasoning-2512", 0, "«[TOOL_CALLS]»T«[ARGS]»",
     "«[TOOL_CALLS]»T«[ARGS]»", "", "«[TOOL_CALLS]»"},
    {"Mistral-Small-3.2-24B-Instruct-2506", 2, "«[TOOL_CALLS]»T«[CALL_ID]»mkcall000«[ARGS]»",
     "«[TOOL_CALLS]»T«[CALL_ID]»mkcall001«[ARGS]»", "", "«[TOOL_CALLS]»"},
    {"mistralai-Mistral-Nemo-Instruct-2407", 1, "«[TOOL_CALLS]»[{\"name\": \"T\", \"arguments\": ",
     NULL, ", \"id\": \"mkcall000\"}]", "«[TOOL_CALLS]»"},
    {"Apertus-8B-Instruct", 0, "«<|tools_prefix|>»[{\"T\": ", "}, {\"T\": ", "}]«<|tools_suffix|>»",
     "«<|tools_prefix|>»"},
    {"unsloth-Apriel-1.5", 0, "«<tool_calls>»[{\"name\": \"T\", \"arguments\": ",
     "}, {\"name\": \"T\", \"arguments\": ", "}]«</tool_calls>»", "«<tool_calls>»"},
    {"Cohere2MoE", 2,
     "«<|START_ACTION|>»[\\n    {\"tool_call_id\": \"0\", \"tool_name\": \"T\", \"parameters\": ",
     "},\\n    {\"tool_call_id\": \"1\", \"tool_name\": \"T\", \"parameters\": ",
     "}\\n]«<|END_ACTION|>»", "«<|START_ACTION|>»"},
    {"meetkai-functionary-medium-v3.1", 0, "<function=T>", "</function><function=T>", "</function>",
     "<function="},
    {"GigaChat3.1-10B-A1.8B", 1, "«<|function_call|>»{\"name\": \"T\", \"arguments\": ", NULL,
     "}«<|message_sep|>»", "«<|function_call|>»"},
};
enum { N_ROW = sizeof rows / sizeof rows[0] };

static void frames_are_found(void **state) {
    (void)state;
    mk_tokenizer *tok = load("qwen2", true);
    for (size_t i = 0; i < N_ROW; i++) {
        mk_chat_template *t = read_template(rows[i].file);
        mk_call_frame f;
        find_frame(t, tok, &f);
        assert_true(f.has_calls);
        assert_int_equal(f.kind != MK_CALLS_OPEN, rows[i].tail != NULL);
        assert_shown(tok, &f.trigger, rows[i].trigger, rows[i].file);
        if (f.kind != MK_CALLS_OPEN) {
            assert_shown(tok, &f.first, rows[i].first, rows[i].file);
            assert_shown(tok, &f.next, rows[i].next ? rows[i].next : "", rows[i].file);
            assert_int_equal(f.max, rows[i].max);
            if (f.tail.len > 0 && strcmp(rows[i].file, "unsloth-Apriel-1.5") != 0 &&
                strcmp(rows[i].file, "Cohere2MoE") != 0) {
                assert_shown(tok, &f.tail, rows[i].tail, rows[i].file);
            }
        }
        mk_call_frame_free(&f);
        mk_chat_template_destroy(t);
    }
    mk_tokenizer_destroy(tok);
}

// Calls whose parameters stand one by one.
static void templates_without_calls(void **state) {
    (void)state;
    static const char *const files[] = {"google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct",
                                        "openai-gpt-oss-120b"};
    mk_tokenizer *tok = load("qwen2", true);
    for (size_t i = 0; i < 3; i++) {
        mk_chat_template *t = read_template(files[i]);
        mk_call_frame f;
        find_frame(t, tok, &f);
        assert_int_equal(f.has_calls, i == 2);  // gpt-oss has them in headers
        assert_int_equal(f.kind, i == 2 ? MK_CALLS_HEADERS : MK_CALLS_OPEN);
        assert_non_null(f.why_not);
        mk_call_frame_free(&f);
        mk_chat_template_destroy(t);
    }
    mk_call_frame f;
    find_frame(NULL, tok, &f);
    assert_false(f.has_calls);
    mk_call_frame_free(&f);
    mk_tokenizer_destroy(tok);
}

// What the parser would not know for a call is not demanded of a model.
static void calls_that_are_not_read(void **state) {
    (void)state;
    mk_tokenizer *tok = load("qwen2", true);
    mk_chat_template *t = read_template("meetkai-functionary-medium-v3.2");
    mk_call_frame f;
    find_frame(t, tok, &f);
    assert_true(f.has_calls);
    assert_int_equal(f.kind, MK_CALLS_OPEN);
    assert_non_null(strstr(f.why_not, "not read"));
    mk_call_frame_free(&f);
    mk_chat_template_destroy(t);
    mk_tokenizer_destroy(tok);
}

static void drive_all(const char *name, bool with_marks, mk_grammar_calls c, totals *sum) {
    mk_err err = {0};
    mk_tokenizer *tok = load(name, with_marks);
    mk_token_trie *trie;
    assert_int_equal(mk_token_trie_create(tok, &trie, &err), MK_OK);
    for (size_t i = 0; i < N_ROW; i++) {
        // SentencePiece puts a blank behind a token: such names belong to no such family
        bool odd = strcmp(name, "llama2") == 0 &&
                   (strstr(rows[i].first, "»T") || strstr(rows[i].first, "»f"));
        if (rows[i].tail && !odd) {
            mk_grammar_calls own = c;
            own.max = c.max == 1 ? 1 : rows[i].max;
            drive_file(rows[i].file, tok, trie, own, sum);
        }
    }
    mk_token_trie_unref(trie);
    mk_tokenizer_destroy(tok);
}

static void required_calls(void **state) {
    (void)state;
    totals sum = {0};
    rng_state = 1;
    drive_all("qwen2", true, (mk_grammar_calls){0}, &sum);
    drive_all("llama2", true, (mk_grammar_calls){0}, &sum);
    drive_all("deepseek3", false, (mk_grammar_calls){0}, &sum);
    printf("%d answers, %d calls, up to %d\n", sum.n_answer, sum.n_call, sum.n_call_max);
    assert_true(sum.n_answer > 200 && sum.n_call > sum.n_answer && sum.n_call_max > 2);
}

static void one_call_at_most(void **state) {
    (void)state;
    totals sum = {0};
    rng_state = 2;
    drive_all("qwen2", true, (mk_grammar_calls){.max = 1}, &sum);
    assert_true(sum.n_answer > 50 && sum.n_call == sum.n_answer);
}

// Text, and calls at times: what is a call has arguments that fit.
static void text_or_calls(void **state) {
    (void)state;
    totals sum = {0};
    rng_state = 3;
    drive_all("qwen2", true, (mk_grammar_calls){.may_be_text = true}, &sum);
    drive_all("gpt2", false, (mk_grammar_calls){.may_be_text = true}, &sum);
    printf("%d answers, %d with text, %d calls\n", sum.n_answer, sum.n_text, sum.n_call);
    assert_true(sum.n_answer > 100 && sum.n_call > 20 && sum.n_text > 50);
}

static void form_or_calls(void **state) {
    (void)state;
    totals sum = {0};
    rng_state = 4;
    mk_grammar_calls c = {
        .may_be_text = true, .form = MK_FORM_REGEX, .pattern = "(yes|no), [a-f]{3}"};
    drive_all("qwen2", true, c, &sum);
    printf("%d answers, %d with text, %d calls\n", sum.n_answer, sum.n_text, sum.n_call);
    assert_true(sum.n_answer > 60 && sum.n_call > 10 && sum.n_text > 10);
}

// --- the words of a grammar ----------------------------------------------------------------------

static bool takes(mk_grammar *g, const char *text) {
    mk_grammar_state *s;
    mk_err err;
    assert_int_equal(mk_grammar_start(g, NULL, &s, &err), MK_OK);
    bool ok = mk_grammar_feed(s, text, strlen(text), &err) == MK_OK && mk_grammar_can_end(s);
    mk_grammar_state_destroy(s);
    return ok;
}

static void marks_in_letters(void **state) {
    (void)state;
    mk_err err = {0};
    mk_grammar *g;
    json_t *schema = parse(now_text);
    mk_grammar_call call = {.first = "<call>f:", .next = ";f:", .schema = schema};
    mk_grammar_calls c = {
        .call = &call, .n = 1, .tail = "</call>", .trigger = "<call>", .may_be_text = true};
    assert_int_equal(mk_grammar_from_calls(&c, NULL, &g, &err), MK_OK);
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {{"", true},
                 {"plain <cal", true},
                 {"a << <c <ca <cal <<call", true},
                 {"a <<call>f:{}</call>", true},
                 {"<call>f:{};f:{};f:{}</call>", true},
                 {"<call>f:{}</call> and text", false},
                 {"<cal<call>f:{1}</call>", false},
                 {"<call>g:{}</call>", false},
                 {"<call>", false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (takes(g, cases[i].text) != cases[i].ok) {
            fail_msg("%s", cases[i].text);
        }
    }
    mk_buf much;  // long texts need no depth
    mk_buf_init(&much, 1 << 20);
    for (int i = 0; i < 30000; i++) {
        mk_buf_puts(&much, "a <c");
    }
    assert_true(takes(g, much.data));
    mk_buf_free(&much);
    mk_grammar_unref(g);
    json_decref(schema);
}

// Nothing is known of calls but their mark: the form or the mark, and anything behind it.
static void open_calls(void **state) {
    (void)state;
    mk_err err = {0};
    mk_grammar *g;
    mk_grammar_calls c = {
        .trigger = "<call>", .open = true, .may_be_text = true, .form = MK_FORM_JSON};
    assert_int_equal(mk_grammar_from_calls(&c, NULL, &g, &err), MK_OK);
    assert_true(takes(g, "{\"a\": 1}"));
    assert_true(takes(g, "<call>\n<f>\n{ [\n</call>"));
    assert_false(takes(g, "text"));
    assert_false(takes(g, "{\"a\": 1} <call>"));
    mk_grammar_unref(g);
}

static void errors_name_the_tool(void **state) {
    (void)state;
    mk_err err = {0};
    mk_grammar *g;
    json_t *schema = parse("{\"type\":\"object\",\"properties\":{\"a\":{\"not\":{}}}}");
    mk_grammar_call call = {.first = "f", .next = "", .schema = schema, .where = "/tools/3/x"};
    mk_grammar_calls c = {.call = &call, .n = 1};
    assert_int_equal(mk_grammar_from_calls(&c, NULL, &g, &err), MK_EUNSUPPORTED);
    assert_memory_equal(err.msg, "/tools/3/x/properties/a", 23);
    json_decref(schema);
    assert_true(mk_call_name_fits("a-b_c.D9"));
    assert_false(mk_call_name_fits("a\"b"));
    assert_false(mk_call_name_fits(""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_found),
        cmocka_unit_test(templates_without_calls),
        cmocka_unit_test(calls_that_are_not_read),
        cmocka_unit_test(required_calls),
        cmocka_unit_test(one_call_at_most),
        cmocka_unit_test(text_or_calls),
        cmocka_unit_test(form_or_calls),
        cmocka_unit_test(marks_in_letters),
        cmocka_unit_test(open_calls),
        cmocka_unit_test(errors_name_the_tool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
