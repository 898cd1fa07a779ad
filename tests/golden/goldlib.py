"""What gen_models.py and gen_gguf.py share: tokenizers, weights, prompts and the golden files themselves."""
import json
import pathlib
import re
import tempfile
import zlib

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import refmodel

torch.set_num_threads(2)
torch.use_deterministic_algorithms(True)
transformers.utils.logging.set_verbosity_error()

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE / "models"
GGUF = HERE / "gguf"
N_IDS = 328  # prompt length of every golden; long enough that a wrong rotation shows
N_GREEDY = 24
SPECIALS = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
N_TOK = 320  # tokenizer size: 4 specials, 256 bytes, 60 merges

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Text of our own to learn the few merges from.
MERGE_TEXT = """The river is wide and the boat is small. There is a house on the other side of the river, and in the
house there is a lamp. Whoever sees the lamp in the night knows the way. The answer to the question is in the thing
itself: look at it, then look again, and then write down what you have seen. 12 and 30 are 42; 7 times 6 is 42."""

SPLITS = {
    "llama-bpe": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "qwen2": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "deepseek-v3": [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
                    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
}


def build_tokenizer(pre, add_bos):
    """A byte-level BPE of N_TOK tokens with the pre-tokenizer of one family ("gpt-2" or a key of SPLITS)."""
    tok = Tokenizer(models.BPE())
    if pre == "gpt-2":
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        parts = [pre_tokenizers.Split(Regex(r), "isolated") for r in SPLITS[pre]]
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        tok.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if pre == "qwen2":
        tok.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=N_TOK, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
                                  show_progress=False)
    tok.train_from_iterator([MERGE_TEXT], trainer)
    assert tok.get_vocab_size() == N_TOK
    tok.decoder = decoders.ByteLevel()
    if add_bos:
        tok.post_processor = processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B",
                                                           special_tokens=[("<|bos|>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<|bos|>", eos_token="<|im_end|>",
                                                pad_token="<|eos|>", chat_template=TEMPLATE,
                                                add_bos_token=add_bos, model_max_length=1024)


def tensor(name, shape, seed, spec):
    """One random tensor, a function of (name, shape, seed) only. Scales keep softmax and routers non-degenerate."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    g = rng.standard_normal(shape)
    if name.endswith("e_score_correction_bias"):
        return rng.uniform(-0.1, 0.2, shape).astype(np.float32)
    if len(shape) == 1:
        return (0.3 * g if name.endswith(".bias") else 1 + 0.25 * g).astype(np.float32)
    scale = shape[-1] ** -0.5
    if "embed_tokens" in name:
        scale = 0.3 if spec.get("tied") else 1.0
    elif "lm_head" in name or "shared_head.head" in name:
        scale *= 3
    elif name.endswith("mlp.gate.weight"):
        scale *= 2  # clear decisions
    elif name.endswith(("q_proj.weight", "q_b_proj.weight")):
        # A peaky softmax, so that the answer depends on positions. DeepSeek's scale has m^2 in it already.
        scale *= 1.2 if "kv_lora_rank" in spec["config"] else 2
    w = g * scale
    if "kv_a_proj" in name and spec.get("small_latent"):
        w[: spec["config"]["kv_lora_rank"]] *= 0.1  # so that the epsilon of the latent norm is visible
    return w.astype(np.float32)


def hf_shapes(spec):
    """Names and shapes as the official save_pretrained writes them."""
    cfg = getattr(transformers, spec["cls"] + "Config")(**spec["config"])
    model = getattr(transformers, spec["cls"] + "ForCausalLM")(cfg)
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d)
        saved = load_file(d + "/model.safetensors")
        return json.load(open(d + "/config.json")), {k: v.shape for k, v in saved.items()}


def make_weights(spec):
    cfg, shapes = hf_shapes(spec)
    return cfg, {k: tensor(k, s, spec["seed"], spec) for k, s in sorted(shapes.items())}


def load_model(cfg, weights, dtype=torch.float32):
    """The official model holding exactly these weights (float32 arrays under Hugging Face names)."""
    with tempfile.TemporaryDirectory() as d:
        json.dump(cfg, open(d + "/config.json", "w"))
        save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, d + "/model.safetensors",
                  metadata={"format": "pt"})
        return load_folder(d, dtype)


def load_folder(path, dtype=torch.float32):
    m, info = transformers.AutoModelForCausalLM.from_pretrained(
        str(path), dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return m.eval()


def bf16(x):
    """Round to nearest even on bfloat16, returned as float32."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16).to(torch.float32).numpy()


def keeps_f32(name, shape):
    return name.endswith("e_score_correction_bias")


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0].float().numpy()


