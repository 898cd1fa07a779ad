// Kept answers and remembered reasoning: whose they are, how long they stay, what is put back.
#include "serve/scratch.h"

#include "base/json.h"
#include "serve/heard.h"
#include "serve/kept.h"
#include "serve/memory.h"
#include "serve/openai_responses.h"

static json_t *json_of(const char *text) {
    json_t *v = NULL;
    must(mk_json_parse(text, strlen(text), "the test", &v, err));
    return v;
}

static void expect_json(const json_t *v, const char *want) {
    json_t *w = json_of(want);
    if (!json_equal(v, w)) {
        char *text = json_dumps(v, JSON_ENCODE_ANY);
        fail_msg("expected %s\n     got %s", want, text);
    }
    json_decref(w);
}

// --- kept answers --------------------------------------------------------------------------------

static void put(mk_store *s, const char *id, const char *owner, int64_t created,
                const char *messages) {
    json_t *m = json_of(messages);
    mk_kept_row r = {id, owner, created, "{\"id\":1}", m};
    must(mk_kept_put(s, &r, 1000, err));
    json_decref(m);
}

static bool is_kept(mk_store *s, const char *owner, const char *id) {
    mk_buf b;
    mk_err err = {0};
    mk_buf_init(&b, 1000);
    mk_status st = mk_kept_get(s, owner, id, &b, &err);
    if (st == MK_OK) {
        assert_string_equal(b.data, "{\"id\":1}");
    } else {
        assert_int_equal(st, MK_ENOTFOUND);
        assert_non_null(strstr(err.msg, id));
    }
    mk_buf_free(&b);
    return st == MK_OK;
}

static void test_owners(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state);
    put(s, "resp_a", "k1", 100, "[]");
    put(s, "resp_b", "", 100, "[]");
    mk_store_close(s);
    s = open_store(t.state);
    assert_true(is_kept(s, "k1", "resp_a") && is_kept(s, "", "resp_b"));
    assert_false(is_kept(s, "k2", "resp_a") || is_kept(s, "", "resp_a") ||
                 is_kept(s, "k1", "resp_b") || is_kept(s, "k1", "resp_c"));
    must_fail(mk_kept_delete(s, "k2", "resp_a", err), MK_ENOTFOUND, "resp_a");
    must(mk_kept_delete(s, "k1", "resp_a", err));
    assert_false(is_kept(s, "k1", "resp_a"));
    must_fail(mk_kept_delete(s, "k1", "resp_a", err), MK_ENOTFOUND, "resp_a");
    mk_store_close(s);
    scratch_remove(&t);
}

static void test_size_and_age(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char id[16], big[1100];
    for (int i = 0; i < 20; i++) {  // 8 + 92 bytes each: ten fit
        snprintf(id, sizeof id, "r%d", i);
        char m[100];
        memset(m, ' ', sizeof m);
        snprintf(m, sizeof m, "[\"%088d\"]", i);
        put(s, id, "", 100 + i, m);
    }
    assert_int_equal(count_rows(s, "SELECT COUNT(*) FROM kept"), 10);
    assert_true(is_kept(s, "", "r10") && is_kept(s, "", "r19") && !is_kept(s, "", "r9"));
    put(s, "late", "", 119 + MK_KEPT_SECONDS, "[]");
    assert_int_equal(count_rows(s, "SELECT COUNT(*) FROM kept"), 2);
    snprintf(big, sizeof big, "[\"%01000d\"]", 1);
    json_t *m = json_of(big);
    mk_kept_row r = {"big", "", 200 + MK_KEPT_SECONDS, "{}", m};
    must_fail(mk_kept_put(s, &r, 1000, err), MK_ELIMIT, "more than the 1000");
    json_decref(m);
    assert_int_equal(count_rows(s, "SELECT COUNT(*) FROM kept"), 2);
    mk_store_close(s);
}

static void parse(const char *body, mk_ask *a) {
    json_t *v = json_of(body);
    mk_ask_init(a);
    must(mk_openai_responses_parse(v, a, err));
    json_decref(v);
}

