// Writing one safetensors file (the format: safetensors_parse.c).
//
// The header is padded with spaces to a multiple of 8, and data lie in descending element size, as
// the official package writes them: a reader may map every tensor aligned.
#include "format/safetensors_int.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { ALIGNMENT = 8, LENGTH_BYTES = 8, MAX_HEADER = 100000000, MAX_ELEMENT = 8 };

typedef struct {
    char *name;  // owned
    mk_dtype dtype;
    int n_dim;
    int64_t shape[MK_MAX_DIMS];
    size_t n_bytes, element_bytes;
} declared;

struct mk_st_out {
    json_t *meta;
    declared *tensors;
    size_t n_tensor, cap_tensor;
    uint64_t data_bytes;
    mk_err err;  // code MK_OK as long as nothing went wrong
};

mk_st_out *mk_st_out_create(void) {
    mk_st_out *o = mk_zalloc(sizeof *o);
    o->meta = json_object();
    mk_st_out_meta(o, "format", "pt");
    return o;
}

void mk_st_out_destroy(mk_st_out *o) {
    if (o == NULL) {
        return;
    }
    for (size_t i = 0; i < o->n_tensor; i++) {
        mk_free(o->tensors[i].name);
    }
    mk_free(o->tensors);
    json_decref(o->meta);
    mk_free(o);
}

void mk_st_out_meta(mk_st_out *o, const char *key, const char *text) {
    if (o->err.code == MK_OK && json_object_set_new(o->meta, key, json_string(text)) != 0) {
        (void)MK_FAIL(&o->err, MK_EUNSUPPORTED, "metadata '%.128s': not UTF-8, or no memory", key);
    }
}

// --- tensors -------------------------------------------------------------------------------------

static bool measure(declared *d, const int64_t *shape) {
    int64_t n = 1;
    if (mk_st_dtype_name(d->dtype) == NULL || d->n_dim < 0 || d->n_dim > MK_MAX_DIMS) {
        return false;
    }
    for (int i = 0; i < d->n_dim; i++) {
        if (shape[i] < 0 || !mk_mul_i64(n, shape[i], &n)) {
            return false;
        }
        d->shape[i] = shape[i];
    }
    return mk_dtype_row_bytes(d->dtype, 1, &d->element_bytes) &&
           mk_dtype_row_bytes(d->dtype, n, &d->n_bytes);
}

static bool grow(mk_st_out *o) {
    if (o->n_tensor < o->cap_tensor) {
        return true;
    }
    size_t want = o->cap_tensor == 0 ? 64 : 2 * o->cap_tensor;
    declared *p = mk_try_realloc(o->tensors, want, sizeof *p);
    if (p == NULL) {
        (void)MK_FAIL(&o->err, MK_ENOMEM, "no memory to describe %zu tensors", want);
        return false;
    }
    o->tensors = p;
    o->cap_tensor = want;
    return true;
}

void mk_st_out_tensor(mk_st_out *o, const char *name, mk_dtype t, int n_dim, const int64_t *shape) {
    declared d = {.dtype = t, .n_dim = n_dim};
    if (o->err.code != MK_OK || !grow(o)) {
        return;
    }
    if (!measure(&d, shape) || d.n_bytes > INT64_MAX - o->data_bytes) {
        const mk_dtype_info *info = mk_dtype_get((int64_t)t);
        (void)MK_FAIL(&o->err, MK_EUNSUPPORTED,
                      "tensor '%.128s' of type %s with %d dimensions cannot be written to a "
                      "safetensors file; expected a plain type, 0 to %d dimensions and a size that "
                      "fits a file",
                      name, info != NULL ? info->name : "(unknown)", n_dim, MK_MAX_DIMS);
        return;
    }
    d.name = mk_strdup(name);
    o->data_bytes += d.n_bytes;
    o->tensors[o->n_tensor++] = d;
}

uint64_t mk_st_out_data_bytes(const mk_st_out *o) {
    return o->data_bytes;
}

