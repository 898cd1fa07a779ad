#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"

// --- maps ----------------------------------------------------------------------------------------

static pthread_once_t sigbus_once = PTHREAD_ONCE_INIT;

// Only async-signal-safe calls.  A SIGBUS that no memory access raised (kill -BUS) ends the process
// as well.
static void on_sigbus(int sig) {
    static const char text[] =
        "minke: a mapped file was cut short or could not be read while it was in use\n";
    (void)sig;
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)n;
    _exit(5);  // the exit code of MK_EIO
}

static void install_sigbus(void) {
    struct sigaction sa = {.sa_handler = on_sigbus};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}

static mk_status fail_errno(mk_err *err, const char *path, const char *what) {
    int e = errno;
    mk_status code = e == ENOENT || e == ENOTDIR ? MK_ENOTFOUND : e == EINTR ? MK_EINTR : MK_EIO;
    return MK_FAIL(err, code, "%s: %s: %s", path, what, strerror(e));
}

static mk_status map_fd(int fd, const char *path, mk_map *map, mk_err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return fail_errno(err, path, "cannot look at it");
    }
    if (!S_ISREG(st.st_mode)) {
        return MK_FAIL(err, MK_EIO, "%s: expected a regular file, it is %s", path,
                       S_ISDIR(st.st_mode) ? "a directory" : "a special file");
    }
    size_t n = (size_t)st.st_size;
    void *data = NULL;
    if (n > 0) {
        data = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            return fail_errno(err, path, "cannot map it");
        }
    }
    *map = (mk_map){.data = data,
                    .n_bytes = n,
                    .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
                    .path = mk_strdup(path)};
    return MK_OK;
}

mk_status mk_map_open(const char *path, mk_map *map, mk_err *err) {
    pthread_once(&sigbus_once, install_sigbus);
    *map = (mk_map){0};
    // O_NONBLOCK: opening a FIFO must not hang; it means nothing for the regular files we accept
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fail_errno(err, path, "cannot open it");
    }
    mk_status st = map_fd(fd, path, map, err);
    close(fd);
    return st;
}

void mk_map_close(mk_map *map) {
    if (map->data) {
        munmap((void *)(uintptr_t)map->data, map->n_bytes);
    }
    mk_free(map->path);
    *map = (mk_map){0};
}

void mk_map_huge(const mk_map *map) {
#ifdef MADV_HUGEPAGE
    if (map->data) {
        madvise((void *)(uintptr_t)map->data, map->n_bytes, MADV_HUGEPAGE);
    }
#else
    (void)map;
#endif
}

void mk_map_forget(const mk_map *map, size_t offset, size_t n_bytes) {
    if (!map->data || offset > map->n_bytes || n_bytes > map->n_bytes - offset) {
        return;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t first = (offset + page - 1) / page * page;
    size_t end = (offset + n_bytes) / page * page;
    if (first < end) {
        // Leaves our address space, stays in the page cache; a later access reads it again.
        madvise((void *)(uintptr_t)(map->data + first), end - first, MADV_DONTNEED);
    }
}

// --- bounded reads -------------------------------------------------------------------------------

// Reads to the end of f; `what` names the source in messages.  hint: expected size, may be wrong.
static mk_status read_all(FILE *f, const char *what, size_t hint, size_t max_bytes, mk_buf *b,
                          mk_err *err) {
    mk_buf_init(b, SIZE_MAX - 1);
    char chunk[16384];
    bool first = true;
    for (;;) {
        size_t room = max_bytes - b->len;
        size_t want =
            room < sizeof chunk ? room + 1 : sizeof chunk;  // one more byte than allowed tells
        size_t n = fread(chunk, 1, want, f);
        if (n > room) {
            return MK_FAIL(err, MK_ELIMIT, "%s: longer than the limit of %zu bytes", what,
                           max_bytes);
        }
        if (first && n == want && hint > n && hint <= max_bytes) {
            b->data =
                mk_try_alloc(hint + 1, 1);  // one allocation instead of doubling; b is still empty
            b->cap = b->data ? hint + 1 : 0;
        }
        first = false;
        mk_buf_add(b, chunk, n);
        if (b->failed) {
            return MK_FAIL(err, MK_ENOMEM, "%s: not enough memory to read it", what);
        }
        if (ferror(f)) {
            return fail_errno(err, what, "cannot read it");
        }
        if (n < want) {
            return MK_OK;
        }
    }
}

static mk_status read_named(FILE *f, const char *what, size_t hint, size_t max_bytes, char **data,
                            size_t *n_bytes, mk_err *err) {
    mk_buf b;
    mk_status st = read_all(f, what, hint, max_bytes, &b, err);
    size_t n = b.len;
    char *text = st == MK_OK ? mk_buf_detach(&b) : NULL;
    if (!text) {
        mk_buf_free(&b);
        return st != MK_OK ? st : MK_FAIL(err, MK_ENOMEM, "%s: not enough memory to read it", what);
    }
    *data = text;
    *n_bytes = n;
    return MK_OK;
}

mk_status mk_stream_read(FILE *f, size_t max_bytes, char **data, size_t *n_bytes, mk_err *err) {
    return read_named(f, "standard input", 0, max_bytes, data, n_bytes, err);
}

mk_status mk_file_read(const char *path, size_t max_bytes, char **data, size_t *n_bytes,
                       mk_err *err) {
    FILE *f = fopen(path, "rbe");
    if (!f) {
        return fail_errno(err, path, "cannot open it");
    }
    struct stat st;
    bool regular = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
    mk_status status =
        read_named(f, path, regular ? (size_t)st.st_size : 0, max_bytes, data, n_bytes, err);
    fclose(f);
    return status;
}

// --- paths ---------------------------------------------------------------------------------------

bool mk_path_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool mk_path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

mk_status mk_folder_make(const char *dir, mk_err *err) {
    if (mkdir(dir, 0777) == 0 || (errno == EEXIST && mk_path_is_dir(dir))) {
        return MK_OK;
    }
    return MK_FAIL(err, errno == ENOENT ? MK_ENOTFOUND : MK_EIO, "%s: cannot make this folder: %s",
                   dir, strerror(errno));
}

mk_status mk_folder_make_private(const char *dir, mk_err *err) {
    char *path = mk_path_join(dir, "");
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        (void)mkdir(path, 0700);
        *p = '/';
    }
    mk_free(path);
    return mk_path_is_dir(dir)
               ? MK_OK
               : MK_FAIL(err, MK_EIO, "%s: cannot make this folder: %s", dir, strerror(errno));
}

char *mk_path_join(const char *dir, const char *name) {
    size_t n_dir = strlen(dir), n_name = strlen(name);
    bool slash = n_dir > 0 && dir[n_dir - 1] != '/';
    char *p = mk_alloc(n_dir + n_name + 2);
    memcpy(p, dir, n_dir);
    if (slash) {
        p[n_dir++] = '/';
    }
    memcpy(p + n_dir, name, n_name + 1);
    return p;
}

const char *mk_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
