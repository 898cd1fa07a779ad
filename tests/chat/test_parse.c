// Parsing answers: recorded ones of every family, cut at every place and at every pair of places.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "chat/parse.h"
#include "parse_events.h"

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},"
    "\"tags\":{\"type\":\"array\"},\"opt\":{\"anyOf\":[{\"type\":\"object\"},{\"type\":\"null\"}]},"
    "\"metric\":{\"type\":[\"boolean\",\"string\"]}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"now\",\"parameters\":{}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"name\":\"g\"},5]";

static json_t *tools;

static int load_tools(void **state) {
    (void)state;
    return mk_json_parse(tools_text, sizeof tools_text - 1, "tools", &tools, NULL) == MK_OK ? 0
                                                                                            : -1;
}

static int drop_tools(void **state) {
    (void)state;
    json_decref(tools);
    return 0;
}

// The events of a text cut at a and b (a <= b); bytes: at every byte.
static void parse(const mk_parse_opts *o, const char *text, size_t a, size_t b, bool bytes,
                  parse_events *e) {
    mk_err err = {0};
    mk_parser *p;
    size_t n = strlen(text), cut[4] = {0, a, b, n};
    parse_events_init(e);
    assert_int_equal(mk_parser_create(o, parse_events_take, e, &p, &err), MK_OK);
    for (size_t i = 0; bytes && i < n; i++) {
        assert_int_equal(mk_parser_push(p, text + i, 1, &err), MK_OK);
    }
    for (int i = 0; !bytes && i < 3; i++) {
        assert_int_equal(mk_parser_push(p, text + cut[i], cut[i + 1] - cut[i], &err), MK_OK);
    }
    assert_int_equal(mk_parser_finish(p, &err), MK_OK);
    mk_parser_destroy(p);
    parse_events_end(e);
}

static void assert_parses(const mk_parse_opts *o, const char *text, size_t a, size_t b, bool bytes,
                          const char *want) {
    parse_events e;
    parse(o, text, a, b, bytes, &e);
    if (strcmp(e.line.data, want) != 0) {
        fail_msg("%s cut at %zu and %zu%s:\n%s\n  want %s\n  got  %s",
                 mk_parse_format_name(o->format ? o->format : mk_parse_format_find("generic")), a,
                 b, bytes ? " (bytes)" : "", text, want, e.line.data);
    }
    mk_buf_free(&e.line);
}

// The whole first, so that a wrong answer is told from one that depends on the cuts.
static void assert_every_cut(const mk_parse_opts *o, const char *text, const char *want) {
    size_t n = strlen(text);
    bool pairs = n <= 120;
    assert_parses(o, text, 0, 0, false, want);
    assert_parses(o, text, 0, 0, true, want);
    for (size_t a = 0; a <= n; a++) {
        assert_parses(o, text, a, a, false, want);
        for (size_t b = a; pairs && b <= n; b++) {
            assert_parses(o, text, a, b, false, want);
        }
    }
}

#define ARGS "{\"city\": \"Köln\", \"days\": 3}"

