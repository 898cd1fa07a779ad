// The last few grammars, found by what they were compiled from.
#include "serve/constrain.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "chat/call_frame.h"
#include "serve/jout.h"

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

// --- answers with calls --------------------------------------------------------------------------

static const json_t *function_of(const mk_ask *a, size_t i) {
    return json_object_get(json_array_get(a->tools, i), "function");
}

static bool is_strict(const mk_ask *a, size_t i) {
    return json_is_true(json_object_get(function_of(a, i), "strict"));
}

static bool any_strict(const mk_ask *a) {
    for (size_t i = 0; i < json_array_size(a->tools); i++) {
        if (is_strict(a, i)) {
            return true;
        }
    }
    return false;
}

static bool must_call(const mk_ask *a) {
    return a->tool_choice == MK_TOOLS_REQUIRED || a->tool_choice == MK_TOOLS_NAMED;
}

// Without the schema, if nobody asked for all of it and it cannot be enforced: any arguments.
static void relax(const mk_ask *a, size_t i, const mk_grammar_calls *all, mk_grammar_call *one) {
    mk_grammar_calls alone = *all;
    mk_grammar *g = NULL;
    mk_err ignored;
    if (is_strict(a, i)) {
        return;
    }
    alone.call = one;
    alone.n = 1;
    alone.form = MK_FORM_NONE;
    if (!must_call(a) || mk_grammar_from_calls(&alone, NULL, &g, &ignored) != MK_OK) {
        one->schema = NULL;
    }
    mk_grammar_unref(g);
}

// Texts of all calls; to be freed with free_calls.
static mk_status make_calls(const mk_ask *a, const mk_call_frame *f, mk_grammar_calls *c,
                            mk_err *err) {
    size_t n = json_array_size(a->tools);
    mk_grammar_call *call = mk_try_alloc(n + 1, sizeof *call);
    if (!call) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu tools", n);
    }
    c->call = call;
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_object_get(function_of(a, i), "name"));
        if (a->tool_choice == MK_TOOLS_NAMED && strcmp(name, a->tool_name) != 0) {
            continue;
        }
        if (!mk_call_name_fits(name)) {
            return MK_FAIL(err, MK_EUSAGE,
                           "/tools/%zu: \"%.80s\": expected at most 128 letters, digits, \"_\", "
                           "\"-\" or \".\" in the name of a tool whose calls are constrained",
                           i, name);
        }
        mk_buf where;
        mk_buf_init(&where, 256);
        mk_buf_printf(&where, "/tools/%zu/function/parameters", i);
        call[c->n++] = (mk_grammar_call){.first = mk_call_frame_text(&f->first, name),
                                         .next = mk_call_frame_text(&f->next, name),
                                         .schema = json_object_get(function_of(a, i), "parameters"),
                                         .where = mk_buf_detach(&where)};
        if (!call[c->n - 1].first || !call[c->n - 1].next) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for %zu tools", n);
        }
        relax(a, i, c, &call[c->n - 1]);
    }
    return MK_OK;
}

static void free_calls(mk_grammar_calls *c) {
    for (size_t i = 0; i < c->n; i++) {
        mk_free((void *)(uintptr_t)c->call[i].first);
        mk_free((void *)(uintptr_t)c->call[i].next);
        mk_free((void *)(uintptr_t)c->call[i].where);
    }
    mk_free((void *)(uintptr_t)c->call);
}

static mk_status refuse(const mk_ask *a, const char *why, mk_err *err) {
    return MK_FAIL(err, MK_EUNSUPPORTED, "%s: not supported with this model: %s",
                   must_call(a)                  ? "/tool_choice"
                   : a->format != MK_FORMAT_TEXT ? "/response_format (with tools)"
                                                 : "/tools (strict)",
                   why);
}

