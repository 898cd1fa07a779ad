// POST /v1/embeddings and Ollama's /api/embed: one vector for each text.  A request that waits for
// its model holds up no worker.
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/embed.h"
#include "serve/books.h"
#include "serve/ollama_int.h"

enum { MAX_TEXTS = 2048 };

typedef struct {
    const json_t *input;
    const char *model, *encoding, *pooling;
    int64_t dimensions;
    bool has_keep_alive;  // Ollama's, as in mk_ask
    double keep_alive_s;
    served_model *m;
    // of one text, on the scheduler's thread
    mk_ids ids;
    float *vector;
    int64_t d_model, n_token;
    mk_status st;
    mk_err err;
} embedding;

static mk_status read_options(embedding *e, const json_t *o, mk_err *err) {
    e->encoding = "float";
    e->pooling = "mean";
    MK_TRY(mk_json_get_str(o, "model", &e->model, err));
    MK_TRY(mk_json_get_str(o, "encoding_format", &e->encoding, err));
    MK_TRY(mk_json_get_str(o, "pooling", &e->pooling, err));
    MK_TRY(mk_json_get_i64(o, "dimensions", 1, 1 << 20, &e->dimensions, err));
    if (strcmp(e->encoding, "float") != 0 && strcmp(e->encoding, "base64") != 0) {
        return MK_FAIL(err, MK_EUSAGE, "/encoding_format: expected float or base64, got '%.40s'",
                       e->encoding);
    }
    if (strcmp(e->pooling, "mean") != 0 && strcmp(e->pooling, "last") != 0) {
        return MK_FAIL(err, MK_EUSAGE, "/pooling: expected mean or last, got '%.40s'", e->pooling);
    }
    const json_t *keep = json_object_get(o, "keep_alive");
    e->has_keep_alive = keep && !json_is_null(keep);
    if (e->has_keep_alive) {
        MK_TRY(mk_ollama_duration(MK_AT(NULL, "keep_alive"), keep, &e->keep_alive_s, err));
    }
    e->input = json_object_get(o, "input");
    e->input = e->input ? e->input : json_object_get(o, "prompt");
    return e->input ? MK_OK : MK_FAIL(err, MK_EUSAGE, "/input: expected a text or an array");
}

// A text, or an array of token ids.
static mk_status ids_of(embedding *e, const json_t *v, size_t i, mk_err *err) {
    e->ids.n = 0;
    if (json_is_string(v)) {
        mk_encode_opts o = {.add_special = true};
        return mk_tokenizer_encode(mk_llm_tokenizer(e->m->llm), json_string_value(v),
                                   json_string_length(v), o, &e->ids, err);
    }
    size_t k;
    const json_t *id;
    if (!json_is_array(v)) {
        return MK_FAIL(err, MK_EUSAGE, "/input/%zu: expected a text or token ids, got %s", i,
                       mk_json_type_name(v));
    }
    json_array_foreach(v, k, id) {
        int64_t x = json_is_integer(id) ? json_integer_value(id) : -1;
        if (x < 0 || x > INT32_MAX) {
            return MK_FAIL(err, MK_EUSAGE, "/input/%zu/%zu: expected a token id", i, k);
        }
        MK_TRY(mk_ids_push(&e->ids, (int32_t)x, err));
    }
    return MK_OK;
}

static void embed(void *arg) {
    embedding *e = arg;
    mk_prefix *prefix = mk_provider_prefix(e->m->provider);
    if (prefix) {
        (void)mk_prefix_make_room(prefix, e->ids.n / MK_KV_BLOCK + 1);
    }
    mk_pooling how = strcmp(e->pooling, "last") == 0 ? MK_POOLING_LAST : MK_POOLING_MEAN;
    e->st =
        mk_engine_embed(mk_llm_engine(e->m->llm), e->ids.data, e->ids.n, how, e->vector, &e->err);
}

