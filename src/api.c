// The library behind include/minke.h: plain structs on the outside, chat/llm.h inside.
#include "minke.h"

#include <string.h>

#include "base/alloc.h"
#include "chat/llm.h"

#define ROWS_AT_ONCE 16  // logits rows of one forward

struct minke_model {
    mk_llm *llm;
};

struct minke_chat {
    minke_model *model;
    json_t *messages;
};

// What the caller gets is the first member; the rest owns its memory.
typedef struct {
    minke_answer shown;
    mk_answer own;
} answer_box;

_Static_assert((int)MINKE_INTERRUPTED == (int)MK_EINTR,
               "the codes of both headers are the same numbers");
_Static_assert((int)MINKE_CONTEXT == (int)MK_ECONTEXT,
               "the codes of both headers are the same numbers");
_Static_assert((int)MINKE_CANCELLED == (int)MK_FINISH_CANCELLED,
               "the reasons of both headers are the same numbers");
_Static_assert((int)MINKE_THINK_ON == (int)MK_THINK_ON,
               "the modes of both headers are the same numbers");

const char *minke_version(void) {
    return MINKE_VERSION;
}

const char *minke_status_name(minke_status code) {
    return mk_status_name((mk_status)code);
}

void minke_free(void *p) {
    mk_free(p);
}

static minke_status give(mk_status st, const mk_err *e, minke_error *err) {
    if (err) {
        err->code = (minke_status)st;
        size_t n = st == MK_OK ? 0 : strlen(e->msg);
        n = n < sizeof err->text ? n : sizeof err->text - 1;
        memcpy(err->text, e->msg, n);
        err->text[n] = 0;
    }
    return (minke_status)st;
}

static minke_status usage(minke_error *err, const char *what) {
    mk_err e = {0};
    mk_status st = MK_FAIL(&e, MK_EUSAGE, "%s", what);
    return give(st, &e, err);
}

// --- models --------------------------------------------------------------------------------------

static bool tell_progress(void *arg, uint64_t done, uint64_t total) {
    const minke_options *o = arg;
    if (o->progress) {
        o->progress(o->progress_arg, done, total);
    }
    return true;
}

minke_status minke_open(const char *path, const minke_options *options, minke_model **out,
                        minke_error *err) {
    static const minke_options none;
    const minke_options *o = options ? options : &none;
    mk_llm_opts opts = MK_LLM_DEFAULTS;
    mk_err e = {0};
    *out = NULL;
    opts.model = path;
    opts.isa = o->isa ? o->isa : opts.isa;
    opts.n_thread = o->n_thread;
    opts.n_ctx = o->n_ctx;
    opts.progress = tell_progress;
    opts.progress_arg = (void *)(uintptr_t)o;
    opts.adapter = o->adapter;
    if (!path) {
        return usage(err, "no path of a model; expected a .gguf file or a folder");
    }
    mk_llm *llm = NULL;
    mk_status st = mk_llm_open(&opts, &llm, &e);
    if (st == MK_OK) {
        *out = mk_zalloc(sizeof **out);
        (*out)->llm = llm;
    }
    return give(st, &e, err);
}

void minke_close(minke_model *m) {
    if (m) {
        mk_llm_close(m->llm);
        mk_free(m);
    }
}

int64_t minke_n_vocab(const minke_model *m) {
    return mk_llm_model(m->llm)->hp.n_vocab;
}

int64_t minke_n_ctx(const minke_model *m) {
    return mk_engine_n_ctx(mk_llm_engine(m->llm));
}

int minke_has_chat_template(const minke_model *m) {
    return mk_llm_template(m->llm) != NULL;
}

// --- tokens --------------------------------------------------------------------------------------

minke_status minke_tokenize(const minke_model *m, const char *text, size_t n, int with_bos,
                            int32_t **ids, int64_t *n_ids, minke_error *err) {
    mk_ids list = {0};
    mk_err e = {0};
    *ids = NULL;
    *n_ids = 0;
    mk_encode_opts how = {.add_special = with_bos != 0};
    mk_status st = mk_tokenizer_encode(mk_llm_tokenizer(m->llm), text, n, how, &list, &e);
    if (st == MK_OK) {
        *ids = list.data;
        *n_ids = list.n;
    } else {
        mk_ids_free(&list);
    }
    return give(st, &e, err);
}

