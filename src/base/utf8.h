// UTF-8: strict decoding (no overlong forms, no surrogates, at most U+10FFFF).  Source: RFC 3629.
#ifndef MK_BASE_UTF8_H
#define MK_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Decodes one code point from p[0..n).  Returns its length 1..4 and sets *cp; returns 0 if n == 0
// and -1 if the bytes are not valid UTF-8 (then *cp = U+FFFD and the caller should step over one
// byte).
int mk_utf8_decode(const char *p, size_t n, uint32_t *cp);
int mk_utf8_encode(uint32_t cp, char out[4]);  // length 1..4; U+FFFD for an invalid code point
bool mk_utf8_valid(const char *p, size_t n);
// Offset of the first invalid byte, or n.
size_t mk_utf8_first_invalid(const char *p, size_t n);
// Number of bytes at the end of p[0..n) that are the start of a character not yet complete (0..3).
size_t mk_utf8_incomplete_tail(const char *p, size_t n);
// Control characters (C0, DEL, C1), separators of lines and paragraphs, and the marks that reorder
// or hide text.
bool mk_utf8_hostile(uint32_t cp);
// Replaces, in place, every byte of control characters, of marks that reorder text and of invalid
// sequences by '?', so that text from outside cannot drive the terminal.  Newlines are replaced
// too.
void mk_utf8_make_printable(char *p, size_t n);

#endif
