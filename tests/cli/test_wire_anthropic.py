"""The bytes of the wire tests as the clients of Anthropic and Ollama understand them.

tests/serve/wire/*.json says what a client sends and what minke answers, to the byte; serve_test_wire proves that minke
does answer so.  Here the other half: the real clients send exactly these requests, and make the right things of these
answers.  Nothing goes over a network.
"""
import asyncio
import json

import anthropic
import httpx
import httpx2
import ollama
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from conftest import ROOT
from pydantic import TypeAdapter

WIRE = ROOT / "tests" / "serve" / "wire"
EVENT = TypeAdapter(RawMessageStreamEvent)
ASK = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def part_text(part):
    if isinstance(part, str):
        return part
    if "sse" in part:
        head = f"event: {part['event']}\n" if "event" in part else ""
        return head + f"data: {compact(part['sse'])}\n\n"
    return compact(part["line"]) + "\n" if "line" in part else compact(part["json"])


def load(name):
    cases = json.loads((WIRE / f"{name}.json").read_text())
    for case in cases:
        case["bytes"] = "".join(map(part_text, case.get("expect", []))).encode()
    return {case["name"]: case for case in cases}


def streams(cases):
    return [n for n, c in cases.items() if "expect" in c and c["request"].get("stream", "ollama" in c["dialect"])]


ANTHROPIC, OLLAMA = load("anthropic_answer"), load("ollama_answer")
ANTHROPIC_SDK, OLLAMA_SDK = load("anthropic_sdk"), load("ollama_sdk")
STREAMED = [n for n in streams(ANTHROPIC) if "error" not in n]


# --- Anthropic -----------------------------------------------------------------------------------------------------
class Pieces(httpx2.SyncByteStream):
    def __init__(self, data, size):
        self.data, self.size = data, size

    def __iter__(self):
        for i in range(0, len(self.data), self.size):
            yield self.data[i:i + self.size]


def claude(data, status=200, size=1 << 20, seen=None, cls=anthropic.Anthropic):
    def answer(request):
        if seen is not None:
            seen.append((str(request.url), json.loads(request.read())))
        stream = data.startswith(b"event:")
        headers = {"content-type": "text/event-stream" if stream else "application/json"}
        body = {"content": data} if cls is not anthropic.Anthropic else {"stream": Pieces(data, size)}
        return httpx2.Response(status, headers=headers, **body)

    client = httpx2.Client if cls is anthropic.Anthropic else httpx2.AsyncClient
    return cls(api_key="k", base_url="http://minke.test", max_retries=0,
               http_client=client(transport=httpx2.MockTransport(answer)))


def content(message):
    return [{k: v for k, v in block.to_dict().items() if v is not None} for block in message.content]


