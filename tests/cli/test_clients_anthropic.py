"""Anthropic's own client against a running `minke serve`."""
import asyncio
import json

import anthropic
import pytest
from pydantic import BaseModel

from conftest import TOOL_ANSWER, TOOL_QUESTION, TOOL_RESULT
from serving import Server

QUESTION = "What is (37+58)*6-129?"
ASK = {"model": "claude-sonnet-5", "max_tokens": 300, "messages": [{"role": "user", "content": QUESTION}]}


class Value(BaseModel):
    value: int


def blocks(message):
    return [(b.type, b.thinking if b.type == "thinking" else b.text) for b in message.content]


def asked(text, **more):
    return ASK | {"messages": [{"role": "user", "content": text}]} | more


def prompt_tokens(usage):
    """All of the prompt: what was computed, what was kept, what was found."""
    return usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)


@pytest.fixture(scope="module")
def client(served):
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0, timeout=60) as c:
        yield c


@pytest.fixture(scope="module")
def answer(client):
    return client.messages.create(**ASK)


def test_message(answer):
    assert answer.type == "message" and answer.role == "assistant" and answer.id.startswith("msg_")
    assert answer.model == "thimble"  # not what was asked for: what answered
    assert answer.stop_reason == "end_turn" and answer.stop_sequence is None
    (_, thinking), (_, text) = blocks(answer)
    assert thinking.startswith("(37+58)*6-129\n") and text.lstrip("-").isdigit()
    assert answer.content[0].signature
    assert prompt_tokens(answer.usage) > 0 and answer.usage.output_tokens > 20


def test_stream(client, answer):
    with client.messages.stream(**ASK) as stream:
        events = [e.type for e in stream]
        final = stream.get_final_message()
    assert blocks(final) == blocks(answer) and final.usage.output_tokens == answer.usage.output_tokens
    assert events[0] == "message_start" and events[-1] == "message_stop"
    assert events.count("content_block_start") == events.count("content_block_stop") == 2
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == blocks(answer)[1][1]


def test_raw_stream(client, answer):
    """Without the helper that puts events together."""
    events = list(client.messages.create(**ASK, stream=True))
    thinking = "".join(e.delta.thinking for e in events if e.type == "content_block_delta" and e.delta.type == "thinking_delta")
    assert thinking == blocks(answer)[0][1]
    delta = next(e for e in events if e.type == "message_delta")
    assert delta.delta.stop_reason == "end_turn" and delta.usage.output_tokens == answer.usage.output_tokens


def test_async(served, answer):
    async def run():
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0, timeout=60) as c:
            async def one(stream):
                if not stream:
                    return blocks(await c.messages.create(**ASK))
                async with c.messages.stream(**ASK) as s:
                    return blocks(await s.get_final_message())

            return await asyncio.gather(*(one(i % 2 == 0) for i in range(8)))

    assert asyncio.run(run()) == [blocks(answer)] * 8


def test_count_tokens(client, answer):
    counted = client.messages.count_tokens(model="m", messages=ASK["messages"]).input_tokens
    assert counted == prompt_tokens(answer.usage)
    longer = client.messages.count_tokens(model="m", system="Be brief.", messages=ASK["messages"]).input_tokens
    assert longer > counted
    assert client.beta.messages.count_tokens(model="m", messages=ASK["messages"]).input_tokens == counted


def test_what_was_said_stays_in_the_prompt(client, answer):
    """The answer goes back as it came, its thinking too, and a question follows."""
    said = [b.to_dict() for b in answer.content]
    messages = ASK["messages"] + [{"role": "assistant", "content": said}, {"role": "user", "content": "2+3"}]
    r = client.messages.create(**ASK | {"messages": messages})
    assert blocks(r)[-1] == ("text", "5")
    assert prompt_tokens(r.usage) == client.messages.count_tokens(model="m", messages=messages).input_tokens


def test_beta(client, answer):
    assert blocks(client.beta.messages.create(**ASK, betas=["interleaved-thinking-2025-05-14"])) == blocks(answer)


@pytest.mark.parametrize("budget", [5, 10, 25])
def test_a_budget_of_thinking_is_kept(client, answer, budget):
    r = client.messages.create(**ASK, thinking={"type": "enabled", "budget_tokens": budget})
    thought = dict(blocks(r))["thinking"]
    assert len(thought) <= budget < len(blocks(answer)[0][1])  # every token of this model is one character
    assert [b.type for b in r.content] == ["thinking", "text"] and r.stop_reason == "end_turn"
    with client.messages.stream(**ASK, thinking={"type": "enabled", "budget_tokens": budget}) as stream:
        assert blocks(stream.get_final_message()) == blocks(r)


