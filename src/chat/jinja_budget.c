// What ends a rendering early: errors, and the budgets of steps, time, depth and memory.
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "chat/jinja_int.h"

bool mk_j_raise(jctx *c, const char *fmt, ...) {
    char msg[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (c->status == MK_OK) {
        c->status = MK_FAIL(c->err, MK_ETEMPLATE, "chat template, line %d: %s", c->line, msg);
    }
    return false;
}

bool mk_j_limit(jctx *c, const char *what) {
    if (c->status == MK_OK) {
        c->status = MK_FAIL(c->err, MK_ELIMIT, "chat template, line %d: %s", c->line, what);
    }
    return false;
}

bool mk_j_nomem(jctx *c) {
    if (c->status == MK_OK) {
        c->status = MK_FAIL(c->err, MK_ENOMEM,
                            "chat template, line %d: out of memory with %zu bytes of values",
                            c->line, c->n_bytes);
    }
    return false;
}

// Steps are counted down; the clock is read every 4096 of them.
bool mk_j_steps(jctx *c, uint64_t n) {
    c->steps += n;
    if (c->steps > c->lim.max_steps) {
        char msg[96];
        snprintf(msg, sizeof msg, "more than %llu steps", (unsigned long long)c->lim.max_steps);
        return mk_j_limit(c, msg);
    }
    if (c->steps >= c->next_clock) {
        c->next_clock = c->steps + 4096;
        uint64_t now = mk_now_ns() / 1000000;
        if (c->deadline_ms == 0) {
            c->deadline_ms = now + c->lim.max_time_ms;
        } else if (now > c->deadline_ms) {
            char msg[96];
            snprintf(msg, sizeof msg, "took more than %llu ms",
                     (unsigned long long)c->lim.max_time_ms);
            return mk_j_limit(c, msg);
        }
    }
    return true;
}

bool mk_j_step(jctx *c) {
    return mk_j_steps(c, 1);
}

bool mk_j_enter(jctx *c) {
    if (++c->depth > MK_J_MAX_DEPTH) {
        return mk_j_limit(c, "calls and expressions are nested too deeply");
    }
    return mk_j_steps(c, 1);
}

// Memory costs steps, so that a bound on steps bounds memory and the time to fill it.
void *mk_j_alloc(jctx *c, size_t count, size_t size) {
    size_t bytes;
    if (!mk_mul_size(count, size, &bytes) || bytes > MK_J_MAX_BYTES - c->n_bytes) {
        mk_j_limit(c, "the values need more than 256 MiB");
        return NULL;
    }
    c->n_bytes += bytes;
    if (!mk_j_steps(c, bytes / 1024)) {
        return NULL;
    }
    void *p = mk_arena_try(c->arena, count == 0 ? 1 : count, size);
    if (p == NULL) {
        mk_j_nomem(c);
    }
    return p;
}
