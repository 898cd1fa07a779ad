// HTTP server: whole requests in, replies or streams out, from any thread.
//
// A thin layer over libmicrohttpd that knows nothing of language models.  One thread of its own
// reads and writes all connections (epoll); the handler is called there, once per request, after
// its body has arrived, and must not block: it answers at once or keeps the exchange and answers
// later from any thread.  An exchange is counted: the handler gets it borrowed; mk_http_keep /
// mk_http_drop make it live longer.
//
// Streams: bytes written are queued and go out as the client reads.  A client that does not read
// fills its queue; then mk_http_write says so and the caller stops (a slow reader never costs more
// than max_queue bytes).  A client that hangs up, while it waits for its answer too, is noticed
// within a second and reported through on_gone.
#ifndef MK_NET_HTTP_H
#define MK_NET_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct mk_http mk_http;
typedef struct mk_http_exchange mk_http_exchange;
typedef void (*mk_http_handler)(void *arg, mk_http_exchange *x);

typedef struct {
    const char *host;       // "127.0.0.1", "::1", "0.0.0.0", a name; NULL = "127.0.0.1"
    int port;               // 0: any free one
    const char *unix_path;  // listen on this socket file instead; NULL
    mk_http_handler handler;
    void *arg;
    size_t max_body;      // bytes of a request body; 0 = 32 MiB; more: 413; all together 8 times
    size_t max_header;    // bytes of request line and headers together; 0 = 32 KiB; more: 431
    size_t max_queue;     // bytes of a stream that wait for the client; 0 = 4 MiB
    int max_connections;  // 0 = 1024; more are turned away
    int max_per_address;  // 0 = no limit
    int idle_s;           // a connection that sends nothing for so long is closed; 0 = 60
    int body_s;           // a request must have arrived after so long; 0 = 120
} mk_http_opts;

// Errors: MK_EUSAGE (address), MK_EIO (port in use: says so and by what number).
mk_status mk_http_start(const mk_http_opts *o, mk_http **out, mk_err *err) MK_WARN_UNUSED;
int mk_http_port(const mk_http *h);
// Stops listening; exchanges go on.  Then mk_http_stop closes what is left and frees.
void mk_http_stop_listening(mk_http *h);
void mk_http_stop(mk_http *h);
int mk_http_n_open(const mk_http *h);  // exchanges that have not ended

// --- the request: valid as long as the exchange --------------------------------------------------
const char *mk_http_method(const mk_http_exchange *x);
const char *mk_http_path(const mk_http_exchange *x);                      // decoded, without query
const char *mk_http_query(const mk_http_exchange *x, const char *key);    // NULL
const char *mk_http_header(const mk_http_exchange *x, const char *name);  // any case; NULL
const char *mk_http_body(const mk_http_exchange *x, size_t *n);           // NUL behind it
const char *mk_http_peer(const mk_http_exchange *x);                      // "127.0.0.1", "unix"
uint64_t mk_http_serial(const mk_http_exchange *x);

void mk_http_keep(mk_http_exchange *x);
void mk_http_drop(mk_http_exchange *x);
// Called once, on the server's thread, if the client goes before its answer is complete.  Setting
// it after the client has gone calls it at once, on the caller's thread.  NULL takes it back; after
// that returns it is not running, so the caller may hold no lock that fn takes.  It is not called
// any more after mk_http_reply, mk_http_end or mk_http_abort, but may still be running then: take
// it back before arg is freed.
void mk_http_on_gone(mk_http_exchange *x, void (*fn)(void *arg), void *arg);
bool mk_http_gone(const mk_http_exchange *x);

// --- the answer ----------------------------------------------------------------------------------
typedef struct {
    const char *name, *value;
} mk_http_field;

// The answer may be given on any thread, by one at a time.  Who drops the last reference without
// having given it leaves 500 to the client, or a stream that is cut.

// The whole answer.  Once per exchange.  The body is copied.
void mk_http_reply(mk_http_exchange *x, int status, const mk_http_field *headers, int n_headers,
                   const void *body, size_t n);
// A stream: headers go out at once.
void mk_http_begin(mk_http_exchange *x, int status, const mk_http_field *headers, int n_headers);
// False: the client has gone or its queue is full; nothing of this was taken.
bool mk_http_write(mk_http_exchange *x, const void *p, size_t n);
size_t mk_http_queued(const mk_http_exchange *x);
void mk_http_end(mk_http_exchange *x);
// Ends a stream so that the client sees that it is not complete: what is queued still goes out, the
// last chunk does not.  (A client of HTTP/1.0 cannot see it.)  Before mk_http_begin: 500.
void mk_http_abort(mk_http_exchange *x);

#endif