minke_status minke_detokenize(const minke_model *m, const int32_t *ids, int64_t n_ids, char **text,
                              size_t *n_text, minke_error *err) {
    mk_err e = {0};
    *text = NULL;
    *n_text = 0;
    for (int64_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= minke_n_vocab(m)) {
            return usage(err, "a token id is outside the vocabulary");
        }
    }
    mk_status st = mk_tokenizer_decode(mk_llm_tokenizer(m->llm), ids, n_ids,
                                       (mk_decode_opts){.skip_special = true}, text, n_text, &e);
    return give(st, &e, err);
}

// --- answers -------------------------------------------------------------------------------------

minke_sampling minke_sampling_of(const minke_model *m) {
    mk_sample_params p = mk_llm_sampling(m->llm);
    return (minke_sampling){.temperature = (double)p.temperature,
                            .top_k = p.top_k,
                            .top_p = (double)p.top_p,
                            .min_p = (double)p.min_p,
                            .repetition_penalty = (double)p.repetition_penalty,
                            .max_tokens = -1};
}

typedef struct {
    minke_event_fn fn;
    void *arg;
} relay;

static bool on_event(void *arg, const mk_event *ev) {
    const relay *r = arg;
    if (!r->fn || ev->kind == MK_EVENT_PROMPT) {
        return true;
    }
    minke_event out = {.text = ev->text, .n = ev->n, .id = ev->id, .logprob = (double)ev->logprob};
    out.kind = ev->kind == MK_EVENT_TEXT        ? MINKE_TEXT
               : ev->kind == MK_EVENT_REASONING ? MINKE_REASONING
                                                : MINKE_TOKEN;
    return r->fn(r->arg, &out) == 0;
}

static void fill_request(const minke_model *m, const minke_sampling *s, mk_request *r) {
    mk_sample_params p = mk_llm_sampling(m->llm);
    p.temperature = (float)s->temperature;
    p.top_k = s->top_k;
    p.top_p = (float)s->top_p;
    p.min_p = (float)s->min_p;
    p.repetition_penalty = (float)s->repetition_penalty;
    p.presence_penalty = (float)s->presence_penalty;
    p.frequency_penalty = (float)s->frequency_penalty;
    p.seed = s->seed;
    r->sample = p;
    r->n_predict = s->max_tokens;
    r->stop = s->stop;
    r->n_stop = s->n_stop;
    r->think = (mk_think)s->think;
    r->n_logprob = 0;
}

static void show(answer_box *box) {
    const mk_answer *a = &box->own;
    box->shown = (minke_answer){.text = a->text ? a->text : "",
                                .reasoning = a->reasoning ? a->reasoning : "",
                                .n_text = a->n_text,
                                .n_reasoning = a->n_reasoning,
                                .ids = a->ids.data,
                                .n_ids = a->ids.n,
                                .finish = (minke_finish)a->finish,
                                .n_prompt = a->n_prompt,
                                .n_cached = a->n_cached,
                                .prompt_ms = a->prompt_ms,
                                .generation_ms = a->generation_ms};
}

static minke_status answer(minke_model *m, mk_request *r, const minke_sampling *sampling,
                           const relay *to, minke_answer **out, minke_error *err) {
    minke_sampling s = sampling ? *sampling : minke_sampling_of(m);
    mk_err e = {0};
    *out = NULL;
    fill_request(m, &s, r);
    mk_status st = mk_sample_check(&r->sample, minke_n_vocab(m), &e);
    if (st != MK_OK) {
        return give(st, &e, err);
    }
    answer_box *box = mk_zalloc(sizeof *box);
    relay copy = *to;
    st = mk_llm_generate(m->llm, r, on_event, &copy, &box->own, &e);
    show(box);
    if (st == MK_OK) {
        *out = &box->shown;
    } else {
        minke_answer_free(&box->shown);
    }
    return give(st, &e, err);
}

void minke_answer_free(minke_answer *a) {
    if (a) {
        answer_box *box = (answer_box *)a;
        mk_answer_free(&box->own);
        mk_free(box);
    }
}

minke_status minke_generate(minke_model *m, const char *prompt, const minke_sampling *sampling,
                            minke_event_fn fn, void *arg, minke_answer **out, minke_error *err) {
    *out = NULL;
    if (!prompt) {
        return usage(err, "no prompt; expected a text");
    }
    mk_request r = {.prompt = prompt, .raw = true};
    return answer(m, &r, sampling, &(relay){fn, arg}, out, err);
}

// --- conversations -------------------------------------------------------------------------------

