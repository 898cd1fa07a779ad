#include "serve/shape.h"

#include <string.h>

#include "serve/jout.h"

#define MAX_TEXT ((size_t)1 << 28)

// --- turns ---------------------------------------------------------------------------------------

void mk_turn_init(mk_turn *t, const char *role) {
    *t = (mk_turn){.role = role};
    mk_buf_init(&t->text, MAX_TEXT);
    mk_buf_init(&t->reasoning, MAX_TEXT);
}

void mk_turn_free(mk_turn *t) {
    mk_buf_free(&t->text);
    mk_buf_free(&t->reasoning);
    json_decref(t->calls);
    json_decref(t->results);
    *t = (mk_turn){0};
}

void mk_turn_text(mk_turn *t, const char *between, const char *p, size_t n) {
    if (t->has_text) {
        mk_buf_puts(&t->text, between);
    }
    t->has_text = true;
    if (n > 0) {
        mk_buf_add(&t->text, p, n);
    }
}

static json_t *text_of(const mk_buf *b) {
    return json_stringn(b->data ? b->data : "", b->len);
}

static json_t *args_text(const json_t *args) {
    if (json_is_string(args)) {
        return json_stringn(json_string_value(args), json_string_length(args));
    }
    if (!args) {
        return json_string("{}");
    }
    mk_buf b;
    mk_buf_init(&b, MAX_TEXT);
    mk_jout_value(&b, args);
    json_t *v = b.failed ? NULL : text_of(&b);
    mk_buf_free(&b);
    return v;
}

void mk_turn_call(mk_turn *t, const char *id, const char *name, const json_t *args) {
    json_t *text = args_text(args);
    if (!text) {
        t->failed = true;
        return;
    }
    json_t *call = json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", id, "type", "function", "function",
                             "name", name, "arguments", text);
    t->calls = t->calls ? t->calls : json_array();
    (void)json_array_append_new(t->calls, call);
}

void mk_turn_result(mk_turn *t, const char *id, const char *name, const char *text, size_t n) {
    json_t *m = json_pack("{s:s, s:s, s:o}", "role", "tool", "tool_call_id", id, "content",
                          json_stringn(n > 0 ? text : "", n));
    if (name) {
        (void)json_object_set_new(m, "name", json_string(name));
    }
    t->results = t->results ? t->results : json_array();
    (void)json_array_append_new(t->results, m);
}

// Appends to a text of a message, or makes it.  While turns are merged the text is an array of its
// pieces: put together only once, many small turns cost no more than they are long.
static void join(json_t *m, const char *key, const char *between, const mk_buf *more) {
    json_t *old = json_object_get(m, key);
    if (json_is_string(old)) {
        json_t *pieces = json_array();
        (void)json_array_append(pieces, old);
        (void)json_object_set_new(m, key, pieces);
        old = pieces;
    }
    if (json_is_array(old)) {
        (void)json_array_append_new(old, json_string(between));
        (void)json_array_append_new(old, text_of(more));
    } else {
        (void)json_object_set_new(m, key, text_of(more));
    }
}

bool mk_shape_join(json_t *messages) {
    static const char *const keys[] = {"content", "reasoning_content"};
    size_t i, j;
    json_t *m, *piece;
    bool ok = true;
    json_array_foreach(messages, i, m) {
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
            json_t *pieces = json_object_get(m, keys[k]);
            if (!json_is_array(pieces)) {
                continue;
            }
            mk_buf b;
            mk_buf_init(&b, MAX_TEXT);
            json_array_foreach(pieces, j, piece) {
                mk_buf_add(&b, json_string_value(piece), json_string_length(piece));
            }
            ok = ok && !b.failed;
            (void)json_object_set_new(m, keys[k], text_of(&b));
            mk_buf_free(&b);
        }
    }
    return ok;
}

// The last message if it has this role and may grow, else a new one.
static json_t *message_of(json_t *messages, const char *role, bool merge) {
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *r = json_string_value(json_object_get(last, "role"));
    if (merge && r && strcmp(r, role) == 0) {
        return last;
    }
    json_t *m = json_pack("{s:s, s:n}", "role", role, "content");
    (void)json_array_append_new(messages, m);
    return m;
}

static void add_assistant(const mk_turn *t, bool merge, json_t *messages) {
    json_t *m = message_of(messages, "assistant", merge);
    // what an assistant said in pieces is one text: its pieces came from cutting it
    if (t->has_text) {
        join(m, "content", "", &t->text);
    }
    if (t->reasoning.len > 0) {
        join(m, "reasoning_content", "", &t->reasoning);
    }
    json_t *calls = json_object_get(m, "tool_calls");
    if (t->calls && calls) {
        (void)json_array_extend(calls, t->calls);
    } else if (t->calls) {
        (void)json_object_set(m, "tool_calls", t->calls);
    }
}

bool mk_turn_add(const mk_turn *t, bool merge, json_t *messages) {
    if (t->failed || t->text.failed || t->reasoning.failed) {
        return false;
    }
    if (strcmp(t->role, "assistant") == 0) {
        add_assistant(t, merge, messages);
        return true;
    }
    if (t->results) {
        (void)json_array_extend(messages, t->results);
    }
    if (t->has_text || !t->results) {
        bool system = strcmp(t->role, "system") == 0;
        join(message_of(messages, t->role, merge), "content", system ? "\n\n" : "\n", &t->text);
    }
    return true;
}

void mk_shape_end(mk_ask *ask) {
    size_t n = json_array_size(ask->messages);
    const json_t *last = n > 0 ? json_array_get(ask->messages, n - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0 || json_object_get(last, "tool_calls")) {
        return;
    }
    ask->continue_last = json_string_length(json_object_get(last, "content")) > 0;
    if (!ask->continue_last) {
        (void)json_array_remove(ask->messages, n - 1);
    }
}

// --- the rest ------------------------------------------------------------------------------------

void mk_shape_unknown(mk_ask *ask, const char *name) {
    size_t i;
    const json_t *v;
    ask->unknown = ask->unknown ? ask->unknown : json_array();
    json_array_foreach(ask->unknown, i, v) {
        if (strcmp(json_string_value(v), name) == 0) {
            return;
        }
    }
    (void)json_array_append_new(ask->unknown, json_string(name));
}
