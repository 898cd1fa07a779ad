// What the HTTP server refuses, and when: sizes, numbers, time, malformed requests, addresses.
#include "net/http_client.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "net/http_int.h"

static void say_n(int fd, const char *fmt, size_t n) {
    char text[300];
    snprintf(text, sizeof text, fmt, n);
    say(fd, text);
}

static void check_alive(const server *s) {
    int fd = dial(s);
    ask(fd, "/now");
    expect_answer(fd, 200, "hello");
    close(fd);
}

// --- bodies --------------------------------------------------------------------------------------

static void test_body_limit(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    enum { MAX = 100000 };
    server_start(&s, (mk_http_opts){.max_body = MAX});
    char *body = mk_zalloc(MAX + 1);
    memset(body, 'x', MAX);
    for (int chunked = 0; chunked < 2; chunked++) {
        const char *head = chunked ? "POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                                     "\r\n%zx\r\n"
                                   : "POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n";
        int fd = dial(&s);
        say_n(fd, head, MAX);  // as much as is allowed
        assert_true(send_bytes(fd, body, MAX));
        say(fd, chunked ? "\r\n0\r\n\r\n" : "");
        answer a;
        read_answer(fd, &a);
        assert_int_equal(a.status, 200);
        assert_memory_equal(a.body, "POST|/i|-|-|-|127.0.0.1|100000|xxx", 34);
        mk_free(a.body);
        // one byte more, and no end of it
        say_n(fd, head, MAX + 1);
        while (send_bytes(fd, body, MAX)) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            if (poll(&p, 1, 0) == 1) {
                break;
            }
        }
        expect_answer(fd, 413, NULL);
        close(fd);
    }
    assert_int_equal(s.n_asked, 2);
    mk_free(body);
    check_alive(&s);
    server_stop(&s);
    balance_check(b);
}

// A client that sends all before it reads must still find the answer: the connection may not be
// reset under it.
static void test_refused_client_reads_answer(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){.max_body = 1000});
    enum { MUCH = 20 << 20 };
    char *body = mk_zalloc(MUCH);
    for (int i = 0; i < 3; i++) {
        int fd = dial(&s);
        say_n(fd, "POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", MUCH);
        assert_true(send_bytes(fd, body, MUCH));
        expect_answer(fd, 413, NULL);
        assert_true(is_closed(fd));
        close(fd);
    }
    mk_free(body);
    server_stop(&s);
}

static void test_expect_continue(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){.max_body = 1000});
    int fd = dial(&s);
    const char *head = "POST /i HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                       "Content-Length: %zu\r\n\r\n";
    say_n(fd, head, 3);
    char line[100];
    assert_true(read_line(fd, line, sizeof line));
    assert_string_equal(line, "HTTP/1.1 100 Continue");
    assert_true(read_line(fd, line, sizeof line));
    say(fd, "abc");
    expect_answer(fd, 200, "POST|/i|-|-|-|127.0.0.1|3|abc");
    say_n(fd, head, 1001);  // the client need not send it at all
    expect_answer(fd, 413, NULL);
    close(fd);
    server_stop(&s);
}

// All bodies together are limited too, and what is freed is free again.
static void test_many_bodies(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    enum { MAX = 1 << 20, FIT = 8, N = 12 };
    server_start(&s, (mk_http_opts){.max_body = MAX});
    char *body = mk_zalloc(MAX);
    for (int round = 0; round < 2; round++) {
        int fd[N];
        mk_http_exchange *x[FIT];
        for (int i = 0; i < N; i++) {
            fd[i] = dial(&s);
            say_n(fd[i], "POST /park HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", MAX);
            assert_true(send_bytes(fd[i], body, MAX));
            if (i < FIT) {
                x[i] = take(&s);
            } else {
                expect_answer(fd[i], 503, NULL);
            }
        }
        for (int i = 0; i < FIT; i++) {
            reply_text(x[i], 200, "one");
            mk_http_drop(x[i]);
            expect_answer(fd[i], 200, "one");
        }
        assert_true(becomes(n_open, s.h, 0, WAIT_MS));
        for (int i = 0; i < N; i++) {
            close(fd[i]);
        }
    }
    mk_free(body);
    server_stop(&s);
    balance_check(b);
}

