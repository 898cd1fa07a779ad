"""bench/serve.py: the table of speeds under load, from the built-in model and a peer that is minke in disguise."""
import json
import os
import subprocess
import sys

from conftest import MINKE, ROOT

PEER = '''#!{python}
import os, sys
get = lambda flag: sys.argv[sys.argv.index(flag) + 1]
os.execv("{minke}", ["minke", "serve", get("-m"), "--host", get("--host"), "--port", get("--port"), "--parallel", get("-np"),
                     "--ctx", str(int(get("-c")) // int(get("-np"))), "-t", get("-t"), "--no-prefix-cache"])
'''


def test_every_part(tmp_path):
    peer = tmp_path / "llama-server"
    peer.write_text(PEER.format(python=sys.executable, minke=MINKE))
    peer.chmod(0o755)
    p = subprocess.run([sys.executable, ROOT / "bench/serve.py", "--model", ROOT / "models/thimble/thimble.gguf", "--minke", MINKE,
                        "--peer", peer, "--clients", "1,3", "--tokens", "12", "--forms-clients", "2", "--forms-rounds", "1", "--streams",
                        "2", "--latency-tokens", "200", "--long", "150", "--ctx", "288", "--draft-tokens", "24", "--settle", "0.02", "--repeat",
                        "1", "--threads", "1", "--out", tmp_path / "out"],
                       capture_output=True, text=True, timeout=200, check=False, env=os.environ | {"HOME": str(tmp_path)})
    assert p.returncode == 0, p.stderr
    table = next((tmp_path / "out").glob("*.md")).read_text()
    runs = json.loads(next((tmp_path / "out").glob("*.json")).read_text())["runs"]
    assert str(tmp_path) not in table and "| 3 | " in table
    for name, (r,) in runs.items():
        assert f"| {name} |" in table or name == "minke"
        assert min(r["tokens_per_second"].values()) > 0 and r["latency"]["prompts"]["n"] >= 10
        assert min(r["forms"].values()) > 0
        assert r["first_token"]["cold"]["prompt"] == 150 and r["first_token"]["cold"]["cached"] == 0
    found = {n: [r["first_token"][k]["cached"] for k in ("warm", "restart")] for n, (r,) in runs.items()}
    assert "| drafts wrong |" in table and min(min(v.values()) for v in runs["minke"][0]["drafts"].values()) > 0
    assert found == {"minke": [128, 128], "llama.cpp": [0, 0]}


def test_what_is_missing_is_said(tmp_path):
    p = subprocess.run([sys.executable, ROOT / "bench/serve.py", "--model", tmp_path / "none.gguf"], capture_output=True, text=True,
                       check=False)
    assert p.returncode == 2 and "none.gguf is not there" in p.stderr