static void test_going_on(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    mk_ask a;
    parse("{\"instructions\": \"be brief\", \"input\": [{\"role\": \"system\", \"content\": \"S\"},"
          "{\"role\": \"user\", \"content\": \"1\"}]}",
          &a);
    must(mk_kept_continue(s, "", &a, err));  // it continues none
    expect_json(a.messages, "[{\"role\": \"system\", \"content\": \"be brief\\n\\nS\"},"
                            "{\"role\": \"user\", \"content\": \"1\"}]");
    // the instructions are not part of the conversation
    expect_json(a.input, "[{\"role\": \"system\", \"content\": \"S\"},"
                         "{\"role\": \"user\", \"content\": \"1\"}]");
    (void)json_array_append_new(a.input,
                                json_of("{\"role\": \"assistant\", \"content\": \"one\"}"));
    mk_kept_row r = {"resp_1", "", 100, "{}", a.input};
    must(mk_kept_put(s, &r, 1000, err));
    mk_ask_free(&a);
    parse("{\"instructions\": \"be long\", \"previous_response_id\": \"resp_1\", \"input\": \"2\"}",
          &a);
    must(mk_kept_continue(s, "", &a, err));
    expect_json(a.messages, "[{\"role\": \"system\", \"content\": \"be long\\n\\nS\"},"
                            "{\"role\": \"user\", \"content\": \"1\"},"
                            "{\"role\": \"assistant\", \"content\": \"one\"},"
                            "{\"role\": \"user\", \"content\": \"2\"}]");
    expect_json(a.input, "[{\"role\": \"system\", \"content\": \"S\"},"
                         "{\"role\": \"user\", \"content\": \"1\"},"
                         "{\"role\": \"assistant\", \"content\": \"one\"},"
                         "{\"role\": \"user\", \"content\": \"2\"}]");
    must_fail(mk_kept_continue(s, "another", &a, err), MK_EUSAGE, "/previous_response_id: ");
    mk_ask_free(&a);
    mk_store_close(s);
}

// --- what was said -------------------------------------------------------------------------------

static void hear(mk_heard *h, mk_ae_kind kind, const char *text) {
    mk_heard_event(h, &(mk_answer_event){.kind = kind, .text = text, .n = strlen(text)});
}

static void hear_call(mk_heard *h, const char *id, const char *args) {
    mk_heard_event(h, &(mk_answer_event){.kind = MK_AE_TOOL_BEGIN, .call_id = id, .name = "f"});
    hear(h, MK_AE_TOOL_ARGS, args);
    mk_heard_event(h, &(mk_answer_event){.kind = MK_AE_TOOL_END});
}

static void test_heard(void **state) {
    (void)state;
    mk_heard h;
    mk_heard_init(&h);
    hear(&h, MK_AE_START, "");
    hear(&h, MK_AE_REASONING, "th");
    hear(&h, MK_AE_REASONING, "ink");
    hear(&h, MK_AE_TEXT, "he");
    hear(&h, MK_AE_TEXT, "re");
    hear_call(&h, "c1", "{\"x\": 1}");
    hear_call(&h, "c2", "");
    json_t *m = mk_heard_message(&h);
    expect_json(m, "{\"role\": \"assistant\", \"content\": \"here\", \"reasoning_content\": "
                   "\"think\", \"tool_calls\": [{\"id\": \"c1\", \"type\": \"function\", "
                   "\"function\": {\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}}, {\"id\": "
                   "\"c2\", \"type\": \"function\", \"function\": {\"name\": \"f\", "
                   "\"arguments\": \"{}\"}}]}");
    json_decref(m);
    mk_heard_free(&h);
}

// --- reasoning -----------------------------------------------------------------------------------

#define CALLS(id, args)                                                                            \
    "\"tool_calls\": [{\"id\": \"" id "\", \"type\": \"function\", \"function\": {\"name\": "      \
    "\"f\", \"arguments\": \"" args "\"}}]"

static void learn(mk_store *s, uint64_t owner, const char *before, const char *answer,
                  int64_t now) {
    json_t *b = json_of(before), *a = json_of(answer);
    must(mk_memory_learn(s, owner, b, a, now, 200, err));
    json_decref(a);
    json_decref(b);
}

// The reasoning that the last of the messages gets; "" for none.
static const char *recalled(mk_store *s, uint64_t owner, const char *messages) {
    static char out[300];
    json_t *m = json_of(messages);
    int n = -1;
    must(mk_memory_recall(s, owner, m, json_array_size(m), 5000, &n, err));
    const json_t *last = json_array_get(m, json_array_size(m) - 1);
    const char *text = json_string_value(json_object_get(last, "reasoning_content"));
    snprintf(out, sizeof out, "%s", text ? text : "");
    json_decref(m);
    return out;
}

static void test_by_call_id(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    learn(s, 1, "[{\"role\": \"user\", \"content\": \"q\"}]",
          "{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"why\", " CALLS(
              "call_x", "{}") "}",
          100);
    // whatever else has changed
    const char *m = "[{\"role\": \"assistant\", \"content\": null, " CALLS("call_x", "{ }") "}]";
    assert_string_equal(recalled(s, 1, m), "why");
    assert_string_equal(recalled(s, 2, m), "");
    assert_string_equal(recalled(s, 1, "[{\"role\": \"user\", " CALLS("call_x", "{}") "}]"), "");
    assert_string_equal(recalled(s, 1, "[{\"role\": \"assistant\", " CALLS("call_y", "{}") "}]"),
                        "");
    // what a client sends itself stays
    assert_string_equal(
        recalled(s, 1,
                 "[{\"role\": \"assistant\", \"reasoning_content\": \"own\", " CALLS("call_x",
                                                                                     "{}") "}]"),
        "own");
    mk_store_close(s);
}

