// From a request to its handler: who may ask, and for what.
//
// Checks stand in front of every route, in this order: Host (a page on another site must not reach
// a server on loopback by a name of its own: DNS rebinding), Origin, key.  Paths are matched after
// forgiving what clients get wrong: /v1 missing or twice, a slash at the end.
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "net/loopback.h"
#include "serve/service_int.h"

#define ANSWER(path_, dialect_)                                                                    \
    {                                                                                              \
        .method = "POST", .path = path_, .dialect = &dialect_, .handle = mk_service_answer,        \
        .worker = true, .metered = true                                                            \
    }
#define PLAIN(method_, path_, name_)                                                               \
    { .method = method_, .path = path_, .handle = mk_plain_##name_, .worker = true }
#define COUNT(path_, dialect_)                                                                     \
    {                                                                                              \
        .method = "POST", .path = path_, .dialect = &dialect_, .handle = mk_plain_count_tokens,    \
        .worker = true                                                                             \
    }
#define OLLAMA(method_, path_, name_)                                                              \
    {                                                                                              \
        .method = method_, .path = path_, .dialect = &mk_dialect_ollama_chat,                      \
        .handle = mk_plain_##name_, .worker = true                                                 \
    }
#define OPEN(method_, path_, name_)                                                                \
    { .method = method_, .path = path_, .handle = mk_plain_##name_, .open = true, .early = true }

static const route routes[] = {
    ANSWER("/v1/chat/completions", mk_dialect_openai_chat),
    ANSWER("/v1/completions", mk_dialect_openai_completions),
    ANSWER("/v1/responses", mk_dialect_openai_responses),
    ANSWER("/v1/messages", mk_dialect_anthropic),
    ANSWER("/api/chat", mk_dialect_ollama_chat),
    ANSWER("/api/generate", mk_dialect_ollama_generate),
    COUNT("/v1/messages/count_tokens", mk_dialect_anthropic),
    COUNT("/v1/chat/completions/input_tokens", mk_dialect_openai_chat),
    COUNT("/v1/responses/input_tokens", mk_dialect_openai_responses),
    PLAIN("GET", "/v1/models", models),
    PLAIN("GET", "/v1/models/*", model),
    PLAIN("POST", "/tokenize", tokenize),
    PLAIN("POST", "/detokenize", detokenize),
    PLAIN("POST", "/apply-template", apply_template),
    PLAIN("GET", "/metrics", metrics),
    OPEN("GET", "/health", health),
    OPEN("GET", "/", page),
    OPEN("GET", "/web/*", page),
    OPEN("GET", "/api/version", ollama_version),
    {.method = "POST",
     .path = "/v1/embeddings",
     .handle = mk_plain_embeddings,
     .worker = true,
     .metered = true},
    {.method = "POST",
     .path = "/api/embed",
     .dialect = &mk_dialect_ollama_chat,
     .handle = mk_plain_ollama_embed,
     .worker = true,
     .metered = true},
    PLAIN("GET", "/v1/responses/*/input_items", response_items),
    PLAIN("POST", "/v1/responses/*/cancel", response_cancel),
    PLAIN("GET", "/v1/responses/*", response_get),
    PLAIN("DELETE", "/v1/responses/*", response_delete),
    {.method = "GET", .path = "/usage", .handle = mk_plain_usage, .worker = true, .early = true},
    OLLAMA("GET", "/api/tags", ollama_tags),
    OLLAMA("POST", "/api/show", ollama_show),
    OLLAMA("GET", "/api/ps", ollama_ps),
};
enum { N_ROUTE = sizeof routes / sizeof routes[0] };

// --- replies -------------------------------------------------------------------------------------

const char *mk_service_cors(mk_service *s, mk_http_exchange *x) {
    const char *origin = mk_http_header(x, "Origin");
    for (int i = 0; origin && i < s->o.n_origins; i++) {
        if (strcmp(s->o.origins[i], "*") == 0 || strcasecmp(s->o.origins[i], origin) == 0) {
            return origin;
        }
    }
    return NULL;
}

void mk_service_reply(mk_service *s, mk_http_exchange *x, mk_service_head head, const char *body,
                      size_t n) {
    char retry[24];
    const char *cors = mk_service_cors(s, x);
    mk_http_field f[5] = {{"Content-Type", head.type ? head.type : "application/json"}};
    int k = 1;
    if (cors) {
        f[k++] = (mk_http_field){"Access-Control-Allow-Origin", cors};
        f[k++] = (mk_http_field){"Vary", "Origin"};
    }
    if (head.retry_s > 0) {
        snprintf(retry, sizeof retry, "%lld", (long long)head.retry_s);
        f[k++] = (mk_http_field){"Retry-After", retry};
    }
    if (head.status == 401) {
        f[k++] = (mk_http_field){"WWW-Authenticate", "Bearer"};
    }
    mk_http_reply(x, head.status ? head.status : 200, f, k, body, n);
}

static void refuse(mk_service *s, mk_http_exchange *x, const mk_dialect *d, int status,
                   int64_t retry_s, const mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, 1 << 20);
    (d ? d : &mk_dialect_openai_chat)->error(status, err, &b);
    mk_service_head head = {.status = status, .retry_s = retry_s};
    mk_service_reply(s, x, head, b.data ? b.data : "", b.len);
    mk_buf_free(&b);
}

void mk_service_fail(mk_service *s, mk_http_exchange *x, const mk_dialect *d, int status,
                     const mk_err *err) {
    refuse(s, x, d, status, status == 429 || status == 503, err);
}

void mk_service_refuse(mk_service *s, mk_http_exchange *x, const mk_dialect *d, int64_t retry_s,
                       const mk_err *err) {
    atomic_fetch_add(&s->n_refused, 1);
    refuse(s, x, d, 429, retry_s > 0 ? retry_s : 1, err);
}

void mk_service_reply_buf(mk_service *s, mk_http_exchange *x, mk_service_head head, mk_buf *b) {
    if (b->failed) {
        mk_err err = {.code = MK_ENOMEM, .msg = "no memory for the answer"};
        mk_service_fail(s, x, NULL, 500, &err);
    } else {
        mk_service_reply(s, x, head, b->data ? b->data : "", b->len);
    }
    mk_buf_free(b);
}

void mk_service_json(mk_service *s, mk_http_exchange *x, int status, json_t *v) {
    mk_buf b;
    mk_buf_init(&b, (size_t)1 << 28);
    if (v) {
        mk_json_add(&b, v);
    }
    b.failed = b.failed || !v;
    json_decref(v);
    mk_service_reply_buf(s, x, (mk_service_head){.status = status}, &b);
}

// --- who may ask ---------------------------------------------------------------------------------

// Length of the host in "host:port" or "[v6]:port".
static size_t host_length(const char *h) {
    const char *end = h[0] == '[' ? strchr(h, ']') : NULL;
    if (end) {
        return (size_t)(end - h) + 1;
    }
    return strcspn(h, ":");
}

static bool same_name(const char *name, const char *h, size_t n) {
    return strlen(name) == n && strncasecmp(name, h, n) == 0;
}

// The machine's own name, as it is, without its domain, and as the local network finds it.
static bool is_hostname(const mk_service *s, const char *h, size_t n) {
    static const char local[] = ".local";
    size_t first = strcspn(s->hostname, "."), more = sizeof local - 1;
    return s->hostname[0] &&
           (same_name(s->hostname, h, n) || (n == first && strncasecmp(s->hostname, h, n) == 0) ||
            (n == first + more && strncasecmp(s->hostname, h, first) == 0 &&
             strncasecmp(h + first, local, more) == 0));
}

static bool need_key(mk_service *s) {
    return s->o.key || (!s->o.no_key && (!s->loopback || mk_keys_any(s->keys)));
}

// A page elsewhere can make a name of its own mean this machine, but neither an address nor a name
// that is ours.  Beyond loopback a key protects as well; without one, names do.
static bool host_allowed(mk_service *s, const char *h) {
    size_t n = host_length(h);
    if (mk_is_loopback(h, n) || s->o.unix_path || (!s->loopback && need_key(s))) {
        return true;
    }
    for (int i = 0; i < s->o.n_hosts; i++) {
        if (same_name(s->o.hosts[i], h, n) || strcmp(s->o.hosts[i], "*") == 0) {
            return true;
        }
    }
    return !s->loopback && (mk_is_address(h, n) || is_hostname(s, h, n));
}

static mk_status refuse_host(const mk_service *s, const char *host, mk_err *err) {
    return s->loopback
               ? MK_FAIL(err, MK_EUSAGE,
                         "this server answers to localhost only, not to '%.100s'; --allow-host "
                         "adds a name",
                         host)
               : MK_FAIL(err, MK_EUSAGE,
                         "this server asks for no key, so it answers to its addresses, localhost "
                         "and '%.100s' only, not to '%.100s'; start it with a key, or add the name "
                         "with --allow-host ('*': any)",
                         s->hostname, host);
}

// A page may call us if it came from us, or from where it was allowed.
static bool origin_allowed(mk_service *s, mk_http_exchange *x) {
    const char *o = mk_http_header(x, "Origin"), *h = mk_http_header(x, "Host");
    if (!o || mk_service_cors(s, x)) {
        return true;
    }
    const char *at = strstr(o, "://");
    return at && h && strcasecmp(at + 3, h) == 0;
}

// Compares in a time that says nothing about where the texts differ.
static bool same_secret(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    unsigned diff = n != m;
    for (size_t i = 0; i < m; i++) {
        diff |= (unsigned)(a[n ? i % n : 0] ^ b[i]);
    }
    return diff == 0;
}

static const char *bearer(mk_http_exchange *x) {
    const char *a = mk_http_header(x, "Authorization");
    if (a && strncasecmp(a, "Bearer ", 7) == 0) {
        return a + 7;
    }
    return mk_http_header(x, "x-api-key");
}

// The key given on the command line may do everything; those of the store have scopes.
static bool find_key(mk_service *s, const char *given, caller *c) {
    mk_key k;
    if (s->o.key && same_secret(s->o.key, given)) {
        c->scopes = MK_SCOPE_INFER | MK_SCOPE_ADMIN;
        snprintf(c->key_id, sizeof c->key_id, "%s", "command line");
        return true;
    }
    if (!mk_keys_find(s->keys, given, &k)) {
        return false;
    }
    c->scopes = k.scopes;
    snprintf(c->key_id, sizeof c->key_id, "%s", k.id);
    return true;
}

static mk_status check_caller(mk_service *s, mk_http_exchange *x, const route *r, caller *c,
                              int *status, mk_err *err) {
    const char *host = mk_http_header(x, "Host");
    *c = (caller){.scopes = MK_SCOPE_INFER | MK_SCOPE_ADMIN};
    *status = 403;
    if (host && !host_allowed(s, host)) {
        return refuse_host(s, host, err);
    }
    if (!origin_allowed(s, x)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "pages from '%.100s' may not call this server; --allow-origin adds them",
                       mk_http_header(x, "Origin"));
    }
    if (!need_key(s) || r->open) {
        return MK_OK;
    }
    const char *key = bearer(x);
    *status = 401;
    if (!key) {
        return MK_FAIL(err, MK_EUSAGE,
                       "no key given; send the header 'Authorization: Bearer KEY' or 'x-api-key'");
    }
    if (!find_key(s, key, c)) {
        return MK_FAIL(err, MK_EUSAGE, "this key is not known here");
    }
    *status = 403;
    return !r->metered || (c->scopes & MK_SCOPE_INFER)
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "this key has the scope %s only; answers need infer",
                         mk_scopes_text(c->scopes));
}

