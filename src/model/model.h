// A model: what its files say (configuration, tensors) and how it computes (one forward per
// architecture).
//
// Nouns
//   mk_source   the files: one GGUF (perhaps split) or one Hugging Face folder; found tensors and configuration values
//   mk_hparams  the numbers of the architecture, read through the table of its family and checked
//   mk_arch     an architecture family: table of configuration keys, table of tensors, forward (arch_list.h lists them)
//   mk_model    hparams + bound tensors + (after mk_model_load) packed weights
//
// mk_model_open reads and checks everything but touches no weight; mk_model_load packs the weights.
// A loaded model is immutable and may be shared by threads and engines, but for a trainer's: one
// that was loaded by mk_model_load_f32 belongs to who changes its parameters (params.h), between
// steps of every engine.  A model file never mentions sessions, servers or caches on disk.
//
//     MK_TRY(mk_model_open(path, &model, err));
//     MK_TRY(mk_model_load(model, pool, err));
//     logits = mk_model_forward(model, ops, &batch);
#ifndef MK_MODEL_MODEL_H
#define MK_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "format/packfile.h"
#include "model/source.h"
#include "ops/ops.h"

#define MK_MAX_LAYERS 1024

typedef enum {
    MK_ROPE_SCALE_NONE,
    MK_ROPE_SCALE_LINEAR,
    MK_ROPE_SCALE_LLAMA3,
    MK_ROPE_SCALE_YARN
} mk_rope_scale;

// All fields are int64_t or double so that one table type can fill them; 0 when a family does not
// have the thing.
typedef struct {
    // every family
    int64_t n_layer, n_head, n_kv_head, d_head, d_model, d_ff, n_vocab, n_ctx_train;
    double rms_eps, rope_theta;
    int64_t tie_embeddings;
    // rope scaling
    char rope_type[32];
    mk_rope_scale rope_scale;
    double rope_factor, rope_low_freq, rope_high_freq, rope_beta_fast, rope_beta_slow;
    double rope_mscale, rope_mscale_all_dim, rope_attn_factor, rope_yarn_log_mul;
    int64_t rope_orig_ctx;
    // multi-head latent attention
    int64_t q_lora, kv_lora, d_nope, d_rope, d_v, key_length, value_length, key_length_mla,
        value_length_mla;
    // mixture of experts
    int64_t n_expert, n_expert_used, n_expert_shared, d_ff_expert, n_dense_lead, moe_layer_freq;
    int64_t n_group, n_group_used, norm_topk, gating_func, n_nextn;
    double routed_scale;
    char scoring_func[32], topk_method[32], hidden_act[32];
    // derived by the family's `finish`
    int64_t n_q, n_kv;  // rows of wq; of wk and wv
    int64_t d_qk, n_kv_a, n_kv_b, n_o, d_ff_shared;
    int64_t d_eh;  // columns of eh_proj: an embedding and a hidden state
    int64_t one;   // 1, for shapes
} mk_hparams;

// Packed weights of one layer.  After mk_model_open the layouts are known and data is NULL; weights
// with n_mat == 0 and vectors that stay NULL are absent.
typedef struct {
    float *attn_norm, *ffn_norm, *bq, *bk, *bv, *bo;
    mk_weight wq, wk, wv, wo;
    mk_weight w_gate, w_up, w_down;
    // latent attention
    float *q_a_norm, *kv_a_norm;
    mk_weight wq_a, wq_b, wkv_a, wk_b,
        wv_b;  // wk_b: per head [kv_lora, d_nope]; wv_b: per head [d_v, kv_lora]
    // experts
    float *router_bias;
    mk_weight router, w_gate_exps, w_up_exps, w_down_exps, w_gate_sh, w_up_sh, w_down_sh;
    // prediction layer: norms of the embedding, of the hidden state and before the output matrix
    float *e_norm, *h_norm, *head_norm;
    mk_weight eh_proj;
} mk_layer;

typedef struct {
    float *out_norm;
    mk_weight output;             // [n_vocab, d_model]
    const mk_tensor_view *embed;  // token table, read where it lies
} mk_globals;

typedef struct mk_model mk_model;

// One ragged batch.  The cache is given by layer; rows as in ops.h.
typedef struct {
    const int32_t *ids;  // [rows.n_tok]
    mk_rows rows;
    const mk_kv_layer *kv;  // [mk_model_n_layer]
    mk_kv_type kv_type;
    const int32_t *out_rows;  // rows whose logits are wanted, ascending
    int64_t n_out;
    // out, unless NULL: what came out of the last layer, [n_tok, d_model], until the step ends
    mk_mat *hidden;
} mk_batch;

// --- the two tables of a family ------------------------------------------------------------------
typedef enum { MK_CFG_I64, MK_CFG_F64, MK_CFG_BOOL, MK_CFG_STR } mk_cfg_type;
#define MK_CFG_REQUIRED 1u
typedef struct {
    const char *
        // key in config.json, alternatives by '|', nesting by '.':
        // "rope_theta|rope_parameters.rope_theta"
        hf;
    const char
        *gguf;     // key without "<arch>."; a leading '/' means exactly this key; NULL = not there
    size_t field;  // offset in mk_hparams
    mk_cfg_type type;
    unsigned flags;
    double def, min, max;
} mk_cfg_row;

