// Requests as they come in: libmicrohttpd's callbacks become an exchange.
//
// For one request libmicrohttpd calls, all on the server's thread:
//
//   on_target      the request line is here       the exchange is made
//   on_request     the headers are here           they are copied; a bad one is refused
//   on_request     n bytes of body                they are added
//   on_request     all is here                    the handler is called; from then on every
//                                                 further call asks for the answer
//   on_completed   the answer is sent, or the     the exchange is over
//                  connection is lost
//
// What is refused is refused before the body is read.  libmicrohttpd takes a reply only before the
// first byte of a body or after the last, so mk_http_refuse writes one past it.
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <sys/socket.h>

#include "base/alloc.h"
#include "base/log.h"
#include "net/http_int.h"

enum { FIRST_BODY = 4096, MAX_BODIES = 8, HTTP_CONTENT_TOO_LARGE = 413 };

static const char *reason_of(int status) {
    switch (status) {
    case 400:
        return "Bad Request";
    case 408:
        return "Request Timeout";
    case HTTP_CONTENT_TOO_LARGE:
        return "Content Too Large";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    default:
        return "Service Unavailable";
    }
}

void mk_http_refuse(int fd, int status, const char *message) {
    char body[256], all[512];
    int n = snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"code\":%d}}\n", message,
                     status);
    bool later = status == 429 || status == 503;
    int len = snprintf(all, sizeof all,
                       "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                       "%sConnection: close\r\n\r\n%s",
                       status, reason_of(status), n, later ? "Retry-After: 1\r\n" : "", body);
    MK_ASSERT(n < (int)sizeof body && len < (int)sizeof all);
    // So few bytes go into the socket's buffer at once; if the client has gone, nothing is lost.
    ssize_t sent = send(fd, all, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;
}

static enum MHD_Result refuse(mk_http_exchange *x, int status, const char *message) {
    mk_http_refuse(x->conn->fd, status, message);
    return MHD_NO;  // closes the connection
}

// --- headers -------------------------------------------------------------------------------------

typedef struct {
    mk_http_field *fields;  // NULL: count only
    char *text;
    int n;
    size_t n_bytes;
} field_copy;

static enum MHD_Result copy_field(void *arg, enum MHD_ValueKind kind, const char *name,
                                  const char *value) {
    (void)kind;
    field_copy *c = arg;
    const char *parts[2] = {name, value ? value : ""};
    char *copies[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(parts[i]) + 1;
        if (c->fields) {
            copies[i] = memcpy(c->text + c->n_bytes, parts[i], n);
        }
        c->n_bytes += n;
    }
    if (c->fields) {
        c->fields[c->n] = (mk_http_field){copies[0], copies[1]};
    }
    c->n++;
    return MHD_YES;
}

// The headers outlive the connection.  Their size is bounded by libmicrohttpd's memory per
// connection.
static bool copy_fields(mk_http_exchange *x) {
    field_copy c = {0};
    MHD_get_connection_values(x->mc, MHD_HEADER_KIND, copy_field, &c);
    size_t table = (size_t)c.n * sizeof *c.fields;
    c.fields = mk_try_alloc(table + c.n_bytes + 1, 1);
    if (!c.fields) {
        return false;
    }
    c.text = (char *)c.fields + table;
    c.n_bytes = 0;
    c.n = 0;
    MHD_get_connection_values(x->mc, MHD_HEADER_KIND, copy_field, &c);
    x->fields = c.fields;
    x->n_fields = c.n;
    return true;
}

static int count_field(const mk_http_exchange *x, const char *name) {
    int n = 0;
    for (int i = 0; i < x->n_fields; i++) {
        n += strcasecmp(x->fields[i].name, name) == 0;
    }
    return n;
}

// A name with a blank in it or behind it is no name: others may read "Content-Length : 5" as one.
static bool names_are_tokens(const mk_http_exchange *x) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (int i = 0; i < x->n_fields; i++) {
        const char *p = x->fields[i].name;
        while (isalnum((unsigned char)*p) || (*p && strchr(others, *p))) {
            p++;
        }
        if (*p || p == x->fields[i].name) {
            return false;
        }
    }
    return true;
}

// Requests that two readers could cut differently (request smuggling), or that name two hosts.
static const char *check_framing(const mk_http_exchange *x, const char *version,
                                 const char *authority) {
    const char *coding = mk_http_header(x, "transfer-encoding");
    const char *length = mk_http_header(x, "content-length");
    const char *host = mk_http_header(x, "host");
    if (!names_are_tokens(x)) {
        return "a header whose name is not made of letters, digits and marks";
    }
    if (coding && (length || count_field(x, "transfer-encoding") > 1)) {
        return "Transfer-Encoding together with another length";
    }
    if (coding && (strcasecmp(coding, "chunked") != 0 || strcmp(version, "HTTP/1.1") != 0)) {
        return "Transfer-Encoding: only chunked, and only in HTTP/1.1";
    }
    if (count_field(x, "content-length") > 1) {
        return "more than one Content-Length";
    }
    if (length && (!*length || strspn(length, "0123456789") != strlen(length))) {
        return "Content-Length is not a number";
    }
    if (count_field(x, "host") > 1 || (!host && strcmp(version, "HTTP/1.0") != 0)) {
        return "expected one Host header";
    }
    if (authority && host && strcasecmp(authority, host) != 0) {
        return "Host and request target name different hosts";
    }
    return NULL;
}

