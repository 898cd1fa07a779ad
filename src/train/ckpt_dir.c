// Run folders (ckpt.h): files ckpt-NNNNNNNN.mkt, found by their names alone.  There is no pointer
// to the newest that could be lost or be wrong.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "train/ckpt.h"

enum { MIN_DIGITS = 8, MAX_DIGITS = 18 };

char *mk_ckpt_name(const char *dir, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "ckpt-%0*lld.mkt", MIN_DIGITS, (long long)step);
    return mk_path_join(dir, name);
}

// The step in a name, -1 if it is none of ours.  *rest: what stands behind ".mkt".
static int64_t step_of(const char *name, const char **rest) {
    if (strncmp(name, "ckpt-", 5) != 0) {
        return -1;
    }
    const char *digits = name + 5;
    size_t n = strspn(digits, "0123456789");
    bool ours = n >= MIN_DIGITS && n <= MAX_DIGITS && (n == MIN_DIGITS || digits[0] != '0') &&
                strncmp(digits + n, ".mkt", 4) == 0;
    if (!ours) {
        return -1;
    }
    int64_t step = 0;
    for (size_t i = 0; i < n; i++) {
        step = step * 10 + (digits[i] - '0');
    }
    *rest = digits + n + 4;
    return step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static mk_status fail_errno(const char *path, const char *what, int e, mk_err *err) {
    return MK_FAIL(err, e == ENOENT ? MK_ENOTFOUND : MK_EIO, "%s: cannot %s: %s", path, what,
                   strerror(e));
}

static mk_status remove_file(const char *path, mk_err *err) {
    if (unlink(path) != 0 && errno != ENOENT) {
        return fail_errno(path, "delete it", errno, err);
    }
    return MK_OK;
}

// Steps of the files in dir, newest first; b holds int64_t.  With `clean`, temporary files go.
static mk_status list_steps(const char *dir, bool clean, mk_buf *b, mk_err *err) {
    DIR *d = opendir(dir);
    if (d == NULL) {
        return fail_errno(dir, "read the folder", errno, err);
    }
    mk_status st = MK_OK;
    const struct dirent *e;
    while (st == MK_OK && (errno = 0, e = readdir(d)) != NULL) {
        const char *rest = "";
        int64_t step = step_of(e->d_name, &rest);
        if (step >= 0 && *rest == '\0') {
            mk_buf_add(b, &step, sizeof step);
        } else if (step >= 0 && clean && strncmp(rest, ".tmp-", 5) == 0) {
            char *path = mk_path_join(dir, e->d_name);
            st = remove_file(path, err);
            mk_free(path);
        }
    }
    if (st == MK_OK && errno != 0) {
        st = fail_errno(dir, "read the folder", errno, err);
    }
    closedir(d);
    if (st == MK_OK && b->failed) {
        st = MK_FAIL(err, MK_ENOMEM, "%s: no memory for the list of checkpoints", dir);
    }
    if (st == MK_OK && b->len > 0) {
        qsort(b->data, b->len / sizeof(int64_t), sizeof(int64_t), newest_first);
    }
    return st;
}

// --- latest --------------------------------------------------------------------------------------
static mk_status open_step(const char *dir, int64_t step, mk_ckpt **out, mk_err *err) {
    char *path = mk_ckpt_name(dir, step);
    mk_status st = mk_ckpt_open(path, out, err);
    if (st == MK_OK && mk_ckpt_get_head(*out).step != step) {
        st = MK_FAIL(err, MK_ECORRUPT, "%s: it holds step %lld; was it renamed?", path,
                     (long long)mk_ckpt_get_head(*out).step);
        mk_ckpt_close(*out);
        *out = NULL;
    }
    mk_free(path);
    return st;
}

static mk_status open_first(const char *dir, const int64_t *step, size_t n, mk_ckpt **out,
                            mk_err *err) {
    for (size_t i = 0; i < n; i++) {
        mk_err why = {0};
        mk_status st = open_step(dir, step[i], out, &why);
        if (st == MK_OK || st == MK_ENOMEM) {
            if (st != MK_OK && err != NULL) {
                *err = why;
            }
            return st;
        }
        mk_log_msg(MK_LOG_WARN, "%s; looking for an older checkpoint", why.msg);
    }
    if (n > 0) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: none of the %zu checkpoints is whole", dir, n);
    }
    return MK_FAIL(err, MK_ENOTFOUND, "%s: no checkpoint there; expected files ckpt-NNNNNNNN.mkt",
                   dir);
}

