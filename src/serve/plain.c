// Routes that answer at once: health, figures, models, tokens.
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "chat/encode.h"
#include "serve/books.h"

#define UNUSED (void)r, (void)c

static void fail(mk_service *s, mk_http_exchange *x, const route *r, const mk_err *err) {
    // nothing waits in a queue here: a limit is the request's own
    int http = err->code == MK_ELIMIT ? 400 : mk_error_http_status(err->code);
    mk_service_fail(s, x, r->dialect, http, err);
}

static mk_status body_json(mk_http_exchange *x, json_t **o, mk_err *err) {
    size_t n = 0;
    const char *body = mk_http_body(x, &n);
    MK_TRY(mk_json_parse(body, n, "the body", o, err));
    return json_is_object(*o) ? MK_OK
                              : MK_FAIL(err, MK_EUSAGE, "the body: expected an object, got %s",
                                        mk_json_type_name(*o));
}

// --- health and figures --------------------------------------------------------------------------

HANDLER(alive) {
    UNUSED;
    static const char text[] = "minke is running\n";
    mk_service_reply(s, x, (mk_service_head){.type = "text/plain"}, text, sizeof text - 1);
}

HANDLER(health) {
    UNUSED;
    if (atomic_load(&s->ready)) {
        bool draining = atomic_load(&s->draining);
        mk_service_json(s, x, draining ? 503 : 200,
                        json_pack("{s:s}", "status", draining ? "draining" : "ok"));
        return;
    }
    pthread_mutex_lock(&s->lock);
    double part = s->load_total ? (double)s->load_done / (double)s->load_total : 0;
    json_t *v =
        json_pack("{s:s, s:s, s:f}", "status", "loading", "model", s->loading, "progress", part);
    pthread_mutex_unlock(&s->lock);
    mk_service_json(s, x, 503, v);
}

typedef struct {
    const char *name, *type, *help;
    double value;
} figure;

static void print_head(mk_buf *b, const figure *f) {
    mk_buf_printf(b, "# HELP minke_%s %s\n# TYPE minke_%s %s\n", f->name, f->help, f->name,
                  f->type);
}

#define COUNTER "counter"
#define GAUGE   "gauge"

enum { N_MODEL_FIGURE = 23 };

static void model_figures(const served_model *m, figure out[N_MODEL_FIGURE]) {
    mk_sched_figures q;
    mk_prefix_figures p;
    mk_service_figures(m, &q, &p);
    mk_residence_info r = mk_loader_read(m->s->loader, m->slot);
    double kv = q.kv_blocks_total ? (double)q.kv_blocks_used / (double)q.kv_blocks_total : 0;
    const figure f[] = {
        {"requests_running", GAUGE, "answers being generated", (double)q.n_running},
        {"requests_waiting", GAUGE, "requests in the queue", (double)q.n_waiting},
        {"requests_done_total", COUNTER, "answers that ended", (double)q.n_done},
        {"requests_cancelled_total", COUNTER, "answers whose client went", (double)q.n_cancelled},
        {"requests_failed_total", COUNTER, "answers that failed", (double)q.n_failed},
        {"prompt_tokens_total", COUNTER, "tokens of prompts computed", (double)q.prompt_tokens},
        {"cached_tokens_total", COUNTER, "tokens of prompts found in the cache",
         (double)q.cached_tokens},
        {"generated_tokens_total", COUNTER, "tokens generated", (double)q.generated_tokens},
        {"drafted_tokens_total", COUNTER, "tokens drafted", (double)q.drafted_tokens},
        {"accepted_tokens_total", COUNTER, "drafted tokens that were right",
         (double)q.accepted_tokens},
        {"busy_seconds_total", COUNTER, "time in forward passes", q.busy_s},
        {"rounds_total", COUNTER, "forward passes", (double)q.rounds},
        {"rows_total", COUNTER, "rows of them: tokens of prompts and answers, drafts",
         (double)q.rows},
        {"kv_cache_utilization", GAUGE, "part of the key/value cache in use", kv},
        {"model_loaded", GAUGE, "1 while it is in memory", r.state == MK_MODEL_LOADED},
        {"model_waiting", GAUGE, "requests that wait for it to be loaded", (double)r.n_waiting},
        {"model_loads_total", COUNTER, "times it was loaded", (double)r.n_load},
        {"model_load_failures_total", COUNTER, "loads that failed", (double)r.n_failed},
        {"model_unloads_total", COUNTER, "times it was unloaded", (double)r.n_unload},
        {"prefix_memory_blocks", GAUGE, "blocks of 64 tokens kept in memory",
         (double)p.memory_blocks},
        {"prefix_disk_blocks", GAUGE, "of them on disk", (double)p.disk_blocks},
        {"prefix_disk_bytes", GAUGE, "kept on disk", (double)p.disk_bytes},
        {"prefix_damaged_total", COUNTER, "damaged files on disk", (double)p.damaged},
    };
    _Static_assert(sizeof f / sizeof f[0] == N_MODEL_FIGURE, "as many as there is room for");
    memcpy(out, f, sizeof f);
}

