// config.json of a folder that is written: the source's own with another type, or, for a GGUF file,
// what the family's configuration table says in the other direction.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "model/config.h"
#include "model/folder_int.h"

#define TEXT_MAX ((size_t)16 << 20)

// --- the file ------------------------------------------------------------------------------------

static int add_text(const char *p, size_t n, void *buf) {
    mk_buf_add(buf, p, n);
    return 0;
}

static bool dump(const json_t *v, size_t precision, mk_buf *out) {
    mk_buf_clear(out);
    bool ok =
        json_dump_callback(v, add_text, out, JSON_INDENT(2) | JSON_REAL_PRECISION(precision)) == 0;
    mk_buf_putc(out, '\n');
    return ok && !out->failed;
}

// 15 digits give a number as a person wrote it (1e-05); 17 are exact, for one that needs them.
static mk_status dump_exactly(const json_t *v, mk_buf *out, mk_err *err) {
    json_t *back = NULL;
    bool ok = dump(v, 15, out);
    bool same = ok && mk_json_parse(out->data, out->len, "config.json", &back, NULL) == MK_OK &&
                json_equal(v, back);
    json_decref(back);
    if (!same && !dump(v, 17, out)) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for config.json");
    }
    return MK_OK;
}

static mk_status write_text(const char *path, const mk_buf *text, mk_err *err) {
    mk_writer *w = NULL;
    MK_TRY(mk_writer_open(path, &w, err));
    mk_status st = mk_writer_write(w, text->data, text->len, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

// transformers wrote "torch_dtype", then "dtype"; it reads both.
static void set_type(json_t *config, mk_dtype type) {
    const char *name = type == MK_DTYPE_BF16 ? "bfloat16" : "float32";
    bool neither = !json_object_get(config, "dtype") && !json_object_get(config, "torch_dtype");
    if (neither || json_object_get(config, "dtype")) {
        (void)json_object_set_new(config, "dtype", json_string(name));
    }
    if (json_object_get(config, "torch_dtype")) {
        (void)json_object_set_new(config, "torch_dtype", json_string(name));
    }
    (void)json_object_del(config, "quantization_config");  // the values were multiplied out
}

mk_status mk_folder_write_config(const json_t *config, mk_dtype type, const char *dir,
                                 mk_err *err) {
    json_t *copy = json_deep_copy(config);
    char *path = mk_path_join(dir, "config.json");
    mk_buf text;
    mk_buf_init(&text, TEXT_MAX);
    set_type(copy, type);
    mk_status st = copy ? dump_exactly(copy, &text, err)
                        : MK_FAIL(err, MK_ENOMEM, "no memory for config.json");
    st = st == MK_OK ? write_text(path, &text, err) : st;
    mk_buf_free(&text);
    mk_free(path);
    json_decref(copy);
    return st;
}

// --- from the numbers of a GGUF file -------------------------------------------------------------

// GGUF holds float32: the shortest decimal number that means the same one.
static double shortest(double v) {
    char text[32];
    for (int digits = 1; digits < 10; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        double d = strtod(text, NULL);
        if ((float)d == (float)v) {
            return d;
        }
    }
    return v;
}

// Sets the first alternative of "a.b|c", making objects on the way.
static void set_at(json_t *config, const char *keys, json_t *value) {
    char key[128];
    for (const char *p = keys;;) {
        size_t n = strcspn(p, ".|");
        MK_ASSERT(n < sizeof key);
        memcpy(key, p, n);
        key[n] = 0;
        if (p[n] != '.') {
            break;
        }
        json_t *inner = json_object_get(config, key);
        if (!inner) {
            inner = json_object();
            (void)json_object_set_new(config, key, inner);
        }
        config = inner;
        p += n + 1;
    }
    (void)json_object_set_new(config, key, value);
}

static bool starts_with(const char *s, const char *head) {
    return strncmp(s, head, strlen(head)) == 0;
}

// Whether the configuration of this scaling has the key.
static bool says_scaling(const char *key, mk_rope_scale scale) {
    static const struct {
        const char *key;
        mk_rope_scale scale[3];
    } keys[] = {
        {"rope_type", {MK_ROPE_SCALE_LINEAR, MK_ROPE_SCALE_LLAMA3, MK_ROPE_SCALE_YARN}},
        {"factor", {MK_ROPE_SCALE_LINEAR, MK_ROPE_SCALE_LLAMA3, MK_ROPE_SCALE_YARN}},
        {"original_max_position_embeddings", {MK_ROPE_SCALE_LLAMA3, MK_ROPE_SCALE_YARN}},
        {"low_freq_factor", {MK_ROPE_SCALE_LLAMA3}},
        {"high_freq_factor", {MK_ROPE_SCALE_LLAMA3}},
        {"beta_fast", {MK_ROPE_SCALE_YARN}},
        {"beta_slow", {MK_ROPE_SCALE_YARN}},
        {"mscale", {MK_ROPE_SCALE_YARN}},
        {"mscale_all_dim", {MK_ROPE_SCALE_YARN}},
        {"attention_factor", {MK_ROPE_SCALE_YARN}},
    };
    size_t n = strcspn(key, "|");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && scale != MK_ROPE_SCALE_NONE; i++) {
        bool named = strlen(keys[i].key) == n && strncmp(keys[i].key, key, n) == 0;
        for (int k = 0; named && k < 3; k++) {
            if (keys[i].scale[k] == scale) {
                return true;
            }
        }
    }
    return false;
}

static void set_row(const mk_cfg_row *r, const mk_hparams *hp, json_t *config) {
    static const char scaling[] = "rope_scaling.";
    const void *field = (const char *)hp + r->field;
    int64_t i = 0;
    double f = 0;
    if (!r->hf || (starts_with(r->hf, scaling) &&
                   !says_scaling(r->hf + sizeof scaling - 1, hp->rope_scale))) {
        return;
    }
    switch (r->type) {
    case MK_CFG_I64:
        memcpy(&i, field, sizeof i);
        if ((double)i >= r->min) {  // 0 of a count that begins at 1: not said
            set_at(config, r->hf, json_integer(i));
        }
        break;
    case MK_CFG_F64:
        memcpy(&f, field, sizeof f);
        if (f > 0 || f < 0) {
            set_at(config, r->hf, json_real(shortest(f)));
        }
        break;
    case MK_CFG_BOOL:
        memcpy(&i, field, sizeof i);
        if (i >= 0) {
            set_at(config, r->hf, json_boolean(i != 0));
        }
        break;
    case MK_CFG_STR:
        if (*(const char *)field) {
            set_at(config, r->hf, json_string(field));
        }
        break;
    }
}

// GGUF stores Llama 3's stretched frequencies and not the numbers they came from.  All published
// models use factors 1 and 4 for the two bounds; factor and original length are found by trying.
static mk_status find_llama3(const mk_model *m, mk_hparams *hp, mk_err *err) {
    int64_t n_dim = m->arch->rope_dims(hp), n = n_dim / 2;
    float *plain = mk_try_alloc((size_t)n, 2 * sizeof *plain);
    if (!plain) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld rotary frequencies", (long long)n);
    }
    float *try = plain + n;
    hp->rope_scale = MK_ROPE_SCALE_NONE;
    mk_rope_inv_freq(hp, n_dim, NULL, plain);
    snprintf(hp->rope_type, sizeof hp->rope_type, "llama3");
    hp->rope_scale = MK_ROPE_SCALE_LLAMA3;
    hp->rope_low_freq = 1;
    hp->rope_high_freq = 4;
    hp->rope_factor = floor((double)(plain[n - 1] / m->inv_freq[n - 1]) * 100 + 0.5) / 100;
    bool found = false;
    for (hp->rope_orig_ctx = 64; hp->rope_orig_ctx <= 1 << 20; hp->rope_orig_ctx *= 2) {
        mk_rope_inv_freq(hp, n_dim, NULL, try);
        found = true;
        for (int64_t i = 0; i < n && found; i++) {
            found = fabsf(try[i] - m->inv_freq[i]) <= 1e-6f * m->inv_freq[i];
        }
        if (found) {
            break;
        }
    }
    mk_free(plain);
    return found ? MK_OK
                 : MK_FAIL(err, MK_EUNSUPPORTED,
                           "%s: the frequencies in rope_freqs.weight are not those of any llama3 "
                           "scaling that config.json can say",
                           mk_source_path(m->src));
}

