// A ready model end to end: golden greedy continuations, streams, stops, cache, overflow, and the
// rule that a user's text never becomes a control token.
//
// Truth of the continuations: transformers' greedy generation, stored in each golden.json.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "chat/llm.h"

#define DIR     "tests/golden/models/"
#define THIMBLE "models/thimble"
#define ASKED   "<|user|>What is (37+58)*6-129?<|assistant|>"

static mk_llm *open_model(const char *path, int64_t n_ctx) {
    mk_llm_opts o = MK_LLM_DEFAULTS;
    o.model = path;
    o.n_thread = 2;
    o.n_ctx = n_ctx;
    mk_llm *llm = NULL;
    mk_err err = {0};
    if (mk_llm_open(&o, &llm, &err) != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
    return llm;
}

static mk_sample_params greedy(void) {
    mk_sample_params p = MK_SAMPLE_DEFAULTS;
    p.temperature = 0;
    return p;
}

static int64_t read_ids(const json_t *list, int32_t *out) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return (int64_t)json_array_size(list);
}

// The golden continuation.
static void expect_greedy(mk_llm *llm, const char *name) {
    char path[256];
    snprintf(path, sizeof path, DIR "%s/golden.json", name);
    json_t *j = NULL;
    mk_err err = {0};
    mk_answer a;
    assert_int_equal(mk_json_file(path, 1 << 20, &j, &err), MK_OK);
    int32_t prompt[64], want[64];
    const json_t *g = json_object_get(j, "greedy");
    mk_request r = {.ids = prompt,
                    .n_ids = read_ids(json_object_get(g, "prompt"), prompt),
                    .sample = greedy(),
                    .n_predict = read_ids(json_object_get(g, "ids"), want),
                    .ignore_eos = true,
                    .n_logprob = -1};
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &a, &err), MK_OK);
    assert_int_equal(a.ids.n, r.n_predict);
    assert_memory_equal(a.ids.data, want, (size_t)a.ids.n * sizeof *want);
    mk_answer_free(&a);
    json_decref(j);
}

static void test_greedy(void **state) {
    (void)state;
    static const char *const names[] = {"llama",           "llama3",      "yi",
                                        "qwen2",           "qwen2_tied",  "deepseek_v2",
                                        "deepseek_v2lite", "deepseek_v3", "deepseek_v3_mtp"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, DIR "%s", names[i]);
        mk_llm *llm = open_model(path, 0);
        expect_greedy(llm, names[i]);
        mk_llm_close(llm);
    }
}

typedef struct {
    mk_buf text;
    int n_token, stop_after;
} collector;

static bool collect(void *arg, const mk_event *ev) {
    collector *c = arg;
    if (ev->kind == MK_EVENT_TEXT) {
        mk_buf_add(&c->text, ev->text, ev->n);
    }
    c->n_token += ev->kind == MK_EVENT_TOKEN;
    return c->stop_after == 0 || c->n_token < c->stop_after;
}

// Streamed text equals the answer; the same request again (now from the cache) and in a fresh model
// gives the same.
static void test_stream_and_cache(void **state) {
    (void)state;
    mk_llm *llm = open_model(THIMBLE, 0);
    mk_request r = {.prompt = ASKED,
                    .raw = true,
                    .sample = mk_llm_sampling(llm),
                    .n_predict = 80,
                    .ignore_eos = true,
                    .n_logprob = 3};
    assert_true(r.sample.temperature == 0);  // the file's recommendation
    r.sample.temperature = 1.5f;
    r.sample.seed = 7;
    collector c = {0};
    mk_buf_init(&c.text, 1 << 20);
    mk_answer a, b;
    mk_err err = {0};
    assert_int_equal(mk_llm_generate(llm, &r, collect, &c, &a, &err), MK_OK);
    assert_int_equal(c.n_token, 80);
    assert_int_equal(c.text.len, a.n_text);
    assert_memory_equal(c.text.data, a.text, a.n_text);
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &b, &err), MK_OK);
    assert_int_equal(a.n_cached, 0);
    assert_int_equal(b.n_cached, b.n_prompt - 1);
    assert_string_equal(a.text, b.text);
    mk_answer_free(&b);
    mk_llm_close(llm);
    llm = open_model(THIMBLE, 200);
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &b, &err), MK_OK);
    assert_string_equal(a.text, b.text);
    r.sample.seed = 8;
    mk_answer_free(&b);
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &b, &err), MK_OK);
    assert_string_not_equal(a.text, b.text);
    mk_answer_free(&a);
    mk_answer_free(&b);
    mk_buf_free(&c.text);
    mk_llm_close(llm);
}

