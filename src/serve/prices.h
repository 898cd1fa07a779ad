// What hosted services ask for tokens: three prices each (prompt found in the cache, prompt not
// found, output), twice where a service has peak hours.  Read from a JSON file (data/prices.json
// says what its fields mean); nothing is known by the program itself.
#ifndef MK_SERVE_PRICES_H
#define MK_SERVE_PRICES_H

#include "serve/ledger.h"

enum { MK_PRICES_MAX = 16, MK_PRICES_WINDOWS = 8 };

typedef struct {
    char name[64];
    double hit[2], miss[2], output[2];  // off-peak, peak; for per_tokens tokens
} mk_price;

typedef struct {
    char currency[8];
    double per_tokens;
    int utc_offset_hours;
    unsigned weekdays;  // bit 1: Monday .. bit 7: Sunday; 0: there is no peak
    int n_window;
    int window[MK_PRICES_WINDOWS][2];  // hours of the day: from, to
    int n;
    mk_price price[MK_PRICES_MAX];
} mk_prices;

// Errors: those of reading a file; MK_EUSAGE, with the field that is wrong.
mk_status mk_prices_read(const char *path, mk_prices *p, mk_err *err) MK_WARN_UNUSED;
// Is this hour (since 1970, UTC) one of the peak?
bool mk_prices_peak(const mk_prices *p, int64_t hour);
// What the i-th service would have charged.
double mk_prices_cost(const mk_prices *p, int i, const mk_ledger_sum *sum);

#endif