// Of one figure all models' values stand together, under one head.
static void print_models(mk_buf *b, mk_service *s) {
    size_t n = (size_t)atomic_load(&s->n_model);
    figure(*f)[N_MODEL_FIGURE] = mk_zalloc((n + 1) * sizeof *f);
    for (size_t m = 0; m < n; m++) {
        model_figures(&s->model[m], f[m]);
    }
    for (int i = 0; n > 0 && i < N_MODEL_FIGURE; i++) {
        print_head(b, &f[0][i]);
        for (size_t m = 0; m < n; m++) {
            mk_buf_printf(b, "minke_%s{model=\"%s\"} %.17g\n", f[m][i].name, s->model[m].name,
                          f[m][i].value);
        }
    }
    mk_free(f);
}

HANDLER(metrics) {
    UNUSED;
    mk_buf b;
    mk_buf_init(&b, 1 << 22);
    const figure f[] = {
        {"uptime_seconds", GAUGE, "since the start", (double)(mk_now_ns() - s->started_ns) / 1e9},
        {"http_requests_total", COUNTER, "requests", (double)atomic_load(&s->n_requests)},
        {"http_errors_total", COUNTER, "answers that were errors",
         (double)atomic_load(&s->n_errors)},
        {"http_refused_total", COUNTER, "refused by host, origin, key or load",
         (double)atomic_load(&s->n_refused)},
        {"http_gone_total", COUNTER, "clients that hung up", (double)atomic_load(&s->n_gone)},
        {"ledger_failures_total", COUNTER, "answers that could not be written down",
         (double)atomic_load(&s->n_unwritten)},
        {"http_open", GAUGE, "requests being answered", (double)mk_http_n_open(s->http)},
    };
    for (size_t i = 0; i < sizeof f / sizeof f[0]; i++) {
        print_head(&b, &f[i]);
        mk_buf_printf(&b, "minke_%s %.17g\n", f[i].name, f[i].value);
    }
    print_models(&b, s);
    mk_service_reply_buf(s, x, (mk_service_head){.type = "text/plain; version=0.0.4"}, &b);
}

// --- models --------------------------------------------------------------------------------------

// What is used where a request says nothing.
static json_t *sampling_json(const served_model *m) {
    mk_sample_params p = mk_llm_sampling(m->llm);
    return json_pack("{s:f, s:f, s:i, s:f, s:f}", "temperature", (double)p.temperature, "top_p",
                     (double)p.top_p, "top_k", (int)p.top_k, "min_p", (double)p.min_p,
                     "repetition_penalty", (double)p.repetition_penalty);
}

static json_t *model_json(const served_model *m) {
    const mk_model *model = mk_llm_model(m->llm);
    int64_t n_ctx = atomic_load(&m->n_ctx);
    json_t *v =
        json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:{s:I, s:I, s:I}}", "id", m->name, "object",
                  "model", "created", (json_int_t)m->created, "owned_by", "minke", "context_length",
                  (json_int_t)n_ctx, "max_model_len", (json_int_t)n_ctx, "meta", "n_vocab",
                  (json_int_t)model->hp.n_vocab, "n_ctx_train", (json_int_t)model->hp.n_ctx_train,
                  "n_params", (json_int_t)mk_model_n_param(model));
    (void)json_object_set_new(v, "sampling", sampling_json(m));
    (void)json_object_set_new(v, "state", json_string(mk_service_state(m)));
    return v;
}