// What models write, and what must come of it.
static const struct {
    const char *format;  // with ">" in front: the prompt ended in the opening tag
    const char *text, *want;
} rows[] = {
    // reasoning beside calls, texts on all sides
    {"hermes",
     "<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{\"name\": \"get_weather\", "
     "\"arguments\": " ARGS "}\n</tool_call>\n",
     "{R|Hm.}{T|Sure.}{C0 get_weather|" ARGS "}"},
    {"hermes",
     "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>\n<tool_call>\n{\"arguments\":{"
     "\"a\":[1,{}]},\"name\":\"f\"}</tool_call> and <b>text</b>",
     "{C0 now|{}}{C1 f|{\"a\":[1,{}]}}{T|and <b>text</b>}"},
    {"hermes",
     "<tool_call>{\"name\":\"now\"}</tool_call><tool_call>{\"name\":\"f\",\"arguments\":null,\"x\":"
     "1}{\"name\":\"g\",\"arguments\":\"\"}</tool_call>",
     "{C0 now|{}}{C1 f|{}}{C2 g|{}}"},
    {"hermes",
     "<tool_call>{\"id\":\"7\",\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\\\"x\\\\ny\\\\u00e9 "
     "\\u00e9\\ud83d\\ude00\\\"}\"}</tool_call>",
     "{C0 f|{\"a\":\"x\\ny\\u00e9 é😀\"}}"},
    {"hermes", "x <tool_call> is how one calls", "{T|x <tool_call> is how one calls}"},
    {"hermes", "<tool_call>\n{\"name\": \"f\", \"argu",
     "{T|<tool_call>\n{\"name\": \"f\", \"argu}"},
    {"hermes", "<tool_call>{\"nam\": 1}</tool_call>", "{T|<tool_call>{\"nam\": 1}</tool_call>}"},
    {"hermes", "<tool_call>[1]</tool_call>", "{T|<tool_call>[1]</tool_call>}"},
    {"hermes", "<tool_call>oh <tool_call>{\"name\":\"f\"}</tool_call>",
     "{T|<tool_call>oh}{C0 f|{}}"},
    {"hermes", "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\": \"ab", "{C0 f|{\"a\": \"ab!}"},
    {"hermes", "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\": x}}</tool_call> so",
     "{C0 f|{\"a\": !}{T|x}}</tool_call> so}"},
    {"hermes", "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"line\n2\t\"}}</tool_call>",
     "{C0 f|{\"a\":\"line\\u000a2\\u0009\"}}"},
    {"hermes", "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":-1.5e+3}}",
     "{C0 f|{\"a\":-1.5e+3}}"},
    {"hermes", "<tool_call>{\"name\":\"unknown\",\"arguments\":{}}</tool_call>", "{C0 unknown|{}}"},
    {"hermes", "<think>I write <tool_call>{\"name\":\"f\"}</tool_call></think>x",
     "{R|I write <tool_call>{\"name\":\"f\"}</tool_call>}{T|x}"},
    {"hermes", "  a  <b  \n", "{T|  a  <b  \n}"},
    {"generic", "{\"name\": \"f\", \"arguments\": {\"a\": 1}}", "{C0 f|{\"a\": 1}}"},
    {"generic", "{\"name\": \"John\", \"age\": 3}", "{T|{\"name\": \"John\", \"age\": 3}}"},
    {"generic", "{\"city\": \"f\"}", "{T|{\"city\": \"f\"}}"},
    {"generic", "see {\"name\": \"f\"}", "{T|see {\"name\": \"f\"}}"},
    // Llama
    {"llama3", "{\"name\": \"get_weather\", \"parameters\": " ARGS "}",
     "{C0 get_weather|" ARGS "}"},
    {"llama3",
     "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\"}\n done",
     "{C0 f|{}}{C1 g|{}}{T|done}"},
    {"llama3", "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "{C0 f|{}}"},
    {"llama3", "<|python_tag|>brave_search.call(query=\"a \\\"b\\\" \\x41\", n=1)",
     "{C0 brave_search|{\"query\": \"a \\\"b\\\" \\u0041\", \"n\": 1}}"},
    {"llama3", "<|python_tag|>print(1)", "{T|<|python_tag|>print(1)}"},
    // Mistral
    {"mistral", "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}",
     "{C0 f|{\"a\": 1}}{C1 g|{}}"},
    {"mistral",
     "Hi[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}, \"id\": \"123456789\"}, "
     "{\"name\": \"g\", \"arguments\": {}}] end",
     "{T|Hi}{C0 f|{\"a\": \"]\"}}{C1 g|{}}{T|end}"},
    {"mistral", "[TOOL_CALLS] [1]", "{T|[TOOL_CALLS] [1]}"},
    // DeepSeek
    {">deepseek",
     "a</think>b<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\":1}<｜tool▁call▁end"
     "｜><｜tool▁call▁begin｜>now<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "{R|a}{T|b}{C0 f|{\"a\":1}}{C1 now|{}}"},
    {">deepseek",
     "thought<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\":1}"
     "\n"
     "```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "{R|thought}{C0 f|{\"a\":1}}{C1 g|{}}"},
    {"deepseek-v3.2",
     "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter "
     "name=\"city\" string=\"true\">\"3\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" "
     "string=\"false\">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n"
     "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
     "{C0 get_weather|{\"city\": \"\\\"3\\\"\", \"days\": 3}}{C1 now|{}}"},
    {"deepseek-v4",
     "<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"x\" "
     "string=\"maybe\">",
     "{C0 f|{!}{T|<｜DSML｜parameter name=\"x\" string=\"maybe\">}"},
    // Kimi
    {"kimi",
     "Hm<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
     "{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.g:12<|tool_call_argument_begin|>"
     "<|tool_call_end|><|tool_calls_section_end|>",
     "{T|Hm}{C0 f|{\"a\": 1}}{C1 g|{}}"},
    {"kimi",
     "<think>x <|tool_call_section_begin|><|tool_call_begin|>f:0 <|tool_call_argument_begin|>{}"
     "<|tool_call_end|><|tool_call_section_end|>",
     "{R|x}{C0 f|{}}"},
    // XML
    {"glm",
     "ok<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>a \"b\"\n1</arg_value>\n"
     "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now</tool_call>",
     "{T|ok}{C0 get_weather|{\"city\": \"a \\\"b\\\"\\n1\", \"days\": 3}}{C1 now|{}}"},
    {"glm",
     "<tool_call>f<arg_key>a</arg_key><arg_value>[1, \"x\"]</arg_value><arg_key>b</arg_key>"
     "<arg_value>[1,</arg_value></tool_call>",
     "{C0 f|{\"a\": [1, \"x\"], \"b\": \"[1,\"}}"},
    {"glm", "<tool_call> is a tag", "{T|<tool_call> is a tag}"},
    {"qwen3-coder",
     "Hi\n<tool_call>\n<function=get_weather>\n<parameter=city>\n123\n</parameter>\n<parameter="
     "days>\n3\n</parameter>\n<parameter=metric>\nTrue\n</parameter>\n<parameter=opt>\nNone\n"
     "</parameter>\n</function>\n</tool_call>",
     "{T|Hi}{C0 get_weather|{\"city\": \"123\", \"days\": 3, \"metric\": true, \"opt\": null}}"},
    {"qwen3-coder",
     "<function=get_weather>\n<parameter=city>\n\na\n\n</parameter></function></tool_call>x",
     "{C0 get_weather|{\"city\": \"\\na\\n\"}}{T|x}"},
    {"qwen3-coder",
     "<tool_call><function=now></function></tool_call><tool_call><function=now>\n</tool_call>",
     "{C0 now|{}}{C1 now|{}}"},
    {"qwen3-coder", "<tool_call>\n<function=f>\n<parameter=a>\nx</par", "{C0 f|{\"a\": !}"},
    {"qwen3-coder", "<tool_call>\n<function=f>\nno parameter", "{C0 f|{!}{T|\nno parameter}"},
    {"qwen3-coder",
     "<tool_call>\n<function=get_weather>\n<parameter=tags>\n[\"a\",\n 1]\n</parameter>\n"
     "<parameter=city></parameter></function></tool_call>",
     "{C0 get_weather|{\"tags\": [\"a\",\n 1], \"city\": \"\"}}"},
    {"seed",
     "<seed:tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n"
     "</seed:tool_call>",
     "{C0 f|{\"a\": \"\\nx\\n\"}}"},
    {"mirothinker",
     "\n<use_mcp_tool>\n<server_name>a b</server_name>\n<tool_name>f</tool_name>\n<arguments>\n"
     "{\"a\": 1}\n</arguments>\n</use_mcp_tool>",
     "{C0 f|{\"a\": 1}}"},
    // lists
    {"command",
     "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {}},"
     "\n    {\"tool_call_id\": \"1\", \"tool_name\": \"g\", \"parameters\": {\"a\": 1}}\n]"
     "<|END_ACTION|>",
     "{C0 f|{}}{C1 g|{\"a\": 1}}"},
    {"command", "<|START_RESPONSE|>Hi <b>.<|END_RESPONSE|>", "{T|Hi <b>.}"},
    {"apertus", "<|tools_prefix|>[{\"f\": {\"a\": 1}}, {\"g\": {}}]<|tools_suffix|>",
     "{C0 f|{\"a\": 1}}{C1 g|{}}"},
    {"hunyuan",
     "<think>\na\n</think>\n<answer>\nb <tool_calls>[{\"name\": \"f\", \"arguments\": {}}]"
     "</tool_calls>\n</answer>",
     "{R|a}{T|b}{C0 f|{}}"},
    {"phi4", "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}]<|/tool_call|>", "{C0 f|{}}"},
    {"functools", "functools[{\"name\": \"f\", \"arguments\": {}}]", "{C0 f|{}}"},
    {"gigachat3.1", "Hm<|function_call|>{\"name\": \"f\", \"arguments\": {}}", "{T|Hm}{C0 f|{}}"},
    {"functionary", "<function=f>{\"a\": 1}</function><function=g>{}</function>",
     "{C0 f|{\"a\": 1}}{C1 g|{}}"},
    {"ernie", "<response>\nhi\n</response>\n", "{T|hi}"},
    // Python
    {"lfm2",
     "<|tool_call_start|>[f(a='it\\'s', b=[1, (2,), {\"k\": None, \"l\": {}}], c=True), g()]"
     "<|tool_call_end|>ok",
     "{C0 f|{\"a\": \"it's\", \"b\": [1, [2], {\"k\": null, \"l\": {}}], \"c\": true}}{C1 g|{}}"
     "{T|ok}"},
    {"lfm2", "<|tool_call_start|>[f(a=b)]", "{C0 f|{\"a\": !}{T|)]}"},
    {"lfm2", "<|tool_call_start|>[f(1)]", "{C0 f|{\"1\"!}{T|)]}"},
    {"lfm2", "<|tool_call_start|>[f(a='\\d\\n\n\\u12", "{C0 f|{\"a\": \"\\\\d\\n\\n\\\\u12!}"},
    {"gemma4",
     "<|channel>thought\nhm\n<channel|><|tool_call>call:f{a:<|\"|>x \"y\" <|<|\"|>,b:{c:[1.5,"
     "true,null]},d:[]}<tool_call|><|tool_call>call:now{}<tool_call|><|tool_response>",
     "{R|hm}{C0 f|{\"a\": \"x \\\"y\\\" <|\", \"b\": {\"c\": [1.5, true, null]}, \"d\": []}}"
     "{C1 now|{}}"},
    // gpt-oss
    {"gpt-oss",
     "<|channel|>analysis<|message|>a <b<|end|><|start|>assistant<|channel|>commentary to="
     "functions.f <|constrain|>json<|message|>{\"a\":1}<|call|>",
     "{R|a <b}{C0 f|{\"a\":1}}"},
    {"gpt-oss", " to=functions.f<|channel|>analysis json<|message|>{}", "{C0 f|{}}"},
    {"gpt-oss",
     "<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>final<|message|> "
     "x<|return|>",
     "{T|First. x}"},
    {"gpt-oss", "<|channel|>commentary to=python<|message|>print(1)<|end|>",
     "{T|<|channel|>commentary to=python<|message|>print(1)}"},
    {"gpt-oss", "no header at all", "{T|no header at all}"},
    {"gpt-oss", "<|channel|>final<|mess", "{T|<|channel|>final<|mess}"},
    {"gpt-oss", "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b",
     "{R|a}{T|b}"},
    {"gpt-oss", "x<|channel|>commentary to=functions.f<|message|>{\"a\"<|call|>",
     "{T|x}{C0 f|{\"a\"!}"},
};

static mk_parse_opts opts_of(size_t i) {
    bool inside = rows[i].format[0] == '>';
    mk_parse_opts o = {.format = mk_parse_format_find(rows[i].format + inside),
                       .tools = tools,
                       .starts_inside = inside};
    assert_non_null(o.format);
    if (strcmp(rows[i].format, "gemma4") == 0) {
        o.think_open = "<|channel>thought";
        o.think_close = "<channel|>";
    }
    return o;
}

static void every_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_parse_opts o = opts_of(i);
        assert_every_cut(&o, rows[i].text, rows[i].want);
    }
}

// Without tools a call is text like any other.
static void no_tools(void **state) {
    (void)state;
    json_t *empty = json_array();
    static const char text[] = "<think>a</think>\n<tool_call>{\"name\":\"f\"}</tool_call>  ";
    mk_parse_opts o = {.format = mk_parse_format_find("hermes"), .tools = empty};
    assert_every_cut(&o, text, "{R|a}{T|<tool_call>{\"name\":\"f\"}</tool_call>  }");
    json_decref(empty);
    o.tools = NULL;
    assert_every_cut(&o, text, "{R|a}{T|<tool_call>{\"name\":\"f\"}</tool_call>  }");
    o.no_reasoning = true;
    assert_every_cut(&o, "<think>a</think>\n", "{T|<think>a</think>\n}");
    o = (mk_parse_opts){.format = mk_parse_format_find("gpt-oss")};
    assert_every_cut(&o, "<|channel|>commentary to=functions.f<|message|>{}<|call|>", "{T|{}}");
}

// The shapes models produce (tags alone on a line, beside text, twice, missing, cut off), and what
// must come of them.
static const struct {
    mk_parse_opts opts;
    const char *text, *reasoning, *content;
} thoughts[] = {
    {{0}, "<think>\nTwo and two.\n</think>\n\nIt is 4.", "Two and two.", "It is 4."},
    {{0}, "<think>a</think>b", "a", "b"},
    {{0}, "\n <think>\n\n</think>\n\nempty thought", "", "empty thought"},
    {{0}, "no thought at all", "", "no thought at all"},
    {{0}, "  leading blanks stay", "", "  leading blanks stay"},
    {{0}, "I write <think> here</think>.", "", "I write <think> here</think>."},
    {{0}, "<thin ice", "", "<thin ice"},
    {{0}, "<think", "", "<think"},
    {{0}, "<", "", "<"},
    {{0}, "", "", ""},
    {{0}, "   ", "", "   "},
    {{0}, "<think>", "", ""},
    {{0}, "<think>cut off in the mid", "cut off in the mid", ""},
    {{0}, "<think>cut off </thi", "cut off </thi", ""},
    {{0}, "<think>trailing blanks \n", "trailing blanks", ""},
    {{0}, "<think>a < b </ c </think </think>d", "a < b </ c </think", "d"},
    {{0},
     "<think> in  between \n\n kept </think> x </think> y",
     "in  between \n\n kept",
     "x </think> y"},
    {{0}, "<think>x</think>y<think>z</think>", "x", "y<think>z</think>"},
    {{0}, "<think><think>x</think>y", "<think>x", "y"},
    {{0}, "<think>é🙂</think>\n日本 ", "é🙂", "日本 "},
    {{0}, "<think><</</t</think>!", "<</</t", "!"},
    {{0}, "answer</think>after", "", "answer</think>after"},
    {{.starts_inside = true}, "\nthought\n</think>\n\nanswer", "thought", "answer"},
    {{.starts_inside = true}, "thought only", "thought only", ""},
    {{.starts_inside = true}, "</think>answer", "", "answer"},
    {{.starts_inside = true}, "", "", ""},
    {{.no_reasoning = true}, "<think>a</think>b", "", "<think>a</think>b"},
    {{.think_open = "[THINK]", .think_close = "[/THINK]"}, "[THINK]a[/THINK]b", "a", "b"},
    {{.think_open = "[THINK]", .think_close = "[/THINK]"}, "[THINK]a[/TH[/THINK]b", "a[/TH", "b"},
    {{.think_open = "◁think▷", .think_close = "◁/think▷"}, "◁think▷a◁b◁/think▷c", "a◁b", "c"},
    {{.think_open = "aab", .think_close = "aaab"}, "aabxaaaaabz", "xaa", "z"},
};

static void reasoning(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof thoughts / sizeof thoughts[0]; i++) {
        mk_buf want;
        mk_buf_init(&want, 4096);
        const char *r = thoughts[i].reasoning, *c = thoughts[i].content;
        mk_buf_printf(&want, "%s%s%s%s%s%s", *r ? "{R|" : "", r, *r ? "}" : "", *c ? "{T|" : "", c,
                      *c ? "}" : "");
        mk_parse_opts o = thoughts[i].opts;
        assert_every_cut(&o, thoughts[i].text, want.data);
        // looking for calls changes nothing
        o.tools = tools;
        assert_every_cut(&o, thoughts[i].text, want.data);
        mk_buf_free(&want);
    }
}

// Nothing that is certain waits: after each byte only white space or the beginning of a tag is
// held, and arguments come as they are written.
static void nothing_is_held_without_need(void **state) {
    (void)state;
    static const struct {
        const char *piece, *events;
        mk_parse_place place;
    } steps[] = {
        {"<thi", "", MK_PLACE_START},
        {"nk>", "", MK_PLACE_REASONING},
        {"abc", "{R|abc", MK_PLACE_REASONING},
        {"</thi", "{R|abc", MK_PLACE_REASONING},
        {"x", "{R|abc</thix", MK_PLACE_REASONING},
        {"</think>", "{R|abc</thix", MK_PLACE_ANSWER},
        {"\n\ny", "{R|abc</thix}{T|y", MK_PLACE_ANSWER},
        {"\n<tool_call>\n{\"name\": \"f", "{R|abc</thix}{T|y", MK_PLACE_ANSWER},
        {"\", \"arguments\": {", "{R|abc</thix}{T|y}{C0 f|{", MK_PLACE_CALL},
        {"\"k\": \"v", "{R|abc</thix}{T|y}{C0 f|{\"k\": \"v", MK_PLACE_CALL},
        {"\"}", "{R|abc</thix}{T|y}{C0 f|{\"k\": \"v\"}}", MK_PLACE_CALL},
        {"}\n</tool_call>", "{R|abc</thix}{T|y}{C0 f|{\"k\": \"v\"}}", MK_PLACE_ANSWER},
    };
    mk_err err = {0};
    mk_parser *p;
    parse_events e;
    mk_parse_opts o = {.format = mk_parse_format_find("hermes"), .tools = tools};
    parse_events_init(&e);
    mk_buf_puts(&e.line, "");
    assert_int_equal(mk_parser_create(&o, parse_events_take, &e, &p, &err), MK_OK);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        assert_int_equal(mk_parser_push(p, steps[i].piece, strlen(steps[i].piece), &err), MK_OK);
        assert_string_equal(e.line.data, steps[i].events);
        assert_int_equal(mk_parser_place(p), steps[i].place);
    }
    assert_int_equal(mk_parser_n_calls(p), 1);
    mk_parser_destroy(p);
    mk_buf_free(&e.line);
}

