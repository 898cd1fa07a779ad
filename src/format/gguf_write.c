// Writing GGUF version 3.  Metadata is encoded as it is added; tensors are laid out in the order
// they are declared, each at the next multiple of the alignment.
//
// Sticky: the first mistake (a shape that does not fit, no memory) is kept and reported by
// mk_gguf_out_write.
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "format/gguf_int.h"

enum { DEFAULT_ALIGNMENT = 32, MAX_DIMS = 4, MAX_NAME = 63, MAX_PAD = 1 << 16 };

static const size_t max_kv_bytes = (size_t)4 << 30;

typedef struct {
    const char *name;  // owned; first member: see names.h
    mk_dtype dtype;
    int n_dim;
    int64_t shape[MAX_DIMS];
    size_t n_bytes;
    uint64_t offset;  // from the start of the data
} declared;

typedef struct {
    const char *name;  // owned; first member: see names.h
} key_row;

struct mk_gguf_out {
    mk_buf kv;
    key_row *keys;
    size_t n_key, cap_key;
    declared *tensors;
    size_t n_tensor, cap_tensor;
    uint64_t alignment, data_bytes;
    mk_err err;  // code MK_OK as long as nothing went wrong
};

mk_gguf_out *mk_gguf_out_create(void) {
    mk_gguf_out *o = mk_zalloc(sizeof *o);
    mk_buf_init(&o->kv, max_kv_bytes);
    o->alignment = DEFAULT_ALIGNMENT;
    return o;
}

void mk_gguf_out_destroy(mk_gguf_out *o) {
    if (o == NULL) {
        return;
    }
    for (size_t i = 0; i < o->n_key; i++) {
        mk_free((char *)o->keys[i].name);
    }
    for (size_t i = 0; i < o->n_tensor; i++) {
        mk_free((char *)o->tensors[i].name);
    }
    mk_free(o->keys);
    mk_free(o->tensors);
    mk_buf_free(&o->kv);
    mk_free(o);
}

// Room for one more of n elements; false (and the error kept) without memory.
static bool grow(mk_gguf_out *o, void **items, size_t n, size_t *cap, size_t elem_bytes) {
    if (n < *cap) {
        return true;
    }
    size_t want = *cap == 0 ? 64 : 2 * *cap;
    void *p = mk_try_realloc(*items, want, elem_bytes);
    if (p == NULL) {
        (void)MK_FAIL(&o->err, MK_ENOMEM, "no memory to describe %zu keys or tensors", want);
        return false;
    }
    *items = p;
    *cap = want;
    return true;
}

// --- metadata ------------------------------------------------------------------------------------

static void put_u32(mk_buf *b, uint32_t v) {
    mk_buf_add(b, &v, sizeof v);
}

static void put_u64(mk_buf *b, uint64_t v) {
    mk_buf_add(b, &v, sizeof v);
}

static void put_text(mk_buf *b, const char *p, size_t n) {
    put_u64(b, n);
    mk_buf_add(b, p, n);
}

// Starts an entry.  After an error nothing more is added.
static bool put_key(mk_gguf_out *o, const char *key, mk_gguf_type type) {
    if (o->err.code != MK_OK ||
        !grow(o, (void **)&o->keys, o->n_key, &o->cap_key, sizeof *o->keys)) {
        return false;
    }
    o->keys[o->n_key++].name = mk_strdup(key);
    put_text(&o->kv, key, strlen(key));
    put_u32(&o->kv, (uint32_t)type);
    return true;
}

static bool put_array(mk_gguf_out *o, const char *key, mk_gguf_type elem_type, int64_t n) {
    MK_ASSERT(n >= 0);
    if (!put_key(o, key, MK_GGUF_ARRAY)) {
        return false;
    }
    put_u32(&o->kv, (uint32_t)elem_type);
    put_u64(&o->kv, (uint64_t)n);
    return true;
}

void mk_gguf_out_i64(mk_gguf_out *o, const char *key, mk_gguf_type type, int64_t v) {
    static const struct {
        int64_t min, max;
    } range[MK_GGUF_N_TYPE] = {
        [MK_GGUF_U8] = {0, UINT8_MAX},   [MK_GGUF_I8] = {INT8_MIN, INT8_MAX},
        [MK_GGUF_U16] = {0, UINT16_MAX}, [MK_GGUF_I16] = {INT16_MIN, INT16_MAX},
        [MK_GGUF_U32] = {0, UINT32_MAX}, [MK_GGUF_I32] = {INT32_MIN, INT32_MAX},
        [MK_GGUF_U64] = {0, INT64_MAX},  [MK_GGUF_I64] = {INT64_MIN, INT64_MAX},
        [MK_GGUF_BOOL] = {0, 1},
    };
    MK_ASSERT(range[type].max > 0);  // an integer type
    if (v < range[type].min || v > range[type].max) {
        if (o->err.code == MK_OK) {
            (void)MK_FAIL(&o->err, MK_EUSAGE, "key '%.128s': %lld does not fit type %s", key,
                          (long long)v, mk_gguf_type_name(type));
        }
        return;
    }
    if (put_key(o, key, type)) {
        mk_buf_add(&o->kv, &v,
                   mk_gguf_type_bytes(type));  // little-endian: the low bytes come first
    }
}

