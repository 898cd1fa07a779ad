// Arguments of a call: JSON is checked and passed on, XML parameters are written as JSON.
//
// XML says nothing of types, so the tool's schema does: a parameter that can only be a string is
// streamed; every other is kept until its end, and is JSON if it reads as JSON (or as Python's
// True, False, None) of a type that the schema allows, else a string.
#include <string.h>

#include "chat/parse_int.h"

void mk_args_init(mk_args *a, mk_buf *out) {
    *a = (mk_args){.out = out};
    mk_buf_init(&a->value, MK_PARSE_MAX_VALUE);
}

void mk_args_free(mk_args *a) {
    mk_buf_free(&a->value);
}

void mk_args_begin(mk_args *a, const mk_call_syntax *s, mk_args_form form, const json_t *schema) {
    mk_buf *out = a->out, value = a->value;
    *a = (mk_args){.out = out, .value = value, .syntax = s, .schema = schema, .form = form};
    mk_buf_clear(&a->value);
    mk_json_feed_init(&a->json);
    bool typed = s->body == MK_BODY_XML || s->body == MK_BODY_PYTHON;
    if (typed) {
        mk_buf_putc(out, '{');
    } else if (form == MK_ARGS_NONE) {
        mk_buf_puts(out, "{}");
        a->state = MK_ARGS_DONE;
    }
    if (s->body == MK_BODY_PYTHON) {
        a->kind[0] = '{';
        a->depth = 1;
        a->fresh = true;
    }
}

void mk_json_add_escaped(mk_buf *b, const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '"' || c == '\\') {
            mk_buf_putc(b, '\\');
            mk_buf_putc(b, p[i]);
        } else if (c == '\n') {
            mk_buf_puts(b, "\\n");
        } else if (c < 0x20) {
            mk_buf_printf(b, "\\u%04x", c);
        } else {
            mk_buf_putc(b, p[i]);
        }
    }
}

// --- JSON ----------------------------------------------------------------------------------------

static size_t step_object(mk_args *a, mk_view v) {
    for (size_t i = 0; i < v.n; i++) {
        mk_feed_result r = mk_json_feed_byte(&a->json, v.p[i], a->out);
        if (r != MK_FEED_GO) {
            a->state = r == MK_FEED_DONE ? MK_ARGS_DONE : MK_ARGS_BROKEN;
            return r == MK_FEED_DONE ? i + 1 : i;
        }
    }
    return v.n;
}

// One byte of what the string says.
static mk_args_state take_inner(mk_args *a, char ch) {
    if (!a->in_value && mk_is_space(ch)) {
        return MK_ARGS_GO;
    }
    if (!a->in_value && ch != '{') {
        return MK_ARGS_BROKEN;
    }
    a->in_value = true;
    return mk_json_feed_byte(&a->json, ch, a->out) == MK_FEED_BAD ? MK_ARGS_BROKEN : MK_ARGS_GO;
}

// The closing quote: whole arguments, or none at all.
static mk_args_state end_string(mk_args *a) {
    if (!a->in_value) {
        mk_buf_puts(a->out, "{}");
        return MK_ARGS_DONE;
    }
    return mk_json_feed_whole(&a->json) ? MK_ARGS_DONE : MK_ARGS_BROKEN;
}

static size_t step_string(mk_args *a, mk_view v) {
    for (size_t i = 0; i < v.n; i++) {
        char inner[8];
        size_t n = 0;
        if (!a->first) {  // the opening quote
            a->first = true;
            continue;
        }
        mk_feed_result r = mk_json_unescape_byte(&a->text, v.p[i], inner, &n);
        for (size_t k = 0; k < n && a->state == MK_ARGS_GO; k++) {
            a->state = take_inner(a, inner[k]);
        }
        if (r == MK_FEED_BAD) {
            a->state = MK_ARGS_BROKEN;
        } else if (r == MK_FEED_DONE && a->state == MK_ARGS_GO) {
            a->state = end_string(a);
        }
        if (a->state != MK_ARGS_GO) {
            return a->state == MK_ARGS_DONE ? i + 1 : i;
        }
    }
    return v.n;
}

