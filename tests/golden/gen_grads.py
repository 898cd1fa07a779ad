#!/usr/bin/env python3
"""Golden gradients and loss curves of the tiny models, from transformers and PyTorch (tests/train/test_golden_grads.c).

    python tests/golden/gen_grads.py [name ...]     writes tests/golden/grads/NAME.json

Two sequences of 21 and 14 ids; the loss is the mean of -log p over the targets (all but the first four of the one, the first
of the other), the model as it is stored, float32 throughout.  Of every gradient the file keeps its length, its dot products
with four vectors of +1 and -1, and three elements.  Ids, signs and places come from rng(), which is base/mathx.h's, so the
test repeats them.  The curve is ten steps of torch.optim.AdamW on that one batch.

Experts of a layer are one parameter, "...experts.*.up_proj.weight", [n_expert, rows, columns]: transformers keeps gate and up
as one tensor, a folder keeps every expert apart.

deepseek_v3_mtp is trained with its prediction layer, which transformers has for drafting (MtpModel): the loss is that of the
model plus MTP_WEIGHT times the same sum over the layer's predictions (-log p of the targets from the third token on, divided
by the number of all targets).  The layer's logits for the second sequence are in NAME.logits.f32.

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

from transformers.modeling_layers import MtpModel

from goldlib import MODELS, gate_margins, load_folder

transformers.utils.logging.disable_progress_bar()
OUT = pathlib.Path(__file__).resolve().parent / "grads"
NAMES = ["llama", "llama3", "qwen2", "qwen2_tied", "deepseek_v2lite", "deepseek_v3", "deepseek_v3_mtp"]
LENGTHS, FIRST_TARGET = (21, 14), (4, 1)
N_STEP = 10
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
DECAY, CLIP = 0.1, 1.0
MTP_WEIGHT = 0.3
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


class WithMtp(torch.nn.Module):
    """A model and its prediction layer; they share the token table, the output matrix and rotary frequencies."""

    def __init__(self, model):
        super().__init__()
        self.main, self.n_layer = model, model.config.num_hidden_layers
        # the official pattern knows the published size alone
        model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{self.n_layer}\..*"]
        self.mtp = MtpModel.from_pretrained(model).eval()

    def forward(self, ids):
        """Logits of the model for all ids but the last, which only the prediction layer is given."""
        out = self.main(ids[:, :-1], output_hidden_states=True)
        places = torch.arange(1, ids.shape[1])[None]
        y = self.mtp.forward_layer(0, out.hidden_states[-1], places, None, input_ids=ids[:, 1:])
        out["ahead"] = self.mtp._project_to_logits(y)
        return out

    def named_parameters(self):
        """In the names of a folder."""
        yield from self.main.named_parameters()
        mine = f"model.layers.{self.n_layer}."
        for name, p in self.mtp.layers[0].named_parameters():
            yield mine + name.removeprefix("mtp_block.").replace("post_norm", "shared_head.norm"), p

    def parameters(self):
        return [p for _, p in self.named_parameters()]


def sum_losses(model, ids):
    """-log p of all targets, in the order of sequences and positions; those of the prediction layer."""
    total = ahead = 0
    for seq, first in zip(ids, FIRST_TARGET):
        mtp = isinstance(model, WithMtp)
        out = model(torch.tensor(seq[None] if mtp else seq[None, :-1]))
        total = total + torch.nn.functional.cross_entropy(out.logits[0, first - 1:], torch.tensor(seq[first:]), reduction="sum")
        if mtp:
            second = max(first, 2)
            ahead = ahead + torch.nn.functional.cross_entropy(out["ahead"][0, second - 2:-1], torch.tensor(seq[second:]),
                                                              reduction="sum")
    return total, ahead


def clear(model, cfg, ids):
    """Whether no router wavers.  gate_margins wants as many ids as a router sees tokens."""
    worst = []
    for seq in ids:
        whole = (torch.tensor(seq[None]),)
        hook = model.register_forward_pre_hook(lambda _, args: whole if isinstance(model, WithMtp) else args)
        worst.append(gate_margins(model, cfg, seq[None, :-1])[0].min())
        hook.remove()
    return min(worst) >= CLEAR


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
    model = WithMtp(model) if name.endswith("_mtp") else model
    cfg = json.loads((MODELS / name / "config.json").read_text())
    return model, cfg


def optimiser(model):
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": DECAY},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **ADAMW)


def write_logits(name, model, ids):
    with torch.no_grad():
        model(torch.tensor(ids[-1][None]))["ahead"][0].numpy().astype("<f4").tofile(OUT / f"{name}.logits.f32")


def run(name, seed):
    """What the file says for one seed, or None if a router wavers."""
    model, cfg = open_model(name)
    ids = make_ids(seed, cfg["vocab_size"])
    opt, out = optimiser(model), {"seed": seed, "curve": [], "norms": []}
    for step in range(N_STEP):
        if not clear(model, cfg, ids):
            return None
        opt.zero_grad()
        loss, ahead = (x / n_target() for x in sum_losses(model, ids))
        (loss + MTP_WEIGHT * ahead).backward()
        if step == 0:
            first = {k: digest(g) for k, g in in_folder(model, lambda p: p.grad)}
        out["curve"].append(float(loss.detach()))
        if isinstance(model, WithMtp):
            out["mtp_curve"] = out.get("mtp_curve", []) + [float(ahead.detach())]
        out["norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        opt.step()
    if isinstance(model, WithMtp):
        write_logits(name, open_model(name)[0], ids)
    return out | {"grads": first}


def write(name, golden):
    golden = {"transformers": transformers.__version__, "torch": torch.__version__} | golden
    text = json.dumps(json.loads(json.dumps(golden), parse_float=lambda s: float(f"{float(s):.9g}")), indent=1)
    text = re.sub(r"\[[^\[\]]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
    text = re.sub(r"\{[^{}]*\}", lambda m: re.sub(r"\s+", " ", m[0]), text)
    (OUT / f"{name}.json").write_text(text + "\n")
    print(name, "seed", golden["seed"], "loss", golden["curve"][0], "->", golden["curve"][-1], flush=True)


def main(names):
    OUT.mkdir(exist_ok=True)
    for name in names or NAMES:
        tries = (run(name, seed) for seed in range(1, 200))
        write(name, next(g for g in tries if g))


if __name__ == "__main__":
    main(sys.argv[1:])
