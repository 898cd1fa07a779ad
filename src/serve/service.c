// Life of the service: start, models, drain, stop.
#include "serve/service.h"

#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "net/loopback.h"
#include "serve/service_int.h"

enum { N_WORKER = 2, WORK_QUEUE = 1024, TICK_MS = 500, CHECKPOINT_TICKS = 120 };

// --- options -------------------------------------------------------------------------------------

static char *copy(const char *s) {
    return s ? mk_strdup(s) : NULL;
}

static const char *const *copy_list(const char *const *list, int n) {
    char **to = mk_zalloc((size_t)(n + 1) * sizeof *to);
    for (int i = 0; i < n; i++) {
        to[i] = mk_strdup(list[i]);
    }
    return (const char *const *)to;
}

static void free_list(const char *const *list, int n) {
    for (int i = 0; list && i < n; i++) {
        mk_free((void *)list[i]);
    }
    mk_free((void *)list);
}

static bool is_loopback(const mk_service_opts *o) {
    return o->unix_path || !o->host || mk_is_loopback(o->host, strlen(o->host));
}

static void copy_options(mk_service *s, const mk_service_opts *o) {
    s->o = *o;
    s->o.host = copy(o->host);
    s->o.unix_path = copy(o->unix_path);
    s->o.state_dir = copy(o->state_dir);
    s->o.key = copy(o->key);
    s->o.reasoning_field = copy(o->reasoning_field ? o->reasoning_field : "reasoning_content");
    s->o.hosts = copy_list(o->hosts, o->n_hosts);
    s->o.origins = copy_list(o->origins, o->n_origins);
    s->loopback = is_loopback(o);
    if (gethostname(s->hostname, sizeof s->hostname - 1) != 0) {
        s->hostname[0] = 0;
    }
}

// --- life ----------------------------------------------------------------------------------------

static void tick(void *arg) {
    mk_service *s = arg;
    mk_err err;
    mk_service_tick(s);
    if (mk_keys_refresh(s->keys, mk_moment_now(), &err) != MK_OK) {
        mk_log_msg(MK_LOG_WARN, "keys: %s", err.msg);
    }
    if (++s->n_tick % CHECKPOINT_TICKS == 0) {
        mk_store_checkpoint(s->store);
    }
}

static mk_status open_state(mk_service *s, mk_err *err) {
    MK_TRY(mk_store_open(s->o.state_dir, true, &s->store, err));
    MK_TRY(mk_keys_open(s->store, mk_moment_now(), &s->keys, err));
    if (!s->loopback && !s->o.key && !s->o.no_key && !mk_keys_any(s->keys)) {
        return MK_FAIL(err, MK_EUSAGE, "an address that others can reach needs a key");
    }
    return MK_OK;
}

mk_status mk_service_start(const mk_service_opts *o, mk_service **out, mk_err *err) {
    mk_service *s = mk_zalloc(sizeof *s);
    copy_options(s, o);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, NULL);
    s->constraints = mk_constraints_create();
    s->started_ns = mk_now_ns();
    s->started = (int64_t)time(NULL);
    mk_status st = open_state(s, err);
    if (st == MK_OK) {
        st = mk_workers_start(N_WORKER, WORK_QUEUE, TICK_MS, tick, s, &s->workers, err);
    }
    mk_http_opts ho = {.host = s->o.host,
                       .port = s->o.port,
                       .unix_path = s->o.unix_path,
                       .handler = mk_service_handle,
                       .arg = s,
                       .max_body = s->o.max_body};
    st = st == MK_OK ? mk_service_start_loader(s, err) : st;
    st = st == MK_OK ? mk_http_start(&ho, &s->http, err) : st;
    if (st != MK_OK) {
        mk_service_stop(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

int mk_service_port(const mk_service *s) {
    return mk_http_port(s->http);
}

int mk_service_drain(mk_service *s, int seconds) {
    atomic_store(&s->draining, true);
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += seconds;
    pthread_mutex_lock(&s->lock);
    int rc = 0;
    while (s->n_turn > 0 && rc == 0) {
        rc = pthread_cond_timedwait(&s->idle, &s->lock, &end);
    }
    int left = s->n_turn;
    pthread_mutex_unlock(&s->lock);
    return left;
}

void mk_service_cancel(mk_service *s) {
    mk_service_cancel_all(s);
}

// What was answered reaches clients that read; the others are not waited for long.
static void let_bytes_out(mk_service *s) {
    enum { STEPS = 400, STEP_NS = 5000000 };
    for (int i = 0; i < STEPS && s->http && mk_http_n_open(s->http) > 0; i++) {
        nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
    }
}

void mk_service_stop(mk_service *s) {
    if (!s) {
        return;
    }
    atomic_store(&s->draining, true);
    if (s->http) {
        mk_http_stop_listening(s->http);
    }
    if (s->workers) {
        mk_workers_end(s->workers);  // no request is half prepared from here on
    }
    if (s->loader) {
        mk_loader_close(s->loader);  // nor waits for a model
    }
    mk_service_cancel_all(s);
    (void)mk_service_drain(s, 30);
    mk_loader_stop(s->loader);
    let_bytes_out(s);
    mk_http_stop(s->http);
    mk_workers_stop(s->workers);
    mk_service_free_models(s);
    mk_constraints_destroy(s->constraints);
    mk_keys_close(s->keys);
    mk_store_close(s->store);
    free_list(s->o.hosts, s->o.n_hosts);
    free_list(s->o.origins, s->o.n_origins);
    mk_free((void *)s->o.host);
    mk_free((void *)s->o.unix_path);
    mk_free((void *)s->o.state_dir);
    mk_free((void *)s->o.key);
    mk_free((void *)s->o.reasoning_field);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->idle);
    mk_free(s);
}
