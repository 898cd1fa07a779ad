#!/usr/bin/env python3
"""Golden adapters: PEFT's own files, and the logits PEFT computes with them (tests/model/test_adapter.c).

    python tests/golden/gen_adapters.py [name ...]     writes tests/golden/adapters/ (a minute)

Needs the venv of README.md and PEFT 0.21.2.  Every adapter is random in all its parts, so that it moves the logits by a
good part of their size.  deepseek_v3_experts is written here, one pair of tensors per expert as PEFT wrote them when experts
were linear layers (transformers 4) and as minke writes them; PEFT converts it when it loads it.  llama_lora.gguf is
llama_lora in GGUF: names and order of rows by the gguf package and llama.cpp's rule for Llama's q and k.
"""
import json
import pathlib
import shutil
import sys
import zlib

import gguf
import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file

from goldlib import MODELS, load_folder, rel

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "adapters"
N_IDS = 64
ROWS = list(range(7, N_IDS, 8))

# name -> base, arguments of LoraConfig
CASES = {
    "llama_lora": ("llama", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "qwen2_rslora": ("qwen2", dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
                                   rank_pattern={"q_proj": 17}, alpha_pattern={"layers.1.mlp.down_proj": 7.5})),
    "llama3_dora": ("llama3", dict(r=2, lora_alpha=6, use_dora=True, target_modules="all-linear")),
    "qwen2_dora": ("qwen2", dict(r=2, lora_alpha=3, use_dora=True, target_modules=["q_proj", "k_proj", "v_proj"])),
    "deepseek_v2lite_dora": ("deepseek_v2lite", dict(r=3, lora_alpha=4, use_dora=True, target_modules=[
        "q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"])),
    "deepseek_v3_lora": ("deepseek_v3", dict(r=4, lora_alpha=4, target_modules=[
        "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"])),
}


def value(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    g = rng.standard_normal(shape).astype(np.float32)
    if "lora_A" in name:
        return torch.from_numpy(g / np.float32(np.sqrt(shape[-1])))
    if "lora_B" in name:
        return torch.from_numpy(g * np.float32(0.3))
    return torch.from_numpy(rng.uniform(0.7, 1.3, shape).astype(np.float32))  # factor of a magnitude


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_magnitude" in name:
                p.mul_(value(name, tuple(p.shape)))
            elif "lora_" in name:
                p.copy_(value(name, tuple(p.shape)))


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(torch.tensor([ids.astype(np.int64)])).logits[0].float().numpy()


def ids_of(base):
    return np.fromfile(MODELS / base / "golden.ids.i32", np.int32)[:N_IDS]


def write(name, base, model, folder):
    ids = ids_of(base)
    got, plain = logits(model, ids)[ROWS], logits(load_folder(MODELS / base), ids)[ROWS]
    moved = rel(got.astype(np.float64), plain.astype(np.float64))
    assert moved > 0.05, moved
    got.astype(np.float32).tofile(folder / "logits.f32")
    # the folder on this machine is nobody's business
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    print(f"{name:24} logits moved by {moved:.2f}, {(folder / 'adapter_model.safetensors').stat().st_size} bytes")


def make(name):
    base, args = CASES[name]
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model = peft.get_peft_model(load_folder(MODELS / base), peft.LoraConfig(task_type="CAUSAL_LM", **args))
    randomise(model)
    model.save_pretrained(str(folder))
    write(name, base, model, folder)


def make_experts():
    name, base, r = "deepseek_v3_experts", "deepseek_v3", 2
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    c = json.loads((MODELS / base / "config.json").read_text())
    d, ff = c["hidden_size"], c["moe_intermediate_size"]
    tensors = {}
    for layer in range(c["first_k_dense_replace"], c["num_hidden_layers"]):
        for e in range(c["n_routed_experts"]):
            for proj, n_out, n_in in (("gate_proj", ff, d), ("up_proj", ff, d), ("down_proj", d, ff)):
                key = f"base_model.model.model.layers.{layer}.mlp.experts.{e}.{proj}"
                for part, shape in (("lora_A", (r, n_in)), ("lora_B", (n_out, r))):
                    tensors[f"{key}.{part}.weight"] = value(key + part, shape)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=3, inference_mode=True,
                             target_modules=["gate_proj", "up_proj", "down_proj"], base_model_name_or_path=base)
    config.save_pretrained(str(folder))
    model = peft.PeftModel.from_pretrained(load_folder(MODELS / base), str(folder))
    write(name, base, model, folder)


def permute(w, n_head):
    """Rows of Llama's q and k as llama.cpp's converter stores them."""
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def make_gguf():
    folder, c = OUT / "llama_lora", json.loads((MODELS / "llama" / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    w = gguf.GGUFWriter(str(OUT / "llama_lora.gguf"), "llama")
    w.add_type(gguf.GGUFType.ADAPTER)
    w.add_string(gguf.Keys.Adapter.TYPE, "lora")
    w.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(json.loads((folder / "adapter_config.json").read_text())["lora_alpha"]))
    for key, t in sorted(load_file(folder / "adapter_model.safetensors").items()):
        module, part = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        t = t.numpy()
        if part == "lora_B" and module.endswith(("q_proj", "k_proj")):
            t = permute(t, c["num_attention_heads"] if module.endswith("q_proj") else c["num_key_value_heads"])
        w.add_tensor(f"{names.get_name(module)}.weight.{part.lower()}", np.ascontiguousarray(t))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or [*CASES, "deepseek_v3_experts", "llama_lora.gguf"]:
        if name in CASES:
            make(name)
        elif name.endswith(".gguf"):
            make_gguf()
        else:
            make_experts()


if __name__ == "__main__":
    main()
