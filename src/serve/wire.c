#include "serve/wire.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/utf8.h"

static void escape_control(mk_buf *b, unsigned char c) {
    static const char letters[] = "btn\0fr";  // \b is 8 ... \r is 13
    if (c >= 8 && c <= 13 && c != 11) {
        mk_buf_putc(b, '\\');
        mk_buf_putc(b, letters[c - 8]);
    } else {
        mk_buf_printf(b, "\\u%04X", c);
    }
}

void mk_wire_escaped(mk_buf *b, const char *p, size_t n) {
    if (n == 0) {
        return;
    }
    size_t from = 0;  // bytes before it are written
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)p[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        uint32_t cp;
        int len = c < 0x80 ? 0 : mk_utf8_decode(p + i, n - i, &cp);
        if (len > 0) {
            i += (size_t)len;
            continue;
        }
        mk_buf_add(b, p + from, i - from);
        if (c == '"' || c == '\\') {
            mk_buf_putc(b, '\\');
            mk_buf_putc(b, (char)c);
        } else if (c < 0x20) {
            escape_control(b, c);
        } else {
            mk_buf_puts(b, "\xEF\xBF\xBD");
        }
        from = ++i;
    }
    mk_buf_add(b, p + from, n - from);
}

void mk_wire_string(mk_buf *b, const char *p, size_t n) {
    mk_buf_putc(b, '"');
    mk_wire_escaped(b, p, n);
    mk_buf_putc(b, '"');
}

void mk_wire_text(mk_buf *b, const char *s) {
    if (s) {
        mk_wire_string(b, s, strlen(s));
    } else {
        mk_buf_puts(b, "null");
    }
}

void mk_wire_number(mk_buf *b, double x) {
    x = isnan(x) ? 0 : x;
    x = x > DBL_MAX ? DBL_MAX : (x < -DBL_MAX ? -DBL_MAX : x);
    mk_buf_printf(b, "%.7g", x);
}

void mk_wire_bytes(mk_buf *b, const char *p, size_t n) {
    mk_buf_putc(b, '[');
    for (size_t i = 0; i < n; i++) {
        mk_buf_printf(b, i ? ",%u" : "%u", (unsigned)(unsigned char)p[i]);
    }
    mk_buf_putc(b, ']');
}

void mk_wire_sse_begin(mk_buf *b, const char *event) {
    if (event) {
        mk_buf_printf(b, "event: %s\n", event);
    }
    mk_buf_puts(b, "data: ");
}

void mk_wire_sse_end(mk_buf *b) {
    mk_buf_puts(b, "\n\n");
}
