// Objects and arrays of a JSON schema.
//
// Properties come in the order of the schema; those that are not required may be left out.
// Properties beyond the named ones come last, and only where the schema speaks of them
// ("additionalProperties": true or a schema, or an object of which nothing is said at all).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "chat/grammar_int.h"

typedef struct {
    mk_gschema *c;
    const json_t *schema, *properties, *required, *patterns, *extra, *names;
    mk_gnlist kids;  // of the list: with flags
    uint32_t min, max, n_required;
    mk_gn colon, space, separator;
} object;

static mk_gn pair(object *o, mk_gn key, mk_gn value) {
    return mk_gb_seq3(o->c->b, key, o->colon, value);
}

static bool is_required(const object *o, const char *key) {
    for (size_t i = 0; i < json_array_size(o->required); i++) {
        const char *name = json_string_value(json_array_get(o->required, i));
        if (name != NULL && strcmp(name, key) == 0) {
            return true;
        }
    }
    return false;
}

mk_gn mk_gschema_compile_at(mk_gschema *c, const char *key, const char *name,
                            const json_t *schema) {
    size_t before = mk_gschema_enter(c, key);
    if (name != NULL) {
        mk_gschema_enter(c, name);
    }
    mk_gn x = mk_gschema_compile(c, schema);
    mk_gschema_leave(c, before);
    return x;
}

static int without_case(const void *x, const void *y) {
    const char *a = *(const char *const *)x, *b = *(const char *const *)y;
    int order = strcasecmp(a, b);
    return order != 0 ? order : strcmp(a, b);
}

const char **mk_gschema_names(mk_gschema *c, const json_t *members) {
    size_t n = json_object_size(members), i = 0;
    const char **names = mk_try_alloc(n + 1, sizeof *names), *key;
    json_t *v;
    if (names == NULL) {
        MK_GB_FAIL(c->b, MK_ENOMEM, "no memory for the names of properties");
        return NULL;
    }
    json_object_foreach((json_t *)(uintptr_t)members, key, v) {
        names[i++] = key;
    }
    if (c->b->how.sorted) {
        qsort(names, n, sizeof *names, without_case);
    }
    return names;
}

// --- keys that are not named ---------------------------------------------------------------------
static int by_name(const void *x, const void *y) {
    return strcmp(*(char *const *)x, *(char *const *)y);
}

// true if key[0..n) ends at the end of a character of a JSON string (not inside of UTF-8, nor of
// an escape).
static bool between_chars(const char *key, size_t n, size_t len) {
    size_t i = 0;
    while (i < n) {
        if (key[i] == '\\') {
            i += i + 1 < len && key[i + 1] == 'u' ? 6 : 2;
        } else {
            i++;
            while (i < len && ((uint8_t)key[i] & 0xC0) == 0x80) {
                i++;
            }
        }
    }
    return i == n;
}

typedef struct {
    mk_gb *b;
    char **key;      // encoded as in JSON, sorted
    mk_gn any_rest;  // any characters and the closing quote
    int depth;
} keys;

// A character that begins no key, then anything.  No escapes: they could spell a key.
static mk_gn other_char(keys *k, const bool *taken) {
    mk_cset s = {0};
    for (uint32_t c = 0x20; c < 0x80; c++) {
        if (c != '"' && c != '\\' && !taken[c]) {
            mk_cset_add(k->b, &s, c, c);
        }
    }
    bool beyond = true;
    for (int c = 0x80; c < 256; c++) {
        beyond = beyond && !taken[c];
    }
    if (beyond) {
        mk_cset_add(k->b, &s, 0x80, 0x10FFFF);
    }
    mk_gn x = mk_gb_chars(k->b, &s);
    mk_cset_free(&s);
    return mk_gb_seq2(k->b, x, k->any_rest);
}

// What may follow the first `at` bytes that keys lo..hi share, so that the whole is none of them.
static mk_gn not_keys(keys *k, size_t lo, size_t hi, size_t at) {
    bool taken[256] = {false};
    mk_gnlist out = {0};
    if (!mk_gb_work(k->b, 64) || k->depth >= MK_G_MAX_RECURSION) {
        MK_GB_FAIL(k->b, MK_ELIMIT, "names of properties are too long");
        return MK_GN_NONE;
    }
    k->depth++;
    size_t len = strlen(k->key[lo]);
    bool whole = len == at, inside = !between_chars(k->key[lo], at, len);
    for (size_t i = lo + whole; i < hi;) {
        uint8_t c = (uint8_t)k->key[i][at];
        size_t end = i + 1;
        while (end < hi && (uint8_t)k->key[end][at] == c) {
            end++;
        }
        taken[c] = true;
        mk_gnlist_add(k->b, &out,
                      mk_gb_seq2(k->b, mk_gb_range(k->b, c, c), not_keys(k, i, end, at + 1)));
        i = end;
    }
    if (!inside) {
        mk_gnlist_add(k->b, &out, other_char(k, taken));
        if (!whole) {
            mk_gnlist_add(k->b, &out, mk_gb_text(k->b, "\""));
        }
    }
    k->depth--;
    return mk_gnlist_alt(k->b, &out);
}

