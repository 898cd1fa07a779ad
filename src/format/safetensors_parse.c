// One safetensors file: u64 length of the header, the header (a JSON object, perhaps padded with
// spaces), the data.
//
//     {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]},
//      "__metadata__": {"any": "text"}}
//
// Checked here: the ranges tile the data exactly (no gap, no overlap, nothing behind the last), and
// each range is shape times element size.  Tensors may have any alignment, no dimensions, or no
// elements.
#include "format/safetensors_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

enum { MAX_HEADER = 100000000, LENGTH_BYTES = 8 };

// What a parse is about, for messages.
typedef struct {
    mk_st_shard *shard;
    const uint8_t *data;  // behind the header
    size_t n_data;
    char *text_at;
    mk_err *err;
} parser;

// --- element types -------------------------------------------------------------------------------

static const struct {
    const char *name;
    mk_dtype dtype;
} dtypes[] = {
    {"F32", MK_DTYPE_F32},         {"F16", MK_DTYPE_F16},         {"BF16", MK_DTYPE_BF16},
    {"F64", MK_DTYPE_F64},         {"F8_E4M3", MK_DTYPE_F8_E4M3}, {"F8_E5M2", MK_DTYPE_F8_E5M2},
    {"F8_E8M0", MK_DTYPE_F8_E8M0}, {"I8", MK_DTYPE_I8},           {"I16", MK_DTYPE_I16},
    {"I32", MK_DTYPE_I32},         {"I64", MK_DTYPE_I64},         {"U8", MK_DTYPE_U8},
    {"U16", MK_DTYPE_U16},         {"U32", MK_DTYPE_U32},         {"U64", MK_DTYPE_U64},
    {"BOOL", MK_DTYPE_BOOL},
};

const char *mk_st_dtype_name(mk_dtype t) {
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (dtypes[i].dtype == t) {
            return dtypes[i].name;
        }
    }
    return NULL;
}

static mk_status get_dtype(parser *ps, const char *name, const json_t *entry, mk_dtype *out) {
    const json_t *v = json_object_get(entry, "dtype");
    if (!json_is_string(v)) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: tensor '%.128s': expected dtype to be a string, found %s",
                       ps->shard->what, name, mk_json_type_name(v));
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, json_string_value(v)) == 0) {
            *out = dtypes[i].dtype;
            return MK_OK;
        }
    }
    return MK_FAIL(ps->err, MK_EUNSUPPORTED,
                   "%s: tensor '%.128s' has dtype '%.32s'; expected F64 F32 F16 BF16 F8_E4M3 "
                   "F8_E5M2 F8_E8M0, I8 to I64, "
                   "U8 to U64 or BOOL",
                   ps->shard->what, name, json_string_value(v));
}

// --- one entry -----------------------------------------------------------------------------------

// A list of non-negative integers of at most max entries.
static mk_status get_sizes(parser *ps, const char *name, const json_t *entry, const char *field,
                           size_t max, int64_t *out, size_t *n) {
    const json_t *list = json_object_get(entry, field);
    if (!json_is_array(list)) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: tensor '%.128s': expected %s to be a list, found %s", ps->shard->what,
                       name, field, mk_json_type_name(list));
    }
    *n = json_array_size(list);
    if (*n > max) {
        return MK_FAIL(ps->err, MK_EUNSUPPORTED,
                       "%s: tensor '%.128s': %s has %zu entries; expected at most %zu",
                       ps->shard->what, name, field, *n, max);
    }
    for (size_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v)) {
            return MK_FAIL(ps->err, MK_ECORRUPT,
                           "%s: tensor '%.128s': expected %s[%zu] to be an integer, found %s",
                           ps->shard->what, name, field, i, mk_json_type_name(v));
        }
        out[i] = (int64_t)json_integer_value(v);
        if (out[i] < 0) {
            return MK_FAIL(ps->err, MK_ECORRUPT,
                           "%s: tensor '%.128s': %s[%zu] is %lld; expected 0 or more",
                           ps->shard->what, name, field, i, (long long)out[i]);
        }
    }
    return MK_OK;
}

