// DeepSeek V2, V2-Lite, V3, R1, V3.1: multi-head latent attention (MLA) and mixture of experts.
//
// Papers: DeepSeek-V2 (2024), DeepSeek-V3 (2024).  Reference: DeepSeek's inference/model.py and
// transformers' DeepseekV2ForCausalLM and DeepseekV3ForCausalLM.  What differs from llama.c:
//   * keys and values are one latent vector c (kv_lora wide) and one rotated key part shared by all
//     heads; only these are cached.  The heads' own key and value matrices are absorbed:
//     q' = Wk_b^T q_nope is compared with c itself, and Wv_b is applied to the weighted sum of c.
//     Prefill and decode use this one form, so they give the same bits (docs/numerics.md has the
//     measurement behind the choice);
//   * rotation is interleaved, YaRN-scaled, and its temperature enters the softmax scale squared;
//   * routing: V2 softmax with groups scored by their best expert, V3 sigmoid with a bias for the
//     choice only and groups scored by their two best; leading layers are dense; shared experts are
//     one wider MLP;
//   * behind the last layer there may be one more that predicts a token further (multi-token
//     prediction).
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "model/bind.h"
#include "model/blocks.h"
#include "model/table.h"

#define LATENT_EPS                                                                                 \
    1e-6f  // the reference builds the latent norms with its default, whatever rms_norm_eps says

// clang-format off
static const mk_cfg_row config[] = {
    MK_CFG_COMMON,
    {"q_lora_rank", "attention.q_lora_rank", MK_HP(q_lora), MK_CFG_I64, 0, 0, 0, 1 << 20},
    {"kv_lora_rank", "attention.kv_lora_rank", MK_HP(kv_lora), MK_CFG_I64, MK_CFG_REQUIRED, 0, 1, 1 << 20},
    {"qk_nope_head_dim", NULL, MK_HP(d_nope), MK_CFG_I64, 0, 0, 1, 4096},
    {"qk_rope_head_dim", "rope.dimension_count", MK_HP(d_rope), MK_CFG_I64, MK_CFG_REQUIRED, 0, 2, 4096},
    {"v_head_dim", NULL, MK_HP(d_v), MK_CFG_I64, 0, 0, 1, 4096},
    {NULL, "attention.key_length", MK_HP(key_length), MK_CFG_I64, 0, 0, 1, 1 << 20},
    {NULL, "attention.value_length", MK_HP(value_length), MK_CFG_I64, 0, 0, 1, 1 << 20},
    {NULL, "attention.key_length_mla", MK_HP(key_length_mla), MK_CFG_I64, 0, 0, 1, 8192},
    {NULL, "attention.value_length_mla", MK_HP(value_length_mla), MK_CFG_I64, 0, 0, 1, 8192},
    {"n_routed_experts|num_local_experts", "expert_count", MK_HP(n_expert), MK_CFG_I64, 0, 0, 0, 65536},
    {"num_experts_per_tok", "expert_used_count", MK_HP(n_expert_used), MK_CFG_I64, 0, 0, 0, 65536},
    {"n_shared_experts", "expert_shared_count", MK_HP(n_expert_shared), MK_CFG_I64, 0, 0, 0, 1024},
    {"moe_intermediate_size", "expert_feed_forward_length", MK_HP(d_ff_expert), MK_CFG_I64, 0, 0, 0, 1 << 20},
    {"first_k_dense_replace", "leading_dense_block_count", MK_HP(n_dense_lead), MK_CFG_I64, 0, 0, 0, MK_MAX_LAYERS},
    {"moe_layer_freq", NULL, MK_HP(moe_layer_freq), MK_CFG_I64, 0, 1, 1, 1},
    {"n_group", "expert_group_count", MK_HP(n_group), MK_CFG_I64, 0, 0, 0, 65536},
    {"topk_group", "expert_group_used_count", MK_HP(n_group_used), MK_CFG_I64, 0, 0, 0, 65536},
    {"norm_topk_prob", "expert_weights_norm", MK_HP(norm_topk), MK_CFG_BOOL, 0, -1, 0, 1},
    {"routed_scaling_factor", "expert_weights_scale", MK_HP(routed_scale), MK_CFG_F64, 0, 1, 0, 1e4},
    {"scoring_func", NULL, MK_HP(scoring_func), MK_CFG_STR, 0, 0, 0, 0},
    {"topk_method", NULL, MK_HP(topk_method), MK_CFG_STR, 0, 0, 0, 0},
    {NULL, "expert_gating_func", MK_HP(gating_func), MK_CFG_I64, 0, 0, 0, 2},
    {"num_nextn_predict_layers", "nextn_predict_layers", MK_HP(n_nextn), MK_CFG_I64, 0, 0, 0, 16},
};
// clang-format on

// --- tensors -------------------------------------------------------------------------------------

static bool is_mtp(const mk_hparams *hp, int layer) {
    return layer >= hp->n_layer;
}

