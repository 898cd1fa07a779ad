"""Distillation: what is kept, that killed and extended runs write the same bytes, and that sft learns what was written."""
import json
import random
import signal
import time

import pytest

from conftest import GOLDEN
from test_train import CONFIGS, pretrain, start

GROUP = 6
NUMBER = ["--reward", r"regex:pattern=-?\d+"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small model that answers everything with a number, after a moment of training, and prompts."""
    d, rng = tmp_path_factory.mktemp("data"), random.Random(3)
    for name, cfg in CONFIGS.items():
        (d / f"{name}.json").write_text(json.dumps(cfg))
    sums = [(rng.randrange(10), rng.randrange(10)) for _ in range(330)]
    (d / "sft.jsonl").write_text("".join(
        json.dumps({"prompt": f"{a}+{b}", "completion": str(a + b)}) + "\n" for a, b in sums[:300]))
    (d / "rl.jsonl").write_text("".join(
        json.dumps({"prompt": f"{a}+{b}", "answer": str(a + b), "checker": "exact", "id": f"s{i}"}) + "\n"
        for i, (a, b) in enumerate(sums[300:])))
    return d


@pytest.fixture(scope="module")
def teacher(data):
    p = start(pretrain(data, data / "teacher", "llama", 30, ["--lr", "1e-2"]))
    _, stderr = p.communicate(timeout=60)
    assert p.returncode == 0, stderr
    return data / "teacher" / "model"


def distill(data, teacher, out, *extra):
    return ["train", "distill", "-m", teacher, "-o", out, "--json", "--group", GROUP, "--max-tokens", 8, "--keep", GROUP,
            *extra, data / "rl.jsonl"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_prompt(lines):
    out = {}
    for x in lines:
        out.setdefault(x["id"], []).append(x["completion"])
    return out


@pytest.fixture(scope="module")
def numbers(data, teacher):
    """All the different numbers that the teacher said, and the summary."""
    p = start([*distill(data, teacher, data / "numbers.jsonl", *NUMBER)])
    _, stderr = p.communicate(timeout=60)
    assert p.returncode == 0, stderr
    return data / "numbers.jsonl"


def test_right_answers_are_kept_once(minke, data, teacher, numbers):
    lines = lines_of(numbers)
    prompts = {x["id"]: x["prompt"] for x in lines_of(data / "rl.jsonl")}
    assert len(lines) > 30
    for x in lines:
        assert list(x) == ["id", "prompt", "completion"] and x["prompt"] == prompts[x["id"]]
        assert x["completion"].lstrip("-").isdigit()
    for answers in by_prompt(lines).values():
        assert len(answers) == len(set(answers))
    order = [x["id"] for x in lines]
    assert order == sorted(order, key=lambda s: int(s[1:]))
    r = minke(*distill(data, teacher, numbers, *NUMBER))  # finished: shows the summary again
    assert r.returncode == 0, r.stderr
    s = json.loads(r.stdout)
    assert s["prompts"] == 30 and s["completions"] == 30 * GROUP and s["kept"] == len(lines)
    assert s["right"] == s["kept"] + s["equal"] and s["equal"] > 0 and s["right"] <= s["finished"]
    assert s["prompts_right"] == len(by_prompt(lines)) and s["pass_1"] == pytest.approx(s["right"] / s["completions"])


def test_the_checker_of_the_line_decides(minke, data, teacher, numbers, tmp_path):
    r = minke(*distill(data, teacher, tmp_path / "out.jsonl"))
    assert r.returncode == 0, r.stderr
    answers = {x["id"]: x["answer"] for x in lines_of(data / "rl.jsonl")}
    want = [x for x in lines_of(numbers) if x["completion"] == answers[x["id"]]]
    assert lines_of(tmp_path / "out.jsonl") == want
    # nothing reaches this threshold, and no prompt is lost from the count
    r = minke(*distill(data, teacher, tmp_path / "none.jsonl", "--threshold", 2))
    assert r.returncode == 0 and json.loads(r.stdout)["prompts"] == 30, r.stderr
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.parametrize("pick", ["first", "shortest", "random"])
def test_some_are_picked(minke, data, teacher, numbers, tmp_path, pick):
    r = minke(*distill(data, teacher, tmp_path / "out.jsonl", *NUMBER, "--keep", 1, "--pick", pick, "-t", 1,
                       "--parallel", 5))
    assert r.returncode == 0, r.stderr
    everything, got = by_prompt(lines_of(numbers)), by_prompt(lines_of(tmp_path / "out.jsonl"))
    assert got.keys() == everything.keys()
    for i, (answer,) in got.items():
        assert answer in everything[i]
        if pick == "first":
            assert answer == everything[i][0]
        if pick == "shortest":
            assert len(answer) == min(map(len, everything[i]))
    if pick == "random":
        assert any(answer != everything[i][0] for i, (answer,) in got.items())


def test_killed_runs_write_the_same_bytes(minke, data, teacher, numbers, tmp_path):
    out, rng = tmp_path / "out.jsonl", random.Random(7)
    args = [*distill(data, teacher, out, *NUMBER, "--parallel", 2, "-t", 1)]
    killed = 0
    for done in (2, 9, 17):
        p, deadline = start(args), time.monotonic() + 60
        while p.poll() is None and time.monotonic() < deadline:
            try:
                if json.loads((tmp_path / "out.jsonl.progress").read_text())["prompts"] >= done:
                    break
            except FileNotFoundError:
                time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        killed += p.poll() is None
        p.send_signal(signal.SIGKILL)
        p.communicate()
    assert killed > 0, "nothing was killed: it was too fast"
    assert minke(*args).returncode == 0
    assert out.read_bytes() == numbers.read_bytes()
    assert not (tmp_path / "out.jsonl.part").exists()


def test_more_prompts_are_appended(minke, data, teacher, numbers, tmp_path):
    out = tmp_path / "out.jsonl"
    for n in (7, 20, 0):
        r = minke(*distill(data, teacher, out, *NUMBER, "-n", n))
        assert r.returncode == 0, r.stderr
        assert json.loads(r.stdout)["prompts"] == (n or 30)
        assert numbers.read_bytes().startswith(out.read_bytes())
    assert out.read_bytes() == numbers.read_bytes()


def test_half_a_line_is_cut(minke, data, teacher, numbers, tmp_path):
    out = tmp_path / "out.jsonl"
    assert minke(*distill(data, teacher, out, *NUMBER, "-n", 12)).returncode == 0
    out.rename(tmp_path / "out.jsonl.part")
    with (tmp_path / "out.jsonl.part").open("a") as f:
        f.write('{"id": "s12", "pro')
    assert minke(*distill(data, teacher, out, *NUMBER)).returncode == 0
    assert out.read_bytes() == numbers.read_bytes()


def test_a_student_learns_them(minke, data, teacher, numbers, tmp_path):
    r = minke("train", "preview", "-m", teacher, "--json", numbers)
    assert r.returncode == 0, r.stderr
    r = minke("train", "sft", "-m", teacher, "-o", tmp_path / "run", "--steps", 2, "--batch-tokens", 512, numbers)
    assert r.returncode == 0, r.stderr


def test_reasoning_that_the_prompt_opens_is_written_whole(minke, data, tmp_path):
    """DeepSeek-R1's prompt ends in <think>: the completion lacks the tag, the written conversation must not."""
    words = GOLDEN / "train" / "r1"
    (tmp_path / "c.json").write_text(json.dumps(CONFIGS["llama"] | {"vocab_size": 1008, "eos_token_id": 1002}))
    (tmp_path / "sft.jsonl").write_text("".join(
        json.dumps({"prompt": f"{a}+{b}", "completion": f"<think>\nsum {a}\n</think>\n\n{a + b}"}) + "\n"
        for a in range(10) for b in range(10)))
    r = minke("train", "pretrain", "--config", tmp_path / "c.json", "--tokenizer", words, "-o", tmp_path / "run", "--steps",
              40, "--batch-tokens", 256, "--lr", "1e-2", tmp_path / "sft.jsonl")
    assert r.returncode == 0, r.stderr
    model, out = tmp_path / "run" / "model", tmp_path / "out.jsonl"
    r = minke("train", "distill", "-m", model, "-o", out, "--json", "--group", 2, "--max-tokens", 24, "--reward", "format",
              data / "rl.jsonl")
    assert r.returncode == 0, r.stderr
    lines = lines_of(out)
    assert lines
    for x in lines:
        assert x["completion"].startswith("<think>\n") and x["completion"].count("<think>") == 1
    r = minke("train", "preview", "-m", model, "-n", len(lines), out)
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("<think>\n[[") == r.stdout.count("<think>") == len(lines)


def test_a_prompt_may_hold_any_character(minke, data, teacher, tmp_path):
    (tmp_path / "rl.jsonl").write_text(json.dumps({"prompt": "1+1\0", "answer": "2", "checker": "exact"}) + "\n")
    r = minke("train", "distill", "-m", teacher, "-o", tmp_path / "out.jsonl", "--max-tokens", 8, "--group", 40, *NUMBER,
              tmp_path / "rl.jsonl")
    assert r.returncode == 0, r.stderr
    lines = lines_of(tmp_path / "out.jsonl")
    assert lines and all(x["prompt"] == "1+1\0" for x in lines)
    r = minke("train", "score", "-m", teacher, "--max-tokens", 8, tmp_path / "rl.jsonl")
    assert r.returncode == 0, r.stderr


def test_another_run_is_refused(minke, data, teacher, numbers, tmp_path):
    r = minke(*distill(data, teacher, numbers, *NUMBER, "--seed", 2))
    assert r.returncode == 1 and "seed = 1, now it is 2" in r.stderr, r.stderr
    r = minke(*distill(data, teacher, numbers, *NUMBER, "--kv-type", "q8"))
    assert r.returncode == 1 and "kv_type" in r.stderr, r.stderr
    (tmp_path / "mine.jsonl").write_text("{}\n")
    r = minke(*distill(data, teacher, tmp_path / "mine.jsonl"))
    assert r.returncode == 1 and "expected a new file" in r.stderr, r.stderr
    assert (tmp_path / "mine.jsonl").read_text() == "{}\n"
    r = minke("train", "distill", "-m", teacher, data / "rl.jsonl")
    assert r.returncode == 1 and "expected a file for the answers" in r.stderr, r.stderr


def test_a_part_that_was_lost_is_told(minke, data, teacher, tmp_path):
    out = tmp_path / "out.jsonl"
    assert minke(*distill(data, teacher, out, *NUMBER, "-n", 12)).returncode == 0
    out.write_bytes(out.read_bytes()[:10])
    r = minke(*distill(data, teacher, out, *NUMBER))
    assert r.returncode != 0 and "delete" in r.stderr, r.stderr
