"""bench/make_model: files of random weights have the sizes and types of the published ones, and they run."""
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from conftest import MAKE_MODEL
from ggufread import read_gguf

F32, Q5_0, Q8_0, Q4_K, Q6_K = 0, 6, 8, 12, 14
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]


def make(*args):
    p = subprocess.run([MAKE_MODEL, *map(str, args)], capture_output=True, text=True, timeout=120, check=False)
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def made(folder):
    """made(shape, type) -> path; each is written once."""

    def path(shape, kind):
        at = folder / f"{shape}-{kind}.gguf"
        if not at.exists():
            make(shape, kind, at)
        return at

    yield path
    for at in folder.glob("*.gguf"):
        at.unlink()


# Megabytes of the tensors of the published files, and of their types where they were looked at.
@pytest.mark.parametrize("shape, kind, total, by_type", [
    ("llama-1b", "q4_k_m", 800, {"Q4_K": 467, "Q6_K": 333}),
    ("llama-1b", "q8_0", 1313, {}),
    ("llama-1b", "bf16", 2472, {}),
    ("qwen-0.5b", "q4_k_m", 392, {}),
    ("qwen-0.5b", "q8_0", 525, {}),
    ("qwen-0.5b", "bf16", 988, {}),
    ("deepseek-v2-lite", "q4_k_m", 10364, {"F32": 14}),
])
def test_sizes_of_the_published_files(shape, kind, total, by_type):
    text = make(shape, kind)
    assert round(float(re.search(r": ([\d.]+) MB", text)[1])) == total
    found = dict(re.findall(r"(\w+) ([\d.]+)(?:,|$)", text.strip().split("tensors:")[1]))
    # half a megabyte of rounding, in the published number and in this one
    assert all(abs(float(found[t]) - mb) <= 0.6 for t, mb in by_type.items()), found


def test_types_of_a_dense_model(made):
    kv, tensors = read_gguf(made("llama-tiny", "q4_k_m"))
    assert kv["general.file_type"] == 15 and kv["llama.block_count"] == 4
    assert "output.weight" not in tensors and tensors["token_embd.weight"][0] == Q6_K
    # of four layers the last eighth is layer 3, and layer 2 is the third one counted from 0
    for layer in range(4):
        for name in ("attn_v", "ffn_down"):
            assert tensors[f"blk.{layer}.{name}.weight"][0] == (Q6_K if layer >= 2 else Q4_K), (layer, name)
        for name in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
            assert tensors[f"blk.{layer}.{name}.weight"][0] == Q4_K
        assert tensors[f"blk.{layer}.attn_norm.weight"][0] == F32
    assert tensors["blk.0.attn_k.weight"][1] == [256, 128]  # fastest dimension first


def test_types_of_experts(made):
    """27 layers as in DeepSeek-V2-Lite; 32, 160, 320 and 544 columns are no whole blocks of 256."""
    kv, tensors = read_gguf(made("deepseek-tiny", "q4_k_m"))
    more = {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26}
    assert tensors["output.weight"][0] == Q6_K and tensors["token_embd.weight"][0] == Q4_K
    assert tensors["blk.0.ffn_down.weight"][:2] == (Q8_0, [544, 256])
    assert "blk.1.ffn_down.weight" not in tensors and "blk.0.ffn_gate_inp.weight" not in tensors
    for layer in range(27):
        p = f"blk.{layer}."
        assert tensors[p + "attn_k_b.weight"][:2] == (Q5_0, [32, 256, 4])
        assert tensors[p + "attn_v_b.weight"][:2] == (Q4_K, [256, 32, 4])
        assert tensors[p + "attn_kv_a_mqa.weight"][:2] == (Q4_K, [256, 272])
        if layer > 0:
            assert tensors[p + "ffn_gate_inp.weight"][0] == F32
            assert tensors[p + "ffn_gate_exps.weight"][:2] == (Q4_K, [256, 160, 16])
            want = Q8_0 if layer in more else Q5_0
            assert tensors[p + "ffn_down_exps.weight"][:2] == (want, [160, 256, 16])
            assert tensors[p + "ffn_down_shexp.weight"][:2] == (want, [320, 256])
    assert kv["deepseek2.attention.key_length"] == 272 and kv["deepseek2.attention.key_length_mla"] == 48