@pytest.mark.parametrize("name", STREAMED)
def test_stream_gives_the_whole_answer(name):
    """What the client puts together from the events is what it gets without streaming."""
    with claude(ANTHROPIC[name]["bytes"]).messages.stream(**ASK) as stream:
        streamed = stream.get_final_message()
    assert streamed.id.startswith("msg_") and streamed.role == "assistant" and streamed.stop_reason
    whole_name = name.replace(", streamed", ", whole")
    if whole_name == name:
        return
    whole = claude(ANTHROPIC[whole_name]["bytes"]).messages.create(**ASK)
    assert (streamed.stop_reason, streamed.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert streamed.usage.to_dict() == whole.usage.to_dict()
    if "cut off" in name:  # the stream's decoder completes what is there
        assert content(streamed)[0]["input"] == {"city": "Pa"} or content(streamed)[0]["input"] == {}
        assert content(whole)[0]["input"] == {"INVALID_JSON": '{"city": "Pa'}
    else:
        assert content(streamed) == content(whole)


@pytest.mark.parametrize("name", [n for n, c in ANTHROPIC.items() if "error" not in n])
def test_every_object_has_the_declared_shape(name):
    """The client builds its objects without looking; here they are checked against its own types."""
    data = ANTHROPIC[name]["bytes"]
    if not data.startswith(b"event:"):
        Message.model_validate_json(data, strict=True)
        return
    for block in data.decode().removesuffix("\n\n").split("\n\n"):
        event, text = block.split("\n")
        assert event == f"event: {json.loads(text.removeprefix('data: '))['type']}"
        if event != "event: ping":
            EVENT.validate_json(text.removeprefix("data: "), strict=True)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_stream_in_pieces(size):
    data = ANTHROPIC["thinking, then text, streamed"]["bytes"]
    with claude(data, size=size).messages.stream(**ASK) as stream:
        assert content(stream.get_final_message()) == [
            {"type": "thinking", "thinking": "Let me see.", "signature": "5df5eb116ae82622f70b2918afc48223"},
            {"type": "text", "text": "42"}]


def test_events_of_a_tool_call_async():
    async def run():
        client = claude(ANTHROPIC["two calls, the second without arguments, streamed"]["bytes"], cls=anthropic.AsyncAnthropic)
        async with client.messages.stream(**ASK) as stream:
            pieces = [e.partial_json async for e in stream if e.type == "input_json"]
            return pieces, await stream.get_final_message()

    pieces, message = asyncio.run(run())
    assert pieces == ['{"city": ', '"Paris", "at": 3.14159265358979}']
    assert [b.input for b in message.content[1:]] == [{"city": "Paris", "at": 3.14159265358979}, {}]
    assert message.stop_reason == "tool_use"


def test_errors():
    with pytest.raises(anthropic.APIStatusError, match="out of memory") as e:
        with claude(ANTHROPIC["an error after text, streamed"]["bytes"]).messages.stream(**ASK) as stream:
            stream.get_final_message()
    assert e.value.body["error"]["type"] == "overloaded_error"
    refused = json.loads((WIRE / "anthropic_refused.json").read_text())[0]
    with pytest.raises(anthropic.BadRequestError, match="expected an array of at least one message"):
        claude(compact(refused["body"]).encode(), status=refused["status"]).messages.create(**ASK)


def test_a_round_of_tools():
    """The client's own requests are those of the wire tests, and its answer to a call is understood."""
    first, second = ANTHROPIC_SDK.values()
    tool = {"name": "weather", "description": "Tells it.", "input_schema": first["request"]["tools"][0]["input_schema"]}
    ask = {"model": "m", "max_tokens": 200, "messages": [{"role": "user", "content": "Weather in Paris?"}]}
    seen = []
    with claude(first["bytes"], seen=seen).messages.stream(
            **ask, tools=[tool], thinking={"type": "enabled", "budget_tokens": 1024},
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True}) as stream:
        message = stream.get_final_message()
    call = message.content[-1]
    ask["messages"] += [{"role": "assistant", "content": content(message)},
                        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}]
    answer = claude(second["bytes"], seen=seen).messages.create(**ask, tools=[tool])
    assert seen == [("http://minke.test/v1/messages", first["request"]), ("http://minke.test/v1/messages", second["request"])]
    assert answer.content[0].text == "It is sunny."
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (8, 12)