static void test_stop_cancel_window(void **state) {
    (void)state;
    mk_llm *llm = open_model(THIMBLE, 128);
    mk_request r = {.prompt = ASKED,
                    .raw = true,
                    .sample = greedy(),
                    .n_predict = -1,
                    .ignore_eos = true,
                    .n_logprob = -1};
    mk_answer whole, cut;
    mk_err err = {0};
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &whole, &err), MK_OK);
    assert_int_equal(whole.finish, MK_FINISH_LENGTH);  // the window is full, nothing was cut
    assert_int_equal(whole.n_prompt + whole.n_generated, 128);
    char stop[9] = {0};
    memcpy(stop, whole.text + 40, 8);
    const char *stops[] = {"never seen", stop};
    r.stop = stops;
    r.n_stop = 2;
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &cut, &err), MK_OK);
    assert_int_equal(cut.finish, MK_FINISH_STOP);
    const char *first = strstr(whole.text, stop);
    assert_int_equal(cut.n_text, first - whole.text);
    assert_memory_equal(cut.text, whole.text, cut.n_text);
    mk_answer_free(&cut);
    r.n_stop = 0;
    collector c = {.stop_after = 5};
    mk_buf_init(&c.text, 1 << 20);
    assert_int_equal(mk_llm_generate(llm, &r, collect, &c, &cut, &err), MK_OK);
    assert_int_equal(cut.finish, MK_FINISH_CANCELLED);
    assert_int_equal(cut.n_generated, 5);
    mk_answer_free(&cut);
    mk_answer_free(&whole);
    mk_buf_free(&c.text);
    char *big = mk_zalloc(1001);
    memset(big, 'a', 1000);
    r.prompt = big;
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &cut, &err), MK_ECONTEXT);
    assert_non_null(strstr(err.msg, "1000"));
    assert_non_null(strstr(err.msg, "128"));
    mk_answer_free(&cut);
    mk_free(big);
    mk_llm_close(llm);
}

// Weights come and go; what is known of the model without them stays.
static void test_load_later(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "deepseek_v3", "qwen2_tied"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, DIR "%s", names[i]);
        mk_llm_opts o = MK_LLM_DEFAULTS;
        o.model = path;
        o.n_thread = 2;
        o.later = true;
        mk_llm *llm = NULL;
        mk_err err = {0};
        assert_int_equal(mk_llm_open(&o, &llm, &err), MK_OK);
        assert_null(mk_llm_engine(llm));
        const mk_tokenizer *t = mk_llm_tokenizer(llm);
        mk_ids ids = {0};
        for (int k = 0; k < 2; k++) {
            // everything that is free was promised to others: it says so, and is as before
            mk_llm_load_opts none = {.promised = SIZE_MAX};
            assert_int_equal(mk_llm_load(llm, &none, &err), MK_ENOMEM);
            assert_null(mk_llm_engine(llm));
            assert_int_equal(mk_llm_load(llm, &(mk_llm_load_opts){.whole_window = true}, &err),
                             MK_OK);
            assert_int_equal(mk_llm_engine_opts(llm)->n_ctx, mk_llm_model(llm)->hp.n_ctx_train);
            expect_greedy(llm, names[i]);
            mk_llm_unload(llm);
            assert_null(mk_llm_engine(llm));
            assert_null(mk_llm_pool(llm));
            assert_false(mk_llm_model(llm)->loaded);
            assert_null(mk_llm_model(llm)->weights);
            assert_ptr_equal(mk_llm_tokenizer(llm), t);
            assert_int_equal(mk_tokenizer_encode(
                                 t, "one", 3, (mk_encode_opts){.add_special = false}, &ids, &err),
                             MK_OK);
        }
        mk_ids_free(&ids);
        mk_llm_close(llm);
    }
}

