// Arguments that are no JSON object: parameters one by one, in the order of the schema, those that
// are not required may be left out.
//
// What stands without quotes says nothing of its type, so the reader (parse_args.c) takes a text
// for JSON where the schema allows a value of that kind.  Where that could make something of a text
// that the schema forbids, such texts are left out, or the schema is refused.
#include <string.h>

#include "chat/grammar_int.h"

typedef struct {
    mk_gschema c;
    const mk_grammar_params *p;
    const json_t *properties, *required, *extra;
    mk_gnlist kids;  // of the list: with flags
} params;

// --- values --------------------------------------------------------------------------------------
static mk_gn around(mk_gb *b, const char *before, mk_gn x, const char *behind) {
    return x == MK_GN_NONE ? x : mk_gb_seq3(b, mk_gb_text(b, before), x, mk_gb_text(b, behind));
}

// Between the name of a parameter and the next one.
static mk_gn value(params *a, const json_t *schema) {
    mk_gschema *c = &a->c;
    mk_gb *b = c->b;
    const mk_grammar_params *p = a->p;
    if (!p->bare) {
        return around(b, p->mid, mk_gschema_compile(c, schema), p->end);
    }
    c->bound = (mk_byteset){{0}};
    c->part = MK_GS_OTHERS;
    mk_gn others = mk_gschema_compile(c, schema);
    if (strcmp(p->mid, p->mid_bare) != 0) {
        c->bound = (mk_byteset){{0}};  // the markup tells them apart
    }
    c->part = MK_GS_TEXTS;
    mk_gn texts = mk_gschema_compile(c, schema);
    c->part = MK_GS_ALL;
    texts = around(b, p->mid_bare, texts, p->end_bare);
    others = around(b, p->mid, others, p->end);
    return texts == MK_GN_NONE    ? others
           : others == MK_GN_NONE ? texts
                                  : mk_gb_alt2(b, texts, others);
}

// --- names ---------------------------------------------------------------------------------------
static bool is_letter(unsigned char c) {
    return ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == '$';
}

static mk_gn named(params *a, const char *name, const json_t *schema) {
    mk_gschema *c = &a->c;
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++) {
        n = is_letter((unsigned char)name[i]) ? n : 0;
    }
    if (n == 0 || n > 63) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "properties",
                   "\"%.80s\": this model writes names of 1 to 63 letters, digits, \"_\", \"-\", "
                   "\".\", \"$\"",
                   name);
        return MK_GN_EMPTY;
    }
    size_t before = mk_gschema_enter(c, "properties");
    mk_gschema_enter(c, name);
    mk_gn x = value(a, schema);
    mk_gschema_leave(c, before);
    return mk_gb_seq3(c->b, mk_gb_text(c->b, a->p->open), mk_gb_text(c->b, name), x);
}

static bool is_required(const params *a, const char *name) {
    for (size_t i = 0; i < json_array_size(a->required); i++) {
        const char *key = json_string_value(json_array_get(a->required, i));
        if (key != NULL && strcmp(key, name) == 0) {
            return true;
        }
    }
    return false;
}

static void add_named(params *a) {
    mk_gb *b = a->c.b;
    const char **name = mk_gschema_names(&a->c, a->properties);
    for (size_t i = 0; i < json_object_size(a->properties) && b->status == MK_OK; i++) {
        mk_gn x = named(a, name[i], json_object_get(a->properties, name[i]));
        bool optional = !is_required(a, name[i]);
        if (x != MK_GN_NONE || !optional) {
            mk_gnlist_add(b, &a->kids, x | (optional ? MK_G_OPTIONAL : 0));
        }
    }
    mk_free((void *)(uintptr_t)name);
    // names that are required and nowhere described
    json_t *any = json_object();
    for (size_t i = 0; i < json_array_size(a->required) && b->status == MK_OK; i++) {
        const char *key = json_string_value(json_array_get(a->required, i));
        bool known = key != NULL && json_object_get(a->properties, key) != NULL;
        if (key == NULL) {
            MK_GS_FAIL(&a->c, MK_EUSAGE, "required", "expected an array of names");
        } else if (!known && json_is_false(a->extra)) {
            mk_gnlist_add(b, &a->kids, MK_GN_NONE);
        } else if (!known) {
            mk_gnlist_add(b, &a->kids, named(a, key, json_is_object(a->extra) ? a->extra : any));
        }
    }
    json_decref(any);
}

// Any number of parameters of which no name is known.
static void add_unnamed(params *a) {
    mk_gb *b = a->c.b;
    mk_gn letter =
        mk_gb_oneof(b, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    mk_gn name = mk_gb_seq2(b, mk_gb_text(b, a->p->open), mk_gb_repeat(b, letter, 1, 48));
    json_t *any = json_object();
    size_t before = mk_gschema_enter(&a->c, "additionalProperties");
    mk_gn x = value(a, json_is_object(a->extra) ? a->extra : any);
    mk_gschema_leave(&a->c, before);
    json_decref(any);
    if (x != MK_GN_NONE) {
        mk_gnlist_add(b, &a->kids, mk_gb_seq2(b, name, x) | MK_G_MANY);
    }
}

// --- all of them ---------------------------------------------------------------------------------
static bool read_schema(params *a, const json_t *schema) {
    static const char *const refused[] = {
        "anyOf",         "oneOf",         "enum",          "const",
        "minProperties", "maxProperties", "propertyNames", "patternProperties"};
    mk_gschema *c = &a->c;
    schema = mk_gschema_flat(c, schema);
    if (schema == NULL) {
        return false;
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        if (json_object_get(schema, refused[i]) != NULL) {
            MK_GS_FAIL(c, MK_EUNSUPPORTED, refused[i],
                       "for all parameters of a call, with a model that writes them one by one");
            return false;
        }
    }
    const char *type = json_string_value(json_object_get(schema, "type"));
    a->properties = json_object_get(schema, "properties");
    a->required = json_object_get(schema, "required");
    a->extra = json_object_get(schema, "additionalProperties");
    bool good = (type == NULL || strcmp(type, "object") == 0) &&
                (a->properties == NULL || json_is_object(a->properties)) &&
                (a->required == NULL || json_is_array(a->required));
    if (!good) {
        MK_GS_FAIL(c, MK_EUSAGE, NULL, "expected the schema of an object");
    }
    return good;
}

mk_gn mk_gb_params(mk_gb *b, const json_t *schema, const mk_grammar_params *p) {
    params a = {.p = p};
    json_t *any = json_object();
    mk_gn out = MK_GN_EMPTY;
    mk_gschema_init(&a.c, b, schema != NULL ? schema : any);
    if (read_schema(&a, schema != NULL ? schema : any)) {
        add_named(&a);
        bool silent = json_object_size(a.properties) == 0 && json_array_size(a.required) == 0;
        if (silent && !json_is_false(a.extra)) {
            add_unnamed(&a);
        }
        out = mk_gb_list(b, a.kids.v, a.kids.n, mk_gb_text(b, p->between));
    }
    mk_free(a.kids.v);
    mk_gschema_finish(&a.c);
    json_decref(any);
    return out;
}
