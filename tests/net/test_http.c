// Answers, streams, hang-ups and the end of the server, seen through raw sockets.
#include "net/http_client.h"

#include <sys/resource.h>

#include "torture.h"

// --- whole answers -------------------------------------------------------------------------------

static void test_reply(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    for (int i = 0; i < 3; i++) {  // one connection
        ask(fd, "/now");
        answer a;
        read_answer(fd, &a);
        assert_int_equal(a.status, 200);
        assert_string_equal(a.body, "hello");
        assert_string_equal(head_field(&a, "Content-Type"), "text/plain");
        assert_non_null(head_field(&a, "Date"));
        mk_free(a.body);
    }
    ask(fd, "/a%20b/%C3%A9?x=1&q=1%262+3&empty");
    expect_answer(fd, 200, "GET|/a b/\xc3\xa9|1&2 3||-|127.0.0.1|0|");
    say(fd, "POST /e HTTP/1.1\r\nhost: x\r\nx-test: v w\r\nContent-Length: 5\r\n\r\nab");
    assert_true(send_bytes(fd, "\0cd", 3));
    answer a;
    read_answer(fd, &a);
    assert_memory_equal(a.body, "POST|/e|-|-|v w|127.0.0.1|5|ab", 31);
    mk_free(a.body);
    close(fd);
    server_stop(&s);
    balance_check(b);
}

static void test_head(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    say(fd, "HEAD /now HTTP/1.1\r\nHost: x\r\n\r\n");
    answer a;
    assert_true(read_answer_to(fd, &a, true));
    assert_string_equal(head_field(&a, "Content-Length"), "5");
    mk_free(a.body);
    ask(fd, "/now");  // no body was in between
    expect_answer(fd, 200, "hello");
    say(fd, "HEAD /park HTTP/1.1\r\nHost: x\r\n\r\n");
    mk_http_exchange *x = take(&s);
    begin_stream(x);
    assert_true(read_answer_to(fd, &a, true));
    assert_int_equal(a.status, 200);
    mk_free(a.body);
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    assert_false(mk_http_write(x, "a", 1));  // complete: nobody wants it
    assert_false(mk_http_gone(x));
    mk_http_end(x);
    mk_http_drop(x);
    close(fd);
    server_stop(&s);
}

static void test_other_thread(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    for (int i = 0; i < 5; i++) {
        ask(fd, "/park");
        mk_http_exchange *x = take(&s);
        assert_int_equal(mk_http_n_open(s.h), 1);
        assert_int_equal(mk_http_serial(x), i + 1);
        reply_text(x, 201, "late");
        expect_answer(fd, 201, "late");
        assert_true(becomes(n_open, s.h, 0, WAIT_MS));
        assert_string_equal(mk_http_path(x), "/park");  // ours as long as we keep it
        mk_http_drop(x);
    }
    close(fd);
    server_stop(&s);
    balance_check(b);
}

// What nobody can answer any more is answered by the server, so that no client waits for ever.
static void test_forgotten(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    ask(fd, "/forget");
    expect_answer(fd, 500, NULL);
    close(fd);
    fd = dial(&s);
    ask(fd, "/park");
    mk_http_drop(take(&s));
    expect_answer(fd, 500, NULL);
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    mk_http_abort(x);
    expect_answer(fd, 500, NULL);
    mk_http_drop(x);
    ask(fd, "/park");
    x = take(&s);
    begin_stream(x);
    assert_true(mk_http_write(x, "abc", 3));
    mk_http_drop(x);
    answer a;
    read_answer(fd, &a);
    assert_string_equal(a.body, "abc");
    assert_false(a.whole);
    mk_free(a.body);
    assert_true(is_closed(fd));
    close(fd);
    server_stop(&s);
    balance_check(b);
}

static void test_pipelined(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    enum { N = 200 };
    mk_buf all;
    mk_buf_init(&all, 1 << 20);
    for (int i = 0; i < N; i++) {
        mk_buf_printf(&all, "POST /%s?q=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
                      i % 2 ? "park" : "info", i);
    }
    assert_true(send_bytes(fd, all.data, all.len));
    mk_buf_free(&all);
    for (int i = 0; i < N; i++) {
        char want[100];
        snprintf(want, sizeof want, "POST|/info|%d|-|-|127.0.0.1|3|abc", i);
        if (i % 2) {
            mk_http_exchange *x = take(&s);
            snprintf(want, sizeof want, "%d", i);
            assert_string_equal(mk_http_query(x, "q"), want);
            reply_text(x, 200, want);
            mk_http_drop(x);
        }
        expect_answer(fd, 200, want);
    }
    close(fd);
    server_stop(&s);
}

