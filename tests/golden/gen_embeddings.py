"""Embeddings by the official implementation, for tests/engine/test_embed.c.

Run: python3 tests/golden/gen_embeddings.py     (reads models/, writes embeddings.json; seconds)

AutoModel's last_hidden_state is what comes out of the last norm.  mean: the mean over all tokens; last: the last token's;
both brought to length 1, as sentence-transformers does (pooling_mode_mean_tokens, pooling_mode_lasttoken, Normalize).
Hidden states in float32 from the stored weights, pooling in float64.
"""
import json

import numpy as np
import torch
import transformers

from goldlib import HERE, MODELS

NAMES = ["llama", "qwen2", "deepseek_v3"]
LENGTHS = [1, 5, 64, 65, 200]  # around a block of the cache, and more than a chunk
DIGITS = 9


def vectors(model, ids):
    with torch.no_grad():
        h = model(torch.tensor([ids])).last_hidden_state[0].double()
    pooled = {"mean": h.mean(dim=0), "last": h[-1]}
    return {how: [float(f"{x:.{DIGITS}g}") for x in (v / v.norm()).tolist()] for how, v in pooled.items()}


def main():
    out = {"transformers": transformers.__version__, "texts": []}
    for name in NAMES:
        model = transformers.AutoModel.from_pretrained(MODELS / name, dtype=torch.float32).eval()
        ids = np.fromfile(MODELS / name / "golden.ids.i32", dtype="<i4").tolist()
        for n in LENGTHS:
            out["texts"].append({"model": name, "ids": ids[:n]} | vectors(model, ids[:n]))
    rows = ",\n".join(json.dumps(t) for t in out["texts"])
    (HERE / "embeddings.json").write_text(f'{{"transformers": "{out["transformers"]}", "texts": [\n{rows}\n]}}\n')


main()
