// A growable byte buffer with a maximum, for building text and binary output.
//
// Sticky: once a write does not fit (over max_bytes, or out of memory) `failed` is set and every
// later write is ignored, so a builder writes freely and checks once.  data[len] is always a NUL
// byte when data is not NULL.
#ifndef MK_BASE_BUF_H
#define MK_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

typedef struct {
    char *data;
    size_t len, cap, max_bytes;
    bool failed;
} mk_buf;

void mk_buf_init(mk_buf *b, size_t max_bytes);
// also after failure; leaves an empty, reusable buffer with the same maximum
void mk_buf_free(mk_buf *b);
void mk_buf_clear(mk_buf *b);  // len = 0, failed = false, keeps the memory
void mk_buf_add(mk_buf *b, const void *p, size_t n);
void mk_buf_puts(mk_buf *b, const char *s);
void mk_buf_putc(mk_buf *b, char c);
void mk_buf_printf(mk_buf *b, const char *fmt, ...) MK_PRINTF(2, 3);
void mk_buf_utf8(mk_buf *b, uint32_t cp);  // encodes one code point (must be <= 0x10FFFF)
// hands the memory to the caller (mk_free); NULL if failed
char *mk_buf_detach(mk_buf *b);

#endif
