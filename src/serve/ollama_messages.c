// Messages and tools of Ollama's /api/chat, the `context` of /api/generate, and durations.
//
// Ollama's tool calls have no ids: they get some in the order in which they stand, and a result
// belongs to the first call of its tool that has none yet.
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/ask_read.h"
#include "serve/duration.h"
#include "serve/jout.h"
#include "serve/ollama_int.h"
#include "serve/shape.h"

enum { MAX_OPEN = 1024 };  // older ones are forgotten: every result looks through all of them

typedef struct {
    mk_ask *ask;
    json_t *open;  // calls without a result: [id, name]
    int n_call;
} reading;

// --- tool calls ----------------------------------------------------------------------------------

// NULL if it is missing, null or empty.
static mk_status text_if(const mk_at *at, const json_t *o, const char *key, const char **out,
                         mk_err *err) {
    const json_t *v = json_object_get(o, key);
    *out = NULL;
    if (!v || json_is_null(v)) {
        return MK_OK;
    }
    MK_TRY(mk_at_text(MK_AT(at, key), v, out, err));
    *out = **out ? *out : NULL;
    return MK_OK;
}

static mk_status read_call(const mk_at *at, const json_t *v, reading *r, mk_turn *t, mk_err *err) {
    const mk_at inner = {at, "function", 0};
    const json_t *f = json_object_get(v, "function");
    if (!json_is_object(f)) {
        return mk_at_expected(&inner, err, f, "an object");
    }
    const char *id, *name;
    MK_TRY(text_if(at, v, "id", &id, err));
    MK_TRY(mk_at_text(MK_AT(&inner, "name"), json_object_get(f, "name"), &name, err));
    const json_t *args = json_object_get(f, "arguments");
    if (args && !json_is_null(args) && !json_is_object(args) && !json_is_string(args)) {
        return mk_at_expected(MK_AT(&inner, "arguments"), err, args, "an object");
    }
    char made[24];
    (void)snprintf(made, sizeof made, "call_%d", r->n_call++);
    id = id ? id : made;
    mk_turn_call(t, id, name, json_is_null(args) ? NULL : args);
    if (json_array_size(r->open) == MAX_OPEN) {
        (void)json_array_remove(r->open, 0);
    }
    (void)json_array_append_new(r->open, json_pack("[s, s]", id, name));
    return MK_OK;
}

