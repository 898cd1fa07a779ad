#include "serve/ask_read.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

enum { MAX_NOTES = 64, MAX_NOTE = 80 };

void mk_ask_note(mk_ask *a, const char *what, const char *detail) {
    a->unknown = a->unknown ? a->unknown : json_array();
    if (json_array_size(a->unknown) >= MAX_NOTES) {
        return;
    }
    char text[MAX_NOTE];
    (void)snprintf(text, sizeof text, "%s: %s", what, detail);
    (void)json_array_append_new(a->unknown, mk_json_text(text, strlen(text)));
}

// --- limits and sampling -------------------------------------------------------------------------

static mk_status add_stop(mk_ask *a, const mk_at *at, const json_t *v, mk_err *err) {
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    if (s[0] == '\0') {
        return MK_OK;
    }
    if (a->n_stop == MK_ASK_MAX_STOP) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected at most %d stop texts", MK_ASK_MAX_STOP);
    }
    a->stop[a->n_stop++] = mk_strdup(s);
    return MK_OK;
}

mk_status mk_read_stop(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    if (!json_is_array(v)) {
        return json_is_string(v) ? add_stop(ask, at, v, err)
                                 : mk_at_expected(at, err, v, "a string or an array of strings");
    }
    size_t i;
    json_t *e;
    json_array_foreach((json_t *)(uintptr_t)v, i, e) {
        MK_TRY(add_stop(ask, MK_NTH(at, i), e, err));
    }
    return MK_OK;
}

static mk_status add_bias(mk_ask *a, const mk_at *at, int64_t id, const json_t *v, mk_err *err) {
    double d = json_is_false(v) ? -INFINITY : json_number_value(v);
    if (!json_is_false(v) && (!json_is_number(v) || !(d >= -100 && d <= 100))) {
        return mk_at_expected(at, err, v, "a number from -100 to 100, or false");
    }
    if (a->sample.n_bias == MK_ASK_MAX_BIAS) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected at most %d tokens", MK_ASK_MAX_BIAS);
    }
    a->bias[a->sample.n_bias++] = (mk_logit_bias){(int32_t)id, (float)d};
    return MK_OK;
}

static mk_status bias_object(mk_ask *a, const mk_at *at, const json_t *v, mk_err *err) {
    const char *key;
    json_t *bias;
    json_object_foreach((json_t *)(uintptr_t)v, key, bias) {
        char *end;
        errno = 0;
        long long id = strtoll(key, &end, 10);
        if (errno || *end || end == key || id < 0 || id > INT32_MAX) {
            return mk_at_fail(MK_AT(at, key), err, MK_EUSAGE, "expected a token id as the key");
        }
        MK_TRY(add_bias(a, MK_AT(at, key), id, bias, err));
    }
    return MK_OK;
}

static mk_status bias_array(mk_ask *a, const mk_at *at, const json_t *v, mk_err *err) {
    size_t i;
    json_t *pair;
    json_array_foreach((json_t *)(uintptr_t)v, i, pair) {
        const mk_at *here = MK_NTH(at, i);
        if (!json_is_array(pair) || json_array_size(pair) != 2) {
            return mk_at_expected(here, err, pair, "[token id, bias]");
        }
        int64_t id;
        MK_TRY(mk_at_int(MK_NTH(here, 0), json_array_get(pair, 0), 0, INT32_MAX, &id, err));
        MK_TRY(add_bias(a, MK_NTH(here, 1), id, json_array_get(pair, 1), err));
    }
    return MK_OK;
}

mk_status mk_read_logit_bias(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_object(v) && !json_is_array(v)) {
        return mk_at_expected(at, err, v, "an object of token ids");
    }
    if (!a->bias) {
        a->bias = mk_alloc(MK_ASK_MAX_BIAS * sizeof *a->bias);
        a->sample.bias = a->bias;
    }
    return json_is_object(v) ? bias_object(a, at, v, err) : bias_array(a, at, v, err);
}

mk_status mk_read_seed(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t i;
    MK_TRY(mk_at_int(at, v, INT64_MIN, INT64_MAX, &i, err));
    a->has_seed = i != -1;
    a->sample.seed = a->has_seed ? (uint64_t)i : 0;
    return MK_OK;
}

mk_status mk_read_limit(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t i;
    MK_TRY(mk_at_int(at, v, -1, INT32_MAX, &i, err));
    if (i == 0) {
        return mk_at_fail(at, err, MK_EUSAGE,
                          "expected 1 or more tokens, or -1 for no limit, got 0");
    }
    if (i > 0 && (a->n_predict < 0 || i < a->n_predict)) {
        a->n_predict = i;
    }
    return MK_OK;
}

