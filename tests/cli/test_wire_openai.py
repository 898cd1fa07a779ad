"""The recorded answers of the OpenAI dialects (tests/serve/wire) through OpenAI's own client: what it makes of the bytes
is what the events said, every object has the fields that its types ask for, however the bytes are cut.

That the server gives these bytes is what the unit test serve_test_wire shows.
"""
import asyncio
import functools
import json

import httpx2
import openai
import pydantic
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from conftest import ROOT

WIRE = ROOT / "tests" / "serve" / "wire"


def body_of(case):
    """The bytes that a case expects, as tests/serve/wire/README.md says."""
    out = ""
    for part in case["expect"]:
        if isinstance(part, str):
            out += part
            continue
        key = next(k for k in ("sse", "line", "json") if k in part)
        text = json.dumps(part[key], ensure_ascii=False, separators=(",", ":"))
        event = f"event: {part['event']}\n" if "event" in part else ""
        out += f"{event}data: {text}\n\n" if key == "sse" else text + ("\n" if key == "line" else "")
    return out.encode()


def cases(dialect):
    found = []
    for path in sorted(WIRE.glob("openai_*.json")):
        found += [c for c in json.loads(path.read_text(encoding="utf-8")) if c["dialect"] == dialect and "events" in c]
    assert found
    return [pytest.param(c, id=("stream: " if c["request"].get("stream") else "body: ") + c["name"]) for c in found]


class Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, data, size):
        self.parts = [data[i:i + size] for i in range(0, len(data), size)]

    def __iter__(self):
        yield from self.parts

    async def __aiter__(self):
        for p in self.parts:
            yield p


class Recorded:
    """Answers every request with the case that was put in, in pieces of `size` bytes."""

    def __init__(self):
        transport = httpx2.MockTransport(self.handle)
        args = {"api_key": "k", "base_url": "http://test/v1", "max_retries": 0}
        self.openai = openai.OpenAI(**args, http_client=httpx2.Client(transport=transport))
        self.openai_async = openai.AsyncOpenAI(**args, http_client=httpx2.AsyncClient(transport=transport))

    def __call__(self, case, size=1 << 20):
        self.case, self.size = case, size
        return self.openai

    def handle(self, _request):
        data, stream = body_of(self.case), self.case["request"].get("stream")
        status = 400 if not stream and data.startswith(b'{"error"') else 200
        kind = "text/event-stream" if stream else "application/json"
        return httpx2.Response(status, headers={"content-type": kind}, stream=Pieces(data, self.size))


@pytest.fixture(scope="module")
def client():
    return Recorded()


@functools.cache
def adapter(kind):
    return pydantic.TypeAdapter(kind)


def strictly(kind, value):
    """Every field that the client's type calls required is there, of its type."""
    for r in (value, value.get("response") or {}):
        # what Codex looks for; OpenAI's service sends it, its types do not know it
        if (r.get("error") or {}).get("code") == "context_length_exceeded":
            r["error"]["code"] = "invalid_prompt"
    return adapter(kind).validate_python(value)


def told(case):
    """What the events of a case say: per choice text, reasoning, calls, the end; the error; the usage."""
    prompt = case["request"].get("prompt")
    several = isinstance(prompt, list) and any(not isinstance(p, int) for p in prompt)
    n = case["request"].get("n", 1) * (len(prompt) if several else 1)
    choices = [{"text": "", "reasoning": "", "calls": [], "stop": None, "usage": {}} for _ in range(n)]
    for e in case["events"]:
        c = choices[e.get("choice", 0)]
        kind = e["kind"]
        if kind == "error":
            return choices, e["error"]
        if kind in ("text", "reasoning"):
            c[kind] += e["text"]
        elif kind == "tool_begin":
            c["calls"].append([e["call_id"], e["name"], ""])
        elif kind == "tool_args":
            c["calls"][-1][2] += e["text"]
        elif kind == "tool_end":
            c["calls"][-1][2] = c["calls"][-1][2] or "{}"
        elif kind == "done":
            c["stop"], c["usage"] = e["stop"], e.get("usage", {})
    return choices, None


def finish_reason(c):
    if c["stop"] in ("length", "cancelled"):
        return {"length": "length", "cancelled": "cancelled"}[c["stop"]]
    return "tool_calls" if c["calls"] else "stop"


