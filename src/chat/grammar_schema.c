// JSON schema as a grammar: references, alternatives, types.
//
// The grammar allows a subset of what the schema allows (properties come in the schema's order,
// white space is bounded, ...) and nothing that the schema forbids.  A keyword that cannot be
// enforced is refused with its JSON pointer.
//
// A schema whose keywords meet others (allOf, anyOf beside properties, $ref with siblings) is
// merged with them into one first (grammar_schema_merge.c).
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/ascii.h"
#include "base/json.h"
#include "chat/grammar_int.h"

enum { MAX_REFS = 1 << 16, MAX_CHAIN = 64 };

void mk_gschema_fail(mk_gschema *c, mk_status code, const char *key, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    size_t before = key != NULL ? mk_gschema_enter(c, key) : c->path.len;
    MK_GB_FAIL(c->b, code, "%.400s: %s", c->path.len > 0 ? c->path.data : "/", text);
    mk_gschema_leave(c, before);
}

size_t mk_gschema_enter(mk_gschema *c, const char *key) {
    size_t before = c->path.len;
    mk_buf_putc(&c->path, '/');
    for (; *key != '\0'; key++) {  // RFC 6901
        if (*key == '~') {
            mk_buf_puts(&c->path, "~0");
        } else if (*key == '/') {
            mk_buf_puts(&c->path, "~1");
        } else {
            mk_buf_putc(&c->path, *key);
        }
    }
    return before;
}

void mk_gschema_leave(mk_gschema *c, size_t before) {
    if (before < c->path.len) {
        c->path.len = before;
        c->path.data[before] = '\0';
    }
}

bool mk_gschema_count(mk_gschema *c, const json_t *schema, const char *key, uint32_t fallback,
                      uint32_t *out) {
    const json_t *v = json_object_get(schema, key);
    *out = fallback;
    if (v == NULL) {
        return true;
    }
    double x = json_number_value(v);
    x = x > MK_G_MAX_REPEAT ? MK_G_MAX_REPEAT : x;
    if (!json_is_number(v) || !(x >= 0) || x != (double)(uint32_t)x) {
        MK_GS_FAIL(c, MK_EUSAGE, key, "expected a count, found %s", mk_json_type_name(v));
        return false;
    }
    *out = (uint32_t)x;
    return true;
}

// --- references ----------------------------------------------------------------------------------
// One part of a pointer, decoded: %XX, ~0, ~1.
static void decode_part(const char *p, size_t n, mk_buf *out) {
    mk_buf_clear(out);
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '%' && i + 2 < n && mk_hex_digit(p[i + 1]) >= 0 &&
            mk_hex_digit(p[i + 2]) >= 0) {
            mk_buf_putc(out, (char)(mk_hex_digit(p[i + 1]) * 16 + mk_hex_digit(p[i + 2])));
            i += 2;
        } else if (p[i] == '~' && i + 1 < n && (p[i + 1] == '0' || p[i + 1] == '1')) {
            mk_buf_putc(out, p[++i] == '0' ? '~' : '/');
        } else {
            mk_buf_putc(out, p[i]);
        }
    }
    mk_buf_puts(out, "");
}

static const json_t *child(const json_t *v, const char *key) {
    if (json_is_object(v)) {
        return json_object_get(v, key);
    }
    size_t i = 0, n = strlen(key);
    for (size_t k = 0; k < n; k++) {
        if (key[k] < '0' || key[k] > '9' || n > 9) {
            return NULL;
        }
        i = i * 10 + (size_t)(key[k] - '0');
    }
    return n > 0 && json_is_array(v) ? json_array_get(v, i) : NULL;
}

