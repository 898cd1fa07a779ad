// What the templates of published models make of an assistant's message is what these models were
// trained to generate: rendered, cut out and parsed it must be that message again.
#include "chat/chat_util.h"
#include "chat/parse.h"
#include "parse_events.h"

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"d\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\","
    "\"description\":\"c\"},\"days\":{\"type\":\"integer\",\"description\":\"n\"}},\"required\":["
    "\"city\"]}}},{\"type\":\"function\",\"function\":{\"name\":\"now\",\"description\":\"t\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]";
static const char user_text[] = "{\"role\":\"user\",\"content\":\"Weather?\"}";
// Arguments are objects, what templates with tojson were made for, or with STRINGS a text.
static const char call_text[] =
    "{\"id\":\"abcdefgh0\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\","
    "\"arguments\":{\"city\":\"K\\u00f6ln <b> \\\"3\\\"\",\"days\":3}}}";
static const char call2_text[] =
    "{\"id\":\"abcdefgh1\",\"type\":\"function\",\"function\":{\"name\":\"now\",\"arguments\":{}}}";

enum { ONE = 1, NO_CONTENT = 2, NULL_CONTENT = 4, STRINGS = 8, INSIDE = 16 };
#define R        "{R|I need a tool.}"
#define T        "{T|Let me look.}"
#define ONE_CALL "{C0 get_weather|{\"city\": \"Köln <b> \\\"3\\\"\", \"days\": 3}}"
#define CALLS    ONE_CALL "{C1 now|{}}"

// What of the message the template writes.
static const struct {
    const char *file, *format;
    int flags;
    const char *want;
} rows[] = {
    {"Qwen-Qwen3-0.6B", "hermes", 0, R T CALLS},
    {"Qwen-Qwen2.5-7B-Instruct", "hermes", 0, T CALLS},
    {"Qwen-QwQ-32B", "hermes", 0, T CALLS},
    {"Qwen3-Coder", "qwen3-coder", 0, T CALLS},
    {"Qwen3.5-4B", "qwen3-coder", 0, R T CALLS},
    {"stepfun-ai-Step-3.5-Flash", "qwen3-coder", 0, R T CALLS},
    {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3-coder", 0, R T CALLS},
    {"StepFun3.5-Flash", "qwen3-coder", 0, R T CALLS},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", 0, CALLS},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", 0, CALLS},
    {"MiMo-VL", "hermes", 0, T CALLS},
    {"Reka-Edge", "hermes", 0,
     R T "{C0 get_weather|{\"city\": \"K\\u00f6ln <b> \\\"3\\\"\", \"days\": 3}}{C1 now|{}}"},
    {"Bielik-11B-v3.0-Instruct", "hermes", 0, R T CALLS},
    {"ByteDance-Seed-OSS", "seed", 0, R T CALLS},
    {"GLM-4.6", "glm", 0, R T CALLS},
    {"GLM-4.7-Flash", "glm", 0, R T CALLS},
    {"GLM-5.2", "glm", 0, R T CALLS},
    {"moonshotai-Kimi-K2", "kimi", 0, T CALLS},
    {"Kimi-K2-Instruct", "kimi", 0, T CALLS},
    {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek", NULL_CONTENT | STRINGS, CALLS},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek", NULL_CONTENT, CALLS},
    {"deepseek-ai-DeepSeek-V3.1", "deepseek", 0, T CALLS},
    {"deepseek-ai-DeepSeek-V3.2", "deepseek-v3.2", 0, R T CALLS},
    {"deepseek-ai-DeepSeek-V4", "deepseek-v4", 0, R T CALLS},
    {"meta-llama-Llama-3.1-8B-Instruct", "llama3", ONE, ONE_CALL},
    {"meta-llama-Llama-3.2-3B-Instruct", "llama3", ONE, ONE_CALL},
    {"meta-llama-Llama-3.3-70B-Instruct", "llama3", ONE, ONE_CALL},
    {"Mistral-Small-3.2-24B-Instruct-2506", "mistral", 0, CALLS},
    {"mistralai-Ministral-3-14B-Reasoning-2512", "mistral", 0, T CALLS},
    {"mistralai-Mistral-Nemo-Instruct-2407", "mistral", 0, CALLS},
    {"unsloth-mistral-Devstral-Small-2507", "mistral", 0, T CALLS},
    {"openai-gpt-oss-120b", "gpt-oss", ONE | NO_CONTENT, R ONE_CALL},
    {"google-gemma-4-31B-it", "gemma4", 0, R CALLS T},
    {"google-gemma-4-31B-it-interleaved", "gemma4", 0, R CALLS T},
    {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command", 0, R CALLS},
    {"Cohere2MoE", "command", 0, R CALLS},
    {"Apertus-8B-Instruct", "apertus", 0, T CALLS},
    {"Apriel-1.6-15b-Thinker-fixed", "apriel", INSIDE, R T CALLS},
    {"unsloth-Apriel-1.5", "apriel", 0, T CALLS},
    {"GigaChat3-10B-A1.8B", "gigachat3", ONE, T ONE_CALL},
    {"GigaChat3.1-10B-A1.8B", "gigachat3.1", ONE, T ONE_CALL},
    {"meetkai-functionary-medium-v3.1", "functionary", 0, T CALLS},
    {"fireworks-ai-llama-3-firefunction-v2", "functools", 0, T CALLS},
    // these write no calls, or only with variables of their own: the format alone
    {"LFM2-8B-A1B", "lfm2", 0, NULL},
    {"LFM2.5-Instruct", "lfm2", 0, NULL},
    {"ibm-granite-granite-3.3-2B-Instruct", "phi4", 0, NULL},
    {"HuggingFaceTB-SmolLM3-3B", "generic", 0, NULL},
    {"google-gemma-2-2b-it", "generic", 0, NULL},
    {"microsoft-Phi-3.5-mini-instruct", "generic", 0, NULL},
    {"MiroThinker", "mirothinker", 0, NULL},
    {"llama-cpp-deepseek-r1", "deepseek", 0, NULL},
};

static json_t *answer_message(int flags) {
    json_t *content = flags & NULL_CONTENT ? json_null()
                      : flags & NO_CONTENT ? json_string("")
                                           : json_string("Let me look.");
    json_t *m = json_pack("{s:s, s:o, s:s, s:[o]}", "role", "assistant", "content", content,
                          "reasoning_content", "I need a tool.", "tool_calls", parse(call_text));
    if (!(flags & ONE)) {
        json_array_append_new(json_object_get(m, "tool_calls"), parse(call2_text));
    }
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(m, "tool_calls"), i, call) {
        json_t *f = json_object_get(call, "function");
        char *text = json_dumps(json_object_get(f, "arguments"), 0);
        if (flags & STRINGS) {
            json_object_set_new(f, "arguments", json_string(text));
        }
        free(text);
    }
    return m;
}

