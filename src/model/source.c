// Opening a model's files and looking up tensors and configuration values in either format.
#include "model/source.h"

#include <dirent.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

#define CONFIG_MAX_BYTES ((size_t)16 << 20)

struct mk_source {
    char *path;
    mk_gguf *gguf;       // one of gguf ...
    mk_safetensors *st;  // ... and st is set; neither for a configuration alone
    json_t *config;
    char *config_path;
    char arch[64];
};

bool mk_source_is_gguf(const mk_source *s) {
    return s->gguf != NULL;
}

const char *mk_source_path(const mk_source *s) {
    return s->path;
}

const mk_gguf *mk_source_gguf(const mk_source *s) {
    return s->gguf;
}

const json_t *mk_source_config(const mk_source *s) {
    return s->config;
}

const char *mk_source_arch(const mk_source *s) {
    return s->arch;
}

int64_t mk_source_n_tensor(const mk_source *s) {
    return s->gguf ? mk_gguf_n_tensor(s->gguf) : s->st ? mk_safetensors_n_tensor(s->st) : 0;
}

const mk_tensor_view *mk_source_tensor(const mk_source *s, int64_t i) {
    return s->gguf ? mk_gguf_tensor(s->gguf, i) : mk_safetensors_tensor(s->st, i);
}

const mk_tensor_view *mk_source_find(const mk_source *s, const char *name) {
    return s->gguf ? mk_gguf_find_tensor(s->gguf, name)
           : s->st ? mk_safetensors_find(s->st, name)
                   : NULL;
}

size_t mk_source_file_bytes(const mk_source *s) {
    return s->gguf ? mk_gguf_file_bytes(s->gguf) : s->st ? mk_safetensors_file_bytes(s->st) : 0;
}

// --- opening -------------------------------------------------------------------------------------

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static mk_status take_arch(mk_source *s, const char *p, size_t n, const char *where, mk_err *err) {
    if (n == 0 || n >= sizeof s->arch) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: the architecture name in %s has %zu bytes, expected 1 to %zu", s->path,
                       where, n, sizeof s->arch - 1);
    }
    memcpy(s->arch, p, n);
    s->arch[n] = 0;
    return MK_OK;
}

static mk_status open_gguf(mk_source *s, mk_err *err) {
    MK_TRY(mk_gguf_open(s->path, &s->gguf, err));
    mk_gguf_str arch = {NULL, 0};
    MK_TRY(mk_gguf_get_str(s->gguf, "general.architecture", &arch, err));
    if (!arch.p) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: key general.architecture is missing", s->path);
    }
    return take_arch(s, arch.p, arch.n, "general.architecture", err);
}

static mk_status read_config(mk_source *s, mk_err *err) {
    MK_TRY(mk_json_file(s->config_path, CONFIG_MAX_BYTES, &s->config, err));
    const json_t *classes = json_object_get(s->config, "architectures");
    const char *name = json_string_value(json_array_get(classes, 0));
    if (!name) {
        name = json_string_value(json_object_get(s->config, "model_type"));
    }
    if (!name) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: neither \"architectures\" nor \"model_type\" names a model",
                       s->config_path);
    }
    return take_arch(s, name, strlen(name), "config.json", err);
}

// Part 2 and up of a split file; the first part stands for all.
static bool is_later_part(const char *name) {
    int part = 0, n = 0, end = 0;
    size_t len = strlen(name), tail = strlen("-00001-of-00002.gguf");
    return len > tail && sscanf(name + len - tail, "-%5d-of-%5d.gguf%n", &part, &n, &end) == 2 &&
           (size_t)end == tail && part > 1;
}

mk_status mk_source_gguf_in(const char *dir, char **path, mk_err *err) {
    DIR *d = opendir(dir);
    const struct dirent *e;
    int n_gguf = 0;
    bool safetensors = false;
    *path = NULL;
    while (d && (e = readdir(d))) {
        safetensors = safetensors || ends_with(e->d_name, ".safetensors");
        if (ends_with(e->d_name, ".gguf") && e->d_name[0] != '.' && !is_later_part(e->d_name)) {
            n_gguf++;
            mk_free(*path);
            *path = mk_path_join(dir, e->d_name);
        }
    }
    if (d) {
        closedir(d);
    }
    if (n_gguf == 1 && !safetensors) {
        return MK_OK;
    }
    mk_free(*path);
    *path = NULL;
    return safetensors || n_gguf == 0
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "%s holds %d .gguf files; give one of them", dir, n_gguf);
}