static void test_chunked(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    int fd = dial(&s);
    say(fd, "POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            "3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Test: trailer\r\n\r\n");
    expect_answer(fd, 200, "POST|/i|-|-|-|127.0.0.1|13|abc0123456789");
    say(fd, "POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    expect_answer(fd, 200, "POST|/i|-|-|-|127.0.0.1|0|");
    close(fd);
    server_stop(&s);
}

// --- headers -------------------------------------------------------------------------------------

// A request whose line and headers have n bytes.
static void say_head(int fd, size_t n) {
    const char *before = "GET /now HTTP/1.1\r\nHost: x\r\nA: ", *after = "\r\n\r\n";
    mk_buf b;
    mk_buf_init(&b, 1 << 24);
    mk_buf_puts(&b, before);
    while (b.len + strlen(after) < n) {
        mk_buf_putc(&b, 'a');
    }
    mk_buf_puts(&b, after);
    (void)send_bytes(fd, b.data, b.len);  // may be refused before it is sent
    mk_buf_free(&b);
}

static void test_header_limit(void **state) {
    (void)state;
    server s;
    enum { MAX = 5000 };
    server_start(&s, (mk_http_opts){.max_header = MAX});
    static const struct {
        size_t n;
        int status;
    } cases[] = {{MAX, 200}, {MAX + 1, 431}, {2 * MAX, 431}, {100 * MAX, 431}, {1 << 22, 431}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = dial(&s);
        say_head(fd, cases[i].n);
        expect_answer(fd, cases[i].status, NULL);
        close(fd);
    }
    mk_buf many;
    mk_buf_init(&many, 1 << 24);
    mk_buf_puts(&many, "GET /now HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 20000; i++) {
        mk_buf_puts(&many, "a:\r\n");
    }
    mk_buf_puts(&many, "\r\n");
    int fd = dial(&s);
    (void)send_bytes(fd, many.data, many.len);
    expect_answer(fd, 431, NULL);
    close(fd);
    mk_buf_free(&many);
    fd = dial(&s);
    say(fd, "GET /");
    char path[1000];
    memset(path, 'p', sizeof path);
    for (int i = 0; i < 1000 && send_bytes(fd, path, sizeof path); i++) {
    }
    expect_answer(fd, 414, NULL);
    close(fd);
    assert_int_equal(s.n_asked, 1);
    check_alive(&s);
    server_stop(&s);
}

// --- time ----------------------------------------------------------------------------------------

static void test_byte_by_byte(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    const char *text = "POST /i?q=%41 HTTP/1.1\r\nHost: x\r\nX-Test: t\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    int fd = dial(&s);
    for (const char *p = text; *p; p++) {
        assert_true(send_bytes(fd, p, 1));
        sleep_ms(1);
    }
    expect_answer(fd, 200, "POST|/i|A|-|t|127.0.0.1|3|abc");
    close(fd);
    server_stop(&s);
}

// A request that never ends is ended, although a byte of it comes now and then; one that waits for
// its answer is not.
static void test_slow_requests(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){.idle_s = 1, .body_s = 1});
    int body = dial(&s), head = dial(&s), idle = dial(&s), waiting = dial(&s);
    int again = dial(&s);
    ask(waiting, "/park");
    mk_http_exchange *x = take(&s);
    ask(again, "/now");
    expect_answer(again, 200, "hello");
    say(body, "POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    say(head, "GET /");
    int64_t t = now_ms();
    bool body_open = true, head_open = true;
    while ((body_open || head_open) && now_ms() - t < WAIT_MS) {
        body_open = body_open && send_bytes(body, "a", 1);
        head_open = head_open && send_bytes(head, "a", 1);
        sleep_ms(100);
    }
    assert_false(body_open || head_open);
    assert_true(now_ms() - t >= 1000);
    assert_true(is_closed(idle) && is_closed(again));
    reply_text(x, 200, "patience");
    mk_http_drop(x);
    expect_answer(waiting, 200, "patience");
    int fd[] = {body, head, idle, waiting, again};
    for (int i = 0; i < 5; i++) {
        close(fd[i]);
    }
    server_stop(&s);
    balance_check(b);
}

static void test_slow_request_is_told(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){.idle_s = 60, .body_s = 1});
    int fd = dial(&s);
    say(fd, "POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    expect_answer(fd, 408, NULL);
    assert_true(is_closed(fd));
    close(fd);
    server_stop(&s);
}

// A client that does not read its answer is given up.
static void test_reader_stops(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){.idle_s = 1});
    int fd = dial_port(mk_http_port(s.h), 4096), gone = 0;
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    mk_http_on_gone(x, count_up, &gone);
    begin_stream(x);
    char piece[65536] = {0};
    for (int64_t end = now_ms() + WAIT_MS; !mk_http_gone(x) && now_ms() < end;) {
        if (!mk_http_write(x, piece, sizeof piece)) {
            sleep_ms(10);
        }
    }
    assert_true(becomes(count_of, &gone, 1, WAIT_MS));  // told just after mk_http_gone says so
    mk_http_abort(x);
    mk_http_drop(x);
    close(fd);
    server_stop(&s);
}