static mk_status compile_calls(const mk_ask *a, const mk_call_frame *f, mk_grammar **out,
                               mk_err *err) {
    static const mk_grammar_form forms[] = {
        [MK_FORMAT_TEXT] = MK_FORM_NONE,     [MK_FORMAT_JSON] = MK_FORM_JSON,
        [MK_FORMAT_SCHEMA] = MK_FORM_SCHEMA, [MK_FORMAT_REGEX] = MK_FORM_REGEX,
        [MK_FORMAT_CHOICE] = MK_FORM_CHOICE, [MK_FORMAT_GBNF] = MK_FORM_GBNF};
    mk_grammar_calls c = {
        .tail = f->tail.data,
        .max = a->parallel_tools ? f->max : 1,
        .trigger = f->trigger.data,
        .open = f->kind == MK_CALLS_OPEN,
        .params = f->kind == MK_CALLS_PARAMS ? &f->params : NULL,
        .headers = f->kind == MK_CALLS_HEADERS ? &f->headers : NULL,
        .may_be_text = !must_call(a),
        .form = forms[a->format],
        .schema = a->schema,
        .pattern = a->pattern,
    };
    bool in_text = c.may_be_text && c.form == MK_FORM_NONE;
    if (c.open && (must_call(a) || any_strict(a))) {
        return refuse(a, f->why_not, err);
    }
    if ((in_text || c.open) && !c.headers && f->trigger.len == 0) {
        return refuse(a, "its calls do not begin with a mark", err);
    }
    mk_status st = c.open ? MK_OK : make_calls(a, f, &c, err);
    st = st == MK_OK ? mk_grammar_from_calls(&c, NULL, out, err) : st;
    free_calls(&c);
    return st;
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

// All that a grammar is compiled from.
static void add_key(mk_buf *key, const mk_ask *a, const mk_call_frame *f) {
    mk_buf_printf(key, "%d ", a->format);
    if (a->schema) {
        mk_jout_value(key, a->schema);
    }
    mk_buf_puts(key, a->pattern ? a->pattern : "");
    if (f) {
        const mk_buf *text[] = {&f->first,   &f->next,    &f->tail,    &f->trigger,
                                &f->part[0], &f->part[1], &f->part[2], &f->part[3],
                                &f->part[4], &f->part[5], &f->part[6]};
        const mk_grammar_params *p = &f->params;
        mk_buf_printf(key, "\n%d %d %d %u %s\n%d %d %d %s\n", f->kind, a->tool_choice,
                      a->parallel_tools, f->max, a->tool_name ? a->tool_name : "", p->values,
                      p->bare, p->sorted, p->avoid ? p->avoid : "");
        mk_jout_value(key, a->tools);
        for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
            mk_buf_printf(key, "\n%zu ", text[i]->len);
            mk_buf_add(key, text[i]->data ? text[i]->data : "", text[i]->len);
        }
    }
}

static mk_status get(mk_constraints *c, const mk_ask *a, const mk_call_frame *f, mk_grammar **out,
                     mk_err *err) {
    mk_buf key;
    mk_buf_init(&key, KEY_MAX);
    add_key(&key, a, f);
    bool keeps = !key.failed && key.len <= KEEP_MAX;
    *out = keeps ? find(c, &key) : NULL;
    mk_status st = *out ? MK_OK : f ? compile_calls(a, f, out, err) : compile(a, out, err);
    if (st == MK_OK && keeps && key.data && *out) {
        keep(c, &key, *out);
    }
    mk_buf_free(&key);
    return st;
}

mk_status mk_constraints_get(mk_constraints *c, const mk_llm *llm, const mk_ask *a,
                             mk_grammar **out, mk_err *err) {
    *out = NULL;
    bool calls = json_array_size(a->tools) > 0 && a->tool_choice != MK_TOOLS_NONE && a->messages;
    if (a->format == MK_FORMAT_TEXT && (!calls || !(must_call(a) || any_strict(a)))) {
        return MK_OK;
    }
    if (!calls) {
        return get(c, a, NULL, out, err);
    }
    mk_call_frame f;
    mk_status st = mk_call_frame_find(mk_llm_template(llm), mk_llm_tokenizer(llm), &f, err);
    if (st == MK_OK && !f.has_calls && !must_call(a)) {
        // a model that writes no calls: only the form is left to hold
        st = a->format == MK_FORMAT_TEXT ? MK_OK : get(c, a, NULL, out, err);
    } else if (st == MK_OK && !f.has_calls) {
        st = refuse(a, f.why_not, err);
    } else if (st == MK_OK) {
        st = get(c, a, &f, out, err);
    }
    mk_call_frame_free(&f);
    return st;
}
