// A place in the text of a grammar, and the small steps from it that its notations share (GBNF and
// regular expressions).  Nothing reads beyond the end; what a failure means is the caller's to say.
#ifndef MK_CHAT_GRAMMAR_SCAN_H
#define MK_CHAT_GRAMMAR_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *p;  // borrowed
    size_t n, at;
} mk_gscan;

bool mk_gscan_sees(const mk_gscan *s, const char *text);  // text stands here
bool mk_gscan_take(mk_gscan *s, const char *text);        // and is stepped over
// One character of UTF-8.  NULL, or what is wrong: then nothing was taken.
const char *mk_gscan_char(mk_gscan *s, uint32_t *cp);
// Hexadecimal digits, max (<= 8) at most; how many there were.
int mk_gscan_hex(mk_gscan *s, int max, uint32_t *out);
// A decimal number, cut to MK_G_MAX_REPEAT; false if no digit stands here.
bool mk_gscan_number(mk_gscan *s, uint32_t *out);

#endif
