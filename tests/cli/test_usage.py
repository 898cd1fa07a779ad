"""The first five minutes: help, versions, misspelt words, wrong flags, missing models, and what they answer."""
import pytest

from conftest import ROOT

VERBS = ["run", "chat", "show", "tokenize", "perplexity", "logits", "convert", "merge", "train", "cache", "bench"]


def one_line_error(p, code, *words):
    """Exit code, nothing on stdout, and one line on stderr that holds all the words."""
    assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
    assert p.stdout == ""
    assert p.stderr.startswith("minke: ") and p.stderr.count("\n") == 1, p.stderr
    for w in words:
        assert w in p.stderr, (w, p.stderr)


def test_alone_in_a_pipe_is_help(minke):
    p = minke()
    assert p.returncode == 0 and p.stderr == ""
    assert all(v in p.stdout for v in VERBS)


@pytest.mark.parametrize("args", [["help"], ["--help"], ["-h"]])
def test_overview(minke, args):
    p = minke(*args)
    assert p.returncode == 0 and "Exit codes" in p.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_both_ways(minke, verb):
    a, b = minke("help", verb), minke(verb, "--help")
    assert a.returncode == b.returncode == 0
    assert a.stdout == b.stdout and a.stdout.startswith(f"Usage: minke {verb}")
    assert max(len(line) for line in a.stdout.splitlines()) <= 80


def test_version(minke):
    p = minke("--version")
    assert p.returncode == 0 and p.stdout.startswith("minke 0.")


def test_misspelt_verb(minke):
    one_line_error(minke("rnu"), 1, "unknown verb 'rnu'", "did you mean 'run'?")
    one_line_error(minke("help", "perplexty"), 1, "did you mean 'perplexity'?")
    one_line_error(minke("--temp", "1"), 1, "expected a verb")


@pytest.mark.parametrize("args,words", [
    (["run", "--tmep", "1", "x"], ["--tmep", "--temp"]),
    (["run", "--temp", "hot", "x"], ["--temp", "hot"]),
    (["run", "--top-p", "1.5", "x"], ["--top-p", "1.5", "0 and 1"]),
    (["run", "--threads", "0", "x"], ["--threads", "between 1 and"]),
    (["run", "--think", "hard", "x"], ["--think", "hard", "medium"]),
    (["run", "--isa", "sse9", "x"], ["sse9", "scalar"]),
    (["run", "--kv-type", "q9", "x"], ["--kv-type", "q9", "q8"]),
    (["run", "--logprobs", "3", "x"], ["--logprobs", "--json"]),
    (["run", "--logit-bias", "x=1", "a"], ["--logit-bias", "ID=NUMBER", "x=1"]),
    (["run", "--logit-bias", "9999=1", "a"], ["9999", "0 to 303"]),
    (["run"], ["no prompt"]),
    (["logits", "--ids", "1,2"], ["-o"]),
    (["logits", "--ids", "1,b", "-o", "/dev/null"], ["--ids", "'b'"]),
    (["logits", "--ids", "1,900", "-o", "/dev/null"], ["900", "0 to 303"]),
    (["perplexity"], ["-f FILE"]),
    (["convert"], ["-o FILE.gguf"]),
    (["merge", "-o", "x.gguf"], ["--adapter PATH"]),
    (["merge", "--adapter", "x"], ["-o FILE.gguf"]),
    (["convert", "-o", "/dev/null", "--type", "q9"], ["--type", "q9", "q8_0"]),
    (["tokenize", "--decode", "1,99999"], ["99999", "0 to 303"]),
])
def test_wrong_flags(minke, args, words):
    one_line_error(minke(*args), 1, *words)


def test_missing_model(minke):
    one_line_error(minke("run", "-m", "thimbel", "x"), 2, "'thimbel' not found", "did you mean 'thimble'")
    one_line_error(minke("show", "nothing-like-it"), 2, "models here", "thimble")
    one_line_error(minke("show", "/no/such/file.gguf"), 2, "/no/such/file.gguf")
    one_line_error(minke("perplexity", "-f", "/no/such/text"), 2, "/no/such/text")


def test_names_and_paths_are_the_same_model(minke):
    names = ("thimble", "models/thimble", "models/thimble/thimble.gguf", str(ROOT / "models/thimble") + "/")
    all_ = [minke("run", "-m", m, "What is 12*13?") for m in names]
    assert all(p.returncode == 0 and p.stdout == all_[0].stdout != "\n" for p in all_)


def test_a_folder_with_one_gguf_file_is_that_file(minke, golden, tmp_path):
    """Whatever else is there: the sources of a recipe and its config.json make no Hugging Face folder of it."""
    for name in ("a.gguf", "config.json", "README.md"):
        (tmp_path / name).write_bytes((golden / "gguf/llama-f32.gguf").read_bytes() if name == "a.gguf" else b"{}")
    p = minke("show", tmp_path)
    assert p.returncode == 0 and f"{tmp_path}/a.gguf" in p.stdout
    (tmp_path / "b.gguf").write_bytes(b"")
    one_line_error(minke("show", tmp_path), 1, str(tmp_path), "2 .gguf files", "give one of them")
    assert minke("show", tmp_path / "a.gguf").returncode == 0
    parts = tmp_path / "parts"
    parts.mkdir()
    for f in (golden / "gguf").glob("yi-f32-0000?-of-00002.gguf"):
        (parts / f.name).write_bytes(f.read_bytes())
    p = minke("show", parts)
    assert p.returncode == 0 and "00001-of-00002.gguf" in p.stdout


def test_safetensors_make_a_hugging_face_folder(minke, golden, tmp_path):
    for f in (golden / "models/llama").iterdir():
        (tmp_path / f.name).write_bytes(f.read_bytes())
    (tmp_path / "a.gguf").write_bytes(b"not even read")
    p = minke("show", tmp_path)
    assert p.returncode == 0 and "safetensors" in p.stdout


def test_does_not_fit(minke, golden):
    p = minke("run", "-m", golden / "models/llama", "--ctx", 1 << 30, "x")
    one_line_error(p, 3, "weights", "cache", "available")


def test_context_overflow_gives_both_numbers(minke):
    one_line_error(minke("run", "--ctx", "64", "word " * 40), 6, "202", "64", "--ctx")


def test_a_folder_that_is_no_model(minke, tmp_path):
    one_line_error(minke("show", tmp_path), 2, "config.json")


def test_pickle_and_lone_safetensors(minke, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\x80\x02}q")
    one_line_error(minke("show", tmp_path / "model.bin"), 5, "pickle", "GGUF")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 16)
    one_line_error(minke("show", tmp_path / "model.safetensors"), 1, "folder")