static mk_status open_folder(mk_source *s, mk_err *err) {
    char *file = NULL;
    MK_TRY(mk_source_gguf_in(s->path, &file, err));
    if (file) {
        mk_free(s->path);
        s->path = file;
        return open_gguf(s, err);
    }
    s->config_path = mk_path_join(s->path, "config.json");
    if (!mk_path_is_file(s->config_path)) {
        return MK_FAIL(err, MK_ENOTFOUND,
                       "%s: no config.json in this folder; expected a Hugging Face model folder "
                       "(config.json, *.safetensors, tokenizer.json), or one .gguf file",
                       s->path);
    }
    MK_TRY(read_config(s, err));
    return mk_safetensors_open(s->path, &s->st, err);
}

static mk_status open_any(mk_source *s, mk_err *err) {
    if (mk_path_is_dir(s->path)) {
        return open_folder(s, err);
    }
    if (!mk_path_is_file(s->path)) {
        return MK_FAIL(err, MK_ENOTFOUND, "%s: no such file or folder", s->path);
    }
    if (ends_with(s->path, ".safetensors")) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "%s: give the folder that holds it (config.json and tokenizer.json are needed too)",
            s->path);
    }
    if (ends_with(s->path, ".bin") || ends_with(s->path, ".pt") || ends_with(s->path, ".pth")) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: looks like a pickle checkpoint; minke reads GGUF files and folders "
                       "with safetensors",
                       s->path);
    }
    return open_gguf(s, err);
}

