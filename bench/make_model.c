// Writes a GGUF file of a published model's shapes and types with random weights, for measuring.
//
//     make_model SHAPE TYPE OUT.gguf     --help lists shapes and types
//     make_model SHAPE TYPE              only says how large the file would be
//
// What it generates is noise; sizes, types of each tensor, vocabulary and therefore speed are those
// of the real file.  The same seed gives the same bytes.
//
// Values are about 1 / sqrt(n_in) large, so that activations keep their size through the layers.
// What goes back into the residual stream is smaller by sqrt(2 n_layer), so that a token's own
// embedding stays visible to routers and experts are chosen about evenly.
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/mathx.h"
#include "base/opt.h"
#include "format/gguf.h"
#include "make_vocab.h"
#include "make_weights.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum { MAX_NAME = 64, CHUNK_BYTES = 1 << 20 };

// --- shapes --------------------------------------------------------------------------------------

typedef struct family family;

typedef struct {
    const char *name, *title;
    const family *family;
    const mk_vocab_kind *vocab;
    bool tied;  // the embedding is the head as well
    double rope_base, rms_eps;
    int64_t n_layer, n_ctx, n_vocab, n_text;  // n_text: tokens before the special ones
    int64_t d_model, d_ff, n_head, n_kv_head, d_head;
    // latent attention and experts; 0 elsewhere
    int64_t kv_lora, d_nope, d_rope, d_v;
    int64_t n_dense, n_expert, n_used, n_shared, d_ff_expert;
    // set by derive()
    int64_t n_q, n_kv, n_o, n_kv_a, d_ff_shared, key_length, value_length, key_mla, value_mla;
} shape;

#define AT(field) offsetof(shape, field)

// What decides the type of a tensor and the size of its values.
typedef enum {
    ROLE_NORM,    // F32 around 1
    ROLE_BIAS,    // F32 around 0
    ROLE_ROUTER,  // an F32 matrix
    ROLE_EMBED,
    ROLE_HEAD,
    ROLE_PLAIN,
    ROLE_VALUE,     // more bits in some layers
    ROLE_RESIDUAL,  // its output is added to the residual stream
    ROLE_DOWN       // both
} role;

typedef enum { ALWAYS, IF_UNTIED, IF_DENSE, IF_MOE } condition;

typedef struct {
    const char *name;  // behind "blk.N." for tensors of a layer
    role role;
    int n_dim;
    size_t dims[3];  // offsets of the shape's fields, last dimension = columns
    condition when;
} row;

struct family {
    const char *arch;
    const row *rows;
    size_t n_row;
};

// clang-format off
static const row global_rows[] = {
    {"token_embd.weight", ROLE_EMBED, 2, {AT(n_vocab), AT(d_model)}, ALWAYS},
    {"output_norm.weight", ROLE_NORM, 1, {AT(d_model)}, ALWAYS},
    {"output.weight", ROLE_HEAD, 2, {AT(n_vocab), AT(d_model)}, IF_UNTIED},
};

#define LLAMA_ROWS \
    {"attn_norm.weight", ROLE_NORM, 1, {AT(d_model)}, ALWAYS}, \
    {"attn_q.weight", ROLE_PLAIN, 2, {AT(n_q), AT(d_model)}, ALWAYS}, \
    {"attn_k.weight", ROLE_PLAIN, 2, {AT(n_kv), AT(d_model)}, ALWAYS}, \
    {"attn_v.weight", ROLE_VALUE, 2, {AT(n_kv), AT(d_model)}, ALWAYS}, \
    {"attn_output.weight", ROLE_RESIDUAL, 2, {AT(d_model), AT(n_q)}, ALWAYS}, \
    {"ffn_norm.weight", ROLE_NORM, 1, {AT(d_model)}, ALWAYS}, \
    {"ffn_gate.weight", ROLE_PLAIN, 2, {AT(d_ff), AT(d_model)}, ALWAYS}, \
    {"ffn_up.weight", ROLE_PLAIN, 2, {AT(d_ff), AT(d_model)}, ALWAYS}, \
    {"ffn_down.weight", ROLE_DOWN, 2, {AT(d_model), AT(d_ff)}, ALWAYS}

static const row llama_rows[] = {LLAMA_ROWS};

static const row qwen2_rows[] = {
    LLAMA_ROWS,
    {"attn_q.bias", ROLE_BIAS, 1, {AT(n_q)}, ALWAYS},
    {"attn_k.bias", ROLE_BIAS, 1, {AT(n_kv)}, ALWAYS},
    {"attn_v.bias", ROLE_BIAS, 1, {AT(n_kv)}, ALWAYS},
};

