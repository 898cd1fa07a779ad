// Parsing one GGUF file into entries and views.
//
// Layout: "GGUF", u32 version, u64 n_tensor, u64 n_kv, the metadata, the tensor descriptions,
// padding to general.alignment, the data.  A string is a u64 length and bytes; an array is u32
// element type, u64 count, elements.
//
// Invariants of this file:
// 1. Every read goes through take(), which compares with the bytes left; `at` never passes the end
//    of the file.
// 2. No number of the file is multiplied or added without a check for overflow.
// 3. Memory grows with what was parsed, never with what a count promises.
#include "format/gguf_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum {
    MAX_DIMS = 4,
    MAX_NAME = 1024,  // ggml itself stops at 63
    MAX_KEY = 65535,  // the specification's limit
    MIN_KV_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
    DEFAULT_ALIGNMENT = 32,
    SHOWN = 64  // characters of a name in a message
};

typedef struct {
    const uint8_t *data;
    size_t n, at;
    const char *what;
    mk_err *err;
} cursor;

typedef struct {
    const char *p;
    size_t n;
} text;

// A tensor description before names are copied and data pointers set.
typedef struct {
    text name;
    uint64_t offset;
} raw_tensor;

typedef struct {
    cursor c;
    mk_gguf_part *part;
    size_t cap_kv, cap_tensor;
    text *keys;       // [n_kv]
    raw_tensor *raw;  // [n_tensor]
    uint64_t want_kv, want_tensor;
    uint64_t alignment;
    size_t data_start;
} parser;

static const struct {
    const char *name;
    size_t bytes;
} types[MK_GGUF_N_TYPE] = {
    [MK_GGUF_U8] = {"u8", 1},       [MK_GGUF_I8] = {"i8", 1},     [MK_GGUF_U16] = {"u16", 2},
    [MK_GGUF_I16] = {"i16", 2},     [MK_GGUF_U32] = {"u32", 4},   [MK_GGUF_I32] = {"i32", 4},
    [MK_GGUF_F32] = {"f32", 4},     [MK_GGUF_BOOL] = {"bool", 1}, [MK_GGUF_STRING] = {"string", 0},
    [MK_GGUF_ARRAY] = {"array", 0}, [MK_GGUF_U64] = {"u64", 8},   [MK_GGUF_I64] = {"i64", 8},
    [MK_GGUF_F64] = {"f64", 8},
};

size_t mk_gguf_type_bytes(mk_gguf_type t) {
    return types[t].bytes;
}

const char *mk_gguf_type_name(mk_gguf_type t) {
    return types[t].name;
}

static int shown(text t) {
    return t.n < SHOWN ? (int)t.n : SHOWN;
}

// --- the cursor ----------------------------------------------------------------------------------

static mk_status take(cursor *c, uint64_t n, const char *thing, const uint8_t **out) {
    if (n > c->n - c->at) {
        return MK_FAIL(
            c->err, MK_ECORRUPT,
            "%s: %s at byte %zu needs %llu bytes, but the file ends after %zu more (truncated?)",
            c->what, thing, c->at, (unsigned long long)n, c->n - c->at);
    }
    *out = c->data + c->at;
    c->at += (size_t)n;
    return MK_OK;
}

static mk_status take_u32(cursor *c, const char *thing, uint32_t *out) {
    const uint8_t *p = NULL;
    MK_TRY(take(c, sizeof *out, thing, &p));
    memcpy(out, p, sizeof *out);
    return MK_OK;
}

static mk_status take_u64(cursor *c, const char *thing, uint64_t *out) {
    const uint8_t *p = NULL;
    MK_TRY(take(c, sizeof *out, thing, &p));
    memcpy(out, p, sizeof *out);
    return MK_OK;
}

static mk_status take_text(cursor *c, const char *thing, text *out) {
    uint64_t n = 0;
    const uint8_t *p = NULL;
    MK_TRY(take_u64(c, thing, &n));
    MK_TRY(take(c, n, thing, &p));
    *out = (text){(const char *)p, (size_t)n};
    return MK_OK;
}

// A key or tensor name: 1..max bytes, no NUL inside (it becomes a C string).
static mk_status take_name(cursor *c, const char *thing, size_t max, text *out) {
    size_t at = c->at;
    MK_TRY(take_text(c, thing, out));
    if (out->n == 0 || out->n > max) {
        return MK_FAIL(c->err, MK_ECORRUPT, "%s: %s at byte %zu has %zu bytes; expected 1 to %zu",
                       c->what, thing, at, out->n, max);
    }
    if (memchr(out->p, 0, out->n) != NULL) {
        return MK_FAIL(c->err, MK_ECORRUPT, "%s: %s at byte %zu contains a NUL byte", c->what,
                       thing, at);
    }
    return MK_OK;
}

