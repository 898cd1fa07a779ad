// Llama 1, 2, 3, 3.1, 3.2 (text), 3.3, Yi, R1-Distill-Llama; and Qwen2, Qwen2.5, R1-Distill-Qwen.
//
// Papers: Touvron et al. 2023 (Llama), Yang et al. 2024 (Qwen2).  Reference: transformers'
// LlamaForCausalLM and Qwen2ForCausalLM.  The two families compute the same; Qwen2 has biases on q,
// k and v, and its GGUF files keep the rows of q and k in the checkpoint's order, where Llama's
// converter permutes them for interleaved rotation (put back at load, so that both files give the
// same bits).
#include <stddef.h>
#include <string.h>

#include "model/blocks.h"
#include "model/table.h"

static const mk_cfg_row config[] = {
    MK_CFG_COMMON,
    {"num_key_value_heads", "attention.head_count_kv", MK_HP(n_kv_head), MK_CFG_I64, 0, 0, 1, 4096},
    {"head_dim", "attention.key_length", MK_HP(d_head), MK_CFG_I64, 0, 0, 2, 1024},
    {NULL, "attention.value_length", MK_HP(value_length), MK_CFG_I64, 0, 0, 2, 1024},
    {NULL, "rope.dimension_count", MK_HP(d_rope), MK_CFG_I64, 0, 0, 2, 1024},
};

// clang-format off
#define SHARED_ROWS(q_flags, k_flags) \
    MK_GLOBAL_ROWS, \
    MK_VECTOR("input_layernorm", "attn_norm", attn_norm, d_model, NULL), \
    MK_LINEAR("self_attn.q_proj", "attn_q", wq, n_q, d_model, q_flags, NULL), \
    MK_LINEAR("self_attn.k_proj", "attn_k", wk, n_kv, d_model, k_flags, NULL), \
    MK_LINEAR("self_attn.v_proj", "attn_v", wv, n_kv, d_model, 0, NULL), \
    MK_LINEAR("self_attn.o_proj", "attn_output", wo, d_model, n_q, 0, NULL), \
    MK_VECTOR("post_attention_layernorm", "ffn_norm", ffn_norm, d_model, NULL), \
    MK_LINEAR("mlp.gate_proj", "ffn_gate", w_gate, d_ff, d_model, 0, NULL), \
    MK_LINEAR("mlp.up_proj", "ffn_up", w_up, d_ff, d_model, 0, NULL), \
    MK_LINEAR("mlp.down_proj", "ffn_down", w_down, d_model, d_ff, 0, NULL)

static const mk_tensor_row llama_tensors[] = {
    SHARED_ROWS(MK_T_PERMUTED_Q, MK_T_PERMUTED_K),
    MK_BIAS("self_attn.q_proj", "attn_q", bq, n_q, MK_T_OPTIONAL | MK_T_PERMUTED_Q),
    MK_BIAS("self_attn.k_proj", "attn_k", bk, n_kv, MK_T_OPTIONAL | MK_T_PERMUTED_K),
    MK_BIAS("self_attn.v_proj", "attn_v", bv, n_kv, MK_T_OPTIONAL),
    MK_BIAS("self_attn.o_proj", "attn_output", bo, d_model, MK_T_OPTIONAL),
};

static const mk_tensor_row qwen2_tensors[] = {
    SHARED_ROWS(0, 0),
    MK_BIAS("self_attn.q_proj", "attn_q", bq, n_q, 0),
    MK_BIAS("self_attn.k_proj", "attn_k", bk, n_kv, 0),
    MK_BIAS("self_attn.v_proj", "attn_v", bv, n_kv, 0),
};
// clang-format on

// Frequencies that old checkpoints and converters store, which minke computes; scales are read with
// their tensors.
static const char *const ignore[] = {"*.rotary_emb.inv_freq", "rope_freqs.weight",
                                     "*.weight_scale_inv", NULL};

static mk_status check_config(const mk_hparams *hp, const char *path, mk_err *err) {
    if (hp->n_head % hp->n_kv_head != 0) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: %lld heads cannot share %lld key/value heads evenly",
                       path, (long long)hp->n_head, (long long)hp->n_kv_head);
    }
    if (hp->d_head % 2 != 0 || (hp->d_rope != 0 && hp->d_rope != hp->d_head)) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: rotary width %lld of head width %lld; expected the whole, even head",
                       path, (long long)hp->d_rope, (long long)hp->d_head);
    }
    if (hp->value_length != 0 && hp->value_length != hp->d_head) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: value width %lld differs from key width %lld",
                       path, (long long)hp->value_length, (long long)hp->d_head);
    }
    if (hp->hidden_act[0] && strcmp(hp->hidden_act, "silu") != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: hidden_act is \"%s\", expected \"silu\"", path,
                       hp->hidden_act);
    }
    return MK_OK;
}