// The quantiser knows value matrices by the name attn_v, so attn_v_b gets no more bits.
static const row deepseek2_rows[] = {
    {"attn_norm.weight", ROLE_NORM, 1, {AT(d_model)}, ALWAYS},
    {"attn_q.weight", ROLE_PLAIN, 2, {AT(n_q), AT(d_model)}, ALWAYS},
    {"attn_kv_a_mqa.weight", ROLE_PLAIN, 2, {AT(n_kv_a), AT(d_model)}, ALWAYS},
    {"attn_kv_a_norm.weight", ROLE_NORM, 1, {AT(kv_lora)}, ALWAYS},
    {"attn_k_b.weight", ROLE_PLAIN, 3, {AT(n_head), AT(kv_lora), AT(d_nope)}, ALWAYS},
    {"attn_v_b.weight", ROLE_PLAIN, 3, {AT(n_head), AT(d_v), AT(kv_lora)}, ALWAYS},
    {"attn_output.weight", ROLE_RESIDUAL, 2, {AT(d_model), AT(n_o)}, ALWAYS},
    {"ffn_norm.weight", ROLE_NORM, 1, {AT(d_model)}, ALWAYS},
    {"ffn_gate.weight", ROLE_PLAIN, 2, {AT(d_ff), AT(d_model)}, IF_DENSE},
    {"ffn_up.weight", ROLE_PLAIN, 2, {AT(d_ff), AT(d_model)}, IF_DENSE},
    {"ffn_down.weight", ROLE_DOWN, 2, {AT(d_model), AT(d_ff)}, IF_DENSE},
    {"ffn_gate_inp.weight", ROLE_ROUTER, 2, {AT(n_expert), AT(d_model)}, IF_MOE},
    {"ffn_gate_exps.weight", ROLE_PLAIN, 3, {AT(n_expert), AT(d_ff_expert), AT(d_model)}, IF_MOE},
    {"ffn_up_exps.weight", ROLE_PLAIN, 3, {AT(n_expert), AT(d_ff_expert), AT(d_model)}, IF_MOE},
    {"ffn_down_exps.weight", ROLE_DOWN, 3, {AT(n_expert), AT(d_model), AT(d_ff_expert)}, IF_MOE},
    {"ffn_gate_shexp.weight", ROLE_PLAIN, 2, {AT(d_ff_shared), AT(d_model)}, IF_MOE},
    {"ffn_up_shexp.weight", ROLE_PLAIN, 2, {AT(d_ff_shared), AT(d_model)}, IF_MOE},
    {"ffn_down_shexp.weight", ROLE_DOWN, 2, {AT(d_model), AT(d_ff_shared)}, IF_MOE},
};
// clang-format on

static const family llama = {"llama", llama_rows, COUNT(llama_rows)};
static const family qwen2 = {"qwen2", qwen2_rows, COUNT(qwen2_rows)};
static const family deepseek2 = {"deepseek2", deepseek2_rows, COUNT(deepseek2_rows)};

