#include "serve/anthropic_tools.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "serve/ask_read.h"
#include "serve/shape.h"

enum { MAX_TOOL_NAME = 128 };

// Tools that the client runs and whose schema only Anthropic's models know by heart.
static const struct {
    const char *prefix, *description, *schema;
} known[] = {
    {"bash_", "Runs a command in a shell that stays open between calls.",
     "{\"type\":\"object\",\"properties\":{"
     "\"command\":{\"type\":\"string\",\"description\":\"The command to run.\"},"
     "\"restart\":{\"type\":\"boolean\",\"description\":\"Starts the shell anew.\"}}}"},
    {"text_editor_", "Views, creates and edits text files.",
     "{\"type\":\"object\",\"properties\":{"
     "\"command\":{\"type\":\"string\",\"enum\":[\"view\",\"create\",\"str_replace\",\"insert\"]},"
     "\"path\":{\"type\":\"string\",\"description\":\"Absolute path of a file or folder.\"},"
     "\"file_text\":{\"type\":\"string\",\"description\":\"create: the whole text.\"},"
     "\"old_str\":{\"type\":\"string\",\"description\":\"str_replace: what to replace.\"},"
     "\"new_str\":{\"type\":\"string\",\"description\":\"str_replace: what to put there.\"},"
     "\"insert_line\":{\"type\":\"integer\",\"description\":\"insert: the line after which.\"},"
     "\"insert_text\":{\"type\":\"string\",\"description\":\"insert: the text.\"},"
     "\"view_range\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"},"
     "\"description\":\"view: first and last line; -1 is the end.\"}},"
     "\"required\":[\"command\",\"path\"]}"},
};

typedef struct {
    char *name, *description, *type;
    json_t *schema;
    bool strict;
} tool;

static const mk_field tool_rows[] = {
    {"name", MK_F_TEXT, 1, MAX_TOOL_NAME, .at = offsetof(tool, name)},
    {"description", MK_F_TEXT, .at = offsetof(tool, description)},
    {"type", MK_F_TEXT, .at = offsetof(tool, type)},
    {"input_schema", MK_F_OBJECT, .at = offsetof(tool, schema)},
    {"strict", MK_F_LAX_BOOL, .at = offsetof(tool, strict)},
};

static void tool_free(tool *t) {
    mk_free(t->name);
    mk_free(t->description);
    mk_free(t->type);
    json_decref(t->schema);
}

// {name, description, parameters, strict}; NULL: nobody here can run it.
static json_t *function_of(const tool *t) {
    json_t *f = json_pack("{s:s}", "name", t->name);
    if (!t->type || strcmp(t->type, "custom") == 0) {
        (void)json_object_set_new(f, "description",
                                  t->description ? json_string(t->description) : json_null());
        (void)json_object_set_new(f, "parameters",
                                  t->schema ? json_incref(t->schema) : json_null());
        (void)json_object_set_new(f, "strict", json_boolean(t->strict));
        return f;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strncmp(t->type, known[i].prefix, strlen(known[i].prefix)) == 0) {
            (void)json_object_set_new(f, "description", json_string(known[i].description));
            (void)json_object_set_new(f, "parameters", json_loads(known[i].schema, 0, NULL));
            return f;
        }
    }
    json_decref(f);
    return NULL;
}

static mk_status has_name(const mk_at *at, const json_t *tools, const char *name, mk_err *err) {
    size_t i;
    const json_t *v;
    json_array_foreach(tools, i, v) {
        const json_t *f = json_object_get(v, "function");
        const char *text = json_string_value(json_object_get(f, "name"));
        if (text && strcmp(text, name) == 0) {  // NULL: there was no memory for it
            return MK_OK;
        }
    }
    return mk_at_fail(MK_AT(at, "name"), err, MK_EUSAGE,
                      "expected the name of one of the tools, got \"%.128s\"", name);
}

static mk_status add_tool(const mk_at *at, const tool *t, mk_ask *ask, mk_err *err) {
    if (!t->name) {
        return mk_at_expected(MK_AT(at, "name"), err, NULL, "a string");
    }
    if (has_name(at, ask->tools, t->name, NULL) == MK_OK) {
        return mk_at_fail(MK_AT(at, "name"), err, MK_EUSAGE,
                          "expected a name that no other tool has, got \"%.128s\" again", t->name);
    }
    json_t *f = function_of(t);
    mk_status st = MK_OK;
    if (f) {
        st = mk_ask_add_tool(ask, at, f, NULL, err);
    } else {
        char note[96];
        (void)snprintf(note, sizeof note, "tools.%.80s", t->type);
        mk_shape_unknown(ask, note);
    }
    json_decref(f);
    return st;
}

mk_status mk_anthropic_tools(const mk_at *at, const json_t *v, mk_ask *ask, mk_err *err) {
    if (!json_is_array(v)) {
        return mk_at_expected(at, err, v, "an array of tools");
    }
    mk_status st = MK_OK;
    for (size_t i = 0; i < json_array_size(v) && st == MK_OK; i++) {
        tool t = {0};
        st = mk_fields_read(json_array_get(v, i), MK_NTH(at, i), &MK_FIELDS(tool_rows), &t, NULL,
                            err);
        if (st == MK_OK) {
            st = add_tool(MK_NTH(at, i), &t, ask, err);
        }
        tool_free(&t);
    }
    return st;
}

typedef struct {
    char *type, *name;
    bool single;
} choice;

static const mk_field choice_rows[] = {
    {"type", MK_F_TEXT, .at = offsetof(choice, type)},
    {"name", MK_F_TEXT, 1, MAX_TOOL_NAME, .at = offsetof(choice, name)},
    {"disable_parallel_tool_use", MK_F_LAX_BOOL, .at = offsetof(choice, single)},
};

static mk_status choose(const mk_at *at, const json_t *v, choice *c, mk_ask *ask, mk_err *err) {
    static const struct {
        const char *type;
        mk_tool_choice choice;
    } types[] = {{"auto", MK_TOOLS_AUTO},
                 {"any", MK_TOOLS_REQUIRED},
                 {"tool", MK_TOOLS_NAMED},
                 {"none", MK_TOOLS_NONE}};
    size_t k = 0;
    while (k < 4 && (!c->type || strcmp(types[k].type, c->type) != 0)) {
        k++;
    }
    if (k == 4) {
        return mk_at_expected(MK_AT(at, "type"), err, json_object_get(v, "type"),
                              "\"auto\", \"any\", \"tool\" or \"none\"");
    }
    ask->tool_choice = types[k].choice;
    ask->parallel_tools = !c->single;
    if (ask->tool_choice == MK_TOOLS_REQUIRED && !ask->tools) {
        return mk_at_fail(at, err, MK_EUSAGE, "a tool must be called, but there are none to call");
    }
    if (ask->tool_choice == MK_TOOLS_NAMED) {
        if (!c->name) {
            return mk_at_expected(MK_AT(at, "name"), err, NULL, "the name of a tool");
        }
        MK_TRY(has_name(at, ask->tools, c->name, err));
        ask->tool_name = mk_strdup(c->name);
    }
    return MK_OK;
}

mk_status mk_anthropic_tool_choice(const mk_at *at, const json_t *v, mk_ask *ask, mk_err *err) {
    choice c = {0};
    mk_status st = mk_fields_read(v, at, &MK_FIELDS(choice_rows), &c, &ask->unknown, err);
    if (st == MK_OK) {
        st = choose(at, v, &c, ask, err);
    }
    mk_free(c.type);
    mk_free(c.name);
    return st;
}
