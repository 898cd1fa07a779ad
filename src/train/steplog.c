// See steplog.h.
#include "train/steplog.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"

struct mk_steplog {
    char *path;
    FILE *file;
};

// A completion may be long.
#define LINE_MAX_BYTES ((size_t)64 << 20)

static bool is_done(const char *line, size_t n, int64_t step) {
    json_t *o = json_loadb(line, n, JSON_ALLOW_NUL, NULL);
    const json_t *s = json_object_get(o, "step");
    bool done = json_is_integer(s) && json_integer_value(s) <= step;
    json_decref(o);
    return done;
}

// Steps ascend, so what has to go stands at the end, and perhaps half a line behind it.
static size_t kept_bytes(const char *text, size_t n, int64_t step) {
    while (n > 0) {
        bool whole = text[n - 1] == '\n';
        size_t at = n - 1;
        while (at > 0 && text[at - 1] != '\n') {
            at--;
        }
        if (whole && is_done(text + at, n - 1 - at, step)) {
            return n;
        }
        n = at;
    }
    return 0;
}

static mk_status cut(const char *path, int64_t step, mk_err *err) {
    mk_map map;
    if (access(path, F_OK) != 0) {
        return MK_OK;
    }
    MK_TRY(mk_map_open(path, &map, err));
    size_t n = map.n_bytes, keep = map.data ? kept_bytes((const char *)map.data, n, step) : 0;
    mk_map_close(&map);
    if (keep < n && truncate(path, (off_t)keep) != 0) {
        return MK_FAIL(err, MK_EIO, "%s: cannot be cut to step %lld: %s", path, (long long)step,
                       strerror(errno));
    }
    return MK_OK;
}

mk_status mk_steplog_open(const char *path, int64_t step, mk_steplog **out, mk_err *err) {
    MK_TRY(cut(path, step, err));
    FILE *f = fopen(path, "a");
    if (!f) {
        return MK_FAIL(err, errno == ENOENT ? MK_ENOTFOUND : MK_EIO,
                       "%s: cannot be opened for writing: %s", path, strerror(errno));
    }
    mk_steplog *l = mk_zalloc(sizeof *l);
    l->path = mk_strdup(path);
    l->file = f;
    *out = l;
    return MK_OK;
}

mk_status mk_steplog_write(mk_steplog *l, const json_t *line, mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, LINE_MAX_BYTES);
    mk_json_add(&b, line);
    mk_buf_putc(&b, '\n');
    mk_status st = MK_OK;
    if (b.failed) {
        st = MK_FAIL(err, MK_ENOMEM, "%s: no memory for a line, or it is longer than %zu bytes",
                     l->path, LINE_MAX_BYTES);
    } else if (fwrite(b.data, 1, b.len, l->file) != b.len || fflush(l->file) != 0) {
        st = MK_FAIL(err, MK_EIO, "%s cannot be written: %s; the run can be resumed", l->path,
                     strerror(errno));
    }
    mk_buf_free(&b);
    return st;
}

mk_status mk_steplog_close(mk_steplog *l, mk_err *err) {
    mk_status st = MK_OK;
    if (l) {
        if (fclose(l->file) != 0) {
            st = MK_FAIL(err, MK_EIO, "%s cannot be written: %s", l->path, strerror(errno));
        }
        mk_free(l->path);
        mk_free(l);
    }
    return st;
}
