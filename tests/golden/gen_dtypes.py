#!/usr/bin/env python3
"""Golden values for src/format/dtype*.c, written to tests/golden/dtypes/.

Truth: the `gguf` package (gguf.quants) for block types, numpy and torch for plain floats.
    python3 tests/golden/gen_dtypes.py        (numpy, torch, gguf; written with gguf 0.19.0, torch 2.15.0)

For each block type NAME:
    NAME.blocks   n_block blocks: random bytes, the f16 scales replaced by sane and by edge values
    NAME.f32      the package's float32 output of the first n_full blocks
    blocks.txt    one line "id name n_block n_full hash", hash over the output of all blocks
Plain types: plain.txt has "id name hash" over the output of all 256 or 65536 bit patterns, in order.
Rounding: f64.bin (in: double, out: float32), from_f32.bin (in: float32, out: f16, bf16), q8_0.bin (in: 32 float32, out:
34 bytes).  grids.txt: hashes of the grid tables as little-endian uint16.
Hashes are FNV-1a 64 over the little-endian bytes, every NaN taken as 0x7fc00000.
"""

import pathlib
import warnings

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import quants

OUT = pathlib.Path(__file__).parent / "dtypes"
warnings.simplefilter("ignore")  # inf * 0 and overflow are wanted here

# byte offsets of the f16 scales in a block
F16_AT = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.IQ4_NL: [0], T.MXFP4: [],
    T.TQ1_0: [52], T.TQ2_0: [64], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ1_M: [],
    T.IQ4_XS: [0],
}
# 0, -0, smallest and largest subnormal, smallest normal, largest, infinity, NaN
EDGES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFC00, 0x7E00]


def fnv(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def bits(x: np.ndarray) -> np.ndarray:
    u = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).copy()
    u[np.isnan(x)] = 0x7FC00000
    return u


def hash_f32(x: np.ndarray) -> str:
    return f"{fnv(bits(x).astype('<u4').tobytes()):016x}"


def set_scale(block: np.ndarray, t: T, rng, edge: int | None) -> None:
    for at in F16_AT[t]:
        v = edge if edge is not None else np.float16(rng.normal() * 0.05).view(np.uint16)
        block[at], block[at + 1] = v & 255, v >> 8
    if t == T.MXFP4:  # 255 is NaN by the OCP specification, the package reads it as 2^127
        e = rng.integers(100, 140) if edge is None else [0, 1, 2, 3, 252, 253, 254, 127][EDGES.index(edge)]
        block[0] = e
    if t == T.IQ1_M:  # the f16 is spread over the top nibbles of four words
        v = edge if edge is not None else int(np.float16(rng.normal() * 0.05).view(np.uint16))
        for i in range(4):
            block[49 + 2 * i] = (block[49 + 2 * i] & 15) | (v >> 4 * i & 15) << 4


