"""minke serve against clients that mean no good, or are broken: it refuses by name, stays up, and mixes nothing up.

The fields that requests may have are read from the tables in src/serve, so that a new field is tested the day it comes.
"""
import concurrent.futures
import http.client
import json
import pathlib
import random
import re
import signal
import socket
import time

import pytest

from conftest import ROOT
from serving import Server, wait_until

USER = [{"role": "user", "content": "2+3"}]
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CLAUDE, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"
# a request of each kind that is right and short
BASE = {
    CHAT: {"messages": USER, "max_tokens": 1},
    COMPLETIONS: {"prompt": "2+3", "max_tokens": 1},
    RESPONSES: {"input": "2+3", "max_output_tokens": 1},
    CLAUDE: {"model": "x", "messages": USER, "max_tokens": 1},
    OLLAMA_CHAT: {"model": "x", "messages": USER, "stream": False, "options": {"num_predict": 1}},
    OLLAMA_GENERATE: {"model": "x", "prompt": "2+3", "stream": False, "options": {"num_predict": 1}},
}
TABLES = {
    "openai_fields.c": [CHAT, COMPLETIONS, RESPONSES],
    "openai_chat.c": [CHAT],
    "openai_completions.c": [COMPLETIONS],
    "openai_responses.c": [RESPONSES],
    "anthropic.c": [CLAUDE],
    "ollama.c": [OLLAMA_CHAT, OLLAMA_GENERATE],
}
GENERATE_ONLY = {"prompt", "suffix", "system", "context", "raw", "images", "width", "height", "steps", "template"}
NUMBERS = {"MK_F_F32", "MK_F_F64", "MK_F_INT", "MK_F_I64"}
CONSTANTS = {"INT32_MAX": 2**31 - 1, "MK_ASK_MAX_N": 16}
ROW = re.compile(r'\{"(\w+)",\s*(MK_F_\w+)(?:,\s*([-\w.]+),\s*([-\w.]+))?')
# values that hardly any field takes, as they stand in the text
WILD = ["null", "true", "-1", "0", "1e999", "-1e999", "NaN", "9223372036854775808", "-9223372036854775809", "1e308", "0.5",
        '""', '"\\u0000"', '"\\ud800"', '"' + "x" * 70000 + '"', "[]", "[[]]", "[null]", "{}", '{"type": 5}', '{"a": {"a": []}}',
        "[" * 300 + "]" * 300]


def number(text):
    if text is None or not re.fullmatch(r"-?[\d.]+", text):
        return CONSTANTS.get(text)
    return float(text)


def fields():
    for name, paths in TABLES.items():
        text = (ROOT / "src/serve" / name).read_text()
        text = re.sub(r"^ {5,}.*[^\\]$", "", text, flags=re.M)  # rows of objects inside of the body
        for field, kind, low, high in ROW.findall(text):
            for path in paths:
                if path == OLLAMA_CHAT and field in GENERATE_ONLY:
                    continue
                yield path, field, kind, number(low or None), number(high or None)


def outside(kind, low, high):
    """Texts of values that a field of this kind must refuse."""
    if kind in NUMBERS:
        yield from ('"x"', "[]", "{}", "true", "1e999", "-1e999")
        if low is not None:
            yield json.dumps(low - 1 if kind == "MK_F_F32" else int(low) - 1)
        if high is not None:
            yield json.dumps(high + 1 if kind == "MK_F_F32" else int(high) + 1)
        if kind != "MK_F_F32":
            yield from ("1.5", "9223372036854775808")
    elif kind == "MK_F_BOOL":
        yield from ("1", '"true"', "[]", "{}")
    elif kind == "MK_F_TEXT":
        yield from ("5", "[]", "{}", "true")
        if high:
            yield json.dumps("x" * (int(high) + 1))
    elif kind == "MK_F_REFUSE":
        yield from ("5.5", '["x"]')
    yield "NaN"


def with_field(path, field, text):
    inner = path.startswith("/api") and field in OLLAMA_OPTIONS
    body = {k: v for k, v in BASE[path].items() if k != field and not (inner and k == "options")}
    head = json.dumps(body)[:-1] + (", " if body else "")
    return head + (f'"options": {{"{field}": {text}}}}}' if inner else f'"{field}": {text}}}')


