// Requests in the shape of Anthropic's Messages.
//
// Liberal where nothing is lost: max_tokens may be missing, thinking may have any budget, blocks of
// thinking need no signature, roles need not alternate.  Strict where something would be: pictures,
// files and what Anthropic's own servers run are refused or reported by name.
//
// Source: anthropic SDK 2.12 for Python (types/message_create_params.py and what it names).
#include "serve/anthropic.h"

#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/anthropic_int.h"
#include "serve/anthropic_tools.h"
#include "serve/ask_read.h"
#include "serve/fields.h"
#include "serve/jout.h"
#include "serve/shape.h"

enum { MAX_NAME = 256, MAX_TENANT = 1024, MAX_TOKENS = INT32_MAX };

const char *const mk_anthropic_volatile[] = {"x-anthropic-billing-header:", NULL};

// --- content blocks ------------------------------------------------------------------------------

static mk_status text_field(const mk_at *at, const json_t *block, const char *key, const char **out,
                            mk_err *err) {
    return mk_at_text(MK_AT(at, key), json_object_get(block, key), out, err);
}

static const char *between(const mk_turn *t) {
    return strcmp(t->role, "assistant") == 0 ? "" : "\n";
}

static mk_status read_text(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *s;
    MK_TRY(text_field(at, block, "text", &s, err));
    mk_turn_text(t, between(t), s, strlen(s));
    return MK_OK;
}

// The signature is not looked at: the text may come from any model.
static mk_status read_thinking(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *s;
    MK_TRY(text_field(at, block, "thinking", &s, err));
    mk_buf_puts(&t->reasoning, s);
    return MK_OK;
}

// Encrypted by whoever made it; only they can read it.
static mk_status skip_block(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    (void)at, (void)block, (void)t, (void)err;
    return MK_OK;
}

static mk_status read_tool_use(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *id, *name;
    MK_TRY(text_field(at, block, "id", &id, err));
    MK_TRY(text_field(at, block, "name", &name, err));
    const json_t *input = json_object_get(block, "input");
    if (input && !json_is_null(input) && !json_is_object(input)) {
        return mk_at_expected(MK_AT(at, "input"), err, input, "an object");
    }
    mk_turn_call(t, id, name, json_is_object(input) ? input : NULL);
    return MK_OK;
}

// Text documents; other sources are files.
static mk_status read_document(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const json_t *source = json_object_get(block, "source");
    const char *type, *s;
    MK_TRY(text_field(MK_AT(at, "source"), source, "type", &type, err));
    if (strcmp(type, "text") != 0) {
        return mk_at_fail(MK_AT(at, "source"), err, MK_EUNSUPPORTED,
                          "a document of type \"%.40s\" is not supported: send its text", type);
    }
    MK_TRY(text_field(MK_AT(at, "source"), source, "data", &s, err));
    const char *title = json_string_value(json_object_get(block, "title"));
    if (title) {
        mk_turn_text(t, "\n", title, strlen(title));
    }
    mk_turn_text(t, "\n", s, strlen(s));
    return MK_OK;
}

static mk_status read_search_result(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *keys[] = {"title", "source"}, *s;
    for (size_t i = 0; i < 2; i++) {
        MK_TRY(text_field(at, block, keys[i], &s, err));
        mk_turn_text(t, "\n", s, strlen(s));
    }
    const json_t *parts = json_object_get(block, "content");
    for (size_t i = 0; i < json_array_size(parts); i++) {
        MK_TRY(read_text(MK_NTH(MK_AT(at, "content"), i), json_array_get(parts, i), t, err));
    }
    return MK_OK;
}

// What a tool brought cannot be taken back by the user, and a refused request would end the
// conversation for good: the model is told what is missing.
static void note_missing(mk_turn *t, const char *what) {
    mk_turn_text(t, "\n", "[", 1);
    mk_turn_text(t, "", what, strlen(what));
    static const char rest[] = " omitted: this model reads text only]";
    mk_turn_text(t, "", rest, sizeof rest - 1);
}