const json_t *mk_gschema_find(mk_gschema *c, const char *ref, char **pointer) {
    const json_t *v = c->root;
    if (ref[0] != '#' || (ref[1] != '\0' && ref[1] != '/')) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "$ref", "only references inside of the schema (#/...)");
        return NULL;
    }
    mk_buf part, where;
    mk_buf_init(&part, strlen(ref) + 64);
    mk_buf_init(&where, 2 * strlen(ref) + 64);
    mk_buf_puts(&where, ref + 1);
    for (const char *p = ref + 1; *p == '/' && v != NULL;) {
        size_t n = strcspn(p + 1, "/");
        decode_part(p + 1, n, &part);
        v = child(v, part.data != NULL ? part.data : "");
        p += n + 1;
    }
    bool failed = part.failed || where.failed;
    mk_buf_free(&part);
    *pointer = mk_buf_detach(&where);
    if (failed || *pointer == NULL) {
        mk_free(*pointer);
        MK_GB_FAIL(c->b, MK_ENOMEM, "no memory for a reference");
        return NULL;
    }
    if (v == NULL) {
        MK_GS_FAIL(c, MK_EUSAGE, "$ref", "nothing is at %.200s", ref);
        mk_free(*pointer);
    }
    return v;
}

// A call of the rule for the target, which is made once and compiled later.
static mk_gn call_ref(mk_gschema *c, const char *ref) {
    char *pointer;
    const json_t *target = mk_gschema_find(c, ref, &pointer);
    if (target == NULL) {
        return MK_GN_EMPTY;
    }
    size_t i = 0;
    while (i < c->n_ref && c->ref[i].schema != target) {
        i++;
    }
    mk_gb_work(c->b, i / 16 + 1);
    if (i < c->n_ref) {
        mk_free(pointer);
        return mk_gb_call(c->b, c->ref[i].rule);
    }
    if (i >= MAX_REFS || !mk_g_grow((void **)&c->ref, &c->cap_ref, i, sizeof(*c->ref))) {
        mk_free(pointer);
        MK_GB_FAIL(c->b, MK_ELIMIT, "too many references");
        return MK_GN_EMPTY;
    }
    c->ref[i] = (mk_gref){target, pointer, mk_gb_rule(c->b, *pointer != '\0' ? pointer : "/")};
    c->n_ref++;
    return mk_gb_call(c->b, c->ref[i].rule);
}

// A schema that is nothing but a reference, replaced by what it names; NULL after a failure.
static const json_t *follow(mk_gschema *c, const json_t *schema) {
    for (int i = 0; json_is_string(json_object_get(schema, "$ref")); i++) {
        char *pointer;
        const char *ref = json_string_value(json_object_get(schema, "$ref"));
        const json_t *rest = mk_gschema_without(c, schema, "$ref");
        const json_t *target = i < MAX_CHAIN ? mk_gschema_find(c, ref, &pointer) : NULL;
        if (i == MAX_CHAIN) {
            MK_GS_FAIL(c, MK_EUNSUPPORTED, "$ref", "references that lead to each other");
        }
        if (target == NULL || rest == NULL) {
            return NULL;
        }
        mk_free(pointer);
        if (!mk_gschema_constrains(rest)) {
            schema = target;
        } else if ((schema = mk_gschema_merge(c, rest, target)) == NULL) {
            return NULL;
        }
    }
    return schema;
}

// --- alternatives and combinations ---------------------------------------------------------------
static mk_gn compile_any(mk_gschema *c, const json_t *schema, const char *key) {
    const json_t *list = json_object_get(schema, key), *rest = mk_gschema_without(c, schema, key);
    mk_gnlist out = {0};
    if (!json_is_array(list) || json_array_size(list) == 0 || rest == NULL) {
        MK_GS_FAIL(c, MK_EUSAGE, key, "expected an array of schemas");
        return MK_GN_EMPTY;
    }
    bool alone = !mk_gschema_constrains(rest);
    size_t at = mk_gschema_enter(c, key);
    for (size_t i = 0; i < json_array_size(list) && c->b->status == MK_OK; i++) {
        char index[24];
        snprintf(index, sizeof(index), "%zu", i);
        size_t before = mk_gschema_enter(c, index);
        const json_t *branch = json_array_get(list, i);
        if (!alone && !json_is_boolean(branch) && mk_gschema_check(c, branch)) {
            branch = follow(c, branch);
            branch = branch == NULL ? NULL : mk_gschema_merge(c, rest, branch);
        } else if (!alone && json_is_true(branch)) {
            branch = rest;
        }
        if (branch != NULL && c->b->status == MK_OK) {
            mk_gnlist_add(c->b, &out, mk_gschema_compile(c, branch));
        }
        mk_gschema_leave(c, before);
    }
    mk_gschema_leave(c, at);
    return mk_gnlist_alt(c->b, &out);
}

