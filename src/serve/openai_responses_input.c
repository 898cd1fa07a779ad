// Responses: the input, a text or a list of items, becomes messages.
//
// What one answer consisted of comes back as several items: reasoning, a message, calls.  They are
// put together again into one message of the assistant, in which reasoning stands first.
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/openai_responses.h"

typedef struct {
    mk_ask *ask;
    json_t *turn;       // the assistant's message that is being put together, borrowed; NULL
    json_t *reasoning;  // came before the message it belongs to; NULL
} input;

// The assistant's message that an item belongs to.
static json_t *assistant_turn(input *in) {
    if (!in->turn) {
        in->turn = mk_ask_add_message(in->ask, "assistant", json_null());
    }
    if (in->reasoning) {
        (void)json_object_set_new(in->turn, "reasoning_content", in->reasoning);
        in->reasoning = NULL;
    }
    return in->turn;
}

static void end_turn(input *in) {
    in->turn = NULL;
    json_decref(in->reasoning);
    in->reasoning = NULL;
}

// --- items ---------------------------------------------------------------------------------------

static mk_status message_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    static const struct {
        const char *name, *role;
    } roles[] = {{"user", "user"},
                 {"system", "system"},
                 {"developer", "system"},
                 {"assistant", "assistant"}};
    const json_t *v = json_object_get(item, "role");
    const char *role = NULL;
    for (size_t i = 0; json_is_string(v) && i < sizeof roles / sizeof roles[0]; i++) {
        role = strcmp(json_string_value(v), roles[i].name) == 0 ? roles[i].role : role;
    }
    if (!role) {
        return mk_at_expected(MK_AT(at, "role"), err, v,
                              "\"user\", \"system\", \"developer\" or \"assistant\"");
    }
    json_t *text, *reasoning;
    MK_TRY(mk_at_content(MK_AT(at, "content"), json_object_get(item, "content"), &text, &reasoning,
                         err));
    if (strcmp(role, "assistant") != 0) {
        end_turn(in);
        json_decref(reasoning);
        (void)mk_ask_add_message(in->ask, role, text);
        return MK_OK;
    }
    if (reasoning) {
        json_decref(in->reasoning);
        in->reasoning = reasoning;
    }
    // a second text, or one after calls, is an answer of its own
    if (in->turn && (json_is_string(json_object_get(in->turn, "content")) ||
                     json_object_get(in->turn, "tool_calls"))) {
        in->turn = NULL;
    }
    (void)json_object_set_new(assistant_turn(in), "content", text);
    return MK_OK;
}

// The text of a list of parts under a key, appended.
static mk_status add_parts(const mk_at *at, const json_t *item, const char *key, mk_buf *b,
                           mk_err *err) {
    const json_t *v = json_object_get(item, key);
    json_t *text, *reasoning;
    if (!v || json_is_null(v)) {
        return MK_OK;
    }
    MK_TRY(mk_at_content(MK_AT(at, key), v, &text, &reasoning, err));
    json_t *const both[] = {text, reasoning};
    for (size_t i = 0; i < 2; i++) {
        if (json_string_length(both[i])) {
            mk_buf_puts(b, b->len ? "\n" : "");
            mk_buf_add(b, json_string_value(both[i]), json_string_length(both[i]));
        }
        json_decref(both[i]);
    }
    return MK_OK;
}

// The text itself where it is there, else its summary.
static mk_status reasoning_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_status st = add_parts(at, item, "content", &b, err);
    if (st == MK_OK && b.len == 0) {
        st = add_parts(at, item, "summary", &b, err);
    }
    // reasoning that follows an answer begins the next one
    if (in->turn) {
        end_turn(in);
    }
    if (st == MK_OK && b.failed) {
        st = mk_at_fail(at, err, MK_ENOMEM, "no memory for the text");
    }
    if (st == MK_OK && b.len) {
        json_decref(in->reasoning);
        in->reasoning = json_stringn(b.data, b.len);
    }
    mk_buf_free(&b);
    return st;
}

