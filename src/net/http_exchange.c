// The life of an exchange and its answer, from any thread.
//
//   received  --handler called-->  asked  --mk_http_reply-->  replied  --sent-->  over
//                                    |                                             ^
//                                    +--mk_http_begin-->  streaming  --mk_http_end-+
//                                                             +-------mk_http_abort, connection cut
//
// From any state: client hangs up, time is over, server stops --> over (and gone).
//
// Invariants:
//  1. `waiting` is true exactly while the connection is suspended; it is set on the server's thread
//     under the lock, in the same breath as the suspension, and cleared by the resumption.
//  2. Who adds something to say (reply, bytes, end) while `waiting` puts the exchange on the ready
//     list; the server's thread resumes it.  So every resumption belongs to one suspension.
//  3. While not `waiting`, libmicrohttpd asks again by itself as soon as the socket takes more.
//  4. `ended` is final: nothing is added to an answer behind it, and on_gone is not called.
//  5. `over` is set once, on the server's thread; conn and mc are gone from then on.  Every
//     function of the answer is then a no-op.
//  6. The server holds one reference until the exchange is over; an application that drops its last
//     reference without having ended its answer gets it ended (500, or a cut stream), so that no
//     client waits forever.
#include <string.h>
#include <strings.h>

#include <sys/socket.h>

#include "base/alloc.h"
#include "base/log.h"
#include "net/http_int.h"

enum { STREAM_BLOCK = 16384, KEEP_QUEUE = 65536, FIRST_QUEUE = 1024 };

// --- life ----------------------------------------------------------------------------------------

mk_http_exchange *mk_http_exchange_create(mk_http *h, mk_http_conn *c, struct MHD_Connection *mc) {
    mk_http_exchange *x = mk_zalloc(sizeof *x);
    x->h = h;
    x->serial = ++h->last_serial;
    x->conn = c;
    x->mc = mc;
    x->refs = 1;
    memcpy(x->peer, c->peer, sizeof x->peer);
    pthread_mutex_init(&x->lock, NULL);
    pthread_mutex_init(&x->gone_lock, NULL);
    c->x = x;
    atomic_fetch_add(&h->refs, 1);
    atomic_fetch_add(&h->n_open, 1);
    return x;
}

static void destroy(mk_http_exchange *x) {
    mk_http *h = x->h;
    atomic_fetch_sub(&h->body_bytes, x->body_cap);
    mk_free(x->body);
    mk_free(x->fields);
    mk_free(x->query);
    mk_free(x->target);
    mk_free(x->method);
    mk_free(x->queue);
    pthread_mutex_destroy(&x->lock);
    pthread_mutex_destroy(&x->gone_lock);
    mk_free(x);
    mk_http_unref(h);
}

void mk_http_keep(mk_http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->refs++;
    pthread_mutex_unlock(&x->lock);
}

static void wake(mk_http_exchange *x) {
    if (x->waiting) {
        mk_http_push_ready(x);
    }
}

void mk_http_drop(mk_http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    if (--x->refs == 1 && !x->over && !x->ended && x->waiting) {
        x->ended = x->aborted = true;
        wake(x);
    }
    bool last = x->refs == 0;
    pthread_mutex_unlock(&x->lock);
    if (last) {
        destroy(x);
    }
}

// --- the client goes -----------------------------------------------------------------------------

// Calls on_gone, at most once.  No lock is held.
static void tell_gone(mk_http_exchange *x) {
    pthread_mutex_lock(&x->gone_lock);
    pthread_mutex_lock(&x->lock);
    void (*fn)(void *) = x->ended ? NULL : x->gone_fn;
    void *arg = x->gone_arg;
    x->gone_fn = NULL;
    pthread_mutex_unlock(&x->lock);
    if (fn) {
        fn(arg);
    }
    pthread_mutex_unlock(&x->gone_lock);
}

void mk_http_hung_up(mk_http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool ended = x->ended;
    x->gone = x->gone || !ended;
    pthread_mutex_unlock(&x->lock);
    if (ended) {
        return;  // it may still read what is on its way
    }
    x->conn->broken = true;
    shutdown(x->conn->fd, SHUT_RDWR);
    tell_gone(x);
    mk_http_resume(x);
}