static bool bytes_of(const mk_tensor_view *v, size_t *out) {
    int64_t n = 1;
    for (int i = 0; i < v->n_dim; i++) {
        if (v->shape[i] ==
            0) {  // [2^40, 2^40, 0] has no elements, whatever the product of the others
            *out = 0;
            return true;
        }
    }
    for (int i = 0; i < v->n_dim; i++) {
        if (!mk_mul_i64(n, v->shape[i], &n)) {
            return false;
        }
    }
    return mk_dtype_row_bytes(v->dtype, n, out);
}

static mk_status place(parser *ps, const char *name, const int64_t range[2], mk_tensor_view *v) {
    size_t want = 0;
    if (range[0] > range[1] || (uint64_t)range[1] > ps->n_data) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: tensor '%.128s': data_offsets [%lld, %lld]; expected an ascending "
                       "range within %zu bytes of data "
                       "(truncated?)",
                       ps->shard->what, name, (long long)range[0], (long long)range[1], ps->n_data);
    }
    v->n_bytes = (size_t)(range[1] - range[0]);
    if (!bytes_of(v, &want) || want != v->n_bytes) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: tensor '%.128s': data_offsets [%lld, %lld] are %zu bytes; expected %zu "
                       "from shape and dtype %s",
                       ps->shard->what, name, (long long)range[0], (long long)range[1], v->n_bytes,
                       want, mk_dtype_get(v->dtype)->name);
    }
    v->data = ps->data + range[0];
    return MK_OK;
}

static mk_status parse_entry(parser *ps, const char *name, const json_t *entry, mk_tensor_view *v) {
    int64_t range[2] = {0};
    size_t n_dim = 0, n_range = 0;
    if (!json_is_object(entry)) {
        return MK_FAIL(ps->err, MK_ECORRUPT, "%s: tensor '%.128s': expected an object, found %s",
                       ps->shard->what, name, mk_json_type_name(entry));
    }
    for (int i = 0; i < MK_MAX_DIMS; i++) {
        v->shape[i] = 1;
    }
    MK_TRY(get_dtype(ps, name, entry, &v->dtype));
    MK_TRY(get_sizes(ps, name, entry, "shape", MK_MAX_DIMS, v->shape, &n_dim));
    MK_TRY(get_sizes(ps, name, entry, "data_offsets", 2, range, &n_range));
    if (n_range != 2) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: tensor '%.128s': data_offsets has %zu entries; expected 2",
                       ps->shard->what, name, n_range);
    }
    v->n_dim = (int)n_dim;
    v->map = &ps->shard->map;
    size_t len = strlen(name) + 1;
    memcpy(ps->text_at, name, len);
    v->name = ps->text_at;
    ps->text_at += len;
    return place(ps, name, range, v);
}

static mk_status check_metadata(parser *ps, const json_t *meta) {
    const char *key;
    json_t *v;
    if (!json_is_object(meta)) {
        return MK_FAIL(ps->err, MK_ECORRUPT, "%s: expected __metadata__ to be an object, found %s",
                       ps->shard->what, mk_json_type_name(meta));
    }
    json_object_foreach((json_t *)meta, key, v) {
        if (!json_is_string(v)) {
            return MK_FAIL(ps->err, MK_ECORRUPT,
                           "%s: __metadata__ '%.128s': expected a string, found %s",
                           ps->shard->what, key, mk_json_type_name(v));
        }
    }
    return MK_OK;
}

// --- all entries ---------------------------------------------------------------------------------

// Room for every name, and for a view per entry (__metadata__ counted too: one too many does no
// harm).
static mk_status reserve(parser *ps, json_t *header) {
    const char *key;
    json_t *v;
    size_t total = 1;
    json_object_foreach(header, key, v) {
        total += strlen(key) + 1;  // below the size of the header
    }
    mk_st_shard *s = ps->shard;
    s->tensors = mk_try_alloc(json_object_size(header) + 1, sizeof *s->tensors);
    s->texts = ps->text_at = mk_try_alloc(total, 1);
    if (s->tensors == NULL || s->texts == NULL) {
        return MK_FAIL(ps->err, MK_ENOMEM, "%s: no memory for %zu tensors", s->what,
                       json_object_size(header));
    }
    return MK_OK;
}

