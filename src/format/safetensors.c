// Opening safetensors: one file, a folder, or a model split over files by an index:
//
//     {"metadata": {...}, "weight_map": {"tensor name": "model-00001-of-00002.safetensors", ...}}
//
// The index decides: exactly the tensors it names are visible, each from the file it names.
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "format/safetensors_int.h"

static const char single_name[] = "model.safetensors",
                  index_name[] = "model.safetensors.index.json";

enum { MAX_INDEX_BYTES = 256 << 20 };

// One row of the index; the strings belong to the JSON value.
typedef struct {
    const char *tensor, *file;
} map_row;

// --- files ---------------------------------------------------------------------------------------

static mk_status open_shard(const char *path, mk_st_shard **out, mk_err *err) {
    mk_st_shard *s = mk_try_alloc(1, sizeof *s);
    if (s == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory", path);
    }
    mk_status st = mk_map_open(path, &s->map, err);
    if (st == MK_OK) {
        s->mapped = true;
        s->what = s->map.path;
        st = mk_st_parse(s, err);
    }
    if (st != MK_OK) {
        mk_st_shard_free(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

static mk_status add_shard(mk_safetensors *m, mk_st_shard *shard, mk_err *err) {
    mk_st_shard **more = mk_try_realloc(m->shards, m->n_shard + 1, sizeof *more);
    if (more == NULL) {
        mk_status st = MK_FAIL(err, MK_ENOMEM, "%s: no memory", shard->what);
        mk_st_shard_free(shard);
        return st;
    }
    m->shards = more;
    m->shards[m->n_shard++] = shard;
    return MK_OK;
}

static mk_status use_single(mk_safetensors *m, mk_st_shard *shard, mk_err *err) {
    MK_TRY(add_shard(m, shard, err));
    m->tensors = shard->tensors;
    m->n_tensor = shard->n_tensor;
    m->index = &shard->index;
    return MK_OK;
}

// --- the index -----------------------------------------------------------------------------------

// A plain file name: nothing that leads out of the folder, nothing hidden.
static bool is_plain_name(const char *s) {
    return s[0] != '\0' && s[0] != '.' && strchr(s, '/') == NULL && strchr(s, '\\') == NULL;
}

static int by_file(const void *a, const void *b) {
    const map_row *x = a, *y = b;
    int c = strcmp(x->file, y->file);
    return c != 0 ? c : strcmp(x->tensor, y->tensor);
}

// The rows of weight_map, sorted by file.
static mk_status read_rows(json_t *index, const char *path, map_row **out, size_t *n, mk_err *err) {
    json_t *weight_map = json_object_get(index, "weight_map"), *v;
    const char *key;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: expected weight_map to be an object with entries, found %s", path,
                       json_is_object(weight_map) ? "an empty one" : mk_json_type_name(weight_map));
    }
    *out = mk_try_alloc(json_object_size(weight_map), sizeof **out);
    if (*out == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for %zu entries", path,
                       json_object_size(weight_map));
    }
    *n = 0;
    json_object_foreach(weight_map, key, v) {
        if (!json_is_string(v) || !is_plain_name(json_string_value(v))) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "%s: weight_map '%.128s': expected the name of a file in this folder, "
                           "found %s '%.128s'",
                           path, key, mk_json_type_name(v),
                           json_is_string(v) ? json_string_value(v) : "");
        }
        (*out)[(*n)++] = (map_row){key, json_string_value(v)};
    }
    qsort(*out, *n, sizeof **out, by_file);
    return MK_OK;
}

// Opens the file of rows[0..n), which all name it, and adds the views of their tensors.
static mk_status use_rows(mk_safetensors *m, const char *folder, const map_row *rows, size_t n,
                          mk_err *err) {
    mk_st_shard *shard = NULL;
    char *path = mk_path_join(folder, rows[0].file);
    mk_status st = open_shard(path, &shard, err);
    mk_free(path);
    MK_TRY(st);
    MK_TRY(add_shard(m, shard, err));
    for (size_t i = 0; i < n; i++) {
        int64_t at = mk_names_find(&shard->index, rows[i].tensor);
        if (at < 0) {
            return MK_FAIL(
                err, MK_ECORRUPT,
                "%s: expected tensor '%.128s' here, as the index says; the file has %zu others",
                shard->what, rows[i].tensor, shard->n_tensor);
        }
        m->tensors[m->n_tensor++] = shard->tensors[at];
    }
    return MK_OK;
}

static mk_status use_all_rows(mk_safetensors *m, const char *folder, const map_row *rows, size_t n,
                              mk_err *err) {
    m->own_tensors = true;
    m->tensors = mk_try_alloc(n, sizeof *m->tensors);
    if (m->tensors == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for %zu tensors", folder, n);
    }
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && strcmp(rows[i].file, rows[end].file) == 0) {
            end++;
        }
        MK_TRY(use_rows(m, folder, rows + i, end - i, err));
    }
    m->index = &m->own_index;
    return mk_names_build(&m->own_index, "tensor", m->tensors, m->n_tensor, sizeof *m->tensors,
                          err);
}