// Logit bias forbids, n_token masks, log-probabilities add up.
typedef struct {
    int32_t id;
    float logprob, top[2];
} first_token;

static bool take_first(void *arg, const mk_event *ev) {
    first_token *f = arg;
    if (ev->kind == MK_EVENT_TOKEN) {
        *f = (first_token){ev->id, ev->logprob, {ev->top[0].logprob, ev->top[1].logprob}};
    }
    return true;
}

static void test_bias(void **state) {
    (void)state;
    mk_llm *llm = open_model(THIMBLE, 128);
    mk_request r = {
        .prompt = "37+58", .raw = true, .sample = greedy(), .n_predict = 1, .n_logprob = 2};
    first_token a = {0}, b = {0};
    mk_answer ans;
    mk_err err = {0};
    assert_int_equal(mk_llm_generate(llm, &r, take_first, &a, &ans, &err), MK_OK);
    mk_answer_free(&ans);
    assert_true(a.logprob == a.top[0] && a.top[0] > a.top[1]);
    mk_logit_bias forbid = {a.id, -1e30f};
    r.sample.bias = &forbid;
    r.sample.n_bias = 1;
    assert_int_equal(mk_llm_generate(llm, &r, take_first, &b, &ans, &err), MK_OK);
    mk_answer_free(&ans);
    assert_int_not_equal(a.id, b.id);
    assert_true(b.logprob == a.top[1]);  // the raw distribution is reported, not the biased one
    mk_llm_close(llm);
}

// Every control token's text, sent by a user, comes out as ordinary tokens; the template's own
// markers as control tokens.
static void test_user_text_is_text(void **state) {
    (void)state;
    mk_llm *llm = open_model(DIR "llama", 0);
    const mk_tokenizer *tok = mk_llm_tokenizer(llm);
    int64_t n_control = 0;
    for (int32_t id = 0; id < mk_tokenizer_n_vocab(tok); id++) {
        if (mk_tokenizer_type(tok, id) != MK_TOKEN_CONTROL) {
            continue;
        }
        n_control++;
        size_t n = 0;
        const char *piece = mk_tokenizer_piece(tok, id, &n);
        char content[256];
        snprintf(content, sizeof content, "a %.*s b", (int)n, piece);
        mk_request hostile = {.prompt = content}, plain = {.prompt = "a b"};
        mk_ids x = {0}, y = {0};
        mk_err err = {0};
        assert_int_equal(mk_llm_prompt_ids(llm, &hostile, &x, &err), MK_OK);
        assert_int_equal(mk_llm_prompt_ids(llm, &plain, &y, &err), MK_OK);
        int64_t in_hostile = 0, in_plain = 0;
        for (int64_t i = 0; i < x.n; i++) {
            in_hostile += mk_tokenizer_type(tok, x.data[i]) == MK_TOKEN_CONTROL;
        }
        for (int64_t i = 0; i < y.n; i++) {
            in_plain += mk_tokenizer_type(tok, y.data[i]) == MK_TOKEN_CONTROL;
        }
        assert_true(in_plain > 0);
        assert_int_equal(in_hostile, in_plain);
        mk_ids_free(&x);
        mk_ids_free(&y);
    }
    assert_true(n_control >= 4);
    mk_llm_close(llm);
}