mk_status mk_source_open(const char *path, mk_source **out, mk_err *err) {
    mk_source *s = mk_zalloc(sizeof *s);
    s->path = mk_strdup(path);
    mk_status st = open_any(s, err);
    if (st != MK_OK) {
        mk_source_close(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

mk_status mk_source_open_config(const char *path, mk_source **out, mk_err *err) {
    mk_source *s = mk_zalloc(sizeof *s);
    s->path = mk_strdup(path);
    s->config_path = mk_path_is_dir(path) ? mk_path_join(path, "config.json") : mk_strdup(path);
    mk_status st = read_config(s, err);
    if (st != MK_OK) {
        mk_source_close(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

void mk_source_close(mk_source *s) {
    if (!s) {
        return;
    }
    mk_gguf_close(s->gguf);
    mk_safetensors_close(s->st);
    json_decref(s->config);
    mk_free(s->config_path);
    mk_free(s->path);
    mk_free(s);
}

// --- configuration -------------------------------------------------------------------------------

#define KEY_MAX 160

static void gguf_key(const mk_source *s, const char *key, char out[KEY_MAX]) {
    if (key[0] == '/') {
        snprintf(out, KEY_MAX, "%s", key + 1);
    } else {
        snprintf(out, KEY_MAX, "%s.%s", s->arch, key);
    }
}

// Value at one dotted path of length n inside obj; NULL if any part is missing or null.
static const json_t *json_path(const json_t *obj, const char *path, size_t n) {
    while (obj && n > 0) {
        const char *dot = memchr(path, '.', n);
        size_t part = dot ? (size_t)(dot - path) : n;
        char key[KEY_MAX];
        if (part >= sizeof key) {
            return NULL;
        }
        memcpy(key, path, part);
        key[part] = 0;
        obj = json_object_get(obj, key);
        size_t step = part + (dot ? 1 : 0);
        path += step;
        n -= step;
    }
    return obj && !json_is_null(obj) ? obj : NULL;
}

// First alternative of "a|b.c" that is present.
static const json_t *json_alternatives(const json_t *obj, const char *keys) {
    while (keys && *keys) {
        const char *bar = strchr(keys, '|');
        size_t n = bar ? (size_t)(bar - keys) : strlen(keys);
        const json_t *v = json_path(obj, keys, n);
        if (v) {
            return v;
        }
        keys = bar ? bar + 1 : NULL;
    }
    return NULL;
}

const char *mk_source_key_name(const mk_source *s, const char *hf, const char *gguf) {
    const char *name = s->gguf ? gguf : hf;
    return name ? (name[0] == '/' ? name + 1 : name) : "(none)";
}

static mk_status wrong_type(const mk_source *s, const char *hf, const char *want, const json_t *v,
                            mk_err *err) {
    return MK_FAIL(err, MK_ECORRUPT, "%s: \"%s\": expected %s, got %s", s->config_path, hf, want,
                   mk_json_type_name(v));
}

// A GGUF count may be one number or an array with one number per layer; minke's families need them
// all equal.
static mk_status gguf_i64_or_uniform(const mk_source *s, const char *key, int64_t *out,
                                     mk_err *err) {
    int64_t at = mk_gguf_find(s->gguf, key);
    if (mk_gguf_kv_type(s->gguf, at) != MK_GGUF_ARRAY) {
        return mk_gguf_get_i64(s->gguf, key, INT64_MIN, INT64_MAX, out, err);
    }
    int64_t n = mk_gguf_arr_len(s->gguf, key), first = 0;
    if (n == 0) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: %s is an empty array", s->path, key);
    }
    MK_TRY(mk_gguf_arr_i64(s->gguf, key, 0, &first, err));
    for (int64_t i = 1; i < n; i++) {
        int64_t v = 0;
        MK_TRY(mk_gguf_arr_i64(s->gguf, key, i, &v, err));
        if (v != first) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "%s: %s differs between layers (%lld at 0, %lld at %lld)", s->path, key,
                           (long long)first, (long long)v, (long long)i);
        }
    }
    *out = first;
    return MK_OK;
}

// A configuration value found: its GGUF key, or the JSON value.
typedef struct {
    char key[KEY_MAX];
    const json_t *json;
} place;

static bool find_value(const mk_source *s, const char *hf, const char *gguf, place *p) {
    if (!s->gguf) {
        p->json = json_alternatives(s->config, hf);
        return p->json != NULL;
    }
    if (!gguf) {
        return false;
    }
    gguf_key(s, gguf, p->key);
    return mk_gguf_find(s->gguf, p->key) >= 0;
}

mk_status mk_source_i64(const mk_source *s, const char *hf, const char *gguf, int64_t *out,
                        bool *found, mk_err *err) {
    place p;
    *found = find_value(s, hf, gguf, &p);
    if (!*found) {
        return MK_OK;
    }
    if (s->gguf) {
        return gguf_i64_or_uniform(s, p.key, out, err);
    }
    if (!json_is_integer(p.json)) {
        return wrong_type(s, hf, "an integer", p.json, err);
    }
    *out = json_integer_value(p.json);
    return MK_OK;
}

mk_status mk_source_f64(const mk_source *s, const char *hf, const char *gguf, double *out,
                        bool *found, mk_err *err) {
    place p;
    *found = find_value(s, hf, gguf, &p);
    if (!*found) {
        return MK_OK;
    }
    if (s->gguf) {
        return mk_gguf_get_f64(s->gguf, p.key, out, err);
    }
    if (!json_is_number(p.json)) {
        return wrong_type(s, hf, "a number", p.json, err);
    }
    *out = json_number_value(p.json);
    return MK_OK;
}

mk_status mk_source_bool(const mk_source *s, const char *hf, const char *gguf, bool *out,
                         bool *found, mk_err *err) {
    place p;
    *found = find_value(s, hf, gguf, &p);
    if (!*found) {
        return MK_OK;
    }
    if (s->gguf) {
        return mk_gguf_get_bool(s->gguf, p.key, out, err);
    }
    if (!json_is_boolean(p.json)) {
        return wrong_type(s, hf, "true or false", p.json, err);
    }
    *out = json_is_true(p.json);
    return MK_OK;
}

mk_status mk_source_str(const mk_source *s, const char *hf, const char *gguf, char *out,
                        size_t out_bytes, bool *found, mk_err *err) {
    place p;
    mk_gguf_str str = {NULL, 0};
    *found = find_value(s, hf, gguf, &p);
    if (!*found) {
        return MK_OK;
    }
    if (s->gguf) {
        MK_TRY(mk_gguf_get_str(s->gguf, p.key, &str, err));
    } else if (json_is_string(p.json)) {
        str = (mk_gguf_str){json_string_value(p.json), json_string_length(p.json)};
    } else {
        return wrong_type(s, hf, "a string", p.json, err);
    }
    if (str.n >= out_bytes || (str.n > 0 && memchr(str.p, 0, str.n))) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: %s has %zu bytes, expected at most %zu", s->path,
                       mk_source_key_name(s, hf, gguf), str.n, out_bytes - 1);
    }
    if (str.n > 0) {
        memcpy(out, str.p, str.n);
    }
    out[str.n] = 0;
    return MK_OK;
}
