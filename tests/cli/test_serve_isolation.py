"""What one key has computed, kept or thought is nobody else's: no hit, no answer, no reasoning, and no word that it exists."""
import json

import pytest

from serving import Server
from test_serve_state import bearer, new_key, state_dir, wait_until

TEXT = "What is " + "+".join(str(30 + i) for i in range(60)) + "?"
USER = [{"role": "user", "content": TEXT}]
COUNTS = "prompt_tokens", "prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"


def at(usage, path):
    for name in path.split("."):
        usage = usage[name]
    return usage


def openai(usage):
    """(tokens of the prompt, hits), after a look at every field that tells of them."""
    n, cached, hit, miss = (at(usage, name) for name in COUNTS)
    assert cached == hit and hit + miss == n
    return n, hit


def openai_responses(usage):
    hit = at(usage, "input_tokens_details.cached_tokens")
    assert hit + at(usage, "input_tokens_details.cache_write_tokens") == usage["input_tokens"]
    return usage["input_tokens"], hit


def anthropic(usage):
    hit = usage["cache_read_input_tokens"]
    return usage["input_tokens"] + usage["cache_creation_input_tokens"] + hit, hit


def events(data):
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]


def whole(data):
    return json.loads(data)["usage"]


def last_chunk(data):
    return [e for e in events(data) if e.get("usage")][-1]["usage"]


# every answer that tells of hits, and where
DIALECTS = {
    "chat": ("/v1/chat/completions", {"messages": USER, "max_tokens": 1}, whole, openai),
    "chat-stream": ("/v1/chat/completions", {"messages": USER, "max_tokens": 1, "stream": True,
                                             "stream_options": {"include_usage": True}}, last_chunk, openai),
    "completions": ("/v1/completions", {"prompt": TEXT, "max_tokens": 1}, whole, openai),
    "responses": ("/v1/responses", {"input": TEXT, "max_output_tokens": 1}, whole, openai_responses),
    "responses-stream": ("/v1/responses", {"input": TEXT, "max_output_tokens": 1, "stream": True},
                         lambda data: events(data)[-1]["response"]["usage"], openai_responses),
    "anthropic": ("/v1/messages", {"model": "x", "messages": USER, "max_tokens": 1}, whole, anthropic),
    "anthropic-stream": ("/v1/messages", {"model": "x", "messages": USER, "max_tokens": 1, "stream": True},
                         last_chunk, anthropic),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home):
    s = Server(home, "--parallel", 4)
    yield s
    assert s.stop() == 0, s.errors


def new_keys(minke, server, home, n):
    """Keys that the server knows; nobody comes in without one afterwards."""
    made = [bearer(new_key(minke, "--state-dir", state_dir(home))["key"]) for _ in range(n)]
    wait_until(lambda: server.request("GET", "/v1/models")[0] == 401
               and all(server.request("GET", "/v1/models", headers=k)[0] == 200 for k in made))
    return made


@pytest.fixture
def keys(minke, server, home):
    return new_keys(minke, server, home, 2)


def hits(server, name, headers, **fields):
    path, body, usage, read = DIALECTS[name]
    status, _, data = server.request("POST", path, body | fields, headers=headers)
    assert status == 200, data
    n, hit = read(usage(data))
    assert n > 128 and 0 <= hit < n
    return hit


def reports(server, headers):
    return server.get("/usage?by=key", headers=headers)["total"]


def test_nobody_is_a_tenant_too(minke, tmp_path):
    s = Server(tmp_path)
    assert hits(s, "chat", {}) == 0
    mine = hits(s, "chat", {})
    assert mine >= 128
    kept = s.post("/v1/responses", {"input": "2+3"})
    past = [{"role": "user", "content": "2+3"}, {"role": "assistant", "content": "5"}]
    assert "<think>" in s.post("/apply-template", {"messages": past})["prompt"]
    (a,) = new_keys(minke, s, tmp_path, 1)
    assert hits(s, "chat", a) == 0 and hits(s, "chat", a) == mine
    assert "<think>" not in s.post("/apply-template", {"messages": past}, headers=a)["prompt"]
    assert s.request("GET", f"/v1/responses/{kept['id']}", headers=a)[0] == 404
    assert s.stop() == 0


