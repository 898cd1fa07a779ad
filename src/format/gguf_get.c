// Typed access to GGUF metadata.  Numbers are converted between types when the value fits;
// everything else is an error that names the key, what was expected and what was found.
#include <string.h>

#include "base/alloc.h"
#include "format/gguf_int.h"

// A number read from the file, whatever its type.
typedef struct {
    enum { NONE, SIGNED, UNSIGNED, REAL } kind;  // NONE: not a number
    int64_t i;
    uint64_t u;
    double d;
} number;

static int64_t signed_at(const uint8_t *p, size_t n_bytes) {
    uint64_t u = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        u |= (uint64_t)p[i] << 8 * i;
    }
    unsigned unused = (unsigned)(64 - 8 * n_bytes);
    return (int64_t)(u << unused) >> unused;
}

static uint64_t unsigned_at(const uint8_t *p, size_t n_bytes) {
    uint64_t u = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        u |= (uint64_t)p[i] << 8 * i;
    }
    return u;
}

static number real_at(mk_gguf_type t, const uint8_t *p) {
    float f;
    double d;
    if (t == MK_GGUF_F32) {
        memcpy(&f, p, sizeof f);
        d = (double)f;
    } else {
        memcpy(&d, p, sizeof d);
    }
    return (number){.kind = REAL, .d = d};
}

static number number_at(mk_gguf_type t, const uint8_t *p) {
    size_t n = mk_gguf_type_bytes(t);
    switch (t) {
    case MK_GGUF_I8:
    case MK_GGUF_I16:
    case MK_GGUF_I32:
    case MK_GGUF_I64:
        return (number){.kind = SIGNED, .i = signed_at(p, n)};
    case MK_GGUF_U8:
    case MK_GGUF_U16:
    case MK_GGUF_U32:
    case MK_GGUF_U64:
        return (number){.kind = UNSIGNED, .u = unsigned_at(p, n)};
    case MK_GGUF_F32:
    case MK_GGUF_F64:
        return real_at(t, p);
    default:
        return (number){.kind = NONE};
    }
}

static const mk_gguf_kv *find_kv(const mk_gguf_part *part, const char *key) {
    int64_t i = mk_names_find(&part->key_index, key);
    return i < 0 ? NULL : &part->kv[i];
}

static mk_status wrong_type(const mk_gguf_part *part, const mk_gguf_kv *kv, const char *expected,
                            mk_err *err) {
    bool array = kv->type == MK_GGUF_ARRAY;
    return MK_FAIL(err, MK_ECORRUPT, "%s: key '%.64s': expected %s, found %s%s", part->what,
                   kv->key, expected, array ? "an array of " : "",
                   mk_gguf_type_name(array ? kv->elem_type : kv->type));
}

// `expected` names the type in messages ("an integer", "an array of integers").
static mk_status to_i64(const mk_gguf_part *part, const mk_gguf_kv *kv, mk_gguf_type t,
                        const uint8_t *p, const char *expected, int64_t *out, mk_err *err) {
    number x = number_at(t, p);
    if (x.kind != SIGNED && x.kind != UNSIGNED) {
        return wrong_type(part, kv, expected, err);
    }
    if (x.kind == UNSIGNED && x.u > INT64_MAX) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: key '%.64s': expected %s below 2^63, found %llu",
                       part->what, kv->key, expected, (unsigned long long)x.u);
    }
    *out = x.kind == SIGNED ? x.i : (int64_t)x.u;
    return MK_OK;
}

static mk_status to_f64(const mk_gguf_part *part, const mk_gguf_kv *kv, mk_gguf_type t,
                        const uint8_t *p, const char *expected, double *out, mk_err *err) {
    number x = number_at(t, p);
    switch (x.kind) {
    case SIGNED:
        *out = (double)x.i;
        return MK_OK;
    case UNSIGNED:
        *out = (double)x.u;
        return MK_OK;
    case REAL:
        *out = x.d;
        return MK_OK;
    default:
        return wrong_type(part, kv, expected, err);
    }
}

// --- scalars -------------------------------------------------------------------------------------

mk_status mk_gguf_part_i64(const mk_gguf_part *part, const char *key, int64_t min, int64_t max,
                           int64_t *out, mk_err *err) {
    const mk_gguf_kv *kv = find_kv(part, key);
    int64_t v = 0;
    if (kv == NULL) {
        return MK_OK;
    }
    MK_TRY(to_i64(part, kv, kv->type, kv->p, "an integer", &v, err));
    if (v < min || v > max) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: key '%.64s': expected an integer from %lld to %lld, found %lld",
                       part->what, key, (long long)min, (long long)max, (long long)v);
    }
    *out = v;
    return MK_OK;
}

mk_status mk_gguf_get_i64(const mk_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                          mk_err *err) {
    return mk_gguf_part_i64(g->parts[0], key, min, max, out, err);
}