// --- types ---------------------------------------------------------------------------------------
enum {
    T_STRING = 1,
    T_NUMBER = 2,
    T_BOOL = 4,
    T_NULL = 8,
    T_OBJECT = 16,
    T_ARRAY = 32,
    T_INTEGER = 64,  // every number allows it
    T_ANY = 127,
    T_DEPTH = 8,    // of anyOf in anyOf, of references
    T_WALK = 4096,  // schemas looked at for one parameter
};

typedef struct {
    const char *name;
    unsigned bits;
} type_bits;

static unsigned bits_of(const type_bits *t, const char *name) {
    for (; name && t->name; t++) {
        if (strcmp(t->name, name) == 0) {
            return t->bits;
        }
    }
    return 0;
}

static unsigned named_type(const char *name) {
    static const type_bits types[] = {{"string", T_STRING},   {"number", T_NUMBER | T_INTEGER},
                                      {"integer", T_INTEGER}, {"boolean", T_BOOL},
                                      {"null", T_NULL},       {"object", T_OBJECT},
                                      {"array", T_ARRAY},     {NULL, 0}};
    return bits_of(types, name);
}

static unsigned type_of(const json_t *v) {
    return json_is_string(v)    ? T_STRING
           : json_is_number(v)  ? T_NUMBER | T_INTEGER
           : json_is_boolean(v) ? T_BOOL
           : json_is_object(v)  ? T_OBJECT
           : json_is_array(v)   ? T_ARRAY
                                : T_NULL;
}

// Keywords that speak of one type say which one is meant where nothing else does.
static unsigned spoken_of(const json_t *schema) {
    static const type_bits of[] = {{"minLength", T_STRING},
                                   {"maxLength", T_STRING},
                                   {"pattern", T_STRING},
                                   {"format", T_STRING},
                                   {"minimum", T_NUMBER | T_INTEGER},
                                   {"maximum", T_NUMBER | T_INTEGER},
                                   {"properties", T_OBJECT},
                                   {"items", T_ARRAY},
                                   {NULL, 0}};
    unsigned bits = 0;
    for (const type_bits *t = of; t->name; t++) {
        bits |= json_object_get(schema, t->name) ? t->bits : 0;
    }
    return bits ? bits : T_ANY;
}

// What "#/a/b" names; NULL.  Names with "~" or "%" in the reference are not looked for.
static const json_t *referred(const json_t *root, const char *ref) {
    const json_t *v = ref && ref[0] == '#' && !strpbrk(ref, "~%") ? root : NULL;
    const char *p = v ? ref + 1 : NULL;
    while (v && *p == '/') {
        size_t n = strcspn(p + 1, "/");
        v = json_object_getn(v, p + 1, n);
        p += n + 1;
    }
    return v;
}

// References make a small schema stand for a huge one, so that what is looked at has a bound.
typedef struct {
    const json_t *root;
    int n_left;
} type_walk;

static unsigned allowed(type_walk *w, const json_t *schema, int depth);

static unsigned any_of(type_walk *w, const json_t *list, int depth) {
    unsigned bits = 0;
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item) {
        bits |= allowed(w, item, depth + 1);
    }
    return bits ? bits : T_ANY;
}

static unsigned listed(const json_t *schema) {
    const json_t *constant = json_object_get(schema, "const"), *item;
    unsigned bits = constant ? type_of(constant) : 0;
    size_t i;
    json_array_foreach(json_object_get(schema, "enum"), i, item) {
        bits |= type_of(item);
    }
    return bits ? bits : T_ANY;
}