// The inside of a JSON string, as bytes; NULL when memory is gone.
static char *encoded(const char *name) {
    mk_buf text;
    json_t *s = json_string(name);
    mk_buf_init(&text, 8 * strlen(name) + 64);
    bool ok = mk_g_json_text(s, &text);
    json_decref(s);
    char *p = ok ? mk_buf_detach(&text) : NULL;
    mk_buf_free(&text);
    if (p != NULL) {
        size_t n = strlen(p);
        memmove(p, p + 1, n - 2);
        p[n - 2] = '\0';
    }
    return p;
}

// A key that is none of the named properties.
static mk_gn other_key(object *o) {
    mk_gb *b = o->c->b;
    size_t n = json_object_size(o->properties), i = 0;
    if (n == 0) {
        return mk_gb_json_string(b);
    }
    keys k = {.b = b, .key = mk_try_alloc(n, sizeof(char *))};
    const char *name;
    json_t *v;
    bool ok = k.key != NULL;
    json_object_foreach((json_t *)(uintptr_t)o->properties, name, v) {
        if (ok) {
            k.key[i] = encoded(name);
            ok = k.key[i++] != NULL;
        }
    }
    mk_gn x = MK_GN_EMPTY;
    if (ok) {
        qsort(k.key, n, sizeof(char *), by_name);
        mk_gn chars = mk_gb_repeat(b, mk_gb_json_char(b), 0, MK_G_INF);
        uint32_t rest = mk_gb_rule(b, "rest of a key");
        mk_gb_rule_set(b, rest, mk_gb_seq2(b, chars, mk_gb_text(b, "\"")));
        k.any_rest = mk_gb_call(b, rest);
        x = mk_gb_seq2(b, mk_gb_text(b, "\""), not_keys(&k, 0, n, 0));
    } else {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for the names of properties");
    }
    for (; i > 0; i--) {
        mk_free(k.key[i - 1]);
    }
    mk_free(k.key);
    return x;
}

// --- objects -------------------------------------------------------------------------------------
static bool check_object(object *o) {
    mk_gschema *c = o->c;
    static const char *const objects[] = {"properties", "patternProperties"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_object_get(o->schema, objects[i]);
        if (v != NULL && !json_is_object(v)) {
            MK_GS_FAIL(c, MK_EUSAGE, objects[i], "expected an object of schemas");
            return false;
        }
    }
    if (o->required != NULL && !json_is_array(o->required)) {
        MK_GS_FAIL(c, MK_EUSAGE, "required", "expected an array of names");
        return false;
    }
    if (json_object_size(o->patterns) > 0 &&
        (json_object_size(o->properties) > 0 || json_object_size(o->patterns) > 1 ||
         o->names != NULL || json_array_size(o->required) > 0)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "patternProperties",
                   "supported with one pattern, and with no other properties or names");
        return false;
    }
    if (o->names != NULL &&
        (json_object_size(o->properties) > 0 || json_array_size(o->required) > 0)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "propertyNames", "together with named properties");
        return false;
    }
    return mk_gschema_count(c, o->schema, "minProperties", 0, &o->min) &&
           mk_gschema_count(c, o->schema, "maxProperties", MK_G_INF, &o->max);
}

static void add_named(object *o) {
    const char **name = mk_gschema_names(o->c, o->properties);
    for (size_t i = 0; i < json_object_size(o->properties) && o->c->b->status == MK_OK; i++) {
        bool required = is_required(o, name[i]);
        mk_gn value = mk_gschema_compile_at(o->c, "properties", name[i],
                                            json_object_get(o->properties, name[i]));
        mk_gn x = pair(o, mk_gb_json_key(o->c->b, name[i]), value);
        o->n_required += required;
        mk_gnlist_add(o->c->b, &o->kids, x | (required ? 0 : MK_G_OPTIONAL));
    }
    mk_free((void *)(uintptr_t)name);
    if (o->c->b->status != MK_OK) {
        return;
    }
    // names that are required and nowhere described
    for (size_t i = 0; i < json_array_size(o->required); i++) {
        const char *key = json_string_value(json_array_get(o->required, i));
        if (key == NULL) {
            MK_GS_FAIL(o->c, MK_EUSAGE, "required", "expected an array of names");
            return;
        }
        bool again = false;
        for (size_t k = 0; k < i; k++) {
            const char *other = json_string_value(json_array_get(o->required, k));
            again |= other != NULL && strcmp(key, other) == 0;
        }
        if (again || json_object_get(o->properties, key) != NULL) {
            continue;
        }
        mk_gn value = json_is_object(o->extra)
                          ? mk_gschema_compile_at(o->c, "additionalProperties", NULL, o->extra)
                      : json_is_false(o->extra) ? MK_GN_NONE
                                                : mk_gb_json_any(o->c->b);
        o->n_required++;
        mk_gnlist_add(o->c->b, &o->kids, pair(o, mk_gb_json_key(o->c->b, key), value));
    }
}

