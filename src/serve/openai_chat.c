// Chat completions: requests.  Answers are written by openai_chat_write.c.
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/openai_chat.h"

// --- messages ------------------------------------------------------------------------------------

// Roles by the names that clients use.
static const struct {
    const char *name, *role;
} roles[] = {
    {"system", "system"}, {"developer", "system"}, {"latest_reminder", "system"}, {"user", "user"},
    {"tool", "tool"},     {"function", "tool"},    {"assistant", "assistant"},
};

static mk_status read_role(const mk_at *at, const json_t *m, const char **role, mk_err *err) {
    const json_t *v = json_object_get(m, "role");
    for (size_t i = 0; json_is_string(v) && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(json_string_value(v), roles[i].name) == 0) {
            *role = roles[i].role;
            return MK_OK;
        }
    }
    return mk_at_expected(MK_AT(at, "role"), err, v,
                          "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"");
}

// Arguments are a text; some clients send the object.
static mk_status read_call(const mk_at *at, const json_t *call, json_t *message, mk_err *err) {
    if (!json_is_object(call)) {
        return mk_at_expected(at, err, call, "an object");
    }
    const json_t *type = json_object_get(call, "type");
    if (json_is_string(type) && strcmp(json_string_value(type), "function") != 0) {
        return mk_at_fail(MK_AT(at, "type"), err, MK_EUNSUPPORTED,
                          "is not supported: only calls of functions are");
    }
    const json_t *f = json_object_get(call, "function");
    if (!json_is_object(f)) {
        return mk_at_expected(MK_AT(at, "function"), err, f, "an object");
    }
    const mk_at *in = MK_AT(at, "function");
    const char *name, *id = "";
    MK_TRY(mk_at_text(MK_AT(in, "name"), json_object_get(f, "name"), &name, err));
    if (json_object_get(call, "id")) {
        MK_TRY(mk_at_text(MK_AT(at, "id"), json_object_get(call, "id"), &id, err));
    }
    json_t *arguments;
    MK_TRY(
        mk_at_arguments(MK_AT(in, "arguments"), json_object_get(f, "arguments"), &arguments, err));
    mk_message_add_call(message, id, name, arguments);
    return MK_OK;
}

static mk_status read_calls(const mk_at *at, const json_t *v, json_t *message, mk_err *err) {
    if (!v || json_is_null(v)) {
        return MK_OK;
    }
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array");
    }
    size_t i;
    json_t *call;
    json_array_foreach((json_t *)(uintptr_t)v, i, call) {
        MK_TRY(read_call(MK_NTH(at, i), call, message, err));
    }
    return MK_OK;
}

// Past reasoning under any of its names; parts of the content have been read before.
static mk_status read_reasoning(const mk_at *at, const json_t *m, json_t *message, mk_err *err) {
    static const char *const names[] = {"reasoning_content", "reasoning", "thinking"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *v = json_object_get(m, names[i]);
        if (!v || json_is_null(v)) {
            continue;
        }
        if (!json_is_string(v)) {
            return mk_at_expected(MK_AT(at, names[i]), err, v, "a string");
        }
        if (json_string_length(v)) {
            (void)json_object_set(message, "reasoning_content", v);
            return MK_OK;
        }
    }
    return MK_OK;
}

static mk_status read_assistant(const mk_at *at, const json_t *m, mk_ask *a, json_t *message,
                                mk_err *err) {
    const json_t *call = json_object_get(m, "function_call");
    if (call && !json_is_null(call)) {
        return mk_at_fail(MK_AT(at, "function_call"), err, MK_EUNSUPPORTED,
                          "is not supported: send \"tool_calls\"");
    }
    MK_TRY(read_reasoning(at, m, message, err));
    MK_TRY(read_calls(MK_AT(at, "tool_calls"), json_object_get(m, "tool_calls"), message, err));
    const json_t *text = json_object_get(message, "content");
    if (json_object_get(message, "tool_calls") && json_string_length(text) == 0) {
        (void)json_object_set_new(message, "content", json_null());
    }
    a->continue_last = json_is_true(json_object_get(m, "prefix"));
    return MK_OK;
}

static mk_status read_message(const mk_at *at, const json_t *m, mk_ask *a, mk_err *err) {
    if (!json_is_object(m)) {
        return mk_at_expected(at, err, m, "an object");
    }
    const char *role = NULL, *s;
    json_t *text, *reasoning;
    MK_TRY(read_role(at, m, &role, err));
    MK_TRY(
        mk_at_content(MK_AT(at, "content"), json_object_get(m, "content"), &text, &reasoning, err));
    json_t *message = mk_ask_add_message(a, role, text);
    if (reasoning) {
        (void)json_object_set_new(message, "reasoning_content", reasoning);
    }
    a->continue_last = false;
    static const char *const texts[] = {"name", "tool_call_id"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t *v = json_object_get(m, texts[i]);
        if (v && !json_is_null(v)) {
            MK_TRY(mk_at_text(MK_AT(at, texts[i]), v, &s, err));
            (void)json_object_set(message, texts[i], v);
        }
    }
    return strcmp(role, "assistant") == 0 ? read_assistant(at, m, a, message, err) : MK_OK;
}

