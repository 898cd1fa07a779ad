// The ledger, its sums, and what others would have charged.
#include "serve/scratch.h"

#include "base/json.h"
#include "serve/usage.h"

#define DAY ((int64_t)86400)
static const int64_t monday = 20409 * DAY;  // 2025-11-17

typedef struct {
    int64_t time;
    const char *key, *model;
    int64_t n_prompt, n_cached, n_output, n_reasoning;
    int status;
} use;

static void add(mk_store *s, use u) {
    mk_ledger_row r = {.time = u.time,
                       .key = u.key,
                       .model = u.model,
                       .dialect = "openai-chat",
                       .usage = {.n_prompt = u.n_prompt,
                                 .n_cached = u.n_cached,
                                 .n_generated = u.n_output,
                                 .n_reasoning = u.n_reasoning,
                                 .queue_ms = 500,
                                 .prompt_ms = 250,
                                 .generation_ms = 1000},
                       .status = u.status ? u.status : 200,
                       .stop = "end"};
    must(mk_ledger_add(s, &r, err));
}

static void add_some(mk_store *s) {
    add(s, (use){monday + 100, "k1", "a", 10, 4, 5, 2, 0});
    add(s, (use){monday + 200, "k1", "a", 20, 16, 5, 3, 499});
    add(s, (use){monday + 7200, "k1", "b", 1, 0, 1, 0, 0});
    add(s, (use){monday + DAY, "k2", "a", 7, 0, 70, 60, 500});
}

static int64_t int_at(const json_t *v, const char *name) {
    return json_integer_value(json_object_get(v, name));
}

static json_t *report(mk_store *s, const char *by, mk_usage_query q) {
    json_t *v = NULL;
    must(mk_usage_parse_by(by, &q, err));
    must(mk_usage_report(s, &q, &v, err));
    return v;
}

static void test_sums(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    add_some(s);
    json_t *v = report(s, "day,key,model", (mk_usage_query){0});
    json_t *lines = json_object_get(v, "lines"), *line = json_array_get(lines, 0);
    assert_int_equal(json_array_size(lines), 3);
    assert_string_equal(json_string_value(json_object_get(line, "day")), "2025-11-17");
    assert_string_equal(json_string_value(json_object_get(line, "key")), "k1");
    assert_string_equal(json_string_value(json_object_get(line, "model")), "a");
    const struct {
        const char *name;
        int64_t n, all;
    } sums[] = {{"requests", 2, 4},        {"failed", 1, 2},          {"prompt_tokens", 30, 38},
                {"cached_tokens", 20, 20}, {"output_tokens", 10, 81}, {"reasoning_tokens", 5, 65}};
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        assert_int_equal(int_at(line, sums[i].name), sums[i].n);
        assert_int_equal(int_at(json_object_get(v, "total"), sums[i].name), sums[i].all);
    }
    assert_float_equal(json_real_value(json_object_get(line, "queue_seconds")), 1, 1e-9);
    assert_float_equal(json_real_value(json_object_get(line, "prompt_seconds")), 0.5, 1e-9);
    assert_float_equal(json_real_value(json_object_get(line, "generation_seconds")), 2, 1e-9);
    assert_null(json_object_get(line, "would_cost"));
    json_decref(v);
    mk_store_close(s);
}

