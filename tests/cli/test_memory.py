"""show's memory figure against what the program really takes, on a model large enough to matter."""
import json
import pathlib
import subprocess
import time

import pytest

from conftest import MAKE_MODEL, MINKE, ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "m200.gguf"
    subprocess.run([MAKE_MODEL, "llama-100m", "bf16", path], check=True, stdout=subprocess.DEVNULL)
    yield path
    path.unlink()


def highest_memory(child):
    """Not ru_maxrss: that begins with what the process that started it had."""
    peak = 0
    while child.poll() is None:
        try:
            lines = pathlib.Path(f"/proc/{child.pid}/status").read_text().splitlines()
        except OSError:
            continue
        peak = max([peak] + [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")])
        time.sleep(0.002)
    return peak


@pytest.mark.parametrize("n_ctx", [256, 2048])
def test_plan_is_within_five_percent_of_the_peak(minke, model, n_ctx):
    p = minke("show", model, "--json", "--ctx", n_ctx)
    assert p.returncode == 0, p.stderr
    plan = json.loads(p.stdout)["memory"]["total"]
    args = [MINKE, "run", "--raw", "-m", model, "--ctx", str(n_ctx), "--temp", "0", "-n", "4", "x" * (n_ctx - 8)]
    child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT)
    peak = highest_memory(child)
    assert child.returncode == 0
    assert abs(peak - plan) <= 0.05 * plan, (peak, plan)