// --- paths ---------------------------------------------------------------------------------------

static bool path_matches(const char *pattern, const char *path) {
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            size_t n = pattern[1] ? strcspn(path, "/") : strlen(path);
            if (n == 0) {
                return false;
            }
            path += n;
        } else if (*path++ != *pattern) {
            return false;
        }
    }
    return *path == 0;
}

// What clients get wrong about base addresses: /v1/v1/..., /beta/..., /anthropic/v1/..., no /v1.
static void forgive(const char *path, char *out, size_t size) {
    static const char *const prefixes[] = {"/beta", "/anthropic", "/openai"};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        size_t n = strlen(prefixes[i]);
        if (strncmp(path, prefixes[i], n) == 0 && path[n] == '/') {
            path += n;
        }
    }
    while (strncmp(path, "/v1/v1/", 7) == 0) {
        path += 3;
    }
    static const char *const bare[] = {"/chat/completions", "/completions", "/responses",
                                       "/messages",         "/models",      "/embeddings"};
    bool add = false;
    for (size_t i = 0; i < sizeof bare / sizeof bare[0]; i++) {
        add |= strncmp(path, bare[i], strlen(bare[i])) == 0;
    }
    snprintf(out, size, "%s%s", add ? "/v1" : "", path);
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') {
        out[--n] = 0;
    }
}

