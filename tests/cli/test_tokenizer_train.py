"""minke tokenizer train: the folder it writes, the built-in model's tokenizer, usage errors."""
import json
import re
import subprocess

import pytest

from conftest import MINKE, ROOT

THIMBLE = ROOT / "models" / "thimble"
PUZZLES = MINKE.parent / "thimble_puzzles"


def read(folder, name="tokenizer.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def ids(minke, folder, text, *args):
    p = minke("tokenize", "-m", folder, "--ids", *args, stdin=text)
    assert p.returncode == 0, p.stderr
    return [int(x) for x in p.stdout.split()]


def test_bpe_from_files(minke, tmp_path, golden):
    corpus = golden / "tokenizer_train"
    out = tmp_path / "tok"
    args = ["tokenizer", "train", "bpe", "--vocab", 600, "--special", "<|end|>", "--special", "<|pad|>", "--eos", "<|end|>",
            "--pad", "<|pad|>", "--piece", "<think>", "-o", out, corpus / "corpus.txt", corpus / "corpus.jsonl"]
    p = minke(*args)
    assert p.returncode == 0 and p.stdout == "" and "600 tokens, 341 merges" in p.stderr, p.stderr
    made = read(out)
    assert len(made["model"]["vocab"]) == 597 and len(made["model"]["merges"]) == 341
    assert [(a["content"], a["id"], a["special"]) for a in made["added_tokens"]] == [
        ("<think>", 597, False), ("<|end|>", 598, True), ("<|pad|>", 599, True)]
    config = read(out, "tokenizer_config.json")
    assert (config["eos_token"], config["pad_token"], config.get("bos_token")) == ("<|end|>", "<|pad|>", None)
    assert not (out / "chat_template.jinja").exists()

    text = "Hello, world! <think>The quick brown fox<|end|>"
    shown = minke("tokenize", "-m", out, "--special", "--json", stdin=text)
    assert "".join(json.loads(shown.stdout)["tokens"]) == text
    assert ids(minke, out, text, "--special")[-1] == 598 and 598 not in ids(minke, out, text)

    first = (out / "tokenizer.json").read_bytes()
    assert minke(*args, "--quiet").stderr == ""
    assert (out / "tokenizer.json").read_bytes() == first


def test_digits_and_min_count(minke, tmp_path):
    text = tmp_path / "numbers.txt"
    text.write_text("1234 1234 1234 rare rare common common common\n")
    for digits, longest in (([], 3), (["--digits"], 1)):
        out = tmp_path / f"tok{len(digits)}"
        assert minke("tokenizer", "train", "bpe", "--min-count", 3, *digits, "-o", out, text).returncode == 0
        vocab = read(out)["model"]["vocab"]
        assert max(len(t) for t in vocab if t.isdigit() and t.isascii()) == longest
        assert "Ġcommon" in vocab and "Ġrare" not in vocab


def test_thimble_is_what_its_script_makes(minke, tmp_path):
    out = tmp_path / "tokenizer"
    subprocess.run([THIMBLE / "make-tokenizer", MINKE, out], check=True, timeout=60)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (THIMBLE / "tokenizer" / name).read_bytes(), name


def test_thimble_pieces(minke):
    """A piece is a word with the space before it, <think>, </think>, or any other single character."""
    lines = subprocess.run([PUZZLES, "--n", "400", "--seed", "5"], capture_output=True, text=True, check=True, timeout=60)
    rows = [json.loads(line) for line in lines.stdout.splitlines()]
    text = "".join(r["prompt"] + "\n" + r["completion"] + "\n" for r in rows)
    want = re.findall(r"</?think>| ?[A-Za-z]+|.", text, re.S)
    p = minke("tokenize", "-m", THIMBLE / "tokenizer", "--json", stdin=text)
    got = json.loads(p.stdout)
    assert got["tokens"] == want
    assert max(got["ids"]) == 295 and {256 + i for i in range(38)} <= set(got["ids"])


def test_thimble_keeps_any_text(minke):
    text = "naïve 你好 🚀 <|user|> fromage\tWhatever 1234567"
    shown = minke("tokenize", "-m", THIMBLE / "tokenizer", "--json", stdin=text)
    got = json.loads(shown.stdout)["ids"]
    assert max(got) < 256 and len(got) == len(text.encode())
    back = minke("tokenize", "-m", THIMBLE / "tokenizer", "--decode", ",".join(map(str, got)))
    assert back.stdout == text + "\n"


def test_words_with_spaces_and_line_ends(minke, tmp_path):
    (tmp_path / "w.txt").write_bytes(b"one\r\n two\n\nthree")
    out = tmp_path / "tok"
    args = ["tokenizer", "train", "words", "--words", tmp_path / "w.txt", "--word", " four", "-o", out]
    assert minke(*args).returncode == 0
    assert ids(minke, out, "one two three four") == [256, 257, 32, 116, 104, 114, 101, 101, 259]
    assert minke("tokenizer", "train", "byte", "-o", tmp_path / "byte").returncode == 0
    assert ids(minke, tmp_path / "byte", "one two") == list(b"one two")


@pytest.mark.parametrize("args, says", [
    ([], "expected: minke tokenizer train byte|words|bpe"),
    (["train"], "expected: minke tokenizer train byte|words|bpe, got 'train'"),
    (["train", "bpf", "-o", "x"], "got 'train bpf'"),
    (["train", "byte"], "-o DIR"),
    (["train", "bpe", "-o", "x"], "bpe: expected files to learn from"),
    (["train", "byte", "-o", "x", "file.txt"], "byte: expected no files, got 'file.txt'"),
    (["train", "words", "-o", "x"], "words: expected --words FILE"),
    (["train", "byte", "--word", "a", "-o", "x"], "byte: expected no words"),
    (["train", "words", "--word", "two words", "-o", "x"], "'two words'"),
    (["train", "byte", "--eos", "<e>", "-o", "x"], "eos '<e>': expected one of the special tokens"),
    (["train", "byte", "--split", "gpt5", "-o", "x"], "llama3"),
])
def test_usage(minke, args, says):
    p = minke("tokenizer", *args)
    assert p.returncode == 1 and says in p.stderr and p.stdout == "", (p.returncode, p.stderr)


def test_missing_files(minke, tmp_path):
    assert minke("tokenizer", "train", "bpe", "-o", tmp_path / "x", tmp_path / "no.txt").returncode == 2
    p = minke("tokenizer", "train", "byte", "-o", tmp_path / "no" / "x")
    assert p.returncode == 2 and "cannot make this folder" in p.stderr
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text":"a"}\n{"text":\n')
    p = minke("tokenizer", "train", "bpe", "-o", tmp_path / "x", bad)
    assert p.returncode == 5 and "bad.jsonl: line 2" in p.stderr
    assert not (tmp_path / "x").exists()
