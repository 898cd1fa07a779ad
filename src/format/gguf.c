// Opening GGUF files: one file, the parts of a split one, or bytes in memory; lookup of keys and
// tensors.
//
// A split model is name-00001-of-0000N.gguf and so on.  The first part has the metadata; each part
// says split.no (from 0), split.count and split.tensors.count (over all parts) and describes its
// own tensors.
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "format/gguf_int.h"

enum { MAX_PARTS = 65535 };

// --- one part ------------------------------------------------------------------------------------

static mk_status part_open(const char *path, mk_gguf_part **out, mk_err *err) {
    mk_gguf_part *part = mk_try_alloc(1, sizeof *part);
    if (part == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory", path);
    }
    mk_status st = mk_map_open(path, &part->map, err);
    if (st == MK_OK) {
        part->mapped = true;
        part->what = part->map.path;
        st = mk_gguf_parse(part, err);
    }
    if (st != MK_OK) {
        mk_gguf_part_free(part);
        return st;
    }
    *out = part;
    return MK_OK;
}

// Number of parts the file says it belongs to (1 if it is whole) and which of them it is.
static mk_status part_split(const mk_gguf_part *part, int64_t *no, int64_t *count,
                            int64_t *n_tensor, mk_err *err) {
    *no = 0;
    *count = 0;
    *n_tensor = -1;
    MK_TRY(mk_gguf_part_i64(part, "split.count", 0, MAX_PARTS, count, err));
    MK_TRY(mk_gguf_part_i64(part, "split.no", 0, MAX_PARTS, no, err));
    MK_TRY(mk_gguf_part_i64(part, "split.tensors.count", 0, INT32_MAX, n_tensor, err));
    *count = *count == 0 ? 1 : *count;
    return MK_OK;
}

// --- the parts of a split file -------------------------------------------------------------------

// path of part i (from 0) beside the first part's path.  Errors: the first path does not have the
// agreed form.
static mk_status part_path(const char *first, int64_t i, int64_t count, char **out, mk_err *err) {
    char tail[64], wanted[64];
    (void)snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", 1, (int)count);
    (void)snprintf(wanted, sizeof wanted, "-%05d-of-%05d.gguf", (int)(i + 1), (int)count);
    size_t n = strlen(first), n_tail = strlen(tail);
    if (n < n_tail || strcmp(first + n - n_tail, tail) != 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: the first of %d parts; expected its name to end with %s", first,
                       (int)count, tail);
    }
    *out = mk_strdup(first);
    memcpy(*out + n - n_tail, wanted, n_tail);
    return MK_OK;
}

static mk_status check_part(const mk_gguf_part *part, int64_t i, int64_t count, mk_err *err) {
    int64_t no = 0, part_count = 0, n_tensor = 0;
    MK_TRY(part_split(part, &no, &part_count, &n_tensor, err));
    if (no != i || part_count != count) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "%s: says it is part %lld of %lld; expected part %lld of %lld (counted from 0)",
            part->what, (long long)no, (long long)part_count, (long long)i, (long long)count);
    }
    return MK_OK;
}

static mk_status open_part(mk_gguf *g, int64_t i, int64_t count, mk_err *err) {
    char *path = NULL;
    MK_TRY(part_path(g->parts[0]->what, i, count, &path, err));
    mk_gguf_part **more = mk_try_realloc(g->parts, g->n_part + 1, sizeof *more);
    mk_status st = MK_ENOMEM;
    if (more == NULL) {
        st = MK_FAIL(err, MK_ENOMEM, "%s: no memory", path);
    } else {
        g->parts = more;
        st = part_open(path, &g->parts[g->n_part], err);
    }
    mk_free(path);
    MK_TRY(st);
    g->n_part++;
    return check_part(g->parts[g->n_part - 1], i, count, err);
}

// All tensors in one array; with a single part its array is used as it is.
static mk_status join_tensors(mk_gguf *g, mk_err *err) {
    const char *what = g->parts[0]->what;
    for (size_t i = 0; i < g->n_part; i++) {
        g->n_tensor += g->parts[i]->n_tensor;  // each count is below the size of a mapped file
    }
    g->tensors = g->parts[0]->tensors;
    if (g->n_part > 1) {
        g->tensors = mk_try_alloc(g->n_tensor + 1, sizeof *g->tensors);
        size_t at = 0;
        for (size_t i = 0; i < g->n_part && g->tensors != NULL; i++) {
            const mk_gguf_part *p = g->parts[i];
            if (p->n_tensor > 0) {
                memcpy(g->tensors + at, p->tensors, p->n_tensor * sizeof *p->tensors);
            }
            at += p->n_tensor;
        }
        if (g->tensors == NULL) {
            return MK_FAIL(err, MK_ENOMEM, "%s: no memory for %zu tensors", what, g->n_tensor);
        }
    }
    mk_err local, *e = err != NULL ? err : &local;
    mk_status st =
        mk_names_build(&g->tensor_index, "tensor", g->tensors, g->n_tensor, sizeof *g->tensors, e);
    return st == MK_OK ? st : mk_err_prefix(e, "%s", what);
}

