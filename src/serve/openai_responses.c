// Responses: requests.  Their input is read by openai_responses_input.c, answers are written by
// openai_responses_write.c.
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/openai_responses.h"

// --- tools ---------------------------------------------------------------------------------------

// One function; those of a namespace get its name in front, and are found again by it.
static mk_status add_function(mk_ask *a, const mk_at *at, const json_t *tool, const char *space,
                              mk_err *err) {
    mk_buf prefix;
    mk_buf_init(&prefix, 4096);
    mk_tool_full_name(space, "", &prefix);
    mk_status st = prefix.failed ? mk_at_fail(at, err, MK_ENOMEM, "no memory for the name")
                                 : mk_ask_add_tool(a, at, tool, prefix.data, err);
    if (st == MK_OK && space) {
        json_t *spaces = json_object_get(a->given, "namespaces");
        if (!spaces) {
            spaces = json_object();
            (void)json_object_set_new(a->given, "namespaces", spaces);
        }
        const json_t *added = json_array_get(a->tools, json_array_size(a->tools) - 1);
        json_t *pair = json_array();
        (void)json_array_append_new(pair, json_string(space));
        (void)json_array_append(pair, json_object_get(tool, "name"));
        (void)json_object_set_new(
            spaces, json_string_value(json_object_get(json_object_get(added, "function"), "name")),
            pair);
    }
    mk_buf_free(&prefix);
    return st;
}

static mk_status add_namespace(mk_ask *a, const mk_at *at, const json_t *tool, mk_err *err) {
    const char *space;
    MK_TRY(mk_at_text(MK_AT(at, "name"), json_object_get(tool, "name"), &space, err));
    const json_t *list = json_object_get(tool, "tools");
    if (!json_is_array(list)) {
        return mk_at_expected(MK_AT(at, "tools"), err, list, "an array");
    }
    size_t i;
    json_t *member;
    json_array_foreach((json_t *)(uintptr_t)list, i, member) {
        const char *type = json_string_value(json_object_get(member, "type"));
        if (type && strcmp(type, "function") != 0) {
            mk_ask_note(a, "tools", type);
        } else {
            MK_TRY(add_function(a, MK_NTH(MK_AT(at, "tools"), i), member, space, err));
        }
    }
    return MK_OK;
}

// Agents offer tools that only OpenAI's own servers run; they work without them.
static mk_status read_tools(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array");
    }
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)(uintptr_t)v, i, tool) {
        const mk_at *here = MK_NTH(at, i);
        const json_t *t = json_object_get(tool, "type"), *f = json_object_get(tool, "function");
        const char *type = "function";
        if (t) {
            MK_TRY(mk_at_text(MK_AT(here, "type"), t, &type, err));
        }
        if (strcmp(type, "namespace") == 0) {
            MK_TRY(add_namespace(a, here, tool, err));
        } else if (strcmp(type, "function") != 0) {
            mk_ask_note(a, "tools", type);
        } else if (f) {  // in the form of chat completions
            MK_TRY(add_function(a, MK_AT(here, "function"), f, NULL, err));
        } else {
            MK_TRY(add_function(a, here, tool, NULL, err));
        }
    }
    return MK_OK;
}

// --- the rest ------------------------------------------------------------------------------------

static mk_status read_reasoning(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const mk_field rows[] = {
        {"effort", MK_F_READ, .read = mk_read_effort},
        MK_SKIP("summary"),
        MK_SKIP("generate_summary"),
    };
    mk_ask *a = ask;
    MK_TRY(mk_fields_read(v, at, &MK_FIELDS(rows), a, &a->unknown, err));
    static const char *const names[] = {"summary", "generate_summary"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *s = json_object_get(v, names[i]);
        const char *text;
        if (s && !json_is_null(s)) {
            MK_TRY(mk_at_text(MK_AT(at, names[i]), s, &text, err));
            a->reasoning_summary = strcmp(text, "none") != 0;
        }
    }
    return MK_OK;
}

static mk_status read_text(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const mk_field rows[] = {{"format", MK_F_READ, .read = mk_read_format}};
    mk_ask *a = ask;
    return mk_fields_read(v, at, &MK_FIELDS(rows), a, &a->unknown, err);
}

static mk_status read_include(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array of strings");
    }
    size_t i;
    json_t *e;
    json_array_foreach((json_t *)(uintptr_t)v, i, e) {
        const char *s;
        MK_TRY(mk_at_text(MK_NTH(at, i), e, &s, err));
        if (strcmp(s, "message.output_text.logprobs") == 0) {
            a->n_logprob = a->n_logprob < 0 ? 0 : a->n_logprob;
        } else if (strcmp(s, "reasoning.encrypted_content") != 0) {  // reasoning is not hidden here
            mk_ask_note(a, "include", s);
        }
    }
    return MK_OK;
}

static mk_status read_top_logprobs(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t n;
    MK_TRY(mk_at_int(at, v, 0, 20, &n, err));
    a->n_logprob = n > 0 ? (int)n : a->n_logprob;
    return MK_OK;
}

