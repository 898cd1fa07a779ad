"""minke bench: what it measures, what it counts, how it runs another program in between, and its pictures."""
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from conftest import MINKE, ROOT
from ggufread import read_gguf

QUICK = ("-p", "32", "-n", "4", "-r", "1")


def ok(p):
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


def as_json(p):
    return json.loads(ok(p))


def key(t):
    return t["test"], t["tokens"], t["depth"], t["threads"]


# --- what is measured ------------------------------------------------------------------------------------------------


def test_default_is_one_prompt_and_one_generation(minke):
    o = as_json(minke("bench", "--json", "-t", "2"))
    assert [key(t) for t in o["tests"]] == [("prompt", 256, 0, 2), ("generation", 64, 0, 2)]
    for t in o["tests"]:
        s = t["tokens_per_second"]
        assert len(s["samples"]) == o["repetitions"] == 3
        assert s["median"] == pytest.approx(statistics.median(s["samples"]))
        assert (s["min"], s["max"]) == (min(s["samples"]), max(s["samples"])) and s["min"] > 0
        # 3: speed and limits are measured one after the other, and a busy machine halves either
        assert 0 < s["median"] / t["limit_tokens_per_second"] < 3
        assert t["bound"] in ("bandwidth", "int8", "bf16", "f32") and "profile" not in t


def test_sweep_is_every_kind_at_every_depth_with_every_number_of_threads(minke):
    o = as_json(minke("bench", "--json", "-p", "8,16", "-n", "2", "-b", "1,3", "-d", "0,5", "-t", "1,2", "-r", "1"))
    kinds = [("prompt", 8), ("prompt", 16), ("generation", 2), ("draft", 1), ("draft", 3), ("sequences", 3)]
    assert [key(t) for t in o["tests"]] == [(*k, d, t) for t in (1, 2) for d in (0, 5) for k in kinds]
    assert [(g["threads"], g["depth"]) for g in o["limits"]] == [(1, 0), (1, 5), (2, 0), (2, 5)]
    ratio = {key(t)[:2]: t.get("ratio_to_one_token") for t in o["tests"]}
    assert ratio["draft", 3] > 0 and ratio["sequences", 3] > 0 and ratio["draft", 1] is None


def test_limits_are_measured_before_between_and_after(minke):
    o = as_json(minke("bench", "--json", "-p", "8", "-n", "0", "-r", "3"))
    for name in ("read_bytes_per_second", "model_bytes_per_second", "f32_ops_per_second", "bf16_ops_per_second",
                 "int8_ops_per_second", "kernel_ops_per_second"):
        s = o["limits"][0][name]
        assert len(s["samples"]) == 4 and min(s["samples"]) > 0, name
        assert s["median"] == pytest.approx(statistics.median(s["samples"]))


def test_handover_needs_two_threads(minke):
    o = as_json(minke("bench", "--json", "-p", "8", "-n", "0", "-r", "1", "-t", "1,2"))
    one, two = (g["handover_seconds"]["samples"] for g in o["limits"])
    assert one == [0, 0] and len(two) == 2 and min(two) > 0


def test_text(minke):
    text = ok(minke("bench", *QUICK, "-b", "2", "-d", "3", "--profile"))
    for row in ("prompt 32", "generation 4", "draft 2", "sequences 2", "limits, measured in between"):
        assert row in text
    assert len(re.findall(r"^profile of ", text, re.M)) == 4 and text.count("(rest)") == 4
    assert re.search(r"draft 2 .* x one token$", text, re.M)


@pytest.mark.parametrize("args,says", [
    (("-p", "1,x"), "--prompt"), (("-p", ""), "--prompt"), (("-p", "1,,2"), "--prompt"), (("-d", "-1"), "--depth"),
    (("-t", "0"), "--threads"), (("-b", "513"), "--batch"), (("-b", "9", "--chunk", "8"), "--batch"),
    (("-p", ",".join("1" * 33)), "at most 32"), (("-p", "0", "-n", "0"), "nothing to measure"),
    (("--chart", "x.png"), ".svg"), (("--roofline", "svg"), ".svg"), (("-r", "0"), "-r"),
    (("--compare", ""), "command"), (("--compare", "a 'b"), "quote"), (("--compare", "a {x}"), "{x}"),
])
def test_usage(minke, args, says):
    p = minke("bench", *args)
    assert p.returncode == 1 and says in p.stderr and p.stdout == "", p.stderr