mk_status mk_read_top_k(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t i;
    MK_TRY(mk_at_int(at, v, -1, INT32_MAX, &i, err));
    a->has_top_k = true;
    a->sample.top_k = i < 0 ? 0 : (int32_t)i;
    return MK_OK;
}

// --- reasoning -----------------------------------------------------------------------------------

static void set_think(mk_ask *a, bool on) {
    if (!on) {
        a->think = MK_THINK_OFF;
        mk_free(a->effort);
        a->effort = NULL;
    } else if (a->think == MK_THINK_DEFAULT) {
        a->think = MK_THINK_ON;
    }
}

mk_status mk_read_effort(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    size_t n = strlen(s);
    if (n == 0 || n > 32) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected a level such as \"low\", got %zu bytes", n);
    }
    bool on = strcmp(s, "none") != 0 && strcmp(s, "off") != 0;
    set_think(a, on);
    if (on && a->think != MK_THINK_OFF) {
        mk_free(a->effort);
        a->effort = mk_strdup(s);
    }
    return MK_OK;
}

mk_status mk_read_think(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    if (json_is_string(v)) {
        return mk_read_effort(at, v, ask, err);
    }
    if (!json_is_boolean(v)) {
        return mk_at_expected(at, err, v, "true, false or a level such as \"low\"");
    }
    set_think(ask, json_is_true(v));
    return MK_OK;
}

mk_status mk_read_think_budget(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t i;
    MK_TRY(mk_at_int(at, v, -1, INT32_MAX, &i, err));
    a->think_budget = i;
    if (i == 0) {
        set_think(a, false);
    }
    return MK_OK;
}

static mk_status thinking_type(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const struct {
        const char *name;
        int on;  // -1: as the model likes
    } rows[] = {{"enabled", 1}, {"disabled", 0}, {"adaptive", -1}, {"auto", -1}};
    for (size_t i = 0; json_is_string(v) && i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(json_string_value(v), rows[i].name) == 0) {
            if (rows[i].on >= 0) {
                set_think(ask, rows[i].on == 1);
            }
            return MK_OK;
        }
    }
    return mk_at_expected(at, err, v, "\"enabled\", \"disabled\" or \"adaptive\"");
}

mk_status mk_read_thinking(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const mk_field rows[] = {
        {"type", MK_F_READ, .read = thinking_type},
        {"budget_tokens", MK_F_READ, .read = mk_read_think_budget},
    };
    mk_ask *a = ask;
    if (json_is_boolean(v)) {
        return mk_read_think(at, v, ask, err);
    }
    return mk_fields_read(v, at, &MK_FIELDS(rows), a, &a->unknown, err);
}

mk_status mk_read_template_kwargs(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const mk_field rows[] = {
        {"enable_thinking", MK_F_READ, .read = mk_read_think},
        {"thinking", MK_F_READ, .read = mk_read_think},
        {"reasoning_effort", MK_F_READ, .read = mk_read_effort},
    };
    mk_ask *a = ask;
    MK_TRY(mk_fields_read(v, at, &MK_FIELDS(rows), a, NULL, err));
    json_decref(a->template_kwargs);
    a->template_kwargs = json_object_size(v) ? json_incref((json_t *)(uintptr_t)v) : NULL;
    return MK_OK;
}

// --- formats -------------------------------------------------------------------------------------

static mk_status set_format(mk_ask *a, const mk_at *at, mk_answer_format f, mk_err *err) {
    if (a->format != MK_FORMAT_TEXT) {
        return mk_at_fail(at, err, MK_EUSAGE,
                          "expected one format of the answer, got a second one");
    }
    a->format = f;
    return MK_OK;
}

static mk_status set_pattern(mk_ask *a, const mk_at *at, const json_t *v, mk_answer_format f,
                             mk_err *err) {
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    if (s[0] == '\0') {
        return MK_OK;  // some clients always send the field
    }
    MK_TRY(set_format(a, at, f, err));
    a->pattern = mk_strdup(s);
    return MK_OK;
}