def gen_blocks(rng) -> None:
    lines = []
    for t in F16_AT:
        size, n_bytes = gguf.GGML_QUANT_SIZES[t]
        n_block, n_full = 48, (32 if size == 32 else 10)
        blocks = rng.integers(0, 256, (n_block, n_bytes), dtype=np.uint8)
        for i in range(n_block):
            set_scale(blocks[i], t, rng, EDGES[i // 2 - 1] if 2 <= i < 18 and i % 2 == 0 else None)
        out = quants.dequantize(blocks, t).astype(np.float32)
        (OUT / f"{t.name}.blocks").write_bytes(blocks.tobytes())
        (OUT / f"{t.name}.f32").write_bytes(bits(out[:n_full]).astype("<u4").tobytes())
        lines.append(f"{int(t)} {t.name} {n_block} {n_full} {hash_f32(out)}\n")
    (OUT / "blocks.txt").write_text("".join(lines))


def gen_plain() -> None:
    all16, all8 = torch.arange(65536).to(torch.int32), torch.arange(256).to(torch.uint8)
    as16 = all16.to(torch.uint16)
    rows = [
        (1, "F16", np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)),
        (30, "BF16", as16.view(torch.bfloat16).float().numpy()),
        (64, "F8_E4M3", all8.view(torch.float8_e4m3fn).float().numpy()),
        (65, "F8_E5M2", all8.view(torch.float8_e5m2).float().numpy()),
        (66, "F8_E8M0", all8.view(torch.float8_e8m0fnu).float().numpy()),
    ]
    (OUT / "plain.txt").write_text("".join(f"{i} {name} {hash_f32(x)}\n" for i, name, x in rows))


def gen_grids() -> None:
    names = {"iq2xxs": T.IQ2_XXS, "iq2xs": T.IQ2_XS, "iq2s": T.IQ2_S, "iq3xxs": T.IQ3_XXS, "iq3s": T.IQ3_S,
             "iq1s": T.IQ1_S}
    rows = [f"{n} {fnv(bytes.fromhex(quants._type_traits[t].grid_hex.decode())):016x}\n" for n, t in names.items()]
    (OUT / "grids.txt").write_text("".join(rows))


def some_f32(rng, n: int) -> np.ndarray:
    """All magnitudes, and values around every rounding boundary of f16."""
    any_bits = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    near_f16 = rng.integers(0, 65536, n, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    ties = near_f16 + rng.choice(np.array([0, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001], np.uint32), n)
    small = (rng.normal(size=n) * 2.0 ** rng.integers(-30, 0, n)).astype(np.float32)
    edges = np.array([0, 0x80000000, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
                      0xFFFFFFFF, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x387FDFFF, 0x387FE000],
                     np.uint32).view(np.float32)
    return np.concatenate([any_bits, ties.view(np.float32), small, edges])


def gen_rounding(rng) -> None:
    x = some_f32(rng, 300)
    rec = np.zeros(len(x), dtype=[("x", "<f4"), ("f16", "<u2"), ("bf16", "<u2")])
    rec["x"].view("<u4")[:] = x.view(np.uint32)
    rec["f16"] = x.astype(np.float16).view(np.uint16)
    rec["bf16"] = torch.from_numpy(x.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
    (OUT / "from_f32.bin").write_bytes(rec.tobytes())

    d = np.concatenate([
        some_f32(rng, 100).astype(np.float64) * (1 + rng.integers(-3, 4, 317) * 2.0**-25),
        rng.normal(size=200) * 2.0 ** rng.integers(-160, -120, 200).astype(np.float64),  # around float32's subnormals
        (rng.integers(0, 1 << 24, 200) + 0.5) * 2.0**-149,  # ties among the subnormals
        np.array([0.0, -0.0, 2.0**-150, 2.0**-151, -(2.0**-150) * (1 + 2.0**-52), 2.0**-126 - 2.0**-150, 1e300, -1e300,
                  5e-324, 3.5e38, np.inf, np.nan]),
    ])
    rec = np.zeros(len(d), dtype=[("x", "<f8"), ("f32", "<u4")])
    rec["x"] = d
    rec["f32"] = bits(d.astype(np.float32))
    (OUT / "f64.bin").write_bytes(rec.tobytes())


def gen_q8_0(rng) -> None:
    rows = [rng.normal(size=32) * s for s in (1, 0.02, 1e-3, 1e-6, 1e-9, 1e-25, 1e-29, 3e4, 5e6, 9e6, 1e12)]
    rows += [np.zeros(32), np.full(32, 0.25), np.arange(-16, 16), np.arange(32) * 0.5 - 8, np.eye(32)[3] * -7]
    rows += [np.concatenate([[127.0], rng.integers(-126, 127, 31) + 0.5]) * s for s in (1, 2.0**-9, 2.0**-20)]  # ties
    rows += [rng.normal(size=32) for _ in range(40)]
    x = np.array(rows, dtype=np.float32)
    y = quants.quantize(x, T.Q8_0)
    (OUT / "q8_0.bin").write_bytes(b"".join(a.astype("<f4").tobytes() + b.tobytes() for a, b in zip(x, y)))


def main() -> None:
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(2026)
    gen_blocks(rng)
    gen_plain()
    gen_grids()
    gen_rounding(rng)
    gen_q8_0(rng)


main()
