"""show's memory figure against what the program really takes, on a model large enough to matter."""
import json
import os
import subprocess

import pytest

from conftest import MAKE_MODEL, MINKE, ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "m200.gguf"
    subprocess.run([MAKE_MODEL, "llama-100m", "bf16", path], check=True, stdout=subprocess.DEVNULL)
    yield path
    path.unlink()


@pytest.mark.parametrize("n_ctx", [256, 2048])
def test_plan_is_within_five_percent_of_the_peak(minke, model, n_ctx):
    p = minke("show", model, "--json", "--ctx", n_ctx)
    assert p.returncode == 0, p.stderr
    plan = json.loads(p.stdout)["memory"]["total"]
    args = [MINKE, "run", "--raw", "-m", model, "--ctx", str(n_ctx), "--temp", "0", "-n", "4", "x" * (n_ctx - 8)]
    child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    peak = usage.ru_maxrss * 1024
    assert abs(peak - plan) <= 0.05 * plan, (peak, plan)
