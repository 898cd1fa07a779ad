// What a list of messages must be: roles, contents, tool calls, and no field that nobody reads.
#include <string.h>

#include "base/json.h"
#include "base/opt.h"
#include "train/data_int.h"

static bool given(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v);
}

static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
static const char *const message_fields[] = {
    "role",      "content",  "name",   "tool_calls", "tool_call_id", "reasoning_content",
    "reasoning", "thinking", "weight", "train"};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

bool mk_is_one_of(const char *s, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s, list[i]) == 0) {
            return true;
        }
    }
    return false;
}

bool mk_message_is(const json_t *m, const char *role) {
    const char *r = json_string_value(json_object_get(m, "role"));
    return r && strcmp(r, role) == 0;
}

static mk_status check_role(const json_t *m, const char *what, size_t i, mk_err *err) {
    const json_t *role = json_object_get(m, "role");
    if (!json_is_string(role)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s[%zu].role: expected a string, got %s", what, i,
                       mk_json_type_name(role));
    }
    const char *s = json_string_value(role);
    if (!mk_is_one_of(s, roles, COUNT(roles))) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s[%zu].role: expected system, developer, user, assistant or tool, got "
                       "\"%.60s\"",
                       what, i, s);
    }
    return MK_OK;
}

bool mk_json_is_blank(const json_t *v) {
    const char *s = json_string_value(v);
    if (json_is_array(v)) {
        return json_array_size(v) == 0;
    }
    for (size_t i = 0; s && i < json_string_length(v); i++) {
        if (!strchr(" \t\r\n", s[i]) || !s[i]) {
            return false;
        }
    }
    return true;
}

static mk_status check_parts(const json_t *parts, const char *what, size_t i, mk_err *err) {
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *p = json_array_get(parts, k);
        const char *type = json_string_value(json_object_get(p, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(json_object_get(p, "text"))) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "%s[%zu].content[%zu]: expected {\"type\": \"text\", \"text\": string}, "
                           "got %s of type %.40s",
                           what, i, k, mk_json_type_name(p), type ? type : "none");
        }
    }
    return MK_OK;
}

static mk_status check_content(const json_t *m, const char *what, size_t i, mk_err *err) {
    const json_t *c = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls");
    bool answer = mk_message_is(m, "assistant");
    bool may_lack = answer && (json_array_size(calls) > 0 || given(m, "reasoning_content") ||
                               given(m, "reasoning") || given(m, "thinking"));
    if (c && !json_is_null(c) && !json_is_string(c) && !json_is_array(c)) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s[%zu].content: expected a string or a list of text parts, got %s", what,
                       i, mk_json_type_name(c));
    }
    if ((!c || json_is_null(c)) && !may_lack) {
        return MK_FAIL(err, MK_ECORRUPT, "%s[%zu].content: expected a string, got %s", what, i,
                       mk_json_type_name(c));
    }
    if (answer && !may_lack && mk_json_is_blank(c)) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s[%zu].content: expected an answer of the assistant, got an empty one",
                       what, i);
    }
    return json_is_array(c) ? check_parts(c, what, i, err) : MK_OK;
}

static mk_status check_calls(const json_t *m, const char *what, size_t i, mk_err *err) {
    const json_t *calls = json_object_get(m, "tool_calls");
    if (!calls || json_is_null(calls)) {
        return MK_OK;
    }
    if (!json_is_array(calls) || !mk_message_is(m, "assistant")) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s[%zu].tool_calls: expected a list in an assistant message, got %s", what,
                       i, mk_json_type_name(calls));
    }
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k), *f = json_object_get(call, "function");
        const json_t *name = json_object_get(f ? f : call, "name");
        if (!json_is_string(name)) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "%s[%zu].tool_calls[%zu]: expected {\"function\": {\"name\": string, "
                           "\"arguments\"}}, got %s",
                           what, i, k, mk_json_type_name(call));
        }
    }
    return MK_OK;
}

// "weight" 0 or 1 (OpenAI), "train" true or false (others), strings of reasoning.
static mk_status check_extras(const json_t *m, const char *what, size_t i, mk_err *err) {
    const json_t *w = json_object_get(m, "weight"), *t = json_object_get(m, "train");
    double v = json_number_value(w);
    if (w && !json_is_null(w) && (!json_is_number(w) || (v != 0 && v != 1))) {
        return MK_FAIL(err, MK_ECORRUPT, "%s[%zu].weight: expected 0 or 1, got %s", what, i,
                       json_is_number(w) ? "another number" : mk_json_type_name(w));
    }
    if (t && !json_is_null(t) && !json_is_boolean(t)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s[%zu].train: expected true or false, got %s", what, i,
                       mk_json_type_name(t));
    }
    static const char *const texts[] = {"name", "tool_call_id", "reasoning_content", "reasoning",
                                        "thinking"};
    for (size_t k = 0; k < COUNT(texts); k++) {
        const json_t *s = json_object_get(m, texts[k]);
        if (s && !json_is_null(s) && !json_is_string(s)) {
            return MK_FAIL(err, MK_ECORRUPT, "%s[%zu].%s: expected a string, got %s", what, i,
                           texts[k], mk_json_type_name(s));
        }
    }
    return MK_OK;
}

static mk_status check_known(const mk_data_opts *o, const json_t *m, const char *what, size_t i,
                             mk_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)m, key, v) {
        if (!o->allow_unknown && !mk_is_one_of(key, message_fields, COUNT(message_fields))) {
            const char *near = mk_opt_suggest(key, message_fields, COUNT(message_fields));
            return MK_FAIL(err, MK_ECORRUPT, "%s[%zu].%.80s: unknown field of a message%s%s%s",
                           what, i, key,
                           near ? "; did you mean \""
                                : "; remove it, or ignore such "
                                  "fields with --allow-unknown",
                           near ? near : "", near ? "\"?" : "");
        }
    }
    return MK_OK;
}

mk_status mk_messages_check(const mk_data_opts *o, const json_t *list, const char *what,
                            mk_err *err) {
    if (json_array_size(list) == 0) {
        return MK_FAIL(err, MK_ECORRUPT, "\"%s\": expected at least one message, got none", what);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        if (!json_is_object(m)) {
            return MK_FAIL(err, MK_ECORRUPT, "%s[%zu]: expected an object, got %s", what, i,
                           mk_json_type_name(m));
        }
        MK_TRY(check_role(m, what, i, err));
        MK_TRY(check_known(o, m, what, i, err));
        MK_TRY(check_calls(m, what, i, err));
        MK_TRY(check_content(m, what, i, err));
        MK_TRY(check_extras(m, what, i, err));
    }
    return MK_OK;
}

mk_status mk_tools_check(const json_t *tools, mk_err *err) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        if (!json_is_object(json_array_get(tools, i))) {
            return MK_FAIL(err, MK_ECORRUPT, "tools[%zu]: expected an object, got %s", i,
                           mk_json_type_name(json_array_get(tools, i)));
        }
    }
    return MK_OK;
}

size_t mk_messages_count(const json_t *list, const char *role) {
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        n += mk_message_is(json_array_get(list, i), role);
    }
    return n;
}
