"""What a service remembers: keys, the ledger, kept answers, reasoning; over ends of every kind and between servers."""
import concurrent.futures
import json
import os
import re
import signal
import socket
import sqlite3
import time

import pytest

from serving import Server, wait_until
from test_usage import one_line_error

USER = {"messages": [{"role": "user", "content": "2+3"}]}


def ok(p):
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


def state_dir(home):
    return home / ".local/state/minke"


def table(home, name):
    """The rows of a table, read beside the server."""
    db = sqlite3.connect(f"file:{state_dir(home)}/state.db?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    rows = [dict(r) for r in db.execute(f"SELECT * FROM {name} ORDER BY 1")]
    db.close()
    return rows


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def new_key(minke, *args):
    return json.loads(ok(minke("keys", "new", "--json", *args)))


# --- minke keys --------------------------------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked(minke, tmp_path):
    assert json.loads(ok(minke("keys", "list", "--json"))) == [] and not state_dir(tmp_path).exists()
    p = minke("keys", "new", "team a", "--per-minute", 5, "--tokens-per-day", 1000, "--at-once", 2)
    assert p.returncode == 0 and re.fullmatch(r"sk-mk-[0-9A-Za-z]{40}\n", p.stdout)
    key_id = p.stdout[6:14]
    assert f"Its id is {key_id}" in p.stderr
    (one,) = json.loads(ok(minke("keys", "list", "--json")))
    assert one | {"created": 0} == {"id": key_id, "name": "team a", "scopes": "infer", "per_minute": 5,
                                    "tokens_per_day": 1000, "at_once": 2, "created": 0, "revoked": None}
    assert abs(one["created"] - time.time()) < 60
    line = ok(minke("keys", "list"))
    assert re.fullmatch(rf"{key_id} +20\d\d-\d\d-\d\d +infer +team a +5 a minute +1000 tokens a day +2 at once\n", line)
    assert os.stat(state_dir(tmp_path)).st_mode & 0o777 == 0o700
    assert p.stdout[6:].strip()[8:].encode() not in (state_dir(tmp_path) / "state.db").read_bytes()
    assert "revoked" in ok(minke("keys", "revoke", "team a"))
    assert json.loads(ok(minke("keys", "list", "--json")))[0]["revoked"] >= one["created"]


def test_wrong_words_for_keys(minke):
    one_line_error(minke("keys", "make"), 1, "new [NAME], list or revoke ID")
    one_line_error(minke("keys"), 1, "keys")
    one_line_error(minke("keys", "revoke"), 1, "id or the name")
    one_line_error(minke("keys", "revoke", "nobody"), 2, "nobody")
    one_line_error(minke("keys", "new", "--scopes", "root"), 1, "root")
    one_line_error(minke("keys", "new", "x" * 64), 1, "at most 63 bytes")
    one_line_error(minke("keys", "list", env={"HOME": ""}), 1, "--state-dir")


# --- who may ask -------------------------------------------------------------------------------------------------------


def test_a_running_server_follows_keys(minke, tmp_path):
    s = Server(tmp_path)
    assert s.request("POST", "/v1/chat/completions", USER)[0] == 200  # nobody has made a key
    infer, admin = new_key(minke, "worker"), new_key(minke, "boss", "--scopes", "admin")
    wait_until(lambda: s.request("GET", "/v1/models")[0] == 401)
    chat = lambda k: s.request("POST", "/v1/chat/completions", USER, headers=bearer(k))[0]
    assert chat(infer["key"]) == 200 and chat(infer["key"][:-1]) == 401
    status, _, body = s.request("POST", "/v1/chat/completions", USER, headers=bearer(admin["key"]))
    assert status == 403 and b"infer" in body
    # a key sees its own usage, an administrator's that of all
    own = s.get("/usage?by=key", headers=bearer(infer["key"]))
    assert [line["key"] for line in own["lines"]] == [infer["id"]] and own["total"]["requests"] == 1
    everybody = s.get("/usage?by=key", headers=bearer(admin["key"]))
    assert {line["key"] for line in everybody["lines"]} == {"", infer["id"]}
    assert s.request("GET", f"/usage?key={admin['id']}", headers=bearer(infer["key"]))[0] == 400
    assert s.request("GET", "/usage")[0] == 401
    ok(minke("keys", "revoke", infer["id"]))
    wait_until(lambda: chat(infer["key"]) == 401)
    ok(minke("keys", "revoke", "boss"))
    wait_until(lambda: s.request("GET", "/v1/models", headers=bearer(admin["key"]))[0] == 401)
    assert s.request("GET", "/v1/models")[0] == 401  # no key is left; the door stays closed
    assert s.request("GET", "/health")[0] == 200
    assert s.stop() == 0


def test_limits_of_a_key(minke, tmp_path):
    slow = new_key(minke, "--per-minute", 2)
    small = new_key(minke, "--tokens-per-day", 20)
    one = new_key(minke, "--at-once", 1)
    s = Server(tmp_path)
    chat = lambda k, **f: s.request("POST", "/v1/chat/completions", USER | f, headers=bearer(k["key"]))
    assert [chat(slow, max_tokens=1)[0] for _ in range(2)] == [200, 200]
    status, headers, body = chat(slow)
    assert status == 429 and 1 <= int(headers["Retry-After"]) <= 30
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
    # every dialect in its own words; asking for the models costs nothing
    claude = {"model": "x", "max_tokens": 5} | USER
    status, headers, body = s.request("POST", "/v1/messages", claude, headers={"x-api-key": slow["key"]})
    assert status == 429 and json.loads(body)["error"]["type"] == "rate_limit_error" and headers["Retry-After"]
    assert s.request("GET", "/v1/models", headers=bearer(slow["key"]))[0] == 200
    count = {"model": "x"} | USER
    assert s.request("POST", "/v1/messages/count_tokens", count, headers=bearer(slow["key"]))[0] == 200
    # tokens: the ledger counts them, also over a restart
    codes = []
    while 429 not in codes and len(codes) < 20:
        codes.append(chat(small)[0])
    assert set(codes[:-1]) == {200} and codes[-1] == 429
    used = s.get("/usage", headers=bearer(small["key"]))["total"]
    assert 20 <= used["prompt_tokens"] + used["output_tokens"] < 20 + 40
    s.stop(signal.SIGKILL)
    s = Server(tmp_path)
    status, headers, body = chat(small)
    assert status == 429 and b"of its 20 tokens of today" in body and 1 <= int(headers["Retry-After"]) <= 86400
    # answers at once: places come back, also when the client has gone
    body = {"prompt": "<|user|>7*8", "ignore_eos": True}
    ask = lambda _: s.request("POST", "/v1/completions", body, headers=bearer(one["key"]))[0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(ask, range(8)))
    assert 200 in codes and set(codes) <= {200, 429}
    gone = socket.create_connection(("127.0.0.1", s.port))
    data = json.dumps(body | {"n": 16, "max_tokens": 370}).encode()
    gone.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {one['key']}\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    gone.close()
    wait_until(lambda: ask(0) == 200)
    assert s.stop() == 0


def test_the_first_key_beyond_loopback_stays(minke, tmp_path):
    a = Server(tmp_path, "--host", "0.0.0.0")
    key = a.info["key"]
    assert a.stop() == 0
    b = Server(tmp_path, "--host", "0.0.0.0")
    assert "key" not in b.info
    assert b.request("GET", "/v1/models", headers=bearer(key))[0] == 200
    assert b.request("GET", "/v1/models")[0] == 401
    assert b.stop() == 0
    assert [k["scopes"] for k in json.loads(ok(minke("keys", "list", "--json")))] == ["infer,admin"]


# --- the ledger --------------------------------------------------------------------------------------------------------


def test_every_answer_has_a_row(minke, tmp_path):
    s = Server(tmp_path)
    user, word = USER["messages"], "Zyxwvut"
    usage = [s.chat(f"2+3 {word}")["usage"],
             s.post("/v1/completions", {"prompt": word, "max_tokens": 5, "n": 2})["usage"]]
    stream = s.request("POST", "/v1/chat/completions", USER | {"stream": True, "stream_options": {"include_usage": True}})[2]
    usage.append([json.loads(x[6:]) for x in stream.decode().splitlines() if x.startswith("data: {")][-1]["usage"])
    claude = s.post("/v1/messages", {"model": "x", "max_tokens": 300, "messages": user})["usage"]
    ollama = s.post("/api/chat", {"model": "thimble", "stream": False, "messages": user})
    response = s.post("/v1/responses", {"input": "2+3"})["usage"]
    vectors = s.post("/v1/embeddings", {"input": "2+3"})["usage"]
    assert s.request("POST", "/v1/chat/completions", {"messages": 5})[0] == 400  # was not answered
    # the rows are there as soon as the answers are
    rows = table(tmp_path, "ledger")
    assert [r["dialect"] for r in rows] == ["openai-chat", "openai-completions", "openai-chat", "anthropic",
                                            "ollama-chat", "openai-responses", "embeddings"]
    for row, u in zip(rows, usage):
        assert (row["prompt"], row["output"]) == (u["prompt_tokens"], u["completion_tokens"])
        assert row["reasoning"] == u["completion_tokens_details"]["reasoning_tokens"]
        assert row["cached"] == u["prompt_tokens_details"]["cached_tokens"]
    assert rows[3]["output"] == claude["output_tokens"]
    assert rows[4]["output"] == ollama["eval_count"] and rows[5]["output"] == response["output_tokens"]
    assert (rows[6]["prompt"], rows[6]["output"]) == (vectors["prompt_tokens"], 0)
    assert {r["status"] for r in rows} == {200} and rows[1]["stop"] == "length"
    assert all(r["generation_ms"] > 0 and r["model"] == "thimble" for r in rows[:6])
    assert word not in json.dumps(rows)  # what was said is no part of it
    total = s.get("/usage")["total"]
    assert total["requests"] == 7 and total["prompt_tokens"] == sum(r["prompt"] for r in rows)
    report = json.loads(ok(minke("usage", "--json")))
    assert {k: report["total"][k] for k in total} == pytest.approx(total) and report["currency"] == "CNY"
    assert report["total"]["would_cost"]["deepseek-flash"] > 0
    head, *lines, last, note = ok(minke("usage", "--by", "model")).splitlines()
    assert head.split()[:3] == ["model", "requests", "failed"] and lines[0].split()[:2] == ["thimble", "7"]
    assert last.split()[:2] == ["total", "7"] and "CNY" in note
    assert s.request("GET", "/usage?by=week")[0] == 400 and s.request("GET", "/usage?since=never")[0] == 400
    assert s.stop() == 0


def test_who_hung_up_is_in_the_ledger(tmp_path):
    s = Server(tmp_path)
    with pytest.raises(TimeoutError):
        s.request("POST", "/v1/completions", {"prompt": "<|user|>7*8", "ignore_eos": True, "n": 16, "max_tokens": 370},
                  timeout=0.05)
    wait_until(lambda: table(tmp_path, "ledger"))
    (row,) = table(tmp_path, "ledger")
    assert row["status"] == 499 and row["stop"] == "cancelled"
    assert s.stop() == 0


def test_usage_without_a_ledger(minke, tmp_path):
    assert json.loads(ok(minke("usage", "--json")))["lines"] == [] and not state_dir(tmp_path).exists()
    one_line_error(minke("usage", "--state-dir", tmp_path / "none"), 2, "nothing has been kept")
    one_line_error(minke("usage", "--by", "week"), 1, "week")
    one_line_error(minke("usage", "--since", "yesterday"), 1, "--since")
    one_line_error(minke("usage", "--prices", tmp_path / "none.json"), 2, "none.json")
    prices = tmp_path / "p.json"
    prices.write_text('{"currency": "EUR", "services": [{"name": "x", "hit": 1, "miss": 2, "output": "3"}]}')
    one_line_error(minke("usage", "--prices", prices), 1, "/services/0/output")
    prices.write_text('{"currency": "EUR", "services": [{"name": "dear", "hit": 1, "miss": 2, "output": 3}]}')
    assert "dear" in ok(minke("usage", "--prices", prices))


# --- kept answers ------------------------------------------------------------------------------------------------------


def test_a_kept_answer_survives_kill_9(tmp_path):
    a = Server(tmp_path)
    first = a.post("/v1/responses", {"input": "2+3", "instructions": ""})
    stream = a.request("POST", "/v1/responses", {"input": "4+5", "previous_response_id": first["id"], "stream": True})[2]
    a.stop(signal.SIGKILL)
    done = [json.loads(x[6:]) for x in stream.decode().splitlines() if x.startswith("data: {")][-1]
    assert done["type"] == "response.completed"
    b = Server(tmp_path)
    assert b.get(f"/v1/responses/{first['id']}") == first
    assert b.get(f"/v1/responses/{done['response']['id']}") == done["response"]
    assert len(table(tmp_path, "ledger")) == 2
    kept = {r["id"]: json.loads(r["messages"]) for r in table(tmp_path, "kept")}
    assert [m["content"] for m in kept[done["response"]["id"]]] == ["2+3", "5", "4+5", "9"]
    third = b.post("/v1/responses", {"input": "1+1", "previous_response_id": done["response"]["id"]})
    assert third["previous_response_id"] == done["response"]["id"]
    items = b.get(f"/v1/responses/{third['id']}/input_items?order=asc")
    assert [i["content"][0]["text"] for i in items["data"] if i["type"] == "message"] == ["2+3", "5", "4+5", "9", "1+1"]
    assert (items["first_id"], items["last_id"]) == (items["data"][0]["id"], items["data"][-1]["id"])
    assert items["object"] == "list" and items["has_more"] is False
    assert b.post(f"/v1/responses/{third['id']}/cancel", b"") == third
    status, _, body = b.request("DELETE", f"/v1/responses/{first['id']}")
    assert status == 200 and json.loads(body) == {"id": first["id"], "object": "response", "deleted": True}
    assert b.request("GET", f"/v1/responses/{first['id']}")[0] == 404
    assert b.request("DELETE", f"/v1/responses/{first['id']}")[0] == 404
    # those behind it stand on their own
    assert b.request("POST", "/v1/responses", {"input": "1+1", "previous_response_id": third["id"]})[0] == 200
    status, _, body = b.request("POST", "/v1/responses", {"input": "1+1", "previous_response_id": first["id"]})
    assert status == 400 and json.loads(body)["error"]["param"] == "previous_response_id"
    assert b.stop() == 0


def test_what_is_not_kept(minke, tmp_path):
    s = Server(tmp_path)
    r = s.post("/v1/responses", {"input": "2+3", "store": False})
    assert s.request("GET", f"/v1/responses/{r['id']}")[0] == 404
    s.chat("2+3")
    assert table(tmp_path, "kept") == []
    # and what another key's is
    a, b = new_key(minke), new_key(minke)
    wait_until(lambda: s.request("GET", "/v1/models", headers=bearer(b["key"]))[0] == 200 and
               s.request("GET", "/v1/models")[0] == 401)
    r = s.post("/v1/responses", {"input": "2+3"}, headers=bearer(a["key"]))
    assert s.get(f"/v1/responses/{r['id']}", headers=bearer(a["key"])) == r
    for method, more in [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]:
        assert s.request(method, f"/v1/responses/{r['id']}{more}", headers=bearer(b["key"]))[0] == 404
    assert s.get(f"/v1/responses/{r['id']}/input_items", headers=bearer(a["key"]))["data"][0]["content"][0]["text"] == "2+3"
    stolen = {"input": "4+5", "previous_response_id": r["id"]}
    assert s.request("POST", "/v1/responses", stolen, headers=bearer(b["key"]))[0] == 400
    assert s.request("POST", "/v1/responses", stolen, headers=bearer(a["key"]))[0] == 200
    assert s.stop() == 0


# --- reasoning ---------------------------------------------------------------------------------------------------------


def test_reasoning_is_put_back(minke, tmp_path):
    s = Server(tmp_path)
    m = s.chat("2+3")["choices"][0]["message"]
    assert m["reasoning_content"]
    past = USER["messages"] + [{"role": "assistant", "content": m["content"]}]
    prompt = s.post("/apply-template", {"messages": past})
    assert prompt["prompt"] == f"<|user|>2+3<|assistant|><think>\n{m['reasoning_content'].strip()}\n</think>\n" \
                               f"{m['content']}<|end|><|assistant|>"
    n = s.post("/v1/messages/count_tokens", {"model": "x", "messages": past + USER["messages"]})
    assert n["input_tokens"] == s.post("/apply-template", {"messages": past + USER["messages"]})["count"]
    # another user of the same server is given nothing
    other = s.post("/apply-template", {"messages": past, "user": "somebody"})
    assert "<think>" not in other["prompt"]
    # nor is it put into an answer that was never given, nor over what the client says itself
    wrong = s.post("/apply-template", {"messages": past[:1] + [{"role": "assistant", "content": "6"}]})
    assert "<think>" not in wrong["prompt"]
    own = s.post("/apply-template", {"messages": past[:1] + [past[1] | {"reasoning_content": "I know"}]})
    assert "<think>\nI know\n</think>" in own["prompt"]
    s.stop(signal.SIGKILL)
    s = Server(tmp_path)
    assert s.post("/apply-template", {"messages": past}) == prompt
    assert s.stop() == 0


# --- the folder --------------------------------------------------------------------------------------------------------


def test_two_servers_share_a_folder(minke, tmp_path):
    a, b = Server(tmp_path), Server(tmp_path)
    r = a.post("/v1/responses", {"input": "2+3"})
    assert b.get(f"/v1/responses/{r['id']}") == r
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda i: (a, b)[i % 2].request("POST", "/v1/chat/completions", USER)[0], range(40)))
    assert set(codes) == {200}
    assert a.get("/usage")["total"]["requests"] == b.get("/usage")["total"]["requests"] == 41
    key = new_key(minke)
    for s in (a, b):
        wait_until(lambda s=s: s.request("GET", "/v1/models")[0] == 401)
        assert s.request("GET", "/v1/models", headers=bearer(key["key"]))[0] == 200
    assert a.stop() == 0
    assert b.request("POST", "/v1/chat/completions", USER, headers=bearer(key["key"]))[0] == 200
    assert b.stop() == 0
    assert len(table(tmp_path, "ledger")) == 42