static mk_status read_tool_image(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    (void)at, (void)block, (void)err;
    note_missing(t, "image");
    return MK_OK;
}

static mk_status read_tool_document(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *type = json_string_value(json_object_get(json_object_get(block, "source"), "type"));
    if (type && strcmp(type, "text") == 0) {
        return read_document(at, block, t, err);
    }
    note_missing(t, "document");
    return MK_OK;
}

// A tool that was found among those not shown at first.
static mk_status read_tool_reference(const mk_at *at, const json_t *block, mk_turn *t,
                                     mk_err *err) {
    const char *s;
    MK_TRY(text_field(at, block, "tool_name", &s, err));
    mk_turn_text(t, "\n", s, strlen(s));
    return MK_OK;
}

static mk_status refuse_image(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    (void)block, (void)t;
    return mk_at_fail(at, err, MK_EUNSUPPORTED,
                      "images are not supported: this model reads text only");
}

typedef struct {
    const char *type;
    mk_status (*read)(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err);
} block_row;

static mk_status read_blocks(const mk_at *at, const json_t *v, const block_row *rows, mk_turn *t,
                             mk_err *err) {
    if (json_is_string(v)) {
        const char *s;
        MK_TRY(mk_at_text(at, v, &s, err));
        mk_turn_text(t, between(t), s, strlen(s));
        return MK_OK;
    }
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "a string or an array of content blocks");
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const mk_at here = {at, NULL, i};
        const json_t *block = json_array_get(v, i);
        const char *type;
        if (!json_is_object(block)) {
            return mk_at_expected(&here, err, block, "a content block");
        }
        MK_TRY(text_field(&here, block, "type", &type, err));
        const block_row *row = rows;
        while (row->type && strcmp(row->type, type) != 0) {
            row++;
        }
        if (!row->type) {
            return mk_at_fail(&here, err, MK_EUNSUPPORTED,
                              "a block of type \"%.60s\" is not supported here", type);
        }
        MK_TRY(row->read(&here, block, t, err));
    }
    return MK_OK;
}

static const block_row result_blocks[] = {{"text", read_text},
                                          {"image", read_tool_image},
                                          {"document", read_tool_document},
                                          {"search_result", read_search_result},
                                          {"tool_reference", read_tool_reference},
                                          {NULL, NULL}};

// Chat templates know no failed result, so its text says it.
static void add_result(mk_turn *t, const char *id, const mk_turn *result, bool failed) {
    static const char mark[] = "Error: ";
    const char *p = result->text.data ? result->text.data : "";
    bool says_so = strncasecmp(p, "error", 5) == 0;
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_buf_puts(&b, failed && !says_so ? mark : "");
    mk_buf_add(&b, p, result->text.len);
    mk_turn_result(t, id, NULL, b.data, b.len);
    t->failed = t->failed || b.failed || result->failed || result->text.failed;
    mk_buf_free(&b);
}

static mk_status read_tool_result(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *id;
    MK_TRY(text_field(at, block, "tool_use_id", &id, err));
    const json_t *content = json_object_get(block, "content");
    mk_turn inner;
    mk_turn_init(&inner, "tool");
    mk_status st = MK_OK;
    if (content && !json_is_null(content)) {
        st = read_blocks(MK_AT(at, "content"), content, result_blocks, &inner, err);
    }
    if (st == MK_OK) {
        add_result(t, id, &inner, json_is_true(json_object_get(block, "is_error")));
    }
    mk_turn_free(&inner);
    return st;
}

// --- messages ------------------------------------------------------------------------------------

static const block_row user_blocks[] = {
    {"text", read_text},         {"tool_result", read_tool_result},     {"image", refuse_image},
    {"document", read_document}, {"search_result", read_search_result}, {NULL, NULL}};
static const block_row assistant_blocks[] = {{"text", read_text},
                                             {"thinking", read_thinking},
                                             {"redacted_thinking", skip_block},
                                             {"tool_use", read_tool_use},
                                             {NULL, NULL}};

