// One line of JSON -> mk_line: which form it is, which fields it has, what they must be.
//
// The fields of a form are a table; everything that can be wrong is said with the field's name,
// what was expected and what is there.
#include <string.h>

#include "base/json.h"
#include "base/opt.h"
#include "train/data_int.h"

// --- fields --------------------------------------------------------------------------------------

typedef enum { F_STR = 1, F_LIST = 2, F_NUM = 4, F_ANY = 8, F_BOOL = 16 } field_types;

typedef struct {
    const char *name;
    int types;
    bool required;
} field;

enum { MAX_FIELD = 8 };

// Every form may have "id"; all but rl may have "weight".
static const struct {
    const char *name;
    mk_data_kind kind;
    field fields[MAX_FIELD];
} forms[] = {
    [MK_FORM_TEXT] = {"text", MK_DATA_TEXT, {{"text", F_STR, true}}},
    [MK_FORM_MESSAGES] = {"messages",
                          MK_DATA_CHAT,
                          {{"messages", F_LIST, true}, {"tools", F_LIST, false}}},
    [MK_FORM_COMPLETION] = {"prompt and completion",
                            MK_DATA_CHAT,
                            {{"prompt", F_STR | F_LIST, true},
                             {"completion", F_STR | F_LIST, true},
                             {"tools", F_LIST, false}}},
    [MK_FORM_SHAREGPT] = {"conversations",
                          MK_DATA_CHAT,
                          {{"conversations", F_LIST, true},
                           {"system", F_STR, false},
                           {"tools", F_LIST, false}}},
    [MK_FORM_ALPACA] = {"instruction and output",
                        MK_DATA_CHAT,
                        {{"instruction", F_STR, true},
                         {"input", F_STR, false},
                         {"output", F_STR, true},
                         {"system", F_STR, false}}},
    [MK_FORM_PAIR] = {"chosen and rejected",
                      MK_DATA_PAIR,
                      {{"prompt", F_STR | F_LIST, false},
                       {"chosen", F_STR | F_LIST, true},
                       {"rejected", F_STR | F_LIST, true},
                       {"tools", F_LIST, false}}},
    [MK_FORM_RL] = {"prompt and answer",
                    MK_DATA_RL,
                    {{"prompt", F_STR | F_LIST, true},
                     {"answer", F_ANY, true},
                     {"tools", F_LIST, false}}},
    [MK_FORM_LABEL] = {"prompt, completion and label",
                       MK_DATA_LABEL,
                       {{"prompt", F_STR | F_LIST, true},
                        {"completion", F_STR | F_LIST, true},
                        {"label", F_BOOL, true},
                        {"tools", F_LIST, false}}},
};
#define N_FORM (sizeof forms / sizeof forms[0])

static bool has(const json_t *o, const char *key) {
    return json_object_get(o, key) != NULL;
}

static bool has_text(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v);
}

static bool type_fits(const json_t *v, int types) {
    return types & F_ANY || (json_is_string(v) && types & F_STR) ||
           (json_is_array(v) && types & F_LIST) || (json_is_number(v) && types & F_NUM) ||
           (json_is_boolean(v) && types & F_BOOL);
}

static const char *types_text(int types) {
    return types == (F_STR | F_LIST) ? "a string or a list of messages"
           : types == F_LIST         ? "a list"
           : types == F_NUM          ? "a number"
           : types == F_BOOL         ? "true or false"
                                     : "a string";
}

// --- which form ----------------------------------------------------------------------------------

// The fields that name a form, looked for in this order.
static const struct {
    const char *field;
    mk_form form;
} signs[] = {
    {"messages", MK_FORM_MESSAGES},     {"conversations", MK_FORM_SHAREGPT},
    {"chosen", MK_FORM_PAIR},           {"rejected", MK_FORM_PAIR},
    {"completion", MK_FORM_COMPLETION}, {"answer", MK_FORM_RL},
    {"instruction", MK_FORM_ALPACA},    {"output", MK_FORM_ALPACA},
    {"prompt", MK_FORM_COMPLETION},     {"text", MK_FORM_TEXT},
};
#define N_SIGN (sizeof signs / sizeof signs[0])