def margins(cfg, w64, ids):
    """Smallest routing margin and smallest chosen score per token (see refmodel.route); inf for dense models."""
    log = []
    refmodel.forward(cfg, w64, np.asarray(ids), None, log)
    if not log:
        return np.full(len(ids), np.inf), np.full(len(ids), np.inf)
    return np.min([l["margin"] for l in log], 0), np.min([l["chosen_min"] for l in log], 0)


def gate_margins(model, cfg, batch):
    """Routing margins of a batch of sequences [b, n], taken from the official model's router inputs."""
    caught = []
    hooks = [m.register_forward_pre_hook(lambda mod, a: caught.append((mod, a[0].detach())))
             for n, m in model.named_modules() if n.endswith("mlp.gate")]
    with torch.no_grad():
        out = model(torch.tensor(batch)).logits.numpy()
    for h in hooks:
        h.remove()
    worst = np.full(batch.shape, np.inf)
    for mod, x in caught:
        w = {"gate.weight": mod.weight.detach().double().numpy()}
        if hasattr(mod, "e_score_correction_bias"):
            w["gate.e_score_correction_bias"] = mod.e_score_correction_bias.double().numpy()
        log = []
        refmodel.route(cfg, w, "", x.reshape(-1, x.shape[-1]).double().numpy(), None, log)
        ok = np.where(log[0]["chosen_min"] > 0, log[0]["margin"], 0)  # a chosen score must be positive, too
        worst = np.minimum(worst, ok.reshape(batch.shape))
    return worst, out


def find_prompt(model, cfg, n, seed, want):
    """n random ids such that every routing decision has at least the margin `want`.

    Grown piece by piece: of 12 random continuations of 6 ids the one with the longest good start is kept. A decision
    taken earlier does not change, since attention is causal.
    """
    rng = np.random.default_rng(seed)
    vocab = min(cfg["vocab_size"], N_TOK)
    if not cfg["model_type"].startswith("deepseek"):
        return rng.integers(4, vocab, n).tolist()
    ids, misses = [], 0
    while len(ids) < n:
        tail = rng.integers(4, vocab, (12, 6))
        batch = np.concatenate([np.tile(np.array(ids, dtype=np.int64), (12, 1)), tail], 1)
        ok = gate_margins(model, cfg, batch)[0][:, len(ids):] >= want
        good = np.cumprod(ok, 1).sum(1)
        best = int(good.argmax())
        misses = 0 if good[best] else misses + 1
        assert misses < 30, "no token reaches the margin; lower it or change the seed"
        ids += tail[best, : good[best]].tolist()
    return ids[:n]