// Drops lines that change with every request, and the empty ones behind them.
static const char *skip_volatile(const char *s) {
    for (size_t i = 0; mk_anthropic_volatile[i]; i++) {
        if (strncasecmp(s, mk_anthropic_volatile[i], strlen(mk_anthropic_volatile[i])) == 0) {
            s += strcspn(s, "\n");
            s += strspn(s, "\n");
            i = (size_t)-1;  // from the beginning
        }
    }
    return s;
}

static mk_status read_system_text(const mk_at *at, const json_t *block, mk_turn *t, mk_err *err) {
    const char *s;
    MK_TRY(text_field(at, block, "text", &s, err));
    const char *rest = skip_volatile(s);
    if (rest == s || *rest) {
        mk_turn_text(t, "\n\n", rest, strlen(rest));
    }
    return MK_OK;
}

static const block_row system_blocks[] = {{"text", read_system_text}, {NULL, NULL}};

static mk_status read_system(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    mk_turn t;
    mk_turn_init(&t, "system");
    mk_status st = MK_OK;
    if (json_is_string(v)) {
        const char *s;
        st = mk_at_text(at, v, &s, err);
        if (st == MK_OK && *skip_volatile(s)) {
            mk_turn_text(&t, "", skip_volatile(s), strlen(skip_volatile(s)));
        }
    } else {
        st = read_blocks(at, v, system_blocks, &t, err);
    }
    if (st == MK_OK && t.has_text && !mk_turn_add(&t, true, ask->messages)) {
        st = mk_at_fail(at, err, MK_ENOMEM, "no memory for the text");
    }
    mk_turn_free(&t);
    return st;
}

static mk_status read_message(const mk_at *at, const json_t *v, mk_ask *ask, mk_err *err) {
    static const struct {
        const char *role;
        const block_row *blocks;
    } roles[] = {{"user", user_blocks}, {"assistant", assistant_blocks}, {"system", system_blocks}};
    if (!json_is_object(v)) {
        return mk_at_expected(at, err, v, "a message");
    }
    const char *role;
    MK_TRY(text_field(at, v, "role", &role, err));
    size_t k = 0;
    while (k < 3 && strcmp(roles[k].role, role) != 0) {
        k++;
    }
    if (k == 3) {
        return mk_at_expected(MK_AT(at, "role"), err, json_object_get(v, "role"),
                              "\"user\", \"assistant\" or \"system\"");
    }
    mk_turn t;
    mk_turn_init(&t, roles[k].role);
    const json_t *content = json_object_get(v, "content");
    mk_status st = read_blocks(MK_AT(at, "content"), content, roles[k].blocks, &t, err);
    if (st == MK_OK && !mk_turn_add(&t, true, ask->messages)) {
        st = mk_at_fail(at, err, MK_ENOMEM, "no memory for the message");
    }
    mk_turn_free(&t);
    return st;
}

// Calls at the end wait for their results; nobody can answer them but the client.
static mk_status read_end(const mk_at *at, const json_t *list, mk_ask *ask, mk_err *err) {
    mk_shape_end(ask);
    size_t n = json_array_size(ask->messages);
    if (n == 0) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected a message with content");
    }
    if (json_object_get(json_array_get(ask->messages, n - 1), "tool_calls")) {
        return mk_at_fail(MK_NTH(at, json_array_size(list) - 1), err, MK_EUSAGE,
                          "the last message calls tools: a message with their tool_result must "
                          "follow");
    }
    return MK_OK;
}

static mk_status read_messages(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    if (!json_is_array(v) || json_array_size(v) == 0) {
        return mk_at_expected(at, err, v, "an array of at least one message");
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        MK_TRY(read_message(MK_NTH(at, i), json_array_get(v, i), ask, err));
    }
    if (!mk_shape_join(ask->messages)) {
        return mk_at_fail(at, err, MK_ENOMEM, "no memory for the messages");
    }
    MK_TRY(mk_ask_settle_messages(ask, err));
    return read_end(at, v, ask, err);
}

