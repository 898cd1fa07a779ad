// The index of blocks on disk, the queue, and the thread that writes (prefix_disk.h).
//
// A file's entry in the index:
//
//   (none)   --mk_prefix_disk_put-->                     queued    (has: yes, get: a miss)
//   queued   --the writer: written, synced, renamed-->   written
//   queued   --the writer: the disk refuses-->           (none)
//   (none)   --mk_prefix_folder_scan: a good head-->     written
//   written  --sweep; get finds it damaged or gone-->    (none)
//   any      --mk_prefix_disk_forget-->                  (none)
//
// Invariants: a block's key leads to at most one entry, which has it; the last key of an entry
// leads to that entry, so that a file is found by its name; the image of a queued file belongs to
// its job, and the job being written is `busy` and not in the queue; files are read and written
// outside the lock.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/prefix_disk_int.h"
#include "ops/ops.h"

// Images that wait to be written, and the size from which a run is cut; how long nothing is written
// after the disk has refused; how often the time of a file that is only read is set.
enum { QUEUE_BYTES = 64 << 20, RUN_BYTES = 16 << 20, PAUSE_S = 300, TOUCH_S = 60 };

// --- index ---------------------------------------------------------------------------------------

mk_u128 mk_prefix_entry_name(const mk_prefix_entry *e) {
    return e->keys[e->n - 1];
}

mk_prefix_entry *mk_prefix_entry_add(mk_prefix_disk *d, const mk_prefix_run *run, size_t n_bytes) {
    size_t size = sizeof(mk_prefix_entry) + (size_t)run->n * sizeof(mk_u128);
    if (mk_prefix_map_get(&d->map, run->keys[run->n - 1]) ||
        !mk_prefix_map_reserve(&d->map, d->map.n + (size_t)run->n)) {
        return NULL;
    }
    mk_prefix_entry *e = mk_try_alloc(1, size);
    if (!e) {
        return NULL;
    }
    e->tenant = run->tenant;
    e->n_bytes = n_bytes;
    e->n = run->n;
    memcpy(e->keys, run->keys, (size_t)run->n * sizeof(mk_u128));
    for (int64_t i = 0; i < e->n; i++) {
        if (!mk_prefix_map_get(&d->map, e->keys[i])) {
            mk_prefix_map_put(&d->map, e->keys[i], e, i);
        }
    }
    e->prev = d->entries.prev;
    e->next = &d->entries;
    e->prev->next = e->next->prev = e;
    return e;
}

static void drop_touch(mk_prefix_disk *d, mk_prefix_entry *e) {
    mk_prefix_entry **at = &d->touch_first, *last = NULL;
    while (*at && *at != e) {
        last = *at;
        at = &(*at)->next_touch;
    }
    if (*at) {
        *at = e->next_touch;
        d->touch_last = d->touch_last == e ? last : d->touch_last;
        e->touch = false;
    }
}

void mk_prefix_entry_remove(mk_prefix_disk *d, mk_prefix_entry *e) {
    for (int64_t i = 0; i < e->n; i++) {
        const mk_prefix_slot *s = mk_prefix_map_get(&d->map, e->keys[i]);
        if (s && s->p == e) {
            mk_prefix_map_remove(&d->map, e->keys[i]);
        }
    }
    if (e->touch) {
        drop_touch(d, e);
    }
    d->n_block -= e->written ? e->n : 0;
    e->prev->next = e->next;
    e->next->prev = e->prev;
    mk_free(e);
}

bool mk_prefix_disk_has(mk_prefix_disk *d, mk_u128 key) {
    pthread_mutex_lock(&d->lock);
    bool yes = mk_prefix_map_get(&d->map, key) != NULL;
    pthread_mutex_unlock(&d->lock);
    return yes;
}

bool mk_prefix_disk_there(mk_prefix_disk *d, mk_u128 key) {
    pthread_mutex_lock(&d->lock);
    const mk_prefix_slot *s = mk_prefix_map_get(&d->map, key);
    const mk_prefix_entry *e = s ? s->p : NULL;
    bool yes = e && e->written;
    pthread_mutex_unlock(&d->lock);
    return yes;
}

