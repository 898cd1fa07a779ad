#include "serve/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { MAX_SHOWN = 60, MAX_POINTER = 200 };

// --- errors --------------------------------------------------------------------------------------

// RFC 6901: ~ is written ~0, / is written ~1.
static void add_pointer(mk_buf *b, const mk_at *at) {
    if (!at) {
        return;
    }
    add_pointer(b, at->up);
    mk_buf_putc(b, '/');
    if (!at->key) {
        mk_buf_printf(b, "%zu", at->index);
        return;
    }
    for (const char *p = at->key; *p && b->len < MAX_POINTER; p++) {
        if (*p == '~' || *p == '/') {
            mk_buf_puts(b, *p == '~' ? "~0" : "~1");
        } else {
            mk_buf_putc(b, *p);
        }
    }
}

mk_status mk_at_fail(const mk_at *at, mk_err *err, mk_status code, const char *fmt, ...) {
    mk_buf b;
    mk_buf_init(&b, 4 * MK_ERR_MSG_MAX);
    add_pointer(&b, at);
    char text[MK_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mk_status st = MK_FAIL(err, code, "%s: %s", b.data && b.len ? b.data : "/", text);
    mk_buf_free(&b);
    return st;
}

mk_status mk_at_expected(const mk_at *at, mk_err *err, const json_t *v, const char *what) {
    if (!v || json_is_object(v) || json_is_array(v)) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected %s, got %s%s", what, v ? "an " : "",
                          mk_json_type_name(v));
    }
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_json_add(&b, v);
    size_t n = b.len;
    if (n > MAX_SHOWN) {  // not in the middle of a character
        n = MAX_SHOWN;
        while (n > 0 && ((unsigned char)b.data[n] & 0xC0) == 0x80) {
            n--;
        }
    }
    mk_status st = mk_at_fail(at, err, MK_EUSAGE, "expected %s, got %.*s%s", what, (int)n,
                              b.data ? b.data : "", n < b.len ? "..." : "");
    mk_buf_free(&b);
    return st;
}

// --- values --------------------------------------------------------------------------------------

mk_status mk_at_text(const mk_at *at, const json_t *v, const char **out, mk_err *err) {
    if (!json_is_string(v)) {
        return mk_at_expected(at, err, v, "a string");
    }
    if (strlen(json_string_value(v)) != json_string_length(v)) {
        return mk_at_fail(at, err, MK_EUSAGE, "the string contains a NUL character");
    }
    *out = json_string_value(v);
    return MK_OK;
}

mk_status mk_at_int(const mk_at *at, const json_t *v, int64_t min, int64_t max, int64_t *out,
                    mk_err *err) {
    int64_t i = json_integer_value(v);
    bool ok = json_is_integer(v);
    if (json_is_real(v)) {
        double d = json_real_value(v);
        ok = fabs(d) <= 9007199254740992.0 && floor(d) == d;
        i = ok ? (int64_t)d : 0;
    }
    if (!ok || i < min || i > max) {
        char what[96];
        (void)snprintf(what, sizeof what, "an integer from %lld to %lld", (long long)min,
                       (long long)max);
        return mk_at_expected(at, err, v, what);
    }
    *out = i;
    return MK_OK;
}

static mk_status read_number(const mk_at *at, const json_t *v, const mk_field *f, void *to,
                             mk_err *err) {
    double d = json_number_value(v);
    if (!json_is_number(v) || !(d >= f->min && d <= f->max)) {
        char what[96];
        (void)snprintf(what, sizeof what, "a number from %g to %g", f->min, f->max);
        return mk_at_expected(at, err, v, what);
    }
    float x = (float)d;
    memcpy(to, &x, sizeof x);
    return MK_OK;
}

static mk_status read_int(const mk_at *at, const json_t *v, const mk_field *f, void *to,
                          mk_err *err) {
    int64_t i;
    MK_TRY(mk_at_int(at, v, (int64_t)f->min, (int64_t)f->max, &i, err));
    if (f->type == MK_F_INT) {
        int n = (int)i;
        memcpy(to, &n, sizeof n);
    } else {
        memcpy(to, &i, sizeof i);
    }
    return MK_OK;
}

static mk_status read_bool(const mk_at *at, const json_t *v, const mk_field *f, void *to,
                           mk_err *err) {
    bool b = json_is_true(v), ok = json_is_boolean(v);
    const char *s = json_string_value(v);
    if (f->type == MK_F_LAX_BOOL && s) {
        b = strcmp(s, "true") == 0;
        ok = b || strcmp(s, "false") == 0;
    }
    if (!ok) {
        return mk_at_expected(at, err, v, "true or false");
    }
    memcpy(to, &b, sizeof b);
    return MK_OK;
}

