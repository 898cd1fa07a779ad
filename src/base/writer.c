// Atomic output (base/file.h).  States of a writer:
//
//   open  --mk_writer_write, the device refuses-->  failed     (the reason is kept; later writes repeat it)
//   open  --mk_writer_commit-->  flush, fsync, rename, fsync of the folder  -->  gone
//   any   --mk_writer_abort-->   temporary file unlinked  -->  gone
//
// A target that exists and is not a regular file (/dev/null, /dev/stdout, a FIFO) is written to
// directly: a rename would replace the device by a file.  A symbolic link is followed, so that the
// file behind it is replaced and not the link.
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

enum { WRITER_BUF_BYTES = 1 << 18, TMP_TRIES = 100 };

struct mk_writer {
    char *path;      // final name, links resolved
    char *tmp_path;  // NULL when writing to a device
    int fd;
    int failed_errno;  // 0 while all is well
    uint64_t offset;   // bytes accepted
    size_t n_buf;
    unsigned char buf[WRITER_BUF_BYTES];
};

static mk_status fail_write(const char *path, const char *what, int e, mk_err *err) {
    mk_status code = e == ENOENT ? MK_ENOTFOUND : MK_EIO;
    return MK_FAIL(err, code, "%s: %s: %s", path, what, strerror(e));
}

static void free_writer(mk_writer *w) {
    if (w->fd >= 0) {
        close(w->fd);
    }
    mk_free(w->path);
    mk_free(w->tmp_path);
    mk_free(w);
}

void mk_writer_abort(mk_writer *w) {
    if (!w) {
        return;
    }
    if (w->tmp_path) {
        unlink(w->tmp_path);
    }
    free_writer(w);
}

// PATH.tmp-PID, or PATH.tmp-PID-K when that name is taken (another writer, or the leftover of a
// killed process).
static int open_tmp(mk_writer *w, mode_t mode) {
    size_t size = strlen(w->path) + 64;
    w->tmp_path = mk_alloc(size);
    for (int k = 0; k < TMP_TRIES; k++) {
        int n = snprintf(w->tmp_path, size, "%s.tmp-%ld", w->path, (long)getpid());
        if (k > 0) {
            snprintf(w->tmp_path + n, size - (size_t)n, "-%d", k);
        }
        w->fd = open(w->tmp_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (w->fd >= 0 || errno != EEXIST) {
            break;
        }
    }
    int e = errno;
    if (w->fd < 0) {
        mk_free(w->tmp_path);
        w->tmp_path = NULL;
    }
    return w->fd >= 0 ? 0 : e;
}

static int open_target(mk_writer *w, mode_t mode) {
    struct stat st;
    if (stat(w->path, &st) != 0) {
        return errno == ENOENT ? open_tmp(w, mode) : errno;
    }
    if (S_ISDIR(st.st_mode)) {
        return EISDIR;
    }
    if (!S_ISREG(st.st_mode)) {
        w->fd = open(w->path, O_WRONLY | O_CLOEXEC);
        return w->fd >= 0 ? 0 : errno;
    }
    if (access(w->path, W_OK) != 0) {
        return errno;  // a file made read-only is not to be replaced
    }
    int e = open_tmp(w, 0600);
    if (e == 0 && fchmod(w->fd, st.st_mode & 07777) != 0) {
        e = errno;
    }
    return e;
}

static mk_status open_writer(const char *path, mode_t mode, mk_writer **out, mk_err *err) {
    *out = NULL;
    mk_writer *w = mk_zalloc(sizeof *w);
    w->fd = -1;
    char *real = realpath(path, NULL);
    w->path = mk_strdup(real ? real : path);
    free(real);
    int e = open_target(w, mode);
    if (e != 0) {
        mk_writer_abort(w);
        return fail_write(path, "cannot create it", e, err);
    }
    *out = w;
    return MK_OK;
}

mk_status mk_writer_open(const char *path, mk_writer **out, mk_err *err) {
    return open_writer(path, 0666, out, err);
}

mk_status mk_writer_open_private(const char *path, mk_writer **out, mk_err *err) {
    return open_writer(path, 0600, out, err);
}

static bool write_fully(mk_writer *w, const unsigned char *p, size_t n) {
    while (n > 0) {
        ssize_t k = write(w->fd, p, n);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            w->failed_errno = k < 0 ? errno : EIO;
            return false;
        }
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool flush_buf(mk_writer *w) {
    bool ok = write_fully(w, w->buf, w->n_buf);
    w->n_buf = 0;
    return ok;
}

mk_status mk_writer_write(mk_writer *w, const void *p, size_t n, mk_err *err) {
    if (w->failed_errno == 0 && n > sizeof w->buf - w->n_buf) {
        flush_buf(w);
    }
    if (w->failed_errno == 0 && n >= sizeof w->buf) {
        write_fully(w, p, n);
    } else if (w->failed_errno == 0 && n > 0) {
        memcpy(w->buf + w->n_buf, p, n);
        w->n_buf += n;
    }
    if (w->failed_errno != 0) {
        return fail_write(w->path, "cannot write", w->failed_errno, err);
    }
    w->offset += n;
    return MK_OK;
}

uint64_t mk_writer_offset(const mk_writer *w) {
    return w->offset;
}

// Makes the rename itself durable.  Some file systems cannot sync a folder; the file is complete
// even then.
static void sync_folder(const char *path) {
    char *dir = mk_strdup(path);
    char *slash = strrchr(dir, '/');
    if (slash) {
        slash[slash == dir] = '\0';
    }
    int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    mk_free(dir);
}

// 0 or an errno value.
static int finish(mk_writer *w) {
    if (w->failed_errno != 0 || !flush_buf(w)) {
        return w->failed_errno;
    }
    if (w->tmp_path && fsync(w->fd) != 0) {
        return errno;
    }
    int rc = close(w->fd);
    w->fd = -1;
    if (rc != 0) {
        return errno;
    }
    if (w->tmp_path && rename(w->tmp_path, w->path) != 0) {
        return errno;
    }
    if (w->tmp_path) {
        sync_folder(w->path);
    }
    return 0;
}

mk_status mk_writer_commit(mk_writer *w, mk_err *err) {
    int e = finish(w);
    if (e != 0) {
        mk_status st = fail_write(w->path, "cannot complete it, the old file is unchanged", e, err);
        mk_writer_abort(w);
        return st;
    }
    free_writer(w);
    return MK_OK;
}