void mk_gguf_out_u32(mk_gguf_out *o, const char *key, uint32_t v) {
    mk_gguf_out_i64(o, key, MK_GGUF_U32, (int64_t)v);
}

void mk_gguf_out_f32(mk_gguf_out *o, const char *key, float v) {
    if (put_key(o, key, MK_GGUF_F32)) {
        mk_buf_add(&o->kv, &v, sizeof v);
    }
}

void mk_gguf_out_str(mk_gguf_out *o, const char *key, const char *p, size_t n) {
    if (put_key(o, key, MK_GGUF_STRING)) {
        put_text(&o->kv, p, n);
    }
}

void mk_gguf_out_arr_str(mk_gguf_out *o, const char *key, const mk_gguf_str *v, int64_t n) {
    if (put_array(o, key, MK_GGUF_STRING, n)) {
        for (int64_t i = 0; i < n; i++) {
            put_text(&o->kv, v[i].p, v[i].n);
        }
    }
}

void mk_gguf_out_arr_f32(mk_gguf_out *o, const char *key, const float *v, int64_t n) {
    if (put_array(o, key, MK_GGUF_F32, n)) {
        mk_buf_add(&o->kv, v, (size_t)n * sizeof *v);
    }
}

void mk_gguf_out_arr_i32(mk_gguf_out *o, const char *key, const int32_t *v, int64_t n) {
    if (put_array(o, key, MK_GGUF_I32, n)) {
        mk_buf_add(&o->kv, v, (size_t)n * sizeof *v);
    }
}

// Bytes of an array's elements on disk.
static size_t array_bytes(const mk_gguf_kv *kv) {
    size_t elem = mk_gguf_type_bytes(kv->elem_type);
    if (elem != 0) {
        return (size_t)kv->n * elem;
    }
    const uint8_t *p = kv->p;
    for (uint64_t i = 0; i < kv->n; i++) {
        uint64_t len;
        memcpy(&len, p, sizeof len);
        p += sizeof len + len;
    }
    return (size_t)(p - kv->p);
}

void mk_gguf_out_copy_kv(mk_gguf_out *o, const mk_gguf *g, int64_t i) {
    MK_ASSERT(i >= 0 && i < mk_gguf_n_kv(g));
    const mk_gguf_kv *kv = &g->parts[0]->kv[i];
    // These describe the layout of the old file; the new one has its own.
    if (strcmp(kv->key, "general.alignment") == 0 || strncmp(kv->key, "split.", 6) == 0) {
        return;
    }
    if (kv->type == MK_GGUF_STRING) {
        mk_gguf_out_str(o, kv->key, (const char *)kv->p, (size_t)kv->n);
    } else if (kv->type == MK_GGUF_ARRAY) {
        if (put_array(o, kv->key, kv->elem_type, (int64_t)kv->n)) {
            mk_buf_add(&o->kv, kv->p, array_bytes(kv));
        }
    } else if (put_key(o, kv->key, kv->type)) {
        mk_buf_add(&o->kv, kv->p, mk_gguf_type_bytes(kv->type));
    }
}

// --- tensors -------------------------------------------------------------------------------------

static uint64_t padding(const mk_gguf_out *o, uint64_t at) {
    return (o->alignment - at % o->alignment) % o->alignment;
}

// Checks name, type and shape, sets n_bytes.
static bool measure(declared *d, const int64_t *shape) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)d->dtype);
    size_t name_bytes = strlen(d->name);
    int64_t n = 1;
    if (info == NULL || d->dtype >= MK_DTYPE_F8_E4M3 || d->n_dim < 1 || d->n_dim > MAX_DIMS ||
        name_bytes < 1 || name_bytes > MAX_NAME) {
        return false;
    }
    for (int i = 0; i < d->n_dim; i++) {
        if (shape[i] < 1 || !mk_mul_i64(n, shape[i], &n)) {
            return false;
        }
        d->shape[i] = shape[i];
    }
    return shape[d->n_dim - 1] % info->block == 0 && mk_dtype_row_bytes(d->dtype, n, &d->n_bytes);
}

