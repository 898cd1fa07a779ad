// Tools and messages of a request (serve/ask_read.h).
#include <string.h>

#include "base/alloc.h"
#include "serve/ask_read.h"
#include "serve/jout.h"

enum { MAX_NAME = 256, MAX_TOOLS = 1024 };

// --- tools ---------------------------------------------------------------------------------------

// JSON as a string value, its numbers to the last bit; NULL without memory.
static json_t *json_as_text(const json_t *v) {
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_jout_value(&b, v);
    json_t *s = b.failed ? NULL : json_stringn(b.data ? b.data : "", b.len);
    mk_buf_free(&b);
    return s;
}

typedef struct {
    char *name;
    json_t *parameters;
    bool strict;
} tool_fields;

static mk_status read_parameters(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    if (!json_is_object(v)) {
        return mk_at_expected(at, err, v, "a JSON schema (an object)");
    }
    ((tool_fields *)to)->parameters = (json_t *)(uintptr_t)v;
    return MK_OK;
}

static void append_tool(mk_ask *a, const tool_fields *t, json_t *description, const char *prefix) {
    json_t *f = json_object(), *tool = json_object();
    (void)json_object_set_new(f, "name", json_sprintf("%s%s", prefix ? prefix : "", t->name));
    if (description) {
        (void)json_object_set_new(f, "description", description);
    }
    // an empty schema has neither type nor properties, which templates look at
    json_t *p = t->parameters ? json_copy(t->parameters) : json_object();
    if (json_object_size(p) == 0) {
        (void)json_object_set_new(p, "type", json_string("object"));
        (void)json_object_set_new(p, "properties", json_object());
    }
    (void)json_object_set_new(f, "parameters", p);
    if (t->strict) {
        (void)json_object_set_new(f, "strict", json_true());
    }
    (void)json_object_set_new(tool, "type", json_string("function"));
    (void)json_object_set_new(tool, "function", f);
    a->tools = a->tools ? a->tools : json_array();
    (void)json_array_append_new(a->tools, tool);
}

mk_status mk_ask_add_tool(mk_ask *a, const mk_at *at, const json_t *function, const char *prefix,
                          mk_err *err) {
    static const mk_field rows[] = {
        {"name", MK_F_TEXT, 1, MAX_NAME, .at = offsetof(tool_fields, name)},
        {"parameters", MK_F_READ, .read = read_parameters},
        {"strict", MK_F_LAX_BOOL, .at = offsetof(tool_fields, strict)},
    };
    tool_fields t = {0};
    mk_status st = mk_fields_read(function, at, &MK_FIELDS(rows), &t, NULL, err);
    if (st == MK_OK && !t.name) {
        st = mk_at_fail(MK_AT(at, "name"), err, MK_EUSAGE, "expected a name, got nothing");
    }
    if (st == MK_OK && json_array_size(a->tools) >= MAX_TOOLS) {
        st = mk_at_fail(at, err, MK_EUSAGE, "expected at most %d tools", MAX_TOOLS);
    }
    if (st == MK_OK) {
        const json_t *text = json_object_get(function, "description");
        json_t *description = NULL;
        if (text && !json_is_null(text)) {
            description =
                json_is_string(text) ? json_incref((json_t *)(uintptr_t)text) : json_as_text(text);
            st = description ? MK_OK : mk_at_fail(at, err, MK_ENOMEM, "no memory for the text");
        }
        if (st == MK_OK) {
            append_tool(a, &t, description, prefix);
        }
    }
    mk_free(t.name);
    return st;
}

// Values that lack memory lack members: "" then, and the request fails in the end (answering.c).
static const char *text_or_empty(const json_t *v) {
    const char *text = json_string_value(v);
    return text ? text : "";
}

static const char *tool_name(const json_t *tool) {
    return text_or_empty(json_object_get(json_object_get(tool, "function"), "name"));
}

static bool has_tool(const mk_ask *a, const char *name) {
    size_t i;
    json_t *tool;
    json_array_foreach(a->tools, i, tool) {
        if (strcmp(tool_name(tool), name) == 0) {
            return true;
        }
    }
    return false;
}

