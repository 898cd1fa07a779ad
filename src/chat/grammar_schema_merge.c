// Keywords of schemas: which are known, and one schema that stands for two.
#include <string.h>

#include "base/json.h"
#include "chat/grammar_int.h"

typedef enum {
    ANNOTATION,  // says nothing about values
    HANDLED,
    REFUSED,
    // how two values of a keyword become one
    LARGER,
    SMALLER,
    BOTH,   // {"allOf": [x, y]}
    UNION,  // objects of schemas
    LATER   // stays a keyword of its own: {"allOf": [{key: y}]}
} kind;

static const struct {
    const char *key;
    kind kind;
} keywords[] = {{"title", ANNOTATION},
                {"description", ANNOTATION},
                {"default", ANNOTATION},
                {"examples", ANNOTATION},
                {"example", ANNOTATION},
                {"deprecated", ANNOTATION},
                {"readOnly", ANNOTATION},
                {"writeOnly", ANNOTATION},
                {"$schema", ANNOTATION},
                {"$id", ANNOTATION},
                {"$comment", ANNOTATION},
                {"$anchor", ANNOTATION},
                {"$vocabulary", ANNOTATION},
                {"$defs", ANNOTATION},
                {"definitions", ANNOTATION},
                {"discriminator", ANNOTATION},
                {"externalDocs", ANNOTATION},
                {"xml", ANNOTATION},
                {"contentEncoding", ANNOTATION},
                {"contentMediaType", ANNOTATION},
                {"contentSchema", ANNOTATION},
                {"type", HANDLED},
                {"const", HANDLED},
                {"enum", HANDLED},
                {"nullable", HANDLED},
                {"required", HANDLED},
                {"format", HANDLED},
                {"pattern", HANDLED},
                {"multipleOf", HANDLED},
                {"uniqueItems", HANDLED},
                {"unevaluatedProperties", HANDLED},
                {"prefixItems", HANDLED},
                {"minimum", LARGER},
                {"exclusiveMinimum", LARGER},
                {"minLength", LARGER},
                {"minItems", LARGER},
                {"minProperties", LARGER},
                {"maximum", SMALLER},
                {"exclusiveMaximum", SMALLER},
                {"maxLength", SMALLER},
                {"maxItems", SMALLER},
                {"maxProperties", SMALLER},
                {"items", BOTH},
                {"additionalItems", BOTH},
                {"additionalProperties", BOTH},
                {"propertyNames", BOTH},
                {"properties", UNION},
                {"patternProperties", UNION},
                {"$ref", LATER},
                {"anyOf", LATER},
                {"oneOf", LATER},
                {"allOf", LATER}};

static kind kind_of(const char *key) {
    for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++) {
        if (strcmp(keywords[i].key, key) == 0) {
            return keywords[i].kind;
        }
    }
    return strncmp(key, "x-", 2) == 0 ? ANNOTATION : REFUSED;
}

// A known keyword with a value that asks for something that is not enforced.
static bool value_refused(const char *key, const json_t *v) {
    if (strcmp(key, "uniqueItems") == 0) {
        return json_is_true(v);
    }
    if (strcmp(key, "unevaluatedProperties") == 0) {
        return !json_is_boolean(v);
    }
    // draft 4's bounds
    return (strcmp(key, "exclusiveMinimum") == 0 || strcmp(key, "exclusiveMaximum") == 0) &&
           !json_is_number(v);
}

bool mk_gschema_check(mk_gschema *c, const json_t *schema) {
    const char *key;
    json_t *v;
    if (!json_is_object(schema)) {
        MK_GS_FAIL(c, MK_EUSAGE, NULL, "expected a schema, found %s", mk_json_type_name(schema));
        return false;
    }
    json_object_foreach((json_t *)(uintptr_t)schema, key, v) {
        if (kind_of(key) == REFUSED) {
            MK_GS_FAIL(c, MK_EUNSUPPORTED, key, "this keyword is not supported");
            return false;
        }
        if (value_refused(key, v)) {
            MK_GS_FAIL(c, MK_EUNSUPPORTED, key, "this value is not supported");
            return false;
        }
    }
    return c->b->status == MK_OK;
}

bool mk_gschema_constrains(const json_t *x) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)x, key, v) {
        if (kind_of(key) != ANNOTATION) {
            return true;
        }
    }
    return false;
}

