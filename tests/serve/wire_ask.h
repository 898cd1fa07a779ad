// A request as JSON, for the wire tests: every field of mk_ask that differs from mk_ask_init.
#ifndef MK_TESTS_SERVE_WIRE_ASK_H
#define MK_TESTS_SERVE_WIRE_ASK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "serve/ask.h"

static inline void wire_text(json_t *o, const char *key, const char *s) {
    if (s) {
        json_object_set_new(o, key, json_string(s));
    }
}

static inline void wire_true(json_t *o, const char *key, bool b) {
    if (b) {
        json_object_set_new(o, key, json_true());
    }
}

static inline void wire_json(json_t *o, const char *key, json_t *v) {
    if (v) {
        json_object_set(o, key, v);
    }
}

static inline void wire_int(json_t *o, const char *key, int64_t v, int64_t normal) {
    if (v != normal) {
        json_object_set_new(o, key, json_integer(v));
    }
}

// 0.7f is written as 0.7, and 1.0f as 1.
static inline json_t *wire_number(float f) {
    if (isinf(f)) {
        return json_string(f > 0 ? "inf" : "-inf");
    }
    if (floorf(f) == f && fabsf(f) < 1e9f) {
        return json_integer((json_int_t)f);
    }
    char text[32];
    (void)snprintf(text, sizeof text, "%.6g", (double)f);
    return json_real(strtod(text, NULL));
}

static inline json_t *wire_sample(const mk_ask *a) {
    const struct {
        const char *name;
        bool set;
        float value;
    } rows[] = {
        {"temperature", a->has_temperature, a->sample.temperature},
        {"top_k", a->has_top_k, (float)a->sample.top_k},
        {"top_p", a->has_top_p, a->sample.top_p},
        {"min_p", a->has_min_p, a->sample.min_p},
        {"repetition_penalty", a->has_repetition, a->sample.repetition_penalty},
        {"repetition_last_n", a->sample.repetition_last_n != 0, (float)a->sample.repetition_last_n},
        {"presence_penalty", a->sample.presence_penalty != 0, a->sample.presence_penalty},
        {"frequency_penalty", a->sample.frequency_penalty != 0, a->sample.frequency_penalty},
    };
    json_t *o = json_object();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].set) {
            json_object_set_new(o, rows[i].name, wire_number(rows[i].value));
        }
    }
    if (a->has_seed) {
        json_object_set_new(o, "seed", json_integer((json_int_t)a->sample.seed));
    }
    return o;
}

// One prompt as "prompt" or "ids"; several as "prompts", an array of those.
static inline void wire_prompts(json_t *o, const mk_ask *a) {
    json_t *list = json_array();
    for (int i = 0; i < a->n_prompt; i++) {
        const mk_ask_prompt *p = &a->prompt[i];
        json_t *ids = p->ids ? json_array() : NULL;
        for (int64_t k = 0; k < p->n_ids; k++) {
            json_array_append_new(ids, json_integer(p->ids[k]));
        }
        json_array_append_new(list, p->ids ? ids : json_string(p->text ? p->text : ""));
    }
    if (a->n_prompt == 1) {
        json_object_set(o, a->prompt[0].ids ? "ids" : "prompt", json_array_get(list, 0));
    } else if (a->n_prompt > 1) {
        json_object_set(o, "prompts", list);
    }
    json_decref(list);
}

static inline void wire_lists(json_t *o, const mk_ask *a) {
    json_t *bias = json_array(), *stop = json_array(), *sample = wire_sample(a);
    for (int i = 0; i < a->sample.n_bias; i++) {
        json_t *pair = json_array();
        json_array_append_new(pair, json_integer(a->sample.bias[i].id));
        json_array_append_new(pair, wire_number(a->sample.bias[i].bias));
        json_array_append_new(bias, pair);
    }
    for (int i = 0; i < a->n_stop; i++) {
        json_array_append_new(stop, json_string(a->stop[i]));
    }
    const struct {
        const char *key;
        json_t *v;
        size_t n;
    } rows[] = {{"bias", bias, json_array_size(bias)},
                {"stop", stop, json_array_size(stop)},
                {"sample", sample, json_object_size(sample)}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].n > 0) {
            json_object_set(o, rows[i].key, rows[i].v);
        }
        json_decref(rows[i].v);
    }
}

static inline void wire_words(json_t *o, const mk_ask *a) {
    static const char *const choices[] = {NULL, "none", "required", "named"};
    static const char *const thinks[] = {NULL, "off", "on"};
    static const char *const formats[] = {NULL, "json", "schema", "regex", "choice", "gbnf"};
    wire_text(o, "tool_choice", choices[a->tool_choice]);
    wire_text(o, "think", thinks[a->think]);
    wire_text(o, "format", formats[a->format]);
    if (!a->parallel_tools) {
        json_object_set_new(o, "parallel_tools", json_false());
    }
}

static inline json_t *wire_ask_json(const mk_ask *a) {
    json_t *o = json_object();
    wire_text(o, "model", a->model);
    wire_text(o, "tenant", a->tenant);
    wire_json(o, "messages", a->messages);
    wire_json(o, "tools", a->tools);
    wire_prompts(o, a);
    wire_text(o, "suffix", a->suffix);
    wire_true(o, "echo", a->echo);
    wire_true(o, "continue_last", a->continue_last);
    wire_true(o, "open_end", a->open_end);
    wire_json(o, "template_kwargs", a->template_kwargs);
    wire_text(o, "tool_name", a->tool_name);
    wire_text(o, "effort", a->effort);
    wire_int(o, "think_budget", a->think_budget, -1);
    wire_json(o, "schema", a->schema);
    wire_text(o, "pattern", a->pattern);
    wire_true(o, "strict", a->strict);
    wire_int(o, "n_predict", a->n_predict, -1);
    wire_int(o, "n", a->n, 1);
    wire_int(o, "n_logprob", a->n_logprob, -1);
    wire_true(o, "want_token_ids", a->want_token_ids);
    wire_true(o, "ignore_eos", a->ignore_eos);
    wire_true(o, "stream", a->stream);
    wire_true(o, "include_usage", a->include_usage);
    wire_true(o, "keep", a->keep);
    wire_text(o, "previous", a->previous);
    wire_json(o, "given", a->given);
    wire_json(o, "unknown", a->unknown);
    wire_true(o, "reasoning_summary", a->reasoning_summary);
    wire_text(o, "reasoning_field", a->reasoning_field);
    wire_true(o, "hide_reasoning", a->hide_reasoning);
    wire_int(o, "n_ctx", a->n_ctx, 0);
    if (a->has_keep_alive) {
        json_object_set_new(o, "keep_alive_s", wire_number((float)a->keep_alive_s));
    }
    wire_words(o, a);
    wire_lists(o, a);
    return o;
}

#endif
