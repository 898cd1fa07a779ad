"""The recipe of the model in this folder: a character-level model of the DeepSeek-V3 architecture on tiny Shakespeare.

Run from the root of the project (packages: see tests/golden/README.md; under half an hour on two cores):

    python3 models/shakespeare/train.py                 # trains, stores the model, writes golden.json
    python3 models/shakespeare/train.py --golden-only   # only measures what is stored

The model code is the official DeepseekV3ForCausalLM of transformers, with nothing replaced. Weight matrices are
updated by Muon (momentum, then orthogonalised by Newton-Schulz steps), everything else by AdamW. The experts are kept
in balance without an auxiliary loss, as in the DeepSeek-V3 report: after every step the routing bias of an expert that
got less than its share goes up a little, and that of one that got more goes down.
"""
import argparse
import json
import math
import pathlib
import re
import time

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parents[1].parent / "shared/data/tinyshakespeare/input.txt"
WINDOW = 256  # of the stored loss
PROMPT = "ROMEO:\n"

CONFIG = dict(
    vocab_size=257, hidden_size=160, intermediate_size=448, moe_intermediate_size=64, num_hidden_layers=5,
    num_attention_heads=5, num_key_value_heads=5, q_lora_rank=96, kv_lora_rank=64, qk_nope_head_dim=32,
    qk_rope_head_dim=16, v_head_dim=32, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, n_group=4,
    topk_group=2, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.0, num_mtp_layers=0,
    max_position_embeddings=512, bos_token_id=None, eos_token_id=256, pad_token_id=None, tie_word_embeddings=False,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0),
)