static void test_by_text(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char text[200], answer[400], messages[400];
    memset(text, 'x', 100);
    text[100] = 0;
    snprintf(answer, sizeof answer,
             "{\"role\": \"assistant\", \"content\": \"\\n %s\", \"reasoning_content\": \"long\"}",
             text);
    learn(s, 1, "[{\"role\": \"user\", \"content\": \"q\"}]", answer, 100);
    // a long text is itself, whatever came before it
    snprintf(messages, sizeof messages,
             "[{\"role\": \"user\", \"content\": \"other\"},"
             "{\"role\": \"assistant\", \"content\": \"%s \"}]",
             text);
    assert_string_equal(recalled(s, 1, messages), "long");
    assert_string_equal(recalled(s, 3, messages), "");
    // a short one is the answer to something
    learn(s, 1, "[{\"role\": \"user\", \"content\": \"2+3\"}]",
          "{\"role\": \"assistant\", \"content\": \"5\", \"reasoning_content\": \"2+3=5\"}", 100);
    const char *ask = "[{\"role\": \"user\", \"content\": \"%s\"},"
                      "{\"role\": \"assistant\", \"content\": \"5\"}]";
    snprintf(messages, sizeof messages, ask, "2+3");
    assert_string_equal(recalled(s, 1, messages), "2+3=5");
    snprintf(messages, sizeof messages, ask, "1+4");
    assert_string_equal(recalled(s, 1, messages), "");
    mk_store_close(s);
}

// Clients without ids (Ollama's) send arguments in their own spelling.
static void test_by_arguments(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    learn(s, 1, "[{\"role\": \"user\", \"content\": \"q\"}]",
          "{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"why\", " CALLS(
              "call_secret", "{\\\"a\\\": 1, \\\"b\\\": [2]}") "}",
          100);
    assert_string_equal(
        recalled(s, 1,
                 "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", " CALLS(
                     "call_0", "{\\\"b\\\":[2],\\\"a\\\":1}") "}]"),
        "why");
    assert_string_equal(
        recalled(s, 1,
                 "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", " CALLS(
                     "call_0", "{\\\"b\\\":[3],\\\"a\\\":1}") "}]"),
        "");
    mk_store_close(s);
}

static void test_what_is_forgotten(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char answer[300], messages[200], want[100];
    const char *m = "[{\"role\": \"user\", \"content\": \"%d\"},"
                    "{\"role\": \"assistant\", \"content\": \"a\"}]";
    for (int i = 0; i < 4; i++) {  // 60 bytes each: three fit
        snprintf(answer, sizeof answer,
                 "{\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"%060d\"}",
                 i);
        snprintf(messages, sizeof messages, "[{\"role\": \"user\", \"content\": \"%d\"}]", i);
        learn(s, 1, messages, answer, 100 + i);
        if (i == 2) {  // the oldest is used once more, at 5000
            snprintf(messages, sizeof messages, m, 0);
            assert_int_equal(strlen(recalled(s, 1, messages)), 60);
        }
    }
    for (int i = 0; i < 4; i++) {
        snprintf(messages, sizeof messages, m, i);
        snprintf(want, sizeof want, "%060d", i);
        assert_string_equal(recalled(s, 1, messages), i == 1 ? "" : want);
    }
    assert_int_equal(count_rows(s, "SELECT COUNT(*) FROM thought"), 3);
    assert_int_equal(count_rows(s, "SELECT COUNT(*) FROM thought_key"), 3);
    mk_store_close(s);
}

static void test_the_same_said_again(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    const char *q = "[{\"role\": \"user\", \"content\": \"q\"}]";
    learn(s, 1, q, "{\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"1\"}",
          1);
    learn(s, 1, q, "{\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"2\"}",
          2);
    learn(s, 1, q, "{\"role\": \"assistant\", \"content\": \"a\"}", 3);  // nothing to remember
    const char *m = "[{\"role\": \"user\", \"content\": \"q\"},"
                    "{\"role\": \"assistant\", \"content\": \"a\"}]";
    assert_string_equal(recalled(s, 1, m), "2");
    mk_store_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_owners),
        cmocka_unit_test(test_size_and_age),
        cmocka_unit_test(test_going_on),
        cmocka_unit_test(test_heard),
        cmocka_unit_test(test_by_call_id),
        cmocka_unit_test(test_by_text),
        cmocka_unit_test(test_by_arguments),
        cmocka_unit_test(test_what_is_forgotten),
        cmocka_unit_test(test_the_same_said_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
