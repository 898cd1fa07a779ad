// The server's thread: one loop over one epoll set.
//
// libmicrohttpd runs inside this loop, in its external mode with an epoll set of its own, and not
// on a thread of its own.  So all of it is called on one thread, and what it leaves out stands
// beside it without a race:
//
//   what                         how
//   hang-up while suspended      libmicrohttpd forgets the socket of a suspended connection; here
//                                every connection is in the set, for EPOLLRDHUP alone (no reads)
//   slow requests                a deadline per connection, looked at four times a second
//   connection limits            accept is ours: a client that is too many gets 503 or 429
//   answers of other threads     they put the exchange on h->ready and write to an eventfd
//   close with unread input      the socket is duplicated and drained for a while (mk_http_linger)
//
// One round: wait; events; resume what is ready; let libmicrohttpd read, call and write; deadlines.
//
// An orderly half-close of the client (FIN) while it waits counts as a hang-up, as in most servers:
// it cannot be told from a client that has gone.  Behind a complete answer it is ignored.
//
// Stopping: listening ends, finished answers get a moment to leave (FLUSH_MS), then `stopping` is
// set, every suspended connection is resumed into a callback that refuses to go on, and
// libmicrohttpd closes the rest.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "net/http_int.h"

enum {
    TICK_MS = 250,
    FLUSH_MS = 300,
    ACCEPT_PAUSE_MS = 100,
    ACCEPT_BATCH = 32,
    EVENTS = 64,
    SPARE_FILES = 256,  // descriptors for everything that is no connection
};
#define NS_PER_MS UINT64_C(1000000)

// --- other threads -------------------------------------------------------------------------------

static void wake_up(mk_http *h) {
    uint64_t one = 1;
    ssize_t n = write(h->wake_fd, &one, sizeof one);
    (void)n;  // a full counter wakes too
}

void mk_http_push_ready(mk_http_exchange *x) {
    mk_http *h = x->h;
    if (x->in_ready) {
        return;
    }
    x->in_ready = true;
    x->refs++;
    pthread_mutex_lock(&h->lock);
    bool first = !h->ready;
    x->next_ready = h->ready;
    h->ready = x;
    pthread_mutex_unlock(&h->lock);
    if (first) {
        wake_up(h);
    }
}

static void resume_ready(mk_http *h) {
    pthread_mutex_lock(&h->lock);
    mk_http_exchange *x = h->ready;
    h->ready = NULL;
    pthread_mutex_unlock(&h->lock);
    while (x) {
        mk_http_exchange *next = x->next_ready;
        pthread_mutex_lock(&x->lock);
        x->in_ready = false;
        pthread_mutex_unlock(&x->lock);
        mk_http_resume(x);
        mk_http_drop(x);
        x = next;
    }
}

// --- listening -----------------------------------------------------------------------------------

