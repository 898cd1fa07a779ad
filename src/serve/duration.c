// Source: time.ParseDuration of Go, which Ollama reads durations with.
#include "serve/duration.h"

#include <stddef.h>
#include <string.h>

// One "12.5m"; NULL if it is none.
static const char *one_part(const char *s, double *seconds) {
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"ns", 1e-9}, {"us", 1e-6}, {"\u00b5s", 1e-6}, {"ms", 1e-3},
                 {"s", 1},     {"m", 60},    {"h", 3600}};
    double v = 0, place = 0;
    const char *p = s;
    for (; (*p >= '0' && *p <= '9') || (*p == '.' && place == 0); p++) {
        if (*p == '.') {
            place = 1;
            continue;
        }
        v = v * 10 + (*p - '0');
        place *= 10;
    }
    v = place > 1 ? v / place : v;
    for (size_t i = 0; p > s && i < sizeof units / sizeof units[0]; i++) {
        size_t n = strlen(units[i].unit);
        bool longer = units[i].unit[0] == 'm' && n == 1 && p[1] == 's';
        if (strncmp(p, units[i].unit, n) == 0 && !longer) {
            *seconds += v * units[i].seconds;
            return p + n;
        }
    }
    if (p > s && *p == '\0') {  // a number alone: seconds
        *seconds += v;
        return p;
    }
    return NULL;
}

bool mk_duration_parse(const char *s, double *seconds) {
    bool negative = *s == '-';
    double sum = 0;
    s += *s == '-' || *s == '+';
    do {
        s = one_part(s, &sum);
    } while (s && *s);
    if (s) {
        *seconds = negative ? -sum : sum;
    }
    return s != NULL;
}
