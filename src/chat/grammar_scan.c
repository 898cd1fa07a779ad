// See grammar_scan.h.
#include "chat/grammar_scan.h"

#include <string.h>

#include "base/ascii.h"
#include "base/utf8.h"
#include "chat/grammar_int.h"

bool mk_gscan_sees(const mk_gscan *s, const char *text) {
    size_t n = strlen(text);
    return s->n - s->at >= n && memcmp(s->p + s->at, text, n) == 0;
}

bool mk_gscan_take(mk_gscan *s, const char *text) {
    bool yes = mk_gscan_sees(s, text);
    s->at += yes ? strlen(text) : 0;
    return yes;
}

const char *mk_gscan_char(mk_gscan *s, uint32_t *cp) {
    int n = mk_utf8_decode(s->p + s->at, s->n - s->at, cp);
    if (n <= 0) {
        return n == 0 ? "unexpected end" : "a byte that is not UTF-8";
    }
    s->at += (size_t)n;
    return NULL;
}

int mk_gscan_hex(mk_gscan *s, int max, uint32_t *out) {
    int n = 0;
    *out = 0;
    for (; n < max && s->at < s->n && mk_hex_digit(s->p[s->at]) >= 0; n++, s->at++) {
        *out = *out << 4 | (uint32_t)mk_hex_digit(s->p[s->at]);
    }
    return n;
}

bool mk_gscan_number(mk_gscan *s, uint32_t *out) {
    size_t start = s->at;
    uint64_t x = 0;
    for (; s->at < s->n && s->p[s->at] >= '0' && s->p[s->at] <= '9'; s->at++) {
        x = x * 10 + (uint64_t)(s->p[s->at] - '0');
        x = x > MK_G_MAX_REPEAT ? MK_G_MAX_REPEAT : x;
    }
    *out = (uint32_t)x;
    return s->at > start;
}
