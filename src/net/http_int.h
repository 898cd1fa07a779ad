// Private parts of the HTTP server.
//
// http.c            the server's thread: accepts, resumes, counts time, stops
// http_conn.c       its connections: taken, watched, late, closed, drained
// http_request.c    what libmicrohttpd hands in becomes an exchange; requests that are refused
// http_exchange.c   the exchange's life and its answer, from any thread
// http_target.c     the request target: path and query (pure)
// http_listen.c     listening sockets and what to say if the address is taken (pure)
//
// Locks: an exchange's `lock` is taken before the server's `lock`; no callback of the application
// runs under either.  Fields marked [loop] belong to the server's thread alone.
#ifndef MK_NET_HTTP_INT_H
#define MK_NET_HTTP_INT_H

#include <arpa/inet.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "net/http.h"

enum { MK_HTTP_PEER_MAX = INET6_ADDRSTRLEN };
#define MK_HTTP_NS_PER_S UINT64_C(1000000000)

// What an event of the server's epoll set is about; the first member of everything that is in it.
typedef enum {
    MK_HTTP_SRC_DAEMON,  // libmicrohttpd's own epoll set
    MK_HTTP_SRC_WAKE,
    MK_HTTP_SRC_LISTEN,
    MK_HTTP_SRC_CONN,
    MK_HTTP_SRC_LINGER,
} mk_http_source;

// A connection: from accept until libmicrohttpd closes it.  [loop]
typedef struct mk_http_conn {
    mk_http_source source;
    mk_http *h;
    struct mk_http_conn *next, *prev;
    int fd;
    char peer[MK_HTTP_PEER_MAX];
    uint64_t deadline_ns;  // the request must be here by then; 0 = it is
    mk_http_exchange *x;   // the request on its way or being answered
    bool watched;          // its descriptor is in h->ep
    bool said_all;         // the client has closed its side
    bool broken;           // nothing that we could still say would be read
} mk_http_conn;

// A connection that we have closed and whose client may still be sending: what it sends is thrown
// away for a while, because a close with unread bytes would reset the connection and the client
// could lose the answer.  [loop]
typedef struct mk_http_linger {
    mk_http_source source;
    struct mk_http_linger *next;
    int fd;
    uint64_t deadline_ns;
    size_t left;  // bytes that we still take
} mk_http_linger;

struct mk_http {
    mk_http_opts o;  // zeros replaced by the defaults; host and unix_path are not kept
    char *unix_path;
    int port;
    pthread_t thread;
    atomic_int refs;  // the owner's and one of every exchange that is not yet freed
    atomic_int n_open;
    atomic_size_t body_bytes;  // of all exchanges
    atomic_bool closing;       // no longer listening: replies say that the connection ends

    pthread_mutex_t lock;     // guards:
    mk_http_exchange *ready;  // exchanges that may go on; holds references
    bool want_stop;

    // [loop]
    struct MHD_Daemon *daemon;
    int ep, wake_fd, listen_fd;
    mk_http_source src_daemon, src_wake, src_listen;
    uint64_t listen_again_ns;  // accepting pauses until then; 0 = it does not
    mk_http_conn *conns, *accepting;
    int n_conns, n_said_all;
    mk_http_linger *lingers;
    int n_lingers;
    uint64_t last_serial;
    uint64_t next_tick_ns;
    bool stopping;  // every connection ends now
};

typedef enum {
    MK_HTTP_UNANSWERED,
    MK_HTTP_REPLY,   // a whole answer
    MK_HTTP_STREAM,  // begun
} mk_http_answer;

struct mk_http_exchange {
    mk_http *h;
    // the request: written on the server's thread before the handler is called, then constant
    uint64_t serial;
    char peer[MK_HTTP_PEER_MAX];
    char *method;
    char *target;  // path and query, decoded; both point into it
    const char *path;
    mk_http_field *query, *fields;
    int n_query, n_fields;
    char *body;
    size_t n_body, body_cap;
    // [loop]
    const char *refusal;    // why the target was not understood
    const char *authority;  // of an absolute target; points into it
    mk_http_conn *conn;     // NULL once the exchange is over
    struct MHD_Connection *mc;
    bool has_headers, asked;
    // one call of on_gone runs under it, so that taking the callback back can wait for it
    pthread_mutex_t gone_lock;