static mk_status read_text(const mk_at *at, const json_t *v, const mk_field *f, void *to,
                           mk_err *err) {
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    size_t n = strlen(s);
    if (f->max > 0 && ((double)n < f->min || (double)n > f->max)) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected a string of %.0f to %.0f bytes, got %zu",
                          f->min, f->max, n);
    }
    char **out = to;
    mk_free(*out);
    *out = mk_strndup(s, n);
    return MK_OK;
}

static mk_status read_json(const mk_at *at, const json_t *v, const mk_field *f, void *to,
                           mk_err *err) {
    bool object = f->type == MK_F_OBJECT;
    if (object ? !json_is_object(v) : !json_is_array(v)) {
        return mk_at_expected(at, err, v, object ? "an object" : "an array");
    }
    json_t **out = to;
    json_decref(*out);
    *out = json_incref((json_t *)(uintptr_t)v);
    return MK_OK;
}

static mk_status refuse(const mk_at *at, const json_t *v, const mk_field *f, mk_err *err) {
    bool nothing = json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0) ||
                   (json_is_array(v) && json_array_size(v) == 0) ||
                   (json_is_object(v) && json_object_size(v) == 0) ||
                   (json_is_number(v) && json_number_value(v) == f->min);
    return nothing ? MK_OK : mk_at_fail(at, err, MK_EUNSUPPORTED, "is not supported: %s", f->why);
}

static mk_status read_field(const mk_at *at, const json_t *v, const mk_field *f, void *to,
                            mk_err *err) {
    char *into = (char *)to + f->at;
    switch (f->type) {
    case MK_F_BOOL:
    case MK_F_LAX_BOOL:
        return read_bool(at, v, f, into, err);
    case MK_F_INT:
    case MK_F_I64:
        return read_int(at, v, f, into, err);
    case MK_F_F32:
        return read_number(at, v, f, into, err);
    case MK_F_TEXT:
        return read_text(at, v, f, into, err);
    case MK_F_OBJECT:
    case MK_F_ARRAY:
        return read_json(at, v, f, into, err);
    case MK_F_READ:
        return f->read(at, v, to, err);
    case MK_F_REFUSE:
        return refuse(at, v, f, err);
    case MK_F_IGNORE:
        break;
    }
    return MK_OK;
}

// --- objects -------------------------------------------------------------------------------------

static bool has_row(const mk_field_table *t, const char *name) {
    for (size_t i = 0; i < t->n; i++) {
        if (strcmp(t->rows[i].name, name) == 0) {
            return true;
        }
    }
    return t->also && has_row(t->also, name);
}

enum { MAX_UNKNOWN = 64 };

static void collect_unknown(const json_t *obj, const mk_at *at, const mk_field_table *t,
                            json_t **unknown) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v) {
        if (has_row(t, key) || json_is_null(v)) {
            continue;
        }
        *unknown = *unknown ? *unknown : json_array();
        if (json_array_size(*unknown) >= MAX_UNKNOWN) {
            return;
        }
        json_t *name = at && at->key ? json_sprintf("%s.%s", at->key, key) : json_string(key);
        (void)json_array_append_new(*unknown, name);
    }
}

static mk_status read_rows(const json_t *obj, const mk_at *at, const mk_field_table *t, void *to,
                           mk_err *err) {
    for (size_t i = 0; i < t->n; i++) {
        const mk_field *f = &t->rows[i];
        const json_t *v = json_object_get(obj, f->name);
        if (!v || json_is_null(v)) {
            continue;
        }
        MK_TRY(read_field(MK_AT(at, f->name), v, f, to, err));
        if (f->has) {
            *((bool *)((char *)to + f->has)) = true;
        }
    }
    return t->also ? read_rows(obj, at, t->also, to, err) : MK_OK;
}

mk_status mk_fields_read(const json_t *obj, const mk_at *at, const mk_field_table *t, void *to,
                         json_t **unknown, mk_err *err) {
    if (!json_is_object(obj)) {
        return mk_at_expected(at, err, obj, "an object");
    }
    MK_TRY(read_rows(obj, at, t, to, err));
    if (unknown) {
        collect_unknown(obj, at, t, unknown);
    }
    return MK_OK;
}
