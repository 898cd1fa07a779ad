"""minke train preview: samples with what is learned of them, statistics, and errors that say where."""
import json
import os
import pty
import subprocess

import pytest

from conftest import MINKE, ROOT
from test_usage import one_line_error

def ok(p):
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


def lines(tmp_path, *objects, name="train.jsonl"):
    path = tmp_path / name
    path.write_text("".join(o + "\n" if isinstance(o, str) else json.dumps(o) + "\n" for o in objects), encoding="utf-8")
    return path


def talk(*texts):
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]}


MODEL = ("-m", "tests/golden/models/llama")  # its template is ChatML


def test_learned_tokens_stand_in_brackets(minke, tmp_path):
    out = ok(minke("train", "preview", *MODEL, lines(tmp_path, talk("Hi", "Hello!", "Bye", "See you."))))
    assert ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Hello!<|im_end|>]]\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n[[See you.<|im_end|>]]\n") in out
    assert "1 line of kind chat, 1 sample\n" in out
    out = ok(minke("train", "preview", *MODEL, "--mask", "last", lines(tmp_path, talk("Hi", "Hello!", "Bye", "See you."))))
    assert out.count("[[") == 1 and "[[See you.<|im_end|>]]" in out
    out = ok(minke("train", "preview", *MODEL, "--mask", "all", lines(tmp_path, talk("Hi", "Hello!"))))
    assert out.count("[[") == 1 and "<|im_start|>[[user\nHi" in out


def test_labels_are_shown(minke, tmp_path):
    data = lines(tmp_path, {"prompt": "Hi", "completion": "Hello!", "label": True}, {"prompt": "Hi", "completion": "Go away", "label": False})
    out = ok(minke("train", "preview", *MODEL, data))
    assert "learned, good\n" in out and "learned, bad\n" in out and "2 lines of kind label, 2 samples\n" in out
    assert out.count("[[") == 2 and "assistant\n[[Go away<|im_end|>]]\n" in out
    samples = json.loads(ok(minke("train", "preview", *MODEL, "--kind", "label", "--json", data)))["samples"]
    assert [s["label"] for s in samples] == [True, False]


def on_terminal(*args, env=None):
    main, sub = pty.openpty()
    p = subprocess.Popen([MINKE, *map(str, args)], stdin=subprocess.DEVNULL, stdout=sub, stderr=sub, cwd=ROOT,
                         env={**os.environ, **(env or {})})
    os.close(sub)
    out = b""
    try:
        while part := os.read(main, 65536):
            out += part
    except OSError:
        pass  # the other end is closed
    os.close(main)
    assert p.wait() == 0
    return out.decode().replace("\r\n", "\n")


def test_colour_on_a_terminal(tmp_path):
    data = lines(tmp_path, talk("Hi", "Gr\u00fc\u00dfe \x1b[31mred"))
    out = on_terminal("train", "preview", *MODEL, data, env={"NO_COLOR": ""})
    assert "assistant\n\x1b[32mGr\u00fc\u00dfe ?[31mred<|im_end|>\x1b[0m\n" in out  # the data cannot drive the terminal
    out = on_terminal("train", "preview", *MODEL, data, env={"NO_COLOR": "1"})
    assert "\x1b" not in out and "[[Gr\u00fc\u00dfe" in out


def test_json(minke, tmp_path):
    data = lines(tmp_path, {"prompt": "2+2?", "completion": "4", "weight": 0.5}, {"instruction": "a", "output": "b"}, talk("a", "b"))
    o = json.loads(ok(minke("train", "preview", *MODEL, "--json", "-n", "2", "--first", "2", data)))
    assert len(o["samples"]) == 2 and o["data"]["samples"] == o["data"]["lines"] == 3 and o["data"]["kind"] == "chat"
    s = o["samples"][0]
    assert s["line"] == 2 and s["file"] == str(data) and s["weight"] == 1
    assert len(s["sample"]["ids"]) == len(s["sample"]["mask"]) == len(s["sample"]["tokens"])
    learned = "".join(t for t, m in zip(s["sample"]["tokens"], s["sample"]["mask"]) if m)
    assert learned == "b<|im_end|>" and s["n_prompt"] == s["sample"]["mask"].index(1)
    assert o["samples"][1]["sample"] == s["sample"]  # the same said in another form
    first = json.loads(ok(minke("train", "preview", *MODEL, "--json", data)))
    assert first["samples"][0]["weight"] == 0.5
    assert first["data"]["hash"] == o["data"]["hash"] and len(o["data"]["hash"]) == 16