// The pair of a property without a name of its own, or MK_GN_NONE if there are none.
static mk_gn unnamed(object *o) {
    mk_gb *b = o->c->b;
    bool silent = json_object_size(o->properties) == 0 && json_array_size(o->required) == 0;
    if (b->how.notation == MK_VALUES_MARKED &&
        (json_object_size(o->patterns) > 0 || (o->names != NULL && !json_is_true(o->names)))) {
        MK_GS_FAIL(o->c, MK_EUNSUPPORTED, o->names != NULL ? "propertyNames" : "patternProperties",
                   "with a model that writes names without quotes");
        return MK_GN_NONE;
    }
    if (b->how.notation == MK_VALUES_MARKED && json_object_size(o->properties) > 0) {
        return MK_GN_NONE;  // nothing beyond what is described
    }
    if (json_object_size(o->patterns) > 0) {
        void *it = json_object_iter((json_t *)(uintptr_t)o->patterns);
        const char *pattern = json_object_iter_key(it);
        size_t before = mk_gschema_enter(o->c, "patternProperties");
        mk_gschema_enter(o->c, pattern);
        mk_re_opts re = {
            .match = MK_RE_SEARCH, .json = true, .but = b->how.avoid[0], .what = o->c->path.data};
        mk_gn quote = mk_gb_text(b, "\"");
        mk_gn key = mk_gb_seq3(b, quote, mk_gb_regex(b, pattern, strlen(pattern), &re), quote);
        mk_gn value = mk_gschema_compile(o->c, json_object_iter_value(it));
        mk_gschema_leave(o->c, before);
        return pair(o, key, value);
    }
    if (json_is_false(o->extra) || (o->extra == NULL && !silent)) {
        return MK_GN_NONE;
    }
    mk_gn value = json_is_object(o->extra)
                      ? mk_gschema_compile_at(o->c, "additionalProperties", NULL, o->extra)
                      : mk_gb_json_any(b);
    if (o->names != NULL && !json_is_true(o->names)) {
        size_t before = mk_gschema_enter(o->c, "propertyNames");
        const json_t *string = mk_gschema_merge(o->c, o->names, o->c->string_type);
        mk_gn key = string == NULL ? MK_GN_EMPTY : mk_gschema_compile(o->c, string);
        mk_gschema_leave(o->c, before);
        return pair(o, key, value);
    }
    return pair(o, other_key(o), value);
}

// Objects of unnamed properties only can be counted.
static mk_gn map_of(object *o, mk_gn one) {
    mk_gb *b = o->c->b;
    if (o->min > o->max) {
        return MK_GN_NONE;
    }
    if (one == MK_GN_NONE || o->max == 0) {
        return o->min == 0 ? MK_GN_EMPTY : MK_GN_NONE;
    }
    uint32_t least = o->min > 0 ? o->min - 1 : 0;
    uint32_t most = o->max == MK_G_INF ? MK_G_INF : o->max - 1;
    mk_gn more = mk_gb_repeat(b, mk_gb_seq2(b, o->separator, one), least, most);
    mk_gn all = mk_gb_seq3(b, one, more, o->space);
    return o->min > 0 ? all : mk_gb_repeat(b, all, 0, 1);
}

mk_gn mk_gschema_object(mk_gschema *c, const json_t *schema) {
    mk_gb *b = c->b;
    object o = {.c = c, .schema = schema};
    o.properties = json_object_get(schema, "properties");
    o.required = json_object_get(schema, "required");
    o.patterns = json_object_get(schema, "patternProperties");
    o.extra = json_object_get(schema, "additionalProperties");
    o.names = json_object_get(schema, "propertyNames");
    if (o.extra == NULL && json_is_false(json_object_get(schema, "unevaluatedProperties"))) {
        o.extra = json_object_get(schema, "unevaluatedProperties");  // all else is merged by now
    }
    o.space = mk_gb_json_space(b);
    o.colon = mk_gb_json_colon(b);
    o.separator = mk_gb_seq2(b, mk_gb_text(b, ","), o.space);
    if (!check_object(&o)) {
        return MK_GN_EMPTY;
    }
    add_named(&o);
    mk_gn extra = unnamed(&o), inside;
    if (o.kids.n == 0) {
        inside = map_of(&o, extra);
    } else {
        if (extra != MK_GN_NONE) {
            mk_gnlist_add(b, &o.kids, extra | MK_G_MANY);
        }
        if (o.min > o.n_required || o.max < o.kids.n ||
            (extra != MK_GN_NONE && o.max != MK_G_INF)) {
            MK_GS_FAIL(c, MK_EUNSUPPORTED, o.min > o.n_required ? "minProperties" : "maxProperties",
                       "together with named properties that may be missing");
        }
        inside = mk_gb_seq2(b, mk_gb_list(b, o.kids.v, o.kids.n, o.separator), o.space);
    }
    mk_free(o.kids.v);
    mk_gn body = mk_gb_seq2(b, o.space, inside);
    return mk_gb_seq3(b, mk_gb_text(b, "{"), body, mk_gb_text(b, "}"));
}