// A parameter of an XML family streams if it can only be a string.
static void strings_stream(void **state) {
    (void)state;
    mk_err err = {0};
    mk_parser *p;
    parse_events e;
    mk_parse_opts o = {.format = mk_parse_format_find("qwen3-coder"), .tools = tools};
    static const char text[] = "<tool_call>\n<function=get_weather>\n<parameter=city>\nab";
    parse_events_init(&e);
    assert_int_equal(mk_parser_create(&o, parse_events_take, &e, &p, &err), MK_OK);
    assert_int_equal(mk_parser_push(p, text, sizeof text - 1, &err), MK_OK);
    assert_string_equal(e.line.data, "{C0 get_weather|{\"city\": \"ab");
    mk_parser_destroy(p);
    mk_buf_free(&e.line);
}

static void bad_tags(void **state) {
    (void)state;
    mk_err err = {0};
    mk_parser *p;
    char big[80];
    memset(big, 'x', sizeof big);
    big[79] = 0;
    const mk_parse_opts bad[] = {
        {.think_open = ""}, {.think_close = ""}, {.think_open = big}, {.think_close = " x"}};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(mk_parser_create(&bad[i], NULL, NULL, &p, &err), MK_EUSAGE);
        assert_null(p);
    }
}

static void prompt_end(void **state) {
    (void)state;
    assert_true(mk_parse_ends_in("x<think>", 8, "<think>"));
    assert_true(mk_parse_ends_in("x<think>\n\n", 10, "<think>"));
    assert_false(mk_parse_ends_in("x<think>a", 9, "<think>"));
    assert_false(mk_parse_ends_in("<think>\n</think>", 16, "<think>"));
    assert_false(mk_parse_ends_in("", 0, "<think>"));
}