static char *render(const mk_chat_template *t, const json_t *messages, bool prompt,
                    const char *name) {
    mk_err err = {0};
    mk_jinja_text out;
    json_t *tools = parse(tools_text);
    json_t *extra =
        json_pack("{s:b, s:s, s:s}", "add_thoughts", 1, "functions", "[]", "datetime", "now");
    mk_chat_render_opts o = {.add_generation_prompt = prompt, .enable_thinking = 1, .extra = extra};
    if (mk_chat_template_render(t, messages, tools, &o, &out, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    char *text = mk_strndup(out.text.data ? out.text.data : "", out.text.len);
    mk_jinja_text_free(&out);
    json_decref(tools);
    json_decref(extra);
    return text;
}

static size_t trimmed(const char *text, size_t n) {
    while (n > 0 && strchr(" \n", text[n - 1])) {
        n--;
    }
    return n;
}

// What the model generates of `full`: all behind the prompt but the tokens that end it.  *common:
// how much of the prompt stands there (old turns may lack the opening tag that a new one gets).
static char *cut_out(const char *prompt, const char *full, size_t *common) {
    static const char *const ends[] = {"<|start_header_id|>assistant<|end_header_id|>",
                                       "<|CHATBOT_TOKEN|>",
                                       "<|START_OF_TURN_TOKEN|>",
                                       "<|END_OF_TURN_TOKEN|>",
                                       "</s>",
                                       "<sep>",
                                       "<|im_end|>",
                                       "<｜end▁of▁sentence｜>",
                                       "<|eot_id|>",
                                       "<|eom_id|>",
                                       "<|call|>",
                                       "<seed:eos>",
                                       "<turn|>",
                                       "<|end|>",
                                       "<|message_sep|>"};
    size_t k = 0, n = strlen(full);
    while (prompt[k] && prompt[k] == full[k]) {
        k++;
    }
    while (prompt[k] && k > 0 && full[k - 1] == '<') {
        k--;
    }
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t e = strlen(ends[i]), m = trimmed(full, n);
        n = m >= k + e && memcmp(full + m - e, ends[i], e) == 0 ? m - e : n;
    }
    *common = k;
    return mk_strndup(full + k, n - k);
}

static void assert_parses(const mk_parse_opts *o, const char *text, size_t piece, const char *want,
                          const char *name) {
    size_t n = strlen(text);
    parse_events e;
    mk_parser *p;
    parse_events_init(&e);
    assert_int_equal(mk_parser_create(o, parse_events_take, &e, &p, NULL), MK_OK);
    for (size_t i = 0; i < n; i += piece) {
        assert_int_equal(mk_parser_push(p, text + i, piece < n - i ? piece : n - i, NULL), MK_OK);
    }
    assert_int_equal(mk_parser_finish(p, NULL), MK_OK);
    mk_parser_destroy(p);
    parse_events_end(&e);
    if (strcmp(e.line.data, want) != 0) {
        fail_msg("%s in pieces of %zu: [%s]\n  want %s\n  got  %s", name, piece, text, want,
                 e.line.data);
    }
    mk_buf_free(&e.line);
}

static void round_trip(const mk_chat_template *t, size_t row, mk_parse_opts *o) {
    const char *name = rows[row].file;
    json_t *messages = json_pack("[o]", parse(user_text)), *tools = parse(tools_text);
    char *prompt = render(t, messages, true, name);
    json_array_append_new(messages, answer_message(rows[row].flags));
    char *full = render(t, messages, false, name);
    size_t common;
    char *text = cut_out(prompt, full, &common);
    o->tools = tools;
    // INSIDE: the template writes reasoning into old turns without its opening tag
    size_t end = rows[row].flags & INSIDE ? strlen(prompt) : common;
    o->starts_inside = mk_parse_ends_in(prompt, end, o->think_open ? o->think_open : "<think>");
    for (size_t piece = 1; piece < 5; piece++) {
        assert_parses(o, text, piece, rows[row].want, name);
    }
    assert_parses(o, text, strlen(text), rows[row].want, name);
    json_decref(messages);
    json_decref(tools);
    mk_free(prompt);
    mk_free(full);
    mk_free(text);
}

static void messages_come_back(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_err err = {0};
        mk_chat_template *t = NULL;
        mk_parse_opts o = {0};
        char *text = template_text(rows[i].file);
        const mk_chat_special sp[] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
        mk_chat_sources src = {.file = text, .specials = sp, .n_specials = 2};
        if (mk_chat_template_create(&src, &t, &err) != MK_OK) {
            fail_msg("%s: %s", rows[i].file, err.msg);
        }
        mk_parse_detect(text, &o);
        if (strcmp(mk_parse_format_name(o.format), rows[i].format) != 0) {
            fail_msg("%s: taken for %s, not for %s", rows[i].file, mk_parse_format_name(o.format),
                     rows[i].format);
        }
        if (rows[i].want) {
            round_trip(t, i, &o);
        }
        mk_chat_template_destroy(t);
        mk_free(text);
    }
}

static void tags_of_reasoning(void **state) {
    (void)state;
    static const char *const tags[][3] = {
        {"Qwen-Qwen3-0.6B", "<think>", "</think>"},
        {"mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]", "[/THINK]"},
        {"ByteDance-Seed-OSS", "<seed:think>", "</seed:think>"},
        {"google-gemma-4-31B-it", "<|channel>thought", "<channel|>"},
        {"Cohere2MoE", "<|START_THINKING|>", "<|END_THINKING|>"},
        {"Apertus-8B-Instruct", "<|inner_prefix|>", "<|inner_suffix|>"},
        {"Apriel-1.6-15b-Thinker-fixed", "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"},
    };
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        mk_parse_opts o = {0};
        char *text = template_text(tags[i][0]);
        mk_parse_detect(text, &o);
        assert_string_equal(o.think_open, tags[i][1]);
        assert_string_equal(o.think_close, tags[i][2]);
        mk_free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_back),
        cmocka_unit_test(tags_of_reasoning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
