// The models of a service: the list, and how one comes into memory and leaves it.
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "serve/service_int.h"

// How long models in use may go on before a door is closed (residence.h).
#define PATIENCE_NS UINT64_C(5000000000)
enum { MIN_WAITING = 16 };

served_model *mk_service_find(mk_service *s, const char *name, mk_err *err) {
    int n = atomic_load(&s->n_model);
    for (int i = 0; name && i < n; i++) {
        size_t len = strlen(s->model[i].name);
        // "thimble:latest" is Ollama's spelling
        if (strncasecmp(s->model[i].name, name, len) == 0 &&
            (name[len] == 0 || strcmp(name + len, ":latest") == 0)) {
            return &s->model[i];
        }
    }
    if (n == 1 || (n > 0 && (!name || !name[0]))) {
        return &s->model[0];
    }
    mk_buf list;
    mk_buf_init(&list, 4096);
    for (int i = 0; i < n; i++) {
        mk_buf_printf(&list, "%s%s", i ? ", " : "", s->model[i].name);
    }
    (void)MK_FAIL(err, MK_ENOTFOUND, MK_NO_MODEL " '%.100s' here; there are: %s", name ? name : "",
                  list.data ? list.data : "none");
    mk_buf_free(&list);
    return NULL;
}

const char *mk_service_state(const served_model *m) {
    return mk_model_state_name(mk_loader_read(m->s->loader, m->slot).state);
}

int mk_service_lease_status(mk_err *err) {
    bool later = err->code == MK_ENOMEM || err->code == MK_ELIMIT || err->code == MK_EINTR;
    err->code = later ? MK_ENOMEM : MK_EIO;
    return mk_error_http_status(err->code);
}

// --- coming and going: the loader's thread -------------------------------------------------------

static bool on_progress(void *arg, uint64_t done, uint64_t total) {
    served_model *m = arg;
    mk_service *s = m->s;
    pthread_mutex_lock(&s->lock);
    snprintf(s->loading, sizeof s->loading, "%s", m->name);
    s->load_done = done;
    s->load_total = total;
    pthread_mutex_unlock(&s->lock);
    atomic_store(&m->load_total, total);
    atomic_store(&m->load_done, done);
    return (!s->o.loading || s->o.loading(s->o.loading_arg, m->name, done, total)) &&
           mk_loader_wanted(s->loader, m->slot);
}

// What models in memory will still take: blocks of the cache are the system's until they are first
// written.
static size_t promised(const mk_service *s) {
    size_t sum = 0;
    for (int i = 0; i < atomic_load(&s->n_model); i++) {
        const served_model *m = &s->model[i];
        mk_sched_figures q;
        if (m->provider) {
            mk_sched_read(mk_provider_sched(m->provider), &q);
            mk_kv_type type = mk_llm_engine_opts(m->llm)->kv_type;
            sum += (size_t)(q.kv_blocks_total - q.kv_blocks_used) *
                   mk_model_kv_bytes_per_block(mk_llm_model(m->llm), type);
        }
    }
    return sum;
}

static mk_status open_provider(served_model *m, mk_err *err) {
    mk_provider_opts po = {.llm = m->llm,
                           .n_parallel = m->how.n_parallel,
                           .max_waiting = m->s->o.max_waiting,
                           .n_draft = m->how.n_draft,
                           .prefix = m->how.prefix,
                           .prefix_dir = m->how.prefix_dir,
                           .prefix_bytes = m->how.prefix_bytes};
    mk_status st = mk_provider_open(&po, &m->provider, err);
    if (st != MK_OK) {
        m->provider = NULL;
        mk_llm_unload(m->llm);
    }
    return st;
}

static mk_status load(void *arg, int slot, bool alone, mk_err *err) {
    mk_service *s = arg;
    served_model *m = &s->model[slot];
    int n = atomic_load(&s->n_model);
    mk_llm_load_opts how = {
        .promised = promised(s),
        .n_share = s->o.max_loaded > 0 && s->o.max_loaded < n ? s->o.max_loaded : n,
        .crowd = s->crowd,
        .whole_window = !alone,  // rather than a smaller one, the others make way
        .progress = on_progress,
        .progress_arg = m};
    atomic_store(&m->load_done, 0);
    mk_status st = mk_llm_load(m->llm, &how, err);
    st = st == MK_OK ? open_provider(m, err) : st;
    if (st != MK_OK) {
        (void)mk_err_prefix(err, "the model '%s' could not be loaded", m->name);
        mk_log_msg(st == MK_EINTR ? MK_LOG_INFO : MK_LOG_WARN, "%s", err->msg);
        return st;
    }
    mk_memory_plan plan = {0};
    mk_err ignored;
    (void)!mk_llm_plan(m->llm, 0, &plan, &ignored);
    atomic_store(&m->n_bytes, (long long)plan.total);
    atomic_store(&m->n_ctx, (long long)mk_llm_engine_opts(m->llm)->n_ctx);
    mk_log_msg(MK_LOG_INFO, "%s is loaded, window %lld", m->name, (long long)m->n_ctx);
    return MK_OK;
}

