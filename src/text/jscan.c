#include "text/jscan.h"

#include <stdlib.h>
#include <string.h>

#include "base/ascii.h"
#include "base/utf8.h"

#define MAX_DEPTH 64

mk_status mk_jscan_fail(mk_jscan *j, const char *expected) {
    if (j->st == MK_OK) {
        if (j->at < j->n) {
            j->st =
                MK_FAIL(j->err, MK_ECORRUPT, "tokenizer.json: expected %s at byte %zu, got '%c'",
                        expected, j->at, j->p[j->at]);
        } else {
            j->st = MK_FAIL(j->err, MK_ECORRUPT,
                            "tokenizer.json: expected %s, got the end at byte %zu", expected, j->n);
        }
    }
    return j->st;
}

char mk_jscan_peek(mk_jscan *j) {
    while (j->at < j->n && (j->p[j->at] == ' ' || j->p[j->at] == '\n' || j->p[j->at] == '\t' ||
                            j->p[j->at] == '\r')) {
        j->at++;
    }
    return j->st == MK_OK && j->at < j->n ? j->p[j->at] : 0;
}

bool mk_jscan_take(mk_jscan *j, char c) {
    if (mk_jscan_peek(j) != c || j->st != MK_OK) {
        char what[] = {'\'', c, '\'', 0};
        mk_jscan_fail(j, what);
        return false;
    }
    j->at++;
    return true;
}

bool mk_jscan_next(mk_jscan *j, char close, bool *first) {
    if (mk_jscan_peek(j) == close && j->st == MK_OK) {
        j->at++;
        return false;
    }
    bool more = *first || mk_jscan_take(j, ',');
    *first = false;
    return more && j->st == MK_OK;
}

static bool hex4(const mk_jscan *j, size_t at, uint32_t *v) {
    *v = 0;
    for (size_t i = at; i < at + 4; i++) {
        int d = i < j->n ? mk_hex_digit(j->p[i]) : -1;
        if (d < 0) {
            return false;
        }
        *v = *v * 16 + (uint32_t)d;
    }
    return true;
}

// One escape at j->at (behind the backslash).
static bool escape(mk_jscan *j, mk_buf *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = j->at < j->n ? j->p[j->at] : 0;
    const char *hit = c ? strchr(from, c) : NULL;
    if (hit) {
        mk_buf_putc(out, to[hit - from]);
        j->at++;
        return true;
    }
    uint32_t cp, low;
    if (c != 'u' || !hex4(j, j->at + 1, &cp)) {
        mk_jscan_fail(j, "an escape");
        return false;
    }
    j->at += 5;
    if (cp >= 0xD800 && cp < 0xE000) {
        bool pair = cp < 0xDC00 && j->n - j->at >= 6 && j->p[j->at] == '\\' &&
                    j->p[j->at + 1] == 'u' && hex4(j, j->at + 2, &low) && low >= 0xDC00 &&
                    low < 0xE000;
        if (!pair) {
            mk_jscan_fail(j, "the second half of a surrogate pair");
            return false;
        }
        j->at += 6;
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    }
    mk_buf_utf8(out, cp);
    return true;
}

// End of the plain characters at j->at: a quote, a backslash, a control character or the end.
static size_t plain_end(const mk_jscan *j) {
    size_t i = j->at;
    while (i < j->n && j->p[i] != '"' && j->p[i] != '\\' && (unsigned char)j->p[i] >= 0x20) {
        i++;
    }
    return i;
}