static mk_status open_index(mk_safetensors *m, const char *path, mk_err *err) {
    json_t *index = NULL;
    map_row *rows = NULL;
    size_t n = 0;
    MK_TRY(mk_json_file(path, MAX_INDEX_BYTES, &index, err));
    const char *base = mk_path_base(path);
    char *folder = base == path ? mk_strdup(".") : mk_strndup(path, (size_t)(base - path));
    mk_status st = read_rows(index, path, &rows, &n, err);
    if (st == MK_OK) {
        st = use_all_rows(m, folder, rows, n, err);
    }
    mk_free(folder);
    mk_free(rows);
    json_decref(index);
    return st;
}

// --- open and close ------------------------------------------------------------------------------

static mk_status open_single(mk_safetensors *m, const char *path, mk_err *err) {
    mk_st_shard *shard = NULL;
    MK_TRY(open_shard(path, &shard, err));
    return use_single(m, shard, err);
}

static mk_status open_folder(mk_safetensors *m, const char *folder, mk_err *err) {
    char *single = mk_path_join(folder, single_name), *index = mk_path_join(folder, index_name);
    mk_status st = MK_ENOTFOUND;
    if (mk_path_is_file(single)) {
        st = open_single(m, single, err);
    } else if (mk_path_is_file(index)) {
        st = open_index(m, index, err);
    } else {
        st = MK_FAIL(err, MK_ENOTFOUND, "%s: expected %s or %s in this folder, found neither",
                     folder, single_name, index_name);
    }
    mk_free(single);
    mk_free(index);
    return st;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), n_tail = strlen(tail);
    return n >= n_tail && strcmp(s + n - n_tail, tail) == 0;
}

static mk_status open_path(mk_safetensors *m, const char *path, mk_err *err) {
    if (mk_path_is_dir(path)) {
        return open_folder(m, path, err);
    }
    return ends_with(path, ".index.json") ? open_index(m, path, err) : open_single(m, path, err);
}

mk_status mk_safetensors_open(const char *path, mk_safetensors **out, mk_err *err) {
    *out = NULL;
    mk_safetensors *m = mk_try_alloc(1, sizeof *m);
    if (m == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory", path);
    }
    mk_status st = open_path(m, path, err);
    if (st != MK_OK) {
        mk_safetensors_close(m);
        return st;
    }
    *out = m;
    return MK_OK;
}

mk_status mk_safetensors_open_memory(const void *data, size_t n_bytes, const char *what,
                                     mk_safetensors **out, mk_err *err) {
    *out = NULL;
    mk_safetensors *m = mk_try_alloc(1, sizeof *m);
    mk_st_shard *s = mk_try_alloc(1, sizeof *s);
    mk_status st = MK_ENOMEM;
    if (m == NULL || s == NULL) {
        st = MK_FAIL(err, MK_ENOMEM, "%s: no memory", what);
    } else {
        s->map = (mk_map){.data = data, .n_bytes = n_bytes, .path = (char *)what};  // never freed
        s->what = what;
        st = mk_st_parse(s, err);
    }
    if (st == MK_OK) {
        st = use_single(m, s, err);
    } else {
        mk_st_shard_free(s);
    }
    if (st != MK_OK) {
        mk_safetensors_close(m);
        return st;
    }
    *out = m;
    return MK_OK;
}

void mk_safetensors_close(mk_safetensors *s) {
    if (s == NULL) {
        return;
    }
    mk_names_free(&s->own_index);
    if (s->own_tensors) {
        mk_free(s->tensors);
    }
    for (size_t i = 0; i < s->n_shard; i++) {
        mk_st_shard_free(s->shards[i]);
    }
    mk_free(s->shards);
    mk_free(s);
}

// --- lookup --------------------------------------------------------------------------------------

int64_t mk_safetensors_n_tensor(const mk_safetensors *s) {
    return (int64_t)s->n_tensor;
}

const mk_tensor_view *mk_safetensors_tensor(const mk_safetensors *s, int64_t i) {
    MK_ASSERT(i >= 0 && i < mk_safetensors_n_tensor(s));
    return &s->tensors[i];
}

const mk_tensor_view *mk_safetensors_find(const mk_safetensors *s, const char *name) {
    int64_t i = mk_names_find(s->index, name);
    return i < 0 ? NULL : &s->tensors[i];
}

size_t mk_safetensors_file_bytes(const mk_safetensors *s) {
    size_t sum = 0;
    for (size_t i = 0; i < s->n_shard; i++) {
        sum += s->shards[i]->map.n_bytes;
    }
    return sum;
}
