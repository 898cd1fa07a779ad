"""An own forward pass in numpy float64, written from the published equations, to check the official goldens.

It shares no code with transformers. Two things differ on purpose from the official implementation, so that a
common mistake is unlikely: MLA runs in its *absorbed* form (the latent is the key and the value), and the rotary
part of DeepSeek is rotated in place on pairs (2i, 2i+1) instead of being re-ordered first.

`variant` breaks one rule at a time ("rope_pairing", "no_rope_scaling", "no_mscale", ...). The generators use it to
prove that a golden would notice the mistake.
"""
import math

import numpy as np

LATENT_EPS = 1e-6  # the norms inside MLA take the class default, not config.rms_norm_eps


def rope_params(cfg):
    """(theta, scaling dict or None) from both spellings of config.json."""
    new = cfg.get("rope_parameters")
    if new:
        kind = new.get("rope_type", "default")
        return new["rope_theta"], (None if kind == "default" else dict(new, rope_type=kind))
    old = cfg.get("rope_scaling")
    theta = cfg.get("rope_theta", 10000.0)
    if not old:
        return theta, None
    return theta, dict(old, rope_type=old.get("rope_type", old.get("type")))


def inv_freq(theta, r, scaling):
    """The r/2 rotation speeds and the factor on cos and sin."""
    f = theta ** (-np.arange(0, r, 2, dtype=np.float64) / r)
    if not scaling:
        return f, 1.0
    s, orig = float(scaling["factor"]), scaling["original_max_position_embeddings"]
    if scaling["rope_type"] == "llama3":
        lo, hi = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wave = 2 * np.pi / f
        t = (orig / wave - lo) / (hi - lo)
        mid = f * ((1 - t) / s + t)
        return np.where(wave < orig / hi, f, np.where(wave > orig / lo, f / s, mid)), 1.0

    def corr(n):
        return r * math.log(orig / (2 * math.pi * n)) / (2 * math.log(theta))

    low = max(math.floor(corr(scaling.get("beta_fast", 32))), 0)
    high = min(math.ceil(corr(scaling.get("beta_slow", 1))), r - 1)
    ramp = np.clip((np.arange(r // 2) - low) / max(high - low, 0.001), 0, 1)
    factor = mscale(s, scaling["mscale"]) / mscale(s, scaling["mscale_all_dim"])
    return f / s * ramp + f * (1 - ramp), factor


def mscale(s, a):
    return 1.0 if s <= 1 else 0.1 * a * math.log(s) + 1.0


def rotate(x, ang, factor, interleaved):
    """x[n, ..., r] turned by ang[n, r/2]."""
    shape = (ang.shape[0],) + (1,) * (x.ndim - 2) + (ang.shape[1],)
    c, s = np.cos(ang).reshape(shape) * factor, np.sin(ang).reshape(shape) * factor
    y = np.empty_like(x)
    h = x.shape[-1] // 2
    a, b = (np.s_[..., 0::2], np.s_[..., 1::2]) if interleaved else (np.s_[..., :h], np.s_[..., h:])
    y[a] = x[a] * c - x[b] * s
    y[b] = x[b] * c + x[a] * s
    return y


def rms(x, w, eps):
    return w * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def causal(s):
    n = s.shape[-1]
    return np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)


def gqa(cfg, w, p, x, ang, factor, variant):
    n, nh, nk = len(x), cfg["num_attention_heads"], cfg["num_key_value_heads"]
    hd = cfg.get("head_dim") or cfg["hidden_size"] // nh

    def lin(name):
        return x @ w[p + name + ".weight"].T + w.get(p + name + ".bias", 0.0)

    inter = variant == "rope_pairing"
    q = rotate(lin("q_proj").reshape(n, nh, hd), ang, factor, inter)
    k = rotate(lin("k_proj").reshape(n, nk, hd), ang, factor, inter)
    v = lin("v_proj").reshape(n, nk, hd)
    k, v = np.repeat(k, nh // nk, 1), np.repeat(v, nh // nk, 1)
    a = softmax(causal(np.einsum("ihd,jhd->hij", q, k) / math.sqrt(hd)))
    return np.einsum("hij,jhd->ihd", a, v).reshape(n, -1) @ w[p + "o_proj.weight"].T


def mla(cfg, w, p, x, ang, factor, variant):
    n, nh = len(x), cfg["num_attention_heads"]
    dn, dr, dv, c = (cfg[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
    eps = cfg["rms_norm_eps"] if variant == "latent_eps" else LATENT_EPS
    if cfg.get("q_lora_rank"):
        q = rms(x @ w[p + "q_a_proj.weight"].T, w[p + "q_a_layernorm.weight"], eps) @ w[p + "q_b_proj.weight"].T
    else:
        q = x @ w[p + "q_proj.weight"].T
    q = q.reshape(n, nh, dn + dr)
    ckv = x @ w[p + "kv_a_proj_with_mqa.weight"].T
    lat = rms(ckv[:, :c], w[p + "kv_a_layernorm.weight"], eps)
    inter = variant != "rope_pairing"
    q_pe, k_pe = rotate(q[..., dn:], ang, factor, inter), rotate(ckv[:, c:], ang, factor, inter)
    kvb = w[p + "kv_b_proj.weight"].reshape(nh, dn + dv, c)
    q_lat = np.einsum("ihd,hdc->ihc", q[..., :dn], kvb[:, :dn])
    scale = (dn + dr) ** -0.5
    _, sc = rope_params(cfg)
    if sc and variant != "no_mscale":
        scale *= mscale(sc["factor"], sc["mscale_all_dim"]) ** 2
    s = np.einsum("ihc,jc->hij", q_lat, lat) + np.einsum("ihr,jr->hij", q_pe, k_pe)
    o = np.einsum("hij,jc->ihc", softmax(causal(s * scale)), lat)
    return np.einsum("ihc,hdc->ihd", o, kvb[:, dn:]).reshape(n, -1) @ w[p + "o_proj.weight"].T


def route(cfg, w, p, x, variant, log):
    """Expert ids [n, k] and weights [n, k]; appends the smallest margin of each token to log."""
    l = x @ w[p + "gate.weight"].T
    n, e = l.shape
    k, ng, kg = cfg["num_experts_per_tok"], cfg.get("n_group") or 1, cfg.get("topk_group") or 1
    v3 = cfg["model_type"] == "deepseek_v3"
    prob = 1 / (1 + np.exp(-l)) if v3 else softmax(l)
    bias = w[p + "gate.e_score_correction_bias"] if v3 else 0.0
    pick = prob + (0.0 if variant == "no_bias" else bias)
    measure = pick if v3 else np.log(pick)  # the scale on which margins are stated
    margin = np.full(n, np.inf)
    grouped = v3 or cfg.get("topk_method") == "group_limited_greedy"
    if grouped and ng > 1 and variant != "no_groups":
        g = pick.reshape(n, ng, e // ng)
        top = np.sort(g, -1)[..., -2:].sum(-1) if v3 else g.max(-1)
        gm = np.sort(top if v3 else np.log(top), -1)
        margin = gm[:, -kg] - gm[:, -kg - 1]
        keep = top >= np.sort(top, -1)[:, -kg][:, None]
        measure = np.where(np.repeat(keep, e // ng, 1), measure, -np.inf)
    order = np.sort(measure, -1)
    margin = np.minimum(margin, order[:, -k] - order[:, -k - 1])
    ids = np.argsort(-measure, -1, kind="stable")[:, :k]
    src = pick if variant == "bias_in_weight" else prob
    wt = np.take_along_axis(src, ids, 1)
    if v3 and cfg["norm_topk_prob"]:
        wt = wt / (wt.sum(-1, keepdims=True) + 1e-20)
    log.append({"margin": margin, "chosen_min": np.take_along_axis(pick, ids, 1).min(-1)})
    return ids, wt * (1.0 if variant == "no_routed_scale" else cfg["routed_scaling_factor"])


def mlp(w, p, x):
    return (silu(x @ w[p + "gate_proj.weight"].T) * (x @ w[p + "up_proj.weight"].T)) @ w[p + "down_proj.weight"].T


def moe(cfg, w, p, x, variant, log):
    ids, wt = route(cfg, w, p, x, variant, log)
    y = np.zeros_like(x) if variant == "no_shared" else mlp(w, p + "shared_experts.", x)
    for e in range(cfg["n_routed_experts"]):
        rows, slot = np.nonzero(ids == e)
        if len(rows):
            y[rows] += wt[rows, slot, None] * mlp(w, f"{p}experts.{e}.", x[rows])
    return y


def forward(cfg, w, ids, variant=None, log=None):
    """logits[n, vocab] of the token ids, weights under their Hugging Face names, everything in float64."""
    log = [] if log is None else log
    deep = cfg["model_type"].startswith("deepseek")
    theta, sc = rope_params(cfg)
    r = cfg["qk_rope_head_dim"] if deep else cfg.get("head_dim") or cfg["hidden_size"] // cfg["num_attention_heads"]
    f, factor = inv_freq(theta, r, None if variant == "no_rope_scaling" else sc)
    ang = np.arange(len(ids))[:, None] * f[None]
    x = w["model.embed_tokens.weight"][ids]
    eps = cfg["rms_norm_eps"]
    for i in range(cfg["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms(x, w[p + "input_layernorm.weight"], eps)
        x = x + (mla if deep else gqa)(cfg, w, p + "self_attn.", h, ang, factor, variant)
        h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
        if deep and i >= cfg["first_k_dense_replace"]:
            x = x + moe(cfg, w, p + "mlp.", h, variant, log)
        else:
            x = x + mlp(w, p + "mlp.", h)
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms(x, w["model.norm.weight"], eps) @ head.T
