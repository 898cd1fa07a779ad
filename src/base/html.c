// See html.h.
#include "base/html.h"

#include <string.h>

#include "base/utf8.h"

void mk_html_text(mk_buf *b, const char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = mk_utf8_decode(p + i, n - i, &cp);
        size_t step = len < 1 ? 1 : (size_t)len;
        if (cp < 0x80 && strchr("&<>\"'", (int)cp) && cp != 0) {
            mk_buf_printf(b, "&#%d;", (int)cp);
        } else if ((cp & 0xFFFE) == 0xFFFE) {  // no character, XML forbids it
            mk_buf_utf8(b, 0xFFFD);
        } else if (cp == '\n' || cp == '\t' || (len > 0 && !mk_utf8_hostile(cp))) {
            mk_buf_add(b, p + i, step);
        } else {
            mk_buf_utf8(b, 0xFFFD);
        }
        i += step;
    }
}

void mk_html_str(mk_buf *b, const char *s) {
    mk_html_text(b, s, strlen(s));
}