def test_without_state(tmp_path):
    s = Server(tmp_path, "--no-state")
    r = s.post("/v1/responses", {"input": "2+3"})
    assert s.get(f"/v1/responses/{r['id']}") == r
    assert s.get("/usage")["total"]["requests"] == 1
    assert s.stop() == 0 and not state_dir(tmp_path).exists()


def test_a_folder_of_ones_own(minke, tmp_path):
    s = Server(tmp_path, "--state-dir", tmp_path / "mine")
    s.chat("2+3")
    assert s.stop() == 0 and not state_dir(tmp_path).exists()
    report = json.loads(ok(minke("usage", "--json", env={"MINKE_STATE_DIR": str(tmp_path / "mine")})))
    assert report["total"]["requests"] == 1
    with pytest.raises(RuntimeError, match="/proc/none"):
        Server(tmp_path, "--state-dir", "/proc/none/state")


def test_a_damaged_database_is_set_aside(minke, tmp_path):
    s = Server(tmp_path)
    s.chat("2+3")
    assert s.stop() == 0
    path = state_dir(tmp_path) / "state.db"
    path.write_bytes(b"\xa5" * path.stat().st_size)
    one_line_error(minke("usage"), 5, "damaged")
    s = Server(tmp_path)
    s.chat("2+3")
    assert s.get("/usage")["total"]["requests"] == 1
    assert s.stop() == 0
    assert any("was damaged; it is now" in line for line in s.errors)
    assert len(list(state_dir(tmp_path).glob("state.db.damaged-*"))) == 1