static mk_status open_rest(mk_gguf *g, mk_err *err) {
    const mk_gguf_part *first = g->parts[0];
    int64_t no = 0, count = 0, n_tensor = 0;
    MK_TRY(part_split(first, &no, &count, &n_tensor, err));
    if (no != 0) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "%s: part %lld of %lld of a split model; open part 1, the others are found by name",
            first->what, (long long)no + 1, (long long)count);
    }
    if (count > 1 && !first->mapped) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "%s: part 1 of %lld; a split model cannot be opened from memory",
                       first->what, (long long)count);
    }
    for (int64_t i = 1; i < count; i++) {
        MK_TRY(open_part(g, i, count, err));
    }
    MK_TRY(join_tensors(g, err));
    if (count > 1 && n_tensor != (int64_t)g->n_tensor) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: split.tensors.count is %lld, but the %lld parts have %zu tensors",
                       first->what, (long long)n_tensor, (long long)count, g->n_tensor);
    }
    return MK_OK;
}

// --- open and close ------------------------------------------------------------------------------

static mk_status finish_open(mk_gguf_part *first, mk_gguf **out, mk_err *err) {
    mk_gguf *g = mk_try_alloc(1, sizeof *g);
    mk_gguf_part **parts = mk_try_alloc(1, sizeof *parts);
    if (g == NULL || parts == NULL) {
        mk_status st = MK_FAIL(err, MK_ENOMEM, "%s: no memory", first->what);
        mk_gguf_part_free(first);
        mk_free(parts);
        mk_free(g);
        return st;
    }
    g->parts = parts;
    g->parts[0] = first;
    g->n_part = 1;
    mk_status st = open_rest(g, err);
    if (st != MK_OK) {
        mk_gguf_close(g);
        return st;
    }
    *out = g;
    return MK_OK;
}

mk_status mk_gguf_open(const char *path, mk_gguf **out, mk_err *err) {
    mk_gguf_part *part = NULL;
    *out = NULL;
    MK_TRY(part_open(path, &part, err));
    return finish_open(part, out, err);
}

mk_status mk_gguf_open_memory(const void *data, size_t n_bytes, const char *what, mk_gguf **out,
                              mk_err *err) {
    *out = NULL;
    mk_gguf_part *part = mk_try_alloc(1, sizeof *part);
    if (part == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory", what);
    }
    part->map = (mk_map){.data = data, .n_bytes = n_bytes, .path = (char *)what};  // never freed
    part->what = what;
    mk_status st = mk_gguf_parse(part, err);
    if (st != MK_OK) {
        mk_gguf_part_free(part);
        return st;
    }
    return finish_open(part, out, err);
}

void mk_gguf_close(mk_gguf *g) {
    if (g == NULL) {
        return;
    }
    mk_names_free(&g->tensor_index);
    if (g->n_part > 1) {
        mk_free(g->tensors);
    }
    for (size_t i = 0; i < g->n_part; i++) {
        mk_gguf_part_free(g->parts[i]);
    }
    mk_free(g->parts);
    mk_free(g);
}

// --- lookup --------------------------------------------------------------------------------------

int64_t mk_gguf_n_kv(const mk_gguf *g) {
    return (int64_t)g->parts[0]->n_kv;
}

const char *mk_gguf_key(const mk_gguf *g, int64_t i) {
    MK_ASSERT(i >= 0 && i < mk_gguf_n_kv(g));
    return g->parts[0]->kv[i].key;
}

mk_gguf_type mk_gguf_kv_type(const mk_gguf *g, int64_t i) {
    MK_ASSERT(i >= 0 && i < mk_gguf_n_kv(g));
    return g->parts[0]->kv[i].type;
}

int64_t mk_gguf_find(const mk_gguf *g, const char *key) {
    return mk_names_find(&g->parts[0]->key_index, key);
}

int64_t mk_gguf_n_tensor(const mk_gguf *g) {
    return (int64_t)g->n_tensor;
}

const mk_tensor_view *mk_gguf_tensor(const mk_gguf *g, int64_t i) {
    MK_ASSERT(i >= 0 && i < mk_gguf_n_tensor(g));
    return &g->tensors[i];
}

const mk_tensor_view *mk_gguf_find_tensor(const mk_gguf *g, const char *name) {
    int64_t i = mk_names_find(&g->tensor_index, name);
    return i < 0 ? NULL : &g->tensors[i];
}

size_t mk_gguf_file_bytes(const mk_gguf *g) {
    size_t sum = 0;
    for (size_t i = 0; i < g->n_part; i++) {
        sum += g->parts[i]->map.n_bytes;
    }
    return sum;
}