// By position; tensors without elements come before the one that starts at the same place.
static int by_position(const void *a, const void *b) {
    const mk_tensor_view *x = a, *y = b;
    if (x->data != y->data) {
        return x->data < y->data ? -1 : 1;
    }
    if (x->n_bytes != y->n_bytes) {
        return x->n_bytes < y->n_bytes ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static mk_status check_tiling(parser *ps) {
    mk_st_shard *s = ps->shard;
    size_t end = 0;
    qsort(s->tensors, s->n_tensor, sizeof *s->tensors, by_position);
    for (size_t i = 0; i < s->n_tensor; i++) {
        size_t begin = (size_t)(s->tensors[i].data - ps->data);
        if (begin != end) {
            return MK_FAIL(ps->err, MK_ECORRUPT,
                           "%s: tensor '%.128s' starts at %zu; expected %zu, where the one before "
                           "it ends (%s)",
                           s->what, s->tensors[i].name, begin, end,
                           begin < end ? "they overlap" : "a gap");
        }
        end = begin + s->tensors[i].n_bytes;
    }
    if (end != ps->n_data) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: the tensors end at byte %zu of the data; expected %zu, its length",
                       s->what, end, ps->n_data);
    }
    return MK_OK;
}

static mk_status parse_entries(parser *ps, json_t *header) {
    const char *key;
    json_t *v;
    mk_st_shard *s = ps->shard;
    MK_TRY(reserve(ps, header));
    json_object_foreach(header, key, v) {
        if (strcmp(key, "__metadata__") == 0) {
            MK_TRY(check_metadata(ps, v));
        } else {
            MK_TRY(parse_entry(ps, key, v, &s->tensors[s->n_tensor]));
            s->n_tensor++;
        }
    }
    MK_TRY(check_tiling(ps));
    mk_status st =
        mk_names_build(&s->index, "tensor", s->tensors, s->n_tensor, sizeof *s->tensors, ps->err);
    return st == MK_OK ? st : mk_err_prefix(ps->err, "%s", s->what);
}

// --- the header ----------------------------------------------------------------------------------

static mk_status parse_header(parser *ps, json_t **header) {
    const mk_map *map = &ps->shard->map;
    const char *what = ps->shard->what;
    uint64_t n = 0;
    if (map->n_bytes < LENGTH_BYTES) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: %zu bytes are not a safetensors file; expected at least %d", what,
                       map->n_bytes, LENGTH_BYTES + 2);
    }
    memcpy(&n, map->data, sizeof n);
    if (n < 2 || n > MAX_HEADER || n > map->n_bytes - LENGTH_BYTES) {
        return MK_FAIL(ps->err, MK_ECORRUPT,
                       "%s: the header should have %llu bytes; expected 2 to %d and at most the "
                       "%zu bytes that follow "
                       "(truncated, or not a safetensors file?)",
                       what, (unsigned long long)n, (int)MAX_HEADER, map->n_bytes - LENGTH_BYTES);
    }
    const char *text = (const char *)map->data + LENGTH_BYTES;
    if (text[0] != '{') {
        return MK_FAIL(ps->err, MK_ECORRUPT, "%s: the header starts with byte 0x%02x; expected '{'",
                       what, (unsigned char)text[0]);
    }
    ps->data = map->data + LENGTH_BYTES + (size_t)n;
    ps->n_data = map->n_bytes - LENGTH_BYTES - (size_t)n;
    return mk_json_parse(text, (size_t)n, what, header, ps->err);
}

mk_status mk_st_parse(mk_st_shard *shard, mk_err *err) {
    mk_err local;  // mk_err_prefix needs one even if the caller wants none
    parser ps = {.shard = shard, .err = err != NULL ? err : &local};
    json_t *header = NULL;
    MK_TRY(parse_header(&ps, &header));
    mk_status st = parse_entries(&ps, header);
    json_decref(header);
    return st;
}

void mk_st_shard_free(mk_st_shard *shard) {
    if (shard == NULL) {
        return;
    }
    mk_names_free(&shard->index);
    mk_free(shard->tensors);
    mk_free(shard->texts);
    if (shard->mapped) {
        mk_map_close(&shard->map);
    }
    mk_free(shard);
}
