// Choosing, compiling and rendering the chat template of a model.
#include "chat/template.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

static const char override_origin[] = "--template";

struct mk_chat_template {
    char *text, *tools_text, *origin;  // tools_text: of `tools`
    mk_jinja *main, *tools;  // tools: NULL unless the model brings a second template for them
    json_t *specials;        // name -> text
};

// Roles that templates print inside control tokens (<|user|>). A role that is not here counts as
// user text.
static const char *const plain_roles[] = {"system",        "user",    "assistant", "tool",
                                          "developer",     "model",   "function",  "observation",
                                          "tool_response", "ipython", NULL};

// Templates for models that bring none, chosen by the control tokens of the vocabulary.
static const struct {
    const char *name;
    const char *tokens[3];  // all must be there
    const char *text;
} builtin[] = {
    {"chatml",
     {"<|im_start|>", "<|im_end|>"},
     "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') + "
     "'<|im_end|>\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"llama3",
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     "{{ bos_token or '' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
     "'<|end_header_id|>\\n\\n' + "
     "(m.content or '') | trim + '<|eot_id|>' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% "
     "endif %}"},
    {"gemma",
     {"<start_of_turn>", "<end_of_turn>"},
     "{{ bos_token or '' }}{% for m in messages %}{% if m.role == 'system' %}{{ "
     "raise_exception('System role not "
     "supported') }}{% endif %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else "
     "m.role) + '\\n' + "
     "(m.content or '') | trim + '<end_of_turn>\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"},
    {"phi3",
     {"<|user|>", "<|assistant|>", "<|end|>"},
     "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + (m.content or '') + '<|end|>\\n' }}{% "
     "endfor %}"
     "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"},
};
#define N_BUILTIN (sizeof builtin / sizeof builtin[0])

// --- choosing ------------------------------------------------------------------------------------
typedef struct {
    const char *text, *tool_text, *origin;
    char name[64];
} choice;

// chat_template of tokenizer_config.json: a string, or a list of {"name", "template"} with
// "default" and "tool_use".
static mk_status from_config(const json_t *config, choice *ch, mk_err *err) {
    const json_t *t = json_object_get(config, "chat_template");
    if (t == NULL || json_is_null(t)) {
        return MK_OK;
    }
    if (!json_is_string(t) && !json_is_array(t)) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "tokenizer_config.json: chat_template: expected a string or an array, found %s",
            mk_json_type_name(t));
    }
    ch->origin = "tokenizer_config.json";
    ch->text = json_string_value(t);
    for (size_t i = 0; i < json_array_size(t); i++) {
        const json_t *row = json_array_get(t, i);
        const char *name = json_string_value(json_object_get(row, "name"));
        const char *text = json_string_value(json_object_get(row, "template"));
        if (name == NULL || text == NULL) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "tokenizer_config.json: chat_template[%zu]: expected \"name\" and "
                           "\"template\", both strings",
                           i);
        }
        if (strcmp(name, "default") == 0) {
            ch->text = text;
        } else if (strcmp(name, "tool_use") == 0) {
            ch->tool_text = text;
        }
    }
    return MK_OK;
}

static void from_builtin(const mk_chat_sources *src, choice *ch) {
    size_t n_fit = 0;
    for (size_t i = 0; src->has_token != NULL && i < N_BUILTIN; i++) {
        bool fits = true;
        for (size_t k = 0; k < 3 && builtin[i].tokens[k] != NULL; k++) {
            fits = fits && src->has_token(src->has_token_arg, builtin[i].tokens[k]);
        }
        if (fits) {
            n_fit++;
            ch->text = builtin[i].text;
            snprintf(ch->name, sizeof ch->name, "built-in: %s", builtin[i].name);
        }
    }
    ch->origin = ch->name;
    if (n_fit != 1) {
        ch->text = NULL;
    }
}

