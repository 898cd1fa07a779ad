"""OpenAI's own client against a running `minke serve`: what a program written for the hosted service gets here."""
import asyncio
import concurrent.futures
import json
import math
import time
from typing import Literal

import openai
import pydantic
import pytest
from pydantic import BaseModel, Field

from conftest import ROOT, TOOL_ANSWER, TOOL_QUESTION, TOOL_RESULT
from serving import Server, cancels

QUESTION = "What is (37+58)*6-129?"
PROMPT = "<|user|>2+3<|assistant|>"


class Value(BaseModel):
    value: int = Field(ge=100, le=199)


def user(text):
    return [{"role": "user", "content": text}]


def reasoning(message):
    return (message.model_extra or {}).get("reasoning_content") or ""


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=served.url + "/v1", api_key="any", max_retries=0, timeout=60) as c:
        yield c


@pytest.fixture(scope="module")
def answer(client):
    """The whole answer to QUESTION, which other ways of asking must give again."""
    return client.chat.completions.create(model="thimble", messages=user(QUESTION))


def in_parallel(served, work):
    """Runs the coroutine work(client) with an asynchronous client."""
    async def run():
        async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="any", max_retries=0, timeout=60) as c:
            return await work(c)

    return asyncio.run(run())


# --- chat ----------------------------------------------------------------------------------------------------------
def test_models(client):
    assert [m.id for m in client.models.list()] == ["thimble"]
    assert client.models.retrieve("thimble").id == "thimble"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_chat(answer):
    choice, usage = answer.choices[0], answer.usage
    assert answer.object == "chat.completion" and answer.model == "thimble" and abs(answer.created - time.time()) < 600
    assert choice.finish_reason == "stop" and choice.message.role == "assistant" and choice.message.refusal is None
    assert choice.message.content.lstrip("-").isdigit() and reasoning(choice.message).startswith("(37+58)*6-129\n")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_stream(client, answer):
    chunks = list(client.chat.completions.create(model="thimble", messages=user(QUESTION), stream=True,
                                                 stream_options={"include_usage": True}))
    assert len({c.id for c in chunks}) == 1 and len({c.created for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert "".join(d.content or "" for d in deltas) == answer.choices[0].message.content
    assert "".join(map(reasoning, deltas)) == reasoning(answer.choices[0].message)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1) and chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def test_stream_helper(client, answer):
    with client.chat.completions.stream(model="thimble", messages=user(QUESTION)) as stream:
        events = [e.type for e in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == answer.choices[0].message.content
    assert events.count("content.done") == 1 and "content.delta" in events


def test_async(served, answer):
    async def work(client):
        async def one(stream):
            r = await client.chat.completions.create(model="thimble", messages=user(QUESTION), stream=stream)
            if not stream:
                return r.choices[0].message.content
            return "".join([c.choices[0].delta.content or "" async for c in r])

        return await asyncio.gather(*(one(i % 2 == 0) for i in range(12)))

    assert in_parallel(served, work) == [answer.choices[0].message.content] * 12


def test_several_choices(client):
    ask = {"model": "thimble", "messages": user("Make 24 from 3 5 7"), "temperature": 1.0, "max_tokens": 40}
    r = client.chat.completions.create(**ask, n=3, seed=11)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert len({reasoning(c.message) for c in r.choices}) > 1
    for i, c in enumerate(r.choices):
        assert client.chat.completions.create(**ask, seed=11 + i).choices[0].message == c.message
    parts = ["", "", ""]
    for chunk in client.chat.completions.create(**ask, n=3, seed=11, stream=True):
        for c in chunk.choices:
            parts[c.index] += reasoning(c.delta)
    assert parts == [reasoning(c.message) for c in r.choices]


def test_logprobs(client):
    ask = {"model": "thimble", "messages": user("2+3"), "logprobs": True, "top_logprobs": 3}
    c = client.chat.completions.create(**ask).choices[0]
    tokens = c.logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode().endswith(c.message.content)
    for t in tokens:
        best = t.top_logprobs
        assert len(best) == 3 and best == sorted(best, key=lambda x: -x.logprob)
        assert sum(math.exp(x.logprob) for x in best) <= 1 + 1e-5
        assert (t.token, t.logprob) == (best[0].token, best[0].logprob)  # the model's own sampling is greedy
    streamed = [t for chunk in client.chat.completions.create(**ask, stream=True) for x in chunk.choices
                if x.logprobs for t in x.logprobs.content or []]
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in tokens]


def test_limits_and_stop(client):
    cut = client.chat.completions.create(model="thimble", messages=user(QUESTION), max_completion_tokens=9, max_tokens=12)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 9
    text = client.completions.create(model="thimble", prompt=PROMPT, stop=["+3="]).choices[0]
    assert text.finish_reason == "stop" and text.text == "<think>\n2"


def test_ending_a_stream_ends_the_work(served, client):
    def hang_up():
        stream = client.completions.create(model="thimble", prompt=PROMPT, stream=True, n=16, max_tokens=370,
                                           extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()

    assert cancels(served, hang_up, 16)


# --- forms of answers ----------------------------------------------------------------------------------------------
def test_parse(client):
    ask = {"model": "thimble", "messages": user(QUESTION), "response_format": Value}
    message = client.chat.completions.parse(**ask).choices[0].message
    assert isinstance(message.parsed, Value) and reasoning(message)
    with client.chat.completions.stream(**ask) as stream:
        parsed = [e.parsed for e in stream if e.type == "content.done"]
    assert parsed == [message.parsed]
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ask, max_tokens=5)


def test_parse_async(served):
    async def work(client):
        r = await client.chat.completions.parse(model="thimble", messages=user(QUESTION), response_format=Value)
        return r.choices[0].message.parsed

    assert isinstance(in_parallel(served, work), Value)


def test_a_schema_that_cannot_be_kept(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "not": {}}}}
    with pytest.raises(openai.BadRequestError, match="/not"):
        client.chat.completions.create(model="thimble", messages=user("2+3"), response_format=form)


