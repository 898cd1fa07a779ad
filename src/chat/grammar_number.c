// Numbers between bounds, digit by digit.
//
// A number is a whole part of at most 18 digits and a fraction of at most 17, so that every reader
// of JSON gets the value that was written.  Without bounds it may have an exponent; with bounds it
// may not.  Negative ranges are mirrored: -y with y between the bounds' opposites.
#include <string.h>

#include "chat/grammar_int.h"

enum { MAX_WHOLE = 18, MAX_FRACTION = 17 };
#define WHOLE_LIMIT UINT64_C(999999999999999999)

static mk_gn digit(mk_gb *b, int lo, int hi) {
    return lo > hi ? MK_GN_NONE : mk_gb_range(b, (unsigned)('0' + lo), (unsigned)('0' + hi));
}

static mk_gn digits(mk_gb *b, uint32_t min, uint32_t max) {
    return mk_gb_repeat(b, digit(b, 0, 9), min, max);
}

static mk_gn alt2(mk_gb *b, mk_gn x, mk_gn y) {
    if (x == MK_GN_NONE || y == MK_GN_NONE) {
        return x == MK_GN_NONE ? y : x;
    }
    return mk_gb_alt2(b, x, y);
}

static mk_gn any_whole(mk_gb *b) {
    mk_gn more = mk_gb_seq2(b, digit(b, 1, 9), digits(b, 0, MAX_WHOLE - 1));
    return mk_gb_alt2(b, mk_gb_text(b, "0"), more);
}

static mk_gn any_fraction(mk_gb *b) {
    mk_gn f = mk_gb_seq2(b, mk_gb_text(b, "."), digits(b, 1, MAX_FRACTION));
    return mk_gb_repeat(b, f, 0, 1);
}

mk_gn mk_gb_json_integer(mk_gb *b) {
    return mk_gb_seq2(b, mk_gb_repeat(b, mk_gb_text(b, "-"), 0, 1), any_whole(b));
}

mk_gn mk_gb_json_number(mk_gb *b) {
    mk_gn sign = mk_gb_repeat(b, mk_gb_oneof(b, "+-"), 0, 1);
    mk_gn power = mk_gb_seq3(b, mk_gb_oneof(b, "eE"), sign, digits(b, 1, 2));
    mk_gn rest = mk_gb_seq2(b, any_fraction(b), mk_gb_repeat(b, power, 0, 1));
    return mk_gb_seq2(b, mk_gb_json_integer(b), rest);
}

// --- whole numbers -------------------------------------------------------------------------------
// Numbers of as many digits as lo and hi, from digit i on: at least lo, at most hi; NULL: no bound.
static mk_gn same_length(mk_gb *b, const char *lo, const char *hi, size_t i, size_t n) {
    if (i == n) {
        return MK_GN_EMPTY;
    }
    if (lo == NULL && hi == NULL) {
        return digits(b, (uint32_t)(n - i), (uint32_t)(n - i));
    }
    int l = lo != NULL ? lo[i] - '0' : -1, h = hi != NULL ? hi[i] - '0' : 10;
    if (l == h) {
        return mk_gb_seq2(b, digit(b, l, l), same_length(b, lo, hi, i + 1, n));
    }
    mk_gn out = MK_GN_NONE;
    if (lo != NULL) {
        out = mk_gb_seq2(b, digit(b, l, l), same_length(b, lo, NULL, i + 1, n));
    }
    mk_gn mid = digit(b, l + 1, h - 1);
    if (mid != MK_GN_NONE) {
        out = alt2(b, out, mk_gb_seq2(b, mid, same_length(b, NULL, NULL, i + 1, n)));
    }
    if (hi != NULL) {
        out = alt2(b, out, mk_gb_seq2(b, digit(b, h, h), same_length(b, NULL, hi, i + 1, n)));
    }
    return out;
}

static size_t write_whole(uint64_t x, char out[24]) {
    char back[24];
    size_t n = 0;
    do {
        back[n++] = (char)('0' + x % 10);
        x /= 10;
    } while (x > 0);
    for (size_t i = 0; i < n; i++) {
        out[i] = back[n - 1 - i];
    }
    return n;
}

