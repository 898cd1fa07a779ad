"""Several models behind one server: loaded when they are asked for, unloaded when nobody asks, waited for in between."""
import contextlib
import datetime
import http.client
import json
import resource
import shutil
import signal
import subprocess
import threading
import time

import pytest
from conftest import MINKE, ROOT
from serving import Server

THIMBLE = ROOT / "models/thimble/thimble.gguf"
SUM = "What is 12*12-3?"
# more than one block of the prefix cache
LONG = "What is 1+2+3+4+5+6+7+8+9+1+2+3+4+5+6+7+8+9+1+2+3+4+5+6+7+8+9+1+2+3+4+5+6+7+8+9?"
PATIENCE_S = 60


def until(condition, what):
    """Polls; what is waited for happens by itself, or the test fails."""
    end = time.monotonic() + PATIENCE_S
    while not (got := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)
    return got


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The built-in model under two names."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("one", "two"):
        shutil.copy(THIMBLE, folder / f"{name}.gguf")
    return [folder / "one.gguf", folder / "two.gguf"]


@pytest.fixture
def start(tmp_path, models):
    """start(*options) -> Server of both models with one thread."""
    return lambda *options: Server(tmp_path, "-t", 1, *options, model=[str(m) for m in models])


def states(server):
    return {m["id"]: m["state"] for m in server.get("/v1/models")["data"]}


def figure(server, name, model):
    _, _, data = server.request("GET", "/metrics")
    line = next(x for x in data.decode().splitlines() if x.startswith(f'minke_{name}{{model="{model}"}} '))
    return float(line.rsplit(" ", 1)[1])


def text(answer):
    return answer["choices"][0]["message"]["content"]


class Connection:
    """A request whose answer is read when the test wants it."""

    def __init__(self, server, path, body):
        self.http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        self.http.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})

    def response(self):
        return self.http.getresponse()

    def close(self):
        self.http.close()


@contextlib.contextmanager
def busy(server, model, requests=8):
    """The model has more to answer (with --parallel 1: tens of thousands of tokens) than a test waits for; that ends when
    those who asked hang up."""
    body = {"model": model, "messages": [{"role": "user", "content": SUM}], "n": 16, "ignore_eos": True, "stream": True,
            "max_tokens": 350}
    with contextlib.ExitStack() as stack:
        responses = []
        for _ in range(requests):
            c = Connection(server, "/v1/chat/completions", body)
            stack.callback(c.close)
            responses.append(c.response())
            stack.callback(responses[-1].close)
            assert responses[-1].status == 200
        yield responses[0]


# --- coming ---------------------------------------------------------------------------------------------------------------


def test_listed_at_once_and_loaded_when_asked_for(start):
    with start() as s:
        assert s.info["models"] == ["one", "two"]
        assert states(s) == {"one": "loaded", "two": "unloaded"}
        tags = s.get("/api/tags")["models"]
        assert [m["name"] for m in tags] == ["one:latest", "two:latest"]
        loaded = s.get("/api/ps")["models"]
        assert [m["name"] for m in loaded] == ["one:latest"]
        assert loaded[0]["expires_at"].startswith("9999") and loaded[0]["size"] > 0
        # what needs no weights does not load them
        count = s.post("/tokenize", {"model": "two", "content": SUM})["count"]
        assert count == s.post("/tokenize", {"model": "one", "content": SUM})["count"] > 0
        assert s.post("/api/show", {"model": "two"})["model_info"]["deepseek.context_length"] > 0
        assert states(s)["two"] == "unloaded"
        assert text(s.chat(SUM, model="two")) == text(s.chat(SUM, model="one"))
        assert states(s) == {"one": "loaded", "two": "loaded"}
        two = s.get("/api/ps")["models"][1]
        left = datetime.datetime.fromisoformat(two["expires_at"].replace("Z", "+00:00")) - datetime.datetime.now(datetime.timezone.utc)
        assert 25 * 60 < left.total_seconds() <= 30 * 60
        assert figure(s, "model_loads_total", "two") == 1
        # a head for every figure, once
        heads = [x for x in s.request("GET", "/metrics")[2].decode().splitlines() if x.startswith("# TYPE")]
        assert len(heads) == len(set(heads))


def test_none_or_all_from_the_start(start):
    with start("--load", "none") as s:
        assert states(s) == {"one": "unloaded", "two": "unloaded"}
        assert s.get("/health")["status"] == "ok"
        vectors = s.post("/v1/embeddings", {"model": "two", "input": ["one", "two"]})["data"]
        assert len(vectors) == 2
        assert states(s) == {"one": "unloaded", "two": "loaded"}
    with start("--load", "all") as s:
        assert states(s) == {"one": "loaded", "two": "loaded"}


