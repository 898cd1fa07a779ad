// Requests of Ollama's /api/chat and /api/generate.
//
// What changes an answer and is not understood is refused by name; options about how Ollama loads a
// model (num_gpu, num_thread ...) are noted and have no effect.  A prompt is never cut: `truncate`
// and `shift` are noted as well.  Without messages or prompt the model is only loaded: the request
// then has neither.
//
// Source: docs/api.md and api/types.go of Ollama; ollama 0.6 for Python (_types.py).
#include <string.h>

#include "base/alloc.h"
#include "serve/ask_read.h"
#include "serve/ollama_int.h"
#include "serve/shape.h"

enum { MAX_NAME = 256, MAX_TOKENS = INT32_MAX, MAX_TOP = 20, DEFAULT_LAST_N = 64 };

// --- options -------------------------------------------------------------------------------------

static mk_status read_num_predict(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    MK_TRY(mk_at_int(at, v, -2, MAX_TOKENS, &ask->n_predict, err));
    ask->n_predict = ask->n_predict < 0 ? -1 : ask->n_predict;
    return MK_OK;
}

// Negative: any seed.
static mk_status read_seed(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    int64_t seed;
    MK_TRY(mk_at_int(at, v, INT64_MIN, INT64_MAX, &seed, err));
    ask->has_seed = seed >= 0;
    ask->sample.seed = seed >= 0 ? (uint64_t)seed : 0;
    return MK_OK;
}

// 0 switches the penalty off; -1 is the whole window.
static mk_status read_last_n(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    int64_t n;
    MK_TRY(mk_at_int(at, v, -1, INT32_MAX, &n, err));
    ask->sample.repetition_last_n = (int32_t)n;
    if (n == 0) {
        ask->has_repetition = true;
        ask->sample.repetition_penalty = 1;
    }
    return MK_OK;
}

#define NO_SAMPLER "tokens are chosen by temperature, top_k, top_p and min_p alone"

static const mk_field option_rows[] = {
    {"num_predict", MK_F_READ, .read = read_num_predict},
    {"num_ctx", MK_F_I64, 1, MAX_TOKENS, .at = offsetof(mk_ask, n_ctx)},
    {"temperature", MK_F_F32, 0, 100, .at = offsetof(mk_ask, sample.temperature),
     .has = offsetof(mk_ask, has_temperature)},
    {"top_k", MK_F_INT, 0, INT32_MAX, .at = offsetof(mk_ask, sample.top_k),
     .has = offsetof(mk_ask, has_top_k)},
    {"top_p", MK_F_F32, 0, 1, .at = offsetof(mk_ask, sample.top_p),
     .has = offsetof(mk_ask, has_top_p)},
    {"min_p", MK_F_F32, 0, 1, .at = offsetof(mk_ask, sample.min_p),
     .has = offsetof(mk_ask, has_min_p)},
    {"repeat_penalty", MK_F_F32, 0.001, 1000, .at = offsetof(mk_ask, sample.repetition_penalty),
     .has = offsetof(mk_ask, has_repetition)},
    {"repeat_last_n", MK_F_READ, .read = read_last_n},
    {"presence_penalty", MK_F_F32, -2, 2, .at = offsetof(mk_ask, sample.presence_penalty)},
    {"frequency_penalty", MK_F_F32, -2, 2, .at = offsetof(mk_ask, sample.frequency_penalty)},
    {"seed", MK_F_READ, .read = read_seed},
    {"stop", MK_F_READ, .read = mk_read_stop},
    {"mirostat", MK_F_REFUSE, .why = NO_SAMPLER},
    {"tfs_z", MK_F_REFUSE, .min = 1, .why = NO_SAMPLER},
    {"typical_p", MK_F_REFUSE, .min = 1, .why = NO_SAMPLER},
    // of no effect without mirostat, and where nothing is ever cut
    {.name = "mirostat_tau", .type = MK_F_IGNORE},
    {.name = "mirostat_eta", .type = MK_F_IGNORE},
    {.name = "num_keep", .type = MK_F_IGNORE},
};

static mk_status read_options(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    MK_TRY(mk_fields_read(v, at, &MK_FIELDS(option_rows), ask, &ask->unknown, err));
    if (ask->has_repetition && ask->sample.repetition_last_n == 0 &&
        ask->sample.repetition_penalty != 1) {
        ask->sample.repetition_last_n = DEFAULT_LAST_N;
    }
    return MK_OK;
}

// --- fields of both ------------------------------------------------------------------------------

