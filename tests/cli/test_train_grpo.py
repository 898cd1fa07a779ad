"""Reinforcement from the command line: dynamic sampling, and runs that are killed in the middle of it.

Which groups are replaced is tested in tests/train/test_grpo.c; that sampler and trainer agree, in test_train.py.
"""
import json
import random
import signal
import subprocess
import time

import pytest

from test_train import CONFIGS, PUZZLES, log, pretrain, start, wait_for_lines, weights

PROMPTS, GROUP, SAMPLES = 4, 3, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    d = tmp_path_factory.mktemp("data")
    for name, cfg in CONFIGS.items():
        (d / f"{name}.json").write_text(json.dumps(cfg))
    subprocess.run([PUZZLES, "--n", "400", "--out", d / "sft.jsonl"], check=True)
    subprocess.run([PUZZLES, "--n", "13", "--format", "rl", "--out", d / "rl.jsonl"], check=True)
    return d


@pytest.fixture(scope="module")
def base(data):
    p = start(pretrain(data, data / "base", steps=30))
    _, stderr = p.communicate(timeout=60)
    assert p.returncode == 0, stderr
    return data / "base" / "model"


def grpo(data, base, out, steps=12, extra=()):
    """A reward that some groups have all of, and some nothing: whether an answer has the digit 1."""
    return ["train", "grpo", "-m", base, "-o", out, "--steps", steps, "--prompts", PROMPTS, "--group", GROUP, "--max-tokens",
            12, "--batch-tokens", 512, "--lr", "1e-3", "--reward", "regex:find=on,pattern=1", "--keep-truncated", "--samples",
            SAMPLES, "--save-every", 3, *extra, data / "rl.jsonl"]


def without_times(run):
    return [{k: v for k, v in x.items() if k != "seconds"} for x in log(run)]


def test_killed_runs_end_in_the_same_bytes(minke, data, base, tmp_path):
    """The prompts that were drawn and thrown away count: the position in the data is that of the run left alone."""
    steps, rng = 40, random.Random(5)
    r = minke(*grpo(data, base, tmp_path / "whole", steps, ["-t", 3]))
    assert r.returncode == 0, r.stderr
    args = grpo(data, base, tmp_path / "killed", steps, ["-t", 1])
    for n in (1, 7, 14, 22):  # the first one before there is a checkpoint; and then left alone
        p = start(args)
        wait_for_lines(p, tmp_path / "killed", n)
        time.sleep(rng.uniform(0, 0.02))
        assert p.poll() is None, "nothing was killed: it was too fast"
        p.send_signal(signal.SIGKILL)
        p.communicate()
    assert minke(*args).returncode == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")
    lines = without_times(tmp_path / "whole")
    assert lines == without_times(tmp_path / "killed")
    assert 0 < sum(x["redrawn"] for x in lines) < 3 * PROMPTS * steps and all("redrawn_tokens" in x for x in lines)
    samples = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("whole", "killed")]
    assert samples[0] == samples[1]
    assert [json.loads(x)["step"] for x in samples[0].splitlines()] == [i // SAMPLES + 1 for i in range(steps * SAMPLES)]


def test_what_was_sampled_beyond_a_checkpoint_is_cut(minke, data, base, tmp_path):
    """Whole lines of later steps and half a line, as a kill leaves them behind."""
    run = tmp_path / "run"
    assert minke(*grpo(data, base, run, 6)).returncode == 0
    lines = (run / "samples.jsonl").read_bytes()
    with open(run / "samples.jsonl", "ab") as f:
        f.write(b'{"step":7,"prompt":"p","completion":"c","reward":0.0}\n{"step":7,"prom')
    assert minke(*grpo(data, base, run, 6)).returncode == 0
    assert (run / "samples.jsonl").read_bytes() == lines


def test_groups_are_filled_up(minke, data, base, tmp_path):
    """With many retries every group of a step has something to teach; without, some have not."""
    out = {}
    for retry in (0, 40):
        run = tmp_path / str(retry)
        r = minke(*grpo(data, base, run, 4, ["--retry", retry, "--samples", PROMPTS * GROUP]))
        assert r.returncode == 0, r.stderr
        rewards = [json.loads(x)["reward"] for x in (run / "samples.jsonl").read_text().splitlines()]
        groups = [rewards[i:i + GROUP] for i in range(0, len(rewards), GROUP)]
        assert len(groups) == 4 * PROMPTS
        out[retry] = sum(len(set(g)) == 1 for g in groups)
        lines = log(run)
        if retry == 0:
            assert sum(x["zero_variance"] for x in lines) * PROMPTS == pytest.approx(out[0])
            assert all("redrawn" not in x for x in lines)
        else:
            for x in lines:  # all that are equal were thrown away
                assert x["zero_variance"] == pytest.approx(x["redrawn"] / (PROMPTS + x["redrawn"]))
    assert out[0] > 0 and out[40] == 0


def test_another_bound_is_another_run(minke, data, base, tmp_path):
    assert minke(*grpo(data, base, tmp_path / "run", 2)).returncode == 0
    r = minke(*grpo(data, base, tmp_path / "run", 2, ["--retry", 1]))
    assert r.returncode == 1 and "retry = 3, now it is 1" in r.stderr
