"""bench/compare.py: the table of speeds, from models that are small and peers that are made up."""
import json
import os
import subprocess
import sys

import pytest

from conftest import MINKE, ROOT

PEER = '''#!{python}
import json, sys
a = sys.argv[1:]
get = lambda flag: int(a[a.index(flag) + 1])
behind, n = ((int(x) for x in a[a.index("-gp") + 1].split(",")) if "-gp" in a else (0, get("-n")))
row = {{"build_commit": "abc123", "n_prompt": get("-p") or behind, "n_gen": n, "avg_ts": 0.5, "samples_ts": [0.5]}}
if "-gp" in a:
    row["test"] = f"tg{{n}}@pp{{behind}}"
elif "-d" in a:
    row["n_depth"] = get("-d")
print(json.dumps([row]))
'''


@pytest.fixture
def compare(golden, tmp_path):
    models, peer = tmp_path / "models", tmp_path / "llama-bench"
    models.mkdir()
    (models / "qwen-0.5b-q8_0.gguf").write_bytes((golden / "gguf/llama-q8_0.gguf").read_bytes())
    peer.write_text(PEER.format(python=sys.executable))
    peer.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")} | {"HOME": str(tmp_path)}

    def run(*args, peers=True):
        cmd = [sys.executable, ROOT / "bench/compare.py", "--models", models, "--minke", MINKE, "--out", tmp_path / "out",
               "--repeat", "1", *(("--ik", peer, "--llama-cpp", peer) if peers else ()), *args]
        p = subprocess.run(cmd, capture_output=True, text=True, env=env, timeout=300, check=False)
        out = {f.suffix: f.read_text() for f in (tmp_path / "out").glob("*")}
        return p, out

    run.tmp = str(tmp_path)
    return run


def test_every_row(compare):
    p, out = compare("--only", "qwen-0.5b-q8_0,not-there", "--rows", "speed,batch,load", "--all")
    assert p.returncode == 0, p.stderr
    o = json.loads(out[".json"])
    assert "missing, skipped:" in p.stderr and o["missing"] == ["not-there"] and "not-there" in out[".md"]
    assert [(m["model"], m["row"]) for m in o["measurements"]] == [("qwen-0.5b-q8_0", r) for r in ("speed", "batch", "load")]
    assert o["peers"] == {"ik": "abc123", "llama.cpp": "abc123"} and o["threads"] == 2
    speed = o["measurements"][0]["result"]["tests"]
    assert [(t["test"], t["tokens"], [x["peer"] for x in t["peers"]]) for t in speed] == \
        [("prompt", 512, ["ik", "llama.cpp"]), ("generation", 128, ["ik", "llama.cpp"])]
    line = next(row for row in out[".md"].splitlines() if "| prompt 512 |" in row)
    median = speed[0]["tokens_per_second"]["median"]
    assert f"| {median:.1f} (" in line and line.count(f"| 0.5 (0.5) | {2 * median:.2f} ({2 * median:.2f}) ") == 2
    assert sum("x one token" in row for row in out[".md"].splitlines()) == 8
    programs = {x["name"]: x for x in o["measurements"][2]["programs"]}
    assert list(programs) == ["minke", "minke, packed copy", "ik", "llama.cpp"]
    assert all(0 < x["seconds"] < 60 and x["peak_bytes"] > 1 << 20 for x in programs.values())
    assert not any(compare.tmp in text for text in out.values())  # nothing about the machine's folders


def test_failures_are_said(compare):
    p, out = compare("--only", "qwen-0.5b-q8_0", "--rows", "speed", "--threads", "0", peers=False)
    assert p.returncode == 1 and "failed" in p.stderr and "--threads" in out[".md"]
    p, out = compare("--only", "nothing", peers=False)
    assert p.returncode == 1 and "nothing to measure" in p.stdout
    p, out = compare("--ik", "/no/such/program")
    assert p.returncode == 2 and "/no/such/program" in p.stderr
