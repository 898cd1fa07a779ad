// How families of models write tool calls: one row per family, recognised by what its chat template
// says.  The comments show one call as the model writes it.
#include <string.h>

#include "chat/parse_int.h"

// <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>
#define HERMES                                                                                     \
    { .open = "<tool_call>", .close = "</tool_call>", .body = MK_BODY_WRAPPED }

// {"name": "f", "parameters": {"a": 1}}
#define BARE                                                                                       \
    { .body = MK_BODY_WRAPPED }

// <function=f>\n<parameter=a>\n1\n</parameter>\n</function>, in an outer tag or alone
#define FUNCTION_LINES(open_tag, close_tag, name_head)                                             \
    {                                                                                              \
        .open = open_tag, .close = close_tag, .body = MK_BODY_XML, .head = {name_head},            \
        .tail = {"~</function>"}, .key = "~<parameter=\3>", .end_value = "</parameter>",           \
        .lines = true                                                                              \
    }

// <｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="false">1
// </｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>
#define DSML(section)                                                                              \
    {                                                                                              \
        .open = "<｜DSML｜" section ">", .close = "</｜DSML｜" section ">", .body = MK_BODY_XML,   \
        .ends_reasoning = true, .head = {"<｜DSML｜invoke name=\"\1\">"},                          \
        .tail = {"~</｜DSML｜invoke>"}, .key = "~<｜DSML｜parameter name=\"\3\" string=\"\4\">",   \
        .end_value = "</｜DSML｜parameter>"                                                      \
    }

// <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a":1}<｜tool▁call▁end｜>
// <｜tool▁calls▁end｜>; R1 and V3 write function<｜tool▁sep｜>f\n```json\n{"a":1}\n```
#define DEEPSEEK(open_tag, before)                                                                 \
    {                                                                                              \
        .open = open_tag, .close = "<｜tool▁calls▁end｜>", .body = MK_BODY_JSON,                   \
        .ends_reasoning = true,                                                                    \
        .head = {before "function<｜tool▁sep｜>\1\n```json", before "\1<｜tool▁sep｜>"}, .tail = { \
            "~```~<｜tool▁call▁end｜>",                                                            \
            "~<｜tool▁call▁end｜>"                                                           \
        }                                                                                          \
    }

// <|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a":1}
// <|tool_call_end|><|tool_calls_section_end|>
#define KIMI(open_tag, close_tag, before)                                                          \
    {                                                                                              \
        .open = open_tag, .close = close_tag, .body = MK_BODY_JSON, .ends_reasoning = true,        \
        .id_names = true,                                                                          \
        .head = {before "\1<|tool_call_argument_begin|>",                                          \
                 before "\1 <|tool_call_argument_begin|>"},                                        \
        .tail = {                                                                                  \
            "~<|tool_call_end|>"                                                                   \
        }                                                                                          \
    }

const mk_parse_format mk_parse_generic = {.name = "generic", .syntax = {HERMES, BARE}};

