// The client side of the HTTP tests: raw sockets, so that every byte is ours, and a server whose
// handler is steered by the path of the request.
#ifndef MK_TESTS_NET_HTTP_CLIENT_H
#define MK_TESTS_NET_HTTP_CLIENT_H

#include "cmocka_all.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"
#include "net/http.h"

enum { WAIT_MS = 10000 };  // for what must come; the machine may be busy

static inline int64_t now_ms(void) {
    return (int64_t)(mk_now_ns() / 1000000u);
}

static inline void sleep_ms(int ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

// --- server side: exchanges that the handler kept, for the test to answer ------------------------

enum { MAX_PARKED = 1024 };

typedef struct {
    mk_http *h;
    pthread_mutex_t lock;
    pthread_cond_t more;
    mk_http_exchange *parked[MAX_PARKED];
    int n_parked, n_taken, n_asked;
} server;

static inline void park(server *s, mk_http_exchange *x) {
    mk_http_keep(x);
    pthread_mutex_lock(&s->lock);
    assert_true(s->n_parked < MAX_PARKED);
    s->parked[s->n_parked++] = x;
    pthread_cond_broadcast(&s->more);
    pthread_mutex_unlock(&s->lock);
}

// The next parked exchange, in the order of arrival; NULL if none comes.
static inline mk_http_exchange *take_within(server *s, int ms) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += ms / 1000;
    end.tv_nsec += ms % 1000 * 1000000L;
    end.tv_sec += end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&s->lock);
    int e = 0;
    while (s->n_taken == s->n_parked && e == 0) {
        e = pthread_cond_timedwait(&s->more, &s->lock, &end);
    }
    mk_http_exchange *x = s->n_taken < s->n_parked ? s->parked[s->n_taken++] : NULL;
    pthread_mutex_unlock(&s->lock);
    return x;
}

static inline mk_http_exchange *take(server *s) {
    mk_http_exchange *x = take_within(s, WAIT_MS);
    assert_non_null(x);
    return x;
}

static inline void reply_text(mk_http_exchange *x, int status, const char *text) {
    mk_http_field type = {"Content-Type", "text/plain"};
    mk_http_reply(x, status, &type, 1, text, strlen(text));
}

static inline void begin_stream(mk_http_exchange *x) {
    mk_http_field type = {"Content-Type", "text/event-stream"};
    mk_http_begin(x, 200, &type, 1);
}

static inline void reply_info(mk_http_exchange *x) {
    mk_buf b;
    mk_buf_init(&b, 65536);
    size_t n;
    const char *body = mk_http_body(x, &n);
    const char *q = mk_http_query(x, "q"), *empty = mk_http_query(x, "empty");
    const char *test = mk_http_header(x, "X-TEST");
    mk_buf_printf(&b, "%s|%s|%s|%s|%s|%s|%zu|%.*s", mk_http_method(x), mk_http_path(x), q ? q : "-",
                  empty ? empty : "-", test ? test : "-", mk_http_peer(x), n,
                  (int)(n < 1000 ? n : 1000), body);
    assert_int_equal(body[n], 0);
    reply_text(x, 200, b.data);
    mk_buf_free(&b);
}

// /now... answers "hello"; /park... waits for the test; /forget is kept by nobody; /big 1 MB; all
// else: what was understood of the request.
static inline void on_request(void *arg, mk_http_exchange *x) {
    server *s = arg;
    const char *path = mk_http_path(x);
    pthread_mutex_lock(&s->lock);
    s->n_asked++;
    pthread_mutex_unlock(&s->lock);
    if (strncmp(path, "/now", 4) == 0) {
        reply_text(x, 200, "hello");
    } else if (strncmp(path, "/park", 5) == 0) {
        park(s, x);
    } else if (strcmp(path, "/big") == 0) {
        char *big = mk_zalloc(1 << 20);
        memset(big, 'b', 1 << 20);
        mk_http_reply(x, 200, NULL, 0, big, 1 << 20);
        mk_free(big);
    } else if (strcmp(path, "/forget") != 0) {
        reply_info(x);
    }
}

static inline void server_start(server *s, mk_http_opts o) {
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    o.handler = on_request;
    o.arg = s;
    mk_err err = {0};
    if (mk_http_start(&o, &s->h, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
}

static inline void server_stop(server *s) {
    mk_http_stop(s->h);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->more);
}

// --- client side ---------------------------------------------------------------------------------

static inline int dial_port(int port, int rcvbuf) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval t = {.tv_sec = WAIT_MS / 1000};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (rcvbuf) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    }
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline int dial(const server *s) {
    int fd = dial_port(mk_http_port(s->h), 0);
    assert_true(fd >= 0);
    return fd;
}

// False if the connection broke.
static inline bool send_bytes(int fd, const void *p, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t k = send(fd, (const char *)p + at, n - at, MSG_NOSIGNAL);
        if (k <= 0) {
            return false;
        }
        at += (size_t)k;
    }
    return true;
}