typedef enum {
    MK_T_EMBED,       // token table: bound, not packed
    MK_T_VECTOR,      // float32 copy
    MK_T_LINEAR,      // packed in its own type
    MK_T_LINEAR_F32,  // packed as float32 (routers)
    // n_expert matrices: one 3-D tensor in GGUF, one tensor per expert in safetensors
    MK_T_EXPERTS,
    MK_T_CUSTOM  // bound and checked here, packed by the family's `pack`
} mk_tensor_class;
#define MK_T_OPTIONAL 1u
#define MK_T_GLOBAL   2u  // field is in mk_globals, name has no {L}
#define MK_T_PERMUTED_Q                                                                            \
    4u  // GGUF stores rows in interleaved-rope order; put back to half-split at load
#define MK_T_PERMUTED_K 8u
#define MK_T_LORA       16u  // a target for adapters
#define MK_T_TIED       32u  // if absent, the token table is used
typedef struct {
    const char *hf,
        *gguf;     // names with {L} for the layer and {E} for the expert; NULL = not in that format
    size_t field;  // offset in mk_layer or mk_globals; ignored for CUSTOM
    mk_tensor_class cls;
    unsigned flags;
    // offsets of the dims in mk_hparams, slowest first; experts: of one expert; CUSTOM: in a folder
    size_t shape[3];
    int n_dim;
    bool (*when)(const mk_hparams *hp, int layer);  // NULL = always
} mk_tensor_row;

// What was found for one row in one layer: n_view tensors (experts of a folder: one each), 0 if an
// optional one is absent.
typedef struct {
    const mk_tensor_view **view;
    int64_t n_view;
} mk_binding;

// Writing GGUF: a tensor that files of that format hold in place of the CUSTOM rows.  float32 in,
// float32 out.
typedef struct {
    const char *gguf;  // name with {L}; NULL ends a list
    int from;          // row of the tensor table it is made of
    int n_dim;
    size_t shape[3];  // offsets of the dims in mk_hparams, slowest first
    void (*make)(const mk_hparams *hp, const float *from, float *to);
} mk_made_row;

typedef struct {
    const char *name;              // "llama"
    const char *const *hf_class;   // NULL-terminated: "LlamaForCausalLM"
    const char *const *gguf_arch;  // NULL-terminated: "llama"
    const mk_cfg_row *config;
    int n_config;
    const mk_tensor_row *tensors;
    int n_tensors;
    const char *const
        *ignore;  // NULL-terminated glob patterns of tensors that are known and not needed
    // Derives fields, checks what one row cannot say.
    mk_status (*finish)(mk_hparams *hp, const mk_source *src, mk_err *err);
    // Frequencies [n_pair] and factor of the rotary embedding; n_pair from rope_dims.
    int64_t (*rope_dims)(const mk_hparams *hp);
    // Geometry of the cache of one layer (type is filled by the caller).
    mk_attn (*attn)(const mk_hparams *hp, int layer);
    // CUSTOM rows of one layer, NULL if there are none: at open checks their shapes and then lays
    // out their weights (without data), at load packs them.
    mk_status (*check)(const mk_model *m, int layer, mk_err *err);
    mk_status (*layout)(mk_model *m, int layer, mk_err *err);
    mk_status (*pack)(mk_model *m, int layer, mk_pool *pool, mk_err *err);
    // For writing GGUF, may be NULL: the list above; and a function that changes a copy of the
    // numbers to what GGUF's keys mean, and writes keys that no row of the configuration table has.
    const mk_made_row *made;
    void (*gguf_config)(mk_hparams *hp, mk_gguf_out *out);
    // For writing folders, may be NULL: the CUSTOM row of a folder (the first row that is one) from
    // the two tensors that `made` makes of it, its inverse; whether a new model has optional row
    // `row` (none if NULL); and what is said in a configuration written from the numbers of a GGUF
    // file that no row of the table says (architectures and model_type first of all).
    void (*join)(const mk_hparams *hp, const float *first, const float *second, float *to);
    bool (*is_new)(const mk_hparams *hp, const mk_source *src, int row);
    void (*hf_config)(const mk_model *m, json_t *config);
    // logits [n_out, n_vocab]
    mk_mat (*forward)(const mk_model *m, mk_ops *ops, const mk_batch *b);
    // The same of the prediction layer, NULL if the family has none: the batch is that of `hidden`,
    // but its ids are the tokens that follow, and the logits are of the tokens after those.
    mk_mat (*mtp)(const mk_model *m, mk_ops *ops, const mk_batch *b, mk_mat hidden);
} mk_arch;

