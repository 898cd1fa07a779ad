// Connections on the server's thread: taken, watched for hang-ups, late, closed, and then drained
// for a while (mk_http_linger).  All of it is [loop].
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "net/http_int.h"

enum { LINGER_S = 3, MAX_LINGER = 256, SCRATCH = 65536 };
static const size_t linger_bytes = (size_t)128 << 20;

// --- the epoll set -------------------------------------------------------------------------------

bool mk_http_set_add(mk_http *h, int fd, uint32_t events, mk_http_source *source) {
    struct epoll_event e = {.events = events, .data.ptr = source};
    return epoll_ctl(h->ep, EPOLL_CTL_ADD, fd, &e) == 0;
}

void mk_http_set_remove(mk_http *h, int fd) {
    struct epoll_event e = {0};
    epoll_ctl(h->ep, EPOLL_CTL_DEL, fd, &e);
}

void mk_http_watch(mk_http_conn *c) {
    if (!c->watched) {
        c->watched = mk_http_set_add(c->h, c->fd, EPOLLRDHUP, &c->source);
    }
}

static void unwatch(mk_http_conn *c) {
    if (c->watched) {
        mk_http_set_remove(c->h, c->fd);
        c->watched = false;
    }
}

// --- lingering -----------------------------------------------------------------------------------

// Takes fd.
static void linger(mk_http *h, int fd) {
    if (h->n_lingers >= MAX_LINGER || h->stopping) {
        close(fd);
        return;
    }
    mk_http_linger *l = mk_zalloc(sizeof *l);
    *l = (mk_http_linger){.source = MK_HTTP_SRC_LINGER,
                          .next = h->lingers,
                          .fd = fd,
                          .deadline_ns = mk_now_ns() + LINGER_S * MK_HTTP_NS_PER_S,
                          .left = linger_bytes};
    if (!mk_http_set_add(h, fd, EPOLLIN | EPOLLRDHUP, &l->source)) {
        close(fd);
        mk_free(l);
        return;
    }
    h->lingers = l;
    h->n_lingers++;
}

void mk_http_linger_end(mk_http *h, mk_http_linger *l) {
    for (mk_http_linger **p = &h->lingers; *p; p = &(*p)->next) {
        if (*p == l) {
            *p = l->next;
            break;
        }
    }
    mk_http_set_remove(h, l->fd);
    close(l->fd);
    mk_free(l);
    h->n_lingers--;
}

void mk_http_linger_read(mk_http *h, mk_http_linger *l) {
    char scratch[SCRATCH];
    ssize_t n = recv(l->fd, scratch, sizeof scratch, MSG_DONTWAIT);
    if (n > 0 && (size_t)n < l->left) {
        l->left -= (size_t)n;
    } else if (n >= 0 || (errno != EAGAIN && errno != EINTR)) {
        mk_http_linger_end(h, l);
    }
}

// --- connections ---------------------------------------------------------------------------------

static void name_peer(const struct sockaddr_storage *a, char out[MK_HTTP_PEER_MAX]) {
    const void *all = a;
    const char *name = NULL;
    if (a->ss_family == AF_INET) {
        name =
            inet_ntop(AF_INET, &((const struct sockaddr_in *)all)->sin_addr, out, MK_HTTP_PEER_MAX);
    } else if (a->ss_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)all)->sin6_addr;
        bool mapped = IN6_IS_ADDR_V4MAPPED(in6);  // an IPv4 client of a socket for both
        name = mapped ? inet_ntop(AF_INET, &in6->s6_addr[12], out, MK_HTTP_PEER_MAX)
                      : inet_ntop(AF_INET6, in6, out, MK_HTTP_PEER_MAX);
    }
    if (!name) {
        snprintf(out, MK_HTTP_PEER_MAX, "unix");
    }
}

static int count_peer(const mk_http *h, const char *peer) {
    int n = 0;
    for (const mk_http_conn *c = h->conns; c; c = c->next) {
        n += strcmp(c->peer, peer) == 0;
    }
    return n;
}