static bool is_dense(const mk_hparams *hp, int layer) {
    return (layer < hp->n_dense_lead && !is_mtp(hp, layer)) || hp->n_expert == 0;
}

static bool is_moe(const mk_hparams *hp, int layer) {
    return !is_dense(hp, layer);
}

static bool has_shared(const mk_hparams *hp, int layer) {
    return is_moe(hp, layer) && hp->n_expert_shared > 0;
}

static bool has_q_lora(const mk_hparams *hp, int layer) {
    (void)layer;
    return hp->q_lora > 0;
}

static bool no_q_lora(const mk_hparams *hp, int layer) {
    return !has_q_lora(hp, layer);
}

// The first three rows are packed by `pack`.  GGUF files carry the key/value matrices in three
// layouts:
//   (a) attn_kv_b alone, as in the checkpoint: per head d_nope rows of keys, then d_v rows of
//       values, each kv_lora wide;
//   (b) attn_k_b [n_head * kv_lora, d_nope] (transposed per head) and attn_v_b
//       [n_head * d_v, kv_lora], attn_kv_b as well;
//   (c) the same two as 3-D tensors [n_head, kv_lora, d_nope] and [n_head, d_v, kv_lora], alone.
enum { ROW_KV_B, ROW_K_B, ROW_V_B };

// clang-format off
static const mk_tensor_row tensors[] = {
    {MK_LAYER_NAMES("self_attn.kv_b_proj", "attn_kv_b", ".weight"), 0, MK_T_CUSTOM, MK_T_OPTIONAL | MK_T_LORA,
     {MK_HP(n_kv_b), MK_HP(kv_lora)}, 2, NULL},
    {NULL, "blk.{L}.attn_k_b.weight", 0, MK_T_CUSTOM, MK_T_OPTIONAL, {0}, 0, NULL},
    {NULL, "blk.{L}.attn_v_b.weight", 0, MK_T_CUSTOM, MK_T_OPTIONAL, {0}, 0, NULL},
    MK_GLOBAL_ROWS,
    MK_VECTOR("input_layernorm", "attn_norm", attn_norm, d_model, NULL),
    MK_LINEAR("self_attn.q_proj", "attn_q", wq, n_q, d_model, 0, no_q_lora),
    MK_LINEAR("self_attn.q_a_proj", "attn_q_a", wq_a, q_lora, d_model, 0, has_q_lora),
    MK_VECTOR("self_attn.q_a_layernorm", "attn_q_a_norm", q_a_norm, q_lora, has_q_lora),
    MK_LINEAR("self_attn.q_b_proj", "attn_q_b", wq_b, n_q, q_lora, 0, has_q_lora),
    MK_LINEAR("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", wkv_a, n_kv_a, d_model, 0, NULL),
    MK_VECTOR("self_attn.kv_a_layernorm", "attn_kv_a_norm", kv_a_norm, kv_lora, NULL),
    MK_LINEAR("self_attn.o_proj", "attn_output", wo, d_model, n_o, 0, NULL),
    MK_VECTOR("post_attention_layernorm", "ffn_norm", ffn_norm, d_model, NULL),
    MK_LINEAR("mlp.gate_proj", "ffn_gate", w_gate, d_ff, d_model, 0, is_dense),
    MK_LINEAR("mlp.up_proj", "ffn_up", w_up, d_ff, d_model, 0, is_dense),
    MK_LINEAR("mlp.down_proj", "ffn_down", w_down, d_model, d_ff, 0, is_dense),
    {MK_LAYER_NAMES("mlp.gate", "ffn_gate_inp", ".weight"), MK_LAYER_FIELD(router), MK_T_LINEAR_F32, 0,
     {MK_HP(n_expert), MK_HP(d_model)}, 2, is_moe},
    {"model.layers.{L}.mlp.gate.e_score_correction_bias", "blk.{L}.exp_probs_b.bias", MK_LAYER_FIELD(router_bias),
     MK_T_VECTOR, MK_T_OPTIONAL, {MK_HP(n_expert)}, 1, is_moe},
    MK_EXPERTS("gate_proj", "ffn_gate_exps", w_gate_exps, d_ff_expert, d_model, is_moe),
    MK_EXPERTS("up_proj", "ffn_up_exps", w_up_exps, d_ff_expert, d_model, is_moe),
    MK_EXPERTS("down_proj", "ffn_down_exps", w_down_exps, d_model, d_ff_expert, is_moe),
    MK_LINEAR("mlp.shared_experts.gate_proj", "ffn_gate_shexp", w_gate_sh, d_ff_shared, d_model, 0, has_shared),
    MK_LINEAR("mlp.shared_experts.up_proj", "ffn_up_shexp", w_up_sh, d_ff_shared, d_model, 0, has_shared),
    MK_LINEAR("mlp.shared_experts.down_proj", "ffn_down_shexp", w_down_sh, d_model, d_ff_shared, 0, has_shared),
    MK_VECTOR("enorm", "nextn.enorm", e_norm, d_model, is_mtp),
    MK_VECTOR("hnorm", "nextn.hnorm", h_norm, d_model, is_mtp),
    MK_LINEAR("eh_proj", "nextn.eh_proj", eh_proj, d_model, d_eh, 0, is_mtp),
    MK_VECTOR("shared_head.norm", "nextn.shared_head_norm", head_norm, d_model, is_mtp),
};
// clang-format on

