// Reading a family's configuration table, and the frequencies of the rotary embedding.
#ifndef MK_MODEL_CONFIG_H
#define MK_MODEL_CONFIG_H

#include "model/model.h"

// Fills the fields of *hp that the table names: the file's value, or the row's default.  Errors:
// MK_ECORRUPT with key, expected and actual when a required key is missing, has the wrong type or
// is out of range.
mk_status mk_config_read(const mk_cfg_row *rows, int n_row, const mk_source *src, mk_hparams *hp,
                         mk_err *err) MK_WARN_UNUSED;

// Turns the name in hp->rope_type (and the file's format) into hp->rope_scale.  Errors:
// MK_EUNSUPPORTED.
mk_status mk_config_rope(mk_hparams *hp, const mk_source *src, mk_err *err) MK_WARN_UNUSED;

// inv_freq f32 [n_dim / 2] for a rotary width of n_dim; `divisor` f32 [n_dim / 2] (GGUF's
// rope_freqs.weight) or NULL.  Rounded where transformers rounds (float32), so that angles agree at
// long positions.  Sources: Su et al. 2021; Peng et al. 2023 (YaRN); Llama 3.1's published scaling.
void mk_rope_inv_freq(const mk_hparams *hp, int64_t n_dim, const float *divisor, float *inv_freq);

// 0.1 * scale * ln(factor) + 1 for factor > 1, else 1 (YaRN's attention temperature).
double mk_yarn_mscale(double factor, double scale);

// Rows of the configuration table that every family shares; put them first in a table.
#define MK_HP(field)     offsetof(mk_hparams, field)
#define MK_ROPE_KEY(key) "rope_scaling." key "|rope_parameters." key
// clang-format off
#define MK_CFG_COMMON \
    {"num_hidden_layers", "block_count", MK_HP(n_layer), MK_CFG_I64, MK_CFG_REQUIRED, 0, 1, MK_MAX_LAYERS}, \
    {"num_attention_heads", "attention.head_count", MK_HP(n_head), MK_CFG_I64, MK_CFG_REQUIRED, 0, 1, 4096}, \
    {"hidden_size", "embedding_length", MK_HP(d_model), MK_CFG_I64, MK_CFG_REQUIRED, 0, 1, 1 << 20}, \
    {"intermediate_size", "feed_forward_length", MK_HP(d_ff), MK_CFG_I64, MK_CFG_REQUIRED, 0, 1, 1 << 22}, \
    {"vocab_size", "vocab_size", MK_HP(n_vocab), MK_CFG_I64, 0, 0, 1, 1 << 24}, \
    {"max_position_embeddings", "context_length", MK_HP(n_ctx_train), MK_CFG_I64, 0, 2048, 1, 1 << 30}, \
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", MK_HP(rms_eps), MK_CFG_F64, 0, 1e-6, 0, 1}, \
    {"rope_theta|rope_parameters.rope_theta", "rope.freq_base", MK_HP(rope_theta), MK_CFG_F64, 0, 1e4, 1, 1e12}, \
    {"tie_word_embeddings", NULL, MK_HP(tie_embeddings), MK_CFG_BOOL, 0, -1, 0, 1}, \
    {"hidden_act", NULL, MK_HP(hidden_act), MK_CFG_STR, 0, 0, 0, 0}, \
    {MK_ROPE_KEY("rope_type") "|rope_scaling.type", "rope.scaling.type", MK_HP(rope_type), MK_CFG_STR, 0, 0, 0, 0}, \
    {MK_ROPE_KEY("factor"), "rope.scaling.factor", MK_HP(rope_factor), MK_CFG_F64, 0, 1, 1e-3, 1e6}, \
    {MK_ROPE_KEY("low_freq_factor"), NULL, MK_HP(rope_low_freq), MK_CFG_F64, 0, 1, 1e-6, 1e6}, \
    {MK_ROPE_KEY("high_freq_factor"), NULL, MK_HP(rope_high_freq), MK_CFG_F64, 0, 4, 1e-6, 1e6}, \
    {MK_ROPE_KEY("beta_fast"), "rope.scaling.yarn_beta_fast", MK_HP(rope_beta_fast), MK_CFG_F64, 0, 32, 1e-6, 1e6}, \
    {MK_ROPE_KEY("beta_slow"), "rope.scaling.yarn_beta_slow", MK_HP(rope_beta_slow), MK_CFG_F64, 0, 1, 1e-6, 1e6}, \
    {MK_ROPE_KEY("mscale"), NULL, MK_HP(rope_mscale), MK_CFG_F64, 0, 0, 0, 100}, \
    {MK_ROPE_KEY("mscale_all_dim"), NULL, MK_HP(rope_mscale_all_dim), MK_CFG_F64, 0, 0, 0, 100}, \
    {MK_ROPE_KEY("attention_factor"), NULL, MK_HP(rope_attn_factor), MK_CFG_F64, 0, 0, 0, 100}, \
    {NULL, "rope.scaling.yarn_log_multiplier", MK_HP(rope_yarn_log_mul), MK_CFG_F64, 0, 0, 0, 100}, \
    {MK_ROPE_KEY("original_max_position_embeddings"), "rope.scaling.original_context_length", MK_HP(rope_orig_ctx), \
     MK_CFG_I64, 0, 0, 1, 1 << 30}
// clang-format on

#endif