HANDLER(models) {
    UNUSED;
    json_t *list = json_array();
    for (int i = 0; i < atomic_load(&s->n_model); i++) {
        json_array_append_new(list, model_json(&s->model[i]));
    }
    // some agents read `models`
    mk_service_json(s, x, 200,
                    json_pack("{s:s, s:O, s:o}", "object", "list", "data", list, "models", list));
}

HANDLER(model) {
    (void)c;
    const char *name = strstr(mk_http_path(x), "/models/");
    mk_err err;
    for (int i = 0; name && i < atomic_load(&s->n_model); i++) {
        if (strcmp(s->model[i].name, name + 8) == 0) {
            mk_service_json(s, x, 200, model_json(&s->model[i]));
            return;
        }
    }
    (void)MK_FAIL(&err, MK_ENOTFOUND, MK_NO_MODEL " '%.100s' here; GET /v1/models lists them",
                  name ? name + 8 : "");
    fail(s, x, r, &err);
}

// --- tokens --------------------------------------------------------------------------------------

static json_t *ids_json(const mk_ids *ids) {
    json_t *a = json_array();
    for (int64_t i = 0; i < ids->n; i++) {
        json_array_append_new(a, json_integer(ids->data[i]));
    }
    return a;
}

// The text of one token, or its bytes where they are no text by themselves.
static json_t *piece_json(const mk_tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *p = mk_tokenizer_piece(t, id, &n);
    if (p && mk_utf8_valid(p, n)) {
        return mk_json_text(p, n);
    }
    json_t *bytes = json_array();
    for (size_t i = 0; p && i < n; i++) {
        json_array_append_new(bytes, json_integer((unsigned char)p[i]));
    }
    return bytes;
}

// {"id", "piece"} instead of each id.
static json_t *pieces_json(const mk_tokenizer *t, const mk_ids *ids) {
    json_t *a = json_array();
    for (int64_t i = 0; i < ids->n; i++) {
        json_array_append_new(a, json_pack("{s:i, s:o}", "id", (int)ids->data[i], "piece",
                                           piece_json(t, ids->data[i])));
    }
    return a;
}

static mk_status tokenize(mk_service *s, const json_t *o, mk_ids *ids, json_t **tokens,
                          mk_err *err) {
    const char *text = NULL, *name = NULL;
    bool special = false, bos = false, pieces = false;
    MK_TRY(mk_json_get_str(o, "content", &text, err));
    MK_TRY(text ? MK_OK : mk_json_get_str(o, "prompt", &text, err));
    MK_TRY(text ? MK_OK : mk_json_get_str(o, "text", &text, err));
    MK_TRY(mk_json_get_str(o, "model", &name, err));
    MK_TRY(mk_json_get_bool(o, "parse_special", &special, err));
    MK_TRY(mk_json_get_bool(o, "add_special", &bos, err));
    MK_TRY(mk_json_get_bool(o, "with_pieces", &pieces, err));
    if (!text) {
        return MK_FAIL(err, MK_EUSAGE, "/content: expected a text");
    }
    served_model *m = mk_service_find(s, name, err);
    if (!m) {
        return err->code;
    }
    mk_encode_opts eo = {.add_special = bos, .parse_special = special};
    const mk_tokenizer *t = mk_llm_tokenizer(m->llm);
    MK_TRY(mk_tokenizer_encode(t, text, strlen(text), eo, ids, err));
    *tokens = pieces ? pieces_json(t, ids) : ids_json(ids);
    return MK_OK;
}

HANDLER(tokenize) {
    (void)c;
    mk_err err = {0};
    json_t *o = NULL, *tokens = NULL;
    mk_ids ids = {0};
    mk_status st = body_json(x, &o, &err);
    st = st == MK_OK ? tokenize(s, o, &ids, &tokens, &err) : st;
    if (st == MK_OK) {
        mk_service_json(s, x, 200,
                        json_pack("{s:o, s:I}", "tokens", tokens, "count", (json_int_t)ids.n));
    } else {
        fail(s, x, r, &err);
    }
    mk_ids_free(&ids);
    json_decref(o);
}