static const mk_parse_format formats[] = {
    // <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>
    {.name = "gpt-oss",
     .signs = {"<|channel|>analysis", "<|message|>"},
     .force_answer = "<|end|><|start|>assistant<|channel|>final<|message|>",
     .harmony = true},
    // <|tool_call>call:f{a:<|"|>x<|"|>,b:1}<tool_call|>
    {.name = "gemma4",
     .signs = {"<|tool_call>call:"},
     .syntax = {{.open = "<|tool_call>",
                 .body = MK_BODY_PYTHON,
                 .ends_reasoning = true,
                 .head = {"call:\1{"},
                 .tail = {"~<tool_call|>"},
                 .quote = "<|\"|>",
                 .end = '}'}},
     .drop = {"<|tool_response>"}},
    {.name = "deepseek-v3.2",
     .signs = {"｜DSML｜", "function_calls>"},
     .syntax = {DSML("function_calls"), DSML("tool_calls")}},
    {.name = "deepseek-v4",
     .signs = {"｜DSML｜"},
     .syntax = {DSML("tool_calls"), DSML("function_calls")}},
    {.name = "deepseek",
     .signs = {"<｜tool▁calls▁begin｜>"},
     .syntax = {DEEPSEEK("<｜tool▁calls▁begin｜>", "~<｜tool▁call▁begin｜>"),
                DEEPSEEK("<｜tool▁call▁begin｜>", "")}},
    {.name = "kimi",
     .signs = {"<|tool_call_argument_begin|>"},
     .syntax = {KIMI("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
                     "<|tool_call_begin|>"),
                KIMI("<|tool_call_section_begin|>", "<|tool_call_section_end|>",
                     "<|tool_call_begin|>"),
                KIMI("<|tool_call_begin|>", "<|tool_calls_section_end|>", "")}},
    // <tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>
    {.name = "glm",
     .signs = {"<arg_key>"},
     .syntax = {{.open = "<tool_call>",
                 .body = MK_BODY_XML,
                 .head = {"~\1\n", "~\1<\5"},
                 .tail = {"~</tool_call>"},
                 .key = "~<arg_key>\3</arg_key>~<arg_value>",
                 .end_value = "</arg_value>"}}},
    // <seed:tool_call>\n<function=f>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>
    {.name = "seed",
     .signs = {"<seed:tool_call>"},
     .syntax = {{.open = "<seed:tool_call>",
                 .close = "</seed:tool_call>",
                 .body = MK_BODY_XML,
                 .ends_reasoning = true,
                 .head = {"<function=\1>"},
                 .tail = {"~</function>"},
                 .key = "~<parameter=\3>",
                 .end_value = "</parameter>"}}},
    {.name = "qwen3-coder",
     .signs = {"<tool_call>", "<function=", "<parameter="},
     .syntax = {FUNCTION_LINES("<tool_call>", "</tool_call>", "<function=\1>"),
                FUNCTION_LINES("<function=", "</tool_call>", "\1>"), HERMES}},
    // <use_mcp_tool>\n<server_name>s</server_name>\n<tool_name>f</tool_name>\n<arguments>\n{"a": 1}
    // \n</arguments>\n</use_mcp_tool>
    {.name = "mirothinker",
     .signs = {"<use_mcp_tool>"},
     .syntax = {{.open = "<use_mcp_tool>",
                 .close = "</use_mcp_tool>",
                 .body = MK_BODY_JSON,
                 .head = {"<server_name>\2</server_name>~<tool_name>\1</tool_name>~<arguments>"},
                 .tail = {"~</arguments>"}},
                HERMES}},
    // <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a":
    // 1}}]<|END_ACTION|>
    {.name = "command",
     .signs = {"<|START_ACTION|>"},
     .syntax = {{.open = "<|START_ACTION|>",
                 .close = "<|END_ACTION|>",
                 .body = MK_BODY_WRAPPED,
                 .list = true,
                 .ends_reasoning = true}},
     .drop = {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}},
    // <|tools_prefix|>[{"f": {"a": 1}}]<|tools_suffix|>
    {.name = "apertus",
     .signs = {"<|tools_prefix|>"},
     .syntax = {{.open = "<|tools_prefix|>",
                 .close = "<|tools_suffix|>",
                 .body = MK_BODY_KEYED,
                 .list = true,
                 .ends_reasoning = true,
                 .tail = {"~}"}}}},
    // [TOOL_CALLS]f[ARGS]{"a": 1}, [TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"a": 1},
    // [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]
    {.name = "mistral",
     .signs = {"[TOOL_CALLS]"},
     .syntax =
         {{.open = "[TOOL_CALLS]",
           .body = MK_BODY_JSON,
           .ends_reasoning = true,
           .head = {"\1[ARGS]", "\1[CALL_ID]\2[ARGS]"}},
          {.open = "[TOOL_CALLS]", .body = MK_BODY_WRAPPED, .list = true, .ends_reasoning = true}}},
    // <tool_calls>[{"name": "f", "arguments": {"a": 1}}]</tool_calls>
    {.name = "hunyuan",
     .signs = {"<tool_calls>", "<answer>"},
     .syntax = {{.open = "<tool_calls>",
                 .close = "</tool_calls>",
                 .body = MK_BODY_WRAPPED,
                 .list = true}},
     .drop = {"<answer>", "</answer>"}},
    {.name = "apriel",
     .signs = {"<tool_calls>"},
     .syntax = {{.open = "<tool_calls>",
                 .close = "</tool_calls>",
                 .body = MK_BODY_WRAPPED,
                 .list = true}},
     .drop = {"[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"}},
    // <|tool_call_start|>[f(a="x", b=1)]<|tool_call_end|>
    {.name = "lfm2",
     .signs = {"List of tools: "},
     .syntax = {{.open = "<|tool_call_start|>",
                 .close = "<|tool_call_end|>",
                 .body = MK_BODY_PYTHON,
                 .list = true,
                 .ends_reasoning = true,
                 .head = {"\1("},
                 .end = ')'}}},
    // <|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>; Granite does not close it
    {.name = "phi4",
     .signs = {"<|tool_call|>"},
     .syntax = {{.open = "<|tool_call|>",
                 .close = "<|/tool_call|>",
                 .body = MK_BODY_WRAPPED,
                 .list = true,
                 .ends_reasoning = true}}},
    // functools[{"name": "f", "arguments": {"a": 1}}]
    {.name = "functools",
     .signs = {"functools"},
     .syntax = {{.open = "functools", .body = MK_BODY_WRAPPED, .list = true}}},
    // <|function_call|>{"name": "f", "arguments": {"a": 1}}
    {.name = "gigachat3.1",
     .signs = {"<|function_call|>"},
     .syntax = {{.open = "<|function_call|>", .body = MK_BODY_WRAPPED, .ends_reasoning = true}},
     .drop = {"<|message_sep|>"}},
    // <|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "f", "arguments": {"a": 1}}
    {.name = "gigachat3",
     .signs = {"function call", "<|role_sep|>"},
     .syntax = {{.open = "<|message_sep|>\n\nfunction call<|role_sep|>", .body = MK_BODY_WRAPPED},
                {.open = "function call<|role_sep|>", .body = MK_BODY_WRAPPED}},
     .drop = {"<|message_sep|>"}},
    // <function=f>{"a": 1}</function>
    {.name = "functionary",
     .signs = {"<function=", "</function>"},
     .syntax =
         {{.open = "<function=", .body = MK_BODY_JSON, .head = {"\1>"}, .tail = {"~</function>"}}}},
    // {"name": "f", "parameters": {"a": 1}}, <|python_tag|>f.call(a="x")
    {.name = "llama3",
     .signs = {"\"parameters\": ", "<|start_header_id|>"},
     .syntax = {{.open = "<|python_tag|>", .body = MK_BODY_WRAPPED, .ends_reasoning = true},
                {.open = "<|python_tag|>",
                 .body = MK_BODY_PYTHON,
                 .ends_reasoning = true,
                 .head = {"\1.call("},
                 .end = ')'},
                BARE}},
    // ERNIE 4.5 Thinking
    {.name = "ernie",
     .signs = {"<tool_call>", "<response>"},
     .syntax = {HERMES},
     .drop = {"<response>", "</response>"}},
    {.name = "hermes", .signs = {"<tool_call>"}, .syntax = {HERMES}},
};
enum { N_FORMAT = sizeof formats / sizeof formats[0] };

