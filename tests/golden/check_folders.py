#!/usr/bin/env python3
"""Folders that minke writes, opened by transformers: the logits must be the stored ones.

    python3 tests/golden/check_folders.py [build/minke]   (the venv of README.md; a minute)

From every golden folder and from GGUF files (whose config.json minke makes from the numbers), as F32.  Nothing may be
missing or left over, and no warning of transformers may say so.  Not part of `make check`: it needs torch.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
BOUND = 1e-5  # two float32 computations; the same program on the same values gives 0

SOURCES = {
    **{f"models/{m}": m for m in ("llama", "llama3", "yi", "qwen2", "qwen2_tied", "deepseek_v2lite", "deepseek_v2", "deepseek_v3",
                                  "deepseek_v3_mtp", "llama-bf16", "deepseek_v3-bf16", "deepseek_v3-fp8")},
    "gguf/llama-f32.gguf": "llama",
    "gguf/llama3-f32.gguf": "llama3",
    "gguf/yi-f32-00001-of-00002.gguf": "yi",
    "gguf/qwen2-f32.gguf": "qwen2",
    "gguf/deepseek_v2lite-a-f32.gguf": "deepseek_v2lite",
    "gguf/deepseek_v2-b-f32.gguf": "deepseek_v2",
    "gguf/deepseek_v3-c-f32.gguf": "deepseek_v3",
}


def logits(folder, ids):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {k: v for k, v in info.items() if v}
    assert not wrong, wrong
    with torch.no_grad():
        return model.eval()(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy().astype(np.float64)


def check(minke, source, golden):
    base = HERE / "models" / golden / "golden"
    ids, rows = (np.fromfile(f"{base}.{n}.i32", np.int32) for n in ("ids", "rows"))
    want = np.fromfile(f"{base}.logits.f32", np.float32).reshape(len(rows), -1).astype(np.float64)
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([minke, "convert", HERE / source, "-o", d, "--type", "f32", "-q"], check=True)
        got = logits(d, ids)[rows]
        if source.startswith("models/"):
            text = "To be, or not: 12 + 30 é"
            a, b = (transformers.AutoTokenizer.from_pretrained(p) for p in (d, HERE / source))
            assert a(text)["input_ids"] == b(text)["input_ids"]
    rel = np.linalg.norm(got - want) / np.linalg.norm(want)
    print(f"{source:36} {rel:.1e}{'' if rel < BOUND else '  <-- BAD'}")
    return rel < BOUND


def main():
    transformers.utils.logging.set_verbosity_error()
    minke = sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "build" / "minke"
    results = [check(minke, *s) for s in SOURCES.items()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