// Clients write the tag that Ollama adds to every name without one.
static mk_status read_model(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    static const char tag[] = ":latest";
    mk_ask *ask = to;
    const char *s;
    MK_TRY(mk_at_text(at, v, &s, err));
    size_t n = strlen(s), k = sizeof tag - 1;
    if (n == 0 || n > MAX_NAME) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected a string of 1 to %d bytes, got %zu",
                          MAX_NAME, n);
    }
    n -= n > k && strcmp(s + n - k, tag) == 0 ? k : 0;
    ask->model = mk_strndup(s, n);
    return MK_OK;
}

static mk_status read_format(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    const char *s = json_string_value(v);
    if (json_is_object(v)) {
        ask->format = MK_FORMAT_SCHEMA;
        ask->schema = json_incref((json_t *)(uintptr_t)v);
        ask->strict = true;
    } else if (s && strcmp(s, "json") == 0) {
        ask->format = MK_FORMAT_JSON;
    } else if (!s || *s) {
        return mk_at_expected(at, err, v, "\"json\" or a JSON schema");
    }
    return MK_OK;
}

static mk_status read_think(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    if (json_is_boolean(v)) {
        ask->think = json_is_true(v) ? MK_THINK_ON : MK_THINK_OFF;
        return MK_OK;
    }
    const char *s;
    if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > 32) {
        return mk_at_expected(at, err, v,
                              "true, false or an effort (\"low\", \"medium\", \"high\")");
    }
    MK_TRY(mk_at_text(at, v, &s, err));
    bool none = strcmp(s, "none") == 0 || strcmp(s, "false") == 0;
    ask->think = none ? MK_THINK_OFF : MK_THINK_ON;
    if (!none && strcmp(s, "true") != 0) {
        ask->effort = mk_strdup(s);
    }
    return MK_OK;
}

static mk_status read_keep_alive(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    ask->has_keep_alive = true;
    return mk_ollama_duration(at, v, &ask->keep_alive_s, err);
}

static mk_status read_logprobs(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    if (!json_is_boolean(v)) {
        return mk_at_expected(at, err, v, "true or false");
    }
    ask->n_logprob = json_is_true(v) ? 0 : -1;
    return MK_OK;
}

static mk_status read_top_logprobs(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    mk_ask *ask = to;
    int64_t n;
    MK_TRY(mk_at_int(at, v, 0, MAX_TOP, &n, err));
    if (n > 0 && ask->n_logprob < 0) {
        return mk_at_fail(at, err, MK_EUSAGE, "needs \"logprobs\": true");
    }
    ask->n_logprob = n > 0 ? (int)n : ask->n_logprob;
    return MK_OK;
}

// Asks for a prompt to be cut where it does not fit.
static mk_status read_cut(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    if (!json_is_boolean(v)) {
        return mk_at_expected(at, err, v, "true or false");
    }
    if (json_is_true(v)) {
        mk_shape_unknown(to, at->key);
    }
    return MK_OK;
}

#define COMMON_ROWS                                                                                \
    {"model", MK_F_READ, .read = read_model},                                                      \
        {"stream", MK_F_BOOL, .at = offsetof(mk_ask, stream)},                                     \
        {"options", MK_F_READ, .read = read_options}, {"format", MK_F_READ, .read = read_format},  \
        {"think", MK_F_READ, .read = read_think},                                                  \
        {"keep_alive", MK_F_READ, .read = read_keep_alive},                                        \
        {"logprobs", MK_F_READ, .read = read_logprobs},                                            \
        {"top_logprobs", MK_F_READ, .read = read_top_logprobs},                                    \
        {"truncate", MK_F_READ, .read = read_cut}, {                                               \
        "shift", MK_F_READ, .read = read_cut                                                       \
    }

// --- chat ----------------------------------------------------------------------------------------

static mk_status read_messages(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    return mk_ollama_messages(at, v, to, err);
}

static mk_status read_tools(const mk_at *at, const json_t *v, void *to, mk_err *err) {
    return mk_ollama_tools(at, v, to, err);
}

mk_status mk_ollama_parse_chat(const json_t *body, mk_ask *ask, mk_err *err) {
    static const mk_field rows[] = {COMMON_ROWS,
                                    {"messages", MK_F_READ, .read = read_messages},
                                    {"tools", MK_F_READ, .read = read_tools}};
    ask->stream = true;
    return mk_fields_read(body, NULL, &MK_FIELDS(rows), ask, &ask->unknown, err);
}

// --- generate ------------------------------------------------------------------------------------

typedef struct {
    char *prompt, *suffix, *system;
    json_t *context;
    bool raw;
} generate;

#define NO_IMAGES "this model reads and writes text only"

