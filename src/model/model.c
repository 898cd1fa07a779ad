// Opening, loading and describing a model.
#include "model/model.h"

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "model/arch_list.h"
#include "model/bind.h"
#include "model/config.h"
#include "model/load.h"
#include "model/pack_cache.h"

#define X(name) extern const mk_arch mk_arch_##name;
MK_ARCH_LIST(X)
#undef X

static const mk_arch *const arch_list[] = {
#define X(name) &mk_arch_##name,
    MK_ARCH_LIST(X)
#undef X
};

#define N_ARCH ((int)(sizeof arch_list / sizeof arch_list[0]))

const mk_arch *mk_arch_at(int i) {
    return i >= 0 && i < N_ARCH ? arch_list[i] : NULL;
}

static bool has_name(const char *const *list, const char *name) {
    for (; *list; list++) {
        if (strcmp(*list, name) == 0) {
            return true;
        }
    }
    return false;
}

static mk_status find_arch(const mk_source *src, const mk_arch **out, mk_err *err) {
    const char *name = mk_source_arch(src);
    mk_buf known;
    mk_buf_init(&known, 4096);
    for (int i = 0; i < N_ARCH; i++) {
        const char *const *list =
            mk_source_is_gguf(src) ? arch_list[i]->gguf_arch : arch_list[i]->hf_class;
        if (has_name(list, name)) {
            mk_buf_free(&known);
            *out = arch_list[i];
            return MK_OK;
        }
        for (; *list; list++) {
            mk_buf_printf(&known, "%s%s", known.len ? ", " : "", *list);
        }
    }
    mk_status st =
        MK_FAIL(err, MK_EUNSUPPORTED, "%s: architecture \"%s\" is not supported (known: %s)",
                mk_source_path(src), name, known.data ? known.data : "");
    mk_buf_free(&known);
    return st;
}

// The vocabulary size is optional in GGUF: the token table has it.
static mk_status complete_vocab(mk_model *m, mk_err *err) {
    if (mk_source_n_tensor(m->src) == 0 && m->hp.n_vocab > 0) {
        return MK_OK;  // a configuration alone
    }
    const char *name =
        mk_source_is_gguf(m->src) ? "token_embd.weight" : "model.embed_tokens.weight";
    const mk_tensor_view *v = mk_source_find(m->src, name);
    if (!v || v->n_dim != 2) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: tensor %s is missing or not two-dimensional",
                       mk_source_path(m->src), name);
    }
    if (m->hp.n_vocab == 0 || mk_source_is_gguf(m->src)) {
        m->hp.n_vocab =
            v->shape[0];  // some converters write a vocab_size that leaves out the padding rows
    }
    return MK_OK;
}

static mk_status read_divisor(const mk_model *m, int64_t n_pair, float **out, mk_err *err) {
    const mk_tensor_view *v =
        mk_source_is_gguf(m->src) ? mk_source_find(m->src, "rope_freqs.weight") : NULL;
    if (!v) {
        return MK_OK;
    }
    MK_TRY(mk_bind_check_shape(v, &n_pair, 1, err));
    if (v->dtype != MK_DTYPE_F32) {
        return MK_FAIL(err, MK_ECORRUPT, "tensor rope_freqs.weight: type %s, expected F32",
                       mk_dtype_get(v->dtype)->name);
    }
    return mk_bind_to_f32(m, v, out, err);
}

// Multiplier of cos and sin: only YaRN has one, and DeepSeek's two mscale values cancel in it.
static double cs_factor(const mk_hparams *hp) {
    if (hp->rope_scale != MK_ROPE_SCALE_YARN || hp->rope_yarn_log_mul > 0) {
        return 1.0;
    }
    if (hp->rope_attn_factor > 0) {
        return hp->rope_attn_factor;
    }
    if (hp->rope_mscale > 0 && hp->rope_mscale_all_dim > 0) {
        return mk_yarn_mscale(hp->rope_factor, hp->rope_mscale) /
               mk_yarn_mscale(hp->rope_factor, hp->rope_mscale_all_dim);
    }
    return mk_yarn_mscale(hp->rope_factor, 1.0);
}

static mk_status make_rope(mk_model *m, mk_err *err) {
    int64_t n_dim = m->arch->rope_dims(&m->hp);
    float *divisor = NULL;
    m->inv_freq = mk_try_alloc((size_t)(n_dim / 2), sizeof *m->inv_freq);
    if (!m->inv_freq) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld rotary frequencies",
                       (long long)(n_dim / 2));
    }
    MK_TRY(read_divisor(m, n_dim / 2, &divisor, err));
    mk_rope_inv_freq(&m->hp, n_dim, divisor, m->inv_freq);
    m->rope_cs_factor = cs_factor(&m->hp);
    mk_free(divisor);
    return MK_OK;
}

static mk_status read_numbers(mk_model *m, mk_err *err) {
    MK_TRY(find_arch(m->src, &m->arch, err));
    MK_TRY(mk_config_read(m->arch->config, m->arch->n_config, m->src, &m->hp, err));
    MK_TRY(mk_config_rope(&m->hp, m->src, err));
    MK_TRY(complete_vocab(m, err));
    return m->arch->finish(&m->hp, m->src, err);
}

static mk_status open_model(mk_model *m, const char *path, mk_err *err) {
    MK_TRY(mk_source_open(path, &m->src, err));
    MK_TRY(read_numbers(m, err));
    MK_TRY(make_rope(m, err));
    m->layer = mk_try_alloc((size_t)m->hp.n_layer + 1, sizeof *m->layer);
    if (!m->layer) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld layers", (long long)m->hp.n_layer);
    }
    MK_TRY(mk_bind_all(m, err));
    return mk_load_layout(m, err);
}

