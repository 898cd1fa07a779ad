"""GGUF files of the models of gen_models.py, in the layouts in circulation, with official logits where they differ.

Run after gen_models.py: python3 tests/golden/gen_gguf.py [file stem ...]

Every file is written by the gguf package, read back by its reader, dequantised by its code and turned back into Hugging
Face names by from_gguf() below. F32 and BF16 files must give back exactly the weights of the folder, so its golden
holds for them, too; for the others the official model computes logits in float32 from the dequantised weights.
manifest.json says which golden belongs to which file.

The three layouts of arch "deepseek2":
  a  attn_kv_b only; head_count_kv = heads, key_length = nope + rope, value_length = v (llama.cpp before April 2025)
  b  as a, and beside attn_kv_b two 2-D tensors attn_k_b [nope, heads * kv_lora] and attn_v_b [kv_lora, heads * v]
     (dimensions fastest first; ik_llama.cpp)
  c  3-D attn_k_b [nope, kv_lora, heads] and attn_v_b [kv_lora, v, heads], no attn_kv_b; head_count_kv 1, key_length =
     kv_lora + rope, value_length = kv_lora, key_length_mla, value_length_mla (llama.cpp since April 2025)
In b, a quantised file holds attn_k_b in F32, taken from the dequantised attn_kv_b: so both forms mean the same weights.
"""
import json
import re
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

from gen_models import SPECS, llama, mtp_tensors, v3
from goldlib import GGUF, HERE, MODELS, N_TOK, TEMPLATE, bf16, build_tokenizer, keeps_f32, make_weights, rel, write_golden