// --- streams -------------------------------------------------------------------------------------

// Headers and every piece leave at once: neither waits for more, as a corked socket would for 200
// ms.
static void test_stream(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s), n_slow = 0;
    for (int round = 0; round < 2; round++) {
        ask(fd, "/park");
        mk_http_exchange *x = take(&s);
        int64_t t = now_ms();
        begin_stream(x);
        answer a;
        assert_true(read_head(fd, &a));
        n_slow += now_ms() - t > 150;
        assert_string_equal(head_field(&a, "Content-Type"), "text/event-stream");
        for (int i = 0; i < 20; i++) {
            char piece[40], got[40];
            snprintf(piece, sizeof piece, "data: %d\n\n", i);
            mk_buf body;
            mk_buf_init(&body, 1000);
            bool last;
            t = now_ms();
            assert_true(mk_http_write(x, piece, strlen(piece)));
            assert_true(read_chunk(fd, &body, &last));
            n_slow += now_ms() - t > 150;
            snprintf(got, sizeof got, "%s", body.data);
            assert_string_equal(got, piece);
            mk_buf_free(&body);
        }
        mk_http_end(x);
        mk_http_drop(x);
        mk_buf rest;
        mk_buf_init(&rest, 1000);
        bool last = false;
        assert_true(read_chunk(fd, &rest, &last) && last && rest.len == 0);
        mk_buf_free(&rest);
    }
    assert_true(n_slow <= 3);  // on a busy machine a piece may be late, but not all
    close(fd);
    server_stop(&s);
    balance_check(b);
}

static void test_stream_http_1_0(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    say(fd, "GET /park HTTP/1.0\r\n\r\n");
    mk_http_exchange *x = take(&s);
    begin_stream(x);
    assert_true(mk_http_write(x, "abc", 3));
    mk_http_end(x);
    mk_http_drop(x);
    answer a;
    char line[100];
    assert_true(read_line(fd, line, sizeof line));
    while (read_line(fd, line, sizeof line) && line[0]) {
        assert_null(strcasestr(line, "chunked"));
    }
    assert_true(read_line(fd, a.head, sizeof a.head) == false);  // ends with the connection
    assert_memory_equal(a.head, "abc", 3);
    close(fd);
    server_stop(&s);
}

static void test_abort(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    begin_stream(x);
    assert_true(mk_http_write(x, "half", 4));
    mk_http_abort(x);
    assert_false(mk_http_write(x, "more", 4));
    answer a;
    read_answer(fd, &a);
    assert_string_equal(a.body, "half");
    assert_false(a.whole);
    assert_true(is_closed(fd));
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    assert_false(mk_http_gone(x));  // it was us
    mk_http_drop(x);
    mk_free(a.body);
    close(fd);
    server_stop(&s);
}

static void test_slow_reader(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    enum { QUEUE = 100000, PIECE = 1000 };
    server_start(&s, (mk_http_opts){.max_queue = QUEUE});
    int fd = dial_port(mk_http_port(s.h), 4096);
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    begin_stream(x);
    char piece[PIECE];
    size_t taken = 0;
    int64_t end = now_ms() + WAIT_MS, full_since = 0;
    // until nothing has been taken for a while: the socket's own buffers fill first
    while (now_ms() < end && (!full_since || now_ms() - full_since < 300)) {
        memset(piece, 'a' + (int)(taken / PIECE % 26), PIECE);
        if (mk_http_write(x, piece, PIECE)) {
            taken += PIECE;
            full_since = 0;
        } else {
            full_since = full_since ? full_since : now_ms();
            sleep_ms(1);
        }
        assert_true(mk_http_queued(x) <= QUEUE);
    }
    assert_true(full_since != 0);
    assert_true(mk_http_queued(x) > QUEUE - PIECE);
    assert_false(mk_http_write(x, piece, QUEUE + 1));
    mk_http_end(x);
    mk_http_drop(x);
    answer a;
    read_answer(fd, &a);
    assert_true(a.whole);
    assert_int_equal(a.n, taken);
    for (size_t i = 0; i < taken; i++) {
        if (a.body[i] != 'a' + (char)(i / PIECE % 26)) {
            fail_msg("byte %zu of the stream is wrong", i);
        }
    }
    mk_free(a.body);
    close(fd);
    server_stop(&s);
    balance_check(b);
}