// Tags of reasoning other than <think>; the first pair that the template names.
static const struct {
    const char *sign, *open, *close;
} tags[] = {
    {"<seed:think>", "<seed:think>", "</seed:think>"},
    {"<|channel>thought", "<|channel>thought", "<channel|>"},
    {"<|START_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"},
    {"<|inner_prefix|>", "<|inner_prefix|>", "<|inner_suffix|>"},
    {"◁think▷", "◁think▷", "◁/think▷"},
    {"Here are my reasoning steps:", "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"},
    {"</think>", "<think>", "</think>"},
    {"[THINK]", "[THINK]", "[/THINK]"},
    {"<thinking>", "<thinking>", "</thinking>"},
};

static bool has_signs(const char *text, const mk_parse_format *f) {
    for (int i = 0; i < MK_N_SIGN && f->signs[i]; i++) {
        if (!strstr(text, f->signs[i])) {
            return false;
        }
    }
    return true;
}

void mk_parse_detect(const char *template_text, mk_parse_opts *o) {
    const char *text = template_text ? template_text : "";
    o->format = &mk_parse_generic;
    o->think_open = o->think_close = NULL;
    for (int i = N_FORMAT - 1; i >= 0; i--) {
        o->format = has_signs(text, &formats[i]) ? &formats[i] : o->format;
    }
    for (size_t i = 0; i < sizeof tags / sizeof tags[0] && !o->think_open; i++) {
        if (strstr(text, tags[i].sign)) {
            o->think_open = tags[i].open;
            o->think_close = tags[i].close;
        }
    }
}

const mk_parse_format *mk_parse_format_at(int i) {
    return i >= 0 && i < N_FORMAT ? &formats[i] : i == N_FORMAT ? &mk_parse_generic : NULL;
}

const mk_parse_format *mk_parse_format_find(const char *name) {
    const mk_parse_format *f;
    for (int i = 0; (f = mk_parse_format_at(i)) != NULL; i++) {
        if (strcmp(f->name, name) == 0) {
            return f;
        }
    }
    return NULL;
}

const char *mk_parse_format_name(const mk_parse_format *f) {
    return f->name;
}

bool mk_parse_format_has_headers(const mk_parse_format *f) {
    return f->harmony;
}

mk_parse_writing mk_parse_format_writing(const mk_parse_format *f) {
    const mk_call_syntax *s = &f->syntax[0];
    mk_parse_writing w = {.ends = "",
                          .open = s->open ? s->open : "",
                          .close = s->close ? s->close : "",
                          .list = s->list};
    if (s->body == MK_BODY_XML) {
        w.kind = MK_PARSE_XML;
        w.ends = s->end_value;
    } else if (s->body == MK_BODY_PYTHON) {
        w.kind = s->quote ? MK_PARSE_MARKED : MK_PARSE_PYTHON;
        w.ends = s->quote ? s->quote : "";
    }
    return w;
}

void mk_parse_force_answer(const mk_parse_opts *o, mk_buf *out) {
    if (o->format && o->format->force_answer) {
        mk_buf_puts(out, o->format->force_answer);
    } else {
        mk_buf_printf(out, "\n%s\n\n", o->think_close ? o->think_close : "</think>");
    }
}
