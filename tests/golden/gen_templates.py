#!/usr/bin/env python3
"""Expected output of chat templates, from jinja2 itself.

Renders every template of ../shared/data/templates over the conversations below with the settings that Hugging Face's
apply_chat_template gives jinja2 (a sandbox whose values are immutable but for list.append and list.pop, trim_blocks, lstrip_blocks, loop controls, a
{% generation %} tag, tojson without HTML escapes, raise_exception, strftime_now), and writes

    tests/golden/templates/conversations.json   the variables of each conversation
    tests/golden/templates/expected.json        {"date": seconds, "texts": [...], "results": {template: {conversation: n}}}

n counts from 0 in texts for a rendered text; an error is [kind, message].  Texts are stored once each.
The templates themselves stay where they are.  Needs: pip install jinja2.  Run from the repository's root.
"""
import datetime
import json
import os
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 3, 5, 14, 7, 9, tzinfo=datetime.timezone.utc)
TEMPLATES = "../shared/data/templates"
OUT = "tests/golden/templates"


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attrs = dict(*args, **kwargs)
        for name in attrs:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(
                f"Chat templates cannot store underscore-prefixed attributes on a namespace, but got {name!r}."
            )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Sandbox(ImmutableSandboxedEnvironment):
    """Immutable, but that a list may grow and shrink: Kimi-K2-Instruct's template does not work without it."""

    def is_safe_attribute(self, obj, attr, value):
        return (isinstance(obj, list) and attr in ("append", "pop")) or super().is_safe_attribute(obj, attr, value)


def environment():
    env = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: NOW.strftime(f)
    env.globals["namespace"] = Namespace
    for gone in ("lipsum", "cycler", "joiner"):
        env.globals.pop(gone)
    return env


def render(env, text, variables):
    """('ok', text) or (kind of error, message)."""
    try:
        out = env.from_string(text).render(**variables)
        out.encode("utf-8")
        return "ok", out
    except jinja2.exceptions.UndefinedError as e:
        return "undefined", str(e)
    except jinja2.exceptions.TemplateSyntaxError as e:
        return "syntax", str(e)
    except jinja2.exceptions.TemplateError as e:
        return "raised" if type(e) is jinja2.exceptions.TemplateError else "error", str(e)
    except Exception as e:  # TypeError and the like
        return "error", str(e)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.\nSecond line & \"quotes\" <b>.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "description": "How many days", "default": 3},
                "detail": {"type": "boolean", "nullable": True},
                "where": {
                    "type": "object",
                    "description": "A place",
                    "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                    "required": ["lat"],
                },
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city", "unit"],
        },
        "return": {"type": "string", "description": "The weather"},
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "get_time", "description": "Time now", "parameters": {"type": "object", "properties": {}}},
}


UNION = {
    "type": "function",
    "function": {"name": "f", "description": "Union types.", "parameters": {"type": "object", "properties": {
        "x": {"type": ["boolean", "null"], "description": "either"},
        "y": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "z": {}}, "required": []}},
}


def call(name, arguments, id):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


U = {"role": "user", "content": "What is 2 + 2?"}
A = {"role": "assistant", "content": "It is 4."}
S = {"role": "system", "content": "You are a careful assistant."}
BASE = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "add_generation_prompt": True}


def talk(*messages, **more):
    return {**BASE, "messages": list(messages), **more}