static const char *const ignore[] = {"*.rotary_emb.inv_freq", "*.weight_scale_inv", NULL};

// --- configuration -------------------------------------------------------------------------------

// GGUF states the head widths of the latent form (layout c) or of the plain form (a, b).
static void gguf_widths(mk_hparams *hp) {
    int64_t key = hp->key_length_mla ? hp->key_length_mla : hp->key_length;
    hp->d_nope = key - hp->d_rope;
    hp->d_v = hp->value_length_mla ? hp->value_length_mla : hp->value_length;
}

// Older GGUF files lack the group counts, and older readers ignored groups.  The published models'
// own values, known by their number of experts, are what the weights were trained with.
static void gguf_groups(mk_hparams *hp) {
    bool v3 = hp->n_expert == 256 && hp->gating_func == MK_SCORE_SIGMOID;
    bool v2 = hp->n_expert == 160 && hp->gating_func == MK_SCORE_SOFTMAX;
    if (hp->n_group == 0 && (v3 || v2)) {
        hp->n_group = 8;
        hp->n_group_used = v3 ? 4 : 3;
    }
}

static void finish_gguf(mk_hparams *hp, const mk_source *src) {
    char name[64];
    snprintf(name, sizeof name, "blk.%lld.nextn.eh_proj.weight", (long long)(hp->n_layer - 1));
    if (hp->n_nextn > 0 && hp->n_nextn < hp->n_layer && mk_source_find(src, name)) {
        hp->n_layer -= hp->n_nextn;  // this file counts the prediction layers among its blocks
    }
    hp->gating_func = hp->gating_func ? hp->gating_func : MK_SCORE_SOFTMAX;
    gguf_widths(hp);
    gguf_groups(hp);
    hp->norm_topk = hp->norm_topk < 0 ? 0 : hp->norm_topk;
}

static mk_status finish_folder(mk_hparams *hp, const mk_source *src, mk_err *err) {
    bool v3 = strstr(mk_source_arch(src), "V3") != NULL;
    const char *score = hp->scoring_func[0] ? hp->scoring_func : v3 ? "sigmoid" : "softmax";
    const char *method = hp->topk_method[0] ? hp->topk_method : v3 ? "noaux_tc" : "greedy";
    if (strcmp(score, "sigmoid") != 0 && strcmp(score, "softmax") != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: scoring_func \"%s\", expected sigmoid or softmax",
                       mk_source_path(src), score);
    }
    hp->gating_func = strcmp(score, "sigmoid") == 0 ? MK_SCORE_SIGMOID : MK_SCORE_SOFTMAX;
    if (strcmp(method, "greedy") == 0) {
        hp->n_group = hp->n_group_used = 1;
    } else if (strcmp(method, "group_limited_greedy") != 0 && strcmp(method, "noaux_tc") != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: topk_method \"%s\", expected greedy, group_limited_greedy or noaux_tc",
                       mk_source_path(src), method);
    }
    hp->norm_topk = hp->norm_topk < 0 ? v3 : hp->norm_topk;
    return MK_OK;
}

static mk_status check_experts(const mk_hparams *hp, const char *path, mk_err *err) {
    if (hp->n_expert_used < 1 || hp->n_expert_used > hp->n_expert || hp->d_ff_expert < 1) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "%s: %lld experts of width %lld, %lld used per token; expected 1 <= used <= all", path,
            (long long)hp->n_expert, (long long)hp->d_ff_expert, (long long)hp->n_expert_used);
    }
    if (hp->n_expert % hp->n_group != 0 || hp->n_group_used < 1 || hp->n_group_used > hp->n_group ||
        hp->n_expert / hp->n_group * hp->n_group_used < hp->n_expert_used) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "%s: %lld experts in %lld groups, %lld groups and %lld experts used; these do "
            "not fit together",
            path, (long long)hp->n_expert, (long long)hp->n_group, (long long)hp->n_group_used,
            (long long)hp->n_expert_used);
    }
    return MK_OK;
}