static void accept_all(mk_http *h) {
    for (int i = 0; i < ACCEPT_BATCH && h->listen_fd >= 0; i++) {
        struct sockaddr_storage a = {0};
        socklen_t n = sizeof a;
        int fd = accept4(h->listen_fd, (struct sockaddr *)&a, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            mk_http_take_connection(h, fd, &a, n);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            // The waiting client would wake us up at once, again and again.
            mk_log_msg(MK_LOG_WARN, "cannot accept a connection: %s", strerror(errno));
            mk_http_set_remove(h, h->listen_fd);
            h->listen_again_ns = mk_now_ns() + ACCEPT_PAUSE_MS * NS_PER_MS;
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void close_listener(mk_http *h) {
    if (h->listen_fd < 0) {
        return;
    }
    close(h->listen_fd);
    h->listen_fd = -1;
    if (h->unix_path) {
        unlink(h->unix_path);
    }
}

// --- time ----------------------------------------------------------------------------------------

static void tick(mk_http *h) {
    uint64_t now = mk_now_ns();
    if (now < h->next_tick_ns) {
        return;
    }
    h->next_tick_ns = now + TICK_MS * NS_PER_MS;
    for (mk_http_conn *c = h->conns; c; c = c->next) {
        if (c->deadline_ns && now >= c->deadline_ns) {
            mk_http_late(c);
        }
    }
    for (mk_http_linger *l = h->lingers, *next; l; l = next) {
        next = l->next;
        if (now >= l->deadline_ns) {
            mk_http_linger_end(h, l);
        }
    }
    if (h->listen_again_ns && now >= h->listen_again_ns && h->listen_fd >= 0) {
        h->listen_again_ns = 0;
        mk_http_set_add(h, h->listen_fd, EPOLLIN, &h->src_listen);
    }
}

static int wait_ms(mk_http *h) {
    MHD_UNSIGNED_LONG_LONG daemon_ms;
    bool idle = !h->conns && !h->lingers && !h->listen_again_ns;
    int ms = idle ? -1 : TICK_MS;
    if (MHD_get_timeout(h->daemon, &daemon_ms) == MHD_YES && daemon_ms < TICK_MS) {
        ms = (int)daemon_ms;
    }
    return ms;
}

// --- the loop ------------------------------------------------------------------------------------

static void handle_event(mk_http *h, mk_http_source *source) {
    // the source is the first member of what it is in
    void *what = source;
    switch (*source) {
    case MK_HTTP_SRC_DAEMON:
        break;  // runs in every round
    case MK_HTTP_SRC_WAKE: {
        uint64_t n;
        ssize_t got = read(h->wake_fd, &n, sizeof n);
        (void)got;
        break;
    }
    case MK_HTTP_SRC_LISTEN:
        accept_all(h);
        break;
    case MK_HTTP_SRC_CONN:
        mk_http_said_all(h, what);
        break;
    case MK_HTTP_SRC_LINGER:
        mk_http_linger_read(h, what);
        break;
    }
}

static void round_once(mk_http *h, int ms) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(h->ep, events, EVENTS, ms);
    for (int i = 0; i < n; i++) {
        handle_event(h, events[i].data.ptr);
    }
    resume_ready(h);
    MHD_run(h->daemon);
    mk_http_close_ended(h);
    tick(h);
}

static bool must_stop(mk_http *h) {
    pthread_mutex_lock(&h->lock);
    bool stop = h->want_stop;
    pthread_mutex_unlock(&h->lock);
    if (h->listen_fd >= 0 && atomic_load(&h->closing)) {
        accept_all(h);  // who has come before is still let in
        close_listener(h);
    }
    return stop;
}

// Some connection whose answer is complete, but not yet sent.
static bool something_leaves(mk_http *h) {
    bool found = false;
    for (mk_http_conn *c = h->conns; c && !found; c = c->next) {
        if (c->x && c->x->asked) {
            pthread_mutex_lock(&c->x->lock);
            found = c->x->ended && !c->x->gone;
            pthread_mutex_unlock(&c->x->lock);
        }
    }
    return found;
}

static void shut_down(mk_http *h) {
    close_listener(h);
    uint64_t end = mk_now_ns() + FLUSH_MS * NS_PER_MS;
    while (something_leaves(h) && mk_now_ns() < end) {
        int ms = wait_ms(h);
        round_once(h, ms < 0 || ms > 10 ? 10 : ms);
    }
    h->stopping = true;
    for (mk_http_conn *c = h->conns; c; c = c->next) {
        if (c->x && c->x->asked) {
            mk_http_hung_up(c->x);
            mk_http_resume(c->x);
        }
    }
    resume_ready(h);
    MHD_run(h->daemon);
    MHD_stop_daemon(h->daemon);
    MK_ASSERT(!h->conns);
    resume_ready(h);  // drops what came in between; nothing waits any more
    while (h->lingers) {
        mk_http_linger_end(h, h->lingers);
    }
}

static void *server_main(void *arg) {
    mk_http *h = arg;
    pthread_mutex_lock(&h->lock);  // h->thread is set
    pthread_mutex_unlock(&h->lock);
    while (!must_stop(h)) {
        round_once(h, wait_ms(h));
    }
    shut_down(h);
    return NULL;
}

// --- start and stop ------------------------------------------------------------------------------

static size_t or_size(size_t n, size_t otherwise) {
    return n ? n : otherwise;
}

static int or_int(int n, int otherwise) {
    return n > 0 ? n : otherwise;
}

static void set_defaults(mk_http_opts *o) {
    MK_ASSERT(o->handler);
    o->max_body = or_size(o->max_body, (size_t)32 << 20);
    o->max_header = or_size(o->max_header, (size_t)32 << 10);
    o->max_queue = or_size(o->max_queue, (size_t)4 << 20);
    MK_ASSERT(o->max_body <= SIZE_MAX / 64 && o->max_queue <= SIZE_MAX / 4 &&
              o->max_header <= SIZE_MAX / 4);
    o->max_connections = or_int(o->max_connections, 1024);
    o->idle_s = or_int(o->idle_s, 60);
    o->body_s = or_int(o->body_s, 120);
    o->host = o->unix_path = NULL;
}

// As many descriptors as connections are allowed, if the system lets us.
static void allow_files(int n_connections) {
    struct rlimit r;
    rlim_t want = (rlim_t)n_connections + SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < want) {
        r.rlim_cur = r.rlim_max < want ? r.rlim_max : want;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

static mk_status start_daemon(mk_http *h, mk_err *err) {
    // Memory per connection: the headers, the table that libmicrohttpd makes of them, and a buffer
    // for what is sent.  It is cleared behind every request, so more would cost time.
    size_t memory = h->o.max_header + h->o.max_header / 2 + 16384;
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL,
        mk_http_on_request, h, MHD_OPTION_CONNECTION_MEMORY_LIMIT, memory,
        // ours is lower
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)h->o.max_connections + 16,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)h->o.idle_s, MHD_OPTION_URI_LOG_CALLBACK,
        mk_http_on_target, h, MHD_OPTION_NOTIFY_COMPLETED, mk_http_on_completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, mk_http_on_connection, h, MHD_OPTION_SIGPIPE_HANDLED_BY_APP,
        1, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        h->daemon ? MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        return MK_FAIL(err, MK_EIO, "cannot start the HTTP server: %s", strerror(errno));
    }
    h->ep = epoll_create1(EPOLL_CLOEXEC);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->src_daemon = MK_HTTP_SRC_DAEMON;
    h->src_wake = MK_HTTP_SRC_WAKE;
    h->src_listen = MK_HTTP_SRC_LISTEN;
    if (h->ep < 0 || h->wake_fd < 0 ||
        !mk_http_set_add(h, info->epoll_fd, EPOLLIN, &h->src_daemon) ||
        !mk_http_set_add(h, h->wake_fd, EPOLLIN, &h->src_wake) ||
        !mk_http_set_add(h, h->listen_fd, EPOLLIN, &h->src_listen)) {
        return MK_FAIL(err, MK_EIO, "cannot start the HTTP server: %s", strerror(errno));
    }
    return MK_OK;
}