def test_window(minke):
    p = minke("bench", "-p", "64", "-n", "0", "-d", "64", "--ctx", "100")
    assert p.returncode == 6 and "128" in p.stderr and "100" in p.stderr


# --- what is counted -------------------------------------------------------------------------------------------------


def test_costs_of_a_dense_model(minke, golden):
    """Against the tensors of the file, read by another reader: all but the token table, once per pass; two operations per
    element of a matrix and token, the output matrix not for a prompt."""
    path = golden / "gguf/llama-q8_0.gguf"
    _, tensors = read_gguf(path)
    o = as_json(minke("bench", "-m", path, "--json", "-p", "20", "-n", "3", "-b", "4", "-d", "6", "-r", "1", "--chunk", "8"))
    t = {x["test"]: x for x in o["tests"]}
    used = {n: x for n, x in tensors.items() if n not in ("token_embd.weight", "rope_freqs.weight")}
    size = sum(len(x[2]) for x in used.values())

    def n_op(names):
        out = {"f32": 0, "bf16": 0, "int8": 0}
        for n in names:
            kind, shape = used[n][0], used[n][1]
            if len(shape) == 2:
                out["int8" if kind == 8 else "f32"] += 2 * shape[0] * shape[1]
        return out

    layers, output = n_op(n for n in used if n.startswith("blk.")), n_op(["output.weight"])
    want = {"prompt": (20, 0, 3), "generation": (3, 3, 3), "draft": (32, 8, 8), "sequences": (32, 32, 8)}
    for test, (n_tok, n_out, n_pass) in want.items():
        assert t[test]["operations"] == {k: n_tok * layers[k] + n_out * output[k] for k in layers}, test
        assert t[test]["bytes"]["weights"] == n_pass * size, test
    per_token = t["generation"]["bytes"]["cache"] / (7 + 8 + 9)
    assert per_token == int(per_token) > 0
    assert t["prompt"]["bytes"]["cache"] == per_token * ((6 + 8) + (6 + 16) + (6 + 20))
    assert t["draft"]["bytes"]["cache"] == per_token * 8 * 10 and t["sequences"]["bytes"]["cache"] == per_token * 8 * 4 * 7


def test_fractions_follow_from_counts_and_limits(minke):
    o = as_json(minke("bench", "--json", "-p", "64", "-n", "8", "-r", "3"))
    limit = {k: v["median"] for k, v in o["limits"][0].items() if isinstance(v, dict)}
    for t, n_tok in zip(o["tests"], (64, 8)):
        seconds = n_tok / t["tokens_per_second"]["median"]
        compute = sum(n / limit[f"{k}_ops_per_second"] for k, n in t["operations"].items())
        read = t["bytes"]["weights"] / limit["model_bytes_per_second"]
        cache = t["bytes"]["cache"] / limit["model_bytes_per_second"]
        f = t["fraction"]
        assert f["compute"] == pytest.approx(compute / seconds) and f["read"] == pytest.approx(read / seconds)
        assert f["read_with_cache"] == pytest.approx((read + cache) / seconds)
        rate = {k: limit["kernel_ops_per_second" if k == "int8" else f"{k}_ops_per_second"] for k in t["operations"]}
        assert o["limits"][0]["kernel_type"] == "Q8_0"
        assert f["kernel"] == pytest.approx(sum(n / rate[k] for k, n in t["operations"].items()) / seconds)
        assert t["limit_tokens_per_second"] == pytest.approx(n_tok / max(compute, read + cache))
        assert (t["bound"] == "bandwidth") == (read + cache > compute)


@pytest.mark.parametrize("file,kernel", [("llama-q8_0", "Q8_0"), ("llama-f32", "F32")])
def test_kernel_of_the_main_type_of_weights(minke, golden, file, kernel):
    o = as_json(minke("bench", "-m", golden / f"gguf/{file}.gguf", "--json", *QUICK))
    limit = o["limits"][0]
    assert limit["kernel_type"] == kernel and limit["kernel_ops_per_second"]["min"] > 0


