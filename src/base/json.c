// jansson does the parsing; a scan before it enforces what jansson cannot: our depth, a bound on
// the number of containers (an empty object of 2 bytes costs some 200 in memory), and integers
// beyond 64 bits, which Python writes without a thought ("model_max_length":
// 1000000000000000019884624838656) and jansson refuses.  Those become reals.
#include "base/json.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "base/file.h"

// Far above any real tokenizer.json (200,000 objects, 500,000 pairs of merges).
enum { MAX_CONTAINERS = 1 << 22, MAX_OBJECTS = 1 << 20 };

typedef struct {
    const char *text;
    size_t n, at;
    const char *what;
    int depth;
    int64_t n_container, n_object;
    mk_buf copy;    // the rewritten text, only when a number had to be rewritten
    size_t copied;  // bytes of text already in copy
} scan;

// jansson's lexer (2.14) takes no notice when its buffer cannot grow, and then reads and writes
// past its end.  So what a text may take is tried before it is parsed, and who is refused after all
// ends the program, as for bookkeeping.
static _Thread_local bool parsing;

static void *take(size_t n) {
    return parsing ? mk_alloc(n) : mk_try_alloc(n, 1);
}

void mk_json_use_alloc(void) {
    json_set_alloc_funcs(take, mk_free);
}

static size_t line_of(const char *text, size_t at) {
    size_t line = 1;
    for (size_t i = 0; i < at; i++) {
        line += text[i] == '\n';
    }
    return line;
}

static void skip_string(scan *s) {
    s->at++;
    while (s->at < s->n && s->text[s->at] != '"') {
        s->at += s->text[s->at] == '\\' ? 2 : 1;
    }
    s->at += s->at < s->n;
    s->at = s->at < s->n ? s->at : s->n;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// true for an integer literal outside of int64.
static bool too_wide(const char *digits, size_t n, bool negative) {
    const char *limit = negative ? "9223372036854775808" : "9223372036854775807";
    return n > 19 || (n == 19 && memcmp(digits, limit, 19) > 0);
}

static void scan_number(scan *s) {
    bool negative = s->text[s->at] == '-';
    size_t start = s->at + negative, end = start;
    while (end < s->n && is_digit(s->text[end])) {
        end++;
    }
    bool real = end < s->n && (s->text[end] == '.' || s->text[end] == 'e' || s->text[end] == 'E');
    if (!real && too_wide(s->text + start, end - start, negative)) {
        mk_buf_add(&s->copy, s->text + s->copied, end - s->copied);
        mk_buf_puts(&s->copy, ".0");
        s->copied = end;
    }
    while (real && end < s->n && (is_digit(s->text[end]) || strchr(".eE+-", s->text[end]))) {
        if (s->text[end] == '\0') {
            break;
        }
        end++;
    }
    s->at = end;
}

static mk_status open_container(scan *s, bool object, mk_err *err) {
    s->at++;
    s->n_container++;
    s->n_object += object;
    if (++s->depth > MK_JSON_MAX_DEPTH) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: line %zu: nested deeper than %d levels", s->what,
                       line_of(s->text, s->at), MK_JSON_MAX_DEPTH);
    }
    if (s->n_container > MAX_CONTAINERS || s->n_object > MAX_OBJECTS) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: more than %d arrays and objects (or %d objects)",
                       s->what, MAX_CONTAINERS, MAX_OBJECTS);
    }
    return MK_OK;
}

static mk_status scan_text(scan *s, mk_err *err) {
    while (s->at < s->n) {
        char c = s->text[s->at];
        if (c == '"') {
            skip_string(s);
        } else if (c == '{' || c == '[') {
            MK_TRY(open_container(s, c == '{', err));
        } else if (c == '-' || is_digit(c)) {
            scan_number(s);
        } else {
            s->depth -= c == '}' || c == ']';
            s->at++;
        }
    }
    return MK_OK;
}

// Values in memory, with room to spare: a text is held twice while it is read.
static bool has_room(const scan *s) {
    enum { PER_BYTE = 4, PER_CONTAINER = 128, PER_OBJECT = 512 };
    size_t n = 0;
    void *p = mk_mul_size(s->n, PER_BYTE, &n) &&
                      mk_add_size(n, (size_t)s->n_container * PER_CONTAINER, &n) &&
                      mk_add_size(n, (size_t)s->n_object * PER_OBJECT, &n)
                  ? mk_try_alloc(n, 1)
                  : NULL;
    mk_free(p);
    return p != NULL;
}

