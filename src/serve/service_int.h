// Private to the files of the service: service.c, models.c, routes.c, answering.c, turn*.c,
// plain*.c.
//
// Locks, taken in this order: service.lock (list of turns, loading state), turn.lock, that of the
// loader.  Models are only added at the start and never leave the list before the service ends, so
// that reading it needs nothing but its atomic length.  A model's weights do come and go: its llm
// may always be asked for what it knows without them (llm.h), its engine and its provider by who
// has a lease or looks (loader.h).
#ifndef MK_SERVE_SERVICE_INT_H
#define MK_SERVE_SERVICE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/http.h"
#include "serve/constrain.h"
#include "serve/dialect.h"
#include "serve/kept.h"
#include "serve/keys.h"
#include "serve/ledger.h"
#include "serve/loader.h"
#include "serve/memory.h"
#include "serve/service.h"
#include "serve/workers.h"

enum { MK_SERVICE_MAX_MODELS = 64 };

typedef struct served_model {
    mk_service *s;
    int slot;  // of the loader
    char *name;
    mk_llm *llm;
    mk_provider *provider;
    mk_service_model how;  // prefix_dir is owned
    int64_t created;
    atomic_llong n_ctx;    // the window: what was wanted, then what was had when it was last loaded
    atomic_llong n_bytes;  // of memory, when it was last loaded
    atomic_ullong load_done, load_total;
    mk_sched_figures past;  // of what was unloaded; the service's lock
} served_model;

typedef struct turn turn;

struct mk_service {
    mk_service_opts o;  // texts are owned copies
    bool loopback;
    char hostname[256];  // of this machine; "" if it has none
    mk_store *store;     // in memory without state_dir
    mk_keys *keys;
    unsigned n_tick;
    mk_http *http;
    mk_workers *workers;
    mk_loader *loader;
    mk_pool_crowd *crowd;  // of the models' threads
    mk_constraints *constraints;
    served_model model[MK_SERVICE_MAX_MODELS];
    atomic_int n_model;
    atomic_bool ready, draining;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    turn *turns;  // answers that run
    int n_turn;
    char loading[128];
    uint64_t load_done, load_total;
    // figures
    atomic_ullong n_requests, n_errors, n_refused, n_gone, n_unwritten;
    uint64_t started_ns;
    int64_t started;
};

// --- routes --------------------------------------------------------------------------------------
// Who asks, as far as it is known.
typedef struct {
    char key_id[24];  // "" without keys
    unsigned scopes;  // all of them without keys
} caller;

typedef struct route {
    const char *method, *path;  // "*": one part of the path; at its end all that is left of it
    const mk_dialect *dialect;  // of answers and errors; NULL: plain JSON
    void (*handle)(mk_service *s, mk_http_exchange *x, const struct route *r, const caller *c);
    bool open;     // without key
    bool worker;   // on a worker's thread
    bool early;    // also while models are loading
    bool metered;  // counts against the limits of a key, and needs its scope infer
} route;

void mk_service_handle(void *arg, mk_http_exchange *x);
// Replies with an error in the dialect of the route (NULL: OpenAI's).
void mk_service_fail(mk_service *s, mk_http_exchange *x, const mk_dialect *d, int status,
                     const mk_err *err);
void mk_service_json(mk_service *s, mk_http_exchange *x, int status, json_t *v);  // takes v
// A whole answer, with what goes with every answer: who may read it in a browser.
typedef struct {
    int status;        // 0: 200
    const char *type;  // NULL: application/json
    int64_t retry_s;   // Retry-After; 0: none
} mk_service_head;
void mk_service_reply(mk_service *s, mk_http_exchange *x, mk_service_head head, const char *body,
                      size_t n);
// The same of a buffer, which is freed; 500 if it lacked memory.
void mk_service_reply_buf(mk_service *s, mk_http_exchange *x, mk_service_head head, mk_buf *b);
// 429 in the dialect of the route.
void mk_service_refuse(mk_service *s, mk_http_exchange *x, const mk_dialect *d, int64_t retry_s,
                       const mk_err *err);
const char *mk_service_cors(mk_service *s, mk_http_exchange *x);  // value for the header, or NULL

// The model a request names; NULL and an error when there is none.  With a single model any name
// will do.
served_model *mk_service_find(mk_service *s, const char *name, mk_err *err);

void mk_service_free_models(mk_service *s);
mk_status mk_service_start_loader(mk_service *s, mk_err *err) MK_WARN_UNUSED;
// The HTTP status for a lease that was not had, which is never the request's fault; the error's
// code becomes one that says so in a stream, too.
int mk_service_lease_status(mk_err *err);
// "loaded", "loading" ...
const char *mk_service_state(const served_model *m);
// All that was counted of a model since the service began, loaded or not.
void mk_service_figures(const served_model *m, mk_sched_figures *q, mk_prefix_figures *p);

// --- handlers ------------------------------------------------------------------------------------
void mk_service_answer(mk_service *s, mk_http_exchange *x, const route *r, const caller *c);
void mk_service_tick(mk_service *s);        // heartbeats
void mk_service_cancel_all(mk_service *s);  // what runs, ends

// What a request asks for, as the chat room wants it; the ask outlives it.  ask->sample over the
// model's own.  prompt: which of them, where there are some.
mk_request mk_service_request(const mk_ask *ask, int prompt);

#define HANDLER(name)                                                                              \
    void mk_plain_##name(mk_service *s, mk_http_exchange *x, const route *r, const caller *c)
HANDLER(health);
HANDLER(metrics);
HANDLER(models);
HANDLER(model);
HANDLER(tokenize);
HANDLER(detokenize);
HANDLER(apply_template);
HANDLER(count_tokens);
HANDLER(embeddings);
HANDLER(ollama_embed);
HANDLER(ollama_version);
HANDLER(ollama_tags);
HANDLER(ollama_show);
HANDLER(ollama_ps);
HANDLER(alive);
HANDLER(usage);
HANDLER(response_get);
HANDLER(response_items);
HANDLER(response_cancel);
HANDLER(response_delete);
HANDLER(page);

#endif
