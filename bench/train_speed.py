#!/usr/bin/env python3
"""Training speed against PyTorch: the same Llama shape, batch and optimiser, in turn.

    bench/train_speed.py --python VENV/bin/python [--llmc PROGRAM] [--shape 124m,3.2m,0.8m] [--rounds 3] [--steps 8]
                         [--threads 2] [--out NAME]

VENV needs torch and transformers (any recent ones); without --python minke is measured alone.  PROGRAM is the train_gpt2 that
`make train_gpt2` builds in a clone of llm.c (github.com/karpathy/llm.c): it joins the shape 124m with GPT-2's own form of it,
float32.  It finds its files by fixed names, so a checkpoint of random weights and a file of random tokens are written for it.
A round is one process of each after the other: a number of updates (forward, backward, clipping, AdamW) on one batch shape,
of which the median counts without the first three.  NAME.md and NAME.json go to bench/results/.
"""
import argparse
import array
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
SKIP = 3
SHAPES = {  # layers, width, heads, feed-forward, vocabulary, batch, tokens; 124m: the size of GPT-2 (Radford et al. 2019)
    "124m": (12, 768, 12, 2048, 50304, 4, 64),
    "3.2m": (4, 256, 4, 684, 304, 32, 256),
    "0.8m": (4, 128, 4, 342, 304, 12, 64),
}
TORCH = r"""
import json, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
a = json.loads(sys.argv[1])
torch.set_num_threads(a["threads"]); torch.manual_seed(0)
m = LlamaForCausalLM(LlamaConfig(**a["config"])).train()
o = torch.optim.AdamW(m.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
ids = torch.randint(0, 256, (a["batch"], a["tokens"] + 1))
for _ in range(a["steps"]):
    t = time.monotonic()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a["bf16"]):
        z = m(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]).float(), ids[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    o.step(); o.zero_grad(set_to_none=True)
    print(time.monotonic() - t, flush=True)
"""


def config(shape):
    n_layer, d, n_head, d_ff, n_vocab, _, n_tok = SHAPES[shape]
    return {"hidden_size": d, "num_hidden_layers": n_layer, "num_attention_heads": n_head, "num_key_value_heads": n_head,
            "intermediate_size": d_ff, "vocab_size": n_vocab, "max_position_embeddings": max(n_tok + 1, 64),
            "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu"}


def n_param(shape):
    n_layer, d, _, d_ff, n_vocab, _, _ = SHAPES[shape]
    return n_layer * (4 * d * d + 3 * d * d_ff) + n_vocab * d


def minke(a, shape, folder, precision):
    _, _, _, _, _, batch, n_tok = SHAPES[shape]
    cfg = folder / "config.json"
    cfg.write_text(json.dumps(config(shape) | {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
                                               "eos_token_id": 298, "bos_token_id": None, "dtype": "float32"}))
    rng = random.Random(1)
    # one byte is one token here; a window has n_tok inputs and n_tok targets
    text = "".join(chr(rng.randrange(97, 123)) for _ in range(batch * (n_tok + 1) * 4 - 1))
    (folder / "text.txt").write_text(text)
    cmd = [a.minke, "train", "pretrain", "--config", cfg, "--tokenizer", ROOT / "models/thimble/tokenizer", "-o",
           folder / "run", "--steps", a.steps + SKIP, "--batch-tokens", batch * (n_tok + 1), "--max-len", n_tok + 1,
           "--save-every", 0, "--threads", a.threads, "--precision", precision, "--json", "--quiet", folder / "text.txt"]
    out = subprocess.run([str(c) for c in cmd], check=True, capture_output=True, text=True).stdout
    steps = [json.loads(line) for line in out.splitlines() if '"seconds"' in line]
    full = max(s["tokens"] for s in steps)
    return [s["seconds"] for s in steps if s["tokens"] == full][SKIP:]


def torch(a, shape, bf16):
    _, _, _, _, _, batch, n_tok = SHAPES[shape]
    arg = {"config": config(shape), "threads": a.threads, "batch": batch, "tokens": n_tok, "steps": a.steps + SKIP,
           "bf16": bf16}
    out = subprocess.run([a.python, "-c", TORCH, json.dumps(arg)], check=True, capture_output=True, text=True).stdout
    return [float(x) for x in out.split()][SKIP:]


def gpt2_floats(n_layer, d, n_vocab, n_pos):
    """Parameters in the order of llm.c's checkpoint: (how many, deviation, or None for norms of 1)."""
    matrix, norm = (n_layer * d, 0.02), [(n_layer * d, None), (n_layer * d, 0)]
    return [(n_vocab * d, 0.02), (n_pos * d, 0.02), *norm, (3 * n_layer * d * d, 0.02), (3 * n_layer * d, 0),
            (n_layer * d * d, 0.02), (n_layer * d, 0), *norm, (4 * n_layer * d * d, 0.02), (4 * n_layer * d, 0),
            (4 * n_layer * d * d, 0.02), (n_layer * d, 0), (d, None), (d, 0)]