minke_status minke_chat_new(minke_model *m, const char *system, minke_chat **out,
                            minke_error *err) {
    *out = NULL;
    if (!mk_llm_template(m->llm)) {
        mk_err e = {0};
        mk_status st = MK_FAIL(&e, MK_ETEMPLATE,
                               "this model has no chat template; minke_generate continues a text");
        return give(st, &e, err);
    }
    minke_chat *c = mk_zalloc(sizeof *c);
    c->model = m;
    c->messages = json_array();
    minke_status st = system ? minke_chat_add(c, "system", system, err) : MINKE_OK;
    if (st != MINKE_OK) {
        minke_chat_free(c);
        return st;
    }
    *out = c;
    return MINKE_OK;
}

void minke_chat_free(minke_chat *c) {
    if (c) {
        json_decref(c->messages);
        mk_free(c);
    }
}

static minke_status add(minke_chat *c, const char *role, const char *text, size_t n,
                        minke_error *err) {
    json_t *content = json_stringn(text, n);
    if (!content) {
        return usage(err, "the text of a message is not UTF-8");
    }
    json_t *m = json_pack("{s:s, s:o}", "role", role, "content", content);
    return m && json_array_append_new(c->messages, m) == 0
               ? MINKE_OK
               : usage(err, "the role of a message is not UTF-8");
}

minke_status minke_chat_add(minke_chat *c, const char *role, const char *text, minke_error *err) {
    if (!role || !text) {
        return usage(err, "a message needs a role and a text");
    }
    return add(c, role, text, strlen(text), err);
}

minke_status minke_chat_answer(minke_chat *c, const minke_sampling *sampling, minke_event_fn fn,
                               void *arg, minke_answer **out, minke_error *err) {
    mk_request r = {.messages = c->messages};
    minke_status st = answer(c->model, &r, sampling, &(relay){fn, arg}, out, err);
    if (st == MINKE_OK) {
        st = add(c, "assistant", (*out)->text, (*out)->n_text, err);
        const minke_answer *a = *out;
        if (a->n_reasoning > 0) {
            json_t *last = json_array_get(c->messages, json_array_size(c->messages) - 1);
            json_object_set_new(last, "reasoning_content",
                                json_stringn(a->reasoning, a->n_reasoning));
        }
    }
    return st;
}

void minke_chat_reset(minke_chat *c) {
    const char *role = json_string_value(json_object_get(json_array_get(c->messages, 0), "role"));
    size_t keep = role && strcmp(role, "system") == 0 ? 1 : 0;
    while (json_array_size(c->messages) > keep) {
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
    }
}

// --- probabilities -------------------------------------------------------------------------------
// These run on an engine of their own, so that the conversation in the cache of the model stays.

typedef struct {
    minke_row_fn fn;
    void *arg;
    int64_t n_vocab, n;
    const int32_t *ids;
    double *logprob;
} row_job;

static mk_status on_row(void *arg, int64_t i, const float *logits, mk_err *err) {
    row_job *j = arg;
    if (j->logprob && i + 1 < j->n) {
        j->logprob[i + 1] = (double)mk_logprob_of(logits, j->n_vocab, j->ids[i + 1]);
    }
    bool stop = j->fn && j->fn(j->arg, i, logits, j->n_vocab) != 0;
    return stop ? MK_FAIL(err, MK_EINTR, "stopped by the caller") : MK_OK;
}

static minke_status feed(minke_model *m, row_job *j, minke_error *err) {
    mk_engine_opts opts = *mk_llm_engine_opts(m->llm);
    mk_engine *e = NULL;
    mk_err why = {0};
    int seq = 0;
    if (j->n < 1) {
        return usage(err, "no token ids; expected at least one");
    }
    opts.n_ctx = j->n;
    opts.n_out = opts.n_chunk = ROWS_AT_ONCE;
    mk_status st = mk_engine_create(mk_llm_model(m->llm), &opts, &e, &why);
    if (st == MK_OK) {
        st = mk_engine_seq_open(e, &seq, &why);
    }
    if (st == MK_OK) {
        st = mk_engine_feed_rows(e, seq, j->ids, j->n, on_row, j, &why);
    }
    mk_engine_destroy(e);
    return give(st, &why, err);
}

minke_status minke_logits(minke_model *m, const int32_t *ids, int64_t n_ids, minke_row_fn row,
                          void *arg, minke_error *err) {
    row_job j = {.fn = row, .arg = arg, .n_vocab = minke_n_vocab(m), .n = n_ids, .ids = ids};
    return feed(m, &j, err);
}

minke_status minke_logprobs(minke_model *m, const int32_t *ids, int64_t n_ids, double *logprob,
                            minke_error *err) {
    row_job j = {.n_vocab = minke_n_vocab(m), .n = n_ids, .ids = ids, .logprob = logprob};
    if (n_ids > 0) {
        logprob[0] = 0;
    }
    return feed(m, &j, err);
}