// --- hang-ups ------------------------------------------------------------------------------------

typedef enum { CLOSE, HALF_CLOSE, RESET } how;

static void hang_up(int fd, how h) {
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    if (h == RESET) {
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    if (h == HALF_CLOSE) {
        shutdown(fd, SHUT_WR);
    } else {
        close(fd);
    }
}

static void check_hang_up(how h, bool streaming, bool pipelined) {
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s), gone = 0;
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    mk_http_on_gone(x, count_up, &gone);
    if (streaming) {
        begin_stream(x);
        assert_true(mk_http_write(x, "abc", 3));
        answer a;
        assert_true(read_head(fd, &a));
    }
    if (pipelined) {
        ask(fd, "/now");
    }
    sleep_ms(20);
    assert_int_equal(count_of(&gone), 0);
    int64_t t = now_ms();
    hang_up(fd, h);
    assert_true(becomes(count_of, &gone, 1, WAIT_MS));
    assert_true(now_ms() - t < 1000);
    assert_true(mk_http_gone(x));
    if (!streaming) {
        begin_stream(x);
    }
    assert_false(mk_http_write(x, "more", 4));
    mk_http_end(x);
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    assert_int_equal(count_of(&gone), 1);
    mk_http_drop(x);
    if (h == HALF_CLOSE) {
        close(fd);
    }
    assert_int_equal(s.n_asked, 1);  // a request behind a hang-up is not asked
    server_stop(&s);
    balance_check(b);
}

static void test_hang_up(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        check_hang_up((how)(i % 3), i / 3 % 2, i / 6);
    }
}

static void test_on_gone(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s), taken_back = 0, after = 0, answered = 0;
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    mk_http_on_gone(x, count_up, &taken_back);
    mk_http_on_gone(x, NULL, NULL);
    close(fd);
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    assert_int_equal(taken_back, 0);
    mk_http_on_gone(x, count_up, &after);  // it has gone: at once
    assert_int_equal(after, 1);
    reply_text(x, 200, "nobody");
    mk_http_drop(x);

    // not called behind a complete answer
    fd = dial(&s);
    ask(fd, "/park");
    x = take(&s);
    mk_http_on_gone(x, count_up, &answered);
    reply_text(x, 200, "all");
    close(fd);
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    assert_int_equal(answered, 0);
    mk_http_drop(x);
    server_stop(&s);
}

// A client that has said all and only listens gets what is on its way.
static void test_half_close_behind_answer(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial_port(mk_http_port(s.h), 4096);
    ask(fd, "/big");
    sleep_ms(50);
    shutdown(fd, SHUT_WR);
    answer a;
    read_answer(fd, &a);
    assert_true(a.whole);
    assert_int_equal(a.n, 1 << 20);
    mk_free(a.body);
    close(fd);
    server_stop(&s);
}

// --- many, and the end ---------------------------------------------------------------------------

static void test_many_connections(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    enum { N = 300 };
    int fd[N];
    mk_http_exchange *x[N];
    for (int i = 0; i < N; i++) {
        char path[40];
        fd[i] = dial(&s);
        snprintf(path, sizeof path, "/park?q=%d", i);
        ask(fd[i], path);
    }
    for (int i = 0; i < N; i++) {
        x[i] = take(&s);
        begin_stream(x[i]);
    }
    assert_int_equal(mk_http_n_open(s.h), N);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            const char *q = mk_http_query(x[i], "q");
            assert_true(mk_http_write(x[i], q, strlen(q)));
        }
    }
    for (int i = 0; i < N; i++) {
        mk_http_end(x[i]);
        mk_http_drop(x[i]);
    }
    for (int i = 0; i < N; i++) {
        char want[40];
        snprintf(want, sizeof want, "%d%d%d", i, i, i);
        expect_answer(fd[i], 200, want);  // its own and no other's
        close(fd[i]);
    }
    server_stop(&s);
    balance_check(b);
}