static mk_status call_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    const char *name, *id, *space = json_string_value(json_object_get(item, "namespace"));
    MK_TRY(mk_at_text(MK_AT(at, "name"), json_object_get(item, "name"), &name, err));
    MK_TRY(mk_at_text(MK_AT(at, "call_id"), json_object_get(item, "call_id"), &id, err));
    json_t *arguments;
    const json_t *custom = json_object_get(item, "input");
    if (custom) {  // a call of a custom tool has a text
        json_t *o = json_pack("{sO}", "input", custom);
        mk_status st = mk_at_arguments(MK_AT(at, "input"), o, &arguments, err);
        json_decref(o);
        MK_TRY(st);
    } else {
        MK_TRY(mk_at_arguments(MK_AT(at, "arguments"), json_object_get(item, "arguments"),
                               &arguments, err));
    }
    mk_buf full;
    mk_buf_init(&full, 1 << 16);
    mk_tool_full_name(space, name, &full);
    bool failed = full.failed;
    if (failed) {
        json_decref(arguments);
    } else {
        mk_message_add_call(assistant_turn(in), id, full.data ? full.data : name, arguments);
    }
    mk_buf_free(&full);
    return failed ? mk_at_fail(at, err, MK_ENOMEM, "no memory for the name") : MK_OK;
}

static mk_status output_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    const char *id;
    MK_TRY(mk_at_text(MK_AT(at, "call_id"), json_object_get(item, "call_id"), &id, err));
    const json_t *v = json_object_get(item, "output");
    json_t *text;
    if (json_is_object(v)) {  // some send {"content": ..., "success": true}
        const json_t *content = json_object_get(v, "content");
        MK_TRY(content
                   ? mk_at_content(MK_AT(MK_AT(at, "output"), "content"), content, &text, NULL, err)
                   : mk_at_arguments(MK_AT(at, "output"), v, &text, err));
    } else {
        MK_TRY(mk_at_content(MK_AT(at, "output"), v, &text, NULL, err));
    }
    end_turn(in);
    json_t *m = mk_ask_add_message(in->ask, "tool", text);
    (void)json_object_set_new(m, "tool_call_id", json_string(id));
    return MK_OK;
}

// What tools of other servers left behind: their items mean nothing here.
static mk_status skipped_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    (void)at;
    (void)err;
    mk_ask_note(in->ask, "input", json_string_value(json_object_get(item, "type")));
    return MK_OK;
}

static mk_status refused_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    (void)in;
    return mk_at_fail(MK_AT(at, "type"), err, MK_EUNSUPPORTED,
                      "is not supported: \"%.60s\"; send the item itself",
                      json_string_value(json_object_get(item, "type")));
}

static const struct {
    const char *type;
    mk_status (*read)(input *in, const mk_at *at, const json_t *item, mk_err *err);
} kinds[] = {
    {"message", message_item},
    {"reasoning", reasoning_item},
    {"function_call", call_item},
    {"function_call_output", output_item},
    {"custom_tool_call", call_item},
    {"custom_tool_call_output", output_item},
    {"item_reference", refused_item},
    {"compaction", refused_item},
    {"web_search_call", skipped_item},
    {"file_search_call", skipped_item},
    {"computer_call", skipped_item},
    {"computer_call_output", skipped_item},
    {"image_generation_call", skipped_item},
    {"code_interpreter_call", skipped_item},
    {"local_shell_call", skipped_item},
    {"local_shell_call_output", skipped_item},
    {"tool_search_call", skipped_item},
    {"tool_search_output", skipped_item},
    {"mcp_call", skipped_item},
    {"mcp_list_tools", skipped_item},
    {"mcp_approval_request", skipped_item},
    {"mcp_approval_response", skipped_item},
    {"additional_tools", skipped_item},
    {"ghost_snapshot", skipped_item},
};

static mk_status read_item(input *in, const mk_at *at, const json_t *item, mk_err *err) {
    if (!json_is_object(item)) {
        return mk_at_expected(at, err, item, "an object");
    }
    const json_t *t = json_object_get(item, "type");
    const char *type = "message";
    if (t && !json_is_null(t)) {
        MK_TRY(mk_at_text(MK_AT(at, "type"), t, &type, err));
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(type, kinds[i].type) == 0) {
            return kinds[i].read(in, at, item, err);
        }
    }
    return mk_at_fail(MK_AT(at, "type"), err, MK_EUNSUPPORTED,
                      "is not supported: an item of the type \"%.60s\"", type);
}

mk_status mk_openai_responses_input(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    input in = {.ask = ask};
    if (json_is_string(v)) {
        (void)mk_ask_add_message(ask, "user", json_incref((json_t *)(uintptr_t)v));
        return MK_OK;
    }
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "a string or an array of items");
    }
    mk_status st = MK_OK;
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)(uintptr_t)v, i, item) {
        st = st == MK_OK ? read_item(&in, MK_NTH(at, i), item, err) : st;
    }
    end_turn(&in);
    return st;
}
