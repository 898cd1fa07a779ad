// Rows are inserted one by one and summed up by hours: the finest time that anybody asks for, days
// and peak hours of prices are made of them.
#include "serve/ledger.h"

const char *mk_stop_reason_name(mk_stop_reason r) {
    static const char *const names[] = {[MK_STOP_END] = "end",
                                        [MK_STOP_TEXT] = "stop",
                                        [MK_STOP_LENGTH] = "length",
                                        [MK_STOP_TOOLS] = "tools",
                                        [MK_STOP_CANCELLED] = "cancelled"};
    return (unsigned)r < sizeof names / sizeof names[0] ? names[r] : "error";
}

mk_status mk_ledger_add(mk_store *s, const mk_ledger_row *r, mk_err *err) {
    const mk_usage *u = &r->usage;
    mk_query q;
    mk_query_begin(
        &q, s,
        "INSERT INTO ledger(time, key, model, dialect, prompt, cached, output, reasoning,"
        " queue_ms, prompt_ms, generation_ms, status, stop)"
        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)");
    mk_query_int(&q, r->time);
    mk_query_text(&q, r->key);
    mk_query_text(&q, r->model);
    mk_query_text(&q, r->dialect);
    mk_query_int(&q, u->n_prompt);
    mk_query_int(&q, u->n_cached);
    mk_query_int(&q, u->n_generated);
    mk_query_int(&q, u->n_reasoning);
    mk_query_real(&q, u->queue_ms);
    mk_query_real(&q, u->prompt_ms);
    mk_query_real(&q, u->generation_ms);
    mk_query_int(&q, r->status);
    mk_query_text(&q, r->stop);
    return mk_query_end(&q, err);
}

mk_status mk_ledger_read(mk_store *s, const mk_ledger_filter *f,
                         void (*fn)(void *arg, const mk_ledger_sum *sum), void *arg, mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s,
                   "SELECT time / 3600, key, model, COUNT(*), SUM(status >= 400), SUM(prompt),"
                   " SUM(cached), SUM(output), SUM(reasoning), SUM(queue_ms), SUM(prompt_ms),"
                   " SUM(generation_ms) FROM ledger WHERE time >= ?1 AND time < ?2"
                   " AND (?3 IS NULL OR key = ?3) AND (?4 IS NULL OR model = ?4)"
                   " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3");
    mk_query_int(&q, f->since);
    mk_query_int(&q, f->until > 0 ? f->until : INT64_MAX);
    mk_query_text(&q, f->key);
    mk_query_text(&q, f->model);
    while (mk_query_row(&q)) {
        mk_ledger_sum sum = {.hour = mk_query_get_int(&q, 0),
                             .key = mk_query_get_text(&q, 1),
                             .model = mk_query_get_text(&q, 2),
                             .n_request = mk_query_get_int(&q, 3),
                             .n_failed = mk_query_get_int(&q, 4),
                             .n_prompt = mk_query_get_int(&q, 5),
                             .n_cached = mk_query_get_int(&q, 6),
                             .n_output = mk_query_get_int(&q, 7),
                             .n_reasoning = mk_query_get_int(&q, 8),
                             .queue_s = mk_query_get_real(&q, 9) / 1e3,
                             .prompt_s = mk_query_get_real(&q, 10) / 1e3,
                             .generation_s = mk_query_get_real(&q, 11) / 1e3};
        fn(arg, &sum);
    }
    return mk_query_end(&q, err);
}
