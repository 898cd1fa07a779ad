// One step of arithmetic, written so that each sign follows from a few others near it.
//
// Signs first: -3+5 becomes =5-3, 3-5 becomes =-(5-3), so that only x+y, x-y with x >= y, and x*y
// of numbers without sign are worked out.  One digit with one digit is known by heart; else the
// columns are written from the units up, each with its carry (total of the column) or with ' for a
// borrowed ten; the result is the last column whole and the last digits of the others.  A product
// of longer numbers is split into products with one digit, and their sum.
#include "expression.h"

#include <stdlib.h>

int64_t pz_compute(char op, int64_t a, int64_t b) {
    return op == '+' ? a + b : op == '-' ? a - b : a * b;
}

static int digit(int64_t x, int i) {
    for (; i > 0; i--) {
        x /= 10;
    }
    return (int)(x % 10);
}

static int n_digit(int64_t x) {
    int n = 1;
    for (; x >= 10; x /= 10) {
        n++;
    }
    return n;
}

static int max_int(int a, int b) {
    return a > b ? a : b;
}

// total of a column after a slip: a carry forgotten, the neighbour in the table, or one beside
static int slipped(pz_rng *r, char op, int total, int carry, int d) {
    int how = pz_below(r, 3), v = total;
    if (how == 0 && carry > 0) {
        v = total - carry;
    } else if (how == 1 && op == '*' && d > 0) {
        v = pz_chance(r, 0.5) ? total + d : total - d;
    } else {
        v = pz_chance(r, 0.5) ? total + 1 : total - 1;
    }
    return v >= 0 && v != total ? v : total + 1;
}

typedef struct {
    char op;
    int64_t x, y;    // y: one digit for '*'
    int n_col, bad;  // the column with the slip, or -1
} columns;

// Writes the columns of x op y and returns the number that they make.
static int64_t write_columns(const pz_pen *pen, columns c) {
    int64_t value = 0, place = 1;
    int carry = 0;
    for (int i = 0; i < c.n_col; i++) {
        int xi = digit(c.x, i), yi = c.op == '*' ? (int)c.y : digit(c.y, i), total;
        bool borrow = false;
        if (c.op == '-') {
            total = xi - yi - carry;
            borrow = total < 0;
            total += borrow ? 10 : 0;
            total = i == c.bad ? (total + (pz_chance(pen->rng, 0.5) ? 1 : 9)) % 10 : total;
        } else {
            total = c.op == '*' ? xi * yi + carry : xi + yi + carry;
            total = i == c.bad ? slipped(pen->rng, c.op, total, carry, yi) : total;
        }
        if (!pen->brief) {
            mk_buf_printf(pen->out, "%s%d%s", i ? " " : ":", total, borrow ? "'" : "");
        }
        carry = c.op == '-' ? borrow : total / 10;
        value += place * (i + 1 < c.n_col && c.op != '-' ? total % 10 : total);
        place *= 10;
    }
    return value;
}

static int pick_column(const pz_pen *pen, bool bad, int n_col) {
    return bad ? pz_below(pen->rng, n_col) : -1;
}

// x*y with y one digit, or one digit and a zero
static int64_t write_product(const pz_pen *pen, int64_t x, int64_t y, bool bad) {
    int64_t ten = y >= 10 ? 10 : 1;
    int n = n_digit(x);
    return ten * write_columns(pen, (columns){'*', x, y / ten, n, pick_column(pen, bad, n)});
}

static int64_t write_sum(const pz_pen *pen, char op, int64_t x, int64_t y, bool bad) {
    int n = max_int(n_digit(x), n_digit(y));
    return write_columns(pen, (columns){op, x, y, n, pick_column(pen, bad, n)});
}

static void write_part(const pz_pen *pen, char op, int64_t x, int64_t y) {
    mk_buf_printf(pen->out, "%lld%c%lld", (long long)x, op, (long long)y);
}

static void write_end(const pz_pen *pen, int64_t v) {
    mk_buf_printf(pen->out, "=%lld", (long long)v);
}

// x*y, y = two digits, none of them zero at the end: :x*y0:...;x*y1:...;sum:... without the result
static int64_t write_long(const pz_pen *pen, int64_t x, int64_t y, bool bad) {
    int where = bad ? pz_below(pen->rng, 3) : -1;
    pz_pen p = *pen;
    mk_buf_putc(p.out, ':');
    write_part(&p, '*', x, y - y % 10);
    int64_t tens = write_product(&p, x, y - y % 10, where == 0);
    write_end(&p, tens);
    mk_buf_putc(p.out, ';');
    write_part(&p, '*', x, y % 10);
    int64_t units = write_product(&p, x, y % 10, where == 1);
    write_end(&p, units);
    mk_buf_putc(p.out, ';');
    write_part(&p, '+', tens, units);
    return write_sum(&p, '+', tens, units, where == 2);
}

