#!/usr/bin/env python3
"""Adapters that minke writes, opened by PEFT: the logits must be the stored ones.

    python3 tests/golden/check_adapters.py [build/minke]   (the venv of README.md and PEFT 0.21.2; a minute)

Every golden adapter goes through minke, from PEFT's layout or from GGUF into a folder.  Not part of `make check`: it needs torch.
"""
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import peft

from gen_adapters import CASES, OUT, ROWS, ids_of, logits
from goldlib import MODELS, load_folder, rel

BOUND = 1e-6  # the same program on the same values, but for experts, whose tensors PEFT joins


def check(minke, adapter, base, golden):
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([minke, "convert", MODELS / base, "--adapter", adapter, "-o", d], check=True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = peft.PeftModel.from_pretrained(load_folder(MODELS / base), d)
        missing = [str(w.message) for w in said if "missing" in str(w.message) or "unexpected" in str(w.message)]
        got = logits(model, ids_of(base))[ROWS].astype(np.float64)
    want = np.fromfile(OUT / golden / "logits.f32", np.float32).reshape(len(ROWS), -1).astype(np.float64)
    good = rel(got, want) < BOUND and not missing
    print(f"{adapter.name:24} {rel(got, want):.1e} {missing or ''}{'' if good else '  <-- BAD'}")
    return good


def main():
    minke = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/minke").resolve()
    jobs = [(OUT / n, base, n) for n, (base, _) in CASES.items()]
    jobs += [(OUT / "deepseek_v3_experts", "deepseek_v3", "deepseek_v3_experts"), (OUT / "llama_lora.gguf", "llama", "llama_lora")]
    sys.exit(not all([check(minke, *j) for j in jobs]))


if __name__ == "__main__":
    main()
