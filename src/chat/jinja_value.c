// Values: construction, text under construction, truth, length, iteration.
// The rules are Python's; the error texts, too, where Python has one.
#include <string.h>

#include "chat/jinja_int.h"

const uint8_t mk_j_user[1] = {1};

// --- constructors --------------------------------------------------------------------------------
jval mk_j_none(void) {
    return (jval){.kind = JV_NONE};
}

jval mk_j_bool(bool b) {
    return (jval){.kind = JV_BOOL, .u.b = b};
}

jval mk_j_int(int64_t i) {
    return (jval){.kind = JV_INT, .u.i = i};
}

jval mk_j_float(double f) {
    return (jval){.kind = JV_FLOAT, .u.f = f};
}

jval mk_j_str(const char *p, size_t n, const uint8_t *tag) {
    return (jval){.kind = JV_STR, .n = (uint32_t)n, .u.p = p, .tag = tag};
}

jval mk_j_lit(const char *s) {
    return mk_j_str(s, strlen(s), NULL);
}

const uint8_t *mk_j_tag_at(const uint8_t *tag, size_t off) {
    return tag == NULL || tag == mk_j_user ? tag : tag + off;
}

bool mk_j_tag_bit(const uint8_t *tag, size_t at) {
    return tag != NULL && (tag == mk_j_user || tag[at] != 0);
}

jval mk_j_sub(const jval *s, size_t off, size_t n) {
    jval v = *s;
    v.u.p = s->u.p + off;
    v.n = (uint32_t)n;
    v.tag = mk_j_tag_at(s->tag, off);
    return v;
}

jval mk_j_undef(int how, jval_kind owner, jtext text) {
    return (jval){
        .kind = JV_UNDEF, .sub = (uint8_t)how, .owner = (uint8_t)owner, .n = text.n, .u.p = text.p};
}

jval mk_j_hint(const char *s) {
    return mk_j_undef(JU_HINT, JV_NONE, (jtext){s, (uint32_t)strlen(s)});
}

bool mk_j_list_new(jctx *c, jval_kind k, uint32_t cap, jval *out) {
    jlist *l = mk_j_alloc(c, 1, sizeof *l);
    if (l == NULL) {
        return false;
    }
    if (cap > 0 && (l->v = mk_j_alloc(c, cap, sizeof *l->v)) == NULL) {
        return false;
    }
    l->cap = cap;
    *out = (jval){.kind = (uint8_t)k, .u.list = l};
    return true;
}