static void set_token_ids(const mk_gguf *g, json_t *config) {
    static const struct {
        const char *gguf, *hf;
    } keys[] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                {"tokenizer.ggml.eos_token_id", "eos_token_id"}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int64_t id = -1;
        if (mk_gguf_get_i64(g, keys[i].gguf, 0, INT32_MAX, &id, NULL) == MK_OK && id >= 0) {
            (void)json_object_set_new(config, keys[i].hf, json_integer(id));
        }
    }
}

mk_status mk_folder_config(const mk_model *m, json_t **out, mk_err *err) {
    mk_hparams hp = m->hp;
    if (!m->arch->hf_config) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: no config.json can be written for family %s",
                       mk_source_path(m->src), m->arch->name);
    }
    hp.tie_embeddings = 0;
    for (int i = 0; i < m->arch->n_tensors; i++) {
        hp.tie_embeddings = hp.tie_embeddings || mk_model_is_tied(m, i);
    }
    snprintf(hp.hidden_act, sizeof hp.hidden_act, "silu");
    if (hp.rope_yarn_log_mul > 0) {
        hp.rope_mscale = hp.rope_mscale_all_dim = 10 * hp.rope_yarn_log_mul;
    }
    if (mk_source_find(m->src, "rope_freqs.weight")) {
        MK_TRY(find_llama3(m, &hp, err));
    }
    json_t *config = json_object();
    for (int i = 0; i < m->arch->n_config; i++) {
        set_row(&m->arch->config[i], &hp, config);
    }
    set_token_ids(mk_source_gguf(m->src), config);
    m->arch->hf_config(m, config);
    *out = config;
    return MK_OK;
}