OLLAMA_OPTIONS = {"num_predict", "num_ctx", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n",
                  "presence_penalty", "frequency_penalty", "seed", "stop", "mirostat", "tfs_z", "typical_p"}


SHARED = set(re.findall(r'^ {4}\{"(\w+)"', (ROOT / "src/serve/openai_fields.c").read_text(), flags=re.M))


class Line:
    """One connection that is kept."""

    def __init__(self, server):
        self.server, self.c = server, None

    def post(self, path, text):
        if not self.c:
            self.c = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        self.c.request("POST", path, text.encode() if isinstance(text, str) else text, {"Content-Type": "application/json"})
        r = self.c.getresponse()
        return r.status, r.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    s = Server(tmp_path_factory.mktemp("home"), "--parallel", 8)
    yield s
    assert s.stop() == 0, s.errors


@pytest.fixture(autouse=True)
def alive(request):
    yield
    if "server" in request.fixturenames:
        s = request.getfixturevalue("server")
        assert s.process.poll() is None, s.errors
        assert s.chat("2+3")["choices"][0]["message"]["content"] == "5"


def raw(server, data, timeout=10, half_close=False):
    """Bytes there, all bytes back until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as c:
        got = b""
        try:
            c.sendall(data)
            if half_close:
                c.shutdown(socket.SHUT_WR)
            while part := c.recv(65536):
                got += part
        except OSError:
            pass
        return got


def post_bytes(path, body, more=b""):
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), more, len(body)) + body


# --- fields ------------------------------------------------------------------------------------------------------------


def test_the_tables_are_read():
    known = {(p, f) for p, f, *_ in fields()}
    assert len(known) > 140
    assert {(CHAT, "temperature"), (CHAT, "n"), (CLAUDE, "max_tokens"), (OLLAMA_CHAT, "num_ctx"), (RESPONSES, "store")} <= known


@pytest.mark.parametrize("path", list(BASE))
def test_values_out_of_range_are_refused(server, path):
    line, wrong = Line(server), []
    for p, field, kind, low, high in fields():
        if p != path:
            continue
        for text in outside(kind, low, high):
            status, data = line.post(path, with_field(path, field, text))
            if status != 400 or not data.startswith(b"{"):
                wrong.append((field, text[:40], status, data[:120]))
    assert not wrong


@pytest.mark.parametrize("path", list(BASE))
def test_wild_values_are_answered_or_refused(server, path):
    # what the OpenAI forms share is read by the same code: once is enough
    names = [f for p, f, *_ in fields() if p == path and (path == CHAT or f not in SHARED)]

    def wrong(field):
        line = Line(server)
        got = [(field, text[:40], *line.post(path, with_field(path, field, text))) for text in WILD]
        return [(f, text, status, data[:120]) for f, text, status, data in got if status not in (200, 400, 404)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert not [w for some in pool.map(wrong, names) for w in some]


@pytest.mark.parametrize("path", list(BASE))
def test_messages_of_a_wrong_shape(server, path):
    key = next(k for k in ("messages", "input", "prompt") if k in BASE[path])
    shapes = WILD + ['[{"role": "user"}]', '[{"role": 5, "content": "x"}]', '[{"content": "x"}]', '[{"role": "user", "content": 5}]',
                     '[{"role": "user", "content": [5]}]', '[{"role": "user", "content": [{"type": "text"}]}]',
                     '[{"role": "king", "content": "x"}]', '[{"role": "tool", "content": "x", "tool_call_id": 5}]',
                     '[{"role": "assistant", "content": "x", "tool_calls": 5}]',
                     '[{"role": "assistant", "tool_calls": [{"function": {"name": [], "arguments": {}}}]}]',
                     '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]']
    line = Line(server)
    for text in shapes:
        status, data = line.post(path, with_field(path, key, text))
        assert status in (200, 400), (text[:60], status, data[:200])


# --- bodies ------------------------------------------------------------------------------------------------------------


def test_deep_and_huge_json(server):
    line = Line(server)
    for depth in (200, 3000, 200000):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            for field in ("tools", "chat_template_kwargs", "logit_bias", "banana"):
                assert line.post(CHAT, with_field(CHAT, field, text))[0] in (200, 400)
            schema = '{"type": "json_schema", "json_schema": {"name": "v", "schema": %s}}' % text
            assert line.post(CHAT, with_field(CHAT, "response_format", schema))[0] == 400
    many = json.dumps([{"role": "user", "content": "x"}] * 100000)
    assert line.post(CHAT, with_field(CHAT, "messages", many))[0] == 400
    keys = "{" + ",".join(f'"k{i}": {i}' for i in range(200000)) + "}"
    assert line.post(CHAT, with_field(CHAT, "banana", keys))[0] in (200, 400)
    assert line.post(CHAT, with_field(CHAT, "messages", json.dumps([{"role": "user", "content": "7" * (8 << 20)}])))[0] == 400


def test_a_body_that_is_too_large(server):
    assert b" 413 " in raw(server, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n" +
                           b"x" * 100).split(b"\r\n")[0]
    got = raw(server, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n{}")
    assert b"200 OK" not in got


@pytest.mark.parametrize("text", [
    b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', b'{"messages":[{"role":"user","content":"\xc0\xaf"}]}',
    b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"", b" ", b"null", b"[]", b'"x"', b"5", b"{", b"{}{}", b'{"messages":[]}x', b"\x00" * 50,
    b'{"messages":[{"role":"user","content":"a"}],"messages":5}',
])
def test_bodies_that_are_no_request(server, text):
    status, data = Line(server).post(CHAT, text)
    assert status == 400 and "message" in json.loads(data)["error"]


def test_a_chunked_body_is_the_same_request(server):
    body = json.dumps({"messages": USER, "temperature": 0}).encode()
    want = server.chat("2+3", temperature=0)["choices"]
    for size in (1, 7, 1000):
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size))
        got = raw(server, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
                  chunks + b"0\r\n\r\n")
        assert json.loads(got.split(b"\r\n\r\n", 1)[1])["choices"] == want
    for bad in (b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n", b"fffffffffffffffff\r\n{}\r\n", b"5\r\n{}\r\n0\r\n\r\n"):
        got = raw(server, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + bad,
                  timeout=2)
        assert b"200 OK" not in got


# --- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [b"X: " + b"a" * (1 << 20) + b"\r\n", b"X: y\r\n" * 100000, b"X" * (1 << 20) + b": y\r\n",
                                  b"Cookie: " + b"a=b;" * 20000 + b"\r\n"])
def test_large_headers_are_refused(server, more):
    got = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n")
    assert b"200 OK" not in got and (got == b"" or b" 431 " in got.split(b"\r\n")[0] or b" 400 " in got.split(b"\r\n")[0])
    assert b"200 OK" not in raw(server, b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_slow_clients_do_not_slow_others(server):
    body = json.dumps({"messages": USER}).encode()
    text = post_bytes(CHAT, body)
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(150)]
    try:
        for i in range(min(40, len(text) - 1)):
            for c in slow:
                c.send(text[i:i + 1])
            if i % 10 == 0:
                started = time.monotonic()
                assert server.chat("2+3")["choices"][0]["message"]["content"] == "5"
                assert time.monotonic() - started < 10
    finally:
        for c in slow:
            c.close()


def test_a_half_closed_connection(server):
    got = raw(server, post_bytes(CHAT, json.dumps({"messages": USER}).encode(), b"Connection: close\r\n"), half_close=True)
    assert got == b"" or b'"5"' in got  # a client that has gone, or one that listens
    for part in (b"", b"G", b"POST /v1/chat/completions HTTP/1.1\r\n", post_bytes(CHAT, b"{" * 100)[:-50]):
        assert b"200 OK" not in raw(server, part, half_close=True, timeout=3)


def test_pipelined_requests_are_answered_in_order(server):
    one = post_bytes(COMPLETIONS, json.dumps({"prompt": "<|user|>2+3<|assistant|>", "max_tokens": 2}).encode())
    two = post_bytes("/tokenize", json.dumps({"content": "2+3"}).encode(), b"Connection: close\r\n")
    got = raw(server, one + two)
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert got.index(b'"text_completion"') < got.index(b'"tokens":[')


HIDDEN = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("head", [
    b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN), b"Content-Length: %d\r\nContent-Length: 0\r\n" % len(HIDDEN),
    b"Content-Length: +0\r\n", b"Content-Length: -1\r\n", b"Content-Length: 0x0\r\n", b"Content-Length: 0, 5\r\n",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n", b"Content-Length : %d\r\n" % len(HIDDEN), 
    b"Content-Length: %d\n" % len(HIDDEN), b"Content-Length: %d\r" % len(HIDDEN), b"Content-Length\x00: %d\r\n" % len(HIDDEN),
])
def test_no_request_is_hidden_in_another(server, head):
    """What stands behind a head that can be read in two ways is not answered as a request of its own."""
    body = b"0\r\n\r\n" if b"chunked\r\n" in head and b"xch" not in head else b""
    got = raw(server, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n" + body + HIDDEN, timeout=3)
    assert b'"version"' not in got, got


# --- who may ask -------------------------------------------------------------------------------------------------------


def test_host_origin_and_key(tmp_path):
    s = Server(tmp_path, "--key", "secret", "--allow-host", "models.lan", "--allow-origin", "https://page.example")
    own = f"http://127.0.0.1:{s.port}"
    hosts = {f"127.0.0.1:{s.port}": True, "localhost": True, "[::1]": True, "models.lan": True, "MODELS.LAN:80": True, "evil.example": False,
             "127.0.0.1.evil.example": False, "localhost.evil.example": False, "models.lan.evil.example": False, "": False,
             "localhost@evil.example": False, "169.254.169.254": False}
    origins = {None: True, own: None, "https://page.example": True, "https://evil.example": False, "null": False,
               "https://page.example.evil.example": False, "http://page.example": False, f"http://127.0.0.1.evil.example:{s.port}": False}
    keys = {None: False, "secret": True, "": False, "secre": False, "secrets": False, "SECRET": False}
    for host, host_ok in hosts.items():
        for origin, origin_ok in origins.items():
            if origin == own:  # a page of this server, called by the name that the page has
                origin_ok = host == f"127.0.0.1:{s.port}"
            for key, key_ok in keys.items():
                headers = {"Host": host} | ({"Origin": origin} if origin else {}) | (
                    {"Authorization": f"Bearer {key}"} if key is not None else {})
                status, got, _ = s.request("GET", "/v1/models", headers=headers)
                want = [200] if host_ok and origin_ok and key_ok else [401] if host_ok and origin_ok else [403, 400]
                assert status in want, (host, origin, key, status)
                allowed = got.get("Access-Control-Allow-Origin")
                assert allowed in (None, origin) and (allowed is None or origin_ok), (host, origin, key, allowed)
                assert "Access-Control-Allow-Credentials" not in got
    assert s.stop() == 0


def test_special_tokens_in_the_text_of_any_role(server):
    specials = ["<|user|>", "<|assistant|>", "<|end|>", "<|system|>", "<|im_start|>", "<|endoftext|>", "</s>"]
    for role in ("system", "user", "assistant", "tool"):
        def ids(text):
            more = {"tool_call_id": "c"} if role == "tool" else {}
            messages = [{"role": role, "content": text} | more, *USER]
            status, _, data = server.request("POST", "/apply-template", {"messages": messages})
            return json.loads(data)["tokens"] if status == 200 else None
        plain = ids("x")
        if plain is None:
            continue  # the model's template has no such role
        marked = ids("".join(specials))
        for token in specials:
            id_of = server.post("/tokenize", {"content": token, "parse_special": True})["tokens"]
            if len(id_of) == 1:
                assert marked.count(id_of[0]) == plain.count(id_of[0]), (role, token)


def test_tenants_share_no_cache(server):
    text = "What is " + "+".join(str(20 + i) for i in range(60)) + "?"

    def hits(path, body):
        u = server.post(path, BASE[path] | body)["usage"]
        return u.get("cache_read_input_tokens", u.get("prompt_cache_hit_tokens"))

    ask = {"messages": [{"role": "user", "content": text}]}
    assert [hits(CHAT, ask | {"user": u}) > 0 for u in ("a", "a", "b", "a", "b", "c")] == [False, True, False, True, True, False]
    assert [hits(CLAUDE, ask | {"metadata": {"user_id": u}}) > 0 for u in ("d", "d", "e")] == [False, True, False]
    assert hits(CHAT, ask) == 0  # nobody's is nobody else's


# --- many, and the end of the process ----------------------------------------------------------------------------------


def stream(server, question, leave_after=None):
    """The answer's text from a stream; None if it was left."""
    body = json.dumps({"messages": [{"role": "user", "content": question}], "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as c:
        c.sendall(post_bytes(CHAT, body, b"Connection: close\r\n"))
        got = b""
        while part := c.recv(4096):
            got += part
            if leave_after is not None and len(got) > leave_after:
                return None
    assert b" 200 " in got.split(b"\r\n")[0], got[:300]
    return said(got)


def said(got):
    chunks = [json.loads(m) for m in re.findall(rb"data: (\{.*\})", got)]
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    return "".join((d.get("reasoning_content") or "") + (d.get("content") or "") for d in deltas)


def whole(server, question):
    m = server.chat(question)["choices"][0]["message"]
    return (m["reasoning_content"] or "") + (m["content"] or "")


def test_streams_that_are_left_disturb_no_other(tmp_path):
    rng = random.Random(5)
    s = Server(tmp_path, "--parallel", 16, "--max-waiting", 400)
    questions = [f"What is {a}+{b}?" for a, b in zip(range(11, 21), range(39, 49))]
    want = {q: whole(s, q) for q in questions}
    jobs = [(rng.choice(questions), rng.choice([None, 0, 300, 1500, 3000])) for _ in range(200)]
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        for (q, leave), text in zip(jobs, pool.map(lambda j: stream(s, *j), jobs)):
            assert text is None if leave is not None and text is None else text == want[q]
    wait_until(lambda: s.metric("requests_running") == 0)
    assert s.stop() == 0, s.errors


def cached_question(i):
    return f"What is {i}+" + "+".join(str(10 + k) for k in range(60)) + "?"


def test_killed_in_the_middle_of_streams(tmp_path):
    """kill -9 while answers and the cache are being written: what is found afterwards gives the same answers."""
    rng = random.Random(9)
    questions = [cached_question(i) for i in (11, 12, 13)]
    s = Server(tmp_path)
    want = [s.chat(q, max_tokens=24)["choices"] for q in questions]
    for _ in range(3):
        pool = concurrent.futures.ThreadPoolExecutor(6)
        running = [pool.submit(s.request, "POST", CHAT, {"messages": [{"role": "user", "content": rng.choice(questions)}], "stream": True})
                   for _ in range(6)]
        time.sleep(rng.random())
        s.stop(signal.SIGKILL)
        concurrent.futures.wait(running, 30)
        pool.shutdown()
        s = Server(tmp_path)
        assert [s.chat(q, max_tokens=24)["choices"] for q in questions] == want
    assert s.stop() == 0


def test_damaged_prefix_files_are_misses(tmp_path):
    rng = random.Random(3)
    question = cached_question(17)
    s = Server(tmp_path / "home", "--prefix-dir", tmp_path / "prefix")
    want = s.chat(question, max_tokens=24)["choices"]
    assert s.stop() == 0
    files = [p for p in pathlib.Path(tmp_path / "prefix").rglob("*") if p.is_file()]
    kept = {p: p.read_bytes() for p in files}
    assert any(len(d) > 1000 for d in kept.values())

    def cut(d):
        return d[:rng.randrange(len(d))]

    def flip(d):
        b = bytearray(d)
        for _ in range(3):
            b[rng.randrange(len(b))] ^= 1 << rng.randrange(8)
        return bytes(b)

    def head(d):
        return bytes(rng.randrange(256) for _ in range(64)) + d[64:]

    damages = [flip, cut, head, lambda d: b"", lambda d: d + b"x" * 100, lambda d: b"\xff" * len(d), lambda d: b"\0" * len(d)]
    for turn in range(3):  # each file in another way, and in yet another the next time
        for i, (p, d) in enumerate(kept.items()):
            p.parent.mkdir(parents=True, exist_ok=True)
            p.write_bytes(damages[(i + turn) % len(damages)](d) if d else d)
        s = Server(tmp_path / "home", "--prefix-dir", tmp_path / "prefix")
        assert s.chat(question, max_tokens=24)["choices"] == want
        assert s.stop() == 0, s.errors
