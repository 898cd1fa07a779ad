// A pushdown machine: one state for what may come next, a stack of open brackets.
#include "chat/json_feed.h"

#include <stdio.h>
#include <string.h>

#include "base/ascii.h"

enum {
    VALUE,
    FIRST_KEY,   // behind '{'
    KEY,         // behind ',' in an object
    COLON,       //
    FIRST_ITEM,  // behind '['
    AFTER,       // behind a value inside a container
    STRING,
    ESCAPE,
    HEX,
    WORD,   // true, false, null
    MINUS,  // numbers: what stood last
    ZERO,
    INTEGER,
    POINT,
    FRACTION,
    EXP,
    EXP_SIGN,
    EXP_DIGITS,
    DONE,
    BAD
};

static bool is_space(char ch) {
    return ch == ' ' || ch == '\n' || ch == '\t' || ch == '\r';
}

static bool is_digit(char ch) {
    return ch >= '0' && ch <= '9';
}

void mk_json_feed_init(mk_json_feed *f) {
    memset(f, 0, sizeof *f);
    f->state = VALUE;
}

static uint8_t value_ended(const mk_json_feed *f) {
    return f->depth > 0 ? AFTER : DONE;
}

static uint8_t open_container(mk_json_feed *f, char ch) {
    if (f->depth == MK_JSON_FEED_DEPTH) {
        return BAD;
    }
    f->open[f->depth++] = ch;
    return ch == '{' ? FIRST_KEY : FIRST_ITEM;
}

static uint8_t close_container(mk_json_feed *f, char ch) {
    if (f->depth == 0 || f->open[f->depth - 1] != (ch == '}' ? '{' : '[')) {
        return BAD;
    }
    f->depth--;
    return value_ended(f);
}

static uint8_t begin_value(mk_json_feed *f, char ch) {
    switch (ch) {
    case '{':
    case '[':
        return open_container(f, ch);
    case '"':
        f->is_key = false;
        return STRING;
    case '-':
        return MINUS;
    case '0':
        return ZERO;
    case 't':
        f->word = "rue";
        return WORD;
    case 'f':
        f->word = "alse";
        return WORD;
    case 'n':
        f->word = "ull";
        return WORD;
    default:
        return is_digit(ch) ? INTEGER : BAD;
    }
}

static uint8_t in_string(mk_json_feed *f, char ch) {
    if (ch == '"') {
        return f->is_key ? COLON : value_ended(f);
    }
    return ch == '\\' ? ESCAPE : STRING;
}

static uint8_t in_escape(mk_json_feed *f, char ch) {
    if (ch == 'u') {
        f->n_hex = 4;
        return HEX;
    }
    return ch != 0 && strchr("\"\\/bfnrt", ch) ? STRING : BAD;
}

static uint8_t in_container(mk_json_feed *f, char ch) {
    if (ch == ',') {
        return f->open[f->depth - 1] == '{' ? KEY : VALUE;
    }
    return ch == '}' || ch == ']' ? close_container(f, ch) : BAD;
}

static bool number_whole(uint8_t state) {
    return state == ZERO || state == INTEGER || state == FRACTION || state == EXP_DIGITS;
}

// The state behind ch, or BAD if ch does not belong to the number.
static uint8_t in_number(uint8_t state, char ch) {
    bool e = ch == 'e' || ch == 'E';
    switch (state) {
    case MINUS:
        return ch == '0' ? ZERO : is_digit(ch) ? INTEGER : BAD;
    case ZERO:
        return ch == '.' ? POINT : e ? EXP : BAD;
    case INTEGER:
        return is_digit(ch) ? INTEGER : ch == '.' ? POINT : e ? EXP : BAD;
    case POINT:
        return is_digit(ch) ? FRACTION : BAD;
    case FRACTION:
        return is_digit(ch) ? FRACTION : e ? EXP : BAD;
    case EXP:
        return is_digit(ch) ? EXP_DIGITS : ch == '+' || ch == '-' ? EXP_SIGN : BAD;
    default:
        return is_digit(ch) ? EXP_DIGITS : BAD;
    }
}