static mk_status no_form(const json_t *o, mk_err *err) {
    const char *names[N_SIGN], *key, *near = NULL;
    json_t *v;
    for (size_t i = 0; i < N_SIGN; i++) {
        names[i] = signs[i].field;
    }
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        near = near ? near : mk_opt_suggest(key, names, N_SIGN);
        if (near) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "\"%.80s\": not a field of training data; did you mean \"%s\"?", key,
                           near);
        }
    }
    return MK_FAIL(
        err, MK_ECORRUPT,
        "expected a field \"messages\", \"prompt\", \"instruction\", \"conversations\" "
        "or \"text\", got %s%.80s%s",
        json_object_size(o) ? "\"" : "an empty object",
        json_object_size(o) ? json_object_iter_key(json_object_iter((json_t *)(uintptr_t)o)) : "",
        json_object_size(o) ? "\"" : "");
}

static mk_status find_form(const mk_data_opts *o, const json_t *line, mk_form *out, mk_err *err) {
    // a line that lacks the field that would tell is what was asked for
    bool prompt = has(line, "prompt"), answer = has(line, "answer");
    bool completion = has(line, "completion"), pair = has(line, "chosen") || has(line, "rejected");
    if (o->kind == MK_DATA_RL && prompt && (answer || !(completion || pair))) {
        *out = MK_FORM_RL;
        return MK_OK;
    }
    if (o->kind == MK_DATA_PAIR && prompt && !answer && !completion) {
        *out = MK_FORM_PAIR;
        return MK_OK;
    }
    // for sft and pretrain it is a field that is not known, for a checker one like any other
    bool label = completion && has(line, "label") && !has(line, "messages") &&
                 o->kind != MK_DATA_CHAT && o->kind != MK_DATA_TEXT;
    if (prompt && !answer && !pair && (label || o->kind == MK_DATA_LABEL)) {
        *out = MK_FORM_LABEL;
        return MK_OK;
    }
    for (size_t i = 0; i < N_SIGN; i++) {
        if (has(line, signs[i].field)) {
            *out = signs[i].form;
            return MK_OK;
        }
    }
    return no_form(line, err);
}

// --- a line's fields -----------------------------------------------------------------------------

static mk_status unknown_field(mk_form form, const char *key, mk_err *err) {
    const char *names[MAX_FIELD + 2];
    size_t n = 0;
    for (const field *f = forms[form].fields; n < MAX_FIELD && f->name; f++) {
        names[n++] = f->name;
    }
    names[n++] = "weight";
    const char *near = mk_opt_suggest(key, names, n);
    return near
               ? MK_FAIL(err, MK_ECORRUPT,
                         "\"%.80s\": unknown in the form %s; did you mean \"%s\"?", key,
                         forms[form].name, near)
               : MK_FAIL(err, MK_ECORRUPT,
                         "\"%.80s\": unknown in the form %s; remove it, or ignore such fields with "
                         "--allow-unknown",
                         key, forms[form].name);
}

static const field *find_field(mk_form form, const char *key) {
    const field *f = forms[form].fields;
    for (int i = 0; i < MAX_FIELD && f[i].name; i++) {
        if (strcmp(f[i].name, key) == 0) {
            return &f[i];
        }
    }
    return NULL;
}

static mk_status read_weight(const json_t *line, double *out, mk_err *err) {
    const json_t *v = json_object_get(line, "weight");
    *out = 1;
    if (!v || json_is_null(v)) {
        return MK_OK;
    }
    double w = json_number_value(v);
    if (!json_is_number(v) || !(w >= 0 && w <= 1e6)) {
        return MK_FAIL(err, MK_ECORRUPT, "\"weight\": expected a number from 0 to 1000000, got %s",
                       json_is_number(v) ? "one outside" : mk_json_type_name(v));
    }
    *out = w;
    return MK_OK;
}