// What the schema of a parameter allows; T_ANY if it does not say.
static unsigned allowed(type_walk *w, const json_t *schema, int depth) {
    const json_t *type = json_object_get(schema, "type"), *item;
    unsigned bits = named_type(json_string_value(type));
    size_t i;
    if (depth > T_DEPTH || !json_is_object(schema) || --w->n_left < 0) {
        return T_ANY;
    }
    json_array_foreach(type, i, item) {
        bits |= named_type(json_string_value(item));
    }
    bits = (bits ? bits : T_ANY) & listed(schema);
    bits &= any_of(w, json_object_get(schema, "anyOf"), depth);
    bits &= any_of(w, json_object_get(schema, "oneOf"), depth);
    const char *ref = json_string_value(json_object_get(schema, "$ref"));
    bits &= allowed(w, referred(w->root, ref), depth + 1);
    json_array_foreach(json_object_get(schema, "allOf"), i, item) {
        bits &= allowed(w, item, depth + 1);
    }
    bits = bits == T_ANY && !type ? spoken_of(schema) : bits;
    bits |= json_is_true(json_object_get(schema, "nullable")) ? T_NULL : 0;
    return bits ? bits : T_ANY;
}

static unsigned allowed_for(const mk_args *a, const char *key, size_t n) {
    const json_t *all = json_object_get(a->schema, "properties");
    type_walk w = {.root = a->schema, .n_left = T_WALK};
    return allowed(&w, json_object_getn(all, key, n), 0);
}

static unsigned type_of_text(const char *p, size_t n) {
    size_t k = mk_count_space(p, n);
    char c = k < n ? p[k] : 0;
    bool whole = !memchr(p, '.', n) && !memchr(p, 'e', n) && !memchr(p, 'E', n);
    return c == '{'               ? T_OBJECT
           : c == '['             ? T_ARRAY
           : c == '"'             ? T_STRING
           : c == 't' || c == 'f' ? T_BOOL
           : c == 'n'             ? T_NULL
           : whole                ? T_INTEGER
                                  : T_NUMBER;
}

static void add_text(mk_args *a, const char *p, size_t n) {
    mk_buf_putc(a->out, '"');
    mk_json_add_escaped(a->out, p, n);
    mk_buf_putc(a->out, '"');
}

// --- XML -----------------------------------------------------------------------------------------

// A list or dictionary that stands as Python writes it (Seed's template does); false: it is none.
static bool add_python(mk_args *a, const char *p, size_t n) {
    static const mk_call_syntax value = {.body = MK_BODY_PYTHON};
    mk_buf out;
    mk_buf_init(&out, (size_t)8 * MK_PARSE_MAX_VALUE);
    mk_args sub = {.out = &out};
    mk_args_begin_value(&sub, &value);
    size_t at = 0, used = 1;
    while (sub.state == MK_ARGS_GO && at < n && used > 0 && !mk_args_value_whole(&sub)) {
        used = mk_args_python(&sub, (mk_view){p + at, n - at, true});
        at += used;
    }
    bool whole = sub.state == MK_ARGS_GO && mk_args_value_whole(&sub) && !out.failed &&
                 at + mk_count_space(p + at, n - at) == n;
    if (whole) {
        mk_buf_add(a->out, out.data, out.len);
    }
    a->out->failed = a->out->failed || out.failed;
    mk_buf_free(&out);
    return whole;
}

// A value that was kept, as JSON.
static void add_value(mk_args *a, unsigned types) {
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    const char *p = a->value.data ? a->value.data : "";
    size_t n = a->value.len;
    for (size_t i = 0; i < 3; i++) {
        bool same = strlen(words[i][0]) == n && memcmp(p, words[i][0], n) == 0;
        if (same && (type_of_text(words[i][1], 1) & types)) {
            mk_buf_puts(a->out, words[i][1]);
            return;
        }
    }
    // a quoted text is a string with quotes where strings are written bare, unless said otherwise
    unsigned type = type_of_text(p, n);
    bool fits = (type & types) && (type != T_STRING || a->as_json);
    // 1.0 where nothing but a whole number may come
    fits = fits || (type == T_NUMBER && (types & T_INTEGER) && !(types & T_STRING));
    bool container = fits && (type & (T_OBJECT | T_ARRAY));
    if ((!fits || !mk_json_is_value(p, n, a->out)) && !(container && add_python(a, p, n))) {
        add_text(a, p, n);
    }
}