def greedy(model, cfg, seed, n_prompt=12):
    """The least ambiguous greedy continuation found among 384 random short prompts, halved every third step.

    Returns (prompt, ids, smallest distance of the two best logits, smallest routing margin).
    """
    rng = np.random.default_rng(seed + 1)
    seq = rng.integers(4, min(cfg["vocab_size"], N_TOK), (384, n_prompt))
    low = np.full(len(seq), np.inf)
    for step in range(N_GREEDY):
        route, out = gate_margins(model, cfg, seq)
        top = np.sort(out[:, -1], -1)
        low = np.minimum(low, top[:, -1] - top[:, -2])
        score = np.minimum(low, 10 * route.min(1))
        seq = np.concatenate([seq, out[:, -1].argmax(-1)[:, None]], 1)
        if step % 3 == 0 or step == N_GREEDY - 1:
            keep = np.argsort(-score)[: max(len(seq) // 2, 4)]
            seq, low, route = seq[keep], low[keep], route.min(1)[keep]
    return seq[0, :n_prompt].tolist(), seq[0, n_prompt:].tolist(), float(low[0]), float(route[0])


def rel(a, b):
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


VARIANTS_DENSE = ["rope_pairing"]
VARIANTS_DEEP = ["rope_pairing", "no_rope_scaling", "no_mscale", "no_shared", "no_routed_scale"]


def sensitivity(cfg, w64, ids, ref, rows):
    """How far each deliberate mistake moves the stored logits; asserts that it would be noticed."""
    names = list(VARIANTS_DEEP if cfg["model_type"].startswith("deepseek") else VARIANTS_DENSE)
    if refmodel.rope_params(cfg)[1] and "no_rope_scaling" not in names:
        names.append("no_rope_scaling")
    if cfg["model_type"] == "deepseek_v3":
        names += ["no_groups", "no_bias", "bias_in_weight"]
    if cfg.get("topk_method") == "group_limited_greedy":
        names.append("no_groups")
    if cfg.get("routed_scaling_factor") == 1.0:
        names.remove("no_routed_scale")
    if cfg["model_type"].startswith("deepseek") and cfg["rms_norm_eps"] != refmodel.LATENT_EPS:
        names.append("latent_eps")
    out = {}
    for v in names:
        d = rel(refmodel.forward(cfg, w64, np.asarray(ids), v)[rows], ref[rows])
        assert d > 1e-4, (v, d)
        out[v] = float(f"{d:.3g}")
    return out


def write_golden(folder, cfg, weights, seed, prefix="golden", note="", want=None):
    """Computes and stores one golden. weights: float32 arrays under Hugging Face names, already rounded or
    dequantised; the arithmetic is float32 by the official model. Returns what went into <prefix>.json."""
    v3 = cfg["model_type"] == "deepseek_v3"
    want = (0.02 if v3 else 0.1) if want is None else want
    model = load_model(cfg, weights)
    ids = find_prompt(model, cfg, N_IDS, seed, want)
    rows = sorted(set(range(0, N_IDS, 8)) | set(range(N_IDS - 16, N_IDS)))
    ref = logits(model, ids)
    w64 = {k: v.astype(np.float64) for k, v in weights.items() if "layers." not in k
           or int(k.split(".")[2]) < cfg["num_hidden_layers"]}
    own = refmodel.forward(cfg, w64, np.asarray(ids))
    agree = rel(own, ref.astype(np.float64))
    assert agree < 3e-6, f"own float64 forward disagrees: {agree}"
    margin, chosen = margins(cfg, w64, ids)
    # Masked groups are filled with -inf officially and with 0 by some ports: a chosen score above 0 makes both equal.
    assert margin.min() >= want * 0.999 and chosen.min() > 0
    prompt, cont, low, glow = greedy(model, cfg, seed)
    assert low > 0.02 and glow > 0.002, (low, glow)
    brun = load_model(cfg, weights, torch.bfloat16)
    for n, b in brun.named_buffers():
        if n.endswith("e_score_correction_bias"):
            b.data = dict(model.named_buffers())[n].data.clone()
    in_bf16 = logits(brun, ids)
    info = {
        "note": note, "n_ids": N_IDS, "n_rows": len(rows), "n_vocab": int(ref.shape[1]),
        "files": {"ids": f"{prefix}.ids.i32", "rows": f"{prefix}.rows.i32", "logits": f"{prefix}.logits.f32"},
        "greedy": {"prompt": prompt, "ids": cont, "min_logit_margin": round(low, 4),
                   "min_router_margin": None if np.isinf(glow) else round(glow, 5)},
        "min_router_margin": None if np.isinf(margin.min()) else round(float(margin.min()), 5),
        "own_float64_forward_rel": float(f"{agree:.3g}"),
        "bf16_arithmetic": {"rel": round(rel(in_bf16, ref), 6),
                            "worst_row_rel": round(max(rel(a, b) for a, b in zip(in_bf16, ref)), 6),
                            "argmax_equal": round(float((in_bf16.argmax(-1) == ref.argmax(-1)).mean()), 4)},
        "mistakes_rel": sensitivity(cfg, w64, ids, ref, rows),
        "transformers": transformers.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.asarray(ids, "<i4").tofile(folder / info["files"]["ids"])
    np.asarray(rows, "<i4").tofile(folder / info["files"]["rows"])
    ref[rows].astype("<f4").tofile(folder / info["files"]["logits"])
    text = re.sub(r"\[[-\d,\s]*\]", lambda m: re.sub(r"\s+", " ", m[0]), json.dumps(info, indent=1))
    (folder / f"{prefix}.json").write_text(text + "\n")
    print(f"{folder.name:24} {prefix:24} own {agree:.1e} margin {margin.min():.3f} greedy {low:.3f}/{glow:.3f} "
          f"bf16 {info['bf16_arithmetic']['rel']:.4f} {info['mistakes_rel']}", flush=True)
    return info
