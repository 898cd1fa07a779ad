#include "serve/page.h"

#include <stdio.h>
#include <string.h>

#include "base/mathx.h"
#include "serve/service_int.h"

// The page works by scripts and styles in files alone, and no text may become HTML: what a model
// writes has no way to run, even through a mistake in them.
static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

static const mk_page_file *find(const char *path) {
    for (const mk_page_file *f = mk_page_files; f->path; f++) {
        if (strcmp(f->path, path) == 0) {
            return f;
        }
    }
    return NULL;
}

static const char *type_of(const char *path) {
    static const struct {
        const char *end, *type;
    } rows[] = {
        {".js", "text/javascript; charset=utf-8"},
        {".css", "text/css; charset=utf-8"},
        {".txt", "text/plain; charset=utf-8"},
        {".svg", "image/svg+xml"},
        {".png", "image/png"},
        {".webmanifest", "application/manifest+json"},
        {".woff2", "font/woff2"},
        {"/", "text/html; charset=utf-8"},
    };
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t m = strlen(rows[i].end);
        if (n >= m && strcmp(path + n - m, rows[i].end) == 0) {
            return rows[i].type;
        }
    }
    return "application/octet-stream";
}

// The browser keeps a copy and asks each time whether it is still the same: a new program shows its
// new page at once.
static void reply(mk_http_exchange *x, const mk_page_file *f) {
    char tag[24];
    snprintf(tag, sizeof tag, "\"%016llx\"", (unsigned long long)mk_hash64(f->data, *f->n, 0));
    const mk_http_field fields[] = {
        {"Content-Type", type_of(f->path)},
        {"ETag", tag},
        {"Cache-Control", "no-cache"},
        {"Vary", "Accept"},
        {"Content-Security-Policy", policy},
        {"X-Content-Type-Options", "nosniff"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Opener-Policy", "same-origin"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
    };
    const char *has = mk_http_header(x, "If-None-Match");
    bool same = has && strstr(has, tag);
    mk_http_reply(x, same ? 304 : 200, fields, sizeof fields / sizeof fields[0], f->data,
                  same ? 0 : *f->n);
}

// Programs that ask whether somebody is there (Ollama's clients do) get a line of text.
HANDLER(page) {
    const char *path = mk_http_path(x), *accept = mk_http_header(x, "Accept");
    const mk_page_file *f = s->o.page ? find(path) : NULL;
    bool root = strcmp(path, "/") == 0;
    if (root && (!f || !accept || !strstr(accept, "text/html"))) {
        mk_plain_alive(s, x, r, c);
    } else if (f) {
        reply(x, f);
    } else {
        mk_err err;
        (void)MK_FAIL(&err, MK_ENOTFOUND, "%.100s: %s", path,
                      s->o.page ? "the page has no such file" : "the web page is off (--no-page)");
        mk_service_fail(s, x, NULL, 404, &err);
    }
}