struct mk_model {
    const mk_arch *arch;
    mk_source *src;
    mk_hparams hp;
    mk_globals globals;
    // Layers found in the files: hp.n_layer, and behind them the prediction layer if all of it is
    // there.
    int64_t n_bound;
    bool mtp;               // that layer is, or will be, loaded: mk_model_use_mtp
    mk_layer *layer;        // [n_layer + 1]
    mk_binding *binding;    // [(n_layer + 2) * arch->n_tensors]: mk_model_binding
    float *inv_freq;        // [rope_dims / 2]
    double rope_cs_factor;  // multiplies cos and sin
    mk_packfile *packed;    // the weights on disk, packed (pack_cache.h); NULL: packed at load
    uint8_t *weights;       // one block for all that are packed at load; NULL
    size_t weights_bytes;
    uint8_t *rounded;  // with bf16: one block for what the masters in `weights` are rounded to
    size_t rounded_bytes;
    bool bf16;                  // by mk_model_load_bf16, with f32
    bool f32;                   // by mk_model_load_f32: globals.embed is ...
    mk_tensor_view embed_view;  // ... this, and its values are ...
    float *embed_values;        // ... owned
    bool loaded;
    // adapters that are attached, and those that values are read with (adapter.h); or NULL
    const struct mk_adapters *adapters, *merged;
};

// Opens PATH (a .gguf file or a folder), recognises the architecture, reads the configuration,
// binds and checks every tensor by name, shape and type.  Errors: MK_ENOTFOUND, MK_ECORRUPT,
// MK_EUNSUPPORTED, MK_ENOMEM.
mk_status mk_model_open(const char *path, mk_model **out, mk_err *err) MK_WARN_UNUSED;
void mk_model_close(mk_model *m);

// Multi-token prediction (DeepSeek-V3 report, 2.2): a layer behind the last one that predicts one
// token further.  It is left in the files unless this is called between opening and loading; then
// it is loaded, listed among the parameters, and has a part of the cache.  Errors: MK_EUNSUPPORTED
// (the model has none, or more than one), MK_ECORRUPT (a tensor of it is missing or has another
// shape), MK_ENOMEM.
mk_status mk_model_use_mtp(mk_model *m, mk_err *err) MK_WARN_UNUSED;
// Layers that are, or will be, loaded.
static inline int64_t mk_model_n_layer(const mk_model *m) {
    return m->hp.n_layer + (m->mtp ? 1 : 0);
}

// Called while weights are packed, tensor by tensor, with bytes done and total; returns false to
// end the load there (MK_EINTR).
typedef bool (*mk_load_progress)(void *arg, uint64_t done, uint64_t total);
// Packs all weights (progress: may be NULL).  Errors: MK_ENOMEM, MK_EUNSUPPORTED, MK_EINTR.
mk_status mk_model_load(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                        mk_err *err) MK_WARN_UNUSED;

// Gives the memory of the weights back, also after a load that failed; mk_model_load may follow,
// and makes the same weights.  Not of a trainer's model (assertion).
void mk_model_unload(mk_model *m);

// The same for a trainer: every weight as float32 (MK_PACK_F32), whatever the file's type, and a
// copy of the token table; all in memory of the model that may be written.  A tied output matrix is
// a copy of its own (mk_params_refresh).  Not with a packed copy attached (assertion).
mk_status mk_model_load_f32(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                            mk_err *err) MK_WARN_UNUSED;

// The same with matrices that are computed with as bf16: float32 values, the masters, that a
// trainer changes, and copies rounded from them (mk_params_refresh).  Routers, vectors and the
// token table stay float32.
mk_status mk_model_load_bf16(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                             mk_err *err) MK_WARN_UNUSED;

// Attention geometry of a layer with the cache type filled in.
mk_attn mk_model_attn(const mk_model *m, int layer, mk_kv_type type);
mk_mat mk_model_forward(const mk_model *m, mk_ops *ops, const mk_batch *b);
mk_mat mk_model_mtp(const mk_model *m, mk_ops *ops, const mk_batch *b, mk_mat hidden);

// Facts for people and plans.
int64_t mk_model_n_param(const mk_model *m);
size_t mk_model_weight_bytes(const mk_model *m);  // packed, as mk_model_load will allocate
size_t mk_model_f32_bytes(const mk_model *m);     // as mk_model_load_f32 will allocate
size_t mk_model_bf16_bytes(const mk_model *m);    // as mk_model_load_bf16 will, at most
size_t mk_model_file_bytes(const mk_model *m);
// Bytes of weights read to produce one token (active experts only), in packed form.
size_t mk_model_bytes_per_token(const mk_model *m);
size_t mk_model_kv_bytes_per_block(const mk_model *m,
                                   mk_kv_type type);  // all layers, MK_KV_BLOCK tokens

const mk_arch *mk_arch_at(int i);  // NULL past the end

// --- for the files of src/model ------------------------------------------------------------------
// The numbers of a configuration that has no tensors (mk_source_open_config); the model has no
// layers, and can only be asked for arch, hp and src, and closed.
mk_status mk_model_open_config(const char *path, mk_model **out, mk_err *err) MK_WARN_UNUSED;
// What was found for row `row` of the family's tensor table in `layer` (-1 = the global rows).
const mk_binding *mk_model_binding(const mk_model *m, int layer, int row);
// Whether row `row` is an output matrix that is the token table itself.
bool mk_model_is_tied(const mk_model *m, int row);

#endif