static mk_status finish(mk_hparams *hp, const mk_source *src, mk_err *err) {
    const char *path = mk_source_path(src);
    if (mk_source_is_gguf(src)) {
        finish_gguf(hp, src);
    } else {
        MK_TRY(finish_folder(hp, src, err));
    }
    if (hp->d_nope < 1 || hp->d_v < 1 || hp->d_rope % 2 != 0) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "%s: head widths %lld (plain) + %lld (rotary), values %lld; expected positive "
            "and an even rotary part",
            path, (long long)hp->d_nope, (long long)hp->d_rope, (long long)hp->d_v);
    }
    hp->n_group = hp->n_group ? hp->n_group : 1;
    hp->n_group_used = hp->n_group_used ? hp->n_group_used : hp->n_group;
    if (hp->n_expert > 0) {
        MK_TRY(check_experts(hp, path, err));
    }
    if (hp->hidden_act[0] && strcmp(hp->hidden_act, "silu") != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: hidden_act is \"%s\", expected \"silu\"", path,
                       hp->hidden_act);
    }
    hp->d_qk = hp->d_nope + hp->d_rope;
    hp->n_q = hp->n_head * hp->d_qk;
    hp->n_kv_a = hp->kv_lora + hp->d_rope;
    hp->n_kv_b = hp->n_head * (hp->d_nope + hp->d_v);
    hp->n_o = hp->n_head * hp->d_v;
    hp->d_ff_shared = hp->n_expert_shared * hp->d_ff_expert;
    hp->d_eh = 2 * hp->d_model;
    return MK_OK;
}

static int64_t rope_dims(const mk_hparams *hp) {
    return hp->d_rope;
}

static mk_attn attn(const mk_hparams *hp, int layer) {
    (void)layer;
    double scale = 1.0 / __builtin_sqrt((double)hp->d_qk), m = 1.0;
    if (hp->rope_scale == MK_ROPE_SCALE_YARN && hp->rope_yarn_log_mul > 0) {
        m = mk_yarn_mscale(hp->rope_factor,
                           10.0 * hp->rope_yarn_log_mul);  // GGUF stores 0.1 * mscale_all_dim
    } else if (hp->rope_scale == MK_ROPE_SCALE_YARN && hp->rope_mscale_all_dim > 0) {
        m = mk_yarn_mscale(hp->rope_factor, hp->rope_mscale_all_dim);
    }
    return (mk_attn){.n_head = hp->n_head,
                     .n_kv_head = 1,
                     .d_k = hp->n_kv_a,
                     .d_v = hp->kv_lora,
                     .latent = true,
                     .scale = (float)(scale * m * m)};
}

// --- the absorbed matrices -----------------------------------------------------------------------

static const mk_tensor_view *custom(const mk_model *m, int layer, int row) {
    const mk_binding *b = mk_model_binding(m, layer, row);
    return b->n_view ? b->view[0] : NULL;
}

// [n_head, rows, cols] or the same flattened to two dims.
static mk_status check_heads(const mk_hparams *hp, const mk_tensor_view *v, int64_t rows,
                             int64_t cols, mk_err *err) {
    int64_t flat[2] = {hp->n_head * rows, cols}, full[3] = {hp->n_head, rows, cols};
    MK_TRY(mk_bind_check_shape(v, v->n_dim == 2 ? flat : full, v->n_dim == 2 ? 2 : 3, err));
    const mk_dtype_info *info = mk_dtype_get(v->dtype);
    if (!mk_dtype_is_float(v->dtype) || cols % info->block != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "tensor %s: rows of %lld elements of type %s cannot be used", v->name,
                       (long long)cols, info->name);
    }
    return MK_OK;
}

static mk_status check(const mk_model *m, int layer, mk_err *err) {
    const mk_hparams *hp = &m->hp;
    const mk_tensor_view *kv = custom(m, layer, ROW_KV_B), *k = custom(m, layer, ROW_K_B),
                         *v = custom(m, layer, ROW_V_B);
    if (k && v) {
        MK_TRY(check_heads(hp, k, hp->kv_lora, hp->d_nope, err));
        MK_TRY(check_heads(hp, v, hp->d_v, hp->kv_lora, err));
        return MK_OK;
    }
    if (!kv) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: layer %d has neither attn_kv_b nor attn_k_b and attn_v_b (kv_b_proj)",
                       mk_source_path(m->src), layer);
    }
    return check_heads(hp, kv, hp->d_nope + hp->d_v, hp->kv_lora, err);
}

// Types whose elements can be moved one by one keep their type; everything else goes through
// float32.
static bool movable(mk_dtype t) {
    return t == MK_DTYPE_F32 || t == MK_DTYPE_F16 || t == MK_DTYPE_BF16;
}

// to[h][c][i] = from[h][i][c], i < d_nope: the key part of every head, transposed.  Elements of
// `size` bytes.
static void transpose_keys(const mk_hparams *hp, const uint8_t *from, uint8_t *to, size_t size) {
    int64_t rows = hp->d_nope + hp->d_v;
    for (int64_t h = 0; h < hp->n_head; h++) {
        for (int64_t i = 0; i < hp->d_nope; i++) {
            const uint8_t *row = from + (size_t)((h * rows + i) * hp->kv_lora) * size;
            for (int64_t c = 0; c < hp->kv_lora; c++) {
                memcpy(to + (size_t)((h * hp->kv_lora + c) * hp->d_nope + i) * size,
                       row + (size_t)c * size, size);
            }
        }
    }
}