void mk_http_exchange_over(mk_http_exchange *x, bool complete) {
    mk_http_conn *c = x->conn;
    c->x = NULL;
    c->deadline_ns = mk_now_ns() + (uint64_t)(x->h->o.idle_s + x->h->o.body_s) * MK_HTTP_NS_PER_S;
    pthread_mutex_lock(&x->lock);
    x->over = true;
    x->waiting = false;
    x->gone = x->gone || (!complete && !x->aborted);
    bool gone = x->gone;
    x->conn = NULL;
    x->mc = NULL;
    struct MHD_Response *r = x->response;
    x->response = NULL;
    mk_free(x->queue);
    x->queue = NULL;
    x->queue_at = x->queue_n = x->queue_cap = 0;
    pthread_mutex_unlock(&x->lock);
    if (r) {
        MHD_destroy_response(r);
    }
    if (gone) {
        tell_gone(x);
    }
    atomic_fetch_sub(&x->h->n_open, 1);
    mk_http_drop(x);
}

void mk_http_on_gone(mk_http_exchange *x, void (*fn)(void *arg), void *arg) {
    pthread_mutex_lock(&x->lock);
    bool now = fn && x->gone && !x->ended;
    x->gone_fn = now ? NULL : fn;
    x->gone_arg = arg;
    pthread_mutex_unlock(&x->lock);
    if (now) {
        fn(arg);
    } else if (!fn && !pthread_equal(pthread_self(), x->h->thread)) {
        pthread_mutex_lock(&x->gone_lock);  // until a call under way has returned
        pthread_mutex_unlock(&x->gone_lock);
    }
}

bool mk_http_gone(const mk_http_exchange *cx) {
    mk_http_exchange *x = (mk_http_exchange *)(uintptr_t)cx;
    pthread_mutex_lock(&x->lock);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone;
}

// --- server's thread: the answer goes out --------------------------------------------------------

// x->lock is held.
static void suspend(mk_http_exchange *x) {
    x->waiting = true;
    MHD_suspend_connection(x->mc);
    mk_http_watch(x->conn);
}

void mk_http_resume(mk_http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    if (x->waiting) {
        x->waiting = false;
        MHD_resume_connection(x->mc);
    }
    pthread_mutex_unlock(&x->lock);
}

static struct MHD_Response *text_response(const char *text) {
    return MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                           MHD_RESPMEM_PERSISTENT);
}

enum MHD_Result mk_http_give_answer(mk_http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    // Nobody is left who could answer, or nobody wants to.
    if (x->answer == MK_HTTP_UNANSWERED && !x->gone && (x->ended || x->refs == 1)) {
        x->ended = true;
        x->answer = MK_HTTP_REPLY;
        x->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        x->response = text_response("{\"error\":{\"message\":\"no answer\",\"code\":500}}\n");
    }
    enum MHD_Result result = MHD_YES;
    struct MHD_Response *r = x->response;
    x->response = NULL;
    if (x->gone || (!r && x->ended)) {
        result = MHD_NO;
    } else if (!r) {
        suspend(x);
    }
    pthread_mutex_unlock(&x->lock);
    if (r) {
        result = result == MHD_YES ? MHD_queue_response(x->mc, x->status, r) : MHD_NO;
        MHD_destroy_response(r);
    }
    return result;
}

// libmicrohttpd asks for the next bytes of a stream.
static ssize_t read_stream(void *arg, uint64_t at, char *out, size_t max) {
    (void)at;
    mk_http_exchange *x = arg;
    pthread_mutex_lock(&x->lock);
    size_t n = x->queue_n - x->queue_at;
    ssize_t result = 0;
    // A stream whose writers have all gone without ending it is cut.
    bool cut = x->aborted || (!x->ended && x->refs == 1);
    if (x->gone || x->h->stopping) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n) {
        n = n < max ? n : max;
        memcpy(out, x->queue + x->queue_at, n);
        x->queue_at += n;
        result = (ssize_t)n;
    } else if (cut) {
        x->ended = x->aborted = true;
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (x->ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        suspend(x);
    }
    if (x->queue_at == x->queue_n) {
        x->queue_at = x->queue_n = 0;
        if (x->queue_cap > KEEP_QUEUE) {
            mk_free(x->queue);
            x->queue = NULL;
            x->queue_cap = 0;
        }
    }
    pthread_mutex_unlock(&x->lock);
    return result;
}

// --- any thread: the answer ----------------------------------------------------------------------