// --- numbers of connections ----------------------------------------------------------------------

static void test_too_many(void **state) {
    (void)state;
    balance b = balance_now();
    for (int per_address = 0; per_address < 2; per_address++) {
        server s;
        enum { MAX = 5 };
        server_start(&s, (mk_http_opts){.max_connections = per_address ? 0 : MAX,
                                        .max_per_address = per_address ? MAX : 0});
        int fd[MAX];
        for (int i = 0; i < MAX; i++) {
            fd[i] = dial(&s);
            ask(fd[i], "/now");
            expect_answer(fd[i], 200, "hello");
        }
        for (int i = 0; i < 3; i++) {
            int more = dial(&s);
            answer a;
            read_answer(more, &a);  // told before it asks
            assert_int_equal(a.status, per_address ? 429 : 503);
            assert_string_equal(head_field(&a, "Retry-After"), "1");
            mk_free(a.body);
            assert_true(is_closed(more));
            close(more);
        }
        close(fd[0]);  // makes room
        int status = 0;
        for (int64_t end = now_ms() + WAIT_MS; status != 200 && now_ms() < end; sleep_ms(5)) {
            int more = dial(&s);
            answer a;
            ask(more, "/now");
            read_answer(more, &a);
            status = a.status;
            mk_free(a.body);
            close(more);
        }
        assert_int_equal(status, 200);
        for (int i = 1; i < MAX; i++) {
            close(fd[i]);
        }
        server_stop(&s);
    }
    balance_check(b);
}

// --- malformed -----------------------------------------------------------------------------------