// Source of a per-head stack whose rows of `cols` elements lie at data, head_rows rows apart.
static mk_weight_src head_src(const mk_hparams *hp, mk_dtype t, const uint8_t *data,
                              int64_t head_rows, int64_t rows, int64_t cols) {
    mk_weight_src s = {.dtype = t, .data = data, .n_mat = hp->n_head, .n_out = rows, .n_in = cols};
    bool ok = mk_dtype_row_bytes(t, cols, &s.row_bytes);
    MK_ASSERT(ok);  // checked at open
    s.mat_stride = (size_t)head_rows * s.row_bytes;
    return s;
}

static mk_status pack_from_kv_b(mk_model *m, mk_layer *w, const mk_tensor_view *kv, mk_pool *pool,
                                mk_err *err) {
    const mk_hparams *hp = &m->hp;
    float *f32 = NULL;
    mk_dtype k_type = movable(kv->dtype) ? kv->dtype : MK_DTYPE_F32;
    if (!movable(kv->dtype)) {
        MK_TRY(mk_bind_to_f32(m, kv, &f32, err));
    }
    size_t size = k_type == MK_DTYPE_F32 ? 4 : 2;
    uint8_t *keys = mk_try_alloc((size_t)(hp->n_head * hp->kv_lora * hp->d_nope), size);
    mk_status st = keys ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory to transpose %s", kv->name);
    if (st == MK_OK) {
        transpose_keys(hp, f32 ? (const uint8_t *)f32 : kv->data, keys, size);
        mk_weight_src s = head_src(hp, k_type, keys, hp->kv_lora, hp->kv_lora, hp->d_nope);
        st = mk_weight_fill(&s, pool, &w->wk_b, err);
    }
    if (st == MK_OK) {
        // FP8 scales count tiles from the tensor's first row, so its values go through float32 as
        // well
        bool via_f32 = kv->dtype == MK_DTYPE_F8_E4M3;
        mk_weight_src s = head_src(hp, via_f32 ? MK_DTYPE_F32 : kv->dtype,
                                   via_f32 ? (const uint8_t *)f32 : kv->data, hp->d_nope + hp->d_v,
                                   hp->d_v, hp->kv_lora);
        s.data += (size_t)hp->d_nope * s.row_bytes;
        st = mk_weight_fill(&s, pool, &w->wv_b, err);
    }
    mk_free(keys);
    mk_free(f32);
    return st;
}

static mk_status pack(mk_model *m, int layer, mk_pool *pool, mk_err *err) {
    const mk_hparams *hp = &m->hp;
    mk_layer *w = &m->layer[layer];
    const mk_tensor_view *k = custom(m, layer, ROW_K_B), *v = custom(m, layer, ROW_V_B);
    if (!k || !v) {
        return pack_from_kv_b(m, w, custom(m, layer, ROW_KV_B), pool, err);
    }
    mk_weight_src s = head_src(hp, k->dtype, k->data, hp->kv_lora, hp->kv_lora, hp->d_nope);
    MK_TRY(mk_weight_fill(&s, pool, &w->wk_b, err));
    s = head_src(hp, v->dtype, v->data, hp->d_v, hp->d_v, hp->kv_lora);
    return mk_weight_fill(&s, pool, &w->wv_b, err);
}

static mk_status layout(mk_model *m, int layer, mk_err *err) {
    const mk_hparams *hp = &m->hp;
    const mk_tensor_view *k = custom(m, layer, ROW_K_B), *v = custom(m, layer, ROW_V_B);
    const mk_tensor_view *kv = custom(m, layer, ROW_KV_B);
    bool apart = k && v;
    mk_dtype kt = apart ? k->dtype : movable(kv->dtype) ? kv->dtype : MK_DTYPE_F32;
    mk_dtype vt = apart ? v->dtype : kv->dtype == MK_DTYPE_F8_E4M3 ? MK_DTYPE_F32 : kv->dtype;
    if (m->f32) {  // what `pack` takes from the file is widened as it is packed
        kt = vt = MK_DTYPE_F32;
    }
    mk_weight_src ks = head_src(hp, kt, NULL, hp->kv_lora, hp->kv_lora, hp->d_nope);
    mk_weight_src vs = head_src(hp, vt, NULL, hp->d_v, hp->d_v, hp->kv_lora);
    MK_TRY(mk_weight_layout(&ks, &m->layer[layer].wk_b, err));
    return mk_weight_layout(&vs, &m->layer[layer].wv_b, err);
}

// --- writing GGUF in layout (c) ------------------------------------------------------------------

static void make_k_b(const mk_hparams *hp, const float *kv_b, float *k_b) {
    transpose_keys(hp, (const uint8_t *)kv_b, (uint8_t *)k_b, sizeof *k_b);
}

static void make_v_b(const mk_hparams *hp, const float *kv_b, float *v_b) {
    size_t n = (size_t)(hp->d_v * hp->kv_lora);
    for (int64_t h = 0; h < hp->n_head; h++) {
        const float *head = kv_b + h * (hp->d_nope + hp->d_v) * hp->kv_lora;
        memcpy(v_b + (size_t)h * n, head + hp->d_nope * hp->kv_lora, n * sizeof *v_b);
    }
}

