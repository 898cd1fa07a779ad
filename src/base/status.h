// Status codes and error texts.
//
// Every function that can fail because of the outside world (a file, a flag, a request, a full
// device) returns an mk_status and fills a caller-owned mk_err: what is wrong, the expected and the
// actual value, and what to do.  Our own bugs are not errors: they abort through MK_ASSERT.
//
//     mk_err err = {0};
//     if (mk_thing_open(path, &thing, &err) != MK_OK) { fprintf(stderr, "minke: %s\n", err.msg); ... }
//
// An mk_err is plain data and may be copied.  `err` may be NULL everywhere: then only the code is
// reported.
#ifndef MK_BASE_STATUS_H
#define MK_BASE_STATUS_H

#include <stdint.h>

#include "base/compiler.h"

// code, name in messages, exit code of the program
#define MK_STATUS_MAP(X)                                                                           \
    X(MK_OK, "ok", 0)                                                                              \
    X(MK_EUSAGE, "usage", 1)             /* wrong flag, argument or request field */               \
    X(MK_ENOTFOUND, "not found", 2)      /* model or file is not there */                          \
    X(MK_ENOMEM, "does not fit", 3)      /* memory, of a size that came from outside */            \
    X(MK_ENET, "network", 4)             /* */                                                     \
    X(MK_ECORRUPT, "corrupt", 5)         /* a file breaks its own format */                        \
    X(MK_EUNSUPPORTED, "unsupported", 5) /* a valid file that minke cannot run */                  \
    X(MK_ECONTEXT, "context overflow", 6)                                                          \
    X(MK_EIO, "input/output", 5)   /* read, write, full disk */                                    \
    X(MK_ELIMIT, "limit", 1)       /* a bound on steps, size, depth or time was reached */         \
    X(MK_ETEMPLATE, "template", 1) /* a chat template is malformed or raised an error */           \
    X(MK_EINTR, "interrupted", 130)

typedef enum {
#define X(code, name, exit_code) code,
    MK_STATUS_MAP(X)
#undef X
} mk_status;

#define MK_ERR_MSG_MAX 768

typedef struct {
    mk_status code;
    char msg[MK_ERR_MSG_MAX];  // one line, no newline at the end
    const char *file;          // where it was raised; static storage
    int line;
} mk_err;

// Short name of a status ("corrupt"); static storage.
const char *mk_status_name(mk_status code);

// Exit code of the program for a status (documented in README).
int mk_status_exit_code(mk_status code);

// Fills *err (if not NULL) and returns `code`.  Control characters in the formatted text are
// replaced by '?', so that a name taken from a hostile file cannot drive the terminal.
mk_status mk_err_set(mk_err *err, mk_status code, const char *file, int line, const char *fmt, ...)
    MK_PRINTF(5, 6);

// Puts "what: " in front of the message already in *err; returns err->code.
mk_status mk_err_prefix(mk_err *err, const char *fmt, ...) MK_PRINTF(2, 3);

#define MK_FAIL(err, code, ...) mk_err_set((err), (code), __FILE__, __LINE__, __VA_ARGS__)

// Returns early with the status of a failed call.
#define MK_TRY(expr)                                                                               \
    do {                                                                                           \
        mk_status mk_try_st_ = (expr);                                                             \
        if (mk_try_st_ != MK_OK) {                                                                 \
            return mk_try_st_;                                                                     \
        }                                                                                          \
    } while (0)

// Our own bugs: always on.  Never used for input from outside.
#define MK_ASSERT(cond) ((cond) ? (void)0 : mk_assert_fail(#cond, __FILE__, __LINE__))
MK_NORETURN void mk_assert_fail(const char *cond, const char *file, int line);

#ifdef MK_DEBUG
#define MK_DCHECK(cond) MK_ASSERT(cond)
#else
#define MK_DCHECK(cond) ((void)sizeof(!(cond)))
#endif

#endif