static mk_status read_truncation(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    (void)ask;
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    // "auto" allows to cut; what does not fit is refused nevertheless
    return strcmp(s, "auto") == 0 || strcmp(s, "disabled") == 0
               ? MK_OK
               : mk_at_expected(at, err, v, "\"auto\" or \"disabled\"");
}

static mk_status read_metadata(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    (void)ask;
    if (!json_is_object(v)) {
        return mk_at_expected(at, err, v, "an object");
    }
    const char *key, *s;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value) {  // clients read them as texts
        MK_TRY(mk_at_text(MK_AT(at, key), value, &s, err));
    }
    return MK_OK;
}

static mk_status read_instructions(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    if (json_is_array(v)) {
        return mk_openai_responses_input(at, v, ask, err);
    }
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    if (s[0]) {
        (void)mk_ask_add_message(ask, "system", json_incref((json_t *)(uintptr_t)v));
    }
    return MK_OK;
}

static const mk_field rows[] = {
    {"instructions", MK_F_READ, .read = read_instructions},  // first: in front of the input
    {"input", MK_F_READ, .read = mk_openai_responses_input},
    {"previous_response_id", MK_F_TEXT, 1, 256, .at = offsetof(mk_ask, previous)},
    {"store", MK_F_BOOL, .at = offsetof(mk_ask, keep)},
    {"tools", MK_F_READ, .read = read_tools},
    {"tool_choice", MK_F_READ, .read = mk_read_tool_choice},
    {"parallel_tool_calls", MK_F_BOOL, .at = offsetof(mk_ask, parallel_tools)},
    {"max_output_tokens", MK_F_READ, .read = mk_read_limit},
    {"reasoning", MK_F_READ, .read = read_reasoning},
    {"text", MK_F_READ, .read = read_text},
    {"include", MK_F_READ, .read = read_include},
    {"top_logprobs", MK_F_READ, .read = read_top_logprobs},
    {"truncation", MK_F_READ, .read = read_truncation},
    {"metadata", MK_F_READ, .read = read_metadata},
    MK_SKIP("max_tool_calls"),  // of tools that the server runs: there are none
    {"background", MK_F_REFUSE, 0, .why = "answers are given while the client waits"},
    {"conversation", MK_F_REFUSE, 0, .why = "send \"previous_response_id\""},
    {"prompt", MK_F_REFUSE, 0, .why = "there are no stored prompts"},
    {"context_management", MK_F_REFUSE, 0, .why = "prompts are never cut"},
};

static mk_status copy_messages(const json_t *messages, size_t from, size_t to, json_t **out,
                               mk_err *err) {
    json_decref(*out);
    *out = to > from ? json_array() : NULL;
    for (size_t i = from; i < to; i++) {
        (void)json_array_append_new(*out, json_deep_copy(json_array_get(messages, i)));
    }
    return json_array_size(*out) == to - from
               ? MK_OK
               : MK_FAIL(err, MK_ENOMEM, "no memory for a copy of the messages");
}

// Instructions hold for one request, the input for the conversation.
static mk_status split_messages(mk_ask *a, const json_t *body, mk_err *err) {
    size_t n = json_array_size(a->messages), k = 0;
    const json_t *given = json_object_get(body, "instructions");
    mk_ask alone;
    mk_ask_init(&alone);
    if (given && !json_is_null(given) && read_instructions(NULL, given, &alone, NULL) == MK_OK) {
        k = json_array_size(alone.messages);
    }
    mk_ask_free(&alone);
    MK_TRY(copy_messages(a->messages, 0, k, &a->instructions, err));
    return copy_messages(a->messages, k, n, &a->input, err);
}

static void repeat_fields(mk_ask *a, const json_t *body) {
    static const char *const names[] = {
        "instructions", "metadata",         "tool_choice",       "text",           "reasoning",
        "user",         "prompt_cache_key", "safety_identifier", "max_tool_calls",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *v = json_object_get(body, names[i]);
        if (v && !json_is_null(v)) {
            (void)json_object_set(a->given, names[i], v);
        }
    }
}

mk_status mk_openai_responses_parse(const json_t *body, mk_ask *a, mk_err *err) {
    a->keep = true;
    json_decref(a->given);
    a->given = json_object();
    MK_TRY(
        mk_fields_read(body, NULL, &MK_FIELDS_AND(rows, &mk_openai_fields), a, &a->unknown, err));
    repeat_fields(a, body);
    const json_t *in = json_object_get(body, "input");
    if ((!in || json_is_null(in)) && !a->previous) {
        return mk_at_fail(MK_AT(NULL, "input"), err, MK_EUSAGE,
                          "expected a string or an array of items, got nothing");
    }
    if (!a->messages || (json_array_size(in) == 0 && !json_is_string(in) && !a->previous)) {
        (void)mk_ask_add_message(a, "user", json_string(""));  // a probe
    }
    if (a->keep || a->previous) {
        MK_TRY(split_messages(a, body, err));
    }
    MK_TRY(mk_ask_settle_messages(a, err));
    if (json_object_size(a->given) == 0) {
        json_decref(a->given);
        a->given = NULL;
    }
    return MK_OK;
}
