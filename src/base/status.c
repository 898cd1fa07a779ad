#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static const struct {
    const char *name;
    int exit_code;
} status_table[] = {
#define X(code, name, exit_code) [code] = {name, exit_code},
    MK_STATUS_MAP(X)
#undef X
};

#define N_STATUS (sizeof status_table / sizeof status_table[0])

const char *mk_status_name(mk_status code) {
    return (size_t)code < N_STATUS ? status_table[code].name : "unknown status";
}

int mk_status_exit_code(mk_status code) {
    return (size_t)code < N_STATUS ? status_table[code].exit_code : 1;
}

// Copies text into err->msg: cut at a character boundary, no control characters.  text may not
// alias err->msg.
static void set_msg(mk_err *err, const char *text) {
    size_t n = strlen(text);
    if (n >= sizeof err->msg) {
        n = sizeof err->msg - 1;
        n -= mk_utf8_incomplete_tail(text, n);
    }
    memcpy(err->msg, text, n);
    err->msg[n] = '\0';
    mk_utf8_make_printable(err->msg, n);
}

mk_status mk_err_set(mk_err *err, mk_status code, const char *file, int line, const char *fmt,
                     ...) {
    if (!err) {
        return code;
    }
    // Formatted beside err->msg, because the arguments may point into it.
    char text[MK_ERR_MSG_MAX + 8];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    set_msg(err, text);
    err->code = code;
    err->file = file;
    err->line = line;
    return code;
}

mk_status mk_err_prefix(mk_err *err, const char *fmt, ...) {
    if (!err) {
        return MK_OK;
    }
    char text[2 * MK_ERR_MSG_MAX + 8];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, MK_ERR_MSG_MAX, fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n < MK_ERR_MSG_MAX ? (size_t)n : MK_ERR_MSG_MAX - 1;
    snprintf(text + at, sizeof text - at, ": %s", err->msg);
    set_msg(err, text);
    return err->code;
}

void mk_assert_fail(const char *cond, const char *file, int line) {
    fprintf(stderr, "minke: bug: assertion '%s' failed at %s:%d\n", cond, file, line);
    abort();
}
