// A Hugging Face folder: tokenizer.json and what the files beside it say about special ids.
//
// Which file decides: BOS and EOS by tokenizer_config.json, then special_tokens_map.json, then
// config.json.  Tokens that end a turn: EOS, and every id of generation_config.json (of config.json
// where that file has none).
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "text/tok_int.h"

#define CONFIG_MAX ((size_t)64 << 20)
#define JSON_MAX   ((size_t)1 << 30)

// NULL stays when the file is not there.
static mk_status optional(const char *dir, const char *name, json_t **out, mk_err *err) {
    char *path = mk_path_join(dir, name);
    mk_status st = MK_OK;
    if (mk_path_is_file(path)) {
        st = mk_json_file(path, CONFIG_MAX, out, err);
    }
    mk_free(path);
    return st;
}

// A token given as "text" or as {"content": "text"}.
static int32_t token_of(const mk_tokenizer *t, const json_t *config, const char *key) {
    const json_t *v = json_object_get(config, key);
    const json_t *s = json_is_object(v) ? json_object_get(v, "content") : v;
    return json_is_string(s)
               ? mk_vocab_find_text(&t->v, json_string_value(s), json_string_length(s))
               : -1;
}

static int32_t id_of(const mk_tokenizer *t, const json_t *v) {
    json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
    return id >= 0 && id < t->v.n ? (int32_t)id : -1;
}

static void mark_eog(mk_tokenizer *t, const json_t *v) {
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    for (size_t i = 0; i < n; i++) {
        int32_t id = id_of(t, json_is_array(v) ? json_array_get(v, i) : v);
        if (id >= 0) {
            t->v.e[id].eog = 1;
        }
    }
}

static int32_t first_id(const mk_tokenizer *t, const json_t *v) {
    return id_of(t, json_is_array(v) ? json_array_get(v, 0) : v);
}

static int32_t choose(const mk_tokenizer *t, const json_t *tc, const json_t *map,
                      const json_t *config, const char *name) {
    char key[32], id_key[32];
    snprintf(key, sizeof key, "%s_token", name);
    snprintf(id_key, sizeof id_key, "%s_token_id", name);
    int32_t id = token_of(t, tc, key);
    id = id >= 0 ? id : token_of(t, map, key);
    return id >= 0 ? id : first_id(t, json_object_get(config, id_key));
}

static bool around_has(const int32_t *v, int n, int32_t id) {
    for (int i = 0; i < n; i++) {
        if (v[i] == id) {
            return true;
        }
    }
    return false;
}

// Tokenizer classes that put BOS in front whatever tokenizer.json's post-processor says, unless
// told otherwise.
static bool class_adds_bos(const char *c) {
    return c && (strncmp(c, "Llama", 5) == 0 || strncmp(c, "Gemma", 5) == 0 ||
                 strncmp(c, "CodeLlama", 9) == 0);
}

// add_bos_token / add_eos_token of tokenizer_config.json over the post-processor.
static void apply_add(mk_tokenizer *t, const json_t *tc) {
    bool by_class = class_adds_bos(json_string_value(json_object_get(tc, "tokenizer_class")));
    const json_t *bos = json_object_get(tc, "add_bos_token"),
                 *eos = json_object_get(tc, "add_eos_token");
    bool has_bos = t->bos >= 0 && around_has(t->prefix, t->n_prefix, t->bos);
    bool has_eos = t->eos >= 0 && around_has(t->suffix, t->n_suffix, t->eos);
    bool want_bos = json_is_boolean(bos) ? json_is_true(bos) : by_class || has_bos;
    bool want_eos = json_is_boolean(eos) ? json_is_true(eos) : has_eos;
    if (want_bos != has_bos && (t->n_prefix == 0 || has_bos)) {
        t->n_prefix = 0;
        if (want_bos && t->bos >= 0) {
            t->prefix[t->n_prefix++] = t->bos;
        }
    }
    if (want_eos != has_eos && (t->n_suffix == 0 || has_eos)) {
        t->n_suffix = 0;
        if (want_eos && t->eos >= 0) {
            t->suffix[t->n_suffix++] = t->eos;
        }
    }
}

enum { F_TOKENIZER, F_MAP, F_GENERATION, F_CONFIG, N_FILE };

static void apply(mk_tokenizer *t, json_t *const f[N_FILE]) {
    const json_t *config = f[F_CONFIG];
    const json_t *text = json_object_get(config, "text_config");
    config = text && !json_object_get(config, "eos_token_id") ? text : config;
    t->bos = choose(t, f[F_TOKENIZER], f[F_MAP], config, "bos");
    t->eos = choose(t, f[F_TOKENIZER], f[F_MAP], config, "eos");
    t->pad = choose(t, f[F_TOKENIZER], f[F_MAP], config, "pad");
    const json_t *eog = json_object_get(f[F_GENERATION], "eos_token_id");
    mark_eog(t, eog ? eog : json_object_get(config, "eos_token_id"));
    apply_add(t, f[F_TOKENIZER]);
}

mk_status mk_tokenizer_from_folder(const char *dir, mk_tokenizer **out, mk_err *err) {
    static const char *const names[N_FILE] = {"tokenizer_config.json", "special_tokens_map.json",
                                              "generation_config.json", "config.json"};
    *out = NULL;
    char *path = mk_path_join(dir, "tokenizer.json");
    char *text = NULL;
    size_t n = 0;
    mk_status st = mk_file_read(path, JSON_MAX, &text, &n, err);
    mk_free(path);
    json_t *f[N_FILE] = {NULL};
    mk_tokenizer *t = NULL;
    for (int i = 0; i < N_FILE && st == MK_OK; i++) {
        st = optional(dir, names[i], &f[i], err);
    }
    if (st == MK_OK) {
        st = mk_tokenizer_from_json(text, n, &t, err);
    }
    if (st == MK_OK) {
        apply(t, f);
        *out = t;
    }
    for (int i = 0; i < N_FILE; i++) {
        json_decref(f[i]);
    }
    mk_free(text);
    return st;
}