// clang-format off
static const shape shapes[] = {
    {.name = "llama-1b", .title = "Llama-3.2-1B-Instruct", .family = &llama, .vocab = &mk_vocab_llama,
     .tied = true, .rope_base = 500000, .rms_eps = 1e-5, .n_layer = 16, .n_ctx = 131072,
     .n_vocab = 128256, .n_text = 128000, .d_model = 2048, .d_ff = 8192, .n_head = 32,
     .n_kv_head = 8, .d_head = 64},
    {.name = "qwen-0.5b", .title = "Qwen2.5-0.5B-Instruct", .family = &qwen2, .vocab = &mk_vocab_qwen2,
     .tied = true, .rope_base = 1000000, .rms_eps = 1e-6, .n_layer = 24, .n_ctx = 32768,
     .n_vocab = 151936, .n_text = 151643, .d_model = 896, .d_ff = 4864, .n_head = 14,
     .n_kv_head = 2, .d_head = 64},
    {.name = "deepseek-v2-lite", .title = "DeepSeek-V2-Lite-Chat", .family = &deepseek2,
     .vocab = &mk_vocab_deepseek, .rope_base = 10000, .rms_eps = 1e-6, .n_layer = 27, .n_ctx = 163840,
     .n_vocab = 102400, .n_text = 100000, .d_model = 2048, .d_ff = 10944, .n_head = 16, .n_kv_head = 1,
     .kv_lora = 512, .d_nope = 128, .d_rope = 64, .d_v = 128,
     .n_dense = 1, .n_expert = 64, .n_used = 6, .n_shared = 2, .d_ff_expert = 1408},
    // the rest is for tests
    {.name = "llama-tiny", .title = "four small layers", .family = &llama, .vocab = &mk_vocab_llama,
     .tied = true, .rope_base = 10000, .rms_eps = 1e-5, .n_layer = 4, .n_ctx = 4096,
     .n_vocab = 512, .n_text = 500, .d_model = 256, .d_ff = 512, .n_head = 4, .n_kv_head = 2, .d_head = 64},
    {.name = "deepseek-tiny", .title = "as many layers as V2-Lite, small", .family = &deepseek2,
     .vocab = &mk_vocab_deepseek, .rope_base = 10000, .rms_eps = 1e-6, .n_layer = 27, .n_ctx = 163840,
     .n_vocab = 512, .n_text = 500, .d_model = 256, .d_ff = 544, .n_head = 4, .n_kv_head = 1,
     .kv_lora = 256, .d_nope = 32, .d_rope = 16, .d_v = 32,
     .n_dense = 1, .n_expert = 16, .n_used = 4, .n_shared = 2, .d_ff_expert = 160},
    {.name = "llama-100m", .title = "0.2 GB in BF16, almost no vocabulary", .family = &llama,
     .vocab = &mk_vocab_llama, .rope_base = 10000, .rms_eps = 1e-5, .n_layer = 9, .n_ctx = 4096,
     .n_vocab = 512, .n_text = 500, .d_model = 1024, .d_ff = 2816, .n_head = 16, .n_kv_head = 4, .d_head = 64},
};
// clang-format on

static void derive(shape *s) {
    bool mla = s->kv_lora > 0;
    int64_t d_qk = mla ? s->d_nope + s->d_rope : s->d_head;
    s->d_rope = mla ? s->d_rope : s->d_head;
    s->n_q = s->n_head * d_qk;
    s->n_kv = s->n_kv_head * s->d_head;
    s->n_kv_a = s->kv_lora + s->d_rope;
    s->n_o = s->n_head * s->d_v;
    s->d_ff_shared = s->n_shared * s->d_ff_expert;
    s->key_length = mla ? s->n_kv_a : s->d_head;
    s->value_length = mla ? s->kv_lora : s->d_head;
    s->key_mla = mla ? d_qk : 0;
    s->value_mla = s->d_v;
}

static int64_t field(const shape *s, size_t at) {
    int64_t v;
    memcpy(&v, (const char *)s + at, sizeof v);
    return v;
}

// --- types ---------------------------------------------------------------------------------------

// How llama.cpp's quantiser chooses types (llama-quant.cpp): `more` in some layers of attn_v and
// ffn_down, `head` for the output matrix or the embedding that serves as one, `base` elsewhere.
typedef struct {
    const char *name;
    mk_dtype base, more, head;
    uint32_t file_type;  // general.file_type
} recipe;

static const recipe recipes[] = {
    {"f32", MK_DTYPE_F32, MK_DTYPE_F32, MK_DTYPE_F32, 0},
    {"f16", MK_DTYPE_F16, MK_DTYPE_F16, MK_DTYPE_F16, 1},
    {"bf16", MK_DTYPE_BF16, MK_DTYPE_BF16, MK_DTYPE_BF16, 32},
    {"q8_0", MK_DTYPE_Q8_0, MK_DTYPE_Q8_0, MK_DTYPE_Q8_0, 7},
    {"q4_0", MK_DTYPE_Q4_0, MK_DTYPE_Q4_0, MK_DTYPE_Q6_K, 2},
    {"q4_k_m", MK_DTYPE_Q4_K, MK_DTYPE_Q6_K, MK_DTYPE_Q6_K, 15},
};

// Rows that are not whole blocks of 256 take a type with blocks of 32.
static const struct {
    mk_dtype from, to;
} narrow[] = {{MK_DTYPE_Q4_K, MK_DTYPE_Q5_0}, {MK_DTYPE_Q6_K, MK_DTYPE_Q8_0}};

// The first and the last eighth of the layers and every third between.
static bool gets_more(int64_t layer, int64_t n_layer) {
    return layer < n_layer / 8 || layer >= 7 * n_layer / 8 || (layer - n_layer / 8) % 3 == 2;
}