static void add_figures(mk_sched_figures *to, const mk_sched_figures *q) {
    to->n_done += q->n_done;
    to->n_cancelled += q->n_cancelled;
    to->n_failed += q->n_failed;
    to->prompt_tokens += q->prompt_tokens;
    to->cached_tokens += q->cached_tokens;
    to->generated_tokens += q->generated_tokens;
    to->drafted_tokens += q->drafted_tokens;
    to->accepted_tokens += q->accepted_tokens;
    to->rounds += q->rounds;
    to->rows += q->rows;
    to->busy_s += q->busy_s;
}

static void unload(void *arg, int slot) {
    mk_service *s = arg;
    served_model *m = &s->model[slot];
    mk_sched_figures q;
    mk_sched_read(mk_provider_sched(m->provider), &q);
    pthread_mutex_lock(&s->lock);
    add_figures(&m->past, &q);
    pthread_mutex_unlock(&s->lock);
    mk_provider_close(m->provider);
    m->provider = NULL;
    mk_llm_unload(m->llm);
    mk_log_msg(MK_LOG_INFO, "%s is unloaded", m->name);
}

void mk_service_figures(const served_model *m, mk_sched_figures *q, mk_prefix_figures *p) {
    mk_service *s = m->s;
    *q = (mk_sched_figures){0};
    *p = (mk_prefix_figures){0};
    if (mk_loader_peek(s->loader, m->slot)) {
        mk_sched_read(mk_provider_sched(m->provider), q);
        if (mk_provider_prefix(m->provider)) {
            mk_prefix_read(mk_provider_prefix(m->provider), p);
        }
        mk_loader_peeked(s->loader, m->slot);
    }
    pthread_mutex_lock(&s->lock);
    add_figures(q, &m->past);
    pthread_mutex_unlock(&s->lock);
}

// --- the list ------------------------------------------------------------------------------------

uint64_t mk_service_keep_ns(double seconds) {
    return seconds < 0 || seconds > 1e9 ? MK_KEEP_FOREVER : (uint64_t)(seconds * 1e9);
}

mk_status mk_service_start_loader(mk_service *s, mk_err *err) {
    s->crowd = mk_pool_crowd_create();
    // with a shorter line nobody could have a model loaded
    int64_t most = s->o.max_waiting > MIN_WAITING ? s->o.max_waiting : MIN_WAITING;
    mk_loader_opts o = {
        .load = load,
        .unload = unload,
        .arg = s,
        .rules = {.max_loaded = s->o.max_loaded, .max_waiting = most, .patience_ns = PATIENCE_NS}};
    return mk_loader_start(&o, &s->loader, err);
}

mk_status mk_service_add(mk_service *s, const mk_service_model *m, mk_err *err) {
    int n = atomic_load(&s->n_model);
    if (n == MK_SERVICE_MAX_MODELS) {
        return MK_FAIL(err, MK_EUSAGE, "at most %d models at once", MK_SERVICE_MAX_MODELS);
    }
    for (int i = 0; i < n; i++) {
        if (strcasecmp(s->model[i].name, m->name) == 0) {
            return MK_FAIL(err, MK_EUSAGE, "two models with the name '%s'", m->name);
        }
    }
    served_model *to = &s->model[n];
    to->s = s;
    to->slot = mk_loader_add(s->loader, mk_service_keep_ns(m->keep_alive_s));
    MK_ASSERT(to->slot == n);
    to->name = mk_strdup(m->name);
    to->llm = m->llm;
    to->how = *m;
    to->how.prefix_dir = m->prefix_dir ? mk_strdup(m->prefix_dir) : NULL;
    to->created = (int64_t)time(NULL);
    atomic_store(&to->n_ctx, (long long)mk_llm_engine_opts(m->llm)->n_ctx);
    atomic_store(&s->n_model, n + 1);
    return MK_OK;
}

mk_status mk_service_load(mk_service *s, int i, mk_err *err) {
    return mk_loader_load_now(s->loader, i, err);
}

void mk_service_ready(mk_service *s) {
    atomic_store(&s->ready, true);
}

int mk_service_n_model(const mk_service *s) {
    return atomic_load(&s->n_model);
}

const char *mk_service_model_name(const mk_service *s, int i) {
    MK_ASSERT(i >= 0 && i < mk_service_n_model(s));
    return s->model[i].name;
}

void mk_service_free_models(mk_service *s) {
    for (int i = 0; i < atomic_load(&s->n_model); i++) {
        served_model *m = &s->model[i];
        mk_llm_close(m->llm);
        mk_free((void *)(uintptr_t)m->how.prefix_dir);
        mk_free(m->name);
    }
    mk_pool_crowd_destroy(s->crowd);
}