bool mk_j_list_push(jctx *c, jlist *l, const jval *v) {
    if (l->n == l->cap) {
        uint32_t cap = l->cap == 0 ? 8 : l->cap * 2;
        jval *grown = l->cap > UINT32_MAX / 4 ? NULL : mk_j_alloc(c, cap, sizeof *grown);
        if (grown == NULL) {
            return mk_j_nomem(c);
        }
        if (l->n > 0) {
            memcpy(grown, l->v, l->n * sizeof *grown);
        }
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = *v;
    return mk_j_step(c);
}

bool mk_j_gen_new(jctx *c, jval *out) {
    jgen *g = mk_j_alloc(c, 1, sizeof *g);
    if (g == NULL) {
        return false;
    }
    *out = (jval){.kind = JV_GEN, .u.gen = g};
    return true;
}

// --- text under construction ---------------------------------------------------------------------
void mk_j_sb_init(jsb *b) {
    *b = (jsb){0};
}

static bool sb_reserve(jctx *c, jsb *b, size_t more) {
    size_t need;
    if (!mk_add_size(b->n, more, &need) || need > MK_J_MAX_BYTES / 2) {
        return mk_j_limit(c, "a string does not fit in the memory of a template");
    }
    if (need <= b->cap) {
        return true;
    }
    size_t cap = need < 48 ? 64 : need + need / 2;
    char *p = mk_j_alloc(c, cap, 1);
    uint8_t *tag = p != NULL && b->tag != NULL ? mk_j_alloc(c, cap, 1) : NULL;
    if (p == NULL || (b->tag != NULL && tag == NULL)) {
        return false;
    }
    if (b->n > 0) {
        memcpy(p, b->p, b->n);
    }
    if (tag != NULL) {
        memcpy(tag, b->tag, b->n);
        b->tag = tag;
    }
    b->p = p;
    b->cap = (uint32_t)cap;
    return true;
}

// From here on the origin is kept byte by byte.
static bool sb_mix(jctx *c, jsb *b) {
    b->tag = mk_j_alloc(c, b->cap, 1);
    if (b->tag == NULL) {
        return false;
    }
    memset(b->tag, b->user, b->n);
    return true;
}

bool mk_j_sb_add(jctx *c, jsb *b, const char *p, size_t n, const uint8_t *tag) {
    if (n == 0) {
        return true;
    }
    if (!sb_reserve(c, b, n) || !mk_j_steps(c, n / 256)) {
        return false;
    }
    bool uniform = tag == NULL || tag == mk_j_user;
    if (b->n == 0 && b->tag == NULL && uniform) {
        b->user = tag != NULL;
    }
    if (b->tag == NULL && (!uniform || b->user != (tag != NULL)) && !sb_mix(c, b)) {
        return false;
    }
    memcpy(b->p + b->n, p, n);
    if (b->tag != NULL && uniform) {
        memset(b->tag + b->n, tag != NULL, n);
    } else if (b->tag != NULL) {
        memcpy(b->tag + b->n, tag, n);
    }
    b->n += (uint32_t)n;
    return true;
}

bool mk_j_sb_puts(jctx *c, jsb *b, const char *s, const uint8_t *tag) {
    return mk_j_sb_add(c, b, s, strlen(s), tag);
}

bool mk_j_sb_val(jctx *c, jsb *b, const jval *str) {
    return mk_j_sb_add(c, b, str->u.p, str->n, str->tag);
}

jval mk_j_sb_done(const jsb *b) {
    const uint8_t *tag = b->tag != NULL ? b->tag : b->user ? mk_j_user : NULL;
    return mk_j_str(b->n > 0 ? b->p : "", b->n, tag);
}

// --- properties ----------------------------------------------------------------------------------
const char *mk_j_type_name(const jval *v) {
    static const char *const name[JV_N_KINDS] = {
        [JV_MISSING] = "missing",
        [JV_UNDEF] = "Undefined",
        [JV_NONE] = "NoneType",
        [JV_BOOL] = "bool",
        [JV_INT] = "int",
        [JV_FLOAT] = "float",
        [JV_STR] = "str",
        [JV_LIST] = "list",
        [JV_TUPLE] = "tuple",
        [JV_DICT] = "dict",
        [JV_NS] = "TemplateNamespace",
        [JV_VIEW] = "dict_items",
        [JV_RANGE] = "range",
        [JV_GEN] = "generator",
        [JV_LOOP] = "LoopContext",
        [JV_MACRO] = "Macro",
        [JV_FUNC] = "function",
        [JV_METHOD] = "builtin_function_or_method",
    };
    static const char *const view[] = {"dict_keys", "dict_values", "dict_items"};
    if (v->kind == JV_VIEW) {
        return view[v->sub];
    }
    return v->kind == JV_STR && v->sub ? "Markup" : name[v->kind];
}

bool mk_j_is_str(const jval *v) {
    return v->kind == JV_STR;
}

bool mk_j_truth(const jval *v) {
    switch ((jval_kind)v->kind) {
    case JV_MISSING:
    case JV_UNDEF:
    case JV_NONE:
        return false;
    case JV_BOOL:
        return v->u.b;
    case JV_INT:
        return v->u.i != 0;
    case JV_FLOAT:
        return v->u.f != 0;
    case JV_STR:
        return v->n > 0;
    case JV_LIST:
    case JV_TUPLE:
        return v->u.list->n > 0;
    case JV_DICT:
    case JV_VIEW:
        return v->u.dict->n > 0;
    case JV_RANGE:
        return v->u.range->n > 0;
    default:
        return true;
    }
}

bool mk_j_as_int(const jval *v, int64_t *out) {
    if (v->kind == JV_BOOL) {
        *out = v->u.b;
    } else if (v->kind == JV_INT) {
        *out = v->u.i;
    } else {
        return false;
    }
    return true;
}

bool mk_j_as_number(const jval *v, double *out) {
    int64_t i;
    if (v->kind == JV_FLOAT) {
        *out = v->u.f;
        return true;
    }
    if (!mk_j_as_int(v, &i)) {
        return false;
    }
    *out = (double)i;
    return true;
}

// Names appear as Python's repr() shows them.
bool mk_j_undef_error(jctx *c, const jval *v) {
    jval owner = {.kind = v->owner}, name = mk_j_str(v->u.p, v->n, NULL);
    const char *type = mk_j_type_name(&owner);
    const char *module = v->owner == JV_LOOP || v->owner == JV_MACRO ? "jinja2.runtime." : "";
    jsb b;
    mk_j_sb_init(&b);
    if (v->sub == JU_HINT) {
        return mk_j_raise(c, "%.*s", (int)(v->n > 400 ? 400 : v->n), v->u.p);
    }
    if (!mk_j_repr(c, &b, &name, 0)) {
        return false;
    }
    int n = b.n > 400 ? 400 : (int)b.n;
    if (v->sub == JU_NAME) {
        return mk_j_raise(c, "%.*s is undefined", n, b.p);
    }
    if (v->sub == JU_UNSAFE) {
        return mk_j_raise(c, "access to attribute %.*s of '%s' object is unsafe.", n, b.p, type);
    }
    if (v->owner == JV_NONE) {
        return mk_j_raise(c, "'None' has no attribute %.*s", n, b.p);
    }
    return mk_j_raise(c, "'%s%s object' has no attribute %.*s", module, type, n, b.p);
}

bool mk_j_iterable(const jval *v) {
    return v->kind == JV_UNDEF || (v->kind >= JV_STR && v->kind <= JV_LOOP && v->kind != JV_NS);
}

size_t mk_j_count_cp(const jval *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        n += ((unsigned char)s->u.p[i] & 0xc0) != 0x80;
    }
    return n;
}

