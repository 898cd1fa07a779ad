"""Writes a Llama-shaped model with random weights, for measuring: a Hugging Face folder of about SIZE megabytes in BF16.

    python3 bench/make_model.py FOLDER 200

Needs numpy. The text it writes is noise; its sizes and speed are real. Byte tokens, as in models/shakespeare.
"""
import json
import pathlib
import shutil
import struct
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def shapes(n_layer, d, ff, heads, kv_heads, vocab):
    hd = d // heads
    out = {"model.embed_tokens.weight": (vocab, d), "model.norm.weight": (d,), "lm_head.weight": (vocab, d)}
    for i in range(n_layer):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,),
                p + "self_attn.q_proj.weight": (heads * hd, d), p + "self_attn.k_proj.weight": (kv_heads * hd, d),
                p + "self_attn.v_proj.weight": (kv_heads * hd, d), p + "self_attn.o_proj.weight": (d, heads * hd),
                p + "mlp.gate_proj.weight": (ff, d), p + "mlp.up_proj.weight": (ff, d),
                p + "mlp.down_proj.weight": (d, ff)}
    return out


def bf16(shape, rng):
    """Random normal numbers, 1/sqrt(width) large; norms are ones."""
    x = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def main(folder, megabytes):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    d, ff, heads, kv_heads, vocab = 1024, 2816, 16, 4, 257
    per_layer = 2 * (d * d * 2 + 2 * d * d // 4 + 3 * d * ff)
    n_layer = max(1, round(megabytes * 1e6 / per_layer))
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=d, intermediate_size=ff,
                  num_hidden_layers=n_layer, num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocab,
                  max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
                  tie_word_embeddings=False, torch_dtype="bfloat16", eos_token_id=256)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE.parent / "models/shakespeare" / name, folder / name)
    want, head, at = shapes(n_layer, d, ff, heads, kv_heads, vocab), {}, 0
    for name, shape in want.items():
        n = 2 * int(np.prod(shape))
        head[name] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + n])
        at += n
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(1)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for shape in want.values():
            f.write(bf16(shape, rng).tobytes())
    print(f"{folder}: {n_layer} layers, {at / 1e6:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