// --- bounds --------------------------------------------------------------------------------------

// Long stretches of white space, heads that never end, names too long: text, and the same however
// it is cut (pieces of 1, 7, 4096, all).
static void long_texts(void **state) {
    (void)state;
    static const char *const rows_of[][3] = {
        // before, filling, behind
        {"<think>a", " ", "b</think>c"},
        {"<think>a", " ", "</think>c"},
        {"x", "\n", "<tool_call>{\"name\":\"f\"}</tool_call>"},
        {"", " ", "<think>a</think>"},
        {"<tool_call>", " ", "{\"name\":\"f\"}</tool_call>"},
        {"<tool_call>{\"name\":\"f\",\"x\":\"", "y", "\",\"arguments\":{}}</tool_call>"},
        {"<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":\"", "y", "\"}}</tool_call>"},
        {"<tool_call>{\"name\":\"", "f", "\",\"arguments\":{}}</tool_call>"},
        {"<tool_call>{\"name\":\"f\",\"arguments\":{}", " ", "}</tool_call>x"},
    };
    for (size_t i = 0; i < sizeof rows_of / sizeof rows_of[0]; i++) {
        for (size_t n = 4000; n < 4200; n += 13) {
            mk_buf text;
            mk_parse_opts o = {.format = mk_parse_format_find("hermes"), .tools = tools};
            mk_buf_init(&text, 1 << 20);
            mk_buf_puts(&text, rows_of[i][0]);
            for (size_t k = 0; k < n; k++) {
                mk_buf_puts(&text, rows_of[i][1]);
            }
            mk_buf_puts(&text, rows_of[i][2]);
            parse_events whole;
            parse(&o, text.data, 0, 0, false, &whole);
            assert_parses(&o, text.data, 0, 0, true, whole.line.data);
            size_t cut = text.len < 4097 ? text.len : 4096;
            assert_parses(&o, text.data, cut, cut, false, whole.line.data);
            assert_parses(&o, text.data, text.len / 2, cut, false, whole.line.data);
            mk_buf_free(&whole.line);
            mk_buf_free(&text);
        }
    }
}

