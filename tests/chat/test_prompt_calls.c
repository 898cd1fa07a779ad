// Past calls and reasoning in prompts.  Requests carry the arguments of calls as a text; templates
// want a value, or a text.  Whatever a template takes: what stands in the prompt is what the model
// would have generated, so that the parser reads the same calls out of it.
#include "chat/chat_util.h"
#include "chat/llm_int.h"

#define REASONING "I need a tool."
#define ARGS      "{\"city\": \"Köln <b> \\\"3\\\" it's\", \"days\": 3}"

enum { ONE = 1, REASONS = 2 };

static const struct {
    const char *file;
    int flags;  // REASONS: the template keeps the reasoning of a turn with calls
} rows[] = {
    {"Qwen-Qwen3-0.6B", REASONS},
    {"Qwen-Qwen2.5-7B-Instruct", 0},
    {"Qwen-QwQ-32B", 0},
    {"Qwen3-Coder", 0},
    {"Qwen3.5-4B", REASONS},
    {"stepfun-ai-Step-3.5-Flash", REASONS},
    {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", REASONS},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", 0},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", 0},
    {"MiMo-VL", 0},
    {"Reka-Edge", REASONS},
    {"Bielik-11B-v3.0-Instruct", REASONS},
    {"ByteDance-Seed-OSS", REASONS},
    {"GLM-4.6", REASONS},
    {"GLM-4.7-Flash", REASONS},
    {"GLM-5.2", REASONS},
    {"moonshotai-Kimi-K2", 0},
    {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", 0},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", 0},
    {"deepseek-ai-DeepSeek-V3.1", 0},
    {"deepseek-ai-DeepSeek-V3.2", REASONS},
    {"deepseek-ai-DeepSeek-V4", REASONS},
    {"meta-llama-Llama-3.1-8B-Instruct", ONE},
    {"meta-llama-Llama-3.3-70B-Instruct", ONE},
    {"Mistral-Small-3.2-24B-Instruct-2506", 0},
    {"mistralai-Ministral-3-14B-Reasoning-2512", 0},
    {"mistralai-Mistral-Nemo-Instruct-2407", 0},
    {"unsloth-mistral-Devstral-Small-2507", 0},
    {"openai-gpt-oss-120b", ONE | REASONS},
    {"google-gemma-4-31B-it", REASONS},
    {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", REASONS},
    {"Cohere2MoE", REASONS},
    {"Apertus-8B-Instruct", 0},
    {"unsloth-Apriel-1.5", 0},
    {"GigaChat3-10B-A1.8B", ONE},
    {"GigaChat3.1-10B-A1.8B", ONE},
    {"meetkai-functionary-medium-v3.1", 0},
};

// What the model would be asked, as text.
static char *prompt_text(const mk_llm *llm, const json_t *messages, const json_t *tools,
                         const char *name, mk_parse_opts *po) {
    json_t *extra =
        json_pack("{s:b, s:s, s:s}", "add_thoughts", 1, "functions", "[]", "datetime", "now");
    mk_request r = {
        .messages = messages, .tools = tools, .think = MK_THINK_ON, .template_kwargs = extra};
    mk_prompt p = {0};
    mk_err err = {0};
    if (mk_llm_make_prompt(llm, &r, &p, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    mk_buf b;
    mk_buf_init(&b, 1 << 20);
    for (int64_t i = 0; i < p.ids.n; i++) {
        size_t n;
        const char *text = mk_tokenizer_piece(llm->tokenizer, p.ids.data[i], &n);
        mk_buf_add(&b, text, n);
    }
    *po = p.parse;
    mk_ids_free(&p.ids);
    json_decref(extra);
    return mk_buf_detach(&b);
}

typedef struct {
    mk_buf args;
    char name[64];
    int n_call, n_bad;
} heard;

static void listen(void *arg, const mk_answer_event *ev) {
    heard *h = arg;
    if (ev->kind == MK_AE_TOOL_BEGIN) {
        snprintf(h->name, sizeof h->name, "%s", ev->name);
        mk_buf_clear(&h->args);
    } else if (ev->kind == MK_AE_TOOL_ARGS) {
        mk_buf_add(&h->args, ev->text, ev->n);
    } else if (ev->kind == MK_AE_TOOL_END) {
        json_t *got = NULL, *want = parse(h->n_call == 0 ? ARGS : "{}");
        mk_err err;
        bool ok = h->args.data &&
                  mk_json_parse(h->args.data, h->args.len, "arguments", &got, &err) == MK_OK;
        ok = ok && json_equal(got, want) &&
             strcmp(h->name, h->n_call == 0 ? "get_weather" : "now") == 0;
        h->n_bad += !ok || ev->broken;
        h->n_call++;
        json_decref(got);
        json_decref(want);
    }
}

static json_t *answer(int flags, const char *content) {
    json_t *calls = json_pack("[{s:s, s:s, s:{s:s, s:s}}]", "id", "abcdefgh0", "type", "function",
                              "function", "name", "get_weather", "arguments", ARGS);
    if (!(flags & ONE)) {
        json_array_append_new(calls,
                              json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", "abcdefgh1", "type",
                                        "function", "function", "name", "now", "arguments", "{}"));
    }
    return json_pack("{s:s, s:s?, s:s, s:o}", "role", "assistant", "content", content,
                     "reasoning_content", REASONING, "tool_calls", calls);
}

static json_t *two_tools(void) {
    return parse(
        "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\","
        "\"description\":\"c\"},\"days\":{\"type\":\"integer\",\"description\":\"n\"}},"
        "\"required\":[\"city\"]}}},{\"type\":\"function\",\"function\":{\"name\":\"now\","
        "\"description\":\"t\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]");
}

static void check_row(size_t i, const mk_tokenizer *tok, const char *content) {
    const char *name = rows[i].file;
    mk_llm llm = {.template = read_template(name), .tokenizer = (mk_tokenizer *)(uintptr_t)tok};
    mk_llm_probe_calls(&llm);
    json_t *tools = two_tools();
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "Weather?");
    mk_parse_opts po;
    char *before = prompt_text(&llm, messages, tools, name, &po);
    json_array_append_new(messages, answer(rows[i].flags, content));
    char *after = prompt_text(&llm, messages, tools, name, &po);
    size_t k = 0;
    while (before[k] && before[k] == after[k]) {
        k++;
    }
    for (size_t n = k; n > 0 && after[n - 1] != '>' && k - n < 40; n--) {
        k = after[n - 1] == '<' ? n - 1 : k;  // not into the middle of a mark
    }
    heard h = {0};
    mk_buf_init(&h.args, 1 << 20);
    mk_parser *p;
    po.tools = tools;
    po.starts_inside = mk_parse_ends_in(after, k, po.think_open ? po.think_open : "<think>");
    assert_int_equal(mk_parser_create(&po, listen, &h, &p, NULL), MK_OK);
    assert_int_equal(mk_parser_push(p, after + k, strlen(after + k), NULL), MK_OK);
    assert_int_equal(mk_parser_finish(p, NULL), MK_OK);
    mk_parser_destroy(p);
    if (h.n_bad > 0 || h.n_call != (rows[i].flags & ONE ? 1 : 2)) {
        fail_msg("%s: %d calls, %d bad: %s", name, h.n_call, h.n_bad, after + k);
    }
    if (strstr(after + k, "None")) {
        fail_msg("%s: None: %s", name, after + k);
    }
    bool reasons = strstr(after, REASONING) != NULL;
    if (reasons != ((rows[i].flags & REASONS) != 0)) {
        fail_msg("%s: reasoning %s: %s", name, reasons ? "kept" : "lost", after + k);
    }
    mk_buf_free(&h.args);
    mk_free(before);
    mk_free(after);
    json_decref(messages);
    json_decref(tools);
    mk_chat_template_destroy(llm.template);
}

static void past_calls_are_what_a_model_writes(void **state) {
    (void)state;
    mk_tokenizer *tok = read_tokenizer("qwen2");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_row(i, tok, "");
        check_row(i, tok, NULL);  // what clients send back of an answer without text
    }
    mk_tokenizer_destroy(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(past_calls_are_what_a_model_writes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