static const mk_made_row made[] = {
    {"blk.{L}.attn_k_b.weight",
     ROW_KV_B,
     3,
     {MK_HP(n_head), MK_HP(kv_lora), MK_HP(d_nope)},
     make_k_b},
    {"blk.{L}.attn_v_b.weight", ROW_KV_B, 3, {MK_HP(n_head), MK_HP(d_v), MK_HP(kv_lora)}, make_v_b},
    {NULL, 0, 0, {0}, NULL},
};

// The latent is the one key/value head; the head widths of the plain form have their own keys.  A
// prediction layer is counted among the blocks.
static void gguf_config(mk_hparams *hp, mk_gguf_out *out) {
    mk_gguf_out_u32(out, "deepseek2.attention.head_count_kv", 1);
    hp->key_length_mla = hp->d_qk;
    hp->value_length_mla = hp->d_v;
    hp->key_length = hp->kv_lora + hp->d_rope;
    hp->value_length = hp->kv_lora;
    hp->rope_yarn_log_mul =
        hp->rope_scale == MK_ROPE_SCALE_YARN ? 0.1 * hp->rope_mscale_all_dim : 0;
    hp->n_layer += hp->n_nextn;
}

// --- writing folders -----------------------------------------------------------------------------

static void join_kv_b(const mk_hparams *hp, const float *k_b, const float *v_b, float *kv_b) {
    int64_t rows = hp->d_nope + hp->d_v, n = hp->d_v * hp->kv_lora;
    for (int64_t h = 0; h < hp->n_head; h++) {
        const float *keys = k_b + h * hp->kv_lora * hp->d_nope;
        float *to = kv_b + h * rows * hp->kv_lora;
        for (int64_t i = 0; i < hp->d_nope; i++) {
            for (int64_t c = 0; c < hp->kv_lora; c++) {
                to[i * hp->kv_lora + c] = keys[c * hp->d_nope + i];
            }
        }
        memcpy(to + hp->d_nope * hp->kv_lora, v_b + h * n, (size_t)n * sizeof *to);
    }
}

// The bias of the choice belongs to V3's routing.
static bool is_new(const mk_hparams *hp, const mk_source *src, int row) {
    if (tensors[row].field == MK_LAYER_FIELD(router_bias)) {
        return hp->topk_method[0] ? strcmp(hp->topk_method, "noaux_tc") == 0
                                  : strstr(mk_source_arch(src), "V3") != NULL;
    }
    return row == ROW_KV_B;
}

static void hf_config(const mk_model *m, json_t *out) {
    const mk_hparams *hp = &m->hp;
    bool v3 = hp->gating_func == MK_SCORE_SIGMOID;
    const char *name = v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM",
               *method = v3                ? "noaux_tc"
                         : hp->n_group > 1 ? "group_limited_greedy"
                                           : "greedy";
    (void)json_object_set_new(out, "architectures", json_pack("[s]", name));
    (void)json_object_set_new(out, "model_type", json_string(v3 ? "deepseek_v3" : "deepseek_v2"));
    (void)json_object_set_new(out, "scoring_func", json_string(v3 ? "sigmoid" : "softmax"));
    (void)json_object_set_new(out, "topk_method", json_string(method));
    (void)json_object_set_new(out, "num_key_value_heads", json_integer(hp->n_head));
    (void)json_object_set_new(out, "num_nextn_predict_layers",
                              json_integer(m->n_bound - hp->n_layer));
    if (hp->q_lora == 0) {
        (void)json_object_set_new(out, "q_lora_rank", json_null());
    }
}

// --- forward -------------------------------------------------------------------------------------

// Columns [first, first + n) of every head, as one tall matrix where the memory allows it.
static void copy_head_part(mk_ops *ops, mk_mat to, int64_t to_stride, int64_t to_first, mk_mat from,
                           int64_t from_stride, int64_t from_first, int64_t n) {
    int64_t n_head = from.n_col / from_stride;
    if (to.stride == to.n_col && from.stride == from.n_col) {
        mk_op_copy(ops, (mk_mat){to.p + to_first, to.n_row * n_head, n, to_stride},
                   (mk_mat){from.p + from_first, from.n_row * n_head, n, from_stride});
        return;
    }
    for (int64_t h = 0; h < n_head; h++) {
        mk_op_copy(ops, mk_mat_cols(to, h * to_stride + to_first, n),
                   mk_mat_cols(from, h * from_stride + from_first, n));
    }
}