CONVERSATIONS = {
    "user": talk(U),
    "system": talk(S, U),
    "turns": talk(S, U, A, {"role": "user", "content": "And 3 + 3?"}, {"role": "assistant", "content": "  6  \n"},
                  {"role": "user", "content": "Thanks\n\nbye "}),
    "no_prompt": talk(S, U, A, add_generation_prompt=False),
    "tools": talk(S, {"role": "user", "content": "Weather in Paris?"}, tools=[WEATHER, CLOCK]),
    "tools_no_system": talk({"role": "user", "content": "Weather in Paris?"}, tools=[WEATHER]),
    "tools_union": talk({"role": "user", "content": "Go."}, tools=[UNION]),
    "tool_result": talk(
        S, {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Paris", "days": 2}, "call00001")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"temp\": 21.5}"},
        {"role": "assistant", "content": "It is 21.5 degrees."},
        {"role": "user", "content": "And the time?"}, tools=[WEATHER, CLOCK]),
    "tool_pending": talk(
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"city": "Paris"}, "call00001")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "rain"}, tools=[WEATHER]),
    "parallel": talk(
        S, {"role": "user", "content": "Weather and time?"},
        {"role": "assistant", "content": "Let me look.", "reasoning_content": "Two calls are needed.", "tool_calls": [
            call("get_weather", {"city": "Zürich", "where": {"lat": 47.4, "lon": 8.5}, "tags": ["a", "b"], "detail": None,
                                 "x": True}, "call00001"),
            call("get_time", {}, "call00002")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "sun"},
        {"role": "tool", "name": "get_time", "tool_call_id": "call00002", "content": "12:00"}, tools=[WEATHER, CLOCK]),
    "arguments_text": talk(
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", "{\"city\": \"Paris\"}", "call00001")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "fog"}, tools=[WEATHER]),
    "thinking_on": talk(S, U, enable_thinking=True, thinking=True, reasoning_effort="high"),
    "thinking_off": talk(U, enable_thinking=False, thinking=False, reasoning_effort="low"),
    "past_reasoning": talk(
        U, {"role": "assistant", "content": "It is 4.", "reasoning_content": "2 and 2 make 4."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>\nCheck again.\n</think>\n\nYes."},
        {"role": "user", "content": "Good."}),
    "past_thinking_kept": talk(
        U, {"role": "assistant", "content": "It is 4.", "reasoning_content": "2 and 2 make 4.", "thinking": "Hm."},
        add_generation_prompt=False, enable_thinking=True),
    "no_content": talk({"role": "user"}),
    "null_content": talk({"role": "user", "content": None}, {"role": "assistant", "content": None}),
    "parts": talk(
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "First."}, {"type": "text", "text": " Second."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Third."}]},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image"}]}),
    "empty_content": talk({"role": "system", "content": ""}, {"role": "user", "content": ""}),
    "unicode": talk(
        {"role": "system", "content": "Grüße 'einfach' \"doppelt\""},
        {"role": "user", "content": "日本語 🙂 \\ \t <|im_end|> {{ 7 * 7 }} {% if %} é\u0301 ß \u2028 &<>"}),
    "no_user": talk(S, A),
    "no_messages": talk(),
    "bad_order": talk(U, {"role": "user", "content": "Again?"}, S, A, {"role": "critic", "content": "Hm."}),
    "developer": talk({"role": "developer", "content": "Answer in French."}, U, model_identity="You are Minke."),
    "bare": {"messages": [S, U]},
}


def main():
    names = sorted(n for n in os.listdir(TEMPLATES) if n.endswith(".jinja"))
    env, texts, index, results = environment(), [], {}, {}
    for name in names:
        with open(os.path.join(TEMPLATES, name), encoding="utf-8", newline="") as f:
            source = f.read()
        results[name] = {}
        for key, variables in CONVERSATIONS.items():
            # through JSON, as the program under test gets them
            kind, text = render(env, source, json.loads(json.dumps(variables)))
            if kind != "ok":
                results[name][key] = [kind, text]
                continue
            if text not in index:
                index[text] = len(texts)
                texts.append(text)
            results[name][key] = index[text]
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "conversations.json"), "w", encoding="utf-8") as f:
        json.dump(CONVERSATIONS, f, ensure_ascii=False, indent=0)
    with open(os.path.join(OUT, "expected.json"), "w", encoding="utf-8") as f:
        json.dump({"date": int(NOW.timestamp()), "texts": texts, "results": results}, f, ensure_ascii=False, indent=0)
    kinds = {}
    for row in results.values():
        for r in row.values():
            k = r[0] if isinstance(r, list) else "ok"
            kinds[k] = kinds.get(k, 0) + 1
    print(len(names), "templates", len(CONVERSATIONS), "conversations", kinds, file=sys.stderr)


if __name__ == "__main__":
    main()