static mk_status finish(mk_hparams *hp, const mk_source *src, mk_err *err) {
    const char *path = mk_source_path(src);
    hp->n_kv_head = hp->n_kv_head ? hp->n_kv_head : hp->n_head;
    if (hp->d_head == 0) {
        if (hp->d_model % hp->n_head != 0) {
            return MK_FAIL(err, MK_ECORRUPT, "%s: width %lld is not a multiple of %lld heads", path,
                           (long long)hp->d_model, (long long)hp->n_head);
        }
        hp->d_head = hp->d_model / hp->n_head;
    }
    hp->n_q = hp->n_head * hp->d_head;
    hp->n_kv = hp->n_kv_head * hp->d_head;
    bool window = false, found = false;
    MK_TRY(mk_source_bool(src, "use_sliding_window", NULL, &window, &found, err));
    if (found && window) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: use_sliding_window is true; minke has full attention here only", path);
    }
    return check_config(hp, path, err);
}

static int64_t rope_dims(const mk_hparams *hp) {
    return hp->d_head;
}

static mk_attn attn(const mk_hparams *hp, int layer) {
    (void)layer;
    return (mk_attn){.n_head = hp->n_head,
                     .n_kv_head = hp->n_kv_head,
                     .d_k = hp->d_head,
                     .d_v = hp->d_head,
                     .scale = (float)(1.0 / __builtin_sqrt((double)hp->d_head))};
}

static void gguf_config(mk_hparams *hp, mk_gguf_out *out) {
    (void)out;
    hp->d_rope = hp->value_length = hp->d_head;
}

// A new model has biases if its configuration says so; all optional rows are biases.
static bool is_new(const mk_hparams *hp, const mk_source *src, int row) {
    bool bias = false, found = false;
    (void)hp, (void)row;
    return mk_source_bool(src, "attention_bias", NULL, &bias, &found, NULL) == MK_OK && bias;
}

static void hf_config_llama(const mk_model *m, json_t *out) {
    (void)json_object_set_new(out, "architectures", json_pack("[s]", "LlamaForCausalLM"));
    (void)json_object_set_new(out, "model_type", json_string("llama"));
    bool bias = false;
    for (int i = 0; i < m->arch->n_tensors; i++) {
        bias = bias || ((m->arch->tensors[i].flags & MK_T_OPTIONAL) &&
                        mk_model_binding(m, 0, i)->n_view > 0);
    }
    (void)json_object_set_new(out, "attention_bias", json_boolean(bias));
}

static void hf_config_qwen2(const mk_model *m, json_t *out) {
    (void)m;
    (void)json_object_set_new(out, "architectures", json_pack("[s]", "Qwen2ForCausalLM"));
    (void)json_object_set_new(out, "model_type", json_string("qwen2"));
}

static mk_mat forward(const mk_model *m, mk_ops *ops, const mk_batch *b) {
    float eps = (float)m->hp.rms_eps;
    mk_mat x = mk_block_embed(m, ops, b);    // [n_tok, d_model]
    mk_mat cs = mk_block_angles(m, ops, b);  // [n_tok, d_head]
    for (int l = 0; l < m->hp.n_layer; l++) {
        const mk_layer *w = &m->layer[l];
        size_t mark = mk_op_mark(ops);
        mk_op_add(ops, x, mk_block_attention(m, ops, l, x, cs, b));  // [n_tok, d_model]
        mk_op_tap(ops, "attn_out", l, x);
        mk_normed n = {x, w->ffn_norm, eps};
        mk_op_add(ops, x,
                  mk_block_swiglu(ops, n, &w->w_gate, &w->w_up, &w->w_down));  // [n_tok, d_model]
        mk_op_tap(ops, "layer_out", l, x);
        mk_op_segment(ops, mark);
    }
    return mk_block_logits(m, ops, x, m->globals.out_norm, b);  // [n_out, n_vocab]
}

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

const mk_arch mk_arch_llama = {
    .name = "llama",
    .hf_class = (const char *const[]){"LlamaForCausalLM", "YiForCausalLM", NULL},
    .gguf_arch = (const char *const[]){"llama", NULL},
    .config = config,
    .n_config = COUNT(config),
    .tensors = llama_tensors,
    .n_tensors = COUNT(llama_tensors),
    .ignore = ignore,
    .finish = finish,
    .rope_dims = rope_dims,
    .attn = attn,
    .gguf_config = gguf_config,
    .is_new = is_new,
    .hf_config = hf_config_llama,
    .forward = forward,
};

const mk_arch mk_arch_qwen2 = {
    .name = "qwen2",
    .hf_class = (const char *const[]){"Qwen2ForCausalLM", NULL},
    .gguf_arch = (const char *const[]){"qwen2", NULL},
    .config = config,
    .n_config = COUNT(config),
    .tensors = qwen2_tensors,
    .n_tensors = COUNT(qwen2_tensors),
    .ignore = ignore,
    .finish = finish,
    .rope_dims = rope_dims,
    .attn = attn,
    .gguf_config = gguf_config,
    .hf_config = hf_config_qwen2,
    .forward = forward,
};
