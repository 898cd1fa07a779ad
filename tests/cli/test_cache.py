"""minke cache: packed copies are made on request, used when they fit, and never change an answer."""
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import MINKE, ROOT
from test_usage import one_line_error


@pytest.fixture
def cache(minke, tmp_path):
    """cache(*args) runs `minke cache` in a folder of its own, which other verbs find through the environment."""

    def run(*args, verb="cache", **kw):
        return minke(verb, *args, env={"MINKE_CACHE_DIR": str(tmp_path / "packed")}, **kw)

    run.dir = tmp_path / "packed"
    return run


def ok(p):
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


def listed(cache):
    return json.loads(ok(cache("list", "--json")))


def answer(cache, model, *args):
    p = cache("--json", "-n", "16", "--temp", "0", "-m", model, "--raw", "Some text", *args, verb="run")
    return json.loads(ok(p))["ids"], p.stderr


def copy_of(golden, tmp_path, name="llama_k256-q4_k"):
    return shutil.copy(golden / "gguf" / f"{name}.gguf", tmp_path / "m.gguf")


@pytest.mark.parametrize("model", ["gguf/llama_k256-q4_k.gguf", "gguf/deepseek_v3_k256-c-q4_k_m.gguf",
                                   "gguf/yi-f32-00001-of-00002.gguf", "models/deepseek_v3-fp8"])
def test_life_of_a_copy(cache, golden, model):
    path = golden / model
    assert listed(cache) == [] and not cache.dir.exists()
    want, _ = answer(cache, path)
    p = cache("add", path)
    assert p.returncode == 0 and "made " in p.stderr
    assert "already there" in cache("add", path).stderr
    (one,) = listed(cache)
    assert one["state"] == "valid" and one["model"] == str(path.resolve())
    assert os.path.getsize(one["file"]) == one["bytes"] and sorted(os.listdir(cache.dir)) == [
        os.path.basename(one["file"])]
    show = json.loads(ok(cache("--json", path, verb="show")))
    assert show["packed"] == {"path": one["file"], "bytes": one["bytes"]}
    assert json.loads(ok(cache("--json", path, "--no-packed", verb="show")))["packed"] is None
    for isa in ("auto", "scalar"):
        assert answer(cache, path, "--isa", isa) == (want, "")
    assert json.loads(ok(cache("verify", "--json")))[0]["verified"] is True
    ok(cache("remove", path))
    assert listed(cache) == [] and os.listdir(cache.dir) == []


def test_where_copies_lie(minke, golden, tmp_path):
    model = golden / "gguf/llama-q8_0.gguf"
    for env, where in (({"XDG_CACHE_HOME": str(tmp_path / "x")}, "x/minke"), ({"XDG_CACHE_HOME": ""}, ".cache/minke"),
                       ({"XDG_CACHE_HOME": "relative"}, ".cache/minke")):
        ok(minke("cache", "add", model, env=env))
        assert len(list((tmp_path / where).glob("llama-q8_0-*.mkpack"))) == 1
        ok(minke("cache", "remove", "--all", env=env))
    one_line_error(minke("cache", "list", env={"XDG_CACHE_HOME": "", "HOME": ""}), 1, "--cache-dir")


def test_a_changed_model_is_not_mixed_up(cache, golden, tmp_path):
    model = copy_of(golden, tmp_path)
    want, _ = answer(cache, model)
    ok(cache("add", model))
    os.utime(model, (1, 1))
    assert listed(cache)[0]["state"] == "model changed"
    got, said = answer(cache, model)
    assert got == want and said.count("\n") == 1 and "not used" in said and "minke cache add" in said
    shutil.copy(golden / "gguf/llama-q8_0.gguf", model)  # another model under the same path
    assert answer(cache, model)[1] == ""
    assert "removed" in cache("add", model).stderr  # the copy that nobody can use any more
    assert [x["state"] for x in listed(cache)] == ["valid"]
    os.remove(model)
    assert listed(cache)[0]["state"] == "model not there"
    ok(cache("remove", model))
    assert listed(cache) == []


@pytest.mark.parametrize("at", ["index", "end", "cut", "empty"])
def test_a_damaged_copy_costs_nothing_but_time(cache, golden, tmp_path, at):
    model = copy_of(golden, tmp_path)
    want, _ = answer(cache, model)
    ok(cache("add", model))
    file = listed(cache)[0]["file"]
    data = bytearray(open(file, "rb").read())
    if at == "index":
        data[-200] ^= 1
    elif at == "end":
        data[-1] ^= 1
    open(file, "wb").write(data[:-5000] if at == "cut" else b"" if at == "empty" else data)
    got, said = answer(cache, model)
    assert got == want and "warning" in said and said.count("\n") == 1, said
    assert listed(cache)[0]["state"] == "damaged"
    assert cache("verify").returncode == 5
    ok(cache("add", model))
    assert answer(cache, model) == (want, "")


def test_verify_reads_every_byte(cache, golden, tmp_path):
    model = copy_of(golden, tmp_path)
    ok(cache("add", model))
    file = listed(cache)[0]["file"]
    with open(file, "r+b") as f:
        f.seek(5000)
        byte = f.read(1)
        f.seek(5000)
        f.write(bytes([byte[0] ^ 4]))
    p = cache("verify", model)
    assert p.returncode == 5 and "damaged" in p.stdout and "weight 0" in p.stderr


def test_usage(cache, golden):
    one_line_error(cache(), 1, "add MODEL")
    one_line_error(cache("ad", "x"), 1, "add MODEL", "'ad x'")
    one_line_error(cache("add"), 1, "MODEL")
    one_line_error(cache("add", "nothing-like-it"), 2, "not found")
    one_line_error(cache("remove"), 1, "--all")
    one_line_error(cache("remove", "x", "--all"), 1, "--all")
    one_line_error(cache("remove", "x"), 2, "minke cache list")
    one_line_error(cache("verify", "x"), 2, "minke cache list")
    one_line_error(cache("add", golden / "gguf/llama-q8_0.gguf", "--cache-dir", "/dev/null/x"), 5, "/dev/null/x")


def test_full_disk_and_kill_leave_nothing(cache, golden, tmp_path):
    """A limit on the size of files stands in for the full disk; SIGKILL comes while a large copy is written."""
    model = golden / "gguf/deepseek_v3_k256-c-q4_k_m.gguf"
    env = os.environ | {"MINKE_CACHE_DIR": str(cache.dir)}
    p = subprocess.run(["sh", "-c", f"ulimit -f 100; trap '' XFSZ; exec {MINKE} cache add {model}"], env=env, cwd=ROOT,
                       capture_output=True, text=True, check=False)
    assert p.returncode == 5 and p.stderr.count("\n") == 1 and "File too large" in p.stderr, p.stderr
    assert os.listdir(cache.dir) == []
    for delay in (0, 0.002, 0.01, 0.02):
        child = subprocess.Popen([MINKE, "cache", "add", model], env=env, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert all(x["state"] == "valid" for x in listed(cache))
        ok(cache("remove", "--all"))
        assert os.listdir(cache.dir) == []
    (cache.dir / "x.mkpack.tmp-999999999").write_text("left behind")
    ok(cache("add", model))
    assert len(os.listdir(cache.dir)) == 1
