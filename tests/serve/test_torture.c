// Every allocation fails once: those of SQLite and jansson as well, which get theirs from
// base/alloc.h here.  What then comes back is the truth or an error, never half of something, and
// nobody's reasoning becomes another's.
#include "serve/scratch.h"

#include <sqlite3.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/kept.h"
#include "serve/keys.h"
#include "serve/ledger.h"
#include "serve/memory.h"
#include "serve/openai_responses.h"
#include "torture.h"

// --- memory for libraries ------------------------------------------------------------------------

typedef union {
    size_t n;
    max_align_t align;
} head;

static void *lib_alloc(size_t n) {
    head *h = n < (size_t)1 << 40 ? mk_try_alloc(1, sizeof *h + n) : NULL;
    if (!h) {
        return NULL;
    }
    h->n = n;
    return h + 1;
}

static void lib_free(void *p) {
    mk_free(p ? (head *)p - 1 : NULL);
}

static void *sql_alloc(int n) {
    return lib_alloc((size_t)n);
}

static void *sql_realloc(void *p, int n) {
    head *h = mk_try_realloc(p ? (head *)p - 1 : NULL, 1, sizeof *h + (size_t)n);
    if (h) {
        h->n = (size_t)n;
    }
    return h ? h + 1 : NULL;
}

static int sql_size(void *p) {
    return p ? (int)((head *)p - 1)->n : 0;
}

static int sql_round(int n) {
    return (n + 7) & ~7;
}

static int sql_init(void *arg) {
    (void)arg;
    return SQLITE_OK;
}

static void sql_shutdown(void *arg) {
    (void)arg;
}

static int use_ours(void **state) {
    (void)state;
    static const sqlite3_mem_methods m = {sql_alloc, lib_free, sql_realloc,  sql_size,
                                          sql_round, sql_init, sql_shutdown, NULL};
    mk_log_set_level(MK_LOG_QUIET);
    json_set_alloc_funcs(lib_alloc, lib_free);
    // no memory of its own for small things, which could not fail
    return sqlite3_config(SQLITE_CONFIG_MALLOC, &m) == SQLITE_OK &&
                   sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0) == SQLITE_OK &&
                   sqlite3_initialize() == SQLITE_OK
               ? 0
               : -1;
}

// --- scenarios -----------------------------------------------------------------------------------
// What is given to them is made before, with memory that is there.

static json_t *json_of(const char *text) {
    json_t *v = NULL;
    must(mk_json_parse(text, strlen(text), "the test", &v, err));
    return v;
}

static void sum_up(void *arg, const mk_ledger_sum *sum) {
    assert_string_equal(sum->key, "k1");
    assert_string_equal(sum->model, "m");
    *(int64_t *)arg += sum->n_prompt;
}

// In a store that is there already: that opening may fail is tried once, below.
static mk_status with_store(mk_status (*fn)(mk_store *s, void *arg, mk_err *err), void *arg,
                            mk_err *err) {
    int64_t n = mk_alloc_fail_left();
    mk_alloc_fail_at(0);
    mk_store *s = open_store(NULL);
    mk_alloc_fail_at(n);
    mk_status st = fn(s, arg, err);
    mk_store_close(s);
    return st;
}

static mk_status ledger(mk_store *s, void *arg, mk_err *err) {
    (void)arg;
    mk_ledger_row r = {.time = 7200,
                       .key = "k1",
                       .model = "m",
                       .dialect = "d",
                       .usage = {.n_prompt = 3},
                       .status = 200,
                       .stop = "end"};
    int64_t n = 0;
    MK_TRY(mk_ledger_add(s, &r, err));
    MK_TRY(mk_ledger_add(s, &r, err));
    MK_TRY(mk_ledger_read(s, &(mk_ledger_filter){0}, sum_up, &n, err));
    assert_int_equal(n, 6);
    return MK_OK;
}

static mk_status keys(mk_store *s, void *arg, mk_err *err) {
    (void)arg;
    mk_key k = {.name = "team", .scopes = MK_SCOPE_INFER}, found;
    char text[MK_KEY_TEXT];
    mk_keys *all = NULL;
    mk_moment now = {.ns = 1, .unix_s = 1000};
    MK_TRY(mk_key_new(s, &k, 1000, text, err));
    MK_TRY(mk_keys_open(s, now, &all, err));
    assert_true(mk_keys_any(all) && mk_keys_find(all, text, &found));
    assert_string_equal(found.id, k.id);
    assert_string_equal(found.name, "team");
    mk_status st = mk_key_revoke(s, "team", 2000, &k, err);
    st = st == MK_OK ? mk_keys_refresh(all, now, err) : st;
    mk_keys_close(all);
    return st;
}

static const json_t *conversation;

static mk_status kept(mk_store *s, void *arg, mk_err *err) {
    mk_ask *ask = arg;
    mk_kept_row r = {"resp_1", "k1", 1000, "{\"id\":\"resp_1\"}", conversation};
    mk_buf b;
    MK_TRY(mk_kept_put(s, &r, 1 << 20, err));
    mk_buf_init(&b, 1000);
    mk_status st = mk_kept_get(s, "k1", "resp_1", &b, err);
    if (st == MK_OK) {
        assert_string_equal(b.data, r.response);
    }
    mk_buf_free(&b);
    MK_TRY(st);
    st = mk_kept_get(s, "k2", "resp_1", &b, err);
    assert_true(st == MK_ENOTFOUND || st == MK_ENOMEM);
    MK_TRY(st == MK_ENOMEM ? st : MK_OK);
    st = mk_kept_continue(s, "k1", ask, err);
    if (st == MK_ECORRUPT && mk_alloc_fail_left() == 0) {
        return MK_ENOMEM;  // a parser of jansson's without memory calls the text wrong
    }
    MK_TRY(st);
    assert_int_equal(json_array_size(ask->messages), 3);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(ask->messages, 1), "content")), "5");
    assert_int_equal(json_array_size(ask->input), 3);
    return mk_kept_delete(s, "k1", "resp_1", err);
}

