"""Tiny random checkpoints in the Hugging Face layout, each with logits of the official implementation.

Run: python3 tests/golden/gen_models.py [name ...]     (see README.md for the packages; about three minutes)

Facts found while generating, by comparing with refmodel.py (an own float64 forward, MLA absorbed):
 * transformers' DeepseekV2 and DeepseekV3 agree with the published equations to float32 rounding (see
   own_float64_forward_rel in every golden.json): interleaved rotary pairs, yarn with floor and ceil, cos/sin factor
   m(mscale)/m(mscale_all_dim) = 1, softmax scale * m(mscale_all_dim)^2, latent norms with eps 1e-6 whatever
   rms_norm_eps says (model deepseek_v2lite sees the difference).
 * transformers 5 masks the groups of V3 with -inf as the official code does (older releases: 0). V2 masks softmax
   scores with 0, which is the same as long as k experts remain, since softmax is positive.
 * The router bias is a float32 tensor in every variant, and the router itself runs in float32.
"""
import json
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file as save_torch

from goldlib import MODELS, SPECIALS, bf16, build_tokenizer, keeps_f32, load_folder, load_model, logits, make_weights, rel, \
    tensor, write_golden

YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=40.0, beta_fast=32, beta_slow=1)


def llama(**kw):
    return dict(vocab_size=320, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=1024, bos_token_id=0, eos_token_id=3, tie_word_embeddings=False) | kw


def deepseek(**kw):
    return dict(vocab_size=320, hidden_size=64, intermediate_size=160, moe_intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=4, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=24,
                kv_lora_rank=32, n_routed_experts=8, num_experts_per_tok=3, first_k_dense_replace=1,
                bos_token_id=0, eos_token_id=3, max_position_embeddings=10240) | kw


def v3(**kw):
    yarn = dict(YARN, original_max_position_embeddings=256, mscale=1.0, mscale_all_dim=1.0)
    return deepseek(q_lora_rank=32, n_shared_experts=1, n_group=4, topk_group=2, norm_topk_prob=True,
                    routed_scaling_factor=2.5, rope_parameters=yarn, num_mtp_layers=0) | kw


V2YARN = dict(YARN, original_max_position_embeddings=256, mscale=0.707, mscale_all_dim=0.707)