// A parameter whose type needs the whole of it is bounded; one that streams is not.
static void long_values(void **state) {
    (void)state;
    static const char *const keys[] = {"tags", "city"};
    for (int i = 0; i < 2; i++) {
        mk_err err = {0};
        mk_parser *p;
        mk_parse_opts o = {.format = mk_parse_format_find("qwen3-coder"), .tools = tools};
        char head[100], many[1000];
        mk_status st = MK_OK;
        memset(many, 'x', sizeof many);
        snprintf(head, sizeof head, "<tool_call><function=get_weather><parameter=%s>", keys[i]);
        assert_int_equal(mk_parser_create(&o, NULL, NULL, &p, &err), MK_OK);
        assert_int_equal(mk_parser_push(p, head, strlen(head), &err), MK_OK);
        for (int k = 0; k < 1100 && st == MK_OK; k++) {
            st = mk_parser_push(p, many, sizeof many, &err);
        }
        assert_int_equal(st, i == 0 ? MK_ELIMIT : MK_OK);
        assert_int_equal(mk_parser_push(p, "x", 1, &err), st);
        assert_int_equal(mk_parser_finish(p, &err), st);
        mk_parser_destroy(p);
    }
}

// What the schema says of a parameter decides what its text is.
static void types_of_parameters(void **state) {
    (void)state;
    static const struct {
        const char *schema, *text, *want;
    } cases[] = {
        {"{\"type\":\"string\"}", "12", "\"12\""},
        {"{\"type\":\"integer\"}", "12", "12"},
        {"{\"type\":\"integer\"}", "1.0", "1.0"},
        {"{\"type\":[\"string\",\"integer\"]}", "12", "12"},
        {"{\"type\":[\"string\",\"integer\"]}", "1.5", "\"1.5\""},
        {"{\"type\":[\"string\",\"number\"]}", "1.5", "1.5"},
        {"{\"$ref\":\"#/$defs/s\"}", "12", "\"12\""},
        {"{\"$ref\":\"#/$defs/none\"}", "12", "12"},
        {"{\"allOf\":[{\"type\":[\"string\",\"number\"]},{\"type\":\"string\"}]}", "12", "\"12\""},
        {"{\"type\":\"string\",\"nullable\":true}", "null", "null"},
        {"{\"type\":\"string\",\"anyOf\":[{\"minLength\":1}]}", "12", "\"12\""},
        {"{\"pattern\":\"^[0-9]+$\"}", "12", "\"12\""},
        {"{}", "12", "12"},
        {"{\"type\":\"array\"}", "['a\"b', True, {'k': None}]",
         "[\"a\\\"b\", true, {\"k\": null}]"},
        {"{\"type\":\"array\"}", "['a'] ", "[\"a\"]"},
        {"{\"type\":\"array\"}", "[1], [2]", "\"[1], [2]\""},
        {"{\"type\":\"array\"}", "['a'", "\"['a'\""},
        {"{\"$ref\":\"#/$defs/many\"}", "12", "12"},  // looked at for a while only
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mk_err err = {0};
        mk_parser *p;
        parse_events e;
        json_t *schema = NULL;
        assert_int_equal(
            mk_json_parse(cases[i].schema, strlen(cases[i].schema), "schema", &schema, &err),
            MK_OK);
        json_t *many = json_array();
        for (int k = 0; k < 100; k++) {
            json_array_append_new(many, json_pack("{s:s}", "$ref", "#/$defs/many"));
        }
        json_t *own = json_pack("[{s:s, s:{s:s, s:{s:{s:o}, s:{s:{s:s}, s:{s:o}}}}}]", "type",
                                "function", "function", "name", "f", "parameters", "properties",
                                "a", schema, "$defs", "s", "type", "string", "many", "anyOf", many);
        mk_parse_opts o = {.format = mk_parse_format_find("glm"), .tools = own};
        parse_events_init(&e);
        assert_int_equal(mk_parser_create(&o, parse_events_take, &e, &p, &err), MK_OK);
        char text[300], want[300];
        snprintf(text, sizeof text,
                 "<tool_call>f\n<arg_key>a</arg_key><arg_value>%s</arg_value></tool_call>",
                 cases[i].text);
        snprintf(want, sizeof want, "{C0 f|{\"a\": %s}}", cases[i].want);
        assert_int_equal(mk_parser_push(p, text, strlen(text), &err), MK_OK);
        assert_int_equal(mk_parser_finish(p, &err), MK_OK);
        mk_parser_destroy(p);
        parse_events_end(&e);
        assert_string_equal(e.line.data, want);
        mk_buf_free(&e.line);
        json_decref(own);
    }
}

