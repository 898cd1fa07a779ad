"""Golden gradients of causal attention: torch in float64, several sequences of a packed batch.

Writes golden/attention_back.bin.  For each case (grouped queries; one latent kv head whose first columns are the
values) and each length: int8 q, k, v (not latent), dy, all times 1/32; then float32 dq, dk, dv (not latent), rounded from
float64.  All row-major [token, head, column].
"""
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

OUT = pathlib.Path(__file__).resolve().parent / "attention_back.bin"
LENGTHS = (1, 5, 70, 130)
# heads, kv heads, d_k, d_v, latent, scale
CASES = ((4, 2, 8, 8, False, 0.375), (4, 1, 12, 8, True, 0.25))

rng = np.random.default_rng(44)


def draw(*shape):
    return np.clip(np.rint(rng.standard_normal(shape) * 32), -127, 127).astype(np.int8)


def tensor(codes):
    return torch.tensor(codes.astype(np.float64) / 32, requires_grad=True)


def heads_first(x):
    return x.transpose(0, 1)[None]


parts = []
for n_head, n_kv, d_k, d_v, latent, scale in CASES:
    for n in LENGTHS:
        codes = [draw(n, n_head, d_k), draw(n, n_kv, d_k)] + ([] if latent else [draw(n, n_kv, d_v)])
        dy = draw(n, n_head, d_v)
        leaves = [tensor(c) for c in codes]
        q, k = leaves[0], leaves[1]
        v = k[:, :, :d_v] if latent else leaves[2]
        y = F.scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v), is_causal=True, scale=scale,
                                           enable_gqa=True)
        y.backward(heads_first(tensor(dy).detach()))
        parts += [c.tobytes() for c in codes + [dy]]
        parts += [x.grad.numpy().astype("<f4").tobytes() for x in leaves]
OUT.write_bytes(b"".join(parts))
print(OUT, OUT.stat().st_size)
