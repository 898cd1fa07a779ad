// A folder of its own for a test, and errors that show what they say.
#ifndef MK_TESTS_SERVE_SCRATCH_H
#define MK_TESTS_SERVE_SCRATCH_H

#include "cmocka_all.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/status.h"
#include "serve/store.h"

typedef struct {
    char dir[64], state[80], db[96];
} scratch;

static inline scratch scratch_make(void) {
    scratch s;
    strcpy(s.dir, "/tmp/mk-serve-XXXXXX");
    assert_non_null(mkdtemp(s.dir));
    snprintf(s.state, sizeof s.state, "%s/a/state", s.dir);
    snprintf(s.db, sizeof s.db, "%s/state.db", s.state);
    mk_log_set_level(MK_LOG_QUIET);
    return s;
}

static inline int scratch_unlink(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static inline void scratch_remove(const scratch *s) {
    (void)nftw(s->dir, scratch_unlink, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void must_at(mk_status st, const mk_err *err, int line) {
    if (st != MK_OK) {
        fail_msg("line %d: %s: %s", line, mk_status_name(st), err->msg);
    }
}
#define must(expr)                                                                                 \
    do {                                                                                           \
        mk_err must_err_ = {0}, *err = &must_err_;                                                 \
        must_at((expr), err, __LINE__);                                                            \
    } while (0)

// The call fails so, and says this.
#define must_fail(expr, code, text)                                                                \
    do {                                                                                           \
        mk_err must_err_ = {0}, *err = &must_err_;                                                 \
        assert_int_equal((expr), (code));                                                          \
        if (!strstr(err->msg, (text))) {                                                           \
            fail_msg("line %d: '%s' is not in '%s'", __LINE__, (text), err->msg);                  \
        }                                                                                          \
    } while (0)

static inline mk_store *open_store(const char *dir) {
    mk_store *s = NULL;
    must(mk_store_open(dir, true, &s, err));
    return s;
}

static inline int64_t count_rows(mk_store *s, const char *sql) {
    mk_query q;
    mk_query_begin(&q, s, sql);
    int64_t n = mk_query_row(&q) ? mk_query_get_int(&q, 0) : -1;
    must(mk_query_end(&q, err));
    return n;
}

#endif