static const route *find_route(const char *method, const char *path, bool *path_known) {
    *path_known = false;
    if (strcmp(method, "HEAD") == 0) {
        method = "GET";
    }
    for (int i = 0; i < N_ROUTE; i++) {
        if (path_matches(routes[i].path, path)) {
            *path_known = true;
            if (strcmp(routes[i].method, method) == 0) {
                return &routes[i];
            }
        }
    }
    return NULL;
}

// What clients know of, and would take for a route with a wildcard that wants another method.
static const struct {
    const char *method, *path, *advice;
} unsupported[] = {
    {"POST", "/v1/responses/compact",
     "a conversation is not compacted here; send it as it is, or what is left of it"},
};

static bool refuse_unsupported(mk_service *s, mk_http_exchange *x, const char *path) {
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++) {
        if (strcmp(mk_http_method(x), unsupported[i].method) == 0 &&
            strcmp(path, unsupported[i].path) == 0) {
            mk_err err;
            (void)MK_FAIL(&err, MK_ENOTFOUND, "%s %s is not supported: %s", unsupported[i].method,
                          unsupported[i].path, unsupported[i].advice);
            mk_service_fail(s, x, NULL, 404, &err);
            return true;
        }
    }
    return false;
}

static void no_route(mk_service *s, mk_http_exchange *x, const char *path, bool known) {
    if (refuse_unsupported(s, x, path)) {
        return;
    }
    mk_buf list;
    mk_buf_init(&list, 1 << 14);
    for (int i = 0; i < N_ROUTE; i++) {
        mk_buf_printf(&list, "%s%s %s", i ? ", " : "", routes[i].method, routes[i].path);
    }
    mk_err err;
    (void)MK_FAIL(&err, MK_ENOTFOUND, "%s %.100s: %s; there are %s", mk_http_method(x), path,
                  known ? "another method is expected here" : "there is nothing here", list.data);
    bool ollama = strncmp(path, "/api/", 5) == 0;
    bool anthropic = strncmp(path, "/v1/messages", 12) == 0;
    mk_service_fail(s, x,
                    ollama      ? &mk_dialect_ollama_chat
                    : anthropic ? &mk_dialect_anthropic
                                : NULL,
                    known ? 405 : 404, &err);
    mk_buf_free(&list);
}