def test_pairs_and_rl(minke, tmp_path):
    data = lines(tmp_path, {"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    out = ok(minke("train", "preview", *MODEL, data))
    assert ", chosen: " in out and ", rejected: " in out and "[[4<|im_end|>]]" in out and "[[5<|im_end|>]]" in out
    data = lines(tmp_path, {"prompt": "2+2?", "answer": "4", "checker": "numeric"})
    out = ok(minke("train", "preview", *MODEL, data))
    assert "assistant\n\n--- for the checker: " in out and "[[" not in out and '"checker":"numeric"' in out
    o = json.loads(ok(minke("train", "preview", *MODEL, "--json", "--kind", "rl", data)))
    assert o["samples"][0]["data"] == {"prompt": "2+2?", "answer": "4", "checker": "numeric"}


def test_built_in_model(minke, tmp_path):
    data = lines(tmp_path, {"prompt": "7*8=", "completion": "56."})
    out = ok(minke("train", "preview", "--raw", data))
    assert "7*8=[[56." in out
    text = tmp_path / "a.txt"
    text.write_text("one two three " * 200, encoding="utf-8")
    o = json.loads(ok(minke("train", "preview", "--raw", "--json", "--max-len", "100", text)))
    n = o["data"]["learned"]
    assert o["data"]["kind"] == "text" and o["data"]["length_max"] == 100 and o["data"]["samples"] == -(-n // 99)
    o = json.loads(ok(minke("train", "preview", "--json", "--separator", " three ", text)))
    assert o["data"]["lines"] == 200


def test_too_long(minke, tmp_path):
    data = lines(tmp_path, talk("Hi", "word " * 50), talk("a", "b"))
    out = ok(minke("train", "preview", *MODEL, "--max-len", "40", data))
    assert "1 samples lost " in out and "longest 40" in out
    out = ok(minke("train", "preview", *MODEL, "--max-len", "40", "--long", "drop", data))
    assert "dropped    1 samples" in out and "chat, 1 sample\n" in out


def test_errors_say_where(minke, tmp_path):
    data = lines(tmp_path, talk("a", "b"), '{"prompt": "a", "completon": "b"}')
    one_line_error(minke("train", "preview", data), 5, "train.jsonl line 2", '"completon"', 'did you mean "completion"')
    out = ok(minke("train", "preview", *MODEL, "--skip-bad", data))
    assert "skipped    1 bad lines; the first: " in out and "line 2" in out
    one_line_error(minke("train", "preview", lines(tmp_path, '{"text": ', name="cut.jsonl")), 5, "cut.jsonl line 1: column 9: not valid JSON")
    one_line_error(minke("train", "preview", tmp_path / "none.jsonl"), 2, "none.jsonl")
    one_line_error(minke("train", "preview"), 1, "at least one FILE")
    one_line_error(minke("train", "preview", "--kind", "pair", data), 5, "line 1", "kind pair")
    one_line_error(minke("train", "preview", "--mask", "some", data), 1, "--mask", "completion")
    one_line_error(minke("train", "preview", "--raw", data), 1, "line 1", "--raw")
    extra = lines(tmp_path, {**talk("a", "b"), "source": "web"}, name="extra.jsonl")
    one_line_error(minke("train", "preview", *MODEL, extra), 5, '"source"', "--allow-unknown")
    ok(minke("train", "preview", *MODEL, "--allow-unknown", extra))


def test_methods(minke):
    one_line_error(minke("train"), 1, "expected a method")
    one_line_error(minke("train", "prevew"), 1, "did you mean 'preview'?")
    assert "preview" in ok(minke("train", "--help"))
    assert ok(minke("train", "preview", "--help")).startswith("Usage: minke train preview")


@pytest.mark.parametrize("name,n_sample", [("gsm8k/train.jsonl", 7473)])
def test_a_real_file(minke, shared, tmp_path, name, n_sample):
    data = tmp_path / "gsm8k.jsonl"
    with open(shared / name, encoding="utf-8") as f, open(data, "w", encoding="utf-8") as g:
        for row in map(json.loads, f):
            g.write(json.dumps({"prompt": row["question"], "completion": row["answer"]}) + "\n")
    o = json.loads(ok(minke("train", "preview", *MODEL, "--json", "-n", "0", "--max-len", "4096", data)))
    assert o["data"]["samples"] == n_sample and o["data"]["cut"] == 0 and o["data"]["learned"] > 1e6