def test_limits_and_stop(client):
    cut = client.messages.create(**ASK | {"max_tokens": 6})
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 6
    stopped = client.messages.create(**asked("hello"), stop_sequences=["(37", "sums"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "sums")
    assert blocks(stopped)[-1][1].endswith(" ") and "sums" not in blocks(stopped)[-1][1]


def test_cached_tokens(client):
    text = "What is " + "+".join(str(20 + i) for i in range(60)) + "?"
    first, second = (client.messages.create(**asked(text, max_tokens=1)).usage for _ in range(2))
    assert second.cache_read_input_tokens >= 128 > (first.cache_read_input_tokens or 0)
    assert prompt_tokens(first) == prompt_tokens(second)
    other = client.messages.create(**asked(text, max_tokens=1), metadata={"user_id": "somebody else"}).usage
    assert not other.cache_read_input_tokens


def test_parse(client):
    r = client.messages.parse(**ASK, output_format=Value)
    assert isinstance(r.parsed_output, Value) and r.content[0].type == "thinking"
    with client.messages.stream(**ASK, output_format=Value) as stream:
        assert stream.get_final_message().parsed_output == r.parsed_output


# --- tools ---------------------------------------------------------------------------------------------------------
CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Busan"]}}, "required": ["city"], "additionalProperties": False}
CALL = ASK | {"messages": [{"role": "user", "content": TOOL_QUESTION}],
              "tools": [{"name": "get_weather", "description": "of a city", "input_schema": CITY}]}


@pytest.fixture(scope="module")
def caller(agent):
    with anthropic.Anthropic(base_url=agent.url, api_key="any", max_retries=0, timeout=60) as c:
        yield c


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=lambda c: c["type"])
def test_tool_use(caller, choice):
    """A call, whole and streamed; its result goes back, and the model answers."""
    ask = CALL | {"tool_choice": choice | {"disable_parallel_tool_use": True}}
    r = caller.messages.create(**ask)
    [use] = r.content
    assert (r.stop_reason, use.type, use.name, use.input) == ("tool_use", "tool_use", "get_weather", {"city": "Oslo"})

    with caller.messages.stream(**ask) as stream:
        pieces = [e.partial_json for e in stream if e.type == "input_json"]
        final = stream.get_final_message()
    assert (final.stop_reason, final.content[0].name, final.content[0].input) == ("tool_use", use.name, use.input)
    assert json.loads("".join(pieces)) == use.input

    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": TOOL_RESULT}]}
    back = CALL | {"messages": [*CALL["messages"], {"role": "assistant", "content": r.content}, result]}
    end = caller.messages.create(**back)
    assert blocks(end) == [("text", TOOL_ANSWER)] and end.stop_reason == "end_turn"
    counted = caller.messages.count_tokens(model="m", messages=back["messages"], tools=CALL["tools"]).input_tokens
    assert prompt_tokens(end.usage) == counted > prompt_tokens(r.usage)
    with caller.messages.stream(**back) as stream:
        assert blocks(stream.get_final_message()) == blocks(end)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_runner(caller, stream):
    """The client's own loop: it runs what the model calls, sends back what came of it, and ends when the model answers."""
    ran = []

    @anthropic.beta_tool(input_schema=CITY)
    def get_weather(city: str) -> str:
        """Of a city."""
        ran.append(city)
        return TOOL_RESULT

    runner = caller.beta.messages.tool_runner(**CALL | {"tools": [get_weather]}, max_iterations=5, stream=stream)
    messages = [turn.get_final_message() if stream else turn for turn in runner]
    assert [m.stop_reason for m in messages] == ["tool_use", "end_turn"] and ran == ["Oslo"]
    assert messages[1].content[0].text == TOOL_ANSWER


def test_models(client):
    assert [m.id for m in client.models.list()] == ["thimble"]
    assert client.models.retrieve("thimble").id == "thimble"


def test_errors(client):
    with pytest.raises(anthropic.BadRequestError, match="nothing was cut") as e:
        client.messages.create(**asked("7" * 2000))
    assert e.value.body["type"] == "error" and e.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**ASK, extra_body={"temperature": 9})
    with pytest.raises(anthropic.BadRequestError, match="nothing was cut"):
        with client.messages.stream(**asked("7" * 2000)):
            pass
    with pytest.raises(anthropic.BadRequestError, match="mcp_servers"):
        client.messages.create(**ASK, extra_body={"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()


def test_keys(tmp_path):
    with Server(tmp_path, "--key", "secret") as server:
        for how in ({"api_key": "secret"}, {"auth_token": "secret"}):
            with anthropic.Anthropic(base_url=server.url, max_retries=0, **how) as c:
                assert c.messages.create(**asked("2+3")).content
        with anthropic.Anthropic(base_url=server.url, max_retries=0, api_key="other") as c:
            with pytest.raises(anthropic.AuthenticationError):
                c.messages.create(**asked("2+3"))
