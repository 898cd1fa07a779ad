// Types and values of a schema: "type" and what stands for it, const, enum, and any value.
//
// Where values stand without quotes (c->part), texts and all else are compiled apart, and what a
// reader would take for another type is refused.
#include <string.h>

#include "base/json.h"
#include "chat/grammar_int.h"

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

mk_gn mk_gschema_any(mk_gschema *c) {
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
mk_gn mk_gschema_values(mk_gschema *c, const json_t *schema) {
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

mk_gn mk_gschema_types(mk_gschema *c, const json_t *schema) {
    int types = types_of(c, schema);
    mk_gnlist out = {0};
    if (types == T_ALL && !mk_gschema_constrains(schema)) {
        return mk_gschema_any(c);
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
