#!/usr/bin/env python3
"""Golden values of log-probabilities, entropies and the gradient of weighted log-probabilities, by torch in float64.

    python3 tests/golden/gen_logprob.py        (numpy, torch; written with torch 2.15.0)

Writes tests/golden/logprob.bin, little endian, one record after another until the end:
    int32 n_row, n_vocab; float32 temperature; then for all rows together
    z f32 [n_row, n_vocab], id i32, weight f32, logp f64, lse f64, entropy f64, dz f32 [n_row, n_vocab]
where lse is log sum exp(z / temperature) and dz the gradient of sum(weight * -logp).
"""
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parent / "logprob.bin"
rng = np.random.default_rng(11)


def rows(n_vocab):
    """One row of each kind, as (name, logits)."""
    normal = rng.normal(0, 3, n_vocab)
    masked = np.where(rng.random(n_vocab) < 0.7, -np.inf, rng.normal(0, 3, n_vocab))
    masked[0] = 1.5
    peak = rng.normal(0, 1, n_vocab)
    peak[n_vocab // 2] += 60
    return {
        "normal": normal,
        "equal": np.full(n_vocab, -7.25),
        "peak": peak,
        "far up": 30000 + rng.normal(0, 2, n_vocab),
        "far apart": rng.normal(0, 1e4, n_vocab),
        "huge": rng.uniform(-1, 1, n_vocab) * 1e38,
        "masked": masked,
    }


def record(n_vocab, temperature):
    z32 = np.stack(list(rows(n_vocab).values())).astype("<f4")
    n_row = len(z32)
    best = z32.argmax(1)
    ids = np.where(np.arange(n_row) % 2 == 0, rng.integers(0, n_vocab, n_row), best).astype("<i4")
    ids[-1] = 0  # not masked
    weight = rng.normal(0, 1, n_row).astype("<f4")
    weight[1] = 0
    temperature = np.float32(temperature)
    z = torch.tensor(z32, dtype=torch.float64, requires_grad=True)
    v = z / float(temperature)
    logp = torch.log_softmax(v, -1)
    lse = torch.logsumexp(v, -1)
    entropy = torch.special.entr(torch.softmax(v, -1)).sum(-1)
    chosen = logp[torch.arange(n_row), torch.tensor(ids, dtype=torch.int64)]
    (torch.tensor(weight, dtype=torch.float64) * -chosen).sum().backward()
    assert torch.isfinite(z.grad).all() and torch.isfinite(chosen).all()
    parts = [np.array([n_row, n_vocab], "<i4"), np.array([temperature], "<f4"), z32, ids, weight,
             *(t.detach().numpy().astype("<f8") for t in (chosen, lse, entropy)), z.grad.numpy().astype("<f4")]
    return b"".join(p.tobytes() for p in parts)


OUT.write_bytes(b"".join(record(n, t) for n, t in ((1, 1.0), (2, 1.0), (17, 1.0), (17, 0.3), (48, 2.5), (1000, 1.0))))
print(OUT, OUT.stat().st_size)