// Hands over to the list of what is freed with c.
static json_t *keep(mk_gschema *c, json_t *x) {
    if (x == NULL || json_array_append_new(c->made, x) != 0 ||
        !mk_gb_work(c->b, 8 + json_object_size(x))) {
        MK_GB_FAIL(c->b, MK_ENOMEM, "no memory for a schema");
        return NULL;
    }
    return x;
}

json_t *mk_gschema_without(mk_gschema *c, const json_t *x, const char *key) {
    json_t *copy = keep(c, json_copy((json_t *)(uintptr_t)x));
    if (copy != NULL) {
        json_object_del(copy, key);
    }
    return copy;
}

// --- merging -------------------------------------------------------------------------------------
static json_t *all_of(json_t *x, json_t *y) {
    return json_pack("{s:[O,O]}", "allOf", x, y);
}

static json_t *as_list(json_t *x) {
    return json_is_array(x) ? json_incref(x) : json_pack("[O]", x);
}

static bool same_type(const json_t *x, const json_t *y) {
    return json_equal(x, y);
}

static bool is_name(const json_t *x, const char *name) {
    return json_is_string(x) && strcmp(json_string_value(x), name) == 0;
}

// Types that both lists have; integers are numbers, too.
static json_t *common_types(json_t *x, json_t *y) {
    json_t *a = as_list(x), *b = as_list(y), *out = json_array();
    for (size_t i = 0; i < json_array_size(a); i++) {
        for (size_t k = 0; k < json_array_size(b); k++) {
            json_t *s = json_array_get(a, i), *t = json_array_get(b, k);
            if (same_type(s, t) || (is_name(s, "integer") && is_name(t, "number"))) {
                json_array_append(out, s);
            } else if (is_name(s, "number") && is_name(t, "integer")) {
                json_array_append(out, t);
            }
        }
    }
    json_decref(a);
    json_decref(b);
    return out;
}

static json_t *common_values(json_t *x, json_t *y) {
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(x); i++) {
        for (size_t k = 0; k < json_array_size(y); k++) {
            if (json_equal(json_array_get(x, i), json_array_get(y, k))) {
                json_array_append(out, json_array_get(x, i));
                break;
            }
        }
    }
    return out;
}

static json_t *joined(json_t *x, json_t *y) {
    json_t *out = json_copy(x);
    for (size_t i = 0; i < json_array_size(y); i++) {
        json_array_append(out, json_array_get(y, i));
    }
    return out;
}

static json_t *joined_schemas(json_t *x, json_t *y) {
    json_t *out = json_copy(x), *v;
    const char *key;
    json_object_foreach(y, key, v) {
        json_t *before = json_object_get(out, key);
        if (before == NULL) {
            json_object_set(out, key, v);
        } else if (!json_equal(before, v)) {
            json_object_set_new(out, key, all_of(before, v));
        }
    }
    return out;
}

// The value of a keyword that both have, a new reference; NULL: it cannot be said in one.
static json_t *combine(const char *key, json_t *x, json_t *y) {
    bool x_is_more = json_number_value(x) > json_number_value(y);
    switch (kind_of(key)) {
    case ANNOTATION:
        return json_incref(x);
    case LARGER:
        return json_incref(x_is_more ? x : y);
    case SMALLER:
        return json_incref(x_is_more ? y : x);
    case BOTH:
        if (json_is_true(x) || json_is_false(y)) {
            return json_incref(y);
        }
        return json_is_true(y) || json_is_false(x) ? json_incref(x) : all_of(x, y);
    case UNION:
        return json_is_object(x) && json_is_object(y) ? joined_schemas(x, y) : NULL;
    default:
        break;
    }
    if (strcmp(key, "type") == 0) {
        return common_types(x, y);
    }
    if (strcmp(key, "required") == 0) {
        return json_is_array(x) && json_is_array(y) ? joined(x, y) : NULL;
    }
    if (strcmp(key, "enum") == 0) {
        return json_is_array(x) && json_is_array(y) ? common_values(x, y) : NULL;
    }
    if (strcmp(key, "nullable") == 0) {
        return json_boolean(json_is_true(x) && json_is_true(y));
    }
    return NULL;
}