def test_profile(minke, thimble):
    c = thimble["config"]
    o = as_json(minke("bench", "--json", "-p", "40", "-n", "4", "-r", "1", "--profile"))
    for t, n_pass in zip(o["tests"], (1, 4)):
        p = t["profile"]
        op = {x["operator"]: x for x in p["operators"]}
        assert {"embed", "rmsnorm", "linear", "moe", "attention"} <= set(op)
        assert op["embed"]["calls"] == n_pass and op["attention"]["calls"] == c["layers"] * n_pass
        assert sum(x["ms"] for x in p["operators"]) + p["rest_ms"] == pytest.approx(p["ms"]) and p["rest_ms"] >= 0
        # what the operators counted as they ran is what the tables of the model say, the output matrix of one row aside
        done = sum(sum(op[k]["operations"].values()) for k in ("linear", "linear_heads", "moe"))
        extra = 2 * 304 * c["width"] if t["test"] == "prompt" else 0
        assert done == sum(t["operations"].values()) + extra
        assert op["linear"]["bytes"] > 0 and op["attention"]["operations"]["f32"] > 0


# --- comparison ------------------------------------------------------------------------------------------------------

PEER = '''
import json, sys
p, n, d = (int(x) for x in sys.argv[1:4])
form = sys.argv[4]
with open(sys.argv[5], "a") as f:
    f.write(f"{p} {n} {d} {sys.argv[6:]}\\n")
print("loading", file=sys.stderr)
row = {"model_filename": "m", "n_prompt": p, "n_gen": n, "n_depth": d, "avg_ts": 8.0, "stddev_ts": 0.0}
label = (f"pp{p}" if p else f"tg{n}") + (f" @ d{d}" if d else "")
if form == "json":
    print(json.dumps([row | {"samples_ts": [4.0, 16.0]}], indent=2))
elif form == "jsonl":
    print(json.dumps(row))
elif form == "csv":
    print(",".join(row))
    print(",".join(f'"{v}"' for v in row.values()))
elif form == "md":
    print("| model | t/s | test |\\n| --- | ---: | ---: |")
    print(f"| a 1B | 8.00 \\u00b1 0.25 | {label} |\\n\\nbuild: abc (1)")
elif form == "fork":
    r = {"n_prompt": p or d, "n_gen": n, "test": f"pp{p}" if p else f"tg{n}@pp{d}", "avg_ts": 8.0, "samples_ts": [8.0]}
    print(json.dumps([r]))
'''


@pytest.fixture
def peer(tmp_path):
    """peer(form, *rest) -> (command for --compare, function that lists its calls)"""
    script, log = tmp_path / "a peer.py", tmp_path / "log"
    script.write_text(PEER)

    def make(form, *rest):
        return (" ".join([sys.executable, f"'{script}'", "{p} {n} {d}", form, str(log), *rest]),
                lambda: log.read_text().splitlines() if log.exists() else [])

    return make


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "md"])
def test_compare_in_turn(minke, peer, form):
    cmd, calls = peer(form)
    o = as_json(minke("bench", "--json", "-p", "16", "-n", "2", "-b", "2", "-d", "0,4", "-r", "2", "--compare", cmd))
    turn = ["16 0 0 []", "0 2 0 []", "2 0 0 []"]
    assert calls() == turn * 2 + [t.replace(" 0 []", " 4 []") for t in turn] * 2
    assert o["peers"] == [{"peer": "peer 1", "command": cmd}]
    for t in o["tests"]:
        if t["test"] == "sequences":
            assert t["peers"] == []
            continue
        (p,) = t["peers"]
        ours, theirs = t["tokens_per_second"]["median"], [4.0, 16.0] * 2 if form == "json" else [8.0] * 2
        assert p["tokens_per_second"]["samples"] == theirs
        assert p["ratio"] == pytest.approx(ours / statistics.median(theirs))
        assert p["ratio_to_best"] == pytest.approx(ours / max(theirs))