@pytest.mark.parametrize("harm, what", [(lambda b: b[:1000] + b"\0" * 4000 + b[5000:], "bad.gguf"),
                                        (lambda b: b[:len(b) // 2], "bad.gguf")], ids=["damaged", "cut"])
def test_a_broken_file_is_an_error_at_the_start(tmp_path, models, harm, what):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(harm(THIMBLE.read_bytes()))
    run = subprocess.run([MINKE, "serve", models[0], bad, "-t", "1", "--port", "0", "--json"], capture_output=True, text=True,
                         env={"HOME": str(tmp_path)}, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)
    assert run.returncode != 0
    assert what in run.stderr
    assert run.stdout == ""


def test_a_load_that_fails_is_told_and_tried_again(start):
    with start("--load", "none") as s:
        pid = s.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_AS)
        pages = int(open(f"/proc/{pid}/statm", encoding="ascii").read().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), usual[1]))
        body = {"model": "two", "messages": [{"role": "user", "content": SUM}]}
        status, headers, data = s.request("POST", "/v1/chat/completions", body)
        resource.prlimit(pid, resource.RLIMIT_AS, usual)
        message = json.loads(data)["error"]["message"]
        assert status == 503 and "Retry-After" in headers
        assert "the model 'two' could not be loaded" in message and "memory" in message
        assert states(s)["two"] == "unloaded"
        assert figure(s, "model_load_failures_total", "two") == 1
        assert text(s.chat(SUM, model="two")) == "141"


# --- going ----------------------------------------------------------------------------------------------------------------


def test_unloaded_when_nobody_asks_and_the_cache_stays(start):
    with start("--keep-alive", "0", "--load", "none") as s:
        def ask():
            a = s.chat(LONG, model="two", max_tokens=20)
            until(lambda: states(s)["two"] == "unloaded", "two is unloaded")
            return a["choices"][0]["message"], a["usage"]["prompt_tokens_details"]["cached_tokens"]

        first, cached = ask()
        assert cached == 0
        again, cached = ask()
        assert again == first
        assert cached >= 64
        assert s.get("/api/ps")["models"] == []
        assert figure(s, "model_unloads_total", "two") == 2
        # what was counted stays when the model goes
        assert figure(s, "requests_done_total", "two") == 2


def test_memory_and_threads_are_given_back(tmp_path, models):
    def threads(s):
        return len(list((ROOT / f"/proc/{s.process.pid}/task").iterdir()))

    with Server(tmp_path, "-t", 4, "--load", "none", model=[str(m) for m in models]) as s:
        before = threads(s)
        s.chat(SUM, model="one", max_tokens=1)
        assert threads(s) >= before + 4  # three of the pool, the scheduler's
        s.post("/api/generate", {"model": "one", "keep_alive": 0, "stream": False})
        until(lambda: threads(s) == before, "the threads have ended")


def test_room_for_one(start):
    with start("--max-loaded", 1) as s:
        for name, other in (("two", "one"), ("one", "two"), ("two", "one")):
            assert text(s.chat(SUM, model=name)) == "141"
            assert states(s) == {name: "loaded", other: "unloaded"}


# --- Ollama's words -------------------------------------------------------------------------------------------------------


def test_ollama_keep_alive(start):
    def ask(path="/api/generate", **fields):
        return s.post(path, {"model": "two", "stream": False} | fields)

    def expires():
        return {m["name"]: m["expires_at"] for m in s.get("/api/ps")["models"]}.get("two:latest")

    with start() as s:
        assert ask(keep_alive="5m")["done_reason"] == "load"
        left = datetime.datetime.fromisoformat(expires().replace("Z", "+00:00")) - datetime.datetime.now(datetime.timezone.utc)
        assert 200 < left.total_seconds() <= 300
        ask(prompt=SUM, keep_alive=-1)
        assert expires().startswith("9999")
        ask("/api/embed", input="one", keep_alive=600)
        assert not expires().startswith("9999")
        assert ask(keep_alive=0)["done_reason"] == "unload"
        until(lambda: states(s)["two"] == "unloaded", "two is unloaded")
        assert ask(keep_alive=0)["done_reason"] == "unload"
        assert states(s)["two"] == "unloaded"  # nothing was loaded for that
        assert ask("/api/chat", messages=[{"role": "user", "content": SUM}], keep_alive=0)["message"]["content"] == "141"
        until(lambda: states(s)["two"] == "unloaded", "two is unloaded after its answer")
        assert ask("/api/chat", messages=[])["done_reason"] == "load"


def test_ollama_num_ctx(start):
    with start("--ctx", 256) as s:
        def ask(n, **fields):
            status, _, data = s.request("POST", "/api/generate", {"model": "one", "stream": False, "options": {"num_ctx": n}} | fields)
            return status, json.loads(data)

        status, data = ask(257, prompt=SUM)
        assert status == 400 and "257" in data["error"] and "256" in data["error"]
        assert ask(257)[0] == 400
        status, data = ask(256, prompt=SUM)
        assert status == 200 and data["response"] == "141"
        n_prompt = data["prompt_eval_count"]
        status, data = ask(n_prompt + 7, prompt=SUM)
        assert (status, data["eval_count"], data["done_reason"]) == (200, 7, "length")
        status, data = ask(n_prompt, prompt=SUM)
        assert status == 400 and str(n_prompt) in data["error"]


# --- waiting --------------------------------------------------------------------------------------------------------------


def test_who_waits_hears_from_us_and_who_answers_goes_on(start):
    """One place, which is in use: streams for the other model get headers and heartbeats in their own dialects."""
    chat = {"model": "two", "messages": [{"role": "user", "content": SUM}], "stream": True, "max_tokens": 100}
    with start("--parallel", 1, "--max-loaded", 1) as s:
        with busy(s, "one") as stream:
            waiting = {path: Connection(s, path, chat) for path in ("/v1/chat/completions", "/v1/messages", "/api/chat")}
            answers = {path: c.response() for path, c in waiting.items()}
            first = {path: a.readline() for path, a in answers.items()}
            assert all(a.status == 200 for a in answers.values())
            assert first["/v1/chat/completions"].startswith(b":")
            assert first["/v1/messages"] == b"event: message_start\n"
            assert json.loads(first["/api/chat"])["message"]["content"] == ""
            assert states(s) == {"one": "loaded", "two": "unloaded"}
            assert stream.readline()  # goes on
        rest = {path: a.read().decode() for path, a in answers.items()}
        assert rest["/v1/chat/completions"].rstrip().endswith("data: [DONE]")
        assert "event: message_stop" in rest["/v1/messages"]
        last = json.loads(rest["/api/chat"].splitlines()[-1])
        assert last["done"] and last["load_duration"] > 1e9  # it waited for two seconds at least
        assert states(s) == {"one": "unloaded", "two": "loaded"}
        for c in waiting.values():
            c.close()


def test_who_waits_may_hang_up(start):
    with start("--parallel", 1, "--max-loaded", 1) as s:
        with busy(s, "one"):
            body = {"model": "two", "messages": [{"role": "user", "content": SUM}]}
            gone = [Connection(s, "/v1/chat/completions", body), Connection(s, "/v1/embeddings", {"model": "two", "input": "x"})]
            until(lambda: figure(s, "model_waiting", "two") == 2, "both wait")
            for c in gone:
                c.close()
            until(lambda: figure(s, "model_waiting", "two") == 0, "nobody waits")
        assert figure(s, "model_loads_total", "two") == 0
        assert text(s.chat(SUM, model="one")) == "141"


def test_a_line_is_bounded(start):
    most = 20
    with start("--parallel", 1, "--max-loaded", 1, "--max-waiting", most) as s:
        body = {"model": "two", "messages": [{"role": "user", "content": SUM}], "max_tokens": 1}
        with busy(s, "one", requests=1):
            line = [Connection(s, "/v1/chat/completions", body) for _ in range(most)]
            until(lambda: figure(s, "model_waiting", "two") == most, "all of them wait")
            status, headers, data = s.request("POST", "/v1/chat/completions", body)
            assert status == 503 and "Retry-After" in headers
            assert f"{most} requests wait for models" in json.loads(data)["error"]["message"]
            for c in line:
                c.close()


def test_the_end_finds_somebody_waiting(start):
    """The first signal lets go on what was begun, a wait too; the second ends it all."""
    s = start("--parallel", 1, "--max-loaded", 1)
    with busy(s, "one"):
        c = Connection(s, "/v1/chat/completions", {"model": "two", "messages": [{"role": "user", "content": SUM}]})
        until(lambda: figure(s, "model_waiting", "two") == 1, "it waits")
        s.process.send_signal(signal.SIGTERM)
        until(lambda: s.request("GET", "/health")[0] == 503, "the server is draining")
        s.process.send_signal(signal.SIGTERM)
        response = c.response()
        assert response.status == 503
        assert json.loads(response.read())["error"]["message"]
        assert s.process.wait(PATIENCE_S) == 0
    c.close()
    assert s.stop() == 0


def test_two_models_answer_at_the_same_time(start):
    with start("--load", "all") as s:
        alone = s.chat(SUM, model="one")["choices"]
        got = {}

        def ask(name, i):
            got[name, i] = s.chat(SUM, model=name)["choices"]

        threads = [threading.Thread(target=ask, args=(name, i)) for i in range(3) for name in ("one", "two")]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert list(got.values()) == [alone] * 6