void mk_tool_full_name(const char *space, const char *name, mk_buf *out) {
    size_t n = space ? strlen(space) : 0;
    if (n > 0) {
        bool has_line = n >= 2 && strcmp(space + n - 2, "__") == 0;
        mk_buf_printf(out, has_line ? "%s" : "%s__", space);
    }
    mk_buf_puts(out, name);
}

// The name in {"function": {"name"}} or {"name"}; with a namespace in front where there is one.
static mk_status named_tool(const mk_ask *a, const mk_at *at, const json_t *v, char **out,
                            mk_err *err) {
    const json_t *f = json_object_get(v, "function");
    const mk_at *here = f ? MK_AT(at, "function") : at;
    const char *name, *space = json_string_value(json_object_get(v, "namespace"));
    const json_t *n = json_object_get(f ? f : v, "name");
    MK_TRY(mk_at_text(MK_AT(here, "name"), n, &name, err));
    mk_buf b;
    mk_buf_init(&b, 4096);
    mk_tool_full_name(space, name, &b);
    *out = mk_buf_detach(&b);
    if (!*out || !has_tool(a, *out)) {
        mk_free(*out);
        *out = NULL;
        return mk_at_fail(MK_AT(here, "name"), err, MK_EUSAGE, "no tool is called \"%s\"", name);
    }
    return MK_OK;
}

static mk_status choice_word(mk_ask *a, const mk_at *at, const json_t *v, mk_err *err) {
    static const struct {
        const char *name;
        mk_tool_choice choice;
    } rows[] = {{"auto", MK_TOOLS_AUTO},
                {"none", MK_TOOLS_NONE},
                {"required", MK_TOOLS_REQUIRED},
                {"any", MK_TOOLS_REQUIRED}};
    for (size_t i = 0; json_is_string(v) && i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(json_string_value(v), rows[i].name) == 0) {
            a->tool_choice = rows[i].choice;
            if (a->tool_choice == MK_TOOLS_REQUIRED && json_array_size(a->tools) == 0) {
                return mk_at_fail(at, err, MK_EUSAGE, "a tool is required, but there are no tools");
            }
            return MK_OK;
        }
    }
    return mk_at_expected(at, err, v, "\"auto\", \"none\", \"required\" or a function");
}

// Keeps the tools that are allowed, in their own order.
static mk_status allow_tools(mk_ask *a, const mk_at *at, const json_t *v, mk_err *err) {
    const json_t *inner = json_object_get(v, "allowed_tools"), *mode, *list;
    mk_at nested = {at, "allowed_tools", 0};
    at = inner ? &nested : at;
    v = inner ? inner : v;
    list = json_object_get(v, "tools");
    mode = json_object_get(v, "mode");
    if (!json_is_array(list) || json_array_size(list) > MAX_TOOLS) {
        return mk_at_expected(MK_AT(at, "tools"), err, list, "an array of at most 1024 tools");
    }
    json_t *names = json_object(), *kept = json_array(), *e;
    mk_status st = MK_OK;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i, e) {
        char *name = NULL;
        st = st == MK_OK ? named_tool(a, MK_NTH(MK_AT(at, "tools"), i), e, &name, err) : st;
        if (name) {
            (void)json_object_set_new(names, name, json_true());
        }
        mk_free(name);
    }
    json_array_foreach(a->tools, i, e) {
        if (json_object_get(names, tool_name(e))) {
            (void)json_array_append(kept, e);
        }
    }
    json_decref(names);
    json_decref(a->tools);
    a->tools = kept;
    return st != MK_OK || !mode ? st : choice_word(a, MK_AT(at, "mode"), mode, err);
}

mk_status mk_read_tool_choice(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_object(v)) {
        return choice_word(a, at, v, err);
    }
    const json_t *t = json_object_get(v, "type");
    const char *type = "function";
    if (t) {
        MK_TRY(mk_at_text(MK_AT(at, "type"), t, &type, err));
    }
    if (strcmp(type, "allowed_tools") == 0) {
        return allow_tools(a, at, v, err);
    }
    if (strcmp(type, "function") != 0) {
        return mk_at_fail(MK_AT(at, "type"), err, MK_EUNSUPPORTED,
                          "is not supported: \"%.60s\"; \"function\" and \"allowed_tools\" are",
                          type);
    }
    MK_TRY(named_tool(a, at, v, &a->tool_name, err));
    a->tool_choice = MK_TOOLS_NAMED;
    return MK_OK;
}

