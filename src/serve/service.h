// The service: HTTP requests of every dialect answered by models.
//
// One process, one port.  HTTP is up before the models are (GET /health says how far they are), so
// that whoever waits can see why.  Requests are read on the server's thread, prepared by workers,
// answered on the providers' threads (one a model).  Who ends the process calls mk_service_drain
// first: nothing new is accepted, what runs is finished.
//
// All models are listed; a model is in memory when it was asked for, and leaves when nobody has
// asked for a while or another needs the room (residence.h).
#ifndef MK_SERVE_SERVICE_H
#define MK_SERVE_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "chat/llm.h"
#include "chat/provider.h"

typedef struct mk_service mk_service;

typedef struct {
    const char *host;          // NULL = "127.0.0.1"
    int port;                  // 0: any
    const char *unix_path;     // or NULL
    const char *state_dir;     // keys, ledger, kept answers, prefix cache; NULL: nothing is kept
    const char *key;           // one key given on the command line; NULL
    bool no_key;               // let everyone in although the address is not loopback
    const char *const *hosts;  // n_hosts names, beside our own, that Host may carry
    int n_hosts;
    const char *const *origins;  // n_origins pages that may call from browsers; "*": all
    int n_origins;
    const char *reasoning_field;  // "reasoning_content", "reasoning", "both"
    int64_t max_waiting;          // requests in the queue of a model, and for models; more: 429
    int max_loaded;               // models in memory at once; 0: as many as fit
    // Told how far a load is, on the loader's thread; false: it shall end (MK_EINTR).  NULL.
    bool (*loading)(void *arg, const char *name, uint64_t done, uint64_t total);
    void *loading_arg;
    size_t max_body;
    bool page;  // serve the web page at /
} mk_service_opts;

mk_status mk_service_start(const mk_service_opts *o, mk_service **out, mk_err *err) MK_WARN_UNUSED;
int mk_service_port(const mk_service *s);
// From now on `name` is listed; the first is the one for requests that name none.  The llm becomes
// the service's.  Errors: MK_EUSAGE (the name is taken, too many).
typedef struct {
    const char *name;
    mk_llm *llm;  // opened with `later`
    int64_t n_parallel;
    int n_draft;
    bool prefix;
    const char *prefix_dir;  // copied
    uint64_t prefix_bytes;
    double keep_alive_s;  // it is unloaded after so long without a request; negative: never
} mk_service_model;
mk_status mk_service_add(mk_service *s, const mk_service_model *m, mk_err *err) MK_WARN_UNUSED;
// Loads the i-th model and waits for it.  Errors: those of mk_llm_load and mk_provider_open.
mk_status mk_service_load(mk_service *s, int i, mk_err *err) MK_WARN_UNUSED;
// A duration as the service keeps it.
uint64_t mk_service_keep_ns(double seconds);
void mk_service_ready(mk_service *s);  // all models are listed, those wanted at once are there
int mk_service_n_model(const mk_service *s);
const char *mk_service_model_name(const mk_service *s, int i);  // as long as the service

// Refuses new requests (503) and waits until the running ones have ended, at most `seconds`.
// Returns how many were still running.
int mk_service_drain(mk_service *s, int seconds);
void mk_service_cancel(mk_service *s);  // what runs ends soon; mk_service_drain then returns
void mk_service_stop(mk_service *s);

#endif