def test_compare_with_a_fork(minke, peer):
    """It has no depth, but generation behind a prompt: {"n_prompt": 4, "n_gen": 2, "test": "tg2@pp4"}."""
    cmd, calls = peer("fork")
    o = as_json(minke("bench", "--json", "-p", "0", "-n", "2", "-d", "0,4", "-r", "2", "--compare", cmd))
    assert calls() == ["0 2 0 []"] * 2 + ["0 2 4 []"] * 2
    assert [t["peers"][0]["tokens_per_second"]["samples"] for t in o["tests"]] == [[8.0] * 2] * 2


def test_compare_only_what_the_command_names(minke, peer):
    a, calls = peer("json")
    only_prompt, no_depth = a.replace("{n}", "0"), a.replace("{d}", "0")
    o = as_json(minke("bench", "--json", *QUICK, "-d", "0,2", "--compare", "one=" + only_prompt, "--compare", "two=" + no_depth))
    got = {key(t)[:3]: [p["peer"] for p in t["peers"]] for t in o["tests"]}
    assert got == {("prompt", 32, 0): ["one", "two"], ("generation", 4, 0): ["two"],
                   ("prompt", 32, 2): ["one"], ("generation", 4, 2): []}
    assert len(calls()) == 4
    assert o["peers"] == [{"peer": "one", "command": only_prompt}, {"peer": "two", "command": no_depth}]


def test_compare_words(minke, peer):
    """Split as a shell splits, the names filled in afterwards, nothing else interpreted."""
    cmd, calls = peer("json", r"""{t} 'a b' "c \"d\" 'e'" f\ g '' $HOME *.c -x={model}""")
    ok(minke("bench", "-p", "8", "-n", "0", "-r", "1", "-t", "1", "--compare", cmd))
    model = calls()[0].split("-x=")[1].rstrip("]'")
    assert calls() == ["8 0 0 " + str(["1", "a b", "c \"d\" 'e'", "f g", "", "$HOME", "*.c", "-x=" + model])]
    assert model.endswith("models/thimble/thimble.gguf") and os.path.isfile(model)


def test_compare_text(minke, peer):
    text = ok(minke("bench", "-p", "8", "-n", "0", "-r", "1", "--compare", "other=" + peer("json")[0]))
    assert re.search(r"^ +other +10\.00 +4\.00 \.\. 16\.00 +we are [0-9.]+ x it, [0-9.]+ x its best$", text, re.M)


def failing(minke, cmd, *more):
    p = minke("bench", "-p", "8", "-n", "0", "-r", "1", "--compare", cmd, *more)
    assert p.stdout == ""
    return p.returncode, p.stderr


@pytest.mark.parametrize("prints,says", [
    ("", "llama-bench"), ("hello\nworld", "llama-bench"), ("[1]", "object"), ("[{]", "JSON"), ("[]", "no rows"),
    ('[{"n_prompt": 9, "n_gen": 0, "avg_ts": 1}]', "(9, 0, 0)"), ('[{"n_prompt": 8, "n_gen": 0}]', "avg_ts"),
    ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": -1}]', "avg_ts"), ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": "fast"}]', "avg_ts"),
    ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": 1, "samples_ts": [1, 0]}]', "samples_ts[1]"), ('[{"avg_ts": 1}]', "n_prompt"),
    ('[{"test": "pp8x", "avg_ts": 1}]', "pp8x"), ("| test | t/s |\n| pp8 | fast |", "pp8"),
    ("n_prompt,n_gen,avg_ts\n8,0", "8,0"), ("n_prompt,n_gen,avg_ts\n8,0,1e999", "8,0"), ("| a | b |\n| 1 | 2 |", "llama-bench"),
    ("[" * 5000, "JSON"),
])
def test_compare_output_that_is_not_understood(minke, tmp_path, prints, says):
    (tmp_path / "out").write_text(prints)
    code, err = failing(minke, f"cat '{tmp_path / 'out'}'")
    assert code == 5 and says in err and "cat" in err, err