// The first `n` of d numbers, at length 1 again.
static void shorten(float *v, int64_t n) {
    double squares = 0;
    for (int64_t i = 0; i < n; i++) {
        squares += (double)v[i] * (double)v[i];
    }
    float scale = squares > 0 ? (float)(1 / __builtin_sqrt(squares)) : 0;
    for (int64_t i = 0; i < n; i++) {
        v[i] *= scale;
    }
}

static json_t *base64(const void *data, size_t n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    mk_buf b;
    mk_buf_init(&b, n * 2 + 8);
    for (size_t i = 0; i < n; i += 3) {
        size_t k = n - i < 3 ? n - i : 3;
        unsigned v = (unsigned)p[i] << 16 | (k > 1 ? (unsigned)p[i + 1] << 8 : 0) |
                     (k > 2 ? (unsigned)p[i + 2] : 0);
        for (size_t j = 0; j < 4; j++) {
            mk_buf_putc(&b, j <= k ? digit[v >> (18 - 6 * j) & 63] : '=');
        }
    }
    json_t *s = json_stringn(b.data ? b.data : "", b.len);
    mk_buf_free(&b);
    return s;
}

static json_t *vector_json(const embedding *e) {
    int64_t n = e->dimensions > 0 && e->dimensions < e->d_model ? e->dimensions : e->d_model;
    if (n < e->d_model) {
        shorten(e->vector, n);
    }
    if (strcmp(e->encoding, "base64") == 0) {
        return base64(e->vector, (size_t)n * sizeof *e->vector);
    }
    json_t *a = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_array_append_new(a, json_real((double)e->vector[i]));
    }
    return a;
}

static mk_status embed_one(embedding *e, const json_t *v, size_t i, json_t *out, mk_err *err) {
    MK_TRY(ids_of(e, v, i, err));
    MK_TRY(mk_sched_call(mk_provider_sched(e->m->provider), embed, e, err));
    if (e->st != MK_OK) {
        *err = e->err;
        return mk_err_prefix(err, "/input/%zu", i);
    }
    e->n_token += e->ids.n;
    return json_array_append_new(out, vector_json(e)) == 0
               ? MK_OK
               : MK_FAIL(err, MK_ENOMEM, "no memory for %zu vectors", i + 1);
}

static mk_status embed_all(embedding *e, json_t *out, mk_err *err) {
    e->d_model = mk_llm_model(e->m->llm)->hp.d_model;
    e->vector = mk_zalloc((size_t)e->d_model * sizeof *e->vector);
    bool one = !json_is_array(e->input) || json_is_integer(json_array_get(e->input, 0));
    if (one) {
        return embed_one(e, e->input, 0, out, err);
    }
    size_t n = json_array_size(e->input);
    if (n == 0 || n > MAX_TEXTS) {
        return MK_FAIL(err, MK_EUSAGE, "/input: expected 1 to %d texts, got %zu", MAX_TEXTS, n);
    }
    for (size_t i = 0; i < n; i++) {
        MK_TRY(embed_one(e, json_array_get(e->input, i), i, out, err));
    }
    return MK_OK;
}

static json_t *openai_json(const embedding *e, const json_t *vectors) {
    json_t *data = json_array(), *v;
    size_t i;
    json_array_foreach((json_t *)vectors, i, v) {
        json_array_append_new(data, json_pack("{s:s, s:O, s:I}", "object", "embedding", "embedding",
                                              v, "index", (json_int_t)i));
    }
    return json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                     e->m->name, "usage", "prompt_tokens", (json_int_t)e->n_token, "total_tokens",
                     (json_int_t)e->n_token);
}

// --- a request -----------------------------------------------------------------------------------

typedef struct {
    mk_service *s;
    mk_http_exchange *x;
    const route *r;
    caller c;
    bool ollama, leased;
    json_t *body;
    embedding e;
    mk_lease lease;
    uint64_t t0;
} request;