def check_usage(usage, choices):
    said = [c["usage"] for c in choices]
    assert usage.completion_tokens == sum(u.get("n_generated", 0) for u in said)
    assert usage.prompt_tokens in [u.get("n_prompt", 0) for u in said]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.model_extra["prompt_cache_hit_tokens"]
    assert usage.prompt_tokens == usage.model_extra["prompt_cache_hit_tokens"] + usage.model_extra["prompt_cache_miss_tokens"]
    assert usage.completion_tokens_details.reasoning_tokens == sum(u.get("n_reasoning", 0) for u in said)


def reasoning_of(obj):
    extra = obj.model_extra or {}
    both = [extra[k] for k in ("reasoning_content", "reasoning") if k in extra]
    assert len(set(both)) <= 1
    return both[0] if both else ""


# --- chat completions ---------------------------------------------------------------------------------------------------

def collect_chunks(case, chunks):
    """What a client builds from the chunks of a stream."""
    n = case["request"].get("n", 1)
    got = [{"text": "", "reasoning": "", "calls": [], "finish": None, "roles": 0} for _ in range(n)]
    ids, usage = set(), None
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk.model_dump(exclude_unset=True))
        ids.add((chunk.id, chunk.created, chunk.object))
        assert usage is None, "nothing comes after the usage"
        if not chunk.choices:
            usage = chunk.usage
            continue
        for choice in chunk.choices:
            g, d = got[choice.index], choice.delta
            assert g["finish"] is None, "nothing comes after the end of a choice"
            g["roles"] += d.role is not None
            assert g["roles"] == 1, "the role comes first and once"
            g["text"] += d.content or ""
            g["reasoning"] += reasoning_of(d)
            for call in d.tool_calls or []:
                if call.index == len(g["calls"]):
                    g["calls"].append([call.id, call.function.name, ""])
                else:
                    assert call.index == len(g["calls"]) - 1 and call.id is None and call.function.name is None
                g["calls"][-1][2] += call.function.arguments
            g["finish"] = choice.finish_reason
    assert len(ids) == 1
    return got, usage


def check_chunks(case, chunks):
    choices, _ = told(case)
    got, usage = collect_chunks(case, chunks)
    for g, c in zip(got, choices):
        assert (g["text"], g["reasoning"], g["calls"]) == (c["text"], c["reasoning"], c["calls"])
        assert g["finish"] == finish_reason(c)
    asked = case["request"].get("stream_options", {}).get("include_usage", False)
    assert (usage is not None) == asked
    if usage:
        check_usage(usage, choices)


@pytest.mark.parametrize("case", cases("openai-chat"))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_chat(client, case, size):
    choices, error = told(case)
    create = client(case, size).chat.completions.create
    args = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    if error:
        with pytest.raises(openai.APIError) as e:
            answer = create(**args, stream=case["request"].get("stream", False))
            list(answer)
        assert e.value.body["message"] == error and error in e.value.message
    elif case["request"].get("stream"):
        check_chunks(case, list(create(**args, stream=True)))
    else:
        answer = create(**args)
        strictly(ChatCompletion, answer.model_dump(exclude_unset=True))
        check_usage(answer.usage, choices)
        for choice, c in zip(answer.choices, choices):
            calls = [[t.id, t.function.name, t.function.arguments] for t in choice.message.tool_calls or []]
            assert (choice.message.content or "", reasoning_of(choice.message), calls) == (c["text"], c["reasoning"], c["calls"])
            assert choice.finish_reason == finish_reason(c)


@pytest.mark.parametrize("case", [c for c in cases("openai-chat") if c.values[0]["request"].get("stream")])
def test_chat_async(client, case):
    _, error = told(case)

    client(case, 5)

    async def read():
        stream = await client.openai_async.chat.completions.create(model="m", messages=[], stream=True)
        return [chunk async for chunk in stream]

    if error:
        with pytest.raises(openai.APIError):
            asyncio.run(read())
    else:
        check_chunks(case, asyncio.run(read()))


# --- text completions ---------------------------------------------------------------------------------------------------

def numbered(raw):
    """Without the nulls of a prompt's first token, which the type does not know."""
    for c in raw["choices"]:
        lists = c.get("logprobs") or {"token_logprobs": []}
        if None in lists["token_logprobs"]:
            assert lists["token_logprobs"].index(None) == lists["text_offset"][0] == 0 and lists["top_logprobs"][0] is None
            lists["token_logprobs"][0], lists["top_logprobs"][0] = 0.0, {}
    return raw