bool mk_j_length(jctx *c, const jval *v, int64_t *out) {
    switch ((jval_kind)v->kind) {
    case JV_UNDEF:
        *out = 0;
        return true;
    case JV_STR:
        *out = (int64_t)mk_j_count_cp(v);
        return mk_j_steps(c, v->n / 256);
    case JV_LIST:
    case JV_TUPLE:
        *out = v->u.list->n;
        return true;
    case JV_DICT:
    case JV_VIEW:
        *out = v->u.dict->n;
        return true;
    case JV_RANGE:
        *out = v->u.range->n;
        return true;
    case JV_LOOP: {
        jval n;
        if (!mk_j_loop_attr(c, v->u.loop, JTEXT("length"), &n)) {
            return false;
        }
        *out = n.u.i;
        return true;
    }
    default:
        return mk_j_raise(c, "object of type '%s' has no len()", mk_j_type_name(v));
    }
}

// --- iteration -----------------------------------------------------------------------------------
bool mk_j_iter(jctx *c, const jval *v, jiter *it) {
    if (!mk_j_iterable(v)) {
        return mk_j_raise(c, "'%s' object is not iterable", mk_j_type_name(v));
    }
    *it = (jiter){.v = *v};
    return true;
}

static bool view_item(jctx *c, const jval *v, uint64_t i, jval *out) {
    const jentry *e = &v->u.dict->e[i];
    if (v->kind == JV_DICT || v->sub == 0) {
        *out = e->key;
        return true;
    }
    if (v->sub == 1) {
        *out = e->val;
        return true;
    }
    return mk_j_list_new(c, JV_TUPLE, 2, out) && mk_j_list_push(c, out->u.list, &e->key) &&
           mk_j_list_push(c, out->u.list, &e->val);
}

bool mk_j_next(jctx *c, jiter *it, jval *out, bool *more) {
    const jval *v = &it->v;
    uint64_t i = it->pos++;
    uint32_t cp;
    if (!mk_j_step(c)) {
        return false;
    }
    switch ((jval_kind)v->kind) {
    case JV_STR:
        *more = i < v->n;
        if (*more) {
            uint32_t k = mk_j_decode(v->u.p + i, v->u.p + v->n, &cp);
            *out = mk_j_sub(v, i, k);
            it->pos = i + k;
        }
        return true;
    case JV_LIST:
    case JV_TUPLE:
        *more = i < v->u.list->n;
        if (*more) {
            *out = v->u.list->v[i];
        }
        return true;
    case JV_DICT:
    case JV_VIEW:
        *more = i < v->u.dict->n;
        return !*more || view_item(c, v, i, out);
    case JV_RANGE:
        *more = i < (uint64_t)v->u.range->n;
        if (*more) {
            *out = mk_j_int(v->u.range->start + (int64_t)i * v->u.range->step);
        }
        return true;
    case JV_GEN:
        *more = v->u.gen->pos < v->u.gen->list.n;
        if (*more) {
            *out = v->u.gen->list.v[v->u.gen->pos++];
        }
        return true;
    case JV_LOOP:
        return mk_j_raise(c, "a loop object cannot be walked");
    default:
        *more = false;
        return true;
    }
}

bool mk_j_to_list(jctx *c, const jval *v, jval *out) {
    jiter it;
    jval item;
    bool more = true;
    if (!mk_j_iter(c, v, &it) || !mk_j_list_new(c, JV_LIST, 0, out)) {
        return false;
    }
    while (more) {
        if (!mk_j_next(c, &it, &item, &more) || (more && !mk_j_list_push(c, out->u.list, &item))) {
            return false;
        }
    }
    return true;
}