// Room for one more element behind *items[n].
static mk_status grow(cursor *c, void **items, size_t n, size_t *cap, size_t elem_bytes) {
    if (n < *cap) {
        return MK_OK;
    }
    size_t want = *cap == 0 ? 64 : 2 * *cap;
    void *p = mk_try_realloc(*items, want, elem_bytes);
    if (p == NULL) {
        return MK_FAIL(c->err, MK_ENOMEM, "%s: no memory for %zu descriptions of %zu bytes",
                       c->what, want, elem_bytes);
    }
    *items = p;
    *cap = want;
    return MK_OK;
}

// --- header --------------------------------------------------------------------------------------

static mk_status check_version(cursor *c, uint32_t version) {
    if (version == 2 || version == 3) {
        return MK_OK;
    }
    uint32_t swapped = __builtin_bswap32(version);
    if (swapped >= 1 && swapped <= 3) {
        return MK_FAIL(
            c->err, MK_EUNSUPPORTED,
            "%s: big-endian GGUF (version bytes 0x%08x); only little-endian files are supported",
            c->what, version);
    }
    if (version == 1) {
        return MK_FAIL(
            c->err, MK_EUNSUPPORTED,
            "%s: GGUF version 1; expected 2 or 3 (convert the model again with a current tool)",
            c->what);
    }
    return MK_FAIL(c->err, MK_EUNSUPPORTED, "%s: GGUF version %u; expected 2 or 3", c->what,
                   version);
}

static mk_status check_count(cursor *c, const char *thing, uint64_t count, size_t min_bytes) {
    if (count > (c->n - c->at) / min_bytes) {
        return MK_FAIL(c->err, MK_ECORRUPT,
                       "%s: the header promises %llu %s, but %zu bytes have room for at most %zu",
                       c->what, (unsigned long long)count, thing, c->n - c->at,
                       (c->n - c->at) / min_bytes);
    }
    return MK_OK;
}

