"""A disk that fills up during a run: the error says what could not be written, the last checkpoint stays as it was, and
with room again the same command ends in the bytes of a run that always had it.

Once on a file system that is really full, and file by file with a limit on their size (RLIMIT_FSIZE), which needs no
privileges and says exactly which write fails.
"""
import json
import os
import resource
import shutil
import signal
import subprocess

import pytest

from conftest import MINKE, ROOT
from test_train import CONFIGS, PUZZLES, log, pretrain, start, weights
from test_train_grpo import grpo

STEPS = 9  # checkpoints at 3, 6, 9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    d = tmp_path_factory.mktemp("data")
    (d / "deepseek.json").write_text(json.dumps(CONFIGS["deepseek"]))
    subprocess.run([PUZZLES, "--n", "400", "--out", d / "sft.jsonl"], check=True)
    subprocess.run([PUZZLES, "--n", "13", "--format", "rl", "--out", d / "rl.jsonl"], check=True)
    for args in (pretrain(d, d / "base", steps=12), grpo(d, d / "base" / "model", d / "whole", STEPS, ["--keep", 9])):
        p = start(args)
        _, stderr = p.communicate(timeout=60)
        assert p.returncode == 0, stderr
    return d


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


def run_of(data, out, extra=()):
    return grpo(data, data / "base" / "model", out, STEPS, extra)


def stopped_at(data, run, step):
    """The folder of a run that was killed behind this checkpoint, some lines later."""
    run.mkdir()
    for name in (f"ckpt-{step:08d}.mkt", "log.jsonl", "samples.jsonl"):
        shutil.copy(data / "whole" / name, run / name)


def with_limit(args, n_bytes):
    """The command where no file can be longer.  The signal is ignored, as a full disk sends none."""
    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    env = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")}
    return subprocess.run([MINKE, *map(str, args)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False,
                          preexec_fn=prepare, restore_signals=False)


def until(path, step):
    """Bytes of the lines up to this step."""
    return sum(len(x) for x in path.read_bytes().splitlines(True) if json.loads(x)["step"] <= step)


@pytest.mark.parametrize("file, step, extra", [
    ("samples.jsonl", 3, []),
    ("log.jsonl", 3, ["--samples", 0]),
    ("ckpt-00000006.mkt", 3, []),
    ("ckpt-00000003.mkt", 0, []),  # before there is any
    ("model.safetensors", 9, []),  # all is done but to write the result
])
def test_every_file_may_not_fit(minke, data, tmp_path, file, step, extra):
    run = tmp_path / "run"
    if step:
        stopped_at(data, run, step)
    # a line and a half more; or what logs fit in and parameters do not
    limit = until(data / "whole" / file, step + 1) + 50 if file.endswith("jsonl") else 100000
    r = with_limit(run_of(data, run, extra), limit)
    assert r.returncode == 5 and file in r.stderr and "too large" in r.stderr, r.stderr
    kept = {k: v for k, v in contents(run).items() if k.startswith("ckpt-")}
    assert kept == ({f"ckpt-{step:08d}.mkt": (data / "whole" / f"ckpt-{step:08d}.mkt").read_bytes()} if step else {})
    assert not list(run.rglob("*.safetensors"))
    assert set(contents(run)) <= {"log.jsonl", "samples.jsonl", *kept}  # no half file
    r = minke(*run_of(data, run, extra))
    assert r.returncode == 0, r.stderr
    assert weights(run) == weights(data / "whole")
    assert [x["step"] for x in log(run)] == list(range(1, STEPS + 1))
    if not extra:
        assert contents(run)["samples.jsonl"] == contents(data / "whole")["samples.jsonl"]


def in_small_disk(args, disk, keep, size):
    """Runs a command in a name space of its own, where `disk` is a file system of that size; then copies it to `keep`."""
    script = 'mount -t tmpfs -o size="$1" none "$2" || exit 77; "${@:4}"; code=$?; cp -r "$2" "$3"; exit $code'
    return subprocess.run(["unshare", "-Urm", "bash", "-c", script, "bash", size, disk, keep, *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True, timeout=60, check=False)


def test_a_full_disk_loses_nothing(minke, data, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    size = (data / "whole" / "ckpt-00000003.mkt").stat().st_size
    try:
        probe = in_small_disk(["true"], disk, tmp_path / "probe", "64k")
    except FileNotFoundError:
        pytest.skip("unshare is not there")
    if probe.returncode != 0:
        pytest.skip(f"no file system can be made here: {probe.stderr.strip()}")
    # room for two checkpoints and what stands beside them, not for a third
    r = in_small_disk([MINKE, *run_of(data, disk)], disk, kept, str(size * 5 // 2))
    assert r.returncode == 5 and "No space left on device" in r.stderr and "ckpt-00000009.mkt" in r.stderr, r.stderr
    there = {k: v for k, v in contents(kept).items() if not k.endswith("jsonl")}
    assert there == {k: v for k, v in contents(data / "whole").items() if k in ("ckpt-00000003.mkt", "ckpt-00000006.mkt")}
    r = minke(*run_of(data, kept))  # moved to where there is room
    assert r.returncode == 0, r.stderr
    assert weights(kept) == weights(data / "whole")
    assert contents(kept)["samples.jsonl"] == contents(data / "whole")["samples.jsonl"]