// Queries of all heads, rotated: [n_tok, n_head * d_qk]; and the latent with the shared key part,
// as the layer computes it: c [n_tok, kv_lora + d_rope].
static mk_mat queries(const mk_model *m, mk_ops *ops, const mk_layer *w, mk_mat x, mk_mat c,
                      mk_mat cs) {
    const mk_hparams *hp = &m->hp;
    mk_mat q = mk_op_new(ops, x.n_row, hp->n_q);
    mk_normed in = {x, w->attn_norm, (float)hp->rms_eps};
    if (hp->q_lora > 0) {
        mk_mat a = mk_op_new(ops, x.n_row, hp->q_lora);
        mk_linear both[] = {{&w->wq_a, NULL, a}, {&w->wkv_a, NULL, c}};
        mk_op_normed_linears(ops, in, both, 2);  // [n_tok, q_lora], [n_tok, kv_lora + d_rope]
        mk_linear up = {&w->wq_b, NULL, q};
        mk_op_normed_linears(ops, (mk_normed){a, w->q_a_norm, LATENT_EPS}, &up,
                             1);  // [n_tok, n_head * d_qk]
    } else {
        mk_linear both[] = {{&w->wq, NULL, q}, {&w->wkv_a, NULL, c}};
        mk_op_normed_linears(ops, in, both, 2);  // [n_tok, n_q], [n_tok, kv_lora + d_rope]
    }
    mk_rope rope = {hp->n_head, hp->d_qk, hp->d_nope, hp->d_rope / 2, MK_ROPE_INTERLEAVED};
    mk_op_rope(ops, q, &rope, cs);
    return q;
}

static mk_mat latent_attention(const mk_model *m, mk_ops *ops, int layer, mk_mat x, mk_mat cs,
                               const mk_batch *b) {
    const mk_hparams *hp = &m->hp;
    const mk_layer *w = &m->layer[layer];
    mk_attn geometry = mk_model_attn(m, layer, b->kv_type);
    mk_mat out = mk_op_new(ops, x.n_row, hp->d_model);
    size_t mark = mk_op_mark(ops);
    mk_mat c = mk_op_new(ops, x.n_row, hp->n_kv_a);   // [n_tok, kv_lora + d_rope]
    mk_mat c_plain = mk_mat_cols(c, 0, hp->kv_lora);  // [n_tok, kv_lora]
    mk_mat qc =
        mk_op_new(ops, x.n_row, hp->n_head * hp->n_kv_a);  // [n_tok, n_head * (kv_lora + d_rope)]
    mk_mat y = mk_op_new(ops, x.n_row, hp->n_head * hp->kv_lora);  // [n_tok, n_head * kv_lora]
    mk_mat o = mk_op_new(ops, x.n_row, hp->n_o);                   // [n_tok, n_head * d_v]

    mk_mat q = queries(m, ops, w, x, c, cs);
    mk_op_rmsnorm(ops, c_plain, c_plain, w->kv_a_norm, LATENT_EPS);
    mk_rope rope = {1, hp->n_kv_a, hp->kv_lora, hp->d_rope / 2, MK_ROPE_INTERLEAVED};
    mk_op_rope(ops, c, &rope, cs);
    mk_op_tap(ops, "q", layer, q);
    mk_op_tap(ops, "latent", layer, c);
    mk_op_linear_heads(ops, qc, hp->n_kv_a, q, hp->d_qk, &w->wk_b);  // q' = Wk_b^T q_nope
    copy_head_part(ops, qc, hp->n_kv_a, hp->kv_lora, q, hp->d_qk, hp->d_nope, hp->d_rope);
    mk_op_kv_store(ops, &geometry, b->kv[layer], &b->rows, c, (mk_mat){0});
    mk_op_attention(ops, y, qc, &geometry, b->kv[layer], &b->rows);
    mk_op_linear_heads(ops, o, hp->d_v, y, hp->kv_lora, &w->wv_b);
    mk_op_tap(ops, "attn", layer, o);
    mk_op_linear(ops, out, o, &w->wo, NULL);  // [n_tok, d_model]

    mk_op_release(ops, mark);
    return out;
}

static mk_route route_of(const mk_hparams *hp, const mk_layer *w) {
    mk_group_score group = hp->gating_func == MK_SCORE_SIGMOID ? MK_GROUP_TOP2 : MK_GROUP_MAX;
    return (mk_route){.n_expert = hp->n_expert,
                      .n_used = hp->n_expert_used,
                      .score = (mk_score)hp->gating_func,
                      .group = hp->n_group > 1 ? group : MK_GROUP_NONE,
                      .n_group = hp->n_group,
                      .n_group_used = hp->n_group_used,
                      .normalise = hp->norm_topk != 0,
                      .scale = (float)hp->routed_scale,
                      .bias = w->router_bias};
}