static mk_status start_thread(mk_http *h, mk_err *err) {
    // Signals are for other threads, but for those that are raised by what this one does.
    sigset_t all, before;
    sigfillset(&all);
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        sigdelset(&all, own[i]);
    }
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_mutex_lock(&h->lock);
    int e = pthread_create(&h->thread, NULL, server_main, h);
    pthread_mutex_unlock(&h->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e == 0 ? MK_OK : MK_FAIL(err, MK_EIO, "cannot start a thread: %s", strerror(e));
}

static void close_files(mk_http *h) {
    close_listener(h);
    if (h->ep >= 0) {
        close(h->ep);
    }
    if (h->wake_fd >= 0) {
        close(h->wake_fd);
    }
    h->ep = h->wake_fd = -1;
}

void mk_http_unref(mk_http *h) {
    if (atomic_fetch_sub(&h->refs, 1) == 1) {
        pthread_mutex_destroy(&h->lock);
        mk_free(h->unix_path);
        mk_free(h);
    }
}

mk_status mk_http_start(const mk_http_opts *o, mk_http **out, mk_err *err) {
    *out = NULL;
    mk_http *h = mk_zalloc(sizeof *h);
    h->o = *o;
    set_defaults(&h->o);
    h->ep = h->wake_fd = h->listen_fd = -1;
    atomic_store(&h->refs, 1);
    pthread_mutex_init(&h->lock, NULL);
    allow_files(h->o.max_connections);
    mk_status st = mk_http_listen(o, &h->listen_fd, &h->port, err);
    if (st == MK_OK) {
        h->unix_path = o->unix_path ? mk_strdup(o->unix_path) : NULL;
        st = start_daemon(h, err);
        if (st == MK_OK) {
            st = start_thread(h, err);
        }
        if (st != MK_OK && h->daemon) {
            MHD_stop_daemon(h->daemon);
        }
    }
    if (st != MK_OK) {
        close_files(h);
        mk_http_unref(h);
        return st;
    }
    *out = h;
    return MK_OK;
}

int mk_http_port(const mk_http *h) {
    return h->port;
}

void mk_http_stop_listening(mk_http *h) {
    atomic_store(&h->closing, true);
    wake_up(h);
}

int mk_http_n_open(const mk_http *h) {
    return atomic_load(&h->n_open);
}

void mk_http_stop(mk_http *h) {
    if (!h) {
        return;
    }
    MK_ASSERT(!pthread_equal(pthread_self(), h->thread));
    pthread_mutex_lock(&h->lock);
    h->want_stop = true;
    pthread_mutex_unlock(&h->lock);
    wake_up(h);
    pthread_join(h->thread, NULL);
    close_files(h);
    mk_http_unref(h);
}
