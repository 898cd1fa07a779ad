// The folder behind prefix_disk.h: names, sizes, times.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/prefix_disk_int.h"

enum { STALE_S = 60 };  // a temporary file that was not written to for so long is nobody's

// --- names ---------------------------------------------------------------------------------------

static char *path_of(const mk_prefix_disk *d, uint64_t tag, mk_u128 last) {
    char name[MK_PREFIX_NAME];
    snprintf(name, sizeof name, "%016llx-%016llx%016llx" MK_PREFIX_FILE_END,
             (unsigned long long)tag, (unsigned long long)last.hi, (unsigned long long)last.lo);
    return mk_path_join(d->dir, name);
}

char *mk_prefix_file_path(const mk_prefix_disk *d, mk_u128 last) {
    return path_of(d, d->tag, last);
}

static bool read_hex(const char *s, int n, uint64_t *out) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) {
        int digit = s[i] >= '0' && s[i] <= '9'   ? s[i] - '0'
                    : s[i] >= 'a' && s[i] <= 'f' ? s[i] - 'a' + 10
                                                 : -1;
        if (digit < 0) {
            return false;
        }
        v = v << 4 | (uint64_t)digit;
    }
    *out = v;
    return true;
}

typedef struct {
    uint64_t tag;
    mk_u128 key;
    bool temporary;
    long pid;  // of a temporary one
} name_parts;

// False: not a name of ours, and not our business.
static bool read_name(const char *s, name_parts *out) {
    static const char tmp[] = MK_PREFIX_FILE_END ".tmp-";
    const size_t n = MK_PREFIX_NAME - sizeof MK_PREFIX_FILE_END;  // of what precedes the ending
    if (strlen(s) < n || !read_hex(s, 16, &out->tag) || s[16] != '-' ||
        !read_hex(s + 17, 16, &out->key.hi) || !read_hex(s + 33, 16, &out->key.lo)) {
        return false;
    }
    out->temporary = strncmp(s + n, tmp, sizeof tmp - 1) == 0;
    out->pid = out->temporary ? strtol(s + n + sizeof tmp - 1, NULL, 10) : 0;
    return out->temporary || strcmp(s + n, MK_PREFIX_FILE_END) == 0;
}

// --- reading -------------------------------------------------------------------------------------

static mk_status read_part(const char *path, uint8_t *to, size_t n, size_t *n_file, mk_err *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    size_t done = 0;
    if (fd < 0) {
        return MK_FAIL(err, errno == ENOENT ? MK_ENOTFOUND : MK_EIO, "%s: cannot open it: %s", path,
                       strerror(errno));
    }
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    while (ok && done < n) {
        ssize_t k = read(fd, to + done, n - done);
        ok = k >= 0 || errno == EINTR;
        if (k == 0) {
            break;
        }
        done += k > 0 ? (size_t)k : 0;
    }
    close(fd);
    *n_file = ok ? (size_t)st.st_size : 0;
    // the file may have changed its size meanwhile; what counts is what was read
    return ok && done >= (n < *n_file ? n : *n_file)
               ? MK_OK
               : MK_FAIL(err, MK_EIO, "%s: cannot read it", path);
}

mk_status mk_prefix_file_read(const char *path, size_t n_bytes, uint8_t **out, mk_err *err) {
    size_t n_file = 0;
    uint8_t *bytes = mk_try_alloc(n_bytes, 1);
    if (!bytes) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for its %zu bytes", path, n_bytes);
    }
    mk_status st = read_part(path, bytes, n_bytes, &n_file, err);
    if (st == MK_OK && n_file != n_bytes) {
        st = MK_FAIL(err, MK_ECORRUPT, "%s: %zu bytes, expected %zu", path, n_file, n_bytes);
    }
    if (st != MK_OK) {
        mk_free(bytes);
        return st;
    }
    *out = bytes;
    return MK_OK;
}

// --- scanning ------------------------------------------------------------------------------------

static bool known(mk_prefix_disk *d, mk_u128 last) {
    pthread_mutex_lock(&d->lock);
    const mk_prefix_slot *s = mk_prefix_map_get(&d->map, last);
    bool yes = s && mk_u128_equal(mk_prefix_entry_name(s->p), last);
    pthread_mutex_unlock(&d->lock);
    return yes;
}

static void refuse(mk_prefix_disk *d, const char *path, const mk_err *why) {
    mk_log_msg(MK_LOG_WARN, "%s: %s; removed", path, why->msg);
    (void)unlink(path);
    pthread_mutex_lock(&d->lock);
    d->n_damaged++;
    pthread_mutex_unlock(&d->lock);
}

// A file of this kind by its name: known from its head, or removed.
static void learn(mk_prefix_disk *d, const char *path, mk_u128 last) {
    _Alignas(16) uint8_t head[MK_PREFIX_HEAD_MAX];
    size_t n_file = 0;
    mk_prefix_run run;
    mk_err err = {0};
    if (read_part(path, head, sizeof head, &n_file, &err) != MK_OK) {
        return;  // gone, or not for us to read
    }
    size_t n = n_file < sizeof head ? n_file : sizeof head;
    mk_status st = mk_prefix_file_head(&d->kind, head, n, n_file, &run, &err);
    if (st == MK_OK && !mk_u128_equal(run.keys[run.n - 1], last)) {
        st = MK_FAIL(&err, MK_ECORRUPT, "its name is that of another file");
    }
    if (st != MK_OK) {
        refuse(d, path, &err);
        return;
    }
    pthread_mutex_lock(&d->lock);
    mk_prefix_entry *e = mk_prefix_entry_add(d, &run, n_file);
    if (e) {
        e->written = true;
        d->n_block += e->n;
    }
    pthread_mutex_unlock(&d->lock);
}