// --- arrays --------------------------------------------------------------------------------------
// first: elements that have a schema of their own; then `rest`, from element n_first on.
typedef struct {
    mk_gnlist first;
    mk_gn rest, separator;
    uint32_t min, max;
} array;

// Elements from i on; there is one before them if i > 0.
static mk_gn elements_from(mk_gb *b, const array *a, size_t i) {
    uint32_t min = a->min > i ? a->min - (uint32_t)i : 0;
    uint32_t max = a->max == MK_G_INF ? MK_G_INF : a->max > i ? a->max - (uint32_t)i : 0;
    if (max == 0 || a->rest == MK_GN_NONE) {
        return min == 0 ? MK_GN_EMPTY : MK_GN_NONE;
    }
    if (i > 0) {
        return mk_gb_repeat(b, mk_gb_seq2(b, a->separator, a->rest), min, max);
    }
    mk_gn more = mk_gb_repeat(b, mk_gb_seq2(b, a->separator, a->rest), min > 0 ? min - 1 : 0,
                              max == MK_G_INF ? max : max - 1);
    mk_gn all = mk_gb_seq2(b, a->rest, more);
    return min > 0 ? all : mk_gb_repeat(b, all, 0, 1);
}

static mk_gn elements(mk_gb *b, const array *a) {
    size_t n = a->first.n < a->max ? a->first.n : a->max;
    mk_gn tail = elements_from(b, a, n);
    for (size_t i = n; i > 0; i--) {
        mk_gn one = a->first.v[i - 1];
        one = i > 1 ? mk_gb_seq2(b, a->separator, one) : one;
        tail = mk_gb_seq2(b, one, tail);
        if (i > a->min) {
            tail = mk_gb_repeat(b, tail, 0, 1);
        }
    }
    return tail;
}

// Reads prefixItems and items, in both spellings: items as an array is the older one.
static bool read_items(mk_gschema *c, const json_t *schema, array *a) {
    const json_t *items = json_object_get(schema, "items");
    const json_t *first = json_object_get(schema, "prefixItems");
    const char *first_key = "prefixItems", *rest_key = "items";
    if (json_is_array(items)) {
        first = items;
        first_key = "items";
        rest_key = "additionalItems";
        items = json_object_get(schema, rest_key);
    }
    if (first != NULL && !json_is_array(first)) {
        MK_GS_FAIL(c, MK_EUSAGE, first_key, "expected an array of schemas");
        return false;
    }
    for (size_t i = 0; i < json_array_size(first) && c->b->status == MK_OK; i++) {
        char index[24];
        snprintf(index, sizeof(index), "%zu", i);
        mk_gnlist_add(c->b, &a->first,
                      mk_gschema_compile_at(c, first_key, index, json_array_get(first, i)));
    }
    a->rest =
        items == NULL ? mk_gb_json_any(c->b) : mk_gschema_compile_at(c, rest_key, NULL, items);
    if (items == NULL && json_array_size(first) > 0 && a->min <= json_array_size(first)) {
        a->rest = MK_GN_NONE;  // as with properties: nothing beyond what is described
    }
    return true;
}

mk_gn mk_gschema_array(mk_gschema *c, const json_t *schema) {
    mk_gb *b = c->b;
    array a = {.rest = MK_GN_NONE};
    mk_gn x = MK_GN_EMPTY, space = mk_gb_json_space(b);
    a.separator = mk_gb_seq2(b, mk_gb_text(b, ","), space);
    if (mk_gschema_count(c, schema, "minItems", 0, &a.min) &&
        mk_gschema_count(c, schema, "maxItems", MK_G_INF, &a.max) && read_items(c, schema, &a)) {
        mk_gn inside = a.min > a.max ? MK_GN_NONE : elements(b, &a);
        mk_gn body = mk_gb_seq3(b, space, inside, space);
        if (a.min == 0) {  // white space once in an empty array
            body = inside == MK_GN_EMPTY ? space : body;
        }
        x = mk_gb_seq3(b, mk_gb_text(b, "["), body, mk_gb_text(b, "]"));
    }
    mk_free(a.first.v);
    return x;
}
