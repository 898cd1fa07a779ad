#!/usr/bin/env python3
"""Golden values of the optimisers and schedules, from PyTorch and transformers in float64 (tests/train/test_optim.c).

    python tests/golden/gen_optim.py        writes tests/golden/optim/optim.json

Gradients are not stored: grad() below is repeated in the test, and all its values are exact in float32.  Muon is
torch.optim.Muon, whose Newton-Schulz steps are bfloat16; here its code runs with that type replaced by float64, so that the
golden values are those of the formula.
"""
import json
import os

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
N_STEP = 10
LRS = [0.001 * (i + 1) for i in range(5)] + [0.005, 0.004, 0.003, 0.002, 0.001]
# every step has gradients of another size, so that clipping does something in some of them
SIZES = [1, 0.25, 2, 0.5, 0.0625, 4, 1, 0.125, 8, 1]


def grad(tensor, step, n):
    """n values in [-1, 1), multiples of 2^-23, times a power of two; step -1: the first values of the parameters."""
    out = []
    for i in range(n):
        u = (i * 0x9E3779B1 + (step + 1) * 0x85EBCA77 + tensor * 0xC2B2AE3D) & 0xFFFFFFFF
        u ^= u >> 15
        u = u * 0x2C1B3C6D & 0xFFFFFFFF
        u ^= u >> 12
        out.append(((u >> 8) - (1 << 23)) / (1 << 23) * (SIZES[step] if step >= 0 else 1))
    return torch.tensor(out, dtype=torch.float64)


def run(params, make, clip):
    """params: tensors with .grad set per step; returns their values after every step, and the norms."""
    values, norms = [], []
    opts = make()
    for step in range(N_STEP):
        for i, p in enumerate(params):
            p.grad = grad(i, step, p.numel()).reshape(p.shape)
        if clip:
            norms.append(float(torch.nn.utils.clip_grad_norm_(params, clip)))
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = LRS[step]
            opt.step()
        values.append([p.detach().reshape(-1).tolist() for p in params])
    return values, norms


def tensors(shapes):
    return [torch.nn.Parameter(grad(i, -1, torch.Size(s).numel()).reshape(s)) for i, s in enumerate(shapes)]


def adamw():
    params = tensors([(40,), (17,), (5,)])  # the last without decay

    def make():
        groups = [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:], "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=1, betas=(0.9, 0.95), eps=1e-8)]

    values, norms = run(params, make, clip=2.0)
    return {"n": [p.numel() for p in params], "clip": 2.0, "values": values, "norms": norms}


def muon():
    shapes = [(5, 20), (20, 5), (18, 18)]
    params = tensors(shapes)
    real, torch.bfloat16 = torch.bfloat16, torch.float64

    def make():
        return [torch.optim.Muon(params, lr=1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")]

    values, _ = run(params, make, clip=None)
    torch.bfloat16 = real
    # the whole curve of 18 x 18 would be most of the file
    return {"shapes": shapes, "values": {str(s + 1): values[s] for s in (0, 1, 9)}}


def schedules():
    n, warmup, decay = 20, 4, 8
    out = {"n_step": n, "n_warmup": warmup, "n_decay": decay}
    makers = {
        "constant": lambda o: transformers.get_constant_schedule_with_warmup(o, warmup),
        "linear": lambda o: transformers.get_linear_schedule_with_warmup(o, warmup, n),
        "cosine": lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, warmup, n, min_lr_rate=0.1),
        "wsd": lambda o: transformers.get_wsd_schedule(o, warmup, decay, num_training_steps=n, decay_type="linear",
                                                       min_lr_ratio=0.1),
    }
    for name, maker in makers.items():
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        sched, rates = maker(opt), []
        for _ in range(n + 1):
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
        out[name] = rates
    return out


def main():
    torch.set_default_dtype(torch.float64)
    golden = {"lr": LRS, "sizes": SIZES, "adamw": adamw(), "muon": muon(), "schedules": schedules()}
    os.makedirs(os.path.join(HERE, "optim"), exist_ok=True)
    rounded = json.loads(json.dumps(golden), parse_float=lambda s: float(f"{float(s):.12g}"))
    with open(os.path.join(HERE, "optim", "optim.json"), "w", encoding="utf-8") as f:
        json.dump(rounded, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