static mk_dtype choose_type(const recipe *rc, const shape *s, role what, int64_t layer,
                            int64_t n_in) {
    if (what == ROLE_NORM || what == ROLE_BIAS || what == ROLE_ROUTER) {
        return MK_DTYPE_F32;
    }
    bool more = (what == ROLE_VALUE || what == ROLE_DOWN) && gets_more(layer, s->n_layer);
    bool head = what == ROLE_HEAD || (what == ROLE_EMBED && s->tied);
    mk_dtype t = head ? rc->head : more ? rc->more : rc->base;
    for (size_t i = 0; i < COUNT(narrow); i++) {
        if (t == narrow[i].from && n_in % mk_dtype_get((int64_t)t)->block != 0) {
            return narrow[i].to;
        }
    }
    return t;
}

// --- the list of tensors -------------------------------------------------------------------------

typedef struct {
    char name[MAX_NAME];
    int n_dim;
    int64_t shape[3], n_block;
    mk_values values;
} tensor;

typedef struct {
    const shape *s;
    const recipe *rc;
    uint64_t seed;
    tensor *tensors;
    size_t n_tensor;
    uint64_t total, done;
    uint64_t type_bytes[MK_DTYPE_N];  // for the summary
    uint8_t *chunk;                   // CHUNK_BYTES
    mk_progress bar;
} job;

static int64_t block_bytes(const tensor *t) {
    return mk_dtype_get((int64_t)t->values.type)->block_bytes;
}

static bool present(const shape *s, condition when, int64_t layer) {
    bool moe = s->n_expert > 0 && layer >= s->n_dense;
    switch (when) {
    case IF_UNTIED:
        return !s->tied;
    case IF_DENSE:
        return !moe;
    case IF_MOE:
        return moe;
    case ALWAYS:
        break;
    }
    return true;
}

static float root(int64_t n) {
    return (float)__builtin_sqrt((double)n);
}

// An embedding of its own has rows as large as a normalised state; one that is the head as well
// must be small, for logits of about 1.
static mk_values choose_values(const shape *s, role what, int64_t n_in) {
    bool adds = what == ROLE_RESIDUAL || what == ROLE_DOWN;
    mk_values v = {.centre = what == ROLE_NORM ? 1.0f : 0.0f,
                   .spread = (adds ? 1.0f / root(2 * s->n_layer) : 1.0f) / root(n_in)};
    if (what == ROLE_NORM || what == ROLE_BIAS) {
        v.spread = 0.1f;
    } else if (what == ROLE_EMBED && !s->tied) {
        v.spread = 1.0f;
    }
    return v;
}

static void add_tensor(job *j, const row *r, int64_t layer) {
    const shape *s = j->s;
    if (!present(s, r->when, layer)) {
        return;
    }
    tensor *t = &j->tensors[j->n_tensor++];
    if (layer < 0) {
        snprintf(t->name, sizeof t->name, "%s", r->name);
    } else {
        snprintf(t->name, sizeof t->name, "blk.%lld.%s", (long long)layer, r->name);
    }
    int64_t n = 1;
    t->n_dim = r->n_dim;
    for (int d = 0; d < r->n_dim; d++) {
        t->shape[d] = field(s, r->dims[d]);
        n *= t->shape[d];
    }
    int64_t n_in = t->shape[r->n_dim - 1];
    t->values = choose_values(s, r->role, n_in);
    t->values.type = choose_type(j->rc, s, r->role, layer, n_in);
    t->values.key = mk_hash64(t->name, strlen(t->name), j->seed);
    t->n_block = n / mk_dtype_get((int64_t)t->values.type)->block;
}

static void plan(job *j, mk_gguf_out *o) {
    const family *fam = j->s->family;
    j->tensors =
        mk_zalloc((COUNT(global_rows) + (size_t)j->s->n_layer * fam->n_row) * sizeof *j->tensors);
    for (size_t i = 0; i < COUNT(global_rows); i++) {
        add_tensor(j, &global_rows[i], -1);
    }
    for (int64_t layer = 0; layer < j->s->n_layer; layer++) {
        for (size_t i = 0; i < fam->n_row; i++) {
            add_tensor(j, &fam->rows[i], layer);
        }
    }
    for (size_t i = 0; i < j->n_tensor; i++) {
        const tensor *t = &j->tensors[i];
        uint64_t n_bytes = (uint64_t)(t->n_block * block_bytes(t));
        j->type_bytes[t->values.type] += n_bytes;
        j->total += n_bytes;
        mk_gguf_out_tensor(o, t->name, t->values.type, t->n_dim, t->shape);
    }
}