mk_status mk_ckpt_latest(const char *dir, mk_ckpt **out, mk_err *err) {
    *out = NULL;
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_status st = list_steps(dir, false, &b, err);
    if (st == MK_OK) {
        st = open_first(dir, (const int64_t *)(const void *)b.data, b.len / sizeof(int64_t), out,
                        err);
    }
    mk_buf_free(&b);
    return st;
}

// --- pruning -------------------------------------------------------------------------------------
typedef struct {
    int64_t step;
    double score;
    bool scored, keep;
} file;

// The best that is not kept as such yet; the first of equals is the newest.
static file *best_of(file *f, size_t n) {
    file *best = NULL;
    for (size_t i = 0; i < n; i++) {
        if (f[i].scored && (best == NULL || f[i].score < best->score)) {
            best = &f[i];
        }
    }
    return best;
}

static void choose(file *f, size_t n, int64_t n_last, int64_t n_best) {
    for (size_t i = 0; i < n && (int64_t)i < n_last; i++) {
        f[i].keep = true;
    }
    for (int64_t k = 0; k < n_best; k++) {
        file *best = best_of(f, n);
        if (best == NULL) {
            return;
        }
        best->keep = true;
        best->scored = false;
    }
}

// Steps and scores of all files; mk_free.
static mk_status read_heads(const char *dir, const int64_t *step, size_t n, file **out,
                            mk_err *err) {
    file *f = mk_try_alloc(n > 0 ? n : 1, sizeof *f);
    if (f == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for the list of checkpoints", dir);
    }
    for (size_t i = 0; i < n; i++) {
        mk_ckpt_head head = {.step = 0};
        char *path = mk_ckpt_name(dir, step[i]);
        f[i].step = step[i];
        f[i].scored = mk_ckpt_peek(path, &head, NULL) == MK_OK && head.score == head.score;
        f[i].score = head.score;
        mk_free(path);
    }
    *out = f;
    return MK_OK;
}

static mk_status open_best(const char *dir, const int64_t *step, size_t n, mk_ckpt **out,
                           mk_err *err) {
    file *f = NULL;
    MK_TRY(read_heads(dir, step, n, &f, err));
    const file *best = best_of(f, n);
    mk_status st = best != NULL ? open_step(dir, best->step, out, err)
                                : MK_FAIL(err, MK_ENOTFOUND,
                                          "%s: no checkpoint with an evaluation there", dir);
    mk_free(f);
    return st;
}

mk_status mk_ckpt_best(const char *dir, mk_ckpt **out, mk_err *err) {
    *out = NULL;
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_status st = list_steps(dir, false, &b, err);
    if (st == MK_OK) {
        st = open_best(dir, (const int64_t *)(const void *)b.data, b.len / sizeof(int64_t), out,
                       err);
    }
    mk_buf_free(&b);
    return st;
}

static mk_status prune_files(const char *dir, const int64_t *step, size_t n, int64_t n_last,
                             int64_t n_best, mk_err *err) {
    file *f = NULL;
    MK_TRY(read_heads(dir, step, n, &f, err));
    choose(f, n, n_last, n_best);
    mk_status st = MK_OK;
    for (size_t i = 0; i < n && st == MK_OK; i++) {
        char *path = mk_ckpt_name(dir, step[i]);
        st = f[i].keep ? MK_OK : remove_file(path, err);
        mk_free(path);
    }
    mk_free(f);
    return st;
}

mk_status mk_ckpt_prune(const char *dir, int64_t n_last, int64_t n_best, mk_err *err) {
    MK_ASSERT(n_last >= 1 && n_best >= 0);
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_status st = list_steps(dir, true, &b, err);
    if (st == MK_OK) {
        st = prune_files(dir, (const int64_t *)(const void *)b.data, b.len / sizeof(int64_t),
                         n_last, n_best, err);
    }
    mk_buf_free(&b);
    return st;
}