// A number too large for 64 bits is too large.
static bool over_limit(const char *length, size_t max) {
    uint64_t n = 0;
    for (; length && *length; length++) {
        n = n * 10 + (uint64_t)(*length - '0');
        if (n > max) {
            return true;
        }
    }
    return false;
}

static enum MHD_Result take_headers(mk_http_exchange *x, const char *method, const char *version) {
    mk_http *h = x->h;
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(x->mc, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (!size || size->header_size > h->o.max_header) {
        return refuse(x, 431, "request line and headers are too long");
    }
    if (!copy_fields(x)) {
        return refuse(x, 503, "out of memory");
    }
    x->method = mk_strdup(method);
    const char *wrong = x->refusal;
    wrong = wrong ? wrong : check_framing(x, version, x->authority);
    if (wrong) {
        return refuse(x, 400, wrong);
    }
    if (over_limit(mk_http_header(x, "content-length"), h->o.max_body)) {
        return refuse(x, HTTP_CONTENT_TOO_LARGE, "request body is too long");
    }
    return MHD_YES;
}

// --- body ----------------------------------------------------------------------------------------

// The buffer grows with what has come, not with what was announced, and all bodies together have a
// limit: many clients that each send nearly too much must not take the memory.
static bool grow_body(mk_http_exchange *x, size_t need) {
    mk_http *h = x->h;
    size_t cap = x->body_cap ? x->body_cap : FIRST_BODY;
    while (cap < need + 1) {
        cap *= 2;
    }
    if (cap > h->o.max_body + 1) {
        cap = h->o.max_body + 1;  // need is at most max_body
    }
    if (cap == x->body_cap) {
        return true;
    }
    size_t more = cap - x->body_cap;
    if (atomic_fetch_add(&h->body_bytes, more) + more > MAX_BODIES * (h->o.max_body + 1)) {
        atomic_fetch_sub(&h->body_bytes, more);
        return false;
    }
    char *p = mk_try_realloc(x->body, cap, 1);
    if (!p) {
        atomic_fetch_sub(&h->body_bytes, more);
        return false;
    }
    x->body = p;
    x->body_cap = cap;
    return true;
}

static enum MHD_Result take_body(mk_http_exchange *x, const char *p, size_t n) {
    if (n > x->h->o.max_body - x->n_body) {
        return refuse(x, HTTP_CONTENT_TOO_LARGE, "request body is too long");
    }
    if (!grow_body(x, x->n_body + n)) {
        return refuse(x, 503, "no memory for the request body");
    }
    memcpy(x->body + x->n_body, p, n);
    x->n_body += n;
    x->body[x->n_body] = '\0';
    return MHD_YES;
}

// --- callbacks -----------------------------------------------------------------------------------

void *mk_http_on_target(void *h, const char *target, struct MHD_Connection *mc) {
    mk_http_conn *c =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    mk_http_exchange *x = mk_http_exchange_create(h, c, mc);
    x->refusal =
        mk_http_parse_target(target, &x->target, &x->path, &x->authority, &x->query, &x->n_query);
    c->deadline_ns = mk_now_ns() + (uint64_t)x->h->o.body_s * MK_HTTP_NS_PER_S;
    return x;
}

enum MHD_Result mk_http_on_request(void *h, struct MHD_Connection *mc, const char *url,
                                   const char *method, const char *version, const char *upload,
                                   size_t *n_upload, void **ctx) {
    (void)mc;
    (void)url;
    mk_http_exchange *x = *ctx;
    if (((mk_http *)h)->stopping) {
        return MHD_NO;
    }
    if (!x->has_headers) {
        x->has_headers = true;
        return take_headers(x, method, version);
    }
    if (*n_upload) {
        size_t n = *n_upload;
        *n_upload = 0;
        return take_body(x, upload, n);
    }
    if (!x->asked) {
        x->asked = true;
        x->conn->deadline_ns = 0;
        x->h->o.handler(x->h->o.arg, x);
    }
    return mk_http_give_answer(x);
}

void mk_http_on_completed(void *h, struct MHD_Connection *mc, void **ctx,
                          enum MHD_RequestTerminationCode code) {
    (void)h;
    (void)mc;
    mk_http_exchange *x = *ctx;
    *ctx = NULL;
    if (x) {
        mk_http_exchange_over(x, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    }
}