// --- contents ------------------------------------------------------------------------------------

typedef enum { PART_TEXT, PART_REASONING, PART_NOTHING, PART_REFUSED } part_kind;

static const struct {
    const char *type, *key;  // key: where the text stands; what a refused one is
    part_kind kind;
} parts[] = {
    {"text", "text", PART_TEXT},
    {"input_text", "text", PART_TEXT},
    {"output_text", "text", PART_TEXT},
    {"refusal", "refusal", PART_TEXT},
    {"summary_text", "text", PART_REASONING},
    {"reasoning_text", "text", PART_REASONING},
    {"thinking", "thinking", PART_REASONING},
    {"reasoning", "text", PART_REASONING},
    {"redacted_thinking", NULL, PART_NOTHING},
    {"image_url", "images", PART_REFUSED},
    {"input_image", "images", PART_REFUSED},
    {"image", "images", PART_REFUSED},
    {"computer_screenshot", "images", PART_REFUSED},
    {"input_audio", "sound", PART_REFUSED},
    {"audio_url", "sound", PART_REFUSED},
    {"video_url", "video", PART_REFUSED},
    {"input_video", "video", PART_REFUSED},
    {"file", "files", PART_REFUSED},
    {"input_file", "files", PART_REFUSED},
    {"document", "files", PART_REFUSED},
};

static void join(mk_buf *b, const json_t *text) {
    if (b->len && json_string_length(text)) {
        mk_buf_putc(b, '\n');
    }
    mk_buf_add(b, json_string_value(text), json_string_length(text));
}

static mk_status add_part(const mk_at *at, const json_t *part, mk_buf *text, mk_buf *reasoning,
                          mk_err *err) {
    if (json_is_string(part)) {
        join(text, part);
        return MK_OK;
    }
    if (!json_is_object(part)) {
        return mk_at_expected(at, err, part, "an object with a type");
    }
    const json_t *t = json_object_get(part, "type");
    const char *type = "text";
    if (t) {
        MK_TRY(mk_at_text(MK_AT(at, "type"), t, &type, err));
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strcmp(type, parts[i].type) != 0) {
            continue;
        }
        if (parts[i].kind == PART_REFUSED) {
            return mk_at_fail(at, err, MK_EUNSUPPORTED,
                              "is not supported: this server reads text, not %s", parts[i].key);
        }
        const json_t *s = parts[i].key ? json_object_get(part, parts[i].key) : NULL;
        if (parts[i].key && !json_is_string(s) && !json_is_null(s)) {
            return mk_at_expected(MK_AT(at, parts[i].key), err, s, "a string");
        }
        if (json_is_string(s)) {
            join(parts[i].kind == PART_TEXT ? text : reasoning, s);
        }
        return MK_OK;
    }
    return mk_at_fail(MK_AT(at, "type"), err, MK_EUNSUPPORTED,
                      "is not supported: content of the type \"%.60s\"", type);
}

mk_status mk_at_content(const mk_at *at, const json_t *v, json_t **text, json_t **reasoning,
                        mk_err *err) {
    *text = NULL;
    if (reasoning) {
        *reasoning = NULL;
    }
    if (!v || json_is_null(v)) {
        *text = json_string("");
        return MK_OK;
    }
    if (json_is_string(v)) {
        *text = json_incref((json_t *)(uintptr_t)v);
        return MK_OK;
    }
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "a string or an array of parts");
    }
    mk_buf t, r;
    mk_buf_init(&t, SIZE_MAX - 1);
    mk_buf_init(&r, SIZE_MAX - 1);
    mk_status st = MK_OK;
    size_t i;
    json_t *part;
    json_array_foreach((json_t *)(uintptr_t)v, i, part) {
        st = st == MK_OK ? add_part(MK_NTH(at, i), part, &t, &r, err) : st;
    }
    if (st == MK_OK && (t.failed || r.failed)) {
        st = mk_at_fail(at, err, MK_ENOMEM, "no memory for the text");
    }
    if (st == MK_OK) {
        *text = json_stringn(t.data ? t.data : "", t.len);
        if (reasoning && r.len) {
            *reasoning = json_stringn(r.data, r.len);
        }
    }
    mk_buf_free(&t);
    mk_buf_free(&r);
    return st;
}

