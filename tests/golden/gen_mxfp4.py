"""Golden values of MXFP4 as gpt-oss folders store it: random blocks and scales, and what transformers makes of them.

Writes golden/format/mxfp4.bin: u8 blocks [64, 16], u8 scales [64], float32 values [64, 32].
"""
import pathlib

import numpy as np
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

N = 64
OUT = pathlib.Path(__file__).resolve().parent / "format/mxfp4.bin"

rng = np.random.default_rng(4)
blocks = rng.integers(0, 256, (N, 16), dtype=np.uint8)
scales = rng.integers(110, 140, N, dtype=np.uint8)
# the function wants [experts, rows, blocks, 16] and gives [experts, columns, rows]
values = convert_moe_packed_tensors(torch.from_numpy(blocks)[None, None], torch.from_numpy(scales)[None, None],
                                    dtype=torch.float32)
values = values.reshape(N, 32).numpy().astype("<f4")
OUT.write_bytes(blocks.tobytes() + scales.tobytes() + values.tobytes())
print(OUT, OUT.stat().st_size)