// Set by Ctrl-C, so that the unfinished file is removed.
static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static mk_status fill(void *arg, int64_t i, mk_writer *w, mk_err *err) {
    job *j = arg;
    tensor *t = &j->tensors[i];
    int64_t per_chunk = CHUNK_BYTES / block_bytes(t);
    for (int64_t b = 0; b < t->n_block; b += per_chunk) {
        int64_t n = t->n_block - b < per_chunk ? t->n_block - b : per_chunk;
        size_t n_bytes = (size_t)(n * block_bytes(t));
        mk_make_blocks(&t->values, j->chunk, (size_t)n);
        MK_TRY(mk_writer_write(w, j->chunk, n_bytes, err));
        j->done += n_bytes;
        mk_progress_update(&j->bar, j->done);
        if (interrupted) {
            return MK_FAIL(err, MK_EINTR, "interrupted; nothing was left behind");
        }
    }
    return MK_OK;
}

// --- metadata ------------------------------------------------------------------------------------

// Keys behind "ARCH."; a value of 0 is left out.
static const struct {
    const char *key;
    size_t at;
} keys[] = {
    {"block_count", AT(n_layer)},
    {"context_length", AT(n_ctx)},
    {"embedding_length", AT(d_model)},
    {"feed_forward_length", AT(d_ff)},
    {"vocab_size", AT(n_vocab)},
    {"attention.head_count", AT(n_head)},
    {"attention.head_count_kv", AT(n_kv_head)},
    {"attention.key_length", AT(key_length)},
    {"attention.value_length", AT(value_length)},
    {"attention.key_length_mla", AT(key_mla)},
    {"attention.value_length_mla", AT(value_mla)},
    {"attention.kv_lora_rank", AT(kv_lora)},
    {"rope.dimension_count", AT(d_rope)},
    {"leading_dense_block_count", AT(n_dense)},
    {"expert_count", AT(n_expert)},
    {"expert_used_count", AT(n_used)},
    {"expert_shared_count", AT(n_shared)},
    {"expert_feed_forward_length", AT(d_ff_expert)},
};

static const char *key_of(const shape *s, const char *name, char (*key)[128]) {
    snprintf(*key, sizeof *key, "%s.%s", s->family->arch, name);
    return *key;
}

static void put_str(mk_gguf_out *o, const char *key, const char *v) {
    mk_gguf_out_str(o, key, v, strlen(v));
}

// What DeepSeek-V2-Lite's file says beyond sizes: softmax routing, and YaRN by 40 from 4096
// positions with mscale_all_dim 0.707 (stored times 0.1).
static void deepseek_metadata(const shape *s, mk_gguf_out *o) {
    char key[128];
    mk_gguf_out_u32(o, key_of(s, "expert_gating_func", &key), 1);
    mk_gguf_out_f32(o, key_of(s, "expert_weights_scale", &key), 1.0f);
    mk_gguf_out_i64(o, key_of(s, "expert_weights_norm", &key), MK_GGUF_BOOL, 0);
    put_str(o, key_of(s, "rope.scaling.type", &key), "yarn");
    mk_gguf_out_f32(o, key_of(s, "rope.scaling.factor", &key), 40.0f);
    mk_gguf_out_u32(o, key_of(s, "rope.scaling.original_context_length", &key), 4096);
    mk_gguf_out_f32(o, key_of(s, "rope.scaling.yarn_log_multiplier", &key), 0.0707f);
}

static void put_metadata(const job *j, mk_gguf_out *o) {
    const shape *s = j->s;
    char key[128], title[128];
    snprintf(title, sizeof title, "%s (random weights)", s->title);
    put_str(o, "general.architecture", s->family->arch);
    put_str(o, "general.type", "model");
    put_str(o, "general.name", title);
    mk_gguf_out_u32(o, "general.file_type", j->rc->file_type);
    mk_gguf_out_u32(o, "general.quantization_version", 2);
    for (size_t i = 0; i < COUNT(keys); i++) {
        int64_t v = field(s, keys[i].at);
        if (v != 0) {
            mk_gguf_out_u32(o, key_of(s, keys[i].key, &key), (uint32_t)v);
        }
    }
    mk_gguf_out_f32(o, key_of(s, "rope.freq_base", &key), (float)s->rope_base);
    mk_gguf_out_f32(o, key_of(s, "attention.layer_norm_rms_epsilon", &key), (float)s->rms_eps);
    if (s->kv_lora > 0) {
        deepseek_metadata(s, o);
    }
    mk_make_vocab(s->vocab, s->n_vocab, s->n_text, o);
}