// A browser asks first whether it may.
static void preflight(mk_service *s, mk_http_exchange *x) {
    const char *cors = mk_service_cors(s, x);
    const char *headers = mk_http_header(x, "Access-Control-Request-Headers");
    const mk_http_field f[] = {{"Access-Control-Allow-Origin", cors},
                               {"Access-Control-Allow-Methods", "GET, POST, DELETE"},
                               {"Access-Control-Allow-Headers", headers ? headers : "content-type"},
                               {"Access-Control-Max-Age", "600"},
                               {"Vary", "Origin"}};
    mk_http_reply(x, cors ? 204 : 403, f, cors ? 5 : 0, "", 0);
}

// --- dispatch ------------------------------------------------------------------------------------

typedef struct {
    mk_service *s;
    mk_http_exchange *x;
    const route *r;
    caller c;
} errand;

static void run_errand(void *arg) {
    errand *e = arg;
    e->r->handle(e->s, e->x, e->r, &e->c);
    mk_http_drop(e->x);
    mk_free(e);
}

static void dispatch(mk_service *s, mk_http_exchange *x, const route *r, const caller *c) {
    if (!r->worker) {
        r->handle(s, x, r, c);
        return;
    }
    errand *e = mk_zalloc(sizeof *e);
    *e = (errand){s, x, r, *c};
    mk_http_keep(x);
    if (!mk_workers_post(s->workers, run_errand, e)) {
        mk_err err;
        (void)MK_FAIL(&err, MK_ELIMIT, "too many requests wait to be read; try again later");
        atomic_fetch_add(&s->n_refused, 1);
        mk_service_fail(s, x, r->dialect, 429, &err);
        mk_http_drop(x);
        mk_free(e);
    }
}

void mk_service_handle(void *arg, mk_http_exchange *x) {
    mk_service *s = arg;
    char path[512];
    mk_err err = {0};
    caller c;
    bool known = false;
    int status = 0;
    int64_t retry_s = 0;
    atomic_fetch_add(&s->n_requests, 1);
    forgive(mk_http_path(x), path, sizeof path);
    if (strcmp(mk_http_method(x), "OPTIONS") == 0) {
        preflight(s, x);
        return;
    }
    const route *r = find_route(mk_http_method(x), path, &known);
    static const route none = {.path = "", .open = true};
    if (check_caller(s, x, r ? r : &none, &c, &status, &err) != MK_OK) {
        atomic_fetch_add(&s->n_refused, 1);
        mk_service_fail(s, x, r ? r->dialect : NULL, status, &err);
    } else if (!r) {
        no_route(s, x, path, known);
    } else if (!r->early && !atomic_load(&s->ready)) {
        (void)MK_FAIL(&err, MK_ELIMIT, "the model is being loaded; GET /health says how far it is");
        mk_service_fail(s, x, r->dialect, 503, &err);
    } else if (!r->early && atomic_load(&s->draining)) {
        (void)MK_FAIL(&err, MK_ELIMIT, "the server is shutting down");
        mk_service_fail(s, x, r->dialect, 503, &err);
    } else if (r->metered &&
               mk_keys_admit(s->keys, c.key_id, mk_moment_now(), &retry_s, &err) != MK_OK) {
        mk_service_refuse(s, x, r->dialect, retry_s, &err);
    } else {
        dispatch(s, x, r, &c);
    }
}
