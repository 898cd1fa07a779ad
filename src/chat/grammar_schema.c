// JSON schema as a grammar: the place in hand, alternatives and combinations, whole answers.
//
// The grammar allows a subset of what the schema allows (properties come in the schema's order,
// white space is bounded, ...) and nothing that the schema forbids.  A keyword that cannot be
// enforced is refused with its JSON pointer.
//
// A schema whose keywords meet others (allOf, anyOf beside properties, $ref with siblings) is
// merged with them into one first (grammar_schema_merge.c).  What is left is a reference
// (grammar_schema_ref.c) or types and values (grammar_schema_types.c and those behind it).
#include <stdarg.h>
#include <stdio.h>

#include "base/json.h"
#include "chat/grammar_int.h"

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
            branch = mk_gschema_follow(c, branch);
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
            part = mk_gschema_follow(c, part);
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
    for (int i = 0; i < MK_G_MAX_CHAIN && c->b->status == MK_OK; i++) {
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
        schema = ref ? mk_gschema_follow(c, schema) : merge_all(c, schema);
        if (schema == NULL) {
            MK_GS_FAIL(c, MK_EUSAGE, ref ? "$ref" : "allOf", "no value can follow it");
        }
    }
    MK_GS_FAIL(c, MK_EUNSUPPORTED, "allOf", "nested this deep");
    return NULL;
}

// --- schemas -------------------------------------------------------------------------------------
static mk_gn compile_object(mk_gschema *c, const json_t *schema) {
    const json_t *ref = json_object_get(schema, "$ref");
    if (ref != NULL && !json_is_string(ref)) {
        MK_GS_FAIL(c, MK_EUSAGE, "$ref", "expected a string");
        return MK_GN_EMPTY;
    }
    if (ref != NULL) {
        const json_t *rest = mk_gschema_without(c, schema, "$ref");
        if (c->part == MK_GS_ALL && (rest == NULL || !mk_gschema_constrains(rest))) {
            return mk_gschema_call(c, json_string_value(ref));
        }
        const json_t *merged = mk_gschema_follow(c, schema);
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
        return mk_gschema_values(c, schema);
    }
    return mk_gschema_types(c, schema);
}

mk_gn mk_gschema_compile(mk_gschema *c, const json_t *schema) {
    if (json_is_boolean(schema)) {
        return json_is_true(schema) ? mk_gschema_any(c) : MK_GN_NONE;
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
