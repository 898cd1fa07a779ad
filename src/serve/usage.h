// What was used: sums of the ledger by day, key and model, as one JSON object, for GET /usage and
// `minke usage`.
//
//   {"since": 1760000000, "until": 1770000000, "currency": "CNY",
//    "lines": [{"day": "2026-11-22", "key": "aB3dE6gH", "model": "thimble", "requests": 3, "failed": 0,
//               "prompt_tokens": 900, "cached_tokens": 600, "output_tokens": 300,
//               "reasoning_tokens": 200, "queue_seconds": 0.01, "prompt_seconds": 0.4,
//               "generation_seconds": 9.1, "would_cost": {"deepseek-flash": 0.0015}}],
//    "total": {the same without day, key, model}}
//
// Days are UTC's.  currency and would_cost are there if prices were given.
#ifndef MK_SERVE_USAGE_H
#define MK_SERVE_USAGE_H

#include <jansson.h>

#include "serve/prices.h"

typedef struct {
    mk_ledger_filter filter;
    bool by_day, by_key, by_model;  // what lines stand for; what is not, is summed up
    const mk_prices *prices;        // NULL
} mk_usage_query;

mk_status mk_usage_report(mk_store *s, const mk_usage_query *q, json_t **out,
                          mk_err *err) MK_WARN_UNUSED;
// "day", "key,model" ...  Errors: MK_EUSAGE.
mk_status mk_usage_parse_by(const char *text, mk_usage_query *q, mk_err *err) MK_WARN_UNUSED;
// The beginning of a time: "2026-11-22", "7d" (so many days ago, today included: from 0:00 UTC),
// "today", "all".  Errors: MK_EUSAGE.
mk_status mk_usage_parse_since(const char *text, int64_t now, int64_t *since,
                               mk_err *err) MK_WARN_UNUSED;

#endif
