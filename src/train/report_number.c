// Numbers as text: short, with a unit, the same on every machine.  No libm: printf's rounding is
// exact.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/report_int.h"

#define THIN_SPACE "\xE2\x80\xAF"  // does not break
#define MINUS      "\xE2\x88\x92"

// "3e-4", "1.25e-7", "1e20": at most three digits, none that say nothing.
static void print_exponent(double a, char *out, size_t n) {
    char text[16];
    (void)snprintf(text, sizeof text, "%.2e", a);
    char *e = strchr(text, 'e'), *end = e;
    while (end[-1] == '0') {
        end--;
    }
    end -= end[-1] == '.';
    *end = 0;
    (void)snprintf(out, n, "%se%d", text, (int)strtol(e + 1, NULL, 10));
}

// Digits with a comma between thousands; 0 <= v < 1e6, rounded.
static void print_thousands(double v, char *out, size_t n) {
    long i = (long)(v + 0.5);
    if (i < 1000) {
        (void)snprintf(out, n, "%ld", i);
    } else {
        (void)snprintf(out, n, "%ld,%03ld", i / 1000, i % 1000);
    }
}

typedef struct {
    double from, divisor;
    const char *name;
} prefix;
// 999,999.5 would be rounded to seven digits
static const prefix prefixes[] = {
    {999999.5e6, 1e12, "T"}, {999999.5e3, 1e9, "G"}, {999999.5, 1e6, "M"}};

static void print_plain(double a, char *out, size_t n) {
    if (a != 0 && (a < 1e-3 || a >= 1e15)) {
        print_exponent(a, out, n);
        return;
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (a >= prefixes[i].from) {
            (void)snprintf(out, n, "%.4g" THIN_SPACE "%s", a / prefixes[i].divisor,
                           prefixes[i].name);
            return;
        }
    }
    if (a >= 999.95) {
        print_thousands(a, out, n);
    } else {
        (void)snprintf(out, n, "%.4g", a);
    }
}

static void print_share(double p, char *out, size_t n) {
    if (p != 0 && (p < 1e-3 || p >= 1e6)) {
        print_exponent(p, out, n);
    } else {
        (void)snprintf(out, n, p < 10 ? "%.2g" : p < 999.5 ? "%.3g" : "%.0f", p);
    }
}

const char *mk_rep_number(double v, mk_rep_unit u, char out[MK_REP_NUMBER]) {
    char digits[40];
    const char *percent = "";
    if (u == MK_REP_SHARE) {
        print_share(100 * fabs(v), digits, sizeof digits);
        percent = THIN_SPACE "%";
    } else {
        print_plain(fabs(v), digits, sizeof digits);
    }
    (void)snprintf(out, MK_REP_NUMBER, "%s%s%s", v < 0 ? MINUS : "", digits, percent);
    return out;
}

const char *mk_rep_time(double seconds, char out[MK_REP_NUMBER]) {
    if (seconds < 99.5) {
        (void)snprintf(out, MK_REP_NUMBER, "%.*f" THIN_SPACE "s", seconds < 9.95, seconds);
        return out;
    }
    if (seconds > 1e12) {
        return mk_rep_number(seconds, MK_REP_PLAIN, out);
    }
    int64_t minutes = (int64_t)(seconds / 60 + 0.5);
    if (minutes < 60) {
        (void)snprintf(out, MK_REP_NUMBER, "%lld" THIN_SPACE "min", (long long)minutes);
    } else {
        (void)snprintf(out, MK_REP_NUMBER, "%lld" THIN_SPACE "h %02lld" THIN_SPACE "min",
                       (long long)(minutes / 60), (long long)(minutes % 60));
    }
    return out;
}

const char *mk_rep_tick(double v, double top, mk_rep_unit u, char out[MK_REP_NUMBER]) {
    static const prefix short_prefixes[] = {
        {1e12, 1e12, "T"}, {1e9, 1e9, "G"}, {1e6, 1e6, "M"}, {1e4, 1e3, "k"}, {0, 1, ""}};
    double a = fabs(v) * (u == MK_REP_SHARE ? 100 : 1);
    const char *minus = v < 0 ? MINUS : "", *percent = u == MK_REP_SHARE ? "%" : "";
    bool small = a < 0.9995e-3 || fabs(top) < 0.00995;  // all labels of an axis alike
    if (a != 0 && (small || a >= 1e15)) {
        char digits[40];
        print_exponent(a, digits, sizeof digits);
        (void)snprintf(out, MK_REP_NUMBER, "%s%s%s", minus, digits, percent);
        return out;
    }
    const prefix *p = short_prefixes;
    while (a < p->from) {
        p++;
    }
    (void)snprintf(out, MK_REP_NUMBER, "%s%.6g%s%s", minus, a / p->divisor, p->name, percent);
    return out;
}

double mk_rep_step(double range, int n) {
    static const double part[] = {1, 2, 2.5, 5, 10};
    double power = 1;
    if (!(range > 0)) {
        return 1;
    }
    while (power * n < range) {
        power *= 10;
    }
    while (power * n >= range) {
        power /= 10;
    }
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        if (power * part[i] * n >= range) {
            return power * part[i];
        }
    }
    return power * 10;
}