typedef struct {
    json_t *before, *answer, *messages;
} said;

static mk_status memory(mk_store *s, void *arg, mk_err *err) {
    const said *w = arg;
    int n = -1;
    mk_status st = mk_memory_learn(s, 1, w->before, w->answer, 100, 1 << 20, err);
    // somebody else says the same, whatever became of it
    mk_status other = mk_memory_recall(s, 2, w->messages, 2, 5000, &n, err);
    assert_true(other != MK_OK || n == 0);
    assert_null(json_object_get(json_array_get(w->messages, 1), "reasoning_content"));
    MK_TRY(st);
    MK_TRY(other);
    MK_TRY(mk_memory_recall(s, 1, w->messages, 2, 5000, &n, err));
    assert_int_equal(n, 1);
    const json_t *got = json_object_get(json_array_get(w->messages, 1), "reasoning_content");
    assert_string_equal(json_string_value(got), "because");
    return MK_OK;
}

// --- each of them --------------------------------------------------------------------------------

static mk_status run_ledger(void *arg, mk_err *err) {
    return with_store(ledger, arg, err);
}

static mk_status run_keys(void *arg, mk_err *err) {
    return with_store(keys, arg, err);
}

static void parse(const char *text, mk_ask *ask) {
    json_t *body = json_of(text);
    mk_ask_init(ask);
    must(mk_openai_responses_parse(body, ask, err));
    json_decref(body);
}

static mk_status run_kept(void *arg, mk_err *err) {
    (void)arg;
    int64_t n = mk_alloc_fail_left();
    mk_ask ask;
    mk_alloc_fail_at(0);
    parse("{\"previous_response_id\": \"resp_1\", \"input\": \"and 4?\"}", &ask);
    mk_alloc_fail_at(n);
    mk_status st = with_store(kept, &ask, err);
    mk_ask_free(&ask);
    return st;
}

#define CALL                                                                                       \
    "\"tool_calls\": [{\"id\": \"c1\", \"type\": \"function\", \"function\": {\"name\": \"f\","    \
    " \"arguments\": \"{\\\"a\\\": 1}\"}}]"

static mk_status run_memory(void *arg, mk_err *err) {
    (void)arg;
    int64_t n = mk_alloc_fail_left();
    mk_alloc_fail_at(0);
    said w = {
        json_of("[{\"role\": \"user\", \"content\": \"why?\"}]"),
        json_of("{\"role\": \"assistant\", \"content\": \"so\", \"reasoning_content\": "
                "\"because\", " CALL "}"),
        json_of("[{\"role\": \"user\", \"content\": \"why?\"},"
                " {\"role\": \"assistant\", \"content\": \"so\", " CALL "}]"),
    };
    mk_alloc_fail_at(n);
    mk_status st = with_store(memory, &w, err);
    json_decref(w.before);
    json_decref(w.answer);
    json_decref(w.messages);
    return st;
}

static void torture(mk_status (*scenario)(void *arg, mk_err *err), const char *what) {
    int64_t n = mk_torture(scenario, NULL);
    printf("%s: %lld allocations failed one by one\n", what, (long long)n);
    assert_true(n > 50);
}

static void test_ledger(void **state) {
    (void)state;
    torture(run_ledger, "ledger");
}

static void test_keys(void **state) {
    (void)state;
    torture(run_keys, "keys");
}

static void test_kept(void **state) {
    (void)state;
    conversation = json_of("[{\"role\": \"user\", \"content\": \"2+3\"},"
                           " {\"role\": \"assistant\", \"content\": \"5\"}]");
    torture(run_kept, "kept");
    json_decref((json_t *)(uintptr_t)conversation);
}

static void test_memory(void **state) {
    (void)state;
    torture(run_memory, "memory");
}

static mk_status open_new(void *arg, mk_err *err) {
    (void)arg;
    mk_store *s = NULL;
    MK_TRY(mk_store_open(NULL, true, &s, err));
    mk_store_close(s);
    return MK_OK;
}

static void test_opening(void **state) {
    (void)state;
    torture(open_new, "opening");
}

// A database that is whole is not taken for a damaged one because memory is short.
static mk_status open_again(void *arg, mk_err *err) {
    const scratch *t = arg;
    mk_store *s = NULL;
    MK_TRY(mk_store_open(t->state, true, &s, err));
    assert_null(mk_store_set_aside(s));
    mk_store_close(s);
    return MK_OK;
}

static void test_file(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state);
    mk_ledger_row r = {.key = "", .model = "m", .dialect = "d", .stop = "end"};
    must(mk_ledger_add(s, &r, err));
    mk_store_close(s);
    int64_t n = mk_torture(open_again, &t);
    printf("file: %lld allocations failed one by one\n", (long long)n);
    assert_true(n > 100);
    s = open_store(t.state);
    assert_null(mk_store_set_aside(s));
    assert_int_equal(count_rows(s, "SELECT COUNT(*) FROM ledger"), 1);
    mk_store_close(s);
    scratch_remove(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger), cmocka_unit_test(test_keys),    cmocka_unit_test(test_kept),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_opening), cmocka_unit_test(test_file)};
    return cmocka_run_group_tests(tests, use_ours, NULL);
}