K_SPECS = {
    "llama_k256": dict(cls="Llama", pre="gpt-2", bos=True, seed=130, config=llama(
        hidden_size=256, intermediate_size=256, num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    # nope 64 leaves attn_k_b without a K-quant, as in the real models (128): it falls back.
    "deepseek_v3_k256": dict(cls="DeepseekV3", pre="deepseek-v3", bos=True, seed=131, config=v3(
        hidden_size=256, intermediate_size=256, moe_intermediate_size=256, q_lora_rank=256, kv_lora_rank=256,
        qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, n_routed_experts=4, num_experts_per_tok=2, n_group=2,
        topk_group=1)),
}
SPECS = SPECS | K_SPECS

# stem -> model, tensor types, layout ("" for llama and qwen2)
FILES = {
    "llama-f32": ("llama", "F32", ""), "llama-bf16": ("llama", "BF16", ""), "llama-q8_0": ("llama", "Q8_0", ""),
    "llama-q4_0": ("llama", "Q4_0", ""), "llama3-f32": ("llama3", "F32", ""), "llama3-q8_0": ("llama3", "Q8_0", ""),
    "yi-f32": ("yi", "F32", "split"), "qwen2-f32": ("qwen2", "F32", ""), "qwen2-q8_0": ("qwen2", "Q8_0", ""),
    "qwen2-q4_0": ("qwen2", "Q4_0", ""), "qwen2_tied-q8_0": ("qwen2_tied", "Q8_0", ""),
    "deepseek_v2lite-a-f32": ("deepseek_v2lite", "F32", "a"), "deepseek_v2lite-a-q4_0": ("deepseek_v2lite", "Q4_0", "a"),
    "deepseek_v2-b-f32": ("deepseek_v2", "F32", "b"), "deepseek_v2-b-q8_0": ("deepseek_v2", "Q8_0", "b"),
    "deepseek_v3-a-bf16": ("deepseek_v3", "BF16", "a"), "deepseek_v3-c-f32": ("deepseek_v3", "F32", "c"),
    "deepseek_v3-c-q8_0": ("deepseek_v3", "Q8_0", "c"), "deepseek_v3-c-q4_0": ("deepseek_v3", "Q4_0", "c"),
    "deepseek_v3_mtp-c-bf16": ("deepseek_v3_mtp", "BF16", "c"),
    "llama_k256-q4_k": ("llama_k256", "Q4_K", ""),
    "deepseek_v3_k256-c-q4_k_m": ("deepseek_v3_k256", "Q4_K_M", "c"),
}

PLAIN = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "enorm": "nextn.enorm", "hnorm": "nextn.hnorm", "eh_proj": "nextn.eh_proj", "embed_tokens": "nextn.embed_tokens",
    "shared_head.norm": "nextn.shared_head_norm", "shared_head.head": "nextn.shared_head_head",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


# ---- block formats the gguf package reads but does not write: plain, valid, not clever -------------------------------

def f16(x):
    return x.astype(np.float16)


def q4_k(w):
    x = w.reshape(-1, 8, 32)
    low = np.minimum(x.min(-1), 0)
    step = (x.max(-1) - low) / 15
    d, dmin = f16(step.max(-1) / 63), f16(-low.min(-1) / 63)
    d32, m32 = d.astype(np.float32)[:, None] + 1e-30, dmin.astype(np.float32)[:, None] + 1e-30
    sc = np.clip(np.rint(step / d32), 0, 63).astype(np.uint8)
    mn = np.clip(np.rint(-low / m32), 0, 63).astype(np.uint8)
    unit = np.maximum(d32 * sc, 1e-30)[..., None]
    q = np.clip(np.rint((x + (m32 * mn)[..., None]) / unit), 0, 15).astype(np.uint8)
    scales = np.concatenate([sc[:, :4] | (sc[:, 4:] >> 4) << 6, mn[:, :4] | (mn[:, 4:] >> 4) << 6,
                             (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4], 1)
    qs = (q[:, 0::2] | q[:, 1::2] << 4).reshape(len(x), 128)
    return np.concatenate([d[:, None].view(np.uint8), dmin[:, None].view(np.uint8), scales, qs], 1)


def q6_k(w):
    x = w.reshape(-1, 16, 16)
    step = np.abs(x).max(-1) / 31
    d = f16(step.max(-1) / 127)
    d32 = d.astype(np.float32)[:, None] + 1e-30
    sc = np.clip(np.rint(step / d32), 1, 127).astype(np.int8)
    sc[:, 1::3] *= -1  # scales are signed: use both signs
    q = np.clip(np.rint(x / (d32 * sc)[..., None]), -32, 31).astype(np.int16) + 32
    s = q.astype(np.uint8).reshape(-1, 2, 4, 32)  # half, strip, element
    ql = np.concatenate([(s[:, :, 0] & 15) | (s[:, :, 2] & 15) << 4, (s[:, :, 1] & 15) | (s[:, :, 3] & 15) << 4], -1)
    qh = s[:, :, 0] >> 4 | s[:, :, 1] >> 4 << 2 | s[:, :, 2] >> 4 << 4 | s[:, :, 3] >> 4 << 6
    n = len(x)
    return np.concatenate([ql.reshape(n, 128), qh.reshape(n, 64), sc.view(np.uint8), d[:, None].view(np.uint8)], 1)


OWN = {T.Q4_K: q4_k, T.Q6_K: q6_k}


def choose(name, a, scheme):
    """The type of one tensor: small ones F32, the rest by scheme, with a fall-back where a row holds no whole block."""
    if a.ndim == 1 or "ffn_gate_inp" in name or name == "rope_freqs.weight":
        return T.F32
    if scheme == "Q4_K_M":  # a mix in the manner of the usual files
        more = any(s in name for s in ("ffn_down", "attn_v_b", "attn_kv_a_mqa")) or name == "output.weight"
        scheme = "Q6_K" if more else "Q4_K"
    want = T[scheme]
    if want in (T.F32, T.BF16):
        return want
    for t in {T.Q4_K: [want, T.Q5_0], T.Q6_K: [want, T.Q8_0]}.get(want, [want]) + [T.F16]:
        if t == T.F16 or a.shape[-1] % gguf.GGML_QUANT_SIZES[t][0] == 0:
            return t


def pack(a, t):
    """Bytes of a float32 array in type t, checked by the package's own dequantisation."""
    a = np.ascontiguousarray(a, np.float32)
    if t == T.F32:
        return a
    if t == T.F16:
        return f16(a)
    if t in OWN:
        size = gguf.GGML_QUANT_SIZES[t]
        data = OWN[t](a).reshape(*a.shape[:-1], a.shape[-1] // size[0] * size[1])
        assert rel(quants.dequantize(data, t), a.astype(np.float64)) < (0.1 if t == T.Q4_K else 0.03)
        return data
    return quants.quantize(a, t)


def unpack(data, t):
    return np.asarray(data, np.float32) if t in (T.F32, T.F16) else quants.dequantize(data, t)


# ---- names and layouts ----------------------------------------------------------------------------------------------

def permute(w, heads):
    """Rows of q or k: half-split pairs (i, i + hd/2) become neighbours (2i, 2i+1)."""
    return w.reshape(heads, 2, len(w) // heads // 2, -1).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, len(w) // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)


def rope_freqs(cfg):
    """Divisors of the base frequencies, float32 [hd/2], for the llama3 scaling."""
    r = cfg["rope_parameters"]
    wave = 2 * np.pi * r["rope_theta"] ** (np.arange(0, cfg["head_dim"], 2) / cfg["head_dim"])
    s, lo, hi, orig = (r[k] for k in ("factor", "low_freq_factor", "high_freq_factor",
                                      "original_max_position_embeddings"))
    t = (orig / wave - lo) / (hi - lo)
    mid = 1 / ((1 - t) / s + t)
    return np.where(wave < orig / hi, 1, np.where(wave > orig / lo, s, mid)).astype(np.float32)


def split_kv_b(cfg, kv_b):
    """attn_k_b [heads, kv_lora, nope] (transposed per head) and attn_v_b [heads, v, kv_lora]."""
    h, dn = cfg["num_attention_heads"], cfg["qk_nope_head_dim"]
    k = kv_b.reshape(h, -1, cfg["kv_lora_rank"])
    return np.ascontiguousarray(k[:, :dn].swapaxes(1, 2)), np.ascontiguousarray(k[:, dn:])


def join_kv_b(cfg, k_b, v_b):
    h, c = cfg["num_attention_heads"], cfg["kv_lora_rank"]
    k, v = k_b.reshape(h, c, -1).swapaxes(1, 2), v_b.reshape(h, -1, c)
    return np.concatenate([k, v], 1).reshape(-1, c)


def to_gguf(cfg, weights, layout, scheme):
    """Ordered [(gguf name, packed array, type)]."""
    out, experts = {}, {}
    for name, w in weights.items():
        stem, kind = name.rsplit(".", 1)
        if stem in TOP:
            out[f"{TOP[stem]}.{kind}"] = w
            continue
        n, rest = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", stem).groups()
        e = re.fullmatch(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj", rest)
        if e:
            experts.setdefault(f"blk.{n}.ffn_{e[2]}_exps.weight", {})[int(e[1])] = w
        elif kind == "e_score_correction_bias":
            out[f"blk.{n}.exp_probs_b.bias"] = w
        else:
            if cfg["model_type"] == "llama" and rest in ("self_attn.q_proj", "self_attn.k_proj"):
                w = permute(w, cfg["num_attention_heads" if "q_proj" in rest else "num_key_value_heads"])
            out[f"blk.{n}.{PLAIN[rest]}.{kind}"] = w
    out.update({k: np.stack([v[i] for i in range(len(v))]) for k, v in experts.items()})
    if cfg["rope_parameters"]["rope_type"] == "llama3":
        out["rope_freqs.weight"] = rope_freqs(cfg)
    order = sorted(out, key=lambda k: (not k.startswith("token_embd"), int(k.split(".")[1]) if k[:4] == "blk." else 1e9, k))
    done = []
    for name in order:
        t = choose(name, out[name], scheme)
        if "attn_kv_b" in name and layout in "bc":
            kv = out[name] if layout == "c" else unpack(pack(out[name], t), t)
            k_b, v_b = split_kv_b(cfg, kv)
            if layout == "b":
                done.append((name, pack(out[name], t), t))
                k_b, v_b = k_b.reshape(-1, k_b.shape[-1]), v_b.reshape(-1, v_b.shape[-1])
            kn, vn = name.replace("kv_b", "k_b"), name.replace("kv_b", "v_b")
            kt = choose(kn, k_b, scheme) if layout == "c" or scheme in ("F32", "BF16") else T.F32
            vt = choose(vn, v_b, scheme)
            done += [(kn, pack(k_b, kt), kt), (vn, pack(v_b, vt), vt)]
        else:
            done.append((name, pack(out[name], t), t))
    return done


def from_gguf(paths, cfg):
    """Weights in float32 under Hugging Face names, from the stored files alone (and the config for head counts)."""
    back = {v: k for k, v in PLAIN.items()}
    top = {v: k for k, v in TOP.items()}
    raw = {}
    for p in paths:
        for t in gguf.GGUFReader(p).tensors:
            raw[t.name] = unpack(t.data, t.tensor_type).reshape([int(d) for d in reversed(t.shape)])
    out = {}
    for name, w in raw.items():
        if name == "rope_freqs.weight":
            continue
        stem, kind = name.rsplit(".", 1)
        if stem in top:
            out[f"{top[stem]}.{kind}"] = w
            continue
        _, n, g = stem.split(".", 2)
        p = f"model.layers.{n}."
        if g.endswith("_exps"):
            for e in range(len(w)):
                out[f"{p}mlp.experts.{e}.{g[4:-5]}_proj.{kind}"] = w[e]
        elif g == "exp_probs_b":
            out[p + "mlp.gate.e_score_correction_bias"] = w
        elif g == "attn_k_b":
            kv = join_kv_b(cfg, w, raw[name.replace("k_b", "v_b")])
            both = raw.get(name.replace("k_b", "kv_b"))
            assert both is None or np.array_equal(both, kv), name
            out[p + "self_attn.kv_b_proj.weight"] = kv
        elif g != "attn_v_b":
            if cfg["model_type"] == "llama" and g in ("attn_q", "attn_k"):
                w = unpermute(w, cfg["num_attention_heads" if g == "attn_q" else "num_key_value_heads"])
            out[f"{p}{back[g]}.{kind}"] = w
    return out


# ---- metadata -------------------------------------------------------------------------------------------------------

def add_common(w, cfg, name, scheme, n_layer):
    w.add_type("model")
    w.add_name(name)
    w.add_quantization_version(2)
    types = dict(F32=0, F16=1, Q4_0=2, Q8_0=7, Q4_K_M=15, Q4_K=14, Q6_K=18, BF16=32)
    w.add_file_type(types[scheme])
    w.add_vocab_size(cfg["vocab_size"])
    w.add_context_length(cfg["max_position_embeddings"])
    w.add_embedding_length(cfg["hidden_size"])
    w.add_block_count(n_layer)
    w.add_feed_forward_length(cfg["intermediate_size"])
    w.add_head_count(cfg["num_attention_heads"])
    w.add_layer_norm_rms_eps(cfg["rms_norm_eps"])
    w.add_rope_freq_base(cfg["rope_parameters"]["rope_theta"])


def add_gqa(w, cfg):
    hd = cfg.get("head_dim") or cfg["hidden_size"] // cfg["num_attention_heads"]
    w.add_head_count_kv(cfg["num_key_value_heads"])
    w.add_rope_dimension_count(hd)
    if cfg["model_type"] == "llama":
        w.add_key_length(hd)
        w.add_value_length(hd)


def add_deepseek(w, cfg, layout, mtp):
    h, dn, dr, dv, c = (cfg[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                                         "kv_lora_rank"))
    three = cfg["model_type"] == "deepseek_v3"
    w.add_head_count_kv(1 if layout == "c" else h)
    w.add_key_length(c + dr if layout == "c" else dn + dr)
    w.add_value_length(c if layout == "c" else dv)
    if layout == "c":
        w.add_key_length_mla(dn + dr)
        w.add_value_length_mla(dv)
    if cfg["q_lora_rank"]:
        w.add_q_lora_rank(cfg["q_lora_rank"])
    w.add_kv_lora_rank(c)
    w.add_rope_dimension_count(dr)
    w.add_leading_dense_block_count(cfg["first_k_dense_replace"])
    w.add_expert_count(cfg["n_routed_experts"])
    w.add_expert_used_count(cfg["num_experts_per_tok"])
    w.add_expert_shared_count(cfg["n_shared_experts"])
    w.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
    w.add_expert_weights_scale(cfg["routed_scaling_factor"])
    if layout != "a" or three:  # the oldest V2 files have neither: softmax, no normalisation
        w.add_expert_weights_norm(bool(cfg["norm_topk_prob"]))
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if three else gguf.ExpertGatingFuncType.SOFTMAX)
    if cfg["n_group"] > 1:
        w.add_expert_group_count(cfg["n_group"])
        w.add_expert_group_used_count(cfg["topk_group"])
    if mtp:
        w.add_nextn_predict_layers(1)
    r = cfg["rope_parameters"]
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(r["factor"])
    w.add_rope_scaling_orig_ctx_len(r["original_max_position_embeddings"])
    w.add_rope_scaling_yarn_log_mul(0.1 * r["mscale_all_dim"])


def add_tokenizer(w, spec, cfg):
    tok = json.loads(build_tokenizer(spec["pre"], spec["bos"]).backend_tokenizer.to_str())
    vocab = {i: t for t, i in tok["model"]["vocab"].items()}
    n = cfg["vocab_size"]
    normal, control, unused = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(spec["pre"])
    w.add_token_list([vocab.get(i, f"[PAD{i}]") for i in range(n)])
    w.add_token_types([control if i < 4 else normal if i < N_TOK else unused for i in range(n)])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]])
    w.add_bos_token_id(0)
    w.add_eos_token_id(3)
    w.add_pad_token_id(1)
    w.add_add_bos_token(spec["bos"])
    w.add_chat_template(TEMPLATE)


def write_file(stem, spec, cfg, weights, scheme, layout):
    """Writes the file, or the two parts of a split one; returns the paths."""
    arch = "deepseek2" if cfg["model_type"].startswith("deepseek") else cfg["model_type"]
    tensors = to_gguf(cfg, weights, layout, scheme)
    half = (len(tensors) + 1) // 2 if layout == "split" else 0
    w = gguf.GGUFWriter(GGUF / f"{stem}.gguf", arch, split_max_tensors=half)
    mtp = bool(spec.get("mtp"))
    add_common(w, cfg, stem, scheme, cfg["num_hidden_layers"] + mtp)
    if arch == "deepseek2":
        add_deepseek(w, cfg, layout, mtp)
    else:
        add_gqa(w, cfg)
    add_tokenizer(w, spec, cfg)
    for name, data, t in tensors:
        w.add_tensor(name, data, raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return sorted(GGUF.glob(f"{stem}-0000?-of-0000?.gguf")) if half else [GGUF / f"{stem}.gguf"]


def folder_golden(model, scheme):
    """The golden of the folder with the same weights, if there is one."""
    path = MODELS / (model + ("-bf16" if scheme == "BF16" else "")) / "golden.json"
    return path if scheme in ("F32", "BF16") and path.exists() else None


def generate(stem):
    model, scheme, layout = FILES[stem]
    spec = SPECS[model]
    cfg, weights = make_weights(spec)
    if spec.get("mtp"):
        weights = weights | mtp_tensors(cfg, spec["seed"], spec, weights)
    if scheme == "BF16":
        weights = {k: v if keeps_f32(k, v.shape) else bf16(v) for k, v in weights.items()}
    paths = write_file(stem, spec, cfg, weights, scheme, layout)
    real = from_gguf(paths, cfg)
    assert sorted(real) == sorted(weights)
    if scheme in ("F32", "BF16"):
        bad = [k for k in real if not np.array_equal(real[k], weights[k])]
        assert not bad, bad
    else:
        worst = max(rel(real[k], v.astype(np.float64)) for k, v in weights.items())
        assert worst < {"Q8_0": 0.02, "Q6_K": 0.03}.get(scheme, 0.13), worst
    if not folder_golden(model, scheme):
        write_golden(GGUF, cfg, real, spec["seed"] + 500, prefix=stem, note=f"weights dequantised from {stem}.gguf, "
                     "arithmetic float32", want=0.02 if "v3" in model else 0.1)


def write_manifest():
    rows = []
    for stem, (model, scheme, layout) in FILES.items():
        first = sorted(GGUF.glob(f"{stem}-00001-of-0000?.gguf")) or [GGUF / f"{stem}.gguf"]
        gold = folder_golden(model, scheme) or GGUF / f"{stem}.json"
        if first[0].exists():
            assert gold.exists(), gold
            rows.append({"file": str(first[0].relative_to(HERE)), "golden": str(gold.relative_to(HERE)), "model": model,
                         "types": scheme, "layout": layout})
    text = ",\n ".join(json.dumps(r) for r in rows)
    (GGUF / "manifest.json").write_text(f"[\n {text}\n]\n")


def main(stems):
    GGUF.mkdir(exist_ok=True)
    for stem in stems or FILES:
        generate(stem)
    write_manifest()


if __name__ == "__main__":
    main(sys.argv[1:])