// The first open call of that id, else of that name (NULL: of any); -1: none.
static int find_open(const reading *r, const char *id, const char *name) {
    size_t i;
    const json_t *pair;
    json_array_foreach(r->open, i, pair) {
        const char *want = id ? id : name;
        const char *has = json_string_value(json_array_get(pair, id ? 0 : 1));
        if (!want || strcmp(has, want) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static mk_status read_result(const mk_at *at, const json_t *v, reading *r, mk_turn *t,
                             mk_err *err) {
    const char *id, *name, *other;
    MK_TRY(text_if(at, v, "tool_call_id", &id, err));
    MK_TRY(text_if(at, v, "tool_name", &name, err));
    MK_TRY(text_if(at, v, "name", &other, err));
    name = name ? name : other;
    int k = find_open(r, id, name);
    k = k < 0 && !id ? find_open(r, NULL, NULL) : k;
    char made[24];
    (void)snprintf(made, sizeof made, "call_%d", r->n_call);
    json_t *pair = k < 0 ? NULL : json_incref(json_array_get(r->open, (size_t)k));
    if (k >= 0) {
        (void)json_array_remove(r->open, (size_t)k);
        id = json_string_value(json_array_get(pair, 0));
        name = name ? name : json_string_value(json_array_get(pair, 1));
    } else if (!id) {
        id = made;
        r->n_call++;
    }
    mk_turn_result(t, id, name, t->text.data, t->text.len);
    t->has_text = false;
    json_decref(pair);
    return MK_OK;
}

// --- messages ------------------------------------------------------------------------------------

static mk_status read_text(const mk_at *at, const json_t *v, mk_turn *t, mk_err *err) {
    const json_t *content = json_object_get(v, "content");
    if (content && !json_is_null(content)) {
        const char *s;
        MK_TRY(mk_at_text(MK_AT(at, "content"), content, &s, err));
        mk_turn_text(t, "", s, strlen(s));
    }
    const char *thinking;
    MK_TRY(text_if(at, v, "thinking", &thinking, err));
    mk_buf_puts(&t->reasoning, thinking ? thinking : "");
    const json_t *images = json_object_get(v, "images");
    if (images && !json_is_null(images) && json_array_size(images) > 0) {
        return mk_at_fail(MK_AT(at, "images"), err, MK_EUNSUPPORTED,
                          "images are not supported: this model reads text only");
    }
    return MK_OK;
}

static mk_status read_turn(const mk_at *at, const json_t *v, reading *r, mk_turn *t, mk_err *err) {
    MK_TRY(read_text(at, v, t, err));
    if (strcmp(t->role, "tool") == 0) {
        return read_result(at, v, r, t, err);
    }
    const json_t *calls = json_object_get(v, "tool_calls");
    if (!calls || json_is_null(calls)) {
        return MK_OK;
    }
    if (!json_is_array(calls)) {
        return mk_at_expected(MK_AT(at, "tool_calls"), err, calls, "an array");
    }
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const mk_at list = {at, "tool_calls", 0};
        MK_TRY(read_call(MK_NTH(&list, i), json_array_get(calls, i), r, t, err));
    }
    return MK_OK;
}

static mk_status read_message(const mk_at *at, const json_t *v, reading *r, mk_err *err) {
    static const char *const roles[][2] = {{"user", "user"},
                                           {"assistant", "assistant"},
                                           {"system", "system"},
                                           {"developer", "system"},
                                           {"tool", "tool"}};
    const json_t *role = json_object_get(v, "role");
    size_t k = 0;
    if (!json_is_object(v)) {
        return mk_at_expected(at, err, v, "a message");
    }
    while (k < 5 && (!json_is_string(role) || strcmp(roles[k][0], json_string_value(role)) != 0)) {
        k++;
    }
    if (k == 5) {
        return mk_at_expected(MK_AT(at, "role"), err, role,
                              "\"user\", \"assistant\", \"system\" or \"tool\"");
    }
    mk_turn t;
    mk_turn_init(&t, roles[k][1]);
    mk_status st = read_turn(at, v, r, &t, err);
    if (st == MK_OK && !mk_turn_add(&t, false, r->ask->messages)) {
        st = mk_at_fail(at, err, MK_ENOMEM, "no memory for the message");
    }
    mk_turn_free(&t);
    return st;
}

mk_status mk_ollama_messages(const mk_at *at, const json_t *v, mk_ask *ask, mk_err *err) {
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array of messages");
    }
    if (json_array_size(v) == 0) {
        return MK_OK;
    }
    ask->messages = json_array();
    reading r = {.ask = ask, .open = json_array()};
    mk_status st = MK_OK;
    for (size_t i = 0; i < json_array_size(v) && st == MK_OK; i++) {
        st = read_message(MK_NTH(at, i), json_array_get(v, i), &r, err);
    }
    json_decref(r.open);
    if (st == MK_OK) {
        st = mk_ask_settle_messages(ask, err);
    }
    mk_shape_end(ask);
    if (json_array_size(ask->messages) == 0) {
        json_decref(ask->messages);
        ask->messages = NULL;
    }
    return st;
}

// --- tools ---------------------------------------------------------------------------------------

static mk_status read_tool(const mk_at *at, const json_t *v, mk_ask *ask, mk_err *err) {
    const char *type;
    if (!json_is_object(v)) {
        return mk_at_expected(at, err, v, "a tool");
    }
    MK_TRY(text_if(at, v, "type", &type, err));
    if (type && strcmp(type, "function") != 0) {
        return mk_at_expected(MK_AT(at, "type"), err, json_object_get(v, "type"), "\"function\"");
    }
    return mk_ask_add_tool(ask, MK_AT(at, "function"), json_object_get(v, "function"), NULL, err);
}

mk_status mk_ollama_tools(const mk_at *at, const json_t *v, mk_ask *ask, mk_err *err) {
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array of tools");
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        MK_TRY(read_tool(MK_NTH(at, i), json_array_get(v, i), ask, err));
    }
    return MK_OK;
}