static mk_status detokenize(mk_service *s, const json_t *o, char **text, size_t *n, mk_err *err) {
    const char *name = NULL;
    MK_TRY(mk_json_get_str(o, "model", &name, err));
    served_model *m = mk_service_find(s, name, err);
    if (!m) {
        return err->code;
    }
    const json_t *list = json_object_get(o, "tokens"), *v;
    const mk_tokenizer *t = mk_llm_tokenizer(m->llm);
    mk_ids ids = {0};
    mk_status st = json_is_array(list)
                       ? MK_OK
                       : MK_FAIL(err, MK_EUSAGE, "/tokens: expected an array, got %s",
                                 mk_json_type_name(list));
    size_t i;
    json_array_foreach(list, i, v) {
        int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (st == MK_OK && (id < 0 || id >= mk_tokenizer_n_vocab(t))) {
            st = MK_FAIL(err, MK_EUSAGE, "/tokens/%zu: expected an id from 0 to %lld", i,
                         (long long)mk_tokenizer_n_vocab(t) - 1);
        }
        st = st == MK_OK ? mk_ids_push(&ids, (int32_t)id, err) : st;
    }
    mk_decode_opts d = {.skip_special = false};
    st = st == MK_OK ? mk_tokenizer_decode(t, ids.data, ids.n, d, text, n, err) : st;
    mk_ids_free(&ids);
    return st;
}

HANDLER(detokenize) {
    (void)c;
    mk_err err = {0};
    json_t *o = NULL;
    char *text = NULL;
    size_t n = 0;
    mk_status st = body_json(x, &o, &err);
    st = st == MK_OK ? detokenize(s, o, &text, &n, &err) : st;
    if (st == MK_OK) {
        mk_service_json(s, x, 200, json_pack("{s:o}", "content", mk_json_text(text, n)));
    } else {
        fail(s, x, r, &err);
    }
    mk_free(text);
    json_decref(o);
}

// What would be given to a model, without asking it.
typedef struct {
    mk_ask ask;
    served_model *m;
    mk_prompt p;
} dry_run;

// Reads the body as an ask of this dialect, and makes its prompt.  dry_run_free in any case.
static mk_status dry_run_make(dry_run *d, mk_service *s, mk_http_exchange *x,
                              const mk_dialect *dialect, const caller *c, mk_err *err) {
    json_t *o = NULL;
    *d = (dry_run){0};
    mk_ask_init(&d->ask);
    mk_status st = body_json(x, &o, err);
    st = st == MK_OK ? dialect->parse(o, &d->ask, err) : st;
    json_decref(o);
    MK_TRY(st);
    d->m = mk_service_find(s, d->ask.model, err);
    if (!d->m) {
        return err->code;
    }
    uint64_t tenant;
    MK_TRY(mk_books_recall(s, c, d->m->llm, &d->ask, &tenant, err));
    mk_request q = mk_service_request(&d->ask, 0);
    return mk_llm_make_prompt(d->m->llm, &q, &d->p, err);
}

static void dry_run_free(dry_run *d) {
    mk_ids_free(&d->p.ids);
    mk_ask_free(&d->ask);
}

HANDLER(apply_template) {
    mk_err err = {0};
    dry_run d;
    char *text = NULL;
    size_t n = 0;
    mk_status st = dry_run_make(&d, s, x, &mk_dialect_openai_chat, c, &err);
    if (st == MK_OK) {
        mk_decode_opts o = {.skip_special = false};
        st = mk_tokenizer_decode(mk_llm_tokenizer(d.m->llm), d.p.ids.data, d.p.ids.n, o, &text, &n,
                                 &err);
    }
    if (st == MK_OK) {
        mk_service_json(s, x, 200,
                        json_pack("{s:o, s:o, s:I}", "prompt", mk_json_text(text, n), "tokens",
                                  ids_json(&d.p.ids), "count", (json_int_t)d.p.ids.n));
    } else {
        fail(s, x, r, &err);
    }
    mk_free(text);
    dry_run_free(&d);
}

HANDLER(count_tokens) {
    mk_err err = {0};
    dry_run d;
    if (dry_run_make(&d, s, x, r->dialect, c, &err) == MK_OK) {
        json_t *v = json_pack("{s:I}", "input_tokens", (json_int_t)d.p.ids.n);
        if (r->dialect == &mk_dialect_openai_responses) {
            (void)json_object_set_new(v, "object", json_string("response.input_tokens"));
        }
        mk_service_json(s, x, 200, v);
    } else {
        fail(s, x, r, &err);
    }
    dry_run_free(&d);
}