static void test_stop_with_open(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    enum { N = 6 };
    int fd[N], gone = 0;
    mk_http_exchange *x[N];
    for (int i = 0; i < N; i++) {
        fd[i] = dial(&s);
        ask(fd[i], "/park");
        x[i] = take(&s);
        mk_http_on_gone(x[i], count_up, &gone);
        if (i % 2) {
            begin_stream(x[i]);
            assert_true(mk_http_write(x[i], "abc", 3));
        }
    }
    int idle = dial(&s), half = dial(&s);
    say(half, "POST /park HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    mk_http_end(x[1]);  // finished: is to be sent
    reply_text(x[0], 200, "finished");
    server_stop(&s);
    assert_int_equal(count_of(&gone), N - 2);
    expect_answer(fd[0], 200, "finished");
    expect_answer(fd[1], 200, "abc");
    for (int i = 2; i < N; i++) {
        answer a;
        bool any = read_answer_to(fd[i], &a, false);
        assert_int_equal(any, i % 2);
        assert_false(any && a.whole);
        mk_free(any ? a.body : NULL);
        assert_true(mk_http_gone(x[i]));
        if (i % 2 == 0) {
            begin_stream(x[i]);
        }
        assert_false(mk_http_write(x[i], "late", 4));
        mk_http_end(x[i]);
    }
    assert_true(is_closed(idle) && is_closed(half));
    for (int i = 0; i < N; i++) {
        close(fd[i]);
        mk_http_drop(x[i]);  // outlives the server
    }
    close(idle);
    close(half);
    balance_check(b);
}

static void test_stop_listening(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int port = mk_http_port(s.h), fd = dial(&s), idle = dial(&s);
    ask(idle, "/now");
    expect_answer(idle, 200, "hello");
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    mk_http_stop_listening(s.h);
    int other = 0;
    for (int64_t end = now_ms() + WAIT_MS; other >= 0 && now_ms() < end; sleep_ms(5)) {
        other = dial_port(port, 0);
        close(other < 0 ? dup(0) : other);
    }
    assert_true(other < 0);
    assert_int_equal(mk_http_n_open(s.h), 1);
    reply_text(x, 200, "late");
    mk_http_drop(x);
    answer a;
    read_answer(fd, &a);
    assert_string_equal(a.body, "late");
    assert_string_equal(head_field(&a, "Connection"), "close");
    mk_free(a.body);
    assert_true(is_closed(fd));
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    close(fd);
    close(idle);
    server_stop(&s);
}

static int64_t cpu_ms(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 +
           (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

// Whatever the connections wait for, the server's thread sleeps.
static void test_waits_asleep(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){.max_queue = 16 << 20});
    int idle = dial(&s), fresh = dial(&s), half = dial(&s), waiting = dial(&s);
    int full = dial_port(mk_http_port(s.h), 4096), ended = dial_port(mk_http_port(s.h), 4096);
    ask(idle, "/now");
    expect_answer(idle, 200, "hello");
    say(half, "POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    ask(waiting, "/park");
    mk_http_exchange *w = take(&s);
    ask(waiting, "/now");  // more to read, later
    ask(full, "/park");
    mk_http_exchange *f = take(&s);
    begin_stream(f);
    char *much = mk_zalloc(16 << 20);
    assert_true(mk_http_write(f, much, 16 << 20));
    mk_free(much);
    ask(ended, "/big");
    sleep_ms(50);
    shutdown(ended, SHUT_WR);
    sleep_ms(300);
    int64_t cpu = cpu_ms();
    sleep_ms(400);
    assert_true(cpu_ms() - cpu < 30);
    mk_http_abort(f);
    mk_http_drop(f);
    reply_text(w, 200, "late");
    mk_http_drop(w);
    expect_answer(waiting, 200, "late");
    expect_answer(waiting, 200, "hello");
    int fd[] = {idle, fresh, half, waiting, full, ended};
    for (size_t i = 0; i < sizeof fd / sizeof *fd; i++) {
        close(fd[i]);
    }
    server_stop(&s);
}

// --- memory --------------------------------------------------------------------------------------

// One request with a body whose answer is a stream.
static mk_status one_exchange(void *arg, mk_err *err) {
    (void)arg;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    char body[20000];
    memset(body, 'b', sizeof body);
    say(fd, "POST /park HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n");
    (void)send_bytes(fd, body, sizeof body);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    mk_http_exchange *x = NULL;
    while (!x && poll(&p, 1, 0) == 0) {
        x = take_within(&s, 5);  // asked, or refused
    }
    mk_status st = MK_OK;
    if (x) {
        begin_stream(x);
        bool ok = mk_http_write(x, body, 100) && mk_http_write(x, body, sizeof body);
        st = ok ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for the stream");
        if (ok) {
            mk_http_end(x);
        } else {
            mk_http_abort(x);
        }
        mk_http_drop(x);
    }
    int64_t left = mk_alloc_fail_left();
    mk_alloc_fail_at(0);  // not the client
    answer a;
    read_answer(fd, &a);
    if (!x) {
        assert_int_equal(a.status, 503);
        st = MK_FAIL(err, MK_ENOMEM, "refused");
    } else {
        assert_int_equal(a.whole, st == MK_OK);
    }
    mk_free(a.body);
    close(fd);
    server_stop(&s);
    mk_alloc_fail_at(left);
    return st;
}

static void test_no_memory(void **state) {
    (void)state;
    assert_true(mk_torture(one_exchange, NULL) >= 4);
}

// --- everything at once --------------------------------------------------------------------------

enum { STORM_CLIENTS = 4, STORM_ROUNDS = 60 };

typedef struct {
    server *s;
    pthread_t thread;
    unsigned seed;
    int *calm;  // all clients are done
} storm;

static unsigned next_random(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

// Answers what is parked, in pieces, and gives some of it up.
static void *storm_writer(void *arg) {
    storm *w = arg;
    for (mk_http_exchange *x;
         (x = take_within(w->s, count_of(w->calm) ? 0 : 20)) != NULL || !count_of(w->calm);) {
        if (!x) {
            continue;
        }
        int gone = 0;
        mk_http_on_gone(x, count_up, &gone);
        unsigned kind = next_random(&w->seed) % 4;
        if (kind == 0) {
            reply_text(x, 200, "whole");
        } else {
            begin_stream(x);
            for (unsigned k = next_random(&w->seed) % 20; k; k--) {
                if (!mk_http_write(x, "piece", 5)) {
                    break;
                }
            }
            if (kind == 1) {
                mk_http_abort(x);
            } else if (kind == 2) {
                mk_http_end(x);
            }
        }
        mk_http_on_gone(x, NULL, NULL);  // `gone` is on our stack
        mk_http_drop(x);
    }
    return NULL;
}

// Asks, and hangs up at some point or reads all.
static void *storm_client(void *arg) {
    storm *c = arg;
    for (int i = 0; i < STORM_ROUNDS; i++) {
        int fd = dial(c->s);
        ask(fd, "/park");
        unsigned what = next_random(&c->seed) % 4;
        answer a;
        if (what == 0) {
            sleep_ms((int)(next_random(&c->seed) % 3));
        } else if (what == 1) {
            char line[1000];
            (void)read_line(fd, line, sizeof line);
        } else if (read_answer_to(fd, &a, false)) {
            mk_free(a.body);
        }
        hang_up(fd, next_random(&c->seed) % 2 ? CLOSE : RESET);
    }
    return NULL;
}

static void test_storm(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){0});
    int calm = 0;
    storm w[STORM_CLIENTS], c[STORM_CLIENTS];
    for (unsigned i = 0; i < STORM_CLIENTS; i++) {
        w[i] = (storm){.s = &s, .seed = 7 * i + 1, .calm = &calm};
        c[i] = (storm){.s = &s, .seed = 13 * i + 5};
        assert_int_equal(pthread_create(&w[i].thread, NULL, storm_writer, &w[i]), 0);
        assert_int_equal(pthread_create(&c[i].thread, NULL, storm_client, &c[i]), 0);
    }
    for (int i = 0; i < STORM_CLIENTS; i++) {
        pthread_join(c[i].thread, NULL);
    }
    // A client that hung up at once may never have been asked for; the others have all been parked
    // when nothing is open, or are still waiting for a writer.
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    count_up(&calm);
    for (int i = 0; i < STORM_CLIENTS; i++) {
        pthread_join(w[i].thread, NULL);
    }
    assert_true(becomes(n_open, s.h, 0, WAIT_MS));
    int fd = dial(&s);
    ask(fd, "/now");
    expect_answer(fd, 200, "hello");
    close(fd);
    server_stop(&s);
    balance_check(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reply),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_other_thread),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_http_1_0),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_hang_up),
        cmocka_unit_test(test_on_gone),
        cmocka_unit_test(test_half_close_behind_answer),
        cmocka_unit_test(test_many_connections),
        cmocka_unit_test(test_stop_with_open),
        cmocka_unit_test(test_stop_listening),
        cmocka_unit_test(test_waits_asleep),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