// --- times ---------------------------------------------------------------------------------------
// Files of one prompt are touched last block first, so that the beginnings are newer than what
// hangs on them and are removed later.

static void ask_touch(mk_prefix_disk *d, mk_prefix_entry *e) {
    e->touched_ns = mk_now_ns();
    if (!e->touch) {
        e->touch = true;
        e->next_touch = NULL;
        *(d->touch_last ? &d->touch_last->next_touch : &d->touch_first) = e;
        d->touch_last = e;
    }
}

// always: also those that were touched a short time ago.
static void touch_chain(mk_prefix_disk *d, const mk_u128 *keys, int64_t n, bool always) {
    const mk_prefix_entry *before = NULL;
    bool touch = always;
    for (int64_t i = n - 1; i >= 0; i--) {
        const mk_prefix_slot *s = mk_prefix_map_get(&d->map, keys[i]);
        mk_prefix_entry *e = s ? s->p : NULL;
        if (!e || e == before || !e->written) {
            continue;
        }
        before = e;
        touch = touch || mk_now_ns() - e->touched_ns > (uint64_t)TOUCH_S * 1000000000;
        if (touch) {
            ask_touch(d, e);
        }
    }
}

void mk_prefix_disk_touch(mk_prefix_disk *d, const mk_u128 *keys, int64_t n) {
    pthread_mutex_lock(&d->lock);
    touch_chain(d, keys, n, false);
    if (d->touch_first) {
        pthread_cond_signal(&d->work);
    }
    pthread_mutex_unlock(&d->lock);
}

// With the lock, which is given up meanwhile.
static void set_times(mk_prefix_disk *d) {
    while (d->touch_first) {
        mk_prefix_entry *e = d->touch_first;
        drop_touch(d, e);
        mk_u128 last = mk_prefix_entry_name(e);
        pthread_mutex_unlock(&d->lock);
        char *path = mk_prefix_file_path(d, last);
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);  // finer than what the kernel would take for UTIME_NOW
        (void)utimensat(AT_FDCWD, path, (struct timespec[]){now, now}, 0);
        mk_free(path);
        pthread_mutex_lock(&d->lock);
    }
}

// --- the writer ----------------------------------------------------------------------------------

