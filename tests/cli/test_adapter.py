"""Adapters on the command line: --adapter, merge, and convert between PEFT folders and GGUF."""
import json
import shutil

import numpy as np
import pytest

from ggufread import read_gguf

BOUND = 2e-5  # two float32 computations, as in tests/model/test_adapter.c


def ok(p):
    assert p.returncode == 0, p.stderr
    return p


def rel(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture
def logits(minke, golden, tmp_path):
    """logits(model, *more options) of the first 64 golden ids of `base`."""

    def run(base, model, *more):
        ids = np.fromfile(golden / "models" / base / "golden.ids.i32", np.int32)[:64]
        ids.tofile(tmp_path / "ids")
        ok(minke("logits", "-m", model, "--kv-type", "f32", "--ids-file", tmp_path / "ids", "-o", tmp_path / "l.npy", *more))
        return np.load(tmp_path / "l.npy")

    return run


def stored(golden, name):
    return np.fromfile(golden / "adapters" / name / "logits.f32", np.float32)


@pytest.mark.parametrize("base, adapter", [("llama", "llama_lora"), ("llama3", "llama3_dora"), ("deepseek_v3", "deepseek_v3_experts")])
def test_logits_with_an_adapter_are_those_of_peft(golden, logits, base, adapter):
    model = golden / "models" / base
    got = logits(base, model, "--adapter", golden / "adapters" / adapter)
    assert rel(got[7::8].ravel(), stored(golden, adapter)) < BOUND


def test_the_scale_of_an_adapter(golden, logits):
    model, adapter = golden / "models" / "llama", golden / "adapters" / "llama_lora.gguf"
    plain = logits("llama", model)
    assert np.array_equal(logits("llama", model, "--adapter", f"{adapter}=0"), plain)
    full = logits("llama", model, "--adapter", f"{adapter}=1")
    assert np.array_equal(full, logits("llama", model, "--adapter", adapter))
    half = logits("llama", model, "--adapter", f"{adapter}=0.5")
    assert 0.05 < rel(half, plain) and 0.05 < rel(half, full)


def test_an_adapter_changes_an_answer_and_its_threads_do_not(minke, golden):
    args = ["run", "-m", golden / "models" / "qwen2", "--raw", "--temp", "0", "-n", "12", "The river is"]
    adapter = ["--adapter", golden / "adapters" / "qwen2_rslora"]
    plain, adapted = ok(minke(*args)).stdout, ok(minke(*args, *adapter)).stdout
    assert plain != adapted
    assert ok(minke(*args, *adapter, "-t", "3", "--chunk", "2", "--isa", "scalar")).stdout == adapted


@pytest.mark.parametrize("out", ["m.gguf", "m/"])
def test_merge(minke, golden, logits, tmp_path, out):
    base, adapter = golden / "models" / "deepseek_v2lite", golden / "adapters" / "deepseek_v2lite_dora"
    ok(minke("merge", "-m", base, "--adapter", adapter, "-o", f"{tmp_path}/{out}"))
    got = logits("deepseek_v2lite", tmp_path / out)
    assert rel(got[7::8].ravel(), stored(golden, "deepseek_v2lite_dora")) < BOUND


def test_merge_of_a_quantised_base(minke, golden, logits, tmp_path):
    """What the adapter changes becomes q8_0, which rounds to half a percent."""
    base, adapter = golden / "gguf" / "llama-q4_0.gguf", golden / "adapters" / "llama_lora"
    ok(minke("merge", "-m", base, "--adapter", f"{adapter}=0.5", "-o", tmp_path / "m.gguf", "--type", "q8_0"))
    got, want = logits("llama", tmp_path / "m.gguf"), logits("llama", base, "--adapter", f"{adapter}=0.5")
    assert rel(got, want) < 0.05 < rel(logits("llama", base), want)


def test_adapters_change_their_clothes(minke, golden, tmp_path):
    base, peft = golden / "models" / "llama", golden / "adapters" / "llama_lora"
    ok(minke("convert", base, "--adapter", peft, "-o", tmp_path / "a.gguf"))
    kv, tensors = read_gguf(tmp_path / "a.gguf")
    kv_ref, tensors_ref = read_gguf(golden / "adapters" / "llama_lora.gguf")
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert kv[key] == kv_ref[key]
    assert tensors == tensors_ref
    ok(minke("convert", base, "--adapter", tmp_path / "a.gguf", "-o", tmp_path / "b"))
    ok(minke("convert", base, "--adapter", peft, "-o", tmp_path / "c"))
    assert (tmp_path / "b/adapter_model.safetensors").read_bytes() == (tmp_path / "c/adapter_model.safetensors").read_bytes()
    config = json.loads((tmp_path / "b/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")


def test_an_adapter_that_does_not_fit(minke, golden, tmp_path):
    model = golden / "models" / "llama"
    p = minke("run", "-m", model, "--adapter", golden / "adapters" / "qwen2_rslora", "x")
    assert p.returncode == 5 and "down_proj.lora_A.weight" in p.stderr and "expected shape" in p.stderr
    p = minke("merge", "-m", model, "--adapter", golden / "adapters" / "deepseek_v3_lora", "-o", tmp_path / "m.gguf")
    assert p.returncode == 5 and "no linear layer" in p.stderr and not list(tmp_path.glob("m*"))
    p = minke("merge", "-m", model, "--adapter", tmp_path / "none", "-o", tmp_path / "m.gguf")
    assert p.returncode == 2 and "none" in p.stderr
    p = minke("convert", golden / "models" / "llama3", "--adapter", golden / "adapters" / "llama3_dora", "-o", tmp_path / "d.gguf")
    assert p.returncode == 5 and "DoRA" in p.stderr
    broken = tmp_path / "broken"
    shutil.copytree(golden / "adapters" / "llama_lora", broken)
    (broken / "adapter_model.safetensors").write_bytes(b"\x00" * 10)
    assert minke("run", "-m", model, "--adapter", broken, "x").returncode == 5
