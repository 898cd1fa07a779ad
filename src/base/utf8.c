#include "base/utf8.h"

#include <string.h>

enum { REPLACEMENT = 0xFFFD };

// What a lead byte promises (RFC 3629): length, its own payload bits, and the range of the second
// byte that excludes overlong forms (E0, F0), surrogates (ED) and values above U+10FFFF (F4).
typedef struct {
    uint8_t first, last, len, payload, second_min, second_max;
} lead;

static const lead leads[] = {
    {0x00, 0x7F, 1, 0x7F, 0x00, 0x00}, {0xC2, 0xDF, 2, 0x1F, 0x80, 0xBF},
    {0xE0, 0xE0, 3, 0x0F, 0xA0, 0xBF}, {0xE1, 0xEC, 3, 0x0F, 0x80, 0xBF},
    {0xED, 0xED, 3, 0x0F, 0x80, 0x9F}, {0xEE, 0xEF, 3, 0x0F, 0x80, 0xBF},
    {0xF0, 0xF0, 4, 0x07, 0x90, 0xBF}, {0xF1, 0xF3, 4, 0x07, 0x80, 0xBF},
    {0xF4, 0xF4, 4, 0x07, 0x80, 0x8F},
};

static const lead *find_lead(uint8_t b) {
    for (size_t i = 0; i < sizeof leads / sizeof leads[0]; i++) {
        if (b >= leads[i].first && b <= leads[i].last) {
            return &leads[i];
        }
    }
    return NULL;
}

static bool second_ok(const lead *l, uint8_t b) {
    return b >= l->second_min && b <= l->second_max;
}

int mk_utf8_decode(const char *p, size_t n, uint32_t *cp) {
    if (n == 0) {
        return 0;
    }
    const uint8_t *u = (const uint8_t *)p;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    *cp = REPLACEMENT;
    const lead *l = find_lead(u[0]);
    if (!l || n < l->len || !second_ok(l, u[1])) {
        return -1;
    }
    uint32_t c = u[0] & l->payload;
    for (int i = 1; i < l->len; i++) {
        if ((u[i] & 0xC0) != 0x80) {
            return -1;
        }
        c = c << 6 | (u[i] & 0x3F);
    }
    *cp = c;
    return l->len;
}

int mk_utf8_encode(uint32_t cp, char out[4]) {
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) {
        cp = REPLACEMENT;
    }
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    static const uint8_t mark[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3F));
        cp >>= 6;
    }
    out[0] = (char)(mark[len] | cp);
    return len;
}

size_t mk_utf8_first_invalid(const char *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        int len = mk_utf8_decode(p + i, n - i, &cp);
        if (len < 0) {
            return i;
        }
        i += (size_t)len;
    }
    return n;
}

bool mk_utf8_valid(const char *p, size_t n) {
    return mk_utf8_first_invalid(p, n) == n;
}

size_t mk_utf8_incomplete_tail(const char *p, size_t n) {
    const uint8_t *u = (const uint8_t *)p;
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        uint8_t b = u[n - k];
        if ((b & 0xC0) == 0x80) {
            continue;  // a continuation byte: its lead lies further left
        }
        const lead *l = find_lead(b);
        bool open = l && l->len > k && (k < 2 || second_ok(l, u[n - k + 1]));
        return open ? k : 0;
    }
    return 0;
}

bool mk_utf8_hostile(uint32_t cp) {
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || (cp >= 0x2028 && cp <= 0x202E) ||
           (cp >= 0x2066 && cp <= 0x2069) || cp == 0x200E || cp == 0x200F;
}

void mk_utf8_make_printable(char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = mk_utf8_decode(p + i, n - i, &cp);
        size_t step = len < 1 ? 1 : (size_t)len;
        if (len < 1 || mk_utf8_hostile(cp)) {
            memset(p + i, '?', step);
        }
        i += step;
    }
}
