// References of a schema: JSON pointers inside of it, and the rules for what they name.
//
// A target is compiled once, as a rule, after the schema that refers to it (mk_gschema_finish), so
// that schemas which refer to themselves are grammars like others.  A reference with siblings is
// not: it is replaced by what it names, merged with them.
#include <string.h>

#include "base/ascii.h"
#include "base/json.h"
#include "chat/grammar_int.h"

enum { MAX_REFS = 1 << 16 };

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

mk_gn mk_gschema_call(mk_gschema *c, const char *ref) {
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

const json_t *mk_gschema_follow(mk_gschema *c, const json_t *schema) {
    for (int i = 0; json_is_string(json_object_get(schema, "$ref")); i++) {
        char *pointer;
        const char *ref = json_string_value(json_object_get(schema, "$ref"));
        const json_t *rest = mk_gschema_without(c, schema, "$ref");
        const json_t *target = i < MK_G_MAX_CHAIN ? mk_gschema_find(c, ref, &pointer) : NULL;
        if (i == MK_G_MAX_CHAIN) {
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