// --- the program ---------------------------------------------------------------------------------

typedef struct {
    int64_t seed;
} args;

static const mk_opt opts[] = {
    {.name = "seed",
     .type = MK_OPT_I64,
     .offset = offsetof(args, seed),
     .dflt = "1",
     .arg = "N",
     .help = "another seed gives other weights"},
};

static const mk_opt_spec spec = {
    .program = "make_model",
    .usage = "SHAPE TYPE [OUT.gguf]",
    .about = "Writes a GGUF file of a published model's shapes and types with random weights; "
             "without OUT.gguf, only says how large it would be.",
    .opts = opts,
    .n_opts = COUNT(opts),
    .max_args = 3,
};

static void print_help(void) {
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    mk_opt_help(&spec, &b);
    printf("%s\nShapes:\n", b.data ? b.data : "");
    mk_buf_free(&b);
    for (size_t i = 0; i < COUNT(shapes); i++) {
        printf("  %-18s %s\n", shapes[i].name, shapes[i].title);
    }
    printf("Types:");
    for (size_t i = 0; i < COUNT(recipes); i++) {
        printf(" %s", recipes[i].name);
    }
    printf("\n");
}

static const shape *find_shape(const char *name) {
    for (size_t i = 0; i < COUNT(shapes); i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            return &shapes[i];
        }
    }
    return NULL;
}

static const recipe *find_recipe(const char *name) {
    for (size_t i = 0; i < COUNT(recipes); i++) {
        if (strcmp(recipes[i].name, name) == 0) {
            return &recipes[i];
        }
    }
    return NULL;
}

static void print_summary(const job *j) {
    printf("%s %s: %.1f MB in %zu tensors:", j->s->name, j->rc->name, (double)j->total / 1e6,
           j->n_tensor);
    const char *comma = "";
    for (int64_t t = 0; t < MK_DTYPE_N; t++) {
        if (j->type_bytes[t] > 0) {
            printf("%s %s %.1f", comma, mk_dtype_get(t)->name, (double)j->type_bytes[t] / 1e6);
            comma = ",";
        }
    }
    printf("\n");
}

static mk_status write_file(job *j, mk_gguf_out *o, const char *path, mk_err *err) {
    j->chunk = mk_alloc(CHUNK_BYTES);
    (void)signal(SIGINT, on_interrupt);
    mk_progress_start(&j->bar, "write", "B", j->total);
    mk_status st = mk_gguf_out_write(o, path, fill, j, err);
    if (st == MK_OK) {
        mk_progress_end(&j->bar, j->done);
    }
    mk_free(j->chunk);
    return st;
}

// Without a path: the summary alone.
static mk_status make(shape s, const recipe *rc, int64_t seed, const char *path, mk_err *err) {
    derive(&s);
    job j = {.s = &s, .rc = rc, .seed = (uint64_t)seed};
    mk_gguf_out *o = mk_gguf_out_create();
    put_metadata(&j, o);
    plan(&j, o);
    mk_status st = path ? write_file(&j, o, path, err) : MK_OK;
    if (st == MK_OK) {
        print_summary(&j);
    }
    mk_free(j.tensors);
    mk_gguf_out_destroy(o);
    return st;
}

static mk_status run(const args *a, const mk_opt_result *r, mk_err *err) {
    if (r->n_args < 2) {
        return MK_FAIL(err, MK_EUSAGE,
                       "expected SHAPE TYPE [OUT.gguf], got %d arguments; see --help", r->n_args);
    }
    const shape *s = find_shape(r->args[0]);
    const recipe *rc = find_recipe(r->args[1]);
    if (!s || !rc) {
        return MK_FAIL(err, MK_EUSAGE, "unknown %s '%s'; --help lists what there is",
                       s ? "type" : "shape", s ? r->args[1] : r->args[0]);
    }
    return make(*s, rc, a->seed, r->n_args > 2 ? r->args[2] : NULL, err);
}

int main(int argc, char **argv) {
    args a = {0};
    mk_opt_result r = {0};
    mk_err err = {0};
    mk_status st = mk_opt_parse(&spec, argc, argv, &a, &r, &err);
    if (st == MK_OK && r.help) {
        print_help();
    } else if (st == MK_OK) {
        st = run(&a, &r, &err);
    }
    mk_opt_free(&spec, &a, &r);
    if (st != MK_OK) {
        fprintf(stderr, "make_model: %s\n", err.msg);
    }
    return mk_status_exit_code(st);
}
