// What goes out of a turn: headers, whole answers, the bytes of streams.
#include "base/log.h"
#include "serve/turn_int.h"

enum { MAX_FIELDS = 10, MAX_IGNORED = 512 };

// Headers of an answer: its type, who may read it, and which fields of the request were ignored.
static int add_headers(turn *t, const char *type, mk_http_field f[MAX_FIELDS],
                       char ignored[MAX_IGNORED]) {
    const char *cors = mk_service_cors(t->s, t->x);
    int n = 0;
    f[n++] = (mk_http_field){"Content-Type", type};
    f[n++] = (mk_http_field){"x-request-id", t->id};
    f[n++] = (mk_http_field){"request-id", t->id};  // Anthropic's name for it
    if (cors) {
        f[n++] = (mk_http_field){"Access-Control-Allow-Origin", cors};
        f[n++] = (mk_http_field){"Vary", "Origin"};
    }
    size_t at = 0, i;
    json_t *name;
    json_array_foreach(t->ask.unknown, i, name) {
        const char *s = json_string_value(name);
        for (size_t k = 0; s && s[k] && at + 3 < MAX_IGNORED; k++) {
            ignored[at++] = s[k] > ' ' && s[k] < 127 ? s[k] : '?';
        }
        if (at + 3 >= MAX_IGNORED) {
            break;
        }
        ignored[at++] = ' ';
    }
    ignored[at] = 0;
    if (at > 0) {
        ignored[at - 1] = 0;
        f[n++] = (mk_http_field){"Minke-Ignored-Fields", ignored};
    }
    return n;
}

void mk_service_turn_reply(turn *t) {
    mk_http_field f[MAX_FIELDS];
    char ignored[MAX_IGNORED];
    int n = add_headers(t, "application/json", f, ignored);
    mk_http_reply(t->x, 200, f, n, t->out.data, t->out.len);
}

void mk_service_turn_stream(turn *t) {
    mk_http_field f[MAX_FIELDS];
    char ignored[MAX_IGNORED];
    int n = add_headers(t, t->dialect->content_type, f, ignored);
    f[n++] = (mk_http_field){"Cache-Control", "no-cache"};
    f[n++] = (mk_http_field){"X-Accel-Buffering", "no"};
    mk_http_begin(t->x, 200, f, n);
    t->streaming = true;
    t->last_ns = mk_now_ns();
}

void mk_service_turn_send(turn *t) {
    if (t->out.len == 0) {
        return;
    }
    if (!t->lost && !mk_http_write(t->x, t->out.data, t->out.len)) {
        t->lost = true;
    }
    bool failed = t->out.failed;  // is told at the end, when the stream is cut off
    mk_buf_clear(&t->out);
    t->out.failed = failed;
    t->last_ns = mk_now_ns();
}
