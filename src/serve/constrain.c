// The last few grammars, found by what they were compiled from.
#include "serve/constrain.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { N_KEPT = 16 };
#define KEY_MAX  ((size_t)64 << 20)
#define KEEP_MAX ((size_t)1 << 20)  // texts longer than this are compiled each time

typedef struct {
    char *key;
    size_t n_key;
    mk_grammar *grammar;
    uint64_t used;
} kept;

struct mk_constraints {
    pthread_mutex_t lock;
    kept kept[N_KEPT];
    uint64_t clock;
};

mk_constraints *mk_constraints_create(void) {
    mk_constraints *c = mk_zalloc(sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void mk_constraints_destroy(mk_constraints *c) {
    if (!c) {
        return;
    }
    for (int i = 0; i < N_KEPT; i++) {
        mk_free(c->kept[i].key);
        mk_grammar_unref(c->kept[i].grammar);
    }
    pthread_mutex_destroy(&c->lock);
    mk_free(c);
}

static mk_status compile(const mk_ask *a, mk_grammar **out, mk_err *err) {
    const char *text = a->pattern ? a->pattern : "";
    switch (a->format) {
    case MK_FORMAT_TEXT:
        break;
    case MK_FORMAT_JSON:
        return mk_grammar_from_json_object(out, err);
    case MK_FORMAT_SCHEMA:
        return mk_grammar_from_schema(a->schema, NULL, out, err);
    case MK_FORMAT_REGEX:
        return mk_grammar_from_regex(text, strlen(text), NULL, out, err);
    case MK_FORMAT_CHOICE:
        return mk_grammar_from_choice(a->schema, NULL, out, err);
    case MK_FORMAT_GBNF:
        return mk_grammar_from_gbnf(text, strlen(text), NULL, out, err);
    }
    *out = NULL;
    return MK_OK;
}

static mk_grammar *find(mk_constraints *c, const mk_buf *key) {
    mk_grammar *found = NULL;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < N_KEPT && !found; i++) {
        kept *k = &c->kept[i];
        if (k->grammar && k->n_key == key->len && memcmp(k->key, key->data, key->len) == 0) {
            k->used = ++c->clock;
            found = k->grammar;
            mk_grammar_ref(found);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

static void keep(mk_constraints *c, mk_buf *key, mk_grammar *g) {
    pthread_mutex_lock(&c->lock);
    kept *k = &c->kept[0];
    for (int i = 1; i < N_KEPT; i++) {
        k = c->kept[i].used < k->used ? &c->kept[i] : k;
    }
    mk_free(k->key);
    mk_grammar_unref(k->grammar);
    mk_grammar_ref(g);
    *k = (kept){.n_key = key->len, .grammar = g, .used = ++c->clock};
    k->key = mk_buf_detach(key);
    pthread_mutex_unlock(&c->lock);
}

mk_status mk_constraints_get(mk_constraints *c, const mk_ask *a, mk_grammar **out, mk_err *err) {
    *out = NULL;
    if (a->format == MK_FORMAT_TEXT) {
        return MK_OK;
    }
    if (json_array_size(a->tools) > 0 && a->tool_choice != MK_TOOLS_NONE) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "/response_format: a form of the answer and tools in one request are not "
                       "supported; leave one of them out, or set tool_choice to none");
    }
    mk_buf key;
    mk_buf_init(&key, KEY_MAX);
    mk_buf_printf(&key, "%d ", a->format);
    if (a->schema) {
        mk_json_add(&key, a->schema);
    }
    mk_buf_puts(&key, a->pattern ? a->pattern : "");
    bool keeps = !key.failed && key.len <= KEEP_MAX;
    *out = keeps ? find(c, &key) : NULL;
    mk_status st = *out ? MK_OK : compile(a, out, err);
    if (st == MK_OK && keeps && key.data) {
        keep(c, &key, *out);
    }
    mk_buf_free(&key);
    return st;
}