static void add_headers(const mk_http_exchange *x, struct MHD_Response *r,
                        const mk_http_field *headers, int n) {
    for (int i = 0; i < n; i++) {
        // refuses line breaks, so that a value cannot become a header of its own
        if (MHD_add_response_header(r, headers[i].name, headers[i].value) != MHD_YES) {
            mk_log_msg(MK_LOG_WARN, "HTTP header %s cannot be sent", headers[i].name);
        }
    }
    if (atomic_load(&x->h->closing)) {
        (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    }
}

// Takes r, NULL if there was no memory for it.
static void set_answer(mk_http_exchange *x, mk_http_answer kind, int status,
                       struct MHD_Response *r) {
    pthread_mutex_lock(&x->lock);
    MK_ASSERT(x->answer == MK_HTTP_UNANSWERED);
    bool in_time = !x->over && !x->ended;
    x->answer = kind;
    x->ended = x->ended || kind == MK_HTTP_REPLY;
    if (in_time) {
        if (!r) {
            x->ended = x->aborted = true;
        }
        x->status = (unsigned)status;
        x->response = r;
        r = NULL;
        wake(x);
    }
    pthread_mutex_unlock(&x->lock);
    if (r) {
        MHD_destroy_response(r);
    }
}

void mk_http_reply(mk_http_exchange *x, int status, const mk_http_field *headers, int n_headers,
                   const void *body, size_t n) {
    struct MHD_Response *r = MHD_create_response_from_buffer(n, (void *)(uintptr_t)(n ? body : ""),
                                                             MHD_RESPMEM_MUST_COPY);
    if (r) {
        add_headers(x, r, headers, n_headers);
    }
    set_answer(x, MK_HTTP_REPLY, status, r);
}

void mk_http_begin(mk_http_exchange *x, int status, const mk_http_field *headers, int n_headers) {
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x, NULL);
    if (r) {
        add_headers(x, r, headers, n_headers);
    }
    set_answer(x, MK_HTTP_STREAM, status, r);
}

// Room for n more bytes behind queue_n, or false.  x->lock is held.
static bool reserve(mk_http_exchange *x, size_t n) {
    size_t waiting = x->queue_n - x->queue_at;
    if (n > x->h->o.max_queue - waiting) {
        return false;
    }
    if (n <= x->queue_cap - x->queue_n) {
        return true;
    }
    if (x->queue_at) {
        memmove(x->queue, x->queue + x->queue_at, waiting);
        x->queue_at = 0;
        x->queue_n = waiting;
    }
    size_t cap = x->queue_cap ? x->queue_cap : FIRST_QUEUE;
    while (cap < waiting + n) {
        cap *= 2;
    }
    if (cap == x->queue_cap) {
        return true;
    }
    char *p = mk_try_realloc(x->queue, cap, 1);
    if (!p) {
        return false;
    }
    x->queue = p;
    x->queue_cap = cap;
    return true;
}

bool mk_http_write(mk_http_exchange *x, const void *p, size_t n) {
    pthread_mutex_lock(&x->lock);
    MK_ASSERT(x->answer == MK_HTTP_STREAM || x->over || x->ended);
    bool ok = !x->over && !x->gone && !x->ended && reserve(x, n);
    if (ok && n) {
        memcpy(x->queue + x->queue_n, p, n);
        x->queue_n += n;
        wake(x);
    }
    pthread_mutex_unlock(&x->lock);
    return ok;
}

size_t mk_http_queued(const mk_http_exchange *cx) {
    mk_http_exchange *x = (mk_http_exchange *)(uintptr_t)cx;
    pthread_mutex_lock(&x->lock);
    size_t n = x->queue_n - x->queue_at;
    pthread_mutex_unlock(&x->lock);
    return n;
}

static void end(mk_http_exchange *x, bool aborted) {
    pthread_mutex_lock(&x->lock);
    if (!x->ended) {
        x->ended = true;
        x->aborted = aborted;
        if (!x->over) {
            wake(x);
        }
    }
    pthread_mutex_unlock(&x->lock);
}

void mk_http_end(mk_http_exchange *x) {
    end(x, false);
}

void mk_http_abort(mk_http_exchange *x) {
    end(x, true);
}

// --- the request ---------------------------------------------------------------------------------

const char *mk_http_method(const mk_http_exchange *x) {
    return x->method;
}

const char *mk_http_path(const mk_http_exchange *x) {
    return x->path;
}

const char *mk_http_query(const mk_http_exchange *x, const char *key) {
    for (int i = 0; i < x->n_query; i++) {
        if (strcmp(x->query[i].name, key) == 0) {
            return x->query[i].value;
        }
    }
    return NULL;
}

const char *mk_http_header(const mk_http_exchange *x, const char *name) {
    for (int i = 0; i < x->n_fields; i++) {
        if (strcasecmp(x->fields[i].name, name) == 0) {
            return x->fields[i].value;
        }
    }
    return NULL;
}

const char *mk_http_body(const mk_http_exchange *x, size_t *n) {
    if (n) {
        *n = x->n_body;
    }
    return x->body ? x->body : "";
}

const char *mk_http_peer(const mk_http_exchange *x) {
    return x->peer;
}

uint64_t mk_http_serial(const mk_http_exchange *x) {
    return x->serial;
}