# name -> class, config, tokenizer; "bf16" writes the second folder in the spelling of the published configs.
SPECS = {
    # head_dim is not hidden/heads and no multiple of 16; ff 176 is no multiple of 32, so block formats fall back.
    "llama": dict(cls="Llama", pre="gpt-2", bos=True, bf16=True, config=llama(
        num_key_value_heads=4, head_dim=24, intermediate_size=176, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "llama3": dict(cls="Llama", pre="llama-bpe", bos=True, bf16=True, tied=True, config=llama(
        num_key_value_heads=2, num_hidden_layers=3, head_dim=32, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=128))),
    "yi": dict(cls="Llama", pre="gpt-2", bos=False, bf16=False, shard="160KB", config=llama(
        num_key_value_heads=1, intermediate_size=136, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="default", rope_theta=5000000.0))),
    # Eight more rows in the vocabulary than the tokenizer has ids, as in the published ones.
    "qwen2": dict(cls="Qwen2", pre="qwen2", bos=False, bf16=True, config=llama(
        vocab_size=328, num_key_value_heads=2, rms_norm_eps=1e-6,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen2_tied": dict(cls="Qwen2", pre="qwen2", bos=False, bf16=False, tied=True, config=llama(
        num_key_value_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    # rms_norm_eps differs from the latent norms' 1e-6 and the latent is small, so the difference shows.
    "deepseek_v2lite": dict(cls="DeepseekV2", pre="gpt-2", bos=True, bf16=True, small_latent=True, config=deepseek(
        q_lora_rank=None, n_shared_experts=2, topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False,
        routed_scaling_factor=1.0, rms_norm_eps=1e-5, rope_parameters=V2YARN)),
    "deepseek_v2": dict(cls="DeepseekV2", pre="gpt-2", bos=True, bf16=False, config=deepseek(
        q_lora_rank=40, n_shared_experts=2, topk_method="group_limited_greedy", n_group=4, topk_group=2,
        norm_topk_prob=False, routed_scaling_factor=16.0, rope_parameters=V2YARN)),
    "deepseek_v3": dict(cls="DeepseekV3", pre="deepseek-v3", bos=True, bf16=True, config=v3(
        num_hidden_layers=5, first_k_dense_replace=3, n_routed_experts=12, num_experts_per_tok=4,
        intermediate_size=96)),
    "deepseek_v3_mtp": dict(cls="DeepseekV3", pre="deepseek-v3", bos=True, bf16=False, mtp=True, config=v3(
        hidden_size=48, intermediate_size=96, num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4,
        num_experts_per_tok=2, n_group=2, topk_group=1, num_mtp_layers=1)),
    # Only stored as FP8. Sizes over 128 that are no multiples of it: whole and partial tiles on both axes.
    "deepseek_v3-fp8": dict(cls="DeepseekV3", pre="deepseek-v3", bos=True, fp8=True, config=v3(
        hidden_size=160, intermediate_size=264, moe_intermediate_size=136, q_lora_rank=136, n_routed_experts=6,
        n_group=3, kv_lora_rank=128, v_head_dim=32)),
}
for _i, (_k, _v) in enumerate(SPECS.items()):
    _v["seed"] = 100 + _i


def published(cfg, dtype):
    """config.json as the model makers publish it: rope_theta and rope_scaling at the top level, torch_dtype."""
    c = {k: v for k, v in cfg.items() if k not in ("rope_parameters", "dtype", "qk_head_dim", "rope_interleave",
                                                   "output_router_logits")}
    rope = dict(cfg["rope_parameters"])
    c["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None if kind == "default" else dict(rope, **{"type" if kind == "yarn" else "rope_type": kind})
    c["torch_dtype"] = dtype
    c["transformers_version"] = "4.40.0"
    if cfg["model_type"].startswith("deepseek"):
        c.pop("head_dim", None)
        three = cfg["model_type"] == "deepseek_v3"
        c.update(moe_layer_freq=1, ep_size=1, scoring_func="sigmoid" if three else "softmax")
        if three:
            c["topk_method"] = "noaux_tc"
    return c


def write_config(folder, cfg):
    (folder / "config.json").write_text(json.dumps(cfg, indent=2) + "\n")


def save_common(folder, spec):
    build_tokenizer(spec["pre"], spec["bos"]).save_pretrained(str(folder))
    gen = {"bos_token_id": 0, "eos_token_id": [1, 3], "do_sample": True, "temperature": 0.7, "top_p": 0.95,
           "transformers_version": transformers.__version__}
    (folder / "generation_config.json").write_text(json.dumps(gen, indent=2) + "\n")


def fresh(name):
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def mtp_tensors(cfg, seed, spec, weights):
    """The extra layer of a V3 file: projections, one decoder layer, copies of embedding and head. All to be skipped."""
    n, d = cfg["num_hidden_layers"], cfg["hidden_size"]
    last = f"model.layers.{n - 1}."
    extra = {k.replace(last, f"model.layers.{n}."): v for k, v in weights.items() if k.startswith(last)}
    p = f"model.layers.{n}."
    for k in extra:
        extra[k] = tensor(k, extra[k].shape, seed, spec)
    for k, s in [("enorm.weight", (d,)), ("hnorm.weight", (d,)), ("shared_head.norm.weight", (d,)),
                 ("eh_proj.weight", (d, 2 * d))]:
        extra[p + k] = tensor(p + k, s, seed, spec)
    extra[p + "embed_tokens.weight"] = weights["model.embed_tokens.weight"].copy()
    extra[p + "shared_head.head.weight"] = weights["lm_head.weight"].copy()
    return extra


def gen_f32(name, spec, cfg, weights):
    folder = fresh(name)
    save_common(folder, spec)
    load_model(cfg, weights).save_pretrained(str(folder), max_shard_size=spec.get("shard", "50GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_common(folder, spec)
    if spec.get("mtp"):
        full = {k: torch.from_numpy(v) for k, v in (weights | mtp_tensors(cfg, spec["seed"], spec, weights)).items()}
        save_torch(full, str(folder / "model.safetensors"), metadata={"format": "pt"})
    write_golden(folder, cfg, weights, spec["seed"], note="weights F32, arithmetic float32")
    check_folder(folder)


def gen_bf16(name, spec, cfg, weights):
    folder = fresh(name + "-bf16")
    save_common(folder, spec)
    write_config(folder, published(cfg, "bfloat16"))
    rounded = {k: v if keeps_f32(k, v.shape) else bf16(v) for k, v in weights.items()}
    typed = {k: torch.from_numpy(v) if keeps_f32(k, v.shape) else torch.from_numpy(v).to(torch.bfloat16)
             for k, v in rounded.items()}
    save_torch(typed, str(folder / "model.safetensors"), metadata={"format": "pt"})
    write_golden(folder, cfg, rounded, spec["seed"], note="weights BF16, arithmetic float32")
    check_folder(folder)


def fp8_tiles(w):
    """(q as float8_e4m3fn, weight_scale_inv, q * scale): one scale per 128x128 tile, its largest value becomes 448."""
    o, i = w.shape
    scale = np.zeros((-(-o // 128), -(-i // 128)), np.float32)
    q = torch.zeros(o, i, dtype=torch.float8_e4m3fn)
    for a in range(scale.shape[0]):
        for b in range(scale.shape[1]):
            t = np.s_[a * 128:(a + 1) * 128, b * 128:(b + 1) * 128]
            scale[a, b] = np.abs(w[t]).max() / np.float32(448)
            q[t] = torch.from_numpy(w[t] / scale[a, b]).to(torch.float8_e4m3fn)
    full = np.repeat(np.repeat(scale, 128, 0)[:o], 128, 1)[:, :i]
    return q, torch.from_numpy(scale), q.float().numpy() * full


def gen_fp8(name, spec, cfg, weights):
    folder = fresh(name)
    save_common(folder, spec)
    pub = published(cfg, "bfloat16")
    pub["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                  "weight_block_size": [128, 128]}
    write_config(folder, pub)
    typed, real = {}, {}
    for k, v in weights.items():
        if keeps_f32(k, v.shape):
            typed[k], real[k] = torch.from_numpy(v), v
        elif v.ndim == 2 and not any(s in k for s in ("embed_tokens", "lm_head", "mlp.gate.weight")):
            typed[k], typed[k + "_scale_inv"], real[k] = fp8_tiles(v)
        else:
            real[k] = bf16(v)
            typed[k] = torch.from_numpy(real[k]).to(torch.bfloat16)
    save_torch(typed, str(folder / "model.safetensors"), metadata={"format": "pt"})
    write_golden(folder, cfg, real, spec["seed"], note="weights FP8 (q * scale in float32), arithmetic float32")
    (folder / "model.safetensors").chmod(0o644)


def check_folder(folder):
    for f in folder.iterdir():
        f.chmod(0o644)
    check_logits(folder)
    tok = transformers.AutoTokenizer.from_pretrained(str(folder))
    text = "Whoever sees the lamp, 12345 — naïve 漢字 it's"
    assert tok.decode(tok.encode(text, add_special_tokens=False)) == text
    assert tok.convert_tokens_to_ids(SPECIALS) == [0, 1, 2, 3]


def check_logits(folder):
    """The folder as stored, opened by the official loader, gives the stored logits bit for bit."""
    ids = np.fromfile(folder / "golden.ids.i32", "<i4")
    rows = np.fromfile(folder / "golden.rows.i32", "<i4")
    want = np.fromfile(folder / "golden.logits.f32", "<f4").reshape(len(rows), -1)
    got = logits(load_folder(folder), ids)[rows]
    assert rel(got, want) < 1e-6, (folder.name, rel(got, want))


def main(names):
    for name in names or SPECS:
        spec = SPECS[name]
        cfg, weights = make_weights(spec)
        if spec.get("fp8"):
            gen_fp8(name, spec, cfg, weights)
            continue
        gen_f32(name, spec, cfg, weights)
        if spec["bf16"]:
            gen_bf16(name, spec, cfg, weights)


if __name__ == "__main__":
    main(sys.argv[1:])