bool mk_jscan_string(mk_jscan *j, mk_buf *scratch, const char **s, size_t *n) {
    if (!mk_jscan_take(j, '"')) {
        return false;
    }
    size_t start = j->at;
    j->at = plain_end(j);
    if (j->at < j->n && j->p[j->at] == '"') {
        *s = j->p + start;
        *n = j->at++ - start;
    } else {
        mk_buf_clear(scratch);
        mk_buf_add(scratch, j->p + start, j->at - start);
        while (j->at < j->n && j->p[j->at] == '\\') {
            j->at++;
            if (!escape(j, scratch)) {
                return false;
            }
            size_t end = plain_end(j);
            mk_buf_add(scratch, j->p + j->at, end - j->at);
            j->at = end;
        }
        if (j->at >= j->n || j->p[j->at] != '"') {
            mk_jscan_fail(j, "the end of a string");
            return false;
        }
        j->at++;
        *s = scratch->data ? scratch->data : "";
        *n = scratch->len;
    }
    if (scratch->failed) {
        j->st = MK_FAIL(j->err, MK_ENOMEM, "no memory for a string of tokenizer.json");
        return false;
    }
    if (!mk_utf8_valid(*s, *n)) {
        mk_jscan_fail(j, "valid UTF-8 in the string before");
        return false;
    }
    return true;
}

bool mk_jscan_int(mk_jscan *j, int64_t *v) {
    char c = mk_jscan_peek(j);
    bool minus = c == '-';
    j->at += minus;
    size_t start = j->at;
    *v = 0;
    while (j->st == MK_OK && j->at < j->n && j->p[j->at] >= '0' && j->p[j->at] <= '9' &&
           j->at - start < 15) {
        *v = *v * 10 + (j->p[j->at++] - '0');
    }
    *v = minus ? -*v : *v;
    char next = j->at < j->n ? j->p[j->at] : 0;
    if (j->at == start || next == '.' || next == 'e' || next == 'E' ||
        (next >= '0' && next <= '9')) {
        mk_jscan_fail(j, "a whole number");
        return false;
    }
    return true;
}

static bool in_number(char c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

// The characters of a number, read by strtod with the decimal point of the locale (a program may
// have set one).
bool mk_jscan_number(mk_jscan *j, double *v) {
    char c = mk_jscan_peek(j);
    char tmp[64];
    size_t k = 0;
    while (j->at + k < j->n && k < sizeof tmp - 1 && in_number(j->p[j->at + k])) {
        tmp[k] = j->p[j->at + k];
        k++;
    }
    tmp[k] = 0;
    char *end = tmp;
    *v = 0;
    if (j->st == MK_OK && (c == '-' || (c >= '0' && c <= '9'))) {
        *v = strtod(tmp, &end);
        char *dot = strchr(tmp, '.');
        if (dot && end == dot) {
            *dot = ',';
            *v = strtod(tmp, &end);
        }
    }
    if (end == tmp || *end != 0) {
        mk_jscan_fail(j, "a number");
        return false;
    }
    j->at += k;
    return true;
}

static bool skip_string(mk_jscan *j) {
    const char *p = j->p;
    size_t i = j->at + 1, n = j->n;
    while (i < n && p[i] != '"') {
        i += p[i] == '\\' ? 2 : 1;
    }
    j->at = i < n ? i + 1 : n;
    if (i >= n) {
        mk_jscan_fail(j, "the end of a string");
    }
    return i < n;
}

// Brackets are only counted here; whoever reads the range checks what is inside.
mk_jrange mk_jscan_skip(mk_jscan *j) {
    char open[MAX_DEPTH];
    size_t depth = 0;
    char c = mk_jscan_peek(j);
    mk_jrange r = {j->at, 0};
    do {
        c = mk_jscan_peek(j);
        if (c == '"') {
            if (!skip_string(j)) {
                return r;
            }
        } else if (c == '{' || c == '[') {
            if (depth == MAX_DEPTH) {
                mk_jscan_fail(j, "at most 64 levels");
                return r;
            }
            open[depth++] = c == '{' ? '}' : ']';
            j->at++;
        } else if (c == '}' || c == ']') {
            if (depth == 0 || open[--depth] != c) {
                mk_jscan_fail(j, "a value");
                return r;
            }
            j->at++;
        } else if (c == 0 || (depth == 0 && (c == ',' || c == ':'))) {
            mk_jscan_fail(j, "a value");
            return r;
        } else if (depth > 0) {
            j->at++;
        } else {
            while (j->at < j->n && !strchr(",]} \n\r\t", j->p[j->at])) {
                j->at++;
            }
        }
    } while (depth > 0);
    r.n = j->at - r.at;
    return r;
}
