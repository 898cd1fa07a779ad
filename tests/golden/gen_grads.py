#!/usr/bin/env python3
"""Golden gradients and loss curves of the tiny models, from transformers and PyTorch (tests/train/test_golden_grads.c).

    python tests/golden/gen_grads.py [name ...]     writes tests/golden/grads/NAME.json

Two sequences of 21 and 14 ids; the loss is the mean of -log p over the targets (all but the first four of the one, the first
of the other), the model as it is stored, float32 throughout.  Of every gradient the file keeps its length, its dot products
with four vectors of +1 and -1, and three elements.  Ids, signs and places come from rng(), which is base/mathx.h's, so the
test repeats them.  The curve is ten steps of torch.optim.AdamW on that one batch.

Experts of a layer are one parameter, "...experts.*.up_proj.weight", [n_expert, rows, columns]: transformers keeps gate and up
as one tensor, a folder keeps every expert apart.

A router that wavers between two experts would make the numbers depend on rounding, so the ids are those of the first seed
whose choices are clear in every step.
"""
import json
import pathlib
import re
import sys

import numpy as np
import torch
import transformers

from goldlib import MODELS, gate_margins, load_folder

transformers.utils.logging.disable_progress_bar()
OUT = pathlib.Path(__file__).resolve().parent / "grads"
NAMES = ["llama", "llama3", "qwen2", "qwen2_tied", "deepseek_v2lite", "deepseek_v3"]
LENGTHS, FIRST_TARGET = (21, 14), (4, 1)
N_STEP = 10
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
DECAY, CLIP = 0.1, 1.0
N_DOT, N_ELEMENT = 4, 3
# Two float32 implementations differ by 1e-6 in the logits of a router, and after ten steps by 1e-5.
CLEAR = 5e-4
M64 = (1 << 64) - 1


def finalise(z):
    """SplitMix64's last steps, on a list of uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def rng(seed, n):
    """mk_rng_u64(seed, 0 .. n-1)."""
    golden = 0x9E3779B97F4A7C15
    key = finalise(np.array([(seed + golden) & M64], np.uint64))
    with np.errstate(over="ignore"):
        return finalise(key + (np.arange(1, n + 1, dtype=np.uint64)) * np.uint64(golden))


def make_ids(seed, n_vocab):
    return [(rng(2 * seed + s, n) % np.uint64(n_vocab)).astype(np.int64) for s, n in enumerate(LENGTHS)]


def n_target():
    return sum(n - f for n, f in zip(LENGTHS, FIRST_TARGET))


def sum_loss(model, ids):
    """-log p of all targets, in the order of sequences and positions."""
    total = 0
    for seq, first in zip(ids, FIRST_TARGET):
        logits = model(torch.tensor(seq[None, :-1])).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[first - 1:], torch.tensor(seq[first:]), reduction="sum")
    return total


def clear(model, cfg, ids):
    return min(float(gate_margins(model, cfg, seq[None, :-1])[0].min()) for seq in ids) >= CLEAR


def in_folder(model, values):
    """(name, array) of `values` (a function of a parameter), as a folder names them, but experts stacked."""
    for name, p in model.named_parameters():
        x = values(p).detach().numpy()
        if name.endswith("experts.gate_up_proj"):
            half = x.shape[1] // 2
            yield name.replace("gate_up_proj", "*.gate_proj.weight"), x[:, :half]
            yield name.replace("gate_up_proj", "*.up_proj.weight"), x[:, half:]
        elif name.endswith("experts.down_proj"):
            yield name.replace("down_proj", "*.down_proj.weight"), x
        else:
            yield name, x


def digest(g):
    x = g.astype(np.float64).reshape(-1)
    signs = [np.where(rng(100 + k, x.size) & np.uint64(1), 1.0, -1.0) for k in range(N_DOT)]
    places = rng(200, N_ELEMENT) % np.uint64(x.size)
    return {"n": x.size, "norm": float(np.sqrt((x * x).sum())), "dots": [float(x @ s) for s in signs],
            "elements": [float(x[int(i)]) for i in places]}


def open_model(name):
    model = load_folder(MODELS / name)
    cfg = json.loads((MODELS / name / "config.json").read_text())
    return model, cfg


def optimiser(model):
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": DECAY},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **ADAMW)


def run(name, seed, loss_of=sum_loss):
    """What the file says for one seed, or None if a router wavers."""
    model, cfg = open_model(name)
    ids = make_ids(seed, cfg["vocab_size"])
    opt, out = optimiser(model), {"seed": seed, "curve": [], "norms": []}
    for step in range(N_STEP):
        if not clear(model, cfg, ids):
            return None
        opt.zero_grad()
        loss = loss_of(model, ids) / n_target()
        loss.backward()
        if step == 0:
            out["grads"] = {k: digest(g) for k, g in in_folder(model, lambda p: p.grad)}
        out["curve"].append(float(loss.detach()))
        out["norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        opt.step()
    return out


def write(name, golden):
    golden = {"transformers": transformers.__version__, "torch": torch.__version__} | golden
    text = json.dumps(json.loads(json.dumps(golden), parse_float=lambda s: float(f"{float(s):.9g}")), indent=1)
    text = re.sub(r"\[[^\[\]]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
    text = re.sub(r"\{[^{}]*\}", lambda m: re.sub(r"\s+", " ", m[0]), text)
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(text + "\n")
    print(name, "seed", golden["seed"], "loss", golden["curve"][0], "->", golden["curve"][-1], flush=True)


def main(names):
    for name in names or NAMES:
        tries = (run(name, seed) for seed in range(1, 200))
        write(name, next(g for g in tries if g))


if __name__ == "__main__":
    main(sys.argv[1:])
