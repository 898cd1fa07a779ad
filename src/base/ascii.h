// Characters of ASCII by what they mean, whatever the locale.
#ifndef MK_BASE_ASCII_H
#define MK_BASE_ASCII_H

// Value of a hexadecimal digit, or -1.
static inline int mk_hex_digit(char c) {
    char lower = (char)(c | 0x20);
    return c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

#endif
