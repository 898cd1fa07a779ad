#!/usr/bin/env python3
"""Small GGUF and safetensors files written by the official packages, for tests/format/, and the fuzzers' seeds.

    python3 tests/golden/gen_formats.py   (numpy, torch, gguf, safetensors; written with gguf 0.19.0, safetensors 0.8.0)

Values are formulas, repeated in the C tests: element i of a tensor is (i - 4) / 2, unless said otherwise below.
"""

import json
import os
import pathlib
import struct

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
OUT = HERE / "format"
SEEDS = HERE.parent / "fuzz" / "corpus"


def ramp(*shape: int) -> np.ndarray:
    return ((np.arange(np.prod(shape)) - 4) / 2).astype(np.float32).reshape(shape)


def add_keys(w: gguf.GGUFWriter) -> None:
    """One key of every type, one array of every type."""
    w.add_key_value("t.u8", 200, V.UINT8)
    w.add_key_value("t.i8", -100, V.INT8)
    w.add_key_value("t.u16", 60000, V.UINT16)
    w.add_key_value("t.i16", -30000, V.INT16)
    w.add_key_value("t.u32", 4000000000, V.UINT32)
    w.add_key_value("t.i32", -2000000000, V.INT32)
    w.add_key_value("t.f32", 0.1, V.FLOAT32)
    w.add_key_value("t.bool", True, V.BOOL)
    w.add_key_value("t.str", "Grüße\n", V.STRING)
    w.add_key_value("t.u64", 2**63 + 5, V.UINT64)
    w.add_key_value("t.i64", -(2**62), V.INT64)
    w.add_key_value("t.f64", 1e-300, V.FLOAT64)
    w.add_key_value("t.empty", "", V.STRING)
    w.add_key_value("a.i32", [1, -2, 3], V.ARRAY, V.INT32)
    w.add_key_value("a.u8", [7, 255], V.ARRAY, V.UINT8)
    w.add_key_value("a.f32", [0.5, -1.5], V.ARRAY, V.FLOAT32)
    w.add_key_value("a.bool", [True, False, True], V.ARRAY, V.BOOL)
    w.add_key_value("a.str", ["", "a", "bcd"], V.ARRAY, V.STRING)
    w.add_key_value("a.u64", [2**63], V.ARRAY, V.UINT64)


def add_tensors(w: gguf.GGUFWriter) -> None:
    rng = np.random.default_rng(7)
    w.add_tensor("f32", ramp(2, 3))
    w.add_tensor("f16", ramp(4).astype(np.float16))
    w.add_tensor("bf16", gguf.quantize(ramp(2, 8), T.BF16), raw_dtype=T.BF16)
    w.add_tensor("q8_0", gguf.quantize(ramp(2, 64), T.Q8_0), raw_dtype=T.Q8_0)
    w.add_tensor("q4_k", rng.integers(0, 256, (2, 144), dtype=np.uint8), raw_dtype=T.Q4_K)
    w.add_tensor("i32.4d", np.arange(24, dtype=np.int32).reshape(2, 3, 2, 2))