# --- tools ---------------------------------------------------------------------------------------------------------
class Weather(BaseModel):
    city: Literal["Oslo", "Busan"]


class Wind(BaseModel):
    days: int = Field(ge=1, le=14)


WEATHER = openai.pydantic_function_tool(Weather, name="get_weather")
WIND = openai.pydantic_function_tool(Wind, name="get_wind")
CALL = {"model": "model", "messages": user(TOOL_QUESTION), "tools": [WEATHER], "parallel_tool_calls": False}
# of its own accord; because it must; another tool than it knows
CHOICES = [{}, {"tool_choice": "required"}, {"tools": [WEATHER, WIND], "tool_choice": {"type": "function", "function": {"name": "get_wind"}}}]


def call_of(choice):
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.id and call.type == "function" and not choice.message.content
    return call


@pytest.fixture(scope="module")
def caller(agent):
    with openai.OpenAI(base_url=agent.url + "/v1", api_key="any", max_retries=0, timeout=60) as c:
        yield c


@pytest.mark.parametrize("choice", CHOICES, ids=["auto", "required", "named"])
def test_tool_call(caller, choice):
    """A call, whole and streamed; its result goes back, and the model answers."""
    ask = CALL | choice
    r = caller.chat.completions.parse(**ask)
    call = call_of(r.choices[0])
    if "tools" in choice:
        assert call.function.name == "get_wind" and isinstance(call.function.parsed_arguments, Wind)
    else:
        assert call.function.name == "get_weather" and call.function.parsed_arguments == Weather(city="Oslo")

    with caller.chat.completions.stream(**ask) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        assert call_of(stream.get_final_completion().choices[0]).function == call.function
    assert [(e.name, e.arguments) for e in done] == [(call.function.name, call.function.arguments)]
    parts = [d for c in caller.chat.completions.create(**ask, stream=True) for x in c.choices for d in x.delta.tool_calls or []]
    assert parts[0].id and parts[0].function.name == call.function.name and all(d.function.name is None for d in parts[1:])
    assert "".join(d.function.arguments or "" for d in parts) == call.function.arguments

    said = r.choices[0].message.to_dict() | {"tool_calls": [call.to_dict()]}
    back = CALL | {"messages": [*CALL["messages"], said, {"role": "tool", "tool_call_id": call.id, "content": TOOL_RESULT}]}
    end = caller.chat.completions.create(**back, max_tokens=100)
    assert end.usage.prompt_tokens > r.usage.prompt_tokens
    assert "tools" in choice or (end.choices[0].message.content, end.choices[0].finish_reason) == (TOOL_ANSWER, "stop")
    text = [c.choices[0].delta.content or "" for c in caller.chat.completions.create(**back, max_tokens=100, stream=True)]
    assert "".join(text) == end.choices[0].message.content