// --- the file ------------------------------------------------------------------------------------

static mk_status put_entry(json_t *header, const declared *d, uint64_t begin, mk_err *err) {
    json_t *shape = json_array();
    for (int i = 0; i < d->n_dim; i++) {
        (void)json_array_append_new(shape, json_integer(d->shape[i]));
    }
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", mk_st_dtype_name(d->dtype), "shape", shape,
                  "data_offsets", (json_int_t)begin, (json_int_t)(begin + d->n_bytes));
    if (json_object_get(header, d->name) != NULL) {
        json_decref(entry);
        return MK_FAIL(err, MK_ECORRUPT, "tensor '%.128s' is declared twice", d->name);
    }
    if (entry == NULL || json_object_set_new(header, d->name, entry) != 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "tensor name '%.128s': not UTF-8, or no memory",
                       d->name);
    }
    return MK_OK;
}

// The next tensor in the order of the data behind tensor *at of element size *size; at = -1 begins.
static bool next_tensor(const mk_st_out *o, size_t *size, int64_t *at) {
    for (; *size > 0; --*size, *at = -1) {
        for (++*at; (size_t)*at < o->n_tensor; ++*at) {
            if (o->tensors[*at].element_bytes == *size) {
                return true;
            }
        }
    }
    return false;
}

static int add_text(const char *p, size_t n, void *buf) {
    mk_buf_add(buf, p, n);
    return 0;
}

static mk_status make_header(const mk_st_out *o, json_t *header, mk_buf *text, mk_err *err) {
    uint64_t begin = 0;
    size_t size = MAX_ELEMENT;
    (void)json_object_set(header, "__metadata__", o->meta);
    for (int64_t i = -1; next_tensor(o, &size, &i);) {
        MK_TRY(put_entry(header, &o->tensors[i], begin, err));
        begin += o->tensors[i].n_bytes;
    }
    bool ok = json_dump_callback(header, add_text, text, JSON_COMPACT) == 0;
    mk_buf_add(text, "       ", (ALIGNMENT - text->len % ALIGNMENT) % ALIGNMENT);
    if (!ok || text->failed) {
        return MK_FAIL(err, MK_ENOMEM,
                       "no memory for a header of %zu tensors, which may have %d bytes",
                       o->n_tensor, MAX_HEADER);
    }
    return MK_OK;
}

static mk_status write_header(const mk_st_out *o, mk_writer *w, mk_err *err) {
    json_t *header = json_object();
    mk_buf text;
    mk_buf_init(&text, MAX_HEADER);
    mk_status st = make_header(o, header, &text, err);
    uint64_t n = text.len;
    st = st == MK_OK ? mk_writer_write(w, &n, LENGTH_BYTES, err) : st;  // little endian
    st = st == MK_OK ? mk_writer_write(w, text.data, text.len, err) : st;
    mk_buf_free(&text);
    json_decref(header);
    return st;
}

static mk_status write_tensors(const mk_st_out *o, mk_writer *w, mk_st_fill fill, void *arg,
                               mk_err *err) {
    size_t size = MAX_ELEMENT;
    for (int64_t i = -1; next_tensor(o, &size, &i);) {
        uint64_t start = mk_writer_offset(w);
        MK_TRY(fill(arg, i, w, err));
        uint64_t written = mk_writer_offset(w) - start;
        if (written != o->tensors[i].n_bytes) {
            return MK_FAIL(err, MK_EIO, "tensor '%.128s': %llu bytes were delivered; expected %zu",
                           o->tensors[i].name, (unsigned long long)written, o->tensors[i].n_bytes);
        }
    }
    return MK_OK;
}

mk_status mk_st_out_write(mk_st_out *o, const char *path, mk_st_fill fill, void *arg, mk_err *err) {
    mk_writer *w = NULL;
    if (o->err.code != MK_OK) {
        return MK_FAIL(err, o->err.code, "%s: %s", path, o->err.msg);
    }
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
