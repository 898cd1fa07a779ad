// Messages for people, on standard error: one line each, quiet unless asked.  The only module with
// global state.
#ifndef MK_BASE_LOG_H
#define MK_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

typedef enum { MK_LOG_QUIET, MK_LOG_WARN, MK_LOG_INFO, MK_LOG_DEBUG } mk_log_level;

void mk_log_set_level(mk_log_level level);
void mk_log_msg(mk_log_level level, const char *fmt, ...) MK_PRINTF(2, 3);

// Progress of long work: one line redrawn in place on a terminal, nothing in a pipe.  unit is "B"
// (printed as MB/GB) or a noun ("tok").  total 0 = unknown.
typedef struct {
    const char *phase, *unit;
    uint64_t total, start_ns, last_ns;
    bool on;
} mk_progress;
void mk_progress_start(mk_progress *p, const char *phase, const char *unit, uint64_t total);
void mk_progress_update(mk_progress *p, uint64_t done);
void mk_progress_end(mk_progress *p, uint64_t done);

uint64_t mk_now_ns(void);  // monotonic clock

#endif