def test_tool_call_async(agent):
    async def work(c):
        async def one(stream):
            if not stream:
                return call_of((await c.chat.completions.create(**CALL)).choices[0]).function
            async with c.chat.completions.stream(**CALL) as s:
                return call_of((await s.get_final_completion()).choices[0]).function

        return await asyncio.gather(*(one(i % 2) for i in range(4)))

    assert {(f.name, f.arguments) for f in in_parallel(agent, work)} == {("get_weather", '{"city": "Oslo"}')}


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "get_weather"}], ids=["auto", "required", "named"])
def test_response_tool_call(caller, choice):
    """The same by Responses: the call is an item, its result another, and the server remembers what was between them."""
    tool = {"type": "function", **WEATHER["function"]}
    ask = {"model": "model", "input": TOOL_QUESTION, "tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    r = caller.responses.create(**ask)
    [call] = r.output
    assert (call.type, call.status, call.name, json.loads(call.arguments)) == ("function_call", "completed", "get_weather", {"city": "Oslo"})
    events = list(caller.responses.create(**ask, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta") == call.arguments
    assert [(e.name, e.arguments) for e in events if e.type == "response.function_call_arguments.done"] == [(call.name, call.arguments)]
    kinds = [(e.type, e.item.type) for e in events if e.type.startswith("response.output_item.")]
    assert kinds == [("response.output_item.added", "function_call"), ("response.output_item.done", "function_call")]
    found = {"type": "function_call_output", "call_id": call.call_id, "output": TOOL_RESULT}
    ask |= {"tool_choice": "auto"}
    end = caller.responses.create(**ask | {"previous_response_id": r.id, "input": [found]})
    assert (end.status, end.output_text) == ("completed", TOOL_ANSWER)
    spelled = caller.responses.create(**ask | {"input": [*user(TOOL_QUESTION), *(o.to_dict() for o in r.output), found]})
    assert (spelled.output_text, spelled.usage.input_tokens) == (end.output_text, end.usage.input_tokens)


# --- text, embeddings ----------------------------------------------------------------------------------------------
def test_completions(served, client):
    r = client.completions.create(model="thimble", prompt=PROMPT, logprobs=2)
    assert r.choices[0].text.startswith("<think>\n") and r.object == "text_completion"
    assert "".join(r.choices[0].logprobs.tokens).startswith("<think>")
    streamed = "".join(c.choices[0].text for c in client.completions.create(model="thimble", prompt=PROMPT, stream=True))
    assert streamed == r.choices[0].text
    ids = served.post("/tokenize", {"content": "2+3", "add_special": False})["tokens"]
    assert client.completions.create(model="thimble", prompt=ids, max_tokens=2).usage.prompt_tokens == len(ids)
    echo = client.completions.create(model="thimble", prompt="2+3", echo=True, max_tokens=3)
    assert echo.choices[0].text.startswith("2+3")


def test_several_prompts(served, client):
    """Each prompt of a request gets the answers that it gets alone, at index prompt * n + k."""
    prompts = [PROMPT, "<|user|>7*8<|assistant|>", "<|user|>Make 24 from 1, 2, 3, 4<|assistant|>"]
    ask = {"model": "thimble", "n": 2, "max_tokens": 24, "temperature": 1, "seed": 5, "logprobs": 1}
    alone = [client.completions.create(prompt=p, **ask) for p in prompts]
    want = [(c.text, c.finish_reason, c.logprobs) for r in alone for c in r.choices]
    ids = [served.post("/tokenize", {"content": p, "add_special": True, "parse_special": True})["tokens"] for p in prompts]
    for given in (prompts, ids):
        r = client.completions.create(prompt=given, **ask)
        assert [c.index for c in r.choices] == list(range(6))
        assert [(c.text, c.finish_reason, c.logprobs) for c in r.choices] == want
        assert r.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)
        assert r.usage.completion_tokens == sum(a.usage.completion_tokens for a in alone)
    texts = [""] * 6
    for chunk in client.completions.create(prompt=prompts, stream=True, **ask):
        for c in chunk.choices:
            texts[c.index] += c.text
    assert texts == [w[0] for w in want]
    echo = client.completions.create(model="thimble", prompt=["2+3", "4*"], echo=True, max_tokens=3)
    assert echo.choices[0].text.startswith("2+3") and echo.choices[1].text.startswith("4*")
    with pytest.raises(openai.BadRequestError, match="nothing was cut") as e:
        client.completions.create(model="thimble", prompt=[PROMPT, "7" * 2000])
    assert (e.value.param, e.value.code) == ("prompt[1]", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError, match="1 to 128 prompts, got 129"):
        client.completions.create(model="thimble", prompt=[PROMPT] * 129)
    scored = client.completions.create(model="thimble", prompt=["2+3", "4*"], echo=True, logprobs=2, max_tokens=0)
    assert [c.text for c in scored.choices] == ["2+3", "4*"]
    assert all(c.logprobs.token_logprobs[0] is None and c.logprobs.token_logprobs[-1] < 0 for c in scored.choices)


def test_embeddings(client):
    plain = client.embeddings.create(model="thimble", input=["2+3", "Make 24"], encoding_format="float")
    packed = client.embeddings.create(model="thimble", input=["2+3", "Make 24"])  # the client asks for base64
    assert [d.index for d in plain.data] == [0, 1] and plain.usage.prompt_tokens > 0
    for a, b in zip(plain.data, packed.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6) and abs(math.hypot(*a.embedding) - 1) < 1e-5


# --- responses -----------------------------------------------------------------------------------------------------
def test_response(client, answer):
    r = client.responses.create(model="thimble", input=QUESTION)
    assert r.status == "completed" and r.output_text == answer.choices[0].message.content
    assert [o.type for o in r.output] == ["reasoning", "message"]
    assert r.output[0].content[0].text == reasoning(answer.choices[0].message)
    assert r.usage.output_tokens == answer.usage.completion_tokens
    assert r.usage.output_tokens_details.reasoning_tokens == answer.usage.completion_tokens_details.reasoning_tokens
    cut = client.responses.create(model="thimble", input=QUESTION, max_output_tokens=5)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


def test_response_stream(client, answer):
    events = list(client.responses.create(model="thimble", input=QUESTION, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == answer.choices[0].message.content == events[-1].response.output_text
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    assert thought == reasoning(answer.choices[0].message)
    with client.responses.stream(model="thimble", input=QUESTION) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == text


def test_a_prompt_is_counted(client):
    r = client.responses.create(model="thimble", input=QUESTION, instructions="Be short.", max_output_tokens=1)
    counted = client.responses.input_tokens.count(model="thimble", input=QUESTION, instructions="Be short.")
    assert (counted.input_tokens, counted.object) == (r.usage.input_tokens, "response.input_tokens")


def test_response_parse(served, client):
    want = client.responses.parse(model="thimble", input=QUESTION, text_format=Value).output_parsed
    assert isinstance(want, Value)

    async def work(c):
        async with c.responses.stream(model="thimble", input=QUESTION, text_format=Value) as stream:
            return (await stream.get_final_response()).output_parsed

    assert in_parallel(served, work) == want


def test_responses_remember(tmp_path):
    """The second request carries only the new question; the template shows the model all of them."""
    with Server(tmp_path, "--template", ROOT / "tests/cli/passes.jinja") as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
            ask = {"model": "thimble", "max_output_tokens": 4}
            first = client.responses.create(**ask, input="2+3")
            second = client.responses.create(**ask, input="4+5", previous_response_id=first.id)
            spelled = client.responses.create(**ask, input=user("2+3") + first.to_dict()["output"] + user("4+5"))
            assert second.previous_response_id == first.id
            assert second.usage.input_tokens == spelled.usage.input_tokens > 6
            assert second.output_text == spelled.output_text
            forgotten = client.responses.create(**ask, input="2+3", store=False)
            with pytest.raises(openai.BadRequestError, match="resp_") as e:
                client.responses.create(**ask, input="4+5", previous_response_id=forgotten.id)
            assert (e.value.code, e.value.param) == ("previous_response_not_found", "previous_response_id")


def test_what_a_response_answered(tmp_path):
    """The conversation behind an answer, item by item: what was asked, thought, called and found out; sent back, it is the same."""
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"x": 3.14159265358979}'}
    with Server(tmp_path, "--template", ROOT / "tests/cli/passes.jinja") as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
            ask = {"model": "thimble", "max_output_tokens": 4, "instructions": "Be short."}
            first = client.responses.create(**ask, input="2+3")
            second = client.responses.create(**ask, previous_response_id=first.id, input=[
                call, {"type": "function_call_output", "call_id": "call_1", "output": "5"}, *user("4+5")])
            items = list(client.responses.input_items.list(second.id, order="asc"))
            for i in items:
                pydantic.TypeAdapter(openai.types.responses.ResponseItem).validate_python(i.to_dict())
            said = [o for o in first.output if o.type == "message"]
            kinds = ["message"] + [o.type for o in first.output] + ["function_call", "function_call_output", "message"]
            assert [i.type for i in items] == kinds
            assert items[0].role == "user" and items[0].content[0].text == "2+3"
            assert [i.content[0].text for i in items if i.type == "message" and i.role == "assistant"] == \
                   [o.content[0].text for o in said]
            assert items[-3].to_dict().items() >= call.items() and items[-2].output == "5" and items[-1].role == "user"
            assert len({i.id for i in items}) == len(items)
            # the last comes first, and pages of two hold the same
            assert list(client.responses.input_items.list(second.id)) == items[::-1]
            assert list(client.responses.input_items.list(second.id, limit=2)) == items[::-1]
            page = client.responses.input_items.list(second.id, limit=1, after=items[0].id, order="asc")
            assert page.data == items[1:2] and page.has_next_page()
            # what was asked comes back as a question that means the same
            spelled = client.responses.create(**ask, input=[i.to_dict() for i in items])
            assert spelled.usage.input_tokens == second.usage.input_tokens and spelled.output_text == second.output_text
            # an answer that has ended cannot be cancelled any more
            assert client.responses.cancel(second.id) == client.responses.retrieve(second.id)
            for lost in (client.responses.cancel, client.responses.input_items.list):
                with pytest.raises(openai.NotFoundError, match="resp_none"):
                    lost("resp_none")
            with pytest.raises(openai.BadRequestError, match="limit"):
                client.responses.input_items.list(second.id, limit=101)
            with pytest.raises(openai.BadRequestError, match="msg_none"):
                client.responses.input_items.list(second.id, after="msg_none")


# --- refusals ------------------------------------------------------------------------------------------------------
def test_errors(served, client):
    chat = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="nothing was cut") as e:
        chat(model="thimble", messages=user("7" * 2000))
    assert e.value.code == "context_length_exceeded" and e.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(model="thimble", messages=user("2"), temperature=7)
    with pytest.raises(openai.BadRequestError, match="nothing was cut"):
        list(chat(model="thimble", messages=user("7" * 2000), stream=True))
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.create(model="thimble", input="2+3", background=True)
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions") as e:
        client.images.generate(prompt="a cat", model="thimble")
    assert e.value.code is None  # not a model that is missing
    with pytest.raises(openai.NotFoundError, match="/v1/responses/compact is not supported") as e:
        client.responses.compact(model="thimble", input="2+3")
    assert e.value.code is None and e.value.type == "invalid_request_error"


def test_unknown_fields_are_named(client):
    raw = client.chat.completions.with_raw_response.create(model="thimble", messages=user("2+3"), extra_body={"banana": 1})
    assert raw.headers["Minke-Ignored-Fields"] == "banana" and raw.parse().choices[0].message.content


def test_keys(tmp_path):
    with Server(tmp_path, "--key", "secret") as server:
        make = {"base_url": server.url + "/v1", "max_retries": 0}
        with openai.OpenAI(**make, api_key="secret") as good, openai.OpenAI(**make, api_key="other") as bad:
            assert good.chat.completions.create(model="thimble", messages=user("2+3")).choices[0].message.content
            with pytest.raises(openai.AuthenticationError):
                bad.chat.completions.create(model="thimble", messages=user("2+3"))


def test_waiting_for_a_turn(tmp_path):
    """A client that is told to come back later does, and all are served in the end."""
    with Server(tmp_path, "--parallel", 1, "--max-waiting", 1) as server:
        ask = {"model": "thimble", "prompt": "<|user|>7*8", "max_tokens": 40, "extra_body": {"ignore_eos": True}}

        def once(c):
            try:
                return c.completions.create(**ask).usage.completion_tokens
            except openai.RateLimitError:
                return "later"

        with openai.OpenAI(base_url=server.url + "/v1", api_key="any") as c, concurrent.futures.ThreadPoolExecutor(12) as pool:
            got = list(pool.map(once, [c.with_options(max_retries=0)] * 12))
            assert set(got) == {40, "later"}, got
            assert list(pool.map(once, [c.with_options(max_retries=30)] * 4)) == [40] * 4
