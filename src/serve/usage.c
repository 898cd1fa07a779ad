#include "serve/usage.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/opt.h"

enum { DAY_S = 86400, MAX_DAYS = 100000 };

typedef struct {
    const mk_usage_query *q;
    json_t *lines, *index;  // index: key of a line -> the line, borrowed from lines
    json_t *total;
} report;

// --- sums ----------------------------------------------------------------------------------------

static void add_int(json_t *line, const char *name, int64_t v) {
    int64_t old = json_integer_value(json_object_get(line, name));
    (void)json_object_set_new(line, name, json_integer(old + v));
}

static void add_real(json_t *line, const char *name, double v) {
    double old = json_real_value(json_object_get(line, name));
    (void)json_object_set_new(line, name, json_real(old + v));
}

static void add_sum(const mk_prices *p, json_t *line, const mk_ledger_sum *sum) {
    add_int(line, "requests", sum->n_request);
    add_int(line, "failed", sum->n_failed);
    add_int(line, "prompt_tokens", sum->n_prompt);
    add_int(line, "cached_tokens", sum->n_cached);
    add_int(line, "output_tokens", sum->n_output);
    add_int(line, "reasoning_tokens", sum->n_reasoning);
    add_real(line, "queue_seconds", sum->queue_s);
    add_real(line, "prompt_seconds", sum->prompt_s);
    add_real(line, "generation_seconds", sum->generation_s);
    json_t *costs = json_object_get(line, "would_cost");
    for (int i = 0; p && i < p->n; i++) {
        if (!costs) {
            costs = json_object();
            (void)json_object_set_new(line, "would_cost", costs);
        }
        add_real(costs, p->price[i].name, mk_prices_cost(p, i, sum));
    }
}

static void day_text(int64_t seconds, char out[16]) {
    struct tm tm;
    time_t t = (time_t)seconds;
    if (!gmtime_r(&t, &tm) || strftime(out, 16, "%Y-%m-%d", &tm) == 0) {
        snprintf(out, 16, "?");
    }
}

static json_t *line_of(report *r, const mk_ledger_sum *sum) {
    char day[16] = "";
    day_text(sum->hour * 3600, day);
    const mk_usage_query *q = r->q;
    json_t *name = json_sprintf("%s\n%s\n%s", q->by_day ? day : "", q->by_key ? sum->key : "",
                                q->by_model ? sum->model : "");
    const char *id = json_string_value(name) ? json_string_value(name) : "";
    json_t *line = json_object_get(r->index, id);
    if (!line) {
        line = json_object();
        const char *const given[] = {day, sum->key, sum->model};
        static const char *const names[] = {"day", "key", "model"};
        const bool wanted[] = {q->by_day, q->by_key, q->by_model};
        for (size_t i = 0; i < 3; i++) {
            if (wanted[i]) {
                (void)json_object_set_new(line, names[i], mk_json_text(given[i], strlen(given[i])));
            }
        }
        (void)json_array_append_new(r->lines, line);
        (void)json_object_set(r->index, id, line);
    }
    json_decref(name);
    return line;
}

static void on_sum(void *arg, const mk_ledger_sum *sum) {
    report *r = arg;
    add_sum(r->q->prices, line_of(r, sum), sum);
    add_sum(r->q->prices, r->total, sum);
}

mk_status mk_usage_report(mk_store *s, const mk_usage_query *q, json_t **out, mk_err *err) {
    report r = {.q = q, .lines = json_array(), .index = json_object(), .total = json_object()};
    static const mk_ledger_sum nothing = {.key = "", .model = ""};
    add_sum(q->prices, r.total, &nothing);
    mk_status st = mk_ledger_read(s, &q->filter, on_sum, &r, err);
    json_decref(r.index);
    *out = json_pack("{s:I, s:I, s:o, s:o}", "since", (json_int_t)q->filter.since, "until",
                     (json_int_t)q->filter.until, "lines", r.lines, "total", r.total);
    if (q->prices) {
        (void)json_object_set_new(*out, "currency",
                                  mk_json_text(q->prices->currency, strlen(q->prices->currency)));
    }
    if (st != MK_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

// --- what is asked for ---------------------------------------------------------------------------

mk_status mk_usage_parse_by(const char *text, mk_usage_query *q, mk_err *err) {
    static const char *const names[] = {"day", "key", "model"};
    bool *const to[] = {&q->by_day, &q->by_key, &q->by_model};
    q->by_day = q->by_key = q->by_model = false;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < 3 && !(strlen(names[i]) == n && strncmp(p, names[i], n) == 0)) {
            i++;
        }
        if (i == 3) {
            return MK_FAIL(err, MK_EUSAGE,
                           "expected day, key or model, or several with commas, "
                           "got '%.40s'",
                           text);
        }
        *to[i] = true;
        p += n + (p[n] == ',');
    }
    return MK_OK;
}

static bool parse_date(const char *text, int64_t *since) {
    struct tm tm = {0}, back;
    int n = 0;
    if (sscanf(text, "%4d-%2d-%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &n) != 3 || text[n]) {
        return false;
    }
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    struct tm asked = tm;
    time_t t = timegm(&tm);
    *since = (int64_t)t;
    // 2026-02-30 is not a day, although timegm has one for it
    return gmtime_r(&t, &back) && back.tm_mday == asked.tm_mday && back.tm_mon == asked.tm_mon;
}

mk_status mk_usage_parse_since(const char *text, int64_t now, int64_t *since, mk_err *err) {
    char number[16];
    size_t n = strlen(text);
    int64_t days = strcmp(text, "today") == 0 ? 1 : 0, today = now - now % DAY_S;
    if (strcmp(text, "all") == 0) {
        *since = 0;
        return MK_OK;
    }
    if (n > 1 && n < sizeof number && text[n - 1] == 'd') {
        snprintf(number, sizeof number, "%.*s", (int)n - 1, text);
        days = mk_parse_i64(number, &days) && days >= 1 && days <= MAX_DAYS ? days : 0;
    }
    if (days > 0) {
        *since = today - (days - 1) * DAY_S;
        return MK_OK;
    }
    return parse_date(text, since)
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE,
                         "expected a day (2026-11-22), a number of days (7d), today or all, got "
                         "'%.40s'",
                         text);
}