static inline void say(int fd, const char *text) {
    assert_true(send_bytes(fd, text, strlen(text)));
}

static inline void ask(int fd, const char *path) {
    char text[300];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    say(fd, text);
}

typedef struct {
    int status;
    char head[4096];
    char *body;  // mk_free
    size_t n;
    bool whole;  // as long as announced, or with the last chunk
} answer;

static inline bool read_byte(int fd, char *c) {
    ssize_t n = recv(fd, c, 1, 0);
    return n == 1;
}

// A line without its end; false at the end of the connection.
static inline bool read_line(int fd, char *line, size_t size) {
    size_t n = 0;
    char c;
    while (read_byte(fd, &c)) {
        if (c == '\n') {
            line[n - (n && line[n - 1] == '\r')] = '\0';
            return true;
        }
        assert_true(n + 1 < size);
        line[n++] = c;
    }
    return false;
}

static inline const char *head_field(const answer *a, const char *name) {
    static _Thread_local char value[300];
    char want[100];
    snprintf(want, sizeof want, "\n%s: ", name);
    const char *p = strcasestr(a->head, want);
    if (!p) {
        return NULL;
    }
    p += strlen(want);
    snprintf(value, sizeof value, "%.*s", (int)strcspn(p, "\n"), p);
    return value;
}

static inline bool read_exactly(int fd, mk_buf *b, size_t n) {
    char part[65536];
    while (n) {
        ssize_t k = recv(fd, part, n < sizeof part ? n : sizeof part, 0);
        if (k <= 0) {
            return false;
        }
        mk_buf_add(b, part, (size_t)k);
        n -= (size_t)k;
    }
    return true;
}

// One chunk; false: the connection ended.  *last: it was the last.
static inline bool read_chunk(int fd, mk_buf *b, bool *last) {
    char line[100];
    *last = false;
    if (!read_line(fd, line, sizeof line)) {
        return false;
    }
    size_t n = strtoul(line, NULL, 16);
    *last = n == 0;
    return read_exactly(fd, b, n) && read_line(fd, line, sizeof line) && line[0] == '\0';
}

static inline bool read_head(int fd, answer *a) {
    char line[1000];
    memset(a, 0, sizeof *a);
    if (!read_line(fd, line, sizeof line)) {
        return false;
    }
    assert_int_equal(sscanf(line, "HTTP/1.1 %d", &a->status), 1);
    size_t n = 0;
    while (read_line(fd, line, sizeof line) && line[0]) {
        n += (size_t)snprintf(a->head + n, sizeof a->head - n, "\n%s", line);
        assert_true(n < sizeof a->head);
    }
    return true;
}

// Reads a whole answer; false if the connection ended before its headers did.
static inline bool read_answer_to(int fd, answer *a, bool is_head) {
    if (!read_head(fd, a)) {
        return false;
    }
    mk_buf b;
    mk_buf_init(&b, (size_t)64 << 20);
    const char *length = head_field(a, "Content-Length");
    if (is_head) {
        a->whole = true;
    } else if (length) {
        a->whole = read_exactly(fd, &b, strtoul(length, NULL, 10));
    } else if (head_field(a, "Transfer-Encoding")) {
        while (!a->whole && read_chunk(fd, &b, &a->whole)) {
        }
    } else {
        read_exactly(fd, &b, SIZE_MAX);
    }
    a->n = b.len;
    mk_buf_putc(&b, '\0');
    a->body = mk_buf_detach(&b);
    return true;
}

static inline void read_answer(int fd, answer *a) {
    assert_true(read_answer_to(fd, a, false));
}

static inline void expect_answer(int fd, int status, const char *body) {
    answer a;
    read_answer(fd, &a);
    assert_int_equal(a.status, status);
    assert_true(a.whole);
    if (body) {
        assert_string_equal(a.body, body);
    }
    mk_free(a.body);
}

static inline bool is_closed(int fd) {
    char c;
    ssize_t n = recv(fd, &c, 1, 0);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

// --- counting ------------------------------------------------------------------------------------

static inline int open_files(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

// Waits until a number has a value.
static inline bool becomes(int (*value)(void *arg), void *arg, int want, int ms) {
    for (int64_t end = now_ms() + ms; now_ms() < end; sleep_ms(2)) {
        if (value(arg) == want) {
            return true;
        }
    }
    return value(arg) == want;
}

static inline int n_open(void *h) {
    return mk_http_n_open(h);
}

static inline int count_of(void *atom) {
    return __atomic_load_n((int *)atom, __ATOMIC_SEQ_CST);
}

static inline void count_up(void *atom) {
    __atomic_add_fetch((int *)atom, 1, __ATOMIC_SEQ_CST);
}

// Every test leaves as many blocks and files as it found.
typedef struct {
    int64_t blocks;
    int files;
} balance;

static inline balance balance_now(void) {
    return (balance){mk_alloc_live(), open_files()};
}

static inline void balance_check(balance b) {
    assert_int_equal(mk_alloc_live(), b.blocks);
    assert_int_equal(open_files(), b.files);
}

#endif
