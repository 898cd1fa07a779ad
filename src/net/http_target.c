// The target of a request.  libmicrohttpd decodes it too, but lets "%00" cut the path and takes a
// broken escape as it stands; a path that means one thing to a check and another to a handler is a
// hole, so both are refused here.
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "net/http_int.h"

enum { MAX_QUERY = 100 };  // fields

static int hex_value(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Decodes s[n] to out, which may be s, and ends it with a NUL.  In a query '+' is a space.
static bool decode(const char *s, size_t n, bool plus, char *out) {
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            int hi = i + 2 < n ? hex_value(s[i + 1]) : -1;
            int lo = i + 2 < n ? hex_value(s[i + 2]) : -1;
            if (hi < 0 || lo < 0 || hi * 16 + lo == 0) {
                return false;
            }
            c = (char)(hi * 16 + lo);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        *out++ = c;
    }
    *out = '\0';
    return true;
}

// "k=v&k2": cut in place into *fields.
static const char *parse_query(char *s, mk_http_field **fields, int *n_fields) {
    int n = 1;
    for (const char *p = s; *p; p++) {
        n += *p == '&';
    }
    if (n > MAX_QUERY) {
        return "more than 100 query fields";
    }
    mk_http_field *list = mk_alloc((size_t)n * sizeof *list);
    n = 0;
    for (char *next = s; next;) {
        char *name = next, *end = strchr(name, '&');
        next = end ? end + 1 : NULL;
        size_t len = end ? (size_t)(end - name) : strlen(name);
        char *eq = memchr(name, '=', len);
        size_t n_name = eq ? (size_t)(eq - name) : len;
        char *value = eq ? eq + 1 : name + len;
        size_t n_value = eq ? len - n_name - 1 : 0;
        if (len == 0) {
            continue;
        }
        // the value first: the NUL behind the name overwrites the '='
        bool ok = decode(value, n_value, true, value) && decode(name, n_name, true, name);
        if (!ok) {
            mk_free(list);
            return "malformed escape in the query";
        }
        list[n++] = (mk_http_field){name, value};
    }
    *fields = list;
    *n_fields = n;
    return NULL;
}

// "http://host:1/path": the authority; *path is what follows it.
static bool split_absolute(char *s, char **authority, char **path) {
    static const char *const schemes[] = {"http://", "https://"};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(schemes[i]);
        if (strncasecmp(s, schemes[i], n) == 0) {
            char *host = s + n;
            size_t len = strcspn(host, "/?#");
            // moved to the front, so that there is room for the NUL behind it
            memmove(s, host, len);
            s[len] = '\0';
            *authority = s;
            *path = host + len;
            return len > 0;
        }
    }
    return false;
}

const char *mk_http_parse_target(const char *target, char **text, const char **path,
                                 const char **authority, mk_http_field **query, int *n_query) {
    *path = "";
    *authority = NULL;
    *query = NULL;
    *n_query = 0;
    *text = mk_strdup(target);
    char *p = *text, *host = NULL;
    if (*p != '/' && strcmp(p, "*") != 0 && !split_absolute(p, &host, &p)) {
        return "the request target must be a path";
    }
    *authority = host;
    for (const char *c = p; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == 0x7f || *c == '#') {
            return "character that is not allowed in a request target";
        }
    }
    char *args = strchr(p, '?');
    if (args) {
        *args++ = '\0';
    }
    if (!decode(p, strlen(p), false, p)) {
        return "malformed escape in the path";
    }
    *path = *p ? p : "/";
    return args ? parse_query(args, query, n_query) : NULL;
}