static void test_malformed(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    enum { TWICE = 1000 };  // libmicrohttpd 0.9.75 sends these headers twice, then closes
    static const struct {
        const char *text;
        int status;  // 0: closed without a word is as good
    } cases[] = {
        {"GET /now HTTP/1.1\r\n\r\n", 400},                        // no Host
        {"GET /now HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},  // two
        {"GET http://a/now HTTP/1.1\r\nHost: b\r\n\r\n", 400},     // which?
        {"GET now HTTP/1.1\r\nHost: x\r\n\r\n", 400},              // no path
        {"GET /now%00/x HTTP/1.1\r\nHost: x\r\n\r\n", 400},        // would be cut
        {"GET /now%2 HTTP/1.1\r\nHost: x\r\n\r\n", 400},           // half an escape
        {"GET /now%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /i?a=%g0 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
         "0\r\n\r\n",
         400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabc", 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
         400},
        {"POST /i HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", TWICE + 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\na", TWICE + 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", TWICE + 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\na",
         TWICE + 413},
        {"POST /i HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\na", 413},
        {"POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", 400},
        {"POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
         "ffffffffffffffffff\r\nabc\r\n",
         413},
        {"POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
         400},
        {"GET /now HTTP/3.7\r\nHost: x\r\n\r\n", 0},
        {"GET\r\n\r\n", 0},
        {"\x16\x03\x01\x02\x01\x01\x01\xfc\x03\x03 TLS\r\n\r\n", 0},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = dial(&s);
        say(fd, cases[i].text);
        shutdown(fd, SHUT_WR);
        answer a;
        bool any = read_answer_to(fd, &a, false);
        if (any ? a.status < 400 || (cases[i].status && a.status != cases[i].status % TWICE)
                : cases[i].status != 0) {
            fail_msg("case %zu: %d instead of %d: %s", i, any ? a.status : 0, cases[i].status,
                     cases[i].text);
        }
        if (any && !a.whole) {
            fail_msg("case %zu: the answer is cut", i);
        }
        mk_free(any ? a.body : NULL);
        char more;
        while (cases[i].status > TWICE && recv(fd, &more, 1, 0) == 1) {
        }
        if (!is_closed(fd)) {
            fail_msg("case %zu: the connection is still open, or says more", i);
        }
        close(fd);
    }
    assert_int_equal(s.n_asked, 0);
    check_alive(&s);
    server_stop(&s);
}

static void test_well_formed(void **state) {
    (void)state;
    server s;
    server_start(&s, (mk_http_opts){0});
    static const struct {
        const char *text, *body;
    } cases[] = {
        {"GET http://X/i?q=1 HTTP/1.1\r\nHost: x\r\n\r\n", "GET|/i|1|-|-|127.0.0.1|0|"},
        {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS|*|-|-|-|127.0.0.1|0|"},
        {"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", "GET|/|-|-|-|127.0.0.1|0|"},
        {"GET http://x?q=1 HTTP/1.1\r\nHost: x\r\n\r\n", "GET|/|1|-|-|127.0.0.1|0|"},
        {"GET //a/..%2f?&&q&=1&q=2 HTTP/1.1\r\nHost: x\r\n\r\n", "GET|//a/../||-|-|127.0.0.1|0|"},
        {"BREW /i HTTP/1.1\r\nHost: x\r\n\r\n", "BREW|/i|-|-|-|127.0.0.1|0|"},
        {"DELETE /i HTTP/1.1\r\nHost: x\r\nX-Test:\r\n\r\n", "DELETE|/i|-|-||127.0.0.1|0|"},
    };
    int fd = dial(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        say(fd, cases[i].text);
        expect_answer(fd, 200, cases[i].body);
    }
    close(fd);
    server_stop(&s);
}

static unsigned next_random(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

// Requests with random damage: any answer will do, and the server lives.
static void test_damaged(void **state) {
    (void)state;
    balance b = balance_now();
    server s;
    server_start(&s, (mk_http_opts){.max_body = 100, .max_header = 400});
    const char *whole = "POST /now?q=%41&b=c HTTP/1.1\r\nHost: x\r\nX-Test: t\r\n"
                        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
                        "3\r\nabc\r\n5;a=b\r\n01234\r\n0\r\nT: r\r\n\r\n"
                        "GET /big HTTP/1.1\r\nHost: x\r\nCookie: a=b; c=\"d\"\r\n\r\n";
    unsigned seed = 1;
    for (int i = 0; i < 300; i++) {
        char text[400];
        size_t n = strlen(whole);
        memcpy(text, whole, n);
        for (unsigned k = next_random(&seed) % 5; k; k--) {
            size_t at = next_random(&seed) % n, len = next_random(&seed) % 4;
            static const char marks[] = "\r\n\0 :%;/?\xff";
            switch (next_random(&seed) % 3) {
            case 0:
                text[at] = (char)next_random(&seed);
                break;
            case 1:
                text[at] = marks[next_random(&seed) % (sizeof marks - 1)];
                break;
            default:
                len = len < n - at ? len : n - at;
                memmove(text + at, text + at + len, n - at - len);
                n -= len;
            }
        }
        int fd = dial(&s);
        size_t first = next_random(&seed) % n;
        (void)send_bytes(fd, text, first);
        (void)send_bytes(fd, text + first, n - first);
        shutdown(fd, SHUT_WR);
        char rest[65536];
        while (recv(fd, rest, sizeof rest, 0) > 0) {
        }
        close(fd);
    }
    check_alive(&s);
    server_stop(&s);
    balance_check(b);
}

// --- the target ----------------------------------------------------------------------------------

// "PATH AUTHORITY k=v&..." or "!" for what is refused.
static void describe(const char *target, char *out, size_t size) {
    char *text;
    const char *path, *authority;
    mk_http_field *q;
    int n;
    const char *wrong = mk_http_parse_target(target, &text, &path, &authority, &q, &n);
    size_t at = 0;
    if (wrong) {
        at = (size_t)snprintf(out, size, "!");
    } else {
        at = (size_t)snprintf(out, size, "%s %s ", path, authority ? authority : "-");
        for (int i = 0; i < n; i++) {
            at += (size_t)snprintf(out + at, size - at, "[%s=%s]", q[i].name, q[i].value);
        }
    }
    mk_free(text);
    mk_free(q);
}

static void test_target(void **state) {
    (void)state;
    balance b = balance_now();
    static const struct {
        const char *target, *want;
    } cases[] = {
        {"/", "/ - "},
        {"/a/b", "/a/b - "},
        {"/a?", "/a - "},
        {"/a?x", "/a - [x=]"},
        {"/a?x=", "/a - [x=]"},
        {"/a?=y", "/a - [=y]"},
        {"/a?x=1=2&&y=%26%3D+%2B&", "/a - [x=1=2][y=&= +]"},
        {"/a?b?c", "/a - [b?c=]"},
        {"/a+b%2Bc%25", "/a+b+c% - "},
        {"*", "* - "},
        {"HTTP://h:80/a?b", "/a h:80 [b=]"},
        {"https://h", "/ h "},
        {"http://h?x=1", "/ h [x=1]"},
        {"http:///a", "!"},
        {"http://h#f", "!"},
        {"", "!"},
        {"a", "!"},
        {"**", "!"},
        {"ftp://h/a", "!"},
        {"/a#b", "!"},
        {"/a b", "!"},
        {"/a\tb", "!"},
        {"/%", "!"},
        {"/%4", "!"},
        {"/%4g", "!"},
        {"/%00", "!"},
        {"/?a=%", "!"},
        {"/?%00=a", "!"},
        {"/?a=%4", "!"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char got[200];
        describe(cases[i].target, got, sizeof got);
        assert_string_equal(got, cases[i].want);
    }
    char many[400] = "/?";
    for (size_t i = 2; i < sizeof many - 1; i++) {
        many[i] = '&';
    }
    char got[200];
    describe(many, got, sizeof got);
    assert_string_equal(got, "!");
    unsigned seed = 7;
    for (int i = 0; i < 20000; i++) {
        char t[24] = "/";
        size_t n = next_random(&seed) % (sizeof t - 1);
        for (size_t k = 1; k < n; k++) {
            t[k] = "%%%012afAFg&=+?/#h:\x80"[next_random(&seed) % 20];
        }
        describe(t, got, sizeof got);
    }
    balance_check(b);
}

// --- addresses -----------------------------------------------------------------------------------

static mk_status start_at(mk_http_opts o, mk_err *err) {
    mk_http *h;
    o.handler = on_request;
    mk_status st = mk_http_start(&o, &h, err);
    if (st == MK_OK) {
        mk_http_stop(h);
    }
    return st;
}

static void test_addresses(void **state) {
    (void)state;
    balance b = balance_now();
    mk_err err;
    assert_int_equal(start_at((mk_http_opts){.host = "0.0.0.0"}, &err), MK_OK);
    assert_int_equal(start_at((mk_http_opts){.host = "localhost"}, &err), MK_OK);
    assert_int_equal(start_at((mk_http_opts){.port = 65536}, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "65536"));
    assert_int_equal(start_at((mk_http_opts){.port = -1}, &err), MK_EUSAGE);
    assert_int_equal(start_at((mk_http_opts){.host = "no such host"}, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "no such host"));
    assert_int_equal(start_at((mk_http_opts){.host = "192.0.2.1"}, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "no address of this machine"));

    server s;
    server_start(&s, (mk_http_opts){0});
    char want[100];
    assert_int_equal(start_at((mk_http_opts){.port = mk_http_port(s.h)}, &err), MK_EIO);
    snprintf(want, sizeof want,
             "Port %d is used by \"net_test_http_l\" (pid %d). Start with --port ",
             mk_http_port(s.h), (int)getpid());
    assert_memory_equal(err.msg, want, strlen(want));
    server_stop(&s);
    balance_check(b);
}

static int dial_unix(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void test_unix_socket(void **state) {
    (void)state;
    balance b = balance_now();
    char dir[] = "/tmp/mk-http-XXXXXX", path[100], file[100], longer[200];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    snprintf(file, sizeof file, "%s/f", dir);
    snprintf(longer, sizeof longer, "%s/%0150d", dir, 1);
    server s;
    mk_err err;
    server_start(&s, (mk_http_opts){.unix_path = path});
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    int fd = dial_unix(path), gone = 0;
    ask(fd, "/i");
    expect_answer(fd, 200, "GET|/i|-|-|-|unix|0|");
    ask(fd, "/park");
    mk_http_exchange *x = take(&s);
    mk_http_on_gone(x, count_up, &gone);
    close(fd);
    assert_true(becomes(count_of, &gone, 1, 1000));
    mk_http_drop(x);
    assert_int_equal(start_at((mk_http_opts){.unix_path = path}, &err), MK_EIO);
    assert_non_null(strstr(err.msg, "is used by another program"));
    server_stop(&s);
    assert_int_equal(access(path, F_OK), -1);

    // what a killed server left behind
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    assert_int_equal(start_at((mk_http_opts){.unix_path = path}, &err), MK_OK);

    close(open(file, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(start_at((mk_http_opts){.unix_path = file}, &err), MK_EUSAGE);
    assert_int_equal(access(file, F_OK), 0);
    assert_int_equal(start_at((mk_http_opts){.unix_path = longer}, &err), MK_EUSAGE);
    unlink(file);
    assert_int_equal(rmdir(dir), 0);
    balance_check(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_body_limit),
        cmocka_unit_test(test_refused_client_reads_answer),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_many_bodies),
        cmocka_unit_test(test_chunked),
        cmocka_unit_test(test_header_limit),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_slow_requests),
        cmocka_unit_test(test_slow_request_is_told),
        cmocka_unit_test(test_reader_stops),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_well_formed),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_unix_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