static bool is_stale(const name_parts *p, const struct stat *st) {
    return (p->pid > 0 && kill((pid_t)p->pid, 0) != 0 && errno == ESRCH) ||
           st->st_mtim.tv_sec + STALE_S < time(NULL);
}

typedef struct {
    name_parts name;
    struct timespec time;
    uint64_t n_bytes;
} item;

// Calls `each` for every file of ours, of any kind; temporary ones that are nobody's are removed.
static mk_status each_file(mk_prefix_disk *d,
                           mk_status (*each)(mk_prefix_disk *d, const char *path, const item *it,
                                             void *arg, mk_err *err),
                           void *arg, mk_err *err) {
    DIR *dir = opendir(d->dir);
    mk_status status = MK_OK;
    if (!dir) {
        return MK_FAIL(err, MK_EIO, "%s: cannot read this folder: %s", d->dir, strerror(errno));
    }
    for (struct dirent *e; status == MK_OK && (e = readdir(dir)) != NULL;) {
        item it;
        struct stat st;
        if (!read_name(e->d_name, &it.name) ||
            fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            continue;
        }
        if (it.name.temporary && is_stale(&it.name, &st)) {
            (void)unlinkat(dirfd(dir), e->d_name, 0);
            continue;
        }
        it.time = st.st_mtim;
        it.n_bytes = (uint64_t)st.st_size;
        char *path = mk_path_join(d->dir, e->d_name);
        status = each(d, path, &it, arg, err);
        mk_free(path);
    }
    closedir(dir);
    return status;
}

static mk_status scan_one(mk_prefix_disk *d, const char *path, const item *it, void *arg,
                          mk_err *err) {
    (void)err;
    *(uint64_t *)arg += it->n_bytes;
    if (!it->name.temporary && it->name.tag == d->tag && !known(d, it->name.key)) {
        learn(d, path, it->name.key);
    }
    return MK_OK;
}

static void set_bytes(mk_prefix_disk *d, uint64_t n) {
    pthread_mutex_lock(&d->lock);
    d->dir_bytes = n;
    d->unseen_bytes = 0;
    pthread_mutex_unlock(&d->lock);
}

mk_status mk_prefix_folder_scan(mk_prefix_disk *d, mk_err *err) {
    uint64_t total = 0;
    MK_TRY(each_file(d, scan_one, &total, err));
    set_bytes(d, total);
    return MK_OK;
}

// --- the limit -----------------------------------------------------------------------------------

typedef struct {
    item *items;
    size_t n, cap;
    uint64_t total;
} listing;

static mk_status list_one(mk_prefix_disk *d, const char *path, const item *it, void *arg,
                          mk_err *err) {
    listing *l = arg;
    (void)d, (void)path;
    l->total += it->n_bytes;
    if (it->name.temporary) {
        return MK_OK;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        item *more = mk_try_realloc(l->items, cap, sizeof *more);
        if (!more) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for a list of %zu files", cap);
        }
        l->items = more;
        l->cap = cap;
    }
    l->items[l->n++] = *it;
    return MK_OK;
}

static int by_time(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->time.tv_sec != y->time.tv_sec) {
        return x->time.tv_sec < y->time.tv_sec ? -1 : 1;
    }
    return (x->time.tv_nsec > y->time.tv_nsec) - (x->time.tv_nsec < y->time.tv_nsec);
}

static void remove_file(mk_prefix_disk *d, const item *it) {
    const name_parts *p = &it->name;
    char *path = path_of(d, p->tag, p->key);
    (void)unlink(path);
    mk_free(path);
    pthread_mutex_lock(&d->lock);
    const mk_prefix_slot *s = p->tag == d->tag ? mk_prefix_map_get(&d->map, p->key) : NULL;
    mk_prefix_entry *e = s ? s->p : NULL;
    if (e && e->written && mk_u128_equal(mk_prefix_entry_name(e), p->key)) {
        mk_prefix_entry_remove(d, e);
    }
    pthread_mutex_unlock(&d->lock);
}

void mk_prefix_folder_sweep(mk_prefix_disk *d, uint64_t need) {
    listing l = {0};
    mk_err err = {0};
    // a sixteenth below the limit, so that not every file makes another sweep necessary
    uint64_t most = d->max_bytes - d->max_bytes / 16;
    most = most > need ? most - need : 0;
    if (each_file(d, list_one, &l, &err) != MK_OK) {
        mk_log_msg(MK_LOG_WARN, "prefix cache: %s", err.msg);
    }
    if (l.n > 0) {
        qsort(l.items, l.n, sizeof *l.items, by_time);
    }
    for (size_t i = 0; i < l.n && l.total > most; i++) {
        remove_file(d, &l.items[i]);
        l.total -= l.items[i].n_bytes;
    }
    mk_free(l.items);
    set_bytes(d, l.total);
}