// What x says of properties that it does not name holds for those that only y names:
// "additionalProperties": false forbids them.
static void apply_extra(json_t *out, const json_t *x, const json_t *y) {
    const json_t *mine = json_object_get(x, "properties");
    json_t *extra = json_object_get(x, "additionalProperties");
    json_t *theirs = json_object_get(y, "properties"), *v;
    const char *key;
    if (extra == NULL || json_is_true(extra) || !json_is_object(theirs) ||
        json_object_get(x, "patternProperties") != NULL) {
        return;
    }
    json_t *kept = json_copy(json_object_get(out, "properties"));
    json_object_foreach(theirs, key, v) {
        if (json_object_get(mine, key) != NULL) {
            continue;
        }
        if (json_is_false(extra)) {
            json_object_del(kept, key);
        } else {
            json_object_set_new(kept, key, all_of(v, extra));
        }
    }
    json_object_set_new(out, "properties", kept);
}

static bool has_applicator(const json_t *x) {
    return json_object_get(x, "$ref") != NULL || json_object_get(x, "allOf") != NULL ||
           json_object_get(x, "anyOf") != NULL || json_object_get(x, "oneOf") != NULL;
}

// "unevaluatedProperties": false of a part speaks of the part alone: as additionalProperties, if
// nothing else in it names properties.
static const json_t *close_part(mk_gschema *c, const json_t *y) {
    if (!json_is_false(json_object_get(y, "unevaluatedProperties"))) {
        return y;
    }
    if (has_applicator(y)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "unevaluatedProperties",
                   "inside of a combination, together with combinations");
        return NULL;
    }
    json_t *copy = mk_gschema_without(c, y, "unevaluatedProperties");
    if (copy != NULL && json_object_get(copy, "additionalProperties") == NULL) {
        json_object_set_new(copy, "additionalProperties", json_false());
    }
    return copy;
}

// items speaks of what is behind the prefixItems of its own schema.
static bool items_clash(const json_t *x, const json_t *y) {
    const json_t *items_x = json_object_get(x, "items"), *items_y = json_object_get(y, "items");
    bool first_x = json_object_get(x, "prefixItems") != NULL || json_is_array(items_x);
    bool first_y = json_object_get(y, "prefixItems") != NULL || json_is_array(items_y);
    bool any_x = first_x || items_x != NULL, any_y = first_y || items_y != NULL;
    return any_x && any_y &&
           (first_x != first_y || json_is_array(items_x) || json_is_array(items_y));
}

// Two different values of "const" hold for nothing; other pairs go into an "allOf" that is merged
// later, or cannot be combined.
static bool add_key(mk_gschema *c, json_t *out, const char *key, json_t *v) {
    json_t *before = json_object_get(out, key), *sum = NULL;
    if (before == NULL) {
        return json_object_set(out, key, v) == 0;
    }
    if (json_equal(before, v)) {
        return true;
    }
    if (strcmp(key, "const") == 0) {
        return json_object_set_new(out, "enum", json_array()) == 0;
    }
    if (kind_of(key) == LATER) {
        bool list = strcmp(key, "allOf") == 0;
        json_t *more = list ? json_incref(v) : json_pack("[{s:O}]", key, v);
        json_t *old = json_object_get(out, "allOf");
        if (old == NULL) {
            return json_object_set_new(out, "allOf", more) == 0;
        }
        int st = json_object_set_new(out, "allOf", joined(old, more));
        json_decref(more);
        return st == 0;
    }
    sum = combine(key, before, v);
    if (sum == NULL) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, key, "two values of this keyword cannot be combined");
        return false;
    }
    return json_object_set_new(out, key, sum) == 0;
}

const json_t *mk_gschema_merge(mk_gschema *c, const json_t *x, const json_t *y) {
    const char *key;
    json_t *v;
    if (json_is_boolean(x) || json_is_boolean(y)) {
        return json_is_true(x) || json_is_false(y) ? y : x;
    }
    json_t *out = keep(c, json_copy((json_t *)(uintptr_t)x));
    if (out == NULL || !json_is_object(y)) {
        return out;
    }
    if (items_clash(x, y)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "items", "elements with schemas of their own, combined");
        return NULL;
    }
    y = close_part(c, y);
    if (y == NULL) {
        return NULL;
    }
    json_object_foreach((json_t *)(uintptr_t)y, key, v) {
        if (!mk_gb_work(c->b, 4) || !add_key(c, out, key, v)) {
            return NULL;
        }
    }
    apply_extra(out, x, y);
    apply_extra(out, y, x);
    return out;
}