// The schema with what stands in its allOf; NULL: nothing holds in it, or a failure.
static const json_t *merge_all(mk_gschema *c, const json_t *schema) {
    const json_t *list = json_object_get(schema, "allOf");
    const json_t *sum = mk_gschema_without(c, schema, "allOf");
    if (!json_is_array(list)) {
        MK_GS_FAIL(c, MK_EUSAGE, "allOf", "expected an array of schemas");
        return NULL;
    }
    size_t at = mk_gschema_enter(c, "allOf");
    for (size_t i = 0; i < json_array_size(list) && sum != NULL && c->b->status == MK_OK; i++) {
        char index[24];
        snprintf(index, sizeof(index), "%zu", i);
        size_t before = mk_gschema_enter(c, index);
        const json_t *part = json_array_get(list, i);
        if (json_is_false(part)) {
            mk_gschema_leave(c, before);
            mk_gschema_leave(c, at);
            return NULL;
        }
        if (!json_is_true(part) && mk_gschema_check(c, part)) {
            part = follow(c, part);
            sum = part == NULL ? NULL : mk_gschema_merge(c, sum, part);
        }
        mk_gschema_leave(c, before);
    }
    mk_gschema_leave(c, at);
    return sum;
}

static mk_gn compile_all(mk_gschema *c, const json_t *schema) {
    const json_t *sum = merge_all(c, schema);
    return c->b->status != MK_OK ? MK_GN_EMPTY
           : sum == NULL         ? MK_GN_NONE
                                 : mk_gschema_compile(c, sum);
}

const json_t *mk_gschema_flat(mk_gschema *c, const json_t *schema) {
    for (int i = 0; i < MAX_CHAIN && c->b->status == MK_OK; i++) {
        if (!json_is_object(schema)) {
            MK_GS_FAIL(c, MK_EUSAGE, NULL, "expected an object, found %s",
                       mk_json_type_name(schema));
        }
        if (c->b->status != MK_OK || !mk_gschema_check(c, schema)) {
            return NULL;
        }
        bool ref = json_is_string(json_object_get(schema, "$ref"));
        if (!ref && json_object_get(schema, "allOf") == NULL) {
            return schema;
        }
        schema = ref ? follow(c, schema) : merge_all(c, schema);
        if (schema == NULL) {
            MK_GS_FAIL(c, MK_EUSAGE, ref ? "$ref" : "allOf", "no value can follow it");
        }
    }
    MK_GS_FAIL(c, MK_EUNSUPPORTED, "allOf", "nested this deep");
    return NULL;
}

// --- values --------------------------------------------------------------------------------------
enum {
    T_NULL = 1,
    T_BOOL = 2,
    T_INTEGER = 4,
    T_NUMBER = 8,
    T_STRING = 16,
    T_ARRAY = 32,
    T_OBJECT = 64,
    T_ALL = 127 - T_INTEGER
};

static const struct {
    const char *name;
    int type;
} type_names[] = {{"null", T_NULL},     {"boolean", T_BOOL},  {"integer", T_INTEGER},
                  {"number", T_NUMBER}, {"string", T_STRING}, {"array", T_ARRAY},
                  {"object", T_OBJECT}};

static int type_of_name(mk_gschema *c, const json_t *name) {
    for (size_t i = 0; i < sizeof(type_names) / sizeof(type_names[0]); i++) {
        if (json_is_string(name) && strcmp(json_string_value(name), type_names[i].name) == 0) {
            return type_names[i].type;
        }
    }
    MK_GS_FAIL(c, MK_EUSAGE, "type", "unknown type");
    return 0;
}

