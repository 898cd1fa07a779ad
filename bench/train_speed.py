#!/usr/bin/env python3
"""Training speed against PyTorch: the same Llama shape, batch and optimiser, in turn.

    bench/train_speed.py --python VENV/bin/python [--shape 124m,3.2m,0.8m] [--rounds 3] [--steps 8] [--threads 2] [--out NAME]

VENV needs torch and transformers (any recent ones); without --python minke is measured alone.  A round is one process of
each after the other: a number of updates (forward, backward, clipping, AdamW) on one batch shape, of which the median counts
without the first three.  NAME.md and NAME.json go to bench/results/.
"""
import argparse
import json
import pathlib
import random
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


def peak(a):
    """FMA peak of all threads in float32, operations per second, as `minke bench` measures it."""
    out = subprocess.run([str(a.minke), "bench", "-m", str(ROOT / "models/thimble"), "-p", "8", "-n", "0", "-r", "1",
                          "--threads", str(a.threads), "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["limits"][0]["f32_ops_per_second"]["median"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minke", type=pathlib.Path, default=ROOT / "build/minke")
    p.add_argument("--python", help="interpreter that has torch and transformers")
    p.add_argument("--shape", default="124m,3.2m,0.8m")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", help="name in bench/results, without ending")
    a = p.parse_args()
    rows = []
    for shape in a.shape.split(","):
        found, limit = {}, []
        for _ in range(a.rounds):
            limit.append(peak(a))
            for precision in ("f32", "bf16"):
                with tempfile.TemporaryDirectory() as d:
                    found.setdefault(f"minke {precision}", []).extend(minke(a, shape, pathlib.Path(d), precision))
                if a.python:
                    found.setdefault(f"torch {precision}", []).extend(torch(a, shape, precision == "bf16"))
        n_tok = SHAPES[shape][5] * SHAPES[shape][6]
        for name, seconds in found.items():
            s = statistics.median(seconds)
            rate = 6 * n_param(shape) * n_tok / s
            rows.append({"shape": shape, "program": name, "seconds": s, "best": min(seconds), "tokens_per_second": n_tok / s,
                         "operations_per_second": rate, "of_f32_peak": rate / statistics.median(limit)})
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
