"""Ollama's own client against a running `minke serve`."""
import asyncio
import json

import ollama
import pytest

from conftest import TOOL_ANSWER, TOOL_QUESTION, TOOL_RESULT

QUESTION = "What is (37+58)*6-129?"
USER = [{"role": "user", "content": QUESTION}]
SCHEMA = {"type": "object", "properties": {"value": {"type": "integer", "minimum": 100, "maximum": 199}},
          "required": ["value"], "additionalProperties": False}


@pytest.fixture(scope="module")
def client(served):
    return ollama.Client(host=served.url, timeout=60)


@pytest.fixture(scope="module")
def answer(client):
    return client.chat("thimble", USER)


def test_models(client):
    listed = client.list().models
    assert [m.model for m in listed] == ["thimble:latest"] and listed[0].size > 1e6 and len(listed[0].digest) == 64
    shown = client.show("thimble")
    assert {"completion", "thinking"} <= set(shown.capabilities)
    assert shown.details.format == "gguf" and "<|user|>" in shown.template
    assert any(k.endswith("context_length") for k in shown.modelinfo)
    running = client.ps().models
    assert [m.name for m in running] == ["thimble:latest"] and running[0].context_length > 0


def test_chat(answer):
    assert answer.done and answer.done_reason == "stop" and answer.model.startswith("thimble")
    assert answer.message.content.lstrip("-").isdigit() and answer.message.thinking.startswith("(37+58)*6-129\n")
    assert answer.prompt_eval_count > 0 and answer.eval_count > 20
    assert answer.total_duration >= answer.eval_duration > 0


def test_stream(client, answer):
    parts = list(client.chat("thimble", USER, stream=True))
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(p.message.content or "" for p in parts) == answer.message.content
    assert "".join(p.message.thinking or "" for p in parts) == answer.message.thinking
    assert (parts[-1].eval_count, parts[-1].done_reason) == (answer.eval_count, "stop")


def test_async(served, answer):
    async def run():
        client = ollama.AsyncClient(host=served.url, timeout=60)

        async def one(stream):
            r = await client.chat("thimble", USER, stream=stream)
            return "".join([p.message.content or "" async for p in r]) if stream else r.message.content

        return await asyncio.gather(*(one(i % 2 == 0) for i in range(8)))

    assert asyncio.run(run()) == [answer.message.content] * 8


def test_generate(client, answer):
    whole = client.generate("thimble", QUESTION)
    assert (whole.response, whole.thinking) == (answer.message.content, answer.message.thinking)
    parts = list(client.generate("thimble", QUESTION, stream=True))
    assert "".join(p.response for p in parts) == whole.response and parts[-1].context == whole.context
    raw = client.generate("thimble", f"<|user|>{QUESTION}<|assistant|>", raw=True)
    assert raw.response.endswith(whole.response)


def test_options(client):
    cut = client.chat("thimble", USER, options={"num_predict": 7})
    assert (cut.eval_count, cut.done_reason) == (7, "length")
    hot = [client.chat("thimble", USER, options={"temperature": 1.5, "seed": s, "num_predict": 40}).message.thinking
           for s in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]
    stopped = client.generate("thimble", "<|user|>2+3<|assistant|>", raw=True, options={"stop": ["+3="]})
    assert stopped.done_reason == "stop" and stopped.response.endswith("2")


def test_logprobs(client):
    r = client.chat("thimble", [{"role": "user", "content": "2+3"}], logprobs=True, top_logprobs=2)
    assert len(r.logprobs) > 0
    assert all(x.logprob <= 0 and len(x.top_logprobs) == 2 for x in r.logprobs)


def test_forms(client):
    r = client.chat("thimble", USER, format=SCHEMA)
    assert 100 <= json.loads(r.message.content)["value"] <= 199 and r.message.thinking
    streamed = "".join(p.message.content or "" for p in client.chat("thimble", USER, format=SCHEMA, stream=True))
    assert streamed == r.message.content
    assert isinstance(json.loads(client.generate("thimble", QUESTION, format="json", options={"num_predict": 200,
                                                                                              "seed": 1}).response), dict)


def get_weather(city: str) -> str:
    """Of a city.

    Args:
        city: its name
    """
    return {"Oslo": TOOL_RESULT}[city]


def test_tool_call(agent):
    """A call of the model's own accord, whole and streamed; its result goes back, and the model answers."""
    client = ollama.Client(host=agent.url, timeout=60)
    messages = [{"role": "user", "content": TOOL_QUESTION}]
    r = client.chat("model", messages, tools=[get_weather])
    [call] = r.message.tool_calls
    assert (call.function.name, call.function.arguments, r.message.content) == ("get_weather", {"city": "Oslo"}, "")
    streamed = [c for p in client.chat("model", messages, tools=[get_weather], stream=True) for c in p.message.tool_calls or []]
    assert streamed == [call]
    messages += [r.message, {"role": "tool", "tool_name": call.function.name, "content": get_weather(**call.function.arguments)}]
    end = client.chat("model", messages, tools=[get_weather])
    assert (end.message.content, end.message.tool_calls, end.done_reason) == (TOOL_ANSWER, None, "stop")
    assert "".join(p.message.content or "" for p in client.chat("model", messages, tools=[get_weather], stream=True)) == TOOL_ANSWER


def test_embeddings(client):
    r = client.embed("thimble", ["2+3", "Make 24", "2+3"])
    assert len(r.embeddings) == 3 and r.embeddings[0] == r.embeddings[2] != r.embeddings[1]
    assert client.embed("thimble", "2+3").embeddings[0] == r.embeddings[0]


def test_errors(client):
    with pytest.raises(ollama.ResponseError, match="nothing was cut") as e:
        client.chat("thimble", [{"role": "user", "content": "7" * 2000}])
    assert e.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="nothing was cut"):
        list(client.chat("thimble", [{"role": "user", "content": "7" * 2000}], stream=True))
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        client.chat("thimble", USER, options={"mirostat": 2})
    with pytest.raises(ollama.ResponseError) as e:
        client.pull("thimble")
    assert e.value.status_code == 404