// Types that keywords of one type speak of.
static int spoken_of(const json_t *schema) {
    static const struct {
        const char *key;
        int type;
    } of[] = {{"properties", T_OBJECT},
              {"required", T_OBJECT},
              {"additionalProperties", T_OBJECT},
              {"patternProperties", T_OBJECT},
              {"propertyNames", T_OBJECT},
              {"minProperties", T_OBJECT},
              {"maxProperties", T_OBJECT},
              {"items", T_ARRAY},
              {"prefixItems", T_ARRAY},
              {"additionalItems", T_ARRAY},
              {"minItems", T_ARRAY},
              {"maxItems", T_ARRAY},
              {"minLength", T_STRING},
              {"maxLength", T_STRING},
              {"pattern", T_STRING},
              {"format", T_STRING},
              {"minimum", T_NUMBER},
              {"maximum", T_NUMBER},
              {"exclusiveMinimum", T_NUMBER},
              {"exclusiveMaximum", T_NUMBER},
              {"multipleOf", T_NUMBER}};
    int types = 0;
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        types |= json_object_get(schema, of[i].key) != NULL ? of[i].type : 0;
    }
    return types;
}

// Without "type" they say which one is meant.
static int implied_types(const json_t *schema) {
    int types = spoken_of(schema);
    return types != 0 ? types : T_ALL;
}

static int types_of(mk_gschema *c, const json_t *schema) {
    const json_t *type = json_object_get(schema, "type");
    int types = 0;
    if (type == NULL) {
        types = implied_types(schema);
    } else if (json_is_array(type)) {
        for (size_t i = 0; i < json_array_size(type); i++) {
            types |= type_of_name(c, json_array_get(type, i));
        }
    } else {
        types = type_of_name(c, type);
    }
    if (json_is_true(json_object_get(schema, "nullable"))) {
        types |= T_NULL;
    }
    return (types & T_NUMBER) != 0 ? types & ~T_INTEGER : types;
}

static bool has_type(const json_t *v, int types) {
    switch (json_typeof(v)) {
    case JSON_NULL:
        return (types & T_NULL) != 0;
    case JSON_TRUE:
    case JSON_FALSE:
        return (types & T_BOOL) != 0;
    case JSON_INTEGER:
        return (types & (T_NUMBER | T_INTEGER)) != 0;
    case JSON_REAL: {
        double x = json_real_value(v);
        return (types & T_NUMBER) != 0 ||
               ((types & T_INTEGER) != 0 && x > -1e15 && x < 1e15 && x == (double)(int64_t)x);
    }
    case JSON_STRING:
        return (types & T_STRING) != 0;
    case JSON_ARRAY:
        return (types & T_ARRAY) != 0;
    default:
        return (types & T_OBJECT) != 0;
    }
}

static bool listed(const json_t *list, const json_t *v) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (json_equal(json_array_get(list, i), v)) {
            return true;
        }
    }
    return false;
}

// --- texts and all else apart --------------------------------------------------------------------
static void begins_with(mk_gschema *c, const char *chars) {
    for (; *chars != '\0'; chars++) {
        c->bound.bit[(uint8_t)*chars / 64] |= UINT64_C(1) << ((uint8_t)*chars % 64);
    }
}

// Values of these types have to follow more than their type.
static void bind(mk_gschema *c, int types) {
    begins_with(c, (types & T_NULL) != 0 ? "nN" : "");
    begins_with(c, (types & T_BOOL) != 0 ? "tfTF" : "");
    begins_with(c, (types & (T_NUMBER | T_INTEGER)) != 0 ? "-0123456789" : "");
    begins_with(c, (types & T_ARRAY) != 0 ? "[" : "");
    begins_with(c, (types & T_OBJECT) != 0 ? "{" : "");
}

static int type_of_value(const json_t *v) {
    int t = T_NULL;
    while (t < T_STRING && !has_type(v, t)) {
        t *= 2;
    }
    return json_is_array(v) ? T_ARRAY : json_is_object(v) ? T_OBJECT : t;
}

