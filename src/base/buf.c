#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"

enum { MIN_CAP = 64 };

void mk_buf_init(mk_buf *b, size_t max_bytes) {
    *b = (mk_buf){.max_bytes = max_bytes};
}

void mk_buf_free(mk_buf *b) {
    mk_free(b->data);
    mk_buf_init(b, b->max_bytes);
}

void mk_buf_clear(mk_buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->data) {
        b->data[0] = '\0';
    }
}

// Makes room for n more bytes and the NUL; false sets the sticky failure.
static bool reserve(mk_buf *b, size_t n) {
    if (b->failed) {
        return false;
    }
    size_t need = 0;
    bool fits =
        mk_add_size(b->len, n, &need) && need <= b->max_bytes && mk_add_size(need, 1, &need);
    if (fits && need <= b->cap) {
        return true;
    }
    // Doubling keeps appending linear; the last step stops at the maximum so that a bounded buffer
    // stays bounded.
    size_t cap = b->cap > SIZE_MAX / 2 ? need : 2 * b->cap;
    cap = cap < MIN_CAP ? MIN_CAP : cap;
    cap = b->max_bytes < SIZE_MAX && cap > b->max_bytes + 1 ? b->max_bytes + 1 : cap;
    cap = cap < need ? need : cap;
    char *data = fits ? mk_try_realloc(b->data, cap, 1) : NULL;
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void mk_buf_add(mk_buf *b, const void *p, size_t n) {
    if (!reserve(b, n)) {
        return;
    }
    if (n) {
        memcpy(b->data + b->len, p, n);
    }
    b->len += n;
    b->data[b->len] = '\0';
}

void mk_buf_puts(mk_buf *b, const char *s) {
    mk_buf_add(b, s, strlen(s));
}

void mk_buf_putc(mk_buf *b, char c) {
    mk_buf_add(b, &c, 1);
}

void mk_buf_utf8(mk_buf *b, uint32_t cp) {
    char u[4];
    mk_buf_add(b, u, (size_t)mk_utf8_encode(cp, u));
}

void mk_buf_printf(mk_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    char small[256];
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        mk_buf_add(b, small, (size_t)n);
    } else if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

char *mk_buf_detach(mk_buf *b) {
    if (!b->data) {
        reserve(b, 0);
    }
    if (b->failed) {
        return NULL;
    }
    char *data = b->data;
    data[b->len] = '\0';
    mk_buf_init(b, b->max_bytes);
    return data;
}