static mk_status write_job(mk_prefix_disk *d, const mk_prefix_job *job, mk_err *err) {
    char *path = mk_prefix_file_path(d, mk_prefix_entry_name(job->entry));
    mk_writer *w = NULL;
    mk_prefix_file_seal(job->bytes, job->n_bytes);
    mk_status st = mk_writer_open_private(path, &w, err);
    mk_free(path);
    MK_TRY(st);
    st = mk_writer_write(w, job->bytes, job->n_bytes, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

static void free_job(mk_prefix_disk *d, mk_prefix_job *job) {
    d->queued_bytes -= job->n_bytes;
    mk_free(job->bytes);
    mk_free(job);
}

// Gives up what is queued: of a tenant, or all of it.
static void drop_queue(mk_prefix_disk *d, uint64_t tenant) {
    mk_prefix_job **at = &d->first;
    d->last = NULL;
    while (*at) {
        mk_prefix_job *job = *at;
        if (tenant == UINT64_MAX || job->entry->tenant == tenant) {
            *at = job->next;
            mk_prefix_entry_remove(d, job->entry);
            free_job(d, job);
        } else {
            d->last = job;
            at = &job->next;
        }
    }
}

static void stop_writing(mk_prefix_disk *d, const mk_err *why) {
    d->stopped_until_ns = mk_now_ns() + (uint64_t)PAUSE_S * 1000000000;
    drop_queue(d, UINT64_MAX);
    if (!d->warned) {
        d->warned = true;
        mk_log_msg(MK_LOG_WARN,
                   "the prefix cache is not written to disk for now: %s (what is there can still "
                   "be read)",
                   why->msg);
    }
}

// The keys of the blocks before a run are in no file of it: they follow from the ids.
static void touch_parents(mk_prefix_disk *d, const mk_prefix_job *job) {
    mk_prefix_run run;
    mk_err err;
    if (mk_prefix_file_parse(&d->kind, job->bytes, job->n_bytes, &run, &err) != MK_OK ||
        run.first == 0) {
        return;
    }
    mk_u128 *keys = mk_try_alloc((size_t)run.first, sizeof *keys);
    if (!keys) {
        return;
    }
    mk_u128 key = mk_prefix_root(&d->kind, run.tenant);
    for (int64_t i = 0; i < run.first; i++) {
        keys[i] = key = mk_prefix_next(&d->kind, key, run.ids + i * MK_KV_BLOCK);
    }
    pthread_mutex_lock(&d->lock);
    touch_chain(d, keys, run.first, true);
    pthread_mutex_unlock(&d->lock);
    mk_free(keys);
}

// With the lock, which is given up meanwhile.
static void run_job(mk_prefix_disk *d) {
    mk_prefix_job *job = d->busy = d->first;
    mk_err err = {0};
    d->first = job->next;
    d->last = d->first ? d->last : NULL;
    uint64_t need = job->n_bytes;
    bool full = d->dir_bytes + need > d->max_bytes || d->unseen_bytes > d->max_bytes / 16;
    pthread_mutex_unlock(&d->lock);
    if (full) {
        mk_prefix_folder_sweep(d, need);
    }
    mk_status st = write_job(d, job, &err);
    pthread_mutex_lock(&d->lock);
    if (st == MK_OK) {
        job->entry->written = true;
        d->n_block += job->entry->n;
        d->dir_bytes += need;
        d->unseen_bytes += need;
        pthread_mutex_unlock(&d->lock);
        touch_parents(d, job);
        pthread_mutex_lock(&d->lock);
    } else {
        mk_prefix_entry_remove(d, job->entry);
        stop_writing(d, &err);
    }
    d->busy = NULL;
    free_job(d, job);
}

static void *writer_main(void *arg) {
    mk_prefix_disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        set_times(d);
        if (d->first) {
            run_job(d);
            pthread_cond_broadcast(&d->idle);
        } else if (d->closing && !d->touch_first) {
            break;
        } else if (!d->touch_first) {
            pthread_cond_broadcast(&d->idle);
            pthread_cond_wait(&d->work, &d->lock);
        }
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

// --- opening and closing -------------------------------------------------------------------------

static mk_status start_thread(mk_prefix_disk *d, mk_err *err) {
    sigset_t all, old;  // signals are for the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&d->thread, NULL, writer_main, d);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    d->started = rc == 0;
    return rc == 0 ? MK_OK
                   : MK_FAIL(err, MK_ENOMEM, "cannot start a thread for the prefix cache: %s",
                             strerror(rc));
}

mk_status mk_prefix_disk_open(const mk_prefix_disk_opts *o, mk_prefix_disk **out, mk_err *err) {
    MK_ASSERT(o->max_bytes > 0 && strlen(o->kind.model_key) <= MK_PREFIX_MODEL_MAX);
    mk_prefix_disk *d = mk_zalloc(sizeof *d);
    d->dir = mk_strdup(o->dir);
    d->model_key = mk_strdup(o->kind.model_key);
    d->kind = o->kind;
    d->kind.model_key = d->model_key;
    d->tag = mk_prefix_tag(&d->kind);
    d->max_bytes = o->max_bytes;
    d->entries.prev = d->entries.next = &d->entries;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->work, NULL);
    pthread_cond_init(&d->idle, NULL);
    mk_status st = mk_folder_make_private(d->dir, err);
    st = st == MK_OK ? mk_prefix_folder_scan(d, err) : st;
    if (st == MK_OK && d->dir_bytes > d->max_bytes) {
        mk_prefix_folder_sweep(d, 0);
    }
    st = st == MK_OK ? start_thread(d, err) : st;
    if (st != MK_OK) {
        mk_prefix_disk_close(d);
        return st;
    }
    *out = d;
    return MK_OK;
}

void mk_prefix_disk_close(mk_prefix_disk *d) {
    if (!d) {
        return;
    }
    if (d->started) {
        pthread_mutex_lock(&d->lock);
        d->closing = true;
        pthread_cond_signal(&d->work);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->thread, NULL);
    }
    while (d->entries.next != &d->entries) {
        mk_prefix_entry_remove(d, d->entries.next);
    }
    mk_prefix_map_free(&d->map);
    pthread_cond_destroy(&d->idle);
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
    mk_free(d->model_key);
    mk_free(d->dir);
    mk_free(d);
}

void mk_prefix_disk_flush(mk_prefix_disk *d) {
    pthread_mutex_lock(&d->lock);
    while (d->first || d->busy || d->touch_first) {
        pthread_cond_signal(&d->work);
        pthread_cond_wait(&d->idle, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
}

// --- putting -------------------------------------------------------------------------------------

int64_t mk_prefix_disk_run(const mk_prefix_disk *d) {
    int64_t n = (int64_t)(RUN_BYTES / (d->kind.block_bytes ? d->kind.block_bytes : 1));
    return n < 1 ? 1 : n > MK_PREFIX_RUN_MAX ? MK_PREFIX_RUN_MAX : n;
}

// With the lock.  Whether the queue has room; an image larger than the queue goes alone.
static bool get_room(mk_prefix_disk *d, size_t n, bool wait) {
    for (;;) {
        bool stopped = d->stopped_until_ns > 0 && mk_now_ns() < d->stopped_until_ns;
        if (stopped || (uint64_t)n > d->max_bytes - d->max_bytes / 16) {
            return false;
        }
        if (d->queued_bytes == 0 || d->queued_bytes + n <= QUEUE_BYTES) {
            return true;
        }
        if (!wait) {
            return false;
        }
        pthread_cond_wait(&d->idle, &d->lock);
    }
}

static mk_prefix_job *new_job(const mk_prefix_disk *d, const mk_prefix_run *run, size_t n_bytes,
                              mk_prefix_fill fill, void *arg) {
    mk_prefix_job *job = mk_try_alloc(1, sizeof *job);
    uint8_t *bytes = mk_try_alloc(n_bytes, 1);
    if (!job || !bytes) {
        mk_free(job);
        mk_free(bytes);
        return NULL;
    }
    *job = (mk_prefix_job){.bytes = bytes, .n_bytes = n_bytes};
    uint8_t *data = mk_prefix_file_lay(&d->kind, run, bytes);
    for (int64_t i = 0; i < run->n; i++) {
        fill(arg, i, data + (size_t)i * d->kind.block_bytes);
    }
    return job;
}

// With the lock.
static bool enqueue(mk_prefix_disk *d, const mk_prefix_run *run, mk_prefix_job *job) {
    job->entry = mk_prefix_entry_add(d, run, job->n_bytes);
    if (!job->entry) {
        return false;
    }
    *(d->last ? &d->last->next : &d->first) = job;
    d->last = job;
    d->queued_bytes += job->n_bytes;
    pthread_cond_signal(&d->work);
    return true;
}

bool mk_prefix_disk_put(mk_prefix_disk *d, const mk_prefix_run *run, bool wait, mk_prefix_fill fill,
                        void *arg) {
    size_t n_bytes = mk_prefix_file_bytes(&d->kind, run->first, run->n);
    pthread_mutex_lock(&d->lock);
    // a file of that name would be replaced
    bool go = n_bytes > 0 && !mk_prefix_map_get(&d->map, run->keys[run->n - 1]) &&
              get_room(d, n_bytes, wait);
    pthread_mutex_unlock(&d->lock);
    mk_prefix_job *job = go ? new_job(d, run, n_bytes, fill, arg) : NULL;
    if (!job) {
        return false;
    }
    pthread_mutex_lock(&d->lock);
    bool taken = enqueue(d, run, job);
    pthread_mutex_unlock(&d->lock);
    if (!taken) {
        mk_free(job->bytes);
        mk_free(job);
    }
    return taken;
}

// --- getting -------------------------------------------------------------------------------------

// The file is not what the index says.  By its name: the index may have changed meanwhile.
static void forget_file(mk_prefix_disk *d, mk_u128 last, const char *path, const mk_err *why) {
    bool damaged = why->code != MK_ENOTFOUND;
    pthread_mutex_lock(&d->lock);
    const mk_prefix_slot *s = mk_prefix_map_get(&d->map, last);
    mk_prefix_entry *e = s ? s->p : NULL;
    if (e && e->written && mk_u128_equal(mk_prefix_entry_name(e), last)) {
        mk_prefix_entry_remove(d, e);
    }
    d->n_damaged += damaged;
    pthread_mutex_unlock(&d->lock);
    if (damaged) {
        mk_log_msg(MK_LOG_WARN, "%s: %s; removed", path, why->msg);
        (void)unlink(path);
    }
}

static mk_status read_file(const mk_prefix_disk *d, const char *path, size_t n_bytes, mk_u128 key,
                           mk_prefix_found *out, mk_err *err) {
    MK_TRY(mk_prefix_file_read(path, n_bytes, &out->bytes, err));
    mk_status st = mk_prefix_file_parse(&d->kind, out->bytes, n_bytes, &out->run, err);
    if (st == MK_OK && (out->at >= out->run.n || !mk_u128_equal(out->run.keys[out->at], key))) {
        st = MK_FAIL(err, MK_ECORRUPT, "replaced by another file");
    }
    if (st != MK_OK) {
        mk_free(out->bytes);
    }
    return st;
}

bool mk_prefix_disk_get(mk_prefix_disk *d, uint64_t tenant, mk_u128 key, mk_prefix_found *out) {
    mk_err err = {0};
    mk_u128 last = {0};
    size_t n_bytes = 0;
    pthread_mutex_lock(&d->lock);
    const mk_prefix_slot *s = mk_prefix_map_get(&d->map, key);
    const mk_prefix_entry *e = s ? s->p : NULL;
    bool there = e && e->written;
    if (there) {
        last = mk_prefix_entry_name(e);
        n_bytes = e->n_bytes;
        out->at = s->i;
    }
    pthread_mutex_unlock(&d->lock);
    if (!there) {
        return false;
    }
    char *path = mk_prefix_file_path(d, last);
    mk_status st = read_file(d, path, n_bytes, key, out, &err);
    if (st != MK_OK && st != MK_ENOMEM) {
        forget_file(d, last, path, &err);
    }
    mk_free(path);
    if (st == MK_OK && out->run.tenant != tenant) {  // keys that collide
        mk_free(out->bytes);
        return false;
    }
    return st == MK_OK;
}

// --- forgetting ----------------------------------------------------------------------------------

void mk_prefix_disk_forget(mk_prefix_disk *d, uint64_t tenant) {
    mk_err err = {0};
    pthread_mutex_lock(&d->lock);
    drop_queue(d, tenant);
    while (d->busy) {
        pthread_cond_wait(&d->idle, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    if (mk_prefix_folder_scan(d, &err) != MK_OK) {  // files of other processes as well
        mk_log_msg(MK_LOG_WARN, "%s", err.msg);
    }
    pthread_mutex_lock(&d->lock);
    for (mk_prefix_entry *e = d->entries.next, *next; e != &d->entries; e = next) {
        next = e->next;
        if (tenant == UINT64_MAX || e->tenant == tenant) {
            char *path = mk_prefix_file_path(d, mk_prefix_entry_name(e));
            (void)unlink(path);
            mk_free(path);
            d->dir_bytes -= d->dir_bytes < e->n_bytes ? d->dir_bytes : e->n_bytes;
            mk_prefix_entry_remove(d, e);
        }
    }
    pthread_mutex_unlock(&d->lock);
}

void mk_prefix_disk_read(mk_prefix_disk *d, mk_prefix_disk_figures *out) {
    pthread_mutex_lock(&d->lock);
    *out = (mk_prefix_disk_figures){d->n_block, d->dir_bytes, d->n_damaged};
    pthread_mutex_unlock(&d->lock);
}