static void reply(request *q, const json_t *vectors) {
    const embedding *e = &q->e;
    double ms = (double)(mk_now_ns() - q->t0) / 1e6;
    mk_books_note(q->s, &q->c, e->m->name, "embeddings", e->n_token, ms);
    json_t *v = q->ollama
                    ? json_pack("{s:s, s:O, s:I, s:i, s:I}", "model", e->m->name, "embeddings",
                                vectors, "total_duration", (json_int_t)(ms * 1e6), "load_duration",
                                0, "prompt_eval_count", (json_int_t)e->n_token)
                    : openai_json(e, vectors);
    mk_service_json(q->s, q->x, 200, v);
}

// Before the answer goes out: who has it finds the model as it asked for.
static void return_model(request *q) {
    uint64_t keep = mk_service_keep_ns(q->e.keep_alive_s);
    if (q->leased) {
        mk_loader_return(q->s->loader, q->e.m->slot, q->e.has_keep_alive ? &keep : NULL);
    }
    q->leased = false;
}

static void end_request(request *q) {
    mk_ids_free(&q->e.ids);
    mk_free(q->e.vector);
    json_decref(q->body);
    mk_http_drop(q->x);
    mk_free(q);
}

static void fail(request *q, int status, const mk_err *err) {
    return_model(q);
    mk_service_fail(q->s, q->x, q->r->dialect, status, err);
    end_request(q);
}

static void with_model(request *q) {
    json_t *vectors = json_array();
    mk_err err = {0};
    mk_http_on_gone(q->x, NULL, NULL);
    q->leased = true;
    mk_status st = embed_all(&q->e, vectors, &err);
    if (st == MK_OK) {
        return_model(q);
        reply(q, vectors);
        end_request(q);
    } else {
        fail(q, mk_error_http_status(st), &err);
    }
    json_decref(vectors);
}

static void without_model(request *q, mk_err *why) {
    mk_http_on_gone(q->x, NULL, NULL);
    int status = mk_service_lease_status(why);
    fail(q, status, why);
}

static void after_wait(void *arg) {
    request *q = arg;
    mk_err why = q->lease.w.end;
    if (why.code == MK_OK) {
        with_model(q);
    } else {
        without_model(q, &why);
    }
}

static void on_model(void *arg) {
    request *q = arg;
    if (!mk_workers_post(q->s->workers, after_wait, q)) {
        after_wait(q);
    }
}

static void on_gone(void *arg) {
    request *q = arg;
    mk_loader_cancel(q->s->loader, &q->lease);
}

static mk_status read_request(request *q, mk_err *err) {
    size_t n = 0;
    const char *body = mk_http_body(q->x, &n);
    MK_TRY(mk_json_parse(body, n, "the body", &q->body, err));
    MK_TRY(read_options(&q->e, q->body, err));
    q->e.m = mk_service_find(q->s, q->e.model, err);
    return q->e.m ? MK_OK : err->code;
}

static void answer(mk_service *s, mk_http_exchange *x, const route *r, const caller *c,
                   bool ollama) {
    request *q = mk_zalloc(sizeof *q);
    mk_err err = {0};
    bool now = false;
    *q = (request){.s = s, .x = x, .r = r, .c = *c, .ollama = ollama, .t0 = mk_now_ns()};
    q->lease = (mk_lease){.ready = on_model, .arg = q};
    mk_http_keep(x);
    mk_status st = read_request(q, &err);
    if (st != MK_OK) {
        fail(q, mk_error_http_status(st), &err);
        return;
    }
    mk_http_on_gone(x, on_gone, q);
    st = mk_loader_lease(s->loader, q->e.m->slot, &q->lease, &now, &err);
    if (st != MK_OK) {
        without_model(q, &err);
    } else if (now) {
        with_model(q);
    }
}

HANDLER(embeddings) {
    answer(s, x, r, c, false);
}

HANDLER(ollama_embed) {
    answer(s, x, r, c, true);
}
