#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/utf8.h"

static atomic_int current_level = MK_LOG_WARN;

void mk_log_set_level(mk_log_level level) {
    atomic_store(&current_level, (int)level);
}

static bool shown(mk_log_level level) {
    return level != MK_LOG_QUIET && (int)level <= atomic_load(&current_level);
}

void mk_log_msg(mk_log_level level, const char *fmt, ...) {
    if (!shown(level)) {
        return;
    }
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n = strlen(text);
    n -= mk_utf8_incomplete_tail(text, n);  // a cut may have split a character
    text[n] = '\0';
    mk_utf8_make_printable(text, n);
    fprintf(stderr, "minke: %s%s\n", level == MK_LOG_WARN ? "warning: " : "", text);
}

// --- progress ------------------------------------------------------------------------------------

#define NS_PER_S  1000000000u
#define REDRAW_NS (NS_PER_S / 10)

uint64_t mk_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

// "12.3 MB" or "45 tok"
static void format_amount(char *out, size_t size, uint64_t n, const char *unit) {
    if (strcmp(unit, "B") != 0) {
        snprintf(out, size, "%llu %s", (unsigned long long)n, unit);
    } else if (n >= 1000000000u) {
        snprintf(out, size, "%.2f GB", (double)n / 1e9);
    } else {
        snprintf(out, size, "%.1f MB", (double)n / 1e6);
    }
}

static void draw(const mk_progress *p, uint64_t done, uint64_t now) {
    char amount[64], rate[64], total[64];
    double seconds = (double)(now - p->start_ns) / 1e9;
    format_amount(amount, sizeof amount, done, p->unit);
    format_amount(rate, sizeof rate, seconds > 0 ? (uint64_t)((double)done / seconds) : 0, p->unit);
    if (p->total) {
        format_amount(total, sizeof total, p->total, p->unit);
        double percent = 100.0 * (double)done / (double)p->total;
        fprintf(stderr, "\r%s %3.0f%% (%s of %s, %s/s)\033[K", p->phase, percent, amount, total,
                rate);
    } else {
        fprintf(stderr, "\r%s %s (%s/s)\033[K", p->phase, amount, rate);
    }
    fflush(stderr);
}

void mk_progress_start(mk_progress *p, const char *phase, const char *unit, uint64_t total) {
    uint64_t now = mk_now_ns();
    bool on = atomic_load(&current_level) != MK_LOG_QUIET && isatty(STDERR_FILENO);
    *p = (mk_progress){.phase = phase, .unit = unit, .total = total, .start_ns = now, .on = on};
}

void mk_progress_update(mk_progress *p, uint64_t done) {
    uint64_t now = p->on ? mk_now_ns() : 0;
    if (p->on && now - p->last_ns >= REDRAW_NS) {
        p->last_ns = now;
        draw(p, done, now);
    }
}

void mk_progress_end(mk_progress *p, uint64_t done) {
    if (p->on) {
        draw(p, done, mk_now_ns());
        fputc('\n', stderr);
    }
}