static size_t step_key(mk_args *a, mk_view v) {
    const mk_call_syntax *s = a->syntax;
    mk_head h = {.is_string = -1};
    size_t n = 0, space = mk_count_space(v.p, v.n);
    mk_match m = mk_match_tail(v, s, &n);
    if (m == MK_NO && s->close) {  // the end of the call left out
        m = mk_match_text((mk_view){v.p + space, v.n - space, v.last}, s->close);
    }
    if (m == MK_YES) {
        mk_buf_putc(a->out, '}');
        a->state = MK_ARGS_DONE;
        return n;
    }
    size_t limit = v.n < MK_PARSE_MAX_HEAD ? v.n : MK_PARSE_MAX_HEAD;
    mk_match k = mk_match_pattern((mk_view){v.p, limit, v.last || v.n > limit}, s->key, &h);
    if (k != MK_YES) {
        bool wait = (m == MK_MORE || k == MK_MORE) && v.n < MK_PARSE_MAX_HEAD;
        a->state = wait ? MK_ARGS_GO : MK_ARGS_BROKEN;
        return 0;
    }
    unsigned types = allowed_for(a, h.key, h.n_key);
    mk_buf_puts(a->out, a->n_param++ > 0 ? ", \"" : "\"");
    mk_json_add_escaped(a->out, h.key, h.n_key);
    mk_buf_puts(a->out, "\": ");
    a->in_value = a->first = true;
    a->as_json = h.is_string == 0;
    a->as_text = h.is_string == 1 || (h.is_string < 0 && types == T_STRING);
    a->types = a->as_json ? T_ANY : types;
    mk_buf_clear(&a->value);
    if (a->as_text) {
        mk_buf_putc(a->out, '"');
    }
    return h.n;
}

static void keep_value(mk_args *a, const char *p, size_t n) {
    if (a->as_text) {
        mk_json_add_escaped(a->out, p, n);
    } else {
        a->too_long = a->too_long || n > MK_PARSE_MAX_VALUE - a->value.len;
        mk_buf_add(&a->value, p, n);
    }
}

static size_t end_value(mk_args *a, size_t n) {
    if (a->as_text) {
        mk_buf_putc(a->out, '"');
    } else {
        add_value(a, a->types);
    }
    a->in_value = false;
    return n;
}

static size_t step_value(mk_args *a, mk_view v) {
    const mk_call_syntax *s = a->syntax;
    size_t i = 0;
    if (v.n > 0 && a->first) {
        a->first = false;
        i = s->lines && v.p[0] == '\n';
    }
    size_t done = i;
    for (; i < v.n; i++) {
        size_t at = i + (s->lines && v.p[i] == '\n');
        mk_match m = mk_match_text((mk_view){v.p + at, v.n - at, v.last}, s->end_value);
        if (m == MK_YES) {
            keep_value(a, v.p + done, i - done);
            return end_value(a, at + strlen(s->end_value));
        }
        if (m == MK_MORE) {
            break;
        }
    }
    keep_value(a, v.p + done, i - done);
    return i;
}

size_t mk_args_xml(mk_args *a, mk_view v) {
    return a->in_value ? step_value(a, v) : step_key(a, v);
}

size_t mk_args_step(mk_args *a, mk_view v) {
    switch (a->syntax->body) {
    case MK_BODY_XML:
        return mk_args_xml(a, v);
    case MK_BODY_PYTHON:
        return mk_args_python(a, v);
    default:
        return a->form == MK_ARGS_STRING ? step_string(a, v) : step_object(a, v);
    }
}