// --- the rest of the body ------------------------------------------------------------------------

static mk_status read_thinking_mode(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    static const struct {
        const char *name;
        mk_think think;
    } modes[] = {{"enabled", MK_THINK_ON}, {"adaptive", MK_THINK_ON}, {"disabled", MK_THINK_OFF}};
    static const mk_field rows[] = {
        {.name = "type", .type = MK_F_IGNORE},
        {"budget_tokens", MK_F_I64, 0, MAX_TOKENS, .at = offsetof(mk_ask, think_budget)},
        {.name = "display", .type = MK_F_IGNORE},
    };
    mk_ask *ask = to;
    MK_TRY(mk_fields_read(v, at, &MK_FIELDS(rows), ask, &ask->unknown, err));
    const char *type = json_string_value(json_object_get(v, "type"));
    const char *display = json_string_value(json_object_get(v, "display"));
    for (size_t i = 0; type && i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(modes[i].name, type) == 0) {
            ask->think = modes[i].think;
            ask->hide_reasoning = display && strcmp(display, "omitted") == 0;
            return MK_OK;
        }
    }
    return mk_at_expected(MK_AT(at, "type"), err, json_object_get(v, "type"),
                          "\"enabled\", \"adaptive\" or \"disabled\"");
}

static mk_status read_format(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    static const mk_field rows[] = {{.name = "type", .type = MK_F_IGNORE},
                                    {"schema", MK_F_OBJECT, .at = offsetof(mk_ask, schema)}};
    mk_ask *ask = to;
    MK_TRY(mk_fields_read(v, at, &MK_FIELDS(rows), ask, &ask->unknown, err));
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type || strcmp(type, "json_schema") != 0) {
        return mk_at_expected(MK_AT(at, "type"), err, json_object_get(v, "type"),
                              "\"json_schema\"");
    }
    if (!ask->schema) {
        return mk_at_expected(MK_AT(at, "schema"), err, NULL, "an object");
    }
    ask->format = MK_FORMAT_SCHEMA;
    ask->strict = true;
    return MK_OK;
}

static mk_status read_output_config(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    static const mk_field rows[] = {
        {"effort", MK_F_TEXT, 1, 32, .at = offsetof(mk_ask, effort)},
        {"format", MK_F_READ, .read = read_format},
    };
    mk_ask *ask = to;
    return mk_fields_read(v, at, &MK_FIELDS(rows), ask, &ask->unknown, err);
}

// The part of a user's name that changes with every session of Claude Code would keep two sessions
// of one user from sharing what has been computed: "user_.._account_.._session_..", or JSON with
// session_id.
static char *tenant_of(const char *user) {
    json_t *v = NULL;
    mk_err err = {0};
    mk_status st = user[0] == '{' ? mk_json_parse(user, strlen(user), "user_id", &v, &err) : MK_EIO;
    if (st == MK_ENOMEM) {
        return NULL;
    }
    if (st == MK_OK) {
        mk_buf b;
        mk_buf_init(&b, SIZE_MAX - 1);
        (void)json_object_del(v, "session_id");
        mk_jout_value(&b, v);
        json_decref(v);
        return mk_buf_detach(&b);
    }
    const char *session = strstr(user, "_session_");
    return mk_strndup(user, session ? (size_t)(session - user) : strlen(user));
}

static mk_status read_metadata(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    static const mk_field rows[] = {
        {"user_id", MK_F_TEXT, 0, MAX_TENANT, .at = offsetof(mk_ask, tenant)}};
    mk_ask *ask = to;
    MK_TRY(mk_fields_read(v, at, &MK_FIELDS(rows), ask, &ask->unknown, err));
    if (ask->tenant) {
        char *tenant = tenant_of(ask->tenant);
        mk_free(ask->tenant);
        ask->tenant = tenant;
        if (!tenant) {
            return mk_at_fail(at, err, MK_ENOMEM, "no memory for the name");
        }
    }
    return MK_OK;
}