static mk_mat experts(const mk_model *m, mk_ops *ops, int layer, mk_normed in) {
    const mk_hparams *hp = &m->hp;
    const mk_layer *w = &m->layer[layer];
    mk_route route = route_of(hp, w);
    // normed: router, experts and shared read it
    mk_mat x = mk_op_new(ops, in.x.n_row, hp->d_model);
    mk_op_rmsnorm(ops, x, in.x, in.norm, in.eps);
    mk_mat out = mk_op_new(ops, x.n_row, hp->d_model);
    mk_mat logits = mk_op_new(ops, x.n_row, hp->n_expert),
           weight = mk_op_new(ops, x.n_row, hp->n_expert_used);
    int32_t *sel = mk_op_new_i32(ops, x.n_row * hp->n_expert_used);
    mk_op_linear(ops, logits, x, &w->router, NULL);  // [n_tok, n_expert]
    mk_op_tap(ops, "router", layer, logits);
    mk_op_route(ops, &route, logits, sel, weight);  // [n_tok, n_expert_used] x 2
    mk_op_tap(ops, "route_weight", layer, weight);
    mk_moe moe = {&w->w_gate_exps, &w->w_up_exps, &w->w_down_exps, sel, weight, hp->n_expert_used};
    mk_op_moe(ops, out, x, &moe);  // [n_tok, d_model]
    if (hp->n_expert_shared > 0) {
        mk_op_add(
            ops, out,
            mk_block_swiglu(ops, (mk_normed){.x = x}, &w->w_gate_sh, &w->w_up_sh, &w->w_down_sh));
    }
    return out;
}

// x += attention, then x += experts or MLP, of layer l.
static void block(const mk_model *m, mk_ops *ops, int l, mk_mat x, mk_mat cs, const mk_batch *b) {
    const mk_layer *w = &m->layer[l];
    mk_op_add(ops, x, latent_attention(m, ops, l, x, cs, b));  // [n_tok, d_model]
    mk_op_tap(ops, "attn_out", l, x);
    mk_normed n = {x, w->ffn_norm, (float)m->hp.rms_eps};
    mk_mat y = is_dense(&m->hp, l) ? mk_block_swiglu(ops, n, &w->w_gate, &w->w_up, &w->w_down)
                                   : experts(m, ops, l, n);  // [n_tok, d_model]
    mk_op_add(ops, x, y);
    mk_op_tap(ops, "layer_out", l, x);
}

static mk_mat forward(const mk_model *m, mk_ops *ops, const mk_batch *b) {
    mk_mat x = mk_block_embed(m, ops, b);    // [n_tok, d_model]
    mk_mat cs = mk_block_angles(m, ops, b);  // [n_tok, d_rope]
    for (int l = 0; l < m->hp.n_layer; l++) {
        size_t mark = mk_op_mark(ops);
        block(m, ops, l, x, cs, b);
        mk_op_segment(ops, mark);
    }
    return mk_block_logits(m, ops, x, m->globals.out_norm, b);  // [n_out, n_vocab]
}

// From what a token's hidden state says of the next one, and that next one: the one after.  Source:
// DeepSeek-V3 report, 2.2.  It leaves open whether the state is taken before or after the final
// norm: transformers' MtpModel and vLLM take it after.  The order in eh_proj is theirs as well; the
// report's is the other one.
static mk_mat mtp(const mk_model *m, mk_ops *ops, const mk_batch *b, mk_mat hidden) {
    int64_t n_tok = hidden.n_row, d = m->hp.d_model;
    int l = (int)m->hp.n_layer;
    const mk_layer *w = &m->layer[l];
    float eps = (float)m->hp.rms_eps;
    mk_mat e = mk_block_embed(m, ops, b);    // [n_tok, d_model]: of the next tokens
    mk_mat cs = mk_block_angles(m, ops, b);  // [n_tok, d_rope]
    mk_mat h = mk_op_new(ops, n_tok, d), x = mk_op_new(ops, n_tok, d);
    mk_mat eh = mk_op_new(ops, n_tok, m->hp.d_eh);
    mk_op_rmsnorm(ops, h, hidden, m->globals.out_norm, eps);       // [n_tok, d_model]
    mk_op_rmsnorm(ops, mk_mat_cols(eh, 0, d), e, w->e_norm, eps);  // [n_tok, d_model]
    mk_op_rmsnorm(ops, mk_mat_cols(eh, d, d), h, w->h_norm, eps);  // [n_tok, d_model]
    mk_op_linear(ops, x, eh, &w->eh_proj, NULL);                   // [n_tok, d_model]
    block(m, ops, l, x, cs, b);
    return mk_block_logits(m, ops, x, w->head_norm, b);  // [n_out, n_vocab]
}

const mk_arch mk_arch_deepseek = {
    .name = "deepseek",
    .hf_class = (const char *const[]){"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", NULL},
    .gguf_arch = (const char *const[]){"deepseek2", NULL},
    .config = config,
    .n_config = (int)(sizeof config / sizeof config[0]),
    .tensors = tensors,
    .n_tensors = (int)(sizeof tensors / sizeof tensors[0]),
    .ignore = ignore,
    .finish = finish,
    .rope_dims = rope_dims,
    .attn = attn,
    .made = made,
    .gguf_config = gguf_config,
    .join = join_kv_b,
    .is_new = is_new,
    .hf_config = hf_config,
    .check = check,
    .pack = pack,
    .layout = layout,
    .forward = forward,
    .mtp = mtp,
};