void mk_gguf_out_tensor(mk_gguf_out *o, const char *name, mk_dtype t, int n_dim,
                        const int64_t *shape) {
    declared d = {.name = name, .dtype = t, .n_dim = n_dim};
    if (o->err.code != MK_OK ||
        !grow(o, (void **)&o->tensors, o->n_tensor, &o->cap_tensor, sizeof d)) {
        return;
    }
    const mk_dtype_info *info = mk_dtype_get((int64_t)t);
    if (!measure(&d, shape) || d.n_bytes > INT64_MAX - o->data_bytes - MAX_PAD) {
        (void)MK_FAIL(&o->err, MK_EUNSUPPORTED,
                      "tensor '%.128s' of type %s with %d dimensions, rows of %lld, cannot be "
                      "written to a GGUF file; "
                      "expected a name of 1 to %d bytes, 1 to %d dimensions of at least 1, rows of "
                      "whole blocks",
                      name, info != NULL ? info->name : "(unknown)", n_dim,
                      n_dim > 0 && n_dim <= MK_MAX_DIMS ? (long long)shape[n_dim - 1] : 0LL,
                      MAX_NAME, MAX_DIMS);
        return;
    }
    d.name = mk_strdup(name);
    d.offset = o->data_bytes + padding(o, o->data_bytes);
    o->data_bytes = d.offset + d.n_bytes;
    o->tensors[o->n_tensor++] = d;
}

// --- the file ------------------------------------------------------------------------------------

static mk_status check_names(const mk_gguf_out *o, mk_err *err) {
    mk_names index;
    MK_TRY(mk_names_build(&index, "key", o->keys, o->n_key, sizeof *o->keys, err));
    mk_names_free(&index);
    MK_TRY(mk_names_build(&index, "tensor", o->tensors, o->n_tensor, sizeof *o->tensors, err));
    mk_names_free(&index);
    return MK_OK;
}

static void put_tensor(mk_buf *b, const declared *d) {
    put_text(b, d->name, strlen(d->name));
    put_u32(b, (uint32_t)d->n_dim);
    for (int i = d->n_dim - 1; i >= 0; i--) {  // fastest dimension first
        put_u64(b, (uint64_t)d->shape[i]);
    }
    put_u32(b, (uint32_t)d->dtype);
    put_u64(b, d->offset);
}

static mk_status write_padding(const mk_gguf_out *o, mk_writer *w, mk_err *err) {
    static const uint8_t zeros[DEFAULT_ALIGNMENT];
    return mk_writer_write(w, zeros, (size_t)padding(o, mk_writer_offset(w)), err);
}

static mk_status write_header(const mk_gguf_out *o, mk_writer *w, mk_err *err) {
    mk_buf head, infos;
    mk_buf_init(&head, 64);
    mk_buf_init(&infos, max_kv_bytes);
    mk_buf_puts(&head, "GGUF");
    put_u32(&head, 3);
    put_u64(&head, o->n_tensor);
    put_u64(&head, o->n_key);
    for (size_t i = 0; i < o->n_tensor; i++) {
        put_tensor(&infos, &o->tensors[i]);
    }
    mk_status st = MK_OK;
    if (head.failed || infos.failed || o->kv.failed) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for the metadata (%zu keys, %zu tensors)", o->n_key,
                     o->n_tensor);
    }
    const mk_buf *pieces[] = {&head, &o->kv, &infos};
    for (size_t i = 0; i < 3 && st == MK_OK; i++) {
        st = mk_writer_write(w, pieces[i]->data, pieces[i]->len, err);
    }
    mk_buf_free(&head);
    mk_buf_free(&infos);
    return st == MK_OK ? write_padding(o, w, err) : st;
}

static mk_status write_tensors(const mk_gguf_out *o, mk_writer *w, mk_gguf_fill fill, void *arg,
                               mk_err *err) {
    for (size_t i = 0; i < o->n_tensor; i++) {
        uint64_t start = mk_writer_offset(w);
        MK_TRY(fill(arg, (int64_t)i, w, err));
        uint64_t written = mk_writer_offset(w) - start;
        if (written != o->tensors[i].n_bytes) {
            return MK_FAIL(err, MK_EIO, "tensor '%.128s': %llu bytes were delivered; expected %zu",
                           o->tensors[i].name, (unsigned long long)written, o->tensors[i].n_bytes);
        }
        MK_TRY(write_padding(o, w, err));
    }
    return MK_OK;
}

mk_status mk_gguf_out_write(mk_gguf_out *o, const char *path, mk_gguf_fill fill, void *arg,
                            mk_err *err) {
    mk_writer *w = NULL;
    if (o->err.code != MK_OK) {
        return MK_FAIL(err, o->err.code, "%s: %s", path, o->err.msg);
    }
    MK_TRY(check_names(o, err));
    MK_TRY(mk_writer_open(path, &w, err));
    mk_status st = write_header(o, w, err);
    if (st == MK_OK) {
        st = write_tensors(o, w, fill, arg, err);
    }
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}
