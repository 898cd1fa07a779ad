#include "serve/prices.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

enum { FILE_MAX = 1 << 20 };

// --- reading -------------------------------------------------------------------------------------

static mk_status read_weekdays(mk_prices *p, const json_t *list, mk_err *err) {
    size_t i;
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) {
        json_int_t day = json_is_integer(v) ? json_integer_value(v) : 0;
        if (day < 1 || day > 7) {
            return MK_FAIL(err, MK_EUSAGE, "/peak/weekdays/%zu: expected 1 (Monday) to 7", i);
        }
        p->weekdays |= 1u << (unsigned)day;
    }
    return p->weekdays ? MK_OK
                       : MK_FAIL(err, MK_EUSAGE, "/peak/weekdays: expected an array of days");
}

static mk_status read_hours(mk_prices *p, const json_t *list, mk_err *err) {
    size_t i;
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) {
        json_int_t from = json_integer_value(json_array_get(v, 0));
        json_int_t to = json_integer_value(json_array_get(v, 1));
        if (json_array_size(v) != 2 || from < 0 || to > 24 || from >= to ||
            i >= MK_PRICES_WINDOWS) {
            return MK_FAIL(err, MK_EUSAGE,
                           "/peak/hours/%zu: expected [FROM, TO] in whole hours from 0 to 24, at "
                           "most %d of them",
                           i, MK_PRICES_WINDOWS);
        }
        p->window[i][0] = (int)from;
        p->window[i][1] = (int)to;
        p->n_window = (int)i + 1;
    }
    return MK_OK;
}

static mk_status read_peak(mk_prices *p, const json_t *peak, mk_err *err) {
    int64_t offset = 0;
    if (!peak) {
        return MK_OK;
    }
    MK_TRY(mk_json_get_i64(peak, "utc_offset_hours", -12, 14, &offset, err));
    p->utc_offset_hours = (int)offset;
    MK_TRY(read_weekdays(p, json_object_get(peak, "weekdays"), err));
    return read_hours(p, json_object_get(peak, "hours"), err);
}

// A number, or [off-peak, peak].
static mk_status read_pair(const json_t *service, size_t i, const char *key, double out[2],
                           mk_err *err) {
    const json_t *v = json_object_get(service, key);
    const json_t *a = json_is_array(v) ? json_array_get(v, 0) : v;
    const json_t *b = json_is_array(v) ? json_array_get(v, 1) : v;
    out[0] = json_number_value(a);
    out[1] = json_number_value(b);
    bool good = json_is_number(a) && json_is_number(b) && out[0] >= 0 && out[1] >= 0 &&
                (!json_is_array(v) || json_array_size(v) == 2);
    return good ? MK_OK
                : MK_FAIL(err, MK_EUSAGE,
                          "/services/%zu/%s: expected a price or [OFF-PEAK, PEAK], got %s", i, key,
                          mk_json_type_name(v));
}

static mk_status read_service(mk_prices *p, const json_t *v, size_t i, mk_err *err) {
    const char *name = json_string_value(json_object_get(v, "name"));
    if (i >= MK_PRICES_MAX || !name || !name[0]) {
        return MK_FAIL(err, MK_EUSAGE, "/services/%zu: expected a name, and at most %d services", i,
                       MK_PRICES_MAX);
    }
    mk_price *to = &p->price[i];
    snprintf(to->name, sizeof to->name, "%s", name);
    MK_TRY(read_pair(v, i, "hit", to->hit, err));
    MK_TRY(read_pair(v, i, "miss", to->miss, err));
    MK_TRY(read_pair(v, i, "output", to->output, err));
    p->n = (int)i + 1;
    return MK_OK;
}

static mk_status read_all(mk_prices *p, const json_t *o, mk_err *err) {
    const char *currency = "";
    MK_TRY(mk_json_get_str(o, "currency", &currency, err));
    MK_TRY(mk_json_get_f64(o, "per_tokens", &p->per_tokens, err));
    snprintf(p->currency, sizeof p->currency, "%s", currency);
    if (!(p->per_tokens >= 1)) {
        return MK_FAIL(err, MK_EUSAGE, "/per_tokens: expected a number from 1");
    }
    MK_TRY(read_peak(p, json_object_get(o, "peak"), err));
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(o, "services"), i, v) {
        MK_TRY(read_service(p, v, i, err));
    }
    return p->n > 0 ? MK_OK : MK_FAIL(err, MK_EUSAGE, "/services: expected an array of services");
}

mk_status mk_prices_read(const char *path, mk_prices *p, mk_err *err) {
    json_t *o = NULL;
    *p = (mk_prices){.per_tokens = 1e6};
    MK_TRY(mk_json_file(path, FILE_MAX, &o, err));
    mk_status st = json_is_object(o) ? read_all(p, o, err)
                                     : MK_FAIL(err, MK_EUSAGE, "expected an object, got %s",
                                               mk_json_type_name(o));
    json_decref(o);
    return st == MK_OK ? MK_OK : mk_err_prefix(err, "%s", path);
}

// --- costs ---------------------------------------------------------------------------------------

bool mk_prices_peak(const mk_prices *p, int64_t hour) {
    int64_t local = hour + p->utc_offset_hours;
    int64_t day = local / 24 - (local % 24 < 0);
    int of_day = (int)(local - 24 * day);
    int weekday = (int)(((day + 3) % 7 + 7) % 7) + 1;  // 1970 began on a Thursday
    if (!(p->weekdays >> (unsigned)weekday & 1u)) {
        return false;
    }
    for (int i = 0; i < p->n_window; i++) {
        if (of_day >= p->window[i][0] && of_day < p->window[i][1]) {
            return true;
        }
    }
    return false;
}

double mk_prices_cost(const mk_prices *p, int i, const mk_ledger_sum *sum) {
    const mk_price *x = &p->price[i];
    int at = mk_prices_peak(p, sum->hour);
    double miss = (double)(sum->n_prompt - sum->n_cached);
    return ((double)sum->n_cached * x->hit[at] + miss * x->miss[at] +
            (double)sum->n_output * x->output[at]) /
           p->per_tokens;
}