static uint8_t next_state(mk_json_feed *f, char ch) {
    if (f->state >= MINUS && f->state <= EXP_DIGITS) {
        uint8_t s = in_number(f->state, ch);
        if (s != BAD || !number_whole(f->state)) {
            return s;
        }
        f->state = value_ended(f);  // the number ended before ch
    }
    switch (f->state) {
    case STRING:
        return in_string(f, ch);
    case ESCAPE:
        return in_escape(f, ch);
    case HEX:
        return mk_hex_digit(ch) < 0 ? BAD : --f->n_hex == 0 ? STRING : HEX;
    case WORD:
        return *f->word != ch ? BAD : *++f->word == 0 ? value_ended(f) : WORD;
    default:
        break;
    }
    if (is_space(ch)) {
        return f->state;
    }
    switch (f->state) {
    case VALUE:
        return begin_value(f, ch);
    case FIRST_ITEM:
        return ch == ']' ? close_container(f, ch) : begin_value(f, ch);
    case FIRST_KEY:
    case KEY:
        f->is_key = true;
        return ch == '"'                            ? STRING
               : ch == '}' && f->state == FIRST_KEY ? close_container(f, ch)
                                                    : BAD;
    case COLON:
        return ch == ':' ? VALUE : BAD;
    case AFTER:
        return in_container(f, ch);
    default:
        return BAD;
    }
}

mk_feed_result mk_json_feed_byte(mk_json_feed *f, char ch, mk_buf *out) {
    bool inside = f->state == STRING;
    if (inside && (unsigned char)ch < 0x20) {
        if (out) {
            mk_buf_printf(out, "\\u%04x", (unsigned)(unsigned char)ch);
        }
        return MK_FEED_GO;
    }
    bool was_done = f->state == DONE;
    f->state = next_state(f, ch);
    if (f->state == BAD) {
        return MK_FEED_BAD;
    }
    if (out) {
        mk_buf_putc(out, ch);
    }
    return f->state == DONE && !was_done ? MK_FEED_DONE : MK_FEED_GO;
}

bool mk_json_feed_whole(const mk_json_feed *f) {
    return f->state == DONE || (f->depth == 0 && number_whole(f->state));
}

bool mk_json_is_value(const char *p, size_t n, mk_buf *out) {
    mk_json_feed f;
    mk_json_feed_init(&f);
    while (n > 0 && is_space(p[0])) {
        p++;
        n--;
    }
    while (n > 0 && is_space(p[n - 1])) {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        if (mk_json_feed_byte(&f, p[i], NULL) == MK_FEED_BAD) {
            return false;
        }
    }
    if (!mk_json_feed_whole(&f)) {
        return false;
    }
    mk_json_feed_init(&f);
    for (size_t i = 0; i < n && out; i++) {
        (void)mk_json_feed_byte(&f, p[i], out);
    }
    return true;
}

// --- strings -------------------------------------------------------------------------------------

static size_t put_code(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    out[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | c);
    return n;
}

// A code unit; halves of a pair wait for each other, a lone one becomes U+FFFD.
static size_t put_unit(mk_json_unescape *u, uint32_t c, char *out) {
    size_t n = 0;
    uint32_t high = u->high;
    u->high = 0;
    if (high && c >= 0xDC00 && c < 0xE000) {
        return put_code(0x10000 + ((high - 0xD800) << 10) + (c - 0xDC00), out);
    }
    n += high ? put_code(0xFFFD, out) : 0;
    if (c >= 0xD800 && c < 0xDC00) {
        u->high = c;
        return n;
    }
    return n + put_code(c >= 0xDC00 && c < 0xE000 ? 0xFFFD : c, out + n);
}

mk_feed_result mk_json_unescape_byte(mk_json_unescape *u, char ch, char out[8], size_t *n_out) {
    *n_out = 0;
    if (u->n_hex > 0) {
        int digit = mk_hex_digit(ch);
        if (digit < 0) {
            return MK_FEED_BAD;
        }
        u->code = u->code << 4 | (uint32_t)digit;
        *n_out = --u->n_hex == 0 ? put_unit(u, u->code, out) : 0;
        return MK_FEED_GO;
    }
    if (u->escape) {
        static const char names[] = "\"\\/bfnrt", codes[] = "\"\\/\b\f\n\r\t";
        u->escape = false;
        if (ch == 'u') {
            u->n_hex = 4;
            u->code = 0;
            return MK_FEED_GO;
        }
        const char *at = ch != 0 ? strchr(names, ch) : NULL;
        if (!at) {
            return MK_FEED_BAD;
        }
        *n_out = put_unit(u, (uint32_t)(unsigned char)codes[at - names], out);
        return MK_FEED_GO;
    }
    if (ch == '\\') {
        u->escape = true;
        return MK_FEED_GO;
    }
    *n_out = u->high ? put_code(0xFFFD, out) : 0;
    u->high = 0;
    if (ch == '"') {
        return MK_FEED_DONE;
    }
    out[(*n_out)++] = ch;
    return MK_FEED_GO;
}