def test_vocabulary(made):
    kv, _ = read_gguf(made("llama-tiny", "q8_0"))
    tokens, merges = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.merges"]
    assert len(tokens) == len(set(tokens)) == len(kv["tokenizer.ggml.token_type"]) == 512
    assert len(merges) == 500 - 256
    known = set(tokens[:256])
    assert len(known) == 256
    for merge, token in zip(merges, tokens[256:500]):
        left, right = merge.split(" ")
        assert left in known and right in known and left + right == token
        known.add(token)
    assert tokens[kv["tokenizer.ggml.eos_token_id"]] == "<|eot_id|>"


@pytest.mark.parametrize("kind", TYPES)
def test_values_are_as_large_as_they_should_be(made, minke, folder, kind):
    """Every matrix, as minke reads it: mean 0 and a deviation of 1/sqrt(columns), less what goes into the residual."""
    plain = folder / f"plain-{kind}.gguf"
    p = minke("convert", made("llama-tiny", kind), "-o", plain, "--type", "f32")
    assert p.returncode == 0, p.stderr
    for name, (dtype, shape, data) in read_gguf(plain)[1].items():
        v = np.frombuffer(data, np.float32)
        assert dtype == F32 and np.isfinite(v).all()
        want = shape[0] ** -0.5 if len(shape) > 1 else 0.1
        want *= 8 ** -0.5 if "attn_output" in name or "ffn_down" in name else 1
        mean = 0 if len(shape) > 1 else 1
        # a quarter: a norm has 256 values; scales of quantised blocks vary by half
        assert abs(v.mean() - mean) < 0.25 * want and 0.75 < v.std() / want < 1.25, (name, v.mean(), v.std(), want)


@pytest.mark.parametrize("shape", ["llama-tiny", "deepseek-tiny"])
@pytest.mark.parametrize("kind", ["bf16", "q4_k_m"])
def test_it_runs(made, minke, tmp_path, shape, kind):
    p = minke("run", "-m", made(shape, kind), "--temp", "0", "-n", "4", "--ctx", "256", "Hello there", text=False)
    assert p.returncode == 0, p.stderr
    p = minke("bench", "-m", made(shape, kind), "-p", "16", "-n", "4", "-r", "1", "--ctx", "256", "--json")
    assert p.returncode == 0, p.stderr
    out = tmp_path / "l.npy"
    p = minke("logits", "-m", made(shape, kind), "--ctx", "256", "--text", "To be, or not to be", "-o", out)
    assert p.returncode == 0, p.stderr
    logits = np.load(out)
    assert np.isfinite(logits).all() and 0.5 < logits.std() < 2
    assert len(set(logits.argmax(1))) > len(logits) // 4  # positions differ


def test_same_seed_same_bytes(made, folder):
    one, other = folder / "again.gguf", folder / "other.gguf"
    make("llama-tiny", "q4_k_m", one)
    make("llama-tiny", "q4_k_m", other, "--seed", 2)
    assert one.read_bytes() == made("llama-tiny", "q4_k_m").read_bytes() != other.read_bytes()


@pytest.mark.parametrize("args, word", [((), "expected SHAPE"), (("llama-9b", "f32"), "llama-9b"),
                                        (("llama-tiny", "q3"), "q3")])
def test_wrong_words(args, word):
    p = subprocess.run([MAKE_MODEL, *args], capture_output=True, text=True, timeout=10, check=False)
    assert p.returncode == 1 and word in p.stderr


def test_ctrl_c_leaves_nothing(tmp_path):
    child = subprocess.Popen([MAKE_MODEL, "deepseek-v2-lite", "q4_k_m", tmp_path / "big.gguf"], stderr=subprocess.PIPE)
    end = time.monotonic() + 20
    while not list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert b"interrupted" in child.communicate(timeout=20)[1]
    assert child.returncode == 130 and not list(tmp_path.iterdir())