static void out_of_memory(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        bool done = false;
        for (int n = 1; !done && n < 100; n++) {
            mk_err err = {0};
            mk_parser *p;
            mk_parse_opts o = opts_of(r);
            mk_alloc_fail_at(n);
            mk_status st = mk_parser_create(&o, NULL, NULL, &p, &err);
            for (size_t i = 0; st == MK_OK && i < strlen(rows[r].text); i++) {
                st = mk_parser_push(p, rows[r].text + i, 1, &err);
            }
            st = st == MK_OK ? mk_parser_finish(p, &err) : st;
            done = mk_alloc_fail_left() > 0;
            mk_alloc_fail_at(0);
            assert_int_equal(st, done ? MK_OK : MK_ENOMEM);
            mk_parser_destroy(p);
            assert_int_equal(mk_alloc_live(), live);
        }
        assert_true(done);
    }
}

// --- control tokens ------------------------------------------------------------------------------
static void control_tokens(void **state) {
    (void)state;
    static const struct {
        const char *format, *piece;
        bool with_tools, without;
    } pieces[] = {
        {"deepseek", "<｜tool▁sep｜>", true, false},
        {"deepseek", "<think>", true, true},
        {"deepseek", "<｜User｜>", false, false},
        {"mistral", "[TOOL_CALLS]", true, false},
        {"mistral", "[ARGS]", true, false},
        {"mistral", "[INST]", false, false},
        {"gpt-oss", "<|channel|>", true, true},
        {"gpt-oss", "<|call|>", true, true},
        {"gpt-oss", "<|endoftext|>", false, false},
        {"kimi", "<|tool_call_argument_begin|>", true, false},
        {"command", "<|START_RESPONSE|>", true, true},
        {"gemma4", "<|\"|>", true, false},
        {"llama3", "<|python_tag|>", true, false},
        {"llama3", "<|eot_id|>", false, false},
        {"llama3", "", false, false},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        for (int with = 0; with < 2; with++) {
            mk_parser *p;
            mk_parse_opts o = {.format = mk_parse_format_find(pieces[i].format),
                               .tools = with ? tools : NULL};
            assert_int_equal(mk_parser_create(&o, NULL, NULL, &p, NULL), MK_OK);
            assert_int_equal(mk_parser_wants(p, pieces[i].piece, strlen(pieces[i].piece)),
                             with ? pieces[i].with_tools : pieces[i].without);
            mk_parser_destroy(p);
        }
    }
}