static mk_status parse_scanned(scan *s, json_t **out, mk_err *err) {
    const char *text = s->text;
    size_t n = s->n;
    if (s->copied > 0) {
        mk_buf_add(&s->copy, s->text + s->copied, s->n - s->copied);
        text = s->copy.data;
        n = s->copy.len;
    }
    if (s->copy.failed || !has_room(s)) {
        return MK_FAIL(err, MK_ENOMEM, "%s: not enough memory to parse %zu bytes", s->what, s->n);
    }
    json_error_t je = {0};
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL;
    parsing = true;
    json_t *v = json_loadb(text, n, flags, &je);
    parsing = false;
    if (!v && (json_error_code(&je) == json_error_out_of_memory || je.text[0] == '\0')) {
        return MK_FAIL(err, MK_ENOMEM, "%s: not enough memory to parse %zu bytes", s->what, s->n);
    }
    if (!v) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: line %d column %d: not valid JSON: %s", s->what,
                       je.line, je.column, je.text);
    }
    *out = v;
    return MK_OK;
}

mk_status mk_json_parse(const char *text, size_t n, const char *what, json_t **out, mk_err *err) {
    *out = NULL;
    // UTF-8 byte order mark: not JSON, but Windows editors write it
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        n -= 3;
    }
    scan s = {.text = text, .n = n, .what = what};
    mk_buf_init(&s.copy, SIZE_MAX - 1);
    mk_status st = scan_text(&s, err);
    if (st == MK_OK) {
        st = parse_scanned(&s, out, err);
    }
    mk_buf_free(&s.copy);
    return st;
}

mk_status mk_json_file(const char *path, size_t max_bytes, json_t **out, mk_err *err) {
    *out = NULL;
    char *text;
    size_t n;
    MK_TRY(mk_file_read(path, max_bytes, &text, &n, err));
    mk_status st = mk_json_parse(text, n, path, out, err);
    mk_free(text);
    return st;
}

// --- getters -------------------------------------------------------------------------------------

const char *mk_json_type_name(const json_t *v) {
    static const char *const names[] = {
        [JSON_OBJECT] = "object",   [JSON_ARRAY] = "array", [JSON_STRING] = "string",
        [JSON_INTEGER] = "integer", [JSON_REAL] = "number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",     [JSON_NULL] = "null",
    };
    return v ? names[json_typeof(v)] : "nothing";
}

// The value behind key, NULL when it is missing or null.
static const json_t *field(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

static mk_status wrong_type(const char *key, const char *expected, const json_t *v, mk_err *err) {
    return MK_FAIL(err, MK_ECORRUPT, "\"%s\": expected %s, got %s", key, expected,
                   mk_json_type_name(v));
}

mk_status mk_json_get_i64(const json_t *obj, const char *key, int64_t min, int64_t max,
                          int64_t *out, mk_err *err) {
    const json_t *v = field(obj, key);
    if (!v) {
        return MK_OK;
    }
    if (!json_is_integer(v)) {
        return wrong_type(key, "an integer", v, err);
    }
    int64_t i = json_integer_value(v);
    if (i < min || i > max) {
        return MK_FAIL(err, MK_ECORRUPT, "\"%s\": expected %lld to %lld, got %lld", key,
                       (long long)min, (long long)max, (long long)i);
    }
    *out = i;
    return MK_OK;
}

mk_status mk_json_get_f64(const json_t *obj, const char *key, double *out, mk_err *err) {
    const json_t *v = field(obj, key);
    if (!v) {
        return MK_OK;
    }
    if (!json_is_number(v)) {
        return wrong_type(key, "a number", v, err);
    }
    *out = json_number_value(v);
    return MK_OK;
}

mk_status mk_json_get_bool(const json_t *obj, const char *key, bool *out, mk_err *err) {
    const json_t *v = field(obj, key);
    if (!v) {
        return MK_OK;
    }
    if (!json_is_boolean(v)) {
        return wrong_type(key, "true or false", v, err);
    }
    *out = json_is_true(v);
    return MK_OK;
}

mk_status mk_json_get_str(const json_t *obj, const char *key, const char **out, mk_err *err) {
    const json_t *v = field(obj, key);
    if (!v) {
        return MK_OK;
    }
    if (!json_is_string(v)) {
        return wrong_type(key, "a string", v, err);
    }
    if (strlen(json_string_value(v)) != json_string_length(v)) {
        return MK_FAIL(err, MK_ECORRUPT, "\"%s\": the string contains a NUL character", key);
    }
    *out = json_string_value(v);
    return MK_OK;
}

static int add_part(const char *p, size_t n, void *arg) {
    mk_buf_add(arg, p, n);
    return 0;
}

void mk_json_add(mk_buf *b, const json_t *v) {
    const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9);
    b->failed = (json_dump_callback(v, add_part, b, flags) != 0 && v) || b->failed;
}

json_t *mk_json_text(const char *p, size_t n) {
    if (mk_utf8_valid(p, n)) {
        return json_stringn(p, n);
    }
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = mk_utf8_decode(p + i, n - i, &cp);
        mk_buf_utf8(&b, cp);
        i += len > 0 ? (size_t)len : 1;
    }
    json_t *v = b.failed ? NULL : json_stringn(b.data, b.len);
    mk_buf_free(&b);
    return v;
}