// --- context -------------------------------------------------------------------------------------

enum { CONTEXT_MAGIC = 0x6d6b3031, WORD = 4, CONTEXT_MAX = 1 << 26 };

void mk_ollama_context_add(mk_buf *out, const json_t *messages, const char *answer, size_t n) {
    json_t *all = json_array();
    (void)json_array_extend(all, (json_t *)(uintptr_t)messages);
    (void)json_array_append_new(all, json_pack("{s:s, s:o}", "role", "assistant", "content",
                                               json_stringn(n > 0 ? answer : "", n)));
    mk_buf b;
    mk_buf_init(&b, CONTEXT_MAX);
    mk_jout_value(&b, all);
    json_decref(all);
    out->failed = out->failed || b.failed;
    mk_buf_printf(out, "[%d,%zu", CONTEXT_MAGIC, b.len);
    for (size_t i = 0; i < b.len; i += WORD) {
        uint32_t word = 0;
        for (size_t k = 0; k < WORD && i + k < b.len; k++) {
            word |= (uint32_t)(unsigned char)b.data[i + k] << (8 * k);
        }
        mk_buf_printf(out, ",%u", word);
    }
    mk_buf_putc(out, ']');
    mk_buf_free(&b);
}

// The bytes of the numbers; false if they are none of ours.
static bool unpack(const json_t *v, mk_buf *b) {
    size_t n_word = json_array_size(v);
    const json_t *n = json_array_get(v, 1);
    if (n_word < 2 || json_integer_value(json_array_get(v, 0)) != CONTEXT_MAGIC ||
        json_integer_value(n) < 0 || json_integer_value(n) > CONTEXT_MAX) {
        return false;
    }
    size_t n_bytes = (size_t)json_integer_value(n);
    if (n_word - 2 != (n_bytes + WORD - 1) / WORD) {
        return false;
    }
    for (size_t i = 2; i < n_word; i++) {
        const json_t *word = json_array_get(v, i);
        json_int_t x = json_integer_value(word);
        if (!json_is_integer(word) || x < 0 || x > UINT32_MAX) {
            return false;
        }
        for (int k = 0; k < WORD; k++) {
            mk_buf_putc(b, (char)(unsigned char)((uint32_t)x >> (8 * k)));
        }
    }
    b->len = n_bytes;
    return !b->failed;
}

mk_status mk_ollama_context_read(const mk_at *at, const json_t *v, json_t **messages, mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, CONTEXT_MAX + WORD);
    json_t *list = NULL;
    mk_err inner = {0};
    mk_status st = MK_EUSAGE;
    if (unpack(v, &b) &&
        mk_json_parse(b.data ? b.data : "", b.len, "context", &list, &inner) == MK_OK) {
        // the same checks as for messages that come openly
        mk_ask ask = {0};
        st = mk_ollama_messages(at, list, &ask, &inner);
        *messages = ask.messages;
    }
    json_decref(list);
    mk_buf_free(&b);
    if (st == MK_OK && *messages) {
        return MK_OK;
    }
    json_decref(*messages);
    *messages = NULL;
    return mk_at_fail(at, err, MK_EUSAGE,
                      "expected the context of an earlier answer of this server; /api/chat takes "
                      "messages");
}

// --- durations and times -------------------------------------------------------------------------

mk_status mk_ollama_duration(const mk_at *at, const json_t *v, double *seconds, mk_err *err) {
    static const char what[] = "seconds or a duration such as \"10m\", negative for ever";
    enum { MAX_TEXT = 64 };
    if (json_is_number(v)) {
        *seconds = json_number_value(v);
        return MK_OK;
    }
    const char *s = json_string_value(v);
    bool fits = s && json_string_length(v) <= MAX_TEXT && mk_duration_parse(s, seconds);
    return fits ? MK_OK : mk_at_expected(at, err, v, what);
}

void mk_ollama_time(mk_buf *out, int64_t seconds) {
    time_t t = (time_t)seconds;
    struct tm tm = {0};
    char text[40] = "1970-01-01T00:00:00Z";
    if (gmtime_r(&t, &tm) && tm.tm_year < 9999 - 1900) {
        (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    }
    mk_buf_puts(out, text);
}