// A byte-level vocabulary with the markers as control tokens.
static mk_tokenizer *tokenizer_with(const char *const *control, int n) {
    mk_err err = {0};
    json_t *all;
    mk_tokenizer *tok = NULL;
    assert_int_equal(mk_json_file("tests/golden/tokenizers/llama3.json", 1 << 24, &all, &err),
                     MK_OK);
    for (int i = 0; i < n; i++) {
        json_array_append_new(json_object_get(all, "added_tokens"),
                              json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 1001 + i,
                                        "content", control[i], "special", 1, "single_word", 0,
                                        "lstrip", 0, "rstrip", 0, "normalized", 0));
    }
    char *text = json_dumps(all, 0);
    if (mk_tokenizer_from_json(text, strlen(text), &tok, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    free(text);
    json_decref(all);
    return tok;
}

// Detokenizers leave control tokens out; the parser sees those that are its markers, and no others.
static void tokens(void **state) {
    (void)state;
    static const char *const control[] = {"[TOOL_CALLS]", "[ARGS]", "[INST]"};
    static const char text[] = "<|special|>Grüße 🙂[INST][TOOL_CALLS]f[ARGS]{\"a\": "
                               "\"ß\"}[TOOL_CALLS]now[ARGS]{}</s>";
    mk_tokenizer *tok = tokenizer_with(control, 3);
    mk_err err = {0};
    mk_ids ids = {0};
    mk_encode_opts with = {.parse_special = true};
    assert_int_equal(mk_tokenizer_encode(tok, text, sizeof text - 1, with, &ids, &err), MK_OK);
    // the first byte of a character whose rest never comes, in front of a marker
    int32_t half = -1;
    for (int32_t id = 0; id < mk_tokenizer_n_vocab(tok) && half < 0; id++) {
        size_t n;
        const char *piece = mk_tokenizer_piece(tok, id, &n);
        half = n == 1 && piece[0] == '\xC3' ? id : -1;
    }
    for (int broken = 0; broken < 2 && (!broken || half >= 0); broken++) {
        mk_parser *p;
        parse_events e;
        mk_parse_opts o = {.format = mk_parse_format_find("mistral"), .tools = tools};
        mk_detok *detok = mk_detok_create(tok, true);
        parse_events_init(&e);
        assert_int_equal(mk_parser_create(&o, parse_events_take, &e, &p, &err), MK_OK);
        for (int64_t i = 0; i < ids.n; i++) {
            if (broken && ids.data[i] == mk_tokenizer_find(tok, "[TOOL_CALLS]", 12)) {
                assert_int_equal(mk_parse_token(p, detok, tok, half, &err), MK_OK);
            }
            assert_int_equal(mk_parse_token(p, detok, tok, ids.data[i], &err), MK_OK);
        }
        assert_int_equal(mk_parser_finish(p, &err), MK_OK);
        parse_events_end(&e);
        assert_string_equal(
            e.line.data, broken
                             ? "{T|Grüße 🙂\uFFFD}{C0 f|{\"a\": \"ß\"}}{T|\uFFFD}{C1 now|{}}"
                             : "{T|Grüße 🙂}{C0 f|{\"a\": \"ß\"}}{C1 now|{}}");
        mk_buf_free(&e.line);
        mk_parser_destroy(p);
        mk_detok_destroy(detok);
    }
    assert_true(half >= 0);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(tok);
}

// --- where the next token stands -----------------------------------------------------------------
static void places(void **state) {
    (void)state;
    static const struct {
        const char *format, *text;
        mk_parse_place place;
    } stands[] = {
        {"hermes", "", MK_PLACE_START},
        {"hermes", " \n<th", MK_PLACE_START},
        {"hermes", "x", MK_PLACE_ANSWER},
        {"hermes", "<think>a</think>", MK_PLACE_ANSWER},
        {"gpt-oss", "", MK_PLACE_START},
        {"gpt-oss", "<|channel|>analysis<|message|>", MK_PLACE_REASONING},
        {"gpt-oss", "<|channel|>analysis<|message|>a<|end|><|start|>assistant", MK_PLACE_START},
        {"gpt-oss", "<|channel|>commentary<|message|>a", MK_PLACE_START},
        {"gpt-oss", "<|channel|>final<|message|>", MK_PLACE_ANSWER},
        {"gpt-oss", "<|channel|>commentary to=functions.f<|message|>{", MK_PLACE_CALL},
    };
    for (size_t i = 0; i < sizeof stands / sizeof stands[0]; i++) {
        mk_parser *p;
        mk_parse_opts o = {.format = mk_parse_format_find(stands[i].format), .tools = tools};
        assert_int_equal(mk_parser_create(&o, NULL, NULL, &p, NULL), MK_OK);
        assert_int_equal(mk_parser_push(p, stands[i].text, strlen(stands[i].text), NULL), MK_OK);
        assert_int_equal(mk_parser_place(p), stands[i].place);
        mk_parser_destroy(p);
    }
}

// What is put behind unfinished reasoning makes what follows the answer.
static void forced_answer(void **state) {
    (void)state;
    for (int i = 0; mk_parse_format_at(i); i++) {
        mk_parse_opts o = {.format = mk_parse_format_at(i), .tools = tools, .starts_inside = true};
        static const char start[] = "<|channel|>analysis<|message|>";
        bool harmony = strcmp(mk_parse_format_name(o.format), "gpt-oss") == 0;
        mk_buf text;
        mk_buf_init(&text, 1000);
        mk_buf_printf(&text, "%sabc", harmony ? start : "");
        mk_parse_force_answer(&o, &text);
        mk_buf_puts(&text, "done");
        assert_every_cut(&o, text.data, "{R|abc}{T|done}");
        mk_buf_free(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut),      cmocka_unit_test(no_tools),
        cmocka_unit_test(reasoning),      cmocka_unit_test(nothing_is_held_without_need),
        cmocka_unit_test(strings_stream), cmocka_unit_test(bad_tags),
        cmocka_unit_test(prompt_end),     cmocka_unit_test(long_texts),
        cmocka_unit_test(long_values),    cmocka_unit_test(types_of_parameters),
        cmocka_unit_test(out_of_memory),  cmocka_unit_test(control_tokens),
        cmocka_unit_test(tokens),         cmocka_unit_test(places),
        cmocka_unit_test(forced_answer),
    };
    return cmocka_run_group_tests(tests, load_tools, drop_tools);
}