static int64_t by_heart(const pz_pen *pen, char op, int64_t x, int64_t y, bool bad) {
    int64_t v = pz_compute(op, x, y);
    if (!bad) {
        return v;
    }
    int64_t by = op == '*' && x > 0 ? (pz_chance(pen->rng, 0.5) ? x : y) : 1;
    by = by > 0 ? by : 1;
    return v >= by && pz_chance(pen->rng, 0.5) ? v - by : v + by;
}

static bool is_round(int64_t y) {
    return y < 10 || (y < 100 && y % 10 == 0);
}

// The work on numbers without sign; returns what it came to.
static int64_t write_work(const pz_pen *pen, char op, int64_t x, int64_t y, bool bad) {
    if (x < 10 && y < 10) {
        return by_heart(pen, op, x, y, bad);
    }
    if (op != '*') {
        return write_sum(pen, op, x, y, bad);
    }
    if (y < 10 || (x >= 10 && is_round(y))) {
        return write_product(pen, x, y, bad);
    }
    if (is_round(x)) {
        return write_product(pen, y, x, bad);
    }
    if (pen->brief) {
        return x * y + (bad ? (pz_chance(pen->rng, 0.5) ? 10 : -10) : 0);
    }
    return y < 100 ? write_long(pen, x, y, bad) : write_long(pen, y, x, bad);
}

// A slip in copying the result: a digit changed, or two swapped.
static int64_t miscopy(pz_rng *r, int64_t v) {
    int64_t place = 1;
    for (int i = pz_below(r, n_digit(v)); i > 0; i--) {
        place *= 10;
    }
    int64_t d = v / place % 10, above = v / place / 10 % 10;
    if (above != d && above + d > 0 && v / place >= 10 && pz_chance(r, 0.4)) {
        return v + (above - d) * place + (d - above) * place * 10;
    }
    int64_t other = (d + 1 + pz_below(r, 9)) % 10;
    return v + (other - d) * place;
}

int64_t pz_write_step(const pz_pen *pen, char op, int64_t a, int64_t b, pz_slip slip) {
    int64_t x = llabs(a), y = llabs(b);
    bool negative = op == '*' && (a < 0) != (b < 0) && a != 0 && b != 0;
    char sign = op;
    if (op != '*') {
        bool minus = op == '-' ? b >= 0 : b < 0;  // of the second number, as it is added
        sign = (a < 0) == minus ? '+' : '-';
        negative = a < 0;
        if (sign == '-' && (y > x || (y == x && a < 0))) {
            x = llabs(b);
            y = llabs(a);
            negative = minus && y != x;
        }
    }
    write_part(pen, op, a, b);
    bool shown = negative && slip != PZ_SLIP_SIGN;
    if (shown || sign != op || x != a || y != b) {
        mk_buf_puts(pen->out, shown ? "=-(" : "=");
        write_part(pen, sign, x, y);
        mk_buf_puts(pen->out, shown ? ")" : "");
    }
    int64_t v = write_work(pen, sign, x, y, slip == PZ_SLIP_FACT);
    v = slip == PZ_SLIP_RESULT ? miscopy(pen->rng, v) : v;
    v = shown ? -v : v;
    write_end(pen, v);
    return v;
}

// Writes n, and the sums of its digits until one digit is left.
static int64_t write_root(const pz_pen *pen, int64_t n) {
    mk_buf_printf(pen->out, "%lld", (long long)n);
    while (n >= 10) {
        int64_t s = 0;
        for (int64_t k = n; k > 0; k /= 10) {
            s += k % 10;
        }
        n = s;
        write_end(pen, n);
    }
    return n;
}

// Casting out nines: the digital root of a product is the root of the product of the roots.
static bool check_product(const pz_pen *pen, int64_t a, int64_t b, int64_t r) {
    int64_t x = write_root(pen, llabs(a));
    mk_buf_putc(pen->out, ' ');
    int64_t y = write_root(pen, llabs(b));
    mk_buf_putc(pen->out, ' ');
    write_part(pen, '*', x, y);
    mk_buf_putc(pen->out, '=');
    int64_t want = write_root(pen, x * y);
    mk_buf_putc(pen->out, ' ');
    return write_root(pen, llabs(r)) == want;
}

bool pz_write_check(const pz_pen *pen, char op, int64_t a, int64_t b, int64_t r) {
    mk_buf_puts(pen->out, "check ");
    bool ok = op == '*' ? check_product(pen, a, b, r)
                        : pz_write_step(pen, op == '+' ? '-' : '+', r, b, PZ_NO_SLIP) == a;
    mk_buf_puts(pen->out, ok ? " ok\n" : " wait\n");
    return ok;
}
