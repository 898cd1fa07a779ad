"""Tool calls that must come, over HTTP: the built-in model, which knows nothing of tools, with a template that writes them."""
import json

import pytest

from serving import Server

TEMPLATE = """{%- for m in messages -%}
{%- if m.role == 'assistant' -%}<|assistant|>{{ m.content or '' }}
{%- for c in m.tool_calls or [] -%}{{ '\\n' }}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{%- endfor -%}<|end|>
{%- else -%}<|user|>{{ m.content }}{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}{# tools #}"""
XML = TEMPLATE.replace('{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}',
                       "<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>{{ v }}</parameter>"
                       "{% endfor %}</function>")
BEHIND = TEMPLATE.replace('{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}',
                          '{"arguments": {{ c.function.arguments | tojson }}, "name": "{{ c.function.name }}"}')
CALL = TEMPLATE[TEMPLATE.index("{{ '\\n' }}<tool_call>"):TEMPLATE.index("{%- endfor -%}<|end|>")]
# One call as each family writes it, in the built-in model's conversation.  What a family is known by stands in these texts.
FAMILIES = {
    "xml": XML,
    "lines": XML.replace("}}>{{ v }}<", "}}>{{ '\\n' }}{{ v }}{{ '\\n' }}<"),
    "glm": TEMPLATE.replace(CALL, "<tool_call>{{ c.function.name }}{{ '\\n' }}{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>"
                                  "{{ '\\n' }}<arg_value>{{ v if v is string else v | tojson }}</arg_value>{{ '\\n' }}{% endfor %}</tool_call>"),
    "dsml": TEMPLATE.replace(CALL, "<｜DSML｜tool_calls><｜DSML｜invoke name=\"{{ c.function.name }}\">{% for k, v in c.function.arguments.items() %}"
                                   "<｜DSML｜parameter name=\"{{ k }}\" string=\"{{ 'true' if v is string else 'false' }}\">"
                                   "{{ v if v is string else v | tojson }}</｜DSML｜parameter>{% endfor %}</｜DSML｜invoke></｜DSML｜tool_calls>"),
    "gemma": TEMPLATE.replace(CALL, "<|tool_call>call:{{ c.function.name }}{{ '{' }}{% for k, v in c.function.arguments.items() %}"
                                    "{{ k }}:{% if v is string %}<|\"|>{{ v }}<|\"|>{% else %}{{ v }}{% endif %}{{ ',' if not loop.last }}"
                                    "{% endfor %}{{ '}' }}<tool_call|>"),
    "python": TEMPLATE.replace(CALL, "").replace("{# tools #}", "{%- if tools -%}{#List of tools: #}{%- endif -%}"),
    "headers": TEMPLATE.replace(CALL, "").replace("{# tools #}", "{# tools <|channel|>analysis<|message|> #}"),
}
SCHEMA = {"type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 14}, "unit": {"enum": ["C", "F"]}},
          "required": ["days", "unit"], "additionalProperties": False}
USER = [{"role": "user", "content": "2+3"}]


def tool(name, schema=SCHEMA, **more):
    return {"type": "function", "function": {"name": name, "parameters": schema} | more}


TOOLS = [tool("get_weather"), tool("get_wind")]


def serve(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "template.jinja").write_text(text)
    return Server(folder, "--template", folder / "template.jinja", "--parallel", 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    s = serve(tmp_path_factory.mktemp("json"), TEMPLATE)
    yield s
    assert s.stop() == 0, s.errors


def assert_calls(calls, names):
    assert calls
    for name, args in calls:
        assert name in names and 1 <= args["days"] <= 14 and args["unit"] in ("C", "F") and len(args) == 2, (name, args)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice, names", [("required", {"get_weather", "get_wind"}),
                                           ({"type": "function", "function": {"name": "get_wind"}}, {"get_wind"})])
