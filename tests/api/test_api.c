// The public library: every function once as meant, and once wrongly.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "minke.h"

#define MODEL  "models/thimble"
#define ASKED  "<|user|>What is (37+58)*6-129?<|assistant|>"
#define GOLDEN "tests/golden/models/llama"

#define N_CTX 256

static minke_model *model;

static int open_model(void **state) {
    (void)state;
    minke_error err;
    return minke_open(MODEL, &(minke_options){.n_thread = 2, .n_ctx = N_CTX}, &model, &err) ==
                   MINKE_OK
               ? 0
               : -1;
}

static int close_model(void **state) {
    (void)state;
    minke_close(model);
    return 0;
}

static void test_opening_what_is_not_there(void **state) {
    (void)state;
    minke_error err;
    minke_model *m = (minke_model *)&err;
    assert_int_equal(minke_open("models/nothing", NULL, &m, &err), MINKE_NOT_FOUND);
    assert_null(m);
    assert_int_equal(err.code, MINKE_NOT_FOUND);
    assert_non_null(strstr(err.text, "models/nothing"));
    assert_int_equal(minke_open(MODEL, &(minke_options){.isa = "sse9"}, &m, NULL), MINKE_USAGE);
    assert_int_equal(minke_open(NULL, NULL, &m, &err), MINKE_USAGE);
    minke_close(NULL);
}

static void test_facts(void **state) {
    (void)state;
    assert_string_equal(minke_version(), MINKE_VERSION);
    assert_string_equal(minke_status_name(MINKE_CONTEXT), "context overflow");
    assert_int_equal(minke_n_vocab(model), 304);
    assert_int_equal(minke_n_ctx(model), N_CTX);
    assert_true(minke_has_chat_template(model));
    assert_true(minke_sampling_of(model).temperature == 0);
}

static void test_tokens_there_and_back(void **state) {
    (void)state;
    static const char text[] = "caf\xc3\xa9\0<|end|>";
    size_t n = sizeof text - 1, n_back;
    int32_t *ids;
    int64_t n_ids;
    char *back;
    assert_int_equal(minke_tokenize(model, text, n, 1, &ids, &n_ids, NULL), MINKE_OK);
    assert_int_equal(n_ids, n);  // bytes; a user's text is never a control token
    assert_int_equal(minke_detokenize(model, ids, n_ids, &back, &n_back, NULL), MINKE_OK);
    assert_int_equal(n_back, n);
    assert_memory_equal(back, text, n);
    minke_free(ids);
    minke_free(back);
    minke_error err;
    assert_int_equal(minke_detokenize(model, (int32_t[]){-1}, 1, &back, &n_back, &err),
                     MINKE_USAGE);
    assert_null(back);
}

typedef struct {
    char text[4096];
    size_t n;
    int n_token, stop_after;
    double logprob;
} seen;

static int on_event(void *arg, const minke_event *ev) {
    seen *s = arg;
    if (ev->kind == MINKE_TEXT) {
        assert_true(s->n + ev->n < sizeof s->text);
        memcpy(s->text + s->n, ev->text, ev->n);
        s->n += ev->n;
    } else if (ev->kind == MINKE_TOKEN) {
        s->n_token++;
        s->logprob += ev->logprob;
    }
    return s->stop_after > 0 && s->n_token >= s->stop_after;
}

static void test_generate(void **state) {
    (void)state;
    minke_sampling how = minke_sampling_of(model);
    how.max_tokens = 40;
    seen s = {.n = 0};
    minke_answer *a, *b;
    assert_int_equal(minke_generate(model, ASKED, &how, on_event, &s, &a, NULL), MINKE_OK);
    assert_int_equal(a->finish, MINKE_LENGTH);
    assert_int_equal(a->n_ids, 40);
    assert_int_equal(s.n_token, 40);
    assert_int_equal(s.n, a->n_text);
    assert_memory_equal(s.text, a->text, a->n_text);
    assert_true(s.logprob < 0);
    assert_int_equal(minke_generate(model, ASKED, &how, NULL, NULL, &b, NULL), MINKE_OK);
    assert_string_equal(a->text, b->text);  // the same seed
    assert_int_equal(b->n_cached, b->n_prompt - 1);
    minke_answer_free(b);
    how.temperature = 1.5;
    how.seed = 7;
    assert_int_equal(minke_generate(model, ASKED, &how, NULL, NULL, &b, NULL), MINKE_OK);
    assert_string_not_equal(a->text, b->text);
    minke_answer_free(a);
    minke_answer_free(b);
    minke_answer_free(NULL);
}

static void test_stopping(void **state) {
    (void)state;
    minke_sampling how = minke_sampling_of(model);
    seen s = {.stop_after = 5};
    minke_answer *a;
    assert_int_equal(minke_generate(model, ASKED, &how, on_event, &s, &a, NULL), MINKE_OK);
    assert_int_equal(a->finish, MINKE_CANCELLED);
    assert_int_equal(a->n_ids, 5);
    minke_answer_free(a);
    static const char *const stop[] = {"="};
    how.stop = stop;
    how.n_stop = 1;
    assert_int_equal(minke_generate(model, ASKED, &how, NULL, NULL, &a, NULL), MINKE_OK);
    assert_int_equal(a->finish, MINKE_STOP);
    assert_null(strchr(a->text, '='));
    minke_answer_free(a);
}