mk_status mk_gguf_get_f64(const mk_gguf *g, const char *key, double *out, mk_err *err) {
    const mk_gguf_kv *kv = find_kv(g->parts[0], key);
    return kv == NULL ? MK_OK : to_f64(g->parts[0], kv, kv->type, kv->p, "a number", out, err);
}

mk_status mk_gguf_get_bool(const mk_gguf *g, const char *key, bool *out, mk_err *err) {
    const mk_gguf_kv *kv = find_kv(g->parts[0], key);
    if (kv == NULL) {
        return MK_OK;
    }
    if (kv->type != MK_GGUF_BOOL) {
        return wrong_type(g->parts[0], kv, "a bool", err);
    }
    *out = *kv->p != 0;
    return MK_OK;
}

mk_status mk_gguf_get_str(const mk_gguf *g, const char *key, mk_gguf_str *out, mk_err *err) {
    const mk_gguf_kv *kv = find_kv(g->parts[0], key);
    if (kv == NULL) {
        return MK_OK;
    }
    if (kv->type != MK_GGUF_STRING) {
        return wrong_type(g->parts[0], kv, "a string", err);
    }
    *out = (mk_gguf_str){(const char *)kv->p, (size_t)kv->n};
    return MK_OK;
}

// --- arrays --------------------------------------------------------------------------------------

int64_t mk_gguf_arr_len(const mk_gguf *g, const char *key) {
    const mk_gguf_kv *kv = find_kv(g->parts[0], key);
    return kv == NULL || kv->type != MK_GGUF_ARRAY ? 0 : (int64_t)kv->n;
}

mk_gguf_type mk_gguf_arr_type(const mk_gguf *g, const char *key) {
    const mk_gguf_kv *kv = find_kv(g->parts[0], key);
    return kv == NULL || kv->type != MK_GGUF_ARRAY ? MK_GGUF_N_TYPE : kv->elem_type;
}

// The entry of an array that has an element i, and where that element is (arrays of strings have no
// such place).
static mk_status find_element(const mk_gguf *g, const char *key, int64_t i, const char *expected,
                              const mk_gguf_kv **kv, const uint8_t **p, mk_err *err) {
    const mk_gguf_part *part = g->parts[0];
    *kv = find_kv(part, key);
    if (*kv != NULL && ((*kv)->type != MK_GGUF_ARRAY || (*kv)->elem_type == MK_GGUF_STRING)) {
        return wrong_type(part, *kv, expected, err);
    }
    uint64_t n = *kv == NULL ? 0 : (*kv)->n;
    if (i < 0 || (uint64_t)i >= n) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "%s: key '%.64s': expected an array with an element %lld, found %llu elements",
            part->what, key, (long long)i, (unsigned long long)n);
    }
    *p = (*kv)->p + (size_t)i * mk_gguf_type_bytes((*kv)->elem_type);
    return MK_OK;
}

mk_status mk_gguf_arr_i64(const mk_gguf *g, const char *key, int64_t i, int64_t *out, mk_err *err) {
    const mk_gguf_kv *kv = NULL;
    const uint8_t *p = NULL;
    MK_TRY(find_element(g, key, i, "an array of integers", &kv, &p, err));
    if (kv->elem_type == MK_GGUF_BOOL) {
        *out = *p != 0;
        return MK_OK;
    }
    return to_i64(g->parts[0], kv, kv->elem_type, p, "an array of integers", out, err);
}

mk_status mk_gguf_arr_f64(const mk_gguf *g, const char *key, int64_t i, double *out, mk_err *err) {
    const mk_gguf_kv *kv = NULL;
    const uint8_t *p = NULL;
    MK_TRY(find_element(g, key, i, "an array of numbers", &kv, &p, err));
    return to_f64(g->parts[0], kv, kv->elem_type, p, "an array of numbers", out, err);
}

mk_status mk_gguf_arr_strs(const mk_gguf *g, const char *key, mk_gguf_str **out, int64_t *n,
                           mk_err *err) {
    const mk_gguf_part *part = g->parts[0];
    const mk_gguf_kv *kv = find_kv(part, key);
    *out = NULL;
    *n = 0;
    if (kv == NULL) {
        return MK_OK;
    }
    if (kv->type != MK_GGUF_ARRAY || kv->elem_type != MK_GGUF_STRING) {
        return wrong_type(part, kv, "an array of strings", err);
    }
    mk_gguf_str *v = mk_try_alloc((size_t)kv->n + 1,
                                  sizeof *v);  // kv->n was checked: each string has 8 bytes or more
    if (v == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: key '%.64s': no memory for %llu strings", part->what,
                       key, (unsigned long long)kv->n);
    }
    const uint8_t *p = kv->p;
    for (uint64_t i = 0; i < kv->n; i++) {  // lengths were checked while parsing
        size_t len = (size_t)unsigned_at(p, 8);
        v[i] = (mk_gguf_str){(const char *)p + 8, len};
        p += 8 + len;
    }
    *out = v;
    *n = (int64_t)kv->n;
    return MK_OK;
}