mk_status mk_model_open(const char *path, mk_model **out, mk_err *err) {
    mk_model *m = mk_zalloc(sizeof *m);
    mk_status st = open_model(m, path, err);
    if (st != MK_OK) {
        mk_model_close(m);
        return st;
    }
    *out = m;
    return MK_OK;
}

mk_status mk_model_open_config(const char *path, mk_model **out, mk_err *err) {
    mk_model *m = mk_zalloc(sizeof *m);
    mk_status st = mk_source_open_config(path, &m->src, err);
    st = st == MK_OK ? read_numbers(m, err) : st;
    if (st != MK_OK) {
        mk_model_close(m);
        return st;
    }
    m->n_bound = m->hp.n_layer + (mk_bind_may_have_mtp(m) ? 1 : 0);
    *out = m;
    return MK_OK;
}

mk_status mk_model_use_mtp(mk_model *m, mk_err *err) {
    MK_ASSERT(!m->loaded && !m->packed);
    MK_TRY(mk_bind_mtp(m, err));
    m->mtp = true;
    return mk_load_layout(m, err);
}

void mk_model_close(mk_model *m) {
    if (!m) {
        return;
    }
    if (m->layer) {
        mk_load_free(m);
    }
    mk_free(m->layer);
    mk_bind_free(m);
    mk_packfile_close(m->packed);
    mk_free(m->inv_freq);
    mk_source_close(m->src);
    mk_free(m);
}

mk_status mk_model_load(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                        mk_err *err) {
    MK_ASSERT(!m->loaded);
    if (m->packed) {
        mk_pack_cache_map(m);
    }
    MK_TRY(mk_load_weights(m, pool, progress, arg, err));
    m->loaded = true;
    return MK_OK;
}

void mk_model_unload(mk_model *m) {
    MK_ASSERT(!m->f32);
    mk_load_free(m);
    if (m->packed) {
        mk_packfile_forget(m->packed);
    }
    m->loaded = false;
}

mk_status mk_model_load_f32(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                            mk_err *err) {
    MK_ASSERT(!m->loaded && !m->packed && !m->adapters);  // layouts are made anew
    m->f32 = true;
    MK_TRY(mk_load_layout(m, err));
    MK_TRY(mk_load_weights(m, pool, progress, arg, err));
    m->loaded = true;
    return MK_OK;
}

mk_status mk_model_load_bf16(mk_model *m, mk_pool *pool, mk_load_progress progress, void *arg,
                             mk_err *err) {
    m->bf16 = true;
    return mk_model_load_f32(m, pool, progress, arg, err);
}

mk_attn mk_model_attn(const mk_model *m, int layer, mk_kv_type type) {
    mk_attn a = m->arch->attn(&m->hp, layer);
    a.type = type;
    return a;
}

mk_mat mk_model_forward(const mk_model *m, mk_ops *ops, const mk_batch *b) {
    MK_ASSERT(m->loaded);
    return m->arch->forward(m, ops, b);
}

mk_mat mk_model_mtp(const mk_model *m, mk_ops *ops, const mk_batch *b, mk_mat hidden) {
    MK_ASSERT(m->loaded && m->mtp);
    return m->arch->mtp(m, ops, b, hidden);
}

// --- facts ---------------------------------------------------------------------------------------

static int64_t n_element(const mk_tensor_view *v) {
    int64_t n = 1;
    for (int i = 0; i < v->n_dim; i++) {
        n *= v->shape[i];
    }
    return n;
}

bool mk_model_is_tied(const mk_model *m, int row) {
    const mk_binding *b = mk_model_binding(m, -1, row);
    if (!(m->arch->tensors[row].flags & MK_T_TIED) || b->n_view == 0) {
        return false;
    }
    for (int i = 0; i < m->arch->n_tensors; i++) {
        if (m->arch->tensors[i].cls == MK_T_EMBED) {
            return mk_model_binding(m, -1, i)->view[0] == b->view[0];
        }
    }
    return false;
}

int64_t mk_model_n_param(const mk_model *m) {
    int64_t n = 0;
    for (int layer = -1; layer < m->hp.n_layer; layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            const mk_binding *b = mk_model_binding(m, layer, i);
            bool tied = layer < 0 && mk_model_is_tied(m, i);
            for (int64_t v = 0; v < b->n_view && !tied; v++) {
                n += n_element(b->view[v]);
            }
        }
    }
    return n;
}

size_t mk_model_weight_bytes(const mk_model *m) {
    return mk_load_bytes(m, NULL);
}

size_t mk_model_f32_bytes(const mk_model *m) {
    return mk_load_f32_bytes(m);
}

// An odd number of columns is padded: at most as many bytes again as a copy of one column more.
size_t mk_model_bf16_bytes(const mk_model *m) {
    size_t n = mk_load_f32_bytes(m);
    return mk_add_size(n, n / 2, &n) ? n : SIZE_MAX;
}

size_t mk_model_bytes_per_token(const mk_model *m) {
    size_t n = 0;
    (void)mk_load_bytes(m, &n);
    return n;
}

size_t mk_model_file_bytes(const mk_model *m) {
    return mk_source_file_bytes(m->src);
}

size_t mk_model_kv_bytes_per_block(const mk_model *m, mk_kv_type type) {
    size_t n = 0;
    for (int l = 0; l < mk_model_n_layer(m); l++) {
        mk_attn a = mk_model_attn(m, l, type);
        n += mk_attn_block_bytes(&a);
    }
    return n;
}