# Not a chat model: the text of the messages is the text to continue.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def byte_tokenizer():
    """256 byte tokens with id = byte, no merges, one special token 256: it accepts every text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    char = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tok = Tokenizer(models.BPE(vocab={char[b]: b for b in range(256)}, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    assert tok.encode("é\n\x00").ids == list("é\n\x00".encode()) and tok.token_to_id("<|endoftext|>") == 256
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|endoftext|>", chat_template=TEMPLATE,
                                                model_max_length=CONFIG["max_position_embeddings"])


def load_text(path):
    """(train, held out) as byte ids: the first 90 % and the last 10 % of the file."""
    ids = torch.from_numpy(np.frombuffer(path.read_bytes(), np.uint8).astype(np.int64))
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:]


def orthogonal(g):
    """The nearest (semi-)orthogonal matrix, roughly: five quintic Newton-Schulz steps over the last two axes."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    flip = x.shape[-2] > x.shape[-1]
    x = x.mT if flip else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (2.0315 * a @ a - 4.7750 * a) @ x
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("m", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                step = orthogonal(p.grad.lerp(buf, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step, alpha=-group["lr"] * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)


class Balance:
    """Counts the choices of every router and moves its bias against the imbalance."""

    def __init__(self, model):
        self.gates = [m for n, m in model.named_modules() if n.endswith("mlp.gate")]
        self.counts = {}
        for g in self.gates:
            g.register_forward_hook(self.count)

    def count(self, gate, _args, out):
        self.counts[gate] = torch.bincount(out[2].flatten(), minlength=gate.num_experts).float()

    def step(self, rate):
        for g in self.gates:
            c = self.counts[g]
            g.e_score_correction_bias += rate * torch.sign(c.mean() - c)

    def worst(self):
        """The largest share of one expert, 1 = even."""
        return max(float(c.max() / c.mean()) for c in self.counts.values())


def windows(ids, n=WINDOW):
    """Non-overlapping windows from position 0; the last partial one is dropped."""
    return ids[: len(ids) // n * n].view(-1, n)


def held_out_loss(model, ids, most=None):
    """Mean nats per predicted token; in each window the tokens 2..256 are predicted. No BOS."""
    total, count = 0.0, 0
    with torch.no_grad():
        for w in windows(ids)[:most].split(32):
            lp = model(w).logits[:, :-1].float().log_softmax(-1)
            nll = -lp.gather(-1, w[:, 1:, None])
            total, count = total + nll.double().sum().item(), count + nll.numel()
    return total / count, count


def schedule(step, steps):
    """Warm-up, flat, then linear to zero over the last 30 %."""
    return min(1.0, (step + 1) / 60, (steps - step) / (0.3 * steps))


def init_weights(model):
    for n, p in model.named_parameters():
        if p.ndim > 1:
            std = 0.5 if "embed_tokens" in n else 0.02 if "lm_head" in n else p.shape[-1] ** -0.5
            if n.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                std *= 0.4
            torch.nn.init.normal_(p, std=std)


def train(model, text, held, args):
    matrices, rest = [], []
    for n, p in model.named_parameters():
        plain = p.ndim < 2 or "embed" in n or "lm_head" in n or n.endswith("gate.weight")
        (rest if plain else matrices).append(p)
    optims = [Muon(matrices, args.lr), torch.optim.AdamW(rest, args.lr / 4, betas=(0.9, 0.98), weight_decay=0.01)]
    for o in optims:
        for g in o.param_groups:
            g["peak"] = g["lr"]
    balance, rng, start = Balance(model), np.random.default_rng(args.seed), time.time()
    for step in range(args.steps):
        n = 512 if step % 3 == 2 else 256  # a third of the steps teaches long positions
        at = rng.integers(0, len(text) - n - 1, args.tokens // n)
        batch = torch.stack([text[i : i + n + 1] for i in at])
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            out = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(out.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        f = schedule(step, args.steps)
        for o in optims:
            for g in o.param_groups:
                g["lr"] = g["peak"] * f
            o.step()
            o.zero_grad()
        balance.step(0.003 * f)
        if step % args.every == args.every - 1:
            v, _ = held_out_loss(model, held, 64)
            print(f"step {step + 1} train {loss.item():.4f} held-out(part) {v:.4f} worst share {balance.worst():.2f} "
                  f"{time.time() - start:.0f} s", flush=True)
    return time.time() - start


def store(model):
    """config.json, generation_config.json, tokenizer files, and the weights in BF16 (the routing bias in F32)."""
    model.save_pretrained(str(HERE))
    byte_tokenizer().save_pretrained(str(HERE))
    full = load_file(HERE / "model.safetensors")
    full = {k: v if k.endswith("e_score_correction_bias") else v.to(torch.bfloat16) for k, v in full.items()}
    save_file(full, str(HERE / "model.safetensors"), metadata={"format": "pt"})
    (HERE / "model.safetensors").chmod(0o644)
    cfg = json.loads((HERE / "config.json").read_text()) | {"dtype": "bfloat16"}
    (HERE / "config.json").write_text(json.dumps(cfg, indent=2) + "\n")
    gen = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "eos_token_id": 256}
    (HERE / "generation_config.json").write_text(json.dumps(gen, indent=2) + "\n")


def greedy(model, n):
    """n greedy ids after PROMPT, and the smallest distance of the two best logits on the way."""
    seq, low = list(PROMPT.encode()), math.inf
    with torch.no_grad():
        for _ in range(n):
            top = model(torch.tensor([seq])).logits[0, -1].topk(2)
            low = min(low, float(top.values[0] - top.values[1]))
            seq.append(int(top.indices[0]))
    return seq[len(PROMPT.encode()):], low


def measure(held):
    """golden.json: what the stored files give when opened by transformers in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(str(HERE), dtype=torch.float32,
                                                              attn_implementation="eager",
                                                              experts_implementation="eager").eval()
    tok = transformers.AutoTokenizer.from_pretrained(str(HERE))
    assert tok.encode(PROMPT) == list(PROMPT.encode())
    loss, count = held_out_loss(model, held)
    ids, low = greedy(model, 200)
    out = {"held_out_loss": round(loss, 7), "predicted_tokens": count, "windows": len(windows(held)), "window": WINDOW,
           "held_out_bytes": len(held), "parameters": sum(p.numel() for p in
           model.parameters()), "greedy": {"prompt": PROMPT, "text": bytes(ids).decode("utf-8", "replace"), "ids": ids,
           "min_logit_margin": round(low, 5)}, "transformers": transformers.__version__, "torch": torch.__version__}
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", type=pathlib.Path, default=DATA)
    ap.add_argument("--steps", type=int, default=400)
    ap.add_argument("--tokens", type=int, default=4096, help="tokens in a batch")
    ap.add_argument("--lr", type=float, default=0.02)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--every", type=int, default=100)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--bf16", action="store_true", help="matrix products of the training in bfloat16")
    ap.add_argument("--golden-only", action="store_true")
    ap.add_argument("--dry", action="store_true", help="train only, store nothing")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    text, held = load_text(args.data)
    if not args.golden_only:
        model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**CONFIG))
        model.set_experts_implementation("eager")
        init_weights(model)
        print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
        seconds = train(model, text, held, args)
        print(f"trained {args.steps} steps in {seconds:.0f} s", flush=True)
        if args.dry:
            return
        store(model)
    info = measure(held)
    lines = json.dumps(info, indent=1, ensure_ascii=False)
    lines = re.sub(r"\[[-\d,\s]*\]", lambda m: re.sub(r"\s+", " ", m[0]), lines)  # the ids on one line
    (HERE / "golden.json").write_text(lines + "\n")
    print(f"held-out loss {info['held_out_loss']}\n{PROMPT}{info['greedy']['text']}")


if __name__ == "__main__":
    main()
