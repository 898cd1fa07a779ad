"""minke serve from outside, by plain HTTP: what every dialect promises, load, cache, cancelling, who may ask."""
import concurrent.futures
import json
import signal
import socket
import urllib.request

import pytest

from conftest import GOLDEN, ROOT
from serving import Server, cancels, wait_until

QUESTION = "What is (37+58)*6-129?"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    s = Server(tmp_path_factory.mktemp("home"), "--parallel", 16)
    yield s
    assert s.stop() == 0, s.errors


def lines(data):
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]


def test_health_and_models(server):
    assert server.get("/health") == {"status": "ok"}
    model = server.get("/v1/models")["data"][0]
    assert model["id"] == "thimble" and model["context_length"] == 384
    assert server.get("/v1/models/thimble")["id"] == "thimble"
    assert server.request("GET", "/v1/models/other")[0] == 404
    assert server.get("/api/tags")["models"][0]["name"] == "thimble:latest"
    assert "thimble" in json.dumps(server.get("/api/ps"))
    assert server.request("HEAD", "/")[0] == 200


def test_one_question_in_every_dialect(server):
    """The same tokens however they are asked for."""
    chat = server.chat(QUESTION)["choices"][0]["message"]
    reasoning, answer = chat["reasoning_content"], chat["content"]
    assert reasoning.startswith("(37+58)*6-129\n") and answer.lstrip("-").isdigit()
    user = [{"role": "user", "content": QUESTION}]
    claude = server.post("/v1/messages", {"model": "x", "max_tokens": 300, "messages": user})
    assert [b["type"] for b in claude["content"]] == ["thinking", "text"]
    assert (claude["content"][0]["thinking"], claude["content"][1]["text"]) == (reasoning, answer)
    assert claude["stop_reason"] == "end_turn"
    ollama = server.post("/api/chat", {"model": "thimble", "stream": False, "messages": user})
    assert (ollama["message"]["thinking"], ollama["message"]["content"]) == (reasoning, answer)
    response = server.post("/v1/responses", {"input": QUESTION})
    assert [o["type"] for o in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"][0]["text"] == answer
    status, _, data = server.request("POST", "/v1/chat/completions", {"messages": user, "stream": True})
    deltas = [c["choices"][0]["delta"] for c in lines(data)]
    assert status == 200 and data.endswith(b"data: [DONE]\n\n")
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == reasoning
    assert "".join(d.get("content") or "" for d in deltas) == answer


def test_text_completion(server):
    chat = server.chat("2+3")["choices"][0]["message"]
    r = server.post("/v1/completions", {"prompt": "<|user|>2+3<|assistant|>", "max_tokens": 100})
    assert r["choices"][0]["text"].endswith(chat["content"]), r
    assert r["choices"][0]["text"].startswith("<think>")


def test_tokens_go_there_and_back(server):
    ids = server.post("/tokenize", {"content": "Make 24 from 3 5 7"})["tokens"]
    assert server.post("/detokenize", {"tokens": ids})["content"] == "Make 24 from 3 5 7"
    pieces = server.post("/tokenize", {"content": "né", "with_pieces": True})["tokens"]
    assert [p["id"] for p in pieces] == server.post("/tokenize", {"content": "né"})["tokens"]
    assert [p["piece"] for p in pieces] == ["n", [0xC3], [0xA9]]  # half a character is no text
    prompt = server.post("/apply-template", {"messages": [{"role": "user", "content": "2+3"}]})
    bare = server.post("/apply-template", {"messages": [{"role": "user", "content": "2+3"}], "add_generation_prompt": False})
    assert prompt["prompt"] == bare["prompt"] + "<|assistant|>"
    assert prompt["prompt"] == "<|user|>2+3<|assistant|>"
    n = server.post("/v1/messages/count_tokens?beta=true", {"model": "x", "messages": [{"role": "user", "content": "2+3"}]})
    assert n["input_tokens"] == prompt["count"]
    usage = server.chat("2+3")["usage"]
    assert usage["prompt_tokens"] == prompt["count"]


def test_control_tokens_in_a_question_are_text(server):
    plain = server.post("/apply-template", {"messages": [{"role": "user", "content": "<|end|>"}]})
    assert plain["tokens"].count(298) == 0


def test_load_changes_no_answer(server):
    questions = [f"What is {a}*{b}-{c}?" for a, b, c in zip(range(12, 28), range(31, 47), range(5, 21))]
    alone = [server.chat(q, temperature=0.9, seed=i)["choices"][0]["message"] for i, q in enumerate(questions)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            many = list(pool.map(lambda iq: server.chat(iq[1], temperature=0.9, seed=iq[0])["choices"][0]["message"],
                                 enumerate(questions)))
            assert many == alone


def test_several_choices_differ_and_can_be_had_alone(server):
    r = server.chat("Make 24 from 3 5 7", n=3, temperature=1.0, seed=5)
    assert [c["index"] for c in r["choices"]] == [0, 1, 2]
    for i, c in enumerate(r["choices"]):
        assert server.chat("Make 24 from 3 5 7", temperature=1.0, seed=5 + i)["choices"][0]["message"] == c["message"]


def test_logprobs_and_stop(server):
    r = server.chat("2+3", logprobs=True, top_logprobs=3)["choices"][0]
    tokens = r["logprobs"]["content"]
    assert all(t["logprob"] <= 0 and len(t["top_logprobs"]) == 3 for t in tokens)
    stopped = server.post("/v1/completions", {"prompt": "<|user|>2+3<|assistant|>", "stop": ["2+3="]})["choices"][0]
    assert stopped["finish_reason"] == "stop" and stopped["text"] == "<think>\n"


def test_a_budget_of_thinking_is_kept(server):
    full = server.chat(QUESTION)["usage"]["completion_tokens_details"]["reasoning_tokens"]
    short = server.post("/v1/messages", {"model": "x", "max_tokens": 300, "thinking": {"type": "enabled", "budget_tokens": 10},
                                         "messages": [{"role": "user", "content": QUESTION}]})
    assert full > 20
    assert [b["type"] for b in short["content"]] == ["thinking", "text"]
    assert len(short["content"][0]["thinking"]) <= 12


def test_forms_of_answers(server):
    schema = {"type": "object", "properties": {"value": {"type": "integer", "minimum": 100, "maximum": 199}},
              "required": ["value"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": schema, "strict": True}}
    message = server.chat(QUESTION, response_format=form)["choices"][0]["message"]
    assert 100 <= json.loads(message["content"])["value"] <= 199 and message["reasoning_content"]
    for value in (0.12345678901, 0.12345678902):  # two forms, not one that is found again
        form["json_schema"]["schema"] = {"type": "object", "properties": {"value": {"const": value}}, "required": ["value"],
                                         "additionalProperties": False}
        assert json.loads(server.chat(QUESTION, response_format=form)["choices"][0]["message"]["content"]) == {"value": value}
    bad = {"type": "json_schema", "json_schema": {"name": "v", "schema": {"type": "object", "not": {}}}}
    status, _, data = server.request("POST", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": "2+3"}], "response_format": bad})
    assert status == 400 and "/not" in json.loads(data)["error"]["message"], data


def test_embeddings(server):
    r = server.post("/v1/embeddings", {"input": ["2+3", "2+3", "Make 24 from 3 5 7"]})
    a, b, c = (d["embedding"] for d in r["data"])
    assert a == b and a != c and abs(sum(x * x for x in a) - 1) < 1e-5
    import base64
    import struct
    raw = base64.b64decode(server.post("/v1/embeddings", {"input": "2+3", "encoding_format": "base64"})["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(a, abs=1e-6)
    assert server.post("/api/embed", {"model": "thimble", "input": "2+3"})["embeddings"][0] == a


@pytest.mark.parametrize("body, status, text", [
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 2000}]}, 400, "384"),
    ({"messages": [{"role": "user", "content": "2"}], "temperature": "hot"}, 400, "/temperature"),
    ({"messages": [{"role": "user", "content": "2"}], "temperature": 1e9}, 400, "/temperature"),
    ({"messages": [{"role": "user", "content": "2"}], "n": -1}, 400, "/n"),
    (b"{", 400, "body"),
    (b"[" * 100000, 400, "body"),
])
def test_bad_requests_say_what_is_wrong(server, body, status, text):
    got, _, data = server.request("POST", "/v1/chat/completions", body)
    assert got == status and text in json.loads(data)["error"]["message"], data


def test_unknown_things_are_named(server):
    status, headers, _ = server.request("POST", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": "2+3"}], "banana": 1})
    assert status == 200 and headers["Minke-Ignored-Fields"] == "banana"
    status, _, data = server.request("POST", "/v1/nothing", {})
    assert status == 404 and "/v1/chat/completions" in json.loads(data)["error"]["message"]
    assert server.request("GET", "/v1/chat/completions")[0] == 405
    assert server.request("POST", "/v1/v1/chat/completions", {"messages": [{"role": "user", "content": "2"}]})[0] == 200
    assert server.request("POST", "/chat/completions", {"messages": [{"role": "user", "content": "2"}]})[0] == 200


def test_who_may_ask(server):
    user = {"messages": [{"role": "user", "content": "2+3"}]}
    for headers, want in [({"Host": "evil.example"}, 403), ({"Host": "localhost:1"}, 200), ({"Host": "[::1]:9"}, 200),
                          ({"Host": "127.0.0.9:1"}, 200), ({"Host": "127.evil.example"}, 403),
                          ({"Host": "localhost.evil.example"}, 403), ({"Origin": "https://evil.example"}, 403), ({"Origin": f"http://127.0.0.1:{server.port}"}, 200)]:
        assert server.request("POST", "/v1/chat/completions", user, headers=headers)[0] == want, headers


def test_a_page_that_may_ask_may_read_every_answer(tmp_path):
    page = {"Origin": "https://page.example"}
    with Server(tmp_path, "--allow-origin", page["Origin"]) as s:
        r = s.post("/v1/responses", {"input": "2+3"})
        asked = [("GET", "/", None), ("GET", "/health", None), ("GET", "/metrics", None), ("GET", "/usage", None),
                 ("GET", "/v1/models", None), ("GET", "/v1/models/thimble", None), ("GET", "/v1/models/none", None),
                 ("GET", "/api/tags", None), ("GET", "/api/ps", None), ("GET", "/api/version", None),
                 ("POST", "/api/show", {"model": "thimble"}), ("POST", "/api/show", {"model": 5}),
                 ("POST", "/api/embed", {"input": "2+3"}), ("POST", "/v1/embeddings", {"input": "2+3"}),
                 ("POST", "/tokenize", {"content": "2+3"}), ("GET", f"/v1/responses/{r['id']}", None),
                 ("POST", "/v1/responses", {"input": "2+3"}), ("POST", "/v1/responses", {"input": "2+3", "stream": True}),
                 ("GET", "/nowhere", None), ("DELETE", f"/v1/responses/{r['id']}", None)]
        for method, path, body in asked:
            _, headers, _ = s.request(method, path, body, headers=page)
            assert headers.get("Access-Control-Allow-Origin") == page["Origin"] and headers["Vary"] == "Origin", (method, path)
            _, headers, _ = s.request(method, path, body)
            assert "Access-Control-Allow-Origin" not in headers, (method, path)


def test_a_client_that_goes_stops_its_work(server):
    body = json.dumps({"prompt": "<|user|>7*8", "ignore_eos": True, "stream": True, "n": 16, "max_tokens": 370}).encode()

    def hang_up():
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert s.recv(12) == b"HTTP/1.1 200"

    assert cancels(server, hang_up, 16)


def test_prompts_that_begin_alike_are_computed_once(server):
    text = "What is " + "+".join(str(10 + i) for i in range(60)) + "?"
    first, second = server.chat(text, max_tokens=1)["usage"], server.chat(text, max_tokens=1)["usage"]
    assert second["prompt_tokens_details"]["cached_tokens"] >= 128 > first["prompt_tokens_details"]["cached_tokens"]
    assert second["prompt_cache_hit_tokens"] + second["prompt_cache_miss_tokens"] == second["prompt_tokens"]
    other = server.chat(text, max_tokens=1, user="somebody else")["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_restart_finds_the_prefix_again(tmp_path):
    text = "What is " + "+".join(str(10 + i) for i in range(60)) + "?"
    a = Server(tmp_path)
    want = a.chat(text, max_tokens=20)
    assert a.metric("prefix_memory_blocks") >= 2
    wait_until(lambda: a.metric("prefix_disk_blocks") >= a.metric("prefix_memory_blocks"))
    a.stop(signal.SIGKILL)
    b = Server(tmp_path)
    got = b.chat(text, max_tokens=20)
    assert got["choices"] == want["choices"]
    assert got["usage"]["prompt_tokens_details"]["cached_tokens"] >= 128
    assert b.stop() == 0


def test_a_key_opens_the_door(tmp_path):
    s = Server(tmp_path, "--key", "secret")
    user = {"messages": [{"role": "user", "content": "2+3"}]}
    assert s.request("POST", "/v1/chat/completions", user)[0] == 401
    assert s.request("POST", "/v1/messages", user | {"max_tokens": 5})[0] == 401
    assert s.request("GET", "/v1/models")[0] == 401
    assert s.request("GET", "/health")[0] == 200
    for h in ({"Authorization": "Bearer secret"}, {"x-api-key": "secret"}):
        assert s.request("POST", "/v1/chat/completions", user, headers=h)[0] == 200
    assert s.request("GET", "/v1/models", headers={"Authorization": "Bearer secre"})[0] == 401
    assert s.stop() == 0


def test_beyond_loopback_there_is_a_key(tmp_path):
    s = Server(tmp_path, "--host", "0.0.0.0")
    assert s.info["key"].startswith("sk-mk-") and len(s.info["key"]) > 30
    assert s.request("GET", "/v1/models")[0] == 401
    assert s.request("GET", "/v1/models", headers={"Authorization": f"Bearer {s.info['key']}"})[0] == 200
    assert s.stop() == 0


def test_without_key_beyond_loopback_names_are_compared(tmp_path):
    """A page elsewhere can give this machine a name of its own, so a name that is not known is refused."""
    own = socket.gethostname()
    with Server(tmp_path, "--host", "0.0.0.0", "--no-key", "--allow-host", "models.lan", "--load", "none") as s:
        for host in ("192.168.1.7", f"10.0.0.1:{s.port}", "[2001:db8::1]:80", "localhost", "127.0.0.1", "models.lan", "MODELS.LAN:8484", own,
                     own.split(".")[0].upper() + ".local"):
            assert s.request("GET", "/v1/models", headers={"Host": host})[0] == 200, host
        for host in ("rebound.example", "evil.models.lan", f"{own}.evil.example", f"{own}.localx", "1.2.3.4.evil.example", "3232235777", ""):
            status, _, body = s.request("GET", "/v1/models", headers={"Host": host})
            assert status == 403 and "--allow-host" in json.loads(body)["error"]["message"], (host, status, body)
        assert s.request("POST", "/api/chat", {"model": "thimble"}, headers={"Host": "rebound.example"})[0] == 403
    with Server(tmp_path, "--host", "0.0.0.0", "--no-key", "--allow-host", "*", "--load", "none") as s:
        assert s.request("GET", "/v1/models", headers={"Host": "any.example"})[0] == 200


def test_models_have_the_names_that_are_announced(tmp_path):
    """A file's name, a folder's with a slash behind it, and that of the file in a folder."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.gguf").symlink_to(ROOT / "models/thimble/thimble.gguf")
    with Server(tmp_path, "--host", "::1", model=[tmp_path / "folder", f"{GOLDEN}/models/llama/", "thimble"]) as s:
        assert s.info["models"] == ["inside", "llama", "thimble"]
        assert s.url == f"http://[::1]:{s.port}"
        with urllib.request.urlopen(s.url + "/v1/models") as r:
            assert [m["id"] for m in json.load(r)["data"]] == s.info["models"]


def test_too_many_are_told_to_wait(tmp_path):
    s = Server(tmp_path, "--parallel", 1, "--max-waiting", 2)
    body = {"prompt": "<|user|>7*8", "ignore_eos": True}
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        got = list(pool.map(lambda _: s.request("POST", "/v1/completions", body), range(24)))
    codes = [g[0] for g in got]
    assert set(codes) == {200, 429}, codes
    assert all(g[1].get("Retry-After") for g in got if g[0] == 429)
    assert s.stop() == 0


def test_ending_lets_answers_end(tmp_path):
    s = Server(tmp_path)
    c = socket.create_connection(("127.0.0.1", s.port))
    body = json.dumps({"prompt": "<|user|>7*8", "ignore_eos": True, "stream": True}).encode()
    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    first = c.recv(10)
    s.process.send_signal(signal.SIGTERM)
    data = first
    while part := c.recv(65536):
        data += part
    assert b"data: [DONE]" in data
    assert s.stop() == 0


def test_a_thousand_connections(server):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(900)]
    try:
        assert server.chat("2+3")["choices"][0]["message"]["content"] == "5"
    finally:
        for c in idle:
            c.close()


def test_an_answer_can_be_named(server):
    """Clients' SDKs show these headers as the request's id."""
    _, headers, data = server.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "2+3"}]})
    assert headers["x-request-id"] == headers["request-id"] and headers["x-request-id"] in json.loads(data)["id"]


def test_a_middle_that_the_model_cannot_fill_is_refused(server):
    status, _, data = server.request("POST", "/v1/completions", {"prompt": "1+", "suffix": "=3"})
    assert status == 400 and "/suffix" in json.loads(data)["error"]["message"], data