@pytest.mark.parametrize("case", cases("openai-completions"))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_completions(client, case, size):
    choices, error = told(case)
    create = client(case, size).completions.create
    stream = case["request"].get("stream", False)
    if error:
        with pytest.raises(openai.APIError) as e:
            list(create(model="m", prompt="x", stream=stream))
        assert error in e.value.message
        return
    answers = list(create(model="m", prompt="x", stream=True)) if stream else [create(model="m", prompt="x")]
    for a in answers:
        # a choice of a stream has no reason before its end, which the type does not know
        raw = a.model_dump(exclude_unset=True)
        raw["choices"] = [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in raw["choices"]]
        strictly(Completion, numbered(raw))
    for i, c in enumerate(choices):
        mine = [x for a in answers for x in a.choices if x.index == i]
        text = "".join(x.text for x in mine)
        assert text.endswith(c["text"]) and (case["request"].get("echo") or text == c["text"])
        assert [x.finish_reason for x in mine if x.finish_reason] == [finish_reason(c)]
        for x in mine:
            if x.logprobs:
                # a token that begins a prompt or ends an answer may have no text in it
                assert case["request"].get("echo") or "".join(x.logprobs.tokens) == x.text
                assert all(text[at:].startswith(t.strip()) or t.startswith("<")
                           for at, t in zip(x.logprobs.text_offset, x.logprobs.tokens))
                assert len(x.logprobs.tokens) == len(x.logprobs.token_logprobs) == len(x.logprobs.top_logprobs)


# --- responses ----------------------------------------------------------------------------------------------------------

STATUS = {"length": "incomplete", "cancelled": "incomplete"}


def check_response(answer, case, error):
    """A finished response object against the events."""
    (c,), _ = told(case)
    strictly(Response, answer.model_dump(exclude_unset=True, by_alias=True))
    text, reasoning, calls = "", "", []
    for item in answer.output:
        if item.type == "message":
            text += "".join(p.text for p in item.content)
        elif item.type == "reasoning":
            reasoning += "".join(p.text for p in list(item.summary) + list(item.content or []))
        else:
            name = (item.namespace + "__" if item.namespace else "") + item.name
            calls.append([item.call_id, name, item.arguments])
    assert (text, reasoning, calls) == (c["text"], c["reasoning"], c["calls"])
    assert answer.output_text == c["text"]
    assert answer.status == ("failed" if error else STATUS.get(c["stop"], "completed"))
    if error:
        assert answer.error.message == error and answer.usage is None
    else:
        assert answer.usage.input_tokens == c["usage"].get("n_prompt", 0)
        assert answer.usage.output_tokens == c["usage"].get("n_generated", 0)
        assert answer.usage.input_tokens_details.cached_tokens == c["usage"].get("n_cached", 0)


def check_order(events):
    """Every item begins, has its deltas and ends before the next one; deltas add up to what `done` says."""
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
    item, deltas, n_item = None, "", 0
    for e in events[2:-1]:
        kind = e.type.removeprefix("response.")
        if kind == "output_item.added":
            assert item is None and e.output_index == n_item
            item, deltas = e.item.id, ""
        elif kind == "output_item.done":
            assert e.item.id == item and e.output_index == n_item
            item, n_item = None, n_item + 1
        else:
            assert e.item_id == item and e.output_index == n_item
        if kind.endswith(".delta"):
            deltas += e.delta
        elif kind in ("output_text.done", "reasoning_text.done", "reasoning_summary_text.done"):
            assert e.text == deltas
        elif kind == "function_call_arguments.done":
            assert e.arguments == deltas
    assert item is None
    assert n_item == len(events[-1].response.output)


@pytest.mark.parametrize("case", cases("openai-responses"))
@pytest.mark.parametrize("size", [13, 1 << 20])
def test_responses(client, case, size):
    _, error = told(case)
    create = client(case, size).responses.create
    if not case["request"].get("stream"):
        if error:
            with pytest.raises(openai.BadRequestError):
                create(model="m", input="Hi")
        else:
            check_response(create(model="m", input="Hi"), case, error)
        return
    events = list(create(model="m", input="Hi", stream=True))
    for e in events:
        strictly(ResponseStreamEvent, e.model_dump(exclude_unset=True, by_alias=True))
    check_order(events)
    check_response(events[-1].response, case, error)


@pytest.mark.parametrize("case", [c for c in cases("openai-responses") if c.values[0]["request"].get("stream")])
def test_responses_helper(client, case):
    """The client's own accumulator, which insists on an order of events."""
    (c,), error = told(case)
    with client(case).responses.stream(model="m", input="Hi") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert text == c["text"]
        if not error and c["stop"] not in STATUS:
            assert stream.get_final_response().output_text == c["text"]