def write_gpt2(folder, shape):
    """What train_gpt2 opens: gpt2_124M.bin (version 3, float32) and token files, each behind 256 integers."""
    n_layer, d, n_head, _, n_vocab, batch, n_tok = SHAPES[shape]
    rng, n_pos = random.Random(1), 1024
    noise = array.array("f", (rng.gauss(0, 1) for _ in range(1 << 16)))
    with open(folder / "gpt2_124M.bin", "wb") as f:
        head = [20240326, 3, n_pos, n_vocab, n_layer, n_head, d, n_vocab]
        f.write(array.array("i", head + [0] * (256 - len(head))).tobytes())
        for n, deviation in gpt2_floats(n_layer, d, n_vocab, n_pos):
            one = [1.0] * len(noise) if deviation is None else [deviation * x for x in noise]
            block = array.array("f", one).tobytes()
            f.write(block * (n // len(noise)) + block[:4 * (n % len(noise))])
    data = folder / "dev/data/tinyshakespeare"
    data.mkdir(parents=True)
    n = 64 * batch * n_tok + 1
    for name in ("train", "val"):
        ids = array.array("H", (rng.randrange(n_vocab) for _ in range(n)))
        (data / f"tiny_shakespeare_{name}.bin").write_bytes(
            array.array("i", [20240520, 1, n] + [0] * 253).tobytes() + ids.tobytes())


def llmc(a, shape, folder):
    if not (folder / "gpt2_124M.bin").exists():
        write_gpt2(folder, shape)
    seconds = []
    with subprocess.Popen(["stdbuf", "-oL", a.llmc.resolve()], cwd=folder, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": str(a.threads)}) as p:
        for line in p.stdout:  # it does 40 steps and cannot be told otherwise
            if m := re.match(r"step \d+: .*took ([0-9.]+) ms", line):
                seconds.append(float(m[1]) / 1e3)
            if len(seconds) == a.steps + SKIP:
                p.terminate()
                break
    if len(seconds) < a.steps + SKIP:
        sys.exit(f"{a.llmc} ended after {len(seconds)} steps")
    return seconds[SKIP:]


def peak(a):
    """FMA peak of all threads in float32, operations per second, as `minke bench` measures it."""
    out = subprocess.run([str(a.minke), "bench", "-m", str(ROOT / "models/thimble"), "-p", "8", "-n", "0", "-r", "1",
                          "--threads", str(a.threads), "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["limits"][0]["f32_ops_per_second"]["median"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minke", type=pathlib.Path, default=ROOT / "build/minke")
    p.add_argument("--python", help="interpreter that has torch and transformers")
    p.add_argument("--llmc", type=pathlib.Path, help="llm.c's train_gpt2")
    p.add_argument("--shape", default="124m,3.2m,0.8m")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", help="name in bench/results, without ending")
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as d:
        measure(a, rows, pathlib.Path(d))
    report(a, rows)


def measure(a, rows, gpt2):
    for shape in a.shape.split(","):
        found, limit = {}, []
        for _ in range(a.rounds):
            limit.append(peak(a))
            for precision in ("f32", "bf16"):
                with tempfile.TemporaryDirectory() as d:
                    found.setdefault(f"minke {precision}", []).extend(minke(a, shape, pathlib.Path(d), precision))
                if a.python:
                    found.setdefault(f"torch {precision}", []).extend(torch(a, shape, precision == "bf16"))
            if a.llmc and shape == "124m":
                found.setdefault("llm.c f32", []).extend(llmc(a, shape, gpt2))
        n_tok = SHAPES[shape][5] * SHAPES[shape][6]
        for name, seconds in found.items():
            s = statistics.median(seconds)
            rate = 6 * n_param(shape) * n_tok / s
            rows.append({"shape": shape, "program": name, "seconds": s, "best": min(seconds), "tokens_per_second": n_tok / s,
                         "operations_per_second": rate, "of_f32_peak": rate / statistics.median(limit)})


def report(a, rows):
    lines = ["| shape | program | s an update (best) | tokens/s | Gop/s (6 N) | of the f32 peak | minke of this precision is |",
             "|---|---|---|---|---|---|---|"]
    ours = {(r["shape"], r["program"].split()[1]): r["seconds"] for r in rows if r["program"].startswith("minke")}
    for r in rows:
        lines.append(f"| {r['shape']} | {r['program']} | {r['seconds']:.4f} ({r['best']:.4f}) | {r['tokens_per_second']:.0f} | "
                     f"{r['operations_per_second'] / 1e9:.0f} | {100 * r['of_f32_peak']:.0f} % | "
                     f"{r['seconds'] / ours[r['shape'], r['program'].split()[1]]:.2f} x |")
    print("\n".join(lines))
    if a.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        head = f"Training, commit {commit}: `bench/train_speed.py {' '.join(x for x in sys.argv[1:] if '/' not in x)}`\n\n"
        (ROOT / "bench/results" / f"{a.out}.md").write_text(head + "\n".join(lines) + "\n")
        (ROOT / "bench/results" / f"{a.out}.json").write_text(json.dumps(rows, indent=1) + "\n")


main()
