"""Preferences from the command line: every loss learns, killed runs end in the same bytes with the same reference.

Numbers inside are tested in tests/train/test_preference.c.
"""
import json
import random
import signal
import subprocess
import time

import pytest

from test_train import CONFIGS, PUZZLES, log, pretrain, start, wait_for_lines, weights

LOSSES = ["dpo", "ipo", "apo-zero", "simpo", "orpo"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Answers without reasoning are preferred to the beginning of one; the models are trained a little."""
    d = tmp_path_factory.mktemp("data")
    for name, cfg in CONFIGS.items():
        (d / f"{name}.json").write_text(json.dumps(cfg))
    subprocess.run([PUZZLES, "--n", "400", "--kind", "expression", "--out", d / "sft.jsonl"], check=True)
    lines = [json.loads(line) for line in (d / "sft.jsonl").read_text().splitlines()]
    pairs = [{"prompt": x["prompt"], "chosen": x["completion"].split("</think>\n")[-1], "rejected": x["completion"][:32]}
             for x in lines]
    pairs = [json.dumps(x) + "\n" for x in pairs if x["chosen"] != x["rejected"]]
    (d / "pairs.jsonl").write_text("".join(pairs[:40]))
    (d / "eval.jsonl").write_text("".join(pairs[40:48]))
    for name, part in (("labels", pairs[:40]), ("eval-labels", pairs[40:48])):
        labels = [{"prompt": x["prompt"], "completion": x[side], "label": side == "chosen"}
                  for x in map(json.loads, part) for side in ("chosen", "rejected")]
        (d / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in labels))
    return d


@pytest.fixture(scope="module")
def base(data):
    p = start(pretrain(data, data / "base", steps=12))
    _, stderr = p.communicate(timeout=60)
    assert p.returncode == 0, stderr
    return data / "base" / "model"


def dpo(data, base, out, loss="dpo", steps=6, extra=()):
    files = ("labels.jsonl", "eval-labels.jsonl") if loss == "kto" else ("pairs.jsonl", "eval.jsonl")
    return ["train", "dpo", "-m", base, "-o", out, "--loss", loss, "--steps", steps, "--batch-tokens", 320, "--lr", "1e-3",
            "--save-every", 2, "--eval", data / files[1], *extra, data / files[0]]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns(minke, data, base, tmp_path, loss):
    r = minke(*dpo(data, base, tmp_path / "run", loss, extra=["--no-shuffle", "--accum", 2]))
    assert r.returncode == 0, r.stderr
    lines = log(tmp_path / "run")
    assert lines[-1]["margin"] > lines[0]["margin"] and lines[-1]["loss"] < lines[0]["loss"]
    assert {"eval_loss", "eval_accuracy", "eval_margin"} <= lines[-1].keys()
    if loss == "dpo":
        assert lines[0]["margin"] == 0 and abs(lines[0]["loss"] - 0.693147181) < 1e-9
    if loss in ("dpo", "ipo", "apo-zero"):
        assert lines[0]["reward_chosen"] == lines[0]["reward_rejected"] == 0  # it is its own reference, to the last bit


def test_labels_are_learned(minke, data, base, tmp_path):
    """Good answers become more probable, against bad ones; also where an update has several batches."""
    for name, extra in (("run", []), ("parts", ["--batch-tokens", 160, "--accum", 2, "-t", 2])):
        r = minke(*dpo(data, base, tmp_path / name, "kto", 8, ["--beta", "0.5", "--undesirable", "1.25", *extra]))
        assert r.returncode == 0, r.stderr
        lines = log(tmp_path / name)
        assert lines[0]["kl"] == lines[0]["reward_chosen"] == lines[0]["reward_rejected"] == 0  # to the last bit
        assert 0.5 <= lines[0]["loss"] <= 0.625  # half of the weights
        assert lines[-1]["eval_margin"] > 0 and lines[-1]["eval_loss"] < 0.5625 and "eval_kl" in lines[-1]
        assert all(x["kl"] >= 0 for x in lines)  # above 0: tests/train/test_preference_kto.c
    r = minke(*dpo(data, base, tmp_path / "run", "kto", 8, ["--beta", "0.5"]))
    assert r.returncode == 1 and "undesirable = 1.25, now it is 1" in r.stderr


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_killed_runs_keep_their_reference(minke, data, base, tmp_path, loss):
    steps, rng = 16, random.Random(5)
    extra = ["--eval-every", 5, "-t", 1]
    r = minke(*dpo(data, base, tmp_path / "whole", loss, steps, [*extra, "-t", 2]))
    assert r.returncode == 0, r.stderr
    args = dpo(data, base, tmp_path / "killed", loss, steps, extra)
    for n in (3, 8):  # and then left alone
        p = start(args)
        wait_for_lines(p, tmp_path / "killed", n)
        time.sleep(rng.uniform(0, 0.02))
        assert p.poll() is None, "nothing was killed: it was too fast"
        p.send_signal(signal.SIGKILL)
        p.communicate()
    assert minke(*args).returncode == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")
    logs = [[{k: v for k, v in x.items() if k != "seconds"} for x in log(tmp_path / name)] for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_another_start_is_another_reference(minke, data, base, tmp_path):
    assert minke(*dpo(data, base, tmp_path / "run", steps=2)).returncode == 0
    r = minke(*dpo(data, tmp_path / "run" / "model", tmp_path / "run", steps=2))
    assert r.returncode == 1 and "reference = " in r.stderr
    r = minke(*dpo(data, base, tmp_path / "run", "ipo", steps=2))
    assert r.returncode == 1 and 'loss = "dpo", now it is "ipo"' in r.stderr


@pytest.mark.parametrize("extra, words", [
    (["--beta", "0"], "beta is 0"),
    (["--margin", "1"], "the loss dpo has no margin"),
    (["--smoothing", "0.5"], "label smoothing is 0.5"),
    (["--loss", "ppo"], "dpo"),
    (["--desirable", "2"], "the loss dpo has no weights of labels"),
    (["--batch-tokens", "60"], "pairs.jsonl line"),
])
def test_wrong_use_is_explained(minke, data, base, tmp_path, extra, words):
    r = minke(*dpo(data, base, tmp_path / "run", extra=extra))
    assert r.returncode == 1 and words in r.stderr, r.stderr


def test_other_data_is_refused(minke, data, base, tmp_path):
    r = minke("train", "dpo", "-m", base, "-o", tmp_path / "run", data / "sft.jsonl")
    assert r.returncode == 5 and "expected data of kind pair" in r.stderr, r.stderr
    r = minke("train", "dpo", "-m", base, "-o", tmp_path / "run", data / "labels.jsonl")
    assert r.returncode == 5 and "expected data of kind pair, got kind label" in r.stderr, r.stderr
    r = minke("train", "dpo", "--loss", "kto", "-m", base, "-o", tmp_path / "run", data / "pairs.jsonl")
    assert r.returncode == 5 and "expected data of kind label, got kind pair" in r.stderr, r.stderr
    r = minke("train", "pretrain", "-m", base, "-o", tmp_path / "run", "--steps", 1, data / "labels.jsonl")
    assert r.returncode == 1 and "data of kind label, expected texts" in r.stderr, r.stderr