static mk_status choose(const mk_chat_sources *src, const json_t *config, choice *ch, mk_err *err) {
    *ch = (choice){0};
    if (src->override_text != NULL) {
        ch->text = src->override_text;
        ch->origin = override_origin;
        return MK_OK;
    }
    if (src->file != NULL || src->file_tool_use != NULL) {
        ch->text = src->file != NULL ? src->file : src->file_tool_use;
        ch->tool_text = src->file_tool_use;
        ch->origin = "chat_template.jinja";
        return MK_OK;
    }
    MK_TRY(from_config(config, ch, err));
    if (ch->text == NULL && ch->tool_text == NULL &&
        (src->gguf != NULL || src->gguf_tool_use != NULL)) {
        ch->text = src->gguf;
        ch->tool_text = src->gguf_tool_use;
        ch->origin = "tokenizer.chat_template";
    }
    if (ch->text == NULL) {
        ch->text = ch->tool_text;
    }
    if (ch->text == NULL) {
        from_builtin(src, ch);
    }
    if (ch->text == NULL) {
        return MK_FAIL(
            err, MK_ENOTFOUND,
            "the model has no chat template, and its vocabulary does not say which of the "
            "common ones fits; use --raw to continue text, or --template FILE");
    }
    return MK_OK;
}

// --- special tokens ------------------------------------------------------------------------------
static bool is_special_name(const char *key) {
    size_t n = strlen(key);
    return n > 6 && strcmp(key + n - 6, "_token") == 0;
}

// "bos_token": "<s>" or {"content": "<s>", ...}
static const char *special_text(const json_t *v) {
    return json_is_object(v) ? json_string_value(json_object_get(v, "content"))
                             : json_string_value(v);
}

static mk_status read_specials(const mk_chat_sources *src, json_t *config, json_t *out,
                               mk_err *err) {
    const char *key;
    json_t *v;
    int bad = 0;
    json_object_foreach(config, key, v) {
        const char *text = is_special_name(key) ? special_text(v) : NULL;
        if (text != NULL) {
            bad |= json_object_set_new(out, key, json_string(text));
        }
    }
    for (size_t i = 0; i < src->n_specials; i++) {
        if (src->specials[i].name != NULL && src->specials[i].text != NULL) {
            bad |=
                json_object_set_new(out, src->specials[i].name, json_string(src->specials[i].text));
        }
    }
    return bad ? MK_FAIL(err, MK_ENOMEM, "special tokens: out of memory or not UTF-8") : MK_OK;
}

// --- creation ------------------------------------------------------------------------------------
static char *copy_text(const char *s) {
    size_t n = strlen(s);
    char *p = mk_try_alloc(n + 1, 1);
    if (p != NULL) {
        memcpy(p, s, n);
    }
    return p;
}

static mk_status build(const mk_chat_sources *src, json_t *config, mk_chat_template *t,
                       mk_err *err) {
    choice ch;
    MK_TRY(choose(src, config, &ch, err));
    t->text = copy_text(ch.text);
    t->origin = copy_text(ch.origin);
    t->specials = json_object();
    if (t->text == NULL || t->origin == NULL || t->specials == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "chat template: out of memory");
    }
    MK_TRY(read_specials(src, config, t->specials, err));
    if (mk_jinja_compile(ch.text, strlen(ch.text), &t->main, err) != MK_OK) {
        return mk_err_prefix(err, "%s", ch.origin);
    }
    t->tools_text = ch.tool_text != NULL ? copy_text(ch.tool_text) : NULL;
    if (ch.tool_text != NULL && t->tools_text == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "chat template: out of memory");
    }
    if (ch.tool_text != NULL &&
        mk_jinja_compile(ch.tool_text, strlen(ch.tool_text), &t->tools, err) != MK_OK) {
        return mk_err_prefix(err, "%s, tool_use", ch.origin);
    }
    return MK_OK;
}

mk_status mk_chat_template_create(const mk_chat_sources *src, mk_chat_template **out, mk_err *err) {
    mk_chat_template *t = mk_try_alloc(1, sizeof *t);
    json_t *config = NULL;
    mk_err local = {0};  // codes travel in it even if the caller wants no text
    if (t == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "chat template: out of memory");
    }
    mk_status st = MK_OK;
    if (src->tokenizer_config != NULL) {
        st = mk_json_parse(src->tokenizer_config, strlen(src->tokenizer_config),
                           "tokenizer_config.json", &config, &local);
    }
    if (st == MK_OK) {
        st = build(src, config, t, &local);
    }
    json_decref(config);
    if (st != MK_OK) {
        mk_chat_template_destroy(t);
        if (err != NULL) {
            *err = local;
        }
        return st;
    }
    *out = t;
    return MK_OK;
}