def test_a_call_that_must_come(server, choice, names, seed):
    choice_of = server.chat("2+3", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, temperature=1.5, seed=seed)["choices"][0]
    calls = choice_of["message"]["tool_calls"]
    assert choice_of["finish_reason"] == "tool_calls" and len(calls) == 1 and not choice_of["message"]["content"]
    assert_calls([(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls], names)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_made_to_call(family, tmp_path):
    schema = {"type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 14}, "unit": {"enum": ["C", "F"]},
                                               "where": {"type": "string", "maxLength": 6}},
              "required": ["days", "unit", "where"], "additionalProperties": False}
    tools = [tool("get_weather", schema), tool("get_wind", schema, strict=True)]
    with serve(tmp_path / "home", FAMILIES[family]) as s:
        for choice, names in [("required", {"get_weather", "get_wind"}),
                              ({"type": "function", "function": {"name": "get_wind"}}, {"get_wind"})]:
            for seed in range(2):
                body = {"messages": USER, "tools": tools, "tool_choice": choice, "parallel_tool_calls": False, "temperature": 1.5, "seed": seed}
                got = s.post("/v1/chat/completions", body)["choices"][0]
                assert got["finish_reason"] == "tool_calls" and not got["message"]["content"], got
                [call] = got["message"]["tool_calls"]
                args = json.loads(call["function"]["arguments"])
                assert call["function"]["name"] in names and set(args) == {"days", "unit", "where"}
                assert 1 <= args["days"] <= 14 and args["unit"] in ("C", "F") and len(args["where"]) <= 6


def test_the_same_in_other_dialects(server):
    tools = [{"name": t["function"]["name"], "input_schema": SCHEMA} for t in TOOLS]
    for choice, names in [({"type": "any", "disable_parallel_tool_use": True}, {"get_weather", "get_wind"}),
                          ({"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}, {"get_weather"})]:
        r = server.post("/v1/messages", {"model": "x", "max_tokens": 300, "messages": USER, "tools": tools, "tool_choice": choice})
        assert r["stop_reason"] == "tool_use"
        assert_calls([(b["name"], b["input"]) for b in r["content"] if b["type"] == "tool_use"], names)
    tools = [{"type": "function"} | t["function"] for t in TOOLS]
    r = server.post("/v1/responses", {"input": "2+3", "tools": tools, "tool_choice": "required", "parallel_tool_calls": False})
    assert_calls([(o["name"], json.loads(o["arguments"])) for o in r["output"] if o["type"] == "function_call"], {"get_weather", "get_wind"})


def test_streamed_it_is_the_same_call(server):
    body = {"messages": USER, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    want = server.post("/v1/chat/completions", body)["choices"][0]["message"]["tool_calls"][0]["function"]
    _, _, data = server.request("POST", "/v1/chat/completions", body | {"stream": True})
    deltas = [json.loads(x[6:])["choices"][0]["delta"] for x in data.decode().splitlines() if x.startswith("data: {")]
    calls = [c for d in deltas for c in d.get("tool_calls") or []]
    assert calls[0]["function"]["name"] == want["name"]
    assert "".join(c["function"].get("arguments") or "" for c in calls) == want["arguments"]


def test_a_form_or_a_call(server):
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": {"type": "object", "properties": {
        "v": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["v"], "additionalProperties": False}}}
    for seed in range(4):
        m = server.chat("2+3", tools=TOOLS, response_format=form, temperature=1.5, seed=seed, max_tokens=300)["choices"][0]
        if m["finish_reason"] == "stop":
            assert 0 <= json.loads(m["message"]["content"])["v"] <= 9


def test_what_is_not_constrained_is_refused(server, tmp_path):
    def refused(s, **fields):
        status, _, data = s.request("POST", "/v1/chat/completions", {"messages": USER} | fields)
        assert status == 400, data
        return json.loads(data)["error"]["message"]

    bad = {"type": "object", "properties": {"a": {"not": {}}}}
    assert "/tools/1/function/parameters/properties/a/not" in refused(server, tools=[TOOLS[0], tool("b", bad, strict=True)])
    assert "/tools/1/function/parameters/properties/a/not" in refused(
        server, tools=[TOOLS[0], tool("b", bad, strict=True)], tool_choice="required")
    # not strict: as much as can be is enforced
    r = server.chat("2+3", tools=[tool("b", bad)], tool_choice="required", max_tokens=5)
    assert r["choices"][0]["finish_reason"] == "length"
    s = serve(tmp_path / "behind", BEHIND)
    assert "/tool_choice" in refused(s, tools=TOOLS, tool_choice="required")
    assert "strict" in refused(s, tools=[tool("a", strict=True)])
    assert s.chat("2+3", tools=TOOLS)["choices"][0]["message"]["content"]
    assert s.stop() == 0
    s = Server(tmp_path / "none")
    assert "writes no tool calls" in refused(s, tools=TOOLS, tool_choice="required")
    assert s.chat("2+3", tools=[tool("a", strict=True)])["choices"][0]["message"]["content"] == "5"
    assert s.stop() == 0