static mk_gn whole_between(mk_gb *b, uint64_t lo, uint64_t hi) {
    char l[24], h[24];
    mk_gn out = MK_GN_NONE;
    if (lo > hi) {
        return out;
    }
    size_t n_lo = write_whole(lo, l), n_hi = write_whole(hi, h);
    for (size_t n = n_lo; n <= n_hi; n++) {
        char from[24], to[24];
        memset(from, '0', n);
        memset(to, '9', n);
        from[0] = '1';
        out = alt2(b, out, same_length(b, n == n_lo ? l : from, n == n_hi ? h : to, 0, n));
    }
    return out;
}

// --- fractions -----------------------------------------------------------------------------------
// Digits behind the point, from digit i of the bounds on.  lo and hi have no zeros at their ends;
// past its end a bound goes on with zeros.  NULL: no bound any more.
typedef struct {
    const char *lo, *hi;
    bool open_lo, open_hi;
} fraction;

static bool at_end(const char *x, size_t i) {
    return strlen(x) <= i;
}

// What may follow i digits that were equal to the bounds that are left.
static mk_gn fraction_tail(mk_gb *b, fraction f, size_t i) {
    bool lo_done = f.lo != NULL && at_end(f.lo, i), hi_done = f.hi != NULL && at_end(f.hi, i);
    if (lo_done && !f.open_lo) {
        f.lo = NULL;  // equal is enough, and more digits only add
    }
    if (f.lo == NULL && f.hi == NULL) {
        return digits(b, 0, MAX_FRACTION);
    }
    if (hi_done) {  // nothing but zeros, if the bound itself is inside
        bool none = f.open_hi || f.lo != NULL;
        return none ? MK_GN_NONE : mk_gb_repeat(b, mk_gb_text(b, "0"), 0, MAX_FRACTION);
    }
    if (f.lo != NULL && lo_done && f.hi == NULL) {  // some digit must not be zero
        mk_gn zeros = mk_gb_repeat(b, mk_gb_text(b, "0"), 0, MAX_FRACTION - 1);
        return mk_gb_seq3(b, zeros, digit(b, 1, 9), digits(b, 0, MAX_FRACTION));
    }
    int l = f.lo == NULL ? -1 : lo_done ? 0 : f.lo[i] - '0';
    int h = f.hi == NULL ? 10 : f.hi[i] - '0';
    mk_gn out = f.lo == NULL ? MK_GN_EMPTY : MK_GN_NONE;  // stopping here is less than hi
    fraction low = {f.lo, NULL, f.open_lo, false}, high = {NULL, f.hi, false, f.open_hi};
    if (l == h) {
        return alt2(b, out, mk_gb_seq2(b, digit(b, l, l), fraction_tail(b, f, i + 1)));
    }
    if (l >= 0) {
        out = alt2(b, out, mk_gb_seq2(b, digit(b, l, l), fraction_tail(b, low, i + 1)));
    }
    mk_gn mid = digit(b, l + 1, h - 1);
    if (mid != MK_GN_NONE) {
        out = alt2(b, out, mk_gb_seq2(b, mid, digits(b, 0, MAX_FRACTION)));
    }
    if (h <= 9) {
        out = alt2(b, out, mk_gb_seq2(b, digit(b, h, h), fraction_tail(b, high, i + 1)));
    }
    return out;
}

// The point and what is behind it, or nothing where the whole number lies in the bounds.
static mk_gn fraction_between(mk_gb *b, fraction f) {
    bool lo_ok = f.lo == NULL || (f.lo[0] == '\0' && !f.open_lo);
    bool hi_ok = f.hi == NULL || f.hi[0] != '\0' || !f.open_hi;
    int l = f.lo == NULL || f.lo[0] == '\0' ? 0 : f.lo[0] - '0';
    int h = f.hi == NULL ? 9 : f.hi[0] == '\0' ? 0 : f.hi[0] - '0';
    mk_gn first = MK_GN_NONE;  // a point needs a digit behind it
    for (int d = l; d <= h; d++) {
        fraction g = {d == l ? f.lo : NULL, d == h ? f.hi : NULL, f.open_lo, f.open_hi};
        mk_gn rest = fraction_tail(b, g, 1);
        if (rest != MK_GN_NONE) {
            first = alt2(b, first, mk_gb_seq2(b, digit(b, d, d), rest));
        }
    }
    mk_gn with = mk_gb_seq2(b, mk_gb_text(b, "."), first);
    return lo_ok && hi_ok ? alt2(b, MK_GN_EMPTY, with) : with;
}

// --- ranges --------------------------------------------------------------------------------------
typedef struct {
    bool is, negative, open;
    uint64_t whole;
    char fraction[64];
} bound;