// --- messages ------------------------------------------------------------------------------------

mk_status mk_at_arguments(const mk_at *at, const json_t *v, json_t **out, mk_err *err) {
    *out = NULL;
    if (json_is_string(v)) {
        *out = json_incref((json_t *)(uintptr_t)v);
    } else if (json_is_object(v)) {
        *out = json_as_text(v);
    } else if (!v || json_is_null(v)) {
        *out = json_string("{}");
    } else {
        return mk_at_expected(at, err, v, "a string of JSON");
    }
    return *out ? MK_OK : mk_at_fail(at, err, MK_ENOMEM, "no memory for the text");
}

json_t *mk_ask_add_message(mk_ask *a, const char *role, json_t *content) {
    json_t *m = json_object();
    (void)json_object_set_new(m, "role", json_string(role));
    (void)json_object_set_new(m, "content", content);
    a->messages = a->messages ? a->messages : json_array();
    (void)json_array_append_new(a->messages, m);
    return m;
}

void mk_message_add_call(json_t *message, const char *id, const char *name, json_t *arguments) {
    json_t *calls = json_object_get(message, "tool_calls");
    if (!calls) {
        calls = json_array();
        (void)json_object_set_new(message, "tool_calls", calls);
    }
    json_t *call = json_object(), *f = json_object();
    (void)json_object_set_new(f, "name", json_string(name));
    (void)json_object_set_new(f, "arguments", arguments);
    (void)json_object_set_new(call, "id", json_string(id));
    (void)json_object_set_new(call, "type", json_string("function"));
    (void)json_object_set_new(call, "function", f);
    (void)json_array_append_new(calls, call);
}

static const char *role_of(const json_t *m) {
    return text_or_empty(json_object_get(m, "role"));
}

static mk_status merge_system(mk_ask *a, mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    size_t n = 0, i;
    json_t *m;
    json_array_foreach(a->messages, i, m) {
        if (strcmp(role_of(m), "system") != 0) {
            break;
        }
        const json_t *text = json_object_get(m, "content");
        if (b.len && json_string_length(text)) {
            mk_buf_puts(&b, "\n\n");
        }
        mk_buf_add(&b, json_string_value(text), json_string_length(text));
        n++;
    }
    if (b.failed) {
        mk_buf_free(&b);
        return MK_FAIL(err, MK_ENOMEM, "/messages: no memory for the text");
    }
    json_t *merged = n > 1 ? json_array() : NULL;
    if (merged) {
        m = json_array_get(a->messages, 0);
        (void)json_object_set_new(m, "content", json_stringn(b.data ? b.data : "", b.len));
        (void)json_array_append(merged, m);
        for (i = n; i < json_array_size(a->messages); i++) {
            (void)json_array_append(merged, json_array_get(a->messages, i));
        }
        json_decref(a->messages);
        a->messages = merged;
    }
    mk_buf_free(&b);
    return MK_OK;
}

mk_status mk_ask_settle_messages(mk_ask *a, mk_err *err) {
    MK_TRY(merge_system(a, err));
    json_t *names = json_object(), *m, *call;  // id -> name
    size_t i, j;
    json_array_foreach(a->messages, i, m) {
        json_array_foreach(json_object_get(m, "tool_calls"), j, call) {
            const char *id = json_string_value(json_object_get(call, "id"));
            json_t *name = json_object_get(json_object_get(call, "function"), "name");
            if (id) {
                (void)json_object_set(names, id, name);
            }
        }
        const char *id = json_string_value(json_object_get(m, "tool_call_id"));
        json_t *name = id ? json_object_get(names, id) : NULL;
        if (name && !json_object_get(m, "name")) {
            (void)json_object_set(m, "name", name);
        }
    }
    json_decref(names);
    return MK_OK;
}