void mk_chat_template_destroy(mk_chat_template *t) {
    if (t != NULL) {
        mk_jinja_destroy(t->main);
        mk_jinja_destroy(t->tools);
        json_decref(t->specials);
        mk_free(t->text);
        mk_free(t->tools_text);
        mk_free(t->origin);
        mk_free(t);
    }
}

// --- checking ------------------------------------------------------------------------------------
static mk_status check_message(const json_t *m, size_t i, mk_err *err) {
    if (!json_is_object(m)) {
        return MK_FAIL(err, MK_EUSAGE, "messages[%zu]: expected an object, found %s", i,
                       mk_json_type_name(m));
    }
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
    if (!json_is_string(role) || json_string_length(role) == 0) {
        return MK_FAIL(err, MK_EUSAGE,
                       "messages[%zu].role: expected a string that is not empty, found %s", i,
                       json_is_string(role) ? "an empty one" : mk_json_type_name(role));
    }
    if (content != NULL && !json_is_string(content) && !json_is_array(content) &&
        !json_is_null(content)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "messages[%zu].content: expected a string, an array or null, found %s", i,
                       mk_json_type_name(content));
    }
    for (size_t k = 0; json_is_array(content) && k < json_array_size(content); k++) {
        const json_t *part = json_array_get(content, k);
        if (!json_is_object(part) && !json_is_string(part)) {
            return MK_FAIL(err, MK_EUSAGE,
                           "messages[%zu].content[%zu]: expected an object, found %s", i, k,
                           mk_json_type_name(part));
        }
    }
    return MK_OK;
}

static mk_status check_objects(const json_t *list, const char *what, mk_err *err) {
    if (!json_is_array(list)) {
        return MK_FAIL(err, MK_EUSAGE, "%s: expected an array, found %s", what,
                       mk_json_type_name(list));
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_object(v)) {
            return MK_FAIL(err, MK_EUSAGE, "%s[%zu]: expected an object, found %s", what, i,
                           mk_json_type_name(v));
        }
    }
    return MK_OK;
}

static mk_status check_input(const json_t *messages, const json_t *tools, const json_t *extra,
                             mk_err *err) {
    static const char *const reserved[] = {"messages", "tools", "add_generation_prompt"};
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return MK_FAIL(err, MK_EUSAGE,
                       "messages: expected an array with at least one message, found %s",
                       json_is_array(messages) ? "an empty one" : mk_json_type_name(messages));
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        MK_TRY(check_message(json_array_get(messages, i), i, err));
    }
    if (tools != NULL) {
        MK_TRY(check_objects(tools, "tools", err));
    }
    if (extra == NULL) {
        return MK_OK;
    }
    if (!json_is_object(extra)) {
        return MK_FAIL(err, MK_EUSAGE, "template variables: expected an object, found %s",
                       mk_json_type_name(extra));
    }
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        if (json_object_get(extra, reserved[i]) != NULL) {
            return MK_FAIL(err, MK_EUSAGE,
                           "template variables: \"%s\" is set by the request itself", reserved[i]);
        }
    }
    return MK_OK;
}

// --- rendering -----------------------------------------------------------------------------------
// Reasoning has three names in the field; a message that has one gets those that templates read.
// Shallow copy.
static json_t *with_reasoning(const json_t *m) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *found = NULL, *copy = json_copy((json_t *)(uintptr_t)m);
    for (size_t i = 0; found == NULL && i < 3; i++) {
        json_t *v = json_object_get(m, names[i]);
        found = json_is_null(v) ? NULL : v;
    }
    if (copy == NULL || found == NULL) {
        return copy;
    }
    int bad = json_object_set(copy, "reasoning_content", found);
    if (json_object_get(copy, "thinking") == NULL) {
        bad |= json_object_set(copy, "thinking", found);
    }
    if (bad) {
        json_decref(copy);
        return NULL;
    }
    return copy;
}

