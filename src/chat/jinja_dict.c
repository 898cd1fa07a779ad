// Dictionaries: ordered tables with Python's key rules (1, 1.0 and True are one key; lists and
// dicts are none), and the import of JSON, which keeps the order of keys.
//
// Look-up is a linear walk that costs steps: the dictionaries of chat templates have a handful of
// keys, and the bound on steps turns a huge one into MK_ELIMIT instead of a quadratic stall.
#include <string.h>

#include "chat/jinja_int.h"

bool mk_j_dict_new(jctx *c, jval_kind k, uint32_t cap, jval *out) {
    jdict *d = mk_j_alloc(c, 1, sizeof *d);
    if (d == NULL) {
        return false;
    }
    if (cap > 0 && (d->e = mk_j_alloc(c, cap, sizeof *d->e)) == NULL) {
        return false;
    }
    d->cap = cap;
    *out = (jval){.kind = (uint8_t)k, .u.dict = d};
    return true;
}

bool mk_j_hashable(jctx *c, const jval *v) {
    if (v->kind == JV_LIST || v->kind == JV_DICT) {
        return mk_j_raise(c, "unhashable type: '%s'", mk_j_type_name(v));
    }
    for (uint32_t i = 0; v->kind == JV_TUPLE && i < v->u.list->n; i++) {
        if (!mk_j_enter(c) || !mk_j_hashable(c, &v->u.list->v[i])) {
            return false;
        }
        c->depth--;
    }
    return true;
}

bool mk_j_dict_find(jctx *c, const jdict *d, jtext key, const jval **out) {
    *out = NULL;
    for (uint32_t i = 0; i < d->n; i++) {
        const jval *k = &d->e[i].key;
        if (k->kind == JV_STR && k->n == key.n && memcmp(k->u.p, key.p, key.n) == 0) {
            *out = &d->e[i].val;
            break;
        }
    }
    return mk_j_steps(c, d->n / 16);
}

bool mk_j_dict_get(jctx *c, const jdict *d, const jval *key, const jval **out) {
    *out = NULL;
    if (key->kind == JV_STR) {
        return mk_j_dict_find(c, d, (jtext){key->u.p, key->n}, out);
    }
    for (uint32_t i = 0; i < d->n; i++) {
        bool same;
        if (!mk_j_equal(c, &d->e[i].key, key, 0, &same)) {
            return false;
        }
        if (same) {
            *out = &d->e[i].val;
            return true;
        }
    }
    return true;
}

static bool dict_append(jctx *c, jdict *d, const jval *key, const jval *v) {
    if (d->n == d->cap) {
        uint32_t cap = d->cap == 0 ? 4 : d->cap * 2;
        jentry *grown = d->cap > UINT32_MAX / 4 ? NULL : mk_j_alloc(c, cap, sizeof *grown);
        if (grown == NULL) {
            return mk_j_nomem(c);
        }
        if (d->n > 0) {
            memcpy(grown, d->e, d->n * sizeof *grown);
        }
        d->e = grown;
        d->cap = cap;
    }
    d->e[d->n++] = (jentry){*key, *v};
    return mk_j_step(c);
}

bool mk_j_dict_set(jctx *c, jdict *d, const jval *key, const jval *v) {
    const jval *old;
    if (!mk_j_hashable(c, key) || !mk_j_dict_get(c, d, key, &old)) {
        return false;
    }
    if (old != NULL) {
        d->e[(size_t)((const char *)old - (const char *)d->e) / sizeof *d->e].val = *v;
        return true;
    }
    return dict_append(c, d, key, v);
}

// --- JSON ----------------------------------------------------------------------------------------
static bool plain_role(const jctx *c, const char *key, const json_t *val) {
    if (strcmp(key, "role") != 0 || !json_is_string(val) || c->vars->plain_roles == NULL) {
        return false;
    }
    for (const char *const *r = c->vars->plain_roles; *r != NULL; r++) {
        if (strlen(*r) == json_string_length(val) && strcmp(*r, json_string_value(val)) == 0) {
            return true;
        }
    }
    return false;
}

static bool from_object(jctx *c, const json_t *j, bool user, int depth, jval *out) {
    if (json_object_size(j) > UINT32_MAX / 4 ||
        !mk_j_dict_new(c, JV_DICT, (uint32_t)json_object_size(j), out)) {
        return mk_j_nomem(c);
    }
    // jansson's iterator wants a non-const object but does not change it
    json_t *obj = (json_t *)(uintptr_t)j;
    for (void *it = json_object_iter(obj); it != NULL; it = json_object_iter_next(obj, it)) {
        const char *name = json_object_iter_key(it);
        const json_t *member = json_object_iter_value(it);
        jval key = mk_j_str(name, strlen(name), user ? mk_j_user : NULL), val;
        if (!mk_j_from_json(c, member, user && !plain_role(c, name, member), depth + 1, &val) ||
            !dict_append(c, out->u.dict, &key, &val)) {
            return false;
        }
    }
    return true;
}

static bool from_array(jctx *c, const json_t *j, bool user, int depth, jval *out) {
    size_t n = json_array_size(j);
    if (n > UINT32_MAX / 4 || !mk_j_list_new(c, JV_LIST, (uint32_t)n, out)) {
        return mk_j_nomem(c);
    }
    for (size_t i = 0; i < n; i++) {
        jval v;
        if (!mk_j_from_json(c, json_array_get(j, i), user, depth + 1, &v) ||
            !mk_j_list_push(c, out->u.list, &v)) {
            return false;
        }
    }
    return true;
}

bool mk_j_from_json(jctx *c, const json_t *j, bool user, int depth, jval *out) {
    if (depth > MK_J_MAX_DATA_DEPTH) {
        return mk_j_limit(c, "the data is nested more than 200 levels deep");
    }
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return from_object(c, j, user, depth, out);
    case JSON_ARRAY:
        return from_array(c, j, user, depth, out);
    case JSON_STRING:
        if (json_string_length(j) > MK_J_MAX_BYTES) {
            return mk_j_limit(c, "a string of the data is over 256 MiB");
        }
        *out = mk_j_str(json_string_value(j), json_string_length(j), user ? mk_j_user : NULL);
        return true;
    case JSON_INTEGER:
        *out = mk_j_int(json_integer_value(j));
        return true;
    case JSON_REAL:
        *out = mk_j_float(json_real_value(j));
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = mk_j_bool(json_is_true(j));
        return true;
    default:
        *out = mk_j_none();
        return true;
    }
}