// Would a reader take this text for a value that is bound?
static bool reads_otherwise(const mk_gschema *c, const char *text) {
    while (*text == ' ' || *text == '\n' || *text == '\t' || *text == '\r') {
        text++;
    }
    return (c->bound.bit[(uint8_t)*text / 64] >> ((uint8_t)*text % 64) & 1) != 0;
}

static mk_gn bare_literal(mk_gschema *c, const json_t *value) {
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    if (memmem(text, n, c->b->how.avoid, strlen(c->b->how.avoid)) != NULL) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "enum", "\"%.60s\" ends a parameter with this model", text);
    } else if (reads_otherwise(c, text)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "enum",
                   "the text \"%.60s\" beside values that it cannot be told from, since this model "
                   "writes no quotes",
                   text);
    }
    return mk_gb_bytes(c->b, text, n);
}

// One value of an enumeration; MK_GN_NONE if it is not of the part in hand.
static mk_gn literal(mk_gschema *c, const json_t *value) {
    bool text = json_is_string(value);
    if (c->part == MK_GS_ALL) {
        return mk_gb_json_literal(c->b, value);
    }
    if (text != (c->part == MK_GS_TEXTS)) {
        return MK_GN_NONE;
    }
    if (text) {
        return bare_literal(c, value);
    }
    bind(c, type_of_value(value));
    bool word = json_is_boolean(value) || json_is_null(value);
    const char *name = json_is_null(value) ? "null" : json_is_true(value) ? "true" : "false";
    const char *python = json_is_null(value) ? "None" : json_is_true(value) ? "True" : "False";
    return word ? mk_gb_alt2(c->b, mk_gb_text(c->b, name), mk_gb_text(c->b, python))
                : mk_gb_json_literal(c->b, value);
}

static mk_gn word(mk_gschema *c, const char *name, const char *python) {
    mk_gn x = mk_gb_json_word(c->b, name);
    return c->part == MK_GS_OTHERS ? mk_gb_alt2(c->b, x, mk_gb_text(c->b, python)) : x;
}

static mk_gn any_value(mk_gschema *c) {
    switch (c->part) {
    case MK_GS_TEXTS:
        return mk_gschema_string(c, json_true());
    case MK_GS_OTHERS:
        return mk_gb_alt(c->b,
                         (mk_gn[]){mk_gb_json_other(c->b), mk_gb_text(c->b, "True"),
                                   mk_gb_text(c->b, "False"), mk_gb_text(c->b, "None")},
                         4);
    default:
        return mk_gb_json_any(c->b);
    }
}

// --- values --------------------------------------------------------------------------------------
// const and enum, with "type" and each other but with nothing else.
static mk_gn compile_values(mk_gschema *c, const json_t *schema) {
    const json_t *list = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    bool typed = json_object_get(schema, "type") != NULL;
    int types = typed ? types_of(c, schema) : T_ALL;
    mk_gnlist out = {0};
    if (list != NULL && !json_is_array(list)) {
        MK_GS_FAIL(c, MK_EUSAGE, "enum", "expected an array of values");
        return MK_GN_EMPTY;
    }
    if (implied_types(schema) != T_ALL && !(json_object_get(schema, "format") != NULL)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, list != NULL ? "enum" : "const",
                   "together with keywords other than type");
        return MK_GN_EMPTY;
    }
    if (one != NULL) {
        bool ok = has_type(one, types) && (list == NULL || listed(list, one));
        return ok ? literal(c, one) : MK_GN_NONE;
    }
    for (size_t i = 0; i < json_array_size(list) && c->b->status == MK_OK; i++) {
        if (has_type(json_array_get(list, i), types)) {
            mk_gn x = literal(c, json_array_get(list, i));
            if (x != MK_GN_NONE) {
                mk_gnlist_add(c->b, &out, x);
            }
        }
    }
    return mk_gnlist_alt(c->b, &out);
}