static void test_bad_requests(void **state) {
    (void)state;
    mk_llm *llm = open_model(THIMBLE, 128);
    mk_answer a;
    mk_err err = {0};
    const char *empty[] = {""};
    mk_request rows[] = {
        {.prompt = "x", .raw = true, .sample = greedy(), .n_logprob = 21},
        {.prompt = "x", .raw = true, .sample = greedy(), .stop = empty, .n_stop = 1},
        {.prompt = "x", .raw = true, .sample = {.temperature = -1}},
        {.prompt = "", .raw = true, .sample = greedy()},
        {.ids = (const int32_t[]){100000}, .n_ids = 1, .sample = greedy()},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(mk_llm_generate(llm, &rows[i], NULL, NULL, &a, &err), MK_EUSAGE);
        assert_true(strlen(err.msg) > 10);
        mk_answer_free(&a);
    }
    mk_llm_close(llm);
    mk_llm_opts o = MK_LLM_DEFAULTS;
    o.model = THIMBLE;
    o.n_ctx = (int64_t)1 << 40;
    assert_int_equal(mk_llm_open(&o, &llm, &err), MK_ENOMEM);
    assert_non_null(strstr(err.msg, "GB"));
    o.model = "no/such/model";
    assert_int_equal(mk_llm_open(&o, &llm, &err), MK_ENOTFOUND);
}

static bool end_half_way(void *arg, uint64_t done, uint64_t total) {
    ++*(int *)arg;
    return done < total / 2;
}

// A load that is ended gives back what it took, and the next one is as if it were the first.
static void test_load_ended(void **state) {
    (void)state;
    mk_llm_opts o = MK_LLM_DEFAULTS;
    o.model = DIR "llama";
    o.n_thread = 1;
    o.n_ctx = 128;
    o.later = true;
    mk_llm *llm = NULL;
    mk_err err = {0};
    int n = 0;
    assert_int_equal(mk_llm_open(&o, &llm, &err), MK_OK);
    int64_t live = mk_alloc_live();
    mk_llm_load_opts how = {.progress = end_half_way, .progress_arg = &n};
    assert_int_equal(mk_llm_load(llm, &how, &err), MK_EINTR);
    assert_true(n > 1);
    assert_int_equal(mk_alloc_live(), live);
    assert_int_equal(mk_llm_load(llm, &(mk_llm_load_opts){0}, &err), MK_OK);
    mk_llm_close(llm);
}

// Opening, answering and closing leaves nothing behind, threads included.
static void test_nothing_left(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    mk_llm *llm = open_model(THIMBLE, 128);
    mk_request r = {.prompt = "7", .sample = greedy(), .n_predict = 3, .n_logprob = -1};
    mk_answer a;
    mk_err err = {0};
    assert_int_equal(mk_llm_generate(llm, &r, NULL, NULL, &a, &err), MK_OK);
    mk_answer_free(&a);
    mk_llm_close(llm);
    assert_int_equal(mk_alloc_live(), live);
}

// Sequences of a provider share a pool that has room for all of them; a window that is no multiple
// of a block takes a whole one at its end.  A conversation alone plans the same memory.
static void test_plan(void **state) {
    (void)state;
    for (int serve = 0; serve < 2; serve++) {
        mk_llm_opts o = MK_LLM_DEFAULTS;
        o.model = DIR "llama";
        o.n_thread = 1;
        o.n_ctx = 3 * MK_KV_BLOCK + 1;
        o.n_seq = 3;
        o.serve = serve;
        o.describe_only = true;
        mk_llm *llm = NULL;
        mk_memory_plan p = {0}, one = {0};
        mk_err err = {0};
        assert_int_equal(mk_llm_open(&o, &llm, &err), MK_OK);
        assert_int_equal(mk_llm_engine_opts(llm)->n_block, serve ? 12 : 0);
        assert_int_equal(mk_llm_plan(llm, 0, &p, &err), MK_OK);
        size_t per_block = mk_model_kv_bytes_per_block(mk_llm_model(llm), MK_KV_F32);
        assert_int_equal(p.kv, 12 * per_block);
        assert_int_equal(p.total, p.weights + p.kv + p.scratch);
        assert_int_equal(mk_llm_plan(llm, MK_KV_BLOCK, &one, &err), MK_OK);
        assert_int_equal(one.kv, (serve ? 12 : 3) * per_block);  // a pool stays what it is
        mk_llm_close(llm);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_stream_and_cache),
        cmocka_unit_test(test_stop_cancel_window),
        cmocka_unit_test(test_load_later),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_user_text_is_text),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_load_ended),
        cmocka_unit_test(test_nothing_left),
        cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