def finish(w: gguf.GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gen_gguf() -> None:
    w = gguf.GGUFWriter(OUT / "all.gguf", "test")
    add_keys(w)
    add_tensors(w)
    finish(w)
    data = bytearray((OUT / "all.gguf").read_bytes())
    data[4] = 2
    (OUT / "v2.gguf").write_bytes(data)

    w = gguf.GGUFWriter(OUT / "aligned64.gguf", "test")
    w.add_custom_alignment(64)
    w.add_tensor("a", ramp(3))
    w.add_tensor("b", ramp(5))
    finish(w)

    w = gguf.GGUFWriter(OUT / "vocab.gguf", "test")  # no tensors
    w.add_token_list(["<s>", "</s>", "a"])
    finish(w)

    w = gguf.GGUFWriter(OUT / "big_endian.gguf", "test", endianess=gguf.GGUFEndian.BIG)
    w.add_tensor("a", ramp(3))
    finish(w)

    w = gguf.GGUFWriter(OUT / "split.gguf", "test", split_max_tensors=2)
    for i in range(5):
        w.add_tensor(f"t{i}", ramp(3) + i)
    finish(w)


def gen_written() -> None:
    """What the C writer has to produce, byte for byte (tests/format/test_gguf_write.c has the same calls)."""
    w = gguf.GGUFWriter(OUT / "written.gguf", "test")
    w.add_key_value("k.u32", 7, V.UINT32)
    w.add_key_value("k.i16", -7, V.INT16)
    w.add_key_value("k.bool", True, V.BOOL)
    w.add_key_value("k.f32", 0.1, V.FLOAT32)
    w.add_key_value("k.str", "text", V.STRING)
    w.add_key_value("k.strs", ["", "ab"], V.ARRAY, V.STRING)
    w.add_key_value("k.f32s", [0.5, 0.25, 3.0], V.ARRAY, V.FLOAT32)
    w.add_key_value("k.i32s", [1, -1], V.ARRAY, V.INT32)
    w.add_tensor("f32", ramp(2, 3))
    w.add_tensor("f16", ramp(2, 2, 5).astype(np.float16))
    w.add_tensor("bf16", gguf.quantize(ramp(8), T.BF16), raw_dtype=T.BF16)
    w.add_tensor("q8_0", gguf.quantize(ramp(1, 3, 64), T.Q8_0), raw_dtype=T.Q8_0)
    finish(w)


def gen_safetensors() -> None:
    t = {
        "f32": torch.from_numpy(ramp(2, 3)),
        "f16": torch.from_numpy(ramp(4)).half(),
        "bf16": torch.from_numpy(ramp(2, 8)).bfloat16(),
        "e4m3": torch.from_numpy(ramp(3, 5)).to(torch.float8_e4m3fn),
        "e5m2": torch.from_numpy(ramp(7)).to(torch.float8_e5m2),
        "f64": torch.from_numpy(ramp(2)).double(),
        "i64": torch.arange(3),
        "u8": torch.arange(3, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    save_file(t, OUT / "all.safetensors", metadata={"note": "Grüße"})
    save_file(t, OUT / "written.safetensors", metadata={"format": "pt"})  # minke's writer gives these bytes
    folder = OUT / "sharded"
    folder.mkdir(exist_ok=True)
    shards = {"model-00001-of-00002.safetensors": {"a": t["f32"], "b": t["f16"]},
              "model-00002-of-00002.safetensors": {"c": t["bf16"], "not.in.map": t["f64"]}}
    for name, tensors in shards.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    weight_map = {k: name for name, tensors in shards.items() for k in tensors if k != "not.in.map"}
    index = {"metadata": {"total_size": 64}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def raw_safetensors(header: str, data: bytes) -> bytes:
    h = header.encode()
    return struct.pack("<Q", len(h)) + h + data


def gen_seeds() -> None:
    (SEEDS / "gguf").mkdir(parents=True, exist_ok=True)
    (SEEDS / "safetensors").mkdir(parents=True, exist_ok=True)
    for name in ("all", "v2", "aligned64", "vocab", "big_endian", "split-00001-of-00003"):
        (SEEDS / "gguf" / f"{name}.gguf").write_bytes((OUT / f"{name}.gguf").read_bytes())
    (SEEDS / "safetensors" / "all").write_bytes((OUT / "all.safetensors").read_bytes())
    small = {
        "none": ("{}", b""),
        "one": ('{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}', bytes(8)),
        "two": ('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"I16","shape":[],'
                '"data_offsets":[3,5]},"__metadata__":{"k":"v"}}   ', bytes(5)),
        "f4": ('{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}', bytes(2)),
    }
    for name, (header, data) in small.items():
        (SEEDS / "safetensors" / name).write_bytes(raw_safetensors(header, data))


def main() -> None:
    os.umask(0o022)
    OUT.mkdir(exist_ok=True)
    gen_gguf()
    gen_written()
    gen_safetensors()
    gen_seeds()


main()