static void turn_away(mk_http *h, int fd, int status, const char *why) {
    mk_http_refuse(fd, status, why);
    shutdown(fd, SHUT_WR);
    linger(h, fd);
}

static void set_socket(int fd) {
    int on = 1, idle_s = 30, every_s = 10, times = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // every token leaves at once
    // a client whose machine has vanished is noticed within a minute
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

void mk_http_take_connection(mk_http *h, int fd, const struct sockaddr_storage *a, socklen_t n) {
    char peer[MK_HTTP_PEER_MAX] = "";
    name_peer(a, peer);
    bool is_unix = h->unix_path != NULL;
    if (h->n_conns >= h->o.max_connections) {
        turn_away(h, fd, 503, "too many connections");
        return;
    }
    if (!is_unix && h->o.max_per_address && count_peer(h, peer) >= h->o.max_per_address) {
        turn_away(h, fd, 429, "too many connections from this address");
        return;
    }
    if (!is_unix) {
        set_socket(fd);
    }
    mk_http_conn *c = mk_zalloc(sizeof *c);
    c->source = MK_HTTP_SRC_CONN;
    c->h = h;
    c->fd = fd;
    memcpy(c->peer, peer, sizeof peer);
    c->deadline_ns = mk_now_ns() + (uint64_t)(h->o.idle_s + h->o.body_s) * MK_HTTP_NS_PER_S;
    h->accepting = c;
    // Calls on_connection, which takes the connection; closes fd if it fails.
    bool ok = MHD_add_connection(h->daemon, fd, (const struct sockaddr *)a, n) == MHD_YES;
    if (h->accepting) {
        MK_ASSERT(!ok);
        mk_free(c);
        h->accepting = NULL;
    }
}

void mk_http_on_connection(void *arg, struct MHD_Connection *mc, void **context,
                           enum MHD_ConnectionNotificationCode code) {
    mk_http *h = arg;
    (void)mc;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        mk_http_conn *c = h->accepting;
        h->accepting = NULL;
        *context = c;
        c->next = h->conns;
        if (c->next) {
            c->next->prev = c;
        }
        h->conns = c;
        h->n_conns++;
        mk_http_watch(c);
        return;
    }
    mk_http_conn *c = *context;
    h->n_said_all -= c->said_all;
    *(c->prev ? &c->prev->next : &h->conns) = c->next;
    if (c->next) {
        c->next->prev = c->prev;
    }
    h->n_conns--;
    unwatch(c);
    char byte;
    ssize_t left = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    bool open = !c->broken && !h->stopping && (left > 0 || (left < 0 && errno == EAGAIN));
    int copy = open ? fcntl(c->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy >= 0) {
        linger(h, copy);
    }
    mk_free(c);
}

// --- the client's end ----------------------------------------------------------------------------

// The client has closed its side, or all of the connection.
void mk_http_said_all(mk_http *h, mk_http_conn *c) {
    unwatch(c);  // it would be reported for ever
    h->n_said_all += !c->said_all;
    c->said_all = true;
    if (c->x && c->x->asked) {
        mk_http_hung_up(c->x);
    }
}

// libmicrohttpd 0.9.75 waits for the next edge after a short read and so overlooks an end that came
// together with the last bytes; such a connection would stay until it is idle for too long.
void mk_http_close_ended(mk_http *h) {
    for (mk_http_conn *c = h->n_said_all ? h->conns : NULL; c; c = c->next) {
        char byte;
        if (c->said_all && !c->broken && !(c->x && c->x->asked) &&
            recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
            c->broken = true;
            shutdown(c->fd, SHUT_RDWR);  // an edge
        }
    }
}

void mk_http_late(mk_http_conn *c) {
    // nothing is being sent: there is no whole request yet
    if (c->x) {
        mk_http_refuse(c->fd, 408, "the request took too long");
    }
    c->deadline_ns = 0;
    c->broken = true;
    shutdown(c->fd, SHUT_RDWR);  // libmicrohttpd reads the end of the connection and closes it
}