# --- Ollama --------------------------------------------------------------------------------------------------------
def llama(data, status=200, seen=None, cls=ollama.Client):
    def answer(request):
        if seen is not None:
            seen.append((request.url.path, json.loads(request.content) if request.content else None))
        return httpx.Response(status, content=data, headers={"content-type": "application/x-ndjson"})

    return cls(host="http://minke.test", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("name", [n for n in streams(OLLAMA) if "error" not in n])
def test_lines_give_the_whole_answer(name):
    case = OLLAMA[name]
    generate = case["dialect"] == "ollama-generate"

    def ask(case, stream):
        client = llama(case["bytes"])
        return client.generate("m", "hi", stream=stream) if generate else client.chat("m", ASK["messages"], stream=stream)

    parts = list(ask(case, True))
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    whole_name = name.replace(", streamed", ", whole")
    if whole_name == name:
        return
    whole = ask(OLLAMA[whole_name], False)
    fields = ("done_reason", "eval_count", "prompt_eval_count", "total_duration", "load_duration", "eval_duration")
    assert [getattr(parts[-1], f) for f in fields] == [getattr(whole, f) for f in fields]
    said = (lambda p: p) if generate else (lambda p: p.message)
    text = "response" if generate else "content"
    for key in (text, "thinking"):
        assert "".join(getattr(said(p), key) or "" for p in parts) == (getattr(said(whole), key) or "")
    if generate:
        assert parts[-1].context == whole.context
    else:
        assert [c for p in parts for c in p.message.tool_calls or []] == list(whole.message.tool_calls or [])
    assert [x for p in parts for x in p.logprobs or []] == list(whole.logprobs or [])


def test_ollama_errors():
    with pytest.raises(ollama.ResponseError, match="out of memory"):
        list(llama(OLLAMA["ollama-chat: an error after text, streamed"]["bytes"]).chat("m", ASK["messages"], stream=True))
    refused = json.loads((WIRE / "ollama_refused.json").read_text())[0]
    with pytest.raises(ollama.ResponseError, match="expected an array of messages") as e:
        llama(compact(refused["body"]).encode(), status=refused["status"]).chat("m", ASK["messages"])
    assert e.value.status_code == 400


def weather(city: str) -> str:
    """
    Tells the weather.

    Args:
        city: The city.
    """
    return f"sunny in {city}"


def test_ollama_round_of_tools():
    first, second, third = OLLAMA_SDK.values()
    seen = []
    messages = [{"role": "user", "content": "Weather in Paris?"}]
    parts = list(llama(first["bytes"], seen=seen).chat("m", messages, tools=[weather], stream=True, think=True,
                       keep_alive="5m", options={"temperature": 0.5, "num_predict": 100, "seed": 7, "stop": ["END"]}))
    call = [c for p in parts for c in p.message.tool_calls or []][0]
    messages += [{"role": "assistant", "content": "".join(p.message.content or "" for p in parts),
                  "thinking": "".join(p.message.thinking or "" for p in parts), "tool_calls": [call]},
                 {"role": "tool", "tool_name": call.function.name, "content": "sunny"}]
    answer = llama(second["bytes"], seen=seen).chat("m", messages, format={"type": "object"})
    list(llama(third["bytes"], seen=seen).generate("m", "Why?", system="S", stream=True))
    paths = ["/api/chat", "/api/chat", "/api/generate"]
    assert seen == [(p, c["request"]) for p, c in zip(paths, (first, second, third))]
    assert json.loads(answer.message.content) == {"sunny": True}


def test_ollama_async():
    async def run():
        parts = await llama(OLLAMA["ollama-chat: text, streamed"]["bytes"], cls=ollama.AsyncClient).chat(
            "m", ASK["messages"], stream=True)
        return "".join([p.message.content async for p in parts])

    assert asyncio.run(run()) == 'Hello "you"\n안녕'


def test_ollama_models():
    """What serve_test_ollama_info compares with: the answers about models."""
    info = json.loads((ROOT / "tests" / "serve" / "info" / "ollama.json").read_text())
    listed = llama(compact(info["tags"]).encode()).list().models
    assert [(m.model, m.size, m.details.parameter_size) for m in listed] == [
        ("qwen3:latest", 639446688, "751.63M"), ("hub.test:80/org/thimble:1b", 4096, "1B")]
    assert listed[0].modified_at.isoformat() == "2024-11-22T15:40:00+00:00"
    shown = llama(compact(info["show"]).encode()).show("qwen3")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo["qwen3.context_length"] == 32768 and shown.details.quantization_level == "Q8_0"
    assert "{{ messages }}" in shown.template
    running = llama(compact(info["ps"]).encode()).ps().models
    assert [(m.name, m.context_length, m.expires_at.year) for m in running] == [
        ("qwen3:latest", 32768, 2024), ("hub.test:80/org/thimble:1b", 512, 9999)]