static bool read_bound(mk_gb *b, const char *where, const char *text, bool open, bound *out) {
    *out = (bound){.is = text != NULL, .open = open};
    if (text == NULL) {
        return true;
    }
    out->negative = *text == '-';
    text += out->negative;
    for (; *text >= '0' && *text <= '9'; text++) {
        out->whole = out->whole * 10 + (uint64_t)(*text - '0');
        if (out->whole > WHOLE_LIMIT) {
            out->whole = WHOLE_LIMIT + 1;
        }
    }
    size_t n = *text == '.' ? strlen(text + 1) : 0;
    if (n >= sizeof(out->fraction)) {
        MK_GB_FAIL(b, MK_EUNSUPPORTED, "%s: a bound with more than %zu digits", where,
                   sizeof(out->fraction) - 1);
        return false;
    }
    memcpy(out->fraction, text + 1, n);
    while (n > 0 && out->fraction[n - 1] == '0') {
        n--;
    }
    out->fraction[n] = '\0';
    return true;
}

static mk_gn whole_range(mk_gb *b, const bound *lo, const bound *hi) {
    uint64_t from = lo->whole, to = hi->is ? hi->whole : WHOLE_LIMIT;
    if (lo->open || lo->fraction[0] != '\0') {
        from++;
    }
    if (hi->is && hi->fraction[0] == '\0' && hi->open) {
        if (to == 0) {
            return MK_GN_NONE;
        }
        to--;
    }
    return whole_between(b, from, to > WHOLE_LIMIT ? WHOLE_LIMIT : to);
}

// lo..hi, both not negative; hi may be missing.
static mk_gn positive(mk_gb *b, const bound *lo, const bound *hi, bool integer) {
    if (integer) {
        return whole_range(b, lo, hi);
    }
    if (hi->is && hi->whole < lo->whole) {
        return MK_GN_NONE;
    }
    fraction f = {lo->fraction, NULL, lo->open, false};
    if (hi->is && hi->whole == lo->whole) {
        if (strcmp(lo->fraction, hi->fraction) > 0) {
            return MK_GN_NONE;
        }
        f.hi = hi->fraction;
        f.open_hi = hi->open;
        mk_gn both = fraction_between(b, f);
        return mk_gb_seq2(b, whole_between(b, lo->whole, lo->whole), both);
    }
    mk_gn out = mk_gb_seq2(b, whole_between(b, lo->whole, lo->whole), fraction_between(b, f));
    uint64_t to = hi->is && hi->whole <= WHOLE_LIMIT ? hi->whole - 1 : WHOLE_LIMIT;
    mk_gn between = whole_between(b, lo->whole + 1, to);
    out = alt2(b, out, mk_gb_seq2(b, between, any_fraction(b)));
    if (hi->is && hi->whole <= WHOLE_LIMIT) {
        f = (fraction){NULL, hi->fraction, false, hi->open};
        mk_gn last = mk_gb_seq2(b, whole_between(b, hi->whole, hi->whole), fraction_between(b, f));
        out = alt2(b, out, last);
    }
    return out;
}

mk_gn mk_gb_number(mk_gb *b, const mk_gbounds *o) {
    bound lo, hi, zero = {.is = true};
    if (!read_bound(b, o->where, o->min, o->open_min, &lo) ||
        !read_bound(b, o->where, o->max, o->open_max, &hi)) {
        return MK_GN_EMPTY;
    }
    if ((lo.is && !lo.negative && lo.whole > WHOLE_LIMIT) ||
        (hi.is && hi.negative && hi.whole > WHOLE_LIMIT)) {
        MK_GB_FAIL(b, MK_EUNSUPPORTED, "%s: numbers of more than %d digits are not written",
                   o->where, MAX_WHOLE);
        return MK_GN_EMPTY;
    }
    mk_gn above = MK_GN_NONE, below = MK_GN_NONE;
    if (!hi.is || !hi.negative) {
        above = positive(b, lo.is && !lo.negative ? &lo : &zero, &hi, o->integer);
    }
    if (!lo.is || lo.negative) {  // -y; there is no -0
        zero.open = true;
        lo.negative = false;
        below = positive(b, hi.is && hi.negative ? &hi : &zero, &lo, o->integer);
        below = mk_gb_seq2(b, mk_gb_text(b, "-"), below);
    }
    return alt2(b, above, below);
}
