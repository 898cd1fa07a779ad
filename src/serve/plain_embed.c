// POST /v1/embeddings and Ollama's /api/embed: one vector for each text.
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/embed.h"
#include "serve/books.h"

enum { MAX_TEXTS = 2048 };

typedef struct {
    const json_t *input;
    const char *model, *encoding, *pooling;
    int64_t dimensions;
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

static mk_status embed_all(mk_service *s, embedding *e, const json_t *o, json_t *out, mk_err *err) {
    MK_TRY(read_options(e, o, err));
    e->m = mk_service_find(s, e->model, err);
    if (!e->m) {
        return err->code;
    }
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

static void answer(mk_service *s, mk_http_exchange *x, const route *r, const caller *c,
                   bool ollama) {
    embedding e = {0};
    mk_err err = {0};
    json_t *o = NULL, *vectors = json_array();
    size_t n = 0;
    uint64_t t0 = mk_now_ns();
    const char *body = mk_http_body(x, &n);
    mk_status st = mk_json_parse(body, n, "the body", &o, &err);
    st = st == MK_OK ? embed_all(s, &e, o, vectors, &err) : st;
    if (st == MK_OK) {
        mk_books_note(s, c, e.m->name, "embeddings", e.n_token, (double)(mk_now_ns() - t0) / 1e6);
    }
    if (st != MK_OK) {
        mk_service_fail(s, x, r->dialect, mk_error_http_status(st), &err);
    } else if (ollama) {
        json_int_t ns = (json_int_t)(mk_now_ns() - t0);
        mk_service_json(s, x, 200,
                        json_pack("{s:s, s:O, s:I, s:i, s:I}", "model", e.m->name, "embeddings",
                                  vectors, "total_duration", ns, "load_duration", 0,
                                  "prompt_eval_count", (json_int_t)e.n_token));
    } else {
        mk_service_json(s, x, 200, openai_json(&e, vectors));
    }
    mk_ids_free(&e.ids);
    mk_free(e.vector);
    json_decref(vectors);
    json_decref(o);
}

HANDLER(embeddings) {
    answer(s, x, r, c, false);
}

HANDLER(ollama_embed) {
    answer(s, x, r, c, true);
}