// An array, object or number, whose parts are written as everywhere.
static mk_gn compile_whole(mk_gschema *c, const json_t *schema, int type) {
    mk_gs_part part = c->part;
    c->part = MK_GS_ALL;
    mk_gn x = type == T_ARRAY    ? mk_gschema_array(c, schema)
              : type == T_OBJECT ? mk_gschema_object(c, schema)
                                 : mk_gschema_number(c, schema, type == T_INTEGER);
    c->part = part;
    return x;
}

static mk_gn compile_types(mk_gschema *c, const json_t *schema) {
    int types = types_of(c, schema);
    mk_gnlist out = {0};
    if (types == T_ALL && !mk_gschema_constrains(schema)) {
        return any_value(c);
    }
    types &= c->part == MK_GS_TEXTS    ? T_STRING
             : c->part == MK_GS_OTHERS ? ~T_STRING
                                       : T_ALL | T_INTEGER;
    if (c->part == MK_GS_OTHERS) {
        int spoken = spoken_of(schema);  // keywords of numbers speak of integers, too
        bind(c, types & (spoken | ((spoken & T_NUMBER) != 0 ? T_INTEGER : 0)));
    }
    for (int t = 1; t <= T_OBJECT && c->b->status == MK_OK; t *= 2) {
        mk_gn x = MK_GN_NONE;
        switch (types & t) {
        case T_NULL:
            x = word(c, "null", "None");
            break;
        case T_BOOL:
            x = mk_gb_alt2(c->b, word(c, "true", "True"), word(c, "false", "False"));
            break;
        case T_STRING:
            x = mk_gschema_string(c, schema);
            break;
        case 0:
            continue;
        default:
            x = compile_whole(c, schema, t);
            break;
        }
        mk_gnlist_add(c->b, &out, x);
    }
    return mk_gnlist_alt(c->b, &out);
}

static mk_gn compile_object(mk_gschema *c, const json_t *schema) {
    const json_t *ref = json_object_get(schema, "$ref");
    if (ref != NULL && !json_is_string(ref)) {
        MK_GS_FAIL(c, MK_EUSAGE, "$ref", "expected a string");
        return MK_GN_EMPTY;
    }
    if (ref != NULL) {
        const json_t *rest = mk_gschema_without(c, schema, "$ref");
        if (c->part == MK_GS_ALL && (rest == NULL || !mk_gschema_constrains(rest))) {
            return call_ref(c, json_string_value(ref));
        }
        const json_t *merged = follow(c, schema);
        return merged == NULL ? MK_GN_EMPTY : mk_gschema_compile(c, merged);
    }
    // allOf last: what merging two anyOfs leaves over waits there (mk_gschema_merge)
    if (json_object_get(schema, "anyOf") != NULL) {
        return compile_any(c, schema, "anyOf");
    }
    if (json_object_get(schema, "oneOf") != NULL) {
        return compile_any(c, schema, "oneOf");
    }
    if (json_object_get(schema, "allOf") != NULL) {
        return compile_all(c, schema);
    }
    if (json_object_get(schema, "enum") != NULL || json_object_get(schema, "const") != NULL) {
        return compile_values(c, schema);
    }
    return compile_types(c, schema);
}

mk_gn mk_gschema_compile(mk_gschema *c, const json_t *schema) {
    if (json_is_boolean(schema)) {
        return json_is_true(schema) ? any_value(c) : MK_GN_NONE;
    }
    if (!json_is_object(schema)) {
        MK_GS_FAIL(c, MK_EUSAGE, NULL, "expected a schema, found %s", mk_json_type_name(schema));
        return MK_GN_EMPTY;
    }
    if (c->depth >= MK_G_MAX_DEPTH) {
        MK_GS_FAIL(c, MK_ELIMIT, NULL, "schemas are nested more than %d deep", MK_G_MAX_DEPTH);
        return MK_GN_EMPTY;
    }
    if (!mk_gb_work(c->b, 8) || !mk_gschema_check(c, schema)) {
        return MK_GN_EMPTY;
    }
    c->depth++;
    mk_gn x = compile_object(c, schema);
    c->depth--;
    return x;
}

