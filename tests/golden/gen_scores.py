"""Log-probabilities of prompts by the official implementation, for tests/cli/test_score.py.

Run: python3 tests/golden/gen_scores.py     (reads models/, writes scores.json; seconds)

For every token but the first: log_softmax of the logits before it, in float32 from the stored weights, and the best TOP
of that row.  `next` is the row behind the last token: what is generated from it with temperature 0.
"""
import json

import numpy as np
import torch
import transformers

from goldlib import HERE, MODELS

NAMES = ["llama3", "qwen2", "deepseek_v3"]
LENGTHS = [2, 70]  # around a block of the cache
TOP, DIGITS = 3, 8


def short(x):
    return float(f"{x:.{DIGITS}g}")


def scores(model, ids):
    with torch.no_grad():
        rows = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
    best = rows.topk(TOP)
    top = [[[int(i), short(x)] for i, x in zip(*row)] for row in zip(best.indices.tolist(), best.values.tolist())]
    return {"logprobs": [short(rows[k, ids[k + 1]].item()) for k in range(len(ids) - 1)], "top": top[:-1], "next": top[-1]}


def main():
    out = []
    for name in NAMES:
        model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()
        ids = np.fromfile(MODELS / name / "golden.ids.i32", dtype="<i4").tolist()
        out += [{"model": name, "ids": ids[:n]} | scores(model, ids[:n]) for n in LENGTHS]
    rows = ",\n".join(json.dumps(t) for t in out)
    (HERE / "scores.json").write_text(f'{{"transformers": "{transformers.__version__}", "prompts": [\n{rows}\n]}}\n')


main()