static mk_status check_fields(const mk_data_opts *o, mk_form form, const json_t *line,
                              mk_err *err) {
    const char *key;
    json_t *v;
    bool open = form == MK_FORM_RL || o->allow_unknown;
    json_object_foreach((json_t *)(uintptr_t)line, key, v) {
        const field *f = find_field(form, key);
        if (f && !json_is_null(v) && !type_fits(v, f->types)) {
            return MK_FAIL(err, MK_ECORRUPT, "\"%s\": expected %s, got %s", key,
                           types_text(f->types), mk_json_type_name(v));
        }
        bool common = strcmp(key, "id") == 0 || strcmp(key, "weight") == 0;
        if (!f && !common && !open) {
            return unknown_field(form, key, err);
        }
    }
    for (const field *f = forms[form].fields; f < forms[form].fields + MAX_FIELD && f->name; f++) {
        if (f->required && !has_text(line, f->name)) {
            return MK_FAIL(err, MK_ECORRUPT, "\"%s\": expected %s, got %s", f->name,
                           f->types == F_ANY ? "a value" : types_text(f->types),
                           mk_json_type_name(json_object_get(line, f->name)));
        }
    }
    return MK_OK;
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

// --- sides ---------------------------------------------------------------------------------------

// A field that is a string or a list of messages; `answer`: it must hold something to learn.
static mk_status read_side(const mk_data_opts *o, const json_t *line, const char *key, bool answer,
                           mk_side *out, mk_err *err) {
    json_t *v = json_object_get(line, key);
    if (!v || json_is_null(v)) {
        return MK_OK;
    }
    out->owner = json_incref(v);
    if (json_is_string(v)) {
        out->text = json_string_value(v);
        out->n_text = json_string_length(v);
        return answer && mk_json_is_blank(v)
                   ? MK_FAIL(err, MK_ECORRUPT, "\"%s\": expected a text, got an empty one", key)
                   : MK_OK;
    }
    MK_TRY(mk_messages_check(o, v, key, err));
    if (answer && mk_messages_count(v, "assistant") == 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "\"%s\": expected a message of the assistant, got none in %zu messages", key,
                       json_array_size(v));
    }
    return MK_OK;
}

static mk_status own_text(const char *p, size_t n, mk_side *out, mk_err *err) {
    out->owner = json_stringn(p, n);
    if (!out->owner) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a text of %zu bytes", n);
    }
    out->text = json_string_value(out->owner);
    out->n_text = n;
    return MK_OK;
}

// "instruction" and "input" with an empty line between them.
static mk_status read_alpaca(const mk_data_opts *o, mk_line *l, mk_err *err) {
    const json_t *a = json_object_get(l->object, "instruction");
    const json_t *b = json_object_get(l->object, "input");
    mk_buf text;
    mk_buf_init(&text, 2 * MK_DATA_MAX_LINE);
    mk_buf_add(&text, json_string_value(a), json_string_length(a));
    if (!mk_json_is_blank(b)) {
        mk_buf_puts(&text, text.len > 0 ? "\n\n" : "");
        mk_buf_add(&text, json_string_value(b), json_string_length(b));
    }
    mk_status st = text.failed ? MK_FAIL(err, MK_ENOMEM, "no memory for \"instruction\"")
                               : own_text(text.data ? text.data : "", text.len, &l->prompt, err);
    mk_buf_free(&text);
    return st == MK_OK ? read_side(o, l->object, "output", true, &l->answer, err) : st;
}

// {"from": "human", "value": "..."} -> {"role": "user", "content": "..."}
static mk_status from_sharegpt(const json_t *turn, size_t i, json_t **out, mk_err *err) {
    static const char *const map[][2] = {{"human", "user"},    {"gpt", "assistant"},
                                         {"system", "system"}, {"tool", "tool"},
                                         {"user", "user"},     {"assistant", "assistant"}};
    json_t *from = json_object_get(turn, "from"), *value = json_object_get(turn, "value");
    const char *name = json_string_value(from), *role = NULL;
    for (size_t k = 0; name && k < COUNT(map); k++) {
        role = strcmp(name, map[k][0]) == 0 ? map[k][1] : role;
    }
    if (!role) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "conversations[%zu].from: expected human, gpt, system or tool, got %s%.60s%s", i,
            name ? "\"" : mk_json_type_name(json_is_object(turn) ? from : turn), name ? name : "",
            name ? "\"" : "");
    }
    if (!json_is_string(value)) {
        return MK_FAIL(err, MK_ECORRUPT, "conversations[%zu].value: expected a string, got %s", i,
                       mk_json_type_name(value));
    }
    *out = json_pack("{s:s, s:O}", "role", role, "content", value);
    json_t *weight = json_object_get(turn, "weight");
    if (!*out || (weight && json_object_set(*out, "weight", weight) != 0)) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the messages of a line");
    }
    return MK_OK;
}