static mk_status parse_header(parser *ps) {
    cursor *c = &ps->c;
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    MK_TRY(take(c, 4, "the magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0) {
        return MK_FAIL(
            c->err, MK_ECORRUPT,
            "%s: not a GGUF file: expected it to start with 'GGUF', found %02x %02x %02x %02x",
            c->what, magic[0], magic[1], magic[2], magic[3]);
    }
    MK_TRY(take_u32(c, "the version", &version));
    MK_TRY(check_version(c, version));
    MK_TRY(take_u64(c, "the number of tensors", &ps->want_tensor));
    MK_TRY(take_u64(c, "the number of keys", &ps->want_kv));
    MK_TRY(check_count(c, "keys", ps->want_kv, MIN_KV_BYTES));
    return check_count(c, "tensors", ps->want_tensor, MIN_TENSOR_BYTES);
}

// --- metadata ------------------------------------------------------------------------------------

static mk_status take_type(cursor *c, text key, const char *thing, mk_gguf_type *out) {
    uint32_t t = 0;
    size_t at = c->at;
    MK_TRY(take_u32(c, thing, &t));
    if (t >= MK_GGUF_N_TYPE) {
        return MK_FAIL(c->err, MK_ECORRUPT,
                       "%s: key '%.*s': %s at byte %zu is %u; expected 0 to %d", c->what,
                       shown(key), key.p, thing, at, t, MK_GGUF_N_TYPE - 1);
    }
    *out = (mk_gguf_type)t;
    return MK_OK;
}

// Strings have to be walked; everything else is one multiplication.
static mk_status take_elements(cursor *c, text key, mk_gguf_kv *kv) {
    size_t elem = types[kv->elem_type].bytes, at = c->at;
    size_t left = c->n - c->at, least = elem != 0 ? elem : sizeof(uint64_t);
    if (kv->n > left / least) {
        return MK_FAIL(
            c->err, MK_ECORRUPT,
            "%s: key '%.*s': array of %llu %s at byte %zu, but %zu bytes have room for at most %zu",
            c->what, shown(key), key.p, (unsigned long long)kv->n, types[kv->elem_type].name, at,
            left, left / least);
    }
    kv->p = c->data + c->at;
    if (elem != 0) {
        c->at += (size_t)kv->n * elem;
        return MK_OK;
    }
    for (uint64_t i = 0; i < kv->n; i++) {
        text ignored = {0};
        MK_TRY(take_text(c, "a string in an array", &ignored));
    }
    return MK_OK;
}

static mk_status take_array(cursor *c, text key, mk_gguf_kv *kv) {
    MK_TRY(take_type(c, key, "the element type", &kv->elem_type));
    if (kv->elem_type == MK_GGUF_ARRAY) {
        return MK_FAIL(
            c->err, MK_EUNSUPPORTED,
            "%s: key '%.*s' is an array of arrays; expected an array of scalars or strings",
            c->what, shown(key), key.p);
    }
    MK_TRY(take_u64(c, "the length of an array", &kv->n));
    return take_elements(c, key, kv);
}

static mk_status take_scalar(cursor *c, text key, mk_gguf_kv *kv) {
    size_t at = c->at;
    MK_TRY(take(c, types[kv->type].bytes, "a value", &kv->p));
    kv->n = 1;
    if (kv->type == MK_GGUF_BOOL && *kv->p > 1) {
        return MK_FAIL(c->err, MK_ECORRUPT,
                       "%s: key '%.*s': bool at byte %zu is %u; expected 0 or 1", c->what,
                       shown(key), key.p, at, *kv->p);
    }
    return MK_OK;
}

static mk_status take_value(cursor *c, text key, mk_gguf_kv *kv) {
    if (kv->type == MK_GGUF_ARRAY) {
        return take_array(c, key, kv);
    }
    if (kv->type != MK_GGUF_STRING) {
        return take_scalar(c, key, kv);
    }
    text t = {0};
    MK_TRY(take_text(c, "a string", &t));
    kv->p = (const uint8_t *)t.p;
    kv->n = t.n;
    return MK_OK;
}

static mk_status parse_metadata(parser *ps) {
    mk_gguf_part *part = ps->part;
    size_t cap_keys = 0;
    for (uint64_t i = 0; i < ps->want_kv; i++) {
        text key = {0};
        mk_gguf_kv kv = {0};
        MK_TRY(take_name(&ps->c, "a key", MAX_KEY, &key));
        MK_TRY(take_type(&ps->c, key, "the value type", &kv.type));
        MK_TRY(take_value(&ps->c, key, &kv));
        MK_TRY(grow(&ps->c, (void **)&part->kv, part->n_kv, &ps->cap_kv, sizeof kv));
        MK_TRY(grow(&ps->c, (void **)&ps->keys, part->n_kv, &cap_keys, sizeof key));
        ps->keys[part->n_kv] = key;
        part->kv[part->n_kv++] = kv;
    }
    return MK_OK;
}

// --- tensor descriptions -------------------------------------------------------------------------

// Dims are stored fastest first; shapes here are slowest first.
static mk_status take_shape(cursor *c, text name, mk_tensor_view *v, int64_t *n_elem) {
    uint32_t n_dim = 0;
    MK_TRY(take_u32(c, "the number of dimensions", &n_dim));
    if (n_dim < 1 || n_dim > MAX_DIMS) {
        return MK_FAIL(c->err, MK_ECORRUPT, "%s: tensor '%.*s' has %u dimensions; expected 1 to %d",
                       c->what, shown(name), name.p, n_dim, MAX_DIMS);
    }
    *n_elem = 1;
    v->n_dim = (int)n_dim;
    for (int i = 0; i < MK_MAX_DIMS; i++) {
        v->shape[i] = 1;
    }
    for (int i = (int)n_dim - 1; i >= 0; i--) {
        uint64_t ne = 0;
        MK_TRY(take_u64(c, "a dimension", &ne));
        if (ne < 1 || ne > INT64_MAX || !mk_mul_i64(*n_elem, (int64_t)ne, n_elem)) {
            return MK_FAIL(c->err, MK_ECORRUPT,
                           "%s: tensor '%.*s': dimension %d is %llu; expected at least 1 and a "
                           "product below 2^63",
                           c->what, shown(name), name.p, i, (unsigned long long)ne);
        }
        v->shape[i] = (int64_t)ne;
    }
    return MK_OK;
}

static mk_status take_dtype(cursor *c, text name, int64_t n_elem, mk_tensor_view *v) {
    uint32_t id = 0;
    MK_TRY(take_u32(c, "an element type", &id));
    const mk_dtype_info *info = id < MK_DTYPE_F8_E4M3 ? mk_dtype_get(id) : NULL;
    if (info == NULL) {
        return MK_FAIL(c->err, MK_EUNSUPPORTED,
                       "%s: tensor '%.*s' has element type id %u, which is not known (removed, "
                       "newer, or of a fork)",
                       c->what, shown(name), name.p, id);
    }
    v->dtype = (mk_dtype)id;
    int64_t row = v->shape[v->n_dim - 1];
    if (row % info->block != 0 || !mk_dtype_row_bytes(v->dtype, n_elem, &v->n_bytes)) {
        return MK_FAIL(c->err, MK_ECORRUPT,
                       "%s: tensor '%.*s': rows of %lld elements of type %s; expected a multiple "
                       "of %d and a size that fits",
                       c->what, shown(name), name.p, (long long)row, info->name, info->block);
    }
    return MK_OK;
}

static mk_status parse_tensors(parser *ps) {
    mk_gguf_part *part = ps->part;
    size_t cap_raw = 0;
    for (uint64_t i = 0; i < ps->want_tensor; i++) {
        raw_tensor raw = {0};
        int64_t n_elem = 0;
        mk_tensor_view v = {.map = &part->map};
        MK_TRY(take_name(&ps->c, "a tensor name", MAX_NAME, &raw.name));
        MK_TRY(take_shape(&ps->c, raw.name, &v, &n_elem));
        MK_TRY(take_dtype(&ps->c, raw.name, n_elem, &v));
        MK_TRY(take_u64(&ps->c, "a tensor offset", &raw.offset));
        MK_TRY(grow(&ps->c, (void **)&part->tensors, part->n_tensor, &ps->cap_tensor, sizeof v));
        MK_TRY(grow(&ps->c, (void **)&ps->raw, part->n_tensor, &cap_raw, sizeof raw));
        ps->raw[part->n_tensor] = raw;
        part->tensors[part->n_tensor++] = v;
    }
    return MK_OK;
}

// --- names ---------------------------------------------------------------------------------------

static char *put_text(char *at, text t, const char **out) {
    memcpy(at, t.p, t.n);
    at[t.n] = '\0';
    *out = at;
    return at + t.n + 1;
}

// Copies keys and names behind each other, NUL-terminated.  Their total is below the size of the
// file.
static mk_status copy_texts(parser *ps) {
    mk_gguf_part *part = ps->part;
    size_t total = 1;
    for (size_t i = 0; i < part->n_kv; i++) {
        total += ps->keys[i].n + 1;
    }
    for (size_t i = 0; i < part->n_tensor; i++) {
        total += ps->raw[i].name.n + 1;
    }
    char *at = part->texts = mk_try_alloc(total, 1);
    if (at == NULL) {
        return MK_FAIL(ps->c.err, MK_ENOMEM, "%s: no memory for %zu bytes of names", part->what,
                       total);
    }
    for (size_t i = 0; i < part->n_kv; i++) {
        at = put_text(at, ps->keys[i], &part->kv[i].key);
    }
    for (size_t i = 0; i < part->n_tensor; i++) {
        at = put_text(at, ps->raw[i].name, &part->tensors[i].name);
    }
    return MK_OK;
}

// --- data ranges ---------------------------------------------------------------------------------

static mk_status find_alignment(parser *ps) {
    int64_t a = DEFAULT_ALIGNMENT;
    MK_TRY(mk_gguf_part_i64(ps->part, "general.alignment", 1, INT64_MAX, &a, ps->c.err));
    if ((a & (a - 1)) != 0) {
        return MK_FAIL(ps->c.err, MK_ECORRUPT,
                       "%s: general.alignment is %lld; expected a power of two", ps->c.what,
                       (long long)a);
    }
    ps->alignment = (uint64_t)a;
    return MK_OK;
}

// A file without tensors may end right behind the metadata.
static mk_status find_data_start(parser *ps) {
    cursor *c = &ps->c;
    uint64_t rest = c->at % ps->alignment, padding = rest == 0 ? 0 : ps->alignment - rest;
    if (ps->part->n_tensor == 0) {
        return MK_OK;
    }
    if (padding > c->n - c->at) {
        return MK_FAIL(c->err, MK_ECORRUPT,
                       "%s: tensor data should start %llu bytes behind byte %zu, but the file has "
                       "%zu bytes (truncated?)",
                       c->what, (unsigned long long)padding, c->at, c->n);
    }
    ps->data_start = c->at + (size_t)padding;
    return MK_OK;
}

static mk_status place_tensor(parser *ps, size_t i) {
    mk_tensor_view *v = &ps->part->tensors[i];
    uint64_t offset = ps->raw[i].offset;
    size_t room = ps->c.n - ps->data_start;
    if (offset % ps->alignment != 0) {
        return MK_FAIL(ps->c.err, MK_ECORRUPT,
                       "%s: tensor '%.64s' is at offset %llu; expected a multiple of %llu",
                       ps->c.what, v->name, (unsigned long long)offset,
                       (unsigned long long)ps->alignment);
    }
    if (offset > room || v->n_bytes > room - offset) {
        return MK_FAIL(ps->c.err, MK_ECORRUPT,
                       "%s: tensor '%.64s' needs %zu bytes at offset %llu, but the file has %zu "
                       "bytes of data (truncated?)",
                       ps->c.what, v->name, v->n_bytes, (unsigned long long)offset, room);
    }
    v->data = ps->c.data + ps->data_start + (size_t)offset;
    return MK_OK;
}

static int by_position(const void *a, const void *b) {
    const mk_tensor_view *x = *(const mk_tensor_view *const *)a,
                         *y = *(const mk_tensor_view *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static mk_status check_pair(parser *ps, const mk_tensor_view *first, const mk_tensor_view *second) {
    if ((size_t)(second->data - first->data) >= first->n_bytes) {
        return MK_OK;
    }
    return MK_FAIL(ps->c.err, MK_ECORRUPT,
                   "%s: tensors '%.64s' (%zu bytes at %zu) and '%.64s' (at %zu) overlap",
                   ps->c.what, first->name, first->n_bytes, (size_t)(first->data - ps->c.data),
                   second->name, (size_t)(second->data - ps->c.data));
}

// Files list their tensors in ascending order nearly always; only others are sorted.
static mk_status check_overlaps(parser *ps) {
    const mk_gguf_part *part = ps->part;
    bool ascending = true;
    for (size_t i = 1; i < part->n_tensor && ascending; i++) {
        ascending = part->tensors[i].data >= part->tensors[i - 1].data;
    }
    const mk_tensor_view **order = mk_try_alloc(part->n_tensor + 1, sizeof(*order));
    if (order == NULL) {
        return MK_FAIL(ps->c.err, MK_ENOMEM, "%s: no memory to sort %zu tensors", ps->c.what,
                       part->n_tensor);
    }
    for (size_t i = 0; i < part->n_tensor; i++) {
        order[i] = &part->tensors[i];
    }
    if (!ascending) {
        qsort(order, part->n_tensor, sizeof(*order), by_position);
    }
    mk_status st = MK_OK;
    for (size_t i = 1; i < part->n_tensor && st == MK_OK; i++) {
        st = check_pair(ps, order[i - 1], order[i]);
    }
    mk_free(order);
    return st;
}

static mk_status place_tensors(parser *ps) {
    MK_TRY(find_alignment(ps));
    MK_TRY(find_data_start(ps));
    for (size_t i = 0; i < ps->part->n_tensor; i++) {
        MK_TRY(place_tensor(ps, i));
    }
    return check_overlaps(ps);
}

// --- all of it -----------------------------------------------------------------------------------

static mk_status index_keys(parser *ps) {
    mk_gguf_part *part = ps->part;
    mk_status st =
        mk_names_build(&part->key_index, "key", part->kv, part->n_kv, sizeof *part->kv, ps->c.err);
    return st == MK_OK ? st : mk_err_prefix(ps->c.err, "%s", part->what);
}

static mk_status parse_all(parser *ps) {
    MK_TRY(parse_header(ps));
    MK_TRY(parse_metadata(ps));
    MK_TRY(parse_tensors(ps));
    MK_TRY(copy_texts(ps));
    MK_TRY(index_keys(ps));
    return place_tensors(ps);
}

mk_status mk_gguf_parse(mk_gguf_part *part, mk_err *err) {
    mk_err local;  // mk_err_prefix needs one even if the caller wants none
    parser ps = {.part = part,
                 .c = {.data = part->map.data,
                       .n = part->map.n_bytes,
                       .what = part->what,
                       .err = err != NULL ? err : &local}};
    mk_status st = parse_all(&ps);
    mk_free(ps.keys);
    mk_free(ps.raw);
    return st;
}

void mk_gguf_part_free(mk_gguf_part *part) {
    if (part == NULL) {
        return;
    }
    mk_names_free(&part->key_index);
    mk_free(part->kv);
    mk_free(part->tensors);
    mk_free(part->texts);
    if (part->mapped) {
        mk_map_close(&part->map);
    }
    mk_free(part);
}
