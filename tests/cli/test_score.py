"""Log-probabilities of prompts by `minke serve`: /v1/completions with echo and logprobs, as evaluation harnesses ask.

Truth: what transformers says of tiny models (gen_scores.py); and the numbers that stood beside the same tokens when they
were generated, which must be the same to the digit, whatever else is in the request or at work.
"""
import http.client
import json
import math
import threading

import pytest

from conftest import GOLDEN
from serving import Server, wait_until

COMPLETIONS = "/v1/completions"
PROMPT = "<|user|>Make 24 from 3 5 7<|assistant|>"
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def ids_of(server, text):
    return server.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]


def score(server, prompt, **fields):
    return server.post(COMPLETIONS, {"prompt": prompt, "echo": True, "logprobs": 5, "max_tokens": 0, "temperature": 0} | fields)


def lists_of(choice, at=0):
    return [choice["logprobs"][name][at:] for name in LISTS[:3]]


@pytest.fixture(scope="module")
def said():
    return json.loads((GOLDEN / "scores.json").read_text())["prompts"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, said):
    names = sorted({p["model"] for p in said})
    with Server(tmp_path_factory.mktemp("tiny"), "--load", "all", model=[GOLDEN / "models" / n for n in names]) as s:
        yield s


@pytest.fixture(scope="module")
def answer(served):
    """An answer that was drawn, its ids and the numbers beside them."""
    ids = ids_of(served, PROMPT)
    r = served.post(COMPLETIONS, {"prompt": ids, "temperature": 1.3, "seed": 3, "max_tokens": 60, "logprobs": 5,
                                  "return_token_ids": True})["choices"][0]
    assert len(r["token_ids"]) > 20
    return {"prompt": ids, "ids": r["token_ids"][:len(r["logprobs"]["tokens"])], "lists": lists_of(r)}


# Bounds: two computations in float32 with other orders of summation; see tests/engine/test_golden.c.
def test_transformers_says_the_same(tiny, said):
    for p in said:
        r = score(tiny, p["ids"], model=p["model"], logprobs=3, max_tokens=1)["choices"][0]["logprobs"]
        n = len(p["ids"])
        assert [len(r[name]) for name in LISTS] == [n + 1] * 4
        assert r["token_logprobs"][0] is r["top_logprobs"][0] is None
        assert r["token_logprobs"][1:n] == pytest.approx(p["logprobs"], abs=1e-4)
        assert r["token_logprobs"][n] == pytest.approx(p["next"][0][1], abs=1e-4)
        for mine, theirs in zip(r["top_logprobs"][1:], [*p["top"], p["next"]]):
            assert list(mine.values()) == sorted(mine.values(), reverse=True)
            best = [value for _, value in theirs]
            assert list(mine.values()) == pytest.approx(best[:len(mine)], abs=1e-4) or len(mine) < len(best)
            assert list(mine.values())[0] == pytest.approx(best[0], abs=1e-4)


def test_the_numbers_are_those_of_the_answer(served, answer):
    whole, n = answer["prompt"] + answer["ids"], len(answer["prompt"])
    alone = score(served, whole)
    assert lists_of(alone["choices"][0], n) == answer["lists"]
    assert alone["usage"]["prompt_tokens"] == len(whole) and alone["usage"]["completion_tokens"] == 0
    assert alone["choices"][0]["finish_reason"] == "length"
    again = score(served, whole)  # its prompt is in the cache by now
    assert again["choices"] == alone["choices"] and again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # among others, of which some generate
    many = score(served, [whole[:k] for k in range(len(whole), 1, -3)], max_tokens=2)["choices"]
    for c, k in zip(many, range(len(whole), 1, -3)):
        assert [part[:k] for part in lists_of(c)] == [part[:k] for part in lists_of(alone["choices"][0])]
        assert len(c["logprobs"]["tokens"]) == k + 2 or c["finish_reason"] == "stop"


def test_another_server_says_the_same(tmp_path, answer):
    with Server(tmp_path, "--parallel", 1, "--draft", 0, "--no-prefix-cache", "-t", 2) as s:
        c = score(s, answer["prompt"] + answer["ids"])["choices"][0]
        assert lists_of(c, len(answer["prompt"])) == answer["lists"]


def test_streams_say_the_same(served, answer):
    ask = {"prompt": [answer["prompt"] + answer["ids"], PROMPT, "Née à Nîmes, l'été: " + "é" * 40], "echo": True, "logprobs": 2,
           "max_tokens": 3, "temperature": 0}
    whole = served.post(COMPLETIONS, ask)["choices"]
    status, _, data = served.request("POST", COMPLETIONS, ask | {"stream": True})
    assert status == 200 and data.rstrip().endswith(b"[DONE]")
    parts = [c for line in data.decode().splitlines() if line.startswith("data: {") for c in json.loads(line[6:])["choices"]]
    for i, c in enumerate(whole):
        mine = [p for p in parts if p["index"] == i]
        assert len(mine) > 3 and "".join(p["text"] for p in mine) == c["text"]
        for name in LISTS:
            assert [x for p in mine for x in (p["logprobs"] or {name: []})[name]] == c["logprobs"][name]