void mk_gschema_init(mk_gschema *c, mk_gb *b, const json_t *root) {
    *c = (mk_gschema){.b = b, .root = root, .made = json_array()};
    c->string_type = json_pack("{s:s}", "type", "string");
    mk_buf_init(&c->path, 1 << 20);
}

void mk_gschema_finish(mk_gschema *c) {
    for (; c->n_ref_done < c->n_ref && c->b->status == MK_OK; c->n_ref_done++) {
        mk_gref r = c->ref[c->n_ref_done];
        mk_buf_clear(&c->path);
        mk_buf_puts(&c->path, r.pointer);
        mk_gn x = mk_gschema_compile(c, r.schema);
        mk_gb_rule_set(c->b, r.rule, x);
    }
    for (size_t i = 0; i < c->n_ref; i++) {
        mk_free(c->ref[i].pointer);
    }
    mk_free(c->ref);
    mk_buf_free(&c->path);
    json_decref(c->string_type);
    json_decref(c->made);
}

mk_gn mk_gb_schema(mk_gb *b, const json_t *schema) {
    mk_gschema c;
    mk_gschema_init(&c, b, schema);
    mk_gn out = mk_gschema_compile(&c, schema);
    mk_gschema_finish(&c);
    return out;
}

// --- whole answers -------------------------------------------------------------------------------
mk_status mk_grammar_from_schema(const json_t *schema, const mk_grammar_limits *limits,
                                 mk_grammar **out, mk_err *err) {
    mk_gb b;
    mk_gb_init(&b, limits, err);
    mk_gn x = mk_gb_schema(&b, schema);
    return mk_gb_finish(&b, x, out);
}

mk_gn mk_gb_choice(mk_gb *b, const json_t *choices) {
    mk_gn x = MK_GN_EMPTY;
    size_t n = json_array_size(choices);
    mk_gword *w = mk_try_alloc(n + 1, sizeof(*w));
    if (!json_is_array(choices) || n == 0) {
        MK_GB_FAIL(b, MK_EUSAGE, "choice: expected an array of strings");
    } else if (w == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for %zu choices", n);
    }
    for (size_t i = 0; i < n && b->status == MK_OK; i++) {
        const json_t *s = json_array_get(choices, i);
        if (!json_is_string(s)) {
            MK_GB_FAIL(b, MK_EUSAGE, "choice: expected strings, found %s", mk_json_type_name(s));
            break;
        }
        w[i] = (mk_gword){json_string_value(s), json_string_length(s)};
    }
    if (b->status == MK_OK) {
        x = mk_gb_words(b, w, n);
    }
    mk_free(w);
    return x;
}

mk_status mk_grammar_from_choice(const json_t *choices, const mk_grammar_limits *limits,
                                 mk_grammar **out, mk_err *err) {
    mk_gb b;
    mk_gb_init(&b, limits, err);
    mk_gn x = mk_gb_choice(&b, choices);
    return mk_gb_finish(&b, x, out);
}

mk_status mk_grammar_from_frames(const mk_grammar_frame *frames, size_t n, const char *between,
                                 bool many, const mk_grammar_limits *limits, mk_grammar **out,
                                 mk_err *err) {
    mk_gb b;
    mk_gnlist l = {0};
    mk_gb_init(&b, limits, err);
    for (size_t i = 0; i < n && b.status == MK_OK; i++) {
        const mk_grammar_frame *f = &frames[i];
        mk_gn before = mk_gb_text(&b, f->before != NULL ? f->before : "");
        mk_gn value = f->schema != NULL ? mk_gb_schema(&b, f->schema) : MK_GN_EMPTY;
        mk_gn after = mk_gb_text(&b, f->after != NULL ? f->after : "");
        mk_gnlist_add(&b, &l, mk_gb_seq3(&b, before, value, after));
    }
    mk_gn one = mk_gnlist_alt(&b, &l);
    if (many) {
        mk_gn more = mk_gb_seq2(&b, mk_gb_text(&b, between != NULL ? between : ""), one);
        one = mk_gb_seq2(&b, one, mk_gb_repeat(&b, more, 0, MK_G_INF));
    }
    return mk_gb_finish(&b, one, out);
}