static mk_status read_tools(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    return mk_anthropic_tools(at, v, to, err);
}

static mk_status read_tool_choice(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    return mk_anthropic_tool_choice(at, v, to, err);
}

// In the order in which they depend on each other: system before messages, tools before the choice.
static const mk_field body_rows[] = {
    // first: its messages are a part, and no conversation by themselves
    {"thread", MK_F_REFUSE, .why = "no conversation is held here, send all of it"},
    {"compaction", MK_F_REFUSE, .why = "this server makes no summaries"},
    {"model", MK_F_TEXT, 1, MAX_NAME, .at = offsetof(mk_ask, model)},
    {"max_tokens", MK_F_I64, 0, MAX_TOKENS, .at = offsetof(mk_ask, n_predict)},
    {"system", MK_F_READ, .read = read_system},
    {"messages", MK_F_READ, .read = read_messages},
    {"tools", MK_F_READ, .read = read_tools},
    {"tool_choice", MK_F_READ, .read = read_tool_choice},
    {"thinking", MK_F_READ, .read = read_thinking_mode},
    {"output_format", MK_F_READ, .read = read_format},
    {"output_config", MK_F_READ, .read = read_output_config},
    {"stop_sequences", MK_F_READ, .read = mk_read_stop},
    {"temperature", MK_F_F32, 0, 2, .at = offsetof(mk_ask, sample.temperature),
     .has = offsetof(mk_ask, has_temperature)},
    {"top_p", MK_F_F32, 0, 1, .at = offsetof(mk_ask, sample.top_p),
     .has = offsetof(mk_ask, has_top_p)},
    {"top_k", MK_F_INT, 0, INT32_MAX, .at = offsetof(mk_ask, sample.top_k),
     .has = offsetof(mk_ask, has_top_k)},
    {"stream", MK_F_BOOL, .at = offsetof(mk_ask, stream)},
    {"metadata", MK_F_READ, .read = read_metadata},
    {"container", MK_F_REFUSE, .why = "there is no container to run code in"},
    {"mcp_servers", MK_F_REFUSE, .why = "this server connects to no other servers"},
    // about caching, billing and routing at Anthropic: the cache here is always on
    {.name = "cache_control", .type = MK_F_IGNORE},
    {.name = "service_tier", .type = MK_F_IGNORE},
    {.name = "inference_geo", .type = MK_F_IGNORE},
    {.name = "speed", .type = MK_F_IGNORE},
    {.name = "diagnostics", .type = MK_F_IGNORE},
    {.name = "user_profile_id", .type = MK_F_IGNORE},
    {.name = "workspace_id", .type = MK_F_IGNORE},
    {.name = "anthropic_version", .type = MK_F_IGNORE},
    {.name = "anthropic_beta", .type = MK_F_IGNORE},
    {.name = "betas", .type = MK_F_IGNORE},
};

mk_status mk_anthropic_parse(const json_t *body, mk_ask *ask, mk_err *err) {
    ask->messages = json_array();
    MK_TRY(mk_fields_read(body, NULL, &MK_FIELDS(body_rows), ask, &ask->unknown, err));
    const json_t *messages = json_object_get(body, "messages");
    if (!messages || json_is_null(messages)) {
        return mk_at_expected(MK_AT(NULL, "messages"), err, NULL,
                              "an array of at least one message");
    }
    return MK_OK;
}

const mk_dialect mk_dialect_anthropic = {
    .name = "anthropic",
    .content_type = "text/event-stream",
    .parse = mk_anthropic_parse,
    .open = mk_anthropic_open,
    .event = mk_anthropic_event,
    .finish = mk_anthropic_finish,
    .heartbeat = mk_anthropic_heartbeat,
    .close = mk_anthropic_close,
    .error = mk_anthropic_error,
};