static mk_status check_turn(const mk_data_opts *o, const json_t *turn, size_t i, mk_err *err) {
    static const char *const known[] = {"from", "value", "weight"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)turn, key, v) {
        if (!o->allow_unknown && !mk_is_one_of(key, known, COUNT(known))) {
            return MK_FAIL(
                err, MK_ECORRUPT,
                "conversations[%zu].%.80s: expected \"from\" and \"value\" alone; ignore "
                "other fields with --allow-unknown",
                i, key);
        }
    }
    return MK_OK;
}

static mk_status read_sharegpt(const mk_data_opts *o, mk_line *l, mk_err *err) {
    const json_t *turns = json_object_get(l->object, "conversations");
    l->answer.owner = json_array();
    for (size_t i = 0; i < json_array_size(turns); i++) {
        json_t *m = NULL;
        MK_TRY(check_turn(o, json_array_get(turns, i), i, err));
        mk_status st = from_sharegpt(json_array_get(turns, i), i, &m, err);
        if (st != MK_OK || json_array_append_new(l->answer.owner, m) != 0) {
            if (st != MK_OK) {
                json_decref(m);
            }
            return st != MK_OK ? st
                               : MK_FAIL(err, MK_ENOMEM, "no memory for the messages of a line");
        }
    }
    MK_TRY(mk_messages_check(o, l->answer.owner, "conversations", err));
    return mk_messages_count(l->answer.owner, "assistant") > 0
               ? MK_OK
               : MK_FAIL(err, MK_ECORRUPT,
                         "\"conversations\": expected a turn of gpt, got none in %zu turns",
                         json_array_size(turns));
}

// --- pairs ---------------------------------------------------------------------------------------

// Whole conversations: what both have in front becomes the prompt.
static mk_status split_pair(mk_line *l, mk_err *err) {
    json_t *a = l->answer.owner, *b = l->rejected.owner;
    size_t n = 0;
    while (n < json_array_size(a) && n < json_array_size(b) &&
           !mk_message_is(json_array_get(a, n), "assistant") &&
           json_equal(json_array_get(a, n), json_array_get(b, n))) {
        n++;
    }
    json_t *side[3] = {json_array(), json_array(), json_array()};
    int bad = !side[0] || !side[1] || !side[2];
    for (size_t i = 0; !bad && i < json_array_size(a); i++) {
        bad |= json_array_append(side[i < n ? 0 : 1], json_array_get(a, i));
    }
    for (size_t i = n; !bad && i < json_array_size(b); i++) {
        bad |= json_array_append(side[2], json_array_get(b, i));
    }
    json_decref(a);
    json_decref(b);
    l->prompt.owner = side[0];
    l->answer.owner = side[1];
    l->rejected.owner = side[2];
    if (bad) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the messages of a line");
    }
    return n > 0 ? MK_OK
                 : MK_FAIL(err, MK_ECORRUPT,
                           "\"prompt\": expected a prompt, or \"chosen\" and \"rejected\" that "
                           "begin with the same messages of a user; got neither");
}

static bool is_whole(const mk_side *s) {
    const json_t *m = s->text ? NULL : json_array_get(s->owner, 0);
    return m && !mk_message_is(m, "assistant") && !mk_message_is(m, "tool");
}

// Some data sets give the prompt a second time, as a string.
static mk_status check_repeated_prompt(const mk_line *l, mk_err *err) {
    const json_t *last = json_array_get(l->prompt.owner, json_array_size(l->prompt.owner) - 1);
    const json_t *prompt = json_object_get(l->object, "prompt");
    bool same = !has_text(l->object, "prompt") || json_equal(prompt, l->prompt.owner) ||
                json_equal(prompt, json_object_get(last, "content"));
    return same ? MK_OK
                : MK_FAIL(err, MK_ECORRUPT,
                          "\"prompt\": expected the last message of the user, because \"chosen\" "
                          "and \"rejected\" are whole conversations; got another text");
}

static mk_status read_pair(const mk_data_opts *o, mk_line *l, mk_err *err) {
    MK_TRY(read_side(o, l->object, "chosen", true, &l->answer, err));
    MK_TRY(read_side(o, l->object, "rejected", true, &l->rejected, err));
    if (is_whole(&l->answer) && is_whole(&l->rejected)) {
        MK_TRY(split_pair(l, err));
        return check_repeated_prompt(l, err);
    }
    if (!has_text(l->object, "prompt")) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "\"prompt\": expected a string or a list of messages, got nothing");
    }
    return read_side(o, l->object, "prompt", false, &l->prompt, err);
}