static void test_groups_and_filters(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    add_some(s);
    const struct {
        const char *by;
        mk_ledger_filter f;
        size_t n;
        int64_t requests;
    } rows[] = {
        {"day", {0}, 2, 4},
        {"key", {0}, 2, 4},
        {"model,key", {0}, 3, 4},
        {"", {0}, 1, 4},
        {"day", {.since = monday + DAY}, 1, 1},
        {"day", {.until = monday + DAY}, 1, 3},
        {"day", {.since = monday + 150, .until = monday + 7200}, 1, 1},
        {"day", {.key = "k2"}, 1, 1},
        {"key", {.model = "a"}, 2, 3},
        {"key", {.key = "none"}, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_t *v = report(s, rows[i].by, (mk_usage_query){.filter = rows[i].f});
        assert_int_equal(json_array_size(json_object_get(v, "lines")), rows[i].n);
        assert_int_equal(int_at(json_object_get(v, "total"), "requests"), rows[i].requests);
        json_decref(v);
    }
    mk_store_close(s);
}

static void test_what_is_asked_for(void **state) {
    (void)state;
    mk_usage_query q;
    int64_t t, now = monday + 5 * 3600;
    must_fail(mk_usage_parse_by("day,week", &q, err), MK_EUSAGE, "'day,week'");
    const struct {
        const char *text;
        int64_t since;
    } good[] = {{"all", 0},
                {"today", monday},
                {"1d", monday},
                {"7d", monday - 6 * DAY},
                {"2025-11-16", monday - DAY},
                {"2024-02-29", 19782 * DAY}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        must(mk_usage_parse_since(good[i].text, now, &t, err));
        assert_int_equal(t, good[i].since);
    }
    static const char *const bad[] = {"",  "d",          "0d",         "-1d", "1000000d",
                                      "7", "2025-02-29", "2025-13-01", "now", "2025-11-16x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        must_fail(mk_usage_parse_since(bad[i], now, &t, err), MK_EUSAGE, "expected a day");
    }
}

// --- prices --------------------------------------------------------------------------------------

static void test_costs(void **state) {
    (void)state;
    mk_prices p;
    must(mk_prices_read("data/prices.json", &p, err));
    assert_string_equal(p.currency, "CNY");
    assert_int_equal(p.n, 2);
    assert_string_equal(p.price[0].name, "deepseek-flash");
    mk_store *s = open_store(NULL);
    // Monday 1:00 UTC is 9:00 in Beijing, the first hour of the peak; Sunday has none
    add(s, (use){monday + 3600, "k", "m", 3000000, 1000000, 1000000, 500000, 0});
    add(s, (use){monday - DAY + 3600, "k", "m", 3000000, 1000000, 1000000, 500000, 0});
    json_t *v = report(s, "day", (mk_usage_query){.prices = &p});
    const double want[2][2] = {{0.02 + 2 + 4, 0.15 + 9 + 13.5}, {0.04 + 4 + 8, 0.3 + 18 + 27}};
    for (size_t i = 0; i < 2; i++) {
        const json_t *line = json_array_get(json_object_get(v, "lines"), i);
        const json_t *cost = json_object_get(line, "would_cost");
        for (size_t k = 0; k < 2; k++) {
            double x = json_real_value(json_object_get(cost, p.price[k].name));
            assert_float_equal(x, want[i][k], 1e-9);
        }
    }
    const json_t *cost = json_object_get(json_object_get(v, "total"), "would_cost");
    assert_float_equal(json_real_value(json_object_get(cost, "deepseek-flash")), 18.06, 1e-9);
    assert_string_equal(json_string_value(json_object_get(v, "currency")), "CNY");
    json_decref(v);
    mk_store_close(s);
}

static void test_peak_hours(void **state) {
    (void)state;
    mk_prices p;
    must(mk_prices_read("data/prices.json", &p, err));
    int64_t hour = monday / 3600;
    int n = 0;
    for (int64_t h = hour; h < hour + 7 * 24; h++) {
        n += mk_prices_peak(&p, h);
    }
    assert_int_equal(n, 5 * 7);
    static const int peak[] = {1, 2, 3, 6, 7, 8, 9}, quiet[] = {0, 4, 5, 10, 23};
    for (size_t i = 0; i < sizeof peak / sizeof peak[0]; i++) {
        assert_true(mk_prices_peak(&p, hour + peak[i]));
    }
    for (size_t i = 0; i < sizeof quiet / sizeof quiet[0]; i++) {
        assert_false(mk_prices_peak(&p, hour + quiet[i]));
    }
    assert_false(mk_prices_peak(&p, hour + 5 * 24 + 2));  // Saturday
}

static void test_bad_prices(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_prices p;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"[]", "expected an object"},
        {"{}", "/services"},
        {"{\"services\": [{\"name\": \"x\", \"hit\": 1, \"miss\": 2}]}", "/services/0/output"},
        {"{\"services\": [{\"name\": \"x\", \"hit\": [1], \"miss\": 2, \"output\": 3}]}",
         "/services/0/hit"},
        {"{\"services\": [{\"name\": \"x\", \"hit\": -1, \"miss\": 2, \"output\": 3}]}",
         "/services/0/hit"},
        {"{\"services\": [{\"hit\": 1}]}", "/services/0: expected a name"},
        {"{\"per_tokens\": 0, \"services\": []}", "/per_tokens"},
        {"{\"peak\": {\"weekdays\": [8]}}", "/peak/weekdays/0"},
        {"{\"peak\": {\"weekdays\": [1], \"hours\": [[9, 9]]}}", "/peak/hours/0"},
        {"{\"peak\": {\"weekdays\": [1], \"utc_offset_hours\": 99}}", "utc_offset_hours"},
        {"{", "prices.json"},
    };
    char path[128];
    snprintf(path, sizeof path, "%s/prices.json", t.dir);
    must_fail(mk_prices_read(path, &p, err), MK_ENOTFOUND, "prices.json");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(bad[i].text, f);
        fclose(f);
        mk_err err = {0};
        assert_int_not_equal(mk_prices_read(path, &p, &err), MK_OK);
        if (!strstr(err.msg, bad[i].says)) {
            fail_msg("'%s' is not in '%s'", bad[i].says, err.msg);
        }
    }
    scratch_remove(&t);
}

static void test_stop_names(void **state) {
    (void)state;
    assert_string_equal(mk_stop_reason_name(MK_STOP_LENGTH), "length");
    assert_string_equal(mk_stop_reason_name(MK_STOP_TOOLS), "tools");
    assert_string_equal(mk_stop_reason_name((mk_stop_reason)99), "error");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),       cmocka_unit_test(test_groups_and_filters),
        cmocka_unit_test(test_costs),      cmocka_unit_test(test_what_is_asked_for),
        cmocka_unit_test(test_peak_hours), cmocka_unit_test(test_bad_prices),
        cmocka_unit_test(test_stop_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
