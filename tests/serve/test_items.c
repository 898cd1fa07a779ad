// Items of a kept conversation: what each message becomes, pages, and what is not there.
#include "serve/scratch.h"

#include "base/json.h"
#include "serve/openai_items.h"

static json_t *json_of(const char *text) {
    json_t *v = NULL;
    must(mk_json_parse(text, strlen(text), "the test", &v, err));
    return v;
}

static void expect(const json_t *messages, mk_items_page page, const char *want) {
    json_t *got = NULL, *w = json_of(want);
    must(mk_openai_items(messages, "resp_R", &page, &got, err));
    if (!json_equal(got, w)) {
        char *text = json_dumps(got, JSON_ENCODE_ANY);
        fail_msg("expected %s\n     got %s", want, text);
    }
    json_decref(got);
    json_decref(w);
}

#define ONE(id, item)                                                                              \
    "{\"object\": \"list\", \"data\": [{\"id\": \"" id "\", \"status\": \"completed\", " item      \
    "}], \"first_id\": \"" id "\", \"last_id\": \"" id "\", \"has_more\": false}"

#define ANSWER "{\"role\": \"assistant\", \"content\": \"the answer\"}"

static void test_kinds(void **state) {
    (void)state;
    static const struct {
        const char *message, *want;
    } rows[] = {
        {"{\"role\": \"user\", \"content\": \"a\\u0000b\"}",
         ONE("msg_Ri00", "\"type\": \"message\", \"role\": \"user\", \"content\": [{\"type\": "
                         "\"input_text\", \"text\": \"a\\u0000b\"}]")},
        {"{\"role\": \"system\", \"content\": \"\"}",
         ONE("msg_Ri00", "\"type\": \"message\", \"role\": \"system\", \"content\": [{\"type\": "
                         "\"input_text\", \"text\": \"\"}]")},
        {"{\"role\": \"assistant\", \"content\": \"\"}",
         ONE("msg_Ri00", "\"type\": \"message\", \"role\": \"assistant\", \"content\": [{\"type\": "
                         "\"output_text\", \"text\": \"\", \"annotations\": [], \"logprobs\": "
                         "[]}]")},
        {"{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"r\"}",
         ONE("rs_Ri00", "\"type\": \"reasoning\", \"summary\": [], \"content\": [{\"type\": "
                        "\"reasoning_text\", \"text\": \"r\"}]")},
        {"{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"c\", \"type\": "
         "\"function\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}}]}",
         ONE("fc_Ri00", "\"type\": \"function_call\", \"arguments\": \"{\\\"x\\\": 1}\", "
                        "\"call_id\": \"c\", \"name\": \"f\"")},
        {"{\"role\": \"tool\", \"tool_call_id\": \"c\", \"content\": \"5\"}",
         ONE("fco_Ri00",
             "\"type\": \"function_call_output\", \"call_id\": \"c\", \"output\": \"5\"")},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[600];
        (void)snprintf(text, sizeof text, "[%s, " ANSWER "]", rows[i].message);
        json_t *m = json_of(text);
        expect(m, (mk_items_page){.limit = 20}, rows[i].want);
        json_decref(m);
    }
}

// The ids of a page, with spaces between, and "+" when there are more.
static const char *ids(const json_t *messages, mk_items_page page) {
    static char out[300];
    json_t *v = NULL, *item;
    size_t i, at = 0;
    must(mk_openai_items(messages, "resp_R", &page, &v, err));
    out[0] = 0;
    json_array_foreach(json_object_get(v, "data"), i, item) {
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%s", i ? " " : "",
                               json_string_value(json_object_get(item, "id")));
    }
    bool more = json_is_true(json_object_get(v, "has_more"));
    (void)snprintf(out + at, sizeof out - at, "%s", more ? " +" : "");
    json_decref(v);
    return out;
}

static json_t *conversation(void) {
    return json_of("[{\"role\": \"user\", \"content\": \"1\"}, {\"role\": \"assistant\", "
                   "\"content\": \"t\", \"reasoning_content\": \"r\", \"tool_calls\": [{\"id\": "
                   "\"c\", \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}]}, {\"role\": "
                   "\"tool\", \"tool_call_id\": \"c\", \"content\": \"5\"}, " ANSWER "]");
}

static void test_pages(void **state) {
    (void)state;
    json_t *m = conversation();
#define PAGE(...) ids(m, (mk_items_page){__VA_ARGS__})
    assert_string_equal(PAGE(.limit = 20, .ascending = true),
                        "msg_Ri00 rs_Ri01 msg_Ri02 fc_Ri03 fco_Ri04");
    assert_string_equal(PAGE(.limit = 5), "fco_Ri04 fc_Ri03 msg_Ri02 rs_Ri01 msg_Ri00");
    assert_string_equal(PAGE(.limit = 2), "fco_Ri04 fc_Ri03 +");
    assert_string_equal(PAGE(.limit = 2, .after = "fc_Ri03"), "msg_Ri02 rs_Ri01 +");
    assert_string_equal(PAGE(.limit = 2, .after = "rs_Ri01"), "msg_Ri00");
    assert_string_equal(PAGE(.limit = 2, .after = "msg_Ri00"), "");
    assert_string_equal(PAGE(.limit = 4, .ascending = true), "msg_Ri00 rs_Ri01 msg_Ri02 fc_Ri03 +");
    assert_string_equal(PAGE(.limit = 4, .ascending = true, .after = "msg_Ri00"),
                        "rs_Ri01 msg_Ri02 fc_Ri03 fco_Ri04");
    assert_string_equal(PAGE(.limit = 4, .ascending = true, .after = "fco_Ri04"), "");
    json_t *v = NULL;
    mk_items_page page = {.limit = 1, .after = "msg_Ri01"};
    must_fail(mk_openai_items(m, "resp_R", &page, &v, err), MK_EUSAGE, "msg_Ri01");
    assert_null(v);
    json_decref(m);
    // nothing was asked
    m = json_of("[" ANSWER "]");
    expect(m, (mk_items_page){.limit = 20},
           "{\"object\": \"list\", \"data\": [], \"first_id\": null, \"last_id\": null, "
           "\"has_more\": false}");
    json_decref(m);
}

// jansson's memory, of which one piece cannot be had.
static int64_t fail_in;

static void *scarce(size_t n) {
    return fail_in > 0 && --fail_in == 0 ? NULL : malloc(n);
}

// Every allocation fails once: the list is whole, or there is none.
static void test_without_memory(void **state) {
    (void)state;
    json_t *m = conversation(), *want = NULL;
    mk_items_page page = {.limit = 20};
    must(mk_openai_items(m, "resp_R", &page, &want, err));
    json_set_alloc_funcs(scarce, free);
    int64_t k = 1;
    for (bool more = true; more; k++) {
        mk_err err = {0};
        json_t *got = NULL;
        fail_in = k;
        mk_status st = mk_openai_items(m, "resp_R", &page, &got, &err);
        more = fail_in == 0;
        fail_in = 0;
        assert_true(st == MK_OK ? json_equal(got, want) : st == MK_ENOMEM && !got);
        json_decref(got);
    }
    assert_true(k > 50);
    json_decref(want);
    json_decref(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