// --- the line ------------------------------------------------------------------------------------

// What is to be answered ends with somebody who asks.
static mk_status check_prompt(const mk_line *l, mk_err *err) {
    const json_t *list = l->prompt.text ? NULL : l->prompt.owner;
    size_t n = json_array_size(list);
    if (n > 0 && mk_message_is(json_array_get(list, n - 1), "assistant")) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "prompt[%zu].role: expected user or tool in the last message of a prompt, "
                       "got \"assistant\"",
                       n - 1);
    }
    if (l->form == MK_FORM_RL && l->prompt.text && mk_json_is_blank(l->prompt.owner)) {
        return MK_FAIL(err, MK_ECORRUPT, "\"prompt\": expected a text, got an empty one");
    }
    return MK_OK;
}

static mk_status read_form(const mk_data_opts *o, mk_line *l, mk_err *err) {
    const json_t *v = l->object;
    switch (l->form) {
    case MK_FORM_TEXT:
        return read_side(o, v, "text", true, &l->answer, err);
    case MK_FORM_MESSAGES:
        return read_side(o, v, "messages", true, &l->answer, err);
    case MK_FORM_COMPLETION:
    case MK_FORM_LABEL:
        l->label = json_is_true(json_object_get(v, "label"));
        MK_TRY(read_side(o, v, "prompt", false, &l->prompt, err));
        return read_side(o, v, "completion", true, &l->answer, err);
    case MK_FORM_SHAREGPT:
        return read_sharegpt(o, l, err);
    case MK_FORM_ALPACA:
        return read_alpaca(o, l, err);
    case MK_FORM_PAIR:
        return read_pair(o, l, err);
    case MK_FORM_RL:
        return read_side(o, v, "prompt", false, &l->prompt, err);
    }
    return MK_OK;
}

static mk_status read_line(const mk_data_opts *o, mk_line *l, mk_err *err) {
    l->weight = 1;
    if (!json_is_object(l->object)) {
        return MK_FAIL(err, MK_ECORRUPT, "expected one JSON object per line, got %s",
                       mk_json_type_name(l->object));
    }
    MK_TRY(find_form(o, l->object, &l->form, err));
    l->kind = forms[l->form].kind;
    MK_TRY(check_fields(o, l->form, l->object, err));
    MK_TRY(l->form == MK_FORM_RL ? MK_OK : read_weight(l->object, &l->weight, err));
    l->tools = json_object_get(l->object, "tools");
    l->tools = json_is_array(l->tools) ? l->tools : NULL;
    l->system = find_field(l->form, "system") ? json_object_get(l->object, "system") : NULL;
    l->system = json_is_string(l->system) && !mk_json_is_blank(l->system) ? l->system : NULL;
    MK_TRY(mk_tools_check(l->tools, err));
    MK_TRY(read_form(o, l, err));
    return check_prompt(l, err);
}

// The JSON parser counts lines inside its text; here that is always the first.
static void drop_line_number(mk_err *err) {
    static const char inner[] = "JSON: line 1 ";
    size_t n = sizeof inner - 1;
    if (err && strncmp(err->msg, inner, n) == 0) {
        memmove(err->msg, err->msg + n, strlen(err->msg + n) + 1);
    }
}

mk_status mk_line_parse(const mk_data_opts *o, const char *text, size_t n, mk_line *out,
                        mk_err *err) {
    size_t at = 0;
    *out = (mk_line){.object = NULL};
    while (at < n && strchr(" \t\r", text[at]) && text[at]) {
        at++;
    }
    if (at < n && text[at] == '[') {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "expected one JSON object per line, got an array; `jq -c .[]` makes lines of "
            "a JSON file");
    }
    mk_status st = mk_json_parse(text, n, "JSON", &out->object, err);
    if (st != MK_OK) {
        drop_line_number(err);
        return st;
    }
    return read_line(o, out, err);
}

void mk_line_free(mk_line *l) {
    json_decref(l->prompt.owner);
    json_decref(l->answer.owner);
    json_decref(l->rejected.owner);
    json_decref(l->object);
    *l = (mk_line){.object = NULL};
}