def test_offsets_are_those_of_the_text(served):
    text = "<|user|>né 2+3<|assistant|>"
    for prompt in (text, ids_of(served, text)):
        c = score(served, prompt, max_tokens=5)["choices"][0]
        assert c["text"].startswith(text)
        ends = [*c["logprobs"]["text_offset"][1:], None]
        for token, at, end in zip(c["logprobs"]["tokens"], c["logprobs"]["text_offset"], ends):
            assert c["text"][at:end] == token or token.startswith("bytes:")


def test_a_token_in_front_is_in_the_lists_and_not_in_the_text(tiny):
    c = score(tiny, "Hello", model="llama3")["choices"][0]
    assert c["text"] == "Hello" and c["logprobs"]["tokens"] == ["<|bos|>", *"Hello"]
    assert c["logprobs"]["text_offset"] == [0, 0, 1, 2, 3, 4]


def test_the_token_that_ends_the_answer_is_counted(served):
    """Harnesses ask for one token more than they want and leave the last number out, whatever it is."""
    ids = ids_of(served, PROMPT)
    text = served.post(COMPLETIONS, {"prompt": PROMPT, "temperature": 0, "max_tokens": 200, "return_token_ids": True})["choices"][0]
    assert text["finish_reason"] == "stop"
    whole = ids + text["token_ids"]
    c = score(served, whole, max_tokens=1)["choices"][0]
    assert c["finish_reason"] == "stop" and len(c["logprobs"]["tokens"]) == len(whole) + 1
    assert c["logprobs"]["tokens"][-1].startswith("<|")
    # every token of the answer was the best one
    for value, top in list(zip(c["logprobs"]["token_logprobs"], c["logprobs"]["top_logprobs"]))[len(ids):]:
        assert value == max(top.values())


def test_128_prompts(served):
    ids = ids_of(served, "Make 24 from 3 5 7 9 and then make 12 from 1 2 3")
    prompts = [ids[k % 7:k % 7 + 2 + k % 20] for k in range(128)]
    together = score(served, prompts, logprobs=1, max_tokens=1)["choices"]
    assert [c["index"] for c in together] == list(range(128))
    for k in (0, 15, 16, 17, 127):
        alone = score(served, prompts[k], logprobs=1, max_tokens=1)["choices"][0]
        assert alone | {"index": k} == together[k]
    # a prompt that does not fit is named before any of them is answered
    for stream in (False, True):
        status, _, data = served.request("POST", COMPLETIONS, {"prompt": [*prompts[:100], ids * 40], "echo": True, "logprobs": 1,
                                                               "max_tokens": 0, "stream": stream})
        assert status == 400 and json.loads(data)["error"]["message"].startswith("/prompt/100: the prompt has ")


def test_a_prompt_may_fill_the_window(tiny):
    ids = [7] * 1024
    c = score(tiny, ids, model="llama3", logprobs=0)["choices"][0]
    assert len(c["logprobs"]["tokens"]) == 1024 and all(math.isfinite(x) for x in c["logprobs"]["token_logprobs"][1:])
    for fields, part in (({"prompt": ids, "max_tokens": 1}, "needs at least one"), ({"prompt": [7] * 1025}, "1025 tokens"),
                         ({"prompt": [ids] * 128, "logprobs": 20}, "21 log-probabilities for each of 131072 tokens")):
        status, _, data = tiny.request("POST", COMPLETIONS, {"model": "llama3", "echo": True, "logprobs": 0, "max_tokens": 0} | fields)
        assert status == 400 and part in json.loads(data)["error"]["message"], data


def test_many_prompts_let_others_in(tmp_path):
    """A queue that is shorter than a request is no reason to refuse it, and who comes later does not wait for all of it."""
    with Server(tmp_path, "--parallel", 2, "--max-waiting", 20) as s:
        def done():
            return s.metric("requests_done_total")

        # two answers of 128 are at work, 14 wait: the next one comes behind these
        ask = {"prompt": [[50 + k % 10, 43] for k in range(128)], "max_tokens": 30, "ignore_eos": True, "stream": True}
        whole = {}
        many = threading.Thread(target=lambda: whole.update(zip(("status", "headers", "data"), s.request("POST", COMPLETIONS, ask))))
        many.start()
        wait_until(lambda: s.metric("requests_running") == 2)
        before = done()
        s.post(COMPLETIONS, {"prompt": "2+3", "max_tokens": 1})
        assert done() - before < 64
        many.join()
        assert whole["status"] == 200 and whole["data"].count(b'"finish_reason":"length"') == 128
        assert s.metric("requests_done_total") == 129 and s.metric("requests_failed_total") == 0


def test_hanging_up_ends_all_of_it(tmp_path):
    with Server(tmp_path, "--parallel", 2) as s:
        ask = {"prompt": [[50, 43]] * 128, "max_tokens": 300, "ignore_eos": True}
        c = http.client.HTTPConnection("127.0.0.1", s.port)
        c.request("POST", COMPLETIONS, json.dumps(ask))
        wait_until(lambda: s.metric("requests_running") == 2)
        c.close()
        wait_until(lambda: s.metric("requests_running") == 0 and s.metric("requests_waiting") == 0)
        assert s.metric("requests_cancelled_total") > 0
        assert s.metric("requests_done_total") + s.metric("requests_cancelled_total") < 128