static const mk_field generate_rows[] = {
    {"prompt", MK_F_TEXT, .at = offsetof(generate, prompt)},
    {"suffix", MK_F_TEXT, .at = offsetof(generate, suffix)},
    {"system", MK_F_TEXT, .at = offsetof(generate, system)},
    {"context", MK_F_ARRAY, .at = offsetof(generate, context)},
    {"raw", MK_F_BOOL, .at = offsetof(generate, raw)},
    {"images", MK_F_REFUSE, .why = NO_IMAGES},
    {"width", MK_F_REFUSE, .why = NO_IMAGES},
    {"height", MK_F_REFUSE, .why = NO_IMAGES},
    {"steps", MK_F_REFUSE, .why = NO_IMAGES},
    {"template", MK_F_REFUSE,
     .why = "the model's own is used; with \"raw\" the prompt is taken as it is"},
};

static bool given(const char *s) {
    return s && *s;
}

static json_t *message(const char *role, const char *text) {
    return json_pack("{s:s, s:s}", "role", role, "content", text);
}

// Text that goes to the model as it is.
static mk_status take_raw(const generate *g, mk_ask *ask, mk_err *err) {
    const char *key = given(g->system) ? "system" : "context";
    if (given(g->system) || json_array_size(g->context) > 0) {
        return mk_at_fail(MK_AT(NULL, key), err, MK_EUSAGE,
                          "has no place in a prompt that is taken as it is (raw or suffix)");
    }
    if (given(g->prompt) || given(g->suffix)) {
        ask->prompt[0].text = mk_strdup(g->prompt ? g->prompt : "");
        ask->n_prompt = 1;
    }
    if (given(g->suffix)) {
        ask->suffix = mk_strdup(g->suffix);
    }
    return MK_OK;
}

// A conversation of one question, or one more in that of `context`.
static mk_status take_question(const generate *g, mk_ask *ask, mk_err *err) {
    if (!given(g->prompt)) {
        return MK_OK;
    }
    if (json_array_size(g->context) > 0) {
        MK_TRY(mk_ollama_context_read(MK_AT(NULL, "context"), g->context, &ask->messages, err));
    } else {
        ask->messages = json_array();
    }
    if (given(g->system)) {
        const json_t *first = json_array_get(ask->messages, 0);
        const char *role = json_string_value(json_object_get(first, "role"));
        if (role && strcmp(role, "system") == 0) {
            (void)json_array_remove(ask->messages, 0);
        }
        (void)json_array_insert_new(ask->messages, 0, message("system", g->system));
    }
    (void)json_array_append_new(ask->messages, message("user", g->prompt));
    return MK_OK;
}

mk_status mk_ollama_parse_generate(const json_t *body, mk_ask *ask, mk_err *err) {
    static const mk_field rows[] = {COMMON_ROWS,
                                    {.name = "prompt", .type = MK_F_IGNORE},
                                    {.name = "suffix", .type = MK_F_IGNORE},
                                    {.name = "system", .type = MK_F_IGNORE},
                                    {.name = "context", .type = MK_F_IGNORE},
                                    {.name = "raw", .type = MK_F_IGNORE},
                                    {.name = "images", .type = MK_F_IGNORE},
                                    {.name = "width", .type = MK_F_IGNORE},
                                    {.name = "height", .type = MK_F_IGNORE},
                                    {.name = "steps", .type = MK_F_IGNORE},
                                    {.name = "template", .type = MK_F_IGNORE}};
    ask->stream = true;
    MK_TRY(mk_fields_read(body, NULL, &MK_FIELDS(rows), ask, &ask->unknown, err));
    generate g = {0};
    mk_status st = mk_fields_read(body, NULL, &MK_FIELDS(generate_rows), &g, NULL, err);
    if (st == MK_OK) {
        st = g.raw || given(g.suffix) ? take_raw(&g, ask, err) : take_question(&g, ask, err);
    }
    mk_free(g.prompt);
    mk_free(g.suffix);
    mk_free(g.system);
    json_decref(g.context);
    return st;
}

// --- the dialects --------------------------------------------------------------------------------

const mk_dialect mk_dialect_ollama_chat = {
    .name = "ollama-chat",
    .content_type = "application/x-ndjson",
    .parse = mk_ollama_parse_chat,
    .open = mk_ollama_open_chat,
    .event = mk_ollama_event,
    .finish = mk_ollama_finish,
    .heartbeat = mk_ollama_heartbeat,
    .close = mk_ollama_close,
    .error = mk_ollama_error,
};

const mk_dialect mk_dialect_ollama_generate = {
    .name = "ollama-generate",
    .content_type = "application/x-ndjson",
    .parse = mk_ollama_parse_generate,
    .open = mk_ollama_open_generate,
    .event = mk_ollama_event,
    .finish = mk_ollama_finish,
    .heartbeat = mk_ollama_heartbeat,
    .close = mk_ollama_close,
    .error = mk_ollama_error,
};