@pytest.mark.parametrize("name", list(DIALECTS))
def test_a_prompt_of_another_key_is_a_miss(server, keys, name):
    a, b = keys
    assert hits(server, name, a) == 0
    mine = hits(server, name, a)
    assert mine >= 128
    assert hits(server, name, b) == 0  # although it was computed a moment ago
    assert hits(server, name, b) == mine
    # each is told in its own bill as well
    assert [reports(server, k)["cached_tokens"] for k in (a, b)] == [mine, mine]


def test_ollama_counts_the_whole_prompt(server, keys):
    """That dialect has no field for hits; the ledger has."""
    a, b = keys
    for path, what in (("/api/chat", {"messages": USER}), ("/api/generate", {"prompt": TEXT})):
        body = {"model": "thimble", "stream": False, "options": {"num_predict": 1}} | what
        counts, cached = [], []
        for k in (a, a, b):
            before = reports(server, k)["cached_tokens"]
            counts.append(server.post(path, body, headers=k)["prompt_eval_count"])
            cached.append(reports(server, k)["cached_tokens"] - before)
        assert len(set(counts)) == 1 and counts[0] > 128
        if path == "/api/chat":  # the other makes the same prompt: a hit by then, of its own key
            assert cached[0] == 0 and cached[2] == 0
        assert cached[1] >= 128


def test_a_user_belongs_to_a_key(server, keys):
    """The same name of a user under two keys is two users, and no name leads into another's cache."""
    a, b = keys
    assert [hits(server, "chat", k, user=u) > 0 for k, u in ((a, "u"), (a, "u"), (b, "u"), (a, "v"), (b, "u"))] == \
        [False, True, False, False, True]
    assert hits(server, "chat", a) == 0  # the key itself has asked nothing yet


def test_a_restart_keeps_keys_apart(tmp_path, minke):
    a, b = (bearer(new_key(minke)["key"]) for _ in range(2))
    s = Server(tmp_path)
    mine = (hits(s, "chat", a), hits(s, "chat", a))[1]
    assert s.stop() == 0
    s = Server(tmp_path)
    assert hits(s, "chat", b) == 0 and hits(s, "chat", a) == mine
    assert s.stop() == 0


def without(data, what):
    return json.loads(data.decode().replace(what, "ID"))


def test_kept_answers_of_another_key_do_not_exist(server, keys):
    """Whoever asks for what is another's is told word for word what is said of what never was."""
    a, b = keys
    r = server.post("/v1/responses", {"input": "2+3"}, headers=a)
    never = "resp_" + "0" * (len(r["id"]) - 5)
    for method, more in (("GET", ""), ("HEAD", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        got, want = (server.request(method, f"/v1/responses/{i}{more}", headers=b) for i in (r["id"], never))
        assert got[0] == want[0] == 404
        assert not got[2] and not want[2] if method == "HEAD" else without(got[2], r["id"]) == without(want[2], never)
    got, want = (server.request("POST", "/v1/responses", {"input": "1+1", "previous_response_id": i}, headers=b)
                 for i in (r["id"], never))
    assert got[0] == want[0] == 400 and without(got[2], r["id"]) == without(want[2], never)
    assert server.get(f"/v1/responses/{r['id']}", headers=a) == r  # it was not deleted


def test_reasoning_of_another_key_is_not_put_back(server, keys):
    a, b = keys
    m = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "2+3"}]}, headers=a)["choices"][0]["message"]
    past = [{"role": "user", "content": "2+3"}, {"role": "assistant", "content": m["content"]}]
    assert m["reasoning_content"].strip() in server.post("/apply-template", {"messages": past}, headers=a)["prompt"]
    assert "<think>" not in server.post("/apply-template", {"messages": past}, headers=b)["prompt"]


def test_usage_of_another_key_is_not_shown(server, keys):
    a, b = keys
    hits(server, "chat", a)
    assert reports(server, b)["requests"] == 0
    assert reports(server, a)["requests"] == 1