static void test_wrong_parameters(void **state) {
    (void)state;
    minke_error err;
    minke_answer *a = (minke_answer *)&err;
    minke_sampling how = minke_sampling_of(model);
    how.top_p = 2;
    assert_int_equal(minke_generate(model, "x", &how, NULL, NULL, &a, &err), MINKE_USAGE);
    assert_null(a);
    assert_non_null(strstr(err.text, "2"));
    assert_int_equal(minke_generate(model, NULL, NULL, NULL, NULL, &a, &err), MINKE_USAGE);
    char *text = calloc(1, 1001);
    memset(text, 'x', 1000);
    assert_int_equal(minke_generate(model, text, NULL, NULL, NULL, &a, &err), MINKE_CONTEXT);
    assert_non_null(strstr(err.text, "1000"));
    assert_non_null(strstr(err.text, "256"));
    assert_null(a);
    free(text);
}

static minke_answer *ask(minke_chat *c, const char *text, const minke_sampling *how) {
    minke_error err;
    minke_answer *a = NULL;
    assert_int_equal(minke_chat_add(c, "user", text, &err), MINKE_OK);
    assert_int_equal(minke_chat_answer(c, how, NULL, NULL, &a, &err), MINKE_OK);
    return a;
}

// A template that shows everything that was said.
static void test_conversation(void **state) {
    (void)state;
    minke_error err;
    minke_model *m;
    minke_chat *c;
    assert_int_equal(minke_open(GOLDEN, &(minke_options){.n_thread = 2}, &m, &err), MINKE_OK);
    minke_sampling how = minke_sampling_of(m);
    how.max_tokens = 20;
    assert_int_equal(minke_chat_new(m, "Be brief.", &c, &err), MINKE_OK);
    minke_answer *a = ask(c, "ROOM", &how);
    minke_answer *b = ask(c, "JOURNEY", &how);
    assert_true(b->n_prompt > a->n_prompt + a->n_ids);
    assert_true(b->n_cached >= a->n_prompt);  // only what is new was computed
    minke_answer_free(b);
    minke_chat_reset(c);
    b = ask(c, "ROOM", &how);
    assert_string_equal(a->text, b->text);
    minke_answer_free(a);
    minke_answer_free(b);
    minke_chat_free(c);
    minke_close(m);
}

// The built-in model's template shows the last question alone; its thinking is no part of the text.
static void test_single_questions(void **state) {
    (void)state;
    enum { N_QUESTION = 9 };  // two words, a space and the sum
    minke_error err;
    minke_chat *c;
    assert_int_equal(minke_chat_new(model, NULL, &c, &err), MINKE_OK);
    minke_answer *a = ask(c, "What is 5*5+5?", NULL);
    assert_int_equal(a->n_prompt, N_QUESTION + 2);
    assert_int_equal(a->finish, MINKE_STOP);
    assert_non_null(strstr(a->reasoning, "="));
    assert_null(strstr(a->text, "="));
    minke_answer *b = ask(c, "What is 12*13?", NULL);
    assert_int_equal(b->n_prompt, N_QUESTION + 2);
    assert_int_equal(b->n_cached, 1 + 3);
    minke_answer_free(b);
    minke_chat_reset(c);
    b = ask(c, "What is 5*5+5?", NULL);
    assert_string_equal(a->text, b->text);
    assert_string_equal(a->reasoning, b->reasoning);
    assert_int_equal(minke_chat_add(c, "user", "\xff", &err), MINKE_USAGE);
    assert_int_equal(minke_chat_add(c, NULL, "x", &err), MINKE_USAGE);
    minke_answer_free(a);
    minke_answer_free(b);
    minke_chat_free(c);
    minke_chat_free(NULL);
}

typedef struct {
    const int32_t *ids;
    int64_t n;
    double logprob[64];
    int64_t stop_at;
} rows;

static int on_row(void *arg, int64_t i, const float *logits, int64_t n_vocab) {
    rows *r = arg;
    double sum = 0;
    for (int64_t k = 0; k < n_vocab; k++) {
        sum += exp((double)logits[k]);
    }
    if (i + 1 < r->n) {
        r->logprob[i + 1] = (double)logits[r->ids[i + 1]] - log(sum);
    }
    return i == r->stop_at;
}

static void test_logprobs_are_those_of_the_logits(void **state) {
    (void)state;
    int32_t *ids;
    int64_t n;
    double got[64];
    minke_error err;
    assert_int_equal(
        minke_tokenize(model, "37+58:15 9=95 95*6-129 95*6:30 5", 32, 1, &ids, &n, &err), MINKE_OK);
    rows r = {.ids = ids, .n = n, .stop_at = -1};
    assert_int_equal(minke_logprobs(model, ids, n, got, &err), MINKE_OK);
    assert_int_equal(minke_logits(model, ids, n, on_row, &r, &err), MINKE_OK);
    for (int64_t i = 0; i < n; i++) {
        assert_true(fabs(got[i] - r.logprob[i]) < 1e-5);
    }
    r.stop_at = 3;
    assert_int_equal(minke_logits(model, ids, n, on_row, &r, &err), MINKE_INTERRUPTED);
    assert_int_equal(minke_logprobs(model, ids, 0, got, &err), MINKE_USAGE);
    ids[2] = 999;
    assert_int_equal(minke_logprobs(model, ids, n, got, &err), MINKE_USAGE);
    assert_non_null(strstr(err.text, "999"));
    minke_free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening_what_is_not_there),
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_tokens_there_and_back),
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_wrong_parameters),
        cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_single_questions),
        cmocka_unit_test(test_logprobs_are_those_of_the_logits),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
