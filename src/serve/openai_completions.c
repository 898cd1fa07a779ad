// Text completions: a prompt that is not templated, and what comes after it.
#include "base/alloc.h"
#include "serve/openai_completions.h"

enum { MAX_PROMPT_IDS = 1 << 24, DEFAULT_TOKENS = 16 };  // OpenAI's own default

// --- requests ------------------------------------------------------------------------------------

static mk_status read_ids(const mk_at *at, const json_t *v, mk_ask_prompt *p, mk_err *err) {
    size_t n = json_array_size(v);
    if (n > MAX_PROMPT_IDS) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected at most %d token ids, got %zu",
                          MAX_PROMPT_IDS, n);
    }
    p->ids = mk_try_alloc(n, sizeof *p->ids);
    if (!p->ids) {
        return mk_at_fail(at, err, MK_ENOMEM, "no memory for %zu token ids", n);
    }
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        MK_TRY(mk_at_int(MK_NTH(at, i), json_array_get(v, i), 0, INT32_MAX, &id, err));
        p->ids[i] = (int32_t)id;
        p->n_ids = (int64_t)i + 1;
    }
    return MK_OK;
}

static mk_status read_one(const mk_at *at, const json_t *v, mk_ask *a, mk_err *err) {
    mk_ask_prompt *p = &a->prompt[a->n_prompt++];
    const char *s;
    if (json_array_size(v) > 0) {
        return read_ids(at, v, p, err);
    }
    if (!json_is_string(v)) {
        return mk_at_expected(at, err, v, "a string or an array of token ids");
    }
    MK_TRY(mk_at_text(at, v, &s, err));
    p->text = mk_strdup(s);
    return MK_OK;
}

// One prompt, or an array of them.
static mk_status read_prompt(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    size_t n = json_array_size(v);
    if (!json_is_array(v) || json_is_number(json_array_get(v, 0))) {
        return read_one(at, v, ask, err);
    }
    if (n < 1 || n > MK_ASK_MAX_PROMPT) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected 1 to %d prompts, got %zu",
                          MK_ASK_MAX_PROMPT, n);
    }
    for (size_t i = 0; i < n; i++) {
        MK_TRY(read_one(MK_NTH(at, i), json_array_get(v, i), ask, err));
    }
    return MK_OK;
}

// 0: no answer, only the prompt with its log-probabilities.
static mk_status read_tokens(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    if (json_is_integer(v) && json_integer_value(v) == 0) {
        a->n_predict = 0;
        return MK_OK;
    }
    return mk_read_limit(at, v, ask, err);
}

static mk_status read_logprobs(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t n = 0;
    if (json_is_false(v)) {
        return MK_OK;
    }
    if (!json_is_true(v)) {
        MK_TRY(mk_at_int(at, v, 0, MK_OPENAI_MAX_TOP, &n, err));
    }
    a->n_logprob = (int)n;
    return MK_OK;
}

// The best of several is not chosen here: as many as are given back, or none.
static mk_status read_best_of(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    const mk_ask *a = ask;
    int64_t n;
    MK_TRY(mk_at_int(at, v, 1, INT32_MAX, &n, err));
    return n == a->n
               ? MK_OK
               : mk_at_fail(at, err, MK_EUNSUPPORTED,
                            "is not supported: as many answers are made as n says (%d)", a->n);
}

static const mk_field rows[] = {
    {"prompt", MK_F_READ, .read = read_prompt},
    {"suffix", MK_F_TEXT, .at = offsetof(mk_ask, suffix)},
    {"echo", MK_F_BOOL, .at = offsetof(mk_ask, echo)},
    {"max_tokens", MK_F_READ, .read = read_tokens},
    {"max_completion_tokens", MK_F_READ, .read = read_tokens},
    {"n_predict", MK_F_READ, .read = read_tokens},
    {"n", MK_F_INT, 1, MK_ASK_MAX_N, .at = offsetof(mk_ask, n)},
    {"best_of", MK_F_READ, .read = read_best_of},
    {"logprobs", MK_F_READ, .read = read_logprobs},
    {"response_format", MK_F_READ, .read = mk_read_format},
};

static const char *const limits[] = {"max_tokens", "max_completion_tokens", "n_predict"};
enum { N_LIMITS = sizeof limits / sizeof limits[0] };

// Only a prompt that is given back is an answer without a token, and only one.
static mk_status check_empty(const json_t *body, const mk_ask *a, mk_err *err) {
    const char *name = limits[0];
    for (int i = 0; i < N_LIMITS; i++) {
        const json_t *v = json_object_get(body, limits[i]);
        name = json_is_integer(v) && json_integer_value(v) == 0 ? limits[i] : name;
    }
    if (a->n_predict == 0 && !a->echo) {
        return mk_at_fail(
            MK_AT(NULL, name), err, MK_EUSAGE,
            "expected 1 or more tokens, or -1 for no limit, got 0, which is for echo");
    }
    if (a->n_predict == 0 && a->n > 1) {
        return mk_at_fail(MK_AT(NULL, "n"), err, MK_EUSAGE,
                          "expected 1 with %s 0, got %d: all of them would be the same", name,
                          a->n);
    }
    return MK_OK;
}

static mk_status check_suffix(mk_ask *a, mk_err *err) {
    if (a->suffix && a->suffix[0] == '\0') {
        mk_free(a->suffix);
        a->suffix = NULL;
    }
    bool ids = false;
    for (int i = 0; i < a->n_prompt; i++) {
        ids = ids || a->prompt[i].ids;
    }
    if (a->suffix && (ids || mk_ask_scores(a))) {
        return mk_at_fail(MK_AT(NULL, "suffix"), err, MK_EUNSUPPORTED, "is not supported with %s",
                          ids ? "a prompt of token ids"
                              : "echo and logprobs: the model reads more than the prompt");
    }
    return MK_OK;
}

static mk_status completions_parse(const json_t *body, mk_ask *a, mk_err *err) {
    MK_TRY(
        mk_fields_read(body, NULL, &MK_FIELDS_AND(rows, &mk_openai_fields), a, &a->unknown, err));
    if (a->n_prompt == 0) {
        return mk_at_fail(MK_AT(NULL, "prompt"), err, MK_EUSAGE,
                          "expected a string or an array of token ids, got nothing");
    }
    if (mk_ask_choices(a) > MK_ASK_MAX_CHOICE) {
        return mk_at_fail(MK_AT(NULL, "n"), err, MK_EUSAGE,
                          "expected at most %d answers in all, got %d to each of %d prompts",
                          MK_ASK_MAX_CHOICE, a->n, a->n_prompt);
    }
    MK_TRY(check_suffix(a, err));
    bool says = false;
    for (int i = 0; i < N_LIMITS; i++) {
        says = says || json_object_get(body, limits[i]);
    }
    a->n_predict = says ? a->n_predict : DEFAULT_TOKENS;
    return check_empty(body, a, err);
}

const mk_dialect mk_dialect_openai_completions = {
    .name = "openai-completions",
    .content_type = "text/event-stream",
    .parse = completions_parse,
    .open = mk_openai_completions_open,
    .event = mk_openai_completions_event,
    .finish = mk_openai_completions_finish,
    .heartbeat = mk_openai_completions_heartbeat,
    .close = mk_openai_completions_close,
    .error = mk_openai_error,
};
