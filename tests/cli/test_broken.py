"""Files that are wrong: one line that names the thing, exit code 5 (or 1, 2), no crash, no hang."""
import json
import random
import shutil
import struct

import pytest


def refused(p, *words, codes=(5,)):
    assert p.returncode in codes, (p.returncode, p.stdout[:200], p.stderr)
    assert p.stderr.startswith("minke: ") and p.stderr.count("\n") == 1, p.stderr
    assert len(p.stderr) < 1000 and p.stderr.rstrip("\n").isprintable()
    for w in words:
        assert w in p.stderr, (w, p.stderr)


@pytest.fixture
def gguf(golden, tmp_path):
    """gguf(change) -> path of a copy of a good file whose bytes went through change."""
    def make(change, name="llama-q8_0.gguf"):
        data = bytearray((golden / "gguf" / name).read_bytes())
        out = tmp_path / "broken.gguf"
        changed = change(data)
        out.write_bytes(data if changed is None else changed)
        return out
    return make


@pytest.fixture
def folder(golden, tmp_path):
    """A copy of a good folder that may be spoilt."""
    out = tmp_path / "folder"
    shutil.copytree(golden / "models/llama", out)
    return out


def test_flipped_magic(minke, gguf):
    def flip(d):
        d[0] ^= 1
    refused(minke("show", gguf(flip)), "GGUF")


def test_text_file(minke, tmp_path):
    (tmp_path / "a.gguf").write_text("hello\n" * 10)
    refused(minke("run", "-m", tmp_path / "a.gguf", "x"), "a.gguf")


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.9, 0.9999])
def test_truncated(minke, gguf, share):
    refused(minke("run", "-m", gguf(lambda d: d[:int(len(d) * share)]), "x"), "broken.gguf")


def test_oversized_counts(minke, gguf):
    for at in (8, 16):  # tensor count, key count
        def big(d, at=at):
            d[at:at + 8] = struct.pack("<Q", 1 << 62)
        refused(minke("show", gguf(big)), "broken.gguf")


def test_random_flips_never_crash(minke, gguf):
    rng = random.Random(1)
    for _ in range(25):
        def flip(d):
            for _ in range(8):
                d[rng.randrange(6000)] = rng.randrange(256)
        p = minke("run", "--raw", "-n", "2", "-m", gguf(flip), "x")
        assert p.returncode in (0, 1, 2, 3, 5), (p.returncode, p.stderr)


def edit_config(folder, **values):
    c = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({k: v for k, v in c.items() if v is not None}))


@pytest.mark.parametrize("values,words", [
    (dict(hidden_size=72), ["tensor", "expected shape", "72", "64"]),
    (dict(num_hidden_layers=3), ["missing"]),
    (dict(num_hidden_layers=1), ["is not part of"]),
    (dict(architectures=["MambaForCausalLM"]), ["MambaForCausalLM", "LlamaForCausalLM"]),
    (dict(hidden_size="wide"), ["hidden_size", "integer", "string"]),
    (dict(num_attention_heads=0), ["num_attention_heads", "0", "1 to"]),
    (dict(num_attention_heads=None), ["num_attention_heads", "missing"]),
    (dict(hidden_act="gelu"), ["gelu", "silu"]),
])
def test_configurations_that_do_not_match(minke, folder, values, words):
    edit_config(folder, **values)
    refused(minke("show", folder), *words)


def test_config_is_no_json(minke, folder):
    (folder / "config.json").write_text("{'single': quotes}")
    refused(minke("show", folder), "config.json")


def test_no_weights(minke, folder):
    (folder / "model.safetensors").unlink()
    refused(minke("show", folder), "safetensors", codes=(2,))


def change_header(folder, change):
    data = (folder / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    change(head)
    text = json.dumps(head).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n:])


def test_safetensors_overlap(minke, folder):
    def overlap(head):
        names = [k for k in head if k != "__metadata__"]
        same = [k for k in names if head[k]["shape"] == head[names[0]]["shape"]]
        head[same[0]]["data_offsets"] = head[same[1]]["data_offsets"]
    change_header(folder, overlap)
    refused(minke("show", folder), "model.safetensors")


def test_safetensors_wrong_dtype(minke, folder):
    def unknown(head):
        head["model.norm.weight"]["dtype"] = "F128"
    change_header(folder, unknown)
    refused(minke("show", folder), "F128")


def test_safetensors_missing_tensor(minke, folder):
    def rename(head):
        head["model.layers.1.mlp.up_proj.surprise"] = head.pop("model.layers.1.mlp.up_proj.weight")
    change_header(folder, rename)
    refused(minke("show", folder), "model.layers.1.mlp.up_proj.weight", "missing")


def test_broken_tokenizer(minke, folder):
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 7}}')
    refused(minke("run", "-m", folder, "x"), "tokenizer.json")


def test_endless_template(minke, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}")
    refused(minke("run", "--template", tmp_path / "t.jinja", "x", timeout=30), codes=(1,))


def test_template_that_refuses(minke, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ raise_exception('only poems') }}")
    refused(minke("run", "--template", tmp_path / "t.jinja", "x"), "only poems", codes=(1,))


def test_names_cannot_drive_the_terminal(minke, gguf):
    def paint(d):
        at = d.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
        d[at:at + 5] = b"\x1b[2J!"
    p = minke("show", gguf(paint))
    assert p.returncode == 5 and "\x1b" not in p.stderr
