"""Training with multi-token prediction from the command line; what it computes is tested in tests/train."""
import json
import shutil
import struct

import pytest

from conftest import GOLDEN, ROOT

TOKENIZER = ROOT / "models" / "thimble" / "tokenizer"
LAYER = "model.layers.2."  # behind the last


def tensors(folder):
    """Name -> bytes of everything in model.safetensors."""
    raw = (folder / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    return {k: raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]] for k, v in head.items() if k != "__metadata__"}


@pytest.fixture
def start(tmp_path):
    cfg = json.loads((GOLDEN / "models" / "deepseek_v3_mtp" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(cfg | {"vocab_size": 304, "bos_token_id": None, "eos_token_id": 298}))
    lines = [json.dumps({"text": f"What is {i}+{i + 3}? It is {2 * i + 3}."}) for i in range(40)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def pretrain(start, out, *extra):
    return ["train", "pretrain", "--config", start / "config.json", "--tokenizer", TOKENIZER, "-o", out, "--steps", 4,
            "--batch-tokens", 256, "--lr", "3e-3", "--save-every", 2, *extra, start / "text.jsonl"]


def test_a_layer_is_trained_saved_and_resumed(minke, start):
    run = start / "run"
    r = minke(*pretrain(start, run, "--mtp", 0.3))
    assert r.returncode == 0, r.stderr
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(0 < line["mtp_loss"] < 7 for line in lines) and lines[-1]["mtp_loss"] < lines[0]["mtp_loss"]
    before, after = tensors(run / "start"), tensors(run / "model")
    assert sorted(before) == sorted(after) and LAYER + "eh_proj.weight" in after
    assert all(after[k] != before[k] for k in after)
    # from a checkpoint, and only written
    whole = (run / "model" / "model.safetensors").read_bytes()
    r = minke("train", "export", run, "-o", start / "exported")
    assert r.returncode == 0, r.stderr
    assert (start / "exported" / "model.safetensors").read_bytes() == whole
    max(run.glob("ckpt-*")).unlink()
    shutil.rmtree(run / "model")
    r = minke(*pretrain(start, run, "--mtp", 0.3))
    assert r.returncode == 0, r.stderr
    assert (run / "model" / "model.safetensors").read_bytes() == whole


def test_without_it_the_layer_stays(minke, start):
    run = start / "run"
    r = minke(*pretrain(start, run))
    assert r.returncode == 0, r.stderr
    assert "mtp_loss" not in (run / "log.jsonl").read_text()
    before, after = tensors(run / "start"), tensors(run / "model")
    assert sorted(before) == sorted(after) and LAYER + "eh_proj.weight" in after
    assert all((after[k] == before[k]) == k.startswith(LAYER) for k in after)


def test_a_model_without_the_layer_is_refused(minke, start):
    r = minke("train", "pretrain", "-m", GOLDEN / "models" / "deepseek_v3", "-o", start / "run", "--mtp", 0.3,
              start / "text.jsonl")
    assert r.returncode != 0
    assert "multi-token prediction" in r.stderr