mk_status mk_read_schema(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    json_t *parsed = NULL;
    if (json_is_string(v)) {
        mk_err why = {0};
        if (mk_json_parse(json_string_value(v), json_string_length(v), "schema", &parsed, &why) !=
            MK_OK) {
            return mk_at_fail(at, err, MK_EUSAGE, "%s", why.msg);
        }
        v = parsed;
    }
    mk_status st = json_is_object(v) ? set_format(a, at, MK_FORMAT_SCHEMA, err)
                                     : mk_at_expected(at, err, v, "a JSON schema (an object)");
    if (st == MK_OK) {
        a->schema = json_incref((json_t *)(uintptr_t)v);
    }
    json_decref(parsed);
    return st;
}

mk_status mk_read_regex(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    return set_pattern(ask, at, v, MK_FORMAT_REGEX, err);
}

mk_status mk_read_gbnf(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    return set_pattern(ask, at, v, MK_FORMAT_GBNF, err);
}

mk_status mk_read_choice(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_array(v) || json_array_size(v) == 0) {
        return mk_at_expected(at, err, v, "an array of at least one string");
    }
    size_t i;
    json_t *e;
    json_array_foreach((json_t *)(uintptr_t)v, i, e) {
        const char *s;
        MK_TRY(mk_at_text(MK_NTH(at, i), e, &s, err));
    }
    MK_TRY(set_format(a, at, MK_FORMAT_CHOICE, err));
    a->schema = json_incref((json_t *)(uintptr_t)v);
    return MK_OK;
}

mk_status mk_read_structured(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const mk_field rows[] = {
        {"json", MK_F_READ, .read = mk_read_schema},
        {"regex", MK_F_READ, .read = mk_read_regex},
        {"choice", MK_F_READ, .read = mk_read_choice},
        {"grammar", MK_F_READ, .read = mk_read_gbnf},
    };
    mk_ask *a = ask;
    return mk_fields_read(v, at, &MK_FIELDS(rows), a, &a->unknown, err);
}

// OpenAI's chat nests {"json_schema": {name, schema, strict}}, its Responses and llama.cpp do not.
static mk_status format_schema(const mk_at *at, const json_t *v, mk_ask *a, mk_err *err) {
    static const mk_field rows[] = {
        MK_SKIP("name"),
        MK_SKIP("description"),
        {"schema", MK_F_READ, .read = mk_read_schema},
        {"strict", MK_F_LAX_BOOL, .at = offsetof(mk_ask, strict)},
        MK_SKIP("type"),
    };
    const json_t *inner = json_object_get(v, "json_schema");
    const mk_at *here = at;
    mk_at nested = {at, "json_schema", 0};
    if (inner && !json_is_null(inner)) {
        here = &nested;
        v = inner;
    }
    // a schema itself in the place of its wrapper
    if (json_is_object(v) && !json_object_get(v, "schema") && json_object_get(v, "properties")) {
        return mk_read_schema(here, v, a, err);
    }
    MK_TRY(mk_fields_read(v, here, &MK_FIELDS(rows), a, &a->unknown, err));
    if (a->format != MK_FORMAT_SCHEMA) {
        return mk_at_fail(MK_AT(here, "schema"), err, MK_EUSAGE,
                          "expected a JSON schema (an object), got nothing");
    }
    return MK_OK;
}

mk_status mk_read_format(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (!json_is_object(v)) {
        return mk_at_expected(at, err, v, "an object with a type");
    }
    const char *type = "text";
    const json_t *t = json_object_get(v, "type");
    if (t && !json_is_null(t)) {
        MK_TRY(mk_at_text(MK_AT(at, "type"), t, &type, err));
    }
    const json_t *schema = json_object_get(v, "schema");
    if (strcmp(type, "text") == 0) {
        return MK_OK;
    }
    if (strcmp(type, "json_object") == 0) {
        return schema && !json_is_null(schema) ? mk_read_schema(MK_AT(at, "schema"), schema, a, err)
                                               : set_format(a, at, MK_FORMAT_JSON, err);
    }
    if (strcmp(type, "json_schema") == 0) {
        return format_schema(at, v, a, err);
    }
    if (strcmp(type, "regex") == 0) {
        const char *key = json_object_get(v, "regex") ? "regex" : "pattern";
        return mk_read_regex(MK_AT(at, key), json_object_get(v, key), a, err);
    }
    if (strcmp(type, "grammar") == 0 || strcmp(type, "gbnf") == 0) {
        return mk_read_gbnf(MK_AT(at, "grammar"), json_object_get(v, "grammar"), a, err);
    }
    return mk_at_expected(MK_AT(at, "type"), err, t,
                          "\"text\", \"json_object\", \"json_schema\", \"regex\" or \"grammar\"");
}