    pthread_mutex_t lock;  // guards everything below
    int refs;
    bool waiting;  // the connection is suspended until there is something to send
    bool in_ready;
    mk_http_exchange *next_ready;  // guarded by h->lock
    mk_http_answer answer;
    bool ended;    // the application has said all
    bool aborted;  // ended, but not well
    bool gone;     // the client went before all of the answer was sent
    bool over;     // nothing is sent any more, for whatever reason
    struct MHD_Response *response;
    unsigned status;
    char *queue;  // bytes [queue_at, queue_n) wait
    size_t queue_at, queue_n, queue_cap;
    void (*gone_fn)(void *);
    void *gone_arg;
};

// --- http_target.c -------------------------------------------------------------------------------
// Splits the target of a request ("/a%20b?k=v", or absolute) into decoded path and query.  *text
// (mk_free) holds all strings, *query (mk_free) is a table of them; an absolute target's authority
// must equal the Host header, which the caller checks: *authority, NULL if there is none.  Returns
// NULL or what is wrong with it.
const char *mk_http_parse_target(const char *target, char **text, const char **path,
                                 const char **authority, mk_http_field **query, int *n_query);

// --- http_listen.c -------------------------------------------------------------------------------
mk_status mk_http_listen(const mk_http_opts *o, int *fd, int *port, mk_err *err) MK_WARN_UNUSED;

// --- http_request.c [loop] -----------------------------------------------------------------------
void *mk_http_on_target(void *h, const char *target, struct MHD_Connection *mc);
enum MHD_Result mk_http_on_request(void *h, struct MHD_Connection *mc, const char *url,
                                   const char *method, const char *version, const char *upload,
                                   size_t *n_upload, void **x);
void mk_http_on_completed(void *h, struct MHD_Connection *mc, void **x,
                          enum MHD_RequestTerminationCode code);
// Writes a whole error answer to the socket, past libmicrohttpd: only while nothing else is being
// sent, and the connection must be closed after it.
void mk_http_refuse(int fd, int status, const char *message);

// --- http_exchange.c [loop] ----------------------------------------------------------------------
mk_http_exchange *mk_http_exchange_create(mk_http *h, mk_http_conn *c, struct MHD_Connection *mc);
// Hands the answer to libmicrohttpd, or suspends the connection until there is one.
enum MHD_Result mk_http_give_answer(mk_http_exchange *x);
// The client has hung up: the exchange is told, and its connection ends in the next round.
void mk_http_hung_up(mk_http_exchange *x);
// Nothing more is sent.  Drops the server's reference.
void mk_http_exchange_over(mk_http_exchange *x, bool complete);
void mk_http_resume(mk_http_exchange *x);  // if it waits

// --- http_conn.c [loop] --------------------------------------------------------------------------
bool mk_http_set_add(mk_http *h, int fd, uint32_t events, mk_http_source *source);
void mk_http_set_remove(mk_http *h, int fd);
// A client that was accepted, or is told that it is too many.  Takes fd.
void mk_http_take_connection(mk_http *h, int fd, const struct sockaddr_storage *a, socklen_t n);
// libmicrohttpd has taken a connection, or is about to close it.
void mk_http_on_connection(void *h, struct MHD_Connection *mc, void **context,
                           enum MHD_ConnectionNotificationCode code);
void mk_http_watch(mk_http_conn *c);  // notice a hang-up
// The client has closed its side, or all of the connection.
void mk_http_said_all(mk_http *h, mk_http_conn *c);
void mk_http_close_ended(mk_http *h);  // connections whose end libmicrohttpd overlooked
void mk_http_late(mk_http_conn *c);    // its request took too long
void mk_http_linger_read(mk_http *h, mk_http_linger *l);
void mk_http_linger_end(mk_http *h, mk_http_linger *l);

// --- http.c --------------------------------------------------------------------------------------
void mk_http_push_ready(mk_http_exchange *x);  // any thread; x->lock is held
void mk_http_unref(mk_http *h);

#endif