def test_compare_failures(minke):
    code, err = failing(minke, "/no/such/program {p}")
    assert code == 2 and "/no/such/program" in err
    code, err = failing(minke, "sh -c 'echo first >&2; echo the reason >&2; exit 3'")
    assert code == 5 and "exit code 3: the reason" in err
    code, err = failing(minke, "sh -c 'kill -9 $$'")
    assert code == 5 and "signal 9" in err
    code, err = failing(minke, "head -c 17000000 /dev/zero")
    assert code == 1 and "16 MB" in err


@pytest.mark.parametrize("cmd", ["sleep 60", "sh -c 'sleep 60 & wait'", "sh -c 'exec >&- 2>&-; sleep 60'",
                                 "sh -c 'sleep 60 & echo []'"])
def test_compare_timeout(minke, cmd):
    start = time.monotonic()
    code, err = failing(minke, cmd, "--compare-timeout", "0.5")
    assert code == 1 and "0.5 seconds" in err and time.monotonic() - start < 30


def test_compare_interrupted(tmp_path):
    """Ctrl-C while a peer runs ends both."""
    mark = tmp_path / "pid"
    p = subprocess.Popen([MINKE, "bench", "-p", "8", "-n", "0", "--compare", f"sh -c 'echo $$ > \"{mark}\"; sleep 60'"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    start = time.monotonic()
    while not (mark.exists() and mark.read_text().strip()) and time.monotonic() - start < 30:
        time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    assert p.wait(timeout=20) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


# --- pictures --------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def texts(root):
    return [t.text for t in root.iter(SVG + "text")]


def test_chart(minke, peer, tmp_path):
    svg, page, roof = tmp_path / "c.svg", tmp_path / "c.html", tmp_path / "r.svg"
    args = ("-p", "8,16,24", "-n", "2", "-b", "2", "-d", "0,4", "-r", "1", "--compare", "a.b=" + peer("json")[0])
    ok(minke("bench", *args, "--chart", svg, "--roofline", roof))
    root = ET.parse(svg).getroot()
    assert root.tag == SVG + "svg" and not list(root.iter(SVG + "script")) and not list(root.iter(SVG + "image"))
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", svg.read_text()) and "prefers-color-scheme" in svg.read_text()
    titles = [t.text for t in root.iter(SVG + "title")]
    for n in (8, 16, 24):
        assert sum(t.startswith(f"minke, prompt {n}: ") for t in titles) == 2, n  # one panel for each depth
        assert sum(t.startswith(f"a.b, prompt {n}: 10.00 tok/s (4.00 to 16.00)") for t in titles) == 2, n
    heads = [t for t in texts(root) if "tokens per second" in t]
    assert len(heads) == 5 and sum("depth 4" in h for h in heads) == 1  # prompt twice, the others along the depth
    limits = [e for e in root.iter() if e.get("class") == "lim"]
    assert len([e for e in limits if e.tag == SVG + "polyline"]) == 5
    r = ET.parse(roof).getroot()
    assert any("roofline" in t for t in texts(r)) and "prompt 24 @ 4" in texts(r) and len(list(r.iter(SVG + "polyline"))) == 0
    assert any("GB/s" in t for t in texts(r)) and any("int8" in t for t in texts(r)) and any("Q8_0 kernel" in t for t in texts(r))
    ok(minke("bench", *QUICK, "--chart", page))
    html = ET.fromstring(page.read_text().replace("<!doctype html>", ""))
    assert len(list(html.iter("tr"))) == 3 and len(list(html.iter(SVG + "svg"))) == 1


def test_chart_of_hostile_names(minke, golden, tmp_path):
    name = tmp_path / "a<b>&\"'\x07é\U0001f600.gguf"
    name.write_bytes((golden / "gguf/llama-q8_0.gguf").read_bytes())
    ok(minke("bench", "-m", name, *QUICK, "--chart", tmp_path / "c.html", "--json"))
    html = ET.fromstring((tmp_path / "c.html").read_text().replace("<!doctype html>", ""))
    assert any("a<b>&\"'\ufffdé\U0001f600.gguf" in (t.text or "") for t in html.iter(SVG + "text"))


def test_chart_that_cannot_be_written(minke, tmp_path):
    p = minke("bench", *QUICK, "--chart", tmp_path / "no" / "c.svg")
    assert p.returncode in (2, 5) and "c.svg" in p.stderr