static json_t *prepared_messages(const json_t *messages) {
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < json_array_size(messages); i++) {
        // append_new takes NULL as a failure, too
        if (json_array_append_new(list, with_reasoning(json_array_get(messages, i))) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

// Variables of the template's side: special tokens and switches.
static json_t *model_vars(const mk_chat_template *t, const mk_chat_render_opts *o) {
    json_t *vars = json_copy(t->specials);
    int bad = vars == NULL || json_object_set_new(vars, "add_generation_prompt",
                                                  json_boolean(o->add_generation_prompt));
    // the switch has two names in the field; what the caller names itself in `extra` stays
    static const char *const names[] = {"enable_thinking", "thinking"};
    for (size_t i = 0; !bad && o->enable_thinking >= 0 && i < 2; i++) {
        if (json_object_get(o->extra, names[i]) == NULL) {
            bad = json_object_set_new(vars, names[i], json_boolean(o->enable_thinking != 0));
        }
    }
    if (bad) {
        json_decref(vars);
        return NULL;
    }
    return vars;
}

static json_t *user_vars(const json_t *messages, const json_t *tools,
                         const mk_chat_render_opts *o) {
    json_t *vars = o->extra != NULL ? json_copy((json_t *)(uintptr_t)o->extra) : json_object();
    bool has_tools = json_array_size(tools) > 0;
    int bad = vars == NULL || json_object_set_new(vars, "messages", prepared_messages(messages)) ||
              json_object_set(vars, "tools", has_tools ? (json_t *)(uintptr_t)tools : json_null());
    if (!bad && json_object_get(vars, "documents") == NULL) {
        bad = json_object_set_new(vars, "documents", json_null());
    }
    if (!bad && o->reasoning_effort != NULL && json_object_get(vars, "reasoning_effort") == NULL) {
        bad = json_object_set_new(vars, "reasoning_effort", json_string(o->reasoning_effort));
    }
    if (bad) {
        json_decref(vars);
        return NULL;
    }
    return vars;
}

mk_status mk_chat_template_render(const mk_chat_template *t, const json_t *messages,
                                  const json_t *tools, const mk_chat_render_opts *opts,
                                  mk_jinja_text *out, mk_err *err) {
    *out = (mk_jinja_text){0};
    MK_TRY(check_input(messages, tools, opts->extra, err));
    json_t *model = model_vars(t, opts), *user = user_vars(messages, tools, opts);
    mk_status st;
    if (model == NULL || user == NULL) {
        st = MK_FAIL(err, MK_ENOMEM, "chat template: out of memory for the variables");
    } else {
        const mk_jinja *j = t->tools != NULL && json_array_size(tools) > 0 ? t->tools : t->main;
        mk_jinja_vars vars = {.model = model, .user = user, .plain_roles = plain_roles};
        st = mk_jinja_render_text(j, &vars, &opts->limits, out, err);
    }
    json_decref(model);
    json_decref(user);
    return st;
}

// --- facts ---------------------------------------------------------------------------------------
const char *mk_chat_template_origin(const mk_chat_template *t) {
    return t->origin;
}

bool mk_chat_template_is_override(const mk_chat_template *t) {
    return strcmp(t->origin, override_origin) == 0;
}

const char *mk_chat_template_text(const mk_chat_template *t) {
    return t->text;
}

const char *mk_chat_template_text_for(const mk_chat_template *t, const json_t *tools) {
    return json_array_size(tools) > 0 && t->tools_text != NULL ? t->tools_text : t->text;
}

const char *mk_chat_template_special(const mk_chat_template *t, const char *name) {
    return json_string_value(json_object_get(t->specials, name));
}

bool mk_chat_template_has_tools(const mk_chat_template *t) {
    return t->tools != NULL || strstr(t->text, "tools") != NULL;
}

bool mk_chat_template_can_switch_thinking(const mk_chat_template *t) {
    return strstr(t->text, "enable_thinking") != NULL || strstr(t->text, "if thinking") != NULL ||
           strstr(t->text, "thinking is defined") != NULL;
}

bool mk_chat_template_thinks(const mk_chat_template *t) {
    static const char *const marks[] = {"<think>", "</think>",    "reasoning_content",
                                        "[THINK]", "<|channel|>", "thinking"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (strstr(t->text, marks[i]) != NULL) {
            return true;
        }
    }
    return false;
}