static mk_status read_messages(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_array(v) || json_array_size(v) == 0) {
        return mk_at_expected(at, err, v, "an array of at least one message");
    }
    size_t i;
    json_t *m;
    json_array_foreach((json_t *)(uintptr_t)v, i, m) {
        MK_TRY(read_message(MK_NTH(at, i), m, a, err));
    }
    return mk_ask_settle_messages(a, err);
}

// --- tools and the rest --------------------------------------------------------------------------

static mk_status read_tools(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array");
    }
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)(uintptr_t)v, i, tool) {
        const mk_at *here = MK_NTH(at, i);
        const json_t *t = json_object_get(tool, "type"), *f = json_object_get(tool, "function");
        if (json_is_string(t) && strcmp(json_string_value(t), "function") != 0) {
            return mk_at_fail(MK_AT(here, "type"), err, MK_EUNSUPPORTED,
                              "is not supported: \"%.60s\"; \"function\" is", json_string_value(t));
        }
        MK_TRY(f ? mk_ask_add_tool(ask, MK_AT(here, "function"), f, NULL, err)
                 : mk_ask_add_tool(ask, here, tool, NULL, err));
    }
    return MK_OK;
}

static mk_status read_logprobs(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_boolean(v)) {
        return mk_at_expected(at, err, v, "true or false");
    }
    if (json_is_true(v) && a->n_logprob < 0) {
        a->n_logprob = 0;
    }
    return MK_OK;
}

static mk_status read_top_logprobs(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t n;
    MK_TRY(mk_at_int(at, v, 0, 20, &n, err));
    a->n_logprob = n > 0 || a->n_logprob >= 0 ? (int)n : -1;
    return MK_OK;
}

static mk_status read_continue(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_boolean(v)) {
        return mk_at_expected(at, err, v, "true or false");
    }
    a->continue_last = a->continue_last || json_is_true(v);
    return MK_OK;
}

static mk_status read_generation_prompt(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_boolean(v)) {
        return mk_at_expected(at, err, v, "true or false");
    }
    a->open_end = json_is_false(v);
    return MK_OK;
}

static mk_status read_modalities(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    (void)ask;
    size_t i;
    json_t *e;
    json_array_foreach((json_t *)(uintptr_t)v, i, e) {
        if (!json_is_string(e) || strcmp(json_string_value(e), "text") != 0) {
            return mk_at_fail(MK_NTH(at, i), err, MK_EUNSUPPORTED,
                              "is not supported: this server answers with text");
        }
    }
    return MK_OK;
}

static const mk_field rows[] = {
    {"messages", MK_F_READ, .read = read_messages},
    {"tools", MK_F_READ, .read = read_tools},
    {"tool_choice", MK_F_READ, .read = mk_read_tool_choice},
    {"parallel_tool_calls", MK_F_BOOL, .at = offsetof(mk_ask, parallel_tools)},
    {"max_tokens", MK_F_READ, .read = mk_read_limit},
    {"max_completion_tokens", MK_F_READ, .read = mk_read_limit},
    {"n", MK_F_INT, 1, MK_ASK_MAX_N, .at = offsetof(mk_ask, n)},
    {"n_cmpl", MK_F_INT, 1, MK_ASK_MAX_N, .at = offsetof(mk_ask, n)},
    {"logprobs", MK_F_READ, .read = read_logprobs},
    {"top_logprobs", MK_F_READ, .read = read_top_logprobs},
    {"response_format", MK_F_READ, .read = mk_read_format},
    {"continue_final_message", MK_F_READ, .read = read_continue},
    {"modalities", MK_F_READ, .read = read_modalities},
    {"add_generation_prompt", MK_F_READ, .read = read_generation_prompt},
    MK_SKIP("store"),  // chat completions are not kept
    MK_SKIP("metadata"),
    MK_SKIP("prediction"),  // may only make the answer faster
    {"functions", MK_F_REFUSE, 0, .why = "send \"tools\""},
    {"function_call", MK_F_REFUSE, 0, .why = "send \"tool_choice\""},
    {"audio", MK_F_REFUSE, 0, .why = "this server answers with text"},
    {"web_search_options", MK_F_REFUSE, 0, .why = "this server does not search the web"},
};

mk_status mk_openai_chat_parse(const json_t *body, mk_ask *a, mk_err *err) {
    MK_TRY(
        mk_fields_read(body, NULL, &MK_FIELDS_AND(rows, &mk_openai_fields), a, &a->unknown, err));
    if (!a->messages) {
        return mk_at_fail(MK_AT(NULL, "messages"), err, MK_EUSAGE,
                          "expected an array of at least one message, got nothing");
    }
    if (json_is_true(json_object_get(body, "add_generation_prompt")) &&
        json_is_true(json_object_get(body, "continue_final_message"))) {
        return mk_at_fail(MK_AT(NULL, "add_generation_prompt"), err, MK_EUSAGE,
                          "expected false or nothing with continue_final_message: an answer is "
                          "begun or continued, not both");
    }
    a->open_end = a->open_end && !a->continue_last;
    const json_t *last = json_array_get(a->messages, json_array_size(a->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (a->continue_last && strcmp(role, "assistant") != 0) {
        return mk_at_fail(MK_AT(NULL, "continue_final_message"), err, MK_EUSAGE,
                          "expected a last message of the role \"assistant\", got \"%s\"", role);
    }
    return MK_OK;
}
